package mqttd_test

import (
	"net"
	"testing"
	"time"

	"vitalwatch/ingest/mqttd/packet"
)

// FuzzServer sends arbitrary bytes after CONNECT over TCP: never a panic, whatever comes back is MQTT, no more is
// acknowledged with success than was stored, and another device is served on.
func FuzzServer(f *testing.F) {
	for _, v := range versions {
		c := &client{t: f, v: v}
		f.Add(byte(v), c.bytes(reading(1, "x"), reading(2, "bad"), &packet.Ping{Kind: packet.PINGREQ}))
		f.Add(byte(v), c.bytes(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#")}}}, reading(2, "bad"), &packet.Disconnect{}))
		f.Add(byte(v), c.bytes(&packet.Unsubscribe{ID: 1, Filters: [][]byte{[]byte("a")}}, &packet.Ack{Kind: packet.PUBREL, ID: 3}, connectPacket(v, "D-1")))
		f.Add(byte(v), c.bytes(twice(1, "x"), dup(twice(1, "x")), rel(1), &packet.Ack{Kind: packet.PUBREC, ID: 3}, twice(2, "bad"), rel(9)))
		alias := reading(1, "x")
		if v == packet.V5 {
			alias.Props.SetNum(packet.TopicAlias, 2)
		}
		again := *alias
		again.Topic = alias.Topic[:0]
		if v == packet.V5 {
			f.Add(byte(v), c.bytes(alias, &again))
		}
	}
	d := open(f, nil, nil)
	other := d.connect(f, packet.V5, "other")
	other.nc.SetDeadline(time.Time{})
	f.Fuzz(func(t *testing.T, vb byte, b []byte) {
		v := packet.V5
		if vb == 4 {
			v = packet.V311
		}
		d.in.mu.Lock()
		d.in.stored = nil
		d.in.mu.Unlock()
		c := d.connect(t, v, "D-1")
		c.nc.Write(b)
		c.nc.(*net.TCPConn).CloseWrite()
		acked := 0
		for {
			p, err := c.read()
			if err != nil {
				if _, ok := err.(*packet.Error); ok {
					t.Fatalf("the server sent what is not MQTT: %v", err)
				}
				break
			}
			if a, ok := p.(*packet.Ack); ok && a.Kind == packet.PUBACK && !a.Code.Failed() {
				acked++
			}
		}
		c.nc.Close()
		other.t = t
		other.alive()
		if n := count(t, d.m.Panics); n != 0 {
			t.Fatalf("%v panics: %s", n, d.log.String())
		}
		// Status and ack messages are acknowledged without the intake.
		if stored := len(d.in.payloads()) + len(d.st.got); acked > stored {
			t.Fatalf("%d acknowledged, %d stored", acked, stored)
		}
		for len(d.st.got) > 0 {
			<-d.st.got
		}
	})
}
