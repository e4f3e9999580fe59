package subscriber

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/ingest"
	"vitalwatch/vitals"
)

// Intake makes readings durable. The pipeline is the real one.
type Intake interface{ NewBatch() Batch }

// Batch collects messages that are made durable together.
type Batch interface {
	// Add takes one message; its payload is only read during the call.
	Add(m ingest.Message)
	// Commit returns when all is durable, with one result per message in the order of Add, and empties the batch.
	Commit(ctx context.Context) ([]ingest.Result, error)
}

// StatusSink takes what devices say on up/status; at is 0 for a retained copy, of which nobody knows how old it is.
type StatusSink interface {
	Status(ctx context.Context, id vitals.DeviceID, payload []byte, at vitals.Micros) error
}

// Routes knows foreign topic layouts. *routes.Topics is the real one.
type Routes interface {
	// Filters are subscribed to beside Config.Topics.
	Filters() []string
	// Messages calls f for each part of a message, in order, with whose it is (client "": whoever the broker let publish
	// there), through which gateway, and its format. With an error the gateway, when the topic names one, is who is told.
	Messages(client vitals.DeviceID, topic, message []byte, f func(id, gateway vitals.DeviceID, format string, part []byte, err error))
}

// Config says which broker.
type Config struct {
	// URL is tcp://host:1883, mqtts://host:8883, ws://… or wss://….
	URL string
	// ClientID names the persistent session: another server with the same one takes the session away.
	ClientID string
	Username string
	// PasswordFile is read at each connection, so that a password can be changed without a restart.
	PasswordFile string
	// Topics are the filters, by default all uploads; "$share/group/…" too.
	Topics []string
	// TLS is used with mqtts and wss; zero: the system's authorities and no certificate of ours.
	TLS TLSFiles
	// Window is how many messages may wait for the disk, 2048 by default. It must be at least the broker's own window
	// of unacknowledged messages (Mosquitto max_inflight_messages, 20 by default): a full window stalls keep-alive.
	Window int
}

// Deps are the neighbours.
type Deps struct {
	Intake Intake
	Status StatusSink // nil: status messages are acknowledged and dropped
	Routes Routes     // nil: our own layout only
	// Meet is told whose messages come next, some more than once. With open registration it makes the records of those
	// that are new, all together: one by one each would wait for a transaction of its own. It returns when ctx ends. nil: nobody needs to know.
	Meet func(ctx context.Context, ids []vitals.DeviceID)
	Log  zerolog.Logger
	Now  func() time.Time // nil: time.Now
}

const (
	defaultTopic  = "vw/v1/+/up/#"
	defaultWindow = 2048

	// facts on paho 1.5.1: the default write deadline is none, so that only the ping notices a dead link.
	keepAlive     = 20 * time.Second
	pingTimeout   = 10 * time.Second
	writeTimeout  = 10 * time.Second
	subackTimeout = 15 * time.Second
	meetTimeout   = 5 * time.Second // then each message says by itself that its device cannot be registered

	// One commit takes at most this many messages and bytes; more wait for the next.
	groupMessages = 1000
	groupBytes    = 4 << 20

	// A connection that held this long starts the back-off anew.
	settled = 30 * time.Second
	// The longest pause between two attempts.
	maxBackoff = 30 * time.Second

	errorQueue       = 256 // down/errors that wait for the link; more are dropped: the operator has them in quarantine
	errorsPerMessage = 10  // enough for a device's log
)

// connectTimeout bounds reaching the broker, and reaching it with the handshake.
var connectTimeout = 10 * time.Second

// Subscriber is the connection to one broker.
type Subscriber struct {
	c     Config
	d     Deps
	where string // scheme and host for texts: a URL may carry a password

	// Tests replace these before Run.
	retry   func(attempt int) time.Duration
	onState func(error)

	messages *prometheus.CounterVec
	up       prometheus.Gauge

	mu      sync.Mutex
	state   error // why not ready, nil when subscribed
	client  mqtt.Client
	lastUp  time.Time // when the last connection ended, zero before
	metOnce bool      // a session was there before
}

