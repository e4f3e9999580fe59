package alerting

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// evidence is what is kept of a reading that decided something. It holds no more than explanations show.
type evidence struct {
	taken, received vitals.Micros
	v               [vitals.MaxComponents]float64
	device          vitals.DeviceID
	id              [16]byte
	flags           vitals.Flags
	indicator       vitals.Indicator
	unit            vitals.Unit
	has             uint8
	quality         vitals.Quality
	fault           *vitals.DeviceFault // of a failed measurement
}

func newEvidence(r *vitals.Reading) *evidence {
	e := &evidence{taken: r.TakenAt, received: r.ReceivedAt, v: r.V, device: r.Device, flags: r.Flags,
		indicator: r.Indicator, unit: r.Unit, has: r.Has, quality: r.Quality}
	if r.Failed() {
		e.fault = &r.Extra.Fault // never changed after decoding
	}
	hex.Decode(e.id[:], []byte(r.ID()))
	return e
}

func (e *evidence) values() map[string]float64 {
	m := make(map[string]float64, 4)
	for i, c := range e.indicator.Components() {
		if e.has&(1<<i) != 0 {
			m[c.String()] = e.v[i]
		}
	}
	return m
}

const timeFormat = "2006-01-02T15:04:05.000Z"

func stamp(m vitals.Micros) string { return m.Time().Format(timeFormat) }

func (e *evidence) trigger() *Trigger {
	return &Trigger{ReadingID: hex.EncodeToString(e.id[:]), Indicator: e.indicator.String(), Values: e.values(),
		Unit: e.unit.String(), TakenAt: stamp(e.taken), ReceivedAt: stamp(e.received), DeviceID: string(e.device), Error: e.fault}
}

// Explanation is Transition.Explanation as JSON (guarantee 13). Readings are listed oldest first, the one that
// decided last; of a long run only the last few are.
type Explanation struct {
	Rule      RuleID           `json:"rule"`
	Pack      Pack             `json:"pack"`
	Decided   Kind             `json:"decided"`
	Severity  Severity         `json:"severity"`
	Level     *ExplainedLevel  `json:"level,omitempty"` // opened and worsened: the rung that was reached
	Readings  []ExplainedValue `json:"readings"`
	Change    *ExplainedChange `json:"change,omitempty"`
	Reasons   []string         `json:"reasons"` // stable words: see docs/rules.md
	Clear     ExplainedClear   `json:"clear"`
	Suspect   string           `json:"suspect_policy"`
	Text      Text             `json:"text"`
	Advice    Text             `json:"advice,omitempty"`
	ClearText Text             `json:"clear_text"`
	Source    Source           `json:"source"`
	Person    bool             `json:"person_threshold"` // the threshold is this person's own

	unit vitals.Unit // in which it speaks
	// Filter says which readings the level looks at, by the words of docs/rules.md; nil: all.
	Filter map[string]string `json:"filter,omitempty"`
}

// ExplainedLevel is a level as it was in force.
type ExplainedLevel struct {
	Severity Severity        `json:"severity"`
	All      bool            `json:"all"`
	Lines    []ExplainedLine `json:"lines"`
	For      string          `json:"for,omitempty"`
	MaxGap   string          `json:"max_gap,omitempty"`
	Repeat   int             `json:"repeat,omitempty"`
	Of       int             `json:"of,omitempty"`
	Within   string          `json:"within,omitempty"`
}

// ExplainedLine is a line with the threshold that was compared in the unit that was sent, and its pairs.
type ExplainedLine struct {
	Component string             `json:"component,omitempty"`
	Op        string             `json:"op,omitempty"`
	Threshold float64            `json:"threshold,omitempty"`
	Unit      string             `json:"unit,omitempty"`
	Pairs     map[string]float64 `json:"pairs,omitempty"`
	Flags     []string           `json:"flags,omitempty"`
	Absent    bool               `json:"absent,omitempty"`
	Beyond    bool               `json:"beyond"` // the deciding reading is; of a clear line: satisfies it
	Source    Source             `json:"source"`
}

