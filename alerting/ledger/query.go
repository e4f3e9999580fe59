package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

// HistoryEntry is one transition of an alert as the API shows it; times are RFC 3339 UTC, "" for none.
type HistoryEntry struct {
	Seq      uint64            `json:"seq"`
	Kind     alerting.Kind     `json:"transition"`
	Severity alerting.Severity `json:"severity"` // after it
	At       string            `json:"at"`
	Actor    string            `json:"actor,omitempty"`
	Note     string            `json:"note,omitempty"`
	Outcome  string            `json:"outcome,omitempty"`
	Until    string            `json:"until,omitempty"`
	// Trigger is the reading that caused the transition, nil for acts, ticks and where pruning has removed it.
	Trigger *alerting.Trigger `json:"trigger,omitempty"`
}

// Filter selects alerts; the zero value selects all.
type Filter struct {
	State    string            // "open": not resolved; "resolved"; "all" or ""
	Severity alerting.Severity // exactly this one; None: any
	Highest  alerting.Severity // the highest it ever had; None: any
	Kind     alerting.Nature   // "": any
	Patient  vitals.PatientID  // "": any
	// Patients is who may be seen: nil means everybody, empty nobody.
	Patients []vitals.PatientID
	Limit    int    // 0: 100; at most 1000
	Cursor   string // the next of the page before, "" for the first
}

// maxPage bounds a page of any list.
const maxPage = 1000

func pageSize(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, maxPage)
}

// ErrBadCursor is a cursor that no list returned.
var ErrBadCursor = errors.New("the cursor is not one that this list returned; start without one")

func position(cursor string) (int64, error) {
	if cursor == "" {
		return 1<<63 - 1, nil
	}
	v, err := strconv.ParseInt(cursor, 10, 64)
	if err != nil || v <= 0 {
		return 0, ErrBadCursor
	}
	return v, nil
}

// OpenAlerts returns the unresolved alerts of a patient, oldest first.
func (l *Ledger) OpenAlerts(ctx context.Context, patient vitals.PatientID) ([]alerting.Alert, error) {
	return alerts(ctx, l.db.Reader(), `SELECT body FROM ledger_alerts WHERE patient = ? AND state <> 'resolved' ORDER BY opened_seq`, string(patient))
}

// AllOpen returns every unresolved alert, oldest first.
func (l *Ledger) AllOpen(ctx context.Context) ([]alerting.Alert, error) {
	return alerts(ctx, l.db.Reader(), `SELECT body FROM ledger_alerts WHERE state <> 'resolved' ORDER BY opened_seq`)
}

// querier is a transaction or the pool of readers.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func alerts(ctx context.Context, q querier, query string, args ...any) ([]alerting.Alert, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	defer rows.Close()
	var out []alerting.Alert
	for rows.Next() {
		var body string
		var a alerting.Alert
		if err := rows.Scan(&body); err != nil {
			return nil, fmt.Errorf("read alerts: %w", err)
		}
		if err := decodeAlert(body, &a); err != nil {
			return nil, fmt.Errorf("read alerts: a stored alert is damaged: %w", err)
		}
		out = append(out, a)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	return out, nil
}

// Alert returns an alert and its transitions, oldest first; ErrNotFound when there is none.
func (l *Ledger) Alert(ctx context.Context, id string) (alerting.Alert, []HistoryEntry, error) {
	var as []alerting.Alert
	var told []alerting.Event
	// Both in one snapshot, or the history could be ahead of the alert.
	err := l.db.Snapshot(ctx, func(tx *sql.Tx) (err error) {
		if as, err = alerts(ctx, tx, `SELECT body FROM ledger_alerts WHERE id = ?`, id); err != nil || len(as) == 0 {
			return err
		}
		told, err = events(ctx, tx, eventColumns+` WHERE alert_id = ? ORDER BY seq`, id)
		return err
	})
	if err != nil {
		return alerting.Alert{}, nil, err
	}
	if len(as) == 0 {
		return alerting.Alert{}, nil, ErrNotFound
	}
	history := make([]HistoryEntry, len(told))
	for i, e := range told {
		t := e.Transition
		history[i] = HistoryEntry{e.Seq, t.Kind, t.Severity, stamp(t.At), t.Actor, t.Note, t.Outcome, stamp(t.Until), t.Trigger}
	}
	return as[0], history, nil
}

