// Package packet is the wire codec of MQTT 3.1.1 and 5.0: all fifteen control packets, both directions. It owns
// syntax and the rules that one packet alone can break (bounds, UTF-8, flags, properties, reason codes); what needs
// a session or a connection (topics that are allowed, quotas, order) is for ingest/mqttd.
//
// Decoding is in place: byte slices of a decoded packet are parts of the input and live as long as it does.
// A packet value may be decoded into again and again; PUBLISH then allocates nothing. Nothing in an error text
// comes from the packet's payload, names or credentials. Values are not safe for concurrent use; the package has
// no state.
//
// Clause tags such as [MQTT-3.1.2-1] are those of the MQTT 5.0 OASIS standard; 3.1.1 is named where it differs.
package packet
