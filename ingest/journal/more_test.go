package journal_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

func TestJournal_trims_what_all_consumers_are_past(t *testing.T) {
	mem := vfs.NewMem()
	o := options(mem)
	o.Consumers = []string{"slow", "fast"}
	o.TailBytes = 1 // the tail keeps one segment, so that the disk is read
	j, err := journal.Open("j", o)
	if err != nil {
		t.Fatal(err)
	}
	// More than the index waits for, so that some of it is sealed.
	var g journal.Group
	for i := range journal.SealAt + 5000 {
		g.Readings = append(g.Readings, reading(fmt.Sprint("d", i%7), i, 70))
		if len(g.Readings) == 1000 {
			if err := j.Append(context.Background(), &g); err != nil {
				t.Fatal(err)
			}
			g.Reset()
		}
	}
	last := j.Last()
	j.Release("fast", last)
	j.Tick()
	if _, err := j.Next(context.Background(), 0); err != nil {
		t.Fatalf("trimmed although a consumer has released nothing: %v", err)
	}
	j.Release("slow", 20000)
	j.Tick()
	if _, err := j.Next(context.Background(), 0); !errors.Is(err, journal.ErrTrimmed) {
		t.Errorf("got %v, want ErrTrimmed", err)
	}
	if got := readAll(t, j, 20000); uint64(len(got)) != last-20000 {
		t.Errorf("got %d readings, want %d", len(got), last-20000)
	}
	if v := appendAll(t, j, reading("d0", 0, 70), reading("d1", 1, 71)); v[0] != journal.Duplicate || v[1] != journal.New {
		t.Errorf("got %v: what was trimmed must stay known", v)
	}
	j.Release("slow", last)
	j.Tick()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if rep, err := journal.VerifyFS(mem, "j"); err != nil || rep.Last != last+1 || rep.Sealed == 0 || rep.First == 1 {
		t.Errorf("verify: got %+v, %v", rep, err)
	}
	again := open(t, mem)
	if again.Last() != last+1 {
		t.Errorf("got last %d after reopening, want %d", again.Last(), last+1)
	}
	for i := 0; i < journal.SealAt; i += 997 {
		if v := appendAll(t, again, reading(fmt.Sprint("d", i%7), i, 70)); v[0] != journal.Duplicate {
			t.Fatalf("reading %d is %v after reopening, want Duplicate", i, v[0])
		}
	}
}

func quarantined(device string, at int, payloadText string) journal.Quarantined {
	return journal.Quarantined{At: base + vitals.Micros(at), Device: vitals.DeviceID(device), Format: "readings", Source: "mqtt",
		Problems: []payload.Problem{{Code: payload.UnitUnknown, Detail: "send a UCUM code"}}, Payload: []byte(payloadText)}
}

func TestJournal_Quarantine(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	o := options(mem)
	now := base
	o.Now = func() time.Time { return now.Time() }
	o.QuarantineBytes = 5000
	j, err := journal.Open("j", o)
	if err != nil {
		t.Fatal(err)
	}
	g := journal.Group{Readings: []vitals.Reading{reading("a", 0, 70)}}
	for i := range 5 {
		g.Quarantine = append(g.Quarantine, quarantined("a", i, fmt.Sprint("bad ", i)))
	}
	g.Quarantine = append(g.Quarantine, quarantined("a", 9, "bad 0")) // the same message again
	if err := j.Append(ctx, &g); err != nil {
		t.Fatal(err)
	}
	if g.Quarantine[5].ID != g.Quarantine[0].ID {
		t.Errorf("a resent message is a second item")
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{}) // durable with its group
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	o.FS = clone
	if j, err = journal.Open("j", o); err != nil {
		t.Fatal(err)
	}
	defer func() { j.Close() }()
	page, next, err := j.Quarantine(ctx, 3, 0)
	if err != nil || len(page) != 3 || next == 0 {
		t.Fatalf("got %d items, next %d, %v", len(page), next, err)
	}
	rest, end, err := j.Quarantine(ctx, 3, next)
	if err != nil || len(rest) != 2 || end != 0 {
		t.Fatalf("got %d items, next %d, %v", len(rest), end, err)
	}
	for i, q := range append(page, rest...) {
		if q.ID != g.Quarantine[4-i].ID || q.At != base+vitals.Micros(4-i) || q.Payload != nil || q.Problems[0].Code != payload.UnitUnknown {
			t.Errorf("place %d: got %+v", i, q)
		}
	}
	q, err := j.QuarantineGet(g.Quarantine[0].ID)
	if err != nil || string(q.Payload) != "bad 0" || q.Times != 2 || q.LastAt != base+9 {
		t.Errorf("got %+v, %v", q, err)
	}
	if err := j.QuarantineDelete(q.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := j.QuarantineGet(q.ID); !errors.Is(err, journal.ErrNotQuarantined) {
		t.Errorf("got %v, want ErrNotQuarantined", err)
	}
	if err := j.QuarantineDelete(q.ID); !errors.Is(err, journal.ErrNotQuarantined) {
		t.Errorf("got %v, want ErrNotQuarantined", err)
	}

	// A device that floods displaces its own items, in count and in bytes.
	keep := journal.Group{Quarantine: []journal.Quarantined{quarantined("quiet", 1, "keep me")}}
	if err := j.Append(ctx, &keep); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		flood := journal.Group{}
		for k := range 100 {
			flood.Quarantine = append(flood.Quarantine, quarantined("loud", 100*i+k, fmt.Sprintf("%04d", 100*i+k)))
		}
		if err := j.Append(ctx, &flood); err != nil {
			t.Fatal(err)
		}
	}
	st := j.QuarantineStats()
	if st.Items != 1000+5 || st.Dropped != 200 {
		t.Errorf("got %+v, want the bound of 1000 for one device and 5 others", st)
	}
	big := journal.Group{Quarantine: []journal.Quarantined{quarantined("loud", 5000, strings.Repeat("x", 4000))}}
	if err := j.Append(ctx, &big); err != nil {
		t.Fatal(err)
	}
	if st := j.QuarantineStats(); st.Bytes > 5000 {
		t.Errorf("got %+v, want at most 5000 bytes", st)
	}
	if _, err := j.QuarantineGet(keep.Quarantine[0].ID); err != nil {
		t.Errorf("another device's item was displaced: %v", err)
	}
	now = base.Add(31 * 24 * time.Hour)
	j.Tick()
	if st := j.QuarantineStats(); st.Items != 0 || st.Bytes != 0 {
		t.Errorf("after 31 days: got %+v, want nothing", st)
	}
	if page, _, err := j.Quarantine(ctx, 10, 0); err != nil || len(page) != 0 {
		t.Errorf("after 31 days: got %d items, %v", len(page), err)
	}
}

