package exposition

import (
	"math"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"

	"relay/series"
)

// A text writes a page in one of the text formats.
type text struct {
	*page
	om bool // OpenMetrics

	metric   string // whose prefix is set
	prefix   []byte // name{ as the line begins
	plain    bool   // the name is written as it is
	escaping bool   // the name is escaped
	header   string // the name that the last header is of
	typ      series.MetricType

	settled bool   // escaped holds for the series being written
	escaped []pair // its labels, where names are escaped
}

func newText(p *page, om bool) *text { return &text{page: p, om: om} }

// Close ends the page.
func (t *text) Close() error {
	if t.om {
		t.buf = append(t.buf, "# EOF\n"...)
	}
	return t.write()
}

// BeginFamily forgets the family before; headers are written with the first
// series that is.
func (t *text) BeginFamily(f *series.Family) {
	t.header = ""
	t.beginFamily(f)
}

// EndFamily has nothing left to do.
func (t *text) EndFamily(*series.Family) {}

// begin writes what stands above a series of that name, if it does not yet.
func (t *text) begin(f *series.Family, s *series.Series) {
	typ := f.Metadata.Type
	if typ == series.Unknown && s.Histogram != nil {
		typ = series.HistogramType
	}
	over := f.Name // what HELP and TYPE name
	if t.om {
		switch typ {
		case series.Counter:
			if base, ok := strings.CutSuffix(f.Name, "_total"); ok && base != "" {
				over = base
			} else {
				typ = series.Unknown
			}
		case series.Info:
			if s.Name == f.Name {
				typ = series.Unknown
			}
		}
	} else {
		switch typ {
		case series.HistogramType, series.Summary:
		case series.Counter, series.Gauge:
			over = s.Name
		case series.Info, series.Stateset:
			typ, over = series.Gauge, s.Name
		default:
			typ, over = series.Unknown, s.Name
		}
	}
	if over == t.header {
		return
	}
	t.header, t.typ = over, typ
	name := t.name(over)
	if !t.head(name) {
		return
	}
	quoted := name
	if !series.IsLegacyName(name) {
		quoted = `"` + escapeValue(name) + `"`
	}
	if t.om {
		t.describe("TYPE", quoted, typ.String())
		if hasUnit(name, f.Metadata.Unit) {
			t.describe("UNIT", quoted, f.Metadata.Unit)
		}
		if f.Metadata.Help != "" {
			t.describe("HELP", quoted, escapeValue(f.Metadata.Help))
		}
		return
	}
	if f.Metadata.Help != "" {
		t.describe("HELP", quoted, escapeHelp(f.Metadata.Help))
	}
	if typ == series.Unknown {
		t.describe("TYPE", quoted, "untyped")
	} else {
		t.describe("TYPE", quoted, typ.String())
	}
}

func (t *text) describe(what, name, content string) {
	b := append(t.buf, "# "...)
	b = append(b, what...)
	b = append(b, ' ')
	b = append(b, name...)
	b = append(b, ' ')
	b = append(b, content...)
	t.buf = append(b, '\n')
}

// Series writes one series: a line, or some for a native histogram.
func (t *text) Series(f *series.Family, s *series.Series) {
	if s.Histogram != nil && hasBound(s) {
		t.omitted[boundTwice]++
		return
	}
	start := len(t.buf)
	t.settled, t.escaped = false, nil
	t.begin(f, s)
	ok := true
	if s.Histogram != nil {
		ok = t.histogram(f, s)
	} else {
		ok = t.labels(f, s, "", "")
		if ok {
			t.value(s, s.Value)
			t.exemplar(s)
			t.buf = append(t.buf, '\n')
		}
	}
	if !ok {
		t.buf = t.buf[:start]
		t.header = "" // it may have gone, too
		return
	}
	t.series++
}

// labels writes a line up to its value; suffix goes behind the name, le is a
// label to add.
func (t *text) labels(f *series.Family, s *series.Series, suffix, le string) bool {
	if t.metric != s.Name || suffix != "" || t.prefix == nil {
		t.setPrefix(s.Name, suffix)
	}
	b := append(t.buf, t.prefix...)
	if !t.plain {
		b = append(b, ',') // behind the name
	}
	escape := t.escaping
	instance := false
	for i := range s.Len() {
		packed, flags := s.Label(i)
		if flags&series.NameLabel != 0 {
			continue
		}
		instance = instance || flags&series.InstanceLabel != 0
		if flags&series.PlainLabel != 0 && len(packed) < 128 {
			// Between name and value there are two bytes, as there are in text.
			n := len(b) + int(packed[3])
			b = append(b, packed[4:]...)
			b[n], b[n+1] = '=', '"'
			b = append(b, '"', ',')
			continue
		}
		name, value := series.SplitPair(packed)
		escape = escape || t.scheme != model.NoEscaping && !legacyLabel(name)
		b = append(appendLabel(b, string(name), string(value)), ',')
	}
	if escape {
		if !t.settled {
			var ok bool
			if t.escaped, ok = t.escape(f, s); !ok {
				return false
			}
			t.settled = true
		}
		b = append(t.buf, t.prefix...) // an escaped name is not quoted
		for _, l := range t.escaped {
			b = append(appendLabel(b, l.name, l.value), ',')
		}
	}
	if le != "" {
		b = append(b, `le="`...)
		b = append(b, le...)
		b = append(b, '"', ',')
	}
	if !instance {
		// Else the centre would attach the relay's own, as /federate knows.
		b = append(b, `instance="",`...)
	}
	b = b[:len(b)-1] // there is at least an instance
	t.buf = append(b, '}', ' ')
	return true
}

