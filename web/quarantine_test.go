package web_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"

	"vitalwatch/devices"
)

// What devices sent before they were known is found, looked at, and taken in all at once after the cause is mended.
func TestQuarantine_FindLookReplay(t *testing.T) {
	h := buildDevices(t)
	const other = "\xff\x00 no JSON"
	for i := range 7 {
		h.send("D-1", h.taken(i, 70, 0))
		h.send("D-2", h.taken(i, 70, 0))
	}
	h.send("D-1", other)
	type item struct {
		ID, Problem, Text string
		Payload           string `json:"payload_base64"`
		Body              string `json:"payload_text"`
		DeviceID          string `json:"device_id"`
	}
	var all []item
	for cursor := ""; ; {
		var l list[item]
		h.ask(200, "coach", "GET", "/api/v1/quarantine?limit=3&device=D-1"+cursor, "").into(t, &l)
		all = append(all, l.Items...)
		if l.Next == "" {
			break
		}
		cursor = "&cursor=" + l.Next
	}
	if len(all) != 8 || all[0].DeviceID != "D-1" {
		t.Fatalf("%d messages of D-1: %+v", len(all), all)
	}
	var q item
	h.ask(200, "coach", "GET", "/api/v1/quarantine/"+all[0].ID, "").into(t, &q)
	if b, err := base64.StdEncoding.DecodeString(q.Payload); err != nil || string(b) != other || q.Body != "" {
		t.Errorf("content = %+v", q)
	}
	h.ask(200, "coach", "GET", "/api/v1/quarantine/"+all[1].ID, "").into(t, &q)
	if q.Body == "" {
		t.Error("text is not shown as text")
	}
	h.ask(404, "coach", "GET", "/api/v1/quarantine/999999", "")
	h.ask(403, "viewer", "GET", "/api/v1/quarantine/"+all[0].ID, "")

	// The cause is mended for one device.
	h.add(devices.New{ID: "D-1", Patient: "P-1"})
	type outcome struct {
		Messages, Accepted, Duplicate, Quarantined int
		Next                                       string `json:"next_cursor"`
	}
	var o outcome
	h.ask(200, "coach", "POST", "/api/v1/quarantine/replay", `{"device_id":"D-1","problem":"device_unknown"}`).into(t, &o)
	if o != (outcome{Messages: 8, Accepted: 7, Quarantined: 1}) {
		t.Errorf("replayed = %+v", o)
	}
	var l list[item]
	h.ask(200, "coach", "GET", "/api/v1/quarantine?device=D-1", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].ID != all[0].ID {
		t.Errorf("left of D-1 = %+v", l.Items)
	}
	h.ask(200, "coach", "GET", "/api/v1/quarantine?device=D-2", "").into(t, &l)
	if len(l.Items) != 7 {
		t.Errorf("left of D-2 = %+v", l.Items)
	}
	h.ask(200, "coach", "POST", "/api/v1/quarantine/replay", fmt.Sprintf(`{"ids":[%q,"999999"]}`, l.Items[0].ID)).into(t, &o)
	if o != (outcome{Messages: 1, Quarantined: 1}) {
		t.Errorf("replayed by id = %+v", o)
	}
	for _, bad := range []string{`{}`, `{"ids":["1"],"device_id":"D-1"}`, `{"ids":["x"]}`} {
		if a := h.do(http.DefaultClient, "POST", "/api/v1/quarantine/replay", h.keys["coach"], bad); a.StatusCode/100 != 4 {
			t.Errorf("%s: %d", bad, a.StatusCode)
		}
	}
}
