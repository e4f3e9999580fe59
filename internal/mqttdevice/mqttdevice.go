// Package mqttdevice is the device's side of contract section 3: it connects as one device, publishes with QoS 1,
// counts a message only when its PUBACK came, sends again on a new connection what was not acknowledged, and hears
// what comes on down/errors. The simulator and the publish command use it; the server does not.
//
// Concurrency: a Device belongs to one goroutine; OnError is called from another.
package mqttdevice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Config says who connects where. Broker and ID must be set.
type Config struct {
	Broker   string // tcp://host:1883, ssl://, ws://, wss://
	ID       string // device id and client id
	Username string // "" with a password: the device id (contract section 2)
	Password string
	// Window is how many messages may wait for their PUBACK; 0 means 10.
	Window int
	// AckTimeout is how long a PUBACK may take before the connection is given up; 0 means 30 s.
	AckTimeout time.Duration
	// GiveUp ends Send when no connection could be made for that long; 0 means never.
	GiveUp time.Duration
	// Status, when not nil, makes the retained message of up/status for every new connection, such as
	// {"state":"online","battery":87}; the will then says {"state":"lost"}.
	Status func() []byte
	// OnRetry hears why a connection could not be made, each time it will be tried again; nil is silence.
	OnRetry func(error)
	// OnError hears every refusal from down/errors; nil does not subscribe.
	OnError func(Refusal)
}

// Refusal is one message of down/errors.
type Refusal struct {
	Problem string `json:"problem"`
	Detail  string `json:"detail"`
	Index   int    `json:"index"`
}

// Back-off between attempts to connect.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
)

const handshakeTimeout = 10 * time.Second

// ErrRefused says that the broker knows us and does not want us: trying again is no use.
var ErrRefused = errors.New("the broker refused the connection; check device id, user name and password")

// Device publishes as one device.
type Device struct {
	cfg    Config
	client mqtt.Client // nil when not connected

	reached bool
}

// New returns a device; it connects with the first Send.
func New(cfg Config) *Device {
	if cfg.Window == 0 {
		cfg.Window = 10
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = 30 * time.Second
	}
	if cfg.Username == "" && cfg.Password != "" {
		cfg.Username = cfg.ID
	}
	return &Device{cfg: cfg}
}

// CheckBroker says what is wrong with the address of a broker. The error does not repeat it: it may hold a password.
func CheckBroker(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || !slices.Contains([]string{"tcp", "mqtt", "ssl", "tls", "mqtts", "ws", "wss"}, u.Scheme) {
		return errors.New("must be like tcp://host:1883 or mqtts://host:8883")
	}
	return nil
}

// Reached tells whether there has been a connection.
func (d *Device) Reached() bool { return d.reached }

// Topic is where the device publishes readings.
func (d *Device) Topic() string { return "vw/v1/" + d.cfg.ID + "/up/readings" }

// Send publishes the payloads in order and returns when each has its PUBACK. acked, when not nil, is called for each,
// in order. After a lost connection it connects again and sends what had no PUBACK once more.
func (d *Device) Send(ctx context.Context, payloads [][]byte, acked func(i int)) error {
	done := 0
	retry := firstRetry
	for done < len(payloads) {
		if err := d.connect(ctx); err != nil {
			return err
		}
		n, err := d.window(ctx, payloads[done:], done, acked)
		done += n
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			d.drop()
			if n > 0 {
				retry = firstRetry
			}
			if err := wait(ctx, retry); err != nil {
				return err
			}
			retry = min(2*retry, lastRetry)
		}
	}
	return nil
}

// window publishes on one connection and returns how many payloads from the front were acknowledged. A token of a
// client that neither reconnects nor keeps its session ends without error only by its PUBACK.
func (d *Device) window(ctx context.Context, payloads [][]byte, base int, acked func(i int)) (int, error) {
	var tokens []mqtt.Token
	timer := time.NewTimer(d.cfg.AckTimeout)
	defer timer.Stop()
	for done := 0; done < len(payloads); done++ {
		for len(tokens) < d.cfg.Window && done+len(tokens) < len(payloads) {
			tokens = append(tokens, d.client.Publish(d.Topic(), 1, false, payloads[done+len(tokens)]))
		}
		timer.Reset(d.cfg.AckTimeout)
		select {
		case <-tokens[0].Done():
			if err := tokens[0].Error(); err != nil {
				return done, err
			}
		case <-timer.C:
			return done, errors.New("no PUBACK in time")
		case <-ctx.Done():
			return done, ctx.Err()
		}
		tokens = tokens[1:]
		if acked != nil {
			acked(base + done)
		}
	}
	return len(payloads), nil
}

func (d *Device) connect(ctx context.Context) error {
	if d.client != nil && d.client.IsConnectionOpen() {
		return nil
	}
	d.drop()
	var deadline <-chan time.Time
	if d.cfg.GiveUp > 0 {
		t := time.NewTimer(d.cfg.GiveUp)
		defer t.Stop()
		deadline = t.C
	}
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := d.try(ctx)
		if err == nil || errors.Is(err, ErrRefused) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err() // also when the connection failed in the same moment
		}
		if d.cfg.OnRetry != nil {
			d.cfg.OnRetry(err)
		}
		t := time.NewTimer(retry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-deadline:
			t.Stop()
			return fmt.Errorf("connect to the broker: %w; check that it runs and the address is right", err)
		}
	}
}

func (d *Device) try(ctx context.Context) error {
	o := mqtt.NewClientOptions().AddBroker(d.cfg.Broker).SetClientID(d.cfg.ID).
		SetUsername(d.cfg.Username).SetPassword(d.cfg.Password).
		SetProtocolVersion(4). // else any failure falls back to MQTT 3.1 and stays there
		SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(handshakeTimeout).SetWriteTimeout(handshakeTimeout).
		SetKeepAlive(30 * time.Second).SetPingTimeout(handshakeTimeout)
	status := "vw/v1/" + d.cfg.ID + "/up/status"
	if d.cfg.Status != nil {
		o.SetBinaryWill(status, []byte(`{"state":"lost"}`), 1, true)
	}
	c := mqtt.NewClient(o)
	t := c.Connect()
	select {
	case <-t.Done():
	case <-ctx.Done():
		c.Disconnect(0)
		return ctx.Err()
	}
	if err := t.Error(); err != nil {
		code := t.(*mqtt.ConnectToken).ReturnCode()
		if code >= packets.ErrRefusedBadProtocolVersion && code <= packets.ErrRefusedNotAuthorised && code != packets.ErrRefusedServerUnavailable {
			return fmt.Errorf("%w (CONNACK code %d)", ErrRefused, code)
		}
		return err
	}
	d.client, d.reached = c, true
	if d.cfg.Status != nil {
		c.Publish(status, 1, true, d.cfg.Status()) // lost with the connection, and then sent with the next
	}
	if d.cfg.OnError != nil {
		// Not being allowed to listen does not keep a device from publishing, so the SUBACK is not asked.
		s := c.Subscribe("vw/v1/"+d.cfg.ID+"/down/errors", 0, func(_ mqtt.Client, m mqtt.Message) {
			var r Refusal
			if json.Unmarshal(m.Payload(), &r) == nil {
				d.cfg.OnError(r)
			}
		})
		s.WaitTimeout(handshakeTimeout)
	}
	return nil
}

func (d *Device) drop() {
	if d.client != nil {
		d.client.Disconnect(0)
		d.client = nil
	}
}

// Close disconnects.
func (d *Device) Close() {
	if d.client != nil {
		d.client.Disconnect(250)
		d.client = nil
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
