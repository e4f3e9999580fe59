package trends

import (
	"math"
	"time"

	"vitalwatch/vitals"
)

// Point is one glucose value: MgDL for computing, and as it was sent for comparing with the lines, which are exact
// pairs (guarantee 9: 10.0 mmol/L is in range although it is 180.156 mg/dL).
type Point struct {
	At   vitals.Micros
	MgDL float64
	Sent float64
	Unit vitals.Unit
}

// line is a glucose threshold as a pair that the guidelines print (facts, rule 1).
type line struct{ mgdl, mmol float64 }

var (
	line54  = line{54, 3.0}
	line70  = line{70, 3.9}
	line140 = line{140, 7.8}
	line180 = line{180, 10.0}
	line250 = line{250, 13.9}
)

// compare returns -1, 0 or 1 for a point below, on or above the line, in the unit that was sent.
func (p *Point) compare(l line) int {
	v, at := p.MgDL, l.mgdl
	switch p.Unit {
	case vitals.MmolL:
		v, at = p.Sent, l.mmol
	case vitals.MgDL:
		v = p.Sent
	}
	switch {
	case v < at:
		return -1
	case v > at:
		return 1
	}
	return 0
}

// CV returns the coefficient of variation in percent.
func CV(mean, sd float64) float64 { return 100 * sd / mean }

// GMI returns the glucose management indicator in percent of a mean in mg/dL.
func GMI(mean float64) float64 { return 3.31 + 0.02392*mean }

// EA1C returns the HbA1c in percent that a mean in mg/dL stands for (ADAG).
func EA1C(mean float64) float64 { return (mean + 46.7) / 28.7 }

// risk is Kovatchev's symmetrised scale: f is negative below about 112.5 mg/dL and positive above; the risk is 22.77·f².
func risk(mgdl float64) (f, r float64) {
	f = math.Pow(math.Log(mgdl), 1.084) - 5.381
	return f, 22.77 * f * f
}

// RiskIndices returns the low and high blood glucose index.
func RiskIndices(mgdl []float64) (lbgi, hbgi float64) {
	for _, g := range mgdl {
		switch f, r := risk(g); {
		case f < 0:
			lbgi += r
		case f > 0:
			hbgi += r
		}
	}
	n := float64(len(mgdl))
	return lbgi / n, hbgi / n
}

// GRI returns the glycaemia risk index from shares in percent.
func GRI(below54, from54to70, from180to250, above250 float64) float64 {
	return min(100, 3.0*below54+2.4*from54to70+0.8*from180to250+1.6*above250)
}

// GRADE returns the glycaemic risk assessment diabetes equation of one value.
func GRADE(mgdl float64) float64 {
	x := math.Log10(math.Log10(mgdl/18)) + 0.16
	return min(50, 425*x*x)
}

// MValue returns Schlichtkrull's M of one value against 90 mg/dL.
func MValue(mgdl float64) float64 { return math.Pow(math.Abs(10*math.Log10(mgdl/90)), 3) }

// COGI returns the continuous glucose monitoring index from shares in percent and the SD in mg/dL.
func COGI(inRange, below70, sd float64) float64 {
	clamp := func(x float64) float64 { return max(0, min(100, x)) }
	return 0.5*inRange + 0.35*clamp(100-20.0/3*below70) + 0.15*clamp(120-10.0/9*sd)
}

// ADRR returns the average daily risk range over local days.
func ADRR(ps []Point, zone *time.Location) float64 {
	var sum, days float64
	var low, high float64
	last := math.MinInt
	for _, p := range ps {
		if d := dayNumber(p.At, zone); d != last {
			sum += low + high
			low, high, last = 0, 0, d
			days++
		}
		switch f, r := risk(p.MgDL); {
		case f < 0:
			low = max(low, r)
		case f > 0:
			high = max(high, r)
		}
	}
	return (sum + low + high) / days
}

