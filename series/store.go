package series

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Options configure a Store. The zero value has the defaults.
type Options struct {
	DefaultTTL, MinTTL, MaxTTL TTL // 5m, 1s, Forever

	LagTolerance    time.Duration // 1m: how late a sample may arrive; whole milliseconds, at least one
	FutureTolerance time.Duration // 10m: how far ahead its time may be
	Lookback        time.Duration // 5m: the centre's; samples older on arrival are not current

	Limits      Limits
	LegacyNames bool // refuse names outside the character set before UTF-8 names
}

// Limits bound what senders can make the store hold. Zero fields have the
// defaults.
type Limits struct {
	Series          int // 5,000,000: held, watermarks included
	Edges           int // 10,000: told apart by name; the rest count as "other"
	Groups          int // 100,000: of the push API
	Labels          int // 64, at most 255
	LabelNameBytes  int // 1,024
	LabelValueBytes int // 4,096
	SeriesBytes     int // 16 KiB of packed labels

	HistogramBuckets int // 1,024 of one native histogram; its custom bounds and spans, too
}

func (o Options) withDefaults() Options {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.Limits.Series, 5_000_000)
	def(&o.Limits.Edges, 10_000)
	def(&o.Limits.Groups, 100_000)
	def(&o.Limits.Labels, 64)
	def(&o.Limits.LabelNameBytes, 1024)
	def(&o.Limits.LabelValueBytes, 4096)
	def(&o.Limits.SeriesBytes, 16<<10)
	def(&o.Limits.HistogramBuckets, 1024)
	o.Limits.Labels = min(o.Limits.Labels, math.MaxUint8)
	o.Limits.SeriesBytes = min(o.Limits.SeriesBytes, maxPair)
	defTTL := func(p *TTL, v TTL) {
		if *p <= 0 {
			*p = v
		}
	}
	defTTL(&o.DefaultTTL, 300_000)
	defTTL(&o.MinTTL, 1000)
	defTTL(&o.MaxTTL, Forever)
	defDur := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	defDur(&o.LagTolerance, time.Minute)
	o.LagTolerance = max(o.LagTolerance, time.Millisecond)
	defDur(&o.FutureTolerance, 10*time.Minute)
	defDur(&o.Lookback, 5*time.Minute)
	return o
}

// indexShards is how many maps the series are spread over by hash, so that one
// of them can grow without moving the others.
const indexShards = 64

// A Store holds the latest sample of every series. All its methods may be called
// concurrently.
//
// Locks: structure guards which series exist and where their parts are. Batches
// and scans hold it for reading, in short turns; only creating and freeing
// series takes it for writing. Within a read turn, what samples change is guarded
// by the lock of the slot's block; one goroutine holds one block at a time.
type Store struct {
	opts   Options
	mem    *memory
	lag    int64     // ms
	origin time.Time // of the monotonic clock

	structure sync.RWMutex
	dict      *dict
	refs      refsArena
	index     [indexShards]table
	blocks    []*block // nil where freed
	slabs     []slab   // of the blocks' slots
	open      int      // no block with a free slot below it
	held      int
	dumps     int // on their way
	metrics   map[pairID]*metric
	owners    []*owner
	ownerIDs  map[string]uint32

	groupIDs   map[string]uint32 // owners that are groups, by key
	freeOwners []uint32

	extrasMu sync.Mutex
	extras   map[uint32]*extra

	metadata metadata

	contests contests
	scraped  scraped

	pins    pins
	pushed  atomic.Int64 // when a batch began, monotonic ms
	packing []byte       // of unlink: under structure, for writing
	freed   uint64       // changes when pair ids may mean something else
	full    atomic.Bool
	totals  counters
	pool    sync.Pool // of *Batch
}

// A metric is all series of one metric name.
type metric struct {
	name string
	list []uint32 // slots; may hold freed ones until the sweep is through. Readers keep old versions
}

