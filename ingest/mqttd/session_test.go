package mqttd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/vitals"
)

// hello connects and returns the CONNACK.
func (d *door) hello(t testing.TB, v packet.Version, id string, change ...func(*packet.Connect)) (*client, *packet.Connack) {
	t.Helper()
	c := d.dial(t, v)
	p := connectPacket(v, id)
	for _, f := range change {
		f(p)
	}
	c.send(p)
	return c, c.recv().(*packet.Connack)
}

// bye leaves and waits until the server has seen it.
func (c *client) bye(props ...func(*packet.Disconnect)) {
	c.t.Helper()
	var p packet.Disconnect
	for _, f := range props {
		f(&p)
	}
	c.send(&p)
	c.gone()
}

func downAll(device string, qos byte) *packet.Subscribe {
	return &packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/" + device + "/down/#"), QoS: qos}}}
}

func TestSession_present(t *testing.T) {
	expiry := func(s uint32) func(*packet.Connect) {
		return func(p *packet.Connect) {
			if p.Version == packet.V5 {
				p.Props.SetNum(packet.SessionExpiry, s)
			}
		}
	}
	resume := func(p *packet.Connect) { p.CleanStart = false }
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		hello := func(id string, want bool, change ...func(*packet.Connect)) (*client, *packet.Connack) {
			t.Helper()
			c, ack := d.hello(t, v, id, change...)
			if ack.Code != 0 || ack.SessionPresent != want {
				t.Fatalf("%s: %+v, want session present %v", id, ack, want)
			}
			return c, ack
		}
		c, _ := hello("D-1", false, kept)
		c.send(downAll("D-1", 0))
		c.recv()
		c.bye()
		c, _ = hello("D-1", true, kept)
		c.alive()
		if !d.Publish("D-1", "down/x", []byte("still subscribed")) {
			t.Error("subscription lost")
		}
		c.recv()
		c.nc.Close() // without a word: the same
		c, _ = hello("D-1", true, kept)
		other, _ := hello("D-1", true, kept) // taken over
		c.closed(packet.SessionTakenOver)
		other.bye()
		c, _ = hello("D-1", false) // clean
		if d.Publish("D-1", "down/x", nil) {
			t.Error("subscription of an ended session")
		}
		c.bye()
		c, _ = hello("D-1", false, kept)
		c.bye()
		c, _ = hello("D-1", true, resume) // 5.0: expiry 0 from now on; 3.1.1: kept
		c.bye()
		_, _ = hello("D-1", v == packet.V311, kept)

		if v == packet.V311 {
			return
		}
		_, ack := hello("D-2", false, expiry(3600))
		if ack.Props.Has(packet.SessionExpiry) {
			t.Error("told an expiry that the client had asked for")
		}
		_, ack = hello("D-3", false, expiry(4294967295))
		if n := ack.Props.Num(packet.SessionExpiry, 0); n != 7*24*3600 {
			t.Errorf("capped to %d s", n)
		}
		set := func(s uint32) func(*packet.Disconnect) {
			return func(p *packet.Disconnect) { p.Props.SetNum(packet.SessionExpiry, s) }
		}
		c, _ = hello("D-4", false, expiry(1))
		c.bye(set(3600))
		c, _ = hello("D-4", true, resume, expiry(3600))
		c.bye(set(0))
		hello("D-4", false, resume)
	})
}

func TestSession_expires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := pipeServer(t, mqttd.Deps{Intake: &intake{}, Auth: doors{}})
		connect := func(want bool, change ...func(*packet.Connect)) (*client, chan packet.Packet) {
			t.Helper()
			c, got := l.connect(t, packet.V5, change...)
			if ack := (<-got).(*packet.Connack); ack.SessionPresent != want {
				t.Fatalf("session present %v after %v", ack.SessionPresent, time.Now())
			}
			return c, got
		}
		leave := func(c *client, got chan packet.Packet) {
			c.nc.Close()
			for range got {
			}
			synctest.Wait()
		}
		c, got := connect(false, kept, func(p *packet.Connect) { p.KeepAlive = 1200 })
		time.Sleep(25 * time.Minute)
		leave(c, got)
		time.Sleep(59 * time.Minute) // counted from the end of the connection
		c, got = connect(true, kept)
		leave(c, got)
		time.Sleep(61 * time.Minute)
		c, got = connect(false, kept)
		leave(c, got)
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// pipeServer serves on in-memory connections, for bubbles.
func pipeServer(t *testing.T, deps mqttd.Deps) (*mqttd.Server, *pipes) {
	cfg := mqttd.DefaultConfig()
	s := mqttd.New(cfg, deps)
	l := &pipes{make(chan net.Conn), make(chan struct{})}
	go s.Serve(l)
	return s, l
}

