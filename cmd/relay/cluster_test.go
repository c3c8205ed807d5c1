package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/prometheus/prompb"

	"relay/exposition"
)

// TestCluster runs two relays on one stream of three real nats-servers, under load,
// and takes from under them what can be taken: the stream's leader, two servers, all
// of them, one of the relays. What was acknowledged is on both pages afterwards, and
// these are the same.
func TestCluster(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	servers := startServers(t)
	relays := []*relayProcess{startSharing(t, servers), startSharing(t, servers)}
	for _, r := range relays {
		r.awaitReady(t)
	}
	l := &clusterLoad{t: t, relays: relays, stop: make(chan struct{}), last: map[string]*pushed{}}
	l.start()
	l.awaitAnswers("at the start", relays...)
	phase := func(what string, do func()) {
		if t.Failed() {
			return
		}
		begun, before := time.Now(), l.taken[0].Load()+l.taken[1].Load()
		do()
		l.awaitAnswers(what, relays...)
		t.Logf("%s: %d requests taken meanwhile, all well again %s later", what, l.taken[0].Load()+l.taken[1].Load()-before, time.Since(begun).Round(time.Millisecond))
	}
	phase("the leader of the stream killed", func() {
		leader := servers.leader(t)
		servers.kill(leader)
		l.awaitAnswers("without the leader", relays...)
		servers.run(t, leader)
	})
	phase("two servers killed", func() {
		servers.kill(0)
		servers.kill(1)
		l.awaitRefusals()
		servers.run(t, 0)
		servers.run(t, 1)
	})
	phase("all servers killed", func() {
		for i := range 3 {
			servers.kill(i)
		}
		l.awaitRefusals()
		for _, r := range relays {
			within(t, "not ready", func() bool { return status(r.base+"/-/ready") == 503 })
			if page := getPage(t, r.base+"/-/metrics"); !strings.Contains(page, "\nrelay_journal_up 0\n") {
				t.Error("the relay says that its journal is up")
			}
		}
		for i := range 3 {
			servers.run(t, i)
		}
	})
	phase("one relay killed", func() {
		relays[0].Signal(syscall.SIGKILL)
		relays[0].wait(t)
		l.awaitAnswers("with one relay", relays[1])
		relays[0].run(t)
		relays[0].awaitReady(t)
	})
	phase("the other one stopped", func() {
		relays[1].Signal(syscall.SIGTERM)
		if code := relays[1].wait(t); code != 0 {
			t.Errorf("exit %d", code)
		}
		l.awaitAnswers("with one relay", relays[0])
		relays[1].run(t)
		relays[1].awaitReady(t)
	})
	phase("one relay away for too long", func() {
		// Nothing that is on its way to it gets there: it finds that the stream has gone on.
		relays[0].Signal(syscall.SIGSTOP)
		var before *jetstream.StreamInfo
		within(t, "the state of the stream", func() (ok bool) {
			var err error
			before, err = servers.state(t)
			return err == nil
		})
		for i := range 3 {
			servers.kill(i)
		}
		for i := range 3 {
			servers.run(t, i)
		}
		relays[1].awaitReady(t)
		within(t, "what it has not seen is purged", func() bool {
			now, err := servers.state(t)
			return err == nil && now.State.FirstSeq > before.State.LastSeq+100
		})
		relays[0].Signal(syscall.SIGCONT)
		within(t, "it starts over", func() bool { return strings.Contains(relays[0].logs.String(), "Starting over") })
		relays[0].awaitReady(t)
	})
	close(l.stop)
	l.wait.Wait()
	for _, r := range relays {
		r.awaitReady(t)
		l.check(r)
	}
	if a, b := sortedPage(t, relays[0]), sortedPage(t, relays[1]); !slices.Equal(a, b) || len(a) < 50 {
		t.Errorf("the pages differ: %d and %d lines, %s", len(a), len(b), firstDifference(a, b))
	}
	within(t, "both relays list the same edges", func() bool {
		a, b := edgeList(t, relays[0]), edgeList(t, relays[1])
		return slices.Equal(a, b) && len(a) >= 5
	})
	third := startSharing(t, servers)
	third.awaitReady(t)
	if a, b := sortedPage(t, relays[0]), sortedPage(t, third); !slices.Equal(a, b) {
		t.Errorf("the page of a relay that came later differs: %s", firstDifference(a, b))
	}
	t.Logf("taken: %d and %d, refused: %d and %d, %d pages looked at, %d of them behind", l.taken[0].Load(), l.taken[1].Load(), l.refused[0].Load(), l.refused[1].Load(), l.pages.Load(), l.behind.Load())
}

