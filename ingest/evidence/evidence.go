// Package evidence is the form in which messages are kept as they came: the raw bytes, where and when they came from, and
// what was found out about them at that time and cannot be found out again (whose readings they were, in which zone the
// device's clock ran, which of them were new). Messages are kept in blocks with a SHA-256. It owns the bytes; where they
// are kept, and for how long, is the journal's (ingest/journal), and what the readings in them are is the pipeline's
// (ingest).
//
// Concurrency: functions only; a Decoder is for one goroutine.
package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/s2"

	"vitalwatch/vitals"
)

// Run says that N readings in a row are of one patient.
type Run struct {
	N       int
	Patient vitals.PatientID
}

// Message is one upload as it came.
type Message struct {
	ReceivedAt vitals.Micros
	// JudgedAt is when freshness was judged: the receipt, but for a message that was replayed from quarantine.
	JudgedAt        vitals.Micros
	Device, Gateway vitals.DeviceID // Gateway "": the device itself
	Topic           string          // "": vw/v1/{Device}/up/{Format}
	Format, Source  string
	Zone            string // IANA zone of the device's clock at that time, "" for none
	// Clock is what was known of the device's clock then.
	Clock Clock
	// Items are the places in the message of the readings that were well judged, nil for 0, 1, 2 …
	Items []int
	// Patients says whose they were, in their order.
	Patients []Run
	Payload  []byte
}

// Clock is a device's clock that is, or may be, wrong; the zero value is a right one.
type Clock struct {
	// Offset is what device times within [From, To] are ahead of the true ones; 0: none is known to be.
	Offset, From, To vitals.Micros
	// Doubtful: what the device's own clock gave is not to be relied on, unless it was corrected.
	Doubtful bool
}

// Kind is what is left of a message.
type Kind uint8

// A Whole message is as it came. Of a Cut one the readings of somebody else who was in it as well are left: Payload is
// these, encoded (vitals.AppendReading). Of an Erased one nothing but its sequences is.
const (
	Whole Kind = iota
	Cut
	Erased
	kinds
)

// Entry is a message in the journal, with the readings of it that were new.
type Entry struct {
	Message
	Kind  Kind
	First uint64 // sequence of its first new reading
	Count int    // new readings; their sequences are dense
	// Fresh has one entry per well judged reading, nil when all of them were new.
	Fresh []bool
	// Sum is the wrapping sum of Checksum of the new readings as they were stored.
	Sum uint32
}

