package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// getData asks for an endpoint of the API, and reads the data in its envelope.
func getData(t *testing.T, url string, data any) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer := struct {
		Status string `json:"status"`
		Data   any    `json:"data"`
	}{Data: data}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != 200 || answer.Status != "success" || res.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %d, %v, %+v", url, res.StatusCode, err, answer)
	}
}

// A write is a request of an edge.
type write struct {
	edge, ttl, contentType string
	names                  []string
	time                   time.Time
}

// sendWrite sends it, and returns the status.
func sendWrite(t *testing.T, base string, w write) int {
	t.Helper()
	req := &prompb.WriteRequest{}
	for _, name := range w.names {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{{Name: "__name__", Value: name}}, Samples: []prompb.Sample{{Value: 1, Timestamp: w.time.UnixMilli()}},
		})
	}
	raw, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, base+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Relay-Edge", w.edge)
	r.Header.Set("X-Relay-TTL", w.ttl)
	r.Header.Set("Content-Type", w.contentType)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func TestEdgesAPI(t *testing.T) {
	base, _ := startRelay(t, "--series.lag-tolerance=10m")
	now := time.Now()
	for _, w := range []struct {
		write
		code int
	}{
		{write{edge: "shop", ttl: "100s", names: []string{"a", "b"}, time: now.Add(-151 * time.Second)}, 204},
		{write{edge: "shop", ttl: "100s", names: []string{"a", "b", "b\xff"}, time: now.Add(-time.Second)}, 400},
		{write{edge: "fast", ttl: "inf", names: []string{"c"}, time: now.Add(time.Hour)}, 400},
		{write{edge: "zstd", contentType: "text/plain", names: []string{"c"}, time: now}, 415},
		{write{edge: "batch", ttl: "inf", names: []string{"d"}, time: now}, 204},
		{write{edge: "no/name", names: []string{"d"}, time: now}, 400},
	} {
		if code := sendWrite(t, base, w.write); code != w.code {
			t.Fatalf("%+v: %d", w, code)
		}
	}
	var list []edgeJSON
	getData(t, base+"/api/v1/edges", &list)
	by := map[string]edgeJSON{}
	var names []string
	for _, e := range list {
		by[e.Name] = e
		names = append(names, e.Name+" "+string(e.State))
	}
	if got := strings.Join(names, ", "); got != "batch live, fast refused, shop live, zstd refused" {
		t.Fatal(got)
	}
	shop := by["shop"]
	if shop.TTL != "1m40s" || *shop.TTLSeconds != 100 || shop.Silent || shop.Live != 2 || shop.Interval != 150 || shop.LastSeen.Before(now.Add(-time.Minute)) ||
		*shop.NewestAge < 1 || *shop.NewestAge > 100 || *shop.Skew > -.9 || *shop.Skew < -30 || shop.Samples <= 0 || shop.Requests <= 0 || shop.Configured {
		t.Errorf("%+v", shop)
	}
	if len(shop.Rejected) != 1 || shop.Rejected["label_invalid"] != 1 || shop.LastRejection == nil || shop.LastRejection.Code != 400 || shop.LastRejection.Series != `"b\xff"` || shop.LastRejection.Detail == "" {
		t.Errorf("%+v, %+v", shop.Rejected, shop.LastRejection)
	}
	if len(shop.Warnings) != 1 || shop.Warnings[0] != "its TTL of 1m40s is not longer than its push interval of 2m30s: series flicker" {
		t.Errorf("%q", shop.Warnings)
	}
	if e := by["batch"]; e.TTL != "inf" || e.TTLSeconds != nil || len(e.Warnings) != 0 {
		t.Errorf("%+v", e)
	}
	if e := by["fast"]; !e.Silent || !e.LastSeen.IsZero() || *e.Skew < 3000 || len(e.Warnings) != 1 || e.LastRejection.Reason != "too_far_in_future" {
		t.Errorf("%+v", e)
	}
	text := ownPage(t, base)
	if strings.Contains(text, `edge="`) || !strings.Contains(text, "\nrelay_edges_flickering 1\n") {
		t.Error("without an edges file /-/metrics names edges, or does not say that one flickers")
	}
	if e := by["zstd"]; e.LastRejection.Code != 415 || e.Rejected["content_type"] != 1 {
		t.Errorf("%+v", e)
	}
}

