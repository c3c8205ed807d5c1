package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A gatedStore is a stream's store on a disk that can be made to hang: a call does not
// return until the gate is opened. What it has to store it stores before or after that.
type gatedStore struct {
	server.StreamStore
	stuck chan struct{} // gets a value when a call hangs
	gate  chan struct{} // closed: open
	late  bool          // it is stored when the gate has opened: then the engine may be closed
	kept  atomic.Int64  // what was stored

	changed atomic.Bool // what was being stored
}

func (s *gatedStore) StoreMsg(subject string, header, msg []byte, ttl int64) (sequence uint64, at int64, err error) {
	if !s.late {
		sequence, at, err = s.StreamStore.StoreMsg(subject, header, msg, ttl)
	}
	before := bytes.Clone(msg)
	select {
	case s.stuck <- struct{}{}:
	default:
	}
	<-s.gate
	if !bytes.Equal(msg, before) {
		s.changed.Store(true)
	}
	if s.late {
		sequence, at, err = s.StreamStore.StoreMsg(subject, header, msg, ttl)
	}
	if err == nil {
		s.kept.Add(1)
	}
	return sequence, at, err
}

// hang makes the disk of a journal hang until open is called. Meanwhile appends do not
// wait for as long as else: that is too short for what must not fail on a busy machine.
func (j *Journal) hang(t *testing.T, late bool) (s *gatedStore, open func()) {
	w := j.current().direct
	s = &gatedStore{StreamStore: w.store, stuck: make(chan struct{}, 1), gate: make(chan struct{}), late: late}
	w.store = s // the writer looks when it gets a record
	usual := appendTime
	appendTime = 300 * time.Millisecond
	open = sync.OnceFunc(func() {
		close(s.gate)
		appendTime = usual
	})
	t.Cleanup(open)
	return s, open
}

// until pushes a record until the writer has got it, and hangs.
func (s *gatedStore) until(push func()) {
	for {
		push()
		select {
		case <-s.stuck:
			return
		case <-time.After(2 * appendTime): // refused: the writer was busy elsewhere
		}
	}
}

// received are the times of records, which tests tell them apart by.
func received(records []Record) (out []int64) {
	for _, r := range records {
		out = append(out, r.Received)
	}
	return out
}