// ExplainedValue is a reading that decided.
type ExplainedValue struct {
	ID         string              `json:"id"`
	Indicator  string              `json:"indicator"`
	Values     map[string]float64  `json:"values"`
	Unit       string              `json:"unit"`
	TakenAt    string              `json:"taken_at"`
	ReceivedAt string              `json:"received_at"`
	DeviceID   string              `json:"device_id"`
	Flags      []string            `json:"flags,omitempty"`
	Quality    string              `json:"quality"`
	Error      *vitals.DeviceFault `json:"error,omitempty"`
}

// ExplainedChange is how the component moved.
type ExplainedChange struct {
	Component string  `json:"component"`
	By        float64 `json:"by"`
	Unit      string  `json:"unit"`
	From      string  `json:"from"`
	Fall      bool    `json:"fall,omitempty"`
	Over      string  `json:"over"`
	Per       string  `json:"per,omitempty"`
}

// ExplainedClear is what ends the episode.
type ExplainedClear struct {
	Manual bool            `json:"manual,omitempty"`
	Any    bool            `json:"any,omitempty"`
	Lines  []ExplainedLine `json:"lines,omitempty"`
	Count  int             `json:"count,omitempty"`
	Within string          `json:"within,omitempty"`
}

// The words of Explanation.Reasons.
const (
	ReasonSingle         = "single_reading"      // one reading beyond the line is enough
	ReasonSustained      = "sustained"           // the line was held for the level's time
	ReasonRepeat         = "repeat_within"       // enough readings beyond the line within the time
	ReasonChange         = "change"              // the change within the window is beyond the line
	ReasonSuspectRepeat  = "suspect_confirmed"   // a suspect reading, confirmed by an earlier one beyond the line
	ReasonSuspectAlert   = "suspect_not_awaited" // a suspect reading; this rule does not wait for a repeat
	ReasonSnoozeBroken   = "snooze_broken"       // the alert was snoozed and got worse
	ReasonCleared        = "cleared"             // the last settled observations satisfy the clear line
	ReasonBelowHold      = "no_longer_held"      // none of the last settled observations holds the level any more
	ReasonPersonNumber   = "person_threshold"    // the threshold is this person's own
	ReasonAcknowledgeOff = "acknowledgement_off" // an acknowledged alert got worse and needs a human again
)

func (st *ruleState) base(kind Kind, sev Severity, ev *evidence) Explanation {
	c := st.c
	x := Explanation{Rule: c.ID, Pack: Pack{c.Condition, c.PackVersion, c.Guideline}, Decided: kind, Severity: sev,
		Reasons: []string{}, Suspect: "confirm", Source: c.Source, Advice: c.Advice, Person: slices.Contains(c.Person, sev)}
	if c.Suspect == AlertOn {
		x.Suspect = "alert"
	}
	unit := c.Indicator.Canonical()
	if ev != nil {
		unit = ev.unit
	}
	x.Clear = ExplainedClear{Manual: c.Clear.Manual}
	if !c.Clear.Manual {
		x.Clear.Any, x.Clear.Count = c.Clear.Any, c.count
		if c.count > 1 {
			x.Clear.Within = ShortDuration(c.Clear.Within)
		}
		x.Clear.Lines = explainLines(c.Clear.Lines, c.clear, ev, 0, unit)
	}
	x.unit, x.ClearText = unit, clearText(c, unit)
	return x
}

func explainLines(ls []Line, cs []cline, ev *evidence, delta float64, unit vitals.Unit) []ExplainedLine {
	out := make([]ExplainedLine, 0, len(ls))
	for i := range ls {
		l := &ls[i]
		x := ExplainedLine{Source: l.Source}
		if l.Flags != 0 {
			x.Flags, x.Absent = l.Flags.Names(), l.Absent
		} else {
			x.Component, x.Op = l.Component.String(), l.Op.String()
			x.Pairs = map[string]float64{}
			for _, u := range l.At {
				x.Pairs[u.Unit.String()] = u.Value
				if u.Unit == unit || !l.Component.InReadingUnit() {
					x.Threshold, x.Unit = u.Value, u.Unit.String()
				}
			}
		}
		if ev != nil {
			r := vitals.Reading{V: ev.v, Unit: ev.unit, Has: ev.has, Flags: ev.flags}
			x.Beyond = cs[i].holds(&r, delta)
		}
		out = append(out, x)
	}
	return out
}

