package exposition

import (
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"relay/series"
)

// Scrapes is what is known of those that ask for all series, or for shards of them.
type Scrapes struct {
	// The last page that was answered in full; all zero before the first.
	At     time.Time
	Took   time.Duration
	Bytes  int64 // as sent
	Series int

	// Interval is how often the centre scrapes: the median of its last intervals, of
	// several the longest. 0: not known. Only those count who say how long they wait
	// (X-Prometheus-Scrape-Timeout-Seconds), as Prometheus and its like do.
	Interval time.Duration
}

// scrapes learns from them.
type scrapes struct {
	mu       sync.Mutex
	last     Scrapes
	whole    time.Time // when the last page of all series, not of a shard, began
	scrapers *lru.Cache[scraper, *rhythm]
}

// A scraper is who scrapes: a connection, which Prometheus keeps for a target, or
// where these are not kept all from one address, with addr without a port.
type scraper struct {
	addr, agent   string
	shard, shards int
}

// A rhythm is when the last scrapes of a scraper began, a ring.
type rhythm struct {
	at [8]time.Time
	n  int
}

const (
	maxScrapers = 256
	minGaps     = 2
)

func newScrapes() *scrapes {
	s := &scrapes{}
	s.scrapers, _ = lru.New[scraper, *rhythm](maxScrapers)
	return s
}

// answered notes a page that was answered in full.
func (s *scrapes) answered(r *http.Request, q *series.Query, begun time.Time, bytes int64, shown int) {
	if q.Matchers != nil || q.Edge != "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Shards <= 1 {
		s.whole = begun
	}
	s.last = Scrapes{At: begun, Took: time.Since(begun), Bytes: bytes, Series: shown}
	if r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds") == "" {
		return
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	agent := r.UserAgent()
	for _, addr := range []string{r.RemoteAddr, host} {
		who := scraper{addr, agent[:min(len(agent), 100)], q.Shard, q.Shards}
		h, ok := s.scrapers.Get(who)
		if !ok {
			h = &rhythm{}
			s.scrapers.Add(who, h)
		}
		h.at[h.n%len(h.at)] = begun
		h.n++
	}
}

// interval is the median of the last intervals; 0 before there are some, and after
// the scraper has stopped.
func (h *rhythm) interval(now time.Time) time.Duration {
	at := slices.Clone(h.at[:min(h.n, len(h.at))])
	slices.SortFunc(at, time.Time.Compare)
	var gaps []time.Duration
	for i := 1; i < len(at); i++ {
		gaps = append(gaps, at[i].Sub(at[i-1]))
	}
	if len(gaps) < minGaps {
		return 0
	}
	slices.Sort(gaps)
	median := gaps[len(gaps)/2]
	if now.Sub(at[len(at)-1]) > 5*median+time.Minute {
		return 0
	}
	return median
}

func (s *scrapes) known(now time.Time) Scrapes {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.last
	var ofAddress time.Duration
	for _, who := range s.scrapers.Keys() {
		h, _ := s.scrapers.Peek(who)
		if _, _, err := net.SplitHostPort(who.addr); err == nil {
			known.Interval = max(known.Interval, h.interval(now))
		} else {
			ofAddress = max(ofAddress, h.interval(now))
		}
	}
	if known.Interval == 0 {
		known.Interval = ofAddress
	}
	return known
}

// lastWhole is when the last page of all series began; zero: there was none.
func (s *scrapes) lastWhole() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole
}

// Scrapes says what is known of the scrapes so far.
func (h *Handler) Scrapes() Scrapes { return h.scrapes.known(time.Now()) }
