package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Where the journal's cluster is away, everything that says how the relay is says so:
// what /-/ready, the metric, and the status tell is one thing.
func TestStatusWithoutItsCluster(t *testing.T) {
	srv, err := server.NewServer(&server.Options{ServerName: "n1", Host: "127.0.0.1", Port: -1, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	stop := func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	defer stop()
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	r := unstarted(t, "--journal=nats", "--journal.nats-url="+srv.ClientURL(), "--journal.nats-replicas=1", "--journal.max-bytes=64MiB")
	defer r.close()
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	follow, cancel := context.WithCancel(context.Background())
	followed := make(chan error, 1)
	go func() { followed <- r.journal.Follow(follow, r.ingest.Replay) }()
	defer func() {
		cancel()
		<-followed
	}()
	web := httptest.NewServer(r.handler)
	defer web.Close()
	says := func() (s statusJSON, ready, metric bool) {
		getData(t, web.URL+"/api/v1/status", &s)
		return s, status(web.URL+"/-/ready") == 200, strings.Contains(getPage(t, web.URL+"/-/metrics"), "\nrelay_journal_up 1\n")
	}
	eventually(t, "a relay that is ready", func() bool {
		s, ready, metric := says()
		return ready && metric && s.Ready && s.Unready == "" && s.Journal.Up
	})
	if s, _, _ := says(); s.Journal.Replayed != 1 || s.Journal.Limit != 64<<20 {
		t.Errorf("%+v", s.Journal)
	}
	stop()
	eventually(t, "that the cluster is away", func() bool {
		s, ready, metric := says()
		return !ready && !metric && !s.Ready && !s.Journal.Up && strings.Contains(s.Unready, "NATS") && s.Journal.Replayed == 1
	})
}
