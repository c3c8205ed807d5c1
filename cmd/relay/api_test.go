package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The discovery lists each edge once, in order, with an address that works.
func TestDiscovery(t *testing.T) {
	url, _ := startRelay(t)
	list := func(path string) (groups []targetGroup) {
		t.Helper()
		res, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
		}
		if err := json.NewDecoder(res.Body).Decode(&groups); err != nil {
			t.Fatal(err)
		}
		return groups
	}
	if got := list("/api/v1/sd"); got == nil || len(got) != 0 {
		t.Errorf("without edges: %v", got)
	}
	for _, edge := range []string{"ship-2", "shop-17"} {
		req, err := http.NewRequest(http.MethodPost, url+"/api/v1/write", strings.NewReader(string(pushBody(t, "a", 1))))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Relay-Edge", edge)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	for _, page := range []string{"", "up"} {
		groups := list("/api/v1/sd?page=" + page)
		if len(groups) != 2 || groups[0].Labels["edge"] != "ship-2" || groups[1].Labels["edge"] != "shop-17" {
			t.Fatalf("%+v", groups)
		}
		l := groups[1].Labels
		if l["__param_page"] != page || l["__metrics_path__"] != "/metrics" || l["__param_edge"] != "shop-17" || groups[1].Targets[0] != host(url) {
			t.Errorf("%+v", groups[1])
		}
		if got := status(l["__scheme__"] + "://" + groups[1].Targets[0] + l["__metrics_path__"] + "?edge=" + l["__param_edge"] + "&page=" + page); got != 200 {
			t.Errorf("the target answers %d", got)
		}
	}
	res, err := http.Get(url + "/api/v1/edges")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if !strings.Contains(string(text), `{"status":"success","data":[`) && !strings.Contains(string(text), `"name":"shop-17"`) {
		t.Errorf("%s", text)
	}
}

// What is not all there yet is not answered as if it were: an empty list of targets
// would have Prometheus drop those that it has.
func TestAnswersWaitForTheReplay(t *testing.T) {
	r := unstarted(t, "--journal=off")
	defer r.close()
	paths := []string{"/api/v1/sd", "/api/v1/edges", "/api/v1/series?match[]=up", "/api/v1/metrics", "/api/v1/explain?series=up"}
	ask := func(ctx context.Context, path string) int {
		w := httptest.NewRecorder()
		r.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil).WithContext(ctx))
		return w.Code
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	waiting := make(chan string, len(paths))
	for _, path := range paths {
		if code := ask(gone, path); code != 503 {
			t.Errorf("%s: %d during a replay", path, code)
		}
		go func() { waiting <- fmt.Sprint(path, " ", ask(t.Context(), path)) }()
	}
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range paths {
		if got := <-waiting; !strings.HasSuffix(got, " 200") {
			t.Errorf("%s after the replay", got)
		}
	}
}

// The series of a selector, with what is left of their lives, for people and for
// the command line.
func TestSeriesAPI(t *testing.T) {
	base, _ := startRelay(t)
	res, err := http.Post(base+"/metrics/job/x?ttl=inf", "", strings.NewReader("# TYPE a counter\na{l=\"<b>\"} 7\na{l=\"2\"} 8\nb 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	pushOne(t, base, "up", 1)
	get := func(query string) (code int, body string) {
		t.Helper()
		res, err := http.Get(base + "/api/v1/series?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	for _, c := range []struct {
		query string
		code  int
		wants []string
	}{
		{"match[]=a{l!='2'}", 200, []string{`"labels":{"__name__":"a","job":"x","l":"\u003cb\u003e"}`, `"value":"7"`, `"type":"counter"`, `"ttlSeconds":null`, `"pushed":true`}},
		{"match[]=up", 200, []string{`"ttlSeconds":300,"ttlLeftSeconds":`, `"edge":"127.0.0.1"`}},
		{"match[]=a&limit=1", 200, []string{"2 series match, these are the first 1"}},
		{"match[]=nothing", 200, []string{`"data":[]`}},
		{"", 400, []string{`"errorType":"bad_data"`, "match[]"}},
		{"match[]={", 400, []string{"parse error"}},
		{"match[]=a&limit=0", 400, []string{"limit"}},
	} {
		code, body := get(c.query)
		for _, want := range c.wants {
			if code != c.code || !strings.Contains(body, want) {
				t.Errorf("%s: %d %s, want %d %s", c.query, code, body, c.code, want)
			}
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"series", "--url=" + base, "a"}, &out, &errs); code != exitOK || !strings.Contains(out.String(), `a{job="x", l="<b>"}`) {
		t.Errorf("relay series: exit %d\n%s%s", code, out.String(), errs.String())
	}
	http.DefaultClient.CloseIdleConnections()
}

// What is nearly a parameter is refused, with what there is: a page of everything in
// place of a few series would be taken for these. And who pushes to the wrong listener
// is told of the right one.
func TestNearlyRight(t *testing.T) {
	base, _ := startRelay(t, "--ingest.listen-address=127.0.0.1:0")
	for _, c := range []struct {
		method, path string
		code         int
		says         string
	}{
		{"GET", "/metrics?match=up", 400, "match[]"},
		{"GET", "/metrics?edges=shop", 400, "want edge"},
		{"GET", "/metrics?edge=shop&page=pu", 400, "there is only up"},
		{"GET", "/metrics?page=&edge=&shard=", 200, ""},
		{"GET", "/metrics?edge=typo", 503, `the edge "typo" is silent`},
		{"GET", "/metrics?edge=typo", 503, "or none of an edge of that name is remembered"},
		{"GET", "/api/v1/series?edge=shop&match=up", 400, "want match[]"},
		{"GET", "/api/v1/series?match[]=up&shard=0/2", 200, ""},
		{"DELETE", "/api/v1/series?edge=shop&match=up", 403, ""},
		{"GET", "/api/v1/sd?page=ups", 400, "there is only up"},
		{"GET", "/api/v1/sd?match[]=up", 400, "page is all"},
		{"GET", "/api/v1/sd?page=up", 200, ""},
		{"POST", "/api/v1/write", 404, "--ingest.listen-address=127.0.0.1:0"},
		{"POST", "/api/v1/push", 404, "--ingest.listen-address=127.0.0.1:0"},
		{"PUT", "/metrics/job/x/instance/i", 404, "--ingest.listen-address=127.0.0.1:0"},
		{"GET", "/no/such/path", 404, "404 page not found"},
	} {
		req, err := http.NewRequest(c.method, base+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != c.code || !strings.Contains(string(text), c.says) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, res.StatusCode, text, c.code, c.says)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
