package ingest

import (
	"strconv"

	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// clockOf finds out what is known of the device's clock for one message. A message with one new reading of what is
// measured at a push of a button is taken for sent right after measuring; a replayed message says nothing new.
func (b *Batch) clockOf(items []payload.Item, h *devices.Handle, received vitals.Micros) evidence.Clock {
	var newest vitals.Micros
	for i := range items {
		if it := &items[i]; it.Clock == payload.ClockDevice && it.Change != payload.Voided && (it.Problem == nil || it.Failed()) {
			newest = max(newest, it.Reading.TakenAt)
		}
	}
	if newest == 0 {
		return evidence.Clock{}
	}
	var c devices.Clock
	if r := &items[0].Reading; b.judgeAt == 0 && len(items) == 1 && items[0].Change == payload.Added && r.Flags&vitals.FromMemory == 0 && onTheSpot(r.Indicator) {
		c = h.ObserveClock(newest, received)
	} else {
		c = h.Clock()
	}
	if c.Trust == devices.ClockOK {
		return evidence.Clock{}
	}
	if off := received.Sub(newest); off <= vitals.LiveWindow && off >= -vitals.MaxClockAhead {
		return evidence.Clock{} // it looks as if the clock was set
	}
	return evidence.Clock{Offset: c.Offset, From: c.From, To: c.To, Doubtful: true}
}

// onTheSpot reports whether a reading is over when it is taken: a night's sleep or a day's steps are summed up later.
func onTheSpot(i vitals.Indicator) bool {
	switch i {
	case vitals.BloodPressure, vitals.Glucose, vitals.HeartRate, vitals.SpO2, vitals.Temperature, vitals.Weight, vitals.Respiration:
		return true
	}
	return false
}

// setClock takes the known error of the device's clock off the item's time, with a trace, and reports whether the time
// is doubtful all the same.
func setClock(it *payload.Item, c evidence.Clock) (doubtful bool) {
	r := &it.Reading
	switch {
	case it.Clock == payload.ClockFault:
		return true
	case it.Clock != payload.ClockDevice || c == (evidence.Clock{}):
		return false
	case c.Offset == 0 || r.TakenAt < c.From || r.TakenAt > c.To:
		return c.Doubtful
	}
	var x vitals.Extra
	if r.Extra != nil {
		x = *r.Extra
	}
	trace := vitals.AppendTime([]byte(`{"device_taken_at":"`), r.TakenAt)
	trace = append(trace, `","offset_s":`...)
	x.Clock = string(append(strconv.AppendInt(trace, int64(c.Offset/vitals.Second), 10), '}'))
	r.Extra = &x
	r.TakenAt -= c.Offset
	return false
}
