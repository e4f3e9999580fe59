package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/web/feed"
)

// Problem is the one shape of an error answer: application/problem+json, RFC 9457.
type Problem struct {
	Type   string         `json:"type" doc:"stable name of the kind of problem" example:"urn:vitalwatch:problem:not-found"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty" doc:"what to do next"`
	Errors []ProblemField `json:"errors,omitempty" doc:"one entry per field that is wrong"`
	// Outcome is set by POST /readings when nothing was accepted.
	Outcome *IngestOutcome `json:"outcome,omitempty"`
	retry   time.Duration
}

// ProblemField is one wrong field. The value itself is not repeated: it may be personal.
type ProblemField struct {
	Location string `json:"location,omitempty"`
	Message  string `json:"message"`
}

func (p *Problem) Error() string { return p.Title }

// GetStatus is for huma.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is for huma.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders is for huma.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.retry+time.Second-1)/time.Second)))
	}
	return h
}

const problemURN = "urn:vitalwatch:problem:"

func problem(status int, kind, title, detail string) *Problem {
	return &Problem{Type: problemURN + kind, Title: title, Status: status, Detail: detail}
}

// Errors of this package that a request may meet.
var (
	errForbidden   = errors.New("this role may not do that; ask an administrator for another")
	errNotFound    = errors.New("there is no such thing, or it is not yours to see")
	errBadCursor   = errors.New("the cursor is not one that this list returned; start without one")
	errTooMany     = errors.New("too many requests: wait and try again")
	errUnavailable = errors.New("readings cannot be stored now: keep them and send them again later")
	errTooWide     = errors.New("there are too many readings in that period: narrow from and to")
	errBusy        = errors.New("the server is busy: try again later")
)

// badRequest is a parameter or body that is wrong; what says which and why.
func badRequest(what string) *Problem {
	return problem(http.StatusBadRequest, "bad-request", "the request is not valid", what)
}

// crossOrigin is a writing request, or a feed, from a page that is not ours.
func crossOrigin() *Problem {
	return problem(http.StatusForbidden, "cross-origin", "request from another site", "this page may not send that request")
}

// problemOf is the one place where errors become answers. What it does not know is internal: the operator sees it
// in the log, the user a sentence.
func problemOf(err error) *Problem {
	var p *Problem
	var unknown *alerting.UnknownNameError
	var frame *feed.BadFrameError
	var shake *feed.HandshakeError
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.As(err, &p):
		return p
	case is(ErrWrongPassword):
		return problem(http.StatusUnauthorized, "wrong-password", "sign-in failed", ErrWrongPassword.Error())
	case is(ErrUnauthenticated, feed.ErrUnauthorised, feed.ErrNoCredential):
		return problem(http.StatusUnauthorized, "unauthenticated", "not signed in", ErrUnauthenticated.Error())
	case is(errForbidden, feed.ErrForbidden):
		return problem(http.StatusForbidden, "forbidden", "not allowed", errForbidden.Error())
	case is(errNotFound, ledger.ErrNotFound, care.ErrNotFound, journal.ErrNotQuarantined, journal.ErrNoEvidence, ErrNoAccount):
		return problem(http.StatusNotFound, "not-found", "not found", errNotFound.Error())
	case is(alerting.ErrNotOpen, ledger.ErrResolved):
		return problem(http.StatusConflict, "alert-resolved", "the alert is resolved", alerting.ErrNotOpen.Error())
	case is(alerting.ErrAcknowledged):
		return problem(http.StatusConflict, "alert-acknowledged", "the alert is acknowledged already", alerting.ErrAcknowledged.Error())
	case is(ledger.ErrDelivered):
		return problem(http.StatusConflict, "delivered", "the delivery has arrived already", ledger.ErrDelivered.Error())
	case is(alerting.ErrNoSnooze):
		return problem(http.StatusUnprocessableEntity, "no-snooze", "an emergency cannot be snoozed", alerting.ErrNoSnooze.Error())
	case is(alerting.ErrSnoozeLength):
		return problem(http.StatusUnprocessableEntity, "snooze-length", "no time to snooze for", alerting.ErrSnoozeLength.Error())
	case is(ledger.ErrIdempotencyMismatch):
		return problem(http.StatusUnprocessableEntity, "idempotency-key-reused", "the idempotency key belongs to another request", ledger.ErrIdempotencyMismatch.Error())
	case is(ledger.ErrBadCursor, errBadCursor):
		return problem(http.StatusBadRequest, "bad-cursor", "the cursor is not valid", errBadCursor.Error())
	case is(errTooWide):
		return problem(http.StatusUnprocessableEntity, "too-wide", "too many readings", errTooWide.Error())
	case errors.As(err, &unknown):
		return badRequest(unknown.Kind + " is unknown")
	case errors.As(err, &frame):
		return problem(http.StatusBadRequest, "bad-frame", "the frame is not valid", frame.Error())
	case errors.As(err, &shake) && shake.Status == http.StatusForbidden:
		return crossOrigin()
	case errors.As(err, &shake):
		return problem(shake.Status, "not-a-feed-client", "this is a WebSocket", shake.Reason)
	case is(errTooMany):
		p := problem(http.StatusTooManyRequests, "too-many-requests", "too many requests", errTooMany.Error())
		p.retry = 10 * time.Second
		return p
	case is(errUnavailable):
		p := problem(http.StatusServiceUnavailable, "not-durable", "readings cannot be stored", errUnavailable.Error())
		p.retry = 5 * time.Second
		return p
	case is(storage.ErrUnreachable):
		p := problem(http.StatusServiceUnavailable, "history-away", "the history cannot be reached", storage.ErrUnreachable.Error())
		p.retry = 30 * time.Second
		return p
	case is(errAuditFull, errBusy, context.Canceled, context.DeadlineExceeded) || feed.ErrBusy(err):
		p := problem(http.StatusServiceUnavailable, "busy", "busy", errBusy.Error())
		p.retry = 5 * time.Second
		return p
	}
	return problem(http.StatusInternalServerError, "internal", "internal error", "the server's log says more; try again later")
}

// problemJSON is for answers that huma does not write.
func problemJSON(err error) json.RawMessage {
	b, _ := json.Marshal(problemOf(err)) // strings and numbers only
	return b
}

func writeProblem(w http.ResponseWriter, err error) {
	p := problemOf(err)
	h := w.Header()
	for k, v := range p.GetHeaders() {
		h[k] = v
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	w.Write(problemJSON(p))
}

// huma keeps its error constructor in a package variable; this program has one API, so ours is the only one.
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		kinds := map[int]string{
			http.StatusRequestEntityTooLarge: "too-large", http.StatusUnsupportedMediaType: "media-type",
			http.StatusNotAcceptable: "not-acceptable", http.StatusRequestTimeout: "timeout",
		}
		kind, known := kinds[status]
		switch {
		case known:
		case status >= 500:
			return problemOf(errors.New(msg))
		default:
			// One status for what a caller got wrong, wherever in the request it stands.
			status, kind = http.StatusBadRequest, "bad-request"
		}
		if status == http.StatusRequestEntityTooLarge {
			msg = "the body is larger than this request takes; send less at a time" // theirs names a bound that is ours plus one
		}
		p := problem(status, kind, http.StatusText(status), msg)
		for _, e := range errs {
			var d huma.ErrorDetailer
			if errors.As(e, &d) {
				p.Errors = append(p.Errors, ProblemField{d.ErrorDetail().Location, d.ErrorDetail().Message})
			}
			// Others are of encoding/json and quote what was sent.
		}
		return p
	}
}
