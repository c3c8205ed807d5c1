package ingest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
	"github.com/prometheus/common/expfmt"

	"relay/edges"
	"relay/journal"
	"relay/series"
)

// A gateway is the push API on a real server.
type gateway struct {
	t   *testing.T
	h   *Handler
	srv *httptest.Server
}

func newGateway(t *testing.T, opts Options) *gateway {
	t.Helper()
	if opts.Store == nil {
		opts.Store = series.New(series.Options{Limits: series.Limits{Labels: 10}})
	}
	g := &gateway{t: t, h: New(opts)}
	g.srv = httptest.NewServer(g.h.Pusher(0))
	t.Cleanup(g.srv.Close)
	return g
}

func (g *gateway) do(method, path, body string, headers ...string) (int, string) {
	g.t.Helper()
	req, err := http.NewRequest(method, g.srv.URL+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(text)
}

// shows is what is shown, but for what a push says of itself.
func (g *gateway) shows() string {
	g.t.Helper()
	var lines []string
	for line := range strings.Lines(brief(g.t, g.h.opts.Store)) {
		if !strings.HasPrefix(line, "push_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

func (g *gateway) expect(want ...string) {
	g.t.Helper()
	if got := g.shows(); got != strings.Join(want, "\n") {
		g.t.Errorf("shown\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestPushPathsAndMethods(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		code               int
		says, shown        string
	}{
		{"PUT", "/metrics/job/x", "a 1\n", 200, "", `a{job="x"} 1`},
		{"POST", "/metrics/job/x/instance/i", "a 1\n", 200, "", `a{instance="i",job="x"} 1`},
		{"PUT", "/metrics/job@base64/L3Zhci90bXA", "a 1\n", 200, "", `a{job="/var/tmp"} 1`},
		{"PUT", "/metrics/job@base64/L3Zhci90bXA=", "a 1\n", 200, "", `a{job="/var/tmp"} 1`},
		{"PUT", "/metrics/job/x/l@base64/=", "a{l=\"y\"} 1\n", 200, "", `a{job="x"} 1`},
		{"PUT", "/metrics/job/x/U__my_2e_label/v", "a 1\n", 200, "", `a{job="x","my.label"="v"} 1`},
		{"PUT", "/metrics/job/x", "a{job=\"y\",instance=\"z\"} 1\n", 200, "", `a{instance="z",job="x"} 1`},
		{"PUT", "/metrics/job/x", "", 200, "", ""},
		{"DELETE", "/metrics/job/x", "", 202, "", ""},
		{"PUT", "/metrics/job", "a 1\n", 400, "odd number", ""},
		{"PUT", "/metrics/job/", "a 1\n", 400, "job name is required", ""},
		{"PUT", "/metrics/instance/x", "a 1\n", 400, "want job", ""},
		{"PUT", "/metrics/job/x/__l/y", "a 1\n", 400, "improper label name", ""},
		{"PUT", "/metrics/job/x/l@base64/!", "a 1\n", 400, "invalid base64", ""},
		{"GET", "/metrics/job/x", "", 405, "PUT, POST and DELETE", ""},
		{"PUT", "/metrics/job/x", "a 1\nb 2 1234\n", 400, "line 2: pushed metrics must not have timestamps", ""},
		{"PUT", "/metrics/job/x", "# TYPE a gauge\n\na 1\n\nb x\n", 400, "line 5: ", ""},
		{"PUT", "/metrics/job/x", "a", 400, "line 1: ", ""},
		{"PUT", "/metrics/job/x", "a 1\na 2\n", 400, "pushed twice", ""},
		{"PUT", "/metrics/job/x", "a{__x=\"y\"} 1\n", 400, "reserved", ""},
		{"PUT", "/metrics/job/x", "a{b=\"" + strings.Repeat("x", 3<<20) + "\"} 1\n", 400, "--limits.label-value-bytes", ""},
		{"PUT", "/metrics/job/x", "#!set stale_timeout = soon\na 1\n", 400, "line 1: ", ""},
	} {
		g := newGateway(t, Options{})
		code, body := g.do(c.method, c.path, c.body)
		if code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s %s %.200q: %d %s, want %d %s", c.method, c.path, c.body, code, body, c.code, c.says)
		}
		if got := g.shows(); got != c.shown {
			t.Errorf("%s %s %.200q: shown %s, want %s", c.method, c.path, c.body, got, c.shown)
		}
	}
}

func TestPutPostDelete(t *testing.T) {
	g := newGateway(t, Options{})
	const x = "/metrics/job/x"
	g.do("PUT", x, "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\nh_sum 4\nh_count 3\na 1\n")
	g.expect(`a{job="x"} 1`, `h_bucket{job="x",le="+Inf"} 3`, `h_count{job="x"} 3`, `h_sum{job="x"} 4`)
	g.do("POST", x, "# TYPE h gauge\nh 7\n")
	g.expect(`a{job="x"} 1`, `h{job="x"} 7`)
	if code, _ := g.do("PUT", x, "b 1\nc{ 2\n"); code != 400 {
		t.Errorf("a bad body: %d", code)
	}
	g.expect(`a{job="x"} 1`, `h{job="x"} 7`) // the fork wipes the group before it parses
	if code, body := g.do("PUT", x, "b 1\nc{l1=\"\",l2=\"2\",l3=\"3\",l4=\"4\",l5=\"5\",l6=\"6\",l7=\"7\",l8=\"8\",l9=\"9\",m=\"1\",n=\"2\"} 2\n"); code != 400 || !strings.Contains(body, "--limits.labels") {
		t.Errorf("over a limit: %d %s", code, body)
	}
	g.expect(`a{job="x"} 1`, `h{job="x"} 7`)
	g.do("PUT", "/metrics/job/y", "a 2\n")
	g.do("DELETE", x, "")
	g.expect(`a{job="y"} 2`)
}

func TestPushEncodings(t *testing.T) {
	const text = "# TYPE a counter\na{l=\"1\"} 5\n"
	zip := func(make func(io.Writer) io.WriteCloser) string {
		var b bytes.Buffer
		w := make(&b)
		io.WriteString(w, text)
		w.Close()
		return b.String()
	}
	gz := zip(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	sn := zip(func(w io.Writer) io.WriteCloser { return snappy.NewBufferedWriter(w) })
	zs := zip(func(w io.Writer) io.WriteCloser {
		e, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	for range 64 {
		w.Write(bytes.Repeat([]byte("#\n"), 1<<19))
	}
	w.Close()
	for _, c := range []struct {
		body, encoding, contentType string
		code                        int
	}{
		{text, "", "application/x-www-form-urlencoded", 200},
		{text, "", "", 200},
		{text, "br", "", 200}, // unknown ones are none, as in the Pushgateway
		{gz, "gzip", "text/plain; version=0.0.4", 200},
		{gz, "GZIP", "", 200},
		{sn, "snappy", "", 200},
		{zs, "zstd", "", 200},
		{"# TYPE a counter\na_total{l=\"1\"} 5.0\n# EOF\n", "", "application/openmetrics-text; version=1.0.0", 200},
		{text, "gzip", "", 400},
		{gz, "snappy", "", 400},
		{gz, "zstd", "", 400},
		{bomb.String(), "gzip", "", 400},
	} {
		g := newGateway(t, Options{RequestBytes: 1 << 20})
		code, body := g.do("PUT", "/metrics/job/x", c.body, "Content-Encoding", c.encoding, "Content-Type", c.contentType)
		if code != c.code {
			t.Errorf("%s %s: %d %s", c.encoding, c.contentType, code, body)
		}
		if shown := g.shows(); (c.code == 200) != strings.Contains(shown, `{job="x",l="1"} 5`) {
			t.Errorf("%s %s: shown %s", c.encoding, c.contentType, shown)
		}
		if n := g.h.room.inUse(); n != 0 {
			t.Errorf("%s: %d bytes are still counted", c.encoding, n)
		}
	}
}

// Go's client, in all its formats.
func TestGoClient(t *testing.T) {
	for _, format := range []expfmt.Format{expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeTextPlain), expfmt.NewFormat(expfmt.TypeOpenMetrics)} {
		g := newGateway(t, Options{})
		reg := prometheus.NewRegistry()
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "Help.", Buckets: []float64{1}, NativeHistogramBucketFactor: 2})
		s := prometheus.NewSummary(prometheus.SummaryOpts{Name: "s", Objectives: map[float64]float64{0.5: 0.1}})
		reg.MustRegister(h, s)
		h.Observe(0.5)
		s.Observe(2)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		p := push.New(g.srv.URL, "batch/job").Grouping("shop", "a/b").Gatherer(reg).Format(format).Client(client)
		if err := p.Push(); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if err := p.Add(); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		got := g.shows()
		for _, want := range []string{`h_bucket{job="batch/job",le="1.0",shop="a/b"} 1`, `h_count{job="batch/job",shop="a/b"} 1`, `s{job="batch/job",quantile="0.5",shop="a/b"} 2`} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s is missing in\n%s", format, want, got)
			}
		}
		if native := strings.Contains(shown(t, g.h.opts.Store), "Schema"); native != (format.FormatType() == expfmt.TypeProtoDelim) {
			t.Errorf("%s: a native histogram is shown: %v\n%s", format, native, shown(t, g.h.opts.Store))
		}
		if err := p.Delete(); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		g.expect()
	}
}

// live counts what is shown after d.
func (g *gateway) liveAfter(d time.Duration) string {
	g.t.Helper()
	var p page
	if err := g.h.opts.Store.Scan(time.Now().Add(d), series.Query{}, &p); err != nil {
		g.t.Fatal(err)
	}
	var names []string
	for _, line := range p.lines {
		if line[0] == '#' {
			continue
		}
		names = append(names, strings.Trim(strings.SplitN(line, "{", 2)[0], `"`))
	}
	return strings.Join(names, " ")
}

// All ways to say how long, and which wins.
func TestPushTTL(t *testing.T) {
	g := newGateway(t, Options{})
	body := "always 1\n#!set stale_timeout = 10\n# TYPE ten histogram\nten_count 1\n#!set stale_timeout=null\nforever 1\n#!set stale_timeout = 2m\nten_sum 1\ntwo_minutes 1\nown{__ttl__=\"20s\"} 1\n#!set stale_timeout = 0\ngone 1\n"
	if code, text := g.do("PUT", "/metrics/job/x?ttl=1h", body, "X-Relay-TTL", "30s"); code != 200 {
		t.Fatal(code, text)
	}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{time.Second, "always forever own push_failure_time_seconds push_time_seconds ten_count ten_sum two_minutes"},
		{11 * time.Second, "always forever own push_failure_time_seconds push_time_seconds two_minutes"},
		{31 * time.Second, "forever own push_failure_time_seconds push_time_seconds two_minutes"},
		{121 * time.Second, "forever push_failure_time_seconds push_time_seconds"},
		{10000 * time.Hour, "forever push_failure_time_seconds push_time_seconds"},
	} {
		if got := g.liveAfter(c.after); got != c.want {
			t.Errorf("after %s: %s\nwant %s", c.after, got, c.want)
		}
	}
	// Without any, what was set before holds no longer; all ends at once.
	g.do("PUT", "/metrics/job/x", "a 1\n", "X-Relay-TTL", "5s")
	if got := g.liveAfter(4 * time.Second); got != "a push_failure_time_seconds push_time_seconds" {
		t.Error(got)
	}
	if got := g.liveAfter(6 * time.Second); got != "" {
		t.Errorf("still there: %s", got)
	}
	if code, text := g.do("PUT", "/metrics/job/x", "a 1\n", "X-Relay-TTL", "-5s"); code != 400 {
		t.Error(code, text)
	}
}

// That a push lives for --series.ttl alone is said once, of one that is taken and where
// something does.
func TestPushWithoutTTLIsSaidOnce(t *testing.T) {
	var logs bytes.Buffer
	g := newGateway(t, Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	for _, body := range []string{"#!set stale_timeout = 90\na 1\n", "a{__ttl__=\"90s\"} 1\n", "", "a 1\na 2\n", "a x\n"} {
		g.do("PUT", "/metrics/job/x", body)
	}
	g.do("PUT", "/metrics/job/x?ttl=90s", "a 1\n")
	if logs.Len() != 0 {
		t.Errorf("said of what has a TTL, or was refused: %s", &logs)
	}
	for _, instance := range []string{"i", "j"} {
		g.do("PUT", "/metrics/job/x/instance/"+instance, "#!set stale_timeout = 90\na 1\n#!set stale_timeout = null\nb 1\n")
		g.do("POST", "/metrics/job/x/instance/"+instance, "a 1\n#!set stale_timeout = 90\nb 1\n")
	}
	if said := logs.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "--series.ttl") || !strings.Contains(said, `group="{instance=\"i\",job=\"x\"}"`) {
		t.Errorf("said: %s", said)
	}
}

// Who pushes is silent when the last of what it pushed has expired, by whichever way it
// said how long, and so after a replay.
func TestPushTTLIsOfTheEdge(t *testing.T) {
	for _, c := range []struct {
		body, header string
		want         time.Duration
	}{
		{"a 1\n", "", 5 * time.Minute},
		{"a 1\n", "90s", 90 * time.Second},
		{"#!set stale_timeout = 3600\na 1\n", "", time.Hour},
		{"#!set stale_timeout = 10\na 1\n", "", 10 * time.Second},
		{"#!set stale_timeout = 10\na 1\n#!set stale_timeout = 20\nb 1\n", "90s", 20 * time.Second},
		{"#!set stale_timeout = 10\na 1\n#!set stale_timeout = 0\nb 1\n", "", 10 * time.Second},
		{"b 1\n#!set stale_timeout = 10\na 1\n", "90s", 90 * time.Second},
		{"#!set stale_timeout = null\na 1\n", "90s", 2 * time.Hour}, // the most that is granted
		{"a{__ttl__=\"1h\"} 1\n", "90s", 90 * time.Second},
		{"", "90s", 90 * time.Second},
	} {
		store := func() *series.Store { return series.New(series.Options{MaxTTL: 2 * 3_600_000}) }
		var k kept
		live, replayed := edges.New(time.Hour, 10, nil), edges.New(time.Hour, 10, nil)
		g := newGateway(t, Options{Store: store(), Journal: &k, Edges: live})
		if code, text := g.do("PUT", "/metrics/job/x", c.body, "X-Relay-Edge", "shop", "X-Relay-TTL", c.header); code != 200 {
			t.Fatal(code, text)
		}
		h := New(Options{Store: store(), Edges: replayed})
		for i := range k.records {
			if err := h.Replay(&k.records[i]); err != nil {
				t.Fatal(err)
			}
		}
		for what, list := range map[string][]edges.Edge{"live": live.List(time.Now()), "replayed": replayed.List(time.Now())} {
			if len(list) != 1 || list[0].TTL != c.want {
				t.Errorf("%q with %q, %s: %+v, want %s", c.body, c.header, what, list, c.want)
			}
		}
	}
}

// Whatever asks for a TTL, and in whatever format the push is, --series.ttl-max bounds it;
// who asked for more is told what was granted.
func TestPushTTLIsBounded(t *testing.T) {
	var proto bytes.Buffer
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "a"}))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	protobuf := expfmt.NewFormat(expfmt.TypeProtoDelim)
	if err := expfmt.NewEncoder(&proto, protobuf).Encode(families[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body, contentType, header, told string
		lives, gone                     time.Duration
	}{
		{"a 1\n", "", "", "", 59 * time.Minute, 61 * time.Minute}, // --push.ttl was not asked for
		{"a 1\n", "", "inf", "1h0m0s", 59 * time.Minute, 61 * time.Minute},
		{"a 1\n", "", "90s", "", 89 * time.Second, 91 * time.Second},
		{"#!set stale_timeout = null\na 1\n", "", "", "", 59 * time.Minute, 61 * time.Minute},
		{proto.String(), string(protobuf), "90s", "", 89 * time.Second, 91 * time.Second},
		{proto.String(), string(protobuf), "2h", "1h0m0s", 59 * time.Minute, 61 * time.Minute},
		{"# TYPE a gauge\na 1.0\n# EOF\n", "application/openmetrics-text; version=1.0.0", "90s", "", 89 * time.Second, 91 * time.Second},
	} {
		g := newGateway(t, Options{Store: series.New(series.Options{MaxTTL: series.TTLOf(time.Hour)})})
		g.h.Pusher(series.Forever)
		req, err := http.NewRequest("PUT", g.srv.URL+"/metrics/job/x", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", c.contentType)
		if c.header != "" {
			req.Header.Set("X-Relay-TTL", c.header)
		}
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("X-Relay-TTL"); res.StatusCode != 200 || got != c.told {
			t.Errorf("%q %s %s: %d, told %q, want %q", c.body, c.contentType, c.header, res.StatusCode, got, c.told)
		}
		if got := g.liveAfter(c.lives); !strings.HasPrefix(got, "a") {
			t.Errorf("%q %s %s: gone after %s", c.body, c.contentType, c.header, c.lives)
		}
		if got := g.liveAfter(c.gone); strings.HasPrefix(got, "a") {
			t.Errorf("%q %s %s: there after %s", c.body, c.contentType, c.header, c.gone)
		}
	}
}

// A push carries no time of its own, belongs to a group, and says so on the page.
func TestPushedSeriesAreMarked(t *testing.T) {
	g := newGateway(t, Options{})
	g.do("PUT", "/metrics/job/x", "# HELP a Help.\n# TYPE a counter\na 1\n")
	marked := 0
	v := visitor(func(f *series.Family, s *series.Series) {
		if _, labels, ok := s.GroupKey(); ok && s.Pushed && series.FormatLabels(labels) == `{job="x"}` {
			marked++
		}
		if f.Name == "a" && (f.Metadata.Type != series.Counter || f.Metadata.Help != "Help.") {
			t.Errorf("%+v", f.Metadata)
		}
	})
	if err := g.h.opts.Store.Scan(time.Now(), series.Query{}, v); err != nil {
		t.Fatal(err)
	}
	if marked != 3 {
		t.Errorf("%d series are marked", marked)
	}
}

type visitor func(*series.Family, *series.Series)

func (v visitor) BeginFamily(*series.Family)                {}
func (v visitor) EndFamily(*series.Family)                  {}
func (v visitor) Flush() error                              { return nil }
func (v visitor) Series(f *series.Family, s *series.Series) { v(f, s) }

// What is in the journal gives the same groups again, deletes and a wipe included.
func TestReplayOfPushes(t *testing.T) {
	var k kept
	g := newGateway(t, Options{Journal: &k})
	replayed := func() string {
		h := New(Options{Store: series.New(series.Options{}), Edges: edges.New(time.Hour, 10, nil)})
		for i := range k.records {
			if err := h.Replay(&k.records[i]); err != nil {
				t.Fatal(err)
			}
		}
		return (&gateway{t: t, h: h}).shows()
	}
	g.do("PUT", "/metrics/job/x", "a 1\nb 1\n#!set stale_timeout = 1h\nc 1\n")
	g.do("POST", "/metrics/job/x", "b 2\n")
	g.do("PUT", "/metrics/job/y", "a 3 x\n", "Content-Type", "application/openmetrics-text")
	g.do("PUT", "/metrics/job/y", "a 3.0\n# EOF\n", "Content-Type", "application/openmetrics-text")
	g.do("PUT", "/metrics/job/z", "a 1\n")
	g.do("DELETE", "/metrics/job/z", "")
	g.do("DELETE", "/metrics/job/unknown", "")
	g.expect(`a{job="x"} 1`, `a{job="y"} 3`, `b{job="x"} 2`, `c{job="x"} 1`)
	if got := replayed(); got != g.shows() {
		t.Errorf("replayed\n%s\nlive\n%s", got, g.shows())
	}
	if n := len(k.records); n != 6 || k.records[4].Kind != journal.GroupDelete || k.records[5].Kind != journal.GroupDelete {
		t.Errorf("%d records", n)
	}
	if err := g.h.pusher.Wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.expect()
	if got := replayed(); got != "" {
		t.Errorf("after a wipe: %s", got)
	}
}

// A parser that fails in its own way ends its request, and nothing else.
func TestPanicInABody(t *testing.T) {
	store := series.New(series.Options{})
	p := New(Options{Store: store}).Pusher(0)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic: the test needs another one")
			}
		}()
		rec := &journal.Record{Kind: journal.GroupMerge, Edge: "e", Format: formatText}
		p.batch(rec, series.Request{Edge: "e", Received: time.Now(), Now: time.Now()}, []byte("a 1\n")) // without a group
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := store.NewBatch(series.Request{Edge: "new", Received: time.Now(), Now: time.Now()})
		b.Release()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the store is locked for good")
	}
}

