package series

import (
	"testing"
	"time"
)

// Whatever a TTL looks like: it is refused, or it is positive and its own text
// means the same.
func FuzzTTL(f *testing.F) {
	for _, s := range []string{"90", "1.5", "1h30m", "inf", "null", "0", "-1", "NaN", "1e400", "0x10", "1ns", "9e15", "2562047h47m16.854775807s", " 5s ", "1_000", "１"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ttl, err := ParseTTL(s)
		if err != nil {
			if len(err.Error()) > 300 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if ttl <= 0 {
			t.Fatalf("%q is %d", s, ttl)
		}
		again, err := ParseTTL(ttl.String())
		if err != nil || again != ttl {
			t.Fatalf("%q is %d, written %s, read %d %v", s, ttl, ttl, again, err)
		}
		if p := packTTL(ttl).ttl(); p < ttl || p != Forever && p > ttl+1000 {
			t.Fatalf("%q is %d, held as %d", s, ttl, p)
		}
	})
}

// A piece of state is loaded or refused, and leaves a store that is whole and that
// can be shown and saved again.
func FuzzState(f *testing.F) {
	now := time.UnixMilli(1_700_000_000_000)
	small := New(Options{})
	b := small.NewBatch(Request{Edge: "e", TTL: 60_000, Received: now, Now: now})
	b.Series(packed("__name__", "m", "a", "b"))
	b.Float(now.UnixMilli(), 1, 7)
	b.Exemplar(Exemplar{Labels: packed("trace_id", "x"), Value: 1, Time: 5})
	b.Series(packed("__name__", "h"))
	b.Histogram(now.UnixMilli(), &Histogram{Schema: 2, Count: 3, Sum: 1.5, PositiveSpans: []Span{{-3, 1}, {4, 1}}, PositiveDeltas: []int64{1, 0}}, 77)
	b.Metadata([]byte("m"), Counter, []byte("help"), []byte("unit"))
	b.Commit()
	b.Release()
	if err := small.Dump(func(piece []byte) error { f.Add(append([]byte(nil), piece...)); return nil }); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, piece []byte) {
		if len(piece) > 64<<10 {
			return
		}
		s := New(Options{})
		s.Load(piece, now)
		check(t, s)
		shown := everything(t, s, now)
		again := New(Options{})
		if err := s.Dump(func(piece []byte) error { return again.Load(piece, now) }); err != nil {
			t.Fatalf("what was loaded cannot be loaded again: %v", err)
		}
		check(t, again)
		if got := everything(t, again, now); len(got) != len(shown) {
			t.Fatalf("loaded again, there are %d lines, not %d:\n%q\n%q", len(got), len(shown), got, shown)
		}
		s.Sweep(now.Add(time.Hour))
		check(t, s)
	})
}
