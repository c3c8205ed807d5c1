package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A following is how far a relay is with a stream that others write, too.
type following struct {
	// turn is held while a record is applied, and while a checkpoint takes its cut.
	turn  sync.Mutex
	parts assembly // under turn

	mu      sync.Mutex
	waiting map[uint64]*waiter // own records on their way, by the id in them
	applied uint64             // all up to this sequence is applied
	round   int                // changes when sequences begin anew
	created time.Time          // the stream
	catches []catch
	err     error // for good

	exact    leadership // under it, what the stream says of its end is known to be so
	settling *settling  // nil: not under way

	behind  error     // why pushes are refused; nil: they are not
	seen    uint64    // last sequence of the stream
	bytes   float64   // of the stream
	limit   float64   // of bytes
	goal    uint64    // sequence to be applied by now
	since   time.Time // when it was the stream's last
	strange int       // looks in a row at a stream that is not the one that was followed
	force   bool      // a checkpoint is due, whatever others have written
}

// A waiter is an own record that is applied when its turn comes.
type waiter struct {
	apply func()
	stop  context.CancelFunc // of waiting for the acknowledgement
	done  chan struct{}
}

type catch struct {
	seq  uint64
	done chan struct{}
}

// ErrStartOver is the error for a relay that was away for so long that the stream
// no longer has what it has not seen. It has to start with nothing, as after a
// restart: merged into what it has, the newest checkpoint would not end what was
// deleted and forgotten meanwhile.
var ErrStartOver = errors.New("the journal has gone on without this relay for too long: it starts over from the newest checkpoint")

// Times of following. Variables, shorter in tests.
var (
	lookEvery  = 500 * time.Millisecond
	behindTime = 3 * time.Second // how long what the stream has may not be applied yet
	partTime   = time.Minute     // after it a record that is incomplete stays so
)

// strangeLooks is after how many looks a stream is taken to be another one: a leader
// that was just elected may not know the last records yet.
const strangeLooks = 10

// fail ends following for good.
func (f *following) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.behind = err
}

// state is what a run has to know before it reads on.
func (f *following) state() (next uint64, round int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied + 1, f.round, f.err
}

// Behind says why a relay with an external cluster takes no pushes at the moment:
// because the cluster does not answer, or because what others wrote is not applied
// here yet. What it shows then may be old. With an embedded journal: because it was
// damaged, and no checkpoint has what is left yet. It is an ErrUnavailable or nil.
func (j *Journal) Behind() error {
	if j.follow == nil {
		return j.unsaved()
	}
	e := j.current()
	if e == nil || !e.conn.IsConnected() {
		return fmt.Errorf("%w: the NATS cluster is not connected", ErrUnavailable)
	}
	j.follow.mu.Lock()
	defer j.follow.mu.Unlock()
	return j.follow.behind
}

// Due gets a value when a checkpoint should not wait.
func (j *Journal) Due() <-chan struct{} { return j.due }

// appendInTurn appends to a stream that others write, too. The record is applied by
// the one who follows the stream, when all before it is applied. Seeing it there is
// as good as its acknowledgement, which may get lost.
func (j *Journal) appendInTurn(ctx context.Context, e *engine, r *Record, apply func()) error {
	if err := j.Behind(); err != nil {
		j.metrics.failures.Inc()
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTime)
	defer cancel()
	f := j.follow
	id := rand.Uint64()
	w := &waiter{apply: apply, stop: cancel, done: make(chan struct{})}
	f.mu.Lock()
	f.waiting[id] = w
	f.mu.Unlock()
	err := j.publish(ctx, e, r, id)
	if err == nil {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			err = fmt.Errorf("the record was not read back within %s", appendTime)
		case <-j.closing:
			err = errors.New("the relay stops")
		}
	}
	if f.claim(id) == nil {
		<-w.done // it is being applied
		return nil
	}
	return j.failed(err)
}

// claim takes an own record off those that wait; nil if it is none.
func (f *following) claim(id uint64) *waiter {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting[id]
	delete(f.waiting, id)
	return w
}

