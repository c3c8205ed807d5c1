package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// reopen has the engine closed and started again, and returns when it has been.
func (j *Journal) reopen(t *testing.T) {
	t.Helper()
	before := counter(t, j.metrics.reopened)
	j.failed(errors.New("a write error"))
	for deadline := time.Now().Add(2 * time.Minute); counter(t, j.metrics.reopened) == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not reopened")
		}
	}
}

// A stream that is found damaged, or gone, when the engine is reopened begins anew, while
// memory has it all: nothing is taken before a checkpoint has that, too, and what is
// acknowledged then is there at the next start. So it is after a crash before that.
func TestReopensWithAnotherStream(t *testing.T) {
	stream := func(dir string) []byte {
		data, err := os.ReadFile(blocks(streamDir(dir))[0])
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	damages := map[string]func(dir string, data []byte) error{
		"a header": func(dir string, data []byte) error {
			at := 0
			for !bytes.Contains(data[at:at+int(binary.LittleEndian.Uint32(data[at:]))], []byte("body 5")) {
				at += int(binary.LittleEndian.Uint32(data[at:]))
			}
			data[at+9] ^= 0x3f // its sequence leaps
			return os.WriteFile(blocks(streamDir(dir))[0], data, 0o666)
		},
		"gone": func(dir string, _ []byte) error { return os.RemoveAll(streamDir(dir)) },
	}
	for what, damage := range damages {
		for _, checkpoints := range []int{0, 1, 2} {
			t.Run(fmt.Sprint(what, checkpoints), func(t *testing.T) {
				dir := t.TempDir()
				j := open(t, dir)
				defer func() { j.Close() }()
				replayed(t, j)
				for i := range 8 {
					if i == 4 && checkpoints > 0 || i == 2 && checkpoints == 2 {
						if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("up to ", i))); err != nil {
							t.Fatal(err)
						}
					}
					j.mustAppend(t, record(i))
				}
				data := stream(dir)
				if err := damage(dir, data); err != nil {
					t.Fatal(err)
				}
				j.reopen(t)
				select {
				case <-j.Due():
				default:
					t.Error("no checkpoint is due")
				}
				if err := j.Append(t.Context(), record(8), func() { t.Error("applied") }); !errors.Is(err, ErrUnavailable) || j.Behind() == nil {
					t.Fatalf("taken before it is saved: %v", err)
				}
				j.reopen(t) // once more: that changes nothing
				if j.Behind() == nil {
					t.Fatal("the second time it is forgotten")
				}

				crashed := open(t, copyOf(t, dir))
				pieces, records, p := replayed(t, crashed)
				crashed.Close()
				nobodyKnows := what == "gone" && checkpoints == 0
				if p.Whole() != nobodyKnows || checkpoints > 0 && (len(pieces) != 1 || pieces[0] != "up to 4") {
					t.Errorf("after a crash: pieces %q, records %v, %+v", pieces, received(records), p)
				}
				if what == "a header" {
					for i := int64(4); i < 8; i++ {
						if i != 5 && !slices.Contains(received(records), i) {
							t.Errorf("after a crash record %d is lost: %v, %+v", i, received(records), p)
						}
					}
				}

				if err := j.Checkpoint(t.Context(), dumpOf("up to 8")); err != nil {
					t.Fatal(err)
				}
				select {
				case <-j.Due(): // it is in one file now
				default:
					t.Error("no second checkpoint is due")
				}
				for i := 8; i < 14; i++ {
					j.mustAppend(t, record(i))
				}
				for _, again := range []bool{false, true} {
					if again {
						if err := j.Checkpoint(t.Context(), dumpOf("up to 14")); err != nil {
							t.Fatal(err)
						}
						j.mustAppend(t, record(14))
					}
					j.Close()
					j = open(t, dir)
					pieces, records, p := replayed(t, j)
					want, piece := []int64{8, 9, 10, 11, 12, 13}, "up to 8"
					if again {
						want, piece = []int64{14}, "up to 14"
					}
					if !p.Whole() || len(pieces) != 1 || pieces[0] != piece || !slices.Equal(received(records), want) {
						t.Errorf("pieces %q, records %v, %+v", pieces, received(records), p)
					}
				}
			})
		}
	}
}

// The checkpoint that there is goes when there is another one, not before.
func TestReopensWithAnotherStreamAndNoRoom(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	defer func() { j.Close() }()
	replayed(t, j)
	for i := range 4 {
		j.mustAppend(t, record(i))
		if i > 0 {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("up to ", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(streamDir(dir)); err != nil {
		t.Fatal(err)
	}
	j.reopen(t)
	full := errors.New("no space left")
	if err := j.Checkpoint(t.Context(), func(func([]byte) error) error { return full }); !errors.Is(err, full) {
		t.Fatalf("%v", err)
	}
	if j.Behind() == nil {
		t.Error("it goes on without a checkpoint")
	}
	j.Close()
	j = open(t, dir)
	if pieces, _, p := replayed(t, j); len(pieces) != 1 || pieces[0] != "up to 3" || p.Whole() {
		t.Errorf("pieces %q, %+v", pieces, p)
	}
}

// A bucket that is moved aside when the engine is reopened costs nothing but a checkpoint.
func TestReopensWithoutABucket(t *testing.T) {
	for _, name := range bucketNames(bucket) {
		dir := t.TempDir()
		j := open(t, dir)
		replayed(t, j)
		for i := range 5 {
			if i == 2 || i == 4 {
				if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("up to ", i))); err != nil {
					t.Fatal(err)
				}
			}
			j.mustAppend(t, record(i))
		}
		for _, file := range blocks(engineDir(dir, bucketStream(name))) {
			if err := os.WriteFile(file, make([]byte, 200), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		j.reopen(t)
		if aside, _ := filepath.Glob(filepath.Join(dir, damagedBucket+"*")); len(aside) != 1 {
			t.Fatalf("moved aside: %q", aside)
		}
		if j.Behind() == nil {
			t.Error("it goes on without a checkpoint")
		}
		if err := j.Checkpoint(t.Context(), dumpOf("up to 5")); err != nil {
			t.Fatal(err)
		}
		j.mustAppend(t, record(5))
		j.Close()
		j = open(t, dir)
		pieces, records, p := replayed(t, j)
		j.Close()
		if len(pieces) != 1 || pieces[0] != "up to 5" || !slices.Equal(received(records), []int64{5}) || !p.Whole() {
			t.Errorf("%s: pieces %q, records %v, %+v", name, pieces, received(records), p)
		}
	}
}

// A record that hangs is not known to be stored or not: a checkpoint is due when the
// engine is open again, also if it was for another error that it was closed.
func TestReopensAfterAnErrorAndAHang(t *testing.T) {
	j := open(t, t.TempDir())
	defer j.Close()
	replayed(t, j)
	j.mustAppend(t, record(0))
	store, release := j.hang(t, false)
	hung := make(chan error, 1)
	store.until(func() {
		go func() { hung <- j.Append(t.Context(), record(1), func() { t.Error("applied") }) }()
	})
	select {
	case <-j.Due():
		t.Fatal("a checkpoint is due before anything happened")
	default:
	}
	j.failed(errors.New("a write error"))
	for deadline := time.Now().Add(2 * time.Minute); j.current() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not taken")
		}
	}
	if err := <-hung; !errors.Is(err, errStuck) {
		t.Fatal(err)
	}
	release()
	eventually(t, "reopened", func() bool { return j.current() != nil })
	select {
	case <-j.Due():
	case <-time.After(10 * time.Second):
		t.Error("no checkpoint is due")
	}
}
