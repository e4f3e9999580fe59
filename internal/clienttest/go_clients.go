package clienttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

var (
	_ Client = script{}
	_ Client = goPaho3{}
	_ Client = goPaho5{}
	_ Client = mosquitto{}
)

// inFlight is how many messages the Go clients have unacknowledged, pace their time between two: a test wants to kill
// its server in between.
const (
	inFlight = 5
	pace     = 10 * time.Millisecond
)

// goPaho3 is eclipse/paho.mqtt.golang.
type goPaho3 struct{}

func (goPaho3) Name() string    { return "paho.mqtt.golang" }
func (goPaho3) Versions() []int { return []int{4} }

func (goPaho3) options(j Job) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + j.Addr).SetClientID(j.Device).SetProtocolVersion(4).SetCleanSession(false).
		SetConnectRetry(true).SetConnectRetryInterval(200 * time.Millisecond).SetMaxReconnectInterval(200 * time.Millisecond).SetWriteTimeout(10 * time.Second)
	if j.Password != "" {
		o.SetUsername(j.Device).SetPassword(j.Password)
	}
	return o
}

func wait(ctx context.Context, t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g goPaho3) Publish(ctx context.Context, j Job, payloads []string, acked func()) error {
	c := mqtt.NewClient(g.options(j))
	if err := wait(ctx, c.Connect()); err != nil {
		return err
	}
	defer c.Disconnect(250)
	var wg sync.WaitGroup
	room := make(chan struct{}, inFlight)
	for _, p := range payloads {
		room <- struct{}{}
		for j.QoS == 0 && !c.IsConnectionOpen() { // such a message is not kept for later
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(pace)
		}
		t := c.Publish(j.up(), byte(j.QoS), false, p)
		wg.Go(func() {
			wait(ctx, t)
			acked()
			<-room
		})
		time.Sleep(pace)
	}
	wg.Wait()
	return ctx.Err()
}

func (g goPaho3) Subscribe(ctx context.Context, j Job) error {
	c := mqtt.NewClient(g.options(j))
	if err := wait(ctx, c.Connect()); err != nil {
		return err
	}
	defer c.Disconnect(250)
	return wait(ctx, c.Subscribe(j.down(), 1, nil))
}

func (g goPaho3) Await(ctx context.Context, j Job) (string, error) {
	got := make(chan string, 10)
	c := mqtt.NewClient(g.options(j).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- string(m.Payload()) }))
	if err := wait(ctx, c.Connect()); err != nil {
		return "", err
	}
	defer c.Disconnect(250)
	select {
	case p := <-got:
		return p, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (g goPaho3) Refused(ctx context.Context, j Job, topic, payload string) (int, error) {
	lost := make(chan struct{})
	o := g.options(j).SetConnectRetry(false).SetAutoReconnect(false).SetConnectionLostHandler(func(mqtt.Client, error) { close(lost) })
	c := mqtt.NewClient(o)
	t := c.Connect()
	err := wait(ctx, t)
	if topic == "" {
		for code, known := range packets.ConnErrors {
			if known != nil && errors.Is(err, known) {
				return int(code), nil
			}
		}
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	defer c.Disconnect(0)
	pub := c.Publish(topic, 1, false, payload)
	select {
	case <-lost:
		return Closed, nil
	case <-pub.Done():
		return 0, pub.Error()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// goPaho5 is eclipse/paho.golang with autopaho.
type goPaho5 struct{}

func (goPaho5) Name() string    { return "paho.golang with autopaho" }
func (goPaho5) Versions() []int { return []int{5} }

func (goPaho5) config(j Job, up chan<- struct{}, got func(paho.PublishReceived) (bool, error)) autopaho.ClientConfig {
	c := autopaho.ClientConfig{
		ServerUrls: []*url.URL{{Scheme: "mqtt", Host: j.Addr}}, KeepAlive: 20, SessionExpiryInterval: 3600,
		ReconnectBackoff: func(int) time.Duration { return 200 * time.Millisecond },
		OnConnectionUp: func(*autopaho.ConnectionManager, *paho.Connack) {
			select {
			case up <- struct{}{}:
			default:
			}
		},
		ClientConfig: paho.ClientConfig{ClientID: j.Device, Session: state.NewInMemory()},
	}
	if got != nil {
		c.OnPublishReceived = []func(paho.PublishReceived) (bool, error){got}
	}
	if j.Password != "" {
		c.ConnectUsername, c.ConnectPassword = j.Device, []byte(j.Password)
	}
	return c
}

func (g goPaho5) start(ctx context.Context, j Job, got func(paho.PublishReceived) (bool, error)) (*autopaho.ConnectionManager, func(), error) {
	c, err := autopaho.NewConnection(context.WithoutCancel(ctx), g.config(j, nil, got))
	if err != nil {
		return nil, nil, err
	}
	leave := func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		c.Disconnect(end)
	}
	if err := c.AwaitConnection(ctx); err != nil {
		leave()
		return nil, nil, err
	}
	return c, leave, nil
}

func (g goPaho5) Publish(ctx context.Context, j Job, payloads []string, acked func()) error {
	c, leave, err := g.start(ctx, j, nil)
	if err != nil {
		return err
	}
	defer leave()
	var wg sync.WaitGroup
	room := make(chan struct{}, inFlight)
	errs := make(chan error, len(payloads))
	// publish returns when the server has taken p, or, unless it must be certain, when the session has it and will send
	// it again.
	publish := func(p string, certain bool) error {
		for {
			if err := c.AwaitConnection(ctx); err != nil {
				return err
			}
			_, err := c.Publish(ctx, &paho.Publish{QoS: byte(j.QoS), Topic: j.up(), Payload: []byte(p)})
			switch {
			case err == nil || !certain && errors.Is(err, paho.ErrNetworkErrorAfterStored):
				acked()
				return nil
			case ctx.Err() != nil:
				return ctx.Err()
			}
			time.Sleep(pace)
		}
	}
	last := len(payloads) - 1
	for _, p := range payloads[:last] {
		room <- struct{}{}
		wg.Go(func() {
			if err := publish(p, false); err != nil {
				errs <- err
			}
			<-room
		})
		time.Sleep(pace)
	}
	wg.Wait()
	close(errs)
	// What the session sends again goes before what is new, and the server answers in order.
	return errors.Join(<-errs, publish(payloads[last], true))
}

func (g goPaho5) Subscribe(ctx context.Context, j Job) error {
	c, leave, err := g.start(ctx, j, nil)
	if err != nil {
		return err
	}
	defer leave()
	_, err = c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: j.down(), QoS: 1}}})
	return err
}