func (e *evidence) explained() ExplainedValue {
	return ExplainedValue{ID: hex.EncodeToString(e.id[:]), Indicator: e.indicator.String(), Values: e.values(),
		Unit: e.unit.String(), TakenAt: stamp(e.taken), ReceivedAt: stamp(e.received), DeviceID: string(e.device),
		Flags: e.flags.Names(), Quality: e.quality.String(), Error: e.fault}
}

// explainRaise says why level i was reached by the reading ev.
func (st *ruleState) explainRaise(kind Kind, i int, ev *evidence, delta float64, snoozed, acked bool) json.RawMessage {
	c, l := st.c, &st.c.levels[i]
	src := &c.Levels[i]
	x := st.base(kind, l.sev, ev)
	x.Level = &ExplainedLevel{Severity: l.sev, All: l.all, Lines: explainLines(src.Lines, l.lines, ev, delta, ev.unit)}
	if src.Source.Text != "" {
		x.Source = src.Source
	}
	if src.Advice != nil {
		x.Advice = src.Advice
	}
	x.Filter = explainFilter(&c.Rule.Filter, &src.Filter)
	var before []*evidence
	if st.lv != nil {
		ls := &st.lv[i]
		span := l.within
		if l.dur > 0 {
			span = explained * l.gap
		}
		for _, h := range ls.hits {
			if st.cur.taken-h.taken <= span && (l.dur == 0 || h.taken >= ls.runStart) {
				before = append(before, h)
			}
		}
		if ev.quality == vitals.Suspect && c.Suspect == Confirm && !slices.Contains(before, ls.raw) && ls.raw != nil {
			before = append(before, ls.raw)
			slices.SortFunc(before, func(a, b *evidence) int { return int(max(-1, min(1, a.taken-b.taken))) })
		}
	}
	switch {
	case l.dur > 0:
		x.Reasons = append(x.Reasons, ReasonSustained)
		x.Level.For, x.Level.MaxGap = ShortDuration(src.For), ShortDuration(src.MaxGap)
	case l.count > 0:
		x.Reasons = append(x.Reasons, ReasonRepeat)
		x.Level.Repeat, x.Level.Of, x.Level.Within = l.count, l.of, ShortDuration(src.Repeat.Within)
	case c.Change == nil:
		x.Reasons = append(x.Reasons, ReasonSingle)
	}
	if ch := c.Change; ch != nil {
		x.Reasons = append(x.Reasons, ReasonChange)
		x.Change = &ExplainedChange{Component: ch.Component.String(), By: delta, Unit: ev.unit.String(), From: ch.From.String(),
			Fall: ch.Fall, Over: ShortDuration(ch.Over)}
		if ch.Per > 0 {
			x.Change.Per = ShortDuration(ch.Per)
		}
		if ref := st.reference(ev.taken); ref != nil {
			before = append([]*evidence{ref}, before...)
		}
	}
	if ev.quality == vitals.Suspect {
		if c.Suspect == Confirm {
			x.Reasons = append(x.Reasons, ReasonSuspectRepeat)
		} else {
			x.Reasons = append(x.Reasons, ReasonSuspectAlert)
		}
	}
	if snoozed {
		x.Reasons = append(x.Reasons, ReasonSnoozeBroken)
	}
	if acked {
		x.Reasons = append(x.Reasons, ReasonAcknowledgeOff)
	}
	if x.Person {
		x.Reasons = append(x.Reasons, ReasonPersonNumber)
	}
	for _, b := range before {
		x.Readings = append(x.Readings, b.explained())
	}
	x.Readings = append(x.Readings, ev.explained())
	x.Text = raiseText(st, i, ev, delta)
	return encode(&x)
}

