package alerting_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	. "vitalwatch/alerting"
	"vitalwatch/vitals"
)

func line(c vitals.Component, op Op, at ...any) Line {
	l := Line{Component: c, Op: op}
	for i := 0; i < len(at); i += 2 {
		l.At = append(l.At, UnitValue{at[i].(vitals.Unit), at[i+1].(float64)})
	}
	return l
}

func glucose(op Op, mmol, mg float64) Line {
	return line(vitals.Value, op, vitals.MmolL, mmol, vitals.MgDL, mg)
}

// testRules has every kind of rule, with small numbers of observations so that random histories reach them.
func testRules() []Rule {
	title := Text{"zh-CN": "规则", "en": "rule"}
	rules := []Rule{
		{ID: "glucose_low", Indicator: vitals.Glucose, Suspect: AlertOn, SignalLostAfter: 30 * time.Minute,
			Levels: []Level{
				{Severity: Warning, Lines: []Line{glucose(Below, 3.9, 70)}},
				{Severity: Critical, Lines: []Line{glucose(Below, 3.0, 54)}, Hold: []Line{glucose(Below, 3.5, 63)}},
				{Severity: Emergency, Lines: []Line{glucose(Below, 3.0, 54)}, For: 15 * time.Minute, MaxGap: 12 * time.Minute},
				{Severity: Emergency, Lines: []Line{glucose(Below, 2.2, 40), {Flags: vitals.BelowRange}}},
			},
			Clear: Clear{Lines: []Line{glucose(AtLeast, 4.4, 80)}, Count: 2, Within: 24 * time.Hour}},
		{ID: "glucose_fall", Indicator: vitals.Glucose, Filter: Filter{NotMeals: []vitals.Meal{vitals.Fasting}},
			Change: &Change{Over: 20 * time.Minute, Per: time.Minute, Fall: true, Points: 3},
			Levels: []Level{{Severity: Info, Lines: []Line{glucose(AtLeast, 0.1, 2)}}},
			Clear:  Clear{Lines: []Line{glucose(Below, 0.05, 1)}}},
		{ID: "bp_high", Indicator: vitals.BloodPressure, SignalLostAfter: 2 * time.Hour,
			Levels: []Level{
				{Severity: Warning, Lines: bp(AtLeast, 180, 110)},
				{Severity: Critical, Lines: bp(AtLeast, 180, 110), Repeat: Repeat{Count: 2, Within: 5 * time.Minute}},
			},
			Clear: Clear{Lines: bp(Below, 170, 105)}},
		{ID: "pulse_irregular", Indicator: vitals.BloodPressure,
			Levels: []Level{{Severity: Info, Lines: []Line{{Flags: vitals.IrregularPulse}}, Repeat: Repeat{Count: 2, Of: 3, Within: 24 * time.Hour}}},
			Clear:  Clear{Lines: []Line{{Flags: vitals.IrregularPulse, Absent: true}}, Count: 2, Within: 24 * time.Hour}},
		{ID: "hr_high", Indicator: vitals.HeartRate, SignalLostAfter: time.Hour,
			Levels: []Level{
				{Severity: Warning, Lines: hr(Above, 130), For: 10 * time.Minute, MaxGap: 5 * time.Minute,
					Filter: Filter{NotActivities: []vitals.Activity{vitals.Active}}},
				{Severity: Critical, Lines: hr(AtLeast, 200)},
				{Severity: Critical, Lines: hr(Above, 150), Repeat: Repeat{Count: 3, Of: 4, Within: 30 * time.Minute},
					Filter: Filter{Activities: []vitals.Activity{vitals.Resting}}},
			},
			Clear: Clear{Lines: hr(AtMost, 120), Count: 3, Within: time.Hour}},
		{ID: "weight_gain", Indicator: vitals.Weight,
			Change: &Change{Over: 72 * time.Hour, From: FromLowest},
			Levels: []Level{
				{Severity: Warning, Lines: []Line{line(vitals.Value, Above, vitals.Kg, 2.0, vitals.Jin, 4.0)}},
				{Severity: Critical, Lines: []Line{line(vitals.Value, Above, vitals.Kg, 3.0, vitals.Jin, 6.0)}},
			},
			Clear: Clear{Lines: []Line{line(vitals.Value, Below, vitals.Kg, 1.0, vitals.Jin, 2.0)}}},
		{ID: "weight_loss", Indicator: vitals.Weight,
			Change: &Change{Over: 72 * time.Hour, From: FromHighest, Fall: true},
			Levels: []Level{{Severity: Warning, Lines: []Line{line(vitals.Value, Above, vitals.Kg, 2.0, vitals.Jin, 4.0)}}},
			Clear:  Clear{Manual: true}},
	}
	for i := range rules {
		rules[i].Title, rules[i].Condition, rules[i].PackVersion = title, "test", "1"
	}
	return rules
}

