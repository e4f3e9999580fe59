package alerting

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"vitalwatch/vitals"
)

// OpenAlert is what the ledger keeps of an open alert and the engine needs to go on.
type OpenAlert struct {
	ID              string
	Rule            RuleID
	Condition       string
	Severity        Severity
	State           State // Open or Acknowledged
	OpenedAt        vitals.Micros
	SignalLostSince vitals.Micros // 0: the signal is live
	SnoozedUntil    vitals.Micros // 0: not snoozed
	// Of a technical alert, from its trigger: what failed, and when, in whole milliseconds. Zero for clinical ones.
	Device    vitals.DeviceID
	Indicator vitals.Indicator
	FailedAt  vitals.Micros
}

// Decisions collects what was decided, in order. The caller owns it and may reuse it after Reset.
type Decisions struct {
	Transitions []Transition
	Findings    []Finding
}

// Reset empties d and keeps its memory.
func (d *Decisions) Reset() { d.Transitions, d.Findings = d.Transitions[:0], d.Findings[:0] }

// Act is a kind of human act.
type Act string

// The acts.
const (
	ActAcknowledge Act = "acknowledge"
	ActSnooze      Act = "snooze"
	ActResolve     Act = "resolve"
	ActNote        Act = "note"
)

// Action is what a named human does to an alert.
type Action struct {
	Act           Act
	AlertID       string
	Actor         string // who; never empty
	Minutes       int    // ActSnooze
	Outcome, Note string // ActResolve; Note for all
}

// Snooze caps by severity in minutes (P, facts F: an urgent low may be put off 15 minutes at most). A longer snooze is
// cut to them, and its transition says until when.
const (
	MaxSnoozeCritical = 15
	MaxSnooze         = 120
)

// Why an act is refused.
var (
	ErrNotOpen      = errors.New("the alert is not open any more; reload it")
	ErrAcknowledged = errors.New("somebody has taken the alert over already; reload it")
	ErrNoSnooze     = errors.New("an emergency cannot be snoozed; acknowledge it")
	ErrSnoozeLength = errors.New("snooze for at least one minute; a critical alert stays snoozed for 15 at most, others for 120")
	ErrNoActor      = errors.New("an act needs a named actor")
	ErrUnknownAct   = errors.New("no such act; use acknowledge, snooze, resolve or note")
)

// ByValues is the Actor of a resolution by readings, ByClock that of what time brought about.
const (
	ByValues = "values"
	ByClock  = "clock"
)

// Patient is the engine's state of one patient. It is a cache: the open alerts come from the ledger, everything
// else follows from the readings of the look-back window in the order of their Seq, so NewPatient, Restore and
// Warm give what an engine that never stopped would hold. It belongs to one goroutine.
type Patient struct {
	id     vitals.PatientID
	rs     *RuleSet
	series []series
	rules  []*ruleState // only rules with something to remember; by place in the rule set, alerts without rule last
	next   vitals.Micros
}

// series is what is known of one indicator.
type series struct {
	indicator vitals.Indicator
	newest    vitals.Micros   // taken_at of the newest live reading
	device    vitals.DeviceID // that took it, "" when several did at that instant
	heard     vitals.Micros   // when the last live reading was received
}

// ruleState is what one rule remembers. cur is the observation at the newest timestamp: all readings of that
// taken_at merged, so that their order of arrival does not matter. It joins past, lv and samples only when the
// timestamp is settled.
type ruleState struct {
	c       *crule // nil: the alert's rule is no longer in force
	alert   *alert
	past    []observation // settled, oldest first, at most c.depth
	lv      []levelState
	samples []sample
	cur     observation
	curRaw  levelBits // beyond the line, whether it counts or not
	curSeen levelBits // levels that looked at a reading that counts
	curTop  uint8     // how far up the ladder curEv is
	curEv   *evidence // of the reading furthest up, where the rule remembers it
	lastEv  *evidence // of the reading that would ease or clear: of those at one time the worst
	lastSev Severity  // what lastEv holds the alert at
	// curSample is what a later change would be measured from.
	curSample sample
}

