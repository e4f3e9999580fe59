package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// memTable bounds what a restart replays: three tables of it at most (one being written, two being flushed).
const (
	memTable      = 32 << 20
	memTableStop  = 3
	cacheBytes    = 8 << 20
	syncPipelined = 1 // batches that may be built while one is synced
)

// engine is one generation: one Pebble instance with the state that belongs to its contents. It is replaced by a new
// one after a full disk. Its fields are the committer's alone, unless they say otherwise.
type engine struct {
	j      *Journal
	fs     *fenceFS
	db     *pebble.DB
	kick   chan struct{}  // cap 1: something is pending
	built  chan *batch    // from the committer to the syncer
	idle   sync.WaitGroup // committer and syncer
	stop   chan struct{}  // closed: no more batches
	dead   chan struct{}  // closed: fenced
	broken bool           // Pebble panicked: its locks are held for ever

	readers sync.RWMutex // held for reading while db is used outside the committer; for writing to close it

	base     uint64        // last when the generation was opened; constant
	last     uint64        // sequence of the last reading numbered
	number   uint64        // of the batch written last, from 1
	synced   atomic.Uint64 // number of the newest synced batch
	trimmed  uint64        // first sequence not trimmed
	trimmedA atomic.Uint64 // what all consumers were past at the last trim
	sealed   atomic.Uint64 // copy of seen.sealed
	seen     seen
	record   []byte
	key      []byte
	sums     []uint32 // evidence.Checksum of the batch's new readings
	evidence blockWriter
	sealNow  bool // with the batch being built
}

func (j *Journal) pebbleOptions(fs *fenceFS, onFault func(fault)) *pebble.Options {
	o := &pebble.Options{
		FS:                          fs,
		Logger:                      &pebbleLogger{j.o.Logger, onFault},
		FormatMajorVersion:          pebble.FormatTableFormatV6, // has FormatWALSyncChunks: a hole in the middle of the log is told from a torn end
		CacheSize:                   cacheBytes,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: memTableStop,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       200,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                512,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		EventListener: &pebble.EventListener{
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				onFault(fault{"read", "", fmt.Errorf("corrupt table: %w", info.Details)})
			},
			BackgroundError: func(err error) {
				if !fs.fenced.Load() {
					j.o.Logger.Warn().Err(err).Msg("journal: background work failed and is tried again")
				}
			},
		},
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range o.Levels {
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// openEngine opens a generation on the folder and reads where the log ends.
func (j *Journal) openEngine() (*engine, error) {
	fs := &fenceFS{FS: j.o.FS, dir: j.o.FS.PathJoin(j.dir)}
	e := &engine{j: j, fs: fs, kick: make(chan struct{}, 1),
		built: make(chan *batch, syncPipelined), stop: make(chan struct{}), dead: make(chan struct{}),
		seen: newSeen()}
	fs.onFault = func(f fault) { j.onFault(e, f) }
	onFault := func(f fault) { e.fault(f.op, f.err) }
	fs.onFull = j.onFull
	fs.onSync = j.metrics.observeSync
	if err := checkNewestLog(j.o.FS, j.dir); err != nil {
		return nil, err
	}
	db, err := pebble.Open(j.dir, j.pebbleOptions(fs, onFault))
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w: stop the server, keep a copy of the data folder and run \"vitalwatch journal verify\"", j.dir, err)
	}
	e.db = db
	err = e.load()
	if err == nil && fs.fenced.Load() {
		err = fmt.Errorf("open journal %s: %w", j.dir, j.Err())
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	e.idle.Add(2)
	return e, nil
}

// load reads the ends of the log and the quarantine.
func (e *engine) load() error {
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindRecord}, UpperBound: []byte{kindRecord + 1}})
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	defer it.Close()
	e.trimmed = 1
	if it.First() {
		first, _, _, err := checkRecord(it.Key(), it.Value())
		if err != nil {
			return err
		}
		e.trimmed = first
		it.Last()
		first, count, _, err := checkRecord(it.Key(), it.Value())
		if err != nil {
			return err
		}
		e.last = first + uint64(count) - 1
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	e.base = e.last
	if err := e.seen.load(e.db); err != nil {
		return err
	}
	e.sealed.Store(e.seen.sealed)
	if e.seen.sealed > e.last { // its record was erased: the index carries the numbering
		e.last, e.base, e.trimmed = e.seen.sealed, e.seen.sealed, e.seen.sealed+1
	}
	return e.j.quarantine.load(e.db)
}

