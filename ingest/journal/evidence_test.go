package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// message adds readings to the group as one message with the given payload.
func message(g *journal.Group, payload string, rs ...vitals.Reading) {
	m := evidence.Message{Device: rs[0].Device, ReceivedAt: rs[0].ReceivedAt, JudgedAt: rs[0].ReceivedAt, Format: "readings", Source: "mqtt", Payload: []byte(payload)}
	first := len(g.Readings)
	for _, r := range rs {
		g.Readings = append(g.Readings, r)
		m.Patients = append(m.Patients, evidence.Run{N: 1, Patient: r.Patient})
	}
	g.Messages = append(g.Messages, journal.Message{First: first, Last: len(g.Readings), At: m.ReceivedAt, Bytes: evidence.AppendMessage(nil, &m)})
}

func keeping(fs vfs.FS, now *vitals.Micros, max int64) journal.Options {
	o := options(fs)
	o.Now = func() time.Time { return now.Time() }
	o.Evidence = journal.EvidenceOptions{Keep: 24 * time.Hour, MaxBytes: max}
	return o
}

func openWith(t *testing.T, o journal.Options) *journal.Journal {
	t.Helper()
	j, err := journal.Open("j", o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func mustAppend(t *testing.T, j *journal.Journal, g *journal.Group) {
	t.Helper()
	if err := j.Append(context.Background(), g); err != nil {
		t.Fatal(err)
	}
}

func payloads(t *testing.T, j *journal.Journal, from uint64) (out []string) {
	t.Helper()
	if err := j.Evidence(context.Background(), from, func(e *evidence.Entry) error {
		out = append(out, fmt.Sprintf("%d+%d %s", e.First, e.Count, e.Payload))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEvidence(t *testing.T) {
	ctx := context.Background()
	fs, now := vfs.NewMem(), base
	j := openWith(t, keeping(fs, &now, 0))
	var g journal.Group
	message(&g, "one", reading("d", 1, 70))
	message(&g, "two and three", reading("d", 2, 71), reading("d", 3, 72))
	mustAppend(t, j, &g)
	g.Reset()
	message(&g, "one again", reading("d", 1, 70))
	message(&g, "three again and four", reading("d", 3, 72), reading("d", 4, 73))
	mustAppend(t, j, &g)
	want := []string{"1+1 one", "2+2 two and three", "4+1 three again and four"}
	check := func(when string) {
		t.Helper()
		if got := payloads(t, j, 0); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
		if got := payloads(t, j, 3); fmt.Sprint(got) != fmt.Sprint(want[1:]) {
			t.Errorf("%s, from 3: got %q, want %q", when, got, want[1:])
		}
		for seq, payload := range map[uint64]string{1: "one", 2: "two and three", 3: "two and three", 4: "three again and four"} {
			e, err := j.EvidenceOf(ctx, seq)
			if err != nil || string(e.Payload) != payload || e.Device != "d" {
				t.Errorf("%s: message of %d: got %q, %v, want %q", when, seq, e.Payload, err, payload)
			}
		}
		for _, seq := range []uint64{0, 5, 1 << 60} {
			if _, err := j.EvidenceOf(ctx, seq); !errors.Is(err, journal.ErrNoEvidence) {
				t.Errorf("%s: message of %d: got %v, want ErrNoEvidence", when, seq, err)
			}
		}
	}
	check("at once")
	if e, _ := j.EvidenceOf(ctx, 4); fmt.Sprint(e.Fresh) != "[false true]" {
		t.Errorf("which were new: got %v", e.Fresh)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if rep, err := journal.VerifyFS(fs, "j"); err != nil || rep.Messages != 3 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
	j = openWith(t, keeping(fs, &now, 0))
	check("after a restart")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEvidence_is_not_kept_when_it_is_off: what is there stays.
func TestEvidence_is_not_kept_when_it_is_off(t *testing.T) {
	fs, now := vfs.NewMem(), base
	o := keeping(fs, &now, 0)
	o.Evidence.Keep = 0
	j := openWith(t, o)
	var g journal.Group
	message(&g, "one", reading("d", 1, 70))
	mustAppend(t, j, &g)
	if got := payloads(t, j, 0); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// blocks counts what is stored, in a closed journal.
func blocks(t *testing.T, fs vfs.FS) (n int) {
	t.Helper()
	db, err := pebble.Open("j", &pebble.Options{FS: fs, ReadOnly: true, FormatMajorVersion: pebble.FormatTableFormatV6})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{'v'}, UpperBound: []byte{'w'}})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	return n
}

func TestEvidence_small_blocks_are_put_together(t *testing.T) {
	fs, now := vfs.NewMem(), base
	j := openWith(t, keeping(fs, &now, 0))
	var want []string
	at := 0
	add := func(n, size int) {
		for range n {
			at++
			payload := fmt.Sprint("message ", at, string(bytes.Repeat([]byte{'x'}, size)))
			var g journal.Group
			message(&g, payload, reading("d", at, 70))
			mustAppend(t, j, &g)
			want = append(want, fmt.Sprintf("%d+1 %s", at, payload))
		}
	}
	for _, step := range []struct{ n, size, blocks int }{
		{100, 0, 100},         // too few
		{200, 0, 1 + 300%256}, // 256 become one
		{1, 8 << 10, 3},       // a large one ends the row before it
		{300, 0, 4 + 300%256}, // and the next begins after it
	} {
		add(step.n, step.size)
		j.Tick()
		if got := payloads(t, j, 0); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("after %d messages they are not the same", at)
		}
		for _, seq := range []uint64{1, uint64(at / 2), uint64(at)} {
			if e, err := j.EvidenceOf(context.Background(), seq); err != nil || e.First != seq {
				t.Fatalf("message of %d of %d: %v", seq, at, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.VerifyFS(fs, "j"); err != nil {
			t.Fatal(err)
		}
		if n := blocks(t, fs); n != step.blocks {
			t.Fatalf("after %d messages: %d blocks, want %d", at, n, step.blocks)
		}
		j = openWith(t, keeping(fs, &now, 0))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEvidence_goes_after_its_time(t *testing.T) {
	fs, now := vfs.NewMem(), base
	j := openWith(t, keeping(fs, &now, 0))
	defer j.Close()
	var g journal.Group
	message(&g, "old", reading("d", 0, 70))
	mustAppend(t, j, &g)
	g.Reset()
	message(&g, "newer", reading("d", 3600, 70))
	mustAppend(t, j, &g)
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{24 * time.Hour, "[1+1 old 2+1 newer]"}, {24*time.Hour + time.Second, "[2+1 newer]"}, {26 * time.Hour, "[]"}} {
		now = base.Add(step.after)
		j.Tick()
		if got := fmt.Sprint(payloads(t, j, 0)); got != step.want {
			t.Errorf("after %v: got %s, want %s", step.after, got, step.want)
		}
	}
	if n := j.EvidenceStats().Dropped; n != 0 {
		t.Errorf("%d count as dropped before their time", n)
	}
	// Another one of the same content is a duplicate still: the index does not go with the message.
	g.Reset()
	message(&g, "old", reading("d", 0, 70))
	mustAppend(t, j, &g)
	if g.Verdicts[0] != journal.Duplicate {
		t.Errorf("got verdict %v", g.Verdicts[0])
	}
}

func TestEvidence_keeps_within_its_size(t *testing.T) {
	fs, now := vfs.NewMem(), base
	const bound = 1 << 20
	o := keeping(fs, &now, bound)
	j := openWith(t, o)
	noise := make([]byte, 8<<10)
	x := uint64(1)
	at := 0
	for range 40 { // 10 MB that do not pack
		var g journal.Group
		for range 32 {
			for i := range noise {
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
				noise[i] = byte(x)
			}
			at++
			message(&g, string(noise), reading("d", at, 70))
		}
		mustAppend(t, j, &g)
	}
	if err := j.Close(); err != nil { // so that all of it is in tables
		t.Fatal(err)
	}
	j = openWith(t, o)
	defer j.Close()
	j.Tick()
	left := payloads(t, j, 0)
	size := len(left) * len(noise)
	if size > bound*3/2 || size < bound/4 {
		t.Errorf("%d bytes left of %d, want at most %d or so", size, at*len(noise), bound)
	}
	if _, err := j.EvidenceOf(context.Background(), uint64(at)); err != nil {
		t.Errorf("the newest: %v", err)
	}
	if n := j.EvidenceStats().Dropped; int(n)+len(left) != at {
		t.Errorf("%d dropped and %d left of %d", n, len(left), at)
	}
}

func TestVerify_finds_a_damaged_message(t *testing.T) {
	fs, now := vfs.NewMem(), base
	j := openWith(t, keeping(fs, &now, 0))
	var g journal.Group
	message(&g, "one", reading("d", 1, 70))
	mustAppend(t, j, &g)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open("j", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6})
	if err != nil {
		t.Fatal(err)
	}
	key := []byte{'v', 0, 0, 0, 0, 0, 0, 0, 1}
	v, c, err := db.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	v = bytes.Clone(v)
	c.Close()
	v[len(v)/2] ^= 1
	if err := errors.Join(db.Set(key, v, pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.VerifyFS(fs, "j"); !errors.Is(err, evidence.ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
}
