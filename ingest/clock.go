package ingest

import (
	"sync"
	"time"

	"relay/series"
)

// ownClock notices when it is the relay's own clock that is wrong: every edge
// that was active lately, three or more, is too far ahead of it.
type ownClock struct {
	mu    sync.Mutex
	ahead map[string]time.Time // edges whose last request was refused for that
	sane  time.Time            // when a request was not
}

const (
	clockWindow = 5 * time.Minute
	clockEdges  = 3
	clockKept   = 1000
)

// suspect takes note of a request and reports whether it is to be answered with
// 503, so that its sender tries again.
func (c *ownClock) suspect(edge string, res *series.Result, now time.Time) bool {
	ahead := res.Rejected[series.TooFarInFuture] > 0 && res.Samples+res.Histograms == 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ahead {
		if res.Samples+res.Histograms > 0 {
			c.sane = now
			if len(c.ahead) > 0 {
				delete(c.ahead, edge)
			}
		}
		return false
	}
	if c.ahead == nil || len(c.ahead) >= clockKept {
		c.ahead = map[string]time.Time{}
	}
	c.ahead[edge] = now
	if now.Sub(c.sane) < clockWindow {
		return false
	}
	for e, t := range c.ahead {
		if now.Sub(t) > clockWindow {
			delete(c.ahead, e)
		}
	}
	return len(c.ahead) >= clockEdges
}
