package payload_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vitalwatch/devices/payload"
)

// jsonFormats are those whose messages are JSON texts of foreign standards.
var jsonFormats = []string{"fhir", "omh", "senml"}

// single cuts the fixtures of a format into messages of one item.
func single(t testing.TB, format string) [][]byte {
	t.Helper()
	var out [][]byte
	for _, f := range fixtures(t, format) {
		b := fixture(t, f)
		var list []json.RawMessage
		var bundle struct{ Entry []json.RawMessage }
		switch {
		case json.Unmarshal(b, &list) == nil:
			for _, x := range list {
				out = append(out, []byte("["+string(x)+"]"))
			}
		case json.Unmarshal(b, &bundle) == nil && bundle.Entry != nil:
			for _, x := range bundle.Entry {
				out = append(out, fmt.Appendf(nil, `{"resourceType":"Bundle","type":"batch","entry":[%s]}`, x))
			}
		default:
			out = append(out, b)
		}
	}
	return out
}

// compact takes the white space out, so that a cut at every byte is a cut in something.
func compact(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestForeignJSON_truncatedAtEveryByte(t *testing.T) {
	for _, format := range jsonFormats {
		for _, f := range fixtures(t, format) {
			whole := compact(t, fixture(t, f))
			step := max(1, len(whole)/800) // every byte of all but the longest
			for n := 0; n < len(whole); n += step {
				items, err := payload.Decode(format, payload.Input{Payload: whole[:n], ReceivedAt: received}, nil)
				p, _ := err.(*payload.Problem)
				if len(items) != 0 || p == nil || p.Code != payload.JSONInvalid || p.Offset < 0 || p.Offset > n {
					t.Fatalf("%s: first %d bytes: %s", f, n, showChanges(items, err))
				}
			}
		}
	}
}

// places lists where the values of a text stand: [start, end) of each.
func places(b []byte) (out [][2]int) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var open []int
	key := []bool{}
	for {
		tok, err := dec.Token()
		if err != nil {
			return out
		}
		end := int(dec.InputOffset())
		switch d := tok.(type) {
		case json.Delim:
			switch d {
			case '{', '[':
				open = append(open, end-1)
				key = append(key, d == '{')
			default:
				out = append(out, [2]int{open[len(open)-1], end})
				open, key = open[:len(open)-1], key[:len(key)-1]
				if len(key) > 0 && out != nil && isObject(b, open) {
					key[len(key)-1] = true
				}
			}
			continue
		default:
			if len(key) > 0 && key[len(key)-1] {
				key[len(key)-1] = false // that was a key
				continue
			}
			text, _ := json.Marshal(tok)
			start := end - len(text)
			if start >= 0 && bytes.Equal(b[start:end], text) {
				out = append(out, [2]int{start, end})
			}
			if isObject(b, open) {
				key[len(key)-1] = true
			}
		}
	}
}

func isObject(b []byte, open []int) bool { return len(open) > 0 && b[open[len(open)-1]] == '{' }

// Whatever type stands where another one is expected: a typed problem or a well-formed reading, never a panic.
func TestForeignJSON_wrongTypes(t *testing.T) {
	tried := 0
	for _, format := range jsonFormats {
		for _, b := range single(t, format) {
			b = compact(t, b)
			for _, at := range places(b) {
				for _, x := range []string{"null", "true", "-7", "1e308", `"x"`, `""`, "[]", "{}", `[[{"a":[]}]]`} {
					in := payload.Input{Payload: slices.Concat(b[:at[0]], []byte(x), b[at[1]:]), ReceivedAt: received, DeviceTZ: shanghai}
					items, err := payload.Decode(format, in, nil)
					checkItems(t, format, in, items, err)
					tried++
				}
			}
		}
	}
	if tried < 10000 {
		t.Errorf("%d messages tried: the places were not found", tried)
	}
}

