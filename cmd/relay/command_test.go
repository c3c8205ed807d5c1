package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func pushAs(t *testing.T, base, edge, ttl string) {
	t.Helper()
	send(t, base, 204, http.MethodPost, "/api/v1/write", string(pushBody(t, "a", 1)), "X-Relay-Edge", edge, "X-Relay-TTL", ttl)
}

// send sends a request that must be answered with that code. header are names and values.
func send(t *testing.T, base string, code int, method, path, body string, header ...string) {
	t.Helper()
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // the relay may be killed
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != code {
		t.Fatalf("%s %s is answered %d, not %d: %s", method, path, res.StatusCode, code, text)
	}
}

// rows are the lines of a table, in fields.
func rows(out string) (list [][]string) {
	for line := range strings.Lines(out) {
		list = append(list, strings.Fields(line))
	}
	return list
}

func TestBinaryEdges(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	address := freeAddress(t)
	base := "http://" + address
	start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(), "--web.route-prefix=/in")
	waitFor(t, "ready", func() bool { return status(base+"/in/-/ready") == 200 })
	ask := func(flags ...string) string {
		t.Helper()
		out, stderr, code := runBinary(t, append([]string{"edges", "--url=" + base + "/in/"}, flags...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("exit %d, %s", code, stderr)
		}
		return out
	}
	if got := ask(); got != "EDGE  STATE  LAST SEEN  TTL  SERIES  SAMPLES/S  REFUSED  WARNING\n" {
		t.Errorf("without edges:\n%s", got)
	}
	if got := ask("--json"); got != "[]\n" {
		t.Errorf("without edges: %s", got)
	}
	pushAs(t, base+"/in", "shop-17", "1h")
	pushAs(t, base+"/in", "a-ship", "1h")
	pushAs(t, base+"/in", "site-2", "1s")
	waitFor(t, "silence", func() bool { return len(rows(ask("--silent"))) == 2 })
	list := rows(ask())
	var names []string
	for _, r := range list[1:] {
		names = append(names, r[0]+" "+r[1])
	}
	if want := []string{"site-2 silent", "a-ship live", "shop-17 live"}; !slices.Equal(names, want) {
		t.Errorf("the table has %q, want %q", names, want)
	}
	if r := list[2]; len(r) < 9 || r[3] != "ago" || r[4] != "1h0m0s" || r[7] != "0" || r[8] != "-" {
		t.Errorf("%q", r)
	}
	var edges []edgeRow
	if err := json.Unmarshal([]byte(ask("--json")), &edges); err != nil || len(edges) != 3 || !edges[0].Silent || time.Since(edges[1].LastSeen) > time.Hour {
		t.Errorf("%v %+v", err, edges)
	}
}

func TestBinaryAsksWithCredentials(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(),
		"--web.config.file="+file(t, "web.yml", fmt.Sprintf("basic_auth_users: {me: %s}\n", hash)))
	waitFor(t, "a refusal", func() bool { return status("http://"+address+"/metrics") == 401 })
	good := file(t, "http.yml", "basic_auth: {username: me, password: open sesame}\n")
	if out, stderr, code := runBinary(t, "edges", "--json", "--url=http://"+address, "--http.config.file="+good); code != 0 || out != "[]\n" {
		t.Errorf("exit %d, %s%s", code, out, stderr)
	}
	if _, stderr, code := runBinary(t, "edges", "--url=http://me:guess@"+address); code != 1 || !strings.Contains(stderr, "401") || strings.Contains(stderr, "guess") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// The answer is one of the form that /api/v1/series has.
