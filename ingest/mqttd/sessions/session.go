package sessions

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"vitalwatch/vitals"
)

// Session is a session that outlives its connection.
type Session struct {
	Expiry    uint32        // seconds after the connection has ended
	AwaySince vitals.Micros // 0: connected
	Filters   []Filter      // not changed after Put
	Will      []byte        // due at WillAt unless the device is back; nil: none
	WillAt    vitals.Micros
}

// Filter is a subscription below the device's own down/.
type Filter struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos,omitempty"`
	RAP    bool   `json:"rap,omitempty"` // retain as published
	ID     uint32 `json:"id,omitempty"`  // subscription identifier, 0: none
}

// Recovered is a session as the last run left it.
type Recovered struct {
	Device vitals.DeviceID
	Session
	Sent []Delivery // QoS 1, without PUBACK, in their order
}

// Delivery is a message given to a connection.
type Delivery struct {
	Seq      int64
	PacketID uint16 // 0: QoS 0
}

// Put notes a session's state, to be written in the next group. wait waits for that until ctx ends, for what a device
// is promised; the session is written in any case.
func (s *Store) Put(device vitals.DeviceID, se Session) (wait func(context.Context) error) {
	return s.put(device, &se)
}

// End notes that a session has ended.
func (s *Store) End(device vitals.DeviceID) (wait func(context.Context) error) {
	return s.put(device, nil)
}

func (s *Store) put(device vitals.DeviceID, se *Session) func(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return func(context.Context) error { return errClosed }
	}
	g := s.group()
	g.sessions[device] = se
	return func(ctx context.Context) error {
		select {
		case <-g.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func putSession(ctx context.Context, tx *sql.Tx, device vitals.DeviceID, se *Session) error {
	filters, err := json.Marshal(se.Filters)
	if err != nil {
		return err
	}
	if se.Filters == nil {
		filters = []byte("[]")
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO mqtt_sessions (device_id, expiry_s, away_since, filters, will, will_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (device_id) DO UPDATE SET expiry_s = excluded.expiry_s, away_since = excluded.away_since,
		filters = excluded.filters, will = excluded.will, will_at = excluded.will_at`,
		string(device), int64(se.Expiry), int64(se.AwaySince), string(filters), se.Will, int64(se.WillAt))
	return err
}

// Recover returns the sessions of the last run, once, for the server that owns them from now on. Those that were
// connected, and after a crash all, have been away since now: when a device went is the one thing that a crash may
// forget. Deliveries to devices without a session wait again.
func (s *Store) Recover(ctx context.Context) ([]Recovered, error) {
	var clean int
	var out []Recovered
	now := vitals.At(s.now())
	err := s.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT clean FROM mqtt_server`).Scan(&clean); err != nil {
			return err
		}
		for _, q := range []string{
			`UPDATE mqtt_server SET clean = 0`,
			`UPDATE mqtt_messages SET state = 'waiting', packet_id = 0 WHERE state = 'sent' AND packet_id > 0 AND device_id NOT IN (SELECT device_id FROM mqtt_sessions)`,
		} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		var err error
		if out, err = readSessions(ctx, tx); err != nil {
			return err
		}
		sent, err := readSent(ctx, tx)
		for i := range out {
			r := &out[i]
			r.Sent = sent[r.Device]
			if clean == 0 || r.AwaySince == 0 {
				r.AwaySince = now
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sessions of the last run: %w", err)
	}
	s.mu.Lock()
	s.recovered = true
	s.mu.Unlock()
	_, err = s.Refresh(ctx)
	return out, err
}

func readSessions(ctx context.Context, tx *sql.Tx) (out []Recovered, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT device_id, expiry_s, away_since, filters, will, will_at FROM mqtt_sessions`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Err(), rows.Close()) }()
	for rows.Next() {
		var r Recovered
		var filters string
		if err := rows.Scan(&r.Device, &r.Expiry, &r.AwaySince, &filters, &r.Will, &r.WillAt); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(filters), &r.Filters); err != nil {
			return nil, fmt.Errorf("filters of %s: %w", r.Device, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func readSent(ctx context.Context, tx *sql.Tx) (out map[vitals.DeviceID][]Delivery, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT device_id, seq, packet_id FROM mqtt_messages WHERE state = 'sent' AND packet_id > 0 ORDER BY seq`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Err(), rows.Close()) }()
	out = map[vitals.DeviceID][]Delivery{}
	for rows.Next() {
		var id vitals.DeviceID
		var s Delivery
		if err := rows.Scan(&id, &s.Seq, &s.PacketID); err != nil {
			return nil, err
		}
		out[id] = append(out[id], s)
	}
	return out, nil
}

// Ends is when a session that is away ends.
func (s *Session) Ends() time.Time {
	return s.AwaySince.Time().Add(time.Duration(s.Expiry) * time.Second)
}
