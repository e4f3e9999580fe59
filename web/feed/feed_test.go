package feed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"vitalwatch/internal/leaktest"
	"vitalwatch/web/feed"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// wait bounds every wait of a test for an event; a test that needs it has failed.
const wait = time.Minute

// ledger is a History in memory that behaves: commits are ordered, old events can be trimmed.
type ledger struct {
	mu     sync.Mutex
	epoch  string
	events []feed.Event
	oldest uint64
	open   map[string]feed.Open
	fail   atomic.Bool
	failed chan struct{} // holds one when a read has failed
}

func newLedger(epoch string) *ledger {
	return &ledger{epoch: epoch, oldest: 1, open: map[string]feed.Open{}, failed: make(chan struct{}, 1)}
}

func (l *ledger) Epoch() string { return l.epoch }

func (l *ledger) Seq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.events))
}

var errDisk = errors.New("disk")

func (l *ledger) Since(_ context.Context, seq uint64, limit int) ([]feed.Event, error) {
	if l.fail.Load() {
		select {
		case l.failed <- struct{}{}:
		default:
		}
		return nil, errDisk
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq+1 < l.oldest {
		return nil, feed.ErrGone
	}
	if seq >= uint64(len(l.events)) {
		return nil, nil
	}
	rest := l.events[seq:]
	return append([]feed.Event(nil), rest[:min(limit, len(rest))]...), nil
}

func (l *ledger) Snapshot(context.Context) (feed.Snapshot, error) {
	if l.fail.Load() {
		return feed.Snapshot{}, errDisk
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := feed.Snapshot{Seq: uint64(len(l.events))}
	for i := range l.events {
		if o, ok := l.open[l.events[i].Patient]; ok && i == l.lastOf(l.events[i].Patient) {
			s.Alerts = append(s.Alerts, o)
		}
	}
	return s, nil
}

func (l *ledger) lastOf(patient string) int {
	for i := len(l.events) - 1; i >= 0; i-- {
		if l.events[i].Patient == patient {
			return i
		}
	}
	return -1
}

// commit appends one transition of the patient's only alert.
func (l *ledger) commit(patient, kind string) feed.Event { return l.commitSized(patient, kind, 0) }

func (l *ledger) commitSized(patient, kind string, pad int) feed.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := uint64(len(l.events) + 1)
	b := json.RawMessage(fmt.Sprintf(`{"id":"A-%s","patient_id":%q,"seq":%d,"pad":%q}`, patient, patient, seq, strings.Repeat("x", pad)))
	e := feed.Event{Seq: seq, Patient: patient, Kind: kind, At: time.Now(), Alert: b}
	l.events = append(l.events, e)
	if kind == "resolved" {
		delete(l.open, patient)
	} else {
		l.open[patient] = feed.Open{Patient: patient, Alert: b}
	}
	return e
}

func (l *ledger) trim(oldest uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.oldest = oldest
}

// people is an Auth: "Bearer NAME" and the ticket NAME sign NAME in, once it was added.
type people struct {
	mu   sync.Mutex
	who  map[string]feed.Viewer
	acks []string
	seen []string
}

func newPeople() *people {
	return &people{who: map[string]feed.Viewer{"all": {Name: "all", Credential: "all"}}}
}

func (p *people) set(name string, v feed.Viewer) {
	v.Name, v.Credential = name, name
	p.mu.Lock()
	defer p.mu.Unlock()
	p.who[name] = v
}

func (p *people) remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.who, name)
}

func (p *people) get(name string) (feed.Viewer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.who[name]
	if !ok {
		return v, feed.ErrUnauthorised
	}
	return v, nil
}

func (p *people) FromRequest(r *http.Request) (feed.Viewer, error) {
	h := r.Header.Get("Authorization")
	if h == "" {
		return feed.Viewer{}, feed.ErrNoCredential
	}
	return p.get(strings.TrimPrefix(h, "Bearer "))
}
func (p *people) FromTicket(_ context.Context, t string) (feed.Viewer, error) { return p.get(t) }
func (p *people) Renew(_ context.Context, v feed.Viewer) (feed.Viewer, error) {
	return p.get(v.Credential)
}

