package influx_test

import (
	"math"
	"strings"
	"testing"

	"vitalwatch/storage/influx"
	"vitalwatch/vitals"
)

// FuzzParseRows: whatever a server answers ends in rows or in an error, and a row is never more than its line.
func FuzzParseRows(f *testing.F) {
	for _, s := range []string{
		",result,table,_value\r\n,_result,0,AAAA\r\n,_result,0,BBBB\r\n\r\n",
		",result,table,_value\n,_result,0,A\n\n,result,table,_value\n,_result,1,B\n",
		",error,reference\r\n,failed to do something,897\r\n",
		",result,table,_value\r\n,_result,0,A\r\n\r\nerror,reference\r\nwhat,1\r\n", "", "\r\n\r\n", "<html>", `{"code":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := influx.ParseRows(b, func(v []byte) error {
			n += len(v)
			if strings.ContainsAny(string(v), ",\n") {
				t.Errorf("a value %q", v)
			}
			return nil
		})
		if n > len(b) {
			t.Errorf("%d bytes of values in %d bytes", n, len(b))
		}
		if err != nil && len(b) < 20 && strings.Contains(err.Error(), string(b)) && len(b) > 8 {
			t.Errorf("the error quotes the answer: %v", err)
		}
	})
}

// FuzzLine: one reading is one line, with a quote only around its strings, whatever ids and values it has.
func FuzzLine(f *testing.F) {
	f.Add("P-1", "dev-1", int64(1795300000000000), uint64(7), 72.5, uint32(3), byte(3))
	f.Add("a b,c=d\\\n\"", "", int64(math.MinInt64), uint64(math.MaxUint64), math.NaN(), uint32(0), byte(1))
	f.Fuzz(func(t *testing.T, patient, device string, at int64, seq uint64, v float64, flags uint32, ind byte) {
		i := vitals.Indicator(ind)
		if i.String() == "unknown" {
			t.Skip()
		}
		r := vitals.Reading{Seq: seq, Patient: vitals.PatientID(patient), Device: vitals.DeviceID(device), TakenAt: vitals.Micros(at), ReceivedAt: vitals.Micros(at),
			Flags: vitals.Flags(flags), Indicator: i, Unit: i.Units()[0], DeviceSeq: -1, OffsetMin: vitals.NoOffset}
		for _, c := range i.Components() {
			r.Set(c, v)
		}
		line := string(influx.Line(&r))
		if math.IsNaN(v) || math.IsInf(v, 0) {
			if strings.Contains(line, "=NaN") || strings.Contains(line, "Inf") {
				t.Errorf("%q", line)
			}
			return
		}
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
			t.Errorf("not one line: %q", line)
		}
		if !strings.HasPrefix(line, i.String()+",") || !strings.Contains(line, `r="`) {
			t.Errorf("not a point of the indicator: %q", line)
		}
	})
}
