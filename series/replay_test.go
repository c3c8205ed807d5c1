package series

import (
	"testing"
	"time"
)

// replayed pushes as push does, long after it was received.
func replayed(s *Store, received, now time.Time, ttl TTL, labels []byte, t time.Time, v float64) Result {
	b := s.NewBatch(Request{Received: time.UnixMilli(received.UnixMilli()), Now: now, Recorded: &Decision{TTL: ttl, MinTTL: 1, MaxTTL: Forever}})
	defer b.Release()
	b.Series(labels)
	b.Float(t.UnixMilli(), v, 0)
	return b.Commit()
}

// What was superseded when it came stays so in a replay, though by then what
// superseded it is forgotten: whether that came from a checkpoint or is replayed too.
func TestReplayIsAsOfThen(t *testing.T) {
	series := packed("__name__", "a")
	const short, long = 10_000, 3_600_000
	live := New(Options{})
	push(live, t0, short, series, t0, 1)
	saved := New(Options{})
	push(saved, t0, short, series, t0, 1)
	push(live, at(15*time.Second), long, series, at(-5*time.Second), 2)

	now := at(5 * time.Minute) // the first one is forgotten after 70 s
	again := New(Options{})
	replayed(again, t0, now, short, series, t0, 1)
	replayed(again, at(15*time.Second), now, long, series, at(-5*time.Second), 2)
	after := reloaded(t, saved, now)
	replayed(after, at(15*time.Second), now, long, series, at(-5*time.Second), 2)
	for name, s := range map[string]*Store{"live": live, "replayed": again, "replayed after a checkpoint": after} {
		if got := show(t, s, now, Query{}); got != "" {
			t.Errorf("%s: shown is %s", name, got)
		}
	}
	for range 3 {
		after.Sweep(now)
	}
	if n := after.Stats(now).Held; n != 0 {
		t.Errorf("%d series are held after a sweep", n)
	}
}

// The other way round: the clock of a sender was ahead, and is right again while the
// series still lives. Then what it sends is no newer.
func TestReplayHealsNoEarlier(t *testing.T) {
	series, s := packed("__name__", "a"), New(Options{})
	now := at(time.Minute)
	replayed(s, t0, now, 30_000, series, at(90*time.Second), 1)
	replayed(s, at(10*time.Second), now, 3_600_000, series, at(10*time.Second), 2)
	if got := show(t, s, now, Query{}); got != "" {
		t.Errorf("shown is %s", got)
	}
}

// Who last pushed to a group is who was taken.
func TestRefusedPushChangesNoGroup(t *testing.T) {
	s := New(Options{})
	pushGroup(s, t0, EndsAll, "x", 60_000, map[string]float64{"a": 1})
	b := s.NewBatch(Request{Edge: "other", Received: t0, Now: t0, Group: &Group{Labels: packed("job", "x")}})
	b.Series(packed("__name__", "a", "job", "x"))
	b.Float(t0.UnixMilli(), 2, 0)
	b.Prepare()
	b.Release()
	if g := s.Groups(); len(g) != 1 || g[0].Edge != "e" {
		t.Errorf("%+v", g)
	}
	if _, owned := s.Census(t0); owned["e"].Live != 1 || owned["other"].Held != 0 {
		t.Errorf("%+v", owned)
	}
	check(t, s)
}

// Deleting a group does not bring what is forgotten back to memory: whether it was
// swept yet is no difference.
func TestDeleteOfAForgottenGroup(t *testing.T) {
	series := packed("__name__", "a", "job", "x")
	for _, swept := range []bool{true, false} {
		s := New(Options{})
		now := at(10 * time.Minute)
		pushGroup(s, t0, EndsAll, "x", 1000, map[string]float64{"a": 1})
		for range 3 {
			if swept {
				s.Sweep(now)
			}
		}
		pushGroup(s, now, EndsAll, "x", 60_000, nil)
		push(s, now.Add(time.Second), 60_000, series, now.Add(-time.Second), 2)
		if got := show(t, s, now.Add(time.Second), Query{}); got != `a{job="x"} 2` {
			t.Errorf("swept: %v: shown is %q", swept, got)
		}
	}
}

// A checkpoint has what its requests were compared with: nothing is freed under way.
func TestNothingIsFreedDuringADump(t *testing.T) {
	s, now := New(Options{}), at(10*time.Minute)
	push(s, t0, 1000, packed("__name__", "a"), t0, 1)
	freed := 0
	sweep := func([]byte) error {
		for range 3 {
			freed += s.Sweep(now)
		}
		return nil
	}
	if err := s.Dump(sweep); err != nil || freed != 0 {
		t.Errorf("%d series were freed; %v", freed, err)
	}
	if sweep(nil); freed != 1 {
		t.Errorf("%d series were freed afterwards", freed)
	}
}
