package edges

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"relay/series"
)

func hash(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func digestOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// guarding returns a guard over a file with that content, and the file's path.
func guarding(t testing.TB, content string) (*Guard, string, *bytes.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edges.yml")
	write(t, path, content)
	var log bytes.Buffer
	g, err := NewGuard(path, slog.New(slog.NewTextHandler(&log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return g, path, &log
}

// ask identifies a request and says the answer in short: the edge's name, or the
// status.
func ask(g *Guard, addr string, set func(*http.Request)) string {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/write", nil)
	set(r)
	e, err := g.Identify(r, addr)
	if err != nil {
		var d *Denied
		if !errors.As(err, &d) {
			return err.Error()
		}
		return fmt.Sprint(d.Code)
	}
	return e.Name
}

func header(values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header["Authorization"] = values }
}

func basic(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

// certified is a request over a connection that has proven a certificate.
func certified(c x509.Certificate) func(*http.Request) {
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	return func(r *http.Request) {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{&c}}}
	}
}

func uri(s string) []*url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return []*url.URL{u}
}

func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "oslo.password"), "fjord\n")
	g, _, _ := guarding(t, fmt.Sprintf(`
edges:
- name: berlin
  basic_auth: {password_hash: %q}
- name: oslo
  basic_auth: {username: norway, password_file: %q}
- name: rome
  authorization: {credentials_sha256: %s}
- name: lima
  client_certificate: {san: "spiffe://example.org/lima"}
- name: kyiv
  client_certificate: {san: kyiv.example.org}
  authorization: {credentials_sha256: %s}
- name: closed
  enabled: false
  authorization: {credentials_sha256: %s}
`, hash(t, "s3cret"), filepath.Join(dir, "oslo.password"), digestOf("token-of-rome"), digestOf("token-of-kyiv"), digestOf("token-of-closed")))
	both := func(a, b func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) { a(r); b(r) }
	}
	for _, c := range []struct {
		name string
		set  func(*http.Request)
		want string
	}{
		{"nothing", func(*http.Request) {}, "401"},
		{"password", basic("berlin", "s3cret"), "berlin"},
		{"again, from memory", basic("berlin", "s3cret"), "berlin"},
		{"wrong password", basic("berlin", "s3cre"), "401"},
		{"another's password", basic("norway", "s3cret"), "401"},
		{"no such user", basic("nobody", "s3cret"), "401"},
		{"the edge's name is not its user", basic("oslo", "fjord"), "401"},
		{"password of a file", basic("norway", "fjord"), "oslo"},
		{"and its digest is none", basic("norway", digestOf("fjord")), "401"},
		{"empty password", basic("berlin", ""), "401"},
		{"token", header("Bearer token-of-rome"), "rome"},
		{"scheme in capitals", header("BEARER token-of-rome"), "rome"},
		{"empty token", header("Bearer "), "401"},
		{"its digest", header("Bearer " + digestOf("token-of-rome")), "401"},
		{"token as a password", basic("rome", "token-of-rome"), "401"},
		{"another scheme", header("Digest token-of-rome"), "401"},
		{"two headers", header("Bearer token-of-rome", "Bearer token-of-rome"), "401"},
		{"huge", header("Bearer " + strings.Repeat("x", 10_000)), "401"},
		{"not base64", header("Basic %%%"), "401"},
		{"no colon", header("Basic YmVybGlu"), "401"},
		{"certificate with a URI", certified(x509.Certificate{URIs: uri("spiffe://example.org/lima")}), "lima"},
		{"the URI's beginning", certified(x509.Certificate{URIs: uri("spiffe://example.org/lim")}), "401"},
		{"more than the URI", certified(x509.Certificate{URIs: uri("spiffe://example.org/lima/2")}), "401"},
		{"certificate with a name", certified(x509.Certificate{DNSNames: []string{"other.example.org", "KYIV.example.org"}}), "kyiv"},
		{"names of two edges", certified(x509.Certificate{URIs: uri("spiffe://example.org/lima"), DNSNames: []string{"kyiv.example.org"}}), "401"},
		{"expired since", certified(x509.Certificate{DNSNames: []string{"kyiv.example.org"}, NotAfter: time.Now().Add(-time.Second)}), "401"},
		{"not verified", func(r *http.Request) {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{DNSNames: []string{"kyiv.example.org"}}}}
		}, "401"},
		{"certificate and its token", both(certified(x509.Certificate{DNSNames: []string{"kyiv.example.org"}}), header("Bearer token-of-kyiv")), "kyiv"},
		{"certificate and another's token", both(certified(x509.Certificate{DNSNames: []string{"kyiv.example.org"}}), header("Bearer token-of-rome")), "401"},
		{"good certificate, wrong token", both(certified(x509.Certificate{DNSNames: []string{"kyiv.example.org"}}), header("Bearer x")), "401"},
		{"disabled", header("Bearer token-of-closed"), "403"},
	} {
		if got := ask(g, "192.0.2.1", c.set); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// A broken file changes nothing, says why, and is never a 401; a good one holds
// from the next request on.
func TestReload(t *testing.T) {
	good := "edges:\n" + entryOf("rome", "r")
	g, path, log := guarding(t, good)
	rome, oslo := header("Bearer r"), header("Bearer o")
	for _, broken := range []string{"edges: [", "edges:\n- name: ../rome\n  authorization: {credentials_sha256: " + digestOf("r") + "}\n", "what: 1\n", ""} {
		write(t, path, broken)
		if g.Reload(nil) == nil {
			t.Fatalf("%q was loaded", broken)
		}
		if got := ask(g, "", rome); got != "rome" {
			t.Fatalf("after a broken file: %s", got)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if g.Reload(nil) == nil || ask(g, "", rome) != "rome" {
		t.Fatal("a file that is gone")
	}
	write(t, path, good)
	if err := g.Reload(func(*File) error { return errors.New("does not go") }); err == nil || ask(g, "", rome) != "rome" {
		t.Fatal("a file that does not go with the rest")
	}
	watching(t, g, func() {
		write(t, path, "edges:\n"+entryOf("oslo", "o"))
		becomes(t, g, oslo, "oslo")
	})
	if got := ask(g, "", rome); got != "401" {
		t.Fatalf("rome, which is revoked: %s", got)
	}
	if s := log.String(); !strings.Contains(s, path+":2") || strings.Contains(s, digestOf("r")) {
		t.Errorf("the log wants the line that is wrong, and no secret:\n%s", s)
	}
}

// What is wrong with a file is said with its line, all at once.
func TestFileErrors(t *testing.T) {
	token := "  authorization: {credentials_sha256: " + digestOf("a") + "}\n"
	for _, c := range []struct{ file, want string }{
		{"", "there is no list edges"}, // truncated: not nobody
		{"# all\nedges:\n", "edges: []"},
		{"identity_label: site\n", "there is no list edges"},
		{"edges:\n- name: a\n", ":2: edge \"a\": nothing to prove it by"},
		{"edges:\n- name: a/b\n" + token, "characters A-Z"},
		{"edges:\n- name: a\n" + token + "  colour: red\n", "line 4: field colour not found"},
		{"edges:\n- name: a\n" + token + "- name: b\n" + token, ":4: edge \"b\": its token is also that of the edge in line 2"},
		{"edges:\n- name: a\n" + token + "- name: a\n  client_certificate: {san: x}\n", "its name is also that of the edge in line 2"},
		{"edges:\n- name: a\n  basic_auth: {password_hash: plain}\n", "is not a bcrypt hash"},
		{"edges:\n- name: a\n  basic_auth: {password_file: none}\n", "no such file"},
		{"edges:\n- name: a\n  authorization: {credentials_sha256: abc}\n", "64 hexadecimal digits"},
		{"edges:\n- name: a\n" + token + "  ttl: 0\n", "ttl: "},
		{"edges:\n- name: a\n" + token + "  ttl: 2m\n  ttl_max: 1m\n", "ttl 2m is over ttl_max 1m"},
		{"edges:\n- name: a\n" + token + "  labels: {edge: b}\n", "forced by identity_label"},
		{"edges:\n- name: a\n" + token + "  labels: {__x: b}\n", "does not begin with __"},
		{"edges:\n- name: a\n" + token + "  limits: {series: -1}\n", "must not be negative"},
		{"edges:\n- name: a\n" + token + "  ha: {group: a}\n", "differs from the names"},
		{"identity_label: a.b\n", "identity_label"},
		{"edges:\n- name: a\n- name: b\n", ":3: edge \"b\""},
	} {
		path := filepath.Join(t.TempDir(), "edges.yml")
		write(t, path, c.file)
		_, err := LoadFile(path)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngave %v\nwant %s", c.file, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), digestOf("a")) {
			t.Errorf("a secret in %v", err)
		}
	}
}

// A file may say that nobody may push.
func TestNobody(t *testing.T) {
	g, _, _ := guarding(t, "edges: []\n")
	if got := ask(g, "", header("Bearer r")); got != "401" {
		t.Error(got)
	}
}

// entryOf is an edge of an edges file with a token.
func entryOf(name, token string) string {
	return "- name: " + name + "\n  authorization: {credentials_sha256: " + digestOf(token) + "}\n"
}

// watching runs Watch while f does.
func watching(t *testing.T, g *Guard, f func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { g.Watch(ctx, time.Millisecond, nil) })
	f()
	cancel()
	watch.Wait()
}

// becomes waits until a request is answered in that way.
func becomes(t *testing.T, g *Guard, set func(*http.Request), want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = ask(g, "", set); got == want {
			return
		}
	}
	t.Fatalf("answered %s, want %s", got, want)
}

