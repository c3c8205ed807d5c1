package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"relay/series"
)

// A pushBody reads the body of a push into a batch, with Prometheus' own parsers.
type pushBody struct {
	batch    *series.Batch
	group    []byte // grouping labels, packed
	received int64  // ms
	budget   int    // bytes of memory that it may still cost

	grouping [][2]string // the same, by name; filled by read
	families map[string]*pushFamily
	set      *series.TTL // by the last directive
	granted  series.TTL  // the request's own
	plain    bool        // a series has that, for want of one of its own
	lasts    series.TTL  // the longest of what was pushed, labels __ttl__ aside
	packed   []byte
}

// A pushFamily is what a body says of one family.
type pushFamily struct {
	kind series.MetricType
	help string
	unit string
	ttl  *series.TTL // by the directive before its first line; nil: none
}

// A directive sets how long the families that follow it live, as in the fork that
// had it first; durations are an extension.
var directive = regexp.MustCompile(`^#!set stale_timeout\s*=\s*(\S+)\s*$`)

// Names and help of what a push says of itself, as in the Pushgateway.
const (
	pushTime        = "push_time_seconds"
	pushTimeHelp    = "Last Unix time when changing this group in the Pushgateway succeeded."
	pushFailure     = "push_failure_time_seconds"
	pushFailureHelp = "Last Unix time when changing this group in the Pushgateway failed."
)

const ttlLabel = "__ttl__" // the store takes it off, and reads it

var errTimestamp = errors.New("pushed metrics must not have timestamps")

func (p *pushBody) read(raw []byte, format string) error {
	p.families = map[string]*pushFamily{}
	p.granted = p.batch.Tally().Granted
	for name, value := range series.Labels(p.group) {
		p.grouping = append(p.grouping, [2]string{name, value})
	}
	slices.SortFunc(p.grouping, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	if format == formatOpenMetrics && !bytes.HasSuffix(bytes.TrimRight(raw, "\n"), []byte("# EOF")) {
		raw = append(bytes.Clone(raw), "# EOF\n"...) // Go's client leaves it out
	}
	parser, err := textparse.New(raw, format, labels.NewSymbolTable(), textparse.ParserOptions{KeepClassicOnClassicAndNativeHistograms: true})
	if parser == nil {
		return err
	}
	seen := 0 // up to where the body was read
	at := func(part []byte) {
		if n := cap(raw) - cap(part); n > seen && n <= len(raw) {
			seen = n
		}
	}
	fail := func(line int, err error) error {
		if format == formatProtobuf {
			return fmt.Errorf("protobuf: %w", err)
		}
		return fmt.Errorf("line %d: %w", line, err)
	}
	for {
		entry, err := parser.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fail(lineBehind(raw, seen), err)
		}
		if p.budget -= costElement; p.budget < 0 {
			return errTooDear
		}
		switch entry {
		case textparse.EntryComment:
			comment := parser.Comment()
			at(comment)
			err = p.comment(comment)
		case textparse.EntryHelp:
			name, help := parser.Help()
			at(name)
			p.family(string(name)).help = string(help)
		case textparse.EntryUnit:
			name, unit := parser.Unit()
			at(name)
			p.family(string(name)).unit = string(unit)
		case textparse.EntryType:
			name, kind := parser.Type()
			at(name)
			p.family(string(name)).kind = typeOf(kind)
		case textparse.EntrySeries:
			line, t, v := parser.Series()
			at(line)
			if t != nil {
				err = errTimestamp
				break
			}
			var l labels.Labels
			parser.Labels(&l)
			err = p.series(l, func(b *series.Batch) { b.Float(p.received, v, 0) })
		case textparse.EntryHistogram:
			_, t, ints, floats := parser.Histogram()
			if t != nil {
				err = errTimestamp
				break
			}
			var l labels.Labels
			parser.Labels(&l)
			h := nativeOf(ints, floats)
			err = p.series(l, func(b *series.Batch) { b.Histogram(p.received, h, 0) })
		}
		if err != nil {
			return fail(1+bytes.Count(raw[:seen], []byte("\n")), err)
		}
	}
	for name, f := range p.families {
		p.batch.EndFamily(name, compound(f.kind))
		p.batch.Metadata([]byte(name), f.kind, []byte(f.help), []byte(f.unit))
	}
	if p.lasts > 0 {
		p.batch.Lasts(p.lasts)
	}
	p.own(pushTime, pushTimeHelp, float64(p.received)/1000)
	p.own(pushFailure, pushFailureHelp, 0)
	return nil
}

// lineBehind numbers the line behind the one that offset is in, blank ones left out.
func lineBehind(raw []byte, offset int) int {
	if offset > 0 {
		if n := bytes.IndexByte(raw[offset:], '\n'); n >= 0 {
			offset += n + 1
		}
	}
	for offset < len(raw) && raw[offset] == '\n' {
		offset++
	}
	return 1 + bytes.Count(raw[:offset], []byte("\n"))
}

// comment obeys directives. One that cannot be read is refused: what it was to end
// would live for ever.
func (p *pushBody) comment(line []byte) error {
	if !bytes.HasPrefix(line, []byte("#!set")) {
		return nil
	}
	m := directive.FindSubmatch(line)
	if m == nil {
		return fmt.Errorf("%.80q: want #!set stale_timeout = <seconds>, a duration, or null", line)
	}
	ttl := series.TTL(0)
	if s := string(m[1]); strings.Trim(s, "0") != "" {
		var err error
		if ttl, err = series.ParseTTL(s); err != nil {
			return fmt.Errorf("#!set stale_timeout: %w", err)
		}
	}
	p.set = &ttl
	return nil
}