func bp(op Op, s, d float64) []Line {
	return []Line{line(vitals.Systolic, op, vitals.MmHg, s), line(vitals.Diastolic, op, vitals.MmHg, d)}
}

func hr(op Op, v float64) []Line { return []Line{line(vitals.Value, op, vitals.PerMin, v)} }

func mustRules(t interface{ Fatal(...any) }) *RuleSet {
	rs, err := NewRuleSet(testRules(), []Pack{{Name: "test", Version: "1"}})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// event is one thing that happens: a reading, an act, or time alone.
type event struct {
	at  vitals.Micros
	r   *vitals.Reading
	act Act
	on  RuleID
	min int
}

var equateEmpty = cmpopts.EquateEmpty()

// differ is cmp.Diff, which takes most of the time of these tests when there is no difference.
func differ[T any](want, got T) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got, equateEmpty)
}

var start = vitals.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))

// history draws events in the order of Seq. Values cluster around the lines; times repeat, go back and jump.
func history(t *rapid.T, acts bool) []event {
	now := start
	taken := map[vitals.Indicator]vitals.Micros{}
	var out []event
	ind := rapid.SampledFrom([]vitals.Indicator{vitals.Glucose, vitals.Glucose, vitals.BloodPressure, vitals.HeartRate, vitals.HeartRate, vitals.Weight})
	pace := rapid.SampledFrom([][]time.Duration{
		{0, 100 * time.Millisecond, time.Second, 2 * time.Second, time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{0, 5 * time.Minute, 11 * time.Minute, 20 * time.Minute, 3 * time.Hour, 26 * time.Hour, 80 * time.Hour},
	}).Draw(t, "pace")
	mono := rapid.Bool().Draw(t, "one indicator")
	only := ind.Draw(t, "only")
	ill := rapid.IntRange(0, 3).Draw(t, "ill") == 0 // long stays beyond a line are rare among independent values
	rules := testRules()
	for n := range rapid.IntRange(1, 60).Draw(t, "events") {
		now += us(rapid.SampledFrom(pace).Draw(t, "pause"))
		if acts && rapid.IntRange(0, 9).Draw(t, "what") == 0 {
			out = append(out, event{at: now, act: rapid.SampledFrom([]Act{ActAcknowledge, ActSnooze, ActResolve}).Draw(t, "act"),
				on: rapid.SampledFrom(rules).Draw(t, "on").ID, min: rapid.SampledFrom([]int{1, 10, 30, 120}).Draw(t, "min")})
			continue
		}
		i := only
		if !mono {
			i = ind.Draw(t, "indicator")
		}
		at := now
		switch rapid.IntRange(0, 11).Draw(t, "when") {
		case 0, 1, 2:
			at = taken[i] // the same taken_at again
		case 3:
			at = now - us(rapid.SampledFrom([]time.Duration{time.Minute, 14 * time.Minute, 20 * time.Minute, 30 * time.Hour}).Draw(t, "age"))
		case 4:
			at = now + us(4*time.Minute)
		}
		f, ahead := vitals.JudgeFreshness(at, now)
		if ahead || at == 0 {
			at, f = now, vitals.Live
		}
		taken[i] = at
		r := &vitals.Reading{Seq: uint64(n + 1), Patient: "P-1", Device: "D-1", Indicator: i, TakenAt: at, ReceivedAt: now, Freshness: f, DeviceSeq: int64(n)}
		switch rapid.IntRange(0, 9).Draw(t, "quality") {
		case 0, 1:
			r.Quality = vitals.Suspect
		case 2:
			r.Quality = rapid.SampledFrom([]vitals.Quality{vitals.Good, vitals.Invalid}).Draw(t, "invalid")
		}
		r.Activity = rapid.SampledFrom([]vitals.Activity{vitals.ActivityUnknown, vitals.Resting, vitals.Resting, vitals.Active}).Draw(t, "activity")
		r.Meal = rapid.SampledFrom([]vitals.Meal{vitals.MealUnknown, vitals.MealUnknown, vitals.Fasting}).Draw(t, "meal")
		switch i {
		case vitals.Glucose:
			if rapid.Bool().Draw(t, "mg") {
				r.Unit = vitals.MgDL
				r.Set(vitals.Value, rapid.SampledFrom([]float64{39, 40, 53, 53, 54, 62, 63, 69, 70, 79, 80, 81, 120}).Draw(t, "v"))
			} else {
				r.Unit = vitals.MmolL
				r.Set(vitals.Value, rapid.SampledFrom([]float64{2.1, 2.2, 2.9, 2.9, 3.0, 3.4, 3.5, 3.8, 3.9, 4.3, 4.4, 4.5, 7}).Draw(t, "v"))
			}
			if rapid.IntRange(0, 30).Draw(t, "lo") == 0 {
				r.Flags |= vitals.BelowRange
			}
		case vitals.BloodPressure:
			r.Unit = vitals.MmHg
			r.Set(vitals.Systolic, rapid.SampledFrom([]float64{120, 169, 170, 175, 179, 180, 181, 200}).Draw(t, "s"))
			r.Set(vitals.Diastolic, rapid.SampledFrom([]float64{80, 104, 105, 109, 110, 115}).Draw(t, "d"))
			if rapid.IntRange(0, 2).Draw(t, "irr") == 0 {
				r.Flags |= vitals.IrregularPulse
			}
		case vitals.HeartRate:
			r.Unit = vitals.PerMin
			r.Set(vitals.Value, rapid.SampledFrom([]float64{80, 120, 121, 130, 131, 135, 140, 140, 140, 145, 151, 151, 160, 199, 200}).Draw(t, "v"))
			if ill {
				r.Set(vitals.Value, rapid.SampledFrom([]float64{131, 135, 140}).Draw(t, "high"))
				r.Activity = vitals.Resting
			}
		case vitals.Weight:
			v := rapid.SampledFrom([]float64{70.1, 70.6, 71.1, 72.0, 72.1, 72.2, 73.1, 73.2}).Draw(t, "v")
			r.Unit = vitals.Kg
			if rapid.Bool().Draw(t, "jin") {
				r.Unit, v = vitals.Jin, 2*v
			}
			r.Set(vitals.Value, v)
		}
		out = append(out, event{at: now, r: r})
	}
	return out
}

// byTwoDevices gives the readings to two devices, whose clocks may then differ.
func byTwoDevices(t *rapid.T, es []event) []event {
	for _, e := range es {
		if e.r != nil && rapid.Bool().Draw(t, "other device") {
			e.r.Device = "D-2"
		}
	}
	return es
}

// ledger applies transitions as the ledger does: it is where a rebuilt engine gets its open alerts from.
type ledger map[string]*OpenAlert

func (l ledger) apply(t *testing.T, ts []Transition) {
	for i := range ts {
		x := &ts[i]
		a := l[x.AlertID]
		if (a == nil) != (x.Kind == Opened) {
			t.Fatalf("%s of alert %s: open before: %v", x.Kind, x.AlertID, a != nil)
		}
		switch x.Kind {
		case Opened:
			for _, o := range l {
				if o.Rule == x.Rule {
					t.Fatalf("second open alert of rule %s", x.Rule)
				}
			}
			l[x.AlertID] = &OpenAlert{ID: x.AlertID, Rule: x.Rule, Condition: x.Condition, Severity: x.Severity, State: Open, OpenedAt: x.At}
		case Worsened:
			if x.Severity <= a.Severity {
				t.Fatalf("worsened from %s to %s", a.Severity, x.Severity)
			}
			a.Severity, a.State, a.SnoozedUntil = x.Severity, Open, 0
		case Eased:
			if x.Severity >= a.Severity {
				t.Fatalf("eased from %s to %s", a.Severity, x.Severity)
			}
			a.Severity = x.Severity
		case AcknowledgedBy:
			a.State = Acknowledged
		case Snoozed:
			a.SnoozedUntil = x.Until
		case SignalLost:
			a.SignalLostSince, a.SnoozedUntil = x.At, 0
		case SignalBack:
			a.SignalLostSince = 0
		case ResolvedBy:
			delete(l, x.AlertID)
		}
	}
}

func (l ledger) open() []OpenAlert {
	var out []OpenAlert
	for _, a := range l {
		out = append(out, *a)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) // the ledger promises no order
	return out
}

// do plays one event; ticks before it are exact.
func do(t interface{ Fatalf(string, ...any) }, p *Patient, e event, out *Decisions) {
	for p.NextTick() != 0 && p.NextTick() <= e.at {
		p.Tick(p.NextTick(), out)
	}
	if e.r != nil {
		p.Observe(e.r, out)
		return
	}
	for _, a := range p.Open() {
		if a.Rule == e.on {
			p.Act(Action{Act: e.act, AlertID: a.ID, Actor: "coach", Minutes: e.min, Outcome: "ok"}, e.at, out)
		}
	}
}

func run(t interface{ Fatalf(string, ...any) }, rs *RuleSet, es []event) Decisions {
	p, out := NewPatient("P-1", rs), Decisions{}
	for _, e := range es {
		do(t, p, e, &out)
	}
	return out
}

func TestEngine_DecidesAsTheSlowModel(t *testing.T) {
	rs := mustRules(t)
	seen := map[string]int{}
	missing := func() string {
		for _, want := range []string{"glucose_low opened emergency", "glucose_low worsened critical", "glucose_low eased warning",
			"glucose_low resolved critical", "bp_high worsened critical", "bp_high signal_lost warning", "bp_high signal_back warning",
			"hr_high opened warning", "pulse_irregular opened info", "weight_gain opened warning", "weight_gain worsened critical",
			"weight_loss opened warning", "glucose_fall opened info", "hr_high opened critical"} {
			if seen[want] == 0 {
				return want
			}
		}
		return ""
	}
	for n := 0; n < 4 || n < 200 && missing() != ""; n++ {
		compareWithModel(t, rs, seen)
	}
	if testing.Verbose() {
		for _, k := range slices.Sorted(maps.Keys(seen)) {
			t.Log(k, seen[k])
		}
	}
	// A property test that never reaches a rung proves nothing about it.
	if m := missing(); m != "" {
		t.Errorf("the random histories never reached %q", m)
	}
}

func compareWithModel(t *testing.T, rs *RuleSet, seen map[string]int) {
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, true)
		m := newModel(testRules())
		p, out := NewPatient("P-1", rs), Decisions{}
		for n, e := range es {
			out.Reset()
			m.out = m.out[:0]
			do(t, p, e, &out)
			if e.r != nil {
				m.observe(e.r)
			} else {
				for at := m.next(); at != 0 && at <= e.at; at = m.next() {
					m.tick(at)
				}
				m.act(e.on, e.act, e.min, e.at)
			}
			var got []step
			for i := range out.Transitions {
				got = append(got, stepOf(&out.Transitions[i]))
				seen[fmt.Sprint(out.Transitions[i].Rule, " ", out.Transitions[i].Kind, " ", out.Transitions[i].Severity)]++
			}
			if d := differ(m.out, got); d != "" {
				t.Fatalf("event %d %+v %+v: -model +engine\n%s", n, e, e.r, d)
			}
			if p.NextTick() != m.next() {
				t.Fatalf("event %d: next tick %d, model %d", n, p.NextTick(), m.next())
			}
		}
	})
}