// commitLoop builds one batch after the other.
func (e *engine) commitLoop() {
	defer e.idle.Done()
	defer close(e.built)
	for {
		select {
		case <-e.kick:
		case <-e.dead:
			return
		case <-e.stop:
			if b := e.j.take(e); b != nil && e.build(b) {
				e.built <- b
			}
			return
		}
		// Who is about to append joins this batch: with few connections 5 % less CPU a reading, and shorter answers.
		runtime.Gosched()
		for b := e.j.take(e); b != nil; b = e.j.take(e) {
			if !e.build(b) {
				return
			}
			e.built <- b
		}
	}
}

func (e *engine) wake() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// syncLoop waits for the fsync of each batch in order.
func (e *engine) syncLoop() {
	defer e.idle.Done()
	for b := range e.built {
		if b.pb != nil {
			err := b.pb.SyncWait()
			if err != nil {
				e.fault("sync", err)
				continue // its memory is left alone
			}
			e.synced.Store(b.number)
			_ = b.pb.Close() // gives its buffer back; cannot fail after SyncWait
			b.pb = nil
		}
		e.j.publish(e, b)
	}
}

func (e *engine) fault(op string, err error) {
	if e.fs.fenced.CompareAndSwap(false, true) {
		e.j.onFault(e, fault{op, "", err})
	}
}

// build decides, numbers and encodes the batch and gives it to Pebble. It reports false when the generation is over.
func (e *engine) build(b *batch) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			// Pebble panics when its log cannot be written; its locks stay held.
			e.broken, ok = true, false
			e.fault("write", fmt.Errorf("log: %v", p))
		}
	}()
	pb := e.db.NewBatch()
	err := e.fill(b, pb)
	if err = errors.Join(err, e.seen.end()); err != nil {
		e.fault("read", err)
		return false
	}
	if pb.Empty() {
		_ = pb.Close()
		return true
	}
	e.number++
	b.number = e.number
	if err := pb.LogData(appendMark(e.key[:0], e.number, e.synced.Load()), nil); err != nil { // last in the batch
		e.fault("write", err)
		return false
	}
	e.j.metrics.bytes.Add(float64(pb.Len()))
	if err := e.db.ApplyNoSyncWait(pb, pebble.Sync); err != nil {
		e.fault("write", err)
		return false
	}
	b.pb = pb
	return !e.fs.fenced.Load()
}

func (e *engine) fill(b *batch, pb *pebble.Batch) error {
	for _, op := range b.ops {
		if err := op(e, pb); err != nil {
			return err
		}
	}
	e.seen.begin()
	for i := range b.readings {
		r := &b.readings[i]
		v, err := e.seen.accept(e.db, pb, r, b.replaces(i))
		if err != nil {
			return err
		}
		b.verdicts = append(b.verdicts, v)
		r.Seq = 0
		if v == New {
			e.last++
			r.Seq = e.last
			b.fresh = append(b.fresh, *r)
		}
	}
	if err := e.records(b.fresh, pb); err != nil {
		return err
	}
	if err := e.seen.seal(pb, e.last, e.sealNow); err != nil {
		return err
	}
	e.sealNow = false
	e.sealed.Store(e.seen.sealed)
	if err := e.keep(b, pb); err != nil {
		return err
	}
	for i := range b.quarantine {
		if err := e.j.quarantine.add(&b.quarantine[i], pb, vitals.At(e.j.o.Now())); err != nil {
			return err
		}
	}
	return nil
}