// What is refused before it is known to be from an edge counts for the edge that it
// says it is from, and does not speak for it.
func TestEdgesAPIWithFile(t *testing.T) {
	secret := file(t, "berlin.password", "s3cret")
	base, _ := startRelay(t, "--edges.file="+file(t, "edges.yml", `edges:
- name: berlin
  basic_auth: {password_file: "`+secret+`"}
  limits: {requests_per_second: 0.5, series: 50}
- name: oslo
  basic_auth: {password_file: "`+secret+`"}
`))
	as := func(user, password string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, base+"/api/v1/write", bytes.NewReader(pushBody(t, "a", 1)))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, password)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	state := func(want string) []edgeJSON {
		t.Helper()
		var list []edgeJSON
		getData(t, base+"/api/v1/edges", &list)
		var got []string
		for _, e := range list {
			got = append(got, e.Name+" "+string(e.State))
			if !e.Configured {
				t.Errorf("%+v", e)
			}
		}
		if s := strings.Join(got, ", "); s != want {
			t.Fatalf("%s, want %s", s, want)
		}
		return list
	}
	state("berlin silent, oslo silent")
	for i, code := range []int{as("berlin", "s3cret"), as("berlin", "guess"), as("nobody", "guess"), as("oslo", "guess")} {
		if want := []int{204, 401, 401, 401}[i]; code != want {
			t.Fatalf("request %d: %d", i, code)
		}
	}
	list := state("berlin live, oslo refused")
	if list[0].Rejected["credentials"] != 1 || list[1].Rejected["credentials"] != 1 || list[1].LastRejection.Code != 401 {
		t.Errorf("%+v", list)
	}
	for i := 0; as("berlin", "s3cret") != 429; i++ {
		if i == 100 {
			t.Fatal("over no rate")
		}
	}
	if list := state("berlin refused, oslo refused"); list[0].Rejected["request_rate"] != 1 || !strings.Contains(list[0].LastRejection.Detail, "requests_per_second") {
		t.Errorf("%+v", list)
	}
	time.Sleep(censusKept + 10*time.Millisecond) // what was counted is kept that long
	text := ownPage(t, base)
	for _, want := range []string{
		`relay_edge_last_seen_timestamp_seconds{edge="berlin"} 1.`, `relay_edge_ttl_seconds{edge="berlin"} 300`, `relay_edge_series{edge="berlin"} 1`, `relay_edge_series_held{edge="berlin"} 1`,
		`relay_edge_series_limit{edge="berlin"} 50`, `relay_edge_samples_total{edge="berlin"} `, `relay_edge_refused_requests_total{edge="berlin",reason="request_rate"} 1`,
		`relay_edge_refused_requests_total{edge="oslo",reason="credentials"} 1`, `relay_edge_clock_skew_seconds{edge="berlin"} `, "relay_edges_flickering 0", "relay_scrape_interval_seconds 0",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("/-/metrics lacks %s", want)
		}
	}
	if strings.Contains(text, `relay_edge_last_seen_timestamp_seconds{edge="oslo"}`) || strings.Contains(text, `series_limit{edge="oslo"}`) {
		t.Error("/-/metrics knows when oslo was seen, or its limit")
	}
}

func ownPage(t *testing.T, base string) string {
	t.Helper()
	res, err := http.Get(base + "/-/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res.StatusCode, err)
	}
	return string(text)
}

