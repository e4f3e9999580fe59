package main

import (
	"runtime/debug"
	"testing"
)

func TestGCPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 200}, {50 << 20, 200}, {80 << 20, 200}, {160 << 20, 100}, {225 << 20, 71}, {320 << 20, 50}, {8 << 30, 50}} {
		if got := gcPercent(c.live); got != c.want {
			t.Errorf("%d MB: %d %%, want %d", c.live>>20, got, c.want)
		}
	}
}

// The share follows what is kept, down and up again, and an operator's own GOGC stays.
func TestCollector(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	inForce := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	own := newCollector(false)
	if own.tune(t.Context()); inForce() != 100 {
		t.Errorf("GOGC of the operator became %d", inForce())
	}
	c := newCollector(true)
	if inForce() != 200 {
		t.Errorf("at first %d", inForce())
	}
	c.percent = 60 // as after many devices that are gone
	debug.SetGCPercent(60)
	if c.tune(t.Context()); inForce() != c.percent || c.percent <= 60 {
		t.Errorf("%d in force, %d noted", inForce(), c.percent)
	}
}
