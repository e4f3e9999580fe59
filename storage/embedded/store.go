// Package embedded keeps readings in a Pebble database of its own inside the process: the readings store for one
// machine. It owns the key order and the cursor that is stored with the readings; it does not own durability of single
// writes. It has no log: the journal is one, and after a crash the consumer replays from the recovered Cursor. The
// bytes on disk are described in docs/storage.md.
//
// Concurrency: all methods are safe for concurrent use; Write is meant for one goroutine at a time and serialises.
package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

var _ storage.Readings = (*Store)(nil)

// Defaults of Options.
const (
	DefaultCacheBytes = 32 << 20
	DefaultFlushEvery = 2 * time.Second
	memTable          = 32 << 20
)

// Options of Open. The zero value of each field means its default.
type Options struct {
	FS     vfs.FS // nil: the disk
	Logger zerolog.Logger
	// CacheBytes bounds the memory for blocks read from disk.
	CacheBytes int64
	// FlushEvery is how long written readings may stay in memory only (the journal keeps them so long); negative:
	// until Flush or until a memtable is full.
	FlushEvery time.Duration
}

var (
	// ErrClosed is what a closed store answers.
	ErrClosed = errors.New("readings store is closed")
	// ErrStuck is what Write answers while flushes fail: otherwise it would wait inside Pebble without bound, and
	// memory would fill. It passes by itself.
	ErrStuck = errors.New("readings store cannot flush to disk: free disk space or check the disk; it goes on by itself then")
)

// Store is the open store.
type Store struct {
	log  zerolog.Logger
	db   *pebble.DB
	stop chan struct{}
	wg   sync.WaitGroup

	cursor  atomic.Uint64
	durable atomic.Uint64
	from    atomic.Int64          // see CompleteFrom
	fault   atomic.Pointer[error] // set once: the store can write no more
	stuck   atomic.Bool           // the last flush failed: Pebble tries again, writes are refused meanwhile
	rest    atomic.Int64          // until when, since opened, writes are refused because a compaction failed
	opened  time.Time
	flushed chan struct{} // cap 1: a flush ended

	use    sync.RWMutex // held for reading while db is used, for writing to close it
	closed bool

	mu  sync.Mutex // one writer
	key []byte
	val []byte
}

// Keys: the first byte says what it is.
const (
	kindMeta    = 'm'
	kindReading = 'r'
)

var cursorKey = []byte{kindMeta, 'c'}

