package escalation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

// Channel is a way out of the house to one receiver. Send makes one attempt within a time of its own, may be called
// by several goroutines, and returns an *alerting.SendError when the delivery has not arrived.
type Channel interface {
	Name() string
	Send(ctx context.Context, d *alerting.Delivery) (alerting.Receipt, error)
}

// Outbox is the durable list of what must leave; the ledger keeps it.
type Outbox interface {
	// Pending returns at most limit deliveries of a hook still to be sent whose event is after seq, oldest first.
	Pending(ctx context.Context, hook string, after uint64, limit int) ([]alerting.Delivery, error)
	// Settle records what became of attempts. Settling twice changes nothing.
	Settle(ctx context.Context, ss []alerting.Settlement) error
	// Retry makes a dead or waiting delivery new and due, and returns it.
	Retry(ctx context.Context, id string) (alerting.Delivery, error)
	// Expire makes dead what was due before a time for hooks that are not active, and returns it.
	Expire(ctx context.Context, active []string, before vitals.Micros, class string, limit int) ([]alerting.Delivery, error)
	DisableHook(ctx context.Context, hook, class string) error
	EnableHook(ctx context.Context, hook string) error
	// IsDisabled reports whether a hook was disabled and not enabled again.
	IsDisabled(ctx context.Context, hook string) (bool, error)
}

// DefaultSchedule is how long after the first, second, … failed attempt the next one comes at the latest; the last
// entry repeats. The first hour is far denser than the example of Standard Webhooks 1.0 ("Retry schedule"), because
// an alert that comes five minutes late may be too late. Each wait is drawn evenly from zero to the entry ("full
// jitter"), so that receivers that come back are not met by everything at once.
var DefaultSchedule = []time.Duration{5 * time.Second, 15 * time.Second, 45 * time.Second, 2 * time.Minute, 5 * time.Minute,
	10 * time.Minute, 30 * time.Minute, time.Hour}

// Options for New. Zero values mean what is said at each.
type Options struct {
	Log     zerolog.Logger
	Metrics *Metrics // nil: not counted
	// OnDead is called, by one goroutine, after a delivery was recorded as dead: nobody was reached by this way.
	OnDead func(alerting.Delivery)
	// OnDisabled is called when a receiver said that it is gone and its hook was disabled.
	OnDisabled func(hook string)

	Schedule    []time.Duration // nil: DefaultSchedule
	GiveUpAfter time.Duration   // 0: 24 h; after a failure later than that the delivery is dead
	Concurrency int             // attempts at a time per hook; 0: 8
	MaxQueued   int             // deliveries per hook in memory, the others wait in the outbox; 0: 4096
	SettleEvery time.Duration   // how long results gather before they are written; 0: 100 ms
	PollEvery   time.Duration   // how often the outbox is looked through for what nobody told of; 0: 30 s
	Grace       time.Duration   // how long attempts may finish after Run's context has ended; 0: 5 s
	Jitter      func() float64  // in [0, 1); nil: random
}

// Metrics are the courier's figures.
type Metrics struct {
	Deliveries *prometheus.CounterVec   // hook, outcome: delivered, failed (an attempt), dead, gone
	Latency    *prometheus.HistogramVec // hook; committed → arrived
	Queued     *prometheus.GaugeVec     // hook; in memory
	Disabled   *prometheus.GaugeVec     // hook; 1 while disabled
}

// NewMetrics makes and registers the figures.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_hook_deliveries_total",
			Help: "Deliveries by outcome: delivered, failed (one attempt), dead (given up), gone (the receiver wants no more)."}, []string{"hook", "outcome"}),
		Latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vitalwatch_hook_delivery_seconds",
			Help:    "From the commit of the alert's change until the receiver has it.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .5, 1, 5, 15, 60, 300, 3600, 86400}}, []string{"hook"}),
		Queued:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vitalwatch_hook_queued", Help: "Deliveries in memory that have not arrived."}, []string{"hook"}),
		Disabled: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vitalwatch_hook_disabled", Help: "1 while the hook is disabled because its receiver is gone."}, []string{"hook"}),
	}
	reg.MustRegister(m.Deliveries, m.Latency, m.Queued, m.Disabled)
	return m
}

