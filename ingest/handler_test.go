package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"go.uber.org/goleak"

	"relay/series"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A relay is a handler on a real server.
type relay struct {
	t     *testing.T
	h     *Handler
	store *series.Store
	srv   *httptest.Server
	reg   *prometheus.Registry
}

func newRelay(t *testing.T, opts Options) *relay {
	t.Helper()
	r := &relay{t: t, reg: prometheus.NewRegistry()}
	if opts.Store == nil {
		opts.Store = series.New(series.Options{Limits: series.Limits{Labels: 10, LabelValueBytes: 300}})
	}
	opts.Registerer = r.reg
	r.store, r.h = opts.Store, New(opts)
	r.srv = httptest.NewServer(r.h)
	t.Cleanup(r.srv.Close)
	return r
}

type answered struct {
	code   int
	body   string
	header http.Header
}

// send posts a body as it is, with headers as pairs.
func (r *relay) send(body io.Reader, headers ...string) answered {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.srv.URL+"/api/v1/write", body)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "?" {
			req.URL.RawQuery = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return answered{res.StatusCode, string(text), res.Header}
}

type message interface{ Marshal() ([]byte, error) }

func wire(t testing.TB, m message) []byte {
	t.Helper()
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, raw)
}

const type2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"

func (r *relay) push1(ts ...prompb.TimeSeries) answered {
	r.t.Helper()
	return r.send(bytes.NewReader(wire(r.t, &prompb.WriteRequest{Timeseries: ts})), "Content-Type", "application/x-protobuf", "Content-Encoding", "snappy")
}

func (r *relay) push2(req *writev2.Request) answered {
	r.t.Helper()
	return r.send(bytes.NewReader(wire(r.t, req)), "Content-Type", type2, "Content-Encoding", "snappy")
}