// Open opens or creates the store in dir.
func Open(dir string, o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.FlushEvery == 0 {
		o.FlushEvery = DefaultFlushEvery
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("create readings folder: %w", err)
	}
	s := &Store{log: o.Logger, opened: time.Now(), stop: make(chan struct{}), flushed: make(chan struct{}, 1)}
	var failed atomic.Bool // a flush has just failed; Pebble tells the error next
	po := &pebble.Options{
		FS:                          o.FS,
		Logger:                      &logger{s},
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		DisableWAL:                  true, // the journal is the log
		CacheSize:                   o.CacheBytes,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       100,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                512,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		EventListener: &pebble.EventListener{
			FlushEnd: func(info pebble.FlushInfo) {
				if failed.Store(info.Err != nil); info.Err == nil {
					s.stuck.Store(false)
					select {
					case s.flushed <- struct{}{}:
					default:
					}
				}
			},
			BackgroundError: func(err error) {
				before := s.Err()
				if failed.Swap(false) {
					s.stuck.Store(true) // until a flush ends well: Pebble tries it until then
				} else {
					s.rest.Store(int64(time.Since(s.opened) + restFor)) // a compaction need not be tried again
				}
				if before == nil {
					s.log.Error().Err(err).Msg("readings store cannot flush and tries again; readings wait in the journal: free disk space or check the disk")
				}
				time.Sleep(retryPause) // Pebble tries again at once
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				s.fail(fmt.Errorf("corrupt table: %w", info.Details))
			},
		},
	}
	po.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range po.Levels {
		po.Levels[i].BlockSize = 16 << 10
	}
	compactions := newScheduler()
	po.Experimental.CompactionScheduler = compactions
	db, err := pebble.Open(dir, po)
	compactions.opened.Store(true)
	if err != nil {
		return nil, fmt.Errorf("open readings store %s: %w", dir, err)
	}
	s.db = db
	cursor, err := s.storedCursor(false)
	if err == nil {
		err = s.readFrom()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.cursor.Store(cursor)
	s.durable.Store(cursor)
	s.wg.Add(1)
	go func() { defer s.wg.Done(); s.flushLoop(o.FlushEvery) }()
	return s, nil
}

const (
	retryPause   = 100 * time.Millisecond
	restFor      = time.Second
	closeTimeout = 10 * time.Second
)

func (s *Store) fail(err error) {
	err = fmt.Errorf("readings store can write no more: %w: check the disk and restart the server; the journal still has what is missing", err)
	if s.fault.CompareAndSwap(nil, &err) {
		s.log.Error().Err(err).Msg("readings store stops")
	}
}

// Err says why the store cannot write, nil while it works. It does not block.
func (s *Store) Err() error {
	if e := s.fault.Load(); e != nil {
		return *e
	}
	if s.stuck.Load() || s.rest.Load() > int64(time.Since(s.opened)) {
		return ErrStuck
	}
	return nil
}

// acquire holds the database open.
func (s *Store) acquire() error {
	s.use.RLock()
	if s.closed {
		s.use.RUnlock()
		return ErrClosed
	}
	return nil
}

// storedCursor reads the cursor; durable leaves out what is in memory only.
func (s *Store) storedCursor(durable bool) (uint64, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: cursorKey, UpperBound: []byte{kindMeta, 'd'}, OnlyReadGuaranteedDurable: durable})
	if err != nil {
		return 0, fmt.Errorf("read cursor: %w", err)
	}
	defer it.Close()
	if !it.First() {
		return 0, it.Error()
	}
	if len(it.Value()) != 8 {
		return 0, errors.New("read cursor: bad length: restore the last backup of the readings store")
	}
	return binary.BigEndian.Uint64(it.Value()), it.Error()
}

// Cursor implements storage.Readings.
func (s *Store) Cursor() uint64 { return s.cursor.Load() }

// Durable implements storage.Readings. It follows the flushes: memtables are flushed in the order they were written,
// each as a whole, so that on disk the cursor never stands before the readings it covers.
func (s *Store) Durable() uint64 { return s.durable.Load() }

// flushLoop flushes what has waited long enough and notes what has become durable.
func (s *Store) flushLoop(every time.Duration) {
	tick := make(<-chan time.Time)
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-tick:
			if s.Durable() < s.Cursor() && s.Err() == nil {
				if _, err := s.db.AsyncFlush(); err != nil {
					s.log.Warn().Err(err).Msg("readings store: flush is tried again")
				}
			}
		case <-s.flushed:
			s.noteDurable()
		case <-s.stop:
			return
		}
	}
}

func (s *Store) noteDurable() {
	c, err := s.storedCursor(true)
	if err != nil {
		s.log.Warn().Err(err).Msg("readings store: reading the durable cursor is tried again")
		return
	}
	for {
		d := s.durable.Load()
		if c <= d || s.durable.CompareAndSwap(d, c) {
			return
		}
	}
}

// Flush implements storage.Readings.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	if err := s.Err(); err != nil {
		return err
	}
	done, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush readings: %w", err)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("flush readings: waiting for the disk: %w", ctx.Err())
	}
	s.noteDurable()
	return s.Err()
}

