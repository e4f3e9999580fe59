package packet

// Property is a property identifier, section 2.2.2.2.
type Property byte

// Property identifiers.
const (
	PayloadFormat        Property = 1
	MessageExpiry        Property = 2
	ContentType          Property = 3
	ResponseTopic        Property = 8
	CorrelationData      Property = 9
	SubscriptionID       Property = 11
	SessionExpiry        Property = 17
	AssignedClientID     Property = 18
	ServerKeepAlive      Property = 19
	AuthMethod           Property = 21
	AuthData             Property = 22
	RequestProblemInfo   Property = 23
	WillDelay            Property = 24
	RequestResponseInfo  Property = 25
	ResponseInfo         Property = 26
	ServerReference      Property = 28
	ReasonString         Property = 31
	ReceiveMaximum       Property = 33
	TopicAliasMaximum    Property = 34
	TopicAlias           Property = 35
	MaximumQoS           Property = 36
	RetainAvailable      Property = 37
	UserPropertyID       Property = 38
	MaximumPacketSize    Property = 39
	WildcardSubAvailable Property = 40
	SubIDAvailable       Property = 41
	SharedSubAvailable   Property = 42
)

// UserProperty is one name and value; a name may come several times and order counts [MQTT-3.1.3-10].
type UserProperty struct{ Name, Value []byte }

// Properties holds the properties of any packet. The two that may come several times stand in their own slices.
type Properties struct {
	// A value counts only when its bit is set: decoding does not clear what an earlier packet left.
	set             uint64
	num             [43]uint32 // byte, two byte, four byte and variable values by identifier
	data            [32][]byte // strings and binary by identifier
	User            []UserProperty
	SubscriptionIDs []uint32
}

// Has reports whether a property is there; for the two with slices of their own look at these.
func (p *Properties) Has(id Property) bool { return p.set&(1<<id) != 0 }

// Num returns a numeric property, otherwise when it is absent.
func (p *Properties) Num(id Property, otherwise uint32) uint32 {
	if int(id) < len(p.num) && p.Has(id) {
		return p.num[id]
	}
	return otherwise
}

// Data returns a string or binary property, nil when it is absent.
func (p *Properties) Data(id Property) []byte {
	if int(id) < len(p.data) && p.Has(id) {
		return p.data[id]
	}
	return nil
}

// SetNum and SetData set a property; they panic on an identifier of the other kind, which only a programmer can give.
func (p *Properties) SetNum(id Property, v uint32) {
	if k := kinds[id]; k < kindBool || k > kindUint32 {
		panic("packet: property is not a number")
	}
	p.set, p.num[id] = p.set|1<<id, v
}

// SetData: see SetNum.
func (p *Properties) SetData(id Property, v []byte) {
	if k := kinds[id]; k != kindString && k != kindBinary {
		panic("packet: property is not a string")
	}
	p.set, p.data[id] = p.set|1<<id, v
}

// Reset forgets all properties and keeps the memory.
func (p *Properties) Reset() {
	p.set, p.User, p.SubscriptionIDs = 0, p.User[:0], p.SubscriptionIDs[:0]
}

type kind byte

const (
	kindNone kind = iota
	kindBool
	kindUint16
	kindUint32
	kindVarint
	kindString
	kindBinary
	kindPair
)

var kinds = [43]kind{
	PayloadFormat: kindBool, MessageExpiry: kindUint32, ContentType: kindString, ResponseTopic: kindString,
	CorrelationData: kindBinary, SubscriptionID: kindVarint, SessionExpiry: kindUint32, AssignedClientID: kindString,
	ServerKeepAlive: kindUint16, AuthMethod: kindString, AuthData: kindBinary, RequestProblemInfo: kindBool,
	WillDelay: kindUint32, RequestResponseInfo: kindBool, ResponseInfo: kindString, ServerReference: kindString,
	ReasonString: kindString, ReceiveMaximum: kindUint16, TopicAliasMaximum: kindUint16, TopicAlias: kindUint16,
	MaximumQoS: kindBool, RetainAvailable: kindBool, UserPropertyID: kindPair, MaximumPacketSize: kindUint32,
	WildcardSubAvailable: kindBool, SubIDAvailable: kindBool, SharedSubAvailable: kindBool,
}

func mask(ids ...Property) (m uint64) {
	for _, id := range ids {
		m |= 1 << id
	}
	return m
}

