package exposition

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/prometheus/common/model"

	"relay/series"
)

// A proto writes a page of delimited io.prometheus.client.MetricFamily messages
// (client_model, metrics.proto). The labels are copied from the store as they
// are: a pair is packed there in just the form that a Metric has.
//
// One family may be several messages, so that no length needs the whole family
// in memory. Lengths that are not known beforehand are varints of four bytes.
type proto struct {
	*page

	open     int // where the length of the open MetricFamily is; -1 none
	kind     kind
	name     string
	instance []byte

	group uint64 // of acc
	held  bool   // acc is not written yet
	acc   []accumulated
	arena []byte // of the labels in acc
}

// kind is client_model's MetricType.
type kind uint8

const (
	counter kind = iota
	gauge
	summary
	untyped
	histogram
	gaugeHistogram

	// isNative is added to that of native histograms, which have messages of their
	// own: before 3.0 Prometheus took all histograms of a message that begins with a
	// native one for native ones.
	isNative kind = 1 << 7
)

// accumulated is one series of a classic histogram or a summary.
type accumulated struct {
	name     string
	part     series.Part
	bound    float64
	value    float64
	from, to int // labels in proto.arena, with the bound
	bare     int // labels without it: arena[to:bare]
	ms       int64
	stamped  bool
	start    int64
	exemplar *series.Exemplar
}

func newProto(p *page) *proto {
	return &proto{page: p, open: -1, instance: series.AppendPair(nil, "instance", "")}
}

// Close ends the page.
func (p *proto) Close() error {
	p.closeFamily()
	return p.write()
}

// BeginFamily writes nothing: messages begin with their first series.
func (p *proto) BeginFamily(f *series.Family) { p.beginFamily(f) }

// EndFamily ends the family's last message.
func (p *proto) EndFamily(f *series.Family) {
	p.finish(f)
	p.closeFamily()
}

// Flush writes whole messages out.
func (p *proto) Flush() error {
	if len(p.buf) >= laterFlush || p.first && len(p.buf) >= firstFlush {
		p.closeFamily()
	}
	return p.page.Flush()
}

// length reserves a varint; patch fills it in.
func (p *proto) length() int {
	p.buf = append(p.buf, 0, 0, 0, 0)
	return len(p.buf)
}

func (p *proto) patch(at int) {
	n := len(p.buf) - at
	p.buf[at-4], p.buf[at-3], p.buf[at-2], p.buf[at-1] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)&0x7f
}

func (p *proto) closeFamily() {
	if p.open >= 0 {
		p.patch(p.open)
		p.open = -1
	}
}

// family opens a MetricFamily message, unless that one is open.
func (p *proto) family(f *series.Family, k kind, name string) {
	if p.open >= 0 && p.kind == k && p.name == name {
		return
	}
	p.closeFamily()
	p.kind, p.name = k, name
	p.open = p.length()
	written := p.page.name(name)
	p.text(1, written)
	if f.Metadata.Help != "" && (name == f.Name || k != untyped) {
		p.text(2, f.Metadata.Help)
	}
	p.buf = append(p.buf, 3<<3, byte(k&^isNative))
	if hasUnit(written, f.Metadata.Unit) {
		p.text(5, f.Metadata.Unit)
	}
}

func (p *proto) text(field byte, s string) {
	p.buf = append(p.buf, field<<3|2)
	p.buf = binary.AppendUvarint(p.buf, uint64(len(s)))
	p.buf = append(p.buf, s...)
}

func (p *proto) double(field byte, v float64) {
	p.buf = append(p.buf, field<<3|1)
	p.buf = binary.LittleEndian.AppendUint64(p.buf, math.Float64bits(v))
}

func (p *proto) varint(field int, v uint64) {
	p.buf = binary.AppendUvarint(p.buf, uint64(field)<<3)
	p.buf = binary.AppendUvarint(p.buf, v)
}

func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

// message opens a sub-message.
func (p *proto) message(field int) (at int) {
	p.buf = binary.AppendUvarint(p.buf, uint64(field)<<3|2)
	return p.length()
}

// Series writes one series, or keeps it until the rest of its histogram or
// summary is there.
func (p *proto) Series(f *series.Family, s *series.Series) {
	p.series++
	if s.Histogram == nil && (f.Metadata.Type == series.HistogramType || f.Metadata.Type == series.Summary) {
		switch s.Part {
		case series.Bucket, series.Quantile, series.Sum, series.Count:
			if p.held && p.group != s.Group {
				p.finish(f)
			}
			p.accumulate(f, s)
			return
		}
	}
	p.finish(f)
	if s.Histogram == nil {
		p.plain(f, s)
		return
	}
	p.native(f, s)
}

