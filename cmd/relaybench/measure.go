package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// A report is what one run measured. Durations are in the unit of their name.
type report struct {
	Go          string `json:"go"`
	CPUs        int    `json:"cpus"`
	Series      int    `json:"series"`
	Labels      int    `json:"labels"`
	Protocol    int    `json:"protocol"`
	Order       string `json:"order"`
	Connections int    `json:"connections"`
	Batch       int    `json:"batch"`

	First  round   `json:"first"`  // every series is new
	Steady []round `json:"steady"` // then round by round
	Median round   `json:"steady_median"`

	ResidentBytes          int64   `json:"resident_bytes"`
	ResidentBytesPerSeries float64 `json:"resident_bytes_per_series"`

	Scrapes []scrapeReport `json:"scrapes"`

	Pages *pagesReport `json:"edge_pages,omitempty"`

	Idle     *latency `json:"push_idle,omitempty"`
	Scraping *latency `json:"push_while_scraping,omitempty"`
}

type round struct {
	SamplesPerSecond float64 `json:"samples_per_second"`
	CPUNanos         float64 `json:"server_cpu_ns_per_sample"`
	ResidentBytes    int64   `json:"resident_bytes"` // after it, and after the pause
}

// A pagesReport is what one round through the pages of all edges cost.
type pagesReport struct {
	Edges       int     `json:"edges"`
	CPUSeconds  float64 `json:"server_cpu_seconds"`
	WallSeconds float64 `json:"wall_seconds"`
	P99MS       float64 `json:"p99_ms"` // of one page
}

type scrapeReport struct {
	Format      string  `json:"format"`
	CPUSeconds  float64 `json:"server_cpu_seconds"`
	WallSeconds float64 `json:"wall_seconds"`
	FirstByteMS float64 `json:"first_byte_ms"`
	Bytes       int64   `json:"bytes"`
	Lines       int64   `json:"lines"`
	GrowthBytes int64   `json:"memory_growth_bytes"`
}

type latency struct {
	Requests int     `json:"requests"`
	P50MS    float64 `json:"p50_ms"`
	P99MS    float64 `json:"p99_ms"`
}

