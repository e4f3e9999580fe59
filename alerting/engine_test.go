package alerting_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	. "vitalwatch/alerting"
	"vitalwatch/vitals"
)

func reading(i vitals.Indicator, u vitals.Unit, at time.Duration, v ...float64) *vitals.Reading {
	r := &vitals.Reading{Patient: "P-1", Device: "D-1", Indicator: i, Unit: u, TakenAt: start.Add(at), ReceivedAt: start.Add(at), DeviceSeq: -1}
	for k, x := range v {
		r.Set(i.Components()[k], x)
	}
	return r
}

func TestPatient_Act(t *testing.T) {
	rs := mustRules(t)
	low := func(v float64) (*Patient, string, *Decisions) {
		p, out := NewPatient("P-1", rs), &Decisions{}
		p.Observe(reading(vitals.Glucose, vitals.MmolL, 0, v), out)
		id := out.Transitions[0].AlertID
		out.Reset()
		return p, id, out
	}
	const warning, critical, emergency = 3.8, 2.9, 2.1
	for _, c := range []struct {
		name  string
		value float64
		a     Action
		want  error
		kind  Kind
	}{
		{"acknowledge", warning, Action{Act: ActAcknowledge, Actor: "a"}, nil, AcknowledgedBy},
		{"without a name", warning, Action{Act: ActAcknowledge}, ErrNoActor, ""},
		{"snooze a warning", warning, Action{Act: ActSnooze, Actor: "a", Minutes: 120}, nil, Snoozed},
		{"snooze a warning for long", warning, Action{Act: ActSnooze, Actor: "a", Minutes: 121}, nil, Snoozed},
		{"snooze for nothing", warning, Action{Act: ActSnooze, Actor: "a"}, ErrSnoozeLength, ""},
		{"snooze a critical", critical, Action{Act: ActSnooze, Actor: "a", Minutes: 15}, nil, Snoozed},
		{"snooze a critical for long", critical, Action{Act: ActSnooze, Actor: "a", Minutes: 30}, nil, Snoozed},
		{"snooze an emergency", emergency, Action{Act: ActSnooze, Actor: "a", Minutes: 1}, ErrNoSnooze, ""},
		{"resolve", emergency, Action{Act: ActResolve, Actor: "a", Outcome: "ate sugar"}, nil, ResolvedBy},
		{"note", warning, Action{Act: ActNote, Actor: "a", Note: "called"}, nil, Noted},
		{"something else", warning, Action{Act: "dance", Actor: "a"}, ErrUnknownAct, ""},
		{"another alert", warning, Action{Act: ActResolve, Actor: "a", AlertID: "x"}, ErrNotOpen, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, id, out := low(c.value)
			if c.a.AlertID == "" {
				c.a.AlertID = id
			}
			before := p.Open()
			err := p.Act(c.a, start.Add(time.Minute), out)
			if !errors.Is(err, c.want) {
				t.Fatalf("got error %v, want %v", err, c.want)
			}
			if err != nil {
				if len(out.Transitions) > 0 || !cmp.Equal(before, p.Open()) {
					t.Fatalf("refused, and yet: %+v, %+v", out.Transitions, p.Open())
				}
				return
			}
			x := out.Transitions[0]
			if x.Kind != c.kind || x.Actor != "a" || x.AlertID != id || x.Note != c.a.Note || x.Outcome != c.a.Outcome {
				t.Errorf("got %+v", x)
			}
			if c.a.Act == ActSnooze {
				most := map[Severity]int{Warning: 120, Critical: 15}[x.Severity]
				if want := x.At.Add(time.Duration(min(c.a.Minutes, most)) * time.Minute); x.Until != want {
					t.Errorf("snoozed until %v, want %v", x.Until.Time(), want.Time())
				}
			}
		})
	}
}

func TestPatient_AcknowledgedTwiceIsRefused(t *testing.T) {
	p, out := NewPatient("P-1", mustRules(t)), &Decisions{}
	p.Observe(reading(vitals.Glucose, vitals.MmolL, 0, 3.8), out)
	a := Action{Act: ActAcknowledge, Actor: "a", AlertID: out.Transitions[0].AlertID}
	if err := p.Act(a, start, out); err != nil {
		t.Fatal(err)
	}
	if err := p.Act(a, start, out); !errors.Is(err, ErrAcknowledged) {
		t.Fatalf("got %v", err)
	}
	// Getting worse needs a human again.
	p.Observe(reading(vitals.Glucose, vitals.MmolL, time.Minute, 2.9), out)
	if err := p.Act(a, start.Add(2*time.Minute), out); err != nil {
		t.Fatalf("after worsening: %v", err)
	}
}

