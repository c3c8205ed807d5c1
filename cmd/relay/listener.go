package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"
)

// pushServer is the listener for pushes alone, which may face the internet: plain
// HTTP/1.1 with TLS of its own, patient with nobody.
type pushServer struct {
	log      *slog.Logger
	path     string // of its TLS configuration; "" is none
	listener net.Listener
	server   *http.Server
	tls      atomic.Pointer[tls.Config]
	good     prometheus.Gauge

	reloading sync.Mutex
	last      *tlsRead // under it: the last try, whether it was good or not
}

// tlsRead is what a TLS configuration was read from.
type tlsRead struct {
	files []string
	sums  [][sha256.Size]byte // of what was in them, or was before they were read
}

// add notes a file, before it is read.
func (r *tlsRead) add(path string) {
	r.files, r.sums = append(r.files, path), append(r.sums, sumOf(path))
}

// changed reports whether a file is not as it was.
func (r *tlsRead) changed() bool {
	for i, path := range r.files {
		if sumOf(path) != r.sums[i] {
			return true
		}
	}
	return false
}

// sumOf changes with what is in a file: its time is too coarse to tell apart what is
// written while it is read.
func sumOf(path string) [sha256.Size]byte {
	content, err := os.ReadFile(path)
	if err != nil {
		content = []byte("unreadable: " + err.Error())
	}
	return sha256.Sum256(content)
}

// Times and sizes of the listener for pushes.
const (
	pushHeaderTime  = 5 * time.Second  // for the handshake too
	pushReadTime    = 40 * time.Second // of what is sent to nowhere; what is read as a push has less
	pushWriteTime   = 2 * time.Minute  // body, waits and answer
	pushIdleTime    = 5 * time.Minute  // senders push every few seconds to minutes
	pushHeaderBytes = 16 << 10
)

// newPushServer listens. reg gets its metrics.
func newPushServer(cfg *config, handler http.Handler, log *slog.Logger, reg prometheus.Registerer) (*pushServer, error) {
	p := &pushServer{log: log, path: cfg.ingestConfig, good: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "relay_ingest_config_last_reload_successful", Help: "Whether the last attempt to read the ingest listener's TLS configuration was successful; if not, the one before goes on.",
	})}
	p.good.Set(1)
	if p.path != "" {
		c, read, err := loadTLS(p.path)
		if err != nil {
			return nil, fmt.Errorf("--ingest.config.file: %w", err)
		}
		p.last = read
		p.tls.Store(c)
	}
	listener, err := net.Listen("tcp", cfg.ingestAddress)
	if err != nil {
		return nil, fmt.Errorf("--ingest.listen-address: %w", err)
	}
	capped := &cappedListener{Listener: listener, most: cfg.ingestConnections, mostOfOne: cfg.ingestConnectionsPerIP, exempt: cfg.trustedProxies, from: map[netip.Addr]int{}}
	capped.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "relay_ingest_refused_connections_total", Help: "Connections to the ingest listener that were closed at once, for their number.",
	})
	reg.MustRegister(p.good, capped.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_ingest_connections", Help: "Open connections to the ingest listener.",
	}, capped.open))
	p.listener = capped
	if p.path != "" {
		p.listener = tls.NewListener(capped, &tls.Config{
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return p.tls.Load(), nil },
		})
	}
	p.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: pushHeaderTime,
		ReadTimeout:       pushReadTime,
		WriteTimeout:      pushWriteTime,
		IdleTimeout:       pushIdleTime,
		MaxHeaderBytes:    pushHeaderBytes,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2: its faults cost more than it gives
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	log.Info("Listening for pushes on", "address", listener.Addr().String(), "tls", p.path != "")
	return p, nil
}

func (p *pushServer) serve() error { return p.server.Serve(p.listener) }

// reload reads the TLS configuration again; a broken one changes nothing.
func (p *pushServer) reload() error {
	if p.path == "" {
		return nil
	}
	p.reloading.Lock()
	defer p.reloading.Unlock()
	c, read, err := loadTLS(p.path)
	p.last = read
	if err != nil {
		p.good.Set(0)
		err = fmt.Errorf("--ingest.config.file: %w", err)
		p.log.Error("TLS configuration not reloaded, the last good one goes on", "err", err)
		return err
	}
	p.good.Set(1)
	p.tls.Store(c)
	return nil
}

