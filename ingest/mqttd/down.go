package mqttd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/vitals"
)

// Publish sends one message, QoS 0, to a connected device that subscribed to it; topicSuffix is what follows
// vw/v1/{device}/ and starts with "down/". It never waits for the network. False: not connected, not subscribed, or
// dropped because the device does not read; each is counted. What must arrive goes through sessions.Store instead.
func (s *Server) Publish(device vitals.DeviceID, topicSuffix string, payload []byte) bool {
	below, ok := strings.CutPrefix(topicSuffix, downPart[1:])
	if !ok || !packet.ValidTopicName([]byte(below)) || !packet.ValidString([]byte(below)) {
		s.m.Dropped.WithLabelValues("topic").Inc()
		return false
	}
	c := s.find(device)
	if c == nil {
		s.m.Dropped.WithLabelValues("not_connected").Inc()
		return false
	}
	return c.send(below, payload)
}

func (c *conn) send(below string, payload []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sess == nil {
		c.s.m.Dropped.WithLabelValues("not_connected").Inc()
		return false
	}
	w := c.sess.wants(below)
	if !w.ok {
		c.s.m.Dropped.WithLabelValues("not_subscribed").Inc()
		return false
	}
	q, ok := c.appendDown(c.queue, &down{below: below, payload: payload, ids: w.ids})
	if !ok {
		c.s.m.Dropped.WithLabelValues("too_large").Inc()
		return false
	}
	if len(q) > c.s.cfg.DownQueue {
		c.s.m.Dropped.WithLabelValues("queue_full").Inc()
		return false
	}
	c.queue = q
	c.startDrain()
	return true
}

// startDrain makes sure that somebody writes the queue and looks for what waits; c.mu is held, c.sess is there.
func (c *conn) startDrain() {
	if !c.drains {
		c.drains = true
		// run, whose end waits for c.mu, still counts in wg.
		c.s.wg.Go(c.drain)
	}
}