func TestPatient_AfterAResolveANewReadingOpensANewAlert(t *testing.T) {
	p, out := NewPatient("P-1", mustRules(t)), &Decisions{}
	p.Observe(reading(vitals.Glucose, vitals.MmolL, 0, 2.9), out)
	first := out.Transitions[0].AlertID
	if err := p.Act(Action{Act: ActResolve, Actor: "a", AlertID: first}, start.Add(time.Second), out); err != nil {
		t.Fatal(err)
	}
	p.Tick(start.Add(time.Hour), out)
	if len(p.Open()) != 0 {
		t.Fatal("time opened it again")
	}
	out.Reset()
	p.Observe(reading(vitals.Glucose, vitals.MmolL, 5*time.Minute, 2.9), out)
	if len(out.Transitions) != 1 || out.Transitions[0].Kind != Opened || out.Transitions[0].AlertID == first {
		t.Fatalf("got %+v", out.Transitions)
	}
}

// An alert whose rule is gone stays until a human ends it.
func TestPatient_SetRulesKeepsOpenAlerts(t *testing.T) {
	p, out := NewPatient("P-1", mustRules(t)), &Decisions{}
	p.Observe(reading(vitals.Glucose, vitals.MmolL, 0, 2.9), out)
	id := out.Transitions[0].AlertID
	other, err := NewRuleSet(testRules()[2:], nil)
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	p.SetRules(other)
	for n := range 5 {
		p.Observe(reading(vitals.Glucose, vitals.MmolL, time.Duration(n+1)*time.Hour, 6), out)
	}
	p.Tick(start.Add(100*time.Hour), out)
	if got := p.Open(); len(got) != 1 || got[0].ID != id || len(out.Transitions) != 0 {
		t.Fatalf("open %+v, transitions %+v", got, out.Transitions)
	}
	if err := p.Act(Action{Act: ActResolve, Actor: "a", AlertID: id}, start, out); err != nil || len(p.Open()) != 0 {
		t.Fatalf("resolve: %v, open %+v", err, p.Open())
	}
}

func TestPatient_InvalidAndDisplayOnlyAreNeverJudged(t *testing.T) {
	p, out := NewPatient("P-1", mustRules(t)), &Decisions{}
	bad := reading(vitals.Glucose, vitals.MmolL, 0, 2.0)
	bad.Quality = vitals.Invalid
	shown := reading(vitals.Glucose, vitals.MmolL, time.Minute, 2.0)
	shown.Flags = vitals.DisplayOnly
	for _, r := range []*vitals.Reading{bad, shown} {
		for _, f := range []vitals.Freshness{vitals.Live, vitals.Late} {
			r.Freshness = f
			p.Observe(r, out)
		}
	}
	if len(out.Transitions)+len(out.Findings) != 0 {
		t.Fatalf("got %+v", out)
	}
}

func TestPatient_Findings(t *testing.T) {
	rs := mustRules(t)
	for _, c := range []struct {
		name string
		do   func(*vitals.Reading)
		want Severity
	}{
		{"late", func(r *vitals.Reading) { r.Freshness = vitals.Late }, Critical},
		{"history", func(r *vitals.Reading) { r.Freshness = vitals.Backfill }, Critical},
		{"doubtful clock", func(r *vitals.Reading) { r.Freshness = vitals.Doubtful }, Critical},
		{"live, but older than the newest", func(r *vitals.Reading) { r.TakenAt -= vitals.Minute }, Critical},
		{"late and suspect, of a rule that waits for no repeat", func(r *vitals.Reading) { r.Freshness, r.Quality = vitals.Late, vitals.Suspect }, Critical},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, out := NewPatient("P-1", rs), &Decisions{}
			p.Observe(reading(vitals.Glucose, vitals.MmolL, 0, 6), out)
			r := reading(vitals.Glucose, vitals.MmolL, 0, 2.9)
			c.do(r)
			p.Observe(r, out)
			want := []Finding{{Patient: "P-1", Rule: "glucose_low", Condition: "test", Day: "2026-03-01", Severity: c.want,
				Title: testRules()[0].Title, First: r.TakenAt, Last: r.TakenAt, Readings: 1, WorstID: r.ID()}}
			if len(want[0].Title) == 0 {
				want[0].Title = Text{"zh-CN": "规则", "en": "rule"}
			}
			if d := cmp.Diff(want, out.Findings); d != "" || len(out.Transitions) != 0 {
				t.Fatalf("%s\n%+v", d, out.Transitions)
			}
		})
	}
	t.Run("late and suspect, of a rule that waits", func(t *testing.T) {
		p, out := NewPatient("P-1", rs), &Decisions{}
		r := reading(vitals.BloodPressure, vitals.MmHg, 0, 190, 120)
		r.Freshness, r.Quality = vitals.Late, vitals.Suspect
		p.Observe(r, out)
		if len(out.Findings) != 0 {
			t.Fatalf("got %+v", out.Findings)
		}
	})
}

