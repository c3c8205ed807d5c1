package main

import (
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v2"
)

// shown is what a fresh relay has on /-/metrics: the labels of each metric, with the
// values that are there from the start.
func shown(t *testing.T) map[string]map[string][]string {
	t.Helper()
	r := everyRelay(t)
	all := map[string]map[string][]string{}
	descs := make(chan *prometheus.Desc)
	go func() {
		r.registry.Describe(descs)
		close(descs)
	}()
	for d := range descs {
		m := regexp.MustCompile(`fqName: "([a-z_]+)".*variableLabels: \{([a-z_,]*)\}`).FindStringSubmatch(d.String())
		if m == nil {
			continue
		}
		all[m[1]] = map[string][]string{}
		for name := range strings.SplitSeq(m[2], ",") {
			if name != "" {
				all[m[1]][name] = nil
			}
		}
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if all[f.GetName()] == nil {
			all[f.GetName()] = map[string][]string{} // of collectors that do not describe
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				all[f.GetName()][l.GetName()] = append(all[f.GetName()][l.GetName()], l.GetValue())
			}
		}
	}
	return all
}

// checkQuery finds metrics, labels and values that the relay does not have.
func checkQuery(t *testing.T, where, query string, all map[string]map[string][]string) {
	t.Helper()
	query = strings.ReplaceAll(query, "$__rate_interval", "5m")
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, query)
		return
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			checkSelector(t, where, n, all)
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				if !anyHas(all, l) && l != "le" && l != "instance" {
					t.Errorf("%s: no metric has the label %s", where, l)
				}
			}
		}
		return nil
	})
}

func anyHas(all map[string]map[string][]string, label string) bool {
	for _, ls := range all {
		if _, ok := ls[label]; ok {
			return true
		}
	}
	return false
}

func checkSelector(t *testing.T, where string, n *parser.VectorSelector, all map[string]map[string][]string) {
	t.Helper()
	known := map[string][]string{}
	base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(n.Name, "")
	if n.Name == "up" {
		known["edge"] = nil
	} else if ls, ok := all[n.Name]; ok {
		known = ls
	} else if ls, ok := all[base]; ok {
		known = maps.Clone(ls)
		known["le"] = nil
	} else {
		t.Errorf("%s: there is no metric %s", where, n.Name)
		return
	}
	for _, m := range n.LabelMatchers {
		values, ok := known[m.Name]
		switch {
		case m.Name == model.MetricNameLabel, m.Name == "job", m.Name == "instance":
			continue
		case !ok:
			t.Errorf("%s: %s has no label %s", where, n.Name, m.Name)
			continue
		case len(values) == 0 || m.Name == "code":
			continue // only those that came up are there
		}
		for want := range strings.SplitSeq(m.Value, "|") {
			if !slices.Contains(values, want) {
				t.Errorf("%s: %s is never %s=%q; there are %q", where, n.Name, m.Name, want, values)
			}
		}
	}
}

// The alerts are of this relay's metrics, and each one is seen to fire.
func TestAlerts(t *testing.T) {
	all := shown(t)
	groups, errs := rulefmt.ParseFile("../../monitoring/relay.rules.yml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	tests := read(t, "monitoring/relay.rules_test.yml")
	n := 0
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			n++
			checkQuery(t, r.Alert, r.Expr, all)
			checkJobs(t, r.Alert, r.Expr)
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: severity %q, annotations %q", r.Alert, r.Labels["severity"], r.Annotations)
			}
			if !strings.Contains(tests, `{alertname="`+r.Alert+`", alertstate="firing"`) {
				t.Errorf("no test sees %s fire", r.Alert)
			}
			for _, text := range r.Annotations {
				checkText(t, r.Alert, text, all)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d alerts", n)
	}
}

// checkJobs finds selectors that believe what edges push: the scrape jobs drop only what
// says that it is of one of them.
func checkJobs(t *testing.T, where, query string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return // checkQuery has said so
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		s, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		want := "relay-self"
		for _, m := range s.LabelMatchers {
			if m.Name == "job" && (m.Value == want || s.Name == "up" && (m.Value == "relay-edges" || m.Value == "relay|relay-self")) {
				return nil
			}
		}
		t.Errorf("%s: %s is asked of any job", where, s)
		return nil
	})
}

// checkSums finds sums of what relays that share a journal all have: it would count twice.
// What one of them took it counts alone, so rates are sums.
func checkSums(t *testing.T, where, query string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(query, "$__rate_interval", "5m"))
	if err != nil {
		return // checkQuery has said so
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		sum, ok := n.(*parser.AggregateExpr)
		if !ok || sum.Op != parser.SUM || !sum.Without && slices.Contains(sum.Grouping, "instance") {
			return nil
		}
		if _, rate := sum.Expr.(*parser.Call); !rate {
			t.Errorf("%s: %s adds up what several relays may share", where, sum)
		}
		return nil
	})
}

