package mqttd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// ListenerLimits are the bounds of one listener for strangers.
type ListenerLimits struct {
	// MaxConnections of this listener; 0: only those of the whole door.
	MaxConnections int
	// MaxPending bounds the connections whose CONNECT was not answered yet. When it is reached nobody new is
	// accepted until one of them is through or out of time: who waits, waits in the kernel. From half of it on a
	// stranger has a quarter of ConnectTimeout.
	MaxPending int
	// AcceptPerSecond is how many connections are taken, with a burst of a tenth, so that those connected keep their
	// latency while thousands come back at once; 0: as fast as they come.
	AcceptPerSecond int
	// ConnectTimeout is the time from accept to an answered CONNECT, with PROXY header, TLS handshake, WebSocket
	// upgrade and login; 0: Config.ConnectTimeout.
	ConnectTimeout time.Duration
}

func (l *ListenerLimits) validate(name string) error {
	var errs []error
	if l.MaxConnections < 0 || l.MaxConnections > 10_000_000 {
		errs = append(errs, fmt.Errorf("%s max connections is %d; use 0 to 10000000", name, l.MaxConnections))
	}
	if l.MaxPending < 1 || l.MaxPending > 1_000_000 {
		errs = append(errs, fmt.Errorf("%s max pending is %d; use 1 to 1000000", name, l.MaxPending))
	}
	if l.AcceptPerSecond < 0 || l.AcceptPerSecond > 10_000_000 {
		errs = append(errs, fmt.Errorf("%s accept per second is %d; use 0 to 10000000", name, l.AcceptPerSecond))
	}
	if l.ConnectTimeout != 0 && (l.ConnectTimeout < time.Millisecond || l.ConnectTimeout > time.Hour) {
		errs = append(errs, fmt.Errorf("%s connect timeout is %s; use 1ms to 1h, or 0", name, l.ConnectTimeout))
	}
	return errors.Join(errs...)
}

// Names of the listeners: metric labels, and names of sockets that are handed over.
const (
	ListenerTCP       = "tcp"
	ListenerTLS       = "tls"
	ListenerWebSocket = "websocket"
)

// endpoint is one listener with what it puts in front of MQTT.
type endpoint struct {
	l       net.Listener
	name    string
	limits  ListenerLimits
	tls     *tls.Config       // nil: none
	ws      *WebSocketOptions // nil: none
	rate    *rate.Limiter     // nil: no bound
	pending chan struct{}     // one entry per connection before its CONNECT was answered

	open int // connections; Server.mu
}

func (s *Server) newEndpoint(l net.Listener, name string, limits ListenerLimits) *endpoint {
	if limits.ConnectTimeout == 0 {
		limits.ConnectTimeout = s.cfg.ConnectTimeout
	}
	e := &endpoint{l: l, name: name, limits: limits, pending: make(chan struct{}, max(1, limits.MaxPending))}
	if n := limits.AcceptPerSecond; n > 0 {
		e.rate = rate.NewLimiter(rate.Limit(n), n/10+1)
	}
	return e
}

// timeout is how long a stranger has who is accepted now.
func (e *endpoint) timeout() time.Duration {
	if len(e.pending) > cap(e.pending)/2 {
		return max(e.limits.ConnectTimeout/4, time.Millisecond)
	}
	return e.limits.ConnectTimeout
}

// admission waits until one more stranger may be taken in; false: the door closes.
func (s *Server) admission(e *endpoint) bool {
	select {
	case e.pending <- struct{}{}:
	default:
		s.m.AcceptWaits.WithLabelValues(e.name, "pending").Inc()
		select {
		case e.pending <- struct{}{}:
		case <-s.stopping:
			return false
		}
	}
	if e.tls != nil && !s.unhurried(e) {
		return false
	}
	if e.rate != nil && !e.rate.Allow() {
		s.m.AcceptWaits.WithLabelValues(e.name, "rate").Inc()
		if e.rate.Wait(s.accepting) != nil {
			return false
		}
	}
	return true
}

// maxQueued is how many handshakes may wait for a processor before nobody new is taken: who waits in the kernel costs
// nothing, and what was begun is finished before it is too late.
const maxQueued = 256

// unhurried waits until the handshakes that wait are few again.
func (s *Server) unhurried(e *endpoint) bool {
	if s.queued.Load() < maxQueued {
		return true
	}
	s.m.AcceptWaits.WithLabelValues(e.name, "handshakes").Inc()
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for s.queued.Load() >= maxQueued {
		select {
		case <-t.C:
		case <-s.stopping:
			return false
		}
	}
	return true
}

