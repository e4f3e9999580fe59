package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/storage/sqlite"
)

// followEvery is how often the server looks for what the command line wrote beside it.
const followEvery = 200 * time.Millisecond

// followWait bounds how long a connecting device or a request waits for that: what is in memory serves too.
const followWait = time.Second

// follower takes over what other processes wrote about people and devices. Somebody who has just added a device, rotated
// its secret or disabled it tries it at once, so who connects or asks looks first instead of waiting for the next turn.
type follower struct {
	db     *sqlite.DB
	people *care.Registry
	things *devices.Registry

	asked atomic.Uint64 // tickets handed out
	mu    sync.Mutex
	done  uint64 // tickets up to here are served
	err   error  // how the look went that served them
}

// now returns when everything that was committed before the call is known here. Callers that wait together share one
// look, also one that has failed: each waiting for a look of its own, many would stand in line for minutes. It reads
// only, so a writer that waits for the disk holds nobody up unless another process has written.
func (f *follower) now(ctx context.Context) error {
	ticket := f.asked.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if ticket <= f.done {
		return f.err
	}
	upTo := f.asked.Load()
	err := f.look(ctx)
	if err != nil && ctx.Err() != nil { // only this caller has given up
		return err
	}
	f.done, f.err = upTo, err
	return err
}

func (f *follower) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followWait)
	defer cancel()
	var people, things int64
	if err := f.db.Reader().QueryRowContext(ctx, `SELECT (SELECT rev FROM care_revision), (SELECT rev FROM devices_revision)`).Scan(&people, &things); err != nil {
		return err
	}
	if people > f.people.Applied() { // before devices, whose bindings name people
		if _, err := f.people.Refresh(ctx); err != nil {
			return err
		}
	}
	if things > f.things.Applied() {
		if _, err := f.things.Refresh(ctx); err != nil {
			return err
		}
	}
	return nil
}
