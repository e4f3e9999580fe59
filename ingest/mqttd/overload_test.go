package mqttd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// stall is an intake whose commits wait while on, up to their time limit.
type stall struct {
	mu   sync.Mutex
	gate chan struct{} // nil: not stalled
}

func (s *stall) set(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on && s.gate == nil:
		s.gate = make(chan struct{})
	case !on && s.gate != nil:
		close(s.gate)
		s.gate = nil
	}
}

func (s *stall) intake() *intake {
	return &intake{gate: func(ctx context.Context, _ []ingest.Message) error {
		s.mu.Lock()
		gate := s.gate
		s.mu.Unlock()
		if gate == nil {
			return nil
		}
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

// A journal that stalls for less than the bound costs nobody a connection: publishers wait, the innocent keep alive.
func TestOverload_a_short_stall_is_waited_out(t *testing.T) {
	var st stall
	d := open(t, nil, st.intake())
	pubs := make([]*client, 20)
	for i := range pubs {
		pubs[i] = d.connect(t, packet.V5, fmt.Sprint("D-", i))
	}
	idle := d.connect(t, packet.V311, "D-idle")
	st.set(true)
	for i, c := range pubs {
		c.send(readingOf(fmt.Sprint("D-", i), 1, "x"))
	}
	waitFor(t, "groups in flight", func() bool { return count(t, d.m.InFlight) > 0 })
	for range 3 {
		idle.alive() // answered although the journal stands
	}
	st.set(false)
	for _, c := range pubs {
		c.puback(1)
	}
	waitFor(t, "nothing in flight", func() bool { return count(t, d.m.InFlight) == 0 })
	if n := count(t, d.m.Failed); n != 0 {
		t.Errorf("%v groups failed", n)
	}
}

// One that stalls for longer sends its publishers away, told to come back, one after the other, and lets nobody in who
// would only wait as well. When it goes on, all of them are taken in again.
func TestOverload_a_long_stall_sends_away_with_jitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so that a busy machine neither adds to the spread nor hides it
		var st stall
		in := st.intake()
		cfg, m := mqttd.DefaultConfig(), mqttd.NewMetrics()
		cfg.CommitTimeout, cfg.CommitSpread = 200*time.Millisecond, 2*time.Second
		s := mqttd.New(cfg, mqttd.Deps{Intake: in, Auth: doors{}, Metrics: m})
		l := &pipes{make(chan net.Conn), make(chan struct{})}
		go s.Serve(l)
		connect := func(v packet.Version, id string) (*client, chan packet.Packet, packet.ReasonCode) {
			t.Helper()
			c, got := l.connect(t, v, func(p *packet.Connect) { p.ClientID = []byte(id) })
			return c, got, (<-got).(*packet.Connack).Code
		}
		alive := func(c *client, got chan packet.Packet) {
			t.Helper()
			c.send(&packet.Ping{Kind: packet.PINGREQ})
			if p, ok := (<-got).(*packet.Ping); !ok || p.Kind != packet.PINGRESP {
				t.Fatalf("got %+v, want PINGRESP", p)
			}
		}
		const n = 40
		pubs, gots := make([]*client, n), make([]chan packet.Packet, n)
		for i := range n {
			var code packet.ReasonCode
			if pubs[i], gots[i], code = connect(packet.Version(4+i%2), fmt.Sprint("D-", i)); code != 0 {
				t.Fatal(code)
			}
		}
		idle, idleGot, _ := connect(packet.V5, "D-idle")
		st.set(true)
		var wg sync.WaitGroup
		ends := make([]time.Duration, n)
		begin := time.Now()
		for i, c := range pubs {
			c.send(readingOf(fmt.Sprint("D-", i), 1, "x"))
			wg.Go(func() {
				for p := range gots[i] {
					if bye, told := p.(*packet.Disconnect); c.v == packet.V311 || !told || bye.Code != packet.ServerBusy {
						t.Errorf("%+v", p)
					}
				}
				ends[i] = time.Since(begin)
			})
		}
		const late = 200 * time.Millisecond // groups of so long share one context
		time.Sleep(cfg.CommitTimeout + late)
		synctest.Wait()
		if count(t, m.Failed) != n {
			t.Errorf("%v groups failed", count(t, m.Failed))
		}
		// As long as commits fail, newcomers hear that the server is busy.
		if _, _, code := connect(packet.V5, "D-new"); code != packet.ServerBusy {
			t.Errorf("a newcomer hears %v", code)
		}
		alive(idle, idleGot)
		wg.Wait()
		slices.Sort(ends)
		if ends[0] < cfg.CommitTimeout || ends[n-1]-ends[0] < 500*time.Millisecond || ends[n-1] > cfg.CommitTimeout+late+cfg.CommitSpread {
			t.Errorf("all %d were sent away between %v and %v", n, ends[0], ends[n-1])
		}
		if got := in.payloads(); len(got) != 0 {
			t.Errorf("stored %d", len(got))
		}
		alive(idle, idleGot)
		st.set(false)
		time.Sleep(time.Second) // busy for a second at most after the last failure
		for i := range n {
			c, got, code := connect(packet.V5, fmt.Sprint("D-", i))
			if code != 0 {
				t.Fatalf("D-%d is not let in: %v", i, code)
			}
			c.send(readingOf(fmt.Sprint("D-", i), 1, "again"))
			if a, ok := (<-got).(*packet.Ack); !ok || a.ID != 1 || a.Code != 0 {
				t.Errorf("got %+v, want PUBACK", a)
			}
		}
		if got := len(in.payloads()); got != n {
			t.Errorf("%d stored, want %d", got, n)
		}
		alive(idle, idleGot)
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// While the journal stalls memory stays flat, however much devices send: they are read in small pieces once enough
// waits, and not at all while their own group does.
func TestOverload_memory_stays_flat(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	var st stall
	d := open(t, func(c *mqttd.Config) {
		c.MaxInFlightBytes, c.CommitTimeout = 1<<20, time.Minute
	}, st.intake())
	st.set(true)
	defer st.set(false)
	const n = 200
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		id := fmt.Sprint("D-", i)
		c := d.connect(t, packet.V311, id)
		one := c.bytes(readingOf(id, 1, string(make([]byte, 1000))))
		var all []byte
		for len(all) < 1<<20 {
			all = append(all, one...)
		}
		c.nc.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		c.nc.Write(all) // as much as the kernel takes
	}
	waitFor(t, "what fits", func() bool { return count(t, d.m.InFlight) >= 1<<20 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	inFlight := count(t, d.m.InFlight)
	if limit := float64(1<<20 + 64<<10 + n*(2<<10)); inFlight > limit {
		t.Errorf("%.0f bytes in flight of %d devices, bound %.0f", inFlight, n, limit)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("%d MB more after %d devices sent what they could", grown>>20, n)
	}
}

// A failure that is not for want of time shuts nobody out.
func TestOverload_other_failures_do_not_close_the_door(t *testing.T) {
	in := &intake{gate: func(context.Context, []ingest.Message) error { return errors.New("no") }}
	d := open(t, func(c *mqttd.Config) { c.CommitSpread = 0 }, in)
	c := d.connect(t, packet.V5, "D-1")
	c.send(reading(1, "x"))
	if bye := c.recv().(*packet.Disconnect); bye.Code != packet.ServerBusy {
		t.Errorf("%+v", bye)
	}
	d.connect(t, packet.V5, "D-2").alive()
}