func (p *people) ack(_ context.Context, v feed.Viewer, alert, note string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if alert == "none" {
		return feed.ErrForbidden
	}
	p.acks = append(p.acks, v.Name+" "+alert+" "+note)
	return nil
}

func (p *people) subscribed(_ context.Context, v feed.Viewer, patient string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, v.Name+":"+patient)
	return nil
}

// only returns a viewer who sees some patients.
func only(scope uint64, patients ...string) feed.Viewer {
	return feed.Viewer{Scope: scope, May: func(p string) bool {
		for _, x := range patients {
			if x == p {
				return true
			}
		}
		return false
	}}
}

type server struct {
	*testing.T
	hub    *feed.Hub
	people *people
	url    string
	reg    *prometheus.Registry
}

func start(t *testing.T, l *ledger, change func(*feed.Options)) *server {
	t.Helper()
	s := &server{T: t, people: newPeople(), reg: prometheus.NewRegistry()}
	o := feed.Options{History: l, Auth: s.people, Ack: s.people.ack, Subscribed: s.people.subscribed, Metrics: s.reg, Farewell: 5 * time.Second}
	if change != nil {
		change(&o)
	}
	hub, err := feed.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.hub = hub
	h := httptest.NewServer(hub)
	s.url = "ws" + strings.TrimPrefix(h.URL, "http")
	t.Cleanup(func() {
		s.stop()
		h.Close()
	})
	return s
}

func (s *server) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := s.hub.Shutdown(ctx); err != nil {
		s.Errorf("shutdown: %v", err)
	}
}

// metric is the sum of a metric over its labels.
func (s *server) metric(name string) float64 {
	s.Helper()
	fs, err := s.reg.Gather()
	if err != nil {
		s.Fatal(err)
	}
	sum := 0.0
	for _, f := range fs {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				sum += m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				sum += m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				sum += float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return sum
}

// frame is any server frame.
type frame struct {
	Type       string            `json:"type"`
	Epoch      string            `json:"epoch"`
	Seq        *uint64           `json:"seq"`
	Transition string            `json:"transition"`
	At         string            `json:"at"`
	From       uint64            `json:"from"`
	To         uint64            `json:"to"`
	ID         int64             `json:"id"`
	OK         bool              `json:"ok"`
	Problem    json.RawMessage   `json:"problem"`
	Alerts     []json.RawMessage `json:"alerts"`
	Alert      struct {
		ID  string `json:"id"`
		Seq uint64 `json:"seq"`
	} `json:"alert"`
	Patient  string          `json:"patient_id"`
	Reading  json.RawMessage `json:"reading"`
	Channels []string        `json:"channels"`
	Code     int             `json:"code"`
	RetryMS  int             `json:"retry_ms"`
}

type conn struct {
	*testing.T
	ws *websocket.Conn
}

func (s *server) dial(who string) *conn {
	s.Helper()
	h := http.Header{}
	if who != "" {
		h.Set("Authorization", "Bearer "+who)
	}
	d := websocket.Dialer{Subprotocols: []string{feed.Subprotocol}, HandshakeTimeout: wait}
	ws, _, err := d.Dial(s.url, h)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { ws.Close() })
	if ws.Subprotocol() != feed.Subprotocol {
		s.Fatalf("subprotocol = %q", ws.Subprotocol())
	}
	return &conn{s.T, ws}
}

func (c *conn) say(format string, args ...any) {
	c.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)); err != nil {
		c.Fatal(err)
	}
}

func (c *conn) read() (frame, error) {
	c.ws.SetReadDeadline(time.Now().Add(wait))
	_, b, err := c.ws.ReadMessage()
	if err != nil {
		return frame{}, err
	}
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		return frame{}, fmt.Errorf("%w in %q", err, b)
	}
	return f, nil
}

// next returns the next frame that is not a heartbeat.
func (c *conn) next() frame {
	c.Helper()
	for {
		f, err := c.read()
		if err != nil {
			c.Fatal(err)
		}
		if f.Type != "heartbeat" {
			return f
		}
	}
}

