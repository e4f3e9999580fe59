package web_test

import (
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// messages are kept by the sequence of a reading of theirs.
type messages map[uint64]evidence.Entry

func (m messages) EvidenceOf(_ context.Context, seq uint64) (evidence.Entry, error) {
	e, ok := m[seq]
	if !ok {
		return e, journal.ErrNoEvidence
	}
	return e, nil
}

func entry(payload string, patients ...vitals.PatientID) evidence.Entry {
	e := evidence.Entry{Message: evidence.Message{Device: "D-1", Format: "readings", Source: "mqtt", Payload: []byte(payload), ReceivedAt: 1795300000000000, JudgedAt: 1795300000000000}}
	for _, p := range patients {
		e.Patients = append(e.Patients, evidence.Run{N: 1, Patient: p})
	}
	return e
}

var kept = messages{1: entry(`{"raw":1}`, "P-2"), 2: entry(`{"raw":2}`, "P-2", "P-1"), 3: entry("\xff\xfe", "P-2"),
	4: {Kind: evidence.Cut, Message: evidence.Message{Device: "D-1", Patients: []evidence.Run{{N: 1, Patient: "P-2"}}, Payload: []byte("left")}}}

func TestEvidence_IsWhatCame(t *testing.T) {
	h := build(t, nil)
	at := vitals.At(h.clock.now())
	reading := func(seq uint64) vitals.Reading {
		return vitals.Reading{Seq: seq, Patient: "P-2", Device: "D-1", Indicator: vitals.HeartRate, Unit: vitals.PerMin, TakenAt: at.Add(time.Duration(seq) * time.Second), Has: 1, V: [6]float64{61}, DeviceSeq: -1}
	}
	path := func(seq uint64) string {
		r := reading(seq)
		return "/api/v1/patients/P-2/readings/" + r.ID() + "/evidence"
	}
	for seq := uint64(1); seq <= 5; seq++ {
		h.store(reading(seq))
	}
	var body struct {
		SHA256  string `json:"sha256"`
		Payload string `json:"payload"`
		Base64  string `json:"payload_base64"`
		Cut     bool   `json:"cut"`
	}
	sum := sha256.Sum256([]byte(`{"raw":1}`))
	for _, query := range []string{"", "?indicator=heart_rate", "?indicator=heart_rate&taken_at=" + at.Add(time.Second).Time().Format(time.RFC3339)} {
		h.ask(200, "viewer", "GET", path(1)+query, "").into(t, &body)
		if body.Payload != `{"raw":1}` || body.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: got %+v", query, body)
		}
	}
	body.Payload = ""
	if h.ask(200, "viewer", "GET", path(3), "").into(t, &body); body.Base64 != "//4=" || body.Payload != "" {
		t.Errorf("not UTF-8: got %+v", body)
	}
	body.SHA256, body.Base64 = "", ""
	if h.ask(200, "viewer", "GET", path(4), "").into(t, &body); !body.Cut || body.SHA256+body.Payload+body.Base64 != "" {
		t.Errorf("cut: got %+v", body)
	}
	h.ask(404, "viewer", "GET", path(5), "")
	h.ask(404, "viewer", "GET", strings.Replace(path(1), "P-2", "P-1", 1), "")
	h.ask(400, "viewer", "GET", path(1)+"?taken_at=yesterday", "")
	blue := h.login("blue coach", password)
	for seq, want := range map[uint64]int{1: 200, 2: 403} { // the second holds somebody else's reading as well
		if a := h.do(blue, "GET", path(seq), "", ""); a.StatusCode != want {
			t.Errorf("message %d for a coach of P-2's team: %d, want %d", seq, a.StatusCode, want)
		}
	}
	if a := h.do(blue, "GET", strings.Replace(path(1), "P-2", "P-1", 1), "", ""); a.StatusCode != 404 {
		t.Errorf("another team's patient: %d", a.StatusCode)
	}
}

func TestExport(t *testing.T) {
	h := build(t, nil)
	at := vitals.At(h.clock.now())
	odd := vitals.Reading{Seq: 1, Patient: "P-2", Device: "-D", Indicator: vitals.BloodPressure, Unit: vitals.MmHg, TakenAt: at, Has: 0b1011, V: [6]float64{121, 80.5, 0, 60}, DeviceSeq: -1,
		Extra: &vitals.Extra{Context: `=cmd|' /C calc'!A0`, OtherFlags: "@one,two"}}
	h.store(odd, vitals.Reading{Seq: 2, Patient: "P-2", Device: "D", Indicator: vitals.Temperature, Unit: vitals.Cel, TakenAt: at.Add(time.Hour), Has: 1, V: [6]float64{36.6}, DeviceSeq: -1})
	path := "/api/v1/patients/P-2/export"
	a := h.ask(200, "viewer", "GET", path, "")
	if lines := strings.Split(strings.TrimSpace(string(a.body)), "\n"); len(lines) != 2 || lines[0] != string(vitals.AppendJSON(nil, &odd)) {
		t.Errorf("jsonl: %q", lines)
	}
	if a := h.ask(200, "viewer", "GET", path+"?from="+at.Add(time.Minute).Time().Format(time.RFC3339), ""); strings.Count(string(a.body), "\n") != 1 {
		t.Errorf("from: %q", a.body)
	}
	a = h.ask(200, "viewer", "GET", path+"?format=csv", "")
	rows, err := csv.NewReader(strings.NewReader(string(a.body))).ReadAll()
	if err != nil || len(rows) != 1+3+1 {
		t.Fatalf("csv: %d rows, %v:\n%s", len(rows), err, a.body)
	}
	col := func(row int, name string) string {
		for i, n := range rows[0] {
			if n == name {
				return rows[row][i]
			}
		}
		t.Fatalf("no column %q in %q", name, rows[0])
		return ""
	}
	for row, want := range []struct{ component, value, unit string }{1: {"systolic", "121", "mm[Hg]"}, 2: {"diastolic", "80.5", "mm[Hg]"}, 3: {"pulse", "60", "/min"}} {
		if row > 0 && (col(row, "component") != want.component || col(row, "value") != want.value || col(row, "unit") != want.unit) {
			t.Errorf("row %d is %q", row, rows[row])
		}
	}
	for name, want := range map[string]string{"device_id": "'-D", "context": `'=cmd|' /C calc'!A0`, "flags": "'@one two"} {
		if got := col(1, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	h.ask(404, "viewer", "GET", "/api/v1/patients/P-9/export", "")
	h.ask(400, "viewer", "GET", path+"?format=xml", "")
	if a := h.do(h.login("blue coach", password), "GET", "/api/v1/patients/P-1/export", "", ""); a.StatusCode != 404 {
		t.Errorf("another team's patient: %d", a.StatusCode)
	}
}

func TestExport_TellsWhenItBreaksOff(t *testing.T) {
	failed := errors.New("disk")
	var rs iter.Seq2[vitals.Reading, error] = func(yield func(vitals.Reading, error) bool) {
		_ = yield(vitals.Reading{Patient: "P", Indicator: vitals.HeartRate, Unit: vitals.PerMin, Has: 1}, nil) && yield(vitals.Reading{}, failed)
	}
	var b strings.Builder
	if n, err := web.Export(&b, "jsonl", rs); n != 1 || !errors.Is(err, failed) {
		t.Errorf("got %d, %v", n, err)
	}
}
