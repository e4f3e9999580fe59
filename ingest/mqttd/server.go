package mqttd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/vitals"
)

// Deps are the front door's neighbours.
type Deps struct {
	Intake Intake
	Auth   Authenticator
	Status StatusSink  // nil: up/status is acknowledged and forgotten
	Acks   AckSink     // nil: up/ack is acknowledged and forgotten
	Topics Topics      // nil: a device publishes below its own up/ only
	TLS    *tls.Config // for Config.TLSListen and WebSocketListen, see Certificates
	// Listen makes the listeners, known by their names; nil: net.Listen. A supervisor's sockets come in here.
	Listen   func(name, addr string) (net.Listener, error)
	Sessions *sessions.Store // nil: sessions end with the process, and no message waits for a device
	Metrics  *Metrics        // nil: counted, but nobody sees it
	Log      zerolog.Logger
}

// Server is the front door. Use New, Start, Shutdown, each once.
type Server struct {
	cfg  Config
	deps Deps
	m    *Metrics
	log  zerolog.Logger
	loud zerolog.Logger // warnings that strangers can cause, sampled

	buffers sync.Pool // *buffer
	groups  sync.Pool // *group
	logins  *logins
	rates   rates

	handshakes chan struct{} // one entry per TLS handshake that computes
	queued     atomic.Int64  // handshakes that wait to compute
	maxConns   int           // Config.MaxConnections, or what file descriptors allow
	busyUntil  atomic.Int64  // Unix ns; see stalled

	ctx      context.Context // ends when Shutdown's patience does
	cancel   context.CancelFunc
	stopping chan struct{} // closed by Shutdown
	// accepting ends at the same time.
	accepting     context.Context
	stopAccepting context.CancelFunc
	wg            sync.WaitGroup
	commitBy      atomic.Pointer[commitBy]

	mu        sync.Mutex
	started   bool
	stopped   bool
	endpoints []*endpoint
	conns     map[*conn]struct{}
	sessions  map[vitals.DeviceID]*session
	restored  bool
	addresses map[netip.Addr]int
}

// New returns a server that does nothing until Start or Serve.
func New(cfg Config, deps Deps) *Server {
	s := &Server{cfg: cfg, deps: deps, m: deps.Metrics, log: deps.Log,
		loud:     deps.Log.Sample(&zerolog.BurstSampler{Burst: 20, Period: time.Minute}),
		stopping: make(chan struct{}), conns: map[*conn]struct{}{}, sessions: map[vitals.DeviceID]*session{},
		addresses: map[netip.Addr]int{},
		logins:    newLogins(&cfg), rates: rates{perMinute: float64(cfg.MessagesPerMinute), m: map[vitals.DeviceID]*allowance{}},
		maxConns: cfg.MaxConnections}
	n := cfg.MaxHandshakes
	if n == 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	s.handshakes = make(chan struct{}, n)
	s.accepting, s.stopAccepting = context.WithCancel(context.Background())
	if s.m == nil {
		s.m = NewMetrics()
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	size := max(cfg.MaxReadBatch, cfg.MaxPacketBytes, cfg.MaxConnectBytes)
	s.buffers.New = func() any { return &buffer{data: make([]byte, size)} }
	s.groups.New = func() any { return &group{batch: deps.Intake.NewBatch()} }
	return s
}

// Start validates the configuration, listens, and serves in the background.
func (s *Server) Start() error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	if s.deps.Intake == nil || s.deps.Auth == nil {
		return errors.New("front door without intake or authenticator; set both in Deps")
	}
	if s.cfg.TLSListen != "" && s.deps.TLS == nil {
		return errors.New("TLS listener without a certificate; set cert_file and key_file, or leave the TLS address empty")
	}
	if err := s.restore(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.stopped {
		return errors.New("front door was already started; make a new one")
	}
	s.started = true
	s.fitFiles()
	wsTLS := s.deps.TLS
	if s.cfg.WebSocket.Plain {
		wsTLS = nil
	}
	var es []*endpoint
	for _, l := range []struct {
		name, addr string
		limits     ListenerLimits
		tls        *tls.Config
		ws         *WebSocketOptions
	}{
		{ListenerTCP, s.cfg.Listen, s.cfg.TCPLimits, nil, nil},
		{ListenerTLS, s.cfg.TLSListen, s.cfg.TLSLimits, s.deps.TLS, nil},
		{ListenerWebSocket, s.cfg.WebSocketListen, s.cfg.WebSocketLimits, wsTLS, &s.cfg.WebSocket},
	} {
		if l.addr == "" {
			continue
		}
		listen := s.deps.Listen
		if listen == nil {
			listen = func(_, addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
		}
		nl, err := listen(l.name, l.addr)
		if err != nil {
			for _, e := range es {
				e.l.Close()
			}
			return fmt.Errorf("listen for MQTT on %s (take another address or stop what uses it): %w", l.addr, err)
		}
		e := s.newEndpoint(nl, l.name, l.limits)
		e.tls, e.ws = l.tls, l.ws
		es = append(es, e)
	}
	s.endpoints = append(s.endpoints, es...)
	for _, e := range es {
		s.log.Info().Str("address", e.l.Addr().String()).Str("listener", e.name).Bool("tls", e.tls != nil).Msg("mqtt listening")
		if a, ok := e.l.Addr().(*net.TCPAddr); ok && e.tls == nil && !a.IP.IsLoopback() {
			s.log.Warn().Str("address", a.String()).Msg("the front door speaks plain MQTT where others can reach it: set mqtt.embedded.tls, or let only a proxy with TLS come here")
		}
		s.wg.Go(func() { s.accept(e) })
	}
	return nil
}

// Addr is the address of the first listener, nil before Start.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.endpoints) == 0 {
		return nil
	}
	return s.endpoints[0].l.Addr()
}

