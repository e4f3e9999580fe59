package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/vitals"
)

// fromKey holds the time from which on the store is complete, i64; absent: it is from the beginning.
var fromKey = []byte{kindMeta, 'f'}

// Beginning is what CompleteFrom says of a store that nothing was ever trimmed from.
const Beginning = vitals.Micros(math.MinInt64)

// CompleteFrom is the time from which on, by TakenAt, the store has every reading that was written to it.
func (s *Store) CompleteFrom() vitals.Micros { return vitals.Micros(s.from.Load()) }

// SetCompleteFrom says that readings taken before t are kept elsewhere only. It never goes back.
func (s *Store) SetCompleteFrom(t vitals.Micros) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	b := s.db.NewBatch()
	defer b.Close()
	if err := s.setFrom(b, t); err != nil {
		return err
	}
	return s.db.Apply(b, pebble.NoSync)
}

func (s *Store) setFrom(b *pebble.Batch, t vitals.Micros) error {
	t = max(t, s.CompleteFrom())
	if err := b.Set(fromKey, binary.BigEndian.AppendUint64(nil, uint64(t)), nil); err != nil {
		return err
	}
	s.from.Store(int64(t)) // before anything is gone
	return nil
}

func (s *Store) readFrom() error {
	s.from.Store(int64(Beginning))
	v, closer, err := s.db.Get(fromKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read where the store begins: %w", err)
	}
	defer closer.Close()
	if len(v) != 8 {
		return errors.New("read where the store begins: bad length: restore the last backup of the readings store")
	}
	s.from.Store(int64(binary.BigEndian.Uint64(v)))
	return nil
}

// Empty reports whether the store has never held anything.
func (s *Store) Empty() bool { return s.Cursor() == 0 && s.CompleteFrom() == Beginning }

// trimBatch is how many patients' indicators are trimmed in one step.
const trimBatch = 1000

// TrimLocal removes readings taken before t, which another store has; the newest of each patient and indicator that
// counts, and what is newer, stays, so that Latest goes on to answer. It returns from how many patients' indicators something was removed.
func (s *Store) TrimLocal(ctx context.Context, t vitals.Micros) (int, error) {
	return s.trim(ctx, func(vitals.Indicator) (vitals.Micros, bool) { return t, true }, true)
}

// Expire removes readings of an indicator taken before what before says, the newest too; false keeps all of them.
func (s *Store) Expire(ctx context.Context, before func(vitals.Indicator) (vitals.Micros, bool)) (int, error) {
	return s.trim(ctx, before, false)
}

func (s *Store) trim(ctx context.Context, before func(vitals.Indicator) (vitals.Micros, bool), local bool) (n int, err error) {
	if err := s.acquire(); err != nil {
		return 0, err
	}
	defer s.use.RUnlock()
	if err := s.Err(); err != nil {
		return 0, err
	}
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{kindReading}, UpperBound: []byte{kindReading + 1}})
	if err != nil {
		return 0, fmt.Errorf("trim readings: %w", err)
	}
	defer it.Close()
	b := s.db.NewBatch()
	defer func() { b.Close() }()
	if t, ok := before(0); local && ok {
		if err := s.setFrom(b, t); err != nil {
			return 0, fmt.Errorf("trim readings: %w", err)
		}
	}
	for ok := it.First(); ok; {
		if err := ctx.Err(); err != nil {
			return n, fmt.Errorf("trim readings: %w", err)
		}
		first := slices.Clone(it.Key())
		zero := bytes.IndexByte(first, 0)
		if zero < 0 || len(first) != zero+1+1+16 {
			return n, errors.New("trim readings: a key is of the wrong length: restore the last backup of the readings store")
		}
		lane := first[:zero+2]
		end := append(slices.Clone(first[:zero+1]), first[zero+1]+1)
		if t, expires := before(vitals.Indicator(first[zero+1])); expires {
			upper := binary.BigEndian.AppendUint64(slices.Clone(lane), uint64(t)^1<<63)
			if local {
				if upper, err = latestIn(it, lane, end, upper); err != nil {
					return n, err
				}
			}
			if bytes.Compare(first, upper) < 0 {
				if err := b.DeleteRange(first, upper, nil); err != nil {
					return n, fmt.Errorf("trim readings: %w", err)
				}
				if n++; n%trimBatch == 0 {
					if err := s.db.Apply(b, pebble.NoSync); err != nil {
						return n, fmt.Errorf("trim readings: %w", err)
					}
					b.Close()
					b = s.db.NewBatch()
				}
			}
		}
		ok = it.SeekGE(end)
	}
	if err := it.Error(); err != nil {
		return n, fmt.Errorf("trim readings: %w", err)
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return n, fmt.Errorf("trim readings: %w", err)
	}
	return n, nil
}

// latestIn returns the start of the instant of the newest reading that counts between lane and end (of the newest, when
// none counts), but at most upper.
func latestIn(it *pebble.Iterator, lane, end, upper []byte) ([]byte, error) {
	var latest []byte
	var names sharedNames
	for ok := it.SeekLT(end); ok && bytes.HasPrefix(it.Key(), lane); ok = it.Prev() {
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, fmt.Errorf("trim readings: %w", err)
		}
		r, _, err := vitals.DecodeReading(v, names.intern)
		if err != nil {
			return nil, fmt.Errorf("trim readings: %w: restore the last backup of the readings store", err)
		}
		counts := r.Flags&vitals.Replaced == 0
		if latest == nil || counts {
			latest = slices.Clone(it.Key()[:len(lane)+8])
		}
		if counts {
			break
		}
	}
	if latest != nil && bytes.Compare(latest, upper) < 0 {
		return latest, it.Error()
	}
	return upper, it.Error()
}

// All yields every reading, patient by patient, as it was when the call was made: to copy the store elsewhere.
func (s *Store) All(ctx context.Context) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) {
		if err := s.all(ctx, func(r vitals.Reading) bool { return yield(r, nil) }); err != nil && err != errStop {
			yield(vitals.Reading{}, err)
		}
	}
}

func (s *Store) all(ctx context.Context, emit func(vitals.Reading) bool) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{kindReading}, UpperBound: []byte{kindReading + 1}})
	if err != nil {
		return fmt.Errorf("read readings: %w", err)
	}
	defer it.Close()
	var n sharedNames
	for ok, i := it.First(), 1; ok; ok, i = it.Next(), i+1 {
		if i%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("read readings: %w", err)
			}
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read readings: %w", err)
		}
		r, _, err := vitals.DecodeReading(v, n.intern)
		if err != nil {
			return fmt.Errorf("read readings: %w: restore the last backup of the readings store", err)
		}
		if !emit(r) {
			return errStop
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read readings: %w", err)
	}
	return nil
}

// sharedNames shares the last two strings: a patient and a device.
type sharedNames struct{ last [2]string }

func (n *sharedNames) intern(b []byte) string {
	for _, s := range n.last {
		if string(b) == s {
			return s
		}
	}
	n.last[0], n.last[1] = n.last[1], string(b)
	return n.last[1]
}
