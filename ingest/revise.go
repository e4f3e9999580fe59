package ingest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// Nothing that was accepted is changed. A correction or a void adds to the journal the reading that it concerns once
// more, with the flag that it counts no more; as it has the same place in a readings store, it is found there instead of
// the one before. The new reading of a correction follows it. Both are durable together.

// Store is the part of storage.Readings that looks for what is corrected.
type Store interface {
	Cursor() uint64
	Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error]
}

// mostBehind bounds how many readings of the journal are looked through that the store has not got yet.
const mostBehind = 500_000

var errBehind = errors.New("the readings store is too far behind to look for the reading that is corrected: send it again later")

// change is a correction or a void.
type change struct {
	item    int // its place in the message
	r       vitals.Reading
	void    bool
	verdict journal.Verdict // Conflict: it is refused
	made    bool            // the verdict is there
}

func (c *change) problem() *payload.Problem {
	p := conflict(c.item)
	if c.void {
		p = payload.Problem{Code: payload.EnteredInError, Index: c.item, Offset: -1,
			Detail: "the reading that is taken back is not known here; replay this when it has come"}
	}
	return &p
}

// revise does what the changes of the batch say, and finds out which conflicts are none: the final result replaces the
// preliminary one of the same id. The rest of them goes to quarantine.
func (b *Batch) revise(ctx context.Context) error {
	var refused journal.Group
	for k := range b.spans {
		s := &b.spans[k]
		var problems []payload.Problem
		for i := s.first; i < s.last; i++ {
			if b.group.Verdicts[i] != journal.Conflict {
				continue
			}
			at := s.place(i - s.first)
			v, err := b.correct(ctx, s, at, &b.group.Readings[i], true)
			if err != nil {
				return err
			}
			if b.group.Verdicts[i] = v; v == journal.Conflict {
				problems = append(problems, conflict(at))
			}
		}
		for i := range s.changes {
			c := &s.changes[i]
			var err error
			if c.void {
				err = b.void(ctx, s, c)
			} else {
				c.verdict, err = b.correct(ctx, s, c.item, &c.r, false)
			}
			if err != nil {
				return err
			}
			if c.made = true; c.verdict == journal.Conflict {
				problems = append(problems, *c.problem())
			}
		}
		if m := &s.message; len(problems) > 0 && !b.again {
			refused.Quarantine = append(refused.Quarantine, journal.Quarantined{At: m.ReceivedAt, Device: m.Device, Format: m.Format[:min(len(m.Format), maxFormat)],
				Source: m.Source, Problems: problems, Payload: m.Payload[:min(len(m.Payload), maxKept)]})
		}
	}
	return b.p.c.Journal.Append(ctx, &refused)
}

// correct puts a reading, item at of its message, in the place of an earlier one: with preliminary of one that was said
// to be so, otherwise of whichever the reading names. A correction that was made before is a duplicate, so that a resend
// changes nothing; one that goes back to what the device had said at first is none.
func (b *Batch) correct(ctx context.Context, s *span, at int, r *vitals.Reading, preliminary bool) (journal.Verdict, error) {
	p := b.p
	p.revising.Lock()
	defer p.revising.Unlock()
	h := p.c.Devices.Find(r.Device)
	olds, err := p.named(ctx, h, r)
	if err != nil {
		return 0, err
	}
	same, err := p.standing(ctx, h, r.Patient, r.Indicator, r.TakenAt, r.TakenAt+1)
	if err != nil {
		return 0, err
	}
	place := storage.PositionOf(r)
	if i := slices.IndexFunc(same, func(o vitals.Reading) bool { return storage.PositionOf(&o) == place }); i >= 0 {
		if preliminary || !goesBack(&same[i], r, olds) {
			return journal.Duplicate, nil
		}
	}
	var g journal.Group
	for i := range olds {
		old := &olds[i]
		if preliminary && (old.Extra == nil || !slices.Contains(strings.Split(old.Extra.OtherFlags, ","), "preliminary")) {
			return journal.Conflict, nil
		}
		g.Replace = true
		if old.Flags&vitals.Replaced == 0 {
			g.Readings = append(g.Readings, revised(old, vitals.Superseded, `{"superseded_by":"`+r.ID()+`"}`))
		}
	}
	if preliminary && !g.Replace {
		return journal.Conflict, nil
	}
	b.keepRevised(&g, &s.message, h)
	g.Readings = append(g.Readings, *r)
	n := len(g.Readings)
	if p.c.Evidence {
		b.keepIn(&g, &s.message, h, s.clock, n-1, n, []int{at})
	}
	if err := p.c.Journal.Append(ctx, &g); err != nil {
		return 0, err
	}
	r.Seq = g.Readings[n-1].Seq
	return g.Verdicts[n-1], nil
}

