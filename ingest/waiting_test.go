package ingest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

func weight(day int, kg float64, slot int) string {
	at := time.Date(2026, 11, 20, 7, 0, 0, 0, time.UTC).AddDate(0, 0, day)
	return fmt.Sprintf(`{"indicator":"weight","taken_at":%q,"value":%g,"unit":"kg","user_slot":%d}`, at.Format(time.RFC3339), kg, slot)
}

// weigher answers from a list, as the readings store would.
type weigher struct {
	rs    map[vitals.PatientID][]vitals.Reading
	loads int
	err   error
}

func (w *weigher) load(p vitals.PatientID, from vitals.Micros) ([]vitals.Reading, error) {
	w.loads++
	var out []vitals.Reading
	for _, r := range w.rs[p] {
		if r.TakenAt >= from {
			out = append(out, r)
		}
	}
	return out, w.err
}

func (w *weigher) add(p vitals.PatientID, at time.Time, kg float64) {
	r := vitals.Reading{Patient: p, Indicator: vitals.Weight, Unit: vitals.Kg, TakenAt: vitals.At(at)}
	r.V[0], r.Has = kg, 1
	w.rs[p] = append(w.rs[p], r)
}

// owners builds a pipeline on h that asks for owners.
func (h *house) owners(w *weigher) *ingest.Weights {
	ws := ingest.NewWeights(w.load, func() time.Time { return h.now })
	h.Pipeline = ingest.New(ingest.Config{Devices: h.devices, Journal: h.journal, Now: func() time.Time { return h.now }, Metrics: ingest.NewMetrics(h.reg),
		Owners: ingest.Owners{Given: h.devices.Given, Weight: ws.Before}})
	return ws
}

func (h *house) waiting(t *testing.T) (out []string) {
	t.Helper()
	ws, more, err := h.Waiting(t.Context(), h.journal.Quarantine)
	if err != nil || more {
		t.Fatal(more, err)
	}
	for _, w := range ws {
		out = append(out, fmt.Sprintf("%s slot %d %s %s", w.Reading.Device, w.Reading.UserSlot, w.Problem, w.Reading.Patient))
	}
	slices.Sort(out)
	return out
}

