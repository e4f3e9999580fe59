package embedded

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// scheduler holds compactions back until the store is open: Pebble starts them while it opens and then waits for them,
// which after a crash under load can be one of everything, for many seconds in which nobody is watched. Afterwards it
// is Pebble's own scheduler, asked whenever a flush or a compaction ends; the store flushes every few seconds.
type scheduler struct {
	pebble.CompactionScheduler
	opened atomic.Bool
}

func newScheduler() *scheduler {
	return &scheduler{CompactionScheduler: pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()}
}

// Register implements pebble.CompactionScheduler.
func (s *scheduler) Register(goroutines int, db pebble.DBForCompaction) {
	s.CompactionScheduler.Register(goroutines, held{db, s})
}

// held answers that no compaction is allowed until the store is open.
type held struct {
	pebble.DBForCompaction
	s *scheduler
}

func (h held) GetAllowedWithoutPermission() int {
	if !h.s.opened.Load() {
		return 0
	}
	return h.DBForCompaction.GetAllowedWithoutPermission()
}
