package journal

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Of a journal that was set aside what its checkpoint covers is not applied again: what
// ended it, or came after it, may be what is damaged.
func TestSalvageLeavesOutWhatIsInTheCheckpoint(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	const n, cut = 60, 40
	for i := range n {
		if i == cut/2 || i == cut {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("up to ", i))); err != nil {
				t.Fatal(err)
			}
		}
		j.mustAppend(t, record(i))
	}
	j.Close()
	file := blocks(streamDir(dir))[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var starts []int
	for at := 0; at+blockHeader < len(whole); at += int(binary.LittleEndian.Uint32(whole[at:])) {
		if binary.LittleEndian.Uint64(whole[at+4:])&tombstone == 0 {
			starts = append(starts, at)
		}
	}
	if len(starts) != n {
		t.Fatalf("%d records in %s", len(starts), file)
	}
	rel, _ := filepath.Rel(dir, file)
	for _, damaged := range []int{0, 1, 10, 30, cut - 2, cut - 1, cut, cut + 1, 50, n - 1} {
		for what, bytes := range map[string][]int{"length": {3}, "another sequence": {4}, "a leap": {9}, "the subject": {blockHeader}, "sequence and body": {9, blockHeader + len(subject) + 8}} {
			bad := slices.Clone(whole)
			for _, at := range bytes {
				bad[starts[damaged]+at] ^= 0x3f
			}
			copied := copyOf(t, dir)
			if err := os.WriteFile(filepath.Join(copied, rel), bad, 0o666); err != nil {
				t.Fatal(err)
			}
			j := open(t, copied)
			pieces, records, p := replayed(t, j)
			j.Close()
			if len(pieces) != 1 || pieces[0] != fmt.Sprint("up to ", cut) {
				t.Fatalf("loaded is %q", pieces)
			}
			have := map[int]bool{}
			for _, r := range records {
				if have[int(r.Received)] = true; r.Received < cut {
					t.Errorf("%s of record %d: record %d is applied, which the checkpoint has", what, damaged, r.Received)
				}
			}
			for i := cut; i < n; i++ {
				if !have[i] && (i != damaged || what == "another sequence" || what == "a leap") {
					t.Errorf("%s of record %d: record %d is lost: %+v", what, damaged, i, p)
				}
			}
		}
	}
}

// After a crash the engine reads its blocks, and cuts one off where a record in it is
// damaged: what is behind that is not lost, nor is the loss of one kept quiet.
func TestDamageAfterACrash(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	defer j.Close()
	const n, damaged = 60, 20
	for i := range n {
		j.mustAppend(t, record(i))
	}
	for _, torn := range []int{damaged, n - 1} {
		crashed := copyOf(t, dir)
		file := blocks(streamDir(crashed))[0]
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		raw[(2*torn+1)*len(raw)/(2*n)+10] ^= 1 // about the middle of its body
		if err := os.WriteFile(file, raw, 0o666); err != nil {
			t.Fatal(err)
		}
		again := open(t, crashed)
		_, records, p := replayed(t, again)
		again.Close()
		if len(records) != n-1 {
			t.Errorf("record %d is damaged, %d are left: %+v", torn, len(records), p)
		}
		if whole := torn == n-1; p.Whole() != whole { // the last one a crash may have cut
			t.Errorf("record %d is damaged: %+v", torn, p)
		}
	}
}

// What the engine has noted is not read before it starts: at a start that follows a close,
// and when it is reopened. What came since is no more than a start after a crash.
func TestNoted(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	defer func() { j.Close() }()
	expect := func(when string, want bool) {
		t.Helper()
		if got := isNoted(streamDir(dir)); got != want {
			t.Errorf("%s: %v", when, got)
		}
	}
	expect("new", false)
	j.mustAppend(t, record(0))
	j.mustAppend(t, record(1))
	expect("a record more", false)
	j.reopen(t)
	expect("reopened", true)
	j.mustAppend(t, record(2))
	expect("another one", false)
	j.Close()
	expect("closed", true)
	j = open(t, dir)
	if _, records, p := replayed(t, j); len(records) != 3 || !p.Whole() {
		t.Errorf("%d records, %+v", len(records), p)
	}
	if err := j.Checkpoint(t.Context(), dumpOf("up to 2")); err != nil {
		t.Fatal(err)
	}
	j.mustAppend(t, record(3))
	if err := j.Checkpoint(t.Context(), dumpOf("up to 3")); err != nil { // frees the first ones
		t.Fatal(err)
	}
	j.reopen(t)
	expect("some are freed", true)
	j.Close()

	// They are of what there is, not of what is in it.
	file := blocks(streamDir(dir))[0]
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-blockSum-1] ^= 1
	if err := os.WriteFile(file, raw, 0o666); err != nil {
		t.Fatal(err)
	}
	expect("damaged in a body", true)
	index := filepath.Join(streamDir(dir), "msgs", "index.db")
	if err := os.Truncate(index, 20); err != nil {
		t.Fatal(err)
	}
	expect("the notes are cut", false)
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	expect("the notes are gone", false)
}
