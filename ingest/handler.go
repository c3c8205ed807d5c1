package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"

	"relay/edges"
	"relay/journal"
	"relay/series"
)

// Paths are those under which senders expect a remote-write endpoint:
// Prometheus and VictoriaMetrics, Mimir, old Cortex and Telegraf, Thanos, Alloy.
var Paths = []string{"/api/v1/write", "/api/v1/push", "/api/prom/push", "/api/v1/receive", "/api/v1/metrics/write"}

// Options configure a [Handler]. Store is required.
type Options struct {
	Store      *series.Store
	Registerer prometheus.Registerer // of the handler's metrics; nil: not registered
	Logger     *slog.Logger          // nil: silent

	RequestBytes  int64 // of one request, compressed and again decoded; 0: 32 MiB
	InflightBytes int64 // of all requests being taken; 0: 256 MiB

	// Journal takes each request before it is answered; nil: none does.
	Journal Journal

	// Shared says that other relays write the journal, too. Then it calls apply, and
	// Replay with what they write, in one order that is the same for all, and what
	// depends on order is decided there: elections, and pushes to groups.
	Shared bool

	// Edges is told of each accepted request, and elects the replicas of pairs; nil:
	// nobody is told, and all are taken.
	Edges *edges.Registry

	// Guard says who may push, and as whom; nil: everybody may, under a name of
	// their choice.
	Guard *edges.Guard

	// HALabels says that the labels cluster and __replica__ tell pairs of senders.
	HALabels bool

	// Ready is closed when pushes can be taken; until then they wait a while. Nil:
	// at once.
	Ready <-chan struct{}

	// TrustedProxies may say for whom they ask, in X-Forwarded-For.
	TrustedProxies []netip.Prefix
}

// A Journal keeps what is accepted: see [journal.Journal].
type Journal interface {
	Append(ctx context.Context, r *journal.Record, apply func()) error
}

// Limits of waiting. Senders give up after 30 s and try again.
const (
	maxWait    = 10 * time.Second // for a processor or for room
	retryAfter = "5"              // seconds: a Prometheus sender sleeps exactly that long

	maxRetryAfter = 3600 // seconds
)

// A Handler is the remote-write endpoint for both versions of the protocol, told
// apart by Content-Type. It may be called concurrently, and answers
//
//   - 204 if all is accepted, late and repeated samples included
//   - 202 if another replica of the sender's pair is listened to: nothing is kept
//   - 400 if some can never be accepted: the rest is applied, the body says how
//     many were refused, why, and names the first
//   - 401, 403, 429 if the sender is not let in, or is over its rate
//   - 405, 415 for other methods, media types and encodings
//   - 413 for a body over the limit
//   - 503 with Retry-After if the relay cannot take it now
//
// What was answered with 2xx is visible to every scrape that starts later. The
// sources of these rules are the remote-write specifications 1.0 and 2.0.
type Handler struct {
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	room     room
	decoders sync.Pool
	clock    ownClock
	pusher   *Pusher
	replayed []byte       // the body being replayed
	upTo     atomic.Int64 // when the last replayed record was received, ms; 0: none was replayed

	warned   atomic.Int64 // when it was last said that the journal takes nothing
	draining atomic.Bool
	inflight sync.WaitGroup
	gate     sync.RWMutex // orders draining and inflight.Add
}

// New returns a Handler.
func New(opts Options) *Handler {
	if opts.RequestBytes <= 0 {
		opts.RequestBytes = 32 << 20
	}
	if opts.InflightBytes <= 0 {
		opts.InflightBytes = 256 << 20
	}
	opts.InflightBytes = max(opts.InflightBytes, 2*opts.RequestBytes)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{
		opts:    opts,
		log:     opts.Logger,
		metrics: newMetrics(opts.Registerer),
	}
	h.room.init(opts.InflightBytes, 2*opts.RequestBytes, 2*runtime.GOMAXPROCS(0))
	h.metrics.inflight(&h.room)
	h.decoders.New = func() any { return &decoder{} }
	h.pusher = &Pusher{h: h}
	return h
}

