package series

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// pushGroup pushes series, as name and value pairs, to the group job=job.
func pushGroup(s *Store, now time.Time, ends GroupEnds, job string, ttl TTL, values map[string]float64) Result {
	b := s.NewBatch(Request{Edge: "e", TTL: ttl, Received: now, Now: now, Group: &Group{Labels: packed("job", job), Ends: ends}})
	defer b.Release()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		b.EndFamily(name, false)
		b.Series(packed("__name__", name, "job", job))
		b.Float(now.UnixMilli(), values[name], 0)
	}
	return b.Commit()
}

func TestGroups(t *testing.T) {
	s := New(Options{})
	const ttl = 60_000
	expect := func(now time.Time, want ...string) {
		t.Helper()
		if got := show(t, s, now, Query{}); got != strings.Join(want, "\n") {
			t.Fatalf("shown\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	}
	pushGroup(s, t0, EndsAll, "x", ttl, map[string]float64{"a": 1, "b": 2})
	pushGroup(s, t0, EndsAll, "y", ttl, map[string]float64{"a": 3})
	expect(t0, `a{job="x"} 1`, `a{job="y"} 3`, `b{job="x"} 2`)
	// POST leaves the other families, PUT ends them; both in the same millisecond.
	pushGroup(s, t0, EndsFamilies, "x", ttl, map[string]float64{"b": 1, "c": 5})
	expect(t0, `a{job="x"} 1`, `a{job="y"} 3`, `b{job="x"} 1`, `c{job="x"} 5`)
	pushGroup(s, t0, EndsAll, "x", ttl, map[string]float64{"c": 4})
	expect(t0, `a{job="y"} 3`, `c{job="x"} 4`)
	pushGroup(s, t0, EndsAll, "x", ttl, nil)
	expect(t0, `a{job="y"} 3`)
	pushGroup(s, t0, EndsAll, "x", ttl, map[string]float64{"c": 1})
	expect(t0, `a{job="y"} 3`, `c{job="x"} 1`)

	// A group owns what it wrote last.
	push(s, at(time.Second), ttl, packed("__name__", "c", "job", "x"), at(time.Second), 9)
	pushGroup(s, at(2*time.Second), EndsAll, "x", ttl, nil)
	expect(at(2*time.Second), `a{job="y"} 3`, `c{job="x"} 9`)
	// And a push wins over a sample that is ahead of it.
	push(s, at(3*time.Second), ttl, packed("__name__", "c", "job", "x"), at(5*time.Second), 10)
	pushGroup(s, at(4*time.Second), EndsAll, "x", ttl, map[string]float64{"c": 11})
	expect(at(4*time.Second), `a{job="y"} 3`, `c{job="x"} 11`)
	if got := show(t, s, at(4*time.Second), Query{Edge: "e"}); !strings.Contains(got, `c{job="x"} 11`) {
		t.Errorf("the page of the edge lacks what it pushed: %s", got)
	}

	// Groups expire as everything does, and leave nothing behind.
	expect(at(64 * time.Second))
	for _, d := range []time.Duration{10 * time.Minute, 11 * time.Minute, 12 * time.Minute} {
		s.Sweep(at(d))
	}
	if len(s.groupIDs) != 0 || s.held != 0 {
		t.Errorf("%d groups and %d series are left", len(s.groupIDs), s.held)
	}
}

// Deleted for ever though its TTL was to be: the watermark goes all the same.
func TestDeletedGroupIsForgotten(t *testing.T) {
	s := New(Options{})
	pushGroup(s, t0, EndsAll, "x", Forever, map[string]float64{"a": 1})
	pushGroup(s, at(time.Second), EndsAll, "x", 0, nil)
	for _, d := range []time.Duration{10 * time.Minute, 11 * time.Minute, 12 * time.Minute} {
		s.Sweep(at(d))
	}
	if s.held != 0 {
		t.Error("a deleted series is kept for ever")
	}
}

func TestGroupTTL(t *testing.T) {
	s := New(Options{})
	with := func(now time.Time, ends GroupEnds, ttl TTL, name string) {
		b := s.NewBatch(Request{Edge: "e", Received: now, Now: now, Group: &Group{Labels: packed("job", "x"), Ends: ends}})
		defer b.Release()
		b.Series(packed("__name__", name, "job", "x"))
		b.SetTTL(ttl)
		b.Float(now.UnixMilli(), 1, 0)
		b.Series(packed("__name__", "push_time_seconds", "job", "x"))
		b.SetGroupTTL()
		b.Float(now.UnixMilli(), 1, 0)
		b.Commit()
	}
	with(t0, EndsAll, 60_000, "long")
	with(at(30*time.Second), EndsFamilies, 10_000, "short")
	for _, c := range []struct {
		at   time.Duration
		want int
	}{{39 * time.Second, 3}, {41 * time.Second, 2}, {59 * time.Second, 2}, {60 * time.Second, 0}} {
		if got := s.Stats(at(c.at)).Live; got != c.want {
			t.Errorf("after %s %d series, want %d", c.at, got, c.want)
		}
	}
}

func TestGroupLimit(t *testing.T) {
	s := New(Options{Limits: Limits{Groups: 1}})
	pushGroup(s, t0, EndsAll, "x", 0, map[string]float64{"a": 1})
	if res := pushGroup(s, t0, EndsAll, "y", 0, map[string]float64{"a": 1}); res.Refused() == 0 || !strings.Contains(res.First.Error(), "--limits.groups") {
		t.Errorf("%+v", res)
	}
}

// What was taken under a larger limit stays what it is after a restart: a group, which
// can be pushed to and deleted.
func TestGroupLimitIsNotForWhatWasTaken(t *testing.T) {
	s := New(Options{})
	for _, job := range []string{"x", "y", "z"} {
		pushGroup(s, t0, EndsAll, job, 60_000, map[string]float64{"a": 1})
	}
	loaded := New(Options{Limits: Limits{Groups: 1}})
	if err := s.Dump(func(piece []byte) error { return loaded.Load(piece, t0) }); err != nil {
		t.Fatal(err)
	}
	replayed := New(Options{Limits: Limits{Groups: 1}})
	for _, job := range []string{"x", "y", "z"} {
		b := replayed.NewBatch(Request{Edge: "e", Received: t0, Now: t0, Group: &Group{Labels: packed("job", job), Ends: EndsAll}, Recorded: &Decision{TTL: 60_000, MinTTL: 1, MaxTTL: Forever}})
		b.Series(packed("__name__", "a", "job", job))
		b.Float(t0.UnixMilli(), 1, 0)
		b.Commit()
		b.Release()
	}
	for name, s := range map[string]*Store{"loaded": loaded, "replayed": replayed} {
		if res := pushGroup(s, t0, EndsFamilies, "z", 60_000, map[string]float64{"b": 1}); res.Refused() > 0 {
			t.Errorf("%s: a push to a known group: %v", name, res.First)
		}
		b := s.NewBatch(Request{Edge: "e", Received: t0, Now: t0, Group: &Group{Labels: packed("job", "new")}})
		if b.Prepare().Refused() == 0 {
			t.Errorf("%s: a group beyond the limit is taken", name)
		}
		b.Release()
		for _, job := range []string{"x", "y", "z"} {
			pushGroup(s, t0, EndsAll, job, 60_000, nil)
		}
		if got := show(t, s, t0, Query{}); got != "" {
			t.Errorf("%s: all groups are deleted, shown is\n%s", name, got)
		}
	}
}

// Random pushes, deletes and restarts, against a map.
func TestGroupsAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	s := New(Options{})
	model := map[string]map[string]float64{}
	for i := range 2000 {
		now := at(time.Duration(i/3) * time.Millisecond)
		job := fmt.Sprint("j", r.IntN(4))
		values := map[string]float64{}
		for range r.IntN(4) {
			values[fmt.Sprint("m", r.IntN(6))] = float64(i)
		}
		ends := GroupEnds(r.IntN(2))
		pushGroup(s, now, ends, job, 3_600_000, values)
		if ends == EndsAll || model[job] == nil {
			model[job] = map[string]float64{}
		}
		maps.Copy(model[job], values)
		if r.IntN(100) == 0 {
			s.Sweep(now)
		}
		if r.IntN(100) == 0 {
			restarted := New(Options{})
			if err := s.Dump(func(p []byte) error { return restarted.Load(p, now) }); err != nil {
				t.Fatal(err)
			}
			s = restarted
		}
		var want []string
		for job, values := range model {
			for name, v := range values {
				want = append(want, fmt.Sprintf("%s{job=%q} %v", name, job, v))
			}
		}
		slices.Sort(want)
		if got := show(t, s, now, Query{}); got != strings.Join(want, "\n") {
			t.Fatalf("seed %d, push %d: shown\n%s\nwant\n%s", seed, i, got, strings.Join(want, "\n"))
		}
	}
}

// A push to a group is read while somebody waits to create a series: neither waits
// for the other. (A lock for reading that is taken twice does, once a writer has
// asked in between.)
func TestGroupTTLWhileAnotherCreates(t *testing.T) {
	s := New(Options{})
	b := s.NewBatch(Request{Edge: "e", Received: t0, Now: t0, Group: &Group{Labels: packed("job", "x"), Ends: EndsFamilies}})
	b.Series(packed("__name__", "push_time_seconds", "job", "x"))
	created := make(chan struct{})
	go func() {
		defer close(created)
		push(s, t0, 60_000, packed("__name__", "a"), t0, 1)
	}()
	for s.structure.TryRLock() { // until it waits
		s.structure.RUnlock()
		time.Sleep(time.Millisecond)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.SetGroupTTL()
		b.Float(t0.UnixMilli(), 1, 0)
		b.Commit()
		b.Release()
	}()
	for _, c := range []chan struct{}{done, created} {
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatal("they wait for each other")
		}
	}
}

// A sweep frees series in turns; between them the lists still name what is gone.
func TestGroupPushBetweenTwoTurnsOfASweep(t *testing.T) {
	s := New(Options{})
	pushGroup(s, t0, EndsAll, "x", 0, map[string]float64{"a": 1, "b": 1})
	s.structure.Lock()
	for _, id := range slices.Clone(s.owners[s.groupIDs[(&Group{Labels: packed("job", "x")}).key()]].list) {
		if _, sl := s.slot(id); s.metrics[s.nameOf(sl)].name == "a" {
			s.unlink(id, sl, map[*metric]bool{})
		}
	}
	s.structure.Unlock()
	for _, ends := range []GroupEnds{EndsFamilies, EndsAll} {
		pushGroup(s, at(time.Second), ends, "x", 0, map[string]float64{"b": 2})
	}
	if got, want := show(t, s, at(time.Second), Query{}), `b{job="x"} 2`; got != want {
		t.Errorf("shown is %s, want %s", got, want)
	}
}

// ownedRight checks that each series of a store is in the group of its own label job.
func ownedRight(t *testing.T, s *Store, want int) {
	t.Helper()
	n := 0
	for line := range strings.Lines(show(t, s, t0, Query{})) {
		_, job, _ := strings.Cut(line, `job="`)
		job, _, _ = strings.Cut(job, `"`)
		n++
		if !s.HasGroup(&Group{Labels: packed("job", job)}) {
			t.Fatalf("the group of %s is not known", line)
		}
		pushGroup(s, t0, EndsAll, job, 60_000, nil)
	}
	if rest := show(t, s, t0, Query{}); rest != "" || n != want {
		t.Errorf("of %d series, all groups deleted, there are still\n%.500s", n, rest)
	}
}

// A sweep while state is loaded does not take groups for empty ones whose series are
// about to come.
func TestGroupsAreLoadedWhileSwept(t *testing.T) {
	old := New(Options{})
	const groups = 3000
	for i := range groups {
		pushGroup(old, t0, EndsAll, fmt.Sprint("j", i), 60_000, map[string]float64{fmt.Sprint("m", i): 1})
	}
	for range 10 {
		s := New(Options{})
		stop, swept := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(swept)
			for {
				select {
				case <-stop:
					return
				default:
					s.tidyOwners(true)
				}
			}
		}()
		if err := old.Dump(func(piece []byte) error { return s.Load(piece, t0) }); err != nil {
			t.Fatal(err)
		}
		close(stop)
		<-swept
		ownedRight(t, s, groups)
	}
}

