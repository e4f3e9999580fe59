package vitals_test

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/vitals"
)

// sameReading compares with values by their bits, so that NaN equals itself and −0 differs from 0.
func sameReading(a, b vitals.Reading) bool {
	for i := range a.V {
		if math.Float64bits(a.V[i]) != math.Float64bits(b.V[i]) {
			return false
		}
	}
	a.V, b.V = [vitals.MaxComponents]float64{}, [vitals.MaxComponents]float64{}
	return reflect.DeepEqual(a, b)
}

func drawReading(t *rapid.T) vitals.Reading {
	ind := rapid.SampledFrom(vitals.Indicators()).Draw(t, "indicator")
	r := vitals.Reading{
		Seq:        rapid.Uint64().Draw(t, "seq"),
		Patient:    vitals.PatientID(rapid.String().Draw(t, "patient")),
		Device:     vitals.DeviceID(rapid.String().Draw(t, "device")),
		TakenAt:    vitals.Micros(rapid.Int64().Draw(t, "taken")),
		ReceivedAt: vitals.Micros(rapid.Int64().Draw(t, "received")),
		DeviceSeq:  rapid.Int64().Draw(t, "device_seq"),
		Flags:      vitals.Flags(rapid.Uint32().Draw(t, "flags")),
		OffsetMin:  rapid.OneOf(rapid.Just(vitals.NoOffset), rapid.Int16()).Draw(t, "offset"),
		Indicator:  ind,
		Unit:       rapid.SampledFrom(ind.Units()).Draw(t, "unit"),
		Freshness:  vitals.Freshness(rapid.Uint8Range(0, 3).Draw(t, "freshness")),
		Quality:    vitals.Quality(rapid.Uint8Range(0, 2).Draw(t, "quality")),
		Meal:       vitals.Meal(rapid.Uint8Range(0, 5).Draw(t, "meal")),
		Activity:   vitals.Activity(rapid.Uint8Range(0, 2).Draw(t, "activity")),
		UserSlot:   rapid.Uint8().Draw(t, "slot"),
	}
	value := rapid.OneOf(rapid.Float64(), rapid.Map(rapid.IntRange(-100000, 100000), func(i int) float64 { return float64(i) / 100 }),
		rapid.SampledFrom([]float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), 1 << 52, 1 << 60, 0.1 + 0.2}))
	for _, c := range ind.Components() {
		if rapid.Bool().Draw(t, "has") {
			r.Set(c, value.Draw(t, "value"))
		}
	}
	if rapid.Bool().Draw(t, "extra") {
		r.Extra = &vitals.Extra{
			DeviceReadingID: rapid.String().Draw(t, "id"), Context: rapid.String().Draw(t, "context"),
			Aside: rapid.String().Draw(t, "aside"), OtherFlags: rapid.String().Draw(t, "other_flags"),
			Revision: rapid.SampledFrom([]string{"", `{"voided_at":""}`}).Draw(t, "revision"), Clock: rapid.SampledFrom([]string{"", `{"offset_s":1}`}).Draw(t, "clock"),
		}
	}
	return r
}

func TestDecodeReading_gives_back_what_AppendReading_wrote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawReading(t), drawReading(t)
		enc := vitals.AppendReading(vitals.AppendReading([]byte("before"), &a), &b)
		got, rest, err := vitals.DecodeReading(enc[len("before"):], nil)
		if err != nil || !sameReading(got, a) {
			t.Fatalf("first: got %+v, %v; want %+v", got, err, a)
		}
		got, rest, err = vitals.DecodeReading(rest, nil)
		if err != nil || !sameReading(got, b) || len(rest) != 0 {
			t.Fatalf("second: got %+v, %v, %d bytes left; want %+v", got, err, len(rest), b)
		}
	})
}

