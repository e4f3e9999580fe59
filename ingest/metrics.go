package ingest

import (
	"sync"
	"time"

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
	waiting     *waiting

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
		waiting:     &waiting{consumers: map[string]*Consumer{}},
		bySource:    map[string]prometheus.Counter{},
	}
	reg.MustRegister(m.received, m.accepted, m.duplicate, m.quarantined, m.stored, m.evaluated, m.waiting)
	return m
}

// waiting is what each consumer has before it, in the moment when it is asked: who waits until nothing waits, as before a
// restart, must not be told of a block ago.
type waiting struct {
	mu        sync.Mutex
	consumers map[string]*Consumer // by name
}

var (
	lagDesc = prometheus.NewDesc("vitalwatch_consumer_lag", "Readings journaled and not yet taken by the consumer.", []string{"consumer"}, nil)
	ageDesc = prometheus.NewDesc("vitalwatch_consumer_oldest_seconds",
		"How long the oldest reading that the consumer has not dealt with has waited, 0 when none waits.", []string{"consumer"}, nil)
)

func (w *waiting) add(c *Consumer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.consumers[c.name] = c
}

// Describe and Collect make it a prometheus.Collector.
func (w *waiting) Describe(ch chan<- *prometheus.Desc) { ch <- lagDesc; ch <- ageDesc }

// Collect asks all consumers.
func (w *waiting) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, c := range w.consumers {
		ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(c.lag()), name)
		ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, c.Age(time.Now()).Seconds(), name)
	}
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
