package statuspage

import (
	"compress/gzip"
	"html"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"

	promconfig "github.com/prometheus/prometheus/config"
	_ "github.com/prometheus/prometheus/discovery/http" // for http_sd_configs
	"go.yaml.in/yaml/v2"
)

func newPage(t *testing.T, at Address) http.Handler {
	t.Helper()
	h, err := New(Options{Version: "1.2.3", TTL: "5m", Address: func(*http.Request) Address { return at }, Now: func() (int, int) { return 7, 2 }})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var here = Address{Scheme: "http", Host: "relay:1", Push: "http://relay:1"}

func get(h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Whatever the page names is there, comes from the relay, and comes as what a browser
// takes it for; all of it under the policy.
func TestAssets(t *testing.T) {
	h := newPage(t, here)
	index := get(h, "/")
	if index.Code != 200 || index.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", index.Code, index.Header())
	}
	named := regexp.MustCompile(`(?:href|src)="(assets/[^"]*)"`).FindAllStringSubmatch(index.Body.String(), -1)
	asked := map[string]bool{}
	for _, m := range named {
		asked["/"+m[1]] = true
	}
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !asked["/"+name] {
			t.Errorf("the page does not ask for %s, or only when another script has come", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := range asked {
		plain := get(h, p)
		if want := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}[path.Ext(p)]; plain.Code != 200 || plain.Header().Get("Content-Type") != want {
			t.Errorf("%s: %d %v", p, plain.Code, plain.Header())
		}
		zipped := get(h, p, "Accept-Encoding", "gzip, br")
		z, err := gzip.NewReader(zipped.Body)
		if err != nil || zipped.Header().Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: %v %v", p, err, zipped.Header())
			continue
		}
		if text, err := io.ReadAll(z); err != nil || string(text) != plain.Body.String() {
			t.Errorf("%s differs when it is compressed: %v", p, err)
		}
		for _, not := range []string{"gzip;q=0", "br, gzip; q=0.0", "gzipped", "x;a=gzip"} {
			if got := get(h, p, "Accept-Encoding", not); got.Header().Get("Content-Encoding") != "" || got.Body.String() != plain.Body.String() {
				t.Errorf("%s is compressed for %q", p, not)
			}
		}
		if got := get(h, p, "Accept-Encoding", "br;q=1, GZIP;q=0.5"); got.Header().Get("Content-Encoding") != "gzip" {
			t.Errorf("%s is not compressed", p)
		}
		if again := get(h, p, "If-None-Match", plain.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s again: %d", p, again.Code)
		}
		for _, m := range regexp.MustCompile(`(?m)^import .* from "\./([^"]*)";$`).FindAllStringSubmatch(plain.Body.String(), -1) {
			if !asked["/assets/"+m[1]] {
				t.Errorf("%s imports %s, which is not there", p, m[1])
			}
		}
		for _, far := range regexp.MustCompile(`https?://[^"'\s)]*`).FindAllString(plain.Body.String(), -1) {
			if far != "http://www.w3.org/2000/svg" { // a name, which nobody asks for
				t.Errorf("%s names %s", p, far)
			}
		}
	}
	for _, p := range []string{"/", "/assets/app.js", "/assets/none.js", "/assets/", "/assets/../page.go"} {
		h := get(h, p).Header()
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(h.Get("Content-Security-Policy")+";", want+";") {
				t.Errorf("%s: the policy is %q, without %s", p, h.Get("Content-Security-Policy"), want)
			}
		}
		if h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be sniffed", p)
		}
	}
	for _, p := range []string{"/assets/none.js", "/assets/", "/assets/../page.go", "/index.html"} {
		if code := get(h, p).Code; code != 404 {
			t.Errorf("%s: %d", p, code)
		}
	}
}

// No script makes markup of a string, and no markup runs a script or carries a style.
func TestNothingTurnsTextIntoMarkup(t *testing.T) {
	ways := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|srcdoc|\beval\(|new Function|javascript:|setTimeout\("|setInterval\("`)
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := assetFiles.ReadFile(name)
		for _, found := range ways.FindAllString(string(text), -1) {
			t.Errorf("%s has %s", name, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`<script>| on[a-z]+="| style="|<style|<base`).FindAllString(indexHTML, -1) {
		t.Errorf("the page has %q", found)
	}
}

// An address that a client has made up is text, too.
func TestAddressIsEscaped(t *testing.T) {
	page := get(newPage(t, Address{Scheme: "http", Host: `a"><script>x</script>`, Push: `http://a"><script>x</script>`}), "/").Body.String()
	if strings.Contains(page, "<script>x") || !strings.Contains(page, "&lt;script&gt;x") {
		t.Error("the address is in the page as it came")
	}
}

// Every snippet has the relay's own address in place of the example's, and is what its
// program reads.
func TestSnippets(t *testing.T) {
	at := Address{Scheme: "https", Host: "relay.shop.test", Prefix: "/relay", Push: "https://push.shop.test:10092/relay"}
	page := html.UnescapeString(get(newPage(t, at), "/").Body.String())
	for _, s := range append(filled(senders, at), filled(centres, at)...) {
		if !strings.Contains(page, s.Text) {
			t.Errorf("the page lacks %s", s.Title)
		}
		if strings.Contains(s.Text, "example.com") {
			t.Errorf("%s has the example's address:\n%s", s.Title, s.Text)
		}
		to := at.Push + "/"
		if strings.HasPrefix(s.ID, "centre") {
			to = at.Host
		}
		if s.ID == "client" {
			to = `"` + at.Push + `"` // the library adds the rest
		}
		if !strings.Contains(s.Text, to) {
			t.Errorf("%s lacks %s:\n%s", s.Title, to, s.Text)
		}
		if s.Where != "prometheus.yml" {
			continue
		}
		cfg, err := promconfig.Load(s.Text, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%s: %v\n%s", s.Title, err, s.Text)
			continue
		}
		for _, w := range cfg.RemoteWriteConfigs {
			if got := w.URL.Scheme + "://" + w.URL.Host + w.URL.Path; got != at.Push+"/api/v1/write" {
				t.Errorf("%s pushes to %s", s.Title, got)
			}
		}
		for _, c := range cfg.ScrapeConfigs {
			if strings.HasPrefix(s.ID, "centre") && len(c.ServiceDiscoveryConfigs) > 0 && s.ID != "centre-up" && (c.Scheme != "https" || c.MetricsPath != "/relay/metrics" || !c.HonorLabels) {
				t.Errorf("%s scrapes %s %s, honor_labels %v", s.Title, c.Scheme, c.MetricsPath, c.HonorLabels)
			}
		}
	}
	for _, id := range []string{"agent-static", "otel"} {
		for _, s := range filled(senders, at) {
			var any map[string]any
			if err := yaml.UnmarshalStrict([]byte(s.Text), &any); s.ID == id && err != nil {
				t.Errorf("%s: %v", s.Title, err)
			}
		}
	}
	if n := strings.Count(page, `class="snippet"`); n != len(senders)+len(centres) {
		t.Errorf("%d snippets", n)
	}
}

// Every configuration of docs/edges is on the page.
func TestEverySenderIsShown(t *testing.T) {
	shown := map[string]bool{}
	for _, s := range senders {
		shown[s.name] = true
	}
	files, err := fs.Glob(senders[0].files, "*")
	if err != nil || len(files) < 9 {
		t.Fatalf("%q %v", files, err)
	}
	for _, name := range files {
		if !shown[name] {
			t.Errorf("docs/edges/%s is not on the page", name)
		}
	}
}
