package series

import (
	"math"
	"sync"
	"unsafe"
)

// staleBits is Prometheus' stale marker: a NaN of its own, compared by bits.
const staleBits = 0x7ff0000000000002

// A slot is one series: its latest sample, how long that is good for, and where
// its label pairs are. It holds no pointer. What samples do not change stands at
// both ends: looked at without the block's lock, it brings the whole slot into the
// processor's cache, which often is two lines.
type slot struct {
	refs     uint32    // where the pair ids are in the refs arena
	next     uint32    // slot that followed in the sender's last request
	bits     uint64    // of the value; staleBits in an ended series
	t        int64     // sample time, ms of the wall clock
	deadline int64     // ms of the store's monotonic clock; math.MaxInt64 never
	skew     int32     // sample time - receive time, ms, saturated
	ttl      packedTTL // granted
	owner    uint32    // index in Store.owners
	pin      uint16    // round of the sweep in which a batch last resolved it
	flags    slotFlags
	n        uint8 // label pairs
}

type slotFlags uint8

const (
	inUse    slotFlags = 1 << iota // the slot is a series
	sampled                        // a sample was applied
	deleted                        // by request: hidden, as if ended
	extended                       // Store.extras has more of it
	strayed                        // the last prediction from here failed
	counted                        // its expiry is in the counters
	leaving                        // freed, but still in lists: not to be used yet
)

const (
	blockBits = 10
	blockLen  = 1 << blockBits
	noSlot    = math.MaxUint32
)

// A block is 1024 slots under one lock. The lock guards what samples change
// (bits to ttl, next, owner, pin, sampled, deleted); everything else is guarded
// by the store's structure lock.
type block struct {
	mu     sync.Mutex
	used   int
	cursor int             // no free slot below it
	slots  *[blockLen]slot // in a slab
}

// A slab holds the slots of consecutive blocks.
type slab struct {
	mem  []byte // nil where none of its blocks is there
	used int    // blocks
}

const (
	blockBytes = int(unsafe.Sizeof([blockLen]slot{}))
	slabBlocks = slabBytes / blockBytes
)

// newBlock makes the block of that number. Under structure, for writing.
func (s *Store) newBlock(i int) *block {
	if i/slabBlocks == len(s.slabs) {
		s.slabs = append(s.slabs, slab{})
	}
	sl := &s.slabs[i/slabBlocks]
	if sl.mem == nil {
		sl.mem = s.mem.slab()
	}
	sl.used++
	return &block{slots: (*[blockLen]slot)(as[slot](sl.mem[i%slabBlocks*blockBytes:][:blockBytes]))}
}

// freeBlock gives up a block, all slots of which were cleared. Under structure, for
// writing.
func (s *Store) freeBlock(i int) {
	s.blocks[i] = nil
	sl := &s.slabs[i/slabBlocks]
	if sl.used--; sl.used == 0 {
		s.mem.free(sl.mem)
		sl.mem = nil
	}
}

// refsArena hands out runs of pair ids, recycled by length.
type refsArena struct {
	mem    *memory
	chunks [][]pairID
	tail   int
	free   [256][]uint32
}

const refsChunk = slabBytes / 4

func (a *refsArena) at(off uint32, n uint8) []pairID {
	c := a.chunks[off/refsChunk]
	i := off % refsChunk
	return c[i : i+uint32(n) : i+uint32(n)]
}

func (a *refsArena) put(ids []pairID) uint32 {
	n := len(ids)
	if f := a.free[n]; len(f) > 0 {
		off := f[len(f)-1]
		a.free[n] = f[:len(f)-1]
		copy(a.at(off, uint8(n)), ids)
		return off
	}
	if len(a.chunks) == 0 || a.tail+n > refsChunk {
		a.chunks = append(a.chunks, as[pairID](a.mem.slab()))
		a.tail = 0
	}
	off := uint32((len(a.chunks)-1)*refsChunk + a.tail)
	copy(a.chunks[len(a.chunks)-1][a.tail:], ids)
	a.tail += n
	return off
}

func (a *refsArena) release(off uint32, n uint8) {
	a.free[n] = append(a.free[n], off)
}

// saturate32 narrows a difference of times.
func saturate32(d int64) int32 {
	return int32(min(max(d, math.MinInt32), math.MaxInt32))
}
