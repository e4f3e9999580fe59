package escalation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"vitalwatch/alerting"
	"vitalwatch/alerting/escalation"
	"vitalwatch/alerting/ledger"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// receiver is a channel that keeps what arrives and fails as told.
type receiver struct {
	name string
	// answer, when set, decides an attempt; it may block until ctx ends or time passes.
	answer func(ctx context.Context, d *alerting.Delivery) (alerting.Receipt, error)

	mu       sync.Mutex
	tried    []attempt
	arrived  []alerting.Delivery
	sending  map[string]int // by alert
	most     int            // attempts at a time
	now      int
	overlaps int // two attempts of one alert at a time
}

type attempt struct {
	seq uint64
	at  time.Time
}

func (r *receiver) Name() string { return r.name }

func (r *receiver) Send(ctx context.Context, d *alerting.Delivery) (receipt alerting.Receipt, err error) {
	r.mu.Lock()
	if r.sending == nil {
		r.sending = map[string]int{}
	}
	if r.sending[d.AlertID]++; r.sending[d.AlertID] > 1 {
		r.overlaps++
	}
	r.now++
	r.most = max(r.most, r.now)
	r.tried = append(r.tried, attempt{d.Seq, time.Now()})
	answer := r.answer
	r.mu.Unlock()
	if answer != nil {
		receipt, err = answer(ctx, d)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sending[d.AlertID]--
	r.now--
	if err == nil {
		r.arrived = append(r.arrived, *d)
	}
	return receipt, err
}

// mend makes it take everything from now on.
func (r *receiver) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = nil
}

func (r *receiver) mostAtATime() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

func (r *receiver) seqs() (out []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.arrived {
		out = append(out, d.Seq)
	}
	return out
}

func (r *receiver) attempts() []attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.tried)
}

func failing(class string) func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
	return func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
		return alerting.Receipt{}, &alerting.SendError{Class: class}
	}
}

// to routes every event to the hooks.
type to []string

func (hooks to) Route(e *alerting.Event) (out []alerting.Delivery) {
	for _, h := range hooks {
		out = append(out, alerting.Delivery{Hook: h, Type: "alert." + string(e.Transition.Kind), Body: fmt.Appendf(nil, `{"seq":%d,"to":%q}`, e.Seq, h)})
	}
	return out
}

// emptyDatabase is a database file with the schema, so that not every house migrates one.
var emptyDatabase = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "empty")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s.db")
	db, err := sqlite.Open(path)
	if err != nil {
		panic(err)
	}
	_, err = ledger.Open(context.Background(), db, ledger.Options{})
	if err = errors.Join(err, db.Close()); err != nil {
		panic(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return b
})

// house is a ledger and the courier that is running on it.
type house struct {
	t         testing.TB
	path      string
	router    ledger.Router
	channels  []escalation.Channel
	o         escalation.Options
	wrap      func(*ledger.Ledger) escalation.Outbox
	db        *sqlite.DB
	ledger    *ledger.Ledger
	courier   *escalation.Courier
	stop      func()
	transited map[string]int
}

func newHouse(t testing.TB, receivers ...*receiver) *house {
	h := &house{t: t, path: filepath.Join(t.TempDir(), "s.db"), transited: map[string]int{}}
	if err := os.WriteFile(h.path, emptyDatabase(), 0o600); err != nil {
		t.Fatal(err)
	}
	var names to
	for _, r := range receivers {
		names = append(names, r.name)
		h.channels = append(h.channels, r)
	}
	h.router = names
	return h
}

// open starts ledger and courier; close ends both. Both may be called again.
func (h *house) open() *house {
	h.t.Helper()
	var err error
	if h.db, err = sqlite.Open(h.path); err != nil {
		h.t.Fatal(err)
	}
	if h.ledger, err = ledger.Open(context.Background(), h.db, ledger.Options{Router: h.router}); err != nil {
		h.t.Fatal(err)
	}
	var outbox escalation.Outbox = h.ledger
	if h.wrap != nil {
		outbox = h.wrap(h.ledger)
	}
	o := h.o
	if o.PollEvery == 0 {
		o.PollEvery = time.Hour // days pass in these tests, and every look into the outbox costs real time
	}
	if h.courier, err = escalation.New(outbox, h.channels, o); err != nil {
		h.t.Fatal(err)
	}
	h.ledger.Subscribe(h.courier.Notify)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.courier.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
		h.db.Close()
	}
	return h
}