func (c *conn) want(kind string) frame {
	c.Helper()
	f := c.next()
	if f.Type != kind {
		c.Fatalf("frame = %+v, want a %s", f, kind)
	}
	return f
}

// closed reads until the connection is closed and returns the goodbye and the code.
func (c *conn) closed() (bye frame, code int) {
	c.Helper()
	for {
		f, err := c.read()
		var ce *websocket.CloseError
		if errors.As(err, &ce) {
			return bye, ce.Code
		}
		if err != nil {
			c.Fatalf("connection ended without a close frame: %v", err)
		}
		if f.Type == "bye" {
			bye = f
		}
	}
}

func (c *conn) subscribe(channels string, from string) frame {
	c.Helper()
	if from != "" {
		from = `,"from":` + from
	}
	c.say(`{"op":"subscribe","id":1,"channels":[%s]%s}`, channels, from)
	f := c.want("subscribed")
	if f.ID != 1 {
		c.Fatalf("subscribed = %+v, want id 1", f)
	}
	return f
}

func TestFeed_AlertsAreToldInOrderAndSnapshotsAreWhole(t *testing.T) {
	l := newLedger("e1")
	l.commit("P-1", "opened")
	l.commit("P-2", "opened")
	l.commit("P-2", "resolved")
	s := start(t, l, nil)
	c := s.dial("all")
	if h := c.want("hello"); h.Epoch != "e1" || *h.Seq != 3 {
		t.Fatalf("hello = %+v", h)
	}
	c.subscribe(`"alerts"`, "")
	snap := c.want("snapshot")
	if *snap.Seq != 3 || len(snap.Alerts) != 1 || !strings.Contains(string(snap.Alerts[0]), "A-P-1") {
		t.Fatalf("snapshot = %+v %s", snap, snap.Alerts)
	}
	s.hub.Publish(l.commit("P-3", "opened"), l.commit("P-3", "acknowledged"))
	for i, want := range []string{"opened", "acknowledged"} {
		f := c.want("alert")
		if *f.Seq != uint64(4+i) || f.Transition != want || f.Alert.ID != "A-P-3" {
			t.Fatalf("alert = %+v, want seq %d %s", f, 4+i, want)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", f.At); err != nil {
			t.Errorf("at = %q, want RFC 3339 UTC with ms", f.At)
		}
	}
}

func TestPublish_OrderOfCallsDoesNotMatterAndRepeatsAreToldOnce(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, nil)
	c := s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, "")
	c.want("snapshot")
	var events []feed.Event
	for i := range 200 {
		events = append(events, l.commit(fmt.Sprintf("P-%d", i), "opened"))
	}
	seed := rand.Uint64()
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	for _, e := range events {
		s.hub.Publish(e)
		s.hub.Publish(e)
	}
	for i := range 200 {
		if f := c.want("alert"); *f.Seq != uint64(i+1) {
			t.Fatalf("seed %d: seq = %d, want %d", seed, *f.Seq, i+1)
		}
	}
}

func TestResume(t *testing.T) {
	l := newLedger("e1")
	for i := range 300 {
		l.commit(fmt.Sprintf("P-%d", i%7), "opened")
	}
	l.trim(101)
	s := start(t, l, func(o *feed.Options) { o.MaxReplay = 250 })
	for _, tc := range []struct {
		name, from  string
		first, last uint64 // alert frames expected; 0: gap and snapshot
	}{
		{"level", `{"epoch":"e1","seq":300}`, 301, 300},
		{"a few missed", `{"epoch":"e1","seq":290}`, 291, 300},
		{"all that is kept", `{"epoch":"e1","seq":100}`, 101, 300},
		{"trimmed", `{"epoch":"e1","seq":99}`, 0, 0},
		{"too many", `{"epoch":"e1","seq":20}`, 0, 0},
		{"other epoch", `{"epoch":"e0","seq":299}`, 0, 0},
		{"from the future", `{"epoch":"e1","seq":301}`, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := s.dial("all")
			c.want("hello")
			c.subscribe(`"alerts"`, tc.from)
			if tc.first == 0 {
				gap, snap := c.want("gap"), c.want("snapshot")
				if gap.To != 300 || *snap.Seq != 300 || len(snap.Alerts) != 7 {
					t.Fatalf("gap = %+v snapshot seq %d with %d alerts", gap, *snap.Seq, len(snap.Alerts))
				}
			}
			for seq := tc.first; tc.first != 0 && seq <= tc.last; seq++ {
				if f := c.want("alert"); *f.Seq != seq {
					t.Fatalf("seq = %d, want %d", *f.Seq, seq)
				}
			}
			c.say(`{"op":"ping"}`) // nothing else may stand before the answer
			c.want("pong")
		})
	}
}

