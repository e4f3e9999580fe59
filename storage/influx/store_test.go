package influx_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"vitalwatch/internal/influxtest"
	"vitalwatch/storage"
	"vitalwatch/storage/influx"
	"vitalwatch/storage/storagetest"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		flag.Set("rapid.checks", "15") // each asks a real server some thirty questions
	}
	influxtest.Main(m)
}

// open returns an empty store in a bucket of its own.
func open(t testing.TB, srv *influxtest.Server) *influx.Store {
	t.Helper()
	s, err := influx.Open(context.Background(), options(srv, srv.NewBucket()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func options(srv *influxtest.Server, bucket string) influx.Options {
	return influx.Options{URL: srv.URL, Org: srv.Org, Bucket: bucket, Token: func() (string, error) { return srv.Token, nil }, Logger: zerolog.Nop()}
}

func TestStore_conforms(t *testing.T) {
	srv := influxtest.Shared(t)
	storagetest.Run(t, func(t *testing.T) storage.Readings { return open(t, srv) })
}

// Small pages: what is cut off in one series and not in another, and instants with more readings than a page.
func TestStore_pages(t *testing.T) {
	srv := influxtest.Shared(t)
	o := options(srv, srv.Bucket)
	o.Page = 5
	s, err := influx.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	model := storagetest.NewMemory()
	var rs []vitals.Reading
	rnd := rand.New(rand.NewPCG(1, 2))
	at := vitals.Micros(1795300000000000)
	for seq := uint64(1); seq <= 300; seq++ {
		switch rnd.IntN(4) {
		case 0:
			at += vitals.Micros(rnd.IntN(3)) // within a millisecond
		case 1:
			at += vitals.Millisecond
		case 2:
			at += vitals.Micros(rnd.IntN(int(vitals.Day)))
		}
		if seq == 100 {
			at += vitals.Minute
		}
		if seq >= 100 && seq < 125 {
			at -= at % vitals.Minute // more of one instant than a page holds
		}
		r := vitals.Reading{Seq: seq, Patient: "p", Device: vitals.DeviceID([]string{"a", "a", "a", "b", "c"}[rnd.IntN(5)]), Indicator: vitals.HeartRate, Unit: vitals.PerMin,
			TakenAt: at, ReceivedAt: at, DeviceSeq: -1, OffsetMin: vitals.NoOffset, Freshness: vitals.Freshness(rnd.IntN(2)), Quality: vitals.Quality(rnd.IntN(2))}
		r.Set(vitals.Value, float64(seq))
		rs = append(rs, r)
	}
	for _, st := range []storage.Readings{s, model} {
		if err := st.Write(t.Context(), rs, 300); err != nil {
			t.Fatal(err)
		}
	}
	for try := range 60 {
		q := storage.Query{Patient: "p", Indicator: vitals.HeartRate}
		if try > 0 {
			q.Limit, q.Newest, q.MaxSeq = rnd.IntN(40), rnd.IntN(2) == 0, uint64(rnd.IntN(2)*rnd.IntN(300))
			if rnd.IntN(2) == 0 {
				q.From, q.To = rs[rnd.IntN(150)].TakenAt, rs[150+rnd.IntN(150)].TakenAt
			}
			if !q.Newest && rnd.IntN(2) == 0 {
				after := storage.PositionOf(&rs[rnd.IntN(300)])
				q.After = &after
				q.MaxSeq = 0 // the position is of a reading that the query would give
				q.From, q.To = 0, 0
			}
		}
		got, want := all(t, s, q), all(t, model, q)
		if !slices.Equal(got, want) {
			t.Errorf("%+v:\n got %v\nwant %v", q, seqs(got), seqs(want))
		}
	}
}

func all(t *testing.T, s storage.Readings, q storage.Query) (out []vitals.Reading) {
	t.Helper()
	for r, err := range s.Range(t.Context(), q) {
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

func TestStore_empty(t *testing.T) {
	srv := influxtest.Shared(t)
	s := open(t, srv)
	defer s.Close()
	if empty, err := s.Empty(t.Context()); err != nil || !empty {
		t.Errorf("a new bucket: empty %v, %v", empty, err)
	}
	if err := s.Write(t.Context(), []vitals.Reading{reading(1, 70), reading(2, 71)}, 2); err != nil {
		t.Fatal(err)
	}
	if empty, err := s.Empty(t.Context()); err != nil || empty {
		t.Errorf("with readings: empty %v, %v", empty, err)
	}
}

// What a payload may carry at most goes in and comes back.
func TestStore_large_and_strange(t *testing.T) {
	srv := influxtest.Shared(t)
	s := open(t, srv)
	defer s.Close()
	r := reading(1, 70)
	r.Extra = &vitals.Extra{DeviceReadingID: "a b,c=\"d\"\n\\", Context: `{"x":"` + strings.Repeat("é\\n ", 10_000) + `"}`, OtherFlags: "x y,=z\""}
	r.Flags = vitals.IrregularPulse | vitals.Movement
	odd := reading(2, 1e-300)
	odd.Patient, odd.Device = "a b", "d,e=f g" // ids that no registry has
	if err := s.Write(t.Context(), []vitals.Reading{r, odd}, 2); err != nil {
		t.Fatal(err)
	}
	for _, want := range []vitals.Reading{r, odd} {
		got := all(t, s, storage.Query{Patient: want.Patient})
		if len(got) != 1 || !cmp.Equal(got[0], want) {
			t.Errorf("got %d readings, want the one that was written: %s", len(got), want.Patient)
		}
	}
}

func TestStore_deletes_what_is_past_its_time(t *testing.T) {
	srv := influxtest.Shared(t)
	s := open(t, srv)
	defer s.Close()
	var rs []vitals.Reading
	for seq := range uint64(20) {
		r := reading(seq+1, 70)
		if seq%2 == 1 {
			r.Indicator, r.Unit = vitals.SpO2, vitals.Percent
		}
		rs = append(rs, r)
	}
	if err := s.Write(t.Context(), rs, 20); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteBefore(t.Context(), vitals.HeartRate, rs[10].TakenAt); err != nil {
		t.Fatal(err)
	}
	if got := seqs(all(t, s, storage.Query{Patient: "P-1", Indicator: vitals.HeartRate})); !slices.Equal(got, []uint64{11, 13, 15, 17, 19}) {
		t.Errorf("left are %v", got)
	}
	if got := seqs(all(t, s, storage.Query{Patient: "P-1", Indicator: vitals.SpO2})); len(got) != 10 {
		t.Errorf("of the other indicator %v are left, want all", got)
	}
}

// 90 days of a CGM in one question.
func BenchmarkRange_90_days(b *testing.B) {
	srv := influxtest.Shared(b)
	s := open(b, srv)
	defer s.Close()
	var rs []vitals.Reading
	for seq := range uint64(25_920) {
		r := reading(seq+1, 5+float64(seq%60)/10)
		r.Indicator, r.Unit = vitals.Glucose, vitals.MmolL
		r.TakenAt = 1795300000000000 + vitals.Micros(seq)*5*vitals.Minute
		rs = append(rs, r)
	}
	if err := s.Write(b.Context(), rs, 25_920); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.Range(b.Context(), storage.Query{Patient: "P-1", Indicator: vitals.Glucose, From: rs[0].TakenAt}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != len(rs) {
			b.Fatalf("got %d", n)
		}
	}
}

// go test -run xxx -bench Line ./storage/influx
func BenchmarkLine(b *testing.B) {
	r := reading(123_456, 72)
	r.Patient, r.Device = "P-dev-00001", "dev-00001"
	b.ReportAllocs()
	for b.Loop() {
		influx.Line(&r)
	}
}

// Whoever else looks into InfluxDB sees a revised reading once, as it is now.
func TestStore_removes_what_was_revised(t *testing.T) {
	srv := influxtest.Shared(t)
	s := open(t, srv)
	defer s.Close()
	a, b := reading(1, 70), reading(2, 71)
	b.TakenAt = a.TakenAt
	if err := s.Write(t.Context(), []vitals.Reading{a, b}, 2); err != nil {
		t.Fatal(err)
	}
	void := a
	void.Seq, void.Quality, void.Extra = 1_000_001, vitals.Invalid, &vitals.Extra{Revision: "{}"}
	for range 2 {
		if err := s.Write(t.Context(), []vitals.Reading{void}, void.Seq); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := influx.Points(t.Context(), s, "P-1", vitals.HeartRate)
	if err != nil {
		t.Fatal(err)
	}
	got := seqs(rs)
	slices.Sort(got)
	if !slices.Equal(got, []uint64{2, void.Seq}) {
		t.Errorf("InfluxDB has the points %v, want [2 %d]", got, void.Seq)
	}
}
