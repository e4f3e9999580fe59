package payload_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vitalwatch/devices/payload"
)

// cloudCase is one message of a JSON format and what becomes of it.
type cloudCase struct{ name, in, want string }

func runCloud(t *testing.T, format string, cases []cloudCase) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			got := showAll(payload.Decode(format, payload.Input{Payload: []byte(tt.in), ReceivedAt: received}, nil))
			if got != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.in, got, tt.want)
			}
		})
	}
}

// hostile holds for every JSON format: whole messages that are refused, cut at every byte, and noise.
func hostile(t *testing.T, format, good string) {
	t.Helper()
	in := payload.Input{ReceivedAt: received, DeviceTZ: shanghai}
	for n := range len(good) - 1 {
		in.Payload = []byte(good[:n])
		if items, err := payload.Decode(format, in, nil); err == nil || len(items) != 0 {
			t.Fatalf("%s cut to %d bytes: %v", format, n, showAll(items, err))
		}
	}
	for name, c := range map[string]struct{ in, want string }{
		"invalid UTF-8":        {"{\"a\":\"\xff\"}", "refused: json_invalid"},
		"64 KiB of nothing":    {strings.Repeat(" ", payload.MaxBytes), "refused: json_invalid"},
		"64 KiB of zeros":      {strings.Repeat("\x00", payload.MaxBytes), "refused: json_invalid"},
		"too large":            {strings.Repeat(" ", payload.MaxBytes+1), "refused: too_large"},
		"deep":                 {strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), "refused: json_invalid"},
		"a number":             {"7", "refused: type_wrong"},
		"nothing":              {"null", "refused: type_wrong"},
		"empty array":          {"[]", ""},
		"an item that is none": {"[7]", payload.TypeWrong},
		"a key twice":          {`{"x":1,"x":2}`, payload.JSONInvalid},
		"501 items":            {"[" + strings.Repeat("7,", 500) + "7]", "refused: too_many_readings"},
	} {
		in.Payload = []byte(c.in)
		items, err := payload.Decode(format, in, nil)
		if got := showAll(items, err); got != c.want {
			t.Errorf("%s: %s: got %.200s, want %s", format, name, got, c.want)
		}
		checkItems(t, format, in, items, err)
	}
}

func fuzzJSON(f *testing.F, format string, seeds []cloudCase) {
	for _, c := range seeds {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := payload.Input{Payload: b, ReceivedAt: received, DeviceTZ: shanghai}
		items, err := payload.Decode(format, in, nil)
		checkItems(t, format, in, items, err)
	})
}

// repeated makes a JSON array of n times one object.
func repeated(s string, n int) string {
	return "[" + strings.Repeat(s+",", n-1) + s + "]"
}

