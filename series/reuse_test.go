package series

import (
	"fmt"
	"testing"
	"time"
)

// A pausing visitor does something between two families.
type pausing struct {
	lines []string
	pause func()
}

func (p *pausing) BeginFamily(*Family) {}
func (p *pausing) Series(_ *Family, s *Series) {
	p.lines = append(p.lines, fmt.Sprint(s.Name, " ", s.Value))
}
func (p *pausing) EndFamily(*Family) {}
func (p *pausing) Flush() error {
	if p.pause != nil {
		p.pause()
		p.pause = nil
	}
	return nil
}

// While a page is made a series is forgotten, and another one gets its slot and its
// name the name's id: it is not shown under the old name.
func TestNamesAreUsedAgainWhileAPageIsMade(t *testing.T) {
	for _, q := range []Query{{}, {Grouped: true}} {
		s := New(Options{})
		push(s, t0, TTL(time.Hour.Milliseconds()), packed("__name__", "a"), t0, 1)
		push(s, t0, 1000, packed("__name__", "b"), t0, 2)
		v := &pausing{pause: func() {
			later := at(10 * time.Minute)
			for range 4 { // some rounds, for the pins
				s.Sweep(later)
			}
			push(s, later, TTL(time.Hour.Milliseconds()), packed("__name__", "c"), later, 3)
		}}
		if err := s.Scan(t0, q, v); err != nil {
			t.Fatal(err)
		}
		if len(v.lines) != 1 || v.lines[0] != "a 1" {
			t.Errorf("shown is %q", v.lines)
		}
	}
}

// Between two turns of a sweep a slot that it has freed is still in lists: it is nobody
// else's until the sweep is through.
func TestNoSlotIsTakenFromASweep(t *testing.T) {
	s := New(Options{})
	for i := range 10 {
		push(s, t0, 0, packed("__name__", "m", "i", fmt.Sprint(i)), t0, 1)
	}
	free := func(i int) (id uint32) {
		labels := packed("__name__", "m", "i", fmt.Sprint(i))
		hash, _, _ := s.dict.hashLabels(labels)
		id, _ = s.findSeries(hash, labels)
		_, sl := s.slot(id)
		s.unlink(id, sl, map[*metric]bool{})
		return id
	}
	s.structure.Lock()
	s.reuse([]uint32{free(2)})
	freed := free(5) // a sweep is at its half
	s.structure.Unlock()
	for i := range 3 {
		push(s, t0, 0, packed("__name__", "n", "i", fmt.Sprint(i)), t0, 1)
	}
	if _, sl := s.slot(freed); sl.flags&inUse != 0 {
		t.Error("a slot is used that the sweep is not through with")
	}
}

// A name that nothing has any more is freed at the end of a sweep, when its last series
// is long gone: a request that knows its pair by then looks it up again.
func TestRequestForgetsTheNameThatASweepFrees(t *testing.T) {
	s := New(Options{})
	name, other := packed("__name__", "goes"), packed("__name__", "other")
	push(s, t0, 0, name, t0, 1)
	push(s, t0, 0, other, t0, 1)
	hash, _, _ := s.dict.hashLabels(name)
	s.structure.Lock()
	id, _ := s.findSeries(hash, name)
	_, sl := s.slot(id)
	m := s.metrics[s.nameOf(sl)]
	s.unlink(id, sl, map[*metric]bool{})
	s.structure.Unlock()

	b := s.NewBatch(Request{Edge: "a", Received: t0, Now: t0})
	defer b.Release()
	b.Symbols([][]byte{nil, []byte("__name__"), []byte("goes")})
	b.SeriesRefs([]uint32{1, 2})
	b.letGo()
	s.structure.Lock()
	m.list = nil
	s.reuse([]uint32{id})
	s.freeNames()
	s.structure.Unlock()
	push(s, t0, 0, packed("__name__", "comes"), t0, 1) // its pair gets the number
	if b.SeriesRefs([]uint32{1, 2}); len(b.ids) > 0 {
		t.Errorf("the request takes %q for the name", s.dict.bytes(b.ids[0]))
	}
}
