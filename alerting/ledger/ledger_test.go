package ledger_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// t0 is the instant from which the tests count.
var t0 = vitals.At(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC))

// everything routes every event to its hooks, with the sequence as body.
type everything []string

func (hooks everything) Route(e *alerting.Event) []alerting.Delivery {
	var out []alerting.Delivery
	for _, h := range hooks {
		out = append(out, alerting.Delivery{Hook: h, Type: "alert." + string(e.Transition.Kind), Body: fmt.Appendf(nil, `{"seq":%d}`, e.Seq)})
	}
	return out
}

// clock is a hand-set clock.
type clock struct {
	mu sync.Mutex
	at vitals.Micros
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at.Time() }
func (c *clock) Add(d vitals.Micros) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at += d
}

func openDB(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t testing.TB, path string, o ledger.Options) *ledger.Ledger {
	t.Helper()
	if o.Now == nil {
		o.Now = (&clock{at: t0}).Now
	}
	l, err := ledger.Open(context.Background(), openDB(t, path), o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func opened(id, patient, rule string, s alerting.Severity, at vitals.Micros) alerting.Transition {
	return alerting.Transition{AlertID: id, Patient: vitals.PatientID(patient), Rule: alerting.RuleID(rule), Condition: "general",
		Kind: alerting.Opened, Severity: s, At: at, ReceivedAt: at, Title: alerting.Text{"en": "Glucose low", "zh-CN": "血糖低"},
		Trigger: &alerting.Trigger{ReadingID: "r-" + id, Indicator: "glucose", Values: map[string]float64{"value": 2.9}, Unit: "mmol/L",
			TakenAt: "2026-11-21T08:00:00.000Z", ReceivedAt: "2026-11-21T08:00:00.000Z", DeviceID: "D-1"},
		Explanation: json.RawMessage(`{"why":"opened"}`)}
}

func then(id string, k alerting.Kind, s alerting.Severity, at vitals.Micros) alerting.Transition {
	return alerting.Transition{AlertID: id, Kind: k, Severity: s, At: at}
}

func by(t alerting.Transition, actor, note string) alerting.Transition {
	t.Actor, t.Note = actor, note
	return t
}

func commit(t testing.TB, l *ledger.Ledger, ts ...alerting.Transition) []ledger.Event {
	t.Helper()
	events, err := l.Commit(context.Background(), ledger.Batch{Transitions: ts})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestCommit_LifeOfAnAlert(t *testing.T) {
	type shown struct {
		State                                  alerting.State
		Severity                               alerting.Severity
		Signal, AckBy, Snoozed, Lost, Resolved string
	}
	show := func(a alerting.Alert) shown {
		return shown{a.State, a.Severity, a.Signal, string(a.AcknowledgedBy), string(a.SnoozedUntil), a.SignalLostAt, a.ResolvedBy + a.Outcome}
	}
	const min2, min3 = "2026-11-21T08:02:00.000Z", "2026-11-21T08:03:00.000Z"
	m := vitals.Minute
	snooze := then("a", alerting.Snoozed, 0, t0+m)
	snooze.Until = t0 + 3*m
	resolve := by(then("a", alerting.ResolvedBy, 0, t0+2*m), "wang", "called")
	resolve.Outcome = "advised"
	for _, c := range []struct {
		name  string
		after []alerting.Transition
		want  shown
		kinds []alerting.Kind // of the events; nil: those of after
	}{
		{name: "worsened opens an acknowledged alert again", after: []alerting.Transition{
			by(then("a", alerting.AcknowledgedBy, 0, t0+m), "li", ""), then("a", alerting.Worsened, alerting.Emergency, t0+2*m)},
			want: shown{State: alerting.Open, Severity: alerting.Emergency, Signal: "live"}},
		{name: "eased keeps the acknowledgement", after: []alerting.Transition{
			by(then("a", alerting.AcknowledgedBy, 0, t0+m), "li", ""), then("a", alerting.Eased, alerting.Info, t0+2*m)},
			want: shown{State: alerting.Acknowledged, Severity: alerting.Info, Signal: "live", AckBy: "li"}},
		{name: "snoozed stays open until then", after: []alerting.Transition{snooze},
			want: shown{State: alerting.Open, Severity: alerting.Warning, Signal: "live", Snoozed: min3}},
		{name: "worsening breaks the snooze", after: []alerting.Transition{snooze, then("a", alerting.Worsened, alerting.Critical, t0+2*m)},
			want: shown{State: alerting.Open, Severity: alerting.Critical, Signal: "live"}},
		{name: "silence breaks the snooze and resolves nothing", after: []alerting.Transition{snooze, then("a", alerting.SignalLost, 0, t0+2*m)},
			want: shown{State: alerting.Open, Severity: alerting.Warning, Signal: "lost", Lost: min2}},
		{name: "the signal comes back once", after: []alerting.Transition{then("a", alerting.SignalLost, 0, t0+m), then("a", alerting.SignalLost, 0, t0+2*m),
			then("a", alerting.SignalBack, 0, t0+3*m), then("a", alerting.SignalBack, 0, t0+4*m)},
			want: shown{State: alerting.Open, Severity: alerting.Warning, Signal: "live"}, kinds: []alerting.Kind{alerting.SignalLost, alerting.SignalBack}},
		{name: "a second acknowledgement by the same person is none, by another a take-over", after: []alerting.Transition{
			by(then("a", alerting.AcknowledgedBy, 0, t0+m), "li", ""), by(then("a", alerting.AcknowledgedBy, 0, t0+2*m), "li", ""),
			by(then("a", alerting.AcknowledgedBy, 0, t0+3*m), "wang", "")},
			want:  shown{State: alerting.Acknowledged, Severity: alerting.Warning, Signal: "live", AckBy: "wang"},
			kinds: []alerting.Kind{alerting.AcknowledgedBy, alerting.AcknowledgedBy}},
		{name: "resolved by readings", after: []alerting.Transition{then("a", alerting.ResolvedBy, 0, t0+m)},
			want: shown{State: alerting.Resolved, Severity: alerting.Warning, Signal: "live", Resolved: "values"}},
		{name: "resolved by a person; only notes come after", after: []alerting.Transition{resolve,
			then("a", alerting.Worsened, alerting.Emergency, t0+3*m), by(then("a", alerting.Noted, 0, t0+4*m), "li", "slept well")},
			want:  shown{State: alerting.Resolved, Severity: alerting.Warning, Signal: "live", Resolved: "wangadvised"},
			kinds: []alerting.Kind{alerting.ResolvedBy, alerting.Noted}},
		{name: "escalated and noted leave it as it is", after: []alerting.Transition{then("a", alerting.Escalated, 0, t0+m), by(then("a", alerting.Noted, 0, t0+2*m), "li", "x")},
			want: shown{State: alerting.Open, Severity: alerting.Warning, Signal: "live"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{})
			commit(t, l, opened("a", "P-1", "glucose_low", alerting.Warning, t0))
			var kinds, want []alerting.Kind
			for _, tr := range c.after {
				want = append(want, tr.Kind)
				for _, e := range commit(t, l, tr) {
					kinds = append(kinds, e.Transition.Kind)
				}
			}
			if c.kinds != nil {
				want = c.kinds
			}
			if d := cmp.Diff(want, kinds); d != "" {
				t.Errorf("events (-want +got):\n%s", d)
			}
			a, history, err := l.Alert(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, show(a)); d != "" {
				t.Errorf("alert (-want +got):\n%s", d)
			}
			if len(history) != len(want)+1 || a.Seq != history[len(history)-1].Seq || a.UpdatedAt != history[len(history)-1].At {
				t.Errorf("history has %d entries, the alert stands at %d %s", len(history), a.Seq, a.UpdatedAt)
			}
			if a.OpenedAt != "2026-11-21T08:00:00.000Z" || a.Title["en"] != "Glucose low" || a.Trigger.ReadingID != "r-a" {
				t.Errorf("what opened it is gone: %+v", a)
			}
			events, oldest, err := l.Since(t.Context(), 0, 100)
			if err != nil || oldest != 1 || len(events) != len(history) {
				t.Fatalf("Since = %d events from %d (%v), want %d from 1", len(events), oldest, err, len(history))
			}
			if events[len(events)-1].Alert.State != a.State {
				t.Errorf("the last event shows %q, the alert is %q", events[len(events)-1].Alert.State, a.State)
			}
		})
	}
}

func TestCommit_EventsAreWhatSinceReturns(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{})
	eased := then("a", alerting.Eased, alerting.Warning, t0+2)
	eased.Trigger = &alerting.Trigger{ReadingID: "r-eased", Indicator: "glucose"}
	eased.Explanation = json.RawMessage(`{"why":"eased"}`)
	var told []ledger.Event
	l.Subscribe(func(es []ledger.Event) { told = append(told, es...) })
	got := commit(t, l, opened("a", "P-1", "glucose_low", alerting.Critical, t0), opened("b", "P-2", "glucose_low", alerting.Info, t0+1), eased,
		by(then("b", alerting.Noted, 0, t0+3), "li", "note"), then("a", alerting.ResolvedBy, 0, t0+4))
	back, _, err := l.Since(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, back); d != "" {
		t.Errorf("Commit and Since differ (-commit +since):\n%s", d)
	}
	if d := cmp.Diff(got, told); d != "" {
		t.Errorf("Commit and the subscriber differ (-commit +told):\n%s", d)
	}
	if e := got[4]; e.Highest != alerting.Critical || e.Alert.Severity != alerting.Warning || e.Transition.Actor != "values" {
		t.Errorf("resolved event = highest %v, severity %v, actor %q", e.Highest, e.Alert.Severity, e.Transition.Actor)
	}
	if string(got[2].Alert.Explanation) != `{"why":"eased"}` || got[2].Alert.Trigger.ReadingID != "r-eased" || got[2].Transition.Trigger.ReadingID != "r-eased" {
		t.Errorf("eased event: %+v", got[2])
	}
	for i, e := range got {
		if e.Seq != uint64(i+1) || e.Alert.Seq != e.Seq {
			t.Errorf("event %d has seq %d, its alert %d", i, e.Seq, e.Alert.Seq)
		}
	}
	page, _, err := l.Since(t.Context(), 2, 2)
	if err != nil || len(page) != 2 || page[0].Seq != 3 {
		t.Errorf("Since(2, 2) = %d events (%v)", len(page), err)
	}
}

func TestCommit_ReplayChangesNothing(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{Router: everything{"desk"}})
	b := ledger.Batch{Cursor: 7, Transitions: []alerting.Transition{
		opened("a", "P-1", "glucose_low", alerting.Warning, t0), then("a", alerting.Worsened, alerting.Critical, t0+1),
		then("a", alerting.Eased, alerting.Warning, t0+1), then("a", alerting.SignalLost, 0, t0+2), then("a", alerting.ResolvedBy, 0, t0+3),
		opened("b", "P-1", "glucose_low", alerting.Warning, t0+4)},
		Findings: []alerting.Finding{{Patient: "P-1", Rule: "glucose_low", Day: "2026-11-20", Severity: alerting.Warning, First: 1, Last: 2, Readings: 3, WorstID: "x"}}}
	first, err := l.Commit(t.Context(), b)
	if err != nil || len(first) != 6 {
		t.Fatalf("Commit = %d events (%v), want 6", len(first), err)
	}
	before := dump(t, l)
	for range 2 {
		again, err := l.Commit(t.Context(), b)
		if err != nil || len(again) != 0 {
			t.Fatalf("Commit of the same batch = %d events (%v), want none", len(again), err)
		}
	}
	for _, tr := range b.Transitions { // not in one batch, and with others in between
		again, err := l.Commit(t.Context(), ledger.Batch{Cursor: 7, Transitions: []alerting.Transition{tr}, Findings: b.Findings})
		if err != nil || len(again) != 0 {
			t.Fatalf("%s again = %d events (%v), want none", tr.Kind, len(again), err)
		}
	}
	if d := cmp.Diff(before, dump(t, l)); d != "" {
		t.Errorf("the replay changed the ledger (-before +after):\n%s", d)
	}
	if l.Ignored() != 0 {
		t.Errorf("a replay counted %d ignored transitions", l.Ignored())
	}
	if l.Cursor() != 7 || l.Seq() != 6 {
		t.Errorf("cursor %d seq %d, want 7 and 6", l.Cursor(), l.Seq())
	}
	if _, err := l.Commit(t.Context(), ledger.Batch{Cursor: 5}); err != nil || l.Cursor() != 7 {
		t.Errorf("the cursor went back to %d (%v)", l.Cursor(), err)
	}
}

