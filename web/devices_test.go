package web_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/devices/authority"
	"vitalwatch/devices/catalogue"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/storage/sqlite"
	"vitalwatch/storage/storagetest"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// deviceHouse is a house with the real registry, pipeline and journal.
type deviceHouse struct {
	*house
	devices  *devices.Registry
	journal  *journal.Journal
	pipeline *ingest.Pipeline
	weights  map[vitals.PatientID]float64
}

const smallModel = `
id: cuff-x
maker: {zh-CN: 某厂, en: Maker}
name: {zh-CN: 血压计, en: Cuff}
aliases: [HEM-0001]
kind: cuff
indicators: [blood_pressure]
formats: [gatt/2A35]
users: 2
memory: 60
limits: []
faults: [{text: {zh-CN: 一, en: one}, source: test, verified: false}]
errors: [{code: E1, class: cuff, means: {zh-CN: 松, en: loose}, do: {zh-CN: 紧, en: tighten}, source: test, verified: false}]
guide: [{topic: rest, steps: {zh-CN: [坐五分钟], en: [sit for five minutes]}}]
about: {source: test, verified: false}
`

const smallGuide = `
indicator: blood_pressure
title: {zh-CN: 测血压, en: Blood pressure}
sections:
  - {topic: rest, steps: {zh-CN: [坐], en: [sit]}}
  - {topic: positioning, steps: {zh-CN: [上臂与心脏同高], en: [arm at heart height]}}
errors: [{code: battery, class: battery, means: {zh-CN: 电量低, en: low}, do: {zh-CN: 换电池, en: replace}, source: test, verified: false}]
sources: [{source: test, verified: false}]
`

func buildDevices(t *testing.T) *deviceHouse {
	t.Helper()
	ctx := t.Context()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "state.db"))
	check(t, err)
	h := &deviceHouse{house: &house{T: t, clock: &clock{t: time.Now()}, log: &safeBuffer{}, keys: map[string]string{}, readings: storagetest.NewMemory()},
		weights: map[vitals.PatientID]float64{}}
	h.auth, err = web.OpenAuth(ctx, db)
	check(t, err)
	h.auth.SetNow(h.clock.now)
	h.people, err = care.Open(ctx, db)
	check(t, err)
	h.devices, err = devices.Open(ctx, db, h.people)
	check(t, err)
	h.devices.Now = h.clock.now
	h.devices.Authority, err = authority.Open(t.TempDir())
	check(t, err)
	h.ledger, err = ledger.Open(ctx, db, ledger.Options{Now: h.clock.now})
	check(t, err)
	h.journal, err = journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: h.clock.now})
	check(t, err)
	for _, p := range []care.Patient{{ID: "P-1", Teams: []string{"red"}}, {ID: "P-2", Teams: []string{"blue"}}} {
		_, err := h.people.Add(ctx, p)
		check(t, err)
	}
	for _, r := range web.Roles() {
		h.keys[string(r)], err = h.auth.CreateKey(ctx, "test "+string(r), r, 0)
		check(t, err)
	}
	check(t, h.auth.CreateUser(ctx, "blue coach", password, web.Coach, []string{"blue"}))
	h.pipeline = ingest.New(ingest.Config{Devices: h.devices, Journal: h.journal, Now: h.clock.now, Metrics: ingest.NewMetrics(prometheus.NewRegistry()),
		Owners: ingest.Owners{Given: h.devices.Given, Weight: func(p vitals.PatientID, _ vitals.Micros) (float64, float64, bool) {
			kg, ok := h.weights[p]
			return kg, kg, ok
		}}})
	models, err := catalogue.Load(catalogue.FS{Name: "test", FS: fstest.MapFS{"x.yaml": {Data: []byte(smallModel)}, "guides/bp.yaml": {Data: []byte(smallGuide)}}})
	check(t, err)
	commands, err := sessions.Open(ctx, db, sessions.Options{Now: h.clock.now})
	check(t, err)
	h.web, err = web.New(web.Deps{Auth: h.auth, Patients: h.people, Readings: h.readings, Ledger: h.ledger, Monitor: monitor{h.ledger, h.clock},
		Commands: commands, Quarantine: h.journal, Pipeline: web.NewPipeline(h.pipeline), Registry: prometheus.NewRegistry(), Now: h.clock.now, Log: zerolog.New(h.log),
		DeviceDeps: web.DeviceDeps{Devices: h.devices, Models: models, Waiting: h.pipeline}}, web.Config{Listen: "127.0.0.1:0"})
	check(t, err)
	srv := httptest.NewServer(h.web.Handler())
	h.url = srv.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		check(t, h.web.Shutdown(ctx))
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
		check(t, h.journal.Close())
		check(t, commands.Close())
		check(t, db.Close())
	})
	return h
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *deviceHouse) add(n devices.New) string {
	h.Helper()
	_, secret, err := h.devices.Add(h.Context(), n)
	check(h.T, err)
	return secret
}