// No change is missed: not one that leaves size and time as they were, nor one that
// comes while the file is read, nor one of a secret that was not there when it was.
func TestEveryChangeIsSeen(t *testing.T) {
	t.Run("same size and time", func(t *testing.T) {
		g, path, _ := guarding(t, "edges:\n"+entryOf("rome", "r"))
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		next := path + ".new"
		write(t, next, "edges:\n"+entryOf("rome", "s"))
		if err := errors.Join(os.Chtimes(next, info.ModTime(), info.ModTime()), os.Rename(next, path)); err != nil {
			t.Fatal(err)
		}
		watching(t, g, func() { becomes(t, g, header("Bearer r"), "401") })
	})
	t.Run("while it is read", func(t *testing.T) {
		g, path, _ := guarding(t, "edges:\n"+entryOf("rome", "r"))
		secret := filepath.Join(filepath.Dir(path), "oslo.token")
		if err := syscall.Mkfifo(secret, 0o600); err != nil {
			t.Skip(err)
		}
		write(t, path, "edges:\n"+entryOf("rome", "r")+"- name: oslo\n  authorization: {credentials_file: oslo.token}\n")
		read := make(chan error, 1)
		go func() { read <- g.Reload(nil) }()
		// It is at the secret, and waits for it.
		pipe, err := os.OpenFile(secret, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, "edges:\n"+entryOf("oslo", "o"))
		if err := os.Rename(secret, secret+".old"); err != nil {
			t.Fatal(err)
		}
		write(t, secret, "o")
		if _, err := pipe.WriteString("o"); err != nil {
			t.Fatal(err)
		}
		pipe.Close()
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		if got := ask(g, "", header("Bearer r")); got != "rome" {
			t.Fatalf("read before the change: %s", got)
		}
		watching(t, g, func() { becomes(t, g, header("Bearer r"), "401") })
	})
	t.Run("secret that comes later", func(t *testing.T) {
		g, path, _ := guarding(t, "edges:\n"+entryOf("rome", "r"))
		write(t, path, "edges:\n- name: oslo\n  authorization: {credentials_file: oslo.token}\n")
		watching(t, g, func() {
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				g.reloading.Lock()
				tried := len(g.last.secrets) > 0
				g.reloading.Unlock()
				if tried {
					break
				}
			}
			write(t, filepath.Join(filepath.Dir(path), "oslo.token"), "o")
			becomes(t, g, header("Bearer o"), "oslo")
		})
	})
}

