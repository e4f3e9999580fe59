package web

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"vitalwatch/devices"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// Waiting knows the readings that have no owner; *ingest.Pipeline is the real one.
type Waiting interface {
	Waiting(ctx context.Context, list func(ctx context.Context, limit int, cursor uint64) ([]journal.Quarantined, uint64, error)) (ws []ingest.Waiting, more bool, err error)
	WaitingIn(id uint64) ([]ingest.Waiting, error)
}

// UnassignedItem is all that waits for an owner from one user slot of one device, for one reason.
type UnassignedItem struct {
	// ID names the newest message of the group and its slot.
	ID         string   `json:"id" example:"1795300000000000-2"`
	DeviceID   string   `json:"device_id"`
	UserSlot   uint8    `json:"user_slot" doc:"0: the device names none; 255: it says unknown"`
	Problem    string   `json:"problem" enum:"device_unknown,patient_unknown,owner_doubtful,replayable" doc:"replayable: the readings have an owner by now"`
	PatientID  string   `json:"patient_id,omitempty" doc:"whose they would be: the doubtful owner, or the one they have by now"`
	Readings   int      `json:"readings"`
	Messages   int      `json:"messages"`
	Indicators []string `json:"indicators"`
	FirstTaken string   `json:"first_taken_at,omitempty"`
	LastTaken  string   `json:"last_taken_at,omitempty"`
	LastAt     string   `json:"last_received_at"`
	// Newest is the newest reading, so that a person can tell whose it is.
	Newest *readingJSON `json:"newest,omitempty"`

	newest vitals.Micros
	ids    map[uint64]bool
}

// waiting groups what waits and the principal may see, what came last first.
func (v *view) waiting(ctx context.Context) (items []*UnassignedItem, byKey map[string][]ingest.Waiting, more bool, err error) {
	ws, more, err := v.s.d.Waiting.Waiting(ctx, v.s.d.Quarantine.Quarantine)
	if err != nil {
		return nil, nil, false, err
	}
	groups := map[string]*UnassignedItem{}
	byKey = map[string][]ingest.Waiting{}
	for i := range ws {
		w := &ws[i]
		if !v.mayWaiting(w) {
			continue
		}
		key := groupKey(w)
		byKey[key] = append(byKey[key], *w)
		g := groups[key]
		if g == nil {
			g = &UnassignedItem{ID: unassignedID(w), DeviceID: string(w.Reading.Device), UserSlot: w.Reading.UserSlot, Problem: cmp.Or(w.Problem, "replayable"),
				PatientID: string(w.Reading.Patient), Indicators: []string{}, ids: map[uint64]bool{}}
			groups[key] = g
			items = append(items, g)
		}
		g.Readings++
		if !g.ids[w.Message] {
			g.ids[w.Message] = true
			g.Messages++
		}
		g.newest = max(g.newest, w.LastAt)
		g.LastAt = stamp(g.newest)
		if w.Reading.Indicator == 0 {
			continue
		}
		if name := w.Reading.Indicator.String(); !slices.Contains(g.Indicators, name) {
			g.Indicators = append(g.Indicators, name)
		}
		taken := stamp(w.Reading.TakenAt)
		if g.Newest == nil || w.Reading.TakenAt > g.Newest.r.TakenAt {
			g.Newest, g.LastTaken = &readingJSON{w.Reading}, taken
		}
		if g.FirstTaken == "" || taken < g.FirstTaken {
			g.FirstTaken = taken
		}
	}
	for _, g := range items {
		slices.Sort(g.Indicators)
	}
	slices.SortFunc(items, func(a, b *UnassignedItem) int {
		return cmp.Or(cmp.Compare(b.newest, a.newest), strings.Compare(a.ID, b.ID))
	})
	return items, byKey, more, nil
}

func groupKey(w *ingest.Waiting) string {
	return string(w.Reading.Device) + " " + strconv.Itoa(int(w.Reading.UserSlot)) + " " + w.Problem + " " + string(w.Reading.Patient)
}

func unassignedID(w *ingest.Waiting) string {
	return strconv.FormatUint(w.Message, 10) + "-" + strconv.Itoa(int(w.Reading.UserSlot))
}

// mayWaiting: people who see only some patients see what comes from a device of one of them.
func (v *view) mayWaiting(w *ingest.Waiting) bool {
	if len(v.p.Teams) == 0 {
		return true
	}
	if w.Reading.Patient != "" {
		return v.may(w.Reading.Patient)
	}
	if v.s.d.Devices == nil {
		return false
	}
	h := v.s.d.Devices.Find(w.Reading.Device)
	return h != nil && v.mayDevice(h)
}

