package series

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math"

	"github.com/cespare/xxhash/v2"
)

// pairID names an interned label pair within one dict, until it is released.
type pairID uint32

const noPair = pairID(math.MaxUint32)

// A pair is one interned name="value" in packed form: where its bytes lie in the
// dict's arena. It holds no pointer, and is small: comparing series in no order
// touches pairs all over, and at eight bytes each those of a million series stay
// in a processor's second cache.
type pair struct {
	off uint32 // in the arena, in units of 1<<alignBits
	tag uint32 // size of the packed bytes << 8 | pairFlags
}

func (p pair) size() int        { return int(p.tag >> 8) }
func (p pair) flags() pairFlags { return pairFlags(p.tag) }

// A pairUse is what of a pair is not needed to compare or show it.
type pairUse struct {
	refs   uint32 // slots whose first it is, and places in runs of refsArena
	stable uint64 // unkeyed hash, the same in every process: see Query.Shard
}

type pairFlags uint8

const (
	pairPlain    pairFlags = 1 << iota // legacy label name, and a value without \\, " and newline
	pairName                           // __name__
	pairInstance                       // instance
	pairLe                             // le
	pairQuantile                       // quantile
)

const (
	chunkBits  = 21
	arenaChunk = 1 << chunkBits // slabBytes
	alignBits  = 2
	maxPair    = 1 << 19
)

// A dict interns label pairs.
// Changes need the store's structure lock; reads its read lock.
type dict struct {
	seed    maphash.Seed
	mem     *memory
	pairs   vector[pair]
	uses    vector[pairUse] // of the same index
	free    []pairID
	index   table
	chunks  [][]byte // the arena, in pieces of arenaChunk bytes
	tail    int      // bytes used of the last chunk
	live    int      // bytes of pairs with refs
	garbage int      // bytes of released pairs
}

func newDict(m *memory) *dict {
	return &dict{seed: maphash.MakeSeed(), mem: m, pairs: vector[pair]{mem: m}, uses: vector[pairUse]{mem: m}, index: table{mem: m}}
}

