package ingest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/common/model"

	"relay/journal"
	"relay/series"
)

// PushPaths are where the push API of the Pushgateway is, with all that is below them.
var PushPaths = []string{pushRoot + "job/", pushRoot + "job@base64/"}

const pushRoot = "/metrics/"

// A Pusher is the push API of the Pushgateway, with TTLs:
//
//	PUT, POST, DELETE /metrics/job/<job>{/<label>/<value>}
//
// PUT replaces the group that the path names, POST the families of the same name in
// it, DELETE ends it. Bodies are text, OpenMetrics or delimited protobuf, as they are
// or compressed with gzip, snappy (framed) or zstd. A request is applied whole or not
// at all. It may be called concurrently, and answers as the Pushgateway does: 200 to
// PUT and POST, 202 to DELETE, 400 with the reason; see [Handler] for 401 to 503.
//
// How long what was pushed lives says, the most specific first: a line
// "#!set stale_timeout = <seconds>|null" for the families that follow it in a text
// (from github.com/pkcakeout/pushgateway; durations, too), a label __ttl__, the header
// X-Relay-TTL, the query parameter ttl, the edges file, the default.
type Pusher struct {
	h   *Handler
	ttl series.TTL // the default; 0: the store's

	// turn orders pushes: in the journal and in the store alike. Where the journal is
	// shared the order is the journal's, and turn keeps pushes apart that are checked
	// and applied.
	turn sync.Mutex
	once sync.Once
}

// Pusher returns the push API beside a handler, with the default TTL of its own; 0
// is the store's.
func (h *Handler) Pusher(ttl series.TTL) *Pusher {
	h.pusher.ttl = ttl
	return h.pusher
}

// ServeHTTP takes one push.
func (p *Pusher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code, bad := http.StatusOK, (*refusal)(nil)
	var from sender
	if p.h.enter() {
		defer p.h.inflight.Done()
		code, bad = p.take(w, r, &from)
	} else {
		bad = refuse(http.StatusServiceUnavailable, "draining", "the relay is shutting down")
	}
	if bad != nil {
		code = bad.code
		p.h.metrics.refusedRequests.WithLabelValues(bad.reason).Inc()
		p.h.log.Debug("Push refused", "remote", r.RemoteAddr, "code", code, "reason", bad.reason, "err", bad.text)
		p.h.tookNothing(&from, bad)
		answer(w, r, bad)
	} else {
		w.WriteHeader(code)
	}
	p.h.metrics.pushed(r.Method, code)
}

func (p *Pusher) take(w http.ResponseWriter, r *http.Request, from *sender) (int, *refusal) {
	kind := journal.GroupMerge
	switch r.Method {
	case http.MethodPut:
		kind = journal.GroupReplace
	case http.MethodPost:
	case http.MethodDelete:
		kind = journal.GroupDelete
	default:
		return 0, refuse(http.StatusMethodNotAllowed, "method", "the push API takes PUT, POST and DELETE")
	}
	labels, err := groupLabels(strings.TrimPrefix(r.URL.Path, pushRoot))
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "group", "%v", err)
	}
	var bad *refusal
	if *from, bad = p.h.identify(r); bad != nil {
		return 0, bad
	}
	if bad := p.h.awaitReady(r.Context()); bad != nil {
		return 0, bad
	}
	rec := &journal.Record{Kind: kind, Edge: from.edge, Group: labels, Forced: from.terms.Forced}
	if from.entry != nil {
		rec.Scope = from.edge
	}
	if kind == journal.GroupDelete {
		_, bad := p.apply(r.Context(), rec, from, nil)
		return http.StatusAccepted, bad
	}
	share := p.h.room.of(from.edge)
	defer share.leave()
	body, bad := p.h.read(w, r, share)
	if bad != nil {
		return 0, bad
	}
	defer body.release()
	p.h.metrics.bytes.Add(float64(len(body.bytes())))
	done, bad := share.turn(r.Context())
	if bad != nil {
		return 0, bad
	}
	defer done()
	raw, give, bad := p.h.inflate(r.Context(), r.Header.Get("Content-Encoding"), body)
	if bad != nil {
		return 0, bad
	}
	defer give()
	p.h.metrics.decodedBytes.Add(float64(len(raw)))
	rec.Format = pushFormat(r.Header.Get("Content-Type"))
	asked := from.ttl != 0
	if !asked {
		from.ttl = p.ttl
	}
	res, bad := p.apply(r.Context(), rec, from, raw)
	if bad != nil {
		return 0, bad
	}
	if asked && res.Clamped {
		w.Header().Set("X-Relay-TTL", res.Granted.String())
	}
	return http.StatusOK, nil
}

