package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/vitals"
)

// Place is where a device's reading stands.
type Place struct {
	Indicator vitals.Indicator
	TakenAt   vitals.Micros
	Content   uint64 // vitals.Reading.ContentHash
}

func placeOf(r *vitals.Reading) Place { return Place{r.Indicator, r.TakenAt, r.ContentHash()} }

// Is reports whether r, a reading of that device, stands there.
func (p Place) Is(r *vitals.Reading) bool { return placeOf(r) == p }

// The value of an id is version u8 · indicator u8 · taken_at u64 BE, as in keys · content u64 BE.
func (p Place) put(dst []byte) {
	dst[0], dst[1] = 1, byte(p.Indicator)
	binary.BigEndian.PutUint64(dst[2:], orderedTime(p.TakenAt))
	binary.BigEndian.PutUint64(dst[10:], p.Content)
}

// FindID returns where the reading stands that a device sent under an id last. ok is false for an id that was never
// accepted, or only by a release that did not note where.
func (j *Journal) FindID(device vitals.DeviceID, id string) (p Place, ok bool, err error) {
	e, done, err := j.hold()
	if err != nil {
		return Place{}, false, err
	}
	defer done()
	k := idKeyOf(xxhash.Sum64String(string(device)), id)
	v, c, err := e.db.Get(k[:])
	if errors.Is(err, pebble.ErrNotFound) {
		return Place{}, false, nil
	}
	if err != nil {
		return Place{}, false, fmt.Errorf("look up reading id: %w", err)
	}
	if ok = len(v) == idValueLen && v[0] == 1; ok {
		p = Place{vitals.Indicator(v[1]), timeOf(binary.BigEndian.Uint64(v[2:])), binary.BigEndian.Uint64(v[10:])}
	}
	return p, ok, c.Close()
}
