package mqttd_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// gone expects the end without another packet.
func (c *client) gone() {
	c.t.Helper()
	p, err := c.read()
	var ne net.Error
	if err == nil || errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("got %+v, %v; want the connection closed", p, err)
	}
}

func TestConnect_refused(t *testing.T) {
	will := func(topic string, qos byte) func(*packet.Connect) {
		return func(p *packet.Connect) {
			p.HasWill, p.Will = true, packet.Will{Topic: []byte(topic), QoS: qos, Payload: []byte("{}")}
		}
	}
	login := func(user, password string) func(*packet.Connect) {
		return func(p *packet.Connect) {
			p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte(user), true, []byte(password)
		}
	}
	for _, tc := range []struct {
		name          string
		id            string
		change        func(*packet.Connect)
		code, code311 packet.ReasonCode
		result        string
	}{
		{"empty client id", "", nil, packet.ClientIDNotValid, 2, "client_id"},
		{"topic in client id", "D/1", nil, packet.ClientIDNotValid, 2, "client_id"},
		{"wildcard client id", "#", nil, packet.ClientIDNotValid, 2, "client_id"},
		{"long client id", strings.Repeat("x", 65), nil, packet.ClientIDNotValid, 2, "client_id"},
		{"another's client id", "D-2", login("D-1", "secret-D-1"), packet.ClientIDNotValid, 2, "client_id"},
		{"wrong password", "D-1", login("D-1", "guess-4711"), packet.BadUserNameOrPassword, 4, "bad_credentials"},
		{"not registered", "unregistered", nil, packet.NotAuthorized, 5, "not_authorized"},
		{"logins closed", "later", nil, packet.ServerUnavailable, 3, "unavailable"},
		{"logins broken", "broken", nil, packet.ServerUnavailable, 3, "unavailable"},
		{"will elsewhere", "D-1", will("vw/v1/D-2/up/status", 0), packet.TopicNameInvalid, 5, "will_topic"},
		{"will as reading", "D-1", will("vw/v1/D-1/up/readings", 1), packet.TopicNameInvalid, 5, "will_topic"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, v packet.Version) {
				d := open(t, nil, nil)
				c := d.dial(t, v)
				p := connectPacket(v, tc.id)
				if tc.change != nil {
					tc.change(p)
				}
				c.send(p, readingOf(tc.id, 1, "x")) // a hasty client
				ack := c.recv().(*packet.Connack)
				want := tc.code
				if v == packet.V311 {
					want = tc.code311
				} else if len(ack.Props.Data(packet.ReasonString)) == 0 {
					t.Error("no reason string")
				}
				if ack.Code != want || ack.SessionPresent {
					t.Errorf("%+v, want %v", ack, want)
				}
				c.gone()
				if n := count(t, d.m.Connects.WithLabelValues(tc.result)); n != 1 {
					t.Errorf("%v counted as %s", n, tc.result)
				}
				if got := d.in.payloads(); len(got) > 0 {
					t.Errorf("stored %v", got)
				}
				if strings.Contains(d.log.String(), "guess-4711") {
					t.Error("password in the log")
				}
			})
		})
	}
	t.Run("5.0 only", func(t *testing.T) {
		for name, tc := range map[string]struct {
			change func(*packet.Connect)
			code   packet.ReasonCode
		}{
			"authentication method": {func(p *packet.Connect) { p.Props.SetData(packet.AuthMethod, []byte("SCRAM")) }, packet.BadAuthMethod},
			"version 6":             {func(p *packet.Connect) { p.Version = 6 }, packet.UnsupportedVersion},
		} {
			t.Run(name, func(t *testing.T) {
				d := open(t, nil, nil)
				c := d.dial(t, packet.V5)
				p := connectPacket(packet.V5, "D-1")
				tc.change(p)
				c.send(p)
				if ack := c.recv().(*packet.Connack); ack.Code != tc.code {
					t.Errorf("%+v", ack)
				}
				c.gone()
			})
		}
	})
	t.Run("3.1", func(t *testing.T) {
		d := open(t, nil, nil)
		c := d.dial(t, packet.V311)
		c.write([]byte("\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01D"))
		if ack := c.recv().(*packet.Connack); ack.Code != packet.Refused311Version {
			t.Errorf("%+v", ack)
		}
		c.gone()
	})
}

func TestConnect_panicking_authenticator(t *testing.T) {
	d := open(t, nil, nil)
	c := d.dial(t, packet.V5)
	c.send(connectPacket(packet.V5, "panic"))
	c.gone()
	d.connect(t, packet.V5, "D-1").alive()
}

