package series

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConcurrentPushesScansAndSweeps runs everything at once and holds three
// things: a committed sample is in the next scan, a scan never shows a series
// twice nor an expired one, and the memory is in order at the end.
func TestConcurrentPushesScansAndSweeps(t *testing.T) {
	const ttl, lag = 20 * time.Millisecond, 100 * time.Millisecond
	s := New(Options{MinTTL: 1, LagTolerance: lag})                       // much is freed within the test
	slow := func(since time.Time) bool { return time.Since(since) > lag } // what was there then may be freed now
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(p), 1))
			for n := 0; ctx.Err() == nil; n++ {
				now := time.Now()
				b := s.NewBatch(Request{Edge: fmt.Sprint(p % 3), TTL: TTLOf(ttl), Received: now, Now: now})
				for range 50 {
					b.Series(packed("__name__", fmt.Sprint("m", rng.IntN(3)), "churn", fmt.Sprint(n/10), "x", fmt.Sprint(rng.IntN(100))))
					b.Float(now.UnixMilli(), float64(n), 0)
				}
				mine := fmt.Sprintf(`mine{p="%d"} %d`, p, n)
				b.Series(packed("__name__", "mine", "p", fmt.Sprint(p)))
				b.Float(now.Add(time.Duration(n)*time.Millisecond/1000).UnixMilli()+int64(n), float64(n), 0)
				b.Commit()
				b.Release()
				if got := show(t, s, now, Query{Matchers: [][]Matcher{{{"__name__", func(v string) bool { return v == "mine" }}}}}); !strings.Contains(got, mine) && !slow(now) {
					t.Errorf("pushed %s, the next scan shows\n%s", mine, got)
					return
				}
			}
		})
	}
	for p := range 2 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				values := map[string]float64{"grouped": float64(n)}
				for i := range 20 {
					values[fmt.Sprint("g", (n+i*7)%50)] = float64(n)
				}
				now, job := time.Now(), fmt.Sprint(p, ".", n%30)
				pushGroup(s, now, GroupEnds(n%2), job, TTLOf(ttl), values)
				mine := fmt.Sprintf(`grouped{job=%q} %d`, job, n)
				if got := show(t, s, now, Query{Edge: "e"}); !strings.Contains(got, mine) && !slow(now) {
					t.Errorf("pushed %s, the next scan shows\n%s", mine, got)
					return
				}
			}
		})
	}
	wg.Go(func() {
		defer cancel()
		for begun := time.Now(); time.Since(begun) < 500*time.Millisecond || s.Counters().Forgotten == 0; {
			if time.Since(begun) > 30*time.Second {
				t.Error("no series was freed meanwhile")
				return
			}
			s.Sweep(time.Now())
			time.Sleep(5 * time.Millisecond)
		}
	})
	for _, grouped := range []bool{false, true} {
		wg.Go(func() {
			for ctx.Err() == nil {
				var p page
				now := time.Now()
				if err := s.Scan(now, Query{Grouped: grouped}, &p); err != nil {
					t.Error(err)
				}
				if slow(now) {
					continue
				}
				seen := map[string]bool{}
				for _, l := range p.lines {
					name, _, _ := strings.Cut(l, " ")
					if seen[name] {
						t.Errorf("%s is shown twice", name)
					}
					seen[name] = true
				}
			}
		})
	}
	wg.Wait()
	check(t, s)
	for range 4 {
		s.Sweep(time.Now().Add(time.Hour))
	}
	check(t, s)
	if st := s.Stats(time.Now()); st.Held != 0 || st.PairBytes != 0 {
		t.Errorf("not everything was freed: %+v", st)
	}
}

// TestSweepSparesWhatABatchHasResolved lets the sweep come between Prepare and
// Commit, where a journal is waited for.
func TestSweepSparesWhatABatchHasResolved(t *testing.T) {
	s := New(Options{})
	late := at(24 * time.Hour)
	push(s, at(0), 0, packed("__name__", "known"), at(0), 1)
	b := s.NewBatch(Request{Edge: "a", Received: late, Now: late})
	for _, name := range []string{"known", "new"} {
		b.Series(packed("__name__", name))
		b.Float(late.UnixMilli(), 2, 0)
	}
	b.Prepare()
	for range 5 {
		s.Sweep(late)
	}
	b.Commit()
	b.Release()
	if got, want := show(t, s, late, Query{}), "known 2\nnew 2"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	check(t, s)
}

// A batch that began before another one may resolve a series after it, and end before
// it: the series is the other's still.
func TestSweepSparesWhatAnEarlierBatchResolvedToo(t *testing.T) {
	s := New(Options{})
	late := at(24 * time.Hour)
	push(s, at(0), 0, packed("__name__", "known"), at(0), 1)
	begin := func() *Batch { return s.NewBatch(Request{Edge: "a", Received: late, Now: late}) }
	resolve := func(b *Batch, t time.Time) {
		b.Series(packed("__name__", "known"))
		b.Float(t.UnixMilli(), 2, 0)
		b.Prepare()
	}
	earlier := begin()
	s.Sweep(at(0))
	b := begin()
	resolve(b, late)
	resolve(earlier, late)
	earlier.Release()
	s.Sweep(late)
	b.Commit()
	b.Release()
	if got, want := show(t, s, late, Query{}), "known 2"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	check(t, s)
}

// TestSteadyIngestAllocatesNothing is the budget of the hot path.
func TestSteadyIngestAllocatesNothing(t *testing.T) {
	s := New(Options{})
	list := fleet(2000)
	now := at(0)
	ingest(s, list, now)
	if n := testing.AllocsPerRun(20, func() {
		now = now.Add(15 * time.Second)
		ingest(s, list, now)
	}); n > 1 {
		t.Errorf("%v allocations for 2000 samples, want none", n)
	}
}
