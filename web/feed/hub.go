package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// Bounds of the hub itself.
const (
	inboxEvents   = 4096 // published and not yet dispatched; beyond, the history is read instead
	inboxReadings = 1 << 16
	pageEvents    = 64 // of one step of a catch-up
	fillEvents    = 256
	ringEvents    = 2048
	ringBytes     = 8 << 20
	heartSlots    = 15 // a heartbeat goes to one fifteenth of the clients at a time: no burst every 15 s
	historyReads  = 4  // at once, over all clients that catch up
)

// Hub tells events to all connections. Make one with New, end it with Shutdown.
type Hub struct {
	o        Options
	epoch    string
	start    time.Time
	upgrader websocket.Upgrader
	ctx      context.Context // ends when Shutdown is through
	cancel   context.CancelFunc
	reads    *semaphore.Weighted

	seq     atomic.Uint64 // of the last event dispatched; stored after it stands in the ring
	readers atomic.Int64  // clients with any channel that carries readings
	// strangers are connections without a viewer yet.
	strangers atomic.Int64
	wake      chan struct{}
	renew     chan struct{}
	own       sync.WaitGroup // dispatcher, writers, renewer
	conns     sync.WaitGroup // readers, and writers that wait

	inbox struct {
		sync.Mutex
		events   []Event
		lost     bool // more came than the bound: read the history
		readings map[readingKey]int
		latest   []*frame
	}
	ring struct {
		sync.RWMutex
		from   uint64 // every event after from, up to seq, is in frames
		frames []*frame
		bytes  int
	}
	snap struct {
		sync.Mutex // held while the history is read: one read serves all who wait
		seq        uint64
		alerts     []Open
		all        *frame
	}
	clients struct {
		sync.RWMutex
		list   []*client
		slot   int
		closed bool
	}
	ready struct {
		sync.Mutex
		cond   sync.Cond
		list   []*client // each client at most once: client.writing
		closed bool
	}
	m metrics
}

type readingKey struct{ patient, indicator string }

type metrics struct {
	clients   prometheus.Gauge
	dropped   prometheus.Counter
	closed    *prometheus.CounterVec
	latency   prometheus.Histogram
	delivered prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		clients:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "vitalwatch_feed_clients", Help: "Connected feed clients."}),
		dropped:   prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_feed_dropped_total", Help: "Frames not delivered: alert frames of clients closed as too slow, and reading frames beyond a client's bound."}),
		closed:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_feed_closed_total", Help: "Connections the server ended, by close code."}, []string{"code"}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_feed_delivered_total", Help: "Alert frames handed to a client's socket."}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_feed_delivery_seconds",
			Help: "From publishing an alert frame to handing it to a client's socket.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.clients, m.dropped, m.closed, m.delivered, m.latency} {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("register feed metrics: %w", err)
		}
	}
	return m, nil
}

// noWriteBuffers keeps the library from giving each connection a write buffer of its own: all our frames are
// written by the hub, and its control frames are written without one.
type noWriteBuffers struct{}

func (noWriteBuffers) Get() any { return nil }
func (noWriteBuffers) Put(any)  {}

// New starts a hub at the history's present end.
func New(o Options) (*Hub, error) {
	if o.History == nil || o.Auth == nil {
		return nil, errors.New("feed: a hub needs a history and an auth")
	}
	o.setDefaults()
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	h := &Hub{o: o, epoch: o.History.Epoch(), start: time.Now(), m: m, reads: semaphore.NewWeighted(historyReads),
		wake: make(chan struct{}, 1), renew: make(chan struct{}, 1)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.ready.cond.L = &h.ready.Mutex
	h.inbox.readings = map[readingKey]int{}
	h.upgrader = websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		ReadBufferSize:   512,
		WriteBufferSize:  512,
		WriteBufferPool:  noWriteBuffers{},
		Subprotocols:     []string{Subprotocol},
		CheckOrigin:      func(r *http.Request) bool { return OriginAllowed(r, o.Origins) },
		Error: func(rw http.ResponseWriter, _ *http.Request, status int, reason error) {
			h.refuse(rw, &HandshakeError{status, reason.Error()})
		},
	}
	h.warm()
	h.own.Go(h.dispatch)
	h.own.Go(h.renewLoop)
	for range max(2, runtime.GOMAXPROCS(0)) {
		h.own.Go(h.write)
	}
	return h, nil
}

