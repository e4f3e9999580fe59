package payload

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	"vitalwatch/vitals"
)

// Theengs decoder and OpenMQTTGateway: what a Bluetooth device advertises, as flat JSON on home/{gateway}/BTtoMQTT/{id}.
// Property names: decoder.theengs.io, theengs/decoder docs and tests/BLE/test_ble.cpp. There is no cuff and no glucose
// meter among them.
//
// The properties say their unit in their name (tempc, bpm) or are defined with one; a weight says it in "unit".
func init() { register("theengs", decodeTheengs) }

func decodeTheengs(in Input, dst []Item) ([]Item, error) {
	return documents(&in, dst, func(v jval, dst []Item) []Item { return theengsDevice(&in, v, dst) })
}

func theengsDevice(in *Input, v jval, dst []Item) []Item {
	base := vitals.Reading{DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	at, clock, p := theengsTime(in, v)
	if p != nil {
		return append(dst, Item{Problem: p})
	}
	base.TakenAt = at
	start := len(dst)
	scale := miScale(v)
	if w := v.get("weight"); w.there() || scale != nil {
		dst = theengsWeight(in, v, scale, base, clock, dst)
	}
	single := func(x jval, i vitals.Indicator, u vitals.Unit) {
		if !x.there() {
			return
		}
		r := base
		r.Indicator, r.Unit = i, u
		dst = append(dst, Item{Reading: r, Clock: clock, Problem: component(v, x.key(), &r, vitals.Value)})
		last := &dst[len(dst)-1]
		if last.Problem == nil {
			last.Reading = r
		}
	}
	rate := v.first("hr", "bpm", "act_bpm", "heart_rate")
	if o := v.first("spo2", "SpO2"); o.there() {
		single(o, vitals.SpO2, vitals.Percent)
	}
	single(rate, vitals.HeartRate, vitals.PerMin)
	single(v.get("steps"), vitals.Steps, vitals.StepCount)
	dst = theengsTemperature(v, base, clock, dst)
	if len(dst) == start {
		return refuse(dst, v, NotAReading, "there is no property of an indicator that is known: weight, hr, bpm, spo2, steps, tempc of a body thermometer")
	}
	return dst
}

// theengsTime: gateways add a time when they are told to; else the advertisement was just heard.
func theengsTime(in *Input, v jval) (vitals.Micros, Clock, *Problem) {
	if x := v.first("taken_at", "UTCtime"); x.there() {
		t, _, ok := x.instant()
		if !ok {
			return 0, 0, &Problem{Code: TimeInvalid, Detail: "UTCtime must be RFC 3339 with Z, not before 1990", Offset: x.offset()}
		}
		return t, ClockGateway, nil
	}
	if x := v.get("unixtime"); x.there() {
		sec, ok := x.integer()
		t := vitals.Micros(min(max(sec, -1), int64(maxTaken/vitals.Second))) * vitals.Second
		if !ok || !taken(t) {
			return 0, 0, &Problem{Code: TimeInvalid, Detail: "unixtime must be seconds, not before 1990", Offset: x.offset()}
		}
		return t, ClockGateway, nil
	}
	if !taken(in.ReceivedAt) {
		return 0, 0, &Problem{Code: FieldMissing, Detail: "nobody said when this was measured; send UTCtime", Offset: v.offset()}
	}
	return in.ReceivedAt, ClockReceipt, nil
}

// theengsTemperature takes a body thermometer's. Most devices with tempc hang on a wall, and 30 there is no fever; they
// are known by their type, or by the humidity or pressure that they measure too.
func theengsTemperature(v jval, base vitals.Reading, clock Clock, dst []Item) []Item {
	c, f := v.get("tempc"), v.get("tempf")
	x, u := c, vitals.Cel
	if !c.there() {
		x, u = f, vitals.DegF
	}
	if !x.there() {
		return dst
	}
	if kind := v.get("type"); kind.there() && !kind.is("BODY") || v.first("hum", "pres", "moi", "lux", "co2", "pm25").there() {
		return refuse(dst, x, NotAReading, "this thermometer does not measure a person; only those of type BODY do")
	}
	r := base
	r.Indicator, r.Unit = vitals.Temperature, u
	if p := component(v, x.key(), &r, vitals.Value); p != nil {
		return append(dst, Item{Problem: p})
	}
	return append(dst, Item{Reading: r, Clock: clock})
}

func theengsWeight(in *Input, v jval, scale *scaleFrame, base vitals.Reading, clock Clock, dst []Item) []Item {
	mode := v.get("weighing_mode")
	switch {
	case mode.there() && !mode.is("person"):
		return refuse(dst, mode, NotAReading, "weighing_mode is not person")
	case scale != nil && scale.object:
		return refuse(dst, v, NotAReading, "the scale has weighed an object")
	case scale != nil && !scale.stable:
		return refuse(dst, v, NotAReading, "the weight has not settled yet")
	case scale != nil && scale.removed:
		return refuse(dst, v, NotAReading, "nobody stands on the scale any more: this repeats the weight before")
	}
	r := base
	r.Indicator = vitals.Weight
	var c contextObject
	if w := v.get("weight"); w.there() {
		if p := component(v, "weight", &r, vitals.Value); p != nil {
			return append(dst, Item{Problem: p})
		}
		u := v.get("unit")
		s, _ := u.text()
		unit, ok := vitals.ParseUnit(string(s))
		switch {
		case !u.there() || u.is(""):
			return refuse(dst, v, UnitMissing, "unit is missing; it is never guessed")
		case !ok || !vitals.Weight.Accepts(unit):
			return refuse(dst, u, UnitUnknown, "unit is not one of a weight: kg, lb, jin")
		}
		r.Unit = unit
		if z := v.get("impedance"); z.kind() == jNumber {
			c.raw("impedance_ohm", z)
		}
	} else {
		r.V[0], r.Has, r.Unit = scale.value, 1, scale.unit
		if scale.impedance > 0 {
			c.integer("impedance_ohm", int64(scale.impedance))
		}
	}
	if scale != nil && scale.at.wall != 0 && !scale.at.bad && in.DeviceTZ != nil {
		// The scale's own clock: the same weight is advertised again and again, and counts once.
		if t, off := fromWall(scale.at.wall, in.DeviceTZ); taken(t) {
			r.TakenAt, r.OffsetMin, clock = t, off, ClockDevice
		}
	}
	c.raw("model", v.first("model_id", "model"))
	c.set(&r)
	return append(dst, Item{Reading: r, Clock: clock})
}

// scaleFrame is the service data of a Xiaomi scale, which gateways pass on beside or instead of what they decoded.
type scaleFrame struct {
	value                   float64
	unit                    vitals.Unit
	stable, removed, object bool
	impedance               uint16
	at                      clockTime
}

// miScale reads service data 0x181D (Mi Smart Scale) and 0x181B (Mi Body Composition Scale); nil where there is none.
// Flags: ESPHome xiaomi_miscale; frames: theengs/decoder tests/BLE/test_ble.cpp.
func miScale(v jval) *scaleFrame {
	uuid := v.get("servicedatauuid").shortText()
	text, ok := v.get("servicedata").text()
	if !ok || len(text) > 64 || len(uuid) < 4 || len(uuid) > 6 {
		return nil
	}
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return nil
	}
	o := octets{b: b}
	var s scaleFrame
	var raw uint16
	var pounds, jin bool
	switch uuid = strings.ToLower(uuid[len(uuid)-4:]); {
	case uuid == "181d" && len(b) == 10:
		f := o.u8()
		raw = o.u16()
		s.at = o.dateTime()
		pounds, jin, s.stable, s.object, s.removed = f&1 != 0, f&0x10 != 0, f&0x20 != 0, f&0x40 != 0, f&0x80 != 0
	case uuid == "181b" && len(b) == 13:
		u, f := o.u8(), o.u8()
		s.at = o.dateTime()
		s.impedance = binary.LittleEndian.Uint16(b[9:])
		raw = binary.LittleEndian.Uint16(b[11:])
		if f&2 == 0 {
			s.impedance = 0
		}
		pounds, jin, s.stable, s.removed = u&1 != 0, u&0x10 != 0, f&0x20 != 0, f&0x80 != 0
	default:
		return nil
	}
	switch {
	case pounds:
		s.value, s.unit = float64(raw)/100, vitals.Lb
	case jin:
		s.value, s.unit = float64(raw)/100, vitals.Jin
	default:
		s.value, s.unit = float64(raw)/200, vitals.Kg
	}
	return &s
}
