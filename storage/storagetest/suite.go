// Package storagetest is the conformance suite of storage.Readings: what it tests is what a back end must do. It also
// has Memory, a store that behaves, for tests of other packages. It is imported by tests only.
package storagetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

const base = vitals.Micros(1795300000000000)

// build is a reading: v in the indicator's first unit, at seconds after base.
func build(seq uint64, p vitals.PatientID, d vitals.DeviceID, ind vitals.Indicator, at int, v float64) vitals.Reading {
	t := base + vitals.Micros(at)*vitals.Second
	r := vitals.Reading{Seq: seq, Patient: p, Device: d, TakenAt: t, ReceivedAt: base + vitals.Micros(seq), DeviceSeq: -1,
		OffsetMin: vitals.NoOffset, Indicator: ind, Unit: ind.Units()[0]}
	for _, c := range ind.Components() {
		r.Set(c, v)
	}
	return r
}

func collect(t testing.TB, s iter.Seq2[vitals.Reading, error]) []vitals.Reading {
	t.Helper()
	var out []vitals.Reading
	for r, err := range s {
		if err != nil {
			t.Fatalf("range: %v", err)
		}
		out = append(out, r)
	}
	return out
}

func same(a, b []vitals.Reading) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if fmt.Sprintf("%+v", plain(a[i])) != fmt.Sprintf("%+v", plain(b[i])) || (a[i].Extra == nil) != (b[i].Extra == nil) ||
			a[i].Extra != nil && *a[i].Extra != *b[i].Extra {
			return false
		}
	}
	return true
}

func plain(r vitals.Reading) vitals.Reading { r.Extra = nil; return r }

func brief(rs []vitals.Reading) string {
	s := fmt.Sprintf("%d:", len(rs))
	for _, r := range rs {
		s += fmt.Sprintf(" %s/%s@%d#%d", r.Patient, r.Indicator, (r.TakenAt-base)/vitals.Second, r.Seq)
	}
	return s
}

func expect(t testing.TB, what string, got, want []vitals.Reading) {
	t.Helper()
	if !same(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, brief(got), brief(want))
	}
}