func (h *house) close() { h.stop() }

// change commits the next transition of an alert: opened, worsened, then notes.
func (h *house) change(alert string, s alerting.Severity) {
	h.t.Helper()
	t := alerting.Transition{AlertID: alert, Patient: vitals.PatientID("P-" + alert), Rule: "r", Severity: s, At: vitals.At(time.Now()), Actor: "li",
		Note: fmt.Sprint(h.transited[alert])}
	switch h.transited[alert]++; h.transited[alert] {
	case 1:
		t.Kind = alerting.Opened
	case 2:
		t.Kind = alerting.Worsened
	default:
		t.Kind = alerting.Noted
	}
	es, err := h.ledger.Commit(context.Background(), ledger.Batch{Transitions: []alerting.Transition{t}})
	if err != nil || len(es) != 1 {
		h.t.Fatalf("commit %s of %s: %d events, %v", t.Kind, alert, len(es), err)
	}
}

func (h *house) deliveries(s alerting.DeliveryState) []alerting.Delivery {
	h.t.Helper()
	ds, _, err := h.ledger.Deliveries(context.Background(), ledger.DeliveryFilter{State: s, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	return ds
}

// outcomes reads vitalwatch_hook_deliveries_total of the hook "desk".
func outcomes(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "vitalwatch_hook_deliveries_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["hook"] == "desk" {
				out[labels["outcome"]] = m.GetCounter().GetValue()
			}
		}
	}
	return out
}

func after(d time.Duration) { // the bubble's clock, not a wait
	time.Sleep(d)
	synctest.Wait()
}

func TestCourier_SendsAtOnceAndMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk", answer: func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
			return alerting.Receipt{AcceptedBy: "Dr. Zhang"}, nil
		}}
		h := newHouse(t, r).open()
		defer h.close()
		synctest.Wait()
		h.change("a", alerting.Critical)
		synctest.Wait() // no time passes
		if d := cmp.Diff([]uint64{1}, r.seqs()); d != "" {
			t.Fatalf("arrived without any waiting (-want +got):\n%s", d)
		}
		after(time.Second)
		if ds := h.deliveries(alerting.Delivered); len(ds) != 2 || ds[1].Attempts != 1 { // the receipt is an event of its own
			t.Errorf("delivered = %+v", ds)
		}
		if a, _, err := h.ledger.Alert(t.Context(), "a"); err != nil || a.AcceptedBy != "Dr. Zhang" {
			t.Errorf("the receipt on the alert is %q (%v)", a.AcceptedBy, err)
		}
		if n := len(h.deliveries(alerting.Pending)); n != 0 {
			t.Errorf("%d are still pending", n)
		}
	})
}