func (h *deviceHouse) send(device vitals.DeviceID, body string) ingest.Result {
	h.Helper()
	b := h.pipeline.NewBatch()
	b.Add(ingest.Message{Device: device, Format: "readings", Source: "mqtt", Payload: []byte(body), ReceivedAt: vitals.At(h.clock.now())})
	res, err := b.Commit(h.Context())
	check(h.T, err)
	return res[0]
}

// taken is a weight some minutes ago.
func (h *deviceHouse) taken(minutes int, kg float64, slot int) string {
	return fmt.Sprintf(`{"indicator":"weight","taken_at":%d,"value":%g,"unit":"kg","user_slot":%d}`,
		h.clock.now().Add(-time.Duration(minutes)*time.Minute).UnixMilli(), kg, slot)
}

// owners counts the journaled readings by patient.
func (h *deviceHouse) owners() string {
	h.Helper()
	n := map[vitals.PatientID]int{}
	for last := uint64(0); last < h.journal.Last(); {
		b, err := h.journal.Next(h.Context(), last)
		check(h.T, err)
		for _, r := range b.Readings {
			n[r.Patient]++
		}
		last = b.Last()
	}
	return fmt.Sprint(n)
}

type group struct {
	ID       string `json:"id"`
	Device   string `json:"device_id"`
	Slot     int    `json:"user_slot"`
	Problem  string `json:"problem"`
	Patient  string `json:"patient_id"`
	Readings int    `json:"readings"`
	Messages int    `json:"messages"`
	Newest   *struct {
		Values map[string]float64
	} `json:"newest"`
}

func (h *deviceHouse) unassigned(role string) []group {
	h.Helper()
	var l list[group]
	h.ask(200, role, "GET", "/api/v1/unassigned", "").into(h.T, &l)
	return l.Items
}

func TestUnassigned_OneClickResolvesADeviceAndSlot(t *testing.T) {
	h := buildDevices(t)
	h.add(devices.New{ID: "scale", Patient: "P-1", Slot: 1})
	h.send("scale", "["+h.taken(50, 60, 2)+","+h.taken(40, 61, 2)+"]")
	h.send("scale", h.taken(30, 62, 2))
	h.send("scale", h.taken(20, 90, 3))
	h.send("ghost", h.taken(10, 80, 0))
	gs := h.unassigned("coach")
	if len(gs) != 3 || gs[0].Device != "ghost" && gs[1].Device != "ghost" && gs[2].Device != "ghost" {
		t.Fatalf("waiting: %+v", gs)
	}
	var two, ghost group
	for _, g := range gs {
		switch {
		case g.Slot == 2:
			two = g
		case g.Device == "ghost":
			ghost = g
		}
	}
	if two.Readings != 3 || two.Messages != 2 || two.Problem != "patient_unknown" || two.Newest.Values["value"] != 62 {
		t.Errorf("slot 2: %+v", two)
	}
	if ghost.Problem != "device_unknown" || ghost.Newest == nil {
		t.Errorf("ghost: %+v", ghost)
	}
	body := `{"patient_id":"P-2","for":"device_slot"}`
	var out web.AssignOutcome
	h.ask(200, "coach", "POST", "/api/v1/unassigned/"+two.ID+"/assign", body).into(t, &out)
	if out.Accepted != 3 || out.Messages != 2 || out.Refused != 0 {
		t.Errorf("assigned: %+v", out)
	}
	h.ask(200, "coach", "POST", "/api/v1/unassigned/"+ghost.ID+"/assign", body).into(t, &out)
	if out.Accepted != 1 || h.devices.Find("ghost") == nil {
		t.Errorf("ghost: %+v", out)
	}
	if got := h.owners(); got != "map[P-2:4]" {
		t.Errorf("owners %s", got)
	}
	// What comes next has an owner; the third slot still waits.
	if res := h.send("scale", h.taken(1, 63, 2)); res.Accepted != 1 {
		t.Errorf("the next one: %+v", res)
	}
	if gs := h.unassigned("coach"); len(gs) != 1 || gs[0].Slot != 3 {
		t.Errorf("left: %+v", gs)
	}
	h.ask(404, "coach", "POST", "/api/v1/unassigned/"+two.ID+"/assign", body)
}

