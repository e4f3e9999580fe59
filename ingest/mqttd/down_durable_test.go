package mqttd_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// lasting is a server over a state database that can be stopped, or crash, and started again.
type lasting struct {
	*door
	t    testing.TB
	path string
	db   *sqlite.DB
	st   *sessions.Store
	off  time.Duration // of the store's clock
}

func openLasting(t testing.TB) *lasting {
	h := &lasting{t: t, path: filepath.Join(t.TempDir(), "state.db")}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *lasting) start() {
	h.t.Helper()
	var err error
	if h.db, err = sqlite.Open(h.path); err != nil {
		h.t.Fatal(err)
	}
	off := h.off
	if h.st, err = sessions.Open(h.t.Context(), h.db, sessions.Options{Now: func() time.Time { return time.Now().Add(off) }, Warn: func(err error) { h.t.Error(err) }}); err != nil {
		h.t.Fatal(err)
	}
	cfg := patient()
	cfg.Listen = "127.0.0.1:0"
	d := &door{in: &intake{}, st: &statuses{got: make(chan string, 100)}, m: mqttd.NewMetrics(), log: &lockedBuffer{}}
	d.Server = mqttd.New(cfg, mqttd.Deps{Intake: d.in, Auth: doors{}, Status: d.st, Acks: d.st, Sessions: h.st, Metrics: d.m, Log: zerolog.New(d.log)})
	h.door = d
	if err := d.Start(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *lasting) stop() {
	h.t.Helper()
	if h.db == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := errors.Join(h.Shutdown(ctx), h.st.Close(), h.db.Close()); err != nil {
		h.t.Error(err)
	}
	h.db = nil
}

// crash copies the database as it is and goes on with the copy; the old server ends unheard.
func (h *lasting) crash() {
	h.t.Helper()
	next := filepath.Join(h.t.TempDir(), "state.db")
	// Nobody checkpoints here, so that the file and its log belong together.
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(h.path + suffix)
		if err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(next+suffix, b, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	h.stop()
	h.path = next
	h.start()
}

func (h *lasting) send(device, topic, body string, expires ...time.Duration) string {
	h.t.Helper()
	m := sessions.Message{Topic: topic, Payload: []byte(body)}
	if len(expires) > 0 {
		m.ExpiresAt = vitals.At(time.Now().Add(expires[0]))
	}
	id, err := h.st.Send(h.t.Context(), vitals.DeviceID(device), m)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// state waits until a message is in a state.
func (h *lasting) state(id string, want sessions.State) sessions.Info {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		m, err := h.st.Find(h.t.Context(), id)
		if err != nil {
			h.t.Fatal(err)
		}
		if m.State == want {
			return m
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("message is %s, want %s", m.State, want)
		}
		time.Sleep(time.Millisecond)
	}
}

// down expects a message on down/cmd.
func (c *client) down(body string, dup bool) *packet.Publish {
	c.t.Helper()
	p, ok := c.recv().(*packet.Publish)
	if !ok || string(p.Payload) != body || p.Dup != dup {
		c.t.Fatalf("got %+v, want %q with DUP %v", p, body, dup)
	}
	return p
}

func (c *client) ack(p *packet.Publish) {
	c.t.Helper()
	c.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
}

func subscribed(c *client, device string, qos byte) {
	c.t.Helper()
	c.send(downAll(device, qos))
	if s, ok := c.recv().(*packet.Suback); !ok || s.Codes[0].Failed() {
		c.t.Fatalf("got %+v", s)
	}
}

// What is sent to a device that is away waits, in order, also through a restart, and goes once.
func TestDown_waits_for_the_device(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		h := openLasting(t)
		var ids []string
		for i := range 3 {
			ids = append(ids, h.send("D-1", "cmd", fmt.Sprint("m", i)))
		}
		h.send("D-2", "cmd", "another's")
		h.stop()
		h.start()
		c := h.connect(t, v, "D-1")
		subscribed(c, "D-1", 2)
		for i := range 3 {
			p := c.down(fmt.Sprint("m", i), false)
			if p.QoS != 1 || string(p.Topic) != "vw/v1/D-1/down/cmd" || p.Retain {
				t.Errorf("%+v", p)
			}
			h.state(ids[i], sessions.Sent)
			c.ack(p)
			if m := h.state(ids[i], sessions.Delivered); m.SentAt == 0 || m.DeliveredAt < m.SentAt {
				t.Errorf("%+v", m)
			}
		}
		h.send("D-1", "cmd", "while connected")
		c.ack(c.down("while connected", false))
		c.alive()
		c.bye()
		c = h.connect(t, v, "D-1")
		subscribed(c, "D-1", 1)
		c.alive() // nothing comes twice
	})
}

