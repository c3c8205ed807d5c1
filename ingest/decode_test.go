package ingest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"relay/series"
)

// at is the receive time of tests that need none in particular.
var at = time.UnixMilli(1_700_000_000_000)

// page collects everything that a store shows.
type page struct {
	lines []string
}

func (p *page) BeginFamily(f *series.Family) {
	p.lines = append(p.lines, fmt.Sprintf("# %q %s %q %q", f.Name, f.Metadata.Type, f.Metadata.Help, f.Metadata.Unit))
}
func (p *page) EndFamily(*series.Family) {}
func (p *page) Flush() error             { return nil }
func (p *page) Series(_ *series.Family, s *series.Series) {
	line := fmt.Sprintf("%q %x @%d ttl=%d start=%d", s.String(), math.Float64bits(s.Value), s.Time, s.TTL, s.StartTime)
	if s.Histogram != nil {
		line += fmt.Sprintf(" %+v", *s.Histogram)
	}
	for _, e := range s.Exemplars {
		line += fmt.Sprintf(" # %x %x @%d", e.Labels, math.Float64bits(e.Value), e.Time)
	}
	p.lines = append(p.lines, line)
}

// shown is what a store shows, sorted.
func shown(t testing.TB, s *series.Store) string {
	t.Helper()
	var p page
	if err := s.Scan(at, series.Query{}, &p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.lines)
	return strings.Join(p.lines, "\n")
}

// taken is what became of a request: what is shown, and the numbers of the
// result.
func taken(t testing.TB, apply func(*series.Batch) error) (string, error) {
	t.Helper()
	store := series.New(series.Options{})
	b := store.NewBatch(series.Request{Edge: "e", Received: at, Now: at})
	defer b.Release()
	if err := apply(b); err != nil {
		return "", err
	}
	res := b.Commit()
	res.First = nil // the order in which parts of one series are seen is free
	return fmt.Sprintf("%+v\n%s", res, shown(t, store)), nil
}

func ours(v version, raw []byte) func(*series.Batch) error {
	return func(b *series.Batch) error {
		d := &decoder{batch: b, budget: 1 << 30}
		if v == v2 {
			return d.v2(raw)
		}
		return d.v1(raw)
	}
}

// theirs1 takes a request by way of prompb.
func theirs1(raw []byte) func(*series.Batch) error {
	return func(b *series.Batch) error {
		var req prompb.WriteRequest
		if err := req.Unmarshal(raw); err != nil {
			return err
		}
		for _, ts := range req.Timeseries {
			if len(ts.Samples)+len(ts.Histograms)+len(ts.Exemplars) == 0 {
				continue
			}
			b.Series(packed(ts.Labels))
			for _, s := range ts.Samples {
				b.Float(s.Timestamp, s.Value, 0)
			}
			for _, e := range ts.Exemplars {
				b.Exemplar(series.Exemplar{Labels: packed(e.Labels), Value: e.Value, Time: e.Timestamp})
			}
			for _, h := range ts.Histograms {
				b.Histogram(h.Timestamp, histogramOf(&h), 0)
			}
		}
		for _, m := range req.Metadata {
			b.Metadata([]byte(m.MetricFamilyName), metricType(uint64(m.Type)), []byte(m.Help), []byte(m.Unit))
		}
		return nil
	}
}

func packed(labels []prompb.Label) []byte {
	var p []byte
	for _, l := range labels {
		p = series.AppendPair(p, l.Name, l.Value)
	}
	return p
}

func histogramOf(h *prompb.Histogram) *series.Histogram {
	_, float := h.Count.(*prompb.Histogram_CountFloat)
	out := &series.Histogram{
		Schema: h.Schema, Float: float, ResetHint: uint8(min(uint64(h.ResetHint), 4) % 4), ZeroThreshold: h.ZeroThreshold, Sum: h.Sum,
		Count: h.GetCountInt(), CountFloat: h.GetCountFloat(), ZeroCount: h.GetZeroCountInt(), ZeroCountFloat: h.GetZeroCountFloat(),
		PositiveDeltas: h.PositiveDeltas, NegativeDeltas: h.NegativeDeltas,
		PositiveCounts: h.PositiveCounts, NegativeCounts: h.NegativeCounts, CustomValues: h.CustomValues,
	}
	for _, s := range h.PositiveSpans {
		out.PositiveSpans = append(out.PositiveSpans, series.Span{Offset: s.Offset, Length: s.Length})
	}
	for _, s := range h.NegativeSpans {
		out.NegativeSpans = append(out.NegativeSpans, series.Span{Offset: s.Offset, Length: s.Length})
	}
	return out
}

