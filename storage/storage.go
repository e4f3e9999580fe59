// Package storage declares the readings store: what a back end must do so that history, trends and the engine's
// warm-up can be read back. Package storage/storagetest is the conformance suite that defines it; storage/embedded
// and storage/influx implement it. It owns no data itself. Implementations are safe for concurrent use.
package storage

import (
	"context"
	"errors"
	"iter"

	"vitalwatch/vitals"
)

// ErrUnreachable is what reading from a store on another machine answers, wrapped, while that machine is away.
var ErrUnreachable = errors.New("the history cannot be reached now: the last days can be read, older readings again later")

// Query selects readings of one patient, oldest first, ties by (Seq).
type Query struct {
	Patient   vitals.PatientID
	Indicator vitals.Indicator // 0: all indicators, each in time order, one indicator after the other
	// From and To bound TakenAt, half-open [From, To); 0 means no bound on that side.
	From, To vitals.Micros
	// MaxSeq, when not 0, leaves out readings accepted later than this journal sequence: the engine's warm-up
	// asks for exactly what had been evaluated.
	MaxSeq uint64
	// Limit bounds the number of readings; 0 means no bound. Newest takes the last Limit instead of the first
	// (still delivered oldest first).
	Limit  int
	Newest bool
	// After is the position of the last reading of the previous page, nil for the first page. The reading must still
	// be there, or all readings of its instant come (again).
	After *Position
}

// Position is a place between readings of one patient and indicator; it is stable under inserts.
type Position struct {
	Indicator vitals.Indicator
	TakenAt   vitals.Micros
	Hash      uint64 // the key's last part, see embedded's key layout
}

// Readings is a readings store driven by the journal's cursor.
type Readings interface {
	// Write stores readings of one journal block and the cursor after it, in one atomic step. Writing the same
	// reading twice changes nothing, one of the same Position with a higher Seq stands in its place, and a smaller cursor than the present one does not move it back. It keeps
	// nothing of rs. It returns only errors that concern the whole batch; the caller retries.
	Write(ctx context.Context, rs []vitals.Reading, cursor uint64) error
	// Cursor is the journal sequence up to which (inclusive) everything is written.
	Cursor() uint64
	// Durable is the sequence up to which everything would survive a power loss; the journal must keep the rest.
	Durable() uint64
	// Range yields the readings of q. A reading is the caller's to keep. The error comes last, with a zero Reading.
	Range(ctx context.Context, q Query) iter.Seq2[vitals.Reading, error]
	// PositionOf returns where r stands, for the next page's Query.After.
	PositionOf(r *vitals.Reading) Position
	// Latest yields the newest reading of each indicator of the patient; one that counts no more (vitals.Replaced) only
	// where there is no other.
	Latest(ctx context.Context, p vitals.PatientID) ([]vitals.Reading, error)
	// DeletePatient removes every reading of the patient that was written so far, durably.
	DeletePatient(ctx context.Context, p vitals.PatientID) error
	// Flush makes everything written durable.
	Flush(ctx context.Context) error
	Close() error
}
