package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// EvidenceOptions say how long messages are kept as they came.
type EvidenceOptions struct {
	// Keep is how long; 0: none are kept from now on, and what is there stays.
	Keep time.Duration
	// MaxBytes bounds what they take on disk, oldest out first; 0: no bound.
	MaxBytes int64
}

// Message is what the readings [First, Last) of a group came in, in the form of evidence.AppendMessage.
type Message struct {
	First, Last int
	At          vitals.Micros // receipt
	Bytes       []byte
}

// evidenceState is about the blocks of all generations.
type evidenceState struct {
	// mu is held by whoever changes blocks that are there: packing, expiry, erasing. New ones come beside it.
	mu      sync.Mutex
	looked  time.Time    // when the size was last looked at; mu
	used    atomic.Int64 // bytes on disk
	dropped atomic.Uint64
}

// How the housekeeping works on evidence.
const (
	// Commits of a quiet hour hold one message each, which packs badly: packAt small blocks become one.
	smallBlock  = 4 << 10 // bytes of the body
	packAt      = 256
	packMost    = 64 << 10 // blocks looked at in one round
	expireMost  = 16 << 10 // blocks removed in one round
	lookAtUsage = 30 * time.Second
)

func evidenceKey(dst []byte, first uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kindEvidence), first)
}

// blockWriter packs entries into blocks; the committer's, or the housekeeping's own.
type blockWriter struct {
	dense bool
	body  []byte
	h     evidence.Header
	first uint64 // of the block begun
	key   []byte
	block []byte
}

func (w *blockWriter) reset() { w.body, w.h, w.first = w.body[:0], evidence.Header{}, 0 }

// begin makes room for an entry that starts at seq and returns the sequence that it is relative to.
func (w *blockWriter) begin(seq uint64, set func(key, value []byte) error) (base uint64, err error) {
	if len(w.body) >= evidence.BlockBytes {
		err = w.flush(set)
	}
	if w.h.Entries == 0 {
		w.first = seq
	}
	return w.first, err
}

// ended notes the entry that was appended to the body.
func (w *blockWriter) ended(last uint64, at vitals.Micros) {
	w.h.Entries++
	w.h.Last, w.h.Newest = last, max(w.h.Newest, at)
}

func (w *blockWriter) flush(set func(key, value []byte) error) error {
	if w.h.Entries == 0 {
		return nil
	}
	w.key = evidenceKey(w.key[:0], w.first)
	w.block = evidence.AppendBlock(w.block[:0], w.key, w.h, w.body, w.dense)
	w.reset()
	return set(w.key, w.block)
}

// keep stores the messages of the batch that had a new reading, in blocks of the same commit.
func (e *engine) keep(b *batch, pb *pebble.Batch) error {
	if len(b.messages) == 0 || len(b.fresh) == 0 {
		return nil
	}
	w := &e.evidence
	w.reset()
	set := func(key, value []byte) error { return pb.Set(key, value, nil) }
	begin := b.fresh[0].Seq
	for i := range b.messages {
		m := &b.messages[i]
		var first uint64
		var sum uint32
		count := 0
		for k := m.First; k < m.Last; k++ {
			if b.verdicts[k] != New {
				continue
			}
			seq := b.readings[k].Seq
			if count == 0 {
				first = seq
			}
			sum += e.sums[seq-begin]
			count++
		}
		if count == 0 {
			continue
		}
		base, err := w.begin(first, set)
		if err != nil {
			return err
		}
		w.body = evidence.AppendEntry(w.body, evidence.Whole, base, first, count, sum, m.Last-m.First,
			func(k int) bool { return b.verdicts[m.First+k] == New }, m.Bytes)
		w.ended(first+uint64(count)-1, m.At)
	}
	return w.flush(set)
}

// hold returns the present generation held open; done must be called.
func (j *Journal) hold() (e *engine, done func(), err error) {
	e = j.engine.Load()
	e.readers.RLock()
	for e.db == nil && j.engine.Load() != e { // it was replaced after a full disk
		e.readers.RUnlock()
		e = j.engine.Load()
		e.readers.RLock()
	}
	if e.db == nil {
		e.readers.RUnlock()
		return nil, nil, ErrClosed
	}
	return e, e.readers.RUnlock, nil
}

// ErrNoEvidence means that the message of a reading is not kept: it is older than evidence is kept, or was erased.
var ErrNoEvidence = errors.New("journal: the message of this reading is not kept any more")

var errFound = errors.New("found")

