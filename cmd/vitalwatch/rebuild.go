package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"vitalwatch/ingest"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// StorageCmd looks after the readings store.
type StorageCmd struct {
	Rebuild StorageRebuildCmd `cmd:"" help:"Fill an empty or damaged readings store from the messages that are kept. The server must not be running."`
}

// aside is what the name of a store that was moved aside goes on with.
const aside = ".before-"

// StorageRebuildCmd fills the readings store again.
type StorageRebuildCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file that names the data folder and the store."`
	Fresh  bool   `help:"Move the store on this machine aside first, when it cannot be opened or holds what is wrong."`
}

// Run rebuilds and says what could not be filled.
func (c *StorageRebuildCmd) Run(k *kong.Context) (err error) {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	if _, err := os.Stat(cfg.journalPath()); err != nil {
		return fmt.Errorf("there is no journal at %s; name the server's configuration with -c", cfg.journalPath())
	}
	ctx := context.Background()
	app, err := startParts(ctx, cfg, newLogger(cfg, k.Stderr).Level(zerolog.WarnLevel), "journal")
	if errors.Is(err, syscall.EAGAIN) {
		return fmt.Errorf("%w: a server is running on this data folder; stop it first", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.Stop()) }()
	if c.Fresh {
		old := cfg.readingsPath() + aside + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(cfg.readingsPath(), old); err == nil {
			fmt.Fprintf(k.Stderr, "the old store is at %s; delete it when the new one is good: it holds health data\n", old)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := app.openStore(ctx); err != nil {
		return fmt.Errorf("%w; with --fresh it is moved aside and made anew", err)
	}
	if err := app.openInflux(ctx); err != nil {
		return err
	}
	rep, err := rebuild(ctx, app.journal, app.readings)
	if err != nil {
		return err
	}
	fmt.Fprintf(k.Stdout, "%d readings of %d messages written, and %d that the journal still has\n", rep.Readings, rep.Messages, rep.Records)
	if rep.Erased > 0 {
		fmt.Fprintf(k.Stdout, "%d readings were erased on purpose\n", rep.Erased)
	}
	for _, h := range rep.Holes {
		fmt.Fprintf(k.Stdout, "no message is kept for sequence %d to %d: older than evidence.keep, or evidence was off\n", h.from, h.to)
	}
	if rep.Unlike > 0 {
		return fmt.Errorf("%d messages give other readings with this release than when they came: compare with a backup before you trust the store", rep.Unlike)
	}
	return nil
}

// rebuildReport says what a rebuilding found.
type rebuildReport struct {
	Messages, Readings int // from evidence
	Records            int // readings from the journal
	Erased             int // readings that were erased on purpose
	Unlike             int // messages that this release reads otherwise
	Holes              []hole
}

// hole is a run of sequences that nothing is kept of.
type hole struct{ from, to uint64 }

// rebuild writes everything that the journal has, as messages and as readings, to the store, and moves the store's
// cursor to the journal's end.
func rebuild(ctx context.Context, j *journal.Journal, s storage.Readings) (rep rebuildReport, err error) {
	var batch []vitals.Reading
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := s.Write(ctx, batch, 0) // the cursor moves when all is there
		batch = batch[:0]
		return err
	}
	next := uint64(1)
	missing := func(upTo uint64) {
		if next < upTo {
			rep.Holes = append(rep.Holes, hole{next, upTo - 1})
		}
	}
	first, err := j.First()
	if err != nil {
		return rep, err
	}
	err = j.Evidence(ctx, 0, func(e *evidence.Entry) error {
		missing(min(e.First, first))
		next = e.First + uint64(e.Count)
		n := len(batch)
		var err error
		if batch, err = ingest.Reread(e, batch); errors.Is(err, ingest.ErrUnlike) {
			rep.Unlike++
		} else if err != nil {
			return err
		}
		came := len(batch) - n
		batch = append(batch[:n], vitals.Measured(batch[n:])...) // what failed is in no store
		rep.Messages++
		rep.Readings += len(batch) - n
		if e.Kind != evidence.Whole {
			rep.Erased += max(0, e.Count-came)
		}
		if len(batch) >= copyBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return rep, err
	}
	if err := flush(); err != nil {
		return rep, err
	}
	last := j.Last()
	missing(min(first, last+1))
	// Last, so that what the journal has as it was judged stands.
	for after := first - 1; after < last; {
		b, err := j.Next(ctx, after)
		if err != nil {
			return rep, err
		}
		measured := vitals.Measured(b.Readings)
		if err := s.Write(ctx, measured, 0); err != nil {
			return rep, err
		}
		rep.Records += len(measured)
		after = b.Last()
	}
	if err := s.Write(ctx, nil, last); err != nil {
		return rep, err
	}
	return rep, s.Flush(ctx)
}
