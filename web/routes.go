package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

const base = "/api/v1"

// route is one line of the API. Everything below /api/ stands in apiRoutes; what is not public is denied without
// a principal of the needed ability before its handler runs.
type route struct {
	method, path, id, summary string
	need                      ability // 0: anybody signed in
	public                    bool
	status                    int   // of success; 0: 200
	body                      int64 // bytes at most; 0: 16 KiB
	register                  func(s *Server, mux *http.ServeMux, op huma.Operation)
}

func (r *route) errors() []int {
	codes := []int{http.StatusBadRequest, http.StatusInternalServerError, http.StatusServiceUnavailable}
	if !r.public {
		codes = append(codes, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound)
	}
	if r.method == http.MethodPost {
		codes = append(codes, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests)
	}
	return codes
}

// typed registers a handler whose errors pass through problemOf.
func typed[I, O any](h func(s *Server, ctx context.Context, in *I) (*O, error)) func(*Server, *http.ServeMux, huma.Operation) {
	return func(s *Server, _ *http.ServeMux, op huma.Operation) {
		huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
			out, err := h(s, ctx, in)
			if err != nil {
				s.note(requestOf(ctx), err)
				return nil, problemOf(err)
			}
			return out, nil
		})
	}
}

// apiRoutes is the whole API.
func apiRoutes() []route {
	return []route{
		{method: "GET", path: base + "/patients", id: "listPatients", summary: "Patients, those who need somebody most first", need: canRead, register: typed(listPatients)},
		{method: "GET", path: base + "/patients/{id}", id: "getPatient", summary: "One patient", need: canRead, register: typed(getPatient)},
		{method: "GET", path: base + "/patients/{id}/readings", id: "listReadings", summary: "Readings, newest last", need: canRead, register: typed(listReadings)},
		{method: "GET", path: base + "/patients/{id}/readings/{reading}/evidence", id: "getEvidence", summary: "The message in which a reading came, with its SHA-256", need: canRead, register: typed(getEvidence)},
		{method: "GET", path: base + "/patients/{id}/export", id: "exportPatient", summary: "All readings, as JSON lines or CSV", need: canRead, register: typed(exportPatient)},
		{method: "GET", path: base + "/patients/{id}/trends", id: "getTrends", summary: "Metrics of one indicator over a period", need: canRead, register: typed(getTrends)},
		{method: "GET", path: base + "/patients/{id}/sessions", id: "listSessions", summary: "Sittings with the cuff, newest last", need: canRead, register: typed(listSessions)},
		{method: "GET", path: base + "/patients/{id}/thresholds", id: "listThresholds", summary: "The lines in force", need: canRead, register: typed(listThresholds)},
		{method: "GET", path: base + "/patients/{id}/findings", id: "listFindings", summary: "What late data would have said, newest day first", need: canRead, register: typed(listFindings)},

		{method: "GET", path: base + "/alerts", id: "listAlerts", summary: "Alerts, newest first", need: canRead, register: typed(listAlerts)},
		{method: "GET", path: base + "/alerts/{id}", id: "getAlert", summary: "One alert with its history", need: canRead, register: typed(getAlert)},
		{method: "POST", path: base + "/alerts/{id}/acknowledge", id: "acknowledgeAlert", summary: "Take an alert over", need: canAct, register: typed(acknowledgeAlert)},
		{method: "POST", path: base + "/alerts/{id}/snooze", id: "snoozeAlert", summary: "Put an alert off", need: canAct, register: typed(snoozeAlert)},
		{method: "POST", path: base + "/alerts/{id}/resolve", id: "resolveAlert", summary: "End an alert", need: canAct, register: typed(resolveAlert)},
		{method: "POST", path: base + "/alerts/{id}/notes", id: "noteAlert", summary: "Add a note", need: canAct, register: typed(noteAlert)},

		{method: "POST", path: base + "/readings", id: "postReadings", summary: "Send readings as over MQTT; the answer means durable", need: canIngest, body: maxReadingsBody, register: registerReadings},
		{method: "GET", path: base + "/quarantine", id: "listQuarantine", summary: "Refused messages, newest first", need: canRead | canOperate, register: typed(listQuarantine)},
		{method: "GET", path: base + "/quarantine/{id}", id: "getQuarantine", summary: "One refused message with its bytes", need: canAct | canOperate, register: typed(getQuarantine)},
		{method: "POST", path: base + "/quarantine/replay", id: "replayManyQuarantine", summary: "Try many refused messages again, by id or by device and problem", need: canAct | canOperate, body: 64 << 10, register: typed(replayMany)},
		{method: "POST", path: base + "/quarantine/{id}/replay", id: "replayQuarantine", summary: "Try a refused message again", need: canAct | canOperate, register: typed(replayQuarantine)},

		{method: "GET", path: base + "/outbox", id: "listOutbox", summary: "Hook deliveries, newest event first; state=dead lists what reached nobody", need: canAdmin, register: typed(listOutbox)},
		{method: "POST", path: base + "/outbox/{id}/retry", id: "retryOutbox", summary: "Send a delivery again now", need: canAdmin, register: typed(retryOutbox)},
		{method: "GET", path: base + "/audit", id: "listAudit", summary: "Who looked at whom, newest first", need: canAdmin, register: typed(listAudit)},

		{method: "POST", path: base + "/session", id: "login", summary: "Sign in with name and password; sets the session cookie", public: true, body: 4 << 10, register: typed(login)},
		{method: "GET", path: base + "/session", id: "whoAmI", summary: "Who is signed in", register: typed(whoAmI)},
		{method: "DELETE", path: base + "/session", id: "logout", summary: "Sign out", public: true, status: http.StatusNoContent, register: typed(logout)},

		{method: "POST", path: base + "/feed/ticket", id: "feedTicket", summary: "A one-time ticket for the feed, valid for 30 seconds", need: canRead, register: typed(feedTicket)},
		{method: "GET", path: base + "/feed", id: "feed", summary: "The feed: a WebSocket, subprotocol vitalwatch.v1.json (docs/feed.md)", public: true, status: http.StatusSwitchingProtocols, register: registerFeed},
	}
}

// registerReadings leaves the body to the pipeline: what is wrong in it belongs into quarantine, not only into an
// answer.
func registerReadings(s *Server, mux *http.ServeMux, op huma.Operation) {
	op.SkipValidateBody = true
	typed(postReadings)(s, mux, op)
	one := &huma.Schema{Type: "object", AdditionalProperties: true, Description: "a reading as over MQTT (contract section 3)"}
	s.api.OpenAPI().Paths[op.Path].Post.RequestBody.Content["application/json"].Schema = &huma.Schema{OneOf: []*huma.Schema{one, {Type: "array", Items: one}}}
}

// registerFeed mounts the hub itself: it authenticates upgrades in its own way.
func registerFeed(s *Server, mux *http.ServeMux, op huma.Operation) {
	mux.Handle(op.Method+" "+op.Path, s.hub)
	op.Responses = map[string]*huma.Response{
		"101": {Description: "the connection is a WebSocket now"},
		"401": {Description: "the API key is not valid; without any credential the connection is accepted and waits 5 s for a ticket"},
		"403": {Description: "the origin or the role is not allowed"},
		"503": {Description: "full, or shutting down"},
	}
	s.api.OpenAPI().AddOperation(&op)
}