// Which properties a packet may carry, section 2.2.2.2.
var (
	willProps       = mask(PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData, WillDelay, UserPropertyID)
	ackProps        = mask(ReasonString, UserPropertyID)
	propertiesByPkt = [16]uint64{
		CONNECT: mask(SessionExpiry, AuthMethod, AuthData, RequestProblemInfo, RequestResponseInfo, ReceiveMaximum,
			TopicAliasMaximum, UserPropertyID, MaximumPacketSize),
		CONNACK: mask(SessionExpiry, AssignedClientID, ServerKeepAlive, AuthMethod, AuthData, ResponseInfo, ServerReference,
			ReasonString, ReceiveMaximum, TopicAliasMaximum, MaximumQoS, RetainAvailable, UserPropertyID, MaximumPacketSize,
			WildcardSubAvailable, SubIDAvailable, SharedSubAvailable),
		PUBLISH: mask(PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData, SubscriptionID, TopicAlias, UserPropertyID),
		PUBACK:  ackProps, PUBREC: ackProps, PUBREL: ackProps, PUBCOMP: ackProps, SUBACK: ackProps, UNSUBACK: ackProps,
		SUBSCRIBE:   mask(SubscriptionID, UserPropertyID),
		UNSUBSCRIBE: mask(UserPropertyID),
		DISCONNECT:  mask(SessionExpiry, ServerReference, ReasonString, UserPropertyID),
		AUTH:        mask(AuthMethod, AuthData, ReasonString, UserPropertyID),
	}
)

// decode reads the property length and the properties. many allows several subscription identifiers, as a PUBLISH
// to a client may have.
func (p *Properties) decode(r *reader, allowed uint64, many bool) {
	p.Reset()
	n := int(r.varint())
	if r.err != nil || n == 0 {
		return
	}
	if n > len(r.b) {
		r.fail(errTruncated)
		return
	}
	in := reader{b: r.b[:n:n]}
	r.b = r.b[n:]
	for in.err == nil && len(in.b) > 0 {
		id := in.varint()
		if in.err != nil {
			break
		}
		if id >= uint32(len(kinds)) || allowed&(1<<id) == 0 {
			in.fail(malformed("2.2.2.2", "property does not belong to this packet"))
			break
		}
		p.decodeOne(&in, Property(id), many)
	}
	if in.err != nil {
		r.fail(in.err)
		return
	}
	// 3.1.2.11.10, 3.15.2.2.3: data without a method is a Protocol Error.
	if p.Has(AuthData) && !p.Has(AuthMethod) {
		r.fail(protocol("3.1.2.11.10", "authentication data without a method"))
	}
}

func (p *Properties) decodeOne(r *reader, id Property, many bool) {
	if p.Has(id) || id == SubscriptionID && len(p.SubscriptionIDs) > 0 && !many {
		r.fail(protocol("2.2.2.2", "property is there twice"))
		return
	}
	if id != UserPropertyID && id != SubscriptionID {
		p.set |= 1 << id
	}
	switch kinds[id] {
	case kindBool:
		v := r.byte()
		if v > 1 {
			r.fail(protocol("2.2.2.2", "property is neither 0 nor 1"))
		}
		p.num[id] = uint32(v)
	case kindUint16:
		p.num[id] = uint32(r.uint16())
	case kindUint32:
		p.num[id] = r.uint32()
	case kindVarint: // the subscription identifier
		v := r.varint()
		if v == 0 && r.err == nil {
			r.fail(protocol("3.8.2.1.2", "subscription identifier is 0"))
		}
		p.SubscriptionIDs = append(p.SubscriptionIDs, v)
	case kindString:
		p.data[id] = r.string()
	case kindBinary:
		p.data[id] = r.bytes()
	case kindPair:
		p.User = append(p.User, UserProperty{Name: r.string(), Value: r.string()})
	}
	if r.err != nil {
		return
	}
	switch id {
	case ReceiveMaximum, MaximumPacketSize: // 3.1.2.11.3, 3.1.2.11.4
		if p.num[id] == 0 {
			r.fail(protocol("3.1.2.11", "receive maximum or maximum packet size is 0"))
		}
	case TopicAlias:
		if p.num[id] == 0 {
			r.fail(&Error{Code: TopicAliasInvalid, Clause: "MQTT-3.3.2-8", Text: "topic alias is 0"})
		}
	case ResponseTopic:
		if !ValidTopicName(p.data[id]) {
			r.fail(protocol("MQTT-3.3.2-14", "response topic is empty or has wildcards"))
		}
	}
}

// encode appends the property length and the properties in ascending order.
func (p *Properties) encode(w *writer) {
	w.byte(0)
	at := len(w.b)
	if p.empty() {
		return
	}
	for i := range kinds {
		id := Property(i)
		switch k := kinds[id]; {
		case k == kindVarint:
			for _, v := range p.SubscriptionIDs {
				w.byte(byte(id))
				w.b = appendVarint(w.b, v)
			}
		case k == kindPair:
			for _, u := range p.User {
				w.byte(byte(id))
				w.bytes(u.Name)
				w.bytes(u.Value)
			}
		case !p.Has(id):
		case k == kindBool:
			w.byte(byte(id))
			w.byte(byte(p.num[id]))
		case k == kindUint16:
			w.byte(byte(id))
			w.uint16(uint16(p.num[id]))
		case k == kindUint32:
			w.byte(byte(id))
			w.uint32(p.num[id])
		case k == kindString, k == kindBinary:
			w.byte(byte(id))
			w.bytes(p.data[id])
		}
	}
	w.closeLength(at)
}

func (p *Properties) empty() bool {
	return p.set == 0 && len(p.User) == 0 && len(p.SubscriptionIDs) == 0
}
