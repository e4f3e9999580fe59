package mqttd

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"vitalwatch/ingest/mqttd/packet"
)

// Config bounds the front door. DefaultConfig is complete; a zero field is an error unless it says otherwise.
type Config struct {
	// Listen is the plain TCP address, "" for none; TLSListen the one with TLS and needs Deps.TLS.
	Listen    string
	TLSListen string
	// WebSocketListen is the address of MQTT over WebSocket, with TLS when there is Deps.TLS, "" for none.
	WebSocketListen string
	WebSocket       WebSocketOptions
	// What each listener allows for itself; Serve has the limits of TCP.
	TCPLimits, TLSLimits, WebSocketLimits ListenerLimits
	// ProxyProtocol lists whose connections begin with a PROXY protocol v2 header on every listener: load balancers.
	// From there a connection without one is refused; from elsewhere the header is not understood.
	ProxyProtocol []netip.Prefix
	// MaxHandshakes bounds how many TLS handshakes compute at the same time; 0: half of the processors.
	MaxHandshakes int
	// ServerReference is what 5.0 clients are told at shutdown, where else to go; "" for nothing.
	ServerReference string

	// ConnectTimeout is the time from accept to a complete CONNECT, TLS handshake and login included.
	ConnectTimeout time.Duration
	// MaxConnectBytes bounds CONNECT, the only packet of a stranger.
	MaxConnectBytes int
	// MaxPacketBytes bounds every later packet, header included: 64 KiB of payload and room for topic and properties.
	MaxPacketBytes int
	MaxConnections int
	// MaxConnectionsPerAddress counts an IPv4 address or an IPv6 /64; 0 is off. Loopback is exempt here and from the
	// login back-off, because there it is a proxy or a tool and not one client, unless LimitLoopback is set.
	MaxConnectionsPerAddress int
	LimitLoopback            bool
	// LoginFailures refused logins make an address, or a client id, wait; one of them is forgotten every LoginRefill.
	LoginFailures int
	LoginRefill   time.Duration
	// LoginBackoff is the longest wait after failed logins: the first is LoginRefill, the next twice that.
	LoginBackoff time.Duration

	// MinKeepAlive and MaxKeepAlive: 5.0 clients outside, or with none, are told to use the nearer one. 3.1.1 cannot
	// be told: the client's own is honoured up to MaxKeepAlive, and none means MaxKeepAlive.
	MinKeepAlive, MaxKeepAlive time.Duration
	// WriteTimeout is how long a client may leave its socket full.
	WriteTimeout time.Duration
	// CommitTimeout is how long a group may wait to become durable before its sender is sent away.
	CommitTimeout time.Duration
	// CommitSpread is over which time those are sent away whose groups ran into CommitTimeout together.
	CommitSpread time.Duration
	// MaxInFlightBytes: while more than this waits to become durable, connections read in small pieces.
	MaxInFlightBytes int
	// MaxReadBatch is how many bytes one read takes from a connection, and so about how much one group holds.
	MaxReadBatch int
	// ReceiveMaximum is what 5.0 clients may have unacknowledged.
	ReceiveMaximum int
	// MessagesPerMinute slows a device down to this rate, with a burst of one minute; 0 is off. Nothing is dropped.
	MessagesPerMinute int
	// DownQueue bounds in bytes what waits for a device that does not read; more is dropped and counted.
	DownQueue int
	// MaxSubscriptions bounds the filters of one session.
	MaxSubscriptions int
	// MaxSessionExpiry is how long a session may wait for its device, also what 3.1.1 clients without clean session get;
	// 0: sessions end with their connection.
	MaxSessionExpiry time.Duration
	// TopicAliasMaximum is how many topic aliases a 5.0 client may set; 0: none.
	TopicAliasMaximum int
}

const defaultMaxConnections = 100_000

