package journal

import (
	"unsafe"

	"vitalwatch/vitals"
)

// Block is a run of readings with dense sequences. It is immutable and shared: do not change the readings.
type Block struct {
	First    uint64 // sequence of Readings[0]
	Readings []vitals.Reading
}

// Last is the sequence of the block's last reading.
func (b Block) Last() uint64 { return b.First + uint64(len(b.Readings)) - 1 }

// blockMax is the most readings Next returns at once.
const blockMax = 4096

const readingBytes = int(unsafe.Sizeof(vitals.Reading{}))

// tail keeps the newest readings in memory, so that a consumer that is level needs no disk. Readings are appended to
// segments and never moved or changed, so a block is just a part of a segment: one copy serves all consumers, and a
// consumer that is somewhat behind gets many batches at once. Its owner locks it.
type tail struct {
	segments []segment // oldest first; dense
	bound    int       // bytes
	next     int       // readings in the next segment
}

type segment struct {
	first    uint64
	readings []vitals.Reading // len grows up to cap
}

const segmentMin = 64

// append adds readings; their sequences follow the last one.
func (t *tail) append(rs []vitals.Reading) {
	for len(rs) > 0 {
		n := len(t.segments)
		if n == 0 || len(t.segments[n-1].readings) == cap(t.segments[n-1].readings) {
			t.next = min(max(2*t.next, segmentMin), blockMax)
			t.segments = append(t.segments, segment{rs[0].Seq, make([]vitals.Reading, 0, t.next)})
			t.shrink()
			n = len(t.segments)
		}
		s := &t.segments[n-1]
		k := min(len(rs), cap(s.readings)-len(s.readings))
		s.readings = append(s.readings, rs[:k]...)
		rs = rs[k:]
	}
}

func (t *tail) shrink() {
	size := 0
	for i := len(t.segments) - 1; i >= 0; i-- {
		size += cap(t.segments[i].readings) * readingBytes
		if size > t.bound && i < len(t.segments)-1 {
			t.segments = append(t.segments[:0], t.segments[i+1:]...)
			clear(t.segments[len(t.segments):cap(t.segments)])
			return
		}
	}
}

// find returns the block that starts at seq.
func (t *tail) find(seq uint64) (Block, bool) {
	for i := len(t.segments) - 1; i >= 0; i-- {
		s := &t.segments[i]
		if seq < s.first {
			continue
		}
		if at := seq - s.first; at < uint64(len(s.readings)) {
			return Block{seq, s.readings[at:len(s.readings):len(s.readings)]}, true
		}
		return Block{}, false
	}
	return Block{}, false
}

func (t *tail) reset() { t.segments, t.next = nil, 0 }
