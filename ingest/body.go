package ingest

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"net/http"
	"sync"
	"time"

	"github.com/golang/snappy"
)

// bodyTime is how long a body may take: who sends one byte a second holds room
// for all of it.
const bodyTime = 30 * time.Second

// A buffer is a pooled piece of memory that counts in its edge's share.
type buffer struct {
	mem    *[]byte
	n      int
	weight int64
	share  *share
}

func (b *buffer) bytes() []byte { return (*b.mem)[:b.n] }

func (b *buffer) release() {
	putMemory(b.mem)
	b.share.give(b.weight)
}

// Memory is pooled by size, in powers of two from 4 KiB.
const minClass = 12

var pools [32]sync.Pool

func getMemory(n int) *[]byte {
	class := max(minClass, bits.Len(uint(max(n, 1)-1)))
	if class >= len(pools) {
		m := make([]byte, n)
		return &m
	}
	if m, ok := pools[class].Get().(*[]byte); ok {
		return m
	}
	m := make([]byte, 1<<class)
	return &m
}

func putMemory(m *[]byte) {
	if class := bits.Len(uint(len(*m) - 1)); class < len(pools) && len(*m) == 1<<class {
		pools[class].Put(m)
	}
}

// read reads the body. It asks for room before it reads: for a body of known
// length for all of it, for another one piece by piece.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, share *share) (*buffer, *refusal) {
	limit := h.opts.RequestBytes
	tooLarge := func() *refusal {
		return refuse(http.StatusRequestEntityTooLarge, "body_bytes", "the compressed body is over %d bytes: --limits.request-bytes", limit)
	}
	if r.ContentLength > limit {
		return nil, tooLarge()
	}
	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Now().Add(bodyTime)) // where there is a connection
	defer c.SetReadDeadline(time.Time{})
	if r.ContentLength < 0 {
		return h.readChunked(r, share, tooLarge)
	}
	n := r.ContentLength
	if bad := share.take(r.Context(), n); bad != nil {
		return nil, bad
	}
	b := &buffer{mem: getMemory(int(n)), n: int(n), weight: n, share: share}
	if _, err := io.ReadFull(r.Body, b.bytes()); err != nil {
		b.release()
		return nil, unread(err)
	}
	return b, nil
}

func (h *Handler) readChunked(r *http.Request, share *share, tooLarge func() *refusal) (*buffer, *refusal) {
	const first = 64 << 10
	if bad := share.take(r.Context(), first); bad != nil {
		return nil, bad
	}
	b := &buffer{mem: getMemory(first), weight: first, share: share}
	for {
		if int64(b.n) > h.opts.RequestBytes {
			b.release()
			return nil, tooLarge()
		}
		if b.n == len(*b.mem) {
			if bad := share.take(r.Context(), int64(b.n)); bad != nil {
				b.release()
				return nil, bad
			}
			b.weight += int64(b.n)
			larger := getMemory(2 * b.n)
			copy(*larger, b.bytes())
			putMemory(b.mem)
			b.mem = larger
		}
		n, err := r.Body.Read((*b.mem)[b.n:])
		b.n += n
		switch {
		case err == io.EOF && int64(b.n) <= h.opts.RequestBytes:
			return b, nil
		case err != nil && err != io.EOF:
			b.release()
			return nil, unread(err)
		}
	}
}

func unread(err error) *refusal {
	return refuse(http.StatusBadRequest, "body_read", "the body ended early: %v", err)
}

// decompress undoes snappy's block format. The size that the body claims is
// checked before anything is allocated.
func (h *Handler) decompress(ctx context.Context, body *buffer) (*buffer, *refusal) {
	src := body.bytes()
	n := 0
	if len(src) > 0 { // Prometheus 1.x probed with an empty body
		var err error
		if n, err = snappy.DecodedLen(src); err != nil {
			return nil, corrupt(err)
		}
	}
	if int64(n) > h.opts.RequestBytes {
		return nil, refuse(http.StatusBadRequest, "decoded_bytes", "the body is %d bytes when decoded, the limit is %d: --limits.request-bytes", n, h.opts.RequestBytes)
	}
	// No run of snappy is longer than 64 for 2 bytes and a bit.
	if n > 32*len(src)+64 {
		return nil, corrupt(errors.New("it claims to be longer than it can be"))
	}
	if bad := body.share.take(ctx, int64(n)); bad != nil {
		return nil, bad
	}
	b := &buffer{mem: getMemory(n), n: n, weight: int64(n), share: body.share}
	if n > 0 {
		out, err := snappy.Decode(*b.mem, src)
		if err != nil {
			b.release()
			return nil, corrupt(err)
		}
		if len(out) != n {
			b.release()
			return nil, corrupt(snappy.ErrCorrupt)
		}
	}
	return b, nil
}

func corrupt(err error) *refusal {
	return refuse(http.StatusBadRequest, "snappy", "the body is not snappy in block format: %v", err)
}
