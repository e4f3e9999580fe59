package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/devices/catalogue"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/trends"
	"vitalwatch/vitals"
)

const maxReadingsBody = payload.MaxBytes

// readingJSON is a reading as the whole product shows it.
type readingJSON struct{ r vitals.Reading }

// MarshalJSON writes the one form of a reading.
func (r readingJSON) MarshalJSON() ([]byte, error) { return vitals.AppendJSON(nil, &r.r), nil }

// Schema describes it, because reflection cannot see it.
func (readingJSON) Schema(huma.Registry) *huma.Schema {
	str := func(doc string) *huma.Schema { return &huma.Schema{Type: "string", Description: doc} }
	instant := &huma.Schema{Type: "string", Format: "date-time"}
	return &huma.Schema{Type: "object", Description: "A reading", Properties: map[string]*huma.Schema{
		"id": str("the same for every resend"), "device_id": str(""), "indicator": str("blood_pressure, glucose, …"),
		"taken_at": instant, "received_at": instant,
		"values":    {Type: "object", AdditionalProperties: &huma.Schema{Type: "number"}, Description: "component to value, in unit"},
		"unit":      str("UCUM"),
		"context":   {Type: "object", AdditionalProperties: true},
		"flags":     {Type: "array", Items: &huma.Schema{Type: "string"}},
		"freshness": {Type: "string", Enum: []any{"live", "late", "backfill", "doubtful"}},
		"quality":   {Type: "string", Enum: []any{"good", "suspect", "invalid"}},
	}}
}

// page is a list's answer.
type page[T any] struct {
	Body struct {
		Items []T             `json:"items"`
		Next  alerting.OrNull `json:"next_cursor" nullable:"true" doc:"ask again with cursor=this; null on the last page"`
	}
}

func paged[T any](items []T, next string) *page[T] {
	p := &page[T]{}
	if items == nil {
		items = []T{}
	}
	p.Body.Items, p.Body.Next = items, alerting.OrNull(next)
	return p
}

// PatientPath and what follows are parts of inputs; huma sees exported ones only.
type PatientPath struct {
	ID string `path:"id" maxLength:"64" doc:"patient id"`
}

// AlertPath names an alert.
type AlertPath struct {
	ID string `path:"id" maxLength:"128" doc:"alert id"`
}

// PeriodQuery is a half-open span of time.
type PeriodQuery struct {
	From string `query:"from" doc:"RFC 3339, inclusive; absent: from the first"`
	To   string `query:"to" doc:"RFC 3339, exclusive; absent: to the last"`
}

func (q *PeriodQuery) parse() (p period, err error) {
	for _, x := range []struct {
		name, text string
		to         *vitals.Micros
	}{{"from", q.From, &p.From}, {"to", q.To, &p.To}} {
		if x.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, x.text)
		if err != nil || t.Year() < 1900 || t.Year() > 9999 {
			return p, badRequest(x.name + " must be an RFC 3339 time such as 2026-11-21T00:00:00Z (a + in a URL is written %2B)")
		}
		*x.to = vitals.At(t)
	}
	if q.To != "" && p.To <= p.From {
		if p.To == p.From || p.To <= 0 || q.From != "" {
			return p, badRequest("to must be after from")
		}
	}
	return p, nil
}

func indicator(name string) (vitals.Indicator, error) {
	if name == "" {
		return 0, nil
	}
	i, ok := vitals.ParseIndicator(name)
	if !ok {
		return 0, badRequest("indicator is unknown: use one such as blood_pressure, glucose, heart_rate, spo2")
	}
	return i, nil
}

