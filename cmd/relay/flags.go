package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/prometheus/common/promslog"
	logflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"relay/journal"
	"relay/series"
)

// config is what the command line says.
type config struct {
	command string // serve, or what else the relay is asked to do
	flags   map[string]string
	client  client

	log promslog.Config
	web *web.FlagConfig

	externalURL    *url.URL
	routePrefix    string
	trustedProxies []netip.Prefix
	lifecycle      bool

	adminAPI bool

	ttl, ttlMin, ttlMax series.TTL
	pushTTL             series.TTL // 0: as ttl
	lag, future         time.Duration
	nameValidation      string

	edgesFile      string
	edgesRetention time.Duration
	haLabels       bool

	ingestAddress          string
	ingestConfig           string
	ingestConnections      int
	ingestConnectionsPerIP int

	limits        series.Limits
	memory        string
	requestBytes  units.Base2Bytes
	inflightBytes units.Base2Bytes
	seriesBytes   units.Base2Bytes

	journal         string
	journalPath     string
	journalSync     string
	journalWindow   time.Duration
	journalMaxBytes units.Base2Bytes
	nats            journal.Cluster

	timestamps string
	lookback   time.Duration
	maxScrapes int
}

// ttlValue lets a flag be given in the TTL grammar.
type ttlValue struct{ ttl *series.TTL }

func (v ttlValue) Set(s string) (err error) {
	*v.ttl, err = series.ParseTTL(s)
	return err
}

func (v ttlValue) String() string { return v.ttl.String() }

type prefixes struct{ list *[]netip.Prefix }

func (p prefixes) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			addr, addrErr := netip.ParseAddr(part)
			if addrErr != nil {
				return fmt.Errorf("%q is neither an address nor a CIDR block", part)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		*p.list = append(*p.list, prefix)
	}
	return nil
}

func (p prefixes) String() string     { return fmt.Sprint(*p.list) }
func (p prefixes) IsCumulative() bool { return true }

