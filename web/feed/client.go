package feed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"
)

// maxLatest bounds the reading frames that wait for one client; each is the newest of its place.
const maxLatest = 1024

// maxStrangers bounds the connections that have not shown a ticket yet.
const maxStrangers = 1000

// writeChunk is the most that one write call is given: a write must make progress of this size within StallAfter.
const writeChunk = 32 << 10

// client is one connection.
type client struct {
	h   *Hub
	ws  *websocket.Conn
	nc  net.Conn
	raw syscall.RawConn // nil: every write may wait (TLS)

	slot  int // set by Hub.add
	index int // guarded by Hub.clients

	limit *rate.Limiter

	syncMu sync.Mutex // one catch-up at a time; taken before mu

	mu       sync.Mutex
	viewer   *Viewer // nil until authenticated
	renewal  time.Time
	alerts   bool                // channel "alerts"
	readings bool                // channel "readings"
	patients map[string]struct{} // channels "patient:ID"
	live     bool                // gets alert frames as they are dispatched; false while it catches up
	cursor   uint64              // last event queued or passed over
	queue    []*frame            // in order; never dropped or coalesced, except at the end of a slow client
	bytes    int                 // in queue, bounded by MaxQueue
	ahead    int                 // in queue beyond the bound: a snapshot, one page of a catch-up
	latest   []*frame            // newest readings, by place of arrival
	latestAt map[readingKey]int
	rest     []byte // of a write that the socket took in part
	writing  bool   // a writer has it, or it stands in Hub.ready
	closing  bool   // the goodbye is queued; nothing may follow
	byeBy    time.Time
	ended    bool          // the reader is gone
	left     chan struct{} // not nil while the ended reader waits for the writer
	drained  chan struct{} // not nil while a catch-up waits for the queue
}

type writer struct {
	out  []byte
	n    int
	err  error
	try  func(fd uintptr) bool
	buf  []byte  // joins small frames into one write
	born []int64 // of the alert frames in this write
}

// OriginAllowed is the check of the Origin header (RFC 6455 section 10.2): absent (no browser), the same host, or
// one of the allowed, written as "https://desk.example".
func OriginAllowed(r *http.Request, allowed []string) bool {
	o := r.Header.Get("Origin")
	if o == "" {
		return true
	}
	u, err := url.Parse(o)
	if err != nil || u.Host == "" {
		return false
	}
	return strings.EqualFold(u.Host, r.Host) || slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, o) })
}

// wire stands between the WebSocket library and the socket. Once a client is attached, what the library writes
// (answers to ping and close, always a whole frame in one call) takes its place in the client's queue, so that it
// can never cut a frame of ours in two.
type wire struct {
	net.Conn
	c atomic.Pointer[client]
}

func (w *wire) Write(b []byte) (int, error) {
	c := w.c.Load()
	if c == nil {
		return w.Conn.Write(b)
	}
	if c.enqueue(&frame{b: slices.Clone(b)}) {
		c.h.kick(c)
	}
	return len(b), nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.c.Load() != nil {
		return nil // the writers set their own
	}
	return w.Conn.SetWriteDeadline(t)
}

type hijacker struct {
	http.ResponseWriter
	w *wire
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.w.Conn = nc
	return h.w, brw, err
}

// ServeHTTP upgrades the request. It returns at once: the HTTP server's goroutine and buffers are free again, and
// the connection lives on in a reader with a small stack.
func (h *Hub) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	viewer, err := h.o.Auth.FromRequest(r)
	switch {
	case err == nil, errors.Is(err, ErrNoCredential):
	default:
		h.refuse(rw, err)
		return
	}
	h.clients.RLock()
	full, closed := len(h.clients.list) >= h.o.MaxClients, h.clients.closed
	h.clients.RUnlock()
	if full || closed || err != nil && h.strangers.Load() >= maxStrangers {
		rw.Header().Set("Retry-After", "5")
		h.refuse(rw, errBusy)
		return
	}
	w := &wire{}
	ws, upErr := h.upgrader.Upgrade(hijacker{rw, w}, r, nil)
	if upErr != nil {
		return // the library has answered
	}
	c := &client{h: h, ws: ws, nc: w.Conn}
	c.limit = rate.NewLimiter(rate.Limit(h.o.RatePerSec), int(3*h.o.RatePerSec))
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		tcp.SetWriteBuffer(h.o.SendBuffer) // an error leaves the system's default, which works too
		if canTryWrite {
			c.raw, _ = tcp.SyscallConn()
		}
	}
	w.c.Store(c)
	if err == nil {
		c.viewer, c.renewal = &viewer, time.Now()
	} else {
		h.strangers.Add(1)
	}
	if !h.admit(c) {
		if err != nil {
			h.strangers.Add(-1)
		}
		c.nc.Close()
	}
}

