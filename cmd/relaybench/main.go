// Command relaybench loads a remote-write receiver and the page it exposes, and
// says what that costs: samples per second, CPU time of the server process per
// sample, resident memory per series, and the cost of a scrape. It speaks to any
// receiver: the relay, Prometheus, VictoriaMetrics.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

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
	Formats     []string
	Scrapes     int
	Latency     float64
	JSON        bool
	Headers     map[string]string
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	c := config{Headers: map[string]string{}} // kingpin adds to the map that is there
	app := kingpin.New("relaybench", "Loads a remote-write receiver and its scrape page, and measures both.")
	app.Terminate(nil).UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	app.Flag("write-url", "Where to push.").Default("http://127.0.0.1:10091/api/v1/write").StringVar(&c.WriteURL)
	app.Flag("scrape-url", "What to scrape; empty: nothing.").Default("http://127.0.0.1:10091/metrics").StringVar(&c.ScrapeURL)
	app.Flag("pid", "Process of the server, for its CPU time and memory; 0: unknown.").IntVar(&c.PID)
	app.Flag("series", "How many series.").Default("100000").IntVar(&c.Series)
	app.Flag("labels", "Labels of a series, at least 10.").Default("10").IntVar(&c.Labels)
	app.Flag("rounds", "How often every series is sent after the first time.").Default("5").IntVar(&c.Rounds)
	app.Flag("protocol", "Version of remote write.").Default("1").IntVar(&c.Protocol)
	app.Flag("order", "Order of the series in a round: stable, shuffled (machine by machine) or random.").Default("stable").EnumVar(&c.Order, "stable", "shuffled", "random")
	app.Flag("churn", "Replace every series in every round.").BoolVar(&c.Churn)
	app.Flag("connections", "How many senders push at once.").Default("4").IntVar(&c.Connections)
	app.Flag("batch", "Samples per request.").Default("2000").IntVar(&c.Batch)
	app.Flag("edges", "How many edges the series are of, each with requests of its own, of a share of the series; 0: no edge is named.").IntVar(&c.Edges)
	app.Flag("formats", "What to scrape: text, text+gzip, openmetrics, openmetrics+gzip, protobuf, protobuf+gzip, text+zstd.").Default("text,text+gzip,protobuf").StringsVar(&c.Formats)
	app.Flag("scrapes", "Scrapes per format.").Default("3").IntVar(&c.Scrapes)
	app.Flag("latency-load", "Then push at this share of the rate just measured, idle and while scraping, for the latency of a push; 0: do not.").Default("0").FloatVar(&c.Latency)
	app.Flag("header", "Header of each push, as name=value.").StringMapVar(&c.Headers)
	app.Flag("json", "Print JSON.").BoolVar(&c.JSON)
	if _, err := app.Parse(args); err != nil {
		fmt.Fprintf(stderr, "relaybench: %v\n", err)
		return 2
	}
	c.Formats = strings.Split(strings.Join(c.Formats, ","), ",")
	if c.Series < 1 || c.Batch < 1 || c.Connections < 1 || c.Labels < 10 || c.Protocol != 1 && c.Protocol != 2 {
		fmt.Fprintln(stderr, "relaybench: --series, --batch and --connections start at 1, --labels at 10, --protocol is 1 or 2")
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
