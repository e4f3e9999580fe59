package web

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/storage"
	"vitalwatch/trends"
	"vitalwatch/vitals"
)

// view is what one principal may see and do: the only way from a handler, or the feed, to a patient's data. What is
// not allowed looks as if it were not there.
type view struct {
	s      *Server
	p      *Principal
	remote string
}

// may reports whether the principal may see a patient; unknown patients belong to nobody's team.
func (v *view) may(id vitals.PatientID) bool {
	if len(v.p.Teams) == 0 {
		return abilities[v.p.Role]&canRead != 0
	}
	p, ok := v.s.d.Patients.Find(id)
	return ok && v.inTeam(p)
}

func (v *view) inTeam(p *care.Patient) bool {
	if len(v.p.Teams) == 0 {
		return abilities[v.p.Role]&canRead != 0
	}
	return slices.ContainsFunc(p.Teams, func(t string) bool { return slices.Contains(v.p.Teams, t) })
}

func (v *view) patient(id vitals.PatientID) (*care.Patient, error) {
	p, ok := v.s.d.Patients.Find(id)
	if !ok || !v.inTeam(p) {
		return nil, errNotFound
	}
	return p, nil
}

// all yields the patients the principal may see, by id.
func (v *view) all() iter.Seq[*care.Patient] {
	return func(yield func(*care.Patient) bool) {
		for p := range v.s.d.Patients.All() {
			if v.inTeam(p) && !yield(p) {
				return
			}
		}
	}
}

// allowed is nil for everybody, else the list of who may be seen.
func (v *view) allowed() []vitals.PatientID {
	if len(v.p.Teams) == 0 {
		return nil
	}
	ids := []vitals.PatientID{}
	for p := range v.all() {
		ids = append(ids, p.ID)
	}
	return ids
}

