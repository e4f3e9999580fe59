package packet

import (
	"bytes"
	"errors"
	"unicode/utf8"
)

// varint reads a Variable Byte Integer, section 1.5.5.
func varint(b []byte) (v uint32, n int, err error) {
	for n < 4 {
		if n == len(b) {
			return 0, 0, ErrIncomplete
		}
		c := b[n]
		v |= uint32(c&0x7f) << (7 * n)
		n++
		if c < 0x80 {
			if n > 1 && c == 0 { // [MQTT-1.5.5-1]: the minimum number of bytes
				return 0, 0, malformed("MQTT-1.5.5-1", "variable byte integer is longer than needed")
			}
			return v, n, nil
		}
	}
	return 0, 0, malformed("1.5.5", "variable byte integer has more than four bytes")
}

func appendVarint(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// reader walks over a body. After a failed read err is set and every further read returns zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.fail(errTruncated)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint16() uint16 {
	if len(r.b) < 2 {
		r.fail(errTruncated)
		return 0
	}
	v := uint16(r.b[0])<<8 | uint16(r.b[1])
	r.b = r.b[2:]
	return v
}

func (r *reader) uint32() uint32 {
	hi := r.uint16()
	return uint32(hi)<<16 | uint32(r.uint16())
}

func (r *reader) varint() uint32 {
	v, n, err := varint(r.b)
	if err != nil {
		if err == ErrIncomplete {
			err = errTruncated
		}
		r.fail(err)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads Binary Data, section 1.5.6. The result is never nil, so that "empty" differs from "not there".
func (r *reader) bytes() []byte {
	n := int(r.uint16())
	if len(r.b) < n {
		r.fail(errTruncated)
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// string reads a UTF-8 Encoded String, section 1.5.4.
func (r *reader) string() []byte {
	s := r.bytes()
	if !ValidString(s) {
		r.fail(malformed("MQTT-1.5.4-1", "string is not valid UTF-8 or has U+0000"))
	}
	return s
}

// packetID reads a Packet Identifier, which is never 0: [MQTT-2.2.1-3], 3.1.1 [MQTT-2.3.1-1].
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if id == 0 && r.err == nil {
		r.fail(protocol("MQTT-2.2.1-3", "packet identifier is 0"))
	}
	return id
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return malformed("2.1.4", "bytes behind the last field")
	}
	return r.err
}

// ValidString reports whether s may stand as a UTF-8 Encoded String: well-formed, no surrogates [MQTT-1.5.4-1],
// no U+0000 [MQTT-1.5.4-2]. A BOM is a character like others [MQTT-1.5.4-3].
func ValidString(s []byte) bool {
	for i, c := range s {
		if c == 0 {
			return false
		}
		if c >= utf8.RuneSelf {
			return utf8.Valid(s[i:]) && bytes.IndexByte(s[i:], 0) < 0
		}
	}
	return true
}

// ValidTopicName reports whether a non-empty s may stand in a PUBLISH: no wildcards [MQTT-3.3.2-2].
func ValidTopicName(s []byte) bool {
	for _, c := range s {
		if c == '+' || c == '#' {
			return false
		}
	}
	return len(s) > 0 // [MQTT-4.7.3-1]
}

// ValidFilter reports whether s is a topic filter with its wildcards in place: '#' alone in the last level
// [MQTT-4.7.1-1], '+' alone in its level [MQTT-4.7.1-2].
func ValidFilter(s []byte) bool {
	for i, c := range s {
		first, last := i == 0 || s[i-1] == '/', i == len(s)-1
		switch c {
		case '#':
			if !first || !last {
				return false
			}
		case '+':
			if !first || !last && s[i+1] != '/' {
				return false
			}
		}
	}
	return len(s) > 0 // [MQTT-4.7.3-1]
}

var errTooLong = errors.New("field or packet too long for the wire: at most 65,535 bytes a field and 268,435,455 a packet")

// writer appends one packet.
type writer struct {
	b     []byte
	start int
	err   error
}

func begin(dst []byte, t Type, flags byte) writer {
	return writer{b: append(dst, byte(t)<<4|flags, 0), start: len(dst)}
}

// done fills in the Remaining Length.
func (w *writer) done() ([]byte, error) {
	at := w.start + 2
	if w.closeLength(at); w.err != nil {
		return w.b[:w.start], w.err
	}
	return w.b, nil
}

// closeLength writes the length of what stands behind at into the one byte reserved before it, making room when it
// needs more.
func (w *writer) closeLength(at int) {
	n := len(w.b) - at
	if n > MaxRemaining {
		w.err = errTooLong
	}
	if w.err != nil {
		return
	}
	if n < 0x80 {
		w.b[at-1] = byte(n)
		return
	}
	var v [4]byte
	l := appendVarint(v[:0], uint32(n))
	w.b = append(w.b, l[1:]...)
	copy(w.b[at-1+len(l):], w.b[at:at+n])
	copy(w.b[at-1:], l)
}

func (w *writer) byte(v byte)     { w.b = append(w.b, v) }
func (w *writer) uint16(v uint16) { w.b = append(w.b, byte(v>>8), byte(v)) }
func (w *writer) uint32(v uint32) { w.b = append(w.b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v)) }

func (w *writer) bytes(v []byte) {
	if len(v) > 0xffff {
		w.err = errTooLong
		return
	}
	w.uint16(uint16(len(v)))
	w.b = append(w.b, v...)
}
