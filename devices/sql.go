package devices

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"vitalwatch/vitals"
)

// insertDevice reports false when the id is taken.
func insertDevice(ctx context.Context, tx *sql.Tx, d *Device, at vitals.Micros, rev int64) (bool, error) {
	res, err := tx.ExecContext(ctx, `INSERT INTO devices (id, model, serial, tz, created_at, disabled_at, rev)
		VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (id) DO NOTHING`, d.ID, d.Model, d.Serial, d.TZ, at, rev)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func insertSecret(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, hash string, at vitals.Micros) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO device_secrets (device_id, hash, created_at, expires_at) VALUES ($1, $2, $3, 0)`, id, hash, at)
	return err
}

// expireSecrets ends those already in their overlap now, and the current one at until: two are never joined by a third.
func expireSecrets(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, now, until vitals.Micros) error {
	if _, err := tx.ExecContext(ctx, `UPDATE device_secrets SET expires_at = $2
		WHERE device_id = $1 AND expires_at > $2`, id, now); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE device_secrets SET expires_at = $2 WHERE device_id = $1 AND expires_at = 0`, id, until)
	return err
}

func readBindings(ctx context.Context, tx *sql.Tx, id vitals.DeviceID) ([]Binding, error) {
	rows, err := tx.QueryContext(ctx, `SELECT user_slot, patient_id, valid_from, valid_to FROM device_bindings WHERE device_id = $1`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Binding
	for rows.Next() {
		var b Binding
		if err := rows.Scan(&b.UserSlot, &b.Patient, &b.From, &b.To); err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rows.Err()
}

// bind adds n and ends the binding of the same slot that is valid at its start.
func bind(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, n Binding, now vitals.Micros) error {
	if n.From < 0 {
		return fmt.Errorf("%w: a binding cannot start before 1970", ErrInvalid)
	}
	old, err := readBindings(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("bind device %s: %w", id, err)
	}
	if n.From == 0 && slices.ContainsFunc(old, func(b Binding) bool {
		return n.UserSlot == 0 || b.UserSlot == 0 || b.UserSlot == n.UserSlot
	}) {
		n.From = now // Somebody else may have used it before.
	}
	for _, b := range old {
		if b.UserSlot != n.UserSlot {
			continue
		}
		if b.From >= n.From {
			return fmt.Errorf("%w: slot %d of device %s has a binding that starts at %s; start the new one later", ErrConflict, n.UserSlot, id, b.From.Time().Format(time.RFC3339))
		}
		if b.To == 0 || b.To > n.From {
			if err := endBinding(ctx, tx, id, b, n.From); err != nil {
				return fmt.Errorf("bind device %s: %w", id, err)
			}
		}
	}
	return insertBinding(ctx, tx, id, n, now)
}

func insertBinding(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, n Binding, now vitals.Micros) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO device_bindings (device_id, user_slot, patient_id, valid_from, valid_to, made_at)
		VALUES ($1, $2, $3, $4, 0, $5)`, id, n.UserSlot, n.Patient, n.From, now); err != nil {
		return fmt.Errorf("bind device %s: %w", id, err)
	}
	return nil
}

func unbind(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, slot uint8, at vitals.Micros) error {
	old, err := readBindings(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("unbind device %s: %w", id, err)
	}
	for _, b := range old {
		if b.UserSlot != slot || b.To != 0 {
			continue
		}
		if at <= b.From {
			return fmt.Errorf("%w: the binding of device %s starts at %s; end it later", ErrConflict, id, b.From.Time().Format(time.RFC3339))
		}
		if err := endBinding(ctx, tx, id, b, at); err != nil {
			return fmt.Errorf("unbind device %s: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("%w: slot %d of device %s is not bound to anybody", ErrConflict, slot, id)
}

func endBinding(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, b Binding, at vitals.Micros) error {
	_, err := tx.ExecContext(ctx, `UPDATE device_bindings SET valid_to = $4 WHERE device_id = $1 AND user_slot = $2 AND valid_from = $3`,
		id, b.UserSlot, b.From, at)
	return err
}

func upsertStatus(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, s Status, seen vitals.Micros) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO device_status (device_id, state, state_at, battery, firmware, last_seen)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (device_id) DO UPDATE SET state = excluded.state, state_at = excluded.state_at,
		battery = excluded.battery, firmware = excluded.firmware, last_seen = excluded.last_seen`, id, s.State, s.At, s.Battery, s.Firmware, seen)
	return err
}

