package ingest

import (
	"encoding/binary"
	"errors"
	"io"
)

// Errors of the wire format; each refuses the whole request.
var (
	errVarint  = errors.New("a varint is longer than 64 bits")
	errTag     = errors.New("an illegal field number or wire type")
	errType    = errors.New("a known field has the wrong wire type")
	errTooDear = errors.New("it would take many times its size in memory")
)

// Protobuf wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// uvarint reads a varint at b[i:] as gogo/protobuf's generated code does: up to
// ten bytes, excess bits of the tenth dropped.
func uvarint(b []byte, i int) (v uint64, next int, err error) {
	if i < len(b) && b[i] < 0x80 {
		return uint64(b[i]), i + 1, nil
	}
	for shift := 0; shift < 64; shift += 7 {
		if i >= len(b) {
			return 0, 0, io.ErrUnexpectedEOF
		}
		c := b[i]
		i++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, i, nil
		}
	}
	return 0, 0, errVarint
}

// lengthAt reads a length and returns what it spans.
func lengthAt(b []byte, i int) (data []byte, next int, err error) {
	n, i, err := uvarint(b, i)
	if err != nil {
		return nil, 0, err
	}
	if n > uint64(len(b)-i) {
		return nil, 0, io.ErrUnexpectedEOF
	}
	end := i + int(n)
	return b[i:end:end], end, nil
}

// A cursor reads the fields of one message, in any order and of any number.
type cursor struct {
	rest []byte
	num  int32  // of the field that next has read
	wire uint8  // its wire type
	val  uint64 // of a varint or fixed field
	data []byte // of a length-delimited field
	err  error
}

// next reads one field; it returns false at the end and on an error.
func (c *cursor) next() bool {
	if c.err != nil || len(c.rest) == 0 {
		return false
	}
	c.err = c.read()
	return c.err == nil
}

func (c *cursor) read() error {
	b := c.rest
	tag, i, err := uvarint(b, 0)
	if err != nil {
		return err
	}
	c.num, c.wire = int32(tag>>3), uint8(tag&7)
	if c.num <= 0 {
		return errTag
	}
	switch c.wire {
	case wireVarint:
		c.val, i, err = uvarint(b, i)
	case wireFixed64:
		if len(b)-i < 8 {
			return io.ErrUnexpectedEOF
		}
		c.val = binary.LittleEndian.Uint64(b[i:])
		i += 8
	case wireBytes:
		c.data, i, err = lengthAt(b, i)
	case wireFixed32:
		if len(b)-i < 4 {
			return io.ErrUnexpectedEOF
		}
		i += 4
	case 3:
		i, err = skipGroup(b, i)
	default:
		return errTag
	}
	if err != nil {
		return err
	}
	c.rest = b[i:]
	return nil
}

// skipGroup finds the end of a group whose start tag has been read. Groups are
// long out of use; an unknown field may still be one.
func skipGroup(b []byte, i int) (int, error) {
	for depth := 1; depth > 0; {
		tag, n, err := uvarint(b, i)
		if err != nil {
			return 0, err
		}
		i = n
		switch tag & 7 {
		case wireVarint:
			_, i, err = uvarint(b, i)
		case wireFixed64:
			i += 8
		case wireBytes:
			_, i, err = lengthAt(b, i)
		case 3:
			depth++
		case 4:
			depth--
		case wireFixed32:
			i += 4
		default:
			err = errTag
		}
		if err != nil {
			return 0, err
		}
		if i > len(b) {
			return 0, io.ErrUnexpectedEOF
		}
	}
	return i, nil
}

// bytes returns the field's content if it has some.
func (c *cursor) bytes() []byte {
	if c.wire != wireBytes {
		c.err = errType
		return nil
	}
	return c.data
}

// zigzag undoes the encoding of sint32 and sint64.
func zigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }
