package simulator

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"vitalwatch/vitals"
)

// Reading is one measurement in simulated time.
type Reading struct {
	At        time.Duration // simulated, since the start
	Indicator vitals.Indicator
	Unit      string
	Values    []Value
	Flags     []string
	Context   string // JSON object, "" for none
}

// Value is a component with the digits that the device shows.
type Value struct {
	Component vitals.Component
	Text      string
}

// Minutes of the day.
const (
	hour = 60
	day  = 24 * hour
)

// pulse is a passing change of a level: it rises to amp after tp minutes and decays again, like the answer to a meal.
type pulse struct {
	start int // minute
	amp   float64
	tp    float64
}

func (p pulse) at(minute int) float64 {
	x := float64(minute-p.start) / p.tp
	if x <= 0 || x > 8 {
		return 0
	}
	return p.amp * x * math.Exp(1-x)
}

// session is a planned blood-pressure measurement; crisis raises it.
type session struct {
	minute int
	crisis bool
}

// body is one person and their devices. It must be asked for every minute in order.
type body struct {
	rng   *rand.Rand
	first int // minute of the day at the start

	diabetes, type1, hypertensive, failing, copd bool

	glucose, glucoseNoise float64
	meals, lows           []pulse
	lastMeal              int
	systolic, diastolic   float64
	sessions              []session
	heart, heartNoise     float64
	bursts                []pulse
	oxygen                float64
	dips                  []pulse
	weight                float64
	fluid                 float64 // kg of retained water
	retaining             int     // days left of an episode, negative while it goes away
	breath                float64
	irregular             float64 // chance per measurement that the pulse was irregular
	sleepStart            int
	steps                 int
	battery               float64
}

func newBody(seed uint64, index int, conditions []string, first int) *body {
	rng := rand.New(rand.NewPCG(seed, uint64(index)+1))
	has := func(name string) bool { return slices.Contains(conditions, name) }
	b := &body{rng: rng, first: first,
		type1: has("type1_diabetes"), diabetes: has("type1_diabetes") || has("type2_diabetes"), hypertensive: has("hypertension"),
		failing: has("heart_failure"), copd: has("copd"), lastMeal: -day,
		glucose: 5.4 + 0.4*rng.NormFloat64(), systolic: 122 + 5*rng.NormFloat64(), diastolic: 76 + 3*rng.NormFloat64(),
		heart: 68 + 5*rng.NormFloat64(), oxygen: 97.5, breath: 15 + rng.NormFloat64(),
		weight: 68 + 9*rng.NormFloat64(), battery: 40 + 60*rng.Float64()}
	if b.diabetes {
		b.glucose += 1.6 // fasting level of treated diabetes
	}
	if b.hypertensive {
		b.systolic += 15
		b.diastolic += 9
	}
	if b.copd {
		b.oxygen, b.breath = 96.3, b.breath+3
	}
	if index%5 == 1 {
		b.irregular = 0.15
	}
	b.plan(0, first)
	return b
}

