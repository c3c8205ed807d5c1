package exposition

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"relay/series"
)

// silences are edges that are silent.
type silences map[string]bool

func (s silences) Silent(name string, _ time.Time) bool { return s[name] }

func TestExplain(t *testing.T) {
	store := series.New(series.Options{})
	begun := time.Now()
	at := func(after time.Duration) time.Time { return begun.Add(after) }
	send := func(after time.Duration, edge string, ttl series.TTL, group *series.Group, name string, sampled time.Duration, v float64) {
		t.Helper()
		b := store.NewBatch(series.Request{Edge: edge, TTL: ttl, Received: at(after), Now: at(after), Group: group})
		defer b.Release()
		if name != "" {
			b.Series(set("__name__", name, "job", "node"))
			b.Float(at(sampled).UnixMilli(), v, 0)
		}
		if res := b.Commit(); res.Refused() > 0 {
			t.Fatal(res.First)
		}
	}
	stale := math.Float64frombits(0x7ff0000000000002)
	group := func() *series.Group { return &series.Group{Labels: set("job", "backup"), Ends: series.EndsAll} }
	send(0, "shop", 90_000, nil, "live", -200*time.Millisecond, 42.5)
	b := store.NewBatch(series.Request{Edge: "shop", TTL: 90_000, Received: begun, Now: begun})
	b.Series(set("__name__", "native", "le", "1"))
	b.Histogram(begun.UnixMilli(), &series.Histogram{}, 0)
	b.Commit()
	b.Release()
	send(0, "shop", 90_000, nil, "fast", 3*time.Second, 1)
	send(0, "shop", 10_000, nil, "gone", 0, 7)
	send(0, "ship", 10_000, nil, "quiet", 0, 7)
	send(0, "shop", 90_000, nil, "ended", 0, 1)
	send(time.Second, "shop", 90_000, nil, "ended", time.Second, stale)
	send(0, "shop", series.Forever, group(), "pushed", 0, 5)
	send(0, "shop", series.Forever, &series.Group{Labels: set("job", "deleted"), Ends: series.EndsAll}, "deleted", 0, 5)
	send(2*time.Second, "shop", 0, &series.Group{Labels: set("job", "deleted"), Ends: series.EndsAll}, "", 0, 0)
	for i := range 3 {
		send(time.Duration(i)*time.Second, []string{"a", "b"}[i%2], 90_000, nil, "contested", time.Duration(i)*time.Second, 1)
	}
	refusals := map[string]Refusal{
		`refused{job="node"}`: {Edge: "shop", At: at(4 * time.Second), Code: 400, Reason: "series_limit", Detail: "the relay holds 5 series"},
		`gone{job="node"}`:    {Edge: "shop", At: at(5 * time.Second), Code: 400, Reason: "too_far_in_future", Detail: "its time is far ahead"},
		`live{job="node"}`:    {Edge: "shop", At: at(5 * time.Second), Code: 400, Reason: "too_far_in_future", Detail: "its time is far ahead"},
	}
	h, err := New(Options{Store: store, Edges: silences{"ship": true}, Refused: func(name string) (Refusal, bool) {
		f, ok := refusals[name]
		return f, ok
	}})
	if err != nil {
		t.Fatal(err)
	}
	now := at(20 * time.Second)
	h.scrapes.whole = at(15 * time.Second)
	for _, c := range []struct {
		series, state string
		says          []string // of the story, a piece of each sentence
		value         string
		left          time.Duration // from now on; 0: no deadline
		remembered    time.Duration
	}{
		{`live{job="node"}`, "live", []string{"Edge shop sent 42.5.", "Its TTL is 1m30s: it lives until", "It was on the page that was scraped at " + clock(at(15*time.Second)), "was refused: its time is far ahead (too_far_in_future, answered 400)"}, "42.5", 70 * time.Second, 130 * time.Second},
		{`native{le="1"}`, "live", []string{"Edge shop sent a native histogram.", "Its TTL is", "It is on no page"}, "", 70 * time.Second, 130 * time.Second},
		{`fast{job="node"}`, "live", []string{"3s before its own time", "", ""}, "1", 70 * time.Second, 133 * time.Second},
		{`gone{job="node"}`, "refused", []string{"Edge shop sent 7.", "Its TTL was 10s, and no newer sample came: it expired at", "The edge shop pushes, but not this series.", "only a sample newer than " + clock(at(0)), "15s ago, and it was refused"}, "7", -10 * time.Second, 50 * time.Second},
		{`quiet{job="node"}`, "expired", []string{"Edge ship sent 7.", "10s ago.", "The edge ship is silent.", "only a sample newer than"}, "7", -10 * time.Second, 50 * time.Second},
		{`ended{job="node"}`, "ended", []string{"Edge shop sent a stale marker.", "The stale marker ended it", "only a sample newer than " + clock(at(time.Second))}, "", 0, 131 * time.Second},
		{`pushed{job="node"}`, "live", []string{"Edge shop sent 5.", `group {job="backup"},`, "Its TTL never ends", "scraped"}, "5", 0, 0},
		{`deleted{job="node"}`, "deleted", []string{"It was deleted at " + clock(at(2*time.Second)) + ", 18s ago", "only a sample newer than " + clock(at(2*time.Second))}, "", 0, 102 * time.Second},
		{`contested{job="node"}`, "live", []string{"Edge a sent 1.", "", "scraped", "Edges a and b write it in turns"}, "1", 72 * time.Second, 132 * time.Second},
		{`refused{job="node"}`, "refused", []string{"Edge shop sent it at " + clock(at(4*time.Second)) + ", 16s ago, and it was refused: the relay holds 5 series (series_limit, answered 400)."}, "", 0, 0},
		{`live{job="nodes"}`, "unknown", []string{"Nothing is known of it", "near it"}, "", 0, 0},
		{`{__name__="live",job="node",empty=""}`, "live", []string{"", "", "", ""}, "42.5", 70 * time.Second, 130 * time.Second},
		{`nothing`, "unknown", []string{"Nothing is known of it"}, "", 0, 0},
		{`{job="node"}`, "unknown", []string{"Nothing is known of it"}, "", 0, 0},
	} {
		name, packed, err := h.oneSeries(c.series)
		if err != nil {
			t.Errorf("%s: %v", c.series, err)
			continue
		}
		x := h.explain(now, name, packed)
		if x.State != c.state || x.Value != c.value || len(x.Story) != len(c.says) {
			t.Errorf("%s: %s %q, want %s %q\n%s", c.series, x.State, x.Value, c.state, c.value, strings.Join(x.Story, "\n"))
			continue
		}
		for i, want := range c.says {
			if !strings.Contains(x.Story[i], strings.TrimSuffix(want, ".")) {
				t.Errorf("%s: sentence %d: %q, want %q", c.series, i, x.Story[i], want)
			}
		}
		near := func(what string, got time.Time, want time.Duration) {
			t.Helper()
			if want == 0 != got.IsZero() || want != 0 && got.Sub(now.Add(want)).Abs() > time.Second {
				t.Errorf("%s: %s %s, want %s", c.series, what, got.Sub(now), want)
			}
		}
		near("deadline", x.Deadline, c.left)
		near("forgotten", x.Forgotten, c.remembered)
	}
	name, packed, _ := h.oneSeries(`live{job="nodes",zone="x"}`)
	if x := h.explain(now, name, packed); fmt.Sprint(x.Near) != `[live{job="node"}]` {
		t.Errorf("near: %q", x.Near)
	}
	// When it is forgotten, it is not known.
	name, packed, _ = h.oneSeries(`quiet{job="node"}`)
	if x := h.explain(at(69*time.Second), name, packed); x.State != "expired" {
		t.Errorf("%+v", x)
	}
	if x := h.explain(at(71*time.Second), name, packed); x.State != "unknown" {
		t.Errorf("%+v", x)
	}
}

