package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// Options configure a [Journal]. Path or Cluster is required.
type Options struct {
	Path       string // a directory of its own; made if missing
	SyncAlways bool   // fsync before each acknowledgement: survives power loss, else kill -9 alone
	MaxBytes   int64  // of the stream; over it Append refuses. 0: 16 GiB

	Cluster *Cluster // where the records are; nil: in Path, by an engine in this process

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// A Journal is an open journal. Its methods may be called concurrently, but
// Replay comes before the first Append.
type Journal struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	lock    fileutil.Releaser

	engineMu sync.RWMutex
	engine   *engine       // nil while it is being reopened
	broken   chan error    // why
	refused  atomic.Bool   // a record, since the last checkpoint, for lack of room
	unsure   atomic.Bool   // since the engine was opened a record hung: it may be stored, and is not applied
	asking   sync.Mutex    // held while the engine is asked for its size
	bytes    atomic.Uint64 // of the stream, as it last said
	ended    atomic.Bool
	closing  chan struct{}
	closed   sync.WaitGroup

	mu       sync.Mutex
	last     uint64            // sequence acknowledged last
	inflight map[uint64]uint64 // appends that are not applied: last when they began
	appends  uint64

	found   findings
	follow  *following // of a stream that others write, too; nil: nobody does
	due     chan struct{}
	buffers sync.Pool
}

// findings are what a replay has found out about the checkpoints, or the reopening of the
// engine, until the next one is written.
type findings struct {
	useless map[string]bool // ids of those that are damaged, or of a stream that was lost
	loaded  string          // id of the one that is best where none is good: it goes last
	damage  bool            // somewhere
}

// CloseTime is how long Close takes at most.
const CloseTime = 10 * time.Second

// Times of the journal. Variables, shorter in tests.
var (
	appendTime = 5 * time.Second // for a record to be taken, and again for it to be stored
	closeTime  = CloseTime       // for the engine to write what makes its next start fast

	reopenPause = time.Second
)

// publishRetries are for a stream without a leader, which nobody has heard: some
// 250 ms each.
const publishRetries = 8

// Open locks the directory and starts the engine on it. With a cluster it returns at
// once, and connects for as long as it takes.
func Open(opts Options) (*Journal, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = 16 << 30
	}
	j := &Journal{
		opts: opts, log: opts.Logger, inflight: map[uint64]uint64{},
		broken: make(chan error, 1), closing: make(chan struct{}), due: make(chan struct{}, 1),
	}
	if opts.Cluster != nil {
		if err := opts.Cluster.Check(); err != nil {
			return nil, err
		}
		j.follow = &following{parts: assembly{}, waiting: map[uint64]*waiter{}, behind: fmt.Errorf("%w: it is not replayed yet", ErrUnavailable)}
		j.metrics = newMetrics(opts.Registerer, j)
		j.closed.Go(j.keep)
		return j, nil
	}
	slow := time.AfterFunc(appendTime, func() {
		j.log.Warn("The journal is not open yet: it is large, or its disk hangs", "path", opts.Path)
	})
	defer slow.Stop()
	l, err := lock(opts.Path)
	if err != nil {
		return nil, err
	}
	e, err := startEngine(&opts)
	if err != nil {
		l.Release()
		return nil, fmt.Errorf("journal in %s: %w", opts.Path, err)
	}
	j.lock, j.engine = l, e
	j.bytes.Store(e.stream.CachedInfo().State.Bytes)
	j.metrics = newMetrics(opts.Registerer, j)
	j.closed.Go(j.supervise)
	j.closed.Go(j.watchSize)
	return j, nil
}

// Close stops the engine. Appends that are on their way fail. A second call does
// nothing. If the engine has not stopped after [CloseTime], because a call of the disk
// does not return, Close returns an error and lets it stop when it can; the directory
// is locked until then, or until the process ends, which it may at once: nothing
// acknowledged is lost by that.
func (j *Journal) Close() error {
	if j.ended.Swap(true) {
		return nil
	}
	close(j.closing)
	shut := make(chan error, 1)
	go func() { shut <- j.shut() }()
	wait := time.NewTimer(closeTime)
	defer wait.Stop()
	select {
	case err := <-shut:
		return err
	case <-wait.C:
		return fmt.Errorf("the journal did not close within %s: its disk hangs; what was acknowledged is in it", closeTime)
	}
}

// shut is Close, however long it takes.
func (j *Journal) shut() error {
	j.closed.Wait()
	j.engineMu.Lock()
	defer j.engineMu.Unlock()
	if j.engine != nil {
		j.engine.close()
		j.engine = nil
	}
	if j.lock == nil {
		return nil
	}
	return j.lock.Release()
}

// ErrUnavailable is the error while the journal cannot take records; it recovers
// by itself.
var ErrUnavailable = errors.New("the journal is not available at the moment")

// ErrFull is the error for a journal at its limit.
var ErrFull = errors.New("the journal is at its limit: --journal.max-bytes")

func (j *Journal) current() *engine {
	j.engineMu.RLock()
	defer j.engineMu.RUnlock()
	return j.engine
}