var nightscoutCases = []cloudCase{
	{"an entry of a sensor", `[{"_id":"55ec98b5af1a2c6a10f7cd06","type":"sgv","sgv":157,"date":1441564810000,"dateString":"2015-09-06T14:40:10.000-04:00","device":"xDrip","direction":"FortyFiveUp","noise":1,"filtered":161696,"unfiltered":158816,"rssi":100}]`,
		`glucose value=157 mg/dL 2015-09-06T14:40:10-04:00 id=55ec98b5af1a2c6a10f7cd06 {"direction":"FortyFiveUp","noise":1,"rssi":100}`},
	{"as text", `{"type":"sgv","sgv":"120","date":1795300000000,"direction":"Flat"}`, `glucose value=120 mg/dL 2026-11-21T22:26:40Z {"direction":"Flat"}`},
	{"an error code as text", `{"type":"sgv","sgv":"5","date":1795300000000}`, payload.StatusInvalid},
	{"an error code", `{"type":"sgv","sgv":10,"date":1795300000000}`, payload.StatusInvalid},
	{"below all codes", `{"type":"sgv","sgv":-3,"date":1795300000000}`, payload.StatusInvalid},
	{"38", `{"type":"sgv","sgv":38,"date":1795300000000}`, payload.StatusInvalid},
	{"LOW", `{"type":"sgv","sgv":39,"date":1795300000000}`, "glucose value=39 mg/dL 2026-11-21T22:26:40Z [below_range]"},
	{"40 is a value", `{"type":"sgv","sgv":40,"date":1795300000000}`, "glucose value=40 mg/dL 2026-11-21T22:26:40Z"},
	{"HIGH", `{"type":"sgv","sgv":401,"date":1795300000000}`, "glucose value=401 mg/dL 2026-11-21T22:26:40Z [above_range]"},
	{"LOW in letters", `{"type":"sgv","sgv":"LOW","date":1795300000000}`, "glucose value=39 mg/dL 2026-11-21T22:26:40Z [below_range]"},
	{"a meter's low value is a value", `{"type":"mbg","mbg":30,"date":1795300000000}`, "glucose value=30 mg/dL 2026-11-21T22:26:40Z"},
	{"calibration", `{"type":"cal","slope":766,"intercept":20389,"scale":0.9,"date":1795300000000}`, payload.NotAReading},
	{"another type", `{"type":"etc","date":1795300000000}`, payload.NotAReading},
	{"type of a wrong type", `{"type":7,"sgv":100,"date":1795300000000}`, payload.TypeWrong},
	{"without type", `{"sgv":100,"date":1795300000000}`, "glucose value=100 mg/dL 2026-11-21T22:26:40Z"},
	{"noise", `{"type":"sgv","sgv":100,"noise":3,"date":1795300000000}`, `glucose value=100 mg/dL 2026-11-21T22:26:40Z [low_signal] {"noise":3}`},
	{"a direction that nobody knows", `{"type":"sgv","sgv":100,"direction":"RATE OUT OF RANGE","date":1795300000000}`, `glucose value=100 mg/dL 2026-11-21T22:26:40Z {"direction":"RATE OUT OF RANGE"}`},
	{"units said otherwise", `{"type":"mbg","mbg":5.5,"units":"mmol","date":1795300000000}`, "glucose value=5.5 mmol/L 2026-11-21T22:26:40Z"},
	{"units unknown", `{"type":"mbg","mbg":5.5,"units":"kg","date":1795300000000}`, payload.UnitUnknown},
	{"utcOffset", `{"type":"sgv","sgv":100,"utcOffset":-300,"date":1795300000000}`, "glucose value=100 mg/dL 2026-11-21T17:26:40-05:00"},
	{"only dateString", `{"type":"sgv","sgv":100,"dateString":"2026-11-21T22:26:40.5+08:00"}`, "glucose value=100 mg/dL 2026-11-21T22:26:40+08:00"},
	{"dateString without zone", `{"type":"sgv","sgv":100,"dateString":"2026-11-21T22:26:40"}`, payload.TimeInvalid},
	{"date in seconds", `{"type":"sgv","sgv":100,"date":1795300000}`, payload.TimeInvalid},
	{"absurd date", `{"type":"sgv","sgv":100,"date":1e300}`, payload.TimeInvalid},
	{"no date", `{"type":"sgv","sgv":100}`, payload.FieldMissing},
	{"no value", `{"type":"sgv","date":1795300000000}`, payload.FieldMissing},
	{"a value of a wrong type", `{"type":"sgv","sgv":[1],"date":1795300000000}`, payload.TypeWrong},
	{"a value that is no number", `{"type":"sgv","sgv":"many","date":1795300000000}`, payload.ValueInvalid},
	{"an infinite value", `{"type":"sgv","sgv":1e999,"date":1795300000000}`, payload.ValueInvalid},
	{"deleted", `{"type":"sgv","sgv":100,"date":1795300000000,"identifier":"x","isValid":false}`, payload.EnteredInError},
	{"not deleted", `{"type":"sgv","sgv":100,"date":1795300000000,"isValid":true}`, "glucose value=100 mg/dL 2026-11-21T22:26:40Z"},
	{"a finger stick among the treatments", `{"_id":"t1","eventType":"BG Check","glucose":5.5,"glucoseType":"Finger","units":"mmol","created_at":"2026-11-21T14:26:40.000Z","enteredBy":"Loop"}`,
		"glucose value=5.5 mmol/L 2026-11-21T14:26:40Z id=t1"},
	{"by hand, as text", `{"eventType":"Meal Bolus","glucose":"120","glucoseType":"Manual","units":"mg/dl","mills":1795300000000}`, "glucose value=120 mg/dL 2026-11-21T22:26:40Z [self_reported]"},
	{"a check that does not say how", `{"eventType":"BG Check","glucose":120,"units":"mg/dl","created_at":"2026-11-21T22:26:40+08:00"}`, "glucose value=120 mg/dL 2026-11-21T22:26:40+08:00"},
	{"a treatment that repeats the sensor", `{"eventType":"BG Check","glucose":120,"glucoseType":"Sensor","units":"mg/dl","created_at":"2026-11-21T22:26:40Z"}`, payload.NotAReading},
	{"a bolus that does not say how", `{"eventType":"Correction Bolus","glucose":120,"units":"mg/dl","created_at":"2026-11-21T22:26:40Z"}`, payload.NotAReading},
	{"a treatment without unit", `{"eventType":"BG Check","glucose":5.5,"glucoseType":"Finger","created_at":"2026-11-21T22:26:40Z"}`, payload.UnitMissing},
	{"a treatment of another unit", `{"eventType":"BG Check","glucose":5.5,"glucoseType":"Finger","units":"U","created_at":"2026-11-21T22:26:40Z"}`, payload.UnitUnknown},
	{"a treatment of no time", `{"eventType":"BG Check","glucose":5.5,"glucoseType":"Finger","units":"mmol"}`, payload.FieldMissing},
	{"a treatment of a wrong type", `{"eventType":"BG Check","glucose":[5.5],"glucoseType":"Finger","units":"mmol","created_at":"2026-11-21T22:26:40Z"}`, payload.TypeWrong},
	{"a basal rate", `{"eventType":"Temp Basal","rate":0.5,"duration":30,"created_at":"2026-11-21T22:26:40Z"}`, payload.NotAReading},
	{"good beside bad", `[{"type":"sgv","sgv":100,"date":1795300000000},{"type":"cal"},{"type":"sgv","sgv":101,"date":1795300300000}]`,
		"glucose value=100 mg/dL 2026-11-21T22:26:40Z\nnot_a_reading\nglucose value=101 mg/dL 2026-11-21T22:31:40Z"},
}

func TestNightscout(t *testing.T) {
	runCloud(t, "nightscout", nightscoutCases)
	for _, m := range []string{`{"type":"sgv","sgv":100,"date":1795300000000,"identifier":"x","isValid":false}`,
		`{"eventType":"BG Check","glucose":100,"units":"mg/dl","mills":1795300000000,"identifier":"x","isValid":false}`} {
		items, err := payload.Decode("nightscout", payload.Input{Payload: []byte(m), ReceivedAt: received}, nil)
		if got, want := showChanges(items, err), "entered_in_error: the sender takes this reading back; it was not taken as a new one VOIDS glucose value=100 mg/dL 2026-11-21T22:26:40Z id=x\n"; got != want {
			t.Errorf("%s\ngot  %swant %s", m, got, want)
		}
	}
	hostile(t, "nightscout", nightscoutCases[0].in)
}

func FuzzNightscout(f *testing.F) { fuzzJSON(f, "nightscout", nightscoutCases) }

