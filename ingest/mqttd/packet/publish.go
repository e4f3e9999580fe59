package packet

// Publish is PUBLISH, section 3.3. All slices are parts of the decoded bytes.
type Publish struct {
	Dup, Retain bool
	QoS         byte
	ID          uint16 // 0 with QoS 0
	Topic       []byte // empty only with a topic alias
	Payload     []byte
	Props       Properties
}

// Type is PUBLISH.
func (*Publish) Type() Type { return PUBLISH }

// Decode implements Packet. It allocates only when a packet has more user properties than any before it.
func (p *Publish) Decode(v Version, flags byte, body []byte) error {
	p.Dup, p.QoS, p.Retain = flags&8 != 0, flags>>1&3, flags&1 != 0
	if p.QoS == 3 { // [MQTT-3.3.1-4]
		return malformed("MQTT-3.3.1-4", "QoS is 3")
	}
	if p.Dup && p.QoS == 0 { // [MQTT-3.3.1-2]
		return malformed("MQTT-3.3.1-2", "DUP with QoS 0")
	}
	r := reader{b: body}
	p.Topic = r.string() // [MQTT-3.3.2-1]
	p.ID = 0
	if p.QoS > 0 {
		p.ID = r.packetID()
	}
	p.Props.Reset()
	if v == V5 {
		p.Props.decode(&r, propertiesByPkt[PUBLISH], true)
	}
	if r.err != nil {
		return r.err
	}
	if !ValidTopicName(p.Topic) {
		if len(p.Topic) > 0 {
			return &Error{Code: TopicNameInvalid, Clause: "MQTT-3.3.2-2", Text: "topic name has wildcards"}
		}
		if !p.Props.Has(TopicAlias) { // 3.3.2.1: Protocol Error; 3.1.1 [MQTT-4.7.3-1]
			return protocol("MQTT-4.7.3-1", "topic name is empty")
		}
	}
	p.Payload = r.b
	return nil
}

// Append implements Packet.
func (p *Publish) Append(dst []byte, v Version) ([]byte, error) {
	flags := p.QoS << 1
	if p.Dup {
		flags |= 8
	}
	if p.Retain {
		flags |= 1
	}
	w := begin(dst, PUBLISH, flags)
	w.bytes(p.Topic)
	if p.QoS > 0 {
		w.uint16(p.ID)
	}
	if v == V5 {
		p.Props.encode(&w)
	}
	w.b = append(w.b, p.Payload...)
	return w.done()
}

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP, sections 3.4 to 3.7.
type Ack struct {
	Kind  Type
	ID    uint16
	Code  ReasonCode // always 0 in 3.1.1
	Props Properties
}

// Type is which of the four it is.
func (p *Ack) Type() Type { return p.Kind }

// Decode implements Packet; Kind must be set.
func (p *Ack) Decode(v Version, flags byte, body []byte) error {
	if err := checkFlags(p.Kind, flags); err != nil {
		return err
	}
	r := reader{b: body}
	p.ID = r.packetID()
	p.Code = Success
	p.Props.Reset()
	if v == V5 && len(r.b) > 0 { // 3.4.2.1: code and properties may be left out
		p.Code = r.reason(p.Kind)
		if len(r.b) > 0 {
			p.Props.decode(&r, propertiesByPkt[p.Kind], false)
		}
	}
	return r.end()
}

// Append implements Packet.
func (p *Ack) Append(dst []byte, v Version) ([]byte, error) {
	var flags byte
	if p.Kind == PUBREL {
		flags = 2 // [MQTT-3.6.1-1]
	}
	w := begin(dst, p.Kind, flags)
	w.uint16(p.ID)
	appendCode(&w, v, p.Code, &p.Props)
	return w.done()
}

// appendCode writes reason code and properties where both may be left out.
func appendCode(w *writer, v Version, c ReasonCode, props *Properties) {
	if v != V5 || c == Success && props.empty() {
		return
	}
	w.byte(byte(c))
	if !props.empty() {
		props.encode(w)
	}
}
