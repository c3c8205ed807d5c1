package series

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// rich is a store with all that a piece of state can hold.
func rich(t testing.TB, now time.Time) *Store {
	s := New(Options{})
	for edge := range 3 {
		b := s.NewBatch(Request{Edge: fmt.Sprint("edge", edge), TTL: TTL(60_000 * (edge + 1)), Received: now, Now: now})
		for i := range 1500 {
			b.Series(packed("__name__", fmt.Sprint("m", i%7), "edge", fmt.Sprint(edge), "i", fmt.Sprint(i)))
			switch i % 5 {
			case 0:
				b.Histogram(now.UnixMilli(), &Histogram{Schema: 2, Count: 3, Sum: 1.5, ZeroCount: 1, ZeroThreshold: 0.1,
					PositiveSpans: []Span{{-3, 1}, {4, 1}}, PositiveDeltas: []int64{1, 0}}, 77)
			case 1:
				b.Histogram(now.UnixMilli(), &Histogram{Schema: CustomBuckets, Float: true, CountFloat: 2, CustomValues: []float64{1, 2},
					PositiveSpans: []Span{{0, 2}}, PositiveCounts: []float64{1, 1}}, 0)
			default:
				b.Float(now.UnixMilli()-int64(i), float64(i), int64(i%2))
				b.Exemplar(Exemplar{Labels: packed("trace_id", fmt.Sprint(i)), Value: 1, Time: int64(i)})
			}
		}
		b.Metadata([]byte("m1"), Counter, []byte("help"), []byte("unit"))
		b.Metadata([]byte("m2"), MetricType(edge), nil, nil)
		b.Commit()
		b.Release()
	}
	return s
}

// full is everything that a scan shows.
type full struct{ lines []string }

func (f *full) BeginFamily(x *Family) {
	f.lines = append(f.lines, fmt.Sprintf("%s %+v", x.Name, x.Metadata))
}
func (f *full) EndFamily(*Family) {}
func (f *full) Flush() error      { return nil }
func (f *full) Series(_ *Family, s *Series) {
	line := fmt.Sprintf("%s %v %d %d %d %s %v", s, s.Value, s.Time, s.TTL, s.StartTime, s.Edge, s.Exemplars)
	if s.Histogram != nil {
		line += fmt.Sprintf("%+v", *s.Histogram)
	}
	f.lines = append(f.lines, line)
}

func everything(t testing.TB, s *Store, now time.Time) []string {
	t.Helper()
	var f full
	if err := s.Scan(now, Query{}, &f); err != nil {
		t.Fatal(err)
	}
	slices.Sort(f.lines)
	return f.lines
}

func TestStateRoundTrip(t *testing.T) {
	now := time.Now()
	s := rich(t, now)
	for _, after := range []time.Duration{0, 59 * time.Second, 61 * time.Second, 119 * time.Second, time.Hour} {
		at := now.Add(after)
		copied := reloaded(t, s, at)
		if got, want := everything(t, copied, at), everything(t, s, at); !slices.Equal(got, want) {
			t.Fatalf("after %s: %d lines, want %d; the first %.300q, want %.300q", after, len(got), len(want), got, want)
		}
		check(t, copied)
	}
}

// A damaged piece is refused, or what it says is valid: nothing panics, and the
// store stays whole.
func TestDamagedState(t *testing.T) {
	now := time.Now()
	var pieces [][]byte
	rich(t, now).Dump(func(p []byte) error {
		pieces = append(pieces, slices.Clone(p))
		return nil
	})
	rng := rand.New(rand.NewPCG(1, 1))
	for _, piece := range pieces {
		s := New(Options{})
		for range 300 {
			p := slices.Clone(piece)
			for range 1 + rng.IntN(4) {
				p[rng.IntN(len(p))] ^= byte(1 << rng.IntN(8))
			}
			s.Load(p[:len(p)-rng.IntN(2)*rng.IntN(len(p))], now)
		}
		everything(t, s, now)
		check(t, s)
	}
}

// Before a lag tolerance of under a millisecond was refused, what a DELETE had ended was
// dumped with no TTL at all: such a piece is loaded, too.
func TestLoadOfADeleteWithoutLag(t *testing.T) {
	s := New(Options{LagTolerance: 500 * time.Microsecond})
	s.lag = 0 // as it was
	pushGroup(s, t0, EndsAll, "x", 60_000, map[string]float64{"a": 1, "b": 1})
	pushGroup(s, t0, EndsAll, "x", 60_000, map[string]float64{"b": 1})
	loaded := New(Options{})
	if err := s.Dump(func(piece []byte) error { return loaded.Load(piece, t0) }); err != nil {
		t.Fatal(err)
	}
	if got, want := show(t, loaded, t0, Query{}), `b{job="x"} 1`; got != want {
		t.Errorf("loaded is %s, want %s", got, want)
	}
	if lag := New(Options{LagTolerance: 500 * time.Microsecond}).lag; lag != 1 {
		t.Errorf("a lag tolerance of half a millisecond is one of %d ms", lag)
	}
}
