package exposition

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"relay/series"
)

func TestScrapeInterval(t *testing.T) {
	type scrape struct {
		at       time.Duration
		addr     string
		shard, n int
		plain    bool // without the header
	}
	steady := func(addr string, every, from time.Duration) (list []scrape) {
		for i := range 10 {
			list = append(list, scrape{at: from + time.Duration(i)*every, addr: addr})
		}
		return list
	}
	curls := steady("10.0.0.1:1", time.Second, 0)
	for i := range curls {
		curls[i].plain = true
	}
	shards := append(steady("10.0.0.1:1", 30*time.Second, 0), steady("10.0.0.1:2", 30*time.Second, 0)...)
	for i := range shards {
		shards[i].shard, shards[i].n = i/10, 2
	}
	var fresh []scrape // a connection each
	for i := range 10 {
		fresh = append(fresh, scrape{at: time.Duration(i) * 20 * time.Second, addr: fmt.Sprint("10.0.0.1:", 1000+i)})
	}
	long := steady("10.0.0.1:1", 15*time.Second, 0)
	long[5].at += 7 * time.Second // late once
	for _, c := range []struct {
		name    string
		scrapes []scrape
		want    time.Duration
	}{
		{"none", nil, 0},
		{"two", steady("10.0.0.1:1", 15*time.Second, 0)[:2], 0},
		{"steady", steady("10.0.0.1:1", 15*time.Second, 0), 15 * time.Second},
		{"late once", long, 15 * time.Second},
		{"a pair behind one address", append(steady("10.0.0.1:1", 15*time.Second, 0), steady("10.0.0.1:2", 15*time.Second, 4*time.Second)...), 15 * time.Second},
		{"two centres", append(steady("10.0.0.1:1", 15*time.Second, 0), steady("10.0.0.2:2", time.Minute, 0)...), time.Minute},
		{"shards", shards, 30 * time.Second},
		{"a connection each", fresh, 20 * time.Second},
		{"somebody looks at it", append(curls, steady("10.0.0.2:1", 15*time.Second, 0)...), 15 * time.Second},
		{"somebody alone", curls, 0},
	} {
		s := newScrapes()
		begun := time.Now()
		end := begun
		for _, x := range c.scrapes {
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			if r.RemoteAddr = x.addr; !x.plain {
				r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "10")
			}
			at := begun.Add(x.at)
			if at.After(end) {
				end = at
			}
			s.answered(r, &series.Query{Shard: x.shard, Shards: x.n}, at, 100, 5)
		}
		if got := s.known(end); got.Interval != c.want || len(c.scrapes) > 0 && (got.Bytes != 100 || got.Series != 5) {
			t.Errorf("%s: %+v, want %s", c.name, got, c.want)
		}
		if got := s.known(end.Add(time.Hour)); got.Interval != 0 {
			t.Errorf("%s: an hour later %s", c.name, got.Interval)
		}
	}
}

// Only pages of all series, or of shards of them, tell.
func TestScrapesOfAll(t *testing.T) {
	store := series.New(series.Options{})
	h, err := New(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		query string
		tells bool
	}{{"?match[]=up", false}, {"?edge=a", false}, {"?page=up", false}, {"", true}, {"?shard=0/2", true}} {
		h.scrapes = newScrapes()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics"+c.query, nil))
		if got := h.Scrapes(); w.Code != 200 || got.At.IsZero() == c.tells {
			t.Errorf("%s: %d, %+v", c.query, w.Code, got)
		}
	}
}
