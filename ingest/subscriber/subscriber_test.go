package subscriber_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/subscriber"
	"vitalwatch/internal/leaktest"
	"vitalwatch/internal/mosquittotest"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const patience = time.Minute

// intake is a journal in memory whose commits a test can hold, refuse or answer with problems.
type intake struct {
	commit   func(ctx context.Context, ms []ingest.Message) ([]ingest.Result, error) // nil: accepts
	accepted chan ingest.Message
}

func newIntake() *intake { return &intake{accepted: make(chan ingest.Message, 100_000)} }

func (in *intake) NewBatch() subscriber.Batch { return &batch{in: in} }

type batch struct {
	in *intake
	ms []ingest.Message
}

func (b *batch) Add(m ingest.Message) {
	m.Payload = bytes.Clone(m.Payload)
	b.ms = append(b.ms, m)
}

func (b *batch) Commit(ctx context.Context) ([]ingest.Result, error) {
	ms := b.ms
	b.ms = nil
	results := make([]ingest.Result, len(ms))
	if b.in.commit != nil {
		var err error
		if results, err = b.in.commit(ctx, ms); err != nil {
			return nil, err
		}
	}
	for _, m := range ms {
		b.in.accepted <- m
	}
	return results, nil
}

// next returns the payload of the next accepted message.
func (in *intake) next(t *testing.T) ingest.Message {
	t.Helper()
	select {
	case m := <-in.accepted:
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
		panic("unreachable")
	}
}

type statuses chan string

func (s statuses) Status(_ context.Context, id vitals.DeviceID, p []byte, at vitals.Micros) error {
	s <- fmt.Sprintf("%s %s retained=%v", id, p, at == 0)
	return nil
}

// logBuffer may be written by any goroutine.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// running is a subscriber under test.
type running struct {
	*subscriber.Subscriber
	t      *testing.T
	states chan error
	cancel context.CancelFunc
	ended  chan error
	log    *logBuffer
}

func start(t *testing.T, c subscriber.Config, d subscriber.Deps) *running {
	t.Helper()
	r := &running{t: t, states: make(chan error, 1000), ended: make(chan error, 1), log: &logBuffer{}}
	if c.ClientID == "" {
		c.ClientID = "vitalwatch"
	}
	d.Log = zerolog.New(r.log)
	var err error
	if r.Subscriber, err = subscriber.New(c, d); err != nil {
		t.Fatal(err)
	}
	r.SetRetry(func(int) time.Duration { return 20 * time.Millisecond })
	r.OnState(func(err error) { r.states <- err })
	if r.Ready() == nil {
		t.Error("ready before it was ever connected")
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(r.stop)
	return r
}

// stop ends the subscriber as a shutdown does.
func (r *running) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Errorf("Run ended with %v", err)
		}
	case <-time.After(patience):
		r.t.Fatal("Run did not end")
	}
}

// until waits for a state: "" for ready, else a part of the reason.
func (r *running) until(want string) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case err := <-r.states:
			if want == "" && err == nil || want != "" && err != nil && strings.Contains(err.Error(), want) {
				return
			}
		case <-deadline:
			r.t.Fatalf("never became %q; now: %v", want, r.Ready())
		}
	}
}

// device is another client of the broker.
func device(t *testing.T, b *mosquittotest.Broker, set func(*mqtt.ClientOptions)) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker(b.URL()).SetClientID("device").SetProtocolVersion(4).SetAutoReconnect(false)
	if set != nil {
		set(o)
	}
	c := mqtt.NewClient(o)
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(250) })
	return c
}

func wait(t *testing.T, tok mqtt.Token) {
	t.Helper()
	if !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatalf("MQTT: %v", tok.Error())
	}
}

func publish(t *testing.T, c mqtt.Client, payload string) {
	t.Helper()
	wait(t, c.Publish("vw/v1/cuff/up/readings", 1, false, payload))
}

