package storagetest

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

var _ storage.Readings = (*Memory)(nil)

// Memory is a readings store in memory that passes the conformance suite: for tests of other packages, and the slow
// obvious model of what a store does. Nothing of it is durable; Durable says what was flushed.
type Memory struct {
	mu       sync.Mutex
	readings map[vitals.PatientID]map[storage.Position]vitals.Reading
	cursor   uint64
	durable  uint64
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{readings: map[vitals.PatientID]map[storage.Position]vitals.Reading{}}
}

// Write implements storage.Readings.
func (m *Memory) Write(ctx context.Context, rs []vitals.Reading, cursor uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range rs {
		p := rs[i].Patient
		if m.readings[p] == nil {
			m.readings[p] = map[storage.Position]vitals.Reading{}
		}
		m.readings[p][m.PositionOf(&rs[i])] = rs[i]
	}
	m.cursor = max(m.cursor, cursor)
	return nil
}

// Cursor implements storage.Readings.
func (m *Memory) Cursor() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cursor
}

// Durable implements storage.Readings.
func (m *Memory) Durable() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.durable
}

// Flush implements storage.Readings.
func (m *Memory) Flush(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.durable = m.cursor
	return ctx.Err()
}

// Close implements storage.Readings.
func (m *Memory) Close() error { return nil }

// PositionOf implements storage.Readings.
func (m *Memory) PositionOf(r *vitals.Reading) storage.Position { return storage.PositionOf(r) }

// sorted returns the patient's readings in the order of the interface.
func (m *Memory) sorted(p vitals.PatientID) []vitals.Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rs []vitals.Reading
	for _, r := range m.readings[p] {
		rs = append(rs, r)
	}
	slices.SortFunc(rs, func(a, b vitals.Reading) int {
		return cmp.Or(cmp.Compare(a.Indicator, b.Indicator), cmp.Compare(a.TakenAt, b.TakenAt), cmp.Compare(a.Seq, b.Seq))
	})
	return rs
}

// Range implements storage.Readings.
func (m *Memory) Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) {
		rs := m.sorted(q.Patient)
		if q.After != nil {
			for i := range rs {
				if m.PositionOf(&rs[i]) == *q.After {
					rs = rs[i+1:]
					break
				}
			}
		}
		rs = slices.DeleteFunc(rs, func(r vitals.Reading) bool {
			return q.Indicator != 0 && r.Indicator != q.Indicator || q.From != 0 && r.TakenAt < q.From ||
				q.To != 0 && r.TakenAt >= q.To || q.MaxSeq != 0 && r.Seq > q.MaxSeq
		})
		if n := q.Limit; n > 0 && n < len(rs) {
			if q.Newest {
				rs = rs[len(rs)-n:]
			} else {
				rs = rs[:n]
			}
		}
		for _, r := range rs {
			if err := ctx.Err(); err != nil {
				yield(vitals.Reading{}, err)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Latest implements storage.Readings.
func (m *Memory) Latest(_ context.Context, p vitals.PatientID) ([]vitals.Reading, error) {
	var out []vitals.Reading
	rs := m.sorted(p)
	for _, r := range rs {
		switch n := len(out); {
		case n == 0 || out[n-1].Indicator != r.Indicator:
			out = append(out, r)
		case r.Flags&vitals.Replaced == 0 || out[n-1].Flags&vitals.Replaced != 0:
			out[n-1] = r
		}
	}
	return out, nil
}

// DeletePatient implements storage.Readings.
func (m *Memory) DeletePatient(ctx context.Context, p vitals.PatientID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.readings, p)
	return ctx.Err()
}
