package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/alerting/escalation"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/devices/authority"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/subscriber"
	"vitalwatch/storage"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// storeSink writes journal blocks to the readings store.
type storeSink struct{ storage.Readings }

func (s *storeSink) Handle(ctx context.Context, rs []vitals.Reading, last uint64) error {
	return s.Write(ctx, rs, last)
}

// alertSink judges readings and then shows them to the feed.
type alertSink struct {
	*alerting.Monitor
	web       *web.Server
	remeasure *remeasure // nil without a front door
}

// TakesFailures: what a device says has failed is a technical alert.
func (s *alertSink) TakesFailures() {}

func (s *alertSink) Handle(ctx context.Context, rs []vitals.Reading, last uint64) error {
	if err := s.Monitor.Handle(ctx, rs, last); err != nil {
		return err
	}
	rs = vitals.Measured(rs)
	s.web.Observe(rs)
	if s.remeasure != nil {
		s.remeasure.Observe(rs, last)
	}
	return nil
}

// doorBatch gives the pipeline's batches to the front door.
func (a *App) doorBatch() mqttd.Batch { return doorBatch{a.pipeline.NewBatch()} }

// doorBatch tells the front door the errors that it can tell devices apart.
type doorBatch struct{ *ingest.Batch }

func (b doorBatch) Commit(ctx context.Context) ([]ingest.Result, error) {
	res, err := b.Batch.Commit(ctx)
	if errors.Is(err, journal.ErrFull) {
		err = errors.Join(mqttd.ErrQuota, err)
	}
	return res, err
}

// statusSink takes what devices say of themselves.
type statusSink struct{ a *App }

func (s statusSink) Status(ctx context.Context, id vitals.DeviceID, body []byte, at vitals.Micros) error {
	if s.a.devices.Find(id) == nil {
		register := s.a.register()
		if register == nil {
			return nil // through an external broker; its readings tell the operator
		}
		if _, err := register(ctx, id); err != nil {
			return err
		}
	}
	err := s.a.devices.Status(ctx, id, body, at)
	if errors.Is(err, devices.ErrStatusInvalid) {
		// Permanent: sent again it would be no better. The device is told, and not sent away.
		return &payload.Problem{Code: payload.JSONInvalid, Offset: -1, Detail: `a status is {"state":"online"}, sleeping or lost, with battery 0 to 100 and firmware if known`}
	}
	return err
}

// brokerIntake gives them to the subscriber: each adapter declares the interface that it uses.
type brokerIntake struct{ p *ingest.Pipeline }

func (i brokerIntake) NewBatch() subscriber.Batch { return i.p.NewBatch() }

// authenticator judges who connects to the front door.
type authenticator struct{ a *App }

func (x authenticator) Authenticate(ctx context.Context, l mqttd.Login) (vitals.DeviceID, error) {
	// A device that was added, given another secret or disabled a moment ago. When that cannot be read, what is known
	// decides; the turn that looks for changes logs it.
	_ = x.a.follow.now(ctx)
	var id vitals.DeviceID
	var err error
	open := x.a.cfg.Registration == "open"
	leaf := l.Certificate()
	if l.Assigned && !l.HasUsername { // the certificate says who it is; a device with a made-up id would be nobody's
		named, ok := vitals.DeviceID(""), false
		if leaf != nil {
			named, ok = authority.DeviceID(leaf)
		}
		if !ok {
			return "", mqttd.ErrNotAuthorized
		}
		l.ClientID = string(named)
	}
	if leaf != nil {
		id, err = x.a.devices.AuthenticateCertificate(l.ClientID, l.Username, leaf, open)
	} else {
		id, err = x.a.devices.Authenticate(l.ClientID, l.Username, l.Password, l.HasPassword, open)
	}
	switch {
	case errors.Is(err, devices.ErrBadCredentials):
		return "", mqttd.ErrBadCredentials
	case errors.Is(err, devices.ErrNotAuthorized):
		return "", mqttd.ErrNotAuthorized
	case err != nil:
		return "", err
	}
	// An unknown device is registered here rather than with its first reading, which somebody may be waiting for.
	if register := x.a.register(); register != nil && x.a.devices.Find(id) == nil {
		if _, err := register(ctx, id); err != nil {
			return "", err
		}
	}
	return id, nil
}