// An owner is an edge that wrote series, or a group that it pushed.
type owner struct {
	name    string       // of an edge
	count   atomic.Int64 // slots that it owns
	grouped atomic.Int64 // slots of an edge's groups

	group  string       // of a group: its key
	edge   uint32       // of a group: who pushed it last. Under structure
	pins   atomic.Int32 // batches on their way
	idle   atomic.Int32 // sweeps since a batch of an edge began
	groups idSet        // that the edge pushed last. Under structure
	until  int64        // of a group: when its last series ends, monotonic ms. Under mu

	mu   sync.Mutex // guards list from batches; the structure lock from the sweep
	list []uint32   // as metric.list; also holds slots that went to another owner, and some twice
}

// An extra is what few series have: a native histogram, exemplars, a start time.
// It is replaced, not changed.
type extra struct {
	histogram *Histogram
	exemplars []Exemplar
	start     int64
}

// OtherEdge is the name under which edges beyond the limit are counted.
const OtherEdge = "other"

// New returns an empty store.
func New(opts Options) *Store {
	opts = opts.withDefaults()
	mem := &memory{}
	s := &Store{
		opts:     opts,
		lag:      opts.LagTolerance.Milliseconds(),
		origin:   time.Now(),
		mem:      mem,
		dict:     newDict(mem),
		refs:     refsArena{mem: mem},
		metrics:  map[pairID]*metric{},
		ownerIDs: map[string]uint32{},
		groupIDs: map[string]uint32{},
		extras:   map[uint32]*extra{},
	}
	s.pushed.Store(math.MinInt32)
	for i := range s.index {
		s.index[i].mem = mem
	}
	runtime.AddCleanup(s, (*memory).end, mem)
	s.metadata.init()
	s.pool.New = func() any { return &Batch{store: s, last: compared{first: noPair}} }
	return s
}

// mono is the store's monotonic clock, in whole ms. It is taken downwards before
// the origin too, so that differences of times are exact.
func (s *Store) mono(now time.Time) int64 {
	d := now.Sub(s.origin)
	ms := d.Milliseconds()
	if d < 0 && d%time.Millisecond != 0 {
		ms--
	}
	return ms
}

// Pushing reports whether requests come in that a page should not keep waiting: one
// began within the tenth of a second before now.
func (s *Store) Pushing(now time.Time) bool { return s.mono(now)-s.pushed.Load() <= 100 }

// MappedBytes is how much memory the store has outside of the Go heap, which the
// runtime's own figures and GOMEMLIMIT do not know of.
func (s *Store) MappedBytes() int64 { return s.mem.size() }

// SetFull makes the store refuse new series, with MemoryLimit, until it is
// unset; known ones go on. For the keeper of the process' memory.
func (s *Store) SetFull(full bool) { s.full.Store(full) }

func (s *Store) slot(id uint32) (*block, *slot) {
	b := s.blocks[id>>blockBits]
	return b, &b.slots[id&(blockLen-1)]
}

// slotAt is slot without its block, which need not be looked at to read what the
// structure lock guards.
func (s *Store) slotAt(id uint32) *slot {
	const each = uint32(slabBlocks * blockLen)
	return (*slot)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s.slabs[id/each].mem)), uintptr(id%each)*unsafe.Sizeof(slot{})))
}

func (s *Store) shardOf(hash uint64) *table { return &s.index[hash>>(64-6)] }

// findSeries returns the slot of a canonical label set. Under structure.
func (s *Store) findSeries(hash uint64, labels []byte) (uint32, bool) {
	return s.shardOf(hash).find(uint32(hash), func(id uint32) bool {
		_, sl := s.slot(id)
		return s.hasLabels(sl, labels)
	})
}

// hasLabels compares a slot's labels with a packed set, exactly.
func (s *Store) hasLabels(sl *slot, labels []byte) bool {
	return s.hasPairs(sl.first, s.others(sl), labels)
}

func (s *Store) hasPairs(first pairID, others []pairID, labels []byte) bool {
	p := s.dict.bytes(first)
	if len(labels) < len(p) || string(labels[:len(p)]) != string(p) {
		return false
	}
	labels = labels[len(p):]
	for _, id := range others {
		p := s.dict.bytes(id)
		if len(labels) < len(p) || string(labels[:len(p)]) != string(p) {
			return false
		}
		labels = labels[len(p):]
	}
	return len(labels) == 0
}

