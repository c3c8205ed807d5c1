package journal

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A writer stores records, one after the other, in a goroutine of its own: a disk that
// hangs does not return from a system call, so whoever is to wait for it no longer than
// some time must not be in that call himself. The store has one lock for all that is
// written to it, so one writer is as fast as several.
type writer struct {
	store server.StreamStore
	work  chan *storing // unbuffered: what is not taken is not stored
	quit  chan struct{}
	ended chan struct{}
	spare sync.Pool // of *storing
}

// A storing is a record that is being stored.
type storing struct {
	data     []byte
	sequence uint64
	err      error
	done     chan struct{} // holds one: the writer waits for nobody
	wait     *time.Timer
}

// errBusy is the error for a record whose turn did not come: it is not stored.
var errBusy = errors.New("the disk of --journal.path does not keep up")

// errStuck is the error for a record that is being stored for too long: sooner or later
// it may be there.
var errStuck = errors.New("the disk of --journal.path hangs")

// errEnded is the error for a record that comes when the engine has been given up: it is
// not stored.
var errEnded = errors.New("the engine is being closed")

func newWriter(store server.StreamStore) *writer {
	w := &writer{store: store, work: make(chan *storing), quit: make(chan struct{}), ended: make(chan struct{})}
	go w.run()
	return w
}

func (w *writer) run() {
	defer close(w.ended)
	for {
		select {
		case s := <-w.work:
			s.sequence, _, s.err = w.store.StoreMsg(subject, nil, s.data, 0)
			s.done <- struct{}{}
		case <-w.quit:
			return
		}
	}
}

// write has a record stored. After errStuck data may still be read.
func (w *writer) write(data []byte) (sequence uint64, err error) {
	s, _ := w.spare.Get().(*storing)
	if s == nil {
		s = &storing{done: make(chan struct{}, 1), wait: time.NewTimer(appendTime)}
	}
	s.data = data
	s.wait.Reset(appendTime)
	select {
	case w.work <- s:
	default:
		select {
		case w.work <- s:
		case <-w.quit:
			s.wait.Stop()
			return 0, errEnded
		case <-s.wait.C:
			return 0, fmt.Errorf("%w: others were written for %s", errBusy, appendTime)
		}
		s.wait.Reset(appendTime)
	}
	select {
	case <-s.done:
	case <-s.wait.C:
		return 0, fmt.Errorf("%w: a write has not returned after %s", errStuck, appendTime)
	}
	s.wait.Stop()
	sequence, err, s.data = s.sequence, s.err, nil
	w.spare.Put(s)
	return sequence, err
}

// close has the writer take no more records.
func (w *writer) close() { close(w.quit) }

// wait returns when it has ended.
func (w *writer) wait() { <-w.ended }
