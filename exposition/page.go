package exposition

import (
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/common/model"

	"relay/series"
)

// An omission is why a live series is not on a page.
type omission uint8

const (
	escapedTwin  omission = iota // escaped, its labels are those of another series
	escapedLabel                 // escaped, two of its labels have one name
	boundTwice                   // a native histogram with a label le, which its buckets have
	numOmissions
)

func (o omission) String() string {
	return [...]string{"escaped_to_another_series", "escaped_to_duplicate_label", "native_histogram_with_le"}[o]
}

// page is what the writers of all formats share: the buffer, and how names are
// written.
type page struct {
	out   io.Writer
	buf   []byte
	first bool // nothing has been written out yet
	err   error

	scheme  model.EscapingScheme
	names   map[string]string      // escaped
	headers map[string]bool        // escaped names of families that have a header
	written map[[2]uint64]struct{} // of series whose names are escaped, since runHead
	runHead string                 // see beginFamily
	seeds   [2]maphash.Seed
	scratch []byte

	lastName   string // of a metric, that mustEscape saw
	lastLegacy bool   // whether it needs no escaping

	lines      []nativeLine   // of the last native histogram
	nativeOf   *series.Family // and which of its lines a real series has the name of
	nativeName string
	real       [len(nativeSuffixes)]bool

	stamps  stamps
	series  int
	omitted [numOmissions]int
}

// stamps says which series carry the timestamp of their sample.
type stamps struct {
	always, never bool
	lookback      series.TTL // else: series whose TTL is at most this
}

// of is the timestamp to write for a series, in ms, if any. A series that is
// declared good for longer than the centre looks back carries none, or it would
// be hidden there.
func (st stamps) of(s *series.Series) (ms int64, ok bool) {
	switch {
	case st.never, s.Pushed:
		return 0, false
	case st.always:
		return s.Time, true
	}
	return s.Time, s.TTL <= st.lookback
}

const (
	firstFlush  = 16 << 10  // so that the first byte is early
	laterFlush  = 256 << 10 // large writes: system calls are half the cost
	bufferExtra = 64 << 10
)

var pageBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, laterFlush+bufferExtra)
	return &b
}}

// release ends the use of the page's buffer.
func (p *page) release() {
	if b := p.buf[:0]; cap(b) <= 2*(laterFlush+bufferExtra) {
		pageBuffers.Put(&b)
	}
	p.buf = nil
}

func newPage(out io.Writer, scheme model.EscapingScheme, st stamps) *page {
	return &page{
		out: out, scheme: scheme, stamps: st, first: true,
		buf:   (*pageBuffers.Get().(*[]byte))[:0],
		names: map[string]string{},
	}
}

// Flush writes the buffer out when it is worth it.
func (p *page) Flush() error {
	if limit := laterFlush; len(p.buf) >= limit || p.first && len(p.buf) >= firstFlush {
		return p.write()
	}
	return p.err
}

func (p *page) write() error {
	if p.err == nil && len(p.buf) > 0 {
		_, p.err = p.out.Write(p.buf)
		p.first = false
	}
	p.buf = p.buf[:0]
	return p.err
}

// rename is series.Query.Rename for the page; nil where names are not escaped.
func (p *page) rename() func(string) string {
	if p.scheme == model.NoEscaping {
		return nil
	}
	return p.name
}

// name is how a name is written, without quotes.
func (p *page) name(name string) string {
	if p.scheme == model.NoEscaping || series.IsLegacyName(name) {
		return name
	}
	e, ok := p.names[name]
	if !ok {
		if len(p.names) > 10_000 {
			clear(p.names)
		}
		e = model.EscapeName(name, p.scheme)
		p.names[name] = e
	}
	return e
}

func legacyLabel(name []byte) bool {
	for _, c := range name {
		if c == ':' {
			return false
		}
	}
	return series.IsLegacyName(name)
}

// labelName is how the name of a label is written, without quotes.
func (p *page) labelName(name []byte) string {
	if p.scheme == model.NoEscaping || legacyLabel(name) {
		return string(name)
	}
	n := p.name(string(name))
	return strings.ReplaceAll(n, ":", "_") // legal in metric names alone
}

// exemplarLabels calls visit for the labels of an exemplar as they are written. Of
// labels that escaping makes one, that with the legacy name is, else the first.
func (p *page) exemplarLabels(packed []byte, visit func(name string, value []byte)) {
	var escaped []string
	series.UnpackPairs(packed, func(name, value []byte) {
		n := p.labelName(name)
		if n != string(name) {
			if _, legacy := series.LabelValue(packed, n); legacy || slices.Contains(escaped, n) {
				return
			}
			escaped = append(escaped, n)
		}
		visit(n, value)
	})
}