func TestUnassigned_ThisOnlyAndDismiss(t *testing.T) {
	h := buildDevices(t)
	h.add(devices.New{ID: "scale", Patient: "P-1", Slot: 1})
	h.send("scale", "["+h.taken(50, 60, 2)+","+h.taken(45, 70, 3)+"]")
	h.send("scale", h.taken(30, 62, 2))
	var old group
	for _, g := range h.unassigned("coach") {
		if g.Slot == 3 {
			old = g
		}
	}
	message := strings.TrimSuffix(old.ID, "-3")
	h.ask(409, "coach", "POST", "/api/v1/unassigned/"+message+"-3/dismiss", `{}`)
	var out web.AssignOutcome
	h.ask(200, "coach", "POST", "/api/v1/unassigned/"+message+"-2/assign", `{"patient_id":"P-2","for":"this"}`).into(t, &out)
	if out.Accepted != 1 || out.Refused != 1 {
		t.Errorf("%+v", out)
	}
	if gs := h.unassigned("coach"); len(gs) != 2 || gs[0].Readings+gs[1].Readings != 2 {
		t.Errorf("left: %+v", gs)
	}
	if res := h.send("scale", h.taken(1, 63, 2)); res.Quarantined != 1 {
		t.Errorf("the next one has an owner though only one was given: %+v", res)
	}
	h.ask(200, "coach", "POST", "/api/v1/unassigned/"+message+"-3/dismiss", `{}`)
	h.ask(404, "coach", "POST", "/api/v1/unassigned/"+message+"-3/dismiss", `{}`)
	if got := h.owners(); got != "map[P-2:1]" {
		t.Errorf("owners %s", got)
	}
}

func TestUnassigned_ADoubtfulWeightIsTheirsOrSomebodyElses(t *testing.T) {
	for _, c := range []struct {
		name, body, owners string
		next               string // whose a later reading of the device is
	}{
		{"it is theirs", `{"patient_id":"P-1","for":"this"}`, "map[P-1:1]", "P-1"},
		{"all of it is theirs", `{"patient_id":"P-1","for":"device_slot"}`, "map[P-1:2]", "P-1"},
		{"one is somebody else's", `{"patient_id":"P-2","for":"this"}`, "map[P-2:1]", "P-1"},
		{"it was handed on", `{"patient_id":"P-2","for":"device_slot"}`, "map[P-2:2]", "P-2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := buildDevices(t)
			h.add(devices.New{ID: "scale", Patient: "P-1"})
			h.weights["P-1"] = 80
			h.send("scale", h.taken(50, 60, 0))
			h.send("scale", h.taken(40, 61, 0))
			gs := h.unassigned("coach")
			if len(gs) != 1 || gs[0].Problem != "owner_doubtful" || gs[0].Patient != "P-1" || gs[0].Readings != 2 {
				t.Fatalf("waiting: %+v", gs)
			}
			h.ask(200, "coach", "POST", "/api/v1/unassigned/"+gs[0].ID+"/assign", c.body)
			if got := h.owners(); got != c.owners {
				t.Errorf("owners %s, want %s", got, c.owners)
			}
			if p, _ := h.devices.Find("scale").Resolve(0, vitals.At(h.clock.now())); string(p) != c.next {
				t.Errorf("the next one is %s's, want %s", p, c.next)
			}
		})
	}
}

