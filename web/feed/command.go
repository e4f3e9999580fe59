package feed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Limits of what a client may send.
const (
	maxCommand  = 4 << 10 // bytes of one frame
	maxChannels = 64      // of one connection
	maxNote     = 2000    // bytes
	maxID       = 64      // bytes of a patient id, as in package vitals
)

// Position is the last event a client saw.
type Position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// command is one client frame. Fields that an op does not use are ignored.
type command struct {
	Op       string    `json:"op"`
	ID       *int64    `json:"id"`
	Ticket   string    `json:"ticket"`
	Channels []string  `json:"channels"`
	From     *Position `json:"from"`
	Alert    string    `json:"alert"`
	Note     string    `json:"note"`
}

// BadFrameError says what is wrong with a client frame, without repeating it.
type BadFrameError struct{ What string }

func (e *BadFrameError) Error() string { return e.What + "; docs/feed.md lists what a client may send" }

func bad(format string, args ...any) error { return &BadFrameError{fmt.Sprintf(format, args...)} }

// decodeCommand reads one client frame. The command's ID is set even when another field is wrong, so that the
// answer finds its question. Unknown fields are ignored: older servers must bear newer clients.
func decodeCommand(b []byte) (command, error) {
	var c command
	if !utf8.Valid(b) {
		return c, bad("the frame is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&c); err != nil {
		var id struct {
			ID *int64 `json:"id"`
		}
		_ = json.Unmarshal(b, &id) // a second error adds nothing to the first
		return command{ID: id.ID}, bad("the frame is not a JSON object of the known fields")
	}
	if _, err := d.Token(); err != io.EOF {
		return command{ID: c.ID}, bad("the frame has more than one JSON value")
	}
	switch c.Op {
	case "auth":
		if c.Ticket == "" {
			return c, bad("auth needs a ticket")
		}
	case "subscribe", "unsubscribe":
		if len(c.Channels) == 0 || len(c.Channels) > maxChannels {
			return c, bad("%s needs 1 to %d channels", c.Op, maxChannels)
		}
		for _, ch := range c.Channels {
			if !validChannel(ch) {
				return c, bad(`a channel is "alerts", "readings" or "patient:ID"`)
			}
		}
	case "ack":
		if c.Alert == "" || len(c.Alert) > 128 {
			return c, bad("ack needs the alert's id")
		}
		if len(c.Note) > maxNote {
			return c, bad("a note has at most %d bytes", maxNote)
		}
	case "ping":
	default:
		return c, bad("op is none of auth, subscribe, unsubscribe, ack, ping")
	}
	return c, nil
}

const patientPrefix = "patient:"

func validChannel(ch string) bool {
	if ch == "alerts" || ch == "readings" {
		return true
	}
	id, ok := strings.CutPrefix(ch, patientPrefix)
	if !ok || id == "" || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}
