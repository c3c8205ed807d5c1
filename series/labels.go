package series

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// ttlLabel gives one series its own TTL; it is stripped.
const ttlLabel = "__ttl__"

// scanPair reads one packed pair at the start of b, only in the one form that
// AppendPair writes, and returns its parts and its length; 0 if it is not that.
func scanPair(b []byte) (name, value []byte, size int) {
	if len(b) < 6 || b[0] != 0x0a {
		return nil, nil, 0
	}
	total, i := packedLen(b, 1)
	if i == 0 || total > len(b)-i {
		return nil, nil, 0
	}
	end := i + total
	if i >= end || b[i] != 0x0a {
		return nil, nil, 0
	}
	nl, i := packedLen(b[:end], i+1)
	if i == 0 || nl > end-i {
		return nil, nil, 0
	}
	name = b[i : i+nl]
	i += nl
	if i >= end || b[i] != 0x12 {
		return nil, nil, 0
	}
	vl, i := packedLen(b[:end], i+1)
	if i == 0 || vl != end-i {
		return nil, nil, 0
	}
	return name, b[i:end], end
}

// packedLen reads a minimal varint of at most three bytes (labels are shorter)
// at b[i:] and returns it with the index behind it; 0 if it is not one.
func packedLen(b []byte, i int) (n, next int) {
	if i < len(b) && b[i] < 0x80 {
		return int(b[i]), i + 1
	}
	for shift := 0; i < len(b) && shift <= 14; shift += 7 {
		c := b[i]
		i++
		n |= int(c&0x7f) << shift
		if c < 0x80 {
			if c == 0 {
				return 0, 0
			}
			return n, i
		}
	}
	return 0, 0
}

// hashLabels walks a packed label set and returns its keyed hash. canonical is
// false unless names strictly rise, no value is empty and none is __ttl__; ok is
// false if the bytes are not in packed form.
func (d *dict) hashLabels(labels []byte) (hash uint64, canonical, ok bool) {
	canonical = true
	var last []byte
	lastKey := uint64(0)
	for i := 0; i < len(labels); {
		name, key, empty, size := shortPair(labels[i:])
		if size == 0 {
			var value []byte
			if name, value, size = scanPair(labels[i:]); size == 0 {
				return 0, false, false
			}
			key, empty = nameKey(name), len(value) == 0
		}
		if empty || key <= lastKey && (key < lastKey || bytes.Compare(last, name) >= 0) || string(name) == ttlLabel {
			canonical = false
		}
		last, lastKey = name, key
		i += size
	}
	return maphash.Bytes(d.seed, labels), canonical, true
}

// shortPair is scanPair, and nameKey of the name, for pairs with lengths of one byte
// each, of which eight bytes from the name on can be read; size is 0 for others.
// Nearly all are.
func shortPair(b []byte) (name []byte, key uint64, empty bool, size int) {
	if len(b) < 12 {
		return nil, 0, false, 0
	}
	head := binary.LittleEndian.Uint32(b)
	size, n := 2+int(head>>8&0xff), int(head>>24)
	v := size - n - 6 // bytes of the value
	if head&0xff80ff != 0x0a000a || v < 0 || size > len(b) || binary.LittleEndian.Uint16(b[4+n:]) != 0x12|uint16(v)<<8 {
		return nil, 0, false, 0
	}
	// A shift of 64 or more gives 0. Without branches: names are of all lengths.
	key = binary.BigEndian.Uint64(b[4:]) &^ (math.MaxUint64 >> (8 * uint(n)))
	return b[4 : 4+n], key, v == 0, size
}

// nameKey is the beginning of a name as a number: of two names that differ in it,
// the lesser has the lesser one.
func nameKey(name []byte) uint64 {
	if len(name) >= 8 {
		return binary.BigEndian.Uint64(name)
	}
	key := uint64(0)
	for i, c := range name {
		key |= uint64(c) << (56 - 8*i)
	}
	return key
}