// explainEase says why the alert fell to severity h; None: it is over.
func (st *ruleState) explainEase(h Severity) json.RawMessage {
	c, kind, reason := st.c, Eased, ReasonBelowHold
	if h == None {
		kind, reason = ResolvedBy, ReasonCleared
	}
	x := st.base(kind, h, st.lastEv)
	if h == None {
		x.Severity = st.alert.Severity
	}
	x.Reasons = append(x.Reasons, reason)
	x.Readings = []ExplainedValue{}
	value := Text{"zh-CN": "", "en": ""}
	if st.lastEv != nil {
		x.Readings = append(x.Readings, st.lastEv.explained())
		value = st.lastEv.text()
	}
	if h == None {
		lines := clearLines(c, x.unit)
		x.Text = Text{
			"zh-CN": value["zh-CN"] + "：" + lines["zh-CN"] + "，已自动解除。",
			"en":    capital(value["en"]) + ": " + lines["en"] + "; ended."}
	} else {
		x.Text = Text{
			"zh-CN": value["zh-CN"] + "。最近的测量已不在原来的级别，降为" + severityZh[h] + "。",
			"en":    capital(value["en"]) + ". The latest measurements no longer hold the earlier level; now " + h.String() + "."}
	}
	if h == None {
		x.Advice = nil // what to do about it is over too
	}
	return encode(&x)
}

func explainFilter(fs ...*Filter) map[string]string {
	m := map[string]string{}
	add := func(key string, words ...string) {
		if len(words) > 0 {
			if m[key] != "" {
				words = append([]string{m[key]}, words...)
			}
			m[key] = strings.Join(words, ", ")
		}
	}
	for _, f := range fs {
		for _, v := range f.Meals {
			add("meal", v.String())
		}
		for _, v := range f.NotMeals {
			add("not_meal", v.String())
		}
		for _, v := range f.Activities {
			add("activity", v.String())
		}
		for _, v := range f.NotActivities {
			add("not_activity", v.String())
		}
		add("flags", f.Flags.Names()...)
		add("not_flags", f.NotFlags.Names()...)
	}
	if len(m) == 0 {
		return nil
	}
	return m
}

func encode(x *Explanation) json.RawMessage {
	b, err := json.Marshal(x)
	if err != nil { // NaN cannot get here: plausibility refuses it
		b = []byte(`{}`)
	}
	return b
}

// ShortDuration writes a duration as people write it: 5m, 1h30m, 72h.
func ShortDuration(d time.Duration) string {
	s := d.String()
	s = strings.TrimSuffix(s, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(s, "m0s")]
	s = strings.TrimSuffix(s, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(s, "h0m")]
	return s
}

var severityZh = [...]string{"", "提示", "预警", "严重", "紧急"}

// names are the indicators in the two languages (facts G).
var names = map[vitals.Indicator][2]string{
	vitals.BloodPressure: {"血压", "blood pressure"}, vitals.Glucose: {"血糖", "glucose"},
	vitals.HeartRate: {"心率", "heart rate"}, vitals.SpO2: {"血氧饱和度", "oxygen saturation"},
	vitals.Temperature: {"体温", "temperature"}, vitals.Weight: {"体重", "weight"},
	vitals.Respiration: {"呼吸频率", "respiratory rate"}, vitals.Steps: {"步数", "steps"},
	vitals.Sleep: {"睡眠时长", "sleep duration"}, vitals.HRV: {"心率变异性", "heart rate variability"},
	vitals.Rhythm: {"心律", "rhythm"}, vitals.Height: {"身高", "height"}, vitals.BodyFat: {"体脂率", "body fat"},
}

var componentText = map[vitals.Component][2]string{
	vitals.Systolic: {"收缩压", "systolic"}, vitals.Diastolic: {"舒张压", "diastolic"},
	vitals.Mean: {"平均动脉压", "mean arterial pressure"}, vitals.Pulse: {"脉率", "pulse"},
	vitals.Total: {"总时长", "total"}, vitals.Deep: {"深睡", "deep"}, vitals.Light: {"浅睡", "light"},
	vitals.REM: {"快速眼动", "REM"}, vitals.Awake: {"清醒", "awake"},
}

var flagText = map[vitals.Flags][2]string{
	vitals.IrregularPulse: {"脉搏不规则", "irregular pulse"}, vitals.BelowRange: {"低于量程", "below the device's range"},
	vitals.AboveRange: {"超出量程", "above the device's range"},
}

func nameText(i vitals.Indicator, c vitals.Component) [2]string {
	if t, ok := componentText[c]; ok {
		return t
	}
	return names[i]
}

var opText = map[Op][2]string{
	Below: {"低于", "below"}, AtMost: {"等于或低于", "at or below"},
	Above: {"高于", "above"}, AtLeast: {"达到或超过", "at or above"},
}

