package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// registerTimeout bounds how long a message may wait until an unknown device is registered.
const registerTimeout = 5 * time.Second

// What quarantine keeps of a message. An external broker passes on far larger ones, and one of them must not displace
// all others; cut so, it is still too large when it is replayed. No format has a longer name.
const (
	maxKept   = payload.MaxBytes + 1
	maxFormat = 129
)

// Devices says whose device it is. *devices.Registry is the real one.
type Devices interface {
	// Find returns nil for an unknown device; it is called once per message and must not block.
	Find(id vitals.DeviceID) *devices.Handle
}

// Journal keeps readings and quarantine. *journal.Journal is the real one.
type Journal interface {
	Append(ctx context.Context, g *journal.Group) error
	// FindID says where the reading stands that a device sent under an id last.
	FindID(device vitals.DeviceID, id string) (journal.Place, bool, error)
	Last() uint64
	Next(ctx context.Context, after uint64) (journal.Block, error)
	QuarantineGet(id uint64) (journal.Quarantined, error)
	QuarantineDelete(id uint64) error
	// QuarantineRefused replaces why an item was refused by what is left of it.
	QuarantineRefused(id uint64, problems []payload.Problem) error
}

// Config says how the pipeline works. Now and Devices and Journal must be set.
type Config struct {
	Devices Devices
	Journal Journal
	// Store is where readings that are corrected are looked for besides the journal; nil: in the journal only.
	Store Store
	// Register makes a record for an unknown device and its patient (registration: open); nil: closed.
	Register func(ctx context.Context, id vitals.DeviceID) (*devices.Handle, error)
	Now      func() time.Time
	Metrics  *Metrics
	// Routes says whose a message is of which only the payload tells the device (Message.Device ""); nil: nobody's.
	Routes Routes
	// Owners judges whose a reading is where the bindings do not say, or say something implausible.
	Owners Owners
	// Explain says what class of fault an error code of a device model is, false when nobody knows; nil: nobody does. It
	// is asked only where the message itself does not say.
	Explain func(model string, i vitals.Indicator, code string) (class string, known bool)
	// Evidence gives the journal each message as it came, which it keeps when it is told to (journal.Options.Evidence).
	Evidence bool
}

// Routes knows foreign topic layouts and the rights of gateways. *routes.Topics is the real one.
type Routes interface {
	// Messages calls f for each part of a message that a client sent on a foreign topic, in order, with whose it is,
	// through which gateway, and its format; with an error it is nobody's.
	Messages(client vitals.DeviceID, topic, message []byte, f func(id, gateway vitals.DeviceID, format string, part []byte, err error))
}

// Pipeline is the way of a reading from bytes to the journal. It is safe for concurrent use; a Batch is not.
type Pipeline struct {
	c        Config
	revising sync.Mutex // held from finding what is corrected until the correction is durable
}

// New returns a pipeline.
func New(c Config) *Pipeline { return &Pipeline{c: c} }

// Batch collects messages that are made durable together. It is reused: Commit empties it for the next Add.
type Batch struct {
	p *Pipeline
	// WantItems makes Commit fill Result.Items; for HTTP answers, not for the hot path.
	WantItems bool
	// judgeAt, when not 0, is the instant at which freshness is judged instead of ReceivedAt: a replay from
	// quarantine is not live however fresh it was when it came.
	judgeAt vitals.Micros

	items   []payload.Item   // scratch of one message
	places  []int            // the same: where in it the readings stand
	runs    []evidence.Run   // the same: whose they are
	raw     []byte           // the messages as they are kept, one after the other
	failed  []vitals.Reading // of one message: measurements that the device says have failed
	group   journal.Group
	spans   []span
	results []Result
	changes bool            // some span has
	last    *devices.Handle // of the message before; handles stay the same for the life of the process
	again   bool            // a replay: what is refused is in quarantine already
	err     error           // a transient failure in Add, returned by Commit
}

