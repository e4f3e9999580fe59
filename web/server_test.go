package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/internal/leaktest"
	"vitalwatch/storage/sqlite"
	"vitalwatch/storage/storagetest"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

var update = flag.Bool("update", false, "rewrite docs/openapi.json")

func TestMain(m *testing.M) {
	leaktest.Main(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const wait = time.Minute

// secret marks what must never be in a log: names, notes, values, passwords.
const secret = "GEHEIM"

// clock is set by tests.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// monitor acts on the ledger's open alerts with a few of the engine's rules.
type monitor struct {
	l *ledger.Ledger
	c *clock
}

func (m monitor) Act(ctx context.Context, id vitals.PatientID, a alerting.Action, commit func(context.Context, alerting.Batch) error) error {
	open, err := m.l.OpenAlerts(ctx, id)
	if err != nil {
		return err
	}
	for _, al := range open {
		if al.ID != a.AlertID {
			continue
		}
		kind := map[alerting.Act]alerting.Kind{alerting.ActAcknowledge: alerting.AcknowledgedBy, alerting.ActSnooze: alerting.Snoozed,
			alerting.ActResolve: alerting.ResolvedBy, alerting.ActNote: alerting.Noted}[a.Act]
		t := alerting.Transition{AlertID: al.ID, Patient: id, Rule: al.Rule, Condition: al.Condition, Kind: kind, Severity: al.Severity,
			At: vitals.At(m.c.now()), Actor: a.Actor, Note: a.Note, Outcome: a.Outcome}
		switch {
		case a.Act == alerting.ActAcknowledge && al.State == alerting.Acknowledged:
			return alerting.ErrAcknowledged
		case a.Act == alerting.ActSnooze && al.Severity == alerting.Emergency:
			return alerting.ErrNoSnooze
		case a.Act == alerting.ActSnooze:
			t.Until = t.At + vitals.Micros(a.Minutes)*vitals.Minute
		}
		return commit(ctx, alerting.Batch{Transitions: []alerting.Transition{t}})
	}
	return alerting.ErrNotOpen
}

// intake is a Pipeline: it remembers messages and answers by the word in them.
type intake struct {
	mu   sync.Mutex
	got  []ingest.Message
	fail error
}

func (p *intake) Accept(_ context.Context, m ingest.Message) (ingest.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return ingest.Result{}, p.fail
	}
	m.Payload = bytes.Clone(m.Payload)
	p.got = append(p.got, m)
	if bytes.Contains(m.Payload, []byte("mixed")) {
		bad := payload.Problem{Code: payload.UnitUnknown, Detail: "use a UCUM code", Index: 1}
		return ingest.Result{Accepted: 1, Quarantined: 1, Problems: []payload.Problem{bad}, Items: []ingest.ItemResult{
			{Status: "accepted", Reading: vitals.Reading{Patient: "P-1", Device: m.Device, Indicator: vitals.Glucose}}, {Status: "quarantined", Problem: bad}}}, nil
	}
	bad := payload.Problem{Code: payload.JSONInvalid, Detail: "send JSON"}
	return ingest.Result{Quarantined: 1, Problems: []payload.Problem{bad}}, nil
}

func (p *intake) Replay(_ context.Context, id uint64) (ingest.Result, error) {
	if id != 7 {
		return ingest.Result{}, fmt.Errorf("item %d: %w", id, journal.ErrNotQuarantined)
	}
	return ingest.Result{Accepted: 1, Items: []ingest.ItemResult{{Status: "accepted", Reading: vitals.Reading{Patient: "P-1", Indicator: vitals.Glucose}}}}, nil
}

type shelf []journal.Quarantined

func (s shelf) Quarantine(_ context.Context, limit int, cursor uint64) (items []journal.Quarantined, next uint64, err error) {
	for _, q := range s { // newest first
		if cursor != 0 && q.ID >= cursor {
			continue
		}
		if len(items) == limit {
			return items, items[limit-1].ID, nil
		}
		items = append(items, q)
	}
	return items, 0, nil
}

func (s shelf) QuarantineGet(id uint64) (journal.Quarantined, error) {
	for _, q := range s {
		if q.ID == id {
			return q, nil
		}
	}
	return journal.Quarantined{}, journal.ErrNotQuarantined
}

type house struct {
	*testing.T
	web      *web.Server
	auth     *web.Auth
	people   *care.Registry
	ledger   *ledger.Ledger
	readings *storagetest.Memory
	intake   *intake
	clock    *clock
	url      string
	log      *safeBuffer
	keys     map[string]string // by role
	broken   error             // what the check "journal" says
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const (
	password = "correct horse " + secret
	teamless = "P-3"
)

func build(t *testing.T, change func(*web.Config)) *house {
	t.Helper()
	ctx := t.Context()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{T: t, clock: &clock{t: time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)}, log: &safeBuffer{}, intake: &intake{}, keys: map[string]string{}, readings: storagetest.NewMemory()}
	if h.auth, err = web.OpenAuth(ctx, db); err != nil {
		t.Fatal(err)
	}
	h.auth.SetNow(h.clock.now)
	if h.people, err = care.Open(ctx, db); err != nil {
		t.Fatal(err)
	}
	if h.ledger, err = ledger.Open(ctx, db, ledger.Options{Now: h.clock.now}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []care.Patient{{ID: "P-1", Name: secret + " One", Teams: []string{"red"}, Conditions: []string{"hypertension"}}, {ID: "P-2", Name: secret + " Two", Teams: []string{"blue"}}, {ID: teamless}} {
		if _, err := h.people.Add(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range web.Roles() {
		if h.keys[string(r)], err = h.auth.CreateKey(ctx, "test "+string(r), r, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.auth.CreateUser(ctx, "blue coach", password, web.Coach, []string{"blue"}); err != nil {
		t.Fatal(err)
	}
	c := web.Config{Listen: "127.0.0.1:0"}
	if change != nil {
		change(&c)
	}
	h.web, err = web.New(web.Deps{Auth: h.auth, Patients: h.people, Readings: h.readings, Ledger: h.ledger, Monitor: monitor{h.ledger, h.clock},
		Quarantine: shelf{{ID: 9, Device: "D-1", Format: "readings", Problems: []payload.Problem{{Code: payload.UnitMissing, Detail: "send a unit"}}}, {ID: 7, Device: "D-1"}},
		Pipeline:   h.intake, Evidence: kept, Registry: prometheus.NewRegistry(), Now: h.clock.now, Log: zerolog.New(h.log),
		Checks:  []web.Check{{Name: "journal", Run: func(context.Context) error { return h.broken }}, {Name: "cycle", Run: func(context.Context) error { return nil }}},
		Console: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "console") })}, c)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h.web.Handler())
	srv.Config = web.HTTPServer(h.web.Handler())
	srv.Start()
	h.url = srv.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := h.web.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
		if s := h.log.String(); strings.Contains(s, secret) {
			t.Errorf("the log holds personal data or a secret:\n%s", s)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// alert opens one for a patient.
func (h *house) alert(id string, p vitals.PatientID, sev alerting.Severity) {
	h.Helper()
	_, err := h.ledger.Commit(h.Context(), ledger.Batch{Transitions: []alerting.Transition{{AlertID: id, Patient: p, Rule: alerting.RuleID("rule_" + id), Condition: "general",
		Kind: alerting.Opened, Severity: sev, At: vitals.At(h.clock.now()), Title: alerting.Text{"en": "x", "zh-CN": "y"}, Explanation: json.RawMessage(`{"why":"z"}`)}}})
	if err != nil {
		h.Fatal(err)
	}
}

type answer struct {
	*http.Response
	body []byte
}

func (a *answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

func (h *house) do(c *http.Client, method, path, key, body string, header ...string) *answer {
	h.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.Fatal(err)
	}
	return &answer{resp, b}
}

// ask sends a request with the key of a role, "" for nobody, and wants a status.
func (h *house) ask(status int, role, method, path, body string, header ...string) *answer {
	h.Helper()
	a := h.do(http.DefaultClient, method, path, h.keys[role], body, header...)
	if a.StatusCode != status {
		h.Fatalf("%s %s as %q = %d, want %d: %s", method, path, role, a.StatusCode, status, a.body)
	}
	if status >= 400 && strings.HasPrefix(path, "/api/") {
		var p struct {
			Type, Title, Detail string
			Status              int
		}
		a.into(h.T, &p)
		if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" || !strings.HasPrefix(p.Type, "urn:vitalwatch:problem:") || p.Status != status || p.Title == "" || p.Detail == "" {
			h.Fatalf("%s %s: %s is no problem: %s", method, path, ct, a.body)
		}
	}
	return a
}

// jar keeps a server's cookies as a browser does whose clock is that of the test: net/http/cookiejar asks the machine's
// clock, which has passed the end of every session of 2026-11-21.
type jar struct {
	clock *clock
	mu    sync.Mutex
	kept  map[string]*http.Cookie
}

func (j *jar) SetCookies(_ *url.URL, cookies []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range cookies {
		if delete(j.kept, c.Name); c.MaxAge >= 0 {
			j.kept[c.Name] = c
		}
	}
}

func (j *jar) Cookies(*url.URL) (cookies []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range j.kept {
		if c.Expires.IsZero() || c.Expires.After(j.clock.now()) {
			cookies = append(cookies, &http.Cookie{Name: c.Name, Value: c.Value})
		}
	}
	return cookies
}

func (h *house) login(name, password string) *http.Client {
	h.Helper()
	jar := &jar{clock: h.clock, kept: map[string]*http.Cookie{}}
	tr := &http.Transport{}
	h.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Jar: jar, Transport: tr}
	if a := h.do(c, "POST", "/api/v1/session", "", fmt.Sprintf(`{"name":%q,"password":%q}`, name, password)); a.StatusCode != 200 {
		h.Fatalf("login = %d %s", a.StatusCode, a.body)
	}
	return c
}

// every is the routes of the API as the server itself lists them.
func (h *house) every() (out [][2]string) {
	h.Helper()
	doc, err := h.web.OpenAPI()
	if err != nil {
		h.Fatal(err)
	}
	var d struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		h.Fatal(err)
	}
	for path, methods := range d.Paths {
		for m := range methods {
			out = append(out, [2]string{strings.ToUpper(m), path})
		}
	}
	slices.SortFunc(out, func(a, b [2]string) int { return strings.Compare(a[1]+a[0], b[1]+b[0]) })
	return out
}

func bodyFor(path string) string {
	switch {
	case strings.HasSuffix(path, "/snooze"):
		return `{"minutes":5}`
	case strings.HasSuffix(path, "/acknowledge"), strings.HasSuffix(path, "/resolve"), strings.HasSuffix(path, "/notes"):
		return `{"note":"n"}`
	}
	if strings.HasSuffix(path, "/bind") {
		return `{"patient_id":"P-1"}`
	}
	if strings.HasSuffix(path, "/commands") {
		return `{"cmd":"remind"}`
	}
	if strings.HasSuffix(path, "/config") {
		return `{"config":{}}`
	}
	if strings.HasSuffix(path, "/assign") {
		return `{"patient_id":"P-1","for":"this"}`
	}
	return `{}`
}

func TestRoutes_DenyStrangersAndForeignTeams(t *testing.T) {
	h := build(t, nil)
	h.alert("A-1", "P-1", alerting.Critical)
	blue := h.login("blue coach", password)
	routes := h.every()
	if len(routes) < 20 {
		t.Fatalf("only %d routes in the document", len(routes))
	}
	// What anybody may call; everything else must refuse.
	public := map[string]bool{"POST /api/v1/session": true, "DELETE /api/v1/session": true, "GET /api/v1/feed": true,
		"POST /api/v1/provision": true, "POST /api/v1/provision/renew": true}
	for _, rt := range routes {
		method, pattern := rt[0], rt[1]
		id := "P-1"
		if strings.Contains(pattern, "/alerts/") {
			id = "A-1"
		}
		path := strings.ReplaceAll(pattern, "{id}", id)
		if strings.Contains(pattern, "/trends") {
			path += "?indicator=glucose"
		}
		body := ""
		if method == "POST" {
			body = bodyFor(path)
		}
		t.Run(method+" "+pattern, func(t *testing.T) {
			if public[method+" "+pattern] {
				t.Skip("public")
			}
			if a := h.do(http.DefaultClient, method, path, "", body); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("anonymous = %d, want 401", a.StatusCode)
			}
			if a := h.do(http.DefaultClient, method, path, "vw_aaaaaaaa_"+strings.Repeat("a", 52), body); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("foreign key = %d, want 401", a.StatusCode)
			}
			// P-1 is of team red; nothing of it may reach a coach of team blue.
			a := h.do(blue, method, path, "", body)
			switch {
			case strings.Contains(pattern, "{id}") && a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusForbidden:
				t.Errorf("foreign team = %d %s, want 404 or 403", a.StatusCode, a.body)
			case bytes.Contains(a.body, []byte("P-1")):
				t.Errorf("foreign team sees P-1: %s", a.body)
			}
		})
	}
}

