package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
)

// hostileCredentials is about who somebody is.
func hostileCredentials(t *testing.T) {
	s := besiege(t, "--log.level=debug")
	body := func(a *attack, name string) []byte { return v1Of(a, one(1, "__name__", name)) }
	s.run("39 no credentials, broken ones, huge ones", func(a *attack) {
		for _, h := range []string{"-", "Basic", "Basic !", "Basic YQ==", "Bearer", "Bearer  ", "Digest x", "h0stile", "Bearer " + strings.Repeat("x", 9000), "Basic " + strings.Repeat("QUFB", 2000), ","} {
			got := a.write(body(a, "h39"), "Authorization", h)
			a.wants(got, 401, "--edges.file")
			if got.header.Get("WWW-Authenticate") == "" {
				a.Error("401 without WWW-Authenticate")
			}
			a.refused("credentials", 1)
		}
		if got := a.raw("POST "+writePath+" HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer "+strings.Repeat("x", 24<<10)+"\r\n\r\n", false); !strings.HasPrefix(got, "HTTP/1.1 431") {
			a.Errorf("answered %.60q", got)
		}
		// The body is not asked for.
		if got := a.raw("POST "+writePath+" HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer x\r\nContent-Length: 30000000\r\nExpect: 100-continue\r\n\r\n", false); !strings.HasPrefix(got, "HTTP/1.1 401") {
			a.Errorf("answered %.60q", got)
		}
		a.refused("credentials", 1)
		if got := a.raw("POST "+writePath+" HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer "+attackToken+"\r\nAuthorization: Bearer "+sentinelToken+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false); !strings.HasPrefix(got, "HTTP/1.1 401") {
			a.Errorf("two headers: %.60q", got)
		}
		a.refused("credentials", 1)
	})
	s.run("40 a flood of wrong passwords", func(a *attack) {
		ship := func(password string) int {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.pushes+writePath, bytes.NewReader(pushBody(t, "h40", 40)))
			if err != nil {
				a.Fatal(err)
			}
			req.SetBasicAuth("ship", password)
			res, err := s.sentinel.pusher.Do(req)
			if err != nil {
				a.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			return res.StatusCode
		}
		if code := ship(shipPassword); code != 204 {
			a.Errorf("the edge itself: %d", code)
		}
		var got codes
		const n, users = 2000, 1000
		parallel(n, 20, func(i int) {
			user := fmt.Sprint("user", i%users)
			if i%8 == 0 {
				user = "ship"
			}
			req, err := http.NewRequest(http.MethodPost, "http://"+s.pushes+writePath, bytes.NewReader(pushBody(t, "h40", 1)))
			if err != nil {
				a.Error(err)
				return
			}
			req.SetBasicAuth(user, fmt.Sprint("guess", i))
			res, err := s.client.Do(req)
			if err != nil {
				a.Error(err)
				return
			}
			res.Body.Close()
			got.add(res.StatusCode)
			if i%200 == 0 {
				if code := ship(shipPassword); code != 204 {
					a.Errorf("the edge itself, meanwhile: %d", code)
				}
			}
		})
		if got.n[401] == 0 || got.n[429] == 0 || got.n[401]+got.n[429]+got.n[503] != n {
			a.Errorf("answered %s", &got)
		}
		a.mayRefuse("credentials", "credentials_rate", "credentials_pending")
		a.showsExactly(40, "__name__", "h40", "edge", "ship")
	})
	s.run("41 a token as another's password", func(a *attack) {
		for _, who := range [][2]string{{"ship", attackToken}, {"attacker", attackToken}, {"ship", ""}, {"", ""}} {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.pushes+writePath, bytes.NewReader(pushBody(t, "h41", 1)))
			if err != nil {
				a.Fatal(err)
			}
			req.SetBasicAuth(who[0], who[1])
			res, err := s.sentinel.pusher.Do(req) // from where nobody has failed
			if err != nil {
				a.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 401 {
				a.Errorf("%q: %d", who, res.StatusCode)
			}
		}
		a.refused("credentials", 4)
	})
	s.run("42 other names for who it is", func(a *attack) {
		for i, name := range []string{"other", "../../x", "a|b", strings.Repeat("x", 10_000), "victim"} {
			for _, header := range []string{"X-Scope-OrgID", "THANOS-TENANT", "X-Relay-Edge", "X-Forwarded-For", "Forwarded"} {
				a.wants(a.write(v1Of(a, one(float64(i), "__name__", "h42", "i", fmt.Sprint(i), "h", header)), header, name), 204)
				a.shows(float64(i), "__name__", "h42", "i", fmt.Sprint(i), "h", header)
			}
		}
		for _, path := range []string{"?edge=victim", "?tenant=victim"} {
			a.wants(a.post(writePath+path, bytes.NewReader(pushBody(t, "h42q", 1))), 204)
		}
		a.shows(1, "__name__", "h42q")
		a.mayBe("superseded") // of the same millisecond
	})
	s.run("43, 46 names and files that are none", func(a *attack) {
		file := filepath.Join(s.dir, "edges.yml")
		reload := func() (int, string) {
			res, err := s.sentinel.scraper.Post(s.web+"/-/reload", "", nil)
			if err != nil {
				a.Fatal(err)
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			return res.StatusCode, string(text)
		}
		bad := []string{"edges: [\n", "", "edges: {}\n", "\x00", "- a\n- b\n", "edges:\n- name: a\n  authorization: {credentials_file: /no/such/file}\n",
			"edges:\n- name: x\n  authorization: {credentials_sha256: \"" + strings.Repeat("0", 64) + "\"}\n  surprise: 1\n", yamlBomb()}
		for _, name := range []string{"a/b", "..", "a*", ">", "a b", "", "a|b", "é", "a\\n", strings.Repeat("x", 129)} {
			bad = append(bad, fmt.Sprintf("edges:\n- name: %q\n  authorization: {credentials_sha256: \"%064d\"}\n", name, 1))
		}
		for _, content := range bad {
			if content == "" {
				continue // no edges: nobody may push, as it says
			}
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				a.Fatal(err)
			}
			begun := time.Now()
			code, text := reload()
			if code != 500 || !strings.Contains(text, "edges.file") || len(text) > 64<<10 {
				a.Errorf("%.60q: %d %.300s", content, code, text)
			}
			if took := time.Since(begun); took > 10*time.Second {
				a.Errorf("%.60q took %s", content, took)
			}
			a.wants(a.push(one(43, "__name__", "h43")), 204) // the last good one goes on
		}
		if s.metrics()["relay_edges_file_last_reload_successful"] != 0 {
			a.Error("the metric says that all is well")
		}
		a.shows(43, "__name__", "h43")
		a.mayBe("superseded")
		if err := os.WriteFile(file, []byte(hostileEdges()), 0o600); err != nil {
			a.Fatal(err)
		}
		if code, text := reload(); code != 200 {
			a.Errorf("%d %s", code, text)
		}
	})
	s.run("37b an edge that is disabled", func(a *attack) {
		a.token = "token-of-off"
		a.wants(a.push(one(1, "__name__", "h37")), 403, "disabled")
		a.refused("edge_disabled", 1)
	})
	s.run("78 replicas of a pair, taken in turns", func(a *attack) {
		a.token = "token-of-twin-a"
		a.wants(a.push(one(100, "__name__", "h78_total", "__replica__", "x")), 204)
		a.token = "token-of-twin-b"
		a.wants(a.push(one(1, "__name__", "h78_total", "__replica__", "y")), 202)
		a.outcome("deduplicated", 1)
		a.showsExactly(100, "__name__", "h78_total", "edge", "twins")
	})
	s.run("79 a pipeline of requests", func(a *attack) {
		var b strings.Builder
		for range 50 {
			b.WriteString(a.head("POST", writePath, "Content-Length: 0") + "\r\n")
		}
		b.WriteString("GET / HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
		if got := a.raw(b.String(), false); strings.Count(got, "HTTP/1.1 204") != 50 || !strings.Contains(got, "HTTP/1.1 404") {
			a.Errorf("answered %.300q", got)
		}
	})
	s.run("59 secrets are told to nobody", func(a *attack) {
		for _, path := range []string{"/", "/-/metrics", "/metrics", "/api/v1/edges", "/api/v1/sd", "/api/v1/status", "/api/v1/status/config", "/api/v1/status/flags", "/-/config"} {
			hasNoSecret(a, path, getPage(t, s.web+path))
		}
		hasNoSecret(a, "the log", s.proc.logs.String())
		got := a.write(body(a, "h59"), "Authorization", "Bearer "+attackToken+"x")
		a.wants(got, 401)
		hasNoSecret(a, "an answer", got.body)
		a.refused("credentials", 1)
	})
}

func hasNoSecret(t testing.TB, where, text string) {
	t.Helper()
	for _, secret := range []string{attackToken, sentinelToken, shipPassword, "$2a$", "credentials_sha256", "guess1"} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%s has %s: %.200q", where, secret, text[max(0, i-80):])
		}
	}
}

