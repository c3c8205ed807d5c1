package main

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"relay/edges"
	"relay/exposition"
	"relay/series"
)

// A census counts the store's series for all who ask within a while: to count costs
// some ms per million series.
type census struct {
	store *series.Store

	mu    sync.Mutex
	at    time.Time
	stats series.Stats
	owned map[string]series.Owned
}

const censusKept = time.Second

// get returns what was counted last, or counts. The map is not to be changed.
func (c *census) get() (series.Stats, map[string]series.Owned) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.at.IsZero() || now.Sub(c.at) > censusKept {
		c.stats, c.owned = c.store.Census(now)
		c.at = time.Now()
	}
	return c.stats, c.owned
}

// edgeJSON is one edge of /api/v1/edges.
type edgeJSON struct {
	Name       string      `json:"name"`
	State      edges.State `json:"state"`
	Silent     bool        `json:"silent"`
	LastSeen   time.Time   `json:"lastSeen,omitzero"`
	TTL        string      `json:"ttl"`
	TTLSeconds *float64    `json:"ttlSeconds,omitempty"` // nil: never ends, or not known
	Configured bool        `json:"configured"`

	NewestSample time.Time `json:"newestSample,omitzero"`
	NewestAge    *float64  `json:"newestSampleAgeSeconds,omitempty"`
	Skew         *float64  `json:"clockSkewSeconds,omitempty"`
	Interval     float64   `json:"pushIntervalSeconds,omitempty"`

	Live     int     `json:"liveSeries"`
	Samples  float64 `json:"samplesPerSecond"`
	Requests float64 `json:"requestsPerSecond"`

	Rejected      map[string]uint64 `json:"rejected"`
	LastRejection *rejectionJSON    `json:"lastRejection,omitempty"`
	Warnings      []string          `json:"warnings"`
}

type rejectionJSON struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Code   int       `json:"code,omitempty"`
	Series string    `json:"series,omitempty"`
	Detail string    `json:"detail"`
}

// maxDisputes is how many others that write its series an edge is told of.
const maxDisputes = 3

// listEdges lists the edges, in Prometheus' envelope.
func (r *relay) listEdges(w http.ResponseWriter, req *http.Request) {
	if !r.awaitReplay(req.Context()) {
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusServiceUnavailable, "unavailable", notReplayed)
		return
	}
	now := time.Now()
	_, owned := r.count.get()
	scrape := r.pages.Scrapes().Interval
	disputes := map[string][]string{}
	for _, c := range r.store.Contests(now) {
		for i, edge := range c.Edges {
			if len(disputes[edge]) == maxDisputes {
				continue
			}
			disputes[edge] = append(disputes[edge], fmt.Sprintf("edge %s writes the same series, %s for one: give each edge a label of its own", c.Edges[1-i], c.Series))
		}
	}
	list := []edgeJSON{}
	for _, e := range r.edges.Reports(now) {
		j := r.edgeJSON(&e, owned[e.Name], now)
		j.Warnings = append(e.Warnings(owned[e.Name].Held, scrape, r.cfg.lag), disputes[e.Name]...)
		if j.Warnings == nil {
			j.Warnings = []string{}
		}
		list = append(list, j)
	}
	writeJSON(w, map[string]any{"status": "success", "data": list})
}

func (r *relay) edgeJSON(e *edges.Report, has series.Owned, now time.Time) edgeJSON {
	j := edgeJSON{
		Name: e.Name, State: e.State, Silent: e.Silent, LastSeen: e.LastSeen, Configured: e.Configured,
		Interval: rounded(e.Interval.Seconds()), Live: has.Live, Samples: rounded(e.SamplesPerSecond), Requests: rounded(e.RequestsPerSecond),
		Rejected: map[string]uint64{},
	}
	switch {
	case e.TTL == math.MaxInt64:
		j.TTL = "inf"
	case e.TTL > 0:
		j.TTL, j.TTLSeconds = e.TTL.String(), new(e.TTL.Seconds())
	}
	if !e.Newest.IsZero() {
		j.NewestSample, j.NewestAge = e.Newest, new(rounded(now.Sub(e.Newest).Seconds()))
	}
	if e.Skewed {
		j.Skew = new(rounded(e.Skew.Seconds()))
	}
	for _, refused := range []map[string]uint64{e.RefusedSamples, e.RefusedRequests} {
		for reason, n := range refused {
			j.Rejected[reason] += n
		}
	}
	if f := e.LastRefusal; f != nil {
		j.LastRejection = &rejectionJSON{f.At.UTC().Truncate(time.Millisecond), f.Reason, f.Code, f.Series, f.Detail}
	}
	return j
}

// refused says why a series was not taken of late.
func (r *relay) refused(name string) (exposition.Refusal, bool) {
	f, ok := r.edges.Refusal(name)
	return exposition.Refusal{Edge: f.Edge, At: f.At, Code: f.Code, Reason: f.Reason, Detail: f.Detail}, ok
}

// seconds64 is a TTL in seconds; one that never ends is +Inf.
func seconds64(ttl time.Duration) float64 {
	if ttl == math.MaxInt64 {
		return math.Inf(1)
	}
	return ttl.Seconds()
}

// rounded leaves three digits behind the point.
func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }
