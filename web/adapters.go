package web

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/ingest"
	"vitalwatch/vitals"
	"vitalwatch/web/feed"
)

// NewPipeline is p as the API uses it.
func NewPipeline(p *ingest.Pipeline) Pipeline { return pipeline{p} }

type pipeline struct{ *ingest.Pipeline }

func (p pipeline) Accept(ctx context.Context, m ingest.Message) (ingest.Result, error) {
	b := p.NewBatch()
	b.WantItems = true
	b.Add(m)
	rs, err := b.Commit(ctx)
	if err != nil {
		return ingest.Result{}, err
	}
	if len(rs) != 1 {
		return ingest.Result{}, fmt.Errorf("the pipeline gave %d results for one message", len(rs))
	}
	return rs[0], nil
}

// act carries out one human act once: a repeated idempotency key gives what came of it the first time.
func act(ctx context.Context, m Monitor, l Ledger, patient vitals.PatientID, a alerting.Action, k *ledger.Idempotency) (alerting.Alert, error) {
	if k != nil {
		events, before, err := l.Replayed(ctx, *k)
		if err != nil {
			return alerting.Alert{}, err
		}
		if before {
			return last(events, a.AlertID)
		}
	}
	var events []ledger.Event
	err := m.Act(ctx, patient, a, func(ctx context.Context, b alerting.Batch) (err error) {
		events, err = l.Commit(ctx, ledger.Batch{Cursor: b.Cursor, Transitions: b.Transitions, Findings: b.Findings, Idempotency: k, Act: true})
		return err
	})
	if err != nil {
		return alerting.Alert{}, err
	}
	return last(events, a.AlertID)
}

func last(events []ledger.Event, alert string) (alerting.Alert, error) {
	for _, e := range slices.Backward(events) {
		if e.Alert.ID == alert {
			return e.Alert, nil
		}
	}
	return alerting.Alert{}, ledger.ErrNotFound
}

// history is the ledger as the feed reads it.
type history struct{ Ledger }

func (h history) Since(ctx context.Context, seq uint64, limit int) ([]feed.Event, error) {
	events, oldest, err := h.Ledger.Since(ctx, seq, limit)
	if err != nil {
		return nil, err
	}
	if seq+1 < oldest {
		return nil, feed.ErrGone
	}
	return feedEvents(events), nil
}

func (h history) Snapshot(ctx context.Context) (feed.Snapshot, error) {
	// The sequence first: what commits in between is told again, which is harmless; the other way it would be missing.
	s := feed.Snapshot{Seq: h.Seq()}
	open, err := h.AllOpen(ctx)
	if err != nil {
		return s, err
	}
	for i := range open {
		b, err := json.Marshal(&open[i])
		if err != nil {
			return s, fmt.Errorf("encode alert %s: %w", open[i].ID, err)
		}
		s.Alerts = append(s.Alerts, feed.Open{Patient: string(open[i].PatientID), Alert: b})
	}
	return s, nil
}

func feedEvents(events []ledger.Event) []feed.Event {
	out := make([]feed.Event, len(events))
	for i := range events {
		e := &events[i]
		out[i] = feed.Event{Seq: e.Seq, Patient: string(e.Alert.PatientID), Kind: string(e.Transition.Kind),
			At: e.Transition.At.Time(), Actor: e.Transition.Actor, Alert: &e.Alert}
	}
	return out
}
