package mqttd

import (
	"bytes"
	"errors"
	"net"
	"os"
	"slices"

	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/ingest/mqttd/sessions"
)

// control deals with every packet that is not PUBLISH; answers go in front of the group's PUBACKs.
func (c *conn) control(g *group, h packet.Header, body []byte) *ending {
	switch h.Type {
	case packet.PINGREQ: // [MQTT-3.12.4-1]
		if len(body) > 0 {
			return endProtocol
		}
		g.out = append(g.out, byte(packet.PINGRESP)<<4, 0)
		return nil
	case packet.SUBSCRIBE:
		return c.subscribe(g, h.Flags, body)
	case packet.UNSUBSCRIBE:
		return c.unsubscribe(g, h.Flags, body)
	case packet.DISCONNECT:
		return c.disconnect(h.Flags, body)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		p := packet.Ack{Kind: h.Type}
		if err := p.Decode(c.version, h.Flags, body); err != nil {
			return endPacket(err)
		}
		switch h.Type {
		case packet.PUBACK:
			c.acked(p.ID, p.Code)
		case packet.PUBREL:
			c.pubrel(g, p.ID)
		case packet.PUBREC: // nothing goes down with QoS 2; this lets the client end it, 3.6.2.1
			if !p.Code.Failed() {
				g.out = c.appendAck(g.out, packet.PUBREL, p.ID, packet.PacketIDNotFound, "")
			}
		}
		return nil
	case packet.CONNECT: // [MQTT-3.1.0-2]
		return protocolEnding("second CONNECT")
	}
	return endProtocol // only servers send these; AUTH needs a method, which CONNECT would have been refused for
}

// subscribe grants filters below the device's own down/, with QoS 1 at most.
func (c *conn) subscribe(g *group, flags byte, body []byte) *ending {
	var p packet.Subscribe
	if err := p.Decode(c.version, flags, body); err != nil {
		return endPacket(err)
	}
	var id uint32
	if len(p.Props.SubscriptionIDs) > 0 { // 3.8.2.1.2
		id = p.Props.SubscriptionIDs[0]
	}
	prefix := topicRoot + string(c.device) + downPart
	ack := packet.Suback{ID: p.ID}
	why, retained := "", false
	// A copy, because the session's own slice is on its way to the disk, see sessions.Session. Only this goroutine writes
	// it, so that it needs no lock here, which a panic would leave locked.
	subs := slices.Clone(c.sess.subs)
	for _, f := range p.Filters {
		shared := bytes.HasPrefix(f.Topic, []byte("$share/"))
		if shared && f.NoLocal { // [MQTT-3.8.3-4]
			return protocolEnding("no local on a shared subscription")
		}
		below, ok := downFilter(f.Topic, prefix)
		sub := subscription{Filter: below, QoS: min(f.QoS, 1), RAP: f.RetainAsPublished, ID: id}
		code, text := packet.ReasonCode(sub.QoS), "" // [MQTT-3.8.4-8]
		at := slices.IndexFunc(subs, func(s subscription) bool { return s.Filter == below })
		switch {
		case shared: // 3.2.2.3.13
			code, text = packet.SharedSubsUnsupported, "shared subscriptions are not offered"
		case !packet.ValidFilter(f.Topic):
			code, text = packet.TopicFilterInvalid, "topic filter has a wildcard where none may be"
		case !ok:
			code, text = packet.NotAuthorized, "devices subscribe below their own vw/v1/{device}/down/ only"
		case at >= 0: // [MQTT-3.8.4-3]: replaces the older one
			subs[at] = sub
		case len(subs) >= c.s.cfg.MaxSubscriptions:
			code, text = packet.QuotaExceeded, "too many filters; vw/v1/{device}/down/# is enough"
		default:
			subs = append(subs, sub)
		}
		if why == "" {
			why = text
		}
		if !code.Failed() && (f.RetainHandling == 0 || f.RetainHandling == 1 && at < 0) { // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
			retained = retained || matches(below, sessions.Config)
		}
		if code.Failed() && c.version != packet.V5 {
			code = packet.SubackFailure311
		}
		ack.Codes = append(ack.Codes, code) // [MQTT-3.8.4-6]
	}
	changed := !slices.Equal(subs, c.sess.subs)
	c.mu.Lock()
	c.sess.subs = subs
	c.unsaid = true
	if st := c.s.deps.Sessions; retained && st != nil && st.HasConfig(c.device) {
		c.sess.outflow().retained = true
	}
	c.mu.Unlock()
	if changed && c.sess.expiry > 0 {
		c.s.promise(c, c.s.put(c.device, c.sess))
	}
	g.look = true
	if why != "" && c.problemInfo {
		ack.Props.SetData(packet.ReasonString, cut(why))
	}
	return c.answer(g, &ack) // [MQTT-3.8.4-1]
}

func (c *conn) unsubscribe(g *group, flags byte, body []byte) *ending {
	var p packet.Unsubscribe
	if err := p.Decode(c.version, flags, body); err != nil {
		return endPacket(err)
	}
	prefix := topicRoot + string(c.device) + downPart
	ack := packet.Unsuback{ID: p.ID}
	subs := slices.Clone(c.sess.subs)
	for _, f := range p.Filters {
		code := packet.NoSubscriptionExisted
		if below, ok := downFilter(f, prefix); ok {
			if i := slices.IndexFunc(subs, func(s subscription) bool { return s.Filter == below }); i >= 0 { // [MQTT-3.10.4-1]
				subs = slices.Delete(subs, i, i+1)
				code = packet.Success
			}
		}
		ack.Codes = append(ack.Codes, code) // [MQTT-3.10.4-5] [MQTT-3.10.4-6]
	}
	changed := len(subs) != len(c.sess.subs)
	c.mu.Lock()
	c.sess.subs = subs
	c.mu.Unlock()
	if changed && c.sess.expiry > 0 {
		c.s.promise(c, c.s.put(c.device, c.sess))
	}
	return c.answer(g, &ack) // [MQTT-3.10.4-4]
}

func (c *conn) answer(g *group, p packet.Packet) *ending {
	b, err := p.Append(g.out, c.version)
	if err != nil || len(b)-len(g.out) > int(c.maxSend) {
		return protocolEnding("more filters than an answer of the client's maximum packet size has room for")
	}
	g.out = b
	return nil
}

func (c *conn) disconnect(flags byte, body []byte) *ending {
	var p packet.Disconnect
	if err := p.Decode(c.version, flags, body); err != nil {
		return endPacket(err)
	}
	if p.Props.Has(packet.SessionExpiry) { // 3.14.2.2.2
		asked := p.Props.Num(packet.SessionExpiry, 0)
		if c.noExpiry && asked != 0 {
			return protocolEnding("session expiry set at DISCONNECT that was 0 at CONNECT")
		}
		c.sess.expiry = c.s.sessionExpiry(asked)
	}
	if p.Code != packet.Success {
		return endWithWill
	}
	return endClient
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
