package journal

import (
	"fmt"
	"reflect"
	"unsafe"

	"github.com/nats-io/nats-server/v2/server"
)

// streamStore is the store of a stream of a server in this process. Records are
// put into it directly: through the client protocol each is copied seven times and
// passes five goroutines, which costs as much again as hashing and writing it, a
// quarter of what ingest costs in all. What is stored, and when it is safe, is the
// same: the stream calls the same function.
//
// The store's interface is public, the way to it is not: the account's streams
// are fields of the server's own. So they are looked for, and if they are not where
// nats-server 2.15 has them that is an error, and records take the long way.
// TestRecordsTakeTheShortWay says so then.
func streamStore(s *server.Server, stream string) (store server.StreamStore, err error) {
	defer func() {
		if p := recover(); p != nil { // of reflect: a field of another kind
			err = fmt.Errorf("the store of stream %s: %v", stream, p)
		}
	}()
	account, err := field(reflect.ValueOf(s.GlobalAccount()), "js")
	if err != nil {
		return nil, err
	}
	streams, err := field(account, "streams")
	if err != nil {
		return nil, err
	}
	of, ok := streams.MapIndex(reflect.ValueOf(stream)).Interface().(interface{ Store() server.StreamStore })
	if !ok {
		return nil, fmt.Errorf("stream %s has no store", stream)
	}
	return of.Store(), nil
}

// field is a field of the struct that p points to, exported or not.
func field(p reflect.Value, name string) (reflect.Value, error) {
	f := p.Elem().FieldByName(name)
	if !f.IsValid() {
		return f, fmt.Errorf("%s has no field %s", p.Type(), name)
	}
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem(), nil
}
