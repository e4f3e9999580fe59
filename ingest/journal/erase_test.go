package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// TestErase_forgets_one_and_remembers_the_others: after one person was taken out, what they send again is new and what
// others send again is known, before and after a restart.
func TestErase_forgets_one_and_remembers_the_others(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		fs := vfs.NewMem()
		o := options(fs)
		o.Consumers = []string{"c"}
		o.Evidence.Keep = time.Hour
		j, err := journal.Open("j", o)
		if err != nil {
			t.Fatal(err)
		}
		var mine, others []vitals.Reading
		put := func(rs ...vitals.Reading) []journal.Verdict {
			g := journal.Group{Readings: rs}
			if err := j.Append(ctx, &g); err != nil {
				t.Fatal(err)
			}
			return g.Verdicts
		}
		for range rapid.IntRange(1, 8).Draw(t, "groups") {
			var rs []vitals.Reading
			for range rapid.IntRange(1, 30).Draw(t, "readings") {
				r := reading(rapid.SampledFrom([]string{"own", "both", "other"}).Draw(t, "device"), rapid.IntRange(0, 60).Draw(t, "at"), float64(rapid.IntRange(60, 63).Draw(t, "value")))
				r.Patient = "theirs"
				if r.Device == "own" || r.Device == "both" && rapid.Bool().Draw(t, "mine") {
					r.Patient = "mine"
				}
				if rapid.IntRange(0, 4).Draw(t, "named") == 0 {
					r = withID(r, fmt.Sprint(len(mine), len(others), len(rs)))
				}
				rs = append(rs, r)
			}
			for i, v := range put(rs...) {
				switch {
				case v != journal.New:
				case rs[i].Patient == "mine":
					mine = append(mine, rs[i])
				default:
					others = append(others, rs[i])
				}
			}
			if rapid.Bool().Draw(t, "sealed between") {
				if _, err := j.Seal(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		last := j.Last()
		upTo, err := j.Seal(ctx)
		if err != nil || upTo != last {
			t.Fatalf("sealed up to %d of %d, %v", upTo, last, err)
		}
		if err := j.EraseRecords(ctx, upTo); !errors.Is(err, journal.ErrNotPast) {
			t.Fatalf("records that a consumer needs: got %v, want ErrNotPast", err)
		}
		n, err := j.Forget(ctx, mine)
		if err != nil || n < len(mine) {
			t.Fatalf("forgot %d of %d, %v", n, len(mine), err)
		}
		if n, err := j.Forget(ctx, mine); err != nil || n != 0 {
			t.Fatalf("forgot %d again, %v", n, err)
		}
		if rapid.Bool().Draw(t, "the device as a whole") {
			if err := j.ForgetDevice(ctx, "own"); err != nil {
				t.Fatal(err)
			}
		}
		j.Release("c", last)
		if err := j.EraseRecords(ctx, upTo); err != nil {
			t.Fatal(err)
		}
		if err := j.Wipe(ctx); err != nil {
			t.Fatal(err)
		}
		if first, err := j.First(); err != nil || first != last+1 {
			t.Fatalf("the journal begins at %d, %v, want %d", first, err, last+1)
		}
		if rapid.Bool().Draw(t, "restart") {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := journal.VerifyFS(fs, "j"); err != nil {
				t.Fatal(err)
			}
			if j, err = journal.Open("j", o); err != nil {
				t.Fatal(err)
			}
		}
		if j.Last() != last {
			t.Fatalf("the numbering goes on after %d, want %d", j.Last(), last)
		}
		if last > 0 {
			if _, err := j.Next(ctx, last-1); !errors.Is(err, journal.ErrTrimmed) {
				t.Fatalf("a consumer that is behind: got %v, want ErrTrimmed", err)
			}
		}
		for i, v := range put(others...) {
			if v == journal.New {
				t.Fatalf("%+v of somebody else was forgotten", others[i])
			}
		}
		// Two of them may be one measurement by now (the same values within a second): at least one of each is new.
		news := 0
		for _, v := range put(mine...) {
			if v == journal.New {
				news++
			}
		}
		if len(mine) > 0 && news == 0 {
			t.Fatalf("none of %d readings of theirs is new", len(mine))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.VerifyFS(fs, "j"); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRewriteEvidence_and_wipe: what was taken out is in no file any more, log files that wait to be used again
// included.
func TestRewriteEvidence_and_wipe(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	o := journal.Options{HeadRoom: 1, Evidence: journal.EvidenceOptions{Keep: 24 * 365 * 10 * time.Hour}, Consumers: []string{"c"}}
	j, err := journal.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		var g journal.Group
		text := fmt.Sprint("keep ", i)
		if i%3 == 0 {
			text = fmt.Sprint("SECRET ", i)
		}
		r := reading("d", i, 70)
		r.ReceivedAt = vitals.At(time.Now())
		message(&g, text, r)
		mustAppend(t, j, &g)
	}
	wiped := func() (found []string) {
		names, err := vfs.Default.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if b, err := readFile(dir, name); err == nil && strings.Contains(b, "SECRET") {
				found = append(found, name)
			}
		}
		return found
	}
	if len(wiped()) == 0 {
		t.Fatal("the test looks for something that is not there")
	}
	gone := 0
	err = j.RewriteEvidence(ctx, func(e *evidence.Entry) (bool, error) {
		if !strings.HasPrefix(string(e.Payload), "SECRET") {
			return false, nil
		}
		*e = evidence.Entry{Kind: evidence.Erased, First: e.First, Count: e.Count}
		gone++
		return true, nil
	})
	if err != nil || gone != 100 {
		t.Fatalf("%d rewritten, %v", gone, err)
	}
	if err := j.Wipe(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := j.EvidenceOf(ctx, 1); !errors.Is(err, journal.ErrNoEvidence) {
		t.Errorf("the erased one: %v", err)
	}
	if e, err := j.EvidenceOf(ctx, 2); err != nil || string(e.Payload) != "keep 1" {
		t.Errorf("its neighbour: %q, %v", e.Payload, err)
	}
	if err := j.Close(); err != nil { // removes what is not needed any more
		t.Fatal(err)
	}
	if found := wiped(); len(found) > 0 {
		t.Errorf("still in %v", found)
	}
	if rep, err := journal.Verify(dir); err != nil || rep.Messages != 300 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
}

func TestCheckpoint(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	o := options(fs)
	o.Consumers = []string{"c"}
	j := openWith(t, o)
	defer j.Close()
	for i := range 100 {
		appendAll(t, j, reading("d", i, 70))
	}
	release := j.HoldTrim()
	j.Release("c", 100)
	if _, err := j.Seal(ctx); err != nil {
		t.Fatal(err)
	}
	j.Tick()
	if first, err := j.First(); err != nil || first != 1 {
		t.Errorf("held, and yet it begins at %d, %v", first, err)
	}
	if err := j.Checkpoint("copy"); err != nil {
		t.Fatal(err)
	}
	release()
	j.Tick()
	if first, err := j.First(); err != nil || first == 1 {
		t.Errorf("released, and it begins at %d, %v", first, err)
	}
	appendAll(t, j, reading("d", 100, 70))
	if rep, err := journal.VerifyFS(fs, "copy"); err != nil || rep.First != 1 || rep.Last != 100 {
		t.Errorf("the copy: %+v, %v", rep, err)
	}
}

// TestCheckpoint_that_fails_does_not_stop_intake: another disk is full, not ours.
func TestCheckpoint_that_fails_does_not_stop_intake(t *testing.T) {
	fs := &elsewhere{FS: vfs.NewMem()}
	j := openWith(t, options(fs))
	defer j.Close()
	appendAll(t, j, reading("d", 1, 70))
	if err := j.Checkpoint("copy"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if err := j.Err(); err != nil {
		t.Errorf("the journal says %v", err)
	}
	appendAll(t, j, reading("d", 2, 70))
}

// elsewhere has no room outside the journal.
type elsewhere struct{ vfs.FS }

func (f *elsewhere) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(name, "copy") {
		return nil, syscall.ENOSPC
	}
	return f.FS.Create(name, c)
}

func readFile(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return string(b), err
}
