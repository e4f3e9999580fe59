package alerting_test

import (
	"fmt"
	"runtime"
	"testing"

	. "vitalwatch/alerting"
	"vitalwatch/vitals"
)

// go test ./alerting -run - -bench Observe -benchmem
func BenchmarkObserve(b *testing.B) {
	rs := mustRules(b)
	for _, c := range []struct {
		name string
		r    vitals.Reading
		open bool
	}{
		{"state=calm/indicator=heart_rate", vitals.Reading{Indicator: vitals.HeartRate, Unit: vitals.PerMin, Has: 1, V: [6]float64{72}}, false},
		{"state=calm/indicator=blood_pressure", vitals.Reading{Indicator: vitals.BloodPressure, Unit: vitals.MmHg, Has: 0b1011, V: [6]float64{122, 78, 0, 66}}, false},
		{"state=alert/indicator=heart_rate", vitals.Reading{Indicator: vitals.HeartRate, Unit: vitals.PerMin, Has: 1, V: [6]float64{150}}, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := NewPatient("P-1", rs)
			var out Decisions
			r := c.r
			r.Patient, r.Device, r.TakenAt = "P-1", "D-1", start
			b.ReportAllocs()
			for b.Loop() {
				r.TakenAt += vitals.Second
				r.ReceivedAt = r.TakenAt
				p.Observe(&r, &out)
			}
			if c.open != (len(out.Transitions) > 0) {
				b.Fatalf("%d transitions", len(out.Transitions))
			}
		})
	}
}

// go test ./alerting -run - -bench Memory
func BenchmarkPatientMemory(b *testing.B) {
	rs := mustRules(b)
	for _, alerts := range []bool{false, true} {
		b.Run(fmt.Sprintf("alert=%v", alerts), func(b *testing.B) {
			var ps []*Patient
			var out Decisions
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				p := NewPatient("P-1", rs)
				for n := range 20 {
					at := start + vitals.Micros(n)*vitals.Minute
					for _, r := range []vitals.Reading{
						{Indicator: vitals.HeartRate, Unit: vitals.PerMin, Has: 1, V: [6]float64{72}},
						{Indicator: vitals.BloodPressure, Unit: vitals.MmHg, Has: 0b1011, V: [6]float64{122, 78, 0, 66}},
						{Indicator: vitals.Weight, Unit: vitals.Kg, Has: 1, V: [6]float64{70}},
					} {
						if alerts && r.Indicator == vitals.HeartRate {
							r.V[0] = 160
						}
						r.TakenAt, r.ReceivedAt = at, at
						p.Observe(&r, &out)
					}
				}
				out = Decisions{}
				ps = append(ps, p)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(ps)), "B/patient")
			runtime.KeepAlive(ps)
		})
	}
}

// The hot path must not allocate, and a patient must stay small (issue: 2 KB at most, 500 B to reach for).
func TestPatient_IsSmallAndCalmReadingsDoNotAllocate(t *testing.T) {
	p := NewPatient("P-1", mustRules(t))
	var out Decisions
	r := vitals.Reading{Indicator: vitals.HeartRate, Unit: vitals.PerMin, Has: 1, V: [6]float64{72}, TakenAt: start}
	p.Observe(&r, &out)
	if n := testing.AllocsPerRun(1000, func() {
		r.TakenAt += vitals.Second
		r.ReceivedAt = r.TakenAt
		p.Observe(&r, &out)
	}); n != 0 {
		t.Errorf("a calm reading allocates %v times", n)
	}
}