// go test -run '^$' -bench Nightscout -benchmem ./devices/payload
func BenchmarkNightscout(b *testing.B) {
	benchmarkFormat(b, "nightscout", []byte(repeated(`{"type":"sgv","sgv":157,"date":1441564810000,"dateString":"2015-09-06T14:40:10.000-04:00","device":"xDrip","direction":"Flat","noise":1}`, 100)))
}

const ihealthTail = `"DataID":"d1","DataSource":"FromDevice","LastChangeTime":1442520270,"Lat":-1,"Lon":-1,"Note":"","MDate":1442491463,"TimeZone":"-0800"}`

var ihealthCases = []cloudCase{
	{"blood pressure", `{"BPDataList":[{"BPL":3,"HP":120,"LP":90,"HR":100,"IsArr":-1,` + ihealthTail + `],"BPUnit":0}`,
		"blood_pressure systolic=120 diastolic=90 pulse=100 mm[Hg] 2015-09-17T12:04:23-08:00 id=d1"},
	{"kPa, irregular", `{"BPDataList":[{"HP":16,"LP":12,"HR":0,"IsArr":1,` + ihealthTail + `],"BPUnit":1}`,
		"blood_pressure systolic=16 diastolic=12 kPa 2015-09-17T12:04:23-08:00 [irregular_pulse] id=d1"},
	{"by hand", `{"BPDataList":[{"HP":130,"LP":95,"DataSource":"Manual","MDate":1442498865,"TimeZone":"-0600"}],"BPUnit":0}`,
		"blood_pressure systolic=130 diastolic=95 mm[Hg] 2015-09-17T14:07:45-06:00 [self_reported]"},
	{"glucose", `{"BGDataList":[{"BG":60,"DinnerSituation":"Before_breakfast","DrugSituation":"Before_taking_pills",` + ihealthTail + `],"BGUnit":0}`,
		`glucose value=60 mg/dL 2015-09-17T12:04:23-08:00 meal=before_meal id=d1 {"meal":"before_meal","dinner_situation":"Before_breakfast","drug_situation":"Before_taking_pills"}`},
	{"glucose in mmol/L at a time that is no meal", `{"BGDataList":[{"BG":5.6,"DinnerSituation":"At_midnight","MDate":1442491463,"TimeZone":"+08:00"}],"BGUnit":1}`,
		`glucose value=5.6 mmol/L 2015-09-17T12:04:23+08:00 {"dinner_situation":"At_midnight"}`},
	{"weight with fat", `{"WeightDataList":[{"WeightValue":77.5643,"FatValue":22.1,"BMI":22.6,` + ihealthTail + `],"WeightUnit":0}`,
		"weight value=77.5643 kg 2015-09-17T12:04:23-08:00 id=d1\nbody_fat value=22.1 % 2015-09-17T12:04:23-08:00 id=d1/fat"},
	{"stones", `{"WeightDataList":[{"WeightValue":12.5,"FatValue":0,` + ihealthTail + `],"WeightUnit":2}`, "weight value=12.5 [stone_av] 2015-09-17T12:04:23-08:00 id=d1"},
	{"oxygen", `{"BODataList":[{"BO":99,"HR":80,` + ihealthTail + `]}`, "spo2 value=99 pulse=80 % 2015-09-17T12:04:23-08:00 id=d1"},
	{"steps and sleep", `{"ARDataList":[{"Steps":21,` + ihealthTail + `],"SRDataList":[{"HoursSlept":345,` + ihealthTail + `]}`,
		"steps value=21 {steps} 2015-09-17T12:04:23-08:00 id=d1\nsleep total=345 min 2015-09-17T12:04:23-08:00 id=d1"},
	{"a night is of its end", `{"SRDataList":[{"Awaken":13,"EndTime":1442491463,"FallSleep":80,"HoursSlept":345,"SleepEfficiency":80,"StartTime":1442469000,"MDate":1442469000,"TimeZone":"-0600"}]}`,
		"sleep total=345 min 2015-09-17T12:04:23-06:00"},
	{"a night without end", `{"SRDataList":[{"HoursSlept":345,"StartTime":1442491463,"TimeZone":"-0600"}]}`, "sleep total=345 min 2015-09-17T12:04:23-06:00"},
	{"a workout", `{"SPORTDataList":[{"Calories":221.5,"SportName":"Swimming","SportStartTime":1442491463,"SportEndTime":1442495463,"TimeZone":"-0800"}]}`, payload.IndicatorUnknown},
	{"glucose before sleep", `{"BGDataList":[{"BG":5.6,"DinnerSituation":"Before_sleep","MDate":1442491463,"TimeZone":"+0800"}],"BGUnit":1}`,
		`glucose value=5.6 mmol/L 2015-09-17T12:04:23+08:00 meal=bedtime {"meal":"bedtime","dinner_situation":"Before_sleep"}`},
	{"glucose after exercise", `{"BGDataList":[{"BG":5.6,"DinnerSituation":"After_exercise","MDate":1442491463,"TimeZone":"+0800"}],"BGUnit":1}`,
		`glucose value=5.6 mmol/L 2015-09-17T12:04:23+08:00 {"dinner_situation":"After_exercise"}`},
	{"glucose after dinner in other letters", `{"BGDataList":[{"BG":5.6,"DinnerSituation":"After_Dinner","MDate":1442491463,"TimeZone":"+0800"}],"BGUnit":1}`,
		`glucose value=5.6 mmol/L 2015-09-17T12:04:23+08:00 meal=after_meal {"meal":"after_meal","dinner_situation":"After_Dinner"}`},
	{"no unit", `{"BPDataList":[{"HP":120,"LP":90,` + ihealthTail + `,{"HP":120,"LP":90,` + ihealthTail + `]}`, "unit_missing\nunit_missing"},
	{"unknown unit", `{"BGDataList":[{"BG":60,` + ihealthTail + `],"BGUnit":2}`, payload.UnitUnknown},
	{"unit of a wrong type", `{"BGDataList":[{"BG":60,` + ihealthTail + `],"BGUnit":"0"}`, payload.UnitUnknown},
	{"no diastole", `{"BPDataList":[{"HP":120,` + ihealthTail + `],"BPUnit":0}`, payload.FieldMissing},
	{"a value of a wrong type", `{"BPDataList":[{"HP":120,"LP":true,` + ihealthTail + `],"BPUnit":0}`, payload.TypeWrong},
	{"absurd value", `{"BPDataList":[{"HP":1e999,"LP":80,` + ihealthTail + `],"BPUnit":0}`, payload.ValueInvalid},
	{"no zone", `{"BODataList":[{"BO":99,"MDate":1442491463}]}`, payload.TimeInvalid},
	{"a zone that is none", `{"BODataList":[{"BO":99,"MDate":1442491463,"TimeZone":"PST"}]}`, payload.TimeInvalid},
	{"a zone as a number", `{"BODataList":[{"BO":99,"MDate":1442491463,"TimeZone":-8}]}`, payload.TimeInvalid},
	{"no time", `{"BODataList":[{"BO":99,"TimeZone":"-0800"}]}`, payload.FieldMissing},
	{"milliseconds", `{"BODataList":[{"BO":99,"MDate":1442491463000000,"TimeZone":"-0800"}]}`, payload.TimeInvalid},
	{"empty list", `{"BPDataList":[],"BPUnit":0}`, ""},
	{"no list", `{"CurrentRecordCount":5}`, payload.FieldMissing},
	{"a list that is none", `{"BPDataList":{},"BPUnit":0}`, payload.TypeWrong},
	{"an item that is none", `{"BODataList":[5,{"BO":99,` + ihealthTail + `]}`, "type_wrong\nspo2 value=99 % 2015-09-17T12:04:23-08:00 id=d1"},
}