// A will is the device's status when it is lost for good: not when it is back in time, and never after what the
// newer connection said.
func TestWill_delay(t *testing.T) {
	for _, tc := range []struct {
		name          string
		delay, expiry uint32
		back          time.Duration // 0: never
		want          time.Duration // 0: no will
	}{
		{"at once", 0, 3600, 0, 1},
		{"after its delay", 60, 3600, 0, 60 * time.Second},
		{"at the end of the session", 3600, 60, 0, 60 * time.Second},
		{"without a session", 60, 0, 0, 1},
		{"back in time", 60, 3600, 59 * time.Second, 0},
		{"back too late", 60, 3600, 61 * time.Second, 60 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var told []string
				start := time.Now()
				st := statusFunc(func(p []byte) error {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, fmt.Sprint(string(p), " ", time.Since(start).Round(time.Second)))
					return nil
				})
				s, l := pipeServer(t, mqttd.Deps{Intake: &intake{}, Auth: doors{}, Status: st})
				c, got := l.connect(t, packet.V5, func(p *packet.Connect) {
					p.CleanStart = false
					p.Props.SetNum(packet.SessionExpiry, tc.expiry)
					p.HasWill, p.Will = true, packet.Will{QoS: 2, Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte("lost")}
					p.Will.Props.SetNum(packet.WillDelay, tc.delay)
				})
				<-got
				c.nc.Close()
				synctest.Wait()
				if tc.back > 0 {
					time.Sleep(tc.back)
					c, got = l.connect(t, packet.V5, kept)
					<-got
					p := reading(1, "online")
					p.Topic = []byte("vw/v1/D-1/up/status")
					c.send(p)
					<-got
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				var want []string
				if tc.want > 0 {
					want = append(want, fmt.Sprint("lost ", tc.want.Round(time.Second)))
				}
				if tc.back > 0 {
					want = append(want, fmt.Sprint("online ", tc.back))
				}
				if fmt.Sprint(told) != fmt.Sprint(want) {
					t.Errorf("told %v, want %v", told, want)
				}
				c.nc.Close()
				s.Shutdown(context.Background())
			})
		})
	}
}

type statusFunc func([]byte) error

func (f statusFunc) Status(_ context.Context, _ vitals.DeviceID, p []byte, _ vitals.Micros) error {
	return f(p)
}

// The will of a lost connection is given before the next one is let in, also when it takes its time.
func TestWill_before_the_next_connection(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		entered, release := make(chan struct{}), make(chan struct{})
		var mu sync.Mutex
		var told []string
		d := open(t, nil, nil)
		d.st.fail = func() error {
			mu.Lock()
			defer mu.Unlock()
			if told = append(told, "status"); len(told) == 1 {
				close(entered)
				mu.Unlock()
				<-release
				mu.Lock()
			}
			return nil
		}
		will := func(p *packet.Connect) {
			p.HasWill, p.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte("lost")}
		}
		c := d.connect(t, v, "D-1", will)
		c.nc.Close()
		<-entered
		next := d.dial(t, v)
		p := connectPacket(v, "D-1")
		will(p)
		online := reading(1, "online")
		online.Topic = []byte("vw/v1/D-1/up/status")
		next.send(p, online)
		next.silence()
		close(release)
		if ack := next.recv().(*packet.Connack); ack.Code != 0 {
			t.Fatal(ack.Code)
		}
		next.puback(1)
		if a, b := <-d.st.got, <-d.st.got; a != "status D-1 lost" || b != "status D-1 online" {
			t.Errorf("%s, then %s", a, b)
		}
		next.bye()
	})
}

// A newer connection waits for the older's commit, but not for ever.
func TestTakeover_waits_with_a_bound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, release := make(chan struct{}, 1), make(chan struct{})
		in := &intake{gate: func(context.Context, []ingest.Message) error {
			entered <- struct{}{}
			<-release
			return errors.New("late")
		}}
		s, l := pipeServer(t, mqttd.Deps{Intake: in, Auth: doors{}})
		c, got := l.connect(t, packet.V5)
		<-got
		c.send(reading(1, "a"))
		<-entered
		start := time.Now()
		_, got = l.connect(t, packet.V5)
		if ack := (<-got).(*packet.Connack); ack.Code != packet.ServerBusy {
			t.Errorf("%+v", ack)
		}
		if took, want := time.Since(start), mqttd.DefaultConfig().ConnectTimeout; took > want {
			t.Errorf("after %v, want %v", took, want)
		}
		close(release)
		synctest.Wait()
		c, got = l.connect(t, packet.V5) // its place in the line is free again
		if ack := (<-got).(*packet.Connack); ack.Code != 0 {
			t.Errorf("%+v", ack)
		}
		c.send(&packet.Ping{Kind: packet.PINGREQ})
		if p, ok := (<-got).(*packet.Ping); !ok {
			t.Errorf("got %+v, want PINGRESP", p)
		}
		c.nc.Close()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestConnect_assigned_client_id(t *testing.T) {
	login := func(p *packet.Connect) {
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("S-1"), true, []byte("secret-S-1")
	}
	both(t, func(t *testing.T, v packet.Version) {
		d := open(t, nil, nil)
		c, ack := d.hello(t, v, "", login)
		if ack.Code != 0 || v == packet.V5 && string(ack.Props.Data(packet.AssignedClientID)) != "S-1" {
			t.Fatalf("%+v", ack)
		}
		c.send(readingOf("S-1", 1, "x"))
		c.puback(1)
		_, ack = d.hello(t, v, "", login, func(p *packet.Connect) { p.CleanStart = false })
		if want := map[packet.Version]packet.ReasonCode{packet.V311: packet.Refused311ClientID, packet.V5: 0}[v]; ack.Code != want {
			t.Errorf("%+v, want %v", ack, want)
		}
	})
}

