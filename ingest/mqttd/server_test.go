package mqttd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/internal/leaktest"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// patience bounds every wait for what must happen; a test that needs it has failed, or its machine is very busy.
const patience = time.Minute

// patient is the default configuration for a test on a busy machine, where nothing of what bounds strangers and stalls
// may run out by itself. Tests of these bounds set their own.
func patient() mqttd.Config {
	cfg := mqttd.DefaultConfig()
	cfg.ConnectTimeout, cfg.CommitTimeout, cfg.WriteTimeout = patience, patience, patience
	cfg.CommitSpread = 0 // who is sent away is so at once
	return cfg
}

// intake keeps what was committed. Messages whose payload starts with "bad" are quarantined; gate, when set,
// decides each commit.
type intake struct {
	mu      sync.Mutex
	stored  []ingest.Message
	commits int
	gate    func(ctx context.Context, msgs []ingest.Message) error
	onAdd   func(ingest.Message)
}

type batch struct {
	in      *intake
	msgs    []ingest.Message
	results []ingest.Result
}

func (i *intake) NewBatch() mqttd.Batch { return &batch{in: i} }

func (b *batch) Add(m ingest.Message) {
	if b.in.onAdd != nil {
		b.in.onAdd(m)
	}
	m.Payload = append([]byte(nil), m.Payload...)
	b.msgs = append(b.msgs, m)
}

func (b *batch) Commit(ctx context.Context) ([]ingest.Result, error) {
	if b.in.gate != nil {
		if err := b.in.gate(ctx, b.msgs); err != nil {
			return nil, err
		}
	}
	b.results = b.results[:0]
	for _, m := range b.msgs {
		r := ingest.Result{Accepted: 1}
		if n := strings.Count(string(m.Payload), "bad"); n > 0 {
			r = ingest.Result{Accepted: strings.Count(string(m.Payload), "good"), Quarantined: n}
			for i := range n {
				r.Problems = append(r.Problems, payload.Problem{Code: payload.UnitUnknown, Detail: "use a UCUM code", Index: i})
			}
		}
		b.results = append(b.results, r)
	}
	b.in.mu.Lock()
	b.in.commits++
	b.in.stored = append(b.in.stored, b.msgs...)
	b.in.mu.Unlock()
	b.msgs = nil
	return b.results, nil
}

func (i *intake) payloads() (out []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, m := range i.stored {
		out = append(out, m.Format+":"+string(m.Payload))
	}
	return out
}

// doors lets every device in whose password is its id backwards, or that shows none when it is called D-…
type doors struct{}

func (doors) Authenticate(_ context.Context, l mqttd.Login) (vitals.DeviceID, error) {
	switch {
	case l.ClientID == "panic":
		panic("authenticator")
	case l.ClientID == "later":
		return "", mqttd.ErrUnavailable
	case l.ClientID == "broken":
		return "", errors.New("database is locked")
	case l.ClientID == "unregistered":
		return "", mqttd.ErrNotAuthorized
	case l.Assigned && !l.HasUsername && l.TLS == nil:
		return "", mqttd.ErrNotAuthorized
	case l.HasUsername && string(l.Password) != "secret-"+l.Username:
		return "", mqttd.ErrBadCredentials
	case l.HasUsername:
		return vitals.DeviceID(l.Username), nil
	case strings.HasPrefix(l.ClientID, "S-"):
		return "", mqttd.ErrBadCredentials
	}
	return vitals.DeviceID(l.ClientID), nil
}

// statuses is a StatusSink and AckSink.
type statuses struct {
	got  chan string
	fail func() error
}

func (s *statuses) Status(_ context.Context, d vitals.DeviceID, p []byte, at vitals.Micros) error {
	return s.take("status", d, p, at)
}

func (s *statuses) Ack(_ context.Context, d vitals.DeviceID, p []byte, at vitals.Micros) error {
	return s.take("ack", d, p, at)
}

