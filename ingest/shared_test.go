package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"relay/edges"
	"relay/journal"
	"relay/series"
)

// A stream is a journal that relays share, as far as they can tell: one order, in
// which each of them applies everything, some time later.
type stream struct {
	mu      sync.Mutex
	grown   *sync.Cond
	entries []*streamed
	closed  bool
}

type streamed struct {
	rec   journal.Record
	by    *member
	apply func() // nil: its relay has given it up, as if the acknowledgement were lost
	done  chan struct{}
}

// A member is one relay's end of a stream.
type member struct {
	*Handler
	stream  *stream
	rng     *rand.Rand // under stream.mu
	applied chan struct{}
}

func newMember(t *testing.T, s *stream, seed uint64) *member {
	m := &member{stream: s, rng: rand.New(rand.NewPCG(seed, 0)), applied: make(chan struct{})}
	m.Handler = New(Options{
		Store: series.New(series.Options{}), Journal: m, Shared: true, HALabels: true, Edges: edges.New(time.Hour, 100, nil),
	})
	go m.follow(t)
	return m
}

var errLost = errors.New("the acknowledgement is lost")

func (m *member) Append(_ context.Context, r *journal.Record, apply func()) error {
	e := &streamed{rec: *r, by: m, apply: apply, done: make(chan struct{})}
	e.rec.Body = bytes.Clone(r.Body)
	e.rec.Forced, e.rec.Group, e.rec.Refused = bytes.Clone(r.Forced), bytes.Clone(r.Group), slices.Clone(r.Refused)
	s := m.stream
	s.mu.Lock()
	lost := m.rng.IntN(20) == 0
	if lost {
		e.apply = nil
	}
	s.entries = append(s.entries, e)
	s.grown.Broadcast()
	s.mu.Unlock()
	if lost {
		return errLost
	}
	<-e.done
	return nil
}

// follow applies the stream until it is closed.
func (m *member) follow(t *testing.T) {
	defer close(m.applied)
	s := m.stream
	for i := 0; ; i++ {
		s.mu.Lock()
		for i == len(s.entries) && !s.closed {
			s.grown.Wait()
		}
		if i == len(s.entries) {
			s.mu.Unlock()
			return
		}
		e, dawdle := s.entries[i], m.rng.IntN(10) == 0
		s.mu.Unlock()
		if dawdle {
			time.Sleep(time.Duration(i%7) * 200 * time.Microsecond)
		}
		if e.by == m && e.apply != nil {
			e.apply()
			close(e.done)
		} else if err := m.Replay(&e.rec); err != nil {
			t.Error(err)
		}
	}
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.grown.Broadcast()
}

