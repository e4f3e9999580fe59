package packet

// Connect is CONNECT, section 3.1.
type Connect struct {
	// Version is the protocol level that the client asked for; set also when Decode fails for that reason.
	Version    Version
	CleanStart bool   // clean session in 3.1.1
	KeepAlive  uint16 // seconds, 0: none
	Props      Properties
	ClientID   []byte
	HasWill    bool
	Will       Will
	// HasUsername and HasPassword tell an empty one from none.
	HasUsername, HasPassword bool
	Username, Password       []byte
}

// Will is the message that the server publishes for a client that went without DISCONNECT.
type Will struct {
	QoS     byte
	Retain  bool
	Props   Properties
	Topic   []byte
	Payload []byte
}

// Type is CONNECT.
func (*Connect) Type() Type { return CONNECT }

// Bits of the connect flags, section 3.1.2.3.
const (
	flagReserved   = 1 << 0
	flagCleanStart = 1 << 1
	flagWill       = 1 << 2
	flagWillQoS    = 3 << 3
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUsername   = 1 << 7
)

// Decode ignores v: the packet itself says its version.
func (p *Connect) Decode(_ Version, flags byte, body []byte) error {
	if err := checkFlags(CONNECT, flags); err != nil {
		return err
	}
	*p = Connect{}
	r := reader{b: body}
	name := r.bytes()
	p.Version = Version(r.byte())
	if r.err != nil {
		return r.err
	}
	if string(name) != "MQTT" { // [MQTT-3.1.2-1]
		return &Error{Code: UnsupportedVersion, Clause: "MQTT-3.1.2-1", Text: "protocol name is not MQTT"}
	}
	if p.Version != V311 && p.Version != V5 { // [MQTT-3.1.2-2]
		return &Error{Code: UnsupportedVersion, Clause: "MQTT-3.1.2-2", Text: "protocol version is neither 3.1.1 nor 5.0"}
	}
	f := r.byte()
	p.KeepAlive = r.uint16()
	if r.err == nil {
		r.err = checkConnectFlags(p.Version, f)
	}
	if r.err != nil {
		return r.err
	}
	p.CleanStart = f&flagCleanStart != 0
	if p.Version == V5 {
		p.Props.decode(&r, propertiesByPkt[CONNECT], false)
	}
	p.ClientID = r.string() // [MQTT-3.1.3-1] [MQTT-3.1.3-4]
	if f&flagWill != 0 {
		p.HasWill = true
		p.Will.QoS, p.Will.Retain = f&flagWillQoS>>3, f&flagWillRetain != 0
		if p.Version == V5 {
			p.Will.Props.decode(&r, willProps, false)
		}
		p.Will.Topic = r.string() // [MQTT-3.1.3-11]
		p.Will.Payload = r.bytes()
		if r.err == nil && !ValidTopicName(p.Will.Topic) {
			r.fail(&Error{Code: TopicNameInvalid, Clause: "MQTT-4.7.1-1", Text: "will topic is empty or has wildcards"})
		}
	}
	if f&flagUsername != 0 {
		p.HasUsername, p.Username = true, r.string() // [MQTT-3.1.3-12]
	}
	if f&flagPassword != 0 {
		p.HasPassword, p.Password = true, r.bytes()
	}
	return r.end()
}

func checkConnectFlags(v Version, f byte) error {
	switch {
	case f&flagReserved != 0:
		return malformed("MQTT-3.1.2-3", "reserved connect flag is set")
	case f&flagWill == 0 && f&flagWillQoS != 0:
		return malformed("MQTT-3.1.2-11", "will QoS without a will")
	case f&flagWill == 0 && f&flagWillRetain != 0:
		return malformed("MQTT-3.1.2-13", "will retain without a will")
	case f&flagWillQoS == flagWillQoS:
		return malformed("MQTT-3.1.2-12", "will QoS is 3")
	case v == V311 && f&flagPassword != 0 && f&flagUsername == 0:
		return malformed("3.1.1 MQTT-3.1.2-22", "password without user name")
	}
	return nil
}

// Append appends the packet in its own Version; v is ignored.
func (p *Connect) Append(dst []byte, _ Version) ([]byte, error) {
	w := begin(dst, CONNECT, 0)
	w.bytes([]byte("MQTT"))
	w.byte(byte(p.Version))
	var f byte
	if p.CleanStart {
		f |= flagCleanStart
	}
	if p.HasWill {
		f |= flagWill | p.Will.QoS<<3&flagWillQoS
		if p.Will.Retain {
			f |= flagWillRetain
		}
	}
	if p.HasUsername {
		f |= flagUsername
	}
	if p.HasPassword {
		f |= flagPassword
	}
	w.byte(f)
	w.uint16(p.KeepAlive)
	if p.Version == V5 {
		p.Props.encode(&w)
	}
	w.bytes(p.ClientID)
	if p.HasWill {
		if p.Version == V5 {
			p.Will.Props.encode(&w)
		}
		w.bytes(p.Will.Topic)
		w.bytes(p.Will.Payload)
	}
	if p.HasUsername {
		w.bytes(p.Username)
	}
	if p.HasPassword {
		w.bytes(p.Password)
	}
	return w.done()
}

// Connack is CONNACK, section 3.2.
type Connack struct {
	SessionPresent bool
	Code           ReasonCode // in 3.1.1 its return code, 0 to 5
	Props          Properties
}

// Type is CONNACK.
func (*Connack) Type() Type { return CONNACK }

// Decode implements Packet.
func (p *Connack) Decode(v Version, flags byte, body []byte) error {
	if err := checkFlags(CONNACK, flags); err != nil {
		return err
	}
	r := reader{b: body}
	f := r.byte()
	p.SessionPresent = f == 1
	p.Props.Reset()
	if v == V5 {
		p.Code = r.reason(CONNACK)
		p.Props.decode(&r, propertiesByPkt[CONNACK], false)
	} else if p.Code = ReasonCode(r.byte()); p.Code > Refused311Unauthorized {
		r.fail(malformed("3.1.1 3.2.2.3", "return code is reserved"))
	}
	if r.err == nil && f > 1 {
		r.fail(malformed("MQTT-3.2.2-1", "reserved acknowledge flags are set"))
	}
	if r.err == nil && p.SessionPresent && p.Code != 0 {
		r.fail(malformed("MQTT-3.2.2-6", "session present on a refused connection"))
	}
	return r.end()
}

// Append implements Packet.
func (p *Connack) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, CONNACK, 0)
	if p.SessionPresent {
		w.byte(1)
	} else {
		w.byte(0)
	}
	w.byte(byte(p.Code))
	if v == V5 {
		p.Props.encode(&w)
	}
	return w.done()
}
