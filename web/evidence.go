package web

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"vitalwatch/ingest/evidence"
	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// Evidence finds messages as they came; *journal.Journal is the real one.
type Evidence interface {
	EvidenceOf(ctx context.Context, seq uint64) (evidence.Entry, error)
}

// EvidenceBody is the message in which a reading came.
type EvidenceBody struct {
	ReadingID     string `json:"reading_id"`
	SHA256        string `json:"sha256,omitempty" doc:"of the payload, hex"`
	Payload       string `json:"payload,omitempty" doc:"the message as it came, when it is UTF-8"`
	PayloadBase64 string `json:"payload_base64,omitempty" doc:"the message as it came, when it is not UTF-8"`
	Cut           bool   `json:"cut,omitempty" doc:"the message held readings of a person who was erased, and went with them"`
	DeviceID      string `json:"device_id"`
	GatewayID     string `json:"gateway_id,omitempty" doc:"who passed it on"`
	Topic         string `json:"topic,omitempty" doc:"absent: the device's own"`
	Format        string `json:"format"`
	Source        string `json:"source" doc:"mqtt, broker, http, replay"`
	Zone          string `json:"device_tz,omitempty" doc:"zone of the device's clock at that time"`
	ReceivedAt    string `json:"received_at"`
	JudgedAt      string `json:"judged_at,omitempty" doc:"when freshness was judged, where that was not at the receipt"`
}

type evidenceOutput struct{ Body EvidenceBody }

func getEvidence(s *Server, ctx context.Context, in *struct {
	PatientPath
	Reading   string `path:"reading" maxLength:"32" doc:"reading id"`
	Indicator string `query:"indicator" doc:"of the reading: finds it sooner"`
	TakenAt   string `query:"taken_at" doc:"of the reading, RFC 3339: finds it at once"`
}) (*evidenceOutput, error) {
	v := viewOf(ctx)
	ind, err := indicator(in.Indicator)
	if err != nil {
		return nil, err
	}
	q := storage.Query{Patient: vitals.PatientID(in.ID), Indicator: ind}
	if in.TakenAt != "" {
		at, err := time.Parse(time.RFC3339Nano, in.TakenAt)
		if err != nil {
			return nil, badRequest("taken_at must be an RFC 3339 time such as 2026-11-21T00:00:00Z (a + in a URL is written %2B)")
		}
		q.From = vitals.At(at)
		q.To = q.From + vitals.Millisecond // the API may show fewer digits
	}
	if _, err := v.patient(q.Patient); err != nil {
		return nil, err
	}
	if err := v.record(ctx, "evidence.view", q.Patient, in.Reading); err != nil {
		return nil, err
	}
	e, err := s.evidenceOf(ctx, q, in.Reading)
	if err != nil {
		return nil, err
	}
	for _, r := range e.Patients {
		if !v.may(r.Patient) { // it came in one message with somebody else's
			return nil, errForbidden
		}
	}
	out := &evidenceOutput{EvidenceBody{ReadingID: in.Reading, Cut: e.Kind == evidence.Cut, DeviceID: string(e.Device), GatewayID: string(e.Gateway),
		Topic: e.Topic, Format: e.Format, Source: e.Source, Zone: e.Zone, ReceivedAt: stamp(e.ReceivedAt)}}
	if e.JudgedAt != e.ReceivedAt {
		out.Body.JudgedAt = stamp(e.JudgedAt)
	}
	if !out.Body.Cut {
		sum := sha256.Sum256(e.Payload)
		out.Body.SHA256 = hex.EncodeToString(sum[:])
		if utf8.Valid(e.Payload) {
			out.Body.Payload = string(e.Payload)
		} else {
			out.Body.PayloadBase64 = base64.StdEncoding.EncodeToString(e.Payload)
		}
	}
	return out, nil
}

func (s *Server) evidenceOf(ctx context.Context, q storage.Query, id string) (e evidence.Entry, err error) {
	if s.d.Evidence == nil {
		return e, errNotFound
	}
	if err := s.computing.Acquire(ctx, 1); err != nil { // it may read a whole history
		return e, err
	}
	defer s.computing.Release(1)
	for r, err := range s.d.Readings.Range(ctx, q) {
		if err != nil {
			return e, err
		}
		if r.ID() == id {
			return s.d.Evidence.EvidenceOf(ctx, r.Seq)
		}
	}
	return e, errNotFound
}

// exportWait is how long a client may take for each part of an export.
const exportWait = 30 * time.Second

func exportPatient(s *Server, ctx context.Context, in *struct {
	PatientPath
	PeriodQuery
	Format string `query:"format" enum:"jsonl,csv" default:"jsonl"`
}) (*huma.StreamResponse, error) {
	v := viewOf(ctx)
	per, err := in.parse()
	if err != nil {
		return nil, err
	}
	id := vitals.PatientID(in.ID)
	if _, err := v.patient(id); err != nil {
		return nil, err
	}
	if err := v.record(ctx, "patient.export", id, in.Format); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		kind := map[string]string{"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}[in.Format]
		c.SetHeader("Content-Type", kind)
		c.SetHeader("Content-Disposition", `attachment; filename="`+string(id)+"."+in.Format+`"`)
		_, w := humago.Unwrap(c)
		out := bufio.NewWriterSize(&slow{w, http.NewResponseController(w)}, 64<<10)
		_, err := Export(out, in.Format, s.d.Readings.Range(ctx, storage.Query{Patient: id, From: per.From, To: per.To}))
		if err := errors.Join(err, out.Flush()); err != nil {
			s.log.Warn().Err(err).Msg("an export ended early")
			panic(http.ErrAbortHandler) // so that nobody takes the part for the whole
		}
	}}, nil
}

// slow gives a slow client time for each write instead of for all of them.
type slow struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (p *slow) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(exportWait)) // a test's recorder has none
	return p.w.Write(b)
}
