package journal

import (
	"encoding/binary"
	"time"

	"vitalwatch/vitals"
)

// The rounds are the tests' own: one beside theirs, in a test that takes a second, would read the clock while they set it,
// and open a second generation beside that of a full disk that heals.
func init() { tickEvery = 24 * time.Hour }

// Tick runs one round of housekeeping; tests do not wait for the clock.
func (j *Journal) Tick() { j.tick() }

// SealAt is how many readings are collected before the index is written.
const SealAt = sealAt

// DecodeRecordForFuzz decodes foreign bytes as a record.
func DecodeRecordForFuzz(key, value []byte) error {
	_, err := decodeRecord(nil, key, value, interner{}.intern)
	return err
}

// EachInRunForFuzz reads foreign bytes as a run.
func EachInRunForFuzz(key, value []byte) (n int, err error) {
	err = eachInRun(key, value, func(_ vitals.Micros, _ uint64) bool { n++; return true })
	return n, err
}

// SealRecordForFuzz gives the bytes a checksum that fits.
func SealRecordForFuzz(key, value []byte) []byte {
	return binary.LittleEndian.AppendUint32(append([]byte(nil), value...), recordSum(key, value))
}

// CheckLogForFuzz reads foreign bytes as a log.
func CheckLogForFuzz(log []byte) int { return checkLog(log, 2) }
