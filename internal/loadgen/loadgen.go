// Package loadgen publishes readings over raw MQTT 3.1.1 on many connections, for the bench command and the crash
// test. It spends as little CPU as it can, because it runs beside the server that it measures: one goroutine per
// connection, a window of unacknowledged messages, one write for all that the window admits. It owns no
// statistics beyond counts and latencies of one Run.
package loadgen

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes one run. Addr, Conns, Device and Payload must be set.
type Config struct {
	Addr   string      // host:port
	TLS    *tls.Config // nil: plain TCP; a session cache in it makes connections resume
	Conns  int
	QoS    int // 1 or 2; 0 means 1
	Window int // unacknowledged messages per connection; 0 means 5
	// Messages per connection; 0: until the context ends.
	Messages int
	// Rate is messages per second over all connections; 0: as fast as acknowledgements allow.
	Rate float64
	// Device names the device of connection i; it is client id and topic segment.
	Device func(i int) string
	// Payload appends message n of connection i to dst. It is called again for a resend and must then give the
	// same bytes.
	Payload func(dst []byte, i, n int) []byte
	// Reconnect makes a broken connection come back and resend what was not acknowledged, as a device would.
	Reconnect bool
	// OnAck is called for every acknowledged message, from the connection's goroutine; nil is fine.
	OnAck func(i, n int, latency time.Duration)
	// Latencies keeps every latency for the quantiles of Stats.
	Latencies bool
}

// Stats is what a run did.
type Stats struct {
	Acked      int64
	Seconds    float64
	Reconnects int64
	latencies  []time.Duration
}

// Rate is acknowledged messages per second.
func (s *Stats) Rate() float64 { return float64(s.Acked) / s.Seconds }

// Quantile returns the latency below which the share q of all lie, 0 when none were kept.
func (s *Stats) Quantile(q float64) time.Duration {
	if len(s.latencies) == 0 {
		return 0
	}
	return s.latencies[int(q*float64(len(s.latencies)-1))]
}

// Run publishes until every connection has sent its messages, or ctx ends (which is not an error).
func Run(ctx context.Context, c Config) (*Stats, error) {
	if c.Window == 0 {
		c.Window = 5
	}
	var st Stats
	var acked, reconnects atomic.Int64
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	start := time.Now()
	for i := range c.Conns {
		wg.Go(func() {
			d := &device{c: &c, i: i, name: c.Device(i), start: start}
			err := d.run(ctx, &reconnects)
			acked.Add(d.acked)
			mu.Lock()
			defer mu.Unlock()
			st.latencies = append(st.latencies, d.latencies...)
			if err != nil && ctx.Err() == nil {
				errs = append(errs, fmt.Errorf("connection %d: %w", i, err))
			}
		})
	}
	wg.Wait()
	st.Seconds = time.Since(start).Seconds()
	st.Acked, st.Reconnects = acked.Load(), reconnects.Load()
	slices.Sort(st.latencies)
	return &st, errors.Join(errs...)
}

type device struct {
	c         *Config
	i         int
	name      string
	start     time.Time
	done      int // messages [0, done) are acknowledged
	acked     int64
	latencies []time.Duration
}

