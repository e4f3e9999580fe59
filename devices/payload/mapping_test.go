package payload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"

	"vitalwatch/devices/payload"
)

func mapping(t testing.TB, yaml string) *payload.Mapping {
	t.Helper()
	m, err := payload.ParseMapping("m.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The shipped mappings, each with its fixtures: NAME.json is decoded and gives NAME.want.
func TestMappings_shipped(t *testing.T) {
	ms, err := payload.LoadMappings(payload.MappingFolder{Name: "configs/mappings", FS: os.DirFS("../../configs/mappings")})
	if err != nil {
		t.Fatal(err)
	}
	if len(ms) < 2 {
		t.Fatalf("got %d mappings", len(ms))
	}
	for _, m := range ms {
		fixtures, err := filepath.Glob("testdata/mappings/" + m.Format + "/*.json")
		if err != nil || len(fixtures) == 0 {
			t.Errorf("%s has no fixtures: %v", m.Format, err)
		}
		for _, f := range fixtures {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(f, ".json") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			if got := showAll(m.Decode(payload.Input{Payload: in, ReceivedAt: received}, nil)); got != strings.TrimSpace(string(want)) {
				t.Errorf("%s\ngot\n%s\nwant\n%s", f, got, want)
			}
		}
	}
}

const scaleMapping = `
format: shop_scale
source: a letter of the vendor
items: data.list
time: {path: at, format: local, layout: DD.MM.YYYY hh:mm, zone: Asia/Shanghai}
id: no
seq: n
user_slot: user
skip:
  - {when: {mode: [demo, goal]}, reason: a demonstration or a goal}
readings:
  - indicator_from: {path: what, map: {W: weight, T: temperature}}
    when: {what: [W, T, X]}
    unit_from: {path: u, map: {0: kg, 1: lb, 2: Cel}}
    values: {value: v * 0.1}
    flags:
      self_reported: {by: [hand, "1"]}
      low_battery: {battery.low: ["true"], battery.seen: ["7"]}
    activity: {path: act, map: {run: active}}
    context: {room: room}
  - when: {what: [BP]}
    indicator: blood_pressure
    unit: kPa
    values: {systolic: p.0 / 10 + 1, diastolic: p.1 * 2.5 - 1, pulse: p.2}
    meal: {path: meal, map: {1: fasting}}
  - when: {what: [BP]}
    optional: true
    indicator: heart_rate
    unit: /min
    values: {value: hr}
`

func TestMapping_decodes(t *testing.T) {
	m := mapping(t, scaleMapping)
	item := func(s string) string {
		return `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":0,"v":705` + s + `}]}}`
	}
	for _, tt := range []cloudCase{
		{"plain", item(""), "weight value=70.5 kg 2026-11-21T08:00:00+08:00"},
		{"a list is one object", `{"data":{"list":{"at":"21.11.2026 08:00","what":"W","u":1,"v":705}}}`, "weight value=70.5 [lb_av] 2026-11-21T08:00:00+08:00"},
		{"all that there is", item(`,"no":"x1","n":7,"user":"2","by":1,"battery":{"low":true,"seen":7},"act":"run","room":"bath"`),
			`weight value=70.5 kg 2026-11-21T08:00:00+08:00 seq=7 user=2 [low_battery,self_reported] id=x1 {"activity":"active","room":"bath"}`},
		{"half of a flag's conditions", item(`,"battery":{"low":true}`), "weight value=70.5 kg 2026-11-21T08:00:00+08:00"},
		{"skipped", item(`,"mode":"goal"`), payload.NotAReading},
		{"nobody describes it", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"Z"}]}}`, payload.NotAReading},
		{"no translation of the indicator", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"X","u":0,"v":1}]}}`, payload.IndicatorUnknown},
		{"no translation of the unit", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":9,"v":1}]}}`, payload.UnitUnknown},
		{"no unit", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","v":1}]}}`, payload.UnitMissing},
		{"a unit of something else", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":2,"v":1}]}}`, payload.UnitUnknown},
		{"no value", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":0}]}}`, payload.FieldMissing},
		{"a value of a wrong type", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":0,"v":{}}]}}`, payload.TypeWrong},
		{"an infinite value", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":0,"v":1e400}]}}`, payload.ValueInvalid},
		{"no time", `{"data":{"list":[{"what":"W","u":0,"v":705}]}}`, payload.FieldMissing},
		{"a time of another layout", `{"data":{"list":[{"at":"2026-11-21 08:00","what":"W","u":0,"v":705}]}}`, payload.TimeInvalid},
		{"no date", `{"data":{"list":[{"at":"31.02.2026 08:00","what":"W","u":0,"v":705}]}}`, payload.TimeInvalid},
		{"a slot that is none", item(`,"user":256`), payload.TypeWrong},
		{"a seq that is none", item(`,"n":-1`), payload.TypeWrong},
		{"two readings of an item", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"BP","p":[179,4.4,70],"hr":"71","meal":1,"no":5}]}}`,
			`blood_pressure systolic=18.9 diastolic=10 pulse=70 kPa 2026-11-21T08:00:00+08:00 meal=fasting id=5 {"meal":"fasting"}` + "\nheart_rate value=71 /min 2026-11-21T08:00:00+08:00 id=5/heart_rate"},
		{"an optional one left out", `{"data":{"list":[{"at":"21.11.2026 08:00","what":"BP","p":[179,4.4]}]}}`, "blood_pressure systolic=18.9 diastolic=10 kPa 2026-11-21T08:00:00+08:00"},
		{"no items", `{"data":{}}`, payload.FieldMissing},
		{"items of a wrong type", `{"data":{"list":7}}`, payload.TypeWrong},
		{"an item that is none", `{"data":{"list":[7]}}`, payload.TypeWrong},
		{"too many", `{"data":{"list":[` + strings.Repeat("7,", 600) + `7]}}`, "refused: too_many_readings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := showAll(m.Decode(payload.Input{Payload: []byte(tt.in), ReceivedAt: received}, nil)); got != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.in, got, tt.want)
			}
		})
	}
}

func TestMapping_times(t *testing.T) {
	for _, tt := range []struct{ time, value, want string }{
		{`{path: t, format: rfc3339}`, `"2026-11-21T08:00:00+08:00"`, "2026-11-21T08:00:00+08:00"},
		{`{path: t, format: rfc3339}`, `"2026-11-21T08:00:00"`, payload.TimeInvalid},
		{`{path: t, format: unix_s}`, `1795300000`, "2026-11-21T22:26:40Z"},
		{`{path: t, format: unix_s}`, `"1795300000.5"`, "2026-11-21T22:26:40Z"},
		{`{path: t, format: unix_s}`, `1795300000000`, payload.TimeInvalid},
		{`{path: t, format: unix_ms}`, `1795300000000`, "2026-11-21T22:26:40Z"},
		{`{path: t, format: unix_ms}`, `1795300000`, payload.TimeInvalid},
		{`{path: t, format: local_s, zone: "-0800"}`, `1442491463`, "2015-09-17T12:04:23-08:00"},
		{`{path: t, format: local_ms, zone_path: z}`, `1442491463000,"z":"-0800"`, "2015-09-17T12:04:23-08:00"},
		{`{path: t, format: local_ms, zone_path: z}`, `1442491463000,"z":"PST"`, payload.TimeInvalid},
		{`{path: t, format: local_ms, zone_path: z}`, `1442491463000`, "2015-09-17T12:04:23+08:00"}, // the device's
		{`{path: t, format: local, zone: device}`, `"2026-11-21 08:00:05"`, "2026-11-21T08:00:05+08:00"},
		{`{path: t, format: local, zone: Asia/Shanghai, layout: YYYYMMDDhhmmss}`, `"20261121080005"`, "2026-11-21T08:00:05+08:00"},
		{`{received: true}`, `null`, "heart"},
	} {
		m := mapping(t, "format: f\nsource: test\ntime: "+tt.time+"\nreadings:\n  - {indicator: heart_rate, unit: /min, values: {value: v}}\n")
		got := showAll(m.Decode(payload.Input{Payload: []byte(`{"v":60,"t":` + tt.value + `}`), ReceivedAt: received, DeviceTZ: shanghai}, nil))
		if want := strings.TrimSuffix("heart_rate value=60 /min "+tt.want, " heart"); got != want && got != tt.want {
			t.Errorf("%s of %s: got %s, want %s", tt.time, tt.value, got, tt.want)
		}
	}
}

// A scale that is a power of ten rounds once.
func TestMapping_scalesMoveTheDecimalPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, e := rapid.IntRange(-1e7, 1e7).Draw(t, "n"), rapid.IntRange(-6, 6).Draw(t, "e")
		formula := fmt.Sprintf("v * 1e%d", e)
		if e <= 0 {
			formula = "v / 1" + strings.Repeat("0", -e)
		} else if rapid.Bool().Draw(t, "plain") {
			formula = "v * 1" + strings.Repeat("0", e)
		}
		if strings.Contains(formula, "e") {
			return // 1e3 is a number like any other, not exact
		}
		m, err := payload.ParseMapping("m", []byte("format: f\nsource: test\ntime: {received: true}\nreadings:\n  - {indicator: heart_rate, unit: /min, values: {value: "+formula+"}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		items, err := m.Decode(payload.Input{Payload: []byte(fmt.Sprintf(`{"v":%d}`, n)), ReceivedAt: received}, nil)
		if err != nil || items[0].Problem != nil {
			t.Fatal(items, err)
		}
		want, _ := strconv.ParseFloat(fmt.Sprintf("%de%d", n, e), 64)
		if got := items[0].Reading.V[0]; got != want {
			t.Fatalf("%d by %s: got %v, want %v", n, formula, got, want)
		}
	})
}

func TestMapping_everyMistakeHasItsPlace(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"empty", "", "m.yaml: format: \"\" is not a name of a format: up to 32 of a-z 0-9 _ -, a letter first\n" +
			"m.yaml: source: is missing; say where the layout is described\n" +
			"m.yaml: time: name the path of the time, or received: true when the message has none\n" +
			"m.yaml: readings: is missing; describe at least one reading"},
		{"many", `format: gatt
source: x
colour: red
time: {path: t, format: unix}
skip:
  - {when: {a: []}}
readings:
  - indicator: mood
    unit: /min
    values: {value: v}
  - indicator: weight
    unit: mmHg
    values: {value: v * 0, pulse: p}
    flags: {happy: {x: [1]}}
    context: {meal: x}
  - indicator: blood_pressure
    values: {systolic: a..b}
`, `m.yaml:1:9: format: gatt is a built-in format; choose another name
m.yaml:3:1: unknown key colour
m.yaml:4:25: time.format: "unix" is none of rfc3339, unix_s, unix_ms, local, local_s, local_ms
m.yaml:6:5: skip.0: reason is missing; say what such items are
m.yaml:6:16: skip.0.when.a: name at least one value, such as [1]
m.yaml:8:16: readings.0.indicator: "mood" is no indicator
m.yaml:12:11: readings.1.unit: mmHg is not a unit of weight
m.yaml:13:21: readings.1.values.value: the scale is not a number other than 0
m.yaml:13:35: readings.1.values.pulse: is not a component of weight
m.yaml:14:20: readings.1.flags.happy: there is no such flag
m.yaml:15:21: readings.1.context.meal: is not a name that is free: a-z 0-9 _ -, not meal, not activity
m.yaml:16:5: readings.2: name unit or unit_from, one of them: a unit is never guessed
m.yaml:16:5: readings.2: values lacks a required component of blood_pressure
m.yaml:17:24: readings.2.values.systolic: "a..b" is not a path; write names and list indexes with dots between them, such as data.0.value`},
		{"local time without zone", "format: f\nsource: x\ntime: {path: t, format: local, layout: hh:mm}\nreadings: [{indicator: weight, unit: kg, values: {value: v}}]\n",
			`m.yaml:3:7: time: a local time needs zone: device, an offset such as +08:00 or a name such as Asia/Shanghai; or zone_path
m.yaml:3:40: time.layout: must have YYYY once, as in YYYY-MM-DD hh:mm:ss
m.yaml:3:40: time.layout: must have MM once, as in YYYY-MM-DD hh:mm:ss
m.yaml:3:40: time.layout: must have DD once, as in YYYY-MM-DD hh:mm:ss`},
		{"unknown words", "format: f\nsource: x\ntime: {received: true}\nreadings:\n  - indicator_from: {path: i, map: {a: mood}}\n    unit_from: {path: u, map: {b: px}}\n    values: {value: v}\n    meal: {path: m, map: {c: tea}}\n",
			`m.yaml:5:40: readings.0.indicator_from.map.a: "mood" is not an indicator
m.yaml:6:35: readings.0.unit_from.map.b: "px" is not a unit
m.yaml:8:30: readings.0.meal.map.c: "tea" is not a relation to a meal: fasting, before_meal, after_meal, casual, bedtime`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if _, err := payload.ParseMapping("m.yaml", []byte(tt.yaml)); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestUseMappings(t *testing.T) {
	t.Cleanup(func() {
		if err := payload.UseMappings(nil); err != nil {
			t.Error(err)
		}
	})
	const tail = "source: x\ntime: {received: true}\nreadings: [{indicator: heart_rate, unit: /min, values: {value: v}}]\n"
	a := mapping(t, "format: a_pulse\n"+tail)
	in := payload.Input{Payload: []byte(`{"v":60}`), ReceivedAt: received}
	if err := payload.UseMappings([]*payload.Mapping{a}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a_pulse", "map:a_pulse", "a_pulse/anything"} {
		if got := showAll(payload.Decode(name, in, nil)); got != "heart_rate value=60 /min" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if err := payload.UseMappings([]*payload.Mapping{a, mapping(t, "format: a_pulse\n"+tail)}); err == nil {
		t.Error("two mappings of one name were taken")
	}
	if got := showAll(payload.Decode("a_pulse", in, nil)); got != "heart_rate value=60 /min" {
		t.Errorf("after a refused change: got %s", got)
	}
	for _, name := range []string{"b_pulse", "map:readings", "map:"} {
		if got := showAll(payload.Decode(name, in, nil)); got != "refused: format_unknown" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestLoadMappings(t *testing.T) {
	const tail = "source: x\ntime: {received: true}\nreadings: [{indicator: heart_rate, unit: /min, values: {value: %s}}]\n"
	file := func(name, value string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("format: " + name + "\n" + fmt.Sprintf(tail, value))}
	}
	ours := payload.MappingFolder{Name: "embedded", FS: fstest.MapFS{"a.yaml": file("a", "v"), "b.yaml": file("b", "v")}}
	ms, err := payload.LoadMappings(ours, payload.MappingFolder{Name: "own", FS: fstest.MapFS{"x.yaml": file("b", "w"), "c.txt": file("c", "v")}})
	if err != nil || len(ms) != 2 || ms[0].Format != "a" || ms[1].Readings[0].Values["value"] != "w" {
		t.Errorf("got %+v, %v; want a and the own b", ms, err)
	}
	_, err = payload.LoadMappings(ours, payload.MappingFolder{Name: "own", FS: fstest.MapFS{"x.yaml": file("c", "v"), "y.yaml": file("c", "v"), "z.yaml": file("1", "v")}})
	want := "own/y.yaml:1:9: format: c is taken by own/x.yaml\nown/z.yaml:1:9: format: \"1\" is not a name of a format: up to 32 of a-z 0-9 _ -, a letter first"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func FuzzMapping(f *testing.F) {
	f.Add([]byte(scaleMapping), []byte(`{"data":{"list":[{"at":"21.11.2026 08:00","what":"W","u":0,"v":705}]}}`))
	f.Add([]byte("format: f\nsource: x\ntime: {path: t, format: unix_s}\nreadings: [{indicator: heart_rate, unit: /min, values: {value: v / 3 + 1}}]\n"), []byte(`{"v":60,"t":1795300000}`))
	f.Fuzz(func(t *testing.T, yaml, in []byte) {
		m, err := payload.ParseMapping("m", yaml)
		if err != nil {
			return
		}
		if err := payload.UseMappings([]*payload.Mapping{m}); err != nil {
			t.Fatal(err)
		}
		x := payload.Input{Payload: in, ReceivedAt: received, DeviceTZ: shanghai}
		items, err := payload.Decode("map:"+m.Format, x, nil)
		checkItems(t, "map:"+m.Format, x, items, err)
	})
}

// go test -run '^$' -bench Mapping -benchmem ./devices/payload
func BenchmarkMapping(b *testing.B) {
	if err := payload.UseMappings([]*payload.Mapping{mapping(b, scaleMapping)}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { payload.UseMappings(nil) })
	benchmarkFormat(b, "shop_scale", []byte(`{"data":{"list":`+repeated(`{"at":"21.11.2026 08:00","what":"W","u":0,"v":705}`, 100)+`}}`))
}
