package care

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"vitalwatch/vitals"
)

// insertPatient reports false when the id is taken.
func insertPatient(ctx context.Context, tx *sql.Tx, p *Patient, rev int64) (bool, error) {
	res, err := tx.ExecContext(ctx, `INSERT INTO care_patients (id, name, tz, language, created_at, rev)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`, p.ID, p.Name, p.TZ, p.Language, p.CreatedAt, rev)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func updatePatient(ctx context.Context, tx *sql.Tx, p *Patient, rev int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE care_patients SET name = $2, tz = $3, language = $4, rev = $5 WHERE id = $1`,
		p.ID, p.Name, p.TZ, p.Language, rev)
	return err
}

// writeConditions closes the periods of conditions that are gone and opens those that are new.
func writeConditions(ctx context.Context, tx *sql.Tx, id vitals.PatientID, old, now []string, at vitals.Micros) error {
	for _, c := range old {
		if slices.Contains(now, c) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `UPDATE care_conditions SET valid_to = $3
			WHERE patient_id = $1 AND condition_id = $2 AND valid_to = 0`, id, c, at); err != nil {
			return err
		}
	}
	for _, c := range now {
		if slices.Contains(old, c) {
			continue
		}
		// The same microsecond as a period just closed can only be a test's clock; it then goes on.
		if _, err := tx.ExecContext(ctx, `INSERT INTO care_conditions (patient_id, condition_id, valid_from, valid_to)
			VALUES ($1, $2, $3, 0) ON CONFLICT (patient_id, condition_id, valid_from) DO UPDATE SET valid_to = 0`, id, c, at); err != nil {
			return err
		}
	}
	return nil
}

func writeTeams(ctx context.Context, tx *sql.Tx, id vitals.PatientID, old, now []string, rev int64, at vitals.Micros) error {
	for _, t := range old {
		if slices.Contains(now, t) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM care_patient_teams WHERE patient_id = $1 AND team_id = $2`, id, t); err != nil {
			return err
		}
	}
	for _, t := range now {
		if slices.Contains(old, t) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO care_teams (id, name, created_at, rev) VALUES ($1, $1, $2, $3)
			ON CONFLICT (id) DO NOTHING`, t, at, rev); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO care_patient_teams (patient_id, team_id) VALUES ($1, $2)`, id, t); err != nil {
			return err
		}
	}
	return nil
}

// readSince reads all that changed after r.rev, within one snapshot. wmu is held.
func (r *Registry) readSince(ctx context.Context, tx *sql.Tx) (delta, error) {
	d := delta{rev: r.rev}
	if err := tx.QueryRowContext(ctx, `SELECT rev FROM care_revision`).Scan(&d.rev); err != nil {
		return d, err
	}
	if d.rev == r.rev {
		return d, nil
	}
	var err error
	d.patients, err = r.readPatients(ctx, tx, `rev > $1`, r.rev)
	if err != nil {
		return d, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT id, name, created_at FROM care_teams WHERE rev > $1 ORDER BY id`, r.rev)
	if err != nil {
		return d, err
	}
	defer rows.Close()
	for rows.Next() {
		var t Team
		if err := rows.Scan(&t.ID, &t.Name, &t.CreatedAt); err != nil {
			return d, err
		}
		d.teams = append(d.teams, t)
	}
	return d, rows.Err()
}

func (r *Registry) readOne(ctx context.Context, tx *sql.Tx, id vitals.PatientID) (*Patient, error) {
	ps, err := r.readPatients(ctx, tx, `id = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("read patient %s: %w", id, err)
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return ps[0], nil
}

// readPatients reads the patients that a fixed condition with one argument selects, by id. Binary collation orders
// ids as Go does.
func (r *Registry) readPatients(ctx context.Context, tx *sql.Tx, where string, arg any) ([]*Patient, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, name, tz, language, created_at FROM care_patients WHERE `+where+` ORDER BY id`, arg)
	if err != nil {
		return nil, err
	}
	var out []*Patient
	var zoneName string
	var loc *time.Location
	for rows.Next() {
		p := new(Patient)
		if err := rows.Scan(&p.ID, &p.Name, &p.TZ, &p.Language, &p.CreatedAt); err != nil {
			rows.Close()
			return nil, err
		}
		p.TZ, p.Language = r.text(p.TZ), r.text(p.Language)
		if p.TZ != "" {
			if p.TZ != zoneName {
				// A zone that a newer binary knew and this one does not gives nil: local times are then refused.
				zoneName = p.TZ
				loc, _ = r.zone(p.TZ)
			}
			p.loc = loc
		}
		out = append(out, p)
	}
	rows.Close()
	if err := rows.Err(); err != nil || len(out) == 0 {
		return nil, err
	}
	sub := `(SELECT id FROM care_patients WHERE ` + where + `)`
	if err := attach(ctx, tx, out, func(p *Patient, list []string) { p.Conditions = r.list(list) },
		`SELECT patient_id, condition_id FROM care_conditions WHERE valid_to = 0 AND patient_id IN `+sub+` ORDER BY patient_id, condition_id`, arg); err != nil {
		return nil, err
	}
	if err := attach(ctx, tx, out, func(p *Patient, list []string) { p.Teams = r.list(list) },
		`SELECT patient_id, team_id FROM care_patient_teams WHERE patient_id IN `+sub+` ORDER BY patient_id, team_id`, arg); err != nil {
		return nil, err
	}
	return out, r.readOverrides(ctx, tx, out, sub, arg)
}

// zone loads a location once per name, because each load allocates kilobytes.
func (r *Registry) zone(name string) (*time.Location, error) {
	if l, ok := r.zones[name]; ok {
		return l, nil
	}
	l, err := zone(name)
	if err == nil {
		r.zones[name] = l
	}
	return l, err
}

// attach walks two lists ordered by patient side by side.
func attach(ctx context.Context, tx *sql.Tx, ps []*Patient, set func(*Patient, []string), query string, arg any) error {
	rows, err := tx.QueryContext(ctx, query, arg)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	var list []string
	done := func() {
		if len(list) > 0 {
			set(ps[i], list)
			list = list[:0]
		}
	}
	for rows.Next() {
		var id vitals.PatientID
		var s string
		if err := rows.Scan(&id, &s); err != nil {
			return err
		}
		for ps[i].ID != id {
			done()
			i++
		}
		list = append(list, s)
	}
	done()
	return rows.Err()
}

func (r *Registry) readOverrides(ctx context.Context, tx *sql.Tx, ps []*Patient, sub string, arg any) error {
	now := vitals.At(r.Now())
	rows, err := tx.QueryContext(ctx, `SELECT patient_id, rule_id, severity, unit, value, author, reason, valid_from, valid_until
		FROM care_overrides WHERE patient_id IN `+sub+` ORDER BY patient_id, valid_from, rule_id, severity, unit`, arg)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	for rows.Next() {
		var id vitals.PatientID
		var unit string
		var o Override
		if err := rows.Scan(&id, &o.Rule, &o.Severity, &unit, &o.Value, &o.By, &o.Why, &o.From, &o.Until); err != nil {
			return err
		}
		if o.Until != 0 && o.Until <= now {
			continue
		}
		var ok bool
		if o.Unit, ok = vitals.ParseUnit(unit); !ok {
			return fmt.Errorf("override of %s for %s: unit %q is unknown to this binary: run the newer vitalwatch", o.Rule, id, unit)
		}
		for ps[i].ID != id {
			i++
		}
		ps[i].Overrides = append(ps[i].Overrides, o)
	}
	return rows.Err()
}