func (s *statuses) take(what string, d vitals.DeviceID, p []byte, at vitals.Micros) error {
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return err
		}
	}
	if at == 0 {
		return errors.New("no time")
	}
	s.got <- fmt.Sprintf("%s %s %s", what, d, p)
	return nil
}

type door struct {
	*mqttd.Server
	in  *intake
	st  *statuses
	m   *mqttd.Metrics
	log *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// open starts a server on a free port; it is shut down, and must be empty, when the test ends.
func open(t testing.TB, change func(*mqttd.Config), in *intake) *door {
	t.Helper()
	cfg := patient()
	cfg.Listen = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	if in == nil {
		in = &intake{}
	}
	d := &door{in: in, st: &statuses{got: make(chan string, 100)}, m: mqttd.NewMetrics(), log: &lockedBuffer{}}
	d.Server = mqttd.New(cfg, mqttd.Deps{Intake: in, Auth: doors{}, Status: d.st, Acks: d.st, Metrics: d.m, Log: zerolog.New(d.log)})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return d
}

// count reads a counter or gauge.
func count(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// client speaks raw MQTT.
type client struct {
	t  testing.TB
	v  packet.Version
	nc net.Conn
	r  *bufio.Reader
}

func (d *door) dial(t testing.TB, v packet.Version) *client {
	t.Helper()
	nc, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &client{t: t, v: v, nc: nc, r: bufio.NewReader(nc)}
}

func connectPacket(v packet.Version, id string) *packet.Connect {
	return &packet.Connect{Version: v, CleanStart: true, KeepAlive: 60, ClientID: []byte(id)}
}

// connect dials and logs in.
func (d *door) connect(t testing.TB, v packet.Version, id string, change ...func(*packet.Connect)) *client {
	t.Helper()
	c := d.dial(t, v)
	p := connectPacket(v, id)
	for _, f := range change {
		f(p)
	}
	c.send(p)
	if ack := c.recv().(*packet.Connack); ack.Code != 0 {
		t.Fatalf("refused: %v %s", ack.Code, ack.Props.Data(packet.ReasonString))
	}
	return c
}

func (c *client) bytes(ps ...packet.Packet) (b []byte) {
	c.t.Helper()
	for _, p := range ps {
		var err error
		if b, err = p.Append(b, c.v); err != nil {
			c.t.Fatal(err)
		}
	}
	return b
}

func (c *client) send(ps ...packet.Packet) { c.t.Helper(); c.write(c.bytes(ps...)) }

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func (c *client) read() (packet.Packet, error) {
	var b []byte
	for {
		p, _, err := packet.Decode(b, c.v, 1<<20)
		if err == nil || err != packet.ErrIncomplete {
			return p, err
		}
		x, err := c.r.ReadByte()
		if err != nil {
			return nil, err
		}
		b = append(b, x)
	}
}

func (c *client) recv() packet.Packet {
	c.t.Helper()
	p, err := c.read()
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return p
}

// puback expects the PUBACK of id.
func (c *client) puback(id uint16) *packet.Ack {
	c.t.Helper()
	p, ok := c.recv().(*packet.Ack)
	if !ok || p.Kind != packet.PUBACK || p.ID != id {
		c.t.Fatalf("got %+v, want PUBACK %d", p, id)
	}
	return p
}

// closed expects the end, on 5.0 after a DISCONNECT with this code.
func (c *client) closed(code packet.ReasonCode) {
	c.t.Helper()
	p, err := c.read()
	if c.v == packet.V5 && code != 0 {
		d, ok := p.(*packet.Disconnect)
		if !ok || d.Code != code {
			c.t.Fatalf("got %+v, %v; want DISCONNECT %v", p, err, code)
		}
		if len(d.Props.Data(packet.ReasonString)) == 0 {
			c.t.Errorf("DISCONNECT %v without reason string", code)
		}
		p, err = c.read()
	}
	var ne net.Error
	if err == nil || errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("got %+v, %v; want the connection closed", p, err)
	}
}

func reading(id uint16, body string) *packet.Publish { return readingOf("D-1", id, body) }

func readingOf(device string, id uint16, body string) *packet.Publish {
	p := &packet.Publish{ID: id, Topic: []byte("vw/v1/" + device + "/up/readings"), Payload: []byte(body)}
	if id > 0 {
		p.QoS = 1
	}
	return p
}

// alive proves that the connection still answers, and that all before has been dealt with.
func (c *client) alive() {
	c.t.Helper()
	c.send(&packet.Ping{Kind: packet.PINGREQ})
	if p, ok := c.recv().(*packet.Ping); !ok || p.Kind != packet.PINGRESP {
		c.t.Fatalf("got %+v, want PINGRESP", p)
	}
}

var versions = []packet.Version{packet.V311, packet.V5}

// both runs a test in both protocol versions.
func both(t *testing.T, f func(t *testing.T, v packet.Version)) {
	for _, v := range versions {
		t.Run(fmt.Sprintf("version=%d", v), func(t *testing.T) { f(t, v) })
	}
}

func TestServer_publish(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		gatt := reading(3, "raw")
		gatt.Topic = []byte("vw/v1/D-1/up/gatt/2A18")
		c.send(reading(1, "a"), reading(0, "b"), reading(2, "c"), gatt, &packet.Ping{Kind: packet.PINGREQ})
		got := map[string]int{}
		var acks []uint16
		for range 4 {
			switch p := c.recv().(type) {
			case *packet.Ack:
				acks = append(acks, p.ID)
				if p.Code != 0 {
					t.Errorf("PUBACK %d with %v", p.ID, p.Code)
				}
			case *packet.Ping:
				got["ping"]++
			}
		}
		if fmt.Sprint(acks) != "[1 2 3]" || got["ping"] != 1 {
			t.Errorf("acknowledged %v, %v", acks, got)
		}
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a readings:b readings:c gatt/2A18:raw]" {
			t.Errorf("stored %s", got)
		}
		m := d.in.stored[0]
		if m.Device != "D-1" || m.Source != "mqtt" || m.ReceivedAt.Time().Before(time.Now().Add(-time.Minute)) {
			t.Errorf("message %+v", m)
		}
		c.send(&packet.Disconnect{})
		c.closed(0)
	})
}

