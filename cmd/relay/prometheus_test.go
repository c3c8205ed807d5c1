package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"go.uber.org/goleak"
)

// leakedByNATS is a goroutine of nats.go 1.55 that an object's Put leaves behind now
// and then: it waits on a channel that was set to nil before it looked.
var leakedByNATS = goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect")

func TestMain(m *testing.M) {
	ours := []goleak.Option{
		// Libraries of Prometheus that start these once for good.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		leakedByNATS,
	}
	code := m.Run()
	// A server of NATS that is gone deletes files for a while: goleak itself waits half a
	// second.
	for deadline := time.Now().Add(time.Minute); code == 0; {
		err := goleak.Find(ours...)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// unstarted is a relay with these flags, to be started and closed.
func unstarted(t testing.TB, flags ...string) *relay {
	t.Helper()
	cfg, _, err := parseFlags(flags, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRelay(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// startRelay serves a relay with these flags, without a journal unless they say
// where, until the test ends.
func startRelay(t testing.TB, flags ...string) (url string, r *relay) {
	t.Helper()
	if !strings.Contains(strings.Join(flags, " "), "--journal.path=") {
		flags = append(flags, "--journal=off")
	}
	r = unstarted(t, flags...)
	t.Cleanup(func() { r.close() })
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r.handler)
	t.Cleanup(srv.Close)
	return srv.URL, r
}

// A promServer is the inside of a Prometheus: its scraper, its database and its
// remote-write sender, from its own packages.
type promServer struct {
	t       *testing.T
	db      *tsdb.DB
	manager *scrape.Manager
	engine  *promql.Engine
	logs    *lockedBuffer
	stop    func()

	job     string
	timeout time.Duration // of its scrapes
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Get makes it a remote.ReadyScrapeManager.
func (p *promServer) Get() (*scrape.Manager, error) { return p.manager, nil }

// startPrometheus runs one that scrapes the target of its only job.
func startPrometheus(t *testing.T, yaml, target string) *promServer {
	t.Helper()
	p := &promServer{t: t, logs: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg, err := promconfig.Load(yaml, log)
	if err != nil {
		t.Fatalf("%v in\n%s", err, yaml)
	}
	p.job, p.timeout = cfg.ScrapeConfigs[0].JobName, time.Duration(cfg.ScrapeConfigs[0].ScrapeTimeout)
	dir := t.TempDir()
	opts := tsdb.DefaultOptions()
	opts.EnableExemplarStorage, opts.MaxExemplars, opts.EnableMetadataWALRecords = true, 1000, true
	p.db, err = tsdb.Open(dir, log, nil, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.manager, err = scrape.NewManager(&scrape.Options{AppendMetadata: true, DiscoveryReloadInterval: model.Duration(50 * time.Millisecond)}, log, nil, nil, p.db, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.manager.ApplyConfig(cfg); err != nil {
		t.Fatal(err)
	}
	sender := remote.NewStorage(log, prometheus.NewRegistry(), p.db.StartTime, dir, time.Second, p, false)
	if err := sender.ApplyConfig(cfg); err != nil {
		t.Fatal(err)
	}
	p.db.SetWriteNotified(sender)
	sets := make(chan map[string][]*targetgroup.Group, 1)
	sets <- map[string][]*targetgroup.Group{cfg.ScrapeConfigs[0].JobName: {{Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(target)}}}}}
	ran := make(chan struct{})
	go func() {
		p.manager.Run(sets)
		close(ran)
	}()
	p.engine = promql.NewEngine(promql.EngineOpts{Logger: log, MaxSamples: 1e6, Timeout: 10 * time.Second, LookbackDelta: 5 * time.Minute, Parser: parser.NewParser(parser.Options{})})
	var once sync.Once
	p.stop = func() {
		once.Do(func() {
			p.manager.Stop()
			<-ran
			sender.Close()
			p.engine.Close()
			p.db.Close()
		})
	}
	t.Cleanup(p.stop)
	return p
}

// query evaluates an expression now.
func (p *promServer) query(expr string) promql.Vector {
	p.t.Helper()
	q, err := p.engine.NewInstantQuery(context.Background(), p.db, nil, expr, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	defer q.Close()
	res := q.Exec(context.Background())
	v, err := res.Vector()
	if err != nil {
		p.t.Fatalf("%s: %v", expr, err)
	}
	return append(promql.Vector(nil), v...)
}

// raw is all that the database has, by series: time -> value.
func (p *promServer) raw(matcher *labels.Matcher) map[string]map[int64]string {
	p.t.Helper()
	q, err := p.db.Querier(0, math.MaxInt64)
	if err != nil {
		p.t.Fatal(err)
	}
	defer q.Close()
	out := map[string]map[int64]string{}
	set := q.Select(context.Background(), false, nil, matcher)
	for set.Next() {
		s := set.At()
		points := map[int64]string{}
		it := s.Iterator(nil)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			switch typ {
			case chunkenc.ValFloat:
				ts, v := it.At()
				points[ts] = fmt.Sprintf("%x", math.Float64bits(v))
			case chunkenc.ValHistogram:
				ts, h := it.AtHistogram(nil)
				points[ts] = h.String()
			case chunkenc.ValFloatHistogram:
				ts, h := it.AtFloatHistogram(nil)
				points[ts] = h.String()
			}
		}
		out[s.Labels().String()] = points
	}
	if err := set.Err(); err != nil {
		p.t.Fatal(err)
	}
	return out
}

// staleMarkers are as raw shows them.
var staleMarkers = []string{"7ff0000000000002", "{count:0, sum:NaN}"}

// tooSlow reports whether a scrape was not answered in its time: on a machine that is
// that busy, the series that it would have had end there, and when it goes on, what is
// older than that end is out of order. A scrape that failed sooner is an error.
func (p *promServer) tooSlow() (slow bool) {
	p.t.Helper()
	own := func(name string) map[int64]string {
		for series, points := range p.raw(labels.MustNewMatcher(labels.MatchEqual, "__name__", name)) {
			if strings.Contains(series, `job="`+p.job+`"`) {
				return points
			}
		}
		return nil
	}
	took := own("scrape_duration_seconds")
	for ts, up := range own("up") {
		if up != "0" {
			continue
		}
		bits, err := strconv.ParseUint(took[ts], 16, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		if seconds := math.Float64frombits(bits); seconds < p.timeout.Seconds() {
			p.t.Errorf("a scrape failed after %.3f s", seconds)
		}
		slow = true
	}
	return slow
}

// eventually waits for a condition, for a minute at most.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

// startTarget is what an edge scrapes: one metric of each type, moving.
func startTarget(t *testing.T) (address string, stop func()) {
	t.Helper()
	reg := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shop_requests_total", Help: "Requests of the shop."}, []string{"code"})
	warmth := prometheus.NewGauge(prometheus.GaugeOpts{Name: "shop_temperature_celsius", Help: "How warm it is."})
	classic := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "shop_latency_seconds", Help: "Latency.", Buckets: []float64{.1, .5, 1}})
	rpc := prometheus.NewSummary(prometheus.SummaryOpts{Name: "shop_rpc_seconds", Help: "RPCs.", Objectives: map[float64]float64{.5: .05, .99: .001}})
	native := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "shop_native_seconds", Help: "Native latency.", NativeHistogramBucketFactor: 1.1})
	reg.MustRegister(requests, warmth, classic, rpc, native)
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			requests.WithLabelValues("200").(prometheus.ExemplarAdder).AddWithExemplar(1, prometheus.Labels{"trace_id": "abc"})
			v := rand.Float64()
			warmth.Set(20 + v)
			classic.Observe(v)
			rpc.Observe(v)
			native.Observe(v)
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	srv := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	var once sync.Once
	stop = func() {
		once.Do(func() {
			srv.CloseClientConnections()
			srv.Close()
			close(done)
			<-stopped
		})
	}
	t.Cleanup(stop)
	return strings.TrimPrefix(srv.URL, "http://"), stop
}

func edgeConfig(relayURL, message, headers string) string {
	return fmt.Sprintf(`
global: {scrape_interval: 500ms, scrape_timeout: 400ms, external_labels: {shop: "17"}}
scrape_configs:
  - job_name: shop
    scrape_native_histograms: true
    always_scrape_classic_histograms: true
remote_write:
  - url: %s/api/v1/write
    protobuf_message: %s
    send_exemplars: true
    send_native_histograms: true
    metadata_config: {send: %t, send_interval: 500ms}
    queue_config: {batch_send_deadline: 200ms, min_backoff: 30ms, max_backoff: 100ms}
    headers: {X-Relay-Edge: shop-17%s}
`, relayURL, message, message == "prometheus.WriteRequest", headers)
}

const centreConfig = `
global: {scrape_interval: 500ms, scrape_timeout: 450ms}
scrape_configs:
  - job_name: relay
    honor_labels: true
    honor_timestamps: true
    track_timestamps_staleness: true
    scrape_native_histograms: true
    always_scrape_classic_histograms: true
`

func host(url string) string { return strings.TrimPrefix(url, "http://") }

// From a target through a Prometheus that pushes, the relay, and a Prometheus
// that scrapes: everything arrives, with its values and times, and what dies at
// one end is missing at the other.
func TestBetweenPrometheusServers(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	for _, message := range []string{"prometheus.WriteRequest", "io.prometheus.write.v2.Request"} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			url, r := startRelay(t)
			target, stopTarget := startTarget(t)
			edge := startPrometheus(t, edgeConfig(url, message, ", X-Relay-TTL: 6s"), target)
			centre := startPrometheus(t, centreConfig, host(url))
			watch := startPrometheus(t, `
scrape_configs:
  - job_name: edges
    scrape_interval: 500ms
    scrape_timeout: 400ms
    params: {edge: [shop-17], page: [up]}
`, host(url))

			eventually(t, "every type of metric at the centre", func() bool {
				return len(centre.query(`count({shop="17", job="shop", __name__=~"shop_requests_total|shop_temperature_celsius|shop_latency_seconds_bucket|shop_rpc_seconds|shop_native_seconds|up"}) by (__name__)`)) == 6
			})
			eventually(t, "a rate", func() bool {
				v := centre.query(`rate(shop_requests_total{code="200"}[5s])`)
				return len(v) == 1 && v[0].F > 5 && v[0].F < 150
			})
			eventually(t, "a quantile of the native histogram", func() bool {
				v := centre.query(`histogram_quantile(0.5, rate(shop_native_seconds[5s]))`)
				return len(v) == 1 && v[0].F > 0.2 && v[0].F < 0.8
			})
			eventually(t, "a quantile of the classic histogram", func() bool {
				v := centre.query(`histogram_quantile(0.5, rate(shop_latency_seconds_bucket[5s]))`)
				return len(v) == 1 && v[0].F > 0.2 && v[0].F < 0.8
			})
			eventually(t, "types and help", func() bool {
				for _, targets := range centre.manager.TargetsActive() {
					for name, want := range map[string]string{"shop_requests_total": "counter", "shop_temperature_celsius": "gauge", "shop_latency_seconds": "histogram", "shop_rpc_seconds": "summary", "shop_native_seconds": "histogram"} {
						md, ok := targets[0].GetMetadata(name)
						if !ok || string(md.Type) != want || md.Help == "" {
							return false
						}
					}
				}
				return true
			})

			time.Sleep(2 * time.Second) // some more samples
			eventually(t, "the edge is up", func() bool {
				v := watch.query(`up{job="edges"}`)
				return len(v) == 1 && v[0].F == 1
			})
			eventually(t, "both intervals and the clock learned", func() bool {
				e, about := r.edges.Reports(time.Now())[0], func(d time.Duration) bool { return d > 300*time.Millisecond && d < 2*time.Second }
				return about(e.Interval) && about(r.pages.Scrapes().Interval) && e.Skewed && e.Skew < 100*time.Millisecond && e.Skew > -5*time.Second && e.SamplesPerSecond > 1
			})
			fate := func(series, want string) {
				t.Helper()
				eventually(t, series+" explained as "+want, func() bool {
					var x struct{ State, Edge string }
					getData(t, url+"/api/v1/explain?series="+neturl.QueryEscape(series), &x)
					return x.State == want && x.Edge == "shop-17"
				})
			}
			temperature := fmt.Sprintf(`shop_temperature_celsius{instance="%s",job="shop",shop="17"}`, target)
			fate(temperature, "live")
			// Every series of the edge, and nothing that the edge does not have.
			matcher := labels.MustNewMatcher(labels.MatchEqual, "job", "shop")
			sent, got := edge.raw(matcher), centre.raw(matcher)
			for name := range sent {
				with := strings.TrimSuffix(name, "}") + `, shop="17"}`
				if got[with] == nil && !strings.Contains(name, "scrape_") {
					t.Errorf("the centre lacks %s", name)
				}
			}
			sent = edge.raw(matcher) // what came meanwhile, too
			points := 0
			for name, samples := range got {
				own := sent[strings.Replace(name, `, shop="17"`, "", 1)]
				for ts, v := range samples {
					points++
					if own[ts] != v && !(slices.Contains(staleMarkers, v) && centre.tooSlow()) {
						t.Errorf("%s at %d is %s at the centre, %s at the edge", name, ts, v, own[ts])
					}
				}
			}
			if points < 60 {
				t.Errorf("only %d samples at the centre", points)
			}

			// A target that stops at a living edge ends by its stale marker.
			stopTarget()
			eventually(t, "the series of the stopped target gone", func() bool { return len(centre.query(`shop_temperature_celsius`)) == 0 })
			eventually(t, "the stopped target down", func() bool {
				v := centre.query(`up{job="shop"}`)
				return len(v) == 1 && v[0].F == 0
			})
			fate(temperature, "ended")

			// The edge dies: nobody tells, and still all of it goes.
			edge.stop()
			eventually(t, "the dead edge gone", func() bool { return len(centre.query(`{shop="17"}`)) == 0 })
			eventually(t, "the dead edge is down", func() bool {
				v := watch.query(`up{job="edges"}`)
				return len(v) == 1 && v[0].F == 0
			})
			fate(fmt.Sprintf(`up{instance="%s",job="shop",shop="17"}`, target), "expired")
			if logs := centre.logs.String(); logs != "" && !centre.tooSlow() {
				t.Errorf("the centre complains:\n%s", logs)
			}
			if logs := edge.logs.String(); strings.Contains(logs, "remote") && !strings.Contains(logs, "shutdown") {
				t.Errorf("the edge complains:\n%s", logs)
			}
		})
	}
}

