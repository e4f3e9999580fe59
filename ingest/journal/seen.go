package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/vitals"
)

// seen is the memory of what was accepted, exact and for ever. A lane is one device's readings of one indicator; nearly
// all of its readings come in the order of their time. So it is kept in two forms:
//
//   - A reading strictly newer than all before in its lane is certainly new, without a look-up. Such readings form the
//     lane's runs: sorted by time and one after the other, many in one key.
//   - Any other new reading (late, or of the same instant with other content) gets a key of its own.
//
// The runs' newest part is in memory only, until about sealAt readings are collected. It is not lost in a crash: the
// records of these readings are still in the journal, which is trimmed only up to what is sealed, and are read back at
// the next start. One key per reading was tried first: flushing and compacting them cost three times all the rest.
type seen struct {
	lanes   map[lane]mark
	open    []entry // not sealed, in order of acceptance
	dirty   []lane  // lanes with open entries
	sealed  uint64  // all readings up to this sequence are in runs or singles on disk
	singles map[[singleKeyLen]byte]struct{}
	ids     map[idKey]struct{} // singles and ids of the batch being built, which cannot be read yet
	iter    *pebble.Iterator   // of the batch being built
	value   []byte
}

type lane struct {
	device uint64
	ind    vitals.Indicator
}

// mark is where a lane stands.
type mark struct {
	taken vitals.Micros // of its newest reading
	head  int32         // its newest open entry + 1, 0 for none
}

type entry struct {
	taken   vitals.Micros
	content uint64
	prev    int32 // the lane's open entry before this one + 1, 0 for none
}

const (
	sealAt   = 32 << 10  // open entries: what a restart reads back
	laneMax  = 256 << 10 // lanes in memory; about 12 MB
	runMax   = 256       // readings in one run
	sealedV1 = 1
)

func newSeen() seen {
	return seen{lanes: map[lane]mark{}, singles: map[[singleKeyLen]byte]struct{}{}, ids: map[idKey]struct{}{}}
}

// begin starts a batch, end closes it.
func (s *seen) begin() {
	if len(s.singles) > 0 {
		clear(s.singles)
	}
	if len(s.ids) > 0 {
		clear(s.ids)
	}
}

func (s *seen) end() error {
	if s.iter == nil {
		return nil
	}
	it := s.iter
	s.iter = nil
	return it.Close()
}

// accept finds out whether r is new and, when it is, remembers it in pb. replace: see Group.Replace.
func (s *seen) accept(db *pebble.DB, pb *pebble.Batch, r *vitals.Reading, replace bool) (Verdict, error) {
	if r.Revised() {
		return New, nil
	}
	id := identityOf(r)
	l := lane{id.device, id.ind}
	m, err := s.mark(db, l)
	if err != nil {
		return 0, err
	}
	newer := id.taken > m.taken
	if !replace && !newer {
		if dup, err := s.known(db, &id, m); dup || err != nil {
			return Duplicate, err
		}
	}
	if r.Extra != nil && r.Extra.DeviceReadingID != "" {
		k := idKeyOf(id.device, r.Extra.DeviceReadingID)
		if _, ok := s.ids[k]; ok && !replace {
			return Conflict, nil
		}
		if taken, err := has(db, k[:]); (taken || err != nil) && !replace {
			return Conflict, err
		}
		s.ids[k] = struct{}{}
		op := pb.SetDeferred(idKeyLen, idValueLen)
		copy(op.Key, k[:])
		placeOf(r).put(op.Value)
		if err := op.Finish(); err != nil {
			return 0, err
		}
	}
	if newer {
		s.push(l, m, id)
		return New, nil
	}
	k := id.singleKey()
	s.singles[k] = struct{}{}
	copy(pb.SetDeferred(singleKeyLen, 0).Key, k[:])
	return New, nil
}

func (s *seen) push(l lane, m mark, id identity) {
	if m.head == 0 {
		s.dirty = append(s.dirty, l)
	}
	s.open = append(s.open, entry{id.taken, id.content, m.head})
	s.lanes[l] = mark{id.taken, int32(len(s.open))}
}

// mark returns where the lane stands, from disk when it is not in memory.
func (s *seen) mark(db *pebble.DB, l lane) (mark, error) {
	if m, ok := s.lanes[l]; ok {
		return m, nil
	}
	it, err := s.runs(db)
	if err != nil {
		return mark{}, err
	}
	m := mark{taken: math.MinInt64}
	prefix := runKey(nil, l, 0)[:runTimeAt]
	if it.SeekLT(append(slices.Clone(prefix), bytes.Repeat([]byte{0xff}, 9)...)) && bytes.HasPrefix(it.Key(), prefix) {
		m.taken = timeOf(binary.BigEndian.Uint64(it.Key()[runTimeAt:]))
	}
	if err := it.Error(); err != nil {
		return mark{}, fmt.Errorf("look up duplicate: %w", err)
	}
	s.lanes[l] = m
	return m, nil
}

// runs is an iterator over all runs of earlier batches.
func (s *seen) runs(db *pebble.DB) (*pebble.Iterator, error) {
	if s.iter == nil {
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindRun}, UpperBound: []byte{kindRun + 1}})
		if err != nil {
			return nil, fmt.Errorf("look up duplicate: %w", err)
		}
		s.iter = it
	}
	return s.iter, nil
}

