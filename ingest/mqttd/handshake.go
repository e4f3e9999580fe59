package mqttd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/vitals"
)

// endRefused ends a connection that never became a device's; the metric is set where it was refused.
var (
	endRefused     = &ending{reason: "refused", noWill: true}
	endRefusedTold = &ending{reason: "refused", tell: true, noWill: true}
)

// handshake reads CONNECT, checks it and answers; nil means that c is now the connection of c.device.
func (c *conn) handshake() *ending {
	deadline := c.deadline
	c.readLimit = c.s.cfg.MaxConnectBytes
	body, end := c.readConnect()
	if end != nil {
		return end
	}
	var p packet.Connect
	if err := p.Decode(0, 0, body); err != nil {
		return c.refuseMalformed(&p, err)
	}
	c.version = p.Version
	if p.Version == packet.V5 {
		c.maxSend = p.Props.Num(packet.MaximumPacketSize, packet.MaxRemaining)
		c.problemInfo = p.Props.Num(packet.RequestProblemInfo, 1) == 1
		c.maxInflight = int(p.Props.Num(packet.ReceiveMaximum, 65535)) // [MQTT-3.3.4-9]
		asked := p.Props.Num(packet.SessionExpiry, 0)                  // 3.1.2.11.2
		c.noExpiry, c.expiry = asked == 0, c.s.sessionExpiry(asked)
	} else if !p.CleanStart { // 3.1.1 has no other word for it
		c.expiry = c.s.sessionExpiry(never)
	}
	if r := c.check(&p); r != nil {
		return c.refuse(&p, r)
	}
	if r := c.authenticate(&p, deadline); r != nil {
		return c.refuse(&p, r)
	}
	c.up = topicRoot + string(c.device) + upPart
	if p.HasWill && string(p.Will.Topic) != c.up+"status" {
		return c.refuse(&p, refuseWill)
	}
	if !c.s.claim(c, deadline) {
		return c.refuse(&p, refuseTurn)
	}
	c.will = willOf(&p)
	ack := c.welcome(&p)
	ack.SessionPresent = c.s.resume(c, p.CleanStart) // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
	b, err := ack.Append(nil, c.version)
	if err != nil || len(b) > int(c.maxSend) {
		return c.refused("client_limits", endRefused)
	}
	if err := c.write(b); err != nil {
		return c.refused("client_gone", endGone)
	}
	c.mu.Lock()
	c.sess = c.claimed // from here on messages may go down
	c.mu.Unlock()
	c.look()
	c.s.m.Connects.WithLabelValues("accepted").Inc()
	c.s.m.received[packet.CONNECT].Inc()
	c.readLimit = c.s.cfg.MaxReadBatch
	c.last, c.armed = time.Now(), time.Time{}
	return nil
}

// readConnect returns the body of CONNECT, in memory of its own. A stranger's bytes cost no more than CONNECT's bound.
func (c *conn) readConnect() ([]byte, *ending) {
	for {
		if end := c.kicked.Load(); end != nil {
			return nil, c.refused("shutdown", endRefused)
		}
		if err := c.await(); err != nil {
			if c.kicked.Load() != nil {
				return nil, c.refused("shutdown", endRefused)
			}
			if isTimeout(err) {
				return nil, c.refused("timeout", endRefused)
			}
			return nil, c.refused("client_gone", endGone)
		}
		data := c.in.data[:c.inLen]
		h, n, err := packet.ParseHeader(data)
		total := n + h.Remaining
		var body []byte
		var end *ending
		switch {
		case h.Type != packet.CONNECT: // [MQTT-3.1.0-1]
			end = c.refused("not_connect", endRefused)
		case err != nil && err != packet.ErrIncomplete:
			end = c.refused("malformed", endRefused)
		case total > c.s.cfg.MaxConnectBytes:
			end = c.refused("too_large", endRefused)
		case err == nil && len(data) >= total:
			body = bytes.Clone(data[n:total])
			data = data[total:]
		}
		if end == nil {
			c.partial = bytes.Clone(data) // the rest of CONNECT is still to come, or more came with it
		}
		c.s.buffers.Put(c.in)
		c.in = nil
		if end != nil || body != nil {
			return body, end
		}
	}
}

// refusal is a CONNACK that says no.
type refusal struct {
	code    packet.ReasonCode // 5.0
	code311 packet.ReasonCode
	text    string
	result  string // metric label
}

