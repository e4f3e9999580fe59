package vitals

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// codecV1 is the first byte of every encoded reading. A new layout gets a new number and the old one stays readable.
//
//	version u8 · present u8 · indicator u8 · unit u8 · has u8 · seq uvarint
//	patient (uvarint length, bytes) · device (uvarint length, bytes)
//	taken_at varint · received_at−taken_at varint (wrapping)
//	values: one number per bit of has, in order
//	what present announces, in the order of its bits
//
// A number is a uvarint n: the lowest two bits say 0, 1 or 2 decimals, the rest is the zigzag mantissa; 3 in the lowest
// bits means that no such form gives exactly the same bits, and eight bytes (little endian IEEE 754) follow.
const codecV1 = 1

const (
	hasDeviceSeq = 1 << iota // varint
	hasOffset                // varint, minutes
	hasFlags                 // uvarint
	hasVerdict               // freshness u8, quality u8
	hasContext               // meal u8, activity u8, user slot u8
	hasExtra                 // four strings, each uvarint length and bytes
	hasTrace                 // with hasExtra: revision and clock, each uvarint length and bytes
	hasFault                 // with hasExtra: class and code, each uvarint length and bytes; the last bit: what comes next needs a new version
)

// CodecError says why bytes are not an encoded reading. It carries no content.
type CodecError struct {
	Offset int    // from the start of the reading
	Reason string // "truncated", "version", …
}

func (e *CodecError) Error() string {
	return fmt.Sprintf("encoded reading: %s at byte %d", e.Reason, e.Offset)
}

