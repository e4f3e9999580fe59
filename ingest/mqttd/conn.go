package mqttd

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/vitals"
)

// buffer is what one read brings; pooled, so that only connections that are just being read hold one.
type buffer struct{ data []byte }

// conn is one connection. Fields without a mutex belong to its reading goroutine once that has started.
type conn struct {
	s   *Server
	ep  *endpoint
	nc  net.Conn        // as accepted; deadlines go here
	rw  net.Conn        // with what lies above it; nc itself on plain TCP
	tls *tls.Conn       // nil without TLS
	src stream          // rw where bytes pass through more than a socket, else nil
	raw syscall.RawConn // nil: no socket of our own to wait on (streams, pipes)
	try func(fd uintptr) bool

	addr      netip.Addr
	key       netip.Addr // what limits per address count
	counted   bool       // whether they apply
	onAddress bool       // counted for key; Server.mu
	proxied   bool       // a load balancer says first for whom it speaks
	deadline  time.Time  // of an answered CONNECT

	// Outcome of await.
	in    *buffer
	inLen int
	inErr error
	one   [1]byte

	partial   []byte // the beginning of a packet whose rest is not there yet
	readLimit int    // bytes per read

	version     packet.Version
	device      vitals.DeviceID
	up          string   // "vw/v1/{device}/up/"
	format      string   // the last format that was neither readings nor status, to spare a copy
	foreign     string   // the last topic that was not the device's own, to spare a copy
	aliases     []string // by number less 1; "" is not set
	topic       []byte   // what an alias stands for, reused
	claimed     *session
	released    chan struct{} // closed when the turn on the session is over; nil: nobody waits for it; guarded by Server.mu
	cur         *group        // being dealt with; its answers are not settled
	will        *will
	expiry      uint32 // of the session, in seconds
	assigned    bool   // CONNECT had no client id
	noExpiry    bool   // CONNECT asked for a session that ends with the connection
	problemInfo bool   // reason strings wanted on acknowledgements
	maxSend     uint32 // the client's maximum packet size
	maxInflight int    // its receive maximum

	idle   time.Duration // one and a half keep-alive times
	slack  time.Duration // how late keep-alive may fire, so that not every read sets the deadline
	last   time.Time     // when the last whole packet was dealt with
	armed  time.Time     // the last that the deadline was computed from
	graced bool          // the second look after a deadline was used, see next
	rate   *allowance    // nil: none

	kicked atomic.Pointer[ending]
	wake   chan struct{} // closed by kick; nil unless there is a rate to wait for

	wmu        sync.Mutex // held while writing
	writeUntil time.Time

	mu     sync.Mutex // never held while writing
	sess   *session   // nil before CONNACK and when the turn is over
	queue  []byte     // whole packets that wait for the drain
	drains bool       // a drain goroutine is at work
	looks  bool       // and shall look for what waits in the state database
	unsaid bool       // a subscription is made whose SUBACK is not written yet: what it asks for comes after it
}

func newConn(s *Server, e *endpoint, nc net.Conn) *conn {
	c := &conn{s: s, ep: e, nc: nc, rw: nc, deadline: time.Now().Add(e.timeout()), maxSend: packet.MaxRemaining, problemInfo: true, maxInflight: 65535}
	if e.tls == nil && e.ws == nil {
		if c.raw = rawConn(nc); c.raw != nil {
			c.try = c.tryRead
		}
	}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.setAddr(a.AddrPort().Addr())
	} else if ap, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		c.setAddr(ap.Addr())
	}
	c.proxied = s.isProxy(c.addr)
	if s.cfg.MessagesPerMinute > 0 {
		c.wake = make(chan struct{})
	}
	return c
}

// lastWrite is what a client gets for reading its last packets.
const lastWrite = time.Second

// kick ends the connection from outside: its own goroutine finishes what it is doing, says goodbye and closes.
// kick waits for nothing.
func (c *conn) kick(e *ending) {
	if !c.kicked.CompareAndSwap(nil, e) {
		return
	}
	if c.wake != nil {
		close(c.wake)
	}
	now := time.Now()
	c.nc.SetWriteDeadline(now.Add(lastWrite)) // a write to a client that does not read must not hold it up
	c.nc.SetReadDeadline(now)                 // the goroutine looks at kicked after setting any deadline of its own
}

// start is the first goroutine of a connection: CONNECT. What it needs of stack goes with it; the goroutine that
// waits for the device afterwards starts small.
func (c *conn) start() {
	end := c.guard((*conn).open)
	if end == nil {
		end = c.guard((*conn).handshake)
	}
	<-c.ep.pending
	if end == nil {
		c.s.wg.Go(c.run)
		return
	}
	if end == endPanic {
		c.refused("panic", end)
	}
	c.s.release(c, end)
	c.close(end)
	c.s.forget(c)
}

// run is the goroutine of a connected device.
func (c *conn) run() {
	end := c.guard((*conn).loop)
	c.kick(end)     // a write down that hangs must not hold up the end
	c.farewell(end) // before the device's next connection hears yes [MQTT-3.1.4-3]
	c.s.release(c, end)
	if end.spread {
		c.s.spread(c.s.cfg.CommitSpread)
	}
	c.close(end)
	c.s.m.Disconnects.WithLabelValues(end.reason).Inc()
	c.note(end)
	c.s.forget(c)
}

// guard keeps a panic in its connection. The panic's value may hold payload, so only its place is logged.
func (c *conn) guard(f func(*conn) *ending) (end *ending) {
	defer c.s.guard(func() vitals.DeviceID { return c.device }, &end)
	return f(c)
}

