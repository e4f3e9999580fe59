package packet

import "fmt"

// ReasonCode is an MQTT 5 reason code, section 2.4; values of 0x80 and more are failures.
type ReasonCode byte

// Reason codes. Several names share 0x00.
const (
	Success                ReasonCode = 0x00
	GrantedQoS1            ReasonCode = 0x01
	GrantedQoS2            ReasonCode = 0x02
	DisconnectWithWill     ReasonCode = 0x04
	NoMatchingSubscribers  ReasonCode = 0x10
	NoSubscriptionExisted  ReasonCode = 0x11
	ContinueAuthentication ReasonCode = 0x18
	Reauthenticate         ReasonCode = 0x19
	UnspecifiedError       ReasonCode = 0x80
	MalformedPacket        ReasonCode = 0x81
	ProtocolError          ReasonCode = 0x82
	ImplementationError    ReasonCode = 0x83
	UnsupportedVersion     ReasonCode = 0x84
	ClientIDNotValid       ReasonCode = 0x85
	BadUserNameOrPassword  ReasonCode = 0x86
	NotAuthorized          ReasonCode = 0x87
	ServerUnavailable      ReasonCode = 0x88
	ServerBusy             ReasonCode = 0x89
	Banned                 ReasonCode = 0x8a
	ServerShuttingDown     ReasonCode = 0x8b
	BadAuthMethod          ReasonCode = 0x8c
	KeepAliveTimeout       ReasonCode = 0x8d
	SessionTakenOver       ReasonCode = 0x8e
	TopicFilterInvalid     ReasonCode = 0x8f
	TopicNameInvalid       ReasonCode = 0x90
	PacketIDInUse          ReasonCode = 0x91
	PacketIDNotFound       ReasonCode = 0x92
	ReceiveMaximumExceeded ReasonCode = 0x93
	TopicAliasInvalid      ReasonCode = 0x94
	PacketTooLarge         ReasonCode = 0x95
	MessageRateTooHigh     ReasonCode = 0x96
	QuotaExceeded          ReasonCode = 0x97
	AdministrativeAction   ReasonCode = 0x98
	PayloadFormatInvalid   ReasonCode = 0x99
	RetainNotSupported     ReasonCode = 0x9a
	QoSNotSupported        ReasonCode = 0x9b
	UseAnotherServer       ReasonCode = 0x9c
	ServerMoved            ReasonCode = 0x9d
	SharedSubsUnsupported  ReasonCode = 0x9e
	ConnectionRateExceeded ReasonCode = 0x9f
	MaximumConnectTime     ReasonCode = 0xa0
	SubIDsUnsupported      ReasonCode = 0xa1
	WildcardsUnsupported   ReasonCode = 0xa2
)

func (c ReasonCode) String() string { return fmt.Sprintf("0x%02x", byte(c)) }

// Failed reports whether c is a failure.
func (c ReasonCode) Failed() bool { return c >= 0x80 }

// Return codes of the 3.1.1 CONNACK, its section 3.2.2.3.
const (
	Refused311Version      ReasonCode = 1
	Refused311ClientID     ReasonCode = 2
	Refused311Unavailable  ReasonCode = 3
	Refused311Credentials  ReasonCode = 4
	Refused311Unauthorized ReasonCode = 5
)

// SubackFailure311 is the only failure of the 3.1.1 SUBACK.
const SubackFailure311 ReasonCode = 0x80

type codes [4]uint64

func codeSet(cs ...ReasonCode) (s codes) {
	for _, c := range cs {
		s[c>>6] |= 1 << (c & 63)
	}
	return s
}

// reasons is the table of section 2.4: which packet may carry which code.
var reasons = [16]codes{
	// [MQTT-3.2.2-8]
	CONNACK: codeSet(Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationError, UnsupportedVersion,
		ClientIDNotValid, BadUserNameOrPassword, NotAuthorized, ServerUnavailable, ServerBusy, Banned, BadAuthMethod,
		TopicNameInvalid, PacketTooLarge, QuotaExceeded, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported,
		UseAnotherServer, ServerMoved, ConnectionRateExceeded),
	PUBACK:   publishReasons, // [MQTT-3.4.2-1]
	PUBREC:   publishReasons, // [MQTT-3.5.2-1]
	PUBREL:   codeSet(Success, PacketIDNotFound),
	PUBCOMP:  codeSet(Success, PacketIDNotFound), // [MQTT-3.7.2-1]
	SUBACK:   codeSet(Success, GrantedQoS1, GrantedQoS2, UnspecifiedError, ImplementationError, NotAuthorized, TopicFilterInvalid, PacketIDInUse, QuotaExceeded, SharedSubsUnsupported, SubIDsUnsupported, WildcardsUnsupported),
	UNSUBACK: codeSet(Success, NoSubscriptionExisted, UnspecifiedError, ImplementationError, NotAuthorized, TopicFilterInvalid, PacketIDInUse),
	// [MQTT-3.14.2-1]
	DISCONNECT: codeSet(Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationError,
		NotAuthorized, ServerBusy, ServerShuttingDown, KeepAliveTimeout, SessionTakenOver, TopicFilterInvalid,
		TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge, MessageRateTooHigh, QuotaExceeded,
		AdministrativeAction, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved,
		SharedSubsUnsupported, ConnectionRateExceeded, MaximumConnectTime, SubIDsUnsupported, WildcardsUnsupported),
	AUTH: codeSet(Success, ContinueAuthentication, Reauthenticate), // [MQTT-3.15.2-1]
}

var publishReasons = codeSet(Success, NoMatchingSubscribers, UnspecifiedError, ImplementationError, NotAuthorized,
	TopicNameInvalid, PacketIDInUse, QuotaExceeded, PayloadFormatInvalid)

func (r *reader) reason(t Type) ReasonCode {
	c := ReasonCode(r.byte())
	if r.err == nil && reasons[t][c>>6]&(1<<(c&63)) == 0 {
		r.fail(protocol("2.4", "reason code does not belong to this packet"))
	}
	return c
}