// A member that is left out is a reading less or a reading that says less, never one that says something else.
func TestForeignJSON_missingUnitOrTime(t *testing.T) {
	for format, cases := range map[string][]string{
		"fhir": {`"code":"%s"`, `"effectiveDateTime":"2026-11-22T08:00:00+08:00"`},
	} {
		good := `{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"effectiveDateTime":"2026-11-22T08:00:00+08:00","valueQuantity":{"value":72,"system":"http://unitsofmeasure.org","code":"/min"}}`
		for _, c := range []struct{ drop, want string }{
			{`,"code":"/min"`, payload.UnitMissing}, {cases[1] + ",", payload.FieldMissing}, {`"status":"final",`, payload.FieldMissing},
			{`"value":72,`, payload.FieldMissing}, {`"resourceType":"Observation",`, payload.FieldMissing},
		} {
			if !strings.Contains(good, c.drop) {
				t.Fatal(c.drop)
			}
			items, err := payload.Decode(format, payload.Input{Payload: []byte(strings.Replace(good, c.drop, "", 1)), ReceivedAt: received}, nil)
			if got := showAll(items, err); got != c.want {
				t.Errorf("without %s: %s, want %s", c.drop, got, c.want)
			}
		}
	}
}

func TestForeignJSON_hostile(t *testing.T) {
	hostile(t, "fhir", string(compact(t, fixture(t, "testdata/fhir/transaction.json"))))
	hostile(t, "omh", string(compact(t, fixture(t, "testdata/omh/shimmer.json"))))
	for name, c := range map[string]struct{ in, want string }{
		"64 KiB of nothing": {strings.Repeat(" ", payload.MaxBytes), payload.JSONInvalid},
		"invalid UTF-8":     {"[{\"n\":\"\xff\"}]", payload.JSONInvalid},
		"deep":              {strings.Repeat(`[`, 9000) + strings.Repeat("]", 9000), payload.JSONInvalid},
		"a label twice":     {`[{"n":"heart_rate","n":"spo2","u":"%","v":97}]`, payload.JSONInvalid},
		"501 records":       {"[" + strings.Repeat("7,", 500) + "7]", payload.TooManyReadings},
		"3000 pulses":       {`[{"bu":"/min","bv":1},` + strings.Repeat(`{"n":"pulse","v":1},`, 3000) + `7]`, payload.TooManyReadings},
	} {
		items, err := payload.Decode("senml", payload.Input{Payload: []byte(c.in), ReceivedAt: received}, nil)
		if p, _ := err.(*payload.Problem); p == nil || p.Code != c.want || len(items) != 0 {
			t.Errorf("%s: %s, want %s", name, showAll(items, err), c.want)
		}
	}
}

// What was sent does not stand in a reason: reasons are logged, stored and shown.
func TestForeignJSON_detailsQuoteNothing(t *testing.T) {
	const marked = "Zanzibar"
	for _, format := range jsonFormats {
		for _, b := range single(t, format) {
			b = compact(t, b)
			for _, at := range places(b) {
				in := payload.Input{Payload: slices.Concat(b[:at[0]], []byte(`"`+marked+`"`), b[at[1]:]), ReceivedAt: received}
				items, err := payload.Decode(format, in, nil)
				if err != nil && strings.Contains(err.Error(), marked) {
					t.Fatalf("%s: %v", in.Payload, err)
				}
				for _, it := range items {
					if it.Problem != nil && strings.Contains(it.Problem.Error(), marked) {
						t.Fatalf("%s: %v", in.Payload, it.Problem)
					}
				}
			}
		}
	}
}

// Local times need the device's zone; the hour that stands twice is the first of the two.
func TestForeignJSON_localTimes(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zone data: ", err)
	}
	fhir := `{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"effectiveDateTime":"%s","valueQuantity":{"value":72,"system":"http://unitsofmeasure.org","code":"/min"}}`
	omh := `{"heart_rate":{"value":72,"unit":"beats/min"},"effective_time_frame":{"date_time":"%s"}}`
	for _, c := range []struct{ local, want string }{
		{"2026-07-01T08:00:00", "2026-07-01T08:00:00+02:00"},
		{"2026-01-15T08:00:00.5", "2026-01-15T08:00:00+01:00"},
		{"2026-10-25T02:30:00", "2026-10-25T02:30:00+02:00"},
		{"2026-03-29T02:30:00", "2026-03-29T02:30:00+01:00"},
	} {
		for format, text := range map[string]string{"fhir": fhir, "omh": omh} {
			items, err := payload.Decode(format, payload.Input{Payload: fmt.Appendf(nil, text, c.local), ReceivedAt: received, DeviceTZ: berlin}, nil)
			if want := "heart_rate value=72 /min " + c.want; showAll(items, err) != want {
				t.Errorf("%s %s: %s, want %s", format, c.local, showAll(items, err), want)
			}
		}
	}
}

