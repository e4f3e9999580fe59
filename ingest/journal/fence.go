package journal

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// errFencedFS is what a fenced file system answers to everything that would change it.
var errFencedFS = errors.New("file system is fenced after a write error")

// fault is the first write error of a generation.
type fault struct {
	op, file string // "sync", "000012.log"
	err      error
}

// noSpace reports whether err means that the disk is full: the one fault that mends itself.
func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// fenceFS stands between one Pebble instance and the disk. Pebble v2.1.7 answers a failed log write with a panic in
// whatever goroutine writes next (DB.commitWrite), a failed log rotation with a panic that unlocks an unlocked mutex on
// its way up, which ends the process and cannot be recovered (DB.rotateWAL, makeRoomForWrite), a failed MANIFEST write
// with Logger.Fatalf, and a failed flush with an immediate retry for ever (DB.flush). So the first failure is seen here,
// below Pebble. From then on nothing that this instance does reaches the disk: a new instance may be opened on the same
// folder, and an fsync that failed once is never followed by one that seems to work. For its log Pebble is told that all
// is well, so that it does not panic; that is safe because the journal acknowledges nothing of a fenced instance (see
// Journal.publish).
type fenceFS struct {
	vfs.FS
	dir     string              // of the journal: a copy that is written elsewhere fails for itself
	onFault func(fault)         // at most once per fence, before the error is returned to Pebble
	onFull  func()              // ENOSPC while writing a table: Pebble tries again by itself
	onSync  func(time.Duration) // a WAL fsync
	fenced  atomic.Bool
	wiping  atomic.Bool  // no log is reused: what is in the old ones must be gone
	ops     sync.RWMutex // held for reading during each change, so that drain can wait for the last one
}

// drained reports whether no change is under way any more; call it once fenced.
func (f *fenceFS) drained() bool {
	if !f.ops.TryLock() {
		return false
	}
	f.ops.Unlock()
	return true
}

// Lock does nothing: the journal holds the folder's lock across the generations.
func (f *fenceFS) Lock(string) (io.Closer, error) { return noLock{}, nil }

type noLock struct{}

func (noLock) Close() error { return nil }

// retryPause keeps Pebble's retry loops from spinning.
const retryPause = 100 * time.Millisecond

// kind says what a failed operation on a file means.
type kind uint8

const (
	critical kind = iota // fences; Pebble gets the error
	log                  // fences; Pebble must not see the error
	table                // a full disk only refuses appends: Pebble tries again by itself
	optional             // harmless
)

func kindOf(name string) kind {
	switch {
	case strings.HasSuffix(name, ".log"):
		return log
	case strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".blob"):
		return table
	}
	return critical
}

// outside reports whether name is not the journal's own.
func (f *fenceFS) outside(name string) bool {
	return name != f.dir && !strings.HasPrefix(name, f.dir+string(os.PathSeparator))
}

// change runs one operation that changes the disk.
func (f *fenceFS) change(op, name string, k kind, do func() error) error {
	if f.outside(name) {
		return do()
	}
	f.ops.RLock()
	if f.fenced.Load() {
		f.ops.RUnlock()
		if k == log {
			return nil
		}
		time.Sleep(retryPause)
		return errFencedFS
	}
	err := do()
	f.ops.RUnlock()
	switch {
	case err == nil || k == optional:
		return err
	case k == table && noSpace(err) && op != "sync":
		f.onFull()
		time.Sleep(retryPause)
		return err
	}
	if f.fenced.CompareAndSwap(false, true) {
		f.onFault(fault{op, f.FS.PathBase(name), err})
	}
	if k == log {
		return nil
	}
	return err
}

func (f *fenceFS) open(op, name string, do func() (vfs.File, error)) (file vfs.File, err error) {
	k := kindOf(name)
	err = f.change(op, name, k, func() (err error) {
		file, err = do()
		return err
	})
	if err != nil {
		return nil, err
	}
	if f.outside(name) {
		return file, nil
	}
	if file == nil {
		file = noFile{}
	}
	return &fenceFile{File: file, fs: f, name: name, kind: k}, nil
}

// noFile stands for a log that could not be created.
type noFile struct{ vfs.File }

func (noFile) Close() error { return nil }

func (noFile) Fd() uintptr { return vfs.InvalidFd }

func (noFile) Stat() (vfs.FileInfo, error) { return nil, errFencedFS }

func (f *fenceFS) Unwrap() vfs.FS { return f.FS }

func (f *fenceFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("create", name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *fenceFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open("open", name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f *fenceFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("reuse", newname, func() (vfs.File, error) {
		if !f.wiping.Load() {
			return f.FS.ReuseForWrite(oldname, newname, c)
		}
		if err := f.FS.Remove(oldname); err != nil {
			return nil, err
		}
		return f.FS.Create(newname, c)
	})
}

func (f *fenceFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil || f.outside(name) {
		return d, err
	}
	// Pebble syncs the folder after it has created a log, and panics when that fails.
	return &fenceFile{File: d, fs: f, name: name, kind: log}, nil
}

func (f *fenceFS) Link(oldname, newname string) error {
	return f.change("link", newname, kindOf(newname), func() error { return f.FS.Link(oldname, newname) })
}

func (f *fenceFS) Rename(oldname, newname string) error {
	return f.change("rename", newname, kindOf(newname), func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fenceFS) Remove(name string) error {
	return f.change("remove", name, optional, func() error { return f.FS.Remove(name) })
}

func (f *fenceFS) RemoveAll(name string) error {
	return f.change("remove", name, optional, func() error { return f.FS.RemoveAll(name) })
}

func (f *fenceFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.change("mkdir", dir, critical, func() error { return f.FS.MkdirAll(dir, perm) })
}

type fenceFile struct {
	vfs.File
	fs   *fenceFS
	name string
	kind kind
}

func (f *fenceFile) Write(p []byte) (n int, err error) {
	n = len(p)
	err = f.fs.change("write", f.name, f.kind, func() error { n, err = f.File.Write(p); return err })
	if err == nil {
		n = len(p)
	}
	return n, err
}

func (f *fenceFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.change("write", f.name, f.kind, func() error { n, err = f.File.WriteAt(p, off); return err })
	if err == nil {
		n = len(p)
	}
	return n, err
}

// Preallocate is only a wish: when the disk is full, the write that follows says so.
func (f *fenceFile) Preallocate(off, length int64) error {
	if !f.fs.fenced.Load() {
		_ = f.fs.change("preallocate", f.name, optional, func() error { return f.File.Preallocate(off, length) })
	}
	return nil
}

func (f *fenceFile) Sync() error { return f.sync(f.File.Sync) }

func (f *fenceFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *fenceFile) SyncTo(length int64) (full bool, err error) {
	err = f.fs.change("sync", f.name, f.kind, func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

func (f *fenceFile) sync(do func() error) error {
	return f.fs.change("sync", f.name, f.kind, func() error {
		if f.kind != log {
			return do()
		}
		start := time.Now()
		err := do()
		f.fs.onSync(time.Since(start))
		return err
	})
}
