package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// A cluster is an external one, of one server: what several do to it is for the
// tests of the relay's binary.
type cluster struct {
	t    *testing.T
	opts server.Options
	srv  *server.Server
}

func startCluster(t *testing.T, change ...func(*server.Options)) *cluster {
	c := &cluster{t: t, opts: server.Options{
		ServerName: "n1", Host: "127.0.0.1", Port: freePort(t), NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
	}}
	for _, f := range change {
		f(&c.opts)
	}
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) start() {
	c.t.Helper()
	opts := c.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		c.t.Fatal(err)
	}
	c.srv = srv
	go srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		c.t.Fatal("the server does not start")
	}
}

func (c *cluster) stop() {
	c.srv.Shutdown()
	c.srv.WaitForShutdown()
}

func (c *cluster) options() Options {
	return Options{MaxBytes: 24 << 20, Cluster: &Cluster{URL: fmt.Sprintf("nats://127.0.0.1:%d", c.opts.Port), Stream: "TEST", Replicas: 1}}
}

// A station is a journal, and what was applied of it.
type station struct {
	t *testing.T
	*Journal
	p Progress

	mu       sync.Mutex
	pieces   []string
	applied  []Record // own ones and those of others, in the order of their application
	unfollow context.CancelFunc
	followed chan error
}

func newStation(t *testing.T, opts Options) *station {
	t.Helper()
	j, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &station{t: t, Journal: j}
	t.Cleanup(s.stop)
	return s
}

// start opens a journal, replays it and follows it.
func start(t *testing.T, opts Options) *station {
	t.Helper()
	s := newStation(t, opts)
	if err := s.replay(); err != nil {
		t.Fatal(err)
	}
	s.followOn()
	s.untilReady()
	return s
}

func (s *station) replay() (err error) {
	s.p, err = s.Replay(context.Background(), func(piece []byte) error {
		s.pieces = append(s.pieces, string(piece))
		return nil
	}, s.apply)
	return err
}

func (s *station) followOn() {
	ctx, cancel := context.WithCancel(context.Background())
	s.unfollow, s.followed = cancel, make(chan error, 1)
	go func() { s.followed <- s.Follow(ctx, s.apply) }()
}

func (s *station) untilReady() {
	s.t.Helper()
	// An embedded one that was damaged is not before its next checkpoint.
	eventually(s.t, "ready", func() bool { return s.follow == nil || s.Behind() == nil })
}

func (s *station) stop() {
	s.Close()
	if s.followed != nil {
		s.unfollow()
		<-s.followed
		s.followed = nil
	}
}

func (s *station) apply(r *Record) error {
	c := *r
	c.Body, c.Refused = bytes.Clone(r.Body), slices.Clone(r.Refused)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = append(s.applied, c)
	return nil
}

func (s *station) has() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.applied)
}

func (s *station) add(r *Record) error {
	return s.Append(context.Background(), r, func() { s.apply(r) })
}

