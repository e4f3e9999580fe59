package faultproxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vitalwatch/internal/faultproxy"
	"vitalwatch/internal/freeport"
	"vitalwatch/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// patience bounds every wait for what must happen.
const patience = time.Minute

// pipes joins two in-memory connections through a proxy; in a bubble they cost no time.
func pipes(p *faultproxy.Proxy) (client, server net.Conn) {
	client, a := net.Pipe()
	b, server := net.Pipe()
	p.Join(a, b)
	return client, server
}

// arrivals reads until the end and returns what came and when, since start.
func arrivals(t *testing.T, r io.Reader, start time.Time) (b []byte, at []time.Duration) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		b = append(b, buf[:n]...)
		if n > 0 {
			at = append(at, time.Since(start))
		}
		if err != nil {
			if err != io.EOF {
				t.Errorf("read: %v", err)
			}
			return b, at
		}
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// Whatever a rule does short of ending the connection, the bytes arrive whole and in order.
func TestRule(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name     string
		rule     faultproxy.Rule
		size     int
		reads    int           // 0: any number
		from, to time.Duration // when the last byte arrives
	}{
		{"no fault", faultproxy.Rule{}, 3000, 3, 0, 0},
		{"latency", faultproxy.Rule{Latency: 5 * time.Second}, 3000, 3, 5 * time.Second, 5 * time.Second},
		{"jitter", faultproxy.Rule{Latency: 100 * ms, Jitter: 50 * ms}, 30_000, 0, 100 * ms, 150 * ms},
		{"byte by byte", faultproxy.Rule{Chunk: 1}, 300, 300, 0, 0},
		{"bandwidth", faultproxy.Rule{BytesPerSecond: 1000}, 5000, 0, 5 * time.Second, 5 * time.Second},
		{"loss", faultproxy.Rule{Loss: 0.3}, 30_000, 0, 200 * ms, time.Minute},
		{"loss with a timer of its own", faultproxy.Rule{Loss: 0.5, Retransmit: time.Second, Chunk: 100}, 3000, 0, time.Second, 1023 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := faultproxy.New(1)
				defer p.Close()
				p.Set(tc.rule, faultproxy.Rule{})
				client, server := pipes(p)
				want := pattern(tc.size)
				go func() {
					client.Write(want)
					client.Close()
				}()
				got, at := arrivals(t, server, time.Now())
				if !bytes.Equal(got, want) {
					t.Fatalf("%d bytes arrived, not the %d that were sent", len(got), len(want))
				}
				if last := at[len(at)-1]; last < tc.from || last > tc.to {
					t.Errorf("last byte after %v, want %v to %v", last, tc.from, tc.to)
				}
				if tc.reads > 0 && len(at) != tc.reads {
					t.Errorf("%d pieces, want %d", len(at), tc.reads)
				}
				if !slices.IsSorted(at) {
					t.Error("a chunk overtook another")
				}
			})
		})
	}
}

// The other direction has its own rule.
func TestRule_per_direction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := faultproxy.New(1)
		defer p.Close()
		p.Set(faultproxy.Rule{}, faultproxy.Rule{Latency: time.Second})
		client, server := pipes(p)
		go io.Copy(server, server)
		start := time.Now()
		b := make([]byte, 2)
		client.Write([]byte("hi"))
		if _, err := io.ReadFull(client, b); err != nil || time.Since(start) != time.Second {
			t.Errorf("echo after %v, %v", time.Since(start), err)
		}
		server.Close()
		client.Close()
	})
}

// The same seed gives the same fates, another one others.
func TestSeed(t *testing.T) {
	run := func(seed uint64) (at []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			p := faultproxy.New(seed)
			defer p.Close()
			p.Set(faultproxy.Rule{Loss: 0.3, Jitter: time.Second, Chunk: 100}, faultproxy.Rule{})
			client, server := pipes(p)
			go func() {
				client.Write(pattern(2000))
				client.Close()
			}()
			_, at = arrivals(t, server, time.Now())
		})
		return at
	}
	a := run(7)
	if b := run(7); !slices.Equal(a, b) {
		t.Errorf("seed 7 twice:\n%v\n%v", a, b)
	}
	if b := run(8); slices.Equal(a, b) {
		t.Error("seed 8 is seed 7")
	}
}

// echo is a TCP server that answers with what it hears; its ends tells how each connection ended.
func echo(t *testing.T) (addr string, ends chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ends = make(chan error, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, err := io.Copy(struct{ io.Writer }{nc}, nc)
				nc.Close()
				ends <- err
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), ends
}

