package alerting

import (
	"fmt"
	"math"
	"slices"
	"time"

	"vitalwatch/vitals"
)

// Op is how a value stands to a threshold. It is part of the rule: guidelines differ in < and ≤ (facts A2).
type Op uint8

// The operators.
const (
	Below   Op = iota + 1 // <
	AtMost                // <=
	Above                 // >
	AtLeast               // >=
)

var opNames = [...]string{"", "<", "<=", ">", ">="}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return ""
}

// ParseOp reads "<", "<=", ">" or ">=".
func ParseOp(s string) (Op, bool) {
	i := slices.Index(opNames[:], s)
	return Op(max(i, 0)), i > 0
}

// Holds reports whether v stands to at as the operator says.
func (o Op) Holds(v, at float64) bool {
	switch o {
	case Below:
		return v < at
	case AtMost:
		return v <= at
	case Above:
		return v > at
	case AtLeast:
		return v >= at
	}
	return false
}

// UnitValue is a threshold in one unit. Pairs such as 54 mg/dL and 3.0 mmol/L are written by the guideline, never
// computed: 10.0 mmol/L converted is above 180 mg/dL (guarantee 9).
type UnitValue struct {
	Unit  vitals.Unit
	Value float64
}

// Source is where a number comes from: the guideline and how sure we are of it (facts/clinical.md: V1, V2, G, P, C).
type Source struct {
	Text string `json:"text"`
	Mark string `json:"mark"`
}

// Line is one comparison: a component against a threshold, or a flag that the device set.
type Line struct {
	Component vitals.Component
	Op        Op
	// At has one entry per unit that the line judges. A reading in another unit is not judged by the rule.
	At []UnitValue
	// Flags, when not 0, makes the line "the device set one of these" (Absent: none of these); Component, Op and
	// At then mean nothing.
	Flags  vitals.Flags
	Absent bool
	Source Source
}

// Filter says which readings a rule or level looks at; what it leaves out is as if it were not there. The zero
// Filter takes all.
type Filter struct {
	Meals, NotMeals           []vitals.Meal
	Activities, NotActivities []vitals.Activity
	Flags, NotFlags           vitals.Flags // at least one of Flags, none of NotFlags
}

// Repeat asks for Count observations beyond the line, the last one included, no further apart than Within; with
// Of > 0 they must be among the last Of observations.
type Repeat struct {
	Count, Of int
	Within    time.Duration
}

// Level is one rung of a rule's ladder.
type Level struct {
	Severity Severity
	Lines    []Line
	All      bool // every line, not any of them
	// Hold are the lines beyond which the level is kept once reached; nil: Lines. It is the level's own deadband.
	Hold    []Line
	HoldAll bool
	// For asks that the line was held so long by the readings' own times, with no gap longer than MaxGap between
	// two of them. 0: a single observation is enough.
	For, MaxGap time.Duration
	Repeat      Repeat
	Filter      Filter
	Source      Source
	Advice      Text // nil: the rule's
}

// Clear is what ends an episode: Count consecutive settled observations that satisfy the lines; of these only
// such as are no older than Within before the newest, so that somebody who measures rarely is not held for ever.
type Clear struct {
	Manual bool // readings never end it, a person does
	Lines  []Line
	Any    bool // one line is enough; otherwise all must hold
	Count  int  // 1 when 0
	Within time.Duration
}

// From says what a change is measured from.
type From uint8

// The references of a change.
const (
	FromFirst   From = iota // the oldest observation of the window
	FromLowest              // the lowest of the window
	FromHighest             // the highest of the window
)

var fromNames = [...]string{"first", "lowest", "highest"}

func (f From) String() string { return fromNames[min(int(f), len(fromNames)-1)] }

// Change makes the rule's lines judge how the component moved instead of its value: the difference to the
// reference within the last Over (before the reading's own taken_at), or that per Per when Per > 0. A rate is
// judged over a third of Over at least: over seconds the noise of a sensor is a rate of any size (P; 15 to 20 minutes
// are usual). Fall turns the sign, so that thresholds are positive. Points is the least number of observations, the
// newest included.
type Change struct {
	Component vitals.Component
	Over, Per time.Duration
	From      From
	Fall      bool
	Points    int
}

// Suspect says what readings of suspect quality may do.
type Suspect uint8