// While the disk hangs appends are refused: the one that it hangs in when its time is
// over, all others then at the latest. When it goes on, so does the journal. The record
// that it hung in may be there: before all that came later, and whole.
func TestAppendWhileTheDiskHangs(t *testing.T) {
	for _, late := range []bool{false, true} {
		for _, checkpoint := range []bool{false, true} {
			t.Run(fmt.Sprintf("late=%v checkpoint=%v", late, checkpoint), func(t *testing.T) {
				dir := t.TempDir()
				j := open(t, dir)
				defer func() { j.Close() }()
				j.mustAppend(t, record(0))
				size := j.size()
				store, release := j.hang(t, late)
				var pushers sync.WaitGroup
				push := func(i int) {
					pushers.Go(func() {
						if err := j.Append(context.Background(), record(i), func() { t.Errorf("record %d is applied", i) }); !errors.Is(err, ErrUnavailable) {
							t.Errorf("record %d while the disk hangs: %v", i, err)
						}
					})
				}
				store.until(func() { push(1) })
				for i := range 8 {
					push(10 + i)
				}
				pushers.Wait()
				eventually(t, "an engine that is given up", func() bool { return j.current() == nil })
				push(20)
				pushers.Wait()
				if cut := j.cut(); cut != 1 {
					t.Errorf("the cut is %d", cut)
				}
				if err := j.Checkpoint(t.Context(), dumpOf("hanging")); !errors.Is(err, ErrUnavailable) {
					t.Errorf("a checkpoint while the disk hangs: %v", err)
				}
				if now := j.size(); now != size || j.Status().Up {
					t.Errorf("the size is %v and was %v; %+v", now, size, j.Status())
				}
				for range 100 { // what others do with buffers must not be seen in what is stuck
					if b, _ := j.buffers.Get().(*[]byte); b != nil {
						clear((*b)[:cap(*b)])
					}
				}
				release()
				defer func() {
					if store.changed.Load() {
						t.Error("what is being stored was changed meanwhile")
					}
				}()
				eventually(t, "a record that is taken again", func() bool {
					return j.Append(context.Background(), record(2), func() {}) == nil
				})
				if lost := counter(t, j.metrics.lost); lost != 0 {
					t.Errorf("%v records are said to be lost", lost)
				}
				j.mustAppend(t, record(3))
				want, last := []int64{0, 1, 2, 3}, uint64(4)
				if store.kept.Load() == 0 {
					want, last = []int64{0, 2, 3}, 3
				}
				select {
				case <-j.Due():
				default:
					t.Error("no checkpoint is due: a replay leads to more than what is in memory")
				}
				if checkpoint {
					if cut := j.cut(); cut != last {
						t.Errorf("the cut is %d", cut)
					}
					if err := j.Checkpoint(t.Context(), dumpOf("all")); err != nil {
						t.Fatal(err)
					}
					j.mustAppend(t, record(4))
					want = []int64{4}
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				j = open(t, dir)
				_, records, p := replayed(t, j)
				if got := received(records); !slices.Equal(got, want) || !p.Whole() {
					t.Errorf("replayed %v, want %v; %+v", got, want, p)
				}
				for _, r := range records {
					if want := record(int(r.Received)); fmt.Sprintf("%+v", r) != fmt.Sprintf("%+v", *want) {
						t.Errorf("replayed %+v, want %+v", r, *want)
					}
				}
			})
		}
	}
}

// A journal whose disk hangs is closed in bounded time, and keeps others off its
// directory until the disk goes on.
func TestCloseWhileTheDiskHangs(t *testing.T) {
	dir := t.TempDir()
	for _, given := range []string{"an engine in use", "an engine that is given up"} {
		j := open(t, dir)
		store, release := j.hang(t, true)
		var pusher sync.WaitGroup
		store.until(func() {
			pusher.Go(func() { j.Append(context.Background(), record(0), func() { t.Error("applied") }) })
		})
		if given != "an engine in use" {
			eventually(t, given, func() bool { return j.current() == nil })
		}
		usual := closeTime
		closeTime = 300 * time.Millisecond
		if err := j.Close(); err == nil || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("%s: closed: %v", given, err)
		}
		closeTime = usual
		pusher.Wait()
		if _, err := Open(Options{Path: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Fatalf("%s: opened by another: %v", given, err)
		}
		release()
		eventually(t, "a journal that is closed", func() bool {
			again, err := Open(Options{Path: dir, MaxBytes: 64 << 20})
			if err != nil {
				return false
			}
			return again.Close() == nil
		})
	}
}

// A slowStore takes a while for each record.
type slowStore struct {
	server.StreamStore
	stored atomic.Int64
}

func (s *slowStore) StoreMsg(subject string, header, msg []byte, ttl int64) (uint64, int64, error) {
	time.Sleep(appendTime / 10)
	s.stored.Add(1)
	return s.StreamStore.StoreMsg(subject, header, msg, ttl)
}

// A disk that is slow is not one that hangs: what it cannot take in time is refused and
// not stored, and the engine stays in use.
func TestSlowDisk(t *testing.T) {
	usual := appendTime
	appendTime = 3 * time.Second // a loaded machine is slow by itself
	defer func() { appendTime = usual }()
	dir := t.TempDir()
	j := open(t, dir)
	defer func() { j.Close() }()
	e := j.current()
	slow := &slowStore{StreamStore: e.direct.store}
	e.direct.store = slow
	var mu sync.Mutex
	var want []int64
	var busy int
	var pushers sync.WaitGroup
	for i := range 20 {
		pushers.Go(func() {
			err := j.Append(context.Background(), record(i), func() {})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				want = append(want, int64(i))
			case errors.Is(err, errBusy) && errors.Is(err, ErrUnavailable):
				busy++
			default:
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	pushers.Wait()
	if busy == 0 || len(want) == 0 || int(slow.stored.Load()) != len(want) {
		t.Errorf("%d are refused, %d taken, %d stored", busy, len(want), slow.stored.Load())
	}
	j.mustAppend(t, record(20))
	if j.current() != e || counter(t, j.metrics.reopened) != 0 {
		t.Error("the engine was given up")
	}
	j.Close()
	j = open(t, dir)
	_, records, _ := replayed(t, j)
	got := received(records)
	want = append(want, 20)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("replayed %v, want %v", got, want)
	}
}

func counter(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