func listPatients(s *Server, ctx context.Context, in *struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"200"`
	Cursor string `query:"cursor" maxLength:"400"`
}) (*page[PatientItem], error) {
	v := viewOf(ctx)
	if err := v.record(ctx, "patients.list", "", ""); err != nil {
		return nil, err
	}
	items, next, err := v.patients(ctx, in.Limit, in.Cursor)
	if err != nil {
		return nil, err
	}
	return paged(items, next), nil
}

type patientOutput struct{ Body PatientItem }

func getPatient(s *Server, ctx context.Context, in *PatientPath) (*patientOutput, error) {
	v := viewOf(ctx)
	p, err := v.patient(vitals.PatientID(in.ID))
	if err != nil {
		return nil, err
	}
	if err := v.record(ctx, "patient.view", p.ID, ""); err != nil {
		return nil, err
	}
	needs, err := s.needs(ctx)
	if err != nil {
		return nil, err
	}
	out := &patientOutput{item(p, needs[p.ID])}
	if err := v.more(ctx, &out.Body); err != nil {
		return nil, err
	}
	return out, nil
}

func listReadings(s *Server, ctx context.Context, in *struct {
	PatientPath
	PeriodQuery
	Indicator string `query:"indicator" doc:"absent: all, merged by time"`
	Limit     int    `query:"limit" minimum:"1" maximum:"30000" default:"200" doc:"30000 hold 90 days of a CGM"`
	Cursor    string `query:"cursor" maxLength:"400"`
	Newest    bool   `query:"newest" doc:"the last limit readings instead of the first; has no further pages"`
}) (*pageReadingJSON, error) {
	v := viewOf(ctx)
	per, err := in.parse()
	if err != nil {
		return nil, err
	}
	ind, err := indicator(in.Indicator)
	if err != nil {
		return nil, err
	}
	if in.Newest && in.Cursor != "" {
		return nil, badRequest("newest takes no cursor")
	}
	if _, err := v.patient(vitals.PatientID(in.ID)); err != nil {
		return nil, err
	}
	if err := v.record(ctx, "readings.view", vitals.PatientID(in.ID), ""); err != nil {
		return nil, err
	}
	var out pageReadingJSON
	next, err := v.readings(ctx, vitals.PatientID(in.ID), ind, per, in.Limit, in.Newest, in.Cursor, out.Body.text.add)
	if err != nil {
		return nil, err
	}
	out.Body.Next = alerting.OrNull(next)
	return &out, nil
}

type trendsOutput struct{ Body trends.Result }

func getTrends(s *Server, ctx context.Context, in *struct {
	PatientPath
	PeriodQuery
	Indicator string `query:"indicator" required:"true"`
}) (*trendsOutput, error) {
	v := viewOf(ctx)
	per, err := in.parse()
	if err != nil {
		return nil, err
	}
	ind, err := indicator(in.Indicator)
	if err != nil {
		return nil, err
	}
	if ind == 0 {
		return nil, badRequest("indicator is missing")
	}
	if _, err := v.patient(vitals.PatientID(in.ID)); err != nil {
		return nil, err
	}
	if err := v.record(ctx, "trends.view", vitals.PatientID(in.ID), ""); err != nil {
		return nil, err
	}
	res, err := v.trends(ctx, vitals.PatientID(in.ID), ind, per)
	if err != nil {
		return nil, err
	}
	return &trendsOutput{res}, nil
}

func listThresholds(s *Server, ctx context.Context, in *PatientPath) (*page[Threshold], error) {
	items, err := viewOf(ctx).thresholds(ctx, vitals.PatientID(in.ID))
	if err != nil {
		return nil, err
	}
	return paged(items, ""), nil
}

// FindingItem is a retrospective finding as the API shows it.
type FindingItem struct {
	Rule      alerting.RuleID `json:"rule"`
	Condition string          `json:"condition"`
	Day       string          `json:"day" doc:"UTC"`
	Severity  string          `json:"severity"`
	Title     alerting.Text   `json:"title"`
	First     string          `json:"first"`
	Last      string          `json:"last"`
	Readings  int             `json:"readings"`
	WorstID   string          `json:"worst_reading_id"`
}

func listFindings(s *Server, ctx context.Context, in *struct {
	PatientPath
	PeriodQuery
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}) (*page[FindingItem], error) {
	v := viewOf(ctx)
	per, err := in.parse()
	if err != nil {
		return nil, err
	}
	if _, err := v.patient(vitals.PatientID(in.ID)); err != nil {
		return nil, err
	}
	if err := v.record(ctx, "findings.view", vitals.PatientID(in.ID), ""); err != nil {
		return nil, err
	}
	day := func(m vitals.Micros) string {
		if m == 0 {
			return ""
		}
		return m.Time().Format(time.DateOnly)
	}
	to := ""
	if per.To != 0 {
		to = day(per.To - 1)
	}
	fs, err := v.findings(ctx, vitals.PatientID(in.ID), day(per.From), to, in.Limit)
	if err != nil {
		return nil, err
	}
	var items []FindingItem
	for _, f := range fs {
		items = append(items, FindingItem{f.Rule, f.Condition, f.Day, f.Severity.String(), f.Title, stamp(f.First), stamp(f.Last), f.Readings, f.WorstID})
	}
	return paged(items, ""), nil
}

func listAlerts(s *Server, ctx context.Context, in *struct {
	State    string `query:"state" enum:"open,resolved,all" default:"all" doc:"open: not resolved"`
	Severity string `query:"severity" enum:"info,warning,critical,emergency"`
	Highest  string `query:"highest_severity" enum:"info,warning,critical,emergency" doc:"the highest it ever had: finds an emergency that has eased"`
	Kind     string `query:"kind" enum:"clinical,technical" doc:"technical: about a device that could not measure; absent: both"`
	Patient  string `query:"patient" maxLength:"64"`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor   string `query:"cursor" maxLength:"400"`
}) (*page[alerting.Alert], error) {
	v := viewOf(ctx)
	f := ledger.Filter{State: in.State, Kind: alerting.Nature(in.Kind), Patient: vitals.PatientID(in.Patient), Limit: in.Limit, Cursor: in.Cursor}
	f.Severity, _ = alerting.ParseSeverity(in.Severity) // "" and None are both any; others were checked
	f.Highest, _ = alerting.ParseSeverity(in.Highest)
	if f.Patient != "" && !v.may(f.Patient) {
		return nil, errNotFound
	}
	if err := v.record(ctx, "alerts.list", f.Patient, ""); err != nil {
		return nil, err
	}
	items, next, err := v.alerts(ctx, f)
	if err != nil {
		return nil, err
	}
	return paged(items, next), nil
}

type alertOutput struct{ Body alerting.Alert }

type alertDetail struct {
	Body struct {
		alerting.Alert
		History []ledger.HistoryEntry `json:"history" doc:"transitions, oldest first"`
		// Error is the entry of the device catalogue for the error of a technical alert.
		Error *catalogue.ErrorCode `json:"error_guide,omitempty" doc:"of a technical alert: what the error means on this model and what to do, where the catalogue knows it"`
	}
}

func getAlert(s *Server, ctx context.Context, in *AlertPath) (*alertDetail, error) {
	v := viewOf(ctx)
	a, h, err := v.alert(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := v.record(ctx, "alert.view", a.PatientID, a.ID); err != nil {
		return nil, err
	}
	out := &alertDetail{}
	out.Body.Alert, out.Body.History = a, h
	if e, ok := s.alertErrorGuide(&a); ok {
		out.Body.Error = &e
	}
	return out, nil
}

// ActInput is common to all acts.
type ActInput struct {
	AlertPath
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"a repeated request with the same key gives the first one's answer"`
}

