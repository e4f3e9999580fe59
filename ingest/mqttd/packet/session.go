package packet

// Ping is PINGREQ or PINGRESP, sections 3.12 and 3.13.
type Ping struct{ Kind Type }

// Type is which of the two it is.
func (p *Ping) Type() Type { return p.Kind }

// Decode implements Packet; Kind must be set.
func (p *Ping) Decode(_ Version, flags byte, body []byte) error {
	if err := checkFlags(p.Kind, flags); err != nil {
		return err
	}
	if len(body) > 0 {
		return malformed("3.12", "ping with a body")
	}
	return nil
}

// Append implements Packet.
func (p *Ping) Append(dst []byte, _ Version) ([]byte, error) {
	return append(dst, byte(p.Kind)<<4, 0), nil
}

// Disconnect is DISCONNECT, section 3.14.
type Disconnect struct {
	Code  ReasonCode // always 0 in 3.1.1
	Props Properties
}

// Type is DISCONNECT.
func (*Disconnect) Type() Type { return DISCONNECT }

// Decode implements Packet.
func (p *Disconnect) Decode(v Version, flags byte, body []byte) error {
	p.Code = Success
	p.Props.Reset()
	return decodeCode(DISCONNECT, v, flags, body, &p.Code, &p.Props) // [MQTT-3.14.1-1]
}

// Append implements Packet.
func (p *Disconnect) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, DISCONNECT, 0)
	appendCode(&w, v, p.Code, &p.Props)
	return w.done()
}

// Auth is AUTH, section 3.15; 3.1.1 has none.
type Auth struct {
	Code  ReasonCode
	Props Properties
}

// Type is AUTH.
func (*Auth) Type() Type { return AUTH }

// Decode implements Packet.
func (p *Auth) Decode(v Version, flags byte, body []byte) error {
	if v != V5 {
		return malformed("3.1.1 2.2.1", "packet type 15 is forbidden")
	}
	p.Code = Success
	p.Props.Reset()
	return decodeCode(AUTH, v, flags, body, &p.Code, &p.Props) // [MQTT-3.15.1-1]
}

// Append implements Packet.
func (p *Auth) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, AUTH, 0)
	appendCode(&w, v, p.Code, &p.Props)
	return w.done()
}

func decodeCode(t Type, v Version, flags byte, body []byte, c *ReasonCode, props *Properties) error {
	if err := checkFlags(t, flags); err != nil {
		return err
	}
	r := reader{b: body}
	if v == V5 && len(r.b) > 0 { // 3.14.2.1, 3.15.2.1: both may be left out
		*c = r.reason(t)
		if len(r.b) > 0 {
			props.decode(&r, propertiesByPkt[t], false)
		}
	}
	return r.end()
}
