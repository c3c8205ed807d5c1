package main

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
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
		died := time.Now()
		waitFor(t, "the dead agent's series gone", func() bool { return !shown() })
		if took := time.Since(died); took > 6*time.Second {
			t.Errorf("gone %s after the agent died, with a TTL of 4s", took)
		}
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
