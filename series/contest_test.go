package series

import (
	"fmt"
	"testing"
	"time"
)

// pushFrom sends one sample of an edge's.
func pushFrom(s *Store, edge string, now time.Time, ttl TTL, name string) {
	b := s.NewBatch(Request{Edge: edge, TTL: ttl, Received: now, Now: now})
	defer b.Release()
	b.Series(packed("__name__", name, "job", "y"))
	b.Float(now.UnixMilli(), 1, 0)
	b.Commit()
}

func TestContests(t *testing.T) {
	s := New(Options{})
	pushFrom(s, "a", t0, 60_000, "m")
	pushFrom(s, "b", at(time.Second), 60_000, "m")
	if got := s.Contests(at(time.Second)); len(got) != 0 {
		t.Errorf("a series that has moved: %+v", got)
	}
	pushFrom(s, "a", at(2*time.Second), 60_000, "m")
	pushFrom(s, "b", at(3*time.Second), 60_000, "n")
	pushFrom(s, "c", at(3*time.Second), 60_000, "n")
	got := s.Contests(at(4 * time.Second))
	if len(got) != 1 || got[0].Series != `m{job="y"}` || got[0].Edges != [2]string{"a", "b"} || !got[0].At.Equal(time.UnixMilli(at(2*time.Second).UnixMilli())) {
		t.Errorf("%+v", got)
	}
	if got := s.Contests(at(20 * time.Minute)); len(got) != 0 {
		t.Errorf("long after: %+v", got)
	}
	for i := range 200 { // two edges each
		for turn := range 3 {
			pushFrom(s, fmt.Sprint("edge-", i, "-", turn%2), at(time.Duration(5+i)*time.Second+time.Duration(turn)*time.Millisecond), 60_000, fmt.Sprint("m", i))
		}
	}
	if got := s.Contests(at(300 * time.Second)); len(got) != maxContests || got[0].Series != `m199{job="y"}` {
		t.Errorf("%d, the first %+v", len(got), got[0])
	}
}

// What expired is counted as missed if no page of all could have had its last sample.
func TestMissed(t *testing.T) {
	const ttl = 10_000
	for _, c := range []struct {
		name   string
		scans  []time.Duration // before and after the sample, which comes at 100 s and goes at 110 s
		missed uint64
	}{
		{"nobody scrapes", nil, 0},
		{"too few scrapes to know", []time.Duration{80 * time.Second, 95 * time.Second}, 0},
		{"shown", []time.Duration{65 * time.Second, 85 * time.Second, 105 * time.Second}, 0},
		{"shown as it comes", []time.Duration{60 * time.Second, 80 * time.Second, 100 * time.Second}, 0},
		{"between two scrapes", []time.Duration{59 * time.Second, 79 * time.Second, 99 * time.Second}, 1},
		{"scraped as it goes", []time.Duration{70 * time.Second, 90 * time.Second, 110 * time.Second}, 1},
	} {
		for _, shards := range []int{0, 3} {
			s := New(Options{})
			pushed := false
			for i, after := range append(c.scans, 111*time.Second) {
				if !pushed && after >= 100*time.Second {
					pushed = true
					if push(s, at(100*time.Second), ttl, packed("__name__", "m"), at(100*time.Second), 1).Stored != 1 {
						t.Fatal("not stored")
					}
					push(s, at(100*time.Second), 100*ttl, packed("__name__", "lives"), at(100*time.Second), 1)
				}
				if i < len(c.scans) {
					for n := range max(1, shards) {
						show(t, s, at(after), Query{Shard: n, Shards: shards})
					}
				}
				// What shows a part alone does not count.
				show(t, s, at(105*time.Second), Query{Edge: "a"})
				show(t, s, at(105*time.Second), Query{Matchers: [][]Matcher{{{Name: "__name__", Matches: func(string) bool { return true }}}}})
			}
			s.Sweep(at(111 * time.Second))
			s.Sweep(at(112 * time.Second))
			if n := s.Counters(); n.Expired != 1 || n.Missed != c.missed {
				t.Errorf("%s, %d shards: %+v", c.name, shards, n)
			}
		}
	}
}

// A slow clock, a fast one and a late sample change nothing: it is when the sample
// came, and when it went, that counts.
func TestMissedBySkew(t *testing.T) {
	for _, skew := range []time.Duration{-65 * time.Second, -30 * time.Second, 0, 5 * time.Minute} {
		for scan, missed := range map[time.Duration]uint64{99 * time.Second: 1, 101 * time.Second: 0} {
			s := New(Options{})
			for i := range minBegins {
				if i == minBegins-1 {
					push(s, at(100*time.Second), 60_000, packed("__name__", "m"), at(100*time.Second+skew), 1)
				}
				show(t, s, at(scan-time.Duration(minBegins-1-i)*time.Hour), Query{})
			}
			s.Sweep(at(161 * time.Second))
			if n := s.Counters(); n.Expired != 1 || n.Missed != missed {
				t.Errorf("skew %s, a scan at %s: %+v", skew, scan, n)
			}
		}
	}
}
