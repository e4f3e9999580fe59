package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"vitalwatch/alerting"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// Erased counts what Erase found of a patient.
type Erased struct {
	Alerts      int `json:"alerts"`
	Transitions int `json:"transitions"`
	Findings    int `json:"findings"`
	Deliveries  int `json:"deliveries"`
}

// erasedExplanation stands where an explanation was.
var erasedExplanation = json.RawMessage(`{"erased":true}`)

// Erase takes what was measured and what people wrote out of everything that the ledger has of a patient: triggers,
// explanations, notes, outcomes, findings, and the bodies of deliveries. What is left says which rule held when, at what
// severity, and who acted. Deliveries that wait are still sent, without what was taken out; the others go. It may be
// repeated.
func (l *Ledger) Erase(ctx context.Context, patient vitals.PatientID) (n Erased, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err = l.db.Erase(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n = Erased{}
		if n.Alerts, err = rewrite(ctx, tx, `SELECT id, body FROM ledger_alerts WHERE patient = ?`,
			`UPDATE ledger_alerts SET body = ? WHERE id = ?`, string(patient), eraseAlert); err != nil {
			return fmt.Errorf("alerts: %w", err)
		}
		const theirs = `(SELECT id FROM ledger_alerts WHERE patient = ?)`
		if _, err := rewrite(ctx, tx, `SELECT seq, snapshot FROM ledger_transitions WHERE snapshot <> '' AND alert_id IN `+theirs,
			`UPDATE ledger_transitions SET snapshot = ? WHERE seq = ?`, string(patient), eraseAlert); err != nil {
			return fmt.Errorf("history: %w", err)
		}
		if n.Transitions, err = changed(tx.ExecContext(ctx, `UPDATE ledger_transitions SET note = '', outcome = '', reading = '' WHERE alert_id IN `+theirs, string(patient))); err != nil {
			return fmt.Errorf("history: %w", err)
		}
		if n.Findings, err = changed(tx.ExecContext(ctx, `DELETE FROM ledger_findings WHERE patient = ?`, string(patient))); err != nil {
			return fmt.Errorf("findings: %w", err)
		}
		if n.Deliveries, err = changed(tx.ExecContext(ctx, `DELETE FROM ledger_outbox WHERE state <> 'pending' AND alert_id IN `+theirs, string(patient))); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		waiting, err := rewrite(ctx, tx, `SELECT id, body FROM ledger_outbox WHERE alert_id IN `+theirs,
			`UPDATE ledger_outbox SET body = ? WHERE id = ?`, string(patient), eraseDelivery)
		if n.Deliveries += waiting; err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		return nil
	})
	if err != nil {
		return Erased{}, fmt.Errorf("ledger: erase: %w", err)
	}
	return n, nil
}

func changed(res sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// rewrite changes a text of each row that read finds, by its key.
func rewrite(ctx context.Context, tx *sql.Tx, read, write, arg string, f func(string) (string, error)) (int, error) {
	rows, err := tx.QueryContext(ctx, read, arg)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	type row struct {
		key  any
		text string
	}
	var found []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.key, &r.text); err != nil {
			return 0, err
		}
		found = append(found, r)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, r := range found {
		text, err := f(r.text)
		if err != nil {
			return 0, err
		}
		if _, err := tx.ExecContext(ctx, write, text, r.key); err != nil {
			return 0, err
		}
	}
	return len(found), nil
}

func eraseAlert(body string) (string, error) {
	var a alerting.Alert
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		return "", fmt.Errorf("a stored alert is damaged: %w", err)
	}
	a.Trigger, a.Explanation, a.Outcome = alerting.Trigger{}, erasedExplanation, ""
	b, err := json.Marshal(&a)
	return string(b), err
}

// eraseDelivery leaves what a thin body has (alerting/hooks).
func eraseDelivery(body string) (string, error) {
	var b map[string]json.RawMessage
	var data map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		return "{}", nil // a router of somebody's own: nothing of it can be kept
	}
	if err := json.Unmarshal(b["data"], &data); err != nil {
		return "{}", nil
	}
	for _, k := range []string{"trigger", "explanation", "note", "outcome"} {
		delete(data, k)
	}
	d, err := json.Marshal(data)
	if err != nil {
		return "", err
	}
	b["data"] = d
	out, err := json.Marshal(b)
	return string(out), err
}

// NewEpoch makes sequences of another database of this one: after a restore, an event must not have the number that
// another one had before, for feed clients and for the receivers of hooks, who take the same id for a repetition.
// Nobody may have the database open as a Ledger.
func NewEpoch(ctx context.Context, db *sqlite.DB) error {

	err := db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE ledger_epoch SET epoch = ?`, randomEpoch())
		return err
	})
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// CursorIn reads the monitor's cursor from a copy of the database.
func CursorIn(ctx context.Context, db *sql.DB) (uint64, error) {
	var v int64
	if err := db.QueryRowContext(ctx, `SELECT value FROM ledger_counters WHERE name = 'cursor'`).Scan(&v); err != nil {
		return 0, fmt.Errorf("read the alerts' cursor: %w", err)
	}
	return uint64(v), nil
}
