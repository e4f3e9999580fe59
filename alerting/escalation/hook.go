package escalation

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

// hook sends to one receiver. What is in memory is a window of the outbox: every waiting delivery up to `loaded` is in
// a lane, those after it are in the table only, and behind says that there may be some.
type hook struct {
	c    *Courier
	ch   Channel
	name string
	log  zerolog.Logger
	wake chan struct{} // something in the block below, or room for results
	done chan attempt

	mu       sync.Mutex
	inbox    []alerting.Delivery // told, in the order of their events
	changes  []alerting.Delivery // to be sent again (pending) or dropped (dead)
	newest   uint64              // event told last
	behind   bool
	disabled bool

	// Below belongs to run's goroutine.
	lanes    map[string]*lane // by alert
	queued   int              // deliveries in lanes
	loaded   uint64
	ready    readyLanes
	waiting  waitingLanes
	inflight int
	pause    time.Time // the receiver asked to be left alone until then
	failures int       // in a row
	readFrom time.Time // not read the outbox before, after it failed
}

// lane is the queue of one alert: only its head is sent.
type lane struct {
	queue     []*item // in the order of events
	severity  alerting.Severity
	due       time.Time // when waiting
	notBefore time.Time // the receiver asked for it
	place     int       // in the heap it is in
	in        place
}

type place uint8

const (
	nowhere place = iota
	inReady
	inWaiting
	inFlight
)

type item struct {
	d alerting.Delivery
	// born is when the delivery became due, with the monotonic clock, so that a step of the wall clock neither
	// gives everything up nor keeps it for ever.
	born time.Time
}

// attempt is one that has ended.
type attempt struct {
	l       *lane
	receipt alerting.Receipt
	err     error
}

func newHook(c *Courier, ch Channel) *hook {
	h := &hook{c: c, ch: ch, name: ch.Name(), log: c.log.With().Str("hook", ch.Name()).Logger(), wake: make(chan struct{}, 1),
		done: make(chan attempt, c.o.Concurrency), lanes: map[string]*lane{}, behind: true} // behind: recovery reads the outbox
	for _, o := range []string{outcomeDelivered, outcomeFailed, outcomeDead, outcomeGone} {
		c.o.Metrics.Deliveries.WithLabelValues(h.name, o)
	}
	return h
}

func (h *hook) notify(d alerting.Delivery) {
	h.mu.Lock()
	h.newest = max(h.newest, d.Seq)
	if h.behind || len(h.inbox) >= h.c.o.MaxQueued {
		h.behind = true // it is in the outbox and comes in its turn
	} else {
		h.inbox = append(h.inbox, d)
	}
	h.mu.Unlock()
	poke(h.wake)
}

func (h *hook) change(d alerting.Delivery) {
	h.mu.Lock()
	h.changes = append(h.changes, d)
	h.mu.Unlock()
	poke(h.wake)
}

func (h *hook) lookAgain() {
	h.mu.Lock()
	h.behind = true
	h.mu.Unlock()
	poke(h.wake)
}

func (h *hook) setDisabled(off bool) {
	h.mu.Lock()
	h.disabled = off
	h.mu.Unlock()
	v := 0.0
	if off {
		v = 1
	}
	h.c.o.Metrics.Disabled.WithLabelValues(h.name).Set(v)
	poke(h.wake)
}

func (h *hook) isDisabled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disabled
}

// run is the hook's loop. sending ends later than ctx.
func (h *hook) run(ctx, sending context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		h.take()
		h.refill(ctx)
		h.c.o.Metrics.Queued.WithLabelValues(h.name).Set(float64(h.queued))
		next := h.start(sending)
		var due <-chan time.Time
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			for h.inflight > 0 {
				h.finish(<-h.done, sending.Err() != nil)
			}
			return
		case <-h.wake:
		case a := <-h.done:
			h.finish(a, sending.Err() != nil)
		case <-due:
		}
	}
}