type alert struct {
	OpenAlert
	settleAt vitals.Micros // when Tick would ease or clear, 0: nothing to do
}

// observation is the readings of one taken_at as one rule sees them.
type observation struct {
	taken   vitals.Micros
	eff     levelBits // lines that it is beyond and that count
	hold    Severity  // what it holds the alert at, None: clear
	counted bool      // false: nothing but suspect or filtered readings, as if it were not there
}

type levelState struct {
	runStart, runLast vitals.Micros // of the current run beyond the line; 0: none
	rawAt             vitals.Micros // last observation beyond the line, confirmed or not; 0: none
	raw               *evidence
	hits              []*evidence // last effective observations beyond the line, oldest first
}

// sample is one observation of a change rule.
type sample struct {
	taken vitals.Micros
	canon float64 // in the canonical unit: only to find the extreme among units
	ev    *evidence
}

// NewPatient returns the state of a patient nothing is known of.
func NewPatient(id vitals.PatientID, rs *RuleSet) *Patient { return &Patient{id: id, rs: rs} }

// ID is whose state it is.
func (p *Patient) ID() vitals.PatientID { return p.id }

// RuleSet is the rule set in force.
func (p *Patient) RuleSet() *RuleSet { return p.rs }

// Restore takes over the ledger's open alerts. Call it before Warm.
func (p *Patient) Restore(open []OpenAlert) {
	for _, a := range open {
		p.restore(a)
	}
	p.schedule()
}

func (p *Patient) restore(a OpenAlert) {
	st := &ruleState{alert: &alert{OpenAlert: a}}
	for i := range p.rs.c {
		if p.rs.c[i].ID == a.Rule {
			p.ensure(&p.rs.c[i]).alert = st.alert
			return
		}
	}
	p.insert(st)
}

// Open lists the open alerts in the order of the rules.
func (p *Patient) Open() []OpenAlert {
	var out []OpenAlert
	for _, st := range p.rules {
		if st.alert != nil {
			out = append(out, st.alert.OpenAlert)
		}
	}
	return out
}

// SetRules puts another rule set in force. Open alerts stay open, whatever the new rules say about them; one
// whose rule is gone is closed by a human only. Windows are forgotten: Warm again with the readings of the new
// rule set's Window.
func (p *Patient) SetRules(rs *RuleSet) {
	open := p.Open()
	p.rs, p.series, p.rules = rs, nil, nil
	p.Restore(open)
}

// NextTick is when Tick is needed next; 0: only after the next reading or act.
func (p *Patient) NextTick() vitals.Micros { return p.next }

// Warm replays a stored reading to rebuild the windows, in the order of Seq. It decides nothing.
func (p *Patient) Warm(r *vitals.Reading) { p.take(r, nil) }

// Observe judges a reading. at is its ReceivedAt; ticks that were due by then are done first, so that a late
// clock, a backlog and a replay decide the same.
func (p *Patient) Observe(r *vitals.Reading, out *Decisions) {
	p.catchUp(r.ReceivedAt, out)
	p.take(r, out)
}

func (p *Patient) catchUp(at vitals.Micros, out *Decisions) {
	for p.next != 0 && p.next <= at {
		p.Tick(p.next, out)
	}
}

// take merges a reading into the state; with out == nil it decides nothing.
func (p *Patient) take(r *vitals.Reading, out *Decisions) {
	if r.Failed() {
		p.failure(r, out)
		return
	}
	if int(r.Indicator) >= maxIndicators || r.Quality == vitals.Invalid || r.Flags&vitals.DisplayOnly != 0 {
		return
	}
	if len(p.rules) > 0 && out != nil && r.Quality == vitals.Good && r.Freshness == vitals.Live {
		p.measured(r, out)
	}
	rules := p.rs.by[r.Indicator]
	if len(rules) == 0 {
		return
	}
	if r.Freshness != vitals.Live {
		p.findings(rules, r, out)
		return
	}
	s := p.seriesOf(r.Indicator)
	s.heard = max(s.heard, r.ReceivedAt)
	if len(p.rules) > 0 && out != nil {
		p.signalBack(r, out)
	}
	switch {
	case r.TakenAt < s.newest:
		if r.Device != s.device {
			rules = p.overtaken(rules, r, out)
		}
		p.findings(rules, r, out)
	default:
		if r.TakenAt > s.newest {
			s.newest, s.device = r.TakenAt, r.Device
			if len(p.rules) > 0 {
				p.settle(r, out)
			}
		}
		if s.device != r.Device {
			s.device = ""
		}
		for _, c := range rules {
			p.judge(c, r, s.heard, out)
		}
	}
	if len(p.rules) > 0 || p.next != 0 {
		p.schedule()
	}
}

