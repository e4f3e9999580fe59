// Package mqttd is the MQTT front door: an MQTT 3.1.1 and 5.0 server for devices that publish readings and listen
// below their own down/. It owns connections, the rule that a device touches only its own topics, and the promise
// that a PUBACK is written only after Batch.Commit has said that everything is durable. It routes nothing between
// clients. It knows neither payload formats (ingest) nor bytes of packets (mqttd/packet) nor tables (mqttd/sessions).
//
// A session belongs to one connection at a time, and connections of a device take turns: the next one begins when the
// one before has committed and answered what it had, see Server.claim.
//
// Concurrency: one goroutine per connection reads, commits and answers; parked, it holds no buffer. What other
// goroutines want of a connection (a message down, the end) goes through a bounded queue and a flag; they never
// wait for the network. A panic ends the connection it happened in. All exported methods are safe for concurrent use.
package mqttd
