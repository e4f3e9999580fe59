package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitalwatch/ingest/mqttd"
)

// DoorConfig is the MQTT front door: mqtt.embedded.
type DoorConfig struct {
	Enabled         bool          `yaml:"enabled"`
	Listen          string        `yaml:"listen"`
	TLS             DoorTLS       `yaml:"tls"`
	TLSListen       string        `yaml:"tls_listen"`
	WebsocketListen string        `yaml:"websocket_listen"`
	Websocket       DoorWebsocket `yaml:"websocket"`
	ProxyProtocol   []string      `yaml:"proxy_protocol"`
	ServerReference string        `yaml:"server_reference"`
	Limits          DoorLimits    `yaml:"limits"`
}

// DoorTLS names the front door's certificate, and those who sign its clients'.
type DoorTLS struct {
	CertFile     string `yaml:"cert_file"`
	KeyFile      string `yaml:"key_file"`
	ClientCAFile string `yaml:"client_ca_file"`
	ClientAuth   string `yaml:"client_auth"`
}

// DoorWebsocket is MQTT over WebSocket.
type DoorWebsocket struct {
	Path            string   `yaml:"path"`
	Origins         []string `yaml:"origins"`
	MaxMessageBytes int      `yaml:"max_message_bytes"`
	Plain           bool     `yaml:"plain"`
}

// DoorLimits are the bounds of the front door, see mqttd.Config.
type DoorLimits struct {
	ConnectTimeout           time.Duration  `yaml:"connect_timeout"`
	MaxConnectBytes          int            `yaml:"max_connect_bytes"`
	MaxPacketBytes           int            `yaml:"max_packet_bytes"`
	MaxConnections           int            `yaml:"max_connections"`
	MaxConnectionsPerAddress int            `yaml:"max_connections_per_address"`
	MaxHandshakes            int            `yaml:"max_handshakes"`
	LoginFailures            int            `yaml:"login_failures"`
	LoginRefill              time.Duration  `yaml:"login_refill"`
	LoginBackoff             time.Duration  `yaml:"login_backoff"`
	MinKeepAlive             time.Duration  `yaml:"min_keep_alive"`
	MaxKeepAlive             time.Duration  `yaml:"max_keep_alive"`
	WriteTimeout             time.Duration  `yaml:"write_timeout"`
	CommitTimeout            time.Duration  `yaml:"commit_timeout"`
	CommitSpread             time.Duration  `yaml:"commit_spread"`
	MaxReadBatch             int            `yaml:"max_read_batch"`
	MaxInFlightBytes         int            `yaml:"max_in_flight_bytes"`
	ReceiveMaximum           int            `yaml:"receive_maximum"`
	MessagesPerMinute        int            `yaml:"messages_per_minute"`
	DownQueue                int            `yaml:"down_queue"`
	MaxSubscriptions         int            `yaml:"max_subscriptions"`
	MaxSessionExpiry         time.Duration  `yaml:"max_session_expiry"`
	TopicAliasMaximum        int            `yaml:"topic_alias_maximum"`
	TCP                      ListenerLimits `yaml:"tcp"`
	TLS                      ListenerLimits `yaml:"tls"`
	Websocket                ListenerLimits `yaml:"websocket"`
}

// ListenerLimits are those of one listener.
type ListenerLimits struct {
	MaxConnections  int           `yaml:"max_connections"`
	MaxPending      int           `yaml:"max_pending"`
	AcceptPerSecond int           `yaml:"accept_per_second"`
	ConnectTimeout  time.Duration `yaml:"connect_timeout"`
}

func defaultDoor() DoorConfig {
	c := mqttd.DefaultConfig()
	listener := func(l mqttd.ListenerLimits) ListenerLimits { return ListenerLimits(l) }
	return DoorConfig{
		Enabled:   true,
		Listen:    c.Listen,
		TLS:       DoorTLS{ClientAuth: "none"},
		Websocket: DoorWebsocket{Path: c.WebSocket.Path, MaxMessageBytes: c.WebSocket.MaxMessageBytes},
		Limits: DoorLimits{ConnectTimeout: c.ConnectTimeout, MaxConnectBytes: c.MaxConnectBytes, MaxPacketBytes: c.MaxPacketBytes,
			MaxConnections: c.MaxConnections, MaxConnectionsPerAddress: c.MaxConnectionsPerAddress, MaxHandshakes: c.MaxHandshakes,
			LoginFailures: c.LoginFailures, LoginRefill: c.LoginRefill, LoginBackoff: c.LoginBackoff, MinKeepAlive: c.MinKeepAlive,
			MaxKeepAlive: c.MaxKeepAlive, WriteTimeout: c.WriteTimeout, CommitTimeout: c.CommitTimeout, CommitSpread: c.CommitSpread,
			MaxReadBatch: c.MaxReadBatch, MaxInFlightBytes: c.MaxInFlightBytes, ReceiveMaximum: c.ReceiveMaximum,
			MessagesPerMinute: c.MessagesPerMinute, DownQueue: c.DownQueue, MaxSubscriptions: c.MaxSubscriptions, MaxSessionExpiry: c.MaxSessionExpiry, TopicAliasMaximum: c.TopicAliasMaximum,
			TCP: listener(c.TCPLimits), TLS: listener(c.TLSLimits), Websocket: listener(c.WebSocketLimits)},
	}
}