func write(t testing.TB, s storage.Readings, cursor uint64, rs ...vitals.Reading) {
	t.Helper()
	if err := s.Write(context.Background(), rs, cursor); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// Run tests one implementation. open returns an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) storage.Readings) {
	ctx := context.Background()
	with := func(name string, f func(t *testing.T, s storage.Readings)) {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			f(t, s)
			// Closing bounds its wait for the disk, which a busy machine may exceed.
			if err := s.Flush(ctx); err != nil {
				t.Errorf("flush: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	hr := vitals.HeartRate

	with("empty", func(t *testing.T, s storage.Readings) {
		expect(t, "range", collect(t, s.Range(ctx, storage.Query{Patient: "p"})), nil)
		expect(t, "newest", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, Newest: true, Limit: 3})), nil)
		if rs, err := s.Latest(ctx, "p"); err != nil || len(rs) != 0 {
			t.Errorf("latest: got %v, %v", rs, err)
		}
		if err := s.DeletePatient(ctx, "p"); err != nil {
			t.Errorf("delete: %v", err)
		}
		if s.Cursor() != 0 || s.Durable() != 0 {
			t.Errorf("got cursor %d, durable %d, want 0", s.Cursor(), s.Durable())
		}
	})

	with("gives back every field", func(t *testing.T, s storage.Readings) {
		r := build(1, "p", "d", vitals.BloodPressure, 0, 120)
		r.DeviceSeq, r.OffsetMin, r.Flags, r.Freshness, r.Quality = 17, 480, vitals.IrregularPulse|vitals.FromMemory, vitals.Backfill, vitals.Suspect
		r.Meal, r.Activity, r.UserSlot = vitals.Bedtime, vitals.Resting, 2
		r.V[2] = 1.0 / 3
		r.Extra = &vitals.Extra{DeviceReadingID: "x", Context: `{"posture":"sitting"}`, Aside: `{"fw":1}`, OtherFlags: "a,b"}
		write(t, s, 1, r)
		expect(t, "range", collect(t, s.Range(ctx, storage.Query{Patient: "p"})), []vitals.Reading{r})
	})

	with("orders by time and keeps late data in place", func(t *testing.T, s storage.Readings) {
		a, b, c := build(1, "p", "d", hr, 100, 70), build(2, "p", "d", hr, 300, 71), build(3, "p", "d", hr, 200, 72)
		write(t, s, 2, a, b)
		write(t, s, 3, c)
		expect(t, "range", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr})), []vitals.Reading{a, c, b})
	})

	with("bounds are half open", func(t *testing.T, s storage.Readings) {
		var rs []vitals.Reading
		for i := range 5 {
			rs = append(rs, build(uint64(i+1), "p", "d", hr, i, 70))
		}
		write(t, s, 5, rs...)
		q := storage.Query{Patient: "p", Indicator: hr, From: rs[1].TakenAt, To: rs[3].TakenAt}
		expect(t, "range", collect(t, s.Range(ctx, q)), rs[1:3])
		q.To = q.From
		expect(t, "empty interval", collect(t, s.Range(ctx, q)), nil)
		q.To = q.From - 1
		expect(t, "upside down", collect(t, s.Range(ctx, q)), nil)
	})

	with("a reading written again changes nothing", func(t *testing.T, s storage.Readings) {
		a, b := build(1, "p", "d", hr, 1, 70), build(2, "p", "d", hr, 2, 71)
		write(t, s, 2, a, b, a)
		write(t, s, 2, a, b)
		expect(t, "range", collect(t, s.Range(ctx, storage.Query{Patient: "p"})), []vitals.Reading{a, b})
		if s.Cursor() != 2 {
			t.Errorf("got cursor %d, want 2", s.Cursor())
		}
	})

	with("one instant, several readings, by sequence", func(t *testing.T, s storage.Readings) {
		var rs []vitals.Reading
		for i := range 20 {
			rs = append(rs, build(uint64(i+1), "p", "d", hr, 0, float64(60+i*7%20)))
		}
		rs = append(rs, build(21, "p", "other", hr, 0, rs[0].V[0])) // the same value from another device
		write(t, s, 21, rs...)
		expect(t, "all", collect(t, s.Range(ctx, storage.Query{Patient: "p"})), rs)
		expect(t, "newest", collect(t, s.Range(ctx, storage.Query{Patient: "p", Newest: true, Limit: 4})), rs[17:])
		latest, err := s.Latest(ctx, "p")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "latest", latest, rs[20:])
	})

	with("negative and old times", func(t *testing.T, s storage.Readings) {
		at := func(seq uint64, m vitals.Micros) vitals.Reading {
			r := build(seq, "p", "d", hr, 0, 70)
			r.TakenAt = m
			return r
		}
		rs := []vitals.Reading{at(1, -5e15), at(2, -1), at(3, 1), at(4, base), at(5, 1<<61)}
		write(t, s, 5, rs[3], rs[0], rs[4], rs[2], rs[1])
		expect(t, "all", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr})), rs)
		expect(t, "before 1970", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, From: -2, To: 1})), rs[1:2])
		expect(t, "no lower bound", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, To: base})), rs[:3])
	})

	with("MaxSeq leaves out what came later", func(t *testing.T, s storage.Readings) {
		a, b, c := build(1, "p", "d", hr, 3, 70), build(2, "p", "d", hr, 1, 71), build(3, "p", "d", hr, 2, 72)
		write(t, s, 3, a, b, c)
		expect(t, "range", collect(t, s.Range(ctx, storage.Query{Patient: "p", MaxSeq: 2})), []vitals.Reading{b, a})
		expect(t, "newest", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, MaxSeq: 2, Newest: true, Limit: 1})), []vitals.Reading{a})
		expect(t, "limit", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, MaxSeq: 1, Limit: 2})), []vitals.Reading{a})
	})

	with("limit and newest", func(t *testing.T, s storage.Readings) {
		var rs []vitals.Reading
		for i := range 10 {
			rs = append(rs, build(uint64(i+1), "p", "d", hr, i, 70))
		}
		write(t, s, 10, rs...)
		expect(t, "first", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, Limit: 3})), rs[:3])
		expect(t, "last", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, Limit: 3, Newest: true})), rs[7:])
		expect(t, "more than there are", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, Limit: 30, Newest: true})), rs)
		q := storage.Query{Patient: "p", Indicator: hr, Limit: 3, Newest: true, To: rs[5].TakenAt}
		expect(t, "last before", collect(t, s.Range(ctx, q)), rs[2:5])
	})

	with("several indicators one after the other", func(t *testing.T, s storage.Readings) {
		bp, g, h := build(1, "p", "d", vitals.BloodPressure, 9, 120), build(2, "p", "d", vitals.Glucose, 5, 6), build(3, "p", "d", hr, 1, 70)
		write(t, s, 3, h, g, bp)
		all := []vitals.Reading{bp, g, h}
		expect(t, "all", collect(t, s.Range(ctx, storage.Query{Patient: "p"})), all)
		expect(t, "one", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: vitals.Glucose})), all[1:2])
		expect(t, "from", collect(t, s.Range(ctx, storage.Query{Patient: "p", From: g.TakenAt})), all[:2])
		expect(t, "newest", collect(t, s.Range(ctx, storage.Query{Patient: "p", Newest: true, Limit: 2})), all[1:])
		latest, err := s.Latest(ctx, "p")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "latest", latest, all)
	})

	with("patients whose ids are prefixes of each other", func(t *testing.T, s storage.Readings) {
		ids := []vitals.PatientID{"p", "p-", "p-1", "p-10", "p-100", "pp", "P", "p1", "p_", "o"}
		var seq uint64
		want := map[vitals.PatientID][]vitals.Reading{}
		for _, id := range ids {
			for i := range 3 {
				seq++
				r := build(seq, id, "d", hr, i, 70)
				want[id] = append(want[id], r)
				write(t, s, seq, r)
			}
		}
		for _, id := range ids {
			expect(t, string(id), collect(t, s.Range(ctx, storage.Query{Patient: id})), want[id])
			expect(t, "newest of "+string(id), collect(t, s.Range(ctx, storage.Query{Patient: id, Newest: true, Limit: 5})), want[id])
			latest, err := s.Latest(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "latest of "+string(id), latest, want[id][2:])
		}
		if err := s.DeletePatient(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		delete(want, "p")
		for _, id := range ids {
			expect(t, "after delete: "+string(id), collect(t, s.Range(ctx, storage.Query{Patient: id})), want[id])
		}
		again := build(seq+1, "p", "d", hr, 9, 70)
		write(t, s, seq+1, again)
		expect(t, "written after delete", collect(t, s.Range(ctx, storage.Query{Patient: "p"})), []vitals.Reading{again})
	})

	with("pages are stable under inserts", func(t *testing.T, s storage.Readings) {
		var rs []vitals.Reading
		for i := range 40 {
			ind := hr
			if i%2 == 0 {
				ind = vitals.Glucose
			}
			rs = append(rs, build(uint64(i+1), "p", "d", ind, i/8, float64(60+i))) // four of each indicator at one instant
		}
		write(t, s, 40, rs...)
		want := collect(t, s.Range(ctx, storage.Query{Patient: "p"}))
		var got []vitals.Reading
		q := storage.Query{Patient: "p", Limit: 3}
		for page := 0; ; page++ {
			rs := collect(t, s.Range(ctx, q))
			if len(rs) == 0 {
				break
			}
			got = append(got, rs...)
			pos := s.PositionOf(&rs[len(rs)-1])
			q.After = &pos
			// Before every place that is still to come: it must not move the pages.
			write(t, s, uint64(41+page), build(uint64(41+page), "p", "d", vitals.BloodPressure, page, float64(page)))
			if page > 100 {
				t.Fatal("pages do not end")
			}
		}
		expect(t, "pages", got, want)
	})

	with("a correction stands beside what it corrects", func(t *testing.T, s storage.Readings) {
		wrong, next, right := build(1, "p", "d", hr, 5, 190), build(2, "p", "d", hr, 6, 71), build(3, "p", "d", hr, 5, 70)
		right.Flags = vitals.SelfReported
		write(t, s, 2, wrong, next)
		write(t, s, 3, right)
		expect(t, "both", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr})), []vitals.Reading{wrong, right, next})
		expect(t, "as it was before", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, MaxSeq: 2})), []vitals.Reading{wrong, next})
		at := s.PositionOf(&wrong)
		expect(t, "after the first", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, After: &at})), []vitals.Reading{right, next})
	})

	with("a revised reading stands in the place of what it was", func(t *testing.T, s storage.Readings) {
		a, b, c := build(1, "p", "d", hr, 5, 70), build(2, "p", "d", hr, 5, 71), build(3, "p", "d", hr, 6, 72)
		write(t, s, 3, a, b, c)
		void := a
		void.Seq, void.Quality, void.Flags = 4, vitals.Invalid, vitals.Voided
		void.Extra = &vitals.Extra{Revision: `{"voided_at":"2026-11-21T00:00:00Z"}`}
		write(t, s, 4, void)
		expect(t, "all", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr})), []vitals.Reading{b, void, c})
		expect(t, "newest", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, Newest: true, Limit: 2})), []vitals.Reading{void, c})
		write(t, s, 4, void)
		expect(t, "written again", collect(t, s.Range(ctx, storage.Query{Patient: "p", Indicator: hr, To: c.TakenAt})), []vitals.Reading{b, void})
		revised := func(r vitals.Reading, seq uint64) vitals.Reading {
			r.Seq, r.Quality, r.Flags, r.Extra = seq, vitals.Invalid, vitals.Voided, void.Extra
			write(t, s, seq, r)
			return r
		}
		latest := func(what string, want vitals.Reading) {
			t.Helper()
			got, err := s.Latest(ctx, "p")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, what, got, []vitals.Reading{want})
		}
		gone := revised(c, 5)
		latest("latest is what counts", b)
		revised(b, 6)
		latest("latest of nothing that counts", gone)
	})

	with("one patient of many is deleted while others are written", func(t *testing.T, s storage.Readings) {
		var keep, gone []vitals.Reading
		for i := range 30 {
			keep = append(keep, build(uint64(2*i+1), "stays", "d1", hr, i, 70))
			gone = append(gone, build(uint64(2*i+2), "leaves", "d2", hr, i, 70))
		}
		write(t, s, 40, keep[:20]...)
		write(t, s, 60, gone...)
		if err := s.DeletePatient(ctx, "leaves"); err != nil {
			t.Fatal(err)
		}
		write(t, s, 61, keep[20:]...)
		expect(t, "the other", collect(t, s.Range(ctx, storage.Query{Patient: "stays"})), keep)
		expect(t, "the deleted", collect(t, s.Range(ctx, storage.Query{Patient: "leaves"})), nil)
		if rs, err := s.Latest(ctx, "leaves"); err != nil || len(rs) != 0 {
			t.Errorf("latest of the deleted: %s, %v", brief(rs), err)
		}
	})

	with("very many", func(t *testing.T, s storage.Readings) { many(t, s, manyReadings()) })

	with("cursor goes with the data and never back", func(t *testing.T, s storage.Readings) {
		write(t, s, 7, build(5, "p", "d", hr, 0, 70))
		write(t, s, 9) // a block of nothing that concerns the store
		write(t, s, 3, build(3, "p", "d", hr, 1, 70))
		if s.Cursor() != 9 {
			t.Errorf("got cursor %d, want 9", s.Cursor())
		}
		if s.Durable() > s.Cursor() {
			t.Errorf("durable %d is ahead of cursor %d", s.Durable(), s.Cursor())
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if s.Durable() != 9 {
			t.Errorf("got durable %d after flush, want 9", s.Durable())
		}
	})

	with("a cancelled context", func(t *testing.T, s storage.Readings) {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := s.Write(gone, []vitals.Reading{build(1, "p", "d", hr, 0, 70)}, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("write: got %v, want canceled", err)
		}
		if s.Cursor() != 0 {
			t.Errorf("got cursor %d after a failed write, want 0", s.Cursor())
		}
	})

	with("a consumer that stops early", func(t *testing.T, s storage.Readings) {
		write(t, s, 2, build(1, "p", "d", hr, 0, 70), build(2, "p", "d", hr, 1, 70))
		n := 0
		for range s.Range(ctx, storage.Query{Patient: "p"}) {
			n++
			break
		}
		if n != 1 {
			t.Errorf("got %d readings, want 1", n)
		}
	})

	t.Run("answers like the model", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			s, model := open(t), NewMemory()
			defer s.Close()
			patients := []vitals.PatientID{"a", "ab", "b"}
			inds := []vitals.Indicator{vitals.BloodPressure, hr}
			var seq uint64
			for range rapid.IntRange(1, 6).Draw(rt, "blocks") {
				var rs []vitals.Reading
				for range rapid.IntRange(0, 12).Draw(rt, "readings") {
					seq++
					rs = append(rs, build(seq, rapid.SampledFrom(patients).Draw(rt, "patient"), rapid.SampledFrom([]vitals.DeviceID{"x", "y"}).Draw(rt, "device"),
						rapid.SampledFrom(inds).Draw(rt, "indicator"), rapid.IntRange(-3, 3).Draw(rt, "at"), float64(rapid.IntRange(60, 62).Draw(rt, "value"))))
				}
				// A reading of the same key would be a duplicate, which the journal keeps away.
				var fresh []vitals.Reading
				for _, r := range rs {
					if _, ok := model.readings[r.Patient][model.PositionOf(&r)]; !ok {
						fresh = append(fresh, r)
						_ = model.Write(ctx, []vitals.Reading{r}, seq)
					}
				}
				if err := s.Write(ctx, fresh, seq); err != nil {
					rt.Fatal(err)
				}
				if rapid.IntRange(0, 9).Draw(rt, "delete") == 0 {
					p := rapid.SampledFrom(patients).Draw(rt, "deleted")
					_ = model.DeletePatient(ctx, p)
					if err := s.DeletePatient(ctx, p); err != nil {
						rt.Fatal(err)
					}
				}
			}
			for range 8 {
				q := storage.Query{Patient: rapid.SampledFrom(patients).Draw(rt, "p"), Indicator: rapid.SampledFrom([]vitals.Indicator{0, vitals.BloodPressure, hr}).Draw(rt, "i"),
					MaxSeq: rapid.Uint64Range(0, seq).Draw(rt, "max_seq"), Limit: rapid.IntRange(0, 5).Draw(rt, "limit"), Newest: rapid.Bool().Draw(rt, "newest")}
				if rapid.Bool().Draw(rt, "bounded") {
					q.From = base + vitals.Micros(rapid.IntRange(-3, 3).Draw(rt, "from"))*vitals.Second
					q.To = q.From + vitals.Micros(rapid.IntRange(0, 4).Draw(rt, "span"))*vitals.Second
				}
				got, want := collect(t, s.Range(ctx, q)), collect(t, model.Range(ctx, q))
				if !same(got, want) {
					rt.Fatalf("%+v:\n got %s\nwant %s", q, brief(got), brief(want))
				}
			}
			for _, p := range patients {
				got, err := s.Latest(ctx, p)
				if err != nil {
					rt.Fatal(err)
				}
				want, _ := model.Latest(ctx, p)
				if !same(got, want) {
					rt.Fatalf("latest of %s:\n got %s\nwant %s", p, brief(got), brief(want))
				}
			}
		})
	})
}

