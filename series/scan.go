package series

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"math"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// A Query says which live series a scan shows.
type Query struct {
	// Matchers select by labels: a series is shown if one of the lists matches
	// whole. Nil shows all.
	Matchers [][]Matcher

	Edge string // only series that this edge wrote last; "" is all

	// Shard of Shards takes a part of the series that depends on their labels
	// alone, the same in every process; the series of one histogram or summary
	// are in one. Shards 0 is all.
	Shard, Shards int

	// Grouped brings the series of one metric of a histogram or summary family
	// together: bounds rising, then sum, count, created. Without it the created
	// series are families of their own.
	Grouped bool

	// Rename is how names will be written, where that is not as they are:
	// families are then shown in the order of what it makes of their names, those
	// that it leaves alone first. It is called without locks.
	Rename func(name string) string
}

// A Matcher is a condition on one label. A series without the label has the
// value "". Matches may be called from several goroutines and must depend on
// nothing but the value.
type Matcher struct {
	Name    string
	Matches func(value string) bool
}

// A Visitor is shown the live series, family by family in the order of their
// names. Its methods are called from one goroutine. While BeginFamily, Series
// and EndFamily run the store is locked for reading: they must not wait nor call
// it, and what they are given is valid only during the call.
type Visitor interface {
	BeginFamily(f *Family)
	Series(f *Family, s *Series)
	EndFamily(f *Family)

	// Flush is called every few hundred series, without any lock held: the
	// place to write. An error ends the scan, which returns it.
	Flush() error
}

// A Family is a metric family with at least one series to show.
type Family struct {
	Name     string
	Metadata Metadata
	Names    []string // of its metrics, sorted: foo_bucket, foo_count, foo_sum

	members []member
	store   *Store
	mono    int64
}

// Shows reports whether the store has a live series of that metric name, of any
// family. It may be called during a visit.
func (f *Family) Shows(metric string) bool {
	s := f.store
	packed := AppendPair(nil, "__name__", metric)
	id, ok := s.dict.lookup(s.dict.hashPair(packed), packed)
	m := s.metrics[id]
	if !ok || m == nil {
		return false
	}
	return slices.ContainsFunc(m.list, func(slot uint32) bool { return s.liveSlot(slot, f.mono) })
}

func (s *Store) liveSlot(id uint32, mono int64) bool {
	b := s.blocks[id>>blockBits]
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slots[id&(blockLen-1)].live(mono)
}

// ShowsSeries reports whether the store has a live series of exactly these
// labels: packed, sorted by name. It may be called during a visit.
func (f *Family) ShowsSeries(labels []byte) bool {
	s := f.store
	hash, canonical, ok := s.dict.hashLabels(labels)
	if !ok || !canonical {
		return false
	}
	id, ok := s.findSeries(hash, labels)
	return ok && s.liveSlot(id, f.mono)
}

type member struct {
	id   pairID
	name string
	list []uint32
	part Part
}

// A Series is one live series as a Visitor sees it.
type Series struct {
	Name      string // of the metric
	Part      Part
	Value     float64 // not of a native histogram
	Time      int64   // of the sample, ms
	TTL       TTL
	Left      TTL   // until it expires, ms; Forever: it does not
	Pushed    bool  // belongs to a group of the push API
	StartTime int64 // ms; 0 unknown
	Histogram *Histogram
	Exemplars []Exemplar // oldest first
	Edge      string
	Group     uint64 // with Query.Grouped: a number that changes from metric to metric

	group string // the key of the group that it belongs to
	dict  *dict
	refs  []pairID
}

// A Pair is one label. Its parts alias the store.
type Pair struct {
	Packed      []byte // as AppendPair writes it
	Name, Value []byte
	Plain       bool // legacy name, and a value without \, " and newline
}

// LabelFlags are what is known of a label pair since it was first seen.
type LabelFlags uint8

// The flags.
const (
	PlainLabel    = LabelFlags(pairPlain)    // legacy name, and a value without \, " and newline
	NameLabel     = LabelFlags(pairName)     // __name__
	InstanceLabel = LabelFlags(pairInstance) // instance
	LeLabel       = LabelFlags(pairLe)       // le
)

// Len is how many labels there are, __name__ included.
func (s *Series) Len() int { return len(s.refs) }