// within waits two minutes at most: an election among servers takes ten seconds, and
// more on a machine that is busy.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// natsServers are three of one cluster.
type natsServers struct {
	bin     string
	conf    [3]string
	address [3]string
	process [3]*process
}

func startServers(t *testing.T) *natsServers {
	t.Helper()
	s := &natsServers{bin: tool(t, "nats-server")}
	var routes []string
	for i := range 3 {
		s.address[i] = freeAddress(t)
		routes = append(routes, freeAddress(t))
	}
	for i := range 3 {
		s.conf[i] = file(t, "nats.conf", fmt.Sprintf(`
server_name: n%d
listen: "%s"
jetstream { store_dir: "%s", max_file_store: 1GB, max_memory_store: 64MB }
cluster { name: test, listen: "%s", routes: ["nats://%s"] }
`, i, s.address[i], t.TempDir(), routes[i], strings.Join(routes, `", "nats://`)))
		s.run(t, i)
	}
	return s
}

func (s *natsServers) run(t *testing.T, i int) {
	t.Helper()
	s.process[i] = start(t, s.bin, "--config", s.conf[i])
}

func (s *natsServers) kill(i int) {
	s.process[i].Signal(syscall.SIGKILL)
	<-s.process[i].exited
}

func (s *natsServers) url() string { return "nats://" + strings.Join(s.address[:], ",nats://") }

// leader is the number of the server that leads the stream.
func (s *natsServers) leader(t *testing.T) (n int) {
	t.Helper()
	within(t, "the stream has a leader and three replicas", func() bool {
		info, err := s.state(t)
		if err != nil || info.Config.Replicas != 3 || info.Cluster == nil {
			return false
		}
		_, err = fmt.Sscanf(info.Cluster.Leader, "n%d", &n)
		return err == nil
	})
	return n
}

// state is what the cluster says of the stream. While servers start and elect it has
// no answer.
func (s *natsServers) state(t *testing.T) (*jetstream.StreamInfo, error) {
	nc, err := nats.Connect(s.url(), nats.Timeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, "RELAY")
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

// A relayProcess can be started again where it was.
type relayProcess struct {
	*process
	base  string
	flags []string
}

func startSharing(t *testing.T, s *natsServers) *relayProcess {
	t.Helper()
	address := freeAddress(t)
	r := &relayProcess{base: "http://" + address, flags: []string{
		"--web.listen-address=" + address, "--journal=nats", "--journal.nats-url=" + s.url(), "--journal.max-bytes=128MiB",
		"--journal.window=4s", "--ha.labels", "--log.level=info",
	}}
	r.run(t)
	return r
}

func (r *relayProcess) run(t *testing.T) {
	t.Helper()
	r.process = start(t, relayBinary(t), r.flags...)
}

func (r *relayProcess) awaitReady(t *testing.T) {
	t.Helper()
	within(t, "a relay ready", func() bool { return status(r.base+"/-/ready") == 200 })
}

// clusterLoad is senders of several kinds, and what they know: values of a series
// only rise, so a page must not show less than what was acknowledged, nor more than
// what was sent.
type clusterLoad struct {
	t      *testing.T
	relays []*relayProcess
	stop   chan struct{}
	wait   sync.WaitGroup

	taken, refused [2]atomic.Int64 // requests, by relay
	pages, behind  atomic.Int64

	mu   sync.Mutex
	last map[string]*pushed
}

// pushed is what was sent of a series or a group: the last value that was
// acknowledged, gone if that was its end, and the last that was sent.
type pushed struct {
	acked, sent int
	gone        bool
}

const (
	clusterEdges  = 4
	clusterGroups = 4
	clusterSeries = 25 // of an edge
)

// clusterClient waits for longer than a relay is away. A request that it gave up could
// be taken by a relay that comes back, after what was sent and acknowledged since.
var clusterClient = &http.Client{Timeout: 5 * time.Minute}

func (l *clusterLoad) start() {
	each := func(pause time.Duration, do func(i int)) {
		l.wait.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-l.stop:
					return
				case <-time.After(pause):
					do(i)
				}
			}
		})
	}
	for e := range clusterEdges {
		each(5*time.Millisecond, func(i int) { l.write(e, i) })
	}
	for g := range clusterGroups {
		each(10*time.Millisecond, func(i int) { l.group(g, i) })
	}
	for n := range l.relays {
		each(20*time.Millisecond, func(i int) { l.replica(n, i) })
		each(50*time.Millisecond, func(int) { l.check(l.relays[n]) })
	}
}

