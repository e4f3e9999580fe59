package mqttd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/vitals"
)

// group is what one read brought: its messages in a Batch, and the answers in the order of receipt. Pooled.
type group struct {
	batch   Batch
	adds    int // messages in batch
	replies []reply
	pub     packet.Publish
	out     []byte // packets to write
	packets [16]int
	unacked int  // QoS 1 and new QoS 2 among replies
	fresh   int  // QoS 2 ids added
	look    bool // something may go down after the answers
	errs    int  // messages for down/errors so far
}

// reply is what is due for one PUBLISH or PUBREL.
type reply struct {
	kind  packet.Type // PUBACK, PUBREC or PUBCOMP; 0: QoS 0, nothing
	id    uint16
	held  bool // waits for its Result
	fresh bool // QoS 2: the id is remembered from now on, unless the group fails
	code  packet.ReasonCode
	text  string
}

// The most entries on down/errors: per message and per group; what is over is counted as dropped.
const (
	maxErrorsPerMessage = 20
	maxErrorsPerGroup   = 200
)

// maxKeep is the largest answer buffer that goes back to the pool, maxKeepUser the most user properties
// and the most subscription identifiers.
const (
	maxKeep     = 64 << 10
	maxKeepUser = 32
)

func (s *Server) putGroup(g *group) {
	clear(g.replies)
	if cap(g.out) > maxKeep {
		g.out = nil
	}
	if cap(g.pub.Props.User) > maxKeepUser {
		g.pub.Props.User = nil
	}
	if cap(g.pub.Props.SubscriptionIDs) > maxKeepUser {
		g.pub.Props.SubscriptionIDs = nil
	}
	g.adds, g.replies, g.out, g.packets, g.unacked, g.fresh, g.errs, g.look = 0, g.replies[:0], g.out[:0], [16]int{}, 0, 0, 0, false
	s.groups.Put(g)
}

// handle deals with what one read brought: whole packets are decoded in place, their messages committed together,
// and all answers written at once. b, when there is one, goes back to the pool before anything waits.
func (c *conn) handle(data []byte, b *buffer) *ending {
	g := c.s.groups.Get().(*group)
	c.cur = g
	now := time.Now()
	n, end := c.decode(g, data, now)
	if end == nil && n < len(data) {
		c.partial = bytes.Clone(data[n:])
	}
	if b != nil {
		c.s.buffers.Put(b)
	}
	if n == 0 && end == nil {
		c.cur = nil
		c.s.putGroup(g)
		return nil
	}
	messages := g.packets[packet.PUBLISH]
	for t, k := range g.packets {
		if k > 0 {
			c.s.m.received[t].Add(float64(k))
		}
	}
	settled := c.settleCounted(g, n)
	// A client that said DISCONNECT is gone as it wished, also when its last group failed.
	if settled != nil && (end == nil || end.tell) {
		end = settled
	}
	if end != nil {
		return end
	}
	c.throttle(messages)
	if messages == 0 {
		c.last = now
	} else {
		c.last = time.Now()
	}
	c.graced = false
	return nil
}

// decode takes the whole packets at the start of data and returns how many bytes they had.
func (c *conn) decode(g *group, data []byte, now time.Time) (off int, end *ending) {
	at := vitals.At(now)
	for off < len(data) {
		h, n, err := packet.ParseHeader(data[off:])
		if err == packet.ErrIncomplete {
			return off, nil
		}
		if err != nil {
			return off, endPacket(err)
		}
		if n+h.Remaining > c.s.cfg.MaxPacketBytes { // 3.2.2.3.6; before anything is allocated for it
			return off, endTooLarge
		}
		if len(data)-off < n+h.Remaining {
			return off, nil
		}
		body := data[off+n : off+n+h.Remaining]
		off += n + h.Remaining
		g.packets[h.Type]++
		if h.Type == packet.PUBLISH {
			end = c.publish(g, h.Flags, body, at, now)
		} else {
			end = c.control(g, h, body)
		}
		if end != nil {
			return off, end
		}
	}
	return off, nil
}

