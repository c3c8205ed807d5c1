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
// before and the records that follow it are still there.
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
}

// checkpoints lists them, the newest first.
func (e *engine) checkpoints(ctx context.Context) ([]checkpoint, error) {
	list, err := e.objects(ctx)
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var out []checkpoint
	for _, o := range list {
		number, ok := strings.CutPrefix(o.Name, checkpointPrefix)
		number, _, _ = strings.Cut(number, "-") // who wrote it, where that may be several
		cut, err := strconv.ParseUint(number, 10, 64)
		if ok && err == nil {
			out = append(out, checkpoint{o.Name, cut, o.ModTime})
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
// Where a stream is followed nothing is applied until dump hands out its first
// piece: what decides about records belongs before it. Then nothing is done either
// if another relay has just written a checkpoint, or this one lags behind.
func (j *Journal) Checkpoint(ctx context.Context, dump func(piece func([]byte) error) error) error {
	e := j.current()
	if e == nil {
		return ErrUnavailable
	}
	if j.Behind() != nil {
		return nil // what it has is old, and what follows it may be gone
	}
	start := time.Now()
	before, err := e.checkpoints(ctx)
	if err != nil {
		return err
	}
	var cut uint64
	name, resume := "", func() {}
	if f := j.follow; f != nil {
		if !j.dueShared(before) {
			return nil
		}
		f.turn.Lock()
		cut, resume = f.cut(), sync.OnceFunc(f.turn.Unlock)
		name = fmt.Sprintf("-%08x", rand.Uint32())
	} else {
		cut = j.cut()
		j.mu.Lock()
		misnumbered := j.misnumbered
		j.mu.Unlock()
		before = slices.DeleteFunc(before, func(c checkpoint) bool { return misnumbered[c.name] })
		if len(before) > 0 && before[0].cut == cut && len(j.asides()) == 0 {
			// Nothing has happened. But if that is because the journal is full, it stays
			// full: then this one is written twice, and all before it can go.
			if !j.nearlyFull() {
				return nil
			}
			if len(before) > 1 && before[1].cut == cut {
				return e.purge(ctx, cut)
			}
			name = twice
		}
	}
	defer resume()
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
	info, err := e.store.Put(ctx, meta, pr)
	pr.CloseWithError(errors.New("the checkpoint was given up"))
	if err != nil {
		j.metrics.checkpointFailures.Inc()
		return fmt.Errorf("checkpoint: %w", err)
	}
	if j.follow != nil {
		err = j.pruneShared(ctx, e)
	} else {
		err = j.prune(ctx, e, cut, before)
		if err == nil && name == twice {
			err = e.purge(ctx, cut)
		}
	}
	if err != nil {
		return err
	}
	j.metrics.checkpointed(start, info.Size)
	j.log.Debug("Checkpoint", "sequence", cut, "bytes", info.Size, "took", time.Since(start))
	return nil
}

// twice is the end of the name of a checkpoint that is there twice.
const twice = "-twice"

// prune deletes what a new checkpoint replaces.
func (j *Journal) prune(ctx context.Context, e *engine, cut uint64, before []checkpoint) error {
	j.mu.Lock()
	misnumbered := j.misnumbered
	j.mu.Unlock()
	for name := range misnumbered {
		if err := e.delete(ctx, name); err != nil {
			return err
		}
	}
	j.mu.Lock()
	j.misnumbered = nil
	j.mu.Unlock()
	for _, c := range before[min(len(before), kept-1):] {
		if err := e.delete(ctx, c.name); err != nil {
			return err
		}
	}
	if len(before) > 0 && before[0].cut < cut {
		// The older of the two still needs what follows it.
		if err := e.purge(ctx, before[0].cut); err != nil {
			return err
		}
	}
	return j.salvaged()
}

// dueShared reports whether this relay is to write the next checkpoint.
func (j *Journal) dueShared(before []checkpoint) bool {
	if len(before) > 0 {
		j.metrics.checkpointTime.Set(float64(before[0].at.UnixMilli()) / 1000)
	}
	f := j.follow
	f.turn.Lock()
	cut := f.cut()
	f.turn.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.force || len(before) == 0 {
		return true
	}
	fresh := time.Since(before[0].at) < j.opts.Cluster.Fresh
	return !fresh && before[0].cut != cut
}

// pruneShared deletes what the two newest checkpoints of all relays replace.
func (j *Journal) pruneShared(ctx context.Context, e *engine) error {
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
	old := 0
	for old < len(list) && list[old].cut > info.State.LastSeq {
		old++
	}
	good := list[old:]
	for _, c := range slices.Concat(list[:old], good[min(len(good), kept):]) {
		if err := e.delete(ctx, c.name); err != nil {
			return err
		}
	}
	if len(good) >= kept {
		if err := e.purge(ctx, good[kept-1].cut); err != nil {
			return err
		}
	}
	j.follow.mu.Lock()
	j.follow.force = false
	j.follow.mu.Unlock()
	return nil
}

// delete deletes a checkpoint; another relay may have done so.
func (e *engine) delete(ctx context.Context, name string) error {
	if err := e.store.Delete(ctx, name); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("delete checkpoint %s: %w", name, err)
	}
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
func (e *engine) loadCheckpoint(ctx context.Context, c checkpoint, load func([]byte) error) error {
	obj, err := e.object(ctx, c.name)
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