// dump is everything that can be asked of a ledger.
func dump(t testing.TB, l *ledger.Ledger) map[string]any {
	t.Helper()
	ctx := context.Background()
	events, oldest, err1 := l.Since(ctx, 0, 1_000_000)
	all, _, err2 := l.Alerts(ctx, ledger.Filter{Limit: 1000})
	out, _, err3 := l.Deliveries(ctx, ledger.DeliveryFilter{Limit: 1000})
	found, err4 := l.Findings(ctx, "P-1", "", "", 0)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return map[string]any{"events": events, "oldest": oldest, "alerts": all, "outbox": out, "findings": found,
		"cursor": l.Cursor(), "seq": l.Seq(), "epoch": l.Epoch()}
}

func TestCommit_UnknownAndResolvedAlerts(t *testing.T) {
	var logged bytes.Buffer
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{Log: zerolog.New(&logged)})
	commit(t, l, opened("a", "P-1", "glucose_low", alerting.Warning, t0), then("a", alerting.ResolvedBy, 0, t0+1))
	for i := range 3 {
		events, err := l.Commit(t.Context(), ledger.Batch{Cursor: uint64(3 + i), Transitions: []alerting.Transition{
			then("nobody", alerting.Worsened, alerting.Critical, t0+2), by(then("a", alerting.AcknowledgedBy, 0, t0+2), "li", "MARKED-NOTE"),
			opened("c", "P-3", "spo2_low", alerting.Info, t0+2)}})
		if err != nil || len(events) > 1 {
			t.Fatalf("Commit = %d events (%v)", len(events), err)
		}
	}
	if n := strings.Count(logged.String(), "\n"); n != 2 || l.Ignored() != 6 {
		t.Errorf("%d lines were logged for 2 different mistakes, %d counted, want 2 and 6:\n%s", n, l.Ignored(), logged.String())
	}
	if strings.Contains(logged.String(), "MARKED") {
		t.Errorf("a note was logged: %s", logged.String())
	}
	if _, _, err := l.Alert(t.Context(), "c"); err != nil {
		t.Errorf("the good transition of the batch is missing: %v", err)
	}
	before := dump(t, l)
	for _, c := range []struct {
		id   string
		want error
	}{{"nobody", ledger.ErrNotFound}, {"a", ledger.ErrResolved}} {
		_, err := l.Commit(t.Context(), ledger.Batch{Act: true, Transitions: []alerting.Transition{
			by(then("c", alerting.Noted, 0, t0+3), "li", "half of it"), by(then(c.id, alerting.AcknowledgedBy, 0, t0+3), "li", "")}})
		if !errors.Is(err, c.want) {
			t.Errorf("act on %q = %v, want %v", c.id, err, c.want)
		}
	}
	if d := cmp.Diff(before, dump(t, l)); d != "" {
		t.Errorf("a refused act changed the ledger (-before +after):\n%s", d)
	}
	if _, _, err := l.Alert(t.Context(), "nobody"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Alert = %v, want ErrNotFound", err)
	}
}

