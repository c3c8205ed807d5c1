package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"relay/ingest"
)

// The web listener with TLS that asks for certificates: who has none is not answered.
func TestBinaryWebTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	dir := t.TempDir()
	good, other := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	cert, key := good.sign(t, 2, "", x509.ExtKeyUsageServerAuth, hour)
	for name, text := range map[string][]byte{
		"relay.crt": cert, "relay.key": key, "ca.crt": good.pem(),
		"web.yml": []byte("tls_server_config: {cert_file: relay.crt, key_file: relay.key, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddress(t)
	start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(), "--web.config.file="+filepath.Join(dir, "web.yml"))
	roots := x509.NewCertPool()
	roots.AddCert(good.cert)
	ask := func(by *authority) (int, error) {
		cfg := &tls.Config{RootCAs: roots}
		if by != nil {
			cert, key := by.sign(t, 3, "", x509.ExtKeyUsageClientAuth, hour)
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}, Timeout: 20 * time.Second}
		res, err := c.Get("https://" + address + "/metrics")
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	waitFor(t, "a scrape with a certificate", func() bool { code, _ := ask(good); return code == 200 })
	for name, by := range map[string]*authority{"none": nil, "another authority's": other} {
		if code, err := ask(by); err == nil {
			t.Errorf("with a certificate that is %s: %d", name, code)
		}
	}
	if got := status("http://" + address + "/metrics"); got == 200 {
		t.Error("answered without TLS")
	}
}

// A socket that systemd holds: the relay serves it, and what was connected before the
// relay was there is answered.
func TestBinarySystemdSocket(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	held, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	early := make(chan int, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String() + "/metrics")
		if err != nil {
			early <- 0
			return
		}
		res.Body.Close()
		early <- res.StatusCode
	}()
	cmd := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"`, "sh", relayBinary(t), "--web.systemd-socket", "--journal.path="+t.TempDir())
	cmd.ExtraFiles = []*os.File{held} // the first of systemd's, 3
	var logs lockedBuffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	select {
	case code := <-early:
		if code != 200 {
			t.Errorf("a scrape that was there first: %d\n%s", code, logs.String())
		}
	case <-time.After(30 * time.Second):
		t.Errorf("a scrape that was there first is not answered:\n%s", logs.String())
	}
}

// One line says where the relay listens; in JSON where that is asked for.
func TestBinarySaysWhereItListens(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	for _, format := range []string{"logfmt", "json"} {
		address := freeAddress(t)
		p := start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(), "--log.format="+format)
		waitFor(t, "an answer", func() bool { return status("http://"+address+"/-/ready") == 200 })
		said := 0
		for line := range strings.Lines(p.logs.String()) {
			if format == "json" {
				var record map[string]any
				if err := json.Unmarshal([]byte(line), &record); err != nil {
					t.Errorf("%v: %s", err, line)
				}
			} else if !regexp.MustCompile(`^time=\S+ level=\S+ source=\S+ msg=`).MatchString(line) {
				t.Errorf("not logfmt: %s", line)
			}
			if strings.Contains(line, "Listening on") && strings.Contains(line, address) {
				said++
			}
		}
		if said != 1 {
			t.Errorf("%s: %d lines say where it listens:\n%s", format, said, p.logs.String())
		}
	}
}

// A relay that was built by hand says so, instead of nothing.
func TestBinaryVersion(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	if out, stderr, code := runBinary(t, "--version"); code != 0 || !strings.HasPrefix(out, "relay, version dev (") || stderr != "" {
		t.Errorf("exit %d, %q %q", code, out, stderr)
	}
}