// Without PUBACK a message comes again on the same session with DUP and its packet id, over restart and crash; in a new
// session as a new one.
func TestDown_resent(t *testing.T) {
	for name, between := range map[string]func(h *lasting, c *client){
		"reconnect": func(h *lasting, c *client) { c.bye() },
		"takeover":  func(*lasting, *client) {},
		"restart":   func(h *lasting, c *client) { c.nc.Close(); h.stop(); h.start() },
		"crash":     func(h *lasting, c *client) { h.crash() },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, v packet.Version) {
				h := openLasting(t)
				c := h.connect(t, v, "D-1", kept)
				subscribed(c, "D-1", 1)
				one, two := h.send("D-1", "cmd", "one"), h.send("D-1", "cmd", "two")
				p1, p2 := c.down("one", false), c.down("two", false)
				between(h, c)
				c, ack := h.hello(t, v, "D-1", kept)
				if !ack.SessionPresent {
					t.Fatal("no session")
				}
				if q := c.down("one", true); q.ID != p1.ID {
					t.Errorf("packet id %d, was %d", q.ID, p1.ID)
				}
				q := c.down("two", true)
				if q.ID != p2.ID {
					t.Errorf("packet id %d, was %d", q.ID, p2.ID)
				}
				c.ack(q) // out of order
				h.state(two, sessions.Delivered)
				between(h, c)
				c = h.connect(t, v, "D-1") // clean
				subscribed(c, "D-1", 1)
				c.ack(c.down("one", false))
				h.state(one, sessions.Delivered)
				c.alive()
			})
		})
	}
}

func TestDown_receive_maximum(t *testing.T) {
	h := openLasting(t)
	c := h.connect(t, packet.V5, "D-1", kept, func(p *packet.Connect) { p.Props.SetNum(packet.ReceiveMaximum, 2) })
	subscribed(c, "D-1", 1)
	for i := range 5 {
		h.send("D-1", "cmd", fmt.Sprint(i))
	}
	a, b := c.down("0", false), c.down("1", false)
	c.silence()
	c.ack(b)
	d := c.down("2", false)
	c.silence()
	c.bye()
	c = h.connect(t, packet.V5, "D-1", kept, func(p *packet.Connect) { p.Props.SetNum(packet.ReceiveMaximum, 1) })
	if q := c.down("0", true); q.ID != a.ID {
		t.Error("other id")
	}
	c.silence()
	c.ack(a)
	if q := c.down("2", true); q.ID != d.ID {
		t.Error("other id")
	}
	c.ack(d)
	c.ack(c.down("3", false))
	c.ack(c.down("4", false))
	c.alive()
}

func TestDown_expiry(t *testing.T) {
	h := openLasting(t)
	begin := time.Now()
	late := h.send("D-1", "cmd", "late", time.Minute)
	h.send("D-1", "cmd", "in time", time.Hour)
	h.send("D-1", "cmd", "for ever")
	h.stop()
	h.off = 2 * time.Minute
	h.start()
	c := h.connect(t, packet.V5, "D-1")
	subscribed(c, "D-1", 1)
	p := c.down("in time", false)
	if n := p.Props.Num(packet.MessageExpiry, 0); n > 3600 || n < 3599-uint32(time.Since(begin).Seconds()) {
		t.Errorf("message expiry interval %d", n)
	}
	if p := c.down("for ever", false); p.Props.Has(packet.MessageExpiry) {
		t.Error("an interval without expiry")
	}
	if err := h.st.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.state(late, sessions.Expired)
}

