package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// If this fails after an update of nats-server, see streamStore: records still
// arrive, at a higher price.
func TestRecordsTakeTheShortWay(t *testing.T) {
	j := open(t, t.TempDir())
	defer j.Close()
	if j.engine.direct == nil {
		_, err := streamStore(j.engine.server, streamName)
		t.Fatal("they do not: ", err)
	}
	if _, err := streamStore(j.engine.server, "another"); err == nil {
		t.Error("a stream that is not there has a store")
	}
}

// The long way and the short way lead to the same place.
func TestBothWaysIntoTheStream(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	short := j.engine.direct
	for i := range 40 {
		if j.engine.direct = short; i%3 == 0 {
			j.engine.direct = nil
		}
		j.mustAppend(t, record(i))
		if i%10 == 9 {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		info, err := j.engine.stream.Info(t.Context())
		if err != nil || info.State.LastSeq != uint64(i+1) || j.last != uint64(i+1) {
			t.Fatalf("after record %d: %+v, %v, the journal is at %d", i, info.State, err, j.last)
		}
	}
	j.engine.direct = short
	j.Close()
	j = open(t, dir)
	defer j.Close()
	pieces, _, p := replayed(t, j)
	info, err := j.engine.stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pieces) != 1 || pieces[0] != "39" || p.Checkpoint != 40 || !p.Whole() || info.State.FirstSeq != 31 {
		t.Errorf("%q, %+v, the stream is %+v", pieces, p, info.State)
	}
}

func TestFullByTheLongWay(t *testing.T) {
	j, err := Open(Options{Path: t.TempDir(), MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	short := j.engine.direct
	j.engine.direct = nil
	defer func() { j.engine.direct = short }()
	r := record(0)
	r.Body = make([]byte, 1<<20)
	for range 8 {
		if err = j.Append(t.Context(), r, func() {}); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("over the limit: %v", err)
	}
}

// The journal is closed while records arrive: each is refused or there.
func TestClosedWhileRecordsArrive(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	var taken atomic.Int64
	var pushers sync.WaitGroup
	for range 4 {
		pushers.Go(func() {
			for i := range 100_000 {
				if err := j.Append(context.Background(), record(i), func() {}); err != nil {
					return
				}
				taken.Add(1)
			}
		})
	}
	for taken.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	pushers.Wait()
	j = open(t, dir)
	defer j.Close()
	_, records, p := replayed(t, j)
	if n := int(taken.Load()); len(records) < n || !p.Whole() {
		t.Errorf("%d records of %d, %+v", len(records), n, p)
	}
}
