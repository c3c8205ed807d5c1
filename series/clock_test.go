package series

import (
	"testing"
	"time"
	"unsafe"
)

// stepped is a time after the wall clock was set by some seconds: its wall reading
// has moved, its monotonic one has not.
func stepped(t *testing.T, at time.Time, seconds int64) time.Time {
	t.Helper()
	moved := at
	*(*uint64)(unsafe.Pointer(&moved)) += uint64(seconds) << 30 // time.Time: seconds above nanoseconds
	if moved.Unix()-at.Unix() != seconds || moved.Sub(at) != 0 {
		t.Fatal("time.Time is laid out in another way now")
	}
	return moved
}

// A step of the wall clock by an hour moves no deadline: nothing expires for it, and
// nothing comes back. What the sender's own clock says still counts. (hostile input
// 58, I2)
func TestClockSteps(t *testing.T) {
	for _, step := range []int64{3600, -3600} {
		s := New(Options{})
		start := time.Now()
		push := func(at time.Time, name string, ms int64, ttl TTL) {
			b := s.NewBatch(Request{Edge: "e", TTL: ttl, Received: at, Now: at})
			defer b.Release()
			b.Series(packed("__name__", name))
			b.Float(ms, 1, 0)
			if res := b.Commit(); res.Refused() > 0 {
				t.Fatal(res.First)
			}
		}
		shown := func(at time.Time) int { return s.Stats(at).Live }
		push(start, "before", start.UnixMilli(), 60_000)
		push(start, "short", start.UnixMilli(), 5_000)
		later := stepped(t, start.Add(10*time.Second), step)
		if n := shown(later); n != 1 {
			t.Errorf("%d s: %d series are shown, want the one with 50 s left", step, n)
		}
		if n := shown(stepped(t, start.Add(59*time.Second), step)); n != 1 {
			t.Errorf("%d s: %d series are shown a second before the deadline", step, n)
		}
		if n := shown(stepped(t, start.Add(61*time.Second), step)); n != 0 {
			t.Errorf("%d s: %d series are shown after their deadline", step, n)
		}
		// Edges whose clocks were set with it go on at once.
		push(later, "after", later.UnixMilli(), 60_000)
		if n := shown(later); n != 2 {
			t.Errorf("%d s: %d series are shown, want the new one too", step, n)
		}
	}
}

// State that was written by a clock an hour away is shown for one TTL at most, and
// none of it that is expired by what it says itself.
func TestStateOfAnotherClock(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	for _, c := range []struct {
		ahead     time.Duration // of the clock that wrote it
		ttl       TTL
		now, then int // live when it is loaded, and a TTL later
	}{
		{time.Hour, 300_000, 1, 0},
		{-time.Hour, 300_000, 0, 0},
		{-time.Hour, 7_200_000, 1, 0},
		{time.Hour, 7_200_000, 1, 0},
	} {
		wrote := now.Add(c.ahead)
		s := New(Options{})
		b := s.NewBatch(Request{Edge: "e", TTL: c.ttl, Received: wrote, Now: wrote})
		b.Series(packed("__name__", "m"))
		b.Float(wrote.UnixMilli(), 1, 0)
		b.Commit()
		b.Release()
		loaded := New(Options{})
		if err := s.Dump(func(piece []byte) error { return loaded.Load(piece, now) }); err != nil {
			t.Fatal(err)
		}
		if n := loaded.Stats(now).Live; n != c.now {
			t.Errorf("%s ahead, TTL %s: %d shown, want %d", c.ahead, c.ttl, n, c.now)
		}
		if n := loaded.Stats(now.Add(c.ttl.Duration())).Live; n != c.then {
			t.Errorf("%s ahead, TTL %s: %d shown a TTL later", c.ahead, c.ttl, n)
		}
	}
}