func TestUnassigned_TeamsSeeTheirOwn(t *testing.T) {
	h := buildDevices(t)
	h.add(devices.New{ID: "scale", Patient: "P-1", Slot: 1})
	h.add(devices.New{ID: "blue-scale", Patient: "P-2", Slot: 1})
	h.send("scale", h.taken(50, 60, 2))
	h.send("ghost", h.taken(50, 60, 2))
	h.send("blue-scale", h.taken(50, 60, 2))
	blue := h.login("blue coach", password)
	var l list[group]
	h.do(blue, "GET", "/api/v1/unassigned", "", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].Device != "blue-scale" {
		t.Fatalf("blue sees %+v", l.Items)
	}
	for _, g := range h.unassigned("coach") {
		want := http.StatusNotFound
		if g.Device == "blue-scale" {
			want = http.StatusOK
			if a := h.do(blue, "POST", "/api/v1/unassigned/"+g.ID+"/assign", "", `{"patient_id":"P-1","for":"this"}`); a.StatusCode != http.StatusNotFound {
				t.Errorf("given to a patient of another team: %d", a.StatusCode)
			}
		}
		if a := h.do(blue, "POST", "/api/v1/unassigned/"+g.ID+"/assign", "", `{"patient_id":"P-2","for":"this"}`); a.StatusCode != want {
			t.Errorf("assign of %s = %d %s, want %d", g.Device, a.StatusCode, a.body, want)
		}
	}
	if a := h.do(blue, "GET", "/api/v1/devices/scale", "", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("a device of another team = %d", a.StatusCode)
	}
	h.do(blue, "GET", "/api/v1/devices", "", "").into(t, &l)
	if len(l.Items) != 1 {
		t.Errorf("blue sees devices %+v", l.Items)
	}
	h.ask(403, "viewer", "POST", "/api/v1/unassigned/1-2/assign", `{"patient_id":"P-2","for":"this"}`)
}

