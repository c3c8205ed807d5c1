package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"golang.org/x/crypto/bcrypt"
)

// TestHostile attacks the relay's binary, case by case, while a well-behaved edge,
// the sentinel, pushes and is scraped four times a second. After each case
//
//   - the sentinel has missed nothing: each push was answered 204, and the scrape
//     that followed showed its value (I1, I4, I5)
//   - exactly those counters of refusals have moved that the case says
//   - the page shows what the case says and nothing else is new (I2, I3, I6)
//   - the process is alive, as large as it may be, and goroutines and descriptors
//     are back where they were
//
// The invariants: I1 what is answered 2xx is not lost before it expires, I2 nothing
// gone comes back, I3 what is shown was sent by the edge whose label it has, I4 time
// does not step back, I5 an edge does not change what another one gets, I6 what is not
// answered 2xx is shown in full or not at all, I7 replicas converge, I8 received =
// applied + superseded + expired + refused + deduplicated.
//
// Cases have numbers, in the order of a table that was written before them; 66 and up
// are inputs that it lacked. Where they are:
//
//	Wire         1 to 16, 66 to 69        Labels   17 to 27, 62, 63, 70 to 73, 96
//	Time         28 to 34, 74 to 77       Limits   35, 37, 38, 60, 80
//	Credentials  39 to 43, 46, 59, 78, 79
//	Connections  47 to 52, 84, 85         Open     36, 61, 64, 81 to 83, 95
//	Scrape       53, 54, 65, 86, 87, 94   Push     88 to 93
//
// and those that need other means:
//
//	40      users that do not exist take as long: edges, TestStrangersTakeAsLong
//	44, 45  TestBinaryIngestListener; with real senders TestProcessEdges
//	55      TestDiskFull, TestDiskError
//	56      journal, TestDamagedStore, TestDamagedRecords, TestSurgery
//	57      journal, TestHostileRecords, TestNewerVersionIsRefused, FuzzRecord
//	58      series, TestClockSteps, TestStateOfAnotherClock
//	97      what could break a page, scraped by a Prometheus: TestHostilePagesAreScraped
//	I1, I2  across kill -9: TestCrash
//	I7      TestCluster; journal, TestTwoRelaysOneOrder
//	I8      series, TestAccounting
func TestHostile(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the binary")
	}
	for _, c := range []struct {
		name string
		do   func(*testing.T)
		long bool // minutes, or what a busy machine cannot do beside other things
	}{
		{"Labels", hostileLabels, false}, {"Time", hostileTime, false}, {"Wire", hostileWire, true}, {"Credentials", hostileCredentials, true},
		{"Limits", hostileLimits, true}, {"Connections", hostileConnections, true}, {"Open", hostileOpen, true}, {"Scrape", hostileScrape, true}, {"Push", hostilePush, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long && os.Getenv("RELAY_E2E") == "" {
				t.Skip("set RELAY_E2E=1")
			}
			t.Parallel()
			c.do(t)
		})
	}
}

// A siege is a relay under attack, with its sentinel.
type siege struct {
	t        *testing.T
	proc     *process
	web      string // base of the web listener
	pushes   string // host and port where pushes are taken
	guarded  bool
	dir      string // of its edges file
	client   *http.Client
	sentinel *sentinel

	goroutines, files float64 // at rest
	maxRSS            float64 // bytes
}

const attackToken, sentinelToken, shipPassword = "token-of-the-attacker", "token-of-the-sentinel", "password-of-ship"

// hostileEdges is the edges file of a siege.
func hostileEdges() string {
	var b strings.Builder
	b.WriteString("edges:\n")
	edge := func(name, token, more string) {
		fmt.Fprintf(&b, "- name: %s\n  authorization: {credentials_sha256: %x}\n%s", name, sha256.Sum256([]byte(token)), more)
	}
	edge("sentinel", sentinelToken, "")
	edge("attacker", attackToken, "  labels: {site_id: a}\n")
	edge("victim", "token-of-victim", "")
	edge("few", "token-of-few", "  limits: {series: 100, labels: 6}\n")
	edge("seldom", "token-of-seldom", "  limits: {requests_per_second: 2}\n")
	edge("bursty", "token-of-bursty", "  limits: {samples_per_second: 10, samples_burst: 100}\n")
	edge("brief", "token-of-brief", "  ttl: 20s\n  ttl_max: 30s\n")
	edge("twin-a", "token-of-twin-a", "  ha: {group: twins}\n")
	edge("twin-b", "token-of-twin-b", "  ha: {group: twins}\n")
	edge("off", "token-of-off", "  enabled: false\n")
	hash, err := bcrypt.GenerateFromPassword([]byte(shipPassword), 10)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(&b, "- name: ship\n  basic_auth: {password_hash: %q}\n", hash)
	return b.String()
}

