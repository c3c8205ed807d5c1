package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
)

// A Prometheus takes each page whole, whatever one edge has on it, in every format and
// with every setting of its scrape. It has the rules that no parser of a page has: it
// refuses all of a page for one series.
func TestHostilePagesAreScraped(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	url, _ := startRelay(t)
	send := func(req *prompb.WriteRequest, edge string, code int) {
		t.Helper()
		raw, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		post, err := http.NewRequest(http.MethodPost, url+writePath+"?ttl=1h", bytes.NewReader(snappyOf(raw)))
		if err != nil {
			t.Fatal(err)
		}
		post.Header.Set("X-Relay-Edge", edge)
		res, err := http.DefaultClient.Do(post)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != code {
			t.Errorf("the push of %s is answered %d, want %d", edge, res.StatusCode, code)
		}
	}
	send(&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{one(7, "__name__", "a_good_series"), one(7, "__name__", "z_good_series")}}, "good", 204)
	send(hostileRequest(), "attacker", 204)
	now := time.Now().UnixMilli()
	for _, h := range []prompb.Histogram{
		{Count: &prompb.Histogram_CountInt{CountInt: 1<<53 + 1}, PositiveSpans: []prompb.BucketSpan{{Length: 1}}, PositiveDeltas: []int64{1 << 53}},
		{Count: &prompb.Histogram_CountInt{CountInt: 2}, PositiveSpans: []prompb.BucketSpan{{Offset: math.MaxInt32, Length: 1}, {Offset: math.MaxInt32, Length: 1}}, PositiveDeltas: []int64{1, 0}},
		{Count: &prompb.Histogram_CountInt{CountInt: 1}, PositiveSpans: []prompb.BucketSpan{{Offset: math.MinInt32, Length: 1}}, PositiveDeltas: []int64{1}},
	} {
		h.Timestamp = now
		send(&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "refused"}}, Histograms: []prompb.Histogram{h}}}}, "attacker", 400)
	}

	for _, protocol := range []string{"PrometheusProto", "OpenMetricsText1.0.0", "OpenMetricsText0.0.1", "PrometheusText1.0.0", "PrometheusText0.0.4"} {
		for _, settings := range []string{
			"scrape_native_histograms: false", "scrape_native_histograms: true",
			"{scrape_native_histograms: true, always_scrape_classic_histograms: true}",
			"{scrape_native_histograms: true, convert_classic_histograms_to_nhcb: true}",
			"{scrape_native_histograms: false, convert_classic_histograms_to_nhcb: true, always_scrape_classic_histograms: true}",
			"{scrape_native_histograms: true, metric_name_escaping_scheme: underscores}",
			"metric_name_escaping_scheme: dots", "metric_name_escaping_scheme: values",
		} {
			t.Run(protocol+" "+settings, func(t *testing.T) {
				t.Parallel()
				config := fmt.Sprintf("scrape_configs:\n- job_name: relay\n  honor_labels: true\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  scrape_protocols: [%s]\n", protocol)
				for setting := range strings.SplitSeq(strings.Trim(settings, "{}"), ", ") {
					config += "  " + setting + "\n"
				}
				p := startPrometheus(t, config, host(url))
				defer p.stop()
				// One may take too long on a busy machine; a page that is refused is so always.
				var said error
				taken := false
				for deadline := time.Now().Add(30 * time.Second); !taken && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
					for _, points := range p.raw(labels.MustNewMatcher(labels.MatchEqual, "__name__", "up")) {
						for _, v := range points {
							taken = taken || v != "0"
						}
					}
					for _, targets := range p.manager.TargetsActive() {
						for _, target := range targets {
							said = target.LastError()
						}
					}
					if said != nil && !errors.Is(said, context.DeadlineExceeded) {
						break
					}
				}
				if !taken {
					t.Fatalf("scrapes fail: %v", said)
				}
				if n := len(p.raw(labels.MustNewMatcher(labels.MatchRegexp, "__name__", "._good_series"))); n != 2 {
					t.Errorf("%d of two series of another edge", n)
				}
			})
		}
	}
}

