package mqttd

import (
	"errors"

	"vitalwatch/ingest/mqttd/packet"
)

// ending is why a connection ends: what 5.0 clients are told, and what the metric and the log say. Endings are
// shared and never changed.
type ending struct {
	reason string            // metric label
	code   packet.ReasonCode // of the DISCONNECT, when tell is set
	text   string            // its reason string
	tell   bool              // send a DISCONNECT; not when the client left or cannot be reached
	noWill bool              // the will is not for this case
	loud   bool              // worth a warning in the log
	spread bool              // many connections may end so at once: each waits a random time first
}

var (
	endClient     = &ending{reason: "client_disconnect", noWill: true} // [MQTT-3.14.4-3]
	endWithWill   = &ending{reason: "client_disconnect_with_will"}
	endGone       = &ending{reason: "client_gone"}
	endWrite      = &ending{reason: "write_failed"}
	endKeepAlive  = &ending{reason: "keep_alive", tell: true, code: packet.KeepAliveTimeout, text: "no packet within one and a half keep-alive times"}
	endTakenOver  = &ending{reason: "taken_over", tell: true, code: packet.SessionTakenOver, text: "the device connected again", noWill: true}
	endShutdown   = &ending{reason: "shutdown", tell: true, code: packet.ServerShuttingDown, text: "server is shutting down, come back", noWill: true}
	endTooLarge   = &ending{reason: "packet_too_large", tell: true, code: packet.PacketTooLarge, text: "packet larger than the maximum packet size", loud: true}
	endTopic      = &ending{reason: "topic_refused", tell: true, code: packet.NotAuthorized, text: "devices publish below their own up/ only", loud: true}
	endAlias      = &ending{reason: "protocol_error", tell: true, code: packet.TopicAliasInvalid, text: "topic alias above the topic alias maximum", loud: true}
	endAliasBytes = &ending{reason: "protocol_error", tell: true, code: packet.TopicAliasInvalid, text: "topic aliases stand for more than 4 KiB of topics", loud: true}
	endAliasUnset = protocolEnding("topic alias that was never set")
	endReceive    = &ending{reason: "receive_maximum", tell: true, code: packet.ReceiveMaximumExceeded, text: "more unacknowledged messages than the receive maximum", loud: true}
	endBusy       = &ending{reason: "commit_failed", tell: true, code: packet.ServerBusy, text: "nothing of the last group was stored, connect and send it again", spread: true}
	endQuota      = &ending{reason: "commit_failed", tell: true, code: packet.QuotaExceeded, text: "no room to store the last group, connect and send it again later", spread: true}
	endSink       = &ending{reason: "status_failed", tell: true, code: packet.ServerBusy, text: "the last message was not stored, connect and send it again", spread: true}
	endPanic      = &ending{reason: "panic", tell: true, code: packet.ImplementationError, text: "internal error, connect and send unacknowledged messages again"}
	endProtocol   = protocolEnding("packet is not expected here")
)

func protocolEnding(text string) *ending {
	return &ending{reason: "protocol_error", tell: true, code: packet.ProtocolError, text: text, loud: true}
}

// endPacket is the ending for a packet that the codec refused.
func endPacket(err error) *ending {
	var e *packet.Error
	if !errors.As(err, &e) {
		return protocolEnding("packet cannot be read")
	}
	reason := "protocol_error"
	if e.Code == packet.MalformedPacket {
		reason = "malformed"
	}
	return &ending{reason: reason, tell: true, code: e.Code, text: e.Error(), loud: true}
}

// reasons lists the metric labels, for the documentation and its test.
var reasons = []string{"client_disconnect", "client_disconnect_with_will", "client_gone", "write_failed", "keep_alive",
	"taken_over", "shutdown", "packet_too_large", "topic_refused", "receive_maximum", "commit_failed",
	"status_failed", "panic", "protocol_error", "malformed", "administrative"}
