package main

import (
	"bytes"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

var update = flag.Bool("update", false, "write testdata/pages anew")

// pages are the formats, by the name of their file in testdata/pages.
var pages = map[string]string{
	"text-0.0.4.txt":  "text/plain;version=0.0.4",
	"text-1.0.0.txt":  "text/plain;version=1.0.0;escaping=allow-utf-8",
	"openmetrics.txt": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
	"protobuf.bin":    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8",
}

// shopRequest is what a usual edge sends: each type of metric once, names beyond
// the old character set, a native histogram.
func shopRequest(now int64) *prompb.WriteRequest {
	req := &prompb.WriteRequest{Metadata: []prompb.MetricMetadata{
		{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "http_requests_total", Help: "Requests."},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "temperature_celsius", Help: "How warm\nit is.", Unit: "celsius"},
		{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "latency_seconds", Help: "Latency.", Unit: "seconds"},
		{Type: prompb.MetricMetadata_SUMMARY, MetricFamilyName: "rpc_seconds", Help: "RPCs."},
		{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "native_seconds", Help: "Native."},
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "car.speed", Help: "OpenTelemetry's names."},
	}}
	add := func(v float64, labels ...string) *prompb.TimeSeries {
		ts := prompb.TimeSeries{Samples: []prompb.Sample{{Value: v, Timestamp: now}}}
		for i := 0; i < len(labels); i += 2 {
			ts.Labels = append(ts.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
		}
		req.Timeseries = append(req.Timeseries, ts)
		return &req.Timeseries[len(req.Timeseries)-1]
	}
	add(12, "__name__", "http_requests_total", "code", "200", "instance", "shop:80").Exemplars = []prompb.Exemplar{
		{Labels: []prompb.Label{{Name: "trace_id", Value: "abc"}}, Value: 1, Timestamp: now},
	}
	add(21.5, "__name__", "temperature_celsius", "room", "the \"back\"\nroom")
	for _, b := range []struct {
		le string
		n  float64
	}{{"0.1", 3}, {"1.0", 9}, {"+Inf", 10}} {
		add(b.n, "__name__", "latency_seconds_bucket", "instance", "shop:80", "le", b.le)
	}
	add(10, "__name__", "latency_seconds_count", "instance", "shop:80")
	add(4.25, "__name__", "latency_seconds_sum", "instance", "shop:80")
	add(0.5, "__name__", "rpc_seconds", "quantile", "0.5")
	add(7, "__name__", "rpc_seconds_count")
	add(3.5, "__name__", "rpc_seconds_sum")
	add(88, "__name__", "car.speed", "unit.name", "km/h")
	add(1, "__name__", "without_metadata", "__ttl__", "1h")
	h := add(0, "__name__", "native_seconds", "instance", "shop:80")
	h.Samples = nil
	h.Histograms = []prompb.Histogram{{
		Count: &prompb.Histogram_CountInt{CountInt: 3}, Sum: 2.5, Schema: 3, ZeroThreshold: 1e-128,
		ZeroCount:     &prompb.Histogram_ZeroCountInt{ZeroCountInt: 0},
		PositiveSpans: []prompb.BucketSpan{{Offset: 0, Length: 2}}, PositiveDeltas: []int64{1, 1}, Timestamp: now,
	}}
	return req
}

// The pages of a usual edge are those in testdata/pages, byte for byte.
func TestGoldenPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := unstarted(t, "--journal=off")
		if err := r.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw, err := shopRequest(time.Now().UnixMilli()).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw))))
		if w.Code != 204 {
			t.Fatalf("answered %d: %s", w.Code, w.Body)
		}
		for name, accept := range pages {
			req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			req.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			r.handler.ServeHTTP(w, req)
			file := filepath.Join("../../testdata/pages", name)
			if *update {
				if err := os.WriteFile(file, w.Body.Bytes(), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(w.Body.Bytes(), want) {
				t.Errorf("%s is\n%q\nwant\n%q\n(-update writes it anew)", name, w.Body, want)
			}
		}
	})
}
