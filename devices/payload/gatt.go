package payload

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"vitalwatch/vitals"
)

// Bluetooth GATT characteristics, as a gateway passes them on. Layouts: Bluetooth SIG, GATT Specification Supplement
// and the service specifications named at each decoder; numbers: IEEE 11073-20601.
//
// On up/gatt/2A18 the payload is the bytes themselves; on up/gatt it is JSON, one object or an array of them:
//
//	{"characteristic":"2A18","hex":"1B 0F00 …","taken_at":"2026-11-21T08:00:00+08:00"}
//
// Reserved flag bits and bytes behind the last field are ignored, as the profiles ask of a client: a later revision of
// the specification puts its fields there.
func init() { register("gatt", decodeGATT) }

// maxCharacteristic is the longest attribute value (Bluetooth Core, Vol 3, Part F, 3.2.9).
const maxCharacteristic = 512

// maxCharacteristics bounds the objects of one message: a reading and its context are two.
const maxCharacteristics = 2 * MaxReadings

// gattSource is one characteristic's bytes and what came with them.
type gattSource struct {
	in    *Input
	b     []byte
	at    int // position of the bytes in the payload
	text  bool
	taken struct { // the gateway's taken_at or received_at
		t     vitals.Micros
		off   int16
		there bool
		exact bool // taken_at: the gateway knows when it was measured
	}
	session struct { // start of the CGM session
		t     vitals.Micros
		off   int16
		there bool
	}
}

func decodeGATT(in Input, dst []Item) ([]Item, error) {
	if in.Sub == "" {
		return decodeGATTJSON(in, dst)
	}
	code, ok := characteristicCode(in.Sub)
	if !ok {
		return dst, &Problem{Code: CharacteristicBad, Offset: -1,
			Detail: "the topic names no characteristic; publish below up/gatt/ followed by its 16-bit number, such as 2A18"}
	}
	return decodeCharacteristic(&gattSource{in: &in, b: in.Payload}, code, dst), nil
}

// decodeCharacteristic appends one item per reading of a characteristic.
func decodeCharacteristic(g *gattSource, code uint16, dst []Item) []Item {
	if len(g.b) > maxCharacteristic {
		return append(dst, Item{Problem: g.problem(CharacteristicBad, "a characteristic has at most 512 bytes", maxCharacteristic)})
	}
	dst = append(dst, Item{})
	it := &dst[len(dst)-1]
	it.Reading.DeviceSeq = -1
	it.Reading.OffsetMin = vitals.NoOffset
	switch code {
	case 0x2A35:
		g.bloodPressure(it)
	case 0x2A18:
		g.glucose(it)
	case 0x2A37:
		g.heartRate(it)
	case 0x2A5E:
		g.spotCheck(it)
	case 0x2A5F:
		g.continuousOximeter(it)
	case 0x2A9D:
		g.weight(it)
	case 0x2A1C:
		g.temperature(it)
	case 0x2AA7:
		return g.cgm(dst[:len(dst)-1])
	case 0x2A9C:
		return g.bodyComposition(dst[:len(dst)-1])
	case 0x2A34:
		g.fail(it, NotAReading, "a glucose context belongs to a measurement; send both in one JSON array on up/gatt", 0)
	case 0x2AAA:
		g.fail(it, NotAReading, "a session start belongs to CGM measurements; send both in one JSON array on up/gatt", 0)
	case 0x2A36, 0x2A1E:
		g.fail(it, NotAReading, "an intermediate value is not a measurement; publish the final one", 0)
	case 0x2A08, 0x2A19, 0x2A1D, 0x2A21, 0x2A2B, 0x2A38, 0x2A39, 0x2A49, 0x2A51, 0x2A52, 0x2A60, 0x2A9B, 0x2A9E, 0x2AA8, 0x2AA9, 0x2AAB, 0x2AAC:
		// Clock, battery, sites, intervals, features, control points, status of a session.
		g.fail(it, NotAReading, "this characteristic describes the device or its session and is not a measurement", 0)
	default:
		g.fail(it, CharacteristicBad, "this characteristic is not known; known are 2A18, 2A1C, 2A34, 2A35, 2A37, 2A5E, 2A5F, 2A9C, 2A9D, 2AA7, 2AAA", 0)
	}
	return dst
}