// What strangers send before CONNECT ends at once, without an answer.
func TestConnect_not_spoken(t *testing.T) {
	v5 := &client{t: t, v: packet.V5}
	for name, b := range map[string][]byte{
		"publish first":  v5.bytes(reading(1, "x")),
		"ping first":     {0xc0, 0},
		"HTTP":           []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"endless varint": {0x10, 0xff, 0xff, 0xff, 0xff},
		"huge":           {0x10, 0xff, 0xff, 0xff, 0x7f},
		"above bound":    {0x10, 0xff, 0x7f},
		"type 0":         {0, 0},
		"empty connect":  {0x10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, nil, nil)
			c := d.dial(t, packet.V5)
			c.write(b)
			c.gone()
		})
	}
}

// Silence and slow loris: the time for CONNECT runs from accept, whatever trickles in.
func TestConnect_too_slow(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.ConnectTimeout = 100 * time.Millisecond }, nil)
	silent := d.dial(t, packet.V5)
	slow := d.dial(t, packet.V5)
	b := slow.bytes(connectPacket(packet.V5, "D-1"))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		<-tick.C
		if _, err := slow.nc.Write(b[i%2 : i%2+1]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("slow loris lives")
			}
			break
		}
	}
	silent.gone()
}

// Every packet type, cut at every byte over real TCP, then closed: the server stays up and stores nothing by half.
func TestHostile_truncated_at_every_byte(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, func(c *mqttd.Config) { c.LoginFailures = 1 << 19 }, nil)
		full := connectPacket(v, "D-1")
		full.HasUsername, full.Username, full.HasPassword, full.Password = true, []byte("D-1"), true, []byte("secret-D-1")
		full.HasWill, full.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte(`{"state":"lost"}`)}
		sub := &packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#")}}}
		pub := reading(1, "body")
		if v == packet.V5 {
			pub.Props.SetNum(packet.MessageExpiry, 5)
			pub.Props.User = []packet.UserProperty{{Name: []byte("a"), Value: []byte("b")}}
			sub.Props.User = pub.Props.User
		}
		ps := []packet.Packet{full, pub, sub, &packet.Unsubscribe{ID: 1, Filters: [][]byte{[]byte("a")}},
			&packet.Ack{Kind: packet.PUBACK, ID: 1}, &packet.Ack{Kind: packet.PUBREL, ID: 1}, &packet.Disconnect{}, &packet.Ping{Kind: packet.PINGREQ}}
		for _, p := range ps {
			whole := (&client{t: t, v: v}).bytes(p)
			for cut := range whole {
				c := d.dial(t, v)
				if p != full {
					c.send(connectPacket(v, "D-1"))
					c.recv()
				}
				c.write(whole[:cut])
				c.nc.(*net.TCPConn).CloseWrite()
				c.gone()
			}
			// The length says less than the fields need.
			for n := range len(whole) - 2 {
				c := d.dial(t, v)
				if p != full {
					c.send(connectPacket(v, "D-1"))
					c.recv()
				}
				c.write(append([]byte{whole[0], byte(n)}, whole[2:2+n]...))
				c.nc.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c.nc)
			}
		}
		for _, s := range d.in.payloads() {
			if !strings.HasPrefix("readings:body", s) {
				t.Errorf("stored %q", s)
			}
		}
		if n := count(t, d.m.Panics); n != 0 {
			t.Errorf("%v panics", n)
		}
		d.connect(t, v, "D-1").alive()
	})
}

