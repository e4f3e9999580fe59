package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/journal"
	"vitalwatch/internal/leaktest"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const base = vitals.Micros(1795300000000000)

// reading is heart rate v of a device at base+at seconds.
func reading(device string, at int, v float64) vitals.Reading {
	r := vitals.Reading{Patient: vitals.PatientID("P-" + device), Device: vitals.DeviceID(device),
		TakenAt: base + vitals.Micros(at)*vitals.Second, ReceivedAt: base + vitals.Micros(at)*vitals.Second + 7,
		DeviceSeq: -1, OffsetMin: vitals.NoOffset, Indicator: vitals.HeartRate, Unit: vitals.PerMin}
	r.Set(vitals.Value, v)
	return r
}

func withID(r vitals.Reading, id string) vitals.Reading {
	r.Extra = &vitals.Extra{DeviceReadingID: id}
	return r
}

func options(fs vfs.FS) journal.Options {
	return journal.Options{FS: fs, Logger: zerolog.Nop(), Now: func() time.Time { return base.Time() }}
}

func open(t testing.TB, fs vfs.FS) *journal.Journal {
	t.Helper()
	j, err := journal.Open("j", options(fs))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

func appendAll(t testing.TB, j *journal.Journal, rs ...vitals.Reading) []journal.Verdict {
	t.Helper()
	g := journal.Group{Readings: rs}
	if err := j.Append(context.Background(), &g); err != nil {
		t.Fatal(err)
	}
	return g.Verdicts
}

// readAll reads everything after a sequence.
func readAll(t testing.TB, j *journal.Journal, after uint64) []vitals.Reading {
	t.Helper()
	var rs []vitals.Reading
	for after < j.Last() {
		b, err := j.Next(context.Background(), after)
		if err != nil {
			t.Fatal(err)
		}
		if b.First != after+1 || b.Readings[0].Seq != b.First {
			t.Fatalf("got a block from %d (reading %d), want it from %d", b.First, b.Readings[0].Seq, after+1)
		}
		rs, after = append(rs, b.Readings...), b.Last()
	}
	return rs
}

func TestJournal_Append_gives_verdicts(t *testing.T) {
	n, d, c := journal.New, journal.Duplicate, journal.Conflict
	a := reading("a", 0, 70)
	other := a
	other.Patient = "P-other"
	for _, tc := range []struct {
		name   string
		groups [][]vitals.Reading
		want   [][]journal.Verdict
	}{
		{"same again", [][]vitals.Reading{{a}, {a}}, [][]journal.Verdict{{n}, {d}}},
		{"same within a group", [][]vitals.Reading{{a, a, a}}, [][]journal.Verdict{{n, d, d}}},
		{"same time, other value", [][]vitals.Reading{{a, reading("a", 0, 71)}, {reading("a", 0, 71)}}, [][]journal.Verdict{{n, n}, {d}}},
		{"same value, other time", [][]vitals.Reading{{a, reading("a", 1, 70)}}, [][]journal.Verdict{{n, n}}},
		{"other device", [][]vitals.Reading{{a, reading("b", 0, 70)}}, [][]journal.Verdict{{n, n}}},
		{"other patient", [][]vitals.Reading{{a}, {other}}, [][]journal.Verdict{{n}, {n}}},
		{"older ones, backwards", [][]vitals.Reading{{reading("a", 9, 1), reading("a", 8, 1), reading("a", 7, 1), reading("a", 8, 1)}, {reading("a", 7, 1), reading("a", 6, 1)}},
			[][]journal.Verdict{{n, n, n, d}, {d, n}}},
		{"id again with same content", [][]vitals.Reading{{withID(a, "1")}, {withID(a, "1"), a}}, [][]journal.Verdict{{n}, {d, d}}},
		{"id again with other content", [][]vitals.Reading{{withID(a, "1")}, {withID(reading("a", 5, 99), "1")}}, [][]journal.Verdict{{n}, {c}}},
		{"id again within a group", [][]vitals.Reading{{withID(a, "1"), withID(reading("a", 5, 99), "1"), withID(reading("a", 5, 99), "2")}}, [][]journal.Verdict{{n, c, n}}},
		{"same id of another device", [][]vitals.Reading{{withID(a, "1"), withID(reading("b", 5, 99), "1")}}, [][]journal.Verdict{{n, n}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := vfs.NewMem()
			j := open(t, fs)
			seq := uint64(0)
			for i, rs := range tc.groups {
				g := journal.Group{Readings: append([]vitals.Reading(nil), rs...)}
				if err := j.Append(context.Background(), &g); err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(g.Verdicts) != fmt.Sprint(tc.want[i]) {
					t.Errorf("group %d: got %v, want %v", i, g.Verdicts, tc.want[i])
				}
				for k, v := range g.Verdicts {
					want := uint64(0)
					if v == journal.New {
						seq++
						want = seq
					}
					if g.Readings[k].Seq != want {
						t.Errorf("group %d reading %d: got sequence %d, want %d", i, k, g.Readings[k].Seq, want)
					}
				}
			}
			if got := readAll(t, j, 0); uint64(len(got)) != seq {
				t.Errorf("got %d readings, want %d", len(got), seq)
			}
		})
	}
}

func TestJournal_Next_waits_for_more(t *testing.T) {
	j := open(t, vfs.NewMem())
	got := make(chan journal.Block)
	go func() {
		b, _ := j.Next(context.Background(), 0)
		got <- b
	}()
	appendAll(t, j, reading("a", 0, 70))
	if b := <-got; b.First != 1 || len(b.Readings) != 1 || b.Readings[0].V[0] != 70 {
		t.Errorf("got %+v", b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := j.Next(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if _, err := j.Next(context.Background(), 2); !errors.Is(err, journal.ErrAhead) {
		t.Errorf("got %v, want ErrAhead", err)
	}
}