func (g *gattSource) problem(code, detail string, at int) *Problem {
	if g.text {
		at = g.at
	}
	return &Problem{Code: code, Detail: detail, Offset: at}
}

func (g *gattSource) fail(it *Item, code, detail string, at int) {
	*it = Item{Problem: g.problem(code, detail, at)}
}

// failed refuses an item because the device says that its measurement failed, and keeps what it says.
func (g *gattSource) failed(it *Item, i vitals.Indicator, c clockTime, class, code, problem, detail string) {
	r := it.Reading
	r.Indicator = i
	it.Problem = nil
	if !g.stamp(it, c) {
		g.fail(it, problem, detail, 0)
		return
	}
	r.TakenAt, r.OffsetMin = it.Reading.TakenAt, it.Reading.OffsetMin
	it.Reading = failure(&r, vitals.DeviceFault{Class: class, Code: code})
	it.Problem = g.problem(problem, detail, 0)
}

// hexCode names a status by its bits.
func hexCode(status uint32, digits int) string {
	return fmt.Sprintf("0x%0*X", digits, status)
}

// truncated refuses a characteristic whose fields do not fit its bytes.
func (g *gattSource) truncated(it *Item, o *octets) bool {
	if o.short {
		g.fail(it, CharacteristicBad, "the characteristic ends before the fields that its flags announce", len(o.b))
	}
	return o.short
}

// stamp gives the reading its time: the device's clock where it has one that was set, else the gateway's, else ours.
// It reports false after it has refused the item.
func (g *gattSource) stamp(it *Item, c clockTime) bool {
	r := &it.Reading
	switch {
	case c.bad:
		g.fail(it, TimeInvalid, "the device's time is not a date", 0)
		return false
	case c.unknown:
		return g.noClock(it)
	case g.in.DeviceTZ != nil:
		r.TakenAt, r.OffsetMin = fromWall(c.wall, g.in.DeviceTZ)
	case g.taken.there && g.taken.exact:
		r.TakenAt, r.OffsetMin, it.Clock = g.taken.t, g.taken.off, ClockGateway
	default:
		g.fail(it, TimeInvalid, "the device's time has no zone; set one with: vitalwatch device set --tz, or send taken_at", 0)
		return false
	}
	if !taken(r.TakenAt) {
		g.fail(it, TimeInvalid, "the device's time is before 1990; set its clock", 0)
		return false
	}
	return true
}

func (g *gattSource) noClock(it *Item) bool {
	r := &it.Reading
	switch {
	case g.taken.there:
		r.TakenAt, r.OffsetMin, it.Clock = g.taken.t, g.taken.off, ClockGateway
	case taken(g.in.ReceivedAt):
		r.TakenAt, it.Clock = g.in.ReceivedAt, ClockReceipt
	default:
		g.fail(it, TimeInvalid, "the device has no clock and nobody said when it measured; send taken_at", 0)
		return false
	}
	return true
}

// censor is what a value beyond the device's range stands for when the device says no number: the smallest upper and
// the largest lower limit that home devices have, so that "at least" and "at most" are true of every model. Glucose:
// facts B4 (meters up to 600 mg/dL = 33.3 mmol/L, from 20 = 1.1 by ISO 15197 meters' usual range).
var censor = map[vitals.Unit][2]float64{
	vitals.MgDL:    {20, 600},
	vitals.MmolL:   {1.1, 33.3},
	vitals.MmHg:    {50, 240},
	vitals.KPa:     {6.7, 32},
	vitals.Percent: {70, 100},
	vitals.PerMin:  {30, 220},
	vitals.Cel:     {34, 42},
	vitals.DegF:    {93.2, 107.6},
}

