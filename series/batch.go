package series

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
	"unsafe"
)

// A Request is what holds for all samples of one accepted request.
type Request struct {
	Edge string // who sent it
	TTL  TTL    // asked for; 0: the store's default

	// Received is when the request arrived, by the wall clock; what reads the
	// recorded time of a journal gives that. Now is the present, with its
	// monotonic reading. Live, they are the same. In between the time left to
	// live has shrunk; it never grows.
	Received, Now time.Time

	// Recorded is what was decided when the request was taken, in a replay: TTLs
	// are clamped to its bounds, its refused are refused again, and nothing else
	// is checked.
	Recorded *Decision

	// Group says that the request is a push to a group; nil: it is none.
	Group *Group

	// Terms hold for the sender alone. In a replay only what they force counts.
	Terms Terms
}

// Terms are what holds for one edge beyond the store's options. The zero value
// adds nothing.
type Terms struct {
	// Forced are labels that each series gets, in canonical packed form, with
	// names of the character set before UTF-8 names. What the sender says under
	// these names, or under names that a page may show as them, is dropped
	// before the series is looked up: it cannot speak of a series without them.
	Forced []byte

	// Dropped is the name of a label that is taken off; "": none is.
	Dropped string

	// Pair is the name of a label that says, together with Dropped, which replica
	// of which pair sends; "": see Batch.Replica.
	Pair string

	MaxTTL    TTL // 0: the store's
	MaxSeries int // held by the edge; 0: the store's limit alone
	MaxLabels int // of a series, forced ones included; 0: the store's limit alone
}

// rewrites reports whether labels as they are sent are not those of the series.
func (t *Terms) rewrites() bool { return len(t.Forced) > 0 || t.Dropped != "" }

// A Decision is what a batch decided that the request itself does not say.
type Decision struct {
	TTL            TTL // granted to the request
	MinTTL, MaxTTL TTL // the bounds of that time, for label __ttl__

	// Refused are the samples, histograms and exemplars that were refused, by
	// their number in the order in which they were added, rising.
	Refused []uint32
}

// An Exemplar is one example of what a counter or a histogram bucket counts.
type Exemplar struct {
	Labels []byte // packed, as AppendPair writes them
	Value  float64
	Time   int64 // ms; 0 is not given
}

// maxExemplars is how many exemplars one series keeps: the latest.
const maxExemplars = 10

// exemplarRunes bounds the label names and values of an exemplar (OpenMetrics 1.0).
const exemplarRunes = 128

// A Batch carries one request into the store. It serves one goroutine, in this
// order: [Store.NewBatch], then for each series [Batch.Series] or
// [Batch.SeriesRefs] followed by its samples, [Batch.Prepare], [Batch.Commit],
// and always [Batch.Release].
//
// Until [Batch.Pause] or Prepare it may hold a read lock of the store: the goroutine
// must not wait for anything, nor call other methods of the store, in between. Nothing
// is visible to scans before Commit, and everything is when it returns.
type Batch struct {
	store    *Store
	owner    uint32
	edge     uint32 // the owner, or who pushes to it
	group    *Group // nil: no push to one
	crowded  bool   // there was no room for the group
	disputes bool   // it took a series from another edge
	longest  TTL    // of the push
	ends     map[string]bool
	recorded *Decision // in a replay
	minTTL   TTL
	maxTTL   TTL
	items    uint32   // samples, histograms and exemplars added
	refusals []uint32 // of them, refused before Prepare
	received int64    // wall, ms
	mono     int64    // of received, ms: may be negative in a replay
	ttl      packedTTL
	round    uint32
	reading  bool // holds structure for reading
	turn     int  // series since the lock was taken
	prepared bool
	astray   int // series in a row that the prediction did not find

	cur     current
	block   *block // locked, or nil
	blockAt uint32

	entries []entry
	fresh   []fresh
	sought  int    // of fresh, were looked up
	labels  []byte // of fresh series, where the caller's do not stay
	more    []addition
	md      []declared
	res     Result

	symbols [][]byte
	pairs   []symbolPair // a direct-mapped cache: see interned
	turns   uint32       // invalidates pairs when ids may mean something else
	freed   uint64       // Store.freed when turns was set
	scratch []byte
	spare   []byte
	ids     []pairID // of the last series by references, or scratch
	idsOf   []uint32 // the references that ids were found for
	idsTurn uint32   // when
	last    compared

	terms             Terms
	forced            []pairID    // of terms.Forced; noPair where no series has the pair
	verbatim          bool        // the sender sends the forced labels itself
	replica, pairName string      // see Replica
	unforced          [2][]pairID // see sent
	ahead             ahead
	searches          [maxSearches]search // of fresh, by the number's last bits
	expected          [2]uint32           // followers of the last that was found so
}

// compared is the last series that was found by its labels: the next one has most
// of its pairs, at the end, and can be compared with the labels themselves there.
type compared struct {
	labels []byte              // a copy
	first  pairID              // noPair: not known
	others []pairID            // in the store, or those at the end; nil once the read lock was let go
	tail   [maxTail + 1]uint32 // bytes of the last pairs, by their number
}

// maxTail is up to how many labels a series is remembered in compared.
const maxTail = 64

// current is the series that samples are added to.
type current struct {
	slot    uint32 // noSlot: fresh
	fresh   uint32
	verdict Verdict
	ttl     packedTTL
	samples int
}

// An entry is one accepted sample.
type entry struct {
	bits uint64
	t    int64
	slot uint32 // or index of fresh, with isFresh
	ttl  packedTTL
	more uint32 // 1 + index of additions; 0 none
	kind entryKind
}

type entryKind uint8

const (
	isFresh entryKind = 1 << iota
	isExemplar
	isMissing // its series was refused in Prepare
)

// fresh is a series that was not found at once.
type fresh struct {
	hash    uint64
	labels  []byte // canonical; the caller's, or in Batch.labels
	slot    uint32 // noSlot until it is found or created
	verdict Verdict
	entries int
	judged  bool // something of it was refused, and counted
}

