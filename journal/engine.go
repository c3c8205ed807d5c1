package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

const (
	streamName = "RELAY"
	subject    = "relay.journal"
	bucket     = "relay-checkpoints" // and a second one: see bucketNames

	maxPayload = 8 << 20
	maxBody    = 4 << 20 // longer ones are split: the engine refuses messages of 32 MiB
	maxRefused = 3 << 20 / binary.MaxVarintLen32
	startTime  = 2 * time.Minute // a large store whose index is lost is read whole
)

// An engine is JetStream, and the connection to it.
type engine struct {
	server     *server.Server // in this process; nil: in a cluster
	conn       *nats.Conn
	js         jetstream.JetStream
	stream     jetstream.Stream
	buckets    buckets
	subject    string
	maxMessage int     // of the stream; 0 or less: no limit but the server's
	direct     *writer // the short way into the stream of this process; nil: by the client
}

// startEngine starts the server on a directory.
func startEngine(o *Options) (*engine, error) {
	if err := setAside(o.Path, o.Logger); err != nil {
		return nil, err
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "relay", DontListen: true, NoSigs: true, JetStream: true, StoreDir: o.Path,
		MaxPayload: maxPayload, SyncAlways: o.SyncAlways, JetStreamMaxStore: 1 << 50, JetStreamMaxMemory: 1 << 20,
		NoSystemAccount: true,
	})
	if err != nil {
		return nil, err
	}
	fatal := make(chan error, 1)
	srv.SetLoggerV2(natsLogger{o.Logger, fatal}, false, false, false)
	e := &engine{server: srv, subject: subject}
	go srv.Start()
	for deadline := time.Now().Add(startTime); !srv.ReadyForConnections(100 * time.Millisecond); {
		select {
		case err = <-fatal:
		default:
			if time.Now().Before(deadline) {
				continue
			}
			err = fmt.Errorf("the engine did not start within %s", startTime)
		}
		e.close()
		return nil, err
	}
	if e.conn, err = nats.Connect("", nats.InProcessServer(srv), nats.NoReconnect()); err != nil {
		e.close()
		return nil, err
	}
	if err := e.open(o); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// open finds or makes the stream and the object stores.
func (e *engine) open(o *Options) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	if e.js, err = jetstream.New(e.conn); err != nil {
		return err
	}
	// Never discard what was acknowledged: a full journal refuses.
	cfg := jetstream.StreamConfig{
		Name: streamName, Subjects: []string{subject}, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardNew, MaxBytes: o.MaxBytes, MaxMsgSize: -1, Replicas: 1,
	}
	if e.stream, err = e.js.Stream(ctx, streamName); errors.Is(err, jetstream.ErrStreamNotFound) {
		e.stream, err = e.js.CreateStream(ctx, cfg)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", streamName, err)
	}
	// What is there is left alone: on a full disk it cannot be written again, and can
	// be read.
	if have := e.stream.CachedInfo().Config.MaxBytes; have != o.MaxBytes {
		if stream, err := e.js.UpdateStream(ctx, cfg); err == nil {
			e.stream = stream
		} else {
			o.Logger.Error("The journal keeps the limit that it had", "bytes", have, "err", err)
		}
	}
	e.buckets = newBuckets(bucket, 1, o.Logger)
	if _, err = e.objectStores(ctx); err != nil {
		return err
	}
	store, err := streamStore(e.server, streamName)
	if err != nil {
		o.Logger.Warn("Records take the long way into the engine, at a higher price", "err", err)
		return nil
	}
	e.direct = newWriter(store)
	return nil
}

// publish puts a message into the stream, and returns when it is safe there. After
// errStuck data may still be read.
func (e *engine) publish(ctx context.Context, data []byte) (sequence uint64, err error) {
	if e.direct != nil {
		return e.direct.write(data)
	}
	attempts := 0
	if e.server == nil {
		attempts = publishRetries
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), appendTime)
		defer cancel()
	}
	ack, err := e.js.Publish(ctx, e.subject, data, jetstream.WithRetryAttempts(attempts))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// isFull tells the error of a stream at its limit from a fault.
func isFull(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, server.ErrMaxBytes) || errors.As(err, &api) && api.Description == server.ErrMaxBytes.Error()
}

// close returns when nothing of the engine runs any more: if the disk hangs, when it
// no longer does.
func (e *engine) close() {
	if e.direct != nil {
		e.direct.close()
		defer e.direct.wait()
	}
	if e.conn != nil {
		e.conn.Close()
	}
	if e.server == nil {
		return
	}
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// lock keeps a second process off the directory: two engines on one would both
// acknowledge the same sequences.
func lock(path string) (fileutil.Releaser, error) {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, fmt.Errorf("the journal's directory %s cannot be made: %w", path, err)
	}
	l, _, err := fileutil.Flock(filepath.Join(path, "lock"))
	if err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another relay: %w", path, err)
		}
		return nil, fmt.Errorf("the journal's directory %s cannot be written: %w", path, err)
	}
	return l, nil
}

// natsLogger passes on what the engine says.
type natsLogger struct {
	log   *slog.Logger
	fatal chan<- error // what ends a start
}

func (l natsLogger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLogger) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLogger) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l natsLogger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l natsLogger) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l natsLogger) Fatalf(format string, v ...any) {
	err := fmt.Errorf(format, v...)
	l.log.Error(err.Error())
	select {
	case l.fatal <- err:
	default:
	}
}