func TestCommit_OneOpenAlertPerPatientAndRule(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{})
	commit(t, l, opened("a", "P-1", "glucose_low", alerting.Warning, t0))
	if es := commit(t, l, opened("b", "P-1", "glucose_low", alerting.Warning, t0+1)); len(es) != 0 {
		t.Errorf("a second alert of the rule opened: %+v", es)
	}
	es := commit(t, l, opened("b", "P-1", "glucose_low", alerting.Critical, t0+2))
	if len(es) != 1 || es[0].Transition.Kind != alerting.Worsened || es[0].Alert.ID != "a" || es[0].Alert.Severity != alerting.Critical {
		t.Fatalf("a more severe one must worsen the open alert, got %+v", es)
	}
	resolve := then("b", alerting.ResolvedBy, 0, t0+3)
	resolve.Patient, resolve.Rule = "P-1", "glucose_low"
	if es = commit(t, l, resolve, opened("d", "P-1", "glucose_low", alerting.Info, t0+4)); len(es) != 2 || es[0].Alert.ID != "a" || es[1].Alert.ID != "d" {
		t.Fatalf("resolve and open again = %+v", es)
	}
	open, err := l.OpenAlerts(t.Context(), "P-1")
	if err != nil || len(open) != 1 || open[0].ID != "d" {
		t.Errorf("open = %+v (%v), want d alone", open, err)
	}
}

