package journal_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// faults injects an error into the operations that match.
type faults struct {
	when atomic.Pointer[func(errorfs.Op) error]
}

func (f *faults) String() string { return "faults" }

func (f *faults) MaybeError(op errorfs.Op) error {
	if w := f.when.Load(); w != nil {
		return (*w)(op)
	}
	return nil
}

func (f *faults) set(w func(errorfs.Op) error) {
	if w == nil {
		f.when.Store(nil)
		return
	}
	f.when.Store(&w)
}

func isLog(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".log") }

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
}

func isWrite(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate
}

func TestJournal_fences_when_a_sync_fails_once(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var f faults
	j, err := journal.Open("j", options(errorfs.Wrap(mem, &f)))
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, j, reading("a", 0, 70))
	var once atomic.Bool
	f.set(func(op errorfs.Op) error {
		if isLog(op) && isSync(op) && once.CompareAndSwap(false, true) {
			return syscall.EIO
		}
		return nil // and from then on the disk "works" again
	})
	ctx := context.Background()
	g := journal.Group{Readings: []vitals.Reading{reading("a", 1, 71)}}
	if err := j.Append(ctx, &g); !errors.Is(err, journal.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
	if len(g.Verdicts) != 0 {
		t.Errorf("got verdicts %v for a group that failed", g.Verdicts)
	}
	j.Tick()
	if err := j.Append(ctx, &g); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("after the disk recovered: got %v, want ErrFenced until the restart", err)
	}
	if err := j.Err(); !errors.Is(err, journal.ErrFenced) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("Err gives %v, want the next step", err)
	}
	if j.Last() != 1 {
		t.Errorf("got last %d, want 1", j.Last())
	}
	if got := readAll(t, j, 0); len(got) != 1 {
		t.Errorf("consumers see %d readings, want the acknowledged one", len(got))
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	again := open(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	if v := appendAll(t, again, reading("a", 0, 70)); v[0] != journal.Duplicate {
		t.Errorf("after the restart the acknowledged reading is %v, want Duplicate", v[0])
	}
}

func TestJournal_a_full_disk_heals_without_restart(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(errorfs.Op) bool
	}{
		{"log write", func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpFileWrite }},
		{"log sync", func(op errorfs.Op) bool { return isLog(op) && isSync(op) }},
		{"everything", func(op errorfs.Op) bool { return isWrite(op) || isSync(op) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var f faults
			j := open(t, errorfs.Wrap(vfs.NewMem(), &f))
			for i := range 100 {
				appendAll(t, j, reading("a", i, 70))
			}
			f.set(func(op errorfs.Op) error {
				if tc.fail(op) {
					return syscall.ENOSPC
				}
				return nil
			})
			g := journal.Group{Readings: []vitals.Reading{reading("a", 100, 71)}}
			if err := j.Append(context.Background(), &g); !errors.Is(err, journal.ErrFenced) {
				t.Fatalf("got %v, want ErrFenced", err)
			}
			if err := j.Err(); err == nil || !strings.Contains(err.Error(), "free disk space") {
				t.Errorf("Err gives %v, want the next step", err)
			}
			f.set(nil)
			for j.Err() != nil { // drained within a few rounds
				j.Tick()
			}
			appendAll(t, j, reading("a", 100, 71)) // New or Duplicate: it was never acknowledged
			if v := appendAll(t, j, reading("a", 100, 71), reading("a", 50, 70)); v[0] != journal.Duplicate || v[1] != journal.Duplicate {
				t.Errorf("got %v, want duplicates", v)
			}
			if got := readAll(t, j, 0); len(got) != 101 {
				t.Errorf("got %d readings, want 101", len(got))
			}
		})
	}
}

func TestJournal_survives_a_panic_of_Pebble_when_the_log_cannot_be_rotated(t *testing.T) {
	var f faults
	j := open(t, errorfs.Wrap(vfs.NewMem(), &f))
	f.set(func(op errorfs.Op) error {
		if isLog(op) && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite) {
			return syscall.ENOSPC
		}
		return nil
	})
	big := strings.Repeat("x", 60<<10)
	var acked []vitals.Reading
	for i := 0; ; i++ {
		r := reading("a", i, 70)
		r.Extra = &vitals.Extra{Aside: big}
		g := journal.Group{Readings: []vitals.Reading{r}}
		if err := j.Append(context.Background(), &g); err != nil {
			if !errors.Is(err, journal.ErrFenced) {
				t.Fatalf("got %v, want ErrFenced", err)
			}
			break
		}
		acked = append(acked, r)
		if i > 10000 {
			t.Fatal("the log was never rotated")
		}
	}
	f.set(nil)
	for j.Err() != nil {
		j.Tick()
	}
	if v := appendAll(t, j, acked...); slices.ContainsFunc(v, func(v journal.Verdict) bool { return v != journal.Duplicate }) {
		t.Error("an acknowledged reading is missing")
	}
}