// Grid is a series at equal steps from local midnight of its first day, step by step, NaN where there is no value:
// linear between two readings at most MaxGap apart (iglu). On days when clocks change it keeps elapsed time.
type Grid struct {
	Step time.Duration
	V    []float64
}

// MaxGap is the longest gap that is interpolated (facts B2: iglu).
const MaxGap = 45 * time.Minute

// maxGrid bounds a grid: five years in steps of five minutes.
const maxGrid = 5 * 366 * 288

// NewGrid lays points, which are in order of time and have different times, onto a grid.
func NewGrid(ps []Point, step time.Duration, zone *time.Location) Grid {
	g := Grid{Step: step}
	if len(ps) < 2 || step <= 0 {
		return g
	}
	y, m, d := ps[0].At.Time().In(zone).Date()
	midnight := vitals.At(time.Date(y, m, d, 0, 0, 0, 0, zone))
	span := ps[len(ps)-1].At - midnight
	us := vitals.Micros(step / time.Microsecond)
	n := int(span / us)
	if n > maxGrid {
		return g
	}
	g.V = make([]float64, n)
	j := 0
	for i := range g.V {
		t := midnight + vitals.Micros(i+1)*us
		for j+1 < len(ps) && ps[j+1].At <= t {
			j++
		}
		a := &ps[j]
		switch {
		case t < a.At:
			g.V[i] = math.NaN()
		case t == a.At:
			g.V[i] = a.MgDL
		case j+1 == len(ps) || ps[j+1].At.Sub(a.At) > MaxGap:
			g.V[i] = math.NaN()
		default:
			b := &ps[j+1]
			g.V[i] = a.MgDL + (b.MgDL-a.MgDL)*float64(t-a.At)/float64(b.At-a.At)
		}
	}
	return g
}

// differences lists V[i+lag]−V[i] where both are there.
func (g Grid) differences(lag int) []float64 {
	out := make([]float64, 0, max(0, len(g.V)-lag))
	for i := lag; i < len(g.V); i++ {
		if d := g.V[i] - g.V[i-lag]; !math.IsNaN(d) {
			out = append(out, d)
		}
	}
	return out
}

func (g Grid) lag(d time.Duration) int { return int((d + g.Step/2) / g.Step) }

// CONGA returns the SD of G(t)−G(t−lag).
func (g Grid) CONGA(lag time.Duration) float64 { return SD(g.differences(g.lag(lag))) }

// MODD returns the mean absolute difference to the same clock time of the day before.
func (g Grid) MODD() float64 {
	d := g.differences(g.lag(24 * time.Hour))
	for i := range d {
		d[i] = math.Abs(d[i])
	}
	return Mean(d)
}

// MAG returns the mean absolute change in mg/dL per hour.
func (g Grid) MAG() float64 {
	d := g.differences(1)
	sum := 0.0
	for _, x := range d {
		sum += math.Abs(x)
	}
	return sum / (float64(len(d)) * g.Step.Hours())
}

// GVP returns the glycaemic variability percentage: how much longer the trace is than a level one.
func (g Grid) GVP() float64 {
	d := g.differences(1)
	step := g.Step.Minutes()
	sum := 0.0
	for _, x := range d {
		sum += math.Hypot(step, x)
	}
	return 100 * (sum/(float64(len(d))*step) - 1)
}

// stepOf is the median interval between readings, to the minute (iglu).
func stepOf(ps []Point) time.Duration {
	d := make([]float64, 0, len(ps))
	for i := 1; i < len(ps); i++ {
		d = append(d, ps[i].At.Sub(ps[i-1].At).Minutes())
	}
	m := Median(d)
	if math.IsNaN(m) {
		return 0
	}
	return time.Duration(math.Round(m)) * time.Minute
}

