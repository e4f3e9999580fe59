package mqttd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// TestSession_model plays one device with several connections, sessions and bad habits against the real server, in a
// bubble of its own time, and compares every answer, what was applied and every will with a slow, obvious model.
func TestSession_model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failed any
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.close()
			defer func() { failed = recover() }()
			for range rapid.IntRange(10, 50).Draw(rt, "steps") {
				w.step(rt)
				w.check()
			}
		})
		// rapid ends a case by panicking, which does not cross the bubble; nor do its failures, and it must be able to
		// tell the two by their place.
		switch m := failed.(type) {
		case nil:
		case mismatch:
			rt.Fatalf("%s", m)
		default:
			panic(failed)
		}
	})
}

type mismatch string

func mismatchf(format string, args ...any) { panic(mismatch(fmt.Sprintf(format, args...))) }

// world is the server, the device's connection and the model.
type world struct {
	t      *testing.T
	in     *intake
	st     *statuses
	server *mqttd.Server
	l      *pipes
	served chan error
	fail   bool // commits fail
	line   *line
	n      int // messages so far, to make each unlike the others

	// The model.
	session *modelSession // nil: none
	conn    *modelConn    // nil: away
	applied []string
	wills   []string
}

type modelSession struct {
	subs   map[string]packet.ReasonCode // filter below down/ → granted
	ids    map[uint16]bool              // QoS 2 between PUBREC and PUBREL
	expiry time.Duration
	ends   time.Time // when away
	will   string    // delayed, when away
	willAt time.Time
}

type modelConn struct {
	v     packet.Version
	will  string
	delay time.Duration
	zero  bool // session expiry was 0 at CONNECT
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, st: &statuses{got: make(chan string, 1000)}}
	w.in = &intake{gate: func(context.Context, []ingest.Message) error {
		if w.fail {
			return errors.New("disk is on fire")
		}
		return nil
	}}
	w.start()
	return w
}

func (w *world) start() {
	w.server = mqttd.New(mqttd.DefaultConfig(), mqttd.Deps{Intake: w.in, Auth: doors{}, Status: w.st})
	w.l = &pipes{make(chan net.Conn), make(chan struct{})}
	w.served = make(chan error, 1)
	go func() { w.served <- w.server.Serve(w.l) }()
	synctest.Wait() // it serves before anybody may stop it
}

func (w *world) stop() {
	if err := w.server.Shutdown(context.Background()); err != nil {
		w.t.Error(err)
	}
	if err := <-w.served; err != nil {
		w.t.Error(err)
	}
}

func (w *world) close() {
	if w.line != nil {
		w.line.nc.Close()
	}
	w.stop()
}

// line is one connection's client side.
type line struct {
	*client
	mu   sync.Mutex
	got  []packet.Packet
	over bool // the server closed it
}

func (w *world) dial(v packet.Version) *line {
	ours, theirs := net.Pipe()
	w.l.conns <- theirs
	l := &line{client: &client{t: w.t, v: v, nc: ours, r: bufio.NewReader(ours)}}
	go func() {
		for {
			p, err := l.read()
			l.mu.Lock()
			if err != nil {
				l.over = true
				l.mu.Unlock()
				ours.Close()
				return
			}
			l.got = append(l.got, p)
			l.mu.Unlock()
		}
	}()
	return l
}

// talk writes packets at once and returns what came back when all has come to rest.
func (l *line) talk(ps ...packet.Packet) (got []packet.Packet, over bool) {
	if len(ps) > 0 {
		l.nc.Write(l.bytes(ps...)) // an error is a closed connection, seen below
	}
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	got, l.got = l.got, nil
	return got, l.over
}

// describe makes a packet comparable.
func describe(p packet.Packet) string {
	switch p := p.(type) {
	case *packet.Connack:
		return fmt.Sprintf("connack %v present=%v", p.Code, p.SessionPresent)
	case *packet.Ack:
		return fmt.Sprintf("%s %d %v", p.Kind, p.ID, p.Code)
	case *packet.Suback:
		return fmt.Sprintf("suback %d %v", p.ID, p.Codes)
	case *packet.Unsuback:
		return fmt.Sprintf("unsuback %d %v", p.ID, p.Codes)
	case *packet.Disconnect:
		return fmt.Sprintf("disconnect %v", p.Code)
	case *packet.Publish:
		if strings.HasSuffix(string(p.Topic), "/down/errors") {
			return "publish " + string(p.Topic)
		}
		return fmt.Sprintf("publish %s %s", p.Topic, p.Payload)
	}
	return p.Type().String()
}