func TestRoutes_Roles(t *testing.T) {
	h := build(t, nil)
	for _, tc := range []struct {
		method, path, body string
		allowed            string // roles that are not refused with 403
	}{
		{"GET", "/api/v1/patients", "", "admin coach service viewer"},
		{"POST", "/api/v1/alerts/none/acknowledge", "{}", "admin coach"},
		{"POST", "/api/v1/readings?device=D-1", `"mixed"`, "admin service"},
		{"GET", "/api/v1/quarantine", "", "admin coach service viewer"},
		{"POST", "/api/v1/quarantine/7/replay", "{}", "admin coach"},
		{"GET", "/api/v1/outbox", "", "admin"},
		{"GET", "/api/v1/audit", "", "admin"},
		{"POST", "/api/v1/feed/ticket", "{}", "admin coach service viewer"},
	} {
		for _, r := range web.Roles() {
			a := h.do(http.DefaultClient, tc.method, tc.path, h.keys[string(r)], tc.body)
			want := !strings.Contains(tc.allowed, string(r))
			if got := a.StatusCode == http.StatusForbidden; got != want {
				t.Errorf("%s %s as %s = %d, want refused %v", tc.method, tc.path, r, a.StatusCode, want)
			}
		}
	}
}

func TestRoutes_TeamsSeeNoMessagesOfUnknownPatients(t *testing.T) {
	h := build(t, nil)
	if err := h.auth.CreateUser(t.Context(), "blue gateway", password, web.Service, []string{"blue"}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, method, path, body string }{
		{"blue coach", "GET", "/api/v1/quarantine", ""},
		{"blue coach", "POST", "/api/v1/quarantine/7/replay", "{}"},
		{"blue gateway", "POST", "/api/v1/readings?device=D-1", `"mixed"`}, // D-1 may be of any team
	} {
		jar := h.login(tc.name, password)
		if a := h.do(jar, tc.method, tc.path, "", tc.body); a.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s as %s = %d, want 403", tc.method, tc.path, tc.name, a.StatusCode)
		}
	}
}