// put stores a component. It reports false after it has refused the item.
func (g *gattSource) put(it *Item, c vitals.Component, u vitals.Unit, f medfloat, scale int) bool {
	r := &it.Reading
	switch f.special {
	case ordinary:
		r.Set(c, f.times(scale))
		return true
	case plusInfinity:
		if l, ok := censor[u]; ok {
			r.Set(c, l[1])
			r.Flags |= vitals.AboveRange
			return true
		}
	case minusInfinity:
		if l, ok := censor[u]; ok {
			r.Set(c, l[0])
			r.Flags |= vitals.BelowRange
			return true
		}
	}
	g.fail(it, ValueInvalid, "the device gave no number for this measurement", 0)
	return false
}

// optional stores a component that may be missing: a special value leaves it out.
func optional(r *vitals.Reading, c vitals.Component, f medfloat) {
	if f.special == ordinary {
		r.Set(c, f.value())
	}
}

// characteristicCode reads 2A18, 0x2A18 or 00002a18-0000-1000-8000-00805f9b34fb.
func characteristicCode(s string) (uint16, bool) {
	const base = "-0000-1000-8000-00805f9b34fb"
	switch {
	case len(s) == 6 && s[0] == '0' && s[1]|0x20 == 'x':
		s = s[2:]
	case len(s) == 8+len(base) && s[:4] == "0000" && strings.EqualFold(s[8:], base):
		s = s[4:8]
	case len(s) != 4:
		return 0, false
	}
	var code uint16
	for i := range 4 {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		code = code<<4 | uint16(c)
	}
	return code, true
}

// gattMessage is one JSON message while it is read.
type gattMessage struct {
	in    *Input
	base  int
	items []Item
	buf   [maxCharacteristic]byte
	// The glucose measurements and contexts so far: contexts are put to their measurements at the end.
	measured []sequenced
	contexts []sequenced
	session  gattSource // session start of the last 2AAA
}

// sequenced is a glucose measurement or context by its sequence number.
type sequenced struct {
	seq   uint16
	order int // of its object in the message
	item  int // of a measurement
	c     contextFields
	at    int
}

func decodeGATTJSON(in Input, dst []Item) ([]Item, error) {
	t, root, p := parseTree(in.Payload)
	if p != nil {
		return dst, p
	}
	defer t.free()
	m := gattMessage{in: &in, base: len(dst), items: dst}
	switch root.kind() {
	case jObject:
		m.object(root, 0)
	case jArray:
		n := 0
		for v := range root.children() {
			if n == maxCharacteristics {
				m.items = append(m.items, make([]Item, MaxReadings)...) // too many, see below
				break
			}
			m.object(v, n)
			n++
		}
	default:
		return dst, &Problem{Code: TypeWrong, Detail: "the message must be a characteristic (an object) or an array of them", Offset: 0}
	}
	m.attach()
	return finish(m.items, m.base)
}

func (m *gattMessage) refuse(v jval, code, detail string) {
	m.items = append(m.items, Item{Problem: &Problem{Code: code, Detail: detail, Offset: v.offset()}})
}

// object decodes one {"characteristic":…}.
func (m *gattMessage) object(v jval, order int) {
	if v.kind() != jObject {
		m.refuse(v, TypeWrong, "every item of the array must be an object with characteristic and hex or base64")
		return
	}
	if v.dup() {
		m.refuse(v, JSONInvalid, "the same key stands twice in one object; which one counts is not guessed")
		return
	}
	name := v.get("characteristic")
	text, ok := name.text()
	switch {
	case !name.there():
		m.refuse(v, FieldMissing, "characteristic is missing")
		return
	case !ok:
		m.refuse(name, TypeWrong, "characteristic must be a string such as \"2A18\"")
		return
	}
	code, ok := characteristicCode(string(text))
	if !ok {
		m.refuse(name, CharacteristicBad, "characteristic must be a 16-bit number such as \"2A18\"")
		return
	}
	g := gattSource{in: m.in, text: true}
	if !m.bytes(v, &g) || !m.times(v, &g) {
		return
	}
	if !g.session.there {
		g.session = m.session.session
	}
	switch code {
	case 0x2A34:
		o := octets{b: g.b}
		c := readContext(&o)
		if o.short {
			m.refuse(v, CharacteristicBad, "the glucose context ends before the fields that its flags announce")
			return
		}
		m.contexts = append(m.contexts, sequenced{seq: c.seq, order: order, c: c, at: v.offset()})
		return
	case 0x2AAA:
		if p := g.sessionStart(&m.session); p != nil {
			m.items = append(m.items, Item{Problem: p})
		}
		return
	case 0x2A18:
		if len(g.b) >= 3 {
			m.measured = append(m.measured, sequenced{seq: uint16(g.b[1]) | uint16(g.b[2])<<8, order: order, item: len(m.items)})
		}
	}
	m.items = decodeCharacteristic(&g, code, m.items)
}

