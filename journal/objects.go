package journal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The client's List, Get and Delete of an object store stand still or fail where a
// message is damaged, List and Get for ever: one bad byte in a checkpoint would keep
// the relay from starting. So objects are listed by the engine's index of subjects,
// read message by message, and deleted by subject: what is damaged is an error, at
// once.

// getTime is for one message of an object.
const getTime = 10 * time.Second

// buckets are where an engine keeps checkpoints: each is a stream, with files of its
// own. The first has the name that it had when it was the only one, and gets the first
// checkpoint, so that an older relay finds one.
type buckets struct {
	names    [2]string
	replicas int
	log      *slog.Logger
}

func newBuckets(name string, replicas int, log *slog.Logger) buckets {
	return buckets{bucketNames(name), replicas, log}
}

func bucketNames(name string) [2]string { return [2]string{name, name + "-b"} }

// bucketStream is the name of the stream that a bucket is in, and of its directory.
func bucketStream(name string) string { return "OBJ_" + name }

// An objectStore is one of the buckets.
type objectStore struct {
	name   string
	store  jetstream.ObjectStore
	stream jetstream.Stream
}

// objectStores finds the buckets, and makes those that are missing. One is enough where
// the other cannot be made: on a full disk, or an account that may have no more streams.
func (e *engine) objectStores(ctx context.Context) (stores []objectStore, err error) {
	var failed error
	for _, name := range e.buckets.names {
		store, err := e.js.ObjectStore(ctx, name)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			store, err = e.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: name, Storage: jetstream.FileStorage, Replicas: e.buckets.replicas})
			if errors.Is(err, jetstream.ErrBucketExists) { // another relay was faster
				store, err = e.js.ObjectStore(ctx, name)
			} else if err != nil {
				failed = fmt.Errorf("object store %s: %w%s", name, err, hint(err))
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("object store %s: %w", name, err)
		}
		stream, err := e.js.Stream(ctx, bucketStream(name))
		if err != nil {
			return nil, fmt.Errorf("object store %s: %w", name, err)
		}
		stores = append(stores, objectStore{name, store, stream})
	}
	if len(stores) == 0 {
		return nil, failed
	}
	if failed != nil {
		e.buckets.log.Warn("The journal's second place for checkpoints cannot be made: a damage could take both of them", "err", failed)
	}
	return stores, nil
}

// renew makes a bucket anew, with nothing in it.
func (e *engine) renew(ctx context.Context, s objectStore) (objectStore, error) {
	if err := e.js.DeleteObjectStore(ctx, s.name); err != nil {
		return s, fmt.Errorf("object store %s: %w", s.name, err)
	}
	stores, err := e.objectStores(ctx)
	if err != nil {
		return s, err
	}
	for _, again := range stores {
		if again.name == s.name {
			return again, nil
		}
	}
	return s, fmt.Errorf("object store %s: it cannot be made again", s.name)
}

// objects lists what is in an object store. Of one whose description is damaged
// only the name is known; one that the engine does not give in time is none of these.
func (s *objectStore) objects(ctx context.Context) ([]*jetstream.ObjectInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	prefix := "$O." + s.name + ".M."
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, err
	}
	var out []*jetstream.ObjectInfo
	for subject := range info.State.Subjects {
		name, err := base64.URLEncoding.DecodeString(strings.TrimPrefix(subject, prefix))
		if err != nil {
			continue
		}
		one, cancel := context.WithTimeout(ctx, getTime)
		o, err := s.store.GetInfo(one, string(name))
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrObjectNotFound): // the mark that a deleted one leaves
			if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
				return nil, err
			}
		case isTimeout(err):
			return nil, fmt.Errorf("the description of %s: %w", name, err)
		case err != nil:
			out = append(out, &jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Name: string(name)}})
		default:
			out = append(out, o)
		}
	}
	return out, nil
}

// delete deletes an object, however damaged it is; another relay may have done so. The
// chunks of one whose description is damaged are orphans then.
func (s *objectStore) delete(ctx context.Context, name, nuid string) error {
	subjects := []string{"$O." + s.name + ".M." + base64.URLEncoding.EncodeToString([]byte(name))}
	if nuid != "" {
		subjects = append(subjects, "$O."+s.name+".C."+nuid)
	}
	for _, subject := range subjects {
		if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return fmt.Errorf("delete checkpoint %s: %w", name, err)
		}
	}
	return nil
}

// orphanTime is after how long chunks without a description are nobody's, where
// another relay may be about to write it.
const orphanTime = 10 * time.Minute

// sweep removes chunks that belong to no object: of a relay that died while it wrote
// one. They must be of that age, by the server's clock.
func (s *objectStore) sweep(ctx context.Context, age time.Duration) (removed int, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	prefix := "$O." + s.name + ".C."
	// Chunks first: what is described meanwhile is no orphan.
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil || len(info.State.Subjects) == 0 {
		return 0, err
	}
	list, err := s.objects(ctx)
	if err != nil {
		return 0, err
	}
	owned := map[string]bool{}
	for _, o := range list {
		if o.NUID == "" {
			return 0, nil // whose chunks are they? It is deleted first, when it is replaced
		}
		owned[prefix+o.NUID] = true
	}
	for subject := range info.State.Subjects {
		if owned[subject] {
			continue
		}
		if age > 0 {
			msg, err := s.stream.GetLastMsgForSubject(ctx, subject)
			if err == nil && info.TimeStamp.Sub(msg.Time) < age || errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return removed, err
			}
		}
		if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// object opens one for reading.
func (s *objectStore) object(ctx context.Context, name string) (io.Reader, error) {
	info, err := s.store.GetInfo(ctx, name)
	if err != nil {
		return nil, err
	}
	return &objectReader{ctx: ctx, stream: s.stream, subject: "$O." + s.name + ".C." + info.NUID, left: info.Chunks, next: 1}, nil
}

// An objectReader reads the chunks of an object. Whether they are right is for
// whoever reads it: pieces of a checkpoint have checksums.
type objectReader struct {
	ctx     context.Context
	stream  jetstream.Stream
	subject string
	left    uint32
	next    uint64 // sequence from which to look for the next chunk
	rest    []byte
}

func (r *objectReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		ctx, cancel := context.WithTimeout(r.ctx, getTime)
		msg, err := r.stream.GetMsg(ctx, r.next, jetstream.WithGetMsgSubject(r.subject))
		cancel()
		if err != nil {
			return 0, fmt.Errorf("%d chunks before its end: %w", r.left, err)
		}
		r.next, r.rest = msg.Sequence+1, msg.Data
		r.left--
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
