package mqttd_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"vitalwatch/ingest/mqttd/packet"
)

// Statements of the two standards that no other test holds, see docs/mqtt-conformance.md.

// keep asks for a session that outlives its connection.
func keep(p *packet.Connect) {
	p.CleanStart = false
	if p.Version == packet.V5 {
		p.Props.SetNum(packet.SessionExpiry, 3600)
	}
}

// clean asks for a new one that does, which 3.1.1 does not have.
func clean(p *packet.Connect) {
	keep(p)
	p.CleanStart = true
}

// answered expects an acknowledgement of this kind.
func (c *client) answered(kind packet.Type, id uint16) *packet.Ack {
	c.t.Helper()
	p, ok := c.recv().(*packet.Ack)
	if !ok || p.Kind != kind || p.ID != id {
		c.t.Fatalf("got %+v, want %s %d", p, kind, id)
	}
	return p
}

func qos2(id uint16, body string) *packet.Publish {
	p := reading(id, body)
	p.QoS = 2
	return p
}

func again(p *packet.Publish) *packet.Publish { p.Dup = true; return p }

func pubrel(id uint16) packet.Packet { return &packet.Ack{Kind: packet.PUBREL, ID: id} }

// leave ends the connection as a lost network does.
func (c *client) leave() { c.nc.Close() }

// stored expects what was applied so far.
func (d *door) stored(t testing.TB, want ...string) {
	t.Helper()
	if got := d.in.payloads(); !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
}

func TestClause_BOM(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		p := reading(1, "x")
		p.Topic = []byte("\ufeffa/b")
		c.send(p)
		c.puback(1)
		if m := d.in.stored[0]; m.Topic != "\ufeffa/b" {
			t.Errorf("topic %q", m.Topic)
		}
	})
}

// Other names and levels of the protocol are told so in the form that they most likely read.
func TestClause_version(t *testing.T) {
	for _, tc := range []struct{ name, connect, want string }{
		{"3.1", "100f" + "00064d5149736470" + "03020000" + "000141", "20020001"},
		{"level 3", "100d" + "00044d515454" + "03020000" + "000141", "20020001"},
		{"level 0", "100d" + "00044d515454" + "00020000" + "000141", "20020001"},
		{"another name", "100d" + "00044d515458" + "04020000" + "000141", "20020001"},
		{"level 6", "100e" + "00044d515454" + "06020000" + "00" + "000141", "20"}, // 5.0: with a reason string
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := open(t, nil, nil)
			c := d.dial(t, packet.V5)
			b, err := hex.DecodeString(tc.connect)
			if err != nil {
				t.Fatal(err)
			}
			c.write(b)
			if len(tc.want) > 2 {
				got := make([]byte, 4)
				for i := range got {
					if got[i], err = c.r.ReadByte(); err != nil {
						t.Fatal(err)
					}
				}
				if hex.EncodeToString(got) != tc.want {
					t.Errorf("got %x", got)
				}
			} else if ack := c.recv().(*packet.Connack); ack.Code != packet.UnsupportedVersion || ack.SessionPresent {
				t.Errorf("got %+v", ack)
			}
			c.gone()
		})
	}
}

func TestClause_malformed_CONNECT(t *testing.T) {
	for name, body := range map[string]string{
		"reserved flag":      "%s03" + "003c" + "%s" + "000141",
		"will QoS 3":         "%s1e" + "003c" + "%s" + "000141" + "%s" + "000161" + "0000",
		"NUL in client id":   "%s02" + "003c" + "%s" + "000100",
		"bytes left":         "%s02" + "003c" + "%s" + "000141" + "00",
		"no client id":       "%s02" + "003c" + "%s",
		"will retain alone":  "%s22" + "003c" + "%s" + "000141",
		"user name not UTF8": "%s82" + "003c" + "%s" + "000141" + "0001ff",
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, v packet.Version) {
				args := []any{"04", "", ""}
				if v == packet.V5 {
					args = []any{"05", "00", "00"}
				}
				n := 2
				if name == "will QoS 3" {
					n = 3
				}
				b, err := hex.DecodeString("00044d515454" + fmt.Sprintf(body, args[:n]...))
				if err != nil {
					t.Fatal(err)
				}
				d := open(t, nil, nil)
				c := d.dial(t, v)
				c.write(append([]byte{0x10, byte(len(b))}, b...))
				if v == packet.V5 { // 3.1.1 closes without a word
					if ack := c.recv().(*packet.Connack); ack.Code != packet.MalformedPacket {
						t.Errorf("%v", ack.Code)
					}
				}
				c.gone()
			})
		})
	}
}