type list[T any] struct {
	Items []T
	Next  string `json:"next_cursor"`
}

func TestPatients_WhoNeedsSomebodyComesFirst(t *testing.T) {
	h := build(t, nil)
	h.alert("A-1", "P-2", alerting.Warning)
	h.alert("A-2", teamless, alerting.Emergency)
	h.alert("A-3", teamless, alerting.Info)
	h.store(vitals.Reading{Patient: "P-2", Device: "D-1", Indicator: vitals.HeartRate, Unit: vitals.PerMin, TakenAt: vitals.At(h.clock.now().Add(-time.Hour)), Has: 1, V: [6]float64{61}, DeviceSeq: -1})
	type item struct {
		ID          string
		Worst       string `json:"worst_severity"`
		Open        int    `json:"open_alerts"`
		LastReading *struct {
			Values map[string]float64
		} `json:"last_reading"`
		Coverage []web.Coverage
	}
	var got []item
	cursor := ""
	for range 10 {
		var l list[item]
		h.ask(200, "coach", "GET", "/api/v1/patients?limit=1&cursor="+cursor, "").into(t, &l)
		got = append(got, l.Items...)
		if cursor = l.Next; cursor == "" {
			break
		}
	}
	if len(got) != 3 || got[0].ID != teamless || got[0].Worst != "emergency" || got[0].Open != 2 || got[1].ID != "P-2" || got[2].ID != "P-1" || got[2].Worst != "none" {
		t.Fatalf("patients = %+v", got)
	}
	if got[1].LastReading == nil || got[1].LastReading.Values["value"] != 61 || len(got[1].Coverage) != 1 || !got[1].Coverage[0].Watched {
		t.Errorf("P-2 = %+v", got[1])
	}
	var one item
	h.ask(200, "viewer", "GET", "/api/v1/patients/P-2", "").into(t, &one)
	if one.ID != "P-2" || one.Worst != "warning" {
		t.Errorf("patient = %+v", one)
	}
	h.ask(404, "admin", "GET", "/api/v1/patients/P-99", "")
}

func (h *house) store(rs ...vitals.Reading) {
	h.Helper()
	for i := range rs {
		rs[i].Seq = h.readings.Cursor() + uint64(i) + 1
	}
	if err := h.readings.Write(h.Context(), rs, rs[len(rs)-1].Seq); err != nil {
		h.Fatal(err)
	}
}

