package alerting_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	. "vitalwatch/alerting"
	"vitalwatch/vitals"
)

// books are the ledger and the store of a monitor test: what survives a crash.
type books struct {
	cursor uint64
	told   []string
	open   map[vitals.PatientID]map[RuleID]OpenAlert
	stored []vitals.Reading
	unread bool        // the readings store cannot be read
	last   uint64      // newest in the journal, 0: not known
	fail   func() bool // a commit that fails
}

func newBooks() *books { return &books{open: map[vitals.PatientID]map[RuleID]OpenAlert{}} }

func (b *books) commit(_ context.Context, batch Batch) error {
	if b.fail != nil && b.fail() {
		return errors.New("disk")
	}
	if batch.Cursor < b.cursor {
		return fmt.Errorf("cursor went back from %d to %d", b.cursor, batch.Cursor)
	}
	b.cursor = batch.Cursor
	for _, t := range batch.Transitions {
		b.told = append(b.told, fmt.Sprintf("%s %s %s %s %s", t.Patient, t.Rule, t.Kind, t.Severity, t.AlertID))
		m := b.open[t.Patient]
		if m == nil {
			m = map[RuleID]OpenAlert{}
			b.open[t.Patient] = m
		}
		a := m[t.Rule]
		switch t.Kind {
		case Opened:
			a = OpenAlert{ID: t.AlertID, Rule: t.Rule, Condition: t.Condition, State: Open, OpenedAt: t.At}
			if t.Rule.Nature() == Technical { // as the ledger gives it back
				a.Device = vitals.DeviceID(t.Trigger.DeviceID)
				a.Indicator, _ = vitals.ParseIndicator(t.Trigger.Indicator)
				at, err := time.Parse(time.RFC3339Nano, t.Trigger.TakenAt)
				if err != nil {
					return err
				}
				a.FailedAt = vitals.At(at)
			}
		case SignalLost:
			a.SignalLostSince = t.At
		case SignalBack:
			a.SignalLostSince = 0
		case ResolvedBy:
			delete(m, t.Rule)
			continue
		}
		a.Severity = t.Severity
		m[t.Rule] = a
	}
	for _, f := range batch.Findings {
		b.told = append(b.told, fmt.Sprintf("%s %s finding %s %s %d", f.Patient, f.Rule, f.Day, f.Severity, f.Readings))
	}
	return nil
}

func (b *books) monitor(t *testing.T, rs *RuleSet, now *time.Time, shards int) *Monitor {
	return NewMonitor(MonitorConfig{
		Cursor: b.cursor,
		Rules:  func(vitals.PatientID) *RuleSet { return rs },
		OpenAlerts: func(_ context.Context, p vitals.PatientID) ([]OpenAlert, error) {
			return slices.SortedFunc(maps.Values(b.open[p]), func(x, y OpenAlert) int { return int(x.OpenedAt - y.OpenedAt) }), nil
		},
		PatientsWithOpenAlerts: func(context.Context) ([]vitals.PatientID, error) {
			return slices.Collect(maps.Keys(b.open)), nil
		},
		History: func(_ context.Context, p vitals.PatientID, i vitals.Indicator, from vitals.Micros, seq uint64, dst []vitals.Reading) ([]vitals.Reading, error) {
			if b.unread {
				return dst, errors.New("the store is behind")
			}
			for _, r := range b.stored {
				if r.Patient == p && r.Indicator == i && r.TakenAt >= from && r.Seq <= seq {
					dst = append(dst, r)
				}
			}
			return dst, nil
		},
		Last:   func() uint64 { return b.last },
		Commit: b.commit, Now: func() time.Time { return *now }, Metrics: NewMonitorMetrics(prometheus.NewRegistry()), Log: zerolog.Nop(), Shards: shards,
	})
}

