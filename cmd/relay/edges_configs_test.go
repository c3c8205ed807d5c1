package main

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	promconfig "github.com/prometheus/prometheus/config"
	"go.yaml.in/yaml/v2"
)

// TestProcessEdgeConfigurations loads each configuration under docs/edges in the
// program that it is for. Grafana's Alloy and Agent are not to be had from Go's module
// proxy: what can be said without them is in TestEdgeConfigurations and below.
func TestProcessEdgeConfigurations(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	run := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return string(out)
	}
	at := func(name string) string {
		path, err := filepath.Abs(filepath.Join("../../docs/edges", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	// As a server and as an agent, which takes less.
	for _, agent := range []string{"--no-agent", "--agent"} {
		for _, name := range []string{"prometheus.yml", "prometheus-remote-write-1.yml"} {
			t.Run(name+agent, func(t *testing.T) {
				run(t, tool(t, "promtool"), "check", "config", agent, "--lint-fatal", at(name))
			})
		}
		t.Run("prometheus-2.42.yml"+agent, func(t *testing.T) {
			run(t, "/usr/bin/promtool", "check", "config", agent, "--lint-fatal", at("prometheus-2.42.yml"))
		})
	}
	t.Run("vmagent.sh", func(t *testing.T) {
		scrape := file(t, "scrape.yml", "scrape_configs:\n  - job_name: node\n    static_configs: [{targets: ['localhost:9100']}]\n")
		script := strings.NewReplacer("/etc/vmagent/scrape.yml", scrape, "/var/lib/vmagent", t.TempDir(), "exec vmagent", "exec "+tool(t, "vmagent")+" -dryRun").Replace(read(t, "docs/edges/vmagent.sh"))
		run(t, "/bin/sh", "-euc", script)
	})
	t.Run("telegraf.conf", func(t *testing.T) {
		run(t, tool(t, "telegraf"), "config", "check", "--config", at("telegraf.conf"))
	})
	t.Run("otel-collector.yml", func(t *testing.T) {
		run(t, tool(t, "otelcol"), "validate", "--config="+at("otel-collector.yml"))
	})
	// That the programs refuse what they do not know, so that the above can fail.
	t.Run("Typos", func(t *testing.T) {
		for name, c := range map[string]struct {
			from, to string
			argv     func(conf string) []string
		}{
			"prometheus.yml":     {"send_exemplars", "send_exemplar", func(conf string) []string { return []string{tool(t, "promtool"), "check", "config", conf} }},
			"telegraf.conf":      {"non_retryable_statuscodes", "no_retry_codes", func(conf string) []string { return []string{tool(t, "telegraf"), "config", "check", "--config", conf} }},
			"otel-collector.yml": {"send_metadata", "send_meta", func(conf string) []string { return []string{tool(t, "otelcol"), "validate", "--config=" + conf} }},
			"vmagent.sh": {"-remoteWrite.forcePromProto", "-remoteWrite.forceProto", func(conf string) []string {
				return []string{"/bin/sh", "-euc", strings.ReplaceAll(read(t, "docs/edges/vmagent.sh"), "exec vmagent", "exec "+tool(t, "vmagent")+" -dryRun -remoteWrite.forceProto")}
			}},
		} {
			argv := c.argv(file(t, name, strings.ReplaceAll(read(t, "docs/edges/"+name), c.from, c.to)))
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Dir = t.TempDir()
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("%s: %s for %s is taken:\n%s", name, c.to, c.from, out)
			}
		}
	})
}

// What Grafana Agent's static mode has in common with Prometheus is what Prometheus
// takes.
func TestGrafanaAgentConfiguration(t *testing.T) {
	var agent struct {
		Metrics struct {
			WALDirectory string        `yaml:"wal_directory"`
			Global       yaml.MapSlice `yaml:"global"`
			Configs      []struct {
				Name    string          `yaml:"name"`
				Scrapes []yaml.MapSlice `yaml:"scrape_configs"`
			} `yaml:"configs"`
		} `yaml:"metrics"`
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "docs/edges/grafana-agent-static.yml")), &agent); err != nil {
		t.Fatal(err)
	}
	if agent.Metrics.WALDirectory == "" || len(agent.Metrics.Configs) != 1 {
		t.Fatalf("%+v", agent)
	}
	var global, write yaml.MapSlice
	for _, item := range agent.Metrics.Global {
		if item.Key == "remote_write" {
			write = append(write, item)
		} else {
			global = append(global, item)
		}
	}
	text, err := yaml.Marshal(append(write, yaml.MapItem{Key: "global", Value: global}, yaml.MapItem{Key: "scrape_configs", Value: agent.Metrics.Configs[0].Scrapes}))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := promconfig.Load(string(text), slog.New(slog.DiscardHandler))
	if err != nil || len(cfg.RemoteWriteConfigs) != 1 || len(cfg.ScrapeConfigs) != 1 {
		t.Errorf("%v in\n%s", err, text)
	}
}