func (g goPaho5) Await(ctx context.Context, j Job) (string, error) {
	got := make(chan string, 10)
	_, leave, err := g.start(ctx, j, func(p paho.PublishReceived) (bool, error) {
		got <- string(p.Packet.Payload)
		return true, nil
	})
	if err != nil {
		return "", err
	}
	defer leave()
	select {
	case p := <-got:
		return p, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (g goPaho5) Refused(ctx context.Context, j Job, topic, payload string) (int, error) {
	cfg := g.config(j, nil, nil)
	// Not when publishing: a message whose server was killed before it answered waits for this time.
	cfg.PacketTimeout = time.Minute
	refused := make(chan int, 10)
	cfg.OnConnectError = func(err error) {
		var e *autopaho.ConnackError
		if errors.As(err, &e) {
			refused <- int(e.ReasonCode)
		}
	}
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := autopaho.NewConnection(run, cfg)
	if err != nil {
		return 0, err
	}
	defer func() { cancel(); <-c.Done() }()
	if topic == "" {
		select {
		case code := <-refused:
			return code, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := c.AwaitConnection(ctx); err != nil {
		return 0, err
	}
	r, err := c.Publish(ctx, &paho.Publish{QoS: 1, Topic: topic, Payload: []byte(payload)})
	if r == nil {
		return 0, err
	}
	return int(r.ReasonCode), nil
}

// mosquitto is mosquitto_pub, called once for each message and again until it says that the message was taken, and
// mosquitto_sub.
type mosquitto struct{}

func (mosquitto) Name() string    { return "mosquitto_pub and mosquitto_sub" }
func (mosquitto) Versions() []int { return []int{4, 5} }

func (m mosquitto) run(ctx context.Context, j Job, tool string, more ...string) (string, error) {
	out, err := m.command(ctx, j, tool, more...).CombinedOutput()
	return string(out), err
}

func (mosquitto) command(ctx context.Context, j Job, tool string, more ...string) *exec.Cmd {
	host, port, _ := strings.Cut(j.Addr, ":")
	version := map[int]string{4: "mqttv311", 5: "mqttv5"}[j.Version]
	args := []string{"-h", host, "-p", port, "-V", version, "-i", j.Device, "-q", fmt.Sprint(j.QoS)}
	if j.Version == 5 {
		args = append(args, "-x", "3600")
	}
	if j.Password != "" {
		args = append(args, "-u", j.Device, "-P", j.Password)
	}
	return exec.CommandContext(ctx, tool, append(args, more...)...)
}

func (m mosquitto) Publish(ctx context.Context, j Job, payloads []string, acked func()) error {
	for _, p := range payloads {
		for {
			out, err := m.run(ctx, j, "mosquitto_pub", "-t", j.up(), "-m", p)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %s", ctx.Err(), out)
			}
			time.Sleep(10 * pace)
		}
		acked()
	}
	return nil
}

func (m mosquitto) Subscribe(ctx context.Context, j Job) error {
	j.QoS = 1
	out, err := m.run(ctx, j, "mosquitto_sub", "-c", "-t", j.down(), "-E") // -E: leaves once subscribed
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (m mosquitto) Await(ctx context.Context, j Job) (string, error) {
	j.QoS = 1
	out, err := m.run(ctx, j, "mosquitto_sub", "-c", "-t", j.down(), "-C", "1", "-W", "120")
	return strings.TrimSpace(out), err
}

// told are the words of the tools, in 3.1.1 and 5.0, for the codes that tests ask for.
var told = map[string][2]int{
	"bad user name or password": {4, 0x86},
	"not authorized":            {5, 0x87},
	"payload format invalid":    {0, 0x99},
	"connection was lost":       {Closed, Closed},
}

func (m mosquitto) Refused(ctx context.Context, j Job, topic, payload string) (int, error) {
	j.QoS = 1
	if topic == "" {
		topic, payload = j.up(), "x"
	}
	// It tries again for ever when a 3.1.1 server closes for a message: -d tells that it connects a second time.
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := m.command(run, j, "mosquitto_pub", "-d", "-t", topic, "-m", payload)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); w.Close() }()
	code, found, connects := 0, false, 0
	var said []string
	for sc := bufio.NewScanner(r); sc.Scan(); {
		said = append(said, sc.Text())
		line := strings.ToLower(sc.Text())
		if strings.Contains(line, "sending connect") {
			connects++
		}
		for words, codes := range told {
			if !found && strings.Contains(line, words) {
				code, found = codes[j.Version-4], true
			}
		}
		if connects == 2 && !found {
			code, found = Closed, true
			cancel()
		}
	}
	if err := <-ended; err != nil && !found {
		return 0, fmt.Errorf("%w: %s", err, strings.Join(said, "\n"))
	}
	return code, nil
}