// apply checks, journals and applies one push, in turn.
func (p *Pusher) apply(ctx context.Context, rec *journal.Record, from *sender, raw []byte) (res series.Result, bad *refusal) {
	journaled := func(apply func()) *refusal {
		if err := p.h.opts.Journal.Append(ctx, rec, apply); err != nil {
			return p.h.untaken(err)
		}
		p.h.metrics.observePush(&res)
		return nil
	}
	if !p.h.opts.Shared {
		bad = p.check(rec, from, raw, func(commit func() series.Result) *refusal {
			if p.h.opts.Journal != nil {
				return journaled(func() { res = commit() })
			}
			res = commit()
			p.h.metrics.observePush(&res)
			return nil
		})
		return res, bad
	}
	// What others have pushed before its turn is not known yet: it is read again then.
	if bad := p.check(rec, from, raw, func(func() series.Result) *refusal { return nil }); bad != nil {
		return res, bad
	}
	var err error
	clamped := rec.TTL != int64(from.ttl)
	apply := func() {
		if res, err = p.replay(rec); rec.Kind != journal.GroupDelete {
			res.Clamped = clamped
			p.h.took(rec.Edge, time.UnixMilli(rec.Received), &res)
		}
	}
	if bad := journaled(apply); bad != nil {
		return res, bad
	}
	if err != nil {
		return res, refuse(http.StatusBadRequest, "malformed", "%v; nothing was changed", err)
	}
	return res, nil
}

// check takes a push apart and completes its record; if it is to be taken, then is
// called with what commits it. Nobody else's turn comes until that returns.
func (p *Pusher) check(rec *journal.Record, from *sender, raw []byte, then func(commit func() series.Result) *refusal) *refusal {
	p.turn.Lock()
	defer p.turn.Unlock()
	now := time.Now()
	rec.Received = now.UnixMilli()
	group := &series.Group{Scope: rec.Scope, Labels: rec.Group}
	if rec.Kind == journal.GroupDelete && !p.h.opts.Store.HasGroup(group) {
		if p.h.opts.Journal == nil {
			return nil
		}
		// The journal may know it: by another relay, or by a push that failed and of which
		// it has the record all the same.
		rec.TTL, rec.MinTTL, rec.MaxTTL = 1, 1, int64(series.Forever)
		return then(func() (none series.Result) { return none })
	}
	batch, plain, err := p.batch(rec, series.Request{Edge: rec.Edge, TTL: from.ttl, Received: now, Now: now, Group: group, Terms: from.terms}, raw)
	if err != nil {
		return refuse(http.StatusBadRequest, "malformed", "%v; nothing was changed", err)
	}
	defer batch.Release()
	if bad := from.allowSamples(now, batch.Len()); bad != nil {
		return bad
	}
	if all := batch.Prepare(); all.Refused() > 0 {
		bad := refuse(http.StatusBadRequest, all.First.Reason.String(), "%v; nothing was changed", all.First)
		bad.first = all.First
		return bad
	}
	if twice := batch.Duplicate(); twice != "" {
		return refuse(http.StatusBadRequest, "duplicate", "%s is pushed twice in one request; nothing was changed", twice)
	}
	d := batch.Decision()
	rec.TTL, rec.MinTTL, rec.MaxTTL = int64(d.TTL), int64(d.MinTTL), int64(d.MaxTTL)
	if raw != nil && p.h.opts.Journal != nil {
		rec.Body = snappy.Encode(nil, raw)
	}
	if from.ttl == 0 && plain {
		p.once.Do(func() {
			p.h.log.Info("A push without a TTL gets --series.ttl, and is gone after it; for batch jobs set --push.ttl=inf", "group", series.FormatLabels(rec.Group))
		})
	}
	return then(func() series.Result {
		res := batch.Commit()
		if rec.Kind != journal.GroupDelete {
			p.h.took(rec.Edge, now, &res)
		}
		return res
	})
}