// Write implements storage.Readings.
func (s *Store) Write(ctx context.Context, rs []vitals.Reading, cursor uint64) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	if err := errors.Join(ctx.Err(), s.Err()); err != nil {
		return fmt.Errorf("write readings: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.db.NewBatchWithSize(len(rs)*128 + 64)
	defer b.Close()
	for i := range rs {
		r := &rs[i]
		s.key = appendKey(s.key[:0], r)
		s.val = vitals.AppendReading(s.val[:0], r)
		if err := b.Set(s.key, s.val, nil); err != nil {
			return fmt.Errorf("write readings: %w", err)
		}
	}
	if cursor < s.cursor.Load() {
		cursor = s.cursor.Load() // a replay of older blocks never moves it back
	}
	if err := b.Set(cursorKey, binary.BigEndian.AppendUint64(nil, cursor), nil); err != nil {
		return fmt.Errorf("write readings: %w", err)
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return fmt.Errorf("write readings: %w", err)
	}
	s.cursor.Store(cursor)
	return s.Err()
}

// A reading's key is r · patient · 00 · indicator u8 · taken_at u64 BE with the sign bit flipped · hash u64 BE. Patient
// ids hold no 00, so no patient's range contains another's.
func appendPatient(dst []byte, p vitals.PatientID) []byte {
	dst = append(dst, kindReading)
	dst = append(dst, p...)
	return append(dst, 0)
}

func appendTime(dst []byte, p vitals.PatientID, i vitals.Indicator, t vitals.Micros) []byte {
	dst = append(appendPatient(dst, p), byte(i))
	return binary.BigEndian.AppendUint64(dst, uint64(t)^1<<63)
}

func appendKey(dst []byte, r *vitals.Reading) []byte {
	return binary.BigEndian.AppendUint64(appendTime(dst, r.Patient, r.Indicator, r.TakenAt), keyHash(r))
}

func keyHash(r *vitals.Reading) uint64 { return storage.PositionOf(r).Hash }

// PositionOf implements storage.Readings.
func (s *Store) PositionOf(r *vitals.Reading) storage.Position { return storage.PositionOf(r) }

// names shares the strings of one scan: one patient, few devices.
type names struct {
	patient vitals.PatientID
	last    string
}

func (n *names) intern(b []byte) string {
	switch {
	case string(b) == string(n.patient):
		return string(n.patient)
	case string(b) != n.last:
		n.last = string(b)
	}
	return n.last
}

// decode decodes what the iterator stands at into r.
func (n *names) decode(r *vitals.Reading, it *pebble.Iterator) error {
	v, err := it.ValueAndErr()
	if err != nil {
		return fmt.Errorf("read readings: %w", err)
	}
	if _, err := r.Decode(v, n.intern); err != nil {
		return fmt.Errorf("read readings: %w: restore the last backup of the readings store", err)
	}
	return nil
}

// errStop ends a scan whose consumer has had enough.
var errStop = errors.New("stop")

// Range implements storage.Readings. It reads from a snapshot: what is written meanwhile does not show.
func (s *Store) Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) {
		err := s.scan(ctx, q, func(r vitals.Reading) bool { return yield(r, nil) })
		if err != nil && err != errStop {
			yield(vitals.Reading{}, err)
		}
	}
}

func (s *Store) scan(ctx context.Context, q storage.Query, emit func(vitals.Reading) bool) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	indicators := []vitals.Indicator{q.Indicator}
	if q.Indicator == 0 {
		indicators = vitals.Indicators()
	}
	if q.After != nil {
		indicators = slices.DeleteFunc(slices.Clone(indicators), func(i vitals.Indicator) bool { return i < q.After.Indicator })
	}
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: appendPatient(nil, q.Patient), UpperBound: patientEnd(q.Patient)})
	if err != nil {
		return fmt.Errorf("read readings: %w", err)
	}
	defer it.Close()
	left := q.Limit
	if left <= 0 {
		left = -1
	}
	sc := scanner{ctx: ctx, it: it, q: &q, names: names{patient: q.Patient}, left: left, emit: emit}
	if q.Newest && q.Limit > 0 {
		return sc.newest(indicators)
	}
	for _, ind := range indicators {
		if err := sc.forward(ind); err != nil {
			return err
		}
	}
	return nil
}

func patientEnd(p vitals.PatientID) []byte {
	end := appendPatient(nil, p)
	end[len(end)-1] = 1
	return end
}

type scanner struct {
	ctx   context.Context
	it    *pebble.Iterator
	q     *storage.Query
	names names
	left  int // readings still wanted, -1: all
	emit  func(vitals.Reading) bool
	run   []vitals.Reading // of one instant, to be ordered by Seq
	seen  int
}

