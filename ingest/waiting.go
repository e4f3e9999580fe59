package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// Waiting is one refused reading that lacks an owner.
type Waiting struct {
	Message uint64 // quarantine id of the message
	// Problem is payload.DeviceUnknown, PatientUnknown or OwnerDoubtful; "" when the reading has an owner by now and a
	// replay of its message takes it in.
	Problem string
	// Reading is what could be read: Patient is the owner that is doubtful, or that it has by now. For a device that
	// nobody knows and a format that needs its zone it may be empty but for Device.
	Reading    vitals.Reading
	At, LastAt vitals.Micros // of the message
	Times      int
}

// Bounds of one look: messages without owner, and refused messages of all kinds. What is beyond is older.
const (
	maxWaiting  = 2000
	maxLookedAt = 20_000
)

// Waiting lists what waits for an owner, the newest message first. more says that there are older ones that were not
// looked at.
func (p *Pipeline) Waiting(ctx context.Context, list func(ctx context.Context, limit int, cursor uint64) ([]journal.Quarantined, uint64, error)) (ws []Waiting, more bool, err error) {
	b := p.NewBatch()
	messages, seen, cursor := 0, 0, uint64(0)
	for {
		qs, next, err := list(ctx, 500, cursor)
		if err != nil {
			return nil, false, err
		}
		for i := range qs {
			if !slices.ContainsFunc(qs[i].Problems, lacksOwner) {
				continue
			}
			if messages++; messages > maxWaiting {
				return ws, true, nil
			}
			if ws, err = p.waiting(b, qs[i].ID, ws); err != nil && !errors.Is(err, journal.ErrNotQuarantined) { // it was replayed meanwhile
				return nil, false, err
			}
		}
		if seen += len(qs); next == 0 || seen >= maxLookedAt {
			return ws, next != 0, nil
		}
		cursor = next
	}
}

// WaitingIn lists what waits for an owner in one message. journal.ErrNotQuarantined says that there is no such item.
func (p *Pipeline) WaitingIn(id uint64) ([]Waiting, error) { return p.waiting(p.NewBatch(), id, nil) }

func lacksOwner(x payload.Problem) bool {
	return x.Code == payload.DeviceUnknown || x.Code == payload.PatientUnknown || x.Code == payload.OwnerDoubtful
}

// waiting judges a message again, without taking it in, and appends what lacks an owner, or lacked one.
func (p *Pipeline) waiting(b *Batch, id uint64, ws []Waiting) ([]Waiting, error) {
	q, err := p.c.Journal.QuarantineGet(id)
	if err != nil {
		return ws, fmt.Errorf("quarantined item %d: %w", id, err)
	}
	w := Waiting{Message: id, At: q.At, LastAt: q.LastAt, Times: q.Times}
	if p.c.Devices.Find(q.Device) == nil {
		w.Problem = payload.DeviceUnknown
		items, err := payload.Decode(q.Format, payload.Input{Payload: q.Payload, ReceivedAt: q.At}, nil)
		before := len(ws)
		for i := range items {
			if items[i].Problem == nil {
				w.Reading = items[i].Reading
				w.Reading.Device, w.Reading.ReceivedAt = q.Device, q.At
				ws = append(ws, w)
			}
		}
		if err != nil || len(ws) == before {
			w.Reading = vitals.Reading{Device: q.Device, ReceivedAt: q.At}
			ws = append(ws, w)
		}
		return ws, nil
	}
	defer b.Reset()
	b.items, b.judgeAt = b.items[:0], p.replayAt(&q)
	b.Add(replayed(&q))
	if b.err != nil {
		return ws, b.err
	}
	now := map[int]*payload.Problem{}
	problems := b.spans[0].problems
	for i := range problems {
		now[problems[i].Index] = &problems[i]
	}
	for i := range b.items {
		w.Problem, w.Reading = "", b.items[i].Reading
		switch x := now[i]; {
		case x != nil && lacksOwner(*x):
			w.Problem = x.Code
			if x.Code == payload.PatientUnknown {
				w.Reading.Patient = ""
			}
		case x != nil || !lackedOwner(&q, i):
			continue
		}
		ws = append(ws, w)
	}
	return ws, nil
}

// lackedOwner reports whether item i of a message was refused because it had no owner. Quarantine keeps the first
// problems only; beyond them nobody knows, and an item that is fine now may have been taken in then.
func lackedOwner(q *journal.Quarantined, i int) bool {
	return slices.ContainsFunc(q.Problems, func(x payload.Problem) bool {
		return lacksOwner(x) && (x.Index == i || x.Code == payload.DeviceUnknown)
	})
}

// replayAt is the instant at which a replayed message is judged: what is accepted then is never live.
func (p *Pipeline) replayAt(q *journal.Quarantined) vitals.Micros {
	return max(vitals.At(p.c.Now()), q.At.Add(vitals.LiveWindow+time.Second))
}

// replayed is the message as it came.
func replayed(q *journal.Quarantined) Message {
	return Message{Device: q.Device, Format: q.Format, Source: "replay", Payload: q.Payload, ReceivedAt: q.At}
}
