package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"relay/edges"
	"relay/journal"
	"relay/series"
)

// guarded is a handler that takes from the edges of a file; the token of an edge
// is its name.
func guarded(t *testing.T, opts Options, file string, replacements ...string) (*relay, *edges.Guard, string) {
	t.Helper()
	for _, name := range []string{"a", "b", "b1", "b2"} {
		sum := sha256.Sum256([]byte(name))
		file = strings.ReplaceAll(file, "token: "+name+"\n", "authorization: {credentials_sha256: "+hex.EncodeToString(sum[:])+"}\n")
	}
	path := filepath.Join(t.TempDir(), "edges.yml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := edges.NewGuard(path, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	opts.Guard, opts.Edges = g, edges.New(time.Hour, 10, g)
	return newRelay(t, opts), g, path
}

func (r *relay) as(token string, extra []string, series ...prompb.TimeSeries) answered {
	r.t.Helper()
	body := bytes.NewReader(wire(r.t, &prompb.WriteRequest{Timeseries: series}))
	return r.send(body, append([]string{"Authorization", "Bearer " + token}, extra...)...)
}

const twoEdges = "edges:\n- name: a\n  token: a\n  ttl: 90s\n  ttl_max: 2m\n- name: b\n  token: b\n  labels: {site: s}\n"

// brief is what is shown, a line a series: labels and value.
func brief(t *testing.T, s *series.Store) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(shown(t, s)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatal(err)
		}
		labels, _ := strconv.Unquote(quoted)
		bits, _ := strconv.ParseUint(strings.Fields(line[len(quoted):])[0], 16, 64)
		lines = append(lines, fmt.Sprint(labels, " ", math.Float64frombits(bits)))
	}
	return strings.Join(lines, "\n")
}

// An edge speaks for itself alone, whatever it says, and what it is granted is in
// the file.
func TestEdgesOfTheFile(t *testing.T) {
	r, g, path := guarded(t, Options{}, twoEdges)
	for _, c := range []struct {
		name string
		got  answered
		code int
		says string
	}{
		{"no credentials", r.push1(ts(1, "__name__", "up")), 401, "does not prove"},
		{"wrong token", r.as("c", nil, ts(1, "__name__", "up")), 401, "does not prove"},
		{"a", r.as("a", nil, ts(1, "__name__", "up", "edge", "b", "site", "s")), 204, ""},
		{"a, with another's name", r.as("a", []string{EdgeHeader, "b", "X-Scope-OrgID", "../b"}, ts(2, "__name__", "up2")), 204, ""},
		{"b", r.as("b", nil, ts(3, "__name__", "up")), 204, ""},
		{"too long a TTL", r.as("a", []string{"X-Relay-TTL", "inf"}, ts(4, "__name__", "long")), 204, ""},
	} {
		if c.got.code != c.code || !strings.Contains(c.got.body, c.says) {
			t.Errorf("%s: %d %s", c.name, c.got.code, c.got.body)
		}
		if c.code == 401 && c.got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", c.name)
		}
		if want := map[bool]string{true: "2m0s"}[c.name == "too long a TTL"]; c.got.header.Get("X-Relay-TTL") != want {
			t.Errorf("%s: granted %q, want %q", c.name, c.got.header.Get("X-Relay-TTL"), want)
		}
	}
	page := brief(t, r.store)
	for _, want := range []string{`up{edge="a",site="s"} 1`, `up2{edge="a"} 2`, `up{edge="b",site="s"} 3`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s:\n%s", want, page)
		}
	}
	if n := counter(t, r.reg, "relay_overridden_labels_total", ""); n != 1 {
		t.Errorf("%v labels overridden", n)
	}
	// Revoked: the next request is refused.
	if err := os.WriteFile(path, []byte("edges: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Reload(nil); err != nil {
		t.Fatal(err)
	}
	if got := r.as("a", nil, ts(1, "__name__", "up")); got.code != 401 {
		t.Errorf("revoked: %d", got.code)
	}
}

