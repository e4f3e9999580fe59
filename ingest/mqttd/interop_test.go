package mqttd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

func TestInterop_paho_3(t *testing.T) {
	d := open(t, nil, nil)
	o := mqtt.NewClientOptions().AddBroker("tcp://"+d.Addr().String()).SetClientID("D-1").SetProtocolVersion(4).
		SetUsername("D-1").SetPassword("secret-D-1").SetWill("vw/v1/D-1/up/status", `{"state":"lost"}`, 1, true).SetAutoReconnect(false)
	c := mqtt.NewClient(o)
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("token: %v", tok.Error())
		}
	}
	wait(c.Connect())
	got := make(chan string, 1)
	sub := c.Subscribe("vw/v1/D-1/down/#", 1, func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() + " " + string(m.Payload()) })
	wait(sub)
	if q := sub.(*mqtt.SubscribeToken).Result()["vw/v1/D-1/down/#"]; q != 1 {
		t.Errorf("granted %d", q)
	}
	for i := range 100 {
		wait(c.Publish("vw/v1/D-1/up/readings", byte(i%3), false, fmt.Sprint(i)))
	}
	if !d.Publish("D-1", "down/cmd", []byte("hello")) || <-got != "vw/v1/D-1/down/cmd hello" {
		t.Error("no command")
	}
	wait(c.Unsubscribe("vw/v1/D-1/down/#"))
	c.Disconnect(100)
	if n := len(d.in.payloads()); n != 100 {
		t.Errorf("%d stored", n)
	}
	bad := mqtt.NewClient(o.SetPassword("wrong"))
	if tok := bad.Connect(); !tok.WaitTimeout(patience) || tok.Error() == nil || !strings.Contains(tok.Error().Error(), "bad user name or password") {
		t.Errorf("refused with %v", tok.Error())
	}
}

func TestInterop_paho_5(t *testing.T) {
	d := open(t, nil, nil)
	nc, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan string, 10)
	told := make(chan *paho.Disconnect, 1)
	c := paho.NewClient(paho.ClientConfig{Conn: nc,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			got <- p.Packet.Topic + " " + string(p.Packet.Payload)
			return true, nil
		}},
		OnServerDisconnect: func(p *paho.Disconnect) { told <- p }})
	expiry := uint32(3600)
	ack, err := c.Connect(ctx, &paho.Connect{ClientID: "D-1", KeepAlive: 0, CleanStart: true, Username: "D-1", UsernameFlag: true,
		Password: []byte("secret-D-1"), PasswordFlag: true, Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry, RequestProblemInfo: true}})
	if err != nil {
		t.Fatal(err)
	}
	if p := ack.Properties; *p.ServerKeepAlive != 1200 || p.MaximumQoS != nil || p.SessionExpiryInterval != nil || *p.MaximumPacketSize != 68<<10 {
		t.Errorf("%+v", p)
	}
	if s, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "vw/v1/D-1/down/#"}}}); err != nil || s.Reasons[0] != 0 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "#"}}}); err == nil {
		t.Error("granted everything")
	}
	publish := func(topic, body string) (byte, string) {
		r, err := c.Publish(ctx, &paho.Publish{QoS: 1, Topic: topic, Payload: []byte(body), Properties: &paho.PublishProperties{User: paho.UserProperties{{Key: "a", Value: "b"}}}})
		if r == nil {
			t.Fatal(err)
		}
		return r.ReasonCode, r.Properties.ReasonString
	}
	if code, _ := publish("vw/v1/D-1/up/readings", "good"); code != 0 {
		t.Errorf("code %x", code)
	}
	if code, why := publish("vw/v1/D-1/up/readings", "bad"); code != 0x99 || !strings.Contains(why, "unit_unknown") {
		t.Errorf("code %x %s", code, why)
	}
	if s := <-got; !strings.HasPrefix(s, "vw/v1/D-1/down/errors ") {
		t.Errorf("got %s", s)
	}
	if code, why := publish("vw/v1/D-2/up/readings", "good"); code != 0x87 || why == "" {
		t.Errorf("code %x %s", code, why)
	}
	d.Shutdown(ctx)
	if p := <-told; p.ReasonCode != 0x8b {
		t.Errorf("%+v", p)
	}
	<-c.Done()
}

func TestInterop_mosquitto(t *testing.T) {
	for _, tool := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	for _, v := range []string{"mqttv311", "mqttv5"} {
		t.Run(v, func(t *testing.T) {
			d := open(t, nil, nil)
			host, port, _ := net.SplitHostPort(d.Addr().String())
			args := func(more ...string) []string {
				return append([]string{"-h", host, "-p", port, "-V", v, "-i", "D-1", "-u", "D-1", "-P", "secret-D-1"}, more...)
			}
			run := func(name string, more ...string) (string, error) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				out, err := exec.CommandContext(ctx, name, args(more...)...).CombinedOutput()
				return string(out), err
			}
			for i, qos := range []string{"0", "1", "2"} {
				if out, err := run("mosquitto_pub", "-q", qos, "-t", "vw/v1/D-1/up/readings", "-m", fmt.Sprint("good", i)); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			}
			many := exec.Command("mosquitto_pub", args("-q", "1", "-t", "vw/v1/D-1/up/readings", "-l")...)
			many.Stdin = strings.NewReader(strings.Repeat("line\n", 1000))
			if out, err := many.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if n := len(d.in.payloads()); n != 1003 {
				t.Errorf("%d stored", n)
			}
			if out, err := run("mosquitto_pub", "-q", "1", "-t", "vw/v1/D-1/up/readings", "-m", "x", "-P", "wrong"); err == nil || !strings.Contains(strings.ToLower(out), "not auth") && !strings.Contains(strings.ToLower(out), "bad user") {
				t.Errorf("wrong password: %v %s", err, out)
			}
			// A command down: mosquitto_sub prints one message and leaves.
			var out bytes.Buffer
			sub := exec.Command("mosquitto_sub", args("-t", "vw/v1/D-1/down/#", "-C", "1", "-W", "60")...)
			sub.Stdout = &out
			if err := sub.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience); !d.Publish("D-1", "down/cmd", []byte("measure")); {
				if time.Now().After(deadline) {
					t.Fatal("never subscribed")
				}
				time.Sleep(time.Millisecond) // until the other process has come up
			}
			if err := sub.Wait(); err != nil || out.String() != "measure\n" {
				t.Errorf("%v %q", err, out.String())
			}
		})
	}
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := patient()
	cfg.Listen, cfg.TLSListen = "", "127.0.0.1:0"
	in := &intake{}
	s := mqttd.New(cfg, mqttd.Deps{Intake: in, Auth: doors{}, TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(context.Background())
	d := &door{Server: s, in: in}
	both(t, func(t *testing.T, v packet.Version) {
		c := d.dial(t, v)
		tc := tls.Client(c.nc, &tls.Config{InsecureSkipVerify: true})
		c.nc = tc
		c.r.Reset(tc)
		c.send(connectPacket(v, "D-1"))
		c.recv()
		for id := range uint16(20) {
			c.send(reading(2*id+1, strings.Repeat("x", 30_000)), reading(2*id+2, "y"))
			c.puback(2*id + 1)
			c.puback(2*id + 2)
		}
		c.send(&packet.Disconnect{})
		c.gone()
	})
	if n := len(in.payloads()); n != 80 {
		t.Errorf("%d stored", n)
	}
}
