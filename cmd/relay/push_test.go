package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// TestProcessPush points what pushes to a Pushgateway at the relay's binary.
func TestProcessPush(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names")
	}
	t.Run("Pushgateway", besideAPushgateway)
	t.Run("Python", func(t *testing.T) {
		base := startBinary(t)
		out, err := exec.Command("/usr/bin/python3", "-c", `
import sys
from prometheus_client import CollectorRegistry, Gauge, Histogram, push_to_gateway, pushadd_to_gateway, delete_from_gateway
url = sys.argv[1]
r = CollectorRegistry()
Gauge('job_last_success_unixtime', 'Last time a batch job successfully finished', registry=r).set(42)
push_to_gateway(url, job='batch/A', registry=r)
more = CollectorRegistry()
Histogram('job_seconds', 'How long', registry=more).observe(3)
pushadd_to_gateway(url, job='batch/A', registry=more)
push_to_gateway(url, job='gone', registry=r)
delete_from_gateway(url, job='gone')
`, base).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s (apt-get install python3-prometheus-client)", err, out)
		}
		waitForPage(t, base, `job_last_success_unixtime{job="batch/A",instance=""} 42`, `job_seconds_count{job="batch/A",instance=""} 1`, "# TYPE job_seconds histogram")
		if page := getPage(t, base+"/metrics"); strings.Contains(page, `job="gone"`) {
			t.Error("a group that was deleted is shown")
		}
	})
	t.Run("Node", func(t *testing.T) {
		base := startBinary(t)
		modules := filepath.Dir(tool(t, "node/node_modules"))
		cmd := exec.Command("node", "-e", `
const client = require('prom-client');
new client.Counter({name: 'jobs_total', help: 'Jobs'}).inc(7);
const gateway = new client.Pushgateway(process.argv[1], {timeout: 5000});
(async () => {
  await gateway.push({jobName: 'node', groupings: {shop: '17'}});
  await gateway.pushAdd({jobName: 'node', groupings: {shop: '18'}});
  await gateway.delete({jobName: 'node', groupings: {shop: '18'}});
})().catch(e => { console.error(e); process.exit(1); });
`, base)
		cmd.Dir = modules
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		waitForPage(t, base, `jobs_total{job="node",shop="17",instance=""} 7`)
	})
	t.Run("curl", func(t *testing.T) {
		base := startBinary(t)
		sh := func(script string) string {
			t.Helper()
			out, err := exec.Command("sh", "-euc", strings.ReplaceAll(script, "http://pushgateway.example.org:9091", base)).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return string(out)
		}
		// As in our own README.
		try := regexp.MustCompile("(?s)```sh\n(echo .*?)```").FindStringSubmatch(read(t, "README.md"))
		if try == nil {
			t.Fatal("nothing to try in the README")
		}
		if out := sh(strings.NewReplacer("http://localhost:10091", base, "ttl=30s", "ttl=10s").Replace(try[1])); !strings.Contains(out, `temperature_celsius{job="shop",room="kitchen",instance=""} 21.5`) {
			t.Errorf("what the README tries shows\n%s", out)
		}
		waitFor(t, "what was tried gone", func() bool { return !strings.Contains(getPage(t, base+"/metrics"), "kitchen") })
		// As in the README of the Pushgateway.
		sh(`echo "some_metric 3.14" | curl -sf --data-binary @- http://pushgateway.example.org:9091/metrics/job/some_job`)
		sh(`cat <<EOF | curl -sf --data-binary @- http://pushgateway.example.org:9091/metrics/job/some_job/instance/some_instance
# TYPE some_metric counter
some_metric{label="val1"} 42
# TYPE another_metric gauge
# HELP another_metric Just an example.
another_metric 2398.283
EOF`)
		// As in that of the fork with timeouts.
		sh(`cat <<EOF | curl -sf --data-binary @- http://pushgateway.example.org:9091/metrics/job/timeouts
#!set stale_timeout = 10
short_lived 1
#!set stale_timeout = null
long_lived 1
EOF`)
		waitForPage(t, base, `short_lived{`)
		pushed := time.Now()
		waitForPage(t, base, `some_metric{job="some_job",instance=""} 3.14`, `some_metric{instance="some_instance",job="some_job",label="val1"} 42`,
			`another_metric{instance="some_instance",job="some_job"} 2398.283`, "# HELP another_metric Just an example.", `long_lived{`)
		sh(`curl -sf -X DELETE http://pushgateway.example.org:9091/metrics/job/some_job/instance/some_instance`)
		// Nobody pushes or looks; what has timed out is not there.
		time.Sleep(time.Until(pushed.Add(10100 * time.Millisecond)))
		page := getPage(t, base+"/metrics")
		if strings.Contains(page, "short_lived") || strings.Contains(page, "another_metric") || !strings.Contains(page, `long_lived{job="timeouts",instance=""} 1`) {
			t.Errorf("the page is\n%s", page)
		}
		if out := sh(`curl -sf http://pushgateway.example.org:9091/api/v1/metrics`); !strings.Contains(out, `"long_lived":{"time_stamp":`) || !strings.Contains(out, `"labels":{"job":"timeouts"}`) {
			t.Errorf("/api/v1/metrics: %s", out)
		}
	})
}

