package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"relay/series"
)

// A decoder walks one decoded request into a batch. It makes no copy and, for
// float samples of known series, no allocation.
//
// It takes a fast path where the bytes have the one shape that senders write, and
// a general one that accepts whatever prompb and writev2 accept, and refuses what
// they refuse: the differential fuzz tests hold that.
type decoder struct {
	batch *series.Batch

	// budget is what the request may still cost, in bytes of memory: a wire
	// element of two bytes becomes a struct of hundreds.
	budget int

	scratch []byte
	symbols [][]byte
	refs    []uint32

	said []said
}

// said is the metadata that a request has handed on for a metric name: senders
// repeat it with every series. It is kept as it came, in the place that the symbol
// of the name has.
type said struct {
	label, name uint32 // the symbols __name__ and the name
	n           uint8
	raw         [15]byte
}

const maxSaid = 256 // places; more names share them

// What the elements of a request cost, in bytes of memory.
const (
	costSeries    = 64
	costSample    = 40
	costHistogram = 512
	costExemplar  = 128
	costSymbol    = 40
	costElement   = 8
	costMetadata  = 128
)

// spend reports whether the budget covers n more elements.
func (d *decoder) spend(n, each int) error {
	if d.budget -= n * each; d.budget < 0 {
		return errTooDear
	}
	return nil
}

var errVersion = errors.New("the body is of the other version of remote write than its Content-Type says")

// v1 walks a prometheus.WriteRequest.
func (d *decoder) v1(body []byte) error {
	known, other := false, false
	for i := 0; i < len(body); {
		if body[i] != 0x0a {
			c := cursor{rest: body[i:]}
			if !c.next() {
				return c.err
			}
			switch c.num {
			case 1:
				if c.bytes(); c.err == nil {
					c.err = d.v1Series(c.data)
				}
				known = true
			case 3:
				if c.bytes(); c.err == nil {
					c.err = d.v1Metadata(c.data)
				}
				known = true
			case 4, 5:
				other = true
			}
			if c.err != nil {
				return c.err
			}
			i = len(body) - len(c.rest)
			continue
		}
		ts, next, err := lengthAt(body, i+1)
		if err != nil {
			return err
		}
		if err := d.v1Series(ts); err != nil {
			return err
		}
		known = true
		i = next
	}
	if other && !known {
		return errVersion
	}
	return nil
}

// v1Series walks a TimeSeries.
func (d *decoder) v1Series(ts []byte) error {
	if err := d.spend(1, costSeries+costSample); err != nil {
		return err
	}
	i := 0
	for i+1 < len(ts) && ts[i] == 0x0a {
		n := int(ts[i+1])
		i += 2
		if n >= 0x80 { // two bytes at most: longer ones go the general way
			if i >= len(ts) || ts[i] >= 0x80 {
				return d.v1General(ts)
			}
			n = n&0x7f | int(ts[i])<<7
			i++
		}
		i += n
	}
	if i > len(ts) {
		return d.v1General(ts)
	}
	v, t, ok := soleSample(ts[i:])
	if !ok {
		return d.v1General(ts)
	}
	if d.batch.SeriesInPlace(ts[:i]) == series.Malformed {
		return d.v1General(ts)
	}
	d.batch.Float(t, v, 0)
	return nil
}

// soleSample reads what is left of a series if it is one plain sample: its
// value, left out where it is 0, and its time.
func soleSample(b []byte) (v float64, t int64, ok bool) {
	if len(b) < 4 || b[0] != 0x12 || int(b[1]) != len(b)-2 {
		return 0, 0, false
	}
	b = b[2:]
	if b[0] == 0x09 {
		if len(b) < 11 {
			return 0, 0, false
		}
		v = math.Float64frombits(binary.LittleEndian.Uint64(b[1:]))
		b = b[9:]
	}
	if b[0] != 0x10 {
		return 0, 0, false
	}
	u, n := binary.Uvarint(b[1:])
	return v, int64(u), n > 0 && n == len(b)-1
}