// overtaken judges a live reading that another device's newer one has overtaken. One of the two clocks may be wrong,
// and a dangerous value must not hide behind another device's calm one: it opens and worsens by critical and
// emergency levels that need one reading. It eases and clears nothing; and what was calm before it does not count
// towards ending the alert. It returns the rules for which the reading is only a finding.
func (p *Patient) overtaken(rules []*crule, r *vitals.Reading, out *Decisions) []*crule {
	var rest []*crule
	for _, c := range rules {
		i := -1
		if c.Change == nil && c.takes(r) && (r.Quality == vitals.Good || c.Suspect != Confirm) {
			v := c.verdict(r, 0)
			for i = len(c.levels) - 1; i >= 0; i-- {
				if l := &c.levels[i]; v.raw&(1<<i) != 0 && l.plain && l.sev >= Critical {
					break
				}
			}
		}
		if i < 0 {
			rest = append(rest, c)
			continue
		}
		st := p.state(c)
		if st == nil && out != nil {
			st = p.ensure(c)
		}
		if st == nil {
			continue // warming: the alert that it opened has ended since
		}
		st.past = st.past[:0]
		st.cur = observation{taken: st.cur.taken}
		st.curRaw, st.curSeen, st.lastEv, st.lastSev = 0, 0, nil, None
		if out != nil {
			p.raise(st, i, r, 0, out)
		}
		if st.alert != nil {
			st.alert.settleAt = 0
		}
	}
	return rest
}

func (p *Patient) seriesOf(i vitals.Indicator) *series {
	for k := range p.series {
		if p.series[k].indicator == i {
			return &p.series[k]
		}
	}
	// Grown by two at most: most patients send two or three indicators.
	if len(p.series) == cap(p.series) {
		p.series = append(make([]series, 0, len(p.series)+2), p.series...)
	}
	p.series = append(p.series, series{indicator: i})
	return &p.series[len(p.series)-1]
}

// state finds the rule's state, nil when it has nothing to remember.
func (p *Patient) state(c *crule) *ruleState {
	for _, st := range p.rules {
		if st.c == c {
			return st
		}
	}
	return nil
}

func (p *Patient) ensure(c *crule) *ruleState {
	if st := p.state(c); st != nil {
		return st
	}
	st := &ruleState{c: c}
	p.insert(st)
	return st
}

// insert keeps p.rules in a fixed order, so that a rebuilt engine decides in the same order.
func (p *Patient) insert(st *ruleState) {
	i, _ := slices.BinarySearchFunc(p.rules, st, func(a, b *ruleState) int {
		switch {
		case a.c != nil && b.c != nil:
			return cmp.Compare(a.c.n, b.c.n)
		case a.c != nil:
			return -1
		case b.c != nil:
			return 1
		}
		return cmp.Compare(a.alert.ID, b.alert.ID)
	})
	p.rules = slices.Insert(p.rules, i, st)
}

// verdict is what one reading says under one rule.
type verdict struct {
	seen levelBits // levels that look at it
	raw  levelBits // lines that it is beyond
	hold Severity  // what it holds an open alert at
}

func (c *crule) verdict(r *vitals.Reading, delta float64) (v verdict) {
	for i := range c.levels {
		l := &c.levels[i]
		if !l.filter.takes(r) {
			continue
		}
		v.seen |= 1 << i
		if hold(l.lines, l.all, r, delta) {
			v.raw |= 1 << i
			v.hold = l.sev
		} else if l.sev > v.hold && hold(l.hold, l.hAll, r, delta) {
			v.hold = l.sev
		}
	}
	return v
}