// Label returns a label in packed form, and its flags; they are sorted by name.
// It is what Pairs yields, for those in a hurry.
func (s *Series) Label(i int) (packed []byte, flags LabelFlags) {
	p := s.dict.pairs.list[s.refs[i]]
	at := uint64(p.off) << alignBits
	from := at & (arenaChunk - 1)
	return s.dict.chunks[at>>chunkBits][from : from+uint64(p.tag>>8)], LabelFlags(p.tag)
}

// SplitPair returns the parts of a label in packed form. They alias it.
func SplitPair(packed []byte) (name, value []byte) {
	if len(packed) < 128 { // all lengths are of one byte
		n := 4 + int(packed[3])
		return packed[4:n], packed[n+2:]
	}
	return splitPair(packed)
}

// Pairs yields the labels but __name__, sorted by name.
func (s *Series) Pairs(yield func(Pair) bool) {
	for _, id := range s.refs {
		flags := s.dict.pairs.list[id].flags()
		if flags&pairName != 0 {
			continue
		}
		packed := s.dict.bytes(id)
		name, value := splitPair(packed)
		if !yield(Pair{packed, name, value, flags&pairPlain != 0}) {
			return
		}
	}
}

// scanTurn is how many series are shown under one turn of the lock: some 30 us.
const scanTurn = 256

// yieldAfter is how many series are shown before others get the processor: some 0.2
// ms. Each time the runtime wakes another thread to see who wants it, which is dear.
const yieldAfter = 4 * scanTurn

// groupedPass bounds the memory of grouping, 24 bytes a series: larger families
// are grouped in several passes, by hash.
const groupedPass = 1 << 20

type scan struct {
	store   *Store
	mono    int64
	query   Query
	v       Visitor
	owner   uint32
	begun   bool
	series  Series
	slots   [scanTurn]slot
	extras  [scanTurn]*extra
	verdict [][]pairVerdicts
	freed   uint64
	group   uint64
	last    []pairID // that tell the last metric shown grouped from others; nil where its ids may be others' now
	telling []pairID // room for the next ones
	lastKey uint64
	touched pairID // keeps the loads of gather alive
	ids     [256]pairID
	since   int // series, since the processor was let go

	started time.Time
	given   time.Duration // to other threads: at most half of the time since
}

// pairVerdicts remembers what one matcher says of a pair, by its id.
type pairVerdicts []uint8

const (
	pairUnknown uint8 = iota
	pairOther         // another label
	pairMatches
	pairFails
)

// Scan shows v the series that are live at now. A series that begins to live, or
// changes, during the scan may be shown or not; one that was committed before
// the scan is shown, with that sample or a newer one. No lock is held for longer
// than some ten microseconds at a time.
func (s *Store) Scan(now time.Time, q Query, v Visitor) error {
	c := &scan{store: s, mono: s.mono(now), started: time.Now(), query: q, v: v, owner: math.MaxUint32}
	for _, ms := range q.Matchers {
		c.verdict = append(c.verdict, make([]pairVerdicts, len(ms)))
	}
	for _, f := range s.families(c) {
		if err := c.family(f); err != nil {
			return err
		}
	}
	if err := v.Flush(); err != nil {
		return err
	}
	s.scraped.note(&q, c.mono)
	return nil
}

// families lists what may have something to show, sorted.
func (s *Store) families(c *scan) []*Family {
	s.structure.RLock()
	var members []member
	if c.query.Edge == "" {
		members = make([]member, 0, len(s.metrics))
		for id, m := range s.metrics {
			if c.wanted(m.name) {
				members = append(members, member{id: id, name: m.name, list: m.list})
			}
		}
	} else if id, ok := s.ownerIDs[c.query.Edge]; ok {
		c.owner = id
		var slots []uint32
		add := func(o *owner) {
			o.mu.Lock()
			slots = append(slots, o.list...)
			o.mu.Unlock()
		}
		add(s.owners[id])
		for group := range s.owners[id].groups {
			add(s.owners[group])
		}
		members = s.byMetric(slots)
	}
	s.structure.RUnlock()

	el := election{store: s, mono: c.mono, members: members}
	byName := map[string]*Family{}
	for _, m := range members {
		name, part, md := el.resolve(m.name)
		if part == Created && (md.Type == Counter || !c.query.Grouped) {
			name, part, md = m.name, Plain, Metadata{}
		}
		m.part = part
		f := byName[name]
		if f == nil {
			f = &Family{Name: name, Metadata: md, store: s, mono: c.mono}
			byName[name] = f
		}
		f.members = append(f.members, m)
		f.Names = append(f.Names, m.name)
	}
	list := make([]*Family, 0, len(byName))
	for _, f := range byName {
		slices.SortFunc(f.members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
		slices.Sort(f.Names)
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *Family) int { return cmp.Compare(a.Name, b.Name) })
	if rename := c.query.Rename; rename != nil {
		slices.SortStableFunc(list, func(a, b *Family) int {
			x, y := rename(a.Name), rename(b.Name)
			if x == y && (a.Name == x) != (b.Name == y) {
				if a.Name == x {
					return -1
				}
				return 1
			}
			return cmp.Compare(x, y)
		})
	}
	return list
}

