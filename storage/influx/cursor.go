package influx

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"vitalwatch/storage/sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SQLCursor keeps the cursor in the state database.
type SQLCursor struct {
	db     *sqlite.DB
	target string
}

// OpenCursor prepares the table. The cursor belongs to url, org and bucket together.
func OpenCursor(ctx context.Context, db *sqlite.DB, url, org, bucket string) (*SQLCursor, error) {
	fsys, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open cursor: %w", err)
	}
	if err := db.Migrate(ctx, "influxdb", fsys); err != nil {
		return nil, err
	}
	return &SQLCursor{db, strings.TrimSuffix(url, "/") + "\n" + org + "\n" + bucket}, nil
}

// Load implements Cursor.
func (c *SQLCursor) Load(ctx context.Context) (uint64, bool, error) {
	var seq int64
	err := c.db.Reader().QueryRowContext(ctx, `SELECT seq FROM influxdb_cursors WHERE target = ?`, c.target).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return uint64(seq), err == nil, err
}

// Save implements Cursor.
func (c *SQLCursor) Save(ctx context.Context, seq uint64) error {
	return c.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO influxdb_cursors (target, seq) VALUES (?, ?) ON CONFLICT (target) DO UPDATE SET seq = excluded.seq`, c.target, int64(seq))
		return err
	})
}
