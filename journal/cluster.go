package journal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Cluster is a NATS cluster with JetStream that keeps the records, for any number
// of relays. All of them apply what each of them appends, in the stream's order.
type Cluster struct {
	URL      string // of some of its servers, comma-separated
	Stream   string // letters, digits, - and _; made if it is not there
	Creds    string // a credentials file, read again with each connection; "": none
	CA       string // a PEM file of whom to trust; "": the system's
	Cert     string // a PEM file with the certificate to show, read again with each connection; "": none
	Key      string // a PEM file with its key
	Replicas int    // of a stream that is made: 1, 3 or 5

	// Fresh is how young the newest checkpoint may be for another relay to write
	// none: all relays of a stream write them, and one is enough.
	Fresh time.Duration
}

var streamNames = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// Check finds what can be found wrong without the cluster.
func (c *Cluster) Check() error {
	switch {
	case c.URL == "":
		return errors.New("no address of a NATS server: --journal.nats-url")
	case !streamNames.MatchString(c.Stream):
		return fmt.Errorf("%q is no name of a stream: letters, digits, - and _: --journal.nats-stream", c.Stream)
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return fmt.Errorf("%d replicas: 1, 3 or 5: --journal.nats-replicas", c.Replicas)
	}
	if err := checkAddresses(c.URL); err != nil {
		return err
	}
	if c.Creds != "" {
		f, err := os.Open(c.Creds)
		if err != nil {
			return fmt.Errorf("--journal.nats-creds: %w", err)
		}
		f.Close()
	}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return fmt.Errorf("--journal.nats-ca: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(text) {
			return fmt.Errorf("--journal.nats-ca: no certificate in %s", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("--journal.nats-cert and --journal.nats-key are given together")
	}
	if c.Cert != "" {
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			return fmt.Errorf("--journal.nats-cert, --journal.nats-key: %w", err)
		}
	}
	return nil
}

// checkAddresses refuses what is no list of addresses. What is wrong may be a
// password: no part of it is in the error.
func checkAddresses(list string) error {
	for i, address := range strings.Split(list, ",") {
		if address = strings.TrimSpace(address); address == "" {
			continue
		}
		if !strings.ContainsAny(address, "@/") {
			address = "nats://" + address
		}
		u, err := url.Parse(address)
		if err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Hostname() == "" || strings.Count(address, "@") > 1 {
			return fmt.Errorf("--journal.nats-url: address %d of it is not like nats://host:4222 or tls://user:password@host:4222; what is special in a password is percent-encoded", i+1)
		}
	}
	return nil
}

// Times of a connection. A server that is gone without a word is noticed after two
// pings.
const (
	connectTime   = 2 * time.Second
	reconnectWait = 250 * time.Millisecond
	pingEvery     = 5 * time.Second
	requestTime   = 3 * time.Second
)

// connect connects to a cluster, and finds or makes the stream. The connection
// comes back by itself from then on, for as long as it takes.
func connect(ctx context.Context, o *Options) (*engine, error) {
	c := o.Cluster
	var told time.Time // of the error handler, which is called once at a time
	opts := []nats.Option{
		nats.Name("relay"), nats.Timeout(connectTime),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.IgnoreAuthErrorAbort(), // credentials may be put right
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), // what cannot be sent now is refused, not kept for later
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				o.Logger.Warn("The connection to the journal's cluster is gone", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			o.Logger.Info("Connected to the journal's cluster again", "server", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) && time.Since(told) > progressEvery {
				told = time.Now()
				o.Logger.Warn("The relay lacks a permission of the journal's cluster: --journal.nats-creds, or the user in --journal.nats-url", "err", err)
				return
			}
			o.Logger.Debug("The journal's connection", "err", err)
		}),
	}
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	conn, err := nats.Connect(c.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, refusal(err))
	}
	e := &engine{conn: conn}
	if err := e.openShared(ctx, o); err != nil {
		e.close()
		return nil, err
	}
	o.Logger.Info("The journal is in a NATS cluster", "server", conn.ConnectedUrlRedacted(), "stream", c.Stream)
	return e, nil
}

// errUnfit is the error for a stream that could lose what was acknowledged.
var errUnfit = errors.New("the stream is not fit to be a journal")

// openShared finds or makes the stream and the object stores in a cluster. A stream
// that is there stays as it is. ctx has no deadline, so that each request has its own:
// a cluster that is electing its leaders answers some of them never.
func (e *engine) openShared(ctx context.Context, o *Options) (err error) {
	c := o.Cluster
	if e.js, err = jetstream.New(e.conn, jetstream.WithDefaultTimeout(requestTime)); err != nil {
		return err
	}
	e.stream, err = e.js.Stream(ctx, c.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		e.stream, err = e.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: c.Stream, Subjects: []string{subject + "." + c.Stream}, Storage: jetstream.FileStorage,
			Discard: jetstream.DiscardNew, MaxBytes: o.MaxBytes, MaxMsgSize: -1, Replicas: c.Replicas,
		})
		if err == nil {
			o.Logger.Warn("The journal's stream was not there and is made", "stream", c.Stream, "replicas", c.Replicas, "max_bytes", o.MaxBytes)
		} else if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another relay was faster
			e.stream, err = e.js.Stream(ctx, c.Stream)
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w%s", c.Stream, err, hint(err))
	}
	info := e.stream.CachedInfo()
	if why := unfit(&info.Config); why != "" {
		return fmt.Errorf("%w: %s %s", errUnfit, c.Stream, why)
	}
	if n := info.Config.Replicas; n != c.Replicas {
		o.Logger.Warn("The journal's stream has another number of replicas than --journal.nats-replicas", "has", n, "flag", c.Replicas)
	}
	e.subject, e.maxMessage = info.Config.Subjects[0], int(info.Config.MaxMsgSize)
	e.buckets = newBuckets(c.Stream+"-checkpoints", info.Config.Replicas, o.Logger)
	_, err = e.objectStores(ctx)
	return err
}

