package ingest_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"vitalwatch/devices"
	"vitalwatch/ingest"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// measure sends one reading of a device whose clock shows the true time plus off, and returns it as it was journaled;
// nil when it was refused.
func (h *house) measure(t testing.TB, off time.Duration, bpm int) *vitals.Reading {
	t.Helper()
	body := fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%q,"value":%d,"unit":"/min"}`, h.now.Add(off).Format(time.RFC3339), bpm)
	before := h.journal.Last()
	if h.post(t, "readings", body) != "A" {
		return nil
	}
	b, err := h.journal.Next(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	return &b.Readings[0]
}

func TestClock(t *testing.T) {
	min, hour := time.Minute, time.Hour
	type step struct {
		wait, off time.Duration // before it, and what the device's clock shows ahead of the truth
		want      string        // freshness, and ! when it was corrected; "" when it was refused
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"a right clock", []step{{0, 0, "live"}, {30 * min, -min, "live"}, {30 * min, 2 * min, "live"}, {30 * min, -14 * min, "live"}}},
		{"eight hours behind", []step{{0, -8 * hour, "late"}, {30 * min, -8*hour + 40*time.Second, "doubtful"}, {3 * hour, -8 * hour, "live!"}, {11 * min, -8*hour - 20*time.Second, "live!"}}},
		{"the year 2000", []step{{0, -26 * 365 * 24 * hour, "backfill"}, {30 * min, -26 * 365 * 24 * hour, "doubtful"}, {30 * min, -26 * 365 * 24 * hour, "live!"}}},
		{"eight hours ahead", []step{{0, 8 * hour, ""}, {2 * min, 8 * hour, ""}, {2 * min, 8 * hour, "live!"}, {2 * min, 8 * hour, "live!"}}},
		{"ahead, each time by something else", []step{{0, 8 * hour, ""}, {2 * min, 9 * hour, ""}, {2 * min, 7 * hour, ""}, {2 * min, 8 * hour, ""}}},
		{"set right again", []step{{0, -8 * hour, "late"}, {30 * min, -8 * hour, "doubtful"}, {30 * min, -8 * hour, "live!"}, {30 * min, 0, "live"}, {30 * min, -8 * hour, "late"}}},
		{"set to another wrong time", []step{{0, -8 * hour, "late"}, {30 * min, -8 * hour, "doubtful"}, {30 * min, -8 * hour, "live!"},
			{30 * min, -3 * hour, "doubtful"}, {30 * min, -3 * hour, "doubtful"}, {30 * min, -3 * hour, "live!"}}},
		{"late readings with right times, one message each", []step{{0, -8 * hour, "late"}, {time.Second, -7 * hour, "late"}, {time.Second, -6 * hour, "late"}, {time.Second, -5 * hour, "late"}}},
		{"a burst of late readings of one minute", []step{{0, -8 * hour, "late"}, {time.Second, -8*hour + 20*time.Second, "late"}, {time.Second, -8*hour + 40*time.Second, "late"}, {time.Second, -8*hour + min, "late"}}},
		{"measured in the morning, fetched in the evening, every day", []step{{0, -10 * hour, "late"}, {24 * hour, -10 * hour, "doubtful"}, {24 * hour, -10 * hour, "doubtful"}, {24 * hour, -10 * hour, "doubtful"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, false)
			for i, s := range c.steps {
				h.now = h.now.Add(s.wait)
				r, got := h.measure(t, s.off, 60+i), ""
				if r != nil {
					if got = r.Freshness.String(); r.Extra != nil && r.Extra.Clock != "" {
						got += "!"
						if d := r.TakenAt.Time().Sub(h.now).Abs(); d > 90*time.Second {
							t.Errorf("step %d: corrected to %s from the truth", i, d)
						}
						if want := fmt.Sprintf(`{"device_taken_at":"%s","offset_s":`, h.now.Add(s.off).UTC().Format("2006-01-02T15:04:05.000Z")); r.Extra.Clock[:len(want)] != want {
							t.Errorf("step %d: trace %s, want %s…", i, r.Extra.Clock, want)
						}
					} else if r.TakenAt != vitals.At(h.now.Add(s.off)) {
						t.Errorf("step %d: the time was changed without a trace", i)
					}
				}
				if got != s.want {
					t.Errorf("step %d: got %q, want %q; clock %+v", i, got, s.want, h.devices.Find("D-1").Clock())
				}
			}
		})
	}
}

// What a device with a wrong clock sends again, alone or in a batch, gets the same time again; its messages give the same
// readings when they are read again; and readings that were refused for their time are taken in by a replay.
func TestClock_sameTimeAgain(t *testing.T) {
	h := newHouse(t, false)
	j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: today, Evidence: journal.EvidenceOptions{Keep: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	h.journal, h.config.Journal, h.config.Evidence = j, j, true
	h.Pipeline = ingest.New(h.config)
	var sent []string
	for i := range 5 {
		sent = append(sent, fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%q,"value":%d,"unit":"/min"}`, h.now.Add(8*time.Hour).Format(time.RFC3339), 60+i))
		want := "A"
		if i < 2 {
			want = "Q" // not known yet
		}
		if got := h.post(t, "readings", sent[i]); got != want {
			t.Fatalf("reading %d: got %s, want %s", i, got, want)
		}
		h.now = h.now.Add(30 * time.Minute)
	}
	items, _, err := j.Quarantine(t.Context(), 10, 0)
	if err != nil || len(items) != 2 {
		t.Fatal(items, err)
	}
	for _, it := range items {
		if r, err := h.Replay(t.Context(), it.ID); err != nil || r.Accepted != 1 {
			t.Errorf("replay: %+v, %v", r, err)
		}
	}
	if got := h.post(t, "readings", "["+sent[0]+","+sent[2]+","+sent[4]+"]"); got != "DDD" {
		t.Errorf("sent again in a batch: %s, want duplicates", got)
	}
	if got := h.post(t, "readings", sent[3]); got != "D" {
		t.Errorf("sent again: %s, want a duplicate", got)
	}
	want, err := j.Next(t.Context(), 0)
	if err != nil || len(want.Readings) != 5 {
		t.Fatal(len(want.Readings), err)
	}
	var got []vitals.Reading
	if err := j.Evidence(t.Context(), 0, func(e *evidence.Entry) (err error) { got, err = ingest.Reread(e, got); return err }); err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if !bytes.Equal(vitals.AppendReading(nil, &got[i]), vitals.AppendReading(nil, &want.Readings[i])) {
			t.Errorf("reading %d: read again %+v, journaled %+v", i, got[i], want.Readings[i])
		}
	}
}

