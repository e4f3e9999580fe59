package web

import (
	"encoding/json"
	"io"
	"maps"

	"github.com/danielgtaylor/huma/v2"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

// pageReadingJSON is page[readingJSON], under the same name for OpenAPI, with the readings written already.
type pageReadingJSON struct{ Body readingsBody }

type readingsBody = struct {
	Items []readingJSON   `json:"items"` // for the schema; text has them
	Next  alerting.OrNull `json:"next_cursor" nullable:"true" doc:"ask again with cursor=this; null on the last page"`
	text  readingsText
}

// readingsText is readings as JSON, with commas between them, in pieces: what was written is not moved again. They are
// written as they are read, because a page of 90 days of a CGM that is first held as readings costs as much again.
type readingsText [][]byte

const piece = 256 << 10

func (t *readingsText) add(r *vitals.Reading) {
	last := len(*t) - 1
	if last < 0 || len((*t)[last]) > piece-4096 {
		size := piece
		if last < 0 {
			size = 4096 // most pages are short
		}
		*t, last = append(*t, make([]byte, 0, size)), last+1
	}
	b := (*t)[last]
	if last > 0 || len(b) > 0 {
		b = append(b, ',')
	}
	(*t)[last] = vitals.AppendJSON(b, r)
}

// formats writes pages of readings itself: encoding/json looks at every byte of what a MarshalJSON returns again, which
// for 90 days of a CGM takes longer than reading them.
func formats() map[string]huma.Format {
	f := huma.DefaultJSONFormat
	f.Marshal = func(w io.Writer, v any) error {
		if p, ok := v.(readingsBody); ok {
			return writeReadings(w, &p)
		}
		return huma.DefaultJSONFormat.Marshal(w, v)
	}
	m := maps.Clone(huma.DefaultFormats)
	m["application/json"], m["json"] = f, f
	return m
}

func writeReadings(w io.Writer, p *readingsBody) error {
	if _, err := io.WriteString(w, `{"items":[`); err != nil {
		return err
	}
	for _, b := range p.text {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	next, err := json.Marshal(p.Next)
	if err != nil {
		return err
	}
	_, err = w.Write(append(append([]byte(`],"next_cursor":`), next...), "}\n"...))
	return err
}
