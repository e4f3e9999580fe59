package tiered_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"vitalwatch/storage"
	"vitalwatch/storage/embedded"
	"vitalwatch/storage/storagetest"
	"vitalwatch/storage/tiered"
	"vitalwatch/vitals"
)

func local(t testing.TB) *embedded.Store {
	t.Helper()
	s, err := embedded.Open("readings", embedded.Options{FS: vfs.NewMem(), FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore_conforms(t *testing.T) {
	t.Run("nothing trimmed", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Readings { return tiered.New(local(t), storagetest.NewMemory()) })
	})
	// Every write is followed by a trimming of all that is not the newest.
	t.Run("everything trimmed", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Readings {
			l := local(t)
			return &trimming{tiered.New(l, storagetest.NewMemory()), l}
		})
	})
}

type trimming struct {
	*tiered.Store
	local *embedded.Store
}

func (s *trimming) Write(ctx context.Context, rs []vitals.Reading, cursor uint64) error {
	if err := s.Store.Write(ctx, rs, cursor); err != nil {
		return err
	}
	_, err := s.local.TrimLocal(ctx, 1<<62)
	return err
}

func reading(seq uint64, ind vitals.Indicator, at int, v float64) vitals.Reading {
	r := vitals.Reading{Seq: seq, Patient: "p", Device: "d", Indicator: ind, Unit: ind.Units()[0], TakenAt: 1795300000000000 + vitals.Micros(at)*vitals.Second,
		DeviceSeq: -1, OffsetMin: vitals.NoOffset}
	r.ReceivedAt = r.TakenAt
	for _, c := range ind.Components() {
		r.Set(c, v)
	}
	return r
}

// Whatever was trimmed, and with a far store that is behind by what the local one still has, the two answer like one
// store that has everything.
func TestStore_answers_like_one(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		l, far, model := local(t), storagetest.NewMemory(), storagetest.NewMemory()
		defer l.Close()
		s := tiered.New(l, far)
		inds := []vitals.Indicator{vitals.BloodPressure, vitals.HeartRate}
		var late []vitals.Reading // not in the far store yet
		var seq uint64
		for range rapid.IntRange(1, 6).Draw(rt, "blocks") {
			var rs []vitals.Reading
			for range rapid.IntRange(0, 10).Draw(rt, "readings") {
				seq++
				rs = append(rs, reading(seq, rapid.SampledFrom(inds).Draw(rt, "indicator"), rapid.IntRange(-4, 4).Draw(rt, "at"), float64(seq)))
			}
			_ = model.Write(ctx, rs, seq)
			if err := l.Write(ctx, rs, seq); err != nil {
				rt.Fatal(err)
			}
			late = append(late, rs...)
			if rapid.Bool().Draw(rt, "far keeps up") {
				_ = far.Write(ctx, late, seq)
				late = nil
				if rapid.Bool().Draw(rt, "trim") {
					if _, err := l.TrimLocal(ctx, 1795300000000000+vitals.Micros(rapid.IntRange(-5, 5).Draw(rt, "to"))*vitals.Second); err != nil {
						rt.Fatal(err)
					}
				}
			}
		}
		for range 8 {
			q := storage.Query{Patient: "p", Indicator: rapid.SampledFrom([]vitals.Indicator{0, vitals.BloodPressure, vitals.HeartRate}).Draw(rt, "i"),
				MaxSeq: rapid.Uint64Range(0, seq).Draw(rt, "max_seq"), Limit: rapid.IntRange(0, 6).Draw(rt, "limit"), Newest: rapid.Bool().Draw(rt, "newest")}
			if rapid.Bool().Draw(rt, "bounded") {
				q.From = 1795300000000000 + vitals.Micros(rapid.IntRange(-4, 4).Draw(rt, "from"))*vitals.Second
				q.To = q.From + vitals.Micros(rapid.IntRange(0, 5).Draw(rt, "span"))*vitals.Second
			}
			got, want := collect(rt, s.Range(ctx, q)), collect(rt, model.Range(ctx, q))
			if !slices.Equal(got, want) {
				rt.Fatalf("%+v (local from %d):\n got %v\nwant %v", q, l.CompleteFrom(), seqs(got), seqs(want))
			}
		}
		got, err := s.Latest(ctx, "p")
		if err != nil {
			rt.Fatal(err)
		}
		want, _ := model.Latest(ctx, "p")
		if !slices.Equal(got, want) {
			rt.Fatalf("latest: got %v, want %v", seqs(got), seqs(want))
		}
	})
}

type fataler interface{ Fatal(...any) }

func collect(t fataler, s iter.Seq2[vitals.Reading, error]) (out []vitals.Reading) {
	for r, err := range s {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func seqs(rs []vitals.Reading) (out []uint64) {
	for _, r := range rs {
		out = append(out, r.Seq)
	}
	return out
}

// gone is a far store that does not answer.
type gone struct{ storage.Readings }

var errGone = errors.New("gone")

func (gone) Range(context.Context, storage.Query) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) { yield(vitals.Reading{}, errGone) }
}

// A far store that is gone is felt only by questions about what the local one does not have.
func TestStore_far_is_gone(t *testing.T) {
	l := local(t)
	defer l.Close()
	s := tiered.New(l, gone{})
	var rs []vitals.Reading
	for seq := uint64(1); seq <= 20; seq++ {
		rs = append(rs, reading(seq, vitals.HeartRate, int(seq), 70))
	}
	if err := l.Write(t.Context(), rs, 20); err != nil {
		t.Fatal(err)
	}
	all := storage.Query{Patient: "p", Indicator: vitals.HeartRate}
	if got := collect(t, s.Range(t.Context(), all)); len(got) != 20 {
		t.Errorf("nothing trimmed: got %v", seqs(got))
	}
	if _, err := l.TrimLocal(t.Context(), rs[9].TakenAt); err != nil {
		t.Fatal(err)
	}
	recent := all
	recent.From = rs[9].TakenAt
	if got := seqs(collect(t, s.Range(t.Context(), recent))); len(got) != 11 || got[0] != 10 {
		t.Errorf("the recent past: got %v", got)
	}
	newest := storage.Query{Patient: "p", Indicator: vitals.HeartRate, Newest: true, Limit: 5}
	if got := seqs(collect(t, s.Range(t.Context(), newest))); !slices.Equal(got, []uint64{16, 17, 18, 19, 20}) {
		t.Errorf("the newest: got %v", got)
	}
	if got, err := s.Latest(t.Context(), "p"); err != nil || len(got) != 1 || got[0].Seq != 20 {
		t.Errorf("latest: got %v, %v", seqs(got), err)
	}
	for _, q := range []storage.Query{all, {Patient: "p", Indicator: vitals.HeartRate, Newest: true, Limit: 50}} {
		var failed error
		for _, err := range s.Range(t.Context(), q) {
			failed = errors.Join(failed, err)
		}
		if !errors.Is(failed, errGone) {
			t.Errorf("%+v: got %v, want the far store's error", q, failed)
		}
	}
}
