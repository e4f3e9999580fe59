package packet_test

import (
	"bytes"
	"errors"
	"testing"

	paho5 "github.com/eclipse/paho.golang/packets"
	paho3 "github.com/eclipse/paho.mqtt.golang/packets"
	"pgregory.net/rapid"

	"vitalwatch/ingest/mqttd/packet"
)

// laxer are the clauses that paho's codecs, made for clients, leave to the server: a packet that paho accepts and
// writes back unchanged may be refused by us for these, and for nothing else.
var laxer = map[string]string{
	"MQTT-1.5.4-1":        "strings are not checked",
	"MQTT-2.1.3-1":        "reserved flags are kept as they come",
	"2.1.4":               "bytes behind the last field of an acknowledgement",
	"2.1.2":               "type 0 and, in 3.1.1, 15",
	"2.2.2.2":             "0 or 1 of a property, and properties of the will",
	"2.4":                 "reason codes",
	"MQTT-2.2.1-3":        "packet identifier 0",
	"MQTT-3.1.2-1":        "protocol name",
	"MQTT-3.1.2-3":        "reserved connect flag",
	"MQTT-3.1.2-11":       "will flags without a will",
	"MQTT-3.1.2-12":       "will QoS 3",
	"MQTT-3.1.2-13":       "will flags without a will",
	"3.1.1 MQTT-3.1.2-22": "password without user name",
	"3.1.2.11":            "receive maximum or maximum packet size 0",
	"3.1.2.11.10":         "authentication data without a method",
	"MQTT-3.2.2-1":        "reserved acknowledge flags",
	"MQTT-3.2.2-6":        "session present on a refused connection",
	"3.1.1 3.2.2.3":       "return codes",
	"MQTT-3.3.1-2":        "DUP with QoS 0",
	"MQTT-3.3.1-4":        "QoS 3",
	"MQTT-3.3.2-2":        "wildcards in a topic name",
	"MQTT-3.3.2-8":        "topic alias 0",
	"MQTT-3.3.2-14":       "wildcards in a response topic",
	"MQTT-4.7.1-1":        "will topic",
	"MQTT-4.7.3-1":        "empty topics and filters",
	"3.8.2.1.2":           "subscription identifier 0",
	"3.8.3.1":             "retain handling 3",
	"MQTT-3.8.3-2":        "no filter",
	"MQTT-3.8.3-5":        "reserved option bits",
	"3.9.3":               "no reason code",
	"3.1.1 MQTT-3.9.3-2":  "return codes",
	"MQTT-3.10.3-2":       "no filter",
	"3.11.3":              "no reason code",
	"3.12":                "ping with a body",
}

// converse: what paho accepts and writes back byte for byte, we accept too, or refuse for a clause in laxer.
func converse(t testing.TB, v packet.Version, b []byte) {
	t.Helper()
	var again bytes.Buffer
	if v == packet.V311 {
		cp, err := paho3.ReadPacket(bytes.NewReader(b))
		if err != nil || cp.Write(&again) != nil {
			return
		}
		if c, ok := cp.(*paho3.ConnectPacket); ok && c.ProtocolVersion != byte(v) {
			return // it reads every version as 3.1.1
		}
	} else {
		cp, err := paho5.ReadPacket(bytes.NewReader(b))
		if err != nil {
			return
		}
		if c, ok := cp.Content.(*paho5.Connect); ok && c.ProtocolVersion != byte(v) {
			return // it reads every version as 5.0
		}
		if _, err := cp.WriteTo(&again); err != nil {
			return
		}
	}
	if !bytes.Equal(again.Bytes(), b) {
		return
	}
	_, n, err := packet.Decode(b, v, limit)
	if err == nil && n == len(b) {
		return
	}
	var e *packet.Error
	if !errors.As(err, &e) || laxer[e.Clause] == "" {
		t.Fatalf("paho accepts %x and writes it back; we say %v after %d bytes", b, err, n)
	}
}

