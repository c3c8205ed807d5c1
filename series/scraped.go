package series

import (
	"slices"
	"sync"
)

// scraped remembers when the last scans that showed all began, or the scans of the
// parts of all, so that the sweep can tell what expired unseen.
type scraped struct {
	mu    sync.Mutex
	whole begins
	parts []begins // by shard, of the number of shards that was asked for last
}

// begins are times of the monotonic clock, rising.
type begins []int64

const (
	maxBegins = 32
	minBegins = 3 // before that nobody is known to scrape
)

func (b *begins) add(mono int64) {
	if n := len(*b); n > 0 && mono < (*b)[n-1] {
		mono = (*b)[n-1]
	}
	if *b = append(*b, mono); len(*b) > maxBegins {
		*b = slices.Delete(*b, 0, len(*b)-maxBegins)
	}
}

// missed reports whether none of the scans began in a span of time, as far as is
// known.
func (b begins) missed(from, to int64) bool {
	if len(b) < minBegins || len(b) == maxBegins && b[0] >= to {
		return false
	}
	for _, at := range b {
		if at >= from && at < to {
			return false
		}
	}
	return true
}

// note takes note of a scan that has shown all it was asked for.
func (s *scraped) note(q *Query, mono int64) {
	if q.Matchers != nil || q.Edge != "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Shards <= 1 {
		s.whole.add(mono)
		return
	}
	if len(s.parts) != q.Shards {
		s.parts = make([]begins, q.Shards)
	}
	s.parts[q.Shard].add(mono)
}

// copy returns what a sweep looks at.
func (s *scraped) copy() *scraped {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &scraped{whole: slices.Clone(s.whole), parts: slices.Clone(s.parts)}
	for i := range c.parts {
		c.parts[i] = slices.Clone(c.parts[i])
	}
	return c
}

// missed reports whether an expired series' last sample was on no page: all pages
// that it could have been on began before it came, or after it had expired. Under
// structure, and the lock of the slot's block.
func (s *Store) missed(seen *scraped, sl *slot) bool {
	from := sl.deadline - int64(sl.ttl.ttl()) - min(0, int64(sl.skew)+s.lag)
	if len(seen.whole) >= minBegins && !seen.whole.missed(from, sl.deadline) {
		return false
	}
	if n := len(seen.parts); n > 0 {
		var room [256]pairID
		part := seen.parts[shardOf(s.dict, s.ids(sl, room[:]), n)]
		if len(part) >= minBegins {
			return part.missed(from, sl.deadline)
		}
	}
	return seen.whole.missed(from, sl.deadline)
}
