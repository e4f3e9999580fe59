package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"vitalwatch/vitals"
)

// SyncMode says when the journal syncs; contract section 2, journal.sync.
type SyncMode string

// SyncAlways syncs before every acknowledgement: the only mode there is now.
const SyncAlways SyncMode = "always"

// Defaults of Options.
const (
	DefaultTailBytes       = 16 << 20
	DefaultHeadRoom        = 256 << 20
	DefaultQuarantineBytes = 256 << 20
	DefaultQuarantineKeep  = 30 * 24 * time.Hour
)

// Options of Open. The zero value of each field means its default.
type Options struct {
	FS     vfs.FS // nil: the disk
	Logger zerolog.Logger
	Sync   SyncMode // "" is SyncAlways
	// TailBytes bounds the memory for recent readings.
	TailBytes int
	// HeadRoom is the free disk space in bytes below which appends are refused, so that Pebble still has room to
	// flush, to compact and to trim.
	HeadRoom uint64
	// QuarantineBytes bounds the payloads in quarantine, all devices together.
	QuarantineBytes int64
	// QuarantineKeep is how long items stay.
	QuarantineKeep time.Duration
	// Consumers are registered before anything is trimmed.
	Consumers []string
	// Evidence says how long messages are kept as they came.
	Evidence EvidenceOptions
	Now      func() time.Time // nil: time.Now
}

// Verdict says what Append did with one reading.
type Verdict uint8

// A New reading was stored and has its Seq. A Duplicate is stored already: it is to be acknowledged. A Conflict has
// the device reading id of another stored reading: it was not stored as a reading.
const (
	New Verdict = iota
	Duplicate
	Conflict
)

// Group is what one caller wants to be durable together. The caller owns it and may reuse it as soon as Append has
// returned, whatever it returned, except what the Quarantined items point to: those belong to the journal.
type Group struct {
	// Readings must be well formed (see vitals.AppendReading) and their strings immutable. Append sets Seq of the
	// New ones.
	Readings []vitals.Reading
	// Verdicts is filled by Append, one per reading.
	Verdicts []Verdict
	// Quarantine is stored in the same sync. Append gives each item its ID.
	Quarantine []Quarantined
	// Messages are what the readings came in, in their order; those with a New reading are kept as evidence.
	Messages []Message
	// Replace says that the readings are corrections, and that the caller has looked up what they correct: each is New,
	// and its device reading id is its own from now on.
	Replace bool
	// OnConflict, when set, gives the quarantine item for the reading at index i, whose verdict is Conflict. It runs
	// in the caller's goroutine within Append, which then makes the items durable with a second commit; a crash in
	// between is harmless, as nothing was acknowledged. Without it the caller quarantines conflicts itself.
	OnConflict func(i int) Quarantined
}

// Reset empties the group for reuse.
func (g *Group) Reset() {
	clear(g.Readings)
	clear(g.Quarantine)
	clear(g.Messages)
	g.Readings, g.Verdicts, g.Quarantine, g.Messages = g.Readings[:0], g.Verdicts[:0], g.Quarantine[:0], g.Messages[:0]
	g.Replace = false
}

// What Append answers while it cannot write; test with errors.Is.
var (
	// ErrFull: free disk space is below the head-room. It passes by itself once there is space.
	ErrFull = errors.New("journal: disk is full: free disk space; accepting goes on by itself then")
	// ErrFenced: a write or an fsync failed, and what the disk holds of it is unknown.
	ErrFenced = errors.New("journal: fenced after a disk error")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("journal: closed")
	// ErrTrimmed: a consumer asked for readings that were trimmed.
	ErrTrimmed = errors.New("journal: readings were trimmed: the consumer's store is older than the journal; restore both from one backup")
	// ErrAhead: a consumer has seen more than the journal holds.
	ErrAhead = errors.New("journal: the consumer is ahead of the journal, which has lost its end; restore both from one backup")
)

// Journal is the open journal.
type Journal struct {
	o       Options
	dir     string
	lock    io.Closer
	metrics *metrics
	closing chan struct{}
	wg      sync.WaitGroup

	engine   atomic.Pointer[engine] // the present generation
	status   atomic.Pointer[status] // nil while everything works
	statusMu sync.Mutex             // held to change status
	free     atomic.Uint64          // bytes, ^0 when not known
	used     atomic.Uint64          // bytes
	noSpace  atomic.Bool            // a table could not be written since the last look

	mu       sync.Mutex
	pending  *batch
	inflight []*batch // taken and not finished, oldest first
	closed   bool

	tailMu sync.Mutex // guards the publishing of synced batches
	tail   tail
	last   uint64        // newest published sequence
	notify chan struct{} // closed at the next publication; nil when nobody waits
	lastA  atomic.Uint64 // copy of last

	consumers  consumers
	quarantine quarantineIndex
	evidence   evidenceState
	holds      atomic.Int32 // while not 0, nothing is trimmed
}

