package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Progress says how far a replay is.
type Progress struct {
	Records, Of uint64 // of the stream
	Damaged     int    // records, and pieces of checkpoints, that could not be read
	Lost        uint64 // sequences that the stream should have and has not
	Checkpoint  uint64 // sequence of the checkpoint that was loaded, 0 none

	told time.Time
}

// Whole reports whether everything that was acknowledged was there. Where it was
// not, a checkpoint is due before the first Append, or where the journal is followed
// when [Journal.Due] says so.
func (p Progress) Whole() bool { return p.Damaged == 0 && p.Lost == 0 }

// Replay hands the newest good checkpoint to load, piece by piece, and the records
// that follow it to apply, in their order. Both must bear what they have seen
// before. What is damaged is left out, counted and logged; an error is returned
// only where nothing can be replayed, or a newer relay wrote the journal. What it
// hands out is valid during the call.
//
// A disk that hangs is waited for, however long that takes, and then all is handed out
// again from the beginning. With an external cluster it waits for the cluster as
// patiently, and [Journal.Follow] goes on where it ends.
func (j *Journal) Replay(ctx context.Context, load func(piece []byte) error, apply func(*Record) error) (Progress, error) {
	if j.follow == nil {
		for try := 1; ; try++ {
			e := j.current()
			if e == nil {
				return Progress{}, ErrUnavailable
			}
			p, err := j.replay(ctx, e, load, apply, nil, try < maxAttempts)
			if !errors.Is(err, errInterrupted) {
				return p, err
			}
			j.log.Warn("The journal's engine does not answer at the start: it is asked again when the disk does", "err", err)
			if err := j.readable(ctx); err != nil {
				return p, err
			}
		}
	}
	attempts := attempts{}
	for {
		if _, _, err := j.follow.state(); err != nil {
			return Progress{}, err
		}
		if e := j.current(); e != nil {
			p, err := j.replay(ctx, e, load, apply, &attempts, false)
			if !errors.Is(err, errInterrupted) {
				return p, err
			}
			j.log.Warn("The journal's cluster was interrupted at the start", "err", err)
		}
		select {
		case <-ctx.Done():
			return Progress{}, ctx.Err()
		case <-j.closing:
			return Progress{}, ErrUnavailable
		case <-time.After(lookEvery):
		}
	}
}

// errInterrupted is the error for a replay that can be tried again: of a cluster
// that went away before a record was applied, or of a disk that hangs.
var errInterrupted = errors.New("interrupted")

// isTimeout tells no answer from one that says what is wrong.
func isTimeout(err error) bool {
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}

// readable returns when all that the engine has on its disk can be read, and something
// can be written beside it: what the engine does not answer for after that is not the
// disk's fault. On a disk that hangs that takes as long as it does.
func (j *Journal) readable(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		streams := []string{streamName}
		for _, name := range bucketNames(bucket) {
			streams = append(streams, bucketStream(name))
		}
		for _, stream := range streams {
			for _, file := range blocks(engineDir(j.opts.Path, stream)) {
				if f, err := os.Open(file); err == nil {
					io.Copy(io.Discard, f)
					f.Close()
				}
			}
		}
		if f, err := os.CreateTemp(j.opts.Path, "probe-"); err == nil {
			f.Sync()
			f.Close()
			os.Remove(f.Name())
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-j.closing:
		return ErrUnavailable
	}
}

// attempts are those at loading checkpoints of a cluster.
type attempts struct {
	partly string         // one that was loaded in part
	failed map[string]int // how often each could not be read
}

// maxAttempts is after how many a checkpoint is taken to be damaged that the cluster has
// but does not give, or an engine in this process on a disk that can be read.
const maxAttempts = 3

// interrupted says whether a checkpoint that could not be loaded may be the next
// time: nil if it is damaged.
func (a *attempts) interrupted(ctx context.Context, e *engine, c checkpoint, begun bool, err error) error {
	if begun {
		a.partly = c.name
	}
	if ctx.Err() != nil || errors.Is(err, jetstream.ErrObjectNotFound) || isTimeout(err) || !e.conn.IsConnected() {
		return fmt.Errorf("%w: checkpoint %s: %w", errInterrupted, c.name, err)
	}
	if a.failed == nil {
		a.failed = map[string]int{}
	}
	if a.failed[c.name]++; a.failed[c.name] < maxAttempts {
		return fmt.Errorf("%w: checkpoint %s: %w", errInterrupted, c.name, err)
	}
	a.partly = ""
	return nil
}