// The same pushes end in the same page, here and at a real Pushgateway.
func besideAPushgateway(t *testing.T) {
	base := startBinary(t, "--push.ttl=inf")
	address := freeAddress(t)
	start(t, "/usr/bin/prometheus-pushgateway", "--web.listen-address="+address, "--push.disable-consistency-check",
		"--persistence.file="+filepath.Join(t.TempDir(), "data")) // Debian's own is one for all
	theirs := "http://" + address
	waitFor(t, "the Pushgateway", func() bool { return status(theirs+"/-/ready") == 200 })
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	// A family has one type everywhere: of two, the pages show what came first and
	// what most series are.
	families := []string{
		"# TYPE c%[1]d_total counter\n# HELP c%[1]d_total Help of c.\nc%[1]d_total{l=\"%[2]d\"} %[3]d\n",
		"# TYPE g%[1]d gauge\ng%[1]d{l=\"%[2]d\"} %[3]d\ng%[1]d{l=\"more\",instance=\"body\"} %[3]d\n",
		"u%[1]d{job=\"overridden\"} %[3]d\n",
		"# TYPE h%[1]d histogram\nh%[1]d_bucket{le=\"0.5\"} 1\nh%[1]d_bucket{le=\"+Inf\"} %[3]d\nh%[1]d_sum 4\nh%[1]d_count %[3]d\n",
		"# TYPE s%[1]d summary\ns%[1]d{quantile=\"0.9\"} %[3]d\ns%[1]d_sum 4\ns%[1]d_count 2\n",
		"n%[1]d NaN\n",
	}
	bad := []string{"a{ 1\n", "a x\n", "# TYPE a nonsense\na 1\n", "{} 1\n", "a{l=x} 1\n", "1a 2\n"}
	groups := []string{"/metrics/job/x", "/metrics/job/x/instance/i", "/metrics/job@base64/eC95", "/metrics/job/y/shop/1/floor/2", "/metrics/job/y/floor/2/shop/1", "/metrics/job/y/shop@base64/="}
	compared := 0
	same := func() bool {
		var ours, its []string
		for range 100 { // the Pushgateway queues what it is sent
			ours, its = parsed(t, getPage(t, base+"/metrics")), parsed(t, getPage(t, theirs+"/metrics"))
			if slices.Equal(ours, its) {
				compared += len(ours)
				return true
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("seed %d: ours alone: %q; theirs alone: %q", seed, without(ours, its), without(its, ours))
		return false
	}
	for i := range 1000 {
		if i%50 == 49 && !same() {
			return
		}
		method := []string{"PUT", "POST", "POST", "DELETE"}[r.IntN(4)]
		path := groups[r.IntN(len(groups))]
		var body strings.Builder
		for _, f := range r.Perm(len(families))[:r.IntN(4)] {
			fmt.Fprintf(&body, families[f], r.IntN(3), r.IntN(3), i)
		}
		if r.IntN(6) == 0 {
			body.WriteString(bad[r.IntN(len(bad))])
		}
		if r.IntN(60) == 0 {
			path += "/odd"
		}
		var codes [2]int
		for k, to := range []string{base, theirs} {
			req, err := http.NewRequest(method, to+path, strings.NewReader(body.String()))
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			codes[k] = res.StatusCode
		}
		if (codes[0] < 300) != (codes[1] < 300) {
			t.Fatalf("seed %d, push %d: %s %s is answered %d, by the Pushgateway %d:\n%s", seed, i, method, path, codes[0], codes[1], body.String())
		}
	}
	http.DefaultClient.CloseIdleConnections()
	same()
	if compared < 100 {
		t.Errorf("only %d lines were compared", compared)
	}
	ours, its := groupsOf(t, base), groupsOf(t, theirs)
	if len(its) == 0 || ours != its {
		t.Errorf("seed %d: /api/v1/metrics is\n%s\nthe Pushgateway's\n%s", seed, ours, its)
	}
	// And a relay that takes over what the Pushgateway has is no different.
	do := func(method, group, body string) {
		t.Helper()
		for _, to := range []string{base, theirs} {
			req, err := http.NewRequest(method, to+"/metrics/job@base64/"+group, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil || res.StatusCode >= 300 {
				t.Fatal(res, err)
			}
			res.Body.Close()
		}
	}
	do("PUT", "L3Zhci90bXA/x/%20y", "# HELP escaped A \\\\ and\\na line.\n# TYPE escaped gauge\nescaped{l=\"a \\\"b\\\" \\\\ \\n ü \t \u0001 \u007f\"} -Inf\n")
	http.DefaultClient.CloseIdleConnections()
	same()
	heir := startBinary(t)
	out, err := exec.Command("../../scripts/take-over-groups", theirs+"/", heir+"/", "24h").CombinedOutput()
	if want := fmt.Sprintf("%d groups\n", strings.Count(groupsOf(t, theirs), "last_push_successful")); err != nil || string(out) != want {
		t.Fatalf("%v: %s, want %s", err, out, want)
	}
	if out, err := exec.Command("../../scripts/take-over-groups", "http://127.0.0.1:1", heir).CombinedOutput(); err == nil || !strings.Contains(string(out), "127.0.0.1") {
		t.Errorf("without a Pushgateway: %v: %q", err, out)
	}
	base = heir
	same()
	if got, want := groupsOf(t, heir), groupsOf(t, theirs); got != want {
		t.Errorf("seed %d: taken over:\n%s\nfrom\n%s", seed, got, want)
	}
}

// groupsOf is what /api/v1/metrics says, in one order, without times.
func groupsOf(t *testing.T, base string) string {
	t.Helper()
	var answer struct {
		Status string
		Data   []map[string]any
	}
	if err := json.Unmarshal([]byte(getPage(t, base+"/api/v1/metrics")), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s/api/v1/metrics: %v, status %q", base, err, answer.Status)
	}
	var groups []string
	for _, group := range answer.Data {
		for name, family := range group {
			f, ok := family.(map[string]any)
			if !ok || name == "labels" {
				continue
			}
			if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(f["time_stamp"])); err != nil || time.Since(at) > time.Hour {
				t.Errorf("%s: time_stamp %v", name, f["time_stamp"])
			}
			delete(f, "time_stamp")
			metrics := f["metrics"].([]any)
			if strings.HasPrefix(name, "push_") {
				metrics[0].(map[string]any)["value"] = "a time"
			}
			slices.SortFunc(metrics, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		text, err := json.MarshalIndent(group, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, string(text))
	}
	slices.Sort(groups)
	return strings.Join(groups, "\n")
}

func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// parsed reads a page as Prometheus does: series with their values, and types. A
// gateway's own metrics and times are left out.
func parsed(t *testing.T, page string) []string {
	t.Helper()
	own := func(name string) bool {
		return slices.ContainsFunc([]string{"go_", "process_", "pushgateway_", "push_", "promhttp_"}, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	out := map[string]bool{}
	p := textparse.NewPromParser([]byte(page), labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if err == io.EOF {
			return slices.Sorted(maps.Keys(out))
		}
		if err != nil {
			t.Fatal(err)
		}
		switch entry {
		case textparse.EntrySeries:
			_, _, v := p.Series()
			var l labels.Labels
			p.Labels(&l)
			if !own(l.Get("__name__")) {
				out[fmt.Sprint(l.WithoutEmpty(), " ", v)] = true // an empty label is none
			}
		case textparse.EntryType:
			name, kind := p.Type()
			if !own(string(name)) && kind != "unknown" {
				out[fmt.Sprintf("%s is a %s", name, kind)] = true
			}
		}
	}
}

// A hundred clients with 15,000 series each push at once: each costs its own push,
// not all that is held. The Pushgateway needs minutes there (its issue 313).
func BenchmarkPushAtOnce(b *testing.B) {
	base, _ := startRelay(b, "--journal.path="+b.TempDir())
	bodies := make([][]byte, 100)
	for i := range bodies {
		var body bytes.Buffer
		for j := range 15_000 {
			fmt.Fprintf(&body, "metric_%d{l=\"%d\"} %d\n", j%100, j, i)
		}
		bodies[i] = body.Bytes()
	}
	cpu := func() time.Duration { // of clients and relay alike; a busy machine changes it little
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := cpu()
	defer func() { b.ReportMetric((cpu()-before).Seconds()/float64(b.N), "cpu-s/op") }()
	for b.Loop() {
		var mu sync.Mutex
		var took []time.Duration
		var all sync.WaitGroup
		for i, body := range bodies {
			all.Go(func() {
				begun := time.Now()
				res, err := http.Post(fmt.Sprintf("%s/metrics/job/j%d", base, i), "text/plain", bytes.NewReader(body))
				if err != nil || res.StatusCode != 200 {
					b.Error(err, res)
					return
				}
				res.Body.Close()
				mu.Lock()
				took = append(took, time.Since(begun))
				mu.Unlock()
			})
		}
		all.Wait()
		slices.Sort(took)
		if len(took) > 0 {
			b.ReportMetric(took[len(took)*99/100].Seconds(), "p99-s")
		}
	}
}

// What was pushed to groups outlives a restart, with a checkpoint at any moment or
// none; what was deleted stays so.
func TestGroupsOutliveRestarts(t *testing.T) {
	for checkpoint := range 6 {
		path := t.TempDir()
		var base string
		var r *relay
		restart := func() {
			t.Helper()
			if r != nil {
				if err := r.close(); err != nil {
					t.Fatal(err)
				}
			}
			base, r = startRelay(t, "--journal.path="+path)
		}
		do := func(method, group, body string) {
			t.Helper()
			req, err := http.NewRequest(method, base+"/metrics/job/"+group, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Close = true
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode >= 300 {
				t.Fatalf("%s %s: %d", method, group, res.StatusCode)
			}
		}
		restart()
		steps := []func(){
			func() { do("POST", "x", "a 1\n") },
			func() { do("POST", "x", "b 2\n") },
			func() { do("PUT", "gone", "#!set stale_timeout = null\na 3\n") },
			func() { do("DELETE", "gone", "") },
			func() { do("PUT", "x?ttl=24h", "b 4\nc 5\n") },
		}
		for i, step := range steps {
			if i == checkpoint {
				if err := r.journal.Checkpoint(t.Context(), r.dump); err != nil {
					t.Fatal(err)
				}
			}
			step()
		}
		want := []string{`{__name__="b", job="x"} 4`, `{__name__="c", job="x"} 5`}
		for round := range 3 {
			if got := parsed(t, getPage(t, base+"/metrics")); !slices.Equal(got, want) {
				t.Errorf("checkpoint at %d, restart %d: %q, want %q", checkpoint, round, got, want)
			}
			if round == 1 {
				if err := r.journal.Checkpoint(t.Context(), r.dump); err != nil {
					t.Fatal(err)
				}
			}
			restart()
		}
	}
}

// A wipe ends all groups and nothing else, and only where the admin API is on.
func TestWipe(t *testing.T) {
	do := func(method, url, body string) int {
		t.Helper()
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for flag, want := range map[string]int{"--no-web.enable-admin-api": 403, "--web.enable-admin-api": 202} {
		base, _ := startRelay(t, flag)
		do("PUT", base+"/metrics/job/x", "a 1\n")
		do("POST", base+"/metrics/job/y/shop/1", "b 1\n")
		pushOne(t, base, "written", 1)
		if code := do("GET", base+"/api/v1/admin/wipe", ""); code != 405 {
			t.Errorf("GET: %d", code)
		}
		if code := do("PUT", base+"/api/v1/admin/wipe", ""); code != want {
			t.Errorf("%s: %d, want %d", flag, code, want)
		}
		page := getPage(t, base+"/metrics")
		for _, pushed := range []string{`a{job="x"`, `b{job="y"`, "push_time_seconds{"} {
			if strings.Contains(page, pushed) != (want == 403) {
				t.Errorf("%s: %s is shown, or not:\n%s", flag, pushed, page)
			}
		}
		if !strings.Contains(page, "written{") {
			t.Errorf("%s: what was written is gone", flag)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Who comes from a Pushgateway is told once that nothing stays for ever.
func TestPushWithoutTTLIsLoggedOnce(t *testing.T) {
	for _, c := range []struct {
		flags   []string
		headers [2]string
		want    int
	}{{nil, [2]string{"X", "-"}, 1}, {nil, [2]string{"X-Relay-TTL", "90s"}, 0}, {[]string{"--push.ttl=inf"}, [2]string{"X", "-"}, 0}} {
		var logs lockedBuffer
		cfg, _, err := parseFlags(append([]string{"--journal=off"}, c.flags...), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		r, err := newRelay(cfg, slog.New(slog.NewTextHandler(&logs, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			req := httptest.NewRequest("PUT", "/metrics/job/x", strings.NewReader("a 1\n"))
			req.Header.Set(c.headers[0], c.headers[1])
			w := httptest.NewRecorder()
			if r.handler.ServeHTTP(w, req); w.Code != 200 {
				t.Fatal(w.Code, w.Body)
			}
		}
		if got := strings.Count(logs.String(), "--push.ttl=inf"); got != c.want {
			t.Errorf("%v %v: said %d times, want %d:\n%s", c.flags, c.headers, got, c.want, logs.String())
		}
		r.close()
	}
}