// readSince reads the devices that changed after r.rev, within one snapshot. wmu is held.
func (r *Registry) readSince(ctx context.Context, tx *sql.Tx) (delta, error) {
	d := delta{rev: r.rev}
	if err := tx.QueryRowContext(ctx, `SELECT rev FROM devices_revision`).Scan(&d.rev); err != nil {
		return d, err
	}
	if d.rev == r.rev {
		return d, nil
	}
	if err := r.readDevices(ctx, tx, &d); err != nil {
		return d, err
	}
	for _, read := range []func(context.Context, *sql.Tx, *delta) error{r.readAllBindings, r.readSecrets, r.readCertificates, r.readGateways} {
		if err := read(ctx, tx, &d); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (r *Registry) readDevices(ctx context.Context, tx *sql.Tx, d *delta) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, model, serial, tz, created_at, disabled_at FROM devices WHERE rev > $1 ORDER BY id`, r.rev)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		x := row{record: &record{credentials: &noCredentials}}
		var disabledAt vitals.Micros
		if err := rows.Scan(&x.id, &x.record.model, &x.record.serial, &x.record.tz, &x.record.createdAt, &disabledAt); err != nil {
			return err
		}
		x.record.disabled = disabledAt != 0
		x.record.loc = r.zone(x.record.tz)
		d.rows = append(d.rows, x)
	}
	return rows.Err()
}

// The rows of the tables below come by device id, as d.rows do, so one walk over both suffices.
func (r *Registry) readAllBindings(ctx context.Context, tx *sql.Tx, d *delta) error {
	rows, err := tx.QueryContext(ctx, `SELECT device_id, user_slot, patient_id, valid_from, valid_to FROM device_bindings
		WHERE device_id IN (SELECT id FROM devices WHERE rev > $1) ORDER BY device_id, user_slot DESC, valid_from DESC`, r.rev)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	for rows.Next() {
		var id vitals.DeviceID
		var b Binding
		if err := rows.Scan(&id, &b.UserSlot, &b.Patient, &b.From, &b.To); err != nil {
			return err
		}
		for d.rows[i].id != id {
			i++
		}
		if d.rows[i].bindings == nil {
			d.rows[i].bindings = make([]Binding, 0, 1) // One is the rule; append would take room for more.
		}
		d.rows[i].bindings = append(d.rows[i].bindings, b)
	}
	return rows.Err()
}

func (r *Registry) readSecrets(ctx context.Context, tx *sql.Tx, d *delta) error {
	now := vitals.At(r.Now())
	rows, err := tx.QueryContext(ctx, `SELECT device_id, hash, expires_at FROM device_secrets
		WHERE device_id IN (SELECT id FROM devices WHERE rev > $1) AND (expires_at = 0 OR expires_at > $2)
		ORDER BY device_id, expires_at`, r.rev, now)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	for rows.Next() {
		var id vitals.DeviceID
		var hash string
		var s secret
		if err := rows.Scan(&id, &hash, &s.expiresAt); err != nil {
			return err
		}
		if !decodeSum(&s.hash, hash) {
			return fmt.Errorf("the stored hash of a secret of device %s is damaged: rotate it", id)
		}
		for d.rows[i].id != id {
			i++
		}
		c := d.rows[i].record.credentials.own()
		c.secrets = append(c.secrets, s)
		d.rows[i].record.credentials = c
	}
	return rows.Err()
}

// decodeSum reads a SHA-256 sum in hex and says whether it was one.
func decodeSum(sum *[sha256.Size]byte, text string) bool {
	if len(text) != 2*sha256.Size {
		return false
	}
	_, err := hex.Decode(sum[:], []byte(text))
	return err == nil
}

// readCertificates reads what may still be shown, ended or not: the ended ones are the revocation list.
func (r *Registry) readCertificates(ctx context.Context, tx *sql.Tx, d *delta) error {
	now := vitals.At(r.Now())
	rows, err := tx.QueryContext(ctx, `SELECT device_id, serial, own, fingerprint, not_after, ended_at FROM device_certificates
		WHERE device_id IN (SELECT id FROM devices WHERE rev > $1) AND (not_after = 0 OR not_after > $2)
		ORDER BY device_id, created_at, serial`, r.rev, now)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	for rows.Next() {
		var id vitals.DeviceID
		var fingerprint string
		var c certificate
		if err := rows.Scan(&id, &c.serial, &c.own, &fingerprint, &c.notAfter, &c.endedAt); err != nil {
			return err
		}
		if c.own {
			if !decodeSum(&c.fingerprint, fingerprint) {
				return fmt.Errorf("the stored fingerprint of a certificate of device %s is damaged: revoke it and issue another", id)
			}
		}
		for d.rows[i].id != id {
			i++
		}
		all := d.rows[i].record.credentials.own()
		all.certs = append(all.certs, c)
		d.rows[i].record.credentials = all
	}
	return rows.Err()
}

func (r *Registry) readGateways(ctx context.Context, tx *sql.Tx, d *delta) error {
	rows, err := tx.QueryContext(ctx, `SELECT device_id, gateway_id, valid_from, valid_to FROM device_gateways
		WHERE device_id IN (SELECT id FROM devices WHERE rev > $1) ORDER BY device_id, valid_from DESC, gateway_id`, r.rev)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	for rows.Next() {
		var id vitals.DeviceID
		var a Assignment
		if err := rows.Scan(&id, &a.Gateway, &a.From, &a.To); err != nil {
			return err
		}
		for d.rows[i].id != id {
			i++
		}
		d.rows[i].gateways = append(d.rows[i].gateways, a)
	}
	return rows.Err()
}

// readStatus fills in what the tables have of all devices; it runs once, before anybody else has the registry.
func (r *Registry) readStatus(ctx context.Context) error {
	rows, err := r.db.Reader().QueryContext(ctx, `SELECT device_id, state, state_at, battery, firmware, last_seen FROM device_status`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id vitals.DeviceID
		var s Status
		var seen vitals.Micros
		if err := rows.Scan(&id, &s.State, &s.At, &s.Battery, &s.Firmware, &seen); err != nil {
			return err
		}
		h := r.Find(id)
		if h == nil {
			continue // Added since Refresh; its status comes with its next message.
		}
		if s.State != "" {
			h.status.Store(&s)
			h.savedStatus = &s
		}
		h.lastSeen.Store(int64(seen))
		h.savedSeen = seen
	}
	return rows.Err()
}

// zone loads a location once per name; nil when this binary does not know it. wmu is held.
func (r *Registry) zone(name string) *time.Location {
	if name == "" {
		return nil
	}
	l, ok := r.zones[name]
	if !ok {
		l, _ = time.LoadLocation(name)
		r.zones[name] = l
	}
	return l
}