// head reports whether a family of that escaped name gets its header now: only
// one of the families that are written under one name does.
func (p *page) head(name string) bool {
	if p.scheme == model.NoEscaping {
		return true
	}
	if p.headers == nil {
		p.headers = map[string]bool{}
	}
	if p.headers[name] {
		return false
	}
	p.headers[name] = true
	return true
}

// has reports whether a series has a label of which that is known.
func has(s *series.Series, flag series.LabelFlags) bool {
	for i := range s.Len() {
		if _, flags := s.Label(i); flags&flag != 0 {
			return true
		}
	}
	return false
}

func hasInstance(s *series.Series) bool { return has(s, series.InstanceLabel) }

type pair struct{ name, value string }

// escape returns the labels of a series as they are written where a name has to
// be escaped, sorted; ok is false where the page cannot have it, because of what
// else it has under these names.
func (p *page) escape(f *series.Family, s *series.Series) (pairs []pair, ok bool) {
	name := p.name(s.Name)
	pairs = make([]pair, 0, s.Len()) // not nil, which says that nothing is escaped
	for l := range s.Pairs {
		pairs = append(pairs, pair{p.labelName(l.Name), string(l.Value)})
	}
	sortPairs(pairs)
	all := append([]pair{{"__name__", name}}, pairs...)
	sortPairs(all)
	for i, l := range all {
		if i > 0 && l.name == all[i-1].name {
			p.omitted[escapedLabel]++
			return nil, false
		}
	}
	packed := appendPairs(p.scratch[:0], all)
	p.scratch = packed
	if f.ShowsSeries(packed) || p.seen(packed) {
		p.omitted[escapedTwin]++
		return nil, false
	}
	return pairs, true
}

func sortPairs(pairs []pair) {
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.name, b.name) })
}

func appendPairs(dst []byte, pairs []pair) []byte {
	for _, l := range pairs {
		dst = series.AppendPair(dst, l.name, l.value)
	}
	return dst
}

// mustEscape reports whether a series is written with other names than it has.
func (p *page) mustEscape(s *series.Series) bool {
	if p.scheme == model.NoEscaping {
		return false
	}
	if p.lastName != s.Name {
		p.lastName, p.lastLegacy = s.Name, series.IsLegacyName(s.Name)
	}
	if !p.lastLegacy {
		return true
	}
	for i := range s.Len() {
		if packed, flags := s.Label(i); flags&(series.PlainLabel|series.NameLabel) == 0 {
			if name, _ := series.SplitPair(packed); !legacyLabel(name) {
				return true
			}
		}
	}
	return false
}

// maxWritten bounds what seen remembers, to some ten MiB.
const maxWritten = 400_000

// beginFamily is called before the series of a family. A series is in the family of its
// metric's name or of a beginning of that, so two that are written alike are in
// families of which, as they are written, one's name begins with the other's. Families
// come in the order of these names: those between two such begin alike, too, and what
// was remembered before them is of no use any more.
func (p *page) beginFamily(f *series.Family) {
	if p.scheme == model.NoEscaping {
		return
	}
	if name := p.name(f.Name); p.runHead == "" || !strings.HasPrefix(name, p.runHead) {
		p.runHead = name
		if len(p.written) > 1000 {
			p.written = map[[2]uint64]struct{}{} // to clear a large one takes its time, even if little is in it
		} else {
			clear(p.written)
		}
	}
}

// seen remembers an escaped label set, by 128 keyed bits. Beyond maxWritten in families
// whose names begin alike it does not: two series that are written alike may then both
// be on the page, of which a scraper takes one.
func (p *page) seen(packed []byte) bool {
	if p.written == nil {
		p.written = map[[2]uint64]struct{}{}
		p.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	}
	key := [2]uint64{maphash.Bytes(p.seeds[0], packed), maphash.Bytes(p.seeds[1], packed)}
	if _, ok := p.written[key]; ok {
		return true
	}
	if len(p.written) < maxWritten {
		p.written[key] = struct{}{}
	}
	return false
}

// hasUnit reports whether a family's unit is shown: it must be the suffix of its
// name, which OpenMetrics and Prometheus demand, and of characters that are written
// as they are. The line has no quotes around it: a unit with a newline would be
// lines of anybody's, and Prometheus looks for one with a quote in the name as it is
// written, in which there is a backslash before it.
func hasUnit(name, unit string) bool {
	base, ok := strings.CutSuffix(name, unit)
	return ok && unit != "" && strings.HasSuffix(base, "_") && series.IsLegacyName("_"+unit)
}

// hasBound reports whether a series has the label le. A native histogram that has
// one is on no page: to a scraper that wants classic ones, of any format, its buckets
// would have two, for which Prometheus refuses the whole page.
func hasBound(s *series.Series) bool { return has(s, series.LeLabel) }

