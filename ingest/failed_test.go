package ingest_test

import (
	"context"
	"reflect"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/vitals"
)

const (
	aError   = `{"indicator":"blood_pressure","taken_at":"2026-11-21T07:58:00Z","error":{"code":"E2"}}`
	aReading = `{"indicator":"blood_pressure","taken_at":"2026-11-21T07:59:00Z","values":{"systolic":120,"diastolic":80},"unit":"mmHg"}`
)

// TestPipeline_DeviceErrors: a failed measurement is refused and counted like any item that is no reading, and is in the
// journal besides, once, behind the readings of its message.
func TestPipeline_DeviceErrors(t *testing.T) {
	h := keeping(t)
	h.config.Explain = func(model string, i vitals.Indicator, code string) (string, bool) {
		return "cuff", i == vitals.BloodPressure && code == "E2"
	}
	h.Pipeline = ingest.New(h.config)
	body := "[" + aError + "," + aReading + "]"
	for round, want := range [][3]int{{1, 0, 1}, {0, 1, 1}, {0, 1, 1}} { // as with any refused item: a resend is refused again
		res := h.send(t, "D-1", body)
		if got := [3]int{res.Accepted, res.Duplicate, res.Quarantined}; got != want || len(res.Problems) != 1 || res.Problems[0].Code != payload.StatusInvalid || res.Problems[0].Index != 0 {
			t.Fatalf("round %d: %v, %+v; want %v", round, got, res.Problems, want)
		}
	}
	rs := h.journaled(t)
	if len(rs) != 2 || rs[0].Failed() || !rs[1].Failed() {
		t.Fatalf("journaled %+v", rs)
	}
	e := rs[1]
	if e.Patient != "P-1" || e.Device != "D-1" || e.Has != 0 || e.Quality != vitals.Invalid || e.Freshness != vitals.Live || e.Extra.Fault != (vitals.DeviceFault{Class: "cuff", Code: "E2"}) {
		t.Errorf("error %+v %+v", e, e.Extra)
	}
	if f := h.devices.Find("D-1").LastFailure(); f.At != e.TakenAt || f.Indicator != vitals.BloodPressure || f.Class != "cuff" || f.Code != "E2" {
		t.Errorf("last failure %+v", f)
	}

	// What a code means may be learnt later: what is kept as it came gives the same all the same.
	h.config.Explain = nil
	h.Pipeline = ingest.New(h.config)
	equal(t, h.reread(t), rs)
	h.send(t, "D-1", body)
	if n := h.journal.Last(); n != 2 {
		t.Errorf("%d in the journal after the class of the code was forgotten, want 2", n)
	}
}

func TestPipeline_DeviceErrorsThatAreNoNews(t *testing.T) {
	for _, c := range []struct {
		name, device, body string
		journaled          int
		fresh              vitals.Freshness
		shown              bool
	}{
		{"bound to nobody", "D-unbound", aError, 0, 0, true},
		{"late", "D-1", `{"indicator":"blood_pressure","taken_at":"2026-11-21T05:58:00Z","error":"E2"}`, 1, vitals.Late, true},
		{"history", "D-1", `{"indicator":"blood_pressure","taken_at":"2026-10-21T05:58:00Z","error":"E2"}`, 1, vitals.Backfill, true},
		{"ahead", "D-1", `{"indicator":"blood_pressure","taken_at":"2026-11-21T09:58:00Z","error":"E2"}`, 0, 0, false},
		{"disabled", "D-off", aError, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, false)
			if res := h.send(t, vitals.DeviceID(c.device), c.body); res.Quarantined != 1 || res.Accepted+res.Duplicate != 0 ||
				res.Problems[0].Code != payload.StatusInvalid && c.device != "D-off" {
				t.Fatalf("%+v", res)
			}
			rs := h.journaled(t)
			if len(rs) != c.journaled || len(rs) > 0 && rs[0].Freshness != c.fresh {
				t.Errorf("journaled %+v", rs)
			}
			if f := h.devices.Find(vitals.DeviceID(c.device)).LastFailure(); (f != devices.Failure{}) != c.shown {
				t.Errorf("shown with the device: %+v", f)
			}
		})
	}
}

// TestPipeline_AReplayedDeviceErrorIsNeverLive: its device was bound to nobody when it came.
func TestPipeline_AReplayedDeviceErrorIsNeverLive(t *testing.T) {
	h := newHouse(t, false)
	h.send(t, "D-unbound", aError)
	if err := h.devices.Bind(t.Context(), "D-unbound", 0, "P-1", 0); err != nil {
		t.Fatal(err)
	}
	qs, _, err := h.journal.Quarantine(t.Context(), 10, 0)
	if err != nil || len(qs) != 1 {
		t.Fatalf("%d, %v", len(qs), err)
	}
	for range 2 {
		if res, err := h.Replay(t.Context(), qs[0].ID); err != nil || res.Quarantined != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if rs := h.journaled(t); len(rs) != 1 || rs[0].Freshness == vitals.Live {
		t.Errorf("journaled %+v", rs)
	}
	if ws, _, err := h.Waiting(t.Context(), h.journal.Quarantine); err != nil || len(ws) != 0 {
		t.Errorf("it waits for an owner: %+v, %v", ws, err)
	}
}

// took is a sink that keeps what it got.
type took struct {
	rs   []vitals.Reading
	last uint64
	done chan struct{}
	stop uint64
}

func (s *took) Handle(_ context.Context, rs []vitals.Reading, last uint64) error {
	s.rs = append(s.rs, rs...)
	if s.last = last; last == s.stop {
		close(s.done)
	}
	return nil
}
func (s *took) Cursor() uint64  { return s.last }
func (s *took) Durable() uint64 { return s.last }

type tookAll struct{ took }

func (s *tookAll) TakesFailures() {}

func TestConsumer_OnlyWhoAsksGetsDeviceErrors(t *testing.T) {
	h := newHouse(t, false)
	h.send(t, "D-1", aReading)
	h.send(t, "D-1", aError)
	all := h.journaled(t)
	for _, s := range []struct {
		sink ingest.Sink
		got  *took
		want []vitals.Reading
	}{
		{nil, &took{}, vitals.Measured(all)},
		{nil, nil, all},
	} {
		if s.got == nil {
			x := &tookAll{}
			s.sink, s.got = x, &x.took
		} else {
			s.sink = s.got
		}
		s.got.done, s.got.stop = make(chan struct{}), 2
		reg := prometheus.NewRegistry()
		m := ingest.NewMetrics(reg)
		c := ingest.NewConsumer("test", h.journal, s.sink, m, m.Evaluated(), zerolog.Nop())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		<-s.got.done
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(s.got.rs, s.want, func(a, b vitals.Reading) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("got %+v, want %+v", s.got.rs, s.want)
		}
		if n := gathered(t, reg, "vitalwatch_readings_evaluated_total"); n != 1 {
			t.Errorf("%v readings counted, want 1: a device error is none", n)
		}
	}
}
