package journal

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// Bounds of the quarantine.
const (
	quarantinePerDevice = 1000
	quarantineItems     = 64 << 10
	// quarantineProblems bounds what is kept of the problems of one message: 500 of them in words are a hundred times
	// the bytes that caused them.
	quarantineProblems = 20
)

// ErrNotQuarantined means that there is no such item: it was deleted, replayed, dropped or has expired.
var ErrNotQuarantined = errors.New("journal: no such quarantined item")

// Quarantined is a refused message. Problems and Payload belong to the journal once it was appended.
type Quarantined struct {
	ID       uint64            `json:"-"` // given by Append; newer items have larger ones
	At       vitals.Micros     `json:"at"`
	Device   vitals.DeviceID   `json:"device"`
	Format   string            `json:"format"`
	Source   string            `json:"source"`
	Problems []payload.Problem `json:"problems"` // the first 20
	Payload  []byte            `json:"-"`
	// Refused is how many problems there were.
	Refused int `json:"refused,omitempty"`
	// Times is how often the same bytes came from the device in the same format, 1 for once; LastAt is when they
	// last did. Resends of one bad message are one item.
	Times  int           `json:"times"`
	LastAt vitals.Micros `json:"last_at"`
	// Size is the payload's length in bytes, also in lists, which leave the payload out.
	Size int `json:"size"`
	// Hash identifies the message.
	Hash uint64 `json:"hash"`
}

// QuarantineStats says how full the quarantine is.
type QuarantineStats struct {
	Items   int
	Bytes   int64  // of payloads
	Dropped uint64 // since the start, because a bound was reached
}

// quarantineIndex is what the committer needs to keep the bounds, without the payloads.
type quarantineIndex struct {
	bound int64 // bytes
	keep  time.Duration

	mu      sync.Mutex
	items   map[uint64]*quarantineItem
	byHash  map[uint64]uint64
	oldest  []uint64                     // ids, oldest first; may hold deleted ones
	device  map[vitals.DeviceID][]uint64 // the same per device
	perDev  map[vitals.DeviceID]int
	bytes   int64
	lastID  uint64
	dropped uint64
}

type quarantineItem struct {
	device vitals.DeviceID
	size   int
	times  int
	at     vitals.Micros
	hash   uint64
}

func quarantineKey(kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, id)
}

// load reads the index of an opened generation.
func (x *quarantineIndex) load(db *pebble.DB) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.items, x.byHash, x.oldest = map[uint64]*quarantineItem{}, map[uint64]uint64{}, nil
	x.device, x.perDev, x.bytes = map[vitals.DeviceID][]uint64{}, map[vitals.DeviceID]int{}, 0
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindQuarantine}, UpperBound: []byte{kindQuarantine + 1}})
	if err != nil {
		return fmt.Errorf("read quarantine: %w", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		q, err := decodeQuarantined(it.Key(), it.Value())
		if err != nil {
			return err
		}
		x.put(&q)
	}
	return it.Error()
}

func decodeQuarantined(key, value []byte) (q Quarantined, err error) {
	if len(key) != 9 {
		return q, errors.New("read quarantine: bad key length: run \"vitalwatch journal verify\"")
	}
	q.ID = binary.BigEndian.Uint64(key[1:])
	if err := json.Unmarshal(value, &q); err != nil {
		return q, fmt.Errorf("read quarantined item %d: bad record: run \"vitalwatch journal verify\"", q.ID)
	}
	return q, nil
}

// put enters q; mu is held.
func (x *quarantineIndex) put(q *Quarantined) {
	x.items[q.ID] = &quarantineItem{q.Device, q.Size, q.Times, q.At, q.Hash}
	x.byHash[q.Hash] = q.ID
	x.oldest = append(x.oldest, q.ID)
	x.device[q.Device] = append(x.device[q.Device], q.ID)
	x.perDev[q.Device]++
	x.bytes += int64(q.Size)
	x.lastID = max(x.lastID, q.ID)
}

// add stores q in the batch, making room where needed.
func (x *quarantineIndex) add(q *Quarantined, pb *pebble.Batch, now vitals.Micros) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(string(q.Device))
	_, _ = d.Write([]byte{0})
	_, _ = d.WriteString(q.Format)
	_, _ = d.Write([]byte{0})
	_, _ = d.Write(q.Payload)
	q.Hash, q.Size, q.Times, q.LastAt = d.Sum64(), len(q.Payload), 1, q.At
	q.Refused = len(q.Problems)
	q.Problems = q.Problems[:min(len(q.Problems), quarantineProblems)]
	if id, ok := x.byHash[q.Hash]; ok {
		it := x.items[id]
		it.times++
		q.ID, q.Times, q.At = id, it.times, it.at
		return x.write(q, pb)
	}
	for x.perDev[q.Device] >= quarantinePerDevice || len(x.items) >= quarantineItems ||
		len(x.items) > 0 && x.bytes+int64(q.Size) > x.bound {
		// A device that floods displaces its own items first.
		id, ok := x.first(x.device[q.Device])
		if !ok {
			id, _ = x.first(x.oldest)
		}
		if err := x.remove(id, pb); err != nil {
			return err
		}
		x.dropped++
	}
	q.ID = max(x.lastID+1, uint64(max(now, 0)))
	x.put(q)
	if err := pb.Set(quarantineKey(kindPayload, q.ID), q.Payload, nil); err != nil {
		return err
	}
	return x.write(q, pb)
}

