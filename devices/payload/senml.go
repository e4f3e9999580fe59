package payload

import (
	"bytes"
	"math"
	"strings"

	"vitalwatch/vitals"
)

// SenML (RFC 8428, units also RFC 8798): a pack of records as JSON or CBOR. A record's name ends in an indicator, one of
// its components or a LOINC code: urn:dev:mac:0024befffe804ff1/heart_rate, …:blood_pressure/systolic, …_spo2,
// …/8867-4. What stands before is kept aside; whose device it is, the topic says. Systolic, diastolic, mean and pulse of
// one name and time are one blood pressure.

func init() {
	register("senml", decodeSenML)
	register("senml-cbor", decodeSenMLCBOR)
}

// senmlLabels: RFC 8428, table 4.
var senmlLabels = map[int64]string{-1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
	0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd"}

func decodeSenMLCBOR(in Input, dst []Item) ([]Item, error) {
	c, p := readCBOR(in.Payload, senmlLabels)
	if p != nil {
		return dst, p
	}
	defer c.free()
	in.Payload = c.out
	base := len(dst)
	dst, err := decodePack(in, dst, c.starts)
	for i := base; i < len(dst) && err == nil; i++ {
		if p := dst[i].Problem; p != nil && p.Offset >= 0 {
			p.Offset = int(c.starts[p.Offset])
		}
	}
	return dst, c.located(err)
}

func decodeSenML(in Input, dst []Item) ([]Item, error) {
	if startsCBOR(in.Payload) {
		return decodeSenMLCBOR(in, dst)
	}
	return decodePack(in, dst, nil)
}

// senmlPack is a pack while it is read.
type senmlPack struct {
	message
	starts  bool // offsets are the numbers of records and not positions
	record  int
	name    []byte // bn, then bn+n
	baseLen int
	bt      float64
	bu      []byte
	bv      number
	hasBV   bool
	groups  []senmlGroup
	pulses  []senmlPulse
}

// senmlGroup is a reading of several components that still gathers them.
type senmlGroup struct {
	prefix string
	at     vitals.Micros
	item   int // in dst
	from   int // offset of its first record
}

type senmlPulse struct {
	prefix string
	at     vitals.Micros
	v      float64
	from   int
}

// Values of time below this many seconds are relative to now (RFC 8428, section 4.5.3).
const senmlRelative = 1 << 28

func decodePack(in Input, dst []Item, starts []int32) ([]Item, error) {
	t, root, p := takeApart(in.Payload)
	if p != nil {
		return dst, p
	}
	defer t.free()
	if root.kind() != jArray {
		return dst, &Problem{Code: TypeWrong, Detail: "a SenML pack is an array of records", Offset: 0}
	}
	s := senmlPack{message: message{in: in, dst: dst, base: len(dst)}, starts: starts != nil}
	for r := range root.children() {
		if p = s.fields(r); p != nil {
			break
		}
		s.record++
	}
	if p == nil {
		s.close()
	}
	if p != nil {
		s.many = false // the pack is refused for what is wrong in it
	}
	return s.end(p)
}

func (s *senmlPack) offset(r jval) int {
	if s.starts {
		return s.record
	}
	return r.offset()
}

func (s *senmlPack) refuse(code, detail string, at int) {
	s.fail(s.item(), code, detail, at)
}

// fields reads one record; a problem of the whole pack ends the reading.
func (s *senmlPack) fields(r jval) *Problem {
	at := s.offset(r)
	if r.kind() != jObject {
		s.refuse(TypeWrong, "every record of a pack must be an object", at)
		return nil
	}
	if r.dup() { // a base field may be among them: what follows could not be understood
		return &Problem{Code: JSONInvalid, Detail: "a record has the same label twice; nothing of the pack was taken", Offset: at}
	}
	var n, u, v, sum, t jval
	var other string
	values, bases := 0, false
	for c := range r.children() {
		label := c.name()
		bad := false
		switch string(label) {
		case "bn", "bu":
			text, isText := c.text()
			bad = !isText
			if string(label) == "bn" {
				s.name = append(s.name[:0], text...)
				s.baseLen = len(s.name)
			} else {
				s.bu = text
			}
			bases = true
		case "bt", "bv", "bs":
			num, isNumber := c.number()
			f, finite := num.float()
			bad = !isNumber || !finite
			switch label[1] {
			case 't':
				s.bt = f
			case 'v':
				s.bv, s.hasBV = num, true
			}
			bases = true
		case "bver":
			ver, isInt := c.integer()
			if !isInt || ver > 10 { // RFC 8428 is version 10
				return &Problem{Code: TypeWrong, Detail: "the pack has a later version of SenML than RFC 8428; nothing of it was taken", Offset: at}
			}
			bases = true
		case "n":
			n = c
			bad = c.kind() != jString
		case "u":
			u = c
			bad = c.kind() != jString
		case "t":
			t = c
			bad = c.kind() != jNumber
		case "v":
			v = c
			values++
		case "s":
			sum = c
		case "vs", "vb", "vd":
			other = "the value is no number"
			values++
		case "ut":
		default:
			if len(label) > 0 && label[len(label)-1] == '_' {
				return &Problem{Code: TypeWrong, Detail: "the pack has a field that must be understood and is not; nothing of it was taken", Offset: at}
			}
		}
		if bad {
			if len(label) == 2 && label[0] == 'b' {
				return &Problem{Code: TypeWrong, Detail: "a base field has the wrong type; nothing of the pack was taken", Offset: at}
			}
			s.refuse(TypeWrong, "a field of the record has the wrong type", at)
			return nil
		}
	}
	switch {
	case values == 0 && !sum.there():
		if !bases {
			s.refuse(FieldMissing, "the record has no value", at)
		}
	case values > 1:
		s.refuse(TypeWrong, "the record has several values; which one counts is not guessed", at)
	default:
		part, _ := n.text()
		s.name = append(s.name[:s.baseLen], part...)
		s.value(u, v, t, other, at)
		s.name = s.name[:s.baseLen]
	}
	return nil
}

// value resolves one record with a value: name, unit, time, number (RFC 8428, section 4.6).
func (s *senmlPack) value(u, v, t jval, other string, at int) {
	if !senmlName(s.name) {
		s.refuse(TypeWrong, "the record's name is empty or has characters that SenML does not allow", at)
		return
	}
	prefix, mean := senmlMeaning(s.name)
	ind, comp := mean.ind, mean.comp
	switch {
	case ind == 0:
		s.refuse(IndicatorUnknown, "the name does not end in an indicator, a component or a LOINC code that is watched here", at)
		return
	case comp == vitals.Value && ind.Index(vitals.Value) < 0 && ind != vitals.Sleep:
		s.refuse(ComponentUnknown, "this indicator has several components; end the name in one, such as blood_pressure/systolic", at)
		return
	case other != "":
		s.refuse(TypeWrong, other, at)
		return
	case !v.there():
		s.refuse(NotAReading, "a sum is not a reading; send v", at)
		return
	}
	if ind == vitals.Sleep && comp == vitals.Value {
		comp = vitals.Total
	}
	n, isNumber := v.number()
	if !isNumber {
		s.refuse(TypeWrong, "v must be a number", at)
		return
	}
	x, finite := n.float()
	if finite && s.hasBV {
		x, finite = addNumbers(s.bv, n)
	}
	if !finite {
		s.refuse(ValueInvalid, "the value is not a finite number", at)
		return
	}
	unit := s.bu
	if u.there() {
		unit, _ = u.text()
	}
	if len(unit) == 0 {
		s.refuse(UnitMissing, "the record has no unit, neither u nor bu; it is never guessed", at)
		return
	}
	un, known := senmlUnit(string(unit))
	if comp == vitals.Pulse {
		known = known && un == vitals.PerMin
	} else {
		known = known && ind.Accepts(un)
	}
	if !known {
		s.refuse(UnitUnknown, "there is no such unit, or it is not one of this indicator; SenML has beat/min, Cel, kg, %, UCUM mm[Hg], mmol/L", at)
		return
	}
	taken, ours, detail := s.time(t)
	if detail != "" {
		s.refuse(TimeInvalid, detail, at)
		return
	}
	clock := ClockDevice
	if ours {
		clock = ClockReceipt
	}
	if comp == vitals.Pulse && ind != vitals.SpO2 {
		s.pulses = append(s.pulses, senmlPulse{string(prefix), taken, x, at})
		return
	}
	if len(ind.Components()) > 1 {
		s.gather(string(prefix), ind, comp, x, un, taken, clock, at)
		return
	}
	it := s.item()
	r := &it.Reading
	r.Indicator, r.Unit, r.TakenAt = ind, un, taken
	r.Set(comp, x)
	it.Clock = clock
	senmlAside(r, prefix)
	var c contextObject
	mean.describe(r, &c)
	c.set(r)
}

func senmlAside(r *vitals.Reading, prefix []byte) {
	if len(prefix) > 0 { // characters of a name need no escapes
		r.Extra = &vitals.Extra{Aside: `{"senml_name":"` + string(prefix) + `"}`}
	}
}

// time gives the record's time; ours is true where it is counted from when the message came.
func (s *senmlPack) time(t jval) (at vitals.Micros, ours bool, detail string) {
	sec := s.bt
	var off float64
	if t.there() {
		off, _ = t.float()
	}
	total := sec + off
	us := math.Round(sec*1e6) + math.Round(off*1e6)
	if math.Abs(us) > float64(maxTaken) || math.IsNaN(us) {
		return 0, false, "the time is none of a measurement"
	}
	if ours = total < senmlRelative; ours {
		if s.in.ReceivedAt == 0 {
			return 0, true, "the time is relative, and nobody knows when the message came"
		}
		us += float64(s.in.ReceivedAt)
	}
	if at = vitals.Micros(us); !taken(at) {
		return 0, ours, "the time is none of a measurement"
	}
	return at, ours, ""
}

// gather adds a component to the reading of the same name and time, or begins one.
func (s *senmlPack) gather(prefix string, ind vitals.Indicator, comp vitals.Component, v float64, u vitals.Unit, at vitals.Micros, clock Clock, from int) {
	g := s.group(prefix, ind, at)
	if g < 0 {
		it := s.item()
		it.Reading.Indicator, it.Reading.TakenAt = ind, at
		it.Clock = clock
		senmlAside(&it.Reading, []byte(prefix))
		g = len(s.groups)
		s.groups = append(s.groups, senmlGroup{prefix: prefix, at: at, item: len(s.dst) - 1, from: from})
		if s.many {
			return
		}
	}
	it := &s.dst[s.groups[g].item]
	if it.Problem != nil {
		return
	}
	r := &it.Reading
	fail := func(code, detail string) {
		it.Problem = &Problem{Code: code, Detail: detail, Index: s.groups[g].item - s.base, Offset: from}
	}
	if _, there := r.Value(comp); there {
		fail(TypeWrong, "a component stands twice at one time; which one counts is not guessed")
		return
	}
	if comp.InReadingUnit() {
		if r.Unit != vitals.NoUnit && r.Unit != u {
			fail(UnitUnknown, "the components have different units; send them in one")
			return
		}
		r.Unit = u
	}
	r.Set(comp, v)
}

func (s *senmlPack) group(prefix string, ind vitals.Indicator, at vitals.Micros) int {
	for i := len(s.groups) - 1; i >= 0; i-- {
		g := &s.groups[i]
		if g.at == at && s.dst[g.item].Reading.Indicator == ind && g.prefix == prefix {
			return i
		}
	}
	return -1
}

// close gives pulses to their readings and refuses what is not complete.
func (s *senmlPack) close() {
	if s.many {
		return
	}
	for _, p := range s.pulses {
		g := s.group(p.prefix, vitals.BloodPressure, p.at)
		if g < 0 {
			g = s.group(p.prefix, vitals.SpO2, p.at)
		}
		if g < 0 {
			s.refuse(ComponentUnknown, "a pulse belongs to a blood pressure or an SpO2 of the same name and time; alone it is a heart_rate", p.from)
			continue
		}
		it := &s.dst[s.groups[g].item]
		if _, twice := it.Reading.Value(vitals.Pulse); twice && it.Problem == nil {
			it.Problem = &Problem{Code: TypeWrong, Detail: "a component stands twice at one time; which one counts is not guessed", Index: s.groups[g].item - s.base, Offset: p.from}
		}
		it.Reading.Set(vitals.Pulse, p.v)
	}
	for _, g := range s.groups {
		it := &s.dst[g.item]
		if req := it.Reading.Indicator.Required(); it.Problem == nil && it.Reading.Has&req != req {
			it.Problem = &Problem{Code: FieldMissing, Index: g.item - s.base, Offset: g.from,
				Detail: "a required component is missing among the records of the same name and time"}
		}
		if it.Problem != nil {
			*it = Item{Problem: it.Problem}
		}
	}
}

// senmlName: RFC 8428, section 4.5.1.
func senmlName(b []byte) bool {
	for i, c := range b {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || strings.IndexByte("-:./_", c) < 0) {
			return false
		}
	}
	return len(b) > 0
}

