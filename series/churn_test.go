package series

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// Series that are replaced again and again leave nothing behind: the heap after
// ten generations is that after the second.
func TestChurnReturnsMemory(t *testing.T) {
	const n = 50_000
	s := New(Options{LagTolerance: time.Second})
	now := t0
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var early uint64
	for generation := range 10 {
		for from := 0; from < n; from += 2000 {
			b := s.NewBatch(Request{Edge: "e", TTL: 1000, Received: now, Now: now})
			for i := range 2000 {
				b.Series(packed("__name__", fmt.Sprint("m", i%40), "pod", fmt.Sprintf("pod-%d-%d", generation, (from+i)/40), "zone", "z"))
				b.Float(now.UnixMilli(), 1, 0)
			}
			b.Commit()
			b.Release()
		}
		now = now.Add(3 * time.Second) // TTL and watermark are over
		s.Sweep(now)
		s.Sweep(now.Add(time.Millisecond)) // what was resolved in the last round, too
		s.Sweep(now.Add(2 * time.Millisecond))
		if st := s.Stats(now); st.Held != 0 || st.Pairs != 0 {
			t.Fatalf("generation %d: %+v", generation, st)
		}
		switch generation {
		case 1:
			early = heap()
		case 9:
			if late := heap(); late > early+early*15/100+1<<20 {
				t.Errorf("the heap has grown from %d to %d bytes", early, late)
			} else {
				t.Logf("%d bytes after two generations, %d after ten", early, late)
			}
		}
	}
	runtime.KeepAlive(s)
}