// replay is Replay, once. patient: what an engine in this process does not answer is not
// taken to be damaged.
func (j *Journal) replay(ctx context.Context, e *engine, load func(piece []byte) error, apply func(*Record) error, a *attempts, patient bool) (Progress, error) {
	var p Progress
	// What fails before anything is loaded can be tried again, if there is somebody
	// to wait for.
	undone := func(err error) error {
		if a == nil && !(patient && isTimeout(err)) {
			return err
		}
		return fmt.Errorf("%w: %w", errInterrupted, err)
	}
	info, err := e.stream.Info(ctx)
	if err != nil {
		return p, undone(err)
	}
	first, last := info.State.FirstSeq, info.State.LastSeq
	if info.State.Msgs == 0 {
		first = last + 1
	}
	checkpoints, err := e.checkpoints(ctx)
	if err != nil {
		return p, undone(err)
	}
	bad := 0
	found := findings{useless: map[string]bool{}}
	for _, c := range checkpoints {
		if a != nil && a.partly != "" && a.partly != c.name {
			return p, ErrStartOver
		}
		begun := false
		if err := loadCheckpoint(ctx, c, func(piece []byte) error {
			begun = true
			return load(piece)
		}); err != nil {
			if errors.Is(err, ErrVersion) {
				return p, err
			}
			if a != nil {
				if err := a.interrupted(ctx, e, c, begun, err); err != nil {
					return p, err
				}
			} else if patient && isTimeout(err) {
				return p, fmt.Errorf("%w: checkpoint %s: %w", errInterrupted, c.id(), err)
			}
			j.log.Error("A checkpoint of the journal is damaged, an older one is taken", "checkpoint", c.id(), "err", err)
			found.useless[c.id()] = true
			bad++
			continue
		}
		p.Checkpoint, found.loaded = c.cut, c.id()
		j.metrics.checkpointed(c.at)
		break
	}
	p.Damaged += bad
	from := max(first, p.Checkpoint+1)
	if p.Checkpoint > last {
		// The stream was lost, the checkpoint was not: its sequences begin anew.
		j.log.Error("The journal's stream is older than its checkpoint: what was acknowledged after it is lost", "checkpoint", p.Checkpoint, "stream", last)
		p.Lost += p.Checkpoint - last
		from = first
	}
	if want := p.Checkpoint + 1; bad > 0 && first > want || len(checkpoints) == 0 && first > 1 {
		j.log.Error("The journal lacks records between the checkpoint and the stream", "from", want, "to", first-1)
		p.Lost += first - want
	}
	if p.Checkpoint <= last && bad == 0 && len(checkpoints) > 0 {
		// What the older checkpoint needs is kept: if it is not there, blocks of the
		// stream have gone, and nobody knows what was in them.
		older := uint64(0)
		if len(checkpoints) > 1 {
			older = checkpoints[1].cut
		}
		switch {
		case older >= p.Checkpoint || first <= older+1:
		case len(checkpoints) == 1:
			j.log.Error("The journal's older checkpoint is gone, or the beginning of its stream: what was acknowledged since the newest may be lost", "checkpoint", p.Checkpoint, "stream", first)
			p.Damaged++
		default:
			j.log.Error("The journal's stream is damaged: what was acknowledged since its checkpoint may be lost", "checkpoint", p.Checkpoint, "from", older+1, "to", first-1)
			p.Damaged++
		}
	}
	if f := j.follow; f != nil {
		f.mu.Lock()
		f.applied, f.created, f.force = from-1, info.Created, false
		f.mu.Unlock()
	} else {
		j.mu.Lock()
		j.last = last
		j.mu.Unlock()
		if err := j.salvage(apply, &p); err != nil {
			return p, err
		}
	}
	if from <= last {
		p.Of = p.Records + last - from + 1
		if err := j.replayStream(ctx, e, from, last, apply, &p, patient); err != nil {
			return p, err
		}
	}
	j.metrics.damaged.Add(float64(p.Damaged))
	j.metrics.lost.Add(float64(p.Lost))
	j.metrics.replayed.Set(1)
	if f := j.follow; f != nil {
		f.mu.Lock()
		f.force = !p.Whole()
		f.mu.Unlock()
	} else if p.Checkpoint > last {
		// Its number would hide the records to come: the next one replaces it.
		for _, c := range checkpoints {
			found.useless[c.id()] = true
		}
	}
	j.mu.Lock()
	found.damage = !p.Whole()
	j.found = found
	j.mu.Unlock()
	return p, nil
}

const progressEvery = 5 * time.Second

// slowTries is how often an engine that does not answer in its five seconds is asked for
// one message.
const slowTries = 12

// stallTime is how long a replay waits for a message of an engine in this process
// before it takes the next one for damaged. Shorter in tests.
var stallTime = 3 * time.Second

// A replaying is one run through the stream.
type replaying struct {
	j     *Journal
	e     *engine
	next  uint64 // sequence that comes next
	last  uint64
	apply func(*Record) error
	parts assembly
	p     *Progress

	patient bool // see replay
}

