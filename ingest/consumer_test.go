package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage/storagetest"
	"vitalwatch/vitals"
)

// fakeLog is a journal of n readings whose Next fails as told.
type fakeLog struct {
	n    uint64
	fail []error // one for each call that fails, nil for one that does not
	end  error   // after the last reading
}

func (s *fakeLog) Next(ctx context.Context, after uint64) (journal.Block, error) {
	if len(s.fail) > 0 {
		err := s.fail[0]
		if s.fail = s.fail[1:]; err != nil {
			return journal.Block{}, err
		}
	}
	if after >= s.n {
		if s.end != nil {
			return journal.Block{}, s.end
		}
		<-ctx.Done()
		return journal.Block{}, ctx.Err()
	}
	return journal.Block{First: after + 1, Readings: []vitals.Reading{{Seq: after + 1}}}, nil
}

func (s *fakeLog) Last() uint64           { return s.n }
func (s *fakeLog) Release(string, uint64) {}

type carried struct {
	got  []uint64
	fail []error
}

func (s *carried) Handle(_ context.Context, rs []vitals.Reading, last uint64) error {
	if len(s.fail) > 0 {
		err := s.fail[0]
		if s.fail = s.fail[1:]; err != nil {
			return err
		}
	}
	s.got = append(s.got, last)
	return nil
}

func (s *carried) Cursor() uint64 {
	if len(s.got) == 0 {
		return 0
	}
	return s.got[len(s.got)-1]
}
func (s *carried) Durable() uint64 { return s.Cursor() }

func consumer(src *fakeLog, dst *carried) *ingest.Consumer {
	m := ingest.NewMetrics(prometheus.NewRegistry())
	return ingest.NewConsumer("test", src, dst, m, m.Evaluated(), zerolog.Nop())
}

// Errors that pass, of the sink and of reading the journal, neither skip nor repeat nor end the consumer.
func TestConsumer_TriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := fmt.Errorf("read journal: %w", syscall.EMFILE)
		src := &fakeLog{n: 4, fail: []error{nil, files, files, files}}
		dst := &carried{fail: []error{errors.New("disk"), nil, errors.New("disk")}}
		c := consumer(src, dst)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(time.Minute) // the bubble's clock
		synctest.Wait()
		if !slices.Equal(dst.got, []uint64{1, 2, 3, 4}) || !c.Stalled().IsZero() || !c.Level() {
			t.Errorf("carried %v, stalled since %v, level %v", dst.got, c.Stalled(), c.Level())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v after its context ended", err)
		}
	})
}

// What is accepted is what is stored and evaluated, also with corrections and voids, which journal more than came.
func TestConsumer_CountsWhatWasAccepted(t *testing.T) {
	h, m := newHouse(t, false), storagetest.NewMemory()
	const at = "2026-11-21T07:59:00Z"
	for _, body := range []string{observation("a", "final", at, 190), observation("a", "corrected", at, 90), observation("a", "corrected", at, 190),
		observation("a", "corrected", at, 190), observation("b", "preliminary", at, 80), observation("b", "final", at, 81), observation("b", "entered-in-error", "", 0),
		panel, observation("p", "entered-in-error", "", 0), observation("p", "entered-in-error", "", 0)} {
		h.post(t, "fhir", body)
	}
	done := prometheus.NewCounter(prometheus.CounterOpts{Name: "done"})
	c := ingest.NewConsumer("test", h.journal, &memorySink{m}, ingest.NewMetrics(prometheus.NewRegistry()), done, zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	want := gathered(t, h.reg, "vitalwatch_readings_accepted_total")
	if received := gathered(t, h.reg, "vitalwatch_readings_received_total"); received != want+gathered(t, h.reg, "vitalwatch_readings_duplicate_total") || want < 10 {
		t.Errorf("%g received, %g accepted", received, want)
	}
	for m.Cursor() < h.journal.Last() {
		runtime.Gosched()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(done)
	if got := gathered(t, reg, "done"); got != want {
		t.Errorf("%g carried, %g accepted", got, want)
	}
}

// What waits is told as it is, also before the consumer has begun, as after a restart.
func TestConsumer_TellsWhatWaitsNow(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := ingest.NewMetrics(reg)
	src, dst := &fakeLog{n: 5}, &carried{got: []uint64{2}}
	ingest.NewConsumer("test", src, dst, m, m.Evaluated(), zerolog.Nop())
	for _, c := range []struct{ last, taken, want uint64 }{{5, 2, 3}, {9, 2, 7}, {9, 9, 0}, {9, 10, 0}} {
		src.n, dst.got = c.last, []uint64{c.taken}
		if got := gathered(t, reg, "vitalwatch_consumer_lag"); got != float64(c.want) {
			t.Errorf("%d of %d taken: %v wait, want %d", c.taken, c.last, got, c.want)
		}
	}
}

// gathered is the sum of a metric over its labels.
func gathered(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	fs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.GetName() == name {
			for _, m := range f.Metric {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

type memorySink struct{ m *storagetest.Memory }

func (s *memorySink) Handle(ctx context.Context, rs []vitals.Reading, last uint64) error {
	return s.m.Write(ctx, rs, last)
}
func (s *memorySink) Cursor() uint64  { return s.m.Cursor() }
func (s *memorySink) Durable() uint64 { return s.m.Cursor() }

func TestConsumer_EndsWhenTheJournalHasNotGotWhatIsNext(t *testing.T) {
	for _, end := range []error{journal.ErrTrimmed, journal.ErrAhead, journal.ErrClosed, &journal.CorruptionError{}} {
		dst := &carried{}
		if err := consumer(&fakeLog{n: 1, end: fmt.Errorf("wrapped: %w", end)}, dst).Run(t.Context()); !errors.Is(err, end) || len(dst.got) != 1 {
			t.Errorf("Run = %v after %v, want %v", err, dst.got, end)
		}
	}
}
