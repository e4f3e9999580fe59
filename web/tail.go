package web

import (
	"context"
	"sync"
	"time"

	"vitalwatch/vitals"
	"vitalwatch/web/feed"
)

// Bounds of the live tail.
const (
	tailEvery = 200 * time.Millisecond
	tailMax   = 1 << 16 // places (patient, indicator) between two flushes; beyond, a place waits for its next reading
)

// Tail carries the newest readings to the feed: it keeps the newest of each patient and indicator between two
// flushes, so that its cost does not grow with the rate. While nobody watches it costs one atomic load a call.
type Tail struct {
	hub *feed.Hub

	mu     sync.Mutex
	latest map[place]vitals.Reading
}

type place struct {
	patient   vitals.PatientID
	indicator vitals.Indicator
}

func newTail(h *feed.Hub) *Tail { return &Tail{hub: h, latest: map[place]vitals.Reading{}} }

// Observe takes readings as the journal hands them out. It never waits for anybody.
func (t *Tail) Observe(rs []vitals.Reading) {
	if !t.hub.Watched() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range rs {
		r := &rs[i]
		if r.Freshness == vitals.Backfill {
			continue // history is no news
		}
		k := place{r.Patient, r.Indicator}
		old, ok := t.latest[k]
		if ok && old.TakenAt > r.TakenAt || !ok && len(t.latest) >= tailMax {
			continue
		}
		t.latest[k] = *r
	}
}

// Run flushes until ctx ends.
func (t *Tail) run(ctx context.Context) {
	tick := time.NewTicker(tailEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.flush()
		}
	}
}

func (t *Tail) flush() {
	t.mu.Lock()
	latest := t.latest
	if len(latest) == 0 { // the map stays, and with it the right to look at it
		t.mu.Unlock()
		return
	}
	t.latest = map[place]vitals.Reading{}
	t.mu.Unlock()
	for k, r := range latest {
		t.hub.Reading(string(k.patient), k.indicator.String(), vitals.AppendJSON(nil, &r))
	}
}