// create makes the slot of a canonical, valid label set. Under structure, for
// writing.
func (s *Store) create(hash uint64, labels []byte, ownerID uint32, scratch []pairID) (uint32, []pairID) {
	scratch = scratch[:0]
	var named pairID
	for i := 0; i < len(labels); {
		_, _, size := scanPair(labels[i:])
		p := labels[i : i+size]
		id := s.dict.intern(s.dict.hashPair(p), p)
		if s.dict.pairs.list[id].flags()&pairName != 0 {
			named = id
		}
		scratch = append(scratch, id)
		i += size
	}
	refs, isNew := s.refs.put(scratch[1:])
	s.dict.uses.list[scratch[0]].refs++
	if isNew {
		for _, id := range scratch[1:] {
			s.dict.uses.list[id].refs++
		}
	}
	id := s.takeSlot()
	_, sl := s.slot(id)
	*sl = slot{first: scratch[0], refs: refs, n: uint8(len(scratch)), flags: inUse, owner: ownerID, next: noSlot, pin: s.pins.round()}
	s.shardOf(hash).insert(uint32(hash), id)
	m := s.metrics[named]
	if m == nil {
		_, name := splitPair(s.dict.bytes(named))
		m = &metric{name: string(name)}
		s.dict.uses.list[named].refs++ // until the sweep finds the metric empty
		s.metrics[named] = m
	}
	m.list = append(m.list, id)
	o := s.owners[ownerID]
	o.list = append(o.list, id)
	s.own(ownerID, 1)
	s.held++
	return id, scratch
}

// takeSlot finds the lowest free slot, so that whole blocks become free at the
// end. Under structure, for writing.
func (s *Store) takeSlot() uint32 {
	for ; s.open < len(s.blocks); s.open++ {
		b := s.blocks[s.open]
		if b == nil {
			b = s.newBlock(s.open)
			s.blocks[s.open] = b
		}
		if b.used == blockLen {
			continue
		}
		for b.slots[b.cursor].flags&(inUse|leaving) != 0 {
			b.cursor++
		}
		b.used++
		return uint32(s.open<<blockBits | b.cursor)
	}
	b := s.newBlock(s.open)
	b.used = 1
	s.blocks = append(s.blocks, b)
	return uint32(s.open << blockBits)
}

// owner returns the id of an edge by name, OtherEdge's beyond the limit. It is the
// edge's until it is forgotten: see forgetEdges.
func (s *Store) owner(name string) uint32 {
	id := s.pinOwner(name)
	s.unpin(id)
	return id
}

// pinOwner is owner for a batch: the edge is not forgotten before unpin.
func (s *Store) pinOwner(name string) uint32 {
	s.structure.RLock()
	id, ok := s.ownerIDs[name]
	if !ok && len(s.ownerIDs) >= s.opts.Limits.Edges {
		id, ok = s.ownerIDs[OtherEdge]
	}
	if ok {
		s.owners[id].pin()
	}
	s.structure.RUnlock()
	if ok {
		return id
	}
	s.structure.Lock()
	defer s.structure.Unlock()
	if len(s.ownerIDs) >= s.opts.Limits.Edges {
		name = OtherEdge
	}
	id, ok = s.ownerIDs[name]
	if !ok {
		id = s.newOwner(&owner{name: name})
		s.ownerIDs[name] = id
	}
	s.owners[id].pin()
	return id
}

// newOwner finds a number for an owner. Under structure, for writing.
func (s *Store) newOwner(o *owner) uint32 {
	if n := len(s.freeOwners); n > 0 {
		id := s.freeOwners[n-1]
		s.freeOwners = s.freeOwners[:n-1]
		s.owners[id] = o
		return id
	}
	s.owners = append(s.owners, o)
	return uint32(len(s.owners) - 1)
}

func (o *owner) pin() {
	o.pins.Add(1)
	o.idle.Store(0)
}

// idleSweeps is for how many sweeps an edge of which nothing is held, not even a
// watermark, stays what it is: its metadata comes apart from its samples, and before
// them.
const idleSweeps = 120

