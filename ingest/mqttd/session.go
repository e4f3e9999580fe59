package mqttd

import (
	"bytes"
	"context"
	"math"
	"slices"
	"time"

	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/vitals"
)

// session is what a device has with the server beyond one connection, section 4.1: subscriptions, the QoS 2 packet ids
// it has not released, messages down that it has not acknowledged. It belongs to one connection at a time, whose turn
// it is, see claim; between two turns to nobody.
type session struct {
	conn *conn         // guarded by Server.mu, as busy and away: the newest connection that came for it, nil while the device is away
	busy chan struct{} // closed when a will that is being given has been given; nil: none
	away *away         // nil while a connection has it

	exists bool   // false: nobody has opened it yet, or it has ended
	stored bool   // the state database has it
	expiry uint32 // seconds that it outlives its connection; 0: it ends with it
	subs   []subscription
	ids    idSet
	out    *outflow // nil: nothing was ever under way
}

// away is what a session waits for while its device is not connected.
type away struct {
	since  time.Time
	ends   time.Time // of the session
	will   *will     // nil: none, or given
	willAt time.Time
	timer  *time.Timer
}

// will is the device's status if it goes without a word, section 3.1.2.5.
type will struct {
	payload []byte
	delay   uint32 // seconds
}

// subscription is a filter below the device's own down/, with the QoS that was granted.
type subscription = sessions.Filter

// idSet holds the packet ids of QoS 2 messages between PUBREC and PUBREL, in order. Clients count their ids up and
// release them in order, so that almost all happens at its two ends.
type idSet []uint16

func (s *idSet) add(id uint16) {
	if i, found := slices.BinarySearch(*s, id); !found {
		*s = slices.Insert(*s, i, id)
	}
}

func (s idSet) has(id uint16) bool {
	_, found := slices.BinarySearch(s, id)
	return found
}

func (s *idSet) remove(id uint16) bool {
	i, found := slices.BinarySearch(*s, id)
	if found {
		*s = slices.Delete(*s, i, i+1)
	}
	return found
}

// never is the session expiry interval of a session that does not end, 3.1.2.11.2.
const never = math.MaxUint32

// sessionExpiry is how long a session may outlive its connection.
func (s *Server) sessionExpiry(asked uint32) uint32 {
	return min(asked, uint32(s.cfg.MaxSessionExpiry/time.Second))
}

// claim takes a place in the line for the session of c's device and waits for its turn: until the connection before has
// committed and answered what it had, and its will, if due, has been given. So nothing of an older connection is
// applied after something of a newer one. False: no turn until the deadline. Whoever claims must release.
func (s *Server) claim(c *conn, deadline time.Time) bool {
	s.mu.Lock()
	se := s.sessions[c.device]
	if se == nil {
		se = &session{}
		s.sessions[c.device] = se
	}
	old, wait := se.conn, se.busy
	se.conn, c.claimed = c, se
	if old != nil {
		if old.released == nil {
			old.released = make(chan struct{})
		}
		wait = old.released
	}
	s.mu.Unlock()
	if old != nil { // told to go before the new one hears yes [MQTT-3.1.4-3]
		old.kick(endTakenOver)
	}
	if wait == nil {
		return true
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-wait:
		return true
	case <-t.C:
	}
	// The turn must be passed on when it comes: an intake that obeys its context is not far from it.
	c.claimed = nil
	s.wg.Go(func() {
		<-wait
		s.pass(c, se, endGone)
	})
	return false
}

// resume begins the connection's part of the session and returns whether there was one, 3.1.2.4. It is c's turn. What
// changes by it is written before resume returns, or soon after, see promise; coming back writes nothing.
func (s *Server) resume(c *conn, clean bool) (present bool) {
	se := c.claimed
	s.mu.Lock()
	changed := false
	var wait func(context.Context) error
	if a := se.away; a != nil {
		a.timer.Stop()
		// [MQTT-3.1.3-9]; also with clean start: what the will says, that the device is lost, is not true any more.
		changed = a.will != nil
		se.away = nil
		if !time.Now().Before(a.ends) {
			wait = s.end(c.device, se)
		}
	}
	present = se.exists && !clean
	if se.exists && clean { // [MQTT-3.1.2-4]
		wait = s.end(c.device, se)
	}
	changed = changed || !present || se.expiry != c.expiry
	se.exists, se.expiry = true, c.expiry
	if se.out != nil {
		se.out.rewind()
	}
	if changed {
		if w := s.put(c.device, se); w != nil {
			wait = w
		}
	}
	s.mu.Unlock()
	s.promise(c, wait)
	return present
}

// put gives the session's state to the state database: what a connection's end or a restart must find again.
func (s *Server) put(device vitals.DeviceID, se *session) (wait func(context.Context) error) {
	st := s.deps.Sessions
	switch {
	case st == nil:
		return nil
	case se.expiry == 0: // ends with the connection, however that ends
		if se.stored {
			se.stored = false
			return st.End(device)
		}
		return nil
	}
	se.stored = true
	row := sessions.Session{Expiry: se.expiry, Filters: se.subs}
	if a := se.away; a != nil {
		row.AwaySince = vitals.At(a.since)
		if a.will != nil {
			row.Will, row.WillAt = a.will.payload, vitals.At(a.willAt)
		}
	}
	return st.Put(device, row)
}

// promiseTimeout bounds the wait for the state database before a client hears yes. It is not made to wait longer: its
// readings do not need that database. A variable for tests of what is promised, which a busy machine must not break.
var promiseTimeout = 2 * time.Second

func (s *Server) promise(c *conn, wait func(context.Context) error) {
	if wait == nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, promiseTimeout)
	defer cancel()
	if err := wait(ctx); err != nil {
		s.loud.Warn().Err(err).Str("device_id", string(c.device)).Msg("the session is not written yet; a crash now would forget it")
	}
}