// family returns what is known of a family, which begins here if nothing is.
func (p *pushBody) family(name string) *pushFamily {
	f := p.families[name]
	if f == nil {
		p.budget -= costMetadata
		f = &pushFamily{ttl: p.set}
		p.families[name] = f
	}
	return f
}

// familyOf finds the family of a metric: one that was declared, or its own.
func (p *pushBody) familyOf(metric string) *pushFamily {
	if f := p.families[metric]; f != nil {
		return f
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count", "_total", "_created", "_info", "_gsum", "_gcount"} {
		if base, ok := strings.CutSuffix(metric, suffix); ok {
			if f := p.families[base]; f != nil && (compound(f.kind) || suffix == "_total" || suffix == "_created" || suffix == "_info") {
				return f
			}
		}
	}
	return p.family(metric)
}

func compound(t series.MetricType) bool {
	return t == series.HistogramType || t == series.GaugeHistogram || t == series.Summary
}

// series adds one series, with the grouping labels in the place of its own of these
// names.
func (p *pushBody) series(l labels.Labels, add func(*series.Batch)) error {
	name := l.Get(model.MetricNameLabel)
	f := p.familyOf(name)
	p.packed = p.packed[:0]
	cost := costSeries + costSample
	group := p.grouping
	l.Range(func(l labels.Label) { // in the order of their names, as the store has them
		cost += len(l.Name) + len(l.Value)
		for len(group) > 0 && group[0][0] < l.Name {
			p.packed = series.AppendPair(p.packed, group[0][0], group[0][1])
			group = group[1:]
		}
		if len(group) == 0 || group[0][0] != l.Name {
			p.packed = series.AppendPair(p.packed, l.Name, l.Value)
		}
	})
	for _, g := range group {
		p.packed = series.AppendPair(p.packed, g[0], g[1])
	}
	if p.budget -= cost + len(p.group); p.budget < 0 {
		return errTooDear
	}
	p.batch.EndFamily(name, false)
	if f.ttl != nil && *f.ttl == 0 {
		return nil // gone at once
	}
	p.batch.Series(p.packed)
	ttl := p.granted
	if f.ttl != nil {
		ttl = *f.ttl
		p.batch.SetTTL(ttl)
	} else if !l.Has(ttlLabel) {
		p.plain = true
	}
	p.lasts = max(p.lasts, ttl)
	add(p.batch)
	return nil
}

// own adds a gauge of the push itself, which ends with the group.
func (p *pushBody) own(name, help string, v float64) {
	p.packed = append(series.AppendPair(p.packed[:0], model.MetricNameLabel, name), p.group...)
	p.batch.EndFamily(name, false)
	p.batch.Metadata([]byte(name), series.Gauge, []byte(help), nil)
	p.batch.Series(p.packed)
	p.batch.SetGroupTTL()
	p.batch.Float(p.received, v, 0)
}

func typeOf(t model.MetricType) series.MetricType {
	switch t {
	case model.MetricTypeCounter:
		return series.Counter
	case model.MetricTypeGauge:
		return series.Gauge
	case model.MetricTypeHistogram:
		return series.HistogramType
	case model.MetricTypeGaugeHistogram:
		return series.GaugeHistogram
	case model.MetricTypeSummary:
		return series.Summary
	case model.MetricTypeInfo:
		return series.Info
	case model.MetricTypeStateset:
		return series.Stateset
	}
	return series.Unknown
}

// nativeOf is a native histogram, one of the two.
func nativeOf(ints *histogram.Histogram, floats *histogram.FloatHistogram) *series.Histogram {
	spans := func(in []histogram.Span) (out []series.Span) {
		for _, s := range in {
			out = append(out, series.Span{Offset: s.Offset, Length: s.Length})
		}
		return out
	}
	if floats == nil {
		if ints == nil {
			return &series.Histogram{Schema: math.MinInt32} // refused
		}
		return &series.Histogram{
			Schema: ints.Schema, ResetHint: uint8(ints.CounterResetHint), ZeroThreshold: ints.ZeroThreshold, Sum: ints.Sum,
			Count: ints.Count, ZeroCount: ints.ZeroCount,
			PositiveSpans: spans(ints.PositiveSpans), NegativeSpans: spans(ints.NegativeSpans),
			PositiveDeltas: append([]int64(nil), ints.PositiveBuckets...), NegativeDeltas: append([]int64(nil), ints.NegativeBuckets...),
			CustomValues: append([]float64(nil), ints.CustomValues...),
		}
	}
	return &series.Histogram{
		Float: true, Schema: floats.Schema, ResetHint: uint8(floats.CounterResetHint), ZeroThreshold: floats.ZeroThreshold, Sum: floats.Sum,
		CountFloat: floats.Count, ZeroCountFloat: floats.ZeroCount,
		PositiveSpans: spans(floats.PositiveSpans), NegativeSpans: spans(floats.NegativeSpans),
		PositiveCounts: append([]float64(nil), floats.PositiveBuckets...), NegativeCounts: append([]float64(nil), floats.NegativeBuckets...),
		CustomValues: append([]float64(nil), floats.CustomValues...),
	}
}
