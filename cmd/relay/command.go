package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"relay/edges"
)

// The commands. A command line without one serves.
const (
	serveCommand  = "serve"
	checkCommand  = "check-config"
	edgesCommand  = "edges"
	seriesCommand = "series"
)

// remote reports whether the command asks a running relay.
func (c *config) remote() bool { return c.command == edgesCommand || c.command == seriesCommand }

// client asks a running relay.
type client struct {
	url       *url.URL
	config    string // of the HTTP client, as promtool's
	timeout   time.Duration
	json      bool
	silent    bool
	selectors []string
}

// addCommands declares the commands. The flags of the server stay those of the
// application, so that a relay is started by flags alone.
func addCommands(app *kingpin.Application, cfg *config) {
	app.UsageTemplate(strings.ReplaceAll(kingpin.DefaultUsageTemplate, ".Context.Flags", "(ownFlags .Context.SelectedCommand .Context.Flags)"))
	app.UsageFuncs(map[string]any{"ownFlags": ownFlags})
	app.Command(serveCommand, "Run the relay; what is done where no command is given.").Default()
	app.Command(checkCommand, "Check the flags and the files that they name, without running the relay: exit 1 if it would not start with them.")

	c := &cfg.client
	list := app.Command(edgesCommand, "List the edges of a running relay, those that are silent first.")
	list.Flag("silent", "Only those that are silent.").BoolVar(&c.silent)
	show := app.Command(seriesCommand, "List the live series of a running relay.")
	show.Arg("selector", "Which series, as in PromQL: up or '{job=\"node\"}'; of several any may match.").Required().StringsVar(&c.selectors)
	for _, cmd := range []*kingpin.CmdClause{list, show} {
		cmd.Flag("url", "Where the relay is, its route prefix included.").Default("http://127.0.0.1:10091").URLVar(&c.url)
		cmd.Flag("http.config.file", "TLS and credentials for it, as promtool has them: https://prometheus.io/docs/prometheus/latest/configuration/promtool").StringVar(&c.config)
		cmd.Flag("timeout", "How long to wait for the answer.").Default("30s").DurationVar(&c.timeout)
		cmd.Flag("json", "Print JSON, the data of the answer as it came, in place of a table.").BoolVar(&c.json)
		cmd.PreAction(func(p *kingpin.ParseContext) error { return onlyOwnFlags(app, cmd, p) })
	}
}

// ownFlags are the flags that --help shows: those of the server are not those of a
// command that asks one.
func ownFlags(cmd *kingpin.CmdModel, all []*kingpin.FlagModel) []*kingpin.FlagModel {
	if cmd == nil || len(cmd.Flags) == 0 {
		return all
	}
	return cmd.Flags
}

// onlyOwnFlags refuses a flag of the server where it would mean nothing.
func onlyOwnFlags(app *kingpin.Application, cmd *kingpin.CmdClause, p *kingpin.ParseContext) error {
	for _, e := range p.Elements {
		f, ok := e.Clause.(*kingpin.FlagClause)
		if !ok {
			continue
		}
		switch name := f.Model().Name; {
		case app.GetFlag(name) != f, name == "help", name == "version", f.Model().Hidden:
		default:
			return fmt.Errorf("--%s is not a flag of relay %s", name, cmd.Model().Name)
		}
	}
	return nil
}

// completable is the command line with what completion stumbles over taken off:
// kingpin offers no command for a half of one where there is a default. The shell
// leaves out what does not begin with that half.
func completable(args []string) []string {
	if len(args) == 2 && args[0] == "--completion-bash" && !strings.HasPrefix(args[1], "-") {
		return args[:1]
	}
	return args
}

// checking reports whether a command line, good or not, asks for check-config.
func checking(args []string) bool {
	p, _ := newApp(&config{}).ParseContext(args)
	return p != nil && p.SelectedCommand != nil && p.SelectedCommand.FullCommand() == checkCommand
}

// checkConfig says what is wrong with the configuration; bad is what reading the
// flags found. All that can be checked is: one fault does not hide the next.
func checkConfig(cfg *config, bad error, stdout, stderr io.Writer) int {
	code := exitOK
	report := func(what string, err error) {
		if err == nil {
			fmt.Fprintf(stdout, "%s: good\n", what)
			return
		}
		code = exitFailed
		flag, _, _ := strings.Cut(what, "=")
		for line := range strings.Lines(err.Error()) {
			if strings.HasPrefix(flag, "--") {
				line = flag + ": " + line
			}
			fmt.Fprintf(stderr, "%s\n", strings.TrimRight(line, "\n"))
		}
	}
	report("flags", bad)
	if cfg == nil {
		return code
	}
	if cfg.ingestConfig != "" {
		_, _, err := loadTLS(cfg.ingestConfig)
		report("--ingest.config.file="+cfg.ingestConfig, err)
	}
	if cfg.edgesFile != "" {
		f, err := edges.LoadFile(cfg.edgesFile)
		what := "--edges.file=" + cfg.edgesFile
		if err == nil {
			what = fmt.Sprintf("%s, %d edges", what, len(f.Entries()))
			err = cfg.checkAuthenticators(f.NeedsAuthorization())
		}
		report(what, err)
	}
	return code
}

// An edgeRow is what the table shows of an edge.
type edgeRow struct {
	Name     string    `json:"name"`
	LastSeen time.Time `json:"lastSeen"` // zero: never
	TTL      string    `json:"ttl"`
	Silent   bool      `json:"silent"`
	State    string    `json:"state"`
	Live     int       `json:"liveSeries"`
	Samples  float64   `json:"samplesPerSecond"`

	Rejected map[string]uint64 `json:"rejected"`
	Warnings []string          `json:"warnings"`
}