// Pebble calls Logger.Fatalf when its MANIFEST cannot be written; the process goes on, and says so.
func TestJournal_fences_when_the_manifest_cannot_be_written(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var f faults
	j, err := journal.Open("j", options(errorfs.Wrap(mem, &f)))
	if err != nil {
		t.Fatal(err)
	}
	f.set(func(op errorfs.Op) error {
		if strings.Contains(op.Path, "MANIFEST") && (isWrite(op) || isSync(op)) {
			return syscall.EIO
		}
		return nil
	})
	acked := 0
	for i := 0; ; i++ { // until a memtable is full and flushed
		r := reading("a", i, 70)
		r.Extra = &vitals.Extra{Aside: strings.Repeat("x", 60<<10)}
		g := journal.Group{Readings: []vitals.Reading{r}}
		if err := j.Append(context.Background(), &g); err != nil {
			if !errors.Is(err, journal.ErrFenced) || !strings.Contains(err.Error(), "restart") {
				t.Fatalf("got %v, want ErrFenced", err)
			}
			break
		}
		if acked++; i > 10000 {
			t.Fatal("nothing was ever flushed")
		}
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if again := open(t, mem.CrashClone(vfs.CrashCloneCfg{})); again.Last() < uint64(acked) {
		t.Errorf("%d readings after the restart, %d were acknowledged", again.Last(), acked)
	}
}

func TestJournal_refuses_before_the_disk_is_full(t *testing.T) {
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 10 << 20, TotalBytes: 1 << 30})
	o := options(mem)
	o.HeadRoom = 1 << 20
	j, err := journal.Open("j", o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	appendAll(t, j, reading("a", 0, 70))
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1<<20 - 1, TotalBytes: 1 << 30})
	j.Tick()
	g := journal.Group{Readings: []vitals.Reading{reading("a", 1, 71)}}
	if err := j.Append(context.Background(), &g); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 20, TotalBytes: 1 << 30})
	j.Tick()
	if v := appendAll(t, j, reading("a", 1, 71)); v[0] != journal.New {
		t.Errorf("got %v, want New: nothing of a refused group is stored", v)
	}
}

// A slow disk: the wait is bounded by the caller, its memory is its own again at once, and memory does not grow.
func TestJournal_bounds_the_wait_for_a_slow_disk(t *testing.T) {
	var f faults
	j := open(t, errorfs.Wrap(vfs.NewMem(), &f))
	appendAll(t, j, reading("a", 0, 70))
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.set(func(op errorfs.Op) error {
		if isLog(op) && isSync(op) {
			once.Do(func() { close(entered) })
			<-release
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error)
	g := journal.Group{Readings: []vitals.Reading{reading("a", 1, 71)}}
	go func() { errs <- j.Append(ctx, &g) }()
	<-entered
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	g.Readings[0] = reading("b", 0, 1) // the caller reuses its memory while the old content is on its way
	late := make(chan error)
	for i := range 3 {
		go func() {
			g := journal.Group{Readings: []vitals.Reading{reading("c", i, 70)}}
			late <- j.Append(context.Background(), &g)
		}()
	}
	close(release)
	for range 3 {
		if err := <-late; err != nil {
			t.Errorf("after the disk went on: %v", err)
		}
	}
	for _, r := range readAll(t, j, 0) {
		if r.Device == "b" {
			t.Error("the reused memory was stored")
		}
	}
	if v := appendAll(t, j, reading("a", 1, 71)); v[0] != journal.Duplicate {
		t.Errorf("got %v, want Duplicate: the group was on its way when its caller left", v[0])
	}
}

// Power loss at random moments: what was acknowledged is there, dense and in order, and is known as a duplicate.
func TestJournal_keeps_what_was_acknowledged_through_a_power_loss(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			mem := vfs.NewCrashableMem()
			j, err := journal.Open("j", options(mem))
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var acked []vitals.Reading
			var clone *vfs.MemFS
			crashAt := rnd.IntN(600)
			var at []vitals.Reading // acknowledged before the crash
			var wg sync.WaitGroup
			for w := range 8 {
				wg.Go(func() {
					var g journal.Group
					for i := range 100 {
						g.Reset()
						for k := range 1 + (w+i)%4 {
							g.Readings = append(g.Readings, reading(fmt.Sprint("d", w), 10*i+k, float64(i%200)))
						}
						if err := j.Append(context.Background(), &g); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						acked = append(acked, g.Readings...)
						if len(acked) >= crashAt && clone == nil {
							at = slices.Clone(acked)
							clone = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			again := open(t, clone)
			bySeq := map[uint64]vitals.Reading{}
			for i, r := range readAll(t, again, 0) {
				if r.Seq != uint64(i+1) {
					t.Fatalf("got sequence %d at place %d", r.Seq, i)
				}
				bySeq[r.Seq] = r
			}
			for _, r := range at {
				if got := bySeq[r.Seq]; got.ID() != r.ID() {
					t.Fatalf("acknowledged reading %d is not there", r.Seq)
				}
			}
			last := again.Last()
			for _, v := range appendAll(t, again, at...) {
				if v != journal.Duplicate {
					t.Fatal("an acknowledged reading is not known as a duplicate")
				}
			}
			if again.Last() != last {
				t.Error("duplicates got sequences")
			}
		})
	}
}

// fill writes n readings one by one and returns how long the log was after each, and the closed file system's state.
func fill(t *testing.T, n int) (fs *vfs.MemFS, log string, ends []int) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	j, err := journal.Open("j", options(mem))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		appendAll(t, j, reading("a", i, 70+float64(i)))
		log = newestLog(t, mem)
		data, err := mem.UnsafeGetFileDataBuffer(log)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(data))
	}
	fs = mem.CrashClone(vfs.CrashCloneCfg{}) // as after a kill: no clean end
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return fs, log, ends
}

func newestLog(t *testing.T, fs vfs.FS) string {
	t.Helper()
	names, err := fs.List("j")
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return filepath.Ext(n) != ".log" })
	return "j/" + slices.Max(names)
}