// end forgets what the session held. Server.mu is held.
func (s *Server) end(device vitals.DeviceID, se *session) (wait func(context.Context) error) {
	if st := s.deps.Sessions; st != nil {
		if se.stored {
			wait = st.End(device)
		}
		if se.out != nil && len(se.out.flights) > 0 { // they are the device's, not the session's
			st.Requeue(device)
		}
	}
	se.exists, se.stored, se.subs, se.ids, se.out = false, false, nil, nil, nil
	return wait
}

// restore takes over the sessions of the last run, once.
func (s *Server) restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.deps.Sessions
	if st == nil || s.restored {
		return nil
	}
	last, err := st.Recover(s.ctx)
	if err != nil {
		return err
	}
	s.restored = true
	for i := range last {
		r := &last[i]
		se := &session{exists: true, stored: true, expiry: s.sessionExpiry(r.Expiry), subs: r.Filters}
		if len(r.Sent) > 0 {
			se.out = &outflow{}
			for _, d := range r.Sent {
				se.out.flights = append(se.out.flights, flight{id: d.PacketID, seq: d.Seq})
				se.out.lastID = d.PacketID
			}
		}
		s.sessions[r.Device] = se
		since := r.AwaySince.Time()
		a := &away{since: since, ends: since.Add(time.Duration(se.expiry) * time.Second)}
		if r.Will != nil {
			a.will, a.willAt = &will{payload: r.Will}, r.WillAt.Time()
		}
		s.wait(r.Device, se, a)
	}
	st.Subscribe(s.wake)
	return nil
}

// release ends c's turn: its will is given when it is due at once, the session waits for the device or ends, and the
// next in the line goes on. Nothing is sent down or applied for c from here on.
func (s *Server) release(c *conn, end *ending) {
	se := c.claimed
	if se == nil {
		return
	}
	c.mu.Lock()
	c.queue, c.looks, c.sess = nil, false, nil
	c.mu.Unlock()
	if c.cur != nil { // its group did not become durable, or nobody knows: the device sends it again
		for i := range c.cur.replies {
			if r := &c.cur.replies[i]; r.fresh {
				se.ids.remove(r.id)
			}
		}
		c.cur = nil
	}
	s.pass(c, se, end)
	c.claimed = nil
}

func (s *Server) pass(c *conn, se *session, end *ending) {
	s.mu.Lock()
	w := c.will
	if end.noWill || se.conn != c { // taken over: the device is there
		w = nil
	}
	if w != nil && (w.delay == 0 || se.expiry == 0) { // [MQTT-3.1.2-8]
		s.mu.Unlock()
		s.giveWill(c.device, w) // newer connections wait
		w = nil
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if c.released != nil {
		close(c.released)
	}
	if se.expiry == 0 {
		s.end(c.device, se)
	}
	if se.conn != c {
		return
	}
	se.conn = nil
	if !se.exists {
		delete(s.sessions, c.device)
		return
	}
	now := time.Now()
	a := &away{since: now, ends: now.Add(time.Duration(se.expiry) * time.Second), will: w}
	if w != nil {
		a.willAt = now.Add(time.Duration(w.delay) * time.Second)
	}
	s.wait(c.device, se, a)
	s.put(c.device, se)
}

// wait sets the clock for a session whose device is away. Server.mu is held.
func (s *Server) wait(device vitals.DeviceID, se *session, a *away) {
	next := a.ends
	if a.will != nil && a.willAt.Before(next) {
		next = a.willAt
	}
	se.away = a
	a.timer = time.AfterFunc(time.Until(next), func() { s.due(device, se, a) })
}

// due gives a delayed will, and ends a session whose time is over, whichever comes first.
func (s *Server) due(device vitals.DeviceID, se *session, a *away) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || se.away != a { // the device is back
		return
	}
	now := time.Now()
	over := !now.Before(a.ends)
	if w := a.will; w != nil && (over || !now.Before(a.willAt)) { // 3.1.3.2.2
		a.will = nil
		done := make(chan struct{})
		se.busy = done
		s.wg.Add(1) // Shutdown, which sets stopped, is still to come
		s.mu.Unlock()
		s.giveWill(device, w)
		s.mu.Lock()
		defer s.wg.Done()
		se.busy = nil
		close(done) // whoever waits looks at the session when this is over: it needs Server.mu
	}
	if over {
		s.end(device, se)
	}
	switch {
	case se.conn != nil: // waits for us, and stops the clock
	case over:
		delete(s.sessions, device)
	case !s.stopped:
		s.wait(device, se, a)
		s.put(device, se) // without the will
	}
}

// giveWill makes a will the device's status; a panic in the sink stays here.
func (s *Server) giveWill(device vitals.DeviceID, w *will) {
	if s.deps.Status == nil {
		return
	}
	var end *ending
	defer s.guard(func() vitals.DeviceID { return device }, &end)
	now := time.Now()
	if err := s.deps.Status.Status(s.commitContext(now), device, w.payload, vitals.At(now)); err != nil {
		s.loud.Error().Err(err).Str("device_id", string(device)).Msg("the will of a lost device was not taken")
	}
}

// find returns the connection of a device, nil when it has none. It may be still waiting for its turn.
func (s *Server) find(device vitals.DeviceID) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if se := s.sessions[device]; se != nil {
		return se.conn
	}
	return nil
}

// willOf returns the will of a CONNECT, nil when it has none.
func willOf(p *packet.Connect) *will {
	if !p.HasWill {
		return nil
	}
	return &will{payload: bytes.Clone(p.Will.Payload), delay: p.Will.Props.Num(packet.WillDelay, 0)}
}
