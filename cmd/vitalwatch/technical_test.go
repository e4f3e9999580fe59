package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"vitalwatch/internal/loadgen"
)

// TestTechnicalAlerts: a cuff says over MQTT that it failed, the server is killed, the message comes again, and a good
// reading ends the alert.
func TestTechnicalAlerts(t *testing.T) {
	s := startServer(t, "registration: open\n")
	s.Key = strings.TrimSpace(cli(t, s, "apikey", "create", "--name", "test", "--role", "admin"))
	publish := func(body string) {
		t.Helper()
		st, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: 1, Messages: 1, Device: func(int) string { return "cuff-1" },
			Payload: func(dst []byte, _, _ int) []byte { return append(dst, body...) }})
		if err != nil || st.Acked != 1 {
			t.Fatalf("%d acknowledged, %v", st.Acked, err)
		}
	}
	type item struct {
		alertJSON
		Kind     string `json:"kind"`
		Resolved string `json:"resolved_by"`
	}
	now := time.Now().UTC()
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339Nano) }
	reading := func(d time.Duration, systolic int) string {
		return fmt.Sprintf(`{"indicator":"blood_pressure","taken_at":%q,"values":{"systolic":%d,"diastolic":80},"unit":"mm[Hg]"}`, at(d), systolic)
	}
	publish(reading(-3*time.Minute, 121)) // the device and its model are known from here on
	cli(t, s, "device", "set", "cuff-1", "--model", "HEM-7322T")
	failed := fmt.Sprintf(`{"indicator":"blood_pressure","taken_at":%q,"error":{"code":"E1"}}`, at(-2*time.Minute))
	var first item
	waitFor(t, "the server to know the model", func() bool {
		var d struct {
			ModelID string `json:"model_id"`
		}
		get(t, s, "/api/v1/devices/cuff-1", &d)
		return d.ModelID == "omron-hem7"
	})
	publish(failed)
	waitFor(t, "a technical alert", func() bool {
		as := list[item](t, s, "/api/v1/alerts?state=open&kind=technical")
		if len(as) == 1 {
			first = as[0]
		}
		return len(as) == 1
	})
	if first.Kind != "technical" || first.Rule != "device_error/cuff/cuff-1" || first.Severity != "warning" || first.PatientID != "P-cuff-1" || len(first.Trigger.Values) != 0 {
		t.Errorf("alert %+v", first)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(failed)
	publish(strings.Replace(failed, at(-2*time.Minute), at(-time.Minute), 1)) // it fails again
	level(t, s)
	if as := list[item](t, s, "/api/v1/alerts?kind=technical"); len(as) != 1 || as[0].ID != first.ID || as[0].State != "open" {
		t.Fatalf("after a kill and a resend: %+v", as)
	}
	var detail struct {
		Error *struct {
			Code string            `json:"code"`
			Do   map[string]string `json:"do"`
		} `json:"error_guide"`
	}
	get(t, s, "/api/v1/alerts/"+first.ID, &detail)
	if detail.Error == nil || detail.Error.Code != "E1" || detail.Error.Do["zh-CN"] == "" || detail.Error.Do["en"] == "" {
		t.Errorf("what to do about E1: %+v", detail.Error)
	}
	var device struct {
		Last struct{ Class, Code, At string } `json:"last_error"`
	}
	get(t, s, "/api/v1/devices/cuff-1", &device)
	if device.Last.Class != "cuff" || device.Last.Code != "E1" || device.Last.At == "" {
		t.Errorf("the device shows %+v", device.Last)
	}
	var p struct {
		Worst     string `json:"worst_severity"`
		Open      int    `json:"open_alerts"`
		Technical int    `json:"technical_alerts"`
	}
	get(t, s, "/api/v1/patients/P-cuff-1", &p)
	if p.Worst != "none" || p.Open != 0 || p.Technical != 1 {
		t.Errorf("the patient shows %+v", p)
	}
	publish(reading(0, 122))
	waitFor(t, "the alert to end with a good reading", func() bool {
		as := list[item](t, s, "/api/v1/alerts?kind=technical&state=resolved")
		return len(as) == 1 && as[0].ID == first.ID && as[0].Resolved == "values"
	})
	level(t, s)
	if n := len(list[struct{}](t, s, "/api/v1/patients/P-cuff-1/readings?limit=100")); n != 2 {
		t.Errorf("%d readings, want the two that were measured", n)
	}
	if as := list[item](t, s, "/api/v1/alerts?kind=clinical"); len(as) != 0 {
		t.Errorf("clinical alerts: %+v", as)
	}
	m := metrics(t, s) // since the kill: two errors, one reading
	if m["vitalwatch_readings_received_total"] != 3 || m["vitalwatch_readings_accepted_total"] != 1 || m["vitalwatch_readings_quarantined_total"] != 2 {
		t.Errorf("received %v, accepted %v, quarantined %v", m["vitalwatch_readings_received_total"], m["vitalwatch_readings_accepted_total"], m["vitalwatch_readings_quarantined_total"])
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.HTTP+"/api/v1/readings?device=cuff-1", strings.NewReader(strings.Replace(failed, at(-2*time.Minute), at(time.Minute), 1)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	waitFor(t, "a new episode, by HTTP", func() bool {
		as := list[item](t, s, "/api/v1/alerts?kind=technical&state=open")
		return len(as) == 1 && as[0].ID != first.ID
	})
}