func TestEngine_RebuiltGoesOnAsIfItHadNeverStopped(t *testing.T) {
	rs := mustRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		es := byTwoDevices(rt, history(rt, true))
		want := run(rt, rs, es)

		l := ledger{}
		p, out := NewPatient("P-1", rs), Decisions{}
		var got Decisions
		take := func() {
			l.apply(t, out.Transitions)
			got.Transitions = append(got.Transitions, out.Transitions...)
			got.Findings = append(got.Findings, out.Findings...)
			out.Reset()
		}
		for n, e := range es {
			if rapid.IntRange(0, 4).Draw(rt, "stop") == 0 {
				// Time may have passed, even beyond due ticks, which the fresh engine then does late.
				now := es[max(0, n-1)].at
				p = NewPatient("P-1", rs)
				p.Restore(l.open())
				for _, h := range es[:n] {
					if h.r != nil && h.r.TakenAt >= now-us(rs.LookBack(h.r.Indicator)) {
						p.Warm(h.r)
					}
				}
			}
			do(rt, p, e, &out)
			take()
		}
		if d := differ(want, got); d != "" {
			rt.Fatalf("-never stopped +rebuilt\n%s", d)
		}
	})
}

// Ticks that come late or never, and doing readings one by one or together, change nothing but At.
func TestEngine_LateTicksDecideTheSame(t *testing.T) {
	rs := mustRules(t)
	rapid.Check(t, func(t *rapid.T) {
		es := byTwoDevices(t, history(t, false))
		want := run(t, rs, es)
		p, got := NewPatient("P-1", rs), Decisions{}
		for _, e := range es {
			p.Observe(e.r, &got)
		}
		if d := differ(want, got); d != "" {
			t.Fatalf("-ticked +never ticked\n%s", d)
		}
	})
}