// addition is what a plain float sample does not have.
type addition struct {
	histogram *Histogram
	exemplar  Exemplar
	start     int64
}

type declared struct {
	family []byte
	md     Metadata
}

type symbolPair struct {
	name, value uint32
	turn        uint32
	id          pairID
}

// maxAstray is when a request is taken to be in no order that was seen before:
// each wrong guess costs the cache misses of a slot, its references and a pair.
// What the hash finds is still compared with what would have been guessed, and the
// guess trusted again when they agree.
const maxAstray = 3

// maxFreshBytes bounds the labels of the new series of one request: references
// to symbols make them much longer than the request.
const maxFreshBytes = 128 << 20

const readTurn = 1024 // series between two chances for a writer

// NewBatch begins a request.
func (s *Store) NewBatch(r Request) *Batch {
	b := s.pool.Get().(*Batch)
	if b.group = r.Group; b.group != nil {
		limit := s.opts.Limits.Groups
		if r.Recorded != nil {
			limit = math.MaxInt
		}
		var ok bool
		b.owner, ok = s.groupOwner(r.Edge, b.group.key(), limit)
		b.crowded = !ok
		b.edge = s.pinOwner(r.Edge)
	} else {
		b.edge = s.pinOwner(r.Edge)
		b.owner = b.edge
	}
	b.received = r.Received.UnixMilli()
	now := s.mono(r.Now)
	s.pushed.Store(now)
	b.mono = now - max(0, r.Now.UnixMilli()-b.received)
	asked := r.TTL
	if asked == 0 {
		asked = s.opts.DefaultTTL
	}
	b.minTTL, b.maxTTL = s.opts.MinTTL, s.opts.MaxTTL
	if b.recorded = r.Recorded; b.recorded != nil {
		asked, b.minTTL, b.maxTTL = b.recorded.TTL, b.recorded.MinTTL, b.recorded.MaxTTL
	} else if t := r.Terms.MaxTTL; t > 0 {
		b.maxTTL = min(b.maxTTL, t)
		b.minTTL = min(b.minTTL, b.maxTTL)
	}
	b.terms = r.Terms
	granted, clamped := asked.clamp(b.minTTL, b.maxTTL)
	b.ttl = packTTL(granted)
	b.res = Result{Granted: b.ttl.ttl(), Clamped: clamped && r.TTL != 0}
	if b.crowded {
		b.Refuse(GroupLimit, 1, FormatLabels(b.group.Labels), fmt.Sprintf("the relay holds %d groups, its limit: --limits.groups", s.opts.Limits.Groups))
	}
	b.cur = current{slot: noSlot, verdict: Malformed}
	b.round = s.pins.begin()
	return b
}

// Release ends the batch, committed or not, and recycles it.
func (b *Batch) Release() {
	b.letGo()
	s := b.store
	if b.group != nil && !b.crowded {
		s.unpin(b.owner)
	}
	s.unpin(b.edge)
	s.pins.end(b.round)
	clear(b.fresh)
	clear(b.more)
	clear(b.md)
	clear(b.symbols)
	const keep = 1 << 16 // one huge request does not pin its buffers for ever
	if cap(b.entries) > keep {
		b.entries = nil
	}
	if cap(b.labels) > keep*16 {
		b.labels = nil
	}
	*b = Batch{
		store: s, entries: b.entries[:0], fresh: b.fresh[:0], labels: b.labels[:0], more: b.more[:0], md: b.md[:0],
		refusals: b.refusals[:0], symbols: b.symbols[:0], pairs: b.pairs, turns: b.turns, freed: b.freed, scratch: b.scratch[:0], spare: b.spare[:0], ids: b.ids[:0], idsOf: b.idsOf[:0],
		last: compared{labels: b.last.labels[:0], first: noPair}, forced: b.forced[:0], unforced: b.unforced, ahead: b.ahead,
	}
	s.pool.Put(b)
}

func (b *Batch) read() {
	if b.reading {
		if b.turn++; b.turn < readTurn {
			return
		}
		b.seekAll()
		b.letGo()
	}
	b.store.structure.RLock()
	b.reading, b.turn = true, 0
	if b.freed != b.store.freed {
		b.freed = b.store.freed
		b.forgetPairs()
	}
	b.findForced()
}

// findForced looks up the pairs of the forced labels. Under structure.
func (b *Batch) findForced() {
	d := b.store.dict
	b.forced = b.forced[:0]
	for rest := b.terms.Forced; len(rest) > 0; {
		_, _, size := scanPair(rest)
		id, ok := d.lookup(d.hashPair(rest[:size]), rest[:size])
		if !ok {
			id = noPair
		}
		b.forced = append(b.forced, id)
		rest = rest[size:]
	}
}

// sent returns those of a slot's pairs that the sender would send for it, in
// b.unforced[0]; ok is false if it is not a series of the sender's.
func (b *Batch) sent(sl *slot) (first pairID, others []pairID, ok bool) {
	all := b.store.ids(sl, b.unforced[0])
	out := all[:0]
	next := 0
	for _, id := range all {
		switch {
		case next == len(b.forced) || b.forced[next] != id:
			out = append(out, id)
		case b.verbatim:
			out = append(out, id)
			next++
		default:
			next++
		}
	}
	b.unforced[0] = out
	if len(out) == 0 {
		return noPair, nil, false
	}
	return out[0], out[1:], next == len(b.forced)
}

// asSent returns the ids of a slot's pairs as the sender sends them: see sent.
func (b *Batch) asSent(sl *slot) (first pairID, others []pairID, ok bool) {
	if len(b.forced) > 0 {
		return b.sent(sl)
	}
	return sl.first, b.store.others(sl), true
}

func (b *Batch) letGo() {
	b.unlockBlock()
	if b.reading {
		b.store.structure.RUnlock()
		b.reading = false
		b.last.first, b.last.others = noPair, nil
	}
}

