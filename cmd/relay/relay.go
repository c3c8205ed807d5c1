package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"

	"relay/edges"
	"relay/exposition"
	"relay/ingest"
	"relay/journal"
	"relay/series"
)

// relay is the rooms of the house, wired.
type relay struct {
	cfg      *config
	log      *slog.Logger
	store    *series.Store
	guard    *edges.Guard // nil: no edges file
	edges    *edges.Registry
	ingest   *ingest.Handler
	pusher   *ingest.Pusher
	pages    *exposition.Handler
	registry *prometheus.Registry
	handler  http.Handler
	pushes   *pushServer      // nil: the web listener takes them
	journal  *journal.Journal // nil: off
	replayed chan struct{}    // closed when the journal has been replayed
	count    census
	trends   trends
	memory   int64 // --limits.memory in bytes; 0: no limit
	ready    atomic.Bool
	stopping atomic.Bool
	quit     chan struct{}
	quitOnce sync.Once
}

// Times of the life cycle.
const (
	sweepEvery      = 5 * time.Second
	watchEvery      = 5 * time.Second  // files that are reloaded on change
	drainTime       = 10 * time.Second // for requests that are being taken
	closeTime       = 5 * time.Second  // for scrapes that are being answered
	checkpointAgain = 5 * time.Second  // after one without which the journal takes nothing
	lingerTime      = time.Second      // for requests that had been sent and not been read

	// sharedDelay is how long after another relay has taken a request it may be applied
	// here, while this one is not behind.
	sharedDelay = 30 * time.Second
)