// publish takes one PUBLISH into the group.
func (c *conn) publish(g *group, flags byte, body []byte, at vitals.Micros, now time.Time) *ending {
	p := &g.pub
	if err := p.Decode(c.version, flags, body); err != nil {
		return endPacket(err)
	}
	if len(p.Props.SubscriptionIDs) > 0 { // [MQTT-3.3.4-6]
		return protocolEnding("subscription identifier from a client")
	}
	if p.Props.Has(packet.TopicAlias) {
		if end := c.alias(p); end != nil {
			return end
		}
	}
	switch p.QoS {
	case 1:
		g.unacked++
	case 2:
		// A message whose id we remember was applied when it came first; until PUBREL it is the same one, whatever
		// its DUP flag says: [MQTT-4.3.3-10] [MQTT-4.3.3-12]. The ids live in memory, with the session. After a restart
		// of the server a resend is applied again, to no effect: readings are known to the journal, an answer to its
		// command, and a status comes again with all that followed it, because answers are written in the order of
		// receipt. A durable id would be worse: one that outlived its PUBREL would swallow another message.
		if c.sess.ids.has(p.ID) {
			g.replies = append(g.replies, reply{kind: packet.PUBREC, id: p.ID})
			return nil
		}
		g.unacked++
	}
	// [MQTT-3.3.4-7] and 3.2.2.3.3: QoS 1 in this read, QoS 2 until PUBCOMP. 3.1.1 has no such bound but its ids.
	if c.version == packet.V5 && p.QoS > 0 && g.unacked+len(c.sess.ids)-g.fresh > c.s.cfg.ReceiveMaximum {
		return endReceive
	}
	if len(p.Topic) <= len(c.up) || string(p.Topic[:len(c.up)]) != c.up {
		return c.elsewhere(g, p, at, now)
	}
	format := p.Topic[len(c.up):]
	switch string(format) {
	case "readings":
		c.hold(g, p, ingest.Message{Device: c.device, Format: "readings", Source: "mqtt", Payload: p.Payload, ReceivedAt: at})
		return nil
	case "status", "ack":
		return c.sink(g, p, c.device, string(format), at, now)
	}
	if string(format) != c.format {
		if !validFormat(format) {
			return c.refusePublish(g, p, packet.TopicNameInvalid, endTopic)
		}
		c.format = string(format)
	}
	c.hold(g, p, ingest.Message{Device: c.device, Format: c.format, Source: "mqtt", Payload: p.Payload, ReceivedAt: at})
	return nil
}

// hold takes a message into the group's batch; its answer waits for the Result.
func (c *conn) hold(g *group, p *packet.Publish, m ingest.Message) {
	g.batch.Add(m)
	g.adds++
	c.reply(g, p, reply{held: true})
}

// reply notes the answer to p, and with QoS 2 its id [MQTT-4.3.3-8].
func (c *conn) reply(g *group, p *packet.Publish, r reply) {
	switch p.QoS {
	case 1:
		r.kind = packet.PUBACK
	case 2:
		r.kind = packet.PUBREC
		if !r.code.Failed() || c.version != packet.V5 { // a code from 0x80 on ends the exchange, 4.3.3; 3.1.1 hears none, and will send PUBREL
			r.fresh = true
			g.fresh++
			c.sess.ids.add(p.ID)
		}
	}
	r.id = p.ID
	g.replies = append(g.replies, r)
}

// pubrel ends the exchange of a QoS 2 message [MQTT-4.3.3-11]. PUBRELs may come in any order.
//
// An id that we do not know is none to complain of: its PUBCOMP was lost, or the server has started again since. 0x92
// would be allowed, "not an error during recovery" (3.7.2.1), but MQTT.js 5.15 fails the message on it, which is stored.
func (c *conn) pubrel(g *group, id uint16) {
	c.sess.ids.remove(id)
	g.replies = append(g.replies, reply{kind: packet.PUBCOMP, id: id})
}

