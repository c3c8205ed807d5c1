package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
)

// buildRelay builds the binary once.
var buildRelay = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "relay-test")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "relay")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return bin, nil
})

// envNumber is a number that whoever runs a test can set.
func envNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	if s := os.Getenv(name); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return otherwise
}

// seedOf is a new seed, or the one that a test is to run with again.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("RELAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RELAY_SEED=%d", seed)
	return seed
}

// TestCrash kills a relay again and again while edges push to it by remote write
// and to groups, and holds every page, during the load and after each restart,
// against the history: everything acknowledged is there, nothing gone is back, no
// time steps back, and nothing is shown that nobody sent. A history that fails is
// kept.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds a round")
	}
	rounds, seed := envNumber(t, "RELAY_CRASH_ROUNDS", 2), seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	bin, err := buildRelay()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := newHistory(t, seed)
	for round := range rounds {
		h.note("round", round)
		runFor := time.Duration(300+rng.IntN(1500)) * time.Millisecond
		sig := syscall.SIGKILL
		if rng.IntN(4) == 0 {
			sig = syscall.SIGTERM
		}
		crashRound(t, bin, dir, h, rng.Uint64(), runFor, sig, nil)
		if t.Failed() {
			t.Fatalf("round %d of %d, with RELAY_SEED=%d", round, rounds, seed)
		}
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond) // some TTLs pass while it is down
	}
}

// crashRound starts the relay, checks its first page, pushes and scrapes for a
// while, and ends it by a signal: that, or what end does to it first.
func crashRound(t *testing.T, bin, dir string, h *history, seed uint64, runFor time.Duration, sig syscall.Signal, end func(*crashClient), flags ...string) {
	address := freeAddress(t)
	var logs bytes.Buffer
	cmd := exec.Command(bin, append([]string{"--web.listen-address=" + address, "--journal.path=" + dir, "--journal.window=2s", "--series.lag-tolerance=1s",
		"--exposition.timestamps=always", "--log.level=warn"}, flags...)...)
	cmd.Stderr = &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer func() {
		if t.Failed() {
			t.Logf("the relay said:\n%s", logs.String())
		}
	}()
	c := &crashClient{t: t, h: h, base: "http://" + address, http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	defer c.http.CloseIdleConnections()
	// The first page is asked for while the journal is replayed: it waits, and is
	// whole.
	first := false
	for deadline := time.Now().Add(2 * time.Minute); !first && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		first = c.scrape()
	}
	if !first {
		cmd.Process.Kill()
		<-exited
		t.Fatal("no page within two minutes")
	}
	var pushers sync.WaitGroup
	stop := make(chan struct{})
	loop := func(n uint64, do func(rng *rand.Rand, n int)) {
		pushers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, n))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				do(rng, n)
				time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond)
			}
		})
	}
	for edge := range 3 {
		loop(uint64(edge), func(rng *rand.Rand, _ int) { c.write(edge, rng) })
		loop(uint64(100+edge), func(rng *rand.Rand, _ int) { c.pushGroup(edge, rng) })
	}
	loop(200, func(*rand.Rand, int) { c.scrape() })
	time.Sleep(runFor)
	if sig == syscall.SIGTERM {
		defer c.lookForPauses()()
		c.ended.Store(time.Now().UnixNano()) // whoever has begun by now is answered
		cmd.Process.Signal(sig)              // under load
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
		case <-time.After(stopTime + time.Minute):
			t.Errorf("still there %s after SIGTERM", stopTime+time.Minute)
			cmd.Process.Kill()
			<-exited
		}
		close(stop)
		pushers.Wait()
		return
	}
	if end != nil {
		end(c)
	}
	c.ended.Store(1) // nobody need be answered
	cmd.Process.Kill()
	close(stop)
	pushers.Wait()
	<-exited
}

// A crashClient pushes to a relay and scrapes it, and writes the history.
type crashClient struct {
	t     *testing.T
	h     *history
	base  string
	http  *http.Client
	ended atomic.Int64 // when the relay was told to end, ns; 0 not yet

	beat       atomic.Int64 // when this process was last seen to go on, ns; see lookForPauses
	stoodStill atomic.Bool

	// A loss of power has begun, and when it was complete, ns; 0 not yet. What was
	// asked before that and is answered since is uncertain; what is asked later must
	// not be acknowledged.
	cutting        atomic.Bool
	cut            atomic.Int64
	refused, pages atomic.Int64 // what was asked then, and what was shown
}