func (s *Server) accept(e *endpoint) {
	defer e.l.Close()
	wait := 5 * time.Millisecond
	for s.admission(e) {
		nc, err := e.l.Accept()
		if err == nil {
			wait = 5 * time.Millisecond
			s.admit(e, nc)
			continue
		}
		<-e.pending
		select {
		case <-s.stopping:
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, or the client was gone already: those connected go on.
		s.loud.Warn().Err(err).Msg("mqtt accept failed, trying again")
		select {
		case <-s.stopping:
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// admit applies the bounds for strangers and starts the connection's goroutine, which leaves e.pending.
func (s *Server) admit(e *endpoint, nc net.Conn) {
	c := newConn(s, e, nc)
	nc.SetDeadline(c.deadline)
	result := ""
	s.mu.Lock()
	switch {
	case s.stopped:
		result = "shutdown"
	case len(s.conns) >= s.maxConns:
		result = "too_many_connections"
	case e.limits.MaxConnections > 0 && e.open >= e.limits.MaxConnections:
		result = "too_many_on_listener"
	case !c.proxied && !s.countLocked(c):
		result = "too_many_from_address"
	default:
		s.conns[c] = struct{}{}
		e.open++
		s.m.Connections.Inc()
		s.m.ListenerConnections.WithLabelValues(e.name).Inc()
		s.wg.Go(c.start)
	}
	s.mu.Unlock()
	if result != "" {
		<-e.pending
		s.m.Connects.WithLabelValues(result).Inc()
		nc.Close()
	}
}

// countLocked counts c for its address, and reports whether it may be one more.
func (s *Server) countLocked(c *conn) bool {
	if !c.counted || s.cfg.MaxConnectionsPerAddress == 0 {
		return true
	}
	if s.addresses[c.key] >= s.cfg.MaxConnectionsPerAddress {
		return false
	}
	s.addresses[c.key]++
	c.onAddress = true
	return true
}

// forget takes a closed connection off the books.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.ep.open--
	if c.onAddress {
		if s.addresses[c.key]--; s.addresses[c.key] <= 0 {
			delete(s.addresses, c.key)
		}
	}
	s.m.Connections.Dec()
	s.m.ListenerConnections.WithLabelValues(c.ep.name).Dec()
}

// isProxy reports whether addr is a load balancer that must say for whom it speaks.
func (s *Server) isProxy(addr netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.ProxyProtocol, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// setAddr makes addr what limits and logins count.
func (c *conn) setAddr(addr netip.Addr) {
	c.addr = addr.Unmap()
	c.key = addressKey(c.addr)
	c.counted = c.addr.IsValid() && (c.s.cfg.LimitLoopback || !c.addr.IsLoopback())
}

// open deals with what comes before MQTT: PROXY header, TLS, WebSocket. All of it has c.deadline.
func (c *conn) open() *ending {
	if c.proxied {
		client, err := readProxy(c.nc)
		if err != nil {
			c.s.loud.Warn().Err(err).Str("address", c.addr.String()).Msg("connection from a load balancer refused; it must send the PROXY protocol, version 2")
			return c.refusedBefore("proxy_header", err)
		}
		if client.IsValid() {
			c.setAddr(client.Addr())
		} else { // the balancer itself
			c.counted = false
		}
		c.s.mu.Lock()
		ok := c.s.countLocked(c)
		c.s.mu.Unlock()
		if !ok {
			return c.refused("too_many_from_address", endRefused)
		}
	}
	if c.ep.tls == nil && c.ep.ws == nil {
		return nil
	}
	sock := newSocket(c.nc, &c.s.buffers)
	var st stream = sock
	if c.ep.tls != nil {
		begin := time.Now()
		sec := &secure{Conn: tls.Server(sock, c.ep.tls), sock: sock}
		if err := sec.handshake(&gate{places: c.s.handshakes, waiting: &c.s.queued, deadline: c.deadline, stop: c.s.stopping}); err != nil {
			return c.refusedBefore("tls_handshake", err)
		}
		c.deadline = c.deadline.Add(sock.waited)
		c.s.m.Handshake.Observe(time.Since(begin).Seconds())
		c.tls, st = sec.Conn, sec
	}
	if c.ep.ws != nil {
		ws, err := c.ep.ws.upgrade(st, c.s.cfg.MaxConnectBytes, c.s.cfg.WriteTimeout)
		if err != nil {
			return c.refusedBefore("websocket_upgrade", err)
		}
		st = ws
	}
	c.src, c.rw = st, st
	return nil
}

// refusedBefore tells being slow and being cut off from being wrong.
func (c *conn) refusedBefore(result string, err error) *ending {
	switch {
	case c.kicked.Load() != nil || errors.Is(err, net.ErrClosed):
		result = "shutdown"
	case isTimeout(err):
		result = "timeout"
	}
	return c.refused(result, endRefused)
}