// warm fills the ring, so that the reconnects after a restart do not each read the history.
func (h *Hub) warm() {
	seq := h.o.History.Seq()
	h.seq.Store(seq)
	h.ring.from = seq
	from := seq - min(seq, ringEvents/4)
	ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
	defer cancel()
	var frames []*frame
	bytes := 0
	for at := from; at < seq; {
		page, err := h.readHistory(ctx, at, fillEvents)
		if err != nil {
			return // without a ring every catch-up reads the history itself, and says what is wrong
		}
		for _, f := range page {
			if f.seq <= seq {
				frames = append(frames, f)
				bytes += len(f.b)
			}
		}
		if len(page) == 0 {
			break
		}
		at = page[len(page)-1].seq
	}
	h.ring.from, h.ring.frames, h.ring.bytes = from, frames, bytes
}

// readHistory reads and encodes up to limit events after seq.
func (h *Hub) readHistory(ctx context.Context, seq uint64, limit int) ([]*frame, error) {
	if err := h.reads.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer h.reads.Release(1)
	events, err := h.o.History.Since(ctx, seq, limit)
	if err != nil {
		return nil, err
	}
	out := make([]*frame, 0, len(events))
	for i := range events {
		f, err := encodeEvent(&events[i])
		if err != nil {
			return nil, fmt.Errorf("encode transition %d: %w", events[i].Seq, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// since returns the frames after seq, from the ring where it reaches back so far.
func (h *Hub) since(ctx context.Context, seq uint64) ([]*frame, error) {
	h.ring.RLock()
	if seq >= h.ring.from {
		i, _ := slices.BinarySearchFunc(h.ring.frames, seq+1, func(f *frame, s uint64) int { return cmp.Compare(f.seq, s) })
		page := slices.Clone(h.ring.frames[i:min(i+pageEvents, len(h.ring.frames))])
		h.ring.RUnlock()
		return page, nil
	}
	h.ring.RUnlock()
	return h.readHistory(ctx, seq, pageEvents)
}

// Publish tells committed events; call it after the commit. It never waits, and the order of calls does not
// matter: an event that comes before an earlier one makes the dispatcher read the earlier from the history.
func (h *Hub) Publish(events ...Event) {
	h.inbox.Lock()
	if len(h.inbox.events)+len(events) > inboxEvents {
		h.inbox.lost = true // nothing is lost to the clients: the history has them all
	} else {
		h.inbox.events = append(h.inbox.events, events...)
	}
	h.inbox.Unlock()
	h.poke()
}

// Watched reports whether any client wants readings at all; the caller can spare itself the encoding.
func (h *Hub) Watched() bool { return h.readers.Load() > 0 }

// Reading tells the newest reading of a patient's indicator, as the API shows it. An older one of the same place
// that is still waiting is replaced. It never waits.
func (h *Hub) Reading(patient, indicator string, reading []byte) {
	if !h.Watched() {
		return
	}
	f := encodeReading(patient, reading)
	k := readingKey{patient, indicator}
	h.inbox.Lock()
	if i, ok := h.inbox.readings[k]; ok {
		h.inbox.latest[i] = f
	} else if len(h.inbox.latest) < inboxReadings {
		h.inbox.readings[k] = len(h.inbox.latest)
		h.inbox.latest = append(h.inbox.latest, f)
	} else {
		h.m.dropped.Inc()
	}
	h.inbox.Unlock()
	h.poke()
}

func (h *Hub) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// patience is how long a client may be silent: two pings and some time to answer.
func (h *Hub) patience() time.Duration { return 4*h.o.Heartbeat + h.o.Heartbeat/2 }

func (h *Hub) now() int64 { return int64(time.Since(h.start)) }

// dispatch is the one place where events get their order.
func (h *Hub) dispatch() {
	tick := time.NewTicker(h.o.Heartbeat / heartSlots)
	defer tick.Stop()
	beat, idle := 0, false
	var behind bool // the history could not be read: try again at the next tick
	for {
		ticked := false
		select {
		case <-h.ctx.Done():
			return
		case <-h.wake:
		case <-tick.C:
			ticked = true
		}
		h.inbox.Lock()
		events, latest, keys, lost := h.inbox.events, h.inbox.latest, h.inbox.readings, h.inbox.lost
		h.inbox.events, h.inbox.latest, h.inbox.lost = nil, nil, false
		if len(latest) > 0 {
			h.inbox.readings = map[readingKey]int{}
		}
		h.inbox.Unlock()

		if lost || behind && ticked {
			behind = !h.fill(h.o.History.Seq())
		}
		slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) })
		for i := range events {
			e := &events[i]
			if behind {
				break // order comes first: what cannot be read yet must not be overtaken
			}
			if e.Seq > h.seq.Load()+1 && !h.fill(e.Seq-1) {
				behind = true
				break
			}
			if e.Seq <= h.seq.Load() {
				continue
			}
			f, err := encodeEvent(e)
			if err != nil {
				h.o.Log.Error().Err(err).Uint64("seq", e.Seq).Msg("a transition could not be encoded; clients get a snapshot instead")
				h.skipTo(e.Seq)
				continue
			}
			h.deliver(f)
		}
		if len(latest) > 0 {
			h.deliverReadings(keys, latest)
		}
		if ticked {
			h.heartbeat(beat%heartSlots, beat/heartSlots%2 == 0)
			beat++
			// What another process committed is never published here; the history knows.
			if ahead := h.o.History.Seq() > h.seq.Load(); ahead && idle && !behind {
				behind = !h.fill(h.o.History.Seq())
			}
		}
		idle = len(events) == 0
	}
}

// fill delivers from the history up to seq. It reports false when the history could not be read.
func (h *Hub) fill(upTo uint64) bool {
	for h.seq.Load() < upTo {
		ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
		page, err := h.readHistory(ctx, h.seq.Load(), fillEvents)
		cancel()
		switch {
		case errors.Is(err, ErrGone):
			h.skipTo(upTo)
			return true
		case err != nil:
			if h.ctx.Err() == nil {
				h.o.Log.Warn().Err(err).Msg("the feed cannot read the alert history and will try again")
			}
			return false
		case len(page) == 0:
			return true // a hole in the sequence: nothing was committed there
		}
		for _, f := range page {
			h.deliver(f)
		}
	}
	return true
}

// deliver gives one alert frame its place in the ring and in every queue.
func (h *Hub) deliver(f *frame) {
	// A frame from the history is new here; one from the ring never comes this way.
	f.born = h.now()
	h.ring.Lock()
	h.ring.frames = append(h.ring.frames, f)
	h.ring.bytes += len(f.b)
	drop := 0
	for len(h.ring.frames)-drop > ringEvents || h.ring.bytes > ringBytes && drop < len(h.ring.frames)-1 {
		h.ring.bytes -= len(h.ring.frames[drop].b)
		h.ring.from = h.ring.frames[drop].seq
		drop++
	}
	if drop > 0 {
		h.ring.frames = slices.Delete(h.ring.frames, 0, drop)
	}
	h.ring.Unlock()
	h.seq.Store(f.seq) // before the fan-out: see client.sync
	h.fanOut(func(c *client) bool { return c.offerAlert(f) })
}

// skipTo gives up the events up to seq: everybody gets a gap and a snapshot.
func (h *Hub) skipTo(seq uint64) {
	h.ring.Lock()
	h.ring.from, h.ring.frames, h.ring.bytes = seq, nil, 0
	h.ring.Unlock()
	h.seq.Store(seq)
	h.clients.RLock()
	defer h.clients.RUnlock()
	for _, c := range h.clients.list {
		h.resync(c)
	}
}

func (h *Hub) resync(c *client) {
	h.conns.Go(func() { c.sync(h.ctx, nil, true) })
}

func (h *Hub) deliverReadings(keys map[readingKey]int, latest []*frame) {
	names := make([]readingKey, len(latest))
	for k, i := range keys {
		names[i] = k
	}
	h.fanOut(func(c *client) bool { return c.offerReadings(names, latest) })
}

// heartbeat goes to one slot of the clients, with a ping in the same write every second time: the pongs of
// thousands of clients cost more than the heartbeats.
func (h *Hub) heartbeat(slot int, ping bool) {
	now, seq := time.Now(), h.seq.Load()
	level := text(heartbeatFrame{"heartbeat", stamp(now), &seq})
	other := text(heartbeatFrame{"heartbeat", stamp(now), nil})
	if ping {
		level.b, other.b = appendWS(level.b, opPing, nil), appendWS(other.b, opPing, nil)
	}
	h.fanOut(func(c *client) bool { return c.slot == slot && c.offerHeartbeat(level, other) })
}

// fanOut calls offer, which must not wait, for every client and hands those that have something to write to the
// writers.
func (h *Hub) fanOut(offer func(*client) bool) {
	var batch [64]*client
	n := 0
	h.clients.RLock()
	for _, c := range h.clients.list {
		if offer(c) {
			batch[n] = c
			if n++; n == len(batch) {
				h.kick(batch[:n]...)
				n = 0
			}
		}
	}
	h.clients.RUnlock()
	h.kick(batch[:n]...)
}

// kick hands clients whose writing flag was just set to the writers.
func (h *Hub) kick(cs ...*client) {
	if len(cs) == 0 {
		return
	}
	h.ready.Lock()
	h.ready.list = append(h.ready.list, cs...)
	h.ready.Unlock()
	if len(cs) == 1 {
		h.ready.cond.Signal()
	} else {
		h.ready.cond.Broadcast()
	}
}

// write empties queues. It never waits for a client.
func (h *Hub) write() {
	w := &writer{}
	w.try = func(fd uintptr) bool {
		w.n, w.err = writeFD(fd, w.out)
		return true // never let the runtime park us here
	}
	var batch [16]*client
	for {
		h.ready.Lock()
		for len(h.ready.list) == 0 && !h.ready.closed {
			h.ready.cond.Wait()
		}
		if h.ready.closed && len(h.ready.list) == 0 {
			h.ready.Unlock()
			return
		}
		// From the end: taking from the front would shift 5,000 pointers for every sixteen writes.
		from := max(0, len(h.ready.list)-len(batch))
		n := copy(batch[:], h.ready.list[from:])
		clear(h.ready.list[from:])
		h.ready.list = h.ready.list[:from]
		h.ready.Unlock()
		for _, c := range batch[:n] {
			c.flush(w)
		}
	}
}

// Reauthorise asks Auth again about every viewer, soon; call it when a user, key, session or team changed.
func (h *Hub) Reauthorise() {
	select {
	case h.renew <- struct{}{}:
	default:
	}
}

func (h *Hub) renewLoop() {
	tick := time.NewTicker(h.o.RenewEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		case <-h.renew:
		}
		h.renewAll()
	}
}

