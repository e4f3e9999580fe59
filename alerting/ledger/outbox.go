package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

const deliveryColumns = `SELECT id, hook, seq, alert_id, type, severity, body, since, attempts, next_at, state, error, done_at
	FROM ledger_outbox`

func deliveries(ctx context.Context, q querier, query string, args ...any) ([]alerting.Delivery, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	defer rows.Close()
	var out []alerting.Delivery
	for rows.Next() {
		var d alerting.Delivery
		var body string
		if err := rows.Scan(&d.ID, &d.Hook, &d.Seq, &d.AlertID, &d.Type, &d.Severity, &body, &d.Since, &d.Attempts, &d.NextAt,
			&d.State, &d.Error, &d.DoneAt); err != nil {
			return nil, fmt.Errorf("read the outbox: %w", err)
		}
		d.Body = []byte(body)
		out = append(out, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return out, nil
}

// Pending returns at most limit deliveries of a hook that are still to be sent and whose event is after seq, oldest
// event first.
func (l *Ledger) Pending(ctx context.Context, hook string, after uint64, limit int) ([]alerting.Delivery, error) {
	return deliveries(ctx, l.db.Reader(), deliveryColumns+` WHERE state = 'pending' AND hook = ? AND seq > ? ORDER BY seq LIMIT ?`,
		hook, int64(after), limit)
}

// Settle records what became of attempts, and receipts on their alerts: a receipt is a note in the alert's history,
// by "hook NAME". A delivery that is no longer pending stays as it is, except that a dead one that arrived after all is
// delivered. Settling twice changes nothing.
func (l *Ledger) Settle(ctx context.Context, ss []alerting.Settlement) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var w *writing
	err := l.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		if w, err = l.begin(ctx, tx); err != nil {
			return err
		}
		for i := range ss {
			if err := w.settle(ctx, &ss[i]); err != nil {
				return err
			}
		}
		return w.end(ctx)
	})
	if err != nil {
		return fmt.Errorf("ledger: settle deliveries: %w", err)
	}
	l.tell(ctx, w)
	return nil
}

func (w *writing) settle(ctx context.Context, s *alerting.Settlement) error {
	done := int64(0)
	if s.State != alerting.Pending {
		done = int64(s.At)
	}
	n, err := w.exec(ctx, `UPDATE ledger_outbox SET state = ?, attempts = ?, next_at = ?, error = ?, done_at = ?
		WHERE hook = ? AND seq = ? AND (state = 'pending' OR (state = 'dead' AND ? = 'delivered'))`,
		string(s.State), s.Attempts, int64(s.NextAt), s.Error, done, s.Hook, int64(s.Seq), string(s.State))
	if err != nil {
		return err
	}
	by := cleanReceipt(s.AcceptedBy)
	if n == 0 || by == "" {
		return nil
	}
	st, err := w.stmt(ctx, `SELECT alert_id FROM ledger_outbox WHERE hook = ? AND seq = ?`)
	if err != nil {
		return err
	}
	var id string
	if err := st.QueryRowContext(ctx, s.Hook, int64(s.Seq)).Scan(&id); err != nil {
		return err
	}
	r, err := w.find(ctx, alertByID, id)
	if err != nil {
		return err
	}
	if r == nil || r.alert.AcceptedBy == by {
		return nil
	}
	return w.transition(ctx, alerting.Transition{AlertID: id, Kind: alerting.Noted, At: s.At, Actor: "hook " + s.Hook,
		Outcome: "accepted", Note: by}, false, by)
}

// DeliveryFilter selects outbox rows; the zero value selects all.
type DeliveryFilter struct {
	State   alerting.DeliveryState // "": any
	Hook    string                 // "": any
	AlertID string                 // "": any
	Limit   int                    // 0: 100; at most 1000
	Cursor  string                 // the next of the page before
}