func TestBinarySeries(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	var mu sync.Mutex // the binary's requests come from another process
	var asked url.Values
	answer := `{"status":"success","data":[
		{"labels":{"__name__":"up","job":"node","bad":"\u001b[2J\nx\ty"},"value":"1","type":"gauge","timestamp":1700000000000,"ageSeconds":3.21,"ttlSeconds":90,"ttlLeftSeconds":86.79,"edge":"shop-17"},
		{"labels":{"__name__":"done"},"value":"NaN","type":"","ageSeconds":4000,"ttlLeftSeconds":null,"edge":"shop\u009b17"}]}`
	code := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = r.URL.Query()
		if r.URL.Path != "/api/v1/series" {
			code = 404
		}
		w.WriteHeader(code)
		fmt.Fprint(w, answer)
	}))
	defer srv.Close()
	selectors := []string{`{job="node"}`, "done"}
	out, stderr, exit := runBinary(t, append([]string{"series", "--url=" + srv.URL}, selectors...)...)
	mu.Lock()
	if exit != 0 || !slices.Equal(asked["match[]"], selectors) {
		t.Fatalf("exit %d, asked for %q: %s", exit, asked, stderr)
	}
	mu.Unlock()
	want := `SERIES                               VALUE  TYPE   AGE   TTL LEFT  EDGE
up{bad="\x1b[2J\nx\ty", job="node"}  1      gauge  3.2s  1m27s     shop-17
done                                 NaN    -      1h7m  -         shop\u009b17
`
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	out, _, exit = runBinary(t, "series", "--json", "--url="+srv.URL, "up")
	var data []map[string]any
	if err := json.Unmarshal([]byte(out), &data); err != nil || exit != 0 || len(data) != 2 || data[0]["ttlSeconds"] != 90.0 {
		t.Errorf("exit %d, %v: %s", exit, err, out)
	}
	for _, c := range []struct {
		code         int
		answer, says string
	}{
		{400, `{"status":"error","errorType":"bad_data","error":"no \u001b selector"}`, `400 Bad Request: no \x1b selector`},
		{404, "404 page not found\n", "404 page not found"},
		{200, "<html>", "200 OK: <html>"},
		{200, `{"status":"success","data":5}`, "cannot read"},
	} {
		mu.Lock()
		code, answer = c.code, c.answer
		mu.Unlock()
		if _, stderr, exit := runBinary(t, "series", "--url="+srv.URL, "up"); exit != 1 || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("exit %d, %q, want %q", exit, stderr, c.says)
		}
	}
}

func TestBinaryCheckConfig(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	edgesFile, err := filepath.Abs("../../docs/edges-file.yml")
	if err != nil {
		t.Fatal(err)
	}
	broken := file(t, "edges.yml", "edges:\n  - name: shop-17\n    authorization: {credentials_sha256: abc}\n  - name: '*'\n    ttl: soon\n")
	misspelt := file(t, "edges.yml", "edges:\n  - name: shop-17\n    limits: {sries: 1}\n")
	web := file(t, "web.yml", "basic_auth_users: {me: not-bcrypt\n")
	for _, c := range []struct {
		flags []string
		code  int
		out   string
		says  []string
	}{
		{nil, 0, "flags: good\n", nil},
		{[]string{"--edges.file=" + edgesFile, "--ingest.listen-address=:10092"}, 0, "flags: good\n--edges.file=" + edgesFile + ", 6 edges: good\n", nil},
		{[]string{"--edges.file=" + broken, "--series.ttl=1h", "--series.ttl-max=1m"}, 1, "", []string{"--series.ttl=1h", broken + ":2: ", broken + ":4: "}},
		{[]string{"--series.ttl=soon"}, 1, "", []string{"soon"}},
		{[]string{"--series.lag-tolerance=500us"}, 1, "", []string{"--series.lag-tolerance", "1ms"}},
		{[]string{"--no-such-flag"}, 1, "", []string{"--no-such-flag"}},
		{[]string{"--web.config.file=" + web}, 1, "", []string{"--web.config.file", "line 1"}},
		{[]string{"--ingest.listen-address=:10092", "--ingest.config.file=/no/such/file"}, 1, "flags: good\n", []string{"--ingest.config.file: open /no/such/file"}},
		{[]string{"--edges.file=/no/such/file"}, 1, "flags: good\n", []string{"--edges.file: open /no/such/file"}},
		{[]string{"--edges.file=" + misspelt}, 1, "flags: good\n", []string{misspelt + ": ", "line 3: field sries not found\n"}},
		{[]string{"--web.listen-address=foo"}, 1, "", []string{"--web.listen-address=foo: ", "missing port"}},
		{[]string{"--web.listen-address=:http", "--web.listen-address=[::1]:0", "--web.listen-address=vsock://:9100"}, 0, "flags: good\n", nil},
		{[]string{"--web.listen-address=:99999", "--ingest.listen-address=:no-such-port"}, 1, "", []string{"--web.listen-address=:99999: ", "--ingest.listen-address=:no-such-port: "}},
		{[]string{"--edges.retention=-1h"}, 1, "", []string{"--edges.retention=-1h0m0s is negative"}},
		{[]string{"--web.external-url=example.com/relay"}, 1, "", []string{"--web.external-url=example.com/relay: want http://host"}},
		{[]string{"--web.external-url=localhost:10091/relay"}, 1, "", []string{"--web.external-url=localhost:10091/relay: want http://host"}},
		{[]string{"--web.external-url=/relay"}, 0, "flags: good\n", nil},
		{[]string{"--push.ttl=inf", "--series.ttl-max=1h"}, 1, "", []string{"--push.ttl=inf is not between --series.ttl-min=1s and --series.ttl-max=1h"}},
		// One fault hides no other, and each has its flag.
		{[]string{"--web.enable-lifecycle", "--no-web.enable-admin-api", "--series.ttl=0", "--web.trusted-proxies", "10.0.0.0/33", "--limits.labels=0", "--limits.edges=x", "--exposition.max-scrapes=0", "--edges.file=/no/such/file"}, 1, "", []string{
			`--series.ttl=0: TTL "0" is not positive`, `--web.trusted-proxies=10.0.0.0/33: "10.0.0.0/33" is neither`, "--limits.labels=0 is", "--limits.edges=x: ", "--exposition.max-scrapes=0 is", "--edges.file: open /no/such/file",
		}},
	} {
		out, stderr, code := runBinary(t, append([]string{"check-config"}, c.flags...)...)
		if code != c.code || out != c.out || len(c.says) == 0 && stderr != "" {
			t.Errorf("%q: exit %d, %q, %q", c.flags, code, out, stderr)
		}
		for _, want := range c.says {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q: %q lacks %q", c.flags, stderr, want)
			}
		}
	}
}

