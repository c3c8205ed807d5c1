package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A store with everything in it is damaged file by file: cut, flipped, emptied,
// taken away. It starts, has what is not damaged, counts what is, and goes on. Never
// is it silently an empty one.
func TestSurgery(t *testing.T) {
	if testing.Short() {
		t.Skip("some hundred starts")
	}
	dir := t.TempDir()
	j := open(t, dir)
	const n = 60
	for i := range n {
		j.mustAppend(t, record(i))
		if i == 19 || i == 39 {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("up to ", i), strings.Repeat(fmt.Sprint(i), 1000))); err != nil {
				t.Fatal(err)
			}
		}
	}
	j.Close()
	whole := copyOf(t, dir)
	var files []string
	err := filepath.WalkDir(whole, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			rel, _ := filepath.Rel(whole, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.ReplaceAll(file, "/", "_"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join(whole, file))
			if err != nil {
				t.Fatal(err)
			}
			damages := map[string][]byte{"emptied": {}, "taken away": nil, "with garbage behind": append(slices.Clone(data), "\x17garbage\x00\xff and more of it"...)}
			for step := range 5 {
				at := at(data, step)
				damages[fmt.Sprint("cut at ", at)] = slices.Clone(data[:at])
				flipped := slices.Clone(data)
				for i := range min(3, len(data)-at) {
					flipped[at+i] ^= 0x21
				}
				damages[fmt.Sprint("flipped at ", at)] = flipped
				zeroed := slices.Clone(data)
				clear(zeroed[at:min(at+64, len(data))])
				damages[fmt.Sprint("zeroed at ", at)] = zeroed
			}
			for what, bad := range damages {
				surgery(t, whole, file, what, data, bad, n)
			}
		})
	}
}

// copyOf copies a store, also of an engine that runs. What begins with a dot are streams
// that the engine has deleted: it takes their files away when it has time, even after it
// has been closed, and does not read them at a start. Other files may go under way, too.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(filepath.Join(to, rel), 0o777))
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, os.WriteFile(filepath.Join(to, rel), data, 0o666))
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// at is where the damages of a file are.
func at(data []byte, step int) int { return len(data) * step / 5 }

func surgery(t *testing.T, whole, file, what string, data, bad []byte, n int) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if bad != nil {
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	j, err := Open(Options{Path: dir, MaxBytes: 64 << 20})
	if err != nil {
		t.Errorf("%s %s: it does not start: %v", file, what, err)
		return
	}
	pieces, records, p := replayed(t, j)
	have := map[int64]bool{}
	for _, r := range records {
		have[r.Received] = true
	}
	upTo := -1
	for _, piece := range pieces {
		fmt.Sscanf(piece, "up to %d", &upTo)
	}
	missing := 0
	for i := upTo + 1; i < n; i++ {
		if !have[int64(i)] {
			missing++
		}
	}
	inStream := strings.Contains(file, "/RELAY/msgs/")
	switch {
	case missing > 0 && p.Whole():
		t.Errorf("%s %s: %d records are missing, and nothing says so: %+v", file, what, missing, p)
	case missing > 0 && !inStream:
		// The other checkpoint is in another file, and what follows it in the stream.
		t.Errorf("%s %s: %d records are missing, and are not damaged: %+v", file, what, missing, p)
	case inStream && upTo != 39:
		t.Errorf("%s %s: a checkpoint is not damaged, and up to %d is loaded", file, what, upTo)
	}
	// It goes on, and what it takes now is there at the next start.
	if !p.Whole() {
		if err := j.Checkpoint(t.Context(), dumpOf("up to 39", "after the damage")); err != nil {
			t.Errorf("%s %s: %v", file, what, err)
		}
	}
	j.mustAppend(t, record(1000))
	j.Close()
	j = open(t, dir)
	_, records, _ = replayed(t, j)
	j.Close()
	if len(records) == 0 || records[len(records)-1].Received != 1000 {
		t.Errorf("%s %s: what was acknowledged afterwards is lost, of %d records", file, what, len(records))
	}
}

// Small checkpoints lie in one block of the engine each, and no two in the same: one that
// is damaged anywhere, or gone, leaves the other, and everything is still there. After a
// checkpoint the other bucket's can be lost, too.
func TestCheckpointsShareNoFile(t *testing.T) {
	if testing.Short() {
		t.Skip("some hundred starts")
	}
	dir := t.TempDir()
	j := open(t, dir)
	for i := range 60 {
		j.mustAppend(t, record(i))
		if i%20 == 19 {
			if err := j.Checkpoint(t.Context(), dumpOf(fmt.Sprint("up to ", i), strings.Repeat(fmt.Sprint(i), 1000))); err != nil {
				t.Fatal(err)
			}
		}
	}
	j.Close()
	whole := copyOf(t, dir)
	files := blocks(engineDir(whole, "OBJ_*"))
	if len(files) == 0 {
		t.Fatal("no blocks")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		file, _ := filepath.Rel(whole, file)
		damages := map[string][]byte{"emptied": {}, "taken away": nil, "zeroed": make([]byte, len(data)), "cut in the middle": data[:len(data)/2]}
		for at, n := 0, 0; at+blockHeader < len(data) && n < 4; n++ { // in some headers: length, sequence, time, length of the subject
			for _, i := range []int{0, 2, 4, 7, 10, 14, 21, blockHeader} {
				flipped := slices.Clone(data)
				flipped[at+i] ^= 0x41
				damages[fmt.Sprint("flipped at ", at+i)] = flipped
			}
			at += int(binary.LittleEndian.Uint32(data[at:]) &^ (1 << 31))
		}
		for what, bad := range damages {
			t.Run(filepath.Base(filepath.Dir(filepath.Dir(file)))+" "+what, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				damage := func(file string, bad []byte) {
					t.Helper()
					err := os.WriteFile(filepath.Join(dir, file), bad, 0o666)
					if bad == nil {
						err = os.Remove(filepath.Join(dir, file))
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				damage(file, bad)
				j := open(t, dir)
				defer func() { j.Close() }()
				pieces, records, p := replayed(t, j)
				from := 0
				if len(pieces) != 2 {
					t.Fatalf("%.20q is loaded: %+v", pieces, p)
				}
				fmt.Sscanf(pieces[0], "up to %d", &from)
				if from < 39 || len(records) != 59-from {
					t.Fatalf("up to %d is loaded, and %d records follow: %+v", from, len(records), p)
				}
				if from < 59 && p.Whole() {
					t.Errorf("a checkpoint is damaged, and nothing says so: %+v", p)
				}
				if p.Whole() { // the older one was damaged, if any: the next one replaces it
					j.mustAppend(t, record(60))
				}
				if err := j.Checkpoint(t.Context(), dumpOf("anew", "more")); err != nil {
					t.Fatal(err)
				}
				j.Close()
				j = open(t, dir)
				pieces, _, p = replayed(t, j)
				if len(pieces) != 2 || pieces[0] != "anew" || !p.Whole() {
					t.Fatalf("after the next checkpoint %.20q is loaded: %+v", pieces, p)
				}
			})
		}
	}
}