// The explanations are reviewed as text in testdata/explain.json; UPDATE=1 rewrites them.
func TestExplanations(t *testing.T) {
	p, out := NewPatient("P-1", mustRules(t)), &Decisions{}
	suspect := reading(vitals.BloodPressure, vitals.MmHg, 2*time.Minute, 200, 110, 0, 88)
	suspect.Has &^= 1 << 2
	suspect.Quality, suspect.Flags = vitals.Suspect, vitals.Movement
	for _, r := range []*vitals.Reading{
		reading(vitals.BloodPressure, vitals.MmHg, 0, 182, 95),
		suspect,
		reading(vitals.BloodPressure, vitals.MmHg, 10*time.Minute, 120, 80),
		reading(vitals.Glucose, vitals.MgDL, 20*time.Minute, 53),
		reading(vitals.Glucose, vitals.MgDL, 28*time.Minute, 52),
		reading(vitals.Glucose, vitals.MmolL, 36*time.Minute, 2.8),
		reading(vitals.Glucose, vitals.MgDL, 41*time.Minute, 65),
		reading(vitals.Glucose, vitals.MgDL, 46*time.Minute, 66),
		reading(vitals.Weight, vitals.Kg, 50*time.Minute, 70.1),
		reading(vitals.Weight, vitals.Jin, 24*time.Hour, 144.6),
	} {
		p.Observe(r, out)
	}
	type told struct {
		Kind        Kind
		Rule        RuleID
		Severity    Severity
		Explanation json.RawMessage
	}
	var got []told
	for _, x := range out.Transitions {
		if x.Explanation != nil {
			got = append(got, told{x.Kind, x.Rule, x.Severity, x.Explanation})
		}
		if strings.Contains(string(x.Explanation), "诊断") || strings.Contains(strings.ToLower(string(x.Explanation)), "diagnos") {
			t.Errorf("%s %s makes a diagnosis", x.Rule, x.Kind)
		}
	}
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/explain.json"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(b)+"\n"); d != "" {
		t.Errorf("-%s +now\n%s", file, d)
	}
}

// A device whose clock is ahead must not hide another device's low.
func TestPatient_ADangerousReadingDoesNotHideBehindAnotherDevicesClock(t *testing.T) {
	for _, c := range []struct {
		name   string
		device vitals.DeviceID
		value  float64
		want   []Kind
	}{
		{"critical, another device", "D-meter", 2.9, []Kind{Opened}},
		{"emergency, another device", "D-meter", 2.1, []Kind{Opened}},
		{"warning, another device", "D-meter", 3.8, nil},
		{"calm, another device", "D-meter", 6.0, nil},
		{"critical, the same device fills a gap", "D-1", 2.9, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, out := NewPatient("P-1", mustRules(t)), &Decisions{}
			ahead := reading(vitals.Glucose, vitals.MmolL, 4*time.Minute, 6.0)
			ahead.Device, ahead.ReceivedAt = "D-1", start
			p.Observe(ahead, out)
			r := reading(vitals.Glucose, vitals.MmolL, time.Minute, c.value)
			r.Device = c.device
			p.Observe(r, out)
			var got []Kind
			for _, x := range out.Transitions {
				got = append(got, x.Kind)
			}
			if !cmp.Equal(got, c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			if low := c.value < 3.9; low != (len(got)+len(out.Findings) == 1) {
				t.Errorf("told %v and findings %v", got, out.Findings)
			}
			// It ends like every other: by readings that clear it, not by those before it.
			p.Tick(start.Add(time.Hour), out)
			if len(p.Open()) != len(c.want) {
				t.Fatalf("open after an hour of silence: %+v", p.Open())
			}
		})
	}
}