func TestSubscriber_TakesMessages(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	in, st := newIntake(), make(statuses, 10)
	d := device(t, b, nil)
	// Retained from before: a reading is stale, a status is not, but of unknown age.
	wait(t, d.Publish("vw/v1/scale/up/readings", 1, true, "stale"))
	wait(t, d.Publish("vw/v1/scale/up/status", 1, true, `{"state":"sleeping"}`))
	at := time.UnixMicro(1_795_000_000_000_000)
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in, Status: st, Now: func() time.Time { return at }})
	s.until("")
	if err := s.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	if got := <-st; got != `scale {"state":"sleeping"} retained=true` {
		t.Errorf("status = %s", got)
	}
	wait(t, d.Publish("vw/v1/bad.id/up/readings", 1, false, "foreign"))
	wait(t, d.Publish("vw/v1/cuff/up/status", 1, true, `{"state":"online"}`))
	wait(t, d.Publish("vw/v1/cuff/up/gatt/2A18", 1, false, "bytes"))
	publish(t, d, strings.Repeat("x", payload.MaxBytes+1)) // the pipeline quarantines it
	m := in.next(t)
	if m.Device != "cuff" || m.Format != "gatt/2A18" || m.Source != "broker" || string(m.Payload) != "bytes" || m.ReceivedAt != vitals.At(at) {
		t.Errorf("message = %+v", m)
	}
	if m := in.next(t); len(m.Payload) != payload.MaxBytes+1 || m.Format != "readings" {
		t.Errorf("the large message has %d bytes", len(m.Payload))
	}
	if got := <-st; got != `cuff {"state":"online"} retained=false` {
		t.Errorf("status = %s", got)
	}
	if n := strings.Count(s.log.String(), "acknowledged by the broker, not by vitalwatch"); n != 1 {
		t.Errorf("said %d times what the broker may lose, want once per connection", n)
	}
}

// foreign knows one layout: home/{gateway}/x/{device}.
type foreign struct{}

func (foreign) Filters() []string { return []string{"home/+/x/+", "vw/v1/+/up/#"} }

func (foreign) Messages(client vitals.DeviceID, topic, message []byte, f func(id, gateway vitals.DeviceID, format string, part []byte, err error)) {
	parts := strings.Split(string(topic), "/")
	switch {
	case client != "" || len(parts) != 4 || parts[2] != "x":
		f("", "", "", message, errors.New("no route"))
	case parts[3] == "denied":
		f("", vitals.DeviceID(parts[1]), "", message, errors.New("not its device"))
	case parts[3] == "several":
		f("scale", "", "theengs", message[:1], nil)
		f("cuff", "", "theengs", message[1:], nil)
	default:
		f(vitals.DeviceID(parts[3]), vitals.DeviceID(parts[1]), "theengs", message, nil)
	}
}

// Who is new is met before their messages are taken, and not for long; a message that the broker has kept is of nobody
// who is there.
func TestSubscriber_MeetsWhoComes(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	d := device(t, b, nil)
	wait(t, d.Publish("vw/v1/gone/up/status", 1, true, `{"state":"lost"}`))
	in, st, met := newIntake(), make(statuses, 10), make(chan vitals.DeviceID, 10)
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in, Status: st, Meet: func(ctx context.Context, ids []vitals.DeviceID) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("it may take for ever")
		}
		for _, id := range ids {
			met <- id
		}
	}})
	s.until("")
	<-st
	wait(t, d.Publish("vw/v1/cuff/up/readings", 1, false, "a"))
	in.next(t)
	var got []vitals.DeviceID
	for len(met) > 0 { // it was told before the message was taken
		got = append(got, <-met)
	}
	if !slices.Equal(got, []vitals.DeviceID{"cuff"}) {
		t.Errorf("met %v", got)
	}
}

func TestSubscriber_TakesForeignTopics(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	in := newIntake()
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in, Routes: foreign{}})
	s.until("")
	d := device(t, b, nil)
	for _, topic := range []string{"home/gw/x/scale", "home/gw/x/denied", "home/gw/x/several", "vw/v1/cuff/up/readings"} {
		wait(t, d.Publish(topic, 1, false, topic))
	}
	for _, want := range []string{"scale gw theengs home/gw/x/scale", "gw   home/gw/x/denied", "   home/gw/x/several", "cuff  readings "} {
		m := in.next(t)
		if got := fmt.Sprintf("%s %s %s %s", m.Device, m.Gateway, m.Format, m.Topic); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The heart: the broker hears of a message only after the commit. What was in a commit when we stopped comes again.
func TestSubscriber_AcknowledgesAfterCommit(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	held := newIntake()
	entered := make(chan int, 10)
	held.commit = func(ctx context.Context, ms []ingest.Message) ([]ingest.Result, error) {
		entered <- len(ms)
		<-ctx.Done() // a disk that never answers
		return nil, ctx.Err()
	}
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: held})
	s.until("")
	d := device(t, b, nil)
	publish(t, d, "one")
	publish(t, d, "two")
	<-entered
	s.stop()

	in := newIntake()
	s = start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in})
	for _, want := range []string{"one", "two"} {
		if got := string(in.next(t).Payload); got != want {
			t.Fatalf("got %q again, want %q", got, want)
		}
	}
	// Acknowledged now: the next session gets only what is new.
	s.until("")
	publish(t, d, "three")
	in.next(t)
	if !b.Logged("Received PUBACK from vitalwatch (Mid: 3", patience) {
		t.Fatal("the third was never acknowledged")
	}
	s.stop()
	again := newIntake()
	start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: again}).until("")
	publish(t, d, "four")
	if got := string(again.next(t).Payload); got != "four" {
		t.Errorf("after all was acknowledged %q came again", got)
	}
}