// span says which part of the group belongs to which message.
type span struct {
	first, last int  // readings [first, last) of the group
	quarantine  int  // index into group.Quarantine, -1 for none
	items       int  // of this part of the message
	base        int  // items of the message in the parts before
	more        bool // a part of the same message as the span before
	source      string
	problems    []payload.Problem
	order       []itemRef // only with WantItems
	clock       evidence.Clock
	changes     []change // what is to be done after its readings, in order
	beyond      int      // readings that its voids took back, beyond one each
	message     Message  // with a copy of the payload, only where a reading carries an id that may conflict, or with changes
}

// itemRef is the place of an item: a reading of the group, a problem, or a change; the others are -1.
type itemRef struct{ reading, problem, change int }

// NewBatch returns an empty batch.
func (p *Pipeline) NewBatch() *Batch {
	return &Batch{p: p}
}

// Reset drops what was added and not committed.
func (b *Batch) Reset() {
	b.group.Reset()
	b.raw = b.raw[:0]
	b.spans = b.spans[:0]
	b.err, b.changes = nil, false
}

// Add decodes one message and judges its items. The payload may be overwritten when Add returns.
func (b *Batch) Add(m Message) {
	if m.Device != "" {
		b.add(m, true, false)
		return
	}
	if b.p.c.Routes == nil {
		m.Device, m.Gateway, m.Format = m.Gateway, "", ""
		b.add(m, false, false)
		return
	}
	client, more := m.Gateway, false
	b.p.c.Routes.Messages(client, []byte(m.Topic), m.Payload, func(id, gateway vitals.DeviceID, format string, part []byte, err error) {
		p := m
		p.Device, p.Gateway, p.Format, p.Payload = id, gateway, format, part
		if err != nil { // the gateway's, in no format: replayed as the gateway's own it would be somebody else's reading
			p.Device, p.Gateway, p.Format = gateway, "", ""
		}
		b.add(p, err == nil, more)
		more = true
	})
}

// add takes a message, or a part of one. What is not routed is nobody's.
func (b *Batch) add(m Message, routed, more bool) {
	if b.err != nil { // nothing of the batch will be taken, and each look-up may wait as long again
		return
	}
	s := span{first: len(b.group.Readings), quarantine: -1, source: m.Source, items: 1, more: more}
	if more {
		before := &b.spans[len(b.spans)-1]
		s.base = before.base + before.items
	}
	b.failed = b.failed[:0]
	var h *devices.Handle
	err := error(nil)
	if routed {
		h, err = b.device(m.Device)
	}
	switch {
	case !routed:
		s.problems = []payload.Problem{{Code: payload.DeviceUnknown, Offset: -1,
			Detail: "the payload names no device where the route looks for it, or one for which this gateway may not speak"}}
		if b.WantItems {
			s.order = append(s.order, itemRef{-1, 0, -1})
		}
	case err != nil:
		b.err = err
		return
	case h == nil:
		b.each(&m, &s, payload.Problem{Code: payload.DeviceUnknown, Offset: -1,
			Detail: "this device is not registered; the operator adds it with: vitalwatch device add"})
	case h.Disabled():
		b.each(&m, &s, payload.Problem{Code: payload.DeviceDisabled, Offset: -1,
			Detail: "this device was disabled; the operator lets it in again with: vitalwatch device enable"})
	default:
		h.Seen(m.ReceivedAt)
		if m.Gateway != "" {
			if gw := b.p.c.Devices.Find(m.Gateway); gw != nil {
				gw.Seen(m.ReceivedAt)
			}
		}
		b.decode(m, h, &s)
	}
	s.last = len(b.group.Readings)
	if b.p.c.Evidence && s.last > s.first {
		b.keep(&m, h, &s)
	}
	b.addFailed(&m, h)
	b.changes = b.changes || len(s.changes) > 0
	if len(s.problems) > 0 {
		s.quarantine = len(b.group.Quarantine)
		b.group.Quarantine = append(b.group.Quarantine, journal.Quarantined{
			At: m.ReceivedAt, Device: m.Device, Format: m.Format[:min(len(m.Format), maxFormat)], Source: m.Source,
			Problems: s.problems, Payload: append([]byte(nil), m.Payload[:min(len(m.Payload), maxKept)]...),
		})
	}
	b.spans = append(b.spans, s)
}

