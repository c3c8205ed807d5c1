package ingest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"relay/edges"
	"relay/journal"
	"relay/series"
)

// What the relays of the model test have in common. The rest is in flagSets.
const (
	modelLag      = 20 * time.Second
	modelLookback = 50 * time.Second
)

// flagSets are what a relay may be restarted with. What was taken under other flags
// stays as it was.
var flagSets = []struct {
	ttl, minTTL, maxTTL, push string // --series.ttl, -min, -max; --push.ttl
	future                    time.Duration
	site                      string // with an edges file: what it forces beside the edge's name
}{
	{"1m", "1s", "inf", "inf", 100 * time.Second, "a"},
	{"10s", "5s", "15m", "30s", time.Second, "a"},
	{"inf", "1s", "40s", "40s", 1000 * time.Second, "b"},
}

// Senders: two edges of their own, and the two replicas of a pair.
var senders = []struct{ edge, login, replica string }{
	{"solo", "solo", ""}, {"other", "other", ""}, {"duo", "duo1", "r1"}, {"duo", "duo2", "r2"},
}

// A modelStep is what happens next, some time after what happened last.
type modelStep struct {
	wait time.Duration
	what string // write, PUT, POST, DELETE, forget, checkpoint, sweep, restart

	by      int // of senders
	job     int // of a push to a group
	ttl     string
	inQuery bool
	v2      bool
	fails   bool // the journal takes nothing
	said    []modelSample

	lag   int // records that a checkpoint has and that are replayed all the same
	flags int // of flagSets
}

// A modelSample is a sample of a request: its time is that of the request less ago,
// on the full five seconds if even, so that times meet.
type modelSample struct {
	name, job int
	ago       time.Duration
	even      bool
	value     float64 // a stale marker if NaN
	ttl       string  // label __ttl__
}

func (s modelStep) String() string {
	text := fmt.Sprintf("%v later %s", s.wait, s.what)
	switch s.what {
	case "sweep":
	case "checkpoint":
		text += fmt.Sprintf(" lag=%d", s.lag)
	case "restart":
		text += fmt.Sprintf(" flags=%d", s.flags)
	case "forget":
		text += fmt.Sprintf(" m%d", s.job)
	default:
		text += fmt.Sprintf(" by=%s ttl=%q", senders[s.by].login, s.ttl)
		if s.inQuery {
			text += " inQuery"
		}
		if s.what != "write" {
			text += fmt.Sprintf(" job=j%d", s.job)
		} else if s.v2 {
			text += " v2"
		}
		if s.fails {
			text += " fails"
		}
		for _, x := range s.said {
			text += fmt.Sprintf("\n    m%d{job=j%d} %v @-%v even=%v __ttl__=%q", x.name, x.job, x.value, x.ago, x.even, x.ttl)
		}
	}
	return "\n  " + text
}

