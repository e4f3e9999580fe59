package payload

import (
	"vitalwatch/vitals"
)

// bloodPressure: 0x2A35, Blood Pressure Service 1.1.1, section 3.1.
func (g *gattSource) bloodPressure(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	r := &it.Reading
	sys, dia, mean := o.sfloat(), o.sfloat(), o.sfloat()
	c := clockTime{unknown: true}
	pulse := medfloat{special: notANumber}
	if flags&2 != 0 {
		c = o.dateTime()
	}
	if flags&4 != 0 {
		pulse = o.sfloat()
	}
	if flags&8 != 0 {
		r.UserSlot = o.u8() // 255: unknown, as with us
	}
	var s uint16
	if flags&16 != 0 {
		s = o.u16()
		r.Flags = bit(s, 0, vitals.Movement) | bit(s, 1, vitals.CuffLoose) | bit(s, 2, vitals.IrregularPulse) | bit(s, 5, vitals.WrongPosition)
		if s>>3&3 != 0 {
			r.Flags |= vitals.PulseOutOfRange
		}
	}
	if g.truncated(it, &o) {
		return
	}
	r.Indicator, r.Unit = vitals.BloodPressure, vitals.MmHg
	if flags&1 != 0 {
		r.Unit = vitals.KPa
	}
	if sys.special == notANumber && dia.special == notANumber { // section 3.1.1.2: the cuff could not measure
		code := ""
		if flags&16 != 0 {
			code = hexCode(uint32(s), 4)
		}
		g.failed(it, vitals.BloodPressure, c, faultClass(r.Flags), code, ValueInvalid, "the device gave no number for this measurement")
		return
	}
	if !g.put(it, vitals.Systolic, r.Unit, sys, 0) || !g.put(it, vitals.Diastolic, r.Unit, dia, 0) {
		return
	}
	optional(r, vitals.Mean, mean)
	optional(r, vitals.Pulse, pulse)
	g.stamp(it, c)
}

func bit(status uint16, n int, f vitals.Flags) vitals.Flags {
	return f & -vitals.Flags(status>>n&1)
}

// Sensor status annunciation of 0x2A18, Glucose Service 1.0.1, section 3.1.1.7.
const (
	glucoseHigh  = 1 << 5
	glucoseLow   = 1 << 6
	glucoseClock = 1 << 11
	// Malfunction, sample too small, strip inserted wrongly, strip of a wrong type, too hot, too cold, strip pulled too
	// soon, device fault: there is no result to trust.
	glucoseFailed = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<7 | 1<<8 | 1<<9 | 1<<10
)

// glucoseFault is the class of the first of those bits.
func glucoseFault(status uint16) string {
	switch {
	case status&(1<<1|1<<10) != 0:
		return "hardware"
	case status&(1<<3|1<<4|1<<9) != 0:
		return "strip"
	case status&(1<<2) != 0:
		return "sample"
	}
	return "temperature"
}