// The outcomes of vitalwatch_hook_deliveries_total.
const (
	outcomeDelivered = "delivered"
	outcomeFailed    = "failed"
	outcomeDead      = "dead"
	outcomeGone      = "gone"
)

// Courier empties the outbox.
type Courier struct {
	outbox Outbox
	o      Options
	log    zerolog.Logger
	hooks  map[string]*hook
	order  []*hook

	unsettled atomic.Int64 // results that are not written yet

	mu      sync.Mutex
	results []result // to be written
	written chan struct{}
}

// result is what the settler writes; dead is the delivery when it was given up.
type result struct {
	s    alerting.Settlement
	dead *alerting.Delivery
}

// maxUnsettled bounds the results in memory while the outbox cannot be written; then nothing more is sent, because
// after a crash all of it would be sent again.
const maxUnsettled = 4096

// New returns a courier for the channels. Run starts it.
func New(outbox Outbox, channels []Channel, o Options) (*Courier, error) {
	if o.Metrics == nil {
		o.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	if o.Schedule == nil {
		o.Schedule = DefaultSchedule
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.GiveUpAfter, 24*time.Hour)
	def(&o.SettleEvery, 100*time.Millisecond)
	def(&o.PollEvery, 30*time.Second)
	def(&o.Grace, 5*time.Second)
	if o.Concurrency <= 0 {
		o.Concurrency = 8
	}
	if o.MaxQueued <= 0 {
		o.MaxQueued = 4096
	}
	c := &Courier{outbox: outbox, o: o, log: o.Log.With().Str("component", "courier").Logger(), hooks: map[string]*hook{},
		written: make(chan struct{}, 1)}
	for _, ch := range channels {
		if c.hooks[ch.Name()] != nil {
			return nil, fmt.Errorf("two hooks are called %q; rename one", ch.Name())
		}
		h := newHook(c, ch)
		c.hooks[h.name] = h
		c.order = append(c.order, h)
	}
	return c, nil
}

// Notify takes the deliveries of events that have just been committed. It only queues; subscribe it to the ledger.
func (c *Courier) Notify(events []alerting.Event) {
	for i := range events {
		for _, d := range events[i].Deliveries {
			if h := c.hooks[d.Hook]; h != nil { // others are found by the poll and die loudly
				h.notify(d)
			}
		}
	}
}

// Run sends until ctx ends, then lets attempts under way finish for a while and writes down what became of them.
func (c *Courier) Run(ctx context.Context) error {
	// Attempts and their results outlive ctx by the grace.
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(c.o.Grace):
			stopSending()
		case <-sending.Done():
		}
	})()
	for _, h := range c.order {
		off, err := c.outbox.IsDisabled(ctx, h.name)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("start the courier: %w", err)
		}
		if off {
			h.log.Warn().Msg("the hook is disabled, because its receiver said that it is gone; enable it once that is mended")
		}
		h.setDisabled(off)
	}
	var hooks, others sync.WaitGroup
	for _, h := range c.order {
		hooks.Go(func() { h.run(ctx, sending) })
	}
	settling, stopSettling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSettling()
	others.Go(func() { c.settle(settling) })
	others.Go(func() { c.sweep(ctx) })
	hooks.Wait()
	stopSettling() // after the last result
	others.Wait()
	return nil
}

// Retry sends a dead or waiting delivery again, now, and returns it. Later deliveries of the alert that have arrived
// already are not repeated.
func (c *Courier) Retry(ctx context.Context, id string) (alerting.Delivery, error) {
	d, err := c.outbox.Retry(ctx, id)
	if err != nil {
		return alerting.Delivery{}, err
	}
	if h := c.hooks[d.Hook]; h != nil {
		h.change(d)
	}
	return d, nil
}

