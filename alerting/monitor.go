package alerting

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"hash/maphash"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/vitals"
)

// Batch is what one step of the monitor decided. It is committed in one transaction with the cursor.
type Batch struct {
	Cursor      uint64 // everything up to here is evaluated
	Transitions []Transition
	Findings    []Finding
}

// MonitorConfig wires a Monitor. All functions must be set; they are called from the monitor's goroutines.
type MonitorConfig struct {
	// Cursor is the committed cursor to go on from.
	Cursor uint64
	// Rules returns the rule set in force for a patient. It is called when a patient is first needed and after
	// RulesChanged.
	Rules func(vitals.PatientID) *RuleSet
	// OpenAlerts returns what the ledger holds open for a patient.
	OpenAlerts func(context.Context, vitals.PatientID) ([]OpenAlert, error)
	// PatientsWithOpenAlerts lists who must be watched by ticks from the start.
	PatientsWithOpenAlerts func(context.Context) ([]vitals.PatientID, error)
	// History appends the stored readings of a patient and indicator that were taken at or after from and accepted
	// with a sequence of at most seq. It waits until the store has come that far, but not for long: nobody's alerts
	// move meanwhile. After an error it is called again.
	History func(ctx context.Context, p vitals.PatientID, i vitals.Indicator, from vitals.Micros, seq uint64, dst []vitals.Reading) ([]vitals.Reading, error)
	// Commit makes a batch durable and then tells the feed and the courier. It is called by one goroutine at a
	// time, in the order of the decisions.
	Commit func(context.Context, Batch) error
	// Last is the sequence of the newest reading that waits to be evaluated or has been. While the monitor is behind
	// it, the clock stands at the last reading evaluated, so that a backlog is not taken for silence. nil: never behind.
	Last    func() uint64
	Now     func() time.Time
	Metrics *MonitorMetrics
	Log     zerolog.Logger
	Shards  int // 0: one per processor
}

// MonitorMetrics are the monitor's figures.
type MonitorMetrics struct {
	Latency  prometheus.Histogram // received → transition committed
	Patients prometheus.Gauge     // in memory
	Faults   prometheus.Counter   // readings whose evaluation failed inside
}

// NewMonitorMetrics makes and registers the figures.
func NewMonitorMetrics(reg prometheus.Registerer) *MonitorMetrics {
	m := &MonitorMetrics{
		Latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_alert_latency_seconds",
			Help:    "From the receipt of a reading until the transition that it caused is committed.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 3600}}),
		Patients: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vitalwatch_monitor_patients", Help: "Patients whose engine state is in memory."}),
		Faults:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_evaluation_faults_total", Help: "Readings whose evaluation failed inside the engine."}),
	}
	reg.MustRegister(m.Latency, m.Patients, m.Faults)
	return m
}

const (
	tickEvery   = 500 * time.Millisecond
	idleAfter   = 30 * vitals.Minute // a patient without open alerts and readings for so long leaves memory
	sweepEvery  = 5 * vitals.Minute
	cursorEvery = time.Second   // how often the cursor is written when nothing was decided
	disorder    = vitals.Minute // how far the order of the journal may differ from that of receipt
)

// Monitor feeds the engine from the journal, keeps its clock, and commits what it decides. What is decided about
// readings, by ticks and by people is serialised: each is committed before the next is decided. Different
// patients are evaluated in parallel within one step.
type Monitor struct {
	c    MonitorConfig
	seed maphash.Seed

	mu          sync.Mutex // decide and commit
	shards      []*shard
	who         []*watched    // of the readings of one step, in their order; reused
	cursor      uint64        // evaluated up to
	reached     vitals.Micros // newest receipt among what was evaluated, 0: nothing since the start
	committed   uint64        // cursor of the last commit
	lastCommit  time.Time
	lastSweep   vitals.Micros
	batch       Batch              // reused
	reload      []vitals.PatientID // forgotten, to be loaded again by the next tick
	watching    bool               // those with open alerts are in memory or in reload
	undelivered bool               // batch was decided and not committed yet

	cursorNow, committedNow atomic.Uint64
	cycle                   atomic.Int64 // Unix ms of the last full turn of the clock
}