func TestHostile_after_connect(t *testing.T) {
	pub := func(topic string, change func(*packet.Publish)) packet.Packet {
		p := &packet.Publish{QoS: 1, ID: 9, Topic: []byte(topic), Payload: []byte("x")}
		if change != nil {
			change(p)
		}
		return p
	}
	const own = "vw/v1/D-1/up/readings"
	alias := func(n uint32, topic string) packet.Packet {
		return pub(topic, func(p *packet.Publish) { p.Props.SetNum(packet.TopicAlias, n) })
	}
	for _, tc := range []struct {
		name string
		v    packet.Version // 0: both
		send packet.Packet
		raw  []byte
		code packet.ReasonCode
		why  string
	}{
		{name: "second CONNECT", send: connectPacket(packet.V5, "D-1"), code: packet.ProtocolError, why: "protocol_error"},
		{name: "CONNACK", send: &packet.Connack{}, code: packet.ProtocolError, why: "protocol_error"},
		{name: "SUBACK", send: &packet.Suback{ID: 1, Codes: []packet.ReasonCode{0}}, code: packet.ProtocolError, why: "protocol_error"},
		{name: "PINGRESP", send: &packet.Ping{Kind: packet.PINGRESP}, code: packet.ProtocolError, why: "protocol_error"},
		{name: "AUTH", v: packet.V5, send: &packet.Auth{}, code: packet.ProtocolError, why: "protocol_error"},
		{name: "ping with body", raw: []byte{0xc0, 1, 0}, code: packet.ProtocolError, why: "protocol_error"},
		{name: "wildcard topic", send: pub("vw/v1/D-1/up/#", nil), code: packet.TopicNameInvalid, why: "protocol_error"},
		{name: "foreign topic", v: packet.V311, send: pub("vw/v1/D-2/up/readings", nil), why: "topic_refused"},
		{name: "own topic of another form", v: packet.V311, send: pub("vw/v1/D-1/up/a b", nil), why: "topic_refused"},
		{name: "alias never set", v: packet.V5, send: alias(1, ""), code: packet.ProtocolError, why: "protocol_error"},
		{name: "alias above the maximum", v: packet.V5, send: alias(17, own), code: packet.TopicAliasInvalid, why: "protocol_error"},
		{name: "alias above the maximum, alone", v: packet.V5, send: alias(65535, ""), code: packet.TopicAliasInvalid, why: "protocol_error"},
		{name: "alias 0", v: packet.V5, send: alias(0, own), code: packet.TopicAliasInvalid, why: "protocol_error"},
		{name: "alias for too long a topic", v: packet.V5, send: alias(1, strings.Repeat("t", 5000)), code: packet.TopicAliasInvalid, why: "protocol_error"},
		{name: "subscription id in PUBLISH", v: packet.V5, send: pub(own, func(p *packet.Publish) { p.Props.SubscriptionIDs = []uint32{1} }), code: packet.ProtocolError, why: "protocol_error"},
		{name: "too large", send: pub(own, func(p *packet.Publish) { p.Payload = make([]byte, 70_000) }), code: packet.PacketTooLarge, why: "packet_too_large"},
		{name: "huge length", raw: []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, code: packet.PacketTooLarge, why: "packet_too_large"},
		{name: "endless varint", raw: []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff}, code: packet.MalformedPacket, why: "malformed"},
		{name: "session expiry at DISCONNECT", v: packet.V5, send: func() packet.Packet {
			p := &packet.Disconnect{}
			p.Props.SetNum(packet.SessionExpiry, 9)
			return p
		}(), code: packet.ProtocolError, why: "protocol_error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, v packet.Version) {
				if tc.v != 0 && tc.v != v {
					t.Skip("the other version only")
				}
				d := open(t, nil, nil)
				c := d.connect(t, v, "D-1")
				other := d.connect(t, v, "D-2")
				if tc.raw != nil {
					c.write(tc.raw)
				} else {
					c.send(tc.send)
				}
				c.closed(tc.code)
				c.nc.Close()
				other.alive()
				other.nc.Close()
				d.Shutdown(t.Context())
				if n := count(t, d.m.Disconnects.WithLabelValues(tc.why)); n != 1 {
					t.Errorf("%v counted as %s", n, tc.why)
				}
				if got := d.in.payloads(); len(got) > 0 {
					t.Errorf("stored %v", got)
				}
			})
		})
	}
}

// On 5.0 a foreign topic is refused in its PUBACK and the connection goes on; with QoS 0 it is dropped.
func TestHostile_foreign_topic(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V5, "D-1")
	for i, tc := range []struct {
		topic string
		code  packet.ReasonCode
	}{
		{"vw/v1/D-2/up/readings", packet.NotAuthorized},
		{"vw/v1/D-1/down/cmd", packet.NotAuthorized},
		{"vw/v1/D-1/up/", packet.NotAuthorized},
		{"vw/v1/D-1/up", packet.NotAuthorized},
		{"vw/v1/D-10/up/readings", packet.NotAuthorized},
		{"vw/v1/D-1/up/gatt/2A18/x", packet.TopicNameInvalid},
		{"vw/v1/D-1/up/gatt/", packet.TopicNameInvalid},
		{"vw/v1/D-1/up//x", packet.TopicNameInvalid},
		{"vw/v1/D-1/up/设备", packet.TopicNameInvalid},
	} {
		p := &packet.Publish{QoS: 1, ID: uint16(i + 1), Topic: []byte(tc.topic), Payload: []byte("x")}
		q := &packet.Publish{Topic: []byte(tc.topic), Payload: []byte("x")}
		c.send(q, p)
		if ack := c.puback(uint16(i + 1)); ack.Code != tc.code {
			t.Errorf("%s: %v, want %v", tc.topic, ack.Code, tc.code)
		}
	}
	c.send(reading(99, "mine"))
	c.puback(99)
	if got := fmt.Sprint(d.in.payloads()); got != "[readings:mine]" {
		t.Errorf("stored %s", got)
	}
	if n := count(t, d.m.Refused.WithLabelValues("topic")); n != 18 {
		t.Errorf("%v refused", n)
	}
}