// Drain refuses new requests with 503 from now on, and waits until those being
// taken are answered or ctx ends.
func (h *Handler) Drain(ctx context.Context) error {
	h.gate.Lock()
	h.draining.Store(true)
	h.gate.Unlock()
	done := make(chan struct{})
	go func() {
		h.inflight.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A refusal is an answer other than 2xx to a request as a whole.
type refusal struct {
	code   int
	reason string // for the metric; bounded
	text   string
	wait   time.Duration // after which it may be tried again; 0: as usual

	first *series.Rejection // what it was refused for, if that was a series
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, reason, format string, args ...any) *refusal {
	return &refusal{code: code, reason: reason, text: shortened(fmt.Sprintf(format, args...))}
}

// shortened is the beginning of a text that may have what a client sent in it: what
// a sender reads of an error.
func shortened(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxAnswer)], "")
}

func (h *Handler) enter() bool {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.draining.Load() {
		return false
	}
	h.inflight.Add(1)
	return true
}

// ServeHTTP takes one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	version, bad := negotiate(r)
	var res series.Result
	var from sender
	switch {
	case bad != nil && bad.code == http.StatusUnsupportedMediaType:
		from, _ = h.identify(r) // to say whose it was
	case bad != nil:
	case h.enter():
		defer h.inflight.Done()
		res, bad = h.take(w, r, version, &from)
	default:
		bad = refuse(http.StatusServiceUnavailable, "draining", "the relay is shutting down")
	}
	code := http.StatusNoContent
	if res.Deduplicated {
		code = http.StatusAccepted
	}
	header := w.Header()
	if version == v2 {
		header.Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(res.Samples))
		header.Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(res.Histograms))
		header.Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(res.Exemplars))
	}
	switch {
	case bad != nil:
		code = bad.code
		h.metrics.refusedRequests.WithLabelValues(bad.reason).Inc()
		h.log.Debug("Request refused", "remote", r.RemoteAddr, "code", code, "reason", bad.reason, "err", bad.text)
		h.tookNothing(&from, bad)
		answer(w, r, bad)
	case res.Refused() > 0:
		code = http.StatusBadRequest
		h.log.Debug("Samples refused", "remote", r.RemoteAddr, "refused", res.Refused(), "first", res.First.Error())
		http.Error(w, summary(&res), code)
	default:
		w.WriteHeader(code)
	}
	h.metrics.observe(version, code, &res, time.Since(start))
}

