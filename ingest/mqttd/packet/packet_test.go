package packet_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vitalwatch/ingest/mqttd/packet"
)

const limit = 1 << 20

// props builds properties.
func props(nums map[packet.Property]uint32, data map[packet.Property]string, user ...packet.UserProperty) (p packet.Properties) {
	for id, v := range nums {
		p.SetNum(id, v)
	}
	for id, v := range data {
		p.SetData(id, []byte(v))
	}
	p.User = user
	return p
}

func user(n, v string) packet.UserProperty {
	return packet.UserProperty{Name: []byte(n), Value: []byte(v)}
}

type sample struct {
	name string
	v    packet.Version
	p    packet.Packet
}

// samples has every packet type in both versions, bare and with everything in it.
func samples() []sample {
	type (
		num = map[packet.Property]uint32
		dat = map[packet.Property]string
	)
	b := func(s string) []byte { return []byte(s) }
	reason := props(nil, dat{packet.ReasonString: "why"}, user("a", "1"), user("a", "2"))
	withSubID := props(nil, nil, user("k", "v"))
	withSubID.SubscriptionIDs = []uint32{268435455}
	toClient := props(num{packet.PayloadFormat: 1, packet.MessageExpiry: 60, packet.TopicAlias: 3},
		dat{packet.ContentType: "application/json", packet.ResponseTopic: "r/t", packet.CorrelationData: "\x00\x01"}, user("", ""))
	toClient.SubscriptionIDs = []uint32{1, 128}
	s := []sample{
		{"connect/bare", packet.V311, &packet.Connect{Version: packet.V311, CleanStart: true, KeepAlive: 60, ClientID: b("D-1")}},
		{"connect/full", packet.V311, &packet.Connect{Version: packet.V311, KeepAlive: 65535, ClientID: b("D-1"), HasUsername: true, Username: b("D-1"),
			HasPassword: true, Password: b("s\x00cret"), HasWill: true, Will: packet.Will{QoS: 1, Retain: true, Topic: b("vw/v1/D-1/up/status"), Payload: b(`{"state":"lost"}`)}}},
		{"connect/bare", packet.V5, &packet.Connect{Version: packet.V5, ClientID: []byte{}}},
		{"connect/full", packet.V5, &packet.Connect{Version: packet.V5, CleanStart: true, KeepAlive: 1, ClientID: b("设备"),
			Props: props(num{packet.SessionExpiry: 1 << 31, packet.RequestProblemInfo: 0, packet.RequestResponseInfo: 1, packet.ReceiveMaximum: 5,
				packet.TopicAliasMaximum: 9, packet.MaximumPacketSize: 1000}, dat{packet.AuthMethod: "m", packet.AuthData: "d"}, user("u", "v")),
			HasPassword: true, Password: []byte{}, HasWill: true, Will: packet.Will{QoS: 2, Topic: b("w"), Payload: []byte{},
				Props: props(num{packet.PayloadFormat: 0, packet.MessageExpiry: 0, packet.WillDelay: 7},
					dat{packet.ContentType: "t", packet.ResponseTopic: "r", packet.CorrelationData: "c"}, user("w", "x"))}}},
		{"connack", packet.V311, &packet.Connack{SessionPresent: true}},
		{"connack/refused", packet.V311, &packet.Connack{Code: packet.Refused311Credentials}},
		{"connack/bare", packet.V5, &packet.Connack{Code: packet.BadUserNameOrPassword}},
		{"connack/full", packet.V5, &packet.Connack{SessionPresent: true, Props: props(num{packet.SessionExpiry: 0, packet.ServerKeepAlive: 60, packet.ReceiveMaximum: 9,
			packet.TopicAliasMaximum: 4, packet.MaximumQoS: 1, packet.RetainAvailable: 0, packet.MaximumPacketSize: 70000,
			packet.WildcardSubAvailable: 1, packet.SubIDAvailable: 0, packet.SharedSubAvailable: 0},
			dat{packet.AssignedClientID: "x", packet.AuthMethod: "m", packet.AuthData: "d", packet.ResponseInfo: "i", packet.ServerReference: "s", packet.ReasonString: "r"}, user("u", "v"))}},
		{"publish/q0", packet.V311, &packet.Publish{Topic: b("a/b"), Payload: b("x")}},
		{"publish/q1", packet.V311, &packet.Publish{Topic: b("vw/v1/D-1/up/readings"), QoS: 1, ID: 7, Dup: true, Retain: true, Payload: bytes.Repeat(b("p"), 300)}},
		{"publish/q2", packet.V311, &packet.Publish{Topic: b("t"), QoS: 2, ID: 65535, Payload: []byte{}}},
		{"publish/bare", packet.V5, &packet.Publish{Topic: b("t"), QoS: 1, ID: 1, Payload: b("x")}},
		{"publish/alias", packet.V5, &packet.Publish{Topic: []byte{}, Props: props(num{packet.TopicAlias: 1}, nil), Payload: []byte{}}},
		{"publish/full", packet.V5, &packet.Publish{Topic: b("t"), QoS: 1, ID: 1, Props: toClient, Payload: b("x")}},
		{"subscribe", packet.V311, &packet.Subscribe{ID: 3, Filters: []packet.Filter{{Topic: b("a/#"), QoS: 1}, {Topic: b("+/b")}}}},
		{"subscribe", packet.V5, &packet.Subscribe{ID: 3, Props: withSubID, Filters: []packet.Filter{{Topic: b("a/#"), QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}}},
		{"suback", packet.V311, &packet.Suback{ID: 3, Codes: []packet.ReasonCode{0, 1, 2, 0x80}}},
		{"suback", packet.V5, &packet.Suback{ID: 3, Props: reason, Codes: []packet.ReasonCode{0, packet.NotAuthorized}}},
		{"unsubscribe", packet.V311, &packet.Unsubscribe{ID: 4, Filters: [][]byte{b("a"), b("b/#")}}},
		{"unsubscribe", packet.V5, &packet.Unsubscribe{ID: 4, Props: props(nil, nil, user("k", "v")), Filters: [][]byte{b("a")}}},
		{"unsuback", packet.V311, &packet.Unsuback{ID: 4}},
		{"unsuback", packet.V5, &packet.Unsuback{ID: 4, Props: reason, Codes: []packet.ReasonCode{0, packet.NoSubscriptionExisted}}},
		{"pingreq", packet.V311, &packet.Ping{Kind: packet.PINGREQ}},
		{"pingresp", packet.V5, &packet.Ping{Kind: packet.PINGRESP}},
		{"disconnect", packet.V311, &packet.Disconnect{}},
		{"disconnect/bare", packet.V5, &packet.Disconnect{}},
		{"disconnect/code", packet.V5, &packet.Disconnect{Code: packet.DisconnectWithWill}},
		{"disconnect/full", packet.V5, &packet.Disconnect{Code: packet.ServerMoved, Props: props(num{packet.SessionExpiry: 5},
			dat{packet.ServerReference: "s", packet.ReasonString: "r"}, user("u", "v"))}},
		{"auth/bare", packet.V5, &packet.Auth{}},
		{"auth/full", packet.V5, &packet.Auth{Code: packet.ContinueAuthentication, Props: props(nil, dat{packet.AuthMethod: "m", packet.AuthData: "d", packet.ReasonString: "r"})}},
	}
	for _, t := range []packet.Type{packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP} {
		code := packet.QuotaExceeded
		if t == packet.PUBREL || t == packet.PUBCOMP {
			code = packet.PacketIDNotFound
		}
		s = append(s, sample{t.String(), packet.V311, &packet.Ack{Kind: t, ID: 9}},
			sample{t.String() + "/bare", packet.V5, &packet.Ack{Kind: t, ID: 9}},
			sample{t.String() + "/code", packet.V5, &packet.Ack{Kind: t, ID: 9, Code: code}},
			sample{t.String() + "/full", packet.V5, &packet.Ack{Kind: t, ID: 9, Code: code, Props: reason}})
	}
	return s
}

func encode(t testing.TB, v packet.Version, p packet.Packet) []byte {
	t.Helper()
	b, err := p.Append(nil, v)
	if err != nil {
		t.Fatalf("encode %s: %v", p.Type(), err)
	}
	return b
}

func TestSamples_round_trip(t *testing.T) {
	seen := map[packet.Type]bool{}
	for _, s := range samples() {
		t.Run(fmt.Sprintf("v%d/%s", s.v, s.name), func(t *testing.T) {
			seen[s.p.Type()] = true
			b := encode(t, s.v, s.p)
			got, n, err := packet.Decode(append(bytes.Clone(b), 0xff), s.v, limit)
			if err != nil || n != len(b) {
				t.Fatalf("decode %x: length %d of %d, error %v", b, n, len(b), err)
			}
			if again := encode(t, s.v, got); !bytes.Equal(again, b) {
				t.Errorf("encoded again\n got %x\nwant %x", again, b)
			}
			if d := cmp.Diff(dump(s.p), dump(got)); d != "" {
				t.Errorf("fields (-want +got):\n%s", d)
			}
			// In front of other bytes: what stood in dst stays.
			pre, err := s.p.Append([]byte("before"), s.v)
			if err != nil || !bytes.Equal(pre, append([]byte("before"), b...)) {
				t.Errorf("append to something: %x, %v", pre, err)
			}
		})
	}
	for ty := packet.CONNECT; ty <= packet.AUTH; ty++ {
		if !seen[ty] {
			t.Errorf("no sample of %s", ty)
		}
	}
}

// dump makes a packet comparable: nil and empty slices are the same here.
func dump(p packet.Packet) string {
	s := fmt.Sprintf("%+v", p)
	return strings.ReplaceAll(s, "[]", "")
}

// The bytes of the standards' own examples and of hand-made packets, so that codec and samples cannot be wrong together.
func TestDecode_known_bytes(t *testing.T) {
	var c packet.Connect
	body, _ := hex.DecodeString("00044d515454" + "05" + "ce" + "000a" + "05" + "110000000a" + "0000" + "00" + "0001" + "77" + "0000" + "0001" + "75" + "0001" + "70")
	if err := c.Decode(0, 0, body); err != nil {
		t.Fatal(err) // the example of 3.1.2.10 with client id, will, user name and password behind
	}
	if c.Version != packet.V5 || !c.CleanStart || !c.HasWill || c.Will.QoS != 1 || c.Will.Retain || c.KeepAlive != 10 ||
		c.Props.Num(packet.SessionExpiry, 0) != 10 || string(c.Will.Topic) != "w" || string(c.Username) != "u" || string(c.Password) != "p" {
		t.Errorf("got %+v", c)
	}
	// 3.1.1 section 3.3.2.3: topic a/b, packet identifier 10.
	p, n, err := packet.Decode([]byte{0x32, 0x08, 0, 3, 'a', '/', 'b', 0, 10, '!'}, packet.V311, limit)
	if err != nil || n != 10 {
		t.Fatal(n, err)
	}
	if pub := p.(*packet.Publish); string(pub.Topic) != "a/b" || pub.ID != 10 || pub.QoS != 1 || string(pub.Payload) != "!" {
		t.Errorf("got %+v", pub)
	}
}

// Every proper prefix of every packet must be told from a whole one, on the wire and when the length lies.
func TestDecode_truncated_at_every_byte(t *testing.T) {
	for _, s := range samples() {
		b := encode(t, s.v, s.p)
		for i := range b {
			if _, _, err := packet.Decode(b[:i], s.v, limit); err != packet.ErrIncomplete {
				t.Errorf("v%d/%s cut at %d: error %v, want ErrIncomplete", s.v, s.name, i, err)
			}
		}
		h, n, err := packet.ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range h.Remaining {
			p := packet.New(h.Type)
			err := p.Decode(s.v, h.Flags, b[n:n+i])
			if err != nil {
				var e *packet.Error
				if !errors.As(err, &e) || !e.Code.Failed() || e.Clause == "" {
					t.Errorf("v%d/%s body cut at %d: %#v is not a typed error", s.v, s.name, i, err)
				}
				continue
			}
			// A shorter body can be a correct packet (payload, optional code, fewer filters); then it is its own canonical form.
			again := encode(t, s.v, p)
			h2, n2, _ := packet.ParseHeader(again)
			if h2.Remaining > i || h2.Remaining < i-1 || !bytes.HasPrefix(b[n:], again[n2:]) {
				t.Errorf("v%d/%s body cut at %d decodes to something else: %x", s.v, s.name, i, again)
			}
		}
	}
}

func TestDecode_refuses(t *testing.T) {
	const connect = "00044d515454"
	for _, tc := range []struct {
		name, hex string
		v         packet.Version
		code      packet.ReasonCode
	}{
		{"type 0", "0000", packet.V5, packet.MalformedPacket},
		{"endless varint", "30ffffffff", packet.V5, packet.MalformedPacket},
		{"endless varint before it ends", "30ffffffffff", packet.V5, packet.MalformedPacket},
		{"long varint", "c08000", packet.V5, packet.MalformedPacket},
		{"wrong flags", "c100", packet.V5, packet.MalformedPacket},
		{"subscribe without its flag", "8006000100016100", packet.V311, packet.MalformedPacket},
		{"pubrel without its flag", "60020001", packet.V311, packet.MalformedPacket},
		{"huge", "30ffffff7f", packet.V5, packet.PacketTooLarge},
		{"protocol name", "10" + "0c" + "00044d515455" + "040200000000", packet.V311, packet.UnsupportedVersion},
		{"version 3.1", "10" + "0e" + "00064d5149736470" + "030200000000", packet.V311, packet.UnsupportedVersion},
		{"version 6", "10" + "0c" + connect + "060200000000", packet.V5, packet.UnsupportedVersion},
		{"reserved connect flag", "10" + "0c" + connect + "040300000000", packet.V311, packet.MalformedPacket},
		{"will QoS 3", "10" + "12" + connect + "041e0000" + "0000" + "000177" + "0000" + "00", packet.V311, packet.MalformedPacket},
		{"will QoS without will", "10" + "0c" + connect + "040a00000000", packet.V311, packet.MalformedPacket},
		{"will retain without will", "10" + "0c" + connect + "042200000000", packet.V311, packet.MalformedPacket},
		{"will topic with wildcard", "10" + "11" + connect + "04060000" + "0000" + "000123" + "0000", packet.V311, packet.TopicNameInvalid},
		{"password alone in 3.1.1", "10" + "0e" + connect + "04420000" + "0000" + "0000", packet.V311, packet.MalformedPacket},
		{"bytes behind connect", "10" + "0d" + connect + "04020000000000", packet.V311, packet.MalformedPacket},
		{"publish QoS 3", "3605000161" + "0001", packet.V311, packet.MalformedPacket},
		{"DUP with QoS 0", "3803000161", packet.V311, packet.MalformedPacket},
		{"packet id 0", "3205000161" + "0000", packet.V311, packet.ProtocolError},
		{"wildcard topic", "3003000123", packet.V311, packet.TopicNameInvalid},
		{"empty topic", "30020000", packet.V311, packet.ProtocolError},
		{"empty topic without alias", "3003000000", packet.V5, packet.ProtocolError},
		{"alias 0", "3006" + "0000" + "03230000", packet.V5, packet.TopicAliasInvalid},
		{"alias twice", "3009" + "0000" + "06230001230002", packet.V5, packet.ProtocolError},
		{"surrogate in topic", "3005" + "0003" + "eda080", packet.V311, packet.MalformedPacket},
		{"NUL in topic", "3003" + "0001" + "00", packet.V311, packet.MalformedPacket},
		{"NUL behind a rune", "3006" + "0004" + "e4b8ad00", packet.V311, packet.MalformedPacket},
		{"overlong UTF-8", "3004" + "0002" + "c080", packet.V311, packet.MalformedPacket},
		{"foreign property", "3007" + "000161" + "03130001", packet.V5, packet.MalformedPacket},
		{"unknown property", "3006" + "000161" + "027f01", packet.V5, packet.MalformedPacket},
		{"property 0", "3006" + "000161" + "020001", packet.V5, packet.MalformedPacket},
		{"property beyond one byte", "3007" + "000161" + "03810100", packet.V5, packet.MalformedPacket},
		{"payload format 2", "3006" + "000161" + "020102", packet.V5, packet.ProtocolError},
		{"properties longer than the packet", "3006" + "000161" + "100101", packet.V5, packet.MalformedPacket},
		{"response topic with wildcard", "3008" + "000161" + "0408000123", packet.V5, packet.ProtocolError},
		{"receive maximum 0", "10" + "10" + connect + "05020000" + "03210000" + "0000", packet.V5, packet.ProtocolError},
		{"auth data without method", "10" + "11" + connect + "05020000" + "0416000164" + "0000", packet.V5, packet.ProtocolError},
		{"subscribe without filter", "82020001", packet.V311, packet.ProtocolError},
		{"subscribe QoS 3", "8206000100016103", packet.V311, packet.MalformedPacket},
		{"subscribe reserved bits in 3.1.1", "8206000100016104", packet.V311, packet.MalformedPacket},
		{"subscribe reserved bits", "820700010000016140", packet.V5, packet.MalformedPacket},
		{"subscribe retain handling 3", "820700010000016130", packet.V5, packet.ProtocolError},
		{"subscription id 0", "8209000102" + "0b00" + "00016100", packet.V5, packet.ProtocolError},
		{"subscription id twice", "820b000104" + "0b010b01" + "00016100", packet.V5, packet.ProtocolError},
		{"truncated 5.0 subscribe", "8206000100" + "000161", packet.V5, packet.MalformedPacket}, // the one that ends mochi 2.7.9
		{"empty filter", "82050001000000", packet.V311, packet.MalformedPacket},
		{"unsubscribe without filter", "a2020001", packet.V311, packet.ProtocolError},
		{"ping with body", "c00100", packet.V311, packet.MalformedPacket},
		{"disconnect with body in 3.1.1", "e00100", packet.V311, packet.MalformedPacket},
		{"disconnect code", "e00118", packet.V5, packet.ProtocolError},
		{"puback code", "4003000101", packet.V5, packet.ProtocolError},
		{"auth in 3.1.1", "f000", packet.V311, packet.MalformedPacket},
		{"connack code in 3.1.1", "20020006", packet.V311, packet.MalformedPacket},
		{"connack session of a refused", "20020105", packet.V311, packet.MalformedPacket},
		{"suback code in 3.1.1", "9003000103", packet.V311, packet.MalformedPacket},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := hex.DecodeString(tc.hex)
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := packet.Decode(b, tc.v, limit)
			var e *packet.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %+v, %v; want a refusal", p, err)
			}
			if e.Code != tc.code {
				t.Errorf("code %v (%v), want %v", e.Code, e, tc.code)
			}
		})
	}
}