// A nativeLine is a series that a page makes of a native histogram.
type nativeLine struct {
	suffix string  // behind the name
	bound  float64 // of a _bucket
	value  float64
}

// native returns the series that are made of a native histogram where a scraper gets
// classic ones: its buckets, whose bounds rise, if they are its own or +Inf alone; its
// sum; its count. Those that are real series of the same labels are left out, and
// all is false. Of the buckets all are left out or none. labels are those of the
// histogram as the page writes them if it must escape them, else nil. What is returned
// is good until the next call.
func (p *page) native(f *series.Family, s *series.Series, labels []pair) (lines []nativeLine, all bool) {
	h := s.Histogram
	lines = p.lines[:0]
	if h.Schema == series.CustomBuckets {
		buckets(h, func(bound, n float64) { lines = append(lines, nativeLine{"_bucket", bound, n}) })
	}
	lines = append(lines, nativeLine{"_bucket", math.Inf(1), total(h)})
	n := len(lines)
	lines = append(lines, nativeLine{suffix: "_sum", value: h.Sum}, nativeLine{suffix: "_count", value: total(h)})
	p.lines = lines
	if p.nativeOf != f || p.nativeName != s.Name {
		p.nativeOf, p.nativeName = f, s.Name
		for i, suffix := range nativeSuffixes {
			p.real[i] = f.Shows(s.Name+suffix) || labels != nil && f.Shows(p.name(s.Name+suffix))
		}
	}
	if p.scheme == model.NoEscaping && p.real == [len(nativeSuffixes)]bool{} {
		return lines, true
	}
	bucket := false
	for i := range lines[:n] {
		bucket = p.taken(f, s, labels, &lines[i], p.real[0]) || bucket
	}
	sum, count := p.taken(f, s, labels, &lines[n], p.real[1]), p.taken(f, s, labels, &lines[n+1], p.real[2])
	if bucket {
		lines, n = lines[n:], 0
	}
	if count {
		lines = lines[:n+1]
	}
	if sum {
		lines = slices.Delete(lines, n, n+1)
	}
	return lines, !bucket && !sum && !count
}

var nativeSuffixes = [...]string{"_bucket", "_sum", "_count"}

// taken reports whether a line of a native histogram is on the page already, or will
// be: as a real series, looked for if real is set; or, where names are escaped, as
// another one that is written so.
func (p *page) taken(f *series.Family, s *series.Series, labels []pair, line *nativeLine, real bool) bool {
	if real {
		if f.ShowsSeries(p.pack(s, nil, line, formatBound(line.bound))) || f.ShowsSeries(p.pack(s, nil, line, string(appendFloat(nil, line.bound)))) {
			return true
		}
		if labels != nil && f.ShowsSeries(p.pack(s, labels, line, formatBound(line.bound))) {
			return true
		}
	}
	return p.scheme != model.NoEscaping && p.seen(p.pack(s, labels, line, formatBound(line.bound)))
}

// pack packs the labels of a line of a native histogram, sorted by name.
func (p *page) pack(s *series.Series, labels []pair, line *nativeLine, bound string) []byte {
	all := []pair{{"__name__", s.Name + line.suffix}}
	if labels != nil {
		all[0].value = p.name(all[0].value)
		all = append(all, labels...)
	} else {
		for l := range s.Pairs {
			all = append(all, pair{string(l.Name), string(l.Value)})
		}
	}
	if line.suffix == "_bucket" {
		all = append(all, pair{"le", bound})
	}
	sortPairs(all)
	p.scratch = appendPairs(p.scratch[:0], all)
	return p.scratch
}

// buckets calls visit for the classic form of a native histogram with custom
// buckets: bounds rising, counts cumulative, without +Inf.
func buckets(h *series.Histogram, visit func(bound, cumulative float64)) {
	whole := make([]uint64, len(h.CustomValues)+1) // a sum of floats might be more than the whole
	parts := make([]float64, len(whole))
	at, i, last := 0, 0, int64(0)
	for _, span := range h.PositiveSpans {
		at += int(span.Offset)
		for range span.Length {
			switch {
			case at < 0 || at >= len(whole):
			case h.Float && i < len(h.PositiveCounts):
				parts[at] = h.PositiveCounts[i]
			case !h.Float && i < len(h.PositiveDeltas):
				last += h.PositiveDeltas[i]
				whole[at] = uint64(last)
			}
			at++
			i++
		}
	}
	sum, exact := 0.0, uint64(0)
	for i, bound := range h.CustomValues {
		sum += parts[i]
		exact += whole[i]
		if h.Float {
			visit(bound, sum)
		} else {
			visit(bound, float64(exact))
		}
	}
}

// total is the count of a native histogram.
func total(h *series.Histogram) float64 {
	if h.Float {
		return h.CountFloat
	}
	return float64(h.Count)
}
