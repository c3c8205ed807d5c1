package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v2"

	"relay/ingest"
	"relay/journal"
)

// The image, as the Dockerfile makes it.
type image struct {
	entrypoint         []string
	user, volume, port string
}

func dockerfile(t *testing.T) image {
	t.Helper()
	text := read(t, "Dockerfile")
	value := func(keyword string) string {
		all := regexp.MustCompile(`(?m)^`+keyword+` (.*)$`).FindAllStringSubmatch(text, -1)
		if len(all) != 1 {
			t.Fatalf("the Dockerfile has %d lines of %s", len(all), keyword)
		}
		return all[0][1]
	}
	im := image{user: value("USER"), volume: value("VOLUME"), port: value("EXPOSE")}
	if err := json.Unmarshal([]byte(value("ENTRYPOINT")), &im.entrypoint); err != nil {
		t.Fatal(err)
	}
	return im
}

// flagged are the settings of a relay that is started like this.
func flagged(t *testing.T, args []string) *config {
	t.Helper()
	cfg, _, err := parseFlags(args, io.Discard)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return cfg
}

// port is that of an address to listen on.
func port(t *testing.T, address string) string {
	t.Helper()
	_, p, ok := strings.Cut(address, ":")
	if !ok {
		t.Fatalf("no port in %q", address)
	}
	return p
}

func webPort(t *testing.T, cfg *config) string { return port(t, (*cfg.web.WebListenAddresses)[0]) }

// served fails unless a relay with everything on answers this path on its web listener.
func served(t *testing.T, path string) {
	t.Helper()
	r := everyRelay(t)
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		t.Errorf("%s: %d %s", path, w.Code, w.Body)
	}
}

// The Dockerfile says where the relay listens, and keeps its journal in the volume, which
// its user may write.
func TestDockerfile(t *testing.T) {
	im := dockerfile(t)
	cfg := flagged(t, im.entrypoint[1:])
	if cfg.journalPath != im.volume || webPort(t, cfg) != im.port {
		t.Errorf("journal in %s, volume %s; listens on %s, exposes %s", cfg.journalPath, im.volume, webPort(t, cfg), im.port)
	}
	if text := read(t, "Dockerfile"); !strings.Contains(text, "--chown="+im.user+" /data "+im.volume) || strings.HasPrefix(im.user, "0") || strings.HasPrefix(im.user, "root") {
		t.Errorf("%s is not the user's, %s", im.volume, im.user)
	}
}

// stopTime is what a relay takes to stop at most, when requests, scrapes and the disk
// all hang.
const stopTime = drainTime + lingerTime + closeTime + journal.CloseTime

// stops checks the time that something leaves a relay to stop, and what it says of it.
func stops(t *testing.T, file, setting string, left time.Duration) {
	t.Helper()
	if left < stopTime+4*time.Second {
		t.Errorf("%s: %s %s does not leave a relay the %s that it may take to stop, and some more", file, setting, left, stopTime)
	}
	if says := strings.ToLower(read(t, file)); !strings.Contains(says, fmt.Sprintf("%.0f s at most", stopTime.Seconds())) {
		t.Errorf("%s does not say that a relay stops in %s at most", file, stopTime)
	}
}

type composeFile struct {
	Services map[string]struct {
		Image, Build    string
		Command         []string
		Ports, Volumes  []string
		StopGracePeriod string `yaml:"stop_grace_period"`
		ReadOnly        bool   `yaml:"read_only"`
		Healthcheck     struct{ Test []string }
		DependsOn       []string `yaml:"depends_on"`
		Environment     map[string]string
		Restart         string
		CapDrop         []string `yaml:"cap_drop"`
		SecurityOpt     []string `yaml:"security_opt"`
	}
	Volumes map[string]any
}

