package journal_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// cuff is a measurement as some format of one device gives it.
func cuff(device string, at vitals.Micros, systolic, pulse float64) vitals.Reading {
	r := vitals.Reading{Patient: "P", Device: vitals.DeviceID(device), TakenAt: at, ReceivedAt: at + vitals.Second, DeviceSeq: -1,
		OffsetMin: vitals.NoOffset, Indicator: vitals.BloodPressure, Unit: vitals.MmHg}
	r.Set(vitals.Systolic, systolic)
	r.Set(vitals.Diastolic, 80)
	if pulse != 0 {
		r.Set(vitals.Pulse, pulse)
	}
	return r
}

// sameMeasurement is the rule, said slowly: same values but for the pulse, at the same instant.
func sameMeasurement(a, b *vitals.Reading) bool {
	return a.Device == b.Device && a.V[0] == b.V[0] && a.TakenAt == b.TakenAt
}

func TestJournal_one_measurement_by_several_formats_is_one_reading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := vfs.NewMem()
		j, err := journal.Open("j", options(mem))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { j.Close() }()
		var accepted []vitals.Reading
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var g journal.Group
				for range rapid.IntRange(1, 8).Draw(t, "n") {
					at := vitals.Micros(1_700_000_000_000_000 + rapid.Int64Range(0, 5).Draw(t, "s")*1_000_000 +
						rapid.SampledFrom([]int64{0, 0, 1, 250_000, 999_999}).Draw(t, "part"))
					g.Readings = append(g.Readings, cuff(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "device"), at,
						float64(rapid.IntRange(120, 121).Draw(t, "systolic")), float64(rapid.SampledFrom([]int{0, 60, 61}).Draw(t, "pulse"))))
				}
				if err := j.Append(context.Background(), &g); err != nil {
					t.Fatal(err)
				}
				for i := range g.Readings {
					want := journal.New
					for k := range accepted {
						if sameMeasurement(&accepted[k], &g.Readings[i]) {
							want = journal.Duplicate
						}
					}
					if g.Verdicts[i] != want {
						t.Fatalf("reading at %d: got %v, want %v", g.Readings[i].TakenAt, g.Verdicts[i], want)
					}
					if want == journal.New {
						accepted = append(accepted, g.Readings[i])
					}
				}
			},
			"seal": func(t *rapid.T) {
				if _, err := j.Seal(context.Background()); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				if j, err = journal.Open("j", options(mem)); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func TestJournal_a_replacing_group(t *testing.T) {
	j, err := journal.Open("j", options(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	at := vitals.Micros(1_700_000_000_000_000)
	append1 := func(replace bool, rs ...vitals.Reading) string {
		t.Helper()
		g := journal.Group{Readings: rs, Replace: replace}
		if err := j.Append(t.Context(), &g); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(g.Verdicts)
	}
	wrong, right := cuff("a", at, 190, 60), cuff("a", at, 130, 60)
	wrong.Extra, right.Extra = &vitals.Extra{DeviceReadingID: "1"}, &vitals.Extra{DeviceReadingID: "1"}
	mark := wrong
	mark.Extra = &vitals.Extra{DeviceReadingID: "1", Revision: `{"superseded_by":"x"}`}
	mark.Flags, mark.Quality = vitals.Superseded, vitals.Invalid
	for i, c := range []struct {
		replace bool
		rs      []vitals.Reading
		want    string
		stands  *vitals.Reading
	}{
		{false, []vitals.Reading{wrong}, fmt.Sprint([]journal.Verdict{journal.New}), &wrong},
		{false, []vitals.Reading{right}, fmt.Sprint([]journal.Verdict{journal.Conflict}), &wrong},
		{true, []vitals.Reading{mark, right}, fmt.Sprint([]journal.Verdict{journal.New, journal.New}), &right},
		{false, []vitals.Reading{wrong, right}, fmt.Sprint([]journal.Verdict{journal.Duplicate, journal.Duplicate}), &right},
	} {
		if got := append1(c.replace, c.rs...); got != c.want {
			t.Errorf("step %d: got %s, want %s", i, got, c.want)
		}
		if p, ok, err := j.FindID("a", "1"); !ok || err != nil || !p.Is(c.stands) {
			t.Errorf("step %d: the id stands for %+v, %v, %v", i, p, ok, err)
		}
	}
	if _, ok, err := j.FindID("b", "1"); ok || err != nil {
		t.Errorf("another device's id: %v, %v", ok, err)
	}
}
