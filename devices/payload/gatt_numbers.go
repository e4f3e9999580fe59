package payload

import (
	"encoding/binary"

	"vitalwatch/vitals"
)

// special is what an IEEE 11073-20601 number says instead of a value.
type special uint8

const (
	ordinary special = iota
	notANumber
	notAtResolution
	plusInfinity
	minusInfinity
	reserved
)

// medfloat is an SFLOAT or FLOAT of IEEE 11073-20601: m·10^exp.
type medfloat struct {
	m       int32
	exp     int8
	special special
}

// sfloat takes 16 bits apart: four bits exponent, twelve bits mantissa, both signed. The specials stand for all
// exponents' sake only with exponent 0 and are looked for before anything is scaled.
func sfloat(raw uint16) medfloat {
	switch raw {
	case 0x07FF:
		return medfloat{special: notANumber}
	case 0x0800:
		return medfloat{special: notAtResolution}
	case 0x07FE:
		return medfloat{special: plusInfinity}
	case 0x0802:
		return medfloat{special: minusInfinity}
	case 0x0801:
		return medfloat{special: reserved}
	}
	return medfloat{m: int32(int16(raw<<4)) >> 4, exp: int8(int16(raw) >> 12)}
}

// float32bits takes 32 bits apart: eight bits exponent, twenty-four bits mantissa.
func float32bits(raw uint32) medfloat {
	switch raw {
	case 0x007FFFFF:
		return medfloat{special: notANumber}
	case 0x00800000:
		return medfloat{special: notAtResolution}
	case 0x007FFFFE:
		return medfloat{special: plusInfinity}
	case 0x00800002:
		return medfloat{special: minusInfinity}
	case 0x00800001:
		return medfloat{special: reserved}
	}
	return medfloat{m: int32(raw<<8) >> 8, exp: int8(raw >> 24)}
}

// times returns the value times 10^e, rounded once: powers of ten up to 10^22 are exact.
func (f medfloat) times(e int) float64 {
	v, e := float64(f.m), e+int(f.exp)
	for ; e >= len(pow10); e -= len(pow10) - 1 {
		v *= pow10[len(pow10)-1]
	}
	for ; -e >= len(pow10); e += len(pow10) - 1 {
		v /= pow10[len(pow10)-1]
	}
	if e < 0 {
		return v / pow10[-e]
	}
	return v * pow10[e]
}

func (f medfloat) value() float64 { return f.times(0) }

// octets reads a characteristic; after its end everything is zero and short is set.
type octets struct {
	b     []byte
	i     int
	short bool
}

func (o *octets) take(n int) []byte {
	if o.short || len(o.b)-o.i < n {
		o.short = true
		return zeros[:n]
	}
	o.i += n
	return o.b[o.i-n : o.i]
}

var zeros [8]byte

func (o *octets) u8() uint8        { return o.take(1)[0] }
func (o *octets) u16() uint16      { return binary.LittleEndian.Uint16(o.take(2)) }
func (o *octets) sfloat() medfloat { return sfloat(o.u16()) }
func (o *octets) float() medfloat  { return float32bits(binary.LittleEndian.Uint32(o.take(4))) }

func (o *octets) u24() uint32 {
	b := o.take(3)
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
}

// clockTime is a Bluetooth Date Time: the device's local clock, without zone.
type clockTime struct {
	wall    vitals.Micros // as if it were UTC
	unknown bool          // year, month or day 0: the clock was never set
	bad     bool          // no date
}

func (o *octets) dateTime() clockTime {
	b := o.take(7)
	y, mo, d := int(binary.LittleEndian.Uint16(b)), int(b[2]), int(b[3])
	if y == 0 || mo == 0 || d == 0 {
		return clockTime{unknown: true}
	}
	w, ok := wall(y, mo, d, int(b[4]), int(b[5]), int(b[6]))
	return clockTime{wall: w, bad: !ok}
}

// crc is CRC-16/MCRF4XX, the E2E-CRC of the CGM service: initial value 0xFFFF, polynomial 0x1021 reflected.
func crc(b []byte) uint16 {
	c := uint16(0xFFFF)
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0x8408
			} else {
				c >>= 1
			}
		}
	}
	return c
}
