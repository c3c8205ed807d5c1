package exposition

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sort"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	promhistogram "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"go.uber.org/goleak"

	"relay/series"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	acceptText0 = "text/plain;version=0.0.4"
	acceptText1 = "text/plain;version=1.0.0;escaping=allow-utf-8"
	acceptOM    = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"
	acceptProto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8"
)

var allAccepts = []string{acceptText0, acceptText1, acceptOM, acceptProto}

// get scrapes once.
func get(t testing.TB, store *series.Store, opts Options, accept, query string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	opts.Store = store
	h, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/metrics?"+query, nil)
	r.Header.Set("Accept", accept)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// push puts series of one edge into a store.
func push(t testing.TB, store *series.Store, edge string, fill func(*series.Batch)) series.Result {
	t.Helper()
	now := time.Now()
	b := store.NewBatch(series.Request{Edge: edge, Received: now, Now: now})
	defer b.Release()
	fill(b)
	return b.Commit()
}

// set packs labels given as name, value, name, value.
func set(l ...string) []byte {
	var p []byte
	for i := 0; i < len(l); i += 2 {
		p = series.AppendPair(p, l[i], l[i+1])
	}
	return p
}

// parsed is what Prometheus makes of a page: for each label set the samples.
type parsed struct {
	samples   map[string][]string
	types     map[string]string
	help      map[string]string
	exemplars []string // their labels
}

// parse reads a page as a Prometheus scrape does, and fails where that fails.
func parse(t testing.TB, w *httptest.ResponseRecorder) parsed {
	t.Helper()
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	page, contentType := w.Body.Bytes(), w.Header().Get("Content-Type")
	for _, options := range []textparse.ParserOptions{
		{IgnoreNativeHistograms: true}, {ConvertClassicHistogramsToNHCB: true}, {KeepClassicOnClassicAndNativeHistograms: true},
		{ConvertClassicHistogramsToNHCB: true, KeepClassicOnClassicAndNativeHistograms: true}, {EnableTypeAndUnitLabels: true},
	} {
		swallow(t, page, contentType, options)
	}
	return parseBytes(t, page, contentType)
}

// swallow fails where a scrape with some settings does.
func swallow(t testing.TB, page []byte, contentType string, options textparse.ParserOptions) {
	t.Helper()
	p, err := textparse.New(page, contentType, nil, options)
	if err != nil {
		t.Fatal(err)
	}
	for {
		entry, err := p.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("%s: a scrape with %+v fails: %v\n%.2000q", contentType, options, err, page)
		}
		if entry != textparse.EntrySeries && entry != textparse.EntryHistogram {
			continue
		}
		if entry == textparse.EntryHistogram {
			_, _, h, fh := p.Histogram()
			if h != nil {
				err = h.Validate()
			} else {
				err = fh.Validate()
			}
		}
		var l labels.Labels
		p.Labels(&l)
		if _, twice := l.HasDuplicateLabelNames(); twice || err != nil {
			t.Errorf("%s: a scrape with %+v fails at %s: %v\n%.2000q", contentType, options, l, err, page)
		}
	}
}

func parseBytes(t testing.TB, page []byte, contentType string) parsed {
	t.Helper()
	p, err := textparse.New(page, contentType, nil, textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := parsed{map[string][]string{}, map[string]string{}, map[string]string{}, nil}
	add := func(ts *int64, value string) {
		var l labels.Labels
		p.Labels(&l)
		if name, twice := l.HasDuplicateLabelNames(); twice {
			t.Errorf("%s: %s has the label %s twice: Prometheus refuses the whole page\n%.2000q", contentType, l, name, page)
		}
		at := "none"
		if ts != nil {
			at = fmt.Sprint(*ts)
		}
		key := normal(l)
		out.samples[key] = append(out.samples[key], value+" @"+at)
		var e exemplar.Exemplar
		for p.Exemplar(&e) {
			if name, twice := e.Labels.HasDuplicateLabelNames(); twice {
				t.Errorf("%s: an exemplar of %s has the label %s twice", contentType, l, name)
			}
			out.exemplars = append(out.exemplars, e.Labels.String())
		}
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("Prometheus does not parse the page: %v\n%.2000q", err, page)
		}
		switch entry {
		case textparse.EntrySeries:
			_, ts, v := p.Series()
			add(ts, number(v))
		case textparse.EntryHistogram:
			_, ts, h, fh := p.Histogram()
			if h != nil {
				add(ts, h.String()+fmt.Sprint(h.CounterResetHint == promhistogram.GaugeType))
			} else {
				add(ts, fh.String()+fmt.Sprint(fh.CounterResetHint == promhistogram.GaugeType))
			}
		case textparse.EntryType:
			name, typ := p.Type()
			out.types[string(name)] = string(typ)
		case textparse.EntryHelp:
			name, help := p.Help()
			out.help[string(name)] = string(help)
		}
	}
	return out
}

func number(v float64) string {
	if math.IsNaN(v) {
		return "NaN"
	}
	return fmt.Sprintf("%x", math.Float64bits(v))
}

// normal is a label set as text, bounds spelt as Prometheus does.
func normal(l labels.Labels) string {
	b := labels.NewBuilder(l)
	for _, name := range []string{"le", "quantile"} {
		if f, err := strconv.ParseFloat(l.Get(name), 64); err == nil {
			b.Set(name, formatBound(f))
		}
	}
	return b.Labels().String()
}

// stored is what the store shows, in the form of parsed.samples.
type stored struct {
	samples map[string][]string
	natives int
}

func (s *stored) BeginFamily(*series.Family) {}
func (s *stored) EndFamily(*series.Family)   {}
func (s *stored) Flush() error               { return nil }
func (s *stored) Series(_ *series.Family, x *series.Series) {
	if x.Histogram != nil {
		s.natives++
		return
	}
	b := labels.NewScratchBuilder(8)
	b.Add("__name__", x.Name)
	for l := range x.Pairs {
		b.Add(string(l.Name), string(l.Value))
	}
	if !hasInstance(x) {
		b.Add("instance", "")
	}
	b.Sort()
	at := "none"
	if x.TTL <= 300_000 {
		at = fmt.Sprint(x.Time)
	}
	key := normal(b.Labels())
	s.samples[key] = append(s.samples[key], number(x.Value)+" @"+at)
}

