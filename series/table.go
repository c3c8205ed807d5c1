package series

// A table is a set of 32-bit ids found by a 64-bit keyed hash. It keeps 32 bits
// of the hash beside each id; the caller decides equality, exactly, by looking
// at what the id stands for. It holds no pointers but its array: 8 bytes an
// entry at a load between 3/8 and 3/4.
//
// Not safe for concurrent changes; concurrent reads are fine.
type table struct {
	entries []uint64 // tag<<32 | id+1; 0 is empty
	used    int
}

func tagOf(hash uint64) uint32 { return uint32(hash >> 32) }

// find returns the id under hash that eq accepts.
func (t *table) find(hash uint64, eq func(id uint32) bool) (uint32, bool) {
	if len(t.entries) == 0 {
		return 0, false
	}
	mask := uint64(len(t.entries) - 1)
	tag := tagOf(hash)
	for i := hash & mask; ; i = (i + 1) & mask {
		e := t.entries[i]
		if e == 0 {
			return 0, false
		}
		if uint32(e>>32) == tag {
			if id := uint32(e) - 1; eq(id) {
				return id, true
			}
		}
	}
}

// insert adds id, which must not be there. rehash returns the full hash of an
// id already held; it is asked when the table grows.
func (t *table) insert(hash uint64, id uint32, rehash func(id uint32) uint64) {
	if (t.used+1)*4 > len(t.entries)*3 {
		t.resize(max(16, len(t.entries)*2), rehash)
	}
	t.put(hash, id)
	t.used++
}

func (t *table) put(hash uint64, id uint32) {
	mask := uint64(len(t.entries) - 1)
	i := hash & mask
	for t.entries[i] != 0 {
		i = (i + 1) & mask
	}
	t.entries[i] = uint64(tagOf(hash))<<32 | uint64(id+1)
}

// remove takes id out, closing the gap so that no tombstones pile up. A table
// that is mostly empty afterwards shrinks.
func (t *table) remove(hash uint64, id uint32, rehash func(id uint32) uint64) {
	if len(t.entries) == 0 {
		return
	}
	mask := uint64(len(t.entries) - 1)
	i := hash & mask
	for uint32(t.entries[i])-1 != id || uint32(t.entries[i]>>32) != tagOf(hash) {
		if t.entries[i] == 0 {
			return
		}
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.entries[j] != 0; j = (j + 1) & mask {
		home := rehash(uint32(t.entries[j])-1) & mask
		// An entry may move back to the gap unless its home lies behind it.
		if (j-home)&mask >= (j-i)&mask {
			t.entries[i] = t.entries[j]
			i = j
		}
	}
	t.entries[i] = 0
	t.used--
	if len(t.entries) > 64 && t.used*8 < len(t.entries) {
		t.resize(len(t.entries)/4, rehash)
	}
}

func (t *table) resize(n int, rehash func(id uint32) uint64) {
	old := t.entries
	t.entries = make([]uint64, n)
	for _, e := range old {
		if e != 0 {
			id := uint32(e) - 1
			t.put(rehash(id), id)
		}
	}
}