// plain writes a series that is its own metric.
func (p *proto) plain(f *series.Family, s *series.Series) {
	k := untyped
	if s.Part == series.Plain {
		switch f.Metadata.Type {
		case series.Counter:
			k = counter
		case series.Gauge, series.Info, series.Stateset:
			k = gauge
		}
	}
	labels, ok := p.appendLabels(nil, f, s)
	if !ok {
		p.page.series--
		return
	}
	p.family(f, k, s.Name)
	at := p.message(4)
	if labels != nil {
		p.buf = append(p.buf, labels...)
	} else {
		p.buf = p.stored(p.buf, s)
	}
	p.value(k, s)
	p.stamp(p.stamps.of(s))
	p.patch(at)
}

// stored appends the labels as the store has them.
func (p *proto) stored(dst []byte, s *series.Series) []byte {
	instance := false
	for i := range s.Len() {
		packed, flags := s.Label(i)
		if flags&series.NameLabel != 0 {
			continue
		}
		instance = instance || flags&series.InstanceLabel != 0
		dst = append(dst, packed...)
	}
	if !instance {
		dst = append(dst, p.instance...)
	}
	return dst
}

// appendLabels returns the packed labels of a series where they are not just the
// store's; else nil.
func (p *proto) appendLabels(dst []byte, f *series.Family, s *series.Series) (labels []byte, ok bool) {
	if !p.mustEscape(s) {
		return nil, true
	}
	pairs, ok := p.escape(f, s)
	if !ok {
		return nil, false
	}
	return p.escaped(dst, s, pairs), true
}

// escaped appends the packed labels of a series whose names were escaped.
func (p *proto) escaped(dst []byte, s *series.Series, pairs []pair) []byte {
	dst = appendPairs(dst, pairs)
	if !hasInstance(s) {
		dst = append(dst, p.instance...)
	}
	return dst
}

func (p *proto) value(k kind, s *series.Series) {
	switch k {
	case counter:
		if len(s.Exemplars) == 0 && s.StartTime == 0 {
			p.buf = append(p.buf, 3<<3|2, 9)
			p.double(1, s.Value)
			return
		}
		at := p.message(3)
		p.double(1, s.Value)
		if n := len(s.Exemplars); n > 0 {
			p.exemplar(2, &s.Exemplars[n-1])
		}
		p.time(3, s.StartTime)
		p.patch(at)
	case gauge:
		p.buf = append(p.buf, 2<<3|2, 9)
		p.double(1, s.Value)
	default:
		p.buf = append(p.buf, 5<<3|2, 9)
		p.double(1, s.Value)
	}
}

func (p *proto) stamp(ms int64, ok bool) {
	if ok {
		p.varint(6, uint64(ms))
	}
}

// time writes a google.protobuf.Timestamp, if it is not 0.
func (p *proto) time(field int, ms int64) {
	if ms == 0 {
		return
	}
	sec, rest := ms/1000, ms%1000
	if rest < 0 {
		sec, rest = sec-1, rest+1000
	}
	at := p.message(field)
	p.varint(1, uint64(sec))
	p.varint(2, uint64(rest)*1_000_000)
	p.patch(at)
}

func (p *proto) exemplar(field int, e *series.Exemplar) {
	at := p.message(field)
	if p.scheme == model.NoEscaping {
		p.buf = append(p.buf, e.Labels...)
	} else {
		p.exemplarLabels(e.Labels, func(name string, value []byte) {
			p.buf = series.AppendPair(p.buf, name, string(value))
		})
	}
	p.double(2, e.Value)
	p.time(3, e.Time)
	p.patch(at)
}