func TestIHealth(t *testing.T) {
	runCloud(t, "ihealth", ihealthCases)
	hostile(t, "ihealth", ihealthCases[0].in)
	in := payload.Input{Payload: []byte(`{"BODataList":[{"BO":99,"MDate":1442491463}]}`), ReceivedAt: received, DeviceTZ: shanghai}
	if got, want := showAll(payload.Decode("ihealth", in, nil)), "spo2 value=99 % 2015-09-17T12:04:23+08:00"; got != want {
		t.Errorf("zone of the device: got %s, want %s", got, want)
	}
	in.Payload = []byte(`{"BODataList":[` + strings.Repeat(`1,`, 20000) + `1]}`)
	if got := showAll(payload.Decode("ihealth", in, nil)); got != "refused: too_many_readings" {
		t.Errorf("20001 items: got %.100s", got)
	}
}

// The answers that openmhealth/shimmer tests its mappers with.
func TestIHealth_realAnswers(t *testing.T) {
	for file, want := range map[string]string{
		"ihealth-bp.json": "blood_pressure systolic=120 diastolic=90 pulse=100 mm[Hg] 2015-09-17T12:04:23-08:00 id=c62b84d9d4b7480a8ff2aef1465aa454\n" +
			"blood_pressure systolic=130 diastolic=95 pulse=75 mm[Hg] 2015-09-17T14:07:45-06:00 [self_reported] id=d6c08fb0bde6dc50db5c5f305a76c455",
		"ihealth-glucose.json": `glucose value=60 mg/dL 2015-09-17T12:03:27-08:00 meal=before_meal id=f706b6152f684c0e9185b1fa6b7c5148 {"meal":"before_meal","dinner_situation":"Before_breakfast","drug_situation":"Before_taking_pills"}` + "\n" +
			`glucose value=70 mg/dL 2015-09-24T14:44:40-06:00 meal=after_meal [self_reported] id=b0d61f8df4214f938a8d05d0ac583baa {"meal":"after_meal","dinner_situation":"After_breakfast","drug_situation":"After_taking_pills"}`,
	} {
		b, err := os.ReadFile(filepath.Join(sharedDir(), "data/ihealth", file))
		if err != nil {
			t.Skipf("no data of other projects: %v", err)
		}
		if got := showAll(payload.Decode("ihealth", payload.Input{Payload: b}, nil)); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", file, got, want)
		}
	}
}

func sharedDir() string {
	if d := os.Getenv("VITALWATCH_SHARED"); d != "" {
		return d
	}
	return "../../../shared"
}

func FuzzIHealth(f *testing.F) { fuzzJSON(f, "ihealth", ihealthCases) }

// go test -run '^$' -bench IHealth -benchmem ./devices/payload
func BenchmarkIHealth(b *testing.B) {
	item := `{"BPL":3,"HP":120,"LP":90,"HR":100,"IsArr":-1,` + ihealthTail
	benchmarkFormat(b, "ihealth", []byte(`{"BPDataList":`+repeated(item, 100)+`,"BPUnit":0}`))
}

func withings(group string) string {
	return `{"status":0,"body":{"updatetime":1433055000,"timezone":"America/New_York","measuregrps":[` + group + `]}}`
}