func listUnassigned(s *Server, ctx context.Context, in *struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"200"`
	Cursor string `query:"cursor" maxLength:"20"`
}) (*page[*UnassignedItem], error) {
	if s.d.Waiting == nil {
		return nil, errNotFound
	}
	v := viewOf(ctx)
	from := 0
	if in.Cursor != "" {
		var err error
		if from, err = strconv.Atoi(in.Cursor); err != nil || from < 1 {
			return nil, errBadCursor
		}
	}
	if err := v.record(ctx, "unassigned.list", "", ""); err != nil {
		return nil, err
	}
	items, _, _, err := v.waiting(ctx)
	if err != nil {
		return nil, err
	}
	items = items[min(from, len(items)):]
	next := ""
	if len(items) > in.Limit {
		items = items[:in.Limit]
		next = strconv.Itoa(from + in.Limit)
	}
	return paged(items, next), nil
}

// UnassignedPath names what waits.
type UnassignedPath struct {
	ID string `path:"id" maxLength:"24" doc:"of an item of GET /unassigned"`
}

// one returns what waits in one message and slot, when the principal may see it.
func (v *view) oneWaiting(id string) (message uint64, ws []ingest.Waiting, others bool, err error) {
	if v.s.d.Waiting == nil || v.s.d.Devices == nil {
		return 0, nil, false, errNotFound
	}
	text, slotText, _ := strings.Cut(id, "-")
	message, err1 := strconv.ParseUint(text, 10, 64)
	slot, err2 := strconv.ParseUint(slotText, 10, 8)
	if errors.Join(err1, err2) != nil {
		return 0, nil, false, errNotFound
	}
	all, err := v.s.d.Waiting.WaitingIn(message)
	if err != nil {
		return 0, nil, false, err
	}
	for i := range all {
		if all[i].Reading.UserSlot == uint8(slot) && v.mayWaiting(&all[i]) {
			ws = append(ws, all[i])
		} else {
			others = true
		}
	}
	if len(ws) == 0 {
		return 0, nil, false, errNotFound
	}
	return message, ws, others, nil
}

// AssignOutcome says what became of readings that somebody has given to a patient.
type AssignOutcome struct {
	Accepted  int `json:"accepted"`
	Duplicate int `json:"duplicate"`
	Refused   int `json:"refused" doc:"readings of the same messages that are still refused, for this or another reason"`
	Messages  int `json:"messages"`
}

func assignUnassigned(s *Server, ctx context.Context, in *struct {
	UnassignedPath
	Body struct {
		PatientID string `json:"patient_id" minLength:"1" maxLength:"64"`
		For       string `json:"for" enum:"this,device_slot" doc:"this: the readings of this message only; device_slot: all that wait from this device and slot, and those to come"`
	}
}) (*struct{ Body AssignOutcome }, error) {
	v := viewOf(ctx)
	message, ws, _, err := v.oneWaiting(in.ID)
	if err != nil {
		return nil, err
	}
	patient := vitals.PatientID(in.Body.PatientID)
	if _, err := v.patient(patient); err != nil {
		return nil, err
	}
	device := ws[0].Reading.Device
	if err := v.record(ctx, "unassigned.assign", patient, string(device)+" "+in.ID+" "+in.Body.For); err != nil {
		return nil, err
	}
	if ws[0].Problem == payload.DeviceUnknown {
		if err := v.introduce(ctx, device); err != nil {
			return nil, err
		}
		if _, ws, _, err = v.oneWaiting(in.ID); err != nil { // now with the registry's eyes
			return nil, err
		}
	}
	if i := slices.IndexFunc(ws, func(w ingest.Waiting) bool { return w.Problem == "" && w.Reading.Patient != patient }); i >= 0 {
		return nil, problem(http.StatusConflict, "has-owner", "the readings have an owner by now", "replay their message, or bind the device anew")
	}
	messages := []uint64{message}
	if in.Body.For == "device_slot" {
		_, byKey, _, err := v.waiting(ctx)
		if err != nil {
			return nil, err
		}
		slot := ws[0].Reading.UserSlot
		ws = nil
		for _, group := range byKey {
			if group[0].Reading.Device == device && group[0].Reading.UserSlot == slot {
				ws = append(ws, group...)
			}
		}
		messages = nil
		for i := range ws {
			messages = append(messages, ws[i].Message)
		}
		slices.Sort(messages)
		messages = slices.Compact(messages)
		if err := v.settle(ctx, patient, ws); err != nil {
			return nil, err
		}
	} else if err := v.give(ctx, patient, ws); err != nil {
		return nil, err
	}
	out := &struct{ Body AssignOutcome }{}
	for _, id := range messages {
		res, err := s.d.Pipeline.Replay(ctx, id)
		if errors.Is(err, journal.ErrNotQuarantined) {
			continue // somebody else was as quick
		}
		if err != nil {
			return nil, err
		}
		out.Body.Messages++
		out.Body.Accepted += res.Accepted
		out.Body.Duplicate += res.Duplicate
		out.Body.Refused += res.Quarantined
	}
	if s.d.Reweigh != nil {
		s.d.Reweigh(patient)
	}
	return out, nil
}

// introduce makes a record for a device that nobody knows; its credential, if it needs one, is for an administrator.
func (v *view) introduce(ctx context.Context, id vitals.DeviceID) error {
	_, _, err := v.s.d.Devices.Add(ctx, devices.New{ID: id, NoSecret: true})
	if errors.Is(err, devices.ErrExists) {
		return nil
	}
	return deviceProblem(err)
}

// give makes readings a patient's, whatever the bindings say.
func (v *view) give(ctx context.Context, patient vitals.PatientID, ws []ingest.Waiting) error {
	var rs []vitals.Reading
	for i := range ws {
		if ws[i].Problem != "" {
			rs = append(rs, ws[i].Reading)
		}
	}
	if len(rs) == 0 {
		return nil
	}
	return deviceProblem(v.s.d.Devices.Give(ctx, patient, v.p.Kind+" "+v.p.Name, rs))
}

// settle makes a device's slot measure for a patient during the time of the readings that had no owner, and from the
// first doubtful one on when they are somebody else's. The doubtful ones are given by hand: the bindings said otherwise.
func (v *view) settle(ctx context.Context, patient vitals.PatientID, ws []ingest.Waiting) error {
	slices.SortFunc(ws, func(a, b ingest.Waiting) int { return cmp.Compare(a.Reading.TakenAt, b.Reading.TakenAt) })
	var doubtful []ingest.Waiting
	for i := range ws {
		r := &ws[i].Reading
		switch ws[i].Problem {
		case payload.OwnerDoubtful:
			doubtful = append(doubtful, ws[i])
		case payload.PatientUnknown:
			if _, ok := v.s.d.Devices.Find(r.Device).Resolve(r.UserSlot, r.TakenAt); ok {
				continue // the gap that was filled for an earlier one
			}
			if err := v.s.d.Devices.BindGap(ctx, r.Device, r.UserSlot, patient, r.TakenAt); err != nil {
				return deviceProblem(err)
			}
		}
	}
	if len(doubtful) == 0 {
		return nil
	}
	if i := slices.IndexFunc(doubtful, func(w ingest.Waiting) bool { return w.Reading.Patient != patient }); i >= 0 {
		r := &doubtful[i].Reading
		if err := v.s.d.Devices.Bind(ctx, r.Device, r.UserSlot, patient, r.TakenAt); err != nil {
			return deviceProblem(err)
		}
	}
	return v.give(ctx, patient, doubtful)
}

func dismissUnassigned(s *Server, ctx context.Context, in *struct {
	UnassignedPath
	Body *struct{}
}) (*struct{ Body AssignOutcome }, error) {
	v := viewOf(ctx)
	message, ws, others, err := v.oneWaiting(in.ID)
	if err != nil {
		return nil, err
	}
	if others {
		return nil, problem(http.StatusConflict, "message-shared", "the message holds readings of others", "assign those first")
	}
	if err := v.record(ctx, "unassigned.dismiss", ws[0].Reading.Patient, string(ws[0].Reading.Device)+" "+in.ID); err != nil {
		return nil, err
	}
	d, ok := s.d.Quarantine.(interface{ QuarantineDelete(id uint64) error })
	if !ok {
		return nil, errNotFound
	}
	if err := d.QuarantineDelete(message); err != nil {
		return nil, err
	}
	out := &struct{ Body AssignOutcome }{}
	out.Body.Messages, out.Body.Refused = 1, len(ws)
	return out, nil
}
