package alerting_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	. "vitalwatch/alerting"
	"vitalwatch/vitals"
)

var t0 = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// failed is a device's word at a minute that it could not measure.
func failed(device vitals.DeviceID, i vitals.Indicator, minute int, class, code string) *vitals.Reading {
	at := vitals.At(t0) + vitals.Micros(minute)*vitals.Minute
	return &vitals.Reading{Patient: "P-1", Device: device, Indicator: i, TakenAt: at, ReceivedAt: at + vitals.Second, DeviceSeq: -1, OffsetMin: vitals.NoOffset,
		Quality: vitals.Invalid, Extra: &vitals.Extra{Fault: vitals.DeviceFault{Class: class, Code: code}}}
}

// measured is a calm cuff reading.
func measured(device vitals.DeviceID, minute int) *vitals.Reading {
	at := vitals.At(t0) + vitals.Micros(minute)*vitals.Minute
	return &vitals.Reading{Patient: "P-1", Device: device, Indicator: vitals.BloodPressure, Unit: vitals.MmHg, TakenAt: at, ReceivedAt: at + vitals.Second,
		V: [6]float64{120, 80}, Has: 3, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
}

func as(r *vitals.Reading, f func(*vitals.Reading)) *vitals.Reading { f(r); return r }

func TestPatient_DeviceErrors(t *testing.T) {
	suspect := func(r *vitals.Reading) { r.Quality = vitals.Suspect }
	late := func(r *vitals.Reading) { r.Freshness = vitals.Late }
	doubtful := func(r *vitals.Reading) { r.Freshness = vitals.Doubtful }
	bp := vitals.BloodPressure
	for _, c := range []struct {
		name string
		in   []*vitals.Reading
		want string
	}{
		{"opens", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1")}, "opened device_error/cuff/a warning"},
		{"a good reading of the device ends it", []*vitals.Reading{failed("a", bp, 0, "motion", "E4"), measured("a", 2)},
			"opened device_error/motion/a info, resolved device_error/motion/a info"},
		{"of another device does not", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), measured("b", 2)}, "opened device_error/cuff/a warning"},
		{"of another indicator does not", []*vitals.Reading{failed("a", vitals.SpO2, 0, "sensor", "E1"), measured("a", 2)}, "opened device_error/sensor/a warning"},
		{"a suspect one does not", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), as(measured("a", 2), suspect)}, "opened device_error/cuff/a warning"},
		{"a late one does not", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), as(measured("a", 2), late)}, "opened device_error/cuff/a warning"},
		{"one taken before does not", []*vitals.Reading{failed("a", bp, 2, "cuff", "E1"), measured("a", 1)}, "opened device_error/cuff/a warning"},
		{"repeats open nothing", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), failed("a", bp, 1, "cuff", "E5"), failed("a", bp, 2, "cuff", "E1")},
			"opened device_error/cuff/a warning"},
		{"another class is another alert, one reading ends both", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), failed("a", bp, 1, "battery", ""), measured("a", 2)},
			"opened device_error/cuff/a warning, opened device_error/battery/a warning, resolved device_error/battery/a warning, resolved device_error/cuff/a warning"},
		{"another device is another alert", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), failed("b", bp, 1, "cuff", "E1"), measured("b", 2)},
			"opened device_error/cuff/a warning, opened device_error/cuff/b warning, resolved device_error/cuff/b warning"},
		{"after the end a new error is a new episode", []*vitals.Reading{failed("a", bp, 0, "cuff", "E1"), measured("a", 2), failed("a", bp, 3, "cuff", "E1")},
			"opened device_error/cuff/a warning, resolved device_error/cuff/a warning, opened device_error/cuff/a warning"},
		{"overtaken by the device's own reading it is no news", []*vitals.Reading{measured("a", 2), failed("a", bp, 1, "cuff", "E1")}, ""},
		{"overtaken by another's it is", []*vitals.Reading{measured("b", 2), failed("a", bp, 1, "cuff", "E1")}, "opened device_error/cuff/a warning"},
		{"late it is no news", []*vitals.Reading{as(failed("a", bp, 0, "cuff", "E1"), late), as(failed("a", bp, 0, "cuff", "E2"), doubtful)}, ""},
		{"a class that nobody knows", []*vitals.Reading{failed("a", bp, 0, "unknown", "X9")}, "opened device_error/unknown/a info"},
		{"of an indicator without rules", []*vitals.Reading{failed("a", vitals.BodyFat, 0, "unknown", "0xFFFF")}, "opened device_error/unknown/a info"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewPatient("P-1", mustRules(t))
			var out Decisions
			for _, r := range c.in {
				p.Observe(r, &out)
			}
			var got []string
			for i := range out.Transitions {
				x := &out.Transitions[i]
				got = append(got, fmt.Sprintf("%s %s %s", x.Kind, x.Rule, x.Severity))
				if x.Condition != TechnicalCondition || x.Rule.Nature() != Technical || x.Severity > Warning {
					t.Errorf("%+v is no technical transition", x)
				}
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
			if len(out.Findings) != 0 {
				t.Errorf("findings %+v", out.Findings)
			}
		})
	}
}