func measure(ctx context.Context, c *config, progress io.Writer) (*report, error) {
	r := &report{Go: runtime.Version(), CPUs: runtime.NumCPU(), Series: c.Series, Labels: c.Labels, Protocol: c.Protocol, Order: c.Order, Connections: c.Connections, Batch: c.Batch}
	p := process(c.PID)
	f := &fleet{series: c.Series, labels: c.Labels}
	rng := rand.New(rand.NewPCG(1, 2))
	var series []int32
	for n := range c.Rounds + 1 {
		series = order(c.Order, c.Series, rng, series)
		if c.Churn {
			f.generation = n
		}
		got, err := sendRound(ctx, c, f, series, p)
		if err != nil {
			return nil, err
		}
		if c.Pause > 0 {
			select {
			case <-time.After(c.Pause):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		got.ResidentBytes, _ = p.resident()
		fmt.Fprintf(progress, "round %d of %d: %.0f samples/s, %.0f ns of server CPU a sample\n", n, c.Rounds, got.SamplesPerSecond, got.CPUNanos)
		if n == 0 {
			r.First = got
		} else {
			r.Steady = append(r.Steady, got)
		}
	}
	if len(r.Steady) > 0 {
		r.Median = round{
			median(r.Steady, func(x round) float64 { return x.SamplesPerSecond }),
			median(r.Steady, func(x round) float64 { return x.CPUNanos }),
			int64(median(r.Steady, func(x round) float64 { return float64(x.ResidentBytes) })),
		}
	}
	r.ResidentBytes, _ = p.resident()
	r.ResidentBytesPerSeries = float64(r.ResidentBytes) / float64(c.Series)
	if c.ScrapeURL != "" {
		for _, format := range c.Formats {
			s, err := scrapeFormat(ctx, c, format, p)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(progress, "scrape %s: %.2f s CPU, %.2f s wall\n", format, s.CPUSeconds, s.WallSeconds)
			r.Scrapes = append(r.Scrapes, s)
		}
	}
	if c.ScrapeURL != "" && c.Edges > 0 {
		var err error
		if r.Pages, err = scrapePages(ctx, c, p); err != nil {
			return nil, err
		}
	}
	if c.Latency > 0 && len(r.Steady) > 0 {
		if err := measureLatency(ctx, c, f, series, r, progress); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func median[T any](list []T, of func(T) float64) float64 {
	v := make([]float64, len(list))
	for i, x := range list {
		v[i] = of(x)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// aheadSamples is how many samples' bodies are made before any of them is sent.
const aheadSamples = 1_000_000

// sendRound sends every series once. Bodies are made ahead, and nothing is sent
// meanwhile: senders are on other machines where it matters, and their work on this
// one would be measured as the server's, by what it takes from the processor's caches.
func sendRound(ctx context.Context, c *config, f *fleet, series []int32, p process) (round, error) {
	now := time.Now().UnixMilli()
	cpu := p.cpu()
	var sending time.Duration
	ahead := max(1, aheadSamples/c.Batch) * c.Batch
	for from := 0; from < len(series); from += ahead {
		bodies, err := encodeAll(ctx, c, f, series[from:min(from+ahead, len(series))], now)
		if err != nil {
			return round{}, err
		}
		begun := time.Now()
		err = parallel(ctx, c.Connections, len(bodies), func() func(int) error {
			return func(i int) error { return post(ctx, c, edgeName(c, from+i*c.Batch), bodies[i]) }
		})
		if err != nil {
			return round{}, err
		}
		sending += time.Since(begun)
	}
	return round{
		SamplesPerSecond: float64(len(series)) / sending.Seconds(),
		CPUNanos:         float64(p.cpu()-cpu) / float64(len(series)),
	}, nil
}

// encodeAll makes the bodies of these series.
func encodeAll(ctx context.Context, c *config, f *fleet, series []int32, now int64) ([][]byte, error) {
	bodies := make([][]byte, (len(series)+c.Batch-1)/c.Batch)
	err := parallel(ctx, runtime.NumCPU(), len(bodies), func() func(int) error {
		e := &encoder{fleet: f, protocol: c.Protocol}
		return func(i int) error {
			bodies[i] = slices.Clone(e.body(series[i*c.Batch:min((i+1)*c.Batch, len(series))], now))
			return nil
		}
	})
	return bodies, err
}

// parallel has workers do what there is to do, numbered from 0, until one fails.
func parallel(ctx context.Context, workers, n int, worker func() (do func(i int) error)) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		do := worker()
		g.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := do(i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}, Timeout: 5 * time.Minute}

// edgeName is the edge of which the series from this one on are.
func edgeName(c *config, from int) string {
	if c.Edges == 0 {
		return ""
	}
	return fmt.Sprintf("edge-%05d", from/c.Batch+1)
}

// post pushes a body, as an edge where one is named.
func post(ctx context.Context, c *config, edge string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.WriteURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("User-Agent", "relaybench")
	if c.Protocol == 2 {
		req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		req.Header.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
	} else {
		req.Header.Set("Content-Type", "application/x-protobuf")
		req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	}
	if edge != "" {
		req.Header.Set("X-Relay-Edge", edge)
	}
	for k, v := range c.Headers {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("push: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

var accepts = map[string]string{
	"text":        "text/plain;version=0.0.4",
	"openmetrics": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
	"protobuf":    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
}

func scrapeFormat(ctx context.Context, c *config, format string, p process) (scrapeReport, error) {
	var runs []scrapeReport
	for range c.Scrapes {
		s, err := scrape(ctx, c.ScrapeURL, format, p)
		if err != nil {
			return s, err
		}
		runs = append(runs, s)
	}
	if len(runs) == 0 {
		return scrapeReport{Format: format}, nil
	}
	last := runs[len(runs)-1]
	last.CPUSeconds = median(runs, func(s scrapeReport) float64 { return s.CPUSeconds })
	last.WallSeconds = median(runs, func(s scrapeReport) float64 { return s.WallSeconds })
	last.FirstByteMS = median(runs, func(s scrapeReport) float64 { return s.FirstByteMS })
	last.GrowthBytes = slices.MaxFunc(runs, func(a, b scrapeReport) int { return cmp.Compare(a.GrowthBytes, b.GrowthBytes) }).GrowthBytes
	return last, nil
}

// scrapePages asks for the page of each edge once.
func scrapePages(ctx context.Context, c *config, p process) (*pagesReport, error) {
	r := &pagesReport{Edges: (c.Series + c.Batch - 1) / c.Batch}
	took := make([]float64, r.Edges)
	cpu, begun := p.cpu(), time.Now()
	for i := range took {
		edge := edgeName(c, i*c.Batch)
		s, err := scrape(ctx, c.ScrapeURL+"?edge="+edge, "text+gzip", 0)
		if err != nil {
			return nil, err
		}
		if s.Lines == 0 {
			return nil, fmt.Errorf("the page of %s is empty", edge)
		}
		took[i] = s.WallSeconds * 1000
	}
	r.WallSeconds, r.CPUSeconds = time.Since(begun).Seconds(), (p.cpu() - cpu).Seconds()
	slices.Sort(took)
	r.P99MS = took[len(took)*99/100]
	return r, nil
}

// parseFormat reads the name of a format, such as text+gzip.
func parseFormat(format string) (accept, encoding string, err error) {
	kind, encoding, _ := strings.Cut(format, "+")
	accept, ok := accepts[kind]
	if !ok || !slices.Contains([]string{"", "gzip", "zstd"}, encoding) || strings.HasSuffix(format, "+") {
		return "", "", fmt.Errorf("unknown format %q: text, openmetrics or protobuf, as it is or with +gzip or +zstd", format)
	}
	return accept, encoding, nil
}

// ask asks for a page.
func ask(ctx context.Context, url, format string) (*http.Response, error) {
	accept, encoding, err := parseFormat(format)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "120")
	req.Header.Set("Accept-Encoding", cmp.Or(encoding, "identity"))
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("scrape: %s", resp.Status)
	}
	return resp, nil
}

// read asks for a page and does nothing with it.
func read(ctx context.Context, url, format string) error {
	resp, err := ask(ctx, url, format)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
	return err
}

func scrape(ctx context.Context, url, format string, p process) (scrapeReport, error) {
	s := scrapeReport{Format: format}
	p.resetPeak()
	before, _ := p.resident()
	cpu, begun := p.cpu(), time.Now()
	resp, err := ask(ctx, url, format)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil && !errors.Is(err, io.EOF) {
		return s, err
	}
	s.FirstByteMS = float64(time.Since(begun).Microseconds()) / 1000
	var kept io.Writer = io.Discard
	var page bytes.Buffer
	_, encoding, _ := strings.Cut(format, "+")
	if encoding != "" {
		kept = &page // uncompressed below, after the clock has stopped
	}
	n := &counter{}
	buf := make([]byte, 1<<20)
	kept.Write(first)
	n.Write(first)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(kept, n)}, resp.Body, buf); err != nil {
		return s, err
	}
	s.WallSeconds = time.Since(begun).Seconds()
	s.CPUSeconds = (p.cpu() - cpu).Seconds()
	_, peak := p.resident()
	s.GrowthBytes = max(0, peak-before)
	s.Bytes, s.Lines = n.bytes, n.lines
	if s.Lines, err = lines(encoding, &page, n.lines); err != nil {
		return s, err
	}
	return s, nil
}

// lines checks that a compressed page is whole and counts its lines.
func lines(encoding string, page io.Reader, plain int64) (int64, error) {
	var r io.Reader
	switch encoding {
	case "gzip":
		z, err := gzip.NewReader(page)
		if err != nil {
			return 0, err
		}
		r = z
	case "zstd":
		z, err := zstd.NewReader(page)
		if err != nil {
			return 0, err
		}
		defer z.Close()
		r = z
	default:
		return plain, nil
	}
	var n counter
	_, err := io.Copy(&n, r)
	return n.lines, err
}

type counter struct{ bytes, lines int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	c.lines += int64(bytes.Count(p, []byte{'\n'}))
	return len(p), nil
}

// measureLatency pushes in an open loop, one request at a time by the clock
// whether or not the last was answered, first alone and then while a scraper, in a
// process of its own and on one processor, never stops.
func measureLatency(ctx context.Context, c *config, f *fleet, series []int32, r *report, progress io.Writer) error {
	perSecond := r.Median.SamplesPerSecond * c.Latency / float64(c.Batch)
	run := func() (*latency, error) { return openLoop(ctx, c, f, series, perSecond) }
	var err error
	if r.Idle, err = run(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	scraper := exec.CommandContext(ctx, self, "read", c.ScrapeURL, c.Formats[0])
	scraper.Env = append(os.Environ(), "GOMAXPROCS=1")
	scraper.Stderr = progress
	if err := scraper.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- scraper.Wait() }()
	r.Scraping, err = run()
	select {
	case gone := <-ended: // and it never ends by itself
		return errors.Join(err, fmt.Errorf("the scraper ended while pushes were measured: %w", gone))
	default:
	}
	scraper.Process.Kill()
	<-ended
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "push p99: %.2f ms idle, %.2f ms while scraping\n", r.Idle.P99MS, r.Scraping.P99MS)
	return nil
}

func openLoop(ctx context.Context, c *config, f *fleet, series []int32, perSecond float64) (*latency, error) {
	const seconds = 10
	n := max(1, int(perSecond*seconds))
	// A body for each request would be much memory: some are sent again and again.
	some := min(n, max(1, len(series)/c.Batch), 200)
	bodies, err := encodeAll(ctx, c, f, series[:min(some*c.Batch, len(series))], time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	took := make([]float64, n)
	var wg sync.WaitGroup
	var failed atomic.Value
	begun := time.Now()
	for i := range n {
		due := begun.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		time.Sleep(time.Until(due))
		wg.Go(func() {
			if err := post(ctx, c, edgeName(c, i%len(bodies)*c.Batch), bodies[i%len(bodies)]); err != nil {
				failed.Store(err)
			}
			took[i] = float64(time.Since(due).Microseconds()) / 1000
		})
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		return nil, err
	}
	slices.Sort(took)
	return &latency{Requests: n, P50MS: took[n/2], P99MS: took[n*99/100]}, nil
}

func (r *report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "series\t%d, %d labels, protocol %d, %s order, %d samples a request, %d connections\n", r.Series, r.Labels, r.Protocol, r.Order, r.Batch, r.Connections)
	fmt.Fprintf(t, "new series\t%.0f ns CPU a sample\t%.0f samples/s\n", r.First.CPUNanos, r.First.SamplesPerSecond)
	fmt.Fprintf(t, "steady\t%.0f ns CPU a sample\t%.0f samples/s\n", r.Median.CPUNanos, r.Median.SamplesPerSecond)
	fmt.Fprintf(t, "resident\t%.0f MB\t%.0f B a series\n", float64(r.ResidentBytes)/1e6, r.ResidentBytesPerSeries)
	for _, s := range r.Scrapes {
		fmt.Fprintf(t, "scrape %s\t%.2f s CPU, %.2f s wall, first byte %.1f ms\t%.1f MB, %d lines, memory +%.1f MB\n",
			s.Format, s.CPUSeconds, s.WallSeconds, s.FirstByteMS, float64(s.Bytes)/1e6, s.Lines, float64(s.GrowthBytes)/1e6)
	}
	if p := r.Pages; p != nil {
		fmt.Fprintf(t, "pages of %d edges\t%.2f s CPU, %.2f s wall\tone: p99 %.1f ms\n", p.Edges, p.CPUSeconds, p.WallSeconds, p.P99MS)
	}
	for _, l := range []struct {
		name string
		*latency
	}{{"idle", r.Idle}, {"while scraping", r.Scraping}} {
		if l.latency != nil {
			fmt.Fprintf(t, "push %s\tp50 %.2f ms, p99 %.2f ms\t%d requests\n", l.name, l.P50MS, l.P99MS, l.Requests)
		}
	}
}
