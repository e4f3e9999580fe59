package ledger_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// emptyDatabase is a database file with the schema and an epoch, so that rounds need not migrate one each.
func emptyDatabase(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), "empty.db")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), db, ledger.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCommit_ToldTwiceEqualsToldOnce: a ledger that gets every batch one to three times, is closed and opened at
// random, and gets transitions split differently, ends as one that got each once. And what it holds is consistent.
func TestCommit_ToldTwiceEqualsToldOnce(t *testing.T) {
	dir := t.TempDir()
	n := 0
	empty := emptyDatabase(t)
	kinds := []alerting.Kind{alerting.Opened, alerting.Opened, alerting.Worsened, alerting.Eased, alerting.AcknowledgedBy, alerting.Snoozed,
		alerting.SignalLost, alerting.SignalBack, alerting.ResolvedBy, alerting.Escalated, alerting.Noted}
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		n++
		open := func(name string) (*ledger.Ledger, *sqlite.DB) {
			path := filepath.Join(dir, fmt.Sprint(n, name))
			if _, err := os.Stat(path); err != nil {
				if err := os.WriteFile(path, empty, 0o600); err != nil {
					rt.Fatal(err)
				}
			}
			db, err := sqlite.Open(path)
			if err != nil {
				rt.Fatal(err)
			}
			l, err := ledger.Open(ctx, db, ledger.Options{Router: everything{"desk"}, Now: (&clock{at: t0}).Now})
			if err != nil {
				rt.Fatal(err)
			}
			return l, db
		}
		once, db1 := open("once")
		often, db2 := open("often")
		defer func() { db1.Close(); db2.Close() }()
		told := map[uint64]ledger.Event{}
		at := t0
		batches := rapid.IntRange(1, 12).Draw(rt, "batches")
		for i := range batches {
			b := ledger.Batch{Cursor: uint64(i + 1)}
			for range rapid.IntRange(0, 5).Draw(rt, "transitions") {
				at += vitals.Micros(rapid.IntRange(0, 1).Draw(rt, "later")) // several at one instant, as of one message
				p, r := rapid.IntRange(0, 1).Draw(rt, "patient"), rapid.IntRange(0, 1).Draw(rt, "rule")
				tr := alerting.Transition{AlertID: fmt.Sprintf("%d-%d-%d", p, r, rapid.IntRange(0, 2).Draw(rt, "episode")),
					Patient: vitals.PatientID(fmt.Sprint("P-", p)), Rule: alerting.RuleID(fmt.Sprint("r", r)), Kind: rapid.SampledFrom(kinds).Draw(rt, "kind"),
					Severity: alerting.Severity(rapid.IntRange(1, 4).Draw(rt, "severity")), At: at}
				switch tr.Kind {
				case alerting.Opened, alerting.Worsened, alerting.Eased:
					tr.Trigger = &alerting.Trigger{ReadingID: fmt.Sprint("r", rapid.IntRange(0, 3).Draw(rt, "reading"))}
				case alerting.AcknowledgedBy, alerting.Noted, alerting.Snoozed:
					tr.Actor, tr.Note, tr.Until = rapid.SampledFrom([]string{"li", "wang"}).Draw(rt, "actor"), "n", at+5
				}
				b.Transitions = append(b.Transitions, tr)
			}
			if rapid.Bool().Draw(rt, "finding") {
				b.Findings = append(b.Findings, alerting.Finding{Patient: "P-1", Rule: "r", Day: "2026-11-20", Readings: 1, Severity: alerting.Info, First: t0, Last: at})
			}
			want, err := once.Commit(ctx, b)
			if err != nil {
				rt.Fatal(err)
			}
			for k := range rapid.IntRange(1, 3).Draw(rt, "times") {
				got, err := often.Commit(ctx, b)
				if err != nil {
					rt.Fatal(err)
				}
				if k > 0 {
					want = nil
				}
				if d := cmp.Diff(want, got); d != "" {
					rt.Fatalf("commit %d of batch %d (-once +often):\n%s", k+1, i, d)
				}
				for _, e := range got {
					told[e.Seq] = e
				}
				if rapid.IntRange(0, 5).Draw(rt, "reopen") == 0 {
					db2.Close()
					often, db2 = open("often")
				}
			}
		}
		a, b := dump(t, once), dump(t, often)
		if d := cmp.Diff(a, b); d != "" {
			rt.Fatalf("the ledgers differ (-once +often):\n%s", d)
		}
		// What is there hangs together.
		events := b["events"].([]ledger.Event)
		last := map[string]ledger.Event{}
		for i, e := range events {
			if e.Seq != uint64(i+1) || e.Alert.Seq != e.Seq || e.Highest < e.Alert.Severity {
				rt.Fatalf("event %d: %+v", i, e)
			}
			if prev, ok := last[e.Alert.ID]; ok != (e.Transition.Kind != alerting.Opened) || ok && prev.Alert.State == alerting.Resolved && e.Transition.Kind != alerting.Noted {
				rt.Fatalf("event %d (%s) after %+v", e.Seq, e.Transition.Kind, prev.Transition)
			}
			e.Deliveries = told[e.Seq].Deliveries
			if d := cmp.Diff(told[e.Seq], e); d != "" {
				rt.Fatalf("event %d was told otherwise (-told +read):\n%s", e.Seq, d)
			}
			if len(e.Deliveries) != 1 || e.Deliveries[0].Seq != e.Seq || strings.Contains(e.Deliveries[0].ID, ".") {
				rt.Fatalf("event %d has deliveries %+v", e.Seq, e.Deliveries)
			}
			last[e.Alert.ID] = e
		}
		unresolved := map[string]bool{}
		stored := map[string]alerting.Alert{}
		for _, al := range b["alerts"].([]alerting.Alert) {
			stored[al.ID] = al
			if d := cmp.Diff(last[al.ID].Alert, al); d != "" {
				rt.Fatalf("alert %s is not as its last event left it (-event +alert):\n%s", al.ID, d)
			}
			if key := string(al.PatientID) + "/" + string(al.Rule); al.State != alerting.Resolved {
				if unresolved[key] {
					rt.Fatalf("%s is open twice", key)
				}
				unresolved[key] = true
			}
		}
		if len(stored) != len(last) || once.Cursor() != uint64(batches) {
			rt.Fatalf("%d alerts for %v, cursor %d of %d", len(stored), maps.Keys(last), once.Cursor(), batches)
		}
	})
}