// A wipe of a store that is half replayed, or of one that is about to be left behind,
// would end a part of what there is.
func TestWipeRefused(t *testing.T) {
	store := series.New(series.Options{})
	kept := &records{}
	fill := New(Options{Store: store})
	g := &gateway{t: t, h: fill, srv: httptest.NewServer(fill.Pusher(0))}
	defer g.srv.Close()
	g.do("PUT", "/metrics/job/x", "a 1\n")
	starting := New(Options{Store: store, Journal: kept, Ready: make(chan struct{})})
	stopping := New(Options{Store: store, Journal: kept})
	stopping.Drain(t.Context())
	for name, h := range map[string]*Handler{"starting": starting, "stopping": stopping} {
		if err := h.Pusher(0).Wipe(t.Context()); !errors.Is(err, ErrNotNow) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(kept.list) > 0 {
		t.Errorf("%d records were written", len(kept.list))
	}
	g.expect(`a{job="x"} 1`)
}

// With an edges file a group is its edge's: nobody else can touch it.
func TestGroupsOfEdges(t *testing.T) {
	r, _, _ := guarded(t, Options{}, twoEdges)
	g := &gateway{t: t, h: r.h, srv: httptest.NewServer(r.h.Pusher(0))}
	defer g.srv.Close()
	as := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	if code, _ := g.do("PUT", "/metrics/job/x", "a 1\n"); code != 401 {
		t.Errorf("without credentials: %d", code)
	}
	g.do("PUT", "/metrics/job/x/edge/b", "m 1\n", as("a")...)
	g.do("PUT", "/metrics/job/x/edge/b", "m 2\n", as("b")...)
	g.expect(`m{edge="a",job="x"} 1`, `m{edge="b",job="x",site="s"} 2`)
	g.do("DELETE", "/metrics/job/x/edge/b", "", as("a")...)
	g.expect(`m{edge="b",job="x",site="s"} 2`)
}

// A page after any push is a page after the same pushes one by one: see also the
// model in series.
func FuzzPushBody(f *testing.F) {
	for _, seed := range []string{"a 1\n", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2\nh_count 3\n", "#!set stale_timeout = 10\na{l=\"v\"} 1\n", "{\"a.b\",c=\"d\"} NaN\n", "# EOF\n", "a{__ttl__=\"1s\"} 1\n"} {
		f.Add(seed, byte(0))
		f.Add(seed, byte(1))
		f.Add(seed, byte(2))
	}
	f.Fuzz(func(t *testing.T, body string, format byte) {
		h := New(Options{Store: series.New(series.Options{}), RequestBytes: 1 << 20})
		srv := h.Pusher(0)
		contentType := []string{formatText, formatOpenMetrics, formatProtobuf + "; proto=io.prometheus.client.MetricFamily; encoding=delimited"}[format%3]
		req := &http.Request{Method: "PUT", URL: &url.URL{Path: "/metrics/job/x"}, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), RemoteAddr: "192.0.2.1:1", ProtoMajor: 1}
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, req.WithContext(t.Context()))
		if w.Code != 200 && w.Code != 400 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if live := h.opts.Store.Stats(time.Now()).Live; w.Code == 400 && live != 0 {
			t.Fatalf("a refused push left %d series", live)
		}
	})
}