// manyReadings is how many the suite writes at least: VITALWATCH_TEST_MILLION makes it a million.
func manyReadings() int {
	if os.Getenv("VITALWATCH_TEST_MILLION") != "" {
		return 1_000_000
	}
	return 100_000
}

// many writes n readings of some people, a tenth of them late, and looks at each of them.
func many(t *testing.T, s storage.Readings, n int) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(uint64(n), 7))
	inds := []vitals.Indicator{vitals.HeartRate, vitals.BloodPressure, vitals.Glucose}
	type lane struct {
		p   vitals.PatientID
		ind vitals.Indicator
	}
	want := map[lane][]vitals.Reading{}
	var block []vitals.Reading
	for i := range n {
		at := i
		if rnd.IntN(10) == 0 {
			at -= rnd.IntN(n)
		}
		p := rnd.IntN(20)
		r := build(uint64(i+1), vitals.PatientID(fmt.Sprintf("P-%02d", p)), vitals.DeviceID(fmt.Sprintf("d-%02d-%d", p, i%2)), inds[rnd.IntN(3)], at, float64(i)) // no value twice: the journal keeps duplicates away
		l := lane{r.Patient, r.Indicator}
		want[l] = append(want[l], r)
		if block = append(block, r); len(block) == 4096 || i == n-1 {
			if err := s.Write(ctx, block, r.Seq); err != nil {
				t.Fatal(err)
			}
			block = block[:0]
		}
	}
	for l, rs := range want {
		slices.SortFunc(rs, func(a, b vitals.Reading) int {
			return cmp.Or(cmp.Compare(a.TakenAt, b.TakenAt), cmp.Compare(a.Seq, b.Seq))
		})
		i := 0
		for r, err := range s.Range(ctx, storage.Query{Patient: l.p, Indicator: l.ind}) {
			if err != nil {
				t.Fatal(err)
			}
			if i >= len(rs) || r != rs[i] {
				t.Fatalf("%s of %s: reading %d is #%d, want %s", l.ind, l.p, i, r.Seq, brief(rs[min(i, len(rs)-1):min(i+1, len(rs))]))
			}
			i++
		}
		if i != len(rs) {
			t.Errorf("%s of %s: got %d readings, want %d", l.ind, l.p, i, len(rs))
		}
		mid := rs[len(rs)/2].TakenAt
		q := storage.Query{Patient: l.p, Indicator: l.ind, To: mid, Newest: true, Limit: 10}
		end, _ := slices.BinarySearchFunc(rs, mid, func(r vitals.Reading, t vitals.Micros) int { return cmp.Compare(r.TakenAt, t) })
		expect(t, "the last ten before the middle", collect(t, s.Range(ctx, q)), rs[end-10:end])
	}
	if s.Cursor() != uint64(n) {
		t.Errorf("got cursor %d, want %d", s.Cursor(), n)
	}
}

// Random returns n readings of random patients in journal order from seq on, for benchmarks.
func Random(seed uint64, seq uint64, n, patients int) []vitals.Reading {
	rnd := rand.New(rand.NewPCG(seed, 1))
	rs := make([]vitals.Reading, n)
	for i := range rs {
		p := rnd.IntN(patients)
		rs[i] = build(seq+uint64(i), vitals.PatientID(fmt.Sprintf("P-%05d", p)), vitals.DeviceID(fmt.Sprintf("dev-%05d", p)),
			vitals.HeartRate, int(seq)+i, float64(60+rnd.IntN(60)))
	}
	return rs
}