func TestStatusAPI(t *testing.T) {
	base, r := startRelay(t, "--journal.path="+t.TempDir(), "--limits.series=100", "--web.external-url=http://me:secret@relay.example.com/")
	var s statusJSON
	getData(t, base+"/api/v1/status", &s)
	if s.History.Live == nil || s.Contested == nil || s.Series.Live != 0 || !s.Ready || s.Journal.Mode != "embedded" || !s.Journal.Up || s.Journal.Replayed != 1 || s.Scrape.Series != nil {
		t.Errorf("%+v", s)
	}
	now := time.Now()
	for i := range 6 { // in turns
		sendWrite(t, base, write{edge: []string{"shop", "ship"}[i%2], names: []string{"a", "b"}, time: now.Add(time.Duration(i) * time.Millisecond)})
	}
	sendWrite(t, base, write{edge: "shop", names: []string{"c\xff"}, time: now})
	for range 4 {
		req, err := http.NewRequest(http.MethodGet, base+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "5")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		time.Sleep(20 * time.Millisecond)
	}
	for i := range 400 {
		r.trends.read(time.Now().Add(time.Duration(i)*historyStep), r)
	}
	time.Sleep(censusKept + 10*time.Millisecond) // what was counted is kept that long
	getData(t, base+"/api/v1/status", &s)
	if s.Series.Live != 2 || s.Series.Held != 2 || s.Series.Metrics != 2 || s.Edges.Live != 2 || *s.Scrape.Series != 2 || s.Scrape.Bytes == 0 || s.Scrape.Took <= 0 || s.Scrape.Interval < .02 || s.Scrape.Interval > 10 {
		t.Errorf("%+v", s)
	}
	h := s.History
	if h.Step != 10 || len(h.Live) != 360 || len(h.Samples) != 360 || len(h.Memory) != 360 || h.Memory[0] < 1<<20 || h.Live[359] != 2 && h.Live[359] != 0 {
		t.Errorf("%+v", h)
	}
	if len(s.Contested) != 1 || s.Contested[0].Series != "a" || s.Contested[0].Edges != [2]string{"shop", "ship"} {
		t.Errorf("%+v", s.Contested)
	}
	limits := map[string]limitJSON{}
	for _, l := range s.Limits {
		limits[l.Name] = l
	}
	if l := limits["series"]; len(limits) != 6 || l.Used != 2 || l.Limit != 100 || l.Flag != "--limits.series" || limits["memory"].Used < 1<<20 || limits["edges"].Used != 2 || limits["journal.max-bytes"].Used == 0 || limits["inflight-bytes"].Limit == 0 {
		t.Errorf("%+v", s.Limits)
	}
	for name := range limits {
		if !known("--" + strings.TrimPrefix(limits[name].Flag, "--")) {
			t.Errorf("no flag %s", limits[name].Flag)
		}
	}
	if s.Flags["limits.series"] != "100" || s.Flags["series.ttl"] != "5m0s" || strings.Contains(s.Flags["web.external-url"], "secret") || s.Flags["help"] != "" || s.Flags["web.trusted-proxies"] != "" {
		t.Errorf("%+v", s.Flags)
	}
	var list []edgeJSON
	getData(t, base+"/api/v1/edges", &list)
	if len(list) != 2 || len(list[1].Warnings) != 1 || !strings.HasPrefix(list[1].Warnings[0], "edge ship writes the same series, a for one") {
		t.Errorf("%+v", list)
	}
}

// What came in the last seconds is what the rates are of.
func TestTrends(t *testing.T) {
	base, r := startRelay(t)
	start := r.trends.began
	for i := range 30 {
		if i < 10 {
			for range 4 {
				sendWrite(t, base, write{edge: "shop", names: []string{"a", "b", "c"}, time: time.Now()})
			}
		}
		r.trends.read(start.Add(time.Duration(i+1)*readEvery), r)
	}
	if got := r.trends.rate; len(got) != 6 || got[1] != 6 || got[5] != 0 {
		t.Errorf("%v", got)
	}
	if n := len(r.trends.recent); n != recentKept {
		t.Errorf("%d readings", n)
	}
}

func TestExplainAPI(t *testing.T) {
	base, _ := startRelay(t)
	sendWrite(t, base, write{edge: "shop", ttl: "1h", names: []string{"a"}, time: time.Now()})
	sendWrite(t, base, write{edge: "shop", names: []string{"b"}, time: time.Now().Add(time.Hour)})
	for series, want := range map[string]string{"a": "live", "b": "refused", "c": "unknown"} {
		var x struct {
			State, Edge string
			Story       []string
		}
		getData(t, base+"/api/v1/explain?series="+series, &x)
		if x.State != want || len(x.Story) == 0 || (x.Edge == "shop") != (want != "unknown") {
			t.Errorf("%s: %+v, want %s", series, x, want)
		}
	}
}