// take moves what was told into the lanes, as far as there is room.
func (h *hook) take() {
	now := time.Now()
	h.mu.Lock()
	inbox, changes := h.inbox, h.changes
	h.inbox, h.changes = nil, nil
	if room := max(h.c.o.MaxQueued-h.queued, 0); len(inbox) > room {
		inbox, h.behind = inbox[:room], true
	}
	h.mu.Unlock()
	for _, d := range inbox {
		if d.Seq > h.loaded { // otherwise it was read from the outbox already
			h.push(d, now)
			h.loaded = d.Seq
		}
	}
	for _, d := range changes {
		if d.State == alerting.Dead {
			h.drop(d)
		} else {
			h.again(d, now)
		}
	}
}

// refill reads on in the outbox when there is room.
func (h *hook) refill(ctx context.Context) {
	for {
		h.mu.Lock()
		behind, newest := h.behind, h.newest
		h.mu.Unlock()
		limit := h.c.o.MaxQueued - h.queued
		now := time.Now()
		if !behind || limit < (h.c.o.MaxQueued+1)/2 || now.Before(h.readFrom) || ctx.Err() != nil {
			return
		}
		ds, err := h.c.outbox.Pending(ctx, h.name, h.loaded, limit)
		if err != nil {
			if ctx.Err() == nil {
				h.log.Error().Err(err).Msg("the outbox cannot be read; trying again")
			}
			h.readFrom = now.Add(time.Second)
			return
		}
		for _, d := range ds {
			h.push(d, now)
			h.loaded = max(h.loaded, d.Seq)
		}
		if len(ds) == limit {
			continue
		}
		h.mu.Lock()
		if h.newest == newest { // all that was told of had been committed before the outbox was read
			h.behind = false
			h.loaded = max(h.loaded, newest)
		}
		h.mu.Unlock()
	}
}

// longest is the longest wait that the courier itself would have chosen: a later time in the outbox is from a clock
// that was wrong.
func (h *hook) longest() time.Duration {
	return max(slices.Max(h.c.o.Schedule), time.Hour)
}

// push puts a delivery into its alert's lane, in the order of events; one that is there already stays.
func (h *hook) push(d alerting.Delivery, now time.Time) {
	l := h.lanes[d.AlertID]
	if l == nil {
		l = &lane{}
		h.lanes[d.AlertID] = l
	}
	from := 0
	if l.in == inFlight { // what is under way stays the head
		if from = 1; l.queue[0].d.Seq == d.Seq {
			return
		}
	}
	i, there := slices.BinarySearchFunc(l.queue[from:], d.Seq, func(it *item, seq uint64) int { return cmp.Compare(it.d.Seq, seq) })
	if there {
		return
	}
	i += from
	wall := vitals.At(now)
	it := &item{d: d, born: now.Add(-max(wall.Sub(d.Since), 0))}
	l.queue = slices.Insert(l.queue, i, it)
	l.severity = max(l.severity, d.Severity)
	h.queued++
	if i == 0 {
		h.place(l, now.Add(min(max(d.NextAt.Sub(wall), 0), h.longest())), now)
	} else if l.in == inReady {
		heap.Fix(&h.ready, l.place) // its severity may have risen
	}
}

// again makes a delivery due now, whether it waits here or was given up.
func (h *hook) again(d alerting.Delivery, now time.Time) {
	if l := h.lanes[d.AlertID]; l != nil {
		for i, it := range l.queue {
			if it.d.Seq != d.Seq {
				continue
			}
			if i == 0 && l.in == inFlight {
				return
			}
			it.d, it.born = d, now
			if i == 0 {
				l.notBefore = time.Time{}
				h.place(l, now, now)
			}
			return
		}
	}
	h.push(d, now)
}

// drop forgets a delivery that was given up elsewhere.
func (h *hook) drop(d alerting.Delivery) {
	l := h.lanes[d.AlertID]
	if l == nil {
		return
	}
	i := slices.IndexFunc(l.queue, func(it *item) bool { return it.d.Seq == d.Seq })
	if i < 0 || i == 0 && l.in == inFlight {
		return
	}
	h.remove(d.AlertID, l, i)
}