func (d *device) run(ctx context.Context, reconnects *atomic.Int64) error {
	for {
		err := d.session(ctx)
		if err == nil || ctx.Err() != nil || !d.c.Reconnect {
			return err
		}
		reconnects.Add(1)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *device) session(ctx context.Context) error {
	nc, err := dial(ctx, d.c.Addr, d.c.TLS, 5*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := nc.Write(connect(d.name)); err != nil {
		return err
	}
	br := bufio.NewReaderSize(nc, 512)
	var ack [4]byte
	if _, err := io.ReadFull(br, ack[:]); err != nil {
		return err
	}
	if ack[0] != 0x20 || ack[3] != 0 {
		return fmt.Errorf("refused with CONNACK code %d", ack[3])
	}
	topic := "vw/v1/" + d.name + "/up/readings"
	sent := make([]time.Time, d.c.Window)
	next := d.done
	first := next
	var out, body []byte
	first32, qos2 := byte(0x32), d.c.QoS == 2
	if qos2 {
		first32 = 0x34
	}
	for {
		now := time.Now()
		for next-d.done < d.c.Window && (d.c.Messages == 0 || next < d.c.Messages) {
			if due := d.due(next); due.After(now) {
				if next == d.done && len(out) == 0 { // nothing in flight to wait for
					if !sleep(ctx, due.Sub(now)) {
						return nil
					}
					now = time.Now()
				} else {
					break
				}
			}
			body = d.c.Payload(body[:0], d.i, next)
			out = publish(out, first32, topic, packetID(next-first), body)
			sent[next%d.c.Window] = now
			next++
		}
		if len(out) > 0 {
			if _, err := nc.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		if next == d.done {
			nc.Write([]byte{0xe0, 0})
			return nil
		}
	read:
		for {
			if _, err := io.ReadFull(br, ack[:]); err != nil {
				return err
			}
			switch {
			case qos2 && ack[0] == 0x50 && ack[1] == 2: // PUBREC
				out = append(out, 0x62, 2, ack[2], ack[3])
				if br.Buffered() < 4 {
					break read
				}
				continue
			case ack[1] != 2, qos2 && ack[0] != 0x70, !qos2 && ack[0] != 0x40:
				return fmt.Errorf("expected an acknowledgement, got packet type %d", ack[0]>>4)
			}
			if id := binary.BigEndian.Uint16(ack[2:]); id != packetID(d.done-first) {
				return fmt.Errorf("acknowledgement out of order")
			}
			lat := time.Since(sent[d.done%d.c.Window])
			if d.c.Latencies {
				d.latencies = append(d.latencies, lat)
			}
			n := d.done
			d.done++
			d.acked++
			if d.c.OnAck != nil {
				d.c.OnAck(d.i, n, lat)
			}
			if br.Buffered() < 4 {
				break
			}
		}
	}
}

// due is when message n of this connection should go out, zero without a rate.
func (d *device) due(n int) time.Time {
	if d.c.Rate <= 0 {
		return time.Time{}
	}
	interval := float64(d.c.Conns) / d.c.Rate * float64(time.Second)
	return d.start.Add(time.Duration(interval * (float64(n) + float64(d.i)/float64(d.c.Conns))))
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func packetID(n int) uint16 { return uint16(n%65535) + 1 }

func connect(id string) []byte {
	v := []byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60}
	v = binary.BigEndian.AppendUint16(v, uint16(len(id)))
	v = append(v, id...)
	return append([]byte{0x10, byte(len(v))}, v...)
}

func publish(dst []byte, first byte, topic string, id uint16, body []byte) []byte {
	dst = append(dst, first)
	dst = binary.AppendUvarint(dst, uint64(4+len(topic)+len(body))) // MQTT's variable byte integer is LEB128
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(topic)))
	dst = append(dst, topic...)
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(dst, body...)
}

// Publish appends the bytes of one QoS 1 PUBLISH of readings by the device, packet id 1.
func Publish(dst []byte, device string, body []byte) []byte {
	return publish(dst, 0x32, "vw/v1/"+device+"/up/readings", 1, body)
}

// Idle opens n connections of devices that send nothing, and keeps them until ctx ends. It returns once all are
// accepted; closed must be waited for. conf is asked for the TLS of each, nil: plain.
func Idle(ctx context.Context, addr string, conf func(i int) *tls.Config, n int, device func(i int) string) (closed *sync.WaitGroup, err error) {
	closed = &sync.WaitGroup{}
	var mu sync.Mutex
	var errs []error
	var opening sync.WaitGroup
	gate := make(chan struct{}, 32)
	for i := range n {
		gate <- struct{}{}
		opening.Add(1)
		closed.Go(func() {
			var c *tls.Config
			if conf != nil {
				c = conf(i)
			}
			nc, err := ConnectTLS(ctx, addr, c, device(i))
			<-gate
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			opening.Done()
			if err == nil {
				<-ctx.Done()
				nc.Close()
			}
		})
	}
	opening.Wait()
	return closed, errors.Join(errs...)
}

// Storm connects n devices, all at once, and tries again, with a pause that grows and has chance in it, until each has
// its CONNACK or ctx ends. It returns the connections, how long each took from the beginning, in order, and how many
// attempts failed. conf is asked for the TLS of each device; nil: plain.
func Storm(ctx context.Context, addr string, conf func(i int) *tls.Config, n int, device func(i int) string) (conns []net.Conn, took []time.Duration, failed int64, err error) {
	conns, took = make([]net.Conn, n), make([]time.Duration, n)
	var failures atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range n {
		wg.Go(func() {
			var c *tls.Config
			if conf != nil {
				c = conf(i)
			}
			for pause := 500 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 10*time.Second) {
				nc, err := ConnectTLS(ctx, addr, c, device(i))
				if err == nil {
					conns[i], took[i] = nc, time.Since(begin)
					return
				}
				failures.Add(1)
				sleep(ctx, pause/2+rand.N(pause))
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return conns, took, failures.Load(), ctx.Err()
}

// Connect opens one connection as the device and returns it after CONNACK.
func Connect(ctx context.Context, addr, id string) (net.Conn, error) {
	return ConnectTLS(ctx, addr, nil, id)
}

// dial connects, with TLS when conf is set. The client's address is one of 127.0.0.0/8 by its process id, because one
// address has ports for 28,000 connections only.
func dial(ctx context.Context, addr string, conf *tls.Config, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	if host, _, err := net.SplitHostPort(addr); err == nil && host == "127.0.0.1" && runtime.GOOS == "linux" {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 1, byte(os.Getpid()>>8), byte(os.Getpid())|1)}
	}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil || conf == nil {
		return nc, err
	}
	tc := tls.Client(nc, conf)
	nc.SetDeadline(time.Now().Add(timeout))
	if err := tc.Handshake(); err != nil {
		nc.Close()
		return nil, err
	}
	nc.SetDeadline(time.Time{})
	return tc, nil
}

// ConnectTLS is Connect with TLS when conf is not nil.
func ConnectTLS(ctx context.Context, addr string, conf *tls.Config, id string) (net.Conn, error) {
	nc, err := dial(ctx, addr, conf, 30*time.Second)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	defer nc.SetDeadline(time.Time{})
	var ack [4]byte
	if _, err = nc.Write(connect(id)); err == nil {
		_, err = io.ReadFull(nc, ack[:])
	}
	if err == nil && ack[3] != 0 {
		err = fmt.Errorf("refused with CONNACK code %d", ack[3])
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}