// glucose: 0x2A18, Glucose Service 1.0.1, section 3.1.
func (g *gattSource) glucose(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	r := &it.Reading
	r.DeviceSeq = int64(o.u16())
	c := o.dateTime()
	if flags&1 != 0 {
		switch min := int16(o.u16()); {
		case min == 0x7FFF || min == -0x8000: // overrun, underrun
			c.bad = !c.unknown
		default:
			c.wall += vitals.Micros(min) * vitals.Minute
		}
	}
	f := medfloat{special: notANumber}
	var sample uint8
	if flags&2 != 0 {
		f, sample = o.sfloat(), o.u8()
	}
	var status uint16
	if flags&8 != 0 {
		status = o.u16()
	}
	if g.truncated(it, &o) {
		return
	}
	if sample&15 == 10 || sample>>4 == 4 { // facts B5: meters store control results that nobody marked
		g.fail(it, NotAReading, "this is a control solution, not blood", 0)
		return
	}
	if status&glucoseFailed != 0 {
		g.failed(it, vitals.Glucose, c, glucoseFault(status), hexCode(uint32(status), 4), StatusInvalid,
			"the meter says that the measurement failed; measure again with a new strip")
		return
	}
	r.Indicator, r.Unit = vitals.Glucose, vitals.MgDL
	scale := 5 // kg/L to mg/dL
	if flags&4 != 0 {
		r.Unit, scale = vitals.MmolL, 3 // mol/L to mmol/L
	}
	r.Flags = bit(status, 0, vitals.LowBattery) | bit(status, 5, vitals.AboveRange) | bit(status, 6, vitals.BelowRange)
	if f.special == notANumber || f.special == notAtResolution || f.special == reserved {
		switch status & (glucoseHigh | glucoseLow) { // HI and LO
		case glucoseHigh:
			f = medfloat{special: plusInfinity}
		case glucoseLow:
			f = medfloat{special: minusInfinity}
		}
	}
	if !g.put(it, vitals.Value, r.Unit, f, scale) {
		return
	}
	r.Extra = sampleExtra[sample]
	if g.stamp(it, c) && status&glucoseClock != 0 && it.Clock == ClockDevice {
		it.Clock = ClockFault
	}
}

var sampleTypes = [16]string{1: "capillary_whole_blood", "capillary_plasma", "venous_whole_blood", "venous_plasma", "arterial_whole_blood",
	"arterial_plasma", "undetermined_whole_blood", "undetermined_plasma", "interstitial_fluid", "control"}

var sampleLocations = [16]string{1: "finger", "alternate_site", "earlobe", "control", 15: "not_available"}

// sampleExtra holds the context of each type and location, shared by all readings; nil where there is none to tell.
var sampleExtra = func() (out [256]*vitals.Extra) {
	for i := range out {
		var c contextObject
		c.word("sample_type", sampleTypes[i&15])
		c.word("sample_location", sampleLocations[i>>4])
		if !c.empty() {
			out[i] = &vitals.Extra{Context: c.String()}
		}
	}
	return out
}()

// contextFields is a glucose context: 0x2A34, Glucose Service 1.0.1, section 3.2.
type contextFields struct {
	seq                              uint16
	flags                            uint8
	carb, meal, tester, medication   uint8
	exercisePercent                  uint8
	exerciseSeconds                  uint16
	carbAmount, medAmount, hba1c     medfloat
	haveExercise, haveMeal, haveCarb bool
}

func readContext(o *octets) (c contextFields) {
	c.flags = o.u8()
	c.seq = o.u16()
	if c.flags&128 != 0 {
		o.u8() // extended flags, reserved
	}
	if c.flags&1 != 0 {
		c.carb, c.carbAmount, c.haveCarb = o.u8(), o.sfloat(), true
	}
	if c.flags&2 != 0 {
		c.meal, c.haveMeal = o.u8(), true
	}
	if c.flags&4 != 0 {
		c.tester = o.u8()
	}
	if c.flags&8 != 0 {
		c.exerciseSeconds, c.exercisePercent, c.haveExercise = o.u16(), o.u8(), true
	}
	if c.flags&16 != 0 {
		c.medication, c.medAmount = o.u8(), o.sfloat()
	}
	if c.flags&64 != 0 {
		c.hba1c = o.sfloat()
	}
	return c
}

var (
	carbNames   = [...]string{1: "breakfast", "lunch", "dinner", "snack", "drink", "supper", "brunch"}
	mealsOfGATT = [...]vitals.Meal{1: vitals.BeforeMeal, vitals.AfterMeal, vitals.Fasting, vitals.Casual, vitals.Bedtime}
	testers     = [16]string{1: "self", "health_professional", "laboratory"}
	healths     = [16]string{1: "minor_issues", "major_issues", "during_menses", "under_stress", "no_issues"}
	medications = [...]string{1: "rapid_insulin", "short_insulin", "intermediate_insulin", "long_insulin", "premixed_insulin"}
)

