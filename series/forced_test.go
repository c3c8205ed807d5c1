package series

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func forced(pairs ...string) Terms { return Terms{Forced: packed(pairs...)} }

// pushAs sends series with the value 1 under terms, in both forms that a request
// may have.
func pushAs(s *Store, now time.Time, edge string, terms Terms, byRefs bool, labelSets ...[]string) Result {
	return pushValue(s, now, edge, terms, byRefs, 1, labelSets...)
}

func pushValue(s *Store, now time.Time, edge string, terms Terms, byRefs bool, v float64, labelSets ...[]string) Result {
	b := s.NewBatch(Request{Edge: edge, Received: now, Now: now, Terms: terms})
	defer b.Release()
	if byRefs {
		symbols := [][]byte{nil}
		for _, set := range labelSets {
			for _, l := range set {
				symbols = append(symbols, []byte(l))
			}
		}
		b.Symbols(symbols)
	}
	ref := uint32(0)
	for _, set := range labelSets {
		if byRefs {
			var refs []uint32
			for range set {
				ref++
				refs = append(refs, ref)
			}
			b.SeriesRefs(refs)
		} else {
			b.Series(packed(set...))
		}
		b.Float(now.UnixMilli(), v, 0)
	}
	return b.Commit()
}

// An edge cannot speak of a series without its forced labels, whatever it sends
// and however a page may show it. (hostile inputs 24 and 62)
func TestForcedLabels(t *testing.T) {
	for _, c := range []struct {
		name       string
		sent, want string
		overridden int
	}{
		{"added", `__name__=up,job=x`, `up{edge_id="a",job="x"}`, 0},
		{"its own, right", `__name__=up,edge_id=a,job=x`, `up{edge_id="a",job="x"}`, 0},
		{"another's", `__name__=up,edge_id=victim`, `up{edge_id="a"}`, 1},
		{"shown as another's", `__name__=up,edge.id=victim`, `up{edge_id="a"}`, 1},
		{"shown as it, too", `__name__=up,edge-id=v1,edge id=v2,edgeéid=v3`, `up{edge_id="a"}`, 1},
		{"empty is absent", `__name__=up,edge_id=`, `up{edge_id="a"}`, 0},
		{"twice", `__name__=up,edge_id=b,edge_id=c`, `up{edge_id="a"}`, 1},
		{"no name", `edge_id=a`, ``, 0},
		{"other names stay", `__name__=up,edge_idx=1,xedge_id=2`, `up{edge_id="a",edge_idx="1",xedge_id="2"}`, 0},
	} {
		for _, byRefs := range []bool{false, true} {
			s := New(Options{})
			var set []string
			for l := range strings.SplitSeq(c.sent, ",") {
				name, value, _ := strings.Cut(l, "=")
				set = append(set, name, value)
			}
			for round := range 3 { // predicted from the second on
				res := pushAs(s, at(time.Duration(round)*time.Second), "a", forced("edge_id", "a"), byRefs, set, set)
				if res.Overridden > 2*c.overridden || c.overridden > 0 && res.Overridden == 0 {
					t.Errorf("%s: %d overridden, want %d a series", c.name, res.Overridden, c.overridden)
				}
			}
			want := c.want
			if want != "" {
				want += " 1"
			}
			if got := show(t, s, at(3*time.Second), Query{}); got != want {
				t.Errorf("%s (refs %v): shown %q, want %q", c.name, byRefs, got, want)
			}
		}
	}
}

// Reserved names are refused however they are written.
func TestReservedNames(t *testing.T) {
	for _, name := range []string{"__edge__", "__address__", "..edge", "_.x", "é_x", "1-name", "__", "..name.."} {
		s := New(Options{})
		if res := push(s, t0, 0, packed("__name__", "up", name, "x"), t0, 1); res.Rejected[LabelInvalid] != 1 {
			t.Errorf("%q was taken", name)
		}
	}
	for _, name := range []string{"_x", "é", "a__b", ".x", "_"} {
		s := New(Options{})
		if res := push(s, t0, 0, packed("__name__", "up", name, "x"), t0, 1); res.Stored != 1 {
			t.Errorf("%q was refused: %v", name, res.First)
		}
	}
}