// remove takes an item out of a lane that is not in flight, or behind its head.
func (h *hook) remove(alert string, l *lane, i int) {
	l.queue = slices.Delete(l.queue, i, i+1)
	h.queued--
	if i > 0 {
		return
	}
	if len(l.queue) == 0 {
		h.unplace(l)
		delete(h.lanes, alert)
		return
	}
	now := time.Now()
	h.place(l, now.Add(min(max(l.queue[0].d.NextAt.Sub(vitals.At(now)), 0), h.longest())), now)
}

func (h *hook) unplace(l *lane) {
	switch l.in {
	case inReady:
		heap.Remove(&h.ready, l.place)
	case inWaiting:
		heap.Remove(&h.waiting, l.place)
	}
	l.in = nowhere
}

// place queues a lane for its head to be sent at due.
func (h *hook) place(l *lane, due, now time.Time) {
	h.unplace(l)
	if due.After(now) {
		l.due, l.in = due, inWaiting
		heap.Push(&h.waiting, l)
	} else {
		l.in = inReady
		heap.Push(&h.ready, l)
	}
}

// start begins as many attempts as may be, and returns when to look again, zero for not before something happens.
func (h *hook) start(sending context.Context) (next time.Time) {
	now := time.Now()
	for len(h.waiting) > 0 && !h.waiting[0].due.After(now) {
		h.place(h.waiting[0], now, now)
	}
	if !h.isDisabled() && !h.pause.After(now) {
		for len(h.ready) > 0 && h.inflight < h.c.o.Concurrency && h.c.unsettled.Load() < maxUnsettled {
			l := heap.Pop(&h.ready).(*lane)
			l.in = inFlight
			h.inflight++
			d := l.queue[0].d // a copy: the channel may not see it change
			go func() {
				receipt, err := h.send(sending, &d)
				h.done <- attempt{l, receipt, err} // there is room for every attempt
			}()
		}
	}
	soonest := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if len(h.waiting) > 0 {
		soonest(h.waiting[0].due)
	}
	soonest(h.pause)
	soonest(h.readFrom)
	return next
}

// send makes an attempt. A fault in a channel must not end the watch over everybody: it is a failed attempt.
func (h *hook) send(ctx context.Context, d *alerting.Delivery) (r alerting.Receipt, err error) {
	defer func() {
		if x := recover(); x != nil {
			h.log.Error().Str("kind", fmt.Sprintf("%T", x)).Bytes("stack", debug.Stack()).Msg("a channel failed while sending. Please report this")
			err = &alerting.SendError{Class: "internal"}
		}
	}()
	return h.ch.Send(ctx, d)
}

