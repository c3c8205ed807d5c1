package journal

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A Status is how a journal is doing.
type Status struct {
	Up         bool // it takes records; as relay_journal_up
	Bytes      int64
	Limit      int64     // of Bytes; 0: none, an external stream may be without
	Replayed   float64   // at the start, 0 to 1
	Checkpoint time.Time // when one was written last, or there was nothing to write; after a start, when that was written which was loaded; zero: there is none
}

// Status says how the journal is doing. It asks the engine, for a second at most;
// one that does not answer leaves Bytes as it was.
func (j *Journal) Status() Status {
	s := Status{Up: j.up(), Bytes: int64(j.size()), Replayed: gauge(j.metrics.replayed)}
	if limit := j.sizeLimit(); !math.IsInf(limit, 1) {
		s.Limit = int64(limit)
	}
	if at := gauge(j.metrics.checkpointTime); at > 0 {
		s.Checkpoint = time.UnixMilli(int64(at * 1000)).UTC()
	}
	return s
}

func gauge(g prometheus.Gauge) float64 {
	var m dto.Metric
	if g.Write(&m) != nil {
		return 0
	}
	return m.GetGauge().GetValue()
}