func TestCourier_ScheduleThenDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk", answer: failing("http_500")}
		h := newHouse(t, r)
		var logged bytes.Buffer
		var dead []alerting.Delivery
		reg := prometheus.NewPedanticRegistry()
		h.o = escalation.Options{Jitter: func() float64 { return 1 }, Log: zerolog.New(&logged), Metrics: escalation.NewMetrics(reg),
			OnDead: func(d alerting.Delivery) { dead = append(dead, d) }}
		h.open()
		defer h.close()
		t0 := time.Now()
		h.change("a", alerting.Critical)
		after(23*time.Hour + 59*time.Minute)
		if len(dead) != 0 || len(h.deliveries(alerting.Dead)) != 0 {
			t.Error("given up before a day was over")
		}
		after(2 * time.Minute)
		var got []time.Duration
		for _, a := range r.attempts() {
			got = append(got, a.at.Sub(t0).Round(time.Millisecond))
		}
		s, m := time.Second, time.Minute
		want := []time.Duration{0, 5 * s, 20 * s, 65 * s, 185 * s, 485 * s, 1085 * s, 2885 * s}
		for at := 2885*s + 60*m; at < 24*time.Hour; at += 60 * m {
			want = append(want, at)
		}
		want = append(want, 24*time.Hour) // the last one, when the time is over
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("attempts (-want +got):\n%s", d)
		}
		ds := h.deliveries(alerting.Dead)
		if len(ds) != 1 || ds[0].Error != "http_500" || ds[0].Attempts != len(want) || len(dead) != 1 || dead[0].ID != ds[0].ID {
			t.Fatalf("dead letters = %+v, called back with %+v", ds, dead)
		}
		if n := strings.Count(logged.String(), `"level":"error"`); n != 1 || !strings.Contains(logged.String(), ds[0].ID) {
			t.Errorf("logged:\n%s", logged.String())
		}
		if d := cmp.Diff(map[string]float64{"delivered": 0, "failed": float64(len(want)), "dead": 1, "gone": 0}, outcomes(t, reg)); d != "" {
			t.Errorf("vitalwatch_hook_deliveries_total (-want +got):\n%s", d)
		}
		// Mended and retried, it goes out at once under the same id.
		r.mend()
		d, err := h.courier.Retry(t.Context(), ds[0].ID)
		if err != nil || d.ID != ds[0].ID {
			t.Fatalf("Retry = %+v, %v", d, err)
		}
		after(time.Second)
		if got := r.seqs(); len(got) != 1 || r.arrived[0].ID != ds[0].ID || len(h.deliveries(alerting.Dead)) != 0 {
			t.Errorf("after the retry %v arrived", got)
		}
		if _, err := h.courier.Retry(t.Context(), ds[0].ID); !errors.Is(err, ledger.ErrDelivered) {
			t.Errorf("Retry of what has arrived = %v", err)
		}
	})
}

func TestCourier_ScheduleSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk", answer: failing("timeout")}
		h := newHouse(t, r)
		h.o.Jitter = func() float64 { return 1 }
		h.open()
		t0 := time.Now()
		h.change("a", alerting.Critical)
		after(100 * time.Second) // four attempts; the fifth is due at 185 s
		h.close()
		after(20 * time.Second)
		h.open()
		after(60 * time.Second)
		if n := len(r.attempts()); n != 4 {
			t.Errorf("%d attempts before the fifth is due, want 4", n)
		}
		after(10 * time.Second)
		as := r.attempts()
		if len(as) != 5 || as[4].at.Sub(t0).Round(time.Millisecond) != 185*time.Second {
			t.Fatalf("%d attempts, the last after %v; want the fifth at 185 s", len(as), as[len(as)-1].at.Sub(t0))
		}
		h.close()
		after(48 * time.Hour) // off for two days: one more attempt is made, whatever the clock says
		h.open()
		after(time.Second)
		if n := len(r.attempts()); n != 6 || len(h.deliveries(alerting.Dead)) != 1 {
			t.Errorf("%d attempts, %d dead", n, len(h.deliveries(alerting.Dead)))
		}
		h.close()
	})
}

func TestCourier_ADeadReceiverDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := &receiver{name: "hangs", answer: func(ctx context.Context, _ *alerting.Delivery) (alerting.Receipt, error) {
			select {
			case <-time.After(15 * time.Second):
			case <-ctx.Done():
			}
			return alerting.Receipt{}, &alerting.SendError{Class: "timeout"}
		}}
		good := &receiver{name: "good"}
		h := newHouse(t, hanging, good)
		h.o.MaxQueued = 64 // far less than what is to come
		h.open()
		defer h.close()
		const alerts = 150
		for i := range alerts {
			h.change(fmt.Sprint("a", i), alerting.Critical)
		}
		synctest.Wait()
		if n := len(good.seqs()); n != alerts {
			t.Errorf("%d of %d arrived at the good receiver before any time had passed", n, alerts)
		}
		if n := hanging.mostAtATime(); n != 8 {
			t.Errorf("%d attempts at a time at the hanging one, want 8", n)
		}
		after(time.Minute)
		good.mu.Lock()
		for _, a := range good.tried {
			if a.at != good.tried[0].at {
				t.Errorf("event %d reached the good receiver %v late", a.seq, a.at.Sub(good.tried[0].at))
				break
			}
		}
		good.mu.Unlock()
		// The receiver comes back: everything arrives, also what never was in memory, without waiting out an hour.
		hanging.mend()
		after(5 * time.Minute)
		if n := len(hanging.seqs()); n != alerts {
			t.Errorf("%d of %d arrived after the outage", n, alerts)
		}
	})
}