func glucoseRules(t *testing.T) *RuleSet {
	t.Helper()
	line := func(op Op, mg, mmol float64) []Line {
		return []Line{{Component: vitals.Value, Op: op, At: []UnitValue{{Unit: vitals.MgDL, Value: mg}, {Unit: vitals.MmolL, Value: mmol}}}}
	}
	rs, err := NewRuleSet([]Rule{{ID: "glucose_low", Condition: "test", Indicator: vitals.Glucose, Title: Text{"en": "low"}, SignalLostAfter: 20 * time.Minute, Suspect: AlertOn,
		Levels: []Level{{Severity: Warning, Lines: line(Below, 70, 3.9)}, {Severity: Critical, Lines: line(Below, 54, 3.0)}},
		Clear:  Clear{Lines: line(AtLeast, 80, 4.4), Count: 2, Within: time.Hour}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestMonitor_CrashesAndFailuresChangeNothing runs the same readings through a monitor that never stops and through
// one that is killed and rebuilt, whose commits fail and whose blocks have other sizes: both must tell the same.
func TestMonitor_CrashesAndFailuresChangeNothing(t *testing.T) {
	rs := glucoseRules(t)
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		start := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
		var rs1 []vitals.Reading
		at := start
		for n := range 300 {
			at = at.Add(time.Duration(rnd.IntN(120)) * time.Second)
			r := vitals.Reading{Seq: uint64(n + 1), Patient: vitals.PatientID(fmt.Sprintf("P-%d", rnd.IntN(5))), Device: "D", Indicator: vitals.Glucose, Unit: vitals.MgDL,
				TakenAt: vitals.At(at), ReceivedAt: vitals.At(at)}
			r.Set(vitals.Value, float64(40+rnd.IntN(60)))
			if rnd.IntN(10) == 0 {
				r.Freshness, r.TakenAt = vitals.Late, r.TakenAt-vitals.Hour
			}
			rs1 = append(rs1, r)
			if rnd.IntN(20) == 0 { // one of the last is taken back; it may be another patient's
				void := rs1[len(rs1)-1-rnd.IntN(min(len(rs1), 12))]
				again := void
				void.Flags, void.Quality = vitals.Voided, vitals.Invalid
				rs1 = append(rs1, void)
				if again.Quality != vitals.Invalid && rnd.IntN(3) == 0 { // and counts again
					rs1 = append(rs1, again)
				}
			}
		}
		for i := range rs1 {
			rs1[i].Seq = uint64(i + 1)
		}
		feed := func(shards int, crashes bool) []string {
			b := newBooks()
			b.stored = rs1
			now := start
			m := b.monitor(t, rs, &now, shards)
			if crashes {
				b.fail = func() bool { return rnd.IntN(4) == 0 }
			}
			for i := 0; i < len(rs1); {
				n := 1
				if crashes {
					n = 1 + rnd.IntN(3)
				}
				block := rs1[i:min(i+n, len(rs1))]
				// Time passes before the block for the clock, as it does between two readings.
				for k := range block {
					if at := block[k].ReceivedAt.Time(); at.After(now) { // a void carries the receipt of what it takes back
						now = at
					}
					if k == 0 {
						for m.Tick(t.Context()) != nil {
						}
					}
				}
				last := block[len(block)-1].Seq
				for m.Handle(t.Context(), block, last) != nil {
				}
				i += len(block)
				if crashes && rnd.IntN(10) == 0 {
					m = b.monitor(t, rs, &now, shards) // what was not committed is lost
					i = int(b.cursor)
				}
			}
			b.fail = nil
			now = now.Add(2 * time.Second) // the last timestamps settle
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := m.Run(ended); err != nil { // one turn of the clock
				t.Fatal(err)
			}
			return b.told
		}
		want := perPatient(feed(1, false))
		for _, shards := range []int{1, 3} {
			if got := perPatient(feed(shards, true)); !slices.Equal(got, want) {
				t.Fatalf("seed %d, %d shards:\n%s", seed, shards, cmp.Diff(want, got))
			}
		}
		if len(want) == 0 {
			t.Fatalf("seed %d: nothing happened", seed)
		}
	}
}

// perPatient groups by patient, transitions before findings, since order is only promised within these. Signals are
// left out: ticks come at other instants in a run with other blocks.
func perPatient(told []string) []string {
	out := slices.Clone(told)
	group := func(s string) string {
		return fmt.Sprint(s[:3], strings.Contains(s, " finding "))
	}
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(group(a), group(b)) })
	return slices.DeleteFunc(out, func(s string) bool {
		var p, rule, kind string
		fmt.Sscan(s, &p, &rule, &kind)
		return kind == string(SignalLost) || kind == string(SignalBack)
	})
}

// A reading that was taken back leaves no trace in what is judged after it, in whatever blocks the readings come: live is
// what a rebuilt engine decides.
func TestMonitor_AVoidedReadingConfirmsNothing(t *testing.T) {
	lines := []Line{{Component: vitals.Value, Op: Below, At: []UnitValue{{Unit: vitals.MgDL, Value: 70}}}}
	rs, err := NewRuleSet([]Rule{{ID: "glucose_low", Condition: "test", Indicator: vitals.Glucose, Title: Text{"en": "low"},
		Levels: []Level{{Severity: Warning, Lines: lines}, {Severity: Critical, Lines: lines, Repeat: Repeat{Count: 2, Within: 10 * time.Minute}}},
		Clear:  Clear{Lines: []Line{{Component: vitals.Value, Op: AtLeast, At: []UnitValue{{Unit: vitals.MgDL, Value: 80}}}}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	low := func(seq uint64, at time.Duration, flags vitals.Flags) vitals.Reading {
		r := vitals.Reading{Seq: seq, Patient: "P-1", Device: "D", Indicator: vitals.Glucose, Unit: vitals.MgDL, TakenAt: vitals.At(start.Add(at)),
			ReceivedAt: vitals.At(start.Add(at)), Flags: flags}
		r.Set(vitals.Value, 60)
		if flags&vitals.Replaced != 0 {
			r.Quality = vitals.Invalid
		}
		return r
	}
	for _, c := range []struct {
		name string
		flag vitals.Flags
		want int // transitions of the two, then of the third
	}{{"kept", 0, 2}, {"voided", vitals.Voided, 1}, {"superseded", vitals.Superseded, 1}} {
		for _, block := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s in blocks of %d", c.name, block), func(t *testing.T) {
				b, now := newBooks(), start
				b.stored = []vitals.Reading{low(1, 0, 0), low(2, 0, c.flag), low(3, time.Minute, 0)}
				if c.flag == 0 {
					b.stored = slices.Delete(b.stored, 1, 2)
				}
				m := b.monitor(t, rs, &now, 1)
				for rs := range slices.Chunk(b.stored, block) {
					now = rs[len(rs)-1].ReceivedAt.Time()
					if err := m.Handle(t.Context(), rs, rs[len(rs)-1].Seq); err != nil {
						t.Fatal(err)
					}
				}
				if len(b.told) != c.want || m.Cursor() != b.stored[len(b.stored)-1].Seq {
					t.Errorf("told %q up to %d, want %d transitions", b.told, m.Cursor(), c.want)
				}
			})
		}
	}
}

func TestMonitor_ActIsCommittedWithTheCursorOrNotAtAll(t *testing.T) {
	rs := glucoseRules(t)
	b := newBooks()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	m := b.monitor(t, rs, &now, 2)
	r := vitals.Reading{Seq: 1, Patient: "P-1", Device: "D", Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: vitals.At(now), ReceivedAt: vitals.At(now)}
	r.Set(vitals.Value, 2.8)
	b.stored = []vitals.Reading{r}
	if err := m.Handle(t.Context(), b.stored, 1); err != nil {
		t.Fatal(err)
	}
	id := b.open["P-1"]["glucose_low"].ID
	if id == "" {
		t.Fatalf("no alert: %v", b.told)
	}
	act := Action{Act: ActResolve, AlertID: id, Actor: "coach", Outcome: "reached"}
	boom := errors.New("boom")
	if err := m.Act(t.Context(), "P-1", act, func(context.Context, Batch) error { return boom }); !errors.Is(err, boom) {
		t.Fatalf("Act = %v, want boom", err)
	}
	// The failed act left nothing behind: it can be done again.
	if err := m.Act(t.Context(), "P-1", act, b.commit); err != nil {
		t.Fatal(err)
	}
	if len(b.open["P-1"]) != 0 || b.cursor != 1 {
		t.Fatalf("open %v, cursor %d", b.open["P-1"], b.cursor)
	}
	if err := m.Act(t.Context(), "P-1", act, b.commit); !errors.Is(err, ErrNotOpen) {
		t.Fatalf("resolving twice = %v, want ErrNotOpen", err)
	}
}

func TestMonitor_SilenceIsToldByTheClockAndResolvesNothing(t *testing.T) {
	rs := glucoseRules(t)
	b := newBooks()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	m := b.monitor(t, rs, &now, 1)
	r := vitals.Reading{Seq: 1, Patient: "P-1", Device: "D", Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: vitals.At(now), ReceivedAt: vitals.At(now)}
	r.Set(vitals.Value, 3.5)
	b.stored = []vitals.Reading{r}
	if err := m.Handle(t.Context(), b.stored, 1); err != nil {
		t.Fatal(err)
	}
	for range 48 {
		now = now.Add(time.Hour)
		if err := m.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a, ok := b.open["P-1"]["glucose_low"]
	if !ok || a.SignalLostSince == 0 {
		t.Fatalf("after two days of silence the alert is %+v (there: %v); want open with a lost signal", a, ok)
	}
	if n := len(b.told); n != 2 {
		t.Errorf("told %v, want opened and signal_lost, once each", b.told)
	}
}

// sugar is a live reading of P-1 in mmol/L, received when it was taken.
func sugar(seq uint64, at time.Time, v float64) vitals.Reading {
	r := vitals.Reading{Seq: seq, Patient: "P-1", Device: "D", Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: vitals.At(at), ReceivedAt: vitals.At(at)}
	r.Set(vitals.Value, v)
	return r
}

// A patient is rebuilt from what is committed, so what is decided and not committed must not be forgotten on the way.
func TestMonitor_RulesChangedWhileACommitFails(t *testing.T) {
	rs := glucoseRules(t)
	b := newBooks()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	m := b.monitor(t, rs, &now, 1)
	b.stored = []vitals.Reading{sugar(1, now, 3.5), sugar(2, now.Add(time.Minute), 3.4)}
	failing := true
	b.fail = func() bool { return failing }
	if m.Handle(t.Context(), b.stored[:1], 1) == nil {
		t.Fatal("the commit failed and Handle did not")
	}
	m.RulesChanged("P-1")
	if m.Tick(t.Context()) == nil {
		t.Fatal("the commit failed and Tick did not")
	}
	failing = false
	if err := m.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if err := m.Handle(t.Context(), b.stored, 2); err != nil {
		t.Fatal(err)
	}
	if len(b.told) != 1 {
		t.Fatalf("told %q, want one opened", b.told)
	}
	act := Action{Act: ActAcknowledge, AlertID: b.open["P-1"]["glucose_low"].ID, Actor: "coach"}
	if err := m.Act(t.Context(), "P-1", act, b.commit); err != nil {
		t.Errorf("acknowledging the alert that the ledger has: %v", err)
	}
}

// A monitor that starts hours behind the journal decides what one that was always level decided.
func TestMonitor_BacklogIsNeitherSilenceNorForgotten(t *testing.T) {
	start := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	rules := glucoseRules(t).Rules()
	rule := rules[0]
	// The second level asks for a second low reading within the hour.
	rule.Levels[1].Lines, rule.Levels[1].Repeat = rule.Levels[0].Lines, Repeat{Count: 2, Within: time.Hour}
	rs, err := NewRuleSet([]Rule{rule}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []vitals.Reading
	for i, v := range []float64{3.6, 3.5, 4.2, 4.2} {
		all = append(all, sugar(uint64(i+1), start.Add(time.Duration(i)*10*time.Minute), v))
	}
	run := func(level bool, restartAt int) []string {
		b := newBooks()
		b.stored, b.last = all, 4
		now := start
		m := b.monitor(t, rs, &now, 1)
		for i := 0; i < len(all); i++ {
			if level {
				now, b.last = all[i].ReceivedAt.Time(), all[i].Seq
			}
			if i == restartAt {
				now = now.Add(8 * time.Hour)
				m = b.monitor(t, rs, &now, 1)
				i, restartAt = int(b.cursor), -1
			}
			for range 2 {
				if err := m.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Handle(t.Context(), all[i:i+1], all[i].Seq); err != nil {
				t.Fatal(err)
			}
		}
		return b.told
	}
	want := run(true, -1)
	if len(want) != 2 {
		t.Fatalf("told %q, want opened and worsened", want)
	}
	for _, at := range []int{1, 2, 3} {
		if got := run(false, at); !slices.Equal(got, want) {
			t.Errorf("restart before reading %d, eight hours behind: told %q, want %q", at+1, got, want)
		}
	}
}

// A rule that fails inside must not end the process, neither while judging nor at any rebuilding.
func TestMonitor_AFaultStaysWithThePatient(t *testing.T) {
	rs := glucoseRules(t)
	rs.Break(vitals.Glucose)
	b := newBooks()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	b.stored, b.cursor, b.last = []vitals.Reading{sugar(1, now.Add(-time.Minute), 3.5), sugar(2, now, 3.5)}, 1, 2
	m := b.monitor(t, rs, &now, 1)
	if err := m.Handle(t.Context(), b.stored[1:], 2); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(time.Minute)
		if err := m.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if m.Cursor() != 2 {
		t.Errorf("cursor %d, want 2: the others' readings go on", m.Cursor())
	}
}

// One patient who cannot be loaded must not hold up the clock of the others, nor what people do.
func TestMonitor_TheClockGoesOnWithoutTheStore(t *testing.T) {
	rs := glucoseRules(t)
	b := newBooks()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	m := b.monitor(t, rs, &now, 1)
	other := sugar(2, now, 3.5)
	other.Patient = "P-2"
	b.stored, b.last = []vitals.Reading{sugar(1, now, 3.5), other}, 2
	if err := m.Handle(t.Context(), b.stored, 2); err != nil {
		t.Fatal(err)
	}
	b.unread = true
	m.RulesChanged("P-2")
	now = now.Add(time.Hour)
	if m.Tick(t.Context()) == nil {
		t.Error("Tick does not tell that somebody could not be loaded")
	}
	if b.open["P-1"]["glucose_low"].SignalLostSince == 0 || b.open["P-2"]["glucose_low"].SignalLostSince != 0 {
		t.Errorf("open: %+v; want the signal of P-1 lost", b.open)
	}
	b.unread = false
	if err := m.Tick(t.Context()); err != nil || b.open["P-2"]["glucose_low"].SignalLostSince == 0 {
		t.Errorf("once the store can be read: %v, %+v", err, b.open["P-2"])
	}
}