// apply puts the context to its measurement. Values that the specification does not name are kept as numbers: devices
// have private ones.
func (c *contextFields) apply(r *vitals.Reading) {
	var o contextObject
	if r.Extra != nil && r.Extra.Context != "" {
		o.b = append([]byte(nil), r.Extra.Context[:len(r.Extra.Context)-1]...)
	}
	coded := func(key string, names []string, code uint8) {
		if int(code) < len(names) && names[code] != "" {
			o.word(key, names[code])
		} else if code != 0 {
			o.integer(key+"_code", int64(code))
		}
	}
	if c.haveMeal {
		if int(c.meal) < len(mealsOfGATT) && c.meal != 0 {
			r.Meal = mealsOfGATT[c.meal]
			o.word("meal", r.Meal.String())
		} else {
			o.integer("meal_code", int64(c.meal))
		}
	}
	if c.haveCarb {
		coded("carbohydrate", carbNames[:], c.carb)
		if c.carbAmount.special == ordinary {
			o.number("carbohydrate_g", c.carbAmount.times(3))
		}
	}
	if c.flags&4 != 0 {
		o.word("tester", testers[c.tester&15])
		o.word("health", healths[c.tester>>4])
	}
	if c.haveExercise {
		if c.exerciseSeconds != 0xFFFF { // overrun
			o.integer("exercise_s", int64(c.exerciseSeconds))
		}
		o.integer("exercise_percent", int64(c.exercisePercent))
	}
	if c.flags&16 != 0 {
		coded("medication", medications[:], c.medication)
		if c.medAmount.special == ordinary {
			if c.flags&32 != 0 {
				o.number("medication_ml", c.medAmount.times(3))
			} else {
				o.number("medication_mg", c.medAmount.times(6))
			}
		}
	}
	if c.flags&64 != 0 && c.hba1c.special == ordinary {
		o.number("hba1c_percent", c.hba1c.value())
	}
	if !o.empty() {
		r.Extra = &vitals.Extra{Context: o.String()} // not the shared one
	}
}

// heartRate: 0x2A37, Heart Rate Service 1.0, section 3.1.
func (g *gattSource) heartRate(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	r := &it.Reading
	var rate float64
	if flags&1 != 0 {
		rate = float64(o.u16())
	} else {
		rate = float64(o.u8())
	}
	var energy uint16
	if flags&8 != 0 {
		energy = o.u16()
	}
	rr := o.b[o.i:]
	if flags&16 == 0 {
		rr = nil
	} else if len(rr)%2 != 0 {
		o.short = true
	}
	if g.truncated(it, &o) {
		return
	}
	if flags>>1&3 == 2 {
		g.fail(it, StatusInvalid, "the sensor has lost contact with the skin", 0)
		return
	}
	r.Indicator, r.Unit = vitals.HeartRate, vitals.PerMin
	r.Set(vitals.Value, rate)
	if flags&8 != 0 || len(rr) > 0 {
		var c contextObject
		if flags&8 != 0 {
			c.integer("energy_kj", int64(energy))
		}
		if len(rr) > 0 {
			c.key("rr_ms")
			for i := 0; i < len(rr); i += 2 {
				sep := byte(',')
				if i == 0 {
					sep = '['
				}
				c.b = append(c.b, sep)
				ticks := int64(rr[i]) | int64(rr[i+1])<<8                         // of 1/1024 s
				c.b = vitals.AppendNumber(c.b, float64((ticks*1e6+512)/1024)/1e3) // to the microsecond
			}
			c.b = append(c.b, ']')
		}
		c.set(r)
	}
	g.noClock(it)
}

// Measurement status of the Pulse Oximeter Service 1.0.1, section 3.1.1.5.
const (
	plxEarly        = 1 << 6
	plxFromMemory   = 1 << 9
	plxNotAReading  = 1<<10 | 1<<11 | 1<<12 // demonstration, testing, calibration
	plxInvalid      = 1<<13 | 1<<15         // unavailable, invalid
	plxQuestionable = 1 << 14
)

