// Package tiered reads two readings stores as one: a local one, which has the recent past and everything that the far
// one may not have yet, and a far one with the whole history. It owns no data; each store is written by a consumer of
// its own, so that neither waits for the other. What the local store has completely is never asked of the far one: a
// far one that is slow or gone is felt by questions about the distant past only.
//
// Concurrency: as its stores; it has no state.
package tiered

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"math"
	"slices"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

var _ storage.Readings = (*Store)(nil)

// Local is a store that is complete from some time on.
type Local interface {
	storage.Readings
	// CompleteFrom is the time from which on, by TakenAt, the store has every reading. It never goes back.
	CompleteFrom() vitals.Micros
}

// Store is the two as one.
type Store struct {
	local Local
	far   storage.Readings
}

// New returns the two as one.
func New(local Local, far storage.Readings) *Store { return &Store{local, far} }

// Range implements storage.Readings. The local store is looked at before it is asked where it begins: so what a
// trimming takes from it meanwhile is asked of the far one.
func (s *Store) Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) {
		if q.Newest && q.Limit > 0 {
			s.newest(ctx, q, yield)
			return
		}
		local, stop := pull(s.local.Range(ctx, q))
		defer stop()
		far := none
		if from := s.local.CompleteFrom(); !within(q, from) {
			far = s.far.Range(ctx, before(q, from))
		}
		x, stop := pull(far)
		defer stop()
		left := q.Limit
		merge(x, local, func(r vitals.Reading, err error) bool {
			left--
			return yield(r, err) && left != 0
		})
	}
}

// within reports whether a store that is complete from a time on has all that q asks for.
func within(q storage.Query, from vitals.Micros) bool {
	return from == math.MinInt64 || q.From != 0 && q.From >= from ||
		q.After != nil && q.Indicator == q.After.Indicator && q.After.TakenAt >= from
}

// before is what the far store is asked: nothing that the local one has completely.
func before(q storage.Query, from vitals.Micros) storage.Query {
	if q.To == 0 || q.To > from {
		if q.To = from; q.To == 0 { // which would mean no bound
			q.To = 1
		}
	}
	return q
}

// newest asks the far store only when the last readings are not all in the local one.
func (s *Store) newest(ctx context.Context, q storage.Query, yield func(vitals.Reading, error) bool) {
	var near []vitals.Reading
	for r, err := range s.local.Range(ctx, q) {
		if err != nil {
			yield(vitals.Reading{}, err)
			return
		}
		near = append(near, r)
	}
	from := s.local.CompleteFrom()
	// Not with several indicators: a far reading of the last indicator may push out a near one of another.
	if !within(q, from) && !(q.Indicator != 0 && len(near) == q.Limit && near[0].TakenAt >= from) {
		x, stop := pull(s.far.Range(ctx, before(q, from)))
		defer stop()
		y, stop := pull(slice(near))
		defer stop()
		near = nil
		var failed error
		merge(x, y, func(r vitals.Reading, err error) bool {
			failed = err
			near = append(near, r)
			return err == nil
		})
		if failed != nil {
			yield(vitals.Reading{}, failed)
			return
		}
		near = near[max(0, len(near)-q.Limit):]
	}
	for _, r := range near {
		if !yield(r, nil) {
			return
		}
	}
}

func none(func(vitals.Reading, error) bool) {}

func slice(rs []vitals.Reading) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) {
		for _, r := range rs {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// merge yields the readings of both, in order, each once. An error ends it.
func merge(x, y *side, yield func(vitals.Reading, error) bool) {
	for {
		if err := errors.Join(x.err, y.err); err != nil {
			yield(vitals.Reading{}, err)
			return
		}
		switch {
		case !x.ok && !y.ok:
			return
		case !y.ok || x.ok && instant(&x.r, &y.r) < 0:
			if !yield(x.r, nil) {
				return
			}
			x.step()
		case !x.ok || instant(&x.r, &y.r) > 0:
			if !yield(y.r, nil) {
				return
			}
			y.step()
		default: // both have readings of this instant: few
			at := x.r
			var rs []vitals.Reading
			for _, side := range []*side{x, y} {
				for side.ok && instant(&side.r, &at) == 0 {
					rs = add(rs, side.r)
					side.step()
				}
			}
			slices.SortFunc(rs, func(a, b vitals.Reading) int { return cmp.Compare(a.Seq, b.Seq) })
			for _, r := range rs {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// add adds r; of two in one place the last accepted stays.
func add(rs []vitals.Reading, r vitals.Reading) []vitals.Reading {
	place := storage.PositionOf(&r)
	i := slices.IndexFunc(rs, func(o vitals.Reading) bool { return storage.PositionOf(&o) == place })
	switch {
	case i < 0:
		return append(rs, r)
	case rs[i].Seq < r.Seq:
		rs[i] = r
	}
	return rs
}

func instant(a, b *vitals.Reading) int {
	return cmp.Or(cmp.Compare(a.Indicator, b.Indicator), cmp.Compare(a.TakenAt, b.TakenAt))
}

// side is one of two stores being merged.
type side struct {
	next func() (vitals.Reading, error, bool)
	r    vitals.Reading
	ok   bool
	err  error
}

func pull(s iter.Seq2[vitals.Reading, error]) (*side, func()) {
	next, stop := iter.Pull2(s)
	x := &side{next: next}
	x.step()
	return x, stop
}

func (s *side) step() {
	r, err, ok := s.next()
	s.r, s.err, s.ok = r, err, ok && err == nil
}

// PositionOf implements storage.Readings.
func (s *Store) PositionOf(r *vitals.Reading) storage.Position { return storage.PositionOf(r) }

// Latest implements storage.Readings: the local store keeps the newest of each indicator for ever. Only when that was
// revised since, so that an older one is the latest that counts, is the far store asked, which may be away.
func (s *Store) Latest(ctx context.Context, p vitals.PatientID) ([]vitals.Reading, error) {
	out, err := s.local.Latest(ctx, p)
	for i := range out {
		if out[i].Flags&vitals.Replaced == 0 {
			continue
		}
		for r, err := range s.Range(ctx, storage.Query{Patient: p, Indicator: out[i].Indicator, Newest: true, Limit: fewRevised}) {
			if err == nil && r.Flags&vitals.Replaced == 0 {
				out[i] = r
			}
		}
	}
	return out, err
}

// fewRevised is in how many of the last readings one that counts is looked for.
const fewRevised = 64

// Write implements storage.Readings: both have it when it returns nil.
func (s *Store) Write(ctx context.Context, rs []vitals.Reading, cursor uint64) error {
	if err := s.far.Write(ctx, rs, cursor); err != nil {
		return err
	}
	return s.local.Write(ctx, rs, cursor)
}

// Cursor implements storage.Readings: what both have.
func (s *Store) Cursor() uint64 { return min(s.local.Cursor(), s.far.Cursor()) }

// Durable implements storage.Readings.
func (s *Store) Durable() uint64 { return min(s.local.Durable(), s.far.Durable()) }

// DeletePatient implements storage.Readings: the local store first, which everything that decides reads.
func (s *Store) DeletePatient(ctx context.Context, p vitals.PatientID) error {
	return errors.Join(s.local.DeletePatient(ctx, p), s.far.DeletePatient(ctx, p))
}

// Flush implements storage.Readings.
func (s *Store) Flush(ctx context.Context) error {
	return errors.Join(s.local.Flush(ctx), s.far.Flush(ctx))
}

// Close implements storage.Readings.
func (s *Store) Close() error { return errors.Join(s.local.Close(), s.far.Close()) }