// A generated id is let in only where the authenticator says so.
func TestConnect_generated_client_id(t *testing.T) {
	cfg := patient()
	cfg.Listen = "127.0.0.1:0"
	s := mqttd.New(cfg, mqttd.Deps{Intake: &intake{}, Auth: anybody{}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	d := &door{Server: s}
	seen := map[string]bool{}
	for range 3 {
		_, ack := d.hello(t, packet.V5, "")
		id := string(ack.Props.Data(packet.AssignedClientID))
		if ack.Code != 0 || !vitals.ValidID(id) || seen[id] {
			t.Errorf("%v %q", ack.Code, id)
		}
		seen[id] = true
	}
}

type anybody struct{}

func (anybody) Authenticate(_ context.Context, l mqttd.Login) (vitals.DeviceID, error) {
	if !l.Assigned {
		return "", mqttd.ErrNotAuthorized
	}
	return vitals.DeviceID(l.ClientID), nil
}

func TestAlias(t *testing.T) {
	d := open(t, nil, nil)
	c, ack := d.hello(t, packet.V5, "D-1", kept)
	if n := ack.Props.Num(packet.TopicAliasMaximum, 0); n != 16 {
		t.Errorf("topic alias maximum %d", n)
	}
	pub := func(id uint16, alias uint32, topic, body string) *packet.Publish {
		p := reading(id, body)
		p.Topic = []byte(topic)
		p.Props.SetNum(packet.TopicAlias, alias)
		return p
	}
	c.send(pub(1, 16, "vw/v1/D-1/up/readings", "a"), pub(2, 16, "", "b"), pub(3, 1, "vw/v1/D-1/up/gatt", "c"), pub(4, 16, "", "d"),
		pub(5, 16, "vw/v1/D-1/up/fhir", "e"), pub(6, 16, "", "f"), pub(7, 1, "", "g"))
	for id := range uint16(7) {
		c.puback(id + 1)
	}
	// A foreign topic is foreign by whatever name, and does not spoil the others.
	c.send(pub(8, 2, "vw/v1/D-2/up/readings", "x"), pub(9, 2, "", "x"), pub(10, 1, "", "h"))
	c.answer(packet.PUBACK, 8, packet.NotAuthorized)
	c.answer(packet.PUBACK, 9, packet.NotAuthorized)
	c.puback(10)
	if got, want := fmt.Sprint(d.in.payloads()), "[readings:a readings:b gatt:c readings:d fhir:e fhir:f gatt:g gatt:h]"; got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
	c.nc.Close()
	c, _ = d.hello(t, packet.V5, "D-1", kept) // aliases end with the connection, also when the session does not
	c.send(pub(11, 16, "", "x"))
	c.closed(packet.ProtocolError)
}

// Aliases are bounded by what they stand for: 4 KiB a connection.
func TestAlias_bytes(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V5, "D-1")
	for i := range uint32(9) {
		p := reading(uint16(i+1), "x")
		p.Topic = []byte(strings.Repeat("t", 500))
		p.Props.SetNum(packet.TopicAlias, i+1)
		c.send(p)
		if i < 8 {
			c.answer(packet.PUBACK, uint16(i+1), 0)
		}
	}
	c.closed(packet.TopicAliasInvalid)
}

// Topics elsewhere: a gateway's, a foreign layout's, nobody's.
func TestTopics(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		in := &intake{}
		st := &statuses{got: make(chan string, 10)}
		cfg := patient()
		cfg.Listen = "127.0.0.1:0"
		s := mqttd.New(cfg, mqttd.Deps{Intake: in, Auth: doors{}, Status: st, Acks: st, Topics: routes{}})
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		defer s.Shutdown(context.Background())
		d := &door{Server: s, in: in}
		c := d.connect(t, v, "G-1")
		pub := func(id uint16, topic string) *packet.Publish {
			p := reading(id, "x")
			p.Topic = []byte(topic)
			return p
		}
		c.send(pub(1, "vw/v1/D-1/up/readings"), pub(2, "home/cuff/7"), pub(3, "home/me"), pub(4, "vw/v1/D-1/up/status"), pub(5, "$aws/things/x"), pub(6, strings.Repeat("é", 400)))
		for id := range uint16(4) {
			c.puback(id + 1)
		}
		c.answer(packet.PUBACK, 5, 0)
		c.answer(packet.PUBACK, 6, 0)
		want := []string{
			"D-1 via G-1 on vw/v1/D-1/up/readings as readings",
			" via G-1 on home/cuff/7 as omh",
			"G-1 via  on home/me as senml",
			"G-1 via  on $aws/things/x as ",
			"G-1 via  on " + strings.Repeat("é", 256) + " as ",
		}
		var got []string
		for _, m := range in.stored {
			got = append(got, fmt.Sprintf("%s via %s on %s as %s", m.Device, m.Gateway, m.Topic, m.Format))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s", strings.Join(got, "\n"))
		}
		if s := <-st.got; s != "status D-1 x" {
			t.Errorf("got %s", s)
		}
		c.send(pub(7, "vw/v1/D-2/up/readings"))
		if v == packet.V5 {
			if ack := c.puback(7); ack.Code != packet.NotAuthorized {
				t.Errorf("%+v", ack)
			}
		} else {
			c.closed(0)
		}
	})
}