// v1General is v1Series for any shape: labels anywhere, any fields. It reads the
// series twice, since the labels must be known before the samples.
func (d *decoder) v1General(ts []byte) error {
	if err := d.check(ts, v1Fields); err != nil {
		return err
	}
	labels := d.scratch[:0]
	items := 0
	for c := (cursor{rest: ts}); c.next(); {
		switch c.num {
		case 1:
			name, value := labelOf(c.data)
			if err := d.spend(len(name)+len(value)+12, 1); err != nil {
				return err
			}
			labels = series.AppendPair(labels, name, value)
		case 2, 3, 4:
			items++
		}
	}
	d.scratch = labels
	if items == 0 {
		return nil // nothing is lost
	}
	d.batch.Series(labels)
	for c := (cursor{rest: ts}); c.next(); {
		switch c.num {
		case 2:
			s := sampleOf(c.data)
			s.start = 0 // 1.0 has none
			if err := d.float(s); err != nil {
				return err
			}
		case 3:
			if err := d.v1Exemplar(c.data); err != nil {
				return err
			}
		case 4:
			if err := d.histogram(c.data, v1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *decoder) float(s sample) error {
	if err := d.spend(1, costSample); err != nil {
		return err
	}
	d.batch.Float(s.t, s.v, s.start)
	return nil
}

// A shape says what the fields of a message are, by number: their wire type, and
// of sub-messages and packed numbers what is in them. It is how a series is
// checked whole before anything of it is taken.
type shape map[int32]fieldShape

type fieldShape struct {
	wire   uint8
	in     shape // of a sub-message
	packed bool  // numbers of that wire type, one by one or packed
}

var (
	labelFields  = shape{1: {wire: wireBytes}, 2: {wire: wireBytes}}
	sampleFields = shape{1: {wire: wireFixed64}, 2: {wire: wireVarint}}
	spanFields   = shape{1: {wire: wireVarint}, 2: {wire: wireVarint}}

	histogramFields = shape{
		1: {wire: wireVarint}, 2: {wire: wireFixed64}, 3: {wire: wireFixed64}, 4: {wire: wireVarint}, 5: {wire: wireFixed64},
		6: {wire: wireVarint}, 7: {wire: wireFixed64},
		8: {wire: wireBytes, in: spanFields}, 9: {wire: wireVarint, packed: true}, 10: {wire: wireFixed64, packed: true},
		11: {wire: wireBytes, in: spanFields}, 12: {wire: wireVarint, packed: true}, 13: {wire: wireFixed64, packed: true},
		14: {wire: wireVarint}, 15: {wire: wireVarint}, 16: {wire: wireFixed64, packed: true},
	}
	v1Fields = shape{
		1: {wire: wireBytes, in: labelFields},
		2: {wire: wireBytes, in: sampleFields},
		3: {wire: wireBytes, in: shape{1: {wire: wireBytes, in: labelFields}, 2: {wire: wireFixed64}, 3: {wire: wireVarint}}},
		4: {wire: wireBytes, in: histogramFields},
	}
	v1MetadataFields = shape{1: {wire: wireVarint}, 2: {wire: wireBytes}, 4: {wire: wireBytes}, 5: {wire: wireBytes}}

	v2SampleFields    = sampleFields.with(3, fieldShape{wire: wireVarint})
	v2HistogramFields = histogramFields.with(17, fieldShape{wire: wireVarint})
	v2MetadataFields  = shape{1: {wire: wireVarint}, 3: {wire: wireVarint}, 4: {wire: wireVarint}}
	v2Fields          = shape{
		1: {wire: wireVarint, packed: true},
		2: {wire: wireBytes, in: v2SampleFields},
		3: {wire: wireBytes, in: v2HistogramFields},
		4: {wire: wireBytes, in: shape{1: {wire: wireVarint, packed: true}, 2: {wire: wireFixed64}, 3: {wire: wireVarint}}},
		5: {wire: wireBytes, in: v2MetadataFields},
	}
)

func (s shape) with(num int32, f fieldShape) shape {
	out := shape{num: f}
	for n, f := range s {
		out[n] = f
	}
	return out
}

// check reads a message whole and says what is wrong with its encoding. After it
// the readers of its parts need not look for errors.
func (d *decoder) check(msg []byte, s shape) error {
	c := cursor{rest: msg}
	for c.next() {
		f, known := s[c.num]
		switch {
		case !known || f.wire == c.wire && f.in == nil:
		case f.wire == wireBytes && c.wire == wireBytes:
			if err := d.check(c.data, f.in); err != nil {
				return err
			}
		case f.packed && c.wire == wireBytes:
			if err := checkPacked(c.data, f.wire); err != nil {
				return err
			}
		default:
			return errType
		}
	}
	return c.err
}

func checkPacked(b []byte, wire uint8) error {
	if wire == wireFixed64 {
		if len(b)%8 != 0 {
			return errPacked
		}
		return nil
	}
	for i := 0; i < len(b); {
		var err error
		if _, i, err = uvarint(b, i); err != nil {
			return packedError(err)
		}
	}
	return nil
}

// errPacked is where we are stricter than gogo/protobuf, which reads on in the
// bytes behind the field.
var errPacked = errors.New("a packed number runs over the end of its field")

func packedError(err error) error {
	if err == io.ErrUnexpectedEOF {
		return errPacked
	}
	return err
}

// labelOf reads a checked Label. As everywhere in protobuf, the last of a
// repeated scalar holds.
func labelOf(msg []byte) (name, value []byte) {
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			name = c.data
		case 2:
			value = c.data
		}
	}
	return name, value
}

type sample struct {
	v        float64
	t, start int64
}

// sampleOf reads a checked Sample of either version.
func sampleOf(msg []byte) (s sample) {
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			s.v = math.Float64frombits(c.val)
		case 2:
			s.t = int64(c.val)
		case 3:
			s.start = int64(c.val)
		}
	}
	return s
}