// shard holds the patients whose hash falls to it; only one goroutine at a time works in it.
type shard struct {
	patients map[vitals.PatientID]*watched
	due      tickHeap
	out      Decisions
	faults   []fault
}

// fault is a panic while a reading was judged.
type fault struct {
	patient vitals.PatientID
	kind    string
	stack   []byte
}

type watched struct {
	shard   *shard
	p       *Patient
	queued  vitals.Micros // earliest tick in the heap, 0 for none
	touched vitals.Micros
	since   vitals.Micros // the windows are right for readings received from here on
}

// NewMonitor returns a monitor; Run drives its clock, Handle takes readings.
func NewMonitor(c MonitorConfig) *Monitor {
	if c.Shards == 0 {
		c.Shards = runtime.GOMAXPROCS(0)
	}
	m := &Monitor{c: c, seed: maphash.MakeSeed(), cursor: c.Cursor, committed: c.Cursor}
	for range c.Shards {
		m.shards = append(m.shards, &shard{patients: map[vitals.PatientID]*watched{}})
	}
	m.cursorNow.Store(c.Cursor)
	m.committedNow.Store(c.Cursor)
	return m
}

// Cursor is the sequence up to which readings are evaluated.
func (m *Monitor) Cursor() uint64 { return m.cursorNow.Load() }

// Durable is the sequence up to which evaluation is committed.
func (m *Monitor) Durable() uint64 { return m.committedNow.Load() }

// LastCycle is when the clock last turned fully, on the configured clock: readiness asks for it.
func (m *Monitor) LastCycle() time.Time { return time.UnixMilli(m.cycle.Load()) }

func (m *Monitor) shardOf(p vitals.PatientID) *shard {
	if len(m.shards) == 1 {
		return m.shards[0]
	}
	return m.shards[maphash.String(m.seed, string(p))%uint64(len(m.shards))]
}

// Handle evaluates readings in journal order and commits what follows. It fails as a whole and may be called
// again with the same readings.
func (m *Monitor) Handle(ctx context.Context, rs []vitals.Reading, last uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.flush(ctx); err != nil { // what an earlier step decided and could not commit comes first
		return err
	}
	if last <= m.cursor {
		return nil
	}
	for len(rs) > 0 && rs[0].Seq <= m.cursor {
		rs = rs[1:]
	}
	for {
		n := slices.IndexFunc(rs, func(r vitals.Reading) bool { return r.Flags&vitals.Replaced != 0 })
		if n < 0 {
			return m.step(ctx, rs, last, "")
		}
		// Up to and with a reading that counts no more: what comes after it is judged as if it had never been there. For
		// that the patient's state is built again from the store, where the void has taken the reading's place.
		end := last
		if n+1 < len(rs) {
			end = rs[n].Seq
		}
		if err := m.step(ctx, rs[:n], end, rs[n].Patient); err != nil {
			return err
		}
		if rs = rs[n+1:]; len(rs) == 0 {
			return nil
		}
	}
}

// step evaluates readings, up to the sequence last, and commits what follows; then it forgets a patient, "" for none.
func (m *Monitor) step(ctx context.Context, rs []vitals.Reading, last uint64, forget vitals.PatientID) error {
	s := m.shardOf(forget)
	if forget != "" && len(rs) > 0 && s.patients[forget] == nil && slices.Contains(m.reload, forget) {
		// Forgotten a moment ago, and time has passed since: something may have become due.
		if _, err := m.load(ctx, s, forget, rs[0].ReceivedAt); err != nil {
			return err
		}
	}
	if err := m.evaluate(ctx, rs); err != nil {
		return err
	}
	m.cursor = last
	for i := range rs {
		m.reached = max(m.reached, rs[i].ReceivedAt)
	}
	if w := s.patients[forget]; forget != "" && w != nil {
		s.guard(forget, func() { w.p.catchUp(m.reached, &s.out) }) // what was due before is decided with the reading
	}
	m.collect()
	if forget != "" {
		m.forget(forget) // before the commit, which may fail: then nothing is decided until it has succeeded
	}
	err := m.flush(ctx)
	m.cursorNow.Store(m.cursor)
	return err
}

