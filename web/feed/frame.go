package feed

import (
	"encoding/binary"
	"encoding/json"
	"time"
)

// frame is the bytes of one or more WebSocket frames, built once and shared by all connections. Immutable.
type frame struct {
	b       []byte
	seq     uint64 // of an alert; 0 for everything else
	patient string // of an alert or reading
	born    int64  // of an alert, on the hub's clock in ns: for the latency metric; 0: not measured
	free    bool   // not counted against the client's bound
}

// unbounded is f outside the bound of a queue, for what a client asked for itself: its snapshot, and pages of a
// catch-up that wait for each other. It is not measured: its age is the client's absence.
func (f *frame) unbounded() *frame { return &frame{b: f.b, seq: f.seq, patient: f.patient, free: true} }

// Opcodes of RFC 6455 section 5.2, with FIN.
const (
	opText  = 0x81
	opClose = 0x88
	opPing  = 0x89
)

// appendWS appends an unmasked server frame (RFC 6455 section 5.2) to dst.
func appendWS(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n <= 0xffff:
		dst = append(dst, 126, byte(n>>8), byte(n))
	default:
		dst = append(dst, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// text builds a text frame of a value that is known to marshal.
func text(v any) *frame {
	p, err := json.Marshal(v)
	if err != nil {
		panic("feed: frame does not marshal: " + err.Error()) // only our own structs come here
	}
	return &frame{b: appendWS(make([]byte, 0, len(p)+10), opText, p)}
}

// stamp writes a time as the whole API does: RFC 3339 UTC with milliseconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

type helloFrame struct {
	Type      string  `json:"type"`
	Epoch     string  `json:"epoch"`
	Seq       uint64  `json:"seq"`
	Heartbeat float64 `json:"heartbeat_s"`
}

type subscribedFrame struct {
	Type     string   `json:"type"`
	ID       *int64   `json:"id,omitempty"`
	Channels []string `json:"channels"`
	Epoch    string   `json:"epoch"`
	Seq      uint64   `json:"seq"`
}

type alertFrame struct {
	Type       string `json:"type"`
	Seq        uint64 `json:"seq"`
	Transition string `json:"transition"`
	At         string `json:"at"`
	Actor      string `json:"actor,omitempty"`
	Alert      any    `json:"alert"`
}

type gapFrame struct {
	Type string `json:"type"`
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

type resultFrame struct {
	Type    string          `json:"type"`
	ID      *int64          `json:"id,omitempty"`
	OK      bool            `json:"ok"`
	Problem json.RawMessage `json:"problem,omitempty"`
}

type pongFrame struct {
	Type string `json:"type"`
	ID   *int64 `json:"id,omitempty"`
	At   string `json:"at"`
}

type heartbeatFrame struct {
	Type string  `json:"type"`
	At   string  `json:"at"`
	Seq  *uint64 `json:"seq,omitempty"`
}

type byeFrame struct {
	Type    string `json:"type"`
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	RetryMS int64  `json:"retry_ms"`
}

func encodeEvent(e *Event) (*frame, error) {
	p, err := json.Marshal(alertFrame{"alert", e.Seq, e.Kind, stamp(e.At), e.Actor, e.Alert})
	if err != nil {
		return nil, err
	}
	return &frame{b: appendWS(make([]byte, 0, len(p)+10), opText, p), seq: e.Seq, patient: e.Patient}, nil
}

func encodeReading(patient string, reading []byte) *frame {
	p := make([]byte, 0, len(reading)+96)
	p = append(p, `{"type":"reading","patient_id":`...)
	id, _ := json.Marshal(patient) // a string cannot fail
	p = append(p, id...)
	p = append(p, `,"reading":`...)
	p = append(p, reading...)
	p = append(p, '}')
	return &frame{b: appendWS(make([]byte, 0, len(p)+4), opText, p), patient: patient}
}

// encodeSnapshot joins the alerts as they are: they were encoded once when they were read.
func encodeSnapshot(epoch string, seq uint64, alerts []Open, want func(patient string) bool) *frame {
	n := 128
	for i := range alerts {
		n += len(alerts[i].Alert) + 1
	}
	head, _ := json.Marshal(struct {
		Type  string `json:"type"`
		Epoch string `json:"epoch"`
		Seq   uint64 `json:"seq"`
	}{"snapshot", epoch, seq})
	p := append(make([]byte, 0, n), head[:len(head)-1]...)
	p = append(p, `,"alerts":[`...)
	first := true
	for i := range alerts {
		if want != nil && !want(alerts[i].Patient) {
			continue
		}
		if !first {
			p = append(p, ',')
		}
		first = false
		p = append(p, alerts[i].Alert...)
	}
	p = append(p, ']', '}')
	return &frame{b: appendWS(make([]byte, 0, len(p)+10), opText, p)}
}

// encodeBye is the goodbye and the close frame in one write, so that nothing comes between them.
func encodeBye(code int, reason string, retry time.Duration) *frame {
	f := text(byeFrame{"bye", code, reason, retry.Milliseconds()})
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	payload = append(payload, reason...)
	f.b = appendWS(f.b, opClose, payload)
	return f
}
