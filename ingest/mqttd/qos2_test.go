package mqttd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

func twice(id uint16, body string) *packet.Publish {
	p := reading(id, body)
	p.QoS = 2
	return p
}

func dup(p *packet.Publish) *packet.Publish { p.Dup = true; return p }

func rel(id uint16) *packet.Ack { return &packet.Ack{Kind: packet.PUBREL, ID: id} }

// answer expects one acknowledgement.
func (c *client) answer(kind packet.Type, id uint16, code packet.ReasonCode) *packet.Ack {
	c.t.Helper()
	if c.v == packet.V311 {
		code = 0
	}
	p, ok := c.recv().(*packet.Ack)
	if !ok || p.Kind != kind || p.ID != id || p.Code != code {
		c.t.Fatalf("got %+v, want %s %d %v", p, kind, id, code)
	}
	return p
}

// kept is a client whose session outlives its connection.
func kept(p *packet.Connect) {
	p.CleanStart = false
	if p.Version == packet.V5 {
		p.Props.SetNum(packet.SessionExpiry, 3600)
	}
}

// A message counts once between PUBLISH and PUBREL, however often and however marked it comes.
func TestQoS2_applied_once(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		c.send(twice(7, "a"), dup(twice(7, "a")), twice(7, "a"), reading(8, "b"), twice(9, "c"))
		c.answer(packet.PUBREC, 7, 0)
		c.answer(packet.PUBREC, 7, 0)
		c.answer(packet.PUBREC, 7, 0)
		c.puback(8)
		c.answer(packet.PUBREC, 9, 0)
		c.send(dup(twice(7, "a")))
		c.answer(packet.PUBREC, 7, 0)
		c.send(rel(9), rel(7), rel(7), rel(100)) // out of order, twice, never heard of
		c.answer(packet.PUBCOMP, 9, 0)
		c.answer(packet.PUBCOMP, 7, 0)
		c.answer(packet.PUBCOMP, 7, packet.Success)
		c.answer(packet.PUBCOMP, 100, packet.Success)
		c.send(twice(7, "d"), rel(7)) // a new one, released without waiting
		c.answer(packet.PUBREC, 7, 0)
		c.answer(packet.PUBCOMP, 7, 0)
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a readings:b readings:c readings:d]" {
			t.Errorf("stored %s", got)
		}
	})
}

// No PUBREC before the commit; a group that fails is not remembered, and is applied when it comes again.
func TestQoS2_after_commit(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		var fail atomic.Bool
		entered, release := make(chan struct{}), make(chan struct{})
		in := &intake{gate: func(context.Context, []ingest.Message) error {
			entered <- struct{}{}
			<-release
			if fail.Load() {
				return errors.New("journal stalled")
			}
			return nil
		}}
		d := open(t, nil, in)
		c := d.connect(t, v, "D-1", kept)
		fail.Store(true)
		c.send(twice(1, "a"))
		<-entered
		c.silence()
		release <- struct{}{}
		c.closed(packet.ServerBusy)
		fail.Store(false)
		c = d.connect(t, v, "D-1", kept)
		c.send(dup(twice(1, "a")))
		<-entered
		c.silence()
		release <- struct{}{}
		c.answer(packet.PUBREC, 1, 0)
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a]" {
			t.Errorf("stored %s", got)
		}
	})
}

// The ids live with the session: over a reconnect, a reset before PUBREC and a takeover, but not into a clean one.
func TestQoS2_over_connections(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		entered, release := make(chan struct{}, 10), make(chan struct{}, 10)
		in := &intake{gate: func(context.Context, []ingest.Message) error { entered <- struct{}{}; <-release; return nil }}
		d := open(t, nil, in)
		first := d.connect(t, v, "D-1", kept)
		first.send(twice(1, "a"))
		<-entered // in the journal's hands when the next connection comes
		second := d.dial(t, v)
		p := connectPacket(v, "D-1")
		kept(p)
		second.send(p, dup(twice(1, "a")))
		second.silence() // its turn comes when the first is done
		release <- struct{}{}
		if ack := second.recv().(*packet.Connack); ack.Code != 0 || !ack.SessionPresent {
			t.Fatalf("%+v", ack)
		}
		second.answer(packet.PUBREC, 1, 0)
		second.nc.Close()
		third := d.connect(t, v, "D-1", kept)
		third.send(dup(twice(1, "a")), rel(1))
		third.answer(packet.PUBREC, 1, 0)
		third.answer(packet.PUBCOMP, 1, 0)
		release <- struct{}{}
		third.send(twice(2, "b"))
		third.answer(packet.PUBREC, 2, 0)
		third.nc.Close()
		clean := d.connect(t, v, "D-1")
		clean.send(rel(2))
		clean.answer(packet.PUBCOMP, 2, packet.Success)
		release <- struct{}{}
		clean.send(dup(twice(2, "b")))
		clean.answer(packet.PUBREC, 2, 0)
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a readings:b readings:b]" { // the journal knows the last
			t.Errorf("stored %s", got)
		}
	})
}