// plan lays out the events of the day that begins at minute start; from leaves out what would be earlier.
func (b *body) plan(start, from int) {
	r := b.rng
	jitter := func(at, by int) int { return start + at + r.IntN(2*by+1) - by }
	keep := func(ps []pulse) []pulse {
		return slices.DeleteFunc(ps, func(p pulse) bool { return p.start < start-12*hour })
	}
	b.meals, b.lows, b.bursts, b.dips = keep(b.meals), keep(b.lows), keep(b.bursts), keep(b.dips)
	amp := 1.6
	if b.diabetes {
		amp = 3.6
	}
	for _, at := range []int{7*hour + 15, 12 * hour, 18*hour + 30} {
		a := amp * (0.7 + 0.6*r.Float64())
		if b.diabetes && r.Float64() < 0.07 {
			a *= 2.2 // a large meal or a forgotten dose
		}
		b.meals = append(b.meals, pulse{jitter(at, 30), a, 45 + 25*r.Float64()})
	}
	night, hypo := r.Float64(), r.Float64()
	if b.type1 && night < 0.25 {
		b.lows = append(b.lows, pulse{jitter(2*hour+30, 60), -(3.2 + 1.8*hypo), 40})
	}
	if b.type1 && r.Float64() < 0.10 {
		b.lows = append(b.lows, pulse{jitter(16*hour, 60), -(3 + 1.2*r.Float64()), 30}) // after exercise
	}
	for _, at := range []int{7 * hour, 19*hour + 15} {
		b.sessions = append(b.sessions, session{jitter(at, 30), b.hypertensive && r.Float64() < 0.03})
	}
	for range 2 + r.IntN(3) {
		b.bursts = append(b.bursts, pulse{jitter(13*hour, 5*hour), 20 + 25*r.Float64(), 8 + 10*r.Float64()})
	}
	if b.copd {
		for range r.IntN(2) {
			b.dips = append(b.dips, pulse{jitter(15*hour, 8*hour), -(3 + 5*r.Float64()), 12})
		}
	}
	if b.failing {
		switch start := r.Float64(); {
		case b.retaining > 0:
			b.fluid += 0.5 + 0.3*r.Float64()
			if b.retaining--; b.retaining == 0 {
				b.retaining = -4
			}
		case b.retaining < 0: // treatment works
			b.fluid *= 0.5
			b.retaining++
		case start < 0.06:
			b.retaining = 5
		default:
			b.fluid *= 0.7
		}
	}
	b.weight += 0.05 * r.NormFloat64()
	b.sleepStart = 22*hour + r.IntN(2*hour)
	b.steps = 3000 + r.IntN(5000)
	b.sessions = slices.DeleteFunc(b.sessions, func(s session) bool { return s.minute < from })
}

