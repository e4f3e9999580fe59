// Package readmostly holds a map that is read on the hot path and written seldom: registries of people and devices.
// It owns no values.
//
// Concurrency: Get may be called by any number of goroutines beside writers, and never allocates. It takes no lock once
// a map has not been written to for as many Gets as it has keys. Writers are serialised inside.
package readmostly

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Map is ready to use when zero. It is two maps: base, which nobody changes once it is published, and recent, which
// takes new keys under a lock until it is worth copying both into a new base. Values of known keys should be pointers
// whose target is swapped, or be put anew. sync.Map is not used because a string key would be allocated per Get.
type Map[K comparable, V any] struct {
	base  atomic.Pointer[map[K]V]
	dirty atomic.Bool  // recent is not empty
	slow  atomic.Int64 // Gets under the lock since the last promotion

	mu     sync.RWMutex
	recent map[K]V // wins over base
}

// promoteMin keeps small maps from being copied at every insert.
const promoteMin = 64

// Get returns the value of k.
func (m *Map[K, V]) Get(k K) (V, bool) {
	if m.dirty.Load() {
		m.mu.RLock()
		v, ok := m.recent[k]
		m.mu.RUnlock()
		if m.slow.Add(1) > int64(max(promoteMin, m.baseLen())) {
			// The lock has cost about as much as the copy will.
			m.settle()
		}
		if ok {
			return v, true
		}
	}
	// After recent: a promotion empties recent only after base has its keys.
	if b := m.base.Load(); b != nil {
		v, ok := (*b)[k]
		return v, ok
	}
	var zero V
	return zero, false
}

// Put stores v under k.
func (m *Map[K, V]) Put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recent == nil {
		m.recent = map[K]V{}
	}
	m.recent[k] = v
	m.dirty.Store(true)
	// Copying at a quarter of the size keeps inserts at amortised constant cost.
	if len(m.recent) >= max(promoteMin, m.baseLen()/4) {
		m.promote()
	}
}

func (m *Map[K, V]) baseLen() int {
	if b := m.base.Load(); b != nil {
		return len(*b)
	}
	return 0
}

func (m *Map[K, V]) settle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.recent) > 0 {
		m.promote()
	}
}

func (m *Map[K, V]) promote() {
	next := m.recent
	if b := m.base.Load(); b != nil {
		next = make(map[K]V, len(*b)+len(m.recent))
		maps.Copy(next, *b)
		maps.Copy(next, m.recent)
	}
	m.base.Store(&next)
	m.recent = nil
	m.dirty.Store(false)
	m.slow.Store(0)
}
