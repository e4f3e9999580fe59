package web_test

import (
	"testing"
	"time"

	"vitalwatch/vitals"
)

func TestSessions(t *testing.T) {
	h := build(t, nil)
	var rs []vitals.Reading
	for i, v := range [][2]float64{{158, 92}, {141, 90}, {150, 88}, {148, 86}, {146, 90}} {
		minute := []int{-300, -299, -60, -59, -58}[i]
		rs = append(rs, vitals.Reading{Patient: "P-1", Device: "D-1", Indicator: vitals.BloodPressure, Unit: vitals.MmHg, Has: 0b11, V: [6]float64{v[0], v[1]}, DeviceSeq: -1,
			TakenAt: vitals.At(h.clock.now().Add(time.Duration(minute) * time.Minute))})
	}
	h.store(rs...)
	var l list[struct {
		Systolic, Diastolic float64
		Counted             int
		ThirdWanted         bool   `json:"third_wanted"`
		DeviceID            string `json:"device_id"`
		Readings            []struct{ Values map[string]float64 }
	}]
	h.ask(200, "coach", "GET", "/api/v1/patients/P-1/sessions", "").into(t, &l)
	if len(l.Items) != 2 || !l.Items[0].ThirdWanted || l.Items[1].ThirdWanted || l.Items[1].Systolic != 148 || l.Items[1].Diastolic != 88 || l.Items[1].DeviceID != "D-1" {
		t.Fatalf("sessions = %+v", l)
	}
	if len(l.Items[1].Readings) != 3 || l.Items[1].Readings[0].Values["systolic"] != 150 {
		t.Errorf("raw values = %+v", l.Items[1])
	}
	h.ask(200, "coach", "GET", "/api/v1/patients/P-1/sessions?drop_first=true", "").into(t, &l)
	if l.Items[1].Systolic != 147 || l.Items[1].Counted != 2 || len(l.Items[1].Readings) != 3 {
		t.Errorf("first reading dropped = %+v", l.Items[1])
	}
}