// checkText finds flags and metrics in a text that do not exist.
func checkText(t *testing.T, where, text string, all map[string]map[string][]string) {
	t.Helper()
	for _, flag := range regexp.MustCompile(`--[a-z]+[.a-z-]*[a-z]`).FindAllString(text, -1) {
		if !known(flag) {
			t.Errorf("%s names %s, which does not exist", where, flag)
		}
	}
	for _, name := range regexp.MustCompile(`\brelay_[a-z_]+[a-z]`).FindAllString(text, -1) {
		if all[name] == nil {
			t.Errorf("%s names %s, which does not exist", where, name)
		}
	}
}

// promtool's own tests of the alerts; without promtool they are skipped unless
// RELAY_E2E is set.
func TestAlertsWithPromtool(t *testing.T) {
	promtool := optionalTool(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "relay.rules.yml"}, {"test", "rules", "relay.rules_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "../../monitoring"
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "SUCCESS") {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}

// optionalTool finds a program among the tools, or where the shell would. Without
// it the test is skipped, unless the tests with programs were asked for.
func optionalTool(t *testing.T, name string) string {
	t.Helper()
	if os.Getenv("RELAY_E2E") != "" {
		return tool(t, name)
	}
	for _, dir := range []string{os.Getenv("RELAY_TOOLS"), filepath.Join(os.Getenv("HOME"), ".cache", "relay-tools")} {
		bin := filepath.Join(dir, name)
		if _, err := os.Stat(bin); err == nil && dir != "" {
			return bin
		}
	}
	bin, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no %s: CONTRIBUTING.md says how to get it", name)
	}
	return bin
}

type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct {
		RefID string `json:"refId"`
		Expr  string
	}
	FieldConfig struct{ Defaults struct{ Unit string } }
}

// The dashboard asks for what is there, and its panels do not lie over each other.
func TestDashboard(t *testing.T) {
	all := shown(t)
	var d struct {
		UID, Title    string
		SchemaVersion int
		Panels        []panel
		Templating    struct {
			List []struct {
				Name, Type string
				Query      any
				Definition string
			}
		}
	}
	text := read(t, "monitoring/dashboard.json")
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion == 0 || len(d.Panels) < 20 {
		t.Errorf("uid %q, title %q, schema %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	variables := []string{"__rate_interval"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if m := regexp.MustCompile(`label_values\(([a-z_]+)`).FindStringSubmatch(v.Definition); m != nil && all[m[1]] == nil {
			t.Errorf("variable %s: there is no metric %s", v.Name, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(variables, m[1]) && m[1] != "__all" {
			t.Errorf("there is no variable $%s", m[1])
		}
	}
	ids, cells := map[int]string{}, map[[2]int]string{}
	asked := map[string]bool{}
	for _, p := range d.Panels {
		if other, ok := ids[p.ID]; ok || p.Title == "" {
			t.Errorf("panel %d is %q and %q", p.ID, other, p.Title)
		}
		ids[p.ID] = p.Title
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := cells[[2]int{x, y}]; ok || x >= 24 {
					t.Fatalf("%q lies over %q at %d, %d", p.Title, other, x, y)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s: %d queries, unit %q", p.Title, len(p.Targets), p.FieldConfig.Defaults.Unit)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] {
				t.Errorf("%s: two queries %s", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			checkQuery(t, p.Title, q.Expr, all)
			checkSums(t, p.Title, q.Expr)
			for _, name := range regexp.MustCompile(`\brelay_[a-z_]+[a-z]`).FindAllString(q.Expr, -1) {
				asked[name] = true
			}
		}
	}
	if len(asked) < 30 {
		t.Errorf("only %d metrics are shown", len(asked))
	}
}

// Every scrape job that the alerts and the dashboard name is in the README beside
// them, which Prometheus takes.
func TestMonitoringReadme(t *testing.T) {
	text := read(t, "monitoring/README.md")
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(text)
	if m == nil {
		t.Fatal("no configuration")
	}
	cfg, err := promconfig.Load(m[1], slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	jobs := map[string]bool{}
	for _, s := range cfg.ScrapeConfigs {
		jobs[s.JobName] = true
	}
	for _, file := range []string{"monitoring/relay.rules.yml", "monitoring/relay.rules_test.yml"} {
		for _, m := range regexp.MustCompile(`job=~?"([a-z|-]+)"`).FindAllStringSubmatch(read(t, file), -1) {
			for job := range strings.SplitSeq(m[1], "|") {
				if !jobs[job] {
					t.Errorf("%s has the job %s, the configuration does not", file, job)
				}
			}
		}
	}
	var rules struct {
		RuleFiles []string `yaml:"rule_files"`
	}
	if err := yaml.Unmarshal([]byte(m[1]), &rules); err != nil || len(rules.RuleFiles) != 1 {
		t.Fatalf("%v %v", err, rules)
	}
	if _, err := os.Stat(filepath.Join("../../monitoring", rules.RuleFiles[0])); err != nil {
		t.Error(err)
	}
}