// The limits of one edge are its own. (hostile inputs 35 and 37)
func TestLimitsOfTheFile(t *testing.T) {
	r, _, _ := guarded(t, Options{}, "edges:\n- name: a\n  token: a\n  limits: {series: 2, samples_per_second: 1, samples_burst: 4}\n- name: b\n  token: b\n  limits: {requests_per_second: 0.001}\n")
	if got := r.as("a", nil, ts(1, "__name__", "m1"), ts(1, "__name__", "m2"), ts(1, "__name__", "m3")); got.code != 400 || !strings.Contains(got.body, "edge_series_limit") || !strings.Contains(got.body, "edge a holds 2 series") {
		t.Errorf("series: %d %s", got.code, got.body)
	}
	var many []prompb.TimeSeries
	for i := range 5 {
		many = append(many, ts(1, "__name__", fmt.Sprint("m", i)))
	}
	if got := r.as("a", nil, many...); got.code != 400 || !strings.Contains(got.body, "limits.samples_burst") {
		t.Errorf("burst: %d %s", got.code, got.body)
	}
	if got := r.as("a", nil, many[1], many[2]); got.code != 429 || got.header.Get("Retry-After") != "1" || !strings.Contains(got.body, "limits.samples_per_second") {
		t.Errorf("rate: %d %s %v", got.code, got.body, got.header)
	}
	if got := r.as("b", nil, many...); got.code != 204 {
		t.Errorf("another edge: %d %s", got.code, got.body)
	}
	if got := r.as("b", nil, many...); got.code != 429 || !strings.Contains(got.body, "limits.requests_per_second") || got.header.Get("Retry-After") == "" {
		t.Errorf("requests: %d %s", got.code, got.body)
	}
}

// stale is a stale marker.
func stale(labels ...string) prompb.TimeSeries {
	return ts(math.Float64frombits(value.StaleNaN), labels...)
}

// Of a pair one is listened to: the other is told that all is well, and can
// neither reset nor end what is shown.
func TestPairOfTheFile(t *testing.T) {
	r, _, _ := guarded(t, Options{}, "edges:\n- name: b1\n  token: b1\n  ha: {group: b}\n- name: b2\n  token: b2\n  ha: {group: b}\n")
	first := r.as("b1", nil, ts(10, "__name__", "requests_total", "__replica__", "x"))
	second := r.as("b2", nil, stale("__name__", "requests_total", "__replica__", "y"), ts(1, "__name__", "only_b2"))
	if first.code != 204 || second.code != 202 {
		t.Fatalf("%d and %d: %s %s", first.code, second.code, first.body, second.body)
	}
	if got := brief(t, r.store); got != `requests_total{edge="b"} 10` {
		t.Errorf("shown: %s", got)
	}
	body := wire(t, &writev2.Request{Symbols: []string{"", "__name__", "a"}, Timeseries: []writev2.TimeSeries{
		{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}}}}})
	got := r.send(bytes.NewReader(body), "Authorization", "Bearer b2", "Content-Type", type2)
	if got.code != 202 || got.header.Get("X-Prometheus-Remote-Write-Samples-Written") != "1" {
		t.Errorf("2.0: %d %v: its sender would take it for lost", got.code, got.header)
	}
	if n := counter(t, r.reg, "relay_samples_total", "deduplicated"); n != 3 {
		t.Errorf("%v deduplicated", n)
	}
}

