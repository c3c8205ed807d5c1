package edges

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"relay/series"
)

// A State says how an edge is doing.
type State string

// The states.
const (
	Live    State = "live"
	Late    State = "late"    // past half the TTL of its last accepted request
	Silent  State = "silent"  // past all of it, or never seen
	Refused State = "refused" // nothing of its last request was taken
)

// A Report is what is known of an edge at one time. What is learned and counted
// starts anew with the process; when an edge was last seen does not.
type Report struct {
	Edge
	State      State
	Configured bool // in the edges file
	MaxSeries  int  // that it may hold by the edges file; 0: no limit of its own

	Newest time.Time // time of its newest sample of late; zero: not known

	// Skew is how far ahead of the relay's clock the edge's seems to be: the most that
	// the newest sample of a request was ahead of its receive time, of the last few
	// requests. What samples wait at the edge, some seconds mostly, counts as behind,
	// and so does a backlog. Valid if Skewed.
	Skew   time.Duration
	Skewed bool

	// Interval is how often its series come: the median of the last times between two
	// samples of one series or, where none was there before, between bursts of
	// requests. 0: not known.
	Interval time.Duration

	SamplesPerSecond, RequestsPerSecond float64 // accepted, and all; over the last minute

	// Since the start of the process.
	Samples, Requests uint64
	RefusedSamples    map[string]uint64 // by series.Reason
	RefusedRequests   map[string]uint64 // as a whole, by reason
	LastRefusal       *Refusal          // nil: none
}

// A Refusal is something of an edge's that was refused.
type Refusal struct {
	Edge   string
	At     time.Time
	Code   int    // of the answer
	Reason string // as in the metrics
	Series string // the first that was refused, as series.FormatLabels; "": the request as a whole
	Detail string // what happened and which setting changes it
}

// activity is what an edge did lately.
type activity struct {
	accepted sight // the last request of which something was accepted
	refused  int64 // when nothing was taken of the last request, ms; 0: something was
	claimed  int64 // when somebody was refused who only said to be the edge, ms

	late      [8]arrival // of the last requests, a ring
	intervals [32]uint32 // ms, a ring; with gapBit: between requests
	arrivals  uint32     // requests in late
	learned   uint32     // in intervals
	arrived   int64      // last accepted request, ms

	pace              pace
	samples, requests uint64
	refusedSamples    map[string]uint64
	refusedRequests   map[string]uint64
	last              *Refusal
}

// An arrival is when a request came, and the time of its newest sample.
type arrival struct {
	at, newest int64 // ms
	refused    bool  // the newest sample, at least
}

const maxSkew = 10 * 365 * 24 * 3600 * 1000 // ms: what is more is not told apart

// gapBit marks an interval between requests, not samples of one series.
const gapBit = 1 << 31

// Bounds of what strangers can make the registry hold.
const (
	maxStrangers = 256  // edges of which nothing was ever accepted
	maxRefusals  = 4096 // series, for Refusal
)

// pace counts what came in the last minute, in buckets of ten seconds.
type pace struct {
	began   int64 // ms
	current int64 // number of the newest bucket
	samples [paceBuckets]uint32
	reqs    [paceBuckets]uint32
}

const (
	paceBuckets = 7
	paceBucket  = 10_000 // ms
)

// turn moves on to the bucket of a time.
func (p *pace) turn(now int64) {
	if p.began == 0 {
		p.began = now
	}
	n := now / paceBucket
	if n <= p.current {
		return // or it was overtaken: see notAfter
	}
	for i := max(p.current+1, n-paceBuckets+1); i <= n; i++ {
		p.samples[i%paceBuckets], p.reqs[i%paceBuckets] = 0, 0
	}
	p.current = n
}

func (p *pace) add(now int64, samples int) {
	p.turn(now)
	p.samples[p.current%paceBuckets] += uint32(samples)
	p.reqs[p.current%paceBuckets]++
}

