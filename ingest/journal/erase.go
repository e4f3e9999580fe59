package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// What is here removes one person. Whoever calls it has made sure that no reading of theirs comes any more, and calls,
// in this order: Seal; Forget and RewriteEvidence; EraseRecords, once all consumers are past; Wipe. Every step may be
// repeated.

// Seal writes the whole index of what was seen to disk, so that Forget finds it there, and returns the sequence up to
// which it reaches.
func (j *Journal) Seal(ctx context.Context) (uint64, error) {
	var sealed uint64
	err := j.append(ctx, &Group{}, func(e *engine, _ *pebble.Batch) error {
		e.sealNow = true
		sealed = e.last // of the batches before this one
		return nil
	})
	return sealed, err
}

// forgetAtOnce bounds what one commit forgets: others wait for it.
const forgetAtOnce = 512

// Forget removes readings from the index of what was seen: sent again, they would be new. It returns how many entries
// it removed.
func (j *Journal) Forget(ctx context.Context, rs []vitals.Reading) (int, error) {
	n := 0
	for part := range slices.Chunk(rs, forgetAtOnce) {
		err := j.append(ctx, &Group{}, func(e *engine, pb *pebble.Batch) (err error) {
			k, err := forget(e.db, pb, part)
			n += k
			return err
		})
		if err != nil {
			return n, fmt.Errorf("forget readings: %w", err)
		}
	}
	return n, nil
}

// seenEntry is one entry of a run.
type seenEntry struct {
	taken   vitals.Micros
	content uint64
}

func forget(db *pebble.DB, pb *pebble.Batch, rs []vitals.Reading) (n int, err error) {
	lanes := map[lane]map[seenEntry]bool{}
	drop := func(key []byte) error {
		ok, err := has(db, key)
		if !ok || err != nil {
			return err
		}
		return pb.Delete(key, nil)
	}
	for i := range rs {
		r := &rs[i]
		id := identityOf(r)
		k := id.singleKey()
		if err := drop(k[:]); err != nil {
			return n, err
		}
		if r.Extra != nil && r.Extra.DeviceReadingID != "" {
			k := idKeyOf(id.device, r.Extra.DeviceReadingID)
			if err := drop(k[:]); err != nil {
				return n, err
			}
		}
		l := lane{id.device, id.ind}
		if lanes[l] == nil {
			lanes[l] = map[seenEntry]bool{}
		}
		lanes[l][seenEntry{id.taken, id.content}] = true
	}
	n = int(pb.Count())
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindRun}, UpperBound: []byte{kindRun + 1}})
	if err != nil {
		return n, err
	}
	defer it.Close()
	for l, gone := range lanes {
		left := map[vitals.Micros]vitals.Micros{}
		k, err := forgetRuns(it, pb, l, gone, left)
		if n += k; err == nil && k > 0 {
			err = raiseMark(db, it, pb, l, gone, left)
		}
		if err != nil {
			return n, err
		}
	}
	return n, it.Error()
}

// nothingLeft stands for the newest time of a run that is gone.
const nothingLeft = vitals.Micros(math.MinInt64)

// raiseMark keeps true what new readings are taken for new without a look-up by: that no single is newer than its
// lane's newest run. left has the newest times of the runs that were changed, by those before.
func raiseMark(db *pebble.DB, runs *pebble.Iterator, pb *pebble.Batch, l lane, gone map[seenEntry]bool, left map[vitals.Micros]vitals.Micros) error {
	prefix := runKey(nil, l, 0)[:runTimeAt]
	mark := nothingLeft
	for ok := runs.SeekLT(prefixEnd(prefix)); ok && bytes.HasPrefix(runs.Key(), prefix) && mark == nothingLeft; ok = runs.Prev() {
		mark = timeOf(binary.BigEndian.Uint64(runs.Key()[runTimeAt:]))
		if now, changed := left[mark]; changed {
			mark = now
		}
	}
	prefix[0] = kindSingle
	singles, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return err
	}
	defer singles.Close()
	for ok := singles.Last(); ok; ok = singles.Prev() {
		k := singles.Key()
		if len(k) != singleKeyLen {
			return errors.New("index key of bad length")
		}
		e := seenEntry{timeOf(binary.BigEndian.Uint64(k[runTimeAt:])), binary.BigEndian.Uint64(k[runTimeAt+8:])}
		if e.taken <= mark {
			break
		}
		if gone[e] {
			continue
		}
		if err := pb.Delete(bytes.Clone(k), nil); err != nil {
			return err
		}
		return pb.Set(runKey(nil, l, e.taken), encodeEntries([]seenEntry{e}), nil)
	}
	return singles.Error()
}

// prefixEnd is the first key after all with the prefix.
func prefixEnd(prefix []byte) []byte {
	return append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, singleKeyLen)...)
}

// forgetRuns rewrites the runs of a lane without the entries that go, and notes in newest what that does to their
// newest times.
func forgetRuns(it *pebble.Iterator, pb *pebble.Batch, l lane, gone map[seenEntry]bool, newest map[vitals.Micros]vitals.Micros) (n int, err error) {
	takens := make([]vitals.Micros, 0, len(gone))
	for e := range gone {
		takens = append(takens, e.taken)
	}
	slices.Sort(takens)
	prefix := runKey(nil, l, 0)[:runTimeAt]
	for len(takens) > 0 {
		// The run that can hold the oldest of them is the first whose newest is not older.
		if !it.SeekGE(runKey(nil, l, takens[0])) || !bytes.HasPrefix(it.Key(), prefix) {
			return n, it.Error()
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return n, err
		}
		var left []seenEntry
		removed := 0
		if err := eachInRun(it.Key(), v, func(taken vitals.Micros, content uint64) bool {
			if e := (seenEntry{taken, content}); gone[e] {
				removed++
			} else {
				left = append(left, e)
			}
			return true
		}); err != nil {
			return n, err
		}
		end := timeOf(binary.BigEndian.Uint64(it.Key()[runTimeAt:]))
		if n += removed; removed > 0 {
			newest[end] = nothingLeft
			if len(left) > 0 {
				newest[end] = left[0].taken
			}
			if err := pb.Delete(bytes.Clone(it.Key()), nil); err != nil {
				return n, err
			}
			if len(left) > 0 {
				if err := pb.Set(runKey(nil, l, left[0].taken), encodeEntries(left), nil); err != nil {
					return n, err
				}
			}
		}
		i, _ := slices.BinarySearch(takens, end+1)
		takens = takens[i:]
	}
	return n, nil
}

