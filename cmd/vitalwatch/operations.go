package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"os/user"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

//go:embed migrations/*.sql
var migrations embed.FS

// operation is what an operator asked for. The server that has the stores open does it; without one, the command does.
type operation struct {
	ID          string
	Kind        string
	Args        json.RawMessage
	Reason      string
	By          string
	RequestedAt vitals.Micros
	State       string
	Progress    string
	Result      string
	Error       string
}

// The kinds and states of operations.
const (
	opBackup = "backup"
	opExport = "export"
	opErase  = "erase"

	opWaiting = "waiting"
	opRunning = "running"
	opDone    = "done"
	opFailed  = "failed"
)

func migrateOperations(ctx context.Context, db *sqlite.DB) error {
	fsys, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return db.Migrate(ctx, "operations", fsys)
}

// newOperation describes what is asked for; args become JSON.
func newOperation(kind string, args any, reason string) (*operation, error) {
	b, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	by := "command line"
	if u, err := user.Current(); err == nil {
		by += " (" + u.Username + ")"
	}
	return &operation{ID: hex.EncodeToString(id[:]), Kind: kind, Args: b, Reason: reason, By: by, RequestedAt: vitals.At(time.Now()), State: opWaiting}, nil
}

func insertOperation(ctx context.Context, db *sqlite.DB, o *operation) error {
	return db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO operations (id, kind, args, reason, requested_by, requested_at, state) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			o.ID, o.Kind, string(o.Args), o.Reason, o.By, int64(o.RequestedAt), o.State)
		return err
	})
}

const operationColumns = `SELECT id, kind, args, reason, requested_by, requested_at, state, progress, result, error FROM operations`

func readOperation(ctx context.Context, db *sqlite.DB, where string, args ...any) (*operation, error) {
	var o operation
	var text string
	err := db.Reader().QueryRowContext(ctx, operationColumns+where, args...).Scan(&o.ID, &o.Kind, &text, &o.Reason, &o.By, &o.RequestedAt, &o.State, &o.Progress, &o.Result, &o.Error)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read operations: %w", err)
	}
	o.Args = json.RawMessage(text)
	return &o, nil
}