var withingsCases = []cloudCase{
	{"blood pressure", withings(`{"grpid":366956482,"attrib":0,"date":1433052383,"category":1,"measures":[{"value":68,"type":9,"unit":0},{"value":104,"type":10,"unit":0},{"value":41,"type":11,"unit":0}]}`),
		"blood_pressure systolic=104 diastolic=68 pulse=41 mm[Hg] 2015-05-31T06:06:23Z"},
	{"weight with what we do not know", withings(`{"attrib":0,"date":1433052383,"category":1,"measures":[{"value":74126,"type":1,"unit":-3},{"value":12,"type":6,"unit":0},{"value":1,"type":8, "unit":1}]}`),
		`weight value=74.126 kg 2015-05-31T06:06:23Z aside={"measures":[{"value":1,"type":8,"unit":1}]}` + "\nbody_fat value=12 % 2015-05-31T06:06:23Z"},
	{"height by hand", withings(`{"attrib":4,"date":1433052383,"category":1,"measures":[{"value":193,"type":4,"unit":-2}]}`), "height value=1.93 m 2015-05-31T06:06:23Z [self_reported]"},
	{"body temperature", withings(`{"attrib":2,"date":1433052383,"category":1,"measures":[{"value":36624,"type":71,"unit":-3}]}`), "temperature value=36.624 Cel 2015-05-31T06:06:23Z [self_reported]"},
	{"of a wall or of the skin", withings(`{"date":1433052383,"category":1,"measures":[{"value":366,"type":12,"unit":-1},{"value":366,"type":73,"unit":-1}]}`), payload.IndicatorUnknown},
	{"pulse alone", withings(`{"date":1433052383,"category":1,"measures":[{"value":6,"type":11,"unit":1}]}`), "heart_rate value=60 /min 2015-05-31T06:06:23Z"},
	{"oxygen and pulse", withings(`{"date":1433052383,"category":1,"measures":[{"value":98,"type":54,"unit":0},{"value":60,"type":11,"unit":0}]}`), "spo2 value=98 pulse=60 % 2015-05-31T06:06:23Z"},
	{"goal", withings(`{"attrib":2,"date":1433052383,"category":2,"measures":[{"value":70,"type":1,"unit":0}]}`), payload.NotAReading},
	{"whose it is not known", withings(`{"attrib":1,"date":1433052383,"category":1,"measures":[{"value":70,"type":1,"unit":0}]}`), "weight value=70 kg 2015-05-31T06:06:23Z user=255 +ambiguous_owner"},
	{"a goal beside a reading", withings(`{"date":1433052383,"category":2,"measures":[]},{"date":1433052383,"category":1,"measures":[{"value":70,"type":1,"unit":0}]}`), "not_a_reading\nweight value=70 kg 2015-05-31T06:06:23Z"},
	{"systole alone", withings(`{"date":1433052383,"category":1,"measures":[{"value":104,"type":10,"unit":0}]}`), payload.FieldMissing},
	{"no power", withings(`{"date":1433052383,"category":1,"measures":[{"value":104,"type":10},{"value":68,"type":9,"unit":0}]}`), payload.FieldMissing},
	{"absurd power", withings(`{"date":1433052383,"category":1,"measures":[{"value":70,"type":1,"unit":300}]}`), payload.ValueInvalid},
	{"absurd value", withings(`{"date":1433052383,"category":1,"measures":[{"value":1e18,"type":1,"unit":0}]}`), payload.ValueInvalid},
	{"a type twice", withings(`{"date":1433052383,"category":1,"measures":[{"value":70,"type":1,"unit":0},{"value":71,"type":1,"unit":0}]}`), payload.ValueInvalid},
	{"type of a wrong type", withings(`{"date":1433052383,"category":1,"measures":[{"value":70,"type":"1","unit":0}]}`), payload.TypeWrong},
	{"no date", withings(`{"category":1,"measures":[{"value":70,"type":1,"unit":0}]}`), payload.FieldMissing},
	{"a date in milliseconds", withings(`{"date":1433052383000000,"category":1,"measures":[{"value":70,"type":1,"unit":0}]}`), payload.TimeInvalid},
	{"no measures", withings(`{"date":1433052383,"category":1}`), payload.FieldMissing},
	{"an error of the cloud", `{"status":401,"error":"invalid token"}`, payload.StatusInvalid},
	{"no groups", `{"status":0,"body":{}}`, payload.FieldMissing},
	{"groups that are none", `{"status":0,"body":{"measuregrps":7}}`, payload.TypeWrong},
	{"a group that is none", withings(`7`), payload.TypeWrong},
	{"only groups", `{"measuregrps":[]}`, ""},
}

