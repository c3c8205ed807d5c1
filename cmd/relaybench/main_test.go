package main

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// What is wrong is said before any load, not after it and not as figures of zero.
func TestFlagsAreCheckedFirst(t *testing.T) {
	var pushes atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { pushes.Add(1) }))
	defer srv.Close()
	for flag, says := range map[string]string{
		fmt.Sprintf("--pid=%d", math.MaxInt32): "no such process",
		"--formats=text,txt":                   `unknown format "txt"`,
		"--formats=text+brotli":                "text+brotli",
		"--rounds=-1":                          "not negative",
		"--edges=-1":                           "not negative",
		"--latency-load=0.5":                   "--scrape-url",
	} {
		var out, errs bytes.Buffer
		args := []string{"--write-url=" + srv.URL, "--scrape-url=" + srv.URL, "--series=10", flag}
		if strings.HasPrefix(flag, "--latency") {
			args[1] = "--scrape-url="
		}
		if code := run(args, &out, &errs); code != 2 || !strings.Contains(errs.String(), says) || out.Len() > 0 {
			t.Errorf("%s: exit %d, %s%s", flag, code, &errs, &out)
		}
	}
	if n := pushes.Load(); n > 0 {
		t.Errorf("%d requests", n)
	}
	var out, errs bytes.Buffer
	if code := run([]string{"--write-url=" + srv.URL, "--scrape-url=", "--series=10", "--rounds=1"}, &out, &errs); code != 0 || pushes.Load() == 0 {
		t.Errorf("exit %d, %s", code, &errs)
	}
}
