package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// Every limit refuses with the code that its kind has, and says what happened, to
// which series, and which setting changes it. Known series go on.
func TestEveryLimit(t *testing.T) {
	value := func(n int) string { return strings.Repeat("v", n) }
	type push struct {
		method, path string
		body         []byte
		token        string
	}
	write := func(series ...prompb.TimeSeries) push {
		return push{method: http.MethodPost, path: writePath, body: snappyOf(v1Of(t, series...))}
	}
	as := func(token string, p push) push {
		p.token = token
		return p
	}
	many := func(n int) (out []prompb.TimeSeries) {
		for i := range n {
			out = append(out, one(1, "__name__", "many", "i", fmt.Sprint(i)))
		}
		return out
	}
	known := write(one(1, "__name__", "known"))
	wide := one(1, "__name__", "wide")
	for i := range 10 {
		wide.Labels = append(wide.Labels, prompb.Label{Name: fmt.Sprint("l", i), Value: "v"})
	}
	entries := "edges:\n"
	for name, limits := range map[string]string{"few": "series: 2", "narrow": "labels: 4", "bursty": "samples_per_second: 1, samples_burst: 3", "seldom": "requests_per_second: 0.01"} {
		entries += fmt.Sprintf("- name: %s\n  authorization: {credentials_sha256: %x}\n  limits: {%s}\n", name, sha256.Sum256([]byte(name)), limits)
	}
	tested := map[string]bool{
		"--limits.edges":          true, // refuses nobody: the rest count as one (TestHostile/Open, 61)
		"--limits.inflight-bytes": true, // TestHostile/Limits, 38; ingest, TestInflightBudget
	}
	for _, c := range []struct {
		setting string // a flag with its value, or one of the edges file
		push    push
		code    int
		says    []string
	}{
		{"--limits.series=2", write(many(3)...), 400, []string{"many{i=\"2\"}", "1 of 3 refused", "holds 2 series", "(series_limit)"}},
		{"--limits.labels=5", write(wide), 400, []string{"wide{", "11 labels, the limit is 5", "(labels_per_series)"}},
		{"--limits.label-name-bytes=8", write(one(1, "__name__", "m", "longer_than_that", "v")), 400, []string{"m{longer_than_that", "16 bytes, the limit is 8"}},
		{"--limits.label-value-bytes=100", write(one(1, "__name__", "m", "a", value(101))), 400, []string{`label "a" has 101 bytes, the limit is 100`}},
		{"--limits.series-bytes=1KiB", write(one(1, "__name__", "m", "a", value(600), "b", value(600))), 400, []string{"m{", "the limit is 1024"}},
		{"--limits.histogram-buckets=10", write(prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "wide_seconds"}}, Histograms: []prompb.Histogram{{
			Timestamp: time.Now().UnixMilli(), Count: &prompb.Histogram_CountInt{CountInt: 11}, PositiveSpans: []prompb.BucketSpan{{Length: 11}}, PositiveDeltas: []int64{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		}}}), 400, []string{"wide_seconds:", "11 buckets", "the limit is 10", "(histogram_buckets)"}},
		{"--limits.request-bytes=1KiB", push{method: http.MethodPost, path: writePath, body: make([]byte, 2000)}, 413, []string{"over 1024 bytes"}},
		{"--limits.request-bytes=2KiB", push{method: http.MethodPost, path: writePath, body: snappy.Encode(nil, make([]byte, 3000))}, 400, []string{"3000 bytes when decoded, the limit is 2048"}},
		{"--limits.memory=64MiB", write(one(1, "__name__", "fresh")), 400, []string{"fresh:", "no memory left for new series", "(memory_limit)"}},
		{"--limits.groups=1", push{method: http.MethodPut, path: "/metrics/job/second", body: []byte("m 1\n")}, 400, []string{`job="second"`, "holds 1 groups", "(group_limit)"}},
		{"--series.future-tolerance=1m", write(at(1<<50, 1, "__name__", "early")), 400, []string{"early:", "ahead of the relay's clock, the limit is 1m0s"}},
		{"--ingest.name-validation=legacy", write(one(1, "__name__", "a.b")), 400, []string{`"a.b"`, "(metric_name_invalid)"}},
		{"limits.series", as("few", write(many(3)...)), 400, []string{"edge few holds 2 series", "many{edge=\"few\",i=\"2\"}", "(edge_series_limit)"}},
		{"limits.labels", as("narrow", write(wide)), 400, []string{"12 labels, the limit of this edge is 4"}},
		{"limits.samples_burst", as("bursty", write(many(4)...)), 400, []string{"edge bursty, 3"}},
		{"limits.samples_per_second", as("bursty", write(many(3)...)), 429, []string{"edge bursty sends more than 1 samples a second"}},
		{"limits.requests_per_second", as("seldom", known), 429, []string{"edge seldom sends more than 0.01 requests a second"}},
	} {
		name, _, isFlag := strings.Cut(c.setting, "=")
		tested[name] = true
		t.Run(c.setting, func(t *testing.T) {
			flags := []string{c.setting}
			if !isFlag {
				flags = []string{"--edges.file=" + file(t, "edges.yml", entries)}
			}
			base, r := startRelay(t, flags...)
			send := func(p push) (int, string, http.Header) {
				req, err := http.NewRequest(p.method, base+p.path, bytes.NewReader(p.body))
				if err != nil {
					t.Fatal(err)
				}
				if p.token != "" {
					req.Header.Set("Authorization", "Bearer "+p.token)
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				text, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				return res.StatusCode, string(text), res.Header
			}
			switch name { // what has to be there before
			case "--limits.groups":
				send(push{method: http.MethodPut, path: "/metrics/job/first", body: []byte("m 1\n")})
			case "--limits.memory":
				r.store.SetFull(true) // as its keeper does
			case "limits.samples_per_second", "limits.requests_per_second":
				for range 3 {
					send(c.push)
				}
			}
			code, text, header := send(c.push)
			if code != c.code {
				t.Errorf("answered %d %s, want %d", code, text, c.code)
			}
			for _, want := range append(c.says, name) {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q: %s", want, text)
				}
			}
			if code == 429 && header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
			if len(text) > 1024 {
				t.Errorf("senders log 1024 bytes, these are %d", len(text))
			}
		})
	}
	for name := range declared() {
		if strings.HasPrefix(name, "--limits.") && !tested[name] {
			t.Errorf("%s has no test here", name)
		}
	}
}