// The other answers of Withings: activities, a day in parts, nights.
var withingsMoreCases = []cloudCase{
	{"days", `{"status":0,"body":{"activities":[{"date":"2015-06-20","steps":2934,"distance":2330.12,"calories":77.62,"elevation":0,"soft":10320,"moderate":1620,"intense":0,"timezone":"America/Los_Angeles"},{"date":"2026-11-01","steps":0,"timezone":"America/Los_Angeles"}],"more":false,"offset":0}}`,
		"steps value=2934 {steps} 2015-06-20T23:59:59-07:00\nsteps value=0 {steps} 2026-11-01T23:59:59-08:00"},
	{"one day", `{"status":0,"body":{"date":"2015-10-06","steps":10233,"timezone":"Europe/Berlin"}}`, "steps value=10233 {steps} 2015-10-06T23:59:59+02:00"},
	{"a day that is not over", `{"status":0,"body":{"activities":[{"date":"2026-11-21","steps":12,"timezone":"Europe/Berlin"}]}}`, payload.NotAReading},
	{"a day of no zone", `{"status":0,"body":{"activities":[{"date":"2015-06-20","steps":1}]}}`, payload.TimeInvalid},
	{"a day of no known zone", `{"status":0,"body":{"activities":[{"date":"2015-06-20","steps":1,"timezone":"Mars/Olympus"},{"date":"2015-06-20","steps":1,"timezone":"Local"},{"date":"2015-06-20","steps":1,"timezone":7},{"date":"2015-06-20","steps":1,"timezone":"../UTC"}]}}`,
		"taken_at_invalid\ntaken_at_invalid\ntaken_at_invalid\ntaken_at_invalid"},
	{"a day without steps", `{"status":0,"body":{"activities":[{"date":"2015-06-20","timezone":"UTC"}]}}`, payload.FieldMissing},
	{"a day of no date", `{"status":0,"body":{"activities":[{"steps":1,"timezone":"UTC"},{"date":"2015-06-31","steps":1,"timezone":"UTC"},{"date":20150620,"steps":1,"timezone":"UTC"},{"date":"2015-06-20T10:00:00Z","steps":1,"timezone":"UTC"}]}}`,
		"field_missing\ntaken_at_invalid\ntaken_at_invalid\ntaken_at_invalid"},
	{"activities that are none", `{"status":0,"body":{"activities":{}}}`, payload.TypeWrong},
	{"parts of a day", `{"status":0,"body":{"series":{"1434790500":{"steps":21,"elevation":0,"calories":0.76,"distance":17.6,"duration":60},"1434790560":{"heart_rate":79,"spo2_auto":97,"sdnn1":41},"1434790620":{"calories":1,"duration":60},"soon":{"steps":1}}}}`,
		"steps value=21 {steps} 2015-06-20T08:56:00Z\nheart_rate value=79 /min 2015-06-20T08:56:00Z\nspo2 value=97 % 2015-06-20T08:56:00Z\nhrv value=41 ms 2015-06-20T08:56:00Z\nindicator_unknown\ntaken_at_invalid"},
	{"a part of a wrong type", `{"status":0,"body":{"series":{"1434790500":{"steps":"many"},"1434790560":7}}}`, "type_wrong\ntype_wrong"},
	{"a night", `{"status":0,"body":{"series":[{"id":16616514,"timezone":"Europe/Paris","model":16,"startdate":1410521659,"enddate":1410542577,"date":"2014-09-12","data":{"wakeupduration":1800,"lightsleepduration":18540,"deepsleepduration":8460,"remsleepduration":600,"durationtosleep":420,"wakeupcount":3},"modified":1412087110}],"more":false}}`,
		`sleep total=27600 deep=8460 light=18540 rem=600 awake=1800 s 2014-09-12T19:22:57+02:00 {"total_of":"stages"} aside={"startdate":1410521659}`},
	{"a night of a watch without REM sleep", `{"status":0,"body":{"series":[{"enddate":1410542577,"data":{"lightsleepduration":18540,"deepsleepduration":8460}}]}}`, `sleep total=27000 deep=8460 light=18540 s 2014-09-12T17:22:57Z {"total_of":"stages"}`},
	{"a night with its total", `{"status":0,"body":{"series":[{"enddate":1410542577,"data":{"total_sleep_time":27000,"lightsleepduration":18540}}]}}`, "sleep total=27000 light=18540 s 2014-09-12T17:22:57Z"},
	{"half a night", `{"status":0,"body":{"series":[{"enddate":1410542577,"data":{"lightsleepduration":18540,"remsleepduration":60}}]}}`, payload.FieldMissing},
	{"a night that ends too soon", `{"status":0,"body":{"series":[{"startdate":1410542578,"enddate":1410542577,"data":{"total_sleep_time":27000}}]}}`, payload.TimeInvalid},
	{"phases", `{"status":0,"body":{"series":[{"startdate":1410521659,"enddate":1410542577,"state":2}],"model":32}}`, payload.NotAReading},
	{"a night of wrong types", `{"status":0,"body":{"series":[{"enddate":1410542577},{"enddate":"1410542577","data":{}},{"data":{}},{"enddate":1410542577,"data":{"lightsleepduration":"x"}},7]}}`,
		"field_missing\ntaken_at_invalid\nfield_missing\ntype_wrong\ntype_wrong"},
	{"a night without end of numbers", `{"status":0,"body":{"series":[{"enddate":1410542577,"data":{"lightsleepduration":1e308,"deepsleepduration":1e308}}]}}`, payload.ValueInvalid},
	{"series that is none", `{"status":0,"body":{"series":7}}`, payload.TypeWrong},
}

func TestWithings_activitiesAndNights(t *testing.T) {
	runCloud(t, "withings", withingsMoreCases)
	hostile(t, "withings", withingsMoreCases[0].in)
	in := payload.Input{Payload: []byte(`{"body":{"activities":[{"date":"2015-06-20","steps":1}]}}`), ReceivedAt: received, DeviceTZ: shanghai}
	if got, want := showAll(payload.Decode("withings", in, nil)), "steps value=1 {steps} 2015-06-20T23:59:59+08:00"; got != want {
		t.Errorf("zone of the device: got %s, want %s", got, want)
	}
}

func TestWithings(t *testing.T) {
	runCloud(t, "withings", withingsCases)
	hostile(t, "withings", withingsCases[0].in)
}

func FuzzWithings(f *testing.F) {
	fuzzJSON(f, "withings", append(slices.Clip(withingsCases), withingsMoreCases...))
}

// go test -run '^$' -bench Withings -benchmem ./devices/payload
func BenchmarkWithings(b *testing.B) {
	group := `{"grpid":366956482,"attrib":0,"date":1433052383,"category":1,"measures":[{"value":68,"type":9,"unit":0},{"value":104,"type":10,"unit":0},{"value":41,"type":11,"unit":0}]}`
	benchmarkFormat(b, "withings", []byte(withings(strings.Repeat(group+",", 99)+group)))
}

const mac = `"id":"C4:7C:8D:11:22:33","rssi":-60,`

