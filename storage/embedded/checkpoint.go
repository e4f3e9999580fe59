package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"vitalwatch/vitals"
)

// Checkpoint makes everything written durable and writes a copy of it to the folder dir, which must not exist. On the
// same file system tables are linked, which takes no room until they are compacted away.
func (s *Store) Checkpoint(ctx context.Context, dir string) error {
	if err := s.Flush(ctx); err != nil { // there is no log that a copy could have
		return err
	}
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	if err := s.db.Checkpoint(dir); err != nil {
		return fmt.Errorf("copy the readings store: %w", err)
	}
	return nil
}

// Purge rewrites what holds a patient's readings, so that nothing of those that were deleted is left in a table.
func (s *Store) Purge(ctx context.Context, p vitals.PatientID) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.use.RUnlock()
	if err := s.db.Compact(ctx, appendPatient(nil, p), patientEnd(p), false); err != nil {
		return fmt.Errorf("purge the readings store: %w", err)
	}
	return nil
}

// Verify reads a whole store in dir, which nobody has open, changes nothing, and returns its cursor. Pebble checks the
// checksum of every block; every reading must decode and stand under its own key.
func Verify(ctx context.Context, dir string) (cursor uint64, err error) {
	var broken error
	db, err := pebble.Open(dir, &pebble.Options{ReadOnly: true, ErrorIfNotExists: true, FormatMajorVersion: pebble.FormatTableFormatV6,
		Logger: &quiet{}, EventListener: &pebble.EventListener{DataCorruption: func(info pebble.DataCorruptionInfo) { broken = info.Details }}})
	if err != nil {
		return 0, fmt.Errorf("verify readings store: %w", err)
	}
	defer func() {
		if err = errors.Join(err, db.Close()); err == nil && broken != nil {
			err = fmt.Errorf("verify readings store: %w", broken)
		}
	}()
	it, err := db.NewIterWithContext(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("verify readings store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var n names
	var r vitals.Reading
	var key []byte
	for ok := it.First(); ok; ok = it.Next() {
		switch {
		case bytes.Equal(it.Key(), cursorKey):
			if len(it.Value()) != 8 {
				return 0, errors.New("verify readings store: bad cursor")
			}
			cursor = binary.BigEndian.Uint64(it.Value())
		case it.Key()[0] == kindReading:
			if err := n.decode(&r, it); err != nil {
				return 0, err
			}
			if key = appendKey(key[:0], &r); !bytes.Equal(key, it.Key()) {
				return 0, errors.New("verify readings store: a reading stands under another's key")
			}
		}
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("verify readings store: %w", err)
	}
	return cursor, nil
}

// quiet keeps Pebble's chatter out of a command's output.
type quiet struct{}

func (*quiet) Infof(string, ...any)  {}
func (*quiet) Errorf(string, ...any) {}
func (*quiet) Fatalf(string, ...any) {}
