package edges

import (
	"testing"
	"time"
)

func TestPairs(t *testing.T) {
	r := New(time.Hour, 10, nil)
	start := time.UnixMilli(1_000_000)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	const ttl = 300_000
	expect := func(s int, replica string, want bool) {
		t.Helper()
		if got := r.Elect("pair", replica, at(s)); got != want {
			t.Fatalf("%ds: replica %s taken: %v, want %v", s, replica, got, want)
		}
	}
	expect(0, "a", true)
	r.Elected("pair", "a", at(0), ttl)
	expect(1, "b", false)
	r.Elected("pair", "a", at(15), ttl)
	expect(45, "b", false) // 30 s after it was last taken from
	expect(46, "b", true)
	expect(46, "a", false)
	r.Elected("pair", "b", at(46), 20_000) // a TTL of 20 s: 10 s to fail over
	expect(56, "a", false)

	restarted := New(time.Hour, 10, nil)
	if err := r.Dump(restarted.Load); err != nil {
		t.Fatal(err)
	}
	r = restarted
	expect(56, "a", false)
	expect(57, "a", true)

	// Who is elected and sends nothing that can be taken is not listened to for ever.
	expect(88, "b", true)
}

func TestPairsAreBounded(t *testing.T) {
	r := New(time.Hour, 3, nil)
	for i := range 100 {
		r.Elect(string(rune('a'+i)), "x", time.Now())
	}
	if len(r.pairs) > 3 {
		t.Errorf("%d pairs", len(r.pairs))
	}
}