// A group that goes while a piece of state is written, and one that comes in its
// place, are told apart.
func TestDumpWhileGroupsComeAndGo(t *testing.T) {
	s := New(Options{})
	pushGroup(s, t0, EndsAll, "stays", 60_000, map[string]float64{"a": 1})
	pushGroup(s, t0, EndsAll, "goes", 60_000, map[string]float64{"b": 1})
	d := dump{store: s}
	write := func() {
		s.structure.RLock()
		defer s.structure.RUnlock()
		d.block(0, s.blocks[0])
	}
	write()
	// Its series become another's: nothing is freed but the group.
	pushGroup(s, t0, EndsAll, "goes", 60_000, nil)
	push(s, t0, 60_000, packed("__name__", "b", "job", "goes"), at(time.Second), 1)
	push(s, t0, 60_000, packed("__name__", "b", "job", "goes"), at(2*time.Second), math.Float64frombits(staleBits))
	s.tidyOwners(true)
	if s.HasGroup(&Group{Labels: packed("job", "goes")}) {
		t.Fatal("the group is still there")
	}
	pushGroup(s, t0, EndsAll, "comes", 60_000, map[string]float64{"c": 1})
	write()
	loaded := New(Options{})
	if err := d.flush(func(piece []byte) error { return loaded.Load(piece, t0) }); err != nil {
		t.Fatal(err)
	}
	pushGroup(loaded, t0, EndsAll, "goes", 60_000, nil)
	if got := show(t, loaded, t0, Query{}); got != `a{job="stays"} 1`+"\n"+`c{job="comes"} 1` {
		t.Errorf("loaded is\n%s", got)
	}
	pushGroup(loaded, t0, EndsAll, "comes", 60_000, nil)
	pushGroup(loaded, t0, EndsAll, "stays", 60_000, nil)
	if got := show(t, loaded, t0, Query{}); got != "" {
		t.Errorf("both groups are deleted, shown is\n%s", got)
	}
}
