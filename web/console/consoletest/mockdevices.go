package consoletest

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// waiting is a group of GET /unassigned.
type waiting struct {
	ID         string          `json:"id"`
	DeviceID   string          `json:"device_id"`
	UserSlot   int             `json:"user_slot"`
	Problem    string          `json:"problem"`
	PatientID  string          `json:"patient_id,omitempty"`
	Readings   int             `json:"readings"`
	Messages   int             `json:"messages"`
	Indicators []string        `json:"indicators"`
	FirstTaken string          `json:"first_taken_at"`
	LastTaken  string          `json:"last_taken_at"`
	LastAt     string          `json:"last_received_at"`
	Newest     json.RawMessage `json:"newest"`
}

type refused struct {
	ID      string `json:"id"`
	At      string `json:"at"`
	LastAt  string `json:"last_at"`
	Times   int    `json:"times"`
	Device  string `json:"device_id"`
	Format  string `json:"format"`
	Source  string `json:"source"`
	Bytes   int    `json:"payload_bytes"`
	Problem string `json:"problem"`
	Detail  string `json:"detail"`
	Refused int    `json:"refused"`
	payload []byte
	mended  bool // a replay takes it in
}

type command struct {
	ID          string          `json:"id"`
	Topic       string          `json:"topic"`
	State       string          `json:"state"`
	Body        json.RawMessage `json:"body"`
	CreatedAt   string          `json:"created_at"`
	ExpiresAt   string          `json:"expires_at,omitempty"`
	DeliveredAt string          `json:"delivered_at,omitempty"`
	AnsweredAt  string          `json:"answered_at,omitempty"`
	Result      string          `json:"result,omitempty"`
}

// deviceSide is what the mock knows of devices; Mock.mu guards it.
type deviceSide struct {
	waiting  []*waiting
	refused  []*refused
	devices  []map[string]any
	commands map[string][]command // newest first
	looks    int
	assigned []string
}

// Assigned lists the assignments done, each as "ID PATIENT FOR".
func (m *Mock) Assigned() []string { m.mu.Lock(); defer m.mu.Unlock(); return slices.Clone(m.assigned) }

// Looks counts how often the content of the quarantine was looked at.
func (m *Mock) Looks() int { m.mu.Lock(); defer m.mu.Unlock(); return m.looks }

// Commands lists what was sent to a device, as the bodies of the requests, newest first.
func (m *Mock) Commands(device string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, c := range m.commands[device] {
		out = append(out, string(c.Body))
	}
	return out
}

// Answer makes a device answer the newest command.
func (m *Mock) Answer(device, result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &m.commands[device][0]
	c.State, c.Result, c.AnsweredAt = "answered", result, stamp(m.now())
}

