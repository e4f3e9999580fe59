package mqttd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// silence proves that nothing comes for a moment: the read deadline is what it waits for.
func (c *client) silence() {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := c.r.Peek(1); err == nil {
		c.t.Fatalf("got %x, want nothing", b)
	}
	c.nc.SetReadDeadline(time.Now().Add(patience))
}

// No PUBACK before Commit has returned, and all in the order of receipt after it, whatever came in one read.
func TestAcknowledgement_after_commit(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		entered, release := make(chan int), make(chan struct{})
		in := &intake{gate: func(_ context.Context, msgs []ingest.Message) error {
			entered <- len(msgs)
			<-release
			return nil
		}}
		d := open(t, nil, in)
		c := d.connect(t, v, "D-1")
		const n = 50
		for round := range 3 {
			var ps []packet.Packet
			for i := range n {
				ps = append(ps, reading(uint16(round*n+n-i), "x")) // ids need not rise
			}
			c.send(ps...)
			acked := 0
			for acked < n {
				group := <-entered
				c.silence()
				release <- struct{}{}
				for range group {
					c.puback(uint16(round*n + n - acked))
					acked++
				}
			}
		}
		if got := len(d.in.payloads()); got != 3*n {
			t.Errorf("%d stored", got)
		}
	})
}

// A failed commit acknowledges nothing of its group; 5.0 clients learn why, all are closed, and what they send again
// is taken.
func TestAcknowledgement_commit_fails(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code packet.ReasonCode
	}{
		{errors.New("journal stalled"), packet.ServerBusy},
		{fmt.Errorf("append: %w", mqttd.ErrQuota), packet.QuotaExceeded},
	} {
		both(t, func(t *testing.T, v packet.Version) {
			var fail sync.Map
			fail.Store("on", true)
			in := &intake{gate: func(context.Context, []ingest.Message) error {
				if _, on := fail.Load("on"); on {
					return tc.err
				}
				return nil
			}}
			d := open(t, nil, in)
			c := d.connect(t, v, "D-1")
			c.send(reading(1, "a"), reading(2, "b"))
			c.closed(tc.code)
			if n := count(t, d.m.Failed); n != 1 {
				t.Errorf("%v failures counted", n)
			}
			fail.Delete("on")
			c = d.connect(t, v, "D-1")
			dup := reading(1, "a")
			dup.Dup = true
			c.send(dup, reading(2, "b"))
			c.puback(1)
			c.puback(2)
			if got := fmt.Sprint(d.in.payloads()); got != "[readings:a readings:b]" {
				t.Errorf("stored %s", got)
			}
			if n := count(t, d.m.Acked); n != 2 {
				t.Errorf("%v acknowledged", n)
			}
		})
	}
}

// A commit that does not come back in time is a failed one: the context ends it.
func TestAcknowledgement_commit_times_out(t *testing.T) {
	in := &intake{gate: func(ctx context.Context, _ []ingest.Message) error { <-ctx.Done(); return ctx.Err() }}
	d := open(t, func(c *mqttd.Config) { c.CommitTimeout = 50 * time.Millisecond }, in)
	c := d.connect(t, packet.V5, "D-1")
	c.send(reading(1, "a"))
	c.closed(packet.ServerBusy)
}

// An intake that answers for fewer messages than it got is not believed.
func TestAcknowledgement_wrong_number_of_results(t *testing.T) {
	cfg := patient()
	cfg.Listen = "127.0.0.1:0"
	s := mqttd.New(cfg, mqttd.Deps{Intake: mqttd.IntakeFunc(func() mqttd.Batch { return short{} }), Auth: doors{}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(t.Context())
	d := &door{Server: s}
	c := d.connect(t, packet.V5, "D-1")
	c.send(reading(1, "a"))
	c.closed(packet.ServerBusy)
}

type short struct{}

func (short) Add(ingest.Message)                              {}
func (short) Commit(context.Context) ([]ingest.Result, error) { return nil, nil }

// A panic of the intake, in Add or in Commit, ends its own connection and no other, and acknowledges nothing.
func TestAcknowledgement_panic_stays_in_its_connection(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		const marked = "panic-7319"
		in := &intake{
			onAdd: func(m ingest.Message) {
				if string(m.Payload) == "add-"+marked {
					panic("payload " + string(m.Payload))
				}
			},
			gate: func(_ context.Context, msgs []ingest.Message) error {
				for _, m := range msgs {
					if string(m.Payload) == "commit-"+marked {
						panic("payload " + string(m.Payload))
					}
				}
				return nil
			}}
		d := open(t, nil, in)
		other := d.connect(t, v, "D-2")
		for i, where := range []string{"add-", "commit-"} {
			c := d.connect(t, v, "D-1")
			c.send(reading(1, where+marked))
			c.closed(packet.ImplementationError)
			other.send(readingOf("D-2", uint16(i+1), "fine"))
			other.puback(uint16(i + 1))
		}
		if n := count(t, d.m.Panics); n != 2 {
			t.Errorf("%v panics counted", n)
		}
		if log := d.log.String(); strings.Contains(log, marked) || !strings.Contains(log, "panic in an mqtt connection") {
			t.Errorf("log: %s", log)
		}
		// The bad device may come back.
		c := d.connect(t, v, "D-1")
		c.send(reading(2, "well"))
		c.puback(2)
	})
}

