package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/trends"
	"vitalwatch/vitals"
)

// remeasure asks for a third cuff reading: when the two of one session differ by more than 10 mmHg, as the Chinese
// guideline 2024 wants it (trends.Session). What it remembers is only a filter: the store says what the session is, so
// that a restart neither forgets nor asks twice.
//
// Concurrency: Observe is the alert consumer's alone and waits for nobody; Run reads the store and sends.
type remeasure struct {
	now  func() time.Time
	near func(ctx context.Context, p vitals.PatientID, i vitals.Indicator, from vitals.Micros, seq uint64, dst []vitals.Reading) ([]vitals.Reading, error)
	send func(ctx context.Context, device vitals.DeviceID, c sessions.Command) (string, error)
	log  zerolog.Logger

	queue          chan suspicion
	count          *prometheus.CounterVec
	asked, dropped prometheus.Counter

	// Of the consumer alone: the last reading of each cuff, for SessionWithin at least unless there are too many.
	last, before map[cuff]vitals.Reading
	began        vitals.Micros // when last was begun
	warm         vitals.Micros // until then a cuff that is not known may have measured before the restart
}

type cuff struct {
	patient vitals.PatientID
	device  vitals.DeviceID
}

// suspicion is a reading whose session may want a third one; seq is how far the store must have come.
type suspicion struct {
	reading vitals.Reading
	seq     uint64
}

const (
	// remeasureValid is how long the request waits: later, a third reading is no part of the session.
	remeasureValid = vitals.Micros(trends.SessionWithin / time.Microsecond)
	// remeasureBack is how far the store is read back: sessions are cut from the first reading on.
	remeasureBack = vitals.Hour
	// remeasureCuffs bounds either map, remeasureQueue what waits for the store. When full, the request is not made.
	remeasureCuffs = 1 << 14
	remeasureQueue = 256
)

var remeasureText = map[string]string{
	"zh-CN": "两次血压读数相差较大。请保持坐姿静息 1 至 2 分钟，再测量一次。",
	"en":    "The two blood pressure readings are far apart. Please stay seated, rest for one or two minutes, and measure once more.",
}

// startRemeasure returns nil without a front door: an external broker takes no messages to devices.
func (a *App) startRemeasure() *remeasure {
	if !a.cfg.MQTT.Embedded.Enabled {
		return nil
	}
	m := newRemeasure(time.Now, a.log.With().Str("component", "remeasure").Logger())
	m.near, m.send = a.history, a.sessions.Command
	a.reg.MustRegister(m.count)
	a.run("third cuff readings", m.Run)
	return m
}

func newRemeasure(now func() time.Time, log zerolog.Logger) *remeasure {
	n := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_remeasure_total",
		Help: "Third cuff readings: asked for, or not because too many waited or something failed."}, []string{"outcome"})
	at := vitals.At(now())
	return &remeasure{now: now, log: log, queue: make(chan suspicion, remeasureQueue), count: n, asked: n.WithLabelValues("asked"), dropped: n.WithLabelValues("dropped"),
		last: map[cuff]vitals.Reading{}, began: at, warm: at + remeasureValid}
}

// countsForThird says whether a reading can be one of a session that is going on.
func countsForThird(r *vitals.Reading) bool {
	return r.Indicator == vitals.BloodPressure && r.Freshness == vitals.Live && r.Quality != vitals.Invalid
}

// Observe looks at readings of the journal, in its order, up to seq.
func (m *remeasure) Observe(rs []vitals.Reading, seq uint64) {
	for i := range rs {
		r := &rs[i]
		if !countsForThird(r) {
			continue
		}
		if len(m.last) >= remeasureCuffs || r.ReceivedAt-m.began > remeasureValid {
			m.last, m.before, m.began = make(map[cuff]vitals.Reading), m.last, r.ReceivedAt
		}
		key := cuff{r.Patient, r.Device}
		prev, known := m.last[key]
		if !known {
			prev, known = m.before[key]
		}
		kept := *r
		kept.Extra = nil
		m.last[key] = kept
		switch {
		case known && max(r.TakenAt-prev.TakenAt, prev.TakenAt-r.TakenAt) < remeasureValid && trends.Differ(&prev, r):
		case !known && r.ReceivedAt < m.warm:
		default:
			continue
		}
		select {
		case m.queue <- suspicion{kept, seq}:
		default:
			m.dropped.Inc()
		}
	}
}

// Run asks until ctx ends.
func (m *remeasure) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-m.queue:
			if err := m.ask(ctx, &s); err != nil && ctx.Err() == nil {
				m.dropped.Inc()
				m.log.Warn().Err(err).Str("device_id", string(s.reading.Device)).Msg("a third cuff reading was not asked for")
			}
		}
	}
}

// ask sends the request when the reading is the second of a session of two that differ. Its id and its end follow from
// the session: the same request again changes nothing.
func (m *remeasure) ask(ctx context.Context, s *suspicion) error {
	r := &s.reading
	rs, err := m.near(ctx, r.Patient, vitals.BloodPressure, r.TakenAt-remeasureBack, s.seq, nil)
	if err != nil {
		return err
	}
	var own []*vitals.Reading
	for i := range rs {
		if x := &rs[i]; x.Device == r.Device && countsForThird(x) {
			own = append(own, x)
		}
	}
	for _, session := range trends.Sessions(own, false) {
		if !session.Differ || !slices.ContainsFunc(session.Readings, func(x *vitals.Reading) bool { return x.Seq == r.Seq }) {
			continue
		}
		expires := max(session.Readings[0].ReceivedAt, session.Readings[1].ReceivedAt) + remeasureValid
		if expires <= vitals.At(m.now()) {
			return nil // we are behind; the person has stood up long ago
		}
		_, err := m.send(ctx, r.Device, sessions.Command{ID: "third-" + session.Readings[0].ID(), Cmd: sessions.Remeasure, ExpiresAt: expires, Text: remeasureText})
		if errors.Is(err, sessions.ErrExists) {
			return nil // asked for when the other of the two came
		}
		if err == nil {
			m.asked.Inc()
		}
		return err
	}
	return nil
}