// config is what the front door makes of it; bad prefixes of proxy_protocol are left out, see check.
func (d *DoorConfig) config() mqttd.Config {
	l := &d.Limits
	c := mqttd.DefaultConfig()
	c.Listen, c.TLSListen, c.WebSocketListen = d.Listen, d.TLSListen, d.WebsocketListen
	if d.TLS.CertFile != "" && d.TLSListen == "" {
		c.Listen, c.TLSListen = "", d.Listen
	}
	c.WebSocket = mqttd.WebSocketOptions{Path: d.Websocket.Path, Origins: d.Websocket.Origins, MaxMessageBytes: d.Websocket.MaxMessageBytes, Plain: d.Websocket.Plain}
	for _, text := range d.ProxyProtocol {
		if p, err := parsePrefix(text); err == nil {
			c.ProxyProtocol = append(c.ProxyProtocol, p)
		}
	}
	c.ServerReference = d.ServerReference
	c.ConnectTimeout, c.MaxConnectBytes, c.MaxPacketBytes = l.ConnectTimeout, l.MaxConnectBytes, l.MaxPacketBytes
	c.MaxConnections, c.MaxConnectionsPerAddress, c.MaxHandshakes = l.MaxConnections, l.MaxConnectionsPerAddress, l.MaxHandshakes
	c.LoginFailures, c.LoginRefill, c.LoginBackoff = l.LoginFailures, l.LoginRefill, l.LoginBackoff
	c.MinKeepAlive, c.MaxKeepAlive, c.WriteTimeout = l.MinKeepAlive, l.MaxKeepAlive, l.WriteTimeout
	c.CommitTimeout, c.CommitSpread, c.MaxReadBatch, c.MaxInFlightBytes = l.CommitTimeout, l.CommitSpread, l.MaxReadBatch, l.MaxInFlightBytes
	c.ReceiveMaximum, c.MessagesPerMinute, c.DownQueue, c.MaxSubscriptions = l.ReceiveMaximum, l.MessagesPerMinute, l.DownQueue, l.MaxSubscriptions
	c.MaxSessionExpiry, c.TopicAliasMaximum = l.MaxSessionExpiry, l.TopicAliasMaximum
	c.TCPLimits, c.TLSLimits, c.WebSocketLimits = mqttd.ListenerLimits(l.TCP), mqttd.ListenerLimits(l.TLS), mqttd.ListenerLimits(l.Websocket)
	return c
}

