// Package faultproxy is a bad network for tests: it stands between a client and a server, on TCP or on pipes, and
// delays, stalls, chops, resets and swallows what passes, per direction and by a seed. It works on streams, as TCP
// shows them to a program: a lost segment is never missing, it and all behind it come late, or the connection ends. It
// knows nothing of the protocols that pass.
//
// Concurrency: all methods are safe for concurrent use. A joined pair has two goroutines a direction; Close ends them
// and waits.
package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Rule is what happens to one direction; zero passes everything on at once.
type Rule struct {
	// Latency is added to every chunk, and up to Jitter more; chunks never overtake each other.
	Latency, Jitter time.Duration
	// Loss is the chance, 0 to below 1, that a chunk has to be sent again: it and what is behind it waits
	// Retransmit, twice that for the second time, and so on, like TCP's own timer. Zero Retransmit: 200 ms.
	Loss       float64
	Retransmit time.Duration
	// Cut is the chance that the connection is reset in place of passing a chunk on.
	Cut float64
	// BytesPerSecond bounds the speed; 0: no bound.
	BytesPerSecond int
	// Chunk is the most bytes passed on at once; 0: what one read brings, at most 1,460.
	Chunk int
	// Judge, when set, looks at each chunk before the rest of the rule does. The bytes must not be kept. conn counts
	// pairs from 0.
	Judge func(conn int, chunk []byte) Verdict
}

// Verdict is what Judge wants of a chunk.
type Verdict int

// Verdicts.
const (
	Pass    Verdict = iota
	Reset           // end the connection now, on both sides, with a reset where there is TCP
	Swallow         // take the chunk and everything after it in this direction, and pass none of it on
)

// Proxy is one bad network between clients and a server.
type Proxy struct {
	seed uint64
	wg   sync.WaitGroup

	mu       sync.Mutex
	up, down Rule
	passing  chan struct{} // closed while the network is there
	stalled  bool
	closed   bool
	listener net.Listener
	pairs    map[*pair]struct{}
	joined   int
}

// New returns a network without faults. The same seed draws the same fates for the same chunks at the same places of
// the stream; where a stream is cut into chunks depends on its writer, unless it waits for answers.
func New(seed uint64) *Proxy {
	p := &Proxy{seed: seed, passing: make(chan struct{}), pairs: map[*pair]struct{}{}}
	close(p.passing)
	return p
}

// Set replaces the rules: up is towards the server, down towards the client. Chunks on their way keep their fate.
func (p *Proxy) Set(up, down Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up, p.down = up, down
}

// Listen takes clients on a free loopback port, whose address it returns, and joins each to a new connection to the
// server.
func (p *Proxy) Listen(server string) (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	if p.closed || p.listener != nil {
		p.mu.Unlock()
		l.Close()
		return "", errors.New("proxy listens already or is closed")
	}
	p.listener = l
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				reset(client) // as when the host is there and the server is not
				continue
			}
			p.Join(client, up)
		}
	})
	p.mu.Unlock()
	return l.Addr().String(), nil
}

// Join puts the network between two connections, which it owns from now on.
func (p *Proxy) Join(client, server net.Conn) {
	c := &pair{p: p, client: client, server: server, end: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		client.Close()
		server.Close()
		return
	}
	c.n = p.joined
	p.joined++
	p.pairs[c] = struct{}{}
	c.left.Add(2)
	c.direction(client, server, true)
	c.direction(server, client, false)
	p.wg.Go(func() { // all said and both sides gone
		c.left.Wait()
		c.cut(false)
		p.mu.Lock()
		delete(p.pairs, c)
		p.mu.Unlock()
	})
}

// Joined is how many pairs there have been.
func (p *Proxy) Joined() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.joined
}

// Stall makes every connection half-open: both sides stay connected, nothing passes, not even their end, and what
// they send fills their own buffers, as when a cable is pulled. New clients are taken and hear nothing.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stalled {
		p.stalled, p.passing = true, make(chan struct{})
	}
}

// Resume ends Stall: what waited passes on.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled {
		p.stalled = false
		close(p.passing)
	}
}

// Cut resets every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	pairs := make([]*pair, 0, len(p.pairs))
	for c := range p.pairs {
		pairs = append(pairs, c)
	}
	p.mu.Unlock()
	for _, c := range pairs {
		c.cut(true)
	}
}

// Close cuts everything and waits until nothing runs any more.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		p.listener.Close()
	}
	p.mu.Unlock()
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) rule(up bool) Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	if up {
		return p.up
	}
	return p.down
}

// pair is one client joined to the server.
type pair struct {
	p              *Proxy
	n              int
	client, server net.Conn
	left           sync.WaitGroup // directions

	once sync.Once
	end  chan struct{}
}

