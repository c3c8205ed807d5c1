package edges

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"relay/series"
)

var t0 = time.UnixMilli(1_700_000_000_000)

// accepted is the result of a request with n samples.
func accepted(n int, ttl time.Duration) *series.Result {
	return &series.Result{Samples: n, Granted: series.TTLOf(ttl)}
}

func refused(reason series.Reason, series_ string) *series.Result {
	res := &series.Result{First: &series.Rejection{Reason: reason, Series: series_, Detail: "why"}}
	res.Rejected[reason] = 3
	return res
}

func report(t *testing.T, r *Registry, name string, now time.Time) *Report {
	t.Helper()
	for _, p := range r.Reports(now) {
		if p.Name == name {
			return &p
		}
	}
	t.Fatalf("%s is not reported", name)
	return nil
}

func TestStates(t *testing.T) {
	r := New(time.Hour, 10, nil)
	state := func(after time.Duration, want State) {
		t.Helper()
		if got := report(t, r, "shop", t0.Add(after)); got.State != want || got.Silent != (after >= 90*time.Second) {
			t.Errorf("after %s: %s, silent %v, want %s", after, got.State, got.Silent, want)
		}
	}
	r.Took("shop", t0, 204, accepted(10, 90*time.Second))
	state(0, Live)
	state(45*time.Second, Live)
	state(46*time.Second, Late)
	state(90*time.Second, Silent)
	// All of a request is refused, then part of one, then a request as a whole.
	r.Took("shop", t0.Add(time.Second), 400, refused(series.SeriesLimit, "a"))
	state(2*time.Second, Refused)
	part := accepted(1, 90*time.Second)
	part.First, part.Rejected = refused(series.LabelInvalid, "b").First, refused(series.LabelInvalid, "b").Rejected
	r.Took("shop", t0, 400, part)
	state(3*time.Second, Live)
	r.TookNothing(&Refusal{Edge: "shop", At: t0.Add(3 * time.Second), Code: 429, Reason: "sample_rate", Detail: "too many"}, true)
	state(4*time.Second, Refused)
	r.Took("shop", t0, 202, &series.Result{Samples: 4, Deduplicated: true})
	state(4*time.Second, Refused)
	r.Took("shop", t0, 204, accepted(10, 90*time.Second))
	// Who only says to be the edge does not speak for it, unless it is silent anyway.
	r.TookNothing(&Refusal{Edge: "shop", At: t0.Add(5 * time.Second), Code: 401, Reason: "credentials"}, false)
	state(6*time.Second, Live)
	state(91*time.Second, Refused)

	p := report(t, r, "shop", t0)
	if fmt.Sprint(p.RefusedSamples, p.RefusedRequests) != "map[label_invalid:3 series_limit:3] map[credentials:1 sample_rate:1]" || p.Samples != 21 || p.Requests != 6 {
		t.Errorf("%+v", p)
	}
	if f, ok := r.Refusal("b"); !ok || f.Edge != "shop" || f.Code != 400 || f.Reason != "label_invalid" || f.Detail != "why" {
		t.Errorf("%+v", f)
	}
	if _, ok := r.Refusal("c"); ok {
		t.Error("a refusal of what was never refused")
	}
}

// Names that anybody can make up take no more room than there is.
func TestActivityIsBounded(t *testing.T) {
	r := New(time.Hour, 3, nil)
	for i := range 5000 {
		r.TookNothing(&Refusal{Edge: fmt.Sprint("made-up-", i), At: t0, Code: 400, Reason: "malformed"}, true)
	}
	for i := range 6 {
		r.Took(fmt.Sprint("shop-", i), t0, 204, accepted(1, time.Minute))
	}
	for i := range 5000 {
		r.Took("shop-1", t0, 400, refused(series.SeriesLimit, fmt.Sprint("made_up_", i)))
	}
	if len(r.activities) != 4 || r.strangers.Len() != maxStrangers || r.refusals.Len() != maxRefusals {
		t.Errorf("%d, %d, %d", len(r.activities), r.strangers.Len(), r.refusals.Len())
	}
	if p := report(t, r, series.OtherEdge, t0); p.Requests != 3 || p.State != Live || p.TTL != time.Minute {
		t.Errorf("%+v", p)
	}
	if p := report(t, r, "made-up-4999", t0); p.State != Refused || !p.Silent || !p.LastSeen.IsZero() {
		t.Errorf("%+v", p)
	}
	if list := r.List(t0); len(list) != 4 { // three, and what is beyond them
		t.Errorf("targets for %d edges, of which nothing was accepted", len(list))
	}
	if list := r.Reports(t0.Add(2*time.Hour + time.Minute)); len(list) != 0 || len(r.activities) != 0 || r.strangers.Len() != 0 {
		t.Errorf("not forgotten: %+v, %d, %d", list, len(r.activities), r.strangers.Len())
	}
}

