package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"golang.org/x/crypto/bcrypt"
)

// TestProcess runs the relay's binary between the programs that people use, on
// loopback. CONTRIBUTING.md says where they come from.
func TestProcess(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	for _, message := range []string{"prometheus.WriteRequest", "io.prometheus.write.v2.Request"} {
		t.Run("Prometheus/"+message, func(t *testing.T) { prometheusToPrometheus(t, message) })
	}
	t.Run("Prometheus2.42", func(t *testing.T) {
		base := startBinary(t)
		target, _ := startTarget(t)
		start(t, debianPrometheus(t), "--enable-feature=agent", "--config.file="+file(t, "agent.yml", agentConfig(captured(t, base, "prometheus-2.42"), target, "    metadata_config: {send: true, send_interval: 1s}\n", "")),
			"--storage.agent.path="+t.TempDir(), "--web.listen-address="+freeAddress(t))
		waitForPage(t, base, `shop_requests_total{code="200"`, "# TYPE shop_latency_seconds histogram")
	})
	t.Run("vmagent", func(t *testing.T) {
		base := startBinary(t)
		target, _ := startTarget(t)
		scrape := file(t, "scrape.yml", fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: shop\n    static_configs: [{targets: ['%s']}]\n", target))
		start(t, tool(t, "vmagent"), "-promscrape.config="+scrape, "-remoteWrite.url="+captured(t, base, "vmagent-1.151")+"/api/v1/write", "-remoteWrite.tmpDataPath="+t.TempDir(),
			"-httpListenAddr="+freeAddress(t), "-remoteWrite.headers=X-Relay-Edge:shop-17^^X-Relay-TTL:90s")
		waitForPage(t, base, `shop_requests_total{code="200"`)
	})
	t.Run("Telegraf", func(t *testing.T) {
		base := startBinary(t)
		text, err := os.ReadFile("../../docs/edges/telegraf.conf")
		if err != nil {
			t.Fatal(err)
		}
		conf := strings.NewReplacer("http://relay.example.com:10091", captured(t, base, "telegraf-1.37"), `"15s"`, `"1s"`).Replace(string(text))
		start(t, tool(t, "telegraf"), "--config", file(t, "telegraf.conf", conf))
		waitForPage(t, base, "internal_memstats_sys_bytes{")
	})
	t.Run("promtool", func(t *testing.T) {
		base := startBinary(t)
		pushOne(t, base, "up", 1)
		golden, err := os.ReadFile("../../testdata/pages/text-0.0.4.txt")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(tool(t, "promtool"), "check", "metrics")
		cmd.Stdin = bytes.NewReader(golden)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 3 || string(out) != "without_metadata no help text\n" {
			t.Errorf("the golden page: %v\n%s", err, out)
		}
		for _, path := range []string{"/metrics", "/-/metrics"} {
			cmd := exec.Command(tool(t, "promtool"), "check", "metrics")
			cmd.Stdin = strings.NewReader(getPage(t, base+path))
			out, err := cmd.CombinedOutput()
			if lint := cmd.ProcessState.ExitCode() == 3; lint && path == "/metrics" && string(out) == "up no help text\n" {
				continue // the edge's choice
			}
			if err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", path, err, out)
			}
		}
	})
}