// status is why appends are refused.
type status struct {
	err         error
	recoverable bool // fenced, but a new generation may be opened once there is space
}

// Open opens or creates the journal in dir. An incomplete record at the end of the log, which was never acknowledged,
// is dropped; any other damage is an error.
func Open(dir string, o Options) (*Journal, error) {
	if o.Sync != "" && o.Sync != SyncAlways {
		return nil, fmt.Errorf("journal: sync mode %q is not known: use %q", o.Sync, SyncAlways)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.TailBytes == 0 {
		o.TailBytes = DefaultTailBytes
	}
	if o.HeadRoom == 0 {
		o.HeadRoom = DefaultHeadRoom
	}
	if o.QuarantineBytes == 0 {
		o.QuarantineBytes = DefaultQuarantineBytes
	}
	if o.QuarantineKeep == 0 {
		o.QuarantineKeep = DefaultQuarantineKeep
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("create journal folder: %w", err)
	}
	lock, err := o.FS.Lock(o.FS.PathJoin(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("lock journal %s: %w: is another server running on this data folder?", dir, err)
	}
	j := &Journal{o: o, dir: dir, lock: lock, metrics: newMetrics(), closing: make(chan struct{})}
	j.tail.bound = o.TailBytes
	j.consumers.init(o.Consumers)
	j.quarantine.bound, j.quarantine.keep = o.QuarantineBytes, o.QuarantineKeep
	j.pending = newBatch()
	e, err := j.openEngine()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	j.last = e.last
	j.lastA.Store(e.last)
	j.engine.Store(e)
	j.start(e)
	j.checkSpace()
	j.wg.Add(1)
	go func() { defer j.wg.Done(); j.housekeep() }()
	return j, nil
}

func (j *Journal) start(e *engine) {
	// These two are not waited for by Close when their generation is fenced: Pebble may hold them for ever.
	go e.commitLoop()
	go e.syncLoop()
	e.wake() // what was added while there was no committer
}

// Last is the sequence of the newest durable reading, 0 when there is none.
func (j *Journal) Last() uint64 { return j.lastA.Load() }

// Err says why the journal refuses to write, with the next step; nil while it works. It does not block.
func (j *Journal) Err() error {
	if s := j.status.Load(); s != nil {
		return s.err
	}
	return nil
}

// Append makes the group durable, together with the groups of other callers. When it returns nil, every reading has
// its verdict and everything is synced. On an error nothing of the group may be acknowledged; it may have been stored
// all the same, so that a resend is a Duplicate. It waits no longer than ctx.
func (j *Journal) Append(ctx context.Context, g *Group) error {
	g.Verdicts = g.Verdicts[:0]
	if err := j.append(ctx, g, nil); err != nil {
		return err
	}
	if g.OnConflict == nil {
		return nil
	}
	var conflicts Group
	for i, v := range g.Verdicts {
		if v == Conflict {
			conflicts.Quarantine = append(conflicts.Quarantine, g.OnConflict(i))
		}
	}
	return j.append(ctx, &conflicts, nil)
}

// UndecidedError is what Append returns when its context ended while the group was on its way to the disk: it may have
// become durable all the same, and nobody may be told that it has.
type UndecidedError struct {
	b   *batch
	s   span
	err error // of the context
}

func (u *UndecidedError) Error() string {
	return "journal append: waiting for the disk: " + u.err.Error()
}

// Unwrap gives the context's error.
func (u *UndecidedError) Unwrap() error { return u.err }

// After calls f once, in a goroutine of its own, with the verdicts when the group has become durable after all; never
// when it has not. They are valid during the call. After is called at most once.
func (u *UndecidedError) After(f func([]Verdict)) {
	go func() { // ends with the batch, which ends with the generation at the latest
		<-u.b.done
		if u.b.err == nil {
			f(u.b.verdicts[u.s.first:u.s.last])
			u.b.unref()
		}
	}()
}

// append commits the group, and runs op in the committer, before the group's own items; both may be empty.
func (j *Journal) append(ctx context.Context, g *Group, op func(*engine, *pebble.Batch) error) error {
	if len(g.Readings)+len(g.Quarantine) == 0 && op == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("journal append: %w", err)
	}
	if j.o.Evidence.Keep == 0 {
		g.Messages = g.Messages[:0]
	}
	bytes := sizeOf(g)
	var b *batch
	var s span
	for b == nil {
		// Trimming and deleting free space, so they go on while the disk is full.
		if err := j.Err(); err != nil && (op == nil || !errors.Is(err, ErrFull)) {
			return err
		}
		j.mu.Lock()
		if j.closed {
			j.mu.Unlock()
			return ErrClosed
		}
		p := j.pending
		if !p.hasRoom(len(g.Readings), bytes) {
			j.mu.Unlock()
			select {
			case <-p.taken:
			case <-ctx.Done():
				return fmt.Errorf("journal append: waiting for the disk: %w", ctx.Err())
			}
			continue
		}
		s = p.add(g, bytes, op)
		b = p
		j.mu.Unlock()
	}
	j.engine.Load().wake()
	select {
	case <-b.done:
	case <-ctx.Done():
		return &UndecidedError{b, s, ctx.Err()} // which keeps its part of the batch
	}
	defer b.unref()
	if b.err != nil {
		return b.err
	}
	g.Verdicts = append(g.Verdicts, b.verdicts[s.first:s.last]...)
	for i := s.first; i < s.last; i++ {
		g.Readings[i-s.first].Seq = b.readings[i].Seq
	}
	for i := range g.Quarantine {
		g.Quarantine[i].ID = b.quarantine[s.quarantine+i].ID
	}
	return nil
}

// Next returns a block that starts at after+1; it waits until there is one. At most 4,096 readings come at once.
func (j *Journal) Next(ctx context.Context, after uint64) (Block, error) {
	for {
		j.tailMu.Lock()
		last := j.last
		if after < last {
			b, ok := j.tail.find(after + 1)
			j.tailMu.Unlock()
			if ok {
				return b, nil
			}
			return j.readDisk(ctx, after, last)
		}
		if j.notify == nil {
			j.notify = make(chan struct{})
		}
		wait := j.notify
		j.tailMu.Unlock()
		if after > last {
			return Block{}, fmt.Errorf("%w: the consumer is at %d, the journal ends at %d", ErrAhead, after, last)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return Block{}, ctx.Err()
		case <-j.closing:
			return Block{}, ErrClosed
		}
	}
}

// publish makes a synced batch visible to consumers and wakes its callers.
func (j *Journal) publish(e *engine, b *batch) {
	j.tailMu.Lock()
	if e.fs.fenced.Load() || !b.finished.CompareAndSwap(false, true) {
		j.tailMu.Unlock()
		return
	}
	if len(b.fresh) > 0 {
		j.tail.append(b.fresh)
		j.last = b.fresh[len(b.fresh)-1].Seq
		j.lastA.Store(j.last)
		if j.notify != nil {
			close(j.notify)
			j.notify = nil
		}
	}
	j.tailMu.Unlock()
	j.mu.Lock()
	j.inflight = without(j.inflight, b)
	j.mu.Unlock()
	j.metrics.groups.Observe(float64(len(b.verdicts)))
	close(b.done)
	b.unref()
}

// take gives the committer of e what is pending; nil when there is nothing.
func (j *Journal) take(e *engine) *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pending.empty() || j.engine.Load() != e || e.fs.fenced.Load() {
		return nil
	}
	b := j.pending
	j.pending = newBatch()
	j.inflight = append(j.inflight, b)
	close(b.taken)
	return b
}

// failAll tells every waiting caller err.
func (j *Journal) failAll(err error) {
	j.tailMu.Lock() // not while a batch is being published
	j.mu.Lock()
	all := append(j.inflight, j.pending)
	close(j.pending.taken)
	j.inflight, j.pending = nil, newBatch()
	var failed []*batch
	for _, b := range all {
		if b.finished.CompareAndSwap(false, true) {
			failed = append(failed, b)
		}
	}
	j.mu.Unlock()
	j.tailMu.Unlock()
	for _, b := range failed {
		b.err = err
		close(b.done) // its memory is left to the collector: the committer may still be in it
	}
}

// Close waits for what is in flight, bounded by the disk, and closes the log. Appends and consumers get ErrClosed.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	close(j.closing)
	j.wg.Wait()
	err := j.engine.Load().shut()
	j.setStatus(&status{err: ErrClosed})
	j.failAll(ErrClosed)
	return errors.Join(err, j.lock.Close())
}

func without(bs []*batch, b *batch) []*batch {
	for i, x := range bs {
		if x == b {
			copy(bs[i:], bs[i+1:])
			bs[len(bs)-1] = nil
			return bs[:len(bs)-1]
		}
	}
	return bs
}