func TestConfiguredEdges(t *testing.T) {
	g, _, _ := guarding(t, "edges:\n- name: rome\n  limits: {series: 100}\n  authorization: {credentials_sha256: "+digestOf("r")+"}\n- name: oslo\n  enabled: false\n  authorization: {credentials_sha256: "+digestOf("o")+"}\n")
	r := New(time.Hour, 10, g)
	if list := r.Reports(t0); len(list) != 1 || list[0].State != Silent || !list[0].Configured || list[0].MaxSeries != 100 {
		t.Errorf("%+v", list)
	}
	if w := report(t, r, "rome", t0).Warnings(86, 0, time.Minute); len(w) != 1 || !strings.Contains(w[0], "86 of 100 series") {
		t.Errorf("%q", w)
	}
	r.Took("gone", t0, 400, refused(series.SeriesLimit, "a")) // taken out of the file meanwhile
	if list := r.Reports(t0); len(list) != 1 || len(r.activities) != 0 {
		t.Errorf("%+v", list)
	}
}

func TestPace(t *testing.T) {
	r := New(time.Hour, 10, nil)
	at := t0
	for range 40 { // ten minutes
		r.Took("shop", at, 204, accepted(300, time.Minute))
		at = at.Add(15 * time.Second)
	}
	if p := report(t, r, "shop", at); math.Abs(p.SamplesPerSecond-20) > 3 || math.Abs(p.RequestsPerSecond-1./15) > .01 {
		t.Errorf("%v samples/s, %v requests/s", p.SamplesPerSecond, p.RequestsPerSecond)
	}
	if p := report(t, r, "shop", at.Add(2*time.Minute)); p.SamplesPerSecond != 0 || p.RequestsPerSecond != 0 {
		t.Errorf("after two minutes of nothing: %v, %v", p.SamplesPerSecond, p.RequestsPerSecond)
	}
}