// Paging by any limit, over any bounds, with or without an indicator, gives what a sorted list gives.
func TestReadings_PagesAreTheSortedList(t *testing.T) {
	h := build(t, nil)
	base := vitals.At(h.clock.now()) - vitals.Day
	rapid.Check(t, func(rt *rapid.T) {
		patient := vitals.PatientID(fmt.Sprintf("P-r%d", rapid.Uint64().Draw(rt, "patient")))
		if _, err := h.people.Add(t.Context(), care.Patient{ID: patient}); errors.Is(err, care.ErrExists) {
			rt.Skip()
		} else if err != nil {
			rt.Fatal(err)
		}
		kinds := []vitals.Indicator{vitals.Glucose, vitals.HeartRate, vitals.Weight}
		n := rapid.IntRange(1, 40).Draw(rt, "n")
		var all []vitals.Reading
		seen := map[string]bool{}
		for range n {
			r := vitals.Reading{Patient: patient, Device: "D-1", Indicator: rapid.SampledFrom(kinds).Draw(rt, "kind"), DeviceSeq: -1, Has: 1,
				TakenAt: base + vitals.Micros(rapid.IntRange(0, 15).Draw(rt, "at"))*vitals.Second}
			r.Unit = r.Indicator.Units()[0]
			r.V[0] = float64(rapid.IntRange(50, 60).Draw(rt, "value"))
			if !seen[r.ID()] {
				seen[r.ID()] = true
				all = append(all, r)
			}
		}
		h.store(all...)
		q := url.Values{"limit": {fmt.Sprint(rapid.IntRange(1, 9).Draw(rt, "limit"))}}
		keep := func(vitals.Reading) bool { return true }
		if rapid.Bool().Draw(rt, "bounded") {
			from := base + vitals.Micros(rapid.IntRange(0, 15).Draw(rt, "from"))*vitals.Second
			to := from + vitals.Micros(rapid.IntRange(1, 15).Draw(rt, "to"))*vitals.Second
			q.Set("from", from.Time().Format(time.RFC3339))
			q.Set("to", to.Time().Format(time.RFC3339))
			keep = func(r vitals.Reading) bool { return r.TakenAt >= from && r.TakenAt < to }
		}
		if rapid.Bool().Draw(rt, "one indicator") {
			k, old := rapid.SampledFrom(kinds).Draw(rt, "which"), keep
			q.Set("indicator", k.String())
			keep = func(r vitals.Reading) bool { return r.Indicator == k && old(r) }
		}
		want := map[string]bool{}
		for _, r := range all {
			if keep(r) {
				want[r.ID()] = true
			}
		}
		last := ""
		for range 100 {
			var l list[struct {
				ID    string
				Taken string `json:"taken_at"`
			}]
			h.ask(200, "service", "GET", "/api/v1/patients/"+string(patient)+"/readings?"+q.Encode(), "").into(t, &l)
			for _, it := range l.Items {
				if !want[it.ID] {
					rt.Fatalf("reading %s came twice or is not in the period", it.ID)
				}
				delete(want, it.ID)
				if it.Taken < last {
					rt.Fatalf("%s after %s: newest must be last", it.Taken, last)
				}
				last = it.Taken
			}
			if l.Next == "" {
				break
			}
			q.Set("cursor", l.Next)
		}
		if len(want) > 0 {
			rt.Fatalf("%d readings are missing", len(want))
		}
	})
}

func TestReadings_NewestAndTrends(t *testing.T) {
	h := build(t, nil)
	var rs []vitals.Reading
	for i := range 10 {
		rs = append(rs, vitals.Reading{Patient: "P-1", Device: "D-1", Indicator: vitals.Glucose, Unit: vitals.MgDL, Has: 1, V: [6]float64{float64(100 + i)}, DeviceSeq: -1,
			TakenAt: vitals.At(h.clock.now().Add(time.Duration(i-10) * 5 * time.Minute))})
	}
	h.store(rs...)
	var l list[struct{ Values map[string]float64 }]
	h.ask(200, "coach", "GET", "/api/v1/patients/P-1/readings?newest=true&limit=3&indicator=glucose", "").into(t, &l)
	if len(l.Items) != 3 || l.Items[0].Values["value"] != 107 || l.Items[2].Values["value"] != 109 {
		t.Errorf("newest = %+v", l)
	}
	var tr struct {
		Indicator string
		N         int
		Metrics   map[string]float64
	}
	h.ask(200, "coach", "GET", "/api/v1/patients/P-1/trends?indicator=glucose", "").into(t, &tr)
	if tr.N != 10 || tr.Indicator != "glucose" || tr.Metrics["mean"] != 104.5 {
		t.Errorf("trends = %+v", tr)
	}
}

func TestParameters_AreRefusedClearly(t *testing.T) {
	h := build(t, nil)
	for _, q := range []string{"/patients?colour=red", "/patients?limit=0", "/patients?limit=5001", "/patients?cursor=!!", "/alerts?state=closed", "/alerts?severity=mild", "/alerts?cursor=x",
		"/patients/P-1/readings?indicator=aura", "/patients/P-1/readings?from=yesterday", "/patients/P-1/readings?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
		"/patients/P-1/readings?limit=30001", "/patients/P-1/trends", "/patients/P-1/readings?cursor=cA", "/quarantine?cursor=x"} {
		a := h.ask(400, "admin", "GET", "/api/v1"+q, "")
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control = %q", q, a.Header.Get("Cache-Control"))
		}
	}
	h.ask(404, "admin", "GET", "/api/v1/nothing", "")
	if a := h.ask(405, "admin", "DELETE", "/api/v1/patients", ""); a.Header.Get("Allow") != "GET" {
		t.Errorf("Allow = %q", a.Header.Get("Allow"))
	}
	h.alert("A-1", "P-1", alerting.Warning)
	for _, body := range []string{`{"minutes":"thirty"}`, `{"minutes":30,"colour":"red"}`, `{"minutes":`, `{}`} {
		h.ask(400, "coach", "POST", "/api/v1/alerts/A-1/snooze", body)
	}
	if a := h.ask(400, "coach", "POST", "/api/v1/alerts/A-1/notes", `{"note":{"`+secret+`":1}}`); bytes.Contains(a.body, []byte(secret)) {
		t.Errorf("the problem repeats what was sent: %s", a.body)
	}
	h.ask(413, "coach", "POST", "/api/v1/alerts/A-1/notes", `{"note":"`+strings.Repeat("x", 20_000)+`"}`)
}

// A program that reads a field of the contract finds it, null while there is nothing.
func TestLists_NothingIsNull(t *testing.T) {
	h := build(t, nil)
	h.alert("A-1", "P-1", alerting.Critical)
	for i := range 2 {
		r := vitals.Reading{Patient: "P-1", Device: "D-1", Indicator: vitals.HeartRate, DeviceSeq: -1, Has: 1,
			TakenAt: vitals.At(h.clock.now()) + vitals.Micros(i)*vitals.Second, Unit: vitals.HeartRate.Units()[0]}
		r.V[0] = 70
		h.store(r)
	}
	null := func(o map[string]any, what string, keys ...string) {
		t.Helper()
		for _, k := range keys {
			if v, ok := o[k]; !ok || v != nil {
				t.Errorf("%s: %s is %v, there: %t", what, k, v, ok)
			}
		}
	}
	for _, path := range []string{"/patients", "/alerts", "/quarantine", "/patients/P-1/readings"} {
		var body map[string]any
		h.ask(200, "coach", "GET", "/api/v1"+path, "").into(t, &body)
		null(body, path, "next_cursor")
		if path == "/alerts" {
			null(body["items"].([]any)[0].(map[string]any), path, "acknowledged_by", "resolved_at", "snoozed_until")
		}
	}
	var body map[string]any
	h.ask(200, "coach", "GET", "/api/v1/alerts/A-1", "").into(t, &body)
	null(body, "an alert", "acknowledged_by", "resolved_at", "snoozed_until")
	var page map[string]any
	h.ask(200, "coach", "GET", "/api/v1/patients/P-1/readings?limit=1", "").into(t, &page)
	if next, _ := page["next_cursor"].(string); next == "" {
		t.Errorf("no cursor to the second page: %v", page["next_cursor"])
	}
}