// theirs2 takes a request by way of writev2.
func theirs2(raw []byte) func(*series.Batch) error {
	return func(b *series.Batch) error {
		var req writev2.Request
		if err := req.Unmarshal(raw); err != nil {
			return err
		}
		if len(req.Symbols) > 0 && req.Symbols[0] != "" {
			return errOddRefs
		}
		resolve := func(refs []uint32) ([]byte, error) {
			if len(refs)%2 != 0 {
				return nil, errOddRefs
			}
			for _, r := range refs {
				if int(r) >= len(req.Symbols) {
					return nil, errRef(uint64(r), len(req.Symbols))
				}
			}
			var p []byte
			for i := 0; i < len(refs); i += 2 {
				p = series.AppendPair(p, req.Symbols[refs[i]], req.Symbols[refs[i+1]])
			}
			return p, nil
		}
		for _, ts := range req.Timeseries {
			labels, err := resolve(ts.LabelsRefs)
			if err != nil {
				return err
			}
			n := max(len(req.Symbols), 1)
			if int(ts.Metadata.HelpRef) >= n || int(ts.Metadata.UnitRef) >= n {
				return errRef(0, n)
			}
			if md := ts.Metadata; len(req.Symbols) > 0 && (md.Type != 0 || req.Symbols[md.HelpRef] != "" || req.Symbols[md.UnitRef] != "") {
				for i := 0; i < len(ts.LabelsRefs); i += 2 {
					if req.Symbols[ts.LabelsRefs[i]] == "__name__" {
						b.SeriesMetadata([]byte(req.Symbols[ts.LabelsRefs[i+1]]), metricType(uint64(md.Type)), []byte(req.Symbols[md.HelpRef]), []byte(req.Symbols[md.UnitRef]))
						break
					}
				}
			}
			if len(ts.Samples)+len(ts.Histograms)+len(ts.Exemplars) == 0 {
				continue
			}
			b.Series(labels)
			for _, s := range ts.Samples {
				b.Float(s.Timestamp, s.Value, s.StartTimestamp)
			}
			for _, h := range ts.Histograms {
				v1 := prompb.Histogram{}
				st := h.StartTimestamp
				h.StartTimestamp = 0
				wire, err := h.Marshal()
				if err == nil {
					err = v1.Unmarshal(wire) // the same fields by the same numbers
				}
				if err != nil {
					return err
				}
				b.Histogram(h.Timestamp, histogramOf(&v1), st)
			}
			for _, e := range ts.Exemplars {
				labels, err := resolve(e.LabelsRefs)
				if err != nil {
					return err
				}
				b.Exemplar(series.Exemplar{Labels: labels, Value: e.Value, Time: e.Timestamp})
			}
		}
		return nil
	}
}

// agree fails unless both ways refuse the bytes, or both take the same from them.
func agree(t *testing.T, v version, raw []byte) {
	t.Helper()
	theirs := theirs1
	if v == v2 {
		theirs = theirs2
	}
	want, wantErr := taken(t, theirs(raw))
	got, err := taken(t, ours(v, raw))
	if err == errVersion || err == errPacked {
		return // refused by us alone, and rightly
	}
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("version %s of %x:\nerror   %v\noracle  %v", v, raw, err, wantErr)
	}
	if got != want {
		t.Fatalf("version %s of %x:\ngot    %s\noracle %s", v, raw, got, want)
	}
}

// random1 makes a request with all that 1.0 has.
func random1(r *rand.Rand) []byte {
	req := &prompb.WriteRequest{}
	for range r.IntN(6) {
		ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: fmt.Sprint("m", r.IntN(4))}}}
		for i := range r.IntN(4) {
			ts.Labels = append(ts.Labels, prompb.Label{Name: fmt.Sprint("l", (i*7+r.IntN(2))%5), Value: strings.Repeat("v", r.IntN(3)*r.IntN(80))})
		}
		for range r.IntN(3) {
			ts.Samples = append(ts.Samples, prompb.Sample{Value: []float64{0, 1, math.NaN(), -0.5, math.Float64frombits(0x7ff0000000000002)}[r.IntN(5)], Timestamp: at.UnixMilli() - r.Int64N(100_000)})
		}
		if r.IntN(4) == 0 {
			ts.Exemplars = append(ts.Exemplars, prompb.Exemplar{Labels: []prompb.Label{{Name: "trace_id", Value: "abc"}}, Value: 3, Timestamp: at.UnixMilli()})
		}
		if r.IntN(4) == 0 {
			ts.Histograms = append(ts.Histograms, prompb.Histogram{
				Count: &prompb.Histogram_CountInt{CountInt: 6}, Sum: 18.4, Schema: 1, ZeroThreshold: 0.001,
				ZeroCount:     &prompb.Histogram_ZeroCountInt{ZeroCountInt: 1},
				PositiveSpans: []prompb.BucketSpan{{Offset: -1, Length: 2}, {Offset: 3, Length: 1}}, PositiveDeltas: []int64{1, 1, 0},
				ResetHint: prompb.Histogram_GAUGE, Timestamp: at.UnixMilli(),
			})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	for range r.IntN(3) {
		req.Metadata = append(req.Metadata, prompb.MetricMetadata{MetricFamilyName: fmt.Sprint("m", r.IntN(4)), Type: prompb.MetricMetadata_MetricType(r.IntN(9)), Help: "h", Unit: "s"})
	}
	raw, err := req.Marshal()
	if err != nil {
		panic(err)
	}
	return raw
}

