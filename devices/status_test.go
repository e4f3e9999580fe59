package devices_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vitalwatch/devices"
	"vitalwatch/vitals"
)

func TestParseStatus(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     devices.Status
		ok       bool
	}{
		{"all", `{"state":"online","battery":87,"firmware":"1.2"}`, devices.Status{State: "online", Battery: 87, Firmware: "1.2"}, true},
		{"the will", `{"state":"lost"}`, devices.Status{State: "lost", Battery: -1}, true},
		{"sleeping, flat battery", `{"state":"sleeping","battery":0}`, devices.Status{State: "sleeping", Battery: 0}, true},
		{"null is not said", `{"state":"online","battery":null,"firmware":null}`, devices.Status{State: "online", Battery: -1}, true},
		{"more than we know", ` {"state":"online","rssi":-60,"net":{"ip":"x"}} `, devices.Status{State: "online", Battery: -1}, true},
		{"nothing", ``, devices.Status{}, false},
		{"no state", `{"battery":87}`, devices.Status{}, false},
		{"other state", `{"state":"Online"}`, devices.Status{}, false},
		{"other case of the name", `{"State":"online"}`, devices.Status{}, false},
		{"state of another type", `{"state":1}`, devices.Status{}, false},
		{"twice", `{"state":"online","state":"lost"}`, devices.Status{}, false},
		{"battery over", `{"state":"online","battery":101}`, devices.Status{}, false},
		{"battery negative", `{"state":"online","battery":-1}`, devices.Status{}, false},
		{"battery text", `{"state":"online","battery":"87"}`, devices.Status{}, false},
		{"battery fraction", `{"state":"online","battery":87.5}`, devices.Status{}, false},
		{"battery absurd", `{"state":"online","battery":1e400}`, devices.Status{}, false},
		{"firmware long", `{"state":"online","firmware":"` + strings.Repeat("x", 101) + `"}`, devices.Status{}, false},
		{"firmware with a line", `{"state":"online","firmware":"1\n2"}`, devices.Status{}, false},
		{"array", `[{"state":"online"}]`, devices.Status{}, false},
		{"two values", `{"state":"online"}{}`, devices.Status{}, false},
		{"cut", `{"state":"online"`, devices.Status{}, false},
		{"too large", `{"state":"online","x":"` + strings.Repeat("x", 5000) + `"}`, devices.Status{}, false},
		{"nested deep", strings.Repeat(`{"state":`, 700), devices.Status{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := devices.ParseStatus([]byte(c.in))
			if (err == nil) != c.ok || err != nil && !errors.Is(err, devices.ErrStatusInvalid) {
				t.Fatalf("error = %v, want ok %v", err, c.ok)
			}
			if c.ok && got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func FuzzParseStatus(f *testing.F) {
	for _, s := range []string{`{"state":"online","battery":87,"firmware":"1.2"}`, `{"state":"lost"}`, `{"state":"online","x":[{}]}`, `{`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := devices.ParseStatus(b)
		if err != nil {
			if !errors.Is(err, devices.ErrStatusInvalid) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if s.Battery < -1 || s.Battery > 100 || len(s.Firmware) > 300 {
			t.Fatalf("out of bounds: %+v", s)
		}
		if again, err := devices.ParseStatus(s.Encode()); err != nil || again != s {
			t.Fatalf("%+v encodes to %s, which reads as %+v, %v", s, s.Encode(), again, err)
		}
	})
}

func TestRegistry_StatusKeepsWhatTheNextDoesNotSay(t *testing.T) {
	h := fresh(t)
	d, _ := h.add(t, devices.New{ID: "cuff"})
	if s := d.Status(); s.State != "" || s.Battery != -1 {
		t.Errorf("before any: %+v", s)
	}
	must(t, h.Status(t.Context(), "cuff", []byte(`{"state":"online","battery":87,"firmware":"1.2"}`), start))
	must(t, h.Status(t.Context(), "cuff", []byte(`{"state":"lost"}`), start+vitals.Hour))
	if s := d.Status(); s != (devices.Status{State: "lost", At: start + vitals.Hour, Battery: 87, Firmware: "1.2"}) {
		t.Errorf("after the will: %+v", s)
	}
	if seen := d.Device().LastSeen; seen != start {
		t.Errorf("last seen moved by %v: a will is not the device speaking", (seen - start).Time())
	}
	must(t, h.Status(t.Context(), "cuff", []byte(`{"state":"lost"}`), 0))
	if s := d.Status(); s.At != start+vitals.Hour || d.Device().LastSeen != start {
		t.Errorf("a retained copy changed the times: %+v", s)
	}
	if err := h.Status(t.Context(), "cuff", []byte(`{}`), start); !errors.Is(err, devices.ErrStatusInvalid) || d.Status().State != "lost" {
		t.Errorf("invalid status: %v, now %+v", err, d.Status())
	}
	if err := h.Status(t.Context(), "none", []byte(`{"state":"online"}`), start); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown device: %v", err)
	}
}

// Status reaches the tables by Run alone, in time and at the end, and last seen not for every message.
func TestRegistry_RunWritesStatus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	synctest.Test(t, func(t *testing.T) {
		h := open(t, path)
		h.now = vitals.At(time.Now())
		d, _ := h.add(t, devices.New{ID: "cuff"})
		stored := func() devices.Device {
			t.Helper()
			synctest.Wait()
			return open(t, path).Find("cuff").Device()
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx, func(err error) { t.Errorf("reported: %v", err) }) }()
		must(t, h.Status(ctx, "cuff", []byte(`{"state":"online","battery":50}`), h.now))
		if got := stored(); got.Status.State != "" {
			t.Fatal("written with the message, not in batches")
		}
		time.Sleep(10 * time.Second) // the bubble's clock
		if got := stored(); got.Status.Battery != 50 || got.LastSeen != h.now {
			t.Errorf("after ten seconds: %+v", got)
		}
		d.Seen(h.now + 20*vitals.Second)
		time.Sleep(10 * time.Second)
		if got := stored(); got.LastSeen != h.now {
			t.Error("20 s of last seen were worth a write")
		}
		d.Seen(h.now + 70*vitals.Second)
		time.Sleep(10 * time.Second)
		if got := stored(); got.LastSeen != h.now+70*vitals.Second {
			t.Errorf("after more than a minute: last seen %v", got.LastSeen.Time())
		}
		d.Seen(h.now + 75*vitals.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := stored(); got.LastSeen != h.now+75*vitals.Second {
			t.Errorf("after the end: last seen %v", got.LastSeen.Time())
		}
	})
}
