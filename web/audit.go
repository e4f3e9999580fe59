package web

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// Bounds of the audit.
const (
	auditQueue = 4096
	auditBatch = 256
	auditEvery = time.Second
	auditKeep  = 190 * 24 * time.Hour // six months and a bit: Cybersecurity Law of the PRC, article 21
	auditPurge = 10_000               // rows a transaction
	auditWait  = 2 * time.Second
)

var errAuditFull = errors.New("the record of access cannot be written now: try again later")

// entry is one line of who did what to whom.
type entry struct {
	At      string `json:"at"`
	Actor   string `json:"actor"`
	Role    Role   `json:"role"`
	Action  string `json:"action"`
	Patient string `json:"patient_id,omitempty"`
	Subject string `json:"subject,omitempty"`
	Remote  string `json:"remote,omitempty"`
	ID      int64  `json:"id"`
	at      vitals.Micros
}

// audit writes entries in batches beside the requests. When its queue is full a request waits, and then fails:
// nobody looks at a patient unrecorded.
type audit struct {
	db    *sqlite.DB
	now   func() time.Time
	log   zerolog.Logger
	queue chan entry
}

func newAudit(db *sqlite.DB, now func() time.Time, log zerolog.Logger) *audit {
	return &audit{db: db, now: now, log: log, queue: make(chan entry, auditQueue)}
}

func (a *audit) record(ctx context.Context, e entry) error {
	e.at = vitals.At(a.now())
	select {
	case a.queue <- e:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	select {
	case a.queue <- e:
		return nil
	case <-ctx.Done():
		return errAuditFull
	}
}

// run writes until ctx ends, and then what is left.
func (a *audit) run(ctx context.Context, also func(context.Context)) {
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	var batch []entry
	var purged time.Time
	flush := func(ctx context.Context) {
		if len(batch) == 0 {
			return
		}
		if err := a.write(ctx, batch); err != nil {
			// The batch stays and grows to its bound; then the queue fills, and requests are refused.
			a.log.Error().Err(err).Int("entries", len(batch)).Msg("the record of access cannot be written; requests will be refused when its queue is full")
			return
		}
		batch = batch[:0]
	}
	for {
		in := a.queue
		if len(batch) >= auditBatch {
			in = nil
		}
		select {
		case e := <-in:
			if batch = append(batch, e); len(batch) >= auditBatch {
				flush(ctx)
			}
		case <-tick.C:
			flush(ctx)
			also(ctx)
			if now := a.now(); now.Sub(purged) > time.Hour {
				purged = now
				if err := a.purge(ctx, vitals.At(now.Add(-auditKeep))); err != nil && ctx.Err() == nil {
					a.log.Warn().Err(err).Msg("old entries of the record of access could not be removed")
				}
			}
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			for {
				select {
				case e := <-a.queue:
					batch = append(batch, e)
					continue
				default:
				}
				break
			}
			flush(end)
			also(end)
			return
		}
	}
}

func (a *audit) write(ctx context.Context, batch []entry) error {
	return a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, `INSERT INTO web_audit (at, actor, role, action, patient, subject, remote) VALUES (?, ?, ?, ?, ?, ?, ?)`)
		if err != nil {
			return fmt.Errorf("record access: %w", err)
		}
		defer stmt.Close()
		for _, e := range batch {
			if _, err := stmt.ExecContext(ctx, int64(e.at), e.Actor, string(e.Role), e.Action, e.Patient, e.Subject, e.Remote); err != nil {
				return fmt.Errorf("record access: %w", err)
			}
		}
		return nil
	})
}

func (a *audit) purge(ctx context.Context, before vitals.Micros) error {
	for {
		var n int64
		err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM web_audit WHERE id IN (SELECT id FROM web_audit WHERE at < ? LIMIT ?)`, int64(before), auditPurge)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil || n < auditPurge {
			return err
		}
	}
}

// list returns entries, newest first, before an id (0: from the newest).
func (a *audit) list(ctx context.Context, patient string, before int64, limit int) ([]entry, error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	rows, err := a.db.Reader().QueryContext(ctx, `SELECT id, at, actor, role, action, patient, subject, remote FROM web_audit
		WHERE id < ? AND (? = '' OR patient = ?) ORDER BY id DESC LIMIT ?`, before, patient, patient, limit)
	if err != nil {
		return nil, fmt.Errorf("read the record of access: %w", err)
	}
	defer rows.Close()
	out := []entry{}
	for rows.Next() {
		var e entry
		var role string
		var at int64
		if err := rows.Scan(&e.ID, &at, &e.Actor, &role, &e.Action, &e.Patient, &e.Subject, &e.Remote); err != nil {
			return nil, fmt.Errorf("read the record of access: %w", err)
		}
		e.Role, e.At = Role(role), stamp(vitals.Micros(at))
		out = append(out, e)
	}
	return out, rows.Err()
}

func stamp(m vitals.Micros) string {
	if m == 0 {
		return ""
	}
	return string(vitals.AppendTime(nil, m))
}
