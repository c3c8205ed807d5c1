package series

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// What a batch tells of its sender: how new its samples are, and how long its series
// waited for them.
func TestGlance(t *testing.T) {
	s := New(Options{})
	send := func(now time.Duration, n int, newest time.Duration, v float64) Result {
		t.Helper()
		b := s.NewBatch(Request{Edge: "a", TTL: 10_000, Received: at(now), Now: at(now)})
		defer b.Release()
		for i := range n {
			b.Series(packed("__name__", "m", "i", fmt.Sprint(i)))
			when := at(newest - time.Duration(n-1-i)*time.Millisecond)
			b.Float(when.UnixMilli(), v, 0)
		}
		return b.Commit()
	}
	expect := func(name string, res Result, newest time.Duration, interval time.Duration) {
		t.Helper()
		if !res.Timed || res.Newest != at(newest).UnixMilli() || res.Interval != interval.Milliseconds() {
			t.Errorf("%s: newest %d (%v), want %d; interval %d, want %s", name, res.Newest, res.Timed, at(newest).UnixMilli(), res.Interval, interval)
		}
	}
	for _, n := range []int{1, 7, 500} {
		s = New(Options{})
		expect("new", send(0, n, 0, 1), 0, 0)
		expect("again", send(time.Second, n, 0, 1), 0, 0)
		expect("next", send(17*time.Second, n, 15*time.Second, 2), 15*time.Second, 15*time.Second)
		expect("late", send(18*time.Second, n, 5*time.Second, 2), 5*time.Second, 0)
		expect("ended", send(19*time.Second, n, 16*time.Second, stale), 16*time.Second, 0)
		expect("after its end", send(40*time.Second, n, 40*time.Second, 2), 40*time.Second, 0)
		expect("too far ahead", send(41*time.Second, n, time.Hour, 2), time.Hour, 0)
	}
	if res := send(0, 0, 0, 1); res.Timed {
		t.Error("nothing has a time")
	}
}

// What each edge has, groups included, adds up to the whole.
func TestCensus(t *testing.T) {
	s := New(Options{Limits: Limits{Edges: 3}})
	for i, edge := range []string{"a", "a", "b", "c", "d"} { // d is beyond the limit
		b := s.NewBatch(Request{Edge: edge, TTL: TTL(10_000 + 1000*i), Received: t0, Now: t0})
		b.Series(packed("__name__", "m", "i", fmt.Sprint(i)))
		b.Float(t0.UnixMilli(), 1, 0)
		b.Commit()
		b.Release()
	}
	pushGroup(s, t0, EndsAll, "x", 60_000, map[string]float64{"a": 1, "b": 2}) // of edge e
	check := func(now time.Duration, want map[string]Owned) {
		t.Helper()
		st, got := s.Census(at(now))
		sum := Owned{}
		for _, n := range got {
			sum.Live += n.Live
			sum.Held += n.Held
		}
		if !maps.Equal(got, want) || sum.Live != st.Live || sum.Held != st.Held || st != s.Stats(at(now)) {
			t.Errorf("after %s: %v, want %v; %+v", now, got, want, st)
		}
	}
	check(0, map[string]Owned{"a": {2, 2}, "b": {1, 1}, "c": {1, 1}, OtherEdge: {3, 3}})
	check(10*time.Second, map[string]Owned{"a": {1, 2}, "b": {1, 1}, "c": {1, 1}, OtherEdge: {3, 3}})
	check(14*time.Second, map[string]Owned{"a": {0, 2}, "b": {0, 1}, "c": {0, 1}, OtherEdge: {2, 3}})
}
