package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// clockTick is the unit of CPU times in /proc on Linux: USER_HZ is 100 on every
// architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// A process is the server under load, watched through /proc. The zero process is
// unknown: its figures are zero.
type process int

// known reports whether there is that process; the zero one is always.
func (p process) known() bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/stat", p))
	return p == 0 || err == nil
}

// cpu is the user and system time that the process has used: the sum of its
// threads', in ns, where the kernel keeps that.
func (p process) cpu() time.Duration {
	if threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p)); p != 0 && len(threads) > 0 {
		sum := time.Duration(0)
		for _, file := range threads {
			b, err := os.ReadFile(file)
			if ns, _, ok := bytes.Cut(b, []byte(" ")); err == nil && ok {
				n, _ := strconv.ParseInt(string(ns), 10, 64)
				sum += time.Duration(n)
			}
		}
		return sum
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
	if p == 0 || err != nil {
		return 0
	}
	// The name, in brackets, may hold spaces.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	user, _ := strconv.ParseInt(string(f[11]), 10, 64)
	system, _ := strconv.ParseInt(string(f[12]), 10, 64)
	return time.Duration(user+system) * clockTick
}

// resident is the memory that the process holds, in bytes: now and at its peak.
func (p process) resident() (now, peak int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
	if p == 0 || err != nil {
		return 0, 0
	}
	get := func(key string) int64 {
		_, rest, ok := bytes.Cut(b, []byte("\n"+key+":"))
		if !ok {
			return 0
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		kb, _ := strconv.ParseInt(string(bytes.Fields(line)[0]), 10, 64)
		return kb << 10
	}
	return get("VmRSS"), get("VmHWM")
}

// resetPeak starts the peak anew, where the kernel lets us.
func (p process) resetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0)
}