func (j *Journal) replayStream(ctx context.Context, e *engine, from, last uint64, apply func(*Record) error, p *Progress, patient bool) error {
	if j.follow != nil {
		return j.run(ctx, last, apply, p)
	}
	r := replaying{j: j, e: e, next: from, last: last, apply: apply, parts: assembly{}, p: p, patient: patient}
	for r.next <= r.last {
		err := r.consume(ctx)
		if isTimeout(err) && ctx.Err() == nil {
			err = r.stepOver(ctx)
		}
		if err != nil {
			return fmt.Errorf("replay at sequence %d of %d: %w", r.next, r.last, err)
		}
	}
	return nil
}

// consume reads messages until the last, or until none comes: a consumer of the
// engine stops at a damaged one.
func (r *replaying) consume(ctx context.Context) error {
	cons, err := r.e.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next})
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullMaxBytes(32<<20), jetstream.PullThresholdBytes(16<<20))
	if err != nil {
		return err
	}
	defer it.Stop()
	for r.next <= r.last {
		msg, err := it.Next(jetstream.NextMaxWait(stallTime))
		if err != nil {
			return err
		}
		md, err := msg.Metadata()
		if err != nil {
			return err
		}
		if err := r.take(md.Sequence.Stream, msg.Data()); err != nil {
			return err
		}
	}
	return nil
}

// stepOver reads one by one until a message can be read.
func (r *replaying) stepOver(ctx context.Context) error {
	from := r.next
	for seq := r.next; seq <= r.last; seq++ {
		msg, err := r.e.stream.GetMsg(ctx, seq)
		for try := 1; try < slowTries && isTimeout(err) && ctx.Err() == nil; try++ {
			// A busy machine or a slow disk: the message is not known to be damaged.
			r.j.log.Warn("The journal's engine does not answer, it is asked again", "sequence", seq, "err", err)
			msg, err = r.e.stream.GetMsg(ctx, seq)
		}
		if err == nil {
			return r.take(seq, msg.Data)
		}
		if ctx.Err() != nil {
			return err
		}
		if r.patient && isTimeout(err) {
			return fmt.Errorf("%w: %w", errInterrupted, err)
		}
	}
	r.lost(r.last + 1)
	r.next = r.last + 1
	r.j.log.Error("Nothing of the journal can be read from here on", "from", from, "to", r.last)
	return nil
}

// lost notes that what lies between the next sequence and this one is missing.
func (r *replaying) lost(seq uint64) {
	if seq > r.next {
		r.j.log.Error("The journal lacks records", "from", r.next, "to", seq-1)
		r.p.Lost += seq - r.next
	}
}

// take applies the message of a sequence.
func (r *replaying) take(seq uint64, data []byte) error {
	r.lost(seq)
	r.next = seq + 1
	if err := r.j.replayOne(data, r.parts, r.apply); err != nil {
		if errors.Is(err, ErrVersion) {
			return err
		}
		r.p.Damaged++
		r.j.log.Error("A record of the journal was left out", "sequence", seq, "err", err)
	}
	r.p.Records++
	r.j.progress(r.p)
	return nil
}

// progress tells how far a replay is.
func (j *Journal) progress(p *Progress) {
	j.metrics.replayed.Set(float64(p.Records) / float64(max(p.Of, p.Records)))
	if time.Since(p.told) > progressEvery {
		p.told = time.Now()
		j.log.Info("Replaying the journal", "records", p.Records, "of", p.Of)
	}
}

func (j *Journal) replayOne(data []byte, parts assembly, apply func(*Record) error) error {
	r, p, err := parse(data)
	if err != nil {
		return err
	}
	if p.total > 1 {
		if !parts.add(&r, p) {
			return nil
		}
	}
	return apply(&r)
}

// assembly puts split records together. What was never finished was never
// acknowledged.
type assembly map[uint64]*partial

type partial struct {
	number  uint64 // rising
	next    uint64
	body    []byte
	refused []uint32

	first uint64    // sequence of the first part, where a journal is followed
	at    time.Time // when the journal got that part
	came  time.Time // when it was read
}

// maxPartial bounds the records that are incomplete at a time. There are as many as
// requests in flight, and what never got its end: so the oldest go.
const maxPartial = 1024

func (a assembly) add(r *Record, p part) (whole bool) {
	h := a[p.id]
	if h == nil {
		if p.index != 0 {
			return false
		}
		h = &partial{}
		oldest, at := uint64(math.MaxUint64), uint64(0)
		for id, other := range a {
			h.number = max(h.number, other.number+1)
			if other.number < oldest {
				oldest, at = other.number, id
			}
		}
		if len(a) >= maxPartial {
			delete(a, at)
		}
		a[p.id] = h
	}
	if p.index != h.next {
		delete(a, p.id)
		return false
	}
	h.body = append(h.body, r.Body...)
	if p.shares {
		h.refused = append(h.refused, r.Refused...)
		r.Refused = h.refused
	}
	if h.next++; h.next < p.total {
		return false
	}
	r.Body = h.body
	delete(a, p.id)
	return true
}