// An outage that real senders bridge, in small: here of ten seconds, with a TTL of two.
// What was kept is replayed, oldest first; all of it is taken, none of it is shown as
// current, and what is fresh shows at once. That an hour's is no different is in
// testdata/stories/backlog.txt.
func TestBacklogOfARealSender(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	for _, message := range []string{"prometheus.WriteRequest", "io.prometheus.write.v2.Request"} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			const ttl, lag = 2 * time.Second, time.Second
			url, r := startRelay(t, "--series.lag-tolerance=1s")
			var out atomic.Bool
			var refused, taken, dropped atomic.Int64
			gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if out.Load() {
					refused.Add(1)
					http.Error(w, "out of order", http.StatusServiceUnavailable)
					return
				}
				rec := &recorded{ResponseWriter: w}
				r.handler.ServeHTTP(rec, req)
				if rec.code/100 == 2 {
					taken.Add(1)
				} else {
					dropped.Add(1)
				}
			}))
			t.Cleanup(gate.Close)
			target, _ := startTarget(t)
			startPrometheus(t, edgeConfig(gate.URL, message, ", X-Relay-TTL: 2s"), target)
			// newest is the age of the warmth that is shown.
			newest := func() (age time.Duration, shown bool) {
				before := time.Now()
				m := regexp.MustCompile(`(?m)^shop_temperature_celsius\{.*\} \S+ (\d+)$`).FindStringSubmatch(getPage(t, url+"/metrics?match[]=shop_temperature_celsius"))
				if m == nil {
					return 0, false
				}
				ms, err := strconv.ParseInt(m[1], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return before.Sub(time.UnixMilli(ms)), true
			}
			eventually(t, "a first sample", func() bool { _, shown := newest(); return shown })
			out.Store(true)
			eventually(t, "an edge that is gone", func() bool { _, shown := newest(); return !shown })
			time.Sleep(7 * time.Second)
			out.Store(false)
			recovered := time.Now()
			eventually(t, "what is fresh", func() bool {
				age, shown := newest()
				if shown && age > ttl+lag {
					t.Errorf("%s after the outage a sample of %s ago is shown as current", time.Since(recovered), age)
				}
				return shown && age < 1500*time.Millisecond
			})
			if refused.Load() == 0 || taken.Load() < 2 || dropped.Load() > 0 {
				t.Errorf("%d requests were refused during the outage, %d taken, and %d dropped by their sender", refused.Load(), taken.Load(), dropped.Load())
			}
			if own := getPage(t, url+"/-/metrics"); !regexp.MustCompile(`(?m)^relay_samples_total\{outcome="expired_on_arrival"\} [1-9]`).MatchString(own) {
				t.Error("nothing of the backlog had expired on arrival: there was none")
			}
		})
	}
}

// recorded tells the code of an answer.
type recorded struct {
	http.ResponseWriter
	code int
}

func (r *recorded) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorded) Unwrap() http.ResponseWriter { return r.ResponseWriter }