func TestClause_clean_start(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		down := func(c *client) bool { // whether the session's subscription is there
			c.alive() // the server is past CONNACK
			if !d.Publish("D-1", "down/cmd", []byte("x")) {
				return false
			}
			_, ok := c.recv().(*packet.Publish)
			return ok
		}
		for i, step := range []struct {
			connect       func(*packet.Connect)
			present, subs bool
		}{
			{keep, false, false}, // none yet
			{keep, true, true},
			{keep, true, true},
			{func(*packet.Connect) {}, false, false}, // clean, ends with its connection
			{keep, false, false},
			{keep, true, true},
			{clean, false, false}, // clean, and in 5.0 kept
			{keep, v == packet.V5, v == packet.V5},
		} {
			c, ack := d.hello(t, v, "D-1", step.connect)
			if ack.Code != 0 || ack.SessionPresent != step.present {
				t.Fatalf("step %d: %v, session present %v", i, ack.Code, ack.SessionPresent)
			}
			if got := down(c); got != step.subs {
				t.Fatalf("step %d: subscribed %v", i, got)
			}
			c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#")}}})
			if _, ok := c.recv().(*packet.Suback); !ok {
				t.Fatal("no SUBACK")
			}
			if !down(c) {
				t.Fatalf("step %d: not subscribed", i)
			}
			c.leave()
		}
	})
}

// What follows a CONNECT that is refused is not looked at.
func TestClause_nothing_after_a_refusal(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.dial(t, v)
		p := connectPacket(v, "D-1")
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("D-1"), true, []byte("wrong")
		c.send(p, reading(1, "x"), &packet.Ping{Kind: packet.PINGREQ})
		if ack := c.recv().(*packet.Connack); !ack.Code.Failed() && v == packet.V5 || ack.Code == 0 {
			t.Errorf("%+v", ack)
		}
		c.gone()
		d.stored(t)
	})
}

// All of a client's first words in one write: CONNACK comes first, and once.
func TestClause_CONNACK_first(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.dial(t, v)
		c.send(connectPacket(v, "D-1"), &packet.Ping{Kind: packet.PINGREQ}, reading(1, "x"),
			&packet.Subscribe{ID: 2, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#")}}}, &packet.Disconnect{})
		var got []packet.Type
		for {
			p, err := c.read()
			if err != nil {
				break
			}
			got = append(got, p.Type())
		}
		if len(got) != 4 || got[0] != packet.CONNACK || slices.Contains(got[1:], packet.CONNACK) {
			t.Errorf("got %v", got)
		}
		d.stored(t, "readings:x")
	})
}

func TestClause_QoS_2(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1", keep)
		c.send(qos2(1, "a"), qos2(2, "b"), qos2(3, "c"))
		for id := range uint16(3) {
			c.answered(packet.PUBREC, id+1) // in the order of receipt
		}
		// The same ids are the same messages: with DUP, without it, and with other content.
		c.send(again(qos2(1, "a")), qos2(2, "b"), qos2(3, "other"))
		for id := range uint16(3) {
			c.answered(packet.PUBREC, id+1)
		}
		d.stored(t, "readings:a", "readings:b", "readings:c")
		// Also on the session's next connection, taken over or lost.
		for range 2 {
			next, ack := d.hello(t, v, "D-1", keep)
			if !ack.SessionPresent {
				t.Fatal("no session")
			}
			c.leave()
			c = next
			c.send(again(qos2(2, "b")), again(qos2(3, "c")))
			c.answered(packet.PUBREC, 2)
			c.answered(packet.PUBREC, 3)
		}
		d.stored(t, "readings:a", "readings:b", "readings:c")
		// PUBREL in any order, of which some may be lost and come again.
		c.send(pubrel(3), pubrel(1), pubrel(3), pubrel(2), pubrel(4711))
		for _, id := range []uint16{3, 1, 3, 2, 4711} {
			if p := c.answered(packet.PUBCOMP, id); p.Code != packet.Success {
				t.Errorf("PUBCOMP %d: %v", id, p.Code)
			}
		}
		// Now the id is free, DUP or not; and an expiry of what comes in changes nothing.
		p := again(qos2(2, "new"))
		if v == packet.V5 {
			p.Props.SetNum(packet.MessageExpiry, 0)
		}
		c.send(p)
		c.answered(packet.PUBREC, 2)
		d.stored(t, "readings:a", "readings:b", "readings:c", "readings:new")
		c.send(pubrel(2))
		c.answered(packet.PUBCOMP, 2)
		// A new session knows nothing of the old one's ids.
		c.send(qos2(9, "x"))
		c.answered(packet.PUBREC, 9)
		c.leave()
		c = d.connect(t, v, "D-1")
		c.send(again(qos2(9, "y")))
		c.answered(packet.PUBREC, 9)
		d.stored(t, "readings:a", "readings:b", "readings:c", "readings:new", "readings:x", "readings:y")
	})
}