// Device and sensor status, section 3.1.1.6.
const (
	plxNobody    = 1<<11 | 1<<15                                   // sensor unconnected to user, disconnected
	plxContact   = 1<<7 | 1<<13                                    // nonpulsatile signal, sensor displaced
	plxSignal    = 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<8 | 1<<10 // irregular, inadequate, poor, low perfusion, erratic, questionable pulse, interference
	plxEquipment = 1<<1 | 1<<12 | 1<<14                            // malfunction, unknown sensor, sensor malfunction
)

// oximeter finishes both oximeter characteristics. It reports false after it has refused the item.
func (g *gattSource) oximeter(it *Item, spo2, pulse medfloat, status uint16, device uint32, c *contextObject, at clockTime) bool {
	r := &it.Reading
	switch {
	case status&plxNotAReading != 0:
		g.fail(it, NotAReading, "the oximeter says that this is a demonstration, a test or a calibration", 0)
		return false
	case status&plxInvalid != 0 || device&plxNobody != 0:
		const detail = "the oximeter says that the measurement is invalid or nobody wears it"
		// Taking the finger out says "invalid" too, and is nobody's fault: only what names the equipment is one.
		if device&plxEquipment != 0 {
			g.failed(it, vitals.SpO2, at, "sensor", hexCode(device, 6), StatusInvalid, detail)
		} else {
			g.fail(it, StatusInvalid, detail, 0)
		}
		return false
	}
	if status&plxFromMemory != 0 {
		r.Flags |= vitals.FromMemory
	}
	if status&(plxQuestionable|plxEarly) != 0 || device&plxEquipment != 0 {
		r.Flags |= vitals.Questionable
	}
	if device&plxContact != 0 {
		r.Flags |= vitals.PoorContact
	}
	if device&plxSignal != 0 {
		r.Flags |= vitals.LowSignal
	}
	r.Indicator, r.Unit = vitals.SpO2, vitals.Percent
	if !g.put(it, vitals.Value, vitals.Percent, spo2, 0) {
		return false
	}
	optional(r, vitals.Pulse, pulse)
	c.set(r)
	return true
}

func (c *contextObject) medfloat(key string, f medfloat) {
	if f.special == ordinary {
		c.number(key, f.value())
	}
}

// spotCheck: 0x2A5E, Pulse Oximeter Service 1.0.1, section 3.1.
func (g *gattSource) spotCheck(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	spo2, pulse := o.sfloat(), o.sfloat()
	c := clockTime{unknown: true}
	if flags&1 != 0 {
		c = o.dateTime()
	}
	var status uint16
	var device uint32
	var more contextObject
	if flags&2 != 0 {
		status = o.u16()
	}
	if flags&4 != 0 {
		device = o.u24()
	}
	if flags&8 != 0 {
		more.medfloat("pulse_amplitude_index", o.sfloat())
	}
	if flags&16 != 0 { // the clock was not set
		c = clockTime{unknown: true}
	}
	if !g.truncated(it, &o) && g.oximeter(it, spo2, pulse, status, device, &more, c) {
		g.stamp(it, c)
	}
}

// continuousOximeter: 0x2A5F, Pulse Oximeter Service 1.0.1, section 3.2.
func (g *gattSource) continuousOximeter(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	spo2, pulse := o.sfloat(), o.sfloat()
	var status uint16
	var device uint32
	var more contextObject
	if flags&1 != 0 {
		more.medfloat("spo2_fast", o.sfloat())
		more.medfloat("pulse_fast", o.sfloat())
	}
	if flags&2 != 0 {
		more.medfloat("spo2_slow", o.sfloat())
		more.medfloat("pulse_slow", o.sfloat())
	}
	if flags&4 != 0 {
		status = o.u16()
	}
	if flags&8 != 0 {
		device = o.u24()
	}
	if flags&16 != 0 {
		more.medfloat("pulse_amplitude_index", o.sfloat())
	}
	if !g.truncated(it, &o) && g.oximeter(it, spo2, pulse, status, device, &more, clockTime{unknown: true}) {
		g.noClock(it)
	}
}

const failedField = 0xFFFF // Weight Scale Service 1.0, section 3.2.1.2; Body Composition Service 1.0, section 3.2.1.2

