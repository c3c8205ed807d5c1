package series

import (
	"fmt"
	"testing"
	"time"
)

// Names of edges do not fill the limit for ever: once nothing of an edge is held, and
// for a while after, its name, its metadata and its number are others' to have.
func TestEdgesAreForgotten(t *testing.T) {
	s := New(Options{Limits: Limits{Edges: 10}, LagTolerance: time.Second})
	push := func(now time.Time, edge string) {
		b := s.NewBatch(Request{Edge: edge, TTL: TTLOf(10 * time.Second), Received: now, Now: now})
		defer b.Release()
		b.Metadata([]byte("m_"+edge), Gauge, []byte("help"), nil)
		b.Series(packed("__name__", "m_"+edge))
		b.Float(now.UnixMilli(), 1, 0)
		b.Commit()
	}
	sweeps := func(now time.Time, n int) {
		for range n {
			s.Sweep(now)
		}
	}
	now := at(0)
	for generation := range 5 {
		for i := range 10 {
			push(now, fmt.Sprintf("e%d-%d", generation, i))
		}
		st := s.Stats(now)
		if st.Edges != 10 || s.ownerIDs[OtherEdge] != 0 && generation == 0 {
			t.Fatalf("generation %d: %d edges", generation, st.Edges)
		}
		if _, other := s.ownerIDs[OtherEdge]; other {
			t.Fatalf("generation %d: its edges are counted as others", generation)
		}
		now = now.Add(time.Minute)
		sweeps(now, 5)
		if st := s.Stats(now); st.Held != 0 || st.Edges != 10 || st.Families != 10 {
			t.Fatalf("generation %d: a minute later %d series, %d edges, %d families", generation, st.Held, st.Edges, st.Families)
		}
		push(now, fmt.Sprintf("e%d-0", generation)) // is heard of again, and kept
		sweeps(now, idleSweeps+5)
		if st := s.Stats(now); st.Edges != 1 || st.Families != 1 {
			t.Fatalf("generation %d: %d edges and %d families are left, want the one with a series", generation, st.Edges, st.Families)
		}
		now = now.Add(time.Minute)
		sweeps(now, idleSweeps+5)
		if st := s.Stats(now); st.Edges != 0 || st.Families != 0 {
			t.Fatalf("generation %d: %d edges and %d families are left", generation, st.Edges, st.Families)
		}
		check(t, s)
	}
	if n := len(s.owners); n > 10 {
		t.Errorf("%d numbers were given out for 10 edges at a time", n)
	}
}

// An edge is not forgotten under a batch, nor under its group.
func TestEdgesInUseAreKept(t *testing.T) {
	s := New(Options{LagTolerance: time.Second})
	now := at(0)
	b := s.NewBatch(Request{Edge: "busy", Received: now, Now: now})
	g := s.NewBatch(Request{Edge: "pusher", Received: now, Now: now, Group: &Group{Labels: packed("job", "x")}})
	for range 2 * idleSweeps {
		s.Sweep(now)
	}
	for _, x := range []*Batch{b, g} {
		x.Series(packed("__name__", "m", "job", "x"))
		x.Float(now.UnixMilli(), 1, 0)
		x.Commit()
		x.Release()
	}
	check(t, s)
	if name := s.owners[s.edgeOf(s.groupIDs[(&Group{Labels: packed("job", "x")}).key()])].name; name != "pusher" {
		t.Errorf("the group is pushed by %q", name)
	}
	if _, known := s.ownerIDs["busy"]; !known {
		t.Error("an edge was forgotten while it pushed")
	}
}