// A seriesRow is what the table shows of a series.
type seriesRow struct {
	Labels         map[string]string `json:"labels"`
	Value          string            `json:"value"`
	Type           string            `json:"type"`
	AgeSeconds     *float64          `json:"ageSeconds"`
	TTLLeftSeconds *float64          `json:"ttlLeftSeconds"` // nil: unknown, or it never ends
	Edge           string            `json:"edge"`
}

// run answers one command.
func (c *client) run(ctx context.Context, command string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	query := url.Values{}
	if command == seriesCommand {
		query["match[]"] = c.selectors
	}
	data, err := c.get(ctx, "/api/v1/"+command, query)
	if err != nil {
		return err
	}
	if command == edgesCommand {
		return c.edges(data, stdout)
	}
	if c.json {
		return printJSON(stdout, data)
	}
	var rows []seriesRow
	if err := json.Unmarshal(data, &rows); err != nil {
		return fmt.Errorf("cannot read the relay's answer: %w", err)
	}
	return table(stdout, "SERIES\tVALUE\tTYPE\tAGE\tTTL LEFT\tEDGE", func(row func(...string)) {
		for _, s := range rows {
			row(seriesName(s.Labels), s.Value, s.Type, seconds(s.AgeSeconds), seconds(s.TTLLeftSeconds), s.Edge)
		}
	})
}

func (c *client) edges(data json.RawMessage, stdout io.Writer) error {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("cannot read the relay's answer: %w", err)
	}
	type edge struct {
		edgeRow
		raw json.RawMessage
	}
	list := make([]edge, 0, len(raw))
	for _, r := range raw {
		e := edge{raw: r}
		if err := json.Unmarshal(r, &e.edgeRow); err != nil {
			return fmt.Errorf("cannot read the relay's answer: %w", err)
		}
		if !c.silent || e.Silent {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b edge) int {
		switch {
		case a.Silent == b.Silent:
			return strings.Compare(a.Name, b.Name)
		case a.Silent:
			return -1
		}
		return 1
	})
	if c.json {
		raw = raw[:0]
		for _, e := range list {
			raw = append(raw, e.raw)
		}
		data, err := json.Marshal(raw)
		if err != nil {
			return err
		}
		return printJSON(stdout, data)
	}
	now := time.Now()
	return table(stdout, "EDGE\tSTATE\tLAST SEEN\tTTL\tSERIES\tSAMPLES/S\tREFUSED\tWARNING", func(row func(...string)) {
		for _, e := range list {
			seen, refused, warning := "never", uint64(0), ""
			if !e.LastSeen.IsZero() {
				seen = short(max(0, now.Sub(e.LastSeen))) + " ago"
			}
			for _, n := range e.Rejected {
				refused += n
			}
			if n := len(e.Warnings); n > 0 {
				warning = e.Warnings[0]
				if n > 1 {
					warning += fmt.Sprintf(" (and %d more)", n-1)
				}
			}
			row(e.Name, e.State, seen, e.TTL, strconv.Itoa(e.Live), strconv.FormatFloat(e.Samples, 'f', 1, 64), strconv.FormatUint(refused, 10), warning)
		}
	})
}

// maxAnswerBytes bounds what is read of an answer.
const maxAnswerBytes = 1 << 30

// get asks, and returns the data in the envelope.
func (c *client) get(ctx context.Context, path string, query url.Values) (json.RawMessage, error) {
	at := *c.url
	if at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("--url=%s: want http://host:port or https://host:port", at.Redacted())
	}
	cfg := &promconfig.DefaultHTTPClientConfig
	if c.config != "" {
		var err error
		if cfg, _, err = promconfig.LoadHTTPConfigFile(c.config); err != nil {
			return nil, fmt.Errorf("--http.config.file: %w", err)
		}
	}
	asking, err := promconfig.NewClientFromConfig(*cfg, "relay")
	if err != nil {
		return nil, fmt.Errorf("--http.config.file: %w", err)
	}
	at.Path, at.RawQuery = strings.TrimSuffix(at.Path, "/")+path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := asking.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Status string          `json:"status"`
		Data   json.RawMessage `json:"data"`
		Error  string          `json:"error"`
	}
	err = json.Unmarshal(body, &answer)
	if res.StatusCode == http.StatusOK && err == nil && answer.Status == "success" {
		return answer.Data, nil
	}
	text := answer.Error
	if err != nil {
		text, _, _ = strings.Cut(string(body[:min(len(body), 300)]), "\n")
	}
	return nil, fmt.Errorf("%s answers %s: %s", at.Redacted(), res.Status, printable(text))
}

func printJSON(out io.Writer, data json.RawMessage) error {
	indented := json.NewEncoder(out)
	indented.SetEscapeHTML(false)
	indented.SetIndent("", "  ")
	return indented.Encode(data)
}

// table writes rows in columns. What edges have sent cannot move the cursor of a
// terminal, or add a column.
func table(out io.Writer, header string, rows func(row func(...string))) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	rows(func(cells ...string) {
		for i, c := range cells {
			if c == "" {
				c = "-"
			}
			cells[i] = printable(c)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	})
	return w.Flush()
}

// printable escapes what a terminal would act on.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// seriesName is the series as PromQL has it.
func seriesName(labels map[string]string) string {
	m := make(model.Metric, len(labels))
	for name, value := range labels {
		m[model.LabelName(name)] = model.LabelValue(value)
	}
	return m.String()
}

// seconds is a duration for people; nil is none.
func seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	if *s > 1e9 {
		return "inf"
	}
	return short(time.Duration(*s * float64(time.Second)))
}

// short is a duration in at most two units.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d" + strconv.Itoa(int(d.Hours())%24) + "h"
}