// What the device chose by its subscription is what it gets: QoS 0 is sent and no more; what it did not subscribe to
// waits; subscription identifiers come along.
func TestDown_subscriptions(t *testing.T) {
	h := openLasting(t)
	other, cmd := h.send("D-1", "other/x", "o"), h.send("D-1", "cmd", "c")
	c := h.connect(t, packet.V5, "D-1")
	sub := &packet.Subscribe{ID: 1, Filters: []packet.Filter{{Topic: []byte("vw/v1/D-1/down/cmd")}}}
	sub.Props.SubscriptionIDs = []uint32{7}
	c.send(sub)
	c.recv()
	if p := c.down("c", false); p.QoS != 0 || fmt.Sprint(p.Props.SubscriptionIDs) != "[7]" {
		t.Errorf("%+v", p)
	}
	h.state(cmd, sessions.Sent)
	h.state(other, sessions.Waiting)
	sub = downAll("D-1", 1)
	sub.Props.SubscriptionIDs = []uint32{9}
	c.send(sub)
	c.recv()
	if p := c.down("o", false); p.QoS != 1 || fmt.Sprint(p.Props.SubscriptionIDs) != "[9]" {
		t.Errorf("%+v", p)
	}
	if !h.Publish("D-1", "down/cmd", []byte("both")) {
		t.Error("not sent")
	}
	if p := c.down("both", false); fmt.Sprint(p.Props.SubscriptionIDs) != "[7 9]" {
		t.Errorf("%+v", p)
	}
}

func TestDown_failed(t *testing.T) {
	h := openLasting(t)
	c := h.connect(t, packet.V5, "D-1", func(p *packet.Connect) { p.Props.SetNum(packet.MaximumPacketSize, 200) })
	subscribed(c, "D-1", 1)
	big, no := h.send("D-1", "cmd", strings.Repeat("x", 300)), h.send("D-1", "cmd", "no")
	p := c.down("no", false)
	c.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID, Code: packet.ImplementationError})
	if m := h.state(no, sessions.Failed); !strings.Contains(m.Detail, "0x83") {
		t.Errorf("%+v", m)
	}
	if m := h.state(big, sessions.Failed); !strings.Contains(m.Detail, "maximum packet size") {
		t.Errorf("%+v", m)
	}
}

func TestCommand_answered(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		h := openLasting(t)
		id, err := h.st.Command(t.Context(), "D-1", sessions.Command{Cmd: sessions.Text, Text: map[string]string{"en": "please rest"}})
		if err != nil {
			t.Fatal(err)
		}
		c := h.connect(t, v, "D-1", kept)
		subscribed(c, "D-1", 1)
		p := c.recv().(*packet.Publish)
		var body struct {
			ID, Cmd   string
			ExpiresAt time.Time `json:"expires_at"`
			Text      map[string]string
		}
		if err := json.Unmarshal(p.Payload, &body); err != nil || body.ID != id || body.Cmd != "message" || body.Text["en"] != "please rest" ||
			time.Until(body.ExpiresAt) < 23*time.Hour {
			t.Fatalf("%s: %v", p.Payload, err)
		}
		answer := func(pid uint16, body string) *packet.Publish {
			p := reading(pid, body)
			p.Topic = []byte("vw/v1/D-1/up/ack")
			return p
		}
		c.send(answer(1, fmt.Sprintf(`{"id":%q,"result":"done","more":1}`, id))) // before its PUBACK
		c.puback(1)
		if m := h.state(id, sessions.Answered); m.Result != "done" || m.AnsweredAt == 0 {
			t.Errorf("%+v", m)
		}
		if got := <-h.door.st.got; !strings.HasPrefix(got, "ack D-1 ") {
			t.Errorf("got %s", got)
		}
		c.ack(p)
		c.send(answer(2, fmt.Sprintf(`{"id":%q,"result":"failed"}`, id))) // the first counts
		c.puback(2)
		<-h.door.st.got
		for pid, body := range map[uint16]string{3: `{"id":"never-sent","result":"done"}`, 4: `{"result":"done"}`} {
			c.send(answer(pid, body))
			if p, ok := c.recv().(*packet.Publish); !ok || string(p.Topic) != "vw/v1/D-1/down/errors" {
				t.Fatalf("got %+v", p)
			}
			if ack := c.puback(pid); v == packet.V5 && ack.Code != packet.PayloadFormatInvalid {
				t.Errorf("%+v", ack)
			}
		}
		if m := h.state(id, sessions.Answered); m.Result != "done" || m.DeliveredAt == 0 {
			t.Errorf("%+v", m)
		}
		c.bye()
		c = h.connect(t, v, "D-1", kept)
		c.alive() // answered is not sent again
	})
}

