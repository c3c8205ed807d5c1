package main

import (
	"bytes"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	_ "github.com/prometheus/prometheus/discovery/http" // for http_sd_configs
	"go.yaml.in/yaml/v2"

	"relay/edges"
	"relay/ingest"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// known reports whether a flag of a command, or of the relay that is served, exists.
func known(name string) bool {
	app := newApp(&config{}).Model()
	groups := []*kingpin.FlagGroupModel{app.FlagGroupModel}
	for _, cmd := range app.Commands {
		groups = append(groups, cmd.FlagGroupModel)
	}
	return slices.ContainsFunc(groups, func(g *kingpin.FlagGroupModel) bool {
		return slices.ContainsFunc(g.Flags, func(f *kingpin.FlagModel) bool { return "--"+f.Name == name })
	})
}

// declared are the flags of the server with their defaults.
func declared() map[string]string {
	flags := map[string]string{}
	for _, f := range newApp(&config{}).Model().Flags {
		if !f.Hidden {
			flags["--"+f.Name] = strings.Join(f.Default, " ")
		}
	}
	return flags
}

// The table of flags in the README is what --help says.
func TestReadmeHasTheFlags(t *testing.T) {
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(--[a-z.-]+)` \\| (?:`([^`]*)`)? *\\|").FindAllStringSubmatch(read(t, "README.md"), -1) {
		rows[m[1]] = m[2]
	}
	flags := declared()
	for name, def := range flags {
		if got, ok := rows[name]; !ok || got != def {
			t.Errorf("%s with default %q is in the README as %q (%v)", name, def, got, ok)
		}
	}
	for name := range rows {
		if _, ok := flags[name]; !ok {
			t.Errorf("the README has %s, the relay does not", name)
		}
	}
}

// everyRelay is a relay with everything on, which is not started.
func everyRelay(t *testing.T) *relay {
	t.Helper()
	r := unstarted(t, "--journal.path="+t.TempDir(), "--edges.file=../../docs/edges-file.yml", "--ingest.listen-address=127.0.0.1:0")
	t.Cleanup(func() { r.close() })
	return r
}

// ownMetrics are the names of the relay's own metrics.
func ownMetrics(t *testing.T) []string {
	t.Helper()
	r := everyRelay(t)
	descs := make(chan *prometheus.Desc)
	go func() {
		r.registry.Describe(descs)
		close(descs)
	}()
	var names []string
	for d := range descs {
		if m := regexp.MustCompile(`fqName: "(relay_[a-z_]+)"`).FindStringSubmatch(d.String()); m != nil {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// foreign are flags of other programs, and where a digit ends the name, their
// beginnings.
var foreign = []string{
	"--web.telemetry-path", "--persistence.file", "--persistence.interval", "--push.disable-consistency-check", "--push.enable-utf",
	"--metric.timetolive", "--redis.expiration",
}

// Every metric and every flag that a document names exists, and the README has
// all metrics.
func TestDocumentsNameWhatExists(t *testing.T) {
	metrics := ownMetrics(t)
	readme := read(t, "README.md")
	for _, name := range metrics {
		if !strings.Contains(readme, "`"+name+"`") {
			t.Errorf("the README lacks %s", name)
		}
	}
	docs, _ := filepath.Glob("../../docs/*.md")
	more, _ := filepath.Glob("../../docs/*/*.md")
	for _, file := range append(append(docs, more...), "../../README.md", "../../CONTRIBUTING.md", "../../deploy/README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("relay_edge_pushing"), nil) // on an edge's page
		for _, name := range regexp.MustCompile(`\brelay_[a-z_]+[a-z]`).FindAllString(string(text), -1) {
			base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !slices.Contains(metrics, name) && !slices.Contains(metrics, base) {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
		for _, m := range regexp.MustCompile("`(--[a-z]+[.][a-z.-]+[a-z])").FindAllStringSubmatch(string(text), -1) {
			if !known(m[1]) && !strings.HasPrefix(m[1], "--enable-feature") && !slices.Contains(foreign, m[1]) {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
	}
}

// Every configuration for an edge can be read, and pushes to an address that the
// relay answers.
func TestEdgeConfigurations(t *testing.T) {
	files, _ := filepath.Glob("../../docs/edges/*")
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, ".md") || strings.HasSuffix(file, ".go") {
			continue
		}
		n++
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".yml") {
			var any map[string]any
			if err := yaml.UnmarshalStrict(text, &any); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		if strings.Contains(file, "prometheus") {
			cfg, err := promconfig.Load(string(text), slog.New(slog.DiscardHandler))
			if err != nil || len(cfg.RemoteWriteConfigs) != 1 {
				t.Errorf("%s: %v", file, err)
			}
		}
		urls := regexp.MustCompile(`http://relay[^"'\s]*`).FindAllString(string(text), -1)
		if len(urls) != 1 {
			t.Errorf("%s: addresses %q", file, urls)
			continue
		}
		u, err := url.Parse(urls[0])
		if err != nil || u.Port() != "10091" || !slices.Contains(ingest.Paths, u.Path) {
			t.Errorf("%s: %s is not where the relay takes pushes", file, urls[0])
		}
		if strings.Contains(file, "2.42") && u.Query().Get("ttl") != "" {
			continue // it sends no headers
		}
		for _, header := range []string{"X-Relay-Edge", "X-Relay-TTL"} {
			if !strings.Contains(string(text), header) {
				t.Errorf("%s lacks %s", file, header)
			}
		}
	}
	if n < 9 {
		t.Errorf("only %d configurations", n)
	}
}

// The scrape configuration of the README is one that Prometheus takes.
func TestReadmeScrapeConfig(t *testing.T) {
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1) {
		if !strings.Contains(block[1], "scrape_configs:") {
			continue
		}
		if _, err := promconfig.Load(block[1], slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("%v in\n%s", err, block[1])
		}
	}
}

// The Dockerfile's build command builds a relay that runs.
func TestDockerfileBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	m := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build .*)$`).FindStringSubmatch(read(t, "Dockerfile"))
	if m == nil {
		t.Fatal("no build command")
	}
	bin := filepath.Join(t.TempDir(), "relay")
	cmd := exec.Command("sh", "-c", strings.Replace(m[1], "-o /relay", "-o "+bin, 1))
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "VERSION=1.2.3", "REVISION=abc")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(bin, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "relay, version 1.2.3") {
		t.Errorf("%v: %s", err, out)
	}
}

// Imports run one way.
func TestLayout(t *testing.T) {
	allowed := map[string][]string{
		"relay/series":         nil,
		"relay/edges":          {"relay/series"},
		"relay/journal":        nil,
		"relay/ingest":         {"relay/edges", "relay/journal", "relay/series"},
		"relay/exposition":     {"relay/series"},
		"relay/docs/edges":     nil,
		"relay/statuspage":     {"relay/docs/edges"},
		"relay/cmd/relay":      {"relay/edges", "relay/exposition", "relay/ingest", "relay/journal", "relay/series", "relay/statuspage"},
		"relay/cmd/relaybench": nil,
	}
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		may, known := allowed[fields[0]]
		if !known {
			t.Errorf("%s has no place in the layout", fields[0])
		}
		for _, dep := range fields[1:] {
			if strings.HasPrefix(dep, "relay/") && !slices.Contains(may, dep) {
				t.Errorf("%s may not import %s", fields[0], dep)
			}
		}
	}
}

// The edges file of the documents is a good one, and names all there is.
func TestEdgesFileOfTheDocuments(t *testing.T) {
	f, err := edges.LoadFile("../../docs/edges-file.yml")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(f.Entries()); n != 6 {
		t.Errorf("%d edges", n)
	}
}

// make help shows every target, and none is taken for a file.
func TestMakefile(t *testing.T) {
	text := read(t, "Makefile")
	shown := regexp.MustCompile(`grep -E '([^']*)'`).FindStringSubmatch(text)
	phony := regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindStringSubmatch(text)
	targets := regexp.MustCompile(`(?m)^([^\s.#:=?]+):.*$`).FindAllStringSubmatch(text, -1)
	if shown == nil || phony == nil || len(targets) < 10 {
		t.Fatalf("%q %q %q", shown, phony, targets)
	}
	for _, m := range targets {
		if !regexp.MustCompile(shown[1]).MatchString(m[0]) {
			t.Errorf("make help does not show %s", m[1])
		}
		if !slices.Contains(strings.Fields(phony[1]), m[1]) {
			t.Errorf("%s is not phony", m[1])
		}
	}
}
