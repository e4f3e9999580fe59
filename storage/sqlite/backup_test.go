package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vitalwatch/storage/sqlite"
)

func exec(t *testing.T, d *sqlite.DB, queries ...string) {
	t.Helper()
	err := d.Write(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		for _, q := range queries {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBackup(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	d, err := sqlite.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	exec(t, d, `CREATE TABLE t (x TEXT)`, `INSERT INTO t VALUES ('one')`)
	to := filepath.Join(dir, "copy.db")
	if err := d.Backup(ctx, to); err != nil {
		t.Fatal(err)
	}
	exec(t, d, `INSERT INTO t VALUES ('two')`)
	if err := d.Backup(ctx, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another one: got %v", err)
	}
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := sqlite.Check(ctx, to); err != nil {
		t.Error(err)
	}
	c, err := sqlite.OpenCopy(to)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := errors.Join(c.QueryRow(`SELECT count(*) FROM t`).Scan(&n), c.Close()); err != nil || n != 1 {
		t.Errorf("%d rows, %v, want the one of then", n, err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[4096:]) // a page
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Check(ctx, to); err == nil {
		t.Error("a damaged copy passes")
	}
	if left, _ := filepath.Glob(to + "-*"); len(left) > 0 {
		t.Errorf("left beside the copy: %v", left)
	}
}

// TestErase: neither what an earlier change left nor the log holds it.
func TestErase(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	d, err := sqlite.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	exec(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)`)
	for _, text := range []string{strings.Repeat("SECRET ", 40), strings.Repeat("SECRET ", 3000), "SECRET"} {
		exec(t, d, `INSERT INTO t VALUES (1, '`+text+`') ON CONFLICT (id) DO UPDATE SET x = excluded.x`)
		if err := d.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
	}
	err = d.Erase(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE t SET x = ''`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"state.db", "state.db-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("SECRET")) {
			t.Errorf("%s holds it", name)
		}
	}
}
