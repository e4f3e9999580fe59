package payload

import (
	"strings"
	"unicode/utf8"

	"vitalwatch/vitals"
)

// MaxIDBytes is the longest "id" of a reading (contract section 3: unique per device).
const MaxIDBytes = 128

// maxDepth is how deep arrays and objects may nest in a message, the outermost counted as 1.
const maxDepth = 16

// Readings dated outside of these are refused as taken_at_invalid: an unset device clock and Unix seconds sent as
// milliseconds both land in 1970, and RFC 3339 ends with the year 9999.
const (
	minTaken = vitals.Micros(631152000e6)    // 1990-01-01T00:00:00Z
	maxTaken = vitals.Micros(253402300800e6) // 10000-01-01T00:00:00Z
)

func init() { register("readings", decodeNative) }

// decodeNative decodes the native JSON of contract section 3: one reading or an array of up to MaxReadings. It is
// the hot path: one pass, no allocation unless a reading has an id, a context, unknown fields or a problem.
//
// What concerns the syntax (RFC 8259, depth, UTF-8, unpaired surrogates) refuses the whole message; what concerns
// one item refuses that item. Where an item has several problems the one reported is the first in this order,
// whatever the order of its fields: duplicate key, wrong type, indicator, taken_at, values, unit, flags.
func decodeNative(in Input, dst []Item) ([]Item, error) {
	if len(in.Payload) > MaxBytes {
		return dst, &Problem{Code: TooLarge, Detail: "the message is larger than 64 KiB; send fewer readings per message", Offset: -1}
	}
	if startsCBOR(in.Payload) {
		return decodeCBOR(in, dst)
	}
	return decodeText(in, dst)
}

// decodeText decodes JSON of any length: what was 64 KiB of CBOR may be longer.
func decodeText(in Input, dst []Item) ([]Item, error) {
	b := in.Payload
	if !utf8.Valid(b) {
		return dst, &Problem{Code: JSONInvalid, Detail: "the message is not valid UTF-8", Offset: -1}
	}
	s := scanner{b: b}
	base := len(dst)
	s.space()
	ok := true
	many, notReading := false, false
	switch s.peek() {
	case '{':
		dst = append(dst, Item{})
		ok = s.reading(&dst[base], 1, 0)
	case '[':
		s.i++
		s.space()
		if s.peek() == ']' {
			s.i++
			break
		}
		for n := 0; ; n++ {
			s.space()
			switch {
			case n >= MaxReadings:
				many = true
				_, ok = s.skip(2)
			case s.peek() == '{':
				dst = append(dst, Item{})
				ok = s.reading(&dst[len(dst)-1], 2, n)
			default:
				at := s.i
				_, ok = s.skip(2)
				dst = append(dst, Item{Problem: &Problem{Code: TypeWrong, Detail: "every item of the array must be an object", Index: n, Offset: at}})
			}
			if !ok {
				break
			}
			s.space()
			c := s.peek()
			s.i++
			if c == ']' {
				break
			}
			if c != ',' {
				s.i--
				ok = false
				break
			}
		}
	default:
		_, ok = s.skip(1)
		notReading = true
	}
	if ok {
		s.space()
		ok = s.i == len(b)
	}
	switch {
	case !ok:
		clear(dst[base:])
		why := s.why
		if why == "" {
			why = "the message is not valid JSON; nothing of it was taken"
		}
		return dst[:base], &Problem{Code: JSONInvalid, Detail: why, Offset: min(s.i, len(b))}
	case many:
		clear(dst[base:])
		return dst[:base], tooMany()
	case notReading:
		return dst, &Problem{Code: TypeWrong, Detail: "the message must be one reading (an object) or an array of readings", Offset: 0}
	}
	return dst, nil
}

// The known fields of a reading, as bits for finding duplicates.
const (
	fID = 1 << iota
	fSeq
	fIndicator
	fTakenAt
	fValue
	fValues
	fUnit
	fContext
	fFlags
	fUserSlot
	fError
)

func fieldOf(key []byte) uint16 {
	switch string(key) {
	case "indicator":
		return fIndicator
	case "taken_at":
		return fTakenAt
	case "value":
		return fValue
	case "values":
		return fValues
	case "unit":
		return fUnit
	case "seq":
		return fSeq
	case "id":
		return fID
	case "context":
		return fContext
	case "flags":
		return fFlags
	case "user_slot":
		return fUserSlot
	case "error":
		return fError
	}
	return 0
}

// fieldState says what was found of a field whose content is judged after the whole item was read.
type fieldState uint8