func TestResume_AcrossARestart(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, nil)
	c := s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, "")
	c.want("snapshot")
	s.hub.Publish(l.commit("P-1", "opened"))
	seen := *c.want("alert").Seq
	var stopping sync.WaitGroup
	stopping.Go(s.stop)
	bye, code := c.closed()
	stopping.Wait()
	if code != feed.CloseShutdown || bye.Code != feed.CloseShutdown || bye.RetryMS < 500 || bye.RetryMS > 5000 {
		t.Fatalf("bye = %+v close %d, want 1001 with a jittered retry", bye, code)
	}
	l.commit("P-2", "opened")
	l.commit("P-1", "resolved")
	s = start(t, l, nil)
	c = s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, fmt.Sprintf(`{"epoch":"e1","seq":%d}`, seen))
	for i, want := range []string{"opened", "resolved"} {
		if f := c.want("alert"); f.Transition != want || *f.Seq != seen+1+uint64(i) {
			t.Fatalf("missed alert = %+v, want %s", f, want)
		}
	}
	s.hub.Publish(l.commit("P-3", "opened"))
	if f := c.want("alert"); *f.Seq != seen+3 {
		t.Fatalf("live alert = %+v", f)
	}
}

// The seam between catch-up and live: clients join with and without a position while events are published from two
// goroutines. Nobody may miss or repeat one.
func TestResume_NoHoleAndNoDuplicateAtTheSeam(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, func(o *feed.Options) { o.MaxQueue = 64 << 20 }) // being too slow is another test's subject
	const total = 3000
	s.hub.Publish(l.commit("P-0", "opened"))
	var publishing sync.WaitGroup
	for range 2 {
		publishing.Go(func() {
			for range total / 2 {
				s.hub.Publish(l.commit("P-0", "worsened"))
			}
		})
	}
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			c := s.dial("all")
			next := *c.want("hello").Seq + 1
			if i%3 == 0 {
				c.say(`{"op":"subscribe","id":1,"channels":["alerts"]}`)
			} else {
				next = max(1, next-min(next-1, uint64(rand.IntN(40))))
				c.say(`{"op":"subscribe","id":1,"channels":["alerts"],"from":{"epoch":"e1","seq":%d}}`, next-1)
			}
			for next <= total+1 {
				f, err := c.read()
				switch {
				case err != nil:
					t.Error(err)
					return
				case f.Type == "snapshot":
					next = *f.Seq + 1
				case f.Type == "gap":
					t.Error("gap although the history is whole")
				case f.Type == "alert" && *f.Seq != next:
					t.Errorf("client %d: seq = %d, want %d", i, *f.Seq, next)
					return
				case f.Type == "alert":
					next++
				}
			}
		})
	}
	publishing.Wait()
	clients.Wait()
}

func TestFeed_HistoryOutOfReachIsCaughtUpLater(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, func(o *feed.Options) { o.Heartbeat = 5 * time.Second }) // looks twenty times as often
	c := s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, "")
	c.want("snapshot")
	l.fail.Store(true)
	l.commit("P-1", "opened") // its publisher died
	s.hub.Publish(l.commit("P-2", "opened"))
	<-l.failed
	l.fail.Store(false)
	for seq := uint64(1); seq <= 2; seq++ {
		if f := c.want("alert"); *f.Seq != seq {
			t.Fatalf("seq = %d, want %d", *f.Seq, seq)
		}
	}
	l.commit("P-3", "opened") // committed by another process: nobody publishes it
	if f := c.want("alert"); *f.Seq != 3 {
		t.Fatalf("seq = %d, want 3", *f.Seq)
	}
}

