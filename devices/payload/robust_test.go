package payload_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vitalwatch/devices/payload"
)

// samples has good messages of every format: what holds for all formats is tried on them. A format without is a failure.
var samples = map[string][]string{
	"readings": {`[{"id":"a","seq":17,"indicator":"blood_pressure","taken_at":"2026-11-21T08:00:00+08:00","values":{"systolic":142,"diastolic":91,"pulse":72},"unit":"mm[Hg]","context":{"posture":"sitting"},"flags":["movement"],"user_slot":1}]`},
	"cbor":     {unhexed("a469696e64696361746f7267676c75636f73656874616b656e5f6174c11a6b00df006576616c7565fa40f9999a64756e6974666d6d6f6c2f4c")},
	"fhir": {`{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"POST","url":"Observation"},"resource":{"resourceType":"Observation","id":"bp-1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"effectiveDateTime":"2026-11-21T08:00:00+08:00","component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":142,"system":"http://unitsofmeasure.org","code":"mm[Hg]"}},{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":91,"system":"http://unitsofmeasure.org","code":"mm[Hg]"}}]}}]}`,
		`{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"2339-0"}]},"effectivePeriod":{"start":"2026-11-21T07:00:00+08:00","end":"2026-11-21T07:00:00+08:00"},"valueQuantity":{"value":120,"comparator":"<","unit":"mg/dL"}}`},
	"omh": {`{"header":{"id":"1","creation_date_time":"2026-11-21T08:00:30+08:00","schema_id":{"namespace":"omh","name":"blood-pressure","version":"4.0"},"acquisition_provenance":{"source_name":"app","modality":"sensed"}},"body":{"systolic_blood_pressure":{"value":142,"unit":"mmHg"},"diastolic_blood_pressure":{"value":91,"unit":"mmHg"},"body_posture":"sitting","effective_time_frame":{"date_time":"2026-11-21T08:00:00+08:00"}}}`,
		`{"total_sleep_time":{"value":435,"unit":"min"},"deep_sleep_duration":{"value":1,"unit":"h"},"is_main_sleep":true,"effective_time_frame":{"time_interval":{"start_date_time":"2026-11-20T23:10:00+08:00","duration":{"value":8,"unit":"h"}}}}`,
		`{"rr_interval":{"value":800,"unit":"ms"},"effective_time_frame":{"date_time":"2026-11-21T08:00:00+08:00"}}`},
	"senml":      {`[{"bn":"urn:dev:mac:0024befffe804ff1/","bt":1795219200,"n":"heart_rate","u":"beat/min","v":72},{"n":"blood_pressure/systolic","u":"mm[Hg]","v":142,"t":60},{"n":"blood_pressure/diastolic","u":"mm[Hg]","v":91,"t":60}]`},
	"senml-cbor": {unhexed("81a521781d75726e3a6465763a6d61633a303032346265666666653830346666312f221a6b00df00006b74656d7065726174757265016343656c02fa42126666")},
	"gatt":       {`[{"characteristic":"2A18","hex":"1B 0F00 E807 01 1E 05 3A 1B 5301 6FB0 F8 0000"},{"characteristic":"2A34","hex":"02 0F00 02"},{"characteristic":"2AAA","hex":"E207 04 18 0D 08 18 08 04 E0C2"},{"characteristic":"2AA7","hex":"06000C100500"},{"characteristic":"2A37","base64":"AFU=","taken_at":"2026-11-21T08:00:00+08:00"}]`},
	"nightscout": {`[{"type":"sgv","sgv":157,"date":1441564810000,"dateString":"2015-09-06T14:40:10.000-04:00","direction":"FortyFiveUp","noise":1},{"eventType":"BG Check","glucose":5.5,"glucoseType":"Finger","units":"mmol","created_at":"2026-11-21T14:26:40.000Z"}]`},
	"ihealth":    {`{"BPDataList":[{"HP":120,"LP":90,"HR":100,"IsArr":-1,"MDate":1442491463,"TimeZone":"-0800"}],"BPUnit":0,"BGDataList":[{"BG":60,"DinnerSituation":"Before_breakfast","MDate":1442491463,"TimeZone":"-0800"}],"BGUnit":0,"WeightDataList":[{"WeightValue":77.5,"FatValue":22.1,"MDate":1442491463,"TimeZone":"-0800"}],"WeightUnit":0}`},
	"withings": {`{"status":0,"body":{"measuregrps":[{"attrib":0,"date":1433052383,"category":1,"measures":[{"value":68,"type":9,"unit":0},{"value":104,"type":10,"unit":0}]}]}}`,
		`{"status":0,"body":{"activities":[{"date":"2015-06-20","steps":2934,"timezone":"America/Los_Angeles"}]}}`,
		`{"status":0,"body":{"series":{"1434790500":{"steps":21,"duration":60}}}}`,
		`{"status":0,"body":{"series":[{"timezone":"Europe/Paris","startdate":1410521659,"enddate":1410542577,"data":{"wakeupduration":1800,"lightsleepduration":18540,"deepsleepduration":8460}}]}}`},
	"theengs":       {`{"id":"C4:7C:8D:11:22:33","model_id":"XMTZC05HM","weighing_mode":"person","unit":"kg","weight":72.45,"impedance":503,"UTCtime":"2026-11-21T00:00:00Z"}`, `{"servicedatauuid":"0x181d","servicedata":"223e30e607020e10293a","hr":70,"spo2":97}`},
	"homeassistant": {`{"state":"72.5","attributes":{"unit_of_measurement":"kg","device_class":"weight"},"last_changed":"2026-11-21T07:58:00.123456+00:00"}`, `{"state":"142/91","attributes":{"unit_of_measurement":"mmHg","indicator":"blood_pressure"}}`},
}

