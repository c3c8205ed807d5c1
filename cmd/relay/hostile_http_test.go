package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/prompb"

	"github.com/golang/snappy"
)

// hostileConnections is about HTTP and what is below it.
func hostileConnections(t *testing.T) {
	s := besiege(t, "--ingest.max-connections-per-ip=100")
	s.run("48 all connections of an address", func(a *attack) {
		var conns []net.Conn
		refused := 0
		for range 150 {
			c, err := net.Dial("tcp", s.pushes)
			if err != nil {
				a.Fatal(err)
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
				refused++
			}
			if refused >= 50 {
				break
			}
		}
		if refused < 50 {
			a.Errorf("%d of 150 connections were refused, of an address that may have 100", refused)
		}
		s.sentinel.beats(t, 2) // from another address
		for _, c := range conns {
			c.Close()
		}
		a.moved["relay_ingest_refused_connections_total"] = 50
	})
	s.run("47 heads by the byte", func(a *attack) {
		const n, each = 5000, 90 // of the hundred that an address may have
		var wg sync.WaitGroup
		var held atomic.Int64
		begun := time.Now()
		for i := range n {
			wg.Go(func() {
				from := &net.TCPAddr{IP: net.IPv4(127, 47, 0, byte(1+i/each))}
				c, err := (&net.Dialer{LocalAddr: from, Timeout: 30 * time.Second}).Dial("tcp", s.pushes)
				if err != nil {
					a.Error(err)
					return
				}
				defer c.Close()
				io.WriteString(c, "POST "+writePath+" HTTP/1.1\r\nHost: r\r\n")
				// The relay says nothing; what is read is that it has closed.
				for k := 0; ; k++ {
					c.SetReadDeadline(time.Now().Add(time.Second))
					if _, err := io.Copy(io.Discard, c); !isTimeout(err) {
						return
					}
					if k == 0 {
						held.Add(1)
					}
					if time.Since(begun) > 60*time.Second {
						a.Errorf("connection %d is still open", i)
						return
					}
					fmt.Fprintf(c, "X-%d: y\r\n", k)
				}
			})
		}
		wg.Wait()
		if held.Load() != n {
			a.Errorf("%d of %d connections were held", held.Load(), n)
		}
	})
	s.run("47b bodies by the byte", func(a *attack) {
		// Taken, refused for what they are, and sent to nowhere: all end.
		length := "Content-Length: 100000"
		heads := map[string]string{
			a.head("POST", writePath, length):                                       "HTTP/1.1 400",
			a.head("POST", writePath, length, "Content-Type: h0stile"):              "HTTP/1.1 415",
			a.head("PUT", "/metrics/job/h47", length):                               "HTTP/1.1 400",
			a.head("GET", writePath, length):                                        "HTTP/1.1 405",
			a.head("POST", "/nowhere", length):                                      "",
			strings.Replace(a.head("POST", writePath, length), "Bearer ", "No ", 1): "HTTP/1.1 401",
			a.head("POST", writePath, "Transfer-Encoding: chunked"):                 "HTTP/1.1 400",
		}
		var wg sync.WaitGroup
		for head, want := range heads {
			for range 12 {
				wg.Go(func() {
					c, err := net.Dial("tcp", s.pushes)
					if err != nil {
						a.Error(err)
						return
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(90 * time.Second))
					io.WriteString(c, head+"\r\n")
					go func() {
						piece := "x"
						if strings.Contains(head, "chunked") {
							piece = "1\r\nx\r\n"
						}
						for {
							time.Sleep(time.Second)
							if _, err := io.WriteString(c, piece); err != nil {
								return
							}
						}
					}()
					out, err := io.ReadAll(c)
					if isTimeout(err) || !bytes.HasPrefix(out, []byte(want)) && len(out) > 0 {
						a.Errorf("%.60q: %v %.80q", head, err, out)
					}
				})
			}
		}
		wg.Wait()
		a.refused("body_read", 36)
		a.refused("content_type", 12)
		a.refused("method", 12)
		a.refused("credentials", 12)
	})
	s.run("49 HTTP/2", func(a *attack) {
		const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
		settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		for _, request := range []string{preface, preface + settings + strings.Repeat("\x00\x00\x01\x09\x00\x00\x00\x00\x01x", 1000)} {
			if got := a.raw(request, true); strings.Contains(got, "\x00\x00") || got != "" && !strings.HasPrefix(got, "HTTP/1.1 4") && !strings.HasPrefix(got, "HTTP/1.1 505") {
				a.Errorf("the preface is answered %.100q", got)
			}
		}
		got := a.raw(a.head("POST", writePath, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", "Content-Length: 0", "Connection: close")+"\r\n", false)
		if !strings.HasPrefix(got, "HTTP/1.1 204") || strings.Contains(got, " 101 ") {
			a.Errorf("an upgrade is answered %.100q", got)
		}
	})
	s.run("50 requests in requests", func(a *attack) {
		body := string(snappyOf(v1Of(a, one(50, "__name__", "h50"))))
		smuggled := "POST " + writePath + " HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n"
		for name, head := range map[string]string{
			"two lengths":            a.head("POST", writePath, "Content-Length: 5", "Content-Length: 6"),
			"a length that is none":  a.head("POST", writePath, "Content-Length: +5"),
			"negative":               a.head("POST", writePath, "Content-Length: -1"),
			"huge":                   a.head("POST", writePath, "Content-Length: 99999999999999999999"),
			"two encodings":          a.head("POST", writePath, "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
			"an encoding of its own": a.head("POST", writePath, "Transfer-Encoding: h0stile"),
			"space before the colon": a.head("POST", writePath, "Content-Length : 5"),
			"a name with a newline":  a.head("POST", writePath, "X\rY: 5"),
			"no host":                "POST " + writePath + " HTTP/1.1\r\n",
			"two hosts":              a.head("POST", writePath, "Host: other"),
		} {
			got := a.raw(head+"\r\n"+smuggled, true)
			if !strings.HasPrefix(got, "HTTP/1.1 400") && !strings.HasPrefix(got, "HTTP/1.1 501") || strings.Count(got, "HTTP/1.1 ") != 1 {
				a.Errorf("%s: answered %.300q", name, got)
			}
		}
		// Length and encoding: the encoding counts, and the connection is not used again.
		got := a.raw(a.head("POST", writePath, "Content-Length: 4", "Transfer-Encoding: chunked")+"\r\n"+fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)+smuggled, true)
		if n := strings.Count(got, "HTTP/1.1 "); n != 1 && !(n == 2 && strings.Contains(got, "401")) {
			a.Errorf("a length and an encoding: answered %.300q", got)
		}
		a.mayRefuse("credentials", "snappy", "body_read")
		a.any = true
	})
	s.run("50b chunks of a million bytes of nothing, and what follows them", func(a *attack) {
		body := string(snappyOf(v1Of(a, one(51, "__name__", "h50b"))))
		chunked := a.head("POST", writePath, "Transfer-Encoding: chunked", "Connection: close", "Trailer: X-Relay-TTL, Authorization")
		got := a.raw(chunked+"\r\n"+fmt.Sprintf("%x;h0stile=%s\r\n%s\r\n0\r\nX-Relay-TTL: 1s\r\nAuthorization: Bearer %s\r\n\r\n", len(body), strings.Repeat("x", 1000), body, sentinelToken), false)
		if !strings.HasPrefix(got, "HTTP/1.1 204") {
			a.Errorf("trailers: %q", got)
		}
		a.shows(51, "__name__", "h50b")
		for _, bad := range []string{"ffffffffffffffff\r\nx", "-1\r\n", "1000000000\r\nx", "5;" + strings.Repeat("x", 1<<20) + "\r\nhello\r\n", "zz\r\n", "5\r\nhelloworld", "5\r\nhello\r\n0\r\n" + strings.Repeat("X: y\r\n", 100_000)} {
			got := a.raw(chunked+"\r\n"+bad, true)
			if !strings.HasPrefix(got, "HTTP/1.1 400") && got != "" {
				a.Errorf("%.20q: answered %.100q", bad, got)
			}
		}
		a.mayRefuse("body_read", "snappy")
	})
	s.run("51 methods and paths", func(a *attack) {
		for _, method := range []string{"GET", "PUT", "DELETE", "TRACE", "FOO", "OPTIONS", "PATCH"} {
			got, err := a.try(method, writePath, nil)
			if err != nil || got.code != 405 {
				a.Errorf("%s: %d %v", method, got.code, err)
			}
			a.refused("method", 1)
		}
		for _, path := range []string{"/h0stile", "/api/v1/write/", "/api/v1/writex", "/metrics/h0stile", "/api/v1/write%00", "/api%2fv1%2fwrite", "/%2e%2e/api/v1/write/x", "/.well-known/", "/metrics/"} {
			got := a.post(path, nil)
			if got.code != 404 && got.code != 400 {
				a.Errorf("%s: %d %s", path, got.code, got.body)
			}
		}
		a.mayRefuse("group")
		for _, path := range []string{"//api/../api/v1/x", "/api/./v1//x", "/x/../../y"} {
			got := a.raw(a.head("POST", path, "Content-Length: 0", "Connection: close")+"\r\n", false)
			if !strings.HasPrefix(got, "HTTP/1.1 404") && !strings.HasPrefix(got, "HTTP/1.1 30") {
				a.Errorf("%s: %.100q", path, got)
			}
		}
		if got := a.raw(a.head("POST", "/"+strings.Repeat("x", 1<<20), "Content-Length: 0")+"\r\n", false); !strings.HasPrefix(got, "HTTP/1.1 431") && !strings.HasPrefix(got, "HTTP/1.1 414") {
			a.Errorf("a megabyte of path: %.100q", got)
		}
	})
	s.run("52 what is not for edges", func(a *attack) {
		for _, path := range []string{"/metrics", "/-/quit", "/-/reload", "/-/metrics", "/-/healthy", "/debug/pprof/", "/debug/pprof/heap", "/", "/api/v1/sd", "/api/v1/edges", "/api/v1/series", "/api/v1/status", "/api/v1/admin/wipe"} {
			for _, method := range []string{"GET", "POST", "PUT"} {
				got, err := a.try(method, path, nil)
				if err != nil || got.code != 404 {
					a.Errorf("%s %s: %d %v", method, path, got.code, err)
				}
			}
		}
	})
	s.run("84 heads of ten thousand lines", func(a *attack) {
		got := a.raw(a.head("POST", writePath, strings.Split(strings.Repeat("X-H0stile: y|", 9_999)+"X: y", "|")...)+"\r\n", false)
		if !strings.HasPrefix(got, "HTTP/1.1 431") {
			a.Errorf("answered %.100q", got)
		}
		got = a.raw(a.head("POST", writePath, strings.Split(strings.Repeat("A:|", 1500)+"Content-Length: 0|Connection: close", "|")...)+"\r\n", false)
		if !strings.HasPrefix(got, "HTTP/1.1 204") {
			a.Errorf("1500 of them: %.100q", got)
		}
	})
	s.run("85 a hundred bodies that are announced and not sent", func(a *attack) {
		var conns []net.Conn
		for range 90 {
			c, err := net.Dial("tcp", s.pushes)
			if err != nil {
				a.Fatal(err)
			}
			io.WriteString(c, a.head("POST", writePath, "Content-Length: 33554432", "Expect: 100-continue")+"\r\n")
			conns = append(conns, c)
		}
		s.sentinel.beats(t, 4)
		if rss := s.metrics()["process_resident_memory_bytes"]; rss > 500<<20 {
			a.Errorf("%.0f MB for bodies that were not sent", rss/1e6)
		}
		for _, c := range conns {
			c.Close()
		}
		a.mayRefuse("body_read", "inflight_bytes")
		waitFor(t, "no bytes in flight", func() bool { return s.metrics()["relay_inflight_bytes"] < 1000 })
	})
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// hostileScrape is about those who read.
func hostileScrape(t *testing.T) {
	s := besiegeOpen(t)
	for from := 0; from < 60_000; from += 2000 {
		var series []prompb.TimeSeries
		for i := range 2000 {
			series = append(series, one(1, "__name__", "bulk", "i", strconv.Itoa(from+i), "filler", strings.Repeat("x", 100)))
		}
		res, err := http.Post(s.web+writePath+"?ttl=1h", "application/x-protobuf", bytes.NewReader(snappyOf(v1Of(t, series...))))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 204 {
			t.Fatal(res.StatusCode)
		}
	}
	get := func(a *attack, timeout string, small bool) (net.Conn, error) {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.web, "http://"))
		if err != nil {
			a.Fatal(err)
		}
		if small {
			c.(*net.TCPConn).SetReadBuffer(4096)
		}
		_, err = io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: r\r\nX-Prometheus-Scrape-Timeout-Seconds: "+timeout+"\r\n\r\n")
		return c, err
	}
	s.run("53 more scrapes at once than are answered", func(a *attack) {
		var got codes
		parallel(100, 100, func(int) {
			req, err := http.NewRequest(http.MethodGet, s.web+"/metrics", nil)
			if err != nil {
				a.Error(err)
				return
			}
			req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "3")
			res, err := s.client.Do(req)
			if err != nil {
				got.add(0)
				return
			}
			defer res.Body.Close()
			n, err := io.Copy(io.Discard, res.Body)
			if res.StatusCode == 200 && (err == nil) != (n > 8_000_000) {
				a.Errorf("%d bytes, %v: half a page for a whole one, or the other way", n, err)
			}
			got.add(res.StatusCode)
		})
		if got.n[200] == 0 || got.n[200]+got.n[503]+got.n[0] != 100 {
			a.Errorf("answered %s", &got)
		}
		a.mayFail()
	})
	s.run("53b readers that read nothing", func(a *attack) {
		var conns []net.Conn
		for range 20 {
			c, err := get(a, "15", true)
			if err != nil {
				a.Fatal(err)
			}
			conns = append(conns, c)
		}
		s.sentinel.beats(t, 8)
		for _, c := range conns {
			c.Close()
		}
		a.mayFail()
	})
	s.run("54 readers that go away", func(a *attack) {
		for i := range 20 {
			c, err := get(a, "10", false)
			if err != nil {
				a.Fatal(err)
			}
			io.CopyN(io.Discard, c, int64(i*20_000))
			c.Close()
		}
		a.mayFail()
		waitFor(t, "an end of that", func() bool {
			m := s.metrics()
			return m["go_goroutines"] <= s.goroutines+10
		})
	})
	s.run("94 a connection that is used again after the time of its scrape", func(a *attack) {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.web, "http://"))
		if err != nil {
			a.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		in := bufio.NewReader(c)
		for _, path := range []string{"/metrics?edge=sentinel", "/-/healthy", "/metrics?edge=nobody"} {
			io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: r\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n")
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				a.Fatalf("%s: %v", path, err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				a.Fatalf("%s: %v", path, err)
			}
			time.Sleep(1500 * time.Millisecond)
		}
		a.mayFail()
	})
	s.run("65 a page that is cut by its timeout", func(a *attack) {
		whole, cut := 0, 0
		for i := range 12 {
			for _, accept := range []string{"identity", "gzip", "zstd"} {
				req, err := http.NewRequest(http.MethodGet, s.web+"/metrics", nil)
				if err != nil {
					a.Fatal(err)
				}
				req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", fmt.Sprint(0.01+0.02*float64(i)))
				req.Header.Set("Accept-Encoding", accept)
				res, err := s.client.Do(req)
				if err != nil {
					cut++
					continue
				}
				if res.StatusCode == 503 {
					res.Body.Close()
					continue
				}
				var in io.Reader = slowly{res.Body}
				switch res.Header.Get("Content-Encoding") {
				case "gzip":
					in, err = gzip.NewReader(in)
				case "zstd":
					in, err = zstd.NewReader(in)
				}
				if err != nil {
					cut++
					res.Body.Close()
					continue
				}
				body, err := io.ReadAll(in)
				res.Body.Close()
				if err != nil {
					cut++
					continue
				}
				whole++
				if n := bytes.Count(body, []byte("bulk{")); n != 60_000 {
					a.Errorf("%s: a page that ends well has %d of 60000 series", accept, n)
				}
			}
		}
		if cut == 0 {
			a.Errorf("of %d pages none was cut: the timeouts are too long", whole)
		}
		a.mayFail()
	})
	s.run("86 selectors that cost", func(a *attack) {
		heavy := `{__name__=~"` + strings.Repeat("(a|b|c)*", 500) + `x"}`
		for _, c := range []struct {
			query string
			code  int
		}{
			{"match[]=" + url.QueryEscape(heavy), 200},
			{"match[]=" + url.QueryEscape(`{__name__=~"(`+strings.Repeat("x", 100)+`{1000}){1000}"}`), 400},
			{"match[]=" + url.QueryEscape(`{__name__=~"((((((((((x{10}){10}){10}){10}){10}){10}){10}){10}){10}){10}"}`), 400},
			{"match[]=" + url.QueryEscape(`{i=~".*.*.*.*.*.*.*.*x"}`), 200},
			{"match[]=", 400},
			{"match[]=" + url.QueryEscape(`up offset 5m`), 400},
			{"match[]=" + url.QueryEscape(`sum(up)`), 400},
			{strings.Repeat("match[]=up&", 100), 400},
			{"shard=1/1", 400}, {"shard=-1/2", 400}, {"shard=0/0", 400}, {"shard=0/1025", 400}, {"shard=h0stile", 400}, {"shard=99999999999999999999/2", 400}, {"shard=0/2/3", 400}, {"shard=/", 400},
			{"edge=nobody", 503}, {"edge=" + url.QueryEscape("../../etc"), 503}, {"edge=" + strings.Repeat("x", 5000), 503},
			{"page=h0stile&edge=sentinel", 400}, {"page=" + strings.Repeat("x", 5000), 400}, {"%zz", 200},
		} {
			begun := time.Now()
			res, err := s.client.Get(s.web + "/metrics?" + c.query)
			if err != nil {
				a.Error(err)
				continue
			}
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.code {
				a.Errorf("%.80s: %d %.200s, want %d", c.query, res.StatusCode, text, c.code)
			}
			if c.code == 400 && len(text) > 2000 {
				a.Errorf("%.80s: an answer of %d bytes", c.query, len(text))
			}
			if took := time.Since(begun); took > 10*time.Second {
				a.Errorf("%.80s took %s", c.query, took)
			}
		}
		a.mayFail()
	})
	s.run("87 heads of scrapes", func(a *attack) {
		for _, accept := range []string{strings.Repeat("text/plain;q=0.1,", 800), strings.Repeat(",", 8000), strings.Repeat(";", 8000), "text/plain;" + strings.Repeat("a=b;", 2000), "*/*;q=NaN", "*/*;q=1e999", ";;;=", "application/openmetrics-text;version=99", "text/plain;version=1.0.0;escaping=h0stile", "\x01"} {
			req, err := http.NewRequest(http.MethodGet, s.web+"/metrics?match[]=sentinel_up", nil)
			if err != nil {
				a.Fatal(err)
			}
			for _, h := range []string{"Accept", "Accept-Encoding", "X-Prometheus-Scrape-Timeout-Seconds"} {
				if accept == "\x01" {
					continue
				}
				req.Header.Set(h, accept)
				res, err := s.client.Do(req)
				if err != nil {
					a.Error(err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode == 431 {
					continue
				}
				if res.StatusCode != 200 || err != nil || len(body) == 0 {
					a.Errorf("%s: %.40q: %d %v", h, accept, res.StatusCode, err)
				}
			}
		}
	})
}

// mayFail says that scrapes may be refused or aborted.
func (a *attack) mayFail() {
	for _, r := range []string{"busy", "aborted", "bad_request", "edge_silent", "starting"} {
		a.may[fmt.Sprintf("relay_scrapes_failed_total{reason=%q}", r)] = true
	}
}

// slowly reads no more than some MB a second.
type slowly struct{ r io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return s.r.Read(p[:min(len(p), 64<<10)])
}

// hostilePush is about the push API.
func hostilePush(t *testing.T) {
	s := besiege(t)
	push := func(a *attack, method, path string, body []byte, headers ...string) reply {
		a.Helper()
		r, err := a.try(method, path, bytes.NewReader(body), append([]string{"Content-Encoding", "-", "Content-Type", "text/plain"}, headers...)...)
		if err != nil {
			a.Fatal(err)
		}
		return r
	}
	const path = "/metrics/job/h88"
	s.run("88 bombs in gzip, zstd and framed snappy", func(a *attack) {
		line := []byte("h88 1\n")
		big := bytes.Repeat(line, (200<<20)/len(line))
		for name, body := range map[string][]byte{"gzip": gzipped2(big), "zstd": zstded(big), "snappy": framed(big)} {
			a.maxRSS = max(a.maxRSS, usualRSS)
			got := push(a, "PUT", path, body, "Content-Encoding", name)
			a.wants(got, 400, "--limits.request-bytes")
		}
		a.refused("decoded_bytes", 3)
		for _, enc := range []string{"gzip", "zstd", "snappy"} {
			a.wants(push(a, "PUT", path, []byte("h0stile"), "Content-Encoding", enc), 400)
			a.wants(push(a, "PUT", path, nil, "Content-Encoding", enc, "Content-Type", "text/plain"), map[string]int{"gzip": 400, "zstd": 200, "snappy": 200}[enc])
		}
		a.refused("content_encoding", 4)
		// A window of gigabytes.
		window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00}
		a.wants(push(a, "PUT", path, window, "Content-Encoding", "zstd"), 400)
		a.refused("content_encoding", 1)
		a.any = true // the group's own times
	})
	s.run("89 directives that are none, and a flood of them", func(a *attack) {
		for _, line := range []string{"#!set stale_timeout = h0stile", "#!set stale_timeout = -1", "#!set stale_timeout", "#!set other = 5", "#!set", "#!set stale_timeout = " + strings.Repeat("9", 1000), "#!set stale_timeout = 1 2"} {
			got := push(a, "PUT", path, []byte(line+"\nh89 1\n"))
			a.wants(got, 400, "#!set")
		}
		a.refused("malformed", 7)
		flood := bytes.Repeat([]byte("#!set stale_timeout = 90\n"), 1_000_000)
		got := push(a, "PUT", path, append(flood, "h89 89\n"...))
		if got.code != 200 && got.code != 400 {
			a.Errorf("a million of them: %d %s", got.code, got.body)
		}
		a.mayRefuse("malformed")
		a.any = true
	})
	s.run("90 groups in paths", func(a *attack) {
		for p, code := range map[string]int{
			"/metrics/job/x/a": 400, "/metrics/job/": 400, "/metrics/job//a/b": 400, "/metrics/job@base64/": 400,
			"/metrics/job@base64/!!!": 400, "/metrics/job@base64/aDAK": 200, "/metrics/job@base64/" + strings.Repeat("QUFB", 3000): 400,
			"/metrics/job/x/__name__/y": 400, "/metrics/job/x/__ttl__/1s": 400, "/metrics/job/x/edge/victim": 200, "/metrics/job/x/site.id/victim": 200,
			"/metrics/job/x/le/5": 200, "/metrics/job/x/a%2fb/c": 400, "/metrics/job/x/a/%ff": 400, "/metrics/job@base64/_w": 400,
			"/metrics/job/x/a@base64@base64/eA": 200, "/metrics/job/x/" + strings.Repeat("a/b/", 2000) + "c/d": 200,
			"/metrics/job/x/" + manyLabels(100): 400, "/metrics/job/x/U__a_00_/b": 400, "/metrics/job/x/U__site_5f_id/victim": 200,
		} {
			if got := push(a, "PUT", p, []byte("h90 1\n")); got.code != code {
				a.Errorf("%.80s: %d %s, want %d", p, got.code, got.body, code)
			}
		}
		for l := range s.page(textUTF8) {
			if strings.Contains(l, "victim") {
				a.Errorf("shown: %s", l)
			}
			if strings.Contains(l, "h90") && !strings.Contains(l, `edge="attacker"`) {
				a.Errorf("shown: %s", l)
			}
		}
		a.mayRefuse("group", "label_invalid", "labels_per_series", "label_value_bytes", "malformed")
		a.may["relay_overridden_labels_total"] = true
		a.may["relay_series_owner_changes_total"] = true // without the forced labels some groups are the same series
		a.any = true
	})
	s.run("91 bodies that parsers choke on", func(a *attack) {
		nested := bytes.Repeat([]byte{0x0b}, 1<<20)
		huge := append(binary.AppendUvarint(nil, 1<<40), 'x')
		for i, c := range []struct {
			media, body string
		}{
			{"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", string(huge)},
			{"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", string(nested)},
			{"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"},
			{"application/openmetrics-text", "# EOF\nh91 1\n"},
			{"application/openmetrics-text", "h91 1 # {a=\"" + strings.Repeat("x", 1<<20)},
			{"text/plain", "h91{"}, {"text/plain", "h91{a=\""}, {"text/plain", "h91{a=\"\\"}, {"text/plain", "h91 1 1 1\n"}, {"text/plain", "h91 0x1p-2000000000000\n"},
			{"text/plain", "{\"h91\x00\"} 1\n"}, {"text/plain", "h91{" + strings.Repeat("a=\"b\",", 100_000) + "} 1\n"}, {"text/plain", "# TYPE h91 h0stile\n"},
			{"text/plain", "h91 1 1234\n"}, {"text/plain", "h91 1\nh91 2\n"}, {"text/plain", "\x1f\x8b"},
		} {
			got := push(a, "PUT", path, []byte(c.body), "Content-Type", c.media)
			if got.code != 400 {
				a.Errorf("%d: %.60q: %d %s", i, c.body, got.code, got.body)
			}
		}
		a.mayRefuse("malformed", "series_bytes", "duplicate")
	})
	s.run("92 a push of a million lines", func(a *attack) {
		var b bytes.Buffer
		for i := range 300_000 {
			fmt.Fprintf(&b, "h92{i=\"%d\"} 1\n", i)
		}
		begun := time.Now()
		got := push(a, "PUT", "/metrics/job/h92", b.Bytes(), "X-Relay-TTL", "1h")
		if got.code != 200 && got.code != 400 {
			a.Errorf("%d %s", got.code, got.body)
		}
		a.Logf("%d in %s", got.code, time.Since(begun))
		a.wants(push(a, "DELETE", "/metrics/job/h92", nil), 202)
		a.any = true
		a.mayRefuse("malformed", "series_limit", "edge_series_limit", "memory_limit")
	})
	s.run("93 another's group", func(a *attack) {
		a.token = "token-of-victim"
		a.wants(push(a, "PUT", "/metrics/job/h93", []byte("h93 1\n")), 200)
		a.token = attackToken
		a.wants(push(a, "DELETE", "/metrics/job/h93", nil), 202)
		a.wants(push(a, "PUT", "/metrics/job/h93", nil), 200)
		a.wants(push(a, "DELETE", "/metrics/job/h93/edge/victim", nil), 202)
		a.wants(push(a, "PUT", "/metrics/job/h93", []byte("h93{edge=\"victim\"} 2\n")), 200)
		a.any = true
		a.may["relay_overridden_labels_total"] = true
		a.showsExactly(1, "__name__", "h93", "job", "h93", "edge", "victim")
		a.shows(2, "__name__", "h93", "job", "h93")
	})
}

func manyLabels(n int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf("l%d/v", i))
	}
	return strings.Join(parts, "/")
}

func gzipped2(raw []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(raw)
	w.Close()
	return b.Bytes()
}

func zstded(raw []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(raw, nil)
}

func framed(raw []byte) []byte {
	var b bytes.Buffer
	w := snappy.NewBufferedWriter(&b)
	w.Write(raw)
	w.Close()
	return b.Bytes()
}
