package series

import "fmt"

// A Reason says why something was refused. The set is closed, so it may label a
// metric.
type Reason uint8

// The reasons; OK refuses nothing.
const (
	OK Reason = iota
	NoName
	NameInvalid
	LabelInvalid
	DuplicateLabel
	TooManyLabels
	LabelNameTooLong
	LabelValueTooLong
	SeriesTooLong
	TTLInvalid
	TooFarInFuture
	SeriesLimit
	EdgeSeriesLimit
	MemoryLimit
	GroupLimit
	HistogramInvalid
	HistogramBuckets
	ExemplarInvalid
	Malformed // refused before the store saw it: see Batch.Refuse
	NumReasons
)

var reasonNames = [NumReasons]string{
	"ok", "missing_metric_name", "metric_name_invalid", "label_invalid", "duplicate_label",
	"labels_per_series", "label_name_bytes", "label_value_bytes", "series_bytes", "ttl_invalid",
	"too_far_in_future", "series_limit", "edge_series_limit", "memory_limit", "group_limit", "histogram_invalid", "histogram_buckets", "exemplar_invalid", "malformed",
}

// String returns the reason in the form of a label value.
func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return "unknown"
}

// A Verdict is what became of a series, sample, histogram or exemplar that was
// added to a batch: OK, or why it was refused.
type Verdict = Reason

// A Rejection is the first thing of a request that was refused.
type Rejection struct {
	Reason Reason
	Series string // printable, at most 200 bytes
	Detail string // what happened and which setting changes it
}

// Error says it in one line.
func (r *Rejection) Error() string {
	return fmt.Sprintf("%s: %s (%s)", r.Series, r.Detail, r.Reason)
}

// A Result is what became of one request.
type Result struct {
	// Accepted, superseded and expired on arrival included: what remote write
	// 2.0 calls written.
	Samples, Histograms, Exemplars int

	Stored           int // now the latest of their series
	Ended            int // stale markers that ended, or keep ended, a series
	Superseded       int // older than what the series holds
	ExpiredOnArrival int // too old to be shown as current

	NewSeries  int
	Overridden int             // series that claimed a forced label with another value
	Rejected   [NumReasons]int // samples, histograms, exemplars and series without any, by reason
	First      *Rejection      // nil if nothing was refused

	Deduplicated bool // nothing was applied: another replica sends the same

	// What a few of its samples tell of its sender, not in a replay: the time of the
	// newest of them in ms if Timed, those that were refused for being too far in the
	// future included; and the ms between one of them and the sample before it of the
	// same series, 0 if that is not known.
	Newest, Interval int64
	Timed            bool

	Granted TTL  // the request's TTL within the bounds
	Clamped bool // Granted is not what was asked for

	lasts TTL // as Batch.Lasts says; 0: as Granted
}

// Lasts is for how long the sender of the request is not silent after it: what
// [Batch.Lasts] says, else Granted.
func (r *Result) Lasts() TTL {
	if r.lasts != 0 {
		return r.lasts
	}
	return r.Granted
}

// Refused is how many were refused, for all reasons.
func (r *Result) Refused() int {
	n := 0
	for _, c := range r.Rejected {
		n += c
	}
	return n
}