func (d *decoder) v1Exemplar(msg []byte) error {
	if err := d.spend(1, costExemplar+2*len(msg)); err != nil {
		return err
	}
	var e series.Exemplar
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			name, value := labelOf(c.data)
			e.Labels = series.AppendPair(e.Labels, name, value)
		case 2:
			e.Value = math.Float64frombits(c.val)
		case 3:
			e.Time = int64(c.val)
		}
	}
	d.batch.Exemplar(e)
	return nil
}

func (d *decoder) v1Metadata(msg []byte) error {
	if err := d.check(msg, v1MetadataFields); err != nil {
		return err
	}
	if err := d.spend(1, costMetadata+len(msg)); err != nil {
		return err
	}
	var t uint64
	var family, help, unit []byte
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			t = c.val
		case 2:
			family = c.data
		case 4:
			help = c.data
		case 5:
			unit = c.data
		}
	}
	d.batch.Metadata(family, metricType(t), help, unit)
	return nil
}

// metricType is the type by its number on the wire; unknown ones are Unknown.
func metricType(t uint64) series.MetricType {
	if t > uint64(series.Stateset) {
		return series.Unknown
	}
	return series.MetricType(t)
}

// histogram reads a checked Histogram of either version into the batch.
func (d *decoder) histogram(msg []byte, v version) error {
	if err := d.spend(1, costHistogram); err != nil {
		return err
	}
	h := &series.Histogram{}
	var t, start int64
	for c := (cursor{rest: msg}); c.next(); {
		var err error
		switch c.num {
		case 1:
			h.Count, h.CountFloat, h.Float = c.val, 0, false
		case 2:
			h.CountFloat, h.Count, h.Float = math.Float64frombits(c.val), 0, true
		case 3:
			h.Sum = math.Float64frombits(c.val)
		case 4:
			h.Schema = int32(zigzag(uint64(uint32(c.val))))
		case 5:
			h.ZeroThreshold = math.Float64frombits(c.val)
		case 6:
			h.ZeroCount, h.ZeroCountFloat = c.val, 0
		case 7:
			h.ZeroCountFloat, h.ZeroCount = math.Float64frombits(c.val), 0
		case 8:
			h.NegativeSpans, err = d.span(h.NegativeSpans, c.data)
		case 9:
			h.NegativeDeltas, err = d.deltas(h.NegativeDeltas, &c)
		case 10:
			h.NegativeCounts, err = d.doubles(h.NegativeCounts, &c)
		case 11:
			h.PositiveSpans, err = d.span(h.PositiveSpans, c.data)
		case 12:
			h.PositiveDeltas, err = d.deltas(h.PositiveDeltas, &c)
		case 13:
			h.PositiveCounts, err = d.doubles(h.PositiveCounts, &c)
		case 14:
			h.ResetHint = uint8(min(c.val, 4) % 4) // what is not known is "unknown"
		case 15:
			t = int64(c.val)
		case 16:
			h.CustomValues, err = d.doubles(h.CustomValues, &c)
		case 17:
			if v == v2 {
				start = int64(c.val)
			}
		}
		if err != nil {
			return err
		}
	}
	d.batch.Histogram(t, h, start)
	return nil
}

