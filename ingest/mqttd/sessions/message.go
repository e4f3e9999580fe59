package sessions

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// Bounds of what waits for a device.
const (
	// MaxOpen messages of a device may be waiting or on their way. One more is refused with ErrFull: to drop the oldest
	// would be to lose a command that somebody counts on, in silence.
	MaxOpen = 100
	// MaxPayload bytes a message, so that all open ones of a device are less than 2 MB.
	MaxPayload = 16 << 10
	// Keep is how long messages that are done can be looked up.
	Keep = 30 * vitals.Day
)

// What callers branch on.
var (
	ErrFull     = errors.New("too many messages wait for this device; they go when it connects, or expire")
	ErrExists   = errors.New("a message with this id and other content was sent before; use a new id")
	ErrNotFound = errors.New("no such message")
	ErrInvalid  = errors.New("invalid message")
)

// Message is one message down to a device.
type Message struct {
	ID      string // [A-Za-z0-9_-]{1,64}, unique for ever; "" gets one. The same id with the same content again is the same message.
	Topic   string // behind vw/v1/{device}/down/: "cmd"
	Payload []byte
	// ExpiresAt, when not 0, is from when on it is not delivered any more.
	ExpiresAt vitals.Micros
}

// State is what has become of a message.
type State string

// States. With QoS 0, which the device chose by its subscription, sent is all that is ever known of a delivery.
const (
	Waiting   State = "waiting"   // the device is away, not subscribed, or has enough on its hands
	Sent      State = "sent"      // given to the connection
	Delivered State = "delivered" // the device has acknowledged it
	Answered  State = "answered"  // the device has said on up/ack what it did
	Expired   State = "expired"   // too late
	Failed    State = "failed"    // the device refused it, or has no room for it: see Detail
)

// Info is a message with its history; times are 0 while not yet.
type Info struct {
	Message
	Seq         int64
	Device      vitals.DeviceID
	State       State
	PacketID    uint16
	CreatedAt   vitals.Micros
	SentAt      vitals.Micros
	DeliveredAt vitals.Micros
	AnsweredAt  vitals.Micros
	Result      string // of the answer: done, declined, failed, or the device's own word
	Detail      string
}

func (m *Message) validate() error {
	switch {
	case m.ID != "" && !vitals.ValidID(m.ID):
		return fmt.Errorf("%w: the id must be 1 to 64 of A-Z a-z 0-9 _ -", ErrInvalid)
	case !vitals.ValidID(strings.ReplaceAll(m.Topic, "/", "_")) || strings.HasPrefix(m.Topic, "/") || strings.HasSuffix(m.Topic, "/"):
		return fmt.Errorf("%w: the topic is what follows down/, such as cmd", ErrInvalid)
	case m.Topic == Config || m.Topic == "errors":
		return fmt.Errorf("%w: down/%s is not for messages", ErrInvalid, m.Topic)
	case len(m.Payload) > MaxPayload:
		return fmt.Errorf("%w: more than %d bytes", ErrInvalid, MaxPayload)
	}
	return nil
}

// Send keeps a message for a device until it is delivered or expires; it is durable when Send returns. Messages of a
// device go in the order in which they were sent. It returns the message's id.
func (s *Store) Send(ctx context.Context, device vitals.DeviceID, m Message) (id string, err error) {
	if err := m.validate(); err != nil {
		return "", err
	}
	if !vitals.ValidID(string(device)) {
		return "", fmt.Errorf("%w: no such device id", ErrInvalid)
	}
	if m.ID == "" {
		m.ID = strings.ToLower(rand.Text())
	}
	now := vitals.At(s.now())
	if m.ExpiresAt != 0 && m.ExpiresAt <= now {
		return "", fmt.Errorf("%w: it has expired already", ErrInvalid)
	}
	var refused error
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		refused, err = insert(ctx, tx, device, &m, now)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return "", fmt.Errorf("message to %s: %w", device, err)
	}
	s.tell(device)
	return m.ID, nil
}

func insert(ctx context.Context, tx *sql.Tx, device vitals.DeviceID, m *Message, now vitals.Micros) (refused, err error) {
	var same bool
	err = tx.QueryRowContext(ctx, `SELECT device_id = ? AND topic = ? AND payload = ? FROM mqtt_messages WHERE id = ?`,
		string(device), m.Topic, notNil(m.Payload), m.ID).Scan(&same)
	switch {
	case err == nil && same:
		return nil, nil
	case err == nil:
		return ErrExists, nil
	case !errors.Is(err, sql.ErrNoRows):
		return nil, err
	}
	var open int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM mqtt_messages WHERE device_id = ? AND state IN ('waiting', 'sent')
		AND (state = 'waiting' OR packet_id > 0) AND (expires_at = 0 OR expires_at > ?)`, string(device), int64(now)).Scan(&open); err != nil {
		return nil, err
	}
	if open >= MaxOpen {
		return ErrFull, nil
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO mqtt_messages (id, device_id, topic, payload, state, created_at, expires_at) VALUES (?, ?, ?, ?, 'waiting', ?, ?)`,
		m.ID, string(device), m.Topic, notNil(m.Payload), int64(now), int64(m.ExpiresAt))
	return nil, err
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

const infoColumns = `SELECT seq, id, device_id, topic, payload, state, packet_id, created_at, expires_at, sent_at, delivered_at, answered_at, result, detail FROM mqtt_messages `

