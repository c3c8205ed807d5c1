package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A history is what pushers did to a relay and what scrapes of it showed. Each
// series and each group has one pusher, so that what was done to it is a sequence;
// what is not known is what became of requests that were not answered with 2xx.
// check holds every page against it.
type history struct {
	mu     sync.Mutex
	series map[string]*pastSeries // of remote write, by name
	groups map[string]*pastGroup  // of the push API, by job
	log    *bufio.Writer          // all of it, for people
	file   *os.File
	failed int
}

// An attempt is one sample that was sent.
type attempt struct {
	at         int64 // its time, ms
	value      float64
	stale      bool
	ttl        time.Duration
	begun, end time.Time // of its request; end is zero while that is on its way
	acked      bool
}

// pastSeries is what was sent of one series, the oldest that matter first.
type pastSeries struct {
	attempts []attempt
	floor    int64 // a page has shown that what is older is superseded
}

// pastGroup is what a group may be. After an answer of 2xx it is one thing; after
// each request without it is that or what it was before.
type pastGroup struct {
	may      []groupState
	changing *groupChange // on its way
	changes  int          // how many began
	shown    map[string]float64
}

// groupState is what a group's series are, by their page's name and labels.
type groupState map[string]member

type member struct {
	value      float64
	ttl        time.Duration
	begun, end time.Time
}

// mustBe and mayBe report whether a member is shown for sure, and whether it can
// be, at some moment of a scrape.
func (m member) mustBe(read time.Time) bool { return read.Add(slack).Before(m.begun.Add(m.ttl)) }
func (m member) mayBe(begun time.Time) bool {
	return m.end.IsZero() || begun.Before(m.end.Add(m.ttl+slack))
}

// slack is for times that are rounded to milliseconds.
const slack = 5 * time.Millisecond

type groupChange struct {
	Method string
	Body   map[string]float64 // by family and label l
	TTL    time.Duration
	begun  time.Time
}

// apply is what a change makes of a state.
func (c *groupChange) apply(to groupState, end time.Time) groupState {
	out := groupState{}
	if c.Method == "POST" {
		for key, m := range to {
			family, _, _ := strings.Cut(key, " ")
			replaced := false
			for pushed := range c.Body {
				replaced = replaced || strings.HasPrefix(pushed, family+" ")
			}
			if !replaced {
				out[key] = m
			}
		}
	}
	if c.Method != "DELETE" {
		for key, v := range c.Body {
			out[key] = member{v, c.TTL, c.begun, end}
		}
	}
	return out
}

func newHistory(t *testing.T, seed uint64) *history {
	f, err := os.Create(fmt.Sprintf("%s/relay-history-%d.jsonl", os.TempDir(), seed))
	if err != nil {
		t.Fatal(err)
	}
	h := &history{series: map[string]*pastSeries{}, groups: map[string]*pastGroup{}, file: f, log: bufio.NewWriterSize(f, 1<<20)}
	t.Cleanup(func() {
		h.log.Flush()
		f.Close()
		if !t.Failed() {
			os.Remove(f.Name())
			return
		}
		t.Logf("the history is kept in %s", f.Name())
	})
	return h
}

// note adds to the log. Under mu, or where nobody else runs.
func (h *history) note(kind string, what any) {
	line, err := json.Marshal(map[string]any{"at": time.Now().Format("15:04:05.000000"), kind: what})
	if err != nil {
		panic(err)
	}
	h.log.Write(append(line, '\n'))
}

// send notes that samples are sent; answered notes what came of it.
func (h *history) send(samples map[string]attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, a := range samples {
		s := h.series[name]
		if s == nil {
			s = &pastSeries{}
			h.series[name] = s
		}
		s.attempts = append(s.attempts, a)
	}
}

func (h *history) answered(samples map[string]attempt, code int) {
	end := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	noted := map[string]string{}
	for name, a := range samples {
		list := h.series[name].attempts
		for i := range list {
			if list[i].at == a.at {
				list[i].end, list[i].acked = end, code == 204
			}
		}
		noted[name] = fmt.Sprintf("%v@%d for %s", a.value, a.at, a.ttl)
	}
	h.note("write", map[string]any{"code": code, "samples": noted})
}

// change notes that a group is being changed; changed notes what came of it.
func (h *history) change(job string, c *groupChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.groups[job]
	if g == nil {
		g = &pastGroup{may: []groupState{{}}, shown: map[string]float64{}}
		h.groups[job] = g
	}
	c.begun = time.Now()
	g.changing, g.changes = c, g.changes+1
}

func (h *history) changed(job string, code int) {
	end := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.groups[job]
	c := g.changing
	g.changing = nil
	var after []groupState
	for _, state := range g.may {
		after = append(after, c.apply(state, end))
	}
	if code != 200 && code != 202 {
		after = append(after, g.may...)
	}
	g.may = nil
	for _, state := range after { // most are equal by now
		if !slices.ContainsFunc(g.may, func(other groupState) bool { return maps.Equal(other, state) }) {
			g.may = append(g.may, state)
		}
	}
	h.note("group", map[string]any{"job": job, "code": code, "change": c, "may be": len(g.may)})
}

