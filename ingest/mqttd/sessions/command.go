package sessions

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"vitalwatch/vitals"
)

// Commands and their topic, contract section 3.
const (
	CommandTopic = "cmd"
	Remeasure    = "remeasure" // measure again, now
	Remind       = "remind"    // remind the person to measure
	Text         = "message"   // show a text
)

// Command is a message on down/cmd, answered on up/ack.
type Command struct {
	ID        string // as in Message
	Cmd       string
	ExpiresAt vitals.Micros     // 0: DefaultExpiry from now
	Text      map[string]string // by language: "zh-CN", "en"; required with Text
}

// DefaultExpiry is how long a command waits when nobody says: longer, and "measure now" reaches a person who has done
// so long ago.
const DefaultExpiry = 24 * vitals.Hour

// maxText bounds one text of a command, in bytes.
const maxText = 2000

// Command sends a command to a device, see Send. Its body is {"id":…,"cmd":…,"expires_at":…,"text":{…}}.
func (s *Store) Command(ctx context.Context, device vitals.DeviceID, c Command) (id string, err error) {
	switch {
	case c.Cmd != Remeasure && c.Cmd != Remind && c.Cmd != Text:
		return "", fmt.Errorf("%w: a command is %s, %s or %s", ErrInvalid, Remeasure, Remind, Text)
	case c.Cmd == Text && len(c.Text) == 0:
		return "", fmt.Errorf("%w: a message needs a text", ErrInvalid)
	}
	for lang, text := range c.Text {
		if !plain(lang, 35) || lang == "" || len(text) > maxText || !utf8.ValidString(text) {
			return "", fmt.Errorf("%w: a text is at most %d bytes under a language tag such as en or zh-CN", ErrInvalid, maxText)
		}
	}
	if c.ID == "" {
		c.ID = strings.ToLower(rand.Text())
	} else if m, err := s.Find(ctx, c.ID); err == nil && c.ExpiresAt == 0 {
		c.ExpiresAt = m.ExpiresAt // the same command again
	}
	if c.ExpiresAt == 0 {
		c.ExpiresAt = vitals.At(s.now()) + DefaultExpiry
	}
	body, err := json.Marshal(struct {
		ID        string            `json:"id"`
		Cmd       string            `json:"cmd"`
		ExpiresAt string            `json:"expires_at"`
		Text      map[string]string `json:"text,omitempty"`
	}{c.ID, c.Cmd, c.ExpiresAt.Time().Format(time.RFC3339), c.Text})
	if err != nil {
		return "", err
	}
	return s.Send(ctx, device, Message{ID: c.ID, Topic: CommandTopic, Payload: body, ExpiresAt: c.ExpiresAt})
}

// Answer is what a device says on up/ack: {"id":"…","result":"done","detail":"…"}. Result is done, declined, failed, or
// a word of the device's own; without one it is done. Detail may be missing.
type Answer struct{ ID, Result, Detail string }

// maxAnswer bounds a payload on up/ack, maxDetail the detail, in bytes.
const (
	maxAnswer = 4 << 10
	maxDetail = 200
)

// ErrAnswerInvalid: a payload on up/ack that is none. The text says what to send and has nothing of the payload.
var ErrAnswerInvalid = errors.New(`an answer is {"id":"…","result":"done"}, with the id of the command, declined or failed, and a detail of at most 200 bytes if need be`)

// ParseAnswer reads an answer. Fields of other names are passed over.
func ParseAnswer(payload []byte) (Answer, error) {
	var a struct {
		ID     *string `json:"id"`
		Result string  `json:"result"`
		Detail string  `json:"detail"`
	}
	a.Result = "done"
	d := json.NewDecoder(bytes.NewReader(payload))
	if len(payload) > maxAnswer || !utf8.Valid(payload) || d.Decode(&a) != nil || d.More() || a.ID == nil {
		return Answer{}, ErrAnswerInvalid
	}
	out := Answer{*a.ID, a.Result, a.Detail}
	if !vitals.ValidID(out.ID) || !vitals.ValidID(out.Result) || !plain(out.Detail, maxDetail) {
		return Answer{}, ErrAnswerInvalid
	}
	return out, nil
}

func plain(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// Answer notes a device's answer to a command, durably. The first one counts; the same or another again has no effect.
// One that comes too late counts too: it says what happened. ErrNotFound: there is no such command to this device.
func (s *Store) Answer(ctx context.Context, device vitals.DeviceID, a Answer) error {
	now := int64(vitals.At(s.now()))
	found := false
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE mqtt_messages SET state = 'answered', answered_at = ?, result = ?, detail = ?
			WHERE id = ? AND device_id = ? AND topic = ? AND state <> 'answered' AND sent_at > 0`, now, a.Result, a.Detail, a.ID, string(device), CommandTopic); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT count(*) > 0 FROM mqtt_messages WHERE id = ? AND device_id = ? AND topic = ? AND sent_at > 0`, a.ID, string(device), CommandTopic).Scan(&found)
	})
	if err != nil {
		return fmt.Errorf("answer of %s: %w", device, err)
	}
	if !found {
		return ErrNotFound
	}
	return nil
}
