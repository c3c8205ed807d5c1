package edges

import "time"

// An election is which replica of a pair is listened to.
type election struct {
	Replica string `json:"replica"`
	At      int64  `json:"at"`     // when it was last taken from, ms
	Window  int64  `json:"window"` // how long it may be silent, ms
}

// maxFailover is how long the elected replica of a pair may be silent at most
// before the other takes its place; the half of its TTL at most, so that no series
// expires in between.
const maxFailover = 30 * time.Second

// Elect reports whether a request of a replica is to be taken; if not, another
// replica of its pair is, and sends the same. The first that is seen is elected,
// and stays so until nothing was taken from it for too long: see Elected.
func (r *Registry) Elect(pair, replica string, received time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := received.UnixMilli()
	e, known := r.pairs[pair]
	switch {
	case known && e.Replica == replica:
		return true
	case known && now-e.At <= e.Window:
		return false
	case !known && len(r.pairs) >= r.limit:
		r.forgetPairs(now)
	}
	r.pairs[pair] = election{Replica: replica, At: now, Window: maxFailover.Milliseconds()}
	return true
}

// Elected notes that something was taken from a replica, with a TTL in ms.
func (r *Registry) Elected(pair, replica string, received time.Time, ttl int64) {
	r.elected(pair, election{replica, received.UnixMilli(), min(maxFailover.Milliseconds(), ttl/2)})
}

func (r *Registry) elected(pair string, e election) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, known := r.pairs[pair]; known && old.At > e.At {
		return
	} else if !known && len(r.pairs) >= r.limit {
		r.forgetPairs(e.At)
	}
	r.pairs[pair] = e
}

// forgetPairs makes room: of what could be elected anew at any time, or of
// something.
func (r *Registry) forgetPairs(now int64) {
	for pair, e := range r.pairs {
		if now-e.At > e.Window {
			delete(r.pairs, pair)
		}
	}
	for pair := range r.pairs {
		if len(r.pairs) < r.limit {
			return
		}
		delete(r.pairs, pair)
	}
}
