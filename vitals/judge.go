package vitals

import (
	"math"
	"time"
)

// Freshness limits (P, our proposal in facts B2 and B4).
const (
	LiveWindow    = 15 * time.Minute // older points raise no live alert
	BackfillAfter = 24 * time.Hour   // older points are history
	MaxClockAhead = 5 * time.Minute  // further ahead is quarantined
)

// JudgeFreshness gives the verdict on a reading taken at taken and received at received. ahead is true when the
// device's clock is so far in the future that the reading must be quarantined.
func JudgeFreshness(taken, received Micros) (f Freshness, ahead bool) {
	age := received.Sub(taken)
	switch {
	case age < -MaxClockAhead:
		return Doubtful, true
	case age <= LiveWindow:
		return Live, false
	case age <= BackfillAfter:
		return Late, false
	}
	return Backfill, false
}

type limit struct{ rejectLow, suspectLow, suspectHigh, rejectHigh float64 }

var inf = math.Inf(1)

// Limits in the canonical unit: facts B4 (P unless marked there). Outside reject: no reading of a living person
// at home by such a device; outside suspect: shown, and confirmed before it alerts.
var limits = [numIndicators][MaxComponents]limit{
	BloodPressure: {
		{30, 50, 240, 300}, // systolic; suspect range V1 cran/bp, Omboni 1995
		{15, 40, 140, 200}, // diastolic
		{15, 40, 180, 250}, // mean (P)
		{20, 30, 220, 300}, // pulse
	},
	Glucose:     {{0.3 * MgPerMmolGlucose, 1.1 * MgPerMmolGlucose, 33.3 * MgPerMmolGlucose, 55 * MgPerMmolGlucose}},
	HeartRate:   {{20, 30, 220, 300}},
	SpO2:        {{30, 70, 100, 100}, {20, 30, 220, 300}},
	Temperature: {{25, 34, 42, 45}},
	Weight:      {{1, 1, 500, 500}}, // ±10 % against the person's own median is a question for history
	Respiration: {{1, 5, 60, 100}},
	Steps:       {{0, 0, 100000, inf}},
	Sleep:       {{0, 0, 24, 24}, {0, 0, 24, 24}, {0, 0, 24, 24}, {0, 0, 24, 24}, {0, 0, 24, 24}},
	HRV:         {{0, 1, 300, 500}},
	Rhythm:      {{0, 0, inf, inf}},
	Height:      {{30, 30, 250, 280}},
	BodyFat:     {{0, 2, 70, 100}},
}

// JudgeValues gives the verdict on the values alone, and the component that decided. It compares in the
// canonical unit with a tolerance of one part in a million, because the limits are engineering limits, not
// clinical thresholds.
func JudgeValues(r *Reading) (Quality, Component) {
	if r.Failed() {
		return Invalid, Value // there is no value to judge
	}
	q, worst := Good, Value
	for i, c := range r.Indicator.Components() {
		if r.Has&(1<<i) == 0 {
			continue
		}
		v := r.V[i]
		if c.InReadingUnit() {
			v = ToCanonical(r.Indicator, r.Unit, v)
		}
		l := limits[r.Indicator][i]
		eps := 1e-6 * math.Abs(v)
		switch {
		case math.IsNaN(v) || v < l.rejectLow-eps || v > l.rejectHigh+eps:
			return Invalid, c
		case v < l.suspectLow-eps || v > l.suspectHigh+eps:
			q, worst = Suspect, c
		}
	}
	if r.Indicator == HRV && r.V[0] <= 0 {
		return Invalid, Value
	}
	if r.Indicator == BloodPressure {
		s := ToCanonical(r.Indicator, r.Unit, r.V[0])
		d := ToCanonical(r.Indicator, r.Unit, r.V[1])
		switch pp := s - d; { // pulse pressure: reject below 10, suspect above 120 (facts B4)
		case pp < 10:
			return Invalid, Diastolic
		case pp > 120:
			q, worst = Suspect, Diastolic
		}
	}
	if q == Good && r.Flags&(Movement|CuffLoose|WrongPosition|PoorContact|LowSignal|Questionable) != 0 {
		q = Suspect // facts rule 4: a flagged reading is not a clean live reading
	}
	return q, worst
}
