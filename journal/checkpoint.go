package journal

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang/snappy"
	"github.com/nats-io/nats.go/jetstream"
)

// kept is how many checkpoints there are: if the newest is damaged, the one
// before and the records that follow it are still there. They are written into the
// buckets in turn: two in one bucket may be in one file, and damaged together.
const kept = 2

const (
	checkpointPrefix = "checkpoint-"
	checkpointMagic  = "RELAYCP1"
	maxPiece         = 64 << 20
)

// A checkpoint is one object in the store.
type checkpoint struct {
	name string
	cut  uint64
	at   time.Time
	in   objectStore
	nuid string // of its chunks; "": its description is damaged
}

// checkpoints lists them, the newest first.
func (e *engine) checkpoints(ctx context.Context) ([]checkpoint, error) {
	stores, err := e.objectStores(ctx)
	if err != nil {
		return nil, err
	}
	return listCheckpoints(ctx, stores)
}

func listCheckpoints(ctx context.Context, stores []objectStore) ([]checkpoint, error) {
	var out []checkpoint
	for _, s := range stores {
		list, err := s.objects(ctx)
		if err != nil {
			return nil, fmt.Errorf("list checkpoints: %w", err)
		}
		for _, o := range list {
			number, ok := strings.CutPrefix(o.Name, checkpointPrefix)
			number, _, _ = strings.Cut(number, "-") // who wrote it, where that may be several
			cut, err := strconv.ParseUint(number, 10, 64)
			if ok && err == nil {
				out = append(out, checkpoint{o.Name, cut, o.ModTime, s, o.NUID})
			}
		}
	}
	slices.SortFunc(out, func(a, b checkpoint) int { return cmp.Or(cmp.Compare(b.cut, a.cut), b.at.Compare(a.at)) })
	return out, nil
}

// Checkpoint saves what all applied records led to, and frees the records that
// are no longer needed. dump hands out the state in pieces, begun after every
// record whose applied function has been called was applied. The pieces are
// compressed and checksummed.
//
// One that has it all already, because nothing was appended since, is as good as new: then
// nothing is written, and [Status] and the metrics have the time of the call.
//
// Where a stream is followed nothing is applied until dump hands out its first
// piece: what decides about records belongs before it. Then nothing is done either
// if another relay has just written a checkpoint, or this one lags behind.
func (j *Journal) Checkpoint(ctx context.Context, dump func(piece func([]byte) error) error) error {
	e := j.current()
	if e == nil {
		return ErrUnavailable
	}
	if j.follow != nil && j.Behind() != nil {
		return nil // what it has is old, and what follows it may be gone
	}
	start := time.Now()
	var asides []string
	if j.follow == nil {
		asides = j.asides() // if there are more later, e is closed
	}
	stores, err := e.objectStores(ctx)
	if err != nil {
		return err
	}
	before, err := listCheckpoints(ctx, stores)
	if err != nil {
		return err
	}
	j.mu.Lock()
	found := j.found
	j.mu.Unlock()
	good := slices.DeleteFunc(slices.Clone(before), func(c checkpoint) bool { return found.useless[c.id()] })
	var cut uint64
	name, resume := "", func() {}
	if f := j.follow; f != nil {
		if !j.dueShared(good, apart(stores, good)) {
			return nil
		}
		j.sweep(ctx, stores, orphanTime) // takes its time, so before nothing is applied
		f.turn.Lock()
		cut, resume = f.cut(), sync.OnceFunc(f.turn.Unlock)
		name = fmt.Sprintf("-%08x", rand.Uint32())
	} else {
		cut = j.cut()
		if len(good) > 0 && good[0].cut == cut && len(asides) == 0 {
			// Nothing has happened. But the one that has it all may have lost its fellow.
			// And if nothing happens because the journal is full, it stays full: then this
			// one is written twice, and all before it can go.
			if apart(stores, good) {
				if !j.nearlyFull() {
					j.metrics.checkpointed(time.Now())
					return nil
				}
				if good[1].cut == cut {
					if err := e.purge(ctx, cut); err != nil {
						return err
					}
					j.metrics.checkpointed(time.Now())
					return nil
				}
			}
			if !strings.HasSuffix(good[0].name, twice) {
				name = twice
			}
		}
		j.sweep(ctx, stores, 0)
	}
	defer resume()
	into, free := turnOf(stores, before, good, found)
	if free && j.follow == nil {
		// What was there may be damaged, and the engine goes on with a block that it will
		// not be able to read.
		if into, err = e.renew(ctx, into); err != nil {
			j.metrics.checkpointFailures.Inc()
			return err
		}
	}
	pr, pw := io.Pipe()
	go func() {
		defer resume()
		pw.CloseWithError(writeCheckpoint(pw, func(piece func([]byte) error) error {
			return dump(func(b []byte) error {
				resume()
				return piece(b)
			})
		}))
	}()
	meta := jetstream.ObjectMeta{
		Name: fmt.Sprintf("%s%020d%s", checkpointPrefix, cut, name), Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(min(512<<10, e.cutting().body))},
	}
	info, err := into.store.Put(ctx, meta, pr)
	pr.CloseWithError(errors.New("the checkpoint was given up"))
	if err != nil {
		j.metrics.checkpointFailures.Inc()
		return fmt.Errorf("checkpoint: %w", err)
	}
	if j.follow != nil {
		err = j.pruneShared(ctx, e, found.useless)
	} else {
		before = slices.DeleteFunc(before, func(c checkpoint) bool { return c.in.name == into.name && c.name == meta.Name })
		err = j.prune(ctx, e, cut, before, good, asides)
	}
	if err != nil {
		return err
	}
	j.metrics.wrote(start, info.Size)
	j.log.Debug("Checkpoint", "sequence", cut, "bytes", info.Size, "took", time.Since(start))
	return nil
}