// parsePrefix reads a network, or an address as the network of one.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// check reports what is wrong, each mistake with its key.
func (d *DoorConfig) check(at func(path, format string, args ...any), listen func(path, v, example string)) {
	const in = "mqtt.embedded."
	if d.Listen != "" || d.TLSListen == "" && d.WebsocketListen == "" {
		listen(in+"listen", d.Listen, "127.0.0.1:1883")
	}
	if d.TLSListen != "" {
		listen(in+"tls_listen", d.TLSListen, "0.0.0.0:8883")
		if d.TLS.CertFile == "" {
			at(in+"tls_listen", "needs a certificate: set %stls.cert_file and key_file", in)
		}
	}
	if d.WebsocketListen != "" {
		listen(in+"websocket_listen", d.WebsocketListen, "127.0.0.1:8083")
	}
	t := d.TLS
	if (t.CertFile == "") != (t.KeyFile == "") {
		at(in+"tls", "cert_file and key_file belong together: set both or neither")
	}
	for _, f := range []struct{ key, file string }{{"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"client_ca_file", t.ClientCAFile}} {
		if f.file != "" {
			if _, err := os.Stat(f.file); err != nil {
				at(in+"tls."+f.key, "cannot read %s", f.file)
			}
		}
	}
	switch t.ClientAuth {
	case "none":
		if t.ClientCAFile != "" {
			at(in+"tls.client_auth", "is none, so that client_ca_file would do nothing; write optional or required")
		}
	case "optional", "required":
		if t.CertFile == "" {
			at(in+"tls.client_auth", "needs a certificate of the server as well: set cert_file and key_file")
		}
	default:
		at(in+"tls.client_auth", "%q is none of none, optional, required", t.ClientAuth)
	}
	for i, text := range d.ProxyProtocol {
		if _, err := parsePrefix(text); err != nil {
			at(in+"proxy_protocol."+strconv.Itoa(i), "%q is not a network such as 10.0.0.0/8", text)
		}
	}
	for _, err := range leaves(d.config().Validate()) {
		at(in+limitKey(err.Error()), "%s", err)
	}
}

// leaves takes joined errors apart, also joined ones among them.
func leaves(err error) (out []error) {
	if err == nil {
		return nil
	}
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, e := range j.Unwrap() {
		out = append(out, leaves(e)...)
	}
	return out
}

// limitKey is the option that an error of mqttd.Config.Validate is about: its text begins with the option's name in
// words, that of a listener in front.
func limitKey(text string) string {
	words, _, _ := strings.Cut(text, " is ")
	if strings.HasPrefix(words, "websocket origin") {
		return "websocket.origins"
	}
	key := strings.NewReplacer(" ", "_", "-", "_").Replace(words)
	switch key {
	case "server_reference":
		return key
	case "websocket_path", "websocket_max_message_bytes":
		return strings.Replace(key, "_", ".", 1)
	}
	for _, l := range []string{"tcp", "tls", "websocket"} {
		if rest, ok := strings.CutPrefix(key, l+"_"); ok {
			return "limits." + l + "." + rest
		}
	}
	return "limits." + key
}

// certificatesEvery is how often the files of certificates are looked at; SIGHUP does it at once.
const certificatesEvery = 30 * time.Second

func (a *App) startDoor(ctx context.Context) error {
	e := &a.cfg.MQTT.Embedded
	if !e.Enabled {
		return nil
	}
	deps := mqttd.Deps{Intake: mqttd.IntakeFunc(a.doorBatch), Auth: authenticator{a}, Status: statusSink{a}, Topics: doorTopics{a.topics}, Sessions: a.sessions,
		Metrics: mqttd.NewMetrics(), Log: a.log.With().Str("component", "mqtt").Logger(),
		Listen: func(name, addr string) (net.Listener, error) { return a.sockets.listen("mqtt-"+name, addr) }}
	a.reg.MustRegister(deps.Metrics)
	if e.TLS.CertFile != "" {
		files := mqttd.TLSFiles{CertFile: e.TLS.CertFile, KeyFile: e.TLS.KeyFile, ClientCAFile: e.TLS.ClientCAFile, ClientAuth: e.TLS.ClientAuth}
		if own := a.devices.Authority; own != nil {
			files.AddClientCAs = own.AddTo
		}
		certs, err := mqttd.LoadCertificates(files)
		if err != nil {
			return fmt.Errorf("mqtt.embedded.tls: %w", err)
		}
		deps.TLS = certs.Config()
		a.watchCertificates("mqtt.embedded.tls", certs)
	}
	a.door = mqttd.New(e.config(), deps)
	if a.cfg.Registration == "open" && slices.ContainsFunc([]string{e.Listen, e.TLSListen, e.WebsocketListen}, func(addr string) bool { return addr != "" && !loopback(addr) }) {
		a.log.Warn().Msg("registration is open on an address that others can reach: anybody can make devices and patients; set registration: closed")
	}
	if err := a.door.Start(); err != nil {
		return err
	}
	a.doorOpen.Store(true)
	a.onStop("MQTT front door", a.door.Shutdown)
	a.devices.SubscribeRevoked(a.endSessions)
	return nil
}

// watchCertificates follows the files of a certificate: what is broken is logged, once, and what was stays in force.
func (a *App) watchCertificates(what string, c *mqttd.Certificates) {
	reload := func() error {
		changed, err := c.Reload()
		if err != nil {
			return fmt.Errorf("%s: the new certificate is not used and the old one stays: %w", what, err)
		}
		if leaf := c.Leaf(); changed {
			a.log.Info().Str("option", what).Time("not_after", leaf.NotAfter).Msg("new certificate in force")
		}
		return nil
	}
	a.reloads = append(a.reloads, reload)
	a.every("certificate "+what, certificatesEvery, func(context.Context) error { return reload() })
}

// Reload takes in what changed on disk and needs no restart: certificates.
func (a *App) Reload() error {
	var errs []error
	for _, f := range a.reloads {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
