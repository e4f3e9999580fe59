package trends

import (
	"math"
	"time"

	"vitalwatch/vitals"
)

// Cuff sessions (facts B1): the readings of one person by one device within ten minutes of the first; the session's
// value is their mean, and when two differ by more than 10 mmHg a third is asked for (Chinese guideline 2024).
const (
	SessionWithin = 10 * time.Minute
	SessionDiffer = 10 // mmHg
	// sessionMin is how many readings a protocol wants of a session.
	sessionMin = 2
)

// Session is one sitting with the cuff. All raw readings stay what they are; nothing is stored anew.
type Session struct {
	Readings []*vitals.Reading // in order of time, at least one
	// Systolic, Diastolic and Pulse are means in mmHg and per minute over the readings that count; Pulse is NaN when
	// no reading has one. Counted may be less than Readings, see Protocol.DropFirstRead.
	Systolic, Diastolic, Pulse float64
	Counted                    int
	// Differ says that the two last of two readings are more than SessionDiffer apart and no third was taken.
	Differ bool
}

// Sessions groups blood-pressure readings, in order of time and clean, by device and time. dropFirst leaves the first
// reading of a session with several out of its mean.
func Sessions(rs []*vitals.Reading, dropFirst bool) []Session {
	var out []Session
	open := map[vitals.DeviceID]int{} // the device's session in out
	for _, r := range rs {
		if i, ok := open[r.Device]; ok && r.TakenAt.Sub(out[i].Readings[0].TakenAt) < SessionWithin {
			out[i].Readings = append(out[i].Readings, r)
			continue
		}
		open[r.Device] = len(out)
		out = append(out, Session{Readings: []*vitals.Reading{r}})
	}
	for i := range out {
		out[i].compute(dropFirst)
	}
	return out
}

func (s *Session) compute(dropFirst bool) {
	rs := s.Readings
	s.Differ = len(rs) == sessionMin && Differ(rs[0], rs[1])
	if dropFirst && len(rs) > 1 {
		rs = rs[1:]
	}
	s.Counted = len(rs)
	var sys, dia, pulse []float64
	for _, r := range rs {
		a, b := pressure(r)
		sys, dia = append(sys, a), append(dia, b)
		if p, ok := r.Value(vitals.Pulse); ok {
			pulse = append(pulse, p)
		}
	}
	s.Systolic, s.Diastolic, s.Pulse = Mean(sys), Mean(dia), Mean(pulse)
}

// Differ says whether two readings of a session are so far apart that a third is asked for.
func Differ(a, b *vitals.Reading) bool {
	as, ad := pressure(a)
	bs, bd := pressure(b)
	return math.Abs(as-bs) > SessionDiffer || math.Abs(ad-bd) > SessionDiffer
}

// CuffSessions returns the sessions of the blood-pressure readings among rs that count, in any order of rs.
func CuffSessions(rs []vitals.Reading, dropFirst bool) []Session {
	var unused Result
	return Sessions(cleanOf(&unused, rs, Options{Indicator: vitals.BloodPressure}), dropFirst)
}
