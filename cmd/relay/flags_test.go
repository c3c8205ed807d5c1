package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// An asker asks a relay in process.
type asker struct {
	t    *testing.T
	base string
}

// do answers code, headers and body; headers are pairs.
func (a asker) do(method, path string, body []byte, headers ...string) (int, http.Header, string) {
	a.t.Helper()
	req, err := http.NewRequest(method, a.base+path, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

// push writes one series of label names and values, with a sample that is this old.
func (a asker) push(age time.Duration, headers []string, labels ...string) (int, http.Header, string) {
	a.t.Helper()
	ts := prompb.TimeSeries{Samples: []prompb.Sample{{Value: 1, Timestamp: time.Now().Add(-age).UnixMilli()}}}
	for i := 0; i < len(labels); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
	}
	raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}).Marshal()
	if err != nil {
		a.t.Fatal(err)
	}
	return a.do("POST", "/api/v1/write", snappy.Encode(nil, raw), headers...)
}

func (a asker) page() string {
	a.t.Helper()
	_, _, text := a.do("GET", "/metrics", nil)
	return text
}

// Each flag does what it says: what it sets is wired to what it is about.
func TestFlagsDoWhatTheySay(t *testing.T) {
	long := strings.Repeat("x", 200)
	refused := func(flag string, labels ...string) func(asker) error {
		return func(a asker) error {
			if code, _, text := a.push(0, nil, "__name__", "a"); code != 204 {
				return fmt.Errorf("within the limit: %d %s", code, text)
			}
			if code, _, text := a.push(0, nil, labels...); code != 400 || !strings.Contains(text, flag) {
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		}
	}
	granted := func(asked, want string) func(asker) error {
		return func(a asker) error {
			if code, h, text := a.push(0, []string{"X-Relay-TTL", asked}, "__name__", "a"); code != 204 || h.Get("X-Relay-TTL") != want {
				return fmt.Errorf("%d %s, granted %q", code, text, h.Get("X-Relay-TTL"))
			}
			return nil
		}
	}
	left := func(a asker, metric, want string) error {
		_, _, text := a.do("GET", "/api/v1/series?match[]="+metric, nil)
		if !strings.Contains(text, `"ttlSeconds":`+want) {
			return fmt.Errorf("the TTL is not %s: %s", want, text)
		}
		return nil
	}
	stamped := func(flag string) func(asker) error {
		return func(a asker) error {
			a.push(0, []string{"X-Relay-TTL", "10s"}, "__name__", "short")
			a.push(0, []string{"X-Relay-TTL", "1h"}, "__name__", "long")
			got := map[string]bool{}
			for line := range strings.Lines(a.page()) {
				got[strings.SplitN(line, "{", 2)[0]] = len(strings.Fields(line)) == 3
			}
			want := map[string][2]bool{"always": {true, true}, "never": {false, false}, "auto": {true, false}, "lookback": {false, false}}[flag]
			if got["short"] != want[0] || got["long"] != want[1] {
				return fmt.Errorf("timestamps: %v", got)
			}
			return nil
		}
	}
	for _, c := range []struct {
		flags string
		holds func(asker) error
	}{
		{"--ingest.name-validation=legacy", refused("--ingest.name-validation", "__name__", "a.b")},
		{"--limits.label-name-bytes=8", refused("--limits.label-name-bytes", "__name__", "a", long, "v")},
		{"--limits.label-value-bytes=8", refused("--limits.label-value-bytes", "__name__", "a", "l", long)},
		{"--limits.labels=2", refused("--limits.labels", "__name__", "a", "l", "1", "m", "2")},
		{"--limits.series-bytes=64B", refused("--limits.series-bytes", "__name__", "a", "l", long)},
		{"--limits.series=1", refused("--limits.series", "__name__", "b")},
		{"--limits.groups=1", func(a asker) error {
			one, _, _ := a.do("PUT", "/metrics/job/x", []byte("a 1\n"))
			if code, _, text := a.do("PUT", "/metrics/job/y", []byte("a 1\n")); one != 200 || code != 400 || !strings.Contains(text, "--limits.groups") {
				return fmt.Errorf("%d, then %d %s", one, code, text)
			}
			return nil
		}},
		{"--limits.request-bytes=1KiB", func(a asker) error {
			compressed, _, said := a.do("POST", "/api/v1/write", make([]byte, 2000))
			if code, _, text := a.do("POST", "/api/v1/write", snappy.Encode(nil, make([]byte, 2000))); code != 400 || compressed != 413 || !strings.Contains(text, "--limits.request-bytes") {
				return fmt.Errorf("%d %s, decoded %d %s", compressed, said, code, text)
			}
			return nil
		}},
		{"--limits.edges=1", func(a asker) error {
			for _, edge := range []string{"one", "two", "three"} {
				a.push(0, []string{"X-Relay-Edge", edge}, "__name__", "a", "by", edge)
			}
			_, _, one := a.do("GET", "/metrics?edge=one", nil)
			_, _, other := a.do("GET", "/metrics?edge=other", nil)
			if strings.Count(one, "\na{") != 1 || strings.Count(other, "\na{") != 2 {
				return fmt.Errorf("one:\n%s\nother:\n%s", one, other)
			}
			return nil
		}},
		{"--series.ttl=7m", func(a asker) error { a.push(0, nil, "__name__", "a"); return left(a, "a", "420,") }},
		{"--series.ttl-min=10s", granted("1s", "10s")},
		{"--series.ttl-max=10m", granted("1h", "10m0s")},
		{"--push.ttl=9m", func(a asker) error {
			a.do("PUT", "/metrics/job/x", []byte("a 1\n"))
			a.push(0, nil, "__name__", "b")
			if err := left(a, "b", "300,"); err != nil {
				return err
			}
			return left(a, "a", "540,")
		}},
		{"--series.future-tolerance=2s", func(a asker) error {
			in, _, _ := a.push(-time.Second, nil, "__name__", "a")
			if code, _, text := a.push(-10*time.Second, nil, "__name__", "b"); in != 204 || code != 400 || !strings.Contains(text, "--series.future-tolerance") {
				return fmt.Errorf("%d, then %d %s", in, code, text)
			}
			return nil
		}},
		{"--series.lag-tolerance=1s", func(a asker) error {
			a.push(8*time.Second, []string{"X-Relay-TTL", "5s"}, "__name__", "old")
			a.push(0, []string{"X-Relay-TTL", "5s"}, "__name__", "fresh")
			if page := a.page(); strings.Contains(page, "old{") || !strings.Contains(page, "fresh{") {
				return fmt.Errorf("shown:\n%s", page)
			}
			return nil
		}},
		{"--exposition.timestamps=always", stamped("always")},
		{"--exposition.timestamps=never", stamped("never")},
		{"--exposition.timestamps=auto", stamped("auto")},
		{"--exposition.lookback=5s", stamped("lookback")},
		{"--web.trusted-proxies=127.0.0.0/8,::1", func(a asker) error {
			a.push(0, []string{"X-Forwarded-For", "198.51.100.7"}, "__name__", "a")
			if _, _, text := a.do("GET", "/api/v1/edges", nil); !strings.Contains(text, "198.51.100.7") {
				return fmt.Errorf("the edges are %s", text)
			}
			return nil
		}},
		{"--web.external-url=https://relay.example.com/in", func(a asker) error {
			inside := asker{a.t, a.base + "/in"}
			if code, _, text := inside.push(0, []string{"X-Relay-Edge", "e"}, "__name__", "a"); code != 204 {
				return fmt.Errorf("%d %s", code, text)
			}
			if code, h, _ := a.do("GET", "/", nil); code != 302 || h.Get("Location") != "/in/" {
				return fmt.Errorf("/ is %d to %q", code, h.Get("Location"))
			}
			if code, _, _ := a.do("GET", "/metrics", nil); code != 404 {
				return fmt.Errorf("outside of the prefix: %d", code)
			}
			_, _, targets := inside.do("GET", "/api/v1/sd", nil)
			_, _, home := inside.do("GET", "/", nil)
			for _, want := range []string{`"targets":["relay.example.com"]`, `"__scheme__":"https"`, `"__metrics_path__":"/in/metrics"`} {
				if !strings.Contains(targets, want) {
					return fmt.Errorf("the targets lack %s: %s", want, targets)
				}
			}
			if !strings.Contains(home, "https://relay.example.com/in/api/v1/write") {
				return fmt.Errorf("the first page has another address: %s", home)
			}
			return nil
		}},
		{"--web.route-prefix=/in", func(a asker) error {
			inside := asker{a.t, a.base + "/in"}
			if code, _, text := inside.push(0, nil, "__name__", "a"); code != 204 || !strings.Contains(inside.page(), "a{") {
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		}},
		{"--edges.retention=1s --series.ttl=1s", func(a asker) error {
			there := func() bool {
				_, _, text := a.do("GET", "/api/v1/edges", nil)
				return strings.Contains(text, `"e"`)
			}
			eventually(a.t, "it is remembered", func() bool {
				a.push(0, []string{"X-Relay-Edge", "e"}, "__name__", "a")
				return there()
			})
			eventually(a.t, "it is forgotten", func() bool { return !there() })
			return nil
		}},
	} {
		t.Run(c.flags, func(t *testing.T) {
			base, _ := startRelay(t, strings.Fields(c.flags)...)
			if err := c.holds(asker{t, base}); err != nil {
				t.Error(err)
			}
		})
	}
}
