package journal

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// BenchmarkAppend appends records as long as a request of 2000 samples: by one
// pusher, and by several at once. cpu-us/op is what the process took of processors, all
// of its goroutines and the kernel's work included.
func BenchmarkAppend(b *testing.B) {
	body := make([]byte, 53_000)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	r := record(0)
	r.Body = body
	for _, c := range []struct {
		name    string
		pushers int
	}{{"one", 1}, {"eight", 8}} {
		b.Run(c.name, func(b *testing.B) {
			j, err := Open(Options{Path: b.TempDir(), MaxBytes: 64 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			b.SetParallelism(c.pushers)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			before := cpuTime(b)
			if c.pushers == 1 {
				for b.Loop() {
					if err := j.Append(b.Context(), r, func() {}); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := j.Append(b.Context(), r, func() {}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// cpuTime is what this process has used.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
