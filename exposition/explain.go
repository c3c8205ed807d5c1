package exposition

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"relay/series"
)

// A Refusal is why a series was not taken.
type Refusal struct {
	Edge   string
	At     time.Time
	Code   int    // of the answer
	Reason string // as in the metrics
	Detail string // what happened and which setting changes it
}

// explained is the answer of /api/v1/explain.
type explained struct {
	Series string   `json:"series"`
	State  string   `json:"state"` // a series.Fate, refused or unknown
	Story  []string `json:"story"` // what happened, in words, the latest last

	Edge       string    `json:"edge,omitempty"`
	Group      string    `json:"group,omitempty"` // labels
	SampleTime time.Time `json:"sampleTime,omitzero"`
	Received   time.Time `json:"received,omitzero"`
	Value      string    `json:"value,omitempty"`
	TTL        *float64  `json:"ttlSeconds,omitempty"` // nil: for ever
	Deadline   time.Time `json:"deadline,omitzero"`
	Forgotten  time.Time `json:"forgottenAt,omitzero"`
	Near       []string  `json:"near"` // live series like it, if nothing is known of it
}

// Explain answers GET /api/v1/explain?series=name{label="value",...}: the history
// that is known of one series, in words, in Prometheus' envelope.
func (h *Handler) Explain(w http.ResponseWriter, r *http.Request) {
	name, packed, err := h.oneSeries(r.URL.Query().Get("series"))
	if err != nil {
		writeEnvelope(w, http.StatusBadRequest, map[string]any{"status": "error", "errorType": "bad_data", "error": err.Error()})
		return
	}
	if !h.awaitReplay(w, r) {
		return
	}
	writeEnvelope(w, http.StatusOK, map[string]any{"status": "success", "data": h.explain(time.Now(), name, packed)})
}

// oneSeries reads a selector that names all labels of one series.
func (h *Handler) oneSeries(selector string) (model.Metric, []byte, error) {
	if selector == "" {
		return nil, nil, errors.New(`series must be given: all labels of one, as in up{job="node"}`)
	}
	matchers, err := h.parser.ParseMetricSelector(selector)
	if err != nil {
		return nil, nil, fmt.Errorf("series %.200q: %w", selector, err)
	}
	name := model.Metric{}
	var pairs [][2]string
	for _, m := range matchers {
		if m.Type != labels.MatchEqual {
			return nil, nil, fmt.Errorf("series %.200q: want one series, all its labels with =, not %s", selector, m)
		}
		if had, twice := name[model.LabelName(m.Name)]; twice && string(had) != m.Value {
			return nil, nil, fmt.Errorf("series %.200q: label %s twice", selector, m.Name)
		} else if !twice {
			pairs = append(pairs, [2]string{m.Name, m.Value})
		}
		name[model.LabelName(m.Name)] = model.LabelValue(m.Value)
	}
	return name, series.CanonicalLabels(pairs), nil
}

func (h *Handler) explain(now time.Time, name model.Metric, packed []byte) *explained {
	x := &explained{Series: name.String(), State: "unknown", Story: []string{}, Near: []string{}}
	past, known := h.opts.Store.Lookup(now, packed)
	if known {
		_, bound := name["le"]
		h.tell(x, &past, now, past.Native && bound)
	}
	printed := series.FormatLabels(packed)
	for _, c := range h.opts.Store.Contests(now) {
		if c.Series == printed {
			x.say("Edges %s and %s write it in turns, the last time at %s: the later sample of the two is shown.", c.Edges[0], c.Edges[1], clock(c.At))
		}
	}
	if h.opts.Refused != nil {
		if f, ok := h.opts.Refused(printed); ok {
			x.say("Edge %s sent it at %s, %s ago, and it was refused: %s (%s, answered %d).", f.Edge, clock(f.At), ago(now, f.At), f.Detail, f.Reason, f.Code)
			if !known || past.Fate != series.FateLive && f.At.After(past.Received) {
				x.State, x.Edge = "refused", f.Edge
			}
		}
	}
	if x.State == "unknown" {
		x.say("Nothing is known of it: it was not sent since the relay's memory begins, or it is forgotten. All labels must be given, those that the edges file forces included.")
		h.near(x, now, name)
	}
	return x
}

func (x *explained) say(format string, args ...any) {
	x.Story = append(x.Story, fmt.Sprintf(format, args...))
}