// ts makes a series of label names and values with one sample, of now.
func ts(v float64, labels ...string) prompb.TimeSeries {
	out := prompb.TimeSeries{Samples: []prompb.Sample{{Value: v, Timestamp: time.Now().UnixMilli()}}}
	for i := 0; i < len(labels); i += 2 {
		out.Labels = append(out.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
	}
	return out
}

// live counts what is shown.
func (r *relay) live() int { return r.store.Stats(time.Now()).Live }

func TestAnswers(t *testing.T) {
	huge := snappy.Encode(nil, make([]byte, 1<<20))
	body1 := wire(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts(1, "__name__", "a")}})
	body2 := wire(t, &writev2.Request{Symbols: []string{"", "__name__", "a"}, Timeseries: []writev2.TimeSeries{
		{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}}}}})
	bomb := binary.AppendUvarint(nil, 4<<30-1)
	lie := append(binary.AppendUvarint(nil, 90_000), 0, 0)
	framed := new(bytes.Buffer)
	w := snappy.NewBufferedWriter(framed)
	w.Write([]byte("x"))
	w.Close()
	r2 := func(tss ...writev2.TimeSeries) []byte {
		return wire(t, &writev2.Request{Symbols: []string{"", "__name__", "a"}, Timeseries: tss})
	}

	for _, c := range []struct {
		name    string
		body    []byte
		headers []string
		code    int
		says    string
	}{
		{"1.0", body1, []string{"Content-Type", "application/x-protobuf", "Content-Encoding", "snappy"}, 204, ""},
		{"1.0 by name", body1, []string{"Content-Type", "application/x-protobuf; proto=prometheus.WriteRequest", "Content-Encoding", "Snappy"}, 204, ""},
		{"1.0 without headers", body1, nil, 204, ""},
		{"2.0", body2, []string{"Content-Type", type2}, 204, ""},
		{"2.0 quoted", body2, []string{"Content-Type", `Application/X-Protobuf ; proto="io.prometheus.write.v2.Request"`}, 204, ""},
		{"empty", nil, nil, 204, ""},
		{"empty of 2.0", nil, []string{"Content-Type", type2}, 204, ""},
		{"snappy of nothing", []byte{0}, nil, 204, ""},

		{"json", body1, []string{"Content-Type", "application/json"}, 415, "application/json"},
		{"other message", body1, []string{"Content-Type", "application/x-protobuf;proto=foo.Bar"}, 415, "foo.Bar"},
		{"two protos", body1, []string{"Content-Type", "application/x-protobuf;proto=prometheus.WriteRequest;proto=io.prometheus.write.v2.Request"}, 415, ""},
		{"two types", body1, []string{"Content-Type", "application/x-protobuf", "Content-Type", type2}, 415, ""},
		{"gzip", body1, []string{"Content-Encoding", "gzip"}, 415, "snappy"},
		{"zstd", body1, []string{"Content-Encoding", "zstd"}, 415, "snappy"},
		{"identity", body1, []string{"Content-Encoding", "identity"}, 415, "snappy"},
		{"twice encoded", body1, []string{"Content-Encoding", "snappy, gzip"}, 415, "snappy"},
		{"twice encoded, two lines", body1, []string{"Content-Encoding", "snappy", "Content-Encoding", "gzip"}, 415, "snappy"},

		{"1.0 as 2.0", body1, []string{"Content-Type", type2}, 400, "other version"},
		{"2.0 as 1.0", body2, nil, 400, "other version"},
		{"claims 4 GiB", bomb, nil, 400, "--limits.request-bytes"},
		{"claims more than it can be", lie, nil, 400, "snappy"},
		{"decoded too long", huge, nil, 400, "--limits.request-bytes"},
		{"not snappy", []byte("hello, world"), nil, 400, "snappy"},
		{"framed snappy", framed.Bytes(), nil, 400, ""},
		{"cut", body1[:len(body1)-3], nil, 400, "snappy"},
		{"compressed too long", bytes.Repeat([]byte{1}, 1<<19), nil, 413, "--limits.request-bytes"},
		{"not protobuf", snappy.Encode(nil, []byte{0x0a, 0x7f}), nil, 400, "nothing of it was applied"},
		{"long varint", snappy.Encode(nil, bytes.Repeat([]byte{0xff}, 11)), nil, 400, "varint"},
		{"symbol out of range", r2(writev2.TimeSeries{LabelsRefs: []uint32{1, 9}}), []string{"Content-Type", type2}, 400, "symbol 9 of 3"},
		{"odd references", r2(writev2.TimeSeries{LabelsRefs: []uint32{1}}), []string{"Content-Type", type2}, 400, "odd"},
		{"first symbol", wire(t, &writev2.Request{Symbols: []string{"x"}}), []string{"Content-Type", type2}, 400, "first symbol"},

		{"ttl", body1, []string{"X-Relay-TTL", "90s"}, 204, ""},
		{"ttl by query", body1, []string{"?", "ttl=90"}, 204, ""},
		{"ttl 0", body1, []string{"X-Relay-TTL", "0"}, 400, "not positive"},
		{"ttl negative", body1, []string{"?", "ttl=-1s"}, 400, "query parameter ttl"},
		{"ttl unreadable", body1, []string{"X-Relay-TTL", "soon"}, 400, "soon"},
		{"edge", body1, []string{EdgeHeader, "shop-17.example"}, 204, ""},
		{"bad edge", body1, []string{EdgeHeader, "../../etc"}, 400, EdgeHeader},
		{"long edge", body1, []string{EdgeHeader, strings.Repeat("x", 10_000)}, 400, EdgeHeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRelay(t, Options{RequestBytes: 100_000})
			for _, chunked := range []bool{false, true} {
				var body io.Reader = bytes.NewReader(c.body)
				if chunked {
					body = io.MultiReader(body) // of unknown length
				}
				got := r.send(body, c.headers...)
				if got.code != c.code || !strings.Contains(got.body, c.says) {
					t.Errorf("chunked %v: got %d %q, want %d and %q", chunked, got.code, got.body, c.code, c.says)
				}
				if len(got.body) > 1024 {
					t.Errorf("an answer of %d bytes", len(got.body))
				}
				is2 := strings.Contains(strings.Join(c.headers, " "), "v2.Request")
				if has := got.header.Get("X-Prometheus-Remote-Write-Samples-Written") != ""; has != (is2 && c.code != 415) {
					t.Errorf("written headers: %v", has)
				}
			}
			if used := r.h.room.inUse(); used != 0 {
				t.Errorf("%d bytes of the budget were not given back", used)
			}
		})
	}
	r := newRelay(t, Options{})
	res, err := http.Get(r.srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 405 || res.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

// One bad series of a request is refused, named and explained; the others are
// taken.
func TestPartialWrites(t *testing.T) {
	long := strings.Repeat("x", 301)
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprint("l", i), "v")
	}
	future := ts(1, "__name__", "bad")
	future.Samples[0].Timestamp += 366 * 24 * 3600_000
	for _, c := range []struct {
		name   string
		bad    prompb.TimeSeries
		reason series.Reason
		says   string
	}{
		{"no name", ts(1, "a", "b"), series.NoName, "no __name__"},
		{"no labels", ts(1), series.NoName, "no __name__"},
		{"empty label name", ts(1, "__name__", "bad", "", "x"), series.LabelInvalid, "no name"},
		{"duplicate label", ts(1, "__name__", "bad", "a", "1", "a", "2"), series.DuplicateLabel, `"a" appears twice`},
		{"duplicate name", ts(1, "__name__", "bad", "__name__", "worse"), series.DuplicateLabel, "appears twice"},
		{"reserved label", ts(1, "__name__", "bad", "__address__", "x"), series.LabelInvalid, "reserved"},
		{"invalid UTF-8 value", ts(1, "__name__", "bad", "a", "\xff"), series.LabelInvalid, "UTF-8"},
		{"invalid UTF-8 label name", ts(1, "__name__", "bad", "\xff", "a"), series.LabelInvalid, "UTF-8"},
		{"NUL in the metric name", ts(1, "__name__", "b\x00d"), series.NameInvalid, "NUL"},
		{"long value", ts(1, "__name__", "bad", "a", long), series.LabelValueTooLong, "--limits.label-value-bytes"},
		{"value of megabytes", ts(1, "__name__", "bad", "a", strings.Repeat("x", 3<<20)), series.LabelValueTooLong, "--limits.label-value-bytes"},
		{"label name of megabytes", ts(1, "__name__", "bad", strings.Repeat("x", 3<<20), "a"), series.LabelValueTooLong, "--limits.label-value-bytes"},
		{"many labels", ts(1, append(many, "__name__", "bad")...), series.TooManyLabels, "--limits.labels"},
		{"very many labels", ts(1, append(slicesRepeat("l", 100_000), "__name__", "bad")...), series.SeriesTooLong, "--limits.series-bytes"},
		{"very many empty labels", ts(1, append(make([]string, 200_000), "__name__", "bad")...), series.SeriesTooLong, "--limits.series-bytes"},
		{"future", future, series.TooFarInFuture, "--series.future-tolerance"},
		{"ttl label", ts(1, "__name__", "bad", "__ttl__", "never"), series.TTLInvalid, "__ttl__"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRelay(t, Options{})
			got := r.push1(ts(1, "__name__", "before"), c.bad, ts(2, "__name__", "after"))
			if got.code != 400 || !strings.Contains(got.body, c.says) || !strings.Contains(got.body, c.reason.String()) || !strings.HasPrefix(got.body, "1 of 3 refused") {
				t.Errorf("got %d %q", got.code, got.body)
			}
			if r.live() != 2 {
				t.Errorf("%d series are shown, want 2:\n%s", r.live(), shown(t, r.store))
			}
			if n := counter(t, r.reg, "relay_refused_samples_total", c.reason.String()); n != 1 {
				t.Errorf("counted %v times", n)
			}
		})
	}
}

