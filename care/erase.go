package care

import (
	"context"
	"database/sql"
	"fmt"

	"vitalwatch/vitals"
)

// Erase takes everything that says something about a person out of their record: name, conditions with their history,
// teams, personal thresholds. The id stays, so that nobody else is given it.
func (r *Registry) Erase(ctx context.Context, id vitals.PatientID) error {
	err := r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, _ vitals.Micros) error {
		old, err := r.readOne(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := updatePatient(ctx, tx, &Patient{ID: id, CreatedAt: old.CreatedAt}, rev); err != nil {
			return err
		}
		for _, statement := range []string{`DELETE FROM care_conditions WHERE patient_id = $1`,
			`DELETE FROM care_patient_teams WHERE patient_id = $1`, `DELETE FROM care_overrides WHERE patient_id = $1`} {
			if _, err := tx.ExecContext(ctx, statement, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("erase patient %s: %w", id, err)
	}
	return nil
}
