package payload

import (
	"strings"

	"vitalwatch/vitals"
)

// iHealth cloud answers (OpenAPI user data): an object with one list per kind of data and, beside it, its unit as a
// number. Layout: openmhealth/shimmer, shim-server, shims.ihealth, mappers and test data.
func init() { register("ihealth", decodeIHealth) }

// ihealthLists in the order in which they are looked for. A unit key "" says that the format has one unit only.
var ihealthLists = [...]struct {
	list, unit string
	units      []vitals.Unit // by the number in unit
	item       func(v jval, r *vitals.Reading) *Problem
}{
	{"BPDataList", "BPUnit", []vitals.Unit{vitals.MmHg, vitals.KPa}, ihealthPressure},
	{"BGDataList", "BGUnit", []vitals.Unit{vitals.MgDL, vitals.MmolL}, ihealthGlucose},
	{"WeightDataList", "WeightUnit", []vitals.Unit{vitals.Kg, vitals.Lb, vitals.Stone}, ihealthWeight},
	{"BODataList", "", []vitals.Unit{vitals.Percent}, ihealthOxygen},
	{"ARDataList", "", []vitals.Unit{vitals.StepCount}, ihealthSteps},
	{"SRDataList", "", []vitals.Unit{vitals.Minutes}, ihealthSleep},
}

func decodeIHealth(in Input, dst []Item) ([]Item, error) {
	return documents(&in, dst, func(v jval, dst []Item) []Item { return ihealthAnswer(&in, v, dst) })
}