// bytes finds the characteristic's bytes; they are valid until the next call.
func (m *gattMessage) bytes(v jval, g *gattSource) bool {
	h, b := v.get("hex"), v.get("base64")
	switch {
	case h.there() && b.there():
		m.refuse(v, TypeWrong, "send hex or base64, not both")
		return false
	case !h.there() && !b.there():
		m.refuse(v, FieldMissing, "hex or base64 is missing")
		return false
	case b.there():
		h = b
	}
	g.at = h.offset()
	text, ok := h.text()
	if !ok {
		m.refuse(h, TypeWrong, "hex and base64 must be strings")
		return false
	}
	const tooLong = "a characteristic has at most 512 bytes"
	if b.there() {
		enc := base64.StdEncoding
		s := strings.TrimRight(string(text), "=")
		if strings.ContainsAny(s, "-_") {
			enc = base64.URLEncoding
		}
		if enc = enc.WithPadding(base64.NoPadding); enc.DecodedLen(len(s)) > maxCharacteristic {
			m.refuse(h, CharacteristicBad, tooLong)
			return false
		}
		n, err := enc.Decode(m.buf[:], []byte(s))
		if err != nil {
			m.refuse(h, CharacteristicBad, "base64 cannot be decoded")
			return false
		}
		g.b = m.buf[:n]
		return true
	}
	var pair [2]byte
	half, n := 0, 0
	for _, c := range text {
		if c == ' ' {
			continue
		}
		pair[half] = c
		if half++; half < 2 {
			continue
		}
		half = 0
		if n == maxCharacteristic {
			m.refuse(h, CharacteristicBad, tooLong)
			return false
		}
		if _, err := hex.Decode(m.buf[n:n+1], pair[:]); err != nil {
			m.refuse(h, CharacteristicBad, "hex has a character that is no hexadecimal digit")
			return false
		}
		n++
	}
	if half != 0 {
		m.refuse(h, CharacteristicBad, "hex has an odd number of digits")
		return false
	}
	g.b = m.buf[:n]
	return true
}

// times reads what the gateway says about the time.
func (m *gattMessage) times(v jval, g *gattSource) bool {
	for _, key := range []string{"taken_at", "received_at"} {
		at := v.get(key)
		if !at.there() || g.taken.there {
			continue
		}
		t, off, ok := at.instant()
		if !ok {
			m.refuse(at, TimeInvalid, "taken_at and received_at must be RFC 3339 with offset or Unix milliseconds, not before 1990")
			return false
		}
		g.taken.t, g.taken.off, g.taken.there, g.taken.exact = t, off, true, key == "taken_at"
	}
	if at := v.get("session_start"); at.there() {
		t, off, ok := at.instant()
		if !ok {
			m.refuse(at, TimeInvalid, "session_start must be RFC 3339 with offset or Unix milliseconds, not before 1990")
			return false
		}
		g.session.t, g.session.off, g.session.there = t, off, true
	}
	return true
}

// attach puts each glucose context to its measurement: the last one before it with its sequence number, else the first
// one behind it.
func (m *gattMessage) attach() {
	for i := range m.contexts {
		c := &m.contexts[i]
		found := -1
		for k := range m.measured {
			x := &m.measured[k]
			if x.seq != c.seq {
				continue
			}
			if x.order > c.order {
				if found < 0 {
					found = k
				}
				break
			}
			found = k
		}
		if found < 0 {
			m.items = append(m.items, Item{Problem: &Problem{Code: NotAReading, Offset: c.at,
				Detail: "the glucose context's measurement is not in this message; send both in one array"}})
			continue
		}
		if it := &m.items[m.measured[found].item]; it.Problem == nil {
			c.c.apply(&it.Reading)
		}
	}
}