// Deliveries lists outbox rows, newest event first. State Dead lists what reached nobody.
func (l *Ledger) Deliveries(ctx context.Context, f DeliveryFilter) (items []alerting.Delivery, next string, err error) {
	// One event goes to a hook at most once, so (seq, hook) is a total order; the cursor names both.
	seq, hook := int64(1<<63-1), ""
	if f.Cursor != "" {
		s, h, ok := strings.Cut(f.Cursor, "-")
		if seq, err = strconv.ParseInt(s, 10, 64); err != nil || !ok {
			return nil, "", ErrBadCursor
		}
		hook = h
	}
	limit := pageSize(f.Limit)
	items, err = deliveries(ctx, l.db.Reader(), deliveryColumns+` WHERE (seq < ? OR (seq = ? AND hook > ?))
		AND (? = '' OR state = ?) AND (? = '' OR hook = ?) AND (? = '' OR alert_id = ?) ORDER BY seq DESC, hook LIMIT ?`,
		seq, seq, hook, string(f.State), string(f.State), f.Hook, f.Hook, f.AlertID, f.AlertID, limit+1)
	if err != nil {
		return nil, "", err
	}
	if len(items) > limit {
		items = items[:limit]
		last := items[limit-1]
		next = strconv.FormatUint(last.Seq, 10) + "-" + last.Hook
	}
	return items, next, nil
}

// ErrDelivered is a request to send again what has arrived.
var ErrDelivered = errors.New("the delivery has arrived already; there is nothing to send again")

// Retry makes a dead or waiting delivery due now, with all its attempts and time before it again, and returns it.
func (l *Ledger) Retry(ctx context.Context, id string) (alerting.Delivery, error) {
	var d alerting.Delivery
	err := l.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		ds, err := deliveries(ctx, tx, deliveryColumns+` WHERE id = ?`, id)
		if err != nil {
			return err
		}
		if len(ds) == 0 {
			return ErrNotFound
		}
		if d = ds[0]; d.State == alerting.Delivered {
			return ErrDelivered
		}
		now := vitals.At(l.now())
		d.State, d.Attempts, d.Since, d.NextAt, d.DoneAt = alerting.Pending, 0, now, now, 0
		_, err = tx.ExecContext(ctx, `UPDATE ledger_outbox SET state = 'pending', attempts = 0, since = ?, next_at = ?, done_at = 0
			WHERE id = ?`, int64(now), int64(now), id)
		return err
	})
	if err != nil {
		return alerting.Delivery{}, fmt.Errorf("ledger: retry delivery: %w", err)
	}
	return d, nil
}

// Expire makes dead, with the given error class, at most limit waiting deliveries from before a time whose hook is
// not in active, and returns them: nobody else would ever tell that they reached nobody.
func (l *Ledger) Expire(ctx context.Context, active []string, before vitals.Micros, class string, limit int) ([]alerting.Delivery, error) {
	query, args := deliveryColumns+` WHERE state = 'pending' AND since < ?`, []any{int64(before)}
	if len(active) > 0 {
		query += ` AND hook NOT IN (?` + strings.Repeat(`, ?`, len(active)-1) + `)`
		for _, h := range active {
			args = append(args, h)
		}
	}
	// Asked beside the writer first: this is nearly always empty.
	ds, err := deliveries(ctx, l.db.Reader(), query+` ORDER BY seq LIMIT ?`, append(args, limit)...)
	if err != nil || len(ds) == 0 {
		return nil, err
	}
	now := vitals.At(l.now())
	ss := make([]alerting.Settlement, len(ds))
	for i := range ds {
		d := &ds[i]
		d.State, d.Error, d.DoneAt = alerting.Dead, class, now
		ss[i] = alerting.Settlement{Hook: d.Hook, Seq: d.Seq, State: alerting.Dead, Attempts: d.Attempts, NextAt: d.NextAt, Error: class, At: now}
	}
	return ds, l.Settle(ctx, ss)
}

// DisabledHook is a hook whose receiver said that it is gone.
type DisabledHook struct {
	Hook  string        `json:"hook"`
	Since vitals.Micros `json:"since"`
	Error string        `json:"error"`
}

