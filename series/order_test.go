package series

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestOrderIsFoundAgain sends known series shuffled at first, then in the order that
// was learned: of the latter few are looked up by their hashes.
func TestOrderIsFoundAgain(t *testing.T) {
	const n = 4000
	s := New(Options{})
	var labels [n][]byte
	for i := range labels {
		labels[i] = packed("__name__", "m", "i", fmt.Sprint(i))
	}
	send := func(round int, order []int) (sought int) {
		now := at(0).Add(TTL(round * 1000).Duration())
		b := s.NewBatch(Request{Edge: "e", Received: now, Now: now})
		defer b.Release()
		for _, i := range order {
			if v := b.SeriesInPlace(labels[i]); v != OK {
				t.Fatal(v)
			}
			b.Float(now.UnixMilli(), float64(i), 0)
		}
		if res := b.Commit(); res.Stored != len(order) {
			t.Fatalf("round %d: %+v", round, res)
		}
		return len(b.fresh)
	}
	inOrder := make([]int, n)
	for i := range inOrder {
		inOrder[i] = i
	}
	send(0, inOrder)
	if sought := send(1, inOrder); sought > 0 {
		t.Errorf("in order: %d series looked up", sought)
	}
	mixed := append(rand.New(rand.NewPCG(1, 1)).Perm(n/2), inOrder[n/2:]...)
	if sought := send(2, mixed); sought < n/2-100 || sought > n/2+100 {
		t.Errorf("half of the series were in order, %d of %d were looked up", sought, n)
	}
	for i, l := range labels {
		if got := push(s, at(5e9), 0, l, at(5e9), float64(i)); got.NewSeries != 0 {
			t.Fatalf("series %d is not found", i)
		}
	}
}