// finish deals with the end of an attempt; stopped says that it may have been cut off by us.
func (h *hook) finish(a attempt, stopped bool) {
	h.inflight--
	l, it := a.l, a.l.queue[0]
	l.in = nowhere
	d := &it.d
	now := time.Now()
	if a.err == nil {
		d.Attempts++
		h.count(outcomeDelivered)
		h.c.o.Metrics.Latency.WithLabelValues(h.name).Observe(now.Sub(it.born).Seconds())
		h.c.add(result{s: h.settlement(d, alerting.Delivered, "", a.receipt.AcceptedBy, now)})
		h.remove(d.AlertID, l, 0)
		h.recovered(now)
		return
	}
	if stopped {
		return // it stays in the outbox; the receiver may have it, and will get it again under the same id
	}
	se := new(alerting.SendError)
	if !errors.As(a.err, &se) {
		se = &alerting.SendError{Class: "internal"} // its text may hold anything
	}
	d.Attempts++
	d.Error = se.Class
	h.count(outcomeFailed)
	if h.failures++; h.failures == 1 {
		h.log.Warn().Str("delivery_id", d.ID).Str("class", se.Class).Msg("a delivery has failed; it is tried again")
	}
	if se.Gone {
		h.gone(se.Class)
	}
	if now.Sub(it.born) >= h.c.o.GiveUpAfter {
		d.State, d.DoneAt = alerting.Dead, vitals.At(now)
		dead := *d
		h.c.add(result{h.settlement(d, alerting.Dead, se.Class, "", now), &dead})
		h.remove(d.AlertID, l, 0)
		return
	}
	step := h.c.o.Schedule[min(d.Attempts, len(h.c.o.Schedule))-1]
	due := now.Add(time.Duration(h.c.o.Jitter() * float64(step)))
	l.notBefore = time.Time{}
	if se.RetryAfter > 0 {
		l.notBefore = now.Add(se.RetryAfter)
		h.pause = later(h.pause, l.notBefore) // it is the receiver that is overloaded, not this delivery
		due = later(due, l.notBefore)
	}
	// One attempt is made when the time is over, however long the wait would have been.
	if end := it.born.Add(h.c.o.GiveUpAfter); due.After(end) {
		due = end
	}
	d.NextAt = vitals.At(now).Add(due.Sub(now))
	h.c.add(result{s: h.settlement(d, alerting.Pending, se.Class, "", now)})
	h.place(l, due, now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (h *hook) count(outcome string) {
	h.c.o.Metrics.Deliveries.WithLabelValues(h.name, outcome).Inc()
}

func (h *hook) settlement(d *alerting.Delivery, s alerting.DeliveryState, class, by string, now time.Time) alerting.Settlement {
	return alerting.Settlement{Hook: h.name, Seq: d.Seq, State: s, Attempts: d.Attempts, NextAt: d.NextAt, Error: class, AcceptedBy: by, At: vitals.At(now)}
}

// comeBack is how long, at most, waiting deliveries take to follow the first that arrives after an outage.
const comeBack = 10 * time.Second

// recovered brings forward what waits, after the receiver was away for several attempts in a row: an emergency must
// not wait out an hour's back-off when the receiver is known to be back.
func (h *hook) recovered(now time.Time) {
	failures := h.failures
	h.failures = 0
	if failures == 0 {
		return
	}
	h.log.Info().Int("failed_attempts", failures).Msg("deliveries arrive again")
	if failures < 3 {
		return // rather one bad delivery than a bad receiver
	}
	for _, l := range slices.Clone(h.waiting) {
		due := later(now.Add(time.Duration(h.c.o.Jitter()*float64(comeBack))), l.notBefore)
		if due.Before(l.due) {
			h.place(l, due, now)
		}
	}
}

// gone disables the hook; what waits for it stays in the outbox.
func (h *hook) gone(class string) {
	if h.isDisabled() {
		return // several attempts were under way
	}
	h.setDisabled(true)
	h.count(outcomeGone)
	h.log.Error().Str("class", class).Msg("the receiver says that it is gone; the hook is disabled and its deliveries wait. Mend it, then enable the hook")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.c.outbox.DisableHook(ctx, h.name, class); err != nil {
		h.log.Error().Err(err).Msg("that the hook is disabled cannot be recorded; after a restart it would be tried again")
	}
	if h.c.o.OnDisabled != nil {
		h.c.o.OnDisabled(h.name)
	}
}

// readyLanes has the most severe on top, then the oldest event.
type readyLanes []*lane

func (q readyLanes) Len() int { return len(q) }
func (q readyLanes) Less(i, j int) bool {
	if q[i].severity != q[j].severity {
		return q[i].severity > q[j].severity
	}
	return q[i].queue[0].d.Seq < q[j].queue[0].d.Seq
}
func (q readyLanes) Swap(i, j int) { q[i], q[j] = q[j], q[i]; q[i].place, q[j].place = i, j }
func (q *readyLanes) Push(x any)   { l := x.(*lane); l.place = len(*q); *q = append(*q, l) }
func (q *readyLanes) Pop() any     { return popLane((*[]*lane)(q)) }

// waitingLanes has the one on top that is due first.
type waitingLanes []*lane

func (q waitingLanes) Len() int           { return len(q) }
func (q waitingLanes) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q waitingLanes) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].place, q[j].place = i, j }
func (q *waitingLanes) Push(x any)        { l := x.(*lane); l.place = len(*q); *q = append(*q, l) }
func (q *waitingLanes) Pop() any          { return popLane((*[]*lane)(q)) }

func popLane(q *[]*lane) *lane {
	old := *q
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return l
}
