package exposition

import (
	"context"
	"net"
	"sync"
)

// turns bound how many pages are rendered at a time. One address never has all of
// them, so that readers that stall do not keep the others waiting.
type turns struct {
	all chan struct{}

	mu   sync.Mutex
	from map[string]*source
}

// A source is an address with scrapes that are here now.
type source struct {
	scrapes int
	turns   chan struct{}
}

func newTurns(n int) turns {
	return turns{all: make(chan struct{}, n), from: map[string]*source{}}
}

// take waits for a turn until ctx ends; done gives it back. addr is that of the
// connection.
func (t *turns) take(ctx context.Context, addr string) (done func(), ok bool) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	t.mu.Lock()
	s := t.from[host]
	if s == nil {
		s = &source{turns: make(chan struct{}, max(1, cap(t.all)-1))}
		t.from[host] = s
	}
	s.scrapes++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if s.scrapes--; s.scrapes == 0 {
			delete(t.from, host)
		}
	}
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, false
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		<-s.turns
		leave()
		return nil, false
	}
	return func() {
		<-t.all
		<-s.turns
		leave()
	}, true
}