func newRequest(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	check(t, err)
	return k, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func jsonText(s string) string {
	return `"` + strings.NewReplacer("\n", `\n`, `"`, `\"`).Replace(s) + `"`
}

func TestProvision_FromCodeToRenewal(t *testing.T) {
	h := buildDevices(t)
	h.ask(201, "admin", "POST", "/api/v1/devices", `{"id":"cuff","patient_id":"P-1","no_secret":true}`)
	var code web.ClaimCode
	h.ask(200, "coach", "POST", "/api/v1/devices/cuff/claim-code", `{"server":"https://desk.example"}`).into(t, &code)
	picture, err := base64.StdEncoding.DecodeString(code.PNG)
	check(t, err)
	if _, err := png.Decode(bytes.NewReader(picture)); err != nil || !strings.Contains(code.Text, code.Code) {
		t.Errorf("picture of %q: %v", code.Text, err)
	}
	var p web.ProvisionOutput
	h.ask(200, "", "POST", "/api/v1/provision", `{"code":"`+strings.ToLower(code.Code)+`"}`).into(t, &p)
	if id, err := h.devices.Authenticate("cuff", "cuff", []byte(p.Secret), true, false); id != "cuff" || err != nil || p.Topic != "vw/v1/cuff/up/readings" {
		t.Errorf("login with what was given: %v; %+v", err, p)
	}
	h.ask(403, "", "POST", "/api/v1/provision", `{"code":"`+code.Code+`"}`)

	basic := func(secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("cuff:"+secret))
	}
	renew := func(status int, body, auth string, into *web.ProvisionOutput) {
		t.Helper()
		a := h.do(http.DefaultClient, "POST", "/api/v1/provision/renew", "", body, "Authorization", auth)
		if a.StatusCode != status {
			t.Fatalf("renew = %d %s, want %d", a.StatusCode, a.body, status)
		}
		if into != nil {
			*into = web.ProvisionOutput{}
			a.into(t, into)
		}
	}
	secret := p.Secret
	renew(200, `{}`, basic(secret), &p)
	if p.Secret == secret || p.Secret == "" {
		t.Error("no new secret")
	}
	renew(401, `{}`, basic("wrong"), nil)
	renew(401, `{}`, "", nil)
	_, csr := newRequest(t)
	renew(200, `{"csr":`+jsonText(csr)+`}`, basic(p.Secret), &p)
	first := p.Certificate
	leaf, err := authority.ParseCertificate([]byte(first))
	check(t, err)
	if id, err := h.devices.AuthenticateCertificate("cuff", "", leaf, false); id != "cuff" || err != nil || p.RenewAt == "" || p.RenewAt >= p.NotAfter {
		t.Errorf("login with the certificate: %v; %+v", err, p)
	}
	renew(200, `{"csr":`+jsonText(csr)+`,"certificate":`+jsonText(first)+`}`, "", &p)
	_, other := newRequest(t)
	renew(401, `{"csr":`+jsonText(other)+`,"certificate":`+jsonText(first)+`}`, "", nil)
	renew(400, `{"csr":"nonsense","certificate":`+jsonText(first)+`}`, "", nil)
	renew(400, `{"certificate":`+jsonText(first)+`}`, "", nil)
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff/revoke", `{"serial":"`+authority.Serial(leaf)+`"}`)
	renew(401, `{"csr":`+jsonText(csr)+`,"certificate":`+jsonText(first)+`}`, "", nil)
}

// Guessing is slowed down per address, and costs those who know their code nothing.
func TestProvision_GuessesAreLimited(t *testing.T) {
	h := buildDevices(t)
	h.add(devices.New{ID: "cuff", NoSecret: true})
	for i := range 10 {
		h.ask(403, "", "POST", "/api/v1/provision", fmt.Sprintf(`{"code":"AAAAA-0000%d"}`, i))
	}
	code, _, err := h.devices.NewClaim(t.Context(), "cuff", time.Hour, "test")
	check(t, err)
	a := h.ask(429, "", "POST", "/api/v1/provision", `{"code":"`+code+`"}`)
	if a.Header.Get("Retry-After") == "" {
		t.Error("no word of when to come back")
	}
	h.clock.add(31 * time.Second)
	h.ask(200, "", "POST", "/api/v1/provision", `{"code":"`+code+`"}`)
	for range 20 { // those who succeed are not slowed down
		code, _, err := h.devices.NewClaim(t.Context(), "cuff", time.Hour, "test")
		check(t, err)
		h.ask(200, "", "POST", "/api/v1/provision", `{"code":"`+code+`"}`)
	}
}