func TestCourier_TheMostSevereFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk", answer: func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
			time.Sleep(time.Second)
			return alerting.Receipt{}, nil
		}}
		h := newHouse(t, r)
		h.o.Concurrency = 1
		h.open()
		defer h.close()
		for i, s := range []alerting.Severity{alerting.Info, alerting.Warning, alerting.Info, alerting.Emergency, alerting.Critical, alerting.Emergency} {
			h.change(fmt.Sprint("a", i), s)
			if i == 0 {
				synctest.Wait() // until it is under way
			}
		}
		h.change("a0", alerting.Emergency) // behind its own opening
		after(time.Minute)
		// 1 was under way at once; its alert's worsening is an emergency, but the two others were first.
		if d := cmp.Diff([]uint64{1, 4, 6, 7, 5, 2, 3}, r.seqs()); d != "" {
			t.Errorf("order (-want +got):\n%s", d)
		}
	})
}

func TestCourier_GoneDisablesUntilEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk", answer: func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
			return alerting.Receipt{}, &alerting.SendError{Class: "http_410", Gone: true}
		}}
		h := newHouse(t, r)
		var mu sync.Mutex // the courier calls back from its own goroutines
		var off []string
		var dead []uint64
		h.o.PollEvery = 15 * time.Minute
		h.o.OnDisabled = func(n string) { mu.Lock(); off = append(off, n); mu.Unlock() }
		h.o.OnDead = func(d alerting.Delivery) { mu.Lock(); dead = append(dead, d.Seq); mu.Unlock() }
		told := func() ([]string, []uint64) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(off), slices.Sorted(slices.Values(dead))
		}
		h.open()
		h.change("a", alerting.Critical)
		after(time.Second)
		h.change("b", alerting.Critical)
		after(time.Hour)
		h.close()
		h.open() // still disabled
		h.change("c", alerting.Critical)
		after(time.Hour)
		gone, given := told()
		if n := len(r.attempts()); n != 1 || !slices.Equal(gone, []string{"desk"}) {
			t.Errorf("%d attempts, disabled %v; want one and desk", n, gone)
		}
		if ds, err := h.ledger.DisabledHooks(t.Context()); err != nil || len(ds) != 1 || ds[0].Error != "http_410" {
			t.Errorf("disabled hooks = %+v (%v)", ds, err)
		}
		if n := len(h.deliveries(alerting.Pending)); n != 3 || len(given) != 0 {
			t.Errorf("%d wait, %d are dead; want 3 and none", n, len(given))
		}
		after(22*time.Hour + 30*time.Minute) // a and b are over their time, nobody will send them: that is told
		_, given = told()
		if d := cmp.Diff([]uint64{1, 2}, given); d != "" {
			t.Errorf("dead (-want +got):\n%s", d)
		}
		r.mend()
		if err := h.courier.Enable(t.Context(), "desk"); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		h.change("d", alerting.Critical)
		after(time.Second)
		if d := cmp.Diff([]uint64{3, 4}, r.seqs()); d != "" {
			t.Errorf("arrived after enabling (-want +got):\n%s", d)
		}
		if err := h.courier.Enable(t.Context(), "nope"); !errors.Is(err, escalation.ErrUnknownHook) {
			t.Errorf("Enable of nothing = %v", err)
		}
		h.close()
		h.open()
		after(time.Minute)
		if n := len(r.seqs()); n != 2 {
			t.Errorf("%d arrived after a restart, want still 2", n)
		}
		h.close()
	})
}

func TestCourier_AHookThatIsNotConfiguredDiesLoudly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk"}
		h := newHouse(t, r)
		h.router = to{"desk", "removed"}
		var dead []string
		h.o.OnDead = func(d alerting.Delivery) { dead = append(dead, d.Hook+":"+d.Error) }
		h.open()
		defer h.close()
		h.change("a", alerting.Critical)
		after(26 * time.Hour)
		if d := cmp.Diff([]string{"removed:hook_off"}, dead); d != "" || len(r.seqs()) != 1 {
			t.Errorf("dead (-want +got):\n%s", d)
		}
	})
}

