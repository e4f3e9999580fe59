package payload

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// Decode is the mapping's Decoder.
func (m *Mapping) Decode(in Input, dst []Item) ([]Item, error) {
	base := len(dst)
	one := func(v jval, dst []Item) []Item { return m.item(&in, v, dst) }
	if m.items == nil {
		return documents(&in, dst, one)
	}
	return documents(&in, dst, func(v jval, dst []Item) []Item {
		list := m.items.of(v)
		switch list.kind() {
		case jObject:
			return one(list, dst)
		case jAbsent:
			return refuse(dst, v, FieldMissing, "there is nothing at the mapping's path of items")
		case jArray:
		default:
			return refuse(dst, list, TypeWrong, "what stands at the mapping's path of items is not a list")
		}
		for x := range list.children() {
			if len(dst)-base > MaxReadings {
				break
			}
			if x.kind() != jObject {
				dst = refuse(dst, x, TypeWrong, "every item of the list must be an object")
				continue
			}
			dst = one(x, dst)
		}
		return dst
	})
}

func holds(cs []condition, v jval) bool {
	for i := range cs {
		w, found := cs[i].path.of(v).word(), false
		for _, x := range cs[i].in {
			found = found || x == w
		}
		if !found {
			return false
		}
	}
	return true
}

// word returns what the lookup finds; told is false when it has no translation.
func (l *lookup) word(v jval) (w string, told bool) {
	w = l.path.of(v).word()
	if l.Map == nil {
		return w, true
	}
	t, ok := l.Map[w]
	return t, ok
}

func (m *Mapping) item(in *Input, v jval, dst []Item) []Item {
	for i := range m.Skip {
		if holds(m.Skip[i].when, v) {
			return refuse(dst, v, NotAReading, m.Skip[i].Reason)
		}
	}
	start, matched := len(dst), false
	for i := range m.Readings {
		r := &m.Readings[i]
		if !holds(r.when, v) {
			continue
		}
		matched = true
		if r.Optional && !r.anyValue(v) {
			continue
		}
		item := Item{Reading: vitals.Reading{DeviceSeq: -1, OffsetMin: vitals.NoOffset}}
		if p := r.decode(v, &item.Reading); p != nil {
			dst = append(dst, Item{Problem: p})
			continue
		}
		if p := m.common(in, v, &item); p != nil {
			dst = append(dst, Item{Problem: p})
			continue
		}
		if x := item.Reading.Extra; len(dst) > start && x != nil && x.DeviceReadingID != "" {
			x.DeviceReadingID += "/" + item.Reading.Indicator.String() // an id is one reading's
		}
		dst = append(dst, item)
	}
	switch {
	case !matched:
		return refuse(dst, v, NotAReading, "the item is none of the readings that the mapping describes")
	case len(dst) == start:
		return refuse(dst, v, FieldMissing, "the item has none of the values that the mapping describes")
	}
	return dst
}

func (r *mappedReading) anyValue(v jval) bool {
	for i := range r.values {
		if r.values[i].path.of(v).there() {
			return true
		}
	}
	return false
}