func (x *quarantineIndex) write(q *Quarantined, pb *pebble.Batch) error {
	v, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("encode quarantined item: %w", err)
	}
	return pb.Set(quarantineKey(kindQuarantine, q.ID), v, nil)
}

func (x *quarantineIndex) first(ids []uint64) (uint64, bool) {
	for _, id := range ids {
		if x.items[id] != nil {
			return id, true
		}
	}
	return 0, false
}

// remove deletes an item; mu is held.
func (x *quarantineIndex) remove(id uint64, pb *pebble.Batch) error {
	it := x.items[id]
	if it == nil {
		return nil
	}
	delete(x.items, id)
	delete(x.byHash, it.hash)
	x.bytes -= int64(it.size)
	x.oldest = x.live(x.oldest)
	if x.perDev[it.device]--; x.perDev[it.device] == 0 {
		delete(x.perDev, it.device)
		delete(x.device, it.device)
	} else {
		x.device[it.device] = x.live(x.device[it.device])
	}
	if err := pb.Delete(quarantineKey(kindPayload, id), nil); err != nil {
		return err
	}
	return pb.Delete(quarantineKey(kindQuarantine, id), nil)
}

// live drops deleted ids from the front, and all of them when they have become the greater part.
func (x *quarantineIndex) live(ids []uint64) []uint64 {
	for len(ids) > 0 && x.items[ids[0]] == nil {
		ids = ids[1:]
	}
	if len(ids) > 2*len(x.items)+16 {
		kept := make([]uint64, 0, len(x.items))
		for _, id := range ids {
			if x.items[id] != nil {
				kept = append(kept, id)
			}
		}
		return kept
	}
	return ids
}

// expire returns the operation that deletes what is too old, nil when there is nothing.
func (x *quarantineIndex) expire(now time.Time) func(*engine, *pebble.Batch) error {
	before := vitals.At(now).Add(-x.keep)
	x.mu.Lock()
	id, ok := x.first(x.oldest)
	due := ok && x.items[id].at < before
	x.mu.Unlock()
	if !due {
		return nil
	}
	return func(_ *engine, pb *pebble.Batch) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		for {
			id, ok := x.first(x.oldest)
			if !ok || x.items[id].at >= before {
				return nil
			}
			if err := x.remove(id, pb); err != nil {
				return err
			}
		}
	}
}

// QuarantineStats says how full the quarantine is.
func (j *Journal) QuarantineStats() QuarantineStats {
	x := &j.quarantine
	x.mu.Lock()
	defer x.mu.Unlock()
	return QuarantineStats{len(x.items), x.bytes, x.dropped}
}

// Quarantine lists items, newest first and without their payloads: at most limit of those with an id below cursor, 0
// for the newest. next is the cursor of the following page, 0 when there is none.
func (j *Journal) Quarantine(ctx context.Context, limit int, cursor uint64) (items []Quarantined, next uint64, err error) {
	e := j.engine.Load()
	e.readers.RLock()
	defer e.readers.RUnlock()
	if e.db == nil {
		return nil, 0, ErrClosed
	}
	upper := []byte{kindQuarantine + 1}
	if cursor != 0 {
		upper = quarantineKey(kindQuarantine, cursor)
	}
	it, err := e.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{kindQuarantine}, UpperBound: upper})
	if err != nil {
		return nil, 0, fmt.Errorf("list quarantine: %w", err)
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		if len(items) == limit {
			return items, items[limit-1].ID, nil
		}
		q, err := decodeQuarantined(it.Key(), it.Value())
		if err != nil {
			return nil, 0, err
		}
		items = append(items, q)
	}
	return items, 0, it.Error()
}

// QuarantineGet returns one item with its payload, or ErrNotQuarantined.
func (j *Journal) QuarantineGet(id uint64) (Quarantined, error) {
	e := j.engine.Load()
	e.readers.RLock()
	defer e.readers.RUnlock()
	if e.db == nil {
		return Quarantined{}, ErrClosed
	}
	var q Quarantined
	for _, kind := range []byte{kindQuarantine, kindPayload} {
		k := quarantineKey(kind, id)
		v, c, err := e.db.Get(k)
		switch {
		case errors.Is(err, pebble.ErrNotFound):
			return Quarantined{}, ErrNotQuarantined
		case err != nil:
			return Quarantined{}, fmt.Errorf("read quarantined item %d: %w", id, err)
		}
		if kind == kindQuarantine {
			q, err = decodeQuarantined(k, v)
		} else {
			q.Payload = append([]byte(nil), v...)
		}
		if err := errors.Join(err, c.Close()); err != nil {
			return Quarantined{}, err
		}
	}
	return q, nil
}

// deleteTimeout bounds the wait for the disk.
const deleteTimeout = 10 * time.Second

// QuarantineDelete removes an item durably, for instance after it was replayed. It returns ErrNotQuarantined when
// there is none.
func (j *Journal) QuarantineDelete(id uint64) error {
	x := &j.quarantine
	x.mu.Lock()
	_, ok := x.items[id]
	x.mu.Unlock()
	if !ok {
		return ErrNotQuarantined
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	return j.append(ctx, &Group{}, func(_ *engine, pb *pebble.Batch) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.remove(id, pb)
	})
}