// elsewhere deals with a PUBLISH that is not on the client's own up/: a gateway's, a foreign layout's, or one that
// nobody knows. The last is quarantined and acknowledged: a 3.1.1 client that is closed sends it again for ever.
func (c *conn) elsewhere(g *group, p *packet.Publish, at vitals.Micros, now time.Time) *ending {
	device, format, err := c.device, "", ErrUnknownTopic
	ours := len(p.Topic) >= len(topicRoot) && string(p.Topic[:len(topicRoot)]) == topicRoot
	switch {
	case c.s.deps.Topics != nil && len(p.Topic) <= maxTopic:
		device, format, err = c.s.deps.Topics.Resolve(c.device, p.Topic)
	case ours:
		err = ErrForeignTopic
	}
	topic := p.Topic[:min(len(p.Topic), maxTopic)]
	if string(topic) != c.foreign {
		c.foreign = strings.ToValidUTF8(string(topic), "") // the bound may have cut a character in two
	}
	m := ingest.Message{Device: device, Topic: c.foreign, Format: format, Source: "mqtt", Payload: p.Payload, ReceivedAt: at}
	switch {
	case errors.Is(err, ErrUnknownTopic) && !ours:
		m.Device, m.Format = c.device, "" // the pipeline quarantines what has no format as topic_unknown
	case err != nil:
		return c.refusePublish(g, p, packet.NotAuthorized, endTopic)
	case format == "status" || format == "ack":
		if device == "" {
			device = c.device
		}
		return c.sink(g, p, device, format, at, now)
	case device != c.device:
		m.Gateway = c.device
	}
	c.hold(g, p, m)
	return nil
}

// sink gives a device's status or its answer to a command to whom it is for.
func (c *conn) sink(g *group, p *packet.Publish, device vitals.DeviceID, what string, at vitals.Micros, now time.Time) *ending {
	var err error
	switch ctx := c.s.commitContext(now); {
	case what == "status" && c.s.deps.Status != nil:
		err = c.s.deps.Status.Status(ctx, device, p.Payload, at)
	case what == "ack":
		if c.s.deps.Sessions != nil {
			err = c.s.answer(ctx, device, p.Payload)
		}
		if err == nil && c.s.deps.Acks != nil {
			err = c.s.deps.Acks.Ack(ctx, device, p.Payload, at)
		}
	}
	var r reply
	var problem *payload.Problem
	switch {
	case errors.As(err, &problem):
		c.tellProblems(g, &r, &ingest.Result{Quarantined: 1, Problems: []payload.Problem{*problem}})
	case err != nil:
		c.s.loud.Warn().Err(err).Str("device_id", string(device)).Msg("device status or answer was not taken; the device is told to send it again")
		return endSink
	}
	c.reply(g, p, r)
	return nil
}

// refusePublish answers a PUBLISH to a topic that is not the device's: 5.0 in the PUBACK; 3.1.1 knows no such
// answer, and its server must acknowledge or close, 3.1.1 [MQTT-3.3.5-2].
func (c *conn) refusePublish(g *group, p *packet.Publish, code packet.ReasonCode, end *ending) *ending {
	c.s.m.Refused.WithLabelValues("topic").Inc()
	if c.version != packet.V5 {
		return end
	}
	c.reply(g, p, reply{code: code, text: end.text})
	return nil
}

// settle commits the group and writes its answers in the order of receipt [MQTT-4.6.0-2] [MQTT-4.6.0-3]. No PUBACK or
// PUBREC is even composed before Commit has returned without error.
func (c *conn) settle(g *group) *ending {
	var results []ingest.Result
	if g.adds > 0 {
		start := time.Now()
		var err error
		results, err = g.batch.Commit(c.s.commitContext(start))
		c.s.m.Commit.Observe(time.Since(start).Seconds())
		if err == nil && len(results) != g.adds {
			err = fmt.Errorf("intake answered %d of %d messages", len(results), g.adds)
		}
		if err != nil { // neither group nor batch is used again
			c.s.m.Failed.Inc()
			c.s.loud.Warn().Err(err).Str("device_id", string(c.device)).Int("messages", g.adds).Msg("readings were not stored; the device is told to send them again")
			if errors.Is(err, context.DeadlineExceeded) {
				c.s.stalled(time.Now())
			}
			if errors.Is(err, ErrQuota) {
				return endQuota
			}
			return endBusy
		}
	}
	acked := 0
	for i := range g.replies {
		r := &g.replies[i]
		if r.held {
			if res := &results[0]; res.Quarantined > 0 || len(res.Problems) > 0 {
				c.tellProblems(g, r, res)
			}
			results = results[1:]
		}
		if r.kind == 0 {
			continue
		}
		if r.code.Failed() {
			if r.fresh && c.version == packet.V5 { // [MQTT-4.3.3-9]
				c.sess.ids.remove(r.id)
			}
		} else if r.kind != packet.PUBCOMP {
			acked++
		}
		if r.code == packet.Success && r.text == "" || c.version != packet.V5 {
			g.out = append(g.out, byte(r.kind)<<4, 2, byte(r.id>>8), byte(r.id)) // 3.4.2.1
			continue
		}
		g.out = c.appendAck(g.out, r.kind, r.id, r.code, r.text)
	}
	c.cur = nil // durable: what is remembered stays so, whether or not the answers arrive
	if acked > 0 {
		c.s.m.Acked.Add(float64(acked))
	}
	var end *ending
	if len(g.out) > 0 && c.write(g.out) != nil {
		end = endWrite
	}
	if g.look {
		c.mu.Lock()
		c.unsaid = false
		c.mu.Unlock()
		c.look()
	}
	c.s.putGroup(g)
	return end
}

