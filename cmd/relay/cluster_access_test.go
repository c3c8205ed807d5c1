package main

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// TestClusterAccess has a real nats-server that takes nobody's word: TLS, certificates
// of clients, a password, credentials. A relay with the right ones works, and starts
// again; one with wrong ones takes nothing and says which setting is wrong, and what
// is secret is in no log and on no page.
func TestClusterAccess(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	t.Run("TLS and password", func(t *testing.T) {
		dir := t.TempDir()
		put := func(name string, content []byte) string {
			t.Helper()
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		own, other := newAuthority(t), newAuthority(t)
		hour := time.Now().Add(time.Hour)
		pair := func(name string, a *authority, serial int64, usage x509.ExtKeyUsage) (cert, key string) {
			c, k := a.sign(t, serial, "", usage, hour)
			return put(name+".crt", c), put(name+".key", k)
		}
		serverCert, serverKey := pair("server", own, 2, x509.ExtKeyUsageServerAuth)
		cert, key := pair("relay", own, 3, x509.ExtKeyUsageClientAuth)
		foreignCert, foreignKey := pair("foreign", other, 4, x509.ExtKeyUsageClientAuth)
		ca, otherCA := put("ca.crt", own.pem()), put("other-ca.crt", other.pem())
		const password, wrong = "open%20sesame", "shut%20sesame"
		address := freeAddress(t)
		store := t.TempDir()
		run := func(password string) *process {
			t.Helper()
			return startNATS(t, address, store, fmt.Sprintf(`
tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }
authorization { user: relay, password: %q }
`, serverCert, serverKey, ca, password))
		}
		server := run("open sesame")
		url := func(scheme, password string) string {
			return "--journal.nats-url=" + scheme + "://relay:" + password + "@" + address
		}
		withCA, withCert := "--journal.nats-ca="+ca, []string{"--journal.nats-cert=" + cert, "--journal.nats-key=" + key}
		secrets := []string{"sesame", "PRIVATE KEY"}
		accessWorks(t, secrets, append([]string{url("tls", password), withCA}, withCert...)...)
		accessWorks(t, secrets, append([]string{url("nats", password), withCA}, withCert...)...) // the server asks for TLS
		accessFails(t, secrets, []badAccess{
			{"the password is wrong", append([]string{url("tls", wrong), withCA}, withCert...), []string{"Authorization Violation", "--journal.nats-url", "--journal.nats-creds"}},
			{"no password", append([]string{"--journal.nats-url=tls://" + address, withCA}, withCert...), []string{"Authorization Violation", "--journal.nats-url"}},
			{"the authority is not known", append([]string{url("tls", password)}, withCert...), []string{"unknown authority", "--journal.nats-ca"}},
			{"another authority", append([]string{url("tls", password), "--journal.nats-ca=" + otherCA}, withCert...), []string{"unknown authority", "--journal.nats-ca"}},
			{"no certificate", []string{url("tls", password), withCA}, []string{"tls: ", "--journal.nats-cert"}},
			{"another's certificate", []string{url("tls", password), withCA, "--journal.nats-cert=" + foreignCert, "--journal.nats-key=" + foreignKey}, []string{"tls: ", "--journal.nats-cert"}},
			{"another name", append([]string{strings.Replace(url("tls", password), "127.0.0.1", "localhost", 1), withCA}, withCert...), []string{"certificate", "localhost", "--journal.nats-url"}},
		})
		// The server's password is changed under a relay, and changed back.
		base := "http://" + freeAddress(t)
		p := start(t, relayBinary(t), accessFlags(base, append([]string{url("tls", password), withCA}, withCert...)...)...)
		waitFor(t, "the relay ready", func() bool { return status(base+"/-/ready") == 200 })
		change := func(password string) {
			t.Helper()
			server.Signal(syscall.SIGKILL)
			server.wait(t)
			server = run(password)
		}
		change("other sesame")
		waitFor(t, "a warning of the password", func() bool {
			return warns(p, "cannot be reached again", "Authorization Violation", "--journal.nats-url")
		})
		if got := status(base + "/-/ready"); got != http.StatusServiceUnavailable {
			t.Errorf("/-/ready is %d", got)
		}
		waitForPage(t, base, `accessed_0{instance=""} 7`)
		change("open sesame")
		waitFor(t, "the relay ready again", func() bool { return status(base+"/-/ready") == 200 })
		pushOne(t, base, "changed", 1)
		waitForPage(t, base, `changed{instance=""} 1`, `accessed_0{instance=""} 7`)
		holdsNoSecret(t, p.logs.String(), secrets)
		// What can be known before anybody is asked ends the start.
		for what, flags := range map[string][]string{
			"--journal.nats-ca":   {url("tls", password), "--journal.nats-ca=" + key},
			"--journal.nats-cert": {url("tls", password), "--journal.nats-cert=" + cert},
			"--journal.nats-key":  {url("tls", password), "--journal.nats-cert=" + cert, "--journal.nats-key=" + foreignKey},
			"address 1":           {"--journal.nats-url=relay:" + password + "@" + address},
			"percent-encoded":     {url("tls", "open%sesame")},
			"address 2":           {"--journal.nats-url=tls://" + address + ",tls://relay:open@sesame@" + address},
		} {
			stdout, stderr, code := runBinary(t, append([]string{"--web.listen-address=" + freeAddress(t), "--journal=nats"}, flags...)...)
			if code == 0 || !strings.Contains(stderr, what) || strings.Contains(stdout+stderr, "sesame") {
				t.Errorf("%s: exit %d, %s", what, code, stderr)
			}
		}
	})
	t.Run("credentials", func(t *testing.T) {
		o := newNATSOperator(t)
		account, stranger := o.account(t), newNATSOperator(t)
		address := freeAddress(t)
		startNATS(t, address, t.TempDir(), o.conf())
		url := "--journal.nats-url=nats://" + address
		good, goodSecret := account.user(t, nil)
		foreign, foreignSecret := stranger.account(t).user(t, nil)
		limited, limitedSecret := account.user(t, func(u *jwt.UserClaims) { u.Permissions.Pub.Deny.Add("$JS.API.>") })
		secrets := []string{goodSecret, foreignSecret, limitedSecret}
		accessWorks(t, secrets, url, "--journal.nats-creds="+good)
		mended := file(t, "mended.creds", readAll(t, foreign))
		failing := accessFails(t, secrets, []badAccess{
			{"nobody's credentials", []string{url, "--journal.nats-creds=" + mended}, []string{"Authorization Violation", "--journal.nats-creds"}},
			{"no credentials", []string{url}, []string{"Authorization Violation", "--journal.nats-creds"}},
			{"not what credentials are", []string{url, "--journal.nats-creds=" + file(t, "empty.creds", "nothing\n")}, []string{"--journal.nats-creds"}},
			{"no TLS there", []string{"--journal.nats-url=tls://" + address, "--journal.nats-creds=" + good}, []string{"secure connection", "--journal.nats-url"}},
			{"may not use JetStream", []string{url, "--journal.nats-creds=" + limited}, []string{"$JS.API.", "permission"}},
		})
		// The file is read again: whoever puts it right need not start the relay again.
		if err := os.WriteFile(mended, []byte(readAll(t, good)), 0o600); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the relay ready with credentials that were put right", func() bool { return status(failing[0]+"/-/ready") == 200 })
		pushOne(t, failing[0], "mended", 1)
		waitForPage(t, failing[0], `mended{instance=""} 1`)
	})
}

// startNATS starts one nats-server with JetStream in a directory.
func startNATS(t *testing.T, address, dir, conf string) *process {
	t.Helper()
	return start(t, tool(t, "nats-server"), "--config", file(t, "nats.conf", fmt.Sprintf("server_name: n1\nlisten: %q\njetstream { store_dir: %q, max_file_store: 1GB, max_memory_store: 64MB }\n%s", address, dir, conf)))
}

// accessWorks starts a relay, pushes to it, kills it, and looks for what it had.
func accessWorks(t *testing.T, secrets []string, flags ...string) {
	t.Helper()
	base := "http://" + freeAddress(t)
	flags = accessFlags(base, flags...)
	for life := range 2 {
		p := start(t, relayBinary(t), flags...)
		waitFor(t, "the relay ready", func() bool { return status(base+"/-/ready") == 200 })
		pushOne(t, base, fmt.Sprint("accessed_", life), 7)
		waitForPage(t, base, `accessed_0{instance=""} 7`, fmt.Sprintf("accessed_%d{instance=\"\"} 7", life))
		p.Signal(syscall.SIGKILL)
		p.wait(t)
		holdsNoSecret(t, p.logs.String(), secrets)
	}
}

// accessFlags are those of a relay at base, beside flags.
func accessFlags(base string, flags ...string) []string {
	return append([]string{"--web.listen-address=" + strings.TrimPrefix(base, "http://"), "--journal=nats", "--journal.nats-replicas=1", "--journal.max-bytes=64MiB", "--series.ttl=1h"}, flags...)
}

// warns reports whether a warning has all the parts.
func warns(p *process, parts ...string) bool {
	for line := range strings.Lines(p.logs.String()) {
		all := strings.Contains(line, "level=WARN")
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			return true
		}
	}
	return false
}