func slicesRepeat(s string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint(s, i), "v")
	}
	return out
}

// counter reads a counter with one label of that value.
func counter(t *testing.T, reg *prometheus.Registry, name, value string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (len(m.Label) == 1 && m.Label[0].GetValue() == value || len(m.Label) == 0 && value == "") {
				return m.Counter.GetValue()
			}
		}
	}
	return math.NaN()
}

// What 2.0 calls written are all that was accepted, late, repeated and ended
// ones included.
func TestWrittenHeaders(t *testing.T) {
	r := newRelay(t, Options{})
	now := time.Now().UnixMilli()
	req := &writev2.Request{Symbols: []string{"", "__name__", "a", "b", "trace_id", "t"}, Timeseries: []writev2.TimeSeries{
		{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Value: 1, Timestamp: now}, {Value: 1, Timestamp: now - 5}, {Value: 1, Timestamp: now - 3600_000*24}}},
		{LabelsRefs: []uint32{1, 3}, Histograms: []writev2.Histogram{{Count: &writev2.Histogram_CountInt{}, Timestamp: now}}},
		{LabelsRefs: []uint32{1, 3}, Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{4, 5}, Value: 1, Timestamp: now}}},
		{LabelsRefs: []uint32{1, 2}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_COUNTER}},
	}}
	for range 2 {
		got := r.push2(req)
		for kind, want := range map[string]string{"Samples": "3", "Histograms": "1", "Exemplars": "1"} {
			if n := got.header.Get("X-Prometheus-Remote-Write-" + kind + "-Written"); n != want || got.code != 204 {
				t.Errorf("%d %s: %s written %s, want %s", got.code, got.body, kind, n, want)
			}
		}
	}
	req.Timeseries[0].LabelsRefs = []uint32{2, 2} // no name
	if got := r.push2(req); got.code != 400 || got.header.Get("X-Prometheus-Remote-Write-Samples-Written") != "0" || got.header.Get("X-Prometheus-Remote-Write-Histograms-Written") != "1" {
		t.Errorf("partial: %d %v", got.code, got.header)
	}
}