// newRelay wires a relay, and opens its journal. It serves nothing before start
// and serve; close ends it.
func newRelay(cfg *config, log *slog.Logger) (*relay, error) {
	r := &relay{cfg: cfg, log: log, quit: make(chan struct{}), replayed: make(chan struct{})}
	r.store = series.New(series.Options{
		DefaultTTL: cfg.ttl, MinTTL: cfg.ttlMin, MaxTTL: cfg.ttlMax,
		LagTolerance: cfg.lag, FutureTolerance: cfg.future, Lookback: cfg.lookback,
		Limits: cfg.limits, LegacyNames: cfg.nameValidation == "legacy",
	})
	r.count.store = r.store
	r.trends.began = time.Now()
	r.registry = prometheus.NewRegistry()
	if cfg.edgesFile != "" {
		g, err := edges.NewGuard(cfg.edgesFile, log.With("component", "edges"), r.registry)
		if err == nil {
			err = r.goesWith(g.File())
		}
		if err != nil {
			return nil, fmt.Errorf("--edges.file: %w", err)
		}
		r.guard = g
	}
	r.edges = edges.New(cfg.edgesRetention, cfg.limits.Edges, r.guard)
	var err error
	if r.memory, err = memoryLimit(cfg.memory); err != nil {
		return nil, err
	}
	r.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("relay"), &stateCollector{store: r.store, count: &r.count, edges: r.edges, limits: cfg.limits, memory: r.memory},
	)
	var kept ingest.Journal
	if cfg.journal != "off" {
		opts := journal.Options{
			Path: cfg.journalPath, SyncAlways: cfg.journalSync == "always", MaxBytes: int64(cfg.journalMaxBytes),
			Logger: log.With("component", "journal"), Registerer: r.registry,
		}
		if cfg.journal == "nats" {
			opts.Cluster = &cfg.nats
		}
		j, err := journal.Open(opts)
		if err != nil {
			return nil, err
		}
		r.journal, kept = j, j
	}
	r.ingest = ingest.New(ingest.Options{
		Journal: kept, Shared: cfg.journal == "nats", Ready: r.replayed, Edges: r.edges, Guard: r.guard, HALabels: cfg.haLabels,
		Store: r.store, Registerer: r.registry, Logger: log.With("component", "ingest"),
		RequestBytes: int64(cfg.requestBytes), InflightBytes: int64(cfg.inflightBytes), TrustedProxies: cfg.trustedProxies,
	})
	r.pusher = r.ingest.Pusher(cfg.pushTTL)
	r.pages, err = exposition.New(exposition.Options{
		Ready: r.replayed, CatchUp: r.catchUp, Edges: r.edges, Refused: r.refused,
		Store: r.store, Registerer: r.registry, Logger: log.With("component", "exposition"),
		Timestamps: cfg.timestamps, Lookback: cfg.lookback, MaxScrapes: cfg.maxScrapes,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	r.registry.MustRegister(&edgeCollector{r})
	if r.handler, err = r.routes(); err != nil {
		r.close()
		return nil, err
	}
	if cfg.ingestAddress != "" {
		mux := http.NewServeMux()
		r.pushRoutes(mux)
		if r.pushes, err = newPushServer(cfg, r.prefixed(mux), log.With("component", "ingest"), r.registry); err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

// close ends what newRelay began.
func (r *relay) close() error {
	if r.pushes != nil {
		r.pushes.listener.Close()
	}
	if r.journal == nil {
		return nil
	}
	return r.journal.Close()
}

// start replays the journal; then pushes and scrapes are answered.
func (r *relay) start(ctx context.Context) error {
	if r.journal != nil {
		begun := time.Now()
		p, err := r.journal.Replay(ctx, r.load, r.ingest.Replay)
		if err != nil {
			return err
		}
		r.log.Info("Replayed the journal", "checkpoint", p.Checkpoint, "records", p.Records, "damaged", p.Damaged, "lost", p.Lost,
			"series", r.store.Stats(time.Now()).Live, "took", time.Since(begun).Round(time.Millisecond))
		if !p.Whole() && r.cfg.journal != "nats" { // there it is due when it can be
			// Without it, on a full disk, say, the journal takes nothing. What was read is
			// shown all the same.
			if err := r.journal.Checkpoint(ctx, r.dump); err != nil {
				if ctx.Err() != nil {
					return err
				}
				r.log.Error("The journal was damaged, and what is left of it cannot be saved: pushes are answered 503 until it can, scrapes go on", "err", err)
			}
		}
	}
	close(r.replayed)
	r.ready.Store(true)
	return nil
}

// checkpoint saves the store's state from time to time: relays that share a journal
// do not at the same time.
func (r *relay) checkpoint(ctx context.Context) {
	if r.journal == nil {
		return
	}
	every := r.cfg.journalWindow / 2
	if r.cfg.journal == "nats" {
		every -= rand.N(every / 4)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var again <-chan time.Time // nothing is taken before one succeeds
		if r.cfg.journal != "nats" && r.journal.Behind() != nil {
			again = time.After(checkpointAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-again:
		case <-r.journal.Due():
		}
		if err := r.journal.Checkpoint(ctx, r.dump); err != nil && ctx.Err() == nil {
			r.log.Error("Checkpoint failed; the journal keeps the requests until one succeeds", "err", err)
		}
	}
}

// routes says what is where.
func (r *relay) routes() (http.Handler, error) {
	page, err := r.page()
	if err != nil {
		return nil, err
	}
	// Lists of thousands of edges are asked for every few seconds: they shrink to a
	// fortieth at the fastest level.
	small, err := gzhttp.NewWrapper(gzhttp.MinSize(4096), gzhttp.CompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	if r.cfg.ingestAddress == "" {
		r.pushRoutes(mux)
	} else {
		for _, path := range slices.Concat(ingest.Paths, ingest.PushPaths) {
			mux.HandleFunc(path, r.pushElsewhere)
		}
	}
	mux.Handle("/metrics", r.pages)
	mux.Handle("GET /api/v1/sd", small(http.HandlerFunc(r.discovery)))
	mux.Handle("GET /api/v1/edges", small(http.HandlerFunc(r.listEdges)))
	mux.Handle("GET /api/v1/status", small(http.HandlerFunc(r.status)))
	mux.HandleFunc("GET /api/v1/metrics", r.pages.Groups)
	mux.Handle("GET /api/v1/series", small(http.HandlerFunc(r.pages.Series)))
	mux.HandleFunc("DELETE /api/v1/series", r.deleteSeries)
	mux.HandleFunc("GET /api/v1/explain", r.pages.Explain)
	mux.HandleFunc("PUT /api/v1/admin/wipe", r.wipe)
	mux.Handle("GET /-/metrics", promhttp.InstrumentMetricHandler(r.registry, promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "The relay is healthy.\n") })
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := r.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "The relay is ready.\n")
	})
	for path, act := range map[string]func() error{"/-/reload": r.reload, "/-/quit": r.stop} {
		handle := func(w http.ResponseWriter, _ *http.Request) {
			if !r.cfg.lifecycle {
				http.Error(w, "The lifecycle API is not enabled: --web.enable-lifecycle", http.StatusForbidden)
				return
			}
			if err := act(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}
		mux.HandleFunc("POST "+path, handle)
		mux.HandleFunc("PUT "+path, handle)
	}
	mux.Handle("GET /{$}", small(page))
	mux.Handle("GET /assets/", page)
	return r.prefixed(mux), nil
}

// unready says why the relay is not ready, "" if it is.
func (r *relay) unready() string {
	switch {
	case r.stopping.Load():
		return "The relay is not ready: it is stopping."
	case !r.ready.Load():
		return "The relay is not ready: it is starting."
	case r.journal == nil:
		return ""
	}
	if err := r.journal.Behind(); err != nil {
		return "The relay takes no pushes: " + err.Error() + "."
	}
	return ""
}

// catchUpTime is how long a page waits for what other relays have acknowledged.
const catchUpTime = time.Second

// catchUp has the store show what any relay with the same journal had acknowledged
// when it is called.
func (r *relay) catchUp(ctx context.Context) error {
	if r.journal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	return r.journal.CatchUp(ctx)
}

// pushRoutes says where pushes are taken.
func (r *relay) pushRoutes(mux *http.ServeMux) {
	for _, path := range ingest.Paths {
		mux.Handle(path, r.ingest)
	}
	for _, path := range ingest.PushPaths {
		mux.Handle(path, r.pusher)
	}
}

// pushElsewhere answers a push to the web listener where there is another one for that.
func (r *relay) pushElsewhere(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "Pushes are not taken here, but by the listener of --ingest.listen-address="+r.cfg.ingestAddress, http.StatusNotFound)
}

// prefixed puts all paths under the prefix. While the relay stops, each answer is the
// last one on its connection.
func (r *relay) prefixed(mux *http.ServeMux) http.Handler {
	inner := mux
	if r.cfg.routePrefix != "/" {
		mux = http.NewServeMux()
		mux.Handle(r.cfg.routePrefix+"/", http.StripPrefix(r.cfg.routePrefix, inner))
		mux.Handle("GET /{$}", http.RedirectHandler(r.cfg.routePrefix+"/", http.StatusFound))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		mux.ServeHTTP(w, req)
	})
}