func TestCommit_WhatCannotStandHoldsUpNothing(t *testing.T) {
	var logged bytes.Buffer
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{Log: zerolog.New(&logged)})
	nan := opened("n", "P-9", "r", alerting.Warning, t0)
	nan.Trigger.Values["value"] = math.NaN()
	noJSON := opened("j", "P-8", "r", alerting.Warning, t0)
	noJSON.Explanation = json.RawMessage(`{"MARKED`)
	for i, bad := range []alerting.Transition{opened("", "P-1", "r", alerting.Warning, t0), opened("b", "", "r", alerting.Warning, t0),
		opened("b", "P-1", "", alerting.Warning, t0), opened("b", "P-1", "r", alerting.None, t0), nan, noJSON} {
		if _, err := l.Commit(t.Context(), ledger.Batch{Act: true, Transitions: []alerting.Transition{bad}}); err == nil || strings.Contains(err.Error(), "MARKED") {
			t.Errorf("%+v as an act = %v, want a refusal", bad, err)
		}
		good := opened(fmt.Sprint("a", i), fmt.Sprint("P-a", i), "glucose_low", alerting.Warning, t0)
		es, err := l.Commit(t.Context(), ledger.Batch{Cursor: uint64(i + 1), Transitions: []alerting.Transition{bad, good}})
		if err != nil || len(es) != 1 || es[0].Alert.ID != good.AlertID || l.Cursor() != uint64(i+1) || l.Seq() != uint64(i+1) {
			t.Errorf("%+v: %d events, cursor %d, seq %d (%v); want the good transition alone", bad, len(es), l.Cursor(), l.Seq(), err)
		}
	}
	if n := strings.Count(logged.String(), `"level":"error"`); n < 4 || strings.Contains(logged.String(), "MARKED") {
		t.Errorf("logged:\n%s", logged.String())
	}
}

func TestCommit_Idempotency(t *testing.T) {
	c := &clock{at: t0}
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{Now: c.Now, Router: everything{"desk"}})
	commit(t, l, opened("a", "P-1", "glucose_low", alerting.Warning, t0))
	var told int
	l.Subscribe(func(es []ledger.Event) { told += len(es) })
	act := func(key, who, hash string, at vitals.Micros) ([]ledger.Event, error) {
		return l.Commit(t.Context(), ledger.Batch{Act: true, Idempotency: &ledger.Idempotency{Key: key, Principal: who, BodyHash: hash},
			Transitions: []alerting.Transition{by(then("a", alerting.Noted, 0, at), who, "n")}})
	}
	first, err := act("k", "li", "h", t0+1)
	if err != nil || len(first) != 1 {
		t.Fatalf("act = %d events (%v)", len(first), err)
	}
	first[0].Deliveries = nil
	again, err := act("k", "li", "h", t0+2)
	if err != nil || cmp.Diff(first, again) != "" {
		t.Errorf("the same request again (%v) (-first +again):\n%s", err, cmp.Diff(first, again))
	}
	if stored, ok, err := l.Replayed(t.Context(), ledger.Idempotency{Key: "k", Principal: "li", BodyHash: "h"}); err != nil || !ok || cmp.Diff(first, stored) != "" {
		t.Errorf("Replayed = %v %v", ok, err)
	}
	if _, err := act("k", "li", "other", t0+3); !errors.Is(err, ledger.ErrIdempotencyMismatch) {
		t.Errorf("same key, other body = %v, want ErrIdempotencyMismatch", err)
	}
	if es, err := act("k", "wang", "other", t0+4); err != nil || len(es) != 1 || es[0].Seq != 3 {
		t.Errorf("another person's same key = %d events (%v)", len(es), err)
	}
	c.Add(24*vitals.Hour + 1)
	if es, err := act("k", "li", "other", t0+5); err != nil || len(es) != 1 || es[0].Seq != 4 {
		t.Errorf("a day later = %d events (%v), want a new act", len(es), err)
	}
	if told != 3 {
		t.Errorf("subscribers were told %d events, want 3", told)
	}
}

