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
	s := New(Options{MinTTL: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(p), 1))
			for n := 0; ctx.Err() == nil; n++ {
				now := time.Now()
				b := s.NewBatch(Request{Edge: fmt.Sprint(p % 3), TTL: 20, Received: now, Now: now})
				for range 50 {
					b.Series(packed("__name__", fmt.Sprint("m", rng.IntN(3)), "churn", fmt.Sprint(n/10), "x", fmt.Sprint(rng.IntN(100))))
					b.Float(now.UnixMilli(), float64(n), 0)
				}
				mine := fmt.Sprintf(`mine{p="%d"} %d`, p, n)
				b.Series(packed("__name__", "mine", "p", fmt.Sprint(p)))
				b.Float(now.Add(time.Duration(n)*time.Millisecond/1000).UnixMilli()+int64(n), float64(n), 0)
				b.Commit()
				b.Release()
				if got := show(t, s, now, Query{Matchers: [][]Matcher{{{"__name__", func(v string) bool { return v == "mine" }}}}}); !strings.Contains(got, mine) {
					t.Errorf("pushed %s, the next scan shows\n%s", mine, got)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			s.Sweep(time.Now())
			time.Sleep(time.Millisecond)
		}
	})
	for _, grouped := range []bool{false, true} {
		wg.Go(func() {
			for ctx.Err() == nil {
				var p page
				if err := s.Scan(time.Now(), Query{Grouped: grouped}, &p); err != nil {
					t.Error(err)
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
