package series

import (
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"time"
)

// The state of a store is written in pieces, each of which can be loaded on its
// own, in any order, and more than once: loading merges, as samples do. A piece
// begins with what is in it.
const (
	seriesPiece   = 1 // a table of pairs, a table of edges, series that refer to both
	metadataPiece = 2
)

// pieceBytes is about the size of a piece.
const pieceBytes = 1 << 20

// Dump hands out what the store holds, hidden watermarks included, in pieces for
// [Store.Load]. A piece is valid during the call; an error ends the dump, which
// returns it. No lock is held during the calls. What is committed meanwhile may be
// in it or not; what was committed before is.
func (s *Store) Dump(piece func([]byte) error) error {
	d := dump{store: s}
	s.dumping(1)
	defer s.dumping(-1)
	for i := 0; ; i++ {
		s.structure.RLock()
		if i >= len(s.blocks) {
			s.structure.RUnlock()
			break
		}
		if b := s.blocks[i]; b != nil {
			d.block(i, b)
		}
		s.structure.RUnlock()
		runtime.Gosched()
		if len(d.body) > pieceBytes {
			if err := d.flush(piece); err != nil {
				return err
			}
		}
	}
	if err := d.flush(piece); err != nil {
		return err
	}
	return s.dumpMetadata(piece)
}

func (s *Store) dumping(n int) {
	s.structure.Lock()
	defer s.structure.Unlock()
	s.dumps += n
}

type dump struct {
	store *Store
	slots [blockLen]slot
	freed uint64

	pairs     map[pairID]uint64
	written   uint64 // pairs in the piece
	pairBytes []byte
	ids       []pairID
	edges     map[uint32]uint64
	named     uint64 // edges in the piece
	edgeBytes []byte
	n         uint64
	body      []byte
	out       []byte
}

// block adds the series of one block. Under structure.
func (d *dump) block(at int, b *block) {
	s := d.store
	if d.freed != s.freed { // ids may mean other pairs now; the bytes written stay right
		d.freed = s.freed
		clear(d.pairs)
		clear(d.edges)
	}
	b.mu.Lock()
	d.slots = *b.slots
	b.mu.Unlock()
	for i := range d.slots {
		sl := &d.slots[i]
		if sl.flags&(inUse|sampled) != inUse|sampled {
			continue
		}
		d.body = append(d.body, sl.n)
		d.ids = s.ids(sl, d.ids)
		for _, id := range d.ids {
			d.body = binary.AppendUvarint(d.body, d.pair(id))
		}
		d.body = binary.AppendUvarint(d.body, d.edge(sl.owner))
		d.body = binary.LittleEndian.AppendUint64(d.body, sl.bits)
		d.body = binary.AppendVarint(d.body, sl.t)
		d.body = binary.AppendVarint(d.body, int64(sl.skew))
		d.body = binary.AppendUvarint(d.body, uint64(sl.ttl))
		var x *extra
		if sl.flags&extended != 0 {
			s.extrasMu.Lock()
			x = s.extras[uint32(at<<blockBits|i)]
			s.extrasMu.Unlock()
		}
		d.body = appendExtra(d.body, x, sl.flags&deleted != 0)
		d.n++
	}
}

// pair is the number of a pair in the piece.
func (d *dump) pair(id pairID) uint64 {
	n, ok := d.pairs[id]
	if !ok {
		if d.pairs == nil {
			d.pairs = map[pairID]uint64{}
		}
		n = d.written
		d.written++
		d.pairs[id] = n
		d.pairBytes = append(d.pairBytes, d.store.dict.bytes(id)...)
	}
	return n
}

func (d *dump) edge(id uint32) uint64 {
	n, ok := d.edges[id]
	if !ok {
		if d.edges == nil {
			d.edges = map[uint32]uint64{}
		}
		n = d.named
		d.named++
		d.edges[id] = n
		name := d.store.dumpName(id)
		d.edgeBytes = binary.AppendUvarint(d.edgeBytes, uint64(len(name)))
		d.edgeBytes = append(d.edgeBytes, name...)
	}
	return n
}

func (d *dump) flush(piece func([]byte) error) error {
	if d.n == 0 {
		return nil
	}
	b := append(d.out[:0], seriesPiece)
	b = binary.AppendUvarint(b, uint64(len(d.pairBytes)))
	b = append(b, d.pairBytes...)
	b = binary.AppendUvarint(b, uint64(len(d.edgeBytes)))
	b = append(b, d.edgeBytes...)
	b = binary.AppendUvarint(b, d.n)
	b = append(b, d.body...)
	d.out, d.n, d.written, d.named = b, 0, 0, 0
	clear(d.pairs)
	clear(d.edges)
	d.pairBytes, d.edgeBytes, d.body = d.pairBytes[:0], d.edgeBytes[:0], d.body[:0]
	return piece(b)
}

// What of an extra follows.
const (
	hasStart = 1 << iota
	hasHistogram
	hasExemplars
	isDeleted
)