func (b *Batch) unlockBlock() {
	if b.block != nil {
		b.block.mu.Unlock()
		b.block = nil
	}
}

// slot returns a slot with its block locked; the lock is kept until another
// block is asked for.
func (b *Batch) slot(id uint32) *slot {
	at := id >> blockBits
	if b.block == nil || b.blockAt != at {
		b.unlockBlock()
		b.block, b.blockAt = b.store.blocks[at], at
		b.block.mu.Lock()
	}
	return &b.block.slots[id&(blockLen-1)]
}

// followers are the slots that may come after this one, of number id: the one that
// came last time, and the one behind it. Under the block's lock.
func (sl *slot) followers(id uint32) [2]uint32 { return [2]uint32{sl.next, id + 1} }

// follows reports whether a slot is one of followers.
func follows(f [2]uint32, id uint32) bool { return f[0] == id || f[1] == id }

// candidates are the followers of the current slot; noSlot where there are none.
func (b *Batch) candidates() (c [2]uint32) {
	prev := b.cur.slot
	if prev == noSlot || b.astray > maxAstray {
		return [2]uint32{noSlot, noSlot}
	}
	c = b.slot(prev).followers(prev)
	if c[0] == c[1] {
		c[1] = noSlot
	}
	return c
}

// exists reports whether a slot of that number can be looked at.
func (b *Batch) exists(id uint32) bool {
	at := id >> blockBits
	return id != noSlot && int(at) < len(b.store.blocks) && b.store.blocks[at] != nil
}

// choose makes a slot that was found the current one. guess is whether the
// prediction found it, or would have.
func (b *Batch) choose(id uint32, sl *slot, guess bool) Verdict {
	if guess {
		b.astray = 0
	} else {
		b.astray++
	}
	sl.pin = b.store.pins.round()
	b.cur = current{slot: id, ttl: b.ttl}
	return OK
}

// Series makes the series with these labels the current one. labels are
// consecutive packed pairs, in any order; they are copied if they are kept. Any
// verdict but OK is about the whole series: its samples are refused with it. OK
// is not the last word: a series that the store does not know is checked in
// Prepare.
//
// Malformed says that the bytes are not in packed form, which need not be the
// sender's fault: protobuf has several encodings of one label. Rebuild them with
// AppendPair and call again.
func (b *Batch) Series(labels []byte) Verdict { return b.series(labels, false) }

// SeriesInPlace is Series for labels that the caller leaves unchanged until
// Commit, such as those in the body of a request: they are not copied.
func (b *Batch) SeriesInPlace(labels []byte) Verdict { return b.series(labels, true) }

func (b *Batch) series(labels []byte, stay bool) Verdict {
	b.read()
	s := b.store
	for _, id := range b.candidates() {
		if !b.exists(id) {
			continue
		}
		if sl := b.slot(id); sl.flags&inUse != 0 && b.hasLabels(sl, labels) {
			return b.choose(id, sl, true)
		}
	}
	hash, canonical, ok := s.dict.hashLabels(labels)
	if !ok {
		b.cur = current{slot: noSlot, verdict: Malformed}
		return Malformed
	}
	if len(labels) > b.maxSent() {
		return b.tooLong(labels, len(labels))
	}
	if canonical && !b.terms.rewrites() {
		return b.find(hash, labels, stay)
	}
	return b.rearranged(labels)
}

// maxSent bounds the labels of one series as they are sent, empty ones included,
// so that what is done with them is bounded too.
func (b *Batch) maxSent() int {
	if b.recorded != nil {
		return 4 * maxPair
	}
	return 4 * b.store.opts.Limits.SeriesBytes
}

func (b *Batch) tooLong(labels []byte, n int) Verdict {
	return b.refuseSeries(SeriesTooLong, labels, fmt.Sprintf("labels of %d bytes, the limit is %d: --limits.series-bytes", n, b.store.opts.Limits.SeriesBytes))
}

// hasLabels is Store.hasLabels with the help of the series before. It goes
// backwards: pairs at the end that are the same as there are compared at once, the
// others one by one.
func (b *Batch) hasLabels(sl *slot, labels []byte) bool {
	s, l := b.store, &b.last
	first, others, ok := b.asSent(sl)
	if !ok {
		return false
	}
	n, m := len(others), len(l.others)
	if n > maxTail {
		return s.hasPairs(first, others, labels)
	}
	same := 0
	if n > 0 && n == m && &others[0] == &l.others[0] {
		same = n
	}
	for same < n && same < m && others[n-1-same] == l.others[m-1-same] {
		same++
	}
	if first == l.first && same == n && same == m {
		return string(labels) == string(l.labels)
	}
	size := int(l.tail[same]) // of the same pairs
	if size > len(labels) || string(labels[len(labels)-size:]) != string(l.labels[len(l.labels)-size:]) {
		return false
	}
	rest := labels[:len(labels)-size]
	for i := n - 1 - same; i >= 0; i-- {
		p := s.dict.bytes(others[i])
		if len(rest) < len(p) || string(rest[len(rest)-len(p):]) != string(p) {
			l.first, l.others = noPair, l.others[m-same:] // what of tail is still right
			return false
		}
		rest = rest[:len(rest)-len(p)]
		l.tail[n-i] = uint32(len(labels) - len(rest))
	}
	if string(rest) != string(s.dict.bytes(first)) {
		l.first, l.others = noPair, l.others[m-same:]
		return false
	}
	l.labels, l.first, l.others = append(l.labels[:0], labels...), first, others
	b.unforced[0], b.unforced[1] = b.unforced[1], b.unforced[0] // what l.others may lie in
	return true
}