func TestDevices_Administration(t *testing.T) {
	h := buildDevices(t)
	var made web.NewDeviceOutput
	h.ask(201, "admin", "POST", "/api/v1/devices", `{"id":"cuff","model":"hem 0001","patient_id":"P-1","user_slot":1}`).into(t, &made)
	if len(made.Secret) != 64 || made.ModelID != "cuff-x" {
		t.Errorf("%+v", made)
	}
	h.ask(409, "admin", "POST", "/api/v1/devices", `{"id":"cuff"}`)
	h.ask(422, "admin", "POST", "/api/v1/devices", `{"id":"cuff/7"}`)
	h.ask(404, "admin", "POST", "/api/v1/devices", `{"id":"cuff-8","patient_id":"P-9"}`)
	h.add(devices.New{ID: "gate"})
	check(t, h.devices.Status(t.Context(), "cuff", []byte(`{"state":"online","battery":50}`), vitals.At(h.clock.now())))
	check(t, h.devices.Flush(t.Context()))
	h.clock.add(time.Second)
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff", `{"serial":"42"}`)
	h.ask(200, "coach", "POST", "/api/v1/devices/cuff/bind", `{"patient_id":"P-2","user_slot":2}`)
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff/gateways", `{"gateway_id":"gate"}`)
	if !h.devices.MaySpeakFor("gate", "cuff") {
		t.Error("not assigned")
	}
	var d web.DeviceItem
	h.ask(200, "viewer", "GET", "/api/v1/devices/cuff", "").into(t, &d)
	if d.Serial != "42" || d.Model != "hem 0001" || len(d.Bindings) != 2 || len(d.Gateways) != 1 || d.Battery == nil || *d.Battery != 50 || len(d.Credentials) != 1 {
		t.Errorf("%+v", d)
	}
	h.ask(200, "admin", "DELETE", "/api/v1/devices/cuff/gateways/gate", "")
	h.ask(409, "admin", "DELETE", "/api/v1/devices/cuff/gateways/gate", "")
	var s web.SecretOutput
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff/rotate", `{"overlap_hours":1}`).into(t, &s)
	for _, secret := range []string{made.Secret, s.Secret} {
		if _, err := h.devices.Authenticate("cuff", "cuff", []byte(secret), true, false); err != nil {
			t.Errorf("in the overlap: %v", err)
		}
	}
	ended := 0
	defer h.devices.SubscribeRevoked(func(vitals.DeviceID) { ended++ })()
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff/revoke", `{}`)
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff/disable", `{}`)
	h.ask(200, "admin", "POST", "/api/v1/devices/cuff/enable", "")
	if ended != 2 {
		t.Errorf("live sessions were ended %d times, want by revoke and by disable", ended)
	}
	h.ask(200, "coach", "POST", "/api/v1/devices/cuff/unbind", `{"user_slot":2}`)
	h.ask(409, "coach", "POST", "/api/v1/devices/cuff/unbind", `{"user_slot":2}`)
	var l list[web.DeviceStatusItem]
	h.ask(200, "viewer", "GET", "/api/v1/devices/cuff/status?limit=1", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].State != "online" || *l.Items[0].Battery != 50 || l.Next != "" {
		t.Errorf("status %+v", l)
	}
	var all list[web.DeviceItem]
	h.ask(200, "viewer", "GET", "/api/v1/devices?limit=1", "").into(t, &all)
	if len(all.Items) != 1 || all.Items[0].ID != "cuff" || all.Next != "cuff" {
		t.Errorf("first page %+v", all)
	}
	h.ask(200, "viewer", "GET", "/api/v1/devices?limit=1&cursor=cuff", "").into(t, &all)
	if len(all.Items) != 1 || all.Items[0].ID != "gate" {
		t.Errorf("second page %+v", all)
	}
	for _, line := range []string{"POST /api/v1/devices", "POST /api/v1/devices/cuff", "POST /api/v1/devices/cuff/rotate", "POST /api/v1/devices/cuff/revoke", "POST /api/v1/devices/cuff/disable", "POST /api/v1/devices/cuff/gateways"} {
		method, path, _ := strings.Cut(line, " ")
		for _, role := range []string{"coach", "viewer", "service"} {
			h.ask(403, role, method, path, `{}`)
		}
	}
}

