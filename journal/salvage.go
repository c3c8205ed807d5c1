package journal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The engine loops, taking memory, over a block of which a record's header is
// damaged such that its sequence leaps (nats-server 2.15.2, indexCacheBuf fills
// the gap). So headers are checked before it starts. A stream that has such a
// block is moved aside, and what can be read of it is read here: each record has
// a checksum of its own. A bucket that has one is moved aside, too: the other has
// the other checkpoint.

// The form of a record in a block of the engine's file store: length, sequence,
// time, length of the subject; then subject, message, checksum.
const (
	blockHeader  = 22
	blockSum     = 8
	sequenceBits = 1<<62 - 1 // the others are marks
	tombstone    = 1 << 62
	maxRecord    = 32 << 20
	maxLeap      = 1 << 24 // records that can have been purged between two
)

const (
	damagedPrefix = "damaged-"
	damagedBucket = damagedPrefix + "checkpoints-"
	salvagedMark  = "SALVAGED"
)

func streamDir(path string) string { return engineDir(path, streamName) }

func engineDir(path, stream string) string {
	return filepath.Join(path, "jetstream", "$G", "streams", stream)
}

// blocks lists the block files of a stream in their order.
func blocks(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "msgs", "*.blk"))
	number := func(f string) int {
		n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(f), ".blk"))
		return n
	}
	slices.SortFunc(files, func(a, b string) int { return number(a) - number(b) })
	return files
}

// setAside moves the stream away if a record in it is damaged such that the engine would
// loop, or would cut off what is behind it, and buckets.
func setAside(path string, log *slog.Logger) error {
	bodies := !isNoted(streamDir(path))
	aside := func(dir, prefix, what string, records bool) error {
		last := uint64(0)
		files := blocks(dir)
		for i, file := range files {
			var err error
			if last, err = checkBlock(file, last, records); err == nil && records && bodies {
				err = checkBodies(file, i == len(files)-1)
			}
			if err == nil {
				continue
			}
			to := filepath.Join(path, prefix+time.Now().UTC().Format("20060102T150405.000"))
			log.Error(what, "block", file, "err", err, "to", to)
			return os.Rename(dir, to)
		}
		return nil
	}
	for i, name := range bucketNames(bucket) {
		err := aside(engineDir(path, bucketStream(name)), fmt.Sprint(damagedBucket, i+1, "-"), "A place for checkpoints is damaged, and moved aside", false)
		if err != nil {
			return err
		}
	}
	return aside(streamDir(path), damagedPrefix, "The journal is damaged: its stream is moved aside, and read as far as it can be", true)
}

// checkBlock walks the headers of a block, of the stream's records or of a bucket's chunks.
// last is the sequence before it, and the one at its end. A record that is cut at the end
// is what a crash leaves behind; the engine knows that. Chunks whose sequences do not
// rise it passes over.
func checkBlock(file string, last uint64, records bool) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return last, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return last, err
	}
	var h [blockHeader + len(subject)]byte
	for at := int64(0); at+blockHeader <= info.Size(); {
		n, err := f.ReadAt(h[:], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return last, err
		}
		size := int64(binary.LittleEndian.Uint32(h[:]) &^ (1 << 31))
		seq := binary.LittleEndian.Uint64(h[4:])
		if size < blockHeader+blockSum || size > maxRecord {
			return last, fmt.Errorf("a record of %d bytes at %d", size, at)
		}
		at += size
		if seq&tombstone != 0 {
			continue
		}
		seq &= sequenceBits
		if records && seq <= last || last != 0 && seq > last+maxLeap {
			return last, fmt.Errorf("sequence %d follows %d", seq, last)
		}
		last = max(last, seq)
		if !records {
			continue
		}
		if n == len(h) && (binary.LittleEndian.Uint16(h[20:]) != uint16(len(subject)) || string(h[blockHeader:]) != subject) {
			return last, fmt.Errorf("a record of another subject, sequence %d", seq)
		}
		if at > info.Size() {
			return last, checkTail(f, at-size+int64(len(h)), seq)
		}
	}
	return last, nil
}

// checkBodies looks for damaged records in a block with good headers. The engine looks for
// them, too, where it has not noted what there is, and leaves out all that is behind one. At the end
// of the last block one is what a crash leaves behind.
func checkBodies(file string, last bool) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	var data []byte
	var damaged error
	for {
		var h [blockHeader]byte
		if _, err := io.ReadFull(in, h[:]); err != nil {
			break
		}
		size := int(binary.LittleEndian.Uint32(h[:])&^(1<<31)) - blockHeader
		if size < blockSum {
			break
		}
		data = slices.Grow(data[:0], size)[:size]
		if _, err := io.ReadFull(in, data); err != nil {
			break
		}
		if damaged != nil {
			return damaged
		}
		seq := binary.LittleEndian.Uint64(h[4:])
		if seq&tombstone != 0 || size < len(subject)+blockSum {
			continue
		}
		if _, _, err := parse(data[len(subject) : size-blockSum]); errors.Is(err, errDamaged) {
			damaged = fmt.Errorf("the record of sequence %d: %w", seq&sequenceBits, err)
		}
	}
	if last {
		return nil
	}
	return damaged
}