func (r *relay) stop() error {
	r.quitOnce.Do(func() { close(r.quit) })
	return nil
}

// reload reads again what is read from files. The web configuration is read anew
// with each connection, so there is nothing to swap.
func (r *relay) reload() error {
	var errs []error
	if err := web.Validate(*r.cfg.web.WebConfigFile); err != nil {
		errs = append(errs, fmt.Errorf("--web.config.file: %w", err))
	}
	if r.guard != nil {
		if err := r.guard.Reload(r.goesWith); err != nil {
			errs = append(errs, fmt.Errorf("--edges.file: %w", err))
		}
	}
	if r.pushes != nil {
		errs = append(errs, r.pushes.reload())
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Error("Reload failed, what was good before goes on", "err", err)
		return err
	}
	r.log.Info("Reloaded")
	return nil
}

// goesWith checks an edges file against the other settings.
func (r *relay) goesWith(f *edges.File) error {
	return r.cfg.checkAuthenticators(f.NeedsAuthorization())
}

// serve runs the relay until ctx ends, /-/quit is called or the listener fails.
func (r *relay) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	unfollow := func() {}
	defer func() {
		cancel()
		unfollow()
		background.Wait()
		if err := r.close(); err != nil {
			r.log.Error("Not closed in order", "err", err)
		}
	}()
	background.Go(func() { keepMemory(ctx, r.store, r.memory) })
	background.Go(func() { r.trends.keep(ctx, r) })
	background.Go(func() { r.sweep(ctx) })
	background.Go(func() { r.onHangup(ctx) })

	server := &http.Server{
		Handler:           r.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       3 * time.Minute, // of what is sent to nowhere; ends a scrape, too
		WriteTimeout:      3 * time.Minute, // a scrape has two at most, and a bound of its own
		IdleTimeout:       5 * time.Minute, // senders push every few seconds to minutes
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 2)
	go func() { failed <- web.ListenAndServe(server, r.cfg.web, r.log) }()
	if r.pushes != nil {
		go func() { failed <- r.pushes.serve() }()
		background.Go(func() { r.pushes.watch(ctx) })
	}
	if r.guard != nil {
		background.Go(func() { r.guard.Watch(ctx, watchEvery, r.goesWith) })
	}
	started := make(chan error, 2)
	// What is on its way is finished after ctx, and for that the journal is followed.
	follow, end := context.WithCancel(context.WithoutCancel(ctx))
	unfollow = end
	background.Go(func() {
		err := r.start(ctx)
		if ctx.Err() != nil {
			return // stopped before it was ready
		}
		started <- err
		if err != nil {
			return
		}
		if r.journal != nil {
			background.Go(func() {
				if err := r.journal.Follow(follow, r.ingest.Replay); err != nil {
					started <- err
				}
			})
		}
		r.checkpoint(ctx)
	})
	if err := r.untilStopped(ctx, started, failed); err != nil {
		server.Close()
		if r.pushes != nil {
			r.pushes.server.Close()
		}
		return err
	}
	return r.shutdown(server, failed)
}