// records packs the new readings into records.
func (e *engine) records(rs []vitals.Reading, pb *pebble.Batch) error {
	e.sums = e.sums[:0]
	for len(rs) > 0 {
		e.key = recordKey(e.key[:0], rs[0].Seq)
		e.record = startRecord(e.record[:0])
		n := 0
		for n < len(rs) && n < recordMax && len(e.record) < recordBytes {
			start := len(e.record)
			e.record = vitals.AppendReading(e.record, &rs[n])
			e.sums = append(e.sums, evidence.Checksum(e.record[start:]))
			n++
		}
		e.record = endRecord(e.record, e.key, n)
		if err := pb.Set(e.key, e.record, nil); err != nil {
			return err
		}
		rs = rs[n:]
	}
	return nil
}

// readDisk reads a block that has left the tail.
func (j *Journal) readDisk(ctx context.Context, after, last uint64) (Block, error) {
	e, done, err := j.hold()
	if err != nil {
		return Block{}, err
	}
	defer done()
	it, err := e.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{kindRecord}, UpperBound: []byte{kindRecord + 1}})
	if err != nil {
		return Block{}, fmt.Errorf("read journal: %w", err)
	}
	defer it.Close()
	b := Block{First: after + 1}
	names := interner{}
	var rs []vitals.Reading
	for ok := it.SeekLT(recordKey(nil, after+2)); ok && len(b.Readings) < blockMax && b.First+uint64(len(b.Readings)) <= last; ok = it.Next() {
		if rs, err = decodeRecord(rs[:0], it.Key(), it.Value(), names.intern); err != nil {
			return Block{}, err
		}
		want := b.First + uint64(len(b.Readings))
		if rs[0].Seq > want || rs[len(rs)-1].Seq < want {
			return Block{}, &CorruptionError{want, "is missing"}
		}
		rs = rs[want-rs[0].Seq:]
		if over := rs[len(rs)-1].Seq; over > last {
			rs = rs[:uint64(len(rs))-(over-last)]
		}
		b.Readings = append(b.Readings, rs...)
	}
	if err := it.Error(); err != nil {
		return Block{}, fmt.Errorf("read journal: %w", err)
	}
	if len(b.Readings) == 0 {
		if it.First() {
			if first := binary.BigEndian.Uint64(it.Key()[1:]); first > after+1 {
				return Block{}, fmt.Errorf("%w: wanted %d, the first kept is %d", ErrTrimmed, after+1, first)
			}
		} else if it.Error() == nil && e.sealed.Load() > after {
			return Block{}, fmt.Errorf("%w: wanted %d, none is kept", ErrTrimmed, after+1)
		}
		return Block{}, &CorruptionError{after + 1, "is missing"}
	}
	return b, nil
}

// shut ends the generation in order: what is pending is committed, unless it is fenced.
func (e *engine) shut() error {
	close(e.stop)
	done := make(chan struct{})
	go func() { e.idle.Wait(); close(done) }()
	select {
	case <-done:
	case <-e.dead:
	}
	if e.fs.fenced.Load() {
		e.abandon()
		return nil
	}
	return e.closeDB()
}

func (e *engine) closeDB() error {
	e.readers.Lock()
	defer e.readers.Unlock()
	db := e.db
	e.db = nil
	return db.Close()
}

// abandon frees what can be freed of a fenced generation. After a panic, or while a write waits inside Pebble for a
// flush that cannot happen, Pebble's locks are held for ever: then its memory is lost until the process ends.
func (e *engine) abandon() {
	go func() {
		e.idle.Wait()
		if e.broken {
			return
		}
		defer func() { _ = recover() }() // Pebble may find its own state inconsistent; nothing reaches the disk
		_ = e.closeDB()                  // it can only say that it is fenced
	}()
}
