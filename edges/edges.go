// Package edges knows who pushes: who may, as whom and within which limits (a
// [Guard] over a [File]), and which edges were seen, when, and whether they have
// fallen silent (a [Registry]). It knows nothing of what they pushed.
package edges

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"relay/series"
)

// An Edge is a sender, as it was last seen.
type Edge struct {
	Name     string
	LastSeen time.Time     // receive time of the last accepted request; zero: none
	TTL      time.Duration // of that request: after it the edge is silent; math.MaxInt64: never
	Silent   bool
}

// A Registry holds the edges that were seen. Its methods may be called
// concurrently.
type Registry struct {
	retention time.Duration
	limit     int
	guard     *Guard // nil: no edges file
	mu        sync.RWMutex
	edges     map[string]sight
	cleared   int64 // when forgotten edges were last cleared out for others, ms
	pairs     map[string]election

	activities map[string]*activity
	strangers  *lru.Cache[string, *activity] // of which nothing was ever accepted
	refusals   *lru.Cache[string, *Refusal]  // by series
}

type sight struct {
	At  int64 `json:"at"`  // ms
	TTL int64 `json:"ttl"` // ms
}

// New returns a Registry that remembers an edge for retention after it was last
// seen, and at most limit of them: the others are one, [series.OtherEdge]. Those in
// the guard's file are remembered for ever, and listed from the start; guard may be
// nil.
func New(retention time.Duration, limit int, guard *Guard) *Registry {
	r := &Registry{retention: retention, limit: limit, guard: guard, edges: map[string]sight{}, pairs: map[string]election{}, activities: map[string]*activity{}}
	r.strangers, _ = lru.New[string, *activity](maxStrangers)
	r.refusals, _ = lru.New[string, *Refusal](maxRefusals)
	return r
}

// named returns whom the file names: true for those that are enabled.
func (r *Registry) named() map[string]bool {
	if r.guard == nil {
		return nil
	}
	f := r.guard.File()
	names := make(map[string]bool, len(f.entries))
	for _, e := range f.entries {
		names[e.Name] = names[e.Name] || e.Enabled
	}
	return names
}

// Saw notes an accepted request: who sent it, when it was received, and the TTL
// that it was granted, in ms. Requests may be noted in any order.
func (r *Registry) Saw(name string, received time.Time, ttl int64) {
	r.saw(name, sight{received.UnixMilli(), ttl})
}

func (r *Registry) saw(name string, s sight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sawLocked(name, s)
}

func (r *Registry) sawLocked(name string, s sight) {
	old, known := r.edges[name]
	if !known && name != series.OtherEdge && r.guard == nil && r.full(s.At) {
		name = series.OtherEdge
		old, known = r.edges[name]
	}
	if known && old.At > s.At {
		return
	}
	r.edges[name] = s
}

// NotAfter says what time it is, to be said every few seconds. What was seen later than
// that, before the clock was set back, counts as seen now: else it would stand still
// until the clock is there again.
func (r *Registry) NotAfter(now time.Time) {
	ms := now.UnixMilli()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleared = min(r.cleared, ms)
	for name, s := range r.edges {
		if s.At > ms {
			s.At = ms
			r.edges[name] = s
		}
	}
	for _, a := range r.activities {
		a.notAfter(ms)
	}
	for _, a := range r.strangers.Values() {
		a.notAfter(ms)
	}
}

// full reports whether there is no room for another name. The forgotten ones are cleared
// out first, at most once a second, so that names that come and go do not shut others out.
func (r *Registry) full(at int64) bool {
	room := r.limit
	if _, ok := r.edges[series.OtherEdge]; ok {
		room++
	}
	if len(r.edges) < room {
		return false
	}
	if at-r.cleared < 1000 {
		return true
	}
	r.cleared = at
	named := r.named()
	for name, s := range r.edges {
		if _, in := named[name]; !in && r.forgotten(s, time.UnixMilli(at)) {
			delete(r.edges, name)
			delete(r.activities, name)
		}
	}
	return len(r.edges) >= room
}