// known looks up a reading that is not newer than its lane's mark: among the open entries, in the runs, among the
// singles.
func (s *seen) known(db *pebble.DB, id *identity, m mark) (bool, error) {
	oldest := vitals.Micros(math.MaxInt64)
	for i := m.head; i != 0; {
		e := &s.open[i-1]
		if e.taken <= id.taken {
			if e.taken == id.taken && e.content == id.content {
				return true, nil
			}
			oldest = math.MinInt64 // the runs on disk are older than the open entries
			break
		}
		oldest, i = e.taken, e.prev
	}
	if oldest != math.MinInt64 {
		it, err := s.runs(db)
		if err != nil {
			return false, err
		}
		k := runKey(nil, lane{id.device, id.ind}, id.taken)
		if it.SeekGE(k) && bytes.HasPrefix(it.Key(), k[:runTimeAt]) {
			v, err := it.ValueAndErr()
			if err != nil {
				return false, fmt.Errorf("look up duplicate: %w", err)
			}
			found := false
			if err := eachInRun(it.Key(), v, func(taken vitals.Micros, content uint64) bool {
				found = taken == id.taken && content == id.content
				return taken > id.taken
			}); found || err != nil {
				return found, err
			}
		}
		if err := it.Error(); err != nil {
			return false, fmt.Errorf("look up duplicate: %w", err)
		}
	}
	k := id.singleKey()
	if _, ok := s.singles[k]; ok {
		return true, nil
	}
	return has(db, k[:])
}

func has(db *pebble.DB, key []byte) (bool, error) {
	_, c, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up duplicate: %w", err)
	}
	return true, c.Close()
}

// seal writes the open entries as runs when there are enough of them, or now; last is the sequence of the newest. It
// comes at the end of a batch: the next one can read them.
func (s *seen) seal(pb *pebble.Batch, last uint64, now bool) error {
	if len(s.open) < sealAt && len(s.lanes) < laneMax && !now {
		return nil
	}
	slices.SortFunc(s.dirty, func(a, b lane) int { // sorted keys are faster to insert
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.ind, b.ind))
	})
	var key []byte
	for _, l := range s.dirty {
		m := s.lanes[l]
		for i := m.head; i != 0; {
			key = runKey(key[:0], l, s.open[i-1].taken)
			s.value, i = s.encodeRun(s.value[:0], i)
			if err := pb.Set(key, s.value, nil); err != nil {
				return err
			}
		}
		m.head = 0
		s.lanes[l] = m
	}
	s.open, s.dirty = s.open[:0], s.dirty[:0]
	if len(s.lanes) >= laneMax {
		clear(s.lanes) // only a cache once everything is sealed
	}
	s.sealed = last
	return pb.Set([]byte{kindSealed}, binary.BigEndian.AppendUint64([]byte{sealedV1}, last), nil)
}

// encodeRun encodes up to runMax entries from i backwards and returns the one that follows.
//
//	version u8 · content u64 LE · then, backwards in time: microseconds before the former uvarint, content u64 LE
func (s *seen) encodeRun(dst []byte, i int32) ([]byte, int32) {
	dst = append(dst, sealedV1)
	before := s.open[i-1].taken
	for n := 0; i != 0 && n < runMax; n++ {
		e := &s.open[i-1]
		if n > 0 {
			dst = binary.AppendUvarint(dst, uint64(before-e.taken))
		}
		dst = binary.LittleEndian.AppendUint64(dst, e.content)
		before, i = e.taken, e.prev
	}
	return dst, i
}

// eachInRun calls f for each reading of a run, newest first, until it returns false.
func eachInRun(key, value []byte, f func(taken vitals.Micros, content uint64) bool) error {
	if len(key) != runKeyLen || len(value) < 9 || value[0] != sealedV1 {
		return errors.New("index of seen readings is damaged: stop the server, keep a copy of the data folder and run \"vitalwatch journal verify\"")
	}
	taken, value := timeOf(binary.BigEndian.Uint64(key[runTimeAt:])), value[1:]
	for {
		if len(value) < 8 {
			return errors.New("index of seen readings is damaged: stop the server, keep a copy of the data folder and run \"vitalwatch journal verify\"")
		}
		if !f(taken, binary.LittleEndian.Uint64(value)) || len(value) == 8 {
			return nil
		}
		d, n := binary.Uvarint(value[8:])
		if n <= 0 {
			n = len(value) - 8
		}
		taken, value = taken-vitals.Micros(d), value[8+n:]
	}
}

// load reads back what was not sealed, from the records after the last seal.
func (s *seen) load(db *pebble.DB) error {
	v, c, err := db.Get([]byte{kindSealed})
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return fmt.Errorf("open journal: %w", err)
	default:
		bad := len(v) != 9 || v[0] != sealedV1
		if !bad {
			s.sealed = binary.BigEndian.Uint64(v[1:])
		}
		if err := c.Close(); err != nil || bad {
			return errors.Join(err, errors.New("open journal: the index of seen readings is of another program release"))
		}
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindRecord}, UpperBound: []byte{kindRecord + 1}})
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	defer it.Close()
	names := interner{}
	var rs []vitals.Reading
	ok := it.SeekLT(recordKey(nil, s.sealed+2))
	if !ok {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		if rs, err = decodeRecord(rs[:0], it.Key(), it.Value(), names.intern); err != nil {
			return err
		}
		for i := range rs {
			if rs[i].Seq <= s.sealed || rs[i].Revised() {
				continue
			}
			id := identityOf(&rs[i])
			l := lane{id.device, id.ind}
			m, err := s.mark(db, l)
			if err != nil {
				return err
			}
			if id.taken > m.taken { // otherwise it is a single, which was written with its record
				s.push(l, m, id)
			}
		}
	}
	return errors.Join(it.Error(), s.end())
}
