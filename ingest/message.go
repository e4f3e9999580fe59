package ingest

import (
	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// Message is one upload of one authenticated device: an MQTT PUBLISH below its own up/, or a POST body.
type Message struct {
	// Device is whose reading it is: the authenticated identity, or a device that the gateway may speak for.
	Device vitals.DeviceID
	// Gateway is the authenticated client that passed it on, "" when that is the device itself.
	Gateway vitals.DeviceID
	// Topic is where it was published when that is not vw/v1/{Device}/up/{Format}; "" otherwise.
	Topic string
	// Format is the topic's last part: "readings" for native JSON, "fhir", "gatt", …
	Format string
	// Source is for the metrics: "mqtt", "broker" or "http".
	Source string
	// Payload is only read during Accept; the pipeline copies what it keeps.
	Payload    []byte
	ReceivedAt vitals.Micros
}

// Result says what became of one message's readings: Accepted + Duplicate + Quarantined = what was received.
type Result struct {
	Accepted, Duplicate, Quarantined int
	// Problems has one entry per quarantined item, in the order of the items; nil when there is none. The
	// caller tells the device on its down/errors topic.
	Problems []payload.Problem
	// Items is filled only when the caller asked for it (HTTP): one entry per item in order.
	Items []ItemResult
}

// ItemResult is the outcome of one item of an array.
type ItemResult struct {
	Status  string // "accepted", "duplicate" or "quarantined"
	Reading vitals.Reading
	Problem payload.Problem // of a quarantined item
}