// rulesOf returns the rules in force for a patient: those of the conditions, with the person's own thresholds.
func (a *App) rulesOf(id vitals.PatientID) *alerting.RuleSet {
	var names []string
	if p, ok := a.people.Find(id); ok {
		names = p.Conditions
	}
	rs, err := a.packs.Compile(names)
	if err != nil {
		// A condition whose pack was taken away: the safety lines for everybody still hold.
		a.log.Error().Err(err).Msg("a patient has a condition without a pack; only the general rules watch over them")
		rs, _ = a.packs.Compile(nil)
	}
	return rs
}

func (a *App) openAlerts(ctx context.Context, id vitals.PatientID) ([]alerting.OpenAlert, error) {
	alerts, err := a.ledger.OpenAlerts(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]alerting.OpenAlert, len(alerts))
	for i := range alerts {
		al := &alerts[i]
		out[i] = alerting.OpenAlert{ID: al.ID, Rule: al.Rule, Condition: al.Condition, Severity: al.Severity, State: al.State}
		failed := ""
		if al.Rule.Nature() == alerting.Technical {
			out[i].Device = vitals.DeviceID(al.Trigger.DeviceID)
			out[i].Indicator, _ = vitals.ParseIndicator(al.Trigger.Indicator)
			failed = al.Trigger.TakenAt
		}
		for _, t := range []struct {
			text string
			to   *vitals.Micros
		}{{al.OpenedAt, &out[i].OpenedAt}, {al.SignalLostAt, &out[i].SignalLostSince}, {string(al.SnoozedUntil), &out[i].SnoozedUntil}, {failed, &out[i].FailedAt}} {
			if t.text == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, t.text)
			if err != nil {
				return nil, fmt.Errorf("open alert %s: %w", al.ID, err)
			}
			*t.to = vitals.At(at)
		}
	}
	return out, nil
}

func (a *App) patientsWithOpenAlerts(ctx context.Context) ([]vitals.PatientID, error) {
	alerts, err := a.ledger.AllOpen(ctx)
	if err != nil {
		return nil, err
	}
	var out []vitals.PatientID
	seen := map[vitals.PatientID]bool{}
	for i := range alerts {
		if id := alerts[i].PatientID; !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out, nil
}

// commit makes the monitor's decisions durable; the ledger then tells the feed and the courier.
func (a *App) commit(ctx context.Context, b alerting.Batch) error {
	_, err := a.ledger.Commit(ctx, ledger.Batch{Cursor: b.Cursor, Transitions: b.Transitions, Findings: b.Findings})
	return err
}

// webLedger is the ledger with the courier's retry, which also wakes it.
type webLedger struct {
	*ledger.Ledger
	courier *escalation.Courier
}

func (l webLedger) Retry(ctx context.Context, id string) (alerting.Delivery, error) {
	return l.courier.Retry(ctx, id)
}

// span is ShortDuration, and nothing for 0.
func span(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return alerting.ShortDuration(d)
}

// thresholds lists the lines in force for a patient: those that judge a value, not how it moves.
func (a *App) thresholds(_ context.Context, p *care.Patient) ([]web.Threshold, error) {
	var out []web.Threshold
	for _, r := range a.rulesOf(p.ID).Rules() {
		if r.Change != nil {
			continue
		}
		for _, level := range r.Levels {
			for _, line := range level.Lines {
				if len(line.At) == 0 {
					continue // a flag
				}
				source := line.Source
				if source.Text == "" {
					source = level.Source
				}
				if source.Text == "" {
					source = r.Source
				}
				t := web.Threshold{Rule: string(r.ID), Condition: r.Condition, Indicator: r.Indicator.String(), Component: line.Component.String(),
					Severity: level.Severity.String(), Op: line.Op.String(), Thresholds: map[string]float64{}, Source: source.Text, Title: r.Title,
					For: span(level.For), Repeat: level.Repeat.Count, Of: level.Repeat.Of, Within: span(level.Repeat.Within)}
				for _, at := range line.At {
					t.Thresholds[at.Unit.String()] = at.Value
				}
				out = append(out, t)
			}
		}
	}
	return out, nil
}