// The policies. A suspect reading never eases or clears, whatever the policy.
const (
	Confirm Suspect = iota // counts once an earlier reading within ConfirmWithin was beyond the same line
	AlertOn                // counts at once: the crisis lines, where missing one is worse than a false one
)

// ConfirmWithin is how long a reading beyond a line can confirm a suspect one beyond the same line (P).
const ConfirmWithin = 10 * time.Minute

// SettleAfter is how long after its receipt a timestamp is taken as complete when nothing newer came (P).
const SettleAfter = time.Second

// Rule says when something is wrong with one indicator, and how wrong.
type Rule struct {
	ID              RuleID
	Condition       string // the pack it came from
	PackVersion     string
	Guideline       string // the profile the numbers were taken from
	Indicator       vitals.Indicator
	Title, Advice   Text
	Source          Source
	Filter          Filter
	Change          *Change // nil: lines judge values
	Levels          []Level // ascending severity; two levels may share one
	Clear           Clear
	SignalLostAfter time.Duration // 0: silence is not told
	Suspect         Suspect
	// Person lists the severities whose thresholds are this person's own, not the pack's.
	Person []Severity
}

// Pack names a pack in force.
type Pack struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Guideline string `json:"guideline"`
}

// RuleSet is a compiled, immutable set of rules, shared by all patients who have the same conditions and
// overrides. It is safe for concurrent use.
type RuleSet struct {
	rules []Rule
	packs []Pack
	c     []crule
	by    [maxIndicators][]*crule
	look  [maxIndicators]vitals.Micros
	max   vitals.Micros
}

const (
	maxIndicators = 32 // more than vitals has
	maxLevels     = 8  // bits of a levelBits
	maxRepeat     = 8
	maxSamples    = 12 // of a change's window: bounds the memory of a patient
)

// Rules lists the rules in force, by id. Do not change them.
func (rs *RuleSet) Rules() []Rule { return rs.rules }

// Packs lists the packs in force, general first. Do not change the slice.
func (rs *RuleSet) Packs() []Pack { return rs.packs }

// Rule finds a rule by id.
func (rs *RuleSet) Rule(id RuleID) (*Rule, bool) {
	i, ok := slices.BinarySearchFunc(rs.rules, id, func(r Rule, id RuleID) int { return cmpString(string(r.ID), string(id)) })
	if !ok {
		return nil, false
	}
	return &rs.rules[i], true
}

// Window is the longest look-back any rule needs: an engine warmed with the readings whose taken_at is at most so
// long before now behaves like one that never stopped.
func (rs *RuleSet) Window() time.Duration { return time.Duration(rs.max) * time.Microsecond }

// LookBack is the look-back for one indicator, 0 when no rule looks at it. Warming each indicator with its own
// is enough, and much cheaper than Window for all.
func (rs *RuleSet) LookBack(i vitals.Indicator) time.Duration {
	if int(i) >= maxIndicators {
		return 0
	}
	return time.Duration(rs.look[i]) * time.Microsecond
}

// levelBits has one bit per level of a rule.
type levelBits uint8

// maxUnits is the most units that an indicator has: weight.
const maxUnits = 6

// cline is a Line ready to be judged.
type cline struct {
	at     [maxUnits]float64
	units  [maxUnits]vitals.Unit
	n      uint8
	idx    uint8 // place in Reading.V
	mask   uint8 // its bit in Reading.Has
	op     Op
	delta  bool // judge the change, not the value
	absent bool
	flags  vitals.Flags
}

func (l *cline) holds(r *vitals.Reading, delta float64) bool {
	if l.flags != 0 {
		return (r.Flags&l.flags != 0) != l.absent
	}
	v := delta
	if !l.delta {
		if r.Has&l.mask == 0 {
			return false
		}
		v = r.V[l.idx]
	}
	i := l.unit(r.Unit)
	return i >= 0 && l.op.Holds(v, l.at[i])
}

// unit is the place of the threshold for a reading in unit u, -1 when there is none. A component that is not in
// the reading's unit (pulse) has one threshold.
func (l *cline) unit(u vitals.Unit) int {
	if l.n == 1 && l.units[0] == vitals.NoUnit {
		return 0
	}
	for i := range l.n {
		if l.units[i] == u {
			return int(i)
		}
	}
	return -1
}

func anyHolds(ls []cline, r *vitals.Reading, delta float64) bool {
	for i := range ls {
		if ls[i].holds(r, delta) {
			return true
		}
	}
	return false
}