// besiege starts a relay with an edges file and a listener for pushes.
func besiege(t *testing.T, flags ...string) *siege {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "edges.yml"), []byte(hostileEdges()), 0o600); err != nil {
		t.Fatal(err)
	}
	pushes := freeAddress(t)
	s := &siege{t: t, dir: dir, guarded: true, pushes: pushes}
	s.start(append([]string{"--edges.file=" + filepath.Join(dir, "edges.yml"), "--ingest.listen-address=" + pushes, "--web.enable-lifecycle"}, flags...)...)
	return s
}

// besiegeOpen starts one without.
func besiegeOpen(t *testing.T, flags ...string) *siege {
	t.Helper()
	s := &siege{t: t}
	s.start(flags...)
	return s
}

func (s *siege) start(flags ...string) {
	t := s.t
	t.Helper()
	address := freeAddress(t)
	if s.pushes == "" {
		s.pushes = address
	}
	s.web = "http://" + address
	s.proc = start(t, relayBinary(t), append([]string{"--web.listen-address=" + address, "--journal.path=" + t.TempDir(), "--limits.memory=1GB"}, flags...)...)
	waitFor(t, "the relay ready", func() bool { return status(s.web+"/-/ready") == 200 })
	s.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 60 * time.Second}
	s.sentinel = guardWith(s)
	s.sentinel.beats(t, 3)
	m := s.metrics()
	s.goroutines, s.files = m["go_goroutines"], m["process_open_fds"]
}

// metrics are the relay's own.
func (s *siege) metrics() map[string]float64 {
	s.t.Helper()
	res, err := s.sentinel.scraper.Get(s.web + "/-/metrics")
	if err != nil {
		s.t.Fatalf("the relay is gone: %v", err)
	}
	defer res.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if name, v, ok := cutLast(lines.Text(), " "); ok && !strings.HasPrefix(name, "#") {
			out[name], _ = strconv.ParseFloat(v, 64)
			if strings.Contains(name, "h0stile") {
				s.t.Errorf("the relay's own metrics have what a stranger sent: %s", name)
			}
		}
	}
	s.maxRSS = max(s.maxRSS, out["process_resident_memory_bytes"])
	return out
}

// watched are the counters that move only when something is wrong, or odd.
var watched = regexp.MustCompile(`^relay_(refused_|overridden_|metadata_conflicts|series_owner|scrapes_failed|ingest_refused|journal_failures|ha_failovers|samples_total.outcome="(superseded|ended|expired|dedup))`)

