package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// sign returns a certificate and its key, in PEM.
func (a *authority) sign(t *testing.T, serial int64, uri string, usage x509.ExtKeyUsage, until time.Time) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "site-oslo"}, NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// The binary with an edges file and a listener for pushes: edges prove themselves in
// three ways, certificates are rotated while they push, nothing else is served there,
// and who is revoked is cut off.
func TestBinaryIngestListener(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the binary")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	put := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good, other := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	cert, key := good.sign(t, 2, "", x509.ExtKeyUsageServerAuth, hour)
	put("relay.crt", cert)
	put("relay.key", key)
	put("ca.crt", good.pem())
	put("tls.yml", []byte("tls_server_config: {cert_file: relay.crt, key_file: relay.key, client_ca_file: ca.crt, client_auth_type: VerifyClientCertIfGiven}\n"))
	hash, err := bcrypt.GenerateFromPassword([]byte("secret of ship"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	entries := fmt.Sprintf("edges:\n- name: ship\n  basic_auth: {password_hash: %q}\n- name: oslo\n  client_certificate: {san: \"spiffe://example.org/oslo\"}\n", hash)
	shop := fmt.Sprintf("- name: shop\n  authorization: {credentials_sha256: %x}\n", sha256.Sum256([]byte("token of shop")))
	put("edges.yml", []byte(entries+shop))
	pushes := freeAddress(t)
	base := startBinary(t, "--edges.file="+at("edges.yml"), "--ingest.listen-address="+pushes, "--ingest.config.file="+at("tls.yml"), "--web.enable-lifecycle")

	client := func(cert, key []byte) *http.Client {
		t.Helper()
		roots := x509.NewCertPool()
		roots.AddCert(good.cert)
		cfg := &tls.Config{RootCAs: roots}
		if cert != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			// Sent whether the server asks for its authority or not.
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}, Timeout: 20 * time.Second}
		return c
	}
	push := func(c *http.Client, authorization, metric string) (int, error) {
		req, err := http.NewRequest(http.MethodPost, "https://"+pushes+"/api/v1/write", bytes.NewReader(pushBody(t, metric, 1)))
		if err != nil {
			return 0, err
		}
		if user, password, ok := strings.Cut(authorization, ":"); ok {
			req.SetBasicAuth(user, password)
		} else if authorization != "" {
			req.Header.Set("Authorization", "Bearer "+authorization)
		}
		res, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode, nil
	}
	signed := func(a *authority, uri string, usage x509.ExtKeyUsage, until time.Time) *http.Client {
		cert, key := a.sign(t, 3, uri, usage, until)
		return client(cert, key)
	}
	const oslo = "spiffe://example.org/oslo"
	plain := client(nil, nil)
	for _, c := range []struct {
		name          string
		client        *http.Client
		authorization string
		want          int // 0: the handshake fails
	}{
		{"token", plain, "token of shop", 204},
		{"password", plain, "ship:secret of ship", 204},
		{"certificate", signed(good, oslo, x509.ExtKeyUsageClientAuth, hour), "", 204},
		{"nothing", plain, "", 401},
		{"another's certificate", signed(good, "spiffe://example.org/oslo2", x509.ExtKeyUsageClientAuth, hour), "", 401},
		{"its common name alone", signed(good, "", x509.ExtKeyUsageClientAuth, hour), "", 401},
		{"certificate of another authority", signed(other, oslo, x509.ExtKeyUsageClientAuth, hour), "", 0},
		{"a server's certificate", signed(good, oslo, x509.ExtKeyUsageServerAuth, hour), "", 0},
		{"an expired certificate", signed(good, oslo, x509.ExtKeyUsageClientAuth, time.Now().Add(-time.Minute)), "", 0},
	} {
		code, err := push(c.client, c.authorization, "m")
		if code != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: %d %v, want %d", c.name, code, err, c.want)
		}
	}
	waitForPage(t, base, `m{edge="shop"`, `m{edge="ship"`, `m{edge="oslo"`)

	// Nothing but pushes here, and no pushes there.
	for _, path := range []string{"/", "/metrics", "/-/metrics", "/-/quit", "/-/reload", "/debug/pprof/", "/api/v1/sd", "/api/v1/edges"} {
		res, err := plain.Get("https://" + pushes + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound || res.ProtoMajor != 1 {
			t.Errorf("%s on the ingest listener: %s %d", path, res.Proto, res.StatusCode)
		}
	}
	res, err := http.Post(base+"/api/v1/write", "application/x-protobuf", bytes.NewReader(pushBody(t, "m", 1)))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("a push to the web listener: %d", res.StatusCode)
	}

	// Certificates change under load, once by way of half a file.
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if code, err := push(plain, "token of shop", "m"); code != 204 {
					t.Errorf("while certificates change: %d %v", code, err)
					return
				}
			}
		})
	}
	reload := func() int {
		res, err := http.Post(base+"/-/reload", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	cert, key = good.sign(t, 77, "", x509.ExtKeyUsageServerAuth, hour)
	put("relay.crt", cert[:len(cert)/2])
	if code := reload(); code != http.StatusInternalServerError {
		t.Errorf("reload of half a certificate: %d", code)
	}
	if page := getPage(t, base+"/-/metrics"); !strings.Contains(page, "relay_ingest_config_last_reload_successful 0") {
		t.Error("the metric does not say that the reload has failed")
	}
	put("relay.key", key)
	put("relay.crt", cert)
	if code := reload(); code != http.StatusOK {
		t.Errorf("reload: %d", code)
	}
	conn, err := tls.Dial("tcp", pushes, &tls.Config{RootCAs: plain.Transport.(*http.Transport).TLSClientConfig.RootCAs})
	if err != nil {
		t.Fatal(err)
	}
	if serial := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != 77 {
		t.Errorf("the certificate in use is %d", serial)
	}
	conn.Close()
	close(stop)
	load.Wait()

	// Revoked on a connection that stays open.
	kept := &http.Client{Transport: plain.Transport.(*http.Transport).Clone()}
	kept.Transport.(*http.Transport).DisableKeepAlives = false
	defer kept.CloseIdleConnections()
	if code, err := push(kept, "token of shop", "m"); code != 204 {
		t.Fatal(code, err)
	}
	put("edges.yml", []byte(entries))
	if code := reload(); code != http.StatusOK {
		t.Errorf("reload: %d", code)
	}
	if code, err := push(kept, "token of shop", "m"); code != 401 {
		t.Errorf("revoked: %d %v", code, err)
	}
	put("edges.yml", []byte("edges: [\n"))
	if code := reload(); code != http.StatusInternalServerError {
		t.Errorf("reload of a broken edges file: %d", code)
	}
	if code, err := push(kept, "ship:secret of ship", "m"); code != 204 {
		t.Errorf("after a broken file: %d %v", code, err)
	}
}

// No change of the TLS configuration is missed: not one that leaves size and time as they
// were, nor of a file that was not there when it was named.
func TestTLSChangesAreSeen(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, content []byte, at time.Time) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	cert, key := newAuthority(t).sign(t, 1, "", x509.ExtKeyUsageServerAuth, now.Add(time.Hour))
	put("relay.crt", cert, now)
	put("relay.key", key, now)
	const settings = "tls_server_config: {cert_file: relay.crt, key_file: relay.key, min_version: TLS12}\n"
	put("tls.yml", []byte(settings), now)
	p, err := newPushServer(&config{ingestAddress: "127.0.0.1:0", ingestConfig: filepath.Join(dir, "tls.yml")}, http.NotFoundHandler(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer p.listener.Close()
	if p.changed() {
		t.Error("at the start")
	}
	put("tls.yml", []byte(strings.Replace(settings, "TLS12", "TLS13", 1)), now)
	if !p.changed() {
		t.Error("a change of the same size and time")
	}
	if err := p.reload(); err != nil || p.changed() || p.tls.Load().MinVersion != tls.VersionTLS13 {
		t.Errorf("reloaded: %v, changed: %v", err, p.changed())
	}
	put("tls.yml", []byte(strings.Replace(settings, "relay.crt", "other.crt", 1)), now)
	if err := p.reload(); err == nil || p.changed() {
		t.Errorf("of a certificate that is not there: %v, changed: %v", err, p.changed())
	}
	put("other.crt", cert, now)
	if !p.changed() || p.reload() != nil {
		t.Error("the certificate is there now")
	}
}

// Two that ask for the Authorization header are not let onto one listener.
func TestTwoAuthenticators(t *testing.T) {
	dir := t.TempDir()
	web := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(web, []byte("basic_auth_users: {admin: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--journal=off", "--web.config.file=" + web, "--edges.file=../../docs/edges-file.yml", "--web.listen-address=127.0.0.1:0"}
	var stderr bytes.Buffer
	if code := run(t.Context(), args, io.Discard, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "--ingest.listen-address") {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
}

// One address cannot take all connections, and what is closed is free again.
func TestCappedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := &cappedListener{Listener: inner, most: 3, mostOfOne: 2, from: map[netip.Addr]int{}, refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})}
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	for i, step := range []struct {
		addr netip.Addr
		want bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {c, false}} {
		if got := l.admit(step.addr); got != step.want {
			t.Errorf("connection %d from %s: %v", i, step.addr, got)
		}
	}
	l.release(a)
	if !l.admit(c) {
		t.Error("what was closed is not free")
	}
	if len(l.from) != 3 {
		t.Errorf("%v", l.from)
	}
}
