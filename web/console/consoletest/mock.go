// Package consoletest lets tests drive the console in a real browser: a mock server with a small scenario, a line to
// a server that can be cut, and the journey of a coach that runs against the mock or a real server alike.
//
// Concurrency: a Mock and a Line may be used by any goroutine.
package consoletest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
	"vitalwatch/web/console"
	"vitalwatch/web/feed"
)

// The mock's one account.
const (
	MockName     = "coach.li"
	MockPassword = "correct horse"
)

type transition struct {
	At         string            `json:"at"`
	Transition alerting.Kind     `json:"transition"`
	Severity   alerting.Severity `json:"severity"`
	Actor      string            `json:"actor,omitempty"`
	Note       string            `json:"note,omitempty"`
	Outcome    string            `json:"outcome,omitempty"`
	Until      string            `json:"until,omitempty"`
	Trigger    *alerting.Trigger `json:"trigger,omitempty"`
}

type patient struct {
	id, name   string
	conditions []string
	readings   []vitals.Reading // by time
	unwatched  string           // indicator
}

// Mock answers the console's requests from memory, with the real feed hub.
type Mock struct {
	hub *feed.Hub
	mux *http.ServeMux

	mu        sync.Mutex
	now       func() time.Time
	patients  []*patient
	alerts    map[string]*alerting.Alert
	order     []string
	history   map[string][]transition
	events    []feed.Event
	keys      map[string][]byte // idempotency
	acts      int               // that had an effect
	sessions  map[string]bool
	tickets   map[string]bool
	anonymous bool
	ended     bool // feeds of before are not renewed
	fail      int  // answers of acts to fail before doing them
	n         int
	deviceSide
}