func allHold(ls []cline, r *vitals.Reading, delta float64) bool {
	for i := range ls {
		if !ls[i].holds(r, delta) {
			return false
		}
	}
	return len(ls) > 0
}

func hold(ls []cline, all bool, r *vitals.Reading, delta float64) bool {
	if all {
		return allHold(ls, r, delta)
	}
	return anyHolds(ls, r, delta)
}

type cfilter struct {
	on          bool
	meals, acts uint8 // bits that pass
	need, not   vitals.Flags
}

func (f *cfilter) takes(r *vitals.Reading) bool {
	return !f.on || f.meals&(1<<r.Meal) != 0 && f.acts&(1<<r.Activity) != 0 &&
		(f.need == 0 || r.Flags&f.need != 0) && r.Flags&f.not == 0
}

type clevel struct {
	sev         Severity
	all, hAll   bool
	plain       bool // a single observation decides
	keep        uint8
	count, of   int
	lines, hold []cline
	filter      cfilter
	dur, gap    vitals.Micros
	within      vitals.Micros
}

type crule struct {
	*Rule
	n        int // place in RuleSet.c
	low      Severity
	needs    uint8  // components, one of which must be there
	units    uint32 // bits of units that every line judges
	history  bool   // a reading beyond a line is remembered
	depth    int    // past observations kept
	levels   []clevel
	clear    []cline
	count    int
	within   vitals.Micros
	lost     vitals.Micros
	changeAt uint8 // place of the component that the change follows
	filter   cfilter
	calm     []band       // one per component that lines look at; nil when the rule has no such shortcut
	calmNot  vitals.Flags // a reading with one of these is not calm
}

// band is where a component is beyond no line of a rule. It says nothing new: it spares the usual reading the
// levels, and a value on its edge takes the long way.
type band struct {
	at, mask uint8
	pulse    bool // not in the reading's unit
	n        uint8
	units    [maxUnits]vitals.Unit
	lo, hi   [maxUnits]float64 // exclusive
}

// isCalm reports whether r is certainly beyond no line.
func (c *crule) isCalm(r *vitals.Reading) bool {
	if c.calm == nil || r.Flags&c.calmNot != 0 {
		return false
	}
	for k := range c.calm {
		b := &c.calm[k]
		if r.Has&b.mask == 0 {
			continue
		}
		i := uint8(0)
		if !b.pulse {
			for i < b.n && b.units[i] != r.Unit {
				i++
			}
			if i == b.n {
				return false
			}
		}
		if v := r.V[b.at]; !(v > b.lo[i] && v < b.hi[i]) {
			return false
		}
	}
	return true
}

// calmBands computes the shortcut.
func (c *crule) calmBands() {
	if c.Change != nil {
		return
	}
	var bands []band
	for i := range c.levels {
		for k := range c.levels[i].lines {
			l := &c.levels[i].lines[k]
			if l.flags != 0 {
				if l.absent {
					return
				}
				c.calmNot |= l.flags
				continue
			}
			j := slices.IndexFunc(bands, func(b band) bool { return b.at == l.idx })
			if j < 0 {
				b := band{at: l.idx, mask: l.mask, n: l.n, units: l.units, pulse: l.units[0] == vitals.NoUnit}
				for u := range b.lo {
					b.lo[u], b.hi[u] = math.Inf(-1), math.Inf(1)
				}
				bands, j = append(bands, b), len(bands)
			}
			b := &bands[j]
			if b.n != l.n || b.units != l.units {
				return // lines with other units, or in another order: the long way
			}
			for u := range b.n {
				if l.op == Below || l.op == AtMost {
					b.lo[u] = max(b.lo[u], l.at[u])
				} else {
					b.hi[u] = min(b.hi[u], l.at[u])
				}
			}
		}
	}
	c.calm = append([]band{}, bands...)
}

// takes reports whether the rule can judge r at all.
func (c *crule) takes(r *vitals.Reading) bool {
	return c.units&(1<<r.Unit) != 0 && (c.needs == 0 || r.Has&c.needs != 0) && c.filter.takes(r)
}

func micros(d time.Duration) vitals.Micros { return vitals.Micros(d / time.Microsecond) }

