package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/storage/embedded"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// PatientEraseCmd removes one person's health data.
type PatientEraseCmd struct {
	registryFlags
	ID     string `arg:"" help:"Patient id."`
	Reason string `required:"" placeholder:"TEXT" help:"Why, for the record that stays; no health data and no name."`
	By     string `placeholder:"NAME" help:"Who asked for it, for the same record."`
	Yes    bool   `help:"Do not ask back."`
}

type eraseArgs struct {
	Patient vitals.PatientID `json:"patient"`
	By      string           `json:"by,omitempty"`
}

// eraseResult is the record of an erasure: counts and no values.
type eraseResult struct {
	Readings    int           `json:"readings"`    // in the readings store
	Messages    int           `json:"messages"`    // as they came
	Shared      int           `json:"shared"`      // of them with somebody else's readings, which stay
	Remembered  int           `json:"remembered"`  // entries of the index that knows resends
	Quarantined int           `json:"quarantined"` // refused messages
	Devices     int           `json:"devices"`     // cut off, because they measured for nobody else
	Alerts      ledger.Erased `json:"alerts"`
}

// Run asks back, has it done and prints the counts.
func (c *PatientEraseCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	if !vitals.ValidID(c.ID) {
		return fmt.Errorf("%q is not a patient id; see: vitalwatch patient list", c.ID)
	}
	if !c.Yes {
		fmt.Fprintf(k.Stderr, "This removes every reading, message and note of patient %s for ever, and their name and conditions. Type the id to go on: ", c.ID)
		var typed string
		if _, err := fmt.Fscanln(os.Stdin, &typed); err != nil || typed != c.ID {
			return errors.New("nothing was erased")
		}
	}
	o, err := newOperation(opErase, eraseArgs{vitals.PatientID(c.ID), c.By}, c.Reason)
	if err != nil {
		return err
	}
	var res eraseResult
	if err := request(cfg, o, k.Stderr, &res); err != nil {
		return fmt.Errorf("erase patient %s: %w", c.ID, err)
	}
	_, err = fmt.Fprintf(k.Stdout, "patient %s is erased: %d readings, %d messages, %d refused messages, %d alerts; operation %s is the record. Backups from before still hold them.\n",
		c.ID, res.Readings, res.Messages, res.Quarantined, res.Alerts.Alerts, o.ID)
	return err
}

// eraseProgress is what going on after a crash cannot find out again.
type eraseProgress struct {
	Own    []vitals.DeviceID `json:"own"` // devices that measured for nobody else
	Shared []vitals.DeviceID `json:"shared"`
	Result eraseResult       `json:"result"`
}

// erase removes one person, step by step; each step may be repeated after a crash. First nothing new can come, then all
// that is on its way arrives, then every place is emptied, and last what was deleted leaves the files.
func (a *App) erase(ctx context.Context, o *operation) (eraseResult, error) {
	var args eraseArgs
	if err := json.Unmarshal(o.Args, &args); err != nil {
		return eraseResult{}, err
	}
	p := args.Patient
	if _, ok := a.people.Find(p); !ok {
		return eraseResult{}, fmt.Errorf("%w: see vitalwatch patient list", care.ErrNotFound)
	}
	var at eraseProgress
	if o.Progress != "" {
		if err := json.Unmarshal([]byte(o.Progress), &at); err != nil {
			return at.Result, err
		}
	} else {
		at.Own, at.Shared = a.devices.Bound(p)
		at.Result.Devices = len(at.Own)
		if err := web.Record(ctx, a.db, o.By, "patient.erase", string(p), o.ID); err != nil {
			return at.Result, err
		}
	}
	save := func() error {
		b, err := json.Marshal(&at)
		if err != nil {
			return err
		}
		o.Progress = string(b)
		return setOperation(ctx, a.db, o)
	}
	if err := a.eraseAside(ctx, p); err != nil { // first: when it cannot be done, nothing has been touched
		return at.Result, err
	}
	if err := save(); err != nil { // before the bindings go
		return at.Result, err
	}
	if err := a.devices.Forget(ctx, p); err != nil {
		return at.Result, err
	}
	res := &at.Result
	// Readings that were judged before the bindings went may arrive while this runs: then once more.
	for range 5 {
		if err := a.eraseOnce(ctx, p, &at); err != nil {
			return *res, err
		}
		if err := save(); err != nil {
			return *res, err
		}
		if left, err := a.hasReadings(ctx, p); err != nil || !left {
			if err != nil {
				return *res, err
			}
			break
		}
	}
	if err := a.people.Erase(ctx, p); err != nil {
		return *res, err
	}
	a.monitor.RulesChanged(p)
	n, err := a.ledger.Erase(ctx, p)
	if err != nil {
		return *res, err
	}
	res.Alerts = n
	if err := a.db.EmptyLog(ctx); err != nil {
		return *res, err
	}
	return *res, a.journal.Wipe(ctx)
}

// hasReadings reports whether something of the patient has arrived.
func (a *App) hasReadings(ctx context.Context, p vitals.PatientID) (bool, error) {
	if err := a.levelAt(ctx, a.journal.Last()); err != nil {
		return false, err
	}
	for _, err := range a.readings.Range(ctx, storage.Query{Patient: p, Limit: 1}) {
		return err == nil, err
	}
	return false, nil
}