// random2 makes a request with all that 2.0 has.
func random2(r *rand.Rand) []byte {
	req := &writev2.Request{Symbols: []string{"", "__name__", "m0", "m1", "l", "v", "x", "help", "trace_id", "s"}}
	if r.IntN(8) == 0 {
		for i := range 300 { // references of two bytes
			req.Symbols = append(req.Symbols, fmt.Sprint("w", i))
		}
	}
	ref := func() uint32 { return uint32(r.IntN(len(req.Symbols))) }
	for range r.IntN(6) {
		ts := writev2.TimeSeries{LabelsRefs: []uint32{1, 2 + uint32(r.IntN(2))}}
		if r.IntN(2) == 0 {
			ts.LabelsRefs = append(ts.LabelsRefs, 4, ref())
		}
		for range r.IntN(3) {
			ts.Samples = append(ts.Samples, writev2.Sample{Value: float64(r.IntN(3)), Timestamp: at.UnixMilli() - r.Int64N(100_000), StartTimestamp: int64(r.IntN(2)) * 77})
		}
		if r.IntN(3) == 0 {
			ts.Metadata = writev2.Metadata{Type: writev2.Metadata_MetricType(r.IntN(8)), HelpRef: 7, UnitRef: uint32(r.IntN(2)) * 9}
		}
		if r.IntN(4) == 0 {
			ts.Exemplars = append(ts.Exemplars, writev2.Exemplar{LabelsRefs: []uint32{8, ref()}, Value: 3, Timestamp: at.UnixMilli()})
		}
		if r.IntN(4) == 0 {
			ts.Histograms = append(ts.Histograms, writev2.Histogram{
				Count: &writev2.Histogram_CountFloat{CountFloat: 6.5}, Sum: 18.4, Schema: -53, CustomValues: []float64{1, 2.5},
				PositiveSpans: []writev2.BucketSpan{{Length: 2}}, PositiveCounts: []float64{2.5, 4}, Timestamp: at.UnixMilli(), StartTimestamp: 5,
			})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	raw, err := req.Marshal()
	if err != nil {
		panic(err)
	}
	return raw
}

// oddities are encodings that no sender writes and protobuf allows, and some that
// it does not.
var oddities = [][]byte{
	{}, {0x0a, 0x00}, {0x0a}, {0x0a, 0x02, 0x0a, 0x00}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
	{0x0b, 0x0c}, {0x0c}, {0x00, 0x01}, {0x08, 0x01}, {0x18, 0x80}, {0x3a, 0x01, 0x41}, {0x3b, 0x08, 0x01, 0x3c}, {0x07, 0x01}, {0x1d, 1, 2, 3},
	{0x22, 0x00, 0x2a, 0x00}, {0x2a, 0x02, 0x08, 0x00, 0x22, 0x00}, {0x22, 0x01, 'x'}, {0x2a, 0x03, 0x0a, 0x01, 0x09}, {0x2a, 0x03, 0x0a, 0x01, 0x80},
	{0x25, 1, 2, 3, 4}, {0x28, 1},
}

func TestDecodersAgree(t *testing.T) {
	for _, raw := range oddities {
		agree(t, v1, raw)
		agree(t, v2, raw)
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		agree(t, v1, random1(r))
		agree(t, v2, random2(r))
	}
}

// Every request cut at every byte is refused or taken just as the oracles do.
func TestDecodersAgreeOnTruncation(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		one, two := random1(r), random2(r)
		for i := range one {
			agree(t, v1, one[:i])
		}
		for i := range two {
			agree(t, v2, two[:i])
		}
	}
}

func FuzzV1(f *testing.F) { fuzz(f, v1, random1) }
func FuzzV2(f *testing.F) { fuzz(f, v2, random2) }

func fuzz(f *testing.F, v version, random func(*rand.Rand) []byte) {
	for _, raw := range oddities {
		f.Add(raw)
	}
	for seed := range uint64(30) {
		f.Add(random(rand.New(rand.NewPCG(seed, 3))))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { agree(t, v, raw) })
}