// TestBinary runs the relay's binary alone.
func TestBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	t.Run("AcknowledgedIsShown", func(t *testing.T) {
		base := startBinary(t)
		for i := range 200 {
			pushOne(t, base, "counts_total", float64(i))
			if page := getPage(t, base+"/metrics"); !strings.Contains(page, fmt.Sprintf("counts_total{instance=\"\"} %d ", i)) {
				t.Fatalf("push %d was answered, the next page shows\n%s", i, page)
			}
		}
	})
	t.Run("Usage", func(t *testing.T) {
		for _, c := range []struct {
			flags []string
			code  int
			says  string
		}{
			{[]string{"--no-such-flag"}, 2, "--no-such-flag"},
			{[]string{"--series.ttl=soon"}, 2, "soon"},
			{[]string{"--series.ttl=1h", "--series.ttl-max=1m"}, 2, "--series.ttl-max"},
			{[]string{"--limits.memory=lots"}, 2, "--limits.memory"},
			{[]string{"--web.config.file=/no/such/file"}, 2, "--web.config.file"},
			{[]string{"--version"}, 0, ""},
			{[]string{"--help"}, 0, ""},
		} {
			out, stderr, code := runBinary(t, c.flags...)
			if code != c.code || !strings.Contains(stderr, c.says) || c.code == 2 && (strings.Count(stderr, "\n") != 1 || out != "") {
				t.Errorf("%q: exit %d, %q, want %d and %q", c.flags, code, stderr, c.code, c.says)
			}
		}
	})
	t.Run("PortInUse", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, stderr, code := runBinary(t, "--web.listen-address="+l.Addr().String(), "--journal.path="+t.TempDir())
		if code != 1 || !strings.Contains(stderr, "address already in use") {
			t.Errorf("exit %d, %s", code, stderr)
		}
	})
	t.Run("JournalInUse", func(t *testing.T) {
		dir := t.TempDir()
		startBinary(t, "--journal.path="+dir)
		_, stderr, code := runBinary(t, "--web.listen-address="+freeAddress(t), "--journal.path="+dir)
		if code != 1 || !strings.Contains(stderr, "in use by another relay") {
			t.Errorf("exit %d, %s", code, stderr)
		}
	})
	t.Run("Lifecycle", testLifecycle)
	t.Run("WebConfig", func(t *testing.T) {
		hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		address := freeAddress(t)
		start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(),
			"--web.config.file="+file(t, "web.yml", fmt.Sprintf("basic_auth_users: {shop: %s}\n", hash)))
		waitFor(t, "a refusal", func() bool { return status("http://"+address+"/metrics") == 401 })
		for password, want := range map[string]int{"open sesame": 200, "guess": 401} {
			if got := status("http://shop:" + url.PathEscape(password) + "@" + address + "/metrics"); got != want {
				t.Errorf("with the password %q: %d", password, got)
			}
		}
	})
	t.Run("Home", func(t *testing.T) {
		base := startBinary(t)
		page := html.UnescapeString(getPage(t, base+"/"))
		for _, want := range []string{"url: " + base + "/api/v1/write", "targets: ['" + strings.TrimPrefix(base, "http://") + "']", "honor_labels: true", "track_timestamps_staleness: true"} {
			if !strings.Contains(page, want) {
				t.Errorf("the first page lacks %q", want)
			}
		}
	})
}

