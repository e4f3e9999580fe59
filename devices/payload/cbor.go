package payload

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"vitalwatch/vitals"
)

// CBOR (RFC 8949) is read as the JSON that says the same, so that there is one definition of what a message means: the
// text keys of native JSON, and the integer labels of SenML. Dates of tag 0 and 1 become RFC 3339 texts, decimal
// fractions of tag 4 plain numbers. A float of 16 or 32 bits is the shortest decimal that gives it: a device that
// sends 7.8 in 32 bits measured 7.8 and not 7.800000190734863, which would be above a threshold of 7.8.

func init() { register("cbor", decodeCBOR) }

// startsCBOR reports whether the first byte is that of a CBOR array or map, also behind the tag that says "this is
// CBOR": JSON begins with none of these.
func startsCBOR(b []byte) bool {
	return len(b) > 0 && (b[0]>>5 == 4 || b[0]>>5 == 5 || b[0] == 0xd9)
}

// decodeCBOR decodes the native model in CBOR.
func decodeCBOR(in Input, dst []Item) ([]Item, error) {
	c, p := readCBOR(in.Payload, nil)
	if p != nil {
		return dst, p
	}
	defer c.free()
	in.Payload = c.out
	base := len(dst)
	dst, err := decodeText(in, dst)
	c.locate(dst[base:])
	return dst, c.located(err)
}

// locate puts the positions of the CBOR into problems that have positions of the JSON.
func (c *cborReader) locate(items []Item) {
	for i := range items {
		if p := items[i].Problem; p != nil {
			p.Offset = -1
			if i < len(c.starts) {
				p.Offset = int(c.starts[i])
			}
		}
	}
}

func (c *cborReader) located(err error) error {
	if p, ok := err.(*Problem); ok {
		p.Offset = -1
	}
	return err
}

// cborReader writes what it reads as JSON.
type cborReader struct {
	b      []byte
	i      int
	out    []byte
	labels map[int64]string // names of integer keys; nil: keys are texts
	starts []int32          // where the items of the outermost array begin
	why    string
}

var cborReaders = sync.Pool{New: func() any { return new(cborReader) }}

func (c *cborReader) free() {
	c.b = nil
	if cap(c.out) <= 4*MaxBytes {
		cborReaders.Put(c)
	}
}

func readCBOR(b []byte, labels map[int64]string) (*cborReader, *Problem) {
	if len(b) > MaxBytes {
		return nil, &Problem{Code: TooLarge, Detail: "the message is larger than 64 KiB; send fewer readings per message", Offset: -1}
	}
	c := cborReaders.Get().(*cborReader)
	*c = cborReader{b: b, out: c.out[:0], starts: c.starts[:0], labels: labels}
	if len(b) >= 3 && string(b[:3]) == "\xd9\xd9\xf7" {
		c.i = 3 // tag 55799: "this is CBOR"
	}
	ok := c.value(1)
	if ok && c.i != len(b) {
		ok = c.wrong("something follows the message")
	}
	if !ok {
		p := &Problem{Code: CBORInvalid, Detail: c.why + "; nothing of the message was taken", Offset: min(c.i, len(b))}
		c.free()
		return nil, p
	}
	return c, nil
}

func (c *cborReader) wrong(why string) bool {
	if c.why == "" {
		c.why = why
	}
	return false
}

// Major types (RFC 8949, section 3.1).
const (
	cborUint = iota
	cborNegative
	cborBytes
	cborText
	cborArray
	cborMap
	cborTag
	cborSimple
)

// indefinite is the argument of an item whose length is not said.
const indefinite = math.MaxUint64

// head reads an initial byte and its argument; info is the low five bits.
func (c *cborReader) head() (major byte, info byte, arg uint64, ok bool) {
	if c.i >= len(c.b) {
		return 0, 0, 0, c.wrong("the message is cut off")
	}
	major, info = c.b[c.i]>>5, c.b[c.i]&31
	rest := c.b[c.i+1:]
	size := 0
	switch {
	case info < 24:
		arg = uint64(info)
	case info < 28:
		if size = 1 << (info - 24); len(rest) < size {
			return 0, 0, 0, c.wrong("the message is cut off")
		}
		switch size {
		case 1:
			arg = uint64(rest[0])
		case 2:
			arg = uint64(binary.BigEndian.Uint16(rest))
		case 4:
			arg = uint64(binary.BigEndian.Uint32(rest))
		case 8:
			arg = binary.BigEndian.Uint64(rest)
		}
	case info == 31 && major >= cborBytes && major != cborTag:
		arg = indefinite
	default:
		return 0, 0, 0, c.wrong("an initial byte that RFC 8949 does not define")
	}
	c.i += 1 + size
	return major, info, arg, true
}

