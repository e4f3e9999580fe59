package payload

import (
	"strings"

	"vitalwatch/vitals"
)

// Home Assistant style states, {"state":"72.5","attributes":{"unit_of_measurement":"kg","device_class":"weight"},…}, as
// automations and MQTT state streams publish them. Layout: developers.home-assistant.io, "State object" and "Sensor
// entity, device classes".
//
// What is measured is told by the topic or route (homeassistant/heart_rate), by "indicator", or by a device class that
// can only be one of ours; a name such as sensor.bed_hr is never interpreted.
func init() { register("homeassistant", decodeHomeAssistant) }

// haClasses are the device classes of Home Assistant that name an indicator.
var haClasses = map[string]vitals.Indicator{
	"weight":                      vitals.Weight,
	"temperature":                 vitals.Temperature, // of a device that is registered as a patient's; a room's is implausible
	"blood_glucose_concentration": vitals.Glucose,
	// Not Home Assistant's own, but what custom integrations set.
	"blood_pressure":    vitals.BloodPressure,
	"heart_rate":        vitals.HeartRate,
	"glucose":           vitals.Glucose,
	"spo2":              vitals.SpO2,
	"oxygen_saturation": vitals.SpO2,
	"body_temperature":  vitals.Temperature,
	"respiratory_rate":  vitals.Respiration,
}

func decodeHomeAssistant(in Input, dst []Item) ([]Item, error) {
	return documents(&in, dst, func(v jval, dst []Item) []Item { return haState(&in, v, dst) })
}

func haState(in *Input, v jval, dst []Item) []Item {
	attributes := v.get("attributes")
	if attributes.there() && attributes.kind() != jObject {
		return refuse(dst, attributes, TypeWrong, "attributes must be an object")
	}
	find := func(keys ...string) jval {
		if x := v.first(keys...); x.there() {
			return x
		}
		return attributes.first(keys...)
	}
	state := v.get("state")
	if !state.there() {
		return refuse(dst, v, FieldMissing, "state is missing")
	}
	if s, ok := state.text(); ok {
		switch strings.ToLower(string(s)) {
		case "unavailable", "unknown", "none", "":
			return refuse(dst, state, NotAReading, "the entity has no state at present")
		}
	} else if state.kind() != jNumber {
		return refuse(dst, state, TypeWrong, "state must be a number or a string")
	}
	r := vitals.Reading{DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	ind, class := find("indicator"), find("device_class")
	var known bool
	switch {
	case in.Sub != "":
		r.Indicator, known = vitals.ParseIndicator(in.Sub)
		ind = v
	case ind.there():
		r.Indicator, known = vitals.ParseIndicator(ind.shortText())
	case class.there():
		ind = class
		r.Indicator, known = haClasses[class.shortText()]
	default:
		return refuse(dst, v, FieldMissing, "nobody says what is measured: add the indicator to the route, homeassistant/heart_rate, or to the attributes")
	}
	if !known {
		return refuse(dst, ind, IndicatorUnknown, "indicator or device_class is none that is known; name the indicator in the route: homeassistant/heart_rate")
	}
	unit := find("unit_of_measurement", "unit")
	u, known := vitals.ParseUnit(unit.shortText())
	switch {
	case !unit.there() || unit.is(""):
		return refuse(dst, v, UnitMissing, "unit_of_measurement is missing; a unit is never guessed")
	case !known || !r.Indicator.Accepts(u):
		return refuse(dst, unit, UnitUnknown, "unit_of_measurement is not a unit of this indicator")
	}
	r.Unit = u
	if p := haValue(v, attributes, state, &r); p != nil {
		return append(dst, Item{Problem: p})
	}
	clock := ClockGateway
	// A new last_updated comes with any attribute, also of an old value; last_changed is the measurement's.
	at := find("taken_at", "measured_at", "last_changed", "last_updated", "timestamp")
	if at.there() {
		t, off, ok := at.instant()
		if s, isText := at.text(); !ok && isText {
			if local, _, verdict := parseTime(s); verdict == timeNoOffset && in.DeviceTZ != nil && taken(local) {
				t, off = fromWall(local, in.DeviceTZ)
				ok = true
			}
		}
		if !ok {
			return refuse(dst, at, TimeInvalid, at.key()+" must be a time with offset, not before 1990")
		}
		r.TakenAt, r.OffsetMin = t, off
	} else if taken(in.ReceivedAt) {
		r.TakenAt, clock = in.ReceivedAt, ClockReceipt
	} else {
		return refuse(dst, v, FieldMissing, "last_changed is missing")
	}
	return append(dst, Item{Reading: r, Clock: clock})
}

// haValue reads the state; a blood pressure has its numbers in the attributes, or two in the state: "142/91".
func haValue(v, attributes, state jval, r *vitals.Reading) *Problem {
	if r.Indicator == vitals.BloodPressure {
		for i, c := range r.Indicator.Components() {
			x := v.get(c.String())
			if !x.there() {
				x = attributes.get(c.String())
			}
			if f, _, ok := x.numeric(); ok {
				r.V[i], r.Has = f, r.Has|1<<i
			}
		}
		if s, ok := state.text(); ok && r.Has&3 == 0 {
			high, low, _ := strings.Cut(string(s), "/")
			a, ok1 := decimal(high)
			b, ok2 := decimal(low)
			if ok1 && ok2 {
				r.V[0], r.V[1] = a, b
				r.Has |= 3
			}
		}
	} else if f, _, ok := state.numeric(); ok {
		r.V[0], r.Has = f, 1
	}
	if req := r.Indicator.Required(); r.Has&req != req {
		return &Problem{Code: ValueInvalid, Detail: "state is not a finite number, or a blood pressure without systolic and diastolic", Offset: state.offset()}
	}
	return nil
}

// decimal reads a JSON number that is the whole text.
func decimal(s string) (float64, bool) {
	sc := scanner{b: []byte(s)}
	n, ok := sc.number()
	if !ok || sc.i != len(s) {
		return 0, false
	}
	return n.float()
}
