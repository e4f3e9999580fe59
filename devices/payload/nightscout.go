package payload

import (
	"strconv"
	"strings"

	"vitalwatch/vitals"
)

// Nightscout entries and treatments, as uploaders post them to /api/v1/entries and /api/v1/treatments: one object or an
// array. Layout: the swagger file and the test fixtures of nightscout/cgm-remote-monitor.
func init() { register("nightscout", decodeNightscout) }

func decodeNightscout(in Input, dst []Item) ([]Item, error) {
	return documents(&in, dst, func(v jval, dst []Item) []Item { return nightscoutEntry(&in, v, dst) })
}

// What Nightscout's sgv says besides a value. Below 39 it is an error code of the sensor (lib/plugins/errorcodes.js);
// 39 and 401 are Dexcom's LOW and HIGH (lib/sandbox.js, displayBg). A meter's mbg has no codes: 30 there is 30.
const (
	sgvLow  = 39
	sgvHigh = 401
)

func nightscoutEntry(in *Input, v jval, dst []Item) []Item {
	if v.get("eventType").there() {
		return nightscoutTreatment(in, v, dst)
	}
	kind, field := v.get("type"), "sgv"
	switch {
	case kind.is("mbg") || !kind.there() && v.get("mbg").there() && !v.get("sgv").there():
		field = "mbg"
	case kind.is("sgv") || !kind.there() && v.get("sgv").there():
	case kind.is("cal"):
		return refuse(dst, v, NotAReading, "a calibration is not a reading")
	case kind.there() && kind.kind() != jString:
		return refuse(dst, kind, TypeWrong, "type must be a string: sgv or mbg")
	default:
		return refuse(dst, v, NotAReading, "an entry that is neither sgv nor mbg is not a reading")
	}
	value := v.get(field)
	if !value.there() {
		return refuse(dst, v, FieldMissing, field+" is missing")
	}
	r := vitals.Reading{Indicator: vitals.Glucose, Unit: vitals.MgDL, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	if u := v.first("units", "unit"); u.there() { // the format has mg/dL; what says otherwise is taken at its word
		s, _ := u.text()
		unit, ok := vitals.ParseUnit(string(s))
		if !ok || !vitals.Glucose.Accepts(unit) {
			return refuse(dst, u, UnitUnknown, "entries are in mg/dL")
		}
		r.Unit = unit
	}
	f, n, ok := value.numeric()
	switch {
	case value.is("LOW") || value.is("LO"):
		f, r.Unit, r.Flags = sgvLow, vitals.MgDL, vitals.BelowRange
	case value.is("HIGH") || value.is("HI"):
		f, r.Unit, r.Flags = sgvHigh, vitals.MgDL, vitals.AboveRange
	case !ok && value.kind() != jNumber && value.kind() != jString:
		return refuse(dst, value, TypeWrong, field+" must be a number")
	case !ok:
		return refuse(dst, value, ValueInvalid, field+" is not a finite number")
	case field == "sgv" && r.Unit == vitals.MgDL:
		switch whole, isWhole := n.integral(); {
		case f < sgvLow:
			detail, fault := "sgv below 39 is an error code of the sensor", vitals.DeviceFault{}
			if isWhole && whole > 0 {
				fault.Code = strconv.FormatInt(whole, 10)
				if whole < int64(len(sensorErrors)) && sensorErrors[whole].says != "" {
					fault.Class = sensorErrors[whole].class
					detail = "the sensor says: " + sensorErrors[whole].says
				}
			}
			dst = refuse(dst, value, StatusInvalid, detail)
			if fault.Code != "" && nightscoutTime(in, v, &r) == nil {
				dst[len(dst)-1].Reading = failure(&r, fault)
			}
			return dst
		case f == sgvLow:
			r.Flags = vitals.BelowRange
		case f == sgvHigh:
			r.Flags = vitals.AboveRange
		}
	}
	r.Set(vitals.Value, f)
	if p := nightscoutTime(in, v, &r); p != nil {
		return append(dst, Item{Problem: p})
	}
	if noise, ok := v.get("noise").integer(); ok && noise >= 3 { // 1 clean, 2 light, 3 medium, 4 heavy
		r.Flags |= vitals.LowSignal
	}
	if c := v.get("isCalibration"); c.isTrue() {
		return refuse(dst, v, NotAReading, "a calibration is not a reading")
	}
	var c contextObject
	for _, key := range [...]string{"direction", "trend", "delta", "noise", "rssi"} {
		c.raw(key, v.get(key))
	}
	c.set(&r)
	return append(dst, nightscoutItem(v, r))
}

// nightscoutItem gives a reading its id. What isValid says is deleted takes an earlier one back.
func nightscoutItem(v jval, r vitals.Reading) Item {
	if id := v.first("identifier", "_id").shortText(); id != "" {
		extra(&r).DeviceReadingID = id
	}
	valid := v.get("isValid")
	if valid.kind() != jBool || valid.isTrue() {
		return Item{Reading: r}
	}
	return Item{Reading: r, Change: Voided, Problem: &Problem{Code: EnteredInError, Offset: valid.offset(),
		Detail: "the sender takes this reading back; it was not taken as a new one"}}
}

// nightscoutTreatment reads the finger-stick test that a treatment may be. Unlike an entry it says its unit. A value that
// the care portal has taken over from the sensor is there as an entry already.
func nightscoutTreatment(in *Input, v jval, dst []Item) []Item {
	value, how, u := v.get("glucose"), v.get("glucoseType"), v.get("units")
	word, _ := how.text()
	var finger bool
	switch strings.ToLower(string(word)) {
	case "finger", "manual":
		finger = true
	case "":
		finger = v.get("eventType").is("BG Check")
	}
	switch {
	case !value.there():
		return refuse(dst, v, NotAReading, "a treatment without glucose is not a reading")
	case !finger:
		return refuse(dst, v, NotAReading, "the glucose of a treatment is a reading when glucoseType is Finger or Manual; the sensor's own come as entries")
	case !u.there() || u.is(""):
		return refuse(dst, v, UnitMissing, "units is missing; a treatment's unit is never guessed")
	}
	name, _ := u.text()
	unit, known := vitals.ParseUnit(string(name))
	if !known || !vitals.Glucose.Accepts(unit) {
		return refuse(dst, u, UnitUnknown, "units must be mg/dl or mmol")
	}
	r := vitals.Reading{Indicator: vitals.Glucose, Unit: unit, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	if p := component(v, "glucose", &r, vitals.Value); p != nil {
		return append(dst, Item{Problem: p})
	}
	if p := nightscoutTime(in, v, &r); p != nil {
		return append(dst, Item{Problem: p})
	}
	if strings.EqualFold(string(word), "manual") {
		r.Flags |= vitals.SelfReported
	}
	return append(dst, nightscoutItem(v, r))
}

// sensorErrors: facts B5, errorcodes.js.
var sensorErrors = [...]struct{ says, class string }{1: {"sensor not active", "sensor"}, 2: {"minimal deviation", "sensor"},
	3: {"no antenna", "signal"}, 5: {"not calibrated", "sensor"}, 6: {"counts deviation", "sensor"}, 9: {"absolute deviation", "sensor"},
	10: {"power deviation", "sensor"}, 12: {"bad radio signal", "signal"}}

// nightscoutTime: date in Unix milliseconds, else dateString, of a treatment created_at. utcOffset (minutes) goes with a date.
func nightscoutTime(in *Input, v jval, r *vitals.Reading) *Problem {
	const detail = "date must be Unix milliseconds, or dateString or created_at a time with zone, not before 1990"
	date, text := v.first("date", "mills"), v.first("dateString", "sysTime", "created_at")
	if date.there() {
		f, _, ok := date.numeric()
		t := vitals.Micros(f) * vitals.Millisecond // uploaders send fractions
		if !ok || f >= float64(maxTaken)/1000 || f < 0 || !taken(t) {
			return &Problem{Code: TimeInvalid, Detail: detail, Offset: date.offset()}
		}
		r.TakenAt = t
		if off, ok := v.get("utcOffset").integer(); ok && off >= -14*60 && off <= 14*60 {
			r.OffsetMin = int16(off)
		} else if s, ok := text.text(); ok {
			if at, off, verdict := parseTime(s); verdict == timeGood && at/vitals.Second == t/vitals.Second {
				r.OffsetMin = off
			}
		}
		return nil
	}
	if !text.there() {
		return &Problem{Code: FieldMissing, Detail: "date is missing", Offset: v.offset()}
	}
	s, _ := text.text()
	at, off, verdict := parseTime(s)
	if verdict == timeNoOffset && in.DeviceTZ != nil {
		at, off = fromWall(at, in.DeviceTZ)
		verdict = timeGood
	}
	if verdict != timeGood || !taken(at) {
		return &Problem{Code: TimeInvalid, Detail: detail, Offset: text.offset()}
	}
	r.TakenAt, r.OffsetMin = at, off
	return nil
}
