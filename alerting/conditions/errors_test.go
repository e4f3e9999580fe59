package conditions_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"vitalwatch/alerting"
	"vitalwatch/alerting/conditions"
	"vitalwatch/configs"
	"vitalwatch/vitals"
)

// All mistakes come at once, each with its place; testdata/bad.txt is reviewed as text, UPDATE=1 rewrites it.
func TestLoad_ReportsEveryMistake(t *testing.T) {
	bad, err := os.ReadFile("testdata/bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = conditions.Load("cn", conditions.Source{FS: configs.Conditions()}, conditions.Source{Name: "testdata", FS: fstest.MapFS{"bad.yaml": {Data: bad}}})
	if err == nil {
		t.Fatal("no error")
	}
	const file = "testdata/bad.txt"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(err.Error()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, rerr := os.ReadFile(file)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if d := cmp.Diff(string(want), err.Error()+"\n"); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

const mini = `
pack: %PACK%
version: "1"
priority: %PRIORITY%
title: {zh-CN: 甲, en: a}
rules:
  - id: %RULE%
    indicator: heart_rate
    title: {zh-CN: 甲, en: a}
    levels:
      - severity: warning
        any: [{op: ">", at: {/min: %AT%}}]
        source: {text: ours, mark: P}
    clear: {all: [{op: "<", at: {/min: %AT%}}]}
`

func packs(t *testing.T, of ...string) (*conditions.Packs, error) {
	t.Helper()
	fsys := fstest.MapFS{}
	for _, s := range of {
		f := strings.Fields(s)
		fsys[f[0]+".yaml"] = &fstest.MapFile{Data: []byte(strings.NewReplacer("%PACK%", f[0], "%PRIORITY%", f[1], "%RULE%", f[2], "%AT%", f[3]).Replace(mini))}
	}
	return conditions.Load("cn", conditions.Source{FS: fsys})
}

func threshold(t *testing.T, rs *alerting.RuleSet, id alerting.RuleID) float64 {
	t.Helper()
	r, ok := rs.Rule(id)
	if !ok {
		t.Fatalf("rule %s is not in force", id)
	}
	return r.Levels[0].Lines[0].At[0].Value
}

func TestCompile_ThePackOfTheHigherPriorityWins(t *testing.T) {
	p, err := packs(t, "general 0 hr 100", "aa 2 hr 120", "bb 1 hr 110", "cc 5 other 90")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		conditions []string
		want       float64
		packs      string
	}{
		{nil, 100, "general"},
		{[]string{"bb"}, 110, "general bb"},
		{[]string{"aa", "bb"}, 120, "general bb aa"},
		{[]string{"bb", "aa", "bb"}, 120, "general bb aa"},
		{[]string{"cc"}, 100, "general cc"},
	} {
		rs, err := p.Compile(c.conditions)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, k := range rs.Packs() {
			names = append(names, k.Name)
		}
		if got := threshold(t, rs, "hr"); got != c.want || strings.Join(names, " ") != c.packs {
			t.Errorf("%v: threshold %v of packs %v, want %v of %s", c.conditions, got, names, c.want, c.packs)
		}
	}
	a, _ := p.Compile([]string{"aa", "bb"})
	b, _ := p.Compile([]string{"bb", "aa"})
	if a != b {
		t.Error("the same conditions are compiled twice")
	}
	if _, err := p.Compile([]string{"dd"}); err == nil || !strings.Contains(err.Error(), "aa, bb, cc") {
		t.Errorf("unknown condition: %v", err)
	}
}

func TestLoad_BetweenPacks(t *testing.T) {
	for _, c := range []struct {
		name, want string
		packs      []string
	}{
		{"same priority", "bb.yaml:7:9: rules.0.id: pack aa of the same priority has hr too; say by priority which one wins", []string{"general 0 x 1", "aa 2 hr 120", "bb 2 hr 110"}},
		{"general comes last", "general.yaml:4:11: priority: is 0 for general: every condition comes before it", []string{"general 1 x 1"}},
		{"a condition has a priority", "aa.yaml:4:11: priority: must be 1 or more; where two packs have one rule, the higher wins", []string{"general 0 x 1", "aa 0 y 1"}},
		{"no general", "no pack is called general; everybody needs its safety lines", []string{"aa 1 y 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := packs(t, c.packs...)
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
	if _, err := conditions.Load("moon", conditions.Source{FS: configs.Conditions()}); err == nil || !strings.Contains(err.Error(), "cn, us-aha, esc, ish") {
		t.Errorf("unknown guideline: %v", err)
	}
}

func TestLoad_ALaterSourceReplacesAPack(t *testing.T) {
	own := fstest.MapFS{"mine.yaml": {Data: []byte(strings.NewReplacer("%PACK%", "copd", "%PRIORITY%", "50", "%RULE%", "hr", "%AT%", "99").Replace(mini))}}
	p, err := conditions.Load("", conditions.Source{FS: configs.Conditions()}, conditions.Source{FS: own})
	if err != nil {
		t.Fatal(err)
	}
	rs, err := p.Compile([]string{"copd"})
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := rs.Rule("spo2_low"); r.Condition != conditions.General || threshold(t, rs, "hr") != 99 {
		t.Errorf("spo2_low comes from %s", r.Condition)
	}
}

func TestCompile_Override(t *testing.T) {
	p := embedded(t)
	for _, c := range []struct {
		name string
		o    conditions.Override
		want map[vitals.Unit]float64
		err  string
	}{
		{"in both units", conditions.Override{Rule: "glucose_low", Severity: alerting.Warning, At: []alerting.UnitValue{{Unit: vitals.MmolL, Value: 4.4}, {Unit: vitals.MgDL, Value: 80}}},
			map[vitals.Unit]float64{vitals.MmolL: 4.4, vitals.MgDL: 80}, ""},
		{"the other unit is converted", conditions.Override{Rule: "glucose_low", Severity: alerting.Warning, At: []alerting.UnitValue{{Unit: vitals.MgDL, Value: 80}}},
			map[vitals.Unit]float64{vitals.MmolL: 80 / vitals.MgPerMmolGlucose, vitals.MgDL: 80}, ""},
		{"unknown rule", conditions.Override{Rule: "mood"}, nil, `personal threshold: rule "mood" is not in force for this person`},
		{"no such level", conditions.Override{Rule: "glucose_low", Severity: alerting.Info, At: []alerting.UnitValue{{Unit: vitals.MgDL, Value: 80}}}, nil,
			"personal threshold of glucose_low: it has no info level with a line about value"},
		{"wrong unit", conditions.Override{Rule: "glucose_low", Severity: alerting.Warning, At: []alerting.UnitValue{{Unit: vitals.Kg, Value: 80}}}, nil,
			"personal threshold of glucose_low: kg is no unit of glucose"},
		{"no number", conditions.Override{Rule: "glucose_low", Severity: alerting.Warning}, nil, "personal threshold of glucose_low: it needs a number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rs, err := p.Compile(nil, c.o)
			if err != nil || c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("got %v, want %s", err, c.err)
				}
				return
			}
			r, _ := rs.Rule(c.o.Rule)
			for _, u := range r.Levels[0].Lines[0].At {
				if u.Value != c.want[u.Unit] {
					t.Errorf("%s: %v, want %v", u.Unit, u.Value, c.want[u.Unit])
				}
			}
			// Nobody else is touched.
			shared, _ := p.Compile(nil)
			if s, _ := shared.Rule(c.o.Rule); s.Levels[0].Lines[0].At[0].Value != 3.9 || s.Person != nil {
				t.Error("the shared rules have changed")
			}
		})
	}
}

func TestRunTests_TellsWhatWentOtherwise(t *testing.T) {
	const file = `tests:
  - name: too mild
    readings: [{at: 0s, every: 5m, indicator: glucose, unit: mmol/L, values: 2.9 6.0}]
    acts: [{at: 1m, act: snooze, rule: glucose_low, minutes: 0}]
    expect:
      - {at: 0s, rule: glucose_low, kind: opened, severity: warning}
      - {at: 9m, rule: glucose_low, kind: resolved}
    open: {}
  - name: silent
    readings: [{at: 0s, indicator: glucose, unit: mmol/L, values: 2.9, received_after: 1h}]
`
	n, fails, err := conditions.RunTests(embedded(t), []conditions.File{{Name: "x_test.yaml", Data: []byte(file)}})
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	var got []string
	for _, f := range fails {
		got = append(got, f.String())
	}
	want := []string{
		"x_test.yaml:4: too mild: got refused: snooze for at least one minute; a critical alert stays snoozed for 15 at most, others for 120, want accepted",
		"x_test.yaml:6: too mild: got glucose_low opened critical at 0s (single_reading), want glucose_low opened warning at 0s",
		"x_test.yaml:7: too mild: got nothing, want glucose_low resolved at 9m",
		"x_test.yaml:6: too mild: got glucose_low opened critical at 0s (single_reading), want nothing",
		"x_test.yaml:8: too mild: got glucose_low critical, want nothing",
		"x_test.yaml:9: silent: got glucose_low critical, want nothing",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestRunTests_ReportsMistakesInTheFile(t *testing.T) {
	const file = `tests:
  - name: a
    colour: red
    conditions: [hypertension]
    readings:
      - {at: soon, indicator: glucose, unit: mmol/L, values: 2.9}
      - {at: 0s, indicator: glucose, unit: kg, values: 2.9}
      - {at: 0s, indicator: blood_pressure, unit: mmHg, values: 120}
      - {at: 0s, indicator: heart_rate, unit: /min, values: 72 73}
      - {at: 0s, indicator: heart_rate, unit: /min, values: 900}
  - name: a
    conditions: [gout]
    readings: [{at: 0s, indicator: mood, unit: "1", values: 1}]
`
	_, _, err := conditions.RunTests(embedded(t), []conditions.File{{Name: "x_test.yaml", Data: []byte(file)}, {Name: "y_test.yaml"}})
	want := []string{
		"x_test.yaml:3:5: unknown key colour",
		`x_test.yaml:6:14: tests.0.readings.0.at: "soon" is no time since the start of the test; write 0s, 5m, 26h`,
		`x_test.yaml:7:44: tests.0.readings.1.unit: "kg" is no unit of glucose`,
		`x_test.yaml:8:65: tests.0.readings.2.values: "120" lacks a component of blood_pressure`,
		`x_test.yaml:9:9: tests.0.readings.3.every: is needed, such as 15m`,
		`x_test.yaml:10:61: tests.0.readings.4.values: "900" is not a plausible reading of heart_rate and would never be judged`,
		"x_test.yaml:11:11: tests.1.name: every test needs a name of its own",
		`x_test.yaml:12:17: tests.1.conditions: condition "gout" has no pack; known are copd, heart_failure, hypercapnia_risk, hypertension, type1_diabetes, type2_diabetes`,
		"y_test.yaml: tests: has no test",
	}
	if err == nil {
		t.Fatal("no error")
	}
	if d := cmp.Diff(want, strings.Split(err.Error(), "\n")); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// The examples of docs/rules.md are what the page says: a pack that loads and a test that passes.
func TestDocs_ExamplesWork(t *testing.T) {
	page, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d examples, want a pack and a test file", len(blocks))
	}
	p, err := conditions.Load("cn", conditions.Source{FS: configs.Conditions()}, conditions.Source{FS: fstest.MapFS{"docs.yaml": {Data: blocks[0][1]}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Compile([]string{"example"}); err != nil {
		t.Fatal(err)
	}
	_, fails, err := conditions.RunTests(p, []conditions.File{{Name: "docs_test.yaml", Data: blocks[1][1]}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fails {
		t.Error(f)
	}
}

// Whatever the bytes are, loading ends with packs that compile or with an error that has a place.
func FuzzLoad(f *testing.F) {
	for _, name := range []string{"general.yaml", "type1_diabetes.yaml", "heart_failure.yaml", "hypertension.yaml"} {
		b, err := configs.Conditions().Open(name)
		if err != nil {
			f.Fatal(err)
		}
		data := make([]byte, 1<<16)
		n, _ := b.Read(data)
		f.Add(data[:n])
	}
	bad, _ := os.ReadFile("testdata/bad.yaml")
	f.Add(bad)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := conditions.Load("cn", conditions.Source{FS: fstest.MapFS{"x.yaml": {Data: data}}})
		if err != nil {
			return
		}
		for _, g := range conditions.Guidelines {
			q, err := p.With(g)
			if err != nil {
				t.Fatal(err)
			}
			rs, err := q.Compile(q.Conditions())
			if err != nil {
				t.Fatalf("it loads, and does not compile: %v", err)
			}
			out := alerting.Decisions{}
			calmPatient(rs, &out)
		}
	})
}

// Whatever the bytes are, a test file runs or is refused.
func FuzzRunTests(f *testing.F) {
	files, err := conditions.TestFiles(conditions.Source{FS: configs.Conditions()})
	if err != nil {
		f.Fatal(err)
	}
	for _, x := range files {
		f.Add(x.Data)
	}
	p, err := conditions.Load("cn", conditions.Source{FS: configs.Conditions()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		conditions.RunTests(p, []conditions.File{{Name: "x", Data: data}})
	})
}
