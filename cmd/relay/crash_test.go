package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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

// A history is what pushers did, and what they may expect to see.
type history struct {
	mu     sync.Mutex
	series map[string]*past
}

// past is what happened to one series.
type past struct {
	sent  map[int64]float64 // by time; acknowledged or not
	acked int64             // newest time that was acknowledged
	ended bool              // by an acknowledged stale marker of that time
	ttl   time.Duration
	until time.Time // after it the series must be gone, unless something newer was sent
	sure  time.Time // before it the series must be there
	open  int       // requests with it that are not answered
}

// TestCrash kills a relay again and again while edges push to it, and checks
// after each restart that everything acknowledged is there, that nothing gone is
// back, and that nothing is shown that nobody sent.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds a round")
	}
	rounds := 2
	if s := os.Getenv("RELAY_CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("RELAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RELAY_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	bin, err := buildRelay()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := &history{series: map[string]*past{}}
	for round := range rounds {
		runFor := time.Duration(300+rng.IntN(1500)) * time.Millisecond
		sig := syscall.SIGKILL
		if rng.IntN(4) == 0 {
			sig = syscall.SIGTERM
		}
		crashRound(t, bin, dir, h, rng.Uint64(), runFor, sig)
		if t.Failed() {
			t.Fatalf("round %d of %d, with RELAY_SEED=%d", round, rounds, seed)
		}
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond) // some TTLs pass while it is down
	}
}

func crashRound(t *testing.T, bin, dir string, h *history, seed uint64, runFor time.Duration, sig syscall.Signal) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var logs bytes.Buffer
	cmd := exec.Command(bin, "--web.listen-address="+address, "--journal.path="+dir, "--journal.window=2s", "--series.lag-tolerance=1s", "--log.level=warn")
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
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ready := false
	for range 400 {
		if res, err := client.Get("http://" + address + "/-/ready"); err == nil {
			res.Body.Close()
			if ready = res.StatusCode == 200; ready {
				break
			}
		}
		time.Sleep(25 * time.Millisecond)
	}
	if !ready {
		cmd.Process.Kill()
		<-exited
		t.Fatal("not ready within ten seconds")
	}
	h.check(t, client, address)
	var pushers sync.WaitGroup
	stop := make(chan struct{})
	for edge := range 4 {
		pushers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(edge)))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				h.push(t, client, address, edge, rng)
				if n%7 == 0 && edge == 0 {
					h.check(t, client, address)
				}
			}
		})
	}
	time.Sleep(runFor)
	if sig == syscall.SIGTERM {
		cmd.Process.Signal(sig) // under load
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("still there 20 s after SIGTERM")
			cmd.Process.Kill()
			<-exited
		}
		close(stop)
		pushers.Wait()
		return
	}
	cmd.Process.Kill()
	close(stop)
	pushers.Wait()
	<-exited
}

// push sends some samples of an edge's series; each edge has its own, so that its
// history is one sequence.
func (h *history) push(t *testing.T, client *http.Client, address string, edge int, rng *rand.Rand) {
	req := &prompb.WriteRequest{}
	now := time.Now()
	type step struct {
		name string
		ts   int64
		end  bool
		ttl  time.Duration
	}
	var steps []step
	for range 1 + rng.IntN(30) {
		name := fmt.Sprintf("s%d_%d", edge, rng.IntN(200))
		ttl := []time.Duration{time.Second, 3 * time.Second, time.Hour}[rng.IntN(3)]
		s := step{name: name, ts: now.UnixMilli(), end: rng.IntN(10) == 0, ttl: ttl}
		if rng.IntN(20) == 0 { // as a batch job: pushed once, good for long
			ttl = time.Hour
			s.name, s.end, s.ttl = fmt.Sprintf("once%d_%x", edge, rng.Uint64()), false, ttl
			name = s.name
		}
		v := float64(rng.IntN(1000))
		if s.end {
			v = math.Float64frombits(value.StaleNaN)
		}
		h.mu.Lock()
		p := h.series[name]
		if p == nil {
			p = &past{sent: map[int64]float64{}}
			h.series[name] = p
		}
		_, twice := p.sent[s.ts]
		if !twice {
			p.sent[s.ts] = v
			p.open++
			p.sure = time.Time{} // until it is answered either may be shown
		}
		h.mu.Unlock()
		if twice {
			continue
		}
		steps = append(steps, s)
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "__ttl__", Value: ttl.String()}},
			Samples: []prompb.Sample{{Value: v, Timestamp: s.ts}},
		})
	}
	raw, err := req.Marshal()
	if err != nil {
		t.Error(err)
		return
	}
	hr, err := http.NewRequest(http.MethodPost, "http://"+address+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		t.Error(err)
		return
	}
	hr.Header.Set("X-Relay-Edge", fmt.Sprint("edge", edge))
	res, err := client.Do(hr)
	code := 0
	if err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		code = res.StatusCode
	} else {
		time.Sleep(5 * time.Millisecond)
	}
	if code != 204 && code != 503 && code != 0 {
		t.Errorf("answered %d", code)
	}
	answered := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range steps {
		p := h.series[s.name]
		p.open--
		// Sent and perhaps taken: it may be shown until its TTL has passed.
		if until := answered.Add(s.ttl); until.After(p.until) {
			p.until = until
		}
		if code == 204 && s.ts > p.acked {
			p.acked, p.ended, p.ttl = s.ts, s.end, s.ttl
			p.sure = now.Add(s.ttl)
		}
	}
}

// check compares a page with the history.
func (h *history) check(t *testing.T, client *http.Client, address string) {
	h.mu.Lock()
	before := map[string]past{}
	for name, p := range h.series {
		before[name] = *p
	}
	h.mu.Unlock()
	begun := time.Now()
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Error(err)
		return
	}
	res, err := client.Do(req)
	if err != nil {
		return // killed meanwhile
	}
	defer res.Body.Close()
	page := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if name, v, ok := strings.Cut(lines.Text(), `{instance=""} `); ok {
			v, _, _ = strings.Cut(v, " ") // an hour's series carry no timestamp
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Errorf("%q", lines.Text())
			}
			page[name] = f
		}
	}
	if lines.Err() != nil || res.StatusCode != 200 {
		return
	}
	read := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, v := range page {
		p := h.series[name]
		if p == nil {
			t.Errorf("%s is shown, nobody sent it", name)
			continue
		}
		old := before[name]
		ok := false
		for ts, sent := range p.sent {
			ok = ok || sent == v && ts >= old.acked
		}
		if !ok {
			t.Errorf("%s is shown as %v: not the newest acknowledged, of %d, nor a newer one", name, v, old.acked)
		}
		if old.open == 0 && p.open == 0 && old.until.Before(begun) && old.until == p.until {
			t.Errorf("%s is shown %s after its TTL", name, begun.Sub(old.until))
		}
		newest := int64(0)
		for ts := range p.sent {
			newest = max(newest, ts)
		}
		if old.ended && newest == old.acked {
			t.Errorf("%s is shown, it was ended at %d", name, old.acked)
		}
	}
	for name, old := range before {
		p := h.series[name]
		if _, shown := page[name]; shown || old.ended || old.sure.Before(read.Add(50*time.Millisecond)) || p.acked != old.acked || p.sure != old.sure {
			continue
		}
		t.Errorf("%s is not shown, it was acknowledged at %d with a TTL of %s, %s ago", name, old.acked, old.ttl, time.Since(time.UnixMilli(old.acked)))
	}
}