var (
	refuseClientID = &refusal{packet.ClientIDNotValid, packet.Refused311ClientID, "client id must be the device id: 1 to 64 of A-Z a-z 0-9 _ -", "client_id"}
	refuseMismatch = &refusal{packet.ClientIDNotValid, packet.Refused311ClientID, "client id is not the id of the device whose credential this is", "client_id"}
	refuseMethod   = &refusal{packet.BadAuthMethod, packet.Refused311Unauthorized, "authentication methods are not offered, use user name and password", "auth_method"}
	refuseNameless = &refusal{packet.ClientIDNotValid, packet.Refused311ClientID, "client id is empty: send the device id, or log in with a user name", "client_id"}
	refuseKept     = &refusal{packet.ClientIDNotValid, packet.Refused311ClientID, "a session needs a client id: send the device id, or clean session 1", "client_id"}
	refuseWill     = &refusal{packet.TopicNameInvalid, packet.Refused311Unauthorized, "the will topic must be the device's own up/status", "will_topic"}
	refuseTurn     = &refusal{packet.ServerBusy, packet.Refused311Unavailable, "the device's older connection is not done yet, come back", "older_connection"}
	refuseRate     = &refusal{packet.ConnectionRateExceeded, packet.Refused311Unavailable, "too many failed logins from this address, wait", "login_backoff"}
	refuseName     = &refusal{packet.ConnectionRateExceeded, packet.Refused311Unavailable, "too many failed logins for this device, wait", "login_backoff"}
	refuseBusy     = &refusal{packet.ServerBusy, packet.Refused311Unavailable, "readings cannot be stored fast enough now, come back", "busy"}
	refuseLogin    = &refusal{packet.BadUserNameOrPassword, packet.Refused311Credentials, "user name or password is wrong", "bad_credentials"}
	refuseRights   = &refusal{packet.NotAuthorized, packet.Refused311Unauthorized, "client id and user name must be the id of the device that the credential is for, and that device known and enabled", "not_authorized"}
	refuseLater    = &refusal{packet.ServerUnavailable, packet.Refused311Unavailable, "logins cannot be checked now, come back", "unavailable"}
)

// check applies the rules that need no credential.
func (c *conn) check(p *packet.Connect) *refusal {
	switch {
	case p.Props.Has(packet.AuthMethod): // [MQTT-4.12.0-1]
		return refuseMethod
	case len(p.ClientID) == 0 && p.Version == packet.V311 && !p.CleanStart: // 3.1.1 [MQTT-3.1.3-8]
		return refuseKept
	case len(p.ClientID) > 0 && !vitals.ValidID(string(p.ClientID)): // [MQTT-3.1.3-5]
		return refuseClientID
	}
	return nil
}

func (c *conn) authenticate(p *packet.Connect, deadline time.Time) *refusal {
	if c.s.busy(time.Now()) {
		c.s.spread(time.Second)
		return refuseBusy
	}
	ctx, cancel := context.WithDeadline(c.s.ctx, deadline)
	defer cancel()
	l := Login{ClientID: string(p.ClientID), Username: string(p.Username), Password: p.Password,
		HasUsername: p.HasUsername, HasPassword: p.HasPassword, Addr: c.addr, TLS: c.tlsState()}
	if l.ClientID == "" { // [MQTT-3.1.3-6]: the server makes one
		l.Assigned = true
		if l.ClientID = l.Username; !l.HasUsername {
			l.ClientID = "auto-" + rand.Text()
		}
	}
	name, from := loginName(&l), c.loginAddr()
	switch c.s.logins.allowed(from, name, time.Now()) {
	case addressWaits:
		c.s.m.LoginWaits.WithLabelValues("address").Inc()
		return refuseRate
	case nameWaits:
		c.s.m.LoginWaits.WithLabelValues("name").Inc()
		return refuseName
	}
	device, err := c.s.deps.Auth.Authenticate(ctx, l)
	clear(p.Password)
	switch {
	case l.Assigned && !l.HasUsername && (errors.Is(err, ErrBadCredentials) || errors.Is(err, ErrNotAuthorized)): // [MQTT-3.1.3-8]
		return refuseNameless
	case errors.Is(err, ErrBadCredentials):
		c.s.logins.failed(from, name, time.Now())
		return refuseLogin
	case errors.Is(err, ErrNotAuthorized):
		c.s.logins.failed(from, name, time.Now())
		return refuseRights
	case err != nil:
		if !errors.Is(err, ErrUnavailable) {
			c.s.loud.Error().Err(err).Msg("mqtt login could not be checked")
		}
		return refuseLater
	case string(device) != l.ClientID && !l.Assigned:
		return refuseMismatch
	}
	c.s.logins.succeeded(from, name)
	c.device, c.assigned = device, l.Assigned
	c.rate = c.s.rates.of(device, time.Now())
	return nil
}