// drawPacket draws a valid packet of any type that version v has.
func drawPacket(t *rapid.T, v packet.Version) packet.Packet {
	kinds := []packet.Type{packet.CONNECT, packet.CONNACK, packet.PUBLISH, packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP,
		packet.SUBSCRIBE, packet.SUBACK, packet.UNSUBSCRIBE, packet.UNSUBACK, packet.PINGREQ, packet.PINGRESP, packet.DISCONNECT}
	if v == packet.V5 {
		kinds = append(kinds, packet.AUTH)
	}
	text := func(name string) []byte {
		return []byte(rapid.StringMatching(`[a-zA-Z0-9/_设é-]{1,20}`).Draw(t, name))
	}
	data := func(name string) []byte { return rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, name) }
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	id := func() uint16 { return rapid.Uint16Range(1, 65535).Draw(t, "packet id") }
	code := func(codes ...packet.ReasonCode) packet.ReasonCode {
		if v != packet.V5 {
			return 0
		}
		return rapid.SampledFrom(codes).Draw(t, "code")
	}
	some := func(ids ...packet.Property) (p packet.Properties) {
		if v != packet.V5 {
			return p
		}
		for _, id := range ids {
			if !flag("has property") {
				continue
			}
			switch id {
			case packet.SubscriptionID:
				p.SubscriptionIDs = append(p.SubscriptionIDs, rapid.Uint32Range(1, packet.MaxRemaining).Draw(t, "subscription id"))
			case packet.UserPropertyID:
				for range rapid.IntRange(1, 3).Draw(t, "user properties") {
					p.User = append(p.User, user(string(text("name")), string(text("value"))))
				}
			case packet.PayloadFormat, packet.RequestProblemInfo, packet.RequestResponseInfo, packet.MaximumQoS, packet.RetainAvailable,
				packet.WildcardSubAvailable, packet.SubIDAvailable, packet.SharedSubAvailable:
				p.SetNum(id, rapid.Uint32Range(0, 1).Draw(t, "bit"))
			case packet.ServerKeepAlive, packet.ReceiveMaximum, packet.TopicAliasMaximum, packet.TopicAlias:
				p.SetNum(id, rapid.Uint32Range(1, 65535).Draw(t, "number"))
			case packet.MessageExpiry, packet.SessionExpiry, packet.WillDelay, packet.MaximumPacketSize:
				p.SetNum(id, rapid.Uint32Min(1).Draw(t, "number"))
			case packet.AuthData:
				if p.Has(packet.AuthMethod) {
					p.SetData(id, []byte("x"))
				}
			default:
				p.SetData(id, text("string"))
			}
		}
		return p
	}
	const (
		reason = packet.ReasonString
		pairs  = packet.UserPropertyID
	)
	switch k := rapid.SampledFrom(kinds).Draw(t, "type"); k {
	case packet.CONNECT:
		p := &packet.Connect{Version: v, CleanStart: flag("clean"), KeepAlive: rapid.Uint16().Draw(t, "keep-alive"), ClientID: text("client id"),
			Props: some(packet.SessionExpiry, packet.AuthMethod, packet.AuthData, packet.RequestProblemInfo, packet.RequestResponseInfo,
				packet.ReceiveMaximum, packet.TopicAliasMaximum, packet.MaximumPacketSize, pairs)}
		if p.HasWill = flag("will"); p.HasWill {
			p.Will = packet.Will{QoS: rapid.ByteMax(2).Draw(t, "QoS"), Retain: flag("retain"), Topic: text("topic"), Payload: data("payload"),
				Props: some(packet.WillDelay, pairs)}
		}
		if p.HasUsername = flag("user name"); p.HasUsername {
			p.Username = text("user name")
		}
		if p.HasPassword = flag("password") && (p.HasUsername || v == packet.V5); p.HasPassword {
			p.Password = data("password")
		}
		return p
	case packet.CONNACK:
		c := code(packet.Success, packet.ClientIDNotValid, packet.BadUserNameOrPassword, packet.ServerBusy, packet.ConnectionRateExceeded)
		if v == packet.V311 {
			c = packet.ReasonCode(rapid.ByteMax(5).Draw(t, "return code"))
		}
		return &packet.Connack{SessionPresent: c == 0 && flag("session present"), Code: c, Props: some(packet.SessionExpiry, packet.AssignedClientID,
			packet.ServerKeepAlive, packet.AuthMethod, packet.AuthData, packet.ResponseInfo, packet.ServerReference, reason, packet.ReceiveMaximum,
			packet.TopicAliasMaximum, packet.MaximumQoS, packet.RetainAvailable, pairs, packet.MaximumPacketSize, packet.WildcardSubAvailable,
			packet.SubIDAvailable, packet.SharedSubAvailable)}
	case packet.PUBLISH:
		p := &packet.Publish{QoS: rapid.ByteMax(2).Draw(t, "QoS"), Retain: flag("retain"), Topic: text("topic"), Payload: data("payload"),
			Props: some(packet.PayloadFormat, packet.MessageExpiry, packet.ContentType, packet.ResponseTopic, packet.CorrelationData,
				packet.SubscriptionID, packet.TopicAlias, pairs)}
		if p.QoS > 0 {
			p.ID, p.Dup = id(), flag("DUP")
		}
		return p
	case packet.PUBACK, packet.PUBREC:
		return &packet.Ack{Kind: k, ID: id(), Props: some(reason, pairs),
			Code: code(packet.Success, packet.NoMatchingSubscribers, packet.NotAuthorized, packet.TopicNameInvalid, packet.PayloadFormatInvalid, packet.QuotaExceeded)}
	case packet.PUBREL, packet.PUBCOMP:
		return &packet.Ack{Kind: k, ID: id(), Props: some(reason, pairs), Code: code(packet.Success, packet.PacketIDNotFound)}
	case packet.SUBSCRIBE:
		p := &packet.Subscribe{ID: id(), Props: some(packet.SubscriptionID, pairs)}
		for range rapid.IntRange(1, 4).Draw(t, "filters") {
			f := packet.Filter{Topic: text("filter"), QoS: rapid.ByteMax(2).Draw(t, "QoS")}
			if v == packet.V5 {
				f.NoLocal, f.RetainAsPublished, f.RetainHandling = flag("no local"), flag("as published"), rapid.ByteMax(2).Draw(t, "retain handling")
			}
			p.Filters = append(p.Filters, f)
		}
		return p
	case packet.SUBACK:
		codes := []packet.ReasonCode{0, 1, 2, packet.SubackFailure311}
		if v == packet.V5 {
			codes = append(codes, packet.NotAuthorized, packet.TopicFilterInvalid, packet.WildcardsUnsupported)
		}
		return &packet.Suback{ID: id(), Props: some(reason, pairs), Codes: rapid.SliceOfN(rapid.SampledFrom(codes), 1, 5).Draw(t, "codes")}
	case packet.UNSUBSCRIBE:
		p := &packet.Unsubscribe{ID: id(), Props: some(pairs)}
		for range rapid.IntRange(1, 4).Draw(t, "filters") {
			p.Filters = append(p.Filters, text("filter"))
		}
		return p
	case packet.UNSUBACK:
		p := &packet.Unsuback{ID: id(), Props: some(reason, pairs)}
		if v == packet.V5 {
			p.Codes = rapid.SliceOfN(rapid.SampledFrom([]packet.ReasonCode{0, packet.NoSubscriptionExisted, packet.NotAuthorized}), 1, 5).Draw(t, "codes")
		}
		return p
	case packet.DISCONNECT:
		return &packet.Disconnect{Code: code(packet.Success, packet.DisconnectWithWill, packet.ServerShuttingDown, packet.SessionTakenOver, packet.QuotaExceeded),
			Props: some(packet.SessionExpiry, packet.ServerReference, reason, pairs)}
	case packet.AUTH:
		return &packet.Auth{Code: code(packet.Success, packet.ContinueAuthentication, packet.Reauthenticate), Props: some(packet.AuthMethod, packet.AuthData, reason, pairs)}
	default:
		return &packet.Ping{Kind: k}
	}
}

