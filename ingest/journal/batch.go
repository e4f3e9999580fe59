package journal

import (
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/vitals"
)

// Bounds of one batch. A group beyond them waits for the next batch; alone it is taken at any size.
const (
	batchReadings = 16384
	batchBytes    = 8 << 20 // of text that is not ids: extras, messages as they came, quarantined payloads
)

// batch is what is committed together. Callers fill it under Journal.mu until the committer takes it; then it is the
// committer's until done is closed, after which the callers read their part. It is reused when the last one has left.
type batch struct {
	readings   []vitals.Reading
	quarantine []Quarantined
	replace    []span    // of groups that replace
	messages   []Message // their places are those in readings, their bytes those of raw
	raw        []byte
	ops        []func(*engine, *pebble.Batch) error
	bytes      int
	taken      chan struct{} // closed when no more can be added
	done       chan struct{} // closed when err and verdicts are final

	// Set by the committer.
	verdicts []Verdict
	fresh    []vitals.Reading // the new ones, in order
	pb       *pebble.Batch    // nil when there was nothing to write
	number   uint64           // in the log of its generation, 0 when there was nothing to write
	err      error

	finished atomic.Bool // who turns it to true closes done
	refs     atomic.Int32
}

// span is one caller's part.
type span struct{ first, last, quarantine int }

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch() *batch {
	b := batches.Get().(*batch)
	b.taken, b.done = make(chan struct{}), make(chan struct{})
	b.refs.Store(1)
	b.finished.Store(false)
	return b
}

// unref gives the memory back when neither a caller nor the committer looks at it any more.
func (b *batch) unref() {
	if b.refs.Add(-1) != 0 {
		return
	}
	if cap(b.readings) > 4*batchReadings || cap(b.raw) > 4*batchBytes {
		return
	}
	clear(b.messages)
	b.messages, b.raw = b.messages[:0], b.raw[:0]
	clear(b.readings)
	clear(b.quarantine)
	clear(b.ops)
	clear(b.fresh)
	b.readings, b.quarantine, b.ops, b.fresh, b.verdicts = b.readings[:0], b.quarantine[:0], b.ops[:0], b.fresh[:0], b.verdicts[:0]
	b.replace = b.replace[:0]
	b.bytes, b.number, b.err = 0, 0, nil
	batches.Put(b)
}

func (b *batch) empty() bool { return len(b.readings)+len(b.quarantine)+len(b.ops) == 0 }

func (b *batch) hasRoom(readings, bytes int) bool {
	return b.empty() || len(b.readings)+readings <= batchReadings && b.bytes+bytes <= batchBytes
}

func (b *batch) add(g *Group, bytes int, op func(*engine, *pebble.Batch) error) span {
	s := span{len(b.readings), len(b.readings) + len(g.Readings), len(b.quarantine)}
	b.readings = append(b.readings, g.Readings...)
	b.quarantine = append(b.quarantine, g.Quarantine...)
	for _, m := range g.Messages {
		at := len(b.raw)
		b.raw = append(b.raw, m.Bytes...) // where it grows, the messages before stay in the old array
		b.messages = append(b.messages, Message{m.First + s.first, m.Last + s.first, m.At, b.raw[at:]})
	}
	if g.Replace {
		b.replace = append(b.replace, s)
	}
	if op != nil {
		b.ops = append(b.ops, op)
	}
	b.bytes += bytes
	b.refs.Add(1)
	return s
}

// replaces reports whether reading i is of a group that replaces.
func (b *batch) replaces(i int) bool {
	for _, s := range b.replace {
		if i >= s.first && i < s.last {
			return true
		}
	}
	return false
}

// sizeOf counts what readings carry beyond their fixed size.
func sizeOf(g *Group) int {
	n := 0
	for i := range g.Readings {
		if x := g.Readings[i].Extra; x != nil {
			n += len(x.DeviceReadingID) + len(x.Context) + len(x.Aside) + len(x.OtherFlags) + len(x.Revision) + len(x.Clock)
		}
	}
	for i := range g.Quarantine {
		n += len(g.Quarantine[i].Payload)
	}
	for i := range g.Messages {
		n += len(g.Messages[i].Bytes)
	}
	return n
}