type badAccess struct {
	what  string
	flags []string
	says  []string // in one line of the log
}

// accessFails starts a relay for each, and returns where they are.
func accessFails(t *testing.T, secrets []string, cases []badAccess) (bases []string) {
	t.Helper()
	var relays []*process
	for _, c := range cases {
		base := "http://" + freeAddress(t)
		relays, bases = append(relays, start(t, relayBinary(t), accessFlags(base, append(c.flags, "--log.level=debug")...)...)), append(bases, base)
		waitFor(t, "it listens", func() bool { return status(base+"/-/healthy") == 200 })
	}
	for i, c := range cases {
		says := func() bool { return warns(relays[i], c.says...) }
		for deadline := time.Now().Add(2 * time.Minute); !says() && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
		if !says() {
			logs := relays[i].logs.String()
			t.Errorf("%s: no warning says %q:\n%s", c.what, c.says, logs[max(0, len(logs)-1000):])
		}
		if got := status(bases[i] + "/-/ready"); got != http.StatusServiceUnavailable {
			t.Errorf("%s: /-/ready is %d", c.what, got)
		}
		flags := getPage(t, bases[i]+"/api/v1/status")
		if !strings.Contains(flags, "journal.nats-url") {
			t.Errorf("%s: no flags are shown: %q", c.what, flags)
		}
		holdsNoSecret(t, relays[i].logs.String()+flags+getPage(t, bases[i]+"/-/metrics"), secrets)
	}
	return bases
}

