package vitals_test

import (
	"math"
	"testing"

	"vitalwatch/vitals"
)

// Exact factors: SI brochure, international yard and pound of 1959.
func TestConvert(t *testing.T) {
	for _, tc := range []struct {
		v        float64
		from, to vitals.Unit
		want     float64
	}{
		{309.65, vitals.Kelvin, vitals.Cel, 36.5},
		{98.6, vitals.DegF, vitals.Kelvin, 310.15},
		{27000, vitals.Seconds, vitals.Hours, 7.5},
		{90, vitals.Minutes, vitals.Seconds, 5400},
		{68, vitals.Inch, vitals.Cm, 172.72},
		{16, vitals.Ounce, vitals.Lb, 1},
		{1, vitals.Stone, vitals.Lb, 14},
		{13.9, vitals.MmolL, vitals.MgDL, 250.4167},
	} {
		if got := vitals.Convert(tc.v, tc.from, tc.to); math.Abs(got-tc.want) > 1e-4 {
			t.Errorf("%v %v = %v %v, want %v", tc.v, tc.from, got, tc.to, tc.want)
		}
	}
}

func TestJudgeValues_questionableIsSuspect(t *testing.T) {
	r := vitals.Reading{Indicator: vitals.SpO2, Unit: vitals.Percent, Flags: vitals.Questionable}
	r.Set(vitals.Value, 97)
	if q, _ := vitals.JudgeValues(&r); q != vitals.Suspect {
		t.Errorf("quality %v, want suspect", q)
	}
}
