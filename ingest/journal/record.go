package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"

	"vitalwatch/vitals"
)

// The first byte of every key says what it is. See docs/storage.md.
const (
	kindID         = 'i' // device hash, id hash ▸ where its reading stands
	kindRun        = 'd' // device hash, indicator, newest taken_at ▸ run of seen readings
	kindSingle     = 'e' // device hash, indicator, taken_at, content hash ▸ nothing
	kindRecord     = 'j' // first sequence ▸ record
	kindPayload    = 'p' // quarantine id ▸ payload
	kindQuarantine = 'q' // quarantine id ▸ everything but the payload
	kindEvidence   = 'v' // first sequence ▸ block of messages as they came
	kindPacked     = 'w' // ▸ sequence up to which small blocks are put together
	kindSealed     = 's' // ▸ sequence up to which readings are in runs and singles
)

const (
	recordV1      = 1
	recordMax     = 512      // readings in one record
	recordBytes   = 64 << 10 // a record is closed when it has grown beyond this
	recordKeyLen  = 9
	recordTrailer = 4
	runKeyLen     = 18
	runTimeAt     = 10 // where taken_at stands in the key of a run or a single
	singleKeyLen  = 26
	idKeyLen      = 17
	idValueLen    = 18 // or 0, as earlier releases wrote it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func recordKey(dst []byte, first uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kindRecord), first)
}

// orderedTime maps a time to bytes that sort like it, also before 1970.
func orderedTime(m vitals.Micros) uint64 { return uint64(m) ^ 1<<63 }

func timeOf(o uint64) vitals.Micros { return vitals.Micros(o ^ 1<<63) }

// identity is what makes a reading the same reading.
type identity struct {
	device  uint64 // hash of the device id
	content uint64 // hash of values and patient
	taken   vitals.Micros
	ind     vitals.Indicator
}

func identityOf(r *vitals.Reading) identity {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], r.MeasurementHash())
	binary.BigEndian.PutUint64(b[8:], xxhash.Sum64String(string(r.Patient)))
	return identity{xxhash.Sum64String(string(r.Device)), xxhash.Sum64(b[:]), r.TakenAt, r.Indicator}
}

func (id *identity) singleKey() (b [singleKeyLen]byte) {
	b[0] = kindSingle
	binary.BigEndian.PutUint64(b[1:], id.device)
	b[9] = byte(id.ind)
	binary.BigEndian.PutUint64(b[runTimeAt:], orderedTime(id.taken))
	binary.BigEndian.PutUint64(b[18:], id.content)
	return b
}

func runKey(dst []byte, l lane, taken vitals.Micros) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, kindRun), l.device)
	return binary.BigEndian.AppendUint64(append(dst, byte(l.ind)), orderedTime(taken))
}

type idKey [idKeyLen]byte

func idKeyOf(device uint64, id string) (k idKey) {
	k[0] = kindID
	binary.BigEndian.PutUint64(k[1:], device)
	binary.BigEndian.PutUint64(k[9:], xxhash.Sum64String(id))
	return k
}

// A record is
//
//	version u8 · count u16 LE · readings (vitals.AppendReading) · CRC32C u32 LE
//
// The checksum covers the key as well, so that a record under a wrong sequence is found too.
func startRecord(dst []byte) []byte { return append(dst, recordV1, 0, 0) }

func endRecord(rec, key []byte, count int) []byte {
	binary.LittleEndian.PutUint16(rec[1:], uint16(count))
	return binary.LittleEndian.AppendUint32(rec, recordSum(key, rec))
}

func recordSum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

// CorruptionError says that a stored record is not what was written. The journal never skips one silently.
type CorruptionError struct {
	Seq    uint64 // first sequence of the record, or the first missing sequence
	Reason string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("journal record %d: %s: stop the server, keep a copy of the data folder, "+
		"run \"vitalwatch journal verify\" and restore the last backup", e.Seq, e.Reason)
}

// checkRecord returns the sequence and count of a record and its readings' bytes.
func checkRecord(key, value []byte) (first uint64, count int, body []byte, err error) {
	if len(key) != recordKeyLen {
		return 0, 0, nil, &CorruptionError{Reason: "bad key length"}
	}
	first = binary.BigEndian.Uint64(key[1:])
	if len(value) < 3+recordTrailer {
		return 0, 0, nil, &CorruptionError{first, "truncated"}
	}
	body = value[:len(value)-recordTrailer]
	if recordSum(key, body) != binary.LittleEndian.Uint32(value[len(body):]) {
		return 0, 0, nil, &CorruptionError{first, "checksum does not match"}
	}
	if value[0] != recordV1 {
		return 0, 0, nil, &CorruptionError{first, fmt.Sprintf("version %d of another program release", value[0])}
	}
	return first, int(binary.LittleEndian.Uint16(value[1:])), body[3:], nil
}

// decodeRecord appends the readings of a record to dst.
func decodeRecord(dst []vitals.Reading, key, value []byte, intern func([]byte) string) ([]vitals.Reading, error) {
	first, count, body, err := checkRecord(key, value)
	if err != nil {
		return dst, err
	}
	for n := range count {
		r, rest, err := vitals.DecodeReading(body, intern)
		if err != nil {
			return dst, &CorruptionError{first, err.Error()}
		}
		if r.Seq != first+uint64(n) {
			return dst, &CorruptionError{first, "sequences are not dense"}
		}
		dst, body = append(dst, r), rest
	}
	if len(body) != 0 || count == 0 {
		return dst, &CorruptionError{first, "count does not match"}
	}
	return dst, nil
}

// interner shares the strings of repeated ids.
type interner map[string]string

func (m interner) intern(b []byte) string {
	s, ok := m[string(b)]
	if !ok {
		if len(m) >= 4096 {
			clear(m)
		}
		s = string(b)
		m[s] = s
	}
	return s
}