func TestAlerts_ActsHistoryAndIdempotency(t *testing.T) {
	h := build(t, nil)
	h.alert("A-1", "P-1", alerting.Critical)
	h.alert("A-2", "P-2", alerting.Emergency)
	var l list[alerting.Alert]
	h.ask(200, "coach", "GET", "/api/v1/alerts?state=open", "").into(t, &l)
	if len(l.Items) != 2 || l.Items[0].ID != "A-2" {
		t.Fatalf("alerts = %+v, want the newest first", l.Items)
	}
	h.ask(200, "coach", "GET", "/api/v1/alerts?severity=critical&patient=P-1", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].ID != "A-1" {
		t.Fatalf("filtered = %+v", l.Items)
	}
	var a alerting.Alert
	for range 2 { // the same key: once in effect
		h.ask(200, "coach", "POST", "/api/v1/alerts/A-1/acknowledge", `{"note":"`+secret+`"}`, "Idempotency-Key", "k1").into(t, &a)
		if a.State != alerting.Acknowledged || a.AcknowledgedBy != "test coach" {
			t.Fatalf("acknowledged = %+v", a)
		}
	}
	h.ask(422, "coach", "POST", "/api/v1/alerts/A-1/acknowledge", `{"note":"other"}`, "Idempotency-Key", "k1")
	h.ask(409, "coach", "POST", "/api/v1/alerts/A-1/acknowledge", "")
	h.ask(422, "coach", "POST", "/api/v1/alerts/A-2/snooze", `{"minutes":10}`)
	h.ask(200, "coach", "POST", "/api/v1/alerts/A-1/snooze", `{"minutes":10}`).into(t, &a)
	if a.SnoozedUntil != "2026-11-21T08:10:00.000Z" {
		t.Errorf("snoozed until %q", a.SnoozedUntil)
	}
	h.ask(200, "coach", "POST", "/api/v1/alerts/A-1/notes", `{"note":"`+secret+`"}`)
	h.ask(200, "coach", "POST", "/api/v1/alerts/A-1/resolve", `{"outcome":"handled","note":"done"}`).into(t, &a)
	if a.State != alerting.Resolved || a.Outcome != "handled" {
		t.Errorf("resolved = %+v", a)
	}
	h.ask(409, "coach", "POST", "/api/v1/alerts/A-1/resolve", `{}`)
	h.ask(404, "coach", "POST", "/api/v1/alerts/A-9/resolve", `{}`)
	var d struct {
		alerting.Alert
		History []ledger.HistoryEntry
	}
	h.ask(200, "viewer", "GET", "/api/v1/alerts/A-1", "").into(t, &d)
	var kinds []string
	for _, e := range d.History {
		kinds = append(kinds, string(e.Kind))
	}
	if got := strings.Join(kinds, " "); got != "opened acknowledged snoozed noted resolved" || d.ID != "A-1" {
		t.Errorf("history = %s of %s", got, d.ID)
	}
}

func TestReadings_Post(t *testing.T) {
	h := build(t, nil)
	var o web.IngestOutcome
	h.ask(200, "service", "POST", "/api/v1/readings?device=D-1", `["mixed"]`).into(t, &o)
	if o.Accepted != 1 || o.Quarantined != 1 || len(o.Items) != 2 || !o.Items[0].Accepted || o.Items[0].ID == "" || o.Items[1].Problem != payload.UnitUnknown || o.Items[1].Index != 1 {
		t.Errorf("outcome = %+v", o)
	}
	h.ask(200, "admin", "POST", "/api/v1/readings", `["mixed"]`, "X-Device-ID", "D-2")
	if m := h.intake.got[1]; m.Device != "D-2" || m.Source != "http" || m.Format != "readings" || string(m.Payload) != `["mixed"]` || m.ReceivedAt != vitals.At(h.clock.now()) {
		t.Errorf("message = %+v", m)
	}
	a := h.ask(422, "service", "POST", "/api/v1/readings?device=D-1", `{"indicator":"`+secret+`"}`)
	if !bytes.Contains(a.body, []byte(payload.JSONInvalid)) {
		t.Errorf("refused = %s, want the reason per item", a.body)
	}
	h.ask(400, "service", "POST", "/api/v1/readings", `["mixed"]`)
	h.ask(400, "service", "POST", "/api/v1/readings?device=a/b", `["mixed"]`)
	h.ask(400, "service", "POST", "/api/v1/readings?device=D-1", `["mixed"]`, "X-Device-ID", "D-2")
	full := `["mixed"` + strings.Repeat(" ", payload.MaxBytes-len(`["mixed"]`)) + "]" // what MQTT takes, to the byte
	h.ask(200, "service", "POST", "/api/v1/readings?device=D-1", full)
	if m := h.intake.got[len(h.intake.got)-1]; len(m.Payload) != payload.MaxBytes {
		t.Errorf("%d bytes came in, want %d", len(m.Payload), payload.MaxBytes)
	}
	h.ask(413, "service", "POST", "/api/v1/readings?device=D-1", full+" ")
	h.intake.fail = errors.New("the journal is full")
	if a := h.ask(503, "service", "POST", "/api/v1/readings?device=D-1", `["mixed"]`); a.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
}

func TestQuarantine(t *testing.T) {
	h := build(t, nil)
	var l list[web.QuarantineItem]
	h.ask(200, "admin", "GET", "/api/v1/quarantine?limit=1", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].ID != "9" || l.Items[0].Problem != payload.UnitMissing || l.Next != "9" {
		t.Fatalf("quarantine = %+v", l)
	}
	h.ask(200, "admin", "GET", "/api/v1/quarantine?limit=1&cursor="+l.Next, "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].ID != "7" {
		t.Fatalf("second page = %+v", l)
	}
	var o web.IngestOutcome
	h.ask(200, "coach", "POST", "/api/v1/quarantine/7/replay", `{}`).into(t, &o)
	if o.Accepted != 1 {
		t.Errorf("replay = %+v", o)
	}
	h.ask(404, "coach", "POST", "/api/v1/quarantine/8/replay", "")
	h.ask(404, "coach", "POST", "/api/v1/quarantine/x/replay", "")
}