// NewRuleSet compiles rules. It refuses what the engine could not keep its promises for; the first problem is
// returned, conditions.Load finds them all, with their place in the file.
func NewRuleSet(rules []Rule, packs []Pack) (*RuleSet, error) {
	rs := &RuleSet{rules: slices.Clone(rules), packs: slices.Clone(packs)}
	slices.SortStableFunc(rs.rules, func(a, b Rule) int { return cmpString(string(a.ID), string(b.ID)) })
	rs.c = make([]crule, len(rs.rules))
	for i := range rs.rules {
		r := &rs.rules[i]
		if i > 0 && rs.rules[i-1].ID == r.ID {
			return nil, fmt.Errorf("rule %s: defined twice; keep one", r.ID)
		}
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("rule %s: %w", r.ID, err)
		}
		compile(&rs.c[i], r, i)
		if rs.c[i].units == 0 {
			return nil, fmt.Errorf("rule %s: no unit has a threshold in every line; give each line the same units", r.ID)
		}
		rs.by[r.Indicator] = append(rs.by[r.Indicator], &rs.c[i])
		rs.look[r.Indicator] = max(rs.look[r.Indicator], rs.c[i].lookBack())
	}
	// A live reading may have been taken LiveWindow before it was received, or MaxClockAhead after it.
	margin := micros(vitals.LiveWindow + vitals.MaxClockAhead)
	for i := range rs.look {
		if len(rs.by[i]) > 0 {
			rs.look[i] += margin
			rs.max = max(rs.max, rs.look[i])
		}
	}
	return rs, nil
}

// Check reports what the engine cannot run.
func (r *Rule) Check() error {
	if r.Indicator == 0 || int(r.Indicator) >= maxIndicators || len(r.Indicator.Units()) == 0 {
		return fmt.Errorf("no such indicator")
	}
	if len(r.Levels) == 0 || len(r.Levels) > maxLevels {
		return fmt.Errorf("has %d levels; give 1 to %d", len(r.Levels), maxLevels)
	}
	if c := r.Change; c != nil {
		if c.Over <= 0 || c.Per < 0 || r.Indicator.Index(c.Component) < 0 {
			return fmt.Errorf("a change needs a window and a component of the indicator")
		}
		if c.Points > maxSamples || c.Points > 2 && c.From != FromFirst {
			return fmt.Errorf("a change looks at %d points at most, one to lowest or highest at 2", maxSamples)
		}
	}
	last := None
	for i := range r.Levels {
		l := &r.Levels[i]
		if l.Severity == None || l.Severity > Emergency || l.Severity < last {
			return fmt.Errorf("levels must be in ascending severity")
		}
		last = l.Severity
		switch n := l.Repeat; {
		case l.For < 0 || l.For > 0 && l.MaxGap <= 0:
			return fmt.Errorf("level %s: for needs a max_gap", l.Severity)
		case l.For > 0 && n.Count != 0:
			return fmt.Errorf("level %s: for and repeat exclude each other", l.Severity)
		case n.Count < 0 || n.Count == 1 || n.Count > maxRepeat || n.Of > 2*maxRepeat || n.Of != 0 && n.Of < n.Count:
			return fmt.Errorf("level %s: repeat needs 2 to %d readings, of no fewer and at most %d", l.Severity, maxRepeat, 2*maxRepeat)
		case n.Count > 0 && n.Within <= 0:
			return fmt.Errorf("level %s: repeat needs within", l.Severity)
		}
		for _, ls := range [][]Line{l.Lines, l.Hold} {
			if err := r.checkLines(ls); err != nil {
				return fmt.Errorf("level %s: %w", l.Severity, err)
			}
		}
		if len(l.Lines) == 0 {
			return fmt.Errorf("level %s: has no line", l.Severity)
		}
	}
	if len(r.Clear.Lines) == 0 && !r.Clear.Manual {
		return fmt.Errorf("has no clear line; give one, or say manual")
	}
	if r.Clear.Count < 0 || r.Clear.Count > 2*maxRepeat || r.Clear.Count > 1 && r.Clear.Within <= 0 {
		return fmt.Errorf("clear: a count of 2 to %d needs within", 2*maxRepeat)
	}
	if err := r.checkLines(r.Clear.Lines); err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	return nil
}