func (m *Mock) deviceScenario() {
	now := m.now()
	ago := func(d time.Duration) string { return stamp(now.Add(-d)) }
	newest := func(device, patient string, slot uint8, ind vitals.Indicator, unit vitals.Unit, d time.Duration, v ...float64) json.RawMessage {
		r := newReading("P-0", ind, unit, now.Add(-d), v...)
		r.Device, r.Patient, r.UserSlot = vitals.DeviceID(device), vitals.PatientID(patient), slot
		return vitals.AppendJSON(nil, &r)
	}
	m.waiting = []*waiting{
		{ID: "31-0", DeviceID: "scale-1004", Problem: "owner_doubtful", PatientID: "P-1004", Readings: 1, Messages: 1, Indicators: []string{"weight"},
			FirstTaken: ago(2 * time.Hour), LastTaken: ago(2 * time.Hour), LastAt: ago(2 * time.Hour), Newest: newest("scale-1004", "P-1004", 0, vitals.Weight, vitals.Kg, 2*time.Hour, 81.3)},
		{ID: "30-2", DeviceID: "cuff-1001", UserSlot: 2, Problem: "patient_unknown", Readings: 6, Messages: 4, Indicators: []string{"blood_pressure"},
			FirstTaken: ago(70 * time.Hour), LastTaken: ago(5 * time.Hour), LastAt: ago(5 * time.Hour), Newest: newest("cuff-1001", "", 2, vitals.BloodPressure, vitals.MmHg, 5*time.Hour, 128, 79, 68)},
		{ID: "29-255", DeviceID: "cuff-1001", UserSlot: 255, Problem: "patient_unknown", Readings: 1, Messages: 1, Indicators: []string{"blood_pressure"},
			FirstTaken: ago(29 * time.Hour), LastTaken: ago(29 * time.Hour), LastAt: ago(29 * time.Hour), Newest: newest("cuff-1001", "", 255, vitals.BloodPressure, vitals.MmHg, 29*time.Hour, 151, 93, 81)},
		{ID: "28-0", DeviceID: "BG-77A1", Problem: "device_unknown", Readings: 3, Messages: 3, Indicators: []string{"glucose"},
			FirstTaken: ago(50 * time.Hour), LastTaken: ago(26 * time.Hour), LastAt: ago(26 * time.Hour), Newest: newest("BG-77A1", "", 0, vitals.Glucose, vitals.MmolL, 26*time.Hour, 7.4)},
	}
	text := []byte(`{"indicator":"blood_pressure","taken_at":"2026-11-21T08:00:00+08:00","values":{"systolic":142,"diastolic":91},"unit":"mmhg?"}`)
	gatt := []byte{0x16, 0x8e, 0x00, 0x5b, 0x00, 0x6a, 0x00, 0xea, 0x07, 0x0b, 0x15, 0x08, 0x00, 0x00, 0x48, 0x00, 0xff, 0x04}
	m.refused = []*refused{
		{ID: "24", At: ago(4 * time.Minute), LastAt: ago(4 * time.Minute), Times: 1, Device: "bp-3", Format: "readings", Source: "mqtt", Bytes: len(text), Problem: "unit_unknown", Refused: 1,
			Detail: "the unit is not one of this indicator; send mm[Hg] or kPa", payload: text},
		{ID: "23", At: ago(40 * time.Minute), LastAt: ago(6 * time.Minute), Times: 12, Device: "cuff-1001", Format: "gatt/2A35", Source: "mqtt", Bytes: len(gatt), Problem: "characteristic_bad", Refused: 1,
			Detail: "the flags ask for more bytes than there are; send the characteristic whole", payload: gatt},
		{ID: "22", At: ago(30 * time.Hour), LastAt: ago(30 * time.Hour), Times: 1, Device: "cgm-7", Format: "readings", Source: "mqtt", Bytes: len(text), Problem: "clock_ahead", Refused: 3,
			Detail: "taken_at is more than 5 minutes ahead; set the device's clock", payload: text, mended: true},
	}
	bind := func(patient string, slot int, from, to time.Duration) map[string]any {
		b := map[string]any{"patient_id": patient, "user_slot": slot}
		if from > 0 {
			b["from"] = ago(from)
		}
		if to > 0 {
			b["to"] = ago(to)
		}
		return b
	}
	day := 24 * time.Hour
	m.devices = []map[string]any{
		{"id": "cuff-1001", "model": "HEM-7322T", "model_id": "omron-hem7", "serial": "20210900123", "tz": "Asia/Shanghai", "created_at": ago(200 * day), "disabled": false, "state": "online", "state_at": ago(3 * time.Minute),
			"battery": 64, "firmware": "1.2", "last_seen": ago(3 * time.Minute), "bindings": []any{bind("P-1008", 1, 0, 40*day), bind("P-1001", 1, 40*day, 0)},
			"gateways": []any{map[string]any{"gateway_id": "gw-north-1", "from": ago(40 * day)}}, "credentials": []any{}},
		{"id": "glucose-1002", "model": "", "serial": "", "created_at": ago(90 * day), "disabled": false, "bindings": []any{bind("P-1002", 0, 0, 0)}, "gateways": []any{}, "credentials": []any{}, "last_seen": ago(9 * time.Minute)},
		{"id": "gw-north-1", "model": "", "serial": "", "created_at": ago(90 * day), "disabled": false, "state": "online", "state_at": ago(day), "bindings": []any{}, "gateways": []any{}, "credentials": []any{}, "last_seen": ago(time.Minute)},
		{"id": "scale-1004", "model": "XMTZC05HM", "model_id": "xiaomi-scale", "serial": "", "created_at": ago(90 * day), "disabled": false, "state": "lost", "state_at": ago(28 * time.Hour), "battery": 8,
			"last_seen": ago(28 * time.Hour), "bindings": []any{bind("P-1004", 0, 0, 0)}, "gateways": []any{map[string]any{"gateway_id": "gw-north-1", "from": ago(40 * day)}}, "credentials": []any{}},
	}
	m.commands = map[string][]command{"cuff-1001": {
		{ID: "c-1", Topic: "cmd", State: "answered", Body: json.RawMessage(`{"id":"c-1","cmd":"remeasure","text":{"zh-CN":"请再测一次血压","en":"Please measure again"}}`), CreatedAt: ago(50 * time.Hour),
			DeliveredAt: ago(50 * time.Hour), AnsweredAt: ago(50*time.Hour - 3*time.Minute), Result: "done"},
	}}
}

