package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// house is a pipeline over a real journal (in memory) and real registries.
type house struct {
	*ingest.Pipeline
	journal *journal.Journal
	devices *devices.Registry
	people  *care.Registry
	reg     *prometheus.Registry
	now     time.Time
	config  ingest.Config
}

// use gives the pipeline a readings store to look for what is corrected.
func (h *house) use(s ingest.Store) {
	h.config.Store = s
	h.Pipeline = ingest.New(h.config)
}

// today is when these tests begin, for journals too: by the real clock they would drop what is kept for a day or a month,
// sooner or later.
func today() time.Time { return time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC) }

func newHouse(t testing.TB, open bool) *house {
	t.Helper()
	ctx := t.Context()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	people, err := care.Open(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := devices.Open(ctx, db, people)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := people.Add(ctx, care.Patient{ID: "P-1"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := reg.Add(ctx, devices.New{ID: "D-1", Patient: "P-1"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := reg.Add(ctx, devices.New{ID: "D-unbound"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := reg.Add(ctx, devices.New{ID: "D-off", Patient: "P-1"}); err != nil {
		t.Fatal(err)
	}
	if err := reg.SetDisabled(ctx, "D-off", true); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: today})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	h := &house{journal: j, devices: reg, people: people, reg: prometheus.NewRegistry(), now: today()}
	c := ingest.Config{Devices: reg, Journal: j, Now: func() time.Time { return h.now }, Metrics: ingest.NewMetrics(h.reg)}
	if open {
		c.Register = func(ctx context.Context, id vitals.DeviceID) (*devices.Handle, error) {
			return reg.Register(ctx, id, nil)
		}
	}
	h.config = c
	h.Pipeline = ingest.New(c)
	return h
}

func (h *house) send(t *testing.T, device vitals.DeviceID, body string) ingest.Result {
	t.Helper()
	b := h.NewBatch()
	b.Add(ingest.Message{Device: device, Format: "readings", Source: "mqtt", Payload: []byte(body), ReceivedAt: vitals.At(h.now)})
	res, err := b.Commit(t.Context())
	if err != nil {
		t.Fatalf("Commit(%s): %v", body, err)
	}
	return res[0]
}

func TestPipeline_OutcomeOfEveryKindOfItem(t *testing.T) {
	const good = `{"indicator":"glucose","taken_at":"2026-11-21T07:59:00Z","value":7.8,"unit":"mmol/L"}`
	for _, c := range []struct {
		name, device, body               string
		accepted, duplicate, quarantined int
		problem                          string
	}{
		{"single", "D-1", good, 1, 0, 0, ""},
		{"array with itself twice", "D-1", "[" + good + "," + good + "]", 1, 1, 0, ""},
		{"history", "D-1", strings.Replace(good, "2026-11-21", "2015-06-06", 1), 1, 0, 0, ""},
		{"one bad item does not cost the others", "D-1", "[" + good + "," + strings.Replace(good, "mmol/L", "mol", 1) + "]", 1, 0, 1, payload.UnitUnknown},
		{"impossible value", "D-1", strings.Replace(good, "7.8", "78000", 1), 0, 0, 1, payload.ValueImpossible},
		{"diastolic above systolic", "D-1", `{"indicator":"blood_pressure","taken_at":"2026-11-21T07:59:00Z","values":{"systolic":80,"diastolic":120},"unit":"mmHg"}`, 0, 0, 1, payload.ValueImpossible},
		{"clock five minutes ahead is tolerated", "D-1", strings.Replace(good, "07:59:00", "08:05:00", 1), 1, 0, 0, ""},
		{"clock further ahead", "D-1", strings.Replace(good, "07:59:00", "08:05:01", 1), 0, 0, 1, payload.ClockAhead},
		{"device bound to nobody", "D-unbound", good, 0, 0, 1, payload.PatientUnknown},
		{"unknown device", "D-ghost", good, 0, 0, 1, payload.DeviceUnknown},
		{"disabled device", "D-off", good, 0, 0, 1, payload.DeviceDisabled},
		{"not JSON", "D-1", `{"indicator":`, 0, 0, 1, payload.JSONInvalid},
		{"501 readings", "D-1", "[" + strings.Repeat(good+",", 500) + good + "]", 0, 0, 1, payload.TooManyReadings},
		{"too large", "D-1", strings.Repeat(" ", payload.MaxBytes+1), 0, 0, 1, payload.TooLarge},
		{"same id, other content", "D-1", "[" + strings.Replace(good, "{", `{"id":"a",`, 1) + "," +
			strings.Replace(strings.Replace(good, "7.8", "7.9", 1), "{", `{"id":"a",`, 1) + "]", 1, 0, 1, payload.IDConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, false)
			got := h.send(t, vitals.DeviceID(c.device), c.body)
			if got.Accepted != c.accepted || got.Duplicate != c.duplicate || got.Quarantined != c.quarantined {
				t.Fatalf("got %d accepted, %d duplicate, %d quarantined %v; want %d, %d, %d",
					got.Accepted, got.Duplicate, got.Quarantined, got.Problems, c.accepted, c.duplicate, c.quarantined)
			}
			if c.problem != "" && got.Problems[0].Code != c.problem {
				t.Errorf("problem %q, want %q", got.Problems[0].Code, c.problem)
			}
			items, _, err := h.journal.Quarantine(t.Context(), 10, 0)
			if err != nil || (len(items) > 0) != (c.quarantined > 0) {
				t.Fatalf("quarantine holds %v (%v)", items, err)
			}
			for _, it := range items {
				q, err := h.journal.QuarantineGet(it.ID)
				if err != nil || string(q.Payload) != c.body || q.Device != vitals.DeviceID(c.device) {
					t.Errorf("quarantined item %+v (%v) does not hold what was sent", q, err)
				}
			}
			h.wantCounted(t, c.accepted, c.duplicate, c.quarantined)
		})
	}
}

// An external broker may pass on a message of any size: quarantine keeps so much that it stays too large.
func TestPipeline_QuarantineKeepsTheBeginningOfAGiant(t *testing.T) {
	h := newHouse(t, false)
	b := h.NewBatch()
	b.Add(ingest.Message{Device: "D-1", Format: strings.Repeat("x", 60_000), Source: "broker", Payload: make([]byte, 5<<20), ReceivedAt: vitals.At(h.now)})
	b.Add(ingest.Message{Device: "D-1", Format: "readings", Source: "broker", Payload: make([]byte, 5<<20), ReceivedAt: vitals.At(h.now)})
	if _, err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	items, _, err := h.journal.Quarantine(t.Context(), 10, 0)
	if err != nil || len(items) != 2 {
		t.Fatalf("quarantine holds %d items (%v), want 2", len(items), err)
	}
	for _, it := range items {
		if it.Size != payload.MaxBytes+1 || len(it.Format) > 200 {
			t.Errorf("kept %d bytes and a format of %d, want %d and few", it.Size, len(it.Format), payload.MaxBytes+1)
		}
		if r, err := h.Replay(t.Context(), it.ID); err != nil || r.Quarantined != 1 {
			t.Errorf("replay: %+v, %v; want it refused again", r, err)
		}
	}
}

// wantCounted: received = accepted + duplicates + quarantined, in the metrics too.
func (h *house) wantCounted(t *testing.T, accepted, duplicate, quarantined int) {
	t.Helper()
	sums := map[string]float64{}
	families, err := h.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			sums[f.GetName()] += m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]int{"received": accepted + duplicate + quarantined, "accepted": accepted, "duplicate": duplicate, "quarantined": quarantined} {
		if got := sums["vitalwatch_readings_"+name+"_total"]; got != float64(want) {
			t.Errorf("%s_total = %v, want %d", name, got, want)
		}
	}
}

func TestPipeline_ReadingsAreCompleteInTheJournal(t *testing.T) {
	h := newHouse(t, false)
	h.send(t, "D-1", `[{"indicator":"blood_pressure","taken_at":"2026-11-21T15:59:00+08:00","values":{"systolic":142,"diastolic":91,"pulse":72},"unit":"mmHg"},
		{"indicator":"glucose","taken_at":"2026-11-21T07:00:00Z","value":7.8,"unit":"mmol/L"},
		{"indicator":"heart_rate","taken_at":"2026-11-19T07:00:00Z","value":225,"unit":"bpm"}]`)
	block, err := h.journal.Next(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		patient vitals.PatientID
		fresh   vitals.Freshness
		quality vitals.Quality
		unit    string
	}
	var got []row
	for _, r := range block.Readings {
		got = append(got, row{r.Patient, r.Freshness, r.Quality, r.Unit.String()})
	}
	want := []row{{"P-1", vitals.Live, vitals.Good, "mm[Hg]"}, {"P-1", vitals.Late, vitals.Good, "mmol/L"}, {"P-1", vitals.Backfill, vitals.Suspect, "/min"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPipeline_OpenRegistrationMakesDeviceAndPatient(t *testing.T) {
	h := newHouse(t, true)
	got := h.send(t, "new-1", `{"indicator":"heart_rate","taken_at":"2026-11-21T08:00:00Z","value":72,"unit":"/min"}`)
	if got.Accepted != 1 {
		t.Fatalf("got %+v", got)
	}
	block, err := h.journal.Next(t.Context(), 0)
	if err != nil || block.Readings[0].Patient != "P-new-1" {
		t.Fatalf("patient %q (%v), want P-new-1", block.Readings[0].Patient, err)
	}
}

func TestPipeline_ReplayAfterTheCauseIsMended(t *testing.T) {
	h := newHouse(t, false)
	body := `{"indicator":"glucose","taken_at":"2026-11-21T08:00:00Z","value":2.0,"unit":"mmol/L"}`
	if got := h.send(t, "D-unbound", body); got.Quarantined != 1 {
		t.Fatalf("got %+v", got)
	}
	items, _, err := h.journal.Quarantine(t.Context(), 10, 0)
	if err != nil || len(items) != 1 {
		t.Fatal(items, err)
	}
	if res, err := h.Replay(t.Context(), items[0].ID); err != nil || res.Quarantined != 1 {
		t.Fatalf("replay before mending: %+v, %v", res, err)
	}
	if items, _, _ := h.journal.Quarantine(t.Context(), 10, 0); len(items) != 1 {
		t.Fatalf("a failed replay left %d items, want the one", len(items))
	}
	if err := h.devices.Bind(t.Context(), "D-unbound", 0, "P-1", 0); err != nil {
		t.Fatal(err)
	}
	res, err := h.Replay(t.Context(), items[0].ID)
	if err != nil || res.Accepted != 1 || len(res.Items) != 1 || res.Items[0].Status != "accepted" {
		t.Fatalf("replay: %+v, %v, want one accepted, in Items too", res, err)
	}
	block, err := h.journal.Next(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if r := block.Readings[0]; r.Freshness == vitals.Live || r.Patient != "P-1" || r.ReceivedAt != vitals.At(h.now) {
		t.Errorf("replayed reading is %s of %s received %v; want not live, of P-1, received when it came", r.Freshness, r.Patient, r.ReceivedAt.Time())
	}
	if _, err := h.Replay(t.Context(), items[0].ID); !errors.Is(err, journal.ErrNotQuarantined) {
		t.Errorf("second replay = %v, want ErrNotQuarantined", err)
	}
}

func TestBatch_ItemsAreInOrder(t *testing.T) {
	h := newHouse(t, false)
	b := h.NewBatch()
	b.WantItems = true
	b.Add(ingest.Message{Device: "D-1", Format: "readings", Source: "http", ReceivedAt: vitals.At(h.now), Payload: []byte(
		`[{"indicator":"glucose","taken_at":"2026-11-21T08:00:00Z","value":7.8},
		  {"indicator":"glucose","taken_at":"2026-11-21T08:00:00Z","value":7.8,"unit":"mmol/L"},
		  {"indicator":"glucose","taken_at":"2026-11-21T08:00:00Z","value":7.8,"unit":"mmol/L"}]`)})
	res, err := b.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range res[0].Items {
		got = append(got, it.Status)
	}
	if want := []string{"quarantined", "accepted", "duplicate"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBatch_NothingIsAcknowledgedWhenTheJournalFails(t *testing.T) {
	h := newHouse(t, false)
	h.journal.Close()
	b := h.NewBatch()
	b.Add(ingest.Message{Device: "D-1", Format: "readings", Source: "mqtt", ReceivedAt: vitals.At(h.now),
		Payload: []byte(`{"indicator":"heart_rate","taken_at":"2026-11-21T08:00:00Z","value":72,"unit":"/min"}`)})
	if res, err := b.Commit(t.Context()); err == nil || res != nil {
		t.Fatalf("Commit on a closed journal = %v, %v", res, err)
	}
	h.wantCounted(t, 0, 0, 0)
}

// sink fails a few times and remembers what it was given.
type sink struct {
	fail   int
	cursor uint64
	got    []uint64
	full   chan struct{}
	want   int
}

func (s *sink) Handle(_ context.Context, rs []vitals.Reading, last uint64) error {
	if s.fail > 0 {
		s.fail--
		return errors.New("not now")
	}
	for _, r := range rs {
		s.got = append(s.got, r.Seq)
	}
	s.cursor = last
	if len(s.got) == s.want {
		close(s.full)
	}
	return nil
}
func (s *sink) Cursor() uint64  { return s.cursor }
func (s *sink) Durable() uint64 { return s.cursor }

func TestConsumer_SkipsNothingWhenTheSinkFails(t *testing.T) {
	h := newHouse(t, false)
	for i := range 10 {
		h.send(t, "D-1", fmt.Sprintf(`{"indicator":"heart_rate","taken_at":"2026-11-21T07:50:%02dZ","value":72,"unit":"/min"}`, i))
	}
	s := &sink{fail: 3, cursor: 2, full: make(chan struct{}), want: 8}
	reg := prometheus.NewRegistry()
	m := ingest.NewMetrics(reg)
	ctx, cancel := context.WithCancel(t.Context())
	c := ingest.NewConsumer("test", h.journal, s, m, m.Evaluated(), zerolog.Nop())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-s.full
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := []uint64{3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(s.got, want) {
		t.Errorf("got %v, want %v", s.got, want)
	}
	var counted dto.Metric
	if err := m.Evaluated().Write(&counted); err != nil || counted.GetCounter().GetValue() != 8 {
		t.Errorf("counted %v (%v), want 8", counted.GetCounter().GetValue(), err)
	}
	if !c.Level() || !c.Stalled().IsZero() {
		t.Errorf("level %v, stalled since %v", c.Level(), c.Stalled())
	}
}

// A device that is not registered, or disabled, is refused reading by reading: counters and answers are of readings.
func TestPipeline_RefusesEveryReadingOfAMessage(t *testing.T) {
	const two = `[{"indicator":"heart_rate","taken_at":"2026-11-21T07:59:00Z","value":72,"unit":"/min"},{"indicator":"heart_rate"}]`
	for _, c := range []struct {
		name, device, payload, problem string
		want                           int
	}{
		{"unknown", "D-unknown", two, payload.DeviceUnknown, 2},
		{"unknown and unreadable", "D-unknown", "x", payload.DeviceUnknown, 1},
		{"unknown and empty", "D-unknown", "[]", payload.DeviceUnknown, 1},
		{"disabled", "D-1", two, payload.DeviceDisabled, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, false)
			if err := h.devices.SetDisabled(t.Context(), "D-1", true); err != nil {
				t.Fatal(err)
			}
			b := h.NewBatch()
			b.WantItems = true
			b.Add(ingest.Message{Device: vitals.DeviceID(c.device), Format: "readings", Source: "http", Payload: []byte(c.payload), ReceivedAt: vitals.At(h.now)})
			res, err := b.Commit(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r := res[0]; r.Quarantined != c.want || len(r.Items) != c.want || r.Accepted+r.Duplicate != 0 {
				t.Fatalf("result %+v, want %d refused", r, c.want)
			}
			for i, it := range res[0].Items {
				if it.Status != "quarantined" || it.Problem.Index != i || it.Problem.Code != c.problem {
					t.Errorf("item %d: %+v", i, it)
				}
			}
			if got := gathered(t, h.reg, "vitalwatch_readings_quarantined_total"); got != float64(c.want) || got != gathered(t, h.reg, "vitalwatch_readings_received_total") {
				t.Errorf("%g counted, want %d", got, c.want)
			}
		})
	}
}

// A commit that its caller gives up may become durable all the same. It is counted then: accepted is what is stored, and
// the resend is a duplicate.
func TestPipeline_CountsWhatBecomesDurableLate(t *testing.T) {
	h := newHouse(t, false)
	hold := newSlowDisk()
	j, err := journal.Open("slow", journal.Options{FS: errorfs.Wrap(vfs.NewMem(), hold), Logger: zerolog.Nop(), Now: today})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	h.config.Journal = j
	h.Pipeline = ingest.New(h.config)
	const body = `[{"indicator":"glucose","taken_at":"2026-11-21T07:59:00Z","value":7.8,"unit":"mmol/L"},
		{"indicator":"glucose","taken_at":"2026-11-21T07:58:00Z","value":7.8}]`
	hold.on.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		b := h.NewBatch()
		b.Add(ingest.Message{Device: "D-1", Format: "readings", Source: "mqtt", Payload: []byte(body), ReceivedAt: vitals.At(h.now)})
		_, err := b.Commit(ctx)
		errs <- err
	}()
	<-hold.entered
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	h.wantCounted(t, 0, 0, 0)
	hold.on.Store(false)
	close(hold.release)
	for deadline := time.Now().Add(time.Minute); gathered(t, h.reg, "vitalwatch_readings_quarantined_total") == 0 && time.Now().Before(deadline); {
		runtime.Gosched() // it is counted last
	}
	h.wantCounted(t, 1, 0, 1)
	if r := h.send(t, "D-1", body); r.Accepted != 0 || r.Duplicate != 1 || r.Quarantined != 1 {
		t.Errorf("the resend: %+v", r)
	}
	h.wantCounted(t, 1, 1, 2)
}

// slowDisk holds the syncs of the log back while it is on.
type slowDisk struct {
	on               atomic.Bool
	once             sync.Once
	entered, release chan struct{}
}

func newSlowDisk() *slowDisk {
	return &slowDisk{entered: make(chan struct{}), release: make(chan struct{})}
}

func (*slowDisk) String() string { return "slow disk" }

func (d *slowDisk) MaybeError(op errorfs.Op) error {
	if d.on.Load() && strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
		d.once.Do(func() { close(d.entered) })
		<-d.release
	}
	return nil
}

// When one device cannot be registered nothing of the batch is taken: the others are not waited for as well.
func TestPipeline_AsksNoMoreWhenItCannotRegister(t *testing.T) {
	h := newHouse(t, true)
	away := errors.New("the state database is away")
	asked := 0
	h.config.Register = func(context.Context, vitals.DeviceID) (*devices.Handle, error) { asked++; return nil, away }
	b := ingest.New(h.config).NewBatch()
	for _, id := range []vitals.DeviceID{"D-1", "D-new", "D-newer", "D-newest"} {
		b.Add(ingest.Message{Device: id, Format: "readings", Source: "mqtt", ReceivedAt: vitals.At(h.now),
			Payload: []byte(`{"indicator":"glucose","taken_at":"2026-11-21T07:59:00Z","value":7.8,"unit":"mmol/L"}`)})
	}
	if _, err := b.Commit(t.Context()); !errors.Is(err, away) || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	h.wantCounted(t, 0, 0, 0)
	if res, err := b.Commit(t.Context()); err != nil || len(res) != 0 {
		t.Errorf("the batch is not empty afterwards: %v, %v", res, err)
	}
}