// expect compares answers. Acknowledgements keep their order; others may come before them.
func expect(what string, got []packet.Packet, over bool, want []string, wantOver bool) {
	var texts []string
	for _, p := range got {
		texts = append(texts, describe(p))
	}
	split := func(in []string) (acks, rest []string) {
		for _, s := range in {
			if strings.HasPrefix(s, "pub") && !strings.HasPrefix(s, "publish") {
				acks = append(acks, s)
			} else {
				rest = append(rest, s)
			}
		}
		slices.Sort(rest)
		return
	}
	gotAcks, gotRest := split(texts)
	wantAcks, wantRest := split(want)
	if !slices.Equal(gotAcks, wantAcks) || !slices.Equal(gotRest, wantRest) || over != wantOver {
		mismatchf("%s\n got %q, closed %v\nwant %q, closed %v", what, texts, over, want, wantOver)
	}
}

// The model's own moves.

// passed ends what the clock has ended.
func (w *world) passed() {
	s := w.session
	if s == nil || w.conn != nil {
		return
	}
	now := time.Now()
	if s.will != "" && (!now.Before(s.willAt) || !now.Before(s.ends)) {
		w.wills, s.will = append(w.wills, s.will), ""
	}
	if !now.Before(s.ends) {
		w.session = nil
	}
}

// gone: the connection ended at this time, with or without its will.
func (w *world) gone(withWill bool, now time.Time) {
	c, s := w.conn, w.session
	w.conn, w.line = nil, nil
	will := c.will
	if !withWill {
		will = ""
	}
	if will != "" && (c.delay == 0 || s.expiry == 0) {
		w.wills, will = append(w.wills, will), ""
	}
	if s.expiry == 0 {
		w.session = nil
		return
	}
	s.ends, s.will, s.willAt = now.Add(s.expiry), will, now.Add(c.delay)
}

func (w *world) step(rt *rapid.T) {
	w.passed()
	names := []string{"connect", "connect", "connect", "sleep", "down"}
	if w.conn != nil {
		names = []string{"talk", "talk", "talk", "talk", "talk", "connect", "sleep", "down", "lose", "disconnect", "subscribe", "failing commit"}
	}
	map[string]func(*rapid.T){"connect": w.connect, "sleep": w.sleep, "down": w.down, "talk": w.talk, "lose": w.lose,
		"disconnect": w.disconnect, "subscribe": w.subscribe, "failing commit": w.failing}[rapid.SampledFrom(names).Draw(rt, "action")](rt)
}

func (w *world) check() {
	synctest.Wait()
	w.passed()
	if got := w.in.payloads(); !slices.Equal(got, w.applied) {
		mismatchf("applied %q, want %q", got, w.applied)
	}
	var wills []string
	for len(w.st.got) > 0 {
		wills = append(wills, <-w.st.got)
	}
	if !slices.Equal(wills, w.wills) {
		mismatchf("wills %q, want %q", wills, w.wills)
	}
	w.wills = nil
}

func (w *world) connect(rt *rapid.T) {
	v := rapid.SampledFrom(versions).Draw(rt, "version")
	p := connectPacket(v, "D-1")
	p.KeepAlive = 1200
	p.CleanStart = rapid.IntRange(0, 3).Draw(rt, "clean") == 3
	expiry := time.Duration(0)
	if v == packet.V311 {
		if !p.CleanStart {
			expiry = mqttd.DefaultConfig().MaxSessionExpiry
		}
	} else if s := rapid.SampledFrom([]uint32{0, 60, 3600}).Draw(rt, "expiry"); s > 0 {
		p.Props.SetNum(packet.SessionExpiry, s)
		expiry = time.Duration(s) * time.Second
	}
	c := &modelConn{v: v, zero: expiry == 0}
	if rapid.Bool().Draw(rt, "will") {
		w.n++
		body := fmt.Sprintf(`{"state":"lost","n":%d}`, w.n)
		p.HasWill, p.Will = true, packet.Will{Topic: []byte("vw/v1/D-1/up/status"), Payload: []byte(body)}
		c.will = "status D-1 " + body
		if v == packet.V5 {
			if s := rapid.SampledFrom([]uint32{0, 30, 600}).Draw(rt, "delay"); s > 0 {
				p.Will.Props.SetNum(packet.WillDelay, s)
				c.delay = time.Duration(s) * time.Second
			}
		}
	}
	old, oldConn := w.line, w.conn
	w.line = w.dial(v)
	if old != nil && w.session.expiry == 0 { // the old connection's session ends with it
		w.session = nil
	}
	s := w.session
	present := s != nil && !p.CleanStart
	if !present {
		s = &modelSession{subs: map[string]packet.ReasonCode{}, ids: map[uint16]bool{}}
	}
	s.expiry, s.will = expiry, ""
	got, over := w.line.talk(p)
	expect("connect", got, over, []string{fmt.Sprintf("connack %v present=%v", packet.Success, present)}, false)
	if old != nil {
		got, over := old.talk()
		var want []string
		if oldConn.v == packet.V5 {
			want = []string{"disconnect " + packet.SessionTakenOver.String()}
		}
		expect("takeover", got, over, want, true)
	}
	w.session, w.conn = s, c
}