// page parses what the relay shows in a format: values by labels, without the
// sentinel's.
func (s *siege) page(accept string) map[string]string {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.web+"/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := s.sentinel.scraper.Do(req)
	if err != nil {
		s.t.Fatalf("scrape: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		s.t.Fatalf("scrape: %d %v", res.StatusCode, err)
	}
	out, err := parsePage(body, res.Header.Get("Content-Type"))
	if err != nil {
		s.t.Fatalf("the page cannot be read: %v", err)
	}
	maps.DeleteFunc(out, func(l, _ string) bool { return strings.Contains(l, `__name__="sentinel_`) })
	return out
}

func parsePage(body []byte, contentType string) (map[string]string, error) {
	out := map[string]string{}
	p, err := textparse.New(body, contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	for {
		entry, err := p.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var l labels.Labels
		switch entry {
		case textparse.EntrySeries:
			_, _, v := p.Series()
			p.Labels(&l)
			l = l.WithoutEmpty()
			out[l.String()] = strconv.FormatFloat(v, 'g', -1, 64)
		case textparse.EntryHistogram:
			p.Labels(&l)
			out[l.WithoutEmpty().String()] = "histogram"
		}
	}
}

// The ways in which the relay writes a page.
const (
	textUTF8    = "text/plain;version=1.0.0;escaping=allow-utf-8"
	text004     = "text/plain;version=0.0.4"
	openMetrics = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"
	protoPage   = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8"
)

// everyFormat are the formats and the escapings.
var everyFormat = []string{
	text004, textUTF8, openMetrics, protoPage, "application/openmetrics-text;version=0.0.1",
	"text/plain;version=1.0.0;escaping=underscores", "text/plain;version=1.0.0;escaping=dots", "text/plain;version=1.0.0;escaping=values",
	"application/openmetrics-text;version=1.0.0;escaping=values", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=underscores",
}

// An attack is one case.
type attack struct {
	*testing.T
	s      *siege
	token  string
	moved  map[string]float64
	shown  map[string]string
	may    map[string]bool // counters that may move, nobody knows how often
	any    bool            // the page may show more
	maxRSS float64         // bytes
}

// usualRSS is what the relay may take: the race detector is not in it.
const usualRSS = 900 << 20

// run runs one case.
func (s *siege) run(name string, do func(a *attack)) {
	s.t.Run(name, func(t *testing.T) {
		outer := s.t
		s.t = t
		defer func() { s.t = outer }()
		a := &attack{T: t, s: s, token: attackToken, moved: map[string]float64{}, shown: map[string]string{}, may: map[string]bool{}, maxRSS: usualRSS}
		before, pageBefore := s.metrics(), s.page(textUTF8)
		s.maxRSS = 0
		do(a)
		s.sentinel.beats(t, 2)
		s.sentinel.check(t)
		select {
		case <-s.proc.exited:
			t.Fatal("the relay has ended")
		default:
		}
		after, pageAfter := s.metrics(), s.page(textUTF8)
		for name := range after {
			if d := after[name] - before[name]; watched.MatchString(name) && d != a.moved[name] && !a.may[name] {
				t.Errorf("%s moved by %v, want %v", name, d, a.moved[name])
			}
		}
		for name, d := range a.moved {
			if _, exists := after[name]; !exists && d != 0 {
				t.Errorf("there is no %s, it was to move by %v", name, d)
			}
		}
		for l, v := range pageAfter {
			if old, was := pageBefore[l]; (!was || old != v) && a.shown[l] != v && !a.any {
				t.Errorf("shown: %s %s", l, v)
			}
		}
		for l, v := range a.shown {
			if got := pageAfter[l]; got != v {
				t.Errorf("not shown: %s %s, but %q", l, v, got)
			}
		}
		if s.maxRSS > a.maxRSS {
			t.Errorf("the relay takes %.0f MB", s.maxRSS/1e6)
		}
		s.rest(t)
	})
}

// rest waits until goroutines and descriptors are back where they were.
func (s *siege) rest(t *testing.T) {
	t.Helper()
	var m map[string]float64
	for range 200 {
		m = s.metrics()
		if m["go_goroutines"] <= s.goroutines+10 && m["process_open_fds"] <= s.files+6 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%v goroutines and %v descriptors, at rest they were %v and %v", m["go_goroutines"], m["process_open_fds"], s.goroutines, s.files)
}

// refused says how often requests are to be refused for a reason.
func (a *attack) refused(reason string, n int) {
	a.moved[fmt.Sprintf("relay_refused_requests_total{reason=%q}", reason)] += float64(n)
}

// refusedSamples says how many samples are.
func (a *attack) refusedSamples(reason string, n int) {
	a.moved[fmt.Sprintf("relay_refused_samples_total{reason=%q}", reason)] += float64(n)
}

// mayRefuse names reasons for which any number may be refused.
func (a *attack) mayRefuse(reasons ...string) {
	for _, r := range reasons {
		a.may[fmt.Sprintf("relay_refused_requests_total{reason=%q}", r)] = true
		a.may[fmt.Sprintf("relay_refused_samples_total{reason=%q}", r)] = true
	}
}

// mayBe names outcomes that any number of samples may have.
func (a *attack) mayBe(outcomes ...string) {
	for _, o := range outcomes {
		a.may[fmt.Sprintf("relay_samples_total{outcome=%q}", o)] = true
	}
}

func (a *attack) outcome(outcome string, n int) {
	a.moved[fmt.Sprintf("relay_samples_total{outcome=%q}", outcome)] += float64(n)
}

// shows says what is to be shown of the attacker's: its own labels.
func (a *attack) shows(v float64, pairs ...string) {
	if a.s.guarded {
		pairs = append(pairs, "edge", "attacker", "site_id", "a")
	}
	a.showsExactly(v, pairs...)
}

func (a *attack) showsExactly(v float64, pairs ...string) {
	l := labels.NewBuilder(labels.EmptyLabels())
	for i := 0; i < len(pairs); i += 2 {
		l.Set(pairs[i], pairs[i+1])
	}
	a.shown[l.Labels().String()] = strconv.FormatFloat(v, 'g', -1, 64)
}

// A reply is what the relay has answered.
type reply struct {
	code   int
	body   string
	header http.Header
}

// post sends a body as it is. headers are names and values; the value "-" leaves
// a header out.
func (a *attack) post(path string, body io.Reader, headers ...string) reply {
	a.Helper()
	r, err := a.try(http.MethodPost, path, body, headers...)
	if err != nil {
		a.Fatalf("no answer: %v", err)
	}
	return r
}

func (a *attack) try(method, path string, body io.Reader, headers ...string) (reply, error) {
	a.Helper()
	req, err := http.NewRequest(method, "http://"+a.s.pushes+path, body)
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	if a.s.guarded {
		req.Header.Set("Authorization", "Bearer "+a.token)
	} else {
		req.Header.Set("X-Relay-Edge", "attacker")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "-" {
			req.Header.Del(headers[i])
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := a.s.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if len(text) > 1100 {
		a.Errorf("an answer of %d bytes", len(text))
	}
	return reply{res.StatusCode, string(text), res.Header}, err
}

const writePath = "/api/v1/write"

// write sends a message in snappy.
func (a *attack) write(raw []byte, headers ...string) reply {
	a.Helper()
	return a.post(writePath, bytes.NewReader(snappyOf(raw)), headers...)
}

func snappyOf(raw []byte) []byte { return snappy.Encode(nil, raw) }

// push sends series in remote write 1.0.
func (a *attack) push(series ...prompb.TimeSeries) reply {
	a.Helper()
	return a.write(v1Of(a, series...))
}

func v1Of(t testing.TB, series ...prompb.TimeSeries) []byte {
	t.Helper()
	raw, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (a *attack) push2(req *writev2.Request) reply {
	a.Helper()
	raw, err := req.Marshal()
	if err != nil {
		a.Fatal(err)
	}
	return a.write(raw, "Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
}

// wants checks an answer.
func (a *attack) wants(got reply, code int, says ...string) {
	a.Helper()
	if got.code != code {
		a.Errorf("answered %d %s, want %d", got.code, got.body, code)
	}
	for _, want := range says {
		if !strings.Contains(got.body, want) {
			a.Errorf("answered %d %s: it does not say %q", got.code, got.body, want)
		}
	}
	if (code == 429 || code == 503) && got.header.Get("Retry-After") == "" {
		a.Errorf("%d without Retry-After", code)
	}
}

// raw sends bytes on a connection of their own, closes it for writing where that is
// asked for, and returns what comes back.
func (a *attack) raw(request string, halfClose bool) string {
	a.Helper()
	c, err := net.Dial("tcp", a.s.pushes)
	if err != nil {
		a.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(c, request)
	if halfClose {
		c.(*net.TCPConn).CloseWrite()
	}
	out, _ := io.ReadAll(c)
	return string(out)
}

// head is the head of a raw request, without its last line.
func (a *attack) head(method, path string, headers ...string) string {
	who := "X-Relay-Edge: attacker"
	if a.s.guarded {
		who = "Authorization: Bearer " + a.token
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: relay\r\n%s\r\n%s", method, path, who, strings.Join(append(headers, ""), "\r\n"))
}

// one is a series with one sample, now.
func one(v float64, pairs ...string) prompb.TimeSeries {
	return at(time.Now().UnixMilli(), v, pairs...)
}

// at is a series with a sample of that time. pairs are as they are sent, in their order.
func at(ms int64, v float64, pairs ...string) prompb.TimeSeries {
	s := prompb.TimeSeries{Samples: []prompb.Sample{{Value: v, Timestamp: ms}}}
	for i := 0; i < len(pairs); i += 2 {
		s.Labels = append(s.Labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return s
}

// A sentinel is an edge as it should be.
type sentinel struct {
	pusher, scraper *http.Client
	stop            chan struct{}
	done            chan struct{}

	mu     sync.Mutex
	n      int // beats
	slow   time.Duration
	faults []string
}

// beatEvery is stricter than the second that the rule wants, so that no case need
// wait for long.
const beatEvery = 250 * time.Millisecond

// guardWith starts a sentinel, which comes from another address than the attacker.
func guardWith(s *siege) *sentinel {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	client := func() *http.Client {
		return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}, Timeout: 30 * time.Second}
	}
	g := &sentinel{pusher: client(), scraper: client(), stop: make(chan struct{}), done: make(chan struct{})}
	t := s.t
	go func() {
		defer close(g.done)
		for n := 1; ; n++ {
			begun := time.Now()
			fault := g.beat(s, n)
			g.mu.Lock()
			g.n, g.slow = n, max(g.slow, time.Since(begun))
			if fault != "" {
				g.faults = append(g.faults, fmt.Sprintf("beat %d: %s", n, fault))
			}
			g.mu.Unlock()
			select {
			case <-g.stop:
				return
			case <-time.After(beatEvery):
			}
		}
	}()
	t.Cleanup(func() {
		close(g.stop)
		<-g.done
		g.pusher.CloseIdleConnections()
		g.scraper.CloseIdleConnections()
		t.Logf("%d beats of the sentinel, the slowest took %s", g.n, g.slow.Round(time.Millisecond))
	})
	return g
}

var sentinelLine = regexp.MustCompile(`(?m)^sentinel_value\{([^}]*)\} (\S+) (\d+)$`)

// beat pushes once and looks at the page; what it returns is wrong.
func (g *sentinel) beat(s *siege, n int) string {
	now := time.Now().UnixMilli()
	raw, err := (&prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{at(now, float64(n), "__name__", "sentinel_value"), at(now, 1, "__name__", "sentinel_up"), at(now, 1, "__name__", "sentinel_typed")},
		Metadata: []prompb.MetricMetadata{
			{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "sentinel_value", Help: "Beats."},
			{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "sentinel_typed", Help: "Nobody else speaks of it."},
		},
	}).Marshal()
	if err != nil {
		return err.Error()
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+s.pushes+writePath, bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		return err.Error()
	}
	if s.guarded {
		req.Header.Set("Authorization", "Bearer "+sentinelToken)
	} else {
		req.Header.Set("X-Relay-Edge", "sentinel")
	}
	res, err := g.pusher.Do(req)
	if err != nil {
		return "push: " + err.Error()
	}
	answer, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Sprintf("push answered %d %s", res.StatusCode, answer)
	}
	req, err = http.NewRequest(http.MethodGet, s.web+"/metrics?edge=sentinel", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
	if res, err = g.scraper.Do(req); err != nil {
		return "scrape: " + err.Error()
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Sprintf("scrape answered %d %v", res.StatusCode, err)
	}
	found := sentinelLine.FindAllStringSubmatch(string(page), -1)
	if len(found) != 1 || found[0][2] != strconv.Itoa(n) || found[0][3] != strconv.FormatInt(now, 10) {
		return fmt.Sprintf("the page does not have %d at %d, but %q", n, now, found)
	}
	return ""
}

// beats waits for whole beats.
func (g *sentinel) beats(t *testing.T, n int) {
	t.Helper()
	g.mu.Lock()
	want := g.n + n
	g.mu.Unlock()
	waitFor(t, "beats of the sentinel", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.n >= want
	})
}

// check fails for what the sentinel has missed since the last check.
func (g *sentinel) check(t *testing.T) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, f := range g.faults {
		if i == 5 {
			t.Errorf("and %d more", len(g.faults)-5)
			break
		}
		t.Errorf("the sentinel: %s", f)
	}
	g.faults = nil
}

// parallel calls do n times from a few goroutines.
func parallel(n, width int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range width {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// codes counts answers.
type codes struct {
	mu sync.Mutex
	n  map[int]int
}

func (c *codes) add(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[int]int{}
	}
	c.n[code]++
}

func (c *codes) String() string {
	var out []string
	for _, code := range slices.Sorted(maps.Keys(c.n)) {
		out = append(out, fmt.Sprintf("%d times %d", c.n[code], code))
	}
	return strings.Join(out, ", ")
}

var nan = math.NaN()