// uncertain reports whether too little is known of a group: its pusher then
// replaces it.
func (h *history) uncertain(job string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.groups[job]
	return g != nil && len(g.may) > 16
}

// A view is what a history was when a scrape began.
type view struct {
	begun  time.Time
	acked  map[string]attempt // the newest one of each series, if any
	groups map[string]groupView
}

type groupView struct {
	changes int
	may     []groupState
	busy    bool
}

func (h *history) view() view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := view{begun: time.Now(), acked: map[string]attempt{}, groups: map[string]groupView{}}
	for name, s := range h.series {
		for _, a := range s.attempts {
			if a.acked {
				v.acked[name] = a
			}
		}
	}
	for job, g := range h.groups {
		v.groups[job] = groupView{g.changes, g.may, g.changing != nil}
	}
	return v
}

// onPage is a line of a page.
type onPage struct {
	value float64
	at    int64
}

var (
	seriesLine = regexp.MustCompile(`^([a-z0-9_]+)\{instance=""\} (\S+) (\d+)$`)
	groupLine  = regexp.MustCompile(`^(g_[a-z]+)\{job="([a-z0-9_]+)",l="([a-z]*)",instance=""\} (\S+)$`) // without a time, as all of groups
)

// check compares a whole page with what was done before and while it was made. A
// series is a fault of the history if it shows
//
//   - what nobody sent
//   - less than the newest sample that was acknowledged before the scrape began
//   - what is past its TTL, was ended, deleted or replaced
//   - an earlier sample than an earlier page
//
// and if it is not shown though what was acknowledged lives on. One scrape at a
// time.
func (h *history) check(v view, page string) (faults []string) {
	read := time.Now()
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	series, groups := map[string]onPage{}, map[string]map[string]float64{}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "push_") {
			continue
		}
		number := func(value, at string) onPage {
			f, err := strconv.ParseFloat(value, 64)
			ms, err2 := strconv.ParseInt(at, 10, 64)
			if err != nil || err2 != nil {
				fault("the line %q", line)
			}
			return onPage{f, ms}
		}
		if m := seriesLine.FindStringSubmatch(line); m != nil {
			series[m[1]] = number(m[2], m[3])
		} else if m := groupLine.FindStringSubmatch(line); m != nil {
			if groups[m[2]] == nil {
				groups[m[2]] = map[string]float64{}
			}
			groups[m[2]][m[1]+" "+m[3]] = number(m[4], "0").value
		} else {
			fault("the line %q", line)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, s := range series {
		if p := h.series[name]; p == nil {
			fault("%s is shown, nobody sent it", name)
		} else {
			p.seen(name, s, v, fault)
		}
	}
	for name, p := range h.series {
		if _, ok := series[name]; !ok {
			p.missed(name, v, read, fault)
		}
		base := v.acked[name]
		p.attempts = slices.DeleteFunc(p.attempts, func(a attempt) bool { return a.at < base.at })
	}
	for job := range groups {
		if h.groups[job] == nil {
			fault("group %s is shown, nobody pushed it", job)
		}
	}
	for job, g := range h.groups {
		g.check(job, groups[job], v, read, fault)
	}
	h.note("scrape", map[string]any{"begun": v.begun.Format("15:04:05.000000"), "series": len(series), "groups": len(groups), "faults": faults})
	h.failed += len(faults)
	if len(faults) > 0 {
		h.note("page", page)
	}
	return faults
}

// seen checks a series that is shown.
func (p *pastSeries) seen(name string, s onPage, v view, fault func(string, ...any)) {
	base, acked := v.acked[name]
	i := slices.IndexFunc(p.attempts, func(a attempt) bool { return a.at == s.at && (a.value == s.value && !a.stale) })
	switch {
	case i < 0:
		fault("%s is shown as %v@%d: that was not sent, or is older than what was acknowledged, %v@%d", name, s.value, s.at, base.value, base.at)
		return
	case acked && s.at < base.at:
		fault("%s is shown as %v@%d: %v@%d was acknowledged before the scrape began", name, s.value, s.at, base.value, base.at)
	case s.at < p.floor:
		fault("%s is shown as %v@%d: an earlier page has shown that it was superseded by %d", name, s.value, s.at, p.floor)
	}
	if a := p.attempts[i]; !a.end.IsZero() && v.begun.After(a.end.Add(a.ttl+slack)) {
		fault("%s is shown as %v@%d, %s after its TTL of %s", name, s.value, s.at, v.begun.Sub(a.end.Add(a.ttl)), a.ttl)
	}
	p.floor = max(p.floor, s.at)
}