// CheckURL says what is wrong with the URL of a broker, without repeating it: it may hold a password.
func CheckURL(text string) error {
	_, err := parseURL(text)
	return err
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL; write tcp://host:1883 or mqtts://host:8883")
	case !slices.Contains([]string{"tcp", "mqtt", "ssl", "tls", "mqtts", "ws", "wss"}, u.Scheme) || u.Host == "":
		return nil, errors.New("must be like tcp://host:1883 or mqtts://host:8883")
	case u.User != nil:
		return nil, errors.New("must not hold credentials; use username and password_file")
	}
	return u, nil
}

// New checks the configuration; Run connects.
func New(c Config, d Deps) (*Subscriber, error) {
	u, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("mqtt.external.url %w", err)
	}
	if c.ClientID == "" {
		return nil, errors.New("mqtt.external.client_id is empty; a persistent session needs a name of its own")
	}
	if c.PasswordFile != "" && c.Username == "" {
		return nil, errors.New("mqtt.external.password_file is set without username")
	}
	if len(c.Topics) == 0 {
		c.Topics = []string{defaultTopic}
	}
	for _, t := range c.Topics {
		if !validFilter(t) {
			return nil, fmt.Errorf("mqtt.external.topics: %q is not a topic filter; write one like %s", t, defaultTopic)
		}
	}
	if d.Routes != nil {
		for _, f := range d.Routes.Filters() {
			if !slices.ContainsFunc(c.Topics, func(t string) bool { return unshared(t) == f }) {
				c.Topics = append(slices.Clip(c.Topics), f)
			}
		}
	}
	if c.Window <= 0 {
		c.Window = defaultWindow
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Subscriber{c: c, d: d, where: u.Scheme + "://" + u.Host, retry: backoff,
		state: errors.New("not connected to the external broker yet"),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_broker_messages_total",
			Help: "Messages from the external broker by what became of them; those with readings are counted as readings too."}, []string{"kind"}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vitalwatch_broker_connected", Help: "1 while connected and subscribed to the external broker."}),
	}
	for _, k := range kinds {
		s.messages.WithLabelValues(k)
	}
	logTo(d.Log)
	return s, nil
}

// unshared is the filter that a shared subscription shares.
func unshared(filter string) string {
	if rest, shared := strings.CutPrefix(filter, "$share/"); shared {
		_, filter, _ = strings.Cut(rest, "/")
	}
	return filter
}

// validFilter follows MQTT 3.1.1 section 4.7.1: # only last, # and + only as whole levels.
func validFilter(t string) bool {
	if t == "" || len(t) > 65535 {
		return false
	}
	levels := strings.Split(t, "/")
	for i, l := range levels {
		if strings.Contains(l, "#") && (l != "#" || i < len(levels)-1) || strings.Contains(l, "+") && l != "+" {
			return false
		}
	}
	return true
}

// Collectors are the metrics of the connection.
func (s *Subscriber) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.messages, s.up}
}

// Ready returns nil while connected and subscribed, and otherwise why not and what to do.
func (s *Subscriber) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		return fmt.Errorf("external broker %s: %w", s.where, s.state)
	}
	if !s.client.IsConnectionOpen() { // not IsConnected, which is true while it only tries
		return fmt.Errorf("external broker %s: the connection is lost", s.where)
	}
	return nil
}

func (s *Subscriber) setState(err error) {
	s.mu.Lock()
	s.state = err
	s.mu.Unlock()
	if err == nil {
		s.up.Set(1)
	} else {
		s.up.Set(0)
	}
	if s.onState != nil {
		s.onState(err)
	}
}

// backoff doubles from a second and takes off up to half at random, so that many clients of a broker that restarts do
// not come back in step.
func backoff(attempt int) time.Duration {
	d := maxBackoff
	if attempt < 5 {
		d = time.Second << attempt
	}
	return d/2 + rand.N(d/2)
}

// Run keeps the subscription until ctx ends. It makes a new client for every connection rather than let the library
// reconnect: un-acknowledged messages come back only on a new connection, acknowledgements of an old one must not
// reach it, the library's pause has no jitter, and it does not say on reconnecting whether the broker still had the
// session.
func (s *Subscriber) Run(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		begin := time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			s.setState(errors.New("stopped"))
			return nil
		}
		s.setState(err)
		if time.Since(begin) > settled {
			attempt = 0
		}
		pause := s.retry(attempt)
		s.d.Log.Warn().Err(err).Str("broker", s.where).Int64("retry_ms", pause.Milliseconds()).Msg("no readings from the external broker")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			s.setState(errors.New("stopped"))
			return nil
		}
	}
}