// ListenerAddr is the address of the named listener, nil when there is none.
func (s *Server) ListenerAddr(name string) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.endpoints {
		if e.name == name {
			return e.l.Addr()
		}
	}
	return nil
}

// Serve takes connections from l until Shutdown, as from the TCP listener; it closes l. Several may be served at once.
func (s *Server) Serve(l net.Listener) error {
	if err := s.restore(); err != nil {
		l.Close()
		return err
	}
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		l.Close()
		return net.ErrClosed
	}
	e := s.newEndpoint(l, ListenerTCP, s.cfg.TCPLimits)
	s.endpoints = append(s.endpoints, e)
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	s.accept(e)
	return nil
}

// DisconnectDevice ends a device's connection, for revoked credentials and the like; what it had sent before is
// still committed and acknowledged. It reports whether the device was connected. reason is told to 5.0 clients.
func (s *Server) DisconnectDevice(device vitals.DeviceID, reason string) bool {
	c := s.find(device)
	if c == nil {
		return false
	}
	c.kick(administrative(reason))
	return true
}

// Shutdown stops accepting, lets groups in flight commit and be acknowledged, tells 5.0 clients 0x8B and closes.
// When ctx ends first, commits are cancelled and connections cut; it returns ctx's error then.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
		s.stopAccepting()
	}
	for _, e := range s.endpoints {
		e.l.Close()
	}
	for c := range s.conns {
		c.kick(endShutdown)
	}
	for _, se := range s.sessions {
		if se.away != nil {
			se.away.timer.Stop()
		}
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	defer s.cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.nc.Close()
	}
	s.mu.Unlock()
	// An Intake that obeys its context lets go now; one that does not must not hold up the process for ever.
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	return ctx.Err()
}

// commitBy is a deadline shared by all commits that start within commitSlice, so that a group costs no timer.
type commitBy struct {
	ctx    context.Context
	cancel context.CancelFunc // called by nobody: the deadline does it
	from   time.Time
}

const commitSlice = 200 * time.Millisecond

// commitContext ends between CommitTimeout and CommitTimeout+commitSlice from now.
func (s *Server) commitContext(now time.Time) context.Context {
	if b := s.commitBy.Load(); b != nil && now.Sub(b.from) < commitSlice {
		return b.ctx
	}
	b := &commitBy{from: now}
	b.ctx, b.cancel = context.WithTimeout(s.ctx, s.cfg.CommitTimeout+commitSlice)
	s.commitBy.Store(b)
	return b.ctx
}