func TestGuides(t *testing.T) {
	h := buildDevices(t)
	h.add(devices.New{ID: "known", Model: "HEM-0001", Patient: "P-1"})
	h.add(devices.New{ID: "unknown", Model: "something", Patient: "P-1"})
	var g web.DeviceGuide
	h.ask(200, "coach", "GET", "/api/v1/devices/known/guide", "").into(t, &g)
	if g.ModelID != "cuff-x" || len(g.Sections) != 2 || g.Sections[0].Topic != "positioning" || g.Sections[1].Steps["en"][0] != "sit for five minutes" || len(g.Errors) != 2 || len(g.Faults) != 1 {
		t.Errorf("known model: %+v", g)
	}
	h.ask(200, "coach", "GET", "/api/v1/devices/unknown/guide", "").into(t, &g)
	if len(g.Sections) != 0 {
		t.Errorf("it has sent nothing: %+v", g)
	}
	r := vitals.Reading{Patient: "P-1", Device: "unknown", Indicator: vitals.BloodPressure, Unit: vitals.MmHg, TakenAt: vitals.At(h.clock.now()), Has: 3, V: [6]float64{120, 80}, DeviceSeq: -1}
	h.store(r)
	g = web.DeviceGuide{}
	h.ask(200, "coach", "GET", "/api/v1/devices/unknown/guide", "").into(t, &g)
	if g.ModelID != "" || len(g.Sections) != 2 || g.Sections[0].Steps["en"][0] != "sit" || len(g.Errors) != 1 {
		t.Errorf("unknown model, by what it has sent: %+v", g)
	}
	var ms list[web.ModelItem]
	h.ask(200, "coach", "GET", "/api/v1/models?indicator=blood_pressure", "").into(t, &ms)
	if len(ms.Items) != 1 || ms.Items[0].Maker["zh-CN"] != "某厂" {
		t.Errorf("models %+v", ms)
	}
	h.ask(200, "coach", "GET", "/api/v1/models?indicator=glucose", "").into(t, &ms)
	if len(ms.Items) != 0 {
		t.Errorf("models of glucose %+v", ms)
	}
	h.ask(400, "coach", "GET", "/api/v1/models?indicator=mood", "")
	h.ask(200, "coach", "GET", "/api/v1/models/hem-0001", "")
	h.ask(404, "coach", "GET", "/api/v1/models/none", "")
}

func TestDevices_Attention(t *testing.T) {
	h := buildDevices(t)
	ctx := t.Context()
	for _, id := range []vitals.DeviceID{"clocked", "cut-off", "empty", "gate", "old", "spare", "well"} {
		n := devices.New{ID: id, Patient: "P-1"}
		if id == "gate" || id == "spare" {
			n.Patient = ""
		}
		h.add(n)
	}
	check(t, h.devices.Assign(ctx, "gate", "well"))
	check(t, h.devices.SetDisabled(ctx, "cut-off", true))
	h.clock.add(5 * 24 * time.Hour)
	now := vitals.At(h.clock.now())
	for _, id := range []vitals.DeviceID{"clocked", "gate", "spare", "well"} {
		h.devices.Find(id).Seen(now)
	}
	check(t, h.devices.Status(ctx, "empty", []byte(`{"state":"online","battery":20}`), now))
	check(t, h.devices.Status(ctx, "well", []byte(`{"state":"online","battery":21}`), now))
	for i := range vitals.Micros(2) { // twice wrong by the same
		received := now + i*20*vitals.Minute
		h.devices.Find("clocked").ObserveClock(received-40*vitals.Day, received)
	}
	ask := func(query string) string {
		var l list[web.DeviceItem]
		h.ask(200, "coach", "GET", "/api/v1/devices?"+query, "").into(t, &l)
		out := ""
		for _, d := range l.Items {
			out += fmt.Sprint(d.ID, d.Attention, " ")
		}
		return out + l.Next
	}
	for _, x := range []struct{ query, want string }{
		{"attention=true", "clocked[clock] empty[battery] old[silent] spare[unbound] "},
		{"attention=true&silent_days=5", "clocked[clock] empty[battery] spare[unbound] "},
		{"attention=true&limit=2", "clocked[clock] empty[battery] empty"},
		{"attention=true&limit=2&cursor=empty", "old[silent] spare[unbound] "},
		{"patient=P-1", "clocked[clock] cut-off[] empty[battery] old[silent] well[] "},
		{"patient=P-2&attention=true", ""},
	} {
		if got := ask(x.query); got != x.want {
			t.Errorf("%s: got %q, want %q", x.query, got, x.want)
		}
	}
	h.ask(400, "coach", "GET", "/api/v1/devices?silent_days=0", "")
}