// Device local time: the hour that comes twice is told apart where it can be, the hour that is missing is not lost, and
// a device that moves to another zone keeps its history.
func TestClock_localTimes(t *testing.T) {
	h := newHouse(t, false)
	zone := func(tz string) {
		t.Helper()
		if err := h.devices.Set(t.Context(), "D-1", devices.Change{TZ: &tz}); err != nil {
			t.Fatal(err)
		}
	}
	// 2A9D with a time: 70 kg and a bit more each time.
	weigh := func(want string, n, month, day, hour, minute byte) vitals.Micros {
		t.Helper()
		before := h.journal.Last()
		if got := h.post(t, "gatt/2A9D", string([]byte{2, 0xb0 + n, 0x36, 0xea, 0x07, month, day, hour, minute, 0})); got != want {
			t.Fatalf("%d-%d %d:%d: got %s, want %s", month, day, hour, minute, got, want)
		}
		if want != "A" {
			return 0
		}
		b, err := h.journal.Next(t.Context(), before)
		if err != nil {
			t.Fatal(err)
		}
		return b.Readings[0].TakenAt
	}
	zone("Europe/Berlin")
	at := func(s string) vitals.Micros {
		x, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return vitals.At(x)
	}
	if got := weigh("A", 1, 10, 25, 1, 30); got != at("2026-10-24T23:30:00Z") {
		t.Errorf("before the clocks go back: %s", got.Time())
	}
	twice := weigh("A", 2, 10, 25, 2, 30)
	if twice != at("2026-10-25T00:30:00Z") && twice != at("2026-10-25T01:30:00Z") {
		t.Errorf("in the hour that comes twice: %s", twice.Time())
	}
	if got := weigh("A", 3, 10, 25, 3, 30); got != at("2026-10-25T02:30:00Z") {
		t.Errorf("after it: %s", got.Time())
	}
	if got := weigh("A", 4, 3, 29, 2, 30); got != at("2026-03-29T00:30:00Z") && got != at("2026-03-29T01:30:00Z") {
		t.Errorf("in the hour that is missing: %s", got.Time())
	}
	h.now = h.now.Add(90 * 24 * time.Hour) // it is sent again in another season
	weigh("D", 1, 10, 25, 1, 30)
	weigh("D", 2, 10, 25, 2, 30)
	weigh("D", 3, 10, 25, 3, 30)
	weigh("D", 4, 3, 29, 2, 30)
}