func show(t testing.TB, store *series.Store) stored {
	t.Helper()
	s := stored{samples: map[string][]string{}}
	if err := store.Scan(time.Now(), series.Query{}, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func same(t testing.TB, what string, got, want map[string][]string) {
	t.Helper()
	for key, samples := range want {
		sort.Strings(samples)
		sort.Strings(got[key])
		if strings.Join(got[key], " ") != strings.Join(samples, " ") {
			t.Errorf("%s: %s is %v on the page, %v in the store", what, key, got[key], samples)
		}
	}
	for key := range got {
		if want[key] == nil {
			t.Errorf("%s: %s is on the page, not in the store", what, key)
		}
	}
}

var oddNames = []string{"up", "http_requests_total", "lat_seconds_bucket", "lat_seconds_sum", "lat_seconds_count", "lat_seconds", "rpc", "rpc_sum", "rpc_count", "my.metric", "my-metric", "my_metric", "with space", "quo\"te", "back\\slash", "new\nline", "Ünïcode", "a:b", "{}", "0start", "build_info", "foo_created", "#", "car_x\"y", "car_x\ny 1", "car_µs", "car_x"}
var oddValues = []string{"x", "y", "", "1", "0.5", "+Inf", "1.0", "quo\"te", "back\\slash", "\n# TYPE x counter\nx 1", "Ünïcode \u2028", "<img onerror>", "\r", "\t", "nul\x00", strings.Repeat("long", 60)}
var oddLabels = []string{"le", "quantile", "instance", "job", "l.x", "l_x", "l-x", "with space", "a:b", "quo\"te", "\n", "é"}
var oddUnits = []string{"", "seconds", "x", "x\"y", "x\ny 1", "x y", "µs", "x\\"}
var oddFloats = []float64{0, 1, -1, 0.5, 1e300, 5e-324, math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 1e15, 1e21, 123456789012345678, 3}

// fill makes a store with all sorts of things in it.
func fill(t testing.TB, r *rand.Rand, n int) *series.Store {
	store := series.New(series.Options{})
	pick := func(s []string) string { return s[r.IntN(len(s))] }
	for edge := range 2 {
		push(t, store, fmt.Sprint("e", edge), func(b *series.Batch) {
			for range n {
				l := []string{"__name__", pick(oddNames)}
				used := map[string]bool{}
				for range r.IntN(4) {
					if name := pick(oddLabels); !used[name] {
						used[name] = true
						l = append(l, name, pick(oddValues))
					}
				}
				if r.IntN(5) == 0 {
					l = append(l, "__ttl__", "1h")
				}
				b.Series(set(l...))
				b.Float(time.Now().UnixMilli()-r.Int64N(3)*1000, oddFloats[r.IntN(len(oddFloats))], r.Int64N(2)*1000)
				if r.IntN(4) == 0 {
					b.Exemplar(series.Exemplar{Labels: set("trace_id", pick(oddValues), pick(oddLabels), "v"), Value: 1, Time: r.Int64N(2) * 1_700_000_000_001})
				}
			}
			for _, name := range oddNames {
				if r.IntN(2) == 0 {
					b.Metadata([]byte(name), series.MetricType(r.IntN(8)), []byte(pick(oddValues)), []byte(pick(oddUnits)))
				}
			}
			b.Metadata([]byte("lat_seconds"), series.HistogramType, []byte("latency \\ \n \""), []byte("seconds"))
			b.Metadata([]byte("rpc"), series.Summary, []byte("help"), nil)
		})
	}
	return store
}

// What a scraper reads from any page is what the store shows: all of it, in all
// formats, with the same values and times.
func TestPagesSayWhatTheStoreShows(t *testing.T) {
	for seed := range uint64(60) {
		store := fill(t, rand.New(rand.NewPCG(seed, 0)), 60)
		want := show(t, store)
		for _, accept := range allAccepts[1:] { // 0.0.4 cannot say these names
			same(t, fmt.Sprintf("seed %d, %.40s", seed, accept), parse(t, get(t, store, Options{}, accept, "")).samples, want.samples)
		}
		got := parse(t, get(t, store, Options{}, acceptText0, ""))
		for key, samples := range got.samples {
			if len(samples) > 1 && !strings.Contains(key, "le=") && !strings.Contains(key, "quantile=") {
				t.Errorf("seed %d: escaped, %s is there twice: %v", seed, key, samples)
			}
		}
	}
}

// The other parsers of the field are stricter; a page of well-formed metrics
// passes them.
func TestStrictParsers(t *testing.T) {
	store := wellFormed(t)
	for _, accept := range allAccepts {
		w := get(t, store, Options{}, accept, "")
		d := expfmt.NewDecoder(bytes.NewReader(w.Body.Bytes()), expfmt.ResponseFormat(w.Header()))
		n := 0
		for {
			var mf dto.MetricFamily
			err := d.Decode(&mf)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%.40s: %v\n%s", accept, err, w.Body)
			}
			n++
		}
		if n < 5 {
			t.Errorf("%.40s: %d families\n%s", accept, n, w.Body)
		}
	}
}

// wellFormed is what a usual edge sends.
func wellFormed(t testing.TB) *series.Store {
	store := series.New(series.Options{})
	now := time.Now().UnixMilli()
	push(t, store, "shop", func(b *series.Batch) {
		float := func(v float64, l ...string) {
			b.Series(set(append(l, "instance", "shop:9100", "job", "node")...))
			b.Float(now, v, 0)
		}
		b.Metadata([]byte("http_requests"), series.Counter, []byte("Requests."), nil)
		b.Metadata([]byte("temperature_celsius"), series.Gauge, []byte("How warm\nit is."), []byte("celsius"))
		b.Metadata([]byte("lat_seconds"), series.HistogramType, []byte("Latency."), []byte("seconds"))
		b.Metadata([]byte("rpc_seconds"), series.Summary, []byte("RPCs."), []byte("seconds"))
		float(12, "__name__", "http_requests_total", "code", "200")
		float(1, "__name__", "http_requests_total", "code", "500")
		b.Exemplar(series.Exemplar{Labels: set("trace_id", "abc"), Value: 1, Time: now})
		float(21.5, "__name__", "temperature_celsius")
		float(7, "__name__", "something_untyped")
		for _, path := range []string{"/", "/cart"} {
			for i, le := range []string{"0.1", "0.5", "1.0", "+Inf"} {
				float(float64(i*10), "__name__", "lat_seconds_bucket", "le", le, "path", path)
			}
			float(30, "__name__", "lat_seconds_count", "path", path)
			float(12.25, "__name__", "lat_seconds_sum", "path", path)
		}
		float(0.05, "__name__", "rpc_seconds", "quantile", "0.5")
		float(0.09, "__name__", "rpc_seconds", "quantile", "0.99")
		float(17, "__name__", "rpc_seconds_sum")
		float(200, "__name__", "rpc_seconds_count")
	})
	return store
}

func TestTypesAndHelp(t *testing.T) {
	store := wellFormed(t)
	for _, accept := range allAccepts {
		got := parse(t, get(t, store, Options{}, accept, ""))
		counterName := "http_requests_total"
		if accept == acceptOM {
			counterName = "http_requests"
		}
		for name, typ := range map[string]string{counterName: "counter", "temperature_celsius": "gauge", "lat_seconds": "histogram", "rpc_seconds": "summary", "something_untyped": "unknown"} {
			if got.types[name] != typ {
				t.Errorf("%.40s: type of %s is %q, want %q", accept, name, got.types[name], typ)
			}
		}
		if got.help["temperature_celsius"] != "How warm\nit is." || got.help["lat_seconds"] != "Latency." {
			t.Errorf("%.40s: help %q", accept, got.help)
		}
		if want := 1; (accept == acceptOM || accept == acceptProto) && len(got.exemplars) != want {
			t.Errorf("%.40s: %d exemplars, want %d", accept, len(got.exemplars), want)
		}
	}
}

// An edge that calls another's gauge a histogram takes nothing off the page.
func TestForeignTypeHidesNothing(t *testing.T) {
	store := series.New(series.Options{})
	push(t, store, "good", func(b *series.Batch) {
		b.Series(set("__name__", "temp", "shop", "1"))
		b.Float(time.Now().UnixMilli(), 20, 0)
		b.Metadata([]byte("temp"), series.Gauge, nil, nil)
	})
	for _, edge := range []string{"bad1", "bad2"} {
		push(t, store, edge, func(b *series.Batch) { b.Metadata([]byte("temp"), series.HistogramType, nil, nil) })
	}
	want := show(t, store)
	for _, accept := range allAccepts {
		same(t, accept, parse(t, get(t, store, Options{}, accept, "")).samples, want.samples)
	}
}

func TestNativeHistograms(t *testing.T) {
	store := series.New(series.Options{})
	now := time.Now().UnixMilli()
	push(t, store, "e", func(b *series.Batch) {
		b.Metadata([]byte("lat"), series.HistogramType, []byte("h"), nil)
		b.Series(set("__name__", "lat", "instance", "i"))
		b.Histogram(now, &series.Histogram{Schema: 1, ZeroThreshold: 0.001, ZeroCount: 1, Count: 6, Sum: 18.4,
			PositiveSpans: []series.Span{{Offset: -1, Length: 2}, {Offset: 3, Length: 1}}, PositiveDeltas: []int64{1, 1, -1},
			NegativeSpans: []series.Span{{Offset: 0, Length: 1}}, NegativeDeltas: []int64{1}}, 1000)
		b.Exemplar(series.Exemplar{Labels: set("trace_id", "t"), Value: 1, Time: now})
		b.Series(set("__name__", "fl", "instance", "i"))
		b.Histogram(now, &series.Histogram{Schema: 0, Float: true, ResetHint: 3, CountFloat: 3.5, Sum: 2,
			PositiveSpans: []series.Span{{Length: 1}}, PositiveCounts: []float64{3.5}}, 0)
		b.Series(set("__name__", "custom", "instance", "i"))
		b.Histogram(now, &series.Histogram{Schema: series.CustomBuckets, Count: 5, Sum: 7, CustomValues: []float64{1, 2.5},
			PositiveSpans: []series.Span{{Length: 1}, {Offset: 1, Length: 1}}, PositiveDeltas: []int64{2, 1}}, 0)
		b.Series(set("__name__", "empty", "instance", "i"))
		b.Histogram(now, &series.Histogram{}, 0)
		// Classic series beside the native ones are not written twice.
		b.Series(set("__name__", "both", "instance", "i"))
		b.Histogram(now, &series.Histogram{Schema: 0, Count: 1, Sum: 2, PositiveSpans: []series.Span{{Length: 1}}, PositiveDeltas: []int64{1}}, 0)
		b.Series(set("__name__", "both_count", "instance", "i"))
		b.Float(now, 1, 0)
	})
	at := fmt.Sprint(" @", now)
	custom := map[string]string{`{__name__="custom_bucket", instance="i", le="1.0"}`: number(2), `{__name__="custom_bucket", instance="i", le="2.5"}`: number(2),
		`{__name__="custom_bucket", instance="i", le="+Inf"}`: number(5), `{__name__="custom_sum", instance="i"}`: number(7), `{__name__="custom_count", instance="i"}`: number(5),
		`{__name__="both_count", instance="i"}`: number(1)}
	native := map[string]string{
		`{__name__="lat", instance="i"}`:   "{count:6, sum:18.4, [-1,-0.7071067811865475):1, [-0.001,0.001]:1, (0.5,0.7071067811865475]:1, (0.7071067811865475,1]:2, (2.82842712474619,4]:1}false",
		`{__name__="fl", instance="i"}`:    "{count:3.5, sum:2, (0.5,1]:3.5}true",
		`{__name__="empty", instance="i"}`: "{count:0, sum:0}false",
		`{__name__="both", instance="i"}`:  "{count:1, sum:2, (0.5,1]:1}false",
	}
	text := map[string]string{
		`{__name__="lat_bucket", instance="i", le="+Inf"}`: number(6), `{__name__="lat_sum", instance="i"}`: number(18.4), `{__name__="lat_count", instance="i"}`: number(6),
		`{__name__="fl_bucket", instance="i", le="+Inf"}`: number(3.5), `{__name__="fl_sum", instance="i"}`: number(2), `{__name__="fl_count", instance="i"}`: number(3.5),
		`{__name__="empty_bucket", instance="i", le="+Inf"}`: number(0), `{__name__="empty_sum", instance="i"}`: number(0), `{__name__="empty_count", instance="i"}`: number(0),
		`{__name__="both_bucket", instance="i", le="+Inf"}`: number(1), `{__name__="both_sum", instance="i"}`: number(2),
	}
	for _, accept := range allAccepts {
		want := map[string][]string{}
		for _, m := range []map[string]string{custom, map[bool]map[string]string{true: native, false: text}[accept == acceptProto]} {
			for k, v := range m {
				want[k] = []string{v + at}
			}
		}
		same(t, accept, parse(t, get(t, store, Options{}, accept, "")).samples, want)
	}
}

// A label le on a native histogram is that of its buckets, too: Prometheus refuses a
// page that has one twice.
func TestNativeHistogramsWithBound(t *testing.T) {
	store := series.New(series.Options{})
	now := time.Now().UnixMilli()
	push(t, store, "e", func(b *series.Batch) {
		for _, name := range []string{"exponential", "custom"} {
			h := &series.Histogram{Count: 1, Sum: 2, PositiveSpans: []series.Span{{Length: 1}}, PositiveDeltas: []int64{1}}
			if name == "custom" {
				h.Schema, h.CustomValues = series.CustomBuckets, []float64{1}
			}
			b.Series(set("__name__", name, "le", "5"))
			b.Histogram(now, h, 0)
			b.Series(set("__name__", name, "le", ""))
			b.Histogram(now, h, 0)
		}
	})
	for _, accept := range allAccepts {
		reg := prometheus.NewRegistry()
		w := get(t, store, Options{Registerer: reg}, accept, "")
		for l := range parse(t, w).samples {
			if strings.Contains(l, `le="5"`) {
				t.Errorf("%s shows %s", accept, l)
			}
		}
		if n := omittedFor(t, reg, "native_histogram_with_le"); n != 2 {
			t.Errorf("%s: %v series are left out, want 2", accept, n)
		}
	}
}

// histogramOf is an integer one with custom bounds 1 and 2.5.
func histogramOf(custom bool) *series.Histogram {
	h := &series.Histogram{Count: 3, Sum: 7, PositiveSpans: []series.Span{{Length: 2}}, PositiveDeltas: []int64{2, -1}}
	if custom {
		h.Schema, h.CustomValues = series.CustomBuckets, []float64{1, 2.5}
	}
	return h
}

// A series takes the place of a line of a native histogram only if it is that line:
// another edge's hides nothing.
func TestRealSeriesBesideNativeHistograms(t *testing.T) {
	for _, custom := range []bool{false, true} {
		for _, real := range []string{"h_bucket", "h_sum", "h_count"} {
			for _, le := range []string{"1", "1.0", "+Inf"} {
				if real == "h_bucket" && !custom && le != "+Inf" {
					continue // it has none of these buckets
				}
				store := series.New(series.Options{})
				push(t, store, "good", func(b *series.Batch) {
					for _, site := range []string{"a", "b"} {
						b.Series(set("__name__", "h", "site", site))
						b.Histogram(time.Now().UnixMilli(), histogramOf(custom), 0)
					}
				})
				push(t, store, "other", func(b *series.Batch) {
					for _, site := range []string{"b", "other"} {
						if real == "h_bucket" {
							b.Series(set("__name__", real, "le", le, "site", site))
						} else {
							b.Series(set("__name__", real, "site", site))
						}
						b.Float(time.Now().UnixMilli(), 99, 0)
					}
				})
				for _, accept := range allAccepts {
					got := parse(t, get(t, store, Options{}, accept, "")).samples
					for l, samples := range got {
						if len(samples) != 1 {
							t.Errorf("%s, custom %v: %s is there %d times", accept, custom, l, len(samples))
						}
					}
					if accept == acceptProto && !custom {
						continue // where they are native ones
					}
					lines := func(site string) (n int) {
						for l := range got {
							if strings.Contains(l, "site=\""+site+"\"") {
								n++
							}
						}
						return n
					}
					want := 3
					if custom {
						want = 5
					}
					if n := lines("a"); n != want {
						t.Errorf("%s, custom %v, %s: %d lines of another site, want %d\n%v", accept, custom, real, n, want, got)
					}
					if real == "h_bucket" {
						want = 3 // the real bucket, sum and count
					}
					if n := lines("b"); n != want {
						t.Errorf("%s, custom %v, %s: %d lines of that site, want %d\n%v", accept, custom, real, n, want, got)
					}
				}
			}
		}
	}
}

// What escaping makes one line is there once, be it of a native histogram or not.
func TestEscapedNativeHistograms(t *testing.T) {
	for _, custom := range []bool{false, true} {
		for _, native := range []string{"a.b", "a_b"} {
			for _, label := range []string{"", "l", "l.x"} {
				for _, real := range []string{"a_b_sum", "a.b_sum", "a-b_sum", "a_b_count", "a.b_count", "a_b_bucket", "a.b_bucket"} {
					store := series.New(series.Options{})
					push(t, store, "e", func(b *series.Batch) {
						l := []string{"__name__", native}
						if label != "" {
							l = append(l, label, "v")
						}
						b.Series(set(l...))
						b.Histogram(time.Now().UnixMilli(), histogramOf(custom), 0)
						l[1] = real
						if strings.HasSuffix(real, "_bucket") {
							l = append(l, "le", "+Inf")
						}
						b.Series(set(l...))
						b.Float(time.Now().UnixMilli(), 99, 0)
					})
					for _, accept := range append(allAccepts, strings.ReplaceAll(acceptOM, ";escaping=allow-utf-8", ""), strings.ReplaceAll(acceptProto, ";escaping=allow-utf-8", "")) {
						for l, samples := range parse(t, get(t, store, Options{}, accept, "")).samples {
							if len(samples) != 1 {
								t.Errorf("%s, %s and %s, custom %v: %s is there %d times", accept, native, real, custom, l, len(samples))
							}
							if real[:3] == native && strings.Contains(l, real) && samples[0][:len(number(99))] != number(99) {
								t.Errorf("%s, %s and %s, custom %v: %s is %s, not the real one", accept, native, real, custom, l, samples)
							}
						}
					}
				}
			}
		}
	}
}

// A native histogram with custom buckets that do not add up is shown, and fails no
// scrape. Integer ones always do, however large.
func TestOddCustomBuckets(t *testing.T) {
	for name, h := range map[string]*series.Histogram{
		"more in buckets": {Float: true, CountFloat: 1, PositiveCounts: []float64{1, 1}},
		"less in buckets": {Float: true, CountFloat: 3.5, PositiveCounts: []float64{1, 1}},
		"infinite":        {Float: true, CountFloat: 1, PositiveCounts: []float64{math.Inf(1), math.Inf(1)}},
		"large":           {Count: 1<<53 + 3, PositiveDeltas: []int64{1<<53 + 2, -1<<53 - 1}},
		"very large":      {Count: 1<<63 - 1<<61 + 6, PositiveDeltas: []int64{1<<62 + 3, -1 << 61}},
	} {
		h.Schema, h.Sum, h.CustomValues, h.PositiveSpans = series.CustomBuckets, 1, []float64{1, 2, 3}, []series.Span{{Length: 2}}
		store := series.New(series.Options{})
		if res := push(t, store, "e", func(b *series.Batch) {
			b.Series(set("__name__", "h"))
			b.Histogram(time.Now().UnixMilli(), h, 0)
		}); res.Refused() > 0 {
			t.Errorf("%s: %v", name, res.First)
		}
		for _, accept := range allAccepts {
			if got := parse(t, get(t, store, Options{}, accept, "")).samples; len(got) != 6 {
				t.Errorf("%s, %s: %v", name, accept, got)
			}
		}
	}
}

// Native histograms and classic ones of one family are never in one message: a
// Prometheus before 3.0 takes all of a message for what the first one is.
func TestNativeHistogramsHaveTheirMessages(t *testing.T) {
	store := series.New(series.Options{})
	now := time.Now().UnixMilli()
	push(t, store, "e", func(b *series.Batch) {
		b.Metadata([]byte("lat"), series.HistogramType, nil, nil)
		for i := range 20 {
			l := fmt.Sprint(i)
			if i%2 == 0 {
				b.Series(set("__name__", "lat", "x", l))
				b.Histogram(now, histogramOf(i%4 == 0), 0)
				continue
			}
			for _, s := range [][]byte{set("__name__", "lat_bucket", "le", "+Inf", "x", l), set("__name__", "lat_sum", "x", l), set("__name__", "lat_count", "x", l)} {
				b.Series(s)
				b.Float(now, 1, 0)
			}
		}
	})
	w := get(t, store, Options{}, acceptProto, "")
	parse(t, w)
	d := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	of := map[bool]int{}
	for {
		var mf dto.MetricFamily
		if err := d.Decode(&mf); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		first := len(mf.Metric[0].Histogram.PositiveSpan) > 0
		for _, m := range mf.Metric {
			native := len(m.Histogram.PositiveSpan) > 0
			of[native]++
			if native != first {
				t.Errorf("native ones and classic ones in %v", &mf)
			}
		}
	}
	if of[true] != 5 || of[false] != 15 {
		t.Errorf("%v histograms, by whether they are native", of)
	}
}

// omittedFor is how many series pages did not show for a reason.
func omittedFor(t testing.TB, reg prometheus.Gatherer, reason string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "relay_scrape_omitted_series_total" && m.Label[0].GetValue() == reason {
				return m.Counter.GetValue()
			}
		}
	}
	t.Fatalf("nothing is left out for %s", reason)
	return 0
}

