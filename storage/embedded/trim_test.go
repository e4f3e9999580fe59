package embedded_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"vitalwatch/storage"
	"vitalwatch/storage/embedded"
	"vitalwatch/vitals"
)

func TestStore_trims_and_expires(t *testing.T) {
	fs := vfs.NewMem()
	openStore := func() *embedded.Store {
		s, err := embedded.Open("readings", embedded.Options{FS: fs, FlushEvery: -1})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	at := func(day int) vitals.Micros { return 1795300000000000 + vitals.Micros(day)*vitals.Day }
	s := openStore()
	if !s.Empty() || s.CompleteFrom() != embedded.Beginning {
		t.Errorf("a new store: empty %v, complete from %d", s.Empty(), s.CompleteFrom())
	}
	var rs []vitals.Reading
	add := func(p vitals.PatientID, ind vitals.Indicator, day int) {
		r := vitals.Reading{Seq: uint64(len(rs) + 1), Patient: p, Device: "d", Indicator: ind, Unit: ind.Units()[0], TakenAt: at(day), ReceivedAt: at(day), DeviceSeq: -1, OffsetMin: vitals.NoOffset}
		r.Set(ind.Components()[0], float64(len(rs)))
		rs = append(rs, r)
	}
	for day := range 10 {
		add("a", vitals.HeartRate, day)
		add("ab", vitals.HeartRate, day)
		add("a", vitals.Weight, day)
	}
	add("old", vitals.Weight, 0)
	add("old", vitals.Weight, 1)
	add("old", vitals.Weight, 1) // of the same instant as the newest: stays with it
	if err := s.Write(t.Context(), rs, rs[len(rs)-1].Seq); err != nil {
		t.Fatal(err)
	}
	left := func(p vitals.PatientID, ind vitals.Indicator) (n int) {
		t.Helper()
		for _, err := range s.Range(t.Context(), storage.Query{Patient: p, Indicator: ind}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	want := func(what string, n map[string]int) {
		t.Helper()
		got := map[string]int{"a/hr": left("a", vitals.HeartRate), "ab/hr": left("ab", vitals.HeartRate), "a/weight": left("a", vitals.Weight), "old/weight": left("old", vitals.Weight)}
		all := 0
		for _, err := range s.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			all++
		}
		sum := 0
		for k := range n {
			sum += n[k]
			if got[k] != n[k] {
				t.Errorf("%s: %s has %d readings, want %d", what, k, got[k], n[k])
			}
		}
		if all != sum {
			t.Errorf("%s: All gives %d readings, want %d", what, all, sum)
		}
	}
	n, err := s.TrimLocal(t.Context(), at(7))
	if err != nil || n != 4 {
		t.Errorf("trimmed %d, %v; want 4 patients' indicators", n, err)
	}
	want("trimmed", map[string]int{"a/hr": 3, "ab/hr": 3, "a/weight": 3, "old/weight": 2})
	if s.CompleteFrom() != at(7) {
		t.Errorf("complete from %d, want %d", s.CompleteFrom(), at(7))
	}
	if n, err := s.TrimLocal(t.Context(), at(5)); err != nil || n != 0 || s.CompleteFrom() != at(7) {
		t.Errorf("an earlier trimming: %d, %v, complete from %d", n, err, s.CompleteFrom())
	}
	if _, err := s.Expire(t.Context(), func(i vitals.Indicator) (vitals.Micros, bool) { return at(9), i == vitals.Weight }); err != nil {
		t.Fatal(err)
	}
	want("expired", map[string]int{"a/hr": 3, "ab/hr": 3, "a/weight": 1, "old/weight": 0})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore()
	defer s.Close()
	want("after a restart", map[string]int{"a/hr": 3, "ab/hr": 3, "a/weight": 1, "old/weight": 0})
	if s.CompleteFrom() != at(7) || s.Empty() {
		t.Errorf("after a restart: complete from %d, empty %v", s.CompleteFrom(), s.Empty())
	}
}
