package mqttd_test

import (
	"fmt"
	"strings"
	"testing"

	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// The ingest part of the public interoperability tests of the Eclipse project (paho.mqtt.testing, client_test.py and
// client_test5.py), rewritten with raw packets: the same client ids and topics, the same steps, and what a server that
// routes nothing owes to such a client in their place. Where those tests wait for a message of another client, a message
// of the server's own below down/ takes its part.

const (
	pahoClient  = "myclientid"
	pahoClient2 = "myclientid2"
)

var pahoTopics = []string{"TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"}

func up(topic string, qos byte, id uint16, body string) *packet.Publish {
	return &packet.Publish{Topic: []byte(topic), QoS: qos, ID: id, Payload: []byte(body)}
}

func subscribe(id uint16, filters ...string) *packet.Subscribe {
	p := &packet.Subscribe{ID: id}
	for _, f := range filters {
		p.Filters = append(p.Filters, packet.Filter{Topic: []byte(f), QoS: 2})
	}
	return p
}

// granted expects a SUBACK and returns its codes.
func (c *client) granted(id uint16) []packet.ReasonCode {
	c.t.Helper()
	p, ok := c.recv().(*packet.Suback)
	if !ok || p.ID != id {
		c.t.Fatalf("got %+v, want SUBACK %d", p, id)
	}
	return p.Codes
}

// test_basic: publish at each QoS to topics that are nobody's, all is acknowledged; then the things that must not go.
func TestPahoTesting_basic(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c, ack := d.hello(t, v, pahoClient)
		if ack.Code != 0 || v == packet.V5 && (ack.Props.Has(packet.MaximumQoS) || ack.Props.Has(packet.RetainAvailable)) {
			t.Fatalf("%+v", ack)
		}
		c.send(subscribe(1, pahoTopics[0]))
		if code := c.granted(1)[0]; !code.Failed() {
			t.Errorf("granted %v", code)
		}
		c.send(up(pahoTopics[0], 0, 0, "qos 0"))
		c.send(up(pahoTopics[0], 1, 2, "qos 1"))
		if p := c.puback(2); v == packet.V5 && p.Code != packet.Success && !p.Code.Failed() {
			t.Errorf("%v", p.Code)
		}
		c.send(up(pahoTopics[0], 2, 3, "qos 2"))
		if p := c.answered(packet.PUBREC, 3); !p.Code.Failed() {
			c.send(pubrel(3))
			c.answered(packet.PUBCOMP, 3)
		}
		c.send(&packet.Unsubscribe{ID: 4, Filters: [][]byte{[]byte(pahoTopics[0])}})
		if p, ok := c.recv().(*packet.Unsuback); !ok || p.ID != 4 {
			t.Errorf("got %+v", p)
		}
		// A device's own topics, on the same connection.
		c.send(subscribe(5, "vw/v1/"+pahoClient+"/down/#"))
		if code := c.granted(5)[0]; code != packet.GrantedQoS1 {
			t.Errorf("granted %v", code)
		}
		c.send(up("vw/v1/"+pahoClient+"/up/readings", 1, 6, "mine"))
		c.puback(6)
		c.send(&packet.Disconnect{})
		c.closed(0)

		c = d.connect(t, v, pahoClient) // connect twice on one connection
		c.send(connectPacket(v, pahoClient))
		c.closed(packet.ProtocolError)
		c = d.dial(t, v) // another protocol
		c.write([]byte{0x10, 14, 0, 2, 'h', 'j', byte(v), 2, 0, 60, 0, 4, 'm', 'y', 'i', 'd'})
		for {
			p, err := c.read()
			if err != nil {
				break
			}
			if ack, ok := p.(*packet.Connack); !ok || ack.Code == 0 {
				t.Fatalf("got %+v", p)
			}
		}
	})
}

// test_zero_length_clientid: without clean session code 2; with it, or in 5.0, the server gives one. Here a name is
// needed for that: it becomes the device.
func TestPahoTesting_zero_length_client_id(t *testing.T) {
	d := open(t, nil, nil)
	name := func(p *packet.Connect) {
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("D-1"), true, []byte("secret-D-1")
	}
	c, ack := d.hello(t, packet.V311, "", func(p *packet.Connect) { p.CleanStart = false }, name)
	if ack.Code != packet.Refused311ClientID || ack.SessionPresent {
		t.Errorf("%+v", ack)
	}
	c.gone()
	c, ack = d.hello(t, packet.V311, "", name)
	if ack.Code != 0 || ack.SessionPresent {
		t.Fatalf("%+v", ack)
	}
	c.send(reading(1, "x"))
	c.puback(1)
	d.stored(t, "readings:x")
}