// scope changes whenever allowed does.
func (v *view) scope() uint64 {
	if len(v.p.Teams) == 0 {
		return 0
	}
	h := sha256.New()
	for p := range v.all() {
		h.Write([]byte(p.ID))
		h.Write([]byte{0})
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// record notes who did what to whom; an error means that it must not be done.
func (v *view) record(ctx context.Context, action string, patient vitals.PatientID, subject string) error {
	return v.s.audit.record(ctx, entry{Actor: v.p.Kind + " " + v.p.Name, Role: v.p.Role, Action: action, Patient: string(patient), Subject: subject, Remote: v.remote})
}

// PatientItem is a patient as the API shows it.
type PatientItem struct {
	ID         vitals.PatientID `json:"id"`
	Name       string           `json:"name"`
	Conditions []string         `json:"conditions"`
	Teams      []string         `json:"teams"`
	Worst      string           `json:"worst_severity" enum:"none,info,warning,critical,emergency"`
	Open       int              `json:"open_alerts"`
	Unacked    int              `json:"unacknowledged_alerts"`
	Technical  int              `json:"technical_alerts" doc:"open alerts about devices; the fields before are about the person only"`
	Signal     string           `json:"signal" enum:"live,lost" doc:"lost: an open alert has no data any more"`
	Last       *readingJSON     `json:"last_reading"`
	Coverage   []Coverage       `json:"coverage"`
	TZ         string           `json:"tz,omitempty"`
	worst      alerting.Severity
}

// need is the patient's open alerts in short.
type need struct {
	worst         alerting.Severity
	open, unacked int
	technical     int // not among the others
	lost          bool
}

// needs sums the open alerts up, once for each change of the ledger.
func (s *Server) needs(ctx context.Context) (map[vitals.PatientID]need, error) {
	s.needed.Lock()
	defer s.needed.Unlock()
	seq := s.d.Ledger.Seq() // before reading: what comes in between makes the next call read again
	if s.needed.byPatient != nil && s.needed.seq == seq {
		return s.needed.byPatient, nil
	}
	open, err := s.d.Ledger.AllOpen(ctx)
	if err != nil {
		return nil, err
	}
	m := map[vitals.PatientID]need{}
	for i := range open {
		a := &open[i]
		n := m[a.PatientID]
		if a.Kind == alerting.Technical {
			n.technical++
			m[a.PatientID] = n
			continue
		}
		n.worst = max(n.worst, a.Severity)
		n.open++
		if a.State == alerting.Open {
			n.unacked++
		}
		n.lost = n.lost || a.Signal == "lost"
		m[a.PatientID] = n
	}
	s.needed.seq, s.needed.byPatient = seq, m
	return m, nil
}

func item(p *care.Patient, n need) PatientItem {
	it := PatientItem{ID: p.ID, Name: p.Name, Conditions: list(p.Conditions), Teams: list(p.Teams), Worst: n.worst.String(), worst: n.worst,
		Open: n.open, Unacked: n.unacked, Technical: n.technical, Signal: "live", TZ: p.TZ, Coverage: []Coverage{}}
	if n.lost {
		it.Signal = "lost"
	}
	return it
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// more fills in what must be read for each patient.
func (v *view) more(ctx context.Context, it *PatientItem) error {
	p, err := v.patient(it.ID)
	if err != nil {
		return err
	}
	latest, err := v.s.d.Readings.Latest(ctx, it.ID)
	if err != nil {
		return err
	}
	for i := range latest {
		if it.Last == nil || latest[i].TakenAt > it.Last.r.TakenAt {
			it.Last = &readingJSON{latest[i]}
		}
	}
	if v.s.d.Coverage != nil {
		it.Coverage, err = v.s.d.Coverage(ctx, p, latest)
		return err
	}
	it.Coverage = ageCoverage(latest, v.s.now())
	return nil
}

// watchedFor is how long after its last reading an indicator counts as watched while no plan says otherwise.
const watchedFor = 48 * time.Hour

// ageCoverage says what the readings' age alone tells.
func ageCoverage(latest []vitals.Reading, now time.Time) []Coverage {
	out := []Coverage{}
	for i := range latest {
		r := &latest[i]
		c := Coverage{Indicator: r.Indicator.String(), Since: stamp(r.TakenAt)}
		if c.Watched = vitals.At(now).Sub(r.TakenAt) <= watchedFor; !c.Watched {
			c.Why = "no_recent_reading"
		}
		out = append(out, c)
	}
	return out
}

// order sorts by who needs somebody most.
func order(a, b *PatientItem) int {
	return cmp.Or(cmp.Compare(b.worst, a.worst), cmp.Compare(b.Unacked, a.Unacked), cmp.Compare(b.Open, a.Open), strings.Compare(string(a.ID), string(b.ID)))
}

// patients lists a page in order of need. The cursor is the last item's place: a patient whose need changes between
// two pages may come twice or not at all; the feed tells the change.
func (v *view) patients(ctx context.Context, limit int, cursor string) (items []PatientItem, next string, err error) {
	var after *PatientItem
	if cursor != "" {
		var c struct {
			W, U, O int
			ID      vitals.PatientID
		}
		if err := decodeCursor(cursor, "p", &c); err != nil {
			return nil, "", err
		}
		after = &PatientItem{worst: alerting.Severity(c.W), Unacked: c.U, Open: c.O, ID: c.ID}
	}
	needs, err := v.s.needs(ctx)
	if err != nil {
		return nil, "", err
	}
	items = []PatientItem{}
	for p := range v.all() {
		it := item(p, needs[p.ID])
		if after == nil || order(&it, after) > 0 {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b PatientItem) int { return order(&a, &b) })
	if len(items) > limit {
		items = items[:limit]
		l := &items[limit-1]
		next = encodeCursor("p", struct {
			W, U, O int
			ID      vitals.PatientID
		}{int(l.worst), l.Unacked, l.Open, l.ID})
	}
	for i := range items {
		if err := v.more(ctx, &items[i]); err != nil {
			return nil, "", err
		}
	}
	return items, next, nil
}

// Cursors are opaque to clients: base64 of JSON, with the list's letter in front.
func encodeCursor(list string, v any) string {
	b, _ := json.Marshal(v) // numbers and strings only
	return base64.RawURLEncoding.EncodeToString(append([]byte(list), b...))
}

func decodeCursor(s, list string, v any) error {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) == 0 || string(b[:1]) != list || json.Unmarshal(b[1:], v) != nil {
		return errBadCursor
	}
	return nil
}

// period is a half-open span of time; To 0: no end.
type period struct{ From, To vitals.Micros }

// readings gives emit a page in order of time, whatever the indicator, and returns the cursor of the next.
func (v *view) readings(ctx context.Context, id vitals.PatientID, ind vitals.Indicator, per period, limit int, newest bool, cursor string, emit func(*vitals.Reading)) (string, error) {
	if _, err := v.patient(id); err != nil {
		return "", err
	}
	var after *storage.Position
	if cursor != "" {
		var c struct {
			I vitals.Indicator
			T vitals.Micros
			H uint64
		}
		if err := decodeCursor(cursor, "r", &c); err != nil {
			return "", err
		}
		after = &storage.Position{Indicator: c.I, TakenAt: c.T, Hash: c.H}
	}
	indicators := []vitals.Indicator{ind}
	if ind == 0 {
		indicators = vitals.Indicators()
	}
	var queries []storage.Query
	for _, i := range indicators {
		q := storage.Query{Patient: id, Indicator: i, From: per.From, To: per.To, Limit: limit + 1, Newest: newest}
		if after != nil {
			switch {
			case i == after.Indicator:
				q.After = after
			case i < after.Indicator: // at equal times the lower indicator comes first, so it has passed
				q.From = max(q.From, after.TakenAt+1)
			default:
				q.From = max(q.From, after.TakenAt)
			}
		}
		queries = append(queries, q)
	}
	if newest {
		var out []vitals.Reading
		for r, err := range v.merged(ctx, queries) {
			if err != nil {
				return "", err
			}
			out = append(out, r)
		}
		for i := max(0, len(out)-limit); i < len(out); i++ {
			emit(&out[i])
		}
		return "", nil
	}
	n := 0
	var at vitals.Reading // one for all: each would be an allocation of its own
	var last storage.Position
	for r, err := range v.merged(ctx, queries) {
		if err != nil {
			return "", err
		}
		if n == limit {
			return encodeCursor("r", struct {
				I vitals.Indicator
				T vitals.Micros
				H uint64
			}{last.Indicator, last.TakenAt, last.Hash}), nil
		}
		at = r
		emit(&at)
		if n++; n == limit {
			last = v.s.d.Readings.PositionOf(&at)
		}
	}
	return "", nil
}

// merged yields the readings of queries of one indicator each in order of time; at equal times the first query's come
// first. The store's own order over several indicators is by indicator.
func (v *view) merged(ctx context.Context, queries []storage.Query) iter.Seq2[vitals.Reading, error] {
	if len(queries) == 1 {
		return v.s.d.Readings.Range(ctx, queries[0])
	}
	return func(yield func(vitals.Reading, error) bool) {
		type stream struct {
			next func() (vitals.Reading, error, bool)
			r    vitals.Reading
			ok   bool
		}
		pull := func(s *stream) error {
			r, err, ok := s.next()
			s.r, s.ok = r, ok && err == nil
			if ok {
				return err
			}
			return nil
		}
		streams := make([]stream, len(queries))
		for i, q := range queries {
			next, stop := iter.Pull2(v.s.d.Readings.Range(ctx, q))
			defer stop()
			streams[i].next = next
			if err := pull(&streams[i]); err != nil {
				yield(vitals.Reading{}, err)
				return
			}
		}
		for {
			var first *stream
			for i := range streams {
				if s := &streams[i]; s.ok && (first == nil || s.r.TakenAt < first.r.TakenAt) {
					first = s
				}
			}
			if first == nil || !yield(first.r, nil) {
				return
			}
			if err := pull(first); err != nil {
				yield(vitals.Reading{}, err)
				return
			}
		}
	}
}

// maxTrend bounds what one trend computes over: five years of a CGM.
const maxTrend = 600_000

func (v *view) trends(ctx context.Context, id vitals.PatientID, ind vitals.Indicator, per period) (res trends.Result, err error) {
	err = v.computeOver(ctx, id, ind, per, func(p *care.Patient, rs []vitals.Reading) {
		res = trends.Compute(rs, trends.Options{Indicator: ind, From: per.From, To: per.To, Zone: p.Location()})
	})
	return res, err
}

// sessions returns a patient's sittings with the cuff.
func (v *view) sessions(ctx context.Context, id vitals.PatientID, per period, dropFirst bool) (out []trends.Session, err error) {
	err = v.computeOver(ctx, id, vitals.BloodPressure, per, func(_ *care.Patient, rs []vitals.Reading) { out = trends.CuffSessions(rs, dropFirst) })
	return out, err
}

// computeOver calls f with a patient's readings of a period; only some such computations run at a time.
func (v *view) computeOver(ctx context.Context, id vitals.PatientID, ind vitals.Indicator, per period, f func(*care.Patient, []vitals.Reading)) error {
	p, err := v.patient(id)
	if err != nil {
		return err
	}
	if err := v.s.computing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer v.s.computing.Release(1)
	var full [][]vitals.Reading // there may be very many: moved once, at the end
	var rs []vitals.Reading
	n := 0
	for r, err := range v.s.d.Readings.Range(ctx, storage.Query{Patient: id, Indicator: ind, From: per.From, To: per.To}) {
		if err != nil {
			return err
		}
		if n++; n > maxTrend {
			return errTooWide
		}
		if len(rs) == cap(rs) {
			full, rs = append(full, rs), make([]vitals.Reading, 0, min(256+4*len(rs), 8192))
		}
		rs = append(rs, r)
	}
	f(p, slices.Concat(append(full, rs)...))
	return nil
}

func (v *view) alert(ctx context.Context, id string) (alerting.Alert, []ledger.HistoryEntry, error) {
	a, h, err := v.s.d.Ledger.Alert(ctx, id)
	if err == nil && !v.may(a.PatientID) {
		err = errNotFound
	}
	if err != nil {
		return alerting.Alert{}, nil, err
	}
	return a, h, nil
}

func (v *view) alerts(ctx context.Context, f ledger.Filter) ([]alerting.Alert, string, error) {
	f.Patients = v.allowed()
	return v.s.d.Ledger.Alerts(ctx, f)
}

// act does what a person asks to an alert; key is the Idempotency-Key, "" for none.
func (v *view) act(ctx context.Context, a alerting.Action, key string) (alerting.Alert, error) {
	if !v.p.can(canAct) {
		return alerting.Alert{}, errForbidden
	}
	al, _, err := v.alert(ctx, a.AlertID)
	if err != nil {
		return alerting.Alert{}, err
	}
	if err := v.record(ctx, "alert."+string(a.Act), al.PatientID, al.ID); err != nil {
		return alerting.Alert{}, err
	}
	a.Actor = v.p.Name
	var k *ledger.Idempotency
	if key != "" {
		b, err := json.Marshal(a)
		if err != nil {
			return alerting.Alert{}, err
		}
		k = &ledger.Idempotency{Key: key, Principal: v.p.Kind + ":" + v.p.ID, BodyHash: digest(string(b))}
	}
	return act(ctx, v.s.d.Monitor, v.s.d.Ledger, al.PatientID, a, k)
}

func (v *view) findings(ctx context.Context, id vitals.PatientID, fromDay, toDay string, limit int) ([]alerting.Finding, error) {
	if _, err := v.patient(id); err != nil {
		return nil, err
	}
	return v.s.d.Ledger.Findings(ctx, id, fromDay, toDay, limit)
}

func (v *view) thresholds(ctx context.Context, id vitals.PatientID) ([]Threshold, error) {
	p, err := v.patient(id)
	if err != nil {
		return nil, err
	}
	if v.s.d.Thresholds == nil {
		return []Threshold{}, nil
	}
	return v.s.d.Thresholds(ctx, p)
}

func parseID(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, errNotFound
	}
	return id, nil
}