// renewAll asks once per credential and applies the answer to each of its connections.
func (h *Hub) renewAll() {
	byCredential := map[string][]*client{}
	h.clients.RLock()
	for _, c := range h.clients.list {
		if v := c.currentViewer(); v != nil {
			byCredential[v.Credential] = append(byCredential[v.Credential], c)
		}
	}
	h.clients.RUnlock()
	for _, cs := range byCredential {
		old := cs[0].currentViewer()
		ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
		v, err := h.o.Auth.Renew(ctx, *old)
		cancel()
		for _, c := range cs {
			c.renewed(&v, err)
		}
	}
}

// Clients is the number of connections.
func (h *Hub) Clients() int {
	h.clients.RLock()
	defer h.clients.RUnlock()
	return len(h.clients.list)
}

// Seq is the last event told to clients that are level.
func (h *Hub) Seq() uint64 { return h.seq.Load() }

func (h *Hub) add(c *client) bool {
	h.clients.Lock()
	defer h.clients.Unlock()
	if h.clients.closed {
		return false
	}
	c.index, c.slot = len(h.clients.list), h.clients.slot%heartSlots
	h.clients.slot++
	h.clients.list = append(h.clients.list, c)
	h.m.clients.Inc()
	return true
}

func (h *Hub) remove(c *client) {
	h.clients.Lock()
	last := len(h.clients.list) - 1
	h.clients.list[c.index] = h.clients.list[last]
	h.clients.list[c.index].index = c.index
	h.clients.list[last] = nil
	h.clients.list = h.clients.list[:last]
	h.clients.Unlock()
	h.m.clients.Dec()
}

