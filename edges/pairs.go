package edges

import (
	"cmp"
	"time"
)

// An election is which replica of a pair is listened to.
type election struct {
	Replica string `json:"replica"`
	At      int64  `json:"at"`     // when it was last taken from, ms
	Window  int64  `json:"window"` // how long it may be silent, ms
	TTL     int64  `json:"ttl"`    // of what was taken, ms
	Newest  int64  `json:"newest"` // time of the newest sample taken, ms

	tentative bool      // nothing was taken from it yet
	before    *election // then: what it took the place of; nil: of nothing
}

// maxFailover is how long the elected replica of a pair may be silent at most
// before the other takes its place; the half of its TTL at most, so that no series
// expires in between.
const maxFailover = 30 * time.Second

// A Span is what the election has to know of the samples of a request: the times
// of the oldest and of the newest, in ms, and whether one of them is a value, not a
// stale marker.
type Span struct {
	Oldest, Newest int64
	Live           bool
}

// Elect reports whether a request of a replica is to be taken; if not, another
// replica of its pair is, and sends the same. The first that is seen is elected,
// and stays so until nothing was taken from it for too long: see Elected and Withdraw. Then
// another one takes its place with the first request that has values, all newer
// than what was taken before: what it has kept back meanwhile would make counters
// step back, and its stale markers alone are no reason to listen to it. changed is
// whether it does so with this request. When all that was taken must have expired,
// anybody may.
func (r *Registry) Elect(pair, replica string, received time.Time, s Span) (taken, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := received.UnixMilli()
	e, known := r.pairs[pair]
	if known && e.ahead(now) {
		e.At = now // from now on it counts
		r.pairs[pair] = e
	}
	taken, elected := r.verdict(pair, replica, now, s)
	if !elected {
		return taken, false
	}
	if !known && len(r.pairs) >= r.limit {
		r.forgetPairs(now)
	}
	next := election{Replica: replica, At: now, Window: maxFailover.Milliseconds(), TTL: e.TTL, Newest: e.Newest, tentative: true, before: e.before}
	if known && !e.tentative {
		next.before = &e
	}
	r.pairs[pair] = next
	return true, known
}

// Withdraw says that nothing came of a request that Elect has let in. If it was with
// that one that its replica was elected, and nothing else was taken from it meanwhile,
// the pair is as it was before.
func (r *Registry) Withdraw(pair, replica string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e := r.pairs[pair]; {
	case !e.tentative || e.Replica != replica:
	case e.before == nil:
		delete(r.pairs, pair)
	default:
		r.pairs[pair] = *e.before
	}
}

// settled are the pairs as they are without what is tentative. Under mu.
func (r *Registry) settled() map[string]election {
	pairs := make(map[string]election, len(r.pairs))
	for pair, e := range r.pairs {
		switch {
		case !e.tentative:
			pairs[pair] = e
		case e.before != nil:
			pairs[pair] = *e.before
		}
	}
	return pairs
}

// stepBack is by how much a time is older at least that is of a clock that was set back.
// Requests that overtake each other, records that take long to be stored in a journal that
// is shared, and the clocks of relays that share one, differ by less.
const stepBack = time.Minute

// ahead reports whether it is not a replica that was silent for less than no time, but
// the clock that was set back.
func (e *election) ahead(now int64) bool { return e.At-now > max(e.Window, stepBack.Milliseconds()) }

// Listens reports whether Elect might take the request, and elects nobody.
func (r *Registry) Listens(pair, replica string, received time.Time, s Span) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e, known := r.pairs[pair]; known && e.ahead(received.UnixMilli()) {
		return true // for Elect to see
	}
	taken, _ := r.verdict(pair, replica, received.UnixMilli(), s)
	return taken
}

// verdict says whether a request is taken, and whether its replica is elected with
// it.
func (r *Registry) verdict(pair, replica string, now int64, s Span) (taken, elected bool) {
	e, known := r.pairs[pair]
	switch {
	case known && e.Replica == replica:
		return true, false
	case !known && !s.Live:
		return true, false // metadata, say
	case known && (now-e.At <= e.Window || !s.Live):
		return false, false
	case known && s.Oldest <= e.Newest && now-e.At <= e.TTL:
		return false, false
	}
	return true, true
}

// Elected notes that something was taken from a replica: when it was received, with
// which TTL in ms, and the time of its newest sample in ms. What was taken may be
// noted in any order, with the same result.
func (r *Registry) Elected(pair, replica string, received time.Time, ttl, newest int64) {
	r.elected(pair, election{Replica: replica, At: received.UnixMilli(), Window: min(maxFailover.Milliseconds(), ttl/2), TTL: ttl, Newest: newest})
}

func (r *Registry) elected(pair string, e election) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, known := r.pairs[pair]
	newest := max(old.Newest, e.Newest)
	switch {
	case known && old.At > e.At:
		e = old
	case !known && len(r.pairs) >= r.limit:
		r.forgetPairs(e.At)
	}
	e.Newest = newest
	e.tentative, e.before = false, nil
	r.pairs[pair] = e
}

// forgetPairs makes room: of what could be elected anew at any time, else of those
// that were last taken from the longest ago. Relays that share a journal forget the
// same.
func (r *Registry) forgetPairs(now int64) {
	for pair, e := range r.pairs {
		if now-e.At > e.Window && now-e.At > e.TTL {
			delete(r.pairs, pair)
		}
	}
	for len(r.pairs) >= r.limit && len(r.pairs) > 0 {
		oldest := ""
		for pair, e := range r.pairs {
			if o := r.pairs[oldest]; oldest == "" || cmp.Or(cmp.Compare(e.At, o.At), cmp.Compare(pair, oldest)) < 0 {
				oldest = pair
			}
		}
		delete(r.pairs, oldest)
	}
}