func TestExplainAnswers(t *testing.T) {
	store := series.New(series.Options{})
	push(t, store, "shop", func(b *series.Batch) {
		for i := range 30 {
			b.Series(set("__name__", "up", "i", fmt.Sprint(i), "job", "node"))
			b.Float(time.Now().UnixMilli(), 1, 0)
		}
	})
	ready := make(chan struct{})
	h, err := New(Options{Store: store, Ready: ready})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ask := func(selector string) (int, string) {
		w := httptest.NewRecorder()
		h.Explain(w, httptest.NewRequest("GET", "/api/v1/explain?series="+url.QueryEscape(selector), nil).WithContext(ctx))
		return w.Code, w.Body.String()
	}
	cancel()
	if code, body := ask(`up{job="node"}`); code != 503 || !strings.Contains(body, "replaying") {
		t.Errorf("%d %s", code, body)
	}
	ctx = t.Context()
	close(ready)
	for selector, want := range map[string]string{
		"": "all labels of one", "up{": "parse error", `up{job=~"node"}`: "want one series", `up{job!="node"}`: "want one series", `up{job="a",job="b"}`: "twice",
	} {
		if code, body := ask(selector); code != 400 || !strings.Contains(body, want) || !strings.Contains(body, `"errorType":"bad_data"`) {
			t.Errorf("%s: %d %s, want %s", selector, code, body, want)
		}
	}
	code, body := ask(`up{job="node",i="77"}`)
	var answer struct{ Data explained }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 200 || answer.Data.State != "unknown" || len(answer.Data.Near) != maxNear || answer.Data.Series != `up{i="77", job="node"}` {
		t.Errorf("%d %s", code, body)
	}
}