func appendExtra(b []byte, x *extra, gone bool) []byte {
	what := byte(0)
	if gone {
		what |= isDeleted
	}
	if x == nil {
		return append(b, what)
	}
	if x.start != 0 {
		what |= hasStart
	}
	if x.histogram != nil {
		what |= hasHistogram
	}
	if len(x.exemplars) > 0 {
		what |= hasExemplars
	}
	b = append(b, what)
	if x.start != 0 {
		b = binary.AppendVarint(b, x.start)
	}
	if x.histogram != nil {
		b = x.histogram.append(b)
	}
	if len(x.exemplars) > 0 {
		b = append(b, byte(len(x.exemplars)))
		for _, e := range x.exemplars {
			b = appendBytes(b, e.Labels)
			b = appendFloat64(b, e.Value)
			b = binary.AppendVarint(b, e.Time)
		}
	}
	return b
}

func appendBytes[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendFloat64(b []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}

func appendFloats(b []byte, list []float64) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, v := range list {
		b = appendFloat64(b, v)
	}
	return b
}

// append writes the histogram in the form of a state piece.
func (h *Histogram) append(b []byte) []byte {
	b = binary.AppendVarint(b, int64(h.Schema))
	b = append(b, h.ResetHint)
	if h.Float {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, v := range []float64{h.ZeroThreshold, h.Sum, h.CountFloat, h.ZeroCountFloat} {
		b = appendFloat64(b, v)
	}
	b = binary.AppendUvarint(b, h.Count)
	b = binary.AppendUvarint(b, h.ZeroCount)
	for _, spans := range [][]Span{h.PositiveSpans, h.NegativeSpans} {
		b = binary.AppendUvarint(b, uint64(len(spans)))
		for _, s := range spans {
			b = binary.AppendVarint(b, int64(s.Offset))
			b = binary.AppendUvarint(b, uint64(s.Length))
		}
	}
	for _, deltas := range [][]int64{h.PositiveDeltas, h.NegativeDeltas} {
		b = binary.AppendUvarint(b, uint64(len(deltas)))
		for _, d := range deltas {
			b = binary.AppendVarint(b, d)
		}
	}
	b = appendFloats(b, h.PositiveCounts)
	b = appendFloats(b, h.NegativeCounts)
	return appendFloats(b, h.CustomValues)
}

// dumpMetadata writes what edges said of families.
func (s *Store) dumpMetadata(piece func([]byte) error) error {
	s.structure.RLock()
	names := make([]string, len(s.owners))
	for i, o := range s.owners {
		names[i] = o.name
	}
	s.structure.RUnlock()
	m := &s.metadata
	m.mu.RLock()
	families := make([]string, 0, len(m.families))
	for name := range m.families {
		families = append(families, name)
	}
	m.mu.RUnlock()
	b := []byte{metadataPiece}
	for _, family := range families {
		m.mu.RLock()
		for _, v := range m.families[family] {
			for edge := range v.edges.all {
				if int(edge) < len(names) && names[edge] != "" { // else it is being forgotten
					b = appendBytes(b, names[edge])
					b = appendBytes(b, family)
					b = append(b, byte(v.Type))
					b = appendBytes(b, v.Help)
					b = appendBytes(b, v.Unit)
				}
			}
		}
		m.mu.RUnlock()
		if len(b) > pieceBytes {
			if err := piece(b); err != nil {
				return err
			}
			b = b[:1]
		}
	}
	if len(b) == 1 {
		return nil
	}
	return piece(b)
}

var errPiece = errors.New("series: a piece of state is damaged or of another version")

// Load merges a piece of a [Store.Dump] into the store. now is the present, with
// its monotonic reading: what is left to live is what was left when the piece was
// made, less the wall time that has passed. A damaged piece gives an error;
// nothing of it, or a part, may have been loaded.
func (s *Store) Load(piece []byte, now time.Time) error {
	r := &reader{b: piece}
	switch r.byte() {
	case seriesPiece:
		return s.loadSeries(r, now)
	case metadataPiece:
		for len(r.b) > 0 && !r.bad {
			edge, family := r.bytes(), r.bytes()
			md := Metadata{Type: MetricType(r.byte())}
			md.Help, md.Unit = string(r.bytes()), string(r.bytes())
			if !r.bad && md.Type <= Stateset {
				s.metadata.put(s.owner(string(edge)), family, md)
			}
		}
		return r.err()
	}
	return errPiece
}

func (s *Store) loadSeries(r *reader, now time.Time) error {
	pairBytes, edgeBytes := r.bytes(), &reader{b: r.bytes()}
	var pairs [][]byte
	for i := 0; i < len(pairBytes); {
		_, _, size := scanPair(pairBytes[i:])
		if size == 0 {
			return errPiece
		}
		pairs = append(pairs, pairBytes[i:i+size])
		i += size
	}
	var owners []uint32
	for len(edgeBytes.b) > 0 && !edgeBytes.bad {
		id, pinned, ok := s.ownerNamed(string(edgeBytes.bytes()))
		if !ok {
			return errPiece
		}
		if pinned {
			defer s.unpin(id)
		}
		owners = append(owners, id)
	}
	mono, wall := s.mono(now), now.UnixMilli()
	var labels []byte
	var ids []pairID
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		labels = labels[:0]
		for range r.byte() {
			p := r.uvarint()
			if p >= uint64(len(pairs)) {
				return errPiece
			}
			labels = append(labels, pairs[p]...)
		}
		owner := r.uvarint()
		if owner >= uint64(len(owners)) || !hasName(labels) {
			return errPiece
		}
		a := sample{bits: r.uint64(), t: r.varint()}
		skew := r.varint()
		if int64(saturate32(skew)) != skew {
			return errPiece // no slot holds it
		}
		a.received = a.t - skew
		a.ttl = packedTTL(r.uvarint())
		x, gone := r.extra()
		if gone {
			a.ttl = max(a.ttl, 1) // with a lag tolerance of under a millisecond it was 0
		}
		hash, canonical, ok := s.dict.hashLabels(labels)
		if r.bad || !ok || !canonical || a.ttl.ttl() <= 0 {
			return errPiece
		}
		received := mono - max(0, wall-a.received)
		a.deadline = deadline(a.t, a.received, received, a.ttl.ttl(), s.lag)
		// What would be forgotten by now is not left out: of what follows in a journal it
		// superseded some. A sweep frees it.
		ids = s.loadOne(&a, x, gone, hash, labels, owners[owner], received, ids)
	}
	return r.err()
}