// find looks a canonical set up by its hash, at once or, in a request that keeps
// no known order, together with others. stay is whether the caller's labels do.
func (b *Batch) find(hash uint64, labels []byte, stay bool) Verdict {
	s := b.store
	prev := b.cur.slot
	if b.astray <= maxAstray {
		if id, ok := s.findSeries(hash, labels); ok {
			agrees := prev != noSlot && follows(b.slot(prev).followers(prev), id)
			return b.choose(id, b.slot(id), agrees)
		}
	}
	b.astray++
	if !stay {
		from := len(b.labels)
		if from+len(labels) > maxFreshBytes {
			return b.refuseSeries(MemoryLimit, labels, fmt.Sprintf("one request may bring new series with labels of %d bytes together: send smaller ones", maxFreshBytes))
		}
		b.labels = append(b.labels, labels...) // where it grows, what is cut from the old stays
		labels = b.labels[from:]
	}
	b.cur = current{slot: noSlot, ttl: b.ttl, fresh: uint32(len(b.fresh))}
	b.fresh = append(b.fresh, fresh{hash: hash, labels: labels, slot: noSlot})
	b.seek(len(b.fresh) - 1)
	return OK
}

// rearranged is Series for labels that are unsorted, empty or special, or not all
// of the series' labels.
func (b *Batch) rearranged(labels []byte) Verdict {
	cur := b.cur
	b.cur = current{slot: noSlot}
	var ttl, duplicate string
	var said forcedSaid
	if b.replica == "" && b.terms.Pair != "" {
		b.replica, _ = LabelValue(labels, b.terms.Dropped)
		b.pairName, _ = LabelValue(labels, b.terms.Pair)
	}
	b.scratch, ttl, duplicate, said = normalize(b.scratch[:0], labels, &b.terms)
	b.verbatim = said == saidAll
	if said == saidOther {
		b.res.Overridden++
	}
	if duplicate != "" {
		return b.refuseSeries(DuplicateLabel, b.scratch, fmt.Sprintf("label %.40q appears twice", duplicate))
	}
	own := b.ttl
	if ttl != "" {
		asked, err := ParseTTL(ttl)
		if err != nil {
			return b.refuseSeries(TTLInvalid, b.scratch, "label "+ttlLabel+": "+err.Error())
		}
		granted, _ := asked.clamp(b.minTTL, b.maxTTL)
		own = packTTL(granted)
	}
	hash, _, _ := b.store.dict.hashLabels(b.scratch)
	b.cur.slot = cur.slot // for the prediction
	v := b.find(hash, b.scratch, false)
	b.cur.ttl = own
	return v
}

func (b *Batch) refuseSeries(r Reason, labels []byte, detail string) Verdict {
	b.cur.verdict = r
	b.note(r, labels, detail)
	return r
}

// note remembers the first culprit.
func (b *Batch) note(r Reason, labels []byte, detail string) {
	if b.res.First == nil {
		b.res.First = &Rejection{Reason: r, Series: FormatLabels(labels), Detail: detail}
	}
}

// Symbols sets the symbol table that SeriesRefs refers to. It belongs to the
// caller, who leaves it unchanged until Commit.
func (b *Batch) Symbols(symbols [][]byte) {
	b.symbols = append(b.symbols[:0], symbols...)
	b.forgetPairs()
	// Twice as many places as symbols: most symbols are the value of one name.
	want := min(max(1<<bits.Len(uint(2*len(symbols))), minPairCache), maxPairCache)
	if len(b.pairs) < want {
		b.pairs = make([]symbolPair, want)
	}
}

func (b *Batch) forgetPairs() {
	if b.turns++; b.turns == 0 {
		clear(b.pairs)
		b.turns = 1
	}
}

const minPairCache, maxPairCache = 1 << 10, 1 << 16

// SeriesRefs is Series for labels as pairs of indices into the symbol table,
// name then value. The caller has checked that all are in range and that they
// are even in number.
func (b *Batch) SeriesRefs(refs []uint32) Verdict {
	b.read()
	candidates := b.candidates()
	first, others := noPair, []pairID(nil)
	if id := candidates[0]; b.exists(id) {
		if sl := b.slot(id); sl.flags&inUse != 0 {
			first, others, _ = b.asSent(sl)
		}
	}
	if b.interned(refs, first, others) {
		for _, id := range candidates {
			if !b.exists(id) {
				continue
			}
			sl := b.slot(id)
			if sl.flags&inUse == 0 {
				continue
			}
			first, others, ok := b.asSent(sl)
			if ok && len(b.ids) > 0 && first == b.ids[0] && slices.Equal(others, b.ids[1:]) {
				return b.choose(id, sl, true)
			}
		}
	}
	size := 0
	for _, ref := range refs {
		size += len(b.symbols[ref])
	}
	if size > b.maxSent() {
		b.cur = current{slot: noSlot}
		return b.tooLong(nil, size)
	}
	packed := b.packed(refs)
	hash, canonical, ok := b.store.dict.hashLabels(packed)
	if !ok {
		b.cur = current{slot: noSlot}
		return b.refuseSeries(LabelValueTooLong, nil, beyondLimits)
	}
	if canonical && !b.terms.rewrites() {
		return b.find(hash, packed, false)
	}
	b.spare = append(b.spare[:0], packed...)
	return b.rearranged(b.spare)
}

// packed writes the labels under refs in packed form, into scratch.
func (b *Batch) packed(refs []uint32) []byte {
	p := b.scratch[:0]
	for i := 0; i+1 < len(refs); i += 2 {
		p = AppendPair(p, b.symbols[refs[i]], b.symbols[refs[i+1]])
	}
	b.scratch = p
	return p
}