// A journal that fails for a while: nothing is acknowledged meanwhile, all of it comes in order afterwards.
func TestSubscriber_FailedCommitsComeAgainInOrder(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	in := newIntake()
	var mu sync.Mutex
	fails := 0
	in.commit = func(_ context.Context, ms []ingest.Message) ([]ingest.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		if fails++; fails <= 4 {
			return nil, errors.New("no space left")
		}
		return make([]ingest.Result, len(ms)), nil
	}
	s := start(t, subscriber.Config{URL: b.URL(), Window: 30}, subscriber.Deps{Intake: in})
	s.until("")
	d := device(t, b, nil)
	const n = 200
	var toks []mqtt.Token
	for i := range n {
		toks = append(toks, d.Publish("vw/v1/cuff/up/readings", 1, false, fmt.Sprintf("%03d", i)))
	}
	for _, tok := range toks {
		wait(t, tok)
	}
	s.until("no space left")
	last := -1
	seen := map[string]bool{}
	for len(seen) < n {
		p := string(in.next(t).Payload)
		var i int
		fmt.Sscanf(p, "%d", &i)
		if i > last+1 {
			t.Fatalf("%d came before %d", i, last+1)
		}
		last = max(last, i)
		seen[p] = true
	}
	s.until("")
}

// A broker that keeps its state on disk loses nothing over a restart, whether we are connected or not.
func TestSubscriber_BrokerRestartWithPersistence(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{Persistent: true})
	in := newIntake()
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in})
	s.until("")
	s.stop()
	d := device(t, b, nil)
	for i := range 50 { // more than the broker's window of 20
		publish(t, d, fmt.Sprint(i))
	}
	b.Stop()
	b.Start()
	s = start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in})
	for i := range 50 {
		if got := string(in.next(t).Payload); got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
	s.until("")
	b.Stop()
	s.until("connect")
	if s.Ready() == nil {
		t.Error("ready without a broker")
	}
	b.Start()
	s.until("")
	publish(t, device(t, b, nil), "after")
	for got := ""; got != "after"; { // the last ones may come twice: the broker ended before it had our acknowledgement
		got = string(in.next(t).Payload)
	}
	if strings.Contains(s.log.String(), "forgotten our session") {
		t.Error("says that the broker has forgotten the session")
	}
}

// A broker without persistence forgets the subscription: we subscribe again and say what may be lost.
func TestSubscriber_BrokerLosesItsMemory(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	in := newIntake()
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in})
	s.until("")
	b.Kill()
	s.until("connect")
	b.Start()
	s.until("")
	publish(t, device(t, b, nil), "after")
	if got := string(in.next(t).Payload); got != "after" {
		t.Errorf("after the restart: %q", got)
	}
	if !strings.Contains(s.log.String(), "forgotten our session") {
		t.Error("does not say that readings may be lost")
	}
}

const refuseSubscriptions = `{"defaultACLAccess":{"publishClientSend":true,"publishClientReceive":true,"subscribe":%v,"unsubscribe":true},"clients":[],"groups":[],"roles":[]}`

func TestSubscriber_RefusedSubscriptionIsNotReady(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{DynamicSecurity: fmt.Sprintf(refuseSubscriptions, false)})
	in := newIntake()
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in})
	s.until("refuses the subscription to vw/v1/+/up/#")
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "allow anonymous clients to read it") {
		t.Errorf("ready = %v, want what to do", err)
	}
	s.until("refuses") // it asks again on the same connection
	b.Stop()
	b.SetDynamicSecurity(fmt.Sprintf(refuseSubscriptions, true))
	b.Start()
	s.until("")
	if err := s.Ready(); err != nil {
		t.Errorf("after it was allowed: %v", err)
	}
}