// unitText is a unit as people read it.
func unitText(u vitals.Unit) string {
	switch u {
	case vitals.MmHg:
		return "mmHg"
	case vitals.Cel:
		return "°C"
	case vitals.DegF:
		return "°F"
	case vitals.Lb:
		return "lb"
	case vitals.Jin:
		return "jin"
	case vitals.StepCount, vitals.One:
		return ""
	}
	return u.String()
}

// number writes a value with its unit, never fewer digits than were sent. What is read with one decimal has one.
func number(v float64, u vitals.Unit) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if (u == vitals.MmolL || u == vitals.KPa || u == vitals.Cel || u == vitals.DegF) && !strings.Contains(s, ".") {
		s += ".0"
	}
	switch t := unitText(u); t {
	case "":
		return s
	case "%", "/min":
		return s + t
	default:
		return s + " " + t
	}
}

// zhNumber is number in Chinese, where jin is a unit of its own and a rate is counted in times.
func zhNumber(v float64, u vitals.Unit) string {
	if u == vitals.PerMin {
		return strings.TrimSuffix(number(v, u), "/min") + " 次/分"
	}
	return strings.Replace(number(v, u), " jin", " 斤", 1)
}

// text lists the values of a reading.
func (e *evidence) text() Text {
	var zh, en []string
	for i, c := range e.indicator.Components() {
		if e.has&(1<<i) == 0 {
			continue
		}
		u := e.unit
		if !c.InReadingUnit() {
			u = vitals.PerMin
		}
		t := nameText(e.indicator, c)
		zh, en = append(zh, t[0]+" "+zhNumber(e.v[i], u)), append(en, t[1]+" "+number(e.v[i], u))
	}
	return Text{"zh-CN": strings.Join(zh, "，"), "en": strings.Join(en, ", ")}
}

// lineText is a line in words, with its threshold in unit u.
func lineText(c *crule, l *Line, u vitals.Unit) [2]string {
	if l.Flags != 0 {
		var t [2]string
		for _, n := range l.Flags.Names() {
			f, ok := flagText[vitals.ParseFlag(n)]
			if !ok {
				f = [2]string{n, n}
			}
			t[0], t[1] = t[0]+f[0], t[1]+f[1]
		}
		if l.Absent {
			return [2]string{"无" + t[0] + "标记", "no " + t[1] + " flag"}
		}
		return [2]string{"设备标记：" + t[0], "device flag: " + t[1]}
	}
	at, unit := l.At[0].Value, l.At[0].Unit
	for _, p := range l.At {
		if p.Unit == u {
			at, unit = p.Value, p.Unit
		}
	}
	n, o := nameText(c.Indicator, l.Component), opText[l.Op]
	zh, en, per := n[0], n[1], ""
	if ch := c.Change; ch != nil {
		dir := [2]string{"上升", "rise in "}
		if ch.Fall {
			dir = [2]string{"下降", "fall in "}
		}
		en = dir[1] + en
		if l.Op == Above {
			o[0] = "超过" // by how much, not how high
		}
		if ch.Per > 0 {
			zh, per = zh+zhPer(ch.Per), enPer(ch.Per)
		}
		zh += dir[0]
	}
	return [2]string{zh + o[0] + " " + zhNumber(at, unit), en + " " + o[1] + " " + number(at, unit) + per}
}

// parts counts a duration in the largest unit that divides it; one day is 24 hours.
func parts(d time.Duration) (n int, unit int) {
	for i, u := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		if d%u == 0 && (i > 0 || d > u) {
			return int(d / u), i
		}
	}
	return int(d / time.Second), 3
}

var (
	zhUnits = [...]string{"天", "小时", "分钟", "秒"}
	enUnits = [...]string{"day", "hour", "minute", "second"}
)

func zhDuration(d time.Duration) string {
	n, u := parts(d)
	return strconv.Itoa(n) + zhUnits[u]
}

func enDuration(d time.Duration) string {
	n, u := parts(d)
	if n == 1 {
		return "1 " + enUnits[u]
	}
	return strconv.Itoa(n) + " " + enUnits[u] + "s"
}

// zhPer and enPer are the time of a rate: per minute, per 5 minutes.
func zhPer(d time.Duration) string {
	if n, u := parts(d); n == 1 {
		return "每" + zhUnits[u]
	}
	return "每" + zhDuration(d)
}

