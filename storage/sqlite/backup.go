package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
)

// Backup writes the database as it is at one instant to the file path, which must not exist, beside readers and the
// writer. Checkpoints wait meanwhile.
func (d *DB) Backup(ctx context.Context, path string) error {
	// SQLite would make a file that everybody may read; an empty one it takes over.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("copy the state database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("copy the state database: %w", err)
	}
	if _, err := d.checker.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return fmt.Errorf("copy the state database: %w", err)
	}
	if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("copy the state database: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// OpenCopy opens a database file that nobody changes, such as a backup, for reading; it leaves nothing beside it.
func OpenCopy(path string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	return sql.Open("sqlite", u.String()+"?mode=ro&immutable=1")
}

// Check reads a database file that nobody has open, without changing anything, and says what is wrong with it.
func Check(ctx context.Context, path string) error {
	db, err := OpenCopy(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", filepath.Base(path), err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&verdict); err != nil {
		return fmt.Errorf("check %s: %w", filepath.Base(path), err)
	}
	if verdict != "ok" {
		return fmt.Errorf("check %s: %s", filepath.Base(path), verdict)
	}
	return nil
}

// Erase is Write for what must be gone for ever: the log that still has the old pages is moved into the database and
// emptied. It fails, after the commit, while a reader holds the log.
func (d *DB) Erase(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	if err := d.Write(ctx, f); err != nil {
		return err
	}
	return d.EmptyLog(ctx)
}

// EmptyLog moves the whole log into the database and cuts it to nothing. It waits for readers, half a minute at most.
func (d *DB) EmptyLog(ctx context.Context) error {
	for range 6 { // each waits for busy_timeout
		var busy, log, done int
		if err := d.checker.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &done); err != nil {
			return fmt.Errorf("empty the log of the state database: %w", err)
		}
		if busy == 0 {
			return nil
		}
	}
	return errors.New("the log of the state database is being read and could not be emptied; try again")
}