func (d *decoder) span(spans []series.Span, msg []byte) ([]series.Span, error) {
	var s series.Span
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			s.Offset = int32(zigzag(uint64(uint32(c.val))))
		case 2:
			s.Length = uint32(c.val)
		}
	}
	return append(spans, s), d.spend(2, costElement) // append doubles
}

func (d *decoder) deltas(list []int64, c *cursor) ([]int64, error) {
	if c.wire == wireVarint {
		return append(list, zigzag(c.val)), d.spend(2, costElement)
	}
	for i := 0; i < len(c.data); {
		var v uint64
		v, i, _ = uvarint(c.data, i)
		if err := d.spend(2, costElement); err != nil {
			return nil, err
		}
		list = append(list, zigzag(v))
	}
	return list, nil
}

func (d *decoder) doubles(list []float64, c *cursor) ([]float64, error) {
	if c.wire == wireFixed64 {
		return append(list, math.Float64frombits(c.val)), d.spend(2, costElement)
	}
	if err := d.spend(len(c.data)/8, 2*costElement); err != nil {
		return nil, err
	}
	for b := c.data; len(b) >= 8; b = b[8:] {
		list = append(list, math.Float64frombits(binary.LittleEndian.Uint64(b)))
	}
	return list, nil
}

// v2 walks an io.prometheus.write.v2.Request: the symbols first, wherever they
// are, since the series refer to them.
func (d *decoder) v2(body []byte) error {
	d.symbols = d.symbols[:0]
	clear(d.said)
	for i := 0; i < len(body); {
		if body[i] == 0x22 || body[i] == 0x2a {
			data, next, err := lengthAt(body, i+1)
			if err != nil {
				return err
			}
			if body[i] == 0x22 {
				if err := d.symbol(data); err != nil {
					return err
				}
			}
			i = next
			continue
		}
		c := cursor{rest: body[i:]}
		if !c.next() {
			return c.err
		}
		switch {
		case c.num <= 3:
			return errVersion // reserved, since they are what 1.0 has
		case (c.num == 4 || c.num == 5) && c.wire != wireBytes:
			return errType
		case c.num == 4:
			if err := d.symbol(c.data); err != nil {
				return err
			}
		}
		i = len(body) - len(c.rest)
	}
	if len(d.symbols) > 0 && len(d.symbols[0]) > 0 {
		return errors.New("the first symbol is not empty")
	}
	d.batch.Symbols(d.symbols)
	for i := 0; i < len(body); {
		if body[i] == 0x22 || body[i] == 0x2a {
			data, next, _ := lengthAt(body, i+1)
			if body[i] == 0x2a {
				if err := d.v2Series(data); err != nil {
					return err
				}
			}
			i = next
			continue
		}
		c := cursor{rest: body[i:]}
		c.next()
		if c.num == 5 {
			if err := d.v2Series(c.data); err != nil {
				return err
			}
		}
		i = len(body) - len(c.rest)
	}
	return nil
}

