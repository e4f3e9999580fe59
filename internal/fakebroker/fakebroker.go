// Package fakebroker is an MQTT 3.1.1 broker for tests of what publishes: it acknowledges, refuses or breaks
// connections as the test says, and keeps what it got. It routes nothing and speaks no TLS.
//
// Concurrency: all methods may be called from any goroutine; Config.OnPublish is called from connections' goroutines.
package fakebroker

import (
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Message is one PUBLISH.
type Message struct {
	ClientID, Topic string
	Payload         []byte
	QoS             byte
	Dup             bool
}

// Verdict is what happens to a PUBLISH.
type Verdict int

// The verdicts.
const (
	Ack  Verdict = iota // PUBACK, after Reply
	Drop                // the connection breaks without PUBACK
)

// Config says how the broker behaves. The zero value accepts everybody and acknowledges everything.
type Config struct {
	// Password, when not nil, must return the password of a user name, else CONNACK refuses with code 5.
	Password func(username string) (string, bool)
	// OnPublish decides about a message; nil acknowledges. reply sends a message to the same client first.
	OnPublish func(m Message, reply func(topic string, payload []byte)) Verdict
}

// Broker is a running broker.
type Broker struct {
	cfg Config
	l   net.Listener
	wg  sync.WaitGroup

	mu    sync.Mutex
	msgs  []Message
	conns map[net.Conn]string // client id, "" before CONNECT
	new   chan struct{}       // closed and replaced when something arrives
}

// Start listens on a loopback port until the test ends.
func Start(tb testing.TB, cfg Config) *Broker {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b := &Broker{cfg: cfg, l: l, conns: map[net.Conn]string{}, new: make(chan struct{})}
	b.wg.Go(b.accept)
	tb.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

// URL is where clients connect.
func (b *Broker) URL() string { return "tcp://" + b.l.Addr().String() }

// Messages returns what arrived so far, also what was dropped afterwards, and a channel that closes when more arrives.
func (b *Broker) Messages() ([]Message, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Message(nil), b.msgs...), b.new
}

// Clients lists the ids of the connected clients.
func (b *Broker) Clients() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, id := range b.conns {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (b *Broker) accept() {
	for {
		c, err := b.l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[c] = ""
		b.mu.Unlock()
		b.wg.Go(func() {
			b.serve(c)
			c.Close()
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		})
	}
}

func (b *Broker) serve(c net.Conn) {
	id := ""
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		switch p := p.(type) {
		case *packets.ConnectPacket:
			id = p.ClientIdentifier
			ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			if b.cfg.Password != nil {
				if want, ok := b.cfg.Password(p.Username); !ok || want != string(p.Password) {
					ack.ReturnCode = packets.ErrRefusedNotAuthorised
				}
			}
			if ack.Write(c) != nil || ack.ReturnCode != 0 {
				return
			}
			b.mu.Lock()
			b.conns[c] = id
			b.mu.Unlock()
		case *packets.PublishPacket:
			m := Message{ClientID: id, Topic: p.TopicName, Payload: p.Payload, QoS: p.Qos, Dup: p.Dup}
			b.mu.Lock()
			b.msgs = append(b.msgs, m)
			close(b.new)
			b.new = make(chan struct{})
			b.mu.Unlock()
			verdict := Ack
			if b.cfg.OnPublish != nil {
				verdict = b.cfg.OnPublish(m, func(topic string, payload []byte) {
					r := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
					r.TopicName, r.Payload = topic, payload
					_ = r.Write(c) // a lost reply shows as a failed test
				})
			}
			if verdict == Drop {
				return
			}
			if p.Qos == 1 {
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				if ack.Write(c) != nil {
					return
				}
			}
		case *packets.SubscribePacket:
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID = p.MessageID
			ack.ReturnCodes = make([]byte, len(p.Topics))
			if ack.Write(c) != nil {
				return
			}
		case *packets.PingreqPacket:
			if packets.NewControlPacket(packets.Pingresp).Write(c) != nil {
				return
			}
		case *packets.DisconnectPacket:
			return
		}
	}
}
