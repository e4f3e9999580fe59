package conditions

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/internal/strictyaml"
	"vitalwatch/vitals"
)

// General is the pack that applies to everybody.
const General = "general"

// Guidelines are the profiles that numbers may be given for; the first is the default, which every pack has.
var Guidelines = []string{"cn", "us-aha", "esc", "ish"}

// Source is a folder of packs: every *.yaml in it that does not end in _test.yaml.
type Source struct {
	Name string // stands before file names in messages, "" for none
	FS   fs.FS
}

// Packs is a set of condition packs with the numbers of one guideline profile.
type Packs struct {
	guideline string
	packs     map[string]*pack

	mu    sync.Mutex
	cache map[string]*alerting.RuleSet
}

// pack is one file, with its rules by profile.
type pack struct {
	name, version string
	priority      int
	title         alerting.Text
	rules         map[string][]alerting.Rule
	doc           *strictyaml.Document
}

// The language. Field order is that of docs/rules.md.
type (
	packFile struct {
		Pack     string            `yaml:"pack"`
		Version  string            `yaml:"version"`
		Priority int               `yaml:"priority"`
		Title    map[string]string `yaml:"title"`
		Rules    []ruleYAML        `yaml:"rules"`
	}
	ruleYAML struct {
		ID         string            `yaml:"id"`
		Indicator  string            `yaml:"indicator"`
		Title      map[string]string `yaml:"title"`
		Advice     map[string]string `yaml:"advice"`
		Source     sourceYAML        `yaml:"source"`
		When       filterYAML        `yaml:"when"`
		Change     *changeYAML       `yaml:"change"`
		Levels     []levelYAML       `yaml:"levels"`
		Clear      clearYAML         `yaml:"clear"`
		SignalLost string            `yaml:"signal_lost_after"`
		Suspect    string            `yaml:"suspect"`
	}
	sourceYAML struct {
		Text string `yaml:"text"`
		Mark string `yaml:"mark"`
	}
	filterYAML struct {
		Meal        []string `yaml:"meal"`
		NotMeal     []string `yaml:"not_meal"`
		Activity    []string `yaml:"activity"`
		NotActivity []string `yaml:"not_activity"`
		Flags       []string `yaml:"flags"`
		NotFlags    []string `yaml:"not_flags"`
	}
	changeYAML struct {
		Of     string `yaml:"of"`
		Over   string `yaml:"over"`
		Per    string `yaml:"per"`
		From   string `yaml:"from"`
		Dir    string `yaml:"direction"`
		Points int    `yaml:"points"`
	}
	lineYAML struct {
		Of     string            `yaml:"of"`
		Op     string            `yaml:"op"`
		At     map[string]string `yaml:"at"`
		Flags  []string          `yaml:"flags"`
		Absent bool              `yaml:"absent"`
	}
	linesYAML struct {
		Any    []lineYAML `yaml:"any"`
		All    []lineYAML `yaml:"all"`
		Hold   []lineYAML `yaml:"hold"`
		Source sourceYAML `yaml:"source"`
	}
	profileYAML struct {
		linesYAML `yaml:",inline"`
		Omit      bool `yaml:"omit"`
	}
	levelYAML struct {
		Severity  string `yaml:"severity"`
		linesYAML `yaml:",inline"`
		For       string                 `yaml:"for"`
		MaxGap    string                 `yaml:"max_gap"`
		Repeat    *repeatYAML            `yaml:"repeat"`
		When      filterYAML             `yaml:"when"`
		Advice    map[string]string      `yaml:"advice"`
		Profiles  map[string]profileYAML `yaml:"profiles"`
	}
	repeatYAML struct {
		Count  int    `yaml:"count"`
		Of     int    `yaml:"of"`
		Within string `yaml:"within"`
	}
	clearYAML struct {
		Manual   bool                   `yaml:"manual"`
		Any      []lineYAML             `yaml:"any"`
		All      []lineYAML             `yaml:"all"`
		Count    int                    `yaml:"count"`
		Within   string                 `yaml:"within"`
		Profiles map[string]profileYAML `yaml:"profiles"`
	}
)