func (w *world) lose(*rapid.T) {
	w.line.nc.Close()
	synctest.Wait()
	w.gone(true, time.Now())
}

func (w *world) disconnect(rt *rapid.T) {
	p := &packet.Disconnect{}
	if w.conn.v == packet.V5 {
		if rapid.Bool().Draw(rt, "with will") {
			p.Code = packet.DisconnectWithWill
		}
		if !w.conn.zero && rapid.Bool().Draw(rt, "other expiry") {
			s := rapid.SampledFrom([]uint32{0, 120}).Draw(rt, "expiry")
			p.Props.SetNum(packet.SessionExpiry, s)
			w.session.expiry = time.Duration(s) * time.Second
		}
	}
	got, over := w.line.talk(p)
	expect("disconnect", got, over, nil, true)
	w.gone(p.Code == packet.DisconnectWithWill, time.Now())
}

func (w *world) sleep(rt *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Second, 29 * time.Second, 45 * time.Second, 10 * time.Minute, 2 * time.Hour, 8 * 24 * time.Hour}).Draw(rt, "time")
	if w.conn == nil {
		time.Sleep(d)
		synctest.Wait()
		return
	}
	time.Sleep(min(d, 15*time.Minute)) // within the keep-alive
	got, over := w.line.talk(&packet.Ping{Kind: packet.PINGREQ})
	expect("ping", got, over, []string{"pingresp"}, false)
}

// down sends a message of the server's.
func (w *world) down(rt *rapid.T) {
	w.n++
	topic := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "topic")
	body := fmt.Sprint("down ", w.n)
	heard := false
	if w.conn != nil {
		_, one := w.session.subs[topic]
		_, all := w.session.subs["#"]
		heard = one || all
	}
	if sent := w.server.Publish("D-1", "down/"+topic, []byte(body)); sent != heard {
		mismatchf("sent %v, want %v", sent, heard)
	}
	if w.conn != nil {
		got, over := w.line.talk()
		var want []string
		if heard {
			want = []string{"publish vw/v1/D-1/down/" + topic + " " + body}
		}
		expect("down", got, over, want, false)
	}
}

func (w *world) subscribe(rt *rapid.T) {
	filters := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "#", "foreign"}), 1, 3).Draw(rt, "filters")
	full := func(f string) []byte {
		if f == "foreign" {
			return []byte("vw/v1/D-2/down/#")
		}
		return []byte("vw/v1/D-1/down/" + f)
	}
	if rapid.Bool().Draw(rt, "unsubscribe") {
		p := &packet.Unsubscribe{ID: 5}
		var codes []packet.ReasonCode
		for _, f := range filters {
			p.Filters = append(p.Filters, full(f))
			code := packet.NoSubscriptionExisted
			if _, ok := w.session.subs[f]; ok {
				code = packet.Success
				delete(w.session.subs, f)
			}
			codes = append(codes, code)
		}
		if w.conn.v == packet.V311 {
			codes = nil
		}
		got, over := w.line.talk(p)
		expect("unsubscribe", got, over, []string{fmt.Sprintf("unsuback 5 %v", codes)}, false)
		return
	}
	p := &packet.Subscribe{ID: 5}
	var codes []packet.ReasonCode
	for _, f := range filters {
		qos := rapid.ByteMax(2).Draw(rt, "QoS")
		p.Filters = append(p.Filters, packet.Filter{Topic: full(f), QoS: qos, RetainHandling: 0})
		code := packet.ReasonCode(min(qos, 1))
		switch {
		case f != "foreign":
			w.session.subs[f] = code
		case w.conn.v == packet.V311:
			code = packet.SubackFailure311
		default:
			code = packet.NotAuthorized
		}
		codes = append(codes, code)
	}
	got, over := w.line.talk(p)
	expect("subscribe", got, over, []string{fmt.Sprintf("suback 5 %v", codes)}, false)
}