func TestFeed_OnlyYourPatients(t *testing.T) {
	l := newLedger("e1")
	l.commit("P-1", "opened")
	l.commit("P-2", "opened")
	s := start(t, l, nil)
	s.people.set("one", only(1, "P-1"))
	c := s.dial("one")
	c.want("hello")
	c.subscribe(`"alerts","readings"`, "")
	if f := c.want("snapshot"); len(f.Alerts) != 1 || !strings.Contains(string(f.Alerts[0]), "A-P-1") {
		t.Fatalf("snapshot = %s", f.Alerts)
	}
	s.hub.Publish(l.commit("P-2", "worsened"), l.commit("P-1", "worsened"))
	if f := c.want("alert"); f.Alert.ID != "A-P-1" || *f.Seq != 4 {
		t.Fatalf("alert = %+v, want only P-1's", f)
	}
	s.hub.Reading("P-2", "glucose", []byte(`{"n":1}`))
	s.hub.Reading("P-1", "glucose", []byte(`{"n":2}`))
	if f := c.want("reading"); f.Patient != "P-1" || string(f.Reading) != `{"n":2}` {
		t.Fatalf("reading = %+v", f)
	}
	// More rights come with a gap and a snapshot.
	s.people.set("one", only(2, "P-1", "P-2"))
	s.hub.Reauthorise()
	c.want("gap")
	if f := c.want("snapshot"); len(f.Alerts) != 2 {
		t.Fatalf("snapshot after a change of rights has %d alerts, want 2", len(f.Alerts))
	}
	// A foreign patient's channel ends the connection.
	c2 := s.dial("one")
	c2.want("hello")
	c2.say(`{"op":"subscribe","id":9,"channels":["patient:P-9"]}`)
	if f := c2.want("result"); f.ID != 9 || f.OK || !strings.Contains(string(f.Problem), "403") {
		t.Fatalf("result = %+v", f)
	}
	if _, code := c2.closed(); code != feed.CloseForbidden {
		t.Fatalf("close = %d, want 4403", code)
	}
	// The account is disabled.
	s.people.remove("one")
	s.hub.Reauthorise()
	if _, code := c.closed(); code != feed.CloseAuth {
		t.Fatalf("close = %d, want 4401", code)
	}
}

func TestFeed_PatientChannel(t *testing.T) {
	l := newLedger("e1")
	l.commit("P-1", "opened")
	l.commit("P-2", "opened")
	s := start(t, l, nil)
	c := s.dial("all")
	c.want("hello")
	f := c.subscribe(`"patient:P-2"`, "")
	if fmt.Sprint(f.Channels) != "[patient:P-2]" {
		t.Fatalf("channels = %v", f.Channels)
	}
	if f := c.want("snapshot"); len(f.Alerts) != 1 {
		t.Fatalf("snapshot = %s", f.Alerts)
	}
	s.hub.Publish(l.commit("P-1", "worsened"), l.commit("P-2", "worsened"))
	if f := c.want("alert"); f.Alert.ID != "A-P-2" {
		t.Fatalf("alert = %+v", f)
	}
	s.hub.Reading("P-1", "spo2", []byte(`{}`))
	s.hub.Reading("P-2", "spo2", []byte(`{}`))
	if f := c.want("reading"); f.Patient != "P-2" {
		t.Fatalf("reading = %+v", f)
	}
	c.say(`{"op":"unsubscribe","id":2,"channels":["patient:P-2"]}`)
	c.want("subscribed")
	if s.hub.Watched() {
		t.Error("the hub still thinks that somebody watches readings")
	}
	s.hub.Publish(l.commit("P-2", "resolved"))
	c.say(`{"op":"ping","id":3}`)
	if f := c.want("pong"); f.ID != 3 {
		t.Fatalf("pong = %+v", f)
	}
	if s.people.seen[0] != "all:P-2" {
		t.Errorf("recorded = %v", s.people.seen)
	}
}

