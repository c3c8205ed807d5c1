package series

import (
	"slices"
	"sync"
	"time"
)

// A Contest is two edges that write the same series in turns, with an example.
type Contest struct {
	Series string // as FormatLabels
	Edges  [2]string
	At     time.Time // when the series changed hands, of late
}

// contests remembers which edges have taken series from each other. A batch notes at
// most one.
type contests struct {
	mu   sync.Mutex
	list map[[2]uint32]*contest // by the two edges, the lesser id first
}

type contest struct {
	series string
	taken  [2]int64 // when the first took from the second, and the other way round; ms
}

const (
	maxContests = 64
	contestKept = 10 * time.Minute
)

func (c *contests) note(from, to uint32, series string, received int64) {
	key, way := [2]uint32{to, from}, 0
	if from < to {
		key, way = [2]uint32{from, to}, 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.list[key]
	if x == nil {
		if c.list == nil {
			c.list = map[[2]uint32]*contest{}
		}
		if len(c.list) >= maxContests {
			c.forget()
		}
		x = &contest{}
		c.list[key] = x
	}
	x.series, x.taken[way] = series, received
}

// forget makes room by what was noted first.
func (c *contests) forget() {
	var oldest [2]uint32
	at := int64(-1)
	for key, x := range c.list {
		if last := max(x.taken[0], x.taken[1]); at < 0 || last < at {
			oldest, at = key, last
		}
	}
	delete(c.list, oldest)
}

// leave forgets what was noted of edges.
func (c *contests) leave(edges []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.list {
		if slices.Contains(edges, key[0]) || slices.Contains(edges, key[1]) {
			delete(c.list, key)
		}
	}
}

// contested notes that a series of one edge's is now another's. Under structure, and
// the lock of the slot's block.
func (b *Batch) contested(sl *slot) {
	s := b.store
	from := s.edgeOf(sl.owner)
	if b.disputes || b.recorded != nil || from == b.edge {
		return
	}
	b.disputes = true
	s.contests.note(from, b.edge, FormatLabels(s.packedLabels(sl)), b.received)
}

// Contests are the edges that have taken series from each other, both ways, within
// the last ten minutes: one way alone is a series that has moved. The latest come
// first; at most 64 are remembered.
func (s *Store) Contests(now time.Time) []Contest {
	s.structure.RLock()
	defer s.structure.RUnlock()
	c := &s.contests
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Contest
	for key, x := range c.list {
		if now.UnixMilli()-min(x.taken[0], x.taken[1]) > contestKept.Milliseconds() {
			continue
		}
		list = append(list, Contest{x.series, [2]string{s.owners[key[0]].name, s.owners[key[1]].name}, time.UnixMilli(max(x.taken[0], x.taken[1])).UTC()})
	}
	slices.SortFunc(list, func(a, b Contest) int { return b.At.Compare(a.At) })
	return list
}