var errBusy = errors.New("the feed takes no more clients now: try again later")

// ErrBusy reports whether err means that the feed is full or shutting down, for Options.Problem.
func ErrBusy(err error) bool { return errors.Is(err, errBusy) }

func (h *Hub) refuse(rw http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var shake *HandshakeError
	switch {
	case errors.As(err, &shake):
		status = shake.Status
	case errors.Is(err, ErrUnauthorised):
		status = http.StatusUnauthorized
		rw.Header().Set("WWW-Authenticate", "Bearer")
	case errors.Is(err, ErrForbidden):
		status = http.StatusForbidden
	case errors.Is(err, errBusy):
		status = http.StatusServiceUnavailable
	}
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.WriteHeader(status)
	rw.Write(h.o.Problem(err))
}

// admit registers the client and starts its reader, unless the hub is closing.
func (h *Hub) admit(c *client) bool {
	h.conns.Add(1)
	if !h.add(c) {
		h.conns.Done()
		return false
	}
	go func() {
		defer h.conns.Done()
		c.read()
	}()
	return true
}

var commandBuffers = sync.Pool{New: func() any { b := make([]byte, maxCommand+1); return &b }}

// read is the reader goroutine.
func (c *client) read() {
	defer c.end()
	h := c.h
	c.ws.SetReadLimit(maxCommand)
	patience := h.patience()
	answer := c.ws.PingHandler()
	control := func(answer func(string) error) func(string) error {
		return func(data string) error {
			if !c.limit.Allow() {
				c.bye(CloseRate, "too many frames", time.Minute)
				return nil
			}
			if c.currentViewer() != nil { // a stranger's time for the ticket does not grow
				c.extend(patience)
			}
			return answer(data)
		}
	}
	c.ws.SetPongHandler(control(func(string) error { return nil }))
	c.ws.SetPingHandler(control(answer))
	if c.currentViewer() != nil {
		c.extend(patience)
		c.aside(c.hello)
	} else {
		c.nc.SetReadDeadline(time.Now().Add(h.o.AuthTimeout))
	}
	for {
		mt, r, err := c.ws.NextReader()
		if err != nil {
			if c.currentViewer() == nil && isTimeout(err) {
				c.bye(CloseAuth, "no ticket came in time", 0)
				c.linger()
			}
			return
		}
		if !c.receive(mt, r, patience) {
			c.linger()
			return
		}
	}
}

// receive reads and handles one message; false ends the connection.
func (c *client) receive(mt int, r io.Reader, patience time.Duration) (more bool) {
	c.aside(func() {
		buf := commandBuffers.Get().(*[]byte)
		defer commandBuffers.Put(buf)
		n, err := io.ReadFull(r, *buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return
		}
		if !c.limit.Allow() {
			c.bye(CloseRate, "too many frames", time.Minute)
			return
		}
		var cmd command
		if mt != websocket.TextMessage {
			err = bad("a frame is text")
		} else {
			cmd, err = decodeCommand((*buf)[:n])
		}
		if c.currentViewer() != nil {
			c.extend(patience)
		}
		more = c.handle(cmd, err)
	})
	return more
}

// aside runs f on a goroutine of its own and waits for it. The reader's stack stays as small as reading needs: with
// 5,000 idle clients that is 4 KB each instead of 8. A panic ends this connection only.
func (c *client) aside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				// The value of a panic may quote what was sent; its place cannot.
				c.h.o.Log.Error().Str("panic", fmt.Sprintf("%T", p)).Bytes("stack", debug.Stack()).Msg("a feed command panicked")
				c.bye(websocket.CloseInternalServerErr, "internal error", 5*time.Second)
			}
		}()
		f()
	}()
	<-done
}