// mix combines the hash of a metric's labels so far with that of the next pair.
func mix(h, pair uint64) uint64 {
	h = (h ^ pair) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// normalize puts a packed label set into canonical form: sorted by name, no
// empty values, the __ttl__ label taken out and returned, the terms' forced labels
// in the place of all that claims to be them. The result is appended to dst.
// Validity is not its business, but for names that appear twice.
func normalize(dst, labels []byte, terms *Terms) (canonical []byte, ttl, duplicate string, said forcedSaid) {
	type span struct{ name, pair []byte }
	var room [32]span
	spans := room[:0]
	for rest := terms.Forced; len(rest) > 0; {
		name, _, size := scanPair(rest)
		spans = append(spans, span{name, rest[:size]})
		rest = rest[size:]
	}
	forced := len(spans)
	equal := 0
	for i := 0; i < len(labels); {
		name, value, size := scanPair(labels[i:])
		pair := labels[i : i+size]
		i += size
		claimed := slices.IndexFunc(spans[:forced], func(s span) bool { return shownAs(name, s.name) })
		switch {
		case string(name) == ttlLabel:
			ttl = string(value)
		case claimed >= 0 && bytes.Equal(pair, spans[claimed].pair):
			equal++
		case claimed >= 0:
			if len(value) > 0 {
				said = saidOther
			}
		case string(name) == terms.Dropped && len(name) > 0:
		case len(value) > 0 || len(name) == 0:
			spans = append(spans, span{name, pair})
		}
	}
	if forced > 0 && equal == forced && said == saidNothing {
		said = saidAll
	}
	slices.SortStableFunc(spans, func(a, b span) int { return bytes.Compare(a.name, b.name) })
	for i, s := range spans {
		if i > 0 && bytes.Equal(s.name, spans[i-1].name) {
			duplicate = string(s.name)
		}
		dst = append(dst, s.pair...)
	}
	return dst, ttl, duplicate, said
}

// forcedSaid is what a sender says itself of the labels that are forced on it.
type forcedSaid uint8

const (
	saidNothing forcedSaid = iota // or some of them, rightly
	saidAll                       // each once or more, rightly
	saidOther                     // something else
)

// shownAs reports whether a page in the character set before UTF-8 names may show
// a label name as legacy, which is of that set.
func shownAs(name, legacy []byte) bool {
	if bytes.Equal(name, legacy) {
		return true
	}
	i := 0
	for _, c := range string(name) {
		if !legacyRune(c, i) {
			c = '_'
		}
		if i >= len(legacy) || rune(legacy[i]) != c {
			return false
		}
		i++
	}
	return i == len(legacy)
}

// legacyRune reports whether c is shown as it is, at index i of a label name. A
// colon is in metric names, but not here.
func legacyRune(c rune, i int) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || '0' <= c && c <= '9' && i > 0
}

// reserved reports whether a label name begins with two underscores, or is shown
// so.
func reserved(name []byte) bool {
	i := 0
	for _, c := range string(name) {
		if i == 2 {
			break
		}
		if c != '_' && legacyRune(c, i) {
			return false
		}
		i++
	}
	return i == 2
}

// LabelValue finds a label in a packed set.
func LabelValue(labels []byte, name string) (value string, ok bool) {
	for len(labels) > 0 {
		n, v, size := scanPair(labels)
		if string(n) == name {
			return string(v), true
		}
		labels = labels[size:]
	}
	return "", false
}

// Labels takes a packed set apart.
func Labels(packed []byte) map[string]string {
	out := map[string]string{}
	for len(packed) > 0 {
		n, v, size := scanPair(packed)
		out[string(n)] = string(v)
		packed = packed[size:]
	}
	return out
}

func countPairs(labels []byte) (n int) {
	for ; len(labels) > 0; n++ {
		_, _, size := scanPair(labels)
		labels = labels[size:]
	}
	return n
}

