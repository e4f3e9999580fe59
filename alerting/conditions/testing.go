package conditions

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/internal/strictyaml"
	"vitalwatch/vitals"
)

// File is a file of rule unit tests.
type File struct {
	Name string
	Data []byte
}

// TestFiles lists the unit tests beside the packs of a source: *_test.yaml.
func TestFiles(s Source) ([]File, error) {
	var out []File
	err := walk(s, func(name string) bool { return strings.HasSuffix(name, testSuffix) }, func(file string, data []byte) {
		out = append(out, File{file, data})
	})
	return out, err
}

// Failure is a test that did not go as written.
type Failure struct {
	File      string
	Line      int
	Test      string
	Got, Want string // "" when nothing came, or nothing was wanted
}

func (f Failure) String() string {
	or := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return s
	}
	return fmt.Sprintf("%s:%d: %s: got %s, want %s", f.File, f.Line, f.Test, or(f.Got), or(f.Want))
}

type (
	testFile struct {
		Tests []testYAML `yaml:"tests"`
	}
	testYAML struct {
		Name       string            `yaml:"name"`
		Guideline  string            `yaml:"guideline"`
		Conditions []string          `yaml:"conditions"`
		Overrides  []overrideYAML    `yaml:"overrides"`
		Readings   []readingYAML     `yaml:"readings"`
		Acts       []actYAML         `yaml:"acts"`
		Until      string            `yaml:"until"`
		Expect     []expectYAML      `yaml:"expect"`
		Open       map[string]string `yaml:"open"`
		Findings   map[string]string `yaml:"findings"`
	}
	overrideYAML struct {
		Rule     string            `yaml:"rule"`
		Severity string            `yaml:"severity"`
		Of       string            `yaml:"of"`
		At       map[string]string `yaml:"at"`
	}
	readingYAML struct {
		At            string   `yaml:"at"`
		Every         string   `yaml:"every"`
		ReceivedAfter string   `yaml:"received_after"`
		Indicator     string   `yaml:"indicator"`
		Unit          string   `yaml:"unit"`
		Values        string   `yaml:"values"`
		Meal          string   `yaml:"meal"`
		Activity      string   `yaml:"activity"`
		Flags         []string `yaml:"flags"`
		Quality       string   `yaml:"quality"`
	}
	actYAML struct {
		At      string `yaml:"at"`
		Act     string `yaml:"act"`
		Rule    string `yaml:"rule"`
		Minutes int    `yaml:"minutes"`
		Refused bool   `yaml:"refused"`
	}
	expectYAML struct {
		At       string `yaml:"at"`
		Rule     string `yaml:"rule"`
		Kind     string `yaml:"kind"`
		Severity string `yaml:"severity"`
		Reason   string `yaml:"reason"`
	}
)

// testStart is the instant 0 of every test.
var testStart = vitals.At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

// maxTestReadings bounds one test, so that a slip in a series is a message and not a hang.
const maxTestReadings = 100_000

// RunTests runs the unit tests of files against packs and returns how many there are and what failed. The error
// lists every mistake in the files themselves.
func RunTests(packs *Packs, files []File) (tests int, fails []Failure, err error) {
	var errs strictyaml.Errors
	for _, f := range files {
		var tf testFile
		d := strictyaml.Read(f.Name, f.Data, &tf)
		root := &parser{Document: d}
		names := map[string]bool{}
		for i := range tf.Tests {
			t := &tf.Tests[i]
			p := root.at("tests", i)
			if t.Name == "" || names[t.Name] {
				p.at("name").fail("every test needs a name of its own")
			}
			names[t.Name] = true
			tests++
			fails = append(fails, p.run(t, packs)...)
		}
		if len(tf.Tests) == 0 {
			root.at("tests").fail("has no test")
		}
		if es, ok := d.Err().(strictyaml.Errors); ok {
			errs = append(errs, es...)
		}
	}
	if len(errs) > 0 {
		return tests, fails, errs
	}
	return tests, fails, nil
}

// moment is one thing that happens in a test.
type moment struct {
	at   vitals.Micros
	read *vitals.Reading
	act  *actYAML
	p    *parser
}