// yamlBomb is a small file that names billions of edges.
func yamlBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.Trim(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	b.WriteString("edges: *a9\n")
	return b.String()
}

// hostileLimits is about too much of everything.
func hostileLimits(t *testing.T) {
	s := besiege(t, "--limits.request-bytes=1MiB", "--limits.inflight-bytes=8MiB")
	s.run("35 new series without end", func(a *attack) {
		a.token = "token-of-few"
		known := func(v float64) []prompb.TimeSeries {
			var out []prompb.TimeSeries
			for i := range 100 {
				out = append(out, one(v, "__name__", "h35", "i", strconv.Itoa(i)))
			}
			return out
		}
		a.wants(a.push(known(1)...), 204)
		before := s.metrics()["relay_series_held"]
		n := 0
		for round := range 10 {
			time.Sleep(2 * time.Millisecond)
			series := known(float64(round + 2))
			for i := range 2000 {
				series = append(series, one(1, "__name__", "h35", "fresh", fmt.Sprint(round, " ", i)))
				n++
			}
			a.wants(a.push(series...), 400, "limits.series in --edges.file", "edge few holds 100 series", "2000 of 2100 refused")
		}
		a.refusedSamples("edge_series_limit", n)
		for i := range 100 {
			a.showsExactly(11, "__name__", "h35", "i", strconv.Itoa(i), "edge", "few")
		}
		if after := s.metrics()["relay_series_held"]; after != before {
			a.Errorf("%v series are held, before %v", after, before)
		}
		a.wants(a.push(one(1, "__name__", "h35", "a", "1", "b", "2", "c", "3", "d", "4", "e", "5")), 400, "limits.labels in --edges.file")
		a.refusedSamples("labels_per_series", 1)
	})
	s.run("37 too often and too much", func(a *attack) {
		var got codes
		a.token = "token-of-seldom"
		for range 20 {
			r := a.push(one(1, "__name__", "h37"))
			got.add(r.code)
			if r.code == 429 {
				a.wants(r, 429, "limits.requests_per_second")
			}
		}
		if got.n[429] < 10 || got.n[204] == 0 {
			a.Errorf("answered %s", &got)
		}
		a.refused("request_rate", got.n[429])
		a.showsExactly(1, "__name__", "h37", "edge", "seldom")
		a.token = "token-of-bursty"
		batch := func(n int) []prompb.TimeSeries {
			var out []prompb.TimeSeries
			for i := range n {
				out = append(out, one(float64(i), "__name__", "h37b"))
			}
			return out
		}
		a.wants(a.push(batch(101)...), 400, "limits.samples_burst") // can never fit
		a.wants(a.push(batch(100)...), 204)
		a.wants(a.push(batch(100)...), 429, "limits.samples_per_second")
		a.refused("sample_burst", 1)
		a.refused("sample_rate", 1)
		a.mayBe("superseded")
		a.any = true
	})
	s.run("37c a longer life than it may have", func(a *attack) {
		a.token = "token-of-brief"
		got := a.write(v1Of(a, one(1, "__name__", "h37c")), "X-Relay-TTL", "inf")
		a.wants(got, 204)
		if got.header.Get("X-Relay-TTL") != "30s" {
			a.Errorf("granted %q", got.header.Get("X-Relay-TTL"))
		}
		a.showsExactly(1, "__name__", "h37c", "edge", "brief")
	})
	s.run("38 all room for requests taken by one", func(a *attack) {
		// Slow uploads of a megabyte each, more than there is room for.
		var conns []net.Conn
		for range 40 {
			c, err := net.Dial("tcp", s.pushes)
			if err != nil {
				a.Fatal(err)
			}
			conns = append(conns, c)
			io.WriteString(c, a.head("POST", writePath, "Content-Length: 1048576")+"\r\n"+strings.Repeat("x", 1000))
		}
		s.sentinel.beats(t, 4)
		got := a.write(make([]byte, 1<<20-100))
		if got.code != 503 && got.code != 400 {
			a.Errorf("another one of the same edge: %d %s", got.code, got.body)
		}
		if in := s.metrics()["relay_inflight_bytes"]; in > 8<<20 {
			a.Errorf("%v bytes are in flight", in)
		}
		for _, c := range conns {
			c.Close()
		}
		a.mayRefuse("inflight_bytes", "body_read", "malformed", "snappy")
		waitFor(t, "no bytes in flight", func() bool { return s.metrics()["relay_inflight_bytes"] < 1000 })
	})
	s.run("80 more requests at once than there are processors", func(a *attack) {
		// As large as they may be, each of new series: all that one edge can cause.
		var bodies [][]byte
		for n := range 8 {
			var series []prompb.TimeSeries
			for i := range 4000 {
				series = append(series, one(1, "__name__", "h80", "n", strconv.Itoa(n), "i", strconv.Itoa(i)))
			}
			bodies = append(bodies, v1Of(a, series...))
		}
		var got codes
		parallel(200, 100, func(i int) {
			r, err := a.try(http.MethodPost, writePath, bytes.NewReader(snappyOf(bodies[i%len(bodies)])))
			if err != nil {
				a.Error(err)
				return
			}
			got.add(r.code)
		})
		if got.n[204]+got.n[503] != 200 || got.n[204] == 0 {
			a.Errorf("answered %s", &got)
		}
		a.mayRefuse("inflight_bytes", "busy")
		a.mayBe("superseded")
		a.any = true
	})
	s.run("60 bad requests without end are not in the log", func(a *attack) {
		const n = 1_000_000
		before := len(s.proc.logs.String())
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
		defer client.CloseIdleConnections()
		body := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
		parallel(n, 8, func(i int) {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.pushes+writePath, bytes.NewReader(body))
			if err != nil {
				a.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+attackToken)
			res, err := client.Do(req)
			if err != nil {
				a.Error(err)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		})
		a.refused("decoded_bytes", n)
		if more := len(s.proc.logs.String()) - before; more > 10_000 {
			a.Errorf("%d bad requests have written %d bytes into the log", n, more)
		}
	})
}