// each refuses every reading of a message for the problem of the whole: readings are counted and answered, not messages.
// One that cannot be read counts as one.
func (b *Batch) each(m *Message, s *span, p payload.Problem) {
	items, err := payload.Decode(m.Format, payload.Input{Payload: m.Payload, ReceivedAt: m.ReceivedAt, DeviceTZ: time.UTC}, b.items[:0])
	b.items = items
	n := max(len(items), 1)
	if err != nil {
		n = 1
	}
	s.items = n
	for p.Index = range n {
		if b.WantItems {
			s.order = append(s.order, itemRef{-1, p.Index, -1})
		}
		s.problems = append(s.problems, p)
	}
}

// keep adds the message as it came to the group.
func (b *Batch) keep(m *Message, h *devices.Handle, s *span) {
	b.places = b.places[:0]
	if len(s.problems)+len(s.changes) > 0 { // the places of the others
		for i := 0; len(b.places) < s.last-s.first; i++ {
			if !s.elsewhere(i) {
				b.places = append(b.places, i)
			}
		}
	}
	b.keepIn(&b.group, m, h, s.clock, s.first, s.last, b.places)
}

// elsewhere reports whether item i of the message is not among the readings of the group.
func (s *span) elsewhere(i int) bool {
	return slices.ContainsFunc(s.problems, func(x payload.Problem) bool { return x.Index == i }) ||
		slices.ContainsFunc(s.changes, func(c change) bool { return c.item == i })
}

// place is where in its message the reading stands that is the k-th of the group.
func (s *span) place(k int) int {
	for i := 0; ; i++ {
		if s.elsewhere(i) {
			continue
		}
		if k--; k < 0 {
			return i
		}
	}
}

// keepIn adds a message to a group, of which it brought the readings [first, last); places is empty for 0, 1, 2 …
func (b *Batch) keepIn(g *journal.Group, m *Message, h *devices.Handle, clock evidence.Clock, first, last int, places []int) {
	e := evidence.Message{ReceivedAt: m.ReceivedAt, JudgedAt: b.judgedAt(m), Device: m.Device, Gateway: m.Gateway,
		Topic: m.Topic, Format: m.Format, Source: m.Source, Clock: clock, Payload: m.Payload}
	if l := h.Location(); l != nil {
		e.Zone = l.String()
	}
	b.runs = b.runs[:0]
	for i := first; i < last; i++ {
		p := g.Readings[i].Patient
		if n := len(b.runs); n > 0 && b.runs[n-1].Patient == p {
			b.runs[n-1].N++
		} else {
			b.runs = append(b.runs, evidence.Run{N: 1, Patient: p})
		}
	}
	e.Patients = b.runs
	if len(places) > 0 {
		e.Items = places
	}
	start := len(b.raw)
	b.raw = evidence.AppendMessage(b.raw, &e) // where it grows, what was given to the group stays in the old array
	g.Messages = append(g.Messages, journal.Message{First: first, Last: last, At: m.ReceivedAt, Bytes: b.raw[start:]})
}

func (b *Batch) judgedAt(m *Message) vitals.Micros {
	if b.judgeAt != 0 {
		return b.judgeAt
	}
	return m.ReceivedAt
}

func (b *Batch) device(id vitals.DeviceID) (*devices.Handle, error) {
	if b.last != nil && b.last.ID() == id { // a group is mostly one connection's
		return b.last, nil
	}
	if h := b.p.c.Devices.Find(id); h != nil {
		b.last = h
		return h, nil
	}
	if b.p.c.Register == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	h, err := b.p.c.Register(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("register device: %w", err)
	}
	return h, nil
}