// clears reports whether the reading satisfies the clear line.
func (c *crule) clears(r *vitals.Reading, delta float64) bool {
	return !c.Clear.Manual && hold(c.clear, !c.Clear.Any, r, delta)
}

// judge merges r into the rule's current observation and opens or worsens.
func (p *Patient) judge(c *crule, r *vitals.Reading, heard vitals.Micros, out *Decisions) {
	st := p.state(c)
	if st == nil && c.isCalm(r) || !c.takes(r) {
		return // the usual case: a calm reading of a rule with nothing to remember
	}
	var v verdict
	var delta float64
	if c.Change == nil {
		v = c.verdict(r, 0)
	} else if st != nil {
		if d, ok := st.change(r); ok { // without a reference it is neither beyond nor clear
			delta, v = d, c.verdict(r, d)
		}
	}
	good := r.Quality == vitals.Good
	eff := v.raw
	if !good && c.Suspect == Confirm {
		eff &= st.confirmed(r.TakenAt)
	}
	if st == nil {
		if c.Change == nil && (v.raw == 0 || eff == 0 && !c.history) {
			return // nothing to remember
		}
		st = p.ensure(c)
	}
	if st.cur.taken != r.TakenAt {
		st.cur = observation{taken: r.TakenAt}
	}
	st.curRaw |= v.raw
	st.cur.eff |= eff
	counts := good && v.seen != 0 || eff != 0
	var h Severity
	if counts {
		h = v.hold
		switch {
		case !good:
			h = c.top(eff)
		case h == None && !c.clears(r, delta):
			h = c.low
		}
		st.cur.hold = max(st.cur.hold, h)
		st.cur.counted = true
		st.curSeen |= v.seen
	}
	if c.history && v.raw != 0 {
		if top := 8*uint8(c.top(eff)) + uint8(c.top(v.raw)); st.curEv == nil || top > st.curTop {
			st.curEv, st.curTop = newEvidence(r), top
		}
	}
	if c.Change != nil && good {
		st.merge(r)
	}
	if eff != 0 && out != nil {
		if i := st.met(eff); i >= 0 {
			p.raise(st, i, r, delta, out)
		}
	}
	if st.alert != nil {
		st.alert.settleAt = 0
		if all, ok := st.holding(); ok && all < st.alert.Severity {
			if counts && (st.lastEv == nil || h > st.lastSev) {
				st.lastEv, st.lastSev = newEvidence(r), h
			}
			st.alert.settleAt = heard + micros(SettleAfter)
		}
	}
}

// top is the highest severity among the levels in bits.
func (c *crule) top(bits levelBits) Severity {
	for i := len(c.levels) - 1; i >= 0; i-- {
		if bits&(1<<i) != 0 {
			return c.levels[i].sev
		}
	}
	return None
}

// confirmed are the levels whose line an earlier observation was beyond within ConfirmWithin.
func (st *ruleState) confirmed(taken vitals.Micros) (b levelBits) {
	if st == nil {
		return 0
	}
	for i := range st.lv {
		if at := st.lv[i].rawAt; at != 0 && taken > at && taken-at <= micros(ConfirmWithin) {
			b |= 1 << i
		}
	}
	return b
}

// met is the highest level whose condition holds now and whose line the reading at hand is beyond (bits), -1 when
// there is none.
func (st *ruleState) met(bits levelBits) int {
	for i := len(st.c.levels) - 1; i >= 0; i-- {
		if bits&(1<<i) == 0 {
			continue
		}
		l := &st.c.levels[i]
		if l.plain {
			return i
		}
		if st.lv == nil {
			continue
		}
		ls := &st.lv[i]
		switch {
		case l.dur > 0:
			if ls.runStart != 0 && st.cur.taken-ls.runLast <= l.gap && st.cur.taken-ls.runStart >= l.dur {
				return i
			}
		case l.of > 0:
			n := 1
			for k := max(0, len(st.past)-(l.of-1)); k < len(st.past); k++ {
				if o := &st.past[k]; o.eff&(1<<i) != 0 && st.cur.taken-o.taken <= l.within {
					n++
				}
			}
			if n >= l.count {
				return i
			}
		default:
			n := 1
			for _, h := range ls.hits {
				if st.cur.taken-h.taken <= l.within {
					n++
				}
			}
			if n >= l.count {
				return i
			}
		}
	}
	return -1
}