// hostileOpen is about a relay without an edges file.
func hostileOpen(t *testing.T) {
	s := besiegeOpen(t, "--limits.edges=20", "--series.lag-tolerance=1s", "--limits.series=50000")
	s.run("36 churn", func(a *attack) {
		before := s.metrics()
		for round := range 30 {
			var series []prompb.TimeSeries
			for i := range 1000 {
				series = append(series, one(1, "__name__", fmt.Sprint("h36_", round), "i", fmt.Sprint("h36 ", round, " ", i)))
			}
			a.wants(a.write(v1Of(a, series...), "X-Relay-TTL", "1s"), 204)
		}
		waitFor(t, "nothing of that shown", func() bool {
			for l := range s.page(textUTF8) {
				if strings.Contains(l, "h36") {
					return false
				}
			}
			return true
		})
		time.Sleep(6 * time.Second) // these are counted from time to time
		waitFor(t, "series, labels and names forgotten", func() bool {
			after := s.metrics()
			return after["relay_series_held"] <= before["relay_series_held"]+2 && after["relay_label_pairs"] <= before["relay_label_pairs"]+2 && after["relay_metric_names"] <= before["relay_metric_names"]+2
		})
	})
	s.run("61 a new name in every request", func(a *attack) {
		for i := range 300 {
			a.wants(a.write(v1Of(a, one(61, "__name__", "h61", "i", strconv.Itoa(i))), "X-Relay-Edge", fmt.Sprint("stranger-", i)), 204)
			a.shows(61, "__name__", "h61", "i", strconv.Itoa(i))
		}
		var groups []targetGroup
		if err := json.Unmarshal([]byte(getPage(t, s.web+"/api/v1/sd")), &groups); err != nil || len(groups) > 21 {
			a.Errorf("%d targets, %v", len(groups), err)
		}
		m := s.metrics()
		if m["relay_edges"] > 21 {
			a.Errorf("%v edges", m["relay_edges"])
		}
		for _, name := range []string{"../x", "a b", "\"", strings.Repeat("x", 129), "é", "<img>", "a/b", ">"} {
			a.wants(a.write(v1Of(a, one(1, "__name__", "h61")), "X-Relay-Edge", name), 400, "X-Relay-Edge")
		}
		a.refused("edge", 8)
		a.may["relay_series_owner_changes_total"] = true
	})
	s.run("64 a stranger in a pair's clothes", func(a *attack) {
		a.wants(a.push(one(1, "__name__", "h64", "cluster", "prod", "__replica__", "a")), 400, "__replica__")
		a.refusedSamples("label_invalid", 1)
		a.wants(a.push(one(2, "__name__", "h64", "cluster", "prod")), 204)
		a.shows(2, "__name__", "h64", "cluster", "prod")
	})
	s.run("81 another's series without forced labels are counted", func(a *attack) {
		a.wants(a.push(one(1, "__name__", "h81")), 204)
		time.Sleep(2 * time.Millisecond)
		a.wants(a.write(v1Of(a, one(2, "__name__", "h81")), "X-Relay-Edge", "stranger-1"), 204)
		a.moved["relay_series_owner_changes_total"] = 1
		a.shows(2, "__name__", "h81")
	})
	s.run("95 HTML in what is shown of quarrels and refusals", func(a *attack) {
		const html = `<img src=x onerror=h95()>`
		for round := range 6 {
			a.wants(a.push(one(float64(round), "__name__", "h95", "v", html)), 204)
			time.Sleep(2 * time.Millisecond)
			a.wants(a.write(v1Of(a, one(float64(round), "__name__", "h95", "v", html)), "X-Relay-Edge", "stranger-1"), 204)
			time.Sleep(2 * time.Millisecond)
			a.wants(a.push(one(1, "__name__", "h95", "__v", html)), 400)
			a.wants(a.write(v1Of(a, one(1, "__name__", "h95")), "X-Relay-Edge", html), 400)
			a.wants(a.write(v1Of(a, one(1, "__name__", "h95")), "X-Relay-TTL", html), 400)
		}
		a.refusedSamples("label_invalid", 6)
		a.refused("edge", 6)
		a.refused("ttl", 6)
		a.may["relay_series_owner_changes_total"] = true
		a.shows(5, "__name__", "h95", "v", html)
		for _, path := range []string{"/", "/?edge=" + html, "/edge/stranger-1", "/edge/" + html, "/api/v1/edges", "/api/v1/status", "/api/v1/series?match[]=h95", "/api/v1/explain?series=" + html, `/api/v1/explain?series=h95{v="` + html + `"}`} {
			body, media, nosniff := s.fetch(a, path)
			if strings.Contains(media, "html") && strings.Contains(body, "<img src") {
				a.Errorf("%s shows it as it is:\n%.300s", path, body[max(0, strings.Index(body, "<img src")-100):])
			}
			if !strings.Contains(media, "html") && strings.Contains(body, "<img") && !nosniff {
				a.Errorf("%s, %s, may be taken for HTML", path, media)
			}
		}
	})
	s.run("82 addresses that somebody claims", func(a *attack) {
		// Nobody's X-Forwarded-For counts without --web.trusted-proxies.
		for _, xff := range []string{"203.0.113.7", "127.0.0.2", "h0stile", strings.Repeat("1.1.1.1,", 1000)} {
			a.wants(a.write(v1Of(a, one(82, "__name__", "h82")), "X-Relay-Edge", "-", "X-Forwarded-For", xff), 204)
		}
		for _, name := range []string{"203.0.113.7", "h0stile", "1.1.1.1"} {
			if strings.Contains(getPage(t, s.web+"/api/v1/edges"), name) {
				a.Errorf("%s is an edge", name)
			}
		}
		a.mayBe("superseded")
		a.may["relay_series_owner_changes_total"] = true
		a.shows(82, "__name__", "h82")
	})
	s.run("83 more series than the relay holds", func(a *attack) {
		var refused atomic.Int64
		for round := range 15 {
			var series []prompb.TimeSeries
			for i := range 5000 {
				series = append(series, one(1, "__name__", "h83", "i", fmt.Sprint(round*5000+i)))
			}
			got := a.write(v1Of(a, series...), "X-Relay-TTL", "2s")
			if got.code == 400 {
				a.wants(got, 400, "--limits.series", "series_limit")
				refused.Add(1)
			}
		}
		if refused.Load() == 0 {
			a.Error("nothing was refused")
		}
		if held := s.metrics()["relay_series_held"]; held > 50_000 {
			a.Errorf("%v held", held)
		}
		a.mayRefuse("series_limit")
		a.any = true
		waitFor(t, "room", func() bool { return s.metrics()["relay_series_held"] < 1000 })
	})
}