// mass gives a weight field's number and unit: 0.005 kg or 0.01 lb.
func mass(raw uint16, imperial bool) (float64, vitals.Unit) {
	if imperial {
		return float64(raw) / 100, vitals.Lb
	}
	return float64(raw) / 200, vitals.Kg
}

// length adds a body height: 0.001 m or 0.1 in. It comes from the user's settings and is no reading.
func (c *contextObject) length(raw uint16, imperial bool) {
	if imperial {
		c.number("height_in", float64(raw)/10)
	} else {
		c.number("height_m", float64(raw)/1000)
	}
}

// weight: 0x2A9D, Weight Scale Service 1.0, section 3.2.
func (g *gattSource) weight(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	r := &it.Reading
	raw := o.u16()
	c := clockTime{unknown: true}
	if flags&2 != 0 {
		c = o.dateTime()
	}
	if flags&4 != 0 {
		r.UserSlot = o.u8()
	}
	var bmi, height uint16
	if flags&8 != 0 {
		bmi, height = o.u16(), o.u16()
	}
	if g.truncated(it, &o) {
		return
	}
	if raw == failedField {
		g.failed(it, vitals.Weight, c, vitals.UnknownFault, hexCode(failedField, 4), StatusInvalid, "the scale says that the measurement failed; step on it again")
		return
	}
	r.Indicator = vitals.Weight
	r.V[0], r.Unit = mass(raw, flags&1 != 0)
	r.Has = 1
	if flags&8 != 0 {
		var more contextObject
		more.number("bmi", float64(bmi)/10)
		more.length(height, flags&1 != 0)
		more.set(r)
	}
	g.stamp(it, c)
}

// bodyComposition: 0x2A9C, Body Composition Service 1.0, section 3.2. A weight in it is a reading of its own.
func (g *gattSource) bodyComposition(dst []Item) []Item {
	o := octets{b: g.b}
	flags := o.u16()
	imperial := flags&1 != 0
	fat := o.u16()
	c := clockTime{unknown: true}
	if flags&2 != 0 {
		c = o.dateTime()
	}
	var slot uint8
	if flags&4 != 0 {
		slot = o.u8()
	}
	var more contextObject
	if flags&8 != 0 {
		more.integer("basal_metabolism_kj", int64(o.u16()))
	}
	if flags&16 != 0 {
		more.number("muscle_percent", float64(o.u16())/10)
	}
	for i, key := range [...]string{"muscle_mass", "fat_free_mass", "soft_lean_mass", "body_water_mass"} {
		if flags&(32<<i) != 0 {
			v, u := mass(o.u16(), imperial)
			if u == vitals.Lb {
				key += "_lb"
			} else {
				key += "_kg"
			}
			more.number(key, v)
		}
	}
	if flags&512 != 0 {
		more.number("impedance_ohm", float64(o.u16())/10)
	}
	raw := uint16(failedField)
	if flags&1024 != 0 {
		raw = o.u16()
	}
	if flags&2048 != 0 {
		more.length(o.u16(), imperial)
	}
	item := Item{Reading: vitals.Reading{DeviceSeq: -1, OffsetMin: vitals.NoOffset, UserSlot: slot}}
	if !g.truncated(&item, &o) && fat == failedField && raw == failedField {
		g.failed(&item, vitals.BodyFat, c, vitals.UnknownFault, hexCode(failedField, 4), StatusInvalid, "the scale says that the measurement failed; step on it again")
	}
	if item.Problem != nil {
		return append(dst, item)
	}
	if !g.stamp(&item, c) {
		return append(dst, item)
	}
	if fat != failedField {
		f := item
		f.Reading.Indicator, f.Reading.Unit = vitals.BodyFat, vitals.Percent
		f.Reading.Set(vitals.Value, float64(fat)/10)
		more.set(&f.Reading)
		dst = append(dst, f)
	}
	if raw != failedField {
		item.Reading.Indicator = vitals.Weight
		item.Reading.V[0], item.Reading.Unit = mass(raw, imperial)
		item.Reading.Has = 1
		dst = append(dst, item)
	}
	return dst
}