// encodeEntries is encodeRun for entries that are in a row already, newest first.
func encodeEntries(es []seenEntry) []byte {
	dst := []byte{sealedV1}
	for i, e := range es {
		if i > 0 {
			dst = binary.AppendUvarint(dst, uint64(es[i-1].taken-e.taken))
		}
		dst = binary.LittleEndian.AppendUint64(dst, e.content)
	}
	return dst
}

// ForgetDevice removes everything that is remembered of a device.
func (j *Journal) ForgetDevice(ctx context.Context, id vitals.DeviceID) error {
	hash := xxhash.Sum64String(string(id))
	err := j.append(ctx, &Group{}, func(e *engine, pb *pebble.Batch) error {
		for _, kind := range []byte{kindRun, kindSingle, kindID} {
			from := binary.BigEndian.AppendUint64([]byte{kind}, hash)
			to := binary.BigEndian.AppendUint64([]byte{kind}, hash+1)
			if hash+1 == 0 {
				to = []byte{kind + 1}
			}
			if err := pb.DeleteRange(from, to, nil); err != nil {
				return err
			}
		}
		for l, m := range e.seen.lanes {
			if l.device == hash && m.head == 0 {
				delete(e.seen.lanes, l)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget device: %w", err)
	}
	return nil
}

// RewriteEvidence calls f for every message that is kept, in order, until it returns an error, and keeps the entry as f
// has left it when f returns true: its kind, its message and its sum may be changed, not its sequences. It holds up
// packing and expiry, not intake.
func (j *Journal) RewriteEvidence(ctx context.Context, f func(*evidence.Entry) (changed bool, err error)) error {
	j.evidence.mu.Lock()
	defer j.evidence.mu.Unlock()
	e, done, err := j.hold()
	if err != nil {
		return err
	}
	defer done()
	it, err := e.db.NewIterWithContext(ctx, evidenceBounds())
	if err != nil {
		return fmt.Errorf("rewrite evidence: %w", err)
	}
	defer it.Close()
	var d evidence.Decoder
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("rewrite evidence: %w", err)
		}
		var blocks [][2][]byte
		set := func(key, value []byte) error {
			blocks = append(blocks, [2][]byte{bytes.Clone(key), bytes.Clone(value)})
			return nil
		}
		w := blockWriter{dense: true}
		any := false
		err := eachEntry(&d, it, func(x *evidence.Entry) error {
			at := x.ReceivedAt
			changed, err := f(x)
			any = any || changed
			if err != nil {
				return err
			}
			return w.addAt(x, at, set)
		})
		if err != nil {
			return err
		}
		if !any {
			continue
		}
		if err := w.flush(set); err != nil {
			return err
		}
		key := bytes.Clone(it.Key())
		err = j.append(ctx, &Group{}, func(_ *engine, pb *pebble.Batch) error { return replaceBlocks(pb, [][]byte{key}, blocks, nil) })
		if err != nil {
			return fmt.Errorf("rewrite evidence: %w", err)
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("rewrite evidence: %w", err)
	}
	return nil
}

// ErrNotPast means that a consumer may still ask for what is to be erased.
var ErrNotPast = errors.New("journal: a consumer is not past what is to be erased")

// EraseRecords removes the readings up to a sequence that Seal returned and that all consumers are past, and empties
// the memory of recent readings.
func (j *Journal) EraseRecords(ctx context.Context, upTo uint64) error {
	if min(j.consumers.past(), j.engine.Load().sealed.Load()) < upTo {
		return ErrNotPast
	}
	err := j.append(ctx, &Group{}, func(e *engine, pb *pebble.Batch) error {
		if e.trimmed > upTo {
			return nil
		}
		if err := pb.DeleteRange(recordKey(nil, 0), recordKey(nil, upTo+1), nil); err != nil {
			return err
		}
		e.trimmed = upTo + 1
		return nil
	})
	if err != nil {
		return fmt.Errorf("erase records: %w", err)
	}
	j.tailMu.Lock()
	j.tail.reset()
	j.tailMu.Unlock()
	return nil
}

// Wipe makes what was deleted before it gone from the journal's files: tables are rewritten without it, and the logs
// that had it are removed instead of being used again. It takes as long as reading and writing the whole journal.
func (j *Journal) Wipe(ctx context.Context) error {
	e, done, err := j.hold()
	if err != nil {
		return err
	}
	defer done()
	e.fs.wiping.Store(true)
	defer e.fs.wiping.Store(false)
	if err := e.db.Compact(ctx, []byte{0}, []byte{0xff}, false); err != nil {
		return fmt.Errorf("wipe the journal: %w", err)
	}
	for range memTableStop + 2 { // logs that wait to be used again, and the present one
		flushed, err := e.db.AsyncFlush()
		if err != nil {
			return fmt.Errorf("wipe the journal: %w", err)
		}
		select {
		case <-flushed:
		case <-ctx.Done():
			return fmt.Errorf("wipe the journal: %w", ctx.Err())
		}
	}
	return nil
}
