package ingest_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/vitals"
)

// byPayload is a route table of one gateway whose payloads name a device when they are an object.
type byPayload struct{}

func (byPayload) Messages(client vitals.DeviceID, topic, message []byte, f func(id, gateway vitals.DeviceID, format string, part []byte, err error)) {
	if string(topic) != "home/x" || client != "GW" || message[0] != '{' {
		f("", client, "", message, errors.New("no device"))
		return
	}
	f("D-1", client, "readings", message, nil)
}

// A message of which only the payload tells the device is that device's. One that names nobody waits as the gateway's in
// no format, so that a replay cannot make it the gateway's own reading.
func TestPipeline_DeviceOfThePayload(t *testing.T) {
	h := newHouse(t, false)
	routed := ingest.New(ingest.Config{Devices: h.devices, Journal: h.journal, Now: func() time.Time { return h.now },
		Metrics: ingest.NewMetrics(prometheus.NewRegistry()), Routes: byPayload{}})
	send := func(p *ingest.Pipeline, body string) ingest.Result {
		t.Helper()
		b := p.NewBatch()
		b.Add(ingest.Message{Gateway: "GW", Topic: "home/x", Format: "readings", Source: "mqtt", Payload: []byte(body), ReceivedAt: vitals.At(h.now)})
		res, err := b.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return res[0]
	}
	const good = `{"indicator":"heart_rate","taken_at":"2026-11-21T08:00:00Z","value":72,"unit":"/min"}`
	if r := send(routed, good); r.Accepted != 1 {
		t.Fatalf("got %+v", r)
	}
	if r := send(routed, "["+good+"]"); r.Accepted != 0 || len(r.Problems) != 1 || r.Problems[0].Code != payload.DeviceUnknown {
		t.Errorf("a payload that names nobody: got %+v", r)
	}
	if r := send(h.Pipeline, good); r.Accepted != 0 || len(r.Problems) != 1 || r.Problems[0].Code != payload.DeviceUnknown {
		t.Errorf("without routes: got %+v", r)
	}
	items, _, err := h.journal.Quarantine(t.Context(), 10, 0)
	if err != nil || len(items) != 2 {
		t.Fatalf("%d wait in quarantine, %v; want 2", len(items), err)
	}
	for _, q := range items {
		if q.Device != "GW" || q.Format != "" {
			t.Errorf("waits as %s in format %q, want GW and none", q.Device, q.Format)
		}
	}
}

// byItem is a route table of one gateway whose payloads name a device in each item.
type byItem struct{}

func (byItem) Messages(client vitals.DeviceID, _, message []byte, f func(id, gateway vitals.DeviceID, format string, part []byte, err error)) {
	parts, p := payload.Parts("readings", message, nil, []string{"mac"}, nil)
	if p != nil {
		f("", client, "", message, p)
		return
	}
	for _, x := range parts {
		var err error
		if x.Device == "" {
			err = errors.New("no device")
		}
		f(vitals.DeviceID(x.Device), client, "readings", x.Message, err)
	}
}

// A message of several devices becomes readings of each; what is refused is told by its place in the message, and waits by
// itself. The messages beside it keep their own results.
func TestPipeline_SeveralDevicesInAMessage(t *testing.T) {
	h := newHouse(t, false)
	p := ingest.New(ingest.Config{Devices: h.devices, Journal: h.journal, Now: func() time.Time { return h.now },
		Metrics: ingest.NewMetrics(prometheus.NewRegistry()), Routes: byItem{}})
	item := func(mac, value string) string {
		return `{"mac":"` + mac + `","indicator":"heart_rate","taken_at":"2026-11-21T08:00:00Z","value":` + value + `,"unit":"/min"}`
	}
	b := p.NewBatch()
	b.WantItems = true
	for _, body := range []string{
		item("D-1", "60"),
		"[" + item("D-1", "71") + "," + item("D-1", `"x"`) + "," + item("D-9", "72") + "," + item("", "73") + "," + item("D-1", "74") + "," + item("D-1", "5000") + "]",
		"no JSON",
		item("D-1", "75"),
	} {
		b.Add(ingest.Message{Gateway: "GW", Topic: "home/x", Source: "mqtt", Payload: []byte(body), ReceivedAt: vitals.At(h.now)})
	}
	res, err := b.Commit(t.Context())
	if err != nil || len(res) != 4 {
		t.Fatalf("%d results, %v", len(res), err)
	}
	for i, want := range []string{"1 0", "2 4 type_wrong@1 device_unknown@2 device_unknown@3 value_impossible@5", "0 1 device_unknown@0", "1 0"} {
		r := &res[i]
		got := fmt.Sprint(r.Accepted, " ", r.Quarantined)
		for _, p := range r.Problems {
			got += fmt.Sprintf(" %s@%d", p.Code, p.Index)
		}
		if got != want || r.Quarantined != len(r.Problems) {
			t.Errorf("message %d: got %s, want %s", i, got, want)
		}
	}
	for i, it := range res[1].Items { // all six, each at its place
		if (it.Status == "accepted") != (i == 0 || i == 4) || (it.Problem.Code == payload.DeviceUnknown) != (i == 2 || i == 3) {
			t.Errorf("item %d: %+v", i, it)
		}
	}
	if n := len(res[1].Items); n != 6 {
		t.Errorf("%d items", n)
	}
	items, _, err := h.journal.Quarantine(t.Context(), 10, 0)
	if err != nil {
		t.Fatal(err)
	}
	waiting := map[string]int{}
	for _, q := range items {
		waiting[string(q.Device)+" "+q.Format] += len(q.Problems)
		for _, p := range q.Problems {
			if p.Index > 1 {
				t.Errorf("item %d of a part that waits by itself", p.Index)
			}
		}
	}
	if want := map[string]int{"D-1 readings": 2, "D-9 readings": 1, "GW ": 2}; !maps.Equal(waiting, want) {
		t.Errorf("waiting: %v, want %v", waiting, want)
	}
}