func TestSession(t *testing.T) {
	h := build(t, nil)
	c := h.login("blue coach", password)
	u, _ := url.Parse(h.url)
	first := c.Jar.Cookies(u)[0].Value
	var s web.SessionBody
	a := h.do(c, "GET", "/api/v1/session", "", "")
	a.into(t, &s)
	if s.Name != "blue coach" || s.Role != web.Coach || len(s.Teams) != 1 || s.Anonymous {
		t.Errorf("session = %+v", s)
	}
	a = h.do(c, "POST", "/api/v1/session", "", fmt.Sprintf(`{"name":"blue coach","password":%q}`, password))
	set := a.Header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Lax", "Path=/", "vitalwatch="} {
		if !strings.Contains(set, want) {
			t.Errorf("cookie %q lacks %s", set, want)
		}
	}
	if bytes.Contains(a.body, []byte(c.Jar.Cookies(u)[0].Value)) || strings.Contains(set, first) {
		t.Error("the token is in the body, or was used again")
	}
	if a := h.do(http.DefaultClient, "GET", "/api/v1/session", "", "", "Cookie", "vitalwatch="+first); a.StatusCode != 401 {
		t.Errorf("the session before the second sign-in = %d, want 401", a.StatusCode)
	}
	// From another site's page nothing may change.
	if a := h.do(c, "POST", "/api/v1/feed/ticket", "", "{}", "Origin", "https://evil.example"); a.StatusCode != 403 {
		t.Errorf("cross-origin POST = %d, want 403", a.StatusCode)
	}
	if a := h.do(c, "POST", "/api/v1/feed/ticket", "", "{}", "Sec-Fetch-Site", "cross-site"); a.StatusCode != 403 {
		t.Errorf("cross-site POST = %d, want 403", a.StatusCode)
	}
	if a := h.do(c, "DELETE", "/api/v1/session", "", ""); a.StatusCode != 204 {
		t.Errorf("logout = %d %s", a.StatusCode, a.body)
	}
	if a := h.do(c, "GET", "/api/v1/session", "", ""); a.StatusCode != 401 {
		t.Errorf("after logout = %d", a.StatusCode)
	}
}

func TestSession_EndsByTimeAndByDisabling(t *testing.T) {
	h := build(t, nil)
	status := func(c *http.Client) int { return h.do(c, "GET", "/api/v1/session", "", "").StatusCode }
	c := h.login("blue coach", password)
	for i := range 20 { // used every eleven hours, it lives for seven days
		h.clock.add(11 * time.Hour)
		want := 200
		if time.Duration(i+1)*11*time.Hour >= 7*24*time.Hour {
			want = 401
		}
		if got := status(c); got != want {
			t.Fatalf("after %d hours = %d, want %d", (i+1)*11, got, want)
		}
	}
	c = h.login("blue coach", password)
	h.clock.add(12 * time.Hour)
	if got := status(c); got != 401 {
		t.Errorf("after twelve idle hours = %d, want 401", got)
	}
	c = h.login("blue coach", password)
	if err := h.auth.DisableUser(t.Context(), "blue coach"); err != nil {
		t.Fatal(err)
	}
	if got := status(c); got != 401 {
		t.Errorf("disabled = %d, want 401", got)
	}
	if a := h.do(http.DefaultClient, "POST", "/api/v1/session", "", fmt.Sprintf(`{"name":"blue coach","password":%q}`, password)); a.StatusCode != 401 {
		t.Errorf("login of a disabled account = %d", a.StatusCode)
	}
}

func TestLogin_IsLimited(t *testing.T) {
	h := build(t, nil)
	try := func(name string) int {
		return h.do(http.DefaultClient, "POST", "/api/v1/session", "", fmt.Sprintf(`{"name":%q,"password":"wrong %s"}`, name, secret)).StatusCode
	}
	var codes []int
	for range 8 {
		codes = append(codes, try("blue coach"))
	}
	if codes[0] != 401 || codes[7] != 429 {
		t.Errorf("attempts = %v, want 401 and at last 429", codes)
	}
	h.clock.add(time.Minute)
	if got := try("blue coach"); got != 401 {
		t.Errorf("a minute later = %d, want 401", got)
	}
	last := 0
	for i := range 30 {
		last = try(fmt.Sprintf("guess %d", i))
	}
	if last != 429 {
		t.Errorf("thirty names from one address = %d, want 429", last)
	}
	if text := h.log.String(); !strings.Contains(text, "a sign-in failed") || strings.Contains(text, "guess") || strings.Contains(text, secret) {
		t.Errorf("the log tells of no failure, or of what was typed:\n%s", text)
	}
}

