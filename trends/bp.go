package trends

import (
	"math"
	"time"

	"vitalwatch/vitals"
)

// Morning is 04 to 12 and evening from 17 local time: the windows of the reference values of facts C2.
const (
	morningFrom, morningTo = 4, 12
	eveningFrom            = 17
)

// Sufficiency of home blood pressure (facts B1).
const (
	bpMinDays      = 3
	bpMinReadings  = 12
	bpCompleteDays = 7
)

// Protocol says which readings a home-measurement average takes (facts B1).
type Protocol struct {
	Days        int // length of the protocol in calendar days
	DropDays    int // first days that do not count
	MinDays     int // days with readings below which the average is insufficient
	MinReadings int
	// DropFirstRead leaves the first reading of each session with several out, as the protocols of family medicine
	// with three readings do; the Chinese, ESH and ESC ones count it.
	DropFirstRead bool
}

// HomeProtocol is the common ground of the Chinese, ESH and ESC protocols: seven days, the first dropped, at least
// three days and twelve readings.
var HomeProtocol = Protocol{Days: 7, DropDays: 1, MinDays: bpMinDays, MinReadings: bpMinReadings}

// Average is a protocol's result.
type Average struct {
	Systolic, Diastolic float64
	Readings, Days      int // that counted
	State               string
}

// Average averages readings, in order of time, over the protocol's last days up to that of the last reading.
func (p Protocol) Average(rs []*vitals.Reading, zone *time.Location) Average {
	a := Average{State: Insufficient}
	if len(rs) == 0 {
		return a
	}
	last := dayNumber(rs[len(rs)-1].TakenAt, zone)
	first := max(last-p.Days+1, dayNumber(rs[0].TakenAt, zone)) + p.DropDays
	day := math.MinInt
	for _, session := range Sessions(rs, p.DropFirstRead) {
		d := dayNumber(session.Readings[0].TakenAt, zone)
		if d < first {
			continue
		}
		// Weighted by its readings: the protocols average readings, not sessions.
		a.Systolic += session.Systolic * float64(session.Counted)
		a.Diastolic += session.Diastolic * float64(session.Counted)
		a.Readings += session.Counted
		if d != day {
			a.Days++
			day = d
		}
	}
	n := float64(a.Readings)
	a.Systolic, a.Diastolic = a.Systolic/n, a.Diastolic/n
	switch {
	case a.Days < p.MinDays || a.Readings < p.MinReadings:
	case a.Days < p.Days-p.DropDays:
		a.State = Provisional
	default:
		a.State = Complete
	}
	return a
}

func pressure(x *vitals.Reading) (systolic, diastolic float64) {
	s, _ := x.Value(vitals.Systolic)
	d, _ := x.Value(vitals.Diastolic)
	return vitals.ToCanonical(x.Indicator, x.Unit, s), vitals.ToCanonical(x.Indicator, x.Unit, d)
}

func bloodPressure(r *Result, rs []*vitals.Reading, zone *time.Location, sysLine, diaLine float64) {
	n := float64(len(rs))
	sys, of := canonical(rs, vitals.Systolic)
	dia, _ := canonical(rs, vitals.Diastolic)
	var pp, mapc []float64
	var overS, overD, over float64
	var ms, md, es, ed []float64
	for i, x := range rs {
		s, d := sys[i], dia[i]
		pp = append(pp, s-d)
		mapc = append(mapc, d+(s-d)/3)
		if s >= sysLine {
			overS++
		}
		if d >= diaLine {
			overD++
		}
		if s >= sysLine || d >= diaLine {
			over++
		}
		switch h := x.TakenAt.Time().In(zone).Hour(); {
		case h >= morningFrom && h < morningTo:
			ms, md = append(ms, s), append(md, d)
		case h >= eveningFrom:
			es, ed = append(es, s), append(ed, d)
		}
	}
	for name, v := range map[string][]float64{"systolic_": sys, "diastolic_": dia} {
		mean, sd, s := Mean(v), SD(v), inOrder(v)
		r.set(map[string]float64{
			name + "mean": mean, name + "sd": sd, name + "cv": CV(mean, sd), name + "arv": ARV(v), name + "sv": SV(v),
			name + "min": s.quantile(0), name + "max": s.quantile(1), name + "median": s.quantile(0.5),
			name + "peak": s.quantile(1) - mean, name + "trough": mean - s.quantile(0),
		})
		days, means := dailyMeans(v, of, zone)
		r.set(map[string]float64{name + "day_to_day_sd": SD(means), "days": float64(len(days))})
		slopes(r, name, days, means)
	}
	r.set(map[string]float64{
		"systolic_load": 100 * overS / n, "diastolic_load": 100 * overD / n, "load": 100 * over / n,
		"systolic_line": sysLine, "diastolic_line": diaLine,
		"pulse_pressure_mean": Mean(pp), "map_mean": Mean(mapc),
		"morning_n": float64(len(ms)), "morning_systolic_mean": Mean(ms), "morning_diastolic_mean": Mean(md),
		"evening_n": float64(len(es)), "evening_systolic_mean": Mean(es), "evening_diastolic_mean": Mean(ed),
		// Kario's morning–evening average and difference.
		"morning_evening_systolic_average": (Mean(ms) + Mean(es)) / 2, "morning_evening_systolic_difference": Mean(ms) - Mean(es),
		"morning_evening_diastolic_average": (Mean(md) + Mean(ed)) / 2, "morning_evening_diastolic_difference": Mean(md) - Mean(ed),
	})
	// The device's own mean pressure is measured, not computed; both stay.
	if m, _ := canonical(rs, vitals.Mean); len(m) > 0 {
		r.set(map[string]float64{"device_mean": Mean(m)})
	}
	if p, _ := canonical(rs, vitals.Pulse); len(p) > 0 {
		r.set(map[string]float64{"pulse_mean": Mean(p), "pulse_sd": SD(p)})
	}
	sessions := Sessions(rs, false)
	var ss, sd []float64
	differ := 0.0
	for i := range sessions {
		ss, sd = append(ss, sessions[i].Systolic), append(sd, sessions[i].Diastolic)
		if sessions[i].Differ {
			differ++
		}
	}
	r.set(map[string]float64{"sessions": float64(len(sessions)), "sessions_differ": differ, "session_systolic_mean": Mean(ss), "session_diastolic_mean": Mean(sd)})
	home := HomeProtocol.Average(rs, zone)
	r.set(map[string]float64{"protocol_n": float64(home.Readings), "protocol_days": float64(home.Days), "protocol_systolic_mean": home.Systolic, "protocol_diastolic_mean": home.Diastolic})
	days := int(r.Metrics["days"])
	switch {
	case days < bpMinDays:
		r.Reason = FewDays
	case len(rs) < bpMinReadings:
		r.Reason = FewReadings
	case days < bpCompleteDays:
		r.Reason = FewDays
	}
	r.finish(r.Reason == "", days >= bpMinDays && len(rs) >= bpMinReadings)
}
