package ingest

import (
	"errors"

	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// EraseFrom takes one person out of a kept message and returns their readings that came new in it. Of a message that
// holds somebody else's readings as well, these are left; of any other nothing is. changed is false when the person is
// not in it.
func EraseFrom(e *evidence.Entry, p vitals.PatientID) (mine []vitals.Reading, changed bool, err error) {
	in := false
	for _, r := range e.Patients {
		in = in || r.Patient == p
	}
	if !in {
		return nil, false, nil
	}
	rs, err := Reread(e, nil)
	if err != nil && !errors.Is(err, ErrUnlike) {
		return nil, false, err
	}
	left := evidence.Entry{Kind: evidence.Erased, First: e.First, Count: e.Count}
	for i := range rs {
		r := &rs[i]
		if r.Patient == p {
			mine = append(mine, *r)
			continue
		}
		start := len(left.Payload)
		left.Payload = vitals.AppendReading(left.Payload, r)
		left.Sum += evidence.Checksum(left.Payload[start:])
		if n := len(left.Patients); n > 0 && left.Patients[n-1].Patient == r.Patient {
			left.Patients[n-1].N++
		} else {
			left.Patients = append(left.Patients, evidence.Run{N: 1, Patient: r.Patient})
		}
	}
	if len(left.Payload) > 0 {
		left.Kind = evidence.Cut
		left.ReceivedAt, left.JudgedAt, left.Device, left.Format, left.Source = e.ReceivedAt, e.JudgedAt, e.Device, e.Format, e.Source
		left.Gateway, left.Topic, left.Zone = e.Gateway, e.Topic, e.Zone
	}
	*e = left
	return mine, true, nil
}