// goesBack reports whether the correction r returns to old: superseded, the first that was said under this id, and others
// stand in its place now. What had come as a correction itself may be a resend of that, and stays superseded; so does
// what was voided.
func goesBack(old, r *vitals.Reading, olds []vitals.Reading) bool {
	var was, is vitals.Extra
	if old.Extra != nil {
		was = *old.Extra
	}
	if r.Extra != nil {
		is = *r.Extra
	}
	correction := slices.ContainsFunc(strings.Split(was.OtherFlags, ","), func(f string) bool { return f == "amended" || f == "corrected" })
	return old.Flags&vitals.Replaced == vitals.Superseded && was.DeviceReadingID == is.DeviceReadingID && !correction &&
		slices.ContainsFunc(olds, func(o vitals.Reading) bool { return o.Flags&vitals.Replaced == 0 })
}

// void takes back what a void names; the verdict is Conflict when there is no such reading.
func (b *Batch) void(ctx context.Context, s *span, c *change) error {
	p := b.p
	h := p.c.Devices.Find(c.r.Device)
	p.revising.Lock()
	defer p.revising.Unlock()
	olds, err := p.named(ctx, h, &c.r)
	if err != nil {
		return err
	}
	if c.verdict = journal.Conflict; len(olds) > 0 {
		c.verdict = journal.Duplicate
	}
	why := string(append(vitals.AppendTime([]byte(`{"voided_at":"`), c.r.ReceivedAt), `"}`...))
	var g journal.Group
	for i := range olds {
		if c.r = olds[i]; c.r.Flags&vitals.Voided == 0 {
			g.Readings = append(g.Readings, revised(&c.r, vitals.Voided, why))
		}
	}
	if len(g.Readings) == 0 {
		return nil
	}
	b.keepRevised(&g, &s.message, h)
	if err := p.c.Journal.Append(ctx, &g); err != nil {
		return err
	}
	c.r, c.verdict = g.Readings[len(g.Readings)-1], journal.New
	s.beyond += len(g.Readings) - 1
	return nil
}

// revised is a reading that counts no more.
func revised(r *vitals.Reading, flag vitals.Flags, why string) vitals.Reading {
	c := *r
	var x vitals.Extra
	if r.Extra != nil {
		x = *r.Extra
	}
	x.Revision = why
	c.Extra, c.Seq, c.Quality = &x, 0, vitals.Invalid
	c.Flags |= flag
	return c
}

// revisedFormat is, in evidence, the format of readings that count no more, and of failed measurements: themselves,
// encoded, with sequence 0. No device can send it.
const revisedFormat = "revised"

// keepRevised adds what the readings of the group, all of them revised, are built again from.
func (b *Batch) keepRevised(g *journal.Group, m *Message, h *devices.Handle) {
	if !b.p.c.Evidence || len(g.Readings) == 0 {
		return
	}
	x := Message{Device: m.Device, Gateway: m.Gateway, Format: revisedFormat, Source: m.Source, ReceivedAt: m.ReceivedAt}
	for i := range g.Readings {
		x.Payload = vitals.AppendReading(x.Payload, &g.Readings[i])
	}
	b.keepIn(g, &x, h, evidence.Clock{}, 0, len(g.Readings), nil)
}

