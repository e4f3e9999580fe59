package ingest_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/ingest"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// keeping is a house whose journal keeps messages.
func keeping(t *testing.T) *house {
	t.Helper()
	h := newHouse(t, false)
	j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: today, Evidence: journal.EvidenceOptions{Keep: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	h.journal, h.config.Journal, h.config.Evidence = j, j, true
	h.Pipeline = ingest.New(h.config)
	return h
}

// journaled reads everything back.
func (h *house) journaled(t testing.TB) (rs []vitals.Reading) {
	t.Helper()
	for last := h.journal.Last(); uint64(len(rs)) < last; {
		b, err := h.journal.Next(t.Context(), uint64(len(rs)))
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, b.Readings...)
	}
	return rs
}

func (h *house) reread(t testing.TB) (rs []vitals.Reading) {
	t.Helper()
	err := h.journal.Evidence(t.Context(), 0, func(e *evidence.Entry) (err error) {
		rs, err = ingest.Reread(e, rs)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func equal(t testing.TB, got, want []vitals.Reading) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d readings, want %d", len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("reading %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

// TestReread_gives_what_was_journaled whatever has changed since: bindings, the zone of the device, the time of a
// replay.
func TestReread_gives_what_was_journaled(t *testing.T) {
	h := keeping(t)
	ctx := t.Context()
	for _, p := range []vitals.PatientID{"P-2", "P-3"} {
		if _, err := h.people.Add(ctx, care.Patient{ID: p}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := h.devices.Add(ctx, devices.New{ID: "two", Patient: "P-2", Slot: 1, TZ: "Asia/Shanghai"}); err != nil {
		t.Fatal(err)
	}
	h.now = time.Now().UTC().Truncate(time.Millisecond) // a new binding begins now
	if err := h.devices.Bind(ctx, "two", 2, "P-3", vitals.At(h.now.Add(-24*time.Hour))); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		var items []string
		for range rapid.IntRange(1, 6).Draw(rt, "items") {
			items = append(items, fmt.Sprintf(`{"indicator":"weight","taken_at":%q,"value":%d,"unit":%q,"user_slot":%d}`,
				h.now.Add(-time.Duration(rapid.IntRange(-20, 3000).Draw(rt, "minutes"))*time.Minute).Format(time.RFC3339), rapid.IntRange(40, 44).Draw(rt, "kg"),
				rapid.SampledFrom([]string{"kg", "kg", "kg", "lb", "bogus"}).Draw(rt, "unit"), rapid.IntRange(1, 3).Draw(rt, "slot")))
		}
		h.send(t, "two", "["+strings.Join(items, ",")+"]")
		h.now = h.now.Add(time.Second)
	})
	// What had a clock ahead is history by now.
	h.now = h.now.Add(time.Hour)
	refused, _, err := h.journal.Quarantine(ctx, 1000, 0)
	if err != nil || len(refused) == 0 {
		t.Fatalf("%d refused, %v", len(refused), err)
	}
	before := h.journal.Last()
	for _, q := range refused {
		if _, err := h.Replay(ctx, q.ID); err != nil && !errors.Is(err, journal.ErrNotQuarantined) {
			t.Fatal(err)
		}
	}
	if h.journal.Last() == before {
		t.Fatal("nothing was taken in by a replay")
	}
	want := h.journaled(t)
	if err := h.devices.Unbind(ctx, "two", 1, vitals.At(time.Now())); err != nil { // what is so now does not matter
		t.Fatal(err)
	}
	equal(t, h.reread(t), want)

	// One of the two is erased: the other's readings are as before, in their own or in cut messages.
	var mine, others []vitals.Reading
	for _, r := range want {
		if r.Patient == "P-2" {
			mine = append(mine, r)
		} else {
			others = append(others, r)
		}
	}
	if len(mine) == 0 || len(others) == 0 {
		t.Fatalf("%d and %d readings", len(mine), len(others))
	}
	for round, expect := range [][]vitals.Reading{mine, nil} { // it may be repeated
		var found []vitals.Reading
		cut := 0
		err := h.journal.RewriteEvidence(ctx, func(e *evidence.Entry) (bool, error) {
			rs, changed, err := ingest.EraseFrom(e, "P-2")
			found = append(found, rs...)
			if changed && e.Kind == evidence.Cut {
				cut++
			}
			return changed, err
		})
		if err != nil {
			t.Fatal(err)
		}
		if equal(t, found, expect); round == 0 && cut == 0 {
			t.Error("no message held readings of both")
		}
		equal(t, h.reread(t), others)
	}
}

// TestEvidence_of_many_senders: messages find their readings whatever they were committed with.
func TestEvidence_of_many_senders(t *testing.T) {
	h := newHouse(t, true)
	j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: today, Evidence: journal.EvidenceOptions{Keep: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	h.journal, h.config.Journal, h.config.Evidence = j, j, true
	h.Pipeline = ingest.New(h.config)
	var wg sync.WaitGroup
	for d := range 16 {
		wg.Go(func() {
			b := h.NewBatch()
			for i := range 60 {
				for k := range 1 + i%4 {
					at := h.now.Add(-time.Duration(d*10_000+i*10+k) * time.Second)
					b.Add(ingest.Message{Device: vitals.DeviceID(fmt.Sprint("d", d)), Format: "readings", Source: "mqtt", ReceivedAt: vitals.At(h.now),
						Payload: fmt.Appendf(nil, `{"indicator":"heart_rate","taken_at":%q,"value":%d,"unit":"/min"}`, at.Format(time.RFC3339), 50+i)})
				}
				if _, err := b.Commit(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	equal(t, h.reread(t), h.journaled(t))
}