var temperatureSites = [...]string{1: "armpit", "body", "ear", "finger", "gastrointestinal_tract", "mouth", "rectum", "toe", "tympanum"}

var siteExtra = func() (out [len(temperatureSites)]*vitals.Extra) {
	for i, s := range temperatureSites {
		if s != "" {
			out[i] = &vitals.Extra{Context: `{"site":"` + s + `"}`}
		}
	}
	return out
}()

// temperature: 0x2A1C, Health Thermometer Service 1.0, section 3.1. The site is kept and nothing corrected for it.
func (g *gattSource) temperature(it *Item) {
	o := octets{b: g.b}
	flags := o.u8()
	f := o.float()
	c := clockTime{unknown: true}
	if flags&2 != 0 {
		c = o.dateTime()
	}
	var site uint8
	if flags&4 != 0 {
		site = o.u8()
	}
	if g.truncated(it, &o) {
		return
	}
	r := &it.Reading
	r.Indicator, r.Unit = vitals.Temperature, vitals.Cel
	if flags&1 != 0 {
		r.Unit = vitals.DegF
	}
	if f.special == notANumber { // section 3.1.1.2: the thermometer could not measure
		g.failed(it, vitals.Temperature, c, vitals.UnknownFault, "", ValueInvalid, "the device gave no number for this measurement")
		return
	}
	if !g.put(it, vitals.Value, r.Unit, f, 0) {
		return
	}
	if int(site) < len(siteExtra) {
		r.Extra = siteExtra[site]
	}
	g.stamp(it, c)
}

// Sensor status annunciation, CGM Service 1.0.2, section 3.1.1.5: the status octet, and two bits of the warning octet.
const (
	cgmBattery = 1 << 1
	cgmFailed  = 1<<2 | 1<<3 | 1<<5 // sensor of a wrong type, sensor malfunction, device fault
	cgmBelow   = 1 << 6             // result lower than the device can process
	cgmAbove   = 1 << 7
)

// The range of sensors in mg/dL (facts B4: CGM 40 to 400, then LOW and HIGH).
const cgmLow, cgmHigh = 40, 400

// cgm: 0x2AA7, CGM Service 1.0.2, section 3.1: one or more records, each with its size in front.
//
// A record's time counts from the session start. Without one the newest record of the packet was taken when the gateway
// says, or when the packet came, and the others as many minutes before as their offsets say.
func (g *gattSource) cgm(dst []Item) []Item {
	base := len(dst)
	newest := uint16(0)
	offsets := [maxCharacteristic / 6]uint16{}
	b, at := g.b, 0
	for first := true; first || len(b) > 0; first = false {
		size := 0
		if len(b) > 0 {
			size = int(b[0])
		}
		item := Item{Reading: vitals.Reading{DeviceSeq: -1, OffsetMin: vitals.NoOffset}}
		if size < 6 || size > len(b) {
			g.fail(&item, CharacteristicBad, "a CGM record does not have the size that it says; it and what follows were not taken", at)
			dst = append(dst, item)
			break
		}
		offset := g.cgmRecord(&item, b[:size], at)
		if item.Problem == nil || item.Failed() {
			offsets[len(dst)-base] = offset
			newest = max(newest, offset)
		}
		dst = append(dst, item)
		b, at = b[size:], at+size
	}
	for i := range dst[base:] {
		it := &dst[base+i]
		if it.Problem != nil && !it.Failed() {
			continue
		}
		if s := &g.session; s.there {
			it.Reading.TakenAt, it.Reading.OffsetMin = s.t+vitals.Micros(offsets[i])*vitals.Minute, s.off
		} else if g.noClock(it) {
			it.Reading.TakenAt -= vitals.Micros(newest-offsets[i]) * vitals.Minute
		}
	}
	return dst
}

