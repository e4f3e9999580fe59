package alerting_test

import (
	"math"
	"slices"
	"time"

	. "vitalwatch/alerting"
	"vitalwatch/vitals"
)

// model is the slow, obvious engine: it keeps every reading and judges the whole history anew at each step. It
// shares with the engine nothing but the Rule type.
type model struct {
	rules []Rule
	live  map[vitals.Indicator][]*vitals.Reading // what entered the live lane, in order of arrival
	new   map[vitals.Indicator]vitals.Micros
	heard map[vitals.Indicator]vitals.Micros
	open  map[RuleID]*modelAlert
	out   []step
}

type modelAlert struct {
	sev             Severity
	state           State
	opened, settle  vitals.Micros
	snoozed, lostAt vitals.Micros
}

// step is what tests compare of a transition.
type step struct {
	Kind    Kind
	Rule    RuleID
	Sev     Severity
	At      vitals.Micros
	Actor   string
	Until   vitals.Micros
	Trigger string
}

func stepOf(t *Transition) step {
	s := step{Kind: t.Kind, Rule: t.Rule, Sev: t.Severity, At: t.At, Actor: t.Actor, Until: t.Until}
	if t.Trigger != nil && (t.Kind == Opened || t.Kind == Worsened) {
		s.Trigger = t.Trigger.ReadingID
	}
	return s
}

