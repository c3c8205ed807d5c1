package series

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestDelete(t *testing.T) {
	s := New(Options{})
	up, down := packed("__name__", "up"), packed("__name__", "down")
	push(s, t0, 600_000, up, t0, 1)
	push(s, t0, 600_000, down, t0, 1)
	del := func(now time.Duration, labels []byte, upto time.Duration, want int) {
		t.Helper()
		if n := s.Delete([]Deletion{{labels, at(upto).UnixMilli()}}, at(now), at(now), s.DeletionTTL()); n != want {
			t.Errorf("deleted %d, want %d", n, want)
		}
	}
	expect := func(now time.Duration, want string) {
		t.Helper()
		if got := show(t, s, at(now), Query{}); got != want {
			t.Errorf("at %s: %q, want %q", now, got, want)
		}
	}
	del(10*time.Second, up, 10*time.Second, 1)
	expect(10*time.Second, "down 1")
	del(10*time.Second, up, 10*time.Second, 0)
	del(10*time.Second, packed("__name__", "unknown"), 10*time.Second, 0)
	// What is not newer does not bring it back, for as long as it could be shown.
	for _, now := range []time.Duration{11 * time.Second, time.Minute, 5 * time.Minute, 6 * time.Minute, 7 * time.Minute, 8 * time.Minute} {
		push(s, at(now), 600_000, up, at(9*time.Second), 2)
		s.Sweep(at(now))
		expect(now, "down 1")
	}
	push(s, at(12*time.Second), 600_000, up, at(11*time.Second), 3)
	expect(12*time.Second, "down 1\nup 3")
	del(13*time.Second, up, 10*time.Second, 0) // an older delete than its sample
	expect(13*time.Second, "down 1\nup 3")
	if n := s.Counters().Deleted; n != 1 {
		t.Errorf("%d deleted", n)
	}
	// It survives a dump.
	del(14*time.Second, up, 14*time.Second, 1)
	copied := New(Options{})
	if err := s.Dump(func(b []byte) error { return copied.Load(b, at(15*time.Second)) }); err != nil {
		t.Fatal(err)
	}
	s = copied
	push(s, at(20*time.Second), 600_000, up, at(13*time.Second), 2)
	expect(20*time.Second, "down 1")
	for i := range 400 { // and is forgotten in the end
		s.Sweep(at(15*time.Minute + time.Duration(i)*time.Second))
	}
	if n := s.Stats(at(time.Hour)).Held; n != 0 {
		t.Errorf("%d series held", n)
	}
}

// Samples and deletes merge: in any order, and more than once, with the same result.
// (But where what ended a series was ahead of its own receive time, a corrected clock
// heals it afterwards, and not before.)
func TestDeletesCommute(t *testing.T) {
	labels := packed("__name__", "m")
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 7))
		received := at(10 * time.Second)
		var acts []func(*Store)
		for range 3 {
			when, v := at(time.Duration(r.IntN(14))*time.Second), float64(r.IntN(3))
			if r.IntN(5) == 0 {
				v = stale
				if when.After(received) {
					when = received
				}
			}
			acts = append(acts, func(s *Store) { push(s, received, 600_000, labels, when, v) })
		}
		acts = append(acts, func(s *Store) {
			s.Delete([]Deletion{{labels, received.UnixMilli()}}, received, received, s.DeletionTTL())
		})
		want := ""
		for order := range 8 {
			s := New(Options{})
			push(s, t0, 600_000, labels, t0, 0) // a delete is of a series that is there
			list := append([]func(*Store){}, acts...)
			if order > 0 {
				r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				list = append(list, list[r.IntN(len(list))])
			}
			for _, act := range list {
				act(s)
			}
			got := show(t, s, received, Query{})
			if order == 0 {
				want = got
			} else if got != want {
				t.Fatalf("seed %d, order %d: %q, want %q", seed, order, got, want)
			}
		}
	}
}