// answer sends a refusal so that it arrives: a client that is still sending when
// the connection is closed sees a reset, not the status, and would try again for
// ever. So the rest of its body is read, within limits.
func answer(w http.ResponseWriter, r *http.Request, bad *refusal) {
	switch bad.code {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		after := retryAfter
		if bad.wait > 0 {
			after = strconv.Itoa(int(min(math.Ceil(bad.wait.Seconds()), maxRetryAfter)))
		}
		w.Header().Set("Retry-After", after)
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="relay"`)
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	}
	const patience = 2 * time.Second
	const maxDrained = 64 << 20
	const drainedAnyway = 256 << 10 // by net/http
	c := http.NewResponseController(w)
	// What net/http reads of the rest has a time, too, or who sends a byte a second
	// would keep the connection for as long as it likes.
	bounded := r.ContentLength != 0 && c.SetReadDeadline(time.Now().Add(patience)) == nil
	long := r.ContentLength < 0 || r.ContentLength > drainedAnyway
	if long && bounded && r.ProtoMajor == 1 && c.EnableFullDuplex() == nil {
		w.Header().Set("Connection", "close")
		http.Error(w, bad.text, bad.code)
		c.Flush()
		io.CopyN(io.Discard, r.Body, maxDrained)
		return
	}
	http.Error(w, bad.text, bad.code)
}

// maxAnswer is what Prometheus reads of an error: 1024 bytes.
const maxAnswer = 1000

// summary says what was refused of a request.
func summary(res *series.Result) string {
	var b bytes.Buffer
	taken := res.Samples + res.Histograms + res.Exemplars
	fmt.Fprintf(&b, "%d of %d refused, the rest is accepted:", res.Refused(), res.Refused()+taken)
	sep := " "
	for r, n := range res.Rejected {
		if n > 0 {
			fmt.Fprintf(&b, "%s%d %s", sep, n, series.Reason(r))
			sep = ", "
		}
	}
	if res.First != nil {
		fmt.Fprintf(&b, "; the first: %s", res.First.Error())
	}
	return shortened(b.String())
}

// A version is one of the messages that senders write.
type version uint8

const (
	unknown version = iota
	v1
	v2
)

func (v version) String() string { return [...]string{"unknown", "1.0", "2.0"}[v] }

// negotiate tells the version and refuses what cannot be read, before the body
// is touched.
func negotiate(r *http.Request) (version, *refusal) {
	if r.Method != http.MethodPost {
		return unknown, refuse(http.StatusMethodNotAllowed, "method", "remote write is POST")
	}
	v, err := contentVersion(r.Header)
	if err != nil {
		return unknown, refuse(http.StatusUnsupportedMediaType, "content_type", "%v; the relay takes application/x-protobuf, of prometheus.WriteRequest or io.prometheus.write.v2.Request", err)
	}
	if enc := r.Header.Values("Content-Encoding"); len(enc) > 1 || len(enc) == 1 && !strings.EqualFold(strings.TrimSpace(enc[0]), "snappy") && enc[0] != "" {
		return v, refuse(http.StatusUnsupportedMediaType, "content_encoding", "Content-Encoding %.60q: remote write is snappy (block format)", strings.Join(enc, ", "))
	}
	return v, nil
}

// contentVersion reads the Content-Type. None is 1.0, as in Prometheus.
func contentVersion(h http.Header) (version, error) {
	types := h.Values("Content-Type")
	if len(types) == 0 || len(types) == 1 && types[0] == "" {
		return v1, nil
	}
	if len(types) > 1 {
		return unknown, errors.New("two Content-Types")
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil || media != "application/x-protobuf" {
		return unknown, fmt.Errorf("Content-Type %.80q", types[0])
	}
	switch proto, given := params["proto"]; {
	case !given, proto == "prometheus.WriteRequest":
		return v1, nil
	case proto == "io.prometheus.write.v2.Request":
		return v2, nil
	}
	return unknown, fmt.Errorf("Content-Type %.80q", types[0])
}

// take reads, decodes and applies a request.
func (h *Handler) take(w http.ResponseWriter, r *http.Request, v version, from *sender) (series.Result, *refusal) {
	var none series.Result
	var bad *refusal
	if *from, bad = h.identify(r); bad != nil {
		return none, bad
	}
	if bad := h.awaitReady(r.Context()); bad != nil {
		return none, bad
	}
	share := h.room.of(from.edge)
	defer share.leave()
	body, bad := h.read(w, r, share)
	if bad != nil {
		return none, bad
	}
	defer body.release()
	h.metrics.bytes.Add(float64(len(body.bytes())))
	done, bad := share.turn(r.Context())
	if bad != nil {
		return none, bad
	}
	turn := sync.OnceFunc(done)
	defer turn()
	raw, bad := h.decompress(r.Context(), body)
	if bad != nil {
		return none, bad
	}
	defer raw.release()
	h.metrics.decodedBytes.Add(float64(len(raw.bytes())))

	now := time.Now()
	batch := h.opts.Store.NewBatch(series.Request{Edge: from.edge, TTL: from.ttl, Received: now, Now: now, Terms: from.terms})
	defer batch.Release()
	if err := h.decode(v, raw.bytes(), batch, memoryFactor*int(h.opts.RequestBytes)); err != nil {
		return none, refuse(http.StatusBadRequest, "malformed", "cannot read the request as remote write %s: %v; nothing of it was applied", v, err)
	}
	pair, replica := from.replica(batch)
	kept := false // anything of it
	if !h.listens(pair, replica, now, batch) {
		res := batch.Tally()
		res.Deduplicated = true
		h.took(from.edge, now, &res)
		return res, nil
	}
	if pair != "" && !h.opts.Shared && h.opts.Edges != nil {
		defer func() {
			if !kept {
				h.opts.Edges.Withdraw(pair, replica)
			}
		}()
	}
	if bad := from.allowSamples(now, batch.Len()); bad != nil {
		return none, bad
	}
	if h.clock.suspect(from.edge, batch.Prepare(), now) {
		return none, refuse(http.StatusServiceUnavailable, "own_clock", "all active edges are too far ahead of the relay's clock: it is taken to be wrong")
	}
	var res series.Result
	apply := func() {
		if h.opts.Shared && !h.elect(pair, replica, now, batch) {
			res = batch.Tally()
			res.Deduplicated = true
			h.took(from.edge, now, &res)
			return
		}
		res = batch.Commit()
		kept = res.Samples+res.Histograms > 0
		h.took(from.edge, now, &res)
		h.elected(pair, replica, now, &res, batch)
	}
	if h.opts.Journal != nil && batch.Accepted() {
		if h.opts.Shared {
			turn() // a cluster is waited for, not a processor
		}
		d := batch.Decision()
		err := h.opts.Journal.Append(r.Context(), &journal.Record{
			Kind: v.kind(), Edge: from.edge, Forced: from.terms.Forced, Dropped: from.terms.Dropped, Pair: pair, Replica: replica, Received: now.UnixMilli(), TTL: int64(d.TTL), MinTTL: int64(d.MinTTL), MaxTTL: int64(d.MaxTTL),
			Refused: d.Refused, Body: body.bytes(),
		}, apply)
		if err != nil {
			return none, h.untaken(err)
		}
	} else {
		apply()
	}
	if res.Clamped {
		w.Header().Set("X-Relay-TTL", res.Granted.String())
	}
	return res, nil
}

// warnEvery is how often it is said that the journal takes nothing: thousands may try
// again and again.
const warnEvery = 10 * time.Second

// untaken is the answer to what the journal did not take.
func (h *Handler) untaken(err error) *refusal {
	level, now := slog.LevelDebug, time.Now().UnixNano()
	if last := h.warned.Load(); now-last > int64(warnEvery) && h.warned.CompareAndSwap(last, now) {
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "Request not taken", "err", err)
	return refuse(http.StatusServiceUnavailable, "journal", "%v", err)
}

// kind is the version in the journal.
func (v version) kind() journal.Kind {
	if v == v2 {
		return journal.WriteV2
	}
	return journal.WriteV1
}

// Replay applies a record of the journal as it was applied when it was taken.
// Calls may not overlap, nor with those of apply where the journal is shared.
func (h *Handler) Replay(r *journal.Record) error {
	h.upTo.Store(r.Received)
	v := v1
	switch r.Kind {
	case journal.WriteV1:
	case journal.WriteV2:
		v = v2
	case journal.GroupReplace, journal.GroupMerge, journal.GroupDelete, journal.Wipe:
		_, err := h.pusher.replay(r)
		return err
	case journal.SeriesDelete:
		return h.replayDelete(r)
	default:
		return fmt.Errorf("a record of kind %d", r.Kind)
	}
	if n, err := snappy.DecodedLen(r.Body); err != nil || n > maxReplayed {
		return fmt.Errorf("a body that says it is of %d bytes: %w", n, errors.Join(err, snappy.ErrCorrupt))
	}
	raw, err := snappy.Decode(h.replayed[:cap(h.replayed)], r.Body)
	if err != nil {
		return err
	}
	h.replayed = raw
	batch := h.opts.Store.NewBatch(series.Request{
		Edge: r.Edge, Received: time.UnixMilli(r.Received), Now: time.Now(),
		Recorded: &series.Decision{TTL: series.TTL(r.TTL), MinTTL: series.TTL(r.MinTTL), MaxTTL: series.TTL(r.MaxTTL), Refused: r.Refused},
		Terms:    series.Terms{Forced: r.Forced, Dropped: r.Dropped},
	})
	defer batch.Release()
	if err := h.decode(v, raw, batch, math.MaxInt); err != nil {
		return err
	}
	received := time.UnixMilli(r.Received)
	if h.opts.Shared && !h.elect(r.Pair, r.Replica, received, batch) {
		return nil // its relay did not know yet
	}
	res := batch.Commit()
	h.saw(r.Edge, received, &res)
	h.elected(r.Pair, r.Replica, received, &res, batch)
	return nil
}

// ReplayedUpTo is as of when the store may be swept while the journal is replayed; ok is
// false if not yet. What is forgotten now may still be what a record that is to come was
// superseded by. now has its monotonic reading, as the time returned. It may be called
// while Replay is.
func (h *Handler) ReplayedUpTo(now time.Time) (at time.Time, ok bool) {
	const disorder = time.Minute // of records that are on their way to the journal at a time
	received := h.upTo.Load()
	if received == 0 {
		return now, false
	}
	return now.Add(-max(0, now.Sub(time.UnixMilli(received))) - disorder), true
}

// saw notes an edge of whose request something was accepted.
func (h *Handler) saw(edge string, received time.Time, res *series.Result) {
	if h.opts.Edges == nil || res.Samples+res.Histograms+res.Exemplars == 0 {
		return
	}
	h.opts.Edges.Saw(edge, received, int64(res.Lasts()))
}

// took notes what became of a request that was read.
func (h *Handler) took(edge string, now time.Time, res *series.Result) {
	if h.opts.Edges == nil {
		return
	}
	code := http.StatusNoContent
	switch {
	case res.Deduplicated:
		code = http.StatusAccepted
	case res.First != nil:
		code = http.StatusBadRequest
	}
	h.opts.Edges.Took(edge, now, code, res)
}

// tookNothing notes a request that was refused as a whole.
func (h *Handler) tookNothing(from *sender, bad *refusal) {
	if h.opts.Edges == nil || from.edge+from.claimed == "" {
		return
	}
	f := &edges.Refusal{Edge: from.edge, At: time.Now(), Code: bad.code, Reason: bad.reason, Detail: bad.text}
	if bad.first != nil {
		f.Series, f.Detail = bad.first.Series, bad.first.Detail
	}
	if from.edge == "" {
		f.Edge = from.claimed
	}
	h.opts.Edges.TookNothing(f, from.edge != "")
}

// listens reports whether a request of a replica is to be taken, or where the
// journal is shared, whether that is to be asked when its turn comes: until then
// nobody is elected.
func (h *Handler) listens(pair, replica string, now time.Time, batch *series.Batch) bool {
	if !h.opts.Shared {
		return h.elect(pair, replica, now, batch)
	}
	if h.opts.Edges == nil || pair == "" {
		return true
	}
	oldest, newest, live := batch.Span()
	return h.opts.Edges.Listens(pair, replica, now, edges.Span{Oldest: oldest, Newest: newest, Live: live})
}

// elect reports whether a request of a replica is to be taken.
func (h *Handler) elect(pair, replica string, now time.Time, batch *series.Batch) bool {
	if h.opts.Edges == nil || pair == "" {
		return true
	}
	oldest, newest, live := batch.Span()
	taken, changed := h.opts.Edges.Elect(pair, replica, now, edges.Span{Oldest: oldest, Newest: newest, Live: live})
	if changed {
		h.metrics.failovers.Inc()
		h.log.Info("Another replica of a pair is listened to", "pair", pair, "replica", fmt.Sprintf("%.80q", replica))
	}
	return taken
}

// elected notes what was taken from a replica.
func (h *Handler) elected(pair, replica string, received time.Time, res *series.Result, batch *series.Batch) {
	if h.opts.Edges == nil || pair == "" || res.Samples+res.Histograms == 0 {
		return
	}
	_, newest, _ := batch.Span()
	h.opts.Edges.Elected(pair, replica, received, int64(res.Granted), newest)
}

// maxReplayed bounds a body in the journal, whatever --limits.request-bytes was
// when it was taken.
const maxReplayed = 1 << 30

// awaitReady waits until the relay has replayed its journal.
func (h *Handler) awaitReady(ctx context.Context) *refusal {
	if h.opts.Ready == nil {
		return nil
	}
	select {
	case <-h.opts.Ready:
		return nil
	default:
	}
	wait := time.NewTimer(maxWait)
	defer wait.Stop()
	select {
	case <-h.opts.Ready:
		return nil
	case <-wait.C:
	case <-ctx.Done():
	}
	return refuse(http.StatusServiceUnavailable, "starting", "the relay is replaying its journal")
}

func (h *Handler) decode(v version, raw []byte, batch *series.Batch, budget int) error {
	d := h.decoders.Get().(*decoder)
	*d = decoder{batch: batch, budget: budget, scratch: d.scratch[:0], symbols: d.symbols[:0], refs: d.refs[:0], said: d.said}
	var err error
	if v == v2 {
		err = d.v2(raw)
	} else {
		err = d.v1(raw)
	}
	const keep = 1 << 16
	if cap(d.scratch) > keep {
		d.scratch = nil
	}
	clear(d.symbols[:cap(d.symbols)])
	if cap(d.symbols) > keep {
		d.symbols = nil
	}
	d.batch = nil
	h.decoders.Put(d)
	batch.Pause() // who is elected may have to be waited for, and is logged
	return err
}

// memoryFactor is how many times its limit in bytes a request may take in memory.
const memoryFactor = 4

// requestTTL is the TTL that a request asks for: by header, else by query.
func requestTTL(r *http.Request) (series.TTL, *refusal) {
	asked, where := r.Header.Get("X-Relay-TTL"), "header X-Relay-TTL"
	if asked == "" && r.URL.RawQuery != "" {
		asked, where = r.URL.Query().Get("ttl"), "query parameter ttl"
	}
	if asked == "" {
		return 0, nil
	}
	ttl, err := series.ParseTTL(asked)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "ttl", "%s: %v", where, err)
	}
	return ttl, nil
}