// session is one connection from connecting to losing it. It returns why it ended.
func (s *Subscriber) session(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	queue := make(chan mqtt.Message, s.c.Window)
	lost := make(chan error, 1)
	client, token, conn, err := s.connect(ctx, queue, lost)
	if err != nil {
		cancel()
		return err
	}
	var group sync.WaitGroup
	w := &worker{s: s, conn: conn, batch: s.d.Intake.NewBatch(), errors: make(chan refusal, errorQueue)}
	defer func() {
		// The order matters: a handler that waits for room is let go first, or the library cannot stop.
		cancel()
		client.Disconnect(250)
		group.Wait()
		s.mu.Lock()
		s.lastUp = s.d.Now()
		s.mu.Unlock()
	}()
	s.greet(client, token.SessionPresent())
	group.Go(func() { w.publishErrors(ctx, client) })

	subscribed := make(chan error, 1)
	subscribe := func() { group.Go(func() { subscribed <- s.subscribe(ctx, client) }) }
	subscribe()
	var again <-chan time.Time
	for refused := 0; ; {
		select {
		case <-parent.Done():
			return parent.Err()
		case err := <-lost:
			return fmt.Errorf("the connection was lost: %w", err)
		case err := <-subscribed:
			s.setState(err)
			if err == nil {
				break
			}
			// The connection is kept: what the session holds, and what other filters bring, still flows.
			pause := s.retry(refused)
			refused++
			s.d.Log.Error().Err(err).Str("broker", s.where).Int64("retry_ms", pause.Milliseconds()).Msg("the external broker does not let us subscribe")
			again = time.After(pause)
		case <-again:
			again = nil
			subscribe()
		case m := <-queue:
			if err := w.take(ctx, m, queue); err != nil {
				// No acknowledgement any more on this connection. The broker keeps what was not acknowledged and sends
				// it again to the next client, after the pause.
				return fmt.Errorf("readings cannot be made durable: %w", err)
			}
		}
	}
}

// connect returns a client whose connection is up.
func (s *Subscriber) connect(ctx context.Context, queue chan<- mqtt.Message, lost chan<- error) (mqtt.Client, *mqtt.ConnectToken, *link, error) {
	var password string
	if s.c.PasswordFile != "" {
		b, err := os.ReadFile(s.c.PasswordFile)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("mqtt.external.password_file: %w", err)
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	conf, err := s.c.TLS.load()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("mqtt.external.tls: %w", err)
	}
	var conn *link
	var handshake func() bool // stops what would end the handshake
	o := mqtt.NewClientOptions().AddBroker(s.c.URL).SetClientID(s.c.ClientID).
		SetUsername(s.c.Username).SetPassword(password).
		SetProtocolVersion(4).                          // else a refused handshake is tried again as MQTT 3.1, for good
		SetCleanSession(false).                         // the broker keeps what comes while we are away
		SetAutoAckDisabled(true).                       // we acknowledge, once it is durable
		SetOrderMatters(true).                          // safe, because the handler only enqueues
		SetAutoReconnect(false).SetConnectRetry(false). // see Run
		SetKeepAlive(keepAlive).SetPingTimeout(pingTimeout).SetWriteTimeout(writeTimeout).SetConnectTimeout(connectTimeout).
		SetStore(forgetful{}).
		SetCustomOpenConnectionFn(func(u *url.URL, o mqtt.ClientOptions) (net.Conn, error) {
			c, err := s.dial(ctx, u, &o, conf)
			if err != nil {
				return nil, err
			}
			// Ends a handshake with a silent broker when we are told to stop.
			handshake = context.AfterFunc(ctx, func() { c.Close() })
			conn = newLink(c)
			return conn, nil
		}).
		// Before Connect: a broker that kept our session sends at once, and what no handler takes is never acknowledged.
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			select {
			case queue <- m:
			case <-ctx.Done():
			}
		}).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) {
			select {
			case lost <- err:
			default:
			}
		})
	client := mqtt.NewClient(o)
	token := client.Connect().(*mqtt.ConnectToken)
	<-token.Done() // bounded by the connect timeout, which includes the handshake, and by ctx
	if handshake != nil {
		handshake()
	}
	if err := token.Error(); err != nil {
		if errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword) || errors.Is(err, packets.ErrorRefusedNotAuthorised) {
			return nil, nil, nil, fmt.Errorf("it refuses us: check mqtt.external.username and password_file: %w", err)
		}
		return nil, nil, nil, fmt.Errorf("cannot connect: %w", err)
	}
	return client, token, conn, nil
}