// drain writes the queue, delivers what waits in the state database, and ends; a connection with nothing to say has no
// second goroutine.
func (c *conn) drain() {
	for {
		c.mu.Lock()
		q, looks := c.queue, c.looks
		c.queue, c.looks = nil, false
		if len(q) == 0 && !looks {
			c.drains = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if len(q) > 0 && c.write(q) != nil {
			c.kick(endWrite)
		}
		if looks && c.guard((*conn).deliver) != nil {
			c.kick(endPanic)
		}
	}
}

// down is one message to a device.
type down struct {
	below    string // the topic behind down/
	payload  []byte
	qos      byte
	dup      bool
	retain   bool
	id       uint16 // with QoS 1
	expiry   uint32 // seconds that are left, where expires is set
	expires  bool
	ids      []uint32 // subscription identifiers
	seq, rev int64    // as in flight
}

// appendDown appends a PUBLISH; false when it is more than the client takes [MQTT-3.1.2-24].
func (c *conn) appendDown(dst []byte, d *down) ([]byte, bool) {
	p := packet.Publish{Topic: []byte(topicRoot + string(c.device) + downPart + d.below), Payload: d.payload, QoS: d.qos, Dup: d.dup, Retain: d.retain, ID: d.id}
	p.Props.SubscriptionIDs = d.ids // [MQTT-3.3.4-3] [MQTT-3.3.4-4]
	if d.expires {
		p.Props.SetNum(packet.MessageExpiry, d.expiry) // [MQTT-3.3.2-6]
	}
	b, err := p.Append(dst, c.version)
	if err != nil || len(b)-len(dst) > int(c.maxSend) {
		return dst, false
	}
	return b, true
}

// want is what a session's subscriptions say to a topic.
type want struct {
	ok  bool
	qos byte // the highest of those that match [MQTT-3.3.4-2]
	rap bool
	ids []uint32
}

// wants matches; the mutex of the session's connection is held.
func (se *session) wants(below string) (w want) {
	for i := range se.subs {
		sub := &se.subs[i]
		if !matches(sub.Filter, below) {
			continue
		}
		w.ok, w.qos, w.rap = true, max(w.qos, sub.QoS), w.rap || sub.RAP
		if sub.ID != 0 {
			w.ids = append(w.ids, sub.ID)
		}
	}
	return w
}

// outflow is what a session has on its way to its device. The mutex of the session's connection guards it.
type outflow struct {
	flights  []flight // in the order of sending [MQTT-4.6.0-6]
	lastID   uint16
	retained bool  // a new subscription asks for the retained configuration
	rev      int64 // the newest configuration that the device has; the state database hears of it a little later
}

// flight is a QoS 1 delivery without PUBACK.
type flight struct {
	id     uint16
	onWire bool  // sent on this connection
	seq    int64 // of the message; 0: the configuration, with rev and payload
	rev    int64
	body   []byte
}

func (se *session) outflow() *outflow {
	if se.out == nil {
		se.out = &outflow{}
	}
	return se.out
}

// rewind is for a new connection: nothing has been sent on it.
func (o *outflow) rewind() {
	for i := range o.flights {
		o.flights[i].onWire = false
	}
}

func (o *outflow) onWire() (n int) {
	for i := range o.flights {
		if o.flights[i].onWire {
			n++
		}
	}
	return n
}

// nextID returns a packet id that is not in use [MQTT-2.2.1-4]; there are never as many flights as ids.
func (o *outflow) nextID() uint16 {
	for {
		if o.lastID++; o.lastID != 0 && !slices.ContainsFunc(o.flights, func(f flight) bool { return f.id == o.lastID }) {
			return o.lastID
		}
	}
}

func (o *outflow) drop(id uint16) {
	o.flights = slices.DeleteFunc(o.flights, func(f flight) bool { return f.id == id })
}

// acked takes a PUBACK. A code from 0x80 on is the device's no, and final too [MQTT-4.4.0-2].
func (c *conn) acked(id uint16, code packet.ReasonCode) {
	st := c.s.deps.Sessions
	c.mu.Lock()
	out := c.sess.out
	i := -1
	if out != nil {
		i = slices.IndexFunc(out.flights, func(f flight) bool { return f.id == id && f.onWire })
	}
	if i < 0 {
		c.mu.Unlock()
		return
	}
	f := out.flights[i]
	out.flights = slices.Delete(out.flights, i, i+1)
	out.rev = max(out.rev, f.rev)
	c.mu.Unlock()
	switch {
	case f.seq == 0:
		st.ConfigDelivered(c.device, f.rev) // refused or not: it has been there
	case code.Failed():
		st.MarkFailed(f.seq, "the device refused it with reason code "+code.String())
	default:
		st.MarkDelivered(f.seq)
	}
	if code.Failed() {
		c.s.m.Down.WithLabelValues("refused").Inc()
	} else {
		c.s.m.Down.WithLabelValues("delivered").Inc()
	}
	c.look() // there is room for another
}

// wake is called when something new waits for a device.
func (s *Server) wake(device vitals.DeviceID) {
	if c := s.find(device); c != nil {
		c.look()
	}
}

// look makes the drain look for what waits for the device, when something may.
func (c *conn) look() {
	st := c.s.deps.Sessions
	if st == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sess == nil {
		return
	}
	out := c.sess.out
	if out == nil && !st.IsOwed(c.device) {
		return
	}
	c.looks = true
	c.startDrain()
}

// deliver sends what waits for the device within the client's receive maximum [MQTT-3.3.4-9]: first again what has no
// PUBACK, with DUP and its old packet id [MQTT-4.4.0-1], then what is new, in order. It runs in the drain only.
func (c *conn) deliver() *ending {
	st := c.s.deps.Sessions
	owed := st.Owed(c.device)
	c.mu.Lock()
	idle := c.sess == nil || !owed && (c.sess.out == nil || !c.sess.out.retained && c.sess.out.onWire() == len(c.sess.out.flights))
	c.mu.Unlock()
	if idle {
		if owed { // the connection is over
			st.Owe(c.device)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(c.s.ctx, c.s.cfg.CommitTimeout)
	defer cancel()
	msgs, err := st.Open(ctx, c.device)
	if err != nil {
		return c.notNow(err)
	}
	var config sessions.Retained
	if st.Configured(c.device) {
		if config, _, err = st.Config(ctx, c.device); err != nil {
			return c.notNow(err)
		}
	}
	send, left := c.plan(msgs, &config, time.Now())
	if left {
		st.Owe(c.device)
	}
	var q []byte
	var fresh []sessions.Delivery
	for i := range send {
		d := &send[i]
		b, ok := c.appendDown(q, d)
		switch {
		case !ok: // [MQTT-3.1.2-25]: as if it were done
			c.s.m.Down.WithLabelValues("too_large").Inc()
			c.mu.Lock()
			if c.sess != nil && d.id != 0 {
				c.sess.out.drop(d.id)
			}
			c.mu.Unlock()
			if d.seq > 0 {
				st.MarkFailed(d.seq, "larger than the maximum packet size that the device asked for")
			}
			continue
		case d.dup:
			c.s.m.Down.WithLabelValues("resent").Inc()
		default:
			c.s.m.Down.WithLabelValues("sent").Inc()
			if d.seq > 0 {
				fresh = append(fresh, sessions.Delivery{Seq: d.seq, PacketID: d.id})
			}
		}
		q = b
		if d.rev > 0 && d.qos == 0 {
			st.ConfigDelivered(c.device, d.rev)
		}
	}
	// Written first: after a crash a message goes once more, with DUP and its id, and never as if it were another.
	if len(fresh) > 0 {
		if err := st.MarkSent(ctx, fresh); err != nil {
			c.mu.Lock()
			if c.sess != nil {
				for _, d := range fresh {
					c.sess.out.drop(d.PacketID)
				}
			}
			c.mu.Unlock()
			st.Requeue(c.device)
			return c.notNow(err)
		}
		c.mu.Lock()
		over := c.sess == nil
		c.mu.Unlock()
		if over { // and perhaps the session, which requeued before we marked
			st.Requeue(c.device)
		}
	}
	if len(q) > 0 && c.write(q) != nil {
		c.kick(endWrite)
	}
	return nil
}

// notNow leaves it for the next time that something happens.
func (c *conn) notNow(err error) *ending {
	c.s.deps.Sessions.Owe(c.device)
	c.s.loud.Warn().Err(err).Str("device_id", string(c.device)).Msg("messages for the device wait; they cannot be read or marked now")
	return nil
}

// plan decides what to send now; left says that something of it must wait.
func (c *conn) plan(msgs []sessions.Info, config *sessions.Retained, now time.Time) (send []down, left bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sess == nil || c.unsaid {
		return nil, true
	}
	out := c.sess.outflow()
	wire := out.onWire()
	keep := out.flights[:0]
	for _, f := range out.flights {
		if f.onWire || wire >= c.maxInflight {
			left = left || !f.onWire
			keep = append(keep, f)
			continue
		}
		d := down{below: sessions.Config, payload: f.body, qos: 1, dup: true, id: f.id, seq: f.seq, rev: f.rev}
		if f.seq > 0 {
			i := slices.IndexFunc(msgs, func(m sessions.Info) bool { return m.Seq == f.seq })
			if i < 0 || msgs[i].State == sessions.Expired {
				continue // answered meanwhile, or too late
			}
			m := &msgs[i]
			d.below, d.payload = m.Topic, m.Payload
			d.expiry, d.expires = m.Remaining(now)
		}
		d.ids = c.sess.wants(d.below).ids
		f.onWire = true
		wire++
		keep = append(keep, f)
		send = append(send, d)
	}
	out.flights = keep
	if left { // what is new comes after what is old
		return send, true
	}
	full := func(qos byte) bool { return qos > 0 && wire >= c.maxInflight }
	fly := func(d *down, body []byte) {
		if d.qos > 0 {
			d.id = out.nextID()
			out.flights = append(out.flights, flight{id: d.id, onWire: true, seq: d.seq, rev: d.rev, body: body})
			wire++
		} else {
			out.rev = max(out.rev, d.rev)
		}
		send = append(send, *d)
	}
	for i := range msgs {
		m := &msgs[i]
		if m.State != sessions.Waiting || slices.ContainsFunc(out.flights, func(f flight) bool { return f.seq == m.Seq }) {
			continue
		}
		w := c.sess.wants(m.Topic)
		if !w.ok {
			left = true // for a later subscription
			continue
		}
		if full(w.qos) {
			return send, true
		}
		d := down{below: m.Topic, payload: m.Payload, qos: w.qos, ids: w.ids, seq: m.Seq}
		d.expiry, d.expires = m.Remaining(now)
		fly(&d, nil)
	}
	w := c.sess.wants(sessions.Config)
	pending := max(config.Delivered, out.rev) < config.Rev && !slices.ContainsFunc(out.flights, func(f flight) bool { return f.seq == 0 && f.rev == config.Rev })
	asked := out.retained && len(config.Payload) > 0 // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
	switch {
	case !w.ok || !asked && !pending:
		left = left || pending
	case full(w.qos):
		left = true
	default:
		// To a new subscription as retained [MQTT-3.3.1-8]; to an old one as a new message, unless that wants the flag as
		// it was published [MQTT-3.3.1-12] [MQTT-3.3.1-13].
		fly(&down{below: sessions.Config, payload: config.Payload, qos: w.qos, retain: asked || w.rap, ids: w.ids, rev: config.Rev}, config.Payload)
		out.retained = false
	}
	if !asked {
		out.retained = false
	}
	return send, left
}

// answer takes a device's answer to a command.
func (s *Server) answer(ctx context.Context, device vitals.DeviceID, body []byte) error {
	a, err := sessions.ParseAnswer(body)
	if err == nil {
		err = s.deps.Sessions.Answer(ctx, device, a)
	}
	switch {
	case errors.Is(err, sessions.ErrAnswerInvalid):
		return &payload.Problem{Code: payload.AnswerInvalid, Offset: -1, Detail: err.Error()}
	case errors.Is(err, sessions.ErrNotFound):
		return &payload.Problem{Code: payload.CommandUnknown, Offset: -1, Detail: "no command with this id was sent to this device in the last 30 days"}
	}
	return err
}
