package series

import (
	"math"
	"slices"
	"strings"
	"time"
)

// A Past is what a store knows of one series, alive or not.
type Past struct {
	Fate   Fate
	Value  float64 // of a live series, and of one that has expired
	Native bool    // a native histogram: Value says nothing

	Time     time.Time // of its latest sample or stale marker, or of the request that deleted it
	Received time.Time // when that came, by the wall clock of then
	TTL      TTL       // granted to it

	// Left is how long it still lives, in ms; of an expired one, negative, how long ago
	// that was over. Remembered is how long it is remembered yet: until then only a
	// newer sample revives it. Forever: without end.
	Left, Remembered TTL

	Edge  string // that wrote it last
	Group []byte // the labels of the group that it belongs to, packed; nil: to none
}

// A Fate is what became of a series.
type Fate string

// The fates.
const (
	FateLive    Fate = "live"
	FateExpired Fate = "expired" // its TTL has passed
	FateEnded   Fate = "ended"   // by a stale marker
	FateDeleted Fate = "deleted" // by request, or with its group
)

// Lookup tells the past of a series: its labels packed, sorted by name. ok is false
// if nothing is known of it.
func (s *Store) Lookup(now time.Time, labels []byte) (p Past, ok bool) {
	hash, canonical, ok := s.dict.hashLabels(labels)
	if !ok || !canonical {
		return p, false
	}
	mono := s.mono(now)
	s.structure.RLock()
	defer s.structure.RUnlock()
	id, ok := s.findSeries(hash, labels)
	if !ok {
		return p, false
	}
	b, at := s.slot(id)
	b.mu.Lock()
	sl := *at
	b.mu.Unlock()
	forgotten := sl.forgettable(s.lag)
	if sl.flags&sampled == 0 || mono >= forgotten {
		return p, false // a request is on its way, or the sweep is to come
	}
	until := func(end int64) TTL {
		if end == math.MaxInt64 {
			return Forever
		}
		return TTL(end - mono)
	}
	p = Past{
		Value: math.Float64frombits(sl.bits), Time: time.UnixMilli(sl.t).UTC(), Received: time.UnixMilli(sl.t - int64(sl.skew)).UTC(), TTL: sl.ttl.ttl(),
		Left: until(sl.deadline), Remembered: until(forgotten), Edge: s.owners[s.edgeOf(sl.owner)].name,
	}
	switch {
	case sl.flags&deleted != 0:
		p.Fate = FateDeleted
	case sl.bits == staleBits:
		p.Fate = FateEnded
	case sl.live(mono):
		p.Fate = FateLive
	default:
		p.Fate = FateExpired
	}
	if key := s.owners[sl.owner].group; key != "" {
		_, labels, _ := strings.Cut(key, groupMark)
		p.Group = []byte(labels)
	}
	if sl.flags&extended != 0 {
		s.extrasMu.Lock()
		x := s.extras[id]
		s.extrasMu.Unlock()
		p.Native = x != nil && x.histogram != nil
	}
	return p, true
}

// CanonicalLabels packs labels given as names and values: sorted by name, without
// those that are empty.
func CanonicalLabels(pairs [][2]string) []byte {
	pairs = slices.Clone(pairs)
	slices.SortFunc(pairs, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	var packed []byte
	for _, p := range pairs {
		if p[1] != "" {
			packed = AppendPair(packed, p[0], p[1])
		}
	}
	return packed
}
