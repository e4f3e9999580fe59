package evidence

import (
	"encoding/binary"

	"vitalwatch/vitals"
)

// reader reads forward; after the first thing that is wrong it is bad and gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// count reads a number of things of which each takes at least one of size bytes that follow.
func (r *reader) count(perByte int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)*perByte) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) bytes() []byte { return r.take(r.count(1)) }

func (r *reader) string() string { return string(r.bytes()) }

// maxReadings bounds what one message may hold; the formats allow 500.
const maxReadings = 1 << 16

func (r *reader) entry(e *Entry, base uint64) {
	head := r.take(1)
	if r.bad || Kind(head[0]) >= kinds {
		r.bad = true
		return
	}
	e.Kind = Kind(head[0])
	e.First = base + r.uvarint()
	n := r.uvarint()
	sum := r.take(4)
	if r.bad || n == 0 || n > maxReadings || e.First < base || e.First == 0 || e.First+n < e.First {
		r.bad = true
		return
	}
	e.Count, e.Sum = int(n), binary.LittleEndian.Uint32(sum)
	if readings := r.count(8); readings > 0 {
		bits := r.take((readings + 7) / 8)
		if r.bad || readings <= e.Count || readings > maxReadings {
			r.bad = true
			return
		}
		e.Fresh = make([]bool, readings)
		fresh := 0
		for i := range e.Fresh {
			if e.Fresh[i] = bits[i/8]>>(i%8)&1 == 1; e.Fresh[i] {
				fresh++
			}
		}
		if fresh != e.Count || e.Kind != Whole {
			r.bad = true
			return
		}
	}
	m := reader{b: r.bytes()}
	if r.bad || e.Kind == Erased {
		r.bad = r.bad || len(m.b) > 0
		return
	}
	m.message(&e.Message)
	want := e.Count
	if e.Fresh != nil {
		want = len(e.Fresh)
	}
	r.bad = m.bad || len(m.b) > 0 || e.Kind == Whole && e.readings() != want
}

func (r *reader) message(m *Message) {
	first := r.take(1)
	if r.bad || first[0]&^known != 0 {
		r.bad = true
		return
	}
	has := first[0]
	m.ReceivedAt = vitals.Micros(r.varint())
	n := r.uvarint()
	m.Device = vitals.DeviceID(r.string())
	patient := vitals.PatientID(r.string())
	if r.bad || n > maxReadings {
		r.bad = true
		return
	}
	m.Format, m.Source = usualFormat, usualSource
	if has&hasOrigin != 0 {
		m.Gateway = vitals.DeviceID(r.string())
		m.Topic, m.Format, m.Source, m.Zone = r.string(), r.string(), r.string(), r.string()
	}
	m.JudgedAt = m.ReceivedAt
	if has&hasJudgedAt != 0 {
		m.JudgedAt += vitals.Micros(r.varint())
	}
	if has&hasItems != 0 {
		r.items(m, n)
	}
	if has&hasRuns != 0 {
		r.runs(m, n)
	} else if n > 0 {
		m.Patients = []Run{{int(n), patient}}
	} else {
		r.bad = true
	}
	if has&hasClock != 0 {
		for _, t := range [...]*vitals.Micros{&m.Clock.Offset, &m.Clock.From, &m.Clock.To} {
			*t = vitals.Micros(r.varint())
		}
		if b := r.take(1); !r.bad {
			m.Clock.Doubtful = b[0] == 1
			r.bad = b[0] > 1 || m.Clock == Clock{}
		}
	}
	m.Payload = r.bytes()
}

func (r *reader) items(m *Message, n uint64) {
	if n > uint64(len(r.b)) {
		r.bad = true
		return
	}
	m.Items = make([]int, n)
	at := uint64(0)
	for i := range m.Items {
		step := r.uvarint()
		if at += step; step > maxReadings || at > maxReadings || i > 0 && step == 0 {
			r.bad = true
			return
		}
		m.Items[i] = int(at)
	}
}

func (r *reader) runs(m *Message, n uint64) {
	sum := uint64(0)
	for range r.count(1) {
		run := Run{N: int(min(r.uvarint(), maxReadings+1)), Patient: vitals.PatientID(r.string())}
		if sum += uint64(run.N); r.bad || run.N == 0 || sum > n {
			r.bad = true
			return
		}
		m.Patients = append(m.Patients, run)
	}
	r.bad = r.bad || sum != n || len(m.Patients) == 1
}
