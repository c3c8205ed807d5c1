package series

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// What is received is stored, ended, superseded, expired on arrival or refused: each
// sample once. (hostile inputs, I8)
func TestAccounting(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := New(Options{Limits: Limits{Series: 150, HistogramBuckets: 5}})
	now := time.UnixMilli(1_700_000_000_000)
	for range 300 {
		now = now.Add(time.Duration(rng.IntN(20_000)) * time.Millisecond)
		s.SetFull(rng.IntN(5) == 0)
		b := s.NewBatch(Request{Edge: fmt.Sprint(rng.IntN(3)), TTL: TTL(1000 + rng.IntN(100_000)), Received: now, Now: now})
		sent := 0
		for range 1 + rng.IntN(40) {
			labels := packed("__name__", "m", "i", fmt.Sprint(rng.IntN(300)))
			switch rng.IntN(12) {
			case 0:
				labels = packed("a", "b")
			case 1:
				labels = packed("__name__", "m", "a", "1", "a", "2")
			case 2:
				labels = packed("__name__", "m", "__ttl__", "0")
			}
			b.Series(labels)
			for range 1 + rng.IntN(3) {
				sent++
				at := now.UnixMilli() + int64(rng.IntN(900_000)) - 500_000 - int64(rng.IntN(3))*100_000
				if rng.IntN(8) == 0 {
					at = now.UnixMilli() + 3_600_000
				}
				switch n := uint32(1 + rng.IntN(8)); rng.IntN(6) {
				case 0:
					b.Float(at, math.Float64frombits(staleBits), 0)
				case 1:
					b.Histogram(at, &Histogram{Count: uint64(n), Sum: 1, PositiveSpans: []Span{{0, n}}, PositiveDeltas: append([]int64{1}, make([]int64, n-1)...)}, 0)
				default:
					b.Float(at, float64(rng.IntN(3)), 0)
				}
			}
		}
		res := b.Commit()
		if taken := res.Samples + res.Histograms; taken+res.Refused() != sent || res.Stored+res.Ended+res.Superseded+res.ExpiredOnArrival != taken {
			t.Fatalf("%d sent: %+v", sent, res)
		}
		b.Release()
		if rng.IntN(10) == 0 {
			s.Sweep(now)
		}
	}
	check(t, s)
}