func ihealthAnswer(in *Input, v jval, dst []Item) []Item {
	found := false
	for i := range ihealthLists {
		l := &ihealthLists[i]
		list := v.get(l.list)
		if !list.there() {
			continue
		}
		found = true
		if list.kind() != jArray {
			dst = refuse(dst, list, TypeWrong, l.list+" must be an array")
			continue
		}
		unit, p := ihealthUnit(v, l.unit, l.units)
		for x := range list.children() {
			if len(dst) > 2*MaxReadings { // refused in any case
				return dst
			}
			switch {
			case x.kind() != jObject:
				dst = refuse(dst, x, TypeWrong, "every item of the list must be an object")
				continue
			case p != nil:
				own := *p
				dst = append(dst, Item{Problem: &own})
				continue
			}
			r := vitals.Reading{Unit: unit, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
			problem := l.item(x, &r)
			if problem == nil {
				problem = ihealthCommon(in, x, &r)
			}
			if problem != nil {
				dst = append(dst, Item{Problem: problem})
				continue
			}
			dst = append(dst, Item{Reading: r})
			if l.list == "WeightDataList" {
				dst = ihealthFat(x, dst)
			}
		}
	}
	if sports := v.get("SPORTDataList"); sports.there() {
		found = true
		for x := range sports.children() {
			if len(dst) > 2*MaxReadings {
				return dst
			}
			dst = refuse(dst, x, IndicatorUnknown, "a workout is no indicator that is watched here")
		}
	}
	if !found {
		return refuse(dst, v, FieldMissing, "there is none of the lists BPDataList, BGDataList, WeightDataList, BODataList, ARDataList, SRDataList")
	}
	return dst
}

func ihealthUnit(v jval, key string, units []vitals.Unit) (vitals.Unit, *Problem) {
	if key == "" {
		return units[0], nil
	}
	u := v.get(key)
	if !u.there() {
		return 0, &Problem{Code: UnitMissing, Detail: key + " is missing; a unit is never guessed", Offset: v.offset()}
	}
	code, ok := u.integer()
	if !ok || code < 0 || code >= int64(len(units)) {
		return 0, &Problem{Code: UnitUnknown, Detail: key + " is not a unit that is known", Offset: u.offset()}
	}
	return units[code], nil
}

// component puts a required number into r.
func component(v jval, key string, r *vitals.Reading, c vitals.Component) *Problem {
	x := v.get(key)
	switch f, _, ok := x.numeric(); {
	case !x.there():
		return &Problem{Code: FieldMissing, Detail: key + " is missing", Offset: v.offset()}
	case !ok && x.kind() == jNumber:
		return &Problem{Code: ValueInvalid, Detail: key + " is not a finite number", Offset: x.offset()}
	case !ok:
		return &Problem{Code: TypeWrong, Detail: key + " must be a number", Offset: x.offset()}
	default:
		r.Set(c, f)
		return nil
	}
}

// pulse puts a heart rate beside another value; 0 and less mean that there is none.
func pulse(v jval, r *vitals.Reading) {
	if f, ok := v.float(); ok && f > 0 {
		r.Set(vitals.Pulse, f)
	}
}

func ihealthPressure(v jval, r *vitals.Reading) *Problem {
	r.Indicator = vitals.BloodPressure
	if p := component(v, "HP", r, vitals.Systolic); p != nil {
		return p
	}
	if p := component(v, "LP", r, vitals.Diastolic); p != nil {
		return p
	}
	pulse(v.get("HR"), r)
	if arr, ok := v.get("IsArr").integer(); ok && arr == 1 { // 0 no, -1 not known
		r.Flags |= vitals.IrregularPulse
	}
	return nil
}

func ihealthGlucose(v jval, r *vitals.Reading) *Problem {
	r.Indicator = vitals.Glucose
	if p := component(v, "BG", r, vitals.Value); p != nil {
		return p
	}
	var c contextObject
	if s, ok := v.get("DinnerSituation").text(); ok && len(s) <= MaxIDBytes { // Before_breakfast, After_lunch, …
		when, what, _ := strings.Cut(strings.ToLower(string(s)), "_")
		switch meal := ihealthMeals[what]; {
		case meal && when == "before":
			r.Meal = vitals.BeforeMeal
		case meal && when == "after":
			r.Meal = vitals.AfterMeal
		case when == "before" && what == "sleep":
			r.Meal = vitals.Bedtime
		}
		c.word("meal", r.Meal.String())
	}
	c.raw("dinner_situation", v.get("DinnerSituation"))
	c.raw("drug_situation", v.get("DrugSituation"))
	c.set(r)
	return nil
}

var ihealthMeals = map[string]bool{"breakfast": true, "lunch": true, "dinner": true, "meal": true, "snack": true, "snacks": true}

func ihealthWeight(v jval, r *vitals.Reading) *Problem {
	r.Indicator = vitals.Weight
	return component(v, "WeightValue", r, vitals.Value)
}

// ihealthFat appends the body fat of the weight that stands last; 0 means that it was not measured.
func ihealthFat(v jval, dst []Item) []Item {
	f, ok := v.get("FatValue").float()
	if !ok || f <= 0 {
		return dst
	}
	r := dst[len(dst)-1].Reading
	r.Indicator, r.Unit, r.Has = vitals.BodyFat, vitals.Percent, 0
	r.Set(vitals.Value, f)
	if r.Extra != nil {
		own := *r.Extra
		if own.DeviceReadingID != "" {
			own.DeviceReadingID += "/fat" // an id is one reading's
		}
		r.Extra = &own
	}
	return append(dst, Item{Reading: r})
}

func ihealthOxygen(v jval, r *vitals.Reading) *Problem {
	r.Indicator = vitals.SpO2
	if p := component(v, "BO", r, vitals.Value); p != nil {
		return p
	}
	pulse(v.get("HR"), r)
	return nil
}

func ihealthSteps(v jval, r *vitals.Reading) *Problem {
	r.Indicator = vitals.Steps
	return component(v, "Steps", r, vitals.Value)
}

func ihealthSleep(v jval, r *vitals.Reading) *Problem {
	r.Indicator = vitals.Sleep
	return component(v, "HoursSlept", r, vitals.Total) // minutes, despite its name (shimmer, IHealthSleepDurationMapper)
}

// ihealthCommon reads what all kinds have: time, source, id. A night is of its end. Notes and places are not kept.
func ihealthCommon(in *Input, v jval, r *vitals.Reading) *Problem {
	at := v.first("MDate", "StartTime")
	if end := v.get("EndTime"); end.there() && r.Indicator == vitals.Sleep {
		at = end
	}
	sec, ok := at.integer()
	switch {
	case !at.there():
		return &Problem{Code: FieldMissing, Detail: "MDate is missing", Offset: v.offset()}
	case !ok || sec < int64(minTaken/vitals.Second) || sec >= int64(maxTaken/vitals.Second):
		return &Problem{Code: TimeInvalid, Detail: "MDate, StartTime and EndTime must be seconds, not before 1990", Offset: at.offset()}
	}
	// The trap of this format (facts D9): MDate is the local wall time, counted as if it were UTC.
	local := vitals.Micros(sec) * vitals.Second
	zone := v.get("TimeZone")
	s, isText := zone.text()
	off, known := parseOffset(s)
	switch {
	case zone.there() && len(s) > 0 && !known || zone.there() && !isText:
		return &Problem{Code: TimeInvalid, Detail: "TimeZone must be an offset such as -0800", Offset: zone.offset()}
	case known:
		r.TakenAt, r.OffsetMin = local-vitals.Micros(off)*vitals.Minute, off
	case in.DeviceTZ != nil:
		r.TakenAt, r.OffsetMin = fromWall(local, in.DeviceTZ)
	default:
		return &Problem{Code: TimeInvalid, Detail: "TimeZone is missing and the device has no zone; MDate is a local time", Offset: v.offset()}
	}
	if v.get("DataSource").is("Manual") {
		r.Flags |= vitals.SelfReported
	}
	if id := v.get("DataID").shortText(); id != "" {
		extra(r).DeviceReadingID = id
	}
	return nil
}

// parseOffset reads +0800, -08:00 or Z as minutes.
func parseOffset(s []byte) (int16, bool) {
	if len(s) == 1 && s[0] == 'Z' {
		return 0, true
	}
	if len(s) == 6 && s[3] == ':' {
		s = []byte{s[0], s[1], s[2], s[4], s[5]}
	}
	if len(s) != 5 || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	h, ok1 := two(s[1:])
	m, ok2 := two(s[3:])
	if !ok1 || !ok2 || h > 14 || m > 59 {
		return 0, false
	}
	off := int16(h*60 + m)
	if s[0] == '-' {
		off = -off
	}
	return off, true
}