// loginName is the device whose secret the login tries, which need not be the client id: failures must count against the
// one that is guessed. "" when no device can have that name, so that nothing is kept for it.
func loginName(l *Login) string {
	name := l.ClientID
	if l.Username != "" {
		name = l.Username
	}
	if !vitals.ValidID(name) {
		return ""
	}
	return name
}

// welcome is the CONNACK that says yes, and settles keep-alive.
func (c *conn) welcome(p *packet.Connect) *packet.Connack {
	cfg := &c.s.cfg
	ack := &packet.Connack{}
	keepAlive := time.Duration(p.KeepAlive) * time.Second
	if keepAlive == 0 || keepAlive > cfg.MaxKeepAlive {
		keepAlive = cfg.MaxKeepAlive
	} else if c.version == packet.V5 {
		keepAlive = max(keepAlive, cfg.MinKeepAlive)
	}
	keepAlive = keepAlive.Truncate(time.Second)
	c.idle = keepAlive + keepAlive/2
	c.slack = keepAlive / 8
	if c.version != packet.V5 {
		return ack
	}
	if keepAlive != time.Duration(p.KeepAlive)*time.Second { // [MQTT-3.1.2-21]
		ack.Props.SetNum(packet.ServerKeepAlive, uint32(keepAlive/time.Second))
	}
	if c.expiry != p.Props.Num(packet.SessionExpiry, 0) { // 3.2.2.3.2
		ack.Props.SetNum(packet.SessionExpiry, c.expiry)
	}
	if c.assigned { // [MQTT-3.2.2-16]
		ack.Props.SetData(packet.AssignedClientID, []byte(c.device))
	}
	// QoS 2, retained messages, wildcards and subscription identifiers are there: 3.2.2.3 has these as defaults.
	ack.Props.SetNum(packet.ReceiveMaximum, uint32(cfg.ReceiveMaximum))
	ack.Props.SetNum(packet.MaximumPacketSize, uint32(cfg.MaxPacketBytes))
	if cfg.TopicAliasMaximum > 0 {
		ack.Props.SetNum(packet.TopicAliasMaximum, uint32(cfg.TopicAliasMaximum))
	}
	ack.Props.SetNum(packet.SharedSubAvailable, 0)
	return ack
}

// refuse answers CONNECT with no.
func (c *conn) refuse(p *packet.Connect, r *refusal) *ending {
	e := c.s.loud.Warn().Str("result", r.result).Str("detail", r.text).Str("address", c.addr.String())
	if id := string(p.ClientID); vitals.ValidID(id) { // no more than what a device may be called
		e.Str("client_id", id)
	}
	said := "mqtt connect refused"
	if r == refuseLogin {
		said += "; is the device there (vitalwatch device show ID), and is this its secret (a new one: vitalwatch device rotate ID)?"
	}
	e.Msg(said)
	ack := packet.Connack{Code: r.code311}
	if c.version == packet.V5 {
		ack.Code = r.code
		ack.Props.SetData(packet.ReasonString, []byte(r.text))
	}
	b, err := ack.Append(nil, c.version)
	if err == nil && len(b) > int(c.maxSend) { // [MQTT-3.2.2-19]
		ack.Props.Reset()
		b, err = ack.Append(nil, c.version)
	}
	if err != nil || c.write(b) != nil {
		return c.refused(r.result, endRefused)
	}
	return c.refused(r.result, endRefusedTold) // [MQTT-3.2.2-7]: and close
}

// refuseMalformed answers a CONNECT that cannot be read, where its sender would understand.
func (c *conn) refuseMalformed(p *packet.Connect, err error) *ending {
	var e *packet.Error
	if !errors.As(err, &e) {
		return c.refused("malformed", endRefused)
	}
	switch {
	case e.Code == packet.UnsupportedVersion && p.Version > packet.V5: // 3.1.2.2: may send 0x84
		c.version = packet.V5
		return c.refuse(p, &refusal{code: packet.UnsupportedVersion, text: "protocol version is neither 3.1.1 nor 5.0", result: "version"})
	case e.Code == packet.UnsupportedVersion: // 3.1.1 [MQTT-3.1.2-2]; also 3.1, whose name is another
		c.version = packet.V311
		return c.refuse(p, &refusal{code311: packet.Refused311Version, text: "protocol version is neither 3.1.1 nor 5.0", result: "version"})
	case p.Version == packet.V5: // [MQTT-3.1.4-1], 4.13
		c.version = packet.V5
		return c.refuse(p, &refusal{code: e.Code, text: e.Error(), result: "malformed"})
	}
	return c.refused("malformed", endRefused) // 3.1.1 [MQTT-3.1.4-1]: close without CONNACK
}

func (c *conn) refused(result string, end *ending) *ending {
	c.s.m.Connects.WithLabelValues(result).Inc()
	return end
}