// send sends a request to a relay and reports whether it was taken.
func (l *clusterLoad) send(n int, method, path, edge string, body []byte) bool {
	req, err := http.NewRequest(method, l.relays[n].base+path, bytes.NewReader(body))
	if err != nil {
		l.t.Error(err)
		return false
	}
	req.Header.Set("X-Relay-Edge", edge)
	res, err := clusterClient.Do(req)
	if err != nil {
		time.Sleep(20 * time.Millisecond)
		return false // the relay is killed
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	switch {
	case res.StatusCode/100 == 2:
		l.taken[n].Add(1)
		return true
	case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "":
		l.refused[n].Add(1)
		time.Sleep(20 * time.Millisecond)
	default:
		l.t.Errorf("%s %s: %d %s", method, path, res.StatusCode, text)
	}
	return false
}

// sending notes what is being sent under a name; the function that it returns notes
// that it was taken.
func (l *clusterLoad) sending(name string, v int, gone bool) (taken func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.last[name]
	if p == nil {
		p = &pushed{gone: true}
		l.last[name] = p
	}
	p.sent = v
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		p.acked, p.gone = v, gone
	}
}

func writeRequest(series map[string]float64, labels ...string) []byte {
	req := &prompb.WriteRequest{}
	for name, v := range series {
		ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: name}}, Samples: []prompb.Sample{{Value: v, Timestamp: time.Now().UnixMilli()}}}
		for i := 0; i < len(labels); i += 2 {
			ts.Labels = append(ts.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	raw, err := req.Marshal()
	if err != nil {
		panic(err)
	}
	return snappy.Encode(nil, raw)
}

// write sends an edge's series by remote write, now to one relay, now to the other.
func (l *clusterLoad) write(e, i int) {
	series := map[string]float64{}
	var taken []func()
	for s := range clusterSeries {
		if name := fmt.Sprintf("written_%d_%d", e, s); (i+s)%3 > 0 {
			series[name] = float64(i)
			taken = append(taken, l.sending(name, i, false))
		}
	}
	ttl := []string{"1h", "4m"}[e%2] // without timestamps on the page, and with them
	if l.send(i/5%2, http.MethodPost, "/api/v1/write?ttl="+ttl, fmt.Sprint("edge-", e), writeRequest(series)) {
		for _, t := range taken {
			t()
		}
	}
}

// group pushes to a group and deletes it, at either relay.
func (l *clusterLoad) group(g, i int) {
	name := fmt.Sprintf("grouped_%d", g)
	n, path := i%2, fmt.Sprintf("/metrics/job/job-%d?ttl=1h", g)
	gone := i%5 == 4
	method, body := http.MethodPut, fmt.Sprintf("%s %d\n", name, i)
	if gone {
		method, body = http.MethodDelete, ""
	}
	taken := l.sending(name, i, gone)
	if l.send(n, method, path, "pusher", []byte(body)) {
		taken()
	}
}

// replica sends as one of a pair, each to its own relay.
func (l *clusterLoad) replica(n, i int) {
	l.send(n, http.MethodPost, "/api/v1/write?ttl=1h", "pair", writeRequest(map[string]float64{"paired": float64(2*i + n)}, "__replica__", fmt.Sprint("r", n), "cluster", "c"))
}

// check compares a relay's page with what was sent.
func (l *clusterLoad) check(r *relayProcess) {
	l.mu.Lock()
	before := map[string]pushed{}
	for name, p := range l.last {
		before[name] = *p
	}
	l.mu.Unlock()
	res, err := clusterClient.Get(r.base + "/metrics")
	if err != nil {
		return // killed
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return
	}
	if res.StatusCode != 200 {
		if !strings.Contains(string(text), "replaying") {
			l.t.Errorf("a scrape: %d %s", res.StatusCode, text)
		}
		return
	}
	behind := res.Header.Get(exposition.BehindHeader) != "" // then it shows what it has
	if behind {
		l.behind.Add(1)
	}
	l.pages.Add(1)
	page := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name, v, ok := strings.Cut(line, "} ")
		if name, _, labelled := strings.Cut(name, "{"); ok && labelled {
			v, _, _ = strings.Cut(strings.TrimSpace(v), " ")
			page[name], err = strconv.Atoi(v)
			if err != nil && !strings.HasPrefix(name, "push_") {
				l.t.Errorf("%q", line)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, p := range before {
		v, shown := page[name]
		now := l.last[name]
		group := strings.HasPrefix(name, "grouped")
		switch {
		case shown && v > now.sent:
			l.t.Errorf("%s is shown as %d, nobody has sent that", name, v)
		case behind:
		case shown && v < p.acked:
			l.t.Errorf("%s of %s is shown as %d, %d was acknowledged (gone: %v)", name, r.base, v, p.acked, p.gone)
		case !shown && !p.gone && (!group || p.acked == now.sent):
			l.t.Errorf("%s is not shown at %s, %d was acknowledged", name, r.base, p.acked)
		}
	}
}

// awaitAnswers waits until relays have taken some more.
func (l *clusterLoad) awaitAnswers(when string, relays ...*relayProcess) {
	l.t.Helper()
	for n, r := range l.relays {
		if slices.Contains(relays, r) {
			before := l.taken[n].Load()
			within(l.t, "pushes are taken "+when, func() bool { return l.taken[n].Load() > before+50 })
		}
	}
}

// awaitRefusals waits until both relays refuse, and show their pages all the same.
func (l *clusterLoad) awaitRefusals() {
	l.t.Helper()
	for n, r := range l.relays {
		before, pages := l.refused[n].Load(), l.pages.Load()
		within(l.t, "pushes are refused", func() bool { return l.refused[n].Load() > before+20 })
		within(l.t, "pages are shown", func() bool { return l.pages.Load() > pages+5 })
		if got := status(r.base + "/metrics"); got != 200 {
			l.t.Errorf("a scrape while the cluster is away: %d", got)
		}
	}
}

// sortedPage is a relay's page when it lacks nothing of what others have taken.
func sortedPage(t *testing.T, r *relayProcess) (lines []string) {
	t.Helper()
	within(t, "a page that is not behind", func() bool {
		res, err := clusterClient.Get(r.base + "/metrics")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		lines = slices.Sorted(strings.Lines(string(text)))
		return err == nil && res.StatusCode == http.StatusOK && res.Header.Get(exposition.BehindHeader) == ""
	})
	return lines
}

func firstDifference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%q and %q", a[i], b[i])
		}
	}
	return "one has more"
}

// edgeList is what relays that share a journal say alike of their edges.
func edgeList(t *testing.T, r *relayProcess) (list []string) {
	var answer struct{ Data []map[string]any }
	if err := json.Unmarshal([]byte(getPage(t, r.base+"/api/v1/edges")), &answer); err != nil {
		t.Error(err)
	}
	for _, e := range answer.Data {
		maps.DeleteFunc(e, func(key string, _ any) bool {
			return key != "name" && key != "lastSeen" && key != "ttl" && key != "silent"
		})
		list = append(list, fmt.Sprint(e))
	}
	return list
}
