package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"
)

// sealed gives a record the checksum that it should have, so that what is behind
// the checksum is tried as well.
func sealed(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= checksumEnd {
		binary.LittleEndian.PutUint32(b[2:], crc32.Checksum(b[checksumEnd:], castagnoli)^uint32(b[1]))
	}
	return b
}

var someRecord = Record{
	Kind: GroupMerge, Edge: "shop-17", Received: 1_700_000_000_000, TTL: 90_000, MinTTL: 1000, MaxTTL: 1 << 40, Refused: []uint32{3, 4, 900},
	Forced: []byte("forced"), Dropped: "__replica__", Pair: "shop", Replica: "a", Scope: "shop-17", Format: "text/plain", Group: []byte("group"), Body: []byte("body"),
}

// A record is read or refused, and what is read is what append would write.
func FuzzRecord(f *testing.F) {
	f.Add(someRecord.append(nil, part{id: 7, index: 1, total: 3}, someRecord.Body))
	f.Add((&Record{Kind: WriteV2}).append(nil, part{total: 1}, nil))
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		parse(b)
		b = sealed(b)
		r, p, err := parse(b)
		if err != nil {
			return
		}
		again, p2, err := parse(r.append(nil, p, r.Body))
		if err != nil || p2 != p || !reflect.DeepEqual(normal(again), normal(r)) {
			t.Fatalf("%v: %+v %+v, written again %+v %+v", err, r, p, again, p2)
		}
	})
}

// normal makes nothing and empty the same.
func normal(r Record) Record {
	for _, b := range []*[]byte{&r.Forced, &r.Group, &r.Body} {
		if len(*b) == 0 {
			*b = nil
		}
	}
	return r
}

// Claims of sizes in a record allocate nothing, and a version from the future is
// told from damage. (hostile input 57)
func TestHostileRecords(t *testing.T) {
	good := someRecord.append(nil, part{id: 7, total: 1}, someRecord.Body)
	head := func(fields ...uint64) []byte {
		b := append([]byte{version, byte(WriteV1), 0, 0, 0, 0}, 0) // received 0
		for _, f := range fields {
			b = binary.AppendUvarint(b, f)
		}
		return sealed(b)
	}
	for name, b := range map[string][]byte{
		"an edge of 4 GiB":           head(1, 1, 1, 4<<30),
		"4 G refusals":               head(1, 1, 1, 0, 4<<30),
		"labels of 2^63 bytes":       head(1, 1, 1, 0, 0, 1<<63),
		"nothing":                    {},
		"a checksum alone":           sealed(good[:checksumEnd]),
		"of another version, broken": append([]byte{version + 1}, good[1:len(good)-1]...),
	} {
		var err error
		if n := testing.AllocsPerRun(10, func() { _, _, err = parse(b) }); !errors.Is(err, errDamaged) || n > 10 {
			t.Errorf("%s: %v, %v allocations", name, err, n)
		}
	}
	newer := bytes.Clone(good)
	newer[0] = version + 1
	if _, _, err := parse(newer); !errors.Is(err, ErrVersion) {
		t.Errorf("of another version: %v", err)
	}
	// A part of a body that never ends holds no more than was sent.
	a := assembly{}
	for id := range uint64(1000) {
		a.add(&Record{Body: []byte("x")}, part{id: id, total: 1 << 62})
	}
	if len(a) > maxPartial {
		t.Errorf("%d bodies are held", len(a))
	}
}

// A checkpoint is read to its end or refused; pieces that are handed out are those
// that were written.
func FuzzCheckpoint(f *testing.F) {
	write := func(pieces ...string) []byte {
		var b bytes.Buffer
		if err := writeCheckpoint(&b, func(piece func([]byte) error) error {
			for _, p := range pieces {
				if err := piece([]byte(p)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(write())
	f.Add(write("one", "two"))
	f.Add(append([]byte(checkpointMagic), 0xff, 0xff, 0xff, 0x03, 0, 0, 0, 0))
	f.Add([]byte("RELAYCP9"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var pieces []string
		if readCheckpoint(bytes.NewReader(b), func(p []byte) error { pieces = append(pieces, string(p)); return nil }) != nil {
			return
		}
		var again []string
		if err := readCheckpoint(bytes.NewReader(write(pieces...)), func(p []byte) error { again = append(again, string(p)); return nil }); err != nil || !reflect.DeepEqual(again, pieces) {
			t.Fatalf("%v: %q, written again %q", err, pieces, again)
		}
	})
}
