package exposition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"relay/series"
)

// Options configure a [Handler]. Store is required.
type Options struct {
	Store      *series.Store
	Registerer prometheus.Registerer // of the handler's metrics; nil: not registered
	Logger     *slog.Logger          // nil: silent

	// Timestamps is "auto", "always" or "never"; "" is auto: a series carries its
	// sample's timestamp if its TTL is within Lookback.
	Timestamps string
	Lookback   time.Duration // the centre's; 0: 5m

	MaxScrapes int // rendered at a time, the others wait; 0: 4

	// Edges says which edges are silent: their pages are answered 503. Nil: none.
	Edges Edges

	// Refused says why a series was not taken of late, by its series.FormatLabels; ok is
	// false if it was not refused as far as is known. Nil: nothing is.
	Refused func(name string) (f Refusal, ok bool)

	// Ready is closed when the store has all that it is to show; until then
	// scrapes wait. Nil: it has.
	Ready <-chan struct{}

	// CatchUp has the store show what was acknowledged elsewhere before it is called;
	// each page waits for it. If it cannot, the page shows what there is, with the error
	// in the header BehindHeader. Nil: there is no elsewhere.
	CatchUp func(context.Context) error
}

// BehindHeader says on a page why it may lack what other relays have acknowledged.
const BehindHeader = "X-Relay-Behind"

// Edges knows which edges are silent: see [relay/edges.Registry].
type Edges interface {
	Silent(name string, now time.Time) bool
}

// A Handler answers scrapes with the live series. It may be called concurrently.
//
// Query parameters: match[] (selectors as in /federate, any may match), edge
// (series which that edge wrote last), shard=i/n (a part of the series, i from 0,
// that depends on their labels alone; n at most 1024). With page=up the page says
// in one line that the edge pushes. The pages of a silent edge are 503, so that the
// scraper writes up 0.
type Handler struct {
	opts    Options
	stamps  stamps
	log     *slog.Logger
	metrics *metrics
	scrapes *scrapes
	turns   turns
	parser  parser.Parser
}

// Limits of a scrape.
const (
	defaultTimeout = 2 * time.Minute  // without X-Prometheus-Scrape-Timeout-Seconds
	stallTime      = 10 * time.Second // for a reader to take one piece of the page
	maxShards      = 1024
	maxSelectors   = 64
)

// New returns a Handler.
func New(opts Options) (*Handler, error) {
	if opts.Lookback <= 0 {
		opts.Lookback = 5 * time.Minute
	}
	if opts.MaxScrapes <= 0 {
		opts.MaxScrapes = 4
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	st := stamps{lookback: series.TTLOf(opts.Lookback)}
	switch opts.Timestamps {
	case "", "auto":
	case "always":
		st.always = true
	case "never":
		st.never = true
	default:
		return nil, fmt.Errorf("timestamps %q: want auto, always or never", opts.Timestamps)
	}
	return &Handler{
		opts: opts, stamps: st, log: opts.Logger, metrics: newMetrics(opts.Registerer), scrapes: newScrapes(),
		turns:  newTurns(opts.MaxScrapes),
		parser: parser.NewParser(parser.Options{}),
	}, nil
}

// ServeHTTP answers one scrape.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a scrape is GET", http.StatusMethodNotAllowed)
		return
	}
	q, err := h.query(r.URL.Query())
	if err != nil {
		h.metrics.failed.WithLabelValues("bad_request").Inc()
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	start := time.Now()
	timeout := scrapeTimeout(r.Header)
	up := r.URL.Query().Get("page") == pageUp
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	patience, stop := context.WithTimeout(ctx, timeout-timeout/10)
	defer stop()
	if h.opts.Ready != nil {
		select {
		case <-h.opts.Ready:
		case <-patience.Done():
			h.unavailable(w, "starting", "the relay is replaying its journal")
			return
		}
	}
	if h.opts.CatchUp != nil {
		if err := h.opts.CatchUp(patience); err != nil {
			w.Header().Set(BehindHeader, err.Error())
		}
	}
	if h.silent(w, &q, time.Now()) {
		return
	}
	if up {
		// Next to nothing, so that a scrape of it tells that the edge is there.
		w.Header().Set("Content-Type", format{syntax: text0, scheme: model.UnderscoreEscaping}.contentType())
		io.WriteString(w, "# HELP relay_edge_pushing The edge pushes.\n# TYPE relay_edge_pushing gauge\nrelay_edge_pushing 1\n")
		return
	}
	done, ok := h.turns.take(patience, r.RemoteAddr)
	if !ok {
		h.unavailable(w, "busy", fmt.Sprintf("%d scrapes are being answered: --exposition.max-scrapes", h.opts.MaxScrapes))
		return
	}
	defer done()
	now := time.Now() // the page is as of this: what expired while it waited is gone
	if h.silent(w, &q, now) {
		return
	}

	f := negotiate(strings.Join(r.Header.Values("Accept"), ","))
	enc := negotiateEncoding(strings.Join(r.Header.Values("Accept-Encoding"), ","))
	header := w.Header()
	header.Set("Content-Type", f.contentType())
	header.Set("X-Content-Type-Options", "nosniff")
	header.Add("Vary", "Accept, Accept-Encoding")
	if enc != identity {
		header.Set("Content-Encoding", string(enc))
	}
	if r.Method == http.MethodHead {
		return
	}
	sent := &counted{w: w, ctx: ctx, c: http.NewResponseController(w), until: start.Add(timeout)}
	p, err := h.render(sent, f, enc, q, now)
	if err != nil {
		h.metrics.failed.WithLabelValues("aborted").Inc()
		h.log.Debug("Scrape aborted", "remote", r.RemoteAddr, "sent", sent.n, "err", err)
		// The client must not take what it has for the whole page.
		panic(http.ErrAbortHandler)
	}
	h.metrics.observe(f.syntax, enc, sent.n, p, time.Since(start))
	h.scrapes.answered(r, &q, start, sent.n, p.series)
}

