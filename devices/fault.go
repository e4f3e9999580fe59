package devices

import (
	"context"
	"database/sql"

	"vitalwatch/vitals"
)

// Failure is the last measurement of which a device said that it failed. It is there for whoever looks at the device,
// bound to a person or not; what it means for a person is an alert.
type Failure struct {
	At        vitals.Micros // of the measurement, by the device; 0: it never said so
	Indicator vitals.Indicator
	vitals.DeviceFault
}

// NoteFailure notes a failed measurement, unless a later one is known. It is seen at once and written to the tables in
// the next flush.
func (h *Handle) NoteFailure(f Failure) {
	x := &h.needRare().failure
	for {
		old := x.Load()
		if old != nil && (old.At > f.At || *old == f) {
			return
		}
		if x.CompareAndSwap(old, &f) {
			return
		}
	}
}

// LastFailure returns the newest failure, the zero one when there was none.
func (h *Handle) LastFailure() Failure {
	if x := h.rare.Load(); x != nil {
		if f := x.failure.Load(); f != nil {
			return *f
		}
	}
	return Failure{}
}

// Model returns what the record says of the model.
func (h *Handle) Model() string { return h.record.Load().model }

// forgetFailure is for when the table has forgotten. flushMu is held.
func (h *Handle) forgetFailure() {
	if x := h.rare.Load(); x != nil {
		x.failure.Store(nil)
		x.savedFailure = nil
	}
}

// failureToSave returns what the table lacks. flushMu is held.
func (h *Handle) failureToSave() (f *Failure, differs bool) {
	x := h.rare.Load()
	if x == nil {
		return nil, false
	}
	f = x.failure.Load()
	return f, f != x.savedFailure
}

func saveFailure(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, f *Failure) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO device_faults (device_id, at, indicator, class, code) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (device_id) DO UPDATE SET at = $2, indicator = $3, class = $4, code = $5`, id, f.At, f.Indicator.String(), f.Class, f.Code)
	return err
}

// readFailures fills in what the table knows.
func (r *Registry) readFailures(ctx context.Context) error {
	rows, err := r.db.Reader().QueryContext(ctx, `SELECT device_id, at, indicator, class, code FROM device_faults`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id vitals.DeviceID
		var indicator string
		var f Failure
		if err := rows.Scan(&id, &f.At, &indicator, &f.Class, &f.Code); err != nil {
			return err
		}
		f.Indicator, _ = vitals.ParseIndicator(indicator)
		if h := r.Find(id); h != nil {
			x := h.needRare()
			x.failure.Store(&f)
			x.savedFailure = &f
		}
	}
	return rows.Err()
}
