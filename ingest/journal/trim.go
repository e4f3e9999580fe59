package journal

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

type counter struct{ atomic.Int64 }

// consumers knows what each consumer holds durably.
type consumers struct {
	mu       sync.Mutex
	released map[string]uint64
}

func (c *consumers) init(names []string) {
	c.released = map[string]uint64{}
	for _, n := range names {
		c.released[n] = 0
	}
}

// Register makes trimming wait for a consumer. Register all of them (or name them in Options) before any of them
// releases.
func (j *Journal) Register(consumer string) {
	c := &j.consumers
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.released[consumer]; !ok {
		c.released[consumer] = 0
	}
}

// Release says that the consumer has everything up to and including seq durably and will never ask for it again. It
// registers a consumer that is not known yet. The readings are trimmed within seconds once all consumers are past.
func (j *Journal) Release(consumer string, seq uint64) {
	c := &j.consumers
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released[consumer] = max(c.released[consumer], seq)
}

// past is the sequence that all consumers are past; 0 when there is no consumer.
func (c *consumers) past() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.released) == 0 {
		return 0
	}
	past := uint64(math.MaxUint64)
	for _, s := range c.released {
		past = min(past, s)
	}
	return past
}

// trim returns the operation that deletes the records that all consumers are past, nil when there is nothing to do.
// The record that holds the last such sequence stays: it carries the numbering across a restart.
func (j *Journal) trim(e *engine) func(*engine, *pebble.Batch) error {
	if j.holds.Load() != 0 {
		return nil
	}
	past := min(j.consumers.past(), j.Last(), e.sealed.Load()) // what is not sealed is needed to find duplicates after a restart
	if past <= e.trimmedA.Load() {
		return nil
	}
	return func(e *engine, pb *pebble.Batch) error {
		e.trimmedA.Store(past)
		it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: recordKey(nil, e.trimmed), UpperBound: []byte{kindRecord + 1}})
		if err != nil {
			return err
		}
		defer it.Close()
		if !it.SeekLT(recordKey(nil, past+1)) {
			return it.Error()
		}
		first := binary.BigEndian.Uint64(it.Key()[1:])
		if first <= e.trimmed {
			return nil
		}
		if err := pb.DeleteRange(recordKey(nil, e.trimmed), recordKey(nil, first), nil); err != nil {
			return err
		}
		e.trimmed = first
		return nil
	}
}