// lookForPauses has paused tell whether processes stand still for longer than a relay
// that stops waits for what it has not read, as on a machine that has too much to do.
// The function that it returns ends that.
func (c *crashClient) lookForPauses() (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	c.beat.Store(time.Now().UnixNano())
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			c.paused()
			c.beat.Store(time.Now().UnixNano())
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

func (c *crashClient) paused() bool {
	if time.Now().UnixNano()-c.beat.Load() > (lingerTime / 3).Nanoseconds() {
		c.stoodStill.Store(true)
	}
	return c.stoodStill.Load()
}

// do sends a request. A relay that is there answers; one that was told to stop
// answers whoever asked before.
func (c *crashClient) do(req *http.Request, codes ...int) int {
	begun := time.Now()
	res, err := c.http.Do(req)
	if err != nil {
		if ended := c.ended.Load(); ended == 0 || ended > 1 && begun.UnixNano() < ended && !c.paused() {
			c.t.Errorf("%s %s, begun %s before the end, is not answered: %v", req.Method, req.URL.Path, time.Duration(ended-begun.UnixNano()), err)
		}
		time.Sleep(5 * time.Millisecond)
		return 0
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if !slices.Contains(codes, res.StatusCode) && res.StatusCode != 503 {
		c.t.Errorf("%s %s is answered %d", req.Method, req.URL.Path, res.StatusCode)
	}
	if res.StatusCode == 503 && res.Header.Get("Retry-After") == "" {
		c.t.Errorf("%s %s is answered 503 without Retry-After", req.Method, req.URL.Path)
	}
	if c.cutting.Load() {
		if cut := c.cut.Load(); cut == 0 || begun.UnixNano() < cut {
			return 0
		}
		if res.StatusCode != 503 {
			c.t.Errorf("%s %s is answered %d without power", req.Method, req.URL.Path, res.StatusCode)
		}
		c.refused.Add(1)
	}
	return res.StatusCode
}

var crashTTLs = []time.Duration{time.Second, 3 * time.Second, time.Hour, 24 * time.Hour}

// write sends some samples of an edge's series by remote write.
func (c *crashClient) write(edge int, rng *rand.Rand) {
	req := &prompb.WriteRequest{}
	begun := time.Now()
	samples := map[string]attempt{}
	for range 1 + rng.IntN(30) {
		name := fmt.Sprintf("s%d_%d", edge, rng.IntN(200))
		a := attempt{at: begun.UnixMilli(), value: float64(rng.IntN(1000)), stale: rng.IntN(10) == 0, ttl: crashTTLs[rng.IntN(len(crashTTLs))], begun: begun}
		if rng.IntN(20) == 0 { // as a batch job: pushed once, good for long
			name, a.stale, a.ttl = fmt.Sprintf("once%d_%x", edge, rng.Uint64()), false, 24*time.Hour
		}
		if _, twice := samples[name]; twice {
			continue
		}
		sent := a.value
		if a.stale {
			sent = math.Float64frombits(value.StaleNaN)
		}
		samples[name] = a
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "__ttl__", Value: a.ttl.String()}},
			Samples: []prompb.Sample{{Value: sent, Timestamp: a.at}},
		})
	}
	raw, err := req.Marshal()
	if err != nil {
		c.t.Error(err)
		return
	}
	hr, err := http.NewRequest(http.MethodPost, c.base+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		c.t.Error(err)
		return
	}
	hr.Header.Set("X-Relay-Edge", fmt.Sprint("edge", edge))
	c.h.send(samples)
	c.h.answered(samples, c.do(hr, 204))
	time.Sleep(time.Until(begun.Add(time.Millisecond))) // two samples of a series have two times
}

// pushGroup changes one of an edge's groups by the push API.
func (c *crashClient) pushGroup(edge int, rng *rand.Rand) {
	job := fmt.Sprintf("j%d_%d", edge, rng.IntN(6))
	change := &groupChange{Method: []string{"PUT", "POST", "POST", "DELETE"}[rng.IntN(4)], Body: map[string]float64{}, TTL: crashTTLs[rng.IntN(len(crashTTLs))]}
	if c.h.uncertain(job) {
		change.Method = "DELETE"
	}
	var body strings.Builder
	if change.Method != "DELETE" {
		for _, family := range []string{"g_a", "g_b", "g_c"} {
			if rng.IntN(2) == 0 {
				continue
			}
			for _, l := range []string{"x", "y"} {
				if rng.IntN(3) > 0 {
					v := float64(time.Now().UnixMicro()) // rises
					change.Body[family+" "+l] = v
					fmt.Fprintf(&body, "%s{l=%q} %f\n", family, l, v)
				}
			}
		}
	}
	req, err := http.NewRequest(change.Method, c.base+"/metrics/job/"+job, strings.NewReader(body.String()))
	if err != nil {
		c.t.Error(err)
		return
	}
	req.Header.Set("X-Relay-TTL", change.TTL.String())
	c.h.change(job, change)
	c.h.changed(job, c.do(req, 200, 202))
}

// scrape checks a page, and reports whether there was one.
func (c *crashClient) scrape() bool {
	v := c.h.view()
	req, err := http.NewRequest(http.MethodGet, c.base+"/metrics", nil)
	if err != nil {
		c.t.Error(err)
		return false
	}
	res, err := c.http.Do(req)
	if err != nil {
		return false // killed, or not up yet
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		if err == nil && c.cut.Load() != 0 {
			c.t.Errorf("a scrape is answered %d without power", res.StatusCode)
		}
		return false
	}
	if c.cutting.Load() {
		c.pages.Add(1) // what was not certain may be on it, and is not certain yet
		return true
	}
	faults := c.h.check(v, string(page))
	for _, f := range faults[:min(len(faults), 10)] {
		c.t.Error(f)
	}
	return true
}
