package payload

import (
	"math"
	"strconv"
	"time"

	"vitalwatch/vitals"
)

// Withings cloud answers, {"status":0,"body":…}. Layouts and types: developer.withings.com, openmhealth/shimmer,
// shims.withings.
//
//   - Measure - Getmeas, body.measuregrps: each group is one event of one person; value·10^unit.
//   - Measure - Getactivity, body.activities: the steps of a day.
//   - Measure - Getintradayactivity, body.series as an object of Unix seconds: steps, heart rate, oxygen, variability.
//   - Sleep - Getsummary, body.series as an array: one night each. The phases of Sleep - Get are no readings.
func init() { register("withings", decodeWithings) }

// Measure types that are readings of ours, each in the one unit that the interface has for it.
const (
	withingsWeight    = 1  // kg
	withingsHeight    = 4  // m
	withingsFat       = 6  // %
	withingsDiastolic = 9  // mmHg
	withingsSystolic  = 10 // mmHg
	withingsPulse     = 11 // /min
	withingsSpO2      = 54 // %
	withingsBody      = 71 // Cel; 12 is a thermometer's that may hang on a wall, 73 is of the skin
)

func decodeWithings(in Input, dst []Item) ([]Item, error) {
	return documents(&in, dst, func(v jval, dst []Item) []Item {
		body := v.get("body")
		if s := v.get("status"); s.there() {
			if n, ok := s.integer(); !ok || n != 0 {
				return refuse(dst, s, StatusInvalid, "status is not 0: the cloud has answered with an error")
			}
		}
		if !body.there() {
			body = v
		}
		w := withingsAnswer{in: &in, zone: body.get("timezone")}
		list := body.first("measuregrps", "activities", "series")
		if !list.there() {
			if body.get("steps").there() && body.get("date").there() { // one day that was asked for
				return w.day(body, dst)
			}
			return refuse(dst, v, FieldMissing, "body.measuregrps is missing; activities and series are taken too")
		}
		item, series := w.group, list.key() == "series"
		switch {
		case list.kind() != jArray && !(series && list.kind() == jObject):
			return refuse(dst, list, TypeWrong, "measuregrps and activities of the body must be arrays")
		case list.kind() == jObject:
			item = w.moment
		case series:
			item = w.night
		case list.key() == "activities":
			item = w.day
		}
		for g := range list.children() {
			switch {
			case len(dst) > 2*MaxReadings: // refused in any case
				return dst
			case g.kind() != jObject:
				dst = refuse(dst, g, TypeWrong, "every item of the answer must be an object")
			default:
				dst = item(g, dst)
			}
		}
		return dst
	})
}

// withingsAnswer is one answer while it is read.
type withingsAnswer struct {
	in   *Input
	zone jval // of the whole answer
	name string
	loc  *time.Location // of name, nil when there is no such zone
}

// location is the zone that an item or else its answer names; named is false when neither does.
func (w *withingsAnswer) location(v jval) (loc *time.Location, named bool) {
	zone := v.get("timezone")
	if !zone.there() {
		zone = w.zone
	}
	name := zone.shortText()
	switch {
	case !zone.there():
		return nil, false
	case name == "" || name == "Local": // which Go takes for the server's own
		return nil, true
	case name != w.name:
		w.name = name
		w.loc, _ = time.LoadLocation(name)
	}
	return w.loc, true
}

// at puts the time of an item, Unix seconds, into r.
func (w *withingsAnswer) at(sec int64, v jval, r *vitals.Reading) bool {
	if sec < int64(minTaken/vitals.Second) || sec >= int64(maxTaken/vitals.Second) {
		return false
	}
	r.TakenAt, r.OffsetMin, r.DeviceSeq = vitals.Micros(sec)*vitals.Second, vitals.NoOffset, -1
	if loc, _ := w.location(v); loc != nil {
		r.OffsetMin = int16(zoneOffset(sec, loc) / 60)
	}
	return true
}

// day reads the steps of one day: they are of its last second.
func (w *withingsAnswer) day(v jval, dst []Item) []Item {
	date := v.get("date")
	raw, _ := date.text()
	var buf [32]byte
	day, _, verdict := parseTime(append(append(buf[:0], raw[:min(len(raw), 10)]...), "T00:00:00Z"...))
	switch {
	case !date.there():
		return refuse(dst, v, FieldMissing, "date is missing")
	case len(raw) != 10 || verdict != timeGood || !taken(day):
		return refuse(dst, date, TimeInvalid, "date must be like 2026-11-21")
	}
	loc, named := w.location(v)
	if !named {
		loc = w.in.DeviceTZ
	}
	if loc == nil {
		return refuse(dst, v, TimeInvalid, "the date is a local one, and neither timezone nor the device says a zone that is known")
	}
	r := vitals.Reading{Indicator: vitals.Steps, Unit: vitals.StepCount, DeviceSeq: -1}
	r.TakenAt, r.OffsetMin = fromWall(day+vitals.Day-vitals.Second, loc)
	if p := component(v, "steps", &r, vitals.Value); p != nil {
		return append(dst, Item{Problem: p})
	}
	if w.in.ReceivedAt != 0 && r.TakenAt > w.in.ReceivedAt {
		return refuse(dst, date, NotAReading, "the day is not over and its steps still grow; send it again afterwards")
	}
	return append(dst, Item{Reading: r})
}