// Follow applies what others append, and has own records applied in their turn, in
// the order of the stream: Append waits for it. It returns when ctx ends or the
// journal is closed, and with an error where it cannot go on: [ErrStartOver], or
// [ErrVersion] where a newer relay writes the stream. What apply is given is valid
// during the call. With an embedded journal there is nobody to follow, and it
// returns at once.
func (j *Journal) Follow(ctx context.Context, apply func(*Record) error) error {
	if j.follow == nil {
		return nil
	}
	err := j.run(ctx, math.MaxUint64, apply, nil)
	if ctx.Err() != nil || j.ended.Load() {
		return nil
	}
	j.follow.fail(err)
	return err
}

// run reads the stream until a sequence is applied. p is of a replay, or nil.
func (j *Journal) run(ctx context.Context, until uint64, apply func(*Record) error, p *Progress) error {
	stopped, cancel := j.untilClosed()
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	pause := reconnectWait
	for {
		next, _, err := j.follow.state()
		if err != nil {
			return err
		}
		if next > until {
			return nil
		}
		if e := j.current(); e != nil && e.conn.IsConnected() {
			err = j.consume(stopped, e, until, apply, p)
			switch {
			case err == nil:
				continue
			case errors.Is(err, ErrVersion), errors.Is(err, ErrStartOver):
				return err
			}
			j.log.Debug("Reading the journal's stream again", "from", next, "err", err)
		}
		if now, _, _ := j.follow.state(); now != next {
			pause = reconnectWait
		}
		select {
		case <-stopped.Done():
			return errors.Join(ctx.Err(), ErrUnavailable)
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, maxPause/2)
	}
}

// errAgain is the error for a consumer that has to be made anew.
var errAgain = errors.New("a new consumer is needed")