func (b *Batch) decode(m Message, h *devices.Handle, s *span) {
	items, err := payload.Decode(m.Format, payload.Input{Payload: m.Payload, ReceivedAt: m.ReceivedAt, DeviceTZ: h.Location()}, b.items[:0])
	b.items = items
	if err != nil {
		p := &payload.Problem{Code: payload.JSONInvalid, Detail: "the message could not be read", Offset: -1}
		errors.As(err, &p)
		s.problems = append(s.problems, *p)
		if b.WantItems {
			s.order = append(s.order, itemRef{-1, 0, -1})
		}
		return
	}
	s.items = len(items)
	judgeAt := b.judgedAt(&m)
	s.clock = b.clockOf(items, h, m.ReceivedAt)
	for i := range items {
		r := &items[i].Reading
		doubtful := setClock(&items[i], s.clock)
		problem := items[i].Problem
		voided := items[i].Change == payload.Voided && (problem == nil || problem.Code == payload.EnteredInError)
		switch {
		case voided:
			r.Device, r.ReceivedAt, problem = h.ID(), m.ReceivedAt, nil
		case items[i].Failed():
			b.fail(*r, h, m.ReceivedAt, judgeAt, doubtful)
		case problem == nil:
			problem = b.p.c.Owners.judge(r, judge(r, h, m.ReceivedAt, judgeAt))
			if doubtful {
				r.Freshness = vitals.Doubtful
			}
		}
		if problem != nil {
			problem.Index = i
			s.problems = append(s.problems, *problem)
			if b.WantItems {
				s.order = append(s.order, itemRef{-1, len(s.problems) - 1, -1})
			}
			continue
		}
		changes := voided || items[i].Change == payload.Corrected
		if s.message.Payload == nil && (changes || r.Extra != nil && r.Extra.DeviceReadingID != "") {
			s.message = m
			s.message.Payload = append([]byte(nil), m.Payload...)
		}
		if changes {
			if b.WantItems {
				s.order = append(s.order, itemRef{-1, -1, len(s.changes)})
			}
			s.changes = append(s.changes, change{item: i, r: *r, void: voided})
			continue
		}
		if b.WantItems {
			s.order = append(s.order, itemRef{len(b.group.Readings), -1, -1})
		}
		b.group.Readings = append(b.group.Readings, *r)
	}
}

// fail notes that a measurement failed. Its item is refused like any that is no reading, and counted so. Besides, what
// the device said goes to the journal, in the same commit and under the same rule against duplicates as readings, so that
// whoever watches over the person hears of it once, whatever is sent again or crashes. Nobody's failure, of a device that is bound
// to nobody, stays with the device.
func (b *Batch) fail(r vitals.Reading, h *devices.Handle, receivedAt, judgeAt vitals.Micros, doubtful bool) {
	f := r.Extra.Fault
	if f.Class == vitals.UnknownFault && b.p.c.Explain != nil {
		if class, known := b.p.c.Explain(h.Model(), r.Indicator, f.Code); known {
			f.Class = class
		}
	}
	x := *r.Extra
	x.Fault = f
	r.Extra, r.Device, r.ReceivedAt, r.Quality = &x, h.ID(), receivedAt, vitals.Invalid
	fresh, ahead := freshness(&r, judgeAt)
	if ahead {
		return
	}
	if r.Freshness = fresh; doubtful {
		r.Freshness = vitals.Doubtful
	}
	h.NoteFailure(devices.Failure{At: r.TakenAt, Indicator: r.Indicator, DeviceFault: f})
	var bound bool
	if r.Patient, bound = h.Resolve(r.UserSlot, r.TakenAt); bound {
		b.failed = append(b.failed, r)
	}
}

// addFailed puts what failed behind the readings of its message. In evidence it stands as it was judged, not as it
// came: what a code means may be learnt later.
func (b *Batch) addFailed(m *Message, h *devices.Handle) {
	for i := range b.failed {
		n := len(b.group.Readings)
		b.group.Readings = append(b.group.Readings, b.failed[i])
		if !b.p.c.Evidence {
			continue
		}
		x := Message{Device: m.Device, Gateway: m.Gateway, Format: revisedFormat, Source: m.Source, ReceivedAt: m.ReceivedAt,
			Payload: vitals.AppendReading(nil, &b.failed[i])}
		b.keepIn(&b.group, &x, h, evidence.Clock{}, n, n+1, nil)
	}
}

