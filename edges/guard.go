package edges

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	keyed "hash"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

// A Guard lets those push whom an edges file names, and says as whom. It keeps
// the last good file while a broken one is in its place. Its methods may be called
// concurrently.
//
// What a password costs to verify is bounded: a few at a time in all, one at a time
// per source address, and what was found is remembered. So a flood of wrong ones
// neither slows nor locks out those who have been let in before, and delays others
// only; whoever is not verified in time is told 503, never that it is wrong.
type Guard struct {
	path string
	log  *slog.Logger
	file atomic.Pointer[File]

	reloading sync.Mutex
	last      *reading // under it: the last try, whether it was good or not

	hashers  sync.Pool // of *hasher, for the digests below
	verified *lru.Cache[digest, struct{}]
	wrong    *lru.Cache[digest, struct{}]  // credentials
	failing  *lru.Cache[digest, time.Time] // sources with a user that has failed
	sources  *lru.Cache[netip.Prefix, *source]
	turns    chan struct{}
	dummy    atomic.Pointer[[]byte] // a hash of no password

	metrics guardMetrics
}

type digest [sha256.Size]byte

// A hasher makes digests, with a key that nobody else knows.
type hasher struct {
	keyed.Hash
	buf []byte
}

// A source is where requests with passwords come from.
type source struct {
	turn     chan struct{}
	failures *rate.Limiter
}

// Bounds of the work that strangers can cause.
const (
	maxVerified  = 100_000
	maxWrong     = 10_000
	maxSources   = 10_000
	maxFailing   = 100_000
	verifyWait   = 10 * time.Second // for a turn
	failureBurst = 20               // wrong passwords of one source at once
	failureEvery = 5 * time.Second  // one more
	failureKept  = time.Minute
)

// A Denied is why a request may not push.
type Denied struct {
	Code   int    // of HTTP
	Reason string // for a metric; bounded
	Text   string // never says which part of a credential is wrong

	// Claimed is the edge that the request says it is from, if the file knows it.
	Claimed string
}

func (d *Denied) Error() string { return d.Text }

var (
	errUnproven = &Denied{Code: http.StatusUnauthorized, Reason: "credentials", Text: "the request does not prove that it is from an edge of --edges.file"}
	errDisabled = &Denied{Code: http.StatusForbidden, Reason: "edge_disabled", Text: "the edge is disabled in --edges.file"}
	errTooMany  = &Denied{Code: http.StatusTooManyRequests, Reason: "credentials_rate", Text: "too many wrong passwords from this address"}
	errNotYet   = &Denied{Code: http.StatusServiceUnavailable, Reason: "credentials_pending", Text: "the password could not be verified in time"}
)

// NewGuard reads the file, which must be good at the start.
func NewGuard(path string, log *slog.Logger, reg prometheus.Registerer) (*Guard, error) {
	f, read, err := load(path)
	if err != nil {
		return nil, err
	}
	g := &Guard{path: path, log: log, last: read, turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	key := make([]byte, sha256.Size)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	g.hashers.New = func() any { return &hasher{Hash: hmac.New(sha256.New, key)} }
	g.verified, _ = lru.New[digest, struct{}](maxVerified)
	g.wrong, _ = lru.New[digest, struct{}](maxWrong)
	g.failing, _ = lru.New[digest, time.Time](maxFailing)
	g.sources, _ = lru.New[netip.Prefix, *source](maxSources)
	g.metrics.init(reg)
	g.use(f)
	return g, nil
}

// File is what is in force.
func (g *Guard) File() *File { return g.file.Load() }

// Entries are the edges of the file, by login.
func (f *File) Entries() []*Entry { return f.entries }

// use puts a file in force, with the meters of the one before.
func (g *Guard) use(f *File) {
	old, cost := map[string]*Entry{}, 0
	if before := g.file.Load(); before != nil {
		cost = before.cost
		for _, e := range before.entries {
			old[e.Login] = e
		}
	}
	for _, e := range f.entries {
		if before := old[e.Login]; before != nil && before.rates == e.rates {
			e.meter = before.meter
		} else {
			e.meter = newMeter(e.rates)
		}
	}
	if f.cost != cost {
		g.dummy.Store(nil)
		if hash, err := bcrypt.GenerateFromPassword([]byte("nobody's"), f.cost); f.cost > 0 && err == nil {
			g.dummy.Store(&hash)
		}
	}
	g.file.Store(f)
	g.metrics.loaded(true, time.Now())
}

// Reload reads the file again. A broken one changes nothing: the last good one
// goes on, and the error says why. check may refuse a file that does not go with
// other settings; nil: none does.
func (g *Guard) Reload(check func(*File) error) error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	f, read, err := load(g.path)
	g.last = read
	if err == nil && check != nil {
		err = check(f)
	}
	if err != nil {
		g.metrics.loaded(false, time.Now())
		g.log.Error("Edges file not reloaded, the last good one goes on", "err", err)
		return err
	}
	g.use(f)
	g.log.Info("Edges file loaded", "path", g.path, "edges", len(f.entries), "took", f.took.Round(time.Millisecond))
	return nil
}

