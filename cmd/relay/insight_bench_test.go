package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"relay/series"
)

// cpuTime is what the process has used of the processors, by itself and in the kernel:
// on a busy machine it says more than the time that has passed.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What a poll of the status page costs with 5,000 edges and 1M series, the count of
// the series included.
func BenchmarkPolls(b *testing.B) {
	r := unstarted(b, "--journal=off")
	defer r.close()
	now := time.Now()
	for e := range 5000 {
		edge := fmt.Sprint("shop-", e)
		batch := r.store.NewBatch(series.Request{Edge: edge, TTL: series.Forever, Received: now, Now: now})
		for i := range 200 {
			batch.Series(series.CanonicalLabels([][2]string{{"__name__", fmt.Sprint("metric_", i%40)}, {"edge", edge}, {"i", fmt.Sprint(i)}, {"job", "node"}}))
			batch.Float(now.UnixMilli(), 1, 0)
		}
		res := batch.Commit()
		batch.Release()
		for range 20 {
			r.edges.Took(edge, now, 204, &res)
		}
	}
	for _, path := range []string{"/api/v1/edges", "/api/v1/status"} {
		b.Run(path[8:], func(b *testing.B) {
			b.ReportAllocs()
			begun := cpuTime()
			for b.Loop() {
				r.count.at = time.Time{} // it may not be what was counted for the one before
				w := httptest.NewRecorder()
				r.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				if w.Code != 200 {
					b.Fatal(w.Code)
				}
				b.ReportMetric(float64(w.Body.Len()), "bytes")
			}
			b.ReportMetric(float64((cpuTime()-begun).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}