func (m *Mock) deviceRoutes(handle func(pattern string, need bool, f func(w http.ResponseWriter, r *http.Request))) {
	// act is for those who are signed in; mu is held.
	act := func(pattern string, f func(w http.ResponseWriter, r *http.Request, in map[string]any)) {
		handle(pattern, true, func(w http.ResponseWriter, r *http.Request) {
			if m.user(r) == "" {
				refuse(w, http.StatusForbidden, "this role may not do that; ask an administrator for another")
				return
			}
			in := map[string]any{}
			if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&in) != nil {
				refuse(w, http.StatusBadRequest, "the body must be JSON")
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			f(w, r, in)
		})
	}
	read := func(pattern string, f func(w http.ResponseWriter, r *http.Request)) {
		handle(pattern, true, func(w http.ResponseWriter, r *http.Request) {
			m.mu.Lock()
			defer m.mu.Unlock()
			f(w, r)
		})
	}
	notFound := func(w http.ResponseWriter) {
		refuse(w, http.StatusNotFound, "there is no such thing, or it is not yours to see")
	}

	read("GET /api/v1/unassigned", func(w http.ResponseWriter, r *http.Request) {
		send(w, map[string]any{"items": append([]*waiting{}, m.waiting...)})
	})
	act("POST /api/v1/unassigned/{id}/assign", func(w http.ResponseWriter, r *http.Request, in map[string]any) {
		i := slices.IndexFunc(m.waiting, func(x *waiting) bool { return x.ID == r.PathValue("id") })
		who, _ := in["patient_id"].(string)
		scope, _ := in["for"].(string)
		if i < 0 || !slices.ContainsFunc(m.patients, func(p *patient) bool { return p.id == who }) {
			notFound(w)
			return
		}
		if scope != "this" && scope != "device_slot" || len(in) != 2 {
			refuse(w, http.StatusBadRequest, "for is this or device_slot")
			return
		}
		x := m.waiting[i]
		m.assigned = append(m.assigned, x.ID+" "+who+" "+scope)
		n := 1
		if scope == "device_slot" || x.Messages == 1 {
			n = x.Readings
			m.waiting = slices.Delete(m.waiting, i, i+1)
		} else {
			x.Readings--
			x.Messages--
		}
		send(w, map[string]any{"accepted": n, "duplicate": 0, "refused": 0, "messages": 1})
	})
	act("POST /api/v1/unassigned/{id}/dismiss", func(w http.ResponseWriter, r *http.Request, _ map[string]any) {
		i := slices.IndexFunc(m.waiting, func(x *waiting) bool { return x.ID == r.PathValue("id") })
		if i < 0 {
			notFound(w)
			return
		}
		if x := m.waiting[i]; x.Messages > 1 {
			x.Readings--
			x.Messages--
		} else {
			m.waiting = slices.Delete(m.waiting, i, i+1)
		}
		send(w, map[string]any{"accepted": 0, "duplicate": 0, "refused": 1, "messages": 1})
	})

	read("GET /api/v1/quarantine", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		items := []*refused{}
		for _, x := range m.refused {
			if (q.Get("device") == "" || q.Get("device") == x.Device) && (q.Get("problem") == "" || q.Get("problem") == x.Problem) {
				items = append(items, x)
			}
		}
		send(w, map[string]any{"items": items})
	})
	act("GET /api/v1/quarantine/{id}", func(w http.ResponseWriter, r *http.Request, _ map[string]any) {
		i := slices.IndexFunc(m.refused, func(x *refused) bool { return x.ID == r.PathValue("id") })
		if i < 0 {
			notFound(w)
			return
		}
		m.looks++
		x := m.refused[i]
		text := ""
		if x.Format == "readings" {
			text = string(x.payload)
		}
		send(w, struct {
			refused
			Payload string `json:"payload_base64"`
			Text    string `json:"payload_text,omitempty"`
		}{*x, base64.StdEncoding.EncodeToString(x.payload), text})
	})
	replay := func(ids ...string) map[string]any {
		accepted, again := 0, 0
		m.refused = slices.DeleteFunc(m.refused, func(x *refused) bool {
			if !slices.Contains(ids, x.ID) {
				return false
			}
			if x.mended {
				accepted += x.Refused
			} else {
				again += x.Refused
			}
			return x.mended
		})
		return map[string]any{"messages": len(ids), "accepted": accepted, "duplicate": 0, "quarantined": again}
	}
	act("POST /api/v1/quarantine/{id}/replay", func(w http.ResponseWriter, r *http.Request, _ map[string]any) { send(w, replay(r.PathValue("id"))) })
	act("POST /api/v1/quarantine/replay", func(w http.ResponseWriter, r *http.Request, in map[string]any) {
		var ids []string
		list, _ := in["ids"].([]any)
		for _, x := range list {
			id, _ := x.(string)
			ids = append(ids, id)
		}
		if len(ids) == 0 {
			refuse(w, http.StatusBadRequest, "say which messages")
			return
		}
		send(w, replay(ids...))
	})

	read("GET /api/v1/models", func(w http.ResponseWriter, r *http.Request) {
		send(w, map[string]any{"items": []any{
			map[string]any{"id": "omron-hem7", "name": map[string]string{"zh-CN": "欧姆龙 HEM-7 系列上臂式血压计", "en": "Omron HEM-7 series"}},
			map[string]any{"id": "xiaomi-scale", "name": map[string]string{"zh-CN": "小米体脂秤", "en": "Xiaomi scale"}},
		}})
	})
	read("GET /api/v1/devices", func(w http.ResponseWriter, r *http.Request) {
		items := []any{}
		for _, d := range m.devices {
			p := r.URL.Query().Get("patient")
			b, _ := json.Marshal(d["bindings"])
			if p == "" || strings.Contains(string(b), strconv.Quote(p)) {
				items = append(items, d)
			}
		}
		send(w, map[string]any{"items": items})
	})
	device := func(f func(w http.ResponseWriter, r *http.Request, d map[string]any)) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			i := slices.IndexFunc(m.devices, func(d map[string]any) bool { return d["id"] == r.PathValue("id") })
			if i < 0 {
				notFound(w)
				return
			}
			f(w, r, m.devices[i])
		}
	}
	read("GET /api/v1/devices/{id}", device(func(w http.ResponseWriter, r *http.Request, d map[string]any) { send(w, d) }))
	read("GET /api/v1/devices/{id}/status", device(func(w http.ResponseWriter, r *http.Request, d map[string]any) {
		items := []any{}
		if d["state"] != nil {
			now := m.now()
			items = append(items, map[string]any{"at": d["state_at"], "state": d["state"], "battery": d["battery"], "firmware": d["firmware"]},
				map[string]any{"at": stamp(now.Add(-31 * time.Hour)), "state": "lost", "battery": 71, "firmware": "1.2"},
				map[string]any{"at": stamp(now.Add(-49 * time.Hour)), "state": "online", "battery": 71})
		}
		send(w, map[string]any{"items": items})
	}))
	read("GET /api/v1/devices/{id}/guide", device(func(w http.ResponseWriter, r *http.Request, d map[string]any) { send(w, guide(d)) }))
	read("GET /api/v1/devices/{id}/commands", device(func(w http.ResponseWriter, r *http.Request, d map[string]any) {
		send(w, map[string]any{"items": append([]command{}, m.commands[r.PathValue("id")]...)})
	}))
	act("POST /api/v1/devices/{id}/commands", func(w http.ResponseWriter, r *http.Request, in map[string]any) {
		texts, _ := in["text"].(map[string]any)
		if in["cmd"] != "remeasure" || texts["zh-CN"] == nil || texts["en"] == nil {
			refuse(w, http.StatusBadRequest, "a remeasure with texts")
			return
		}
		m.n++
		id, _ := in["id"].(string)
		if id == "" {
			id = "c" + strconv.Itoa(m.n)
		}
		body, _ := json.Marshal(in)
		expires, _ := in["expires_at"].(string)
		dev := r.PathValue("id")
		m.commands[dev] = append([]command{{ID: id, Topic: "cmd", State: "waiting", Body: body, CreatedAt: stamp(m.now()), ExpiresAt: expires}}, m.commands[dev]...)
		w.WriteHeader(http.StatusAccepted)
		send(w, map[string]any{"id": id})
	})
	read("GET /api/v1/patients/{id}/sessions", func(w http.ResponseWriter, r *http.Request) {
		items := []any{}
		for _, p := range m.patients {
			if p.id != r.PathValue("id") {
				continue
			}
			var last []*vitals.Reading
			for i := range p.readings {
				if p.readings[i].Indicator == vitals.BloodPressure {
					last = append(last, &p.readings[i])
				}
			}
			for _, x := range last[max(0, len(last)-3):] {
				items = append(items, map[string]any{"from": stamp(x.TakenAt.Time()), "to": stamp(x.TakenAt.Time()), "device_id": string(x.Device), "systolic": x.V[0] + 0.5, "diastolic": x.V[1],
					"pulse": 71.5, "counted": 2, "third_wanted": x == last[len(last)-1], "readings": []json.RawMessage{vitals.AppendJSON(nil, x), vitals.AppendJSON(nil, x)}})
			}
		}
		send(w, map[string]any{"items": items})
	})
}

