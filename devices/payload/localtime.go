package payload

import (
	"time"

	"vitalwatch/vitals"
)

// wall is a local time of a device's clock, as microseconds as if it were UTC.
func wall(y, mo, d, h, mi, s int) (vitals.Micros, bool) {
	if y < 1 || y > 9999 || mo < 1 || mo > 12 || d < 1 || d > daysIn(y, mo) || h > 23 || mi > 59 || s > 59 {
		return 0, false
	}
	sec := (int64(daysFromEpoch(y, mo, d))*24+int64(h))*3600 + int64(mi)*60 + int64(s)
	return vitals.Micros(sec) * vitals.Second, true
}

// fromWall gives the instant of a local time, and its offset from UTC in minutes. A time that stands twice, when clocks
// go back, is the first of the two; one that does not exist, when they go forward, is read by a clock that nobody has
// put forward yet.
func fromWall(w vitals.Micros, loc *time.Location) (vitals.Micros, int16) {
	sec := int64(w / vitals.Second)
	before := zoneOffset(sec-86400, loc)
	at := sec - before
	if after := zoneOffset(sec+86400, loc); after != before && zoneOffset(at, loc) != before && zoneOffset(sec-after, loc) == after {
		before = after
	}
	return w - vitals.Micros(before)*vitals.Second, int16(before / 60)
}

func zoneOffset(sec int64, loc *time.Location) int64 {
	if loc == time.UTC {
		return 0
	}
	_, off := time.Unix(sec, 0).In(loc).Zone()
	return int64(off)
}

// taken reports whether t can be the date of a measurement.
func taken(t vitals.Micros) bool { return t >= minTaken && t < maxTaken }

// instant reads a JSON time: RFC 3339 with offset, or Unix milliseconds.
func (v jval) instant() (t vitals.Micros, off int16, ok bool) {
	if s, isText := v.text(); isText {
		t, off, verdict := parseTime(s)
		return t, off, verdict == timeGood && taken(t)
	}
	ms, ok := v.integer()
	if !ok || ms < int64(minTaken)/1000 || ms >= int64(maxTaken)/1000 {
		return 0, vitals.NoOffset, false
	}
	return vitals.Micros(ms) * vitals.Millisecond, vitals.NoOffset, true
}