func (d *decoder) symbol(s []byte) error {
	d.symbols = append(d.symbols, s)
	return d.spend(1, costSymbol)
}

// v2Series walks a TimeSeries of 2.0. The plain shape is references, one sample,
// and metadata, which generated code writes even where it is empty.
func (d *decoder) v2Series(ts []byte) error {
	if err := d.spend(1, costSeries+costSample); err != nil {
		return err
	}
	if len(ts) < 2 || ts[0] != 0x0a || ts[1] >= 0x80 {
		return d.v2General(ts)
	}
	refs := 2 + int(ts[1])
	if refs+2 > len(ts) || ts[refs] != 0x12 || ts[refs+1] >= 0x80 {
		return d.v2General(ts)
	}
	end := refs + 2 + int(ts[refs+1])
	if end > len(ts) {
		return d.v2General(ts)
	}
	v, t, ok := soleSample(ts[refs:end])
	if !ok {
		return d.v2General(ts)
	}
	md := ts[end:]
	if len(md) > 0 && (len(md) < 2 || md[0] != 0x2a || int(md[1]) != len(md)-2) {
		return d.v2General(ts)
	}
	d.refs = d.refs[:0]
	if err := d.appendRefs(ts[2:refs]); err != nil {
		return err
	}
	if len(d.refs)%2 != 0 {
		return errOddRefs
	}
	if len(md) > 2 {
		if err := d.v2RawMetadata(md[2:]); err != nil {
			return err
		}
	}
	d.batch.SeriesRefs(d.refs)
	d.batch.Float(t, v, 0)
	return nil
}

// A statement is the metadata of a series, by reference.
type statement struct {
	typ        uint64
	help, unit uint32
}

// read reads a checked Metadata of 2.0.
func (s *statement) read(msg []byte) {
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			s.typ = c.val
		case 3:
			s.help = uint32(c.val)
		case 4:
			s.unit = uint32(c.val)
		}
	}
}

var errOddRefs = errors.New("a series has an odd number of label references")

func errRef(ref uint64, n int) error {
	return fmt.Errorf("a reference to symbol %d of %d", ref, n)
}

// appendRefs appends packed references to d.refs, checked against the table.
func (d *decoder) appendRefs(b []byte) error {
	for i := 0; i < len(b); {
		ref := uint64(b[i])
		i++
		if ref >= 0x80 {
			var err error
			if ref, i, err = uvarint(b, i-1); err != nil {
				return packedError(err)
			}
			ref = uint64(uint32(ref))
		}
		if ref >= uint64(len(d.symbols)) {
			return errRef(ref, len(d.symbols))
		}
		d.refs = append(d.refs, uint32(ref))
	}
	return nil
}

// appendRefsOf appends the references of field 1 of a checked message.
func (d *decoder) appendRefsOf(c *cursor) error {
	if c.wire == wireBytes {
		if err := d.spend(len(c.data), costElement); err != nil {
			return err
		}
		return d.appendRefs(c.data)
	}
	ref := uint64(uint32(c.val))
	if ref >= uint64(len(d.symbols)) {
		return errRef(ref, len(d.symbols))
	}
	d.refs = append(d.refs, uint32(ref))
	return d.spend(1, costElement)
}

