package devices

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
)

// maxStatusBytes bounds a payload on up/status; a full one has about 80 bytes.
const maxStatusBytes = 4 << 10

// ParseStatus reads {"state":"online|sleeping|lost","battery":87,"firmware":"1.2"}: state is required, battery is a
// whole percentage, firmware at most 100 bytes. Fields of other names are passed over, so that a device may say more
// than we know. Errors wrap ErrStatusInvalid and carry nothing of the payload.
func ParseStatus(payload []byte) (Status, error) {
	s := Status{Battery: -1}
	bad := func(what string) (Status, error) {
		return Status{Battery: -1}, fmt.Errorf(`%w: %s; send {"state":"online","battery":87,"firmware":"1.2"}`, ErrStatusInvalid, what)
	}
	if len(payload) > maxStatusBytes {
		return bad("more than 4 KiB")
	}
	// Token by token rather than into a struct: encoding/json would also take "STATE", and the last of two states.
	d := json.NewDecoder(bytes.NewReader(payload))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return bad("not a JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return bad("not JSON")
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return bad("not JSON")
		}
		if seen[key] {
			return bad("a field is there twice")
		}
		seen[key] = true
		if string(raw) == "null" {
			continue
		}
		switch key {
		case "state":
			if json.Unmarshal(raw, &s.State) != nil || s.State != "online" && s.State != "sleeping" && s.State != "lost" {
				return bad("state must be online, sleeping or lost")
			}
		case "battery":
			n, err := strconv.ParseUint(string(raw), 10, 7)
			if err != nil || n > 100 {
				return bad("battery must be a whole number from 0 to 100")
			}
			s.Battery = int8(n)
		case "firmware":
			if json.Unmarshal(raw, &s.Firmware) != nil || !plain(s.Firmware, maxText) {
				return bad("firmware must be a text of at most 100 bytes without control characters")
			}
		}
	}
	if _, err := d.Token(); err != nil {
		return bad("not JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("more than one JSON value")
	}
	if s.State == "" {
		return bad("no state")
	}
	return s, nil
}

// Encode writes a status as ParseStatus reads it.
func (s Status) Encode() []byte {
	v := struct {
		State    string `json:"state"`
		Battery  *int8  `json:"battery,omitempty"`
		Firmware string `json:"firmware,omitempty"`
	}{State: s.State, Firmware: s.Firmware}
	if s.Battery >= 0 {
		v.Battery = &s.Battery
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // three plain fields cannot fail
	}
	return b
}
