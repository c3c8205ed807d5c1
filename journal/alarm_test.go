package journal

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) wait(t *testing.T, what string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		ok := strings.Contains(s.b.String(), what)
		s.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody says %q", what)
		}
	}
}

// It is said before the journal is full, and after it has been freed.
func TestNearlyFullIsSaid(t *testing.T) {
	defer func(was time.Duration) { alarmEvery = was }(alarmEvery)
	alarmEvery = 50 * time.Millisecond
	logs := &said{}
	j, err := Open(Options{Path: t.TempDir(), MaxBytes: 16 << 20, Logger: slog.New(slog.NewTextHandler(logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	r := record(0)
	r.Body = make([]byte, 1<<20)
	for range 14 {
		j.mustAppend(t, r)
	}
	logs.wait(t, "near its limit")
	for err == nil {
		err = j.Append(t.Context(), r, func() {})
	}
	if !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	// Full, with nothing that can happen any more, and no checkpoint yet: those that are
	// due free it, and leave two behind that have everything.
	for n := 0; j.Append(t.Context(), r, func() {}) != nil; n++ {
		if n == 5 {
			t.Fatal("it stays full")
		}
		select {
		case <-j.Due():
		case <-time.After(20 * time.Second):
			t.Fatal("no checkpoint is due")
		}
		if err := j.Checkpoint(t.Context(), dumpOf("all")); err != nil {
			t.Fatal(err)
		}
	}
	list, err := j.engine.checkpoints(t.Context())
	if err != nil || len(list) != kept || list[0].cut != list[1].cut {
		t.Errorf("checkpoints: %+v, %v", list, err)
	}
	logs.wait(t, "no longer near its limit")
}

// What the checkpoint that is there twice has is there twice.
func TestCheckpointTwice(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(Options{Path: dir, MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r := record(0)
	r.Body = make([]byte, 1<<20)
	for err == nil {
		err = j.Append(t.Context(), r, func() {})
	}
	for range 3 {
		if err := j.Checkpoint(t.Context(), dumpOf("all")); err != nil {
			t.Fatal(err)
		}
	}
	j.mustAppend(t, record(7))
	newest, err := j.engine.checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newest[0].in.store.PutBytes(t.Context(), newest[0].name, []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = open(t, dir)
	defer j.Close()
	pieces, records, p := replayed(t, j)
	if len(pieces) != 1 || pieces[0] != "all" || len(records) != 1 || records[0].Received != 7 || p.Lost != 0 {
		t.Errorf("%q, %d records, %+v", pieces, len(records), p)
	}
}
