package exposition

import (
	"context"
	"testing"
)

// One address never has all turns; what it leaves is nobody's.
func TestTurns(t *testing.T) {
	turns := newTurns(3)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	patience := map[bool]context.Context{true: t.Context(), false: over} // for what there is, one has all time
	var done []func()
	for _, step := range []struct {
		addr string
		want bool
	}{{"192.0.2.1:1", true}, {"192.0.2.1:2", true}, {"192.0.2.1:3", false}, {"[2001:db8::1]:1", true}, {"[2001:db8::1]:2", false}, {"192.0.2.3:1", false}} {
		d, ok := turns.take(patience[step.want], step.addr)
		if ok != step.want {
			t.Errorf("%s: %v", step.addr, ok)
		}
		if ok {
			done = append(done, d)
		}
	}
	for _, d := range done {
		d()
	}
	if len(turns.from) != 0 || len(turns.all) != 0 {
		t.Errorf("left behind: %v", turns.from)
	}
	only := newTurns(1)
	if _, ok := only.take(t.Context(), "x"); !ok {
		t.Error("of one turn none can be had")
	}
}