func (s *station) mustAdd(r *Record) {
	s.t.Helper()
	if err := s.add(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) mustCheckpoint(pieces ...string) {
	s.t.Helper()
	s.untilReady() // else there is none
	if err := s.Checkpoint(context.Background(), dumpOf(pieces...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) list() []checkpoint {
	s.t.Helper()
	list, err := s.current().checkpoints(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

func (s *station) state() jetstream.StreamState {
	s.t.Helper()
	info, err := s.current().stream.Info(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return info.State
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// same says where two lists of records differ, "" if they do not.
func same(a, b []Record) string {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		bodies := bytes.Equal(x.Body, y.Body) && slices.Equal(x.Refused, y.Refused)
		x.Body, y.Body, x.Refused, y.Refused = nil, nil, nil, nil
		if x, y := fmt.Sprintf("%+v", x), fmt.Sprintf("%+v", y); x != y || !bodies {
			return fmt.Sprintf("number %d is %s and %s, the same body: %v", i, x, y, bodies)
		}
	}
	if len(a) != len(b) {
		return fmt.Sprintf("%d and %d records", len(a), len(b))
	}
	return ""
}

// What holds for a journal, wherever its engine is.
func TestJournalWhereverItIs(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T) Options{
		"embedded": func(t *testing.T) Options { return Options{Path: t.TempDir(), MaxBytes: 24 << 20} },
		"external": func(t *testing.T) Options { return startCluster(t).options() },
		"small messages": func(t *testing.T) Options {
			return startCluster(t, func(o *server.Options) { o.MaxPayload = 128 << 10 }).options()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conforms(t, prepare(t))
		})
	}
}

func conforms(t *testing.T, opts Options) {
	var want []Record
	s := start(t, opts)
	add := func(r *Record) {
		s.mustAdd(r)
		want = append(want, *r)
	}
	for i := range 30 {
		add(record(i))
	}
	long := record(30) // in its body, and in what was refused of it
	long.Body, long.Refused = bytes.Repeat([]byte("0123456789abcdef"), (2*maxBody+17)/16), nil
	for i := range uint32(100_000) {
		long.Refused = append(long.Refused, 7*i)
	}
	add(long)
	add(&Record{Kind: GroupDelete, Edge: "a", Scope: "a", Group: []byte("\x03job\x01x"), Received: -5})
	add(&Record{Kind: WriteV2, Edge: "b", Forced: []byte("\x04edge\x01b"), Dropped: "__replica__", Pair: "b/c", Replica: "r", Format: "f", Body: []byte{}})
	if diff := same(s.has(), want); diff != "" {
		t.Fatal("live: ", diff)
	}
	restart := func(pieces []string, from int) {
		t.Helper()
		s.stop()
		s = start(t, opts)
		if diff := same(s.has(), want[from:]); diff != "" || !slices.Equal(s.pieces, pieces) || !s.p.Whole() || s.p.Records == 0 {
			t.Fatalf("after a restart: %s; %q, %+v", diff, s.pieces, s.p)
		}
	}
	restart(nil, 0)
	s.mustCheckpoint("state", "more")
	cut := s.list()[0].cut
	at := len(want)
	for i := range 5 {
		add(record(100 + i))
	}
	restart([]string{"state", "more"}, at)
	for i := range 2 {
		s.mustCheckpoint(fmt.Sprint("later ", i))
		add(record(200 + i))
	}
	restart([]string{"later 1"}, len(want)-1)
	if list := s.list(); len(list) != kept || s.state().FirstSeq != list[1].cut+1 || list[1].cut <= cut {
		t.Errorf("checkpoints %+v, the stream is %+v", list, s.state())
	}
	if state, err := s.current().stream.Info(t.Context()); err != nil || state.State.FirstSeq == 1 {
		t.Errorf("nothing was purged: %+v, %v", state, err)
	}
	// A record that is damaged is left out, and no other.
	data := record(7).append(nil, part{total: 1}, record(7).Body)
	data[20] ^= 1
	if _, err := s.current().js.Publish(t.Context(), s.current().subject, data); err != nil {
		t.Fatal(err)
	}
	add(record(300))
	s.stop()
	s = start(t, opts)
	if diff := same(s.has(), want[len(want)-2:]); diff != "" || s.p.Damaged != 1 || s.p.Whole() {
		t.Errorf("%s, %+v", diff, s.p)
	}
	s.mustCheckpoint("without it")
	// A full journal refuses, and goes on when there is room.
	big := record(400)
	big.Body = make([]byte, 1<<20)
	var err error
	for range 80 {
		if err = s.Append(t.Context(), big, func() {}); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("over the limit: %v", err)
	}
	s.mustCheckpoint("full")
	s.mustCheckpoint("full")
	if opts.Cluster != nil { // the second one had nothing to add there
		s.follow.force = true
		s.mustCheckpoint("full")
	}
	eventually(t, "room", func() bool { return s.add(record(401)) == nil })
	// A newer relay's journal is not touched.
	data = record(0).append(nil, part{total: 1}, []byte("x"))
	data[0] = version + 1
	if _, err := s.current().js.Publish(t.Context(), s.current().subject, data); err != nil {
		t.Fatal(err)
	}
	if opts.Cluster != nil {
		if err := <-s.followed; !errors.Is(err, ErrVersion) || s.Behind() == nil || s.add(record(0)) == nil {
			t.Errorf("followed: %v; then %v", err, s.Behind())
		}
		s.followed = nil
	}
	s.stop()
	s = newStation(t, opts)
	if err := s.replay(); !errors.Is(err, ErrVersion) {
		t.Errorf("replayed: %v", err)
	}
}

// Relays on one stream apply the same records in the same order, and each of them
// its own before Append returns.
func TestTwoRelaysOneOrder(t *testing.T) {
	t.Parallel()
	c := startCluster(t, func(o *server.Options) { o.MaxPayload = 128 << 10 })
	relays := []*station{start(t, c.options()), start(t, c.options())}
	const pushers, each = 4, 60
	var wait sync.WaitGroup
	for n, s := range relays {
		for p := range pushers {
			wait.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(n), uint64(p)))
				for i := range each {
					r := record(n*1000000 + p*1000 + i)
					if rng.IntN(4) == 0 { // in parts, between those of others
						r.Body = bytes.Repeat(r.Body, rng.IntN(40_000))
					}
					if err := s.add(r); err != nil {
						t.Error(err)
						return
					}
					if !slices.ContainsFunc(s.has(), func(o Record) bool { return o.Received == r.Received }) {
						t.Errorf("record %d was acknowledged and is not applied", r.Received)
					}
				}
			})
		}
	}
	wait.Wait()
	for _, s := range relays {
		if err := s.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(relays[0].has()); n != 2*pushers*each {
		t.Errorf("%d records, want %d", n, 2*pushers*each)
	}
	if diff := same(relays[0].has(), relays[1].has()); diff != "" {
		t.Errorf("the relays differ: %s", diff)
	}
	late := start(t, c.options())
	if diff := same(relays[0].has(), late.has()); diff != "" {
		t.Errorf("a relay that came later differs: %s", diff)
	}
}

// What a relay has acknowledged is on the other one's page, if that asks.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	a, b := start(t, c.options()), start(t, c.options())
	for i := range 100 {
		a.mustAdd(record(i))
		if err := b.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(b.has()); n != i+1 {
			t.Fatalf("%d records of %d", n, i+1)
		}
	}
}