// Checksum is that of one encoded reading.
func Checksum(encoded []byte) uint32 { return crc32.Checksum(encoded, castagnoli) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The usual message needs no words for where it came from.
const (
	usualFormat = "readings"
	usualSource = "mqtt"
)

// What the first byte of a message announces.
const (
	hasOrigin   = 1 << iota // gateway, topic, format, source, zone
	hasJudgedAt             // judged_at−received_at varint
	hasItems                // one place per reading, as uvarint differences
	hasRuns                 // runs uvarint, then each: readings uvarint, patient
	hasClock                // offset, from and to varint, doubtful u8
	known       = 1<<iota - 1
)

// AppendMessage appends m as it stands in an entry. It does not allocate when dst has room.
//
//	has u8 · received_at varint · readings uvarint · device · patient, of all readings unless there are runs
//	what has announces, in the order of its bits
//	payload
//
// Strings and the payload are a uvarint length and bytes.
func AppendMessage(dst []byte, m *Message) []byte {
	var has byte
	if m.Gateway != "" || m.Topic != "" || m.Format != usualFormat || m.Source != usualSource || m.Zone != "" {
		has |= hasOrigin
	}
	if m.JudgedAt != m.ReceivedAt {
		has |= hasJudgedAt
	}
	if m.Items != nil {
		has |= hasItems
	}
	var patient vitals.PatientID
	if len(m.Patients) == 1 {
		patient = m.Patients[0].Patient
	} else {
		has |= hasRuns
	}
	if m.Clock != (Clock{}) {
		has |= hasClock
	}
	dst = append(dst, has)
	dst = binary.AppendVarint(dst, int64(m.ReceivedAt))
	dst = binary.AppendUvarint(dst, uint64(m.readings()))
	dst = appendString(dst, string(m.Device))
	dst = appendString(dst, string(patient))
	if has != 0 {
		if has&hasOrigin != 0 {
			for _, s := range [...]string{string(m.Gateway), m.Topic, m.Format, m.Source, m.Zone} {
				dst = appendString(dst, s)
			}
		}
		if has&hasJudgedAt != 0 {
			dst = binary.AppendVarint(dst, int64(m.JudgedAt-m.ReceivedAt))
		}
		if has&hasItems != 0 {
			before := 0
			for _, i := range m.Items {
				dst = binary.AppendUvarint(dst, uint64(i-before))
				before = i
			}
		}
		if has&hasRuns != 0 {
			dst = binary.AppendUvarint(dst, uint64(len(m.Patients)))
			for _, r := range m.Patients {
				dst = binary.AppendUvarint(dst, uint64(r.N))
				dst = appendString(dst, string(r.Patient))
			}
		}
		if has&hasClock != 0 {
			for _, t := range [...]vitals.Micros{m.Clock.Offset, m.Clock.From, m.Clock.To} {
				dst = binary.AppendVarint(dst, int64(t))
			}
			doubtful := byte(0)
			if m.Clock.Doubtful {
				doubtful = 1
			}
			dst = append(dst, doubtful)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Payload)))
	return append(dst, m.Payload...)
}

func (m *Message) readings() (n int) {
	for _, r := range m.Patients {
		n += r.N
	}
	return n
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// AppendEntry appends an entry to the body of a block; message is from AppendMessage, fresh(i) says whether its i-th
// well judged reading was new, of readings of them.
//
//	kind u8 · first sequence−base uvarint · count uvarint · sum u32 LE
//	0, or the number of readings uvarint and a bit for each, lowest first
//	message, length uvarint before it
func AppendEntry(dst []byte, kind Kind, base, first uint64, count int, sum uint32, readings int, fresh func(i int) bool, message []byte) []byte {
	dst = append(dst, byte(kind))
	dst = binary.AppendUvarint(dst, first-base)
	dst = binary.AppendUvarint(dst, uint64(count))
	dst = binary.LittleEndian.AppendUint32(dst, sum)
	if count == readings || kind != Whole {
		dst = append(dst, 0)
	} else {
		dst = binary.AppendUvarint(dst, uint64(readings))
		for i := 0; i < readings; i += 8 {
			var b byte
			for k := range min(8, readings-i) {
				if fresh(i + k) {
					b |= 1 << k
				}
			}
			dst = append(dst, b)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(message)))
	return append(dst, message...)
}

// Append appends e to the body of a block whose first sequence is base.
func (e *Entry) Append(dst []byte, base uint64) []byte {
	var message []byte
	if e.Kind != Erased {
		message = AppendMessage(nil, &e.Message)
	}
	readings := e.Count
	if e.Fresh != nil {
		readings = len(e.Fresh)
	}
	return AppendEntry(dst, e.Kind, base, e.First, e.Count, e.Sum, readings, func(i int) bool { return e.Fresh[i] }, message)
}

// Header is what a block says of itself.
type Header struct {
	Entries int
	Last    uint64        // sequence of its last reading
	Newest  vitals.Micros // receipt of its newest message
	Raw     int           // bytes of the body
}

// Bounds of a block's body. A block is closed when it has grown beyond BlockBytes; one message more, or what one commit
// of the journal takes at most, fits in any case.
const (
	BlockBytes = 256 << 10
	maxRaw     = 64 << 20
	blockV1    = 1
	headerLen  = 1 + 4 + 8 + 8 + 4
)

// AppendBlock appends a block with the body to dst; key is the one that it is stored under. dense takes three times as
// long and saves a tenth.
//
//	version u8 · entries u32 · last sequence u64 · newest receipt u64 · body length u32, all little endian
//	body as one S2 block · SHA-256 of key and all before
//
// S2 because it costs 0.2 µs a message of 150 bytes and leaves 35 of them; zstd's fastest level leaves 22 and costs four
// times as much (klauspost/compress 1.20.1, bodies of 600 messages).
func AppendBlock(dst, key []byte, h Header, body []byte, dense bool) []byte {
	start := len(dst)
	dst = append(dst, blockV1)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.Entries))
	dst = binary.LittleEndian.AppendUint64(dst, h.Last)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.Newest))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	at := len(dst)
	dst = slices.Grow(dst, s2.MaxEncodedLen(len(body))+sha256.Size)
	room := dst[at:cap(dst)]
	if dense {
		dst = dst[:at+len(s2.EncodeBetter(room, body))]
	} else {
		dst = dst[:at+len(s2.Encode(room, body))]
	}
	sum := blockSum(key, dst[start:])
	return append(dst, sum[:]...)
}