// Messages before a protocol error in the same read are stored and acknowledged; the one that breaks it and what is
// behind are not.
func TestAcknowledgement_before_a_protocol_error(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		b := c.bytes(reading(1, "a"), reading(2, "b"))
		b = append(b, 0x36, 0x00) // PUBLISH with QoS 3
		b = append(b, c.bytes(reading(3, "c"))...)
		c.write(b)
		c.puback(1)
		c.puback(2)
		c.closed(packet.MalformedPacket)
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a readings:b]" {
			t.Errorf("stored %s", got)
		}
	})
}

// Groups in flight when the server shuts down or the device is revoked are committed and acknowledged first.
func TestAcknowledgement_at_the_end(t *testing.T) {
	ends := map[string]struct {
		code packet.ReasonCode
		end  func(d *door, t *testing.T)
	}{
		"shutdown": {packet.ServerShuttingDown, func(d *door, t *testing.T) {
			if err := d.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		}},
		"administrative": {packet.AdministrativeAction, func(d *door, t *testing.T) {
			if !d.DisconnectDevice("D-1", "credential revoked") || d.DisconnectDevice("D-2", "") {
				t.Error("wrong answer of DisconnectDevice")
			}
		}},
	}
	for name, e := range ends {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, v packet.Version) {
				entered, release := make(chan struct{}), make(chan struct{})
				in := &intake{gate: func(context.Context, []ingest.Message) error {
					entered <- struct{}{}
					<-release
					return nil
				}}
				d := open(t, nil, in)
				c := d.connect(t, v, "D-1")
				c.send(reading(1, "a"))
				<-entered
				var wg sync.WaitGroup
				wg.Go(func() { e.end(d, t) })
				c.silence()
				close(release)
				c.puback(1)
				c.closed(e.code)
				c.nc.Close()
				wg.Wait()
			})
		})
	}
}

// Shutdown's patience bounds it also when the intake obeys nothing but its context.
func TestShutdown_patience_ends(t *testing.T) {
	entered := make(chan struct{})
	in := &intake{gate: func(ctx context.Context, _ []ingest.Message) error { close(entered); <-ctx.Done(); return ctx.Err() }}
	d := open(t, func(c *mqttd.Config) { c.CommitTimeout = time.Hour }, in)
	c := d.connect(t, packet.V311, "D-1")
	c.send(reading(1, "a"))
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := d.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	c.closed(0)
	if _, err := c.read(); err == nil {
		t.Error("still open")
	}
}

// Quarantined messages are acknowledged: 5.0 clients hear 0x99 when nothing of it was good, and both versions get
// the reasons on down/errors.
func TestQuarantine_is_told(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/#"), QoS: 1}}})
		if s := c.recv().(*packet.Suback); len(s.Codes) != 1 || s.Codes[0] != 1 {
			t.Fatalf("%+v", s)
		}
		for _, tc := range []struct {
			body   string
			code   packet.ReasonCode
			errors int
		}{{"good", 0, 0}, {"bad", packet.PayloadFormatInvalid, 1}, {"good bad bad", 0, 2}, {strings.Repeat("bad", 30), packet.PayloadFormatInvalid, 20}} {
			c.send(reading(5, tc.body))
			var told []int
			for {
				p := c.recv()
				if pub, ok := p.(*packet.Publish); ok {
					var m struct {
						At              time.Time
						Problem, Detail string
						Index           int
					}
					if err := json.Unmarshal(pub.Payload, &m); err != nil || m.At.IsZero() || m.Problem != "unit_unknown" || m.Detail != "use a UCUM code" ||
						string(pub.Topic) != "vw/v1/D-1/down/errors" || pub.QoS != 0 {
						t.Errorf("%s on %s: %v", pub.Payload, pub.Topic, err)
					}
					told = append(told, m.Index)
					continue // the PUBACK comes last: a client may leave when it has it
				}
				ack := p.(*packet.Ack)
				want := tc.code
				if v == packet.V311 {
					want = 0
				}
				if ack.ID != 5 || ack.Code != want {
					t.Errorf("%s: PUBACK %d %v, want %v", tc.body, ack.ID, ack.Code, want)
				}
				if v == packet.V5 && tc.errors > 0 && !strings.Contains(string(ack.Props.Data(packet.ReasonString)), "unit_unknown") {
					t.Errorf("reason string %q", ack.Props.Data(packet.ReasonString))
				}
				break
			}
			if len(told) != tc.errors {
				t.Errorf("%s: told %v", tc.body, told)
			}
		}
		c.alive()
		if n := count(t, d.m.Dropped.WithLabelValues("errors_bound")); n != 10 {
			t.Errorf("%v dropped", n)
		}
	})
}

