package journal

import (
	"context"

	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/devices/payload"
)

// QuarantineRefused notes durably what is still refused of an item after a part of it was taken in. It returns
// ErrNotQuarantined when there is no such item.
func (j *Journal) QuarantineRefused(id uint64, problems []payload.Problem) error {
	q, err := j.QuarantineGet(id)
	if err != nil {
		return err
	}
	q.Refused = len(problems)
	q.Problems = problems[:min(len(problems), quarantineProblems)]
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	x := &j.quarantine
	return j.append(ctx, &Group{}, func(_ *engine, pb *pebble.Batch) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		it := x.items[id]
		if it == nil {
			return nil // it was removed meanwhile
		}
		q.Times = it.times // it may have come again meanwhile
		return x.write(&q, pb)
	})
}