// A PUBREC of 0x80 and more ends the exchange: the id is free at once.
func TestClause_QoS_2_refused(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V5, "D-1", keep)
	foreign := qos2(1, "x")
	foreign.Topic = []byte("vw/v1/D-2/up/readings")
	for _, tc := range []struct {
		p    *packet.Publish
		code packet.ReasonCode
	}{{foreign, packet.NotAuthorized}, {qos2(1, "bad"), packet.PayloadFormatInvalid}} {
		c.send(tc.p)
		if p := c.answered(packet.PUBREC, 1); p.Code != tc.code {
			t.Errorf("%v, want %v", p.Code, tc.code)
		}
		c.send(pubrel(1))
		c.answered(packet.PUBCOMP, 1)
	}
	c.send(again(qos2(1, "good")))
	if p := c.answered(packet.PUBREC, 1); p.Code != 0 {
		t.Errorf("%v", p.Code)
	}
	d.stored(t, "readings:bad", "readings:good")
}

// In 3.1.1 there is no such code: a quarantined message goes the whole way.
func TestClause_QoS_2_quarantined_in_311(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V311, "D-1", keep)
	c.send(qos2(1, "bad"))
	c.answered(packet.PUBREC, 1)
	c.send(again(qos2(1, "bad")))
	c.answered(packet.PUBREC, 1)
	c.send(pubrel(1))
	c.answered(packet.PUBCOMP, 1)
	d.stored(t, "readings:bad")
}

func TestClause_identifier_is_free_again(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		c.send(reading(1, "a"), reading(1, "b"), again(reading(1, "c")))
		for range 3 {
			c.puback(1)
		}
		d.stored(t, "readings:a", "readings:b", "readings:c")
	})
}

func TestClause_shared_no_local(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V5, "D-1")
	c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("$share/g/vw/v1/D-1/down/#"), NoLocal: true}}})
	c.closed(packet.ProtocolError)
}

func TestClause_DISCONNECT_flags(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1", func(p *packet.Connect) {
			p.HasWill, p.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte(`{"state":"lost"}`)}
		})
		c.write([]byte{0xe1, 0})
		c.closed(packet.MalformedPacket)
		if got := <-d.st.got; got != `status D-1 {"state":"lost"}` { // it was no DISCONNECT
			t.Errorf("got %s", got)
		}
	})
}

func TestClause_authentication_method(t *testing.T) {
	d := open(t, nil, nil)
	c, ack := d.hello(t, packet.V5, "D-1", func(p *packet.Connect) { p.Props.SetData(packet.AuthMethod, []byte("SCRAM-SHA-256")) })
	if ack.Code != packet.BadAuthMethod {
		t.Errorf("%v", ack.Code)
	}
	c.gone()
	c, ack = d.hello(t, packet.V5, "D-1")
	if ack.Code != 0 || ack.Props.Has(packet.AuthMethod) || ack.Props.Has(packet.AuthData) {
		t.Errorf("%+v", ack)
	}
	c.alive()
}

// A reason string that does not fit into the client's maximum packet size stays away; the code does not.
func TestClause_reason_string_size(t *testing.T) {
	d := open(t, nil, nil)
	small := func(p *packet.Connect) { p.Props.SetNum(packet.MaximumPacketSize, 40) }
	c, ack := d.hello(t, packet.V5, "D/1", small)
	if ack.Code != packet.ClientIDNotValid || ack.Props.Has(packet.ReasonString) {
		t.Errorf("%+v", ack)
	}
	c.gone()
	c = d.connect(t, packet.V5, "D-1", small)
	c.write([]byte{0, 0})
	p, err := c.read()
	if e, ok := p.(*packet.Disconnect); !ok || e.Code != packet.MalformedPacket || e.Props.Has(packet.ReasonString) {
		t.Errorf("got %+v, %v", p, err)
	}
}

// A message that was on its way when its subscription ended is delivered to its end; what comes after it is not.
func TestClause_unsubscribe_in_flight(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		h := openLasting(t)
		c := h.connect(t, v, "D-1", keep)
		subscribed(c, "D-1", 1)
		h.send("D-1", "cmd", "one")
		p := c.down("one", false)
		c.send(&packet.Unsubscribe{ID: 2, Filters: [][]byte{[]byte("vw/v1/D-1/down/#")}})
		if _, ok := c.recv().(*packet.Unsuback); !ok {
			t.Fatal("no UNSUBACK")
		}
		h.send("D-1", "cmd", "two")
		c.alive()
		c.leave()
		c = h.connect(t, v, "D-1", keep)
		if q := c.down("one", true); q.ID != p.ID {
			t.Errorf("packet id %d, was %d", q.ID, p.ID)
		}
		c.ack(p)
		c.alive()
	})
}

// Of overlapping subscriptions the highest QoS counts, and the message comes once.
func TestClause_overlapping_QoS(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		h := openLasting(t)
		c := h.connect(t, v, "D-1")
		c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{
			{Topic: []byte("vw/v1/D-1/down/#")}, {Topic: []byte("vw/v1/D-1/down/cmd"), QoS: 1}, {Topic: []byte("vw/v1/D-1/down/+")}}})
		c.recv()
		h.send("D-1", "cmd", "x")
		p := c.down("x", false)
		if p.QoS != 1 {
			t.Errorf("QoS %d", p.QoS)
		}
		c.ack(p)
		c.alive()
	})
}
