package web_test

import (
	"encoding/json"
	"testing"
	"time"

	"vitalwatch/devices"
)

func TestCommands(t *testing.T) {
	h := buildDevices(t)
	h.add(devices.New{ID: "D-1", Patient: "P-1"})
	var sent struct{ ID string }
	until := h.clock.now().Add(time.Hour).UTC().Format(time.RFC3339)
	h.ask(202, "coach", "POST", "/api/v1/devices/D-1/commands", `{"cmd":"remeasure","text":{"zh-CN":"请再测一次"},"expires_at":"`+until+`"}`).into(t, &sent)
	var l list[struct {
		ID, State string
		Body      struct {
			Cmd       string
			Text      map[string]string
			ExpiresAt string `json:"expires_at"`
		}
	}]
	h.ask(200, "coach", "GET", "/api/v1/devices/D-1/commands", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].ID != sent.ID || l.Items[0].State != "waiting" || l.Items[0].Body.Text["zh-CN"] != "请再测一次" || l.Items[0].Body.ExpiresAt != until {
		t.Errorf("commands = %+v", l)
	}
	h.ask(400, "coach", "POST", "/api/v1/devices/D-1/commands", `{"cmd":"explode"}`)
	for _, bad := range []string{`{"cmd":"message"}`, `{"cmd":"remind","expires_at":"2001-01-01T00:00:00Z"}`} {
		h.ask(422, "coach", "POST", "/api/v1/devices/D-1/commands", bad)
	}
	h.ask(404, "coach", "POST", "/api/v1/devices/none/commands", `{"cmd":"remind"}`)
	h.ask(403, "viewer", "POST", "/api/v1/devices/D-1/commands", `{"cmd":"remind"}`)
	// Who may not see the person for whom it measures now sends nothing to their home.
	blue := h.login("blue coach", password)
	send := func() int {
		t.Helper()
		return h.do(blue, "POST", "/api/v1/devices/D-1/commands", "", `{"cmd":"remind"}`).StatusCode
	}
	if got := send(); got != 404 {
		t.Errorf("a coach of another team: %d", got)
	}
	h.ask(200, "admin", "POST", "/api/v1/devices/D-1/bind", `{"patient_id":"P-2"}`)
	if got := send(); got != 202 {
		t.Errorf("the coach of the person it measures for now: %d", got)
	}

	var c struct {
		Config       json.RawMessage
		Acknowledged bool
	}
	h.ask(200, "admin", "GET", "/api/v1/devices/D-1/config", "").into(t, &c)
	if string(c.Config) != "null" {
		t.Errorf("config = %s", c.Config)
	}
	h.ask(403, "coach", "POST", "/api/v1/devices/D-1/config", `{"config":{}}`)
	h.ask(200, "admin", "POST", "/api/v1/devices/D-1/config", `{"config":{"interval_s":300}}`).into(t, &c)
	if string(c.Config) != `{"interval_s":300}` || c.Acknowledged {
		t.Errorf("config = %s %v", c.Config, c.Acknowledged)
	}
	h.ask(200, "admin", "POST", "/api/v1/devices/D-1/config", `{"config":null}`).into(t, &c)
	if string(c.Config) != "null" {
		t.Errorf("config after taking it away = %s", c.Config)
	}
}