// tell says what the store knows. unshown: no page can have it.
func (h *Handler) tell(x *explained, p *series.Past, now time.Time, unshown bool) {
	x.State, x.Edge, x.SampleTime, x.Received = string(p.Fate), p.Edge, p.Time, p.Received
	x.TTL = inSeconds(p.TTL)
	forgotten := ""
	if p.Remembered != series.Forever {
		x.Forgotten = now.Add(p.Remembered.Duration()).UTC().Truncate(time.Millisecond)
		forgotten = "until " + clock(x.Forgotten)
	} else {
		forgotten = "for ever"
	}
	if p.Group != nil {
		x.Group = series.FormatLabels(p.Group)
	}
	if p.Fate == series.FateDeleted {
		x.TTL = nil
		x.say("It was deleted at %s, %s ago: by the admin API, or because its group was deleted or replaced.", clock(p.Received), ago(now, p.Received))
		x.say("It is remembered %s: until then only a sample newer than %s brings it back.", forgotten, clock(p.Time))
		return
	}
	what := "a native histogram"
	if p.Fate == series.FateEnded {
		what = "a stale marker"
	} else if !p.Native {
		x.Value = strconv.FormatFloat(p.Value, 'g', -1, 64)
		what = x.Value
	}
	late := p.Received.Sub(p.Time)
	when := fmt.Sprintf("%s after its own time, %s", late.Round(time.Millisecond), clock(p.Time))
	if late < 0 {
		when = fmt.Sprintf("%s before its own time, %s: the edge's clock is ahead", (-late).Round(time.Millisecond), clock(p.Time))
	}
	x.say("Edge %s sent %s. It was received at %s, %s.", p.Edge, what, clock(p.Received), when)
	if x.Group != "" {
		x.say("It was pushed to the group %s, and lives as that does.", x.Group)
	}
	switch p.Fate {
	case series.FateEnded:
		x.say("The stale marker ended it: its sender says that it is gone, as a Prometheus does for a target that is down or has dropped it, and when it stops.")
		x.say("It is remembered %s: until then only a sample newer than %s brings it back.", forgotten, clock(p.Time))
	case series.FateLive:
		if p.Left == series.Forever {
			x.say("Its TTL never ends: it stays until it is replaced, ended or deleted.")
		} else {
			x.Deadline = now.Add(p.Left.Duration()).UTC().Truncate(time.Millisecond)
			x.say("Its TTL is %s: it lives until %s, %s from now, unless a newer sample comes.", p.TTL, clock(x.Deadline), p.Left.Duration().Round(100*time.Millisecond))
		}
		if unshown {
			x.say("It is on no page: a native histogram cannot have a label le, which its buckets have.")
		} else if last := h.scrapes.lastWhole(); last.After(p.Received) {
			x.say("It was on the page that was scraped at %s.", clock(last))
		}
	case series.FateExpired:
		x.Deadline = now.Add(p.Left.Duration()).UTC().Truncate(time.Millisecond)
		x.say("Its TTL was %s, and no newer sample came: it expired at %s, %s ago.", p.TTL, clock(x.Deadline), (-p.Left).Duration().Round(100*time.Millisecond))
		if h.opts.Edges != nil && h.opts.Edges.Silent(p.Edge, now) {
			x.say("The edge %s is silent.", p.Edge)
		} else {
			x.say("The edge %s pushes, but not this series.", p.Edge)
		}
		x.say("It is remembered %s: until then only a sample newer than %s revives it.", forgotten, clock(p.Time))
	}
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func ago(now, t time.Time) time.Duration { return now.Sub(t).Round(100 * time.Millisecond) }

// How many series of a metric are looked at, and how many are shown.
const (
	maxCompared = 20_000
	maxNear     = 10
)

// near finds live series of the same metric with the most labels in common.
func (h *Handler) near(x *explained, now time.Time, name model.Metric) {
	metric := string(name[model.MetricNameLabel])
	if metric == "" {
		return
	}
	v := &likeness{to: name}
	h.opts.Store.Scan(now, series.Query{Matchers: [][]series.Matcher{{{Name: model.MetricNameLabel, Matches: func(s string) bool { return s == metric }}}}}, v)
	for _, l := range v.best {
		x.Near = append(x.Near, l.name)
	}
	if len(x.Near) > 0 {
		x.say("Live series of the same metric are near it.")
	}
}

type likeness struct {
	to       model.Metric
	compared int
	best     []like // the best first, at most maxNear
}

type like struct {
	score int
	name  string
}

func (l *likeness) BeginFamily(*series.Family) {}
func (l *likeness) EndFamily(*series.Family)   {}

var errEnough = errors.New("enough was compared")

func (l *likeness) Flush() error {
	if l.compared > maxCompared {
		return errEnough
	}
	return nil
}

func (l *likeness) Series(_ *series.Family, s *series.Series) {
	l.compared++
	score := 0
	for p := range s.Pairs {
		score-- // what it has besides
		if v, ok := l.to[model.LabelName(p.Name)]; ok {
			score += 2
			if string(v) == string(p.Value) {
				score += 2
			}
		}
	}
	if len(l.best) == maxNear && score <= l.best[maxNear-1].score {
		return
	}
	name := model.Metric{model.MetricNameLabel: model.LabelValue(s.Name)}
	for p := range s.Pairs {
		name[model.LabelName(p.Name)] = model.LabelValue(p.Value)
	}
	if len(l.best) == maxNear {
		l.best = l.best[:maxNear-1]
	}
	l.best = append(l.best, like{score, name.String()})
	slices.SortStableFunc(l.best, func(a, b like) int { return cmp.Compare(b.score, a.score) })
}