func (p *parser) run(t *testYAML, packs *Packs) (fails []Failure) {
	line := func(q *parser) int {
		return q.Line(q.path)
	}
	var err error
	if t.Guideline != "" && t.Guideline != packs.guideline {
		if packs, err = packs.With(t.Guideline); err != nil {
			p.at("guideline").fail("%v", err)
			return nil
		}
	}
	var overrides []Override
	for i := range t.Overrides {
		if o, ok := p.at("overrides", i).override(&t.Overrides[i]); ok {
			overrides = append(overrides, o)
		}
	}
	rs, err := packs.Compile(t.Conditions, overrides...)
	if err != nil {
		p.at("conditions").fail("%v", err)
		return nil
	}
	var moments []moment
	for i := range t.Readings {
		moments = p.at("readings", i).readings(&t.Readings[i], moments)
	}
	for i := range t.Acts {
		q := p.at("acts", i)
		moments = append(moments, moment{at: q.at("at").instant(t.Acts[i].At), act: &t.Acts[i], p: q})
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return int(max(-1, min(1, a.at-b.at))) })
	if p.Err() != nil {
		return nil
	}

	patient := alerting.NewPatient("P-1", rs)
	var out alerting.Decisions
	fail := func(q *parser, got, want string) {
		fails = append(fails, Failure{p.File, line(q), t.Name, got, want})
	}
	tick := func(to vitals.Micros) {
		for n := patient.NextTick(); n != 0 && n <= to; n = patient.NextTick() {
			patient.Tick(n, &out)
		}
	}
	end := testStart
	for i := range moments {
		m := &moments[i]
		end = m.at
		tick(m.at)
		if m.read != nil {
			m.read.Seq = uint64(i + 1)
			patient.Observe(m.read, &out)
			continue
		}
		id := ""
		for _, a := range patient.Open() {
			if string(a.Rule) == m.act.Rule {
				id = a.ID
			}
		}
		err := patient.Act(alerting.Action{Act: alerting.Act(m.act.Act), AlertID: id, Actor: "coach", Minutes: m.act.Minutes, Outcome: "test"}, m.at, &out)
		if (err != nil) != m.act.Refused {
			fail(m.p, map[bool]string{true: "refused", false: "accepted"}[err != nil]+errText(err), map[bool]string{true: "refused", false: "accepted"}[m.act.Refused])
		}
	}
	end += vitals.Micros(alerting.SettleAfter / time.Microsecond)
	if t.Until != "" {
		end = max(end, p.at("until").instant(t.Until))
	}
	tick(end)

	used := make([]bool, len(out.Transitions))
	for i := range t.Expect {
		e, q := &t.Expect[i], p.at("expect", i)
		at := q.at("at").instant(e.At)
		found := false
		near := ""
		for k := range out.Transitions {
			x := &out.Transitions[k]
			if used[k] || string(x.Rule) != e.Rule || string(x.Kind) != e.Kind {
				continue
			}
			ok := (e.Severity == "" || x.Severity.String() == e.Severity) && (e.Reason == "" || slices.Contains(reasons(x), e.Reason))
			// Settling takes a second; writers of tests need not count it.
			if ok && x.At >= at && x.At <= at+vitals.Second {
				used[k], found = true, true
				break
			}
			if near == "" {
				near = describe(x)
			}
		}
		if !found {
			fail(q, near, wanted(e))
		}
	}
	for k := range out.Transitions {
		if !used[k] {
			fail(p.at("expect"), describe(&out.Transitions[k]), "")
		}
	}
	open := map[string]string{}
	for _, a := range patient.Open() {
		open[string(a.Rule)] = a.Severity.String()
	}
	if t.Open != nil {
		compare(open, t.Open, func(got, want string) { fail(p.at("open"), got, want) })
	}
	found := map[string]alerting.Severity{}
	for _, f := range out.Findings {
		found[string(f.Rule)] = max(found[string(f.Rule)], f.Severity)
	}
	got := map[string]string{}
	for r, s := range found {
		got[r] = s.String()
	}
	compare(got, t.Findings, func(got, want string) { fail(p.at("findings"), got, want) })
	return fails
}

