package payload

import (
	"errors"
	"io"
	"strconv"

	"vitalwatch/vitals"
)

// WriteLines decodes one message and writes one JSON line per item: the reading as the API shows it with
// "accepted":true, or why it is none with "accepted":false, and with the "error" that a device says it had; a message that is refused as a whole is one such line.
// It returns how many were accepted, and whether the message itself was refused.
//
// Plausibility is judged as the server does it. A time ahead of in.ReceivedAt only makes the reading's freshness
// "doubtful": that is a matter of the moment of receiving and not of the payload.
func WriteLines(w io.Writer, format string, in Input) (accepted int, refused bool, err error) {
	items, derr := Decode(format, in, nil)
	var line []byte
	if derr != nil {
		p := &Problem{Code: JSONInvalid, Detail: "the message could not be read"}
		errors.As(derr, &p)
		_, err = w.Write(appendProblem(line, p))
		return 0, true, err
	}
	for i := range items {
		r, p := &items[i].Reading, items[i].Problem
		if p == nil {
			r.ReceivedAt = in.ReceivedAt
			r.Freshness, _ = vitals.JudgeFreshness(r.TakenAt, in.ReceivedAt)
			var c vitals.Component
			if r.Quality, c = vitals.JudgeValues(r); r.Quality == vitals.Invalid {
				p = &Problem{Code: ValueImpossible, Index: i, Offset: -1, Detail: "component " + c.String() + " is beyond what can be measured; check value and unit"}
			}
		}
		if p != nil {
			line = appendProblem(line[:0], p)
			if items[i].Failed() {
				line = append(line[:len(line)-2], `,"error":`...)
				line = append(vitals.AppendFault(line, r.Extra.Fault), "}\n"...)
			}
		} else {
			accepted++
			line = vitals.AppendJSON(line[:0], r)
			line = append(line[:len(line)-1], ",\"accepted\":true}\n"...)
		}
		if _, err = w.Write(line); err != nil {
			return accepted, false, err
		}
	}
	return accepted, false, nil
}

// appendProblem appends p as decode shows it, with the byte where it is when that is known; codes and details are our own plain texts.
func appendProblem(dst []byte, p *Problem) []byte {
	dst = append(dst, `{"accepted":false,"problem":`...)
	dst = strconv.AppendQuote(dst, p.Code)
	dst = append(dst, `,"detail":`...)
	dst = strconv.AppendQuote(dst, p.Detail)
	dst = append(dst, `,"index":`...)
	dst = strconv.AppendInt(dst, int64(p.Index), 10)
	if p.Offset >= 0 {
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendInt(dst, int64(p.Offset), 10)
	}
	return append(dst, "}\n"...)
}
