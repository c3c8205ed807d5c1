package exposition

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"relay/series"
)

// benchStore holds n series of ten labels in the order in which edges send them.
func benchStore(tb testing.TB, n int) *series.Store {
	store := series.New(series.Options{})
	for i := range 40 {
		push(tb, store, "e", func(b *series.Batch) {
			b.Metadata(fmt.Appendf(nil, "container_metric_%d_total", i), series.Counter, []byte("Some help."), nil)
		})
	}
	now := time.Now()
	for from := 0; from < n; from += 2000 {
		b := store.NewBatch(series.Request{Edge: "e", Received: now, Now: now})
		for i := from; i < min(from+2000, n); i++ {
			pod := i / 40
			b.Series(set("__name__", fmt.Sprintf("container_metric_%d_total", i%40), "cluster", "prod-eu-1", "container", "app",
				"endpoint", "https-metrics", "instance", fmt.Sprintf("10.%d.%d.%d:10250", pod>>16&255, pod>>8&255, pod&255),
				"job", "kubelet", "namespace", fmt.Sprintf("team-%d", pod%97), "node", fmt.Sprintf("node-%d", pod%500),
				"pod", fmt.Sprintf("app-%06d-abcde", pod), "service", "kubelet"))
			b.Float(now.UnixMilli(), float64(i)*[]float64{1, 0.37}[i%2], 0)
		}
		b.Commit()
		b.Release()
	}
	return store
}

type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(int)             {}

func BenchmarkScrape(b *testing.B) {
	const n = 1_000_000
	store := benchStore(b, n)
	for _, accept := range allAccepts {
		for _, enc := range []string{"identity", "gzip", "zstd"} {
			b.Run(fmt.Sprintf("series=%d/format=%s/encoding=%s", n, negotiate(accept).syntax, enc), func(b *testing.B) {
				h, err := New(Options{Store: store})
				if err != nil {
					b.Fatal(err)
				}
				r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
				r.Header.Set("Accept", accept)
				r.Header.Set("Accept-Encoding", enc)
				b.ReportAllocs()
				for b.Loop() {
					h.ServeHTTP(&nowhere{http.Header{}}, r)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*b.N), "ns/series")
			})
		}
	}
}

// BenchmarkCentre is what a page costs the Prometheus that scrapes it, before it
// appends a sample: reading it with its parser.
func BenchmarkCentre(b *testing.B) {
	const n = 100_000
	store := benchStore(b, n)
	for _, accept := range []string{acceptText1, acceptOM, acceptProto} {
		w := get(b, store, Options{}, accept, "")
		b.Run(fmt.Sprintf("series=%d/format=%s", n, negotiate(accept).syntax), func(b *testing.B) {
			for b.Loop() {
				p, err := textparse.New(w.Body.Bytes(), w.Header().Get("Content-Type"), nil, textparse.ParserOptions{})
				if err != nil {
					b.Fatal(err)
				}
				var l labels.Labels
				for {
					entry, err := p.Next()
					if err != nil {
						break
					}
					if entry == textparse.EntrySeries {
						p.Labels(&l)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*b.N), "ns/series")
		})
	}
}
