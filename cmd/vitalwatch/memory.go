package main

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// collector trades memory for speed while there is little to keep: the garbage collector runs half as often as Go's
// default. What it leaves lying is a share of what is kept, so with fifty thousand devices connected that would be
// hundreds of megabytes; the share falls as the kept grows, and the head-room stays about the same.
type collector struct {
	percent int // in force; 0: the operator's GOGC counts
	live    []runtimemetrics.Sample
}

const (
	// headRoom is what the collector may leave lying, bytes. At 100,000 readings/s there is a collection every 0.3 s.
	headRoom   = 160 << 20
	maxPercent = 200
	minPercent = 50
)

func newCollector(ours bool) *collector {
	c := &collector{live: []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}}
	if ours {
		c.percent = maxPercent
		debug.SetGCPercent(c.percent)
	}
	return c
}

// tune adjusts the share to what the last collection found; small changes wait, because each one stops the world.
func (c *collector) tune(context.Context) error {
	if c.percent == 0 {
		return nil
	}
	runtimemetrics.Read(c.live)
	var live uint64
	for i := range c.live {
		live += c.live[i].Value.Uint64()
	}
	if p := gcPercent(live); p > c.percent+10 || p < c.percent-10 {
		c.percent = p
		debug.SetGCPercent(p)
	}
	return nil
}

// gcPercent is GOGC for a heap and stacks of so many bytes.
func gcPercent(live uint64) int {
	return int(min(maxPercent, max(minPercent, headRoom*100/max(live, 1))))
}