// routes is a Topics where D-1 stands behind any gateway.
type routes struct{}

func (routes) Resolve(client vitals.DeviceID, topic []byte) (vitals.DeviceID, string, error) {
	t := string(topic)
	switch {
	case strings.HasPrefix(t, "vw/v1/D-1/up/"):
		return "D-1", t[len("vw/v1/D-1/up/"):], nil
	case strings.HasPrefix(t, "vw/v1/"):
		return "", "", mqttd.ErrForeignTopic
	case t == "home/me":
		return client, "senml", nil
	case strings.HasPrefix(t, "home/"):
		return "", "omh", nil
	}
	return "", "", fmt.Errorf("%w: tried all", mqttd.ErrUnknownTopic)
}

// A refused CONNECT is logged with the client id where that is one, and with nothing else that the client sent.
func TestConnect_refused_is_logged(t *testing.T) {
	d := open(t, nil, nil)
	for _, id := range []string{"S-7", "Zhang San 1962"} {
		d.hello(t, packet.V5, id, func(p *packet.Connect) {
			p.HasUsername, p.Username, p.HasPassword, p.Password = true, []byte("user-marked"), true, []byte("word-marked")
		})
	}
	log := d.log.String()
	if !strings.Contains(log, `"client_id":"S-7"`) || strings.Contains(log, "Zhang") || strings.Contains(log, "marked") {
		t.Errorf("log: %s", log)
	}
}

// Floods of properties and filters cost no more than their packet, and nothing afterwards.
func TestHostile_floods(t *testing.T) {
	d := open(t, nil, nil)
	c := d.connect(t, packet.V5, "D-1")
	p := reading(1, "x")
	for range 13_000 {
		p.Props.User = append(p.Props.User, packet.UserProperty{})
	}
	c.send(p)
	c.puback(1)
	sub := &packet.Subscribe{ID: 2}
	for range 10_000 {
		sub.Filters = append(sub.Filters, packet.Filter{Topic: []byte("a")})
	}
	c.send(sub)
	if s := c.recv().(*packet.Suback); len(s.Codes) != 10_000 || s.Codes[9999] != packet.NotAuthorized {
		t.Errorf("%d codes", len(s.Codes))
	}
	c.alive()
	if raceEnabled {
		return // the race detector's memory is not ours
	}
	before := inUse()
	for range 50 {
		c.send(p)
		c.puback(1)
	}
	if grown := int64(inUse()) - int64(before); grown > 4<<20 {
		t.Errorf("%d bytes kept", grown)
	}
}

// SUBACK says why on 5.0.
func TestSubscribe_refused_with_reason(t *testing.T) {
	for filter, want := range map[string]string{"#": "own", "vw/v1/D-1/down/a#": "wildcard", "$share/g/vw/v1/D-1/down/#": "shared"} {
		d := open(t, nil, nil)
		c := d.connect(t, packet.V5, "D-1")
		c.send(&packet.Subscribe{ID: 2, Filters: []packet.Filter{{Topic: []byte(filter)}}})
		if s := c.recv().(*packet.Suback); !s.Codes[0].Failed() || !strings.Contains(string(s.Props.Data(packet.ReasonString)), want) {
			t.Errorf("%s: %v %s", filter, s.Codes, s.Props.Data(packet.ReasonString))
		}
		c.nc.Close()
	}
}