// a state is all that is to be the same: the page, whose series are, who is elected,
// and when edges were seen.
func (m *member) state(t *testing.T, now time.Time) string {
	t.Helper()
	var p owned
	if err := m.opts.Store.Scan(now, series.Query{}, &p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.lines)
	err := m.opts.Edges.Dump(func(piece []byte) error {
		p.lines = append(p.lines, string(piece))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(p.lines, "\n")
}

type owned struct{ page }

func (o *owned) Series(f *series.Family, s *series.Series) {
	if strings.HasPrefix(s.Name, "push_") {
		s.TTL = 0 // what is left of the group's, in ms of each relay's own clock
	}
	o.page.Series(f, s)
	scope, group, _ := s.GroupKey()
	o.lines[len(o.lines)-1] += fmt.Sprintf(" of %s, group %q %q", s.Edge, scope, group)
}

// Relays that share a journal end up the same, whatever is sent to which of them at
// the same time: remote write of equal series by several edges, pairs of replicas,
// pushes to groups, deletes and wipes; so does one that comes later.
func TestRelaysThatShareAJournal(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("RELAY_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("RELAY_SEED=%d", seed)
	compared := 0
	for round := range uint64(12) {
		s := &stream{}
		s.grown = sync.NewCond(&s.mu)
		members := []*member{newMember(t, s, seed), newMember(t, s, seed+1)}
		start := time.Now().UnixMilli()
		var senders sync.WaitGroup
		for n, m := range members {
			for i := range 3 {
				senders.Go(func() { sendAnything(t, m, rand.New(rand.NewPCG(seed+round, uint64(10*n+i))), start) })
			}
		}
		senders.Wait()
		members = append(members, newMember(t, s, 0))
		s.close()
		now := time.Now()
		for _, m := range members {
			<-m.applied
		}
		want := members[0].state(t, now)
		for i, m := range members[1:] {
			if got := m.state(t, now); got != want {
				t.Fatalf("RELAY_SEED=%d, round %d: relay %d shows\n%s\nthe first one\n%s", seed, round, i+1, got, want)
			}
		}
		compared += strings.Count(want, "\n")
	}
	if compared < 100 {
		t.Errorf("only %d lines were compared", compared)
	}
}

// sendAnything sends requests that meet those of others: few series, few groups, times
// that are equal or in no order.
func sendAnything(t *testing.T, m *member, rng *rand.Rand, start int64) {
	pusher := m.pusher
	send := func(h http.Handler, method, path, edge, body string) {
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		req.Header.Set(EdgeHeader, edge)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code/100 != 2 && w.Code != 503 {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	for range 60 {
		edge := fmt.Sprint("edge", rng.IntN(2))
		switch kind := rng.IntN(20); {
		case kind < 10:
			req := &prompb.WriteRequest{}
			for range 1 + rng.IntN(4) {
				labels := []string{"__name__", fmt.Sprint("m", rng.IntN(6))}
				if kind < 4 { // perhaps a series that a group has
					labels = append(labels, "job", fmt.Sprint("j", rng.IntN(3)))
				}
				if kind >= 8 {
					labels = append(labels, "cluster", fmt.Sprint("c", rng.IntN(15)), "__replica__", fmt.Sprint("r", rng.IntN(2)))
				}
				one := ts(float64(rng.IntN(5)), labels...)
				one.Samples[0].Timestamp = start + int64(rng.IntN(20))
				if rng.IntN(10) == 0 {
					one.Samples[0].Value = math.Float64frombits(value.StaleNaN)
				}
				req.Timeseries = append(req.Timeseries, one)
			}
			send(m, http.MethodPost, "/api/v1/write?ttl=1h", edge, string(wire(t, req)))
		case kind < 16:
			method := []string{http.MethodPut, http.MethodPost}[rng.IntN(2)]
			var body strings.Builder
			for i := range 6 {
				if rng.IntN(2) == 0 {
					fmt.Fprintf(&body, "m%d %d\n", i, rng.IntN(5))
				}
			}
			send(pusher, method, fmt.Sprintf("/metrics/job/j%d?ttl=%dh", rng.IntN(3), 1+rng.IntN(3)), edge, body.String())
		case kind < 18:
			send(pusher, http.MethodDelete, fmt.Sprint("/metrics/job/j", rng.IntN(3)), edge, "")
		case kind < 19:
			if _, err := m.Delete(t.Context(), named(fmt.Sprint("m", rng.IntN(6))), false); err != nil && !errors.Is(err, errLost) {
				t.Error(err)
			}
		case rng.IntN(3) == 0:
			if err := pusher.Wipe(t.Context()); err != nil && !errors.Is(err, errLost) {
				t.Error(err)
			}
		}
	}
}

// failing keeps records and says that it has not: a write that fails may be there after
// a restart.
type failing struct{ records }

func (j *failing) Append(ctx context.Context, r *journal.Record, apply func()) error {
	j.records.Append(ctx, r, func() {})
	return journal.ErrUnavailable
}

// A group that was pushed in vain may be in the journal all the same. Whoever deletes it
// then does not find it after a restart.
func TestDeleteAfterAPushThatFailed(t *testing.T) {
	j := &failing{}
	g := newGateway(t, Options{Journal: j})
	if code, text := g.do(http.MethodPut, "/metrics/job/x", "a 1\n"); code != 503 {
		t.Errorf("%d %s", code, text)
	}
	g.h.opts.Journal = &j.records
	for at := range 3 { // forgets what nothing was made of
		g.h.opts.Store.Sweep(time.Now().Add(time.Duration(at) * 48 * time.Hour))
	}
	if code, text := g.do(http.MethodDelete, "/metrics/job/x", ""); code != 202 {
		t.Errorf("%d %s", code, text)
	}
	again := newGateway(t, Options{})
	for _, r := range j.list {
		if err := again.h.Replay(&r); err != nil {
			t.Error(err)
		}
	}
	if page := again.shows(); len(j.list) == 0 || strings.Contains(page, `job="x"`) {
		t.Errorf("after a restart, by %d records:\n%s", len(j.list), page)
	}
}

// A relay that does not know a group tells the others that it is deleted: they may.
func TestDeleteOfAGroupOfAnotherRelay(t *testing.T) {
	var j records
	g := newGateway(t, Options{Journal: &j, Shared: true})
	if code, text := g.do(http.MethodDelete, "/metrics/job/x", ""); code != 202 {
		t.Errorf("%d %s", code, text)
	}
	if len(j.list) != 1 || j.list[0].Kind != journal.GroupDelete {
		t.Errorf("%+v", j.list)
	}
	if g.h.opts.Store.HasGroup(&series.Group{Labels: j.list[0].Group}) {
		t.Error("the group came to be by its deletion")
	}
}
