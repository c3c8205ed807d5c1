package ingest

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// A room is what all requests share: the bytes that they may take in memory, and
// the turns at being decoded. One edge never has more than half of the bytes and
// three quarters of the turns, so that the others find some however many requests it
// sends, and however slowly.
type room struct {
	total int64
	half  int64 // of the bytes, for one edge
	all   *semaphore.Weighted
	turns chan struct{}

	mu     sync.Mutex
	used   int64
	shares map[string]*share // of the edges that are here now
	spare  []*share
}

// A share is what one edge has of the room while requests of it are here.
type share struct {
	room  *room
	edge  string
	users int
	bytes *semaphore.Weighted
	turns chan struct{}
}

// init makes room for bytes, and for requests to be decoded at a time. The largest
// request fits into the share of an edge.
func (r *room) init(bytes, largest int64, turns int) {
	r.total, r.half = bytes, min(bytes, max(bytes/2, largest))
	r.all = semaphore.NewWeighted(bytes)
	r.turns = make(chan struct{}, turns)
	r.shares = map[string]*share{}
}

// of returns the share of an edge; leave gives it back.
func (r *room) of(edge string) *share {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.shares[edge]
	if s == nil {
		if n := len(r.spare); n > 0 {
			s, r.spare = r.spare[n-1], r.spare[:n-1]
		} else {
			s = &share{room: r, bytes: semaphore.NewWeighted(r.half), turns: make(chan struct{}, max(1, cap(r.turns)*3/4))}
		}
		s.edge = edge
		r.shares[edge] = s
	}
	s.users++
	return s
}

const maxSpare = 64

func (s *share) leave() {
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	delete(r.shares, s.edge)
	if len(r.spare) < maxSpare {
		r.spare = append(r.spare, s)
	}
}

// take waits a little for n bytes.
func (s *share) take(ctx context.Context, n int64) *refusal {
	if !acquire(ctx, s.bytes, n) {
		return refuse(http.StatusServiceUnavailable, "inflight_bytes", "the requests of this edge that are being taken have half of --limits.inflight-bytes, the most for one edge")
	}
	if !acquire(ctx, s.room.all, n) {
		s.bytes.Release(n)
		return refuse(http.StatusServiceUnavailable, "inflight_bytes", "too many bytes are being taken at the moment: --limits.inflight-bytes")
	}
	s.room.mu.Lock()
	s.room.used += n
	s.room.mu.Unlock()
	return nil
}

func acquire(ctx context.Context, sem *semaphore.Weighted, n int64) bool {
	if sem.TryAcquire(n) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, roomWait)
	defer cancel()
	return sem.Acquire(ctx, n) == nil
}

func (s *share) give(n int64) {
	s.room.all.Release(n)
	s.bytes.Release(n)
	s.room.mu.Lock()
	s.room.used -= n
	s.room.mu.Unlock()
}

// inUse is how many bytes are taken.
func (r *room) inUse() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// roomWait is short: who waits holds a connection and perhaps half of what it
// needs.
const roomWait = time.Second

// turn waits for a turn at being decoded, first among the requests of the same
// edge; done ends it.
func (s *share) turn(ctx context.Context) (done func(), bad *refusal) {
	select {
	case s.turns <- struct{}{}:
		select {
		case s.room.turns <- struct{}{}:
			return s.turnDone, nil
		default:
			<-s.turns
		}
	default:
	}
	wait := time.NewTimer(maxWait)
	defer wait.Stop()
	if bad := await(ctx, s.turns, wait); bad != nil {
		return nil, bad
	}
	if bad := await(ctx, s.room.turns, wait); bad != nil {
		<-s.turns
		return nil, bad
	}
	return s.turnDone, nil
}

func (s *share) turnDone() {
	<-s.room.turns
	<-s.turns
}

func await(ctx context.Context, turns chan struct{}, wait *time.Timer) *refusal {
	select {
	case turns <- struct{}{}:
		return nil
	case <-wait.C:
		return refuse(http.StatusServiceUnavailable, "busy", "no processor was free for %s", maxWait)
	case <-ctx.Done():
		return refuse(http.StatusServiceUnavailable, "busy", "the client has gone")
	}
}
