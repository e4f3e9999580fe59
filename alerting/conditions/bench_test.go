package conditions_test

import (
	"runtime"
	"testing"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

var calm = []struct {
	name string
	r    vitals.Reading
}{
	{"heart_rate", vitals.Reading{Indicator: vitals.HeartRate, Unit: vitals.PerMin, Has: 1, V: [6]float64{72}}},
	{"blood_pressure", vitals.Reading{Indicator: vitals.BloodPressure, Unit: vitals.MmHg, Has: 0b1011, V: [6]float64{122, 78, 0, 66}}},
	{"glucose", vitals.Reading{Indicator: vitals.Glucose, Unit: vitals.MmolL, Has: 1, V: [6]float64{6.1}}},
}

// go test ./alerting/conditions -run - -bench Observe -benchmem
func BenchmarkObserve(b *testing.B) {
	rs, err := embedded(b).Compile([]string{"hypertension"})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range calm {
		b.Run("state=calm/indicator="+c.name, func(b *testing.B) {
			p := alerting.NewPatient("P-1", rs)
			var out alerting.Decisions
			r := c.r
			r.Patient, r.Device, r.TakenAt = "P-1", "D-1", vitals.Day
			b.ReportAllocs()
			for b.Loop() {
				r.TakenAt += vitals.Second
				r.ReceivedAt = r.TakenAt
				p.Observe(&r, &out)
			}
			if len(out.Transitions)+len(out.Findings) > 0 {
				b.Fatal("a calm reading decided something")
			}
		})
	}
}

// go test ./alerting/conditions -run - -bench Memory
func BenchmarkPatientMemory(b *testing.B) {
	for name, conditions := range map[string][]string{"general": nil, "hypertension": {"hypertension"}, "type1_diabetes": {"type1_diabetes"}} {
		b.Run("condition="+name, func(b *testing.B) {
			rs, err := embedded(b).Compile(conditions)
			if err != nil {
				b.Fatal(err)
			}
			var ps []*alerting.Patient
			var out alerting.Decisions
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				ps = append(ps, calmPatient(rs, &out))
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(ps)), "B/patient")
			runtime.KeepAlive(ps)
		})
	}
}

// calmPatient has seen three indicators for a while, every five minutes.
func calmPatient(rs *alerting.RuleSet, out *alerting.Decisions) *alerting.Patient {
	p := alerting.NewPatient("P-1", rs)
	for n := range 20 {
		for _, c := range calm {
			r := c.r
			r.Device = "D-1"
			r.TakenAt = vitals.Day + vitals.Micros(n)*5*vitals.Minute
			r.ReceivedAt = r.TakenAt
			p.Observe(&r, out)
		}
	}
	return p
}
