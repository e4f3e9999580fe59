package mqttd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/internal/faultproxy"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// A bad network between devices that do as the standard asks and a server with a real pipeline and a real journal:
// nothing acknowledged is lost, nothing is judged twice, everything arrives at last.

// journaled is a front door before a real pipeline, with the devices D-0, D-1 …
type journaled struct {
	*door
	journal *journal.Journal
}

func openJournaled(t testing.TB, n int, change func(*mqttd.Config)) *journaled {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ctx := context.Background()
	people, err := care.Open(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := devices.Open(ctx, db, people)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := reg.Register(ctx, vitals.DeviceID(fmt.Sprint("D-", i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	p := ingest.New(ingest.Config{Devices: reg, Journal: j, Now: time.Now, Metrics: ingest.NewMetrics(prometheus.NewRegistry())})
	cfg := patient()
	cfg.Listen = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	d := &door{m: mqttd.NewMetrics(), log: &lockedBuffer{}, st: &statuses{got: make(chan string, 100)}}
	d.Server = mqttd.New(cfg, mqttd.Deps{Intake: mqttd.IntakeFunc(func() mqttd.Batch { return p.NewBatch() }), Auth: doors{}, Status: d.st,
		Metrics: d.m, Log: zerolog.New(d.log)})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Shutdown(context.Background()) })
	return &journaled{d, j}
}

// readings returns how often each reading, "device/seq", is in the journal; that is how often it is judged.
func (h *journaled) readings(t testing.TB) map[string]int {
	t.Helper()
	got := map[string]int{}
	for after := uint64(0); after < h.journal.Last(); {
		b, err := h.journal.Next(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Readings {
			r := &b.Readings[i]
			got[fmt.Sprintf("%s/%d", r.Device, r.TakenAt.Time().Sub(base)/time.Second)]++
		}
		after = b.Last()
	}
	return got
}

// sender is a device with some readings that must arrive. It keeps each until it is acknowledged, with QoS 2 until
// PUBCOMP, and after a reconnect sends again what the standard asks it to.
type sender struct {
	t    testing.TB
	v    packet.Version
	id   string
	qos  byte
	dial func() (net.Conn, error)
	// answer is how long it waits for one before it connects again.
	answer time.Duration

	left     []int // not sent yet
	flight   []message
	acked    map[int]bool // the server owns it
	connects int
}

// message is in flight: sent and not acknowledged, or, released, waiting for PUBCOMP.
type message struct {
	n        int
	id       uint16
	released bool
}

const window = 8

func newSender(t testing.TB, v packet.Version, i int, qos byte, n int) *sender {
	s := &sender{t: t, v: v, id: fmt.Sprint("D-", i), qos: qos, answer: patience, acked: map[int]bool{}}
	for n := range n {
		s.left = append(s.left, n)
	}
	return s
}

// base is the time of reading 0; one follows every second.
var base = time.UnixMilli(1_700_000_000_000)

func (s *sender) publish(m message, dup bool) packet.Packet {
	p := readingOf(s.id, m.id, fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%d,"value":%d,"unit":"/min"}`, base.UnixMilli()+1000*int64(m.n), 60+m.n%60))
	p.QoS, p.Dup = s.qos, dup
	return p
}

// run ends when all is acknowledged, or with an error after some connections.
func (s *sender) run() error {
	for len(s.left)+len(s.flight) > 0 {
		if s.connects++; s.connects > 400 {
			return fmt.Errorf("%s: after %d connections %d of its readings are not acknowledged", s.id, s.connects, len(s.left)+len(s.flight))
		}
		acked := len(s.acked)
		if err := s.session(); err != nil && !errors.As(err, new(net.Error)) && !errors.Is(err, errLost) {
			return fmt.Errorf("%s: %w", s.id, err)
		}
		if len(s.acked) == acked { // too hasty for a machine as busy as this
			s.answer = min(2*s.answer, patience)
		}
	}
	return nil
}

var errLost = errors.New("connection lost")

// session is one connection. An error that is not of the network's fails the test.
func (s *sender) session() error {
	nc, err := s.dial()
	if err != nil {
		return errLost
	}
	defer nc.Close()
	c := &client{t: s.t, v: s.v, nc: nc, r: bufio.NewReader(nc)}
	send := func(ps ...packet.Packet) error {
		nc.SetDeadline(time.Now().Add(s.answer))
		if _, err := nc.Write(c.bytes(ps...)); err != nil {
			return errLost
		}
		return nil
	}
	p := connectPacket(s.v, s.id)
	keep(p)
	if err := send(p); err != nil {
		return err
	}
	first, err := c.read()
	if err != nil {
		return errLost
	}
	ack, ok := first.(*packet.Connack)
	if !ok || ack.Code != 0 {
		if ok && (ack.Code == packet.ServerBusy || ack.Code == packet.Refused311Unavailable) {
			return errLost // the older connection is not done yet
		}
		return fmt.Errorf("got %+v", first)
	}
	var more []packet.Packet
	if ack.SessionPresent { // [MQTT-4.4.0-1]
		for _, m := range s.flight {
			if m.released {
				more = append(more, pubrel(m.id))
			} else {
				more = append(more, s.publish(m, true))
			}
		}
	} else { // [MQTT-3.2.2-5]: what it had no answer for is a new message
		var again []int
		for _, m := range s.flight {
			if !m.released {
				again = append(again, m.n)
			}
		}
		s.left, s.flight = append(again, s.left...), nil
	}
	for {
		for len(s.left) > 0 && len(s.flight) < window {
			m := message{n: s.left[0], id: s.free()}
			s.left, s.flight = s.left[1:], append(s.flight, m)
			more = append(more, s.publish(m, false))
		}
		if len(s.flight) == 0 {
			return send(&packet.Disconnect{})
		}
		if len(more) > 0 {
			if err := send(more...); err != nil {
				return err
			}
			more = nil
		}
		nc.SetDeadline(time.Now().Add(s.answer))
		p, err := c.read()
		if err != nil {
			if errors.As(err, new(*packet.Error)) {
				return err
			}
			return errLost
		}
		a, ok := p.(*packet.Ack)
		if !ok {
			if _, ok := p.(*packet.Disconnect); ok {
				return errLost
			}
			return fmt.Errorf("got %+v", p)
		}
		reply, err := s.acknowledged(a)
		if err != nil {
			return err
		}
		if reply != nil {
			more = append(more, reply)
		}
	}
}

func (s *sender) acknowledged(a *packet.Ack) (packet.Packet, error) {
	i := 0
	for i < len(s.flight) && s.flight[i].id != a.ID {
		i++
	}
	switch {
	case a.Code != 0:
		return nil, fmt.Errorf("%s %d with %v %s", a.Kind, a.ID, a.Code, a.Props.Data(packet.ReasonString))
	case i == len(s.flight):
		return nil, fmt.Errorf("%s of %d, which is not in flight", a.Kind, a.ID)
	case a.Kind == packet.PUBACK && s.qos == 1, a.Kind == packet.PUBCOMP && s.flight[i].released:
		s.acked[s.flight[i].n] = true
		s.flight = append(s.flight[:i], s.flight[i+1:]...)
		return nil, nil
	case a.Kind == packet.PUBREC && s.qos == 2:
		s.acked[s.flight[i].n] = true
		s.flight[i].released = true
		return pubrel(a.ID), nil
	}
	return nil, fmt.Errorf("unexpected %s %d", a.Kind, a.ID)
}

// free returns a packet id that is not in use. Few of them, so that they come again soon.
func (s *sender) free() uint16 {
	used := map[uint16]bool{}
	for _, m := range s.flight {
		used[m.id] = true
	}
	for id := uint16(1); ; id++ {
		if !used[id] {
			return id
		}
	}
}

func dialer(addr string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.DialTimeout("tcp", addr, patience) }
}

// senders runs one device for each version and QoS, and compares the journal with what was acknowledged.
func senders(t *testing.T, h *journaled, each int, set func(*sender)) {
	t.Helper()
	var all []*sender
	for _, v := range versions {
		for qos := byte(1); qos <= 2; qos++ {
			s := newSender(t, v, len(all), qos, each)
			set(s)
			all = append(all, s)
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, s := range all {
		wg.Go(func() { errs[i] = s.run() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got := h.readings(t)
	connects := 0
	for _, s := range all {
		connects += s.connects
		for n := range each {
			key := fmt.Sprintf("%s/%d", s.id, n)
			if !s.acked[n] {
				t.Errorf("%s was never acknowledged", key)
			}
			if got[key] != 1 {
				t.Errorf("%s is %d times in the journal", key, got[key])
			}
			delete(got, key)
		}
	}
	for key, n := range got {
		t.Errorf("%s is in the journal, %d times, and nobody sent it", key, n)
	}
	t.Logf("%d connections", connects)
	if n := count(t, h.m.Panics); n > 0 {
		t.Errorf("%v panics", n)
	}
}

const senderDevices = 4 // one for each version and QoS

// Connections are reset just when an acknowledgement of any kind is due, and now and then in front of the message.
func TestFault_resets(t *testing.T) {
	h := openJournaled(t, senderDevices, nil)
	p := faultproxy.New(1)
	defer p.Close()
	addr, err := p.Listen(h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(1, 2))
	judge := func(chance float64, types ...packet.Type) func(int, []byte) faultproxy.Verdict {
		return func(_ int, b []byte) faultproxy.Verdict {
			mu.Lock()
			defer mu.Unlock()
			if slices.Contains(types, packet.Type(b[0]>>4)) && rnd.Float64() < chance {
				return faultproxy.Reset
			}
			return faultproxy.Pass
		}
	}
	p.Set(faultproxy.Rule{Judge: judge(0.1, packet.PUBLISH, packet.PUBREL)},
		faultproxy.Rule{Judge: judge(0.5, packet.PUBACK, packet.PUBREC, packet.PUBCOMP)})
	senders(t, h, 100, func(s *sender) { s.dial = dialer(addr) })
	if n := p.Joined(); n < 50 {
		t.Errorf("%d connections: hardly anything was reset", n)
	}
}

// Three of ten segments have to be sent again, in both directions, and some connections break of it.
func TestFault_loss(t *testing.T) {
	h := openJournaled(t, senderDevices, nil)
	p := faultproxy.New(3)
	defer p.Close()
	addr, err := p.Listen(h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := faultproxy.Rule{Loss: 0.3, Retransmit: 2 * time.Millisecond, Latency: time.Millisecond, Jitter: time.Millisecond, Chunk: 400, Cut: 0.03}
	p.Set(r, r)
	senders(t, h, 100, func(s *sender) { s.dial = dialer(addr) })
}

// Everything arrives in pieces of one to three bytes.
func TestFault_tiny_chunks(t *testing.T) {
	h := openJournaled(t, senderDevices, nil)
	p := faultproxy.New(4)
	defer p.Close()
	addr, err := p.Listen(h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.Set(faultproxy.Rule{Chunk: 1, Cut: 0.0002}, faultproxy.Rule{Chunk: 3})
	senders(t, h, 20, func(s *sender) { s.dial = dialer(addr) })
}

// The network is away again and again, for longer than the devices wait: they come back by another way while their old
// connection still stands, and what it holds arrives late or never.
func TestFault_half_open_takeover(t *testing.T) {
	h := openJournaled(t, senderDevices, nil)
	var mu sync.Mutex
	var proxies []*faultproxy.Proxy
	defer func() {
		for _, p := range proxies {
			p.Close()
		}
	}()
	dial := func() (net.Conn, error) { // each connection has a network of its own
		mu.Lock()
		p := faultproxy.New(uint64(len(proxies)))
		proxies = append(proxies, p)
		mu.Unlock()
		seen := 0
		stall := func(_ int, b []byte) faultproxy.Verdict {
			if seen++; seen > 4 {
				p.Stall()
			}
			return faultproxy.Pass
		}
		p.Set(faultproxy.Rule{}, faultproxy.Rule{Judge: stall})
		addr, err := p.Listen(h.Addr().String())
		if err != nil {
			return nil, err
		}
		return net.DialTimeout("tcp", addr, patience)
	}
	senders(t, h, 40, func(s *sender) { s.dial, s.answer = dial, 100*time.Millisecond })
	for _, p := range proxies { // what was under way arrives now, at connections that are over
		p.Resume()
	}
	got := h.readings(t)
	for key, n := range got {
		if n != 1 {
			t.Errorf("%s is %d times in the journal", key, n)
		}
	}
}

// Five seconds each way, with the default limits; in a bubble, where they pass at once.
func TestFault_latency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &intake{}
		s := mqttd.New(mqttd.DefaultConfig(), mqttd.Deps{Intake: in, Auth: doors{}})
		l := &pipes{make(chan net.Conn), make(chan struct{})}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		p := faultproxy.New(5)
		r := faultproxy.Rule{Latency: 5 * time.Second, Jitter: time.Second, Loss: 0.1, Retransmit: time.Second, Cut: 0.02}
		p.Set(r, r)
		dial := func() (net.Conn, error) {
			client, a := net.Pipe()
			b, server := net.Pipe()
			l.conns <- server
			p.Join(a, b)
			return client, nil
		}
		var wg sync.WaitGroup
		var all []*sender
		for i, v := range versions {
			for qos := byte(1); qos <= 2; qos++ {
				s := newSender(t, v, 2*i+int(qos), qos, 40)
				s.dial, s.answer = dial, time.Minute
				all = append(all, s)
				wg.Go(func() {
					if err := s.run(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		applied := map[string]int{}
		for _, m := range in.stored {
			applied[string(m.Device)+string(m.Payload)]++
		}
		for _, s := range all {
			for n := range 40 {
				p := s.publish(message{n: n, id: 1}, false).(*packet.Publish)
				k := applied[s.id+string(p.Payload)]
				if !s.acked[n] || k == 0 || s.qos == 2 && k != 1 {
					t.Errorf("%s reading %d with QoS %d: acknowledged %v, applied %d times", s.id, n, s.qos, s.acked[n], k)
				}
			}
		}
		p.Close()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// A half-open connection ends one and a half keep-alive times after its last packet, with the will; an eighth later at
// most, and a second when something that the server says hangs in it.
func TestFault_half_open(t *testing.T) {
	for _, v := range versions {
		synctest.Test(t, func(t *testing.T) {
			st := &statuses{got: make(chan string, 1)}
			s := mqttd.New(mqttd.DefaultConfig(), mqttd.Deps{Intake: &intake{}, Auth: doors{}, Status: st})
			l := &pipes{make(chan net.Conn), make(chan struct{})}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			p := faultproxy.New(6)
			near, a := net.Pipe()
			b, server := net.Pipe()
			l.conns <- server
			p.Join(a, b)
			c := &client{t: t, v: v, nc: near, r: bufio.NewReader(near)}
			hello := connectPacket(v, "D-1")
			hello.KeepAlive = 20
			hello.HasWill, hello.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte(`{"state":"lost"}`)}
			c.send(hello)
			c.recv()
			c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#")}}})
			c.recv()
			time.Sleep(7 * time.Second) // in the bubble's time
			c.alive()
			start := time.Now()
			p.Stall()
			s.Publish("D-1", "down/cmd", []byte("x")) // goes into the dead connection
			if got := <-st.got; got != `status D-1 {"state":"lost"}` {
				t.Errorf("got %s", got)
			}
			if took := time.Since(start); took < 30*time.Second || took > 34*time.Second {
				t.Errorf("version %d: found out after %v", v, took)
			}
			p.Close()
			near.Close()
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			<-served
		})
	}
}

// The same over TCP, where nobody but keep-alive can know.
func TestFault_half_open_TCP(t *testing.T) {
	d := open(t, nil, nil)
	p := faultproxy.New(7)
	defer p.Close()
	addr, err := p.Listen(d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &client{t: t, v: packet.V311, nc: nc, r: bufio.NewReader(nc)}
	hello := connectPacket(packet.V311, "D-1")
	hello.KeepAlive = 1
	hello.HasWill, hello.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte(`{"state":"lost"}`)}
	start := time.Now()
	c.send(hello)
	c.recv()
	p.Stall()
	nc.Write(c.bytes(reading(1, "never heard")))
	nc.Close()
	<-d.st.got
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("found out after %v", took)
	}
	d.stored(t)
}