// forgotten reports whether an edge has been silent for longer than the retention.
func (r *Registry) forgotten(s sight, now time.Time) bool {
	at, ever := s.silentAt()
	return ever && now.Sub(at) > r.retention
}

// silentAt is when an edge is silent, without overflow for TTLs that never end.
func (s sight) silentAt() (time.Time, bool) {
	const never = int64(1) << 50
	if s.TTL >= never {
		return time.Time{}, false
	}
	return time.UnixMilli(s.At).Add(time.Duration(s.TTL) * time.Millisecond), true
}

func (s sight) silent(now time.Time) bool {
	at, ever := s.silentAt()
	return ever && !now.Before(at)
}

// Silent reports whether an edge is silent or unknown.
func (r *Registry) Silent(name string, now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, known := r.edges[name]
	return !known || s.silent(now)
}

// List returns the edges by name: those that were seen, and those of the file that
// are enabled. Those that have been silent for longer than the retention are
// forgotten, unless the file names them.
func (r *Registry) List(now time.Time) []Edge {
	named := r.named()
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Edge, 0, len(r.edges))
	for name, s := range r.edges {
		enabled, in := named[name]
		if !in && r.forgotten(s, now) {
			delete(r.edges, name)
			delete(r.activities, name)
			continue
		}
		delete(named, name)
		if in && !enabled {
			continue
		}
		list = append(list, Edge{Name: name, LastSeen: time.UnixMilli(s.At).UTC(), TTL: series.TTL(s.TTL).Duration(), Silent: s.silent(now)})
	}
	for name, enabled := range named {
		if enabled {
			list = append(list, Edge{Name: name, Silent: true})
		}
	}
	slices.SortFunc(list, func(a, b Edge) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// A Count is how many edges there are in each state.
type Count struct {
	Live   int
	Late   int // live, and past half its TTL
	Silent int // those of the file that were never seen included
}

// Count counts what List lists.
func (r *Registry) Count(now time.Time) (n Count) {
	named := r.named()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for name, s := range r.edges {
		enabled, in := named[name]
		delete(named, name)
		at, ever := s.silentAt()
		switch {
		case in && !enabled, ever && !in && now.Sub(at) > r.retention:
		case !ever:
			n.Live++
		case !now.Before(at):
			n.Silent++
		case at.Sub(now) < time.Duration(s.TTL)*time.Millisecond/2:
			n.Late++
		default:
			n.Live++
		}
	}
	for _, enabled := range named {
		if enabled {
			n.Silent++
		}
	}
	return n
}

// The first byte of a piece of state that is this package's: what was seen, and
// who was elected.
const (
	sightsPiece = 'E'
	pairsPiece  = 'P'
)

// Dump hands out the registry as pieces of state for Load.
func (r *Registry) Dump(write func([]byte) error) error {
	r.mu.RLock()
	sights, err := json.Marshal(r.edges)
	pairs, err2 := json.Marshal(r.settled())
	r.mu.RUnlock()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if err := write(append([]byte{sightsPiece}, sights...)); err != nil {
		return err
	}
	return write(append([]byte{pairsPiece}, pairs...))
}

// IsPiece reports whether a piece of state is one of Dump's.
func IsPiece(b []byte) bool {
	return len(b) > 0 && (b[0] == sightsPiece || b[0] == pairsPiece)
}

// Load merges a piece of state.
func (r *Registry) Load(b []byte) error {
	if !IsPiece(b) {
		return errors.New("edges: not a piece of this state")
	}
	if b[0] == pairsPiece {
		var pairs map[string]election
		if err := json.Unmarshal(b[1:], &pairs); err != nil {
			return err
		}
		for pair, e := range pairs {
			r.elected(pair, e)
		}
		return nil
	}
	var edges map[string]sight
	if err := json.Unmarshal(b[1:], &edges); err != nil {
		return err
	}
	for name, s := range edges {
		r.saw(name, s)
	}
	return nil
}