// silent answers a scrape of an edge that is.
func (h *Handler) silent(w http.ResponseWriter, q *series.Query, now time.Time) bool {
	if q.Edge == "" || h.opts.Edges == nil || !h.opts.Edges.Silent(q.Edge, now) {
		return false
	}
	h.unavailable(w, "edge_silent", fmt.Sprintf("the edge %.60q is silent: its last accepted request is older than that request's TTL, or none of an edge of that name is remembered", q.Edge))
	return true
}

// unavailable answers a scrape that has waited until the scraper is about to
// give up.
func (h *Handler) unavailable(w http.ResponseWriter, reason, text string) {
	h.metrics.failed.WithLabelValues(reason).Inc()
	w.Header().Set("Retry-After", "1")
	http.Error(w, text, http.StatusServiceUnavailable)
}

// scrapeTimeout is how long the scraper waits.
func scrapeTimeout(h http.Header) time.Duration {
	s, err := strconv.ParseFloat(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(s > 0) || s > defaultTimeout.Seconds() {
		return defaultTimeout
	}
	return time.Duration(s * float64(time.Second))
}

// Selection reads which series parameters select: match[], of which one must be
// given, and edge.
func (h *Handler) Selection(v url.Values) (series.Query, error) {
	if len(v["match[]"]) == 0 {
		return series.Query{}, errors.New("match[] must be given")
	}
	v = maps.Clone(v)
	v.Del("shard")
	v.Del("page")
	return h.query(v)
}

// pageUp is the one page= that there is.
const pageUp = "up"

// query reads the parameters. What is nearly one of them is refused: a page of all
// series in place of a few would be taken for these.
func (h *Handler) query(v url.Values) (series.Query, error) {
	q := series.Query{Edge: v.Get("edge")}
	if page := v.Get("page"); page != "" && page != pageUp {
		return q, fmt.Errorf("page %.20q: there is only %s", page, pageUp)
	}
	for name, meant := range map[string]string{"match": "match[]", "edge[]": "edge", "edges": "edge", "shards": "shard"} {
		if v.Has(name) {
			return q, fmt.Errorf("parameter %s: want %s; there are match[], edge, shard and page", name, meant)
		}
	}
	selectors := v["match[]"]
	if len(selectors) > maxSelectors {
		return q, fmt.Errorf("%d selectors, at most %d", len(selectors), maxSelectors)
	}
	for _, selector := range selectors {
		matchers, err := h.parser.ParseMetricSelector(selector)
		if err != nil {
			return q, fmt.Errorf("match[] %.200q: %w", selector, err)
		}
		var and []series.Matcher
		for _, m := range matchers {
			and = append(and, series.Matcher{Name: m.Name, Matches: m.Matches})
		}
		q.Matchers = append(q.Matchers, and)
	}
	if shard := v.Get("shard"); shard != "" {
		of := func(s string) int {
			n, err := strconv.Atoi(s)
			if err != nil {
				return -1
			}
			return n
		}
		i, n, _ := strings.Cut(shard, "/")
		q.Shard, q.Shards = of(i), of(n)
		if q.Shard < 0 || q.Shards < 1 || q.Shards > maxShards || q.Shard >= q.Shards {
			return q, fmt.Errorf("shard %.20q: want i/n with 0 <= i < n <= %d", shard, maxShards)
		}
	}
	return q, nil
}

// A writer shows series in one format.
type writer interface {
	series.Visitor
	Close() error
}

// render writes a page.
func (h *Handler) render(out io.Writer, f format, enc encoding, q series.Query, now time.Time) (*page, error) {
	compressed, end := compress(out, enc, workers(h.opts.Store.Pushing(now)))
	p := newPage(compressed, f.scheme, h.stamps)
	defer p.release()
	q.Rename = p.rename()
	var w writer
	switch f.syntax {
	case openMetrics:
		q.Grouped = true
		w = newText(p, true)
	case protobuf:
		q.Grouped = true
		w = newProto(p)
	default:
		w = newText(p, false)
	}
	err := h.opts.Store.Scan(now, q, w)
	if err == nil {
		err = w.Close()
	}
	return p, errors.Join(err, end())
}

// workers is how many processors a page may have beside the one that renders it. While
// pushes come in, one is left alone: the runtime looks whether there is something to
// read from the network when a processor has nothing to do, and else every ten
// milliseconds.
func workers(pushing bool) int {
	n := runtime.GOMAXPROCS(0) - 1
	if pushing {
		n--
	}
	return max(0, n)
}

// counted writes to the network until the scraper's patience ends. A reader that
// has gone, or that takes nothing for too long, is left behind.
type counted struct {
	w     io.Writer
	ctx   context.Context
	c     *http.ResponseController
	until time.Time
	n     int64
}

func (c *counted) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	deadline := time.Now().Add(stallTime)
	if c.until.Before(deadline) {
		deadline = c.until
	}
	c.c.SetWriteDeadline(deadline) // where there is a connection
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