// AppendReading appends the compact binary form of r to dst. It writes all fields; of V only the components that are
// in Has. r must be well formed: a known indicator and unit, and in Has only bits of its components.
func AppendReading(dst []byte, r *Reading) []byte {
	var present byte
	if r.DeviceSeq != -1 {
		present |= hasDeviceSeq
	}
	if r.OffsetMin != NoOffset {
		present |= hasOffset
	}
	if r.Flags != 0 {
		present |= hasFlags
	}
	if r.Freshness != 0 || r.Quality != 0 {
		present |= hasVerdict
	}
	if r.Meal != 0 || r.Activity != 0 || r.UserSlot != 0 {
		present |= hasContext
	}
	if r.Extra != nil {
		present |= hasExtra
		if r.Extra.Revision != "" || r.Extra.Clock != "" {
			present |= hasTrace
		}
		if r.Failed() {
			present |= hasFault
		}
	}
	dst = append(dst, codecV1, present, byte(r.Indicator), byte(r.Unit), r.Has)
	dst = binary.AppendUvarint(dst, r.Seq)
	dst = appendString(dst, string(r.Patient))
	dst = appendString(dst, string(r.Device))
	dst = binary.AppendVarint(dst, int64(r.TakenAt))
	dst = binary.AppendVarint(dst, int64(r.ReceivedAt)-int64(r.TakenAt))
	for has := r.Has; has != 0; has &= has - 1 {
		dst = appendNumber(dst, r.V[bits.TrailingZeros8(has)])
	}
	if present == 0 {
		return dst
	}
	if present&hasDeviceSeq != 0 {
		dst = binary.AppendVarint(dst, r.DeviceSeq)
	}
	if present&hasOffset != 0 {
		dst = binary.AppendVarint(dst, int64(r.OffsetMin))
	}
	if present&hasFlags != 0 {
		dst = binary.AppendUvarint(dst, uint64(r.Flags))
	}
	if present&hasVerdict != 0 {
		dst = append(dst, byte(r.Freshness), byte(r.Quality))
	}
	if present&hasContext != 0 {
		dst = append(dst, byte(r.Meal), byte(r.Activity), r.UserSlot)
	}
	if present&hasExtra != 0 {
		dst = appendString(dst, r.Extra.DeviceReadingID)
		dst = appendString(dst, r.Extra.Context)
		dst = appendString(dst, r.Extra.Aside)
		dst = appendString(dst, r.Extra.OtherFlags)
	}
	if present&hasTrace != 0 {
		dst = appendString(dst, r.Extra.Revision)
		dst = appendString(dst, r.Extra.Clock)
	}
	if present&hasFault != 0 {
		dst = appendString(dst, r.Extra.Fault.Class)
		dst = appendString(dst, r.Extra.Fault.Code)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// maxMantissa keeps the mantissa, its sign and the two form bits within a uvarint, and every step exact.
const maxMantissa = 1 << 52

var decimals = [3]float64{1, 10, 100}

func appendNumber(dst []byte, v float64) []byte {
	for form, scale := range decimals {
		m := math.Round(v * scale)
		if math.Abs(m) < maxMantissa && math.Float64bits(m/scale) == math.Float64bits(v) && (m != 0 || !math.Signbit(v)) {
			i := int64(m)
			return binary.AppendUvarint(dst, uint64(i<<1^i>>63)<<2|uint64(form))
		}
	}
	dst = append(dst, 3)
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
}

// DecodeReading decodes one reading from the front of src and returns what follows it. intern turns id bytes into a
// string that lives on, so that a caller may share the strings of known ids; nil copies. Any error is a *CodecError.
// The reading keeps no reference to src, and decoding allocates no more than src is long.
func DecodeReading(src []byte, intern func([]byte) string) (r Reading, rest []byte, err error) {
	rest, err = r.Decode(src, intern)
	return r, rest, err
}

// Decode is DecodeReading into r, whose fields are overwritten; after an error it is the zero Reading.
func (r *Reading) Decode(src []byte, intern func([]byte) string) (rest []byte, err error) {
	*r = Reading{}
	if rest, err = r.decode(src, intern); err != nil {
		*r = Reading{}
	}
	return rest, err
}

// decode leaves what it has decoded so far in r when it fails.
func (r *Reading) decode(src []byte, intern func([]byte) string) (rest []byte, err error) {
	d := decoder{src: src}
	if len(src) < 5 {
		return nil, &CodecError{Offset: len(src), Reason: "truncated"}
	}
	if src[0] != codecV1 {
		return nil, &CodecError{Offset: 0, Reason: "version of another program release"}
	}
	present := src[1]
	r.Indicator, r.Unit, r.Has = Indicator(src[2]), Unit(src[3]), src[4]
	switch {
	case r.Indicator == 0 || r.Indicator >= numIndicators:
		return nil, &CodecError{Offset: 2, Reason: "unknown indicator"}
	case r.Unit >= numUnits:
		return nil, &CodecError{Offset: 3, Reason: "unknown unit"}
	case r.Has>>len(indicators[r.Indicator].components) != 0:
		return nil, &CodecError{Offset: 4, Reason: "unknown component"}
	}
	d.at = 5
	r.Seq = d.uvarint()
	if intern == nil {
		intern = func(b []byte) string { return string(b) }
	}
	r.Patient = PatientID(intern(d.bytes()))
	r.Device = DeviceID(intern(d.bytes()))
	r.TakenAt = Micros(d.varint())
	r.ReceivedAt = r.TakenAt + Micros(d.varint())
	for has := r.Has; has != 0; has &= has - 1 {
		r.V[bits.TrailingZeros8(has)] = d.number()
	}
	r.DeviceSeq, r.OffsetMin = -1, NoOffset
	if present&hasDeviceSeq != 0 {
		r.DeviceSeq = d.varint()
	}
	if present&hasOffset != 0 {
		o := d.varint()
		if o < math.MinInt16 || o > math.MaxInt16 {
			d.fail("offset out of range")
		}
		r.OffsetMin = int16(o)
	}
	if present&hasFlags != 0 {
		f := d.uvarint()
		if f > math.MaxUint32 {
			d.fail("flags out of range")
		}
		r.Flags = Flags(f)
	}
	if present&hasVerdict != 0 {
		r.Freshness, r.Quality = Freshness(d.byte()), Quality(d.byte())
	}
	if present&hasContext != 0 {
		r.Meal, r.Activity, r.UserSlot = Meal(d.byte()), Activity(d.byte()), d.byte()
	}
	if present&hasExtra != 0 {
		r.Extra = &Extra{
			DeviceReadingID: string(d.bytes()),
			Context:         string(d.bytes()),
			Aside:           string(d.bytes()),
			OtherFlags:      string(d.bytes()),
		}
	}
	if present&hasTrace != 0 {
		if r.Extra == nil {
			return nil, &CodecError{Offset: 1, Reason: "trace without extra"}
		}
		r.Extra.Revision, r.Extra.Clock = string(d.bytes()), string(d.bytes())
	}
	if present&hasFault != 0 {
		if r.Extra == nil {
			return nil, &CodecError{Offset: 1, Reason: "fault without extra"}
		}
		r.Extra.Fault = DeviceFault{Class: string(d.bytes()), Code: string(d.bytes())}
	}
	if d.reason != "" {
		return nil, &CodecError{Offset: d.at, Reason: d.reason}
	}
	return src[d.at:], nil
}

// decoder reads forward and remembers the first thing that went wrong; after that every read gives zero.
type decoder struct {
	src    []byte
	at     int
	reason string
}

func (d *decoder) fail(reason string) {
	if d.reason == "" {
		d.reason = reason
	}
}

func (d *decoder) byte() byte {
	if d.reason != "" || d.at >= len(d.src) {
		d.fail("truncated")
		return 0
	}
	d.at++
	return d.src[d.at-1]
}

func (d *decoder) uvarint() uint64 {
	if d.reason != "" {
		return 0
	}
	if d.at < len(d.src) && d.src[d.at] < 0x80 { // most are small
		d.at++
		return uint64(d.src[d.at-1])
	}
	v, n := binary.Uvarint(d.src[d.at:])
	if n <= 0 {
		if n == 0 {
			d.fail("truncated")
		} else {
			d.fail("number too long")
		}
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if d.reason != "" || n > uint64(len(d.src)-d.at) {
		d.fail("truncated")
		return nil
	}
	d.at += int(n)
	return d.src[d.at-int(n) : d.at]
}

func (d *decoder) number() float64 {
	u := d.uvarint()
	if form := u & 3; form < 3 {
		z := u >> 2
		m := int64(z>>1) ^ -int64(z&1)
		return float64(m) / decimals[form]
	}
	if d.reason != "" || len(d.src)-d.at < 8 {
		d.fail("truncated")
		return 0
	}
	d.at += 8
	return math.Float64frombits(binary.LittleEndian.Uint64(d.src[d.at-8:]))
}