// DefaultConfig binds to loopback only.
func DefaultConfig() Config {
	return Config{
		Listen:                   "127.0.0.1:1883",
		WebSocket:                WebSocketOptions{Path: "/mqtt", MaxMessageBytes: 256 << 10},
		TCPLimits:                ListenerLimits{MaxPending: 4096, AcceptPerSecond: 5000},
		TLSLimits:                ListenerLimits{MaxPending: 2048, AcceptPerSecond: 1000},
		WebSocketLimits:          ListenerLimits{MaxPending: 1024, AcceptPerSecond: 1000},
		ConnectTimeout:           10 * time.Second,
		MaxConnectBytes:          8 << 10,
		MaxPacketBytes:           64<<10 + 4<<10,
		MaxConnections:           defaultMaxConnections,
		MaxConnectionsPerAddress: 1024,
		LoginFailures:            10,
		LoginRefill:              10 * time.Second,
		LoginBackoff:             10 * time.Minute,
		MinKeepAlive:             10 * time.Second,
		MaxKeepAlive:             20 * time.Minute,
		WriteTimeout:             10 * time.Second,
		CommitTimeout:            5 * time.Second,
		CommitSpread:             5 * time.Second,
		MaxInFlightBytes:         64 << 20,
		MaxReadBatch:             64 << 10,
		ReceiveMaximum:           1000,
		DownQueue:                64 << 10,
		MaxSubscriptions:         8,
		MaxSessionExpiry:         7 * 24 * time.Hour,
		TopicAliasMaximum:        16,
	}
}

// Validate reports all that is wrong at once.
func (c Config) Validate() error {
	var errs []error
	bound := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s is %d; use %d to %d", name, v, lo, hi))
		}
	}
	span := func(name string, v, lo, hi time.Duration) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%s is %s; use %s to %s", name, v, lo, hi))
		}
	}
	span("connect timeout", c.ConnectTimeout, time.Millisecond, time.Hour)
	bound("max connect bytes", c.MaxConnectBytes, 256, 1<<20)
	bound("max packet bytes", c.MaxPacketBytes, 1024, 16<<20)
	bound("max connections", c.MaxConnections, 1, 10_000_000)
	bound("max connections per address", c.MaxConnectionsPerAddress, 0, 10_000_000)
	bound("login failures", c.LoginFailures, 1, 1_000_000)
	span("login refill", c.LoginRefill, time.Millisecond, 24*time.Hour)
	span("login backoff", c.LoginBackoff, time.Millisecond, 24*time.Hour)
	span("min keep-alive", c.MinKeepAlive, time.Second, 65535*time.Second)
	span("max keep-alive", c.MaxKeepAlive, max(c.MinKeepAlive, time.Second), 65535*time.Second)
	span("write timeout", c.WriteTimeout, time.Millisecond, time.Hour)
	span("commit timeout", c.CommitTimeout, time.Millisecond, time.Hour)
	span("commit spread", c.CommitSpread, 0, time.Hour)
	bound("max in-flight bytes", c.MaxInFlightBytes, 1<<20, 1<<40)
	bound("max handshakes", c.MaxHandshakes, 0, 10_000)
	if len(c.ServerReference) > 1024 || !packet.ValidString([]byte(c.ServerReference)) {
		errs = append(errs, errors.New("server reference is not a UTF-8 text of at most 1024 bytes"))
	}
	errs = append(errs, c.TCPLimits.validate("tcp"), c.TLSLimits.validate("tls"), c.WebSocketLimits.validate("websocket"), c.WebSocket.validate())
	bound("max read batch", c.MaxReadBatch, 1024, 16<<20)
	bound("receive maximum", c.ReceiveMaximum, 1, 65535)
	bound("messages per minute", c.MessagesPerMinute, 0, 1_000_000_000)
	bound("down queue", c.DownQueue, 1024, 64<<20)
	bound("max subscriptions", c.MaxSubscriptions, 1, 1000)
	span("max session expiry", c.MaxSessionExpiry, 0, 10*365*24*time.Hour)
	bound("topic alias maximum", c.TopicAliasMaximum, 0, 65535)
	return errors.Join(errs...)
}
