package series

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

var t0 = time.Now()

// at is a time after t0, on both clocks.
func at(d time.Duration) time.Time { return t0.Add(d) }

func packed(pairs ...string) []byte {
	var p []byte
	for i := 0; i < len(pairs); i += 2 {
		p = AppendPair(p, pairs[i], pairs[i+1])
	}
	return p
}

// push sends one float sample and returns what became of it.
func push(s *Store, now time.Time, ttl TTL, labels []byte, t time.Time, v float64) Result {
	b := s.NewBatch(Request{Edge: "a", TTL: ttl, Received: now, Now: now})
	defer b.Release()
	b.Series(labels)
	b.Float(t.UnixMilli(), v, 0)
	return b.Commit()
}

// page is a Visitor that writes what it is shown, one line a series.
type page struct {
	lines []string
	types map[string]MetricType
}

func (p *page) BeginFamily(f *Family) {
	if p.types == nil {
		p.types = map[string]MetricType{}
	}
	p.types[f.Name] = f.Metadata.Type
}

func (p *page) Series(_ *Family, s *Series) {
	p.lines = append(p.lines, fmt.Sprintf("%s %v", s, s.Value))
}
func (p *page) EndFamily(*Family) {}
func (p *page) Flush() error      { return nil }

func show(t testing.TB, s *Store, now time.Time, q Query) string {
	t.Helper()
	var p page
	if err := s.Scan(now, q, &p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.lines)
	return strings.Join(p.lines, "\n")
}

var stale = math.Float64frombits(staleBits)

func TestLifeOfASeries(t *testing.T) {
	up := packed("__name__", "up", "job", "node")
	const line = `up{job="node"} 1`
	s := New(Options{})
	expect := func(now time.Duration, want string) {
		t.Helper()
		if got := show(t, s, at(now), Query{}); got != want {
			t.Fatalf("at %v: got %q, want %q", now, got, want)
		}
	}
	min := time.Minute
	push(s, at(0), 0, up, at(0), 1)
	expect(0, line)
	expect(5*min-time.Millisecond, line)
	expect(5*min, "") // exactly the deadline

	// The same sample again does not revive it; a newer one does.
	push(s, at(5*min), 0, up, at(0), 1)
	expect(5*min, "")
	push(s, at(5*min), 0, up, at(5*min), 1)
	expect(5*min, line)

	// An older sample is superseded, a stale marker ends the series at once.
	if r := push(s, at(5*min), 0, up, at(4*min), 9); r.Superseded != 1 {
		t.Fatalf("%+v", r)
	}
	push(s, at(5*min), 0, up, at(5*min), stale)
	expect(5*min, "")
	push(s, at(5*min), 0, up, at(5*min), 7)
	expect(5*min, "")
	push(s, at(5*min), 0, up, at(5*min+1e6), 1)
	expect(5*min+1e6, line)

	// A backlog is accepted and never shown, whatever the TTL.
	other := packed("__name__", "old")
	if r := push(s, at(60*min), Forever, other, at(50*min), 1); r.ExpiredOnArrival != 1 || r.Samples != 1 {
		t.Fatalf("%+v", r)
	}
	expect(60*min, "")

	// The sweep changes no answer and frees the memory in the end.
	for range 4 {
		s.Sweep(at(24 * 60 * min))
	}
	if st := s.Stats(at(24 * 60 * min)); st.Held != 0 || st.Pairs != 0 || st.Metrics != 0 {
		t.Fatalf("not freed: %+v", st)
	}
}

func TestLabelsInAnyOrderAreOneSeries(t *testing.T) {
	s := New(Options{})
	push(s, at(0), 0, packed("__name__", "m", "a", "1", "b", "2"), at(0), 1)
	push(s, at(0), 0, packed("b", "2", "empty", "", "__name__", "m", "a", "1"), at(1e6), 2)
	if got, want := show(t, s, at(1e6), Query{}), `m{a="1",b="2"} 2`; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, c := range []struct {
		labels []byte
		want   Reason
	}{
		{packed("a", "b"), NoName},
		{packed("__name__", "m", "a", "1", "a", "2"), DuplicateLabel},
		{packed("__name__", "m\x00"), NameInvalid},
		{packed("__name__", "m\xff"), LabelInvalid},
		{packed("__name__", "m", "", "v"), LabelInvalid},
		{packed("__name__", "m", "__address__", "v"), LabelInvalid},
		{packed("__name__", "m", "a", long), LabelValueTooLong},
		{packed("__name__", "m", long, "a"), LabelNameTooLong},
		{packed("__name__", "m", "__ttl__", "0"), TTLInvalid},
		{packed("__name__", "m", "__ttl__", "soon"), TTLInvalid},
	} {
		s := New(Options{})
		r := push(s, at(0), 0, c.labels, at(0), 1)
		if r.Rejected[c.want] != 1 || r.Samples != 0 || r.First == nil {
			t.Errorf("%s: %+v", c.want, r)
		}
	}
}

// The type of a family is that of most of its live series, however many edges say
// otherwise.
func TestTypeOfMostLiveSeries(t *testing.T) {
	s := New(Options{})
	declare := func(edge string, typ MetricType, series int) {
		b := s.NewBatch(Request{Edge: edge, TTL: TTL(60_000), Received: t0, Now: t0})
		defer b.Release()
		b.Metadata([]byte("temp"), typ, []byte(edge), nil)
		for i := range series {
			b.Series(packed("__name__", "temp", "edge", edge, "i", string(rune('a'+i))))
			b.Float(t0.UnixMilli(), 1, 0)
		}
		b.Commit()
	}
	typeAt := func(now time.Time) MetricType {
		var f familyTypes
		if err := s.Scan(now, Query{}, &f); err != nil {
			t.Fatal(err)
		}
		return f["temp"]
	}
	declare("one", Gauge, 2)
	declare("two", HistogramType, 0)
	declare("three", HistogramType, 0)
	declare("four", Counter, 1)
	if got := typeAt(t0); got != Gauge {
		t.Errorf("the type is %s", got)
	}
	declare("two", HistogramType, 3)
	if got := typeAt(t0); got != HistogramType {
		t.Errorf("with three series of a histogram the type is %s", got)
	}
}

type familyTypes map[string]MetricType

func (f *familyTypes) BeginFamily(x *Family) {
	if *f == nil {
		*f = familyTypes{}
	}
	(*f)[x.Name] = x.Metadata.Type
}
func (f *familyTypes) EndFamily(*Family)       {}
func (f *familyTypes) Series(*Family, *Series) {}
func (f *familyTypes) Flush() error            { return nil }

func TestPushing(t *testing.T) {
	s := New(Options{})
	now := time.Now()
	if s.Pushing(now) {
		t.Error("nobody has pushed yet")
	}
	b := s.NewBatch(Request{Edge: "a", Received: now, Now: now})
	b.Release()
	if !s.Pushing(now) || !s.Pushing(now.Add(100*time.Millisecond)) {
		t.Error("a request has just begun")
	}
	if s.Pushing(now.Add(102 * time.Millisecond)) {
		t.Error("that was a while ago")
	}
}