// minute returns what is measured in minute m of simulated time since the start, 0 first and none left out.
func (b *body) minute(m int) []Reading {
	now := m + b.first // minutes since the midnight before the start
	clock := now % day
	if clock == 0 && now > 0 {
		b.plan(now, now)
	}
	r := b.rng
	at := time.Duration(m) * time.Minute
	b.glucoseNoise += -0.05*b.glucoseNoise + 0.05*r.NormFloat64()
	b.heartNoise += -0.1*b.heartNoise + 1.1*r.NormFloat64()
	var out []Reading
	add := func(ind vitals.Indicator, unit string, flags []string, context string, values ...Value) {
		if b.battery -= 0.01; b.battery < 3 {
			b.battery = 100 // charged
		}
		if b.battery < 10 {
			flags = append(flags, "low_battery")
		}
		out = append(out, Reading{At: at, Indicator: ind, Unit: unit, Values: values, Flags: flags, Context: context})
	}

	for _, p := range b.meals {
		if p.start == now {
			b.lastMeal = now
		}
	}
	if (b.type1 && m%5 == 0) || (b.diabetes && !b.type1 && m%15 == 5) {
		g := b.glucose + b.glucoseNoise + sum(b.meals, now) + sum(b.lows, now)
		context := ""
		if !b.type1 { // a meter knows what the person said
			switch since := now - b.lastMeal; {
			case since < 3*hour:
				context = `{"meal":"after_meal"}`
			case clock < 9*hour:
				context = `{"meal":"fasting"}`
			}
		}
		add(vitals.Glucose, "mmol/L", nil, context, Value{vitals.Value, fixed(clamp(g, 2.3, 27), 1)})
	}
	for i := 0; i < len(b.sessions); i++ {
		s := &b.sessions[i]
		since := now - s.minute
		if since < 0 {
			continue
		}
		sys := b.systolic + b.surge(clock) + 4*r.NormFloat64()
		dia := b.diastolic + b.surge(clock)/2 + 3*r.NormFloat64()
		last := 1 // minutes to the last measurement of the session
		if s.crisis {
			last = 32
			if since <= 2 {
				sys, dia = 188+4*r.NormFloat64(), 112+2*r.NormFloat64()
			} else {
				sys, dia = 158+3*r.NormFloat64(), 94+2*r.NormFloat64()
			}
		}
		if since == 0 || !s.crisis && since == 1 || s.crisis && (since == 2 || since == 32) {
			var flags []string
			switch x := r.Float64(); {
			case x < 0.02:
				flags = []string{"movement"}
			case x < 0.03:
				flags = []string{"cuff_loose"}
			case x < 0.03+b.irregular:
				flags = []string{"irregular_pulse"}
			}
			sys, dia = clamp(sys, 85, 230), clamp(dia, 50, 130)
			dia = min(dia, sys-20)
			add(vitals.BloodPressure, "mm[Hg]", flags, `{"posture":"sitting","arm":"left"}`, Value{vitals.Systolic, fixed(sys, 0)}, Value{vitals.Diastolic, fixed(dia, 0)},
				Value{vitals.Pulse, fixed(b.heart+4*r.NormFloat64(), 0)})
		}
		if since >= last {
			b.sessions = slices.Delete(b.sessions, i, i+1)
			i--
		}
	}
	if m%5 == 0 {
		active := sum(b.bursts, now)
		rate := b.heart + 6*math.Sin(2*math.Pi*float64(clock-9*hour)/day) + b.heartNoise + active
		context := `{"activity":"resting"}`
		if active > 8 {
			context = `{"activity":"active"}`
		}
		add(vitals.HeartRate, "/min", nil, context, Value{vitals.Value, fixed(clamp(rate, 48, 165), 0)})
	}
	if (b.copd || b.failing) && m%10 == 3 {
		dip := sum(b.dips, now)
		o := b.oxygen + 0.35*r.NormFloat64() + dip
		var flags []string
		if r.Float64() < 0.01 {
			flags = []string{"poor_contact"}
		}
		add(vitals.SpO2, "%", flags, "", Value{vitals.Value, fixed(clamp(o, 80, 99), 0)})
		if m%30 == 3 {
			add(vitals.Respiration, "/min", nil, "", Value{vitals.Value, fixed(clamp(b.breath+r.NormFloat64()-dip/2, 10, 28), 0)})
		}
	}
	switch {
	case (b.failing || b.diabetes) && clock == 7*hour+5:
		add(vitals.Weight, "kg", nil, "", Value{vitals.Value, fixed(b.weight+b.fluid+0.1*r.NormFloat64(), 1)})
	case (b.failing || b.copd) && clock == 8*hour:
		add(vitals.Temperature, "Cel", nil, "", Value{vitals.Value, fixed(36.6+0.2*r.NormFloat64(), 1)})
	case clock == 7*hour+20:
		total := float64(day-b.sleepStart+7*hour) / hour
		deep := total * (0.13 + 0.1*r.Float64())
		add(vitals.Sleep, "h", nil, "", Value{vitals.Total, fixed(total, 2)}, Value{vitals.Deep, fixed(deep, 2)})
	case clock == 21*hour+30:
		add(vitals.Steps, "{steps}", nil, "", Value{vitals.Value, strconv.Itoa(b.steps)})
	}
	return out
}

// surge is how much the pressure of this minute of the day lies above the person's mean: high in the morning, low at
// night.
func (b *body) surge(clock int) float64 {
	switch {
	case clock < 5*hour:
		return -12
	case clock < 10*hour:
		return 7
	case clock < 17*hour:
		return 0
	}
	return 3
}

func sum(ps []pulse, minute int) float64 {
	s := 0.0
	for _, p := range ps {
		s += p.at(minute)
	}
	return s
}

func clamp(v, lo, hi float64) float64 { return max(lo, min(hi, v)) }

func fixed(v float64, decimals int) string { return strconv.FormatFloat(v, 'f', decimals, 64) }