// modelSteps makes steps from a seed.
func modelSteps(seed uint64, n int) (steps []modelStep) {
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	whats := []string{"write", "write", "write", "write", "write", "write", "forget", "checkpoint", "sweep", "restart"}
	if seed%3 != 0 { // without groups all that is held is known
		whats = append(whats, "PUT", "POST", "POST", "DELETE")
	}
	began, now := []time.Duration{}, time.Duration(0)
	for i := range n {
		s := modelStep{
			wait: []time.Duration{0, 0, 1, 1000, 5000, 5000, 11000, 16000, 35000, 80000, 600_000}[rng.IntN(11)] * time.Millisecond,
			what: pick(whats...), by: rng.IntN(len(senders)), job: rng.IntN(3), inQuery: rng.IntN(2) == 0, v2: rng.IntN(2) == 0,
			lag: rng.IntN(4), flags: rng.IntN(len(flagSets)),
		}
		s.ttl = pick("", "", "2s", "5s", "20s", "1m", "10m", "30m", "inf")
		count := 1 + rng.IntN(4)
		switch s.what {
		case "write":
		case "PUT", "POST", "DELETE":
			s.by = rng.IntN(2) // a pair has no groups
			count = rng.IntN(4)
		default:
			count = 0
		}
		s.fails = s.what != "DELETE" && rng.IntN(12) == 0 // a DELETE of what is forgotten is not stored
		onlyStale := rng.IntN(8) == 0
		for range count {
			x := modelSample{name: rng.IntN(4), job: rng.IntN(2), value: float64(1 + rng.IntN(3)), even: rng.IntN(2) == 0}
			x.ago = []time.Duration{0, 0, 0, 0, 1, 5, 20, 24, 40, 65, 80, 300, -30, -90, -200}[rng.IntN(15)] * time.Second
			if s.by >= 2 {
				x.ago = max(x.ago, 0) // three edges that are ahead would mean that the relay's clock is behind
			}
			if onlyStale || rng.IntN(8) == 0 {
				x.value = math.NaN()
			}
			if rng.IntN(6) == 0 {
				x.ttl = pick("3s", "15s", "2m", "1h", "inf", "0")
			}
			s.said = append(s.said, x)
		}
		now += s.wait
		began = append(began, now)
		// Again what was sent lately, perhaps by another one, or with other values.
		if back := max(0, i-1-rng.IntN(6)); i > 0 && s.what == "write" && steps[back].what == "write" && rng.IntN(2) == 0 {
			s.said = slices.Clone(steps[back].said)
			other := rng.IntN(3) == 0
			for k := range s.said {
				x := &s.said[k]
				if x.ago += now - began[back]; other {
					x.value = float64(1 + rng.IntN(3))
				}
				if s.by >= 2 {
					x.ago = max(x.ago, 0)
				}
			}
		}
		steps = append(steps, s)
	}
	return steps
}

// A told is one thing that was said of a series: a sample, a push to a group, or that
// it is to go. Times and TTLs are in ms.
type told struct {
	kind        toldKind
	received, t int64
	v           uint64 // bits
	ttl         int64  // math.MaxInt64: for ever
	edge, group string // who said it
}

type toldKind string

const (
	wrote   toldKind = "remote write"
	pushed  toldKind = "a push to a group"
	ended   toldKind = "its group ended without it"
	deleted toldKind = "deleted by request"
)

func plus(a, b int64) int64 {
	if a == math.MaxInt64 || b == math.MaxInt64 {
		return math.MaxInt64
	}
	return a + b
}

const lagMs = int64(modelLag / time.Millisecond)

// These are the rules for one series, as they are written down.

func (x *told) stale() bool { return x.v == value.StaleNaN }

func (x *told) deadline() int64 { return min(plus(x.received, x.ttl), plus(x.t+lagMs, x.ttl)) }

func (x *told) live(now int64) bool {
	return (x.kind == wrote || x.kind == pushed) && !x.stale() && now < x.deadline()
}

func (x *told) remembered(now int64) bool {
	return now < plus(max(x.t, x.received)+lagMs, x.ttl)
}

func (x *told) newerThan(y *told) bool {
	switch {
	case x.t != y.t:
		return x.t > y.t
	case x.stale() != y.stale():
		return x.stale()
	case x.v != y.v:
		return x.v > y.v
	}
	return x.deadline() < y.deadline()
}

func (x *told) tooOld() bool {
	return !x.stale() && x.t < x.received-min(x.ttl, modelLookback.Milliseconds())-lagMs
}

// heals reports whether x counts although y, no longer shown, is ahead of it: y came
// from a clock that was ahead.
func (x *told) heals(y *told) bool {
	return y.t > y.received && !y.live(x.received) && x.t > y.received && (x.t != y.t || x.v != y.v)
}

