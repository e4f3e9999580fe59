package packet

// Filter is one entry of a SUBSCRIBE.
type Filter struct {
	Topic             []byte
	QoS               byte
	NoLocal           bool // 5.0, as the two below
	RetainAsPublished bool
	RetainHandling    byte // 0 to 2
}

// Subscribe is SUBSCRIBE, section 3.8.
type Subscribe struct {
	ID      uint16
	Props   Properties
	Filters []Filter // at least one
}

// Type is SUBSCRIBE.
func (*Subscribe) Type() Type { return SUBSCRIBE }

// Decode implements Packet. A filter's wildcards are not looked at, see ValidFilter: a wrong one is answered in its
// place in the SUBACK.
func (p *Subscribe) Decode(v Version, flags byte, body []byte) error {
	if err := checkFlags(SUBSCRIBE, flags); err != nil {
		return err
	}
	r := reader{b: body}
	p.ID = r.packetID()
	p.Props.Reset()
	if v == V5 {
		p.Props.decode(&r, propertiesByPkt[SUBSCRIBE], false)
	}
	p.Filters = p.Filters[:0]
	for r.err == nil && len(r.b) > 0 {
		f := Filter{Topic: r.string()} // [MQTT-3.8.3-1]
		o := r.byte()
		f.QoS = o & 3
		if v == V5 {
			f.NoLocal, f.RetainAsPublished, f.RetainHandling = o&4 != 0, o&8 != 0, o>>4&3
			o &^= 0x3c
		}
		switch {
		case r.err != nil:
		case len(f.Topic) == 0:
			r.fail(malformed("MQTT-4.7.3-1", "topic filter is empty"))
		case o > 2: // [MQTT-3.8.3-5], 3.1.1 [MQTT-3.8.3-4]
			r.fail(malformed("MQTT-3.8.3-5", "QoS is 3 or reserved option bits are set"))
		case f.RetainHandling == 3:
			r.fail(protocol("3.8.3.1", "retain handling is 3"))
		}
		p.Filters = append(p.Filters, f)
	}
	if r.err == nil && len(p.Filters) == 0 {
		return protocol("MQTT-3.8.3-2", "no topic filter")
	}
	return r.end()
}

// Append implements Packet.
func (p *Subscribe) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, SUBSCRIBE, 2)
	w.uint16(p.ID)
	if v == V5 {
		p.Props.encode(&w)
	}
	for _, f := range p.Filters {
		w.bytes(f.Topic)
		o := f.QoS
		if v == V5 {
			o |= f.RetainHandling << 4
			if f.NoLocal {
				o |= 4
			}
			if f.RetainAsPublished {
				o |= 8
			}
		}
		w.byte(o)
	}
	return w.done()
}

// Suback is SUBACK, section 3.9.
type Suback struct {
	ID    uint16
	Props Properties
	Codes []ReasonCode // one per filter, in order [MQTT-3.8.4-6]
}

// Type is SUBACK.
func (*Suback) Type() Type { return SUBACK }

// Decode implements Packet.
func (p *Suback) Decode(v Version, flags byte, body []byte) error {
	if err := checkFlags(SUBACK, flags); err != nil {
		return err
	}
	r := reader{b: body}
	p.ID = r.packetID()
	p.Props.Reset()
	if v == V5 {
		p.Props.decode(&r, propertiesByPkt[SUBACK], false)
	}
	p.Codes = p.Codes[:0]
	for r.err == nil && len(r.b) > 0 {
		c := ReasonCode(0)
		if v == V5 {
			c = r.reason(SUBACK)
		} else if c = ReasonCode(r.byte()); c > GrantedQoS2 && c != SubackFailure311 {
			r.fail(malformed("3.1.1 MQTT-3.9.3-2", "return code is reserved"))
		}
		p.Codes = append(p.Codes, c)
	}
	if r.err == nil && len(p.Codes) == 0 {
		return malformed("3.9.3", "no reason code")
	}
	return r.end()
}

// Append implements Packet.
func (p *Suback) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, SUBACK, 0)
	w.uint16(p.ID)
	if v == V5 {
		p.Props.encode(&w)
	}
	for _, c := range p.Codes {
		w.byte(byte(c))
	}
	return w.done()
}

// Unsubscribe is UNSUBSCRIBE, section 3.10.
type Unsubscribe struct {
	ID      uint16
	Props   Properties
	Filters [][]byte // at least one
}

// Type is UNSUBSCRIBE.
func (*Unsubscribe) Type() Type { return UNSUBSCRIBE }

// Decode implements Packet.
func (p *Unsubscribe) Decode(v Version, flags byte, body []byte) error {
	if err := checkFlags(UNSUBSCRIBE, flags); err != nil {
		return err
	}
	r := reader{b: body}
	p.ID = r.packetID()
	p.Props.Reset()
	if v == V5 {
		p.Props.decode(&r, propertiesByPkt[UNSUBSCRIBE], false)
	}
	p.Filters = p.Filters[:0]
	for r.err == nil && len(r.b) > 0 {
		f := r.string() // [MQTT-3.10.3-1]
		if r.err == nil && len(f) == 0 {
			r.fail(malformed("MQTT-4.7.3-1", "topic filter is empty"))
		}
		p.Filters = append(p.Filters, f)
	}
	if r.err == nil && len(p.Filters) == 0 {
		return protocol("MQTT-3.10.3-2", "no topic filter")
	}
	return r.end()
}

// Append implements Packet.
func (p *Unsubscribe) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, UNSUBSCRIBE, 2)
	w.uint16(p.ID)
	if v == V5 {
		p.Props.encode(&w)
	}
	for _, f := range p.Filters {
		w.bytes(f)
	}
	return w.done()
}

// Unsuback is UNSUBACK, section 3.11. Codes is empty in 3.1.1.
type Unsuback struct {
	ID    uint16
	Props Properties
	Codes []ReasonCode
}

// Type is UNSUBACK.
func (*Unsuback) Type() Type { return UNSUBACK }

// Decode implements Packet.
func (p *Unsuback) Decode(v Version, flags byte, body []byte) error {
	if err := checkFlags(UNSUBACK, flags); err != nil {
		return err
	}
	r := reader{b: body}
	p.ID = r.packetID()
	p.Props.Reset()
	p.Codes = p.Codes[:0]
	if v == V5 {
		p.Props.decode(&r, propertiesByPkt[UNSUBACK], false)
		for r.err == nil && len(r.b) > 0 {
			p.Codes = append(p.Codes, r.reason(UNSUBACK))
		}
		if r.err == nil && len(p.Codes) == 0 {
			return malformed("3.11.3", "no reason code")
		}
	}
	return r.end()
}

// Append implements Packet.
func (p *Unsuback) Append(dst []byte, v Version) ([]byte, error) {
	w := begin(dst, UNSUBACK, 0)
	w.uint16(p.ID)
	if v == V5 {
		p.Props.encode(&w)
		for _, c := range p.Codes {
			w.byte(byte(c))
		}
	}
	return w.done()
}
