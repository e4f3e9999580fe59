package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// Coverage: per person and indicator whether it is watched and, if not, since when and why. Packs have no plans that
// say who should measure what, so it follows from what came in the last 30 days and from the models of the devices.

const (
	// coverSeen is how long after its last reading an indicator is still expected.
	coverSeen = 30 * vitals.Day
	// coverAge is how old the last reading may be: home measurements are daily in most plans, and one day may be missed.
	coverAge = 48 * vitals.Hour
	// coverBehind is how far our own evaluation may be behind before nobody is watched.
	coverBehind = vitals.Minute
)

// Why an indicator is not watched, in the order in which it is asked.
const (
	whyUs        = "us"
	whyBinding   = "binding"
	whyGateway   = "gateway"
	whyDevice    = "device"
	whyClock     = "clock"
	whyNoReading = "no_recent_reading"
)

// coverDevice is what matters of a device that measures, or measured, for one person.
type coverDevice struct {
	id         vitals.DeviceID
	indicators []vitals.Indicator // of its model; nil: the model is not known
	bound      bool               // now
	from, to   vitals.Micros      // of the binding in force, or of the last one; from 0: as long as it is known
	created    vitals.Micros
	disabled   bool
	status     devices.Status
	lastSeen   vitals.Micros
	clock      devices.Clock
	gateways   []coverGateway // those that may speak for it now
}

// coverGateway is a gateway as far as it is needed: lost is since when, 0 while it is there.
type coverGateway struct{ lost vitals.Micros }

// coverage judges. us is since when our own evaluation is in doubt, 0 while it is not. latest has at most one reading of
// an indicator.
func coverage(now, us vitals.Micros, latest []vitals.Reading, ds []coverDevice) []web.Coverage {
	out := []web.Coverage{}
	for _, i := range vitals.Indicators() {
		var last *vitals.Reading
		for k := range latest {
			if r := &latest[k]; r.Indicator == i && !r.Revised() {
				last = r
			}
		}
		if !expected(now, i, last, latest, ds) {
			continue
		}
		c := web.Coverage{Indicator: i.String()}
		var since vitals.Micros
		if c.Why, since = uncovered(now, us, i, last, ds); c.Why == "" {
			c.Watched, since = true, last.TakenAt
		}
		if since != 0 {
			c.Since = instant(since)
		}
		out = append(out, c)
	}
	return out
}

// expected: it came within coverSeen, or a device can measure it that has sent nothing yet. What a model can and its
// user's device never sends is not expected.
func expected(now vitals.Micros, i vitals.Indicator, last *vitals.Reading, latest []vitals.Reading, ds []coverDevice) bool {
	if last != nil && last.TakenAt > now-coverSeen {
		return true
	}
	return slices.ContainsFunc(ds, func(d coverDevice) bool {
		return d.bound && slices.Contains(d.indicators, i) && !slices.ContainsFunc(latest, func(r vitals.Reading) bool {
			return r.Device == d.id && r.TakenAt > now-coverSeen && r.TakenAt >= d.from
		})
	})
}

// uncovered says why an indicator is not watched and since when; "" when it is.
func uncovered(now, us vitals.Micros, i vitals.Indicator, last *vitals.Reading, ds []coverDevice) (why string, since vitals.Micros) {
	if us != 0 {
		return whyUs, us
	}
	// Those that measure it; the one that did so last says why, when none is well.
	var sure []*coverDevice
	unbound, mayBe := vitals.Micros(0), false
	for k := range ds {
		d := &ds[k]
		sent := last != nil && last.Device == d.id
		switch {
		case !d.bound:
			if sent || slices.Contains(d.indicators, i) {
				unbound = max(unbound, d.to)
			}
		case sent:
			sure = slices.Insert(sure, 0, d)
		case slices.Contains(d.indicators, i):
			sure = append(sure, d)
		case d.indicators == nil:
			mayBe = true
		}
	}
	if len(sure) == 0 && !mayBe {
		if unbound == 0 && last != nil {
			unbound = last.TakenAt // no trace of a binding: given by hand, or erased
		}
		return whyBinding, unbound
	}
	for k, d := range sure {
		w, s := d.trouble(last)
		if w == "" {
			why = ""
			break
		}
		if k == 0 {
			why, since = w, s
		}
	}
	switch {
	case why != "":
		return why, since
	case last != nil && now-last.TakenAt <= coverAge:
		return "", 0
	case last != nil:
		return whyNoReading, last.TakenAt
	}
	d := sure[0] // nothing came yet, so its model said that it measures this
	return whyNoReading, max(d.from, d.created)
}

