package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A Kind says what the body of a record is.
type Kind uint8

// The kinds.
const (
	WriteV1 Kind = 1 // a remote-write 1.0 request, as received
	WriteV2 Kind = 2 // a remote-write 2.0 request, as received

	GroupReplace Kind = 3 // a push to a group that replaces it; the body in snappy's block format
	GroupMerge   Kind = 4 // one that replaces its families
	GroupDelete  Kind = 5 // no body
	Wipe         Kind = 6 // of all groups; no body

	SeriesDelete Kind = 7 // of the series that the body lists, in snappy's block format
)

// A Record is one accepted request, with what was decided about it.
type Record struct {
	Kind     Kind
	Edge     string
	Received int64 // when it arrived, ms of the wall clock

	TTL, MinTTL, MaxTTL int64    // granted, and the bounds; ms
	Refused             []uint32 // of its items, by number, rising

	Forced        []byte // labels that were forced on its series, packed
	Dropped       string // a label that was taken off them, or ""
	Pair, Replica string // of which replica it was, or ""

	Scope, Format string // of a push to a group: whose it is, and the media type of the body
	Group         []byte // its grouping labels, packed

	Body []byte
}

// version is of the form of records. A newer relay reads older ones; a record
// that is newer than the relay stops it.
//
// Version 2 has what the terms of the edge did, and pushes to groups. In version 3
// the parts of a record share its list of refused items, and version 4 has deletes of
// series; each is used for no others.
const (
	version        = 4
	versionUsual   = 2
	versionShared  = 3
	versionDeletes = 4
)

// ErrVersion is the error for a journal that a newer relay has written.
var ErrVersion = errors.New("journal: written by a newer version of the relay")

// errDamaged is the error for a record whose checksum is wrong.
var errDamaged = errors.New("journal: a record is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// part is where a piece of a record belongs, where that was split.
type part struct {
	id     uint64
	index  uint64
	total  uint64
	shares bool // the refused items too: each part has some
}

// A cutting is how much of a record fits one message.
type cutting struct {
	body    int // bytes of the body
	refused int // refused items
}

// parts returns the first part of a record that is cut so.
func (c cutting) parts(r *Record) part {
	bodies := (len(r.Body) + c.body - 1) / c.body
	refused := (len(r.Refused) + c.refused - 1) / c.refused
	return part{total: uint64(max(1, bodies, refused)), shares: refused > 1}
}

// append writes one part of a record.
func (c cutting) append(b []byte, r *Record, p part) []byte {
	if p.total == 1 {
		return r.append(b, p, r.Body)
	}
	i := int(p.index)
	body := r.Body[min(i*c.body, len(r.Body)):min((i+1)*c.body, len(r.Body))]
	if p.shares {
		some := *r
		some.Refused = r.Refused[min(i*c.refused, len(r.Refused)):min((i+1)*c.refused, len(r.Refused))]
		r = &some
	}
	return r.append(b, p, body)
}

// checksumEnd is where the checksummed bytes begin: behind version, kind and
// checksum.
const checksumEnd = 6

// MarshalBinary is the record as the journal has it, in one piece.
func (r *Record) MarshalBinary() ([]byte, error) {
	return r.append(nil, part{total: 1}, r.Body), nil
}

// UnmarshalBinary reads what MarshalBinary wrote; of a record that was split it reads
// none. The body aliases b.
func (r *Record) UnmarshalBinary(b []byte) error {
	in, p, err := parse(b)
	if err != nil {
		return err
	}
	if p.total != 1 {
		return fmt.Errorf("journal: part %d of %d of a record", p.index+1, p.total)
	}
	*r = in
	return nil
}

// append writes a record with one piece of its body.
func (r *Record) append(b []byte, p part, body []byte) []byte {
	from := len(b)
	v := byte(versionUsual)
	switch {
	case r.Kind == SeriesDelete:
		v = versionDeletes
	case p.shares:
		v = versionShared
	}
	b = append(b, v, byte(r.Kind), 0, 0, 0, 0)
	b = binary.AppendVarint(b, r.Received)
	for _, ttl := range []int64{r.TTL, r.MinTTL, r.MaxTTL} {
		b = binary.AppendUvarint(b, uint64(ttl))
	}
	b = binary.AppendUvarint(b, uint64(len(r.Edge)))
	b = append(b, r.Edge...)
	b = binary.AppendUvarint(b, uint64(len(r.Refused)))
	last := uint32(0)
	for _, n := range r.Refused {
		b = binary.AppendUvarint(b, uint64(n-last))
		last = n
	}
	for _, field := range []string{string(r.Forced), r.Dropped, r.Pair, r.Replica, r.Scope, r.Format, string(r.Group)} {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	b = binary.LittleEndian.AppendUint64(b, p.id)
	b = binary.AppendUvarint(b, p.index)
	b = binary.AppendUvarint(b, p.total)
	b = append(b, body...)
	sum := crc32.Checksum(b[from+checksumEnd:], castagnoli) ^ uint32(r.Kind)
	binary.LittleEndian.PutUint32(b[from+2:], sum)
	return b
}

// parse reads what append wrote. The record's body aliases b.
func parse(b []byte) (r Record, p part, err error) {
	if len(b) < checksumEnd {
		return r, p, errDamaged
	}
	if crc32.Checksum(b[checksumEnd:], castagnoli)^uint32(b[1]) != binary.LittleEndian.Uint32(b[2:]) {
		return r, p, errDamaged
	}
	if b[0] > version {
		return r, p, fmt.Errorf("%w: version %d, this one reads up to %d", ErrVersion, b[0], version)
	}
	r.Kind = Kind(b[1])
	p.shares = b[0] == versionShared
	in := fields{b: b[checksumEnd:]}
	r.Received = in.varint()
	r.TTL, r.MinTTL, r.MaxTTL = int64(in.uvarint()), int64(in.uvarint()), int64(in.uvarint())
	r.Edge = string(in.take(in.uvarint()))
	n := in.uvarint()
	if n > uint64(len(in.b)) {
		return r, p, errDamaged
	}
	last := uint32(0)
	for range n {
		last += uint32(in.uvarint())
		r.Refused = append(r.Refused, last)
	}
	if b[0] >= 2 {
		r.Forced = append([]byte(nil), in.take(in.uvarint())...)
		r.Dropped = string(in.take(in.uvarint()))
		for _, field := range []*string{&r.Pair, &r.Replica, &r.Scope, &r.Format} {
			*field = string(in.take(in.uvarint()))
		}
		r.Group = append([]byte(nil), in.take(in.uvarint())...)
	}
	if id := in.take(8); len(id) == 8 {
		p.id = binary.LittleEndian.Uint64(id)
	}
	p.index, p.total = in.uvarint(), in.uvarint()
	if in.bad || p.total == 0 || p.index >= p.total {
		return r, p, errDamaged
	}
	r.Body = in.b
	return r, p, nil
}

type fields struct {
	b   []byte
	bad bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	return f.skip(v, n)
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.b)
	return int64(f.skip(uint64(v), n))
}

func (f *fields) skip(v uint64, n int) uint64 {
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) take(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}