// newApp declares the flags.
func newApp(cfg *config) *kingpin.Application {
	app := kingpin.New("relay", "Remote write in, /metrics out, and nothing outlives its TTL.")
	app.HelpFlag.Short('h')
	app.Version(version.Print("relay"))
	cfg.web = webflag.AddFlags(app, ":10091")
	app.Flag("web.external-url", "The URL under which the relay is reached, for its own links; its path is the default of --web.route-prefix.").URLVar(&cfg.externalURL)
	app.Flag("web.route-prefix", "Prefix of all paths.").StringVar(&cfg.routePrefix)
	app.Flag("web.trusted-proxies", "Addresses or CIDR blocks, comma-separated or repeated, whose X-Forwarded-For names an edge.").SetValue(prefixes{&cfg.trustedProxies})
	app.Flag("web.enable-lifecycle", "Let POST /-/reload and /-/quit reload and stop the relay.").BoolVar(&cfg.lifecycle)

	app.Flag("web.enable-admin-api", "Let DELETE /api/v1/series delete series, and PUT /api/v1/admin/wipe end all groups of the push API.").BoolVar(&cfg.adminAPI)

	app.Flag("series.ttl", "How long a series lives without a newer sample, where its sender does not say (label __ttl__, header X-Relay-TTL, query ttl): a duration, seconds, or inf.").Default("5m").SetValue(ttlValue{&cfg.ttl})
	app.Flag("series.ttl-min", "The shortest TTL that a sender is granted.").Default("1s").SetValue(ttlValue{&cfg.ttlMin})
	app.Flag("series.ttl-max", "The longest TTL that a sender is granted.").Default("inf").SetValue(ttlValue{&cfg.ttlMax})
	app.Flag("push.ttl", "The TTL of what the push API takes, where a push does not say; as --series.ttl by default. For batch jobs that push once: inf.").SetValue(ttlValue{&cfg.pushTTL})
	app.Flag("series.lag-tolerance", "How much later than its own time a sample may arrive and still count as current.").Default("1m").DurationVar(&cfg.lag)
	app.Flag("series.future-tolerance", "How far ahead of the relay's clock a sample may be; others are refused.").Default("10m").DurationVar(&cfg.future)

	app.Flag("ingest.listen-address", "Address of a listener for pushes alone; the web listener then takes none. It may face the internet.").StringVar(&cfg.ingestAddress)
	app.Flag("ingest.config.file", "TLS of that listener, as in --web.config.file; reloaded on change, a broken one keeps the last good one.").StringVar(&cfg.ingestConfig)
	app.Flag("ingest.max-connections", "Open connections to that listener.").Default("20000").IntVar(&cfg.ingestConnections)
	app.Flag("ingest.max-connections-per-ip", "Of these, from one address that is not a trusted proxy's.").Default("1000").IntVar(&cfg.ingestConnectionsPerIP)

	app.Flag("edges.file", "Who may push, as whom and within which limits: YAML; reloaded on change, a broken one keeps the last good one. None: everybody may.").StringVar(&cfg.edgesFile)
	app.Flag("ha.labels", "Take senders whose series have the labels cluster and __replica__ for replicas of a pair: one is listened to. For pairs of --edges.file this is not needed.").BoolVar(&cfg.haLabels)
	app.Flag("edges.retention", "How long an edge that has fallen silent is remembered: its target then answers 503, so that up is 0.").Default("24h").DurationVar(&cfg.edgesRetention)

	app.Flag("limits.memory", "Memory that the process may use, as a size or a percentage of the cgroup's limit or the RAM: over it new series are refused, known ones go on. 0: no limit.").Default("80%").StringVar(&cfg.memory)
	app.Flag("limits.series", "Series held, expired ones that are not forgotten yet included.").Default("5000000").IntVar(&cfg.limits.Series)
	app.Flag("limits.edges", "Edges told apart by name; the rest count as one.").Default("10000").IntVar(&cfg.limits.Edges)
	app.Flag("limits.groups", "Groups of the push API.").Default("100000").IntVar(&cfg.limits.Groups)
	app.Flag("limits.labels", "Labels of a series, at most 255.").Default("64").IntVar(&cfg.limits.Labels)
	app.Flag("limits.label-name-bytes", "Length of a label's name.").Default("1024").IntVar(&cfg.limits.LabelNameBytes)
	app.Flag("limits.label-value-bytes", "Length of a label's value.").Default("4096").IntVar(&cfg.limits.LabelValueBytes)
	app.Flag("limits.series-bytes", "Length of all labels of a series.").Default("16KiB").BytesVar(&cfg.seriesBytes)
	app.Flag("limits.histogram-buckets", "Buckets of a native histogram; its custom bounds and spans, too.").Default("1024").IntVar(&cfg.limits.HistogramBuckets)
	app.Flag("limits.request-bytes", "Length of a request, compressed and again decoded.").Default("32MiB").BytesVar(&cfg.requestBytes)
	app.Flag("limits.inflight-bytes", "Length of all requests that are being taken, compressed and decoded; one edge may have half of it.").Default("256MiB").BytesVar(&cfg.inflightBytes)

	app.Flag("ingest.name-validation", "Metric and label names that are taken: utf8, or legacy for those of [a-zA-Z_:][a-zA-Z0-9_:]* alone.").Default("utf8").EnumVar(&cfg.nameValidation, "utf8", "legacy")

	app.Flag("journal", "Where accepted requests are kept across restarts: embedded, in a directory of the relay's own; nats, in an external NATS cluster, which several relays can share; or off.").Default("embedded").EnumVar(&cfg.journal, "embedded", "nats", "off")
	app.Flag("journal.path", "The journal's directory.").Default("data").StringVar(&cfg.journalPath)
	app.Flag("journal.sync", "What an accepted request survives: os, the end of the process (kill -9); always, the end of the machine's power too, with an fsync before each answer.").Default("os").EnumVar(&cfg.journalSync, "os", "always")
	app.Flag("journal.window", "How much of the past is kept as requests; what is older is in checkpoints, which are written twice as often.").Default("10m").DurationVar(&cfg.journalWindow)
	app.Flag("journal.max-bytes", "Size of the kept requests over which pushes are answered 503.").Default("16GiB").BytesVar(&cfg.journalMaxBytes)

	app.Flag("journal.nats-url", "Addresses of some servers of the NATS cluster, comma-separated: nats://host:4222, or tls://.").StringVar(&cfg.nats.URL)
	app.Flag("journal.nats-stream", "The JetStream stream that is the journal; made if it is not there. Relays with the same one show the same.").Default("RELAY").StringVar(&cfg.nats.Stream)
	app.Flag("journal.nats-creds", "File with the credentials for the NATS cluster.").StringVar(&cfg.nats.Creds)
	app.Flag("journal.nats-ca", "File with the certificates to trust for it, in place of the system's.").StringVar(&cfg.nats.CA)
	app.Flag("journal.nats-cert", "File with the relay's certificate for it, where it asks for one.").StringVar(&cfg.nats.Cert)
	app.Flag("journal.nats-key", "File with the key of that certificate.").StringVar(&cfg.nats.Key)
	app.Flag("journal.nats-replicas", "On how many servers a stream that is made is kept: 1, 3 or 5. A stream that is there keeps what it has.").Default("3").IntVar(&cfg.nats.Replicas)

	app.Flag("exposition.timestamps", "Which series carry their sample's timestamp: auto (those with a TTL within the lookback), always, never.").Default("auto").EnumVar(&cfg.timestamps, "auto", "always", "never")
	app.Flag("exposition.lookback", "The lookback of the Prometheus that scrapes the relay (its --query.lookback-delta).").Default("5m").DurationVar(&cfg.lookback)
	app.Flag("exposition.max-scrapes", "Scrapes that are answered at a time; more of them wait.").Default("4").IntVar(&cfg.maxScrapes)
	logflag.AddFlags(app, &cfg.log)
	addCommands(app, cfg)
	return app
}

