package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"vitalwatch/vitals"
)

// Config is the only retained topic below down/.
const Config = "config"

// Retained is a retained message.
type Retained struct {
	Payload   []byte
	Rev       int64 // rises with each change
	Delivered int64 // the newest Rev that the device has acknowledged
	UpdatedAt vitals.Micros
}

// SetConfig makes payload the device's retained down/config, durably; an empty payload clears it, as in MQTT. A device
// that is subscribed hears of it at once or when it comes back, and gets it with each new subscription.
func (s *Store) SetConfig(ctx context.Context, device vitals.DeviceID, payload []byte) error {
	if !vitals.ValidID(string(device)) || len(payload) > MaxPayload {
		return fmt.Errorf("%w: a configuration has at most %d bytes and goes to a device id", ErrInvalid, MaxPayload)
	}
	now := int64(vitals.At(s.now()))
	c := configured{empty: len(payload) == 0}
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO mqtt_retained (device_id, topic, payload, rev, updated_at) VALUES (?, ?, ?, 1, ?)
			ON CONFLICT (device_id, topic) DO UPDATE SET payload = excluded.payload, rev = mqtt_retained.rev + 1, updated_at = excluded.updated_at
			RETURNING rev`,
			string(device), Config, notNil(payload), now).Scan(&c.rev)
	})
	if err != nil {
		return fmt.Errorf("configuration of %s: %w", device, err)
	}
	s.mu.Lock()
	s.isConfigured(device, c)
	s.mu.Unlock()
	s.tell(device)
	return nil
}

// configured is what is known of a device's row without a look at the disk.
type configured struct {
	rev   int64
	empty bool // cleared
}

// isConfigured keeps the newest of what is heard in any order; s.mu is held.
func (s *Store) isConfigured(device vitals.DeviceID, c configured) {
	if c.rev >= s.configured[device].rev {
		s.configured[device] = c
	}
}

// HasConfig reports whether the device has a configuration that is not cleared, without a look at the disk: what a
// subscription that is made now gets as retained. What is set later goes to it as a new message.
func (s *Store) HasConfig(device vitals.DeviceID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.configured[device]
	return ok && !c.empty
}

// Configured reports whether the device ever had a configuration, without a look at the disk.
func (s *Store) Configured(device vitals.DeviceID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.configured[device]
	return ok
}

// Config returns the device's retained down/config; false: it never had one. An empty payload is a cleared one.
func (s *Store) Config(ctx context.Context, device vitals.DeviceID) (r Retained, ok bool, err error) {
	err = s.db.Reader().QueryRowContext(ctx, `SELECT payload, rev, delivered, updated_at FROM mqtt_retained WHERE device_id = ? AND topic = ?`,
		string(device), Config).Scan(&r.Payload, &r.Rev, &r.Delivered, &r.UpdatedAt)
	if errors.Is(err, sql.ErrNoRows) {
		return Retained{}, false, nil
	}
	if err != nil {
		return Retained{}, false, fmt.Errorf("configuration of %s: %w", device, err)
	}
	return r, true, nil
}

// ConfigDelivered notes that the device has a revision of its configuration.
func (s *Store) ConfigDelivered(device vitals.DeviceID, rev int64) {
	s.later(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE mqtt_retained SET delivered = ? WHERE device_id = ? AND topic = ? AND delivered < ?`, rev, string(device), Config, rev)
		return err
	}, nil)
}

func (s *Store) readConfigured(ctx context.Context) (err error) {
	rows, err := s.db.Reader().QueryContext(ctx, `SELECT device_id, rev, length(payload) = 0 FROM mqtt_retained`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Err(), rows.Close()) }()
	for rows.Next() {
		var id vitals.DeviceID
		var c configured
		if err := rows.Scan(&id, &c.rev, &c.empty); err != nil {
			return err
		}
		s.mu.Lock()
		s.isConfigured(id, c)
		s.mu.Unlock()
	}
	return nil
}