// A histogram that lacks a part, or whose parts are of different times, is shown
// as it is, with nothing made up.
func TestIncompleteHistograms(t *testing.T) {
	now := time.Now().UnixMilli()
	for name, fill := range map[string]func(b *series.Batch){
		"no sum":   func(b *series.Batch) { bucketSeries(b, now, "+Inf", 1); countSeries(b, now, 1) },
		"no count": func(b *series.Batch) { bucketSeries(b, now, "+Inf", 1); sumSeries(b, now) },
		"no +Inf":  func(b *series.Batch) { bucketSeries(b, now, "1", 1); sumSeries(b, now); countSeries(b, now, 1) },
		"torn":     func(b *series.Batch) { bucketSeries(b, now, "+Inf", 1); sumSeries(b, now-1000); countSeries(b, now, 1) },
		"sum and count": func(b *series.Batch) {
			sumSeries(b, now)
			countSeries(b, now, 1)
		},
		"fractions":      func(b *series.Batch) { bucketSeries(b, now, "+Inf", 1); sumSeries(b, now); countSeries(b, now, 1.5) },
		"negative count": func(b *series.Batch) { bucketSeries(b, now, "+Inf", 1); sumSeries(b, now); countSeries(b, now, -1) },
		"zero":           func(b *series.Batch) { bucketSeries(b, now, "+Inf", 1); sumSeries(b, now); countSeries(b, now, 0) },
		"bound no number": func(b *series.Batch) {
			bucketSeries(b, now, "many", 1)
			bucketSeries(b, now, "+Inf", 1)
			sumSeries(b, now)
			countSeries(b, now, 1)
		},
		"falls": func(b *series.Batch) {
			bucketSeries(b, now, "1", 2)
			bucketSeries(b, now, "+Inf", 1)
			sumSeries(b, now)
			countSeries(b, now, 1)
		},
		"another count": func(b *series.Batch) {
			bucketSeries(b, now, "+Inf", 1)
			sumSeries(b, now)
			countSeries(b, now, 2)
		},
		"no bound": func(b *series.Batch) { bucketSeries(b, now, "", 1); sumSeries(b, now); countSeries(b, now, 1) },
	} {
		store := series.New(series.Options{})
		push(t, store, "e", func(b *series.Batch) {
			b.Metadata([]byte("lat"), series.HistogramType, nil, nil)
			fill(b)
		})
		for _, accept := range allAccepts {
			same(t, name+" "+accept, parse(t, get(t, store, Options{}, accept, "")).samples, show(t, store).samples)
		}
	}
}