// bounds sets the iterator to the keys of one indicator.
func (sc *scanner) bounds(ind vitals.Indicator) {
	q := sc.q
	lower := appendPatient(nil, q.Patient)
	lower = append(lower, byte(ind))
	upper := append(appendPatient(nil, q.Patient), byte(ind)+1)
	from := q.From
	if a := q.After; a != nil && a.Indicator == ind {
		from = max(from, a.TakenAt)
	}
	if from != 0 || q.After != nil && q.After.Indicator == ind {
		lower = appendTime(nil, q.Patient, ind, from)
	}
	if q.To != 0 {
		upper = appendTime(nil, q.Patient, ind, q.To)
	}
	if bytes.Compare(lower, upper) > 0 {
		upper = lower
	}
	sc.it.SetBounds(lower, upper)
}

// checkEvery is how many readings pass between two looks at the context.
const checkEvery = 1024

// take puts the reading the iterator stands at, if the query wants it, at the end of the run; the run of another
// instant is given away before with give. It is decoded where it stays: there may be very many.
func (sc *scanner) take(give func() error) error {
	if sc.seen++; sc.seen%checkEvery == 0 {
		if err := sc.ctx.Err(); err != nil {
			return fmt.Errorf("read readings: %w", err)
		}
	}
	n := len(sc.run)
	sc.run = append(sc.run, vitals.Reading{})
	r := &sc.run[n]
	if err := sc.names.decode(r, sc.it); err != nil {
		return err
	}
	switch {
	case sc.q.MaxSeq != 0 && r.Seq > sc.q.MaxSeq:
		sc.run = sc.run[:n]
	case n > 0 && sc.run[0].TakenAt != r.TakenAt:
		sc.run = sc.run[:n]
		if err := give(); err != nil {
			return err
		}
		sc.run = append(sc.run, *r) // give has emptied it and left the array
	}
	return nil
}

func (sc *scanner) forward(ind vitals.Indicator) error {
	sc.bounds(ind)
	give := sc.give
	for ok := sc.it.First(); ok; ok = sc.it.Next() {
		if err := sc.take(give); err != nil {
			return err
		}
	}
	if err := sc.it.Error(); err != nil {
		return fmt.Errorf("read readings: %w", err)
	}
	return sc.give()
}

// order sorts the readings of one instant and drops those up to the page's start.
func (sc *scanner) order() {
	if len(sc.run) > 1 {
		slices.SortFunc(sc.run, bySeq)
	}
	a := sc.q.After
	if a == nil || len(sc.run) == 0 || sc.run[0].Indicator != a.Indicator || sc.run[0].TakenAt != a.TakenAt {
		return
	}
	for i := range sc.run {
		if keyHash(&sc.run[i]) == a.Hash {
			sc.run = slices.Delete(sc.run, 0, i+1)
			return
		}
	}
}

func bySeq(a, b vitals.Reading) int {
	switch {
	case a.Seq < b.Seq:
		return -1
	case a.Seq > b.Seq:
		return 1
	}
	return 0
}

// give hands out the readings of one instant.
func (sc *scanner) give() error {
	sc.order()
	for i := range sc.run {
		if sc.left == 0 || !sc.emit(sc.run[i]) {
			return errStop
		}
		if sc.left > 0 {
			sc.left--
		}
	}
	sc.run = sc.run[:0]
	if sc.left == 0 {
		return errStop
	}
	return nil
}

// newest collects the last Limit readings backwards and hands them out oldest first.
func (sc *scanner) newest(indicators []vitals.Indicator) error {
	var out []vitals.Reading // newest first
	give := func() error {
		sc.order()
		for i := len(sc.run) - 1; i >= 0 && len(out) < sc.q.Limit; i-- {
			out = append(out, sc.run[i])
		}
		sc.run = sc.run[:0]
		return nil
	}
	for _, ind := range slices.Backward(indicators) {
		sc.bounds(ind)
		for ok := sc.it.Last(); ok && len(out) < sc.q.Limit; ok = sc.it.Prev() {
			if err := sc.take(give); err != nil {
				return err
			}
		}
		if err := sc.it.Error(); err != nil {
			return fmt.Errorf("read readings: %w", err)
		}
		_ = give()
		if len(out) == sc.q.Limit {
			break
		}
	}
	for _, r := range slices.Backward(out) {
		if !sc.emit(r) {
			return errStop
		}
	}
	return nil
}