func TestSubscriber_GrantedLessThanAtLeastOnceIsNotReady(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{Extra: "max_qos 0"})
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: newIntake()})
	s.until("QoS 0")
}

func TestSubscriber_ReadsThePasswordAtEachConnection(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{Users: map[string]string{"server": "right", "cuff": "x"},
		ACL: "user server\ntopic read vw/v1/+/up/#\ntopic write vw/v1/+/down/#\nuser cuff\npattern write vw/v1/%u/up/#\n"})
	file := filepath.Join(t.TempDir(), "password")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("marked-wrong-password\n")
	in := newIntake()
	s := start(t, subscriber.Config{URL: b.URL(), Username: "server", PasswordFile: file}, subscriber.Deps{Intake: in})
	s.until("check mqtt.external.username and password_file")
	write("right\n")
	s.until("")
	d := device(t, b, func(o *mqtt.ClientOptions) { o.SetUsername("cuff").SetPassword("x") })
	publish(t, d, "marked-reading")
	if got := string(in.next(t).Payload); got != "marked-reading" {
		t.Errorf("got %q", got)
	}
	s.stop()
	if l := s.log.String(); strings.Contains(l, "marked") || strings.Contains(l, "right") {
		t.Errorf("the log has a password or payload:\n%s", l)
	}
}

func TestSubscriber_TellsTheDeviceWhy(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	in := newIntake()
	in.commit = func(_ context.Context, ms []ingest.Message) ([]ingest.Result, error) {
		rs := make([]ingest.Result, len(ms))
		for i := range ms {
			for k := range 25 {
				rs[i].Problems = append(rs[i].Problems, payload.Problem{Code: payload.UnitUnknown, Detail: "send a UCUM unit", Index: k})
			}
		}
		return rs, nil
	}
	at := time.UnixMicro(1_795_000_000_123_000)
	s := start(t, subscriber.Config{URL: b.URL()}, subscriber.Deps{Intake: in, Now: func() time.Time { return at }})
	s.until("")
	d := device(t, b, nil)
	got := make(chan string, 100)
	wait(t, d.Subscribe("vw/v1/cuff/down/errors", 1, func(_ mqtt.Client, m mqtt.Message) { got <- string(m.Payload()) }))
	publish(t, d, "bad")
	for k := range 10 {
		select {
		case text := <-got:
			var p struct {
				At              time.Time
				Problem, Detail string
				Index           int
			}
			if err := json.Unmarshal([]byte(text), &p); err != nil || !p.At.Equal(at) || p.Problem != "unit_unknown" || p.Detail == "" || p.Index != k {
				t.Fatalf("error %d = %s (%v)", k, text, err)
			}
		case <-time.After(patience):
			t.Fatalf("error %d did not come", k)
		}
	}
}

// A window larger than ours stalls, and loses nothing.
func TestSubscriber_SmallWindow(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{Extra: "max_inflight_messages 500\nmax_queued_messages 5000"})
	in := newIntake()
	s := start(t, subscriber.Config{URL: b.URL(), Window: 2}, subscriber.Deps{Intake: in})
	s.until("")
	d := device(t, b, nil)
	const n = 1000
	var toks []mqtt.Token
	for i := range n {
		toks = append(toks, d.Publish("vw/v1/cuff/up/readings", 1, false, fmt.Sprint(i)))
	}
	for i := range n {
		if got := string(in.next(t).Payload); got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
	for _, tok := range toks {
		wait(t, tok)
	}
}

func TestSubscriber_SharedSubscription(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	in := newIntake()
	for i := range 2 {
		start(t, subscriber.Config{URL: b.URL(), ClientID: fmt.Sprintf("vitalwatch-%d", i), Topics: []string{"$share/vitalwatch/vw/v1/+/up/#"}},
			subscriber.Deps{Intake: in}).until("")
	}
	d := device(t, b, nil)
	seen := map[string]int{}
	for i := range 40 {
		publish(t, d, fmt.Sprint(i))
	}
	for range 40 {
		seen[string(in.next(t).Payload)]++
	}
	if len(seen) != 40 {
		t.Errorf("%d of 40 messages came: %v", len(seen), seen)
	}
}

// A broker that accepts the connection and says nothing must not hold up a shutdown.
func TestSubscriber_StopsInTheMiddleOfAHandshake(t *testing.T) {
	l, accepted := silentListener(t)
	s := start(t, subscriber.Config{URL: "tcp://" + l}, subscriber.Deps{Intake: newIntake()})
	<-accepted
	s.stop() // within a minute, of the hour that the handshake may take
}