// life goes through all that was said of a series, and tells what holds at the end of
// it, nil if nothing, and what became of the last thing that was said.
func life(all []told) (holds *told, outcome string) {
	for i := range all {
		x := &all[i]
		if holds != nil && !holds.remembered(x.received) {
			holds = nil
		}
		switch x.kind {
		case wrote:
			switch {
			case x.tooOld():
				outcome = "expired on arrival"
				continue
			case holds != nil && !x.newerThan(holds) && !x.heals(holds):
				outcome = "superseded"
				continue
			case x.stale():
				outcome = "ended"
			case holds != nil && !x.newerThan(holds):
				outcome = "stored, healing"
			case holds != nil && !holds.live(x.received):
				outcome = "stored, reviving"
			default:
				outcome = "stored"
			}
			holds = x
		case pushed:
			outcome, holds = "stored", x
		case ended:
			if holds != nil && holds.group == x.group && holds.kind == pushed {
				gone := *x
				gone.v = holds.v // it keeps its place among samples of the same time
				holds = &gone
			}
		case deleted:
			if holds != nil && holds.t <= x.t {
				gone := *x
				gone.edge, gone.group = holds.edge, holds.group
				holds = &gone
			}
		}
	}
	return holds, outcome
}

// A naive is the model of a relay: all that was ever said, by series, and of edges and
// pairs what they brought.
type naive struct {
	withFile bool
	flags    int
	said     map[string][]told // by labels, as they are printed
	packed   map[string][]byte
	pusher   map[string]string // who last pushed to a group
	pairs    map[string][]heard
	seen     map[string]heard // the last request of an edge of which something was accepted
	did      map[string]int   // what the test has come across
}

// heard is what was taken of a request.
type heard struct {
	replica               string
	received, ttl, newest int64
}

// labels of a series that a sender speaks of, or a group.
func (m *naive) labels(by int, name, job string) (printed string, packed []byte) {
	pairs := [][2]string{{"__name__", name}, {"job", job}}
	if from := senders[by]; m.withFile {
		pairs = append(pairs, [2]string{"edge", from.edge}, [2]string{"site", flagSets[m.flags].site})
	} else if from.replica != "" {
		pairs = append(pairs, [2]string{"cluster", "c"})
	}
	packed = series.CanonicalLabels(pairs)
	return series.FormatLabels(packed), packed
}

// tell adds what was said of a series.
func (m *naive) tell(key string, packed []byte, x told) (outcome string) {
	m.said[key], m.packed[key] = append(m.said[key], x), packed
	_, outcome = life(m.said[key])
	m.did[outcome]++
	return outcome
}

// granted is the TTL that is asked for first, within the bounds, in ms.
func (m *naive) granted(by int, push bool, asked ...string) int64 {
	f := flagSets[m.flags]
	lo, hi := modelTTL(f.minTTL), modelTTL(f.maxTTL)
	if m.withFile && senders[by].edge == "other" {
		asked = append(asked, "90s")
		hi = min(hi, modelTTL("2m"))
		lo = min(lo, hi)
	}
	if push {
		asked = append(asked, f.push)
	}
	for _, s := range append(asked, f.ttl) {
		if s != "" {
			return min(max(modelTTL(s), lo), hi)
		}
	}
	panic("no TTL")
}