func holdsNoSecret(t *testing.T, text string, secrets []string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%q is in what it says:\n%s", s, text)
		}
	}
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A natsOperator signs accounts, and accounts sign users: what `nsc` does.
type natsOperator struct {
	key      nkeys.KeyPair
	claims   string
	accounts []string // key and claims of each, as a server's configuration wants them
	system   string
}

type natsAccount struct{ key nkeys.KeyPair }

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return pair, public
}

func newNATSOperator(t *testing.T) *natsOperator {
	t.Helper()
	key, public := newKey(t, nkeys.CreateOperator)
	o := &natsOperator{key: key}
	var err error
	if o.claims, err = jwt.NewOperatorClaims(public).Encode(key); err != nil {
		t.Fatal(err)
	}
	_, o.system = newKey(t, nkeys.CreateAccount)
	o.add(t, jwt.NewAccountClaims(o.system))
	return o
}

func (o *natsOperator) add(t *testing.T, claims *jwt.AccountClaims) {
	t.Helper()
	text, err := claims.Encode(o.key)
	if err != nil {
		t.Fatal(err)
	}
	o.accounts = append(o.accounts, claims.Subject+": "+text)
}

func (o *natsOperator) account(t *testing.T) *natsAccount {
	t.Helper()
	key, public := newKey(t, nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(public)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	o.add(t, claims)
	return &natsAccount{key}
}

func (o *natsOperator) conf() string {
	return fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload {\n%s\n}\n", o.claims, o.system, strings.Join(o.accounts, "\n"))
}

// user makes a file with a user's credentials, and returns the secret in it, too.
func (a *natsAccount) user(t *testing.T, change func(*jwt.UserClaims)) (path, secret string) {
	t.Helper()
	key, public := newKey(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(public)
	if change != nil {
		change(claims)
	}
	text, err := claims.Encode(a.key)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(text, seed)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "user.creds", string(creds)), string(seed)
}