// hostileRequest has series of which some kind of page could break, all of which are
// taken.
func hostileRequest() *prompb.WriteRequest {
	req := &prompb.WriteRequest{}
	now := time.Now().UnixMilli()
	native := func(custom bool, pairs ...string) {
		h := prompb.Histogram{
			Count: &prompb.Histogram_CountInt{CountInt: 3}, Sum: 4, Timestamp: now,
			PositiveSpans: []prompb.BucketSpan{{Length: 2}}, PositiveDeltas: []int64{2, -1},
		}
		if custom {
			h.Schema, h.CustomValues = -53, []float64{1, 2.5}
		}
		s := one(0, pairs...)
		s.Samples, s.Histograms = nil, []prompb.Histogram{h}
		req.Timeseries = append(req.Timeseries, s)
	}
	float := func(v float64, pairs ...string) {
		s := one(v, pairs...)
		s.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace.id", Value: "a\n\"\\"}, {Name: "trace_id", Value: "b"}}, Value: v, Timestamp: now}}
		req.Timeseries = append(req.Timeseries, s)
	}
	typed := func(t prompb.MetricMetadata_MetricType, family, help, unit string) {
		req.Metadata = append(req.Metadata, prompb.MetricMetadata{Type: t, MetricFamilyName: family, Help: help, Unit: unit})
	}
	for i, unit := range []string{"x\ny 1", `x"y`, `x\y`, "x\\n", "µs", " ", "x # {a=\"b\"} 1"} {
		float(1, "__name__", "h_unit_"+unit)
		typed(prompb.MetricMetadata_MetricType(i), "h_unit_"+unit, "a\n# EOF\n", unit)
	}
	for i, odd := range oddValues {
		float(float64(i), "__name__", "h_value", "v", odd)
		typed(prompb.MetricMetadata_MetricType(i%8), "h_value", odd, "")
		if !strings.Contains(odd, "\x00") && len(odd) < 1000 {
			float(float64(i), "__name__", odd, "x"+odd, odd)
			typed(prompb.MetricMetadata_MetricType(i%8), odd, odd, odd)
		}
	}
	for _, custom := range []bool{false, true} {
		name := fmt.Sprintf("h_native_%v", custom)
		native(custom, "__name__", name, "le", "5")
		native(custom, "__name__", name, "le", "1.0")
		native(custom, "__name__", name, "quantile", "0.5")
		native(custom, "__name__", name)
		for _, typ := range []string{"", ".x"} {
			native(custom, "__name__", name+typ, "l", "v")
			native(custom, "__name__", name+typ, "l.x", "v")
			float(99, "__name__", name+"_x_sum", "l", "v")
			float(99, "__name__", name+typ+"_count", "l", "v", "n", typ)
			float(99, "__name__", name+typ+"_bucket", "l", "v", "le", "+Inf", "n", typ)
		}
		typed(prompb.MetricMetadata_HISTOGRAM, name, "h", "")
	}
	for i, counts := range [][3]float64{{2, 1, 1}, {1, 2, 3}, {1, 1, 0}, {math.NaN(), math.NaN(), math.NaN()}, {-1, -1, -1}, {0.5, 1.5, 1.5}, {1, math.Inf(1), math.Inf(1)}, {1 << 60, 1e300, 1e300}, {2, 2, 2}} {
		for _, suffix := range []string{"", ".x"} {
			name, l := "h_classic"+suffix, fmt.Sprint(i)
			float(counts[0], "__name__", name+"_bucket", "le", "1", "l", l)
			float(counts[1], "__name__", name+"_bucket", "le", "+Inf", "l", l)
			float(counts[2], "__name__", name+"_count", "l", l)
			float(1, "__name__", name+"_sum", "l", l)
			typed(prompb.MetricMetadata_HISTOGRAM, name, "h", "")
		}
	}
	for _, bound := range []string{"-Inf", "NaN", "x", "0x1p-2", "1e400"} {
		float(1, "__name__", "h_bounds_bucket", "le", bound)
		float(1, "__name__", "h_quantiles", "quantile", bound)
		float(1, "__name__", "h_bounds_bucket", "le", bound, "quantile", bound)
	}
	for _, name := range []string{"h_bounds", "h_quantiles"} {
		float(1, "__name__", name+"_sum")
		float(1, "__name__", name+"_count")
	}
	float(1, "__name__", "h_bounds_bucket", "le", "+Inf")
	typed(prompb.MetricMetadata_HISTOGRAM, "h_bounds", "h", "")
	typed(prompb.MetricMetadata_SUMMARY, "h_quantiles", "h", "")
	for i, name := range []string{"a_good_series", "z_good_series"} {
		typed([]prompb.MetricMetadata_MetricType{prompb.MetricMetadata_HISTOGRAM, prompb.MetricMetadata_SUMMARY}[i], name, "h", "series")
	}
	return req
}
