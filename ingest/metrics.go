package ingest

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relay/series"
)

// metrics are the handler's own. No label value is made from what a client sent.
type metrics struct {
	requests        *prometheus.CounterVec
	pushes          *prometheus.CounterVec
	refusedRequests *prometheus.CounterVec
	refused         [series.NumReasons]prometheus.Counter
	stored          prometheus.Counter
	ended           prometheus.Counter
	superseded      prometheus.Counter
	expired         prometheus.Counter
	deduplicated    prometheus.Counter
	overridden      prometheus.Counter
	failovers       prometheus.Counter
	histograms      prometheus.Counter
	exemplars       prometheus.Counter
	created         prometheus.Counter
	bytes           prometheus.Counter
	decodedBytes    prometheus.Counter
	duration        prometheus.Histogram
	reg             prometheus.Registerer

	totals struct{ samples, requests, refused atomic.Uint64 }
}

// Totals are counts since the start, and the bytes in flight.
type Totals struct {
	Samples  uint64 // accepted, histograms included
	Requests uint64
	Refused  uint64 // requests of which something was refused

	InflightBytes, InflightLimit int64
}

// Totals says what was taken and refused so far, of pushes of both kinds.
func (h *Handler) Totals() Totals {
	t := &h.metrics.totals
	return Totals{
		Samples: t.samples.Load(), Requests: t.requests.Load(), Refused: t.refused.Load(),
		InflightBytes: h.room.inUse(), InflightLimit: h.room.total,
	}
}

// total counts a request for Totals.
func (m *metrics) total(code, samples int) {
	m.totals.requests.Add(1)
	m.totals.samples.Add(uint64(samples))
	if code >= http.StatusBadRequest {
		m.totals.refused.Add(1)
	}
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		reg: reg,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "relay_write_requests_total", Help: "Remote-write requests by protocol version and status code.",
		}, []string{"protocol", "code"}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "relay_push_requests_total", Help: "Requests to the push API by method and status code.",
		}, []string{"method", "code"}),
		refusedRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "relay_refused_requests_total", Help: "Requests of which nothing was applied, by reason; for pushes to groups that is also those of relay_refused_samples_total.",
		}, []string{"reason"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_received_bytes_total", Help: "Bytes of request bodies, compressed.",
		}),
		decodedBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_decoded_bytes_total", Help: "Bytes of request bodies, decoded.",
		}),
		histograms: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_accepted_histograms_total", Help: "Native histogram samples accepted; also counted in relay_samples_total by outcome.",
		}),
		exemplars: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_accepted_exemplars_total", Help: "Exemplars accepted.",
		}),
		overridden: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_overridden_labels_total", Help: "Times that a series came with another value for a label that is forced on its edge.",
		}),
		failovers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_ha_failovers_total", Help: "Times that another replica of a pair took the place of the one that was listened to.",
		}),
		created: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_created_series_total", Help: "Series seen for the first time, or again after they were forgotten.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "relay_write_duration_seconds", Help: "Time to take a remote-write request.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},

			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}),
	}
	samples := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "relay_samples_total", Help: "Accepted samples by outcome: stored, superseded by a newer one, ended the series (stale marker), expired on arrival, deduplicated (another replica of the pair is listened to).",
	}, []string{"outcome"})
	m.stored, m.ended = samples.WithLabelValues("stored"), samples.WithLabelValues("ended")
	m.deduplicated = samples.WithLabelValues("deduplicated")
	m.superseded, m.expired = samples.WithLabelValues("superseded"), samples.WithLabelValues("expired_on_arrival")
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "relay_refused_samples_total", Help: "Samples and exemplars refused, by reason.",
	}, []string{"reason"})
	// From the start, so that the first one is an increase: these are the relay's own
	// fault, or its limits that a push to a group is over, and there are alerts on them.
	for _, reason := range []string{"busy", "draining", "inflight_bytes", "journal", "own_clock", "starting"} {
		m.refusedRequests.WithLabelValues(reason)
	}
	for _, reason := range []series.Reason{series.SeriesLimit, series.EdgeSeriesLimit, series.MemoryLimit, series.GroupLimit} {
		m.refusedRequests.WithLabelValues(reason.String())
	}
	for r := series.OK + 1; r < series.NumReasons; r++ {
		m.refused[r] = refused.WithLabelValues(r.String())
	}
	reg.MustRegister(m.requests, m.pushes, m.refusedRequests, m.bytes, m.decodedBytes, m.histograms, m.exemplars, m.created, m.overridden, m.failovers, m.duration, samples, refused)
	return m
}

func (m *metrics) inflight(r *room) {
	m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_inflight_bytes", Help: "Bytes of requests being taken, compressed and decoded.",
	}, func() float64 { return float64(r.inUse()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_inflight_bytes_limit", Help: "The most that relay_inflight_bytes may be.",
	}, func() float64 { return float64(r.total) }))
}

func (m *metrics) observe(v version, code int, res *series.Result, took time.Duration) {
	m.requests.WithLabelValues(v.String(), strconv.Itoa(code)).Inc()
	m.duration.Observe(took.Seconds())
	if res.Deduplicated {
		m.total(code, 0)
		m.deduplicated.Add(float64(res.Samples + res.Histograms))
		return
	}
	m.total(code, res.Samples+res.Histograms)
	m.overridden.Add(float64(res.Overridden))
	m.stored.Add(float64(res.Stored))
	m.ended.Add(float64(res.Ended))
	m.superseded.Add(float64(res.Superseded))
	m.expired.Add(float64(res.ExpiredOnArrival))
	m.histograms.Add(float64(res.Histograms))
	m.exemplars.Add(float64(res.Exemplars))
	m.created.Add(float64(res.NewSeries))
	for r, n := range res.Rejected {
		if n > 0 {
			m.refused[r].Add(float64(n))
		}
	}
}

// pushed counts a request to the push API.
func (m *metrics) pushed(method string, code int) {
	switch method {
	case http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		method = "other"
	}
	m.pushes.WithLabelValues(method, strconv.Itoa(code)).Inc()
	m.total(code, 0)
}

// observePush counts what was pushed to a group.
func (m *metrics) observePush(res *series.Result) {
	m.totals.samples.Add(uint64(res.Samples + res.Histograms))
	m.stored.Add(float64(res.Stored))
	m.histograms.Add(float64(res.Histograms))
	m.created.Add(float64(res.NewSeries))
	m.overridden.Add(float64(res.Overridden))
}
