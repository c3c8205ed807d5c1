package ingest

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"relay/series"
)

// What real senders have sent shows the same by our decoder as by the oracles',
// when it was sent: at any other time the samples are too old or too new to be
// shown, and two empty pages would agree.
func TestCapturedContent(t *testing.T) {
	files, err := filepath.Glob("../testdata/requests/*.snappy")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d requests, %v", len(files), err)
	}
	withSamples := map[string]bool{} // by sender
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".snappy")
		sender := strings.TrimRight(name, "0123456789")
		withSamples[sender] = withSamples[sender] || false
		t.Run(name, func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := snappy.Decode(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			head, err := os.ReadFile(strings.TrimSuffix(file, ".snappy") + ".headers")
			if err != nil {
				t.Fatal(err)
			}
			v, theirs := v1, theirs1
			if strings.Contains(string(head), "io.prometheus.write.v2.Request") {
				v, theirs = v2, theirs2
			}
			newest, samples := newestSample(t, v, raw)
			if samples == 0 {
				newest = at.UnixMilli() // metadata alone
			} else {
				withSamples[sender] = true
			}
			got, gotRes := shownAt(t, newest, ours(v, raw))
			want, wantRes := shownAt(t, newest, theirs(raw))
			gotRes.First, wantRes.First = nil, nil
			if got != want || fmt.Sprint(gotRes) != fmt.Sprint(wantRes) {
				t.Fatalf("got    %+v\n%s\noracle %+v\n%s", gotRes, got, wantRes, want)
			}
			if gotRes.Refused() > 0 || gotRes.Samples+gotRes.Histograms != samples {
				t.Errorf("%d of %d samples taken, %d refused", gotRes.Samples+gotRes.Histograms, samples, gotRes.Refused())
			}
			if samples > 0 && !strings.Contains(got, "ttl=") {
				t.Errorf("of %d samples none is shown:\n%s", samples, got)
			}
		})
	}
	for sender, some := range withSamples {
		if !some {
			t.Errorf("%s: no request has a sample", sender)
		}
	}
}

// shownAt is what a store shows of a request at the time it came, and the result.
func shownAt(t *testing.T, ms int64, apply func(*series.Batch) error) (string, series.Result) {
	t.Helper()
	now := time.UnixMilli(ms)
	store := series.New(series.Options{})
	b := store.NewBatch(series.Request{Edge: "e", Received: now, Now: now})
	defer b.Release()
	if err := apply(b); err != nil {
		t.Fatal(err)
	}
	res := b.Commit()
	var p page
	if err := store.Scan(now, series.Query{}, &p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.lines)
	return strings.Join(p.lines, "\n"), res
}

// newestSample is the newest time of a sample, and how many there are.
func newestSample(t *testing.T, v version, raw []byte) (ms int64, samples int) {
	t.Helper()
	ms = math.MinInt64
	see := func(t int64) {
		ms = max(ms, t)
		samples++
	}
	if v == v2 {
		var req writev2.Request
		if err := req.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		for _, ts := range req.Timeseries {
			for _, s := range ts.Samples {
				see(s.Timestamp)
			}
			for _, h := range ts.Histograms {
				see(h.Timestamp)
			}
		}
		return ms, samples
	}
	var req prompb.WriteRequest
	if err := req.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	for _, ts := range req.Timeseries {
		for _, s := range ts.Samples {
			see(s.Timestamp)
		}
		for _, h := range ts.Histograms {
			see(h.Timestamp)
		}
	}
	return ms, samples
}
