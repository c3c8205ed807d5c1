package ingest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"relay/series"
)

// A load is what senders send: n series of ten labels, 2000 a request, as
// requests that are ready to be sent.
type load struct {
	samples int
	bodies  [][]byte
	version version
}

const perRequest = 2000

func labelsOf(i, n int) []string {
	pod := i / 40
	l := []string{
		"__name__", fmt.Sprintf("container_metric_%d_total", i%40), "cluster", "prod-eu-1", "container", "app",
		"endpoint", "https-metrics", "instance", fmt.Sprintf("10.%d.%d.%d:10250", pod>>16&255, pod>>8&255, pod&255),
		"job", "kubelet", "namespace", fmt.Sprintf("team-%d", pod%97), "node", fmt.Sprintf("node-%d", pod%500),
		"pod", fmt.Sprintf("app-%06d-abcde", pod), "service", "kubelet",
	}
	for i := 10; i < n; i++ {
		l = append(l, fmt.Sprintf("t%02d", i), fmt.Sprintf("value-%d", pod%(i*3)))
	}
	return l[:2*n]
}

func newLoad(v version, n, labels int, order []int) load {
	l := load{version: v}
	now := time.Now().UnixMilli()
	for from := 0; from < n; from += perRequest {
		var req message
		part := order[from:min(from+perRequest, n)]
		if v == v1 {
			one := &prompb.WriteRequest{}
			for _, i := range part {
				s := ts(float64(i), labelsOf(i, labels)...)
				s.Samples[0].Timestamp = now
				one.Timeseries = append(one.Timeseries, s)
			}
			req = one
		} else {
			two := &writev2.Request{Symbols: []string{""}}
			refs := map[string]uint32{}
			for _, i := range part {
				s := writev2.TimeSeries{Samples: []writev2.Sample{{Value: float64(i), Timestamp: now}}}
				for _, text := range labelsOf(i, labels) {
					ref, ok := refs[text]
					if !ok {
						ref = uint32(len(two.Symbols))
						refs[text] = ref
						two.Symbols = append(two.Symbols, text)
					}
					s.LabelsRefs = append(s.LabelsRefs, ref)
				}
				two.Timeseries = append(two.Timeseries, s)
			}
			req = two
		}
		raw, err := req.Marshal()
		if err != nil {
			panic(err)
		}
		l.bodies = append(l.bodies, snappy.Encode(nil, raw))
		l.samples += len(part)
	}
	return l
}

func ordered(n int) []int {
	o := make([]int, n)
	for i := range o {
		o[i] = i
	}
	return o
}

// nowhere is a ResponseWriter that keeps nothing.
type nowhere struct {
	header http.Header
	code   int
}

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(code int)        { w.code = code }

// push hands all requests of a load to a handler, without a network.
func (l *load) push(tb testing.TB, h http.Handler) {
	body := bytes.NewReader(nil)
	req := httptest.NewRequest(http.MethodPost, "/api/v1/write", body)
	req.Body = http.NoBody
	if l.version == v2 {
		req.Header.Set("Content-Type", type2)
	}
	w := &nowhere{header: http.Header{}}
	for _, b := range l.bodies {
		body.Reset(b)
		req.Body, req.ContentLength = readCloser{body}, int64(len(b))
		h.ServeHTTP(w, req)
		if w.code != http.StatusNoContent {
			tb.Fatalf("answered %d", w.code)
		}
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func BenchmarkPush(b *testing.B) {
	const n = 1_000_000
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() []int { return rng.Perm(n) } // another one each time
	for _, c := range []struct {
		name   string
		v      version
		labels int
		orders [][]int
	}{
		{"v1/order=stable", v1, 10, [][]int{ordered(n)}},
		{"v2/order=stable", v2, 10, [][]int{ordered(n)}},
		{"v1/order=random", v1, 10, [][]int{random(), random(), random(), random()}},
		{"v2/order=random", v2, 10, [][]int{random(), random(), random(), random()}},
		{"v1/order=pair", v1, 10, [][]int{ordered(n), reversedPods(n)}},
		{"v1/order=stable/labels=30", v1, 30, [][]int{ordered(n)}},
	} {
		b.Run(fmt.Sprintf("series=%d/%s", n, c.name), func(b *testing.B) {
			h := New(Options{Store: series.New(series.Options{}), InflightBytes: 1 << 30})
			// The store remembers the order in which series were new, and the one
			// before the last: neither is one of several.
			first := newLoad(c.v, n, c.labels, ordered(n))
			first.push(b, h)
			var loads []load
			for _, o := range c.orders {
				l := newLoad(c.v, n, c.labels, o)
				l.push(b, h)
				loads = append(loads, l)
			}
			loads[0].push(b, h)
			runtime.GC()
			b.ReportAllocs()
			samples := 0
			spent := cpuTime()
			for b.Loop() {
				for i := range loads {
					loads[i].push(b, h)
					samples += loads[i].samples
				}
			}
			b.ReportMetric(float64(cpuTime()-spent)/float64(samples), "cpu-ns/sample")
		})
	}
	b.Run(fmt.Sprintf("series=%d/v1/new", n), func(b *testing.B) {
		l := newLoad(v1, n, 10, ordered(n))
		spent := cpuTime()
		for b.Loop() {
			l.push(b, New(Options{Store: series.New(series.Options{}), InflightBytes: 1 << 30}))
		}
		b.ReportMetric(float64(cpuTime()-spent)/float64(l.samples*b.N), "cpu-ns/sample")
	})
}

// cpuTime is the time that processors have spent on this process. Unlike the time
// on the clock it says something on a machine that is busy with other things.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reversedPods is the order of another sender of the same series: the pods the
// other way round, each pod's series in order.
func reversedPods(n int) []int {
	var o []int
	for pod := (n - 1) / 40; pod >= 0; pod-- {
		for i := pod * 40; i < min(pod*40+40, n); i++ {
			o = append(o, i)
		}
	}
	return o
}

// A push of known series allocates for the request, not for its samples.
func TestPushAllocatesNothingPerSample(t *testing.T) {
	for _, v := range []version{v1, v2} {
		l := newLoad(v, perRequest, 10, ordered(perRequest))
		h := New(Options{Store: series.New(series.Options{})})
		for range 5 {
			l.push(t, h)
		}
		got := testing.AllocsPerRun(50, func() { l.push(t, h) })
		if got > perRequest/10 { // some 50, and what a collection has taken from the pools
			t.Errorf("version %s: %v allocations in a request of %d samples", v, got, perRequest)
		}
	}
}