const (
	absent fieldState = iota // not there, or null
	present
	bad // there and wrong
)

// draft is one item while it is read.
type draft struct {
	wrong      string // detail of the first wrong type, "" when none
	wrongAt    int
	dup        bool
	indicator  fieldState
	takenAt    fieldState
	takenWhy   string
	unit       fieldState
	value      fieldState
	values     fieldState // bad: some component is NaN or infinite
	strangeKey bool       // a component name that nobody knows
	have       uint16     // bit per vitals.Component read from values
	single     float64
	v          [16]float64 // by vitals.Component
	otherFlags []byte
	noReading  bool // a flag says that it is none
	aside      []byte
	context    string
	id         string
	failed     []byte             // the field error as it was written, nil when there is none
	fault      vitals.DeviceFault // what it says, where it stands instead of a value
}

func (d *draft) typeWrong(at int, detail string) {
	if d.wrong == "" {
		d.wrong, d.wrongAt = detail, at
	}
}

// reading reads one object into it; false means that the JSON is broken and the whole message falls.
func (s *scanner) reading(it *Item, depth, index int) bool {
	start := s.i
	r := &it.Reading
	r.DeviceSeq = -1
	r.OffsetMin = vitals.NoOffset
	var d draft
	if !s.members(r, &d, depth) {
		return false
	}
	if code, detail, at := d.judge(r, start); code != "" {
		failed := vitals.Reading{}
		if d.fault != (vitals.DeviceFault{}) {
			failed = failure(r, d.fault)
		}
		*it = Item{Reading: failed, Problem: &Problem{Code: code, Detail: detail, Index: index, Offset: at}}
		return true
	}
	if d.id != "" || d.context != "" || d.aside != nil || d.otherFlags != nil {
		x := &vitals.Extra{DeviceReadingID: d.id, Context: d.context, OtherFlags: string(d.otherFlags)}
		if d.aside != nil {
			x.Aside = string(append(d.aside, '}'))
		}
		r.Extra = x
	}
	return true
}

// judge gives the item's problem, or "" after it has put the values into r.
func (d *draft) judge(r *vitals.Reading, start int) (code, detail string, at int) {
	switch {
	case d.dup:
		return JSONInvalid, "the same key stands twice in one object; which one counts is not guessed", start
	case d.wrong != "":
		return TypeWrong, d.wrong, d.wrongAt
	case d.indicator == absent:
		return FieldMissing, "indicator is missing", start
	case d.indicator == bad:
		return IndicatorUnknown, "there is no such indicator; known are blood_pressure, glucose, heart_rate, spo2, temperature, weight, respiration, steps, sleep, hrv, rhythm, height, body_fat", start
	case d.takenAt == absent:
		return FieldMissing, "taken_at is missing", start
	case d.takenAt == bad:
		return TimeInvalid, d.takenWhy, start
	case d.value != absent && d.values != absent:
		return TypeWrong, "send value for one component or values for several, not both", start
	}
	ind := r.Indicator
	switch {
	case d.value != absent:
		i := ind.Index(vitals.Value)
		if i < 0 && ind.Required() == 1 {
			i = 0 // one required component: sleep's total
		}
		if i < 0 {
			return ComponentUnknown, "this indicator has several components; send them in values: " + componentNames(ind), start
		}
		if d.value == bad {
			return ValueInvalid, "value is not a finite number", start
		}
		r.V[i], r.Has = d.single, 1<<i
	case d.values != absent:
		if d.strangeKey || d.have&^componentMask(ind) != 0 {
			return ComponentUnknown, "the indicator has no such component", start
		}
		if d.values == bad {
			return ValueInvalid, "a component is not a finite number", start
		}
		for i, c := range ind.Components() {
			if d.have&(1<<c) != 0 {
				r.V[i], r.Has = d.v[c], r.Has|1<<i
			}
		}
	default:
		if fault, ok := nativeFault(d.failed); ok {
			if flag := beyondRange(ind, fault.Code); flag != 0 {
				r.Unit, r.Has, r.Flags = vitals.MgDL, 1, r.Flags|flag
				r.V[0] = censor[vitals.MgDL][0]
				if flag == vitals.AboveRange {
					r.V[0] = censor[vitals.MgDL][1]
				}
				d.unit = present
				break
			}
			d.fault = fault
			return StatusInvalid, "the device says that the measurement failed", start
		}
		return FieldMissing, "value or values is missing", start
	}
	if d.failed != nil && r.Flags&(vitals.BelowRange|vitals.AboveRange) == 0 {
		if _, ok := nativeFault(d.failed); ok {
			r.Flags |= vitals.Questionable // a value and an error: the device itself doubts it
		}
	}
	switch req := ind.Required(); {
	case r.Has&req != req:
		return FieldMissing, "a required component is missing", start
	case d.unit == absent:
		return UnitMissing, "unit is missing; it is never guessed", start
	case d.unit == bad || !ind.Accepts(r.Unit):
		return UnitUnknown, "there is no such unit, or it is not one of this indicator; send a UCUM code such as mm[Hg], mmol/L, /min", start
	case d.noReading:
		return NotAReading, "a flag says that this is a control solution, a calibration, a test, a demonstration or a goal", start
	}
	return "", "", 0
}

