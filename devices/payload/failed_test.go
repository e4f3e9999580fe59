package payload_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// TestFailed: what a device says of a measurement that failed is kept, by every format that can say it. "" for class: it
// is refused, and is not a device error.
func TestFailed(t *testing.T) {
	received := vitals.At(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC))
	const at = `"taken_at":"2026-11-21T07:59:00Z"`
	native := func(s string) string { return `{"indicator":"blood_pressure",` + at + s + `}` }
	fhir := func(s string) string {
		return `{"resourceType":"Observation","status":"final","effectiveDateTime":"2026-11-21T07:59:00Z",` + s + `}`
	}
	const cuff = `"code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]}`
	const glucose = `"code":{"coding":[{"system":"http://loinc.org","code":"15074-8"}]}`
	for _, c := range []struct {
		name, format, in string
		indicator        vitals.Indicator
		class, code      string
		problem          string
	}{
		{"a code", "readings", native(`,"error":"E2"`), vitals.BloodPressure, "unknown", "E2", payload.StatusInvalid},
		{"a number", "readings", native(`,"error":{"code":4}`), vitals.BloodPressure, "unknown", "4", payload.StatusInvalid},
		{"code and class", "readings", native(`,"error":{"code":"E2","class":"cuff"}`), vitals.BloodPressure, "cuff", "E2", payload.StatusInvalid},
		{"a class alone", "readings", native(`,"error":{"class":"battery"},"user_slot":2`), vitals.BloodPressure, "battery", "", payload.StatusInvalid},
		{"a class that nobody knows", "readings", native(`,"error":{"code":"E2","class":"gremlins"}`), vitals.BloodPressure, "unknown", "E2", payload.StatusInvalid},
		{"a text is no code", "readings", native(`,"error":{"code":"<b>please call</b>","class":"motion"}`), vitals.BloodPressure, "motion", "", payload.StatusInvalid},
		{"no error", "readings", native(`,"error":0`), 0, "", "", payload.FieldMissing},
		{"an empty error", "readings", native(`,"error":{}`), 0, "", "", payload.FieldMissing},
		{"null", "readings", native(`,"error":null`), 0, "", "", payload.FieldMissing},
		{"without time", "readings", `{"indicator":"blood_pressure","error":"E2"}`, 0, "", "", payload.FieldMissing},
		{"CBOR", "readings", "\xa3\x69indicator\x66weight\x68taken_at\x74" + "2026-11-21T07:59:00Z" + "\x65error\x62E1", vitals.Weight, "unknown", "E1", payload.StatusInvalid},

		{"not calibrated", "nightscout", `{"type":"sgv","sgv":"5","date":1795300000000}`, vitals.Glucose, "sensor", "5", payload.StatusInvalid},
		{"absolute deviation", "nightscout", `{"type":"sgv","sgv":9,"date":1795300000000}`, vitals.Glucose, "sensor", "9", payload.StatusInvalid},
		{"bad radio", "nightscout", `{"type":"sgv","sgv":12,"date":1795300000000}`, vitals.Glucose, "signal", "12", payload.StatusInvalid},
		{"a code that nobody knows", "nightscout", `{"type":"sgv","sgv":38,"date":1795300000000}`, vitals.Glucose, "unknown", "38", payload.StatusInvalid},
		{"below zero", "nightscout", `{"type":"sgv","sgv":-3,"date":1795300000000}`, 0, "", "", payload.StatusInvalid},
		{"a meter has no codes", "nightscout", `{"type":"mbg","mbg":5,"date":1}`, 0, "", "", payload.TimeInvalid},

		{"cuff without result", "gatt/2A35", "00 FF07 FF07 FF07", vitals.BloodPressure, "unknown", "", payload.ValueInvalid},
		{"cuff that was loose", "gatt/2A35", "10 FF07 FF07 FF07 0200", vitals.BloodPressure, "cuff", "0x0002", payload.ValueInvalid},
		{"movement", "gatt/2A35", "10 FF07 FF07 FF07 0100", vitals.BloodPressure, "motion", "0x0001", payload.ValueInvalid},
		{"sample too small", "gatt/2A18", "0A 0100 EA07 0B 15 08 0A 1E 1E00 12 0400", vitals.Glucose, "sample", "0x0004", payload.StatusInvalid},
		{"strip of another type", "gatt/2A18", "0A 0100 EA07 0B 15 08 0A 1E 1E00 12 1000", vitals.Glucose, "strip", "0x0010", payload.StatusInvalid},
		{"malfunction", "gatt/2A18", "0A 0100 EA07 0B 15 08 0A 1E 1E00 12 0200", vitals.Glucose, "hardware", "0x0002", payload.StatusInvalid},
		{"fault", "gatt/2A18", "0A 0100 EA07 0B 15 08 0A 1E 1E00 12 0004", vitals.Glucose, "hardware", "0x0400", payload.StatusInvalid},
		{"too cold", "gatt/2A18", "0A 0100 EA07 0B 15 08 0A 1E 1E00 12 0001", vitals.Glucose, "temperature", "0x0100", payload.StatusInvalid},
		{"failed weight", "gatt/2A9D", "00 FFFF", vitals.Weight, "unknown", "0xFFFF", payload.StatusInvalid},
		{"failed body composition", "gatt/2A9C", "0000 FFFF", vitals.BodyFat, "unknown", "0xFFFF", payload.StatusInvalid},
		{"thermometer", "gatt/2A1C", "00 FFFF7F00", vitals.Temperature, "unknown", "", payload.ValueInvalid},
		{"CGM malfunction", "gatt/2AA7", "07 80 0C10 0600 08", vitals.Glucose, "sensor", "0x08", payload.StatusInvalid},
		{"CGM fault", "gatt/2AA7", "07 80 0C10 0600 20", vitals.Glucose, "hardware", "0x20", payload.StatusInvalid},
		{"oximeter sensor malfunction", "gatt/2A5E", "06 6200 5A00 0080 004000", vitals.SpO2, "sensor", "0x004000", payload.StatusInvalid},
		{"nobody wears the oximeter", "gatt/2A5F", "08 6200 5A00 000800", 0, "", "", payload.StatusInvalid},
		{"contact lost", "gatt/2A37", "04 FF", 0, "", "", payload.StatusInvalid},
		{"a control solution that failed", "gatt/2A18", "0A 0100 EA07 0B 15 08 0A 1E 1E00 1A 0400", 0, "", "", payload.NotAReading},

		{"not a number", "fhir", fhir(glucose + `,"dataAbsentReason":{"coding":[{"code":"not-a-number"}]}`), vitals.Glucose, "unknown", "not-a-number", payload.DataAbsent},
		{"an error", "fhir", fhir(glucose + `,"dataAbsentReason":{"coding":[{"code":"error"}]}`), vitals.Glucose, "unknown", "error", payload.DataAbsent},
		{"of a cuff", "fhir", fhir(cuff + `,"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"dataAbsentReason":{"coding":[{"code":"error"}]}}]`),
			vitals.BloodPressure, "unknown", "error", payload.DataAbsent},
		{"declined", "fhir", fhir(glucose + `,"dataAbsentReason":{"coding":[{"code":"asked-declined"}]}`), 0, "", "", payload.DataAbsent},
		{"invalid", "fhir", fhir(glucose + `,"interpretation":[{"coding":[{"code":"invalid"}]}],"valueQuantity":{"value":5,"system":"http://unitsofmeasure.org","code":"mmol/L"}`),
			vitals.Glucose, "unknown", "invalid", payload.StatusInvalid},
		{"still going on", "fhir", fhir(glucose + `,"interpretation":[{"coding":[{"code":"msmt-ongoing"}]}]`), 0, "", "", payload.StatusInvalid},
	} {
		t.Run(c.format+" "+c.name, func(t *testing.T) {
			in := payload.Input{Payload: []byte(c.in), ReceivedAt: received, DeviceTZ: time.UTC}
			if strings.HasPrefix(c.format, "gatt/") {
				b, err := hex.DecodeString(strings.ReplaceAll(c.in, " ", ""))
				if err != nil {
					t.Fatal(err)
				}
				in.Payload = b
			}
			items, err := payload.Decode(c.format, in, nil)
			if err != nil || len(items) != 1 {
				t.Fatalf("%d items, %v", len(items), err)
			}
			it := &items[0]
			if it.Problem == nil || it.Problem.Code != c.problem {
				t.Fatalf("problem %+v, want %s", it.Problem, c.problem)
			}
			if it.Failed() != (c.class != "") {
				t.Fatalf("Failed() = %v: %+v", it.Failed(), it.Reading)
			}
			if c.class == "" {
				return
			}
			r := &it.Reading
			if r.Indicator != c.indicator || r.Has != 0 || r.TakenAt == 0 || r.Extra.Fault != (vitals.DeviceFault{Class: c.class, Code: c.code}) {
				t.Errorf("got %s %+v at %v, want %s %s %s", r.Indicator, r.Extra.Fault, r.TakenAt.Time(), c.indicator, c.class, c.code)
			}
			again, _, err := vitals.DecodeReading(vitals.AppendReading(nil, r), nil)
			if err != nil || again.Extra == nil || again.Extra.Fault != r.Extra.Fault || !again.Failed() {
				t.Errorf("encoded and decoded: %+v, %v", again.Extra, err)
			}
			if q, _ := vitals.JudgeValues(r); q != vitals.Invalid {
				t.Errorf("quality %s", q)
			}
		})
	}
}

