package devices

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"

	"vitalwatch/vitals"
)

// given are the readings whose owner a person has said, by what a resend has in common with the first.
type given struct {
	mu sync.RWMutex
	to map[readingKey]vitals.PatientID
}

type readingKey struct {
	device vitals.DeviceID
	taken  vitals.Micros
	hash   uint64
}

// Given returns to whom a person has given a reading, by Give. It is asked only about readings that would be refused.
func (r *Registry) Given(device vitals.DeviceID, takenAt vitals.Micros, hash uint64) (vitals.PatientID, bool) {
	r.given.mu.RLock()
	p, ok := r.given.to[readingKey{device, takenAt, hash}]
	r.given.mu.RUnlock()
	if ok {
		_, ok = r.people.Find(p) // or the person was erased
	}
	return p, ok
}

// Give says whose some readings are, whatever the bindings say: those that waited for an owner. It is durable when it
// returns; the readings are then replayed, and resends go the same way. Once said it stays so: a reading that is stored
// never moves. by says who decided.
func (r *Registry) Give(ctx context.Context, patient vitals.PatientID, by string, readings []vitals.Reading) error {
	if err := r.needPatient(ctx, patient); err != nil {
		return err
	}
	now := vitals.At(r.Now())
	err := r.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for i := range readings {
			x := &readings[i]
			if _, err := tx.ExecContext(ctx, `INSERT INTO device_reading_owners (device_id, taken_at, hash, patient_id, assigned_by, assigned_at)
				VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (device_id, taken_at, hash) DO NOTHING`,
				x.Device, x.TakenAt, int64(x.ContentHash()), patient, by, now); err != nil {
				return fmt.Errorf("give a reading of %s: %w", x.Device, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.given.mu.Lock()
	defer r.given.mu.Unlock()
	for i := range readings {
		x := &readings[i]
		k := readingKey{x.Device, x.TakenAt, x.ContentHash()}
		if _, ok := r.given.to[k]; !ok {
			r.given.to[k] = patient
		}
	}
	return nil
}

// readGiven runs once, before anybody else has the registry.
func (r *Registry) readGiven(ctx context.Context) error {
	r.given.to = map[readingKey]vitals.PatientID{}
	rows, err := r.db.Reader().QueryContext(ctx, `SELECT device_id, taken_at, hash, patient_id FROM device_reading_owners`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k readingKey
		var hash int64
		var p vitals.PatientID
		if err := rows.Scan(&k.device, &k.taken, &hash, &p); err != nil {
			return err
		}
		k.hash = uint64(hash)
		r.given.to[k] = p
	}
	return rows.Err()
}

// BindGap makes a slot measure for a patient during the time around an instant in which it measured for nobody: from
// that instant, but not into anybody's period, to the next binding, or open. Nothing that had an owner changes hands.
func (r *Registry) BindGap(ctx context.Context, id vitals.DeviceID, slot uint8, patient vitals.PatientID, from vitals.Micros) error {
	if err := r.needPatient(ctx, patient); err != nil {
		return err
	}
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		old, err := readBindings(ctx, tx, id)
		if err != nil {
			return fmt.Errorf("bind device %s: %w", id, err)
		}
		n := Binding{Patient: patient, UserSlot: slot, From: from}
		for i := range old {
			b := &old[i]
			if b.UserSlot != slot && b.UserSlot != 0 {
				continue
			}
			if b.Covers(from) {
				return fmt.Errorf("%w: slot %d of device %s measured for somebody then; replay its readings", ErrConflict, slot, id)
			}
			if b.From > from && (n.To == 0 || b.From < n.To) {
				n.To = b.From
			}
		}
		if from <= 0 {
			return fmt.Errorf("%w: a binding cannot start before 1970", ErrInvalid)
		}
		if slices.ContainsFunc(old, func(b Binding) bool { return b.UserSlot == slot && b.From == from }) {
			return fmt.Errorf("%w: slot %d of device %s has a binding that starts then", ErrConflict, slot, id)
		}
		if err := insertBinding(ctx, tx, id, n, now); err != nil {
			return err
		}
		if n.To != 0 {
			return endBinding(ctx, tx, id, n, n.To)
		}
		return nil
	})
}