func (r *Rule) checkLines(ls []Line) error {
	for _, l := range ls {
		if l.Flags != 0 {
			continue
		}
		if r.Indicator.Index(l.Component) < 0 {
			return fmt.Errorf("%s has no component %s", r.Indicator, l.Component)
		}
		if l.Op < Below || l.Op > AtLeast || len(l.At) == 0 || len(l.At) > len(cline{}.at) {
			return fmt.Errorf("a line needs an operator and 1 to %d thresholds", len(cline{}.at))
		}
		for _, u := range l.At {
			if l.Component.InReadingUnit() && !r.Indicator.Accepts(u.Unit) || !l.Component.InReadingUnit() && u.Unit != vitals.PerMin {
				return fmt.Errorf("%s is no unit of %s", u.Unit, r.Indicator)
			}
		}
	}
	return nil
}

func compile(c *crule, r *Rule, n int) {
	*c = crule{Rule: r, n: n, low: r.Levels[0].Severity, filter: compileFilter(&r.Filter),
		count: max(r.Clear.Count, 1), within: micros(r.Clear.Within), lost: micros(r.SignalLostAfter)}
	c.depth = c.count - 1
	c.history = r.Suspect == Confirm || r.Change != nil
	units := ^uint32(0)
	lines := func(in []Line) []cline {
		var out []cline
		for _, l := range in {
			k := r.Indicator.Index(l.Component)
			cl := cline{op: l.Op, flags: l.Flags, absent: l.Absent, n: uint8(len(l.At)), delta: r.Change != nil}
			if l.Flags == 0 {
				cl.idx, cl.mask = uint8(k), 1<<k
				c.needs |= cl.mask
				bits := uint32(0)
				for i, u := range l.At {
					cl.units[i], cl.at[i] = u.Unit, u.Value
					bits |= 1 << u.Unit
				}
				if !l.Component.InReadingUnit() {
					cl.units[0], cl.n = vitals.NoUnit, 1
				} else {
					units &= bits
				}
			}
			out = append(out, cl)
		}
		return out
	}
	for i := range r.Levels {
		l := &r.Levels[i]
		cl := clevel{sev: l.Severity, all: l.All, hAll: l.HoldAll, lines: lines(l.Lines), hold: lines(l.Hold),
			filter: compileFilter(&l.Filter), dur: micros(l.For), gap: micros(l.MaxGap),
			count: l.Repeat.Count, of: l.Repeat.Of, within: micros(l.Repeat.Within)}
		if cl.hold == nil {
			cl.hold, cl.hAll = cl.lines, cl.all
		}
		switch {
		case l.For > 0:
			cl.keep = explained
		case l.Repeat.Count > 0:
			cl.keep = uint8(l.Repeat.Count - 1)
			c.depth = max(c.depth, l.Repeat.Of-1)
		default:
			cl.plain = true
		}
		c.history = c.history || !cl.plain
		c.levels = append(c.levels, cl)
	}
	c.clear = lines(r.Clear.Lines)
	c.units = units
	c.calmBands()
	if r.Change != nil {
		k := r.Indicator.Index(r.Change.Component)
		c.changeAt, c.needs = uint8(k), 1<<k
	}
}

// explained is how many earlier readings of a held line the explanation lists.
const explained = 3

// lookBack is how far before the newest reading the rule's state reaches.
func (c *crule) lookBack() vitals.Micros {
	w := max(c.within, c.lost, micros(ConfirmWithin))
	for i := range c.levels {
		l := &c.levels[i]
		// A run that is long enough has an observation at most gap before the moment dur ago; the explanation
		// lists the last few, each at most gap apart.
		w = max(w, l.within, l.dur+l.gap, explained*l.gap)
	}
	if c.Change != nil {
		w = max(w, micros(c.Change.Over))
	}
	return w
}

func compileFilter(f *Filter) cfilter {
	c := cfilter{meals: 0xff, acts: 0xff, need: f.Flags, not: f.NotFlags}
	if len(f.Meals) > 0 {
		c.meals = 0
	}
	for _, m := range f.Meals {
		c.meals |= 1 << m
	}
	for _, m := range f.NotMeals {
		c.meals &^= 1 << m
	}
	if len(f.Activities) > 0 {
		c.acts = 0
	}
	for _, a := range f.Activities {
		c.acts |= 1 << a
	}
	for _, a := range f.NotActivities {
		c.acts &^= 1 << a
	}
	c.on = c.meals != 0xff || c.acts != 0xff || c.need != 0 || c.not != 0
	return c
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