func TestCommit_FindingsWiden(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{})
	f := alerting.Finding{Patient: "P-1", Rule: "r", Condition: "general", Day: "2026-11-20", Severity: alerting.Warning,
		Title: alerting.Text{"en": "x"}, First: 20, Last: 30, Readings: 2, WorstID: "w1"}
	g := f
	g.First, g.Last, g.Readings, g.WorstID, g.Severity = 10, 25, 1, "w2", alerting.Critical
	h := f
	h.Day, h.Last = "2026-11-21", 99
	for i, fs := range [][]alerting.Finding{{f}, {g, h}} {
		if _, err := l.Commit(t.Context(), ledger.Batch{Cursor: uint64(i + 1), Findings: fs}); err != nil {
			t.Fatal(err)
		}
	}
	want := g
	want.First, want.Last, want.Readings = 10, 30, 3
	got, err := l.Findings(t.Context(), "P-1", "", "", 0)
	if err != nil || cmp.Diff([]alerting.Finding{h, want}, got) != "" {
		t.Errorf("findings (%v) (-want +got):\n%s", err, cmp.Diff([]alerting.Finding{h, want}, got))
	}
	if got, err = l.Findings(t.Context(), "P-1", "2026-11-20", "2026-11-20", 0); err != nil || len(got) != 1 {
		t.Errorf("one day = %d findings (%v)", len(got), err)
	}
}

func TestSubscribe_TellsInOrderWhoeverCommits(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{})
	var told []uint64
	l.Subscribe(func(es []ledger.Event) {
		for _, e := range es {
			told = append(told, e.Seq)
		}
	})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				if _, err := l.Commit(context.Background(), ledger.Batch{Transitions: []alerting.Transition{
					opened(fmt.Sprintf("a-%d-%d", g, i), fmt.Sprintf("P-%d-%d", g, i), "r", alerting.Info, t0)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(told) != 100 || !slices.IsSorted(told) || told[0] != 1 || told[99] != 100 {
		t.Errorf("told %v", told)
	}
}

func TestSubscribe_TellsEventsOfACommitOfUnknownOutcome(t *testing.T) {
	// A commit may be durable although its caller got an error; a second ledger on the same file stands for it.
	path := filepath.Join(t.TempDir(), "s.db")
	o := ledger.Options{Router: everything{"desk", "mail"}}
	l, other := open(t, path, o), open(t, path, o)
	var told []uint64
	l.Subscribe(func(es []ledger.Event) {
		for _, e := range es {
			told = append(told, e.Seq)
			if len(e.Deliveries) != 2 || e.Deliveries[1].Seq != e.Seq || len(e.Deliveries[1].Body) == 0 {
				t.Errorf("event %d came with deliveries %+v", e.Seq, e.Deliveries)
			}
		}
	})
	commit(t, l, opened("a", "P-1", "r", alerting.Info, t0))
	commit(t, other, opened("b", "P-2", "r", alerting.Info, t0), opened("c", "P-3", "r", alerting.Info, t0))
	if es := commit(t, l, opened("b", "P-2", "r", alerting.Info, t0)); len(es) != 0 { // the caller tries again
		t.Errorf("the retry opened again: %+v", es)
	}
	commit(t, l, opened("d", "P-4", "r", alerting.Info, t0))
	if d := cmp.Diff([]uint64{1, 2, 3, 4}, told); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
}

func TestAlerts_FiltersAndPages(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{})
	var ts []alerting.Transition
	for i := range 20 {
		ts = append(ts, opened(fmt.Sprintf("a-%02d", i), fmt.Sprintf("P-%d", i%4), fmt.Sprintf("r%d", i), alerting.Severity(1+i%4), t0+vitals.Micros(i)))
	}
	for i := 0; i < 20; i += 5 {
		ts = append(ts, then(fmt.Sprintf("a-%02d", i), alerting.ResolvedBy, 0, t0+100))
	}
	commit(t, l, ts...)
	long := make([]vitals.PatientID, 600)
	for i := range long {
		long[i] = vitals.PatientID(fmt.Sprintf("X-%d", i))
	}
	long = append(long, "P-1", "P-2")
	for _, c := range []struct {
		name string
		f    ledger.Filter
		want int
	}{
		{"all", ledger.Filter{}, 20}, {"open", ledger.Filter{State: "open"}, 16}, {"resolved", ledger.Filter{State: "resolved"}, 4},
		{"severity", ledger.Filter{Severity: alerting.Emergency}, 5}, {"patient", ledger.Filter{Patient: "P-1"}, 5},
		{"nobody may be seen", ledger.Filter{Patients: []vitals.PatientID{}}, 0},
		{"two may be seen", ledger.Filter{Patients: []vitals.PatientID{"P-1", "P-2"}}, 10},
		{"two of many may be seen", ledger.Filter{Patients: long}, 10},
		{"a patient that may not be seen", ledger.Filter{Patient: "P-3", Patients: long}, 0},
		{"open and allowed and severe", ledger.Filter{State: "open", Severity: alerting.Warning, Patients: long}, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.Limit = 3
			var got []string
			for pages := 0; ; pages++ {
				items, next, err := l.Alerts(t.Context(), c.f)
				if err != nil || len(items) > 3 || pages > 10 {
					t.Fatalf("page %d: %d items (%v)", pages, len(items), err)
				}
				for _, a := range items {
					got = append(got, a.ID)
				}
				if c.f.Cursor = next; next == "" {
					break
				}
			}
			newest := slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(b, a) })
			if len(got) != c.want || !newest || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("got %d %v, want %d, newest first, each once", len(got), got, c.want)
			}
		})
	}
	if _, _, err := l.Alerts(t.Context(), ledger.Filter{Cursor: "x"}); !errors.Is(err, ledger.ErrBadCursor) {
		t.Errorf("bad cursor = %v", err)
	}
	if _, _, err := l.Alerts(t.Context(), ledger.Filter{State: "closed"}); err == nil {
		t.Error("an unknown state was accepted")
	}
	if all, err := l.AllOpen(t.Context()); err != nil || len(all) != 16 {
		t.Errorf("AllOpen = %d (%v), want 16", len(all), err)
	}
}