// TestFailed_beyondTheRangeIsAValue: LO in the place of a value must alert like the low glucose that it is.
func TestFailed_beyondTheRangeIsAValue(t *testing.T) {
	for code, flag := range map[string]vitals.Flags{"LO": vitals.BelowRange, "low": vitals.BelowRange, "HI": vitals.AboveRange, "High": vitals.AboveRange} {
		items, err := payload.Decode("readings", payload.Input{Payload: []byte(`{"indicator":"glucose","taken_at":"2026-11-21T07:59:00Z","error":{"code":"` + code + `"}}`)}, nil)
		if err != nil || len(items) != 1 || items[0].Problem != nil || items[0].Reading.Flags != flag || items[0].Reading.Unit != vitals.MgDL || items[0].Reading.Has != 1 {
			t.Errorf("%s: %+v, %v", code, items, err)
		}
	}
}

// TestFailed_aValueAndAnError is a value that the device itself doubts; the field stays where it was before.
func TestFailed_aValueAndAnError(t *testing.T) {
	in := `{"indicator":"glucose","taken_at":"2026-11-21T07:59:00Z","value":5.5,"unit":"mmol/L","error":{"code":"E1"},"x":1}`
	items, err := payload.Decode("readings", payload.Input{Payload: []byte(in)}, nil)
	if err != nil || len(items) != 1 || items[0].Problem != nil {
		t.Fatalf("%+v, %v", items, err)
	}
	r := items[0].Reading
	if r.Flags != vitals.Questionable || r.Failed() || r.Extra.Aside != `{"error":{"code":"E1"},"x":1}` {
		t.Errorf("%+v %+v", r, r.Extra)
	}
}

func TestWriteLines_DeviceError(t *testing.T) {
	var out strings.Builder
	n, _, err := payload.WriteLines(&out, "nightscout", payload.Input{Payload: []byte(`{"type":"sgv","sgv":"5","date":1795300000000}`)})
	const want = `{"accepted":false,"problem":"status_invalid","detail":"the sensor says: not calibrated","index":0,"offset":21,"error":{"class":"sensor","code":"5"}}` + "\n"
	if err != nil || n != 0 || out.String() != want {
		t.Errorf("got %d, %v, %s\nwant %s", n, err, out.String(), want)
	}
}