// A push to a group that is over a limit is refused as a whole, and counted for what it
// was refused; how near that is can be seen before.
func TestGroupsAtTheirLimits(t *testing.T) {
	base, _ := startRelay(t, "--limits.series=8", "--limits.groups=2")
	first := ownPage(t, base)
	for _, reason := range []string{"series_limit", "edge_series_limit", "memory_limit", "group_limit"} {
		if !strings.Contains(first, fmt.Sprintf("relay_refused_requests_total{reason=%q} 0\n", reason)) {
			t.Errorf("%s is not there from the start", reason)
		}
	}
	for _, c := range []struct {
		path, body string
		code       int
	}{
		{"/metrics/job/a", "m 1\n", 200},
		{"/metrics/job/b", "m 1\n", 200},
		{"/metrics/job/c", "m 1\n", 400},
		{"/metrics/job/b", "m 1\nn 1\no 1\np 1\n", 400},
		{"/metrics/job/b", "m{l=\"\xff\"} 1\n", 400},
	} {
		send(t, base, c.code, http.MethodPut, c.path, c.body)
	}
	time.Sleep(censusKept + 10*time.Millisecond)
	page := ownPage(t, base)
	for _, want := range []string{
		`relay_refused_requests_total{reason="group_limit"} 1`, `relay_refused_requests_total{reason="series_limit"} 1`,
		"relay_groups 2", "relay_groups_limit 2",
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(page, `{reason="series"}`) {
		t.Error("a reason that says nothing")
	}
}
