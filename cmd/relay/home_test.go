package main

import (
	"html"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The page says where this relay is reached and who may push; it takes nothing.
func TestStatusPage(t *testing.T) {
	pushes := freeAddress(t)
	for _, c := range []struct {
		flags []string
		wants []string
		lacks string
	}{
		{nil, []string{"url: http://HOST/api/v1/write", "targets: ['HOST']", "the TTL is 5m."}, "--edges.file"},
		{[]string{"--series.ttl=90s", "--web.route-prefix=/relay"}, []string{"url: http://HOST/relay/api/v1/write", "metrics_path: /relay/metrics", "the TTL is 1m30s."}, "--edges.file"},
		{[]string{"--web.external-url=https://ops.shop.test/r"}, []string{"url: https://ops.shop.test/r/api/v1/write", "scheme: https", "metrics_path: /r/metrics", "targets: ['ops.shop.test']"}, "HOST"},
		{[]string{"--ingest.listen-address=" + pushes}, []string{"url: http://" + pushes + "/api/v1/write", "targets: ['HOST']"}, "--edges.file"},
		{[]string{"--series.ttl=inf", "--edges.file=../../docs/edges-file.yml"}, []string{"the TTL is inf.", "alone. Add the credentials"}, "example.com"},
	} {
		base, r := startRelay(t, c.flags...)
		url := base + r.cfg.routePrefix
		page := html.UnescapeString(getPage(t, strings.TrimSuffix(url, "/")+"/"))
		for _, want := range c.wants {
			if want = strings.ReplaceAll(want, "HOST", host(base)); !strings.Contains(page, want) {
				t.Errorf("%q: the page lacks %q", c.flags, want)
			}
		}
		if strings.Contains(page, strings.ReplaceAll(c.lacks, "HOST", host(base))) {
			t.Errorf("%q: the page has %q", c.flags, c.lacks)
		}
		if got := status(strings.TrimSuffix(url, "/") + "/assets/app.js"); got != 200 {
			t.Errorf("%q: its script: %d", c.flags, got)
		}
		for _, path := range []string{"/", "/assets/app.js"} {
			res, err := http.Post(strings.TrimSuffix(url, "/")+path, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%q: POST %s: %d", c.flags, path, res.StatusCode)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// A list that is long is sent compressed to who takes it so.
func TestLongListsAreCompressed(t *testing.T) {
	base, r := startRelay(t)
	for i := range 100 {
		r.edges.Saw(strings.Repeat("e", i+1), time.Now(), 300_000)
	}
	for encoding, want := range map[string]string{"gzip": "gzip", "identity": ""} {
		req, err := http.NewRequest(http.MethodGet, base+"/api/v1/edges", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", encoding)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Content-Encoding"); got != want || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("asked for %s: %q, %s", encoding, got, res.Header.Get("Content-Type"))
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