// testLifecycle stops a relay that is taking a push.
func testLifecycle(t *testing.T) {
	address := freeAddress(t)
	base := "http://" + address
	p := start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(), "--web.enable-lifecycle")
	waitFor(t, "ready", func() bool { return status(base+"/-/ready") == 200 })
	if got := status(base + "/-/healthy"); got != 200 {
		t.Errorf("/-/healthy: %d", got)
	}
	if res, err := http.Post(base+"/-/reload", "", nil); err != nil || res.StatusCode != 200 {
		t.Errorf("/-/reload: %v %v", res, err)
	} else {
		res.Body.Close()
	}
	if got := status(base + "/-/quit"); got != 405 {
		t.Errorf("GET /-/quit: %d", got)
	}
	body := pushBody(t, "slow", 1)
	pr, pw := io.Pipe()
	slow := make(chan int, 1)
	go func() {
		res, err := http.Post(base+"/api/v1/write", "application/x-protobuf", pr)
		if err != nil {
			slow <- 0
			return
		}
		res.Body.Close()
		slow <- res.StatusCode
	}()
	pw.Write(body[:4])
	waitFor(t, "the push taken on", func() bool {
		page := getPage(t, base+"/-/metrics")
		return strings.Contains(page, "\nrelay_inflight_bytes ") && !strings.Contains(page, "\nrelay_inflight_bytes 0\n")
	})
	p.Signal(syscall.SIGTERM)
	waitFor(t, "refusal of new pushes", func() bool {
		res, err := http.Post(base+"/api/v1/write", "application/x-protobuf", bytes.NewReader(body))
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == 503 && res.Header.Get("Retry-After") != ""
	})
	if got := status(base + "/metrics"); got != 200 {
		t.Errorf("a scrape while it stops: %d", got)
	}
	if got := status(base + "/-/ready"); got != 503 {
		t.Errorf("/-/ready while it stops: %d", got)
	}
	pw.Write(body[4:])
	pw.Close()
	if got := <-slow; got != 204 {
		t.Errorf("the push on its way: %d", got)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func prometheusToPrometheus(t *testing.T, message string) {
	base := startBinary(t)
	target, _ := startTarget(t)
	extra := "    protobuf_message: " + message + "\n    send_native_histograms: true\n"
	if message == "prometheus.WriteRequest" {
		extra += "    metadata_config: {send: true, send_interval: 1s}\n"
	}
	agent := start(t, tool(t, "prometheus"), "--agent", "--enable-feature=metadata-wal-records", "--config.file="+file(t, "agent.yml", agentConfig(captured(t, base, "prometheus-3.16-"+strings.ReplaceAll(message, ".", "-")), target, extra, "    scrape_native_histograms: true\n    always_scrape_classic_histograms: true\n")),
		"--storage.agent.path="+t.TempDir(), "--web.listen-address="+freeAddress(t))
	centreAddress := freeAddress(t)
	centre := start(t, tool(t, "prometheus"), "--config.file="+file(t, "centre.yml", fmt.Sprintf(`
scrape_configs:
  - job_name: relay
    honor_labels: true
    honor_timestamps: true
    track_timestamps_staleness: true
    scrape_native_histograms: true
    always_scrape_classic_histograms: true
    scrape_interval: 5s
    scrape_timeout: 5s
    static_configs: [{targets: ['%s']}]
`, host(base))), "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+centreAddress)
	query := func(expr string) (values []float64) {
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		res, err := http.Get("http://" + centreAddress + "/api/v1/query?query=" + url.QueryEscape(expr))
		if err != nil {
			return nil
		}
		defer res.Body.Close()
		if json.NewDecoder(res.Body).Decode(&answer) != nil {
			return nil
		}
		for _, r := range answer.Data.Result {
			var v float64
			fmt.Sscan(fmt.Sprint(r.Value[1]), &v)
			values = append(values, v)
		}
		return values
	}
	defer func() {
		if t.Failed() {
			t.Logf("the page:\n%.3000s\nown metrics:\n%s", getPage(t, base+"/metrics"), getPage(t, base+"/-/metrics"))
		}
	}()
	waitFor(t, "all types of metrics at the centre", func() bool {
		return len(query(`count({shop="17",__name__=~"shop_requests_total|shop_temperature_celsius|shop_latency_seconds_bucket|shop_rpc_seconds|shop_native_seconds"}) by (__name__)`)) == 5
	})
	waitFor(t, "a rate", func() bool {
		v := query(`rate(shop_requests_total[30s])`)
		return len(v) == 1 && v[0] > 5 && v[0] < 150
	})
	waitFor(t, "a quantile of the native histogram", func() bool {
		v := query(`histogram_quantile(0.5, rate(shop_native_seconds[30s]))`)
		return len(v) == 1 && v[0] > 0.2 && v[0] < 0.8
	})
	waitFor(t, "types and help", func() bool {
		page := getPage(t, "http://"+centreAddress+"/api/v1/metadata")
		for name, want := range map[string]string{
			"shop_requests_total": `"counter","unit":"","help":"Requests of the shop."`, "shop_temperature_celsius": `"gauge","unit":"","help":"How warm it is."`,
			"shop_latency_seconds": `"histogram","unit":"","help":"Latency."`, "shop_rpc_seconds": `"summary","unit":"","help":"RPCs."`,
			"shop_native_seconds": `"histogram","unit":"","help":"Native latency."`,
		} {
			if !strings.Contains(page, fmt.Sprintf(`"%s":[{"type":%s`, name, want)) {
				return false
			}
		}
		return true
	})
	agent.Signal(syscall.SIGKILL)
	waitFor(t, "the dead agent's series gone", func() bool { return len(query(`{shop="17"}`)) == 0 })
	for line := range strings.Lines(centre.logs.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			t.Errorf("the centre says: %s", line)
		}
	}
}

func agentConfig(base, target, write, scrape string) string {
	return fmt.Sprintf(`
global: {scrape_interval: 1s, external_labels: {shop: "17"}}
scrape_configs:
  - job_name: shop
%s    static_configs: [{targets: ['%s']}]
remote_write:
  - url: %s/api/v1/write
    headers: {X-Relay-Edge: shop-17, X-Relay-TTL: 12s}
    queue_config: {batch_send_deadline: 500ms}
    send_exemplars: true
%s`, scrape, target, base, write)
}

// captured is where a sender is to push: the relay, or with RELAY_CAPTURE=1 a proxy
// before it that writes the first requests to testdata/requests.
func captured(t *testing.T, base, name string) string {
	t.Helper()
	if os.Getenv("RELAY_CAPTURE") == "" {
		return base
	}
	relay, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(relay)
	var mu sync.Mutex
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		if n < 3 && len(body) < 20_000 && r.Header.Get("Content-Encoding") == "snappy" {
			n++
			file := filepath.Join("../../testdata/requests", fmt.Sprintf("%s.%d", name, n))
			var headers bytes.Buffer
			r.Header.Write(&headers)
			os.WriteFile(file+".snappy", body, 0o666)
			os.WriteFile(file+".headers", headers.Bytes(), 0o666)
		}
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// A process is one that a test has started, and ends.
type process struct {
	cmd    *exec.Cmd
	logs   *lockedBuffer
	exited chan struct{}
}

func start(t *testing.T, bin string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(bin, args...), logs: &lockedBuffer{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = p.logs, p.logs, t.TempDir()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			keepLogs(t, filepath.Base(bin), p.logs.String())
		}
	})
	return p
}