// The beginning of a file, which may be good by itself, is not taken for the file
// while the rest is being written.
func TestHalfWritten(t *testing.T) {
	rome, oslo := "edges:\n"+entryOf("rome", "r"), entryOf("oslo", "o")
	g, path, _ := guarding(t, rome+oslo)
	var w watch
	for _, step := range []struct {
		content string
		do      action
	}{
		{rome + oslo, wait}, {rome, lookAgain}, {rome + oslo + entryOf("kyiv", "k"), lookAgain},
		{rome + oslo + entryOf("kyiv", "k"), reload}, {rome + oslo, lookAgain}, {rome + oslo + entryOf("kyiv", "k"), wait},
		{rome + oslo, lookAgain}, {rome + oslo, reload},
	} {
		write(t, path, step.content)
		if got := w.look(g); got != step.do {
			t.Fatalf("%q: action %d, want %d", step.content, got, step.do)
		}
		if step.do == reload {
			if err := g.Reload(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The labels of an edge tell it from every other one, by construction.
func TestEntries(t *testing.T) {
	g, _, _ := guarding(t, `
identity_label: site
edges:
- name: a
  authorization: {credentials_sha256: `+digestOf("a")+`}
  labels: {zone: "1", area: x}
  ttl: 90s
  limits: {series: 7, labels: 3, samples_per_second: 10}
- name: b1
  ha: {group: b}
  authorization: {credentials_sha256: `+digestOf("b1")+`}
- name: b2
  ha: {group: b}
  authorization: {credentials_sha256: `+digestOf("b2")+`}
`)
	var got []string
	for _, e := range g.File().Entries() {
		got = append(got, fmt.Sprint(e.Login, " ", e.Name, " ", strings.TrimPrefix(series.FormatLabels(e.Terms.Forced), `""`), " ", e.TTL, " ", e.Terms.MaxSeries, " ", e.rates.samplesBurst, " ", e.Terms.Dropped))
	}
	want := []string{`a a {area="x",site="a",zone="1"} 1m30s 7 200 `, `b1 b {site="b"} 0s 0 0 __replica__`, `b2 b {site="b"} 0s 0 0 __replica__`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A flood of wrong passwords is told so, first 401, then 429, whether its users
// exist or not; who has been let in, and who comes from elsewhere, is not held up.
// (hostile input 40)
func TestFloodOfPasswords(t *testing.T) {
	g, _, _ := guarding(t, fmt.Sprintf("edges:\n- name: a\n  basic_auth: {password_hash: %q}\n- name: b\n  basic_auth: {password_hash: %q}\n", hash(t, "a"), hash(t, "b")))
	const here, elsewhere = "192.0.2.1", "198.51.100.1"
	if got := ask(g, here, basic("a", "a")); got != "a" {
		t.Fatal(got)
	}
	for _, user := range []string{"a", "nobody"} {
		codes := map[string]int{}
		for i := range 100 {
			codes[ask(g, here, basic(user, fmt.Sprint("guess", i)))]++
		}
		if codes["429"] < 50 || codes["401"] < 1 || codes["401"]+codes["429"] != 100 {
			t.Errorf("user %s: %v", user, codes)
		}
	}
	if got := ask(g, here, basic("a", "a")); got != "a" {
		t.Errorf("let in before: %s", got)
	}
	if got := ask(g, here, basic("b", "b")); got != "b" {
		t.Errorf("never failed: %s", got)
	}
	if got := ask(g, elsewhere, basic("a", "wrong")); got != "401" {
		t.Errorf("from elsewhere: %s", got)
	}
}

// While a password cannot be verified for lack of a turn, the answer is 503.
func TestNotVerifiedInTime(t *testing.T) {
	g, _, _ := guarding(t, fmt.Sprintf("edges:\n- name: a\n  basic_auth: {password_hash: %q}\n", hash(t, "a")))
	for range cap(g.turns) {
		g.turns <- struct{}{}
	}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	basic("a", "a")(r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := g.Identify(r.WithContext(ctx), "192.0.2.1")
	var d *Denied
	if !errors.As(err, &d) || d.Code != http.StatusServiceUnavailable {
		t.Errorf("%v", err)
	}
}

// A user that does not exist goes the same way as one that does, to a hash of the
// same cost: neither the answer nor its time tells which there are.
func TestStrangersTakeAsLong(t *testing.T) {
	h, err := bcrypt.GenerateFromPassword([]byte("a"), 6)
	if err != nil {
		t.Fatal(err)
	}
	g, _, _ := guarding(t, fmt.Sprintf("edges:\n- name: a\n  basic_auth: {password_hash: %q}\n- name: b\n  basic_auth: {password_hash: %q}\n", h, hash(t, "b")))
	if cost, err := bcrypt.Cost(*g.dummy.Load()); err != nil || cost != 6 {
		t.Errorf("strangers are compared at a cost of %d, %v; the dearest edge has 6", cost, err)
	}
	for range cap(g.turns) {
		g.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, user := range []string{"a", "stranger", ""} {
		if got := ask(g, "192.0.2.1", func(r *http.Request) { *r = *r.WithContext(ctx); r.SetBasicAuth(user, "x") }); got != "503" {
			t.Errorf("%q, with no turn to be had: %s", user, got)
		}
	}
}

// restart lets n edges of a file with passwords in at once, each from an address of
// its own, as after a restart of the relay. Who is told 503 tries again after a
// pause. It returns how often which answer was given until all are in.
func restart(t testing.TB, g *Guard, n int, patience time.Duration, pause func()) map[string]int {
	var mu sync.Mutex
	answers := map[string]int{}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				name := fmt.Sprint("e", i)
				got := ask(g, fmt.Sprintf("10.%d.%d.1", i/250, i%250), func(r *http.Request) {
					*r = *r.WithContext(ctx)
					r.SetBasicAuth(name, "p")
				})
				cancel()
				if got == name {
					got = "in"
				}
				mu.Lock()
				answers[got]++
				mu.Unlock()
				if got != "503" {
					return
				}
				pause()
			}
		})
	}
	all.Wait()
	return answers
}

// manyPasswords are edges that have one password, hashed at a cost.
func manyPasswords(t testing.TB, n, cost int) *Guard {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte("p"), cost)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("edges:\n")
	for i := range n {
		fmt.Fprintf(&b, "- name: e%d\n  basic_auth: {password_hash: %q}\n", i, h)
	}
	g, _, _ := guarding(t, b.String())
	return g
}

// After a restart every edge with a password wants to be verified at once: those
// whose turn does not come are told 503, never 401, which would make their senders
// drop what they have.
func TestRestartWithManyPasswords(t *testing.T) {
	const n = 40
	g := manyPasswords(t, n, 6)
	for range cap(g.turns) {
		g.turns <- struct{}{} // there is nothing to be had until one of them has been told
	}
	free := sync.OnceFunc(func() {
		for range cap(g.turns) {
			<-g.turns
		}
	})
	answers := restart(t, g, n, 50*time.Millisecond, func() {
		free()
		time.Sleep(10 * time.Millisecond)
	})
	if answers["in"] != n || answers["503"] == 0 || len(answers) != 2 {
		t.Errorf("answered %v", answers)
	}
}

// BenchmarkRestart is a restart with 10,000 edges in the file, of which 200 with a
// password of the usual cost come at once, each from an address of its own, and try
// again 5 s after a 503: see docs/performance.md. Its processor time is what tells on
// a busy machine.
func BenchmarkRestart(b *testing.B) {
	const n = 200
	g := manyPasswords(b, 10_000, 10)
	spent := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
	}
	for b.Loop() {
		g.verified.Purge()
		before := spent()
		answers := restart(b, g, n, verifyWait, func() { time.Sleep(5 * time.Second) })
		if answers["in"] != n {
			b.Fatalf("answered %v", answers)
		}
		b.ReportMetric(float64(answers["503"]), "503s/op")
		b.ReportMetric((spent()-before)/n, "cpu-ms/password")
	}
}

// Rates are held to, outlive a reload that leaves them as they are, and a request
// that never fits is told so.
func TestRates(t *testing.T) {
	file := "edges:\n- name: a\n  authorization: {credentials_sha256: " + digestOf("a") + "}\n  limits: {samples_per_second: 10, samples_burst: 100, requests_per_second: 1}\n"
	g, path, _ := guarding(t, file)
	entry := func() *Entry { return g.File().Entries()[0] }
	now := time.Now()
	if _, err := entry().AllowSamples(now, 101); !errors.Is(err, ErrNeverFits) {
		t.Errorf("over the burst: %v", err)
	}
	if _, err := entry().AllowSamples(now, 100); err != nil {
		t.Error(err)
	}
	if err := g.Reload(nil); err != nil {
		t.Fatal(err)
	}
	if wait, err := entry().AllowSamples(now, 50); err == nil || wait != 5*time.Second {
		t.Errorf("at once again: wait %v, %v", wait, err)
	}
	if _, err := entry().AllowSamples(now.Add(5*time.Second), 50); err != nil {
		t.Errorf("a refused request has used up the rate: %v", err)
	}
	for i, want := range []bool{true, true, false} {
		if _, err := entry().AllowRequest(now); (err == nil) != want {
			t.Errorf("request %d: %v", i, err)
		}
	}
	write(t, path, strings.Replace(file, "limits:", "labels: {x: y}\n  # limits:", 1))
	if err := g.Reload(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := entry().AllowSamples(now, 1<<30); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

// 10,000 edges load in under a second, and one is identified in microseconds: see
// docs/performance.md.
func manyEdges(t testing.TB) (*Guard, string) {
	var b strings.Builder
	b.WriteString("edges:\n")
	for i := range 10_000 {
		if i == 0 {
			fmt.Fprintf(&b, "- name: e0\n  basic_auth: {password_hash: %q}\n", hash(t, "p"))
			continue
		}
		fmt.Fprintf(&b, "- name: e%d\n  authorization: {credentials_sha256: %s}\n  labels: {site: s%d}\n", i, digestOf(fmt.Sprint("t", i)), i)
	}
	g, path, _ := guarding(t, b.String())
	return g, path
}

func BenchmarkIdentify(b *testing.B) {
	g, _ := manyEdges(b)
	for name, set := range map[string]func(*http.Request){"token": header("Bearer t777"), "password": basic("e0", "p")} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			set(r)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Identify(r, "192.0.2.1"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReload(b *testing.B) {
	g, _ := manyEdges(b)
	for b.Loop() {
		if err := g.Reload(nil); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzFile: no edges file is read so that two edges could be taken for each other.
func FuzzFile(f *testing.F) {
	f.Add("edges:\n- name: a\n  authorization: {credentials_sha256: " + digestOf("a") + "}\n  labels: {x: y}\n")
	f.Add("identity_label: site\nedges:\n- name: b\n  ha: {group: g}\n  client_certificate: {san: x}\n")
	f.Fuzz(func(t *testing.T, content string) {
		file, err := parseFile([]byte(content), &reading{path: filepath.Join(t.TempDir(), "edges.yml")})
		if err != nil {
			return
		}
		forced := map[string]*Entry{}
		for _, e := range file.entries {
			if other := forced[string(e.Terms.Forced)]; other != nil && other.Name != e.Name {
				t.Fatalf("%s and %s have the same labels", e.Login, other.Login)
			}
			forced[string(e.Terms.Forced)] = e
		}
	})
}
