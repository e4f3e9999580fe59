package mqttd_test

import (
	"bufio"
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// pipes is a listener of in-memory connections, which tests in a bubble need.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// connect logs in as D-1 over a new pipe. The client's packets arrive on the channel, which is closed with the
// connection.
func (l *pipes) connect(t *testing.T, v packet.Version, change ...func(*packet.Connect)) (*client, chan packet.Packet) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	l.conns <- theirs
	c := &client{t: t, v: v, nc: ours, r: bufio.NewReader(ours)}
	p := connectPacket(v, "D-1")
	for _, f := range change {
		f(p)
	}
	c.send(p)
	got := make(chan packet.Packet, 1000)
	got <- c.recv()
	go func() {
		defer close(got)
		for {
			p, err := c.read()
			if err != nil {
				ours.Close()
				return
			}
			got <- p
		}
	}()
	return c, got
}

// bubble runs f in a synctest bubble with a server on pipes.
func bubble(t *testing.T, in *intake, f func(t *testing.T, dial func(packet.Version, uint16) (*client, chan packet.Packet))) {
	synctest.Test(t, func(t *testing.T) {
		cfg := mqttd.DefaultConfig()
		cfg.CommitTimeout = 2 * time.Minute
		if in == nil {
			in = &intake{}
		}
		s := mqttd.New(cfg, mqttd.Deps{Intake: in, Auth: doors{}})
		l := &pipes{make(chan net.Conn), make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		f(t, func(v packet.Version, keepAlive uint16) (*client, chan packet.Packet) {
			return l.connect(t, v, func(p *packet.Connect) { p.KeepAlive = keepAlive })
		})
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// A silent client is closed after one and a half keep-alive times, at most an eighth of one later.
func TestKeepAlive_enforced(t *testing.T) {
	for _, tc := range []struct {
		v         packet.Version
		keepAlive uint16
		told      uint32 // server keep-alive, 0: none
		effective time.Duration
	}{
		{packet.V311, 1, 0, time.Second},
		{packet.V311, 30, 0, 30 * time.Second},
		{packet.V311, 0, 0, 20 * time.Minute},
		{packet.V311, 65535, 0, 20 * time.Minute},
		{packet.V5, 30, 0, 30 * time.Second},
		{packet.V5, 1, 10, 10 * time.Second},
		{packet.V5, 0, 1200, 20 * time.Minute},
		{packet.V5, 65535, 1200, 20 * time.Minute},
	} {
		bubble(t, nil, func(t *testing.T, dial func(packet.Version, uint16) (*client, chan packet.Packet)) {
			start := time.Now()
			_, got := dial(tc.v, tc.keepAlive)
			ack := (<-got).(*packet.Connack)
			if n := ack.Props.Num(packet.ServerKeepAlive, 0); n != tc.told {
				t.Errorf("keep-alive %d: told %d, want %d", tc.keepAlive, n, tc.told)
			}
			var last packet.Packet
			for p := range got {
				last = p
			}
			if tc.v == packet.V5 {
				if d, ok := last.(*packet.Disconnect); !ok || d.Code != packet.KeepAliveTimeout {
					t.Errorf("got %+v", last)
				}
			}
			lo := tc.effective * 3 / 2
			if took := time.Since(start); took < lo || took > lo+tc.effective/8+100*time.Millisecond {
				t.Errorf("keep-alive %d: closed after %v", tc.keepAlive, took)
			}
		})
	}
}

// A client that sends anything within its time stays.
func TestKeepAlive_kept(t *testing.T) {
	bubble(t, nil, func(t *testing.T, dial func(packet.Version, uint16) (*client, chan packet.Packet)) {
		c, got := dial(packet.V311, 10)
		<-got
		for i := range 50 {
			time.Sleep(14900 * time.Millisecond) // in the bubble's time
			c.send(&packet.Ping{Kind: packet.PINGREQ})
			if _, ok := <-got; !ok {
				t.Fatalf("closed in round %d", i)
			}
		}
	})
}

// A slow commit is our fault: the client's time starts again when we are done with it.
func TestKeepAlive_survives_slow_commit(t *testing.T) {
	in := &intake{gate: func(context.Context, []ingest.Message) error { time.Sleep(time.Minute); return nil }}
	bubble(t, in, func(t *testing.T, dial func(packet.Version, uint16) (*client, chan packet.Packet)) {
		c, got := dial(packet.V5, 10)
		<-got
		for id := range uint16(5) {
			c.send(reading(id+1, "x"))
			p, ok := <-got
			if ack, is := p.(*packet.Ack); !ok || !is || ack.Code != 0 {
				t.Fatalf("got %+v", p)
			}
			time.Sleep(14 * time.Second)
		}
	})
}

// Bytes are not packets: a packet that trickles in does not keep a connection.
func TestKeepAlive_trickle(t *testing.T) {
	bubble(t, nil, func(t *testing.T, dial func(packet.Version, uint16) (*client, chan packet.Packet)) {
		start := time.Now()
		c, got := dial(packet.V311, 10)
		<-got
		b := c.bytes(reading(1, string(make([]byte, 1000))))
		for len(b) > 0 {
			if _, err := c.nc.Write(b[:1]); err != nil {
				break
			}
			b = b[1:]
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > 18*time.Second {
			t.Errorf("lived %v", took)
		}
	})
}