func TestCourier_HonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		r := &receiver{name: "desk"}
		r.answer = func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if first {
				first = false
				return alerting.Receipt{}, &alerting.SendError{Class: "http_429", RetryAfter: 10 * time.Minute}
			}
			return alerting.Receipt{}, nil
		}
		h := newHouse(t, r).open()
		defer h.close()
		t0 := time.Now()
		h.change("a", alerting.Critical)
		after(time.Second)
		h.change("b", alerting.Critical) // another alert: the receiver asked for itself, not for one delivery
		after(9*time.Minute + 58*time.Second)
		if n := len(r.attempts()); n != 1 {
			t.Errorf("%d attempts while the receiver wanted to be left alone", n)
		}
		after(2 * time.Second)
		as := r.attempts()
		if len(as) != 3 || as[1].at.Sub(t0).Round(time.Second) != 10*time.Minute || len(r.seqs()) != 2 {
			t.Errorf("attempts %+v", as)
		}
	})
}

func TestCourier_HeadOfLinePerAlertOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk"}
		r.answer = func(_ context.Context, d *alerting.Delivery) (alerting.Receipt, error) {
			if d.Seq == 1 {
				return alerting.Receipt{}, &alerting.SendError{Class: "http_400"}
			}
			return alerting.Receipt{}, nil
		}
		h := newHouse(t, r).open()
		defer h.close()
		h.change("a", alerting.Critical)
		h.change("a", alerting.Emergency)
		h.change("b", alerting.Critical)
		h.change("b", alerting.Emergency)
		after(time.Hour)
		if d := cmp.Diff([]uint64{3, 4}, r.seqs()); d != "" {
			t.Errorf("arrived while a's opening fails (-want +got):\n%s", d)
		}
		after(24 * time.Hour) // the opening is dead: what followed it is told
		if d := cmp.Diff([]uint64{3, 4, 2}, r.seqs()); d != "" {
			t.Errorf("arrived at the end (-want +got):\n%s", d)
		}
	})
}

func TestCourier_FindsWhatNobodyToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk"}
		h := newHouse(t, r)
		h.o.PollEvery = 30 * time.Second
		h.open()
		defer h.close()
		synctest.Wait()
		// Another process on the same database commits.
		db, err := sqlite.Open(h.path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		other, err := ledger.Open(t.Context(), db, ledger.Options{Router: to{"desk"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Commit(t.Context(), ledger.Batch{Transitions: []alerting.Transition{{AlertID: "x", Patient: "P", Rule: "r",
			Kind: alerting.Opened, Severity: alerting.Critical, At: 1}}}); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		h.change("a", alerting.Critical)
		after(time.Second)
		if d := cmp.Diff([]uint64{1, 2}, r.seqs()); d != "" {
			t.Errorf("arrived (-want +got):\n%s", d)
		}
	})
}

// flaky is an outbox whose writing or reading fails while told so.
type flaky struct {
	*ledger.Ledger
	mu            sync.Mutex
	settle, reads bool
}

func (f *flaky) set(settle, reads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle, f.reads = settle, reads
}

var errDisk = errors.New("disk full")

func (f *flaky) Settle(ctx context.Context, ss []alerting.Settlement) error {
	f.mu.Lock()
	bad := f.settle
	f.mu.Unlock()
	if bad {
		return errDisk
	}
	return f.Ledger.Settle(ctx, ss)
}

func (f *flaky) Pending(ctx context.Context, hook string, after uint64, limit int) ([]alerting.Delivery, error) {
	f.mu.Lock()
	bad := f.reads
	f.mu.Unlock()
	if bad {
		return nil, errDisk
	}
	return f.Ledger.Pending(ctx, hook, after, limit)
}

func TestCourier_OutboxThatCannotBeWrittenOrRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{name: "desk"}
		h := newHouse(t, r)
		var logged bytes.Buffer
		h.o.Log = zerolog.New(&logged)
		var f *flaky
		h.wrap = func(l *ledger.Ledger) escalation.Outbox { f = &flaky{Ledger: l, reads: true, settle: true}; return f }
		h.open()
		defer h.close()
		h.change("a", alerting.Critical)
		after(10 * time.Second)
		if n := len(r.seqs()); n != 0 {
			t.Errorf("%d arrived although the outbox could not be read", n)
		}
		f.set(true, false)
		after(10 * time.Second)
		h.change("b", alerting.Critical)
		after(10 * time.Second)
		if d := cmp.Diff([]uint64{1, 2}, r.seqs()); d != "" {
			t.Errorf("results that cannot be written must hold up no alert (-want +got):\n%s", d)
		}
		f.set(false, false)
		after(10 * time.Second)
		if n := len(h.deliveries(alerting.Delivered)); n != 2 {
			t.Errorf("%d are marked once the disk is back, want 2", n)
		}
		if n := strings.Count(logged.String(), "results of deliveries cannot be recorded"); n != 1 {
			t.Errorf("the failure was logged %d times, want once", n)
		}
	})
}