// From 0x80 on the exchange is over on 5.0: the id is free. On 3.1.1 the client goes on with PUBREL.
func TestQoS2_refused(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		c.send(twice(1, "bad"))
		c.answer(packet.PUBREC, 1, packet.PayloadFormatInvalid)
		if v == packet.V311 {
			c.send(rel(1))
			c.answer(packet.PUBCOMP, 1, 0)
		} else {
			foreign := twice(3, "x")
			foreign.Topic = []byte("vw/v1/D-2/up/readings")
			c.send(foreign)
			c.answer(packet.PUBREC, 3, packet.NotAuthorized)
			c.send(rel(3))
			c.answer(packet.PUBCOMP, 3, packet.Success)
		}
		c.send(twice(1, "good"))
		c.answer(packet.PUBREC, 1, 0)
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:bad readings:good]" {
			t.Errorf("stored %s", got)
		}
	})
}

// QoS 1 and QoS 2 share the receive maximum, and what waits for PUBREL counts.
func TestQoS2_receive_maximum(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.ReceiveMaximum = 3 }, nil)
	c := d.connect(t, packet.V5, "D-1")
	c.send(twice(1, "a"), twice(2, "b"), reading(3, "c"))
	c.answer(packet.PUBREC, 1, 0)
	c.answer(packet.PUBREC, 2, 0)
	c.puback(3)
	c.send(reading(4, "d"), dup(twice(2, "b")))
	c.puback(4)
	c.answer(packet.PUBREC, 2, 0)
	c.send(rel(1))
	c.answer(packet.PUBCOMP, 1, 0)
	c.send(twice(5, "e"), reading(6, "f"))
	c.answer(packet.PUBREC, 5, 0)
	c.puback(6)
	c.send(twice(7, "g"), twice(8, "h"))
	c.answer(packet.PUBREC, 7, 0)
	c.closed(packet.ReceiveMaximumExceeded)
	if got := strings.Join(d.in.payloads(), " "); strings.Contains(got, "h") {
		t.Errorf("stored %s", got)
	}
}

// 3.1.1 knows no receive maximum: all its ids may be open at once.
func TestQoS2_all_ids(t *testing.T) {
	n := 65535
	if raceEnabled {
		n = 5000 // enough to be above the receive maximum of 5.0
	}
	d := open(t, nil, nil)
	c := d.connect(t, packet.V311, "D-1")
	c.nc.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		var b []byte
		for id := range n {
			b, _ = twice(uint16(id+1), "x").Append(b, c.v)
		}
		for id := range n {
			b, _ = rel(uint16(id+1)).Append(b, c.v)
		}
		c.nc.Write(b)
	}()
	for _, kind := range []packet.Type{packet.PUBREC, packet.PUBCOMP} {
		got := make([]byte, 4*n)
		if _, err := io.ReadFull(c.r, got); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if a := got[4*i:][:4]; a[0] != byte(kind)<<4 || a[1] != 2 || int(a[2])<<8|int(a[3]) != i+1 {
				t.Fatalf("got %x, want %s %d", a, kind, i+1)
			}
		}
	}
}

// A PUBREC for a message that we never sent is answered so that the client can end it.
func TestQoS2_stray(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: 5}, &packet.Ack{Kind: packet.PUBCOMP, ID: 5}, &packet.Ack{Kind: packet.PUBACK, ID: 6})
		c.answer(packet.PUBREL, 5, packet.PacketIDNotFound)
		c.alive()
	})
}
