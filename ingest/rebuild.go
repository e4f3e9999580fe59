package ingest

import (
	"errors"
	"fmt"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// ErrUnlike says that a kept message does not give the readings that were stored when it came: this release reads or
// judges it otherwise.
var ErrUnlike = errors.New("this release reads a kept message otherwise than the one that took it in")

// Reread appends the readings that were new when a message came, as they were journaled then: decoded again, and judged
// as of then for whom they were of then. An erased message has none. After ErrUnlike those are appended that this release finds.
func Reread(e *evidence.Entry, dst []vitals.Reading) ([]vitals.Reading, error) {
	first := len(dst)
	var err error
	switch e.Kind {
	case evidence.Erased:
		return dst, nil
	case evidence.Cut:
		for rest := e.Payload; len(rest) > 0 && err == nil; {
			var r vitals.Reading
			if r, rest, err = vitals.DecodeReading(rest, nil); err == nil {
				dst = append(dst, r)
			}
		}
		if err != nil {
			return dst[:first], fmt.Errorf("%w: %w", evidence.ErrDamaged, err)
		}
	default:
		if dst, err = decodeAgain(e, dst); err != nil {
			return dst, err
		}
	}
	var sum uint32
	var encoded []byte
	for i := first; i < len(dst); i++ {
		encoded = vitals.AppendReading(encoded[:0], &dst[i])
		sum += evidence.Checksum(encoded)
	}
	if sum != e.Sum || e.Kind == evidence.Whole && len(dst)-first != e.Count {
		return dst, ErrUnlike
	}
	return dst, nil
}

func decodeAgain(e *evidence.Entry, dst []vitals.Reading) ([]vitals.Reading, error) {
	if e.Format == revisedFormat {
		for seq, rest := e.First, e.Payload; len(rest) > 0; seq++ {
			r, left, err := vitals.DecodeReading(rest, nil)
			if err != nil {
				return dst, fmt.Errorf("%w: %w", evidence.ErrDamaged, err)
			}
			r.Seq, rest = seq, left
			dst = append(dst, r)
		}
		return dst, nil
	}
	var zone *time.Location
	if e.Zone != "" {
		var err error
		if zone, err = time.LoadLocation(e.Zone); err != nil {
			return dst, fmt.Errorf("%w: %w", ErrUnlike, err)
		}
	}
	items, err := payload.Decode(e.Format, payload.Input{Payload: e.Payload, ReceivedAt: e.ReceivedAt, DeviceTZ: zone}, nil)
	if err != nil {
		return dst, ErrUnlike
	}
	seq, k := e.First, 0 // k counts the well judged readings
	for _, run := range e.Patients {
		for range run.N {
			at := k
			if e.Items != nil {
				at = e.Items[k]
			}
			k++
			if e.Fresh != nil && !e.Fresh[k-1] {
				continue
			}
			if at >= len(items) || items[at].Problem != nil {
				return dst, ErrUnlike
			}
			doubtful := setClock(&items[at], e.Clock)
			r := items[at].Reading
			r.Device, r.Patient, r.ReceivedAt, r.Seq = e.Device, run.Patient, e.ReceivedAt, seq
			if r.Freshness, _ = freshness(&r, e.JudgedAt); doubtful {
				r.Freshness = vitals.Doubtful
			}
			r.Quality, _ = vitals.JudgeValues(&r)
			dst = append(dst, r)
			seq++
		}
	}
	return dst, nil
}