// tellProblems turns quarantined items into the PUBACK's code and down/errors. The message is stored, so it is
// acknowledged; from 0x80 on a client knows that it must not send it again [MQTT-4.4.0-2].
func (c *conn) tellProblems(g *group, r *reply, res *ingest.Result) {
	if len(res.Problems) > 0 {
		p := &res.Problems[0]
		r.text = fmt.Sprintf("%d of %d items refused; item %d: %s: %s", res.Quarantined,
			res.Accepted+res.Duplicate+res.Quarantined, p.Index, p.Code, p.Detail)
	} else {
		r.text = fmt.Sprintf("%d items refused", res.Quarantined)
	}
	if res.Quarantined > 0 && res.Accepted+res.Duplicate == 0 {
		r.code = packet.PayloadFormatInvalid // for good: nothing is better when it is sent again
		why := "payload"
		if len(res.Problems) > 0 && res.Problems[0].Code == payload.TopicUnknown {
			r.code, why = packet.TopicNameInvalid, "topic"
		}
		c.s.m.Refused.WithLabelValues(why).Inc()
	}
	c.mu.Lock()
	w := c.sess.wants("errors")
	c.mu.Unlock()
	if !w.ok {
		return
	}
	at := time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00")
	for i := range res.Problems {
		if i == maxErrorsPerMessage || g.errs == maxErrorsPerGroup {
			c.s.m.Dropped.WithLabelValues("errors_bound").Add(float64(len(res.Problems) - i))
			return
		}
		body, err := json.Marshal(errorMessage{At: at, Problem: &res.Problems[i]})
		if err != nil {
			continue
		}
		g.errs++
		b, ok := c.appendDown(g.out, &down{below: "errors", payload: body, ids: w.ids})
		if !ok {
			c.s.m.Dropped.WithLabelValues("too_large").Inc()
		}
		g.out = b
	}
}

// errorMessage is the body of down/errors, contract section 3.
type errorMessage struct {
	At string `json:"at"`
	*payload.Problem
}

// maxReasonString keeps answers small.
const maxReasonString = 200

// appendAck appends an acknowledgement with reason code and, where the client wants it and has room, reason string
// [MQTT-3.1.2-29] [MQTT-3.4.2-2].
func (c *conn) appendAck(dst []byte, t packet.Type, id uint16, code packet.ReasonCode, text string) []byte {
	p := packet.Ack{Kind: t, ID: id, Code: code}
	if text != "" && c.problemInfo {
		p.Props.SetData(packet.ReasonString, cut(text))
	}
	b, err := p.Append(dst, c.version)
	if err != nil || len(b)-len(dst) > int(c.maxSend) {
		p.Props.Reset()
		b, _ = p.Append(dst, c.version)
	}
	return b
}

func cut(s string) []byte {
	if len(s) > maxReasonString {
		s = s[:maxReasonString]
	}
	return bytes.ToValidUTF8(bytes.ReplaceAll([]byte(s), []byte{0}, nil), nil)
}
