package ingest

import (
	"math"
	"slices"
	"sync"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// doubtfulShare is how far a weight may be from what the person weighs before it is somebody else's until a coach says
// otherwise (facts on wrong-person readings of family scales; plausibility of weight against the 7-day median).
const doubtfulShare = 0.10

// Owners judges whose a reading is beyond what the bindings say. Its zero value changes nothing.
type Owners struct {
	// Given returns to whom a person has given a reading by hand; *devices.Registry has it. It is asked only about
	// readings that would be refused.
	Given func(device vitals.DeviceID, takenAt vitals.Micros, hash uint64) (vitals.PatientID, bool)
	// Weight returns what a person weighed lately before an instant: the median and the newest, in kilograms; false
	// when that is not known. *Weights has it. It is asked about weights only.
	Weight func(p vitals.PatientID, at vitals.Micros) (median, newest float64, ok bool)
}

// judge has the last word after the bindings: problem is what they said of r, nil for an owner.
func (o *Owners) judge(r *vitals.Reading, problem *payload.Problem) *payload.Problem {
	if problem == nil && r.Indicator == vitals.Weight && o.Weight != nil && o.doubtful(r) {
		problem = &payload.Problem{Code: payload.OwnerDoubtful, Offset: -1,
			Detail: "this is more than 10 % off what the person weighed lately; a coach says whose it is"}
	}
	if problem == nil || o.Given == nil || problem.Code != payload.OwnerDoubtful && problem.Code != payload.PatientUnknown {
		return problem
	}
	p, ok := o.Given(r.Device, r.TakenAt, r.ContentHash())
	if !ok {
		return problem
	}
	r.Patient = p
	q, c := vitals.JudgeValues(r)
	if q == vitals.Invalid {
		return impossible(c)
	}
	r.Quality = q
	return nil
}

func (o *Owners) doubtful(r *vitals.Reading) bool {
	kg := vitals.ToCanonical(vitals.Weight, r.Unit, r.V[0])
	median, newest, ok := o.Weight(r.Patient, r.TakenAt)
	// A person who has really changed is believed after the first one that a coach has let through.
	off := func(from float64) bool { return math.Abs(kg-from) > doubtfulShare*from }
	return ok && off(median) && off(newest)
}

func impossible(c vitals.Component) *payload.Problem {
	return &payload.Problem{Code: payload.ValueImpossible, Offset: -1,
		Detail: "component " + c.String() + " is beyond what can be measured; check value and unit"}
}

// What Weights looks at.
const (
	weightSpan   = 30 * 24 * time.Hour // of readings before the one that is judged
	weightNewest = 7                   // at most
	weightLeast  = 3                   // fewer say nothing of a person
	weightFresh  = time.Minute         // how long what was read is believed
	weightPeople = 20_000              // in memory
)

// WeightLookBack is how far back the load function of Weights must reach.
const WeightLookBack = 2 * weightSpan

// Weights knows what people weighed lately, from the readings store. It is safe for concurrent use.
type Weights struct {
	load func(p vitals.PatientID, from vitals.Micros) ([]vitals.Reading, error)
	now  func() time.Time

	mu     sync.Mutex
	people map[vitals.PatientID]weighed
}

type weighed struct {
	at   vitals.Micros
	list []weighing // by time
}

type weighing struct {
	at vitals.Micros
	kg float64
}

// NewWeights reads with load, which returns a person's weights taken since an instant; an error of it means not known.
func NewWeights(load func(p vitals.PatientID, from vitals.Micros) ([]vitals.Reading, error), now func() time.Time) *Weights {
	return &Weights{load: load, now: now, people: map[vitals.PatientID]weighed{}}
}

// Before returns the median and the newest of the up to 7 last good weights in the 30 days before an instant; false when
// there are fewer than 3, or when the instant is more than 30 days ago: history is not judged by the present.
func (w *Weights) Before(p vitals.PatientID, at vitals.Micros) (median, newest float64, ok bool) {
	now := vitals.At(w.now())
	if at < now.Add(-weightSpan) {
		return 0, 0, false
	}
	var kg []float64
	for _, x := range slices.Backward(w.of(p, now)) {
		if x.at < at && x.at >= at.Add(-weightSpan) && len(kg) < weightNewest {
			kg = append(kg, x.kg)
		}
	}
	if len(kg) < weightLeast {
		return 0, 0, false
	}
	newest = kg[0]
	slices.Sort(kg)
	n := len(kg)
	return (kg[(n-1)/2] + kg[n/2]) / 2, newest, true
}

func (w *Weights) of(p vitals.PatientID, now vitals.Micros) []weighing {
	w.mu.Lock()
	known, ok := w.people[p]
	w.mu.Unlock()
	if ok && now.Sub(known.at) < weightFresh {
		return known.list
	}
	rs, err := w.load(p, now.Add(-WeightLookBack))
	if err != nil {
		return nil
	}
	known = weighed{at: now}
	for i := range rs {
		if rs[i].Indicator == vitals.Weight && rs[i].Quality == vitals.Good {
			known.list = append(known.list, weighing{rs[i].TakenAt, vitals.ToCanonical(vitals.Weight, rs[i].Unit, rs[i].V[0])})
		}
	}
	slices.SortFunc(known.list, func(a, b weighing) int { return int(min(max(a.at-b.at, -1), 1)) })
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.people) >= weightPeople {
		clear(w.people) // it fills again as people weigh themselves
	}
	w.people[p] = known
	return known.list
}

// Forget makes the next question about a person read the store again: after a reading was given to them.
func (w *Weights) Forget(p vitals.PatientID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.people, p)
}