// judge completes the reading: whose it is, how fresh, how plausible. It returns why the reading is refused.
func judge(r *vitals.Reading, h *devices.Handle, receivedAt, judgeAt vitals.Micros) *payload.Problem {
	r.Device, r.ReceivedAt = h.ID(), receivedAt
	fresh, ahead := freshness(r, judgeAt)
	if ahead {
		return &payload.Problem{Code: payload.ClockAhead, Offset: -1,
			Detail: "taken_at is more than five minutes in the future; set the device's clock"}
	}
	r.Freshness = fresh
	var ok bool
	if r.Patient, ok = h.Resolve(r.UserSlot, r.TakenAt); !ok {
		return &payload.Problem{Code: payload.PatientUnknown, Offset: -1,
			Detail: "the device (or its user slot) was bound to nobody at that time; bind it with: vitalwatch device bind"}
	}
	q, c := vitals.JudgeValues(r)
	if q == vitals.Invalid {
		return impossible(c)
	}
	r.Quality = q
	return nil
}

// freshness is the verdict at an instant that may be later than the receipt.
func freshness(r *vitals.Reading, judgeAt vitals.Micros) (fresh vitals.Freshness, ahead bool) {
	fresh, ahead = vitals.JudgeFreshness(r.TakenAt, judgeAt)
	if _, wasAhead := vitals.JudgeFreshness(r.TakenAt, r.ReceivedAt); wasAhead {
		fresh = vitals.Doubtful // replayed: time has caught up, the clock is still wrong
	}
	return fresh, ahead
}

// Commit makes everything added durable and returns one Result per message, in order; the slice is valid until
// the next Add. An error is transient and concerns the whole batch: nothing of it may be acknowledged, the sender
// tries again later. The batch is empty afterwards in any case.
func (b *Batch) Commit(ctx context.Context) ([]Result, error) {
	defer b.Reset()
	if b.err != nil {
		return nil, b.err
	}
	if len(b.spans) == 0 {
		return nil, nil
	}
	if err := b.p.c.Journal.Append(ctx, &b.group); err != nil {
		b.countLater(err)
		return nil, err
	}
	if b.changes || slices.Contains(b.group.Verdicts, journal.Conflict) {
		if err := b.revise(ctx); err != nil {
			b.p.c.Metrics.countDurable(b.spans, b.group.Verdicts)
			return nil, err
		}
	}
	b.results = b.results[:0]
	for i := range b.spans {
		r := b.result(&b.spans[i])
		if !b.spans[i].more {
			b.results = append(b.results, r)
			continue
		}
		whole := &b.results[len(b.results)-1]
		whole.Accepted += r.Accepted
		whole.Duplicate += r.Duplicate
		whole.Quarantined += r.Quarantined
		whole.Items = append(whole.Items, r.Items...)
		whole.Problems = slices.Clip(whole.Problems) // those of the first part are the span's
		for _, p := range r.Problems {
			p.Index += b.spans[i].base
			whole.Problems = append(whole.Problems, p)
		}
	}
	b.count()
	return b.results, nil
}

// count adds the batch to the metrics, all messages of one source at once: counters are shared by all connections.
func (b *Batch) count() {
	next := 0 // of the results
	for i := 0; i < len(b.spans); {
		source, sum := b.spans[i].source, Result{}
		for ; i < len(b.spans) && b.spans[i].source == source; i++ {
			sum.Accepted += b.spans[i].beyond
			if b.spans[i].more {
				continue
			}
			r := &b.results[next]
			next++
			sum.Accepted += r.Accepted
			sum.Duplicate += r.Duplicate
			sum.Quarantined += r.Quarantined
			sum.Problems = append(sum.Problems, r.Problems...)
		}
		b.p.c.Metrics.count(source, &sum)
	}
}

// countLater counts a batch whose commit was given up, if it becomes durable all the same: what is stored and evaluated
// was accepted, and the resend of its senders will be duplicates. Changes and conflicts are not dealt with then; they
// count when they come again.
func (b *Batch) countLater(err error) {
	var late *journal.UndecidedError
	if !errors.As(err, &late) {
		return
	}
	spans, m := slices.Clone(b.spans), b.p.c.Metrics
	late.After(func(verdicts []journal.Verdict) { m.countDurable(spans, verdicts) })
}

