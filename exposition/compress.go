package exposition

import (
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// compress wraps out; end ends what it wrapped with, and writes what is left.
func compress(out io.Writer, enc encoding) (in io.Writer, end func() error) {
	b := &bundled{w: out}
	switch enc {
	case gzipped:
		z := &gzipper{out: b, held: (*heldBuffers.Get().(*[]byte))[:0]}
		return z, func() error { return errors.Join(z.close(), b.flush()) }
	case zstdized:
		w := zstds.Get().(*zstd.Encoder)
		w.Reset(b)
		return w, func() error {
			err := errors.Join(w.Close(), b.flush())
			zstds.Put(w)
			return err
		}
	}
	return out, func() error { return nil }
}

const (
	// heldBytes is up to what size a page is compressed in one piece, when it is
	// whole: most edges' own pages are so small that handing blocks around costs more
	// than compressing them.
	heldBytes = laterFlush + firstFlush + bufferExtra

	// blockBytes is what a goroutine compresses at a time, some 0.3 ms: while a page
	// is made, pushes wait for a processor about as long.
	blockBytes = 256 << 10
)

// A gzipper compresses a page: a small one at once, a large one in blocks while the
// next ones are rendered. One processor is left for the others.
type gzipper struct {
	out  io.Writer
	held []byte
	big  *pgzip.Writer
}

func (z *gzipper) Write(p []byte) (int, error) {
	if z.big == nil && len(z.held)+len(p) <= heldBytes {
		z.held = append(z.held, p...)
		return len(p), nil
	}
	if z.big == nil {
		z.big = parallel.Get().(*pgzip.Writer)
		z.big.Reset(z.out)
		if err := z.big.SetConcurrency(blockBytes, max(1, runtime.GOMAXPROCS(0)-1)); err != nil {
			return 0, err
		}
		if _, err := z.big.Write(z.held); err != nil {
			return 0, err
		}
	}
	return z.big.Write(p)
}

func (z *gzipper) close() error {
	defer heldBuffers.Put(&z.held)
	if z.big != nil {
		err := z.big.Close()
		if err != nil {
			z.big.Reset(io.Discard) // Close has left its goroutine behind
		}
		parallel.Put(z.big)
		return err
	}
	w := gzips.Get().(*gzip.Writer)
	defer gzips.Put(w)
	w.Reset(z.out)
	_, err := w.Write(z.held)
	return errors.Join(err, w.Close())
}

var (
	heldBuffers = sync.Pool{New: func() any {
		b := make([]byte, 0, heldBytes)
		return &b
	}}
	gzips = sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		return must(w, err)
	}}
	parallel = sync.Pool{New: func() any {
		w, err := pgzip.NewWriterLevel(nil, pgzip.BestSpeed)
		return must(w, err)
	}}
	zstds = sync.Pool{New: func() any {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		return must(w, err)
	}}
)

// must is for options that are constants.
func must[T any](w T, err error) T {
	if err != nil {
		panic(err)
	}
	return w
}

// bundled gathers the small pieces that compressors write.
type bundled struct {
	w   io.Writer
	buf []byte
	out bool
}

func (b *bundled) Write(p []byte) (int, error) {
	b.buf = append(b.buf, p...)
	if len(b.buf) >= 128<<10 || !b.out && len(b.buf) >= 4<<10 {
		b.out = true
		return len(p), b.flush()
	}
	return len(p), nil
}

func (b *bundled) flush() error {
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}
