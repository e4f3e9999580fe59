package payload_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// marshal writes a value with the library, so that both ends were not written by the same hand.
func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A message means the same in JSON and in CBOR, by whichever topic it comes.
func TestCBOR_meansWhatTheJSONMeans(t *testing.T) {
	words := rapid.SampledFrom([]string{"heart_rate", "glucose", "blood_pressure", "sleep", "mood", "/min", "mmol/L", "mm[Hg]", "h", "fasting", "movement", "é\"\\\n\u0001"})
	number := rapid.OneOf(rapid.Float64Range(-300, 300), rapid.Map(rapid.Int32(), func(i int32) float64 { return float64(i) }))
	value := rapid.Custom(func(t *rapid.T) any {
		switch rapid.IntRange(0, 7).Draw(t, "kind") {
		case 0:
			return words.Draw(t, "word")
		case 1:
			return nil
		case 2:
			return []any{words.Draw(t, "word")}
		case 3:
			return map[string]any{"systolic": number.Draw(t, "s"), "diastolic": number.Draw(t, "d"), words.Draw(t, "key"): true}
		}
		return number.Draw(t, "number")
	})
	keys := rapid.SampledFrom([]string{"indicator", "value", "values", "unit", "taken_at", "seq", "id", "context", "flags", "user_slot", "other"})
	rapid.Check(t, func(rt *rapid.T) {
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(rt, "items") {
			m := map[string]any{"indicator": "heart_rate", "value": 72, "unit": "/min", "taken_at": int64(1795300000000)}
			for k, v := range rapid.MapOfN(keys, value, 0, 4).Draw(rt, "item") {
				m[k] = v
			}
			list = append(list, m)
		}
		text, err := json.Marshal(list)
		if err != nil {
			rt.Fatal(err)
		}
		want, wantErr := payload.Decode("readings", payload.Input{Payload: text}, nil)
		for _, format := range []string{"cbor", "readings"} {
			got, gotErr := payload.Decode(format, payload.Input{Payload: marshal(t, list)}, nil)
			sortKept(t, want)
			sortKept(t, got)
			if a, b := showAll(want, wantErr), showAll(got, gotErr); a != b {
				rt.Fatalf("%s %s\ngot  %s\nwant %s", format, text, b, a)
			}
		}
	})
}

// sortKept writes contexts and what is kept aside in one way: members of a Go map have no order.
func sortKept(t testing.TB, items []payload.Item) {
	t.Helper()
	for _, it := range items {
		if it.Reading.Extra == nil {
			continue
		}
		for _, s := range []*string{&it.Reading.Extra.Context, &it.Reading.Extra.Aside} {
			if *s == "" {
				continue
			}
			var v any
			if err := json.Unmarshal([]byte(*s), &v); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			*s = string(b)
		}
	}
}

// What the reader takes the library takes, and what the library takes the reader takes but for what it refuses on
// purpose.
func FuzzCBOR(f *testing.F) {
	for _, format := range []string{"cbor", "senml-cbor"} {
		for _, path := range fixtures(f, format) {
			f.Add(fixture(f, path))
		}
	}
	modes := cbor.DecOptions{MaxNestedLevels: 64, DupMapKey: cbor.DupMapKeyQuiet, UTF8: cbor.UTF8RejectInvalid, TimeTag: cbor.DecTagIgnored}
	lib, err := modes.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := payload.Input{Payload: b, ReceivedAt: received}
		for _, format := range []string{"cbor", "senml-cbor"} {
			items, err := payload.Decode(format, in, nil)
			checkItems(t, format, in, items, err)
			if p, _ := err.(*payload.Problem); p == nil || p.Code != payload.CBORInvalid {
				if wf := lib.Wellformed(b); wf != nil {
					t.Fatalf("%s was taken as CBOR: %v", format, wf)
				}
			}
		}
	})
}

func TestCBOR_truncatedAtEveryByte(t *testing.T) {
	for _, path := range []string{"testdata/cbor/blood_pressure.hex", "testdata/cbor/numbers.hex", "testdata/cbor/indefinite.hex", "testdata/senml-cbor/labels.hex"} {
		whole := fixture(t, path)
		for n := range len(whole) {
			for _, format := range []string{"cbor", "senml-cbor"} {
				items, err := payload.Decode(format, payload.Input{Payload: whole[:n]}, nil)
				p, _ := err.(*payload.Problem)
				if len(items) != 0 || p == nil || p.Code != payload.CBORInvalid || p.Offset < 0 || p.Offset > n {
					t.Fatalf("%s: first %d bytes as %s: %d items, %v", path, n, format, len(items), err)
				}
			}
		}
	}
}

// Every float of 16 bits becomes a decimal that gives it again, and none is longer than five digits.
func TestCBOR_halves(t *testing.T) {
	for h := range 1 << 16 {
		b := append([]byte{0xf9}, byte(h>>8), byte(h))
		var want float64
		if err := cbor.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		got := payload.HalfDecimal(uint16(h))
		if math.IsNaN(want) || math.IsInf(want, 0) {
			if got != "1e999" {
				t.Fatalf("%04x: %s", h, got)
			}
			continue
		}
		var back float64
		if err := json.Unmarshal([]byte(got), &back); err != nil {
			t.Fatalf("%04x: %s: %v", h, got, err)
		}
		if d := math.Abs(back - want); d > ulp16(uint16(h))/2 {
			t.Fatalf("%04x is %v and became %s", h, want, got)
		}
		if digits := strings.Trim(strings.NewReplacer("-", "", ".", "").Replace(strings.Split(got, "e")[0]), "0"); len(digits) > 5 {
			t.Fatalf("%04x is %v and became %s", h, want, got)
		}
	}
}

