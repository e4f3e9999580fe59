package devices

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"vitalwatch/vitals"
)

// Bounds of the status history: per device in the table, and in memory until the next flush.
const (
	historyKeep    = 1000
	historyAge     = 90 * 24 * time.Hour
	historyWaiting = 64
	// batteryStep is how many percent the battery must have moved to be a change of its own.
	batteryStep = 10
)

// history is what happened to a device's status and is not in the table yet, oldest first.
type history struct {
	mu      sync.Mutex
	waiting []Status
	last    *Status // the newest entry, in the table or not; nil: not known
}

// StatusChange is one entry of a device's status history.
type StatusChange struct {
	ID int64 // newer ones are larger
	Status
}

// Status takes a payload of a device's up/status in. It is seen at once and written to the tables in the next flush.
// Errors wrap ErrNotFound or ErrStatusInvalid.
func (r *Registry) Status(_ context.Context, id vitals.DeviceID, payload []byte, at vitals.Micros) error {
	h := r.Find(id)
	if h == nil {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	s, err := ParseStatus(payload)
	if err != nil {
		return err
	}
	h.SetStatus(s, at)
	return nil
}

// SetStatus notes a status that came at an instant, 0 when nobody knows how old it is, as with a copy that a broker
// retained. What the new one does not say, such as the firmware in a will, stays as it was.
func (h *Handle) SetStatus(s Status, at vitals.Micros) {
	s.At = at
	x := &h.needRare().history
	x.mu.Lock()
	old := h.status.Load()
	if old != nil {
		if at == 0 && s.State == old.State {
			s.At = old.At
		}
		if s.Battery < 0 {
			s.Battery = old.Battery
		}
		s.Firmware = cmp.Or(s.Firmware, old.Firmware)
	}
	h.status.Store(&s)
	x.note(s, cmp.Or(x.last, old))
	x.mu.Unlock()
	if at != 0 && s.State != "lost" { // A will comes from the server, not from the device.
		h.Seen(at)
	}
}

// note keeps a change against the entry before; mu is held.
func (x *history) note(s Status, before *Status) {
	if before != nil && s.State == before.State && s.Firmware == before.Firmware && (s.Battery < 0 || before.Battery >= 0 && abs(s.Battery-before.Battery) < batteryStep) {
		return
	}
	if len(x.waiting) == historyWaiting { // It flaps: the newest say as much.
		x.waiting = slices.Delete(x.waiting, 0, 1)
	}
	x.waiting = append(x.waiting, s)
	x.last = &s
}

func abs(n int8) int8 { return max(n, -n) }

// takeHistory empties what waits.
func (h *Handle) takeHistory() []Status {
	r := h.rare.Load()
	if r == nil {
		return nil
	}
	x := &r.history
	x.mu.Lock()
	defer x.mu.Unlock()
	w := x.waiting
	x.waiting = nil
	return w
}

// putBack undoes a take that could not be written.
func (x *history) putBack(w []Status) {
	x.mu.Lock()
	defer x.mu.Unlock()
	w = append(w, x.waiting...)
	x.waiting = w[max(0, len(w)-historyWaiting):]
}

// StatusHistory lists the changes of a device's status within [from, to), newest first: at most limit of those with an
// id below before, 0 for the newest; from and to 0: no bound. Changes of the last seconds may not be there yet: Device
// says what is.
func (r *Registry) StatusHistory(ctx context.Context, id vitals.DeviceID, from, to vitals.Micros, before int64, limit int) ([]StatusChange, error) {
	if r.Find(id) == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	rows, err := r.db.Reader().QueryContext(ctx, `SELECT id, at, state, battery, firmware FROM device_status_history
		WHERE device_id = $1 AND ($2 = 0 OR id < $2) AND at >= $3 AND ($4 = 0 OR at < $4) ORDER BY id DESC LIMIT $5`, id, before, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("read the status history of %s: %w", id, err)
	}
	defer rows.Close()
	var out []StatusChange
	for rows.Next() {
		var c StatusChange
		if err := rows.Scan(&c.ID, &c.At, &c.State, &c.Battery, &c.Firmware); err != nil {
			return nil, fmt.Errorf("read the status history of %s: %w", id, err)
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// How often Run writes status and last seen, how far last seen must move to be worth it, how often it removes old
// history, and how many devices go into one transaction, so that alerts never wait long for the writer.
const (
	flushEvery = 10 * time.Second
	seenGrain  = vitals.Minute
	pruneEvery = time.Hour
	pruneGroup = 5000
	flushGroup = 500
)

// Run writes status and last seen to the tables now and then, and a last time when ctx ends; it also looks whose
// credentials have ended. It returns the error of that last time; earlier ones are given to report and tried again.
func (r *Registry) Run(ctx context.Context, report func(error)) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	r.EndSessions() // from now on
	var pruned time.Time
	for {
		select {
		case <-tick.C:
			r.EndSessions()
			err := r.flush(ctx, seenGrain)
			if err == nil && r.Now().Sub(pruned) >= pruneEvery {
				pruned = r.Now()
				err = r.PruneHistory(ctx)
			}
			if err != nil && ctx.Err() == nil {
				report(err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return r.Flush(last)
		}
	}
}

// Flush writes every status and last seen that the tables do not have yet.
func (r *Registry) Flush(ctx context.Context) error { return r.flush(ctx, 1) }

func (r *Registry) flush(ctx context.Context, grain vitals.Micros) error {
	r.flushMu.Lock()
	defer r.flushMu.Unlock()
	type entry struct {
		h       *Handle
		status  *Status
		seen    vitals.Micros
		changes []Status
		clock   *Clock // to be written, where reclock
		reclock bool
		failure *Failure // to be written, where fail
		fail    bool
	}
	var todo []entry
	for h := range r.All() {
		e := entry{h: h, status: h.status.Load(), seen: vitals.Micros(h.lastSeen.Load())}
		e.clock, e.reclock = h.clockToSave()
		e.failure, e.fail = h.failureToSave()
		if e.status != h.savedStatus || e.seen >= h.savedSeen+grain || e.reclock || e.fail {
			todo = append(todo, e)
		}
	}
	now := vitals.At(r.Now())
	for group := range slices.Chunk(todo, flushGroup) {
		for i := range group {
			group[i].changes = group[i].h.takeHistory()
		}
		err := r.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			for _, e := range group {
				s := Status{Battery: -1}
				if e.status != nil {
					s = *e.status
				}
				if err := upsertStatus(ctx, tx, e.h.id, s, e.seen); err != nil {
					return err
				}
				if e.reclock {
					if err := saveClock(ctx, tx, e.h.id, e.clock); err != nil {
						return err
					}
				}
				if e.fail {
					if err := saveFailure(ctx, tx, e.h.id, e.failure); err != nil {
						return err
					}
				}
				if err := appendHistory(ctx, tx, e.h.id, e.changes, now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			for _, e := range group {
				e.h.needRare().history.putBack(e.changes)
			}
			return fmt.Errorf("write device status: %w", err)
		}
		for _, e := range group {
			e.h.savedStatus, e.h.savedSeen = e.status, e.seen
			if e.reclock {
				e.h.needRare().clock.saved = e.clock
			}
			if e.fail {
				e.h.needRare().savedFailure = e.failure
			}
		}
	}
	return nil
}

// appendHistory writes changes and keeps the device's part of the table within its bound.
func appendHistory(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, changes []Status, now vitals.Micros) error {
	if len(changes) == 0 {
		return nil
	}
	for _, s := range changes {
		if _, err := tx.ExecContext(ctx, `INSERT INTO device_status_history (device_id, at, state, battery, firmware) VALUES ($1, $2, $3, $4, $5)`,
			id, cmp.Or(s.At, now), s.State, s.Battery, s.Firmware); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM device_status_history WHERE device_id = $1 AND id <=
		(SELECT id FROM device_status_history WHERE device_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)`, id, historyKeep)
	return err
}

// PruneHistory removes what is older than 90 days. Run does it every hour.
func (r *Registry) PruneHistory(ctx context.Context) error {
	before := vitals.At(r.Now()).Add(-historyAge)
	for {
		var n int64
		err := r.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM device_status_history WHERE id IN
				(SELECT id FROM device_status_history WHERE at < $1 LIMIT $2)`, before, pruneGroup)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return fmt.Errorf("remove old device status: %w", err)
		}
		if n < pruneGroup {
			return nil
		}
	}
}