func TestAccounts(t *testing.T) {
	h := build(t, nil)
	ctx := t.Context()
	for _, tc := range []struct {
		name, password string
		role           web.Role
		teams          []string
		want           error
	}{
		{"blue coach", "long enough", web.Coach, nil, web.ErrAccountExists},
		{"x", "short", web.Coach, nil, web.ErrAccountInvalid},
		{"x", "long enough", "king", nil, web.ErrAccountInvalid},
		{"", "long enough", web.Coach, nil, web.ErrAccountInvalid},
		{"a\nb", "long enough", web.Coach, nil, web.ErrAccountInvalid},
		{"samesame", "SameSame", web.Coach, nil, web.ErrAccountInvalid},
		{"x", "long enough", web.Coach, []string{"a b"}, web.ErrAccountInvalid},
		{"x", "long enough", web.Admin, []string{"red"}, web.ErrAccountInvalid},
		{"健康管理师", "八个字也就够了吧", web.Coach, nil, nil},
	} {
		if err := h.auth.CreateUser(ctx, tc.name, tc.password, tc.role, tc.teams); !errors.Is(err, tc.want) {
			t.Errorf("create %q: %v, want %v", tc.name, err, tc.want)
		}
	}
	if err := h.auth.SetPassword(ctx, "blue coach", "another password"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.auth.Login(ctx, "blue coach", password); !errors.Is(err, web.ErrWrongPassword) {
		t.Errorf("old password: %v", err)
	}
	h.login("blue coach", "another password")
	users, err := h.auth.ListUsers(ctx)
	if err != nil || len(users) != 2 || users[0].Name != "blue coach" || users[0].Teams[0] != "blue" {
		t.Errorf("users = %+v (%v)", users, err)
	}
	key, err := h.auth.CreateKey(ctx, "short", web.Coach, time.Hour)
	if err != nil || !regexp.MustCompile(`^vw_[a-z2-7]{8}_[a-z2-7]{52}$`).MatchString(key) {
		t.Fatalf("key has the wrong form (%v)", err)
	}
	h.keys["short"] = key
	h.ask(200, "short", "GET", "/api/v1/session", "")
	h.keys["bent"] = key[:len(key)-1] + "0"
	h.ask(401, "bent", "GET", "/api/v1/session", "")
	h.clock.add(time.Hour)
	h.ask(401, "short", "GET", "/api/v1/session", "")
	keys, err := h.auth.ListKeys(ctx)
	if err != nil || len(keys) != 5 {
		t.Fatalf("keys = %+v (%v)", keys, err)
	}
	for _, k := range keys {
		if err := h.auth.RevokeKey(ctx, k.ID); err != nil {
			t.Error(err)
		}
	}
	h.ask(401, "admin", "GET", "/api/v1/session", "")
	if err := h.auth.RevokeKey(ctx, "none"); !errors.Is(err, web.ErrNoAccount) {
		t.Errorf("revoke of an unknown key: %v", err)
	}
}

func TestAnonymous_OnlyOnLoopbackAndReadOnly(t *testing.T) {
	h := build(t, func(c *web.Config) { c.Anonymous = true })
	h.alert("A-1", "P-1", alerting.Warning)
	h.ask(200, "", "GET", "/api/v1/patients", "")
	var s web.SessionBody
	h.ask(200, "", "GET", "/api/v1/session", "").into(t, &s)
	if !s.Anonymous || s.Role != web.Viewer {
		t.Errorf("session = %+v", s)
	}
	h.ask(403, "", "POST", "/api/v1/alerts/A-1/acknowledge", "{}")
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via"} {
		h.ask(401, "", "GET", "/api/v1/patients", "", name, "203.0.113.9")
	}
	for _, tc := range []struct {
		remote, host string
		want         int
	}{{"127.0.0.1:5", "localhost:8080", 200}, {"[::1]:5", "[::1]:8080", 200}, {"192.0.2.1:5", "localhost:8080", 401}, {"127.0.0.1:5", "evil.example", 401}} {
		r := httptest.NewRequest("GET", "/api/v1/patients", nil)
		r.RemoteAddr, r.Host = tc.remote, tc.host
		w := httptest.NewRecorder()
		h.web.Handler().ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("from %s to %s = %d, want %d", tc.remote, tc.host, w.Code, tc.want)
		}
	}
	if _, err := web.New(web.Deps{Auth: h.auth, Patients: h.people, Readings: h.readings, Ledger: h.ledger, Monitor: monitor{}, Quarantine: shelf{}, Pipeline: h.intake,
		Registry: prometheus.NewRegistry()}, web.Config{Listen: "0.0.0.0:8080", Anonymous: true}); err == nil {
		t.Error("anonymous reading was allowed on every interface")
	}
}

func TestAudit_SaysWhoLookedAtWhom(t *testing.T) {
	h := build(t, nil)
	blue := h.login("blue coach", password)
	h.do(blue, "GET", "/api/v1/patients/P-2", "", "")
	h.do(blue, "GET", "/api/v1/patients/P-1", "", "") // not theirs: nothing was seen
	h.ask(403, "viewer", "GET", "/api/v1/audit", "")
	type line struct {
		ID                           int
		At, Actor, Role, Action, Rem string
		Patient                      string `json:"patient_id"`
	}
	for end := time.Now().Add(wait); ; {
		var l list[line]
		h.ask(200, "admin", "GET", "/api/v1/audit?patient=P-2", "").into(t, &l)
		if len(l.Items) == 1 && l.Items[0].Actor == "user blue coach" && l.Items[0].Action == "patient.view" && l.Items[0].At == "2026-11-21T08:00:00.000Z" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("audit = %+v", l.Items)
		}
	}
	var l list[line]
	h.ask(200, "admin", "GET", "/api/v1/audit?patient=P-1", "").into(t, &l)
	if len(l.Items) != 0 {
		t.Errorf("a refused view was recorded as one: %+v", l.Items)
	}
	h.ask(200, "admin", "GET", "/api/v1/audit", "").into(t, &l)
	if !slices.ContainsFunc(l.Items, func(x line) bool { return x.Action == "login" }) || !slices.ContainsFunc(l.Items, func(x line) bool { return x.Action == "denied" }) {
		t.Errorf("sign-in or refusal is missing: %+v", l.Items)
	}
}

func TestHealth(t *testing.T) {
	h := build(t, nil)
	h.ask(200, "", "GET", "/livez", "")
	if a := h.ask(200, "", "GET", "/readyz?verbose", ""); string(a.body) != "[+] journal ok\n[+] cycle ok\nok\n" {
		t.Errorf("readyz = %q", a.body)
	}
	h.broken = errors.New("the disk is full")
	if a := h.ask(503, "", "GET", "/readyz", ""); !bytes.Contains(a.body, []byte("journal")) || bytes.Contains(a.body, []byte("cycle")) {
		t.Errorf("readyz = %s", a.body)
	}
	h.broken = nil
	a := h.ask(200, "", "GET", "/metrics", "")
	for _, want := range []string{"vitalwatch_feed_clients 0", `vitalwatch_http_requests_total{code="503",route="GET /readyz"} 1`} {
		if !bytes.Contains(a.body, []byte(want)) {
			t.Errorf("metrics lack %s", want)
		}
	}
	a = h.ask(200, "", "GET", "/", "")
	for k, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"} {
		if got := a.Header.Get(k); got != want {
			t.Errorf("%s = %q, want %q", k, got, want)
		}
	}
	csp := a.Header.Get("Content-Security-Policy")
	host := strings.TrimPrefix(h.url, "http://")
	if !strings.Contains(csp, "default-src 'self'") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "ws://"+host) || strings.Contains(csp, "unsafe") {
		t.Errorf("CSP = %q", csp)
	}
}

