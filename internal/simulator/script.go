package simulator

import (
	"slices"
	"time"

	"vitalwatch/vitals"
)

// ScriptLength is when the script is over; patients live on unscripted.
const ScriptLength = 110 * time.Second

// stayLength is for how long an emergency stays that waits for somebody: time to read, log in, acknowledge and resolve.
const stayLength = 15 * time.Minute

// cue is a scripted reading, in our time since the start.
type cue struct {
	at time.Duration
	r  Reading
}

// scriptStep is how often scripted streams measure.
const scriptStep = 5 * time.Second

// script returns what a patient's devices measure during the first ScriptLength of a scripted run, and until when it
// speaks for which indicators: the body's own readings of these stay silent meanwhile. It makes, against the safety
// lines (glucose 3.9, 3.0 and 2.2 mmol/L; 180/110 and its repeat; SpO2 93, 92 and 88 %), alerts of the severities
// warning, critical and emergency within the first minute, some that worsen and some that open so, and lets the
// hypoglycaemia recover.
func script(p Patient) (cues []cue, speaksFor map[vitals.Indicator]time.Duration) {
	speaksFor = map[vitals.Indicator]time.Duration{}
	one := func(ind vitals.Indicator, unit, text string) Reading {
		return Reading{Indicator: ind, Unit: unit, Values: []Value{{vitals.Value, text}}}
	}
	stream := func(ind vitals.Indicator, unit string, texts ...string) {
		for i, text := range texts {
			cues = append(cues, cue{2*time.Second + time.Duration(i)*scriptStep, one(ind, unit, text)})
		}
		speaksFor[ind] = ScriptLength
	}
	pressure := func(at time.Duration, sys, dia, pulse string) {
		cues = append(cues, cue{at, Reading{Indicator: vitals.BloodPressure, Unit: "mm[Hg]", Context: `{"posture":"sitting","arm":"left"}`,
			Values: []Value{{vitals.Systolic, sys}, {vitals.Diastolic, dia}, {vitals.Pulse, pulse}}}})
	}
	switch p.index {
	case 0: // a hypoglycaemia down to an emergency, treated with sugar
		stream(vitals.Glucose, "mmol/L", "5.6", "5.0", "4.4", "3.8", "3.6", "3.3", "2.9", "2.7", "2.4", "2.1", "2.0", "2.3", "2.9", "3.6", "4.5", "5.2", "5.8", "6.1", "6.2", "6.2", "6.3", "6.2")
	case 1: // a hypertensive crisis that the repeats confirm; the coach has to act
		pressure(10*time.Second, "186", "114", "88")
		pressure(40*time.Second, "188", "113", "90")
		pressure(75*time.Second, "185", "112", "87")
		speaksFor[vitals.BloodPressure] = ScriptLength
	case 2: // a desaturation to an emergency that stays
		stream(vitals.SpO2, "%", "96", "96", "95", "93", "92", "91", "90", "88", "87", "86", "86", "87", "86", "86", "87", "86", "87", "86", "87", "87", "86", "87")
		for at := ScriptLength; at < stayLength; at += 3 * scriptStep {
			cues = append(cues, cue{at, one(vitals.SpO2, "%", []string{"86", "87"}[int(at/scriptStep)%2])})
		}
		speaksFor[vitals.SpO2] = stayLength
	case 3: // sugar far too high after a forgotten dose
		stream(vitals.Glucose, "mmol/L", "11.2", "12.4", "13.3", "14.2", "14.9", "15.6", "16.2", "16.9", "17.3", "17.6", "17.4", "17.1", "16.8", "16.4", "16.1", "15.8", "15.4", "15.1", "14.8", "14.5", "14.3", "14.0")
	case 5: // one high measurement that a repeat does not confirm, and that clears
		pressure(15*time.Second, "182", "108", "80")
		pressure(50*time.Second, "164", "98", "78")
		pressure(80*time.Second, "158", "95", "76")
		speaksFor[vitals.BloodPressure] = ScriptLength
	case 11: // a mild low, noticed in time
		stream(vitals.Glucose, "mmol/L", "4.9", "4.6", "4.3", "4.0", "3.8", "3.7", "3.6", "3.7", "3.9", "4.2", "4.6", "5.0", "5.3", "5.5", "5.6", "5.7", "5.7", "5.8", "5.8", "5.8", "5.7", "5.7")
	case 9: // a finger stick far too low, and one that is still low after sugar: critical at once
		cues = append(cues, cue{25 * time.Second, one(vitals.Glucose, "mmol/L", "2.8")}, cue{70 * time.Second, one(vitals.Glucose, "mmol/L", "3.2")})
		speaksFor[vitals.Glucose] = stayLength
	case 13: // a finger stick that is an emergency at once, and nobody who measures again
		cues = append(cues, cue{35 * time.Second, one(vitals.Glucose, "mmol/L", "2.1")})
		speaksFor[vitals.Glucose] = stayLength
	case 4: // two kilograms of water since yesterday
		cues = append(cues, cue{20 * time.Second, one(vitals.Weight, "kg", "")}) // the text is the body's weight and more
		speaksFor[vitals.Weight] = ScriptLength
	}
	slices.SortStableFunc(cues, func(a, b cue) int { return int(a.at - b.at) })
	return cues, speaksFor
}

// scriptedGain is how much patient 4 has gained, in kg: beyond the 2 kg in three days of the guideline (facts A4).
const scriptedGain = 2.6
