package mqttd_test

import (
	"fmt"
	"strings"
	"testing"

	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/vitals"
)

func TestSubscribe(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		filters := []struct {
			filter string
			code   packet.ReasonCode
		}{
			{"vw/v1/D-1/down/#", 1}, {"vw/v1/D-1/down/cmd", 1}, {"vw/v1/D-1/down/+/x", 1},
			{"vw/v1/D-2/down/#", packet.NotAuthorized}, {"#", packet.NotAuthorized}, {"vw/v1/+/down/#", packet.NotAuthorized},
			{"vw/v1/D-1/#", packet.NotAuthorized}, {"vw/v1/D-1/up/#", packet.NotAuthorized}, {"$SYS/#", packet.NotAuthorized},
			{"$share/g/vw/v1/D-1/down/#", packet.SharedSubsUnsupported}, {"vw/v1/D-1/down/a#", packet.TopicFilterInvalid},
		}
		p := &packet.Subscribe{ID: 7}
		for _, f := range filters {
			p.Filters = append(p.Filters, packet.Filter{Topic: []byte(f.filter), QoS: 2})
		}
		c.send(p)
		ack := c.recv().(*packet.Suback)
		if ack.ID != 7 || len(ack.Codes) != len(filters) {
			t.Fatalf("%+v", ack)
		}
		for i, f := range filters {
			want := f.code
			if want.Failed() && v == packet.V311 {
				want = packet.SubackFailure311
			}
			if ack.Codes[i] != want {
				t.Errorf("%s: %v, want %v", f.filter, ack.Codes[i], want)
			}
		}
		var many packet.Subscribe
		many.ID = 8
		for i := range 8 {
			many.Filters = append(many.Filters, packet.Filter{Topic: fmt.Appendf(nil, "vw/v1/D-1/down/%d", i)})
		}
		c.send(&many)
		if codes := c.recv().(*packet.Suback).Codes; codes[4].Failed() || !codes[5].Failed() {
			t.Errorf("bound of 8 with 3 there: %v", codes)
		}
		c.send(&packet.Unsubscribe{ID: 9, Filters: [][]byte{[]byte("vw/v1/D-1/down/#"), []byte("never")}})
		un := c.recv().(*packet.Unsuback)
		if un.ID != 9 || v == packet.V5 && fmt.Sprint(un.Codes) != "[0x00 0x11]" {
			t.Errorf("%+v", un)
		}
	})
}

func TestServer_Publish(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1", func(p *packet.Connect) {
			if v == packet.V5 {
				p.Props.SetNum(packet.MaximumPacketSize, 1000)
			}
		})
		if d.Publish("D-1", "down/cmd", []byte("early")) {
			t.Error("sent without subscription")
		}
		c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/+")}}})
		c.recv()
		for _, tc := range []struct {
			device, topic, body string
			want                bool
		}{
			{"D-1", "down/cmd", "one", true}, {"D-1", "down/cmd/deep", "x", false}, {"D-2", "down/cmd", "x", false},
			{"D-1", "up/readings", "x", false}, {"D-1", "down/#", "x", false}, {"D-1", "down/", "x", false},
			{"D-1", "down/big", strings.Repeat("b", 1000), v == packet.V311},
			{"D-1", "down/config", "two", true},
		} {
			if got := d.Publish(vid(tc.device), tc.topic, []byte(tc.body)); got != tc.want {
				t.Errorf("%s %s: %v", tc.device, tc.topic, got)
			}
		}
		want := []string{"vw/v1/D-1/down/cmd one", "vw/v1/D-1/down/config two"}
		if v == packet.V311 {
			want = []string{want[0], "vw/v1/D-1/down/big " + strings.Repeat("b", 1000), want[1]}
		}
		for _, w := range want {
			p := c.recv().(*packet.Publish)
			if got := string(p.Topic) + " " + string(p.Payload); got != w || p.QoS != 0 || p.Retain {
				t.Errorf("got %.60s, want %.60s", got, w)
			}
		}
	})
}

// A device that does not read costs the bound of its queue; publishers never wait, and its end is quick.
func TestServer_Publish_to_a_deaf_device(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.DownQueue = 4096 }, nil)
	c := d.connect(t, packet.V311, "D-1")
	c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#")}}})
	c.recv()
	body := []byte(strings.Repeat("x", 4000))
	sent := 0
	for d.Publish("D-1", "down/cmd", body) || sent == 0 || count(t, d.m.Dropped.WithLabelValues("queue_full")) < 1000 {
		if sent++; sent > 1_000_000 {
			t.Fatal("never full")
		}
	}
	if !d.DisconnectDevice("D-1", "test") {
		t.Error("not connected")
	}
}

func vid(s string) vitals.DeviceID { return vitals.DeviceID(s) }