func TestFeed_RefusesWhatIsNoClientOfOurs(t *testing.T) {
	h := build(t, nil)
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, tt := range []struct {
		status int
		header []string
		want   string
	}{
		{400, nil, "not-a-feed-client"},
		{403, append(upgrade, "Origin", "https://evil.example"), "cross-origin"},
	} {
		if a := h.ask(tt.status, "coach", "GET", "/api/v1/feed", "", tt.header...); !bytes.Contains(a.body, []byte("urn:vitalwatch:problem:"+tt.want)) {
			t.Errorf("%s, want %s", a.body, tt.want)
		}
	}
}

func TestFeed_ThroughTheServer(t *testing.T) {
	h := build(t, nil)
	h.alert("A-1", "P-1", alerting.Warning)
	h.alert("A-2", "P-2", alerting.Warning)
	blue := h.login("blue coach", password)
	var tk struct{ Ticket string }
	h.do(blue, "POST", "/api/v1/feed/ticket", "", "{}").into(t, &tk)
	ws := h.feed("")
	say := func(s string) {
		t.Helper()
		if err := ws.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string { // the next frame that is no heartbeat
		t.Helper()
		for {
			ws.SetReadDeadline(time.Now().Add(wait))
			_, b, err := ws.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(b, []byte(`"type":"heartbeat"`)) {
				return string(b)
			}
		}
	}
	say(fmt.Sprintf(`{"op":"auth","ticket":%q}`, tk.Ticket))
	say(`{"op":"subscribe","id":1,"channels":["alerts","readings"]}`)
	for _, want := range []string{`"type":"hello"`, `"type":"subscribed"`, `"type":"snapshot"`} {
		got := read()
		if !strings.Contains(got, want) || strings.Contains(got, "A-1") {
			t.Fatalf("frame = %s, want %s without the other team's alert", got, want)
		}
	}
	h.alert("A-3", "P-1", alerting.Critical)
	h.alert("A-4", "P-2", alerting.Critical)
	if got := read(); !strings.Contains(got, `"seq":4,"transition":"opened"`) || !strings.Contains(got, `"id":"A-4"`) {
		t.Fatalf("frame = %s, want A-4", got)
	}
	say(`{"op":"ack","id":7,"alert":"A-4","note":"on my way"}`)
	a, b := read(), read()
	if strings.Contains(b, `"type":"result"`) {
		a, b = b, a
	}
	if !strings.Contains(a, `"type":"result","id":7,"ok":true`) || !strings.Contains(b, `"transition":"acknowledged"`) || !strings.Contains(b, `"actor":"blue coach"`) {
		t.Fatalf("frames = %s %s", a, b)
	}
	say(`{"op":"ack","id":8,"alert":"A-1"}`)
	if got := read(); !strings.Contains(got, `"ok":false`) || !strings.Contains(got, "not-found") {
		t.Fatalf("ack of a foreign alert = %s", got)
	}
	h.web.Observe([]vitals.Reading{{Patient: "P-1", Indicator: vitals.Glucose, DeviceSeq: -1}, {Patient: "P-2", Indicator: vitals.Glucose, Unit: vitals.MmolL, Has: 1, V: [6]float64{7.8}, DeviceSeq: -1}})
	if got := read(); !strings.Contains(got, `"type":"reading","patient_id":"P-2"`) || !strings.Contains(got, `"value":7.8`) {
		t.Fatalf("reading = %s", got)
	}
	// A ticket is good once.
	again := h.feed("")
	again.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"op":"auth","ticket":%q}`, tk.Ticket))
	again.SetReadDeadline(time.Now().Add(wait))
	for {
		if _, _, err := again.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, 4401) {
				t.Errorf("used ticket: %v, want close 4401", err)
			}
			break
		}
	}
	// The patient moves to the other team; then the account is disabled.
	if _, err := h.people.Update(t.Context(), "P-1", func(p *care.Patient) error { p.Teams = []string{"blue"}; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.Contains(got, `"type":"gap"`) {
		t.Fatalf("frame = %s, want a gap", got)
	}
	if got := read(); !strings.Contains(got, "A-1") || !strings.Contains(got, "A-2") {
		t.Fatalf("snapshot = %s, want both patients", got)
	}
	if err := h.auth.DisableUser(t.Context(), "blue coach"); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.Contains(got, `"code":4401`) {
		t.Fatalf("frame = %s, want the goodbye", got)
	}
}

func (h *house) feed(key string) *websocket.Conn {
	h.Helper()
	header := http.Header{}
	if key != "" {
		header.Set("Authorization", "Bearer "+key)
	}
	d := websocket.Dialer{Subprotocols: []string{"vitalwatch.v1.json"}}
	ws, _, err := d.Dial("ws"+strings.TrimPrefix(h.url, "http")+"/api/v1/feed", header)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { ws.Close() })
	return ws
}

// go test ./web -run OpenAPI -update rewrites the copy.
func TestOpenAPI_TheCommittedCopyIsFresh(t *testing.T) {
	h := build(t, nil)
	doc, err := h.web.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, doc, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	file := filepath.Join("..", "docs", "openapi.json")
	if *update {
		if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old, pretty.Bytes()) {
		t.Error("docs/openapi.json is stale: go test ./web -run OpenAPI -update")
	}
	served := h.ask(200, "", "GET", "/openapi.json", "")
	if !bytes.Equal(bytes.TrimSpace(served.body), bytes.TrimSpace(doc)) {
		t.Error("/openapi.json is not the document")
	}
	for _, want := range []string{"GET /api/v1/patients/{id}/trends", "POST /api/v1/alerts/{id}/acknowledge", "GET /api/v1/feed", "POST /api/v1/readings"} {
		m, p, _ := strings.Cut(want, " ")
		if !slices.Contains(h.every(), [2]string{m, p}) {
			t.Errorf("the document lacks %s", want)
		}
	}
}

func TestPanic_EndsItsOwnRequestOnly(t *testing.T) {
	h := build(t, nil)
	h.intake.mu.Lock()
	h.intake.got = nil
	h.intake.mu.Unlock()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/api/v1/readings?device=D-1", panicBody{})
	r.Header.Set("Authorization", "Bearer "+h.keys["service"])
	r.Header.Set("Content-Type", "application/json")
	h.web.Handler().ServeHTTP(w, r)
	if w.Code != 500 || !strings.Contains(w.Body.String(), "urn:vitalwatch:problem:internal") {
		t.Errorf("answer = %d %s", w.Code, w.Body)
	}
	h.ask(200, "service", "GET", "/api/v1/session", "")
}

type panicBody struct{}

func (panicBody) Read([]byte) (int, error) { panic(secret) }
