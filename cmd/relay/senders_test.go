package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// TestProcessSenders is about what single senders do differently.
func TestProcessSenders(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	// Debian's 2.42 sends none of the headers that its configuration asks for
	// (prometheus/prometheus#13030), so its TTL has to come with the URL.
	t.Run("Prometheus2.42/TTL", func(t *testing.T) {
		base := startBinary(t)
		target, _ := startTarget(t)
		agent := start(t, debianPrometheus(t), "--enable-feature=agent", "--config.file="+file(t, "agent.yml", fmt.Sprintf(`
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: shop
    static_configs: [{targets: ['%s']}]
remote_write:
  - url: %s/api/v1/write?ttl=4s
    queue_config: {batch_send_deadline: 200ms}
`, target, base)), "--storage.agent.path="+t.TempDir(), "--web.listen-address="+freeAddress(t))
		shown := func() bool { return strings.Contains(getPage(t, base+"/metrics"), "shop_") }
		waitFor(t, "the series", shown)
		agent.Signal(syscall.SIGKILL)
		waitFor(t, "the dead agent's series gone", func() bool { return !shown() }) // the default is five minutes
	})
	// vmagent begins with zstd; 415 makes it go on with snappy, and it loses nothing.
	t.Run("vmagent/Encoding", func(t *testing.T) {
		base := startBinary(t)
		target, _ := startTarget(t)
		start(t, tool(t, "vmagent"), "-promscrape.config="+file(t, "scrape.yml", fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: shop\n    static_configs: [{targets: ['%s']}]\n", target)),
			"-remoteWrite.url="+base+"/api/v1/write", "-remoteWrite.tmpDataPath="+t.TempDir(), "-httpListenAddr="+freeAddress(t))
		waitForPage(t, base, `shop_requests_total{code="200"`)
		// One, or two where blocks were on their way side by side.
		if own := getPage(t, base+"/-/metrics"); !regexp.MustCompile(`(?m)^relay_refused_requests_total\{reason="content_encoding"\} [12]$`).MatchString(own) {
			t.Errorf("among the relay's own metrics no refusal of an encoding, or many:\n%s", own)
		}
	})
}

// TestBinaryStops is about the other ways to an end; a push that is under way when
// one comes is in TestBinary.
func TestBinaryStops(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	begin := func(t *testing.T, flags ...string) (*process, string) {
		address := freeAddress(t)
		base := "http://" + address
		p := start(t, relayBinary(t), append([]string{"--web.listen-address=" + address, "--journal.path=" + t.TempDir()}, flags...)...)
		waitFor(t, "ready", func() bool { return status(base+"/-/ready") == 200 })
		return p, base
	}
	ask := func(t *testing.T, method, url string) int {
		t.Helper()
		req, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	ends := func(t *testing.T, p *process) {
		t.Helper()
		if code := p.wait(t); code != 0 {
			t.Errorf("exit %d", code)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut} {
		t.Run("Quit/"+method, func(t *testing.T) {
			p, base := begin(t, "--web.enable-lifecycle")
			if code := ask(t, method, base+"/-/quit"); code != 200 {
				t.Errorf("answered %d", code)
			}
			ends(t, p)
		})
	}
	t.Run("NotEnabled", func(t *testing.T) {
		p, base := begin(t)
		for _, path := range []string{"/-/quit", "/-/reload"} {
			if code := ask(t, http.MethodPost, base+path); code != 403 {
				t.Errorf("%s: answered %d", path, code)
			}
		}
		p.Signal(syscall.SIGHUP) // reloads, whatever the flag
		waitFor(t, "a reload", func() bool { return strings.Contains(p.logs.String(), "Reloaded") })
		if code := status(base + "/-/ready"); code != 200 {
			t.Errorf("/-/ready after SIGHUP: %d", code)
		}
		p.Signal(syscall.SIGINT)
		ends(t, p)
	})
}

// The Collector pushes what it is given over OTLP, in both versions of the protocol,
// with types and help, and ends a series that has no value any more.
func TestProcessCollector(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	for _, message := range []string{"prometheus.WriteRequest", "io.prometheus.write.v2.Request"} {
		t.Run(message, func(t *testing.T) {
			base := startBinary(t)
			otlp := freeAddress(t)
			conf := strings.NewReplacer("http://relay.example.com:10091", captured(t, base, "otel-collector-0.165-"+strings.ReplaceAll(message, ".", "-")),
				"localhost:4317", freeAddress(t), "localhost:4318", otlp,
				"    send_metadata: true\n", "    send_metadata: true\n    protobuf_message: "+message+"\n",
				"service:\n", "service:\n  telemetry: {metrics: {level: none}}\n").Replace(read(t, "docs/edges/otel-collector.yml"))
			start(t, tool(t, "otelcol"), "--config="+file(t, "otel.yml", conf), "--feature-gates=exporter.prometheusremotewritexporter.enableSendingRW2")
			send := func(flags int) bool {
				now := time.Now().UnixNano()
				point := fmt.Sprintf(`"startTimeUnixNano":"%d","timeUnixNano":"%d","flags":%d,"attributes":[{"key":"car.model","value":{"stringValue":"T"}}]`, now-int64(time.Minute), now, flags)
				metrics := []string{
					`{"name":"car.speed","unit":"m/s","description":"How fast.","gauge":{"dataPoints":[{` + point + `,"asDouble":20.5}]}}`,
					`{"name":"trips","description":"Trips.","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{` + point + `,"asInt":"7"}]}}`,
					`{"name":"trip.duration","unit":"s","description":"How long.","histogram":{"aggregationTemporality":2,"dataPoints":[{` + point + `,"count":"3","sum":4.5,"bucketCounts":["1","2"],"explicitBounds":[1]}]}}`,
					`{"name":"stop.duration","unit":"s","description":"Stops.","exponentialHistogram":{"aggregationTemporality":2,"dataPoints":[{` + point + `,"count":"3","sum":4.5,"scale":1,"zeroCount":"1","positive":{"offset":0,"bucketCounts":["2"]}}]}}`,
					`{"name":"fuel","description":"Fuel.","summary":{"dataPoints":[{` + point + `,"count":"3","sum":4.5,"quantileValues":[{"quantile":0.5,"value":1.5}]}]}}`,
				}
				body := `{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"fleet"}},{"key":"service.instance.id","value":{"stringValue":"car-1"}}]},"scopeMetrics":[{"metrics":[` + strings.Join(metrics, ",") + `]}]}]}`
				res, err := http.Post("http://"+otlp+"/v1/metrics", "application/json", strings.NewReader(body))
				if err != nil {
					return false
				}
				defer res.Body.Close()
				if text, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
					t.Fatalf("OTLP: %d %s", res.StatusCode, text)
				}
				return true
			}
			waitFor(t, "the Collector", func() bool { return send(0) })
			waitForPage(t, base,
				"# TYPE car_speed_meters_per_second gauge", "# HELP car_speed_meters_per_second How fast.", "# TYPE trips_total counter", "# TYPE trip_duration_seconds histogram", "# TYPE fuel summary",
				"} 20.5 ", `trips_total{`, `trip_duration_seconds_bucket{`, `stop_duration_seconds_count{`, `fuel{`, `job="fleet"`, `instance="car-1"`, `site="shop-17"`, `car_model="T"`)
			if got := nativeHistograms(t, base); !slices.Contains(got, "stop_duration_seconds") {
				t.Errorf("native histograms: %q", got)
			}
			if got := getPage(t, base+"/metrics?edge=shop-17"); !strings.Contains(got, "car_speed") {
				t.Errorf("the edge's own page is\n%s", got)
			}
			before := getPage(t, base+"/-/metrics")
			send(1) // no recorded value
			waitFor(t, "the series ended", func() bool {
				page := getPage(t, base+"/metrics")
				return !strings.Contains(page, "car_speed") && !strings.Contains(page, "trip") && !strings.Contains(page, "stop_duration") && !strings.Contains(page, "fuel")
			})
			if refused := regexp.MustCompile(`(?m)^relay_refused_(samples|requests)_total\{.*\} [1-9].*$`).FindString(before); refused != "" {
				t.Error(refused)
			}
		})
	}
}

// nativeHistograms are the names of those on the page, read as Prometheus does.
func nativeHistograms(t *testing.T, base string) (names []string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	p, err := textparse.New(page, res.Header.Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
	for err == nil {
		var entry textparse.Entry
		if entry, err = p.Next(); err == nil && entry == textparse.EntryHistogram {
			var l labels.Labels
			p.Labels(&l)
			names = append(names, l.Get("__name__"))
		}
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	return names
}

// The README's own blocks, between real programs: an edge with its remote_write, a
// centre that asks for parts in parallel and for up of each edge.
func TestProcessReadme(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	base := startBinary(t)
	var write, centre string
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1) {
		block := strings.NewReplacer("relay.example.com:10091", host(base), "refresh_interval: 30s", "refresh_interval: 1s").Replace(m[1])
		switch {
		case strings.HasPrefix(block, "remote_write:"):
			write = block
		case strings.Contains(block, "__param_shard"), strings.Contains(block, "http_sd_configs"):
			centre += strings.TrimPrefix(block, "scrape_configs:\n")
		}
	}
	target, _ := startTarget(t)
	start(t, tool(t, "prometheus"), "--agent", "--config.file="+file(t, "agent.yml", fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: shop\n    static_configs: [{targets: ['%s']}]\n%s", target, write)),
		"--storage.agent.path="+t.TempDir(), "--web.listen-address="+freeAddress(t))
	address := freeAddress(t)
	p := start(t, tool(t, "prometheus"), "--config.file="+file(t, "centre.yml", "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n"+centre),
		"--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+address)
	ask := func(expr string) string {
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if err := json.Unmarshal([]byte(getPage(t, "http://"+address+"/api/v1/query?query="+url.QueryEscape(expr))), &answer); err != nil || len(answer.Data.Result) != 1 {
			return ""
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1])
	}
	for expr, want := range map[string]string{
		`up{job="relay",instance="relay:0/2"}`: "1", `up{job="relay",instance="relay:1/2"}`: "1", `up{job="relay-edges",edge="shop-17"}`: "1",
		`count(shop_latency_seconds_bucket)`: "4", // each once
		`count(shop_requests_total)`:         "1",
		`count(shop_rpc_seconds)`:            "2",
		// Each part has a share of the series, and together they are the page.
		`min(scrape_samples_scraped{job="relay"}) > bool 0`: "1",
		fmt.Sprintf(`sum(scrape_samples_scraped{job="relay"}) == bool %d`, strings.Count(regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(pageOf(t, base), ""), "\n")): "1",
	} {
		waitFor(t, expr, func() bool { return ask(expr) == want })
	}
	for line := range strings.Lines(p.logs.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			t.Errorf("the centre says: %s", line)
		}
	}
}

// pageOf is the page when the edge of TestProcessReadme is on it.
func pageOf(t *testing.T, base string) string {
	t.Helper()
	waitForPage(t, base, "shop_requests_total{", "shop_rpc_seconds{", `up{`)
	return getPage(t, base+"/metrics")
}
