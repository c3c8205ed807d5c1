package ingest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/golang/snappy"

	"relay/journal"
	"relay/series"
)

// Bounds of a delete.
const (
	maxDeleted  = 200_000 // series of one request
	deletedTurn = 10_000  // series of one record
)

// ErrTooMany is the error for a delete of more series than are deleted at once.
var ErrTooMany = fmt.Errorf("more than %d series match: delete them in parts", maxDeleted)

// ErrNotNow is the error for a delete or a wipe while the relay starts or stops.
var ErrNotNow = errors.New("the relay is starting or stopping")

// Delete hides the live series that a query selects, and returns how many that are;
// dry only counts them. The journal has it when it returns. Series that are pushed on
// come back with their next sample. After an error a part may have been deleted: n of
// them.
//
// The records name the series and up to which time each is deleted, so that a replay
// deletes the same, whatever else was on its way.
func (h *Handler) Delete(ctx context.Context, q series.Query, dry bool) (n int, err error) {
	if !h.enterReady() {
		return 0, ErrNotNow
	}
	defer h.inflight.Done()
	if dry {
		var count tally
		err := h.opts.Store.Scan(time.Now(), q, &count)
		return count.n, err
	}
	if !h.opts.Shared {
		// In turn with pushes to groups, which do not merge. A shared journal has turns of
		// its own.
		h.pusher.turn.Lock()
		defer h.pusher.turn.Unlock()
	}
	now := time.Now()
	v := &chosen{received: now.UnixMilli()}
	if err := h.opts.Store.Scan(now, q, v); err != nil {
		return 0, err
	}
	ttl := h.opts.Store.DeletionTTL()
	for list := v.list; len(list) > 0; {
		turn := list[:min(len(list), deletedTurn)]
		list = list[len(turn):]
		apply := func() { n += h.opts.Store.Delete(turn, now, time.Now(), ttl) }
		if h.opts.Journal == nil {
			apply()
			continue
		}
		rec := &journal.Record{Kind: journal.SeriesDelete, Received: v.received, TTL: int64(ttl), Body: snappy.Encode(nil, appendDeletions(nil, turn, v.received))}
		if err := h.opts.Journal.Append(ctx, rec, apply); err != nil {
			return n, err
		}
	}
	return n, nil
}

// enterReady is enter for what people ask: it does not wait for a replay. What they
// end is what the store has, and it has not all of it yet.
func (h *Handler) enterReady() bool {
	if h.opts.Ready != nil {
		select {
		case <-h.opts.Ready:
		default:
			return false
		}
	}
	return h.enter()
}

// replayDelete applies a delete of the journal.
func (h *Handler) replayDelete(r *journal.Record) error {
	if n, err := snappy.DecodedLen(r.Body); err != nil || n > maxReplayed {
		return errors.Join(err, snappy.ErrCorrupt)
	}
	raw, err := snappy.Decode(nil, r.Body)
	if err != nil {
		return err
	}
	list, err := readDeletions(raw, r.Received)
	if err != nil || r.TTL <= 0 {
		return errors.Join(err, errDeletions)
	}
	h.opts.Store.Delete(list, time.UnixMilli(r.Received), time.Now(), series.TTL(r.TTL))
	return nil
}

// appendDeletions writes a list: of each its time after the request's, and its labels
// with their length before them.
func appendDeletions(b []byte, list []series.Deletion, received int64) []byte {
	for _, d := range list {
		b = binary.AppendUvarint(b, uint64(d.Upto-received))
		b = binary.AppendUvarint(b, uint64(len(d.Labels)))
		b = append(b, d.Labels...)
	}
	return b
}

var errDeletions = errors.New("a list of deleted series that cannot be read")

func readDeletions(b []byte, received int64) (list []series.Deletion, err error) {
	for len(b) > 0 {
		ahead, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errDeletions
		}
		size, m := binary.Uvarint(b[n:])
		if m <= 0 || size > uint64(len(b)-n-m) {
			return nil, errDeletions
		}
		b = b[n+m:]
		list = append(list, series.Deletion{Labels: b[:size:size], Upto: received + int64(ahead)})
		b = b[size:]
	}
	return list, nil
}

// chosen gathers the series to delete.
type chosen struct {
	received int64
	list     []series.Deletion
	packed   []byte // of the last ones, in a piece
}

func (c *chosen) BeginFamily(*series.Family) {}
func (c *chosen) EndFamily(*series.Family)   {}

func (c *chosen) Flush() error {
	if len(c.list) > maxDeleted {
		return ErrTooMany
	}
	return nil
}

func (c *chosen) Series(_ *series.Family, s *series.Series) {
	const piece = 256 << 10
	if cap(c.packed)-len(c.packed) < piece/4 {
		c.packed = make([]byte, 0, piece)
	}
	from := len(c.packed)
	for i := range s.Len() {
		pair, _ := s.Label(i)
		c.packed = append(c.packed, pair...)
	}
	c.list = append(c.list, series.Deletion{Labels: c.packed[from:len(c.packed):len(c.packed)], Upto: max(c.received, s.Time)})
}

// tally counts what a query selects.
type tally struct{ n int }

func (c *tally) BeginFamily(*series.Family)                {}
func (c *tally) EndFamily(*series.Family)                  {}
func (c *tally) Flush() error                              { return nil }
func (c *tally) Series(_ *series.Family, _ *series.Series) { c.n++ }