// named returns, as they stand now, the earlier readings that a correction or void names: by id or, without one, by
// indicator and time. One FHIR Observation may be several readings, which a void names by one id.
func (p *Pipeline) named(ctx context.Context, h *devices.Handle, r *vitals.Reading) (olds []vitals.Reading, err error) {
	if r.Extra == nil || r.Extra.DeviceReadingID == "" {
		if r.Indicator == 0 || r.TakenAt == 0 {
			return nil, nil
		}
		from := wholeSecond(r.TakenAt)
		rs, err := p.standing(ctx, h, r.Patient, r.Indicator, from, from+vitals.Second)
		if err != nil {
			return nil, err
		}
		var best *vitals.Reading
		for i := range rs {
			o := &rs[i]
			if o.TakenAt != r.TakenAt && o.TakenAt != from && r.TakenAt != from {
				continue // another fraction of the second
			}
			if best == nil || betterTarget(o, best, r) {
				best = o
			}
		}
		if best == nil {
			return nil, nil
		}
		return []vitals.Reading{*best}, nil
	}
	id := r.Extra.DeviceReadingID
	ids := []string{id}
	if r.Has == 0 {
		for _, i := range vitals.Indicators() {
			ids = append(ids, id+"/"+i.String())
		}
	}
	for _, id := range ids {
		place, ok, err := p.c.Journal.FindID(r.Device, id)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		rs, err := p.standing(ctx, h, r.Patient, place.Indicator, place.TakenAt, place.TakenAt+1)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(rs, func(o vitals.Reading) bool { return place.Is(&o) }); i >= 0 {
			olds = append(olds, rs[i])
		}
	}
	return olds, nil
}

// betterTarget prefers what counts, then the exact time, then what came last.
func betterTarget(a, b, r *vitals.Reading) bool {
	if x, y := a.Flags&vitals.Replaced == 0, b.Flags&vitals.Replaced == 0; x != y {
		return x
	}
	if x, y := a.TakenAt == r.TakenAt, b.TakenAt == r.TakenAt; x != y {
		return x
	}
	return a.Seq > b.Seq
}

func wholeSecond(m vitals.Micros) vitals.Micros {
	s := m - m%vitals.Second
	if s > m { // before 1970
		s -= vitals.Second
	}
	return s
}

// standing returns a device's readings of an indicator in [from, to), each as it stands now: those of everybody for whom
// the device ever measured, and of one person more ("" for none). What was accepted before the call is there.
func (p *Pipeline) standing(ctx context.Context, h *devices.Handle, patient vitals.PatientID, ind vitals.Indicator, from, to vitals.Micros) ([]vitals.Reading, error) {
	var people []vitals.PatientID
	if patient != "" {
		people = append(people, patient)
	}
	for _, b := range h.Bindings() {
		if !slices.Contains(people, b.Patient) {
			people = append(people, b.Patient)
		}
	}
	var rs []vitals.Reading
	add := func(r *vitals.Reading) {
		if r.Failed() || r.Device != h.ID() || r.Indicator != ind || r.TakenAt < from || r.TakenAt >= to {
			return
		}
		place := storage.PositionOf(r)
		i := slices.IndexFunc(rs, func(o vitals.Reading) bool { return o.Patient == r.Patient && storage.PositionOf(&o) == place })
		switch {
		case i < 0:
			rs = append(rs, *r)
		case rs[i].Seq < r.Seq:
			rs[i] = *r
		}
	}
	var after uint64
	last := p.c.Journal.Last()
	if p.c.Store != nil {
		if after = p.c.Store.Cursor(); last > after+mostBehind {
			return nil, errBehind
		}
		for _, id := range people {
			q := storage.Query{Patient: id, Indicator: ind, From: from, To: to}
			for r, err := range p.c.Store.Range(ctx, q) {
				if err != nil {
					return nil, fmt.Errorf("look for the reading that is corrected: %w", err)
				}
				add(&r)
			}
		}
	}
	for after < last {
		b, err := p.c.Journal.Next(ctx, after)
		if err != nil {
			return nil, fmt.Errorf("look for the reading that is corrected: %w", err)
		}
		for i := range b.Readings {
			add(&b.Readings[i])
		}
		after += uint64(len(b.Readings))
	}
	return rs, nil
}