// NewMock builds the scenario around now(). Close it.
func NewMock(now func() time.Time, heartbeat time.Duration) (*Mock, error) {
	m := &Mock{now: now, alerts: map[string]*alerting.Alert{}, history: map[string][]transition{}, keys: map[string][]byte{},
		sessions: map[string]bool{}, tickets: map[string]bool{}, anonymous: true}
	m.people()
	m.deviceScenario()
	var err error
	m.hub, err = feed.New(feed.Options{History: (*history)(m), Auth: (*auth)(m), Heartbeat: heartbeat, Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	m.routes()
	m.scenario()
	return m, nil
}

// Close ends the feed.
func (m *Mock) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	return m.hub.Shutdown(ctx)
}

// Acts counts the acts that had an effect; a repeated Idempotency-Key has none.
func (m *Mock) Acts() int { m.mu.Lock(); defer m.mu.Unlock(); return m.acts }

// LoseAnswers makes the next n acts take effect and lose their answer, as a broken line does.
func (m *Mock) LoseAnswers(n int) { m.mu.Lock(); defer m.mu.Unlock(); m.fail = n }

// SetAnonymous turns reading without signing in on or off.
func (m *Mock) SetAnonymous(on bool) { m.mu.Lock(); defer m.mu.Unlock(); m.anonymous = on }

// EndSessions signs everybody out and ends their feeds.
func (m *Mock) EndSessions() {
	m.mu.Lock()
	m.sessions = map[string]bool{}
	m.ended = true
	m.mu.Unlock()
	m.hub.Reauthorise()
}

// ServeHTTP sends the same headers as the product.
func (m *Mock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", console.ContentSecurityPolicy)
	m.mux.ServeHTTP(w, r)
}

func (m *Mock) routes() {
	m.mux = http.NewServeMux()
	m.mux.Handle("/", console.Handler())
	m.mux.Handle("GET /api/v1/feed", m.hub)
	handle := func(pattern string, need bool, f func(w http.ResponseWriter, r *http.Request)) {
		m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			m.mu.Lock()
			open := m.anonymous
			m.mu.Unlock()
			if need && m.user(r) == "" && !open {
				refuse(w, http.StatusUnauthorized, "sign in first")
				return
			}
			f(w, r)
		})
	}
	handle("POST /api/v1/session", false, m.login)
	handle("GET /api/v1/session", true, func(w http.ResponseWriter, r *http.Request) {
		name := m.user(r)
		role := "coach"
		if name == "" {
			role = "viewer"
		}
		send(w, map[string]any{"name": name, "role": role, "anonymous": name == "", "teams": []string{}})
	})
	handle("DELETE /api/v1/session", false, func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "vw_mock", Path: "/", MaxAge: -1})
		w.WriteHeader(http.StatusNoContent)
	})
	handle("POST /api/v1/feed/ticket", true, func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.n++
		t := "t" + strconv.Itoa(m.n)
		m.tickets[t] = true
		m.mu.Unlock()
		send(w, map[string]any{"ticket": t})
	})
	handle("GET /api/v1/patients", true, func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		// Two pages, so that paging is used.
		half := len(m.patients) / 2
		list, next := m.patients[:half], "2"
		if r.URL.Query().Get("cursor") == "2" {
			list, next = m.patients[half:], ""
		}
		items := []any{}
		for _, p := range list {
			items = append(items, m.patient(p))
		}
		send(w, map[string]any{"items": items, "next_cursor": next})
	})
	one := func(f func(w http.ResponseWriter, r *http.Request, p *patient)) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range m.patients {
				if p.id == r.PathValue("id") {
					f(w, r, p)
					return
				}
			}
			refuse(w, http.StatusNotFound, "there is no such thing, or it is not yours to see")
		}
	}
	handle("GET /api/v1/patients/{id}", true, one(func(w http.ResponseWriter, r *http.Request, p *patient) { send(w, m.patient(p)) }))
	handle("GET /api/v1/patients/{id}/readings", true, one(m.readings))
	handle("GET /api/v1/patients/{id}/trends", true, one(trend))
	handle("GET /api/v1/patients/{id}/thresholds", true, one(func(w http.ResponseWriter, r *http.Request, p *patient) {
		send(w, map[string]any{"items": thresholds(p)})
	}))
	handle("GET /api/v1/patients/{id}/findings", true, one(func(w http.ResponseWriter, r *http.Request, p *patient) {
		items := []any{}
		if p.id == "P-1002" {
			at := m.now().Add(-50 * time.Hour)
			items = append(items, map[string]any{"rule": "glucose_high", "condition": "type2_diabetes", "day": at.UTC().Format(time.DateOnly), "severity": "warning",
				"title": map[string]string{"zh-CN": "血糖偏高", "en": "High glucose"}, "first": stamp(at), "last": stamp(at.Add(40 * time.Minute)), "readings": 9, "worst_reading_id": "x"})
		}
		send(w, map[string]any{"items": items})
	}))
	handle("GET /api/v1/alerts", true, m.listAlerts)
	handle("GET /api/v1/alerts/{id}", true, func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		a := m.alerts[r.PathValue("id")]
		if a == nil {
			refuse(w, http.StatusNotFound, "there is no such thing, or it is not yours to see")
			return
		}
		send(w, struct {
			alerting.Alert
			History []transition `json:"history"`
		}{*a, m.history[a.ID]})
	})
	handle("POST /api/v1/alerts/{id}/{act}", true, m.act)
	m.deviceRoutes(handle)
}

func (m *Mock) user(r *http.Request) string {
	c, err := r.Cookie("vw_mock")
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || !m.sessions[c.Value] {
		return ""
	}
	return MockName
}

func (m *Mock) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ Name, Password string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Name != MockName || in.Password != MockPassword {
		refuse(w, http.StatusUnauthorized, "name or password is wrong")
		return
	}
	m.mu.Lock()
	m.n++
	token := "s" + strconv.Itoa(m.n)
	m.sessions[token] = true
	m.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: "vw_mock", Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	send(w, map[string]any{"name": MockName, "role": "coach", "anonymous": false})
}