// saysNoReading reports whether a flag says that what has it was not measured on a person.
func saysNoReading(flag string) bool {
	switch flag {
	case "control", "control_solution", "calibration", "test", "demo", "demonstration", "goal":
		return true
	}
	return false
}

// nativeFault reads the field error: a code as text or number, or an object with code, class or both. Anything else,
// such as 0, false or "", says that there was none.
func nativeFault(raw []byte) (f vitals.DeviceFault, ok bool) {
	if raw == nil {
		return f, false
	}
	t, v, p := takeApart(raw)
	if p != nil {
		return f, false
	}
	defer t.free()
	code := v
	if v.kind() == jObject {
		code = v.get("code")
		class, _ := v.get("class").text()
		f.Class = string(class)
	}
	switch text, isText := code.text(); {
	case isText:
		f.Code = string(text)
	case code.kind() == jNumber:
		if n, whole := code.integer(); whole && n != 0 {
			f.Code = string(code.raw())
		}
	}
	return f, f != vitals.DeviceFault{}
}

// beyondRange reports whether what a meter shows instead of a number is no error: LO and HI are values beyond its range,
// and a LO that were told as a device error would hide a dangerous one.
func beyondRange(i vitals.Indicator, code string) vitals.Flags {
	if i != vitals.Glucose {
		return 0
	}
	switch strings.ToUpper(code) {
	case "LO", "LOW":
		return vitals.BelowRange
	case "HI", "HIGH":
		return vitals.AboveRange
	}
	return 0
}

// componentMasks holds the components of each indicator as a bit set by vitals.Component.
var componentMasks = func() (m [64]uint16) {
	for _, ind := range vitals.Indicators() {
		for _, c := range ind.Components() {
			m[ind] |= 1 << c
		}
	}
	return m
}()

func componentMask(i vitals.Indicator) uint16 { return componentMasks[i&63] }

// componentNames is for people who send them wrong.
func componentNames(i vitals.Indicator) string {
	var names []string
	for _, c := range i.Components() {
		names = append(names, c.String())
	}
	return strings.Join(names, ", ")
}

// members reads the fields of one reading.
func (s *scanner) members(r *vitals.Reading, d *draft, depth int) bool {
	var seen uint16
	var strange keySet
	s.i++ // '{'
	s.space()
	if s.peek() == '}' {
		s.i++
		return true
	}
	for {
		s.space()
		keyAt := s.i
		raw, esc, ok := s.text()
		if !ok || !s.colon() {
			return false
		}
		key := raw
		if esc {
			key = unescape(nil, raw)
		}
		f := fieldOf(key)
		switch {
		case f == 0:
			if strange.add(key) {
				d.dup = true
			}
		case seen&f != 0:
			d.dup = true
		}
		seen |= f
		if f != 0 && s.peek() == 'n' { // null: as if it were not there
			ok = s.word("null")
		} else {
			switch f {
			case fIndicator:
				ok = s.indicatorField(r, d, depth)
			case fTakenAt:
				ok = s.takenAtField(r, d, depth)
			case fValue:
				ok = s.valueField(d, depth)
			case fValues:
				ok = s.valuesField(d, depth)
			case fUnit:
				ok = s.unitField(r, d, depth)
			case fSeq:
				ok = s.seqField(r, d, depth)
			case fID:
				ok = s.idField(d, depth)
			case fContext:
				ok = s.contextField(r, d, depth)
			case fFlags:
				ok = s.flagsField(r, d, depth)
			case fUserSlot:
				ok = s.slotField(r, d, depth)
			default:
				var dup bool
				at := s.i
				dup, ok = s.skip(depth + 1)
				d.dup = d.dup || dup
				if ok && f == fError {
					d.failed = s.b[at:s.i]
				}
				if ok {
					sep := byte(',')
					if d.aside == nil {
						sep = '{'
					}
					d.aside = append(d.aside, sep)
					d.aside = appendCompact(d.aside, s.b[keyAt:s.i])
				}
			}
		}
		if !ok {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			return true
		default:
			return false
		}
	}
}