// changed reports whether one of the files has changed since the last try.
func (p *pushServer) changed() bool {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	return p.last.changed()
}

// watch reloads the configuration when one of its files changes, until ctx ends.
func (p *pushServer) watch(ctx context.Context) {
	if p.path == "" {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p.changed() && p.reload() == nil {
			p.log.Info("TLS configuration loaded", "path", p.path)
		}
	}
}

// loadTLS reads a configuration in the form of exporter-toolkit's, and all files
// that it names, so that no handshake reads any. It says what it read, also if that is
// no good.
func loadTLS(path string) (config *tls.Config, read *tlsRead, err error) {
	read = &tlsRead{}
	read.add(path)
	config, err = read.load(path)
	return config, read, err
}

func (r *tlsRead) load(path string) (*tls.Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := web.Config{TLSConfig: web.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}}
	if err := yaml.UnmarshalStrict(content, &c); err != nil {
		return nil, err
	}
	if len(c.Users) > 0 || c.RateLimiterConfig.Interval != 0 {
		return nil, fmt.Errorf("%s: the ingest listener has tls_server_config alone: who may push, and how fast, is in --edges.file", path)
	}
	c.TLSConfig.SetDirectory(filepath.Dir(path))
	for _, f := range []string{c.TLSConfig.TLSCertPath, c.TLSConfig.TLSKeyPath, c.TLSConfig.ClientCAs} {
		if f != "" {
			r.add(f)
		}
	}
	out, err := web.ConfigToTLSConfig(&c.TLSConfig)
	if err != nil {
		return nil, err
	}
	cert, err := out.GetCertificate(nil)
	if err != nil {
		return nil, err
	}
	out.GetCertificate, out.Certificates = nil, []tls.Certificate{*cert}
	out.NextProtos = []string{"http/1.1"}
	return out, nil
}

// cappedListener bounds the connections, in all and from one address, so that
// nobody takes them all. What is over a bound is closed at once.
type cappedListener struct {
	net.Listener
	most, mostOfOne int
	exempt          []netip.Prefix // proxies: they speak for many
	refused         prometheus.Counter

	mu    sync.Mutex
	total int
	from  map[netip.Addr]int
}

func (l *cappedListener) open() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return float64(l.total)
}

func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var addr netip.Addr
		if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			addr = a.Addr().Unmap().WithZone("")
		}
		if l.admit(addr) {
			return &cappedConn{Conn: c, release: sync.OnceFunc(func() { l.release(addr) })}, nil
		}
		l.refused.Inc()
		c.Close()
	}
}

func (l *cappedListener) admit(addr netip.Addr) bool {
	exempt := slices.ContainsFunc(l.exempt, func(p netip.Prefix) bool { return p.Contains(addr) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.most || !exempt && l.from[addr] >= l.mostOfOne {
		return false
	}
	l.total++
	l.from[addr]++
	return true
}

func (l *cappedListener) release(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.from[addr]--; l.from[addr] == 0 {
		delete(l.from, addr)
	}
}

type cappedConn struct {
	net.Conn
	release func()
}

func (c *cappedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// checkAuthenticators refuses an edges file with passwords or tokens behind a
// listener that asks for passwords of its own: a request has one Authorization
// header.
func (c *config) checkAuthenticators(needsAuthorization bool) error {
	if !needsAuthorization || c.ingestAddress != "" || *c.web.WebConfigFile == "" {
		return nil
	}
	content, err := os.ReadFile(*c.web.WebConfigFile)
	if err != nil {
		return err
	}
	var users struct {
		Users map[string]any `yaml:"basic_auth_users"`
	}
	if err := yaml.Unmarshal(content, &users); err != nil {
		return err
	}
	if len(users.Users) > 0 {
		return errors.New("the edges of --edges.file prove themselves by the Authorization header, and --web.config.file asks for basic_auth_users in it: let edges push to a listener of their own, --ingest.listen-address")
	}
	return nil
}
