package ingest

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts readings, not messages (contract section 7): received = accepted + duplicate + quarantined at
// every instant, because all are counted together once a group is durable.
type Metrics struct {
	received    *prometheus.CounterVec
	accepted    prometheus.Counter
	duplicate   prometheus.Counter
	quarantined *prometheus.CounterVec
	stored      *prometheus.CounterVec
	evaluated   prometheus.Counter
	lag         *prometheus.GaugeVec
	age         *prometheus.GaugeVec

	mu       sync.Mutex
	bySource map[string]prometheus.Counter // saves the label lookup on the hot path
}

// NewMetrics makes the counters and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		received:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_readings_received_total", Help: "Readings received and durably dealt with, by source."}, []string{"source"}),
		accepted:    prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_readings_accepted_total", Help: "Readings journaled."}),
		duplicate:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_readings_duplicate_total", Help: "Readings that were known already."}),
		quarantined: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_readings_quarantined_total", Help: "Readings refused and kept in quarantine, by reason."}, []string{"reason"}),
		stored:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_readings_stored_total", Help: "Readings written to the readings store."}, []string{"store"}),
		evaluated:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_readings_evaluated_total", Help: "Readings judged against the rules."}),
		lag:         prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vitalwatch_consumer_lag", Help: "Readings journaled and not yet taken by the consumer."}, []string{"consumer"}),
		age:         prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vitalwatch_consumer_oldest_seconds", Help: "How long the oldest reading that the consumer has not dealt with has waited, 0 when none waits."}, []string{"consumer"}),
		bySource:    map[string]prometheus.Counter{},
	}
	reg.MustRegister(m.received, m.accepted, m.duplicate, m.quarantined, m.stored, m.evaluated, m.lag, m.age)
	return m
}

func (m *Metrics) count(source string, r *Result) {
	m.mu.Lock()
	c, ok := m.bySource[source]
	if !ok {
		c = m.received.WithLabelValues(source)
		m.bySource[source] = c
	}
	m.mu.Unlock()
	c.Add(float64(r.Accepted + r.Duplicate + r.Quarantined))
	if r.Accepted > 0 {
		m.accepted.Add(float64(r.Accepted))
	}
	if r.Duplicate > 0 {
		m.duplicate.Add(float64(r.Duplicate))
	}
	for i := range r.Problems {
		m.quarantined.WithLabelValues(r.Problems[i].Code).Inc()
	}
}

// Stored and Evaluated are counted by the consumers.
func (m *Metrics) Stored(store string) prometheus.Counter { return m.stored.WithLabelValues(store) }

// Evaluated counts readings judged.
func (m *Metrics) Evaluated() prometheus.Counter { return m.evaluated }
