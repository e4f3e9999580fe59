package trends

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"

	"vitalwatch/vitals"
)

// Version is the version of the formulas; a stored report keeps the one that made it.
const Version = 1

// Options say what to compute over.
type Options struct {
	// Indicator selects the readings; others in the slice are skipped.
	Indicator vitals.Indicator
	// From and To are the bounds that were asked for, [From, To); 0 takes those of the data. Readings outside are
	// skipped.
	From, To vitals.Micros
	// Zone is the person's time zone, for days, mornings and evenings; nil is UTC.
	Zone *time.Location
	// SystolicLine and DiastolicLine in mmHg are the lines of the blood-pressure load; 0 takes the home lines of
	// the Chinese guideline, 135 and 85 (facts A1).
	SystolicLine, DiastolicLine float64
}

// Reasons for not having enough data; keys for the catalogues of texts.
const (
	NoReadings  = "no_readings"
	FewReadings = "few_readings"
	FewDays     = "few_days"
)

// States of sufficiency (facts B1).
const (
	Insufficient = "insufficient"
	Provisional  = "provisional"
	Complete     = "complete"
)

// Excluded counts readings that are in the period and in no metric, each under the first cause that holds.
type Excluded struct {
	Invalid     int `json:"invalid"`
	BelowRange  int `json:"below_range"`
	AboveRange  int `json:"above_range"`
	Flagged     int `json:"flagged"`
	DisplayOnly int `json:"display_only"`
}

// Result is what `GET /api/v1/patients/{id}/trends` answers. Metrics that cannot be computed from the data are absent.
type Result struct {
	Version      int      `json:"version"`
	Indicator    string   `json:"indicator"`
	Kind         string   `json:"kind,omitempty"` // glucose: "cgm" or "smbg"
	Unit         string   `json:"unit"`           // of the metrics that have the indicator's dimension
	From         string   `json:"from,omitempty"` // RFC 3339 UTC, half-open with To
	To           string   `json:"to,omitempty"`
	First        string   `json:"first,omitempty"` // of the readings that counted
	Last         string   `json:"last,omitempty"`
	Zone         string   `json:"zone"`
	N            int      `json:"n"`
	SelfReported int      `json:"self_reported"` // of N
	Excluded     Excluded `json:"excluded"`
	// Sufficient says that the metrics may be read as the guideline means them; State and Reason say why not.
	Sufficient bool               `json:"sufficient"`
	State      string             `json:"state"`
	Reason     string             `json:"reason"`
	Metrics    map[string]float64 `json:"metrics"`
}

// set adds metrics that are numbers.
func (r *Result) set(m map[string]float64) {
	for k, v := range m {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			r.Metrics[k] = v
		}
	}
}

func (r *Result) finish(sufficient, provisional bool) {
	r.Sufficient, r.State = sufficient, Insufficient
	switch {
	case sufficient:
		r.State = Complete
	case provisional:
		r.State = Provisional
	}
}

// MarshalIndent is for people: the report and the command line.
func (r *Result) MarshalIndent() ([]byte, error) { return json.MarshalIndent(r, "", "  ") }

// cleanOf returns the readings that count, in order of time, and notes in r what was left out.
func cleanOf(r *Result, rs []vitals.Reading, opt Options) []*vitals.Reading {
	clean := make([]*vitals.Reading, 0, len(rs))
	for i := range rs {
		x := &rs[i]
		if x.Indicator != opt.Indicator || x.TakenAt < opt.From || opt.To != 0 && x.TakenAt >= opt.To {
			continue
		}
		if r.counts(x) {
			clean = append(clean, x)
		}
	}
	// Ties in time keep the device's sequence, then ours: the order of arrival must not change a metric.
	slices.SortStableFunc(clean, func(a, b *vitals.Reading) int {
		return cmp.Or(cmp.Compare(a.TakenAt, b.TakenAt), cmp.Compare(a.DeviceSeq, b.DeviceSeq), cmp.Compare(a.Seq, b.Seq))
	})
	return clean
}

// Compute computes the metrics of one indicator over readings of one person, in any order. It does not change rs.
func Compute(rs []vitals.Reading, opt Options) Result {
	zone := opt.Zone
	if zone == nil {
		zone = time.UTC
	}
	r := Result{Version: Version, Indicator: opt.Indicator.String(), Unit: opt.Indicator.Canonical().String(), Zone: zone.String(), Metrics: map[string]float64{}}
	clean := cleanOf(&r, rs, opt)
	r.N = len(clean)
	r.From, r.To = stamp(opt.From), stamp(opt.To)
	if r.N == 0 {
		r.Reason = NoReadings
		r.finish(false, false)
		return r
	}
	first, last := clean[0].TakenAt, clean[r.N-1].TakenAt
	r.First, r.Last = stamp(first), stamp(last)
	if opt.From == 0 {
		r.From = r.First
	}
	if opt.To == 0 {
		r.To = stamp(last + 1)
	}
	switch opt.Indicator {
	case vitals.Glucose:
		glucose(&r, points(clean), zone)
	case vitals.BloodPressure:
		bloodPressure(&r, clean, zone, cmp.Or(opt.SystolicLine, 135), cmp.Or(opt.DiastolicLine, 85))
	default:
		single(&r, clean, zone)
	}
	return r
}