// Compose: what it asks of the relay is there, what it mounts exists, its services find
// each other.
func TestCompose(t *testing.T) {
	text := read(t, "deploy/compose/compose.yml")
	var c composeFile
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	im := dockerfile(t)
	for name, s := range c.Services {
		if s.Restart != "unless-stopped" || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s is not hardened: %+v", name, s)
		}
		for _, on := range s.DependsOn {
			if _, ok := c.Services[on]; !ok {
				t.Errorf("%s depends on %s", name, on)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, named := c.Volumes[from]; named {
				continue
			}
			if _, err := os.Stat(filepath.Join("../../deploy/compose", from)); err != nil || !strings.HasSuffix(v, ":ro") {
				t.Errorf("%s: volume %s: %v", name, v, err)
			}
		}
	}
	relay := c.Services["relay"]
	cfg := flagged(t, append(im.entrypoint[1:], relay.Command...))
	listens := webPort(t, cfg)
	if want := []string{"127.0.0.1:" + listens + ":" + listens}; !slices.Equal(relay.Ports, want) {
		t.Errorf("ports %v, want %v", relay.Ports, want)
	}
	if !slices.Contains(relay.Volumes, "relay:"+cfg.journalPath) || !relay.ReadOnly {
		t.Errorf("the journal is in %s, the volumes are %v", cfg.journalPath, relay.Volumes)
	}
	grace, err := time.ParseDuration(relay.StopGracePeriod)
	if err != nil {
		t.Error(err)
	}
	stops(t, "deploy/compose/compose.yml", "stop_grace_period", grace)
	if d, err := filepath.Abs(filepath.Join("../../deploy/compose", relay.Build, "Dockerfile")); err != nil {
		t.Error(err)
	} else if _, err := os.Stat(d); err != nil {
		t.Error(err)
	}
	// Its health is asked for with the relay's own command line.
	check := relay.Healthcheck.Test
	if len(check) < 3 || check[0] != "CMD" || check[1] != im.entrypoint[0] {
		t.Fatalf("healthcheck %q", check)
	}
	base, _ := startRelay(t)
	for address, want := range map[string]int{base: 0, "http://127.0.0.1:1": 1} {
		args := strings.Split(strings.ReplaceAll(strings.Join(check[2:], "\n"), "http://127.0.0.1:"+listens, address), "\n")
		if !slices.Contains(args, "--url="+address) {
			t.Errorf("%q does not ask port %s", check, listens)
		}
		if code := run(t.Context(), args, io.Discard, io.Discard); code != want {
			t.Errorf("%q: exit %d, want %d", args, code, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()

	edge, centre := loadPrometheus(t, "deploy/compose/edge.yml"), loadPrometheus(t, "deploy/compose/centre.yml")
	for _, w := range edge.RemoteWriteConfigs {
		if w.URL.Host != "relay:"+listens || !slices.Contains(ingest.Paths, w.URL.Path) {
			t.Errorf("the edge pushes to %s", w.URL)
		}
	}
	for _, path := range scraped(t, centre, "relay:"+listens) {
		served(t, path)
	}
	// Grafana finds the centre and the dashboard.
	var sources struct{ Datasources []struct{ URL string } }
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	for name, to := range map[string]any{"grafana-datasources.yml": &sources, "grafana-dashboards.yml": &providers} {
		if err := yaml.Unmarshal([]byte(read(t, "deploy/compose/"+name)), to); err != nil {
			t.Fatal(err)
		}
	}
	if len(sources.Datasources) != 1 || len(providers.Providers) != 1 {
		t.Fatalf("%+v %+v", sources, providers)
	}
	u, err := url.Parse(sources.Datasources[0].URL)
	if err != nil || !slices.Contains(c.Services[u.Hostname()].Ports, "127.0.0.1:"+u.Port()+":"+u.Port()) {
		t.Errorf("Grafana asks %s: %v", u, err)
	}
	home := c.Services["grafana"].Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
	if filepath.Dir(home) != providers.Providers[0].Options.Path || !slices.Contains(c.Services["grafana"].Volumes, "../../monitoring/dashboard.json:"+home+":ro") {
		t.Errorf("the dashboard is at %s, the provider looks at %s", home, providers.Providers[0].Options.Path)
	}
}

func loadPrometheus(t *testing.T, file string) *promconfig.Config {
	t.Helper()
	cfg, err := promconfig.Load(read(t, file), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return cfg
}

// scraped are the paths that a centre asks the relay for, at this address alone.
func scraped(t *testing.T, cfg *promconfig.Config, address string) (paths []string) {
	t.Helper()
	var raw struct {
		Jobs []struct {
			Name    string                       `yaml:"job_name"`
			Path    string                       `yaml:"metrics_path"`
			Targets []struct{ Targets []string } `yaml:"static_configs"`
			SD      []struct{ URL string }       `yaml:"http_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(cfg.String()), &raw); err != nil {
		t.Fatal(err)
	}
	for _, job := range raw.Jobs {
		for _, group := range job.Targets {
			if !slices.Equal(group.Targets, []string{address}) {
				t.Errorf("job %s scrapes %q", job.Name, group.Targets)
			}
			paths = append(paths, job.Path)
		}
		for _, sd := range job.SD {
			path, ok := strings.CutPrefix(sd.URL, "http://"+address)
			if !ok {
				t.Errorf("job %s asks %s", job.Name, sd.URL)
			}
			paths = append(paths, path)
		}
	}
	if len(paths) < 3 {
		t.Errorf("only %q are scraped", paths)
	}
	return paths
}

// unit reads a file of systemd: key to its values.
func unit(t *testing.T, file string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for line := range strings.Lines(read(t, file)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			out[key] = append(out[key], value)
		}
	}
	return out
}

// The user of the unit is made at its start and has the unit's name, which no group may
// have then; what deploy/README.md has it read belongs to a group that is there.
func TestSystemdGroup(t *testing.T) {
	text := read(t, "deploy/README.md")
	word := func(expr string) string {
		t.Helper()
		m := regexp.MustCompile(expr).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("there is no %s", expr)
		}
		return m[1]
	}
	group := word(`SupplementaryGroups=([a-z-]+)`)
	if group == "relay" || group != word(`groupadd --system ([a-z-]+)`) || group != word(`install -d -m 2750 -g ([a-z-]+) /etc/relay`) {
		t.Errorf("the group is %s", group)
	}
	if !strings.Contains(read(t, "deploy/systemd/relay.service"), "\nDynamicUser=yes\n") {
		t.Error("the user is another one")
	}
}

func TestSystemdUnits(t *testing.T) {
	service, socket := unit(t, "deploy/systemd/relay.service"), unit(t, "deploy/systemd/relay.socket")
	one := func(u map[string][]string, key string) string {
		t.Helper()
		if len(u[key]) != 1 {
			t.Fatalf("%s is %q", key, u[key])
		}
		return u[key][0]
	}
	command := strings.Fields(one(service, "ExecStart"))
	if last := command[len(command)-1]; last != "$OPTIONS" {
		t.Errorf("the command ends in %s", last)
	}
	cfg := flagged(t, command[1:len(command)-1])
	if !*cfg.web.WebSystemdSocket || one(socket, "ListenStream") != webPort(t, cfg) || one(service, "Requires") != "relay.socket" {
		t.Errorf("the socket is %q, the relay's port is %s", socket, webPort(t, cfg))
	}
	if want := "/var/lib/" + one(service, "StateDirectory"); cfg.journalPath != want {
		t.Errorf("the journal is in %s, its directory is %s", cfg.journalPath, want)
	}
	grace, err := time.ParseDuration(one(service, "TimeoutStopSec"))
	if err != nil {
		t.Error(err)
	}
	stops(t, "deploy/systemd/relay.service", "TimeoutStopSec", grace)
	// A panic ends with the status of bad flags, so none may keep it from being started
	// again; what another try does not mend has to reach the limit.
	for _, key := range []string{"RestartPreventExitStatus", "SuccessExitStatus"} {
		if len(service[key]) != 0 {
			t.Errorf("%s is %q: a panic exits with %d, too", key, service[key], exitUsage)
		}
	}
	pause, err := time.ParseDuration(one(service, "RestartSec"))
	if err != nil {
		t.Error(err)
	}
	within, err := time.ParseDuration(one(service, "StartLimitIntervalSec"))
	if err != nil {
		t.Error(err)
	}
	tries, err := strconv.Atoi(one(service, "StartLimitBurst"))
	if err != nil || one(service, "Restart") != "on-failure" || within < time.Duration(tries)*(pause+time.Second) {
		t.Errorf("%d starts, %s apart, do not end within %s: %v", tries, pause, within, err)
	}
	for _, m := range regexp.MustCompile(`--[a-z.-]+[a-z]`).FindAllString(read(t, "deploy/systemd/relay.service"), -1) {
		if !known(m) {
			t.Errorf("the service names %s, which does not exist", m)
		}
	}
}

// manifest is what the tests ask of a document; the program "manifests" checks its shape.
type manifest struct {
	Kind     string
	Metadata struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Spec struct {
		Replicas int
		Strategy struct{ Type string }
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				GracePeriod int            `yaml:"terminationGracePeriodSeconds"`
				Security    map[string]any `yaml:"securityContext"`
				Containers  []struct {
					Args  []string
					Ports []struct {
						Name string
						Port int `yaml:"containerPort"`
					}
					Readiness probe          `yaml:"readinessProbe"`
					Liveness  probe          `yaml:"livenessProbe"`
					Security  map[string]any `yaml:"securityContext"`
					Mounts    []struct {
						Name string
						Path string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name  string
					Claim struct {
						Name string `yaml:"claimName"`
					} `yaml:"persistentVolumeClaim"`
				}
			}
		}
		Ports []struct {
			Name, TargetPort string
			Port             int
		}
		Ingress []struct {
			Ports []struct{ Port string }
			From  []any
		}
		PolicyTypes []string `yaml:"policyTypes"`
		Selector    struct {
			Labels map[string]string `yaml:"matchLabels"`
		}
		Endpoints []struct {
			Port, Path        string
			HonorLabels       bool             `yaml:"honorLabels"`
			Relabelings       []map[string]any `yaml:"relabelings"`
			MetricRelabelings []map[string]any `yaml:"metricRelabelings"`
		}
		Native  bool                   `yaml:"scrapeNativeHistograms"`
		JobName string                 `yaml:"jobName"`
		SD      []struct{ URL string } `yaml:"httpSDConfigs"`
	}
}

type probe struct {
	Get struct{ Path, Port string } `yaml:"httpGet"`
}

func TestKubernetesManifests(t *testing.T) {
	by := map[string]manifest{}
	for _, m := range manifests(t, "deploy/kubernetes/relay.yml") {
		if by[m.Kind].Kind != "" || m.Kind != "Namespace" && m.Metadata.Namespace != "relay" {
			t.Errorf("%s %s in namespace %s", m.Kind, m.Metadata.Name, m.Metadata.Namespace)
		}
		by[m.Kind] = m
	}
	deployment := by["Deployment"].Spec
	if len(deployment.Template.Spec.Containers) != 1 || deployment.Replicas != 1 || deployment.Strategy.Type != "Recreate" {
		t.Fatalf("%+v", deployment)
	}
	im, pod, c := dockerfile(t), deployment.Template.Spec, deployment.Template.Spec.Containers[0]
	cfg := flagged(t, append(im.entrypoint[1:], c.Args...))
	ports := map[string]int{}
	for _, p := range c.Ports {
		ports[p.Name] = p.Port
	}
	if got, want := fmt.Sprint(ports), fmt.Sprintf("map[ingest:%s web:%s]", port(t, cfg.ingestAddress), webPort(t, cfg)); got != want {
		t.Errorf("the container's ports are %s, the relay listens on %s", got, want)
	}
	for _, p := range []probe{c.Readiness, c.Liveness} {
		if p.Get.Port != "web" {
			t.Errorf("%+v", p)
		}
		served(t, p.Get.Path)
	}
	user := fmt.Sprintf("%v:%v", pod.Security["runAsUser"], pod.Security["runAsGroup"])
	if user != im.user || fmt.Sprint(pod.Security["fsGroup"]) != fmt.Sprint(pod.Security["runAsGroup"]) || pod.Security["runAsNonRoot"] != true {
		t.Errorf("the pod's user is %v, the image's %s", pod.Security, im.user)
	}
	if c.Security["readOnlyRootFilesystem"] != true || c.Security["allowPrivilegeEscalation"] != false {
		t.Errorf("%v", c.Security)
	}
	stops(t, "deploy/kubernetes/relay.yml", "terminationGracePeriodSeconds", time.Duration(pod.GracePeriod)*time.Second)
	if len(c.Mounts) != 1 || c.Mounts[0].Path != cfg.journalPath || len(pod.Volumes) != 1 || pod.Volumes[0].Name != c.Mounts[0].Name || pod.Volumes[0].Claim.Name != by["PersistentVolumeClaim"].Metadata.Name {
		t.Errorf("journal in %s, mounts %+v, volumes %+v", cfg.journalPath, c.Mounts, pod.Volumes)
	}
	for _, p := range by["Service"].Spec.Ports {
		if ports[p.Name] != p.Port {
			t.Errorf("the service has %s at %d", p.Name, p.Port)
		}
	}
	open := map[string]bool{}
	for _, rule := range by["NetworkPolicy"].Spec.Ingress {
		for _, p := range rule.Ports {
			open[p.Port] = len(rule.From) == 0
		}
	}
	if fmt.Sprint(open) != "map[ingest:true web:false]" || !slices.Contains(by["NetworkPolicy"].Spec.PolicyTypes, "Egress") {
		t.Errorf("open to all: %v", open)
	}
	if len(by) != 5 {
		t.Errorf("%d kinds", len(by))
	}
	// The operator's find the service, and scrape what a relay has, as the jobs that the
	// alerts ask for, whatever the pod is.
	service := by["Service"]
	at := fmt.Sprintf("%s.%s.svc:%d", service.Metadata.Name, service.Metadata.Namespace, ports["web"])
	jobs := map[string]string{}
	for _, m := range manifests(t, "deploy/kubernetes/operator.yml") {
		if m.Metadata.Namespace != service.Metadata.Namespace {
			t.Errorf("%s %s in namespace %s", m.Kind, m.Metadata.Name, m.Metadata.Namespace)
		}
		for _, e := range m.Spec.Endpoints {
			if e.Port != "web" || fmt.Sprint(m.Spec.Selector.Labels) != fmt.Sprint(service.Metadata.Labels) {
				t.Errorf("%s: %+v of %v", m.Metadata.Name, e, m.Spec.Selector)
			}
			served(t, e.Path)
			got, keep := relabeled(labels.FromStrings("__address__", "10.0.0.7:10091", "job", service.Metadata.Name, "instance", "10.0.0.7:10091", "namespace", "relay",
				"pod", "relay-5d9c", "container", "relay", "service", "relay", "endpoint", "web", "node", "n1", "team", "of podTargetLabels"), relabelings(t, e.Relabelings)...)
			if want := labels.FromStrings("__address__", "10.0.0.7:10091", "job", m.Metadata.Name, "instance", at); !keep || !labels.Equal(got, want) {
				t.Errorf("the target of %s is %s, want %s", m.Metadata.Name, got, want)
			}
			if e.HonorLabels != (e.Path == "/metrics") || m.Spec.Native != (e.Path == "/metrics") {
				t.Errorf("%s: honorLabels %v, native histograms %v", e.Path, e.HonorLabels, m.Spec.Native)
			}
			if e.HonorLabels {
				dropsOurs(t, "deploy/kubernetes/operator.yml", relabelings(t, e.MetricRelabelings))
			}
			jobs[got.Get("job")] = e.Path
		}
		for _, sd := range m.Spec.SD {
			path, ok := strings.CutPrefix(sd.URL, "http://"+at)
			if !ok {
				t.Errorf("service discovery at %s", sd.URL)
			}
			served(t, path)
			jobs[m.Spec.JobName] = path
		}
	}
	if want := map[string]string{"relay": "/metrics", "relay-self": "/-/metrics", "relay-edges": "/api/v1/sd?page=up"}; !maps.Equal(jobs, want) {
		t.Errorf("jobs %v, want %v", jobs, want)
	}
}

// manifests are the documents of a file.
func manifests(t *testing.T, file string) (all []manifest) {
	t.Helper()
	for doc := range strings.SplitSeq(read(t, file), "\n---\n") {
		var m manifest
		if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		all = append(all, m)
	}
	return all
}

func relabeled(ls labels.Labels, how ...*relabel.Config) (labels.Labels, bool) {
	b := labels.NewBuilder(ls)
	keep := relabel.ProcessBuilder(b, how...)
	return b.Labels(), keep
}

// relabelings are Prometheus' own of the operator's.
func relabelings(t *testing.T, of []map[string]any) (all []*relabel.Config) {
	t.Helper()
	for _, r := range of {
		c := map[string]any{}
		for key, value := range r {
			c[regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(key, func(s string) string { return "_" + strings.ToLower(s) })] = value
		}
		text, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		one := new(relabel.Config)
		if err := yaml.UnmarshalStrict(text, one); err != nil {
			t.Fatal(err)
		}
		one.NameValidationScheme = model.UTF8Validation
		all = append(all, one)
	}
	return all
}

// dropsOurs fails where an edge could say what the alerts ask of the relay's own jobs,
// or could not say what it may. A series without a job gets that of the scrape before.
func dropsOurs(t *testing.T, where string, of []*relabel.Config) {
	t.Helper()
	for text, want := range map[string]bool{
		`{__name__="up", job="node", instance="a"}`:                   true,
		`{__name__="relay_journal_up", job="node"}`:                   true,
		`{__name__="temperature_celsius", job="relay", instance=""}`:  true,
		`{__name__="up", job="relay", instance=""}`:                   false,
		`{__name__="scrape_samples_scraped", job="relay"}`:            false,
		`{__name__="up", job="relay-self"}`:                           false,
		`{__name__="relay_journal_replayed_ratio", job="relay-self"}`: false,
		`{__name__="up", job="relay-edges", edge="shop-17"}`:          false,
	} {
		ls, err := parser.NewParser(parser.Options{}).ParseMetric(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, kept := relabeled(ls, of...); kept != want {
			t.Errorf("%s: %s is kept: %v", where, text, kept)
		}
	}
}

// Wherever a centre is told to believe the job of what edges push, it is told which jobs
// to drop.
func TestCentresDropOurs(t *testing.T) {
	seen := 0
	for _, file := range []string{"README.md", "monitoring/README.md", "deploy/compose/centre.yml", "statuspage/snippets/centre.yml", "statuspage/snippets/centre-shards.yml"} {
		texts := []string{read(t, file)}
		if strings.HasSuffix(file, ".md") {
			texts = nil
			for _, m := range regexp.MustCompile("(?s)```yaml\n(scrape_configs:.*?)```").FindAllStringSubmatch(read(t, file), -1) {
				texts = append(texts, m[1])
			}
		}
		for _, text := range texts {
			cfg, err := promconfig.Load(text, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for _, job := range cfg.ScrapeConfigs {
				if job.HonorLabels {
					seen++
					dropsOurs(t, file, job.MetricRelabelConfigs)
				}
			}
		}
	}
	if seen < 6 {
		t.Errorf("only %d jobs honor labels", seen)
	}
}

// What deploy/ has is taken by the programs that it is for.
func TestProcessDeploy(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	check := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("Compose", func(t *testing.T) {
		put("relay.rules.yml", read(t, "monitoring/relay.rules.yml"))
		check(t, tool(t, "promtool"), "check", "config", "--lint-fatal", put("centre.yml", read(t, "deploy/compose/centre.yml")))
		check(t, tool(t, "promtool"), "check", "config", "--agent", "--lint-fatal", put("edge.yml", read(t, "deploy/compose/edge.yml")))
	})
	t.Run("Kubernetes", func(t *testing.T) {
		if out := check(t, tool(t, "manifests"), "../../deploy/kubernetes/relay.yml", "../../deploy/kubernetes/operator.yml"); strings.Count(out, "\n") != 8 {
			t.Errorf("read:\n%s", out)
		}
		typo := put("typo.yml", strings.Replace(read(t, "deploy/kubernetes/relay.yml"), "readinessProbe", "readynessProbe", 1))
		if out, err := exec.Command(tool(t, "manifests"), typo).CombinedOutput(); err == nil {
			t.Errorf("a typo is taken:\n%s", out)
		}
	})
	t.Run("Systemd", func(t *testing.T) {
		// The program has to be there.
		service := put("relay.service", strings.Replace(read(t, "deploy/systemd/relay.service"), "/usr/local/bin/relay", relayBinary(t), 1))
		socket := put("relay.socket", read(t, "deploy/systemd/relay.socket"))
		if out := check(t, "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", service, socket); out != "" {
			t.Errorf("systemd-analyze verify:\n%s", out)
		}
		check(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", service)
	})
	// The same files between processes, in a shorter time: what compose.yml promises of
	// an edge that is stopped.
	t.Run("Story", func(t *testing.T) {
		address, edgeAddress, centreAddress := freeAddress(t), freeAddress(t), freeAddress(t)
		base := "http://" + address
		// As in the container there is nothing to write to but the journal's directory.
		start(t, "/usr/bin/env", "-i", "TMPDIR=/nonexistent", relayBinary(t), "--web.listen-address="+address, "--journal.path="+dir+"/journal")
		waitFor(t, "the relay ready", func() bool { return status(base+"/-/ready") == 200 })
		soon := strings.NewReplacer("15s", "1s", "45s", "4s", "30s", "1s", "relay:10091", host(base), "localhost:9090", edgeAddress)
		edge := start(t, tool(t, "prometheus"), "--agent", "--enable-feature=metadata-wal-records", "--config.file="+put("edge-soon.yml", soon.Replace(read(t, "deploy/compose/edge.yml"))),
			"--storage.agent.path="+dir+"/edge", "--web.listen-address="+edgeAddress)
		start(t, tool(t, "prometheus"), "--config.file="+put("centre-soon.yml", soon.Replace(read(t, "deploy/compose/centre.yml"))),
			"--storage.tsdb.path="+dir+"/centre", "--web.listen-address="+centreAddress)
		ask := func(expr string) string {
			var answer struct {
				Data struct{ Result []struct{ Value [2]any } }
			}
			if err := json.Unmarshal([]byte(getPage(t, "http://"+centreAddress+"/api/v1/query?query="+url.QueryEscape(expr))), &answer); err != nil || len(answer.Data.Result) == 0 {
				return ""
			}
			return fmt.Sprint(answer.Data.Result[0].Value[1])
		}
		waitFor(t, "the edge at the centre", func() bool {
			return ask(`up{job="relay-edges",edge="shop-17"}`) == "1" && ask(`count({site="shop-17",job="prometheus"}) > bool 50`) == "1" && ask(`relay_series_live{job="relay-self"} > bool 50`) == "1"
		})
		// What an edge says of the relay's own jobs does not get there.
		for job, body := range map[string]string{"relay-self": "up 0\n", "relay-edges": "up{edge=\"shop-17\"} 1\n", "pump": "up 1\n"} {
			res, err := http.Post(base+"/metrics/job/"+job+"/instance/liar?ttl=1h", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Fatal(res.Status)
			}
		}
		waitFor(t, "what an edge may say", func() bool { return ask(`up{job="pump",instance="liar"}`) == "1" })
		if got := ask(`count(up{job!="pump",instance="liar"})`); got != "" {
			t.Errorf("the centre believes %s of what an edge says of others", got)
		}
		edge.Signal(syscall.SIGKILL)
		waitFor(t, "the edge missing", func() bool {
			return ask(`up{job="relay-edges",edge="shop-17"}`) == "0" && ask(`count({site="shop-17"})`) == ""
		})
		waitFor(t, "an alert", func() bool {
			return strings.Contains(getPage(t, "http://"+centreAddress+"/api/v1/alerts"), `"edge":"shop-17"`)
		})
	})
}
