package journal

import (
	"context"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records, bytes, failures, reopened, damaged, lost prometheus.Counter
	checkpointFailures                                prometheus.Counter
	replayed, checkpointTime, checkpointSize          prometheus.Gauge
	checkpointDuration                                prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, j *Journal) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	m := &metrics{
		records:            counter("relay_journal_records_total", "Requests that the journal has taken."),
		bytes:              counter("relay_journal_appended_bytes_total", "Bytes that the journal has taken."),
		failures:           counter("relay_journal_failures_total", "Requests that the journal could not take."),
		reopened:           counter("relay_journal_reopened_total", "Times the journal was reopened after a fault."),
		damaged:            counter("relay_journal_damaged_records_total", "Records and checkpoints that were damaged when they were replayed."),
		lost:               counter("relay_journal_lost_records_total", "Records that were missing when the journal was replayed or reopened."),
		checkpointFailures: counter("relay_journal_checkpoint_failures_total", "Checkpoints that could not be written."),
		replayed:           gauge("relay_journal_replayed_ratio", "How much of the journal was replayed at the start, 0 to 1."),
		checkpointTime:     gauge("relay_journal_checkpoint_timestamp_seconds", "When a checkpoint was written last, by whichever relay, or there was nothing to write."),
		checkpointSize:     gauge("relay_journal_checkpoint_bytes", "Size of the last checkpoint."),
		checkpointDuration: gauge("relay_journal_checkpoint_duration_seconds", "How long the last checkpoint took."),
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_journal_bytes", Help: "Size of the records that are kept.",
	}, j.size), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_journal_bytes_limit", Help: "The most that relay_journal_bytes may be.",
	}, j.sizeLimit), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_journal_up", Help: "Whether the journal takes records.",
	}, func() float64 {
		if j.up() {
			return 1
		}
		return 0
	}), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_journal_lag_records", Help: "Records of an external journal that are not applied here yet, as far as is known; 0 for an embedded one.",
	}, j.lag))
	return m
}

// up reports whether records are taken.
func (j *Journal) up() bool { return j.current() != nil && j.Behind() == nil }

// lag is how many records of the stream are not applied here.
func (j *Journal) lag() float64 {
	f := j.follow
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return float64(f.seen - min(f.seen, f.applied))
}

func (j *Journal) sizeLimit() float64 {
	f := j.follow
	if f == nil {
		return float64(j.opts.MaxBytes)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.limit <= 0 {
		return math.Inf(1)
	}
	return f.limit
}

// askTime is how long the engine is asked for its size.
const askTime = time.Second

// size is what the stream has, or had when the engine answered last.
func (j *Journal) size() float64 {
	if f := j.follow; f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.bytes
	}
	// One asks at a time: an engine whose disk hangs does not answer, and what it is
	// asked meanwhile it keeps.
	e := j.current()
	if e == nil || !j.asking.TryLock() {
		return float64(j.bytes.Load())
	}
	defer j.asking.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if info, err := e.stream.Info(ctx); err == nil {
		j.bytes.Store(info.State.Bytes)
	}
	return float64(j.bytes.Load())
}

// checkpointed notes when a checkpoint had all that was applied.
func (m *metrics) checkpointed(at time.Time) {
	m.checkpointTime.Set(float64(at.UnixMilli()) / 1000)
}

// wrote notes a checkpoint that was written.
func (m *metrics) wrote(start time.Time, size uint64) {
	m.checkpointed(time.Now())
	m.checkpointSize.Set(float64(size))
	m.checkpointDuration.Set(time.Since(start).Seconds())
}