func bucketSeries(b *series.Batch, ts int64, le string, v float64) {
	b.Series(set("__name__", "lat_bucket", "le", le, "x", "y"))
	b.Float(ts, v, 0)
}

func sumSeries(b *series.Batch, ts int64) {
	b.Series(set("__name__", "lat_sum", "x", "y"))
	b.Float(ts, 3, 0)
}

func countSeries(b *series.Batch, ts int64, v float64) {
	b.Series(set("__name__", "lat_count", "x", "y"))
	b.Float(ts, v, 0)
}

// Where escaping makes two series one, the one with the legacy name stays.
func TestEscapedTwins(t *testing.T) {
	store := series.New(series.Options{})
	push(t, store, "e", func(b *series.Batch) {
		for i, name := range []string{"my.metric", "my-metric", "my_metric", "only.dotted"} {
			b.Series(set("__name__", name, "instance", "i"))
			b.Float(time.Now().UnixMilli(), float64(i), 0)
			b.Metadata([]byte(name), series.Gauge, []byte("help of "+name), nil)
		}
		b.Metadata([]byte("with_exemplar_total"), series.Counter, nil, nil)
		b.Series(set("__name__", "with_exemplar_total", "instance", "i"))
		b.Float(time.Now().UnixMilli(), 20, 0)
		b.Exemplar(series.Exemplar{Labels: set("a-b", "1", "a.b", "2", "c-d", "3", "c_d", "4"), Value: 1, Time: time.Now().UnixMilli()})
		b.Series(set("__name__", "m", "a.b", "1", "instance", "i"))
		b.Float(time.Now().UnixMilli(), 10, 0)
		b.Series(set("__name__", "m", "a_b", "1", "instance", "i"))
		b.Float(time.Now().UnixMilli(), 11, 0)
		b.Series(set("__name__", "m", "c.d", "1", "c_d", "2", "instance", "i"))
		b.Float(time.Now().UnixMilli(), 12, 0)
	})
	for _, accept := range []string{acceptText0, strings.ReplaceAll(acceptOM, ";escaping=allow-utf-8", ""), strings.ReplaceAll(acceptProto, ";escaping=allow-utf-8", "")} {
		w := get(t, store, Options{Timestamps: "never"}, accept, "")
		want := map[string][]string{
			`{__name__="my_metric", instance="i"}`: {number(2) + " @none"}, `{__name__="only_dotted", instance="i"}`: {number(3) + " @none"},
			`{__name__="m", a_b="1", instance="i"}`: {number(11) + " @none"}, `{__name__="with_exemplar_total", instance="i"}`: {number(20) + " @none"},
		}
		got := parse(t, w)
		same(t, accept, got.samples, want)
		if exemplars := strings.Join(got.exemplars, " "); accept != acceptText0 && exemplars != `{a_b="1", c_d="4"}` {
			t.Errorf("%s: exemplars %s", accept, exemplars)
		}
		if got.help["my_metric"] != "help of my_metric" {
			t.Errorf("%s: help %q", accept, got.help)
		}
	}
}

