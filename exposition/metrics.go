package exposition

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	duration *prometheus.HistogramVec
	size     *prometheus.HistogramVec
	shown    prometheus.Gauge
	failed   *prometheus.CounterVec
	omitted  [numOmissions]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "relay_scrape_duration_seconds", Help: "Time to answer a scrape, by format.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30},

			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}, []string{"format"}),
		size: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "relay_scrape_size_bytes", Help: "Size of pages as sent, by format and encoding.",
			Buckets: prometheus.ExponentialBuckets(1000, 8, 8),

			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}, []string{"format", "encoding"}),
		shown: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "relay_scrape_series", Help: "Series on the last page that was answered in full.",
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "relay_scrapes_failed_total", Help: "Scrapes that were not answered in full, by reason.",
		}, []string{"reason"}),
	}
	omitted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "relay_scrape_omitted_series_total", Help: "Live series that a page could not show in its format, by reason.",
	}, []string{"reason"})
	for o := range numOmissions {
		m.omitted[o] = omitted.WithLabelValues(o.String())
	}
	for _, reason := range []string{"bad_request", "edge_silent", "starting", "busy", "aborted"} {
		m.failed.WithLabelValues(reason)
	}
	reg.MustRegister(m.duration, m.size, m.shown, m.failed, omitted)
	return m
}

func (m *metrics) observe(s syntax, e encoding, bytes int64, p *page, took time.Duration) {
	m.duration.WithLabelValues(s.String()).Observe(took.Seconds())
	m.size.WithLabelValues(s.String(), string(e)).Observe(float64(bytes))
	m.shown.Set(float64(p.series))
	for o, n := range p.omitted {
		m.omitted[o].Add(float64(n))
	}
}