func TestBinaryCommandLine(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"edges", "--series.ttl=1m"}, 2, "--series.ttl is not a flag of relay edges"},
		{[]string{"series"}, 2, "selector"},
		{[]string{"bogus"}, 2, "bogus"},
		{[]string{"--url=http://127.0.0.1:1"}, 2, "--url"},
		{[]string{"edges", "--url=ftp://127.0.0.1"}, 1, "--url"},
		{[]string{"serve", "--series.ttl=soon"}, 2, "relay: --series.ttl=soon: cannot read TTL"},
		{[]string{"--limits.series=0", "--limits.labels=0"}, 2, "--limits.labels=0 is not between 1 and 255; --limits.series=0 is not positive (see --help)"},
		{[]string{"--series.ttl=1m", "--series.ttl=2m", "--push.ttl=never"}, 2, "series.ttl"},
	} {
		out, stderr, code := runBinary(t, c.args...)
		if code != c.code || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 || out != "" {
			t.Errorf("%q: exit %d, %q %q", c.args, code, out, stderr)
		}
	}
	help, _, code := runBinary(t, "--help")
	for _, want := range []string{"--series.ttl=5m", "check-config", "series [<flags>] <selector>..."} {
		if code != 0 || !strings.Contains(help, want) {
			t.Errorf("--help: exit %d, lacks %s", code, want)
		}
	}
	help, _, code = runBinary(t, "edges", "--help")
	if code != 0 || !strings.Contains(help, "--url=http://127.0.0.1:10091") || strings.Contains(help, "--series.ttl") {
		t.Errorf("edges --help: exit %d\n%s", code, help)
	}
}

// What bash offers, asked as bash asks.
func TestBinaryCompletion(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	script, stderr, code := runBinary(t, "--completion-script-bash")
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if zsh, _, code := runBinary(t, "--completion-script-zsh"); code != 0 || !strings.HasPrefix(zsh, "#compdef relay") {
		t.Errorf("exit %d, %s", code, zsh)
	}
	for typed, want := range map[string]string{
		"e": "edges", "check": "check-config", "edges --sil": "--silent", "--series.ttl-m": "--series.ttl-min --series.ttl-max",
	} {
		words := strings.Fields(typed)
		cmd := exec.Command(bash, "-c", script+fmt.Sprintf("\nCOMP_WORDS=(relay %s); COMP_CWORD=%d; _relay_bash_autocomplete; echo ${COMPREPLY[@]}", typed, len(words)))
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(relayBinary(t))+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%q: %v, %q, want %q", typed, err, got, want)
		}
	}
}