// moment reads what was measured at one time of a day; steps are those of the "duration" seconds that begin there.
func (w *withingsAnswer) moment(v jval, dst []Item) []Item {
	sec, err := strconv.ParseInt(v.key(), 10, 64)
	var base vitals.Reading
	if err != nil || !w.at(sec, v, &base) {
		return refuse(dst, v, TimeInvalid, "the items of series must be named by Unix seconds, not before 1990")
	}
	start := len(dst)
	for _, m := range [...]struct {
		key string
		ind vitals.Indicator
		u   vitals.Unit
	}{
		{"steps", vitals.Steps, vitals.StepCount}, {"heart_rate", vitals.HeartRate, vitals.PerMin},
		{"spo2_auto", vitals.SpO2, vitals.Percent}, {"sdnn1", vitals.HRV, vitals.Milli},
	} {
		if !v.get(m.key).there() {
			continue
		}
		r := base
		r.Indicator, r.Unit = m.ind, m.u
		if d, ok := v.get("duration").integer(); ok && m.ind == vitals.Steps && d > 0 && d <= 86400 {
			r.TakenAt += vitals.Micros(d) * vitals.Second
		}
		it := Item{Problem: component(v, m.key, &r, vitals.Value)}
		if it.Problem == nil {
			it.Reading = r
		}
		dst = append(dst, it)
	}
	if len(dst) == start {
		return refuse(dst, v, IndicatorUnknown, "the item has none of steps, heart_rate, spo2_auto, sdnn1")
	}
	return dst
}

var withingsPhases = [...]struct {
	key  string
	comp vitals.Component
}{{"deepsleepduration", vitals.Deep}, {"lightsleepduration", vitals.Light}, {"remsleepduration", vitals.REM}, {"wakeupduration", vitals.Awake}}

// night reads the summary of one night, in seconds. The time asleep, which older answers do not have, is the sum of the
// phases; watches of the first years know no REM sleep.
func (w *withingsAnswer) night(v jval, dst []Item) []Item {
	data, end := v.get("data"), v.get("enddate")
	r := vitals.Reading{Indicator: vitals.Sleep, Unit: vitals.Seconds}
	sec, ok := end.integer()
	switch {
	case v.get("state").there() && !data.there():
		return refuse(dst, v, NotAReading, "a phase of a night is not a reading; send the summary of the night")
	case data.kind() != jObject:
		return refuse(dst, v, FieldMissing, "data is missing or not an object")
	case !end.there():
		return refuse(dst, v, FieldMissing, "enddate is missing")
	case !ok || !w.at(sec, v, &r):
		return refuse(dst, end, TimeInvalid, "enddate must be Unix seconds, not before 1990")
	}
	var asleep float64
	for _, s := range withingsPhases {
		if !data.get(s.key).there() {
			continue
		}
		if p := component(data, s.key, &r, s.comp); p != nil {
			return append(dst, Item{Problem: p})
		}
		if x, _ := r.Value(s.comp); s.comp != vitals.Awake {
			asleep += x
		}
	}
	_, deep := r.Value(vitals.Deep)
	_, light := r.Value(vitals.Light)
	switch total := data.first("total_sleep_time", "asleepduration"); {
	case total.there():
		if p := component(data, total.key(), &r, vitals.Total); p != nil {
			return append(dst, Item{Problem: p})
		}
	case !deep || !light:
		return refuse(dst, data, FieldMissing, "total_sleep_time is missing, and so is deep or light sleep to add up")
	case math.IsInf(asleep, 0):
		return refuse(dst, data, ValueInvalid, "the phases are no finite numbers")
	default:
		r.Set(vitals.Total, asleep)
		extra(&r).Context = `{"total_of":"stages"}`
	}
	if start, ok := v.get("startdate").integer(); ok {
		if start > sec {
			return refuse(dst, end, TimeInvalid, "the night ends before it starts")
		}
		extra(&r).Aside = `{"startdate":` + strconv.FormatInt(start, 10) + `}`
	}
	return append(dst, Item{Reading: r})
}