func TestCourier_AFaultInAChannelIsAFailedAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := true
		r := &receiver{name: "desk"}
		r.answer = func(context.Context, *alerting.Delivery) (alerting.Receipt, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if broken {
				broken = false
				r.sending["a"]--
				panic("MARKED value 2.75")
			}
			return alerting.Receipt{}, nil
		}
		h := newHouse(t, r)
		var logged bytes.Buffer
		h.o.Log = zerolog.New(&logged)
		h.open()
		defer h.close()
		h.change("a", alerting.Critical)
		after(10 * time.Second)
		if n := len(r.seqs()); n != 1 || strings.Contains(logged.String(), "MARKED") || !strings.Contains(logged.String(), "Please report") {
			t.Errorf("%d arrived, logged:\n%s", n, logged.String())
		}
	})
}

func TestCourier_ShutdownLetsAttemptsFinish(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes time.Duration
		marks int
	}{{"within the grace", 3 * time.Second, 1}, {"beyond it", time.Hour, 0}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{name: "desk", answer: func(ctx context.Context, _ *alerting.Delivery) (alerting.Receipt, error) {
					select {
					case <-time.After(c.takes):
						return alerting.Receipt{}, nil
					case <-ctx.Done():
						return alerting.Receipt{}, &alerting.SendError{Class: "canceled"}
					}
				}}
				h := newHouse(t, r).open()
				h.change("a", alerting.Critical)
				synctest.Wait()
				start := time.Now()
				h.close()
				if took := time.Since(start); took > 6*time.Second {
					t.Errorf("the shutdown took %v", took)
				}
				r.mend()
				h.open()
				defer h.close()
				if n := len(h.deliveries(alerting.Delivered)); n != c.marks {
					t.Errorf("%d were marked before the restart, want %d", n, c.marks)
				}
				after(time.Second)
				if d := cmp.Diff([]uint64{1}, r.seqs()); d != "" {
					t.Errorf("arrived in all (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestCourier_EachAtLeastOnceInOrder is the promise of the courier under random failures, crashes and restarts: per
// hook every event arrives, under one id with one body; of one alert none arrives before the one ahead of it has,
// and never two are under way.
func TestCourier_EachAtLeastOnceInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			kind  int
			alert string
			wait  time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.SampledFrom([]int{0, 0, 0, 0, 0, 1, 1, 2, 3}).Draw(rt, "kind"), fmt.Sprint("a", rapid.IntRange(0, 3).Draw(rt, "alert")),
				rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(rt, "wait")}
		}), 1, 25).Draw(rt, "steps")
		seed := rapid.Uint64().Draw(rt, "seed")
		failures := rapid.SampledFrom([]float64{0, 0.3, 0.8}).Draw(rt, "failures")
		queued := rapid.SampledFrom([]int{2, 8, 4096}).Draw(rt, "queued")

		var problems []string // rapid's T may not be used from within the bubble
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			healthy := false
			var mu sync.Mutex
			var receivers []*receiver
			for _, name := range []string{"one", "two"} {
				r := &receiver{name: name}
				r.answer = func(ctx context.Context, d *alerting.Delivery) (alerting.Receipt, error) {
					mu.Lock()
					fail, wait := !healthy && rng.Float64() < failures, time.Duration(rng.IntN(2000))*time.Millisecond
					receipt := alerting.Receipt{}
					if rng.IntN(8) == 0 {
						receipt.AcceptedBy = fmt.Sprint("person ", rng.IntN(3))
					}
					retryAfter := time.Duration(rng.IntN(2)) * time.Duration(rng.IntN(100)) * time.Second
					mu.Unlock()
					select {
					case <-time.After(wait):
					case <-ctx.Done():
						return alerting.Receipt{}, &alerting.SendError{Class: "canceled"}
					}
					if fail {
						return alerting.Receipt{}, &alerting.SendError{Class: "http_503", RetryAfter: retryAfter}
					}
					return receipt, nil
				}
				receivers = append(receivers, r)
			}
			h := newHouse(t, receivers...)
			h.o.MaxQueued, h.o.Concurrency = queued, 3
			h.o.PollEvery = 10 * time.Minute   // hours pass here, and every look costs real time
			h.o.GiveUpAfter = 1000 * time.Hour // nothing dies here
			h.o.Jitter = func() float64 { mu.Lock(); defer mu.Unlock(); return rng.Float64() }
			var f *flaky
			h.wrap = func(l *ledger.Ledger) escalation.Outbox { f = &flaky{Ledger: l}; return f }
			h.open()
			for _, s := range steps {
				switch s.kind {
				case 0:
					h.change(s.alert, alerting.Severity(1+len(s.alert)+h.transited[s.alert])%4+1)
				case 1:
					after(s.wait)
				case 2: // a crash: what was not written yet is forgotten
					f.set(true, false)
					h.close()
					h.open()
				case 3:
					h.close()
					after(s.wait)
					h.open()
				}
			}
			mu.Lock()
			healthy = true
			mu.Unlock()
			after(5 * time.Hour)
			events, _, err := h.ledger.Since(t.Context(), 0, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(h.deliveries(alerting.Pending)); n != 0 {
				problems = append(problems, fmt.Sprintf("%d still pending", n))
			}
			h.close()
			for _, r := range receivers {
				problems = append(problems, judge(r, events)...)
			}
		})
		if len(problems) > 0 {
			rt.Fatalf("%s", strings.Join(problems, "\n"))
		}
	})
}