// twice is the end of the name of a checkpoint that is there twice.
const twice = "-twice"

// sweep removes what unfinished checkpoints have left, before there is more: the disk
// may be full of it.
func (j *Journal) sweep(ctx context.Context, stores []objectStore, age time.Duration) {
	for _, s := range stores {
		n, err := s.sweep(ctx, age)
		if n > 0 {
			j.log.Warn("Removed what was left of checkpoints that were not finished", "checkpoints", n)
		}
		if err != nil {
			j.log.Warn("What is left of checkpoints that were not finished cannot be removed yet", "err", err)
		}
	}
}

// id tells checkpoints of the same name in two buckets apart.
func (c checkpoint) id() string { return c.in.name + "/" + c.name }

// turnOf says where the next checkpoint belongs, not beside the newest good one, and
// whether there is nothing in there that is needed. Where none is good, the one that was
// read counts.
func turnOf(stores []objectStore, before, good []checkpoint, found findings) (into objectStore, free bool) {
	newest := ""
	if len(good) > 0 {
		newest = good[0].in.name
	} else if i := slices.IndexFunc(before, func(c checkpoint) bool { return c.id() == found.loaded }); i >= 0 {
		newest = before[i].in.name
	}
	for _, s := range stores {
		if s.name != newest {
			inIt := slices.ContainsFunc(good, func(c checkpoint) bool { return c.in.name == s.name })
			return s, found.damage || !inIt
		}
	}
	return stores[0], false
}

// apart reports whether the two newest are as far from each other as can be.
func apart(stores []objectStore, good []checkpoint) bool {
	return len(good) > 1 && (len(stores) == 1 || good[0].in.name != good[1].in.name)
}

// prune deletes what a new checkpoint replaces: all but the newest good one before it. asides
// are the directories of which it has what could be read.
func (j *Journal) prune(ctx context.Context, e *engine, cut uint64, before, good []checkpoint, asides []string) error {
	for _, c := range before {
		if len(good) > 0 && c.id() == good[0].id() {
			continue
		}
		if err := c.in.delete(ctx, c.name, c.nuid); err != nil {
			return err
		}
	}
	j.mu.Lock()
	damaged, reopened := j.found.damage, j.current() != e
	if !reopened {
		j.found = findings{}
	}
	j.mu.Unlock()
	if reopened {
		return fmt.Errorf("%w: it failed while old checkpoints were deleted", ErrUnavailable)
	}
	if len(good) > 0 && good[0].cut <= cut {
		// The older of the two still needs what follows it.
		if err := e.purge(ctx, good[0].cut); err != nil {
			return err
		}
	}
	if err := salvaged(asides); err != nil {
		return err
	}
	if len(good) == 0 && damaged {
		j.isDue() // what was salvaged is in one file now
	}
	return nil
}