func guide(d map[string]any) map[string]any {
	g := map[string]any{"device_id": d["id"], "indicators": []string{}, "sections": []any{}, "errors": []any{}, "faults": []any{}}
	if d["model_id"] != "omron-hem7" {
		return g
	}
	g["model_id"], g["indicators"] = d["model_id"], []string{"blood_pressure"}
	g["sections"] = []any{
		map[string]any{"topic": "preparation", "steps": map[string][]string{"zh-CN": {"测量前30分钟内不吸烟、不喝咖啡。", "测量前排空膀胱。"}, "en": {"No smoking or coffee in the 30 minutes before.", "Empty your bladder first."}}},
		map[string]any{"topic": "positioning", "steps": map[string][]string{"zh-CN": {"坐在有靠背的椅子上，双脚平放，袖带与心脏同高。"}, "en": {"Sit with your back supported, cuff at heart level."}}},
		map[string]any{"topic": "repeats", "steps": map[string][]string{"zh-CN": {"每次测量2遍，间隔1分钟；相差超过10 mmHg时再测第3遍。"}, "en": {"Measure twice, one minute apart; a third time when they differ by more than 10 mmHg."}}},
	}
	g["errors"] = []any{map[string]any{"code": "E2", "class": "cuff", "means": map[string]string{"zh-CN": "袖带未绑好或测量中移动", "en": "cuff wrapped wrongly or movement"},
		"do": map[string]string{"zh-CN": "重新绑好袖带，静坐后重测", "en": "wrap the cuff again and sit still"}, "source": "manual", "verified": false}}
	g["faults"] = []any{map[string]any{"text": map[string]string{"zh-CN": "设备时钟可能偏差数分钟。", "en": "The clock may be minutes off."}, "source": "issues", "verified": true}}
	return g
}