// ErrUnknownHook is a hook that the configuration does not have.
var ErrUnknownHook = errors.New("no such hook; see hooks in the configuration")

// Enable lets a disabled hook send again, beginning with what has been waiting.
func (c *Courier) Enable(ctx context.Context, name string) error {
	h := c.hooks[name]
	if h == nil {
		return ErrUnknownHook
	}
	if err := c.outbox.EnableHook(ctx, name); err != nil {
		return err
	}
	h.setDisabled(false)
	h.log.Info().Msg("the hook is enabled again")
	return nil
}

// add queues a result for writing.
func (c *Courier) add(r result) {
	c.unsettled.Add(1)
	c.mu.Lock()
	c.results = append(c.results, r)
	c.mu.Unlock()
	poke(c.written)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// settleBatch is how many results one transaction writes at most, so that alerts never wait long for it.
const settleBatch = 256

// settle writes results down, some at a time, until ctx ends and none is left.
func (c *Courier) settle(ctx context.Context) {
	failing := false
	for {
		select {
		case <-c.written:
			wait := c.o.SettleEvery
			if failing {
				wait = time.Second
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		err := c.writeResults()
		if err != nil {
			if !failing {
				c.log.Error().Err(err).Msg("results of deliveries cannot be recorded; trying again, until then a restart would send them again")
			}
			poke(c.written)
		}
		failing = err != nil
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *Courier) writeResults() error {
	for {
		c.mu.Lock()
		n := min(len(c.results), settleBatch)
		batch := c.results[:n:n]
		c.mu.Unlock()
		if n == 0 {
			return nil
		}
		ss := make([]alerting.Settlement, n)
		for i := range batch {
			ss[i] = batch[i].s
		}
		// Not cancelled with Run: what has arrived should be known to have.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := c.outbox.Settle(ctx, ss)
		cancel()
		if err != nil {
			return err
		}
		c.mu.Lock()
		if c.results = c.results[n:]; len(c.results) == 0 {
			c.results = nil
		}
		c.mu.Unlock()
		if before := c.unsettled.Add(int64(-n)) + int64(n); before >= maxUnsettled {
			for _, h := range c.order {
				poke(h.wake)
			}
		}
		for i := range batch {
			if d := batch[i].dead; d != nil {
				c.died(*d)
			}
		}
	}
}

// died is the loud end of a delivery.
func (c *Courier) died(d alerting.Delivery) {
	c.o.Metrics.Deliveries.WithLabelValues(d.Hook, outcomeDead).Inc()
	c.log.Error().Str("hook", d.Hook).Str("delivery_id", d.ID).Str("alert_id", d.AlertID).Str("event", d.Type).Str("class", d.Error).
		Int("attempts", d.Attempts).Msg("delivery given up: nobody was reached by this hook. Mend the receiver, then retry the delivery")
	if c.o.OnDead != nil {
		c.o.OnDead(d)
	}
}

// sweep makes the courier look into the outbox now and then, and ends what nobody will ever send.
func (c *Courier) sweep(ctx context.Context) {
	t := time.NewTicker(c.o.PollEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var active []string
		for _, h := range c.order {
			if !h.isDisabled() {
				active = append(active, h.name)
			}
			h.lookAgain()
		}
		const step = 100
		for {
			dead, err := c.outbox.Expire(ctx, active, vitals.At(time.Now().Add(-c.o.GiveUpAfter)), "hook_off", step)
			if err != nil {
				if ctx.Err() == nil {
					c.log.Error().Err(err).Msg("the outbox cannot be looked through; trying again")
				}
				break
			}
			for _, d := range dead {
				if h := c.hooks[d.Hook]; h != nil {
					h.change(d) // it waits in memory
				}
				c.died(d)
			}
			if len(dead) < step {
				break
			}
		}
	}
}
