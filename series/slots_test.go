package series

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Series that differ in the first pair alone share a run; one that is no longer used is
// not found any more, and its room is used again.
func TestRefsArenaShares(t *testing.T) {
	a := refsArena{mem: &memory{}}
	defer a.mem.end()
	put := func(wantNew bool, ids ...pairID) uint32 {
		t.Helper()
		off, isNew := a.put(ids)
		if isNew != wantNew || !slices.Equal(a.at(off, uint8(len(ids))), ids) {
			t.Fatalf("%v: new %v, holds %v", ids, isNew, a.at(off, uint8(len(ids))))
		}
		return off
	}
	one, other, none := put(true, 1, 2, 3), put(true, 1, 2), put(true)
	if put(false, 1, 2, 3) != one || put(false, 1, 2) != other || put(false) != none {
		t.Error("equal ids lie in several runs")
	}
	put(true, 3, 2, 1)
	if a.release(one) {
		t.Error("a run was given up that a series has yet")
	}
	if !a.release(one) {
		t.Error("the last series of a run is not noticed")
	}
	if put(true, 4, 5, 6) != one {
		t.Error("a free run is not used again")
	}
	put(true, 1, 2, 3)
	*a.head(other) |= maxSharing << 8
	if put(true, 1, 2) == other {
		t.Error("a run of as many series as can be counted got one more")
	}
}

// A run is in one chunk, also one without ids.
func TestRefsArenaChunks(t *testing.T) {
	for _, n := range []int{0, 1, 9} {
		for left := range 12 {
			a := refsArena{mem: &memory{}}
			defer a.mem.end()
			a.put(make([]pairID, 20))
			a.tail = refsChunk - left
			ids := slices.Repeat([]pairID{7}, n)
			if off, _ := a.put(ids); !slices.Equal(a.at(off, uint8(n)), ids) || *a.head(off) != 1<<8|pairID(n) {
				t.Errorf("%d ids with %d words left: not there", n, left)
			}
		}
	}
}

func TestRefsArenaAgainstAMap(t *testing.T) {
	a := refsArena{mem: &memory{}}
	defer a.mem.end()
	rng := rand.New(rand.NewPCG(1, 2))
	type used struct {
		ids  []pairID
		runs map[uint32]int
	}
	model := map[string]*used{}
	for range 100_000 {
		ids := make([]pairID, rng.IntN(4))
		key := ""
		for i := range ids {
			ids[i] = pairID(rng.IntN(12))
			key += string(rune('a' + ids[i]))
		}
		u := model[key]
		if u == nil {
			u = &used{ids, map[uint32]int{}}
			model[key] = u
		}
		if rng.IntN(2) == 0 {
			off, isNew := a.put(ids)
			if isNew != (u.runs[off] == 0) {
				t.Fatalf("%v: new %v, used %d times", ids, isNew, u.runs[off])
			}
			u.runs[off]++
			continue
		}
		for off := range u.runs {
			if u.runs[off]--; a.release(off) != (u.runs[off] == 0) {
				t.Fatalf("%v: not the last use, or not noticed", ids)
			}
			if u.runs[off] == 0 {
				delete(u.runs, off)
			}
			break
		}
	}
	for _, u := range model {
		for off, n := range u.runs {
			if got := a.at(off, uint8(len(u.ids))); !slices.Equal(got, u.ids) || int(*a.head(off)>>8) != n {
				t.Errorf("run %d: %v of %d series, want %v of %d", off, got, *a.head(off)>>8, u.ids, n)
			}
		}
	}
	if a.tail > 100_000 {
		t.Errorf("the arena grew to %d words", a.tail)
	}
}