// dueShared reports whether this relay is to write the next checkpoint.
func (j *Journal) dueShared(before []checkpoint, apart bool) bool {
	f := j.follow
	f.turn.Lock()
	cut := f.cut()
	f.turn.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.force || len(before) == 0 {
		return true
	}
	if time.Since(before[0].at) < j.opts.Cluster.Fresh {
		j.metrics.checkpointed(before[0].at)
		return false
	}
	if before[0].cut == cut && apart {
		j.metrics.checkpointed(time.Now()) // it has it all
		return false
	}
	return true
}

// keptShared picks those of the newest of all relays that are kept: the newest, and
// the newest that is not in its bucket. Two relays that write at once may have taken the
// same one.
func keptShared(list []checkpoint) []checkpoint {
	if len(list) < kept {
		return list
	}
	for _, c := range list[1:] {
		if c.in.name != list[0].in.name {
			return []checkpoint{list[0], c}
		}
	}
	return list[:kept]
}

// pruneShared deletes what the two checkpoints that are kept replace.
func (j *Journal) pruneShared(ctx context.Context, e *engine, useless map[string]bool) error {
	list, err := e.checkpoints(ctx)
	if err != nil {
		return err
	}
	info, err := e.stream.Info(ctx)
	if err != nil {
		return err
	}
	// Those beyond the stream are of one that was lost: their numbers would hide the
	// records to come.
	keep := keptShared(slices.DeleteFunc(slices.Clone(list), func(c checkpoint) bool {
		return c.cut > info.State.LastSeq || useless[c.id()]
	}))
	for _, c := range list {
		if slices.ContainsFunc(keep, func(k checkpoint) bool { return k.id() == c.id() }) {
			continue
		}
		if err := c.in.delete(ctx, c.name, c.nuid); err != nil {
			return err
		}
	}
	if len(keep) >= kept {
		if err := e.purge(ctx, keep[kept-1].cut); err != nil {
			return err
		}
	}
	j.mu.Lock()
	j.found = findings{}
	j.mu.Unlock()
	j.follow.mu.Lock()
	j.follow.force = false
	j.follow.mu.Unlock()
	return nil
}

// purge frees the records up to a sequence.
func (e *engine) purge(ctx context.Context, cut uint64) error {
	if err := e.stream.Purge(ctx, jetstream.WithPurgeSequence(cut+1)); err != nil {
		return fmt.Errorf("purge up to %d: %w", cut, err)
	}
	return nil
}

// writeCheckpoint writes magic, pieces as length, checksum and snappy, and an
// empty piece at the end.
func writeCheckpoint(w io.Writer, dump func(func([]byte) error) error) error {
	b := bufio.NewWriterSize(w, 256<<10)
	b.WriteString(checkpointMagic)
	var packed []byte
	frame := func(data []byte) error {
		var head [8]byte
		binary.LittleEndian.PutUint32(head[:], uint32(len(data)))
		binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(data, castagnoli))
		b.Write(head[:])
		_, err := b.Write(data)
		return err
	}
	err := dump(func(piece []byte) error {
		packed = snappy.Encode(packed[:cap(packed)], piece)
		return frame(packed)
	})
	if err != nil {
		return err
	}
	if err := frame(nil); err != nil {
		return err
	}
	return b.Flush()
}

// loadCheckpoint reads one to its end. What was handed out before an error was
// good.
func loadCheckpoint(ctx context.Context, c checkpoint, load func([]byte) error) error {
	obj, err := c.in.object(ctx, c.name)
	if err != nil {
		return err
	}
	return readCheckpoint(obj, load)
}

// readCheckpoint reads what writeCheckpoint wrote.
func readCheckpoint(in io.Reader, load func([]byte) error) error {
	r := bufio.NewReaderSize(in, 256<<10)
	magic := make([]byte, len(checkpointMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return err
	}
	if string(magic) != checkpointMagic {
		if string(magic[:7]) == checkpointMagic[:7] {
			return fmt.Errorf("%w: checkpoint of version %q", ErrVersion, magic[7:])
		}
		return errDamaged
	}
	var data, piece []byte
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n == 0 {
			return nil
		}
		if n > maxPiece {
			return errDamaged
		}
		data = slices.Grow(data[:0], int(n))[:n]
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return errDamaged
		}
		if size, err := snappy.DecodedLen(data); err != nil || size > maxPiece {
			return errDamaged
		}
		var err error
		if piece, err = snappy.Decode(piece[:cap(piece)], data); err != nil {
			return errDamaged
		}
		if err := load(piece); err != nil {
			return err
		}
	}
}