func (c *pair) cut(hard bool) {
	c.once.Do(func() {
		close(c.end)
		for _, nc := range []net.Conn{c.client, c.server} {
			if hard {
				reset(nc)
			} else {
				nc.Close()
			}
		}
	})
}

func reset(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	nc.Close()
}

// segment is the most bytes of a chunk when the rule says nothing, Ethernet's TCP payload.
const segment = 1460

// inFlight bounds the chunks on their way in one direction; who sends more waits.
const inFlight = 1024

// chunk is on its way.
type chunk struct {
	b   []byte
	end ending
	due time.Time
}

// ending is a chunk without bytes that ends the stream.
type ending int

const (
	notYet ending = iota
	endStream
	endReset
)

// direction carries one direction: one goroutine reads and decides, the other waits and writes.
func (c *pair) direction(from, to net.Conn, up bool) {
	way := make(chan chunk, inFlight)
	c.p.wg.Go(func() {
		defer close(way)
		if c.read(from, up, way) {
			c.cut(true)
		}
	})
	c.p.wg.Go(func() {
		defer c.left.Done()
		if c.write(to, way) {
			c.cut(true)
		}
	})
}

// read reports whether the connection is to be reset.
func (c *pair) read(from net.Conn, up bool, way chan<- chunk) bool {
	buf := make([]byte, 64<<10)
	var offset uint64
	var due time.Time
	swallow := false
	for {
		if !c.passing() {
			return false
		}
		r := c.p.rule(up)
		size := r.Chunk
		if size <= 0 {
			size = segment
		}
		n, err := from.Read(buf[:min(size, len(buf))])
		if n > 0 && !c.passing() { // the network went away while we waited for these bytes
			return false
		}
		if n > 0 {
			r = c.p.rule(up)
			verdict := Pass
			if r.Judge != nil && !swallow {
				verdict = r.Judge(c.n, buf[:n])
			}
			rnd := rand.New(rand.NewPCG(c.p.seed, offset<<17|uint64(c.n)<<1|bit(up)))
			offset += uint64(n)
			swallow = swallow || verdict == Swallow
			if verdict == Reset || rnd.Float64() < r.Cut {
				return true
			}
			if !swallow {
				due = r.due(due, n, rnd)
				select {
				case way <- chunk{b: bytes.Clone(buf[:n]), due: due}:
				case <-c.end:
					return false
				}
			}
		}
		if err != nil {
			if swallow { // the end of what was swallowed is not heard either
				return false
			}
			last := chunk{end: endReset, due: later(due, time.Now().Add(r.Latency))} // behind what is on its way
			if errors.Is(err, io.EOF) {
				last.end = endStream
			}
			select {
			case way <- last:
			case <-c.end:
			}
			return false
		}
	}
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// due is when a chunk of n bytes arrives that is behind another one.
func (r Rule) due(behind time.Time, n int, rnd *rand.Rand) time.Time {
	at := time.Now().Add(r.Latency)
	if r.Jitter > 0 {
		at = at.Add(time.Duration(rnd.Int64N(int64(r.Jitter))))
	}
	again := r.Retransmit
	if again == 0 {
		again = 200 * time.Millisecond
	}
	for tries := 0; tries < 10 && rnd.Float64() < r.Loss; tries++ {
		at = at.Add(again)
		again *= 2
	}
	at = later(at, behind)
	if r.BytesPerSecond > 0 {
		at = at.Add(time.Duration(n) * time.Second / time.Duration(r.BytesPerSecond))
	}
	return at
}

// write reports whether the connection is to be reset.
func (c *pair) write(to net.Conn, way <-chan chunk) bool {
	for {
		var ch chunk
		var ok bool
		select {
		case ch, ok = <-way:
		case <-c.end:
			return false
		}
		if !ok {
			return false
		}
		if wait := time.Until(ch.due); wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-c.end:
				t.Stop()
				return false
			}
		}
		if !c.passing() {
			return false
		}
		switch ch.end {
		case endReset:
			return true
		case endStream: // half of a connection where it can be
			if cw, ok := to.(interface{ CloseWrite() error }); ok {
				cw.CloseWrite()
			} else {
				to.Close()
			}
			return false
		}
		if _, err := to.Write(ch.b); err != nil {
			// The receiver has left. Its last words and its end come by the other direction, in their time.
			for range way {
			}
			return false
		}
	}
}

// passing waits while the network is away; false: the pair has ended.
func (c *pair) passing() bool {
	c.p.mu.Lock()
	on := c.p.passing
	c.p.mu.Unlock()
	select {
	case <-on:
		return true
	case <-c.end:
		return false
	}
}