// judge is the slow, obvious check of what a receiver got.
func judge(r *receiver, events []alerting.Event) (problems []string) {
	bad := func(format string, args ...any) {
		problems = append(problems, r.name+": "+fmt.Sprintf(format, args...))
	}
	before := map[uint64]uint64{} // event → the one ahead of it of the same alert, 0 for none
	last := map[string]uint64{}
	for _, e := range events {
		before[e.Seq] = last[e.Alert.ID]
		last[e.Alert.ID] = e.Seq
	}
	ids, bodies := map[uint64]string{}, map[uint64]string{}
	for _, d := range r.arrived {
		ahead, known := before[d.Seq]
		if !known {
			bad("event %d was never committed", d.Seq)
		}
		if _, told := ids[ahead]; ahead != 0 && !told {
			bad("event %d arrived before %d of the same alert", d.Seq, ahead)
		}
		if id, again := ids[d.Seq]; again && (id != d.ID || bodies[d.Seq] != string(d.Body)) {
			bad("event %d arrived as %s and %s", d.Seq, id, d.ID)
		}
		ids[d.Seq], bodies[d.Seq] = d.ID, string(d.Body)
		if want := fmt.Sprintf(`{"seq":%d,"to":%q}`, d.Seq, r.name); string(d.Body) != want {
			bad("event %d came with body %s", d.Seq, d.Body)
		}
	}
	if len(ids) != len(events) {
		bad("%d of %d events arrived", len(ids), len(events))
	}
	if n := len(slices.Compact(slices.Sorted(maps.Values(ids)))); n != len(ids) {
		bad("%d ids for %d events", n, len(ids))
	}
	if r.overlaps > 0 {
		bad("%d times two deliveries of one alert were under way", r.overlaps)
	}
	if r.most > 3 {
		bad("%d attempts at a time", r.most)
	}
	return problems
}

func TestNew_RefusesTwoOfOneName(t *testing.T) {
	if _, err := escalation.New(nil, []escalation.Channel{&receiver{name: "a"}, &receiver{name: "a"}}, escalation.Options{}); err == nil {
		t.Error("two hooks of one name were accepted")
	}
}
