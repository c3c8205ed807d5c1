package edges

import (
	"math"
	"slices"
	"testing"
	"time"

	"relay/series"
)

func TestSilence(t *testing.T) {
	r := New(time.Hour, 3, nil)
	t0 := time.UnixMilli(1_700_000_000_000)
	r.Saw("shop", t0, 90_000)
	r.Saw("batch", t0, math.MaxInt64)
	r.Saw("shop", t0.Add(-time.Minute), 1) // late: changes nothing
	for after, want := range map[time.Duration]bool{0: false, 89999 * time.Millisecond: false, 90 * time.Second: true, time.Hour: true} {
		if got := r.Silent("shop", t0.Add(after)); got != want {
			t.Errorf("after %s silent: %v", after, got)
		}
	}
	if r.Silent("batch", t0.Add(1e6*time.Hour)) {
		t.Error("an edge whose TTL never ends is silent")
	}
	if !r.Silent("nobody", t0) {
		t.Error("an unknown edge is not silent")
	}
	if got := r.List(t0.Add(2 * time.Minute)); len(got) != 2 || got[0].Name != "batch" || got[0].Silent || got[1].Name != "shop" || !got[1].Silent || !got[1].LastSeen.Equal(t0) {
		t.Errorf("%+v", got)
	}
	if got := r.List(t0.Add(90*time.Second + time.Hour)); len(got) != 2 {
		t.Errorf("forgotten too early: %+v", got)
	}
	if got := r.List(t0.Add(91*time.Second + time.Hour)); len(got) != 1 {
		t.Errorf("not forgotten: %+v", got)
	}
}

func TestCount(t *testing.T) {
	r := New(time.Hour, 10, nil)
	t0 := time.UnixMilli(1_700_000_000_000)
	r.Saw("shop", t0, 90_000)
	r.Saw("ship", t0, 30_000)
	r.Saw("batch", t0, math.MaxInt64)
	for _, c := range []struct {
		after time.Duration
		want  Count
	}{
		{0, Count{Live: 3}}, {16 * time.Second, Count{Live: 2, Late: 1}}, {30 * time.Second, Count{Live: 2, Silent: 1}},
		{45 * time.Second, Count{Live: 2, Silent: 1}}, {46 * time.Second, Count{Live: 1, Late: 1, Silent: 1}},
		{2 * time.Minute, Count{Live: 1, Silent: 2}}, {time.Hour + time.Minute, Count{Live: 1, Silent: 1}},
	} {
		if got := r.Count(t0.Add(c.after)); got != c.want {
			t.Errorf("after %s: %+v, want %+v", c.after, got, c.want)
		}
	}
}

// Beyond the limit edges are one, whose page is no less there than the others'; and names
// that are forgotten make room.
func TestLimit(t *testing.T) {
	r := New(time.Hour, 2, nil)
	now := time.Now()
	names := func() (list []string) {
		for _, e := range r.List(now) {
			list = append(list, e.Name)
		}
		return list
	}
	for _, name := range []string{"a", "b", "c", "a", "d"} {
		r.Saw(name, now, 1000)
	}
	if got := names(); !slices.Equal(got, []string{"a", "b", "other"}) {
		t.Errorf("%q", got)
	}
	if r.Silent("other", now) || !r.Silent("c", now) {
		t.Errorf("other is silent: %v", r.Silent("other", now))
	}
	// Nobody lists them, and still the first are forgotten when their time is over.
	now = now.Add(2 * time.Hour)
	for _, name := range []string{"e", "f", "g"} {
		r.Saw(name, now, 1000)
	}
	if got := names(); !slices.Equal(got, []string{"e", "f", "other"}) {
		t.Errorf("%q", got)
	}
}

// A clock that was an hour fast and is set right: who has stopped since is silent when
// its time is over, and who goes on is seen.
func TestStepBack(t *testing.T) {
	r := New(10*time.Minute, 2, nil)
	now := time.UnixMilli(1_700_000_000_000)
	fast := now.Add(time.Hour)
	push := func(name string, at time.Time) { r.Took(name, at, 204, &series.Result{Samples: 1000, Granted: 90_000}) }
	push("stops", fast)
	push("goes on", fast)
	push("one of many", fast) // room is looked for
	r.TookNothing(&Refusal{Edge: "goes on", At: fast, Reason: "x"}, false)

	r.NotAfter(now)
	for s := 10; s <= 120; s += 10 {
		push("goes on", now.Add(time.Duration(s)*time.Second))
		r.NotAfter(now.Add(time.Duration(s) * time.Second))
	}
	now = now.Add(2 * time.Minute)
	if !r.Silent("stops", now) || r.Silent("goes on", now) {
		t.Errorf("silent: who stops %v, who goes on %v", r.Silent("stops", now), r.Silent("goes on", now))
	}
	for _, e := range r.Reports(now) {
		if e.LastSeen.After(now) || e.Name == "goes on" && (!e.LastSeen.Equal(now) || e.SamplesPerSecond > 120 || e.Interval != 10*time.Second) {
			t.Errorf("%+v", e)
		}
	}
	now = now.Add(20 * time.Minute)
	push("new", now)
	if r.Silent("new", now) {
		t.Error("who is forgotten does not make room")
	}
}

func TestState(t *testing.T) {
	r, copied := New(time.Hour, 10, nil), New(time.Hour, 10, nil)
	now := time.UnixMilli(1_700_000_000_000)
	r.Saw("shop", now, 5000)
	copied.Saw("shop", now.Add(-time.Second), 9000)
	copied.Saw("ship", now, 5000)
	if err := r.Dump(func(b []byte) error {
		if !IsPiece(b) {
			t.Error("not recognised")
		}
		return copied.Load(b)
	}); err != nil {
		t.Fatal(err)
	}
	if got := copied.List(now); len(got) != 2 || got[1].TTL != 5*time.Second {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "x", "E", "E{", `E{"a":5}`} {
		if err := copied.Load([]byte(bad)); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

// A piece of state is loaded or refused, and what is loaded can be listed and saved.
func FuzzRegistryState(f *testing.F) {
	r := New(time.Hour, 100, nil)
	r.Saw("shop-17", time.UnixMilli(1000), 5000)
	r.Elected("pair", "a", time.UnixMilli(1000), 5000, 999)
	if err := r.Dump(func(piece []byte) error { f.Add(append([]byte(nil), piece...)); return nil }); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`E{"a":{"at":-9223372036854775808,"ttl":9223372036854775807}}`))
	f.Add([]byte(`P{"a":{"replica":"x","at":9223372036854775807,"window":-1,"ttl":-9223372036854775808,"newest":1}}`))
	f.Fuzz(func(t *testing.T, piece []byte) {
		r := New(time.Hour, 100, nil)
		r.Load(piece)
		now := time.UnixMilli(2000)
		r.List(now)
		r.Count(now)
		r.Silent("a", now)
		r.Elect("a", "y", now, Span{Oldest: 1, Newest: 2, Live: true})
		again := New(time.Hour, 100, nil)
		if err := r.Dump(again.Load); err != nil {
			t.Fatalf("what was loaded cannot be loaded again: %v", err)
		}
	})
}