func TestOutbox_SettleRetryExpire(t *testing.T) {
	c := &clock{at: t0}
	l := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{Now: c.Now, Router: everything{"desk", "mail"}})
	commit(t, l, opened("a", "P-1", "r", alerting.Critical, t0), then("a", alerting.Worsened, alerting.Emergency, t0+1), opened("b", "P-2", "r", alerting.Info, t0))
	pending := func(hook string, after uint64) (out []uint64) {
		t.Helper()
		ds, err := l.Pending(t.Context(), hook, after, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			out = append(out, d.Seq)
		}
		return out
	}
	if d := cmp.Diff([]uint64{1, 2, 3}, pending("desk", 0)); d != "" {
		t.Fatal(d)
	}
	var told []ledger.Event
	l.Subscribe(func(es []ledger.Event) { told = append(told, es...) })
	settle := func(ss ...alerting.Settlement) {
		t.Helper()
		for range 2 { // settling again changes nothing
			if err := l.Settle(t.Context(), ss); err != nil {
				t.Fatal(err)
			}
		}
	}
	settle(alerting.Settlement{Hook: "desk", Seq: 1, State: alerting.Delivered, Attempts: 1, At: t0 + 5, AcceptedBy: " Dr\x00. Zhang\u202e "},
		alerting.Settlement{Hook: "desk", Seq: 2, State: alerting.Pending, Attempts: 3, NextAt: t0 + 60, Error: "timeout", At: t0 + 6},
		alerting.Settlement{Hook: "desk", Seq: 3, State: alerting.Dead, Attempts: 9, Error: "http_500", At: t0 + 7})
	if d := cmp.Diff([]uint64{2, 4}, pending("desk", 0)); d != "" { // 4 is the receipt's own event
		t.Errorf("pending (-want +got):\n%s", d)
	}
	a, history, err := l.Alert(t.Context(), "a")
	if err != nil || a.AcceptedBy != "Dr. Zhang" || a.State != alerting.Open {
		t.Errorf("accepted by %q, state %q (%v)", a.AcceptedBy, a.State, err)
	}
	if h := history[len(history)-1]; h.Kind != alerting.Noted || h.Actor != "hook desk" || h.Outcome != "accepted" || h.Note != "Dr. Zhang" {
		t.Errorf("history ends with %+v", h)
	}
	if len(told) != 1 || told[0].Alert.AcceptedBy != "Dr. Zhang" || told[0].Seq != 4 {
		t.Errorf("the receipt was told as %+v", told)
	}
	dead, _, err := l.Deliveries(t.Context(), ledger.DeliveryFilter{State: alerting.Dead})
	if err != nil || len(dead) != 1 || dead[0].Seq != 3 || dead[0].Error != "http_500" || dead[0].DoneAt != t0+7 || dead[0].Attempts != 9 {
		t.Fatalf("dead = %+v (%v)", dead, err)
	}
	c.Add(vitals.Hour)
	d, err := l.Retry(t.Context(), dead[0].ID)
	if err != nil || d.State != alerting.Pending || d.Since != t0+vitals.Hour || d.ID != dead[0].ID || string(d.Body) != `{"seq":3}` {
		t.Errorf("Retry = %+v (%v)", d, err)
	}
	if d := cmp.Diff([]uint64{3, 4}, pending("desk", 2)); d != "" {
		t.Errorf("pending after retry (-want +got):\n%s", d)
	}
	if _, err := l.Retry(t.Context(), "nope"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Retry of nothing = %v", err)
	}
	one, _, err := l.Deliveries(t.Context(), ledger.DeliveryFilter{State: alerting.Delivered})
	if err != nil || len(one) != 1 {
		t.Fatal(err, one)
	}
	if _, err := l.Retry(t.Context(), one[0].ID); !errors.Is(err, ledger.ErrDelivered) {
		t.Errorf("Retry of a delivered one = %v", err)
	}
	gone, err := l.Expire(t.Context(), []string{"desk"}, t0+1, "hook_unknown", 10)
	if err != nil || len(gone) != 4 || gone[0].Hook != "mail" || gone[0].State != alerting.Dead {
		t.Errorf("Expire = %+v (%v), want mail's four", gone, err)
	}
	var ids []string
	f := ledger.DeliveryFilter{Limit: 3}
	for {
		items, next, err := l.Deliveries(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range items {
			ids = append(ids, d.ID)
			if strings.Contains(d.ID, ".") {
				t.Errorf("id %q has a dot", d.ID)
			}
		}
		if f.Cursor = next; next == "" {
			break
		}
	}
	slices.Sort(ids)
	if len(ids) != 8 || len(slices.Compact(ids)) != 8 {
		t.Errorf("pages gave %d ids, want 8 different ones", len(ids))
	}
	for range 2 {
		if err := l.DisableHook(t.Context(), "mail", "http_410"); err != nil {
			t.Fatal(err)
		}
	}
	if ds, err := l.DisabledHooks(t.Context()); err != nil || len(ds) != 1 || ds[0].Hook != "mail" || ds[0].Error != "http_410" {
		t.Errorf("disabled = %+v (%v)", ds, err)
	}
	if err := l.EnableHook(t.Context(), "mail"); err != nil {
		t.Fatal(err)
	}
	if ds, err := l.DisabledHooks(t.Context()); err != nil || len(ds) != 0 {
		t.Errorf("disabled = %+v (%v)", ds, err)
	}
}