// cgmRecord decodes one record and returns its minutes since the session start.
func (g *gattSource) cgmRecord(it *Item, b []byte, at int) uint16 {
	o := octets{b: b, i: 1}
	flags := o.u8()
	f := o.sfloat()
	offset := o.u16()
	var status, warning uint8
	if flags&128 != 0 {
		status = o.u8()
	}
	if flags&64 != 0 {
		o.u8() // calibration and temperature: for the wearer's display
	}
	if flags&32 != 0 {
		warning = o.u8()
	}
	var more contextObject
	if flags&1 != 0 {
		more.medfloat("trend_mg_dl_min", o.sfloat())
	}
	if flags&2 != 0 {
		more.medfloat("quality_percent", o.sfloat())
	}
	switch left := len(b) - o.i; {
	case o.short || left != 0 && left != 2:
		g.fail(it, CharacteristicBad, "a CGM record does not have the fields that its flags announce", at)
		return 0
	case left == 2 && crc(b[:o.i]) != o.u16():
		g.fail(it, CharacteristicBad, "the checksum of a CGM record is wrong", at)
		return 0
	case status&cgmFailed != 0:
		class := "sensor"
		if status&(1<<5) != 0 {
			class = "hardware"
		}
		g.fail(it, StatusInvalid, "the sensor says that it failed", at)
		it.Reading = failure(&vitals.Reading{Indicator: vitals.Glucose, DeviceSeq: -1, OffsetMin: vitals.NoOffset},
			vitals.DeviceFault{Class: class, Code: hexCode(uint32(status), 2)})
		return offset
	}
	r := &it.Reading
	r.Indicator, r.Unit = vitals.Glucose, vitals.MgDL
	if status&cgmBattery != 0 {
		r.Flags |= vitals.LowBattery
	}
	if f.special != ordinary { // LOW and HIGH
		switch {
		case f.special == minusInfinity || f.special != plusInfinity && warning&(cgmBelow|cgmAbove) == cgmBelow:
			f = medfloat{m: cgmLow}
			r.Flags |= vitals.BelowRange
		case f.special == plusInfinity || warning&(cgmBelow|cgmAbove) == cgmAbove:
			f = medfloat{m: cgmHigh}
			r.Flags |= vitals.AboveRange
		}
	}
	switch warning & (cgmBelow | cgmAbove) { // both at once say nothing
	case cgmBelow:
		r.Flags |= vitals.BelowRange
	case cgmAbove:
		r.Flags |= vitals.AboveRange
	}
	if !g.put(it, vitals.Value, vitals.MgDL, f, 0) {
		return 0
	}
	more.set(r)
	return offset
}

// sessionStart reads 0x2AAA, CGM Service 1.0.2, section 3.4, into to: local time, time zone in quarters of an hour, DST
// offset (Bluetooth Time Zone and DST Offset characteristics), CRC where the device uses one.
func (g *gattSource) sessionStart(to *gattSource) *Problem {
	o := octets{b: g.b}
	c := o.dateTime()
	zone, dst := int8(o.u8()), o.u8()
	switch left := len(g.b) - o.i; {
	case o.short:
		return g.problem(CharacteristicBad, "the session start ends before its fields", len(g.b))
	case left == 2 && crc(g.b[:o.i]) != o.u16():
		return g.problem(CharacteristicBad, "the checksum of the session start is wrong", 0)
	case c.unknown || c.bad:
		return g.problem(TimeInvalid, "the session start is not a date", 0)
	}
	s := &to.session
	switch {
	case zone != -128 && dst != 255 && zone >= -48 && zone <= 56 && dst <= 8:
		s.off = int16(zone)*15 + int16(dst)*15
		s.t = c.wall - vitals.Micros(s.off)*vitals.Minute
	case g.in.DeviceTZ != nil:
		s.t, s.off = fromWall(c.wall, g.in.DeviceTZ)
	default:
		return g.problem(TimeInvalid, "the session start has no zone; set the device's zone or send session_start", 0)
	}
	s.there = taken(s.t)
	if !s.there {
		return g.problem(TimeInvalid, "the session start is before 1990; set the device's clock", 0)
	}
	return nil
}
