package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"vitalwatch/alerting/ledger"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage/embedded"
	"vitalwatch/storage/sqlite"
)

// BackupCmd copies what the server keeps.
type BackupCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file of the server whose data folder is meant."`
	Dir    string `arg:"" type:"path" help:"Folder for the backup; it must not exist or be empty. The server writes it."`
}

// RestoreCmd puts a backup in the place of an empty data folder.
type RestoreCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file that names the data folder, which must not exist or be empty."`
	Dir    string `arg:"" type:"existingdir" help:"The backup."`
}

// manifest is what a backup says of itself; it is written last, so a folder without one is no backup.
type manifest struct {
	Format    int    `json:"format"`
	Version   string `json:"vitalwatch"`
	CreatedAt string `json:"created_at"`
	// Journal is the newest sequence in the journal, Store and Alerts are the cursors of its consumers: neither is ahead.
	Journal uint64         `json:"journal_last"`
	Store   uint64         `json:"store_cursor"`
	Alerts  uint64         `json:"alerts_cursor"`
	Files   []manifestFile `json:"files"`
}

type manifestFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

const (
	manifestName   = "manifest.json"
	manifestFormat = 1
	restoring      = ".restoring"
)

type backupArgs struct {
	Dir string `json:"dir"`
}

type backupResult struct {
	Dir   string `json:"dir"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

// Run has the backup made and then reads it back.
func (c *BackupCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	if err := emptyFolder(c.Dir); err != nil {
		return err
	}
	o, err := newOperation(opBackup, backupArgs{c.Dir}, "")
	if err != nil {
		return err
	}
	var res backupResult
	if err := request(cfg, o, k.Stderr, &res); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	m, err := checkBackup(context.Background(), c.Dir)
	if err != nil {
		return fmt.Errorf("the backup was written and is not sound: %w", err)
	}
	_, err = fmt.Fprintf(k.Stdout, "backup %s is sound: %d files, %d bytes, readings up to sequence %d\n", c.Dir, len(m.Files), res.Bytes, m.Journal)
	return err
}

// emptyFolder: it does not exist, or nothing is in it.
func emptyFolder(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("%s is not empty: name a folder that does not exist yet", dir)
	}
	return nil
}

// copyTo copies state, readings and journal, in this order: so the copied cursors are not ahead of the copied journal;
// and the journal keeps everything after them, because trimming waits.
func (a *App) copyTo(ctx context.Context, dir string) error {
	defer a.journal.HoldTrim()()
	if err := a.db.Backup(ctx, filepath.Join(dir, "state.db")); err != nil {
		return err
	}
	if err := a.store.Checkpoint(ctx, filepath.Join(dir, "readings")); err != nil {
		return err
	}
	return a.journal.Checkpoint(filepath.Join(dir, "journal"))
}

// backup makes a backup and writes its manifest.
func (a *App) backup(ctx context.Context, o *operation) (res backupResult, err error) {
	var args backupArgs
	if err := json.Unmarshal(o.Args, &args); err != nil {
		return res, err
	}
	dir := args.Dir
	data, err := filepath.Abs(a.cfg.DataDir)
	if err != nil {
		return res, err
	}
	if !filepath.IsAbs(dir) || dir == data || strings.HasPrefix(dir, data+string(filepath.Separator)) {
		return res, fmt.Errorf("%s is in the data folder: name another place", dir)
	}
	if err := emptyFolder(dir); err != nil {
		return res, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return res, fmt.Errorf("create the backup's folder: %w", err)
	}
	defer func() {
		if err != nil { // nothing that looks like a backup is left
			for _, name := range []string{"state.db", "readings", "journal"} {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
			}
		}
	}()
	if err := a.copyTo(ctx, dir); err != nil {
		return res, err
	}
	if err := tighten(dir); err != nil {
		return res, err
	}
	m := manifest{Format: manifestFormat, Version: versionString(), CreatedAt: time.Now().UTC().Format(time.RFC3339)}
	if m.Files, err = hashAll(ctx, dir); err != nil {
		return res, err
	}
	for _, f := range m.Files {
		res.Bytes += f.Size
	}
	if m.Journal, m.Store, m.Alerts, err = cursors(ctx, dir); err != nil {
		return res, err
	}
	b, err := json.MarshalIndent(&m, "", "  ")
	if err != nil {
		return res, err
	}
	if err := writeSynced(filepath.Join(dir, manifestName), b); err != nil {
		return res, err
	}
	res.Dir, res.Files = dir, len(m.Files)
	return res, syncDir(dir)
}

// tighten: nobody else may read health data.
func tighten(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

// hashAll lists the files of a backup with their hashes, in order of path. Locks are no part of it.
func hashAll(ctx context.Context, dir string) (files []manifestFile, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == manifestName || d.Name() == "LOCK" {
			return err
		}
		f := manifestFile{Path: filepath.ToSlash(rel)}
		if f.Size, f.SHA256, err = hashFile(path); err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	slices.SortFunc(files, func(a, b manifestFile) int { return strings.Compare(a.Path, b.Path) })
	return files, err
}

func hashFile(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

// cursors reads how far the copies in a backup are, and that the journal has what its consumers lack.
func cursors(ctx context.Context, dir string) (last, store, alerts uint64, err error) {
	rep, err := journal.Verify(filepath.Join(dir, "journal"))
	if err != nil {
		return 0, 0, 0, err
	}
	if store, err = embedded.Verify(ctx, filepath.Join(dir, "readings")); err != nil {
		return 0, 0, 0, err
	}
	db, err := sqlite.OpenCopy(filepath.Join(dir, "state.db"))
	if err != nil {
		return 0, 0, 0, err
	}
	defer db.Close()
	if alerts, err = ledger.CursorIn(ctx, db); err != nil {
		return 0, 0, 0, err
	}
	last = max(rep.Last, rep.Sealed)
	switch behind := min(store, alerts); {
	case store > last || alerts > last:
		return 0, 0, 0, fmt.Errorf("readings (%d) or alerts (%d) are ahead of the journal (%d)", store, alerts, last)
	case behind < last && (rep.First == 0 || behind+1 < rep.First):
		return 0, 0, 0, fmt.Errorf("the journal begins at %d, readings or alerts end at %d", rep.First, behind)
	}
	for _, name := range []string{"journal", "readings"} {
		if err := os.Remove(filepath.Join(dir, name, "LOCK")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, 0, err
		}
	}
	return last, store, alerts, nil
}

// readManifest reads and compares every file with what a backup says of itself.
func readManifest(ctx context.Context, dir string) (m manifest, err error) {
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s has no %s: it is no backup, or one that was not finished", dir, manifestName)
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w", manifestName, err)
	}
	if m.Format != manifestFormat {
		return m, fmt.Errorf("the backup has format %d, this binary knows %d: use the vitalwatch that made it (%s)", m.Format, manifestFormat, m.Version)
	}
	files, err := hashAll(ctx, dir)
	if err != nil {
		return m, err
	}
	byPath := map[string]manifestFile{}
	for _, f := range files {
		byPath[f.Path] = f
	}
	for _, want := range m.Files {
		got, ok := byPath[want.Path]
		switch {
		case !ok:
			return m, fmt.Errorf("%s is missing in the backup", want.Path)
		case got != want:
			return m, fmt.Errorf("%s in the backup is not what was written (SHA-256 differs)", want.Path)
		}
		delete(byPath, want.Path)
	}
	for path := range byPath {
		return m, fmt.Errorf("%s is in the backup and not in its %s", path, manifestName)
	}
	return m, nil
}

// checkBackup reads a whole backup: every file's hash, and the stores' own checksums.
func checkBackup(ctx context.Context, dir string) (manifest, error) {
	m, err := readManifest(ctx, dir)
	if err != nil {
		return m, err
	}
	if err := sqlite.Check(ctx, filepath.Join(dir, "state.db")); err != nil {
		return m, err
	}
	last, store, alerts, err := cursors(ctx, dir)
	if err != nil {
		return m, err
	}
	if last != m.Journal || store != m.Store || alerts != m.Alerts {
		return m, fmt.Errorf("the stores end elsewhere than %s says", manifestName)
	}
	return m, nil
}

// Run checks the backup, copies it and makes it a history of its own.
func (c *RestoreCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	ctx := context.Background()
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	if err := emptyFolder(cfg.DataDir); err != nil {
		return fmt.Errorf("data folder: %w, or move the old one away", err)
	}
	m, err := readManifest(ctx, dir)
	if err != nil {
		return err
	}
	if err := restore(ctx, dir, cfg, &m); err != nil {
		return fmt.Errorf("restore: %w; remove %s before you try again", err, cfg.DataDir)
	}
	_, err = fmt.Fprintf(k.Stdout, "%s has what was there at %s, readings up to sequence %d; start the server. Erasures after that time must be done again.\n",
		cfg.DataDir, m.CreatedAt, m.Journal)
	return err
}

func restore(ctx context.Context, dir string, cfg *Config, m *manifest) error {
	// In a folder of its own first: a server refuses to start on half of it.
	part := filepath.Join(cfg.DataDir, restoring)
	if err := os.MkdirAll(part, 0o700); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := copyFile(filepath.Join(dir, filepath.FromSlash(f.Path)), filepath.Join(part, filepath.FromSlash(f.Path)), f); err != nil {
			return err
		}
	}
	if _, _, _, err := cursors(ctx, part); err != nil {
		return err
	}
	db, err := sqlite.Open(filepath.Join(part, "state.db"))
	if err != nil {
		return err
	}
	if err := errors.Join(ledger.NewEpoch(ctx, db), db.Close()); err != nil {
		return err
	}
	for _, name := range []string{"journal", "readings", "state.db"} {
		for _, d := range []string{part, filepath.Join(part, name)} {
			if err := syncDir(d); err != nil {
				return err
			}
		}
		if err := os.Rename(filepath.Join(part, name), filepath.Join(cfg.DataDir, name)); err != nil {
			return err
		}
	}
	if err := syncDir(cfg.DataDir); err != nil {
		return err
	}
	if err := os.RemoveAll(part); err != nil { // and what SQLite left beside the database
		return err
	}
	return syncDir(cfg.DataDir)
}

// checkNotRestoring: a restore that was interrupted has left half a data folder.
func checkNotRestoring(cfg *Config) error {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, restoring)); err == nil {
		return fmt.Errorf("%s holds a restore that was not finished: remove the folder and restore again", cfg.DataDir)
	}
	return nil
}

// copyFile copies one file of a backup and checks it on the way.
func copyFile(from, to string, want manifestFile) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		return fmt.Errorf("%s changed while it was read", want.Path)
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