// interned translates refs to b.ids, and reports whether the dictionary has them
// all. first and others are what they may well be: comparing costs one miss of the cache,
// looking up several. Most of a series' pairs, at the end, are those of the series
// before, and a request uses the same pairs again and again: what was found is kept
// in a table where each pair of symbols has one place.
func (b *Batch) interned(refs []uint32, first pairID, others []pairID) bool {
	d := b.store.dict
	n := len(refs) / 2
	known := 0 // pairs at the end, as before
	if len(b.ids) == n && b.idsTurn == b.turns && len(b.idsOf) == len(refs) {
		for i := len(refs); i >= 2 && refs[i-1] == b.idsOf[i-1] && refs[i-2] == b.idsOf[i-2]; i -= 2 {
			known++
		}
		copy(b.idsOf, refs[:2*(n-known)])
	} else {
		b.idsOf = append(b.idsOf[:0], refs...)
		b.ids = slices.Grow(b.ids[:0], n)[:n]
	}
	ids := b.ids
	b.ids = b.ids[:0] // until they are all there
	fresh := 0
	mask := uint32(len(b.pairs) - 1)
	for k := range ids[:n-known] {
		name, value := refs[2*k], refs[2*k+1]
		c := &b.pairs[(value+name*0x9e3779b1)&mask]
		if c.value != value || c.name != name || c.turn != b.turns {
			if fresh += len(b.symbols[name]) + len(b.symbols[value]); fresh > b.store.opts.Limits.SeriesBytes {
				return false // no known series is that long
			}
			b.scratch = AppendPair(b.scratch[:0], b.symbols[name], b.symbols[value])
			id, ok := first, false
			if k > 0 && k <= len(others) {
				id = others[k-1]
			}
			if id != noPair && k <= len(others) {
				ok = string(d.bytes(id)) == string(b.scratch)
			}
			if !ok {
				if id, ok = d.lookup(d.hashPair(b.scratch), b.scratch); !ok {
					return false
				}
			}
			*c = symbolPair{name: name, value: value, turn: b.turns, id: id}
		}
		ids[k] = c.id
	}
	b.ids, b.idsTurn = ids, b.turns
	return true
}

// next numbers an item, and reports whether it was refused when it was recorded.
func (b *Batch) next() (refused bool) {
	n := b.items
	b.items++
	if r := b.recorded; r != nil {
		_, refused = slices.BinarySearch(r.Refused, n)
	}
	return refused
}

// judge is the verdict on a sample of the current series by its time.
func (b *Batch) judge(t int64) Verdict {
	if b.next() {
		return b.refused(b.cur.verdict)
	}
	if b.recorded != nil && b.cur.verdict == OK {
		return OK
	}
	if b.cur.verdict != OK {
		return b.refused(b.cur.verdict)
	}
	if ahead := t - b.received; t > b.received && (ahead < 0 || ahead > b.store.opts.FutureTolerance.Milliseconds()) {
		b.note(TooFarInFuture, b.currentLabels(), fmt.Sprintf("its time %d ms is %s ahead of the relay's clock, the limit is %s: --series.future-tolerance",
			t, aheadOf(ahead), b.store.opts.FutureTolerance))
		b.seen(t)
		return b.refused(TooFarInFuture)
	}
	return OK
}

// aheadOf prints a difference of times that may not fit a duration.
func aheadOf(ms int64) time.Duration {
	if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return (time.Duration(ms) * time.Millisecond).Round(time.Second)
}

const beyondLimits = "a label is longer than any limit allows: --limits.label-value-bytes"

// refused refuses the item that next has numbered.
func (b *Batch) refused(r Reason) Verdict {
	switch {
	case b.recorded != nil:
		if r == OK {
			r = Malformed // why is not recorded
		}
	case r == Malformed:
		// Labels that were rebuilt are in packed form, unless one is so long that there
		// is none for it. Series cannot say so: it is called again.
		r = LabelValueTooLong
		b.note(r, nil, beyondLimits)
	}
	b.res.Rejected[r]++
	b.refusals = append(b.refusals, b.items-1)
	if b.cur.slot == noSlot && b.cur.verdict == OK {
		b.fresh[b.cur.fresh].judged = true
	}
	return r
}

// tooOld is the gate for samples that arrive too late to pass for the present.
func (b *Batch) tooOld(t int64) bool {
	s := b.store
	window := min(int64(b.cur.ttl.ttl()), s.opts.Lookback.Milliseconds())
	return t < b.received-window-s.lag
}

// Float adds a float sample to the current series: its time in ms, its value
// (all bits count), its start time in ms or 0.
func (b *Batch) Float(t int64, v float64, start int64) Verdict {
	if r := b.judge(t); r != OK {
		return r
	}
	b.res.Samples++
	more := uint32(0)
	if start != 0 {
		b.more = append(b.more, addition{start: start})
		more = uint32(len(b.more))
	}
	b.add(entry{bits: math.Float64bits(v), t: t, more: more})
	return OK
}

// Histogram adds a native histogram to the current series. The store keeps h.
func (b *Batch) Histogram(t int64, h *Histogram, start int64) Verdict {
	if r := b.judge(t); r != OK {
		return r
	}
	if err := h.Validate(); err != nil { // in a replay too: what is shown relies on it
		b.note(HistogramInvalid, b.currentLabels(), "native histogram: "+err.Error())
		return b.refused(HistogramInvalid)
	}
	if b.recorded == nil && h.weight() > b.store.opts.Limits.HistogramBuckets {
		b.note(HistogramBuckets, b.currentLabels(), fmt.Sprintf("a native histogram of %d buckets, bounds or spans, the limit is %d: --limits.histogram-buckets", h.weight(), b.store.opts.Limits.HistogramBuckets))
		return b.refused(HistogramBuckets)
	}
	h.trim()
	b.res.Histograms++
	bits := uint64(staleBits)
	if !h.IsStale() {
		bits = h.fingerprint()
	}
	b.more = append(b.more, addition{histogram: h, start: start})
	b.add(entry{bits: bits, t: t, more: uint32(len(b.more))})
	return OK
}

// Exemplar adds an exemplar to the current series. Its labels are copied.
func (b *Batch) Exemplar(e Exemplar) Verdict {
	if b.next() || b.cur.verdict != OK {
		return b.refused(b.cur.verdict)
	}
	if detail := checkExemplar(e.Labels); detail != "" {
		b.note(ExemplarInvalid, b.currentLabels(), "exemplar: "+detail)
		return b.refused(ExemplarInvalid)
	}
	b.res.Exemplars++
	e.Labels = append([]byte(nil), e.Labels...)
	b.more = append(b.more, addition{exemplar: e})
	b.add(entry{kind: isExemplar, t: e.Time, more: uint32(len(b.more))})
	return OK
}