func modelTTL(s string) int64 {
	if s == "inf" {
		return math.MaxInt64
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d.Milliseconds()
}

// listens reports whether a request of a replica is taken: the first is; then one of
// the same replica; one of another when nothing came for more than half of the TTL,
// 30 s at most, and only if it has values and all is newer than what was taken, or all
// of that has expired.
func (m *naive) listens(pair, replica string, now int64, times []int64, values int) bool {
	all := m.pairs[pair]
	if len(all) == 0 {
		return true
	}
	last, newest := all[len(all)-1], int64(math.MinInt64)
	for _, x := range all {
		newest = max(newest, x.newest)
	}
	silent := now - last.received
	switch {
	case last.replica == replica:
		return true
	case values == 0 || silent <= min(30_000, last.ttl/2):
		return false
	}
	return slices.Min(times) > newest || silent > last.ttl
}

// holds is what holds of a series now; nil if nothing does.
func (m *naive) holds(key string, now int64) *told {
	x, _ := life(m.said[key])
	if x == nil || !x.remembered(now) {
		return nil
	}
	return x
}

// page is what is to be shown, and what is to be known of each series.
func (m *naive) page(now int64) (lines []string, fates map[string]series.Fate) {
	fates = map[string]series.Fate{}
	for key := range m.said {
		x := m.holds(key, now)
		switch {
		case x == nil:
			continue
		case x.live(now):
			edge := x.edge
			if x.group != "" {
				edge = m.pusher[x.group]
			}
			lines = append(lines, fmt.Sprintf("%s %v @%d ttl=%d of %s, group %q", key, math.Float64frombits(x.v), x.t, x.ttl, edge, x.group))
			fates[key] = series.FateLive
		case x.kind == ended || x.kind == deleted:
			fates[key] = series.FateDeleted
		case x.stale():
			fates[key] = series.FateEnded
		default:
			fates[key] = series.FateExpired
		}
	}
	slices.Sort(lines)
	return lines, fates
}

// A modelPage has the lines that a naive has.
type modelPage struct{ list []string }

func (p *modelPage) BeginFamily(*series.Family) {}
func (p *modelPage) EndFamily(*series.Family)   {}
func (p *modelPage) Flush() error               { return nil }
func (p *modelPage) Series(_ *series.Family, s *series.Series) {
	if strings.HasPrefix(s.Name, "push_") { // what a push says of itself
		return
	}
	group := ""
	if scope, labels, ok := s.GroupKey(); ok {
		group = scope + "/" + series.FormatLabels(labels)
	}
	p.list = append(p.list, fmt.Sprintf("%s %v @%d ttl=%d of %s, group %q", s, s.Value, s.Time, s.TTL, s.Edge, group))
}

// A stored is a journal that keeps the bytes of its records.
type stored struct {
	records [][]byte
	fails   bool
}

func (j *stored) Append(_ context.Context, r *journal.Record, apply func()) error {
	if j.fails {
		return errors.New("the disk is full")
	}
	b, err := r.MarshalBinary()
	if err != nil {
		return err
	}
	j.records = append(j.records, b)
	apply()
	return nil
}

// A subject is the relay that is compared with the model.
type subject struct {
	file   func(site string) *edges.Guard // nil: open
	h      *Handler
	push   *Pusher
	store  *series.Store
	edges  *edges.Registry
	j      stored
	pieces [][]byte // of the last checkpoint
	cut    int      // records that it has
	swept  int      // records at the last sweep: none frees anything while a checkpoint is made
}

// restart begins anew, with what was stored.
func (r *subject) restart(flags int) error {
	f := flagSets[flags]
	ttl := func(s string) series.TTL { return series.TTL(modelTTL(s)) }
	r.store = series.New(series.Options{
		DefaultTTL: ttl(f.ttl), MinTTL: ttl(f.minTTL), MaxTTL: ttl(f.maxTTL),
		LagTolerance: modelLag, Lookback: modelLookback, FutureTolerance: f.future,
	})
	opts := Options{Store: r.store, Journal: &r.j}
	if r.file != nil {
		opts.Guard = r.file(f.site)
	} else {
		opts.HALabels = true
	}
	opts.Edges = edges.New(24*time.Hour, 10, opts.Guard)
	r.h, r.edges = New(opts), opts.Edges
	r.push = r.h.Pusher(ttl(f.push))
	for _, p := range r.pieces {
		var err error
		if edges.IsPiece(p) {
			err = r.edges.Load(p)
		} else {
			err = r.store.Load(p, time.Now())
		}
		if err != nil {
			return err
		}
	}
	for _, b := range r.j.records[r.cut:] {
		var rec journal.Record
		if err := rec.UnmarshalBinary(b); err != nil {
			return err
		}
		if err := r.h.Replay(&rec); err != nil {
			return err
		}
		for range 3 { // the relay sweeps while it replays
			if at, ok := r.h.ReplayedUpTo(time.Now()); ok {
				r.store.Sweep(at)
			}
		}
	}
	r.swept = len(r.j.records)
	return nil
}

func (r *subject) checkpoint(lag int) error {
	r.cut, r.pieces = max(r.cut, r.swept, len(r.j.records)-lag), nil
	keep := func(p []byte) error {
		r.pieces = append(r.pieces, bytes.Clone(p))
		return nil
	}
	return errors.Join(r.store.Dump(keep), r.edges.Dump(keep))
}

// counts are the outcomes of samples so far.
func (r *subject) counts() (n [5]int) {
	m := r.h.metrics
	for i, c := range []prometheus.Counter{m.stored, m.superseded, m.ended, m.expired, m.deduplicated} {
		var d dto.Metric
		c.Write(&d)
		n[i] = int(d.GetCounter().GetValue())
	}
	return n
}

// outcomes are the same of one request, by the model.
func outcomes(n map[string]int) [5]int {
	return [5]int{n["stored"] + n["stored, reviving"] + n["stored, healing"], n["superseded"], n["ended"], n["expired on arrival"], n["deduplicated"]}
}

// againstModel runs steps on a relay and on the model of one, in a bubble of its own
// time, and says where they differ.
func againstModel(t *testing.T, steps []modelStep, file func(string) *edges.Guard, did map[string]int) (err error) {
	synctest.Test(t, func(*testing.T) { err = inBubble(steps, file, did) })
	return err
}

func inBubble(steps []modelStep, file func(string) *edges.Guard, did map[string]int) error {
	r := &subject{file: file}
	m := &naive{withFile: file != nil, said: map[string][]told{}, packed: map[string][]byte{}, pusher: map[string]string{}, pairs: map[string][]heard{}, seen: map[string]heard{}, did: did}
	if err := r.restart(0); err != nil {
		return err
	}
	grouped := slices.ContainsFunc(steps, func(s modelStep) bool { return slices.Contains([]string{"PUT", "POST", "DELETE"}, s.what) })
	for i, s := range steps {
		time.Sleep(s.wait)
		if err := m.step(r, s, !grouped); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if err := m.compare(r); err != nil {
			return fmt.Errorf("after step %d: %w", i, err)
		}
	}
	return nil
}

// compare scrapes, and looks at each series and edge.
func (m *naive) compare(r *subject) error {
	now := time.Now()
	want, fates := m.page(now.UnixMilli())
	var got modelPage
	if err := r.store.Scan(now, series.Query{}, &got); err != nil {
		return err
	}
	slices.Sort(got.list)
	if !slices.Equal(got.list, want) {
		return fmt.Errorf("shown is\n  %s\nwant\n  %s", strings.Join(got.list, "\n  "), strings.Join(want, "\n  "))
	}
	for key, packed := range m.packed {
		past, _ := r.store.Lookup(now, packed)
		if past.Fate != fates[key] {
			return fmt.Errorf("%s is %q, want %q; was told %+v", key, past.Fate, fates[key], m.said[key])
		}
	}
	for _, from := range senders {
		last, known := m.seen[from.edge]
		want := !known || now.UnixMilli() >= plus(last.received, last.ttl)
		if got := r.edges.Silent(from.edge, now); got != want {
			return fmt.Errorf("edge %s is silent: %v, want %v", from.edge, got, want)
		}
	}
	return nil
}

func (m *naive) step(r *subject, s modelStep, allKnown bool) error {
	now := time.Now().UnixMilli()
	switch s.what {
	case "write":
		return m.write(r, s, now)
	case "PUT", "POST", "DELETE":
		return m.pushTo(r, s, now)
	case "forget":
		return m.forget(r, s, now)
	case "checkpoint":
		return r.checkpoint(s.lag)
	case "sweep":
		for range 3 { // the first ones spare what was just looked up
			r.store.Sweep(time.Now())
		}
		r.swept = len(r.j.records)
		if _, fates := m.page(now); allKnown && r.store.Stats(time.Now()).Held != len(fates) {
			return fmt.Errorf("%d series are held, want %d: %v", r.store.Stats(time.Now()).Held, len(fates), fates)
		}
	case "restart":
		m.flags = s.flags
		return r.restart(s.flags)
	}
	return nil
}

// send makes a request as a sender, and compares the answer.
func (s *modelStep) send(r *subject, h http.Handler, path string, body []byte, want int) error {
	req := httptest.NewRequest(cmp.Or(map[string]string{"write": "POST"}[s.what], s.what), path, bytes.NewReader(body))
	if s.v2 && s.what == "write" {
		req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
	}
	if from := senders[s.by]; r.file != nil {
		req.Header.Set("Authorization", "Bearer "+from.login)
	} else {
		req.Header.Set(EdgeHeader, from.edge)
	}
	if s.ttl != "" && s.inQuery {
		req.URL.RawQuery = "ttl=" + s.ttl
	} else if s.ttl != "" {
		req.Header.Set("X-Relay-TTL", s.ttl)
	}
	r.j.fails = s.fails
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	r.j.fails = false
	if w.Code != want {
		return fmt.Errorf("answered %d %s, want %d", w.Code, w.Body, want)
	}
	return nil
}

// at is the time of a sample of a request that is received now.
func (x *modelSample) at(now int64) int64 {
	t := now - x.ago.Milliseconds()
	if x.even {
		t -= t % 5000
	}
	return t
}

func (m *naive) write(r *subject, s modelStep, now int64) error {
	from := senders[s.by]
	one, two := &prompb.WriteRequest{}, &writev2.Request{Symbols: []string{""}}
	ref := func(s string) uint32 {
		i := slices.Index(two.Symbols, s)
		if i < 0 {
			i = len(two.Symbols)
			two.Symbols = append(two.Symbols, s)
		}
		return uint32(i)
	}
	type accepted struct {
		key    string
		packed []byte
		told
	}
	var good []accepted
	var times []int64
	values, refused := 0, 0
	for _, x := range s.said {
		t, v := x.at(now), x.value
		if math.IsNaN(v) {
			v = math.Float64frombits(value.StaleNaN)
		}
		name, job := fmt.Sprint("m", x.name), fmt.Sprint("j", x.job)
		sent := []prompb.Label{{Name: "__name__", Value: name}, {Name: "job", Value: job}}
		if m.withFile {
			sent = append(sent, prompb.Label{Name: "edge", Value: "a liar"})
		}
		if !m.withFile && from.replica != "" {
			sent = append(sent, prompb.Label{Name: "cluster", Value: "c"}, prompb.Label{Name: "__replica__", Value: from.replica})
		}
		if x.ttl != "" {
			sent = append(sent, prompb.Label{Name: "__ttl__", Value: x.ttl})
		}
		one.Timeseries = append(one.Timeseries, prompb.TimeSeries{Labels: sent, Samples: []prompb.Sample{{Value: v, Timestamp: t}}})
		series2 := writev2.TimeSeries{Samples: []writev2.Sample{{Value: v, Timestamp: t}}}
		for _, l := range sent {
			series2.LabelsRefs = append(series2.LabelsRefs, ref(l.Name), ref(l.Value))
		}
		two.Timeseries = append(two.Timeseries, series2)

		if x.ttl == "0" || t > now+flagSets[m.flags].future.Milliseconds() {
			refused++
			continue
		}
		a := accepted{told: told{kind: wrote, received: now, t: t, v: math.Float64bits(v), ttl: m.granted(s.by, false, x.ttl, s.ttl), edge: from.edge}}
		a.key, a.packed = m.labels(s.by, name, job)
		good = append(good, a)
		times = append(times, t)
		if !a.stale() {
			values++
		}
	}
	m.did["refused"] += refused
	code := http.StatusNoContent
	n := map[string]int{}
	switch {
	case from.replica != "" && !m.listens(from.edge, from.replica, now, times, values):
		if code = http.StatusAccepted; refused > 0 {
			code = http.StatusBadRequest // its sender is to know
		}
		n["deduplicated"] = len(good)
		m.did["deduplicated"] += len(good)
	case s.fails && len(good) > 0:
		code = http.StatusServiceUnavailable
	default:
		if refused > 0 {
			code = http.StatusBadRequest
		}
		for _, a := range good {
			n[m.tell(a.key, a.packed, a.told)]++
		}
		if len(good) > 0 {
			x := heard{from.replica, now, m.granted(s.by, false, s.ttl), slices.Max(times)}
			m.seen[from.edge] = x
			if all := m.pairs[from.edge]; from.replica != "" {
				if len(all) > 0 && all[len(all)-1].replica != from.replica {
					m.did["failover"]++
				}
				m.pairs[from.edge] = append(all, x)
			}
		}
	}
	var body []byte
	if s.v2 {
		body, _ = two.Marshal()
	} else {
		body, _ = one.Marshal()
	}
	before := r.counts()
	if err := s.send(r, r.h, Paths[0], snappy.Encode(nil, body), code); err != nil {
		return err
	}
	after := r.counts()
	for i := range after {
		after[i] -= before[i]
	}
	if want := outcomes(n); after != want {
		return fmt.Errorf("stored, superseded, ended, expired on arrival, deduplicated: %d, want %d", after, want)
	}
	return nil
}

// pushTo pushes to a group: PUT replaces it, POST its families, each of which has one
// series here.
func (m *naive) pushTo(r *subject, s modelStep, now int64) error {
	from, job := senders[s.by], fmt.Sprint("j", s.job)
	group := "/" + series.FormatLabels(series.CanonicalLabels([][2]string{{"job", job}}))
	if m.withFile {
		group = from.edge + group
	}
	byName := map[string]float64{}
	for _, x := range s.said {
		if !math.IsNaN(x.value) {
			byName[fmt.Sprint("m", x.name)] = x.value
		}
	}
	var body strings.Builder
	code := http.StatusOK
	if s.what == "DELETE" {
		code = http.StatusAccepted
		clear(byName)
	}
	if s.fails {
		code = http.StatusServiceUnavailable
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		fmt.Fprintf(&body, "%s %v\n", name, byName[name])
	}
	if !s.fails {
		if s.what != "DELETE" {
			m.pusher[group] = from.edge
			m.seen[from.edge] = heard{"", now, m.granted(s.by, true, s.ttl), now}
		}
		in := map[string]bool{}
		for name, v := range byName {
			key, packed := m.labels(s.by, name, job)
			in[key] = true
			m.tell(key, packed, told{kind: pushed, received: now, t: now, v: math.Float64bits(v), ttl: m.granted(s.by, true, s.ttl), edge: from.edge, group: group})
		}
		for key, packed := range m.packed {
			x := m.holds(key, now)
			name, _ := series.LabelValue(packed, "__name__")
			if _, family := byName[name]; !in[key] && (family || s.what != "POST") && x != nil && x.kind == pushed && x.group == group {
				m.tell(key, packed, told{kind: ended, received: now, t: now, ttl: lagMs, edge: from.edge, group: group})
			}
		}
	}
	return s.send(r, r.push, "/metrics/job/"+job, []byte(body.String()), code)
}

// forget deletes the series of a name that are shown.
func (m *naive) forget(r *subject, s modelStep, now int64) error {
	name := fmt.Sprint("m", s.job)
	want := 0
	for key, packed := range m.packed {
		if is, _ := series.LabelValue(packed, "__name__"); is != name {
			continue
		}
		if x := m.holds(key, now); x != nil && x.live(now) {
			m.tell(key, packed, told{kind: deleted, received: now, t: max(now, x.t), v: value.StaleNaN, ttl: modelLookback.Milliseconds() + lagMs})
			want++
		}
	}
	got, err := r.h.Delete(context.Background(), named(name), false)
	if err == nil && got != want {
		err = fmt.Errorf("%d series were deleted, want %d", got, want)
	}
	return err
}

// modelFiles writes the edges files of the model's relays, one for each site.
func modelFiles(t *testing.T) func(site string) *edges.Guard {
	dir := t.TempDir()
	for _, f := range flagSets {
		var text strings.Builder
		text.WriteString("edges:\n")
		for _, s := range senders {
			fmt.Fprintf(&text, "- name: %s\n  authorization: {credentials_sha256: %x}\n  labels: {site: %s}\n", s.login, sha256.Sum256([]byte(s.login)), f.site)
			if s.edge != s.login {
				fmt.Fprintf(&text, "  ha: {group: %s}\n", s.edge)
			}
			if s.edge == "other" {
				text.WriteString("  ttl: 90s\n  ttl_max: 2m\n")
			}
		}
		if err := os.WriteFile(filepath.Join(dir, f.site), []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	return func(site string) *edges.Guard {
		g, err := edges.NewGuard(filepath.Join(dir, site), log, nil)
		if err != nil {
			panic(err)
		}
		return g
	}
}

// TestAgainstModel makes random requests of edges and of a pair of replicas, late,
// early, repeated and ended, pushes to groups, deletes, checkpoints, sweeps and restarts,
// at random times, and compares each answer and each page with what the rules say. A
// failure is made shorter before it is shown. RELAY_MODEL=1m looks for that long,
// RELAY_SEED=n at one run.
func TestAgainstModel(t *testing.T) {
	seed, n, until := uint64(time.Now().UnixNano()), 60, time.Time{}
	if s := os.Getenv("RELAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		n = 1
	} else if s := os.Getenv("RELAY_MODEL"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		until = time.Now().Add(d)
	}
	files := modelFiles(t)
	did := map[string]int{}
	runs := 0
	for ; runs < n || time.Now().Before(until); runs++ {
		file := files
		if seed%2 == 0 {
			file = nil
		}
		steps := modelSteps(seed, 120)
		if err := againstModel(t, steps, file, did); err != nil {
			steps, err = shorter(steps, err, func(steps []modelStep) error { return againstModel(t, steps, file, map[string]int{}) })
			t.Fatalf("RELAY_SEED=%d, run %d, edges file: %v: %v\nin %d steps: %v", seed, runs+1, file != nil, err, len(steps), steps)
		}
		seed++
	}
	t.Logf("%d runs came across %v", runs, did)
	for _, what := range []string{"stored", "stored, reviving", "stored, healing", "superseded", "ended", "expired on arrival", "deduplicated", "failover", "refused"} {
		if n > 1 && did[what] == 0 {
			t.Errorf("no run came across: %s", what)
		}
	}
}

// shorter leaves out what a failure does not need: steps, then parts of them.
func shorter(steps []modelStep, err error, run func([]modelStep) error) ([]modelStep, error) {
	try := func(rest []modelStep) bool {
		e := run(rest)
		if e != nil {
			steps, err = rest, e
		}
		return e != nil
	}
	for size := len(steps) / 2; size > 0; size /= 2 {
		for from := 0; from+size <= len(steps); {
			if !try(slices.Concat(steps[:from], steps[from+size:])) {
				from += size
			}
		}
	}
	for i := range steps {
		with := func(s modelStep) []modelStep {
			rest := slices.Clone(steps)
			rest[i] = s
			return rest
		}
		for k := 0; k < len(steps[i].said); {
			s := steps[i]
			if s.said = slices.Delete(slices.Clone(s.said), k, k+1); !try(with(s)) {
				k++
			}
		}
		if s := steps[i]; s.ttl != "" {
			s.ttl = ""
			try(with(s))
		}
		if s := steps[i]; s.wait != 0 {
			s.wait = 0
			try(with(s))
		}
	}
	return steps, err
}

// A failure that needs two steps of many, and of those one sample, is shown as that.
func TestShorter(t *testing.T) {
	fails := func(steps []modelStep) error {
		put := slices.IndexFunc(steps, func(s modelStep) bool { return s.what == "PUT" && len(s.said) > 0 })
		if put >= 0 && slices.ContainsFunc(steps[put:], func(s modelStep) bool { return s.what == "restart" }) {
			return fmt.Errorf("in %d steps", len(steps))
		}
		return nil
	}
	steps := modelSteps(1, 200)
	short, err := shorter(steps, fails(steps), fails)
	if len(short) != 2 || err == nil || err.Error() != "in 2 steps" || len(short[0].said) != 1 {
		t.Errorf("%v, of %d steps %v", err, len(short), short)
	}
}