// talk sends some packets in one write.
func (w *world) talk(rt *rapid.T) {
	v5 := w.conn.v == packet.V5
	var send []packet.Packet
	var want []string
	refused := map[uint16]bool{} // released once all is answered
	used := map[uint16]bool{}
	for range rapid.IntRange(1, 5).Draw(rt, "packets") {
		id := rapid.Uint16Range(1, 3).Draw(rt, "id")
		switch what := rapid.SampledFrom([]string{"publish", "publish", "pubrel", "ping", "puback", "foreign"}).Draw(rt, "packet"); what {
		case "ping":
			send, want = append(send, &packet.Ping{Kind: packet.PINGREQ}), append(want, "pingresp")
		case "puback": // of nothing
			send = append(send, &packet.Ack{Kind: packet.PUBACK, ID: id + 1000})
		case "pubrel":
			if used[id] { // no client could have heard its PUBREC yet
				continue
			}
			delete(w.session.ids, id)
			send, want = append(send, pubrel(id)), append(want, fmt.Sprintf("pubcomp %d %v", id, packet.Success))
		default:
			qos := rapid.SampledFrom([]byte{0, 1, 2, 2}).Draw(rt, "QoS")
			if qos == 2 && used[id] {
				continue // the same id twice in flight is no client's
			}
			w.n++
			body := fmt.Sprint("good ", w.n)
			if rapid.IntRange(0, 4).Draw(rt, "bad") == 0 {
				body = fmt.Sprint("bad ", w.n)
			}
			p := readingOf("D-1", id, body)
			p.QoS, p.Dup = qos, qos > 0 && rapid.Bool().Draw(rt, "DUP")
			foreign := what == "foreign" && v5 // 3.1.1 is closed for it
			if foreign {
				p.Topic = []byte("vw/v1/D-2/up/readings")
			}
			if qos == 0 {
				p.ID = 0
			}
			send = append(send, p)
			code := packet.Success
			switch {
			case foreign:
				code = packet.NotAuthorized
			case strings.HasPrefix(body, "bad") && v5:
				code = packet.PayloadFormatInvalid
			}
			if qos == 2 {
				used[id] = true
				if w.session.ids[id] { // the message from before
					want = append(want, fmt.Sprintf("pubrec %d %v", id, packet.Success))
					continue
				}
				if refused[id] = code.Failed(); !code.Failed() {
					w.session.ids[id] = true
				}
				want = append(want, fmt.Sprintf("pubrec %d %v", id, code))
			}
			if !foreign {
				w.applied = append(w.applied, "readings:"+body)
				if _, ok := w.session.subs["#"]; ok && strings.HasPrefix(body, "bad") {
					want = append(want, "publish vw/v1/D-1/down/errors")
				}
			}
			if qos == 1 {
				want = append(want, fmt.Sprintf("puback %d %v", id, code))
			}
		}
	}
	got, over := w.line.talk(send...)
	expect("talk", got, over, want, false)
}

// failing: the group is not stored. Nothing of it is acknowledged, the device is sent away, and may send it again.
func (w *world) failing(rt *rapid.T) {
	id := rapid.Uint16Range(1, 3).Draw(rt, "id")
	qos := rapid.ByteMax(2).Draw(rt, "QoS")
	known := qos == 2 && w.session.ids[id]
	w.n++
	p := readingOf("D-1", id, fmt.Sprint("good ", w.n))
	p.QoS = qos
	if qos == 0 {
		p.ID = 0
	}
	w.fail = true
	got, over := w.line.talk(p)
	w.fail = false
	if known { // not committed again
		expect("failing", got, over, []string{fmt.Sprintf("pubrec %d %v", id, packet.Success)}, false)
		return
	}
	var want []string
	if w.conn.v == packet.V5 {
		want = []string{"disconnect " + packet.ServerBusy.String()}
	}
	failed := time.Now()
	for range 20 { // the socket may be closed some seconds later, so that many do not come back at once
		if over {
			break
		}
		time.Sleep(time.Second)
		more, o := w.line.talk()
		got, over = append(got, more...), o
	}
	expect("failing", got, over, want, true)
	w.gone(true, failed)
}