// decode reads what is measured.
func (r *mappedReading) decode(v jval, out *vitals.Reading) *Problem {
	problem := func(at jval, code, detail string) *Problem {
		if !at.there() {
			at = v
		}
		return &Problem{Code: code, Detail: detail, Offset: at.offset()}
	}
	out.Indicator, out.Unit = r.indicator, r.unit
	if out.Indicator == 0 {
		w, _ := r.IndicatorFrom.word(v)
		ind, ok := vitals.ParseIndicator(w)
		if !ok {
			return problem(r.IndicatorFrom.path.of(v), IndicatorUnknown, "the mapping knows no such indicator")
		}
		out.Indicator = ind
	}
	for i := range r.values {
		x := &r.values[i]
		n := x.path.of(v)
		if !n.there() {
			continue
		}
		f, num, ok := n.numeric()
		switch {
		case !ok && n.kind() != jNumber && n.kind() != jString:
			return problem(n, TypeWrong, "a value must be a number")
		case !ok:
			return problem(n, ValueInvalid, "a value is not a finite number")
		}
		if f = x.of(num, f); math.IsInf(f, 0) || math.IsNaN(f) {
			return problem(n, ValueInvalid, "a value is not a finite number")
		}
		if !out.Set(x.c, f) {
			return problem(n, ComponentUnknown, "the indicator has no such component")
		}
	}
	if req := out.Indicator.Required(); out.Has&req != req {
		return problem(v, FieldMissing, "a required value is missing")
	}
	if out.Unit == 0 {
		at := r.UnitFrom.path.of(v)
		if at.word() == "" {
			return problem(at, UnitMissing, "the unit is missing; it is never guessed")
		}
		w, _ := r.UnitFrom.word(v)
		u, ok := vitals.ParseUnit(w)
		if !ok {
			return problem(at, UnitUnknown, "the mapping knows no such unit")
		}
		out.Unit = u
	}
	if !out.Indicator.Accepts(out.Unit) {
		return problem(v, UnitUnknown, "the unit is not one of this indicator")
	}
	for i := range r.flags {
		if holds(r.flags[i].when, v) {
			out.Flags |= r.flags[i].flag
		}
	}
	var c contextObject
	if r.Meal.path != nil {
		w, _ := r.Meal.word(v)
		out.Meal = vitals.ParseMeal(w)
		c.word("meal", out.Meal.String())
	}
	if r.Activity.path != nil {
		w, _ := r.Activity.word(v)
		out.Activity = vitals.ParseActivity(w)
		c.word("activity", out.Activity.String())
	}
	for i := range r.context {
		c.raw(r.context[i].name, r.context[i].path.of(v))
	}
	c.set(out)
	return nil
}

// common reads what all readings of an item share.
func (m *Mapping) common(in *Input, v jval, item *Item) *Problem {
	r := &item.Reading
	if p := m.Time.of(in, v, item); p != nil {
		return p
	}
	if x := m.seq.at(v); x.there() {
		seq, ok := x.integer()
		if !ok || seq < 0 {
			return &Problem{Code: TypeWrong, Detail: "the sequence number must be an integer that is not negative", Offset: x.offset()}
		}
		r.DeviceSeq = seq
	}
	if x := m.slot.at(v); x.there() {
		_, n, ok := x.numeric()
		slot, whole := n.integral()
		if !ok || !whole || slot < 0 || slot > 255 {
			return &Problem{Code: TypeWrong, Detail: "the user slot must be an integer from 0 to 255", Offset: x.offset()}
		}
		r.UserSlot = uint8(slot)
	}
	if x := m.id.at(v); x.there() {
		if id := x.word(); id != "" && len(id) <= MaxIDBytes {
			extra(r).DeviceReadingID = id
		}
	}
	return nil
}

// at is of for a path that may not be there.
func (p jpath) at(v jval) jval {
	if p == nil {
		return jval{}
	}
	return p.of(v)
}

func (t *mappedTime) of(in *Input, v jval, item *Item) *Problem {
	r := &item.Reading
	if t.Received {
		if !taken(in.ReceivedAt) {
			return &Problem{Code: TimeInvalid, Detail: "nobody said when this was measured", Offset: v.offset()}
		}
		r.TakenAt, item.Clock = in.ReceivedAt, ClockReceipt
		return nil
	}
	x := t.path.of(v)
	if !x.there() {
		return &Problem{Code: FieldMissing, Detail: "the time is missing", Offset: v.offset()}
	}
	bad := &Problem{Code: TimeInvalid, Detail: "the time is not one of the mapping's format, or before 1990", Offset: x.offset()}
	at, ok := vitals.Micros(0), false
	switch t.Format {
	case "rfc3339":
		s, _ := x.text()
		var verdict timeVerdict
		at, r.OffsetMin, verdict = parseTime(s)
		ok = verdict == timeGood
	case "local":
		s, _ := x.text()
		at, ok = parseLayout(t.layout, s)
	default: // a number, also in quotes, also with a fraction
		f, _, good := x.numeric()
		if t.Format == "unix_s" || t.Format == "local_s" {
			f *= 1000
		}
		f *= 1000
		ok = good && math.Abs(f) < float64(maxTaken)
		if ok {
			at = vitals.Micros(f)
		}
	}
	if !ok {
		return bad
	}
	if t.Zone != "" || t.zonePath != nil {
		loc, p := t.zone(in, v)
		if p != nil {
			return p
		}
		at, r.OffsetMin = fromWall(at, loc)
	}
	if !taken(at) {
		return bad
	}
	r.TakenAt = at
	return nil
}