func TestDecodeReading_refuses_every_truncation(t *testing.T) {
	r := example()
	r.Extra = &vitals.Extra{DeviceReadingID: "x", Context: "{}", Aside: "{}", OtherFlags: "a,b", Revision: "{}", Clock: "{}"}
	enc := vitals.AppendReading(nil, &r)
	for n := range len(enc) {
		var ce *vitals.CodecError
		if _, _, err := vitals.DecodeReading(enc[:n], nil); !errors.As(err, &ce) {
			t.Errorf("%d of %d bytes: got %v, want a CodecError", n, len(enc), err)
		}
	}
}

func TestDecodeReading_refuses_what_it_does_not_know(t *testing.T) {
	r := example()
	enc := vitals.AppendReading(nil, &r)
	for _, c := range []struct {
		name string
		at   int
		to   byte
	}{
		{"another version", 0, 2},
		{"an unknown field", 1, 1 << 7},
		{"no indicator", 2, 0},
		{"an indicator of a later release", 2, 250},
		{"a unit of a later release", 3, 250},
		{"a component that the indicator has not", 4, 1 << 5},
	} {
		bad := append([]byte(nil), enc...)
		bad[c.at] = c.to
		var ce *vitals.CodecError
		if _, _, err := vitals.DecodeReading(bad, nil); !errors.As(err, &ce) || ce.Offset != c.at {
			t.Errorf("%s: got %v, want a CodecError at byte %d", c.name, err, c.at)
		}
	}
}

func TestAppendReading_is_compact(t *testing.T) {
	r := example()
	if n := len(vitals.AppendReading(nil, &r)); n > 48 {
		t.Errorf("got %d bytes for a plain blood pressure, want at most 48", n)
	}
}

func example() vitals.Reading {
	r := vitals.Reading{Seq: 123456, Patient: "P-00017", Device: "dev-00017", TakenAt: 1795300000000000,
		ReceivedAt: 1795300000350000, DeviceSeq: 17, OffsetMin: 480, Indicator: vitals.BloodPressure, Unit: vitals.MmHg}
	r.Set(vitals.Systolic, 142)
	r.Set(vitals.Diastolic, 91)
	r.Set(vitals.Pulse, 72)
	return r
}

// FuzzDecodeReading: arbitrary bytes give a reading that encodes and decodes to itself, or a typed error; never a
// panic, and never more memory than a small multiple of the input.
func FuzzDecodeReading(f *testing.F) {
	r := example()
	f.Add(vitals.AppendReading(nil, &r))
	r.Set(vitals.Mean, 1.0/3)
	r.Extra = &vitals.Extra{DeviceReadingID: "r-1", Context: `{"posture":"sitting"}`}
	f.Add(vitals.AppendReading(nil, &r))
	f.Add([]byte{1, 32, 3, 5, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := vitals.DecodeReading(b, nil)
		if err != nil {
			var ce *vitals.CodecError
			if !errors.As(err, &ce) {
				t.Fatalf("got %T, want a CodecError", err)
			}
			return
		}
		if len(rest) >= len(b) {
			t.Fatal("decoded without consuming")
		}
		r.ContentHash() // whatever decodes must be safe to use
		again, _, err := vitals.DecodeReading(vitals.AppendReading(nil, &r), nil)
		if err != nil || !sameReading(again, r) {
			t.Fatalf("got %+v, %v; want %+v", again, err, r)
		}
	})
}

// go test -run '^$' -bench Codec -benchmem ./vitals
func BenchmarkCodec(b *testing.B) {
	r := example()
	enc := vitals.AppendReading(nil, &r)
	b.Run("op=append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 256)
		for b.Loop() {
			buf = vitals.AppendReading(buf[:0], &r)
		}
		b.ReportMetric(float64(len(buf)), "B/rec")
	})
	b.Run("op=decode", func(b *testing.B) {
		b.ReportAllocs()
		known := map[string]string{"P-00017": "P-00017", "dev-00017": "dev-00017"}
		for b.Loop() {
			if _, _, err := vitals.DecodeReading(enc, func(s []byte) string { return known[string(s)] }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
