package payload_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// A base value and a value add up as decimals do.
func TestSenML_baseValuesAddLikeDecimals(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := rapid.IntRange(-99999, 99999).Draw(rt, "bv"), rapid.IntRange(-99999, 99999).Draw(rt, "v")
		pa, pb := rapid.IntRange(0, 4).Draw(rt, "digits of bv"), rapid.IntRange(0, 4).Draw(rt, "digits of v")
		sum := int64(a)*pow(4-pa) + int64(b)*pow(4-pb)
		msg := fmt.Sprintf(`[{"bt":1795305600,"bu":"Cel","bv":%s,"n":"temperature","v":%s}]`, decimal(a, pa), decimal(b, pb))
		items, err := payload.Decode("senml", payload.Input{Payload: []byte(msg), ReceivedAt: received}, nil)
		if err != nil || items[0].Problem != nil || items[0].Reading.V[0] != float64(sum)/1e4 {
			rt.Fatalf("%s: %s, want %v", msg, showAll(items, err), float64(sum)/1e4)
		}
	})
}

func pow(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

func decimal(m, digits int) string {
	return fmt.Sprintf("%.*f", digits, float64(m)/float64(pow(digits)))
}

// Values below 2^28 are counted from when the message came, others from 1970.
func TestSenML_times(t *testing.T) {
	for _, c := range []struct {
		fields string
		want   vitals.Micros // 0: refused
		clock  payload.Clock
	}{
		{``, received, payload.ClockReceipt},
		{`,"t":-90`, received - 90*vitals.Second, payload.ClockReceipt},
		{`,"t":-0.25`, received - vitals.Second/4, payload.ClockReceipt},
		{`,"bt":-60,"t":30`, received - 30*vitals.Second, payload.ClockReceipt},
		{`,"t":268435455`, received + (1<<28-1)*vitals.Second, payload.ClockReceipt},
		{`,"t":268435456`, 0, 0}, // 1978
		{`,"t":1795305600.125`, 1795305600125 * vitals.Millisecond, payload.ClockDevice},
		{`,"bt":1795305600,"t":-0.5`, 1795305599500 * vitals.Millisecond, payload.ClockDevice},
		{`,"bt":1795305600,"t":-1795305600`, received, payload.ClockReceipt},
		{`,"t":253402300800`, 0, 0}, // year 10000
	} {
		msg := `[{"n":"heart_rate","u":"beat/min","v":72` + c.fields + `}]`
		items, err := payload.Decode("senml", payload.Input{Payload: []byte(msg), ReceivedAt: received}, nil)
		if err != nil || len(items) != 1 {
			t.Fatalf("%s: %s", msg, showAll(items, err))
		}
		it := items[0]
		if c.want == 0 {
			if it.Problem == nil || it.Problem.Code != payload.TimeInvalid {
				t.Errorf("%s: %s", msg, show(it))
			}
			continue
		}
		if it.Problem != nil || it.Reading.TakenAt != c.want || it.Clock != c.clock || it.Reading.OffsetMin != vitals.NoOffset {
			t.Errorf("%s: %s, clock %v; want %v", msg, show(it), it.Clock, c.want.Time())
		}
	}
	items, err := payload.Decode("senml", payload.Input{Payload: []byte(`[{"n":"heart_rate","u":"beat/min","v":72}]`)}, nil)
	if got := showAll(items, err); got != payload.TimeInvalid {
		t.Errorf("without knowing when the message came: %s", got)
	}
}

func FuzzSenML(f *testing.F) { fuzzFixtures(f, "senml") }

// go test -run '^$' -bench SenML -benchmem ./devices/payload
func BenchmarkSenML(b *testing.B) {
	records := make([]string, 100)
	for i := range records {
		records[i] = fmt.Sprintf(`{"t":%d,"v":%d.5}`, i, 60+i%40)
	}
	msg := `[{"bn":"urn:dev:mac:0024befffe804ff1/heart_rate","bt":1795305600,"bu":"beat/min"},` + strings.Join(records, ",") + `]`
	b.Run("kind=heart_rate/n=100", func(b *testing.B) { benchmarkFormat(b, "senml", []byte(msg)) })
}