// isNoted reports whether the engine has noted all that is in a stream's blocks, as it does
// when it is closed, also by an error, and every two minutes: then it does not read them
// when it starts (nats-server 2.15.2, recoverFullState). Its notes end with the checksum of
// the last record and their own.
func isNoted(dir string) bool {
	files := blocks(dir)
	if len(files) == 0 {
		return false
	}
	last := sumAt(files[len(files)-1], blockSum)
	return last != nil && bytes.Equal(last, sumAt(filepath.Join(dir, "msgs", "index.db"), 2*blockSum))
}

// sumAt reads a checksum that begins so far before the end of a file; nil: it cannot.
func sumAt(file string, before int64) []byte {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	sum := make([]byte, blockSum)
	if _, err := f.Seek(-before, io.SeekEnd); err != nil {
		return nil
	}
	if _, err := io.ReadFull(f, sum); err != nil {
		return nil
	}
	return sum
}

// checkTail tells a record that a crash has cut from one whose length is damaged:
// behind that the next one follows.
func checkTail(f *os.File, from int64, seq uint64) error {
	rest, err := io.ReadAll(io.NewSectionReader(f, from, maxRecord))
	if err != nil {
		return err
	}
	next := binary.LittleEndian.AppendUint64(nil, seq+1)
	for i := 0; ; {
		n := bytes.Index(rest[i:], []byte(subject))
		if n < 0 {
			return nil
		}
		if i += n; i >= blockHeader && bytes.Equal(rest[i-blockHeader+4:i-blockHeader+12], next) {
			return fmt.Errorf("the length of the record of sequence %d", seq)
		}
		i += len(subject)
	}
}

// salvage reads the records of streams that were set aside and are in no
// checkpoint yet. Of the stream that the checkpoint is of, the oldest of them, those are
// left out that it covers: purged ones are there, too, and what is damaged may be what
// came after them.
func (j *Journal) salvage(apply func(*Record) error, p *Progress) error {
	covered := p.Checkpoint
	for _, dir := range j.asides() {
		p.Damaged++
		if strings.HasPrefix(filepath.Base(dir), damagedBucket) {
			continue
		}
		s := salvaging{j: j, upTo: covered, apply: apply, parts: assembly{}}
		for _, file := range blocks(dir) {
			data, err := os.ReadFile(file)
			if err != nil {
				j.log.Error("A block of the damaged journal cannot be read", "err", err)
				continue
			}
			if err := s.block(data); err != nil {
				return err
			}
		}
		if err := s.settle(found{}); err != nil {
			return err
		}
		covered = 0
		p.Records += s.records
		j.log.Warn("Read what is left of a damaged journal", "records", s.records, "covered", s.covered, "from", dir)
	}
	return nil
}

// A salvaging is one run through a stream that was set aside.
type salvaging struct {
	j     *Journal
	upTo  uint64 // what the checkpoint covers
	apply func(*Record) error
	parts assembly

	last, next       found // the two found last: next is applied when it is known what follows it
	records, covered uint64
}

// A found record has a checksum of its own, its header has none.
type found struct {
	seq  uint64 // as its header says; 0: there is no record
	data []byte
}

// block finds the records of a block.
func (s *salvaging) block(data []byte) error {
	for i := 0; ; {
		n := bytes.Index(data[i:], []byte(subject))
		if n < 0 {
			return nil
		}
		i += n
		end, seq := i+1, uint64(0)
		if start := i - blockHeader; start >= 0 {
			end = start + int(binary.LittleEndian.Uint32(data[start:])) - blockSum
			seq = binary.LittleEndian.Uint64(data[start+4:]) & sequenceBits
		}
		i += len(subject)
		if end <= i || end > len(data) {
			continue
		}
		_, _, err := parse(data[i:end])
		if err == nil {
			err = s.settle(found{max(seq, 1), data[i:end]})
			i = end
		}
		if errors.Is(err, ErrVersion) {
			return err
		}
	}
}

// settle applies the record that was found last, unless it is covered: here comes the
// next.
func (s *salvaging) settle(next found) error {
	f := s.next
	before := s.last.seq
	s.last, s.next = f, next
	if f.seq == 0 {
		return nil
	}
	if seq, ok := sequence(before, f.seq, next.seq); ok && seq <= s.upTo {
		s.covered++
		return nil
	}
	err := s.j.replayOne(f.data, s.parts, s.apply)
	if err == nil {
		s.records++
	}
	if errors.Is(err, ErrVersion) {
		return err
	}
	return nil
}

// sequence is that of a record whose header may be damaged, as it and those of the
// records around it say; ok is false if it cannot be told.
func sequence(before, says, after uint64) (seq uint64, ok bool) {
	switch {
	case says == before+1, says+1 == after:
		return says, true
	case before+2 == after:
		return before + 1, true
	}
	return 0, false
}

// asides lists what was set aside and is in no checkpoint yet.
func (j *Journal) asides() (dirs []string) {
	all, _ := filepath.Glob(filepath.Join(j.opts.Path, damagedPrefix+"*"))
	for _, dir := range all {
		if _, err := os.Stat(filepath.Join(dir, salvagedMark)); errors.Is(err, os.ErrNotExist) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// salvaged notes that a checkpoint has what was read. The files stay, for people.
func salvaged(asides []string) error {
	for _, dir := range asides {
		if err := os.WriteFile(filepath.Join(dir, salvagedMark), []byte("What could be read of this is in a checkpoint. The directory may be removed.\n"), 0o666); err != nil {
			return err
		}
	}
	return nil
}
