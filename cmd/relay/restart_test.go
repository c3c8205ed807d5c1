package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// What a series may be after kill -9, when the window of the journal has long passed
// and checkpoints carry it: the window is two seconds here, a checkpoint each.
func TestRestartsAfterTheWindow(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	c, _, restart := startOn(t, t.TempDir(), "--journal.window=2s", "--series.lag-tolerance=1s", "--ha.labels")
	send := func(code int, method, path, body string, header ...string) {
		t.Helper()
		send(t, c.base, code, method, path, body, header...)
	}
	write := func(code int, ttl string, value float64, labels ...string) {
		t.Helper()
		s := prompb.TimeSeries{Samples: []prompb.Sample{{Value: value, Timestamp: time.Now().UnixMilli()}}}
		for i := 0; i < len(labels); i += 2 {
			s.Labels = append(s.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
		}
		raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{s}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		send(code, "POST", "/api/v1/write", string(snappy.Encode(nil, raw)), "X-Relay-TTL", ttl)
	}
	write(204, "24h", 1, "__name__", "lowered")
	write(204, "24h", 1, "__name__", "batch_job_success")
	write(204, "24h", 1, "__name__", "of_a_pair", "__replica__", "a", "cluster", "shop")
	write(202, "24h", 2, "__name__", "of_a_pair", "__replica__", "b", "cluster", "shop")
	send(200, "POST", "/metrics/job/x", "family_a 1\n", "X-Relay-TTL", "24h")
	send(200, "POST", "/metrics/job/x", "family_b 2\n", "X-Relay-TTL", "24h")
	send(200, "PUT", "/metrics/job/gone", "deleted 3\n", "X-Relay-TTL", "24h")
	time.Sleep(2100 * time.Millisecond) // the older ones are in a checkpoint
	write(204, "1s", 2, "__name__", "lowered")
	send(202, "DELETE", "/metrics/job/gone", "")
	for moment := range 5 {
		if moment > 0 {
			time.Sleep(1300 * time.Millisecond)
		}
		restart(syscall.SIGKILL)
		page := getPage(t, c.base+"/metrics")
		for _, want := range []string{"batch_job_success{", `of_a_pair{cluster="shop",instance=""} 1`, `family_a{job="x",instance=""} 1`, `family_b{job="x",instance=""} 2`} {
			if !strings.Contains(page, want) {
				t.Errorf("restart %d: the page lacks %s", moment, want)
			}
		}
		if strings.Contains(page, "deleted{") {
			t.Errorf("restart %d: what was deleted is back", moment)
		}
		if strings.Contains(page, `lowered{instance=""} 1`) || moment > 0 && strings.Contains(page, "lowered{") {
			t.Errorf("restart %d: a series whose TTL was lowered, and has passed, is back", moment)
		}
		// The pair's election is remembered: the other replica is not listened to.
		write(202, "24h", 2, "__name__", "of_a_pair", "__replica__", "b", "cluster", "shop")
		write(204, "24h", 1, "__name__", "of_a_pair", "__replica__", "a", "cluster", "shop")
		if t.Failed() {
			t.Fatalf("the page is\n%s", page)
		}
	}
}

// Everything but the window is in checkpoints, and the files of one of them are
// overwritten, whichever: what lives longer than the window is still shown, and the loss
// is said.
func TestCheckpointIsDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	dir := t.TempDir()
	c, p, restart := startOn(t, dir, "--journal.window=2s")
	pushFor := func(ttl string) {
		t.Helper()
		send(t, c.base, 200, "POST", "/metrics/job/batch/ttl/"+ttl, "batch_job_success 1\n", "X-Relay-TTL", ttl)
	}
	pushFor("24h")
	const want = `batch_job_success{job="batch",ttl="24h",instance=""} 1`
	for _, bucket := range []string{"OBJ_relay-checkpoints", "OBJ_relay-checkpoints-b"} {
		for range 3 { // checkpoints that the damage has a part of, each after something happened
			written := own(t, c.base, "relay_journal_checkpoint_timestamp_seconds")
			waitFor(t, "a checkpoint", func() bool {
				pushFor("1s")
				time.Sleep(100 * time.Millisecond)
				return own(t, c.base, "relay_journal_checkpoint_timestamp_seconds") > written
			})
		}
		(*p).Signal(syscall.SIGKILL)
		(*p).wait(t)
		files, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", bucket, "msgs", "*.blk"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, make([]byte, info.Size()), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		restart(syscall.SIGKILL)
		if page := getPage(t, c.base+"/metrics"); !strings.Contains(page, want) {
			t.Fatalf("%s is damaged, and the page lacks %s:\n%s\n%s", bucket, want, page, (*p).logs.String())
		}
		if n := own(t, c.base, "relay_journal_damaged_records_total"); n == 0 {
			t.Errorf("%s is damaged, and nothing says so:\n%s", bucket, (*p).logs.String())
		}
	}
}