// A 5.0 client that wants no reason strings, or has no room for them, gets the code alone.
func TestQuarantine_without_reason_string(t *testing.T) {
	for name, set := range map[string]func(p *packet.Connect){
		"not wanted": func(p *packet.Connect) { p.Props.SetNum(packet.RequestProblemInfo, 0) },
		"no room":    func(p *packet.Connect) { p.Props.SetNum(packet.MaximumPacketSize, 40) },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, nil, nil)
			c := d.connect(t, packet.V5, "D-1", set)
			c.send(reading(5, "bad"))
			if ack := c.puback(5); ack.Code != packet.PayloadFormatInvalid || ack.Props.Has(packet.ReasonString) {
				t.Errorf("%+v", ack)
			}
		})
	}
}

func TestStatus_and_acks(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c := d.connect(t, v, "D-1")
		up := func(id uint16, topic, body string) *packet.Publish {
			return &packet.Publish{QoS: 1, ID: id, Retain: true, Topic: []byte("vw/v1/D-1/up/" + topic), Payload: []byte(body)}
		}
		c.send(up(1, "status", `{"state":"online"}`), reading(2, "a"), up(3, "ack", `{"id":"c1"}`))
		c.puback(1)
		c.puback(2)
		c.puback(3)
		for _, want := range []string{`status D-1 {"state":"online"}`, `ack D-1 {"id":"c1"}`} {
			if got := <-d.st.got; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a]" {
			t.Errorf("stored %s", got)
		}
		// For good: acknowledged with the reason. Transient: not, and readings before it are.
		d.st.fail = func() error {
			return fmt.Errorf("status: %w", &payload.Problem{Code: "status_invalid", Detail: "send a state"})
		}
		c.send(up(4, "status", "{"))
		if ack := c.puback(4); v == packet.V5 && ack.Code != packet.PayloadFormatInvalid {
			t.Errorf("%+v", ack)
		}
		d.st.fail = func() error { return errors.New("database is locked") }
		c.send(reading(5, "b"), up(6, "status", "{}"), reading(7, "c"))
		c.puback(5)
		c.closed(packet.ServerBusy)
		if got := fmt.Sprint(d.in.payloads()); got != "[readings:a readings:b]" {
			t.Errorf("stored %s", got)
		}
	})
}

// While the journal stalls, connections wait and hold no read buffer: memory stays flat.
func TestOverload_holds_no_buffers(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	const n = 200
	release := make(chan struct{})
	entered := make(chan struct{}, n)
	cfg := patient()
	cfg.Listen = "127.0.0.1:0"
	s := mqttd.New(cfg, mqttd.Deps{Auth: doors{}, Intake: mqttd.IntakeFunc(func() mqttd.Batch { return &stalled{entered: entered, release: release} })})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	d := &door{Server: s}
	var clients []*client
	for i := range n {
		clients = append(clients, d.connect(t, packet.V311, fmt.Sprint("D-", i)))
	}
	msg := strings.Repeat("x", 60_000)
	before := inUse()
	for i, c := range clients {
		c.send(readingOf(fmt.Sprint("D-", i), 1, msg))
		<-entered
	}
	if per := (int64(inUse()) - int64(before)) / n; per > 20<<10 {
		t.Errorf("%d bytes held for each waiting connection", per)
	}
	close(release)
	for _, c := range clients {
		c.puback(1)
	}
}

type stalled struct {
	entered chan<- struct{}
	release <-chan struct{}
	n       int
}

func (s *stalled) Add(ingest.Message) { s.n++ }

func (s *stalled) Commit(context.Context) ([]ingest.Result, error) {
	s.entered <- struct{}{}
	<-s.release
	r := make([]ingest.Result, s.n)
	s.n = 0
	return r, nil
}