// Alerts lists alerts, newest first by when they opened, and the cursor of the next page, "" when this is the last.
func (l *Ledger) Alerts(ctx context.Context, f Filter) (items []alerting.Alert, next string, err error) {
	before, err := position(f.Cursor)
	if err != nil {
		return nil, "", err
	}
	var where strings.Builder
	var args []any
	and := func(cond string, values ...any) {
		where.WriteString(" AND " + cond)
		args = append(args, values...)
	}
	switch f.State {
	case "open":
		and(`state <> 'resolved'`)
	case "resolved":
		and(`state = 'resolved'`)
	case "all", "":
	default:
		return nil, "", &alerting.UnknownNameError{Kind: "state", Name: f.State, Known: []string{"open", "resolved", "all"}}
	}
	if f.Severity != alerting.None {
		and(`severity = ?`, int64(f.Severity))
	}
	if f.Highest != alerting.None {
		and(`highest = ?`, int64(f.Highest))
	}
	switch f.Kind {
	case alerting.Technical:
		and(`substr(rule, 1, ?) = ?`, len(alerting.TechnicalPrefix), alerting.TechnicalPrefix)
	case alerting.Clinical:
		and(`substr(rule, 1, ?) <> ?`, len(alerting.TechnicalPrefix), alerting.TechnicalPrefix)
	case "":
	default:
		return nil, "", &alerting.UnknownNameError{Kind: "kind", Name: string(f.Kind), Known: []string{"clinical", "technical"}}
	}
	if f.Patient != "" {
		if f.Patients != nil && !slices.Contains(f.Patients, f.Patient) {
			return nil, "", nil
		}
		and(`patient = ?`, string(f.Patient))
	}
	// A short allow-list goes into the query; a long one is looked up while walking, because SQL has a bound on it.
	var allowed map[string]bool
	switch {
	case f.Patients == nil || f.Patient != "":
	case len(f.Patients) == 0:
		return nil, "", nil
	case len(f.Patients) <= 500:
		ids := make([]any, len(f.Patients))
		for i, p := range f.Patients {
			ids[i] = string(p)
		}
		and(`patient IN (?`+strings.Repeat(`, ?`, len(ids)-1)+`)`, ids...)
	default:
		allowed = make(map[string]bool, len(f.Patients))
		for _, p := range f.Patients {
			allowed[string(p)] = true
		}
	}
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT patient, opened_seq, body FROM ledger_alerts WHERE opened_seq < ?`+
		where.String()+` ORDER BY opened_seq DESC`, append([]any{before}, args...)...)
	if err != nil {
		return nil, "", fmt.Errorf("list alerts: %w", err)
	}
	defer rows.Close()
	limit := pageSize(f.Limit)
	var last int64
	for rows.Next() {
		var patient, body string
		var seq int64
		if err := rows.Scan(&patient, &seq, &body); err != nil {
			return nil, "", fmt.Errorf("list alerts: %w", err)
		}
		if allowed != nil && !allowed[patient] {
			continue
		}
		if len(items) == limit {
			return items, strconv.FormatInt(last, 10), nil
		}
		var a alerting.Alert
		if err := decodeAlert(body, &a); err != nil {
			return nil, "", fmt.Errorf("list alerts: a stored alert is damaged: %w", err)
		}
		items, last = append(items, a), seq
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list alerts: %w", err)
	}
	return items, "", nil
}

// Since returns at most limit events after seq, oldest first, each with the alert as it was then, and the oldest
// sequence that can still be returned. A client that has seen seq has missed nothing if seq+1 >= oldest; otherwise
// it needs a snapshot. A seq beyond Seq is not of this epoch.
func (l *Ledger) Since(ctx context.Context, seq uint64, limit int) (out []Event, oldest uint64, err error) {
	oldest = l.oldest.Load()
	from := max(seq+1, oldest)
	out, err = events(ctx, l.db.Reader(), eventColumns+` WHERE seq >= ? ORDER BY seq LIMIT ?`, int64(from), max(limit, 0))
	if err != nil {
		return nil, 0, err
	}
	// Pruning may run beside this: what has lost its snapshot cannot be told.
	for len(out) > 0 && out[0].Alert.ID == "" {
		oldest, out = out[0].Seq+1, out[1:]
	}
	return out, oldest, nil
}

const eventColumns = `SELECT seq, alert_id, kind, severity, highest, at, actor, note, outcome, until, received_at, reading, snapshot
	FROM ledger_transitions`

func events(ctx context.Context, q querier, query string, args ...any) ([]Event, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var out []Event
	for rows.Next() {
		var e Event
		var kind, reading, snapshot string
		var seq, at, until, received int64
		t := &e.Transition
		if err := rows.Scan(&seq, &t.AlertID, &kind, &t.Severity, &e.Highest, &at, &t.Actor, &t.Note, &t.Outcome, &until, &received,
			&reading, &snapshot); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		e.Seq, t.Kind = uint64(seq), alerting.Kind(kind)
		t.At, t.Until, t.ReceivedAt = vitals.Micros(at), vitals.Micros(until), vitals.Micros(received)
		if snapshot != "" {
			if err := decodeAlert(snapshot, &e.Alert); err != nil {
				return nil, fmt.Errorf("read events: the snapshot of event %d is damaged: %w", seq, err)
			}
			t.Patient, t.Rule, t.Condition = e.Alert.PatientID, e.Alert.Rule, e.Alert.Condition
			if (t.Kind == alerting.Opened || t.Kind == alerting.Worsened) && e.Alert.Trigger.ReadingID != "" {
				tr := e.Alert.Trigger
				t.Trigger = &tr
			}
		}
		if reading != "" {
			t.Trigger = new(alerting.Trigger)
			if err := json.Unmarshal([]byte(reading), t.Trigger); err != nil {
				return nil, fmt.Errorf("read events: the reading of event %d is damaged: %w", seq, err)
			}
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return out, nil
}

// Findings lists a patient's retrospective findings of the UTC days fromDay to toDay (YYYY-MM-DD, both included, ""
// for no bound), newest day first, then by rule.
func (l *Ledger) Findings(ctx context.Context, patient vitals.PatientID, fromDay, toDay string, limit int) ([]alerting.Finding, error) {
	if toDay == "" {
		toDay = "9999-12-31"
	}
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT rule, condition, day, severity, title, first_at, last_at, readings, worst_id
		FROM ledger_findings WHERE patient = ? AND day >= ? AND day <= ? ORDER BY day DESC, rule LIMIT ?`,
		string(patient), fromDay, toDay, pageSize(limit))
	if err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	defer rows.Close()
	var out []alerting.Finding
	for rows.Next() {
		f := alerting.Finding{Patient: patient}
		var title string
		if err := rows.Scan(&f.Rule, &f.Condition, &f.Day, &f.Severity, &title, &f.First, &f.Last, &f.Readings, &f.WorstID); err != nil {
			return nil, fmt.Errorf("read findings: %w", err)
		}
		if err := json.Unmarshal([]byte(title), &f.Title); err != nil {
			return nil, fmt.Errorf("read findings: a stored title is damaged: %w", err)
		}
		out = append(out, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read findings: %w", err)
	}
	return out, nil
}

// Replayed returns what a request with this key did within the last 24 hours, and whether it came before. The API
// asks before it decides, because deciding an act twice may fail (a resolved alert cannot be resolved).
func (l *Ledger) Replayed(ctx context.Context, k Idempotency) ([]Event, bool, error) {
	return replayed(ctx, l.db.Reader(), &k, vitals.At(l.now()))
}

func replayed(ctx context.Context, q querier, k *Idempotency, now vitals.Micros) ([]Event, bool, error) {
	var hash string
	var first, last int64
	err := q.QueryRowContext(ctx, `SELECT body_hash, first_seq, last_seq FROM ledger_idempotency WHERE principal = ? AND key = ? AND at > ?`,
		k.Principal, k.Key, int64(now-idempotencyFor)).Scan(&hash, &first, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up the idempotency key: %w", err)
	}
	if hash != k.BodyHash {
		return nil, false, ErrIdempotencyMismatch
	}
	out, err := events(ctx, q, eventColumns+` WHERE seq >= ? AND seq <= ? ORDER BY seq`, first, last)
	return out, true, err
}