func (s *Server) guard(device func() vitals.DeviceID, end **ending) {
	r := recover()
	if r == nil {
		return
	}
	s.m.Panics.Inc()
	e := s.loud.Error().Str("device_id", string(device())).Bytes("stack", debug.Stack())
	if err, ok := r.(runtime.Error); ok {
		e = e.Str("panic", err.Error())
	}
	e.Msg("panic in an mqtt connection, which is closed; report the stack")
	*end = endPanic
}

func (c *conn) note(end *ending) {
	e := c.s.log.Debug()
	if end.loud {
		e = c.s.loud.Warn()
	}
	e.Str("device_id", string(c.device)).Str("reason", end.reason).Str("detail", end.text).Msg("mqtt connection ended")
}

// loop serves a connected device until its end. It and what it calls to wait keep a shallow stack: this is where
// ten thousand idle devices stand.
func (c *conn) loop() *ending {
	if data := c.partial; len(data) > 0 { // sent together with CONNECT
		c.partial = nil
		if end := c.handle(data, nil); end != nil {
			return end
		}
	}
	for {
		if end := c.next(); end != nil {
			return end
		}
		b, n := c.in, c.inLen
		c.in = nil
		if end := c.handle(b.data[:n], b); end != nil {
			return end
		}
	}
}

// next waits for bytes. Keep-alive counts from the end of the last whole packet's treatment, so that neither a slow
// commit of ours ends a connection nor a packet that trickles in byte by byte keeps it [MQTT-3.1.2-22].
func (c *conn) next() *ending {
	if c.last.Sub(c.armed) > c.slack {
		c.nc.SetReadDeadline(c.last.Add(c.idle + c.slack))
		c.armed = c.last
	}
	for {
		if end := c.kicked.Load(); end != nil {
			return end
		}
		err := c.await()
		if err == nil {
			return nil
		}
		if end := c.kicked.Load(); end != nil {
			return end
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return endGone
		}
		if c.graced {
			return endKeepAlive
		}
		// The deadline may have passed because this process did not get to run: look once whether bytes are there.
		c.graced = true
		c.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		c.armed = time.Time{}
	}
}

// awaitByte waits where there is no socket to wait on. No packet is shorter than two bytes, so after the first byte
// another read is due in any case, and the buffer is taken only then.
func (c *conn) awaitByte() error {
	if _, err := c.rw.Read(c.one[:]); err != nil {
		return err
	}
	b := c.s.buffers.Get().(*buffer)
	n := copy(b.data, c.partial)
	b.data[n] = c.one[0]
	n++
	m, err := c.rw.Read(b.data[n:c.readEnd(n, len(b.data))])
	if m == 0 && err != nil {
		c.s.buffers.Put(b)
		return err
	}
	c.partial, c.in, c.inLen = nil, b, n+m
	return nil
}

// farewell tells a 5.0 client why its connection ends [MQTT-3.14.2-3]; 3.1.1 servers have no DISCONNECT.
func (c *conn) farewell(end *ending) {
	if !end.tell || c.version != packet.V5 {
		return
	}
	d := packet.Disconnect{Code: end.code}
	if end.text != "" {
		d.Props.SetData(packet.ReasonString, []byte(end.text))
	}
	if ref := c.s.cfg.ServerReference; ref != "" && end.code == packet.ServerShuttingDown { // 3.14.2.2.5
		d.Props.SetData(packet.ServerReference, []byte(ref))
	}
	b, err := d.Append(nil, packet.V5)
	if err == nil && len(b) > int(c.maxSend) {
		d.Props.Reset()
		b, err = d.Append(nil, packet.V5)
	}
	if err == nil {
		c.write(b)
	}
}

// close closes; safe also before CONNECT.
func (c *conn) close(end *ending) {
	if end.tell {
		c.linger()
	}
	c.rw.Close()
}

// linger lets the client read what it was told: closing a socket with unread bytes resets it, and a reset may
// overtake the last packet.
func (c *conn) linger() {
	cw, ok := c.rw.(interface{ CloseWrite() error })
	if !ok || cw.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 1024)
	for range 1024 {
		if _, err := c.rw.Read(b); err != nil {
			return
		}
	}
}

// write writes whole packets.
func (c *conn) write(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	now := time.Now()
	if c.kicked.Load() == nil && c.writeUntil.Sub(now) < c.s.cfg.WriteTimeout { // not on every write
		c.writeUntil = now.Add(2 * c.s.cfg.WriteTimeout)
		c.nc.SetWriteDeadline(c.writeUntil)
	}
	if c.kicked.Load() != nil { // also when kick came in between
		c.nc.SetWriteDeadline(now.Add(lastWrite))
	}
	_, err := c.rw.Write(b)
	return err
}

// throttle waits until the device is within its rate again.
func (c *conn) throttle(messages int) {
	if c.rate == nil || messages == 0 {
		return
	}
	wait := c.rate.take(messages, time.Now(), c.s.rates.perMinute)
	if wait == 0 {
		return
	}
	c.s.m.Throttled.Inc()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.wake:
	}
	c.last = time.Now()
}

func (c *conn) tlsState() *tls.ConnectionState {
	tc := c.tls
	if tc == nil { // or from a listener of somebody else's
		tc, _ = c.nc.(*tls.Conn)
	}
	if tc == nil {
		return nil
	}
	st := tc.ConnectionState()
	return &st
}

func administrative(reason string) *ending {
	return &ending{reason: "administrative", tell: true, code: packet.AdministrativeAction, text: string(cut(reason))}
}
