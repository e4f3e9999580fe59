package packet_test

import (
	"bytes"
	"errors"
	"testing"

	paho5 "github.com/eclipse/paho.golang/packets"
	paho3 "github.com/eclipse/paho.mqtt.golang/packets"

	"vitalwatch/ingest/mqttd/packet"
)

func seed(f *testing.F) {
	for _, s := range samples() {
		f.Add(byte(s.v), encode(f, s.v, s.p))
	}
}

func version(b byte) packet.Version {
	if b == 4 {
		return packet.V311
	}
	return packet.V5
}

// FuzzDecode: never a panic; an error is typed; what is accepted encodes canonically: never longer, stable, and in
// 3.1.1, where there is only one form, byte for byte the same.
func FuzzDecode(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, vb byte, b []byte) {
		v := version(vb)
		p, n, err := packet.Decode(b, v, limit)
		if err != nil {
			var e *packet.Error
			if err != packet.ErrIncomplete && (!errors.As(err, &e) || !e.Code.Failed() || e.Clause == "") {
				t.Fatalf("error %#v is not typed", err)
			}
			return
		}
		if c, ok := p.(*packet.Connect); ok {
			v = c.Version
		}
		x := encode(t, v, p)
		if len(x) > n || v == packet.V311 && !bytes.Equal(x, b[:n]) {
			t.Fatalf("in  %x\nout %x", b[:n], x)
		}
		q, m, err := packet.Decode(x, v, limit)
		if err != nil || m != len(x) {
			t.Fatalf("own encoding %x refused: %v", x, err)
		}
		if y := encode(t, v, q); !bytes.Equal(x, y) {
			t.Fatalf("not stable\n%x\n%x", x, y)
		}
	})
}

// FuzzAgainstPaho: what both we and paho's codec of that version accept has the same fields in both; what we encode,
// paho accepts; and what paho accepts and writes back, we accept, but for the clauses that it leaves unchecked.
func FuzzAgainstPaho(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, vb byte, b []byte) {
		against(t, version(vb), b, false)
		converse(t, version(vb), b)
	})
}

func TestSamples_agree_with_paho(t *testing.T) {
	for _, s := range samples() {
		against(t, s.v, encode(t, s.v, s.p), true)
		converse(t, s.v, encode(t, s.v, s.p))
	}
}

func against(t testing.TB, v packet.Version, b []byte, must bool) {
	p, n, err := packet.Decode(b, v, limit)
	if err != nil {
		return
	}
	if c, ok := p.(*packet.Connect); ok && c.Version != v {
		return
	}
	b = b[:n]
	var theirs packet.Packet
	if v == packet.V311 {
		cp, err := paho3.ReadPacket(bytes.NewReader(b))
		if err != nil {
			if pub, ok := p.(*packet.Publish); ok && len(pub.Payload) == 0 {
				return // paho answers an empty payload with EOF
			}
			t.Fatalf("paho refuses %x: %v", b, err)
		}
		theirs = from3(cp)
		// Byte for byte back.
		var out bytes.Buffer
		if err := cp.Write(&out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), b) {
			t.Fatalf("paho writes %x\nours is     %x", out.Bytes(), b)
		}
	} else {
		cp, err := paho5.ReadPacket(bytes.NewReader(b))
		if err != nil {
			// paho wants a reason code in DISCONNECT and AUTH, which 3.14.2.1 and 3.15.2.1 let a sender leave out,
			// and does not know a will's own properties.
			if must && n > 2 && p.Type() != packet.CONNECT {
				t.Fatalf("paho refuses %x: %v", b, err)
			}
			return
		}
		if theirs = from5(cp); theirs == nil {
			return
		}
	}
	want, got := encode(t, v, theirs), encode(t, v, plain(v, p))
	if !bytes.Equal(want, got) {
		t.Fatalf("%s of %x\n ours %x\n paho %x", p.Type(), b, got, want)
	}
}

func toCodes(in []byte) (out []packet.ReasonCode) {
	for _, c := range in {
		out = append(out, packet.ReasonCode(c))
	}
	return out
}

func toBytes(in []string) (out [][]byte) {
	for _, s := range in {
		out = append(out, []byte(s))
	}
	return out
}