// wanted reports whether a metric of that name can have series to show.
func (c *scan) wanted(name string) bool {
	if c.query.Matchers == nil {
		return true
	}
	return slices.ContainsFunc(c.query.Matchers, func(ms []Matcher) bool {
		return !slices.ContainsFunc(ms, func(m Matcher) bool { return m.Name == "__name__" && !m.Matches(name) })
	})
}

// byMetric lists slots by metric. Under structure.
func (s *Store) byMetric(list []uint32) []member {
	slices.Sort(list)
	list = slices.Compact(list)
	at := map[pairID]int{}
	var members []member
	for _, slot := range list {
		_, sl := s.slot(slot)
		if sl.n == 0 {
			continue // freed: to ask its flags would take the block's lock
		}
		name := s.nameOf(sl)
		i, ok := at[name]
		if !ok {
			i = len(members)
			at[name] = i
			members = append(members, member{id: name, name: s.metrics[name].name})
		}
		members[i].list = append(members[i].list, slot)
	}
	return members
}

func (s *Store) nameOf(sl *slot) pairID {
	if s.dict.pairs.list[sl.first].flags()&pairName != 0 {
		return sl.first
	}
	for _, id := range s.others(sl) {
		if s.dict.pairs.list[id].flags()&pairName != 0 {
			return id
		}
	}
	panic("series: a series without a name")
}

// An election settles, for one scan, what the families are where edges disagree.
type election struct {
	store   *Store
	mono    int64
	members []member
	settled map[string]settled
	byBase  map[string][]*member

	declaring edgeSet // the family that is being settled
}

type settled struct {
	md Metadata
	ok bool
}

// resolve finds the family of a metric: the one that was declared under its name
// or, with the suffix that its type adds, under its base name.
func (e *election) resolve(name string) (family string, part Part, md Metadata) {
	base := baseName(name)
	if base != name {
		if md, ok := e.elected(base); ok {
			if part, ok := partOf(base, name, md.Type); ok {
				if md.Type == Counter && part == Plain {
					return name, part, md // text formats name a counter family by its series
				}
				return base, part, md
			}
		}
	}
	md, _ = e.elected(name)
	part, _ = partOf(name, name, md.Type)
	return name, part, md
}

// elected is the metadata of a family. Where edges declare several types, that of
// most live series holds, tie by name; among texts for one type the one that most
// edges have. What only edges without a live series of it declare does not count: it
// would be said of the series of others.
func (e *election) elected(family string) (Metadata, bool) {
	m := &e.store.metadata
	m.mu.RLock()
	variants := m.families[family]
	if len(variants) == 0 {
		m.mu.RUnlock()
		return Metadata{}, false
	}
	if s, ok := e.settled[family]; ok {
		m.mu.RUnlock()
		return s.md, s.ok
	}
	e.declaring = edgeSet{from: e.declaring.from, words: e.declaring.words[:0]}
	types := 0
	for _, v := range variants {
		types |= 1 << v.Type
		e.declaring.addAll(&v.edges)
	}
	m.mu.RUnlock()
	live := e.liveByEdge(family, types&(types-1) == 0) // one type needs no count
	s := settled{ok: len(live) > 0}
	if s.ok {
		s.md = m.best(family, live)
	}
	if e.settled == nil {
		e.settled = map[string]settled{}
	}
	e.settled[family] = s
	return s.md, s.ok
}