// native writes a native histogram in full; one with custom buckets, which the
// format does not have, as a classic one.
func (p *proto) native(f *series.Family, s *series.Series) {
	h := s.Histogram
	if hasBound(s) {
		p.omitted[boundTwice]++
		p.page.series--
		return
	}
	var labels []byte
	var pairs []pair
	if p.mustEscape(s) {
		var ok bool
		if pairs, ok = p.escape(f, s); !ok {
			p.page.series--
			return
		}
		labels = p.escaped(p.arena[:0], s, pairs)
	} else {
		labels = p.stored(p.arena[:0], s)
	}
	p.arena = labels[:0]
	k := histogram
	var lines []nativeLine
	if h.Schema == series.CustomBuckets {
		var all bool
		if lines, all = p.page.native(f, s, pairs); !all || !rising(lines) {
			p.apart(f, s, labels, lines)
			return
		}
	} else if h.ResetHint == resetGauge {
		k = gaugeHistogram | isNative
	} else {
		k |= isNative
	}
	p.family(f, k, s.Name)
	at := p.message(4)
	p.buf = append(p.buf, labels...)
	in := p.message(7)
	if h.Float {
		p.double(4, h.CountFloat)
	} else {
		p.varint(1, h.Count)
	}
	p.double(2, h.Sum)
	p.time(15, s.StartTime)
	if h.Schema == series.CustomBuckets {
		for _, l := range lines {
			if l.suffix == "_bucket" {
				p.bucket(l.bound, l.value, nil)
			}
		}
	} else {
		p.varint(5, zigzag(int64(h.Schema)))
		p.double(6, h.ZeroThreshold)
		if h.Float {
			p.double(8, h.ZeroCountFloat)
		} else {
			p.varint(7, h.ZeroCount)
		}
		p.side(9, h.NegativeSpans, h.NegativeDeltas, h.NegativeCounts)
		p.side(12, h.PositiveSpans, h.PositiveDeltas, h.PositiveCounts)
		if len(h.PositiveSpans)+len(h.NegativeSpans) == 0 {
			// An empty span tells an empty native histogram from a classic one.
			p.buf = append(p.buf, 12<<3|2, 0)
		}
		for i := range s.Exemplars {
			if s.Exemplars[i].Time != 0 {
				p.exemplar(16, &s.Exemplars[i])
			}
		}
	}
	p.patch(in)
	p.stamp(p.stamps.of(s))
	p.patch(at)
}

// apart writes the lines of a native histogram that cannot be one metric.
func (p *proto) apart(f *series.Family, s *series.Series, labels []byte, lines []nativeLine) {
	for _, l := range lines {
		p.family(f, untyped, s.Name+l.suffix)
		at := p.message(4)
		p.buf = append(p.buf, labels...)
		if l.suffix == "_bucket" {
			p.buf = series.AppendPair(p.buf, "le", formatBound(l.bound))
		}
		p.buf = append(p.buf, 5<<3|2, 9)
		p.double(1, l.value)
		p.stamp(p.stamps.of(s))
		p.patch(at)
	}
}

// rising reports whether the buckets of a native histogram do not fall and end in
// its count, as is to be of those that can be one metric: see whole.
func rising(lines []nativeLine) bool {
	return slices.IsSortedFunc(lines[:len(lines)-2], func(a, b nativeLine) int { return cmp.Compare(a.value, b.value) })
}

const resetGauge = 3 // prompb's ResetHint of a gauge histogram

func (p *proto) side(field int, spans []series.Span, deltas []int64, counts []float64) {
	for _, sp := range spans {
		at := p.message(field)
		p.varint(1, zigzag(int64(sp.Offset)))
		p.varint(2, uint64(sp.Length))
		p.patch(at)
	}
	if len(deltas) > 0 {
		at := p.message(field + 1)
		for _, d := range deltas {
			p.buf = binary.AppendUvarint(p.buf, zigzag(d))
		}
		p.patch(at)
	}
	if len(counts) > 0 {
		at := p.message(field + 2)
		for _, c := range counts {
			p.buf = binary.LittleEndian.AppendUint64(p.buf, math.Float64bits(c))
		}
		p.patch(at)
	}
}

func (p *proto) bucket(bound, n float64, e *series.Exemplar) {
	at := p.message(3)
	p.count(1, 4, n)
	p.double(2, bound)
	if e != nil {
		p.exemplar(3, e)
	}
	p.patch(at)
}

// count writes a count as an integer where it is one, else as a float.
func (p *proto) count(whole, fraction int, n float64) {
	if isWhole(n) {
		p.varint(whole, uint64(n))
	} else {
		p.double(byte(fraction), n)
	}
}

// isWhole excludes -0, which an integer cannot say.
func isWhole(n float64) bool {
	return n >= 0 && n < 1<<63 && n == math.Trunc(n) && !math.Signbit(n)
}