// freePort is a port of loopback that nobody else is given: not twice here, and not by
// the kernel, which hands out ports for connections from a range of its own.
func freePort(t *testing.T) int {
	t.Helper()
	from, to := 10_000, 30_000
	var first, last int
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(text), &first, &last)
		const enough = 2000
		switch {
		case first >= from+enough:
			to = min(to, first)
		case last > 0 && last <= 65_535-enough:
			from, to = last+1, 65_536
		}
	}
	for range 1000 {
		port := from + int(portsGiven.Add(1)+firstPort)%(to-from)
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port of a thousand is free")
	return 0
}

// Another process that looks for ports at the same time begins elsewhere.
var (
	firstPort  = rand.Uint32N(20_000)
	portsGiven atomic.Uint32
)

// A leader that was just elected may not know yet what it has taken over: what it says
// of the stream's end is believed once a record has gone through it.
func TestCatchUpUnderAnotherLeader(t *testing.T) {
	t.Parallel()
	var routes []*url.URL
	var clusters []*cluster
	for i := range 3 {
		port := freePort(t)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: fmt.Sprint("127.0.0.1:", port)})
		clusters = append(clusters, &cluster{t: t, opts: server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: freePort(t), NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: port},
		}})
	}
	for _, c := range clusters {
		c.opts.Routes = routes
		c.start()
		t.Cleanup(c.stop)
	}
	opts := clusters[0].options()
	opts.Cluster.Replicas = 3
	eventually(t, "the servers have a leader", func() bool {
		return slices.ContainsFunc(clusters, func(c *cluster) bool { return c.srv.JetStreamIsLeader() })
	})
	a, b := start(t, opts), start(t, opts)
	b.untilReady()
	catchUp := func() { eventually(t, "caught up", func() bool { return b.CatchUp(t.Context()) == nil }) }
	look := func() (info *jetstream.StreamInfo) {
		eventually(t, "the stream has a leader", func() bool {
			var err error
			info, err = b.current().stream.Info(t.Context())
			return err == nil && info.Cluster.Leader != ""
		})
		return info
	}
	for round := range 3 {
		eventually(t, "taken", func() bool { return a.add(record(round)) == nil })
		before := look()
		catchUp()
		settled := look()
		if settled.State.LastSeq == before.State.LastSeq {
			t.Errorf("round %d: the leader was believed", round)
		}
		for range 10 {
			catchUp()
		}
		if after := look(); leadershipOf(after) == leadershipOf(settled) && after.State.LastSeq != settled.State.LastSeq {
			t.Errorf("round %d: %d records were appended under a leader who was made sure of", round, after.State.LastSeq-settled.State.LastSeq)
		}
		own := slices.DeleteFunc(b.has(), func(r Record) bool { return r.Kind == SeriesDelete })
		if len(own) < round+1 {
			t.Errorf("round %d: %d records are applied", round, len(own))
		}
		eventually(t, "the leader steps down", func() bool {
			_, err := b.current().conn.Request("$JS.API.STREAM.LEADER.STEPDOWN.TEST", nil, 5*time.Second)
			return err == nil
		})
	}
}