func TestAuth_TicketInTheFirstFrame(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.AuthTimeout = wait })
	c := s.dial("")
	c.say(`{"op":"auth","ticket":"all"}`)
	c.say(`{"op":"subscribe","id":1,"channels":["alerts"]}`) // a page does not wait for hello
	c.want("hello")
	c.want("subscribed")
	c.want("snapshot")
	for _, tc := range []struct{ name, first string }{
		{"foreign ticket", `{"op":"auth","ticket":"nobody"}`},
		{"something else first", `{"op":"subscribe","id":1,"channels":["alerts"]}`},
		{"no JSON", `hello`},
		{"nothing at all", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := s
			if tc.first == "" {
				s = start(t, newLedger("e1"), func(o *feed.Options) { o.AuthTimeout = 200 * time.Millisecond })
			}
			c := s.dial("")
			c.T = t
			if tc.first != "" {
				c.say("%s", tc.first)
			}
			if bye, code := c.closed(); code != feed.CloseAuth || bye.Code != feed.CloseAuth {
				t.Fatalf("close = %d bye = %+v, want 4401", code, bye)
			}
		})
	}
	if _, resp, err := websocket.DefaultDialer.Dial(s.url, http.Header{"Authorization": {"Bearer nobody"}}); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("wrong key: %v, want 401", resp)
	}
}

func TestAuth_PingsBuyAStrangerNoTime(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.AuthTimeout = 200 * time.Millisecond })
	for _, kind := range []int{websocket.PingMessage, websocket.PongMessage} {
		c := s.dial("")
		if err := c.ws.WriteControl(kind, nil, time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		if _, code := c.closed(); code != feed.CloseAuth {
			t.Errorf("close after control frame %d = %d, want 4401", kind, code)
		}
	}
}

func TestRate_UnaskedPongs(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.RatePerSec = 1 })
	c := s.dial("all")
	c.want("hello")
	for range 10 {
		if c.ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(wait)) != nil {
			break // closed already
		}
	}
	if _, code := c.closed(); code != feed.CloseRate {
		t.Errorf("close = %d, want 4429", code)
	}
}

func TestOrigin(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.Origins = []string{"https://desk.example"} })
	host := strings.TrimPrefix(s.url, "ws://")
	for _, tc := range []struct {
		origin string
		ok     bool
	}{{"", true}, {"http://" + host, true}, {"https://desk.example", true}, {"https://evil.example", false}, {"null", false}, {"https://desk.example.evil.example", false}} {
		h := http.Header{"Authorization": {"Bearer all"}}
		if tc.origin != "" {
			h.Set("Origin", tc.origin)
		}
		ws, resp, err := websocket.DefaultDialer.Dial(s.url, h)
		if (err == nil) != tc.ok {
			t.Errorf("origin %q: %v, want ok %v", tc.origin, err, tc.ok)
		}
		if err == nil {
			ws.Close()
		} else if resp.StatusCode != http.StatusForbidden {
			t.Errorf("origin %q: status %d, want 403", tc.origin, resp.StatusCode)
		}
	}
}

func TestAck(t *testing.T) {
	s := start(t, newLedger("e1"), nil)
	c := s.dial("all")
	c.want("hello")
	c.say(`{"op":"ack","id":2,"alert":"A-1","note":"on it"}`)
	if f := c.want("result"); !f.OK || f.ID != 2 {
		t.Fatalf("result = %+v", f)
	}
	c.say(`{"op":"ack","id":3,"alert":"none"}`)
	if f := c.want("result"); f.OK || f.ID != 3 || !strings.Contains(string(f.Problem), `"status":403`) {
		t.Fatalf("result = %+v %s", f, f.Problem)
	}
	c.say(`{"op":"dance","id":4}`)
	if f := c.want("result"); f.OK || f.ID != 4 || !strings.Contains(string(f.Problem), `"status":400`) {
		t.Fatalf("result = %+v %s", f, f.Problem)
	}
	if len(s.people.acks) != 1 || s.people.acks[0] != "all A-1 on it" {
		t.Fatalf("acks = %q", s.people.acks)
	}
}

