package series

import (
	"math"
	"slices"
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
	refs     uint32    // where the other pair ids are in the refs arena
	next     uint32    // slot that followed in the sender's last request
	bits     uint64    // of the value; staleBits in an ended series
	t        int64     // sample time, ms of the wall clock
	deadline int64     // ms of the store's monotonic clock; math.MaxInt64 never
	skew     int32     // sample time - receive time, ms, saturated
	ttl      packedTTL // granted
	first    pairID    // the name, as a rule
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

// refsArena keeps the pair ids of series but the first, in runs. Series that differ in
// the first alone, most often the metrics of one thing, share a run: it is what a store
// has most of, and where series come in no order each run is a miss of the cache.
//
// A run is a word, of how many series share it and how many ids it has, and the ids.
type refsArena struct {
	mem    *memory
	chunks [][]pairID
	tail   int
	free   [256][]uint32 // by how many ids they have room for
	recent []uint32      // runs by the hash of their ids, the last one under each; 0: none
}

const (
	refsChunk  = slabBytes / 4
	recentRuns = 1 << 17
	maxSharing = 1<<24 - 1 // series of one run
)

// at returns the ids of a run, which belong to the arena.
func (a *refsArena) at(off uint32, n uint8) []pairID {
	c := a.chunks[off/refsChunk]
	i := off % refsChunk
	return c[i : i+uint32(n) : i+uint32(n)]
}

// head is the word before a run.
func (a *refsArena) head(off uint32) *pairID { return &a.chunks[off/refsChunk][off%refsChunk-1] }

// put returns a run of these ids, at most 255, for one more series. isNew is whether it
// had none so far.
func (a *refsArena) put(ids []pairID) (off uint32, isNew bool) {
	if a.recent == nil {
		a.recent = makeList[uint32](a.mem, recentRuns)
	}
	h := uint64(len(ids))
	for _, id := range ids {
		h = (h ^ uint64(id)) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	known := &a.recent[h%recentRuns]
	n := uint8(len(ids))
	if off := *known; off != 0 {
		head := a.head(off)
		if users := *head >> 8; users > 0 && users < maxSharing && uint8(*head) == n && slices.Equal(a.at(off, n), ids) {
			*head += 1 << 8
			return off, false
		}
	}
	if f := a.free[n]; len(f) > 0 {
		off, a.free[n] = f[len(f)-1], f[:len(f)-1]
	} else {
		// A run without ids has a place, too.
		if len(a.chunks) == 0 || a.tail+1+max(1, len(ids)) > refsChunk {
			a.chunks = append(a.chunks, as[pairID](a.mem.slab()))
			a.tail = 0
		}
		off = uint32((len(a.chunks)-1)*refsChunk + a.tail + 1)
		a.tail += 1 + len(ids)
	}
	*a.head(off) = 1<<8 | pairID(n)
	copy(a.at(off, n), ids)
	*known = off
	return off, true
}

// release takes a series off a run, and reports whether it was the last one: the ids
// are to be released then, before the next put.
func (a *refsArena) release(off uint32) (last bool) {
	head := a.head(off)
	if *head -= 1 << 8; *head>>8 > 0 {
		return false
	}
	n := uint8(*head)
	a.free[n] = append(a.free[n], off)
	return true
}

// others are the ids of a slot's pairs but the first. They belong to the store. Under
// structure.
func (s *Store) others(sl *slot) []pairID { return s.refs.at(sl.refs, sl.n-1) }

// ids puts the ids of a slot's pairs, in the order of their names, into a list, from its
// beginning. Under structure.
func (s *Store) ids(sl *slot, list []pairID) []pairID {
	return append(append(list[:0], sl.first), s.others(sl)...)
}

// saturate32 narrows a difference of times.
func saturate32(d int64) int32 {
	return int32(min(max(d, math.MinInt32), math.MaxInt32))
}