// While the cluster is away nothing is taken; when it is back, it goes on by itself,
// and nothing that was acknowledged is lost.
func TestClusterGoesAway(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	relays := []*station{start(t, c.options()), start(t, c.options())}
	var acknowledged sync.Map
	var refused, taken atomic.Int64
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for n, s := range relays {
		wait.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				r := record(n*1000000 + i)
				begun := time.Now()
				switch err := s.add(r); {
				case err == nil:
					acknowledged.Store(r.Received, true)
					taken.Add(1)
				case errors.Is(err, ErrUnavailable):
					if took := time.Since(begun); took > 3*appendTime {
						t.Errorf("refused after %s", took)
					}
					refused.Add(1)
					time.Sleep(5 * time.Millisecond)
				default:
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		n := taken.Load()
		eventually(t, "records are taken", func() bool { return taken.Load() > n+50 })
		c.stop()
		n = refused.Load()
		eventually(t, "records are refused", func() bool { return refused.Load() > n+10 })
		for _, s := range relays {
			eventually(t, "a relay without its cluster says so", func() bool { return s.Behind() != nil })
		}
		c.start()
	}
	n := taken.Load()
	eventually(t, "records are taken", func() bool { return taken.Load() > n+50 })
	close(stop)
	wait.Wait()
	for _, s := range relays {
		eventually(t, "caught up", func() bool { return s.CatchUp(t.Context()) == nil })
		there := map[int64]bool{}
		for _, r := range s.has() {
			there[r.Received] = true
		}
		acknowledged.Range(func(key, _ any) bool {
			if !there[key.(int64)] {
				t.Errorf("record %d was acknowledged and is lost", key)
			}
			return true
		})
	}
	if diff := same(relays[0].has(), relays[1].has()); diff != "" {
		t.Errorf("the relays differ: %s", diff)
	}
	t.Logf("%d records taken, %d refused", taken.Load(), refused.Load())
}

// A relay starts before its cluster does.
func TestClusterComesLater(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	a := start(t, c.options())
	a.mustAdd(record(1))
	a.stop()
	c.stop()
	s := newStation(t, c.options())
	replayed := make(chan error)
	go func() { replayed <- s.replay() }()
	select {
	case err := <-replayed:
		t.Fatal("replayed without a cluster: ", err)
	case <-time.After(3 * connectTime / 2):
	}
	c.start()
	if err := <-replayed; err != nil || len(s.has()) != 1 {
		t.Errorf("%v, %d records", err, len(s.has()))
	}
}

// Relays that share a stream share its checkpoints: one of them writes.
func TestSharedCheckpoints(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	opts := c.options()
	opts.Cluster.Fresh = time.Hour
	a, b := start(t, opts), start(t, opts)
	a.mustAdd(record(0))
	a.mustCheckpoint("first")
	b.mustAdd(record(1))
	b.mustCheckpoint("needless") // one is fresh
	if list := a.list(); len(list) != 1 || list[0].cut != 1 {
		t.Fatalf("%+v", list)
	}
	b.opts.Cluster.Fresh, a.opts.Cluster.Fresh = 0, 0
	if err := b.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range 5 { // both at once, and neither disturbs the other
		for _, s := range []*station{a, b} {
			wait.Go(func() {
				s.mustAdd(record(i))
				if err := s.Checkpoint(context.Background(), dumpOf(fmt.Sprint("of ", i))); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
	a.mustAdd(record(99))
	a.mustCheckpoint("last")
	list := a.list()
	if len(list) != kept || list[0].in.name == list[1].in.name || a.state().FirstSeq != list[1].cut+1 {
		t.Errorf("%+v, the stream is %+v", list, a.state())
	}
	late := start(t, opts)
	if !slices.Equal(late.pieces, []string{"last"}) || len(late.has()) != 0 || !late.p.Whole() {
		t.Errorf("%q, %d records, %+v", late.pieces, len(late.has()), late.p)
	}
}

// A checkpoint's cut and its first piece are of one moment; and a record of which
// not all parts are there yet is behind the cut.
func TestCutOfSharedCheckpoint(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	a, b := start(t, c.options()), start(t, c.options())
	stop := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := b.add(record(i)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 5 {
		seen := -1
		eventually(t, "a checkpoint", func() bool { // none while a is behind
			if err := a.Checkpoint(t.Context(), func(piece func([]byte) error) error {
				time.Sleep(20 * time.Millisecond)
				seen = len(a.has())
				return piece([]byte("x"))
			}); err != nil {
				t.Fatal(err)
			}
			return seen >= 0
		})
		if list := a.list(); list[0].cut != uint64(seen) {
			t.Errorf("the cut is %d, %d records were applied", list[0].cut, seen)
		}
	}
	close(stop)
	wait.Wait()

	e := a.current()
	r := record(0)
	r.Body = make([]byte, 1000)
	cut := cutting{body: 500, refused: 1 << 20}
	p := cut.parts(r)
	p.id = 42
	before := a.state().LastSeq
	send := func() {
		t.Helper()
		if _, err := e.js.Publish(t.Context(), e.subject, cut.append(nil, r, p)); err != nil {
			t.Fatal(err)
		}
		p.index++
	}
	send()
	a.mustAdd(record(1))
	a.mustCheckpoint("in between")
	if list := a.list(); list[0].cut != before {
		t.Errorf("the cut is %d, a record began behind %d", list[0].cut, before)
	}
	send()
	late := start(t, c.options())
	if n := len(late.has()); n != 2 {
		t.Errorf("%d records, want both", n)
	}
}

// What was never finished is forgotten, by all relays at the same place, and does
// not keep checkpoints back for ever.
func TestUnfinishedRecords(t *testing.T) {
	defer func(d time.Duration) { partTime = d }(partTime)
	partTime = 100 * time.Millisecond
	c := startCluster(t)
	a := start(t, c.options())
	e := a.current()
	r := record(0)
	r.Body = make([]byte, 1000)
	cut := cutting{body: 500, refused: 1 << 20}
	p := cut.parts(r)
	p.id = 42
	if _, err := e.js.Publish(t.Context(), e.subject, cut.append(nil, r, p)); err != nil {
		t.Fatal(err)
	}
	a.mustAdd(record(1))
	time.Sleep(3 * partTime)
	a.mustCheckpoint("past it")
	if list := a.list(); list[0].cut != 2 {
		t.Errorf("the cut is %d", list[0].cut)
	}
	p.index++
	if _, err := e.js.Publish(t.Context(), e.subject, cut.append(nil, r, p)); err != nil {
		t.Fatal(err)
	}
	a.mustAdd(record(2))
	if n := len(a.has()); n != 2 {
		t.Errorf("%d records", n)
	}
}

// A relay that was away for so long that the stream has gone on without it does not
// pretend to have what it has not.
func TestStartOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	a := start(t, c.options())
	a.mustAdd(record(0))
	away := newStation(t, c.options())
	if err := away.replay(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		a.mustAdd(record(1 + i))
		a.mustCheckpoint(fmt.Sprint("state ", i))
	}
	a.mustAdd(record(10))
	if first := a.state().FirstSeq; first <= 2 {
		t.Fatalf("the stream begins at %d", first)
	}
	away.followOn()
	select {
	case err := <-away.followed:
		if !errors.Is(err, ErrStartOver) || away.Behind() == nil {
			t.Errorf("followed: %v, %v", err, away.Behind())
		}
		away.followed = nil
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
	if n := len(away.has()); n != 1 {
		t.Errorf("%d records", n)
	}
	again := start(t, c.options())
	if !slices.Equal(again.pieces, []string{"state 2"}) || len(again.has()) != 1 {
		t.Errorf("%q, %d records", again.pieces, len(again.has()))
	}
}

// A stream that was deleted is made anew, loudly, and a checkpoint saves what is in
// memory alone.
func TestStreamIsDeleted(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	a, b := start(t, c.options()), start(t, c.options())
	for i := range 5 {
		a.mustAdd(record(i))
	}
	a.mustCheckpoint("old")
	if err := a.current().js.DeleteStream(t.Context(), "TEST"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*station{a, b} {
		select {
		case <-s.Due():
		case <-time.After(30 * time.Second):
			t.Fatal("no checkpoint is due")
		}
		s.untilReady()
	}
	a.mustCheckpoint("saved")
	if list := a.list(); len(list) != 1 || list[0].cut > a.state().LastSeq {
		t.Errorf("%+v", list)
	}
	b.mustAdd(record(6))
	if err := a.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(a.has()); n < 6 {
		t.Errorf("%d records", n)
	}
	late := start(t, c.options())
	if !slices.Equal(late.pieces, []string{"saved"}) || late.p.Lost > 0 {
		t.Errorf("%q, %+v", late.pieces, late.p)
	}
}

// A stream that would lose what was acknowledged is refused.
func TestUnfitStreams(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	maker := start(t, c.options())
	for what, change := range map[string]func(*jetstream.StreamConfig){
		"discard":   func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"age":       func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"retention": func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"files":     func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"subject":   func(c *jetstream.StreamConfig) { c.Subjects = []string{"a", "b"} },
		"purged":    func(c *jetstream.StreamConfig) { c.DenyPurge = true },
		"fit":       func(*jetstream.StreamConfig) {},
	} {
		t.Run(what, func(t *testing.T) {
			opts := c.options()
			opts.Cluster.Stream = "TEST-" + what
			cfg := jetstream.StreamConfig{Name: opts.Cluster.Stream, Subjects: []string{"mine." + what}, Discard: jetstream.DiscardNew}
			change(&cfg)
			if _, err := maker.current().js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			s := newStation(t, opts)
			err := s.replay()
			if what == "fit" {
				if err != nil || s.current().subject != "mine.fit" {
					t.Errorf("%v", err)
				}
				return
			}
			if !errors.Is(err, errUnfit) || !strings.Contains(err.Error(), what) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is no address is refused before anybody is asked, and no password is in what is
// said of it.
func TestClusterAddresses(t *testing.T) {
	for urls, ok := range map[string]bool{
		"nats://n1:4222":                   true,
		"n1:4222,n2":                       true,
		"tls://n1, nats://u:p%2Fw@n2:4222": true,
		"wss://n1":                         true,
		"nats://u:secret%zz@n1":            false,
		"nats://u:se/cret@n1":              false,
		"nats://u:se@cret@n1":              false,
		"nats://u:se,cret@n1":              false,
		"u:secret@n1:4222":                 false,
		"http://n1:4222":                   false,
		"nats://n1,":                       true,
		"nats://":                          false,
	} {
		err := (&Cluster{URL: urls, Stream: "TEST", Replicas: 1}).Check()
		if (err == nil) != ok || err != nil && (strings.Contains(err.Error(), "cret") || !strings.Contains(err.Error(), "--journal.nats-url")) {
			t.Errorf("%s: %v", urls, err)
		}
	}
}
