package ingest

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"relay/series"
)

// What real senders have sent is taken, every sample of it, and read as the
// oracles read it. testdata/README.md says what sent it.
func TestCapturedRequests(t *testing.T) {
	files, err := filepath.Glob("../testdata/requests/*.snappy")
	if err != nil || len(files) < 5 {
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
			head, err := os.ReadFile(strings.TrimSuffix(file, ".snappy") + ".headers")
			if err != nil {
				t.Fatal(err)
			}
			header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(head, "\r\n"...)))).ReadMIMEHeader()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := snappy.Decode(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			v, theirs := v1, theirs1
			if strings.Contains(header.Get("Content-Type"), "io.prometheus.write.v2.Request") {
				v, theirs = v2, theirs2
			}
			newest, samples, values := newestSample(t, v, raw)
			withSamples[sender] = withSamples[sender] || samples > 0

			// Whatever the clock of this machine says.
			store := series.New(series.Options{FutureTolerance: 100 * 365 * 24 * time.Hour})
			var headers []string
			for _, name := range []string{"Content-Type", "Content-Encoding", "User-Agent", "X-Relay-Ttl"} {
				if header.Get(name) != "" {
					headers = append(headers, name, header.Get(name))
				}
			}
			got := newRelay(t, Options{Store: store}).send(bytes.NewReader(body), headers...)
			if got.code != 204 {
				t.Errorf("answered %d: %s", got.code, got.body)
			}
			if v == v2 {
				written := 0
				for _, kind := range []string{"Samples", "Histograms"} {
					var n int
					fmt.Sscan(got.header.Get("X-Prometheus-Remote-Write-"+kind+"-Written"), &n)
					written += n
				}
				if written != samples {
					t.Errorf("%d of %d samples were written", written, samples)
				}
			}

			// At the time when it was sent: at any other the samples are too old or
			// too new to be shown, and two empty pages would agree.
			if samples == 0 {
				newest = at.UnixMilli() // metadata alone
			}
			page, res := shownAt(t, newest, ours(v, raw))
			want, wantRes := shownAt(t, newest, theirs(raw))
			if page != want || fmt.Sprint(res) != fmt.Sprint(wantRes) {
				t.Fatalf("got    %+v\n%s\noracle %+v\n%s", res, page, wantRes, want)
			}
			if res.Refused() > 0 || res.Samples+res.Histograms != samples {
				t.Errorf("%d of %d samples taken, %d refused", res.Samples+res.Histograms, samples, res.Refused())
			}
			if values > 0 && !strings.Contains(page, "ttl=") {
				t.Errorf("of %d values none is shown:\n%s", values, page)
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
	res.First = nil // the order in which parts of one series are seen is free
	var p page
	if err := store.Scan(now, series.Query{}, &p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.lines)
	return strings.Join(p.lines, "\n"), res
}

// newestSample is the newest time of a sample, how many there are, and how many of
// them are no stale markers.
func newestSample(t *testing.T, v version, raw []byte) (ms int64, samples, values int) {
	t.Helper()
	ms = math.MinInt64
	see := func(t int64, v float64) {
		ms = max(ms, t)
		samples++
		if !value.IsStaleNaN(v) {
			values++
		}
	}
	if v == v2 {
		var req writev2.Request
		if err := req.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		for _, ts := range req.Timeseries {
			for _, s := range ts.Samples {
				see(s.Timestamp, s.Value)
			}
			for _, h := range ts.Histograms {
				see(h.Timestamp, h.Sum)
			}
		}
		return ms, samples, values
	}
	var req prompb.WriteRequest
	if err := req.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	for _, ts := range req.Timeseries {
		for _, s := range ts.Samples {
			see(s.Timestamp, s.Value)
		}
		for _, h := range ts.Histograms {
			see(h.Timestamp, h.Sum)
		}
	}
	return ms, samples, values
}