func (b *Batch) add(e entry) {
	e.ttl = b.cur.ttl
	b.longest = max(b.longest, e.ttl.ttl())
	if b.cur.slot != noSlot {
		e.slot = b.cur.slot
	} else {
		e.slot = b.cur.fresh
		e.kind |= isFresh
		b.fresh[e.slot].entries++
	}
	b.cur.samples++
	b.entries = append(b.entries, e)
}

// Refuse counts n samples that the caller could not even add, for one reason.
func (b *Batch) Refuse(r Reason, n int, series, detail string) {
	b.res.Rejected[r] += n
	if b.res.First == nil {
		b.res.First = &Rejection{Reason: r, Series: series, Detail: detail}
	}
}

// Metadata records what the sender says of a family; a type that there is not is none.
// family is copied.
func (b *Batch) Metadata(family []byte, t MetricType, help, unit []byte) {
	if t > Stateset {
		t = Unknown
	}
	if len(family) == 0 || len(family) > b.store.opts.Limits.LabelValueBytes || b.store.metadata.unchanged(b.edge, family, t, help, unit) {
		return
	}
	b.md = append(b.md, declared{append([]byte(nil), family...), Metadata{Type: t, Help: cut(help), Unit: cut(unit)}})
}

// SeriesMetadata records what the sender says of the family of a metric, named
// by one of its series: foo_bucket speaks of the histogram foo.
func (b *Batch) SeriesMetadata(name []byte, t MetricType, help, unit []byte) {
	family := name
	if t == HistogramType || t == GaugeHistogram || t == Summary {
		base := baseName(string(name))
		if _, ok := partOf(base, string(name), t); ok {
			family = []byte(base)
		}
	}
	b.Metadata(family, t, help, unit)
}

// currentLabels are the labels of the current series, for a message.
func (b *Batch) currentLabels() []byte {
	if b.cur.slot == noSlot {
		return b.fresh[b.cur.fresh].labels
	}
	return b.store.packedLabels(b.slot(b.cur.slot))
}

func (s *Store) packedLabels(sl *slot) []byte {
	var p []byte
	p = append(p, s.dict.bytes(sl.first)...)
	for _, id := range s.others(sl) {
		p = append(p, s.dict.bytes(id)...)
	}
	return p
}

// Pause lets go of the store, so that the goroutine may wait for something. More may be
// added afterwards.
func (b *Batch) Pause() {
	b.seekAll() // under the lock that is held while anything is sought
	b.letGo()
}

// Prepare settles what will be accepted: it finds the series that were not
// predicted, checks and creates the new ones, or refuses them. After it the
// result's refusals are final, and the batch holds no lock, so that a journal
// can be asked. The result is the batch's own.
func (b *Batch) Prepare() *Result {
	if b.prepared {
		return &b.res
	}
	b.prepared = true
	b.Pause()
	b.create()
	full := b.store.full.Load() && b.recorded == nil
	for i := range b.entries {
		e := &b.entries[i]
		verdict := OK
		if e.kind&isFresh != 0 {
			if f := &b.fresh[e.slot]; f.verdict == OK {
				e.slot = f.slot
			} else {
				verdict = f.verdict
			}
		}
		if full && verdict == OK && e.more != 0 {
			if h := b.more[e.more-1].histogram; h != nil && b.store.grows(e.slot, h) {
				verdict = MemoryLimit
				b.read()
				b.note(verdict, b.store.packedLabels(b.slot(e.slot)), "the relay has no memory left for a larger native histogram: --limits.memory")
				b.letGo()
			}
		}
		if verdict == OK {
			continue
		}
		e.kind |= isMissing
		b.res.Rejected[verdict]++
		switch {
		case e.kind&isExemplar != 0:
			b.res.Exemplars--
		case e.more != 0 && b.more[e.more-1].histogram != nil:
			b.res.Histograms--
		default:
			b.res.Samples--
		}
	}
	return &b.res
}

// Decision is what to record of a prepared batch, so that a replay of its request
// has the same result. It is valid until Release.
func (b *Batch) Decision() Decision {
	d := Decision{TTL: b.ttl.ttl(), MinTTL: b.minTTL, MaxTTL: b.maxTTL}
	missing := slices.ContainsFunc(b.entries, func(e entry) bool { return e.kind&isMissing != 0 })
	if !missing {
		d.Refused = b.refusals
		return d
	}
	// Entries are the items that were not refused at once, in their order.
	at := 0
	for item, next := uint32(0), 0; item < b.items; item++ {
		if next < len(b.refusals) && b.refusals[next] == item {
			next++
			d.Refused = append(d.Refused, item)
			continue
		}
		if b.entries[at].kind&isMissing != 0 {
			d.Refused = append(d.Refused, item)
		}
		at++
	}
	return d
}

// Replica is what the first series that has the label Terms.Dropped says of the
// pair and the replica that it is from; "" where none does.
func (b *Batch) Replica() (pair, replica string) { return b.pairName, b.replica }

// Span is from when to when the batch's accepted samples are, in ms of their own
// times, and whether one of them is a value, not a stale marker; zero without
// samples.
func (b *Batch) Span() (oldest, newest int64, live bool) {
	first := true
	for i := range b.entries {
		e := &b.entries[i]
		if e.kind&(isExemplar|isMissing) != 0 {
			continue
		}
		if first {
			oldest, newest, first = e.t, e.t, false
		}
		oldest, newest = min(oldest, e.t), max(newest, e.t)
		live = live || e.bits != staleBits
	}
	return oldest, newest, live
}

// Tally is what was added so far, for a batch that is not to be committed.
func (b *Batch) Tally() Result { return b.res }