// Load reads all packs of all sources. A pack of a later source replaces the one of the same name of an earlier
// source as a whole. guideline "" means the first of Guidelines. The error lists every mistake of every file,
// with file:line:column.
func Load(guideline string, sources ...Source) (*Packs, error) {
	if guideline == "" {
		guideline = Guidelines[0]
	}
	if !slices.Contains(Guidelines, guideline) {
		return nil, fmt.Errorf("guideline %q is unknown; use one of %s", guideline, strings.Join(Guidelines, ", "))
	}
	p := &Packs{guideline: guideline, packs: map[string]*pack{}, cache: map[string]*alerting.RuleSet{}}
	var docs []*strictyaml.Document
	var errs []error
	for _, s := range sources {
		here := map[string]string{}
		err := walk(s, func(name string) bool { return !strings.HasSuffix(name, testSuffix) }, func(file string, data []byte) {
			pk := parse(file, data)
			docs = append(docs, pk.doc)
			if other, dup := here[pk.name]; dup && pk.name != "" {
				pk.doc.Errorf([]string{"pack"}, "%s is the pack of %s already", pk.name, other)
			}
			here[pk.name] = file
			p.packs[pk.name] = pk
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	if p.packs[General] == nil && len(docs) > 0 {
		errs = append(errs, fmt.Errorf("no pack is called %s; everybody needs its safety lines", General))
	}
	p.checkTogether()
	for _, d := range docs {
		if es, ok := d.Err().(strictyaml.Errors); ok {
			// A mistake in what several profiles or levels share is one mistake.
			errs = append(errs, slices.CompactFunc(es, func(a, b *strictyaml.Error) bool { return *a == *b }))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

const testSuffix = "_test.yaml"

func walk(s Source, want func(string) bool, take func(file string, data []byte)) error {
	return fs.WalkDir(s.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".yaml" || !want(name) {
			return err
		}
		data, err := fs.ReadFile(s.FS, name)
		if err != nil {
			return err
		}
		take(path.Join(s.Name, name), data)
		return nil
	})
}

// With gives the same packs with the numbers of another guideline profile.
func (p *Packs) With(guideline string) (*Packs, error) {
	if !slices.Contains(Guidelines, guideline) {
		return nil, fmt.Errorf("guideline %q is unknown; use one of %s", guideline, strings.Join(Guidelines, ", "))
	}
	return &Packs{guideline: guideline, packs: p.packs, cache: map[string]*alerting.RuleSet{}}, nil
}

// Guideline is the profile in force.
func (p *Packs) Guideline() string { return p.guideline }

// Conditions lists the conditions that a person may have, sorted; general is not among them.
func (p *Packs) Conditions() []string {
	names := slices.Sorted(maps.Keys(p.packs))
	return slices.DeleteFunc(names, func(n string) bool { return n == General })
}

// Title is a condition's name for people, nil for an unknown condition.
func (p *Packs) Title(condition string) alerting.Text {
	if pk := p.packs[condition]; pk != nil {
		return pk.title
	}
	return nil
}

// checkTogether finds what is wrong between packs.
func (p *Packs) checkTogether() {
	names := slices.Sorted(maps.Keys(p.packs))
	for i, name := range names {
		pk := p.packs[name]
		switch {
		case name == General && pk.priority != 0:
			pk.doc.Errorf([]string{"priority"}, "is 0 for %s: every condition comes before it", General)
		case name != General && pk.priority < 1:
			pk.doc.Errorf([]string{"priority"}, "must be 1 or more; where two packs have one rule, the higher wins")
		}
		for _, other := range names[:i] {
			o := p.packs[other]
			for k, r := range pk.rules[Guidelines[0]] {
				for _, x := range o.rules[Guidelines[0]] {
					at := []string{"rules", strconv.Itoa(k), "id"}
					switch {
					case r.ID != x.ID:
					case r.Indicator != x.Indicator:
						pk.doc.Errorf(at, "%s is a rule about %s in pack %s; rules of one id must be about one indicator", r.ID, x.Indicator, other)
					case pk.priority == o.priority:
						pk.doc.Errorf(at, "pack %s of the same priority has %s too; say by priority which one wins", other, r.ID)
					}
				}
			}
		}
	}
}

// Override is a threshold of one person: it replaces the numbers of a level's lines about one component.
type Override struct {
	Rule      alerting.RuleID
	Severity  alerting.Severity
	Component vitals.Component
	// At has one number or more; units that are left out are converted from the first.
	At     []alerting.UnitValue
	Source string // who decided it and why, for the explanation
}

// maxCached bounds the cache; there are never as many sets of conditions in one house.
const maxCached = 1024

// Compile returns the rules in force for somebody with the conditions and personal thresholds: general, each rule
// replaced by that of the condition with the highest priority that has it. Sets without personal thresholds are
// shared.
func (p *Packs) Compile(conditions []string, overrides ...Override) (*alerting.RuleSet, error) {
	names := slices.Compact(slices.Sorted(slices.Values(conditions)))
	names = slices.DeleteFunc(names, func(n string) bool { return n == General })
	key := strings.Join(names, ",")
	if len(overrides) == 0 {
		p.mu.Lock()
		rs := p.cache[key]
		p.mu.Unlock()
		if rs != nil {
			return rs, nil
		}
	}
	var chosen []*pack
	for _, n := range append([]string{General}, names...) {
		pk := p.packs[n]
		if pk == nil {
			return nil, fmt.Errorf("condition %q has no pack; known are %s", n, strings.Join(p.Conditions(), ", "))
		}
		chosen = append(chosen, pk)
	}
	slices.SortStableFunc(chosen, func(a, b *pack) int { return cmp.Compare(a.priority, b.priority) })
	rules := map[alerting.RuleID]alerting.Rule{}
	var packs []alerting.Pack
	for _, pk := range chosen {
		packs = append(packs, alerting.Pack{Name: pk.name, Version: pk.version, Guideline: p.guideline})
		for _, r := range pk.rules[p.guideline] {
			rules[r.ID] = r
		}
	}
	for _, o := range overrides {
		r, ok := rules[o.Rule]
		if !ok {
			return nil, fmt.Errorf("personal threshold: rule %q is not in force for this person", o.Rule)
		}
		r, err := o.apply(r)
		if err != nil {
			return nil, fmt.Errorf("personal threshold of %s: %w", o.Rule, err)
		}
		rules[o.Rule] = r
	}
	rs, err := alerting.NewRuleSet(slices.Collect(maps.Values(rules)), packs)
	if err != nil || len(overrides) > 0 {
		return rs, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if shared := p.cache[key]; shared != nil {
		return shared, nil
	}
	if len(p.cache) < maxCached {
		p.cache[key] = rs
	}
	return rs, nil
}

// apply replaces the numbers in a copy of r. Of several levels of the severity those that one reading reaches are
// meant, where there are such.
func (o *Override) apply(r alerting.Rule) (alerting.Rule, error) {
	if len(o.At) == 0 {
		return r, errors.New("it needs a number")
	}
	for _, u := range o.At {
		if math.IsNaN(u.Value) || math.IsInf(u.Value, 0) {
			return r, errors.New("it needs a finite number")
		}
		if o.Component.InReadingUnit() && !r.Indicator.Accepts(u.Unit) {
			return r, fmt.Errorf("%s is no unit of %s", u.Unit, r.Indicator)
		}
	}
	plain := slices.ContainsFunc(r.Levels, func(l alerting.Level) bool {
		return l.Severity == o.Severity && l.For == 0 && l.Repeat.Count == 0
	})
	levels := slices.Clone(r.Levels)
	n := 0
	for i := range levels {
		l := &levels[i]
		if l.Severity != o.Severity || plain && (l.For > 0 || l.Repeat.Count > 0) {
			continue
		}
		l.Lines = slices.Clone(l.Lines)
		for k := range l.Lines {
			ln := &l.Lines[k]
			if ln.Flags != 0 || ln.Component != o.Component {
				continue
			}
			at := make([]alerting.UnitValue, len(ln.At))
			for j, u := range ln.At {
				at[j] = alerting.UnitValue{Unit: u.Unit, Value: o.in(u.Unit, r.Change != nil)}
			}
			ln.At, ln.Source = at, alerting.Source{Text: cmp.Or(o.Source, "person"), Mark: "person"}
			l.Hold = nil // the pack's deadband belonged to the pack's number
			n++
		}
	}
	if n == 0 {
		return r, fmt.Errorf("it has no %s level with a line about %s", o.Severity, o.Component)
	}
	r.Levels = levels
	if !slices.Contains(r.Person, o.Severity) {
		r.Person = append(slices.Clone(r.Person), o.Severity)
	}
	return r, nil
}

func (o *Override) in(u vitals.Unit, change bool) float64 {
	for _, x := range o.At {
		if x.Unit == u {
			return x.Value
		}
	}
	x := o.At[0]
	return convert(x.Value, x.Unit, u, change)
}

// convert converts a value, or a difference of values, between units.
func convert(v float64, from, to vitals.Unit, difference bool) float64 {
	c := vitals.Convert(v, from, to)
	if difference {
		c -= vitals.Convert(0, from, to)
	}
	return c
}

var (
	packName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	marks    = []string{"V1", "V2", "G", "P", "C"}
)

// parser checks one file.
type parser struct {
	*strictyaml.Document
	path []string
}

func (p *parser) at(keys ...any) *parser {
	q := &parser{p.Document, slices.Clone(p.path)}
	for _, k := range keys {
		q.path = append(q.path, fmt.Sprint(k))
	}
	return q
}

func (p *parser) fail(format string, args ...any) { p.Errorf(p.path, format, args...) }

func parse(file string, data []byte) *pack {
	var f packFile
	d := strictyaml.Read(file, data, &f)
	p := &parser{Document: d}
	pk := &pack{name: f.Pack, version: f.Version, priority: f.Priority, doc: d, rules: map[string][]alerting.Rule{}}
	if d.Err() != nil && f.Pack == "" {
		return pk // not YAML at all, or not a pack
	}
	if !packName.MatchString(f.Pack) {
		p.at("pack").fail("give a name of small letters, digits and _")
	}
	if f.Pack == alerting.TechnicalCondition {
		p.at("pack").fail("%s is the name of alerts about devices, which are built in", f.Pack)
	}
	if f.Version == "" {
		p.at("version").fail("give a version: alerts say which one decided")
	}
	pk.title = p.at("title").text(f.Title, true)
	seen := map[string]bool{}
	for i := range f.Rules {
		y := &f.Rules[i]
		rp := p.at("rules", i)
		if seen[y.ID] {
			rp.at("id").fail("rule %s is defined twice in this pack", y.ID)
		}
		seen[y.ID] = true
		for n, g := range Guidelines {
			q := rp
			if n > 0 {
				q = rp.at()
				// Only what a profile changes can be newly wrong; the rest was said for the first profile.
				if !y.hasProfile(g) {
					r := *last(pk.rules[Guidelines[0]])
					r.Guideline = g
					pk.rules[g] = append(pk.rules[g], r)
					continue
				}
			}
			r := q.rule(y, g, n == 0)
			r.Condition, r.PackVersion, r.Guideline = f.Pack, f.Version, g
			pk.rules[g] = append(pk.rules[g], r)
		}
	}
	return pk
}

func last(rs []alerting.Rule) *alerting.Rule { return &rs[len(rs)-1] }

func (y *ruleYAML) hasProfile(g string) bool {
	_, ok := y.Clear.Profiles[g]
	for i := range y.Levels {
		_, has := y.Levels[i].Profiles[g]
		ok = ok || has
	}
	return ok
}

func (p *parser) text(t map[string]string, needed bool) alerting.Text {
	if len(t) == 0 && !needed {
		return nil
	}
	out := alerting.Text{}
	for _, lang := range []string{"zh-CN", "en"} {
		if t[lang] == "" {
			p.fail("needs a text for %s", lang)
		}
	}
	for lang, s := range t {
		if lang != "zh-CN" && lang != "en" {
			p.at(lang).fail("languages are zh-CN and en")
		}
		// Nothing of ours makes a diagnosis (facts G).
		if strings.Contains(s, "诊断") || strings.Contains(strings.ToLower(s), "diagnos") {
			p.at(lang).fail("texts make no diagnosis; advise instead")
		}
		out[lang] = s
	}
	return out
}

func (p *parser) duration(s string, needed bool) time.Duration {
	if s == "" {
		if needed {
			p.fail("is needed, such as 15m")
		}
		return 0
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		p.fail("%q is no duration; write a number with its unit: 90s, 15m, 72h, 7d", s)
		return 0
	}
	return d
}

func (p *parser) rule(y *ruleYAML, guideline string, first bool) alerting.Rule {
	r := alerting.Rule{ID: alerting.RuleID(y.ID)}
	if !packName.MatchString(y.ID) {
		p.at("id").fail("give an id of small letters, digits and _")
	}
	ind, ok := vitals.ParseIndicator(y.Indicator)
	if !ok {
		p.at("indicator").fail("%q is no indicator", y.Indicator)
		return r
	}
	r.Indicator = ind
	r.Title = p.at("title").text(y.Title, true)
	r.Advice = p.at("advice").text(y.Advice, false)
	r.Source = p.at("source").source(y.Source, false)
	r.Filter = p.at("when").filter(y.When)
	r.SignalLostAfter = p.at("signal_lost_after").duration(y.SignalLost, false)
	switch y.Suspect {
	case "", "confirm":
	case "alert":
		r.Suspect = alerting.AlertOn
	default:
		p.at("suspect").fail("is confirm or alert")
	}
	if y.Change != nil {
		r.Change = p.at("change").change(y.Change, ind)
	}
	before := alerting.None
	for i := range y.Levels {
		l, keep := p.at("levels", i).level(&y.Levels[i], &r, guideline)
		if l.Severity < before {
			p.at("levels", i, "severity").fail("levels stand in ascending order of severity")
		}
		before = max(before, l.Severity)
		if keep {
			r.Levels = append(r.Levels, l)
		}
	}
	r.Clear = p.at("clear").clear(&y.Clear, &r, guideline)
	p.units(&r)
	p.hysteresis(&r)
	if first && p.Err() == nil { // what is left is the engine's business
		if err := r.Check(); err != nil {
			p.fail("%v", err)
		}
	}
	return r
}

func (p *parser) source(y sourceYAML, needed bool) alerting.Source {
	if y.Text == "" && needed {
		p.fail("every number needs its source: text and mark")
	} else if y.Text != "" && !slices.Contains(marks, y.Mark) {
		p.at("mark").fail("is one of %s", strings.Join(marks, ", "))
	}
	return alerting.Source{Text: y.Text, Mark: y.Mark}
}

func (p *parser) filter(y filterYAML) (f alerting.Filter) {
	meals := func(key string, in []string) (out []vitals.Meal) {
		for i, s := range in {
			m := vitals.ParseMeal(s)
			if m == vitals.MealUnknown && s != "unknown" {
				p.at(key, i).fail("%q is no relation to a meal", s)
			}
			out = append(out, m)
		}
		return out
	}
	acts := func(key string, in []string) (out []vitals.Activity) {
		for i, s := range in {
			a := vitals.ParseActivity(s)
			if a == vitals.ActivityUnknown && s != "unknown" {
				p.at(key, i).fail("%q is no activity; use resting, active or unknown", s)
			}
			out = append(out, a)
		}
		return out
	}
	f.Meals, f.NotMeals = meals("meal", y.Meal), meals("not_meal", y.NotMeal)
	f.Activities, f.NotActivities = acts("activity", y.Activity), acts("not_activity", y.NotActivity)
	f.Flags, f.NotFlags = p.at("flags").flags(y.Flags), p.at("not_flags").flags(y.NotFlags)
	return f
}

func (p *parser) flags(names []string) (f vitals.Flags) {
	for i, n := range names {
		b := vitals.ParseFlag(n)
		if b == 0 {
			p.at(i).fail("%q is no flag", n)
		}
		f |= b
	}
	return f
}

func (p *parser) change(y *changeYAML, ind vitals.Indicator) *alerting.Change {
	c := &alerting.Change{Over: p.at("over").duration(y.Over, true), Per: p.at("per").duration(y.Per, false), Points: y.Points}
	c.Component = p.at("of").component(y.Of, ind)
	switch y.From {
	case "first":
	case "lowest":
		c.From = alerting.FromLowest
	case "highest":
		c.From = alerting.FromHighest
	default:
		p.at("from").fail("is first, lowest or highest")
	}
	switch y.Dir {
	case "rise":
	case "fall":
		c.Fall = true
	default:
		p.at("direction").fail("is rise or fall")
	}
	if c.Points == 0 {
		c.Points = 2
	}
	return c
}

func (p *parser) component(name string, ind vitals.Indicator) vitals.Component {
	if name == "" {
		if len(ind.Components()) > 1 && ind.Components()[0] != vitals.Value {
			p.fail("say which component of %s", ind)
		}
		return ind.Components()[0]
	}
	c, ok := vitals.ParseComponent(name)
	if !ok || ind.Index(c) < 0 {
		p.fail("%q is no component of %s", name, ind)
		return ind.Components()[0]
	}
	return c
}

func (p *parser) level(y *levelYAML, r *alerting.Rule, guideline string) (l alerting.Level, keep bool) {
	sev, ok := alerting.ParseSeverity(y.Severity)
	if !ok {
		p.at("severity").fail("is info, warning, critical or emergency")
	}
	l.Severity = sev
	for g := range y.Profiles {
		if !slices.Contains(Guidelines, g) {
			p.at("profiles", g).fail("is no guideline profile; use one of %s", strings.Join(Guidelines, ", "))
		}
	}
	lines, at := &y.linesYAML, p
	if prof, has := y.Profiles[guideline]; has {
		if prof.Omit {
			return l, false
		}
		lines, at = &prof.linesYAML, p.at("profiles", guideline)
	}
	switch {
	case len(lines.Any) > 0 && len(lines.All) > 0:
		at.fail("give any or all, not both")
	case len(lines.Any)+len(lines.All) == 0:
		at.fail("give any or all: the lines of the level")
	}
	l.Lines, l.All = append(at.lines("any", lines.Any, r), at.lines("all", lines.All, r)...), len(lines.All) > 0
	l.Hold = at.lines("hold", lines.Hold, r)
	l.Source = at.at("source").source(lines.Source, true)
	for i := range l.Lines {
		l.Lines[i].Source = l.Source
	}
	l.For, l.MaxGap = p.at("for").duration(y.For, false), p.at("max_gap").duration(y.MaxGap, y.For != "")
	if y.Repeat != nil {
		l.Repeat = alerting.Repeat{Count: y.Repeat.Count, Of: y.Repeat.Of, Within: p.at("repeat", "within").duration(y.Repeat.Within, true)}
		if y.Repeat.Count < 2 {
			p.at("repeat", "count").fail("is 2 or more")
		}
	}
	l.Filter = p.at("when").filter(y.When)
	l.Advice = p.at("advice").text(y.Advice, false)
	return l, true
}

func (p *parser) clear(y *clearYAML, r *alerting.Rule, guideline string) (c alerting.Clear) {
	any, all, at := y.Any, y.All, p
	if prof, has := y.Profiles[guideline]; has {
		any, all, at = prof.Any, prof.All, p.at("profiles", guideline)
		if prof.Omit || prof.Hold != nil {
			at.fail("gives any or all")
		}
	}
	for g := range y.Profiles {
		if !slices.Contains(Guidelines, g) {
			p.at("profiles", g).fail("is no guideline profile")
		}
	}
	c = alerting.Clear{Manual: y.Manual, Count: y.Count, Any: len(any) > 0, Within: p.at("within").duration(y.Within, y.Count > 1)}
	switch n := len(any) + len(all); {
	case y.Manual && n > 0:
		at.fail("a manual clear has no lines")
	case !y.Manual && (n == 0 || len(any) > 0 && len(all) > 0):
		at.fail("give any or all: the lines that end the episode; or say manual: true")
	}
	c.Lines = append(at.lines("any", any, r), at.lines("all", all, r)...)
	return c
}

func (p *parser) lines(key string, in []lineYAML, r *alerting.Rule) []alerting.Line {
	var out []alerting.Line
	for i := range in {
		out = append(out, p.at(key, i).line(&in[i], r))
	}
	return out
}

func (p *parser) line(y *lineYAML, r *alerting.Rule) (l alerting.Line) {
	if len(y.Flags) > 0 {
		if y.Of != "" || y.Op != "" || y.At != nil {
			p.fail("a line about flags has no threshold")
		}
		l.Flags, l.Absent = p.at("flags").flags(y.Flags), y.Absent
		return l
	}
	if y.Absent {
		p.at("absent").fail("is for lines about flags")
	}
	l.Component = p.at("of").component(y.Of, r.Indicator)
	if r.Change != nil && l.Component != r.Change.Component {
		p.at("of").fail("is the component whose change is judged")
	}
	var ok bool
	if l.Op, ok = alerting.ParseOp(y.Op); !ok {
		p.at("op").fail(`is "<", "<=", ">" or ">="`)
	}
	allowed := r.Indicator.Units()
	if !l.Component.InReadingUnit() {
		allowed = []vitals.Unit{vitals.PerMin}
	}
	given := map[vitals.Unit]bool{}
	for _, name := range slices.Sorted(maps.Keys(y.At)) {
		at := p.at("at", name)
		u, ok := vitals.ParseUnit(name)
		if !ok || !slices.Contains(allowed, u) {
			at.fail("is no unit of %s", r.Indicator)
			continue
		}
		if given[u] {
			at.fail("%s is given twice", u)
		}
		given[u] = true
		if y.At[name] == "none" {
			continue
		}
		v, err := strconv.ParseFloat(y.At[name], 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			at.fail("is a number, or none when the rule shall not judge readings in %s", u)
			continue
		}
		l.At = append(l.At, alerting.UnitValue{Unit: u, Value: v})
	}
	for _, u := range allowed {
		if !given[u] {
			p.at("at").fail("needs a number for %s, or %s: none when the rule shall not judge readings in it", u, u)
		}
	}
	slices.SortFunc(l.At, func(a, b alerting.UnitValue) int {
		return cmp.Compare(slices.Index(allowed, a.Unit), slices.Index(allowed, b.Unit))
	})
	for i := 1; i < len(l.At); i++ {
		// A pair is written, not computed, but a slip of the pen must not become a threshold: 3 % covers every
		// rounding that guidelines use.
		a, b := l.At[0], l.At[i]
		if c := convert(b.Value, b.Unit, a.Unit, r.Change != nil); math.Abs(c-a.Value) > 0.03*math.Abs(a.Value) {
			p.at("at").fail("%v %s and %v %s are too far apart for one threshold", a.Value, a.Unit, b.Value, b.Unit)
		}
	}
	return l
}

// units finds units that some lines of a rule judge and others do not: such readings would not be judged at all.
func (p *parser) units(r *alerting.Rule) {
	var first []vitals.Unit
	have := false
	check := func(l *alerting.Line) {
		if l.Flags != 0 || !l.Component.InReadingUnit() {
			return
		}
		var us []vitals.Unit
		for _, u := range l.At {
			us = append(us, u.Unit)
		}
		if !have {
			first, have = us, true
		} else if !slices.Equal(us, first) {
			p.fail("%s has a threshold for some units in one line and for others in another; give all lines the same", r.ID)
			first = us
		}
	}
	for i := range r.Levels {
		for k := range r.Levels[i].Lines {
			check(&r.Levels[i].Lines[k])
		}
		for k := range r.Levels[i].Hold {
			check(&r.Levels[i].Hold[k])
		}
	}
	for k := range r.Clear.Lines {
		check(&r.Clear.Lines[k])
	}
}

// hysteresis finds clear lines on the wrong side of a trigger: such an alert would open and end on one value.
func (p *parser) hysteresis(r *alerting.Rule) {
	low := func(o alerting.Op) bool { return o == alerting.Below || o == alerting.AtMost }
	for i := range r.Levels {
		for _, t := range r.Levels[i].Lines {
			for k, c := range r.Clear.Lines {
				if t.Flags != 0 || c.Flags != 0 || t.Component != c.Component || t.Op == 0 || c.Op == 0 {
					continue
				}
				at := p.at("clear", map[bool]string{true: "any", false: "all"}[r.Clear.Any], k)
				if low(t.Op) == low(c.Op) {
					at.fail("points the same way as the %s line", r.Levels[i].Severity)
					continue
				}
				for _, u := range c.At {
					for _, v := range t.At {
						if u.Unit == v.Unit && (low(t.Op) && u.Value < v.Value || !low(t.Op) && u.Value > v.Value) {
							at.fail("%v %s lies beyond the %s line of %v", u.Value, u.Unit, r.Levels[i].Severity, v.Value)
						}
					}
				}
			}
		}
	}
}