// v2General is v2Series for any shape.
func (d *decoder) v2General(ts []byte) error {
	if err := d.check(ts, v2Fields); err != nil {
		return err
	}
	d.refs = d.refs[:0]
	items := 0
	var md statement
	for c := (cursor{rest: ts}); c.next(); {
		switch c.num {
		case 1:
			if err := d.appendRefsOf(&c); err != nil {
				return err
			}
		case 2, 3, 4:
			items++
		case 5:
			md.read(c.data)
		}
	}
	if len(d.refs)%2 != 0 {
		return errOddRefs
	}
	if err := d.state(md); err != nil {
		return err
	}
	if items == 0 {
		return nil
	}
	if err := d.spend(d.packedSize(), 1); err != nil {
		return err
	}
	d.batch.SeriesRefs(d.refs)
	for c := (cursor{rest: ts}); c.next(); {
		var err error
		switch c.num {
		case 2:
			err = d.float(sampleOf(c.data))
		case 3:
			err = d.histogram(c.data, v2)
		case 4:
			err = d.v2Exemplar(c.data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// packedSize is what the series' labels take when they are written out: a
// reference of one byte may stand for a symbol of a megabyte.
func (d *decoder) packedSize() int {
	n := 0
	for _, ref := range d.refs {
		n += len(d.symbols[ref]) + 6
	}
	return n
}

// v2RawMetadata hands on what a series says of its family, unless the request has
// just said that.
func (d *decoder) v2RawMetadata(raw []byte) error {
	if len(d.refs) < 2 || len(raw) > len(said{}.raw) {
		return d.v2Metadata(raw)
	}
	if d.said == nil {
		d.said = make([]said, maxSaid)
	}
	label, name := d.refs[0], d.refs[1]
	place := &d.said[name%maxSaid]
	if place.label == label && place.name == name && string(place.raw[:place.n]) == string(raw) {
		return nil
	}
	if err := d.v2Metadata(raw); err != nil {
		return err
	}
	if string(d.symbols[label]) == "__name__" {
		place.label, place.name, place.n = label, name, uint8(copy(place.raw[:], raw))
	}
	return nil
}

// v2Metadata hands on what the series of d.refs says of its family.
func (d *decoder) v2Metadata(raw []byte) error {
	if err := d.check(raw, v2MetadataFields); err != nil {
		return err
	}
	var s statement
	s.read(raw)
	return d.state(s)
}

func (d *decoder) state(s statement) error {
	if s == (statement{}) {
		return nil
	}
	ref := uint64(max(s.help, s.unit))
	if ref >= uint64(max(len(d.symbols), 1)) {
		return errRef(ref, len(d.symbols))
	}
	if len(d.symbols) == 0 {
		return nil // without a name
	}
	help, unit := d.symbols[s.help], d.symbols[s.unit]
	if s.typ == 0 && len(help) == 0 && len(unit) == 0 {
		return nil
	}
	for i := 0; i+1 < len(d.refs); i += 2 {
		if string(d.symbols[d.refs[i]]) == "__name__" {
			d.batch.SeriesMetadata(d.symbols[d.refs[i+1]], metricType(s.typ), help, unit)
			return nil
		}
	}
	return nil
}

func (d *decoder) v2Exemplar(msg []byte) error {
	if err := d.spend(1, costExemplar); err != nil {
		return err
	}
	keep := len(d.refs)
	var e series.Exemplar
	for c := (cursor{rest: msg}); c.next(); {
		switch c.num {
		case 1:
			if err := d.appendRefsOf(&c); err != nil {
				return err
			}
		case 2:
			e.Value = math.Float64frombits(c.val)
		case 3:
			e.Time = int64(c.val)
		}
	}
	refs := d.refs[keep:]
	d.refs = d.refs[:keep]
	if len(refs)%2 != 0 {
		return errors.New("an exemplar has an odd number of label references")
	}
	for i := 0; i+1 < len(refs); i += 2 {
		name, value := d.symbols[refs[i]], d.symbols[refs[i+1]]
		if err := d.spend(len(name)+len(value)+12, 1); err != nil {
			return err
		}
		e.Labels = series.AppendPair(e.Labels, name, value)
	}
	d.batch.Exemplar(e)
	return nil
}