func TestEngine_ArrivalOrderOfEqualTimestampsDoesNotMatter(t *testing.T) {
	rs := mustRules(t)
	rapid.Check(t, func(t *rapid.T) {
		es := byTwoDevices(t, history(t, false))
		// One receive time per taken_at: nothing settles in between.
		es = slices.DeleteFunc(es, func(e event) bool { return e.r.Freshness != vitals.Live || e.r.TakenAt != e.at })
		a, b := NewPatient("P-1", rs), NewPatient("P-1", rs)
		var out Decisions
		for i := 0; i < len(es); {
			j := i + 1
			for j < len(es) && es[j].r.TakenAt == es[i].r.TakenAt {
				j++
			}
			group := es[i:j]
			for _, e := range group {
				a.Observe(e.r, &out)
			}
			for _, e := range rapid.Permutation(group).Draw(t, "order") {
				b.Observe(e.r, &out)
			}
			if x, y := state(a), state(b); x != y {
				t.Fatalf("after %d readings: %s in one order, %s in another", j, x, y)
			}
			i = j
		}
		var x, y Decisions
		for a.NextTick() != 0 && len(x.Transitions) < 1000 {
			a.Tick(a.NextTick(), &x)
		}
		for b.NextTick() != 0 && len(y.Transitions) < 1000 {
			b.Tick(b.NextTick(), &y)
		}
		if p, q := state(a), state(b); p != q {
			t.Fatalf("settled: %s in one order, %s in another", p, q)
		}
	})
}

