package alerting

import (
	"math"

	"vitalwatch/vitals"
)

// change is how far r's component has moved against the reference of the rule's window, in r's unit; ok is false
// when the window holds too few observations. Only settled observations are references, so the order of readings
// with one taken_at does not matter.
func (st *ruleState) change(r *vitals.Reading) (delta float64, ok bool) {
	ch := st.c.Change
	first := st.window(r.TakenAt)
	n := len(st.samples) - first
	if n == 0 || ch.From == FromFirst && n+1 < ch.Points || r.Has&(1<<st.c.changeAt) == 0 {
		return 0, false
	}
	ref := &st.samples[first]
	v := ref.ev.v[st.c.changeAt]
	if ch.Component.InReadingUnit() {
		v = vitals.Convert(v, ref.ev.unit, r.Unit)
	}
	delta = r.V[st.c.changeAt] - v
	if ch.Fall {
		delta = -delta
	}
	if ch.Per > 0 {
		span := r.TakenAt.Sub(ref.taken)
		if span < ch.Over/3 { // see Change.Per
			return 0, false
		}
		delta *= float64(ch.Per) / float64(span)
	}
	// Subtracting two decimals must not move the result off the line: 72.1 − 70.1 is 2, not 1.9999999999999858.
	return math.Round(delta*1e6) / 1e6, true
}

// window is the place of the first sample that is not too old at taken.
func (st *ruleState) window(taken vitals.Micros) int {
	over := micros(st.c.Change.Over)
	for i := range st.samples {
		if taken-st.samples[i].taken <= over {
			return i
		}
	}
	return len(st.samples)
}

// reference is the observation that a change at taken is measured from, nil for none.
func (st *ruleState) reference(taken vitals.Micros) *evidence {
	if i := st.window(taken); i < len(st.samples) {
		return st.samples[i].ev
	}
	return nil
}

// wantsLow reports whether of several values the lower one is the reference.
func (ch *Change) wantsLow() bool { return ch.From == FromLowest || ch.From == FromFirst && !ch.Fall }

// merge makes r part of the current observation's sample: of readings with one taken_at the one that the change
// is larger from.
func (st *ruleState) merge(r *vitals.Reading) {
	ch := st.c.Change
	v, ok := r.Value(ch.Component)
	if !ok {
		return
	}
	if ch.Component.InReadingUnit() {
		v = vitals.ToCanonical(r.Indicator, r.Unit, v)
	}
	if cur := &st.curSample; cur.taken == 0 || v < cur.canon && ch.wantsLow() || v > cur.canon && !ch.wantsLow() {
		*cur = sample{taken: r.TakenAt, canon: v, ev: newEvidence(r)}
	}
}

// keepSample adds the settled sample. For lowest and highest the samples are those that no later one is beyond,
// so the first that is young enough is the extreme of the window.
func (st *ruleState) keepSample() {
	ch := st.c.Change
	drop := st.window(st.curSample.taken)
	n := copy(st.samples, st.samples[drop:])
	clear(st.samples[n:])
	st.samples = st.samples[:n]
	if ch.From != FromFirst {
		for n > 0 && (ch.From == FromLowest && st.samples[n-1].canon >= st.curSample.canon ||
			ch.From == FromHighest && st.samples[n-1].canon <= st.curSample.canon) {
			n--
			st.samples[n] = sample{}
		}
		st.samples = st.samples[:n]
	}
	if n == maxSamples {
		if ch.From == FromFirst {
			copy(st.samples, st.samples[1:]) // the newest maxSamples
		}
		st.samples = st.samples[:n-1]
	}
	st.samples = append(st.samples, st.curSample)
}