// ulp16 is the distance between a float of 16 bits and the next.
func ulp16(h uint16) float64 {
	exp := max(int(h>>10&31), 1)
	return math.Ldexp(1, exp-25)
}

// A float of 32 bits is the decimal that the device meant.
func TestCBOR_singlesAreTheirDecimals(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tenths := rapid.IntRange(0, 99999).Draw(rt, "hundredths")
		want := float64(tenths) / 100
		var b [5]byte
		b[0] = 0xfa
		binary.BigEndian.PutUint32(b[1:], math.Float32bits(float32(want)))
		msg := append(marshal(t, map[string]any{"indicator": "weight", "taken_at": 1795300000000, "unit": "kg"}), "\x65value"...)
		msg[0]++
		items, err := payload.Decode("cbor", payload.Input{Payload: append(msg, b[:]...)}, nil)
		if err != nil || items[0].Problem != nil || items[0].Reading.V[0] != want {
			rt.Fatalf("%v became %s", want, showAll(items, err))
		}
	})
}

func TestCBOR_positions(t *testing.T) {
	good := marshal(t, map[string]any{"indicator": "heart_rate", "taken_at": 1795300000000, "unit": "/min", "value": 72})
	bad := marshal(t, map[string]any{"indicator": "heart_rate", "taken_at": 1795300000000, "value": 72})
	msg := join([]byte{0x83}, good, bad, good)
	items, err := payload.Decode("cbor", payload.Input{Payload: msg}, nil)
	if err != nil || len(items) != 3 || items[1].Problem == nil || items[1].Problem.Offset != 1+len(good) {
		t.Errorf("%s, problem %+v, want it at %d", showAll(items, err), items[1].Problem, 1+len(good))
	}
	pack := join([]byte{0x82}, marshal(t, map[int]any{0: "heart_rate", 1: "beat/min", 2: 72}), marshal(t, map[int]any{0: "heart_rate", 2: 72}))
	items, err = payload.Decode("senml", payload.Input{Payload: pack, ReceivedAt: received}, nil)
	if err != nil || len(items) != 2 || items[1].Problem == nil || items[1].Problem.Offset != len(pack)-len(marshal(t, map[int]any{0: "heart_rate", 2: 72})) {
		t.Errorf("%s, problem %+v", showAll(items, err), items[1].Problem)
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestCBOR_tooManyAndTooLarge(t *testing.T) {
	one := marshal(t, map[string]any{"indicator": "heart_rate", "taken_at": 1795300000000, "unit": "/min", "value": 72})
	var list []byte
	for range payload.MaxReadings + 1 {
		list = append(list, one...)
	}
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"501 readings":       {append([]byte{0x99, 501 >> 8, 501 & 255}, list...), payload.TooManyReadings},
		"64 KiB of zeros":    {make([]byte, payload.MaxBytes), payload.CBORInvalid},
		"64 KiB of breaks":   {bytes.Repeat([]byte{0xff}, payload.MaxBytes), payload.CBORInvalid},
		"64 KiB of arrays":   {bytes.Repeat([]byte{0x9f}, payload.MaxBytes), payload.CBORInvalid},
		"64 KiB of tags":     {bytes.Repeat([]byte{0xc0}, payload.MaxBytes), payload.CBORInvalid},
		"64 KiB of pieces":   {append([]byte{0x81, 0x7f}, bytes.Repeat([]byte{0x60}, payload.MaxBytes-2)...), payload.CBORInvalid},
		"more than 64 KiB":   {bytes.Repeat([]byte{0x80}, payload.MaxBytes+1), payload.TooLarge},
		"nothing":            {nil, payload.CBORInvalid},
		"64 KiB of controls": {append([]byte{0x81, 0x79, 0xff, 0x00}, bytes.Repeat([]byte{1}, 0xff00)...), ""},
	} {
		items, err := payload.Decode("cbor", payload.Input{Payload: tt.in}, nil)
		p, _ := err.(*payload.Problem)
		if tt.want == "" {
			if err != nil || len(items) != 1 || items[0].Problem.Code != payload.TypeWrong {
				t.Errorf("%s: %s", name, showAll(items, err))
			}
			continue
		}
		if p == nil || p.Code != tt.want || len(items) != 0 {
			t.Errorf("%s: %s, want %s", name, showAll(items, err), tt.want)
		}
	}
}

// go test -run '^$' -bench CBOR -benchmem ./devices/payload
func BenchmarkCBOR(b *testing.B) {
	var list []any
	for i := range 100 {
		list = append(list, map[string]any{"indicator": "heart_rate", "taken_at": vitals.At(time.Unix(1795300000+int64(i), 0)) / 1000, "value": 60 + float64(i)/2, "unit": "/min", "seq": i})
	}
	b.Run("kind=heart_rate/n=100", func(b *testing.B) { benchmarkFormat(b, "cbor", marshal(b, list)) })
}
