package series

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// fleet makes the label sets of n series as a fleet of machines sends them: ten
// labels, forty series a machine.
func fleet(n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		pod, m := i/40, i%40
		list[i] = packed(
			"__name__", fmt.Sprintf("container_metric_%02d_total", m),
			"cluster", "production-eu-west-1",
			"container", fmt.Sprintf("app-%d", pod%50),
			"endpoint", "https-metrics",
			"id", fmt.Sprintf("/kubepods/burstable/pod%08x", pod),
			"image", fmt.Sprintf("registry.example.com/team/app-%d:v1.%d", pod%50, pod%7),
			"instance", fmt.Sprintf("10.%d.%d.%d:10250", pod>>16&255, pod>>8&255, pod&255),
			"job", "kubelet",
			"namespace", fmt.Sprintf("ns-%d", pod%100),
			"pod", fmt.Sprintf("app-%d-%08x", pod%50, pod),
		)
	}
	return list
}

const perRequest = 2000

// ingest sends every series once, in requests of perRequest.
func ingest(s *Store, list [][]byte, now time.Time) {
	for from := 0; from < len(list); from += perRequest {
		b := s.NewBatch(Request{Edge: "a", Received: now, Now: now})
		for i, labels := range list[from:min(from+perRequest, len(list))] {
			b.Series(labels)
			b.Float(now.UnixMilli(), float64(i), 0)
		}
		b.Commit()
		b.Release()
	}
}

// laidOut puts label sets one behind the other, as they lie in a request.
func laidOut(list [][]byte, order []int) [][]byte {
	var arena []byte
	for _, i := range order {
		arena = append(arena, list[i]...)
	}
	out := make([][]byte, len(order))
	for n, i := range order {
		out[n], arena = arena[:len(list[i])], arena[len(list[i]):]
	}
	return out
}

func stable(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

func BenchmarkIngest(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		list := fleet(n)
		for _, how := range []string{"stable", "random"} {
			b.Run(fmt.Sprintf("order=%s/series=%d", how, n), func(b *testing.B) {
				s := New(Options{})
				order := stable(n)
				sent := laidOut(list, order)
				ingest(s, sent, at(0))
				now := at(0)
				b.ReportAllocs()
				for b.Loop() {
					if how == "random" {
						b.StopTimer()
						rand.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
						sent = laidOut(list, order)
						b.StartTimer()
					}
					now = now.Add(15 * time.Second)
					ingest(s, sent, now)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
			})
		}
		b.Run(fmt.Sprintf("order=new/series=%d", n), func(b *testing.B) {
			for b.Loop() {
				ingest(New(Options{}), list, at(0))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
		})
	}
}

// counting is a Visitor that looks at everything and writes nothing.
type counting struct{ series, bytes int }

func (c *counting) BeginFamily(*Family) {}
func (c *counting) Series(_ *Family, s *Series) {
	c.series++
	for p := range s.Pairs {
		c.bytes += len(p.Name) + len(p.Value)
	}
}
func (c *counting) EndFamily(*Family) {}
func (c *counting) Flush() error      { return nil }

func BenchmarkScan(b *testing.B) {
	const n = 1_000_000
	s := New(Options{})
	ingest(s, fleet(n), at(0))
	b.ReportAllocs()
	for b.Loop() {
		var c counting
		if err := s.Scan(at(0), Query{}, &c); err != nil || c.series != n {
			b.Fatal(err, c.series)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/series")
}

func BenchmarkSweep(b *testing.B) {
	const n = 1_000_000
	s := New(Options{})
	ingest(s, fleet(n), at(0))
	for b.Loop() {
		s.Sweep(at(0))
	}
}

// BenchmarkFamilyOfManyTexts scans one family for which each edge has a HELP of its
// own, and asks whether an edge has said so, as each of its requests does.
func BenchmarkFamilyOfManyTexts(b *testing.B) {
	const edges = 8000
	s := New(Options{})
	help := func(i int) []byte { return fmt.Appendf(nil, "built by %d", i) }
	for i := range edges {
		batch := s.NewBatch(Request{Edge: fmt.Sprint("e", i), Received: t0, Now: t0})
		batch.Series(packed("__name__", "up", "edge", fmt.Sprint(i)))
		batch.Float(t0.UnixMilli(), 1, 0)
		batch.Metadata([]byte("up"), MetricType(1+i%2), help(i), nil)
		batch.Commit()
		batch.Release()
	}
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			if err := s.Scan(t0, Query{}, &counting{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("said", func(b *testing.B) {
		same := help(edges - 1)
		for b.Loop() {
			if !s.metadata.unchanged(s.ownerIDs[fmt.Sprint("e", edges-1)], []byte("up"), MetricType(1+(edges-1)%2), same, nil) {
				b.Fatal("unknown")
			}
		}
	})
}

// BenchmarkScanOfAnEdge asks for one edge of many, with few series and a group among
// many.
func BenchmarkScanOfAnEdge(b *testing.B) {
	s := New(Options{})
	for i := range 8000 {
		for g := range 10 {
			batch := s.NewBatch(Request{Edge: fmt.Sprint("e", i), Received: t0, Now: t0, Group: &Group{Labels: packed("job", fmt.Sprint(i, ".", g))}})
			batch.Series(packed("__name__", "m", "job", fmt.Sprint(i, ".", g)))
			batch.Float(t0.UnixMilli(), 1, 0)
			batch.Commit()
			batch.Release()
		}
	}
	for b.Loop() {
		if err := s.Scan(t0, Query{Edge: "e7"}, &counting{}); err != nil {
			b.Fatal(err)
		}
	}
}
