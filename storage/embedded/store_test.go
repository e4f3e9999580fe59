package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/rs/zerolog"

	"vitalwatch/internal/leaktest"
	"vitalwatch/storage"
	"vitalwatch/storage/embedded"
	"vitalwatch/storage/storagetest"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func open(t testing.TB, fs vfs.FS) *embedded.Store {
	t.Helper()
	s, err := embedded.Open("s", embedded.Options{FS: fs, Logger: zerolog.Nop(), FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore_conforms(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Readings { return open(t, vfs.NewMem()) })
}

// Power loss at random moments: the recovered cursor and the readings belong together, and replaying from the cursor
// gives everything.
func TestStore_is_consistent_after_a_power_loss(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			mem := vfs.NewCrashableMem()
			s := open(t, mem)
			all := storagetest.Random(seed, 1, 4000, 7)
			crashAt := rnd.IntN(len(all))
			var clone *vfs.MemFS
			var durable uint64
			for at := 0; at < len(all); {
				n := min(1+rnd.IntN(300), len(all)-at)
				if err := s.Write(ctx, all[at:at+n], all[at+n-1].Seq); err != nil {
					t.Fatal(err)
				}
				at += n
				if rnd.IntN(4) == 0 {
					if err := s.Flush(ctx); err != nil {
						t.Fatal(err)
					}
				}
				if clone == nil && at >= crashAt {
					durable = s.Durable()
					clone = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, clone)
			defer s.Close()
			cursor := s.Cursor()
			if cursor < durable {
				t.Fatalf("recovered cursor %d, but %d was durable", cursor, durable)
			}
			if got := count(t, s); got != int(cursor) {
				t.Fatalf("recovered %d readings with cursor %d", got, cursor)
			}
			if err := s.Write(ctx, all[cursor:], all[len(all)-1].Seq); err != nil {
				t.Fatal(err)
			}
			if got := count(t, s); got != len(all) {
				t.Errorf("got %d readings after the replay, want %d", got, len(all))
			}
		})
	}
}

// count counts the readings of the patients of storagetest.Random.
func count(t *testing.T, s *embedded.Store) (n int) {
	t.Helper()
	for p := range 7 {
		for _, err := range s.Range(context.Background(), storage.Query{Patient: vitals.PatientID(fmt.Sprintf("P-%05d", p))}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return n
}

func TestStore_Durable_follows_the_flushes_in_the_background(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s, err := embedded.Open("s", embedded.Options{FS: mem, Logger: zerolog.Nop(), FlushEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(context.Background(), storagetest.Random(1, 1, 50, 7), 50); err != nil {
		t.Fatal(err)
	}
	for s.Durable() != 50 { // the test's deadline bounds it
		runtime.Gosched()
	}
	again := open(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	if again.Cursor() != 50 || count(t, again) != 50 {
		t.Errorf("got cursor %d and %d readings, want 50", again.Cursor(), count(t, again))
	}
	if err := errors.Join(s.Close(), again.Close()); err != nil {
		t.Error(err)
	}
}

// A flush that fails: writes are refused instead of waiting inside Pebble, nothing is lost, and it goes on by itself.
func TestStore_refuses_writes_while_it_cannot_flush(t *testing.T) {
	ctx := context.Background()
	var full atomic.Bool
	failed := make(chan struct{}, 1)
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind == errorfs.OpFileWrite {
			select {
			case failed <- struct{}{}:
			default:
			}
			return syscall.ENOSPC
		}
		return nil
	}))
	s := open(t, fs)
	defer s.Close()
	rs := storagetest.Random(1, 1, 100, 7)
	if err := s.Write(ctx, rs[:50], 50); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	flushCtx, cancel := context.WithCancel(ctx)
	go func() { <-failed; cancel() }()
	if err := s.Flush(flushCtx); !errors.Is(err, context.Canceled) {
		t.Fatalf("flush: got %v, want canceled", err)
	}
	for s.Err() == nil { // the failure is reported a moment after it happened
		runtime.Gosched()
	}
	if err := s.Write(ctx, rs[50:], 100); !errors.Is(err, embedded.ErrStuck) {
		t.Fatalf("write: got %v, want ErrStuck", err)
	}
	if s.Durable() != 0 || s.Cursor() != 50 || count(t, s) != 50 {
		t.Errorf("durable %d, cursor %d, %d readings", s.Durable(), s.Cursor(), count(t, s))
	}
	full.Store(false)
	for s.Err() != nil {
		runtime.Gosched()
	}
	if err := s.Write(ctx, rs[50:], 100); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(ctx); err != nil || s.Durable() != 100 {
		t.Errorf("flush: %v, durable %d, want 100", err, s.Durable())
	}
}

// A compaction that fails once leaves nothing to flush, and must not stop the store for good.
func TestStore_goes_on_after_a_failed_compaction(t *testing.T) {
	ctx := context.Background()
	const flushes = 8 // what starts a compaction
	var tables atomic.Int32
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".sst") && op.Kind == errorfs.OpCreate && tables.Add(1) == flushes+1 {
			return syscall.ENOSPC
		}
		return nil
	}))
	s := open(t, fs)
	defer s.Close()
	rs := storagetest.Random(1, 1, flushes, 7)
	for i := range rs {
		if err := errors.Join(s.Write(ctx, rs[i:i+1], uint64(i+1)), s.Flush(ctx)); err != nil {
			if i == flushes-1 && errors.Is(err, embedded.ErrStuck) {
				break // the compaction has failed already
			}
			t.Fatal(err)
		}
	}
	for tables.Load() <= flushes {
		runtime.Gosched()
	}
	for s.Write(ctx, rs, flushes) != nil { // the test's deadline bounds it
		runtime.Gosched()
	}
}