// forgetEdges forgets edges of which nothing is held any more, and what they said of
// families: else the names of senders that change them, or come from changing
// addresses, would fill --limits.edges for ever.
func (s *Store) forgetEdges() {
	s.structure.Lock()
	var gone []uint32
	for name, id := range s.ownerIDs {
		o := s.owners[id]
		if o.count.Load() != 0 || o.grouped.Load() != 0 || len(o.groups) != 0 || o.pins.Load() != 0 || len(o.list) != 0 || o.idle.Add(1) <= idleSweeps {
			continue
		}
		delete(s.ownerIDs, name)
		s.owners[id] = &owner{}
		gone = append(gone, id)
	}
	s.structure.Unlock()
	if len(gone) == 0 {
		return
	}
	s.metadata.forget(gone)
	s.contests.leave(gone)
	s.structure.Lock()
	s.freed++ // the ids may mean other edges now
	s.freeOwners = append(s.freeOwners, gone...)
	s.structure.Unlock()
}

// Stats is the state of a store at one time.
type Stats struct {
	Live      int // series that a scan would show
	Held      int // slots in use, hidden watermarks included
	Metrics   int // metric names
	Edges     int // names of edges
	Groups    int // of the push API
	Pairs     int // interned label pairs
	PairBytes int // of their packed form
	Families  int // with metadata
}

// Stats counts at now; its cost is a linear scan, some ms per million series.
func (s *Store) Stats(now time.Time) Stats {
	st, _ := s.census(now, false)
	return st
}

// Owned is how many series one edge has: those that it wrote last, and those of the
// groups that it pushed to last.
type Owned struct {
	Live int // shown by a scan
	Held int // hidden watermarks included
}

// Census is Stats with what each edge has, by name, at the same cost.
func (s *Store) Census(now time.Time) (Stats, map[string]Owned) { return s.census(now, true) }

func (s *Store) census(now time.Time, byEdge bool) (Stats, map[string]Owned) {
	mono := s.mono(now)
	st := Stats{Families: s.metadata.len()}
	var live []int // by owner
	for i := 0; ; i++ {
		s.structure.RLock()
		if n := len(s.owners); byEdge && len(live) < n {
			live = append(live, make([]int, n-len(live))...)
		}
		if i >= len(s.blocks) {
			st.Held, st.Metrics, st.Edges, st.Groups = s.held, len(s.metrics), len(s.ownerIDs), len(s.groupIDs)
			st.Pairs, st.PairBytes = len(s.dict.pairs.list)-len(s.dict.free), s.dict.live
			owned := s.owned(live)
			s.structure.RUnlock()
			return st, owned
		}
		if b := s.blocks[i]; b != nil {
			b.mu.Lock()
			for j := range b.slots {
				if sl := &b.slots[j]; sl.live(mono) {
					st.Live++
					if byEdge {
						live[sl.owner]++
					}
				}
			}
			b.mu.Unlock()
		}
		s.structure.RUnlock()
	}
}

// owned sums the live series by edge. Under structure.
func (s *Store) owned(live []int) map[string]Owned {
	if live == nil {
		return nil
	}
	list := make([]Owned, len(s.owners))
	for id, o := range s.owners {
		n := &list[s.edgeOf(uint32(id))]
		n.Live += live[id]
		n.Held += int(o.count.Load())
	}
	byEdge := make(map[string]Owned, len(s.ownerIDs))
	for name, id := range s.ownerIDs {
		byEdge[name] = list[id]
	}
	return byEdge
}

type counters struct {
	expired, missed, ended, created, forgotten, owners, deleted atomic.Uint64
}

// Counters are totals since the store was made.
type Counters struct {
	Created           uint64 // series
	Expired           uint64 // series whose deadline has passed, as noticed by the sweep
	Missed            uint64 // of them, those whose last sample no scan of all has begun to show
	Ended             uint64 // series ended by a stale marker
	Forgotten         uint64 // watermarks freed
	Deleted           uint64 // series that Store.Delete hid
	OwnerChanges      uint64 // series written by another edge than before
	MetadataConflicts uint64 // families declared with a second type
}

// Counters returns the totals.
func (s *Store) Counters() Counters {
	return Counters{
		Created: s.totals.created.Load(), Expired: s.totals.expired.Load(), Missed: s.totals.missed.Load(), Ended: s.totals.ended.Load(),
		Forgotten: s.totals.forgotten.Load(), OwnerChanges: s.totals.owners.Load(), Deleted: s.totals.deleted.Load(),
		MetadataConflicts: s.metadata.conflicts.Load(),
	}
}