// linger reads on until the close handshake is through or its time is over: closing a socket with unread bytes
// would reset it, and the goodbye would be lost.
func (c *client) linger() {
	var b [256]byte
	for {
		if _, err := c.nc.Read(b[:]); err != nil {
			return
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// extend moves the read deadline, unless the connection is closing and has its last one.
func (c *client) extend(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.nc.SetReadDeadline(time.Now().Add(d))
	}
}

func (c *client) currentViewer() *Viewer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.viewer
}

func (c *client) hello() {
	c.send(text(helloFrame{"hello", c.h.epoch, c.h.seq.Load(), c.h.o.Heartbeat.Seconds()}))
}

// handle does what a frame asks; false ends the connection, whose goodbye is queued.
func (c *client) handle(cmd command, err error) bool {
	v := c.currentViewer()
	if v == nil && (err != nil || cmd.Op != "auth") {
		c.bye(CloseAuth, "the first frame must be auth", 0)
		return false
	}
	if err != nil {
		c.fail(cmd.ID, err)
		return true
	}
	ctx, cancel := context.WithTimeout(c.h.ctx, 10*time.Second)
	defer cancel()
	switch cmd.Op {
	case "auth":
		return c.authenticate(ctx, v == nil, cmd)
	case "subscribe":
		return c.subscribe(ctx, v, cmd)
	case "unsubscribe":
		c.unsubscribe(cmd)
	case "ack":
		if c.h.o.Ack == nil {
			c.fail(cmd.ID, ErrForbidden)
		} else if err := c.h.o.Ack(ctx, *v, cmd.Alert, cmd.Note); err != nil {
			c.fail(cmd.ID, err)
		} else {
			c.send(text(resultFrame{Type: "result", ID: cmd.ID, OK: true}))
		}
	case "ping":
		c.send(text(pongFrame{"pong", cmd.ID, stamp(time.Now())}))
	}
	return true
}

func (c *client) fail(id *int64, err error) {
	c.send(text(resultFrame{Type: "result", ID: id, Problem: c.h.o.Problem(err)}))
}

// authenticate redeems a ticket. One that comes from somebody who is already known takes over his rights, before
// he subscribes; the page sends its ticket without asking whether the cookie was enough.
func (c *client) authenticate(ctx context.Context, first bool, cmd command) bool {
	v, err := c.h.o.Auth.FromTicket(ctx, cmd.Ticket)
	switch {
	case errors.Is(err, ErrForbidden):
		c.bye(CloseForbidden, "not allowed to read the feed", 0)
		return false
	case err != nil && !errors.Is(err, ErrUnauthorised):
		c.bye(CloseAuth, "the ticket could not be checked", 5*time.Second)
		return false
	case err != nil:
		c.bye(CloseAuth, "the ticket is not valid", 0)
		return false
	}
	c.mu.Lock()
	subscribed := c.alerts || c.readings || len(c.patients) > 0
	if !subscribed {
		if c.viewer == nil {
			c.h.strangers.Add(-1)
		}
		c.viewer, c.renewal = &v, time.Now()
	}
	c.mu.Unlock()
	switch {
	case subscribed:
		c.fail(cmd.ID, bad("auth comes before subscribe"))
	case first:
		c.extend(c.h.patience())
		c.hello()
	case cmd.ID != nil:
		c.send(text(resultFrame{Type: "result", ID: cmd.ID, OK: true}))
	}
	return true
}

func (c *client) subscribe(ctx context.Context, v *Viewer, cmd command) bool {
	for _, ch := range cmd.Channels {
		id, ok := strings.CutPrefix(ch, patientPrefix)
		if ok && !v.may(id) {
			c.fail(cmd.ID, ErrForbidden)
			c.bye(CloseForbidden, "a channel is not allowed", 0)
			return false
		}
		if c.h.o.Subscribed != nil {
			if !ok {
				id = ""
			}
			if err := c.h.o.Subscribed(ctx, *v, id); err != nil {
				c.fail(cmd.ID, err)
				return true
			}
		}
	}
	// Not while a catch-up still uses the channels of before.
	c.syncMu.Lock()
	c.mu.Lock()
	before := c.wantsReadings()
	added := 0
	for _, ch := range cmd.Channels {
		if id, ok := strings.CutPrefix(ch, patientPrefix); ok {
			if _, has := c.patients[id]; !has {
				added++
			}
		}
	}
	if len(c.patients)+added > maxChannels {
		c.mu.Unlock()
		c.syncMu.Unlock()
		c.fail(cmd.ID, bad("a connection has at most %d patient channels", maxChannels))
		return true
	}
	for _, ch := range cmd.Channels {
		switch id, ok := strings.CutPrefix(ch, patientPrefix); {
		case ok:
			if c.patients == nil {
				c.patients = map[string]struct{}{}
			}
			c.patients[id] = struct{}{}
		case ch == "alerts":
			c.alerts = true
		default:
			c.readings = true
		}
	}
	c.live = false
	hasAlerts := c.alerts || len(c.patients) > 0
	c.countReadings(before)
	// Within the lock, so that no reading of the new channels comes before the answer.
	need := c.enqueueLocked(text(subscribedFrame{"subscribed", cmd.ID, c.channels(), c.h.epoch, c.h.seq.Load()}))
	c.mu.Unlock()
	c.syncMu.Unlock()
	if need {
		c.h.kick(c)
	}
	if hasAlerts {
		c.sync(c.h.ctx, cmd.From, false)
	}
	return true
}

func (c *client) unsubscribe(cmd command) {
	c.mu.Lock()
	before := c.wantsReadings()
	for _, ch := range cmd.Channels {
		switch id, ok := strings.CutPrefix(ch, patientPrefix); {
		case ok:
			delete(c.patients, id)
		case ch == "alerts":
			c.alerts = false
		default:
			c.readings = false
		}
	}
	channels := c.channels()
	c.countReadings(before)
	c.mu.Unlock()
	c.send(text(subscribedFrame{"subscribed", cmd.ID, channels, c.h.epoch, c.h.seq.Load()}))
}

// channels lists the subscription in a fixed order. Called with mu held.
func (c *client) channels() []string {
	out := []string{}
	if c.alerts {
		out = append(out, "alerts")
	}
	for id := range c.patients {
		out = append(out, patientPrefix+id)
	}
	if c.readings {
		out = append(out, "readings")
	}
	slices.Sort(out)
	return out
}

func (c *client) wantsReadings() bool { return c.readings || len(c.patients) > 0 }

func (c *client) countReadings(before bool) {
	switch after := c.wantsReadings(); {
	case after && !before:
		c.h.readers.Add(1)
	case before && !after:
		c.h.readers.Add(-1)
	}
}

// wants reports whether an alert of the patient belongs to the subscription. Called with mu held.
func (c *client) wants(patient string) bool {
	if !c.alerts {
		if _, ok := c.patients[patient]; !ok {
			return false
		}
	}
	return c.viewer.may(patient)
}

// sync brings the client level with the feed: from where it says it was, or with a snapshot (after a gap frame when
// it asked for more than there is, or when gap is set). There is neither a hole nor a duplicate at the seam: the
// dispatcher stores Hub.seq before it looks at c.live under mu, and here c.live is set under mu only when
// Hub.seq shows nothing beyond the cursor; whichever comes second sees the other's write.
func (c *client) sync(ctx context.Context, from *Position, gap bool) {
	c.syncMu.Lock()
	defer c.syncMu.Unlock()
	c.mu.Lock()
	if c.closing || !(c.alerts || len(c.patients) > 0) {
		c.mu.Unlock()
		return
	}
	last := c.cursor
	c.live = false
	c.mu.Unlock()
	var cursor uint64
	resumed := false
	if from != nil {
		last = from.Seq
		now := max(c.h.seq.Load(), c.h.o.History.Seq())
		if from.Epoch == c.h.epoch && from.Seq <= now && now-from.Seq <= c.h.o.MaxReplay {
			cursor, resumed = from.Seq, true
		} else {
			gap = true
		}
	}
	for {
		if !resumed {
			seq, ok := c.sendSnapshot(ctx, last, gap)
			if !ok {
				return
			}
			cursor, resumed = seq, true
		}
		c.mu.Lock()
		c.cursor = cursor
		end := c.h.seq.Load()
		if cursor >= end {
			c.live = !c.closing
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		page, err := c.h.since(ctx, cursor)
		if errors.Is(err, ErrGone) {
			last, gap, resumed = cursor, true, false
			continue
		}
		if err != nil {
			c.unable(err)
			return
		}
		if len(page) == 0 {
			cursor = end // nothing was committed in between
			continue
		}
		if !c.offerPage(page) {
			return
		}
		cursor = page[len(page)-1].seq
	}
}

// unable ends a connection that cannot be told the truth now; it comes back and asks again.
func (c *client) unable(err error) {
	if c.h.ctx.Err() == nil {
		c.h.o.Log.Warn().Err(err).Msg("a feed client could not be brought level and was sent away to try again")
	}
	c.bye(CloseShutdown, "the history cannot be read now", 2*time.Second)
}

func (c *client) sendSnapshot(ctx context.Context, last uint64, gap bool) (uint64, bool) {
	seq, alerts, all, err := c.h.snapshot(ctx)
	if err != nil {
		c.unable(err)
		return 0, false
	}
	c.mu.Lock()
	f := all
	if !c.alerts || c.viewer.May != nil {
		f = encodeSnapshot(c.h.epoch, seq, alerts, c.wants)
	}
	var need bool
	if gap {
		need = c.put(text(gapFrame{"gap", last, seq}))
	}
	// A snapshot may be larger than the bound: there is one at a time, and it is shared or replaces the queue.
	need = c.put(f.unbounded()) || need
	c.mu.Unlock()
	if need {
		c.h.kick(c)
	}
	return seq, true
}

// offerPage queues a page of a catch-up and waits until there is room for the next.
func (c *client) offerPage(page []*frame) bool {
	c.mu.Lock()
	need := false
	for _, f := range page {
		if c.wants(f.patient) {
			need = c.put(f.unbounded()) || need
		}
	}
	var wait chan struct{}
	if c.bytes+c.ahead > c.h.o.MaxQueue/2 && !c.closing {
		wait = make(chan struct{})
		c.drained = wait
	}
	ok := !c.closing
	c.mu.Unlock()
	if need {
		c.h.kick(c)
	}
	if wait != nil {
		<-wait // closed by the writer when the queue is empty or the connection is at its end
	}
	return ok
}

// put queues without a bound. It reports whether the client must be handed to the writers. Called with mu held.
func (c *client) put(f *frame) bool {
	if c.closing || c.ended {
		return false
	}
	c.queue = append(c.queue, f)
	if f.free {
		c.ahead += len(f.b)
	} else {
		c.bytes += len(f.b)
	}
	if c.writing {
		return false
	}
	c.writing = true
	return true
}

// enqueue queues a frame within the bound; over it, the client is sent away as too slow.
func (c *client) enqueue(f *frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enqueueLocked(f)
}

func (c *client) enqueueLocked(f *frame) bool {
	if c.bytes > 0 && c.bytes+len(f.b) > c.h.o.MaxQueue {
		return c.byeLocked(CloseSlow, "too slow", 2*time.Second)
	}
	return c.put(f)
}

func (c *client) send(f *frame) {
	if c.enqueue(f) {
		c.h.kick(c)
	}
}

func (c *client) offerAlert(f *frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.live || f.seq <= c.cursor {
		return false
	}
	c.cursor = f.seq
	return c.wants(f.patient) && c.enqueueLocked(f)
}

func (c *client) offerReadings(keys []readingKey, latest []*frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wantsReadings() || c.closing || c.ended {
		return false
	}
	need := false
	for i, f := range latest {
		if !c.readings {
			if _, ok := c.patients[f.patient]; !ok {
				continue
			}
		}
		if !c.viewer.may(f.patient) {
			continue
		}
		if at, ok := c.latestAt[keys[i]]; ok {
			c.latest[at] = f
			continue
		}
		if len(c.latest) >= maxLatest {
			c.h.m.dropped.Inc()
			continue
		}
		if c.latestAt == nil {
			c.latestAt = map[readingKey]int{}
		}
		c.latestAt[keys[i]] = len(c.latest)
		c.latest = append(c.latest, f)
		if !c.writing {
			c.writing, need = true, true
		}
	}
	return need
}

func (c *client) offerHeartbeat(level, other *frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.viewer == nil {
		return false
	}
	if c.live && c.cursor <= c.h.seq.Load() {
		c.cursor = c.h.seq.Load()
		return c.enqueueLocked(level)
	}
	return c.enqueueLocked(other)
}

// bye queues the goodbye.
func (c *client) bye(code int, reason string, retry time.Duration) {
	c.mu.Lock()
	need := c.byeLocked(code, reason, retry)
	c.mu.Unlock()
	if need {
		c.h.kick(c)
	}
}

func (c *client) byeLocked(code int, reason string, retry time.Duration) bool {
	if c.closing || c.ended {
		return false
	}
	c.h.m.closed.WithLabelValues(strconv.Itoa(code)).Inc()
	if code == CloseSlow {
		for _, f := range c.queue {
			if f.seq != 0 {
				c.h.m.dropped.Inc()
			}
		}
		clear(c.queue)
		c.queue, c.bytes, c.ahead = c.queue[:0], 0, 0
	}
	c.latest, c.latestAt = nil, nil
	c.live = false
	need := c.put(encodeBye(code, reason, retry))
	c.closing = true
	c.byeBy = time.Now().Add(c.h.o.Farewell)
	// A writer that waits for this client must not wait longer than the farewell. A larger socket buffer makes
	// room for the goodbye even when the client reads nothing: the kernel keeps it for when the client does.
	if tcp, ok := c.nc.(*net.TCPConn); ok && code == CloseSlow {
		tcp.SetWriteBuffer(4 * c.h.o.SendBuffer)
	}
	c.nc.SetWriteDeadline(c.byeBy)
	c.nc.SetReadDeadline(c.byeBy.Add(c.h.o.Farewell))
	c.release()
	return need
}

// release lets a waiting catch-up go on. Called with mu held.
func (c *client) release() {
	if c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// take returns the next bytes to write and what they carry, nil when there is nothing. Called with mu held.
func (c *client) take(w *writer) []byte {
	w.born = w.born[:0]
	if c.rest != nil {
		b := c.rest
		c.rest = nil
		return b
	}
	n, size := 0, 0
	for n < len(c.queue) && (n == 0 || size+len(c.queue[n].b) <= writeChunk) {
		size += len(c.queue[n].b)
		if c.queue[n].born != 0 {
			w.born = append(w.born, c.queue[n].born)
		}
		n++
	}
	m := 0
	for m < len(c.latest) && n == len(c.queue) && (n+m == 0 || size+len(c.latest[m].b) <= writeChunk) {
		size += len(c.latest[m].b)
		m++
	}
	var out []byte
	switch {
	case n+m == 0:
		return nil
	case n+m == 1 && n == 1:
		out = c.queue[0].b
	case n+m == 1:
		out = c.latest[0].b
	default:
		w.buf = w.buf[:0]
		for _, f := range c.queue[:n] {
			w.buf = append(w.buf, f.b...)
		}
		for _, f := range c.latest[:m] {
			w.buf = append(w.buf, f.b...)
		}
		out = w.buf
	}
	for _, f := range c.queue[:n] {
		if f.free {
			c.ahead -= len(f.b)
		} else {
			c.bytes -= len(f.b)
		}
	}
	c.queue = slices.Delete(c.queue, 0, n)
	if len(c.queue) == 0 {
		if cap(c.queue) > 16 {
			c.queue = nil
		}
		c.release()
	}
	if m > 0 {
		c.latest = slices.Delete(c.latest, 0, m)
		if len(c.latest) == 0 {
			c.latest, c.latestAt = nil, nil
		} else {
			for k, i := range c.latestAt {
				if i < m {
					delete(c.latestAt, k)
				} else {
					c.latestAt[k] = i - m
				}
			}
		}
	}
	return out
}

// flush empties the queue without waiting; when the socket is full a goroutine of the client's own takes over.
func (c *client) flush(w *writer) {
	if c.raw == nil {
		c.h.conns.Go(c.drain)
		return
	}
	for {
		c.mu.Lock()
		w.out = c.take(w)
		if w.out == nil {
			c.idle()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		shared := len(w.buf) == 0 || &w.out[0] != &w.buf[0]
		w.n, w.err = 0, nil
		if err := c.raw.Write(w.try); err != nil && w.err == nil {
			w.err = err
		}
		if isTimeout(w.err) {
			w.err = nil // a deadline left over from an earlier wait; drain sets a new one
		}
		if w.err != nil {
			c.broken()
			return
		}
		if w.n < len(w.out) {
			rest := w.out[w.n:]
			if !shared {
				rest = slices.Clone(rest)
			}
			c.mu.Lock()
			c.rest = rest
			c.mu.Unlock()
			c.h.conns.Go(c.drain)
			return
		}
		c.observe(w)
	}
}

func (c *client) observe(w *writer) {
	now := c.h.now()
	for _, b := range w.born {
		c.h.m.latency.Observe(float64(now-b) / 1e9)
	}
	c.h.m.delivered.Add(float64(len(w.born)))
}

// drain empties the queue of a client whose socket is full, waiting for it; the writing flag is its own.
func (c *client) drain() {
	var w writer
	for {
		c.mu.Lock()
		out := c.take(&w)
		if out == nil {
			c.nc.SetWriteDeadline(time.Time{})
			c.idle()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for len(out) > 0 {
			c.mu.Lock()
			by := c.byeBy
			if !c.closing {
				by = time.Now().Add(c.h.o.StallAfter)
			}
			c.nc.SetWriteDeadline(by)
			c.mu.Unlock()
			n, err := c.nc.Write(out[:min(len(out), writeChunk)])
			out = out[n:]
			if err == nil {
				continue
			}
			_, plain := c.nc.(*net.TCPConn) // a TLS connection is spoilt by a write that timed out
			c.mu.Lock()
			again := plain && isTimeout(err) && (!c.closing || time.Now().Before(c.byeBy))
			if again && !c.closing {
				c.byeLocked(CloseSlow, "too slow", 2*time.Second)
			}
			c.mu.Unlock()
			if !again {
				c.broken()
				return
			}
		}
		c.observe(&w)
	}
}

// idle ends a turn of writing: everything is out. Called with mu held.
func (c *client) idle() {
	c.writing = false
	c.release()
	switch {
	case c.ended:
		c.nc.Close()
		if c.left != nil {
			close(c.left)
			c.left = nil
		}
	case c.closing:
		if tcp, ok := c.nc.(*net.TCPConn); ok { // a TLS close_notify could wait
			tcp.CloseWrite() // an error shows in the reader as well
		}
		c.nc.SetReadDeadline(time.Now().Add(c.h.o.Farewell))
	}
}

// broken ends a connection that cannot be written to; the reader notices.
func (c *client) broken() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.queue {
		if f.seq != 0 {
			c.h.m.dropped.Inc()
		}
	}
	c.writing, c.closing, c.live = false, true, false
	c.queue, c.bytes, c.ahead, c.latest, c.latestAt, c.rest = nil, 0, 0, nil, nil, nil
	c.release()
	c.nc.Close()
	if c.left != nil {
		close(c.left)
		c.left = nil
	}
}

// end is the reader's last act: the connection is closed by whoever is done last.
func (c *client) end() {
	c.h.remove(c)
	c.mu.Lock()
	before := c.wantsReadings()
	c.alerts, c.readings, c.patients = false, false, nil
	c.countReadings(before)
	c.live, c.ended = false, true
	if !c.closing {
		c.closing, c.byeBy = true, time.Now().Add(c.h.o.Farewell)
		c.nc.SetWriteDeadline(c.byeBy)
	}
	c.release()
	var wait chan struct{}
	if c.writing {
		wait = make(chan struct{})
		c.left = wait
	} else {
		c.nc.Close()
	}
	known := c.viewer != nil
	c.mu.Unlock()
	if !known {
		c.h.strangers.Add(-1)
	}
	if wait != nil {
		<-wait // at most a farewell: the write deadline is set
	}
}

// renewed applies the answer about a viewer's rights.
func (c *client) renewed(v *Viewer, err error) {
	c.mu.Lock()
	if c.viewer == nil || c.closing {
		c.mu.Unlock()
		return
	}
	// Fail closed: rights that could not be confirmed for long have ended.
	if err != nil && !errors.Is(err, ErrUnauthorised) && !errors.Is(err, ErrForbidden) && time.Since(c.renewal) < 5*c.h.o.RenewEvery {
		c.mu.Unlock()
		return
	}
	var need, again bool
	switch {
	case errors.Is(err, ErrForbidden):
		need = c.byeLocked(CloseForbidden, "not allowed any more", 0)
	case err != nil:
		need = c.byeLocked(CloseAuth, "the sign-in has ended", 0)
	default:
		again = c.viewer.Scope != v.Scope
		c.viewer, c.renewal = v, time.Now()
		for id := range c.patients {
			if !v.may(id) {
				need = c.byeLocked(CloseForbidden, "a channel is not allowed any more", time.Second)
				break
			}
		}
		again = again && !c.closing
	}
	c.mu.Unlock()
	if need {
		c.h.kick(c)
	}
	if again {
		c.h.resync(c)
	}
}
