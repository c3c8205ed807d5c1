package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// asked is what an expression is at a Prometheus, by the value of a label; nil where
// there is no answer.
func asked(address, expr, label string) map[string]float64 {
	res, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if json.NewDecoder(res.Body).Decode(&answer) != nil {
		return nil
	}
	out := map[string]float64{}
	for _, r := range answer.Data.Result {
		v, _ := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		out[r.Metric[label]] = v
	}
	return out
}

// TestProcessEdges is three sites with Prometheus agents, which prove themselves in
// three ways over TLS, and a centre that sees with up which of them are there.
func TestProcessEdges(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	const ttl = 20 * time.Second
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	put := func(name string, content []byte) {
		t.Helper()
		// As secrets are mounted: complete at once.
		if err := os.WriteFile(at(name+".new"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(at(name+".new"), at(name)); err != nil {
			t.Fatal(err)
		}
	}
	ca := newAuthority(t)
	hour := time.Now().Add(time.Hour)
	put("ca.crt", ca.pem())
	rotate := func(serial int64) {
		cert, key := ca.sign(t, serial, "", x509.ExtKeyUsageServerAuth, hour)
		put("relay.key", key)
		put("relay.crt", cert)
	}
	rotate(2)
	put("tls.yml", []byte("tls_server_config: {cert_file: relay.crt, key_file: relay.key, client_ca_file: ca.crt, client_auth_type: VerifyClientCertIfGiven}\n"))
	cert, key := ca.sign(t, 3, "spiffe://example.org/oslo", x509.ExtKeyUsageClientAuth, hour)
	put("oslo.crt", cert)
	put("oslo.key", key)
	hash, err := bcrypt.GenerateFromPassword([]byte("password of ship"), 8)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{
		"oslo": "- name: oslo\n  client_certificate: {san: \"spiffe://example.org/oslo\"}\n  ttl: 20s\n",
		"ship": fmt.Sprintf("- name: ship\n  basic_auth: {password_hash: %q}\n  ttl: 20s\n", hash),
		"shop": fmt.Sprintf("- name: shop\n  authorization: {credentials_sha256: %x}\n  ttl: 20s\n", sha256.Sum256([]byte("token of shop"))),
	}
	edgesFile := func(names ...string) {
		content := "edges:\n"
		for _, n := range names {
			content += entries[n]
		}
		put("edges.yml", []byte(content))
	}
	edgesFile("oslo", "ship", "shop")
	pushes := freeAddress(t)
	base := startBinary(t, "--edges.file="+at("edges.yml"), "--ingest.listen-address="+pushes, "--ingest.config.file="+at("tls.yml"), "--web.enable-lifecycle")
	target, _ := startTarget(t)

	// Handshakes that are begun and not finished end by themselves.
	unfinished := make(chan error, 2)
	for _, hello := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		go func() {
			c, err := net.Dial("tcp", pushes)
			if err != nil {
				unfinished <- err
				return
			}
			defer c.Close()
			io.WriteString(c, hello)
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err = io.Copy(io.Discard, c); !isTimeout(err) {
				err = nil
			}
			unfinished <- err
		}()
	}
	defer func() {
		for range cap(unfinished) {
			if err := <-unfinished; err != nil {
				t.Errorf("a handshake that was not finished: %v", err)
			}
		}
	}()

	// The shop says that it is the ship.
	proofs := map[string]string{
		"oslo": fmt.Sprintf("    tls_config: {ca_file: %s, cert_file: %s, key_file: %s}\n", at("ca.crt"), at("oslo.crt"), at("oslo.key")),
		"ship": fmt.Sprintf("    tls_config: {ca_file: %s}\n    basic_auth: {username: ship, password: password of ship}\n", at("ca.crt")),
		"shop": fmt.Sprintf("    tls_config: {ca_file: %s}\n    authorization: {credentials: token of shop}\n", at("ca.crt")),
	}
	agents, addresses, stores := map[string]*process{}, map[string]string{}, map[string]string{}
	startAgent := func(name string) {
		addresses[name] = freeAddress(t)
		if stores[name] == "" {
			stores[name] = t.TempDir()
		}
		agents[name] = start(t, tool(t, "prometheus"), "--agent", "--config.file="+file(t, "agent.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, external_labels: {edge: ship}}
scrape_configs:
  - job_name: shop
    static_configs: [{targets: ['%s']}]
remote_write:
  - url: https://%s/api/v1/write
    queue_config: {batch_send_deadline: 500ms}
%s`, target, pushes, proofs[name])), "--storage.agent.path="+stores[name], "--web.listen-address="+addresses[name])
	}
	for name := range proofs {
		startAgent(name)
	}
	centre := freeAddress(t)
	start(t, tool(t, "prometheus"), "--config.file="+file(t, "centre.yml", fmt.Sprintf(`
global: {scrape_interval: 5s, scrape_timeout: 5s}
scrape_configs:
  - job_name: relay
    honor_labels: true
    honor_timestamps: true
    track_timestamps_staleness: true
    static_configs: [{targets: ['%s']}]
  - job_name: relay-edges
    http_sd_configs: [{url: '%s/api/v1/sd?page=up', refresh_interval: 5s}]
`, host(base), base)), "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+centre)
	up := func() map[string]float64 { return asked(centre, `up{job="relay-edges"}`, "edge") }
	defer func() {
		if t.Failed() {
			t.Logf("up: %v\nown metrics:\n%s", up(), getPage(t, base+"/-/metrics"))
		}
	}()
	all := func(u map[string]float64, names ...string) bool {
		for _, n := range names {
			if v, ok := u[n]; !ok || v != 1 {
				return false
			}
		}
		return true
	}
	waitFor(t, "up of all three", func() bool { return all(up(), "oslo", "ship", "shop") })
	waitFor(t, "the series of all three, each under its own name", func() bool {
		return len(asked(centre, `shop_temperature_celsius`, "edge")) == 3
	})

	// One is stopped. Two scrapes and the TTL later it is down; the others are not.
	agents["ship"].Signal(syscall.SIGKILL)
	died := time.Now()
	waitFor(t, "up of the ship to be 0", func() bool {
		u := up()
		if len(u) > 0 && !all(u, "oslo", "shop") {
			t.Fatalf("up of the others is %v", u)
		}
		v, ok := u["ship"]
		return ok && v == 0
	})
	took := time.Since(died)
	t.Logf("up was 0 %s after the ship's end, with a TTL of %s and a scrape every five seconds", took.Round(100*time.Millisecond), ttl)
	if took > ttl+10*time.Second+30*time.Second { // 30 s for a busy machine
		t.Errorf("up was 0 %s after the ship's end", took)
	}
	if took < ttl-3*time.Second {
		t.Errorf("up was 0 %s after the ship's end, before its TTL", took)
	}
	waitFor(t, "the ship's series gone at the centre", func() bool {
		_, there := asked(centre, `shop_temperature_celsius`, "edge")["ship"]
		return !there
	})
	startAgent("ship")
	waitFor(t, "up of the ship to be 1 again", func() bool { return all(up(), "oslo", "ship", "shop") })

	// Certificates change under load, twice; the agents and a client that makes a new
	// connection for each request see no failure.
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				req, err := http.NewRequest(http.MethodPost, "https://"+pushes+writePath, bytes.NewReader(pushBody(t, "load", 1)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer token of shop")
				res, err := client.Do(req)
				if err != nil {
					t.Errorf("while certificates change: %v", err)
					return
				}
				res.Body.Close()
				if res.StatusCode != 204 {
					t.Errorf("while certificates change: %d", res.StatusCode)
					return
				}
			}
		})
	}
	for serial := int64(10); serial < 13; serial++ {
		rotate(serial)
		waitFor(t, "the new certificate", func() bool { // seen without being told
			conn, err := tls.Dial("tcp", pushes, &tls.Config{RootCAs: roots})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() == serial
		})
	}
	close(stop)
	load.Wait()
	for name, address := range addresses {
		own := getPage(t, "http://"+address+"/metrics")
		for _, counter := range []string{"prometheus_remote_storage_samples_failed_total", "prometheus_remote_storage_samples_retried_total"} {
			if m := regexp.MustCompile(`(?m)^` + counter + `\{.*\} (\S+)$`).FindStringSubmatch(own); m == nil || m[1] != "0" {
				t.Errorf("%s says %s: %q", name, counter, m)
			}
		}
	}

	// One is revoked, on the connection that it has: nobody restarts.
	edgesFile("oslo", "ship")
	waitFor(t, "refusals of the shop", func() bool {
		return regexp.MustCompile(`(?m)^relay_refused_requests_total\{reason="credentials"\} [1-9]`).MatchString(getPage(t, base+"/-/metrics"))
	})
	waitFor(t, "the shop's series gone at the centre, the others' there", func() bool {
		got := asked(centre, `shop_temperature_celsius`, "edge")
		_, shop := got["shop"]
		return !shop && len(got) == 2
	})
	waitFor(t, "up of the shop to be 0", func() bool { v, ok := up()["shop"]; return ok && v == 0 })
	entries["shop"] += "  enabled: false\n" // then it is nobody's business any more
	edgesFile("oslo", "ship", "shop")
	waitFor(t, "the shop out of the targets", func() bool {
		return !strings.Contains(getPage(t, base+"/api/v1/sd"), "shop")
	})
	if u := up(); !all(u, "oslo", "ship") {
		t.Errorf("up of the others is %v", u)
	}
}