// Len is how many samples, histograms and exemplars were added, refused ones
// included.
func (b *Batch) Len() int { return int(b.items) }

// Accepted reports whether a prepared batch changes anything.
func (b *Batch) Accepted() bool {
	return b.res.Samples+b.res.Histograms+b.res.Exemplars+len(b.md) > 0
}

// Series in no order are found in steps, each of which only asks for the memory that
// the next one reads. Between the steps of one series others take theirs, so that the
// processor has something to do while memory answers, and asks for many at a time.
const (
	seekSteps = 5
	seekApart = 4 // series between two steps of one

	maxSearches = 32 // a power of two, over seekSteps*seekApart
)

// A search is how far a series has got that is being looked up.
type search struct {
	slot   *slot // nil: nothing under the hash
	guess  uint32
	others []pairID // of it
}

// seek takes a step of each search: the series of that number, of fresh, has been
// added, or would have been.
func (b *Batch) seek(n int) {
	s, a := b.store, &b.ahead
	if n < len(b.fresh) {
		h := b.fresh[n].hash
		s.shardOf(h).ahead(a, uint32(h))
	}
	if i := n - seekApart; i >= b.sought && i < len(b.fresh) {
		at, h := b.search(i), b.fresh[i].hash
		*at = search{guess: s.shardOf(h).first(uint32(h))}
		if at.guess != noSlot {
			at.slot = s.slotAt(at.guess)
			a.slot(at.slot, s.blocks[at.guess>>blockBits])
		}
	}
	if i := n - 2*seekApart; i >= b.sought && i < len(b.fresh) {
		if at := b.search(i); at.slot != nil {
			at.others = s.others(at.slot)
			if n := len(at.others); n > 0 {
				a.read(unsafe.Pointer(&at.others[0]))
				a.read(unsafe.Pointer(&at.others[n-1]))
			}
		}
	}
	if i := n - 3*seekApart; i >= b.sought && i < len(b.fresh) {
		before := b.search(i - 1).others
		for k, id := range b.search(i).others {
			if k >= len(before) || before[k] != id {
				a.read(unsafe.Pointer(&s.dict.pairs.list[id]))
			}
		}
	}
	if i := n - 4*seekApart; i >= b.sought && i < len(b.fresh) {
		before := b.search(i - 1).others
		for k, id := range b.search(i).others {
			if k >= len(before) || before[k] != id {
				p := s.dict.bytes(id)
				a.read(unsafe.Pointer(&p[0]))
				a.read(unsafe.Pointer(&p[len(p)-1]))
			}
		}
	}
	a.fetch()
	if i := n - seekSteps*seekApart; i >= b.sought {
		b.sought = i + 1
		f, at := &b.fresh[i], b.search(i)
		if at.slot == nil {
			return
		}
		if s.hasLabels(at.slot, f.labels) {
			f.slot = at.guess
		} else if id, ok := s.findSeries(f.hash, f.labels); ok {
			f.slot = id
		}
		if f.slot == noSlot {
			return
		}
		sl := b.slot(f.slot)
		sl.pin = b.store.pins.round()
		if follows(b.expected, f.slot) {
			b.astray = 0
		}
		b.expected = sl.followers(f.slot)
	}
}

// search is the place of a series of fresh among those that are being looked up.
func (b *Batch) search(i int) *search { return &b.searches[i&(maxSearches-1)] }

// seekAll ends what seek has begun, before the lock is let go: what was found so far
// may be something else then.
func (b *Batch) seekAll() {
	if b.sought == len(b.fresh) {
		return
	}
	for n := len(b.fresh); b.sought < len(b.fresh); n++ {
		b.seek(n)
	}
	clear(b.searches[:])
}

// createTurn is how many series one turn of the structure lock creates.
const createTurn = 128

// create makes what lookup did not find, or says why not.
func (b *Batch) create() {
	s := b.store
	held := 0
	for i := range b.fresh {
		f := &b.fresh[i]
		if f.slot != noSlot || !b.check(f) || f.entries == 0 {
			continue
		}
		if held == 0 {
			s.structure.Lock()
		}
		b.createOne(f)
		if held++; held == createTurn {
			s.structure.Unlock()
			held = 0
		}
	}
	if held > 0 {
		s.structure.Unlock()
	}
	s.totals.created.Add(uint64(b.res.NewSeries))
}

// check validates a series at first sight.
func (b *Batch) check(f *fresh) bool {
	labels := f.labels
	if b.recorded != nil && f.entries > 0 && hasName(labels) {
		return true
	}
	reason, detail := b.store.opts.validate(labels)
	if n := b.terms.MaxLabels; reason == OK && n > 0 && countPairs(labels) > n {
		reason, detail = TooManyLabels, fmt.Sprintf("%d labels, the limit of this edge is %d: limits.labels in --edges.file", countPairs(labels), n)
	}
	if reason == OK {
		return true
	}
	f.verdict = reason
	b.note(reason, labels, detail)
	if f.entries == 0 && !f.judged {
		b.res.Rejected[reason]++
	}
	return false
}

// createOne creates a series unless another request has just done so, or there
// is no room. Under structure, for writing.
func (b *Batch) createOne(f *fresh) {
	s := b.store
	labels := f.labels
	if id, ok := s.findSeries(f.hash, labels); ok {
		f.slot = id
		_, sl := s.slot(id)
		sl.pin = s.pins.round()
		return
	}
	switch {
	case b.recorded != nil: // limits were applied when it was taken
		f.slot, b.ids = s.create(f.hash, labels, b.owner, b.ids)
		b.res.NewSeries++
	case b.terms.MaxSeries > 0 && s.owners[b.edge].count.Load()+s.owners[b.edge].grouped.Load() >= int64(b.terms.MaxSeries):
		f.verdict = EdgeSeriesLimit
		b.note(f.verdict, labels, fmt.Sprintf("edge %s holds %d series, its limit: limits.series in --edges.file", s.owners[b.edge].name, b.terms.MaxSeries))
	case s.held >= s.opts.Limits.Series:
		f.verdict = SeriesLimit
		b.note(f.verdict, labels, fmt.Sprintf("the relay holds %d series, its limit: --limits.series", s.opts.Limits.Series))
	case s.full.Load():
		f.verdict = MemoryLimit
		b.note(f.verdict, labels, "the relay has no memory left for new series: --limits.memory")
	default:
		f.slot, b.ids = s.create(f.hash, labels, b.owner, b.ids)
		b.res.NewSeries++
	}
}