// AppendPair appends one label pair in the packed form in which the store
// interns pairs and takes label sets:
//
//	0x0a len 0x0a len(name) name 0x12 len(value) value
//
// with varint lengths. It is the form in which a remote-write request and the
// protobuf exposition hold a label, so that neither has to convert one.
func AppendPair[T string | []byte](dst []byte, name, value T) []byte {
	n := 2 + uvarintLen(len(name)) + len(name) + uvarintLen(len(value)) + len(value)
	dst = append(dst, 0x0a)
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = append(dst, 0x0a)
	dst = binary.AppendUvarint(dst, uint64(len(name)))
	dst = append(dst, name...)
	dst = append(dst, 0x12)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

func uvarintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

// splitPair returns the parts of a packed pair that AppendPair (or a walker that
// accepts only its form) has made. They alias p.
func splitPair(p []byte) (name, value []byte) {
	_, n := binary.Uvarint(p[1:])
	i := 1 + n + 1
	nl, n := binary.Uvarint(p[i:])
	i += n
	name = p[i : i+int(nl)]
	i += int(nl) + 1
	_, n = binary.Uvarint(p[i:])
	return name, p[i+n:]
}

// hashPair is the keyed hash of a packed pair.
func (d *dict) hashPair(p []byte) uint64 { return maphash.Bytes(d.seed, p) }

// bytes returns the packed form of an interned pair. It stays valid and
// unchanged while the caller holds the store's structure lock.
func (d *dict) bytes(id pairID) []byte {
	p := d.pairs.list[id]
	at := uint64(p.off) << alignBits
	i := at & (arenaChunk - 1)
	return d.chunks[at>>chunkBits][i : i+uint64(p.tag>>8)]
}

// lookup returns the id of a packed pair.
func (d *dict) lookup(hash uint64, p []byte) (pairID, bool) {
	id, ok := d.index.find(uint32(hash), func(id uint32) bool { return bytes.Equal(d.bytes(pairID(id)), p) })
	return pairID(id), ok
}

// intern returns the id of a packed pair of at most maxPair bytes, adding it
// with no references if it is new. p is copied.
func (d *dict) intern(hash uint64, p []byte) pairID {
	if id, ok := d.lookup(hash, p); ok {
		return id
	}
	var flags pairFlags
	use := pairUse{stable: xxhash.Sum64(p)}
	name, value := splitPair(p)
	if IsLegacyName(name) && bytes.IndexByte(name, ':') < 0 && !bytes.ContainsAny(value, "\\\"\n") {
		flags |= pairPlain
	}
	switch string(name) {
	case "__name__":
		flags |= pairName
		// One shard for all series of a histogram: its suffixes do not count.
		use.stable = xxhash.Sum64String(baseName(string(value)))
	case "instance":
		flags |= pairInstance
	case "le":
		flags |= pairLe
		use.stable = 0
	case "quantile":
		flags |= pairQuantile
		use.stable = 0
	}
	e := pair{off: d.place(p), tag: uint32(len(p))<<8 | uint32(flags)}
	var id pairID
	if n := len(d.free); n > 0 {
		id, d.free = d.free[n-1], d.free[:n-1]
		d.pairs.list[id], d.uses.list[id] = e, use
	} else {
		id = pairID(len(d.pairs.list))
		d.pairs.append(e)
		d.uses.append(use)
	}
	d.live += len(p)
	d.index.insert(uint32(hash), uint32(id))
	return id
}

func (d *dict) place(p []byte) uint32 {
	if len(d.chunks) == 0 || d.tail+len(p) > arenaChunk {
		d.chunks = append(d.chunks, d.mem.slab())
		d.tail = 0
	}
	last := len(d.chunks) - 1
	at := d.tail
	copy(d.chunks[last][at:], p)
	d.tail = (at + len(p) + 1<<alignBits - 1) &^ (1<<alignBits - 1)
	return uint32(last<<(chunkBits-alignBits) | at>>alignBits)
}

// release drops one reference; the last one frees the pair.
func (d *dict) release(id pairID) {
	use := &d.uses.list[id]
	if use.refs--; use.refs > 0 {
		return
	}
	d.index.remove(uint32(d.hashPair(d.bytes(id))), uint32(id))
	size := d.pairs.list[id].size()
	d.live -= size
	d.garbage += size
	d.pairs.list[id] = pair{}
	d.free = append(d.free, id)
}

// compact copies the live pairs to a new arena if released ones fill most of
// the old one. Ids stay.
func (d *dict) compact() {
	if d.garbage < arenaChunk || d.garbage < d.live {
		return
	}
	old := *d
	d.chunks, d.tail, d.garbage = nil, 0, 0
	for i := range d.pairs.list {
		p := d.pairs.list[i] // place must not see the new offset before it has copied
		if p.size() > 0 {
			d.pairs.list[i].off = d.place(old.chunks[p.off>>(chunkBits-alignBits)][p.off<<alignBits&(arenaChunk-1):][:p.size()])
		}
	}
	for _, c := range old.chunks {
		d.mem.free(c)
	}
}

// IsLegacyName reports whether s is a metric name of the character set that
// Prometheus had before UTF-8 names: [a-zA-Z_:][a-zA-Z0-9_:]*. Label names
// further exclude the colon.
func IsLegacyName[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '_' || c == ':' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && '0' <= c && c <= '9' {
			continue
		}
		return false
	}
	return len(s) > 0
}

// UnpackPairs yields the pairs of a packed label set.
func UnpackPairs(labels []byte, yield func(name, value []byte)) {
	for i := 0; i < len(labels); {
		name, value, size := scanPair(labels[i:])
		if size == 0 {
			return
		}
		yield(name, value)
		i += size
	}
}
