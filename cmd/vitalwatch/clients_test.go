package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vitalwatch/internal/clienttest"
)

// TestClients_killed: every client, in every version it speaks and at each QoS, publishes while the server is killed and
// started again. With QoS 1 and 2 every reading arrives, and is stored once; with QoS 0 some may be lost, none doubled.
func TestClients_killed(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the clients wait a second between two connections")
	}
	s := startServer(t, "registration: open\nlog: {level: warn}\n")
	const each, kills = 40, 3
	base := time.Now().UnixMilli() - 1_000_000
	type run struct {
		clienttest.Job
		name  string
		acked atomic.Int64
		err   error
	}
	var runs []*run
	clients := clienttest.All(t)
	var acked atomic.Int64
	turn := make(chan struct{}, 10_000)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for i, c := range clients {
		for _, version := range c.Versions() {
			for qos := range 3 {
				r := &run{name: fmt.Sprintf("%s, version %d, QoS %d", c.Name(), version, qos),
					Job: clienttest.Job{Addr: s.MQTT, Version: version, QoS: qos, Device: fmt.Sprintf("c%d-v%d-q%d", i, version, qos)}}
				runs = append(runs, r)
				var payloads []string
				for n := range each {
					payloads = append(payloads, fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%d,"value":%d,"unit":"/min"}`, base+int64(n), 60+n))
				}
				wg.Go(func() {
					r.err = c.Publish(ctx, r.Job, payloads, func() {
						acked.Add(1)
						r.acked.Add(1)
						select {
						case turn <- struct{}{}:
						default:
						}
					})
				})
			}
		}
	}
	// The first kill is for the fast clients, the others for those that take a second to start.
	due := func(k int64) bool {
		if k == 0 {
			return acked.Load() >= int64(len(runs)*each/10)
		}
		for _, r := range runs {
			if r.acked.Load() < each*k/kills {
				return false
			}
		}
		return true
	}
killing:
	for k := range int64(kills) {
		for !due(k) {
			select {
			case <-turn:
			case <-ctx.Done():
				t.Errorf("%d messages went before kill %d is due", acked.Load(), k+1)
				break killing
			}
		}
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for _, r := range runs {
		if r.err != nil {
			t.Errorf("%s: %v after %d of %d messages", r.name, r.err, r.acked.Load(), each)
		}
	}
	level, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if _, err := s.Level(level); err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		stored := map[int64]int{}
		for _, item := range list[struct {
			TakenAt time.Time `json:"taken_at"`
		}](t, s, "/api/v1/patients/P-"+r.Device+"/readings?indicator=heart_rate&limit=1000") {
			stored[item.TakenAt.UnixMilli()-base]++
		}
		for n := range int64(each) {
			if k := stored[n]; k > 1 || k == 0 && r.QoS > 0 {
				t.Errorf("%s: reading %d is stored %d times", r.name, n, k)
			}
		}
		if len(stored) == 0 {
			t.Errorf("%s: nothing arrived", r.name)
		}
	}
	var names []string
	for _, c := range clients {
		names = append(names, c.Name())
	}
	t.Logf("%d runs of %s, %d kills, %d messages", len(runs), strings.Join(names, ", "), kills, acked.Load())
}