func TestClampedTTLIsTold(t *testing.T) {
	r := newRelay(t, Options{Store: series.New(series.Options{MaxTTL: series.TTLOf(time.Hour)})})
	got := r.send(bytes.NewReader(wire(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts(1, "__name__", "a")}})), "X-Relay-TTL", "inf")
	if got.code != 204 || got.header.Get("X-Relay-TTL") != "1h0m0s" {
		t.Errorf("%d, granted %q", got.code, got.header.Get("X-Relay-TTL"))
	}
}

// While it drains, new pushes get 503 and those on their way are finished.
func TestDrain(t *testing.T) {
	r := newRelay(t, Options{})
	body := wire(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts(1, "__name__", "slow")}})
	pr, pw := io.Pipe()
	answer := make(chan answered)
	go func() { answer <- r.send(pr) }()
	pw.Write(body[:5]) // it has been taken on
	for r.h.room.inUse() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.h.Drain(ctx); err == nil {
		t.Error("drained with a request on its way")
	}
	if got := r.push1(ts(1, "__name__", "late")); got.code != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("while draining: %d, Retry-After %q", got.code, got.header.Get("Retry-After"))
	}
	pw.Write(body[5:])
	pw.Close()
	if got := <-answer; got.code != 204 {
		t.Errorf("on its way: %d %s", got.code, got.body)
	}
	if err := r.h.Drain(t.Context()); err != nil || r.live() != 1 {
		t.Errorf("after: %v, %d series", err, r.live())
	}
}

// Over the budget of bytes a request is refused before its body is read.
func TestInflightBudget(t *testing.T) {
	r := newRelay(t, Options{RequestBytes: 1 << 20, InflightBytes: 2 << 20})
	other := r.h.room.of("other")
	if bad := other.take(t.Context(), 2<<20-100); bad != nil {
		t.Fatal(bad)
	}
	got := r.send(strings.NewReader(strings.Repeat("x", 1000)))
	if got.code != 503 || !strings.Contains(got.body, "--limits.inflight-bytes") || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %q", got.code, got.body)
	}
	other.give(2<<20 - 100)
	if got := r.push1(ts(1, "__name__", "a")); got.code != 204 {
		t.Errorf("with room again: %d", got.code)
	}
}