// keepLogs keeps what a program has said for whoever looks at a failed test: whole
// where artefacts are kept, where it does not bury what failed, or else its end.
func keepLogs(t *testing.T, program, text string) {
	if dir := os.Getenv("RELAY_ARTIFACTS"); dir != "" {
		os.MkdirAll(dir, 0o755)
		f, err := os.CreateTemp(dir, strings.ReplaceAll(t.Name(), "/", "-")+"-"+program+"-*.log")
		if err == nil {
			defer f.Close()
			if _, err = f.WriteString(text); err == nil {
				t.Logf("what %s said is in %s", program, f.Name())
				return
			}
		}
		t.Log(err)
	}
	t.Logf("%s said:\n%s", program, text[max(0, len(text)-3000):])
}

func (p *process) Signal(s os.Signal) { p.cmd.Process.Signal(s) }

// wait returns the exit code.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func relayBinary(t *testing.T) string {
	t.Helper()
	bin, err := buildRelay()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// startBinary starts the relay and waits until it is ready.
func startBinary(t *testing.T, flags ...string) (base string) {
	t.Helper()
	address := freeAddress(t)
	if !strings.Contains(strings.Join(flags, " "), "--journal.path=") {
		flags = append(flags, "--journal.path="+t.TempDir())
	}
	start(t, relayBinary(t), append([]string{"--web.listen-address=" + address}, flags...)...)
	base = "http://" + address
	waitFor(t, "the relay ready", func() bool { return status(base+"/-/ready") == 200 })
	return base
}

func runBinary(t *testing.T, flags ...string) (stdout, stderr string, code int) {
	t.Helper()
	bin := relayBinary(t) // the first one is built
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, flags...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &errs, t.TempDir()
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// tool finds one of the programs; where the tests were asked for, it must be there.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("RELAY_TOOLS")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, ".cache", "relay-tools")
	}
	bin := filepath.Join(dir, name)
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%v: CONTRIBUTING.md says how to get it", err)
	}
	return bin
}

func debianPrometheus(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("/usr/bin/prometheus")
	if err != nil {
		t.Fatalf("%v: apt-get install prometheus", err)
	}
	return bin
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// freeAddress is an address of loopback that nobody else is given: not twice here, and not
// by the kernel, which hands out ports for connections from a range of its own.
func freeAddress(t *testing.T) string {
	t.Helper()
	from, to := quietPorts()
	for range 1000 {
		port := from + int(portsGiven.Add(1)+firstPort)%(to-from)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port of a thousand is free")
	return ""
}

// quietPorts are ports that the kernel does not give to connections, up to the second
// one, if it leaves any.
func quietPorts() (from, to int) {
	const usual, enough = 32_768, 2000
	from, to = 10_000, 30_000
	first, last := usual, 0
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(text), &first, &last)
	}
	switch {
	case first >= from+enough:
		to = min(to, first)
	case last > 0 && last <= 65_535-enough:
		from, to = last+1, 65_536
	}
	return from, to
}

// Another process that looks for ports at the same time begins elsewhere.
var (
	firstPort  = rand.Uint32N(20_000)
	portsGiven atomic.Uint32
)

// waitFor waits two minutes at most.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("not within two minutes: %s", what)
}

func waitForPage(t *testing.T, base string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		waitFor(t, want, func() bool { return strings.Contains(getPage(t, base+"/metrics"), want) })
	}
}

func status(url string) int {
	res, err := http.Get(url)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// getPage is the body of a page, empty where there is none.
func getPage(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("%s: %v", url, err)
	}
	return string(text)
}

func pushBody(t *testing.T, name string, v float64) []byte {
	t.Helper()
	raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels: []prompb.Label{{Name: "__name__", Value: name}}, Samples: []prompb.Sample{{Value: v, Timestamp: time.Now().UnixMilli()}},
	}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, raw)
}

func pushOne(t *testing.T, base, name string, v float64) {
	t.Helper()
	res, err := http.Post(base+"/api/v1/write", "application/x-protobuf", bytes.NewReader(pushBody(t, name, v)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 204 {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("answered %d: %s", res.StatusCode, text)
	}
}
