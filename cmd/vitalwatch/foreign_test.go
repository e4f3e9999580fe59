package main

import (
	"fmt"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// A gateway publishes in its own layout: what its devices measured becomes readings of their patients, in formats built in
// and described, with the device in the topic or in the payload.
func TestEndToEnd_ForeignTopics(t *testing.T) {
	s := startServer(t, `registration: open
routes:
  - {topic: "home/{gateway}/BTtoMQTT/{device}", format: theengs}
  - {topic: "/sys/+/{device}/thing/event/property/post", format: alink_cuff, device_prefix: ali-}
  - {topic: zigbee/+, format: homeassistant/heart_rate, device_path: device.id}
  - {topic: "ble/{gateway}", format: theengs, items_path: data, device_path: mac}
`)
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID("gw-1").SetProtocolVersion(4))
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("MQTT: %v", tok.Error())
		}
	}
	wait(c.Connect())
	defer c.Disconnect(100)
	now := time.Now().UnixMilli()
	for _, m := range []struct{ topic, payload string }{
		{"home/gw-1/BTtoMQTT/A4:C1:38:11:22:33", `{"weighing_mode":"person","unit":"kg","weight":72.45}`},
		{"/sys/key/cuff/thing/event/property/post", fmt.Sprintf(`{"params":{"systolic":{"value":122,"time":%d},"diastolic":{"value":81}}}`, now)},
		{"zigbee/band", `{"device":{"id":"band-7"},"state":"66","unit":"bpm"}`},
		{"zigbee/band", `{"state":"66","unit":"bpm"}`},                                       // of nobody: quarantined
		{"ble/gw-1", `{"data":[{"mac":"AA:01","hr":61},{"mac":"AA:02","hr":62},{"hr":63}]}`}, // of two and of nobody
		{"vw/v1/meter-1/up/gatt/2A9D", "\x00\xB0\x36"},
	} {
		wait(c.Publish(m.topic, 1, false, m.payload))
	}
	level(t, s)
	for patient, want := range map[string]string{"P-A4C138112233": "weight", "P-ali-cuff": "blood_pressure", "P-band-7": "heart_rate", "P-meter-1": "weight", "P-AA01": "heart_rate", "P-AA02": "heart_rate"} {
		got := list[struct {
			Indicator string `json:"indicator"`
		}](t, s, "/api/v1/patients/"+patient+"/readings")
		if len(got) != 1 || got[0].Indicator != want {
			t.Errorf("%s: got %+v, want one %s", patient, got, want)
		}
	}
	if n := metrics(t, s)["vitalwatch_readings_quarantined_total"]; n != 2 {
		t.Errorf("%v quarantined, want 2", n)
	}
}
