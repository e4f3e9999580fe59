// Package subscriber takes readings from an external MQTT broker (Mosquitto, EMQX): it subscribes with a persistent
// session and acknowledges a message to the broker only when the readings in it are durable. It owns the connection to
// the broker, not the broker: a device's own acknowledgement comes from the broker, and what the broker loses never
// gets here (docs/brokers.md).
//
// Concurrency: Run is called once, by one goroutine; Ready and Collectors by any. Messages are judged in the order in
// which they came, in groups.
package subscriber