func (h *house) replayAll(t *testing.T) (sum ingest.Result) {
	t.Helper()
	qs, _, err := h.journal.Quarantine(t.Context(), 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qs {
		res, err := h.Replay(t.Context(), q.ID)
		if err != nil {
			t.Fatal(err)
		}
		sum.Accepted += res.Accepted
		sum.Duplicate += res.Duplicate
		sum.Quarantined += res.Quarantined
	}
	return sum
}

func TestWaiting_UntilSomebodySaysWhose(t *testing.T) {
	h := newHouse(t, false)
	ctx := t.Context()
	h.reg = prometheus.NewRegistry()
	h.owners(&weigher{})
	h.send(t, "D-ghost", "["+weight(0, 70, 2)+","+weight(0, 71, 2)+"]")
	h.send(t, "D-unbound", "["+weight(0, 60, 1)+","+strings.Replace(weight(0, 60, 1), "kg", "mol", 1)+","+weight(0, 61, 2)+"]")
	h.send(t, "D-1", strings.Replace(weight(0, 60, 1), "kg", "mol", 1)) // lacks a unit, not an owner
	h.send(t, "D-off", weight(0, 60, 1))
	want := []string{"D-ghost slot 2 device_unknown ", "D-ghost slot 2 device_unknown ", "D-unbound slot 1 patient_unknown ", "D-unbound slot 2 patient_unknown "}
	if got := h.waiting(t); !slices.Equal(got, want) {
		t.Fatalf("waiting %q\nwant    %q", got, want)
	}

	// A slot is bound: its readings have an owner now, and wait for a replay; the message keeps its bad item.
	if err := h.devices.BindGap(ctx, "D-unbound", 1, "P-1", 1); err != nil {
		t.Fatal(err)
	}
	if got := h.waiting(t); !slices.Contains(got, "D-unbound slot 1  P-1") || !slices.Contains(got, "D-unbound slot 2 patient_unknown ") {
		t.Errorf("after binding slot 1: %q", got)
	}
	// The other one is given by hand.
	ws, _, err := h.Waiting(ctx, h.journal.Quarantine)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(ws, func(w ingest.Waiting) bool { return w.Problem == payload.PatientUnknown })
	if err := h.devices.Give(ctx, "P-1", "coach", []vitals.Reading{ws[i].Reading}); err != nil {
		t.Fatal(err)
	}
	if res, err := h.Replay(ctx, ws[i].Message); err != nil || res.Accepted != 2 || res.Quarantined != 1 {
		t.Errorf("replay = %+v, %v", res, err)
	}
	if got := h.waiting(t); strings.Contains(strings.Join(got, ","), "D-unbound") {
		t.Errorf("what was taken in still waits beside the item that is refused for its unit: %q", got)
	}
	if q, err := h.journal.QuarantineGet(ws[i].Message); err != nil || q.Refused != 1 || q.Problems[0].Code != payload.UnitUnknown || q.Problems[0].Index != 1 {
		t.Errorf("what is left of the message: %+v, %v", q, err)
	}

	// The device is registered and bound.
	if _, _, err := h.devices.Add(ctx, devices.New{ID: "D-ghost", NoSecret: true, Patient: "P-1", Slot: 2}); err != nil {
		t.Fatal(err)
	}
	if got := h.waiting(t); !slices.Contains(got, "D-ghost slot 2  P-1") {
		t.Errorf("after registering: %q", got)
	}
	if res := h.replayAll(t); res.Accepted != 2 || res.Duplicate != 2 {
		t.Errorf("replay of all = %+v", res)
	}
	if _, err := h.WaitingIn(1); !errors.Is(err, journal.ErrNotQuarantined) {
		t.Errorf("no such message: %v", err)
	}
}

func TestOwners_AWeightThatIsSomebodyElses(t *testing.T) {
	h := newHouse(t, false)
	ctx := t.Context()
	if _, err := h.people.Add(ctx, care.Patient{ID: "P-2"}); err != nil {
		t.Fatal(err)
	}
	h.reg = prometheus.NewRegistry()
	w := &weigher{rs: map[vitals.PatientID][]vitals.Reading{}}
	ws := h.owners(w)
	for day := -10; day < 0; day++ {
		w.add("P-1", h.now.AddDate(0, 0, day), 70+0.1*float64(day%3))
	}
	for _, c := range []struct {
		name string
		kg   float64
		want int
	}{{"as ever", 70.4, 0}, {"just within", 76.8, 0}, {"a child", 31, 1}, {"just beyond", 77.2, 1}, {"just below", 62.8, 1}} {
		if res := h.send(t, "D-1", weight(1, c.kg, 0)); res.Quarantined != c.want || c.want == 1 && res.Problems[0].Code != payload.OwnerDoubtful {
			t.Errorf("%s: %+v", c.name, res)
		}
	}
	pound := strings.Replace(weight(1, 31, 0), `31,"unit":"kg"`, `155,"unit":"[lb_av]"`, 1)
	if res := h.send(t, "D-1", pound); res.Accepted != 1 {
		t.Errorf("70.3 kg in pounds: %+v", res)
	}
	if res := h.send(t, "D-1", strings.Replace(weight(1, 31, 0), "2026", "2020", 1)); res.Accepted != 1 {
		t.Errorf("six years ago: %+v", res)
	}
	if w.loads != 1 {
		t.Errorf("%d looks into the store within a minute", w.loads)
	}

	// One of them was P-2's; a resend goes the same way and is a duplicate.
	all, _, err := h.Waiting(ctx, h.journal.Quarantine)
	if err != nil || len(all) != 3 || all[0].Problem != payload.OwnerDoubtful || all[0].Reading.Patient != "P-1" {
		t.Fatalf("waiting %+v, %v", all, err)
	}
	i := slices.IndexFunc(all, func(x ingest.Waiting) bool { return x.Reading.V[0] == 31 })
	if err := h.devices.Give(ctx, "P-2", "coach", []vitals.Reading{all[i].Reading}); err != nil {
		t.Fatal(err)
	}
	if res, err := h.Replay(ctx, all[i].Message); err != nil || res.Accepted != 1 {
		t.Fatalf("replay = %+v, %v", res, err)
	}
	if res := h.send(t, "D-1", weight(1, 31, 0)); res.Duplicate != 1 {
		t.Errorf("resent: %+v", res)
	}
	// Accepted by the coach, the person has really lost weight: the next ones are believed.
	w.add("P-1", h.now, 62.5)
	h.now = h.now.AddDate(0, 0, 1)
	ws.Forget("P-1")
	if res := h.send(t, "D-1", weight(2, 62, 0)); res.Accepted != 1 {
		t.Errorf("after one that was let through: %+v", res)
	}
	// What is not known is not judged.
	w.err = errors.New("the store is away")
	ws.Forget("P-1")
	if res := h.send(t, "D-1", weight(2, 20, 0)); res.Accepted != 1 {
		t.Errorf("with the store away: %+v", res)
	}
}

func TestWeights_MedianEqualsModel(t *testing.T) {
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	for n := range 12 {
		w := &weigher{rs: map[vitals.PatientID][]vitals.Reading{}}
		var model []float64
		for i := range n {
			kg := 60 + float64((i*7)%11)
			w.add("P", now.AddDate(0, 0, -1-i), kg)
			if i < 7 {
				model = append(model, kg)
			}
		}
		w.add("P", now.AddDate(0, 0, -40), 200)
		w.add("P", now.AddDate(0, 0, 1), 200)
		median, newest, ok := ingest.NewWeights(w.load, func() time.Time { return now }).Before("P", vitals.At(now))
		if ok != (n >= 3) {
			t.Errorf("%d weights: known %v", n, ok)
		}
		if !ok {
			continue
		}
		first := model[0]
		slices.Sort(model)
		want := model[len(model)/2]
		if len(model)%2 == 0 {
			want = (want + model[len(model)/2-1]) / 2
		}
		if median != want || newest != first {
			t.Errorf("%d weights: median %g, newest %g, want %g, %g", n, median, newest, want, first)
		}
	}
}