// loadOne merges one series, as of when its sample was received.
func (s *Store) loadOne(a *sample, x *extra, gone bool, hash uint64, labels []byte, owner uint32, mono int64, ids []pairID) []pairID {
	s.structure.Lock()
	defer s.structure.Unlock()
	id, ok := s.findSeries(hash, labels)
	if !ok {
		id, ids = s.create(hash, labels, owner, ids)
	}
	b, sl := s.slot(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !sl.apply(a, mono, s.lag) {
		return ids
	}
	if gone {
		sl.flags |= deleted
	}
	if sl.owner != owner {
		s.own(sl.owner, -1)
		sl.owner = owner
		s.own(owner, 1)
		s.owners[owner].list = append(s.owners[owner].list, id)
	}
	if o := s.owners[owner]; !gone {
		o.until = max(o.until, a.deadline)
	}
	if x != nil || sl.flags&extended != 0 {
		s.extrasMu.Lock()
		defer s.extrasMu.Unlock()
		if x == nil {
			delete(s.extras, id)
			sl.flags &^= extended
		} else {
			s.extras[id] = x
			sl.flags |= extended
		}
	}
	return ids
}

// A reader takes a piece apart; after an error it reads zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) err() error {
	if r.bad || len(r.b) > 0 {
		return errPiece
	}
	return nil
}

func (r *reader) fail() { r.bad, r.b = true, nil }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) float() float64 { return math.Float64frombits(r.uint64()) }

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// length reads how many elements of at least size bytes follow.
func (r *reader) length(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) floats() []float64 {
	n := r.length(8)
	if n == 0 {
		return nil
	}
	list := make([]float64, n)
	for i := range list {
		list[i] = r.float()
	}
	return list
}

func (r *reader) extra() (x *extra, gone bool) {
	what := r.byte()
	gone = what&isDeleted != 0
	if what&^isDeleted == 0 {
		return nil, gone
	}
	x = &extra{}
	if what&hasStart != 0 {
		x.start = r.varint()
	}
	if what&hasHistogram != 0 {
		h := r.histogram()
		if h.Validate() == nil {
			x.histogram = h
		} else {
			gone = true // an earlier version took what is refused now
		}
	}
	if what&hasExemplars != 0 {
		for range min(r.byte(), maxExemplars) {
			e := Exemplar{Labels: append([]byte(nil), r.bytes()...)}
			e.Value, e.Time = r.float(), r.varint()
			if checkExemplar(e.Labels) != "" {
				r.fail()
			}
			x.exemplars = append(x.exemplars, e)
		}
	}
	return x, gone
}

func (r *reader) histogram() *Histogram {
	h := &Histogram{Schema: int32(r.varint()), ResetHint: r.byte(), Float: r.byte() != 0}
	h.ZeroThreshold, h.Sum, h.CountFloat, h.ZeroCountFloat = r.float(), r.float(), r.float(), r.float()
	h.Count, h.ZeroCount = r.uvarint(), r.uvarint()
	for _, spans := range []*[]Span{&h.PositiveSpans, &h.NegativeSpans} {
		for range r.length(2) {
			*spans = append(*spans, Span{Offset: int32(r.varint()), Length: uint32(r.uvarint())})
		}
	}
	for _, deltas := range []*[]int64{&h.PositiveDeltas, &h.NegativeDeltas} {
		for range r.length(1) {
			*deltas = append(*deltas, r.varint())
		}
	}
	h.PositiveCounts, h.NegativeCounts, h.CustomValues = r.floats(), r.floats(), r.floats()
	return h
}