var theengsCases = []cloudCase{
	{"a scale", `{` + mac + `"brand":"Xiaomi","model":"Mi Body Composition Scale","model_id":"XMTZC02HM/XMTZC05HM/NUN4049CN","type":"SCALE","weighing_mode":"person","unit":"kg","weight":72.45,"impedance":503}`,
		`weight value=72.45 kg {"impedance_ohm":503,"model":"XMTZC02HM/XMTZC05HM/NUN4049CN"}`},
	{"pounds", `{"weighing_mode":"person","unit":"lb","weight":131.7}`, "weight value=131.7 [lb_av]"},
	{"jin", `{"weighing_mode":"person","unit":"jin","weight":131.7}`, "weight value=131.7 [jin]"},
	{"an object", `{"weighing_mode":"object","unit":"kg","weight":9.55}`, payload.NotAReading},
	{"no unit", `{"weighing_mode":"person","weight":72.45}`, payload.UnitMissing},
	{"unknown unit", `{"weighing_mode":"person","unit":"px","weight":72.45}`, payload.UnitUnknown},
	{"a weight of a wrong type", `{"weighing_mode":"person","unit":"kg","weight":{}}`, payload.TypeWrong},
	{"bytes of the smart scale", `{` + mac + `"servicedatauuid":"0x181d","servicedata":"223e30e607020e10293a"}`, "weight value=61.75 kg 2022-02-14T16:41:58+08:00"},
	{"in pounds", `{"servicedatauuid":"0x181d","servicedata":"237233e607020e10293a"}`, "weight value=131.7 [lb_av] 2022-02-14T16:41:58+08:00"},
	{"an object on it", `{"servicedatauuid":"0x181d","servicedata":"627607e607020e10293a"}`, payload.NotAReading},
	{"not settled", `{"servicedatauuid":"0x181d","servicedata":"023e30e607020e10293a"}`, payload.NotAReading},
	{"stepped off", `{"weighing_mode":"person","unit":"kg","weight":61.75,"servicedatauuid":"0x181d","servicedata":"a23e30e607020e10293a"}`, payload.NotAReading},
	{"bytes of the composition scale", `{"servicedatauuid":"0x181b","servicedata":"0226e607020e10293af7019a38"}`, `weight value=72.45 kg 2022-02-14T16:41:58+08:00 {"impedance_ohm":503}`},
	{"bytes that are none", `{"servicedatauuid":"0x181b","servicedata":"02"}`, payload.NotAReading},
	{"a chest strap", `{` + mac + `"model_id":"HRM","type":"BODY","bpm":70}`, "heart_rate value=70 /min"},
	{"a band", `{"model_id":"MB","type":"BODY","steps":4021,"act_bpm":104}`, "heart_rate value=104 /min\nsteps value=4021 {steps}"},
	{"oxygen and heart rate", `{"spo2":97,"hr":66,"UTCtime":"2026-11-21T07:59:58Z"}`, "spo2 value=97 % 2026-11-21T07:59:58Z\nheart_rate value=66 /min 2026-11-21T07:59:58Z"},
	{"seconds", `{"hr":66,"unixtime":1795300000}`, "heart_rate value=66 /min 2026-11-21T22:26:40Z"},
	{"a time that is none", `{"hr":66,"unixtime":"x"}`, payload.TimeInvalid},
	{"a date that is none", `{"hr":66,"UTCtime":"yesterday"}`, payload.TimeInvalid},
	{"a body thermometer", `{"type":"BODY","tempc":36.6,"tempf":97.88}`, "temperature value=36.6 Cel"},
	{"in Fahrenheit", `{"tempf":97.88}`, "temperature value=97.88 [degF]"},
	{"a room", `{"type":"THB","tempc":26.6,"hum":42,"batt":88}`, payload.NotAReading},
	{"a room without type", `{"tempc":36.6,"hum":42}`, payload.NotAReading},
	{"a heart rate of a wrong type", `{"hr":"fast"}`, payload.TypeWrong},
	{"nothing of ours", `{` + mac + `"name":"Beacon","type":"BCON"}`, payload.NotAReading},
}

func TestTheengs(t *testing.T) {
	for _, tt := range theengsCases {
		t.Run(tt.name, func(t *testing.T) {
			if got := showAll(payload.Decode("theengs", payload.Input{Payload: []byte(tt.in), ReceivedAt: received, DeviceTZ: shanghai}, nil)); got != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.in, got, tt.want)
			}
		})
	}
	hostile(t, "theengs", theengsCases[0].in)
	if got := showAll(payload.Decode("theengs", payload.Input{Payload: []byte(`{"hr":60}`)}, nil)); got != payload.FieldMissing {
		t.Errorf("a time that nobody knows: got %s", got)
	}
}

func FuzzTheengs(f *testing.F) { fuzzJSON(f, "theengs", theengsCases) }

// go test -run '^$' -bench Theengs -benchmem ./devices/payload
func BenchmarkTheengs(b *testing.B) { benchmarkFormat(b, "theengs", []byte(theengsCases[0].in)) }