// consume reads with one consumer of the engine until it fails or lags.
func (j *Journal) consume(ctx context.Context, e *engine, until uint64, apply func(*Record) error, p *Progress) error {
	f := j.follow
	next, round, _ := f.state()
	making, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	cons, err := e.stream.CreateConsumer(making, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	defer func() {
		go func() { // as a courtesy: it goes by itself
			ctx, cancel := context.WithTimeout(context.Background(), requestTime)
			defer cancel()
			e.stream.DeleteConsumer(ctx, cons.CachedInfo().Name)
		}()
	}()
	it, err := cons.Messages(jetstream.PullMaxMessagesWithBytesLimit(4096, 4*maxPayload), jetstream.PullExpiry(10*time.Second),
		jetstream.PullHeartbeat(2*time.Second), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer it.Stop()
	defer context.AfterFunc(ctx, it.Stop)()
	for first := true; next <= until; {
		msg, err := it.Next(jetstream.NextMaxWait(lookEvery))
		if errors.Is(err, nats.ErrTimeout) {
			if f.lags(next, round) || j.current() != e {
				return errAgain
			}
			continue
		}
		if err != nil {
			return err
		}
		md, err := msg.Metadata()
		if err != nil {
			return err
		}
		seq := md.Sequence.Stream
		if seq < next {
			continue
		}
		if seq > next {
			if !first {
				return errAgain // was it lost on its way, or in the stream?
			}
			if err := j.gap(ctx, e, next, seq, p); err != nil {
				return err
			}
		}
		first = false
		if err := j.arrived(seq, round, md.Timestamp, msg.Data(), apply, p); err != nil {
			return err
		}
		next = seq + 1
	}
	return nil
}

// lags reports whether a consumer that is silent should not be.
func (f *following) lags(next uint64, round int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.round != round || f.seen >= next && time.Since(f.since) > 2*lookEvery
}

// gap says what it means that the stream lacks the sequences from next to seq.
func (j *Journal) gap(ctx context.Context, e *engine, next, seq uint64, p *Progress) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	info, err := e.stream.Info(ctx)
	if err != nil {
		return err
	}
	if info.State.FirstSeq > next {
		return ErrStartOver // purged: a checkpoint has it
	}
	j.log.Error("The journal lacks records", "from", next, "to", seq-1)
	if p == nil {
		j.metrics.lost.Add(float64(seq - next))
	} else {
		p.Lost += seq - next
	}
	return nil
}

// arrived applies the message of a sequence.
func (j *Journal) arrived(seq uint64, round int, at time.Time, data []byte, apply func(*Record) error, p *Progress) error {
	f := j.follow
	f.turn.Lock()
	defer f.turn.Unlock()
	if _, now, _ := f.state(); now != round {
		return errAgain
	}
	w, err := j.inTurn(seq, at, data, apply)
	if errors.Is(err, ErrVersion) {
		return err
	}
	if err != nil {
		if p == nil {
			j.metrics.damaged.Inc()
		} else {
			p.Damaged++
		}
		j.log.Error("A record of the journal was left out", "sequence", seq, "err", err)
	}
	if p != nil {
		p.Records++
		j.progress(p)
	}
	f.mu.Lock()
	if f.round == round {
		f.applied = seq
	}
	f.seen = max(f.seen, seq)
	if len(f.catches) > 0 {
		f.catches = slices.DeleteFunc(f.catches, func(c catch) bool {
			if c.seq <= seq {
				close(c.done)
			}
			return c.seq <= seq
		})
	}
	f.mu.Unlock()
	if w != nil {
		w.stop()
		close(w.done)
	}
	return nil
}

// inTurn applies a record that is whole: an own one as it waits, any other one from
// what it says. Under turn.
func (j *Journal) inTurn(seq uint64, at time.Time, data []byte, apply func(*Record) error) (*waiter, error) {
	f := j.follow
	r, p, err := parse(data)
	if err != nil {
		return nil, err
	}
	if p.total > 1 {
		f.parts.expire(at)
		if !f.parts.add(&r, p) {
			if h := f.parts[p.id]; h != nil && h.first == 0 {
				h.first, h.at, h.came = seq, at, time.Now()
			}
			return nil, nil
		}
	}
	if w := f.claim(p.id); w != nil {
		w.apply()
		return w, nil
	}
	return nil, apply(&r)
}

// expire forgets what was never finished: by the stream's times, so that all relays
// do.
func (a assembly) expire(now time.Time) {
	for id, h := range a {
		if now.Sub(h.at) > partTime {
			delete(a, id)
		}
	}
}

// cut is the highest sequence that a checkpoint covers: what comes before the first
// part of a record that may still be finished. Under turn.
func (f *following) cut() uint64 {
	f.mu.Lock()
	c := f.applied
	f.mu.Unlock()
	for _, h := range f.parts {
		if time.Since(h.came) < 2*partTime {
			c = min(c, h.first-1)
		}
	}
	return c
}

// look asks the cluster how far the stream is, and notes whether this relay is. It
// reports whether the stream has to be looked for again, or made.
func (j *Journal) look(e *engine) (again bool) {
	f := j.follow
	ctx, cancel := j.untilClosed()
	defer cancel()
	ctx, cancel2 := context.WithTimeout(ctx, requestTime)
	defer cancel2()
	var info *jetstream.StreamInfo
	err := nats.ErrDisconnected
	if e.conn.IsConnected() {
		info, err = e.stream.Info(ctx)
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || j.ended.Load() {
		return false
	}
	was := f.behind
	if err != nil {
		f.behind, f.goal, f.since = fmt.Errorf("%w: the NATS cluster does not answer: %w", ErrUnavailable, err), 0, time.Time{}
		if was == nil {
			j.log.Warn("The journal's cluster does not answer: pushes are answered 503, scrapes go on", "err", err)
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if f.strange++; f.strange >= strangeLooks {
				f.strange = 0
				j.log.Error("The journal's stream was deleted", "stream", j.opts.Cluster.Stream)
				return true
			}
		}
		return false
	}
	f.seen, f.bytes, f.limit = info.State.LastSeq, float64(info.State.Bytes), float64(info.Config.MaxBytes)
	if f.created.IsZero() {
		f.created = info.Created
	}
	if info.State.LastSeq < f.applied || !info.Created.Equal(f.created) {
		if f.strange++; f.strange >= strangeLooks {
			j.replaced(info)
		}
		return false
	}
	f.strange = 0
	if f.since.IsZero() {
		f.goal, f.since = f.seen, now
	}
	switch {
	case f.applied >= f.goal:
		f.behind, f.goal, f.since = nil, f.seen, now
		if was != nil {
			j.log.Info("The journal takes records", "sequence", f.applied)
			if f.force {
				j.isDue()
			}
		}
	case now.Sub(f.since) > behindTime:
		f.behind = fmt.Errorf("%w: %d records of other relays are not applied here yet", ErrUnavailable, f.seen-f.applied)
		if was == nil {
			j.log.Warn("This relay lags behind the journal: pushes are answered 503, scrapes go on", "records", f.seen-f.applied)
		}
	}
	return false
}

// replaced has a stream followed from its beginning that is another one, or has lost
// its end. What the records led to that are lost is still in memory. Under mu.
func (j *Journal) replaced(info *jetstream.StreamInfo) {
	f := j.follow
	lost := f.applied - min(f.applied, info.State.LastSeq)
	j.log.Error("The journal's stream is not the one that was followed, or has lost acknowledged records; what they led to is still in memory, and in the next checkpoint",
		"followed", f.applied, "first", info.State.FirstSeq, "last", info.State.LastSeq, "created", info.Created)
	j.metrics.lost.Add(float64(lost))
	f.applied = max(1, info.State.FirstSeq) - 1
	if info.State.Msgs == 0 {
		f.applied = info.State.LastSeq
	}
	f.created, f.strange, f.force = info.Created, 0, true
	f.behind, f.goal, f.since = fmt.Errorf("%w: it is read from its beginning", ErrUnavailable), 0, time.Time{}
	f.round++
}

// isDue has a checkpoint written soon.
func (j *Journal) isDue() {
	select {
	case j.due <- struct{}{}:
	default:
	}
}

// CatchUp waits until everything is applied here that any relay had appended when
// it was called, or ctx ends. With an embedded journal it returns at once.
func (j *Journal) CatchUp(ctx context.Context) error {
	f := j.follow
	if f == nil {
		return nil
	}
	for {
		if err := j.Behind(); err != nil {
			return err
		}
		e := j.current()
		if e == nil {
			return ErrUnavailable
		}
		info, err := e.stream.Info(ctx)
		if err != nil {
			return err
		}
		f.mu.Lock()
		if f.isExact(info) {
			return f.await(ctx, info.State.LastSeq)
		}
		if err := j.settle(ctx, e, leadershipOf(info)); err != nil {
			return err
		}
	}
}

// A leadership is the time during which one server leads a stream.
type leadership struct {
	leader string
	since  time.Time
}

func leadershipOf(info *jetstream.StreamInfo) (l leadership) {
	if c := info.Cluster; c != nil {
		l.leader = c.Leader
		if c.LeaderSince != nil { // servers before 2.12 do not say
			l.since = *c.LeaderSince
		}
	}
	return l
}

// A settling is an attempt to make sure of a leadership.
type settling struct {
	done chan struct{}
	err  error // when it is done
}

// isExact reports whether the stream's last sequence, as the leader says it, counts all
// that was acknowledged. Of a leader that was just elected it may not: servers answer
// before they have gone through what they took over. One server alone has nothing to
// take over. Under mu.
func (f *following) isExact(info *jetstream.StreamInfo) bool {
	l := leadershipOf(info)
	// What the configuration says: a leader may not have heard of the others yet.
	return info.Config.Replicas <= 1 || l.leader != "" && l == f.exact
}

// settle makes sure that a leader has gone through all that was acknowledged under
// those before it: a record that changes nothing is appended, and waited for until it
// is applied here. One at a time does for all that ask. Under mu, which it lets go.
func (j *Journal) settle(ctx context.Context, e *engine, l leadership) error {
	f := j.follow
	s := f.settling
	if s == nil {
		s = &settling{done: make(chan struct{})}
		f.settling = s
		j.closed.Go(func() {
			s.err = j.appendInTurn(context.Background(), e, nothing(), func() {})
			f.mu.Lock()
			defer f.mu.Unlock()
			if s.err == nil {
				f.exact = l
			}
			f.settling = nil
			close(s.done)
		})
	}
	f.mu.Unlock()
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// nothing is a record that any relay can read and that changes nothing: a delete of
// no series.
func nothing() *Record {
	return &Record{Kind: SeriesDelete, Received: time.Now().UnixMilli(), TTL: 1, Body: []byte{0}}
}

// await waits until a sequence is applied. Under mu, which it lets go.
func (f *following) await(ctx context.Context, seq uint64) error {
	if f.applied >= seq {
		f.mu.Unlock()
		return nil
	}
	c := catch{seq: seq, done: make(chan struct{})}
	f.catches = append(f.catches, c)
	f.mu.Unlock()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.catches = slices.DeleteFunc(f.catches, func(other catch) bool { return other.done == c.done })
	return ctx.Err()
}
