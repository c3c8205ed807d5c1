package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	stallTime = 100 * time.Millisecond
	lookEvery = 50 * time.Millisecond
	reopenPause = 50 * time.Millisecond
	// nats.go 1.55 leaves it behind now and then after an object's Put: it waits on a
	// channel that was set to nil before it looked.
	leaked := goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect")
	code := m.Run()
	// A server that is gone deletes files for a while: goleak itself waits half a second.
	for deadline := time.Now().Add(time.Minute); code == 0; {
		err := goleak.Find(leaked)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(Options{Path: dir, MaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func record(i int) *Record {
	return &Record{Kind: WriteV1, Edge: fmt.Sprint("edge", i%3), Received: int64(i), TTL: 5, MinTTL: 1, MaxTTL: math.MaxInt64,
		Refused: []uint32{1, uint32(i + 2)}, Body: fmt.Appendf(nil, "body %d", i)}
}

func (j *Journal) mustAppend(t *testing.T, r *Record) {
	t.Helper()
	applied := false
	if err := j.Append(context.Background(), r, func() { applied = true }); err != nil || !applied {
		t.Fatalf("applied %v: %v", applied, err)
	}
}

// replayed is all that a journal hands out.
func replayed(t *testing.T, j *Journal) (pieces []string, records []Record, p Progress) {
	t.Helper()
	p, err := j.Replay(context.Background(), func(piece []byte) error {
		pieces = append(pieces, string(piece))
		return nil
	}, func(r *Record) error {
		c := *r
		c.Body = slices.Clone(r.Body)
		records = append(records, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pieces, records, p
}

// A journal that has been replayed says so, also one that was empty: alerts on edges wait
// for it.
func TestReplayedRatio(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		j := open(t, dir)
		ratio := func() float64 {
			var m dto.Metric
			if err := j.metrics.replayed.Write(&m); err != nil {
				t.Fatal(err)
			}
			return m.GetGauge().GetValue()
		}
		if got := ratio(); got != 0 {
			t.Errorf("round %d: %v before the replay", round, got)
		}
		replayed(t, j)
		if got := ratio(); got != 1 {
			t.Errorf("round %d: %v after it", round, got)
		}
		j.mustAppend(t, record(round))
		j.Close()
	}
}

func TestReplayHasWhatWasAppended(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range 50 {
		j.mustAppend(t, record(i))
	}
	j.Close()
	j = open(t, dir)
	defer j.Close()
	_, records, p := replayed(t, j)
	if len(records) != 50 || p.Records != 50 || !p.Whole() {
		t.Fatalf("%d records, %+v", len(records), p)
	}
	for i, r := range records {
		if fmt.Sprintf("%+v", r) != fmt.Sprintf("%+v", *record(i)) {
			t.Errorf("%+v, want %+v", r, *record(i))
		}
	}
}

// A body longer than a message is split, and put together between others.
func TestLongBodies(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	long := bytes.Repeat([]byte("0123456789abcdef"), (3*maxBody+17)/16)
	var wait sync.WaitGroup
	for i := range 3 {
		wait.Go(func() {
			r := record(i)
			r.Body = append([]byte{byte(i)}, long...)
			j.mustAppend(t, r)
		})
	}
	wait.Wait()
	j.Close()
	j = open(t, dir)
	defer j.Close()
	_, records, _ := replayed(t, j)
	if len(records) != 3 {
		t.Fatalf("%d records", len(records))
	}
	for _, r := range records {
		if !bytes.Equal(r.Body[1:], long) {
			t.Errorf("a body of %d bytes, want %d", len(r.Body), len(long)+1)
		}
	}
}

func dumpOf(pieces ...string) func(func([]byte) error) error {
	return func(piece func([]byte) error) error {
		for _, p := range pieces {
			if err := piece([]byte(p)); err != nil {
				return err
			}
		}
		return nil
	}
}

// A checkpoint replaces the records before it; the two latest are kept, and the
// records since the older one.
func TestCheckpoints(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range 40 {
		j.mustAppend(t, record(i))
		if i%10 == 9 {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("state ", i), "more")); err != nil {
				t.Fatal(err)
			}
		}
	}
	j.mustAppend(t, record(40))
	j.Close()
	j = open(t, dir)
	pieces, records, p := replayed(t, j)
	if !slices.Equal(pieces, []string{"state 39", "more"}) || len(records) != 1 || records[0].Received != 40 || p.Checkpoint != 40 || !p.Whole() {
		t.Fatalf("%q, %d records, %+v", pieces, len(records), p)
	}
	info, _ := j.engine.stream.Info(t.Context())
	list, _ := j.engine.checkpoints(t.Context())
	if info.State.FirstSeq != 31 || len(list) != kept {
		t.Errorf("the stream begins at %d, %d checkpoints", info.State.FirstSeq, len(list))
	}
	// The newest one does not work: the one before and what follows it do.
	if _, err := list[0].in.store.PutBytes(t.Context(), list[0].name, []byte(checkpointMagic+"\x05\x00\x00\x00....abcde")); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = open(t, dir)
	defer j.Close()
	pieces, records, p = replayed(t, j)
	if !slices.Equal(pieces, []string{"state 29", "more"}) || len(records) != 11 || p.Damaged != 1 || p.Lost != 0 {
		t.Fatalf("%q, %d records, %+v", pieces, len(records), p)
	}
}

// A record that is acknowledged and not applied yet is not covered by a
// checkpoint that is made meanwhile.
func TestCheckpointWaitsForNobody(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	j.mustAppend(t, record(0))
	err := j.Append(t.Context(), record(1), func() {
		j.mustAppend(t, record(2))
		if err := j.Checkpoint(t.Context(), dumpOf("0 and 2")); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = open(t, dir)
	defer j.Close()
	_, records, p := replayed(t, j)
	if len(records) != 2 || records[0].Received != 1 || p.Checkpoint != 1 {
		t.Errorf("%d records from %+v, %+v", len(records), records, p)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	defer j.Close()
	if second, err := Open(Options{Path: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		if err == nil {
			second.Close()
		}
		t.Errorf("opened twice: %v", err)
	}
}

func TestFullJournalRefuses(t *testing.T) {
	j, err := Open(Options{Path: t.TempDir(), MaxBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	r := record(0)
	r.Body = make([]byte, 1<<20)
	n := 0
	for ; n < 30 && err == nil; n++ {
		err = j.Append(t.Context(), r, func() {})
	}
	if !errors.Is(err, ErrFull) || n < 10 {
		t.Fatalf("after %d records of 1 MiB: %v", n, err)
	}
	// Two checkpoints free what is before the older one, and it goes on.
	for i := range 2 {
		if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if j.current() == nil {
		t.Error("being full was taken for a fault")
	}
}

// A journal of a newer relay is not touched.
func TestNewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	data := record(0).append(nil, part{total: 1}, []byte("x"))
	data[0] = version + 1
	if _, err := j.engine.js.Publish(t.Context(), subject, data); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = open(t, dir)
	defer j.Close()
	if _, err := j.Replay(t.Context(), nil, func(*Record) error { return nil }); !errors.Is(err, ErrVersion) {
		t.Errorf("replayed: %v", err)
	}
}

// An older relay reads the journal of this one, unless there is something in it that it
// does not know.
func TestVersionsOfRecords(t *testing.T) {
	for kind, want := range map[Kind]byte{WriteV1: 2, WriteV2: 2, GroupReplace: 2, GroupMerge: 2, GroupDelete: 2, Wipe: 2, SeriesDelete: 4} {
		r := record(3)
		r.Kind = kind
		data := r.append(nil, part{total: 1}, r.Body)
		if data[0] != want {
			t.Errorf("kind %d is written in version %d, want %d", kind, data[0], want)
		}
		if got, _, err := parse(data); err != nil || got.Kind != kind || got.Received != r.Received {
			t.Errorf("kind %d: %v, %+v", kind, err, got)
		}
	}
}

// Each bit of a record is covered: flipped, the record is left out, the others
// are not.
func TestDamagedRecords(t *testing.T) {
	data := record(7).append(nil, part{total: 1}, record(7).Body)
	for i := range data {
		for bit := range 8 {
			bad := slices.Clone(data)
			bad[i] ^= 1 << bit
			if r, _, err := parse(bad); err == nil && i != 0 {
				t.Errorf("byte %d bit %d: read %+v", i, bit, r)
			}
		}
		if _, _, err := parse(data[:i]); err == nil {
			t.Errorf("read a record cut at %d", i)
		}
	}
	dir := t.TempDir()
	j := open(t, dir)
	j.mustAppend(t, record(0))
	data[20] ^= 1
	if _, err := j.engine.js.Publish(t.Context(), subject, data); err != nil {
		t.Fatal(err)
	}
	j.mustAppend(t, record(2))
	j.Close()
	j = open(t, dir)
	defer j.Close()
	_, records, p := replayed(t, j)
	if len(records) != 2 || p.Damaged != 1 || p.Whole() {
		t.Errorf("%d records, %+v", len(records), p)
	}
	// Nothing is taken until what is left is saved.
	full := errors.New("full")
	if err := j.Checkpoint(t.Context(), func(func([]byte) error) error { return full }); err == nil {
		t.Error("a checkpoint that failed is taken for one")
	}
	if err := j.Append(t.Context(), record(3), func() { t.Error("applied") }); !errors.Is(err, ErrUnavailable) || j.Behind() == nil {
		t.Errorf("before a checkpoint: %v", err)
	}
	if err := j.Checkpoint(t.Context(), dumpOf("left")); err != nil {
		t.Fatal(err)
	}
	if j.mustAppend(t, record(3)); j.Behind() != nil {
		t.Error(j.Behind())
	}
}

// Bytes on the disk are flipped and cut: it starts, and has what is not damaged.
func TestDamagedStore(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	const n = 200
	for i := range n {
		j.mustAppend(t, record(i))
	}
	j.Close()
	blocks := blocks(streamDir(dir))
	if len(blocks) != 1 {
		t.Fatal(blocks)
	}
	whole, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	var offsets []int
	for step := range 12 {
		offsets = append(offsets, len(whole)*step/12)
	}
	for i := 0; i < len(whole)/n; i++ { // each byte of one record's header, some of its body
		if i > blockHeader+len(subject) {
			i += 5
		}
		offsets = append(offsets, 50*len(whole)/n+i)
	}
	for _, at := range offsets {
		for what, damaged := range map[string][]byte{
			"flipped": append(append(slices.Clone(whole[:at]), whole[at]^0x10), whole[at+1:]...),
			"cut":     whole[:at],
		} {
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(dir, blocks[0])
			if err := os.WriteFile(filepath.Join(copied, rel), damaged, 0o666); err != nil {
				t.Fatal(err)
			}
			j := open(t, copied)
			_, records, p := replayed(t, j)
			lost := 1 // a flip costs one record, a cut what is behind it
			if what == "cut" {
				lost = n - n*at/len(whole) + 2
			}
			if len(records) < n-lost {
				t.Errorf("%s at byte %d of %d: %d of %d records; %+v", what, at, len(whole), len(records), n, p)
			}
			for _, r := range records {
				if want := record(int(r.Received)); fmt.Sprintf("%+v", r) != fmt.Sprintf("%+v", *want) {
					t.Errorf("%s at %d: %+v was never written", what, at, r)
				}
			}
			if !p.Whole() {
				if err := j.Checkpoint(t.Context(), dumpOf("what is left")); err != nil {
					t.Fatal(err)
				}
			}
			j.mustAppend(t, record(n)) // and it goes on
			j.Close()
		}
	}
}

// After a fault of the engine appends fail, until it has been reopened, by itself.
func TestReopens(t *testing.T) {
	j := open(t, t.TempDir())
	defer j.Close()
	j.mustAppend(t, record(0))
	j.engine.server.Shutdown()
	if err := j.Append(t.Context(), record(1), func() { t.Error("applied") }); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("without an engine: %v", err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err := j.Append(t.Context(), record(2), func() {}); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not reopened")
		}
	}
	_, records, p := replayed(t, j)
	if len(records) < 2 || records[len(records)-1].Received != 2 || !p.Whole() {
		t.Errorf("%+v, %+v", records, p)
	}
}

// slowStream does not answer the first times that it is asked for a message.
type slowStream struct {
	jetstream.Stream
	left int
}

func (s *slowStream) GetMsg(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	if s.left--; s.left >= 0 {
		return nil, context.DeadlineExceeded // as jetstream after its five seconds
	}
	return s.Stream.GetMsg(ctx, seq, opts...)
}

// An engine that is slow has not lost what it is asked for.
func TestSlowEngineLosesNothing(t *testing.T) {
	for left, lost := range map[int]uint64{6: 0, 2 * slowTries: 2} {
		j := open(t, t.TempDir())
		for i := range 3 {
			j.mustAppend(t, record(i))
		}
		e := *j.current()
		e.stream = &slowStream{e.stream, left}
		var p Progress
		n := 0
		r := replaying{j: j, e: &e, next: 1, last: 3, apply: func(*Record) error { n++; return nil }, parts: assembly{}, p: &p}
		for r.next <= r.last {
			if err := r.stepOver(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n != 3-int(lost) || p.Lost != lost {
			t.Errorf("silent %d times: %d records, %d lost, want %d", left, n, p.Lost, lost)
		}
		j.Close()
	}
}

// What was never finished does not keep out what is.
func TestUnfinishedRecordsGo(t *testing.T) {
	a := assembly{}
	for id := range uint64(3 * maxPartial) {
		if a.add(&Record{Body: []byte("x")}, part{id: id, total: 2}) {
			t.Fatal("half of a record is whole")
		}
		r := &Record{Body: []byte("a")}
		whole := part{id: 1 << 32, total: 2}
		a.add(r, whole)
		whole.index = 1
		if r = (&Record{Body: []byte("b")}); !a.add(r, whole) || string(r.Body) != "ab" {
			t.Fatalf("behind %d that are not finished one that is gets lost", id+1)
		}
	}
	if len(a) > maxPartial {
		t.Errorf("%d are held", len(a))
	}
}