func compare(got, want map[string]string, fail func(got, want string)) {
	var keys []string
	for k := range got {
		keys = append(keys, k)
	}
	for k := range want {
		if _, both := got[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if got[k] != want[k] {
			word := func(s string) string {
				if s == "" {
					return ""
				}
				return k + " " + s
			}
			fail(word(got[k]), word(want[k]))
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

func reasons(x *alerting.Transition) []string {
	var e struct {
		Reasons []string `json:"reasons"`
	}
	if json.Unmarshal(x.Explanation, &e) != nil {
		return nil
	}
	return e.Reasons
}

func describe(x *alerting.Transition) string {
	s := fmt.Sprintf("%s %s %s at %s", x.Rule, x.Kind, x.Severity, x.At.Sub(testStart))
	if r := reasons(x); len(r) > 0 {
		s += " (" + strings.Join(r, ", ") + ")"
	}
	return s
}

func wanted(e *expectYAML) string {
	s := e.Rule + " " + e.Kind
	if e.Severity != "" {
		s += " " + e.Severity
	}
	s += " at " + e.At
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	return s
}

// instant reads a time since the start of the test.
func (p *parser) instant(s string) vitals.Micros {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		p.fail("%q is no time since the start of the test; write 0s, 5m, 26h", s)
	}
	return testStart.Add(d)
}

func (p *parser) override(y *overrideYAML) (o Override, ok bool) {
	o.Rule, o.Source = alerting.RuleID(y.Rule), "test"
	if o.Severity, ok = alerting.ParseSeverity(y.Severity); !ok {
		p.at("severity").fail("is info, warning, critical or emergency")
	}
	if y.Of != "" {
		if o.Component, ok = vitals.ParseComponent(y.Of); !ok {
			p.at("of").fail("%q is no component", y.Of)
		}
	}
	for name, v := range y.At {
		u, known := vitals.ParseUnit(name)
		f, err := strconv.ParseFloat(v, 64)
		if !known || err != nil {
			p.at("at", name).fail("is a unit with a number")
			continue
		}
		o.At = append(o.At, alerting.UnitValue{Unit: u, Value: f})
	}
	return o, p.Err() == nil
}

// readings expands a compact series: values apart by spaces, 118/76/66 for several components in their order,
// 5.6x3 for three times the same, _ for nothing sent.
func (p *parser) readings(y *readingYAML, out []moment) []moment {
	ind, ok := vitals.ParseIndicator(y.Indicator)
	if !ok {
		p.at("indicator").fail("%q is no indicator", y.Indicator)
		return out
	}
	unit, ok := vitals.ParseUnit(y.Unit)
	if !ok || !ind.Accepts(unit) {
		p.at("unit").fail("%q is no unit of %s", y.Unit, ind)
		return out
	}
	at := p.at("at").instant(y.At)
	every := p.at("every").duration(y.Every, strings.ContainsAny(strings.TrimSpace(y.Values), " x_"))
	var delay vitals.Micros
	if y.ReceivedAfter != "" {
		delay = p.at("received_after").instant(y.ReceivedAfter) - testStart
	}
	components := ind.Components()
	if ind == vitals.BloodPressure {
		components = []vitals.Component{vitals.Systolic, vitals.Diastolic, vitals.Pulse}
	}
	vp := p.at("values")
	n := 0
	for _, tok := range strings.Fields(y.Values) {
		times := 1
		if v, x, ok := strings.Cut(tok, "x"); ok {
			k, err := strconv.Atoi(x)
			if err != nil || k < 1 || k > maxTestReadings {
				vp.fail("%q: after x comes how many times", tok)
				return out
			}
			tok, times = v, k
		}
		r := vitals.Reading{Patient: "P-1", Device: "D-1", Indicator: ind, Unit: unit, Meal: vitals.ParseMeal(y.Meal),
			Activity: vitals.ParseActivity(y.Activity), Flags: p.at("flags").flags(y.Flags), DeviceSeq: -1, OffsetMin: vitals.NoOffset}
		if tok != "_" {
			parts := strings.Split(tok, "/")
			for i, s := range parts {
				v, err := strconv.ParseFloat(s, 64)
				if err != nil || i >= len(components) {
					vp.fail("%q is no value of %s", tok, ind)
					return out
				}
				r.Set(components[i], v)
			}
			if r.Has&ind.Required() != ind.Required() {
				vp.fail("%q lacks a component of %s", tok, ind)
				return out
			}
		}
		for range times {
			if tok != "_" {
				x := r
				x.TakenAt = at + vitals.Micros(n)*vitals.Micros(every/time.Microsecond)
				x.ReceivedAt = x.TakenAt + delay
				x.Freshness, _ = vitals.JudgeFreshness(x.TakenAt, x.ReceivedAt)
				x.Quality, _ = vitals.JudgeValues(&x)
				switch y.Quality {
				case "":
				case "good":
					x.Quality = vitals.Good
				case "suspect":
					x.Quality = vitals.Suspect
				default:
					p.at("quality").fail("is good or suspect; without it the values are judged")
				}
				if x.Quality == vitals.Invalid {
					vp.fail("%q is not a plausible reading of %s and would never be judged", tok, ind)
				}
				out = append(out, moment{at: x.ReceivedAt, read: &x, p: p})
			}
			if n++; n > maxTestReadings {
				vp.fail("more than %d readings", maxTestReadings)
				return out
			}
		}
	}
	if n == 0 {
		vp.fail("is a series such as: 5.6 4.8x2 _ 3.8")
	}
	return out
}