// value reads one item that stands at the given depth.
func (c *cborReader) value(depth int) bool {
	major, info, arg, ok := c.head()
	if !ok {
		return false
	}
	switch major {
	case cborUint:
		c.out = strconv.AppendUint(c.out, arg, 10)
	case cborNegative:
		c.out = append(c.out, '-')
		if arg == math.MaxUint64 {
			c.out = append(c.out, "18446744073709551616"...)
		} else {
			c.out = strconv.AppendUint(c.out, arg+1, 10)
		}
	case cborBytes:
		b, ok := c.string(cborBytes, info, arg)
		if !ok {
			return false
		}
		c.out = append(c.out, `{"$bytes":"`...) // no field of ours takes an object there by accident
		c.out = base64.RawURLEncoding.AppendEncode(c.out, b)
		c.out = append(c.out, `"}`...)
	case cborText:
		return c.text(info, arg)
	case cborArray, cborMap:
		if depth > maxDepth {
			return c.wrong("the message is nested deeper than 16 levels")
		}
		return c.inside(major, info, arg, depth)
	case cborTag:
		return c.tag(arg, depth)
	case cborSimple:
		return c.simple(info, arg)
	}
	return true
}

// string reads the bytes of a string whose head was read; an indefinite one comes in pieces.
func (c *cborReader) string(major, info byte, arg uint64) ([]byte, bool) {
	if info != 31 {
		if arg > uint64(len(c.b)-c.i) {
			return nil, c.wrong("a string is longer than the message")
		}
		c.i += int(arg)
		return c.b[c.i-int(arg) : c.i], true
	}
	var all []byte
	for {
		if c.i < len(c.b) && c.b[c.i] == 0xff {
			c.i++
			return all, true
		}
		m, i, n, ok := c.head()
		if !ok {
			return nil, false
		}
		if m != major || i == 31 {
			return nil, c.wrong("a piece of a string is no string of the same kind")
		}
		piece, ok := c.string(major, i, n)
		if !ok {
			return nil, false
		}
		if major == cborText && !utf8.Valid(piece) {
			return nil, c.wrong("a text is not valid UTF-8")
		}
		all = append(all, piece...)
	}
}

func (c *cborReader) text(info byte, arg uint64) bool {
	s, ok := c.string(cborText, info, arg)
	if !ok {
		return false
	}
	if !utf8.Valid(s) {
		return c.wrong("a text is not valid UTF-8")
	}
	c.out = appendText(c.out, s)
	return true
}

func (c *cborReader) inside(major, info byte, arg uint64, depth int) bool {
	open, end := byte('['), byte(']')
	if major == cborMap {
		open, end = '{', '}'
	}
	if info != 31 && arg > uint64(len(c.b)-c.i) {
		return c.wrong("an array or a map has more items than the message has bytes")
	}
	c.out = append(c.out, open)
	for n := uint64(0); info == 31 || n < arg; n++ {
		if info == 31 && c.i < len(c.b) && c.b[c.i] == 0xff {
			c.i++
			break
		}
		if n > 0 {
			c.out = append(c.out, ',')
		}
		if depth == 1 && major == cborArray {
			c.starts = append(c.starts, int32(c.i))
		} else if depth == 1 && n == 0 {
			c.starts = append(c.starts, 0)
		}
		if major == cborMap && !c.key() {
			return false
		}
		if !c.value(depth + 1) {
			return false
		}
	}
	c.out = append(c.out, end)
	return true
}

func (c *cborReader) key() bool {
	major, info, arg, ok := c.head()
	switch {
	case !ok:
		return false
	case major == cborText:
		ok = c.text(info, arg)
	case major <= cborNegative && c.labels != nil && arg < 1<<31:
		label := int64(arg)
		if major == cborNegative {
			label = -1 - label
		}
		if name, known := c.labels[label]; known {
			c.out = appendText(c.out, name)
		} else {
			c.out = append(c.out, '"', '#')
			c.out = strconv.AppendInt(c.out, label, 10)
			c.out = append(c.out, '"')
		}
	default:
		return c.wrong("a key is not a text")
	}
	c.out = append(c.out, ':')
	return ok
}

// Tags (RFC 8949, section 3.4).
func (c *cborReader) tag(tag uint64, depth int) bool {
	if depth > maxDepth {
		return c.wrong("the message is nested deeper than 16 levels")
	}
	switch tag {
	case 55799:
		return c.value(depth + 1)
	case 0: // RFC 3339
		if c.i < len(c.b) && c.b[c.i]>>5 == cborText {
			return c.value(depth + 1)
		}
	case 1: // seconds since 1970
		at := len(c.out)
		if c.i >= len(c.b) || c.b[c.i]>>5 > cborNegative && c.b[c.i]>>5 != cborSimple {
			break
		}
		if !c.value(depth + 1) {
			return false
		}
		sec, err := strconv.ParseFloat(string(c.out[at:]), 64)
		c.out = c.out[:at]
		if err != nil || math.Abs(sec) > float64(maxTaken/vitals.Second) {
			sec = 0 // no time of a measurement
		}
		c.out = append(c.out, '"')
		// -00:00: the instant is known, the local time is not (RFC 3339, section 4.3)
		c.out = time.UnixMicro(int64(math.Round(sec*1e6))).UTC().AppendFormat(c.out, "2006-01-02T15:04:05.000000-00:00")
		c.out = append(c.out, '"')
		return true
	case 4: // [exponent, mantissa]
		return c.decimal()
	}
	return c.wrong("a tag that is not known here: dates (0, 1) and decimal fractions (4) are")
}