// untilStopped returns when the relay is to stop: an error if that is because of
// a fault.
func (r *relay) untilStopped(ctx context.Context, started, failed <-chan error) error {
	for {
		select {
		case err := <-started:
			if err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-r.quit:
			r.log.Info("Stopping: asked to by /-/quit")
			return nil
		case <-ctx.Done():
			r.log.Info("Stopping: asked to by a signal")
			return nil
		}
	}
}

// shutdown takes no more pushes, finishes those on their way while scrapes go
// on, and then stops.
func (r *relay) shutdown(server *http.Server, failed <-chan error) error {
	r.stopping.Store(true)
	r.ready.Store(false)
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := r.ingest.Drain(drain); err != nil {
		r.log.Warn("Requests were still on their way when the time for it was over", "time", drainTime)
	}
	// A connection that seems idle may hold a request that nobody has read yet: closed
	// now, its sender would never know. Until then answers ask for no more.
	time.Sleep(lingerTime)
	closing, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	servers := []*http.Server{server}
	if r.pushes != nil {
		servers = append(servers, r.pushes.server)
	}
	for _, s := range servers {
		if err := s.Shutdown(closing); err != nil {
			s.Close()
		}
	}
	for range servers {
		if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
	}
	return nil
}

func (r *relay) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r.edges.NotAfter(time.Now()) // a tick that waited for a sweep is older
			if now, ok := r.sweepTime(now); ok {
				r.store.Sweep(now)
			}
		}
	}
}

// sweepTime is as of when the store may be swept; ok is false if not yet. A record that
// is still to come, from the journal or from another relay, is compared with what there
// was when it was taken: that must not be forgotten before.
func (r *relay) sweepTime(now time.Time) (at time.Time, ok bool) {
	select {
	case <-r.replayed:
	default:
		return r.ingest.ReplayedUpTo(now)
	}
	if r.cfg.journal != "nats" {
		return now, true
	}
	if r.journal.Behind() != nil {
		return r.ingest.ReplayedUpTo(now)
	}
	return now.Add(-sharedDelay), true
}

func (r *relay) onHangup(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.reload()
		}
	}
}