// DisableHook records that nothing is to be sent to a hook any more; what waits for it stays in the outbox.
func (l *Ledger) DisableHook(ctx context.Context, hook, class string) error {
	return l.exec(ctx, `INSERT INTO ledger_hooks_disabled (hook, since, error) VALUES (?, ?, ?) ON CONFLICT (hook) DO NOTHING`,
		hook, int64(vitals.At(l.now())), class)
}

// EnableHook takes that back.
func (l *Ledger) EnableHook(ctx context.Context, hook string) error {
	return l.exec(ctx, `DELETE FROM ledger_hooks_disabled WHERE hook = ?`, hook)
}

func (l *Ledger) exec(ctx context.Context, query string, args ...any) error {
	err := l.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// IsDisabled reports whether a hook was disabled and not enabled again.
func (l *Ledger) IsDisabled(ctx context.Context, hook string) (bool, error) {
	var n int
	if err := l.db.Reader().QueryRowContext(ctx, `SELECT count(*) FROM ledger_hooks_disabled WHERE hook = ?`, hook).Scan(&n); err != nil {
		return false, fmt.Errorf("read disabled hooks: %w", err)
	}
	return n > 0, nil
}

// DisabledHooks lists the disabled hooks by name.
func (l *Ledger) DisabledHooks(ctx context.Context) ([]DisabledHook, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT hook, since, error FROM ledger_hooks_disabled ORDER BY hook`)
	if err != nil {
		return nil, fmt.Errorf("read disabled hooks: %w", err)
	}
	defer rows.Close()
	var out []DisabledHook
	for rows.Next() {
		var d DisabledHook
		if err := rows.Scan(&d.Hook, &d.Since, &d.Error); err != nil {
			return nil, fmt.Errorf("read disabled hooks: %w", err)
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

// What Prune keeps at least.
const (
	keepFor          = 24 * vitals.Hour // events and delivered rows
	keepDeliveredFor = 7 * vitals.Day
	pruneStep        = 500 // rows per transaction, so that a commit never waits long
)

// Prune forgets what is no longer needed: the snapshots of events before the newest Options.Keep and older than a
// day (their history stays with the alert), delivered rows of the outbox older than a week, and idempotency keys
// after their time. Dead deliveries stay until somebody has dealt with them. Call it now and then.
func (l *Ledger) Prune(ctx context.Context) error {
	for {
		more, err := l.pruneOnce(ctx)
		if err != nil || !more {
			return err
		}
	}
}

func (l *Ledger) pruneOnce(ctx context.Context) (more bool, err error) {
	now := vitals.At(l.now())
	// What goes is found beside the writer.
	rd, oldest := l.db.Reader(), l.oldest.Load()
	to := oldest // everything before it will have gone
	if seq := l.Seq(); seq > l.keep {
		var n sql.NullInt64
		limit := min(oldest+pruneStep, seq-l.keep+1)
		// The first event of the last day bounds what may go. Events are in the order of seq, and nearly in that of at.
		err := rd.QueryRowContext(ctx, `SELECT min(seq) FROM ledger_transitions WHERE seq >= ? AND seq < ? AND at > ?`,
			int64(oldest), int64(limit), int64(now-keepFor)).Scan(&n)
		if err != nil {
			return false, fmt.Errorf("prune: %w", err)
		}
		to = limit
		if n.Valid {
			to = uint64(n.Int64)
		}
		to = max(to, oldest)
	}
	var delivered int64
	err = l.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if to > oldest {
			if _, err := tx.ExecContext(ctx, setCounter, int64(to), "oldest"); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE ledger_transitions SET snapshot = '' WHERE seq >= ? AND seq < ?`, int64(oldest), int64(to)); err != nil {
				return err
			}
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM ledger_outbox WHERE id IN
			(SELECT id FROM ledger_outbox WHERE state = 'delivered' AND done_at < ? ORDER BY done_at LIMIT ?)`, int64(now-keepDeliveredFor), pruneStep)
		if err != nil {
			return err
		}
		if delivered, err = res.RowsAffected(); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM ledger_idempotency WHERE at <= ?`, int64(now-idempotencyFor))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("prune: %w", err)
	}
	l.oldest.Store(to)
	return to-oldest >= pruneStep || delivered >= pruneStep, nil
}
