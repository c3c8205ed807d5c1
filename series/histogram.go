package series

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// A Histogram is one sample of a native histogram, integer or float, as in
// Prometheus' data model. Once given to a [Batch] it belongs to the store, which
// shares it with scans: nobody changes it afterwards.
type Histogram struct {
	Schema        int32 // -4 to 8, or CustomBuckets
	Float         bool  // counts are in the Float fields and bucket counts absolute
	ResetHint     uint8 // as in prompb: unknown, yes, no, gauge
	ZeroThreshold float64
	Sum           float64

	Count, ZeroCount           uint64
	CountFloat, ZeroCountFloat float64

	PositiveSpans, NegativeSpans   []Span
	PositiveDeltas, NegativeDeltas []int64   // integer: the change from bucket to bucket
	PositiveCounts, NegativeCounts []float64 // float: the counts

	CustomValues []float64 // upper bounds, with CustomBuckets
}

// A Span is a run of consecutive buckets. Offset is the gap before it, counted
// from bucket 0 for the first span.
type Span struct {
	Offset int32
	Length uint32
}

// CustomBuckets is the schema of a native histogram with custom bounds.
const CustomBuckets = -53

// maxBuckets bounds what the spans of one histogram may claim.
const maxBuckets = 65536

// IsStale reports whether the histogram is a stale marker: its sum is one.
func (h *Histogram) IsStale() bool { return math.Float64bits(h.Sum) == staleBits }

// Validate checks what Prometheus checks of a native histogram, or it would refuse
// the page that has it: a known schema, spans that match the buckets and are within
// 32 bits, no negative count, a count that is the buckets' sum, or not less if
// observations were not numbers, custom bounds that rise and are finite.
func (h *Histogram) Validate() error {
	if h.IsStale() {
		return nil
	}
	custom := h.Schema == CustomBuckets
	if !custom && (h.Schema < -4 || h.Schema > 8) {
		return fmt.Errorf("schema %d is not supported", h.Schema)
	}
	if custom {
		if len(h.NegativeSpans) > 0 || len(h.NegativeDeltas) > 0 || len(h.NegativeCounts) > 0 {
			return errors.New("custom buckets have no negative side")
		}
		if h.ZeroCount != 0 || h.ZeroCountFloat != 0 || h.ZeroThreshold != 0 {
			return errors.New("custom buckets have no zero bucket")
		}
		for i, v := range h.CustomValues {
			if math.IsNaN(v) || math.IsInf(v, 0) || i > 0 && v <= h.CustomValues[i-1] {
				return errors.New("custom bounds must be finite and rise")
			}
		}
	} else if len(h.CustomValues) > 0 {
		return fmt.Errorf("custom bounds with schema %d", h.Schema)
	}
	if math.IsNaN(h.ZeroThreshold) || h.ZeroThreshold < 0 {
		return errors.New("the zero threshold is negative or not a number")
	}
	pos, err := h.side(h.PositiveSpans, h.PositiveDeltas, h.PositiveCounts)
	if err != nil {
		return fmt.Errorf("positive buckets: %w", err)
	}
	neg, err := h.side(h.NegativeSpans, h.NegativeDeltas, h.NegativeCounts)
	if err != nil {
		return fmt.Errorf("negative buckets: %w", err)
	}
	if custom {
		used := int64(0)
		for i, s := range h.PositiveSpans {
			if i == 0 && s.Offset < 0 {
				return errors.New("positive buckets: the first span is before bucket 0")
			}
			used += int64(s.Offset) + int64(s.Length)
		}
		if used > int64(len(h.CustomValues))+1 {
			return errors.New("more buckets than custom bounds")
		}
	}
	if h.Float {
		for _, v := range []float64{h.CountFloat, h.ZeroCountFloat} {
			if math.IsNaN(v) || v < 0 {
				return errors.New("a count is negative or not a number")
			}
		}
		return nil // float counts may be rounded: no check of the total, as in Prometheus
	}
	sum, high := bits.Add64(pos, neg, 0)
	sum, more := bits.Add64(sum, h.ZeroCount, 0)
	if high+more > 0 {
		return errors.New("more observations in buckets than 64 bits can count")
	}
	if math.IsNaN(h.Sum) && sum > h.Count || !math.IsNaN(h.Sum) && sum != h.Count {
		return fmt.Errorf("%d observations in buckets, but a count of %d", sum, h.Count)
	}
	return nil
}

// side checks the buckets of one side. sum is what integer ones have counted.
func (h *Histogram) side(spans []Span, deltas []int64, counts []float64) (sum uint64, err error) {
	if len(spans) > maxBuckets {
		return 0, fmt.Errorf("more than %d spans", maxBuckets)
	}
	n := uint64(0)
	end := int64(0) // behind the last bucket: Prometheus counts them in 32 bits
	for i, s := range spans {
		if i > 0 && s.Offset < 0 {
			return 0, errors.New("spans overlap")
		}
		if end += int64(s.Offset) + int64(s.Length); s.Offset == math.MinInt32 || end-1 > math.MaxInt32 {
			return 0, errors.New("a span is outside of what 32 bits can count")
		}
		n += uint64(s.Length)
		if n > maxBuckets {
			return 0, fmt.Errorf("more than %d buckets", maxBuckets)
		}
	}
	if h.Float {
		deltas = nil
	} else {
		counts = nil
	}
	if have := uint64(len(deltas) + len(counts)); n != have {
		return 0, fmt.Errorf("spans of %d buckets, but %d values", n, have)
	}
	at := int64(0)
	for _, d := range deltas {
		if at += d; at < 0 {
			return 0, errors.New("a bucket has a negative count")
		}
		var more uint64
		if sum, more = bits.Add64(sum, uint64(at), 0); more > 0 {
			return 0, errors.New("more observations than 64 bits can count")
		}
	}
	for _, c := range counts {
		if math.IsNaN(c) || c < 0 {
			return 0, errors.New("a bucket count is negative or not a number")
		}
	}
	return sum, nil
}

// weight is how many buckets, bounds or spans there are, whichever are more: what
// the histogram takes in memory goes by it.
func (h *Histogram) weight() int {
	return max(len(h.PositiveDeltas)+len(h.NegativeDeltas), len(h.PositiveCounts)+len(h.NegativeCounts), len(h.CustomValues), len(h.PositiveSpans)+len(h.NegativeSpans))
}

// trim drops what the histogram does not need, of what a sender may put into it.
func (h *Histogram) trim() {
	switch {
	case h.IsStale():
		*h = Histogram{Sum: h.Sum}
	case h.Float:
		h.PositiveDeltas, h.NegativeDeltas = nil, nil
	default:
		h.PositiveCounts, h.NegativeCounts = nil, nil
	}
}

// fingerprint stands for the histogram in the total order of samples. It is the
// same in every process, never that of a stale marker, and differs where the
// histograms do, as far as 64 bits can.
func (h *Histogram) fingerprint() uint64 {
	d := xxhash.New()
	for _, part := range []any{
		h.Schema, h.Float, h.ResetHint, h.ZeroThreshold, h.Sum, h.Count, h.ZeroCount, h.CountFloat, h.ZeroCountFloat,
		h.PositiveSpans, h.NegativeSpans, h.PositiveDeltas, h.NegativeDeltas, h.PositiveCounts, h.NegativeCounts, h.CustomValues,
	} {
		binary.Write(d, binary.LittleEndian, part) // to a hash: cannot fail
	}
	if f := d.Sum64(); f != staleBits {
		return f
	}
	return 0
}