func TestHostile_receive_maximum(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.ReceiveMaximum = 3 }, nil)
	c := d.dial(t, packet.V5)
	c.send(connectPacket(packet.V5, "D-1"))
	if n := c.recv().(*packet.Connack).Props.Num(packet.ReceiveMaximum, 0); n != 3 {
		t.Errorf("receive maximum %d", n)
	}
	c.send(reading(1, "a"), reading(2, "b"), reading(3, "c"), reading(4, "d"))
	for i := range uint16(3) {
		c.puback(i + 1)
	}
	c.closed(packet.ReceiveMaximumExceeded)
}

// A device is one connection. The owner of the credential takes it over; nobody else does, and the old one lives on.
func TestTakeover(t *testing.T) {
	login := func(password string) func(*packet.Connect) {
		return func(p *packet.Connect) {
			p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("S-1"), true, []byte(password)
			p.HasWill, p.Will = true, packet.Will{Topic: []byte("vw/v1/S-1/up/status"), Payload: []byte(`{"state":"lost"}`)}
		}
	}
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		first := d.connect(t, v, "S-1", login("secret-S-1"))
		for _, foreign := range []func(*packet.Connect){login("guess"), func(*packet.Connect) {}} {
			thief := d.dial(t, v)
			p := connectPacket(v, "S-1")
			foreign(p)
			thief.send(p)
			if ack := thief.recv().(*packet.Connack); ack.Code == 0 {
				t.Fatal("the thief is in")
			}
			thief.gone()
		}
		first.alive()
		second := d.connect(t, v, "S-1", login("secret-S-1"))
		first.closed(packet.SessionTakenOver)
		second.send(readingOf("S-1", 1, "x"))
		second.puback(1)
		// Many at once: exactly one is left, and nothing hangs.
		var wg sync.WaitGroup
		var crowd []*client
		for range 20 {
			c := d.dial(t, v)
			p := connectPacket(v, "S-1")
			login("secret-S-1")(p)
			b := c.bytes(p)
			wg.Go(func() { c.nc.Write(b) })
			crowd = append(crowd, c)
		}
		second.closed(packet.SessionTakenOver)
		wg.Wait()
		for _, c := range crowd {
			if ack := c.recv().(*packet.Connack); ack.Code != 0 {
				t.Errorf("%+v", ack)
			}
		}
		d.connect(t, v, "S-1", login("secret-S-1")).alive()
		for _, c := range crowd {
			c.closed(packet.SessionTakenOver)
		}
		select {
		case s := <-d.st.got:
			t.Errorf("a will for a device that is there: %s", s)
		default:
		}
	})
}

func TestWill(t *testing.T) {
	will := func(p *packet.Connect) {
		p.HasWill, p.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), QoS: 1, Retain: true, Payload: []byte(`{"state":"lost"}`)}
	}
	for _, tc := range []struct {
		name string
		v    packet.Version
		end  func(c *client)
		want bool
	}{
		{"lost", 0, func(c *client) { c.nc.Close() }, true},
		{"reset", 0, func(c *client) { c.nc.(*net.TCPConn).SetLinger(0); c.nc.Close() }, true},
		{"protocol error", 0, func(c *client) { c.write([]byte{0, 0}); c.closed(packet.MalformedPacket); c.nc.Close() }, true},
		{"said goodbye", 0, func(c *client) { c.send(&packet.Disconnect{}) }, false},
		{"said goodbye with will", packet.V5, func(c *client) { c.send(&packet.Disconnect{Code: packet.DisconnectWithWill}) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, v packet.Version) {
				if tc.v != 0 && tc.v != v {
					t.Skip("the other version only")
				}
				d := open(t, nil, nil)
				c := d.connect(t, v, "D-1", will)
				tc.end(c)
				if tc.want {
					if got := <-d.st.got; got != `status D-1 {"state":"lost"}` {
						t.Errorf("got %s", got)
					}
					return
				}
				c.gone()
				d.Shutdown(t.Context())
				if len(d.st.got) > 0 {
					t.Errorf("got %s", <-d.st.got)
				}
			})
		})
	}
	t.Run("shutdown", func(t *testing.T) {
		d := open(t, nil, nil)
		d.connect(t, packet.V5, "D-1", will)
		d.Shutdown(t.Context())
		if len(d.st.got) > 0 {
			t.Errorf("the server left, not the device: %s", <-d.st.got)
		}
	})
}