// parseFlags reads the command line; done says that it only asked for --help,
// --version or the like, which has been answered.
func parseFlags(args []string, stdout io.Writer) (cfg *config, done bool, err error) {
	cfg = &config{}
	app := newApp(cfg)
	app.UsageWriter(stdout)
	app.ErrorWriter(io.Discard) // errors are returned
	app.Terminate(func(code int) {
		if done = true; code != 0 {
			err = errors.New("no such command")
		}
	})
	command, parseErr := app.Parse(completable(args))
	if done {
		return nil, err == nil, err
	}
	cfg.command, cfg.flags = command, flagValues(app)
	if parseErr != nil {
		rest, faults := separateFaults(args)
		if len(faults) == 0 {
			return cfg, false, parseErr
		}
		return rest, false, errors.Join(append(faults, rest.check())...)
	}
	if cfg.remote() {
		return cfg, false, nil
	}
	return cfg, false, cfg.check()
}

// separateFaults finds each of the server's flags whose value cannot be read, which the
// parser says of the first alone and without its name, and returns what the others say.
func separateFaults(args []string) (rest *config, faults []error) {
	quiet := func(cfg *config) *kingpin.Application {
		app := newApp(cfg)
		app.UsageWriter(io.Discard)
		app.ErrorWriter(io.Discard)
		app.Terminate(func(int) {})
		return app
	}
	app := quiet(&config{})
	parsed, err := app.ParseContext(args)
	if err != nil {
		return nil, nil
	}
	var good []string
	for _, e := range parsed.Elements {
		f, ok := e.Clause.(*kingpin.FlagClause)
		if !ok || e.Value == nil {
			continue
		}
		m := f.Model()
		if app.GetFlag(m.Name) != f || m.Hidden || m.Name == "help" || m.Name == "version" {
			continue
		}
		arg := "--" + m.Name + "=" + *e.Value
		if m.IsBoolFlag() {
			if arg = "--" + m.Name; *e.Value == "false" {
				arg = "--no-" + m.Name
			}
		}
		if _, err := quiet(&config{}).Parse([]string{arg}); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", arg, err))
			continue
		}
		good = append(good, arg)
	}
	rest = &config{command: serveCommand}
	if _, err := quiet(rest).Parse(good); err != nil {
		return nil, nil // one that is given twice
	}
	return rest, faults
}

