package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/alecthomas/kong"

	"vitalwatch/care"
	"vitalwatch/storage"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// PatientExportCmd writes one person's readings.
type PatientExportCmd struct {
	registryFlags
	ID     string    `arg:"" help:"Patient id."`
	Format string    `enum:"jsonl,csv" default:"jsonl" help:"jsonl: a line per reading as in the API; csv: a line per value, with a header."`
	From   time.Time `placeholder:"T" help:"First time of measurement (RFC 3339), inclusive."`
	To     time.Time `placeholder:"T" help:"Last time of measurement (RFC 3339), exclusive."`
}

type exportArgs struct {
	Patient vitals.PatientID `json:"patient"`
	Format  string           `json:"format"`
	From    vitals.Micros    `json:"from"`
	To      vitals.Micros    `json:"to"`
	File    string           `json:"file"`
}

type exportResult struct {
	Readings int `json:"readings"`
}

// Run writes them to stdout. The server that has the store open writes them to a file of the data folder first.
func (c *PatientExportCmd) Run(k *kong.Context) (err error) {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	args := exportArgs{Patient: vitals.PatientID(c.ID), Format: c.Format, From: micros(c.From), To: micros(c.To)}
	if args.To != 0 && args.To <= args.From {
		return misused("--to: write a time after --from")
	}
	data, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return err
	}
	o, err := newOperation(opExport, args, "")
	if err != nil {
		return err
	}
	args.File = filepath.Join(data, "export-"+o.ID)
	if o.Args, err = json.Marshal(args); err != nil {
		return err
	}
	defer func() {
		if e := os.Remove(args.File); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	var res exportResult
	if err := request(cfg, o, k.Stderr, &res); err != nil {
		return fmt.Errorf("export patient %s: %w", c.ID, err)
	}
	f, err := os.Open(args.File)
	if err != nil {
		return fmt.Errorf("read what the server wrote: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(k.Stdout, f); err != nil {
		return err
	}
	fmt.Fprintf(k.Stderr, "%d readings\n", res.Readings)
	return nil
}

func (a *App) exportToFile(ctx context.Context, o *operation) (res exportResult, err error) {
	var args exportArgs
	if err := json.Unmarshal(o.Args, &args); err != nil {
		return res, err
	}
	if _, ok := a.people.Find(args.Patient); !ok {
		return res, fmt.Errorf("%w: see vitalwatch patient list", care.ErrNotFound)
	}
	if err := web.Record(ctx, a.db, o.By, "patient.export", string(args.Patient), o.ID); err != nil {
		return res, err
	}
	f, err := os.OpenFile(args.File, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return res, err
	}
	w := bufio.NewWriter(f)
	n, err := web.Export(w, args.Format, a.readings.Range(ctx, storage.Query{Patient: args.Patient, From: args.From, To: args.To}))
	res.Readings = n
	if err := errors.Join(err, w.Flush(), f.Close()); err != nil {
		return res, errors.Join(err, os.Remove(args.File))
	}
	return res, nil
}