func TestRateLimitOfClientFrames(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.RatePerSec = 1 })
	c := s.dial("all")
	c.want("hello")
	for range 20 {
		if c.ws.WriteMessage(websocket.TextMessage, []byte(`{"op":"ping"}`)) != nil {
			break
		}
	}
	if bye, code := c.closed(); code != feed.CloseRate || bye.Code != feed.CloseRate {
		t.Fatalf("close = %d, want 4429", code)
	}
}

func TestLargeClientFrameEndsItsConnection(t *testing.T) {
	s := start(t, newLedger("e1"), nil)
	c := s.dial("all")
	c.want("hello")
	c.say(`{"op":"ping","pad":%q}`, strings.Repeat("x", 5000))
	if _, code := c.closed(); code != websocket.CloseMessageTooBig {
		t.Fatalf("close = %d, want 1009", code)
	}
}

func TestHeartbeat_CarriesThePositionAndPings(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, func(o *feed.Options) { o.Heartbeat = time.Second })
	s.people.set("one", only(1, "P-1"))
	c := s.dial("one")
	var pings atomic.Int32
	answer := c.ws.PingHandler()
	c.ws.SetPingHandler(func(d string) error { pings.Add(1); return answer(d) })
	c.want("hello")
	if f, err := c.read(); err != nil || f.Type != "heartbeat" || f.Seq != nil {
		t.Fatalf("before subscribing: %+v %v, want a heartbeat without a position", f, err)
	}
	c.subscribe(`"alerts"`, "")
	c.want("snapshot")
	s.hub.Publish(l.commit("P-2", "opened")) // not for this client, but it moves the position
	for {
		f, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type != "heartbeat" {
			t.Fatalf("frame = %+v", f)
		}
		if *f.Seq == 1 && pings.Load() > 0 {
			break
		}
	}
}

func TestSilentClientIsDropped(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.Heartbeat = 100 * time.Millisecond })
	c := s.dial("all")
	c.ws.SetPingHandler(func(string) error { return nil }) // never answers
	c.want("hello")
	for {
		if _, err := c.read(); err != nil {
			break // the test's own deadline would be a timeout; the server's end is not
		}
	}
	gone(s)
}

// gone waits until the hub has no client.
func gone(s *server) {
	s.Helper()
	for end := time.Now().Add(wait); s.hub.Clients() > 0; {
		if time.Now().After(end) {
			s.Fatalf("%d clients are still there", s.hub.Clients())
		}
		time.Sleep(time.Millisecond) // polls a counter: the hub has no event to wait for
	}
}

// stalled is a raw client with a tiny window that subscribes and then stops reading.
func (s *server) stalled() net.Conn {
	s.Helper()
	nc, err := (&net.Dialer{}).Dial("tcp", strings.TrimPrefix(s.url, "ws://"))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { nc.Close() })
	nc.(*net.TCPConn).SetReadBuffer(2048)
	//lint:ignore SA1019 a Dialer would choose its own buffer sizes for the connection that the test made
	ws, _, err := websocket.NewClient(nc, must(url.Parse(s.url+"/")), http.Header{"Authorization": {"Bearer all"}}, 256, 256)
	if err != nil {
		s.Fatal(err)
	}
	c := &conn{s.T, ws}
	c.want("hello")
	c.subscribe(`"alerts"`, "")
	c.want("snapshot")
	return nc
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestSlowReader_IsClosedAndToldWhileOthersAreUnaffected(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, func(o *feed.Options) {
		o.StallAfter, o.Farewell = wait, time.Second
		o.SendBuffer = 8 << 10
		o.MaxQueue = 64 << 10
	})
	slow := s.stalled()
	good := s.dial("all")
	good.want("hello")
	good.subscribe(`"alerts"`, "")
	good.want("snapshot")
	begin := time.Now()
	var slowest time.Duration
	seq := uint64(0)
	for s.hub.Clients() == 2 {
		if time.Since(begin) > wait {
			t.Fatalf("the slow reader is still there after %v", wait)
		}
		at := time.Now()
		s.hub.Publish(l.commitSized("P-1", "worsened", 3000))
		seq++
		if f := good.want("alert"); *f.Seq != seq {
			t.Fatalf("seq = %d, want %d", *f.Seq, seq)
		}
		slowest = max(slowest, time.Since(at))
	}
	if slowest > wait/2 { // who writes to the slow one waits twice as long
		t.Errorf("another client waited %v for a frame", slowest)
	}
	if s.metric("vitalwatch_feed_dropped_total") == 0 {
		t.Error("vitalwatch_feed_dropped_total does not show the dropped frames")
	}
	// When it reads again it finds why: the goodbye stood in the kernel.
	slow.SetReadDeadline(time.Now().Add(wait))
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := slow.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			break
		}
	}
	if !strings.Contains(string(all), `"type":"bye","code":4408`) {
		t.Errorf("the slow reader was not told: its last bytes are %.100q", all[max(0, len(all)-100):])
	}
}