// countDurable counts what is durable of a batch whose senders were told to send it again: it comes as duplicates then.
// What conflicts counts when it comes again, as do changes that were not made yet.
func (m *Metrics) countDurable(spans []span, verdicts []journal.Verdict) {
	for i := range spans {
		s := &spans[i]
		r := Result{Accepted: s.beyond, Quarantined: len(s.problems), Problems: s.problems}
		add := func(v journal.Verdict) {
			switch v {
			case journal.New:
				r.Accepted++
			case journal.Duplicate:
				r.Duplicate++
			}
		}
		for _, v := range verdicts[s.first:s.last] {
			add(v)
		}
		for k := range s.changes {
			if c := &s.changes[k]; c.made {
				add(c.verdict)
			}
		}
		m.count(s.source, &r)
	}
}

func (b *Batch) result(s *span) Result {
	res := Result{Quarantined: len(s.problems), Problems: s.problems}
	for i := s.first; i < s.last; i++ {
		switch b.group.Verdicts[i] {
		case journal.New:
			res.Accepted++
		case journal.Duplicate:
			res.Duplicate++
		case journal.Conflict:
			res.Quarantined++
			res.Problems = append(res.Problems, conflict(s.place(i-s.first)))
		}
	}
	for i := range s.changes {
		c := &s.changes[i]
		switch c.verdict {
		case journal.New:
			res.Accepted++
		case journal.Duplicate:
			res.Duplicate++
		case journal.Conflict:
			res.Quarantined++
			res.Problems = append(res.Problems, *c.problem())
		}
	}
	if b.WantItems {
		res.Items = b.itemResults(s)
	}
	return res
}

func (b *Batch) itemResults(s *span) []ItemResult {
	var out []ItemResult
	for _, ref := range s.order {
		it := ItemResult{Status: "quarantined"}
		switch {
		case ref.problem >= 0:
			it.Problem = s.problems[ref.problem]
		case ref.change >= 0:
			c := &s.changes[ref.change]
			switch it.Reading = c.r; c.verdict {
			case journal.New:
				it.Status = "accepted"
			case journal.Duplicate:
				it.Status = "duplicate"
			default:
				it.Reading, it.Problem = vitals.Reading{}, *c.problem()
			}
		case b.group.Verdicts[ref.reading] == journal.Conflict:
			it.Problem = conflict(s.place(ref.reading - s.first))
		default:
			it.Status, it.Reading = "accepted", b.group.Readings[ref.reading]
			if b.group.Verdicts[ref.reading] == journal.Duplicate {
				it.Status = "duplicate"
			}
		}
		out = append(out, it)
	}
	return out
}

func conflict(index int) payload.Problem {
	return payload.Problem{Code: payload.IDConflict, Index: index, Offset: -1,
		Detail: "this device has already sent another reading under the same id; ids must be unique per device"}
}

// Replay sends one quarantined message through the pipeline again, after its cause was mended. What is accepted
// now is never live. journal.ErrNotQuarantined says that there is no such item. The
// item stays in quarantine with what of it is still refused. Result.Items is filled.
func (p *Pipeline) Replay(ctx context.Context, id uint64) (Result, error) {
	q, err := p.c.Journal.QuarantineGet(id)
	if err != nil {
		return Result{}, fmt.Errorf("quarantined item %d: %w", id, err)
	}
	b := p.NewBatch()
	b.judgeAt, b.WantItems = p.replayAt(&q), true
	b.Add(replayed(&q))
	b.group.Quarantine = nil // it is there already
	b.again = true
	res, err := b.Commit(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("replay item %d: %w", id, err)
	}
	r := res[0]
	switch {
	case r.Quarantined == 0:
		err = p.c.Journal.QuarantineDelete(id)
	case r.Accepted+r.Duplicate > 0 || r.Quarantined != q.Refused:
		err = p.c.Journal.QuarantineRefused(id, r.Problems)
	}
	if err != nil {
		return r, fmt.Errorf("note what became of replayed item %d: %w", id, err)
	}
	return r, nil
}