// With --ha.labels the labels tell pairs, within one edge; without, __replica__ is
// refused and nobody is elected. (hostile input 64)
func TestPairsByLabels(t *testing.T) {
	of := func(cluster, replica string) prompb.TimeSeries {
		return ts(1, "__name__", "m", "__replica__", replica, "cluster", cluster)
	}
	r := newRelay(t, Options{HALabels: true, Edges: edges.New(time.Hour, 10, nil)})
	push := func(edge string, s ...prompb.TimeSeries) int {
		return r.send(bytes.NewReader(wire(t, &prompb.WriteRequest{Timeseries: s})), EdgeHeader, edge).code
	}
	for i, got := range []int{push("x", of("c1", "r1")), push("x", of("c1", "r2")), push("x", of("c2", "r2")), push("stranger", of("c1", "r2")), push("x", ts(1, "__name__", "plain"))} {
		if want := []int{204, 202, 204, 204, 204}[i]; got != want {
			t.Errorf("push %d: %d, want %d", i, got, want)
		}
	}
	if got := shown(t, r.store); strings.Contains(got, "__replica__") {
		t.Errorf("shown: %s", got)
	}
	r = newRelay(t, Options{Edges: edges.New(time.Hour, 10, nil)})
	if got := r.push1(of("c1", "r1")); got.code != 400 || !strings.Contains(got.body, "__replica__") {
		t.Errorf("%d %s", got.code, got.body)
	}
}

// stuck is a log that nobody reads, from a message on.
type stuck struct {
	slog.Handler
	message string
	reached chan struct{}
	free    chan struct{}
}

func (s *stuck) Enabled(context.Context, slog.Level) bool { return true }
func (s *stuck) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, s.message) {
		close(s.reached)
		<-s.free
	}
	return nil
}

// Who is elected is found out, and said, without a lock of the store: new series of
// others do not wait for it.
func TestElectionKeepsNobodyWaiting(t *testing.T) {
	log := &stuck{slog.DiscardHandler, "Another replica", make(chan struct{}), make(chan struct{})}
	r := newRelay(t, Options{HALabels: true, Edges: edges.New(time.Hour, 10, nil), Logger: slog.New(log)})
	push := func(ttl string, labels ...string) int {
		return r.send(bytes.NewReader(wire(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts(1, labels...)}})), "X-Relay-TTL", ttl).code
	}
	push("1s", "__name__", "m", "__replica__", "r1", "cluster", "c")
	elected := make(chan int)
	go func() {
		for push("1s", "__name__", "m", "__replica__", "r2", "cluster", "c") == 202 {
			time.Sleep(50 * time.Millisecond)
		}
		close(elected)
	}()
	<-log.reached
	other := make(chan int, 1)
	go func() { other <- push("1m", "__name__", "new") }()
	select {
	case code := <-other:
		if code != 204 {
			t.Errorf("%d", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("a new series waits for a log")
	}
	close(log.free)
	<-elected
}

// kept is a journal that remembers its records.
type kept struct{ records []journal.Record }

func (k *kept) Append(_ context.Context, r *journal.Record, apply func()) error {
	c := *r
	c.Body = bytes.Clone(r.Body)
	k.records = append(k.records, c)
	apply()
	return nil
}

// A replay decides nothing again: not the labels that were forced, though the
// file says others since, nor who was elected.
func TestReplayOfForcedLabels(t *testing.T) {
	var k kept
	r, _, _ := guarded(t, Options{Journal: &k}, "edges:\n- name: a\n  token: a\n- name: b1\n  token: b1\n  ha: {group: b}\n- name: b2\n  token: b2\n  ha: {group: b}\n")
	r.as("a", nil, ts(1, "__name__", "up", "edge", "victim"))
	r.as("b1", nil, ts(2, "__name__", "up", "__replica__", "r"))
	r.as("b2", nil, ts(3, "__name__", "up"))
	registry := edges.New(time.Hour, 10, nil)
	h := New(Options{Store: series.New(series.Options{}), Edges: registry})
	for i := range k.records {
		if err := h.Replay(&k.records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := shown(t, h.opts.Store), shown(t, r.store); got != want {
		t.Errorf("replayed\n%s\nlive\n%s", got, want)
	}
	if taken, _ := registry.Elect("b", "b2", time.Now(), edges.Span{Live: true}); taken {
		t.Error("the election is forgotten")
	}
	if len(k.records) != 2 {
		t.Errorf("%d records: a duplicate is in the journal", len(k.records))
	}
}