func TestPrune(t *testing.T) {
	c := &clock{at: t0}
	path := filepath.Join(t.TempDir(), "s.db")
	l := open(t, path, ledger.Options{Now: c.Now, Router: everything{"desk"}, Keep: 10})
	var ts []alerting.Transition
	for i := range 1300 { // more than two steps
		if i == 1290 {
			c.Add(48 * vitals.Hour)
		}
		ts = append(ts, opened(fmt.Sprint("a", i), fmt.Sprint("P", i), "r", alerting.Info, vitals.At(c.Now())))
	}
	commit(t, l, ts...)
	if err := l.Settle(t.Context(), []alerting.Settlement{{Hook: "desk", Seq: 1, State: alerting.Delivered, At: t0}, {Hook: "desk", Seq: 2, State: alerting.Dead, At: t0}}); err != nil {
		t.Fatal(err)
	}
	c.Add(6 * vitals.Day)
	if err := l.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	check := func(l *ledger.Ledger) {
		t.Helper()
		events, oldest, err := l.Since(t.Context(), 5, 10_000)
		if err != nil || oldest != 1291 || len(events) != 10 || events[0].Seq != 1291 || events[0].Alert.ID != "a1290" {
			t.Fatalf("Since(5) = %d events, oldest %d (%v), want 10 from 1291", len(events), oldest, err)
		}
		_, history, err := l.Alert(t.Context(), "a3")
		if err != nil || len(history) != 1 || history[0].Seq != 4 {
			t.Errorf("a pruned alert's history = %+v (%v)", history, err)
		}
		ds, _, err := l.Deliveries(t.Context(), ledger.DeliveryFilter{AlertID: "a0"})
		if err != nil || len(ds) != 0 {
			t.Errorf("the delivered row is still there: %+v (%v)", ds, err)
		}
		if ds, _, err = l.Deliveries(t.Context(), ledger.DeliveryFilter{State: alerting.Dead}); err != nil || len(ds) != 1 {
			t.Errorf("the dead row is gone: %+v (%v)", ds, err)
		}
	}
	check(l)
	check(open(t, path, ledger.Options{}))
	if es := commit(t, l, opened("z", "P-z", "r", alerting.Info, t0)); es[0].Seq != 1301 {
		t.Errorf("the next event has seq %d, want 1301", es[0].Seq)
	}
}

func TestOpen_EpochIsOfTheDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	a := open(t, path, ledger.Options{})
	commit(t, a, opened("a", "P-1", "r", alerting.Info, t0))
	if b := open(t, path, ledger.Options{}); b.Epoch() != a.Epoch() || b.Seq() != 1 || a.Epoch() == "" {
		t.Errorf("reopened: epoch %q seq %d, want %q and 1", b.Epoch(), b.Seq(), a.Epoch())
	}
	if c := open(t, filepath.Join(t.TempDir(), "s.db"), ledger.Options{}); c.Epoch() == a.Epoch() {
		t.Error("two databases have one epoch")
	}
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"))
	if _, err := ledger.Open(t.Context(), db, ledger.Options{NewEpoch: func() string { return "a.b" }}); err == nil {
		t.Error("an epoch with a dot would make webhook ids with one; it was accepted")
	}
}