// setOperation records where an operation stands.
func setOperation(ctx context.Context, db *sqlite.DB, o *operation) error {
	now := vitals.At(time.Now())
	return db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE operations SET state = ?, progress = ?, result = ?, error = ?,
			started_at = CASE WHEN started_at = 0 THEN ? ELSE started_at END, finished_at = CASE WHEN ? IN ('done', 'failed') THEN ? ELSE 0 END WHERE id = ?`,
			o.State, o.Progress, o.Result, o.Error, int64(now), o.State, int64(now), o.ID)
		return err
	})
}

// startOperations does what is asked for, one after the other. An erasure that a crash interrupted goes on; everything else of
// that kind has failed, and whoever asked for it may ask again.
func (a *App) startOperations(ctx context.Context) error {
	err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE operations SET state = 'waiting' WHERE state = 'running' AND kind = 'erase'`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE operations SET state = 'failed', error = 'the server stopped before it was done: ask again', finished_at = ? WHERE state = 'running'`,
			int64(vitals.At(time.Now())))
		return err
	})
	if err != nil {
		return fmt.Errorf("read operations: %w", err)
	}
	a.every("operations", 300*time.Millisecond, func(ctx context.Context) error {
		o, err := readOperation(ctx, a.db, ` WHERE state = 'waiting' ORDER BY requested_at LIMIT 1`)
		if o == nil || err != nil {
			return err
		}
		return a.operate(ctx, o)
	})
	return nil
}

// operate does one operation and records what came of it. Its own failure is an outcome, not an error.
func (a *App) operate(ctx context.Context, o *operation) error {
	log := a.log.With().Str("operation", o.ID).Str("kind", o.Kind).Logger()
	o.State = opRunning
	if err := setOperation(ctx, a.db, o); err != nil {
		return err
	}
	log.Info().Msg("operation begins")
	begin := time.Now()
	var result any
	var err error
	switch o.Kind {
	case opBackup:
		result, err = a.backup(ctx, o)
	case opExport:
		result, err = a.exportToFile(ctx, o)
	case opErase:
		result, err = a.erase(ctx, o)
	default:
		err = errors.New("this release does not know it: run the newer one")
	}
	if err != nil && ctx.Err() != nil && o.Kind == opErase {
		o.State = opWaiting // the server stops; it goes on after the start
		return setOperation(context.WithoutCancel(ctx), a.db, o)
	}
	o.State = opDone
	if err != nil {
		o.State, o.Error = opFailed, err.Error()
		log.Error().Err(err).Msg("operation failed")
	} else if b, e := json.Marshal(result); e == nil {
		o.Result = string(b)
	}
	log.Info().Str("state", o.State).Int64("duration_ms", time.Since(begin).Milliseconds()).Msg("operation ended")
	return setOperation(context.WithoutCancel(ctx), a.db, o)
}

// request has an operation done, by the server that runs on the data folder or else here, and returns its result.
func request(cfg *Config, o *operation, stderr io.Writer, result any) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := cfg.checkData(); err != nil {
		return err
	}
	log := newLogger(cfg, stderr).Level(zerolog.WarnLevel)
	app, err := startParts(ctx, cfg, log, "operations")
	switch {
	case err == nil:
		if err = insertOperation(ctx, app.db, o); err == nil {
			err = app.wait(ctx, o)
		}
		err = errors.Join(err, app.Stop())
	case errors.Is(err, syscall.EAGAIN): // the journal is locked: a server runs
		err = requestFrom(ctx, cfg, o, stderr)
	}
	if err != nil {
		return err
	}
	if o.State != opDone {
		return errors.New(o.Error)
	}
	if err := json.Unmarshal([]byte(o.Result), result); err != nil {
		return fmt.Errorf("the server's answer is not understood (is it of another release?): %w", err)
	}
	return nil
}

// wait follows an operation that the parts started here do.
func (a *App) wait(ctx context.Context, o *operation) error {
	select {
	case err := <-a.failed:
		return err
	default:
	}
	return follow(ctx, a.db, o, func() error { return ctx.Err() })
}

// answerWithin is how long a running server may take to begin, before the operator is told that it has not.
const answerWithin = 10 * time.Second

func requestFrom(ctx context.Context, cfg *Config, o *operation, stderr io.Writer) error {
	db, err := sqlite.Open(cfg.statePath())
	if err != nil {
		return err
	}
	defer db.Close()
	if err := migrateOperations(ctx, db); err != nil {
		return err
	}
	if err := insertOperation(ctx, db, o); err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	begin, told := time.Now(), false
	return follow(ctx, db, o, func() error {
		if err := ctx.Err(); err != nil {
			if o.Kind == opErase {
				return errors.New("interrupted; the server goes on with it: the operation is " + o.ID)
			}
			return errors.New("interrupted")
		}
		if o.State == opWaiting && !told && time.Since(begin) > answerWithin {
			told = true
			fmt.Fprintln(stderr, "vitalwatch: the server is busy with another operation, or of an older release; waiting")
		}
		return nil
	})
}

// follow reads an operation until it has ended; between two looks it asks whether to go on.
func follow(ctx context.Context, db *sqlite.DB, o *operation, goOn func() error) error {
	for {
		now, err := readOperation(context.WithoutCancel(ctx), db, ` WHERE id = ?`, o.ID)
		if err != nil {
			return err
		}
		if now == nil {
			return errors.New("the operation is gone from the state database")
		}
		if *o = *now; o.State == opDone || o.State == opFailed {
			return nil
		}
		if err := goOn(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // polls another process: there is no event to wait for
		}
	}
}
