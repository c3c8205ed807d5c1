package journal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// chunks is how many objects have chunks in the buckets, described or not.
func chunks(t *testing.T, e *engine) (n int) {
	t.Helper()
	stores, err := e.objectStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stores {
		info, err := s.stream.Info(t.Context(), jetstream.WithSubjectFilter("$O."+s.name+".C.>"))
		if err != nil {
			t.Fatal(err)
		}
		n += len(info.State.Subjects)
	}
	return n
}

// noise does not compress.
func noise(size int) []byte {
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// What a relay leaves behind that dies while it writes a checkpoint goes with the next
// one: it does not pile up, however often that happens.
func TestDiesWhileItWritesACheckpoint(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for round := range 3 {
		for i := range 3 {
			j.mustAppend(t, record(i))
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("round ", round), string(noise(600<<10)))); err != nil {
				t.Fatal(err)
			}
		}
		j.mustAppend(t, record(3))
		whole := chunks(t, j.engine)
		dead := ""
		err := j.Checkpoint(t.Context(), func(piece func([]byte) error) error {
			if err := piece(noise(3 << 20)); err != nil {
				return err
			}
			for deadline := time.Now().Add(2 * time.Minute); chunks(t, j.engine) == whole; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					return errors.New("nothing is written")
				}
			}
			dead = copyOf(t, dir) // the disk at this moment
			return errors.New("died")
		})
		if err == nil || whole != kept {
			t.Fatal(whole, err)
		}
		j.Close()
		dir = dead
		j = open(t, dir)
		pieces, records, p := replayed(t, j)
		if len(pieces) != 2 || pieces[0] != fmt.Sprint("round ", round) || len(records) != 1 || !p.Whole() {
			t.Fatalf("%d pieces, %d records, %+v", len(pieces), len(records), p)
		}
		if n := chunks(t, j.engine); n != kept+1 {
			t.Fatalf("the test left chunks of %d objects behind, want one that is not described", n)
		}
	}
	if err := j.Checkpoint(t.Context(), dumpOf("the next")); err != nil {
		t.Fatal(err)
	}
	if n := chunks(t, j.engine); n != kept {
		t.Errorf("there are chunks of %d objects, want %d", n, kept)
	}
	j.Close()
}

// Chunks that another relay may be about to describe are left alone; old ones are not.
func TestSweepBesideOthers(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := start(t, c.options())
	s.mustAdd(record(0))
	s.mustCheckpoint("x")
	stores, err := s.current().objectStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range stores {
		if _, err := s.current().js.Publish(t.Context(), "$O."+o.name+".C.abcdefghijklmnopqrstuv", []byte("being written")); err != nil {
			t.Fatal(err)
		}
	}
	s.mustAdd(record(1))
	s.mustCheckpoint("y")
	if n := chunks(t, s.current()); n != 4 {
		t.Errorf("there are chunks of %d objects, want 2 and 2 that are being written", n)
	}
	for _, o := range stores {
		if n, err := o.sweep(t.Context(), 0); n != 1 || err != nil {
			t.Errorf("%d are removed: %v", n, err)
		}
	}
	if n := chunks(t, s.current()); n != 2 {
		t.Errorf("there are chunks of %d objects, want 2", n)
	}
}

// Two checkpoints are what the disk holds between one and the next, and a block of 8 MB
// in each bucket that is freed when it is left.
func TestDiskOfCheckpoints(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	defer j.Close()
	const size, block = 4 << 20, 8 << 20
	most := int64(0)
	for i := range 24 {
		j.mustAppend(t, record(i))
		if err := j.Checkpoint(t.Context(), dumpOf(string(noise(size)))); err != nil {
			t.Fatal(err)
		}
		used := int64(0)
		filepath.WalkDir(filepath.Join(dir, "jetstream"), func(path string, d fs.DirEntry, err error) error {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				used += info.Size()
			}
			return nil
		})
		most = max(most, used)
	}
	t.Logf("at most %.1f times the size of one", float64(most)/size)
	if limit := int64(2*size + 2*block + 1<<20); most > limit {
		t.Errorf("%d bytes for two checkpoints of %d, want %d at most", most, size, limit)
	}
}