// setPrefix prepares how lines of a metric begin.
func (t *text) setPrefix(metric, suffix string) {
	t.metric = metric
	if suffix != "" {
		t.metric = "" // for this line alone
	}
	name := t.name(metric + suffix)
	t.plain = series.IsLegacyName(name)
	t.escaping = t.scheme != model.NoEscaping && !series.IsLegacyName(metric)
	if t.plain {
		t.prefix = append(append(t.prefix[:0], name...), '{')
		return
	}
	t.prefix = append(t.prefix[:0], '{', '"')
	t.prefix = append(t.prefix, escapeValue(name)...)
	t.prefix = append(t.prefix, '"')
}

func appendLabel(b []byte, name, value string) []byte {
	if series.IsLegacyName(name) && strings.IndexByte(name, ':') < 0 {
		b = append(b, name...)
	} else {
		b = append(b, '"')
		b = append(b, escapeValue(name)...)
		b = append(b, '"')
	}
	b = append(b, '=', '"')
	b = append(b, escapeValue(value)...)
	return append(b, '"')
}

// value writes a number and the timestamp.
func (t *text) value(s *series.Series, v float64) {
	b := appendFloat(t.buf, v)
	if ms, ok := t.stamps.of(s); ok {
		b = append(b, ' ')
		if t.om {
			b = appendSeconds(b, ms)
		} else {
			b = strconv.AppendInt(b, ms, 10)
		}
	}
	t.buf = b
}

// exemplar writes the latest exemplar where OpenMetrics allows one.
func (t *text) exemplar(s *series.Series) {
	if !t.om || len(s.Exemplars) == 0 || s.Part != series.Bucket && t.typ != series.Counter {
		return
	}
	e := s.Exemplars[len(s.Exemplars)-1]
	b := append(t.buf, " # {"...)
	n := len(b)
	t.exemplarLabels(e.Labels, func(name string, value []byte) {
		if len(b) > n {
			b = append(b, ',')
		}
		b = appendLabel(b, name, string(value))
	})
	b = append(b, "} "...)
	b = appendFloat(b, e.Value)
	if e.Time != 0 {
		b = append(b, ' ')
		b = appendSeconds(b, e.Time)
	}
	t.buf = b
}

// histogram writes a native histogram as far as text can say it.
func (t *text) histogram(f *series.Family, s *series.Series) bool {
	if t.mustEscape(s) {
		if t.escaped, t.settled = t.escape(f, s); !t.settled {
			return false
		}
	}
	lines, _ := t.page.native(f, s, t.escaped)
	for i := range lines {
		le := ""
		if lines[i].suffix == "_bucket" {
			le = formatBound(lines[i].bound)
		}
		if !t.labels(f, s, lines[i].suffix, le) {
			return false
		}
		t.value(s, lines[i].value)
		t.buf = append(t.buf, '\n')
	}
	return true
}

// formatBound writes a bucket bound as Prometheus normalises it: 1 is 1.0.
func formatBound(v float64) string {
	s := string(appendFloat(nil, v))
	if strings.ContainsAny(s, ".eIN") {
		return s
	}
	return s + ".0"
}

// appendFloat writes a float as strconv's 'g' does, whole numbers faster.
func appendFloat(b []byte, v float64) []byte {
	if i := int64(v); float64(i) == v && i > -1e15 && i < 1e15 && (i != 0 || math.Float64bits(v) == 0) {
		return strconv.AppendInt(b, i, 10)
	}
	switch {
	case math.IsNaN(v):
		return append(b, "NaN"...)
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// appendSeconds writes ms as seconds with three decimals.
func appendSeconds(b []byte, ms int64) []byte {
	u := uint64(ms)
	if ms < 0 {
		b = append(b, '-')
		u = -u
	}
	b = strconv.AppendUint(b, u/1000, 10)
	f := u % 1000
	return append(b, '.', byte('0'+f/100), byte('0'+f/10%10), byte('0'+f%10))
}

var (
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

func escapeValue(s string) string {
	if !strings.ContainsAny(s, "\\\"\n") {
		return s
	}
	return valueEscapes.Replace(s)
}

func escapeHelp(s string) string {
	if !strings.ContainsAny(s, "\\\n") {
		return s
	}
	return helpEscapes.Replace(s)
}