// Append adds a record and has it applied: when the journal has it, and it will be
// replayed until a checkpoint holds it, apply is called, and Append returns. What
// apply does is to be visible to dump of [Journal.Checkpoint]. After an error apply
// was not called, and will not be. The record belongs to the caller.
//
// After [ErrFull] the journal does not have the record. After [ErrUnavailable] it may
// have it, as with a request whose answer got lost: if its disk failed while it was
// stored, or had not stored it after five seconds. Then it is before all that is
// appended later, and a replay may apply it.
//
// Append returns within ten seconds for each 4 MiB of the body, whatever the disk does:
// five until it is the record's turn, five until it is stored. ctx does not shorten that.
func (j *Journal) Append(ctx context.Context, r *Record, apply func()) error {
	e := j.current()
	if e == nil {
		return ErrUnavailable
	}
	if j.follow != nil {
		return j.appendInTurn(ctx, e, r, apply)
	}
	if err := j.unsaved(); err != nil {
		j.metrics.failures.Inc()
		return err
	}
	j.mu.Lock()
	j.appends++
	id := j.appends
	j.inflight[id] = j.last
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		delete(j.inflight, id)
		j.mu.Unlock()
	}()
	if err := j.publish(ctx, e, r, 0); err != nil {
		return j.failed(err)
	}
	apply()
	return nil
}

// unsaved is the error until a checkpoint has what could be read of a journal that was
// damaged: what came before it would count as covered by an older one.
func (j *Journal) unsaved() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.follow != nil || !j.found.damage {
		return nil
	}
	return fmt.Errorf("%w: it was damaged, and what is left of it is not saved yet", ErrUnavailable)
}

// publish has the engine take a record, in parts if it is long. id tells its parts
// from those of others; 0: any will do.
func (j *Journal) publish(ctx context.Context, e *engine, r *Record, id uint64) error {
	cut := e.cutting()
	p := cut.parts(r)
	p.id = id
	if p.total > 1 && id == 0 {
		p.id = rand.Uint64()
	}
	buf, _ := j.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	for ; p.index < p.total; p.index++ {
		*buf = cut.append((*buf)[:0], r, p)
		sequence, err := e.publish(ctx, *buf)
		if errors.Is(err, errStuck) {
			return err // the buffer is the engine's for as long
		}
		if err != nil {
			j.buffers.Put(buf)
			return err
		}
		j.metrics.bytes.Add(float64(len(*buf)))
		j.mu.Lock()
		j.last = max(j.last, sequence)
		j.mu.Unlock()
	}
	j.buffers.Put(buf)
	j.metrics.records.Inc()
	return nil
}

// failed says what an error of the engine means, and has it reopened where that
// may help.
func (j *Journal) failed(err error) error {
	j.metrics.failures.Inc()
	if isFull(err) {
		j.refused.Store(true)
		j.isDue()
		return ErrFull
	}
	if errors.Is(err, errStuck) {
		j.unsure.Store(true)
	}
	if j.follow == nil && !errors.Is(err, errBusy) && !errors.Is(err, errEnded) {
		select {
		case j.broken <- err:
		default:
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// supervise reopens the engine after an error: its write errors are sticky.
func (j *Journal) supervise() {
	for {
		var why error
		select {
		case <-j.closing:
			return
		case why = <-j.broken:
		}
		j.engineMu.Lock()
		old := j.engine
		j.engine = nil
		j.engineMu.Unlock()
		j.log.Error("The journal failed: pushes are answered 503 until it is reopened", "path", j.opts.Path, "err", why)
		if old != nil {
			old.close()
		}
		for {
			select {
			case <-j.closing:
				return
			case <-time.After(reopenPause):
			}
			e, err := startEngine(&j.opts)
			if err == nil {
				err = j.reopened(e)
			}
			if err == nil {
				break
			}
			j.log.Warn("The journal cannot be reopened yet", "path", j.opts.Path, "err", err)
		}
	}
}

// reopened takes a new engine into use. If something of what it should have was moved
// aside or lost, memory has it: it takes no records before a checkpoint does, too.
func (j *Journal) reopened(e *engine) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	info, err := e.stream.Info(ctx)
	if err != nil {
		e.close()
		return err
	}
	j.mu.Lock()
	last, found := j.last, j.found
	j.mu.Unlock()
	unsure, back := false, info.State.LastSeq < last
	if back {
		if found, err = outdated(ctx, e, found); err != nil {
			e.close()
			return err
		}
	}
	if back || len(j.asides()) > 0 {
		unsure, found.damage = true, true
	}
	j.mu.Lock()
	if back {
		j.log.Error("The journal has lost acknowledged records; what they led to is still in memory, and in the next checkpoint", "lost", last-info.State.LastSeq)
		j.metrics.lost.Add(float64(last - info.State.LastSeq))
	}
	j.last, j.found = info.State.LastSeq, found
	j.mu.Unlock()
	if j.unsure.Swap(false) {
		unsure = true
	}
	j.engineMu.Lock()
	j.engine = e
	j.engineMu.Unlock()
	select {
	case <-j.broken: // what failed before is of the old one
	default:
	}
	if unsure {
		j.isDue() // from then on a replay leads to what is in memory now
	}
	j.metrics.reopened.Inc()
	j.log.Info("The journal is open again", "path", j.opts.Path)
	return nil
}

// outdated are the findings about a stream that has gone back: its sequences mean other
// records than in the checkpoints that there are, of which one is kept until there is
// another.
func outdated(ctx context.Context, e *engine, before findings) (findings, error) {
	list, err := e.checkpoints(ctx)
	if err != nil {
		return before, err
	}
	f := findings{useless: map[string]bool{}, loaded: before.loaded, damage: before.damage}
	for _, c := range list {
		if f.loaded == "" && !before.useless[c.id()] {
			f.loaded = c.id()
		}
		f.useless[c.id()] = true
	}
	return f, nil
}

// cut is the highest sequence of which all records up to it have been applied.
func (j *Journal) cut() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.last
	for _, began := range j.inflight {
		c = min(c, began)
	}
	return c
}