// eraseAside empties the stores that `storage rebuild --fresh` moved aside. One that cannot be read may hold the person
// and cannot be emptied: then the operator must delete it first.
func (a *App) eraseAside(ctx context.Context, p vitals.PatientID) error {
	data, readings := filepath.Split(a.cfg.readingsPath())
	entries, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(data, e.Name())
		if !e.IsDir() || !strings.HasPrefix(e.Name(), readings+aside) {
			continue
		}
		if err := eraseFrom(ctx, dir, p, a.log); err != nil {
			return fmt.Errorf("%w: %s is an old store that a rebuilding moved aside, and the person cannot be erased from it: delete that folder, then ask again; nothing was erased yet", err, dir)
		}
	}
	return nil
}

func eraseFrom(ctx context.Context, dir string, p vitals.PatientID, log zerolog.Logger) (err error) {
	s, err := embedded.Open(dir, embedded.Options{FlushEvery: -1, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.DeletePatient(ctx, p); err != nil {
		return err
	}
	return s.Purge(ctx, p)
}

func (a *App) eraseOnce(ctx context.Context, p vitals.PatientID, at *eraseProgress) error {
	res := &at.Result
	upTo, err := a.journal.Seal(ctx)
	if err != nil {
		return err
	}
	if err := a.levelAt(ctx, upTo); err != nil {
		return err
	}
	if err := a.closeAlerts(ctx, p); err != nil {
		return err
	}
	// What was remembered of the readings, while they can still be read.
	forget := func(rs []vitals.Reading) error {
		n, err := a.journal.Forget(ctx, rs)
		res.Remembered += n
		return err
	}
	var rs []vitals.Reading
	for r, err := range a.readings.Range(ctx, storage.Query{Patient: p}) {
		if err != nil {
			return err
		}
		res.Readings++
		if rs = append(rs, r); len(rs) == copyBatch {
			if err := forget(rs); err != nil {
				return err
			}
			rs = rs[:0]
		}
	}
	if err := forget(rs); err != nil {
		return err
	}
	err = a.journal.RewriteEvidence(ctx, func(e *evidence.Entry) (bool, error) {
		mine, changed, err := ingest.EraseFrom(e, p)
		if err != nil || !changed {
			return false, err
		}
		if res.Messages++; e.Kind == evidence.Cut {
			res.Shared++
		}
		return true, forget(mine)
	})
	if err != nil {
		return err
	}
	for _, id := range at.Own {
		if err := a.journal.ForgetDevice(ctx, id); err != nil {
			return err
		}
	}
	if err := a.journal.EraseRecords(ctx, upTo); err != nil {
		return err
	}
	if err := a.eraseQuarantine(ctx, p, at); err != nil {
		return err
	}
	if err := a.readings.DeletePatient(ctx, p); err != nil {
		return err
	}
	return a.store.Purge(ctx, p)
}

// levelAt waits until every consumer holds everything up to a sequence durably, and the journal knows.
func (a *App) levelAt(ctx context.Context, seq uint64) error {
	for {
		if err := a.readings.Flush(ctx); err != nil {
			return err
		}
		level := true
		for _, c := range a.consumers {
			c.Release()
			level = level && c.Durable() >= seq
		}
		if level {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// closeAlerts ends the person's open alerts: there is nobody to watch any more.
func (a *App) closeAlerts(ctx context.Context, p vitals.PatientID) error {
	open, err := a.ledger.OpenAlerts(ctx, p)
	if err != nil {
		return err
	}
	for i := range open {
		act := alerting.Action{Act: alerting.ActResolve, AlertID: open[i].ID, Actor: "erasure", Outcome: "erased"}
		err := a.monitor.Act(ctx, p, act, func(ctx context.Context, b alerting.Batch) error {
			_, err := a.ledger.Commit(ctx, ledger.Batch{Cursor: b.Cursor, Transitions: b.Transitions, Findings: b.Findings})
			return err
		})
		if err != nil && !errors.Is(err, alerting.ErrNotOpen) {
			return err
		}
	}
	return nil
}

// eraseQuarantine removes the refused messages of the person's own devices, and of shared ones those that hold a
// reading in a slot or at a time that were theirs, or that cannot be read.
func (a *App) eraseQuarantine(ctx context.Context, p vitals.PatientID, at *eraseProgress) error {
	own, shared := map[vitals.DeviceID]bool{}, map[vitals.DeviceID]bool{}
	for _, id := range at.Own {
		own[id] = true
	}
	for _, id := range at.Shared {
		shared[id] = true
	}
	for cursor := uint64(0); ; {
		items, next, err := a.journal.Quarantine(ctx, 500, cursor)
		if err != nil {
			return err
		}
		for i := range items {
			gone := own[items[i].Device]
			if shared[items[i].Device] {
				if gone, err = a.mayBeTheirs(items[i].ID); err != nil {
					return err
				}
			}
			if !gone {
				continue
			}
			switch err := a.journal.QuarantineDelete(items[i].ID); {
			case err == nil:
				at.Result.Quarantined++
			case !errors.Is(err, journal.ErrNotQuarantined):
				return err
			}
		}
		if cursor = next; next == 0 {
			return nil
		}
	}
}

// mayBeTheirs judges a refused message of a device that others use as well, now that the person is bound to none: it
// stays only when every reading in it is somebody else's.
func (a *App) mayBeTheirs(id uint64) (bool, error) {
	q, err := a.journal.QuarantineGet(id)
	if errors.Is(err, journal.ErrNotQuarantined) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	h := a.devices.Find(q.Device)
	items, err := payload.Decode(q.Format, payload.Input{Payload: q.Payload, ReceivedAt: q.At, DeviceTZ: h.Location()}, nil)
	if err != nil || len(items) == 0 {
		return true, nil
	}
	for i := range items {
		if items[i].Problem != nil {
			return true, nil
		}
		if _, ok := h.Resolve(items[i].Reading.UserSlot, items[i].Reading.TakenAt); !ok {
			return true, nil
		}
	}
	return false, nil
}