func TestPatient_ADeviceErrorExplainsItself(t *testing.T) {
	for _, class := range vitals.FaultClasses {
		p := NewPatient("P-1", mustRules(t))
		var out Decisions
		p.Observe(failed("a", vitals.BloodPressure, 0, class, "E7"), &out)
		p.Observe(measured("a", 1), &out)
		if len(out.Transitions) != 2 {
			t.Fatalf("%s: %+v", class, out.Transitions)
		}
		o := &out.Transitions[0]
		if o.Trigger == nil || o.Trigger.Error == nil || o.Trigger.Error.Class != class || o.Trigger.Error.Code != "E7" || len(o.Trigger.Values) != 0 || o.Trigger.DeviceID != "a" {
			t.Errorf("%s: trigger %+v", class, o.Trigger)
		}
		for i := range out.Transitions {
			var x Explanation
			if err := json.Unmarshal(out.Transitions[i].Explanation, &x); err != nil {
				t.Fatal(err)
			}
			if len(x.Readings) != 1 || len(x.Reasons) != 1 || x.Pack.Name != TechnicalCondition || x.Source.Text == "" {
				t.Errorf("%s: %+v", class, x)
			}
			texts := []Text{x.Text, out.Transitions[i].Title, x.ClearText}
			if i == 0 {
				texts = append(texts, x.Advice)
				if !strings.Contains(x.Text["zh-CN"], "E7") || !strings.Contains(x.Text["en"], "E7") {
					t.Errorf("%s: the text has no code: %v", class, x.Text)
				}
			}
			for _, text := range texts {
				if text["zh-CN"] == "" || text["en"] == "" || strings.Contains(text["zh-CN"], "诊断") {
					t.Errorf("%s: text %v", class, text)
				}
			}
		}
	}
}

func TestPatient_ActsOnADeviceError(t *testing.T) {
	p := NewPatient("P-1", mustRules(t))
	var out Decisions
	p.Observe(failed("a", vitals.BloodPressure, 0, "cuff", "E1"), &out)
	id := out.Transitions[0].AlertID
	at := vitals.At(t0) + vitals.Hour
	for _, a := range []Action{{Act: ActAcknowledge}, {Act: ActSnooze, Minutes: 60}, {Act: ActNote, Note: "called"}, {Act: ActResolve, Outcome: "new cuff"}} {
		a.AlertID, a.Actor = id, "li"
		if err := p.Act(a, at, &out); err != nil {
			t.Fatalf("%s: %v", a.Act, err)
		}
	}
	if len(p.Open()) != 0 || p.NextTick() != 0 {
		t.Fatalf("still open: %+v, next tick %d", p.Open(), p.NextTick())
	}
	// Silence says nothing about a device error: there is no signal to lose.
	p.Observe(failed("a", vitals.BloodPressure, 90, "cuff", "E1"), &out)
	out.Reset()
	p.Tick(vitals.At(t0)+100*vitals.Day, &out)
	if len(out.Transitions) != 0 || len(p.Open()) != 1 {
		t.Fatalf("a tick decided %+v; open %+v", out.Transitions, p.Open())
	}
}

