package subscriber

import (
	"bufio"
	"net"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	readAhead  = 64 << 10
	writeBound = 16 << 10
)

// link is the connection to the broker with fewer system calls: the library reads a packet in three and writes each
// acknowledgement in one of its own. Reads are buffered; writes go out at once, except between hold and release, when
// they are collected. Deadlines of writes are the link's own: one that was left behind would fail the first write after a
// silence, and whoever else set or took one away would do so in the middle of another goroutine's write.
type link struct {
	net.Conn
	r *bufio.Reader // the library reads in one goroutine

	mu   sync.Mutex
	held bool
	out  []byte
	err  error
}

func newLink(c net.Conn) *link { return &link{Conn: c, r: bufio.NewReaderSize(c, readAhead)} }

func (l *link) Read(p []byte) (int, error) { return l.r.Read(p) }

// Write reports what it had to hold back as written; when that fails later, the connection is closed and says so.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	if l.held || len(l.out) > 0 {
		if l.out = append(l.out, p...); l.held && len(l.out) < writeBound {
			return len(p), nil
		}
		if err := l.flush(); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return l.send(p)
}

// send writes within writeTimeout; mu is held. The library bounds no acknowledgement and no ping. Half a packet may be out
// after an error, so the connection is over.
func (l *link) send(p []byte) (int, error) {
	_ = l.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // an error is that of Write, too
	n, err := l.Conn.Write(p)
	_ = l.Conn.SetWriteDeadline(time.Time{})
	if err != nil {
		l.err = err
		_ = l.Conn.Close()
	}
	return n, err
}

// SetWriteDeadline does nothing: see send.
func (l *link) SetWriteDeadline(time.Time) error { return nil }

// hold begins collecting.
func (l *link) hold() {
	l.mu.Lock()
	l.held = true
	l.mu.Unlock()
}

// release writes what was collected, and what comes later at once.
func (l *link) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	if len(l.out) > 0 && l.err == nil {
		_ = l.flush() // said by the next Write and by the closed connection
	}
}

// flush writes what was collected; mu is held.
func (l *link) flush() error {
	_, err := l.send(l.out)
	l.out = l.out[:0]
	return err
}

// forgetful is the store of a client that lives for one connection and sends nothing with QoS above 0 but its
// subscriptions: whatever it kept would never be sent again.
type forgetful struct{}

var _ mqtt.Store = forgetful{}

func (forgetful) Open()                             {}
func (forgetful) Close()                            {}
func (forgetful) Reset()                            {}
func (forgetful) Put(string, packets.ControlPacket) {}
func (forgetful) Get(string) packets.ControlPacket  { return nil }
func (forgetful) All() []string                     { return nil }
func (forgetful) Del(string)                        {}
