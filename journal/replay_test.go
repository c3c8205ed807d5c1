package journal

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A silentJetStream is an engine that gives nothing of what is on its disk while it is
// silent, in some respect.
type silentJetStream struct {
	jetstream.JetStream
	silent       *atomic.Bool
	descriptions bool // of checkpoints; else what is in them
}

func (s *silentJetStream) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	of, err := s.JetStream.Stream(ctx, name)
	if s.descriptions {
		return of, err
	}
	return &silentStream{of, s.silent}, err
}

func (s *silentJetStream) ObjectStore(ctx context.Context, name string) (jetstream.ObjectStore, error) {
	of, err := s.JetStream.ObjectStore(ctx, name)
	if !s.descriptions {
		return of, err
	}
	return &silentObjects{of, s.silent}, err
}

type silentStream struct {
	jetstream.Stream
	silent *atomic.Bool
}

func (s *silentStream) GetMsg(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	if s.silent.Load() {
		return nil, context.DeadlineExceeded
	}
	return s.Stream.GetMsg(ctx, seq, opts...)
}

func (s *silentStream) OrderedConsumer(ctx context.Context, c jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	if s.silent.Load() {
		return nil, context.DeadlineExceeded
	}
	return s.Stream.OrderedConsumer(ctx, c)
}

type silentObjects struct {
	jetstream.ObjectStore
	silent *atomic.Bool
}

func (s *silentObjects) GetInfo(ctx context.Context, name string, opts ...jetstream.GetObjectInfoOpt) (*jetstream.ObjectInfo, error) {
	if s.silent.Load() {
		return nil, context.DeadlineExceeded
	}
	return s.ObjectStore.GetInfo(ctx, name, opts...)
}

// A disk that hangs while a journal is replayed is waited for: nothing is taken to be
// damaged or lost. It is a pipe among the blocks, which nobody can read to its end before
// the writer closes it.
func TestDiskHangsAtTheStart(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range 9 {
		j.mustAppend(t, record(i))
		if i%3 == 2 && i < 8 {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	j.Close()
	for _, silent := range []string{"stream", "checkpoint", "description"} {
		t.Run(silent, func(t *testing.T) {
			j := open(t, dir)
			defer j.Close()
			var hangs atomic.Bool
			hangs.Store(true)
			if silent == "stream" {
				j.engine.stream = &silentStream{j.engine.stream, &hangs}
			} else {
				j.engine.js = &silentJetStream{j.engine.js, &hangs, silent == "description"}
			}
			pipe := filepath.Join(streamDir(dir), "msgs", "1000.blk")
			if silent != "stream" {
				pipe = filepath.Join(engineDir(dir, bucketStream(bucket)), "msgs", "1000.blk")
			}
			if err := syscall.Mkfifo(pipe, 0o666); err != nil {
				t.Fatal(err)
			}
			released := make(chan error, 1)
			go func() {
				for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
					w, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
					if err == nil { // somebody reads
						hangs.Store(false)
						os.Remove(pipe)
						w.Close()
						released <- nil
						return
					}
					if time.Now().After(deadline) {
						hangs.Store(false)
						os.Remove(pipe)
						released <- err
						return
					}
				}
			}()
			var pieces string
			var records []int64
			p, err := j.Replay(t.Context(), func(piece []byte) error {
				pieces, records = string(piece), nil
				return nil
			}, func(r *Record) error {
				records = append(records, r.Received)
				return nil
			})
			if err != nil || !p.Whole() || p.Checkpoint != 6 || p.Records != 3 || pieces != "5" || !slices.Equal(records, []int64{6, 7, 8}) {
				t.Errorf("%v, %+v, pieces %q, records %v", err, p, pieces, records)
			}
			if err := <-released; err != nil {
				t.Error("nobody asked the disk: ", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "probe-*")); len(left) > 0 {
				t.Errorf("%q is left", left)
			}
		})
	}
}

// A disk that hangs when a journal is opened is waited for, and that is said.
func TestDiskHangsBeforeTheStart(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	j.mustAppend(t, record(0))
	j.Close()
	usual := appendTime
	appendTime = 200 * time.Millisecond
	defer func() { appendTime = usual }()
	pipe := filepath.Join(streamDir(dir), "msgs", "1000.blk")
	if err := syscall.Mkfifo(pipe, 0o666); err != nil {
		t.Fatal(err)
	}
	logs := &said{}
	opened := make(chan error, 1)
	go func() {
		var err error
		j, err = Open(Options{Path: dir, MaxBytes: 64 << 20, Logger: slog.New(slog.NewTextHandler(logs, nil))})
		opened <- err
	}()
	logs.wait(t, "not open yet")
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // who opens it waits for this
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(pipe)
	w.Close()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if _, records, p := replayed(t, j); len(records) != 1 || !p.Whole() {
		t.Errorf("%d records, %+v", len(records), p)
	}
}