// Watch reloads the file when it changes, or one of the files with secrets that
// it names, until ctx ends.
func (g *Guard) Watch(ctx context.Context, every time.Duration, check func(*File) error) {
	tick := time.NewTimer(every)
	defer tick.Stop()
	var w watch
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next := every
		switch w.look(g) {
		case lookAgain:
			next = min(every, time.Second)
		case reload:
			g.Reload(check)
		}
		tick.Reset(next)
	}
}

// A watch looks at the files twice: one that is being written, and may be good as far
// as it goes, is not taken for a shorter one.
type watch struct {
	before [sha256.Size]byte // the last look
}

// What is to be done after a look.
type action int

const (
	wait action = iota
	lookAgain
	reload
)

// look says what is to be done: the files are as at the last try, or not as at the
// last look, or have changed.
func (w *watch) look(g *Guard) action {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	before := w.before
	w.before = g.last.again()
	switch w.before {
	case g.last.sum:
		return wait
	case before:
		return reload
	}
	return lookAgain
}

// Identify says which edge a request is from: by its Authorization header, or
// where it has none by the certificate that its connection has proven. addr is
// where it came from. The current file decides, for each request anew; the error
// is a *Denied.
func (g *Guard) Identify(r *http.Request, addr string) (*Entry, error) {
	f := g.File()
	certified, err := f.byCertificate(r)
	if err != nil {
		return nil, err
	}
	e := certified
	if given := r.Header.Values("Authorization"); len(given) > 0 {
		if e, err = g.byHeader(r.Context(), f, given, addr); err != nil {
			return nil, f.claimed(r, err)
		}
		if certified != nil && certified != e {
			return nil, errUnproven
		}
	}
	switch {
	case e == nil:
		return nil, errUnproven
	case !e.Enabled:
		return nil, errDisabled
	}
	return e, nil
}

// claimed is a denial with the edge whose user name the request has.
func (f *File) claimed(r *http.Request, err error) error {
	denied, ok := err.(*Denied)
	user, _, given := r.BasicAuth()
	if e := f.byUser[user]; ok && given && e != nil {
		return &Denied{Code: denied.Code, Reason: denied.Reason, Text: denied.Text, Claimed: e.Name}
	}
	return err
}

// byCertificate finds the one edge whose name is in the certificate of a
// connection: a URI or DNS name, equal as a whole. The handshake has verified that
// an authority of the listener's has signed it.
func (f *File) byCertificate(r *http.Request) (*Entry, error) {
	if len(f.bySAN) == 0 || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil, nil
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if time.Now().After(leaf.NotAfter) {
		return nil, errUnproven // it was good when the connection was made
	}
	var found *Entry
	try := func(san string) bool {
		e := f.bySAN[normalSAN(san)]
		if e == nil || e == found {
			return true
		}
		if found != nil {
			return false
		}
		found = e
		return true
	}
	for _, uri := range leaf.URIs {
		if !try(uri.String()) {
			return nil, errUnproven
		}
	}
	for _, name := range leaf.DNSNames {
		if !try(name) {
			return nil, errUnproven
		}
	}
	return found, nil
}

// normalSAN makes DNS names comparable; URIs are compared as they are.
func normalSAN(san string) string {
	if strings.Contains(san, "/") || strings.HasPrefix(san, "urn:") {
		return san
	}
	return strings.ToLower(san)
}

func (g *Guard) byHeader(ctx context.Context, f *File, given []string, addr string) (*Entry, error) {
	if len(given) != 1 || len(given[0]) > 8192 {
		return nil, errUnproven
	}
	scheme, credentials, _ := strings.Cut(given[0], " ")
	credentials = strings.TrimSpace(credentials)
	switch strings.ToLower(scheme) {
	case "bearer":
		// A look-up by digest takes as long for a wrong token as for a right one.
		if e := f.byToken[sha256.Sum256([]byte(credentials))]; e != nil && credentials != "" {
			return e, nil
		}
	case "basic":
		decoded, err := base64.StdEncoding.DecodeString(credentials)
		if err != nil {
			break
		}
		user, password, ok := strings.Cut(string(decoded), ":")
		if !ok {
			break
		}
		return g.byPassword(ctx, f, user, password, addr)
	}
	return nil, errUnproven
}

// digest hashes parts so that no two lists of parts give the same, with a key that
// nobody else knows.
func (g *Guard) digest(parts ...string) (d digest) {
	h := g.hashers.Get().(*hasher)
	defer g.hashers.Put(h)
	h.buf = h.buf[:0]
	for _, p := range parts {
		h.buf = binary.LittleEndian.AppendUint64(h.buf, uint64(len(p)))
		h.buf = append(h.buf, p...)
	}
	h.Reset()
	h.Write(h.buf)
	h.buf = h.Sum(h.buf[:0])
	copy(d[:], h.buf)
	clear(h.buf[:cap(h.buf)]) // it had a password
	return d
}