// activePercent is the share of the readings that a sensor with this step owes between the first and the last.
func activePercent(ps []Point, step time.Duration) float64 {
	expected := math.Round(float64(ps[len(ps)-1].At.Sub(ps[0].At))/float64(step)) + 1
	return min(100, 100*float64(len(ps))/expected)
}

// Sufficiency of sensor data (facts B2: consensus) and, ours, of self-measured glucose.
const (
	cgmStepMax   = 15 * time.Minute // readings this close come from a sensor
	cgmDays      = 14
	cgmActiveMin = 70.0
	smbgDays     = 7
	smbgReadings = 14
	gridStepMin  = time.Minute
)

// glucose fills r.Metrics. Points are in order of time, no two at one time.
func glucose(r *Result, ps []Point, zone *time.Location) {
	v := make([]float64, len(ps))
	var b54, b70, a140, a180, a250 float64
	for i := range ps {
		p := &ps[i]
		v[i] = p.MgDL
		switch {
		case p.compare(line54) < 0:
			b54++
			b70++
		case p.compare(line70) < 0:
			b70++
		case p.compare(line250) > 0:
			a140++
			a180++
			a250++
		case p.compare(line180) > 0:
			a140++
			a180++
		case p.compare(line140) > 0:
			a140++
		}
	}
	n := float64(len(ps))
	share := func(x float64) float64 { return 100 * x / n }
	mean, sd := Mean(v), SD(v)
	inRange := share(n - b70 - a180)
	lbgi, hbgi := RiskIndices(v)
	grade, mvalue := make([]float64, len(v)), make([]float64, len(v))
	for i, g := range v {
		grade[i], mvalue[i] = GRADE(g), MValue(g)
	}
	s := inOrder(v)
	q1, q3 := s.quantile(0.25), s.quantile(0.75)
	r.set(map[string]float64{
		"mean": mean, "sd": sd, "cv": CV(mean, sd), "gmi": GMI(mean), "ea1c": EA1C(mean),
		"time_in_range": inRange, "below_54": share(b54), "below_70": share(b70), "above_180": share(a180), "above_250": share(a250),
		"from_54_to_70": share(b70 - b54), "from_180_to_250": share(a180 - a250),
		"time_in_tight_range": share(n - b70 - a140),
		"min":                 s.quantile(0), "max": s.quantile(1), "median": s.quantile(0.5), "q1": q1, "q3": q3, "iqr": q3 - q1,
		"lbgi": lbgi, "hbgi": hbgi, "gri": GRI(share(b54), share(b70-b54), share(a180-a250), share(a250)),
		"j_index": 0.001 * (mean + sd) * (mean + sd), "grade": Mean(grade), "m_value": Mean(mvalue),
		"cogi": COGI(inRange, share(b70), sd), "mad": s.mad(), "adrr": ADRR(ps, zone),
	})
	step := stepOf(ps)
	days := ps[len(ps)-1].At.Sub(ps[0].At).Hours() / 24
	r.set(map[string]float64{"days": days})
	if len(ps) < 3 || step > cgmStepMax || step < gridStepMin {
		r.Kind = "smbg"
		switch {
		case len(ps) < smbgReadings:
			r.Reason = FewReadings
		case days < smbgDays-1:
			r.Reason = FewDays
		}
	} else {
		r.Kind = "cgm"
		active := activePercent(ps, step)
		g := NewGrid(ps, step, zone)
		r.set(map[string]float64{
			"active_percent": active, "step_minutes": step.Minutes(),
			"conga_1": g.CONGA(time.Hour), "conga_4": g.CONGA(4 * time.Hour), "conga_24": g.CONGA(24 * time.Hour),
			"modd": g.MODD(), "mag": g.MAG(), "gvp": g.GVP(), "mage": MAGE(ps, zone),
		})
		switch {
		case days < cgmDays:
			r.Reason = FewDays
		case active < cgmActiveMin:
			r.Reason = FewReadings
		}
	}
	r.finish(r.Reason == "", false)
}