// The interval at which series come, whatever the requests do.
func TestLearnedInterval(t *testing.T) {
	type request struct {
		after, interval time.Duration
	}
	steady := func(shards int, every, interval time.Duration) (list []request) {
		for range 12 {
			list = append(list, request{every, interval})
			for range shards - 1 {
				list = append(list, request{20 * time.Millisecond, interval})
			}
		}
		return list
	}
	for _, c := range []struct {
		name     string
		requests []request
		want     time.Duration
	}{
		{"one shard", steady(1, 15*time.Second, 15*time.Second), 15 * time.Second},
		{"batches more often than scrapes", steady(1, 5*time.Second, 15*time.Second), 15 * time.Second},
		{"ten shards", steady(10, 5*time.Second, 30*time.Second), 30 * time.Second},
		{"series that are forgotten in between", steady(1, 5*time.Minute, 0), 5 * time.Minute},
		{"ten shards of them", steady(10, 5*time.Minute, 0), 5 * time.Minute},
		{"an outage", append(steady(1, 15*time.Second, 15*time.Second), request{time.Hour, time.Hour}), 15 * time.Second},
		{"an outage of those forgotten", append(steady(1, time.Minute, 0), request{time.Hour, 0}), time.Minute},
		{"one request", []request{{0, 0}}, 0},
	} {
		r := New(time.Hour, 10, nil)
		at := t0
		for _, q := range c.requests {
			at = at.Add(q.after)
			res := accepted(5, 10*time.Second)
			res.Interval = q.interval.Milliseconds()
			r.Took("shop", at, 204, res)
		}
		p := report(t, r, "shop", at)
		if got := p.Interval; got < c.want*9/10 || got > c.want*11/10 {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if w := p.Warnings(0, 0, time.Minute); (len(w) == 1) != (c.want > 10*time.Second) {
			t.Errorf("%s: %q", c.name, w)
		}
	}
}

func TestSkew(t *testing.T) {
	for _, c := range []struct {
		ahead         []time.Duration // of the newest sample of each request
		refused       bool
		want          time.Duration
		warns, newest bool
	}{
		{[]time.Duration{-4 * time.Second, -200 * time.Millisecond, -3 * time.Second}, false, -200 * time.Millisecond, false, true},
		{[]time.Duration{7 * time.Second, 12 * time.Second, 9 * time.Second}, false, 12 * time.Second, true, true},
		{[]time.Duration{-5 * time.Minute, -4 * time.Minute}, false, -4 * time.Minute, true, true},
		{[]time.Duration{time.Hour}, true, time.Hour, true, false},
		{[]time.Duration{12 * time.Second, 0, 0, 0, 0, 0, 0, 0, 0}, false, 0, false, true}, // set right since
	} {
		r := New(time.Hour, 10, nil)
		at := t0
		for _, ahead := range c.ahead {
			at = at.Add(5 * time.Second)
			res := accepted(1, time.Minute)
			if c.refused {
				res = refused(series.TooFarInFuture, "a")
			}
			res.Newest, res.Timed = at.Add(ahead).UnixMilli(), true
			r.Took("shop", at, 204, res)
		}
		p := report(t, r, "shop", at)
		if w := p.Warnings(0, 0, time.Minute); p.Skew != c.want || !p.Skewed || (len(w) > 0) != c.warns || p.Newest.IsZero() == c.newest {
			t.Errorf("%v: %s, newest %s, %q", c.ahead, p.Skew, p.Newest, w)
		}
	}
	r := New(time.Hour, 10, nil)
	for _, newest := range []int64{math.MinInt64, math.MaxInt64} {
		res := accepted(1, time.Minute)
		res.Newest, res.Timed = newest, true
		r.Took("shop", t0, 204, res)
	}
	if p := report(t, r, "shop", t0); p.Skew != maxSkew*time.Millisecond {
		t.Errorf("%s", p.Skew)
	}
}

func TestScrapeIntervalWarning(t *testing.T) {
	r := New(time.Hour, 10, nil)
	r.Took("shop", t0, 204, accepted(1, 10*time.Second))
	r.Took("batch", t0, 204, &series.Result{Samples: 1, Granted: series.Forever})
	shop, batch := report(t, r, "shop", t0), report(t, r, "batch", t0)
	if w := shop.Warnings(0, 30*time.Second, time.Minute); len(w) != 1 || !strings.Contains(w[0], "10s is shorter than the centre's scrape interval of 30s") {
		t.Errorf("%q", w)
	}
	if w := append(shop.Warnings(0, 10*time.Second, time.Minute), batch.Warnings(0, 24*time.Hour, time.Minute)...); len(w) != 0 {
		t.Errorf("%q", w)
	}
}

// What is told is whole, whoever asks while requests come; for the race detector.
func TestActivityWhileItIsReported(t *testing.T) {
	r := New(time.Hour, 50, nil)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 500 {
				name := fmt.Sprint("shop-", (i*7+w)%80)
				switch i % 4 {
				case 0:
					r.Took(name, t0.Add(time.Duration(i)*time.Second), 400, refused(series.SeriesLimit, name))
				case 1:
					r.TookNothing(&Refusal{Edge: name, At: t0, Reason: "malformed"}, w%2 == 0)
				default:
					r.Took(name, t0.Add(time.Duration(i)*time.Second), 204, accepted(3, time.Minute))
				}
			}
		})
	}
	for range 100 {
		for _, p := range r.Reports(t0.Add(time.Minute)) {
			if n := p.RefusedSamples["series_limit"]; n%3 != 0 || p.LastRefusal != nil && p.LastRefusal.Edge != p.Name && p.Name != series.OtherEdge {
				t.Fatalf("%+v", p)
			}
			r.Refusal(p.Name)
		}
	}
	all.Wait()
	total := uint64(0)
	for _, p := range r.Reports(t0.Add(time.Minute)) {
		total += p.Samples
	}
	if total != 4*250*3 {
		t.Errorf("%d samples in all", total)
	}
}

// What a request costs beyond its samples.
func BenchmarkTook(b *testing.B) {
	r := New(time.Hour, 10_000, nil)
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprint("shop-", i)
		r.Took(names[i], t0, 204, accepted(2000, time.Minute))
	}
	res := accepted(2000, time.Minute)
	res.Newest, res.Timed, res.Interval = t0.UnixMilli(), true, 15_000
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Took(names[i%len(names)], t0.Add(time.Duration(i)*time.Millisecond), 204, res)
		i++
	}
}

func BenchmarkReports(b *testing.B) {
	r := New(time.Hour, 10_000, nil)
	for i := range 10_000 {
		for k := range 40 {
			res := accepted(2000, time.Minute)
			res.Newest, res.Timed, res.Interval = t0.UnixMilli(), true, 15_000
			r.Took(fmt.Sprint("shop-", i), t0.Add(time.Duration(k)*time.Second), 204, res)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Reports(t0.Add(time.Minute))
	}
}
