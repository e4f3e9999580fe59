package journal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// HoldTrim makes trimming wait until release is called: while a backup is taken, the journal keeps all that the copies
// of its consumers' cursors, which are taken first, will ask for.
func (j *Journal) HoldTrim() (release func()) {
	j.holds.Add(1)
	return func() { j.holds.Add(-1) }
}

// Checkpoint writes a copy of the journal, as it is or somewhat later, to the folder dir, which must not exist. On the
// same file system tables are linked, which takes no room until they are compacted away. Failing to write there does
// not fence the journal.
func (j *Journal) Checkpoint(dir string) error {
	e, done, err := j.hold()
	if err != nil {
		return err
	}
	defer done()
	if err := j.Err(); err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	// What was acknowledged is synced and needs no flush; the copy of the newest log may end within a batch that is not.
	if err := e.db.Checkpoint(dir); err != nil {
		return fmt.Errorf("copy the journal: %w", err)
	}
	return nil
}

// First is the oldest sequence that the journal still has, Last()+1 when it has none.
func (j *Journal) First() (uint64, error) {
	e, done, err := j.hold()
	if err != nil {
		return 0, err
	}
	defer done()
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindRecord}, UpperBound: []byte{kindRecord + 1}})
	if err != nil {
		return 0, fmt.Errorf("read journal: %w", err)
	}
	defer it.Close()
	last := j.Last()
	if !it.First() {
		return last + 1, it.Error()
	}
	first, _, _, err := checkRecord(it.Key(), it.Value())
	return first, err
}
