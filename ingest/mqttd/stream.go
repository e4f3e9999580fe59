package mqttd

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stream is a connection that is waited on without a buffer, and then gives what is there. Reads have one goroutine.
type stream interface {
	net.Conn
	// ready waits until take has something to look at, or for the read deadline. It holds no buffer of ours.
	ready() error
	// take reads what is there. 0 without an error: not a whole record yet, wait again.
	take(p []byte) (int, error)
	// pending reports whether take has something to look at already.
	pending() bool
}

// errNotYet is how take learns through layers of others' code that the socket is empty. It is temporary, so that
// crypto/tls keeps the part of a record that it has.
var errNotYet error = notYet{}

type notYet struct{}

func (notYet) Error() string   { return "nothing to read yet" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

// socket reads ahead into a pooled buffer: one system call brings all the small records that are there.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil: no descriptor to wait on
	try func(fd uintptr) bool

	from      *sync.Pool // of buffers to read into
	ahead     *buffer    // nil: nothing read ahead
	aheadFrom *sync.Pool
	off, end  int
	err       error
	eager     bool // an empty socket is errNotYet and not waited for

	gate   *gate // see secure.handshake; nil: none
	passed bool  // holds a place in gate
	waited time.Duration
}

func newSocket(nc net.Conn, from *sync.Pool) *socket {
	s := &socket{Conn: nc, raw: rawConn(nc), from: from}
	if s.raw != nil {
		s.try = s.tryRead
	}
	return s
}

// rawConn is the descriptor of nc where it is a socket itself: a wrapper may have read ahead.
func rawConn(nc net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, _ = nc.SyscallConn()
	case *net.UnixConn:
		raw, _ = nc.SyscallConn()
	}
	return raw
}

func (s *socket) pending() bool { return s.ahead != nil }

func (s *socket) ready() error {
	if s.ahead != nil {
		return nil
	}
	if s.raw != nil {
		s.err = nil
		if err := s.raw.Read(s.try); err != nil {
			return err
		}
		return s.err
	}
	b := s.from.Get().(*buffer)
	n, err := s.Conn.Read(b.data)
	if n == 0 {
		s.from.Put(b)
		return err
	}
	s.have(b, n)
	return nil
}

func (s *socket) have(b *buffer, n int) { s.ahead, s.aheadFrom, s.off, s.end = b, s.from, 0, n }

func (s *socket) take(p []byte) (int, error) {
	if s.ahead == nil {
		return 0, nil
	}
	n := copy(p, s.ahead.data[s.off:s.end])
	if s.off += n; s.off == s.end {
		s.release()
	}
	return n, nil
}

// release gives the buffer back.
func (s *socket) release() {
	if s.ahead != nil {
		s.aheadFrom.Put(s.ahead)
		s.ahead = nil
	}
}

func (s *socket) Read(p []byte) (int, error) {
	if s.ahead == nil {
		if s.eager {
			return 0, errNotYet
		}
		s.leaveGate()
		if err := s.ready(); err != nil {
			return 0, err
		}
		if err := s.enterGate(); err != nil {
			return 0, err
		}
	}
	return s.take(p)
}

// enterGate waits for a place among those who compute. What a client waits for us is not held against it.
func (s *socket) enterGate() error {
	if s.gate == nil {
		return nil
	}
	waited, err := s.gate.enter()
	if err != nil {
		return err
	}
	s.passed = true
	if waited > 0 {
		s.waited += waited
		s.Conn.SetDeadline(s.gate.deadline.Add(s.waited))
	}
	return nil
}

func (s *socket) leaveGate() {
	if s.passed {
		<-s.gate.places
		s.passed = false
	}
}

// gate bounds how many TLS handshakes compute at once. It is a copy per connection, with its deadline.
type gate struct {
	places   chan struct{}
	waiting  *atomic.Int64 // who wait at it
	deadline time.Time
	stop     <-chan struct{}
}

// enter waits for a place and returns for how long.
func (g *gate) enter() (time.Duration, error) {
	select {
	case g.places <- struct{}{}:
		return 0, nil
	default:
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	begin := time.Now()
	select {
	case g.places <- struct{}{}:
		return time.Since(begin), nil
	case <-g.stop:
		return 0, net.ErrClosed
	}
}

// Write leaves the gate: a stranger that does not read must not hold a place.
func (s *socket) Write(p []byte) (int, error) {
	s.leaveGate()
	return s.Conn.Write(p)
}

func (s *socket) CloseWrite() error {
	if cw, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// secure is TLS over a socket.
type secure struct {
	*tls.Conn
	sock *socket
	more bool // crypto/tls may hold bytes that nobody has taken
}

// handshake does the TLS handshake. It computes only while it holds a place in gate and waits for the client
// without one, so that a storm of handshakes leaves processors to those who are connected, and a client that dawdles
// holds up nobody.
func (s *secure) handshake(g *gate) error {
	from := s.sock.from
	s.sock.from, s.sock.gate = &handshakeBuffers, g
	defer func() { // also after a panic, or its place would be lost to all
		s.sock.leaveGate()
		s.sock.from, s.sock.gate = from, nil
	}()
	err := s.Conn.Handshake()
	s.more = true // the first packets may have come with the last of the handshake
	return err
}

// handshakeBuffers hold what a stranger's handshake brings while it waits at the gate.
var handshakeBuffers = sync.Pool{New: func() any { return &buffer{data: make([]byte, 4<<10)} }}

func (s *secure) pending() bool { return s.more || s.sock.pending() }

func (s *secure) ready() error {
	if s.more {
		return nil
	}
	return s.sock.ready()
}

func (s *secure) take(p []byte) (n int, err error) {
	s.sock.eager = true
	for n < len(p) && err == nil {
		var m int
		m, err = s.Conn.Read(p[n:])
		n += m
	}
	s.sock.eager = false
	s.more = err != errNotYet
	if n > 0 || err == errNotYet {
		return n, nil // any other error comes again
	}
	return 0, err
}

func (s *secure) Read(p []byte) (int, error) { return readStream(s, p) }

// readStream is a Read that waits.
func readStream(s stream, p []byte) (int, error) {
	for {
		if n, err := s.take(p); n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		if err := s.ready(); err != nil {
			return 0, err
		}
	}
}

func (s *secure) CloseWrite() error { return errors.Join(s.Conn.CloseWrite(), s.sock.CloseWrite()) }

// awaitStream is await for a stream.
func (c *conn) awaitStream() error {
	for {
		if err := c.src.ready(); err != nil {
			return err
		}
		b := c.s.buffers.Get().(*buffer)
		n := copy(b.data, c.partial)
		m, err := c.src.take(b.data[n:c.readEnd(n, len(b.data))])
		if m > 0 {
			c.partial, c.in, c.inLen = nil, b, n+m
			return nil // an error comes again
		}
		c.s.buffers.Put(b)
		if err != nil {
			return err
		}
	}
}
