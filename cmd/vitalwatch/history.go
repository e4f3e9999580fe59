package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// historyWait bounds the wait for a store that works and is only a moment behind: the monitor stands still meanwhile,
// with all that coaches do.
const historyWait = 500 * time.Millisecond

// maxHistory bounds what one indicator of one person costs when the engine's state is rebuilt: 34 days of a CGM
// sensor, almost three hours of a value each second. Rules look back minutes on what comes that often.
const maxHistory = 10_000

// history reads what the engine looks back on: from the local readings store, and what that does not have yet from the
// journal. So a store that cannot be written holds up nobody's alerts.
func (a *App) history(ctx context.Context, p vitals.PatientID, i vitals.Indicator, from vitals.Micros, seq uint64, dst []vitals.Reading) ([]vitals.Reading, error) {
	if err := a.awaitStore(ctx, seq); err != nil {
		return dst, err
	}
	at := min(a.store.Cursor(), seq)
	if at > 0 { // as MaxSeq, 0 would mean all
		for r, err := range a.store.Range(ctx, storage.Query{Patient: p, Indicator: i, From: from, MaxSeq: at, Newest: true, Limit: maxHistory}) {
			if err != nil {
				return dst, err
			}
			dst = append(dst, r)
		}
	}
	if at == seq {
		a.behind.forget()
		return dst, nil
	}
	rs, err := a.behind.readings(ctx, a.journal, p, at, seq)
	for k := range rs {
		if rs[k].Indicator == i && rs[k].TakenAt >= from {
			dst = append(dst, rs[k])
		}
	}
	return dst, err
}

// awaitStore waits until the local store has come as far as seq, or does not move.
func (a *App) awaitStore(ctx context.Context, seq uint64) error {
	begin, at := time.Now(), a.store.Cursor()
	// Where it stood still once, nobody waits again.
	for at < seq && a.store.Err() == nil && at+1 != a.behind.stillAt.Load() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
		if now := a.store.Cursor(); now == at && time.Since(begin) > historyWait {
			a.behind.stillAt.Store(at + 1)
		} else {
			at = now
		}
	}
	return nil
}

// maxBehind bounds the memory for what the store does not have: a million readings or so.
const maxBehind = 64 << 20

// behind holds, encoded, the readings of the journal that the local store does not have, by patient: the journal is
// read once for everybody, not once for each. The zero value is empty.
type behind struct {
	mu       sync.Mutex
	from, to uint64 // sequences: after from, up to to
	size     int
	of       map[vitals.PatientID][]byte
	stillAt  atomic.Uint64 // the store's cursor + 1 when waiting for it was in vain; 0: never
}

// blocks is the journal to be read.
type blocks interface {
	Next(ctx context.Context, after uint64) (journal.Block, error)
}

// readings returns the readings of a patient with sequences after after up to upTo, in order.
func (b *behind) readings(ctx context.Context, j blocks, p vitals.PatientID, after, upTo uint64) ([]vitals.Reading, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What the store has by now is dropped when it is most of it: reading on again is cheaper than looking through all.
	if b.of == nil || after < b.from || after > b.to || after-b.from > max(100_000, (b.to-b.from)/2) {
		b.from, b.to, b.size, b.of = after, after, 0, map[vitals.PatientID][]byte{}
	}
	for b.to < upTo {
		if b.size > maxBehind {
			return nil, fmt.Errorf("the readings store is %d readings behind the alerts, more than fit in memory: see why it cannot be written", upTo-after)
		}
		block, err := j.Next(ctx, b.to)
		if err != nil {
			return nil, fmt.Errorf("read what the readings store does not have: %w", err)
		}
		for k := range block.Readings {
			r := &block.Readings[k]
			was := b.of[r.Patient]
			now := vitals.AppendReading(was, r)
			b.size += len(now) - len(was)
			b.of[r.Patient] = now
		}
		b.to = block.Last()
	}
	var out []vitals.Reading
	for rest := b.of[p]; len(rest) > 0; {
		r, next, err := vitals.DecodeReading(rest, nil)
		if err != nil {
			return nil, err // cannot be: it was encoded here
		}
		if rest = next; r.Seq > after && r.Seq <= upTo {
			out = append(out, r)
		}
	}
	return out, nil
}

// forget frees the memory: the store has everything again.
func (b *behind) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of, b.size = nil, 0
}