// Whatever valid packet we write, paho reads as we do, and in 3.1.1 writes back byte for byte; what paho writes of it,
// we read the same.
func TestDrawn_agree_with_paho(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		rapid.Check(t, func(rt *rapid.T) {
			p := drawPacket(rt, v)
			b := encode(t, v, p)
			against(t, v, b, true)
			if v == packet.V311 {
				return // the same bytes
			}
			cp, err := paho5.ReadPacket(bytes.NewReader(b))
			if err != nil {
				return // see against
			}
			var theirs bytes.Buffer
			if _, err := cp.WriteTo(&theirs); err != nil {
				t.Fatal(err)
			}
			q, n, err := packet.Decode(theirs.Bytes(), v, limit)
			if err != nil || n != theirs.Len() {
				t.Fatalf("what paho writes for %s, %x, is refused: %v", p.Type(), theirs.Bytes(), err)
			}
			p, _, _ = packet.Decode(b, v, limit)
			if got, want := encode(t, v, plain(v, q)), encode(t, v, plain(v, p)); !bytes.Equal(got, want) {
				t.Fatalf("%s by paho\n got %x\nwant %x", p.Type(), got, want)
			}
		})
	}
}

// A few wrong bytes in a packet: paho and we still agree, as far as paho looks.
func TestMutated_agree_with_paho(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		rapid.Check(t, func(rt *rapid.T) {
			b := encode(t, v, drawPacket(rt, v))
			for range rapid.IntRange(1, 3).Draw(rt, "mutations") {
				b[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "byte")
			}
			against(t, v, b, false)
			converse(t, v, b)
		})
	}
}
