package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
	"vitalwatch/web/feed"
)

// feedAuth is the accounts as the feed asks them.
type feedAuth struct{ s *Server }

func (f feedAuth) viewer(p *Principal, remote string) (feed.Viewer, error) {
	if !p.can(canRead) {
		return feed.Viewer{}, feed.ErrForbidden
	}
	w := &view{s: f.s, p: p, remote: remote}
	v := feed.Viewer{Name: p.Name, Credential: p.credential, Principal: w}
	if len(p.Teams) > 0 {
		v.May = func(patient string) bool { return w.may(vitals.PatientID(patient)) }
		v.Scope = w.scope()
	}
	return v, nil
}

// FromRequest takes bearer header and cookie. A cookie that is of no use any more counts as none: the page sends a
// ticket, or learns by 4401 that it must sign in.
func (f feedAuth) FromRequest(r *http.Request) (feed.Viewer, error) {
	p, err := f.s.authenticate(r)
	if errors.Is(err, ErrUnauthenticated) {
		if r.Header.Get("Authorization") != "" {
			return feed.Viewer{}, feed.ErrUnauthorised
		}
		return feed.Viewer{}, feed.ErrNoCredential
	}
	if err != nil {
		return feed.Viewer{}, err
	}
	return f.viewer(p, remoteIP(r))
}

func (f feedAuth) FromTicket(ctx context.Context, ticket string) (feed.Viewer, error) {
	p, err := f.s.d.Auth.redeem(ctx, ticket)
	if errors.Is(err, ErrUnauthenticated) {
		return feed.Viewer{}, feed.ErrUnauthorised
	}
	if err != nil {
		return feed.Viewer{}, err
	}
	return f.viewer(p, "")
}

// Renew does not count as use: a page that is only left open ends with the session's inactivity limit.
func (f feedAuth) Renew(ctx context.Context, v feed.Viewer) (feed.Viewer, error) {
	w := v.Principal.(*view)
	p, err := f.s.d.Auth.renew(ctx, w.p)
	if errors.Is(err, ErrUnauthenticated) {
		return feed.Viewer{}, feed.ErrUnauthorised
	}
	if err != nil {
		return feed.Viewer{}, err
	}
	return f.viewer(p, w.remote)
}

func (s *Server) feedAck(ctx context.Context, v feed.Viewer, alert, note string) error {
	_, err := v.Principal.(*view).act(ctx, alerting.Action{Act: alerting.ActAcknowledge, AlertID: alert, Note: note}, "")
	return err
}

func (s *Server) feedSubscribed(ctx context.Context, v feed.Viewer, patient string) error {
	return v.Principal.(*view).record(ctx, "feed.subscribe", vitals.PatientID(patient), "")
}

func (s *Server) feedProblem(err error) json.RawMessage {
	if problemOf(err).Status == http.StatusInternalServerError {
		s.log.Error().Err(err).Msg("a feed request failed")
	}
	return problemJSON(err)
}