func TestSlowReader_OfALargeSnapshotIsNotTooSlow(t *testing.T) {
	l := newLedger("e1")
	for i := range 300 {
		l.commitSized(fmt.Sprintf("P-%d", i), "opened", 5000) // far beyond the queue's bound
	}
	s := start(t, l, func(o *feed.Options) { o.MaxQueue = 64 << 10 })
	c := s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, "")
	s.hub.Publish(l.commit("P-1", "worsened"))
	if f := c.want("snapshot"); len(f.Alerts) != 300 {
		t.Fatalf("snapshot has %d alerts", len(f.Alerts))
	}
	for next := uint64(301); next <= 301; next++ {
		if f := c.want("alert"); *f.Seq != next {
			t.Fatalf("alert = %+v", f)
		}
	}
	// And a resume longer than the bound.
	c = s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, `{"epoch":"e1","seq":0}`)
	for next := uint64(1); next <= 301; next++ {
		if f := c.want("alert"); *f.Seq != next {
			t.Fatalf("alert = %+v, want %d", f, next)
		}
	}
}

func TestReadings_CoalesceToTheLatest(t *testing.T) {
	s := start(t, newLedger("e1"), nil)
	s.hub.Reading("P-1", "glucose", []byte(`{"n":0}`)) // nobody watches
	c := s.dial("all")
	c.want("hello")
	c.subscribe(`"readings"`, "")
	const n = 20_000
	for i := 1; i <= n; i++ {
		s.hub.Reading("P-1", "glucose", fmt.Appendf(nil, `{"n":%d}`, i))
	}
	last, frames := 0, 0
	for last < n {
		var r struct{ N int }
		if err := json.Unmarshal(c.want("reading").Reading, &r); err != nil {
			t.Fatal(err)
		}
		if r.N <= last {
			t.Fatalf("reading %d after %d", r.N, last)
		}
		last = r.N
		frames++
	}
	if frames > n/2 {
		t.Errorf("%d frames for %d readings: nothing was coalesced", frames, n)
	}
}

func TestFull(t *testing.T) {
	s := start(t, newLedger("e1"), func(o *feed.Options) { o.MaxClients = 1 })
	s.dial("all").want("hello")
	_, resp, err := websocket.DefaultDialer.Dial(s.url, http.Header{"Authorization": {"Bearer all"}})
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("second client: %v %v, want 503 with Retry-After", resp, err)
	}
}

func TestMetrics_CountClientsAndDeliveries(t *testing.T) {
	l := newLedger("e1")
	s := start(t, l, nil)
	c := s.dial("all")
	c.want("hello")
	c.subscribe(`"alerts"`, "")
	c.want("snapshot")
	c.say(`{"op":"ping"}`) // answered once the catch-up is over; what that sends is not measured
	c.want("pong")
	if got := s.metric("vitalwatch_feed_clients"); got != 1 {
		t.Errorf("vitalwatch_feed_clients = %v", got)
	}
	s.hub.Publish(l.commit("P-1", "opened"))
	c.want("alert")
	c.say(`{"op":"ping"}`)
	c.want("pong")
	if got := s.metric("vitalwatch_feed_delivery_seconds"); got != 1 {
		t.Errorf("deliveries measured = %v, want 1", got)
	}
	c.ws.Close()
	gone(s)
	if got := s.metric("vitalwatch_feed_clients"); got != 0 {
		t.Errorf("vitalwatch_feed_clients = %v after the client left", got)
	}
}