func enPer(d time.Duration) string {
	if n, u := parts(d); n == 1 {
		return " per " + enUnits[u]
	}
	return " per " + enDuration(d)
}

// capital begins a sentence with a text that begins with an ASCII letter.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// significant cuts a difference or rate, which nobody sent, to three digits, and to whole numbers from 100.
func significant(v float64) float64 {
	if math.Abs(v) >= 100 {
		return math.Round(v)
	}
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 3, 64), 64)
	if err != nil {
		return v
	}
	return r
}

func raiseText(st *ruleState, i int, ev *evidence, delta float64) Text {
	c, l := st.c, &st.c.levels[i]
	src := &c.Levels[i]
	r := vitals.Reading{V: ev.v, Unit: ev.unit, Has: ev.has, Flags: ev.flags}
	var zh, en []string
	for k := range src.Lines {
		if l.lines[k].holds(&r, delta) {
			t := lineText(c, &src.Lines[k], ev.unit)
			zh, en = append(zh, t[0]), append(en, t[1])
		}
	}
	v := ev.text()
	z := v["zh-CN"] + "：" + strings.Join(zh, "，")
	e := capital(v["en"]) + ": " + strings.Join(en, ", ")
	switch {
	case l.dur > 0:
		z += "，已持续至少" + zhDuration(src.For)
		e += ", held for at least " + enDuration(src.For)
	case l.count == 2 && l.of == 0:
		z += "，" + zhDuration(src.Repeat.Within) + "内复测仍越线"
		e += ", again within " + enDuration(src.Repeat.Within)
	case l.count > 0:
		n := strconv.Itoa(l.count)
		z += "，" + zhDuration(src.Repeat.Within) + "内出现" + n + "次"
		e += ", " + n + " times within " + enDuration(src.Repeat.Within)
	}
	if ch := c.Change; ch != nil {
		word := map[bool][2]string{false: {"上升", "risen"}, true: {"下降", "fallen"}}[ch.Fall]
		moved := significant(delta)
		by, zby := number(moved, ev.unit), zhNumber(moved, ev.unit)
		if ch.Per > 0 {
			z += "，实际" + zhPer(ch.Per) + word[0] + " " + zby
			e += "; it has " + word[1] + " by " + by + enPer(ch.Per)
		} else {
			z += "；" + zhDuration(ch.Over) + "内" + word[0] + " " + zby
			e += "; it has " + word[1] + " by " + by + " within " + enDuration(ch.Over)
		}
	}
	if ev.quality == vitals.Suspect {
		if c.Suspect == Confirm {
			z += "；可疑读数，已由复测确认"
			e += "; a suspect reading, confirmed by an earlier one"
		} else {
			z += "；可疑读数，请尽快复测"
			e += "; a suspect reading, please repeat the measurement soon"
		}
	}
	return Text{"zh-CN": z + "（" + severityZh[l.sev] + "）。", "en": e + " (" + l.sev.String() + ")."}
}

func clearText(c *crule, u vitals.Unit) Text {
	if c.Clear.Manual {
		return Text{"zh-CN": "由工作人员核实后解除。", "en": "Ends when a person resolves it."}
	}
	lines := clearLines(c, u)
	z, e := lines["zh-CN"], lines["en"]
	if c.count > 1 {
		n := strconv.Itoa(c.count)
		return Text{"zh-CN": "连续" + n + "次" + z + "后自动解除。", "en": "Ends after " + n + " measurements in a row with " + e + "."}
	}
	return Text{"zh-CN": z + "后自动解除。", "en": "Ends at a measurement with " + e + "."}
}

// clearLines are the clear lines in words.
func clearLines(c *crule, u vitals.Unit) Text {
	var zh, en []string
	for i := range c.Clear.Lines {
		t := lineText(c, &c.Clear.Lines[i], u)
		zh, en = append(zh, t[0]), append(en, t[1])
	}
	and := [2]string{" 且", " and "}
	if c.Clear.Any {
		and = [2]string{" 或", " or "}
	}
	return Text{"zh-CN": strings.Join(zh, and[0]), "en": strings.Join(en, and[1])}
}