// damaged is a copy of fs with another content of one file.
func damaged(t *testing.T, fs *vfs.MemFS, name string, change func([]byte) []byte) *vfs.MemFS {
	t.Helper()
	c := fs.CrashClone(vfs.CrashCloneCfg{})
	data, err := c.UnsafeGetFileDataBuffer(name)
	if err != nil {
		t.Fatal(err)
	}
	data = change(slices.Clone(data))
	f, err := c.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	d, err := c.OpenDir("j")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close(), d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestJournal_drops_only_a_torn_end(t *testing.T) {
	fs, log, ends := fill(t, 6)
	for cut := 0; cut <= ends[len(ends)-1]; cut++ {
		for _, tail := range []struct {
			name string
			add  []byte
		}{{"cut", nil}, {"zeros", make([]byte, 100)}, {"garbage", []byte("garbage that no record starts with")}} {
			if tail.add != nil && cut%7 != 0 {
				continue // every cut is tried, a few of them with a tail
			}
			intact := 0 // bytes at the start that are as they were; a tail of zeros may continue them
			c := damaged(t, fs, log, func(b []byte) []byte {
				was := slices.Clone(b)
				b = append(b[:cut], tail.add...)
				for intact < len(b) && intact < len(was) && b[intact] == was[intact] {
					intact++
				}
				return b
			})
			j, err := journal.Open("j", options(c))
			if err != nil {
				t.Fatalf("%s at %d: %v", tail.name, cut, err)
			}
			want := 0
			for want < len(ends) && ends[want] <= intact {
				want++
			}
			got := readAll(t, j, 0)
			if len(got) != want {
				t.Fatalf("%s at %d: got %d readings, want %d", tail.name, cut, len(got), want)
			}
			if v := appendAll(t, j, reading("a", 1000, 1)); v[0] != journal.New || j.Last() != uint64(want+1) {
				t.Fatalf("%s at %d: cannot go on: %v, last %d", tail.name, cut, v, j.Last())
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A flipped bit before the last record is damage, never a torn end: opening or verifying says so, or nothing is lost.
func TestJournal_never_skips_a_flipped_bit_in_the_middle(t *testing.T) {
	fs, log, ends := fill(t, 8)
	found := 0
	for at := range ends[len(ends)-2] {
		c := damaged(t, fs, log, func(b []byte) []byte { b[at] ^= 1 << (at % 8); return b })
		_, verr := journal.VerifyFS(c.CrashClone(vfs.CrashCloneCfg{}), "j")
		j, err := journal.Open("j", options(c))
		if err != nil {
			found++
			if verr == nil {
				t.Errorf("byte %d: Open refuses (%v), Verify does not", at, err)
			}
			continue
		}
		if n := len(readAll(t, j, 0)); n != len(ends) {
			t.Errorf("byte %d: %d of %d readings and no error", at, n, len(ends))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if found < ends[len(ends)-2]*9/10 {
		t.Errorf("only %d of %d flips were found", found, ends[len(ends)-2])
	}
}

func TestVerify_finds_flipped_bits_in_tables(t *testing.T) {
	mem := vfs.NewCrashableMem()
	j, err := journal.Open("j", options(mem))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		appendAll(t, j, reading("a", i, 70), reading("a", 1000-i, 70))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, mem).Close() // flushes the log into a table
	rep, err := journal.VerifyFS(mem.CrashClone(vfs.CrashCloneCfg{}), "j")
	if err != nil || rep.Readings != 100 || rep.First != 1 || rep.Last != 100 {
		t.Fatalf("got %+v, %v", rep, err)
	}
	names, _ := mem.List("j")
	tables, found, total := 0, 0, 0
	for _, n := range names {
		if filepath.Ext(n) != ".sst" {
			continue
		}
		tables++
		data, _ := mem.UnsafeGetFileDataBuffer("j/" + n)
		for at := 0; at < len(data); at += 29 {
			c := damaged(t, mem, "j/"+n, func(b []byte) []byte { b[at] ^= 0x10; return b })
			total++
			rep, err := journal.VerifyFS(c, "j")
			if err != nil {
				found++
			} else if rep.Readings != 100 {
				t.Errorf("byte %d of %s: %d readings and no error", at, n, rep.Readings)
			}
		}
	}
	if tables == 0 || found < total/2 {
		t.Errorf("found %d of %d flips in %d tables", found, total, tables)
	}
}

// model is what the journal is: a list, and what was seen.
type model struct {
	accepted []vitals.Reading
	seen     map[string]bool
	ids      map[string]bool
}

func (m *model) append(r vitals.Reading) journal.Verdict {
	id := ""
	if r.Extra != nil {
		id = string(r.Device) + "/" + r.Extra.DeviceReadingID
	}
	switch {
	case m.seen[r.ID()]:
		return journal.Duplicate
	case id != "" && m.ids[id]:
		return journal.Conflict
	}
	m.seen[r.ID()] = true
	if id != "" {
		m.ids[id] = true
	}
	r.Seq = uint64(len(m.accepted) + 1)
	m.accepted = append(m.accepted, r)
	return journal.New
}

func TestJournal_behaves_like_the_model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := vfs.NewCrashableMem()
		j, err := journal.Open("j", options(mem))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { j.Close() }()
		m := model{seen: map[string]bool{}, ids: map[string]bool{}}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var g journal.Group
				for range rapid.IntRange(1, 10).Draw(t, "n") {
					r := reading(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "device"), rapid.IntRange(-20, 20).Draw(t, "at"),
						float64(rapid.IntRange(60, 62).Draw(t, "value")))
					if id := rapid.IntRange(0, 12).Draw(t, "id"); id < 6 {
						r = withID(r, fmt.Sprint(id))
					}
					g.Readings = append(g.Readings, r)
				}
				if err := j.Append(context.Background(), &g); err != nil {
					t.Fatal(err)
				}
				for i, r := range g.Readings {
					r.Seq = 0
					if want := m.append(r); g.Verdicts[i] != want {
						t.Fatalf("reading %d of the group: got %v, want %v", i, g.Verdicts[i], want)
					}
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
			"crash": func(t *rapid.T) {
				clone := mem.CrashClone(vfs.CrashCloneCfg{})
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				mem = clone
				if j, err = journal.Open("j", options(mem)); err != nil {
					t.Fatal(err)
				}
			},
			"release": func(t *rapid.T) {
				j.Release("c", rapid.Uint64Range(0, j.Last()).Draw(t, "seq"))
				j.Tick()
			},
			"": func(t *rapid.T) {
				if j.Last() != uint64(len(m.accepted)) {
					t.Fatalf("got last %d, want %d", j.Last(), len(m.accepted))
				}
				after := rapid.Uint64Range(0, j.Last()).Draw(t, "after")
				for after < j.Last() {
					b, err := j.Next(context.Background(), after)
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range b.Readings {
						after++
						if want := m.accepted[after-1]; r.Seq != after || r.ID() != want.ID() {
							t.Fatalf("got reading %d, want %d with the model's content", r.Seq, after)
						}
					}
				}
			},
		})
	})
}