// raise opens the alert or worsens it to level i.
func (p *Patient) raise(st *ruleState, i int, r *vitals.Reading, delta float64, out *Decisions) {
	c := st.c
	sev := c.levels[i].sev
	kind := Worsened
	switch {
	case st.alert == nil:
		kind = Opened
		st.alert = &alert{OpenAlert: OpenAlert{ID: alertID(p.id, c.ID, r), Rule: c.ID, Condition: c.Condition,
			State: Open, OpenedAt: r.ReceivedAt}}
	case sev <= st.alert.Severity:
		return
	}
	snoozed, acked := st.alert.SnoozedUntil != 0, st.alert.State == Acknowledged
	// What got worse needs a human again: an acknowledgement and a snooze were for what was known then.
	st.alert.Severity, st.alert.State, st.alert.SnoozedUntil = sev, Open, 0
	ev := newEvidence(r)
	out.Transitions = append(out.Transitions, Transition{AlertID: st.alert.ID, Patient: p.id, Rule: c.ID,
		Condition: c.Condition, Kind: kind, Severity: sev, At: r.ReceivedAt, Title: c.Title, Trigger: ev.trigger(),
		Explanation: st.explainRaise(kind, i, ev, delta, snoozed, acked), ReceivedAt: r.ReceivedAt})
}

// holding is what the last observations hold the alert at; ok is false when the newest does not count.
func (st *ruleState) holding() (h Severity, ok bool) {
	if !st.cur.counted {
		return None, false
	}
	h = st.cur.hold
	for k := max(0, len(st.past)-(st.c.count-1)); k < len(st.past); k++ {
		if o := &st.past[k]; st.cur.taken-o.taken <= st.c.within {
			h = max(h, o.hold)
		}
	}
	return h, true
}

// settle closes the current timestamp of every rule of the indicator because a later one has come.
func (p *Patient) settle(r *vitals.Reading, out *Decisions) {
	keep := p.rules[:0]
	for _, st := range p.rules {
		if st.c == nil || st.c.Indicator != r.Indicator {
			keep = append(keep, st)
			continue
		}
		if out != nil && st.alert != nil {
			p.ease(st, r.ReceivedAt, r.ReceivedAt, out)
		}
		st.fold()
		if st.alert != nil || !st.idle(r.TakenAt) {
			keep = append(keep, st)
		}
	}
	clear(p.rules[len(keep):])
	p.rules = keep
}

// ease lowers or resolves the alert when its last observations say so.
func (p *Patient) ease(st *ruleState, at, received vitals.Micros, out *Decisions) {
	st.alert.settleAt = 0
	h, ok := st.holding()
	if !ok || h >= st.alert.Severity {
		return
	}
	t := Transition{AlertID: st.alert.ID, Patient: p.id, Rule: st.alert.Rule, Condition: st.c.Condition, Kind: Eased,
		Severity: h, At: at, Title: st.c.Title, ReceivedAt: received}
	if h == None {
		t.Kind, t.Severity, t.Actor = ResolvedBy, st.alert.Severity, ByValues
	}
	if st.lastEv != nil {
		t.Trigger = st.lastEv.trigger()
	}
	t.Explanation = st.explainEase(h)
	out.Transitions = append(out.Transitions, t)
	if h == None {
		st.alert = nil
	} else {
		st.alert.Severity = h
	}
}