// A journal of an older relay has both checkpoints in one bucket. It is read, and they
// part at the next occasion, even if nothing happens any more.
func TestOlderJournalHasOneBucket(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range 10 {
		j.mustAppend(t, record(i))
	}
	stores, err := j.engine.objectStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{6, 10} { // as the older relay did
		var b bytes.Buffer
		if err := writeCheckpoint(&b, dumpOf(fmt.Sprint("up to ", cut))); err != nil {
			t.Fatal(err)
		}
		if _, err := stores[0].store.PutBytes(t.Context(), fmt.Sprintf("%s%020d", checkpointPrefix, cut), b.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(j.engine.purge(t.Context(), 6), j.engine.js.DeleteObjectStore(t.Context(), stores[1].name)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = open(t, dir)
	pieces, records, p := replayed(t, j)
	if !slices.Equal(pieces, []string{"up to 10"}) || len(records) != 0 || !p.Whole() {
		t.Fatalf("%q, %d records, %+v", pieces, len(records), p)
	}
	for range 2 { // the second changes nothing
		if err := j.Checkpoint(t.Context(), dumpOf("up to 10, anew")); err != nil {
			t.Fatal(err)
		}
		list, err := j.engine.checkpoints(t.Context())
		if err != nil || len(list) != kept || list[0].cut != 10 || list[1].cut != 10 || list[0].in.name == list[1].in.name {
			t.Fatalf("%+v, %v", list, err)
		}
	}
	j.Close()
	j = open(t, dir)
	defer j.Close()
	if pieces, _, p := replayed(t, j); !slices.Equal(pieces, []string{"up to 10, anew"}) || !p.Whole() {
		t.Errorf("%q, %+v", pieces, p)
	}
}

// Of shared checkpoints those are kept that share no bucket, where there are such.
func TestKeptShared(t *testing.T) {
	of := func(cut uint64, bucket string) checkpoint { return checkpoint{cut: cut, in: objectStore{name: bucket}} }
	for _, c := range []struct{ list, want []checkpoint }{
		{nil, nil},
		{[]checkpoint{of(5, "a")}, []checkpoint{of(5, "a")}},
		{[]checkpoint{of(5, "a"), of(4, "b"), of(3, "a")}, []checkpoint{of(5, "a"), of(4, "b")}},
		{[]checkpoint{of(5, "a"), of(4, "a"), of(3, "b")}, []checkpoint{of(5, "a"), of(3, "b")}},
		{[]checkpoint{of(5, "a"), of(4, "a"), of(3, "a")}, []checkpoint{of(5, "a"), of(4, "a")}},
	} {
		if got := keptShared(c.list); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("of %v %v are kept, want %v", c.list, got, c.want)
		}
	}
}

// The bucket that is damaged may not be made again: one is enough until then.
func TestOneBucketIsEnough(t *testing.T) {
	j := open(t, t.TempDir())
	defer j.Close()
	stores, err := j.engine.objectStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := []checkpoint{{cut: 1, in: stores[0]}}
	if into, free := turnOf(stores, good, good, findings{}); into.name != stores[1].name || !free {
		t.Errorf("into %s, free %v", into.name, free)
	}
	if into, free := turnOf(stores[:1], good, good, findings{damage: true}); into.name != stores[0].name || free {
		t.Errorf("with one bucket: into %s, free %v", into.name, free)
	}
	// Of a stream that was lost: what was read is not what is written over first.
	if into, _ := turnOf(stores, good, nil, findings{loaded: good[0].id()}); into.name != stores[1].name {
		t.Errorf("into %s, where the only one lies that could be read", into.name)
	}
}

// Where nothing happens no checkpoint is written, and the last one is not old for that;
// after a restart it is as old as the one that was loaded.
func TestNothingToCheckpoint(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	replayed(t, j)
	if at := j.Status().Checkpoint; !at.IsZero() {
		t.Errorf("a new journal has a checkpoint of %s", at)
	}
	begun := time.Now().Truncate(time.Second)
	j.mustAppend(t, record(0))
	for range kept {
		if err := j.Checkpoint(t.Context(), dumpOf("all")); err != nil {
			t.Fatal(err)
		}
	}
	written := j.Status().Checkpoint
	for _, full := range []bool{false, true} {
		j.metrics.checkpointed(time.UnixMilli(1000))
		j.refused.Store(full)
		if err := j.Checkpoint(t.Context(), func(func([]byte) error) error { return errors.New("it is written") }); err != nil {
			t.Fatal(err)
		}
		if at := j.Status().Checkpoint; at.Before(written) {
			t.Errorf("there was nothing to write, full %v: the last checkpoint is of %s", full, at)
		}
	}
	j.Close()

	j = open(t, dir)
	defer j.Close()
	replayed(t, j)
	if at := j.Status().Checkpoint; at.Before(begun) || at.After(written.Add(time.Second)) {
		t.Errorf("loaded is a checkpoint of %s, written by %s", at, written)
	}
}

// The same where relays share a journal; what another has written counts as well.
func TestNothingToCheckpointBesideOthers(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	opts := c.options()
	opts.Cluster.Fresh = time.Hour
	s := start(t, opts)
	s.mustAdd(record(0))
	s.mustCheckpoint("x") // there was none
	old := time.UnixMilli(1000)
	s.metrics.checkpointed(old)
	s.mustCheckpoint("fresh")
	if at := s.Status().Checkpoint; time.Since(at) > 10*time.Minute {
		t.Errorf("a fresh checkpoint is of %s", at)
	}
	s.opts.Cluster.Fresh = 0
	s.mustCheckpoint("apart")
	s.metrics.checkpointed(old)
	if err := s.Checkpoint(t.Context(), func(func([]byte) error) error { return errors.New("it is written") }); err != nil {
		t.Fatal(err)
	}
	if at := s.Status().Checkpoint; time.Since(at) > 10*time.Minute {
		t.Errorf("there was nothing to write, the last checkpoint is of %s", at)
	}
}