// A client that is cut short has nothing applied, one that lies about its length
// neither.
func TestShortBody(t *testing.T) {
	r := newRelay(t, Options{})
	conn, err := net.Dial("tcp", r.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc")
	conn.(*net.TCPConn).CloseWrite()
	text, _ := io.ReadAll(conn)
	conn.Close()
	if len(text) > 0 && !bytes.Contains(text, []byte("400")) {
		t.Errorf("answered %q", text)
	}
	if r.h.room.inUse() != 0 || r.live() != 0 {
		t.Errorf("%d bytes held, %d series", r.h.room.inUse(), r.live())
	}
}

// Every edge too far ahead means that the relay's clock is wrong: 503, since the
// samples are good.
func TestOwnClock(t *testing.T) {
	r := newRelay(t, Options{})
	ahead := ts(1, "__name__", "a")
	ahead.Samples[0].Timestamp += 3600_000
	push := func(edge string, s prompb.TimeSeries) int {
		return r.send(bytes.NewReader(wire(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{s}})), EdgeHeader, edge).code
	}
	for i, want := range []int{400, 400, 503, 503} {
		if got := push(fmt.Sprint("e", i), ahead); got != want {
			t.Errorf("edge %d ahead: %d, want %d", i, got, want)
		}
	}
	if got := push("e0", ts(1, "__name__", "b")); got != 204 {
		t.Errorf("a good push: %d", got)
	}
	if got := push("e2", ahead); got != 400 {
		t.Errorf("with one edge right: %d", got)
	}
}

func TestClientAddr(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.7:123", "", "192.0.2.7"},
		{"192.0.2.7:123", "198.51.100.1", "192.0.2.7"},
		{"10.0.0.1:123", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:123", "203.0.113.5, 198.51.100.1, 10.2.2.2", "198.51.100.1"},
		{"10.0.0.1:123", "evil, 10.2.2.2", "10.2.2.2"},
		{"10.0.0.1:123", "", "10.0.0.1"},
		{"[2001:db8::1%eth0]:9", "", "2001:db8::1"},
		{"[::ffff:192.0.2.7]:9", "", "192.0.2.7"},
		{"@", "", "unknown"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := ClientAddr(r, proxies); got != c.want {
			t.Errorf("%s for %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

// A request may not take many times its size in memory.
func TestMemoryOfSmallElements(t *testing.T) {
	element := func(tag byte, n int) []byte { return bytes.Repeat([]byte{tag, 0}, n) }
	for name, c := range map[string]struct {
		v   version
		raw []byte
	}{
		"series":     {v1, element(0x0a, 1<<19)},
		"metadata":   {v1, element(0x1a, 1<<19)},
		"symbols":    {v2, element(0x22, 1<<19)},
		"series 2.0": {v2, element(0x2a, 1<<19)},
		"samples":    {v1, nested(0x0a, element(0x12, 1<<19))},
		"histograms": {v1, nested(0x0a, element(0x22, 1<<19))},
		"exemplars":  {v1, nested(0x0a, element(0x1a, 1<<19))},
		"spans":      {v1, nested(0x0a, nested(0x22, element(0x5a, 1<<19)))},
		"deltas":     {v1, nested(0x0a, nested(0x22, nested(0x62, make([]byte, 1<<20))))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := taken(t, func(b *series.Batch) error {
				d := &decoder{batch: b, budget: memoryFactor << 20}
				if c.v == v2 {
					return d.v2(c.raw)
				}
				return d.v1(c.raw)
			})
			if err != errTooDear {
				t.Errorf("a request of 1 MiB: %v", err)
			}
		})
	}
}

func nested(tag byte, in []byte) []byte {
	return append(binary.AppendUvarint([]byte{tag}, uint64(len(in))), in...)
}