// senmlMeaning reads the end of a name; prefix is what stands before, without its separator.
func senmlMeaning(name []byte) (prefix []byte, m fhirMeaning) {
	head, last := cutLast(name)
	if i, ok := vitals.ParseIndicator(string(last)); ok {
		return head, simple(i)
	}
	if m, ok := loinc[string(last)]; ok && m.not == "" {
		return beforePanel(head, m.ind), m
	}
	switch string(last) {
	case "systolic_blood_pressure":
		return beforePanel(head, vitals.BloodPressure), part(vitals.Systolic)
	case "diastolic_blood_pressure":
		return beforePanel(head, vitals.BloodPressure), part(vitals.Diastolic)
	}
	if c, ok := vitals.ParseComponent(string(last)); ok && c != vitals.Value {
		before, panel := cutLast(head)
		if i, ok := vitals.ParseIndicator(string(panel)); ok && i.Index(c) >= 0 {
			return before, fhirMeaning{ind: i, comp: c}
		}
		switch c {
		case vitals.Systolic, vitals.Diastolic, vitals.Mean, vitals.Pulse:
			return head, part(c)
		}
		return nil, fhirMeaning{}
	}
	for _, i := range vitals.Indicators() { // the parts of a urn:dev are joined by _ (RFC 9039)
		if rest, ok := bytes.CutSuffix(last, []byte(i.String())); ok && len(rest) > 1 && rest[len(rest)-1] == '_' {
			return name[:len(name)-len(i.String())-1], simple(i)
		}
	}
	return nil, fhirMeaning{}
}

