package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"vitalwatch/storage/sqlite"
)

var one = fstest.MapFS{"00001_t.sql": {Data: []byte("-- +goose Up\nCREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER NOT NULL);\n")}}

func open(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	d, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpen_PragmasHold(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "a b?%20.db"))
	for _, c := range []struct{ pragma, want string }{
		{"journal_mode", "wal"}, {"foreign_keys", "1"}, {"busy_timeout", "5000"},
	} {
		var got string
		if err := d.Reader().QueryRow("PRAGMA " + c.pragma).Scan(&got); err != nil || got != c.want {
			t.Errorf("reader %s = %q (%v), want %q", c.pragma, got, err, c.want)
		}
	}
	if err := d.Write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
		var s int
		if err := tx.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&s); err != nil {
			return err
		}
		if s != 2 {
			t.Errorf("writer synchronous = %d, want 2 (FULL)", s)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reader().Exec("CREATE TABLE x (a)"); err == nil {
		t.Error("the reader pool could write")
	}
}

func TestOpen_NobodyElseMayRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits on Windows")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // a folder that the operator made
		t.Fatal(err)
	}
	d := open(t, filepath.Join(dir, "s.db"))
	if err := d.Migrate(t.Context(), "test", one); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("files = %v, %v; want the database and its WAL", files, err)
	}
	for _, f := range files {
		if i, err := f.Info(); err != nil || i.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v; want nothing for group and others", f.Name(), i.Mode(), err)
		}
	}
}

func TestWrite_RollsBackOnError(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "s.db"))
	if err := d.Migrate(t.Context(), "test", one); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := d.Write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO t VALUES ('a', 1)"); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("Write = %v, want boom", err)
	}
	var n int
	if err := d.Reader().QueryRow("SELECT count(*) FROM t").Scan(&n); err != nil || n != 0 {
		t.Fatalf("rows = %d (%v), want 0", n, err)
	}
}

func TestMigrate_OwnersAreIndependentAndNewerIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	d := open(t, path)
	two := fstest.MapFS{"00001_u.sql": {Data: []byte("-- +goose Up\nCREATE TABLE u (k TEXT);\n")},
		"00002_u.sql": {Data: []byte("-- +goose Up\nALTER TABLE u ADD COLUMN v TEXT;\n")}}
	for range 2 { // twice: migrating again changes nothing
		if err := d.Migrate(t.Context(), "first", one); err != nil {
			t.Fatal(err)
		}
		if err := d.Migrate(t.Context(), "second", two); err != nil {
			t.Fatal(err)
		}
	}
	delete(two, "00002_u.sql")
	if err := d.Migrate(t.Context(), "second", two); err == nil || !strings.Contains(err.Error(), "newer vitalwatch") {
		t.Fatalf("Migrate with an older binary = %v, want a refusal that says what to do", err)
	}
}

func TestChangedByOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	a, b := open(t, path), open(t, path)
	if err := a.Migrate(t.Context(), "test", one); err != nil {
		t.Fatal(err)
	}
	version := func(d *sqlite.DB) int64 {
		v, err := d.ChangedByOthers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	insert := func(d *sqlite.DB, k string) {
		if err := d.Write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO t VALUES (?, 1)", k)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := version(a)
	insert(a, "own")
	if got := version(a); got != before {
		t.Errorf("own write changed the version from %d to %d", before, got)
	}
	insert(b, "other")
	if got := version(a); got == before {
		t.Error("the other's write did not change the version")
	}
}
