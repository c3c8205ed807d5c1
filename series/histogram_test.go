package series

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
)

// theirs is a histogram as Prometheus has it.
func theirs(h *Histogram) interface{ Validate() error } {
	spans := func(list []Span) (out []histogram.Span) {
		for _, s := range list {
			out = append(out, histogram.Span{Offset: s.Offset, Length: s.Length})
		}
		return out
	}
	if h.Float {
		return &histogram.FloatHistogram{
			Schema: h.Schema, ZeroThreshold: h.ZeroThreshold, ZeroCount: h.ZeroCountFloat, Count: h.CountFloat, Sum: h.Sum,
			PositiveSpans: spans(h.PositiveSpans), NegativeSpans: spans(h.NegativeSpans),
			PositiveBuckets: h.PositiveCounts, NegativeBuckets: h.NegativeCounts, CustomValues: h.CustomValues,
		}
	}
	return &histogram.Histogram{
		Schema: h.Schema, ZeroThreshold: h.ZeroThreshold, ZeroCount: h.ZeroCount, Count: h.Count, Sum: h.Sum,
		PositiveSpans: spans(h.PositiveSpans), NegativeSpans: spans(h.NegativeSpans),
		PositiveBuckets: h.PositiveDeltas, NegativeBuckets: h.NegativeDeltas, CustomValues: h.CustomValues,
	}
}

func TestHistogramValidate(t *testing.T) {
	one := func(offsets ...int32) *Histogram {
		h := &Histogram{Count: uint64(len(offsets)), Sum: 1}
		for i, o := range offsets {
			h.PositiveSpans = append(h.PositiveSpans, Span{o, 1})
			h.PositiveDeltas = append(h.PositiveDeltas, max(0, int64(1-i)))
		}
		return h
	}
	for name, c := range map[string]struct {
		h  *Histogram
		ok bool
	}{
		"empty":                      {&Histogram{}, true},
		"the last bucket":            {one(math.MaxInt32), true},
		"the first bucket":           {one(math.MinInt32 + 1), true},
		"before the first bucket":    {one(math.MinInt32), false},
		"behind the last bucket":     {one(math.MaxInt32, 0), false},
		"far behind the last bucket": {one(math.MaxInt32, math.MaxInt32), false},
		"an empty span behind it":    {&Histogram{PositiveSpans: []Span{{math.MaxInt32, 0}, {math.MaxInt32, 0}}}, false},
		"2^53+1":                     {&Histogram{Count: 1<<53 + 1, PositiveSpans: []Span{{0, 1}}, PositiveDeltas: []int64{1 << 53}}, false},
		"2^53+1 in a zero bucket":    {&Histogram{Count: 1<<53 + 1, ZeroCount: 1, PositiveSpans: []Span{{0, 1}}, PositiveDeltas: []int64{1 << 53}}, true},
		"NaN, too few":               {&Histogram{Sum: math.NaN(), Count: 1 << 53, PositiveSpans: []Span{{0, 1}}, PositiveDeltas: []int64{1<<53 + 1}}, false},
		"NaN, enough":                {&Histogram{Sum: math.NaN(), Count: 1<<53 + 2, PositiveSpans: []Span{{0, 1}}, PositiveDeltas: []int64{1<<53 + 1}}, true},
		"more than 64 bits":          {&Histogram{Count: 1<<64 - 3, PositiveSpans: []Span{{0, 3}}, PositiveDeltas: []int64{math.MaxInt64, 0, 0}}, false},
	} {
		if err := c.h.Validate(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err := theirs(c.h).Validate(); err != nil && c.ok {
			t.Errorf("%s: Prometheus says %v", name, err)
		}
	}
}

// What Prometheus refuses is refused here: on a page it would cost the whole one.
func FuzzHistogram(f *testing.F) {
	f.Add(uint64(3), uint64(1), 1.5, 0.001, int8(2), false, []byte{2, 0, 1, 3, 1, 1, 0, 1, 0})
	f.Add(uint64(1<<53+1), uint64(0), 1.5, 0.0, int8(0), false, []byte{0, 1, 1, 200, 255, 255, 255, 255})
	f.Add(uint64(0), uint64(0), 1.5, 0.0, int8(CustomBuckets), true, []byte{2, 0, 1, 1, 1})
	f.Add(uint64(0), uint64(0), math.NaN(), 0.0, int8(1), false, []byte{3, 255, 255, 255, 255, 15, 0, 255, 255, 255, 255, 15, 0})
	f.Fuzz(func(t *testing.T, count, zero uint64, sum, threshold float64, schema int8, float bool, rest []byte) {
		h := &Histogram{Schema: int32(schema), Float: float, ZeroThreshold: threshold, Sum: sum, Count: count, ZeroCount: zero, CountFloat: math.Float64frombits(count), ZeroCountFloat: math.Float64frombits(zero)}
		number := func() int64 {
			v, n := binary.Varint(rest)
			rest = rest[max(0, min(n, len(rest))):]
			if n <= 0 {
				rest = nil
			}
			return v
		}
		for _, side := range []struct {
			spans  *[]Span
			deltas *[]int64
			counts *[]float64
		}{{&h.PositiveSpans, &h.PositiveDeltas, &h.PositiveCounts}, {&h.NegativeSpans, &h.NegativeDeltas, &h.NegativeCounts}} {
			buckets := uint32(0)
			for range number() % 5 {
				s := Span{Offset: int32(number()), Length: uint32(number())}
				buckets += s.Length % 8
				*side.spans = append(*side.spans, s)
			}
			for range buckets {
				if v := number(); float {
					*side.counts = append(*side.counts, float64(v)/2)
				} else {
					*side.deltas = append(*side.deltas, v)
				}
			}
		}
		for len(rest) > 0 {
			h.CustomValues = append(h.CustomValues, float64(number())/4)
		}
		// That its count is right is rare with numbers at random.
		if !float && count%2 == 0 {
			at := int64(0)
			h.Count = h.ZeroCount
			for _, d := range h.PositiveDeltas {
				at += d
				h.Count += uint64(at)
			}
			at = 0
			for _, d := range h.NegativeDeltas {
				at += d
				h.Count += uint64(at)
			}
		}
		ours := h.Validate()
		if err := theirs(h).Validate(); err != nil && ours == nil && !h.IsStale() {
			t.Fatalf("Prometheus says %v of %+v", err, h)
		}
	})
}

// A checkpoint with a histogram that an earlier version took and this one refuses is
// loaded, without it.
func TestStateWithRefusedHistogram(t *testing.T) {
	now := time.Now()
	s := rich(t, now)
	want := len(everything(t, s, now))
	for _, x := range s.extras {
		if x.histogram != nil && !x.histogram.Float {
			broken := *x.histogram
			broken.Count++
			x.histogram = &broken
			break
		}
	}
	copied := reloaded(t, s, now)
	if got := len(everything(t, copied, now)); got != want-1 {
		t.Errorf("%d lines are shown, want %d", got, want-1)
	}
	check(t, copied)
}