// fold moves the current observation into what is settled.
func (st *ruleState) fold() {
	c, o := st.c, st.cur
	if o.taken == 0 {
		return
	}
	if st.curRaw != 0 && st.lv == nil && c.history {
		st.lv = make([]levelState, len(c.levels))
	}
	for i := range st.lv {
		ls, l, bit := &st.lv[i], &c.levels[i], levelBits(1)<<i
		if st.curRaw&bit != 0 && c.Suspect == Confirm {
			ls.rawAt, ls.raw = o.taken, st.curEv
		}
		switch {
		case o.eff&bit != 0:
			if l.dur > 0 && (ls.runStart == 0 || o.taken-ls.runLast > l.gap) {
				ls.runStart = o.taken
			}
			ls.runLast = o.taken
			if l.keep > 0 {
				if len(ls.hits) == int(l.keep) {
					copy(ls.hits, ls.hits[1:])
					ls.hits = ls.hits[:len(ls.hits)-1]
				}
				ls.hits = append(ls.hits, st.curEv)
			}
		case st.curSeen&bit != 0:
			ls.runStart, ls.runLast = 0, 0
		}
	}
	if o.counted && c.depth > 0 {
		if len(st.past) == c.depth {
			copy(st.past, st.past[1:])
			st.past = st.past[:len(st.past)-1]
		}
		st.past = append(st.past, o)
	}
	if c.Change != nil && st.curSample.taken != 0 {
		st.keepSample()
	}
	st.cur, st.curRaw, st.curSeen, st.curTop, st.curEv, st.lastEv, st.lastSev, st.curSample = observation{}, 0, 0, 0, nil, nil, None, sample{}
}

// idle reports whether nothing is left that a reading taken at now or later could need.
func (st *ruleState) idle(now vitals.Micros) bool {
	if c := st.c; c.Change != nil && st.window(now) < len(st.samples) {
		return false
	}
	var longest vitals.Micros
	for i := range st.c.levels {
		l := &st.c.levels[i]
		longest = max(longest, l.within)
		if st.lv == nil {
			continue
		}
		ls := &st.lv[i]
		if ls.runStart != 0 && now-ls.runLast <= l.gap || ls.rawAt != 0 && now-ls.rawAt <= micros(ConfirmWithin) {
			return false
		}
		if n := len(ls.hits); l.count > 0 && n > 0 && now-ls.hits[n-1].taken <= l.within {
			return false
		}
	}
	for i := range st.past {
		if st.past[i].eff != 0 && now-st.past[i].taken <= longest {
			return false
		}
	}
	return true
}

// findings judges a reading that may not touch a live alert, by the lines that need one reading only.
func (p *Patient) findings(rules []*crule, r *vitals.Reading, out *Decisions) {
	if out == nil {
		return
	}
	for _, c := range rules {
		if c.Change != nil || !c.takes(r) || r.Quality != vitals.Good && c.Suspect == Confirm {
			continue
		}
		v := c.verdict(r, 0)
		for i := len(c.levels) - 1; i >= 0; i-- {
			if v.raw&(1<<i) == 0 || !c.levels[i].plain {
				continue
			}
			out.Findings = append(out.Findings, Finding{Patient: p.id, Rule: c.ID, Condition: c.Condition,
				Day: r.TakenAt.Time().Format("2006-01-02"), Severity: c.levels[i].sev, Title: c.Title,
				First: r.TakenAt, Last: r.TakenAt, Readings: 1, WorstID: r.ID()})
			break
		}
	}
}

// Tick does what time brings about at the instant at: settling, the end of a snooze, a lost signal. Calling it
// says that every reading received before at has been observed. Calling it early, late or twice changes nothing
// but the At of what it decides.
func (p *Patient) Tick(at vitals.Micros, out *Decisions) {
	for _, st := range p.rules {
		a := st.alert
		if a == nil {
			continue
		}
		if a.settleAt != 0 && a.settleAt <= at {
			p.ease(st, at, 0, out)
			if a = st.alert; a == nil {
				continue
			}
		}
		if a.SnoozedUntil != 0 && a.SnoozedUntil <= at {
			a.SnoozedUntil = 0 // Until 0: the snooze is over
			out.Transitions = append(out.Transitions, Transition{AlertID: a.ID, Patient: p.id, Rule: a.Rule,
				Condition: a.Condition, Kind: Snoozed, Severity: a.Severity, At: at, Actor: ByClock})
		}
		if due := p.lostAt(st); due != 0 && due <= at {
			a.SignalLostSince, a.SnoozedUntil = at, 0 // a snooze was granted to somebody who was being measured
			out.Transitions = append(out.Transitions, Transition{AlertID: a.ID, Patient: p.id, Rule: a.Rule,
				Condition: a.Condition, Kind: SignalLost, Severity: a.Severity, At: at, Actor: ByClock})
		}
	}
	p.schedule()
}

