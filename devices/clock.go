package devices

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/vitals"
)

// A device whose clock is wrong by a constant (another zone, a date in 2000 after new batteries) is found out by what it
// sends right after measuring: single readings whose times are off by the same. Three of them must agree, because a
// device that was offline sends old readings with right times, and such differ from each other. A clock that is right
// is never touched, and what cannot be told is left as it is.

// How a clock is judged. P: our proposal; reliability and clinical facts say no numbers.
const (
	clockAgree   = 90 * time.Second // offsets of one wrong clock differ by less
	clockSamples = 3                // that must agree
	clockApart   = 10 * time.Minute // between two that count: a burst of late readings is one; for a clock that is behind
	clockAhead   = time.Minute      // the same for a clock that is ahead: nothing is measured in the future
	clockDaily   = 30 * time.Minute // uploads at one time of day, of what is measured at another, come days apart give or take so much
)

// ClockTrust says how far the times of a device are believed.
type ClockTrust string

// The degrees. An ok clock was never found wrong; of a doubtful one some times are off by the same; the times of a
// corrected one are corrected.
const (
	ClockOK        ClockTrust = "ok"
	ClockDoubtful  ClockTrust = "doubtful"
	ClockCorrected ClockTrust = "corrected"
)

// Clock is what is known of a device's clock.
type Clock struct {
	Trust ClockTrust
	// Offset is the device's time minus the true one; device times within [From, To] are off by it. All 0 unless Corrected.
	Offset, From, To vitals.Micros
	Since            vitals.Micros // when it became so; 0 for ClockOK
}

// Corrects reports whether a device time is known to be off by Offset.
func (c *Clock) Corrects(taken vitals.Micros) bool {
	return c.Offset != 0 && taken >= c.From && taken <= c.To
}

// clock is a wrong clock, or one that may be; the zero value is right.
type clock struct {
	now atomic.Pointer[Clock] // nil: ok; a published one never changes
	odd atomic.Bool           // there are samples, or now is set

	mu      sync.Mutex
	samples []clockSample // the newest last; none while the clock is right

	saved *Clock // what is in the table; guarded by Registry.flushMu
}

type clockSample struct{ taken, received vitals.Micros }

func (s clockSample) offset() vitals.Micros { return s.taken - s.received }

// Clock returns what is known of the device's clock. The hot path: no lock, no allocation.
func (h *Handle) Clock() Clock {
	if x := h.rare.Load(); x != nil {
		if c := x.clock.now.Load(); c != nil {
			return *c
		}
	}
	return Clock{Trust: ClockOK}
}

// ObserveClock takes in when a reading was taken by the device's clock, of which the device says that it has just
// measured it, and returns what is known of its clock then. A device with a right clock costs two comparisons.
func (h *Handle) ObserveClock(taken, received vitals.Micros) Clock {
	off := received.Sub(taken)
	right := off <= vitals.LiveWindow && off >= -vitals.MaxClockAhead
	x := h.rare.Load()
	if right && (x == nil || !x.clock.odd.Load()) {
		return h.Clock()
	}
	c := &h.needRare().clock
	c.mu.Lock()
	defer c.mu.Unlock()
	if right { // it was set, or was never wrong
		c.samples = nil
		c.odd.Store(false)
		c.now.Store(nil)
		return h.Clock()
	}
	c.odd.Store(true)
	s := clockSample{taken, received}
	if k := c.now.Load(); k != nil && k.Trust == ClockCorrected && near(s.offset(), k.Offset) {
		if taken > k.To {
			next := *k
			next.To = taken
			c.now.Store(&next)
		}
		return h.Clock()
	}
	apart := clockApart
	if taken > received {
		apart = clockAhead
	}
	if n := len(c.samples); n > 0 && received.Sub(c.samples[n-1].received) < apart {
		return h.Clock()
	}
	c.samples = append(c.samples, s)
	c.samples = c.samples[max(0, len(c.samples)-clockSamples):]
	c.judge(received)
	return h.Clock()
}

// judge looks at the last samples. mu is held.
func (c *clock) judge(now vitals.Micros) {
	agree := 1
	for i := len(c.samples) - 1; i > 0 && near(c.samples[i-1].offset(), c.samples[len(c.samples)-1].offset()); i-- {
		agree++
	}
	k := c.now.Load()
	switch {
	case agree >= clockSamples && !c.daily():
		offs := make([]vitals.Micros, len(c.samples))
		for i, s := range c.samples {
			offs[i] = s.offset()
		}
		slices.Sort(offs)
		// Whole seconds, and the same for ever: what is sent again must get the same time again.
		off := offs[len(offs)/2] / vitals.Second * vitals.Second
		c.now.Store(&Clock{Trust: ClockCorrected, Offset: off, From: c.samples[0].taken, To: c.samples[len(c.samples)-1].taken, Since: now})
	case agree >= 2 && (k == nil || k.Trust != ClockDoubtful):
		c.now.Store(&Clock{Trust: ClockDoubtful, Since: now})
	case agree < 2 && (k == nil || k.Trust != ClockCorrected):
		c.now.Store(nil) // late, or a clock that was set anew: the samples will tell
	}
}

// daily reports whether the samples may be of a right clock: sent at one time of the day, measured at another.
func (c *clock) daily() bool {
	for i := 1; i < len(c.samples); i++ {
		if c.samples[i].offset() > 0 {
			return false
		}
		apart := c.samples[i].received.Sub(c.samples[i-1].received)
		if rest := apart % (24 * time.Hour); apart < 12*time.Hour || rest > clockDaily && rest < 24*time.Hour-clockDaily {
			return false
		}
	}
	return true
}

func near(a, b vitals.Micros) bool { d := a.Sub(b); return d < clockAgree && d > -clockAgree }

// readClocks fills in what the table knows.
func (r *Registry) readClocks(ctx context.Context) error {
	rows, err := r.db.Reader().QueryContext(ctx, `SELECT device_id, offset_us, valid_from, valid_to, known_at FROM device_clocks`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id vitals.DeviceID
		c := Clock{Trust: ClockCorrected}
		if err := rows.Scan(&id, &c.Offset, &c.From, &c.To, &c.Since); err != nil {
			return err
		}
		if h := r.Find(id); h != nil {
			k := &h.needRare().clock
			k.odd.Store(true)
			k.now.Store(&c)
			k.saved = &c
		}
	}
	return rows.Err()
}

// clockToSave returns what the table lacks; c nil: the row goes. flushMu is held.
func (h *Handle) clockToSave() (c *Clock, differs bool) {
	x := h.rare.Load()
	if x == nil {
		return nil, false
	}
	if c = x.clock.now.Load(); c != nil && c.Trust != ClockCorrected {
		c = nil // found out again after a restart
	}
	return c, c != x.clock.saved
}

func saveClock(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, c *Clock) error {
	if c == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM device_clocks WHERE device_id = $1`, id)
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO device_clocks (device_id, offset_us, valid_from, valid_to, known_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (device_id) DO UPDATE SET offset_us = $2, valid_from = $3, valid_to = $4, known_at = $5`, id, c.Offset, c.From, c.To, c.Since)
	return err
}