// batch reads a push into a batch, which the caller releases. plain says that a series
// has the request's TTL, for want of one of its own.
func (p *Pusher) batch(rec *journal.Record, req series.Request, raw []byte) (_ *series.Batch, plain bool, _ error) {
	if rec.Kind != journal.GroupMerge {
		req.Group.Ends = series.EndsAll
	}
	b := p.h.opts.Store.NewBatch(req)
	if rec.Kind == journal.GroupDelete {
		return b, false, nil
	}
	body := pushBody{batch: b, group: rec.Group, received: rec.Received, budget: memoryFactor * int(p.h.opts.RequestBytes)}
	if req.Recorded != nil {
		body.budget = 1 << 40
	}
	read := false
	defer func() {
		if !read { // a panic of a parser, too: it ends the request alone
			b.Release()
		}
	}()
	if err := body.read(raw, rec.Format); err != nil {
		return nil, false, err
	}
	b.Pause()
	read = true
	return b, body.plain, nil
}

// replay applies a push of the journal.
func (p *Pusher) replay(rec *journal.Record) (res series.Result, err error) {
	var raw []byte
	switch rec.Kind {
	case journal.GroupReplace, journal.GroupMerge:
		n, err := snappy.DecodedLen(rec.Body)
		if err != nil || n > maxReplayed {
			return res, errors.Join(err, snappy.ErrCorrupt)
		}
		if raw, err = snappy.Decode(nil, rec.Body); err != nil {
			return res, err
		}
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	group := &series.Group{Scope: rec.Scope, Labels: rec.Group}
	switch {
	case rec.Kind == journal.Wipe:
		p.wipe(rec)
		return res, nil
	case rec.Kind == journal.GroupDelete && !p.h.opts.Store.HasGroup(group):
		return res, nil
	}
	batch, _, err := p.batch(rec, series.Request{
		Edge: rec.Edge, Received: time.UnixMilli(rec.Received), Now: time.Now(), Group: group,
		Recorded: &series.Decision{TTL: series.TTL(rec.TTL), MinTTL: series.TTL(rec.MinTTL), MaxTTL: series.TTL(rec.MaxTTL)},
		Terms:    series.Terms{Forced: rec.Forced},
	}, raw)
	if err != nil {
		return res, err
	}
	defer batch.Release()
	res = batch.Commit()
	if rec.Kind != journal.GroupDelete {
		p.h.saw(rec.Edge, time.UnixMilli(rec.Received), &res)
	}
	return res, nil
}

// Wipe ends all groups, of everybody. The journal has it when it returns. While the
// relay starts or stops the error is ErrNotNow.
func (p *Pusher) Wipe(ctx context.Context) error {
	if !p.h.enterReady() {
		return ErrNotNow
	}
	defer p.h.inflight.Done()
	rec := &journal.Record{Kind: journal.Wipe, Received: time.Now().UnixMilli()}
	if p.h.opts.Shared {
		return p.h.opts.Journal.Append(ctx, rec, func() { p.replay(rec) })
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.h.opts.Journal == nil {
		p.wipe(rec)
		return nil
	}
	return p.h.opts.Journal.Append(ctx, rec, func() { p.wipe(rec) })
}

// wipe ends all groups that are known. In turn.
func (p *Pusher) wipe(rec *journal.Record) {
	store := p.h.opts.Store
	for _, g := range store.Groups() {
		g.Ends = series.EndsAll
		b := store.NewBatch(series.Request{
			Edge: g.Edge, Received: time.UnixMilli(rec.Received), Now: time.Now(), Group: &g,
			Recorded: &series.Decision{TTL: 1, MinTTL: 1, MaxTTL: series.Forever},
		})
		b.Commit()
		b.Release()
	}
}

// groupLabels reads the grouping key of a path, as the Pushgateway does, into
// canonical packed form.
func groupLabels(path string) ([]byte, error) {
	parts := strings.Split(path, "/")
	if len(parts)%2 != 0 {
		return nil, fmt.Errorf("the path has an odd number of parts behind %s: want job/<job>{/<label>/<value>}", pushRoot)
	}
	labels := map[string]string{}
	for i := 0; i < len(parts); i += 2 {
		name, encoded := strings.CutSuffix(parts[i], "@base64")
		value := parts[i+1]
		if i == 0 && name != "job" {
			return nil, fmt.Errorf("the path begins with %.60q: want job", parts[0])
		}
		if unescaped := model.UnescapeName(name, model.ValueEncodingEscaping); strings.HasPrefix(name, "U__") {
			name = unescaped
		}
		if !model.UTF8Validation.IsValidLabelName(name) || strings.HasPrefix(name, "__") {
			return nil, fmt.Errorf("improper label name %.60q", name)
		}
		if encoded {
			raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("invalid base64 encoding for label %s=%.60q: %v", name, value, err)
			}
			value = string(raw)
		}
		if _, twice := labels[name]; twice && name == "job" {
			continue // the first part is the job
		}
		labels[name] = value
	}
	if labels["job"] == "" {
		return nil, errors.New("job name is required")
	}
	names := make([]string, 0, len(labels))
	for name := range labels {
		names = append(names, name)
	}
	slices.Sort(names)
	var packed []byte
	for _, name := range names {
		packed = series.AppendPair(packed, name, labels[name])
	}
	return packed, nil
}

// The formats of a body, as the journal calls them.
const (
	formatText        = "text/plain"
	formatOpenMetrics = "application/openmetrics-text"
	formatProtobuf    = "application/vnd.google.protobuf"
)

// pushFormat is the format of a Content-Type. An unknown one is text: curl sends a
// form's.
func pushFormat(contentType string) string {
	media, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
	case media == formatOpenMetrics:
		return formatOpenMetrics
	case media == formatProtobuf && params["encoding"] == "delimited" && params["proto"] == "io.prometheus.client.MetricFamily":
		return formatProtobuf
	}
	return formatText
}