// Many edges send the same series in many orders, with and without the label that
// is forced on them: what is predicted is never another edge's.
func TestForcedLabelsAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	s := New(Options{})
	want := map[string]int{}
	terms := map[string]Terms{}
	for i := range 3 {
		edge := fmt.Sprint("e", i)
		terms[edge] = forced("edge", edge, "site", fmt.Sprint(i%2))
	}
	terms["open"] = Terms{}
	for round := range 1000 {
		edge := []string{"e0", "e1", "e2", "open"}[r.IntN(4)]
		var sets [][]string
		for range 1 + r.IntN(40) {
			set := []string{"__name__", fmt.Sprint("m", r.IntN(20))}
			said := map[string]string{}
			if r.IntN(3) == 0 {
				said["edge"] = []string{edge, "e0", ""}[r.IntN(3)]
			}
			if r.IntN(4) == 0 {
				said["site"] = fmt.Sprint(r.IntN(2))
			}
			if r.IntN(2) == 0 {
				said["job"] = fmt.Sprint("j", r.IntN(3))
			}
			for _, name := range []string{"edge", "job", "site"} {
				if v, ok := said[name]; ok {
					set = append(set, name, v)
				}
			}
			sets = append(sets, set)
			if edge != "open" {
				said["edge"], said["site"] = edge, fmt.Sprint((edge[1]-'0')%2)
			}
			line := set[1]
			var pairs []string
			for _, name := range []string{"edge", "job", "site"} {
				if said[name] != "" {
					pairs = append(pairs, fmt.Sprintf("%s=%q", name, said[name]))
				}
			}
			if len(pairs) > 0 {
				line += "{" + strings.Join(pairs, ",") + "}"
			}
			want[line] = round
		}
		if r.IntN(2) == 0 {
			sets = slices.Concat(sets, sets)
		}
		for range 1 + r.IntN(3) {
			pushValue(s, at(time.Duration(round)*time.Millisecond), edge, terms[edge], r.IntN(2) == 0, float64(round), sets...)
		}
	}
	var lines []string
	for line, v := range want {
		lines = append(lines, fmt.Sprint(line, " ", v))
	}
	slices.Sort(lines)
	if got := show(t, s, at(time.Second), Query{}); got != strings.Join(lines, "\n") {
		t.Fatalf("seed %d: shown\n%s\nwant\n%s", seed, got, strings.Join(lines, "\n"))
	}
}

// The limits of an edge refuse its new series alone.
func TestLimitsOfAnEdge(t *testing.T) {
	s := New(Options{})
	few := Terms{MaxSeries: 2, MaxLabels: 2, MaxTTL: 10_000}
	res := pushAs(s, t0, "a", few, false, []string{"__name__", "m1"}, []string{"__name__", "m2"}, []string{"__name__", "m3"})
	if res.Stored != 2 || res.Rejected[EdgeSeriesLimit] != 1 || !strings.Contains(res.First.Error(), "limits.series in --edges.file") {
		t.Fatalf("%+v %v", res, res.First)
	}
	if res := pushAs(s, at(time.Second), "a", few, false, []string{"__name__", "m1"}, []string{"__name__", "m2"}); res.Stored != 2 {
		t.Fatalf("known series: %+v", res)
	}
	if res := pushAs(s, t0, "b", few, false, []string{"__name__", "b", "x", "1", "y", "2"}); res.Rejected[TooManyLabels] != 1 || res.Granted != 10_000 {
		t.Fatalf("%+v", res)
	}
	if res := pushAs(s, t0, "b", Terms{}, false, []string{"__name__", "b", "x", "1", "y", "2"}); res.Stored != 1 {
		t.Fatalf("another edge: %+v", res)
	}
}

// A label that is dropped tells no series apart.
func TestDroppedLabel(t *testing.T) {
	s := New(Options{})
	terms := Terms{Dropped: "__replica__"}
	for _, replica := range []string{"a", "b"} {
		if res := pushAs(s, t0, "a", terms, replica == "b", []string{"__name__", "m", "__replica__", replica}); res.Refused() != 0 {
			t.Fatal(res.First)
		}
	}
	if got := show(t, s, t0, Query{}); got != "m 1" {
		t.Fatal(got)
	}
}

// Forcing labels costs no allocation on series that keep their order.
func TestForcedLabelsAllocateNothing(t *testing.T) {
	s := New(Options{})
	var sets [][]byte
	for i := range 500 {
		sets = append(sets, packed("__name__", "m", "i", fmt.Sprint(i)))
	}
	terms := forced("edge", "a", "site", "1")
	i := 0
	round := func() {
		i++
		now := at(time.Duration(i) * time.Millisecond)
		b := s.NewBatch(Request{Edge: "a", Received: now, Now: now, Terms: terms})
		for _, set := range sets {
			b.Series(set)
			b.Float(now.UnixMilli(), 1, 0)
		}
		if res := b.Commit(); i > 1 && res.Stored != len(sets) {
			t.Errorf("round %d: %+v", i, res)
		}
		b.Release()
	}
	round()
	if n := testing.AllocsPerRun(50, round); n > 50 { // of 500 samples; a pool may have been emptied
		t.Errorf("%v allocations a request", n)
	}
}

// The series that comes next in the store is another's: it is not taken for the
// edge's own.
func TestPredictionStaysWithinTheEdge(t *testing.T) {
	for _, byRefs := range []bool{false, true} {
		s := New(Options{})
		a, b := forced("edge", "a"), forced("edge", "b")
		pushAs(s, t0, "a", a, byRefs, []string{"__name__", "m0"})
		pushAs(s, t0, "open", Terms{}, byRefs, []string{"__name__", "m1"})
		pushAs(s, t0, "a", a, byRefs, []string{"__name__", "m2"})
		pushAs(s, t0, "b", b, byRefs, []string{"__name__", "m3"})
		later := at(time.Second)
		pushValue(s, later, "a", a, byRefs, 2, []string{"__name__", "m0"}, []string{"__name__", "m1"})
		pushValue(s, later, "a", a, byRefs, 2, []string{"__name__", "m2"}, []string{"__name__", "m3", "edge", "b"})
		want := "m0{edge=\"a\"} 2\nm1 1\nm1{edge=\"a\"} 2\nm2{edge=\"a\"} 2\nm3{edge=\"a\"} 2\nm3{edge=\"b\"} 1"
		if got := show(t, s, later, Query{}); got != want {
			t.Errorf("refs %v: shown\n%s\nwant\n%s", byRefs, got, want)
		}
	}
}