// test_assigned_clientid
func TestPahoTesting_assigned_client_id(t *testing.T) {
	d := open(t, nil, nil)
	name := func(p *packet.Connect) {
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("D-1"), true, []byte("secret-D-1")
	}
	c, ack := d.hello(t, packet.V5, "", name, clean)
	if ack.Code != 0 || string(ack.Props.Data(packet.AssignedClientID)) != "D-1" {
		t.Fatalf("%+v %s", ack, ack.Props.Data(packet.AssignedClientID))
	}
	c.leave()
	// The id that was given is the session's.
	_, ack = d.hello(t, packet.V5, "D-1", name, keep)
	if !ack.SessionPresent || ack.Props.Has(packet.AssignedClientID) {
		t.Errorf("%+v", ack)
	}
}

// will_message_test: a will on a topic that nobody owns is refused with a reason; see TestWill for a device's own.
func TestPahoTesting_will_message(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c, ack := d.hello(t, v, pahoClient, func(p *packet.Connect) {
			p.HasWill, p.Will = true, packet.Will{Topic: []byte(pahoTopics[2]), Payload: []byte("client not disconnected"), Retain: true}
		})
		want := packet.TopicNameInvalid
		if v == packet.V311 {
			want = packet.Refused311Unauthorized
		} else if !strings.Contains(string(ack.Props.Data(packet.ReasonString)), "up/status") {
			t.Errorf("reason %q", ack.Props.Data(packet.ReasonString))
		}
		if ack.Code != want {
			t.Errorf("%v", ack.Code)
		}
		c.gone()
	})
}

// test_subscribe_failure: the connection goes on.
func TestPahoTesting_subscribe_failure(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, pahoClient)
		c.send(subscribe(7, "test/nosubscribe"))
		want := packet.SubackFailure311
		if v == packet.V5 {
			want = packet.NotAuthorized
		}
		if codes := c.granted(7); len(codes) != 1 || codes[0] != want {
			t.Errorf("%v", codes)
		}
		c.alive()
	})
}

// test_dollar_topics: "+/…" matches no $ topic, as it is not granted at all; a message to a $ topic is acknowledged.
func TestPahoTesting_dollar_topics(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, pahoClient)
		c.send(subscribe(1, "+/+", "#", "$SYS/#", "vw/v1/"+pahoClient+"/down/+"))
		codes := c.granted(1)
		if !codes[0].Failed() || !codes[1].Failed() || !codes[2].Failed() || codes[3].Failed() {
			t.Errorf("%v", codes)
		}
		c.send(up("$"+pahoTopics[1], 1, 2, ""))
		c.puback(2)
		c.alive()
	})
}

// test_unsubscribe
func TestPahoTesting_unsubscribe(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, pahoClient2)
		below := "vw/v1/" + pahoClient2 + "/down/"
		c.send(subscribe(1, below+"a", below+"a/b", below+"c"))
		c.granted(1)
		c.send(&packet.Unsubscribe{ID: 2, Filters: [][]byte{[]byte(below + "a")}})
		c.recv()
		for _, topic := range []string{"a", "a/b", "c"} {
			if got := d.Publish(pahoClient2, "down/"+topic, []byte(topic)); got != (topic != "a") {
				t.Errorf("%s: sent %v", topic, got)
			}
		}
		for _, topic := range []string{"a/b", "c"} {
			if p, ok := c.recv().(*packet.Publish); !ok || string(p.Topic) != below+topic {
				t.Errorf("got %+v", p)
			}
		}
		c.alive()
	})
}

// test_shared_subscriptions: not offered, and said so in CONNACK.
func TestPahoTesting_shared_subscriptions(t *testing.T) {
	d := open(t, nil, nil)
	c, ack := d.hello(t, packet.V5, pahoClient)
	if n := ack.Props.Num(packet.SharedSubAvailable, 1); n != 0 {
		t.Errorf("available %d", n)
	}
	c.send(subscribe(1, "$share/sharename/vw/v1/"+pahoClient+"/down/#"))
	if code := c.granted(1)[0]; code != packet.SharedSubsUnsupported {
		t.Errorf("%v", code)
	}
}

