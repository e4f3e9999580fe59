package main

import (
	"context"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"vitalwatch/ingest/journal"
	"vitalwatch/storage/embedded"
	"vitalwatch/vitals"
)

func historyReading(seq uint64, p vitals.PatientID, ind vitals.Indicator, at int) vitals.Reading {
	r := vitals.Reading{Seq: seq, Patient: p, Device: "d-" + vitals.DeviceID(p), Indicator: ind, Unit: ind.Units()[0], TakenAt: 1795300000000000 + vitals.Micros(at)*vitals.Minute,
		ReceivedAt: 1795300000000000 + vitals.Micros(seq)*vitals.Second, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	r.Set(ind.Components()[0], float64(seq))
	return r
}

// A store that is behind, by whatever it is, gives the engine the same history as one that is level.
func TestHistory_store_is_behind(t *testing.T) {
	j, err := journal.Open("journal", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Consumers: []string{"store"}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	store, err := embedded.Open("readings", embedded.Options{FS: vfs.NewMem(), FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	a := &App{journal: j, store: store}
	patients := []vitals.PatientID{"a", "b", "ab"}
	inds := []vitals.Indicator{vitals.Weight, vitals.HeartRate}
	var all []vitals.Reading
	for n := range 400 {
		g := journal.Group{Readings: []vitals.Reading{historyReading(0, patients[n%3], inds[n/3%2], n*7%400)}}
		g.Readings[0].V[0] = float64(n)
		if err := j.Append(t.Context(), &g); err != nil {
			t.Fatal(err)
		}
		all = append(all, g.Readings...)
	}
	written := 0
	step := func(upTo int) {
		if err := store.Write(t.Context(), all[written:upTo], uint64(upTo)); err != nil {
			t.Fatal(err)
		}
		written = upTo
	}
	for _, c := range []struct {
		upTo int
		seq  uint64
	}{{0, 1}, {1, 151}, {150, 151}, {150, 400}, {399, 400}, {400, 151}, {400, 400}} {
		step(c.upTo)
		upTo, seq := c.upTo, c.seq
		{
			for _, p := range patients {
				for _, i := range inds {
					from := all[0].TakenAt + 100*vitals.Minute
					var want []vitals.Reading
					for _, r := range all {
						if r.Patient == p && r.Indicator == i && r.TakenAt >= from && r.Seq <= seq {
							want = append(want, r)
						}
					}
					got, err := a.history(t.Context(), p, i, from, seq, nil)
					if err != nil {
						t.Fatal(err)
					}
					slices.SortFunc(got, func(x, y vitals.Reading) int { return int(x.Seq) - int(y.Seq) })
					if !slices.Equal(got, want) {
						t.Fatalf("store at %d, asked up to %d: %s of %s: got %d readings, want %d", upTo, seq, i, p, len(got), len(want))
					}
				}
			}
		}
	}
	if a.behind.of != nil {
		t.Error("memory is not freed when the store is level")
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// fakeBlocks is a journal of dense readings that gives a few at once.
type fakeBlocks struct {
	rs   []vitals.Reading
	size int
}

func (f *fakeBlocks) Next(_ context.Context, after uint64) (journal.Block, error) {
	return journal.Block{First: after + 1, Readings: f.rs[after:min(len(f.rs), int(after)+f.size)]}, nil
}

func TestBehind_like_the_journal(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := &fakeBlocks{size: rapid.IntRange(1, 7).Draw(rt, "block")}
		for n := range rapid.IntRange(1, 40).Draw(rt, "readings") {
			f.rs = append(f.rs, historyReading(uint64(n+1), rapid.SampledFrom([]vitals.PatientID{"a", "b"}).Draw(rt, "patient"), vitals.Weight, n))
		}
		var b behind
		after, upTo := uint64(0), uint64(0)
		for range 10 {
			if rapid.IntRange(0, 4).Draw(rt, "forget") == 0 {
				b.forget()
			}
			after = rapid.Uint64Range(0, uint64(len(f.rs))).Draw(rt, "after")
			upTo = rapid.Uint64Range(after, uint64(len(f.rs))).Draw(rt, "up to")
			p := rapid.SampledFrom([]vitals.PatientID{"a", "b", "nobody"}).Draw(rt, "who")
			got, err := b.readings(t.Context(), f, p, after, upTo)
			if err != nil {
				rt.Fatal(err)
			}
			var want []vitals.Reading
			for _, r := range f.rs {
				if r.Patient == p && r.Seq > after && r.Seq <= upTo {
					want = append(want, r)
				}
			}
			if !slices.Equal(got, want) {
				rt.Fatalf("after %d up to %d of %s: got %d, want %d", after, upTo, p, len(got), len(want))
			}
		}
	})
}
