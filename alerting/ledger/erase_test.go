package ledger_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/vitals"
)

// full routes with a body as detail: full has it.
type full struct{}

func (full) Route(e *alerting.Event) []alerting.Delivery {
	body := `{"type":"x","data":{"alert_id":"` + e.Alert.ID + `","severity":"critical","trigger":{"values":{"value":2.9,"of":"MARKER"}},"note":"MARKER","explanation":{"why":"MARKER"}}}`
	return []alerting.Delivery{{Hook: "a", Type: "x", Body: []byte(body)}, {Hook: "b", Type: "x", Body: []byte("MARKER, not JSON")}}
}

func TestErase_leaves_who_acted_and_no_text(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	l := open(t, path, ledger.Options{Router: full{}})
	for i, p := range []string{"theirs", "others"} {
		o := opened("A-"+p, p, "glucose_low", alerting.Critical, t0)
		o.Trigger.ReadingID = p + "-MARKER"
		worse := then("A-"+p, alerting.Worsened, alerting.Emergency, t0+1)
		worse.Trigger = o.Trigger
		eased := then("A-"+p, alerting.Eased, alerting.Warning, t0+2)
		eased.Trigger = o.Trigger
		done := by(then("A-"+p, alerting.ResolvedBy, alerting.None, t0+4), "Dr. Li", p+" MARKER")
		done.Outcome = p + " MARKER"
		commit(t, l, o, worse, eased, by(then("A-"+p, alerting.Noted, alerting.None, t0+3), "Dr. Li", p+" MARKER"), done)
		if _, err := l.Commit(ctx, ledger.Batch{Cursor: uint64(i + 1), Findings: []alerting.Finding{{Patient: vitals.PatientID(p), Rule: "r", Day: "2026-11-20", Severity: alerting.Warning, WorstID: p + " MARKER"}}}); err != nil {
			t.Fatal(err)
		}
	}
	seq := l.Seq()
	if err := l.Settle(ctx, []alerting.Settlement{{Hook: "a", Seq: 1, State: alerting.Delivered, At: t0}, {Hook: "a", Seq: 2, State: alerting.Dead, At: t0}}); err != nil {
		t.Fatal(err)
	}
	want := func(p string) (a alerting.Alert, h []ledger.HistoryEntry, ds []alerting.Delivery, fs []alerting.Finding) {
		t.Helper()
		a, h, err := l.Alert(ctx, "A-"+p)
		if err == nil {
			ds, _, err = l.Deliveries(ctx, ledger.DeliveryFilter{AlertID: "A-" + p})
		}
		if err == nil {
			fs, err = l.Findings(ctx, vitals.PatientID(p), "", "", 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		return a, h, ds, fs
	}
	for round := range 2 { // it may be repeated
		n, err := l.Erase(ctx, "theirs")
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 && (n.Alerts != 1 || n.Transitions != 5 || n.Findings != 1 || n.Deliveries != 10) {
			t.Errorf("counts %+v", n)
		}
		a, h, ds, fs := want("theirs")
		if a.Rule != "glucose_low" || a.ResolvedBy != "Dr. Li" || a.State != alerting.Resolved || a.Outcome != "" || a.Trigger.ReadingID != "" ||
			len(a.Trigger.Values) > 0 || string(a.Explanation) != `{"erased":true}` {
			t.Errorf("alert %+v", a)
		}
		if len(h) != 5 || h[3].Actor != "Dr. Li" {
			t.Errorf("history %+v", h)
		}
		for _, e := range h {
			if e.Note+e.Outcome != "" || e.Trigger != nil && e.Trigger.ReadingID != "" {
				t.Errorf("history entry %+v", e)
			}
		}
		if len(ds) != 8 || len(fs) != 0 { // those that wait are still sent
			t.Errorf("%d deliveries and %d findings are left", len(ds), len(fs))
		}
		for _, d := range ds {
			if bytes.Contains(d.Body, []byte("MARKER")) || d.Hook == "a" && !bytes.Contains(d.Body, []byte(`"alert_id":"A-theirs"`)) {
				t.Errorf("delivery %s", d.Body)
			}
		}
	}
	a, h, ds, fs := want("others")
	if a.Outcome == "" || len(a.Trigger.Values) == 0 || len(h) != 5 || h[3].Note == "" || len(ds) != 10 || len(fs) != 1 {
		t.Errorf("somebody else: %+v, %+v, %d deliveries, %d findings", a, h, len(ds), len(fs))
	}
	if events, _, err := l.Since(ctx, 0, 100); err != nil || len(events) != int(seq) {
		t.Errorf("%d of %d events can be resumed from, %v", len(events), seq, err)
	}
	// The bytes are gone, not only the rows.
	for _, name := range []string{"state.db", "state.db-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "theirs MARKER") || strings.Contains(string(b), "theirs-MARKER") {
			t.Errorf("%s still holds it", name)
		}
	}
}

func TestNewEpoch_parts_two_histories(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "state.db")
	l := open(t, path, ledger.Options{})
	commit(t, l, opened("A", "p", "r", alerting.Critical, t0))
	before, seq := l.Epoch(), l.Seq()
	if err := ledger.NewEpoch(ctx, openDB(t, path)); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, ledger.Options{})
	if l.Epoch() == before || l.Seq() != seq {
		t.Errorf("epoch %s and %s, sequence %d and %d", before, l.Epoch(), seq, l.Seq())
	}
}
