package vitals_test

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/vitals"
)

func TestAppendJSON(t *testing.T) {
	at := vitals.At(time.Date(2026, 11, 21, 8, 0, 0, 0, time.FixedZone("", 8*3600)))
	bp := vitals.Reading{Patient: "P-1", Device: "cuff-1", Indicator: vitals.BloodPressure, Unit: vitals.MmHg, TakenAt: at, ReceivedAt: at + 1500,
		DeviceSeq: 17, UserSlot: 1, Flags: vitals.IrregularPulse | vitals.Movement, Quality: vitals.Suspect,
		Extra: &vitals.Extra{DeviceReadingID: `a"<é`, Context: `{"arm":"left"}`, OtherFlags: "odd,\"x"}}
	bp.Set(vitals.Diastolic, 91)
	bp.Set(vitals.Systolic, 142.5)
	glucose := vitals.Reading{Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: at, DeviceSeq: -1, Meal: vitals.Fasting, Activity: vitals.Resting, Freshness: vitals.Backfill}
	glucose.Set(vitals.Value, 7.8)
	plain := vitals.Reading{Indicator: vitals.SpO2, Unit: vitals.Percent, TakenAt: at, DeviceSeq: -1, Freshness: vitals.Late}
	plain.Set(vitals.Value, 97)
	void := plain
	void.Flags, void.Quality = vitals.Voided, vitals.Invalid
	void.Extra = &vitals.Extra{Revision: `{"voided_at":"x"}`, Clock: `{"offset_s":-28800}`}
	for _, tt := range []struct {
		name string
		r    vitals.Reading
		want string
	}{
		{"voided, by a corrected clock", void, `{"indicator":"spo2","taken_at":"2026-11-21T00:00:00.000Z","values":{"value":97},"unit":"%","context":{},"flags":["voided"],"freshness":"late","quality":"invalid","revision":{"voided_at":"x"},"clock":{"offset_s":-28800}}`},
		{"everything", bp, `{"id":"` + bp.ID() + `","device_id":"cuff-1","indicator":"blood_pressure","taken_at":"2026-11-21T00:00:00.000Z","received_at":"2026-11-21T00:00:00.001500Z","values":{"systolic":142.5,"diastolic":91},"unit":"mm[Hg]","context":{"arm":"left"},"flags":["irregular_pulse","movement","odd","\"x"],"freshness":"live","quality":"suspect","device_reading_id":"a\"\u003cé","seq":17,"user_slot":1}`},
		{"words of another format", glucose, `{"indicator":"glucose","taken_at":"2026-11-21T00:00:00.000Z","values":{"value":7.8},"unit":"mmol/L","context":{"meal":"fasting","activity":"resting"},"flags":[],"freshness":"backfill","quality":"good"}`},
		{"least", plain, `{"indicator":"spo2","taken_at":"2026-11-21T00:00:00.000Z","values":{"value":97},"unit":"%","context":{},"flags":[],"freshness":"late","quality":"good"}`},
	} {
		if got := string(vitals.AppendJSON([]byte("x"), &tt.r)); got != "x"+tt.want {
			t.Errorf("%s\ngot  %s\nwant x%s", tt.name, got, tt.want)
		}
	}
}

func TestAppendJSON_isJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := vitals.Reading{Indicator: rapid.SampledFrom(vitals.Indicators()).Draw(t, "indicator"), Unit: vitals.Unit(rapid.IntRange(0, 19).Draw(t, "unit")),
			TakenAt: 1795300000000000, Device: vitals.DeviceID(rapid.String().Draw(t, "device")), Has: 0xff, Flags: vitals.Flags(rapid.Uint32().Draw(t, "flags")),
			Extra: &vitals.Extra{DeviceReadingID: rapid.String().Draw(t, "id"), OtherFlags: rapid.String().Draw(t, "flags")}}
		for i := range r.V {
			r.V[i] = rapid.Float64().Draw(t, "v")
		}
		var back struct {
			ID     string             `json:"device_reading_id"`
			Values map[string]float64 `json:"values"`
		}
		b := vitals.AppendJSON(nil, &r)
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if back.ID != r.Extra.DeviceReadingID {
			t.Fatalf("id %q came back as %q", r.Extra.DeviceReadingID, back.ID)
		}
		for i, c := range r.Indicator.Components() {
			if got := back.Values[c.String()]; math.Float64bits(got) != math.Float64bits(r.V[i]) {
				t.Fatalf("%s: %v came back as %v", c, r.V[i], got)
			}
		}
	})
}

// AppendTime writes what time.Format would.
func TestAppendTime(t *testing.T) {
	first, end := vitals.At(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)), vitals.At(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC))
	like := func(m vitals.Micros) string {
		layout := "2006-01-02T15:04:05.000Z"
		if m%vitals.Millisecond != 0 {
			layout = "2006-01-02T15:04:05.000000Z"
		}
		return time.UnixMicro(int64(m)).UTC().Format(layout)
	}
	check := func(t interface{ Errorf(string, ...any) }, m vitals.Micros) {
		if got := string(vitals.AppendTime([]byte("x"), m)); got != "x"+like(m) {
			t.Errorf("%d: got %s, want x%s", m, got, like(m))
		}
	}
	for _, m := range []vitals.Micros{0, 1, -1, 999, 1000, -1000, vitals.Second - 1, vitals.Day - 1, first - 1, first, first + 1, end - 1, end, math.MinInt64, math.MaxInt64} {
		check(t, m)
	}
	for day := first; day < end; day += 367 * vitals.Day {
		check(t, day)
	}
	for day := vitals.At(time.Date(1996, 1, 1, 0, 0, 0, 0, time.UTC)); day < vitals.At(time.Date(2105, 1, 1, 0, 0, 0, 0, time.UTC)); day += vitals.Day { // 2000 and 2100
		check(t, day)
		check(t, day+vitals.Day-1)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, vitals.Micros(rapid.Int64().Draw(t, "any")))
		check(t, vitals.Micros(rapid.Int64Range(int64(first), int64(end)).Draw(t, "micros")))
	})
}

// Whatever the number, the text is the shortest that strconv gives.
func TestAppendNumber(t *testing.T) {
	want := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	for m := -30_000; m <= 30_000; m++ {
		for _, scale := range []float64{1, 10, 100, 1000} {
			v := float64(m) / scale
			if m == 0 {
				v = 0
			}
			if got := string(vitals.AppendNumber(nil, v)); got != want(v) {
				t.Fatalf("%s, want %s", got, want(v))
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.OneOf(rapid.Float64Range(1e-6, 2e9), rapid.Custom(func(rt *rapid.T) float64 {
			v := float64(rapid.Int64Range(-200_000_000_000, 200_000_000_000).Draw(rt, "m")) / 100
			return math.Float64frombits(math.Float64bits(v) + rapid.Uint64Range(0, 2).Draw(rt, "ulps"))
		})).Draw(rt, "v")
		if a := math.Abs(v); a < 1e-6 && v != 0 || a >= 1e21 {
			return
		}
		if got := string(vitals.AppendNumber(nil, v)); got != want(v) {
			rt.Fatalf("%s, want %s", got, want(v))
		}
	})
	if got := string(vitals.AppendNumber(nil, math.Copysign(0, -1))); got != "-0" {
		t.Errorf("negative zero: %s", got)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r := vitals.Reading{Patient: "P-cgm-0001", Device: "cgm-0001", Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: 1795300000000000, ReceivedAt: 1795300000012345, DeviceSeq: 17, OffsetMin: 480}
	r.Set(vitals.Value, 7.8)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = vitals.AppendJSON(dst[:0], &r)
	}
}