func doAct(ctx context.Context, in *ActInput, a alerting.Action) (*alertOutput, error) {
	a.AlertID = in.ID
	al, err := viewOf(ctx).act(ctx, a, in.Key)
	if err != nil {
		return nil, err
	}
	return &alertOutput{al}, nil
}

type noteBody struct {
	Note string `json:"note,omitempty" maxLength:"2000"`
}

func acknowledgeAlert(s *Server, ctx context.Context, in *struct {
	ActInput
	Body *noteBody
}) (*alertOutput, error) {
	a := alerting.Action{Act: alerting.ActAcknowledge}
	if in.Body != nil {
		a.Note = in.Body.Note
	}
	return doAct(ctx, &in.ActInput, a)
}

func snoozeAlert(s *Server, ctx context.Context, in *struct {
	ActInput
	Body struct {
		Minutes int    `json:"minutes" minimum:"1" maximum:"1440"`
		Note    string `json:"note,omitempty" maxLength:"2000"`
	}
}) (*alertOutput, error) {
	return doAct(ctx, &in.ActInput, alerting.Action{Act: alerting.ActSnooze, Minutes: in.Body.Minutes, Note: in.Body.Note})
}

func resolveAlert(s *Server, ctx context.Context, in *struct {
	ActInput
	Body *struct {
		Outcome string `json:"outcome,omitempty" maxLength:"64" doc:"a short code, such as handled"`
		Note    string `json:"note,omitempty" maxLength:"2000"`
	}
}) (*alertOutput, error) {
	a := alerting.Action{Act: alerting.ActResolve}
	if in.Body != nil {
		a.Outcome, a.Note = in.Body.Outcome, in.Body.Note
	}
	return doAct(ctx, &in.ActInput, a)
}

func noteAlert(s *Server, ctx context.Context, in *struct {
	ActInput
	Body struct {
		Note string `json:"note" minLength:"1" maxLength:"2000"`
	}
}) (*alertOutput, error) {
	return doAct(ctx, &in.ActInput, alerting.Action{Act: alerting.ActNote, Note: in.Body.Note})
}

// IngestOutcome says what became of one POST: accepted + duplicate + quarantined = what was sent.
type IngestOutcome struct {
	Accepted    int          `json:"accepted"`
	Duplicate   int          `json:"duplicate"`
	Quarantined int          `json:"quarantined"`
	Items       []IngestItem `json:"items" doc:"in the order sent"`
}

