package packet

import "errors"

// Version is the protocol level of CONNECT.
type Version byte

// The two versions that we speak.
const (
	V311 Version = 4
	V5   Version = 5
)

// Type is the control packet type, the high half of the first byte.
type Type byte

// Control packet types, section 2.1.2.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [16]string{"reserved", "connect", "connack", "publish", "puback", "pubrec", "pubrel", "pubcomp",
	"subscribe", "suback", "unsubscribe", "unsuback", "pingreq", "pingresp", "disconnect", "auth"}

func (t Type) String() string { return typeNames[t&15] }

// MaxRemaining is the largest Remaining Length that the encoding can say.
const MaxRemaining = 268_435_455

// Header is the fixed header.
type Header struct {
	Type      Type
	Flags     byte // the low half of the first byte
	Remaining int  // bytes that follow the fixed header
}

// ErrIncomplete says that the bytes so far are a correct beginning: read more.
var ErrIncomplete = errors.New("packet incomplete")

// ParseHeader reads the fixed header at the start of b and returns its length, 2 to 5 bytes. It looks at no more
// than five bytes and fails as soon as they cannot become a header, so the caller need not wait for the rest.
func ParseHeader(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return h, 0, ErrIncomplete
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&15
	if err := checkFlags(h.Type, h.Flags); err != nil {
		return h, 0, err
	}
	if len(b) >= 2 && b[1] < 0x80 { // the usual case
		h.Remaining = int(b[1])
		return h, 2, nil
	}
	v, m, err := varint(b[1:])
	if err != nil {
		return h, 0, err
	}
	h.Remaining = int(v)
	return h, 1 + m, nil
}

func checkFlags(t Type, flags byte) error {
	var want byte
	switch t {
	case 0:
		return malformed("2.1.2", "packet type 0 is forbidden")
	case PUBLISH:
		return nil // checked by Publish.Decode
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		want = 2 // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
	}
	if flags != want {
		return malformed("MQTT-2.1.3-1", "reserved flags of the fixed header are wrong")
	}
	return nil
}

// Packet is any control packet.
type Packet interface {
	Type() Type
	// Decode reads the variable header and payload: exactly the Remaining Length bytes behind the fixed header.
	Decode(v Version, flags byte, body []byte) error
	// Append appends the whole packet in its shortest form, properties in ascending order. It fails only when a
	// field is too long for the wire; dst is returned unchanged then.
	Append(dst []byte, v Version) ([]byte, error)
}

// New returns an empty packet of type t, nil when there is no such type.
func New(t Type) Packet {
	switch t {
	case CONNECT:
		return new(Connect)
	case CONNACK:
		return new(Connack)
	case PUBLISH:
		return new(Publish)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return &Ack{Kind: t}
	case SUBSCRIBE:
		return new(Subscribe)
	case SUBACK:
		return new(Suback)
	case UNSUBSCRIBE:
		return new(Unsubscribe)
	case UNSUBACK:
		return new(Unsuback)
	case PINGREQ, PINGRESP:
		return &Ping{Kind: t}
	case DISCONNECT:
		return new(Disconnect)
	case AUTH:
		return new(Auth)
	}
	return nil
}

// Decode reads one whole packet at the start of b and returns its length. A packet of more than max bytes, header
// included, is refused before anything else is looked at.
func Decode(b []byte, v Version, max int) (Packet, int, error) {
	h, n, err := ParseHeader(b)
	if err != nil {
		return nil, 0, err
	}
	if n+h.Remaining > max {
		return nil, 0, &Error{Code: PacketTooLarge, Clause: "MQTT-3.1.2-24", Text: "packet larger than the limit"}
	}
	if len(b) < n+h.Remaining {
		return nil, 0, ErrIncomplete
	}
	p := New(h.Type)
	if err := p.Decode(v, h.Flags, b[n:n+h.Remaining]); err != nil {
		return nil, 0, err
	}
	return p, n + h.Remaining, nil
}

// Error is a packet that breaks the protocol.
type Error struct {
	Code   ReasonCode // what MQTT 5 says to the sender
	Clause string     // the violated clause, "MQTT-1.5.4-1" or a section number
	Text   string
}

func (e *Error) Error() string { return e.Text + " [" + e.Clause + "]" }

func malformed(clause, text string) error {
	return &Error{Code: MalformedPacket, Clause: clause, Text: text}
}

func protocol(clause, text string) error {
	return &Error{Code: ProtocolError, Clause: clause, Text: text}
}

var errTruncated = malformed("1.5", "packet ends inside a field")