func TestStore_answers_after_Close(t *testing.T) {
	ctx := context.Background()
	s := open(t, vfs.NewMem())
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(ctx, nil, 1); !errors.Is(err, embedded.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	for _, err := range s.Range(ctx, storage.Query{Patient: "p"}) {
		if !errors.Is(err, embedded.ErrClosed) {
			t.Errorf("Range: %v", err)
		}
	}
	if _, err := s.Latest(ctx, "p"); !errors.Is(err, embedded.ErrClosed) {
		t.Errorf("Latest: %v", err)
	}
}

// go test -run '^$' -bench Store -benchtime 2000000x ./storage/embedded
func BenchmarkStore_Write(b *testing.B) {
	for _, block := range []int{500, 5000} {
		b.Run(fmt.Sprint("block=", block), func(b *testing.B) {
			s, err := embedded.Open(b.TempDir(), embedded.Options{Logger: zerolog.Nop()})
			if err != nil {
				b.Fatal(err)
			}
			rs := storagetest.Random(1, 1, b.N, 1000)
			b.ReportAllocs()
			b.ResetTimer()
			for at := 0; at < len(rs); at += block {
				part := rs[at:min(at+block, len(rs))]
				if err := s.Write(context.Background(), part, part[len(part)-1].Seq); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(len(rs))/b.Elapsed().Seconds(), "readings/s")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// 90 days of a CGM sensor, one reading every five minutes, among those of 50 other patients.
//
// go test -run '^$' -bench Store_Range ./storage/embedded
func BenchmarkStore_Range(b *testing.B) {
	const days90 = 25920
	s, err := embedded.Open(b.TempDir(), embedded.Options{Logger: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	rs := storagetest.Random(1, 1, days90, 50)
	for i := range rs {
		r := rs[i]
		r.Patient, r.Device, r.Seq = "cgm", "sensor", uint64(days90+i+1)
		rs = append(rs, r)
	}
	if err := errors.Join(s.Write(context.Background(), rs, uint64(len(rs))), s.Flush(context.Background())); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.Range(context.Background(), storage.Query{Patient: "cgm", Indicator: vitals.HeartRate}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != days90 {
			b.Fatalf("got %d readings", n)
		}
	}
}