// dial opens the connection with our context, which the library does not know.
func (s *Subscriber) dial(ctx context.Context, u *url.URL, o *mqtt.ClientOptions, conf *tls.Config) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout}
	switch u.Scheme {
	case "ws", "wss":
		return mqtt.NewWebsocket(u.String(), conf, connectTimeout, o.HTTPHeaders, o.WebsocketOptions)
	case "ssl", "tls", "mqtts":
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		t := tls.Dialer{NetDialer: &d, Config: conf}
		return t.DialContext(ctx, "tcp", withPort(u.Host, "8883"))
	}
	return d.DialContext(ctx, "tcp", withPort(u.Host, "1883"))
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// greet says once per connection what the broker may lose, and when it has lost our session.
func (s *Subscriber) greet(client mqtt.Client, present bool) {
	s.mu.Lock()
	s.client = client
	met, last := s.metOnce, s.lastUp
	s.metOnce = true
	s.mu.Unlock()
	s.d.Log.Info().Str("broker", s.where).Bool("session_present", present).Msg("connected to the external broker. Devices are acknowledged by the broker, not by vitalwatch: " +
		"a reading that the broker holds only in memory is lost when the broker is (Mosquitto: persistence is off by default, and on it saves every 1800 s; it drops beyond 1000 queued messages). See docs/brokers.md")
	if met && !present {
		s.d.Log.Warn().Str("broker", s.where).Time("lost_from", last.UTC()).Time("lost_until", s.d.Now().UTC()).
			Msg("the external broker has forgotten our session: what devices sent in between is lost unless they send it again")
	}
}