func dial(t *testing.T, p *faultproxy.Proxy, server string) net.Conn {
	t.Helper()
	addr, err := p.Listen(server)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

func TestTCP_half_close(t *testing.T) {
	p := faultproxy.New(1)
	defer p.Close()
	server, ends := echo(t)
	nc := dial(t, p, server)
	want := pattern(200_000)
	go func() {
		nc.Write(want)
		nc.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(nc)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
	if err := <-ends; err != nil {
		t.Errorf("the server saw %v", err)
	}
}

func TestTCP_reset(t *testing.T) {
	for name, rule := range map[string]faultproxy.Rule{
		"judged": {Judge: func(conn int, b []byte) faultproxy.Verdict {
			if conn == 0 && string(b) == "bad" {
				return faultproxy.Reset
			}
			return faultproxy.Pass
		}},
		"by chance": {Cut: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := faultproxy.New(1)
			defer p.Close()
			server, ends := echo(t)
			nc := dial(t, p, server)
			b := make([]byte, 10)
			nc.Write([]byte("good"))
			if _, err := io.ReadFull(nc, b[:4]); err != nil {
				t.Fatal(err)
			}
			p.Set(faultproxy.Rule{}, rule) // on the way back: the server has heard it
			nc.Write([]byte("bad"))
			if n, err := nc.Read(b); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %q, %v", b[:n], err)
			}
			if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server saw %v", err)
			}
			if p.Joined() != 1 {
				t.Errorf("%d pairs", p.Joined())
			}
		})
	}
}

// Swallow: the sender's bytes and its end are gone, the other direction works on.
func TestTCP_swallow(t *testing.T) {
	p := faultproxy.New(1)
	defer p.Close()
	server, ends := echo(t)
	p.Set(faultproxy.Rule{Judge: func(_ int, b []byte) faultproxy.Verdict {
		if bytes.Contains(b, []byte("2")) {
			return faultproxy.Swallow
		}
		return faultproxy.Pass
	}}, faultproxy.Rule{Latency: 20 * time.Millisecond})
	nc := dial(t, p, server)
	b := make([]byte, 10)
	nc.Write([]byte("1"))
	if _, err := io.ReadFull(nc, b[:1]); err != nil {
		t.Fatal(err)
	}
	nc.Write([]byte("2"))
	nc.Write([]byte("3"))
	nc.(*net.TCPConn).CloseWrite()
	nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	var ne net.Error
	if n, err := nc.Read(b); n > 0 || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("got %q, %v", b[:n], err)
	}
	select {
	case err := <-ends:
		t.Errorf("the server saw the end: %v", err)
	default:
	}
	p.Cut()
	<-ends
}

// Stall: nothing passes, not even the end; Resume: everything does.
func TestTCP_stall(t *testing.T) {
	p := faultproxy.New(1)
	defer p.Close()
	server, ends := echo(t)
	nc := dial(t, p, server)
	b := make([]byte, 10)
	nc.Write([]byte("1"))
	if _, err := io.ReadFull(nc, b[:1]); err != nil {
		t.Fatal(err)
	}
	p.Stall()
	nc.Write([]byte("2"))
	nc.(*net.TCPConn).CloseWrite()
	nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := nc.Read(b); n > 0 || err == nil || err == io.EOF {
		t.Errorf("got %q, %v", b[:n], err)
	}
	p.Resume()
	nc.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(nc); string(got) != "2" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-ends; err != nil {
		t.Errorf("the server saw %v", err)
	}
}

// A server that is not there is a reset, and Close ends what is stalled.
func TestTCP_no_server(t *testing.T) {
	nobody, err := freeport.Loopback() // and nobody comes meanwhile
	if err != nil {
		t.Fatal(err)
	}
	p := faultproxy.New(1)
	addr, err := p.Listen(nobody)
	if err != nil {
		t.Fatal(err)
	}
	// The reset may come before Dial is done.
	if nc, err := net.DialTimeout("tcp", addr, patience); err == nil {
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Error("somebody is there")
		}
		nc.Close()
	}
	p.Close()
	if _, err := p.Listen(nobody); err == nil {
		t.Error("a closed proxy listens")
	}
}

func TestClose_while_stalled(t *testing.T) {
	p := faultproxy.New(1)
	server, ends := echo(t)
	nc := dial(t, p, server)
	nc.Write([]byte("1"))
	io.ReadFull(nc, make([]byte, 1))
	p.Stall()
	nc.Write([]byte("2"))
	p.Close()
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
	<-ends
}