// trouble says why nothing that can be trusted comes from the device, "" when nothing is known against it. What was said
// of the device or its gateway does not hold once something newer came from it.
func (d *coverDevice) trouble(last *vitals.Reading) (why string, since vitals.Micros) {
	if d.disabled {
		return whyDevice, max(d.lastSeen, d.created)
	}
	gateway := vitals.Micros(0)
	for _, g := range d.gateways {
		if g.lost == 0 {
			gateway = 0
			break
		}
		gateway = max(gateway, g.lost) // the last one of them
	}
	lost := d.status.State == "lost" && d.lastSeen <= d.status.At
	switch {
	case gateway != 0 && d.lastSeen <= gateway:
		return whyGateway, gateway
	case lost:
		return whyDevice, d.status.At
	case d.clock.Trust == devices.ClockDoubtful:
		return whyClock, d.clock.Since
	case d.clock.Trust == devices.ClockOK && last != nil && last.Device == d.id && last.Freshness == vitals.Doubtful:
		return whyClock, last.ReceivedAt
	}
	return "", 0
}

// coverer finds a person's devices without looking at all of them, and knows since when we are in doubt ourselves.
type coverer struct {
	a       *App
	started time.Time
	us      atomic.Int64 // vitals.Micros; 0: all is well

	mu sync.RWMutex
	by map[vitals.PatientID][]*devices.Handle // those that measure, or once measured, for the person
}

func (a *App) newCoverer() *coverer {
	c := &coverer{a: a, started: time.Now(), by: map[vitals.PatientID][]*devices.Handle{}}
	cancel := a.devices.Subscribe(func(id vitals.DeviceID) { c.index(a.devices.Find(id)) })
	a.onStop("coverage", func(context.Context) error { cancel(); return nil })
	for h := range a.devices.All() {
		c.index(h)
	}
	return c
}

func (c *coverer) index(h *devices.Handle) {
	if h == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range h.Bindings() {
		if of := c.by[b.Patient]; !slices.Contains(of, h) {
			c.by[b.Patient] = append(slices.Clip(of), h) // readers hold the old one
		}
	}
}

// watchUs starts looking; the consumers are there.
func (c *coverer) watchUs() {
	c.a.every("coverage", time.Second, func(context.Context) error {
		c.look(time.Now())
		return nil
	})
}

// look asks whether readings are taken in and judged.
func (c *coverer) look(now time.Time) {
	since := vitals.Micros(0)
	note := func(t time.Time) {
		at := vitals.At(t)
		if t.Before(c.started) {
			at = vitals.At(c.started) // before, it was another process
		}
		if since == 0 || at < since {
			since = at
		}
	}
	if c.a.journal.Err() != nil {
		note(now)
	}
	if at := c.a.monitor.LastCycle(); now.Sub(at) > cycleWithin {
		note(at)
	}
	for _, x := range c.a.consumers {
		if x.Name() == consumerInflux {
			continue // what it writes is judged all the same
		}
		if at := x.Stalled(); !at.IsZero() && now.Sub(at) > stallAfter {
			note(at)
		}
		if age := x.Age(now); age > coverBehind.Duration() {
			note(now.Add(-age))
		}
	}
	if was := vitals.Micros(c.us.Load()); was != 0 && since != 0 {
		since = min(was, since)
	}
	c.us.Store(int64(since))
}

// Coverage is web.Deps.Coverage.
func (c *coverer) Coverage(_ context.Context, p *care.Patient, latest []vitals.Reading) ([]web.Coverage, error) {
	now := vitals.At(time.Now())
	c.mu.RLock()
	hs := c.by[p.ID]
	c.mu.RUnlock()
	ds := make([]coverDevice, 0, len(hs))
	for _, h := range hs {
		if d, ok := c.device(h, p.ID, now); ok {
			ds = append(ds, d)
		}
	}
	return coverage(now, vitals.Micros(c.us.Load()), latest, ds), nil
}

func (c *coverer) device(h *devices.Handle, p vitals.PatientID, now vitals.Micros) (d coverDevice, ok bool) {
	for _, b := range h.Bindings() {
		if b.Patient != p || b.From > now {
			continue
		}
		ok = true
		switch current := b.Covers(now); {
		case current && (!d.bound || b.From < d.from):
			d.bound, d.from, d.to = true, b.From, b.To
		case !current && !d.bound && b.To > d.to:
			d.from, d.to = b.From, b.To
		}
	}
	if !ok {
		return d, false
	}
	x := h.Device()
	d.id, d.created, d.disabled, d.status, d.lastSeen, d.clock = x.ID, x.CreatedAt, x.Disabled, x.Status, x.LastSeen, h.Clock()
	if m, known := c.a.models.Find(x.Model); known {
		d.indicators = []vitals.Indicator{}
		for _, name := range m.Indicators {
			if i, ok := vitals.ParseIndicator(name); ok {
				d.indicators = append(d.indicators, i)
			}
		}
	}
	for _, g := range h.Gateways() {
		if g.To != 0 {
			continue
		}
		var lost vitals.Micros
		if gh := c.a.devices.Find(g.Gateway); gh != nil {
			switch x := gh.Device(); {
			case x.Status.State == "lost" && x.LastSeen <= x.Status.At:
				lost = x.Status.At
			case x.Disabled:
				lost = max(x.LastSeen, x.CreatedAt)
			}
		}
		d.gateways = append(d.gateways, coverGateway{lost})
	}
	return d, true
}