func from3(cp paho3.ControlPacket) packet.Packet {
	switch c := cp.(type) {
	case *paho3.ConnectPacket:
		p := &packet.Connect{Version: packet.Version(c.ProtocolVersion), CleanStart: c.CleanSession, KeepAlive: c.Keepalive, ClientID: []byte(c.ClientIdentifier),
			HasWill: c.WillFlag, HasUsername: c.UsernameFlag, Username: []byte(c.Username), HasPassword: c.PasswordFlag, Password: c.Password}
		p.Will = packet.Will{QoS: c.WillQos, Retain: c.WillRetain, Topic: []byte(c.WillTopic), Payload: c.WillMessage}
		return p
	case *paho3.ConnackPacket:
		return &packet.Connack{SessionPresent: c.SessionPresent, Code: packet.ReasonCode(c.ReturnCode)}
	case *paho3.PublishPacket:
		return &packet.Publish{Dup: c.Dup, QoS: c.Qos, Retain: c.Retain, Topic: []byte(c.TopicName), ID: c.MessageID, Payload: c.Payload}
	case *paho3.PubackPacket:
		return &packet.Ack{Kind: packet.PUBACK, ID: c.MessageID}
	case *paho3.PubrecPacket:
		return &packet.Ack{Kind: packet.PUBREC, ID: c.MessageID}
	case *paho3.PubrelPacket:
		return &packet.Ack{Kind: packet.PUBREL, ID: c.MessageID}
	case *paho3.PubcompPacket:
		return &packet.Ack{Kind: packet.PUBCOMP, ID: c.MessageID}
	case *paho3.SubscribePacket:
		p := &packet.Subscribe{ID: c.MessageID}
		for i, t := range c.Topics {
			p.Filters = append(p.Filters, packet.Filter{Topic: []byte(t), QoS: c.Qoss[i]})
		}
		return p
	case *paho3.SubackPacket:
		return &packet.Suback{ID: c.MessageID, Codes: toCodes(c.ReturnCodes)}
	case *paho3.UnsubscribePacket:
		return &packet.Unsubscribe{ID: c.MessageID, Filters: toBytes(c.Topics)}
	case *paho3.UnsubackPacket:
		return &packet.Unsuback{ID: c.MessageID}
	case *paho3.PingreqPacket:
		return &packet.Ping{Kind: packet.PINGREQ}
	case *paho3.PingrespPacket:
		return &packet.Ping{Kind: packet.PINGRESP}
	case *paho3.DisconnectPacket:
		return &packet.Disconnect{}
	}
	panic("paho packet of unknown type")
}