func TestLimits_connections(t *testing.T) {
	t.Run("total", func(t *testing.T) {
		d := open(t, func(c *mqttd.Config) { c.MaxConnections = 2 }, nil)
		a := d.connect(t, packet.V5, "D-1")
		d.connect(t, packet.V5, "D-2")
		d.dial(t, packet.V5).gone()
		a.send(&packet.Disconnect{})
		a.gone()
		for { // its place is free when the server has seen it off
			c := d.dial(t, packet.V5)
			c.nc.Write(c.bytes(connectPacket(packet.V5, "D-3")))
			if _, err := c.read(); err == nil {
				break
			}
		}
	})
	t.Run("per address", func(t *testing.T) {
		d := open(t, func(c *mqttd.Config) { c.MaxConnectionsPerAddress, c.LimitLoopback = 2, true }, nil)
		d.connect(t, packet.V5, "D-1").alive()
		d.connect(t, packet.V5, "D-2").alive()
		d.dial(t, packet.V5).gone()
		if n := count(t, d.m.Connects.WithLabelValues("too_many_from_address")); n != 1 {
			t.Errorf("%v refused", n)
		}
	})
	t.Run("loopback is free", func(t *testing.T) {
		d := open(t, func(c *mqttd.Config) { c.MaxConnectionsPerAddress = 1 }, nil)
		d.connect(t, packet.V5, "D-1").alive()
		d.connect(t, packet.V5, "D-2").alive()
	})
}

func TestLimits_failed_logins(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.LoginFailures, c.LoginRefill, c.LimitLoopback = 3, time.Hour, true }, nil)
	in := d.connect(t, packet.V5, "D-1")
	for i := range 5 {
		c := d.dial(t, packet.V5)
		p := connectPacket(packet.V5, "D-2")
		p.HasUsername, p.Username = true, []byte("D-2")
		c.send(p)
		want := packet.BadUserNameOrPassword
		if i >= 3 {
			want = packet.ConnectionRateExceeded
		}
		if ack := c.recv().(*packet.Connack); ack.Code != want {
			t.Errorf("try %d: %v, want %v", i, ack.Code, want)
		}
	}
	in.alive() // those who are in stay in
}

// A stranger who guesses a device's secret under ever new client ids is slowed as one who uses the device's own.
func TestLimits_failed_logins_under_other_client_ids(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.LoginFailures, c.LoginRefill = 3, time.Hour }, nil)
	for i := range 5 {
		c := d.dial(t, packet.V5)
		p := connectPacket(packet.V5, fmt.Sprintf("X-%d", i))
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("D-2"), true, []byte("guess")
		c.send(p)
		want := packet.BadUserNameOrPassword
		if i >= 3 {
			want = packet.ConnectionRateExceeded
		}
		if ack := c.recv().(*packet.Connack); ack.Code != want {
			t.Errorf("try %d: %v, want %v", i, ack.Code, want)
		}
	}
	d.connect(t, packet.V5, "X-1") // whose id was abused
}

// 500 sockets that say nothing cost little and hinder nobody.
func TestLimits_idle_strangers(t *testing.T) {
	d := open(t, nil, nil)
	for range 500 {
		d.dial(t, packet.V5)
	}
	c := d.connect(t, packet.V5, "D-1")
	c.send(reading(1, "x"))
	c.puback(1)
	if n := count(t, d.m.Connections); n != 501 {
		t.Errorf("%v connections", n)
	}
}

// A device above its rate is slowed, never dropped, and everything is acknowledged.
func TestLimits_message_rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // on a busy machine the allowance would come back as fast as it is used
		m, connect := limited(t, 600) // burst 600, then one per 100 ms
		c, got := connect("D-1")
		start := time.Now()
		var all []byte
		for id := range uint16(603) {
			all = append(all, c.bytes(reading(id+1, "x"))...)
		}
		c.write(all)
		for id := range uint16(603) {
			if a, ok := (<-got).(*packet.Ack); !ok || a.ID != id+1 {
				t.Fatalf("got %+v, want PUBACK %d", a, id+1)
			}
		}
		c.send(&packet.Ping{Kind: packet.PINGREQ})
		if p, ok := (<-got).(*packet.Ping); !ok {
			t.Fatalf("got %+v, want PINGRESP", p)
		}
		if took := time.Since(start); took < 300*time.Millisecond || took > 310*time.Millisecond {
			t.Errorf("took %v, want 300 ms", took)
		}
		if n := count(t, m.Throttled); n == 0 {
			t.Error("not counted")
		}
		c.nc.Close()
	})
}
