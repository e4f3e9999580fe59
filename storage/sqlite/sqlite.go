// Package sqlite opens the state database: pragmas, one writer, a bounded pool of readers, migrations. It owns no
// table; care, devices, alerting/ledger and web each bring their own migrations and statements.
//
// Concurrency: all writing goes through Write, one transaction at a time in this process; other processes (the
// command line beside a running server) are waited for. Reading goes through Reader, in parallel with writing.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// MinVersion is the oldest SQLite without the WAL-reset bug (https://sqlite.org/wal.html#walresetbug).
const MinVersion = "3.51.3"

// readers bounds the pool of read connections; each costs about 2 MB once used.
const readers = 4

// DB is the open state database.
type DB struct {
	writer *sql.DB // one connection: SQLite has one writer, and a queue in Go is fairer than busy retries
	reader *sql.DB
	// checker moves the WAL into the database beside the writer: SQLite's own checkpoint would run inside a commit
	// that somebody waits for, about one in a hundred.
	checker *sql.DB
	Path    string
}

// Open opens or creates the database file. synchronous=FULL because an alert that was told to anybody must
// survive a power loss; secure_delete=ON because what was changed or deleted must not stay in the gaps of pages, where an
// erasure would not find it; the WAL is moved by Checkpoint, and inside a commit only beyond 80 MB; a transaction begins IMMEDIATE so that it never fails half-way with SQLITE_BUSY.
func Open(path string) (*DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the state database: %w", err)
	}
	// SQLite would make a file that everybody may read; its WAL takes after it. Only a new file is touched: closing any
	// descriptor of an open database drops the locks of the whole process.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create state database: %w", err)
	}
	// A plain path would silently lose its parameters, see facts on modernc.org/sqlite: always a file: URI.
	dsn := func(params string) string {
		u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
		return u.String() + "?_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)" + params
	}
	w, err := sql.Open("sqlite", dsn("&_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)&_pragma=wal_autocheckpoint(20000)&_pragma=journal_size_limit(67108864)"))
	if err != nil {
		return nil, fmt.Errorf("open state database: %w", err)
	}
	w.SetMaxOpenConns(1)
	w.SetConnMaxLifetime(0)
	d := &DB{writer: w, Path: path}
	var v string
	if err := w.QueryRow(`SELECT sqlite_version()`).Scan(&v); err != nil {
		return nil, fmt.Errorf("open state database %s: %w", path, errorsWithClose(err, d))
	}
	if older(v, MinVersion) {
		return nil, fmt.Errorf("SQLite %s has the WAL-reset bug; build with a driver that has %s or later: %w", v, MinVersion, errorsWithClose(errOldSQLite, d))
	}
	r, err := sql.Open("sqlite", dsn("&_pragma=query_only(1)"))
	if err != nil {
		return nil, fmt.Errorf("open state database for reading: %w", errorsWithClose(err, d))
	}
	r.SetMaxOpenConns(readers)
	r.SetMaxIdleConns(readers)
	r.SetConnMaxIdleTime(time.Minute)
	d.reader = r
	c, err := sql.Open("sqlite", dsn("&_pragma=synchronous(FULL)"))
	if err != nil {
		return nil, fmt.Errorf("open state database for checkpoints: %w", errorsWithClose(err, d))
	}
	c.SetMaxOpenConns(1)
	d.checker = c
	return d, nil
}

var errOldSQLite = fmt.Errorf("SQLite is too old")

func errorsWithClose(err error, d *DB) error {
	d.Close()
	return err
}

// Reader returns the pool of read connections. Close rows at once: a long reader makes the WAL grow.
func (d *DB) Reader() *sql.DB { return d.reader }

// Snapshot runs f in one read-only transaction: what it reads from several tables belongs together.
func (d *DB) Snapshot(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := d.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()
	return f(tx)
}

// Write runs f in one transaction and commits it durably. f must not publish anything; do that after Write
// returned nil. When f or the commit fails nothing has changed.
func (d *DB) Write(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := d.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()
	if err := f(ctx, tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// ChangedByOthers returns a number that changes when another process has committed to the database. Callers keep
// the last one and reload their caches when it differs. This process's own writes do not change it.
func (d *DB) ChangedByOthers(ctx context.Context) (int64, error) {
	var v int64
	// On the writer's connection, because data_version is relative to the connection that asks.
	if err := d.writer.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&v); err != nil {
		return 0, fmt.Errorf("data_version: %w", err)
	}
	return v, nil
}

// Migrate applies an owner's numbered migrations (goose SQL files at the root of fsys), each in a transaction.
// Every owner has a version table of its own, so that rooms stay independent. It refuses a database that a newer
// binary has migrated further.
func (d *DB) Migrate(ctx context.Context, owner string, fsys fs.FS) error {
	store, err := database.NewStore(database.DialectSQLite3, "schema_"+owner)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", owner, err)
	}
	p, err := goose.NewProvider("", d.writer, fsys, goose.WithStore(store))
	if err != nil {
		return fmt.Errorf("migrate %s: %w", owner, err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", owner, err)
	}
	if current > target {
		return fmt.Errorf("the state database %s has schema %d of %q, this binary knows %d: run the newer vitalwatch, or restore a backup made with this one", d.Path, current, owner, target)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate %s: %w", owner, err)
	}
	return nil
}

// Checkpoint moves the WAL into the database file, beside the writer and without waiting for readers. Somebody must
// call it every few seconds, or the WAL grows.
func (d *DB) Checkpoint(ctx context.Context) error {
	var busy, log, done int
	if err := d.checker.QueryRowContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`).Scan(&busy, &log, &done); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// Close closes all connections; the last one checkpoints the WAL.
func (d *DB) Close() error {
	var errs []error
	for _, c := range []*sql.DB{d.reader, d.checker, d.writer} { // the writer last: it checkpoints
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

func older(v, than string) bool {
	a, b := parts(v), parts(than)
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

func parts(v string) (out [3]int) {
	for i, s := range strings.SplitN(v, ".", 3) {
		out[i], _ = strconv.Atoi(s)
	}
	return out
}