func (p *pace) perSecond(now int64) (samples, requests float64) {
	p.turn(now)
	from := max(p.began, (p.current-paceBuckets+1)*paceBucket)
	over := float64(max(now-from, paceBucket)) / 1000
	for i := range paceBuckets {
		samples += float64(p.samples[i])
		requests += float64(p.reqs[i])
	}
	return samples / over, requests / over
}

// notAfter is Registry.NotAfter for one edge.
func (a *activity) notAfter(now int64) {
	a.accepted.At, a.arrived = min(a.accepted.At, now), min(a.arrived, now)
	a.refused, a.claimed = min(a.refused, now), min(a.claimed, now)
	if a.pace.current > now/paceBucket {
		a.pace = pace{}
	}
}

// Took notes a request that was read: who sent it, when it was received, how it was
// answered, and what became of it. Of one of which something was accepted it does
// what Saw does.
func (r *Registry) Took(name string, received time.Time, code int, res *series.Result) {
	at := received.UnixMilli()
	accepted := res.Samples + res.Histograms
	taken := accepted+res.Exemplars > 0 && !res.Deduplicated
	r.mu.Lock()
	defer r.mu.Unlock()
	if taken {
		r.sawLocked(name, sight{at, int64(res.Lasts())})
	}
	a := r.activityOf(name, taken || res.Deduplicated)
	a.requests++
	if res.Deduplicated {
		a.pace.add(at, 0)
		return
	}
	a.samples += uint64(accepted)
	a.pace.add(at, accepted)
	if res.Timed {
		newest := min(max(res.Newest, at-maxSkew), at+maxSkew)
		a.late[a.arrivals%uint32(len(a.late))] = arrival{at, newest, !taken || res.Rejected[series.TooFarInFuture] > 0}
		a.arrivals++
	}
	if taken {
		a.accepted, a.refused = sight{at, int64(res.Lasts())}, 0
		a.learn(at, res.Interval)
	}
	if res.First == nil {
		return
	}
	if !taken {
		a.refused = at
	}
	for reason, n := range res.Rejected {
		if n > 0 {
			if a.refusedSamples == nil {
				a.refusedSamples = map[string]uint64{}
			}
			a.refusedSamples[series.Reason(reason).String()] += uint64(n)
		}
	}
	a.last = &Refusal{Edge: name, At: received, Code: code, Reason: res.First.Reason.String(), Series: res.First.Series, Detail: res.First.Detail}
	r.refusals.Add(a.last.Series, a.last)
}

// TookNothing notes a request that was refused as a whole. proven is whether it is
// from the edge for sure: anybody can say so.
func (r *Registry) TookNothing(f *Refusal, proven bool) {
	at := f.At.UnixMilli()
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.activityOf(f.Edge, false)
	if proven {
		a.requests++
		a.pace.add(at, 0)
		a.refused = at
	} else {
		a.claimed = at
	}
	if a.refusedRequests == nil {
		a.refusedRequests = map[string]uint64{}
	}
	a.refusedRequests[f.Reason]++
	a.last = f
	if f.Series != "" {
		r.refusals.Add(f.Series, f)
	}
}

// activityOf returns the activity of an edge. Without an edges file names are
// anybody's: those of which nothing was accepted yet are few, and those beyond the
// limit are one.
func (r *Registry) activityOf(name string, accepted bool) *activity {
	a := r.activities[name]
	if a != nil {
		return a
	}
	if r.guard == nil {
		if stranger, ok := r.strangers.Get(name); ok {
			a = stranger
		} else if a = (&activity{}); !accepted {
			r.strangers.Add(name, a)
		}
		if !accepted {
			return a
		}
		r.strangers.Remove(name)
		if len(r.activities) >= r.limit && name != series.OtherEdge {
			return r.activityOf(series.OtherEdge, true)
		}
	}
	if a == nil {
		a = &activity{}
	}
	r.activities[name] = a
	return a
}