// IngestItem is the outcome of one item.
type IngestItem struct {
	Index    int    `json:"index"`
	Status   string `json:"status" enum:"accepted,duplicate,quarantined"`
	Accepted bool   `json:"accepted" doc:"it is stored, now or before"`
	ID       string `json:"id,omitempty"`
	Problem  string `json:"problem,omitempty" doc:"stable code such as unit_unknown"`
	Detail   string `json:"detail,omitempty"`
}

func outcome(r *ingest.Result) *IngestOutcome {
	out := &IngestOutcome{Accepted: r.Accepted, Duplicate: r.Duplicate, Quarantined: r.Quarantined, Items: []IngestItem{}}
	for i := range r.Items {
		it := &r.Items[i]
		x := IngestItem{Index: i, Status: it.Status}
		if it.Status == "quarantined" {
			x.Problem, x.Detail = it.Problem.Code, it.Problem.Detail
		} else {
			x.Accepted, x.ID = true, it.Reading.ID()
		}
		out.Items = append(out.Items, x)
	}
	if len(r.Items) == 0 { // the message as a whole was refused
		for _, p := range r.Problems {
			out.Items = append(out.Items, IngestItem{Index: p.Index, Status: "quarantined", Problem: p.Code, Detail: p.Detail})
		}
	}
	return out
}

type outcomeOutput struct{ Body IngestOutcome }

func postReadings(s *Server, ctx context.Context, in *struct {
	Device  string `query:"device" maxLength:"64" doc:"the device that measured"`
	Header  string `header:"X-Device-ID" maxLength:"64" doc:"the same as device"`
	RawBody []byte `contentType:"application/json" required:"true" doc:"a reading or an array, as over MQTT (contract section 3)"`
}) (*outcomeOutput, error) {
	v := viewOf(ctx)
	device := in.Device
	switch {
	case device == "":
		device = in.Header
	case in.Header != "" && in.Header != device:
		return nil, badRequest("device and X-Device-ID differ")
	}
	if !vitals.ValidID(device) {
		return nil, badRequest("device is missing or not 1 to 64 of A-Z a-z 0-9 _ -: send ?device=ID or X-Device-ID")
	}
	if err := v.record(ctx, "readings.send", "", device); err != nil {
		return nil, err
	}
	res, err := s.d.Pipeline.Accept(ctx, ingest.Message{Device: vitals.DeviceID(device), Format: "readings", Source: "http", Payload: in.RawBody, ReceivedAt: vitals.At(s.now())})
	if err != nil {
		s.log.Warn().Err(err).Msg("readings sent over HTTP could not be stored")
		return nil, errUnavailable
	}
	out := outcome(&res)
	if res.Accepted+res.Duplicate == 0 && res.Quarantined > 0 {
		p := problem(http.StatusUnprocessableEntity, "readings-refused", "no reading was accepted", "outcome.items says why, one by one; they are in quarantine")
		p.Outcome = out
		return nil, p
	}
	return &outcomeOutput{*out}, nil
}

// DeliveryItem is an outbox row without its body.
type DeliveryItem struct {
	ID       string `json:"id"`
	Hook     string `json:"hook"`
	Seq      uint64 `json:"seq"`
	AlertID  string `json:"alert_id"`
	Type     string `json:"type"`
	Severity string `json:"severity"`
	State    string `json:"state"`
	Attempts int    `json:"attempts"`
	NextAt   string `json:"next_at,omitempty"`
	Error    string `json:"error,omitempty"`
	DoneAt   string `json:"done_at,omitempty"`
}

func delivery(d *alerting.Delivery) DeliveryItem {
	return DeliveryItem{d.ID, d.Hook, d.Seq, d.AlertID, d.Type, d.Severity.String(), string(d.State), d.Attempts, stamp(d.NextAt), d.Error, stamp(d.DoneAt)}
}