// TestCrash cuts the write-ahead log at every kind of place, as a crash or a power loss would, and checks that what
// is found is exactly what some commit left: alerts, history, outbox, findings and cursor together.
func TestCrash_TheTransactionIsWholeOrAbsent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.db")
	l := open(t, path, ledger.Options{Router: everything{"desk"}})
	if err := func() error { // the schema goes to the main file, so that the log holds only the commits
		db := openDB(t, path)
		_, err := db.Reader().Exec(`SELECT 1`)
		return errors.Join(err, db.Checkpoint(t.Context()))
	}(); err != nil {
		t.Fatal(err)
	}
	type state struct{ seq, cursor uint64 }
	want := map[state]map[string]any{{0, 0}: dump(t, l)}
	for i := range 12 {
		id := fmt.Sprint("a", i)
		if _, err := l.Commit(t.Context(), ledger.Batch{Cursor: uint64(10 + i), Transitions: []alerting.Transition{
			opened(id, fmt.Sprint("P-", i), "r", alerting.Warning, t0), then(id, alerting.Worsened, alerting.Critical, t0+1)},
			Findings: []alerting.Finding{{Patient: "P-1", Rule: "r", Day: "2026-11-20", Readings: 1, First: 1, Last: 1, Severity: alerting.Info}}}); err != nil {
			t.Fatal(err)
		}
		want[state{l.Seq(), l.Cursor()}] = dump(t, l)
	}
	main, err1 := os.ReadFile(path)
	wal, err2 := os.ReadFile(path + "-wal")
	if err := errors.Join(err1, err2); err != nil || len(wal) < 50_000 {
		t.Fatalf("log of %d bytes (%v)", len(wal), err)
	}
	seen := map[state]bool{}
	const frame = 4096 + 24
	cuts := []int{0, 10, 32, len(wal)}
	for at := 32; at < len(wal); at += frame { // at a frame's end, in its header, in its page
		cuts = append(cuts, at+[]int{0, 13, frame / 2}[at/frame%3])
	}
	for _, at := range cuts {
		cut := slices.Clone(wal[:min(at, len(wal))])
		if at%2 == 0 { // what was there before may follow
			cut = append(cut, bytes.Repeat([]byte{0xA5}, 5000)...)
		}
		sub, err := os.MkdirTemp(dir, "crash")
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(sub, "s.db")
		if err := errors.Join(os.WriteFile(p, main, 0o600), os.WriteFile(p+"-wal", cut, 0o600)); err != nil {
			t.Fatal(err)
		}
		db, err := sqlite.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ledger.Open(t.Context(), db, ledger.Options{Router: everything{"desk"}, Now: (&clock{at: t0}).Now})
		if err != nil {
			t.Fatalf("cut at %d: %v", at, err)
		}
		s := state{r.Seq(), r.Cursor()}
		if want[s] == nil {
			t.Fatalf("cut at %d: seq %d with cursor %d was never committed", at, s.seq, s.cursor)
		}
		if d := cmp.Diff(want[s], dump(t, r)); d != "" {
			t.Fatalf("cut at %d (-committed +found):\n%s", at, d)
		}
		seen[s] = true
		// The monitor evaluates again from the cursor and decides the same: nothing doubles.
		if i := int(s.cursor); i >= 10 {
			id := fmt.Sprint("a", i-10)
			if es := commit(t, r, opened(id, fmt.Sprint("P-", i-10), "r", alerting.Warning, t0)); len(es) != 0 {
				t.Fatalf("cut at %d: the replay opened again", at)
			}
		}
		db.Close()
		os.RemoveAll(sub)
	}
	if len(seen) < 10 {
		t.Errorf("only %d different states were found, the cuts do not cut", len(seen))
	}
}

func TestCommit_FailureLeavesNothing(t *testing.T) {
	// The last statement of the transaction fails: nothing of it may stay.
	path := filepath.Join(t.TempDir(), "s.db")
	l := open(t, path, ledger.Options{Router: everything{"desk"}})
	commit(t, l, opened("a", "P-1", "r", alerting.Info, t0))
	before := dump(t, l)
	raw, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	trigger := `CREATE TRIGGER boom BEFORE UPDATE ON ledger_counters WHEN NEW.name = 'seq' BEGIN SELECT RAISE(ABORT, 'boom'); END`
	if _, err := raw.Exec(trigger); err != nil {
		t.Fatal(err)
	}
	var told int
	l.Subscribe(func(es []ledger.Event) { told += len(es) })
	b := ledger.Batch{Cursor: 4, Transitions: []alerting.Transition{opened("b", "P-2", "r", alerting.Info, t0)},
		Findings: []alerting.Finding{{Patient: "P-1", Rule: "r", Day: "2026-11-20", Readings: 1}}}
	if _, err := l.Commit(t.Context(), b); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Fatalf("Commit = %v, want boom", err)
	}
	if d := cmp.Diff(before, dump(t, l)); d != "" || told != 0 {
		t.Errorf("told %d; the failed commit left (-before +after):\n%s", told, d)
	}
	if _, err := raw.Exec(`DROP TRIGGER boom`); err != nil {
		t.Fatal(err)
	}
	if es, err := l.Commit(t.Context(), b); err != nil || len(es) != 1 || es[0].Seq != 2 || told != 1 {
		t.Errorf("after the fault: %d events, told %d (%v)", len(es), told, err)
	}
}

// go test -run - -bench Commit ./alerting/ledger
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("transitions=%d", size), func(b *testing.B) {
			l := open(b, filepath.Join(b.TempDir(), "s.db"), ledger.Options{Router: everything{"desk"}, Log: zerolog.New(io.Discard)})
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				ts := make([]alerting.Transition, 0, size)
				for range (size + 1) / 2 {
					id := fmt.Sprint("a", n)
					ts = append(ts, opened(id, fmt.Sprint("P", n), "r", alerting.Warning, t0))
					if len(ts) < size {
						ts = append(ts, then(id, alerting.Worsened, alerting.Critical, t0+1))
					}
					n++
				}
				if _, err := l.Commit(context.Background(), ledger.Batch{Cursor: uint64(n), Transitions: ts}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "transitions/s")
		})
	}
}