// Latest implements storage.Readings: one seek per indicator that the patient has, and a step per reading that counts no
// more.
func (s *Store) Latest(ctx context.Context, p vitals.PatientID) ([]vitals.Reading, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.use.RUnlock()
	prefix := appendPatient(nil, p)
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: prefix, UpperBound: patientEnd(p)})
	if err != nil {
		return nil, fmt.Errorf("read latest: %w", err)
	}
	defer it.Close()
	n := names{patient: p}
	var out []vitals.Reading
	for ok := it.Last(); ok; {
		var r vitals.Reading
		if err := n.decode(&r, it); err != nil {
			return nil, err
		}
		before := len(out) > 0 && out[len(out)-1].Indicator == r.Indicator // the newer ones count no more
		at := r.TakenAt
		for ok = it.Prev(); ok; ok = it.Prev() { // others of the same instant
			var o vitals.Reading
			if err := n.decode(&o, it); err != nil {
				return nil, err
			}
			if o.Indicator != r.Indicator || o.TakenAt != at {
				break
			}
			if newer(&o, &r) {
				r = o
			}
		}
		counts := r.Flags&vitals.Replaced == 0
		switch {
		case !before:
			out = append(out, r)
		case counts:
			out[len(out)-1] = r
		}
		if !counts {
			continue
		}
		ok = it.SeekLT(append(slices.Clip(prefix), byte(r.Indicator)))
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("read latest: %w", err)
	}
	slices.Reverse(out)
	return out, nil
}

// newer reports whether a, of the same instant as b, is rather the newest one.
func newer(a, b *vitals.Reading) bool {
	if x, y := a.Flags&vitals.Replaced == 0, b.Flags&vitals.Replaced == 0; x != y {
		return x
	}
	return a.Seq > b.Seq
}

// DeletePatient implements storage.Readings. It is durable when it returns.
func (s *Store) DeletePatient(ctx context.Context, p vitals.PatientID) error {
	if err := s.acquire(); err != nil {
		return err
	}
	err := errors.Join(ctx.Err(), s.Err())
	if err == nil {
		err = s.db.DeleteRange(appendPatient(nil, p), patientEnd(p), pebble.NoSync)
	}
	s.use.RUnlock()
	if err != nil {
		return fmt.Errorf("delete patient's readings: %w", err)
	}
	return s.Flush(ctx)
}

// Close makes everything durable and closes the store.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.Flush(ctx)
	if errors.Is(err, ErrClosed) {
		return nil
	}
	s.use.Lock()
	defer s.use.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.stop)
	s.wg.Wait()
	return errors.Join(err, s.db.Close())
}

// Collectors are the store's metrics; the caller registers them.
func (s *Store) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vitalwatch_store_disk_bytes", Help: "Bytes of the embedded readings store on disk."}, func() float64 {
			if s.acquire() != nil {
				return 0
			}
			defer s.use.RUnlock()
			return float64(s.db.Metrics().DiskSpaceUsage())
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vitalwatch_store_durable_seq", Help: "Sequence up to which the readings store would survive a power loss."},
			func() float64 { return float64(s.Durable()) }),
	}
}

// logger turns Pebble's "fatal" into an error of the store instead of an exit.
type logger struct{ s *Store }

func (l *logger) Infof(string, ...any) {}

func (l *logger) Errorf(format string, args ...any) {
	l.s.log.Warn().Str("pebble", fmt.Sprintf(format, args...)).Msg("readings store engine")
}

func (l *logger) Fatalf(format string, args ...any) { l.s.fail(fmt.Errorf(format, args...)) }
