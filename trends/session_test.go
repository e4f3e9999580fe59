package trends_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/trends"
	"vitalwatch/vitals"
)

func cuff(device string, minute float64, sys, dia, pulse float64) vitals.Reading {
	r := vitals.Reading{Indicator: vitals.BloodPressure, Unit: vitals.MmHg, Device: vitals.DeviceID(device),
		TakenAt: vitals.At(time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)) + vitals.Micros(minute*float64(vitals.Minute)), DeviceSeq: -1}
	r.Set(vitals.Systolic, sys)
	r.Set(vitals.Diastolic, dia)
	if pulse > 0 {
		r.Set(vitals.Pulse, pulse)
	}
	return r
}

func TestCuffSessions(t *testing.T) {
	for _, tc := range []struct {
		name      string
		readings  []vitals.Reading
		dropFirst bool
		want      []trends.Session // Readings empty
	}{
		{name: "none"},
		{name: "one", readings: []vitals.Reading{cuff("a", 0, 150, 90, 70)}, dropFirst: true, want: []trends.Session{{Systolic: 150, Diastolic: 90, Pulse: 70, Counted: 1}}},
		{name: "two that agree, in any order", readings: []vitals.Reading{cuff("a", 1, 142, 88, 0), cuff("a", 0, 152, 90, 70)},
			want: []trends.Session{{Systolic: 147, Diastolic: 89, Pulse: 70, Counted: 2}}},
		{name: "more than ten apart", readings: []vitals.Reading{cuff("a", 0, 153, 90, 0), cuff("a", 1, 142, 90, 0)},
			want: []trends.Session{{Systolic: 147.5, Diastolic: 90, Pulse: math.NaN(), Counted: 2, Differ: true}}},
		{name: "diastolic apart", readings: []vitals.Reading{cuff("a", 0, 150, 80, 60), cuff("a", 1, 150, 90.5, 60)},
			want: []trends.Session{{Systolic: 150, Diastolic: 85.25, Pulse: 60, Counted: 2, Differ: true}}},
		{name: "a third settles it", readings: []vitals.Reading{cuff("a", 0, 170, 95, 0), cuff("a", 1, 150, 90, 0), cuff("a", 2, 148, 88, 0)}, dropFirst: true,
			want: []trends.Session{{Systolic: 149, Diastolic: 89, Pulse: math.NaN(), Counted: 2}}},
		{name: "ten minutes end it", readings: []vitals.Reading{cuff("a", 0, 150, 90, 0), cuff("a", 9.9, 150, 90, 0), cuff("a", 10, 120, 70, 0)},
			want: []trends.Session{{Systolic: 150, Diastolic: 90, Pulse: math.NaN(), Counted: 2}, {Systolic: 120, Diastolic: 70, Pulse: math.NaN(), Counted: 1}}},
		{name: "each device its own", readings: []vitals.Reading{cuff("a", 0, 150, 90, 0), cuff("b", 1, 120, 70, 0), cuff("a", 2, 150, 90, 0)},
			want: []trends.Session{{Systolic: 150, Diastolic: 90, Pulse: math.NaN(), Counted: 2}, {Systolic: 120, Diastolic: 70, Pulse: math.NaN(), Counted: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := trends.CuffSessions(tc.readings, tc.dropFirst)
			if len(got) != len(tc.want) {
				t.Fatalf("%d sessions, want %d", len(got), len(tc.want))
			}
			for i, s := range got {
				w := tc.want[i]
				same := func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
				if !same(s.Systolic, w.Systolic) || !same(s.Diastolic, w.Diastolic) || !same(s.Pulse, w.Pulse) || s.Counted != w.Counted || s.Differ != w.Differ {
					t.Errorf("%d: %+v, want %+v", i, s, w)
				}
			}
		})
	}
	moved := cuff("a", 1, 190, 120, 0)
	moved.Flags = vitals.Movement
	if s := trends.CuffSessions([]vitals.Reading{cuff("a", 0, 150, 90, 0), moved}, false); len(s) != 1 || s[0].Systolic != 150 || s[0].Differ {
		t.Errorf("a reading with movement counts: %+v", s)
	}
}

// Whatever the order of arrival: each reading is in exactly one session, none of which is longer than ten minutes or
// could be joined with the one before.
func TestCuffSessions_property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rs []vitals.Reading
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			rs = append(rs, cuff(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "device"), float64(rapid.IntRange(0, 60).Draw(t, "minute")), 150, 90, 0))
		}
		n := 0
		last := map[vitals.DeviceID]vitals.Micros{}
		for _, s := range trends.CuffSessions(rs, false) {
			first := s.Readings[0]
			n += len(s.Readings)
			for _, r := range s.Readings {
				if r.Device != first.Device || r.TakenAt.Sub(first.TakenAt) >= trends.SessionWithin {
					t.Fatalf("a reading of another device or %v later", r.TakenAt.Sub(first.TakenAt))
				}
			}
			if before, ok := last[first.Device]; ok && first.TakenAt.Sub(before) < trends.SessionWithin {
				t.Fatal("two sessions within ten minutes")
			}
			last[first.Device] = first.TakenAt
		}
		if n != len(rs) {
			t.Fatalf("%d of %d readings are in sessions", n, len(rs))
		}
	})
}