// snapshot returns the open alerts, read again only when something has happened since the last time.
func (h *Hub) snapshot(ctx context.Context) (uint64, []Open, *frame, error) {
	h.snap.Lock()
	defer h.snap.Unlock()
	if h.snap.all != nil && h.snap.seq >= h.o.History.Seq() {
		return h.snap.seq, h.snap.alerts, h.snap.all, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := h.o.History.Snapshot(ctx)
	if err != nil {
		return 0, nil, nil, err
	}
	h.snap.seq, h.snap.alerts = s.Seq, s.Alerts
	h.snap.all = encodeSnapshot(h.epoch, s.Seq, s.Alerts, nil)
	return s.Seq, s.Alerts, h.snap.all, nil
}

// Shutdown refuses new connections, says goodbye to all clients with a jittered time to come back, and waits for
// them until ctx ends; then it cuts them off. The hub is of no use afterwards.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.clients.Lock()
	first := !h.clients.closed
	h.clients.closed = true
	list := slices.Clone(h.clients.list)
	h.clients.Unlock()
	for _, c := range list {
		// Spread over some seconds, so that the restarted server does not meet all of them at once.
		c.bye(CloseShutdown, "the server restarts", time.Duration(500+rand.IntN(4500))*time.Millisecond)
	}
	done := make(chan struct{})
	go func() { h.conns.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("feed: %d clients did not leave in time: %w", h.Clients(), ctx.Err())
		for _, c := range list {
			c.nc.Close()
		}
		<-done
	}
	if first {
		h.cancel()
		h.ready.Lock()
		h.ready.closed = true
		h.ready.Unlock()
		h.ready.cond.Broadcast()
	}
	h.own.Wait()
	return err
}