// beforePanel cuts the panel's own name off.
func beforePanel(head []byte, ind vitals.Indicator) []byte {
	before, panel := cutLast(head)
	if i, ok := vitals.ParseIndicator(string(panel)); ok && i == ind {
		return before
	}
	if m, ok := loinc[string(panel)]; ok && m.ind == ind {
		return before
	}
	return head
}

func cutLast(name []byte) (head, last []byte) {
	if i := bytes.LastIndexAny(name, "/:"); i >= 0 {
		return name[:i], name[i+1:]
	}
	return nil, name
}

// senmlUnit: the registries of RFC 8428 and RFC 8798, in which C is coulomb and F farad; beside them UCUM, because
// pressure in mmHg and concentrations are in neither.
func senmlUnit(s string) (vitals.Unit, bool) {
	switch s {
	case "beat/min":
		return vitals.PerMin, true
	case "/100":
		return vitals.Percent, true
	case "C", "F", "st", "in", "1": // other things, or nothing for sure
		return 0, false
	}
	return vitals.ParseUnit(s)
}

// addNumbers adds two decimals without the error of adding their nearest float64s: 36 + 0.6 is 36.6.
func addNumbers(a, b number) (float64, bool) {
	x, okA := a.float()
	y, okB := b.float()
	if !okA || !okB {
		return 0, false
	}
	const most = 1 << 53
	exp := min(a.exp, b.exp)
	if a.exact && b.exact && exp > -16 {
		ma, mb := a.signed(), b.signed()
		fits := true
		for e := a.exp; e > exp; e-- {
			ma *= 10
			fits = fits && ma > -most && ma < most
		}
		for e := b.exp; e > exp; e-- {
			mb *= 10
			fits = fits && mb > -most && mb < most
		}
		if fits && ma > -most && ma < most && mb > -most && mb < most {
			sum := ma + mb
			return float64(sum) / pow10[-exp], true
		}
	}
	return x + y, !math.IsInf(x+y, 0)
}

// signed is the mantissa of an exact number.
func (n *number) signed() int64 {
	if n.neg {
		return -int64(n.m)
	}
	return int64(n.m)
}