// EvidenceOf returns the message in which the reading with a sequence came. It is the caller's.
func (j *Journal) EvidenceOf(ctx context.Context, seq uint64) (found evidence.Entry, err error) {
	e, done, err := j.hold()
	if err != nil {
		return found, err
	}
	defer done()
	it, err := e.db.NewIterWithContext(ctx, evidenceBounds())
	if err != nil {
		return found, fmt.Errorf("read evidence: %w", err)
	}
	defer it.Close()
	if !it.SeekLT(evidenceKey(nil, seq+1)) {
		return found, errors.Join(it.Error(), ErrNoEvidence)
	}
	err = eachEntry(new(evidence.Decoder), it, func(x *evidence.Entry) error {
		if seq < x.First || seq >= x.First+uint64(x.Count) || x.Kind == evidence.Erased {
			return nil
		}
		found = *x
		found.Payload = bytes.Clone(x.Payload)
		return errFound
	})
	switch {
	case err == errFound:
		return found, nil
	case err != nil:
		return found, err
	}
	return found, ErrNoEvidence
}

func evidenceBounds() *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: []byte{kindEvidence}, UpperBound: []byte{kindEvidence + 1}}
}

// eachEntry reads the block that the iterator stands at.
func eachEntry(d *evidence.Decoder, it *pebble.Iterator, f func(*evidence.Entry) error) error {
	if len(it.Key()) != recordKeyLen {
		return fmt.Errorf("%w: bad key", evidence.ErrDamaged)
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return fmt.Errorf("read evidence: %w", err)
	}
	return d.Block(it.Key(), binary.BigEndian.Uint64(it.Key()[1:]), v, f)
}

// Evidence calls f for every message that is kept and has a reading at or after from, in the order of the sequences,
// until f returns an error. It shows what was kept when it began. The entry's payload is valid within f only.
func (j *Journal) Evidence(ctx context.Context, from uint64, f func(*evidence.Entry) error) error {
	e, done, err := j.hold()
	if err != nil {
		return err
	}
	defer done()
	it, err := e.db.NewIterWithContext(ctx, evidenceBounds())
	if err != nil {
		return fmt.Errorf("read evidence: %w", err)
	}
	defer it.Close()
	var d evidence.Decoder
	ok := it.SeekLT(evidenceKey(nil, from+1))
	if !ok {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read evidence: %w", err)
		}
		err := eachEntry(&d, it, func(x *evidence.Entry) error {
			if x.First+uint64(x.Count) <= from {
				return nil
			}
			return f(x)
		})
		if err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read evidence: %w", err)
	}
	return nil
}

// tendEvidence is one round of housekeeping: what is too old or too much goes, small blocks are put together. Each
// step commits by itself.
func (j *Journal) tendEvidence(ctx context.Context, e *engine, now time.Time) error {
	x := &j.evidence
	if !x.mu.TryLock() {
		return nil // somebody erases, which takes longer than a round
	}
	defer x.mu.Unlock()
	if j.o.Evidence.Keep > 0 {
		var spare int64
		if now.Sub(x.looked) >= lookAtUsage {
			x.looked = now
			used, err := e.db.EstimateDiskUsage([]byte{kindEvidence}, []byte{kindEvidence + 1})
			if err != nil {
				return fmt.Errorf("size of the evidence: %w", err)
			}
			x.used.Store(int64(used))
			if b := j.o.Evidence.MaxBytes; b > 0 && int64(used) > b {
				spare = int64(used) - b + b/100
			}
		}
		if err := j.expireEvidence(ctx, e, vitals.At(now.Add(-j.o.Evidence.Keep)), spare); err != nil {
			return err
		}
	}
	return j.packEvidence(ctx, e)
}

// expireEvidence removes the oldest blocks: those whose newest message came before an instant, and beyond them as many
// as take spare bytes.
func (j *Journal) expireEvidence(ctx context.Context, e *engine, before vitals.Micros, spare int64) error {
	it, err := e.db.NewIterWithContext(ctx, evidenceBounds())
	if err != nil {
		return fmt.Errorf("expire evidence: %w", err)
	}
	closed := false
	end := func() error {
		if closed {
			return nil
		}
		closed = true
		return it.Close()
	}
	defer end()
	var from, to []byte
	dropped := uint64(0)
	n := 0
	for ok := it.First(); ok && n < expireMost; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("expire evidence: %w", err)
		}
		h, err := evidence.ParseHeader(v)
		if err != nil {
			return err
		}
		if h.Newest >= before {
			if spare <= 0 {
				break
			}
			dropped += uint64(h.Entries)
		}
		spare -= int64(len(v))
		if from == nil {
			from = bytes.Clone(it.Key())
		}
		to = append(append(to[:0], it.Key()...), 0)
		n++
	}
	if err := errors.Join(it.Error(), end()); err != nil || n == 0 {
		return err
	}
	if err := j.append(ctx, &Group{}, func(_ *engine, pb *pebble.Batch) error { return pb.DeleteRange(from, to, nil) }); err != nil {
		return err
	}
	if dropped > 0 {
		j.evidence.dropped.Add(dropped)
		j.o.Logger.Warn().Uint64("messages", dropped).Int64("max_bytes", j.o.Evidence.MaxBytes).
			Msg("evidence takes more room than it may: the oldest messages were removed before their time")
	}
	return nil
}