// A delete holds across restarts, from the journal and from a checkpoint.
func TestDeleteAPI(t *testing.T) {
	dir := t.TempDir()
	do := func(base, query string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodDelete, base+"/api/v1/series?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, strings.TrimSpace(string(text))
	}
	base, r := startRelay(t, "--journal.path="+dir)
	if code, text := do(base, "match[]=a"); code != 403 || !strings.Contains(text, "--web.enable-admin-api") {
		t.Errorf("%d %s", code, text)
	}
	r.close()
	begin := func() {
		t.Helper()
		base, r = startRelay(t, "--journal.path="+dir, "--web.enable-admin-api")
	}
	begin()
	sampled := time.Now()
	all := []string{"a", "b", "c"}
	for _, edge := range []string{"shop"} {
		sendWrite(t, base, write{edge: edge, ttl: "1h", names: all, time: sampled})
	}
	res, err := http.Post(base+"/metrics/job/x", "", strings.NewReader("pushed 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	for _, c := range []struct {
		query string
		code  int
		want  string
	}{
		{"", 400, "match[] must be given"},
		{"edge=shop", 400, "match[] must be given"},
		{"match[]={", 400, "parse error"},
		{"match[]=a&dry-run=perhaps", 400, "dry-run"},
		{"match[]=nothing", 200, `{"data":{"deleted":0},"status":"success"}`},
		{"match[]={__name__=~'.%2B'}&edge=ship", 200, `{"data":{"deleted":0},"status":"success"}`},
		{"match[]={__name__=~'[abp].*'}&dry-run=true", 200, `{"data":{"deleted":5},"status":"success"}`},
		{"match[]=a&match[]=b&match[]=pushed", 200, `{"data":{"deleted":3},"status":"success"}`},
		{"match[]=a", 200, `{"data":{"deleted":0},"status":"success"}`},
	} {
		if code, text := do(base, c.query); code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s, want %d %s", c.query, code, text, c.code, c.want)
		}
	}
	state := func(series string) string {
		t.Helper()
		var x struct{ State string }
		getData(t, base+"/api/v1/explain?series="+series, &x)
		return x.State
	}
	check := func(when string) {
		t.Helper()
		sendWrite(t, base, write{edge: "shop", ttl: "1h", names: all, time: sampled.Add(-time.Second)}) // late
		page := getPage(t, base+"/metrics")
		if strings.Contains(page, "a{") || strings.Contains(page, "\nb{") || strings.Contains(page, "pushed{") || !strings.Contains(page, "c{") {
			t.Errorf("%s:\n%s", when, page)
		}
		if a, c := state("a"), state("c"); a != "deleted" || c != "live" {
			t.Errorf("%s: a is %s, c %s", when, a, c)
		}
	}
	check("at once")
	r.close()
	begin()
	check("after a restart")
	if err := r.journal.Checkpoint(t.Context(), r.dump); err != nil {
		t.Fatal(err)
	}
	if err := r.journal.Checkpoint(t.Context(), r.dump); err != nil {
		t.Fatal(err)
	}
	r.close()
	begin()
	check("after a checkpoint and a restart")
	sendWrite(t, base, write{edge: "shop", ttl: "1h", names: all, time: time.Now()})
	if got := state("a"); got != "live" {
		t.Errorf("after a new sample a is %s", got)
	}
	http.DefaultClient.CloseIdleConnections()
}

// What was learned of an edge is told while it pushes: one that is dead has no clock
// that is off, and none whose TTL is too short is alerted for twice.
func TestNothingIsLearnedOfTheDead(t *testing.T) {
	base, _ := startRelay(t, "--series.ttl-min=1ms", "--edges.file="+file(t, "edges.yml", `
edges:
- name: berlin
  authorization: {credentials_sha256: `+fmt.Sprintf("%x", sha256.Sum256([]byte("berlin")))+`}
`))
	push := func(ttl string, taken time.Time) {
		t.Helper()
		sample := at(taken.UnixMilli(), 1, "__name__", "up")
		req, err := http.NewRequest(http.MethodPost, base+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, v1Of(t, sample))))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer berlin")
		req.Header.Set("X-Relay-TTL", ttl)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 204 {
			t.Fatal(res.StatusCode)
		}
	}
	now := time.Now()
	push("1m", now.Add(-200*time.Millisecond))
	push("1m", now)
	learned := func() int {
		text := ownPage(t, base)
		return strings.Count(text, "\nrelay_edge_clock_skew_seconds{edge=\"berlin\"} ") + strings.Count(text, "\nrelay_edge_push_interval_seconds{edge=\"berlin\"} ")
	}
	if n := learned(); n != 2 {
		t.Fatalf("%d of 2 figures of an edge that pushes", n)
	}
	push("50ms", now.Add(200*time.Millisecond))
	eventually(t, "nothing that was learned of it", func() bool { return learned() == 0 })
	if text := ownPage(t, base); !strings.Contains(text, `relay_edge_ttl_seconds{edge="berlin"} 0.05`) || !strings.Contains(text, "\nrelay_edges_flickering 0\n") {
		t.Error("it flickers, or is not missed")
	}
	http.DefaultClient.CloseIdleConnections()
}