// test_request_response, test_user_properties, test_payload_format: properties of a message are read in their order, and
// change nothing. Response information is not offered, also when asked for.
func TestPahoTesting_request_response(t *testing.T) {
	d := open(t, nil, nil)
	for _, asked := range []uint32{0, 1} {
		c, ack := d.hello(t, packet.V5, pahoClient, func(p *packet.Connect) { p.Props.SetNum(packet.RequestResponseInfo, asked) })
		if ack.Code != 0 || ack.Props.Has(packet.ResponseInfo) {
			t.Errorf("asked %d: %+v", asked, ack)
		}
		p := up("vw/v1/"+pahoClient+"/up/readings", 1, 1, fmt.Sprint("request ", asked))
		p.Props.SetData(packet.ResponseTopic, []byte(pahoTopics[1]))
		p.Props.SetData(packet.CorrelationData, []byte("334"))
		p.Props.SetData(packet.ContentType, []byte("My name"))
		p.Props.SetNum(packet.PayloadFormat, 1)
		p.Props.SetNum(packet.MessageExpiry, 1)
		p.Props.User = []packet.UserProperty{{Name: []byte("a"), Value: []byte("2")}, {Name: []byte("c"), Value: []byte("3")}, {Name: []byte("a"), Value: nil}}
		c.send(p)
		if a := c.puback(1); a.Code != 0 || len(a.Props.User) > 0 {
			t.Errorf("%+v", a)
		}
		c.leave()
	}
	d.stored(t, "readings:request 0", "readings:request 1")
}

// test_client_topic_alias
func TestPahoTesting_client_topic_alias(t *testing.T) {
	alias := func(n uint32, topic string, id uint16, body string) *packet.Publish {
		p := up(topic, 1, id, body)
		p.Props.SetNum(packet.TopicAlias, n)
		return p
	}
	const own = "vw/v1/" + pahoClient + "/up/readings"
	t.Run("0", func(t *testing.T) {
		d := open(t, nil, nil)
		c := d.connect(t, packet.V5, pahoClient)
		c.send(alias(0, own, 1, "x"))
		c.closed(packet.TopicAliasInvalid)
	})
	t.Run("within the maximum", func(t *testing.T) {
		d := open(t, nil, nil)
		c, ack := d.hello(t, packet.V5, pahoClient, keep)
		highest := ack.Props.Num(packet.TopicAliasMaximum, 0)
		if highest == 0 {
			t.Fatal("no aliases")
		}
		c.send(alias(1, own, 1, "a"), alias(1, "", 2, "b"), alias(highest, own, 3, "c"), alias(highest, "", 4, "d"))
		for id := range uint16(4) {
			c.puback(id + 1)
		}
		d.stored(t, "readings:a", "readings:b", "readings:c", "readings:d")
		c.leave() // they end with the connection, not with the session
		c, ack = d.hello(t, packet.V5, pahoClient, keep)
		if !ack.SessionPresent {
			t.Error("no session")
		}
		c.send(alias(1, "", 5, "x"))
		c.closed(packet.ProtocolError)
	})
	t.Run("above it", func(t *testing.T) {
		d := open(t, nil, nil)
		c, ack := d.hello(t, packet.V5, pahoClient)
		c.send(alias(ack.Props.Num(packet.TopicAliasMaximum, 0)+1, own, 1, "x"))
		c.closed(packet.TopicAliasInvalid)
	})
	t.Run("none offered", func(t *testing.T) {
		d := open(t, func(c *mqttd.Config) { c.TopicAliasMaximum = 0 }, nil)
		c, ack := d.hello(t, packet.V5, pahoClient)
		if ack.Props.Num(packet.TopicAliasMaximum, 0) != 0 {
			t.Error("offered")
		}
		c.send(alias(1, own, 1, "x"))
		c.closed(packet.TopicAliasInvalid)
	})
}