// from5 returns nil for what is not compared.
func from5(cp *paho5.ControlPacket) packet.Packet {
	switch c := cp.Content.(type) {
	case *paho5.Connect:
		p := &packet.Connect{Version: packet.Version(c.ProtocolVersion), CleanStart: c.CleanStart, KeepAlive: c.KeepAlive, Props: fromProps(c.Properties), ClientID: []byte(c.ClientID),
			HasWill: c.WillFlag, HasUsername: c.UsernameFlag, Username: []byte(c.Username), HasPassword: c.PasswordFlag, Password: c.Password}
		p.Will = packet.Will{QoS: c.WillQOS, Retain: c.WillRetain, Topic: []byte(c.WillTopic), Payload: c.WillMessage}
		if c.WillProperties != nil {
			p.Will.Props = fromProps(c.WillProperties)
		}
		return p
	case *paho5.Connack:
		return &packet.Connack{SessionPresent: c.SessionPresent, Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	case *paho5.Publish:
		return &packet.Publish{Dup: c.Duplicate, QoS: c.QoS, Retain: c.Retain, Topic: []byte(c.Topic), ID: c.PacketID, Payload: c.Payload, Props: fromProps(c.Properties)}
	case *paho5.Puback:
		return &packet.Ack{Kind: packet.PUBACK, ID: c.PacketID, Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	case *paho5.Pubrec:
		return &packet.Ack{Kind: packet.PUBREC, ID: c.PacketID, Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	case *paho5.Pubrel:
		return &packet.Ack{Kind: packet.PUBREL, ID: c.PacketID, Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	case *paho5.Pubcomp:
		return &packet.Ack{Kind: packet.PUBCOMP, ID: c.PacketID, Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	case *paho5.Subscribe:
		p := &packet.Subscribe{ID: c.PacketID, Props: fromProps(c.Properties)}
		for _, s := range c.Subscriptions {
			p.Filters = append(p.Filters, packet.Filter{Topic: []byte(s.Topic), QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, RetainHandling: s.RetainHandling})
		}
		return p
	case *paho5.Suback:
		return &packet.Suback{ID: c.PacketID, Props: fromProps(c.Properties), Codes: toCodes(c.Reasons)}
	case *paho5.Unsubscribe:
		return &packet.Unsubscribe{ID: c.PacketID, Props: fromProps(c.Properties), Filters: toBytes(c.Topics)}
	case *paho5.Unsuback:
		return &packet.Unsuback{ID: c.PacketID, Props: fromProps(c.Properties), Codes: toCodes(c.Reasons)}
	case *paho5.Pingreq:
		return &packet.Ping{Kind: packet.PINGREQ}
	case *paho5.Pingresp:
		return &packet.Ping{Kind: packet.PINGRESP}
	case *paho5.Disconnect:
		return &packet.Disconnect{Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	case *paho5.Auth:
		return &packet.Auth{Code: packet.ReasonCode(c.ReasonCode), Props: fromProps(c.Properties)}
	}
	panic("paho packet of unknown type")
}

func fromProps(in *paho5.Properties) (p packet.Properties) {
	for id, v := range map[packet.Property]*byte{packet.PayloadFormat: in.PayloadFormat, packet.RequestProblemInfo: in.RequestProblemInfo,
		packet.RequestResponseInfo: in.RequestResponseInfo, packet.MaximumQoS: in.MaximumQOS, packet.RetainAvailable: in.RetainAvailable,
		packet.WildcardSubAvailable: in.WildcardSubAvailable, packet.SubIDAvailable: in.SubIDAvailable, packet.SharedSubAvailable: in.SharedSubAvailable} {
		if v != nil {
			p.SetNum(id, uint32(*v))
		}
	}
	for id, v := range map[packet.Property]*uint16{packet.ServerKeepAlive: in.ServerKeepAlive, packet.ReceiveMaximum: in.ReceiveMaximum,
		packet.TopicAliasMaximum: in.TopicAliasMaximum, packet.TopicAlias: in.TopicAlias} {
		if v != nil {
			p.SetNum(id, uint32(*v))
		}
	}
	for id, v := range map[packet.Property]*uint32{packet.MessageExpiry: in.MessageExpiry, packet.SessionExpiry: in.SessionExpiryInterval,
		packet.WillDelay: in.WillDelayInterval, packet.MaximumPacketSize: in.MaximumPacketSize} {
		if v != nil {
			p.SetNum(id, *v)
		}
	}
	for id, v := range map[packet.Property]string{packet.ContentType: in.ContentType, packet.ResponseTopic: in.ResponseTopic, packet.CorrelationData: string(in.CorrelationData),
		packet.AssignedClientID: in.AssignedClientID, packet.AuthMethod: in.AuthMethod, packet.AuthData: string(in.AuthData), packet.ResponseInfo: in.ResponseInfo,
		packet.ServerReference: in.ServerReference, packet.ReasonString: in.ReasonString} {
		if v != "" {
			p.SetData(id, []byte(v))
		}
	}
	if in.SubscriptionIdentifier != nil {
		p.SubscriptionIDs = []uint32{uint32(*in.SubscriptionIdentifier)}
	}
	for _, u := range in.User {
		p.User = append(p.User, packet.UserProperty{Name: []byte(u.Key), Value: []byte(u.Value)})
	}
	return p
}

// plain takes from our packet what paho cannot hold: an empty string property is the same as none there, and it
// keeps only the last of several subscription identifiers.
func plain(v packet.Version, p packet.Packet) packet.Packet {
	if v == packet.V311 {
		return p
	}
	switch p := p.(type) {
	case *packet.Connect:
		strip(&p.Props)
		strip(&p.Will.Props)
	case *packet.Connack:
		strip(&p.Props)
	case *packet.Publish:
		strip(&p.Props)
	case *packet.Ack:
		strip(&p.Props)
	case *packet.Subscribe:
		strip(&p.Props)
	case *packet.Suback:
		strip(&p.Props)
	case *packet.Unsubscribe:
		strip(&p.Props)
	case *packet.Unsuback:
		strip(&p.Props)
	case *packet.Disconnect:
		strip(&p.Props)
	case *packet.Auth:
		strip(&p.Props)
	}
	return p
}

func strip(p *packet.Properties) {
	old := *p
	*p = packet.Properties{User: old.User}
	if n := len(old.SubscriptionIDs); n > 0 {
		p.SubscriptionIDs = old.SubscriptionIDs[n-1:]
	}
	for id := packet.PayloadFormat; id <= packet.SharedSubAvailable; id++ {
		switch {
		case !old.Has(id) || id == packet.SubscriptionID || id == packet.UserPropertyID:
		case old.Data(id) != nil:
			if len(old.Data(id)) > 0 {
				p.SetData(id, old.Data(id))
			}
		default:
			p.SetNum(id, old.Num(id, 0))
		}
	}
}
