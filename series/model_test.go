package series

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// A model is the rules of the package written down as plainly as they are stated:
// a map, absolute times, no clock but now.
type model struct {
	lag, lookback, future time.Duration
	series                map[string]*modelSeries
}

type modelSeries struct {
	t, received, deadline, forget time.Time
	bits                          uint64
}

func (m *model) push(now time.Time, ttl time.Duration, name string, t time.Time, v float64) (accepted bool) {
	bits := math.Float64bits(v)
	if t.After(now.Add(m.future)) {
		return false
	}
	if bits != staleBits && t.Before(now.Add(-min(ttl, m.lookback)-m.lag)) {
		return true
	}
	n := &modelSeries{t: t, received: now, bits: bits}
	n.deadline = now.Add(ttl)
	if d := t.Add(ttl + m.lag); d.Before(n.deadline) {
		n.deadline = d
	}
	n.forget = now
	if t.After(now) {
		n.forget = t
	}
	n.forget = n.forget.Add(ttl + m.lag)

	old := m.series[name]
	if old == nil || !now.Before(old.forget) || n.newer(old) {
		m.series[name] = n
		return true
	}
	hidden := old.bits == staleBits || !now.Before(old.deadline)
	different := !n.t.Equal(old.t) || n.bits != old.bits
	if hidden && old.t.After(old.received) && n.t.After(old.received) && different {
		m.series[name] = n
	}
	return true
}

func (n *modelSeries) newer(old *modelSeries) bool {
	bool2int := map[bool]int{true: 1}
	return cmp.Or(
		n.t.Compare(old.t),
		bool2int[n.bits == staleBits]-bool2int[old.bits == staleBits],
		cmp.Compare(n.bits, old.bits),
		old.deadline.Compare(n.deadline),
	) > 0
}

func (m *model) page(now time.Time) string {
	var lines []string
	for name, s := range m.series {
		if s.bits != staleBits && now.Before(s.deadline) {
			lines = append(lines, fmt.Sprintf("%s %v @%d", name, math.Float64frombits(s.bits), s.t.UnixMilli()))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// timed is a Visitor that also shows times.
type timed struct{ lines []string }

func (p *timed) BeginFamily(*Family) {}
func (p *timed) Series(_ *Family, s *Series) {
	p.lines = append(p.lines, fmt.Sprintf("%s %v @%d", s, s.Value, s.Time))
}
func (p *timed) EndFamily(*Family) {}
func (p *timed) Flush() error      { return nil }

// TestAgainstModel makes random pushes, sweeps and steps of time, and compares
// every page with the model's.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		againstModel(t, seed, 400)
	}
}

func FuzzAgainstModel(f *testing.F) {
	f.Add(uint64(1), uint16(1000))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) { againstModel(t, seed, int(steps)) })
}

func againstModel(t *testing.T, seed uint64, steps int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	s := New(Options{LagTolerance: 20 * time.Second, FutureTolerance: 100 * time.Second, Lookback: 50 * time.Second})
	replica := New(Options{LagTolerance: 20 * time.Second, FutureTolerance: time.Millisecond, Lookback: 50 * time.Second, MaxTTL: 1, Limits: Limits{Series: 1}})
	m := &model{lag: 20 * time.Second, lookback: 50 * time.Second, future: 100 * time.Second, series: map[string]*modelSeries{}}
	now := t0
	ttls := []time.Duration{2 * time.Second, 10 * time.Second, 60 * time.Second, 200 * time.Second}
	values := []float64{0, 1, -1, math.Inf(1), stale, stale}
	for step := range steps {
		switch rng.IntN(12) {
		case 0:
			now = now.Add(time.Duration(rng.IntN(60_000)) * time.Millisecond)
		case 1:
			s.Sweep(now)
		case 2:
			if rng.IntN(10) == 0 {
				s = reloaded(t, s, now)
			}
		default:
			now = now.Add(time.Duration(rng.IntN(3)) * time.Second)
			ttl := ttls[rng.IntN(len(ttls))]
			b := s.NewBatch(Request{Edge: fmt.Sprint(rng.IntN(3)), TTL: TTLOf(ttl), Received: now, Now: now})
			refused := 0
			for range 1 + rng.IntN(8) {
				name := string(rune('a' + rng.IntN(6)))
				st := now.Add(time.Duration(rng.IntN(240)-120) * time.Second)
				v := values[rng.IntN(len(values))]
				b.Series(packed("__name__", name, "x", name))
				b.Float(st.UnixMilli(), v, 0)
				// Times are whole milliseconds.
				if !m.push(now.Truncate(0), ttl, fmt.Sprintf(`%s{x=%q}`, name, name), now.Add(st.Sub(now)), v) {
					refused++
				}
			}
			follow(replica, b, now)
			if r := b.Commit(); r.Refused() != refused || r.Samples != r.Stored+r.Superseded+r.ExpiredOnArrival+r.Ended {
				t.Fatalf("seed %d step %d: %d refused, want %d: %+v", seed, step, r.Refused(), refused, r)
			}
			b.Release()
		}
		var p timed
		if err := s.Scan(now, Query{}, &p); err != nil {
			t.Fatal(err)
		}
		slices.Sort(p.lines)
		if got, want := strings.Join(p.lines, "\n"), m.page(now); got != want {
			t.Fatalf("seed %d step %d:\n got\n%s\nwant\n%s", seed, step, got, want)
		}
		if got, want := pageAt(t, replica, now), m.page(now); got != want {
			t.Fatalf("seed %d step %d: a replica that follows the decisions shows\n%s\nwant\n%s", seed, step, got, want)
		}
	}
	check(t, s)
}

func pageAt(t *testing.T, s *Store, now time.Time) string {
	t.Helper()
	var p timed
	if err := s.Scan(now, Query{}, &p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.lines)
	return strings.Join(p.lines, "\n")
}

// reloaded is a new store with the state of another one, loaded twice and
// backwards, since neither may matter.
func reloaded(t *testing.T, old *Store, now time.Time) *Store {
	t.Helper()
	var pieces [][]byte
	if err := old.Dump(func(p []byte) error {
		pieces = append(pieces, slices.Clone(p))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s := New(old.opts)
	for range 2 {
		slices.Reverse(pieces)
		for _, p := range pieces {
			if err := s.Load(p, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// follow gives a request to another store as a journal does: what it brings, and
// what was decided.
func follow(replica *Store, b *Batch, now time.Time) {
	b.Prepare()
	d := b.Decision()
	r := replica.NewBatch(Request{Edge: b.store.owners[b.owner].name, Received: now, Now: now, Recorded: &d})
	defer r.Release()
	at, refused := 0, 0
	for item := range b.items {
		if refused < len(b.refusals) && b.refusals[refused] == item {
			refused++
			r.Series(packed("__name__", "refused"))
			r.Float(0, 0, 0)
			continue
		}
		e := b.entries[at]
		at++
		var labels []byte
		if e.kind&isMissing != 0 {
			labels = packed("__name__", "refused")
		} else {
			b.store.structure.RLock()
			_, sl := b.store.slot(e.slot)
			labels = b.store.packedLabels(sl)
			b.store.structure.RUnlock()
		}
		r.Series(labels)
		r.Float(e.t, math.Float64frombits(e.bits), 0)
	}
	r.Commit()
}