// liveByEdge counts the live series that a family may have, by who wrote them, of those
// who declare it. one says that any of them will do.
func (e *election) liveByEdge(family string, one bool) map[uint32]int {
	if e.byBase == nil {
		e.byBase = map[string][]*member{}
		for i := range e.members {
			m := &e.members[i]
			e.byBase[m.name] = append(e.byBase[m.name], m)
			if base := baseName(m.name); base != m.name {
				e.byBase[base] = append(e.byBase[base], m)
			}
		}
	}
	s := e.store
	live := map[uint32]int{}
	for _, m := range e.byBase[family] {
		for list := m.list; len(list) > 0; {
			turn := list[:min(len(list), scanTurn)]
			list = list[len(turn):]
			s.structure.RLock()
			for _, id := range turn {
				if at := id >> blockBits; int(at) >= len(s.blocks) || s.blocks[at] == nil {
					continue
				}
				b, sl := s.slot(id)
				b.mu.Lock()
				edge := uint32(noSlot)
				if sl.live(e.mono) {
					edge = s.edgeOf(sl.owner)
				}
				b.mu.Unlock()
				if e.declaring.has(edge) {
					if live[edge]++; one {
						break
					}
				}
			}
			s.structure.RUnlock()
			if one && len(live) > 0 {
				return live
			}
		}
	}
	return live
}

// family shows one family.
func (c *scan) family(f *Family) error {
	c.begun = false
	var err error
	if t := f.Metadata.Type; c.query.Grouped && (t == HistogramType || t == GaugeHistogram || t == Summary) {
		err = c.grouped(f)
	} else {
		for i := range f.members {
			m := &f.members[i]
			for list := m.list; len(list) > 0 && err == nil; {
				turn := list[:min(len(list), scanTurn)]
				list = list[len(turn):]
				c.lock()
				if !c.still(m) {
					c.unlock(0)
					break
				}
				c.gather(turn)
				for j := range turn {
					c.show(f, m, j, turn[j])
				}
				c.unlock(len(turn))
				if c.begun {
					err = c.v.Flush()
				}
			}
		}
	}
	if c.begun {
		c.v.EndFamily(f)
	}
	return err
}

// still reports whether the id of a metric's name means that name yet: between two
// turns a sweep may free a name, and the next new name gets its id, and the next new
// series a slot of its list. Under structure.
func (c *scan) still(m *member) bool {
	now := c.store.metrics[m.id]
	return now != nil && now.name == m.name
}

func (c *scan) lock() {
	s := c.store
	s.structure.RLock()
	if c.freed != s.freed {
		c.freed = s.freed
		for _, ms := range c.verdict {
			for i := range ms {
				clear(ms[i])
			}
		}
		c.last = nil
		if c.owner != math.MaxUint32 {
			if id, ok := s.ownerIDs[c.query.Edge]; !ok || id != c.owner {
				c.owner = math.MaxUint32 - 1 // it was forgotten meanwhile, and had nothing
			}
		}
	}
}

// unlock ends a turn of n series, and lets others have the processor: on few of
// them a page would else take one for ten milliseconds at a time.
func (c *scan) unlock(n int) {
	c.store.structure.RUnlock()
	if c.since += n; c.since < yieldAfter {
		return
	}
	c.since = 0
	runtime.Gosched()
	// The runtime's queue is one, the system's another: a thread that the system has
	// put behind this one on its processor waits for its clock to tick, up to 4 ms.
	now := time.Now()
	if c.given > now.Sub(c.started)/2 || !c.store.Pushing(now) {
		return
	}
	yieldThread()
	c.given += time.Since(now)
}

// gather copies what samples change, so that no block is locked while series are
// shown. A list made earlier may name slots that are gone, even their blocks.
func (c *scan) gather(ids []uint32) {
	s := c.store
	var b *block
	at := uint32(math.MaxUint32)
	for i, id := range ids {
		if id>>blockBits != at || b == nil {
			if b != nil {
				b.mu.Unlock()
			}
			at, b = id>>blockBits, nil
			if int(at) < len(s.blocks) {
				b = s.blocks[at]
			}
			if b == nil {
				c.slots[i].flags = 0
				continue
			}
			b.mu.Lock()
		}
		c.slots[i] = b.slots[id&(blockLen-1)]
		c.extras[i] = nil
		if c.slots[i].flags&extended != 0 {
			s.extrasMu.Lock()
			c.extras[i] = s.extras[id]
			s.extrasMu.Unlock()
		}
	}
	if b != nil {
		b.mu.Unlock()
	}
	// The references of a family's series are far apart: loaded here, side by
	// side, they need not be waited for one by one.
	touched := pairID(0)
	for i := range ids {
		if sl := &c.slots[i]; sl.flags&inUse != 0 {
			if others := s.others(sl); len(others) > 0 {
				touched += others[0] + others[len(others)-1]
			}
		}
	}
	c.touched = touched
}