// All paths under which senders look for remote write are one endpoint, and none of
// them answers anything else; a path of the pages is none for pushes.
func TestAliases(t *testing.T) {
	url, _ := startRelay(t)
	for i, path := range ingest.Paths {
		raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
			Labels:  []prompb.Label{{Name: "__name__", Value: "taken"}, {Name: "path", Value: path}},
			Samples: []prompb.Sample{{Value: float64(i), Timestamp: time.Now().UnixMilli()}},
		}}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Post(url+path, "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, raw)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 204 {
			t.Errorf("POST %s: %d", path, res.StatusCode)
		}
		if got := status(url + path); got != 405 {
			t.Errorf("GET %s: %d", path, got)
		}
		if page := getPage(t, url+"/metrics"); !strings.Contains(page, `path="`+path+`"`) {
			t.Errorf("pushed to %s, not shown:\n%s", path, page)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Every page can be asked for by HEAD, which answers as GET without the body.
func TestHead(t *testing.T) {
	url, _ := startRelay(t)
	for _, path := range []string{"/", "/metrics", "/metrics?match[]=up", "/-/metrics", "/-/healthy", "/-/ready", "/api/v1/sd", "/api/v1/edges", "/api/v1/series?match[]=up", "/api/v1/metrics"} {
		var types [2]string
		for i, method := range []string{http.MethodGet, http.MethodHead} {
			req, err := http.NewRequest(method, url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || method == http.MethodHead && len(body) > 0 {
				t.Errorf("%s %s: %d, %d bytes", method, path, res.StatusCode, len(body))
			}
			types[i] = res.Header.Get("Content-Type")
		}
		if types[0] != types[1] {
			t.Errorf("%s is %q, by HEAD %q", path, types[0], types[1])
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Scrapers that read nothing, or go away, take their turns for no longer than their own
// timeout; meanwhile pushes are taken, and afterwards pages are whole.
func TestSlowScrapersHarmNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	url, r := startRelay(t, "--exposition.max-scrapes=3") // one address has two at most
	const n = 200_000
	for part := range 20 {
		req := &prompb.WriteRequest{}
		for i := range n / 20 {
			req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
				Labels:  []prompb.Label{{Name: "__name__", Value: "filling"}, {Name: "long", Value: strings.Repeat("x", 100)}, {Name: "n", Value: strconv.Itoa(part*n/20 + i)}},
				Samples: []prompb.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}},
			})
		}
		raw, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Post(url+"/api/v1/write", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, raw)))
		if err != nil || res.StatusCode != 204 {
			t.Fatal(res, err)
		}
		res.Body.Close()
	}
	aborted := func() string {
		return regexp.MustCompile(`relay_scrapes_failed_total\{reason="aborted"\} \d+`).FindString(getPage(t, url+"/-/metrics"))
	}
	// Two of them, for all turns that their address has: one is open and reads nothing, one
	// is closed as soon as it has something.
	for _, gone := range []bool{false, true} {
		c, err := net.Dial("tcp", host(url))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.(*net.TCPConn).SetReadBuffer(4096)
		io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 3\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1024)); err != nil {
			t.Fatal(err)
		}
		if gone {
			c.Close()
		}
	}
	for i := range 50 {
		pushOne(t, url, "meanwhile", float64(i))
	}
	waitFor(t, "both left behind", func() bool { return strings.HasSuffix(aborted(), " 2") })
	page := getPage(t, url+"/metrics")
	if got := strings.Count(page, "\nfilling{"); got != n || !strings.Contains(page, `meanwhile{instance=""} 49 `) {
		t.Errorf("%d series on the page, %d are live", got, r.store.Stats(time.Now()).Live)
	}
	http.DefaultClient.CloseIdleConnections()
}

// No label of the relay's own metrics is made of what a client sends: whatever comes,
// there are no more series than before.
func TestOwnMetricsAreNotMadeByClients(t *testing.T) {
	url, _ := startRelay(t)
	own := func() string {
		var names []string
		for line := range strings.Lines(getPage(t, url+"/-/metrics")) {
			if strings.HasPrefix(line, "relay_") {
				names = append(names, line[:strings.LastIndexByte(line, ' ')])
			}
		}
		return strings.Join(names, "\n")
	}
	send := func(mark string) {
		for _, c := range [][2]string{
			{"POST", "/api/v1/write"}, {"GET", "/api/v1/write"}, {mark, "/api/v1/write"}, {"PUT", "/metrics/job/" + mark}, {mark, "/metrics/job/" + mark}, {"POST", "/metrics/job/" + mark + "/odd"},
			{"GET", "/metrics"}, {"GET", "/metrics?match[]=" + mark}, {"GET", "/metrics?match[]={&edge=" + mark}, {"GET", "/metrics?shard=" + mark}, {"GET", "/" + mark}, {"GET", "/api/v1/series?match[]=" + mark},
		} {
			for _, contentType := range []string{"application/x-protobuf", "application/x-protobuf;proto=" + mark, mark} {
				req, err := http.NewRequest(c[0], url+c[1], bytes.NewReader(pushBody(t, mark, 1)))
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"X-Relay-Edge", "User-Agent", "Content-Encoding", "Accept", "Accept-Encoding", "X-Relay-TTL", "X-Forwarded-For"} {
					req.Header.Set(name, mark)
					if name == "Content-Encoding" || name == "X-Relay-TTL" {
						req.Header.Del(name)
					}
				}
				req.Header.Set("Content-Type", contentType)
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}
	}
	send("FIRST")
	before := own()
	for _, mark := range []string{"SECOND", "THIRD", "a_B"} {
		send(mark)
	}
	if after := own(); after != before || strings.Contains(after, "FIRST") {
		t.Errorf("other series than before:\n%s\nwere\n%s", after, before)
	}
	http.DefaultClient.CloseIdleConnections()
}
