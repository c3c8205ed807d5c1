package journal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The client's List and Get of an object store read through consumers, and a
// consumer stands still, for ever, where a message is damaged: one bad byte in a
// checkpoint would keep the relay from starting. So objects are listed by the
// engine's index of subjects, and read message by message: what is damaged is an
// error, at once.

// getTime is for one message of an object.
const getTime = 10 * time.Second

// objectStream is the stream in which the engine keeps objects, and its name.
func (e *engine) objectStream(ctx context.Context) (jetstream.Stream, string, error) {
	status, err := e.store.Status(ctx)
	if err != nil {
		return nil, "", err
	}
	name := status.Bucket()
	s, err := e.js.Stream(ctx, "OBJ_"+name)
	return s, name, err
}

// objects lists what is in the object store. Of one whose description is damaged
// only the name is known.
func (e *engine) objects(ctx context.Context) ([]*jetstream.ObjectInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	s, bucket, err := e.objectStream(ctx)
	if err != nil {
		return nil, err
	}
	prefix := "$O." + bucket + ".M."
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
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
		o, err := e.store.GetInfo(one, string(name))
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrObjectNotFound): // the mark that a deleted one leaves
			if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
				return nil, err
			}
		case err != nil:
			out = append(out, &jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Name: string(name)}})
		default:
			out = append(out, o)
		}
	}
	return out, nil
}

// object opens one for reading.
func (e *engine) object(ctx context.Context, name string) (io.Reader, error) {
	s, bucket, err := e.objectStream(ctx)
	if err != nil {
		return nil, err
	}
	info, err := e.store.GetInfo(ctx, name)
	if err != nil {
		return nil, err
	}
	return &objectReader{ctx: ctx, stream: s, subject: "$O." + bucket + ".C." + info.NUID, left: info.Chunks, next: 1}, nil
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