// Commit applies the batch: when it returns, every scan that starts shows what
// was accepted, or something newer.
func (b *Batch) Commit() Result {
	b.Prepare()
	b.glance()
	s := b.store
	for i := range b.entries {
		b.read()
		if i == 0 {
			b.touch(0)
		}
		if i%applyTurn == 0 {
			b.touch(i + applyTurn)
		}
		b.apply(i)
	}
	b.letGo()
	if b.group != nil && !b.crowded {
		s.pushedBy(b.owner, b.edge)
		b.endGroup()
	}
	if s.full.Load() && b.recorded == nil {
		return b.res // metadata is not kept
	}
	for i := range b.md {
		s.metadata.put(b.edge, b.md[i].family, b.md[i].md)
	}
	return b.res
}

// applyTurn is how many slots are asked for while as many are written.
const applyTurn = 16

// touch asks for the slots of a turn of entries. Under structure.
func (b *Batch) touch(from int) {
	s, a := b.store, &b.ahead
	for i := from; i < min(from+applyTurn, len(b.entries)); i++ {
		if e := &b.entries[i]; e.kind&isMissing == 0 {
			a.slot(s.slotAt(e.slot), s.blocks[e.slot>>blockBits])
		}
	}
	a.fetch()
}

func (b *Batch) apply(i int) {
	s := b.store
	e := &b.entries[i]
	if e.kind&isMissing != 0 {
		return
	}
	sl := b.slot(e.slot)
	if i+1 < len(b.entries) {
		if n := &b.entries[i+1]; n.kind&isMissing == 0 && n.slot != e.slot && sl.next != n.slot {
			// One stray does not unlearn an order: two senders may take turns.
			if sl.next == noSlot || sl.flags&strayed != 0 {
				sl.next = n.slot
				sl.flags &^= strayed
			} else {
				sl.flags |= strayed
			}
		} else {
			sl.flags &^= strayed
		}
	}
	if e.kind&isExemplar != 0 {
		if s.full.Load() {
			return // taken, and not kept
		}
		s.addExemplar(e.slot, sl, b.more[e.more-1].exemplar)
		return
	}
	ttl := e.ttl.ttl()
	b.cur.ttl = e.ttl
	if b.group != nil {
		a := sample{bits: e.bits, t: e.t, received: b.received, ttl: e.ttl, deadline: deadline(e.t, b.received, b.mono, ttl, s.lag)}
		sl.overwrite(&a)
		if sl.owner != b.owner {
			b.take(e.slot, sl)
		}
		if e.more != 0 || sl.flags&extended != 0 {
			s.setExtra(e.slot, sl, e, b.more)
		}
		b.res.Stored++
		return
	}
	if e.bits != staleBits && b.tooOld(e.t) {
		b.res.ExpiredOnArrival++
		return
	}
	a := sample{bits: e.bits, t: e.t, received: b.received, ttl: e.ttl, deadline: deadline(e.t, b.received, b.mono, ttl, s.lag)}
	wasLive := sl.live(b.mono)
	if !sl.apply(&a, b.mono, s.lag) { // as it was when it was taken, in a replay too
		b.res.Superseded++
		return
	}
	if sl.owner != b.owner {
		b.take(e.slot, sl)
	}
	if e.more != 0 || sl.flags&extended != 0 {
		s.setExtra(e.slot, sl, e, b.more)
	}
	if e.bits == staleBits {
		b.res.Ended++
		if wasLive {
			s.totals.ended.Add(1)
		}
		return
	}
	b.res.Stored++
}

// take makes the batch's edge the owner of a slot.
func (b *Batch) take(id uint32, sl *slot) {
	s := b.store
	if sl.flags&sampled != 0 {
		s.totals.owners.Add(1)
		b.contested(sl)
	}
	s.own(sl.owner, -1)
	sl.owner = b.owner
	s.own(b.owner, 1)
	o := s.owners[b.owner]
	o.mu.Lock()
	o.list = append(o.list, id)
	o.mu.Unlock()
}

// grows reports whether a histogram takes more memory than what its series holds.
func (s *Store) grows(id uint32, h *Histogram) bool {
	s.extrasMu.Lock()
	defer s.extrasMu.Unlock()
	held := 0
	if x := s.extras[id]; x != nil && x.histogram != nil {
		held = x.histogram.weight()
	}
	return h.weight() > held
}

// setExtra puts what a sample has besides a float, and drops what the last one had.
func (s *Store) setExtra(id uint32, sl *slot, e *entry, more []addition) {
	s.extrasMu.Lock()
	defer s.extrasMu.Unlock()
	x := extra{}
	if old := s.extras[id]; old != nil {
		x.exemplars = old.exemplars
	}
	if e.more != 0 {
		x.histogram, x.start = more[e.more-1].histogram, more[e.more-1].start
	}
	if x.histogram == nil && x.start == 0 && len(x.exemplars) == 0 {
		delete(s.extras, id)
		sl.flags &^= extended
		return
	}
	s.extras[id] = &x
	sl.flags |= extended
}

// addExemplar keeps the latest exemplars of a series, oldest first.
func (s *Store) addExemplar(id uint32, sl *slot, e Exemplar) {
	s.extrasMu.Lock()
	defer s.extrasMu.Unlock()
	x := extra{}
	if old := s.extras[id]; old != nil {
		x = *old
	}
	x.exemplars = insertExemplar(x.exemplars, e)
	s.extras[id] = &x
	sl.flags |= extended
}
