package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

type frame struct {
	Type       string `json:"type"`
	Epoch      string `json:"epoch"`
	Seq        uint64 `json:"seq"`
	Transition string `json:"transition"`
	Alert      struct {
		PatientID string `json:"patient_id"`
		Severity  string `json:"severity"`
	} `json:"alert"`
	Alerts []json.RawMessage `json:"alerts"`
}

// dial opens the feed, subscribes and hands out frames until the connection ends.
func dial(t *testing.T, s *child, subscribe string) (next func(typ string) frame, hello frame, close func()) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"vitalwatch.v1.json"}, HandshakeTimeout: patience}
	ws, _, err := d.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.HTTP, "http")+"/api/v1/feed", nil)
	if err != nil {
		t.Fatal(err)
	}
	next = func(typ string) frame {
		t.Helper()
		ws.SetReadDeadline(time.Now().Add(patience))
		for {
			var f frame
			if err := ws.ReadJSON(&f); err != nil {
				t.Fatalf("waiting for a frame %q: %v", typ, err)
			}
			if f.Type == typ {
				return f
			}
			if typ == "alert" && (f.Type == "gap" || f.Type == "snapshot") {
				t.Fatalf("got a %s instead of the missed alerts", f.Type)
			}
		}
	}
	hello = next("hello")
	if err := ws.WriteMessage(websocket.TextMessage, []byte(subscribe)); err != nil {
		t.Fatal(err)
	}
	return next, hello, func() { ws.Close() }
}

// TestEndToEnd_FeedResumesAcrossARestart: a coach who was away while the server was killed hears what was missed.
func TestEndToEnd_FeedResumesAcrossARestart(t *testing.T) {
	s := startServer(t, "registration: open\n")
	next, hello, done := dial(t, s, `{"op":"subscribe","id":1,"channels":["alerts"]}`)
	next("snapshot")
	send(t, s, "first", glucose("2.8"))
	last := next("alert")
	if last.Alert.PatientID != "P-first" || last.Transition != "opened" || last.Alert.Severity != "critical" {
		t.Fatalf("got %+v", last)
	}
	done()
	send(t, s, "second", glucose("2.8"))
	send(t, s, "third", glucose("3.5"))
	level(t, s)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	start, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Start(start); err != nil {
		t.Fatal(err)
	}
	from, err := json.Marshal(map[string]any{"op": "subscribe", "id": 1, "channels": []string{"alerts"}, "from": map[string]any{"epoch": hello.Epoch, "seq": last.Seq}})
	if err != nil {
		t.Fatal(err)
	}
	next, again, done := dial(t, s, string(from))
	defer done()
	if again.Epoch != hello.Epoch {
		t.Errorf("the epoch changed from %s to %s with a restart", hello.Epoch, again.Epoch)
	}
	for i, want := range []string{"P-second", "P-third"} {
		if f := next("alert"); f.Alert.PatientID != want || f.Seq != last.Seq+uint64(i)+1 {
			t.Fatalf("missed frame %d is %+v, want %s", i, f, want)
		}
	}
	// And then live, with no hole.
	send(t, s, "fourth", glucose("2.9"))
	if f := next("alert"); f.Alert.PatientID != "P-fourth" || f.Seq != last.Seq+3 {
		t.Fatalf("live frame is %+v", f)
	}
	// An epoch of another life gets a snapshot, not silence.
	next, _, done2 := dial(t, s, `{"op":"subscribe","id":1,"channels":["alerts"],"from":{"epoch":"other","seq":1}}`)
	defer done2()
	next("gap")
	if f := next("snapshot"); len(f.Alerts) != 4 {
		t.Fatalf("the snapshot has %d alerts, want 4", len(f.Alerts))
	}
}