// The examples of the HL7 guide for personal health devices.
func TestFHIR_phdGuide(t *testing.T) {
	dir := filepath.Join(sharedDir(), "data", "fhir-phd")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("skipped: no examples of HL7/phd in ", dir)
	}
	for file, want := range map[string]string{
		"compound-numeric-blood-pressure.json":  "blood_pressure systolic=116 diastolic=71 mean=86 mm[Hg] 2018-11-11T11:38:15-05:00 id=compound-numeric-blood-pressure",
		"glucose-observation.json":              "glucose value=99 mg/dL 2025-01-08T19:07:48-05:00 id=glucose-observation",
		"temperature-observation.json":          "temperature value=36.5 Cel 2025-01-08T19:07:48-05:00 id=temperature-observation",
		"numeric-observation-not-a-number.json": payload.DataAbsent,
	} {
		got := showAll(payload.Decode("fhir", payload.Input{Payload: fixture(t, filepath.Join(dir, file)), ReceivedAt: received}, nil))
		if before, _, _ := strings.Cut(got, " aside="); before != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func fuzzFixtures(f *testing.F, format string) {
	for _, path := range fixtures(f, format) {
		f.Add(fixture(f, path))
	}
	for _, b := range single(f, format) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, tz := range []*time.Location{nil, shanghai} {
			in := payload.Input{Payload: b, ReceivedAt: received, DeviceTZ: tz}
			items, err := payload.Decode(format, in, nil)
			checkItems(t, format, in, items, err)
		}
	})
}

func FuzzFHIR(f *testing.F) { fuzzFixtures(f, "fhir") }

// go test -run '^$' -bench FHIR -benchmem ./devices/payload
func BenchmarkFHIR(b *testing.B) {
	all := map[string]string{
		"heart_rate":     `{"resourceType":"Observation","id":"hr%d","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Heart rate"},"subject":{"reference":"Patient/example"},"effectiveDateTime":"2026-11-22T08:00:00+08:00","valueQuantity":{"value":44,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}}`,
		"blood_pressure": `{"resourceType":"Observation","id":"bp%d","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"urn:iso:std:iso:11073:10101","code":"150020"},{"system":"http://loinc.org","code":"85354-9"}],"text":"Blood pressure"},"subject":{"reference":"Patient/1"},"device":{"reference":"Device/2"},"effectiveDateTime":"2018-11-11T11:38:15-05:00","component":[{"code":{"coding":[{"system":"urn:iso:std:iso:11073:10101","code":"150021"},{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":116,"unit":"mm[Hg]","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},{"code":{"coding":[{"system":"urn:iso:std:iso:11073:10101","code":"150022"},{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":71,"unit":"mm[Hg]","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}]}`,
	}
	for _, kind := range []string{"heart_rate", "blood_pressure"} {
		for _, n := range []int{1, 40} {
			var entries []string
			for i := range n {
				entries = append(entries, `{"resource":`+fmt.Sprintf(all[kind], i)+`,"request":{"method":"POST","url":"Observation"}}`)
			}
			msg := `{"resourceType":"Bundle","type":"transaction","entry":[` + strings.Join(entries, ",") + `]}`
			b.Run(fmt.Sprintf("kind=%s/n=%d", kind, n), func(b *testing.B) {
				b.SetBytes(int64(len(msg)))
				benchmarkFormat(b, "fhir", []byte(msg))
			})
		}
	}
}
