package consoletest

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Line is a TCP forwarder in front of a server, which can be cut and mended like a network cable.
type Line struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

// NewLine listens on loopback and forwards to target, "host:port".
func NewLine(target string) (*Line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &Line{l: l, target: target, conns: map[net.Conn]struct{}{}}
	n.wg.Go(n.accept)
	return n, nil
}

// Addr is where the line is reached, "host:port".
func (n *Line) Addr() string { return n.l.Addr().String() }

// Cut ends all connections and refuses new ones.
func (n *Line) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = true
	for c := range n.conns {
		_ = c.Close() // a second close tells nothing new
	}
}

// Mend lets connections through again.
func (n *Line) Mend() { n.mu.Lock(); defer n.mu.Unlock(); n.cut = false }

// Close ends the line and waits for what runs on it.
func (n *Line) Close() error {
	err := n.l.Close()
	n.Cut()
	n.wg.Wait()
	return err
}

func (n *Line) accept() {
	for {
		c, err := n.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		n.wg.Go(func() { n.carry(c) })
	}
}

// hold registers a connection; false: the line is cut and it was closed.
func (n *Line) hold(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut {
		_ = c.Close()
		return false
	}
	n.conns[c] = struct{}{}
	return true
}

func (n *Line) drop(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
	_ = c.Close()
}

func (n *Line) carry(c net.Conn) {
	if !n.hold(c) {
		return
	}
	defer n.drop(c)
	s, err := net.Dial("tcp", n.target)
	if err != nil {
		return
	}
	if !n.hold(s) {
		return
	}
	defer n.drop(s)
	var wg sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // the end of either side ends both
		_ = to.Close()
		_ = from.Close()
	}
	wg.Go(func() { pipe(s, c) })
	pipe(c, s)
	wg.Wait()
}
