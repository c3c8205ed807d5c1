package series

import (
	"math"
	"testing"
	"time"
)

// What a known series may make the store hold is bounded, too: a native histogram
// has a limit of buckets, carries nothing that it does not need, and does not grow,
// nor are exemplars kept, when memory is full. Otherwise an edge that may have a few
// thousand series could fill the memory of all.
func TestKnownSeriesDoNotFillTheMemory(t *testing.T) {
	s := New(Options{Limits: Limits{HistogramBuckets: 100}})
	now := time.UnixMilli(1_700_000_000_000)
	of := func(n int) *Histogram {
		return &Histogram{Count: uint64(n), Sum: float64(n), PositiveSpans: []Span{{0, uint32(n)}}, PositiveDeltas: append([]int64{1}, make([]int64, n-1)...)}
	}
	push := func(h *Histogram) Result {
		now = now.Add(time.Second)
		b := s.NewBatch(Request{Edge: "e", Received: now, Now: now})
		defer b.Release()
		b.Series(packed("__name__", "h"))
		b.Histogram(now.UnixMilli(), h, 0)
		b.Exemplar(Exemplar{Labels: packed("trace_id", "x"), Value: 1, Time: now.UnixMilli()})
		b.Metadata([]byte(now.String()), Gauge, []byte("help"), nil)
		b.Prepare()
		b.Decision()
		return b.Commit()
	}
	held := func() (*Histogram, int) {
		for _, x := range s.extras {
			return x.histogram, len(x.exemplars)
		}
		return nil, 0
	}
	if res := push(of(101)); res.Rejected[HistogramBuckets] != 1 {
		t.Errorf("101 buckets of 100: %+v", res)
	}
	h := of(50)
	h.PositiveCounts, h.NegativeCounts = make([]float64, 90), make([]float64, 10)
	if res := push(h); res.Refused() != 0 {
		t.Errorf("%+v", res.First)
	}
	if got, _ := held(); got == nil || got.PositiveCounts != nil || got.NegativeCounts != nil {
		t.Errorf("what it does not need is kept: %+v", got)
	}
	s.SetFull(true)
	_, exemplars := held()
	families := s.Stats(now).Families
	if res := push(of(50)); res.Refused() != 0 {
		t.Errorf("a known series does not go on: %v", res.First)
	}
	if res := push(of(51)); res.Rejected[MemoryLimit] != 1 || res.First == nil || res.Histograms != 0 {
		t.Errorf("a larger histogram, with the memory full: %+v", res)
	}
	if _, n := held(); n != exemplars {
		t.Errorf("%d exemplars are kept, %d before the memory was full", n, exemplars)
	}
	if n := s.Stats(now).Families; n != families || n == 0 {
		t.Errorf("%d families are kept, %d before the memory was full", n, families)
	}
	s.SetFull(false)
	end := of(90)
	end.Sum = math.Float64frombits(staleBits)
	if res := push(end); res.Ended != 1 {
		t.Errorf("%+v", res)
	}
	if got, _ := held(); got != nil && got.weight() != 0 {
		t.Errorf("a stale marker keeps %d buckets", got.weight())
	}
	check(t, s)
}