func (m *Mock) act(w http.ResponseWriter, r *http.Request) {
	name, key := m.user(r), r.Header.Get("Idempotency-Key")
	if name == "" {
		refuse(w, http.StatusForbidden, "this role may not do that; ask an administrator for another")
		return
	}
	var in struct {
		Note, Outcome string
		Minutes       int
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || key == "" {
		refuse(w, http.StatusBadRequest, "the body must be JSON and the Idempotency-Key be there")
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.keys[key]; ok {
		w.Header().Set("Content-Type", "application/json")
		w.Write(b)
		return
	}
	a := m.alerts[r.PathValue("id")]
	if a == nil || a.State == alerting.Resolved {
		refuse(w, http.StatusConflict, "the alert is resolved")
		return
	}
	at := stamp(m.now())
	t := transition{At: at, Severity: a.Severity, Actor: name, Note: in.Note, Outcome: in.Outcome}
	switch r.PathValue("act") {
	case "acknowledge":
		a.State, a.AcknowledgedBy, a.AcknowledgedAt, t.Transition = alerting.Acknowledged, alerting.OrNull(name), at, alerting.AcknowledgedBy
	case "snooze":
		a.SnoozedUntil, t.Transition = alerting.OrNull(stamp(m.now().Add(time.Duration(in.Minutes)*time.Minute))), alerting.Snoozed
		t.Until = string(a.SnoozedUntil)
	case "resolve":
		a.State, a.ResolvedAt, a.ResolvedBy, a.Outcome, t.Transition = alerting.Resolved, alerting.OrNull(at), name, in.Outcome, alerting.ResolvedBy
	case "notes":
		t.Transition = alerting.Noted
	}
	m.commit(a, t)
	m.acts++
	b, _ := json.Marshal(a)
	m.keys[key] = b
	if m.fail > 0 {
		m.fail--
		// Done, but nobody hears it. A browser silently repeats a request that got no byte of an answer, so the line
		// breaks within it.
		w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
		w.Header().Set("Content-Type", "application/json")
		w.Write(b[:1])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

// commit records a transition and tells the feed; mu is held.
func (m *Mock) commit(a *alerting.Alert, t transition) {
	a.Seq = uint64(len(m.events) + 1)
	a.UpdatedAt = t.At
	m.history[a.ID] = append(m.history[a.ID], t)
	at, _ := time.Parse(time.RFC3339Nano, t.At)
	e := feed.Event{Seq: a.Seq, Patient: string(a.PatientID), Kind: string(t.Transition), At: at, Actor: t.Actor, Alert: *a}
	m.events = append(m.events, e)
	m.hub.Publish(e)
}

func (m *Mock) listAlerts(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	m.mu.Lock()
	defer m.mu.Unlock()
	items := []any{}
	for _, id := range slices.Backward(m.order) {
		a := m.alerts[id]
		resolved := a.State == alerting.Resolved
		if q.Get("state") == "open" && resolved || q.Get("state") == "resolved" && !resolved || q.Get("patient") != "" && q.Get("patient") != string(a.PatientID) {
			continue
		}
		items = append(items, a)
	}
	send(w, map[string]any{"items": items})
}

func (m *Mock) readings(w http.ResponseWriter, r *http.Request, p *patient) {
	q := r.URL.Query()
	from, err1 := time.Parse(time.RFC3339Nano, q.Get("from"))
	to, err2 := time.Parse(time.RFC3339Nano, q.Get("to"))
	limit, err3 := strconv.Atoi(q.Get("limit"))
	if err1 != nil || err2 != nil || err3 != nil {
		refuse(w, http.StatusBadRequest, "from, to and limit")
		return
	}
	skip, _ := strconv.Atoi(q.Get("cursor")) // none: 0
	items, next, n := []json.RawMessage{}, "", 0
	for i := range p.readings {
		x := &p.readings[i]
		if at := x.TakenAt.Time(); at.Before(from) || !at.Before(to) || q.Get("indicator") != "" && q.Get("indicator") != x.Indicator.String() {
			continue
		}
		if n++; n <= skip {
			continue
		}
		if len(items) == limit {
			next = strconv.Itoa(n - 1)
			break
		}
		items = append(items, vitals.AppendJSON(nil, x))
	}
	send(w, map[string]any{"items": items, "next_cursor": next})
}

func (m *Mock) patient(p *patient) map[string]any {
	worst, open := alerting.None, 0
	signal := "live"
	for _, a := range m.alerts {
		if string(a.PatientID) != p.id || a.State == alerting.Resolved {
			continue
		}
		open++
		worst = max(worst, a.Severity)
		if a.Signal == "lost" {
			signal = "lost"
		}
	}
	v := map[string]any{"id": p.id, "name": p.name, "conditions": p.conditions, "worst_severity": worst.String(), "open_alerts": open, "signal": signal, "last_reading": nil}
	if n := len(p.readings); n > 0 {
		v["last_reading"] = json.RawMessage(vitals.AppendJSON(nil, &p.readings[n-1]))
	}
	seen := map[string]bool{}
	cov := []any{}
	for i := range slices.Backward(p.readings) {
		ind := p.readings[i].Indicator.String()
		if !seen[ind] {
			seen[ind] = true
			c := map[string]any{"indicator": ind, "watched": ind != p.unwatched, "since": stamp(p.readings[i].TakenAt.Time())}
			if ind == p.unwatched {
				c["why"] = "no_recent_reading"
			}
			cov = append(cov, c)
		}
	}
	v["coverage"] = cov
	return v
}

// Measure adds a reading taken now and tells the feed.
func (m *Mock) Measure(patientID string, ind vitals.Indicator, unit vitals.Unit, v ...float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.patients {
		if p.id == patientID {
			r := newReading(p.id, ind, unit, m.now(), v...)
			p.readings = append(p.readings, r)
			m.hub.Reading(p.id, ind.String(), vitals.AppendJSON(nil, &r))
		}
	}
}

// Raise opens an alert on the newest reading of an indicator and returns its id.
func (m *Mock) Raise(patientID string, sev alerting.Severity, rule string, title alerting.Text, ago time.Duration, r vitals.Reading) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := stamp(m.now().Add(-ago))
	id := fmt.Sprintf("A-%04d", len(m.order)+1)
	values := map[string]float64{}
	for _, c := range r.Indicator.Components() {
		if v, ok := r.Value(c); ok {
			values[c.String()] = v
		}
	}
	tr := alerting.Trigger{ReadingID: r.ID(), Indicator: r.Indicator.String(), Values: values, Unit: r.Unit.String(), TakenAt: stamp(r.TakenAt.Time()), ReceivedAt: stamp(r.ReceivedAt.Time()), DeviceID: string(r.Device)}
	a := &alerting.Alert{ID: id, PatientID: vitals.PatientID(patientID), Rule: alerting.RuleID(rule), Condition: "general", Severity: sev, State: alerting.Open, Signal: "live",
		OpenedAt: at, Title: title, Trigger: tr, Explanation: explain(rule, sev, title, &r)}
	m.alerts[id] = a
	m.order = append(m.order, id)
	m.commit(a, transition{At: at, Transition: alerting.Opened, Severity: sev, Trigger: &tr})
	return id
}

// Change alters an alert and tells the feed.
func (m *Mock) Change(id string, kind alerting.Kind, f func(*alerting.Alert)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.alerts[id]
	f(a)
	m.commit(a, transition{At: stamp(m.now()), Transition: kind, Severity: a.Severity})
}

func explain(rule string, sev alerting.Severity, title alerting.Text, r *vitals.Reading) json.RawMessage {
	comp, op, pairs, unit := "value", ">=", map[string]float64{}, r.Unit.String()
	switch r.Indicator {
	case vitals.Glucose:
		op, pairs = "<", map[string]float64{"mg/dL": 54, "mmol/L": 3}
	case vitals.BloodPressure:
		comp, pairs = "systolic", map[string]float64{"mm[Hg]": 180, "kPa": 24}
	case vitals.SpO2:
		op, pairs = "<", map[string]float64{"%": 90}
	default:
		pairs[unit] = 110
	}
	line := map[string]any{"component": comp, "op": op, "threshold": pairs[unit], "unit": unit, "pairs": pairs, "beyond": true, "source": map[string]any{"text": "中国高血压防治指南 2024", "mark": "V1"}}
	b, _ := json.Marshal(map[string]any{
		"rule": rule, "pack": map[string]any{"name": "general", "version": "1.0.0", "guideline": "cn"}, "decided": "opened", "severity": sev,
		"level":    map[string]any{"severity": sev, "all": false, "lines": []any{line}, "repeat": 2, "within": "5m"},
		"readings": []json.RawMessage{vitals.AppendJSON(nil, r)}, "reasons": []string{"repeat_within"},
		"clear": map[string]any{"lines": []any{}, "count": 2}, "suspect_policy": "confirm",
		"text":       map[string]string{"zh-CN": title["zh-CN"] + "：读数越过阈值，5分钟内复测仍越线。", "en": title["en"] + ": the reading is beyond the line, again within 5m."},
		"advice":     map[string]string{"zh-CN": "请立即联系用户，询问症状；如有胸痛、气促，请立即拨打120。", "en": "Call now and ask about symptoms; with chest pain or breathlessness, call emergency services."},
		"clear_text": map[string]string{"zh-CN": "连续2次恢复到阈值以内后自动解除。", "en": "Ends after 2 measurements in a row within the line."},
		"source":     map[string]any{"text": "中国高血压防治指南 2024", "mark": "V1"}, "person_threshold": false,
	})
	return b
}

func thresholds(p *patient) []any {
	t := func(rule, ind, comp, sev, op, source, zh, en string, v map[string]float64) any {
		return map[string]any{"rule": rule, "condition": "general", "indicator": ind, "component": comp, "severity": sev, "op": op, "thresholds": v, "source": source, "title": map[string]string{"zh-CN": zh, "en": en}}
	}
	mm := func(v float64) map[string]float64 { return map[string]float64{"mm[Hg]": v} }
	g := func(mmol, mg float64) map[string]float64 { return map[string]float64{"mmol/L": mmol, "mg/dL": mg} }
	cn := "中国高血压防治指南 2024"
	ada := "ADA Standards of Care 2024"
	return []any{
		t("bp_very_high", "blood_pressure", "systolic", "critical", ">=", cn, "血压极高", "Very high blood pressure", mm(180)),
		t("bp_high", "blood_pressure", "systolic", "warning", ">=", cn, "血压偏高", "High blood pressure", mm(135)),
		t("bp_high", "blood_pressure", "diastolic", "warning", ">=", cn, "血压偏高", "High blood pressure", mm(85)),
		t("bp_very_high", "blood_pressure", "diastolic", "critical", ">=", cn, "血压极高", "Very high blood pressure", mm(110)),
		t("glucose_low_2", "glucose", "value", "critical", "<", ada, "低血糖2级", "Hypoglycaemia level 2", g(3.0, 54)),
		t("glucose_low", "glucose", "value", "warning", "<", ada, "低血糖1级", "Hypoglycaemia level 1", g(3.9, 70)),
		t("glucose_high", "glucose", "value", "warning", ">", ada, "血糖偏高", "High glucose", g(13.9, 250)),
		t("hr_high", "heart_rate", "value", "warning", ">", "NEWS2", "心率过快", "Fast heart rate", map[string]float64{"/min": 110}),
		t("spo2_low", "spo2", "value", "critical", "<", "BTS 2017", "血氧过低", "Low oxygen saturation", map[string]float64{"%": 90}),
	}
}

func trend(w http.ResponseWriter, r *http.Request, p *patient) {
	ind := r.URL.Query().Get("indicator")
	var v []float64
	unit := ""
	for i := range p.readings {
		if x := &p.readings[i]; x.Indicator.String() == ind {
			v = append(v, vitals.ToCanonical(x.Indicator, x.Unit, x.V[0]))
			unit = x.Indicator.Canonical().String()
		}
	}
	if len(v) == 0 {
		send(w, map[string]any{"indicator": ind, "unit": unit, "n": 0, "sufficient": false, "state": "insufficient", "reason": "no_readings", "metrics": map[string]any{}})
		return
	}
	sum, sq := 0.0, 0.0
	for _, x := range v {
		sum += x
	}
	mean := sum / float64(len(v))
	for _, x := range v {
		sq += (x - mean) * (x - mean)
	}
	sd := math.Sqrt(sq / float64(max(1, len(v)-1)))
	metrics := map[string]any{"mean": mean, "sd": sd, "cv": 100 * sd / mean, "min": slices.Min(v), "max": slices.Max(v), "days": 14}
	if ind == "glucose" {
		metrics["gmi"], metrics["time_in_range"], metrics["below_70"], metrics["above_180"], metrics["conga_1"], metrics["mage"] = 3.31+0.02392*mean, 74.2, 2.1, 23.7, 21.4, 60.2
	}
	if ind == "blood_pressure" {
		metrics = map[string]any{"systolic_mean": mean, "systolic_sd": sd, "diastolic_mean": 86.3, "load": 41.2, "protocol_systolic_mean": mean, "protocol_diastolic_mean": 86.0}
	}
	send(w, map[string]any{"version": 1, "indicator": ind, "unit": unit, "n": len(v), "sufficient": len(v) > 30, "state": map[bool]string{true: "complete", false: "insufficient"}[len(v) > 30], "reason": map[bool]string{false: "few_days"}[len(v) > 30], "metrics": metrics})
}

func newReading(id string, ind vitals.Indicator, unit vitals.Unit, at time.Time, v ...float64) vitals.Reading {
	r := vitals.Reading{Patient: vitals.PatientID(id), Device: vitals.DeviceID(strings.ToLower(ind.String()) + "-" + id[2:]), Indicator: ind, Unit: unit,
		TakenAt: vitals.At(at), ReceivedAt: vitals.At(at.Add(900 * time.Millisecond)), OffsetMin: vitals.NoOffset, DeviceSeq: -1}
	cs := ind.Components()
	if ind == vitals.BloodPressure {
		cs = []vitals.Component{vitals.Systolic, vitals.Diastolic, vitals.Pulse}
	}
	for i, x := range v {
		r.Set(cs[i], x)
	}
	return r
}

// people makes the patients and two weeks of their readings, the same for the same now.
func (m *Mock) people() {
	now := m.now()
	rnd := rand.New(rand.NewPCG(7, 11))
	around := func(mean, sd float64) float64 { return math.Round(mean + sd*rnd.NormFloat64()) }
	add := func(id, name string, conditions ...string) *patient {
		p := &patient{id: id, name: name, conditions: conditions}
		m.patients = append(m.patients, p)
		return p
	}
	bp := func(p *patient, sys, dia float64) {
		for d := 14 * 24 * time.Hour; d > 0; d -= 12 * time.Hour {
			r := newReading(p.id, vitals.BloodPressure, vitals.MmHg, now.Add(-d+time.Duration(rnd.IntN(90))*time.Minute), around(sys, 9), around(dia, 6), around(74, 6))
			switch int(d/(12*time.Hour)) % 7 { // one of each kind among the last three days
			case 3:
				r.Freshness, r.Flags = vitals.Backfill, vitals.FromMemory
				r.ReceivedAt += 30 * vitals.Hour
			case 2:
				r.Quality, r.Flags = vitals.Suspect, vitals.CuffLoose
			case 5:
				r.Quality, r.Flags = vitals.Invalid, vitals.Voided
			}
			p.readings = append(p.readings, r)
		}
	}
	cgm := func(p *patient, unit vitals.Unit, mean float64) {
		for d := 14 * 24 * time.Hour; d > 0; d -= 5 * time.Minute {
			h := float64(d) / float64(time.Hour)
			if h > 30 && h < 36 { // the sensor was off
				continue
			}
			v := mean + 38*math.Sin(h*0.55) + 22*math.Sin(h*1.9) + 6*rnd.NormFloat64()
			v = max(48, v)
			if unit == vitals.MmolL {
				v = math.Round(v/vitals.MgPerMmolGlucose*10) / 10
			}
			p.readings = append(p.readings, newReading(p.id, vitals.Glucose, unit, now.Add(-d), math.Round(v*10)/10))
		}
	}
	heart := func(p *patient, mean float64) {
		for d := 3 * 24 * time.Hour; d > 0; d -= 10 * time.Minute {
			p.readings = append(p.readings, newReading(p.id, vitals.HeartRate, vitals.PerMin, now.Add(-d), around(mean+8*math.Sin(float64(d)/float64(3*time.Hour)), 3)))
		}
	}
	p := add("P-1001", "王建国", "hypertension")
	bp(p, 158, 96)
	heart(p, 78)
	p = add("P-1002", "李秀英", "type2_diabetes", "hypertension")
	cgm(p, vitals.MgDL, 138)
	bp(p, 138, 84)
	p = add("P-1003", "张伟", "copd")
	for d := 7 * 24 * time.Hour; d > 0; d -= 4 * time.Hour {
		p.readings = append(p.readings, newReading(p.id, vitals.SpO2, vitals.Percent, now.Add(-d), min(99, around(93, 1.5)), around(82, 5)))
	}
	heart(p, 84)
	p = add("P-1004", "陈桂兰", "heart_failure")
	for d := 14 * 24 * time.Hour; d > 0; d -= 24 * time.Hour {
		p.readings = append(p.readings, newReading(p.id, vitals.Weight, vitals.Kg, now.Add(-d), math.Round((64.2+1.4*(1-float64(d)/float64(14*24*time.Hour)))*10)/10))
	}
	p.unwatched = "weight"
	p = add("P-1005", "刘洋", "type1_diabetes")
	cgm(p, vitals.MmolL, 150)
	for i, name := range []string{"赵敏", "孙丽华", "周志强", "吴芳", "郑海涛", "冯雪", "何静", "Anna Berg"} {
		p = add(fmt.Sprintf("P-10%02d", 6+i), name, []string{"hypertension", "type2_diabetes", "hypertension"}[i%3])
		bp(p, 126+float64(i), 78)
	}
	for _, p := range m.patients {
		slices.SortStableFunc(p.readings, func(a, b vitals.Reading) int { return int(max(-1, min(1, a.TakenAt-b.TakenAt))) })
	}
}

func (m *Mock) scenario() {
	at := func(d time.Duration) time.Time { return m.now().Add(-d) }
	m.Raise("P-1006", alerting.Info, "bp_measure_again", alerting.Text{"zh-CN": "请复测血压", "en": "Please repeat the measurement"}, 3*time.Hour,
		newReading("P-1006", vitals.BloodPressure, vitals.MmHg, at(3*time.Hour), 148, 92, 80))
	ack := m.Raise("P-1001", alerting.Critical, "bp_very_high", alerting.Text{"zh-CN": "血压极高", "en": "Very high blood pressure"}, 26*time.Minute,
		newReading("P-1001", vitals.BloodPressure, vitals.MmHg, at(26*time.Minute), 186, 112, 92))
	m.Raise("P-1002", alerting.Critical, "glucose_low_2", alerting.Text{"zh-CN": "低血糖2级", "en": "Hypoglycaemia level 2"}, 7*time.Minute,
		newReading("P-1002", vitals.Glucose, vitals.MgDL, at(7*time.Minute), 51))
	lost := m.Raise("P-1004", alerting.Warning, "weight_gain", alerting.Text{"zh-CN": "体重短期上升", "en": "Weight rising fast"}, 52*time.Hour,
		newReading("P-1004", vitals.Weight, vitals.Kg, at(52*time.Hour), 65.6))
	m.Raise("P-1005", alerting.Warning, "glucose_high", alerting.Text{"zh-CN": "血糖偏高", "en": "High glucose"}, 41*time.Minute,
		newReading("P-1005", vitals.Glucose, vitals.MmolL, at(41*time.Minute), 14.6))
	m.Raise("P-1003", alerting.Emergency, "spo2_very_low", alerting.Text{"zh-CN": "血氧严重过低", "en": "Dangerously low oxygen"}, 95*time.Second,
		newReading("P-1003", vitals.SpO2, vitals.Percent, at(95*time.Second), 84, 118))
	m.Change(ack, alerting.AcknowledgedBy, func(a *alerting.Alert) {
		a.State, a.AcknowledgedBy, a.AcknowledgedAt = alerting.Acknowledged, "陈医生", stamp(m.now().Add(-20*time.Minute))
	})
	m.Change(lost, alerting.SignalLost, func(a *alerting.Alert) { a.Signal, a.SignalLostAt = "lost", stamp(m.now().Add(-28*time.Hour)) })
	done := m.Raise("P-1001", alerting.Warning, "bp_high", alerting.Text{"zh-CN": "血压偏高", "en": "High blood pressure"}, 50*time.Hour,
		newReading("P-1001", vitals.BloodPressure, vitals.MmHg, at(50*time.Hour), 164, 98, 80))
	m.Change(done, alerting.ResolvedBy, func(a *alerting.Alert) {
		a.State, a.ResolvedBy, a.ResolvedAt = alerting.Resolved, "values", alerting.OrNull(stamp(m.now().Add(-38*time.Hour)))
	})
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func send(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

func refuse(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail})
}

// history is the mock as the hub's source of truth.
type history Mock

func (h *history) Epoch() string { return "mock-1" }

func (h *history) Seq() uint64 {
	m := (*Mock)(h)
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.events))
}

func (h *history) Since(_ context.Context, seq uint64, limit int) ([]feed.Event, error) {
	m := (*Mock)(h)
	m.mu.Lock()
	defer m.mu.Unlock()
	if seq >= uint64(len(m.events)) {
		return nil, nil
	}
	es := m.events[seq:]
	return slices.Clone(es[:min(limit, len(es))]), nil
}

func (h *history) Snapshot(context.Context) (feed.Snapshot, error) {
	m := (*Mock)(h)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := feed.Snapshot{Seq: uint64(len(m.events))}
	for _, id := range m.order {
		if a := m.alerts[id]; a.State != alerting.Resolved {
			b, err := json.Marshal(a)
			if err != nil {
				return s, err
			}
			s.Alerts = append(s.Alerts, feed.Open{Patient: string(a.PatientID), Alert: b})
		}
	}
	return s, nil
}

// auth is the mock as the hub's judge of clients.
type auth Mock

func (a *auth) FromRequest(*http.Request) (feed.Viewer, error) {
	return feed.Viewer{}, feed.ErrNoCredential
}

func (a *auth) FromTicket(_ context.Context, ticket string) (feed.Viewer, error) {
	m := (*Mock)(a)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.tickets[ticket] {
		return feed.Viewer{}, feed.ErrUnauthorised
	}
	delete(m.tickets, ticket)
	return feed.Viewer{Name: MockName, Credential: ticket}, nil
}

func (a *auth) Renew(_ context.Context, v feed.Viewer) (feed.Viewer, error) {
	m := (*Mock)(a)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return v, feed.ErrUnauthorised
	}
	return v, nil
}