// other notes that a field has the wrong type and steps over its value.
func (s *scanner) other(d *draft, depth int, detail string) bool {
	d.typeWrong(s.i, detail)
	dup, ok := s.skip(depth + 1)
	d.dup = d.dup || dup
	return ok
}

func (s *scanner) indicatorField(r *vitals.Reading, d *draft, depth int) bool {
	if s.peek() != '"' {
		return s.other(d, depth, "indicator must be a string")
	}
	raw, esc, ok := s.text()
	if esc {
		raw = unescape(nil, raw)
	}
	d.indicator = bad
	if ind, known := vitals.ParseIndicator(string(raw)); known {
		r.Indicator, d.indicator = ind, present
	}
	return ok
}

func (s *scanner) unitField(r *vitals.Reading, d *draft, depth int) bool {
	if s.peek() != '"' {
		return s.other(d, depth, "unit must be a string")
	}
	raw, esc, ok := s.text()
	if len(raw) == 0 {
		return ok
	}
	if esc {
		raw = unescape(nil, raw)
	}
	d.unit = bad
	if u, known := vitals.ParseUnit(string(raw)); known {
		r.Unit, d.unit = u, present
	}
	return ok
}

func (s *scanner) takenAtField(r *vitals.Reading, d *draft, depth int) bool {
	d.takenWhy = "taken_at is not a date of a measurement: RFC 3339 with offset or Unix milliseconds, not before 1990"
	switch c := s.peek(); {
	case c == '"':
		raw, esc, ok := s.text()
		if esc {
			raw = unescape(nil, raw)
		}
		d.takenAt = bad
		t, off, verdict := parseTime(raw)
		switch {
		case verdict == timeNoOffset:
			d.takenWhy = "taken_at has no offset from UTC; write Z or +08:00 after the time"
		case verdict == timeGood && t >= minTaken && t < maxTaken:
			r.TakenAt, r.OffsetMin, d.takenAt = t, off, present
		}
		return ok
	case isNumberStart(c):
		n, ok := s.number()
		d.takenAt = bad
		if ms, fits := n.integer(); fits && ms >= int64(minTaken)/1000 && ms < int64(maxTaken)/1000 {
			r.TakenAt, d.takenAt = vitals.Micros(ms)*vitals.Millisecond, present
		}
		return ok
	}
	return s.other(d, depth, "taken_at must be a string or an integer")
}

// component reads a component's number; state is bad for NaN and the infinities, which some JSON writers emit.
func (s *scanner) component() (v float64, state fieldState, ok bool) {
	switch s.peek() {
	case 'N':
		return 0, bad, s.word("NaN")
	case 'I':
		return 0, bad, s.word("Infinity")
	case '-':
		if s.i+1 < len(s.b) && s.b[s.i+1] == 'I' {
			return 0, bad, s.word("-Infinity")
		}
	}
	n, ok := s.number()
	if !ok {
		return 0, bad, false
	}
	v, finite := n.float()
	if !finite {
		return 0, bad, true
	}
	return v, present, true
}

func isComponentStart(c byte) bool { return isNumberStart(c) || c == 'N' || c == 'I' }

func (s *scanner) valueField(d *draft, depth int) bool {
	switch c := s.peek(); {
	case c == '{':
		return s.other(d, depth, "value must be a number; several components go in values")
	case !isComponentStart(c):
		return s.other(d, depth, "value must be a number; for one beyond the device's range send the end of the range and the flag above_range or below_range")
	}
	var ok bool
	d.single, d.value, ok = s.component()
	return ok
}

func (s *scanner) valuesField(d *draft, depth int) bool {
	if s.peek() != '{' {
		return s.other(d, depth, "values must be an object of component names and numbers")
	}
	if depth+1 > maxDepth {
		return s.tooDeep()
	}
	s.i++
	s.space()
	if s.peek() == '}' {
		s.i++
		return true
	}
	var seen uint16
	var strange keySet
	for {
		s.space()
		raw, esc, ok := s.text()
		if !ok || !s.colon() {
			return false
		}
		if esc {
			raw = unescape(nil, raw)
		}
		c, known := componentOf(raw)
		if known {
			d.dup = d.dup || seen&(1<<c) != 0
			seen |= 1 << c
		} else {
			d.dup = strange.add(raw) || d.dup
			d.strangeKey = true
			d.values = max(d.values, present)
		}
		switch {
		case !known:
			var dup bool
			dup, ok = s.skip(depth + 2)
			d.dup = d.dup || dup
		case s.peek() == 'n':
			ok = s.word("null")
		case !isComponentStart(s.peek()):
			ok = s.other(d, depth+1, "a component must be a number")
		default:
			var state fieldState
			d.v[c], state, ok = s.component()
			d.have |= 1 << c
			d.values = max(d.values, state)
		}
		if !ok {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			return true
		default:
			return false
		}
	}
}