// learn notes how long a series of the edge waited for its next sample or, where no
// series was there before, how long the edge did.
func (a *activity) learn(at, interval int64) {
	gap := at - a.arrived
	known := a.arrived != 0
	a.arrived = at
	switch {
	case interval > 0:
		a.intervals[a.learned%uint32(len(a.intervals))] = uint32(min(interval, gapBit-1))
	case known && gap > 0:
		a.intervals[a.learned%uint32(len(a.intervals))] = uint32(min(gap, gapBit-1)) | gapBit
	default:
		return
	}
	a.learned++
}

// interval is the median of what was learned; 0: nothing.
func (a *activity) interval() time.Duration {
	var between, gaps []uint32
	for _, ms := range a.intervals[:min(a.learned, uint32(len(a.intervals)))] {
		if ms&gapBit == 0 {
			between = append(between, ms)
		} else {
			gaps = append(gaps, ms&^gapBit)
		}
	}
	if len(between) == 0 {
		if len(gaps) < 2 {
			return 0
		}
		// A sender with several shards sends bursts: within them gaps are short. The
		// longest may be an outage.
		slices.Sort(gaps)
		long := gaps[max(0, len(gaps)-2)]
		for gaps[0] < long/4 {
			gaps = gaps[1:]
		}
		between = gaps
	}
	slices.Sort(between)
	return time.Duration(between[len(between)/2]) * time.Millisecond
}

// clock is the newest sample that was accepted of late, and how far ahead the edge's
// clock seems to be.
func (a *activity) clock() (newest, skew int64, ok bool) {
	newest, skew = math.MinInt64, math.MinInt64
	for _, l := range a.late[:min(a.arrivals, uint32(len(a.late)))] {
		if !l.refused {
			newest = max(newest, l.newest)
		}
		skew, ok = max(skew, l.newest-l.at), true
	}
	return newest, skew, ok
}

// Reports lists the edges by name, as List does, and those of which nothing was ever
// accepted, as far as they are remembered.
func (r *Registry) Reports(now time.Time) []Report {
	list := append(r.List(now), r.unlisted(now)...)
	slices.SortFunc(list, func(a, b Edge) int { return strings.Compare(a.Name, b.Name) })
	configured := map[string]int{} // the most series
	if r.guard != nil {
		for _, e := range r.guard.File().entries {
			configured[e.Name] = max(configured[e.Name], e.Terms.MaxSeries)
		}
	}
	reports := make([]Report, len(list))
	var copies [reportTurn]activity
	for rest := reports; len(list) > 0; {
		turn := list[:min(len(list), reportTurn)]
		r.mu.Lock() // in turns, so that no request waits for long
		for i, e := range turn {
			copies[i] = activity{}
			a := r.activities[e.Name]
			if a == nil {
				a, _ = r.strangers.Peek(e.Name)
			}
			if a != nil {
				copies[i] = *a
				copies[i].refusedSamples, copies[i].refusedRequests = maps.Clone(a.refusedSamples), maps.Clone(a.refusedRequests)
			}
		}
		r.mu.Unlock()
		for i, e := range turn {
			rest[i].Edge = e
			rest[i].MaxSeries, rest[i].Configured = configured[e.Name]
			copies[i].report(&rest[i], now)
		}
		list, rest = list[len(turn):], rest[len(turn):]
	}
	return reports
}

const reportTurn = 128 // edges

