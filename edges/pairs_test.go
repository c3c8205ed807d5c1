package edges

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// A pairTest asks for elections, seconds after a start; samples are as old as their
// requests unless it is said.
type pairTest struct {
	t *testing.T
	r *Registry
}

var pairStart = time.UnixMilli(1_000_000)

func second(s int) time.Time { return pairStart.Add(time.Duration(s) * time.Second) }

func spanning(oldest, newest int) Span {
	return Span{second(oldest).UnixMilli(), second(newest).UnixMilli(), true}
}

func (p *pairTest) expect(s int, replica string, want bool) {
	p.t.Helper()
	p.expectWith(s, replica, spanning(s, s), want)
}

func (p *pairTest) expectWith(s int, replica string, span Span, want bool) {
	p.t.Helper()
	if got, _ := p.r.Elect("pair", replica, second(s), span); got != want {
		p.t.Fatalf("%ds: replica %s taken: %v, want %v", s, replica, got, want)
	}
}

func (p *pairTest) took(s int, replica string, ttl int64, newest int) {
	p.r.Elected("pair", replica, second(s), ttl, second(newest).UnixMilli())
}

func TestPairs(t *testing.T) {
	p := pairTest{t, New(time.Hour, 10, nil)}
	const ttl = 300_000
	p.expect(0, "a", true)
	p.took(0, "a", ttl, 0)
	p.expect(1, "b", false)
	p.took(15, "a", ttl, 15)
	p.expect(45, "b", false) // 30 s after it was last taken from
	if taken, changed := p.r.Elect("pair", "b", second(46), spanning(46, 46)); !taken || !changed {
		t.Fatal("not elected after the failover time")
	}
	p.expect(46, "a", false)
	p.took(46, "b", 20_000, 46) // a TTL of 20 s: 10 s to fail over
	p.expect(56, "a", false)

	restarted := New(time.Hour, 10, nil)
	if err := p.r.Dump(restarted.Load); err != nil {
		t.Fatal(err)
	}
	p.r = restarted
	p.expect(56, "a", false)
	p.expectWith(57, "a", spanning(46, 57), false) // what was taken is remembered, too
	p.expect(57, "a", true)

	// Who is elected and sends nothing that can be taken is not listened to for ever.
	p.expect(88, "b", true)
}

// The other replica takes over with newer samples alone: a backlog of its own would
// make counters step back. (protocol: Mimir's false counter resets)
func TestPairsFailOverToNewerSamples(t *testing.T) {
	p := pairTest{t, New(time.Hour, 10, nil)}
	const ttl = 120_000
	p.expect(0, "a", true)
	p.took(10, "a", ttl, 9)
	p.expectWith(60, "b", spanning(5, 60), false)
	p.expectWith(60, "b", spanning(9, 60), false)
	p.expectWith(60, "b", Span{}, false)                               // nothing but metadata
	p.expectWith(60, "b", Span{Oldest: second(60).UnixMilli()}, false) // stale markers: it stops
	p.expectWith(61, "b", spanning(10, 61), true)

	// Of a replica whose clock was fast nothing is left after its TTL.
	p.took(61, "b", ttl, 600)
	p.expectWith(181, "a", spanning(181, 181), false)
	p.expectWith(182, "a", spanning(182, 182), true)
}

// A clock that was an hour fast and is set right does not keep a pair with a replica
// that is gone, nor forget who is elected since; requests that overtake each other are
// no such thing. (with and without a journal that is shared, which asks Listens first)
func TestPairsAfterAStepBack(t *testing.T) {
	for _, shared := range []bool{false, true} {
		p := pairTest{t, New(time.Hour, 10, nil)}
		expect := func(s int, replica string, want bool) {
			t.Helper()
			if shared && !p.r.Listens("pair", replica, second(s), spanning(s, s)) {
				if want {
					t.Fatalf("%ds: replica %s is not listened to", s, replica)
				}
				return
			}
			p.expect(s, replica, want)
		}
		const ttl, fast = 60_000, 3600
		expect(fast, "a", true)
		p.took(fast, "a", ttl, 9) // samples are by the edges' clocks
		expect(fast-20, "b", false)
		expect(fast+20, "b", false)
		expect(fast+30, "b", false) // and counts from fast

		expect(10, "b", false)
		expect(40, "b", false)
		expect(41, "b", true)
		p.took(71, "b", ttl, 71)
		expect(80, "a", false)
		p.took(90, "b", ttl, 90)
		expect(120, "a", false) // 30 s after b, not after itself
		expect(121, "a", true)
	}
}