// show shows the i-th gathered slot if it is live, still of the metric, and
// wanted.
func (c *scan) show(f *Family, m *member, i int, id uint32) {
	sl := &c.slots[i]
	s := c.store
	refs, ok := c.selected(sl, m)
	if !ok {
		return
	}
	if !c.begun {
		c.begun = true
		c.v.BeginFamily(f)
	}
	c.series = Series{
		Name: m.name, Part: m.part, Value: math.Float64frombits(sl.bits), Time: sl.t, TTL: sl.ttl.ttl(), Left: Forever,
		Edge: s.owners[s.edgeOf(sl.owner)].name, Group: c.group, dict: s.dict, refs: refs,
	}
	if sl.deadline != math.MaxInt64 {
		c.series.Left = TTL(sl.deadline - c.mono)
	}
	if key := s.owners[sl.owner].group; key != "" {
		c.series.Pushed, c.series.group = true, key
	}
	if x := c.extras[i]; x != nil && sl.flags&extended != 0 {
		c.series.Histogram, c.series.Exemplars, c.series.StartTime = x.histogram, x.exemplars, x.start
	}
	switch {
	case c.series.Histogram != nil && (f.Metadata.Type == HistogramType || f.Metadata.Type == GaugeHistogram || f.Metadata.Type == Unknown) && m.name == f.Name:
		c.series.Part = Plain
	case c.series.Histogram != nil:
		c.series.Part = Misfit
	case (c.series.Part == Bucket || c.series.Part == Quantile) && !c.has(refs, boundOf(c.series.Part)):
		c.series.Part = Misfit
	}
	c.v.Series(f, &c.series)
}

// boundOf is the flag of the label that tells the series of one part of a metric
// apart, le or quantile: all other labels tell metrics of the family apart.
func boundOf(part Part) pairFlags {
	switch part {
	case Bucket:
		return pairLe
	case Quantile:
		return pairQuantile
	}
	return 0
}

func (c *scan) has(refs []pairID, flag pairFlags) bool {
	return slices.ContainsFunc(refs, func(p pairID) bool { return c.store.dict.pairs.list[p].flags()&flag != 0 })
}

// selected reports whether a gathered slot is live and wanted, and returns the ids of
// its pairs, until the next call. Under structure.
func (c *scan) selected(sl *slot, m *member) ([]pairID, bool) {
	if !sl.live(c.mono) || c.owner != math.MaxUint32 && c.store.edgeOf(sl.owner) != c.owner {
		return nil, false
	}
	refs := c.store.ids(sl, c.ids[:])
	if refs[0] != m.id && !slices.Contains(refs, m.id) {
		return nil, false
	}
	if c.query.Shards > 0 && shardOf(c.store.dict, refs, c.query.Shards) != c.query.Shard {
		return nil, false
	}
	return refs, c.query.Matchers == nil || c.matches(refs)
}