// subscribe asks for all filters and reads the answer: the library takes a refusal for success.
func (s *Subscriber) subscribe(ctx context.Context, client mqtt.Client) error {
	filters := map[string]byte{}
	for _, t := range s.c.Topics {
		filters[t] = 1
	}
	token := client.SubscribeMultiple(filters, nil).(*mqtt.SubscribeToken)
	select {
	case <-token.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(subackTimeout):
		return fmt.Errorf("no answer to the subscription within %v", subackTimeout)
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	granted := token.Result()
	for _, t := range s.c.Topics {
		switch q, ok := granted[t]; {
		case !ok || q == 0x80: // [MQTT-3.9.3-2]
			who := "anonymous clients"
			if s.c.Username != "" {
				who = fmt.Sprintf("user %q", s.c.Username)
			}
			return fmt.Errorf("it refuses the subscription to %s: allow %s to read it in the broker's access list", t, who)
		case q == 0:
			return fmt.Errorf("it grants only QoS 0 for %s, which loses readings: allow QoS 1 (Mosquitto: max_qos)", t)
		}
	}
	return nil
}

// kinds of messages in the metric.
var kinds = []string{kindReadings, kindStatus, kindRetained, kindForeign}

const (
	kindReadings = "readings"
	kindStatus   = "status"
	kindRetained = "retained" // a retained copy of readings: stale, its original was judged when it came
	kindForeign  = "foreign"  // a topic that is not ours, or a device id that is none
)

// worker turns the messages of one connection into commits.
type worker struct {
	s      *Subscriber
	conn   *link
	batch  Batch
	group  []mqtt.Message
	owners []vitals.DeviceID // of the messages added to the batch, in order
	errors chan refusal
}

// refusal is one message for down/errors.
type refusal struct {
	topic   string
	payload []byte
}

// take commits the first message with all that wait behind it, then acknowledges them in the order in which they came.
// After an error nothing of the group is acknowledged.
func (w *worker) take(ctx context.Context, first mqtt.Message, queue <-chan mqtt.Message) error {
	w.group, w.owners = append(w.group[:0], first), w.owners[:0]
	bytes := len(first.Payload())
collect:
	for len(w.group) < groupMessages && bytes < groupBytes {
		select {
		case m := <-queue:
			w.group = append(w.group, m)
			bytes += len(m.Payload())
		default:
			break collect
		}
	}
	now := vitals.At(w.s.d.Now())
	if w.s.d.Meet != nil {
		w.meet(ctx)
	}
	for _, m := range w.group {
		w.s.messages.WithLabelValues(w.add(ctx, m, now)).Inc()
	}
	if len(w.owners) > 0 {
		results, err := w.batch.Commit(ctx)
		if err != nil {
			return err
		}
		for i := range results {
			if len(results[i].Problems) > 0 && i < len(w.owners) {
				w.refuse(w.owners[i], &results[i], now)
			}
		}
	}
	w.conn.hold()
	for i, m := range w.group {
		m.Ack()
		w.group[i] = nil
	}
	w.conn.release()
	return nil
}

// meet tells whose messages are in the group. What the broker has kept from before may be of a device that is long gone.
func (w *worker) meet(ctx context.Context) {
	ids := w.owners[:0]
	for _, m := range w.group {
		if id, _, ok := parseTopic(m.Topic()); ok && !m.Retained() {
			ids = append(ids, id)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, meetTimeout)
	defer cancel()
	w.s.d.Meet(ctx, ids)
	w.owners = ids[:0]
}

// add puts one message where it belongs and returns its kind.
func (w *worker) add(ctx context.Context, m mqtt.Message, now vitals.Micros) string {
	id, format, ok := parseTopic(m.Topic())
	var gateway vitals.DeviceID
	var topic string
	if !ok && w.s.d.Routes != nil {
		topic = m.Topic()
		parts := 0
		w.s.d.Routes.Messages("", []byte(topic), m.Payload(), func(whose, through vitals.DeviceID, what string, _ []byte, err error) {
			if err != nil {
				// What a gateway sends that is nobody's waits, in no format, in quarantine as the gateway's.
				whose, through, what = through, "", ""
			}
			parts++
			ok = ok || whose != ""
			id, gateway, format = whose, through, what
		})
		if parts > 1 { // the pipeline takes it apart
			id, gateway, format = "", "", ""
		}
	}
	switch {
	case !ok:
		return kindForeign
	case format == "status":
		if w.s.d.Status != nil {
			at := now
			if m.Retained() {
				at = 0
			}
			if err := w.s.d.Status.Status(ctx, id, m.Payload(), at); err != nil {
				w.s.d.Log.Debug().Err(err).Str("device_id", string(id)).Msg("status not taken")
			}
		}
		return kindStatus
	case m.Retained():
		return kindRetained
	}
	w.batch.Add(ingest.Message{Device: id, Gateway: gateway, Topic: topic, Format: format, Source: "broker", Payload: m.Payload(), ReceivedAt: now})
	w.owners = append(w.owners, cmp.Or(gateway, id))
	return kindReadings
}

// parseTopic takes vw/v1/{device}/up/{format} apart. The device is who the broker let publish there: with an access
// list that ties each device to its own topics, it is authenticated.
func parseTopic(topic string) (id vitals.DeviceID, format string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "vw/v1/")
	if !ok {
		return "", "", false
	}
	dev, rest, ok := strings.Cut(rest, "/")
	if !ok || !vitals.ValidID(dev) {
		return "", "", false
	}
	format, ok = strings.CutPrefix(rest, "up/")
	return vitals.DeviceID(dev), format, ok && format != ""
}

// refuse tells the device why, as well as it goes.
func (w *worker) refuse(id vitals.DeviceID, r *ingest.Result, now vitals.Micros) {
	if id == "" { // a message of several devices that no gateway answers for
		return
	}
	for i := range r.Problems[:min(len(r.Problems), errorsPerMessage)] {
		p := &r.Problems[i]
		b, err := json.Marshal(struct {
			At      string `json:"at"`
			Problem string `json:"problem"`
			Detail  string `json:"detail"`
			Index   int    `json:"index"`
		}{now.Time().Format("2006-01-02T15:04:05.000Z07:00"), p.Code, p.Detail, p.Index})
		if err != nil {
			continue // four plain fields cannot fail
		}
		select {
		case w.errors <- refusal{"vw/v1/" + string(id) + "/down/errors", b}:
		default:
		}
	}
}

// publishErrors sends beside the commits, because a slow link must not hold up readings.
func (w *worker) publishErrors(ctx context.Context, client mqtt.Client) {
	for {
		select {
		case r := <-w.errors:
			client.Publish(r.topic, 0, false, r.payload)
		case <-ctx.Done():
			return
		}
	}
}