func TestJournal_Quarantine_bounds_the_problems_of_one_message(t *testing.T) {
	o := options(vfs.NewMem())
	j, err := journal.Open("j", o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	q := quarantined("a", 1, "[0,0,0]")
	q.Problems = make([]payload.Problem, 500)
	for i := range q.Problems {
		q.Problems[i] = payload.Problem{Code: payload.TypeWrong, Index: i, Detail: "every item of the array must be an object"}
	}
	problems := q.Problems
	g := journal.Group{Quarantine: []journal.Quarantined{q}}
	if err := j.Append(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	page, _, err := j.Quarantine(t.Context(), 1, 0)
	if err != nil || len(page) != 1 || len(page[0].Problems) != 20 || page[0].Refused != 500 || page[0].Problems[19].Index != 19 {
		t.Fatalf("got %+v, %v; want 20 of 500 problems", page, err)
	}
	if len(problems) != 500 || problems[499].Index != 499 {
		t.Error("the sender's own list was cut")
	}
}

func TestJournal_OnConflict_quarantines_within_Append(t *testing.T) {
	j := open(t, vfs.NewMem())
	appendAll(t, j, withID(reading("a", 0, 70), "1"))
	g := journal.Group{Readings: []vitals.Reading{reading("a", 1, 70), withID(reading("a", 2, 71), "1")}}
	g.OnConflict = func(i int) journal.Quarantined { return quarantined("a", i, "conflict") }
	if err := j.Append(context.Background(), &g); err != nil {
		t.Fatal(err)
	}
	if g.Verdicts[0] != journal.New || g.Verdicts[1] != journal.Conflict || j.QuarantineStats().Items != 1 {
		t.Errorf("got %v and %+v", g.Verdicts, j.QuarantineStats())
	}
}

func TestJournal_Close_ends_everything(t *testing.T) {
	j, err := journal.Open("j", options(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() { _, err := j.Next(context.Background(), 0); waiting <- err }()
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Error(err)
	}
	if err := <-waiting; !errors.Is(err, journal.ErrClosed) {
		t.Errorf("Next: got %v, want ErrClosed", err)
	}
	g := journal.Group{Readings: []vitals.Reading{reading("a", 0, 70)}}
	if err := j.Append(context.Background(), &g); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("Append: got %v, want ErrClosed", err)
	}
	if _, err := j.QuarantineGet(1); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("QuarantineGet: got %v, want ErrClosed", err)
	}
}

func TestJournal_Open_refuses_a_second_process(t *testing.T) {
	fs := vfs.NewMem()
	open(t, fs)
	if _, err := journal.Open("j", options(fs)); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("got %v, want a hint at another server", err)
	}
}

func TestJournal_Collectors_register_once(t *testing.T) {
	j := open(t, vfs.NewMem())
	appendAll(t, j, reading("a", 0, 70))
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(j.Collectors()...)
	ms, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if m.GetName() == "vitalwatch_journal_fsync_seconds" && m.Metric[0].Histogram.GetSampleCount() == 0 {
			t.Error("no fsync was observed")
		}
	}
}

// FuzzRecord: arbitrary bytes under arbitrary keys give a typed error or readings, never a panic.
func FuzzRecord(f *testing.F) {
	r := reading("a", 0, 70)
	r.Seq = 1
	body := append([]byte{1, 1, 0}, vitals.AppendReading(nil, &r)...)
	f.Add(binary.BigEndian.AppendUint64([]byte{'j'}, 1), body)
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		for _, v := range [][]byte{value, journal.SealRecordForFuzz(key, value)} { // the second passes the checksum
			var ce *journal.CorruptionError
			if err := journal.DecodeRecordForFuzz(key, v); err != nil && !errors.As(err, &ce) {
				t.Fatalf("got %T %v, want a CorruptionError", err, err)
			}
		}
		if n, _ := journal.EachInRunForFuzz(key, value); n > len(value) {
			t.Fatalf("a run of %d bytes gave %d readings", len(value), n)
		}
		journal.CheckLogForFuzz(value)
	})
}