func TestAppend_refuses_long_fields(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 65536)
	for _, p := range []packet.Packet{
		&packet.Publish{Topic: long},
		&packet.Connect{Version: packet.V311, ClientID: long},
		&packet.Disconnect{Code: packet.ServerBusy, Props: props(nil, map[packet.Property]string{packet.ReasonString: string(long)})},
	} {
		b, err := p.Append([]byte("x"), packet.V5)
		if err == nil || string(b) != "x" {
			t.Errorf("%s: %d bytes, error %v", p.Type(), len(b), err)
		}
	}
}

func TestValidFilter(t *testing.T) {
	for s, want := range map[string]bool{"a": true, "#": true, "+": true, "a/#": true, "a/+/b": true, "+/+": true, "/": true, "/+": true, "a/+": true,
		"": false, "a#": false, "#/a": false, "a/#/b": false, "a+": false, "+a": false, "a/+b/c": false, "##": false, "a/b+": false} {
		if got := packet.ValidFilter([]byte(s)); got != want {
			t.Errorf("ValidFilter(%q) = %v", s, got)
		}
	}
}

// go test -bench Publish -run - ./ingest/mqttd/packet
func BenchmarkPublish_Decode(b *testing.B) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for _, pr := range []int{0, 3} {
			if v == packet.V311 && pr > 0 {
				continue
			}
			b.Run(fmt.Sprintf("version=%d/user_properties=%d", v, pr), func(b *testing.B) {
				in := &packet.Publish{Topic: []byte("vw/v1/D-0000001/up/readings"), QoS: 1, ID: 7,
					Payload: []byte(`{"indicator":"heart_rate","taken_at":"2026-11-21T00:00:01Z","value":72,"unit":"/min"}`)}
				for range pr {
					in.Props.User = append(in.Props.User, user("name", "value"))
				}
				buf := encode(b, v, in)
				var p packet.Publish
				b.ReportAllocs()
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					h, n, err := packet.ParseHeader(buf)
					if err == nil {
						err = p.Decode(v, h.Flags, buf[n:n+h.Remaining])
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func TestPublish_Decode_allocates_nothing(t *testing.T) {
	buf := encode(t, packet.V5, &packet.Publish{Topic: []byte("t"), QoS: 1, ID: 7, Props: props(nil, nil, user("a", "b")), Payload: []byte("x")})
	var p packet.Publish
	h, n, _ := packet.ParseHeader(buf)
	if got := testing.AllocsPerRun(100, func() {
		if err := p.Decode(packet.V5, h.Flags, buf[n:]); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