// missed checks a series that is not shown.
func (p *pastSeries) missed(name string, v view, read time.Time, fault func(string, ...any)) {
	base, acked := v.acked[name]
	if !acked {
		return
	}
	gone := func(a attempt) bool { return a.stale || read.Add(slack).After(a.begun.Add(a.ttl)) }
	if gone(base) {
		return
	}
	// Something newer can have ended it: then that is what it is from now on.
	for _, a := range p.attempts {
		if a.at > base.at && gone(a) {
			p.floor = max(p.floor, base.at+1)
			return
		}
	}
	fault("%s is not shown: %v@%d was acknowledged %s ago, with a TTL of %s", name, base.value, base.at, read.Sub(base.end), base.ttl)
}

// check compares what is shown of a group with what it may be.
func (g *pastGroup) check(job string, page map[string]float64, v view, read time.Time, fault func(string, ...any)) {
	for key, value := range page {
		if value < g.shown[key] {
			fault("group %s: %s is shown as %v, an earlier page had %v", job, key, value, g.shown[key])
		}
		g.shown[key] = max(g.shown[key], value)
	}
	fits := func(state groupState) bool {
		for key, value := range page {
			if m, ok := state[key]; !ok || m.value != value || !m.mayBe(v.begun) {
				return false
			}
		}
		for key, m := range state {
			if _, ok := page[key]; !ok && m.mustBe(read) {
				return false
			}
		}
		return true
	}
	before, ok := v.groups[job]
	if !ok || before.busy || before.changes != g.changes {
		return // it was changed meanwhile; the next scrape will tell
	}
	g.may = slices.DeleteFunc(slices.Clone(g.may), func(s groupState) bool { return !fits(s) })
	if len(g.may) == 0 {
		fault("group %s is shown as %v, and may be %+v", job, page, before.may)
		g.may = before.may
	}
}

// A history that is wrong is found wrong: each rule of check, broken by hand.
func TestHistoryFindsFaults(t *testing.T) {
	h := newHistory(t, uint64(time.Now().UnixNano()))
	now := time.Now()
	push := func(code int, name string, a attempt) {
		a.begun = time.Now()
		h.send(map[string]attempt{name: a})
		h.answered(map[string]attempt{name: a}, code)
	}
	at := now.UnixMilli()
	push(204, "a", attempt{at: at, value: 1, ttl: time.Hour})
	push(204, "a", attempt{at: at + 2, value: 2, ttl: time.Hour})
	push(204, "ended", attempt{at: at, value: 1, ttl: time.Hour})
	push(204, "ended", attempt{at: at + 2, value: math.NaN(), stale: true, ttl: time.Hour})
	push(204, "short", attempt{at: at, value: 1, ttl: 20 * time.Millisecond})
	push(503, "maybe", attempt{at: at, value: 1, ttl: time.Hour})
	push(204, "lowered", attempt{at: at, value: 1, ttl: time.Hour})
	push(204, "lowered", attempt{at: at + 2, value: 2, ttl: 20 * time.Millisecond})
	group := func(code int, method string, body map[string]float64) {
		h.change("g", &groupChange{Method: method, Body: body, TTL: time.Hour})
		h.changed("g", code)
	}
	group(200, "PUT", map[string]float64{"g_a x": 1, "g_a y": 1, "g_b x": 1})
	group(200, "POST", map[string]float64{"g_a x": 2})
	time.Sleep(50 * time.Millisecond)
	line := func(name string, value float64, at int64) string {
		return fmt.Sprintf("%s{instance=\"\"} %v %d\n", name, value, at)
	}
	member := func(family, l string, value float64) string {
		return fmt.Sprintf("%s{job=\"g\",l=\"%s\",instance=\"\"} %v\n", family, l, value)
	}
	a, g := line("a", 2, at+2), member("g_a", "x", 2)+member("g_b", "x", 1)
	for page, want := range map[string]string{
		a + g:                               "",
		g + a + line("maybe", 1, at):        "",
		g:                                   "a is not shown",
		g + line("a", 1, at):                "acknowledged before the scrape",
		g + line("a", 3, at+2):              "was not sent",
		g + a + line("b", 1, at):            "nobody sent it",
		g + a + line("ended", 1, at):        "is shown as 1@",
		g + a + line("short", 1, at):        "after its TTL",
		g + a + line("lowered", 1, at):      "acknowledged before the scrape",
		g + a + line("lowered", 2, at+2):    "after its TTL",
		a + member("g_a", "x", 2):           "group g is shown as",
		a + g + member("g_a", "y", 1):       "group g is shown as",
		a + strings.ReplaceAll(g, "2", "1"): "an earlier page had",
		a + g + "nonsense\n":                "nonsense",
		a + g + strings.ReplaceAll(g, `"g"`, `"other"`): "nobody pushed it",
	} {
		v := h.view()
		var kept []attempt
		kept = append(kept, h.series["a"].attempts...)
		lowered := slices.Clone(h.series["lowered"].attempts)
		h.groups["g"].shown = map[string]float64{"g_a x": 2}
		faults := strings.Join(h.check(v, page), "; ")
		h.series["a"].attempts, h.series["lowered"].attempts = kept, lowered
		if want == "" && faults != "" || !strings.Contains(faults, want) {
			t.Errorf("want %q, got %q of\n%s", want, faults, page)
		}
	}
}