// A record that came late through a shared journal has an older time than what was taken
// meanwhile: the clock was not set back, however short the TTL is.
func TestPairsAfterALateRecord(t *testing.T) {
	p := pairTest{t, New(time.Hour, 10, nil)}
	const ttl = 10_000 // a window of 5 s
	p.expect(100, "a", true)
	p.took(100, "a", ttl, 100)
	for _, late := range []int{94, 90, 50} {
		if p.r.Listens("pair", "b", second(late), spanning(101, 101)) {
			t.Errorf("a record of %d s is taken for a clock set back", late)
		}
		p.expectWith(late, "b", spanning(101, 101), false)
		p.expectWith(late+6, "b", spanning(102, 102), false) // if the election was of then, it is over
	}
	p.expectWith(105, "b", spanning(105, 105), false)
	p.expectWith(106, "b", spanning(106, 106), true)

	p.took(106, "b", ttl, 106)
	p.expectWith(45, "a", spanning(107, 107), false) // a minute and more: from now on it counts
	p.expectWith(51, "a", spanning(108, 108), true)
}

// Of whom nothing is taken after all, nobody is elected with: not in a dump either.
func TestPairsWithdraw(t *testing.T) {
	p := pairTest{t, New(time.Hour, 10, nil)}
	p.expect(0, "a", true)
	p.r.Withdraw("pair", "a")
	p.expect(1, "b", true)
	p.took(1, "b", 60_000, 1)
	p.r.Withdraw("pair", "b") // another request of it
	p.expect(2, "a", false)

	p.expect(40, "a", true)
	p.r.Withdraw("pair", "b") // one from before
	p.expect(40, "b", false)
	restarted := New(time.Hour, 10, nil)
	if err := p.r.Dump(restarted.Load); err != nil {
		t.Fatal(err)
	}
	(&pairTest{t, restarted}).expect(40, "b", true)
	p.r.Withdraw("pair", "a")
	p.expect(40, "b", true)
	p.expect(40, "c", true)
	p.took(40, "c", 60_000, 40)
	p.r.Withdraw("pair", "c")
	p.expect(41, "b", false)
}

// Stale markers and metadata elect nobody, even where nobody is elected.
func TestPairsNeedValues(t *testing.T) {
	p := pairTest{t, New(time.Hour, 10, nil)}
	p.expectWith(0, "a", Span{}, true)
	p.expect(1, "b", true)
	p.expect(2, "a", false)
}

// What was taken may be noted in any order: a replay and the original agree.
func TestElectedCommutes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	type note struct {
		replica    string
		at, newest int
	}
	var notes []note
	for i := range 40 { // one elected replica after the other, as requests come
		notes = append(notes, note{fmt.Sprint(i / 8), i * 10, i*10 - rng.IntN(30)})
	}
	var want map[string]election
	for range 20 {
		p := pairTest{t, New(time.Hour, 10, nil)}
		for _, i := range rng.Perm(len(notes)) {
			p.took(notes[i].at, notes[i].replica, 60_000, notes[i].newest)
		}
		if want == nil {
			want = p.r.pairs
		}
		if !reflect.DeepEqual(p.r.pairs, want) {
			t.Fatalf("%v, another order gives %v", p.r.pairs, want)
		}
	}
}

func TestPairsAreBounded(t *testing.T) {
	r := New(time.Hour, 3, nil)
	for i := range 100 {
		r.Elect(string(rune('a'+i)), "x", time.Now(), Span{Live: true})
	}
	if len(r.pairs) > 3 {
		t.Errorf("%d pairs", len(r.pairs))
	}
}