// TestMonitor_DeviceErrorsSurviveCrashes runs the same errors and readings through a monitor that never stops and
// through one that is killed and rebuilt from the ledger at random, with commits that fail; the readings store has no errors. Both
// must tell the same, and no clinical alert may be any different from what it is without the errors.
func TestMonitor_DeviceErrorsSurviveCrashes(t *testing.T) {
	rs := glucoseRules(t)
	opened := 0
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		var all []vitals.Reading
		now := t0
		for n := range 200 {
			now = now.Add(time.Duration(rnd.IntN(300)) * time.Second)
			r := vitals.Reading{Seq: uint64(n + 1), Patient: "P-1", Device: vitals.DeviceID(string(rune('a' + rnd.IntN(2)))), Indicator: vitals.Glucose, Unit: vitals.MgDL,
				TakenAt:    vitals.At(now.Add(-time.Duration(rnd.IntN(1200)) * time.Second)).Add(time.Duration(rnd.IntN(3)) * 400 * time.Microsecond),
				ReceivedAt: vitals.At(now), V: [6]float64{float64(40 + rnd.IntN(120))}, Has: 1, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
			if rnd.IntN(3) == 0 {
				r.Unit, r.Has, r.V, r.Quality = vitals.NoUnit, 0, [6]float64{}, vitals.Invalid
				r.Extra = &vitals.Extra{Fault: vitals.DeviceFault{Class: []string{"sensor", "signal"}[rnd.IntN(2)], Code: "1"}}
			}
			r.Freshness, _ = vitals.JudgeFreshness(r.TakenAt, r.ReceivedAt)
			all = append(all, r)
		}
		run := func(rs2 []vitals.Reading, crash bool) []string {
			b := newBooks()
			clock := t0
			m := b.monitor(t, rs, &clock, 1)
			for len(rs2) > 0 {
				n := 1
				if crash {
					n = min(len(rs2), 1+rnd.IntN(9))
				}
				clock = rs2[n-1].ReceivedAt.Time()
				b.fail = func() bool { return crash && rnd.IntN(4) == 0 }
				if err := m.Handle(t.Context(), rs2[:n], rs2[n-1].Seq); err != nil {
					m = b.monitor(t, rs, &clock, 1) // killed before the commit
					continue
				}
				b.stored = append(b.stored, vitals.Measured(rs2[:n])...)
				if rs2 = rs2[n:]; crash && rnd.IntN(3) == 0 {
					b.fail = nil
					m = b.monitor(t, rs, &clock, 1)
					// What was evaluated after the last commit is evaluated again.
					i, _ := slices.BinarySearchFunc(all, b.cursor+1, func(r vitals.Reading, seq uint64) int { return int(r.Seq) - int(seq) })
					rs2 = all[i:]
					b.stored = slices.DeleteFunc(b.stored, func(r vitals.Reading) bool { return r.Seq > b.cursor })
				}
			}
			// What is due by then is due in all three, whichever reading came last.
			b.fail, clock = nil, now.Add(24*time.Hour)
			if err := m.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			return b.told
		}
		of := func(told []string, technical bool) (out []string) {
			for _, s := range told {
				if strings.Contains(s, TechnicalPrefix) == technical {
					out = append(out, s)
				}
			}
			return out
		}
		steady, crashed, without := run(all, false), run(all, true), run(vitals.Measured(all), false)
		if !slices.Equal(of(steady, true), of(crashed, true)) {
			t.Fatalf("seed %d: device errors\nsteady  %s\ncrashed %s", seed, strings.Join(of(steady, true), "\n        "), strings.Join(of(crashed, true), "\n        "))
		}
		if !slices.Equal(of(steady, false), without) {
			t.Fatalf("seed %d: with device errors other clinical alerts\nwith    %s\nwithout %s", seed, strings.Join(of(steady, false), "\n        "), strings.Join(without, "\n        "))
		}
		opened += len(of(steady, true))
	}
	if opened < 100 {
		t.Fatalf("only %d transitions of device errors: the test tests little", opened)
	}
}
