package web

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"vitalwatch/vitals"
)

// Pages of readings are written by us as encoding/json would.
func TestFormats_readings(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000, 5000} {
		for _, next := range []string{"", "rYWJj_-"} {
			items, written := []readingJSON{}, pageReadingJSON{}
			for i := range n {
				r := vitals.Reading{Seq: uint64(i), Patient: "P-1", Device: "d", Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: 1795300000000000 + vitals.Micros(i), DeviceSeq: -1,
					OffsetMin: vitals.NoOffset, Extra: &vitals.Extra{Context: fmt.Sprintf(`{"note":"<%d> & \"\u2028"}`, i)}}
				r.Set(vitals.Value, float64(i)/7)
				items = append(items, readingJSON{r})
				written.Body.text.add(&r)
			}
			body := paged(items, next).Body
			written.Body.Next = body.Next
			var got, want bytes.Buffer
			if err := formats()["application/json"].Marshal(&got, written.Body); err != nil {
				t.Fatal(err)
			}
			if err := huma.DefaultJSONFormat.Marshal(&want, body); err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() {
				t.Errorf("%d readings:\n got %.300s\nwant %.300s", n, got.String(), want.String())
			}
		}
	}
}
