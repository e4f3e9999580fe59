package mqttd

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"vitalwatch/vitals"
)

// rates holds what each device may still send. It outlives connections, so that coming again gains nothing, and
// forgets a device once it has its whole minute's worth again.
type rates struct {
	perMinute float64 // 0: off

	mu    sync.Mutex
	m     map[vitals.DeviceID]*allowance
	sweep int // size at which the next look for whole ones is due
}

// allowance is a bucket of messages; two connections of a device share it while one takes over the other.
type allowance struct {
	mu     sync.Mutex
	tokens float64 // negative: owed
	at     time.Time
}

const minSweep = 1024

// of returns the device's allowance, nil when there is no limit.
func (r *rates) of(d vitals.DeviceID, now time.Time) *allowance {
	if r.perMinute == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.m[d]; a != nil {
		return a
	}
	if len(r.m) >= max(r.sweep, minSweep) {
		for id, a := range r.m {
			if a.whole(now, r.perMinute) {
				delete(r.m, id)
			}
		}
		r.sweep = 2 * len(r.m)
	}
	a := &allowance{tokens: r.perMinute, at: now}
	r.m[d] = a
	return a
}

func (a *allowance) whole(now time.Time, perMinute float64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tokens+now.Sub(a.at).Minutes()*perMinute >= perMinute
}

// take takes n messages and returns how long to wait until that is within the rate.
func (a *allowance) take(n int, now time.Time, perMinute float64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens = min(perMinute, a.tokens+max(0, now.Sub(a.at)).Minutes()*perMinute) - float64(n)
	a.at = now
	if a.tokens >= 0 {
		return 0
	}
	return time.Duration(-a.tokens / perMinute * float64(time.Minute))
}

// smallRead is what a connection may read at once while more than Config.MaxInFlightBytes wait to become durable.
const smallRead = 2 << 10

// readEnd is where a read that starts at n must stop.
func (c *conn) readEnd(n, size int) int {
	limit := c.readLimit
	if limit > smallRead && c.s.m.inFlight.Load() > int64(c.s.cfg.MaxInFlightBytes) {
		limit = smallRead
	}
	return min(size, n+limit)
}

// stalled notes that a commit ran into its time limit: for a moment nobody is let in who would only wait as well.
func (s *Server) stalled(now time.Time) { s.busyUntil.Store(now.Add(time.Second).UnixNano()) }

// busy reports whether the journal stalls.
func (s *Server) busy(now time.Time) bool { return now.UnixNano() < s.busyUntil.Load() }

// spread waits for a random time up to d, so that those who are sent away at once neither leave nor come back at
// once. Meanwhile nothing is read from the client.
func (s *Server) spread(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.stopping:
	}
}

// loginAddr is the address that failed logins count against, zero for none.
func (c *conn) loginAddr() netip.Addr {
	if !c.counted {
		return netip.Addr{}
	}
	return c.key
}

// settleCounted settles a group of n bytes and counts them as in flight meanwhile.
func (c *conn) settleCounted(g *group, n int) *ending {
	c.s.m.inFlight.Add(int64(n))
	defer c.s.m.inFlight.Add(-int64(n))
	return c.settle(g)
}