// check finds what does not fit together: all of it, for those who correct it.
func (c *config) check() error {
	c.limits.SeriesBytes = int(c.seriesBytes)
	var faults []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fails := func(flag string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", flag, err))
		}
	}
	bounds := fmt.Sprintf("--series.ttl-min=%s and --series.ttl-max=%s", c.ttlMin, c.ttlMax)
	if c.ttlMin > c.ttlMax {
		wrong(true, "--series.ttl-min=%s is over --series.ttl-max=%s", c.ttlMin, c.ttlMax)
	} else {
		wrong(c.ttl < c.ttlMin || c.ttl > c.ttlMax, "--series.ttl=%s is not between %s", c.ttl, bounds)
		wrong(c.pushTTL != 0 && (c.pushTTL < c.ttlMin || c.pushTTL > c.ttlMax), "--push.ttl=%s is not between %s", c.pushTTL, bounds)
	}
	wrong(min(c.lag, c.future, c.lookback) < time.Millisecond, "--series.lag-tolerance, --series.future-tolerance and --exposition.lookback must be 1ms at least")
	wrong(c.edgesRetention < 0, "--edges.retention=%s is negative", c.edgesRetention)
	wrong(c.limits.Labels < 1 || c.limits.Labels > 255, "--limits.labels=%d is not between 1 and 255", c.limits.Labels)
	wrong(c.requestBytes < 1024 || c.requestBytes > 1<<30, "--limits.request-bytes=%s is not between 1KiB and 1GiB", c.requestBytes)
	wrong(c.inflightBytes < 2*c.requestBytes, "--limits.inflight-bytes=%s is less than twice --limits.request-bytes=%s: one request, compressed and decoded", c.inflightBytes, c.requestBytes)
	wrong(c.journalWindow < 2*time.Second, "--journal.window=%s is under 2s", c.journalWindow)
	wrong(c.journalMaxBytes < 16<<20, "--journal.max-bytes=%s is under 16MiB", c.journalMaxBytes)
	wrong(c.ingestConfig != "" && c.ingestAddress == "", "--ingest.config.file wants --ingest.listen-address")
	wrong(c.seriesBytes < 64 || c.seriesBytes > 512<<10, "--limits.series-bytes=%s is not between 64B and 512KiB", c.seriesBytes)
	if c.journal == "nats" {
		c.nats.Fresh = c.journalWindow / 4
		if err := c.nats.Check(); err != nil {
			faults = append(faults, err)
		}
	} else if c.nats.URL != "" {
		wrong(true, "--journal.nats-url wants --journal=nats, it is --journal=%s", c.journal)
	}
	for _, n := range []struct {
		flag  string
		value int
	}{
		{"--limits.series", c.limits.Series}, {"--limits.edges", c.limits.Edges}, {"--limits.groups", c.limits.Groups}, {"--limits.label-name-bytes", c.limits.LabelNameBytes},
		{"--limits.label-value-bytes", c.limits.LabelValueBytes}, {"--limits.histogram-buckets", c.limits.HistogramBuckets}, {"--exposition.max-scrapes", c.maxScrapes},
		{"--ingest.max-connections", c.ingestConnections}, {"--ingest.max-connections-per-ip", c.ingestConnectionsPerIP},
	} {
		wrong(n.value < 1, "%s=%d is not positive", n.flag, n.value)
	}
	if _, err := memoryLimit(c.memory); err != nil {
		faults = append(faults, err)
	}
	if !*c.web.WebSystemdSocket {
		for _, address := range *c.web.WebListenAddresses {
			if !strings.HasPrefix(address, "vsock://") {
				fails("--web.listen-address="+address, checkAddress(address))
			}
		}
	}
	if c.ingestAddress != "" {
		fails("--ingest.listen-address="+c.ingestAddress, checkAddress(c.ingestAddress))
	}
	if u := c.externalURL; u != nil {
		// A path alone is where a proxy has it, under whatever name that is reached.
		pathOnly := u.Scheme == "" && u.Host == "" && u.Opaque == "" && strings.HasPrefix(u.Path, "/")
		wrong(!pathOnly && (u.Scheme != "http" && u.Scheme != "https" || u.Host == ""), "--web.external-url=%s: want http://host, https://host or a /path", u.Redacted())
		if c.routePrefix == "" {
			c.routePrefix = u.Path
		}
	}
	c.routePrefix = "/" + strings.Trim(c.routePrefix, "/")
	fails("--web.config.file", web.Validate(*c.web.WebConfigFile))
	return errors.Join(faults...)
}

// checkAddress refuses what cannot be listened on, whatever machine that is.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%w; want host:port or :port", err)
	}
	return nil
}