// unlisted are the edges that List leaves out: those beyond the limit, as one, and
// those of which nothing was ever accepted. Those that are to be forgotten are.
func (r *Registry) unlisted(now time.Time) (list []Edge) {
	named := r.named()
	r.mu.Lock()
	defer r.mu.Unlock()
	recent := func(ms int64) bool { return now.UnixMilli()-ms < r.retention.Milliseconds() }
	for name, a := range r.activities {
		_, listed := r.edges[name]
		if !listed {
			listed = named[name]
		}
		switch {
		case listed:
		case r.guard == nil && recent(a.accepted.At):
			list = append(list, Edge{Name: name, LastSeen: time.UnixMilli(a.accepted.At).UTC(), TTL: series.TTL(a.accepted.TTL).Duration(), Silent: a.accepted.silent(now)})
		default:
			delete(r.activities, name)
		}
	}
	for _, name := range r.strangers.Keys() {
		a, _ := r.strangers.Peek(name)
		_, listed := r.edges[name] // before a restart
		switch {
		case listed:
		case recent(a.refused):
			list = append(list, Edge{Name: name, Silent: true})
		default:
			r.strangers.Remove(name)
		}
	}
	return list
}

// state is the edge's by the TTL of its last accepted request alone.
func (e *Edge) state(now time.Time) State {
	switch {
	case e.Silent:
		return Silent
	case e.TTL != math.MaxInt64 && now.Sub(e.LastSeen) > e.TTL/2:
		return Late
	}
	return Live
}

// report fills in what the edge did.
func (a *activity) report(p *Report, now time.Time) {
	p.State = p.Edge.state(now)
	if a.refused > 0 || p.Silent && a.claimed > max(p.LastSeen.UnixMilli(), 0) {
		p.State = Refused
	}
	newest, skew, ok := a.clock()
	if ok {
		p.Skew, p.Skewed = time.Duration(skew)*time.Millisecond, true
	}
	if newest != math.MinInt64 {
		p.Newest = time.UnixMilli(newest).UTC()
	}
	p.Interval = a.interval()
	p.SamplesPerSecond, p.RequestsPerSecond = a.pace.perSecond(now.UnixMilli())
	p.Samples, p.Requests = a.samples, a.requests
	p.RefusedSamples, p.RefusedRequests = maps.Clone(a.refusedSamples), maps.Clone(a.refusedRequests)
	p.LastRefusal = a.last
}

// Refusal is the last time that a series was the first to be refused of a request, if
// that is remembered. name is its series.FormatLabels.
func (r *Registry) Refusal(name string) (f Refusal, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if last, ok := r.refusals.Peek(name); ok {
		return *last, true
	}
	return f, false
}

// Thresholds of warnings.
const (
	fastClock = 2 * time.Second // samples do not come before they are taken
	nearLimit = 0.85
)

// Flickers reports whether the series of the edge expire before they come again.
func (p *Report) Flickers() bool {
	return p.Interval > 0 && p.TTL > 0 && p.TTL <= p.Interval+p.Interval/10
}

// Unscraped reports whether series of the edge may expire between two scrapes; scrape
// is the centre's interval, 0 if that is not known.
func (p *Report) Unscraped(scrape time.Duration) bool { return p.TTL > 0 && p.TTL < scrape }

// Warnings say what of the edge wants a look, in words; held is how many series it
// holds, scrape how often the centre scrapes, 0 if that is not known, and lag how late
// a sample may be.
func (p *Report) Warnings(held int, scrape, lag time.Duration) []string {
	var list []string
	warn := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if p.Flickers() {
		warn("its TTL of %s is not longer than its push interval of %s: series flicker", p.TTL, p.Interval.Round(100*time.Millisecond))
	}
	if p.Unscraped(scrape) {
		warn("its TTL of %s is shorter than the centre's scrape interval of %s: series flicker, some are never scraped", p.TTL, scrape.Round(100*time.Millisecond))
	}
	if p.Skewed && p.Skew > fastClock {
		warn("its clock seems to be %s ahead of the relay's", p.Skew.Round(time.Second))
	}
	if p.Skewed && p.Skew < -lag {
		warn("its newest samples are %s old when they come: its clock is slow, or it sends a backlog", (-p.Skew).Round(time.Second))
	}
	if p.MaxSeries > 0 && float64(held) > nearLimit*float64(p.MaxSeries) {
		warn("it holds %d of %d series: limits.series in --edges.file", held, p.MaxSeries)
	}
	return list
}
