package ingest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// An edge has half of the room at most, and not all turns, whatever it sends.
func TestShares(t *testing.T) {
	var r room
	r.init(1000, 400, 4)
	noisy, quiet := r.of("noisy"), r.of("quiet")
	if again := r.of("noisy"); again != noisy {
		t.Fatal("an edge has two shares")
	}
	if bad := noisy.take(t.Context(), 500); bad != nil {
		t.Fatal(bad)
	}
	if bad := noisy.take(t.Context(), 1); bad == nil || bad.code != 503 || !strings.Contains(bad.text, "--limits.inflight-bytes") {
		t.Errorf("more than half: %v", bad)
	}
	if bad := quiet.take(t.Context(), 500); bad != nil {
		t.Errorf("another edge: %v", bad)
	}
	noisy.give(500)
	quiet.give(500)
	var done []func()
	for range 3 {
		d, bad := noisy.turn(t.Context())
		if bad != nil {
			t.Fatal(bad)
		}
		done = append(done, d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, bad := noisy.turn(ctx); bad == nil || bad.code != 503 {
		t.Errorf("the last turn: %v", bad)
	}
	d, bad := quiet.turn(t.Context())
	if bad != nil {
		t.Fatal(bad)
	}
	for _, d := range append(done, d) {
		d()
	}
	noisy.leave()
	noisy.leave()
	quiet.leave()
	if len(r.shares) != 0 || r.inUse() != 0 || len(r.turns) != 0 {
		t.Errorf("left behind: %d shares, %d bytes, %d turns", len(r.shares), r.inUse(), len(r.turns))
	}
	if len(r.spare) != 2 || len(r.spare[0].turns)+len(r.spare[1].turns) != 0 {
		t.Errorf("spare: %v", r.spare)
	}
}
