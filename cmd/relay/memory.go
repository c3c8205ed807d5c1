package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/units"

	"relay/series"
)

// memoryLimit reads --limits.memory, in bytes; 0 is none.
func memoryLimit(s string) (int64, error) {
	if pct, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(pct, 64)
		if err != nil || !(f > 0 && f <= 100) {
			return 0, fmt.Errorf("--limits.memory=%s: want a percentage up to 100", s)
		}
		return int64(float64(availableMemory()) * f / 100), nil
	}
	if s == "0" {
		return 0, nil
	}
	n, err := units.ParseBase2Bytes(s)
	if err != nil || n < 16<<20 {
		return 0, fmt.Errorf("--limits.memory=%s: want a size such as 512MiB (16MiB at least), a percentage such as 80%%, or 0", s)
	}
	return int64(n), nil
}

// availableMemory is the least of the limits of the cgroups that the process is
// in, and of the machine's memory; 0 if nothing can be read.
func availableMemory() int64 {
	least := int64(math.MaxInt64)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
				if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
					least = kb << 10
				}
			}
		}
	}
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max"
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		// A limit may be set on any group above the process' own.
		for dir := parts[2]; ; dir = filepath.Dir(dir) {
			if b, err := os.ReadFile(filepath.Join(root, dir, file)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
					least = min(least, n)
				}
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// keepMemory tells the garbage collector of the limit, less what the store holds
// outside of the heap, unless the environment has; and the store to refuse new
// series before it is reached.
func keepMemory(ctx context.Context, store *series.Store, limit int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // the heap is small: collections are cheap
	}
	if limit <= 0 {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	full, told := false, int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			if heap := max(limit-store.MappedBytes(), limit/10); heap != told {
				debug.SetMemoryLimit(heap)
				told = heap
			}
		}
		used := memoryUsed(store)
		switch {
		case !full && used > limit/100*90:
			full = true
		case full && used < limit/100*85:
			full = false
		default:
			continue
		}
		store.SetFull(full)
	}
}

var usedSamples = []string{"/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes"}

// memoryUsed is what the store holds, and what the Go runtime holds and cannot give
// back at once.
func memoryUsed(store *series.Store) int64 {
	s := make([]metrics.Sample, len(usedSamples))
	for i := range s {
		s[i].Name = usedSamples[i]
	}
	metrics.Read(s)
	return store.MappedBytes() + int64(s[0].Value.Uint64()-s[1].Value.Uint64()-s[2].Value.Uint64())
}