func (g *Guard) byPassword(ctx context.Context, f *File, user, password, addr string) (*Entry, error) {
	e := f.byUser[user]
	secret := ""
	if e != nil {
		secret = string(e.basic.hash)
		if e.basic.digest != nil {
			secret = string(e.basic.digest[:])
		}
	}
	known := g.digest(user, password, secret)
	if g.verified.Contains(known) { // only what is in the file gets there
		g.verified.Get(known)
		return e, nil
	}
	from := prefix(addr)
	src := g.source(from)
	failing := g.digest(user, from.String())
	if at, failed := g.failing.Get(failing); failed && time.Since(at) < failureKept && src.failures.Tokens() < 1 {
		return nil, errTooMany
	}
	fail := func() (*Entry, error) {
		src.failures.Allow()
		g.failing.Add(failing, time.Now())
		return nil, errUnproven
	}
	if g.wrong.Contains(known) {
		return fail()
	}
	ctx, cancel := context.WithTimeout(ctx, verifyWait)
	defer cancel()
	for _, turn := range []chan struct{}{src.turn, g.turns} {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return nil, errNotYet
		}
	}
	if e.verify(password, g.dummy.Load()) {
		g.verified.Add(known, struct{}{})
		return e, nil
	}
	g.wrong.Add(known, struct{}{})
	return fail()
}

// verify takes as long for a user that does not exist.
func (e *Entry) verify(password string, dummy *[]byte) bool {
	sum := sha256.Sum256([]byte(password))
	if e != nil && e.basic.digest != nil {
		if subtle.ConstantTimeCompare(sum[:], e.basic.digest[:]) == 1 {
			return true
		}
		e = nil
	}
	if e == nil {
		if dummy != nil {
			bcrypt.CompareHashAndPassword(*dummy, []byte(password))
		}
		return false
	}
	return bcrypt.CompareHashAndPassword(e.basic.hash, []byte(password)) == nil
}

// source returns the book-keeping of an address.
func (g *Guard) source(from netip.Prefix) *source {
	if s, ok := g.sources.Get(from); ok {
		return s
	}
	s := &source{turn: make(chan struct{}, 1), failures: rate.NewLimiter(rate.Every(failureEvery), failureBurst)}
	if before, ok, _ := g.sources.PeekOrAdd(from, s); ok {
		return before
	}
	return s
}

// prefix is what of an address one party may well have to itself.
func prefix(addr string) netip.Prefix {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}
	}
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// A meter holds an edge to its rates. It outlives reloads that do not change them.
type meter struct{ requests, samples *rate.Limiter }

func newMeter(r rates) *meter {
	limiter := func(perSecond float64, burst int) *rate.Limiter {
		if perSecond == 0 {
			return rate.NewLimiter(rate.Inf, 0)
		}
		return rate.NewLimiter(rate.Limit(perSecond), max(1, burst))
	}
	return &meter{
		requests: limiter(r.requests, int(math.Ceil(2*r.requests))),
		samples:  limiter(r.samples, r.samplesBurst),
	}
}

// ErrNeverFits is the error for a request with more samples than the edge may
// send at once.
var ErrNeverFits = errors.New("over the burst")

// AllowRequest reports whether the edge may send another request now, and if not
// after how long.
func (e *Entry) AllowRequest(now time.Time) (wait time.Duration, err error) {
	wait, ok := allow(e.meter.requests, now, 1)
	if !ok {
		return wait, fmt.Errorf("edge %s sends more than %v requests a second: limits.requests_per_second in --edges.file", e.Login, e.rates.requests)
	}
	return 0, nil
}

// AllowSamples is AllowRequest for the n samples of a request. More than ever fit
// are ErrNeverFits.
func (e *Entry) AllowSamples(now time.Time, n int) (wait time.Duration, err error) {
	if l := e.meter.samples; l.Limit() != rate.Inf && n > l.Burst() {
		return 0, fmt.Errorf("%d samples in one request are %w of edge %s, %d: limits.samples_burst in --edges.file", n, ErrNeverFits, e.Login, l.Burst())
	}
	wait, ok := allow(e.meter.samples, now, n)
	if !ok {
		return wait, fmt.Errorf("edge %s sends more than %v samples a second: limits.samples_per_second in --edges.file", e.Login, e.rates.samples)
	}
	return 0, nil
}

// allow takes n tokens, or says when there will be as many.
func allow(l *rate.Limiter, now time.Time, n int) (wait time.Duration, ok bool) {
	r := l.ReserveN(now, n)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return wait, false
	}
	return 0, r.OK()
}

// guardMetrics tell of the file.
type guardMetrics struct{ good, at prometheus.Gauge }

func (m *guardMetrics) init(reg prometheus.Registerer) {
	m.good = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "relay_edges_file_last_reload_successful", Help: "Whether the last attempt to read the edges file was successful; if not, the one before goes on.",
	})
	m.at = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "relay_edges_file_last_reload_success_timestamp_seconds", Help: "When the edges file was last read successfully.",
	})
	if reg != nil {
		reg.MustRegister(m.good, m.at)
	}
}

func (m *guardMetrics) loaded(good bool, at time.Time) {
	if !good {
		m.good.Set(0)
		return
	}
	m.good.Set(1)
	m.at.Set(float64(at.UnixMilli()) / 1000)
}