func newModel(rules []Rule) *model {
	rules = slices.Clone(rules)
	slices.SortFunc(rules, func(a, b Rule) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return &model{rules: rules, live: map[vitals.Indicator][]*vitals.Reading{}, new: map[vitals.Indicator]vitals.Micros{},
		heard: map[vitals.Indicator]vitals.Micros{}, open: map[RuleID]*modelAlert{}}
}

func us(d time.Duration) vitals.Micros { return vitals.Micros(d / time.Microsecond) }

func lineHolds(ru *Rule, l *Line, r *vitals.Reading, delta float64) bool {
	if l.Flags != 0 {
		return (r.Flags&l.Flags != 0) != l.Absent
	}
	v, ok := r.Value(l.Component)
	if !ok {
		return false
	}
	if ru.Change != nil {
		v = delta
	}
	for _, u := range l.At {
		if u.Unit == r.Unit || l.Component == vitals.Pulse {
			return l.Op.Holds(v, u.Value)
		}
	}
	return false
}

func linesHold(ru *Rule, ls []Line, all bool, r *vitals.Reading, delta float64) bool {
	n := 0
	for i := range ls {
		if lineHolds(ru, &ls[i], r, delta) {
			n++
		}
	}
	return n > 0 && (!all || n == len(ls))
}

func filterTakes(f *Filter, r *vitals.Reading) bool {
	return (len(f.Meals) == 0 || slices.Contains(f.Meals, r.Meal)) && !slices.Contains(f.NotMeals, r.Meal) &&
		(len(f.Activities) == 0 || slices.Contains(f.Activities, r.Activity)) && !slices.Contains(f.NotActivities, r.Activity) &&
		(f.Flags == 0 || r.Flags&f.Flags != 0) && r.Flags&f.NotFlags == 0
}

// ruleTakes: in all test rules every unit that one line has, all have.
func ruleTakes(ru *Rule, r *vitals.Reading) bool {
	if r.Indicator != ru.Indicator || !filterTakes(&ru.Filter, r) {
		return false
	}
	for _, lv := range ru.Levels {
		for _, l := range lv.Lines {
			if l.Flags != 0 {
				return true
			}
			if _, ok := r.Value(l.Component); ok && slices.ContainsFunc(l.At, func(u UnitValue) bool { return u.Unit == r.Unit }) {
				return true
			}
		}
	}
	return false
}

// view is the history as one rule sees it: one entry per taken_at, in order of time.
type view struct {
	ru  *Rule
	obs [][]*vitals.Reading
}

func (m *model) view(ru *Rule) *view {
	v := &view{ru: ru}
	for _, r := range m.live[ru.Indicator] {
		if !ruleTakes(ru, r) {
			continue
		}
		if n := len(v.obs); n > 0 && v.obs[n-1][0].TakenAt == r.TakenAt {
			v.obs[n-1] = append(v.obs[n-1], r)
		} else {
			v.obs = append(v.obs, []*vitals.Reading{r})
		}
	}
	return v
}

func (v *view) at(k int) vitals.Micros { return v.obs[k][0].TakenAt }

// delta is the change of r, which is in observation k.
func (v *view) delta(k int, r *vitals.Reading) (float64, bool) {
	ch := v.ru.Change
	low := ch.From == FromLowest || ch.From == FromFirst && !ch.Fall
	type ref struct {
		taken vitals.Micros
		canon float64
		r     *vitals.Reading
	}
	var refs []ref
	for j := range k {
		best := ref{canon: math.NaN()}
		for _, x := range v.obs[j] {
			val, _ := x.Value(ch.Component)
			c := vitals.ToCanonical(x.Indicator, x.Unit, val)
			if x.Quality == vitals.Good && (best.r == nil || low && c < best.canon || !low && c > best.canon) {
				best = ref{x.TakenAt, c, x}
			}
		}
		if best.r != nil {
			refs = append(refs, best)
		}
	}
	if n := len(refs); ch.From == FromFirst && n > 12 {
		refs = refs[n-12:]
	}
	refs = slices.DeleteFunc(refs, func(x ref) bool { return r.TakenAt-x.taken > us(ch.Over) })
	if len(refs) == 0 || ch.From == FromFirst && len(refs)+1 < ch.Points {
		return 0, false
	}
	pick := refs[0]
	for _, x := range refs {
		if ch.From == FromLowest && x.canon <= pick.canon || ch.From == FromHighest && x.canon >= pick.canon {
			pick = x
		}
	}
	a, _ := r.Value(ch.Component)
	b, _ := pick.r.Value(ch.Component)
	d := a - vitals.Convert(b, pick.r.Unit, r.Unit)
	if ch.Fall {
		d = -d
	}
	if ch.Per > 0 {
		if 3*(r.TakenAt-pick.taken) < us(ch.Over) {
			return 0, false
		}
		d *= float64(ch.Per) / float64(r.TakenAt.Sub(pick.taken))
	}
	return math.Round(d*1e6) / 1e6, true
}

func (v *view) seen(i, k int, r *vitals.Reading) bool {
	if v.ru.Change != nil {
		if _, ok := v.delta(k, r); !ok {
			return false
		}
	}
	return filterTakes(&v.ru.Levels[i].Filter, r)
}

func (v *view) raw(i, k int, r *vitals.Reading) bool {
	if !v.seen(i, k, r) {
		return false
	}
	d := 0.0
	if v.ru.Change != nil {
		d, _ = v.delta(k, r)
	}
	return linesHold(v.ru, v.ru.Levels[i].Lines, v.ru.Levels[i].All, r, d)
}

func (v *view) eff(i, k int, r *vitals.Reading) bool {
	if !v.raw(i, k, r) {
		return false
	}
	if r.Quality == vitals.Good || v.ru.Suspect == AlertOn {
		return true
	}
	for j := range k {
		for _, x := range v.obs[j] {
			if r.TakenAt-v.at(j) <= us(ConfirmWithin) && v.raw(i, j, x) {
				return true
			}
		}
	}
	return false
}

func (v *view) obsEff(i, k int) bool {
	return slices.ContainsFunc(v.obs[k], func(r *vitals.Reading) bool { return v.eff(i, k, r) })
}

// counts reports whether r is more than a suspect or filtered reading.
func (v *view) counts(k int, r *vitals.Reading) bool {
	for i := range v.ru.Levels {
		if v.eff(i, k, r) || r.Quality == vitals.Good && v.seen(i, k, r) {
			return true
		}
	}
	return false
}

func (v *view) counted(k int) bool {
	return slices.ContainsFunc(v.obs[k], func(r *vitals.Reading) bool { return v.counts(k, r) })
}

// met reports whether the condition of level i holds at reading r of observation k.
func (v *view) met(i, k int, r *vitals.Reading) bool {
	if !v.eff(i, k, r) {
		return false
	}
	l := &v.ru.Levels[i]
	switch {
	case l.For > 0:
		last, start := v.at(k), v.at(k)
		for j := k - 1; j >= 0; j-- {
			if v.obsEff(i, j) {
				if last-v.at(j) > us(l.MaxGap) {
					break
				}
				last, start = v.at(j), v.at(j)
			} else if slices.ContainsFunc(v.obs[j], func(x *vitals.Reading) bool { return v.counts(j, x) && v.seen(i, j, x) }) {
				break
			}
		}
		return v.at(k)-start >= us(l.For)
	case l.Repeat.Count > 0:
		n, slots := 1, 1
		for j := k - 1; j >= 0; j-- {
			if l.Repeat.Of > 0 && !v.counted(j) {
				continue
			}
			if slots++; l.Repeat.Of > 0 && slots > l.Repeat.Of {
				break
			}
			if v.obsEff(i, j) && v.at(k)-v.at(j) <= us(l.Repeat.Within) {
				n++
			}
		}
		return n >= l.Repeat.Count
	}
	return true
}

// hold is what observation k holds an alert at.
func (v *view) hold(k int) Severity {
	h := None
	for _, r := range v.obs[k] {
		if !v.counts(k, r) {
			continue
		}
		x := None
		d := 0.0
		if v.ru.Change != nil {
			d, _ = v.delta(k, r)
		}
		for i := range v.ru.Levels {
			l := &v.ru.Levels[i]
			if r.Quality != vitals.Good {
				if v.eff(i, k, r) {
					x = max(x, l.Severity)
				}
				continue
			}
			hl, all := l.Hold, l.HoldAll
			if hl == nil {
				hl, all = l.Lines, l.All
			}
			if v.raw(i, k, r) || v.seen(i, k, r) && linesHold(v.ru, hl, all, r, d) {
				x = max(x, l.Severity)
			}
		}
		if r.Quality == vitals.Good && x == None && (v.ru.Clear.Manual || !linesHold(v.ru, v.ru.Clear.Lines, !v.ru.Clear.Any, r, d)) {
			x = v.ru.Levels[0].Severity
		}
		h = max(h, x)
	}
	return h
}

// holding is what the last observations hold the alert at.
func (v *view) holding() (Severity, bool) {
	k := len(v.obs) - 1
	if k < 0 || !v.counted(k) {
		return None, false
	}
	h, n := v.hold(k), 1
	for j := k - 1; j >= 0 && n < v.ru.Clear.Count; j-- {
		if v.counted(j) {
			n++
			if v.at(k)-v.at(j) <= us(v.ru.Clear.Within) {
				h = max(h, v.hold(j))
			}
		}
	}
	return h, true
}

func (m *model) emit(s step) { m.out = append(m.out, s) }

func (m *model) observe(r *vitals.Reading) {
	for n := m.next(); n != 0 && n <= r.ReceivedAt; n = m.next() {
		m.tick(n)
	}
	if r.Quality == vitals.Invalid || r.Flags&vitals.DisplayOnly != 0 || r.Freshness != vitals.Live {
		return
	}
	i := r.Indicator
	m.heard[i] = max(m.heard[i], r.ReceivedAt)
	for k := range m.rules {
		ru := &m.rules[k]
		if a := m.open[ru.ID]; a != nil && ru.Indicator == i && a.lostAt != 0 {
			a.lostAt = 0
			m.emit(step{Kind: SignalBack, Rule: ru.ID, Sev: a.sev, At: r.ReceivedAt, Actor: ByValues})
		}
	}
	if r.TakenAt < m.new[i] {
		return
	}
	if r.TakenAt > m.new[i] {
		m.new[i] = r.TakenAt
		for k := range m.rules {
			if m.rules[k].Indicator == i {
				m.ease(&m.rules[k], r.ReceivedAt)
			}
		}
	}
	m.live[i] = append(m.live[i], r)
	for k := range m.rules {
		ru := &m.rules[k]
		if !ruleTakes(ru, r) {
			continue
		}
		v := m.view(ru)
		last := len(v.obs) - 1
		sev := None
		for l := range ru.Levels {
			if v.met(l, last, r) {
				sev = ru.Levels[l].Severity
			}
		}
		a := m.open[ru.ID]
		switch {
		case sev > None && a == nil:
			a = &modelAlert{sev: sev, state: Open, opened: r.ReceivedAt}
			m.open[ru.ID] = a
			m.emit(step{Kind: Opened, Rule: ru.ID, Sev: sev, At: r.ReceivedAt, Trigger: r.ID()})
		case a != nil && sev > a.sev:
			a.sev, a.state, a.snoozed = sev, Open, 0
			m.emit(step{Kind: Worsened, Rule: ru.ID, Sev: sev, At: r.ReceivedAt, Trigger: r.ID()})
		}
		if a != nil {
			a.settle = 0
			if h, ok := v.holding(); ok && h < a.sev {
				a.settle = m.heard[i] + us(SettleAfter)
			}
		}
	}
}

func (m *model) ease(ru *Rule, at vitals.Micros) {
	a := m.open[ru.ID]
	if a == nil {
		return
	}
	a.settle = 0
	h, ok := m.view(ru).holding()
	switch {
	case !ok || h >= a.sev:
	case h == None:
		delete(m.open, ru.ID)
		m.emit(step{Kind: ResolvedBy, Rule: ru.ID, Sev: a.sev, At: at, Actor: ByValues})
	default:
		a.sev = h
		m.emit(step{Kind: Eased, Rule: ru.ID, Sev: h, At: at})
	}
}

func (m *model) lost(ru *Rule, a *modelAlert) vitals.Micros {
	if ru.SignalLostAfter == 0 || a.lostAt != 0 {
		return 0
	}
	return max(a.opened, m.heard[ru.Indicator]) + us(ru.SignalLostAfter)
}

func (m *model) next() (n vitals.Micros) {
	for k := range m.rules {
		if a := m.open[m.rules[k].ID]; a != nil {
			for _, d := range []vitals.Micros{a.settle, a.snoozed, m.lost(&m.rules[k], a)} {
				if d != 0 && (n == 0 || d < n) {
					n = d
				}
			}
		}
	}
	return n
}

func (m *model) tick(at vitals.Micros) {
	for k := range m.rules {
		ru := &m.rules[k]
		if a := m.open[ru.ID]; a != nil && a.settle != 0 && a.settle <= at {
			m.ease(ru, at)
		}
		a := m.open[ru.ID]
		if a == nil {
			continue
		}
		if a.snoozed != 0 && a.snoozed <= at {
			a.snoozed = 0
			m.emit(step{Kind: Snoozed, Rule: ru.ID, Sev: a.sev, At: at, Actor: ByClock})
		}
		if d := m.lost(ru, a); d != 0 && d <= at {
			a.lostAt, a.snoozed = at, 0
			m.emit(step{Kind: SignalLost, Rule: ru.ID, Sev: a.sev, At: at, Actor: ByClock})
		}
	}
}

func (m *model) act(id RuleID, a Act, minutes int, at vitals.Micros) {
	al := m.open[id]
	if al == nil {
		return
	}
	s := step{Rule: id, Sev: al.sev, At: at, Actor: "coach"}
	switch a {
	case ActAcknowledge:
		if al.state == Acknowledged {
			return
		}
		al.state, s.Kind = Acknowledged, AcknowledgedBy
	case ActSnooze:
		if al.sev == Emergency {
			return
		}
		if al.sev == Critical && minutes > 15 {
			minutes = 15
		} else if minutes > 120 {
			minutes = 120
		}
		al.snoozed = at + vitals.Micros(minutes)*vitals.Minute
		s.Kind, s.Until = Snoozed, al.snoozed
	case ActResolve:
		delete(m.open, id)
		s.Kind = ResolvedBy
	}
	m.emit(s)
}
