package feed

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDecodeCommand(t *testing.T) {
	for _, tc := range []struct {
		in string
		ok bool
	}{
		{`{"op":"auth","ticket":"t"}`, true},
		{`{"op":"auth"}`, false},
		{`{"op":"subscribe","id":1,"channels":["alerts","readings","patient:P-1"]}`, true},
		{`{"op":"subscribe","id":1,"channels":["alerts"],"from":{"epoch":"e","seq":41}}`, true},
		{`{"op":"subscribe","id":1,"channels":["alerts"],"from":null}`, true},
		{`{"op":"subscribe","id":1,"channels":["alerts"],"from":{"epoch":"e","seq":-1}}`, false},
		{`{"op":"subscribe","id":1,"channels":[]}`, false},
		{`{"op":"subscribe","id":1,"channels":["patient:"]}`, false},
		{`{"op":"subscribe","id":1,"channels":["patient:a/b"]}`, false},
		{`{"op":"subscribe","id":1,"channels":["everything"]}`, false},
		{`{"op":"subscribe","id":"1","channels":["alerts"]}`, false},
		{`{"op":"ack","id":2,"alert":"A","note":"n"}`, true},
		{`{"op":"ack","id":2}`, false},
		{`{"op":"ping"}`, true},
		{`{"op":"ping","new":"field"}`, true},
		{`{"op":"ping"} {"op":"ping"}`, false},
		{`{"op":"PING"}`, false},
		{`[]`, false}, {`null`, false}, {``, false}, {`{`, false}, {"{\"op\":\"\xff\"}", false},
	} {
		if _, err := decodeCommand([]byte(tc.in)); (err == nil) != tc.ok {
			t.Errorf("decode %s = %v, want ok %v", tc.in, err, tc.ok)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, s := range []string{`{"op":"auth","ticket":"t"}`, `{"op":"subscribe","id":1,"channels":["alerts","patient:P-1"],"from":{"epoch":"e","seq":41}}`,
		`{"op":"ack","id":2,"alert":"A","note":"n"}`, `{"op":"ping"}`, `{"op":"unsubscribe","id":1,"channels":["readings"]}`, `[[[[`, `{"op":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCommand(b)
		if err != nil {
			if _, ok := err.(*BadFrameError); !ok {
				t.Fatalf("error %T is not typed", err)
			}
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := decodeCommand(again)
		if err != nil {
			t.Fatalf("%q decodes, its own encoding %q does not: %v", b, again, err)
		}
		if d.Op != c.Op || d.Alert != c.Alert || d.Note != c.Note || strings.Join(d.Channels, ",") != strings.Join(c.Channels, ",") {
			t.Fatalf("decode(encode(%+v)) = %+v", c, d)
		}
	})
}

// The frames that the console reads in its own tests have the fields that ours have: a change on one side fails the
// other's test.
func TestFrames_HaveTheFieldsOfTheSharedFixtures(t *testing.T) {
	dir := filepath.Join("..", "console", "testdata", "frames")
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	if len(files) == 0 {
		t.Skip("web/console/testdata/frames has no fixtures yet")
	}
	payload := func(f *frame) map[string]any {
		b := f.b
		for i := range b {
			if b[i] == '{' {
				b = b[i:]
				break
			}
		}
		var m map[string]any
		if err := json.NewDecoder(strings.NewReader(string(b))).Decode(&m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	seq := uint64(1)
	event, err := encodeEvent(&Event{Seq: 1, Patient: "P", Kind: "opened", At: time.Unix(0, 0), Actor: "a", Alert: json.RawMessage(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	id := int64(1)
	ours := map[string]map[string]any{
		"hello":      payload(text(helloFrame{"hello", "e", 1, 15})),
		"subscribed": payload(text(subscribedFrame{"subscribed", &id, []string{"alerts"}, "e", 1})),
		"alert":      payload(event),
		"reading":    payload(encodeReading("P", []byte(`{}`))),
		"gap":        payload(text(gapFrame{"gap", 1, 2})),
		"snapshot":   payload(encodeSnapshot("e", 1, nil, nil)),
		"heartbeat":  payload(text(heartbeatFrame{"heartbeat", "t", &seq})),
		"bye":        payload(encodeBye(4401, "r", 0)),
		"result":     payload(text(resultFrame{"result", &id, false, json.RawMessage(`{}`)})),
		"pong":       payload(text(pongFrame{"pong", &id, "t"})),
	}
	seen := map[string]bool{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			continue // a fixture of what must be refused
		}
		if strings.HasPrefix(filepath.Base(name), "client-") {
			if c, err := decodeCommand(b); err != nil {
				t.Errorf("%s: what the console sends is refused: %v", filepath.Base(name), err)
			} else {
				seen["client "+c.Op] = true
			}
			continue
		}
		kind, _ := m["type"].(string)
		mine, ok := ours[kind]
		if !ok {
			continue // a type of the future, for the reader's tolerance
		}
		seen[kind] = true
		for k := range m {
			if _, ok := mine[k]; !ok {
				t.Errorf("%s: field %q of a %s frame is none that the hub sends", filepath.Base(name), k, kind)
			}
		}
	}
	for _, kind := range []string{"hello", "alert", "snapshot", "client subscribe", "client auth"} {
		if !seen[kind] {
			t.Errorf("no fixture of a %s frame", kind)
		}
	}
}

func TestAppendWS_LengthsOfRFC6455(t *testing.T) {
	for _, tc := range []struct{ n, header int }{{0, 2}, {125, 2}, {126, 4}, {65535, 4}, {65536, 10}} {
		if got := len(appendWS(nil, opText, make([]byte, tc.n))) - tc.n; got != tc.header {
			t.Errorf("header of %d bytes = %d, want %d", tc.n, got, tc.header)
		}
	}
}