func componentOf(name []byte) (vitals.Component, bool) { return vitals.ParseComponent(string(name)) }

func (s *scanner) seqField(r *vitals.Reading, d *draft, depth int) bool {
	const want = "seq must be an integer that is not negative"
	if !isNumberStart(s.peek()) {
		return s.other(d, depth, want)
	}
	at := s.i
	n, ok := s.number()
	if v, fits := n.integer(); fits && !n.neg {
		r.DeviceSeq = v
	} else {
		d.typeWrong(at, want)
	}
	return ok
}

func (s *scanner) slotField(r *vitals.Reading, d *draft, depth int) bool {
	const want = "user_slot must be an integer from 0 to 255"
	if !isNumberStart(s.peek()) {
		return s.other(d, depth, want)
	}
	at := s.i
	n, ok := s.number()
	if v, fits := n.integer(); fits && !n.neg && v <= 255 {
		r.UserSlot = uint8(v)
	} else {
		d.typeWrong(at, want)
	}
	return ok
}

func (s *scanner) idField(d *draft, depth int) bool {
	const want = "id must be a string of at most 128 bytes"
	if s.peek() != '"' {
		return s.other(d, depth, want)
	}
	at := s.i
	raw, esc, ok := s.text()
	if esc {
		raw = unescape(nil, raw)
	}
	if len(raw) > MaxIDBytes {
		d.typeWrong(at, want)
		return ok
	}
	d.id = string(raw)
	return ok
}

// contextField keeps the object as compact JSON and picks out what rules ask for. Members of other types than
// expected are not an error: the device's own context is the device's business.
func (s *scanner) contextField(r *vitals.Reading, d *draft, depth int) bool {
	if s.peek() != '{' {
		return s.other(d, depth, "context must be an object")
	}
	if depth+1 > maxDepth {
		return s.tooDeep()
	}
	start := s.i
	s.i++
	s.space()
	if s.peek() == '}' {
		s.i++
		return true
	}
	var keys keySet
	for {
		s.space()
		raw, esc, ok := s.text()
		if !ok || !s.colon() {
			return false
		}
		if esc {
			raw = unescape(nil, raw)
		}
		d.dup = keys.add(raw) || d.dup
		if s.peek() == '"' {
			var word []byte
			if word, esc, ok = s.text(); !ok {
				return false
			}
			if esc {
				word = unescape(nil, word)
			}
			switch string(raw) {
			case "meal":
				r.Meal = vitals.ParseMeal(string(word))
			case "activity":
				r.Activity = vitals.ParseActivity(string(word))
			}
		} else {
			dup, ok := s.skip(depth + 2)
			if !ok {
				return false
			}
			d.dup = d.dup || dup
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			continue
		case '}':
			s.i++
		default:
			return false
		}
		var buf [256]byte
		d.context = string(appendCompact(buf[:0], s.b[start:s.i]))
		return true
	}
}

func (s *scanner) flagsField(r *vitals.Reading, d *draft, depth int) bool {
	const want = "flags must be an array of strings"
	if s.peek() != '[' {
		return s.other(d, depth, want)
	}
	if depth+1 > maxDepth {
		return s.tooDeep()
	}
	s.i++
	s.space()
	if s.peek() == ']' {
		s.i++
		return true
	}
	for {
		s.space()
		if s.peek() != '"' {
			if !s.other(d, depth+1, want) {
				return false
			}
		} else {
			raw, esc, ok := s.text()
			if !ok {
				return false
			}
			if esc {
				raw = unescape(nil, raw)
			}
			if f := vitals.ParseFlag(string(raw)); f != 0 {
				r.Flags |= f
			} else if len(raw) > 0 {
				d.noReading = d.noReading || saysNoReading(string(raw))
				if d.otherFlags != nil {
					d.otherFlags = append(d.otherFlags, ',')
				}
				d.otherFlags = append(d.otherFlags, raw...)
			}
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			return true
		default:
			return false
		}
	}
}
