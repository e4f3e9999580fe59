package storage

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"vitalwatch/vitals"
)

// PositionOf is where r stands in every store. Its hash tells readings of one indicator and instant apart: by their
// content and by the device, because two devices that measured the same are two readings.
func PositionOf(r *vitals.Reading) Position {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], r.ContentHash())
	binary.BigEndian.PutUint64(b[8:], xxhash.Sum64String(string(r.Device)))
	return Position{Indicator: r.Indicator, TakenAt: r.TakenAt, Hash: xxhash.Sum64(b[:])}
}
