package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// patient measures what one idle patient costs: the record, a device bound to it, and the engine's state after a
// few readings of four indicators, with the general pack and one condition. It runs in this process, because the
// collector must be asked before the heap is read.
func (b *bench) patient(ctx context.Context) error {
	n := int(20_000*b.cmd.Scale) + 100
	dir := filepath.Join(b.base, "patient")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	db, err := sqlite.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	people, err := care.Open(ctx, db)
	if err != nil {
		return err
	}
	reg, err := devices.Open(ctx, db, people)
	if err != nil {
		return err
	}
	packs, err := loadPacks(DefaultConfig())
	if err != nil {
		return err
	}
	rules, err := packs.Compile([]string{"type2_diabetes"})
	if err != nil {
		return err
	}
	before := heap()
	name := deviceName("idle")
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for w := range 16 { // registrations share transactions
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				if _, err := reg.Register(ctx, vitals.DeviceID(name(i)), []string{"type2_diabetes"}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	records := heap()
	patients := make([]*alerting.Patient, 0, n)
	var out alerting.Decisions
	at := vitals.At(time.Now())
	for i := range n {
		p := alerting.NewPatient(vitals.PatientID("P-"+name(i)), rules)
		for k, r := range []struct {
			indicator vitals.Indicator
			unit      vitals.Unit
			values    []float64
		}{{vitals.Glucose, vitals.MmolL, []float64{6.1}}, {vitals.HeartRate, vitals.PerMin, []float64{72}}, {vitals.SpO2, vitals.Percent, []float64{97}},
			{vitals.BloodPressure, vitals.MmHg, []float64{124, 81}}, {vitals.Glucose, vitals.MmolL, []float64{6.4}}, {vitals.HeartRate, vitals.PerMin, []float64{74}}} {
			x := vitals.Reading{Patient: p.ID(), Device: vitals.DeviceID(name(i)), Indicator: r.indicator, Unit: r.unit,
				TakenAt: at + vitals.Micros(k)*vitals.Minute, ReceivedAt: at + vitals.Micros(k)*vitals.Minute}
			for c, v := range r.values {
				x.V[c], x.Has = v, x.Has|1<<c
			}
			p.Observe(&x, &out)
		}
		p.Tick(at+vitals.Hour, &out)
		patients = append(patients, p)
	}
	engine := heap()
	runtime.KeepAlive(patients)
	runtime.KeepAlive(reg)
	b.row("memory per idle patient with rules", fmt.Sprintf("%d B (records of patient and device %d B, engine %d B)",
		(engine-before)/int64(n), (records-before)/int64(n), (engine-records)/int64(n)), "2 KB", "500 B")
	return nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