// validate checks a canonical label set at first sight.
func (o *Options) validate(labels []byte) (Reason, string) {
	l := &o.Limits
	if len(labels) > l.SeriesBytes {
		return SeriesTooLong, fmt.Sprintf("labels of %d bytes, the limit is %d: --limits.series-bytes", len(labels), l.SeriesBytes)
	}
	named := false
	n := 0
	for i := 0; i < len(labels); n++ {
		name, value, size := scanPair(labels[i:])
		i += size
		switch {
		case len(name) == 0:
			return LabelInvalid, "a label has no name"
		case len(name) > l.LabelNameBytes:
			return LabelNameTooLong, fmt.Sprintf("label name %.40q has %d bytes, the limit is %d: --limits.label-name-bytes", name, len(name), l.LabelNameBytes)
		case len(value) > l.LabelValueBytes:
			return LabelValueTooLong, fmt.Sprintf("the value of label %.40q has %d bytes, the limit is %d: --limits.label-value-bytes", name, len(value), l.LabelValueBytes)
		case !utf8.Valid(name) || bytes.IndexByte(name, 0) >= 0:
			return LabelInvalid, fmt.Sprintf("label name %.40q is not valid UTF-8 without NUL", name)
		case !utf8.Valid(value):
			return LabelInvalid, fmt.Sprintf("the value of label %.40q is not valid UTF-8", name)
		}
		if string(name) == "__name__" {
			named = true
			if bytes.IndexByte(value, 0) >= 0 {
				return NameInvalid, "the metric name contains NUL"
			}
			if o.LegacyNames && !IsLegacyName(value) {
				return NameInvalid, fmt.Sprintf("metric name %.40q is outside [a-zA-Z_:][a-zA-Z0-9_:]*: --ingest.name-validation=utf8 allows it", value)
			}
			continue
		}
		if reserved(name) {
			return LabelInvalid, fmt.Sprintf("label name %.40q is reserved, as all that begin with __ or are shown so", name)
		}
		if o.LegacyNames && (!IsLegacyName(name) || bytes.IndexByte(name, ':') >= 0) {
			return LabelInvalid, fmt.Sprintf("label name %.40q is outside [a-zA-Z_][a-zA-Z0-9_]*: --ingest.name-validation=utf8 allows it", name)
		}
	}
	if !named {
		return NoName, "the series has no __name__"
	}
	if n > l.Labels {
		return TooManyLabels, fmt.Sprintf("%d labels, the limit is %d: --limits.labels", n, l.Labels)
	}
	return OK, ""
}

// hasName reports whether a canonical label set can be a series at all, whatever
// the limits.
func hasName(labels []byte) bool {
	if len(labels) > maxPair {
		return false
	}
	named, n := false, 0
	for i := 0; i < len(labels); n++ {
		name, _, size := scanPair(labels[i:])
		named = named || string(name) == "__name__"
		i += size
	}
	return named && n <= math.MaxUint8
}

// maxPrinted is how much of a series an error shows.
const maxPrinted = 200

// FormatLabels writes a packed label set as people write it, name{a="b"}, cut
// after 200 bytes, every byte printable; without the label __name__, {a="b"}.
func FormatLabels(labels []byte) string {
	var metric, rest []byte
	for i := 0; i < len(labels) && len(rest) < maxPrinted; {
		name, value, size := scanPair(labels[i:])
		if size == 0 {
			break
		}
		i += size
		name, value = name[:min(len(name), maxPrinted)], value[:min(len(value), maxPrinted)]
		if string(name) == "__name__" {
			metric = value
			continue
		}
		if len(rest) > 0 {
			rest = append(rest, ',')
		}
		if IsLegacyName(name) {
			rest = append(rest, name...)
		} else {
			rest = strconv.AppendQuote(rest, string(name))
		}
		rest = append(rest, '=')
		rest = strconv.AppendQuote(rest, string(value))
	}
	out := string(metric)
	if metric != nil && !IsLegacyName(metric) {
		out = strconv.Quote(out)
	}
	if len(rest) > 0 || metric == nil {
		out += "{" + string(rest) + "}"
	}
	if len(out) > maxPrinted {
		out = out[:maxPrinted]
	}
	return out
}