// packEvidence puts small blocks together. Its place survives a restart, so that nothing is read twice.
func (j *Journal) packEvidence(ctx context.Context, e *engine) error {
	packed, err := packedTo(e.db)
	if err != nil {
		return err
	}
	it, err := e.db.NewIterWithContext(ctx, evidenceBounds())
	if err != nil {
		return fmt.Errorf("pack evidence: %w", err)
	}
	defer it.Close()
	var run [][]byte // keys of small blocks in a row
	raw, looked := 0, 0
	mark := packed
	for ok := it.SeekGE(evidenceKey(nil, packed+1)); ok && looked < packMost; ok = it.Next() {
		looked++
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("pack evidence: %w", err)
		}
		h, err := evidence.ParseHeader(v)
		if err != nil {
			return err
		}
		small := h.Raw < smallBlock
		if small {
			run = append(run, bytes.Clone(it.Key()))
			raw += h.Raw
		}
		if (!small || raw >= evidence.BlockBytes) && len(run) > 1 || len(run) >= packAt {
			last := mark
			if small || len(run) > 0 {
				last = binary.BigEndian.Uint64(run[len(run)-1][1:])
			}
			if err := j.packRun(ctx, e, run, last); err != nil {
				return err
			}
			run, raw, mark = run[:0], 0, last
		} else if !small {
			run, raw = run[:0], 0
		}
		if !small {
			mark = binary.BigEndian.Uint64(it.Key()[1:])
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("pack evidence: %w", err)
	}
	if mark-packed > 1<<16 { // large blocks only: remember now and then that they need no look any more
		return j.append(ctx, &Group{}, func(_ *engine, pb *pebble.Batch) error { return setPacked(pb, mark) })
	}
	return nil
}

func packedTo(db *pebble.DB) (uint64, error) {
	v, c, err := db.Get([]byte{kindPacked})
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("pack evidence: %w", err)
	}
	defer c.Close()
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: bad place of packing", evidence.ErrDamaged)
	}
	return binary.BigEndian.Uint64(v), nil
}

func setPacked(pb *pebble.Batch, seq uint64) error {
	return pb.Set([]byte{kindPacked}, binary.BigEndian.AppendUint64(nil, seq), nil)
}

// packRun puts the blocks under keys together and moves the place of packing to seq.
func (j *Journal) packRun(ctx context.Context, e *engine, keys [][]byte, seq uint64) error {
	var blocks [][2][]byte
	set := func(key, value []byte) error {
		blocks = append(blocks, [2][]byte{bytes.Clone(key), bytes.Clone(value)})
		return nil
	}
	w := blockWriter{dense: true}
	var d evidence.Decoder
	for _, k := range keys {
		v, c, err := e.db.Get(k)
		if err != nil {
			return fmt.Errorf("pack evidence: %w", err)
		}
		err = d.Block(k, binary.BigEndian.Uint64(k[1:]), v, func(x *evidence.Entry) error { return w.add(x, set) })
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	if err := w.flush(set); err != nil {
		return err
	}
	return j.append(ctx, &Group{}, func(_ *engine, pb *pebble.Batch) error { return replaceBlocks(pb, keys, blocks, &seq) })
}

func (w *blockWriter) add(x *evidence.Entry, set func(key, value []byte) error) error {
	return w.addAt(x, x.ReceivedAt, set)
}

// addAt adds an entry that may have lost its time of receipt.
func (w *blockWriter) addAt(x *evidence.Entry, at vitals.Micros, set func(key, value []byte) error) error {
	base, err := w.begin(x.First, set)
	if err != nil {
		return err
	}
	w.body = x.Append(w.body, base)
	w.ended(x.First+uint64(x.Count)-1, at)
	return nil
}

// replaceBlocks puts new blocks in the place of old ones, in one commit.
func replaceBlocks(pb *pebble.Batch, keys [][]byte, blocks [][2][]byte, packed *uint64) error {
	for _, k := range keys {
		if err := pb.Delete(k, nil); err != nil {
			return err
		}
	}
	for _, b := range blocks { // after the deletions: the first has the key of the first of them
		if err := pb.Set(b[0], b[1], nil); err != nil {
			return err
		}
	}
	if packed == nil {
		return nil
	}
	return setPacked(pb, *packed)
}

// EvidenceStats says how much is kept.
type EvidenceStats struct {
	Bytes   int64  // on disk, looked at every half minute
	Dropped uint64 // messages removed before their time since the start, because of MaxBytes
}

// EvidenceStats says how much is kept.
func (j *Journal) EvidenceStats() EvidenceStats {
	return EvidenceStats{j.evidence.used.Load(), j.evidence.dropped.Load()}
}