// test_server_topic_alias: the server uses none, whatever the client allows.
func TestPahoTesting_server_topic_alias(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V5, pahoClient, func(p *packet.Connect) { p.Props.SetNum(packet.TopicAliasMaximum, 1) })
	c.send(subscribe(1, "vw/v1/"+pahoClient+"/down/#"))
	c.granted(1)
	for range 3 {
		d.Publish(pahoClient, "down/cmd", []byte("x"))
		if p, ok := c.recv().(*packet.Publish); !ok || len(p.Topic) == 0 || p.Props.Has(packet.TopicAlias) {
			t.Errorf("got %+v", p)
		}
	}
}

// test_maximum_packet_size, in both directions.
func TestPahoTesting_maximum_packet_size(t *testing.T) {
	d := open(t, nil, nil)
	c, ack := d.hello(t, packet.V5, pahoClient)
	most := int(ack.Props.Num(packet.MaximumPacketSize, 0))
	if most == 0 {
		t.Fatal("no maximum packet size")
	}
	p := up("vw/v1/"+pahoClient+"/up/readings", 1, 1, "")
	p.Payload = make([]byte, most-len(c.bytes(p))-2) // the length needs two bytes more
	if n := len(c.bytes(p)); n != most {
		t.Fatalf("%d bytes, not %d", n, most)
	}
	c.send(p)
	c.puback(1)
	p.Payload = append(p.Payload, 0)
	c.send(p)
	c.closed(packet.PacketTooLarge)

	const small = 64
	c = d.connect(t, packet.V5, pahoClient, func(p *packet.Connect) { p.Props.SetNum(packet.MaximumPacketSize, small) })
	c.send(subscribe(1, "vw/v1/"+pahoClient+"/down/#"))
	c.granted(1)
	down := up("vw/v1/"+pahoClient+"/down/cmd", 0, 0, "")
	fits := strings.Repeat("x", small-len(c.bytes(down)))
	if d.Publish(pahoClient, "down/cmd", []byte(fits+"x")) {
		t.Error("sent what is too large")
	}
	if !d.Publish(pahoClient, "down/cmd", []byte(fits)) {
		t.Error("dropped what fits")
	}
	if p, ok := c.recv().(*packet.Publish); !ok || string(p.Payload) != fits {
		t.Errorf("got %+v", p)
	}
}

// test_server_keep_alive: a client that wants a longer one, or none, is told which.
func TestPahoTesting_server_keep_alive(t *testing.T) {
	d := open(t, nil, nil)
	for asked, want := range map[uint16]uint32{120: 0, 2000: 1200, 0: 1200, 1: 10} {
		_, ack := d.hello(t, packet.V5, pahoClient, func(p *packet.Connect) { p.KeepAlive = asked })
		if got := ack.Props.Num(packet.ServerKeepAlive, 0); got != want {
			t.Errorf("asked %d, told %d, want %d", asked, got, want)
		}
	}
}

// test_flow_control1: as many messages as the server's receive maximum in flight, and one more.
func TestPahoTesting_flow_control_up(t *testing.T) {
	const most = 5
	d := open(t, func(c *mqttd.Config) { c.ReceiveMaximum = most }, nil)
	c, ack := d.hello(t, packet.V5, pahoClient, keep)
	if n := ack.Props.Num(packet.ReceiveMaximum, 65535); n != most {
		t.Fatalf("receive maximum %d", n)
	}
	const own = "vw/v1/" + pahoClient + "/up/readings"
	for id := range uint16(most) {
		c.send(up(own, 2, id+1, fmt.Sprint(id+1)))
		c.answered(packet.PUBREC, id+1)
	}
	c.send(up(own, 0, 0, "QoS 0 is free")) // and so is all that is not PUBLISH
	c.alive()
	c.send(pubrel(3))
	c.answered(packet.PUBCOMP, 3)
	c.send(up(own, 2, 6, "6")) // in its place
	c.answered(packet.PUBREC, 6)
	c.leave() // the session holds them over a connection's end
	c, ack = d.hello(t, packet.V5, pahoClient, keep)
	if !ack.SessionPresent {
		t.Fatal("no session")
	}
	c.send(again(up(own, 2, 1, "1"))) // one of the five
	c.answered(packet.PUBREC, 1)
	c.send(up(own, 1, 7, "7"))
	c.closed(packet.ReceiveMaximumExceeded)
	d.stored(t, "readings:1", "readings:2", "readings:3", "readings:4", "readings:5", "readings:QoS 0 is free", "readings:6")
}