// While the journal is replayed scrapes wait until just before their timeout, and
// pushes; then there is a whole page, or 503 and no page at all.
func TestScrapesAndPushesWaitForTheReplay(t *testing.T) {
	dir := t.TempDir()
	base, r := startRelay(t, "--journal.path="+dir)
	const series = 3000
	for i := range series {
		if i%10 == 0 {
			body := new(strings.Builder)
			for k := range 10 {
				fmt.Fprintf(body, "replayed_%d 1\n", i+k)
			}
			res, err := http.Post(fmt.Sprintf("%s/metrics/job/j%d", base, i), "text/plain", strings.NewReader(body.String()))
			if err != nil || res.StatusCode != 200 {
				t.Fatal(err, res)
			}
			res.Body.Close()
		}
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	r = unstarted(t, "--journal.path="+dir)
	defer r.close()
	srv := httptest.NewServer(r.handler)
	defer srv.Close()
	type answer struct {
		code int
		body string
		took time.Duration
	}
	ask := func(method, path, timeout string, body []byte) <-chan answer {
		out := make(chan answer, 1)
		go func() {
			begun := time.Now()
			req, err := http.NewRequest(method, srv.URL+path, bytes.NewReader(body))
			if err != nil {
				panic(err)
			}
			req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", timeout)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				out <- answer{body: err.Error()}
				return
			}
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				text = []byte(err.Error())
			}
			out <- answer{res.StatusCode, string(text), time.Since(begun)}
		}()
		return out
	}
	hasty, patient := ask("GET", "/metrics", "1", nil), ask("GET", "/metrics", "60", nil)
	push := ask("POST", "/api/v1/write", "", pushBody(t, "pushed_meanwhile", 1))
	if a := <-hasty; a.code != 503 || a.took > 30*time.Second || strings.Contains(a.body, "replayed_") {
		t.Errorf("a scrape with a timeout of one second is answered %d after %s: %.200q", a.code, a.took, a.body)
	}
	select {
	case a := <-patient:
		t.Fatalf("a scrape did not wait: %d %.200q", a.code, a.body)
	case a := <-push:
		t.Fatalf("a push did not wait: %d %.200q", a.code, a.body)
	case <-time.After(500 * time.Millisecond):
	}
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := <-patient; a.code != 200 || strings.Count(a.body, "\nreplayed_") != series {
		t.Errorf("the scrape that waited is answered %d, with %d series of %d", a.code, strings.Count(a.body, "\nreplayed_"), series)
	}
	if a := <-push; a.code != 204 {
		t.Errorf("the push that waited is answered %d: %s", a.code, a.body)
	}
}

// A journal at --journal.max-bytes refuses, writes the checkpoints that free it, and
// goes on: the window, at whose ends they are written else, is an hour here.
func TestFullJournalFreesItself(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	c, p, restart := startOn(t, t.TempDir(), "--journal.max-bytes=16MiB", "--journal.window=1h")
	taken := 0
	for deadline := time.Now().Add(time.Minute); taken < 40; {
		if c.push(1<<20) == 204 {
			taken++
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d pushes of 1 MiB are taken in a minute, where 16 fit", taken)
		}
	}
	if logs := (*p).logs.String(); !strings.Contains(logs, "--journal.max-bytes") {
		t.Errorf("nothing says which limit it was:\n%s", logs)
	}
	c.check("after twice as much as fits")
	restart(syscall.SIGKILL)
	c.check("after kill -9")
}

// Nothing is forgotten before all that was taken while it was remembered is applied:
// while a journal is replayed, and for as long as another relay may have taken more.
func TestSweepWaitsForOtherRelays(t *testing.T) {
	for _, c := range []struct {
		journal      string
		replayed, ok bool
	}{
		{"off", true, true},
		{"off", false, false},
		{"nats", false, false},
		{"nats", true, false}, // its cluster does not answer, and it has seen nothing
	} {
		flags := []string{"--journal=" + c.journal}
		if c.journal == "nats" {
			flags = append(flags, "--journal.nats-url=nats://"+freeAddress(t))
		}
		r := unstarted(t, flags...)
		if c.replayed {
			close(r.replayed)
		}
		now := time.Now()
		if at, ok := r.sweepTime(now); ok != c.ok || ok && at != now {
			t.Errorf("%+v: swept %v, %s before", c, ok, now.Sub(at))
		}
		r.close()
	}
}