const unclean = vitals.Movement | vitals.CuffLoose | vitals.WrongPosition | vitals.PoorContact | vitals.LowSignal | vitals.Questionable

// counts reports whether x enters the metrics, and counts why not.
func (r *Result) counts(x *vitals.Reading) bool {
	switch {
	case x.Quality == vitals.Invalid:
		r.Excluded.Invalid++
	case x.Flags&vitals.BelowRange != 0:
		r.Excluded.BelowRange++
	case x.Flags&vitals.AboveRange != 0:
		r.Excluded.AboveRange++
	case x.Flags&unclean != 0:
		r.Excluded.Flagged++
	case x.Flags&vitals.DisplayOnly != 0:
		r.Excluded.DisplayOnly++
	default:
		if x.Flags&vitals.SelfReported != 0 {
			r.SelfReported++
		}
		return true
	}
	return false
}

func stamp(m vitals.Micros) string {
	if m == 0 {
		return ""
	}
	return string(vitals.AppendTime(nil, m))
}

// points turns readings into glucose points; several at one time become their mean (facts C, conventions).
func points(rs []*vitals.Reading) []Point {
	ps := make([]Point, 0, len(rs))
	for i := 0; i < len(rs); {
		j := i
		p := Point{At: rs[i].TakenAt, Unit: rs[i].Unit}
		for ; j < len(rs) && rs[j].TakenAt == p.At; j++ {
			v, _ := rs[j].Value(vitals.Value)
			p.Sent += v
			p.MgDL += vitals.ToCanonical(vitals.Glucose, rs[j].Unit, v)
			if rs[j].Unit != p.Unit {
				p.Unit = vitals.NoUnit // mixed: only MgDL means something
			}
		}
		n := float64(j - i)
		p.Sent /= n
		p.MgDL /= n
		ps = append(ps, p)
		i = j
	}
	return ps
}

// canonical lists a component in the canonical unit, with the readings that have it.
func canonical(rs []*vitals.Reading, c vitals.Component) (v []float64, of []*vitals.Reading) {
	for _, x := range rs {
		y, ok := x.Value(c)
		if !ok {
			continue
		}
		if c.InReadingUnit() {
			y = vitals.ToCanonical(x.Indicator, x.Unit, y)
		}
		v, of = append(v, y), append(of, x)
	}
	return v, of
}

// maxSlopeDays bounds the quadratic trend tests; a longer period is judged by its last days.
const maxSlopeDays = 1000

// Sufficiency of what has no protocol of its own (P).
const (
	anyReadings = 3
	anyDays     = 3
)

// single computes the metrics of an indicator with one leading component: level, spread, and direction over the daily
// means, so that a day with many readings weighs no more than one with few.
func single(r *Result, rs []*vitals.Reading, zone *time.Location) {
	v, of := canonical(rs, rs[0].Indicator.Components()[0])
	if len(v) == 0 {
		r.Reason = NoReadings
		r.finish(false, false)
		return
	}
	mean, sd, s := Mean(v), SD(v), inOrder(v)
	days, means := dailyMeans(v, of, zone)
	r.set(map[string]float64{
		"mean": mean, "sd": sd, "cv": CV(mean, sd), "min": s.quantile(0), "max": s.quantile(1), "median": s.quantile(0.5),
		"q1": s.quantile(0.25), "q3": s.quantile(0.75), "mad": s.mad(), "first": v[0], "last": v[len(v)-1], "days": float64(len(days)),
	})
	slopes(r, "", days, means)
	if p, _ := canonical(rs, vitals.Pulse); len(p) > 0 {
		r.set(map[string]float64{"pulse_mean": Mean(p), "pulse_sd": SD(p)})
	}
	switch {
	case len(v) < anyReadings:
		r.Reason = FewReadings
	case len(days) < anyDays:
		r.Reason = FewDays
	}
	r.finish(r.Reason == "", false)
}

// slopes adds direction over daily means: Theil–Sen per day and Mann–Kendall, from three days on.
func slopes(r *Result, prefix string, days, means []float64) {
	if len(days) > maxSlopeDays {
		days, means = days[len(days)-maxSlopeDays:], means[len(means)-maxSlopeDays:]
	}
	if len(days) < 3 {
		return
	}
	slope, _ := TheilSen(days, means)
	t := MannKendall(means)
	r.set(map[string]float64{prefix + "slope_per_day": slope, prefix + "trend_s": t.S, prefix + "trend_z": t.Z, prefix + "trend_p": t.P})
}

// dailyMeans returns the local days that have values, as day numbers, and the mean of each.
func dailyMeans(v []float64, of []*vitals.Reading, zone *time.Location) (days, means []float64) {
	for i := 0; i < len(v); {
		d := dayNumber(of[i].TakenAt, zone)
		j, sum := i, 0.0
		for ; j < len(v) && dayNumber(of[j].TakenAt, zone) == d; j++ {
			sum += v[j]
		}
		days, means = append(days, float64(d)), append(means, sum/float64(j-i))
		i = j
	}
	return days, means
}

// dayNumber counts local dates, so that the days at which clocks change are days like all others.
func dayNumber(at vitals.Micros, zone *time.Location) int {
	y, m, d := at.Time().In(zone).Date()
	return int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}