// zone returns the zone of a local time.
func (t *mappedTime) zone(in *Input, v jval) (*time.Location, *Problem) {
	if t.location != nil {
		return t.location, nil
	}
	if t.zonePath != nil {
		x := t.zonePath.of(v)
		s, _ := x.text()
		if off, ok := parseOffset(s); ok {
			return time.FixedZone("", int(off)*60), nil
		}
		if x.there() {
			return nil, &Problem{Code: TimeInvalid, Detail: "the zone must be an offset such as +0800", Offset: x.offset()}
		}
	}
	if in.DeviceTZ == nil {
		return nil, &Problem{Code: TimeInvalid, Detail: "the time has no zone and the device has none either; set one with: vitalwatch device set --tz", Offset: v.offset()}
	}
	return in.DeviceTZ, nil
}

// parseLayout reads a local time by a layout of YYYY, MM, DD, hh, mm, ss; all else must stand as it is.
func parseLayout(layout, s []byte) (vitals.Micros, bool) {
	if len(layout) != len(s) {
		return 0, false
	}
	var y, mo, d, h, mi, sec int
	for i := 0; i < len(layout); {
		rest := string(layout[i:])
		var into *int
		n := 2
		switch {
		case len(rest) >= 4 && rest[:4] == "YYYY":
			into, n = &y, 4
		case len(rest) >= 2 && rest[:2] == "MM":
			into = &mo
		case len(rest) >= 2 && rest[:2] == "DD":
			into = &d
		case len(rest) >= 2 && rest[:2] == "hh":
			into = &h
		case len(rest) >= 2 && rest[:2] == "mm":
			into = &mi
		case len(rest) >= 2 && rest[:2] == "ss":
			into = &sec
		default:
			if layout[i] != s[i] {
				return 0, false
			}
			i++
			continue
		}
		for range n {
			c := s[i] - '0'
			if c > 9 {
				return 0, false
			}
			*into = *into*10 + int(c)
			i++
		}
	}
	return wall(y, mo, d, h, mi, sec)
}

// TextAt returns what stands at a path of a JSON message, a string or a number: where a route looks for the device.
func TextAt(message []byte, path []string) (string, *Problem) {
	t, root, p := parseTree(message)
	if p != nil {
		return "", p
	}
	defer t.free()
	return jpath(path).of(root).word(), nil
}

// CheckFormat says what is wrong with a format as a route names it: "theengs", "gatt/2A18", "homeassistant/heart_rate".
// ms are mappings that count beside those that are in use.
func CheckFormat(format string, ms ...*Mapping) error {
	name, sub, more := strings.Cut(format, "/")
	_, ok := Find(name)
	if !ok && !slices.ContainsFunc(ms, func(m *Mapping) bool { return m.Format == strings.TrimPrefix(name, "map:") }) {
		return fmt.Errorf("%q is no format; there are %s", name, strings.Join(Formats(), ", "))
	}
	if !more {
		return nil
	}
	switch name {
	case "gatt":
		if _, ok := characteristicCode(sub); !ok {
			return fmt.Errorf("%q is not the 16-bit number of a characteristic, such as gatt/2A18", sub)
		}
	case "homeassistant":
		if _, ok := vitals.ParseIndicator(sub); !ok {
			return fmt.Errorf("%q is no indicator; write one behind the slash, such as homeassistant/heart_rate", sub)
		}
	default:
		return fmt.Errorf("the format %s takes nothing behind a slash", name)
	}
	return nil
}