func TestConfig_retained(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		h := openLasting(t)
		set := func(body string) {
			t.Helper()
			if err := h.st.SetConfig(t.Context(), "D-1", []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		get := func(c *client, body string, retain, dup bool) *packet.Publish {
			t.Helper()
			q := c.recv()
			p, ok := q.(*packet.Publish)
			if !ok {
				t.Fatalf("got %+v, want %q", q, body)
			}
			if string(p.Payload) != body || string(p.Topic) != "vw/v1/D-1/down/config" || p.Retain != retain || p.QoS != 1 || p.Dup != dup {
				t.Fatalf("got %+v, want %q retain %v dup %v", p, body, retain, dup)
			}
			return p
		}
		set("one")
		h.stop()
		h.start()
		c := h.connect(t, v, "D-1", kept)
		subscribed(c, "D-1", 1)
		c.ack(get(c, "one", true, false))
		subscribed(c, "D-1", 1) // each subscription asks again
		c.ack(get(c, "one", true, false))
		set("two")
		p := get(c, "two", false, false)
		c.bye() // without PUBACK
		c = h.connect(t, v, "D-1", kept)
		if q := get(c, "two", false, true); q.ID != p.ID {
			t.Error("other packet id")
		}
		c.ack(p)
		c.alive()
		c.bye()
		set("three") // while away, with a session
		c = h.connect(t, v, "D-1", kept)
		c.ack(get(c, "three", false, false))
		set("") // cleared: who is subscribed hears it, a new subscription gets nothing
		c.ack(get(c, "", false, false))
		subscribed(c, "D-1", 1)
		c.alive()
		if v == packet.V311 {
			return
		}
		set("four")
		c.ack(get(c, "four", false, false))
		option := func(handling byte, rap bool) {
			t.Helper()
			p := downAll("D-1", 1)
			p.Filters[0].RetainHandling, p.Filters[0].RetainAsPublished = handling, rap
			c.send(p)
			c.recv()
		}
		option(1, true) // not a new subscription
		c.alive()
		option(2, true)
		c.alive()
		set("five")
		c.ack(get(c, "five", true, false)) // retain as published
		c.send(&packet.Unsubscribe{ID: 5, Filters: [][]byte{[]byte("vw/v1/D-1/down/#")}})
		c.recv()
		option(1, false) // new
		c.ack(get(c, "five", true, false))
		option(0, false)
		c.ack(get(c, "five", true, false))
	})
}

// Sessions with their subscriptions outlive a stop and a crash; a stop knows when the device went, a crash may forget.
func TestSession_outlives_the_server(t *testing.T) {
	both(t, func(t *testing.T, v packet.Version) {
		h := openLasting(t)
		c := h.connect(t, v, "D-1", kept)
		subscribed(c, "D-1", 1)
		ended := h.connect(t, v, "D-2", kept)
		ended.bye()
		h.connect(t, v, "D-2").bye() // clean
		present := func(id string, want bool) {
			t.Helper()
			c, ack := h.hello(t, v, id, kept)
			if ack.Code != 0 || ack.SessionPresent != want {
				t.Fatalf("%s: %+v, want session present %v", id, ack, want)
			}
			if want {
				c.alive()
				if !h.Publish(vid(id), "down/x", []byte("x")) {
					t.Fatal("subscription lost")
				}
				c.recv()
			}
		}
		h.crash()
		present("D-1", true)
		present("D-2", false)
		age := func() {
			if err := h.db.Write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `UPDATE mqtt_sessions SET away_since = away_since - 8 * 86400000000 WHERE away_since > 0`)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		h.Shutdown(t.Context())
		h.st.Close()
		age() // it went eight days ago, and the server stopped in order
		h.stop()
		h.start()
		present("D-1", false)
		h.connect(t, v, "D-3", kept).bye()
		h.connect(t, v, "D-4", kept).bye()
		h.stop()
		h.start()
		age()
		h.crash() // nobody knows when it went
		_, ack := h.hello(t, v, "D-3", kept)
		if !ack.SessionPresent {
			t.Error("a crash ended a session")
		}
	})
}

// Many devices that come at once share transactions.
func TestSession_storm(t *testing.T) {
	h := openLasting(t)
	const n = 300
	var cs []*client
	for i := range n {
		c := h.dial(t, packet.V5)
		p := connectPacket(packet.V5, fmt.Sprint("D-", i))
		kept(p)
		c.send(p)
		cs = append(cs, c)
	}
	for _, c := range cs {
		if ack := c.recv().(*packet.Connack); ack.Code != 0 {
			t.Fatal(ack.Code)
		}
	}
	for i, c := range cs {
		c.send(downAll(fmt.Sprint("D-", i), 1))
	}
	for _, c := range cs {
		c.recv()
	}
	h.crash()
	for i := range n {
		if _, ack := h.hello(t, packet.V5, fmt.Sprint("D-", i), kept); !ack.SessionPresent {
			t.Fatalf("session %d lost", i)
		}
	}
}
