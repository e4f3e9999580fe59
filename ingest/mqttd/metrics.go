package mqttd

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"vitalwatch/ingest/mqttd/packet"
)

// Metrics are the front door's collectors; the caller registers the whole as one. No label names a device.
type Metrics struct {
	Connections prometheus.Gauge
	Connects    *prometheus.CounterVec // result
	Disconnects *prometheus.CounterVec // reason
	Received    *prometheus.CounterVec // type
	Refused     *prometheus.CounterVec // reason: PUBLISH that was answered with a failure or dropped
	Dropped     *prometheus.CounterVec // reason: messages down that were not sent
	Down        *prometheus.CounterVec // outcome: messages down that wait until they are delivered
	Acked       prometheus.Counter
	Failed      prometheus.Counter // groups that did not become durable
	Commit      prometheus.Histogram
	Throttled   prometheus.Counter
	Panics      prometheus.Counter

	ListenerConnections *prometheus.GaugeVec   // listener
	AcceptWaits         *prometheus.CounterVec // listener, reason
	Handshake           prometheus.Histogram
	InFlight            prometheus.GaugeFunc
	inFlight            atomic.Int64           // bytes in groups
	LoginWaits          *prometheus.CounterVec // for: address, name

	received [16]prometheus.Counter
}

// NewMetrics returns fresh collectors.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_mqtt_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_mqtt_" + name, Help: help}, []string{label})
	}
	m := &Metrics{
		Connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vitalwatch_mqtt_connections", Help: "Open connections, also before CONNECT."}),
		Connects:    vec("connects_total", "Connections by how their CONNECT was answered.", "result"),
		Disconnects: vec("disconnects_total", "Ended connections of devices by reason.", "reason"),
		Received:    vec("packets_received_total", "Whole packets from devices by type.", "type"),
		Refused:     vec("publish_refused_total", "PUBLISH packets refused or dropped by reason.", "reason"),
		Dropped:     vec("down_dropped_total", "Messages to devices that were not sent, by reason.", "reason"),
		Down:        vec("down_messages_total", "Durable messages to devices: sent, resent, delivered, refused by the device, too_large for it.", "outcome"),
		Acked:       counter("publish_acked_total", "PUBLISH packets acknowledged with success."),
		Failed:      counter("commit_failures_total", "Groups that did not become durable; their senders were sent away."),
		Commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_mqtt_commit_seconds",
			Help: "How long a group of messages waited to become durable.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		Throttled:           counter("throttled_total", "Times a device was slowed to its message rate."),
		Panics:              counter("panics_total", "Panics that ended one connection."),
		ListenerConnections: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vitalwatch_mqtt_listener_connections", Help: "Open connections by listener."}, []string{"listener"}),
		AcceptWaits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_mqtt_accept_waits_total",
			Help: "Times a listener made strangers wait: pending (too many before CONNECT), handshakes (too many wait for a processor) or rate."}, []string{"listener", "reason"}),
		Handshake: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_mqtt_tls_handshake_seconds",
			Help: "TLS handshakes, waiting for the client and for a turn included.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		LoginWaits: vec("login_waits_total", "Logins refused unchecked after failed ones, by what waits: address or name.", "for"),
	}
	m.InFlight = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vitalwatch_mqtt_in_flight_bytes", Help: "Bytes of packets that wait to become durable."},
		func() float64 { return float64(m.inFlight.Load()) })
	for t := packet.CONNECT; t <= packet.AUTH; t++ {
		m.received[t] = m.Received.WithLabelValues(t.String())
	}
	return m
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.Connections, m.Connects, m.Disconnects, m.Received, m.Refused, m.Dropped, m.Down, m.Acked,
		m.Failed, m.Commit, m.Throttled, m.Panics, m.ListenerConnections, m.AcceptWaits, m.Handshake, m.InFlight, m.LoginWaits}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}
