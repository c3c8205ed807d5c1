package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSampling measures what a centre misses of an edge's samples, with a real
// Prometheus on both sides: the table of the README. RELAY_SAMPLING is for how long,
// as 10m; it says nothing within two minutes.
func TestSampling(t *testing.T) {
	if os.Getenv("RELAY_SAMPLING") == "" {
		t.Skip("set RELAY_SAMPLING=10m, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	length, err := time.ParseDuration(os.Getenv("RELAY_SAMPLING"))
	if err != nil {
		t.Fatal(err)
	}
	// Twelve is no multiple of Prometheus' batch_send_deadline of five seconds: there
	// samples arrive sooner or later after they were taken, in turns.
	intervals := []time.Duration{15 * time.Second, 12 * time.Second}
	deadlines := []time.Duration{5 * time.Second, time.Second}
	ratios := []int{1, 2}
	const targets, phases = 100, 8 // each is scraped at a moment of its own
	// The value of a sample is its number, so that the centre's say which it lacks.
	var mu sync.Mutex
	numbers := map[string]int{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		numbers[r.URL.Path]++
		n := numbers[r.URL.Path]
		mu.Unlock()
		fmt.Fprintf(w, "# TYPE scraped_total counter\nscraped_total %d\n", n)
	}))
	t.Cleanup(srv.Close)
	var centres strings.Builder
	for _, interval := range intervals {
		var scrapes, writes strings.Builder
		for i := range targets {
			fmt.Fprintf(&scrapes, "      - {targets: ['%s'], labels: {__metrics_path__: /%s/%d, instance: 't%d'}}\n", host(srv.URL), interval, i, i)
		}
		for _, deadline := range deadlines {
			base := startBinary(t)
			fmt.Fprintf(&writes, "  - {url: '%s/api/v1/write?ttl=90s', name: d%s, queue_config: {batch_send_deadline: %s}}\n", base, deadline, deadline)
			for _, ratio := range ratios {
				fmt.Fprintf(&centres, `
  - job_name: every-%[1]d-of-%[2]s-%[3]s
    honor_labels: true
    track_timestamps_staleness: true
    scrape_interval: %[4]dms
    static_configs:
`, ratio, interval, deadline, interval.Milliseconds()/int64(ratio))
				for phase := range phases {
					fmt.Fprintf(&centres, "      - {targets: ['%s'], labels: {ratio: '%d', interval: '%s', deadline: '%s', phase: '%d'}}\n", host(base), ratio, interval, deadline, phase)
				}
			}
		}
		start(t, tool(t, "prometheus"), "--agent", "--config.file="+file(t, "agent.yml", fmt.Sprintf("global: {scrape_interval: %s}\nscrape_configs:\n  - job_name: edge\n    static_configs:\n%sremote_write:\n%s", interval, scrapes.String(), writes.String())),
			"--storage.agent.path="+t.TempDir(), "--web.listen-address="+freeAddress(t))
	}
	address := freeAddress(t)
	start(t, tool(t, "prometheus"), "--config.file="+file(t, "centre.yml", "scrape_configs:"+centres.String()), "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+address)
	time.Sleep(length)

	t.Logf("| pushed every | batch_send_deadline | scraped every | samples not seen | scrapes without a new one |")
	t.Logf("|---|---|---|---|---|")
	for _, interval := range intervals {
		for _, ratio := range ratios {
			for _, deadline := range deadlines {
				var answer struct {
					Data struct {
						Result []struct{ Values [][2]any }
					}
				}
				query := fmt.Sprintf(`scraped_total{ratio="%d",interval="%s",deadline="%s"}[%s]`, ratio, interval, deadline, max(length-time.Minute, time.Minute))
				if err := json.Unmarshal([]byte(getPage(t, "http://"+address+"/api/v1/query?query="+url.QueryEscape(query))), &answer); err != nil {
					t.Fatal(err)
				}
				sent, seen, asked := 0, 0, 0
				for _, r := range answer.Data.Result {
					if len(r.Values) < 3 {
						continue
					}
					number := func(i int) int {
						n, err := strconv.Atoi(fmt.Sprint(r.Values[i][1]))
						if err != nil {
							t.Fatal(err)
						}
						return n
					}
					last := len(r.Values) - 1
					sent += number(last) - number(0)
					seen += last
					asked += (number(last) - number(0)) * ratio
				}
				if len(answer.Data.Result) < targets*phases || sent == 0 {
					t.Errorf("%s: %d series with %d samples", query, len(answer.Data.Result), sent)
					continue
				}
				t.Logf("| %s | %s | %s | %.1f %% of %d | %.1f %% |", interval, deadline, interval/time.Duration(ratio),
					100*float64(sent-seen)/float64(sent), sent, 100*float64(asked-seen)/float64(asked))
			}
		}
	}
}