// accumulate keeps a series until its histogram or summary is whole.
func (p *proto) accumulate(f *series.Family, s *series.Series) {
	from := len(p.arena)
	labels, ok := p.appendLabels(p.arena, f, s)
	if !ok {
		p.page.series--
		return
	}
	a := accumulated{name: s.Name, part: s.Part, value: s.Value, from: from, start: s.StartTime}
	a.ms, a.stamped = p.stamps.of(s)
	a.bound = math.NaN()
	if labels == nil {
		labels = p.stored(p.arena, s)
	}
	p.arena, a.to, a.bare = labels, len(labels), len(labels)
	if s.Part == series.Bucket || s.Part == series.Quantile {
		name := "le"
		if s.Part == series.Quantile {
			name = "quantile"
		}
		p.arena, a.bound = withoutBound(p.arena, a.from, a.to, name)
		a.bare = len(p.arena)
	}
	if n := len(s.Exemplars); n > 0 && s.Part == series.Bucket {
		e := s.Exemplars[n-1]
		a.exemplar = &e
	}
	p.acc = append(p.acc, a)
	p.group, p.held = s.Group, true
}

// withoutBound appends the labels arena[from:to] without the bound, and returns
// that; NaN if it is no number.
func withoutBound(arena []byte, from, to int, bound string) ([]byte, float64) {
	v := math.NaN()
	series.UnpackPairs(arena[from:to:to], func(name, value []byte) {
		if string(name) != bound {
			arena = series.AppendPair(arena, name, value)
			return
		}
		if f, err := strconv.ParseFloat(string(value), 64); err == nil {
			v = f
		}
	})
	return arena, v
}

// finish writes what was accumulated: as one metric if it is whole, else series
// by series, so that nothing appears that was not sent.
func (p *proto) finish(f *series.Family) {
	if !p.held {
		return
	}
	if p.whole(f.Metadata.Type) {
		p.assemble(f)
	} else {
		for i := range p.acc {
			a := &p.acc[i]
			p.family(f, untyped, a.name)
			at := p.message(4)
			p.buf = append(p.buf, p.arena[a.from:a.to]...)
			p.buf = append(p.buf, 5<<3|2, 9)
			p.double(1, a.value)
			p.stamp(a.ms, a.stamped)
			p.patch(at)
		}
	}
	p.acc, p.arena, p.held = p.acc[:0], p.arena[:0], false
}

// whole reports whether the accumulated series can be written as one metric from
// which the scraper makes just these series, with these values and times. Counts
// must not fall from bucket to bucket and end in the whole count: where a scraper
// converts classic histograms to native ones, another one fails its scrape.
func (p *proto) whole(t series.MetricType) bool {
	var sums, counts, bounds, infs int
	last := math.NaN()
	var most, count float64
	first := &p.acc[0]
	for i := range p.acc {
		a := &p.acc[i]
		if a.ms != first.ms || a.stamped != first.stamped {
			return false
		}
		switch a.part {
		case series.Sum:
			sums++
		case series.Count:
			counts++
			count = a.value
			if !isWhole(a.value) && (t == series.Summary || !(a.value > 0)) {
				return false
			}
		default:
			bounds++
			if math.IsNaN(a.bound) || a.bound <= last || a.part == series.Bucket && !isWhole(a.value) && !(a.value > 0) {
				return false
			}
			last = a.bound
			if a.part == series.Bucket {
				if a.value < most {
					return false
				}
				most = a.value
			}
			if math.IsInf(a.bound, 1) {
				infs++
			}
		}
	}
	return sums == 1 && counts == 1 && (t == series.Summary || infs == 1 && most == count)
}

// assemble writes one Histogram or Summary.
func (p *proto) assemble(f *series.Family) {
	k, field := summary, 4
	if f.Metadata.Type == series.HistogramType {
		k, field = histogram, 7
	}
	p.family(f, k, f.Name)
	first := &p.acc[0]
	at := p.message(4)
	from := first.from
	if first.bare > first.to {
		from = first.to
	}
	p.buf = append(p.buf, p.arena[from:first.bare]...)
	in := p.message(field)
	for i := range p.acc {
		switch a := &p.acc[i]; a.part {
		case series.Count:
			p.count(1, 4, a.value)
			if k == histogram {
				p.time(15, a.start)
			} else {
				p.time(4, a.start)
			}
		case series.Sum:
			p.double(2, a.value)
		case series.Bucket:
			p.bucket(a.bound, a.value, a.exemplar)
		case series.Quantile:
			q := p.message(3)
			p.double(1, a.bound)
			p.double(2, a.value)
			p.patch(q)
		}
	}
	p.patch(in)
	p.stamp(first.ms, first.stamped)
	p.patch(at)
}
