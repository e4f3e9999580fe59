package influx

import (
	"bytes"
	"context"

	"vitalwatch/vitals"
)

var lineEncoder encoder
var lineBuffer []byte

// Line is r in line protocol.
func Line(r *vitals.Reading) []byte {
	lineBuffer, _ = lineEncoder.appendLine(lineBuffer[:0], r)
	return lineBuffer
}

// ParseRows is the parser of answers.
func ParseRows(b []byte, row func([]byte) error) error { return parseRows(bytes.NewReader(b), row) }

// Points are all points of a patient and indicator, as they stand there.
func Points(ctx context.Context, s *Store, id vitals.PatientID, ind vitals.Indicator) ([]vitals.Reading, error) {
	return s.points(ctx, id, ind, firstMilli, lastMilli+1, "limit", 1_000_000)
}