func (c *cborReader) decimal() bool {
	const why = "a decimal fraction must be an exponent and a mantissa"
	if c.i >= len(c.b) || c.b[c.i] != 0x82 {
		return c.wrong(why)
	}
	c.i++
	major, _, exp, ok := c.head()
	if !ok {
		return false
	}
	if major > cborNegative || exp > 400 {
		return c.wrong(why)
	}
	e := int(exp)
	if major == cborNegative {
		e = -1 - e
	}
	if c.i >= len(c.b) || c.b[c.i]>>5 > cborNegative {
		return c.wrong(why)
	}
	at := len(c.out)
	if !c.value(maxDepth) {
		return false
	}
	digits := at
	if c.out[at] == '-' {
		digits++
	}
	if e >= 0 || -e > 18 {
		c.out = append(c.out, 'e')
		c.out = strconv.AppendInt(c.out, int64(e), 10)
		return true
	}
	for len(c.out)-digits <= -e { // a digit before the point
		c.out = append(c.out, 0)
		copy(c.out[digits+1:], c.out[digits:])
		c.out[digits] = '0'
	}
	point := len(c.out) + e
	c.out = append(c.out, 0)
	copy(c.out[point+1:], c.out[point:])
	c.out[point] = '.'
	return true
}

func (c *cborReader) simple(info byte, arg uint64) bool {
	switch info {
	case 20:
		c.out = append(c.out, "false"...)
	case 21:
		c.out = append(c.out, "true"...)
	case 22, 23: // null, undefined
		c.out = append(c.out, "null"...)
	case 25:
		c.out = appendHalf(c.out, uint16(arg))
	case 26:
		c.out = appendFloat(c.out, float64(math.Float32frombits(uint32(arg))), 32)
	case 27:
		c.out = appendFloat(c.out, math.Float64frombits(arg), 64)
	default:
		return c.wrong("a simple value that is not known here")
	}
	return true
}

// appendFloat appends the shortest decimal of so many bits. What is not finite becomes a number that no float64 holds,
// so that every reader of the JSON refuses it where it expects a number.
func appendFloat(dst []byte, v float64, bits int) []byte {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return append(dst, "1e999"...)
	case a != 0 && (a < 1e-6 || a >= 1e15):
		return strconv.AppendFloat(dst, v, 'e', -1, bits)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, bits)
}

// appendHalf appends the shortest decimal of a 16 bit float: five digits tell any two apart.
func appendHalf(dst []byte, h uint16) []byte {
	v := half(h)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return appendFloat(dst, v, 64)
	}
	var b [32]byte
	for digits := range 5 {
		s := strconv.AppendFloat(b[:0], v, 'e', digits, 64)
		if short, _ := strconv.ParseFloat(string(s), 64); nearestHalf(short) == h&0x7fff|h&0x8000 {
			return appendFloat(dst, short, 64)
		}
	}
	return appendFloat(dst, v, 64)
}

// half gives the value of a 16 bit float (IEEE 754 binary16).
func half(h uint16) float64 {
	exp, frac := int(h>>10&31), float64(h&1023)
	var v float64
	switch exp {
	case 0:
		v = math.Ldexp(frac, -24)
	case 31:
		if v = math.Inf(1); frac != 0 {
			return math.NaN()
		}
	default:
		v = math.Ldexp(1024+frac, exp-25)
	}
	if h>>15 != 0 {
		return -v
	}
	return v
}

// nearestHalf gives the 16 bit float nearest to v, ties to even.
func nearestHalf(v float64) uint16 {
	sign := uint16(0)
	if math.Signbit(v) {
		sign, v = 0x8000, -v
	}
	_, e := math.Frexp(v) // v = f × 2^e with f in [0.5, 1)
	unit := math.Ldexp(1, max(e-11, -24))
	n := math.RoundToEven(v / unit)
	switch {
	case n == 0:
		return sign
	case n*unit >= 65520:
		return sign | 0x7c00
	}
	f, e := math.Frexp(n * unit)
	if e < -13 { // subnormal
		return sign | uint16(n)
	}
	return sign | uint16(e+14)<<10 | uint16(math.Ldexp(f, 11))&1023
}