// lostAt is when the alert's signal will count as lost, 0 for never or already lost.
func (p *Patient) lostAt(st *ruleState) vitals.Micros {
	if st.c == nil || st.c.lost == 0 || st.alert.SignalLostSince != 0 {
		return 0
	}
	// Without a reading in the look-back window, which is longer than lost, the signal is overdue anyway.
	heard := st.alert.OpenedAt
	for i := range p.series {
		if p.series[i].indicator == st.c.Indicator {
			heard = max(heard, p.series[i].heard)
		}
	}
	return heard + st.c.lost
}

func (p *Patient) signalBack(r *vitals.Reading, out *Decisions) {
	for _, st := range p.rules {
		if a := st.alert; a != nil && a.SignalLostSince != 0 && st.c != nil && st.c.Indicator == r.Indicator {
			a.SignalLostSince = 0
			out.Transitions = append(out.Transitions, Transition{AlertID: a.ID, Patient: p.id, Rule: a.Rule,
				Condition: a.Condition, Kind: SignalBack, Severity: a.Severity, At: r.ReceivedAt, Actor: ByValues,
				ReceivedAt: r.ReceivedAt})
		}
	}
}

// schedule finds the next instant at which Tick has something to do.
func (p *Patient) schedule() {
	p.next = 0
	due := func(at vitals.Micros) {
		if at != 0 && (p.next == 0 || at < p.next) {
			p.next = at
		}
	}
	for _, st := range p.rules {
		if st.alert != nil {
			due(st.alert.settleAt)
			due(st.alert.SnoozedUntil)
			due(p.lostAt(st))
		}
	}
}

// Act carries out a human act at the instant at. An error means that nothing was changed.
func (p *Patient) Act(a Action, at vitals.Micros, out *Decisions) error {
	if a.Actor == "" {
		return ErrNoActor
	}
	var st *ruleState
	for _, s := range p.rules {
		if s.alert != nil && s.alert.ID == a.AlertID {
			st = s
		}
	}
	if st == nil {
		return ErrNotOpen
	}
	al := st.alert
	t := Transition{AlertID: al.ID, Patient: p.id, Rule: al.Rule, Condition: al.Condition, Severity: al.Severity, At: at,
		Actor: a.Actor, Note: a.Note}
	switch a.Act {
	case ActAcknowledge:
		if al.State == Acknowledged {
			return ErrAcknowledged
		}
		al.State, t.Kind = Acknowledged, AcknowledgedBy
	case ActSnooze:
		switch {
		case al.Severity == Emergency:
			return ErrNoSnooze
		case a.Minutes < 1:
			return ErrSnoozeLength
		}
		most := MaxSnooze
		if al.Severity == Critical {
			most = MaxSnoozeCritical
		}
		al.SnoozedUntil = at + vitals.Micros(min(a.Minutes, most))*vitals.Minute
		t.Kind, t.Until = Snoozed, al.SnoozedUntil
	case ActResolve:
		t.Kind, t.Outcome = ResolvedBy, a.Outcome
		st.alert = nil
		if st.c == nil {
			p.rules = slices.DeleteFunc(p.rules, func(s *ruleState) bool { return s == st })
		}
	case ActNote:
		t.Kind = Noted
	default:
		return fmt.Errorf("%q: %w", a.Act, ErrUnknownAct)
	}
	out.Transitions = append(out.Transitions, t)
	p.schedule()
	return nil
}

// alertID names an episode by what opened it, so that a replay gives the same name.
func alertID(p vitals.PatientID, rule RuleID, r *vitals.Reading) string {
	h := sha256.New()
	for _, s := range []string{string(p), string(rule), r.ID()} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