var homeAssistantCases = []cloudCase{
	{"weight", `{"entity_id":"sensor.scale","state":"72.5","attributes":{"unit_of_measurement":"kg","device_class":"weight","friendly_name":"Scale"},"last_changed":"2026-11-21T07:58:00.123456+00:00","last_updated":"2026-11-21T07:59:00+00:00"}`,
		"weight value=72.5 kg 2026-11-21T07:58:00Z"},
	{"flat", `{"state":36.6,"device_class":"temperature","unit_of_measurement":"°C"}`, "temperature value=36.6 Cel"},
	{"glucose", `{"state":"7.8","attributes":{"device_class":"blood_glucose_concentration","unit_of_measurement":"mmol/L"}}`, "glucose value=7.8 mmol/L"},
	{"indicator said", `{"state":"66","attributes":{"indicator":"heart_rate","unit_of_measurement":"bpm"}}`, "heart_rate value=66 /min"},
	{"indicator beats class", `{"state":"36.6","attributes":{"indicator":"temperature","device_class":"other","unit_of_measurement":"°C"}}`, "temperature value=36.6 Cel"},
	{"blood pressure in attributes", `{"state":"ok","attributes":{"indicator":"blood_pressure","systolic":142,"diastolic":"91","pulse":72,"unit_of_measurement":"mmHg"}}`, "blood_pressure systolic=142 diastolic=91 pulse=72 mm[Hg]"},
	{"blood pressure in the state", `{"state":"142/91","attributes":{"device_class":"blood_pressure","unit_of_measurement":"mmHg"}}`, "blood_pressure systolic=142 diastolic=91 mm[Hg]"},
	{"half a blood pressure", `{"state":"142","attributes":{"device_class":"blood_pressure","unit_of_measurement":"mmHg"}}`, payload.ValueInvalid},
	{"only a unit", `{"state":"66","attributes":{"unit_of_measurement":"bpm","friendly_name":"Heart rate"}}`, payload.FieldMissing},
	{"no unit", `{"state":"72.5","attributes":{"device_class":"weight"}}`, payload.UnitMissing},
	{"a unit of something else", `{"state":"72.5","attributes":{"device_class":"weight","unit_of_measurement":"%"}}`, payload.UnitUnknown},
	{"a class of something else", `{"state":"72.5","attributes":{"device_class":"battery","unit_of_measurement":"%"}}`, payload.IndicatorUnknown},
	{"unavailable", `{"state":"unavailable","attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.NotAReading},
	{"unknown", `{"state":"unknown","attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.NotAReading},
	{"no number", `{"state":"heavy","attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.ValueInvalid},
	{"a state of a wrong type", `{"state":[],"attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.TypeWrong},
	{"no state", `{"attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.FieldMissing},
	{"attributes of a wrong type", `{"state":"1","attributes":7}`, payload.TypeWrong},
	{"a time without zone", `{"state":"72.5","last_changed":"2026-11-21T07:58:00","attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.TimeInvalid},
	{"a time that is none", `{"state":"72.5","last_changed":true,"attributes":{"device_class":"weight","unit_of_measurement":"kg"}}`, payload.TimeInvalid},
}

func TestHomeAssistant(t *testing.T) {
	runCloud(t, "homeassistant", homeAssistantCases)
	hostile(t, "homeassistant", homeAssistantCases[0].in)
	runCloud(t, "homeassistant/heart_rate", []cloudCase{
		{"indicator of the route", `{"state":"66","attributes":{"unit_of_measurement":"bpm"}}`, "heart_rate value=66 /min"},
		{"beats the class", `{"state":"66","attributes":{"device_class":"weight","unit_of_measurement":"bpm"}}`, "heart_rate value=66 /min"},
		{"a unit is still needed", `{"state":"66"}`, payload.UnitMissing},
	})
	runCloud(t, "homeassistant/mood", []cloudCase{{"no indicator", `{"state":"66","unit":"bpm"}`, payload.IndicatorUnknown}})
}

func FuzzHomeAssistant(f *testing.F) { fuzzJSON(f, "homeassistant", homeAssistantCases) }

// A local time is read in the device's zone.
func TestClouds_localTimesInTheDevicesZone(t *testing.T) {
	for format, c := range map[string]struct{ in, want string }{
		"nightscout":    {`{"type":"sgv","sgv":100,"dateString":"2026-11-21T22:26:40"}`, "glucose value=100 mg/dL 2026-11-21T22:26:40+08:00"},
		"homeassistant": {`{"state":"72.5","last_changed":"2026-11-21T07:58:00","device_class":"weight","unit":"kg"}`, "weight value=72.5 kg 2026-11-21T07:58:00+08:00"},
	} {
		in := payload.Input{Payload: []byte(c.in), ReceivedAt: received, DeviceTZ: shanghai}
		if got := showAll(payload.Decode(format, in, nil)); got != c.want {
			t.Errorf("%s: got %s, want %s", format, got, c.want)
		}
	}
}

// go test -run '^$' -bench HomeAssistant -benchmem ./devices/payload
func BenchmarkHomeAssistant(b *testing.B) {
	benchmarkFormat(b, "homeassistant", []byte(homeAssistantCases[0].in))
}

// What a device sends never shows in a reason: reasons are logged, stored and sent.
func TestProblems_saySomethingAndRepeatNothing(t *testing.T) {
	const marked = "Zanzibar"
	for format, messages := range map[string][]string{
		"gatt":          {`{"characteristic":"Zanzibar","hex":"00"}`, `{"characteristic":"2A37","hex":"Zanzibar"}`, `{"characteristic":"2A37","hex":"0055","taken_at":"Zanzibar"}`},
		"nightscout":    {`{"type":"Zanzibar"}`, `{"type":"sgv","sgv":"Zanzibar","date":1}`, `{"type":"sgv","sgv":100,"dateString":"Zanzibar"}`, `{"type":"sgv","sgv":100,"units":"Zanzibar"}`},
		"ihealth":       {`{"BODataList":[{"BO":"Zanzibar"}]}`, `{"BODataList":[{"BO":99,"MDate":1442491463,"TimeZone":"Zanzibar"}]}`},
		"withings":      {withings(`{"date":"Zanzibar","category":1}`), withings(`{"date":1433052383,"category":1,"measures":[{"type":"Zanzibar"}]}`)},
		"theengs":       {`{"hr":"Zanzibar"}`, `{"weight":1,"unit":"Zanzibar"}`, `{"weight":1,"weighing_mode":"Zanzibar"}`},
		"homeassistant": {`{"state":"Zanzibar","indicator":"weight","unit":"kg"}`, `{"state":"1","indicator":"Zanzibar"}`, `{"state":"1","indicator":"weight","unit":"Zanzibar"}`},
	} {
		for _, m := range messages {
			items, err := payload.Decode(format, payload.Input{Payload: []byte(m), ReceivedAt: received}, nil)
			if err != nil || len(items) != 1 || items[0].Problem == nil {
				t.Errorf("%s: got %s, want one problem", m, showAll(items, err))
				continue
			}
			p := items[0].Problem
			if strings.Contains(p.Error(), marked) || p.Offset < 0 {
				t.Errorf("%s: %v at %d", m, p, p.Offset)
			}
		}
	}
}
