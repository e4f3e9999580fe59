package devices

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"vitalwatch/vitals"
)

// Bound lists the devices that measure for a patient, or did: those that never measured for anybody else, and those
// that did.
func (r *Registry) Bound(p vitals.PatientID) (own, shared []vitals.DeviceID) {
	for h := range r.All() {
		mine, others := false, false
		for _, b := range h.Bindings() {
			mine = mine || b.Patient == p
			others = others || b.Patient != p
		}
		switch {
		case mine && others:
			shared = append(shared, h.ID())
		case mine:
			own = append(own, h.ID())
		}
	}
	return own, shared
}

// Forget removes every binding of a patient and what failed last on their devices, and cuts off the devices that measured
// for nobody else: they may hold readings of that person and would send them again. An operator lets such a device in
// again once it was reset.
func (r *Registry) Forget(ctx context.Context, p vitals.PatientID) error {
	own, shared := r.Bound(p)
	if len(own)+len(shared) == 0 {
		return nil
	}
	all := slices.Concat(own, shared)
	r.flushMu.Lock()
	defer r.flushMu.Unlock()
	err := r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		for _, id := range all {
			if _, err := tx.ExecContext(ctx, `UPDATE devices SET rev = $2 WHERE id = $1`, id, rev); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM device_faults WHERE device_id = $1`, id); err != nil {
				return err
			}
		}
		for _, id := range own {
			if _, err := tx.ExecContext(ctx, `UPDATE devices SET disabled_at = $2 WHERE id = $1 AND disabled_at = 0`, id, now); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM device_reading_owners WHERE patient_id = $1`, p); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM device_bindings WHERE patient_id = $1`, p)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget the devices of a patient: %w", err)
	}
	for _, id := range all {
		r.Find(id).forgetFailure()
	}
	return nil
}