func unhexed(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// eachSample runs f for the good messages of every format.
func eachSample(t *testing.T, f func(t *testing.T, format, message string, binary bool)) {
	t.Helper()
	for _, format := range payload.Formats() {
		if len(samples[format]) == 0 {
			t.Errorf("the format %s has no samples", format)
		}
		for i, message := range samples[format] {
			t.Run(fmt.Sprint(format, "/", i), func(t *testing.T) { f(t, format, message, !json.Valid([]byte(message))) })
		}
	}
}

func input(message string) payload.Input {
	return payload.Input{Payload: []byte(message), ReceivedAt: received, DeviceTZ: shanghai}
}

func TestFormats_samplesAreGood(t *testing.T) {
	eachSample(t, func(t *testing.T, format, message string, _ bool) {
		items, err := payload.Decode(format, input(message), nil)
		checkItems(t, format, input(message), items, err)
		if err != nil || len(items) == 0 || slices.ContainsFunc(items, func(it payload.Item) bool { return it.Problem != nil }) {
			t.Errorf("got %s", showAll(items, err))
		}
	})
}

// A message that is cut gives nothing, and an error with the place.
func TestFormats_truncatedAtEveryByte(t *testing.T) {
	eachSample(t, func(t *testing.T, format, message string, binary bool) {
		want := payload.JSONInvalid
		if binary {
			want = payload.CBORInvalid
		}
		for n := range len(message) {
			items, err := payload.Decode(format, input(message[:n]), nil)
			var p *payload.Problem
			code := want
			if n == 0 && binary {
				code = payload.JSONInvalid // nothing at all may be either
			}
			if len(items) != 0 || !errors.As(err, &p) || p.Code != want && p.Code != code || p.Offset < 0 || p.Offset > n {
				t.Fatalf("cut to %d of %d bytes: %s, %+v", n, len(message), showAll(items, err), p)
			}
		}
	})
}

// Whatever stands in the place of a value, each item is a well-formed reading or says what is wrong, and where.
func TestFormats_anythingInTheFieldsPlace(t *testing.T) {
	strange := []string{"null", "true", "false", "0", "-0", "-1", "1e-400", "1e308", "-1e308", "1e999", "99999999999999999999999999999999", "0.1e1", `""`, `"\u0000"`,
		`"NaN"`, `"9999-99-99T99:99:99Z"`, `"` + strings.Repeat("é", 200) + `"`, "[]", "{}", "[[[[[[[[1]]]]]]]]", `{"value":null}`, `[{},{},[]]`, `{"a":1,"a":2}`}
	eachSample(t, func(t *testing.T, format, message string, binary bool) {
		if binary {
			anyBytes(t, format, message)
			return
		}
		at := places([]byte(message))
		if len(at) < 4 {
			t.Fatalf("%d values found", len(at))
		}
		for _, x := range strange {
			for _, p := range at {
				in := input(message[:p[0]] + x + message[p[1]:])
				items, err := payload.Decode(format, in, nil)
				checkItems(t, format, in, items, err)
				for _, it := range items {
					if it.Problem != nil && (it.Problem.Offset < -1 || it.Problem.Offset > len(in.Payload)) {
						t.Fatalf("%s: %+v", in.Payload, it.Problem)
					}
				}
			}
		}
	})
}

func anyBytes(t *testing.T, format, message string) {
	for i := range len(message) {
		for x := range 256 {
			b := []byte(message)
			b[i] = byte(x)
			in := input(string(b))
			items, err := payload.Decode(format, in, nil)
			checkItems(t, format, in, items, err)
		}
	}
}

func TestFormats_hostileMessages(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	noise := make([]byte, payload.MaxBytes)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, format := range payload.Formats() {
		for name, m := range map[string]string{
			"nothing": "", "64 KiB of nothing": strings.Repeat(" ", payload.MaxBytes), "64 KiB of zeros": strings.Repeat("\x00", payload.MaxBytes),
			"64 KiB of noise": string(noise), "64 KiB of 0xff": strings.Repeat("\xff", payload.MaxBytes), "deep": deep(30000), "deep objects": strings.Repeat(`{"a":`, 10000),
			"deep CBOR": strings.Repeat("\x81", payload.MaxBytes), "endless CBOR": strings.Repeat("\x9f", 1000), "a CBOR array of 2^63": "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
			"invalid UTF-8": "[{\"a\":\"\xc3\x28\"}]", "too large": strings.Repeat(" ", payload.MaxBytes+1), "many keys": manyKeys(3000, ""),
			"many empty items": "[" + strings.Repeat("{},", 20000) + "{}]",
		} {
			in := input(m)
			items, err := payload.Decode(format, in, nil)
			checkItems(t, format, in, items, err)
			for _, it := range items {
				if it.Problem == nil {
					t.Fatalf("%s: %s is a reading", format, name)
				}
			}
		}
	}
}

// No unit, no reading: what says the unit is taken out or names another quantity. Where a format defines the unit of a
// field there is nothing to take out, and the list says so.
func TestFormats_noUnitNoReading(t *testing.T) {
	said := map[string]*regexp.Regexp{
		"readings":      regexp.MustCompile(`"unit":"[^"]*"`),
		"cbor":          regexp.MustCompile(`dunitfmmol/L`),
		"fhir":          regexp.MustCompile(`"(unit|code)":"(mm\[Hg\]|mg/dL)"`),
		"omh":           regexp.MustCompile(`"unit":"[^"]*"`),
		"senml":         regexp.MustCompile(`"u":"[^"]*"`),
		"senml-cbor":    regexp.MustCompile(`\x01cCel`),
		"nightscout":    regexp.MustCompile(`"units":"mmol"`), // sgv and mbg are mg/dL by definition
		"ihealth":       regexp.MustCompile(`"(BP|BG|Weight)Unit":0`),
		"withings":      regexp.MustCompile(`"unit":0`), // the power of ten; kg, mmHg and steps are defined by the type
		"theengs":       regexp.MustCompile(`"unit":"kg"`),
		"homeassistant": regexp.MustCompile(`"unit_of_measurement":"[^"]*"`),
		"gatt":          nil, // by the characteristic
	}
	eachSample(t, func(t *testing.T, format, message string, binary bool) {
		re, listed := said[format]
		if !listed {
			t.Fatalf("nobody says where %s has its unit", format)
		}
		if re == nil {
			return
		}
		before, err := payload.Decode(format, input(message), nil)
		for _, at := range re.FindAllStringIndex(message, -1) {
			cut := message[at[0]:at[1]]
			others := []string{`"x":1`}
			if !binary {
				others = append(others, regexp.MustCompile(`:.*`).ReplaceAllString(cut, `:"px"`), regexp.MustCompile(`:.*`).ReplaceAllString(cut, `:""`), regexp.MustCompile(`:.*`).ReplaceAllString(cut, `:null`))
			} else {
				others = []string{strings.Replace(cut, cut[len(cut)-3:], "xyz", 1)}
			}
			for _, other := range others {
				after, err := payload.Decode(format, input(message[:at[0]]+other+message[at[1]:]), nil)
				good := 0
				for _, it := range after {
					if it.Problem == nil {
						good++
					}
				}
				if err == nil && good >= len(before) {
					t.Errorf("%s instead of %s: still %s", other, cut, showAll(after, err))
				}
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// One bad item does not cost its neighbours, and is named by its place.
func TestFormats_goodBesideBad(t *testing.T) {
	for format, c := range map[string]struct{ list, good, bad string }{
		"readings":      {"[%s]", `{"indicator":"heart_rate","taken_at":"2026-11-21T08:00:00+08:00","value":72,"unit":"/min"}`, `{"indicator":"mood"}`},
		"fhir":          {`{"resourceType":"Bundle","type":"batch","entry":[%s]}`, `{"resource":` + samples["fhir"][1] + `}`, `{"resource":{"resourceType":"Observation","status":"vanished"}}`},
		"omh":           {"[%s]", samples["omh"][0], `{"header":{},"body":{}}`},
		"senml":         {"[%s]", `{"n":"heart_rate","u":"beat/min","v":72,"t":1795219200}`, `{"n":"mood","u":"Cel","v":1}`},
		"gatt":          {"[%s]", `{"characteristic":"2A37","hex":"0055"}`, `{"characteristic":"2A37","hex":"00"}`},
		"nightscout":    {"[%s]", `{"type":"sgv","sgv":100,"date":1795300000000}`, `{"type":"cal"}`},
		"ihealth":       {`{"BODataList":[%s]}`, `{"BO":99,"MDate":1442491463,"TimeZone":"-0800"}`, `{"BO":"?"}`},
		"withings":      {`{"measuregrps":[%s]}`, `{"date":1433052383,"category":1,"measures":[{"value":70,"type":1,"unit":0}]}`, `{"date":1433052383,"category":2,"measures":[]}`},
		"theengs":       {"[%s]", `{"hr":66,"unixtime":1795300000}`, `{"tempc":21,"hum":40}`},
		"homeassistant": {"[%s]", samples["homeassistant"][0], `{"state":"unavailable"}`},
	} {
		var out strings.Builder
		in := input(fmt.Sprintf(c.list, strings.Join([]string{c.good, c.bad, c.good}, ",")))
		n, refused, err := payload.WriteLines(&out, format, in)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if n != 2 || refused || err != nil || len(lines) != 3 {
			t.Errorf("%s: %d accepted, %v, %v\n%s", format, n, refused, err, &out)
			continue
		}
		for i, line := range lines {
			var x struct {
				Accepted        bool
				Problem, Detail string
				Index           int
			}
			if err := json.Unmarshal([]byte(line), &x); err != nil || x.Accepted != (i != 1) || i == 1 && (x.Index != 1 || x.Problem == "" || x.Detail == "") {
				t.Errorf("%s: line %d: %s, %v", format, i, line, err)
			}
		}
	}
}

// What was not measured on a person is no reading, in every format that can say so; what is beyond the range of a device is
// its end with a flag.
func TestFormats_notAReadingAndBeyondTheRange(t *testing.T) {
	fhir := func(more string) string {
		return `{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"2339-0"}]},"effectiveDateTime":"2026-11-21T07:00:00+08:00",` + more + `}`
	}
	native := func(flag string) string {
		return `{"indicator":"glucose","taken_at":"2026-11-21T08:00:00+08:00","value":33.3,"unit":"mmol/L","flags":["` + flag + `"]}`
	}
	const quantity = `"valueQuantity":{"value":500,"unit":"mg/dL"}`
	for _, c := range []struct{ format, in, want string }{
		{"readings", native("control_solution"), payload.NotAReading}, {"readings", native("test"), payload.NotAReading}, {"readings", native("demo"), payload.NotAReading},
		{"readings", native("goal"), payload.NotAReading}, {"readings", native("calibration"), payload.NotAReading},
		{"readings", native("above_range"), "[above_range]"}, {"readings", native("below_range"), "[below_range]"},
		{"fhir", fhir(`"valueQuantity":{"value":500,"comparator":">","unit":"mg/dL"}`), "[above_range]"},
		{"fhir", fhir(`"valueQuantity":{"value":20,"comparator":"<=","unit":"mg/dL"}`), "[below_range]"},
		{"fhir", fhir(quantity + `,"interpretation":[{"coding":[{"code":"demo-data"}]}]`), payload.NotAReading},
		{"fhir", fhir(quantity + `,"interpretation":[{"coding":[{"code":"test-data"}]}]`), payload.NotAReading},
		{"fhir", fhir(quantity + `,"interpretation":[{"coding":[{"code":"calibration-ongoing"}]}]`), payload.NotAReading},
		{"fhir", fhir(quantity + `,"meta":{"security":[{"code":"HTEST"}]}`), payload.NotAReading},
		{"fhir", strings.Replace(fhir(quantity), `"http://loinc.org","code":"2339-0"`, `"urn:iso:std:iso:11073:10101","code":"160208"`, 1), payload.NotAReading},
		{"fhir", strings.Replace(fhir(quantity), "2339-0", "97507-8", 1), payload.NotAReading},
		{"omh", `{"blood_glucose":{"value":95,"unit":"mg/dL"},"descriptive_statistic":"standard deviation","effective_time_frame":{"date_time":"2026-11-21T08:00:00+08:00"}}`, payload.NotAReading},
		{"omh", `{"blood_glucose":{"value":95,"unit":"mg/dL"},"specimen_source":"urine","effective_time_frame":{"date_time":"2026-11-21T08:00:00+08:00"}}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2A18","hex":"02 0200 EA07 0B 15 08 00 00 6FB0 1A"}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2A18","hex":"02 0200 EA07 0B 15 08 00 00 6FB0 41"}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2A36","hex":"00 7800 FF07 FF07"}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2A5F","hex":"04 6200 5A00 0010"}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2AA9","hex":"0500 3F3FFF A7E0"}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2A19","hex":"57"}`, payload.NotAReading},
		{"gatt", `{"characteristic":"2AA7","hex":"07 20 FF07 0600 80"}`, "[above_range]"},
		{"nightscout", `{"type":"cal","slope":1,"date":1795300000000}`, payload.NotAReading},
		{"nightscout", `{"type":"sgv","sgv":39,"date":1795300000000}`, "[below_range]"}, {"nightscout", `{"type":"sgv","sgv":"HIGH","date":1795300000000}`, "[above_range]"},
		{"withings", `{"measuregrps":[{"date":1433052383,"category":2,"measures":[{"value":70,"type":1,"unit":0}]}]}`, payload.NotAReading},
		{"theengs", `{"weighing_mode":"object","unit":"kg","weight":9.55}`, payload.NotAReading},
		{"homeassistant", `{"state":"unknown","attributes":{"unit_of_measurement":"kg","device_class":"weight"}}`, payload.NotAReading},
	} {
		got := showAll(payload.Decode(c.format, input(c.in), nil))
		if got != c.want && (c.want[0] != '[' || !strings.Contains(got, c.want)) {
			t.Errorf("%s %s: got %s, want %s", c.format, c.in, got, c.want)
		}
	}
}

// Texts of a payload are not taken apart as if they were bytes of ours: escapes mean what they stand for.
func TestFormats_escapedKeys(t *testing.T) {
	escaped := func(s string) string {
		return regexp.MustCompile(`"([a-zA-Z])([a-zA-Z_]*)":`).ReplaceAllStringFunc(s, func(m string) string {
			return fmt.Sprintf(`"\u%04x%s`, m[1], m[2:])
		})
	}
	eachSample(t, func(t *testing.T, format, message string, binary bool) {
		if binary {
			return
		}
		want := showAll(payload.Decode(format, input(message), nil))
		got := showAll(payload.Decode(format, input(escaped(message)), nil))
		if plain := func(s string) string {
			return string(bytes.ToLower([]byte(regexp.MustCompile(`(?m) (aside=)?\{.*$`).ReplaceAllString(s, ""))))
		}; plain(got) != plain(want) {
			t.Errorf("%s\ngot  %s\nwant %s", escaped(message), got, want)
		}
	})
}