// refusal names the settings behind an error of connecting.
func refusal(err error) string {
	switch text := strings.ToLower(err.Error()); {
	case strings.Contains(text, "unknown authority"):
		return ": --journal.nats-ca"
	case errors.As(err, new(x509.HostnameError)):
		return ": its certificate is for other names than --journal.nats-url has"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return ": it has no TLS, as --journal.nats-url, --journal.nats-ca or --journal.nats-cert want"
	case strings.Contains(text, "remote error: tls"), strings.Contains(text, "after tls handshake"):
		return ": it wants a certificate that it trusts: --journal.nats-cert, --journal.nats-key"
	case strings.Contains(text, "authorization"), strings.Contains(text, "authentication"):
		return ": --journal.nats-creds, or user and password in --journal.nats-url"
	case strings.Contains(text, "nkeys:"), strings.Contains(text, "no nkey"), strings.Contains(text, "signature"):
		return ": --journal.nats-creds"
	}
	return ""
}

// hint names the setting behind an error of a server.
func hint(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "replicas > 1 not supported"), strings.Contains(text, "no suitable peers"):
		return ": --journal.nats-replicas"
	case strings.Contains(text, "insufficient"), strings.Contains(text, "resource"):
		return ": --journal.max-bytes is reserved on each server"
	}
	return ""
}

// unfit says what of a stream's settings would lose records, or keep them from a
// relay; "" if nothing does.
func unfit(c *jetstream.StreamConfig) string {
	switch {
	case len(c.Subjects) != 1 || strings.ContainsAny(c.Subjects[0], "*>"):
		return "must have one subject, without wildcards"
	case c.Retention != jetstream.LimitsPolicy:
		return "must have the retention policy limits"
	case c.Discard != jetstream.DiscardNew:
		return "must discard new messages, not old ones"
	case c.MaxAge > 0 || c.MaxMsgs > 0 || c.MaxMsgsPerSubject > 0:
		return "must have no limit in age or messages"
	case c.Storage != jetstream.FileStorage:
		return "must be in files"
	case c.DenyPurge || c.Sealed || c.NoAck || c.Mirror != nil || len(c.Sources) > 0:
		return "must take messages of its own, acknowledge and be purged"
	case c.MaxMsgSize > 0 && c.MaxMsgSize < minMessage:
		return fmt.Sprintf("must take messages of %d bytes", minMessage)
	}
	return ""
}

// minMessage is the least message that a journal can do with: what belongs to a
// record besides its body must fit a quarter of it.
const minMessage = 64 << 10

// cutting is how records are cut for messages that the servers take: 1 MiB by
// default.
func (e *engine) cutting() cutting {
	if e.server != nil {
		return cutting{body: maxBody, refused: maxRefused}
	}
	n := int(e.conn.MaxPayload())
	if e.maxMessage > 0 {
		n = min(n, e.maxMessage)
	}
	n = max(minMessage, min(n, maxPayload))
	return cutting{body: n / 2, refused: n / 4 / 5}
}

// keep connects to the cluster until it works, and looks after it from then on.
func (j *Journal) keep() {
	pause, told := reconnectWait, time.Time{}
	for {
		wait := lookEvery
		if e := j.current(); e != nil && !e.conn.IsClosed() && !j.look(e) {
			pause = reconnectWait
			if err := e.conn.LastError(); err != nil && e.conn.IsReconnecting() && time.Since(told) > progressEvery {
				told = time.Now()
				j.log.Warn("The journal's cluster cannot be reached again yet", "url", redacted(j.opts.Cluster.URL), "err", fmt.Errorf("%w%s", err, refusal(err)))
			}
		} else if err := j.reconnect(); err != nil {
			if errors.Is(err, errUnfit) {
				j.follow.fail(err)
				return
			}
			if time.Since(told) > progressEvery {
				told = time.Now()
				j.log.Warn("The journal's cluster cannot be used yet", "url", redacted(j.opts.Cluster.URL), "err", err)
			}
			wait = pause + rand.N(pause)
			pause = min(2*pause, maxPause)
		} else {
			pause, wait = reconnectWait, 0
		}
		select {
		case <-j.closing:
			return
		case <-time.After(wait):
		}
	}
}

const maxPause = 5 * time.Second

func (j *Journal) reconnect() error {
	ctx, cancel := j.untilClosed()
	defer cancel()
	e, err := connect(ctx, &j.opts)
	if err != nil {
		return err
	}
	j.engineMu.Lock()
	old := j.engine
	j.engine = e
	j.engineMu.Unlock()
	if old != nil {
		old.close()
		j.metrics.reopened.Inc()
	}
	return nil
}

// untilClosed returns a context that ends when the journal is closed.
func (j *Journal) untilClosed() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-j.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// redacted are addresses without the passwords in them.
func redacted(urls string) string {
	return regexp.MustCompile(`//[^/@,]*@`).ReplaceAllString(urls, "//xxxxx@")
}