// shardOf is a function of the labels alone, in any order, without bounds and the
// suffixes of a family.
func shardOf(d *dict, refs []pairID, shards int) int {
	h := uint64(0)
	for _, id := range refs {
		h += d.uses.list[id].stable
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return int(h % uint64(shards))
}

func (c *scan) matches(refs []pairID) bool {
	for i, ms := range c.query.Matchers {
		all := true
		for j := range ms {
			if all = c.matchesOne(refs, &ms[j], &c.verdict[i][j]); !all {
				break
			}
		}
		if all {
			return true
		}
	}
	return false
}

func (c *scan) matchesOne(refs []pairID, m *Matcher, known *pairVerdicts) bool {
	d := c.store.dict
	if len(*known) < len(d.pairs.list) {
		*known = append(*known, make([]uint8, len(d.pairs.list)-len(*known))...)
	}
	for _, id := range refs {
		v := (*known)[id]
		if v == pairUnknown {
			name, value := splitPair(d.bytes(id))
			switch {
			case string(name) != m.Name:
				v = pairOther
			case m.Matches(string(value)):
				v = pairMatches
			default:
				v = pairFails
			}
			(*known)[id] = v
		}
		if v != pairOther {
			return v == pairMatches
		}
	}
	return m.Matches("")
}

// A grouping is one series of a family that is shown grouped.
type grouping struct {
	key    uint64 // keyed hash of the labels that tell metrics apart
	order  uint64 // bound, then part
	slot   uint32
	member uint32
}

// grouped shows a family metric by metric.
func (c *scan) grouped(f *Family) error {
	total := 0
	for _, m := range f.members {
		total += len(m.list)
	}
	passes := uint64(1 + total/groupedPass)
	var list []grouping
	var ids [scanTurn]uint32
	for pass := range passes {
		list = list[:0]
		for mi := range f.members {
			m := &f.members[mi]
			for rest := m.list; len(rest) > 0; {
				turn := rest[:min(len(rest), scanTurn)]
				rest = rest[len(turn):]
				c.lock()
				if !c.still(m) {
					c.unlock(0)
					break
				}
				c.gather(turn)
				for i := range turn {
					if refs, ok := c.selected(&c.slots[i], m); ok {
						if key, order := c.grouping(refs, m.part); key%passes == pass {
							list = append(list, grouping{key, order, turn[i], uint32(mi)})
						}
					}
				}
				c.unlock(len(turn))
			}
		}
		slices.SortFunc(list, func(a, b grouping) int {
			return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.order, b.order), cmp.Compare(a.slot, b.slot))
		})
		for rest := list; len(rest) > 0; {
			turn := rest[:min(len(rest), scanTurn)]
			rest = rest[len(turn):]
			for i := range turn {
				ids[i] = turn[i].slot
			}
			c.lock()
			c.gather(ids[:len(turn)])
			var last *member
			known := false
			for i := range turn {
				m := &f.members[turn[i].member]
				if m != last {
					last, known = m, c.still(m)
				}
				if !known {
					continue
				}
				if c.slots[i].flags&inUse != 0 {
					c.enter(c.store.ids(&c.slots[i], c.ids[:]), m.part, turn[i].key)
				}
				c.show(f, m, i, turn[i].slot)
			}
			c.unlock(len(turn))
			if c.begun {
				if err := c.v.Flush(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// grouping is where a series stands in its family.
func (c *scan) grouping(refs []pairID, part Part) (key, order uint64) {
	d := c.store.dict
	bound := boundOf(part)
	for _, id := range refs {
		switch flags := d.pairs.list[id].flags(); {
		case flags&pairName != 0:
		case flags&bound != 0:
			_, value := splitPair(d.bytes(id))
			order = boundOrder(string(value))
		default:
			key = mix(key, maphash.Bytes(d.seed, d.bytes(id)))
		}
	}
	if bound == 0 {
		order = math.MaxUint64 - 8 + uint64(part)
	}
	return key, order
}

// boundOrder maps a bound to a number with the same order; bounds that are not
// numbers come last.
func boundOrder(s string) uint64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) {
		return math.MaxUint64 - 16
	}
	bits := math.Float64bits(v)
	if bits>>63 != 0 {
		return ^bits
	}
	return bits | 1<<63
}

// enter moves on to the next group where the labels that tell metrics apart
// change, compared exactly.
func (c *scan) enter(refs []pairID, part Part, key uint64) {
	telling := c.telling[:0]
	skip := pairName | boundOf(part)
	for _, id := range refs {
		if c.store.dict.pairs.list[id].flags()&skip == 0 {
			telling = append(telling, id)
		}
	}
	if key != c.lastKey || c.last != nil && !slices.Equal(telling, c.last) {
		c.group++
	}
	c.last, c.telling, c.lastKey = telling, c.last, key
}

// String writes the series as people write it, as FormatLabels does.
func (s *Series) String() string {
	var b bytes.Buffer
	for _, id := range s.refs {
		b.Write(s.dict.bytes(id))
	}
	return FormatLabels(b.Bytes())
}