func scanInfo(row interface{ Scan(...any) error }, now vitals.Micros) (m Info, err error) {
	err = row.Scan(&m.Seq, &m.ID, &m.Device, &m.Topic, &m.Payload, &m.State, &m.PacketID, &m.CreatedAt, &m.ExpiresAt, &m.SentAt, &m.DeliveredAt, &m.AnsweredAt, &m.Result, &m.Detail)
	if (m.State == Waiting || m.State == Sent) && m.ExpiresAt != 0 && m.ExpiresAt <= now { // before the sweep has found it
		m.State = Expired
	}
	return m, err
}

func (s *Store) query(ctx context.Context, query string, args ...any) (out []Info, err error) {
	rows, err := s.db.Reader().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Err(), rows.Close()) }()
	now := vitals.At(s.now())
	for rows.Next() {
		m, err := scanInfo(rows, now)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// Find returns a message by its id.
func (s *Store) Find(ctx context.Context, id string) (Info, error) {
	m, err := scanInfo(s.db.Reader().QueryRowContext(ctx, infoColumns+`WHERE id = ?`, id), vitals.At(s.now()))
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return m, err
}

// List returns a device's messages, the newest first: at most limit with a Seq below before (0: from the newest).
func (s *Store) List(ctx context.Context, device vitals.DeviceID, before int64, limit int) ([]Info, error) {
	if before <= 0 {
		before = 1 << 62
	}
	out, err := s.query(ctx, infoColumns+`WHERE device_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?`, string(device), before, limit)
	if err != nil {
		return nil, fmt.Errorf("messages of %s: %w", device, err)
	}
	return out, nil
}

// Open returns what is waiting or on its way to a device, in the order of delivery; expired ones are among them, so
// that they can be told apart from what is gone.
func (s *Store) Open(ctx context.Context, device vitals.DeviceID) ([]Info, error) {
	out, err := s.query(ctx, infoColumns+`WHERE device_id = ? AND state IN ('waiting', 'sent') AND (state = 'waiting' OR packet_id > 0) ORDER BY seq`, string(device))
	if err != nil {
		return nil, fmt.Errorf("open messages of %s: %w", device, err)
	}
	return out, nil
}

// MarkSent notes, durably, that messages are about to be given to the connection; PacketID 0 for QoS 0.
func (s *Store) MarkSent(ctx context.Context, sent []Delivery) error {
	now := int64(vitals.At(s.now()))
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, m := range sent {
			if _, err := tx.ExecContext(ctx, `UPDATE mqtt_messages SET state = 'sent', packet_id = ?, sent_at = CASE sent_at WHEN 0 THEN ? ELSE sent_at END
				WHERE seq = ? AND state = 'waiting'`, int64(m.PacketID), now, m.Seq); err != nil {
				return err
			}
		}
		return nil
	})
}

// MarkDelivered notes a PUBACK. A crash before it is written makes the message go once more.
func (s *Store) MarkDelivered(seq int64) {
	now := int64(vitals.At(s.now()))
	s.later(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE mqtt_messages SET state = CASE WHEN state IN ('waiting', 'sent') THEN 'delivered' ELSE state END,
			packet_id = 0, delivered_at = ? WHERE seq = ? AND delivered_at = 0`, now, seq)
		return err
	}, nil)
}

// MarkFailed notes that a message will never be delivered, and why.
func (s *Store) MarkFailed(seq int64, why string) {
	s.later(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE mqtt_messages SET state = 'failed', packet_id = 0, detail = ? WHERE seq = ? AND state IN ('waiting', 'sent')`, why, seq)
		return err
	}, nil)
}

// Requeue makes deliveries under way wait again: the session that knew their packet ids is gone.
func (s *Store) Requeue(device vitals.DeviceID) {
	s.later(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE mqtt_messages SET state = 'waiting', packet_id = 0 WHERE device_id = ? AND state = 'sent' AND packet_id > 0`, string(device))
		return err
	}, func() { s.tell(device) })
}

// Sweep marks what has expired and forgets what was done long ago. Somebody must call it every minute or so.
func (s *Store) Sweep(ctx context.Context) error {
	now := vitals.At(s.now())
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE mqtt_messages SET state = 'expired', packet_id = 0
			WHERE state IN ('waiting', 'sent') AND expires_at > 0 AND expires_at <= ?`, int64(now)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM mqtt_messages WHERE seq IN (SELECT seq FROM mqtt_messages
			WHERE state NOT IN ('waiting', 'sent') AND created_at < ? OR state = 'sent' AND packet_id = 0 AND created_at < ? LIMIT 1000)`,
			int64(now-Keep), int64(now-Keep))
		return err
	})
}

// Erase forgets all that is kept for a device: its messages, whose texts may be personal, its configuration and its
// session. A connection that it has goes on with what it holds.
func (s *Store) Erase(ctx context.Context, device vitals.DeviceID) error {
	err := s.End(device)(ctx)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			for _, q := range []string{`DELETE FROM mqtt_messages WHERE device_id = ?`, `DELETE FROM mqtt_retained WHERE device_id = ?`} {
				if _, err := tx.ExecContext(ctx, q, string(device)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("erase what waits for %s: %w", device, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.owed, device)
	delete(s.configured, device)
	return nil
}

// Remaining is the Message Expiry Interval that is left at now, rounded up; 0 and false when the message does not
// expire. It must not have expired.
func (m *Info) Remaining(now time.Time) (seconds uint32, expires bool) {
	if m.ExpiresAt == 0 {
		return 0, false
	}
	left := m.ExpiresAt.Time().Sub(now)
	return uint32(max(1, min(int64((left+time.Second-1)/time.Second), 1<<32-1))), true
}
