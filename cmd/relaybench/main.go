// Command relaybench loads a remote-write receiver and the page it exposes, and
// says what that costs: samples per second, CPU time of the server process per
// sample, resident memory per series, and the cost of a scrape. It speaks to any
// receiver: the relay, Prometheus, VictoriaMetrics.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// config is what to do; field names follow the flags.
type config struct {
	WriteURL    string
	ScrapeURL   string
	PID         int
	Series      int
	Labels      int
	Rounds      int
	Protocol    int
	Order       string
	Churn       bool
	Connections int
	Batch       int
	Edges       int
	Pause       time.Duration
	Formats     []string
	Scrapes     int
	Latency     float64
	JSON        bool
	Headers     map[string]string
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// check finds what would be known only after the load, or not at all.
func (c *config) check() error {
	switch {
	case c.Series < 1 || c.Batch < 1 || c.Connections < 1 || c.Labels < 10 || c.Protocol != 1 && c.Protocol != 2:
		return errors.New("--series, --batch and --connections start at 1, --labels at 10, --protocol is 1 or 2")
	case c.Rounds < 0 || c.Scrapes < 0 || c.Edges < 0 || c.Latency < 0 || c.Pause < 0:
		return errors.New("--rounds, --scrapes, --edges, --latency-load and --pause are not negative")
	case c.Latency > 0 && (c.ScrapeURL == "" || c.Rounds == 0):
		return errors.New("--latency-load wants a --scrape-url, and a rate: --rounds of 1 at least")
	}
	if c.ScrapeURL != "" {
		for _, format := range c.Formats {
			if _, _, err := parseFormat(format); err != nil {
				return fmt.Errorf("--formats: %w", err)
			}
		}
	}
	if !process(c.PID).known() {
		return fmt.Errorf("--pid=%d: there is no such process in /proc", c.PID)
	}
	return nil
}

func run(args []string, stdout, stderr io.Writer) int {
	c := config{Headers: map[string]string{}} // kingpin adds to the map that is there
	app := kingpin.New("relaybench", "Loads a remote-write receiver and its scrape page, and measures both.")
	ended := -1
	app.Terminate(func(code int) { ended = code }).UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	plot := app.Command("plot", "Draws the cost against the number of series, as SVG on stdout, from the JSON of several runs.")
	plotted := plot.Arg("file", "What load --json has printed.").Required().ExistingFiles()
	reading := app.Command("read", "Scrapes again and again until it is ended; load runs it beside its own process.").Hidden()
	readURL, readFormat := reading.Arg("url", "").Required().String(), reading.Arg("format", "").Required().String()
	load := app.Command("load", "Pushes and scrapes; the default.").Default()
	load.Flag("write-url", "Where to push.").Default("http://127.0.0.1:10091/api/v1/write").StringVar(&c.WriteURL)
	load.Flag("scrape-url", "What to scrape; empty: nothing.").Default("http://127.0.0.1:10091/metrics").StringVar(&c.ScrapeURL)
	load.Flag("pid", "Process of the server, for its CPU time and memory; 0: unknown.").IntVar(&c.PID)
	load.Flag("series", "How many series.").Default("100000").IntVar(&c.Series)
	load.Flag("labels", "Labels of a series, at least 10.").Default("10").IntVar(&c.Labels)
	load.Flag("rounds", "How often every series is sent after the first time.").Default("5").IntVar(&c.Rounds)
	load.Flag("protocol", "Version of remote write.").Default("1").IntVar(&c.Protocol)
	load.Flag("order", "Order of the series in a round: stable, shuffled (machine by machine) or random.").Default("stable").EnumVar(&c.Order, "stable", "shuffled", "random")
	load.Flag("churn", "Replace every series in every round.").BoolVar(&c.Churn)
	load.Flag("connections", "How many senders push at once.").Default("4").IntVar(&c.Connections)
	load.Flag("batch", "Samples per request.").Default("2000").IntVar(&c.Batch)
	load.Flag("edges", "How many edges the series are of, each with requests of its own, of a share of the series, and a page of its own that is scraped; 0: no edge is named.").IntVar(&c.Edges)
	load.Flag("formats", "What to scrape: text, text+gzip, openmetrics, openmetrics+gzip, protobuf, protobuf+gzip, text+zstd.").Default("text,text+gzip,protobuf").StringsVar(&c.Formats)
	load.Flag("scrapes", "Scrapes per format.").Default("3").IntVar(&c.Scrapes)
	load.Flag("latency-load", "Then push at this share of the rate just measured, idle and while scraping, for the latency of a push; 0: do not.").Default("0").FloatVar(&c.Latency)
	load.Flag("pause", "Time between rounds; with --churn and a shorter TTL at the server, memory is to be the same after each.").Default("0s").DurationVar(&c.Pause)
	load.Flag("header", "Header of each push, as name=value.").StringMapVar(&c.Headers)
	load.Flag("json", "Print JSON.").BoolVar(&c.JSON)
	command, err := app.Parse(args)
	if ended >= 0 {
		return ended // --help
	}
	if err != nil {
		fmt.Fprintf(stderr, "relaybench: %v\n", err)
		return 2
	}
	switch command {
	case plot.FullCommand():
		if err := draw(stdout, *plotted); err != nil {
			fmt.Fprintf(stderr, "relaybench: %v\n", err)
			return 1
		}
		return 0
	case reading.FullCommand():
		for {
			if err := read(context.Background(), *readURL, *readFormat); err != nil {
				fmt.Fprintf(stderr, "relaybench: %v\n", err)
				return 1
			}
		}
	}
	c.Formats = strings.Split(strings.Join(c.Formats, ","), ",")
	if err := c.check(); err != nil {
		fmt.Fprintf(stderr, "relaybench: %v\n", err)
		return 2
	}
	if c.Edges > 0 {
		c.Batch = (c.Series + c.Edges - 1) / c.Edges
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := measure(ctx, &c, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "relaybench: %v\n", err)
		return 1
	}
	if c.JSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return 1
		}
		return 0
	}
	r.table(stdout)
	return 0
}
