// The relay takes Prometheus remote write and shows the live series on /metrics,
// each for as long as its TTL says. Its other commands check a configuration and ask
// a running relay.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"

	"relay/journal"
)

// The linker sets the version, as the Dockerfile has it do.
func init() {
	if version.Version == "" {
		version.Version = "dev"
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// run is main without the process: it ends when ctx does, or on a fault.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg, done, err := parseFlags(args, stdout)
	if done {
		return exitOK
	}
	if checking(args) {
		return checkConfig(cfg, err, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "relay: %s (see --help)\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitUsage
	}
	if cfg.remote() {
		if err := cfg.client.run(ctx, cfg.command, stdout); err != nil {
			fmt.Fprintf(stderr, "relay: %v\n", err)
			return exitFailed
		}
		return exitOK
	}
	cfg.log.Writer = stderr
	log := promslog.New(&cfg.log)
	log.Info("Starting the relay", "version", version.Info())
	log.Info("Build context", "build_context", version.BuildContext())

	for {
		r, err := newRelay(cfg, log)
		if err != nil {
			log.Error("Cannot start", "err", err)
			return exitFailed
		}
		err = r.serve(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, journal.ErrStartOver) {
			log.Error("Stopped", "err", err)
			return exitFailed
		}
		log.Warn("Starting over", "err", err)
	}
	log.Info("Stopped, all accepted requests were answered")
	return exitOK
}
