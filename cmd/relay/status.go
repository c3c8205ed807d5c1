package main

import (
	"context"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"

	"relay/ingest"
)

// Trends are what the status page draws: a point every historyStep, and what came
// in the last seconds.
type trends struct {
	began time.Time

	mu     sync.Mutex
	recent []reading // newest last, at most recentKept
	end    time.Time // of the newest point
	live   []int
	rate   []float64 // samples per second
	memory []int64
	before reading // at the point before
}

// A reading is what was taken until then.
type reading struct {
	at     time.Time
	totals ingest.Totals
}

const (
	readEvery   = 2 * time.Second
	recentKept  = 6
	historyStep = 10 * time.Second
	historyKept = 360 // points: an hour
)

// keep reads until ctx ends.
func (h *trends) keep(ctx context.Context, r *relay) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.read(now, r)
		}
	}
}

// read takes a reading, and a point where one is due.
func (h *trends) read(now time.Time, r *relay) {
	x := reading{now, r.ingest.Totals()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent = last(append(h.recent, x), recentKept)
	if now.Sub(h.end) < historyStep {
		return
	}
	before := h.before
	if before.at.IsZero() {
		before.at = h.began
	}
	st, _ := r.count.get()
	h.live = last(append(h.live, st.Live), historyKept)
	h.memory = last(append(h.memory, memoryUsed(r.store)), historyKept)
	h.rate = last(append(h.rate, perSecond(before, x, func(t ingest.Totals) uint64 { return t.Samples })), historyKept)
	h.end, h.before = now, x
}

func last[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }

func perSecond(from, to reading, count func(ingest.Totals) uint64) float64 {
	over := to.at.Sub(from.at).Seconds()
	if over <= 0 {
		return 0
	}
	return rounded(float64(count(to.totals)-count(from.totals)) / over)
}

// statusJSON is /api/v1/status.
type statusJSON struct {
	Version struct {
		Version   string `json:"version"`
		Revision  string `json:"revision"`
		Branch    string `json:"branch"`
		GoVersion string `json:"goVersion"`
	} `json:"version"`
	StartTime time.Time         `json:"startTime"`
	Now       time.Time         `json:"now"`
	Ready     bool              `json:"ready"`
	Unready   string            `json:"notReadyBecause,omitempty"`
	Flags     map[string]string `json:"flags"`
	Series    struct {
		Live             int    `json:"live"`
		Held             int    `json:"held"`
		Metrics          int    `json:"metrics"`
		Families         int    `json:"families"`
		ExpiredUnscraped uint64 `json:"expiredUnscraped"`
	} `json:"series"`
	Edges struct {
		Live   int `json:"live"`
		Late   int `json:"late"`
		Silent int `json:"silent"`
	} `json:"edges"`
	Ingest struct {
		Samples  float64 `json:"samplesPerSecond"`
		Requests float64 `json:"requestsPerSecond"`
		Refused  float64 `json:"refusedPerSecond"`
	} `json:"ingest"`
	Scrape struct {
		At       time.Time `json:"lastAt,omitzero"`
		Took     float64   `json:"lastDurationSeconds,omitempty"`
		Bytes    int64     `json:"lastSizeBytes,omitempty"`
		Series   *int      `json:"lastSeries,omitempty"`
		Interval float64   `json:"intervalSeconds,omitempty"`
	} `json:"scrape"`
	Journal struct {
		Mode       string    `json:"mode"`
		Up         bool      `json:"up"`
		Bytes      int64     `json:"bytes"`
		Limit      int64     `json:"limitBytes,omitempty"`
		Replayed   float64   `json:"replayedRatio"`
		Checkpoint time.Time `json:"checkpointAt,omitzero"`
	} `json:"journal"`
	Limits    []limitJSON   `json:"limits"`
	Contested []contestJSON `json:"contested"`
	History   struct {
		Step    int       `json:"stepSeconds"`
		End     time.Time `json:"end,omitzero"`
		Live    []int     `json:"liveSeries"`
		Samples []float64 `json:"samplesPerSecond"`
		Memory  []int64   `json:"memoryBytes"`
	} `json:"history"`
}

type limitJSON struct {
	Name  string `json:"name"`
	Flag  string `json:"flag"`
	Used  int64  `json:"used"`
	Limit int64  `json:"limit"`
}

// contestJSON is two edges that write the same series.
type contestJSON struct {
	Series string    `json:"series"`
	Edges  [2]string `json:"edges"`
	At     time.Time `json:"at"`
}

// status says how the relay is doing, in Prometheus' envelope.
func (r *relay) status(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	st, _ := r.count.get()
	var s statusJSON
	s.Version.Version, s.Version.Revision, s.Version.Branch, s.Version.GoVersion = version.Version, version.GetRevision(), version.Branch, version.GoVersion
	s.StartTime, s.Now, s.Flags = r.trends.began.UTC(), now.UTC(), r.cfg.flags
	s.Unready = r.unready()
	s.Ready = s.Unready == ""

	s.Series.Live, s.Series.Held, s.Series.Metrics, s.Series.Families = st.Live, st.Held, st.Metrics, st.Families
	s.Series.ExpiredUnscraped = r.store.Counters().Missed
	seen := r.edges.Count(now)
	s.Edges.Live, s.Edges.Late, s.Edges.Silent = seen.Live, seen.Late, seen.Silent

	totals := reading{now, r.ingest.Totals()}
	r.trends.mu.Lock()
	from := reading{at: r.trends.began}
	if len(r.trends.recent) > 0 {
		from = r.trends.recent[0]
	}
	s.History.Step, s.History.End = int(historyStep.Seconds()), r.trends.end.UTC()
	s.History.Live = append([]int{}, r.trends.live...)
	s.History.Samples = append([]float64{}, r.trends.rate...)
	s.History.Memory = append([]int64{}, r.trends.memory...)
	r.trends.mu.Unlock()
	s.Ingest.Samples = perSecond(from, totals, func(t ingest.Totals) uint64 { return t.Samples })
	s.Ingest.Requests = perSecond(from, totals, func(t ingest.Totals) uint64 { return t.Requests })
	s.Ingest.Refused = perSecond(from, totals, func(t ingest.Totals) uint64 { return t.Refused })

	if scrape := r.pages.Scrapes(); !scrape.At.IsZero() {
		s.Scrape.At, s.Scrape.Took, s.Scrape.Bytes, s.Scrape.Series = scrape.At.UTC(), scrape.Took.Seconds(), scrape.Bytes, &scrape.Series
		s.Scrape.Interval = rounded(scrape.Interval.Seconds())
	}
	limit := func(name string, used, of int64) {
		if of > 0 {
			s.Limits = append(s.Limits, limitJSON{name, "--limits." + name, used, of})
		}
	}
	limit("series", int64(st.Held), int64(r.cfg.limits.Series))
	limit("memory", memoryUsed(r.store), r.memory)
	limit("edges", int64(st.Edges), int64(r.cfg.limits.Edges))
	limit("groups", int64(st.Groups), int64(r.cfg.limits.Groups))
	limit("inflight-bytes", totals.totals.InflightBytes, totals.totals.InflightLimit)
	s.Journal.Mode = r.cfg.journal
	if r.journal != nil {
		j := r.journal.Status()
		s.Journal.Up, s.Journal.Bytes, s.Journal.Limit, s.Journal.Replayed, s.Journal.Checkpoint = j.Up, j.Bytes, j.Limit, j.Replayed, j.Checkpoint
		select {
		case <-r.replayed: // there may have been nothing to replay
			s.Journal.Replayed = 1
		default:
		}
		if j.Limit > 0 {
			s.Limits = append(s.Limits, limitJSON{"journal.max-bytes", "--journal.max-bytes", j.Bytes, j.Limit})
		}
	}
	s.Contested = []contestJSON{}
	for _, c := range r.store.Contests(now) {
		s.Contested = append(s.Contested, contestJSON{c.Series, c.Edges, c.At})
	}
	writeJSON(w, map[string]any{"status": "success", "data": s})
}

// inURL are credentials in an address.
var inURL = regexp.MustCompile(`://[^/@\s]*@`)

// flagValues are the flags as they are in force, without secrets.
func flagValues(app *kingpin.Application) map[string]string {
	values := map[string]string{}
	for _, f := range app.Model().Flags {
		if !f.Hidden && f.Name != "help" && f.Name != "version" {
			value := inURL.ReplaceAllString(f.Value.String(), "://xxxxx@")
			if value == "<nil>" || value == "[]" {
				value = "" // an address or a list that was not given
			}
			values[f.Name] = value
		}
	}
	return values
}
