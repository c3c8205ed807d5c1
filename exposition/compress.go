package exposition

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// compress wraps out; end ends what it wrapped with, and writes what is left. workers
// is how many goroutines may compress beside the one that writes; 0: it does so itself.
func compress(out io.Writer, enc encoding, workers int) (in io.Writer, end func() error) {
	b := &bundled{w: out}
	switch enc {
	case gzipped:
		z := &gzipper{out: b, workers: workers, held: (*heldBuffers.Get().(*[]byte))[:0]}
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

	// blockBytes is what a worker compresses at a time, some 0.6 ms. Each block looks at
	// the end of the one before, too: half the size costs a twelfth more.
	blockBytes = 512 << 10
)

// A gzipper compresses a page: a small one at once; a large one in blocks while the
// next ones are rendered, where there are workers.
type gzipper struct {
	out     io.Writer
	workers int
	held    []byte         // the page, until
	w       io.WriteCloser // it is large, or whole
}

func (z *gzipper) Write(p []byte) (int, error) {
	if z.w == nil {
		if len(z.held)+len(p) <= heldBytes {
			z.held = append(z.held, p...)
			return len(p), nil
		}
		if err := z.begin(z.workers); err != nil {
			return 0, err
		}
	}
	return z.w.Write(p)
}

// begin begins to compress, with what is held.
func (z *gzipper) begin(workers int) error {
	if workers == 0 {
		w := gzips.Get().(*gzip.Writer)
		w.Reset(z.out)
		z.w = w
	} else {
		w := parallel.Get().(*pgzip.Writer)
		w.Reset(z.out)
		z.w = w
		if err := w.SetConcurrency(blockBytes, workers); err != nil {
			return err
		}
	}
	_, err := z.w.Write(z.held)
	return err
}

func (z *gzipper) close() (err error) {
	defer heldBuffers.Put(&z.held)
	if z.w == nil {
		err = z.begin(0)
	}
	err = errors.Join(err, z.w.Close())
	switch w := z.w.(type) {
	case *gzip.Writer:
		gzips.Put(w)
	case *pgzip.Writer:
		if err != nil {
			w.Reset(io.Discard) // Close has left its goroutine behind
		}
		parallel.Put(w)
	}
	return err
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