func (w *withingsAnswer) group(g jval, dst []Item) []Item {
	if c, ok := g.get("category").integer(); !ok || c != 1 {
		return refuse(dst, g, NotAReading, "category is not 1: a goal is not a reading")
	}
	date := g.get("date")
	sec, ok := date.integer()
	switch {
	case !date.there():
		return refuse(dst, g, FieldMissing, "date is missing")
	case !ok || sec < int64(minTaken/vitals.Second) || sec >= int64(maxTaken/vitals.Second):
		return refuse(dst, date, TimeInvalid, "date must be Unix seconds, not before 1990")
	}
	measures := g.get("measures")
	if measures.kind() != jArray {
		return refuse(dst, g, FieldMissing, "measures is missing or not an array")
	}
	base := vitals.Reading{TakenAt: vitals.Micros(sec) * vitals.Second, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	other := ""
	switch attrib, _ := g.get("attrib").integer(); attrib {
	case 1: // by a device, but perhaps of another of its users
		base.UserSlot, other = 255, "ambiguous_owner"
	case 2, 4: // entered by hand; when the account was made
		base.Flags |= vitals.SelfReported
	}
	var v [withingsBody + 1]float64
	var have [withingsBody + 1]bool
	aside := []byte(nil)
	start := len(dst)
	for m := range measures.children() {
		kind, ok := m.get("type").integer()
		if !ok {
			dst = refuse(dst, m, TypeWrong, "type of a measure must be an integer")
			continue
		}
		switch kind {
		case withingsWeight, withingsHeight, withingsFat, withingsDiastolic, withingsSystolic, withingsPulse, withingsSpO2, withingsBody:
		default: // kept aside
			sep := byte(',')
			if aside == nil {
				aside, sep = []byte(`{"measures":`), '['
			}
			aside = appendCompact(append(aside, sep), m.raw())
			continue
		}
		value, unit := m.get("value"), m.get("unit")
		mantissa, ok1 := value.integer()
		exp, ok2 := unit.integer()
		switch {
		case !value.there() || !unit.there():
			dst = refuse(dst, m, FieldMissing, "value or unit of a measure is missing; the value counts in powers of ten")
		case !ok1 || !ok2 || exp < -12 || exp > 6 || mantissa > 1<<31 || mantissa < -1<<31:
			dst = refuse(dst, m, ValueInvalid, "value and unit of a measure must be integers, the unit a power of ten")
		case have[kind]:
			dst = refuse(dst, m, ValueInvalid, "a group has two measures of one type; which one counts is not guessed")
		default:
			v[kind], have[kind] = medfloat{m: int32(min(mantissa, 1<<31-1)), exp: int8(exp)}.value(), true
		}
	}
	if len(dst) > start {
		return dst // a group stays together: a cuff's reading without its diastole is none
	}
	add := func(r vitals.Reading, c vitals.Component, kind int) vitals.Reading {
		if have[kind] {
			r.Set(c, v[kind])
		}
		return r
	}
	single := func(i vitals.Indicator, u vitals.Unit, kind int) {
		if have[kind] {
			r := base
			r.Indicator, r.Unit = i, u
			dst = append(dst, Item{Reading: add(r, vitals.Value, kind)})
		}
	}
	r := base
	switch {
	case have[withingsSystolic] != have[withingsDiastolic]:
		return refuse(dst, g, FieldMissing, "a blood pressure needs both systolic and diastolic")
	case have[withingsSystolic]:
		r.Indicator, r.Unit = vitals.BloodPressure, vitals.MmHg
		dst = append(dst, Item{Reading: add(add(add(r, vitals.Systolic, withingsSystolic), vitals.Diastolic, withingsDiastolic), vitals.Pulse, withingsPulse)})
	case !have[withingsSpO2]:
		single(vitals.HeartRate, vitals.PerMin, withingsPulse)
	}
	if have[withingsSpO2] {
		r := base
		r.Indicator, r.Unit = vitals.SpO2, vitals.Percent
		r = add(r, vitals.Value, withingsSpO2)
		if !have[withingsSystolic] {
			r = add(r, vitals.Pulse, withingsPulse)
		}
		dst = append(dst, Item{Reading: r})
	}
	single(vitals.Weight, vitals.Kg, withingsWeight)
	single(vitals.BodyFat, vitals.Percent, withingsFat)
	single(vitals.Height, vitals.Metre, withingsHeight)
	single(vitals.Temperature, vitals.Cel, withingsBody)
	if len(dst) == start {
		return refuse(dst, g, IndicatorUnknown, "the group has no measure of an indicator that is known")
	}
	if aside != nil {
		extra(&dst[start].Reading).Aside = string(append(aside, ']', '}'))
	}
	if other != "" {
		for i := start; i < len(dst); i++ {
			extra(&dst[i].Reading).OtherFlags = other
		}
	}
	return dst
}
