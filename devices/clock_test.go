package devices_test

import (
	"path/filepath"
	"testing"
	"time"

	"vitalwatch/devices"
	"vitalwatch/vitals"
)

func TestClock_outlivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	h := open(t, path)
	d, _ := h.add(t, devices.New{ID: "D"})
	const off = -8 * vitals.Hour
	at := func(i int) vitals.Micros { return start + vitals.Micros(i)*30*vitals.Minute }
	for i := range 3 {
		if c := d.Clock(); c.Trust == devices.ClockCorrected {
			t.Fatalf("corrected after %d readings", i)
		}
		d.ObserveClock(at(i)+off, at(i))
	}
	want := devices.Clock{Trust: devices.ClockCorrected, Offset: off, From: at(0) + off, To: at(2) + off, Since: at(2)}
	if c := d.Clock(); c != want {
		t.Fatalf("got %+v, want %+v", c, want)
	}
	must(t, h.Flush(t.Context()))
	want.To = at(3) + off
	d.ObserveClock(want.To, at(3))
	must(t, h.Flush(t.Context()))
	h = open(t, path)
	d = h.Find("D")
	if c := d.Clock(); c != want || !c.Corrects(at(1)+off) || c.Corrects(at(0)+off-1) || c.Corrects(want.To+1) {
		t.Fatalf("after a restart: %+v, want %+v", c, want)
	}
	d.ObserveClock(at(4), at(4)) // somebody set it
	must(t, h.Flush(t.Context()))
	if c := open(t, path).Find("D").Clock(); c != (devices.Clock{Trust: devices.ClockOK}) {
		t.Errorf("after it was set: %+v", c)
	}
}

func TestObserveClock_aRightClockCostsNoMemory(t *testing.T) {
	h := fresh(t)
	d, _ := h.add(t, devices.New{ID: "D"})
	if n := testing.AllocsPerRun(100, func() { d.ObserveClock(start, start.Add(time.Second)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