func blockSum(key, b []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(key)
	h.Write(b)
	h.Sum(sum[:0])
	return sum
}

// ErrDamaged is in all errors about bytes that are not a block.
var ErrDamaged = errors.New("evidence is damaged: stop the server, keep a copy of the data folder and run \"vitalwatch journal verify\"")

func damaged(why string) error { return fmt.Errorf("%w: %s", ErrDamaged, why) }

// ParseHeader reads a block's header without looking at its body.
func ParseHeader(block []byte) (Header, error) {
	if len(block) < headerLen+sha256.Size {
		return Header{}, damaged("truncated block")
	}
	if block[0] != blockV1 {
		return Header{}, damaged(fmt.Sprintf("version %d of another program release", block[0]))
	}
	h := Header{Entries: int(binary.LittleEndian.Uint32(block[1:])), Last: binary.LittleEndian.Uint64(block[5:]),
		Newest: vitals.Micros(binary.LittleEndian.Uint64(block[13:])), Raw: int(binary.LittleEndian.Uint32(block[21:]))}
	if h.Raw > maxRaw || h.Entries > h.Raw {
		return Header{}, damaged("impossible length")
	}
	return h, nil
}

// Decoder reads blocks.
type Decoder struct{ body []byte }

// Block checks a block and calls f for each of its entries, in order, until f returns an error. base is the sequence
// in its key. The entry's payload is valid within f only.
func (d *Decoder) Block(key []byte, base uint64, block []byte, f func(*Entry) error) error {
	h, err := ParseHeader(block)
	if err != nil {
		return err
	}
	end := len(block) - sha256.Size
	if sum := blockSum(key, block[:end]); !bytes.Equal(sum[:], block[end:]) {
		return damaged("its SHA-256 does not match")
	}
	if n, err := s2.DecodedLen(block[headerLen:end]); err != nil || n != h.Raw {
		return damaged("it does not unpack")
	}
	if d.body, err = s2.Decode(d.body[:cap(d.body)], block[headerLen:end]); err != nil {
		return damaged("it does not unpack")
	}
	return entries(d.body, base, h, f)
}

func entries(body []byte, base uint64, h Header, f func(*Entry) error) error {
	in := reader{b: body}
	var last uint64
	for range h.Entries {
		var e Entry
		in.entry(&e, base)
		if in.bad {
			return damaged("bad entry")
		}
		if e.First <= last {
			return damaged("entries are not in order")
		}
		last = e.First + uint64(e.Count) - 1
		if err := f(&e); err != nil {
			return err
		}
	}
	if len(in.b) != 0 || last != h.Last {
		return damaged("entries do not fit the header")
	}
	return nil
}