// parallelFrom is the number of readings from which shards work in parallel; below, waking them costs more.
const parallelFrom = 64

func (m *Monitor) evaluate(ctx context.Context, rs []vitals.Reading) error {
	// Load first whoever is not in memory: it can fail, and then nothing has been decided yet.
	m.who = m.who[:0]
	for i := range rs {
		r := &rs[i]
		s := m.shardOf(r.Patient)
		w := s.patients[r.Patient]
		// In a backlog, or after the clock was set back, a reading may look back further than what was loaded.
		if w == nil || r.ReceivedAt < w.since && r.Freshness == vitals.Live {
			var err error
			if w, err = m.load(ctx, s, r.Patient, r.ReceivedAt); err != nil {
				return err
			}
			for k := range m.who { // earlier readings of the same step
				if rs[k].Patient == r.Patient {
					m.who[k] = w
				}
			}
		}
		m.who = append(m.who, w)
	}
	if len(m.shards) == 1 || len(rs) < parallelFrom {
		for i, w := range m.who {
			w.shard.observe(w, &rs[i])
		}
		return nil
	}
	var wg sync.WaitGroup
	for _, s := range m.shards {
		wg.Go(func() {
			for i, w := range m.who {
				if w.shard == s {
					s.observe(w, &rs[i])
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func (s *shard) observe(w *watched, r *vitals.Reading) {
	s.guard(r.Patient, func() {
		w.p.Observe(r, &s.out)
		w.touched = r.ReceivedAt
		s.enqueue(w)
	})
}

// guard runs one step of a patient's engine. A fault in one rule must not stop the watch over everybody else: what the
// step decided is dropped, the patient's state is rebuilt, and the reading that met the fault is not judged.
func (s *shard) guard(id vitals.PatientID, step func()) {
	transitions, findings := len(s.out.Transitions), len(s.out.Findings)
	defer func() {
		if x := recover(); x != nil {
			s.out.Transitions, s.out.Findings = s.out.Transitions[:transitions], s.out.Findings[:findings]
			s.faults = append(s.faults, fault{id, fmt.Sprintf("%T", x), debug.Stack()})
		}
	}()
	step()
}

func (s *shard) enqueue(w *watched) {
	next := w.p.NextTick()
	if next != 0 && (w.queued == 0 || next < w.queued) {
		w.queued = next
		heap.Push(&s.due, tick{next, w})
	}
}

// load rebuilds a patient's engine state, for readings received from at on: a cache, never a truth. What was decided
// must be committed, because the ledger is asked what is open.
func (m *Monitor) load(ctx context.Context, s *shard, id vitals.PatientID, at vitals.Micros) (*watched, error) {
	rs := m.c.Rules(id)
	p := NewPatient(id, rs)
	open, err := m.c.OpenAlerts(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read open alerts: %w", err)
	}
	p.Restore(open)
	now := vitals.At(m.c.Now())
	if at == 0 {
		at = now // not known yet; evaluate loads again when it was earlier
	}
	since := min(now, at) - disorder
	var history []vitals.Reading
	for _, i := range vitals.Indicators() {
		back := rs.LookBack(i)
		if back == 0 || m.cursor == 0 {
			continue
		}
		if history, err = m.c.History(ctx, id, i, since.Add(-back), m.cursor, history); err != nil {
			return nil, fmt.Errorf("read the history that rules look back on: %w", err)
		}
	}
	slices.SortFunc(history, func(a, b vitals.Reading) int { return cmp.Compare(a.Seq, b.Seq) })
	history = counting(history)
	faults := len(s.faults)
	s.guard(id, func() {
		for i := range history {
			p.Warm(&history[i])
		}
	})
	if len(s.faults) > faults {
		// The reading that met the fault is met again at each rebuilding: go on without the past.
		s.faults = s.faults[:faults]
		m.c.Metrics.Faults.Inc()
		m.c.Log.Error().Msg("a rule failed while a patient's state was rebuilt; it goes on without the readings before. Please report this")
		p = NewPatient(id, rs)
		p.Restore(open)
	}
	w := &watched{p: p, shard: s, touched: now, since: since}
	s.patients[id] = w
	s.enqueue(w)
	return w, nil
}

// counting leaves out readings that count no more. The store has the void in their place; what it had not got yet, and
// was read from the journal, has the reading, then the void, and perhaps the reading once more: the last one says it.
func counting(rs []vitals.Reading) []vitals.Reading {
	replaced := func(r vitals.Reading) bool { return r.Flags&vitals.Replaced != 0 }
	if !slices.ContainsFunc(rs, replaced) {
		return rs
	}
	last := make(map[string]uint64, len(rs))
	for i := range rs {
		last[rs[i].ID()] = rs[i].Seq
	}
	return slices.DeleteFunc(rs, func(r vitals.Reading) bool { return replaced(r) || r.Seq != last[r.ID()] })
}

// clock is the instant up to which everything received has been evaluated: now, or while readings wait, the receipt of
// the last one that was; 0 when that is not known yet.
func (m *Monitor) clock() vitals.Micros {
	now := vitals.At(m.c.Now())
	if m.c.Last != nil && m.cursor < m.c.Last() {
		return min(now, m.reached)
	}
	return now
}

// collect moves the shards' decisions into the batch. Shards are taken in a fixed order; within one patient the
// order is that of the decisions.
func (m *Monitor) collect() {
	for _, s := range m.shards {
		m.batch.Transitions = append(m.batch.Transitions, s.out.Transitions...)
		m.batch.Findings = append(m.batch.Findings, s.out.Findings...)
		s.out.Reset()
		for _, f := range s.faults {
			m.c.Metrics.Faults.Inc()
			m.c.Log.Error().Str("kind", f.kind).Bytes("stack", f.stack).Msg("a rule failed while judging a reading; the patient's state is rebuilt. Please report this")
			m.forget(f.patient)
		}
		s.faults = s.faults[:0]
	}
	m.batch.Cursor = m.cursor
	m.undelivered = len(m.batch.Transitions)+len(m.batch.Findings) > 0
}

// flush commits what was decided. Without decisions it writes the cursor now and then: evaluating the readings
// since again would decide the same.
func (m *Monitor) flush(ctx context.Context) error {
	now := m.c.Now()
	if !m.undelivered && (m.committed == m.cursor || now.Sub(m.lastCommit) < cursorEvery) {
		return nil
	}
	m.batch.Cursor = m.cursor
	if err := m.c.Commit(ctx, m.batch); err != nil {
		return fmt.Errorf("commit alerts: %w", err)
	}
	m.committed, m.lastCommit = m.cursor, now
	m.committedNow.Store(m.committed)
	done := m.c.Now()
	for i := range m.batch.Transitions {
		if at := m.batch.Transitions[i].ReceivedAt; at != 0 {
			m.c.Metrics.Latency.Observe(done.Sub(at.Time()).Seconds())
		}
	}
	m.batch.Transitions, m.batch.Findings = m.batch.Transitions[:0], m.batch.Findings[:0]
	m.undelivered = false
	return nil
}

// Act carries out a human act on a patient's alert. commit makes the transitions durable together with the
// cursor it is given; when it fails the act has not happened.
func (m *Monitor) Act(ctx context.Context, id vitals.PatientID, a Action, commit func(context.Context, Batch) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.flush(ctx); err != nil {
		return err
	}
	s := m.shardOf(id)
	w := s.patients[id]
	if w == nil {
		var err error
		if w, err = m.load(ctx, s, id, m.clock()); err != nil {
			return err
		}
	}
	var out Decisions
	if err := w.p.Act(a, vitals.At(m.c.Now()), &out); err != nil {
		return err
	}
	if err := commit(ctx, Batch{Cursor: m.cursor, Transitions: out.Transitions, Findings: out.Findings}); err != nil {
		m.forget(id) // the state has the act, the ledger has not
		return fmt.Errorf("commit: %w", err)
	}
	m.committed, m.lastCommit = m.cursor, m.c.Now()
	m.committedNow.Store(m.committed)
	s.enqueue(w)
	return nil
}

// RulesChanged makes the monitor ask again for the rules of a patient, because conditions or thresholds changed.
func (m *Monitor) RulesChanged(id vitals.PatientID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// A new rule may look back further than what is in memory; loading again is always right.
	m.forget(id)
}

// forget drops a patient's state; the next reading or tick loads it again.
func (m *Monitor) forget(id vitals.PatientID) {
	s := m.shardOf(id)
	if s.patients[id] != nil {
		delete(s.patients, id)
		m.reload = append(m.reload, id)
	}
}

// Run turns the clock until ctx ends: ticks for settling, lost signals and snoozes, the cursor, and the sweep of
// idle patients.
func (m *Monitor) Run(ctx context.Context) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	failing := false
	for {
		err := m.Tick(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			m.c.Log.Error().Err(err).Msg("the alert clock did not turn fully; trying again")
		}
		failing = err != nil
		if err == nil {
			m.cycle.Store(m.c.Now().UnixMilli())
		}
		select {
		case <-ctx.Done():
			return m.Close()
		case <-t.C:
		}
	}
}

// Close commits what is decided and the cursor.
func (m *Monitor) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastCommit = time.Time{}
	return m.flush(ctx)
}

// watchOpen loads everybody with an open alert, so that silence is noticed after a restart too.
func (m *Monitor) watchOpen(ctx context.Context) error {
	if m.watching {
		return nil
	}
	ids, err := m.c.PatientsWithOpenAlerts(ctx)
	if err != nil {
		return fmt.Errorf("list the patients with open alerts: %w", err)
	}
	m.reload = append(m.reload, ids...)
	m.watching = true
	return nil
}

// reloadForgotten loads at most a few hundred patients, so that a tick stays short.
func (m *Monitor) reloadForgotten(ctx context.Context) error {
	for n := 0; n < 500 && len(m.reload) > 0; n++ {
		id := m.reload[len(m.reload)-1]
		if s := m.shardOf(id); s.patients[id] == nil {
			if _, err := m.load(ctx, s, id, m.clock()); err != nil {
				return err
			}
		}
		m.reload = m.reload[:len(m.reload)-1]
	}
	return nil
}

// Tick does what is due now and commits it. Run calls it; tests call it with their own clock.
func (m *Monitor) Tick(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// What an earlier step decided and could not commit comes first: patients are rebuilt from what is committed.
	if err := m.flush(ctx); err != nil {
		return err
	}
	// A store that cannot be read must not stop the clock of those in memory.
	missing := m.watchOpen(ctx)
	if missing == nil {
		missing = m.reloadForgotten(ctx)
	}
	now := m.clock()
	for _, s := range m.shards {
		for len(s.due) > 0 && s.due[0].at <= now {
			t := heap.Pop(&s.due).(tick)
			if t.w.queued != t.at || s.patients[t.w.p.ID()] != t.w {
				continue // replaced by an earlier tick, or forgotten
			}
			t.w.queued = 0
			s.guard(t.w.p.ID(), func() {
				t.w.p.Tick(now, &s.out)
				s.enqueue(t.w)
			})
		}
	}
	m.collect()
	if err := m.flush(ctx); err != nil {
		return err
	}
	if d := now - m.lastSweep; d >= sweepEvery || d < -sweepEvery { // or the clock was set back
		m.lastSweep = now
		m.sweep(now)
	}
	return missing
}

func (m *Monitor) sweep(now vitals.Micros) {
	n := 0
	for _, s := range m.shards {
		for id, w := range s.patients {
			if now-w.touched > idleAfter && w.p.NextTick() == 0 {
				delete(s.patients, id)
			}
		}
		n += len(s.patients)
	}
	m.c.Metrics.Patients.Set(float64(n))
}

type tick struct {
	at vitals.Micros
	w  *watched
}

type tickHeap []tick

func (h tickHeap) Len() int           { return len(h) }
func (h tickHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h tickHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *tickHeap) Push(x any)        { *h = append(*h, x.(tick)) }
func (h *tickHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = tick{}
	*h = old[:len(old)-1]
	return t
}