func state(p *Patient) string {
	s := ""
	for _, a := range p.Open() {
		s += fmt.Sprint(a.Rule, "=", a.Severity, " ")
	}
	return s
}

func TestEngine_DuplicatesChangeNoAlert(t *testing.T) {
	rs := mustRules(t)
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, false)
		want := run(t, rs, es)
		var twice []event
		for i, e := range es {
			twice = append(twice, e)
			// One of the last few readings again, as a redelivery brings it: with its own receive time.
			again := es[rapid.IntRange(max(0, i-3), i).Draw(t, "again")]
			again.at = e.at
			twice = append(twice, again)
		}
		got := run(t, rs, twice)
		// A redelivery may be the first sign of life after a silence, nothing else.
		signal := func(x Transition) bool { return x.Kind == SignalLost || x.Kind == SignalBack }
		want.Transitions, got.Transitions = slices.DeleteFunc(want.Transitions, signal), slices.DeleteFunc(got.Transitions, signal)
		for _, ts := range [][]Transition{want.Transitions, got.Transitions} {
			for i := range ts {
				ts[i].At = 0
			}
		}
		if d := differ(want.Transitions, got.Transitions); d != "" {
			t.Fatalf("-once +twice\n%s", d)
		}
	})
}

func TestEngine_SilenceNeverResolves(t *testing.T) {
	rs := mustRules(t)
	rapid.Check(t, func(t *rapid.T) {
		es := history(t, false)
		p, out := NewPatient("P-1", rs), Decisions{}
		for _, e := range es {
			p.Observe(e.r, &out)
		}
		end := es[len(es)-1].at
		p.Tick(end+us(SettleAfter), &out) // what the readings themselves decide
		open := state(p)
		out.Reset()
		for i := range 20 {
			p.Tick(end+us(SettleAfter)+vitals.Micros(i)*6*vitals.Hour, &out)
		}
		lost := map[RuleID]int{}
		for _, x := range out.Transitions {
			if lost[x.Rule]++; x.Kind != SignalLost || lost[x.Rule] > 1 {
				t.Fatalf("time alone made %+v", stepOf(&x))
			}
		}
		if state(p) != open || p.NextTick() != 0 {
			t.Fatalf("open %s, was %s; next tick %d", state(p), open, p.NextTick())
		}
	})
}
