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
	"slices"
	"strconv"
	"strings"
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
func (j *Journal) Checkpoint(ctx context.Context, dump func(piece func([]byte) error) error) error {
	e := j.current()
	if e == nil {
		return ErrUnavailable
	}
	start := time.Now()
	cut := j.cut()
	before, err := e.checkpoints(ctx)
	if err != nil {
		return err
	}
	j.mu.Lock()
	misnumbered := j.misnumbered
	j.mu.Unlock()
	before = slices.DeleteFunc(before, func(c checkpoint) bool { return misnumbered[c.name] })
	if len(before) > 0 && before[0].cut == cut && len(j.asides()) == 0 {
		return nil // nothing has happened
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeCheckpoint(pw, dump)) }()
	meta := jetstream.ObjectMeta{Name: fmt.Sprintf("%s%020d", checkpointPrefix, cut), Opts: &jetstream.ObjectMetaOptions{ChunkSize: 512 << 10}}
	info, err := e.store.Put(ctx, meta, pr)
	pr.CloseWithError(errors.New("the checkpoint was given up"))
	if err != nil {
		j.metrics.checkpointFailures.Inc()
		return fmt.Errorf("checkpoint: %w", err)
	}
	for name := range misnumbered {
		if err := e.store.Delete(ctx, name); err != nil {
			return fmt.Errorf("delete checkpoint %s: %w", name, err)
		}
	}
	j.mu.Lock()
	j.misnumbered = nil
	j.mu.Unlock()
	for _, c := range before[min(len(before), kept-1):] {
		if err := e.store.Delete(ctx, c.name); err != nil {
			return fmt.Errorf("delete checkpoint %s: %w", c.name, err)
		}
	}
	if len(before) > 0 && before[0].cut < cut {
		// The older of the two still needs what follows it.
		if err := e.stream.Purge(ctx, jetstream.WithPurgeSequence(before[0].cut+1)); err != nil {
			return fmt.Errorf("purge up to %d: %w", before[0].cut, err)
		}
	}
	if err := j.salvaged(); err != nil {
		return err
	}
	j.metrics.checkpointed(start, info.Size)
	j.log.Debug("Checkpoint", "sequence", cut, "bytes", info.Size, "took", time.Since(start))
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