// A large payload comes in many reads; what is complete meanwhile is acknowledged.
func TestServer_large_and_fragmented(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, func(c *mqttd.Config) { c.MaxReadBatch = 1024 }, nil)
		c := d.connect(t, v, "D-1")
		body := strings.Repeat("x", 64<<10)
		var all []byte
		for id := uint16(1); id <= 5; id++ {
			all = append(all, c.bytes(reading(id, body), reading(id+100, "small"))...)
		}
		go func() {
			for len(all) > 0 {
				n := min(len(all), 7001)
				if _, err := c.nc.Write(all[:n]); err != nil {
					return
				}
				all = all[n:]
			}
		}()
		for id := uint16(1); id <= 5; id++ {
			c.puback(id)
			c.puback(id + 100)
		}
		for i, m := range d.in.stored {
			if want := []int{len(body), 5}[i%2]; len(m.Payload) != want {
				t.Errorf("message %d has %d bytes, want %d", i, len(m.Payload), want)
			}
		}
	})
}

func TestServer_one_byte_at_a_time(t *testing.T) {
	d := open(t, nil, nil)
	c := d.dial(t, packet.V5)
	for _, b := range c.bytes(connectPacket(packet.V5, "D-1"), reading(1, "a"), reading(2, "b")) {
		c.write([]byte{b})
	}
	if ack := c.recv().(*packet.Connack); ack.Code != 0 {
		t.Fatal(ack.Code)
	}
	c.puback(1)
	c.puback(2)
}
