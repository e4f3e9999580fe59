package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"vitalwatch/internal/mosquittotest"
)

// TestEndToEnd_ExternalBroker: readings that a real Mosquitto has acknowledged survive a killed server, because they
// are acknowledged to the broker only once they are on disk.
func TestEndToEnd_ExternalBroker(t *testing.T) {
	broker := mosquittotest.Start(t, mosquittotest.Options{})
	t.Setenv("VITALWATCH_MQTT_EXTERNAL_URL", broker.URL())
	s := startServer(t, "registration: open\n")
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(broker.URL()).SetClientID("gateway").SetProtocolVersion(4))
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("MQTT: %v", tok.Error())
		}
	}
	wait(c.Connect())
	defer c.Disconnect(100)
	base := time.Now().UnixMilli()
	publish := func(from, to int) {
		for n := from; n < to; n++ {
			wait(c.Publish("vw/v1/ext-1/up/readings", 1, false, fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%d,"value":72,"unit":"/min"}`, base+int64(n))))
		}
	}
	publish(0, 50)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	publish(50, 100) // the broker keeps them for our session
	start, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Start(start); err != nil {
		t.Fatal(err)
	}
	// The broker has acknowledged what the server may not even have begun to take before it was killed.
	waitFor(t, "all readings to be stored once", func() bool {
		return knows(t, s, "P-ext-1") && len(list[struct{}](t, s, "/api/v1/patients/P-ext-1/readings?indicator=heart_rate&limit=1000")) == 100
	})
}

// TestEndToEnd_TwoServers: two servers share the devices of one broker, and one is killed and comes back. Every reading
// is stored by exactly one of them.
func TestEndToEnd_TwoServers(t *testing.T) {
	broker := mosquittotest.Start(t, mosquittotest.Options{Persistent: true})
	t.Setenv("VITALWATCH_MQTT_EXTERNAL_URL", broker.URL())
	t.Setenv("VITALWATCH_MQTT_EXTERNAL_TOPICS", "$share/vitalwatch/vw/v1/+/up/#")
	var servers []*child
	for _, name := range []string{"vitalwatch-a", "vitalwatch-b"} {
		t.Setenv("VITALWATCH_MQTT_EXTERNAL_CLIENT_ID", name)
		servers = append(servers, startServer(t, "registration: open\n"))
	}
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(broker.URL()).SetClientID("gateway").SetProtocolVersion(4))
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("MQTT: %v", tok.Error())
		}
	}
	wait(c.Connect())
	defer c.Disconnect(100)
	base := time.Now().UnixMilli()
	publish := func(from, to int) {
		for n := from; n < to; n++ {
			wait(c.Publish("vw/v1/ext-1/up/readings", 1, false, fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%d,"value":72,"unit":"/min"}`, base+int64(n))))
		}
	}
	publish(0, 60)
	if err := servers[1].Kill(); err != nil {
		t.Fatal(err)
	}
	publish(60, 120)
	start, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := servers[1].Start(start); err != nil {
		t.Fatal(err)
	}
	publish(120, 200)
	seen := map[string]int{}
	waitFor(t, "all readings to be stored", func() bool {
		clear(seen)
		for _, s := range servers {
			if !knows(t, s, "P-ext-1") {
				continue
			}
			for _, r := range list[struct {
				TakenAt string `json:"taken_at"`
			}](t, s, "/api/v1/patients/P-ext-1/readings?indicator=heart_rate&limit=1000") {
				seen[r.TakenAt]++
			}
		}
		return len(seen) == 200
	})
	for at, n := range seen {
		if n != 1 {
			t.Errorf("the reading of %s is stored %d times", at, n)
		}
	}
	for i, s := range servers {
		if !knows(t, s, "P-ext-1") || len(list[struct{}](t, s, "/api/v1/patients/P-ext-1/readings?indicator=heart_rate&limit=1000")) == 0 {
			t.Errorf("server %d had no share", i)
		}
	}
}