// inflate undoes the compression of a body; give returns the room that it takes.
// Unknown encodings are none, as in the Pushgateway.
func (h *Handler) inflate(ctx context.Context, encoding string, from *buffer) (raw []byte, give func(), bad *refusal) {
	body, share := from.bytes(), from.share
	var in io.Reader
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "gzip":
		in, err = gzip.NewReader(bytes.NewReader(body))
	case "snappy":
		in = snappy.NewReader(bytes.NewReader(body))
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(h.opts.RequestBytes)), zstd.WithDecoderMaxWindow(8<<20)); err == nil {
			defer d.Close()
			in = d
		}
	default:
		return body, func() {}, nil
	}
	undone := func(err error) *refusal {
		return refuse(http.StatusBadRequest, "content_encoding", "cannot undo Content-Encoding %.20q: %v", encoding, err)
	}
	if err != nil {
		return nil, nil, undone(err)
	}
	room := int64(0)
	give = func() { share.give(room) }
	const chunk = 256 << 10
	for {
		if int64(len(raw)) > h.opts.RequestBytes {
			give()
			return nil, nil, refuse(http.StatusBadRequest, "decoded_bytes", "the body is over %d bytes when decoded: --limits.request-bytes", h.opts.RequestBytes)
		}
		if cap(raw)-len(raw) < chunk {
			more := int64(max(chunk, cap(raw)))
			if bad := share.take(ctx, more); bad != nil {
				give()
				return nil, nil, bad
			}
			room += more
			raw = slices.Grow(raw, int(more))
		}
		n, err := in.Read(raw[len(raw):cap(raw)])
		raw = raw[:len(raw)+n]
		switch {
		case err == io.EOF && int64(len(raw)) <= h.opts.RequestBytes:
			return raw, give, nil
		case err != nil && err != io.EOF:
			give()
			return nil, nil, undone(err)
		}
	}
}