func listOutbox(s *Server, ctx context.Context, in *struct {
	State  string `query:"state" enum:"pending,delivered,dead"`
	Hook   string `query:"hook" maxLength:"64"`
	Alert  string `query:"alert" maxLength:"128"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" maxLength:"400"`
}) (*page[DeliveryItem], error) {
	ds, next, err := s.d.Ledger.Deliveries(ctx, ledger.DeliveryFilter{State: alerting.DeliveryState(in.State), Hook: in.Hook, AlertID: in.Alert, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	var items []DeliveryItem
	for i := range ds {
		items = append(items, delivery(&ds[i]))
	}
	return paged(items, next), nil
}

type deliveryOutput struct{ Body DeliveryItem }

func retryOutbox(s *Server, ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"128"`
	Body *struct{}
}) (*deliveryOutput, error) {
	if err := viewOf(ctx).record(ctx, "outbox.retry", "", in.ID); err != nil {
		return nil, err
	}
	d, err := s.d.Ledger.Retry(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &deliveryOutput{delivery(&d)}, nil
}

func listAudit(s *Server, ctx context.Context, in *struct {
	Patient string `query:"patient" maxLength:"64"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor  string `query:"cursor" maxLength:"40"`
}) (*page[entry], error) {
	var before int64
	if in.Cursor != "" {
		var err error
		if before, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || before <= 0 {
			return nil, errBadCursor
		}
	}
	items, err := s.audit.list(ctx, in.Patient, before, in.Limit)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(items) == in.Limit {
		next = strconv.FormatInt(items[len(items)-1].ID, 10)
	}
	return paged(items, next), nil
}

// SessionBody says who is signed in.
type SessionBody struct {
	Name      string   `json:"name"`
	Role      Role     `json:"role" enum:"admin,coach,service,viewer"`
	Teams     []string `json:"teams" doc:"empty: every patient"`
	Anonymous bool     `json:"anonymous"`
	Expires   string   `json:"expires_at,omitempty"`
}

func sessionBody(p *Principal) SessionBody {
	return SessionBody{p.Name, p.Role, list(p.Teams), p.Kind == "anonymous", stamp(p.expires)}
}

type sessionOutput struct {
	Cookie http.Cookie `header:"Set-Cookie"`
	Body   SessionBody
}

func login(s *Server, ctx context.Context, in *struct {
	Body struct {
		Name     string `json:"name" minLength:"1" maxLength:"200"`
		Password string `json:"password" minLength:"1" maxLength:"1000"`
	}
}) (*sessionOutput, error) {
	r := requestOf(ctx)
	now := s.now()
	for _, l := range []struct {
		l   *limiter
		key string
	}{{s.byAddress, remoteIP(r)}, {s.byName, in.Body.Name}} {
		if wait, ok := l.l.take(l.key, now); !ok {
			p := problem(http.StatusTooManyRequests, "too-many-logins", "too many attempts to sign in", "wait and try again")
			p.retry = wait
			return nil, p
		}
	}
	anybody := &view{s: s, p: &Principal{Kind: "user", Name: in.Body.Name}, remote: remoteIP(r)}
	p, token, err := s.d.Auth.Login(ctx, in.Body.Name, in.Body.Password)
	if err != nil {
		// The name that was typed may be a password in the wrong field: it is not recorded.
		anybody.p.Name = "?"
		if errors.Is(err, ErrWrongPassword) {
			s.log.Warn().Str("address", remoteIP(r)).Msg("a sign-in failed")
		}
		if err := anybody.record(ctx, "login.failed", "", ""); err != nil {
			return nil, err
		}
		return nil, err
	}
	s.byName.forgive(in.Body.Name)
	anybody.p.Role = p.Role
	if err := anybody.record(ctx, "login", "", ""); err != nil {
		return nil, err
	}
	// The session that the browser had is over: a new sign-in has a new token.
	if old, err := r.Cookie(s.cookieName(r)); err == nil {
		if err := s.d.Auth.Logout(ctx, old.Value); err != nil {
			return nil, err
		}
	}
	return &sessionOutput{Cookie: *s.cookie(r, token, p.expires.Time()), Body: sessionBody(p)}, nil
}

func whoAmI(s *Server, ctx context.Context, in *struct{}) (*struct{ Body SessionBody }, error) {
	return &struct{ Body SessionBody }{sessionBody(viewOf(ctx).p)}, nil
}

func logout(s *Server, ctx context.Context, in *struct{}) (*struct {
	Cookie http.Cookie `header:"Set-Cookie"`
}, error) {
	r := requestOf(ctx)
	if c, err := r.Cookie(s.cookieName(r)); err == nil {
		if err := s.d.Auth.Logout(ctx, c.Value); err != nil {
			return nil, err
		}
	}
	return &struct {
		Cookie http.Cookie `header:"Set-Cookie"`
	}{*s.cookie(r, "", time.Unix(1, 0))}, nil
}

type ticketOutput struct {
	Body struct {
		Ticket  string `json:"ticket" doc:"for {\"op\":\"auth\",\"ticket\":…} as the first frame"`
		Expires string `json:"expires_at"`
	}
}

func feedTicket(s *Server, ctx context.Context, in *struct{ Body *struct{} }) (*ticketOutput, error) {
	text, expires, err := s.d.Auth.newTicket(viewOf(ctx).p)
	if err != nil {
		return nil, err
	}
	out := &ticketOutput{}
	out.Body.Ticket, out.Body.Expires = text, stamp(vitals.At(expires))
	return out, nil
}