// What a page remembers of what it has escaped is bounded, and forgotten where it is
// of no use; twins are found in whichever families they are.
func TestEscapedTwinsAreRemembered(t *testing.T) {
	p := newPage(io.Discard, model.UnderscoreEscaping, stamps{})
	for i := range maxWritten + 1000 {
		if p.seen(fmt.Append(nil, i)) {
			t.Fatalf("%d was not seen before", i)
		}
	}
	if n := len(p.written); n != maxWritten {
		t.Errorf("%d are remembered", n)
	}
	if !p.seen([]byte("7")) {
		t.Error("what was seen is forgotten")
	}

	store := series.New(series.Options{})
	push(t, store, "e", func(b *series.Batch) {
		b.Metadata([]byte("a.b"), series.Summary, nil, nil)
		for _, name := range []string{"a.b_sum", "a.b_c", "a.b_d_sum", "a-b_sum", "a.b_sumo", "c.d", "c_d", "c-d", "z.z"} {
			for _, label := range []string{"l.x", "l-x"} {
				b.Series(set("__name__", name, label, "v"))
				b.Float(time.Now().UnixMilli(), 1, 0)
			}
		}
	})
	h, err := New(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	for _, syntax := range []syntax{text0, openMetrics, protobuf} {
		p, err := h.render(io.Discard, format{syntax: syntax, version: "1.0.0", scheme: model.UnderscoreEscaping}, identity, series.Query{}, time.Now())
		if err != nil || p.series != 6 || p.omitted[escapedTwin] != 12 {
			t.Errorf("%v: %d series, %v are left out, %v", syntax, p.series, p.omitted, err)
		}
		if len(p.written) != 1 {
			t.Errorf("%v: %d are remembered in the end", syntax, len(p.written))
		}
	}
}

func TestTimestamps(t *testing.T) {
	store := series.New(series.Options{})
	now := time.Now().UnixMilli()
	push(t, store, "e", func(b *series.Batch) {
		b.Series(set("__name__", "short", "__ttl__", "5m"))
		b.Float(now, 1, 0)
		b.Series(set("__name__", "long", "__ttl__", "301s"))
		b.Float(now, 1, 0)
	})
	at := fmt.Sprint(number(1), " @", now)
	none := number(1) + " @none"
	for mode, want := range map[string][2]string{"auto": {at, none}, "always": {at, at}, "never": {none, none}} {
		for _, accept := range allAccepts {
			same(t, mode+accept, parse(t, get(t, store, Options{Timestamps: mode}, accept, "")).samples, map[string][]string{
				`{__name__="short"}`: {want[0]}, `{__name__="long"}`: {want[1]}})
		}
	}
	if _, err := New(Options{Store: store, Timestamps: "sometimes"}); err == nil {
		t.Error("took timestamps=sometimes")
	}
}

// A series without an instance says so, or the centre would give it the relay's.
func TestEmptyInstance(t *testing.T) {
	store := series.New(series.Options{})
	push(t, store, "e", func(b *series.Batch) {
		b.Series(set("__name__", "without"))
		b.Float(time.Now().UnixMilli(), 1, 0)
		b.Series(set("__name__", "with", "instance", "i"))
		b.Float(time.Now().UnixMilli(), 1, 0)
	})
	for _, accept := range allAccepts {
		body := get(t, store, Options{}, accept, "").Body.String()
		n := strings.Count(body, `instance=""`)
		if accept == acceptProto {
			n = strings.Count(body, "instance\x12\x00")
		}
		if n != 1 || strings.Count(body, "instance") != 2 {
			t.Errorf("%s: %q", accept, body)
		}
	}
}

func TestQueries(t *testing.T) {
	store := wellFormed(t)
	push(t, store, "ship", func(b *series.Batch) {
		b.Series(set("__name__", "temperature_celsius", "job", "ship"))
		b.Float(time.Now().UnixMilli(), 4, 0)
	})
	count := func(query string) int {
		n := 0
		for _, samples := range parse(t, get(t, store, Options{}, acceptText1, query)).samples {
			n += len(samples)
		}
		return n
	}
	all := count("")
	for query, want := range map[string]int{
		"edge=ship": 1, "edge=shop": all - 1, "edge=nobody": 0,
		"match[]=temperature_celsius": 2, `match[]={job="ship"}`: 1, `match[]={job!="ship"}`: all - 1,
		`match[]={__name__=~"lat_.*",path="/"}`: 6, `match[]=up&match[]=temperature_celsius{job=~"n.*"}`: 1, `match[]={nothere="",job="ship"}`: 1,
	} {
		if got := count(query); got != want {
			t.Errorf("%s: %d series, want %d", query, got, want)
		}
	}
	sum := 0
	for i := range 3 {
		sum += count(fmt.Sprintf("shard=%d/3", i))
	}
	if sum != all {
		t.Errorf("three shards have %d series, the whole %d", sum, all)
	}
	for _, query := range []string{"match[]={", "shard=3/3", "shard=-1/2", "shard=1", "shard=0/1025", "shard=a/b", "shard=0/0"} {
		if w := get(t, store, Options{}, acceptText1, query); w.Code != 400 {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

func TestNegotiation(t *testing.T) {
	prom := "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"
	for accept, want := range map[string]string{
		"":                             "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"*/*":                          "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"text/html":                    "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		prom:                           "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
		acceptProto + ";q=0.8," + prom: "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=allow-utf-8",
		"text/plain;version=1.0.0;escaping=allow-utf-8":         "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
		"text/plain;version=0.0.4;escaping=allow-utf-8":         "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"application/openmetrics-text;version=2.0.0,text/plain": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"application/openmetrics-text;version=0.0.1":            "application/openmetrics-text; version=0.0.1; charset=utf-8; escaping=underscores",
		"application/vnd.google.protobuf;encoding=text,*/*;q=0": "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
		"text/plain;version=1.0.0;escaping=dots":                "text/plain; version=1.0.0; charset=utf-8; escaping=dots",
		"text/plain;version=1.0.0;escaping=bogus":               "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
	} {
		if got := negotiate(accept).contentType(); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", accept, got, want)
		}
	}
	for accept, want := range map[string]encoding{"": identity, "gzip": gzipped, "zstd,gzip": zstdized, "gzip;q=1.0, zstd;q=0.5": gzipped, "identity": identity, "br": identity, "*": gzipped, "gzip;q=0": identity, "GZIP ; q=0.2": gzipped} {
		if got := negotiateEncoding(accept); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
}

func TestCompression(t *testing.T) {
	store := fill(t, rand.New(rand.NewPCG(1, 1)), 3000)
	for _, accept := range []string{acceptText1, acceptProto} {
		plain := get(t, store, Options{}, accept, "").Body.Bytes()
		zw := get(t, store, Options{}, accept, "", "Accept-Encoding", "gzip")
		zr, err := gzip.NewReader(zw.Body)
		if err != nil {
			t.Fatal(err)
		}
		unzipped, err := io.ReadAll(zr)
		if err != nil || !bytes.Equal(plain, unzipped) || zw.Header().Get("Content-Encoding") != "gzip" {
			t.Errorf("gzip: %v, %d bytes of %d", err, len(unzipped), len(plain))
		}
		sw := get(t, store, Options{}, accept, "", "Accept-Encoding", "zstd,gzip")
		d, err := zstd.NewReader(sw.Body)
		if err != nil {
			t.Fatal(err)
		}
		unzstd, err := io.ReadAll(d)
		d.Close()
		if err != nil || !bytes.Equal(plain, unzstd) {
			t.Errorf("zstd: %v, %d bytes of %d", err, len(unzstd), len(plain))
		}
	}
}

// A page of any size is whole, however many processors compress it, and also when the
// one before it was cut.
func TestCompressors(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	page := make([]byte, 3*heldBytes)
	for i := range page {
		page[i] = byte(rng.IntN(20))
	}
	for _, workers := range []int{0, 1, 3} {
		for _, size := range []int{0, 1, firstFlush, heldBytes - 1, heldBytes, heldBytes + 1, len(page)} {
			for _, enc := range []encoding{gzipped, zstdized} {
				in, end := compress(&failing{ResponseWriter: httptest.NewRecorder(), left: size / 20}, enc, workers)
				in.Write(page[:size])
				if err := end(); err == nil {
					t.Errorf("%d bytes, %s, %d workers: nothing says that it was cut", size, enc, workers)
				}
				var out bytes.Buffer
				in, end = compress(&out, enc, workers)
				for rest := page[:size]; len(rest) > 0; {
					n := min(len(rest), laterFlush)
					if _, err := in.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := end(); err != nil {
					t.Fatal(err)
				}
				var r io.Reader
				var err error
				if enc == gzipped {
					r, err = gzip.NewReader(&out)
				} else {
					r, err = zstd.NewReader(&out, zstd.WithDecoderConcurrency(1))
				}
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, page[:size]) {
					t.Errorf("%d bytes, %s, %d workers: %d bytes come back, %v", size, enc, workers, len(got), err)
				}
			}
		}
	}
}

// A page that cannot be finished aborts the connection: it never looks complete.
func TestAbort(t *testing.T) {
	store := fill(t, rand.New(rand.NewPCG(1, 1)), 5000)
	h, err := New(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&failing{ResponseWriter: w, left: 20_000}, r)
	}))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	for _, enc := range []string{"identity", "gzip"} {
		req, _ := http.NewRequest(http.MethodGet, srv.URL, nil)
		req.Header.Set("Accept-Encoding", enc)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			continue // before the first byte
		}
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil {
			t.Errorf("%s: a cut page was read to the end", enc)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

type failing struct {
	http.ResponseWriter
	left int
}

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errors.New("no more")
	}
	return f.ResponseWriter.Write(b)
}

// Over the bound a scrape waits until just before its timeout.
func TestScrapesAreBounded(t *testing.T) {
	h, err := New(Options{Store: series.New(series.Options{}), MaxScrapes: 1})
	if err != nil {
		t.Fatal(err)
	}
	h.turns.all <- struct{}{}
	scrape := func(timeout string) int {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", timeout)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	if got := scrape("0.2"); got != 503 {
		t.Errorf("while another one runs: %d", got)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		<-h.turns.all
	}()
	if got := scrape("60"); got != 200 {
		t.Errorf("after it: %d", got)
	}
}

// A scrape that had to wait is answered as of when it need not wait any more: what
// expired meanwhile is not shown, an edge that fell silent is.
func TestPagesAreOfNow(t *testing.T) {
	for _, wait := range []string{"replay", "turn"} {
		for query, want := range map[string]string{"": "200 ", "edge=e": `503 the edge "e" is silent`, "edge=e&page=up": `503 the edge "e" is silent`} {
			if wait == "turn" && strings.Contains(query, "up") {
				continue // it needs none
			}
			synctest.Test(t, func(t *testing.T) {
				store := series.New(series.Options{LagTolerance: time.Millisecond})
				push(t, store, "e", func(b *series.Batch) {
					b.Series(set("__name__", "short", "__ttl__", "1s"))
					b.Float(time.Now().UnixMilli(), 1, 0)
				})
				ready := make(chan struct{})
				h, err := New(Options{Store: store, MaxScrapes: 1, Ready: ready, Edges: silentFrom(time.Now().Add(time.Second))})
				if err != nil {
					t.Fatal(err)
				}
				goOn := func() { close(ready) }
				if wait == "turn" {
					close(ready)
					h.turns.all <- struct{}{}
					goOn = func() { <-h.turns.all }
				}
				go func() {
					time.Sleep(2 * time.Second)
					goOn()
				}()
				begun := time.Now()
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics?"+query, nil))
				if got := fmt.Sprint(w.Code, " ", w.Body); !strings.HasPrefix(got, want) || strings.Contains(got, "short") {
					t.Errorf("after waiting for its %s, ?%s is answered %s", wait, query, got)
				}
				if waited := time.Since(begun); waited != 2*time.Second {
					t.Errorf("it waited %s", waited)
				}
			})
		}
	}
}

// silentFrom knows when all edges fall silent.
type silentFrom time.Time

func (s silentFrom) Silent(_ string, now time.Time) bool { return now.After(time.Time(s)) }

func TestMethods(t *testing.T) {
	h, _ := New(Options{Store: series.New(series.Options{})})
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/metrics", nil))
		if w.Code != want {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, v := range oddFloats {
		got, err := strconv.ParseFloat(string(appendFloat(nil, v)), 64)
		if err != nil || number(got) != number(v) {
			t.Errorf("%v is written as %s", v, appendFloat(nil, v))
		}
	}
	for ms, want := range map[int64]string{0: "0.000", 1: "0.001", 1_700_000_000_123: "1700000000.123", -1: "-0.001", -1500: "-1.500"} {
		if got := string(appendSeconds(nil, ms)); got != want {
			t.Errorf("%d ms are %s, want %s", ms, got, want)
		}
	}
}

// FuzzPage pushes whatever bytes make up, and reads all pages.
func FuzzPage(f *testing.F) {
	for i := range 20 {
		f.Add(oddNames[i%len(oddNames)], oddLabels[i%len(oddLabels)], oddValues[i%len(oddValues)], oddValues[(i+1)%len(oddValues)], "", uint8(i), 1.5)
	}
	for i, unit := range oddUnits {
		f.Add("car_"+unit, "l", "x", "help", unit, uint8(i), 1.5)
		f.Add(oddNames[i+5], oddLabels[i], "1", "help", unit, uint8(16+i), 1.5)
		f.Add(oddNames[i+5], oddLabels[i], "+Inf", "help", unit, uint8(48+i), 1.5)
	}
	f.Fuzz(func(t *testing.T, name, label, value, help, unit string, typ uint8, v float64) {
		store := series.New(series.Options{})
		push(t, store, "e", func(b *series.Batch) {
			for _, suffix := range []string{"", "_bucket", "_sum", "_count", "_total", "_created"} {
				b.Series(set("__name__", name+suffix, label, value))
				b.Float(time.Now().UnixMilli(), v, 0)
				b.Exemplar(series.Exemplar{Labels: set(label, value), Value: v, Time: 1})
			}
			if typ&16 != 0 {
				b.Series(set("__name__", name, label, value))
				b.Histogram(time.Now().UnixMilli()+1, histogramOf(typ&32 != 0), 0)
			}
			b.Series(set("__name__", "sentinel"))
			b.Float(time.Now().UnixMilli(), 1, 0)
			b.Metadata([]byte(name), series.MetricType(typ%8), []byte(help), []byte(unit))
		})
		want := show(t, store)
		for _, accept := range allAccepts {
			got := parse(t, get(t, store, Options{}, accept, "")).samples
			if want.natives == 0 && accept != acceptText0 {
				same(t, accept, got, want.samples)
			}
			for l, samples := range got {
				if len(samples) > 1 {
					t.Errorf("%s: %s is there %d times", accept, l, len(samples))
				}
			}
		}
	})
}

// A label that is a bound's tells metrics apart where it is not the bound.
func TestBoundLabelsThatAreNone(t *testing.T) {
	for name, list := range map[string][][]byte{
		"a count":            {set("__name__", "rpc", "quantile", "0.5"), set("__name__", "rpc_sum"), set("__name__", "rpc_count", "quantile", "x")},
		"a bucket":           {set("__name__", "lat_bucket", "le", "+Inf", "quantile", "x"), set("__name__", "lat_sum"), set("__name__", "lat_count")},
		"buckets, a count":   {set("__name__", "lat_bucket", "le", "+Inf", "quantile", "x"), set("__name__", "lat_sum", "quantile", "x"), set("__name__", "lat_count")},
		"a whole histogram":  {set("__name__", "lat_bucket", "le", "+Inf", "quantile", "x"), set("__name__", "lat_sum", "quantile", "x"), set("__name__", "lat_count", "quantile", "x")},
		"two histograms":     {set("__name__", "lat_bucket", "le", "+Inf", "quantile", "x"), set("__name__", "lat_bucket", "le", "+Inf", "quantile", "y"), set("__name__", "lat_sum", "quantile", "x"), set("__name__", "lat_count", "quantile", "y")},
		"a bucket without":   {set("__name__", "lat_bucket", "quantile", "1"), set("__name__", "lat_sum"), set("__name__", "lat_count")},
		"a quantile":         {set("__name__", "rpc", "le", "x", "quantile", "0.5"), set("__name__", "rpc_sum"), set("__name__", "rpc_count")},
		"a whole summary":    {set("__name__", "rpc", "le", "x", "quantile", "0.5"), set("__name__", "rpc_sum", "le", "x"), set("__name__", "rpc_count", "le", "x")},
		"a quantile without": {set("__name__", "rpc", "le", "1"), set("__name__", "rpc_sum"), set("__name__", "rpc_count")},
	} {
		store := series.New(series.Options{})
		push(t, store, "e", func(b *series.Batch) {
			b.Metadata([]byte("rpc"), series.Summary, []byte("help"), nil)
			b.Metadata([]byte("lat"), series.HistogramType, []byte("help"), nil)
			for _, l := range list {
				b.Series(l)
				b.Float(time.Now().UnixMilli(), 1, 0)
			}
		})
		want := show(t, store)
		for _, accept := range allAccepts[1:] {
			same(t, name+", "+accept, parse(t, get(t, store, Options{}, accept, "")).samples, want.samples)
		}
	}
}
