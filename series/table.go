package series

import "unsafe"

// A table is a set of 32-bit ids found by a 32-bit keyed hash, which it keeps
// beside each id, so that it can grow by itself. Hashes may collide: the caller
// decides equality, exactly, by looking at what the id stands for. It takes 8 bytes
// an entry at a load between 1/2 and 3/4.
//
// Not safe for concurrent changes; concurrent reads are fine. It needs memory.
type table struct {
	mem     *memory
	entries []uint64 // hash<<32 | id+1; 0 is empty
	used    int
}

// find returns the id under hash that eq accepts.
func (t *table) find(hash uint32, eq func(id uint32) bool) (uint32, bool) {
	if len(t.entries) == 0 {
		return 0, false
	}
	for i := t.home(hash); ; {
		e := t.entries[i]
		if e == 0 {
			return 0, false
		}
		if uint32(e>>32) == hash {
			if id := uint32(e) - 1; eq(id) {
				return id, true
			}
		}
		if i++; i == len(t.entries) {
			i = 0
		}
	}
}

// home is where an entry would like to be: tables of any length, so that one
// need not double.
func (t *table) home(hash uint32) int { return int(uint64(hash) * uint64(len(t.entries)) >> 32) }

// ahead asks for what find and first look at first.
func (t *table) ahead(a *ahead, hash uint32) {
	if len(t.entries) > 0 {
		a.read(unsafe.Pointer(&t.entries[t.home(hash)]))
	}
}

// first returns the first id under hash without a look at what it stands for, or
// noSlot.
func (t *table) first(hash uint32) uint32 {
	id, ok := t.find(hash, func(uint32) bool { return true })
	if !ok {
		return noSlot
	}
	return id
}

// insert adds id, which must not be there.
func (t *table) insert(hash, id uint32) {
	if (t.used+1)*4 > len(t.entries)*3 {
		t.resize(max(16, len(t.entries)*3/2))
	}
	t.put(uint64(hash)<<32 | uint64(id+1))
	t.used++
}

func (t *table) put(e uint64) {
	i := t.home(uint32(e >> 32))
	for t.entries[i] != 0 {
		if i++; i == len(t.entries) {
			i = 0
		}
	}
	t.entries[i] = e
}

// remove takes id out, closing the gap so that no tombstones pile up. A table
// that is mostly empty afterwards shrinks.
func (t *table) remove(hash, id uint32) {
	if len(t.entries) == 0 {
		return
	}
	n := len(t.entries)
	next := func(i int) int {
		if i++; i == n {
			return 0
		}
		return i
	}
	distance := func(from, to int) int { return (to - from + n) % n }
	i := t.home(hash)
	for want := uint64(hash)<<32 | uint64(id+1); t.entries[i] != want; i = next(i) {
		if t.entries[i] == 0 {
			return
		}
	}
	for j := next(i); t.entries[j] != 0; j = next(j) {
		// An entry may move back to the gap unless its home lies behind it.
		if distance(t.home(uint32(t.entries[j]>>32)), j) >= distance(i, j) {
			t.entries[i] = t.entries[j]
			i = j
		}
	}
	t.entries[i] = 0
	t.used--
	if len(t.entries) > 64 && t.used*8 < len(t.entries) {
		t.resize(len(t.entries) / 4)
	}
}

func (t *table) resize(n int) {
	old := t.entries
	t.entries = makeList[uint64](t.mem, n)
	for _, e := range old {
		if e != 0 {
			t.put(e)
		}
	}
	freeList(t.mem, old)
}
