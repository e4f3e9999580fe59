package payload_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

var (
	shanghai = time.FixedZone("CST", 8*3600)
	received = vitals.At(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC))
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// show writes an item in one line: what a table can hold.
func show(it payload.Item) string {
	if it.Problem != nil {
		return it.Problem.Code
	}
	r := &it.Reading
	var b strings.Builder
	b.WriteString(r.Indicator.String())
	for i, c := range r.Indicator.Components() {
		if r.Has&(1<<i) != 0 {
			fmt.Fprintf(&b, " %v=%v", c, math.Round(r.V[i]*1e6)/1e6)
		}
	}
	fmt.Fprintf(&b, " %v", r.Unit)
	if r.TakenAt != received {
		b.WriteString(" " + r.TakenAt.Time().In(time.FixedZone("", 60*max(int(r.OffsetMin), -840)*b2i(r.OffsetMin != vitals.NoOffset))).Format("2006-01-02T15:04:05Z07:00"))
	}
	if r.DeviceSeq >= 0 {
		fmt.Fprintf(&b, " seq=%d", r.DeviceSeq)
	}
	if r.UserSlot != 0 {
		fmt.Fprintf(&b, " user=%d", r.UserSlot)
	}
	if r.Meal != 0 {
		fmt.Fprintf(&b, " meal=%v", r.Meal)
	}
	if f := r.Flags.Names(); f != nil {
		b.WriteString(" [" + strings.Join(f, ",") + "]")
	}
	if r.Extra != nil {
		if r.Extra.DeviceReadingID != "" {
			b.WriteString(" id=" + r.Extra.DeviceReadingID)
		}
		if r.Extra.OtherFlags != "" {
			b.WriteString(" +" + r.Extra.OtherFlags)
		}
		if r.Extra.Context != "" {
			b.WriteString(" " + r.Extra.Context)
		}
		if r.Extra.Aside != "" {
			b.WriteString(" aside=" + r.Extra.Aside)
		}
	}
	return b.String()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func showAll(items []payload.Item, err error) string {
	if err != nil {
		return "refused: " + err.(*payload.Problem).Code
	}
	var lines []string
	for _, it := range items {
		lines = append(lines, show(it))
	}
	return strings.Join(lines, "\n")
}

// vectors are byte strings of other projects' tests and of real devices, see docs/formats.md for their names.
var vectors = []struct{ name, characteristic, hex, want string }{
	{"cuff with an unset year", "2A35", "1E 8A00 5800 7800 0000 04 11 14 29 3B 3C00 01 2700",
		"blood_pressure systolic=138 diastolic=88 mean=120 pulse=60 mm[Hg] user=1 [irregular_pulse,movement,cuff_loose,wrong_position]"},
	{"kPa", "2A35", "15 BDF0 0B00 9FF0 3C00 1200", "blood_pressure systolic=18.9 diastolic=11 mean=15.9 pulse=60 kPa [cuff_loose,pulse_out_of_range]"},
	{"kPa behind a wrong flag", "2A35", "00 BDF0 0B00 9FF0", "blood_pressure systolic=18.9 diastolic=11 mean=15.9 mm[Hg]"}, // refused as implausible later
	{"plain cuff", "2A35", "00 7800 5000 5D00", "blood_pressure systolic=120 diastolic=80 mean=93 mm[Hg]"},
	{"cuff with a clock", "2A35", "02 7800 5000 FF07 EA07 0B 15 08 00 05", "blood_pressure systolic=120 diastolic=80 mm[Hg] 2026-11-21T08:00:05+08:00"},
	{"unknown user", "2A35", "08 7800 5000 5D00 FF", "blood_pressure systolic=120 diastolic=80 mean=93 mm[Hg] user=255"},
	{"cuff without a result", "2A35", "00 FF07 FF07 FF07", payload.ValueInvalid},
	{"six bytes", "2A35", "00 7800 5000 5D", payload.CharacteristicBad},
	{"time announced and not there", "2A35", "03 7800 5000 5D00", payload.CharacteristicBad},
	{"a later revision's field", "2A35", "20 7800 5000 5D00 0102", "blood_pressure systolic=120 diastolic=80 mean=93 mm[Hg]"},
	{"cuff of a spring day", "2A35", "02 7800 5000 FF07 E2070411 0F3300", "blood_pressure systolic=120 diastolic=80 mm[Hg] 2018-04-17T15:51:00+08:00"},
	{"no date", "2A35", "02 7800 5000 5D00 EA07 0D 15 08 00 05", payload.TimeInvalid},
	{"intermediate cuff pressure", "2A36", "00 7800 FF07 FF07", payload.NotAReading},

	{"Accu-Chek Guide", "2A18", "1B 0F00 E807 01 1E 05 3A 1B 5301 6FB0 F8 0000",
		`glucose value=111 mg/dL 2024-01-30T11:37:27+08:00 seq=15 {"sample_type":"undetermined_plasma","sample_location":"not_available"}`},
	{"meter without offset", "2A18", "03 0600 E407 04 0D 10 26 0A 0000 78B0 F1",
		`glucose value=120 mg/dL 2020-04-13T16:38:10+08:00 seq=6 {"sample_type":"capillary_whole_blood","sample_location":"not_available"}`},
	{"sample too small, too cold", "2A18", "1B 0100 E307 02 1B 0B 0A 1E FBFF 1E00 12 0501", payload.StatusInvalid},
	{"30 kg/L", "2A18", "13 0100 E307 02 1B 0B 0A 1E FBFF 1E00 12", // refused as impossible later
		`glucose value=3e+06 mg/dL 2019-02-27T11:05:30+08:00 seq=1 {"sample_type":"capillary_plasma","sample_location":"finger"}`},
	{"mol/L", "2A18", "06 0200 EA07 0B 15 08 00 00 4EC0 11", `glucose value=7.8 mmol/L 2026-11-21T08:00:00+08:00 seq=2 {"sample_type":"capillary_whole_blood","sample_location":"finger"}`},
	{"control solution by type", "2A18", "02 0200 EA07 0B 15 08 00 00 6FB0 1A", payload.NotAReading},
	{"control solution by location", "2A18", "02 0200 EA07 0B 15 08 00 00 6FB0 41", payload.NotAReading},
	{"HI without a number", "2A18", "08 0200 EA07 0B 15 08 00 00 2000", "glucose value=600 mg/dL 2026-11-21T08:00:00+08:00 seq=2 [above_range]"},
	{"LO in mol/L", "2A18", "0E 0200 EA07 0B 15 08 00 00 FF07 00 4000", "glucose value=1.1 mmol/L 2026-11-21T08:00:00+08:00 seq=2 [below_range]"},
	{"too high with a number", "2A18", "0A 0200 EA07 0B 15 08 00 00 5802 00 2100", "glucose value=6e+07 mg/dL 2026-11-21T08:00:00+08:00 seq=2 [low_battery,above_range]"},
	{"plus infinity", "2A18", "02 0200 EA07 0B 15 08 00 00 FE07 00", "glucose value=600 mg/dL 2026-11-21T08:00:00+08:00 seq=2 [above_range]"},
	{"minus infinity", "2A18", "02 0200 EA07 0B 15 08 00 00 0208 00", "glucose value=20 mg/dL 2026-11-21T08:00:00+08:00 seq=2 [below_range]"},
	{"not at this resolution", "2A18", "02 0200 EA07 0B 15 08 00 00 0008 00", payload.ValueInvalid},
	{"reserved number", "2A18", "02 0200 EA07 0B 15 08 00 00 0108 00", payload.ValueInvalid},
	{"no concentration", "2A18", "00 0200 EA07 0B 15 08 00 00", payload.ValueInvalid},
	{"offset overrun", "2A18", "03 0200 EA07 0B 15 08 00 00 FF7F 6FB0 11", payload.TimeInvalid},
	{"context alone", "2A34", "02 0400 06", payload.NotAReading},

	{"heart rate", "2A37", "00 55", "heart_rate value=85 /min"},
	{"contact lost", "2A37", "04 FF", payload.StatusInvalid},
	{"energy and one interval", "2A37", "1E 55 3200 2100", `heart_rate value=85 /min {"energy_kj":50,"rr_ms":[32.227]}`},
	{"16 bits and three intervals", "2A37", "1F 0101 3201 0100 0201 FFFF", `heart_rate value=257 /min {"energy_kj":306,"rr_ms":[0.977,251.953,63999.023]}`},
	{"two intervals", "2A37", "10 5A 0008 0010", `heart_rate value=90 /min {"rr_ms":[2000,4000]}`},
	{"with contact", "2A37", "16 3C 0004 0002", `heart_rate value=60 /min {"rr_ms":[1000,500]}`},
	{"half an interval", "2A37", "10 5A 0008 00", payload.CharacteristicBad},

	{"oximeter with exponents", "2A5F", "00 E8F3 84F3", "spo2 value=100 pulse=90 %"},
	{"oximeter", "2A5F", "00 6400 5A00", "spo2 value=100 pulse=90 %"},
	{"ongoing", "2A5F", "1C 5F00 5A00 2000 000000 57F0", `spo2 value=95 pulse=90 % {"pulse_amplitude_index":8.7}`},
	{"fast and slow", "2A5F", "1F DEF3 CAF3 CAF3 5AF5 D4F3 B2F2 2001 000000 7AE3",
		`spo2 value=99 pulse=97 % {"spo2_fast":97,"pulse_fast":137,"spo2_slow":98,"pulse_slow":69,"pulse_amplitude_index":8.9}`},
	{"questionable spot check", "2A5E", "0F ACF3 BEF5 E807 0B 1D 17 08 39 2040 220000 66E3",
		`spo2 value=94 pulse=147 % 2024-11-29T23:08:57+08:00 [low_signal,questionable] {"pulse_amplitude_index":8.7}`},
	{"no pulse rate", "2A5F", "00 6200 FF07", "spo2 value=98 %"},
	{"no finger", "2A5F", "00 FF07 FF07", payload.ValueInvalid},
	{"from memory", "2A5E", "02 6200 5A00 0002", "spo2 value=98 pulse=90 % [from_memory]"},
	{"demonstration", "2A5E", "02 6200 5A00 0004", payload.NotAReading},
	{"testing", "2A5E", "02 6200 5A00 0008", payload.NotAReading},
	{"calibrating", "2A5F", "04 6200 5A00 0010", payload.NotAReading},
	{"unavailable", "2A5F", "04 6200 5A00 0020", payload.StatusInvalid},
	{"invalid", "2A5F", "04 6200 5A00 0080", payload.StatusInvalid},
	{"nobody wears it", "2A5F", "08 6200 5A00 000800", payload.StatusInvalid},
	{"clock not set", "2A5E", "11 6200 5A00 EA07 0B 15 08 00 00", "spo2 value=98 pulse=90 %"},

	{"weight", "2A9D", "00 B036", "weight value=70 kg"},
	{"pounds", "2A9D", "01 543D", "weight value=157 [lb_av]"},
	{"weight with time", "2A9D", "02 B036 E707 0C 19 0E 1E 2D", "weight value=70 kg 2023-12-25T14:30:45+08:00"},
	{"user, BMI, height", "2A9D", "0C B036 05 F500 D606", `weight value=70 kg user=5 {"bmi":24.5,"height_m":1.75}`},
	{"all in imperial", "2A9D", "0F 543D E7070C190E1E2D 03 F500 A802", `weight value=157 [lb_av] 2023-12-25T14:30:45+08:00 user=3 {"bmi":24.5,"height_in":68}`},
	{"failed", "2A9D", "00 FFFF", payload.StatusInvalid},

	{"fat", "2A9C", "0000 3200", "body_fat value=5 %"},
	{"fat with time", "2A9C", "0300 9600 E807 06 14 0A 1E 00", "body_fat value=15 % 2024-06-20T10:30:00+08:00"},
	{"basal metabolism", "2A9C", "0C00 7800 05 4006", `body_fat value=12 % user=5 {"basal_metabolism_kj":1600}`},
	{"muscle", "2A9C", "3000 6400 C800 B80B", `body_fat value=10 % {"muscle_percent":20,"muscle_mass_kg":15}`},
	{"masses", "2A9C", "C001 5000 E02E 1027 401F", `body_fat value=8 % {"fat_free_mass_kg":60,"soft_lean_mass_kg":50,"body_water_mass_kg":40}`},
	{"fat and weight", "2A9C", "000E 4600 401F B036 E803", `body_fat value=7 % {"impedance_ohm":800,"height_m":1}` + "\nweight value=70 kg"},
	{"nothing measured", "2A9C", "0000 FFFF", payload.StatusInvalid},

	{"thermometer", "2A1C", "06 B00E00FE DC07 0C 05 0B 32 1B 04", `temperature value=37.6 Cel 2012-12-05T11:50:27+08:00 {"site":"finger"}`},
	{"thermometer in the body", "2A1C", "06 690100FF E107 0C 05 00 20 28 02", `temperature value=36.1 Cel 2017-12-05T00:32:40+08:00 {"site":"body"}`},
	{"plain thermometer", "2A1C", "00 6C0100FF", "temperature value=36.4 Cel"},
	{"new year", "2A1C", "06 720100FF E807 01 01 0C 00 00 04", `temperature value=37 Cel 2024-01-01T12:00:00+08:00 {"site":"finger"}`},
	{"Fahrenheit", "2A1C", "01 CF0300FF", "temperature value=97.5 [degF]"},
	{"no temperature", "2A1C", "00 FFFF7F00", payload.ValueInvalid},
	{"unknown site", "2A1C", "04 6C0100FF 63", "temperature value=36.4 Cel"},
	{"intermediate temperature", "2A1E", "00 6C0100FF", payload.NotAReading},

	{"CGM with everything", "2AA7", "0F E3 D2E4 0500 02 14 FF 02F0 E5F3 8E3F", `glucose value=12.34 mg/dL [low_battery] {"trend_mg_dl_min":0.2,"quality_percent":99.7}`},
	{"CGM", "2AA7", "06 00 0C10 0600", "glucose value=120 mg/dL"},
	{"two records", "2AA7", "06000C100500 06000C100600", "glucose value=120 mg/dL 2026-11-21T07:59:00Z\nglucose value=120 mg/dL"},
	{"wrong checksum", "2AA7", "08 00 0C10 0600 586F", payload.CharacteristicBad},
	{"right checksum", "2AA7", "08 00 0C10 0600 596F", "glucose value=120 mg/dL"},
	{"a bad record between good ones", "2AA7", "06000C100500 08000C100600586F 06000C100700",
		"glucose value=120 mg/dL 2026-11-21T07:58:00Z\n" + payload.CharacteristicBad + "\nglucose value=120 mg/dL"},
	{"a record longer than the packet", "2AA7", "06000C100500 07000C100600", "glucose value=120 mg/dL\n" + payload.CharacteristicBad},
	{"a record of size 0", "2AA7", "00", payload.CharacteristicBad},
	{"LOW by infinity", "2AA7", "06 00 0208 0600", "glucose value=40 mg/dL [below_range]"},
	{"HIGH by warning", "2AA7", "07 20 FF07 0600 80", "glucose value=400 mg/dL [above_range]"},
	{"sensor malfunction", "2AA7", "07 80 0C10 0600 08", payload.StatusInvalid},

	{"unknown characteristic", "2A99", "00", payload.CharacteristicBad},
	{"nothing at all", "2A35", "", payload.CharacteristicBad},
	{"no CGM record", "2AA7", "", payload.CharacteristicBad},
}

func TestGATT_vectors(t *testing.T) {
	for _, tt := range vectors {
		t.Run(tt.characteristic+"/"+tt.name, func(t *testing.T) {
			b := unhex(t, tt.hex)
			in := payload.Input{Payload: b, ReceivedAt: received, DeviceTZ: shanghai}
			if got := showAll(payload.Decode("gatt/"+tt.characteristic, in, nil)); got != tt.want {
				t.Errorf("bytes %s\ngot  %s\nwant %s", tt.hex, got, tt.want)
			}
			for _, message := range []string{
				`{"characteristic":"` + tt.characteristic + `","hex":"` + tt.hex + `"}`,
				`[{"characteristic":"0000` + strings.ToLower(tt.characteristic) + `-0000-1000-8000-00805F9B34FB","base64":"` + base64.StdEncoding.EncodeToString(b) + `"}]`,
			} {
				if tt.characteristic == "2A34" {
					continue
				}
				in.Payload = []byte(message)
				if got := showAll(payload.Decode("gatt", in, nil)); got != tt.want {
					t.Errorf("%s\ngot  %s\nwant %s", message, got, tt.want)
				}
			}
		})
	}
}

func TestGATT_times(t *testing.T) {
	const glucose = `{"characteristic":"2A18","hex":"03 0600 EA07 04 0D 10 26 0A 0000 78B0 F1"%s}`
	const pulse = `{"characteristic":"2A37","hex":"00 55"%s}`
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("zone Europe/Berlin: %v", err)
	}
	for _, tt := range []struct {
		name, message, more string
		zone                *time.Location
		at                  vitals.Micros // of receipt
		want                string        // instant and clock, or a problem
	}{
		{"device clock in the device's zone", glucose, "", shanghai, received, "2026-04-13T08:38:10Z 0 480"},
		{"device clock beats the gateway's", glucose, `,"taken_at":"2026-11-21T07:00:00Z"`, shanghai, received, "2026-04-13T08:38:10Z 0 480"},
		{"without zone", glucose, "", nil, received, payload.TimeInvalid},
		{"without zone the gateway's time of measurement counts", glucose, `,"taken_at":"2026-11-21T07:00:00+01:00"`, nil, received, "2026-11-21T06:00:00Z 1 60"},
		{"when the gateway got it says nothing about a stored value", glucose, `,"received_at":"2026-11-21T07:00:00Z"`, nil, received, payload.TimeInvalid},
		{"summer time", glucose, "", berlin, received, "2026-04-13T14:38:10Z 0 120"},
		{"no clock", pulse, `,"taken_at":1795300000000`, nil, received, "2026-11-21T22:26:40Z 1 -32768"},
		{"no clock, by the gateway's receipt", pulse, `,"received_at":"2026-11-21T07:00:00Z"`, nil, received, "2026-11-21T07:00:00Z 1 0"},
		{"both", pulse, `,"received_at":"2026-11-21T07:00:05Z","taken_at":"2026-11-21T07:00:00Z"`, nil, received, "2026-11-21T07:00:00Z 1 0"},
		{"no clock, by our receipt", pulse, "", nil, received, "2026-11-21T08:00:00Z 2 -32768"},
		{"nobody knows", pulse, "", nil, 0, payload.TimeInvalid},
		{"gateway time without offset", pulse, `,"taken_at":"2026-11-21T07:00:00"`, shanghai, received, payload.TimeInvalid},
		{"time fault", `{"characteristic":"2A18","hex":"0A 0200 EA07 0B 15 08 00 00 6FB0 11 0008"}`, "", time.UTC, received, "2026-11-21T08:00:00Z 3 0"},
		{"an hour that stands twice is the first", `{"characteristic":"2A9D","hex":"02 B036 EA07 0A 19 02 1E 00"}`, "", berlin, received, "2026-10-25T00:30:00Z 0 120"},
		{"an hour that does not exist", `{"characteristic":"2A9D","hex":"02 B036 EA07 03 1D 02 1E 00"}`, "", berlin, received, "2026-03-29T01:30:00Z 0 60"},
		{"after the change", `{"characteristic":"2A9D","hex":"02 B036 EA07 03 1D 03 1E 00"}`, "", berlin, received, "2026-03-29T01:30:00Z 0 120"},
		{"a clock of 1980", `{"characteristic":"2A9D","hex":"02 B036 BC07 03 1D 02 1E 00"}`, "", berlin, received, payload.TimeInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			message := tt.message
			if strings.Contains(message, "%s") {
				message = fmt.Sprintf(message, tt.more)
			}
			items, err := payload.Decode("gatt", payload.Input{Payload: []byte(message), ReceivedAt: tt.at, DeviceTZ: tt.zone}, nil)
			if err != nil || len(items) != 1 {
				t.Fatalf("got %v, %v", items, err)
			}
			got := ""
			if p := items[0].Problem; p != nil {
				got = p.Code
			} else {
				got = fmt.Sprintf("%s %d %d", items[0].Reading.TakenAt.Time().Format(time.RFC3339), items[0].Clock, items[0].Reading.OffsetMin)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestGATT_messages(t *testing.T) {
	const glucose = `{"characteristic":"2A18","hex":"13 0400 E407 04 0D 10 26 0A 0000 78B0 F1"}`
	const other = `{"characteristic":"2A18","hex":"03 0500 E407 04 0D 11 26 0A 0000 78B0 F1"}`
	const at = `2020-04-13T16:38:10+08:00`
	const sample = `"sample_type":"capillary_whole_blood","sample_location":"not_available"`
	for _, tt := range []struct{ name, in, want string }{
		{"a context follows its measurement", `[` + glucose + `,{"characteristic":"2A34","hex":"02 0400 03"}]`,
			`glucose value=120 mg/dL ` + at + ` seq=4 meal=fasting {` + sample + `,"meal":"fasting"}`},
		{"behind another measurement", `[` + glucose + `,` + other + `,{"characteristic":"2A34","hex":"02 0400 02"}]`,
			`glucose value=120 mg/dL ` + at + ` seq=4 meal=after_meal {` + sample + `,"meal":"after_meal"}` + "\n" +
				`glucose value=120 mg/dL 2020-04-13T17:38:10+08:00 seq=5 {` + sample + `}`},
		{"in front of it", `[{"characteristic":"2A34","hex":"02 0400 01"},` + glucose + `]`,
			`glucose value=120 mg/dL ` + at + ` seq=4 meal=before_meal {` + sample + `,"meal":"before_meal"}`},
		{"a private meal of CareSens", `[` + glucose + `,{"characteristic":"2A34","hex":"02 0400 06"}]`,
			`glucose value=120 mg/dL ` + at + ` seq=4 {` + sample + `,"meal_code":6}`},
		{"exercise", `[{"characteristic":"2A18","hex":"03 6400 E407 04 0D 10 26 0A 0000 78B0 00"},{"characteristic":"2A34","hex":"08 6400 8403 50"}]`,
			`glucose value=120 mg/dL ` + at + ` seq=100 {"exercise_s":900,"exercise_percent":80}`},
		{"everything", `[{"characteristic":"2A18","hex":"03 0600 E407 04 0D 10 26 0A 0000 78B0 00"},{"characteristic":"2A34","hex":"FF 0600 00 01 0203 04 03 0202 08 04 0501 0203"}]`,
			`glucose value=120 mg/dL ` + at + ` seq=6 meal=casual {"meal":"casual","carbohydrate":"breakfast","carbohydrate_g":770000,"tester":"laboratory",` +
				`"exercise_s":514,"exercise_percent":8,"medication":"long_insulin","medication_ml":261000,"hba1c_percent":770}`},
		{"a context of nothing", `[` + other + `,{"characteristic":"2A34","hex":"02 0400 03"}]`,
			`glucose value=120 mg/dL 2020-04-13T17:38:10+08:00 seq=5 {` + sample + `}` + "\n" + payload.NotAReading},
		{"a context of what was refused", `[{"characteristic":"2A18","hex":"13 0400 E407 04 0D 10 26 0A 0000 78B0 1A"},{"characteristic":"2A34","hex":"02 0400 03"}]`, payload.NotAReading},
		{"a short context", `[` + other + `,{"characteristic":"2A34","hex":"02 0500"}]`,
			`glucose value=120 mg/dL 2020-04-13T17:38:10+08:00 seq=5 {` + sample + `}` + "\n" + payload.CharacteristicBad},
		{"session start", `[{"characteristic":"2AAA","hex":"E207 04 18 0D 08 18 08 04 E0C2"},{"characteristic":"2AA7","hex":"06000C100500 06000C100600"}]`,
			"glucose value=120 mg/dL 2018-04-24T13:13:24+03:00\nglucose value=120 mg/dL 2018-04-24T13:14:24+03:00"},
		{"session start with a wrong checksum", `{"characteristic":"2AAA","hex":"E207 04 18 0D 08 18 08 04 E1C2"}`, payload.CharacteristicBad},
		{"session start of unknown zone", `[{"characteristic":"2AAA","hex":"E207 04 18 0D 08 18 80 FF"},{"characteristic":"2AA7","hex":"06000C100500"}]`,
			"glucose value=120 mg/dL 2018-04-24T13:13:24+08:00"},
		{"session_start of the gateway", `{"characteristic":"2AA7","hex":"06000C100500","session_start":"2026-11-21T00:00:00Z"}`, "glucose value=120 mg/dL 2026-11-21T00:05:00Z"},
		{"other base64", `{"characteristic":"0x2a18","base64":"AwYA5AcEDRAmCgAAeLDx"}`, `glucose value=120 mg/dL ` + at + ` seq=6 {` + sample + `}`},
		{"unknown members", `{"characteristic":"2A37","hex":"0055","rssi":-60,"mac":null}`, "heart_rate value=85 /min"},
		{"good beside bad", `[{"characteristic":"2A37","hex":"0055"},7,{"hex":"00"},{"characteristic":"2A37"},{"characteristic":7,"hex":"00"},{"characteristic":"pulse","hex":"00"},` +
			`{"characteristic":"2A37","hex":"0"},{"characteristic":"2A37","hex":"zz"},{"characteristic":"2A37","base64":"!"},{"characteristic":"2A37","hex":"00","base64":"AA"},{"characteristic":"2A37","hex":1},` +
			`{"characteristic":"2A37","hex":"0055","hex":"0056"},{"characteristic":"2A37","hex":"0055"}]`,
			"heart_rate value=85 /min\ntype_wrong\nfield_missing\nfield_missing\ntype_wrong\ncharacteristic_bad\ncharacteristic_bad\ncharacteristic_bad\ncharacteristic_bad\ntype_wrong\ntype_wrong\njson_invalid\nheart_rate value=85 /min"},
		{"empty", `[]`, ""},
		{"no object", `"2A37"`, "refused: type_wrong"},
		{"no JSON", "\x00\x55", "refused: json_invalid"},
		{"longer than an attribute", `{"characteristic":"2A37","hex":"` + strings.Repeat("00", 513) + `"}`, payload.CharacteristicBad},
		{"as long as an attribute", `{"characteristic":"2A37","hex":"` + strings.Repeat("00", 512) + `"}`, "heart_rate value=0 /min"},
		{"nested too deep", strings.Repeat("[", 17) + strings.Repeat("]", 17), "refused: json_invalid"},
		{"501 readings", "[" + strings.Repeat(`{"characteristic":"2A37","hex":"0055"},`, 500) + `{"characteristic":"2A37","hex":"0055"}]`, "refused: too_many_readings"},
		{"1500 CGM records", "[" + strings.Repeat(`{"characteristic":"2AA7","hex":"06000C10050006000C10050006000C100500"},`, 499) + `{"characteristic":"2A37","hex":"0055"}]`, "refused: too_many_readings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := showAll(payload.Decode("gatt", payload.Input{Payload: []byte(tt.in), ReceivedAt: received, DeviceTZ: shanghai}, nil))
			if got != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.in, got, tt.want)
			}
		})
	}
}

func TestGATT_subOfTheTopic(t *testing.T) {
	for sub, want := range map[string]string{"2a37": "heart_rate value=85 /min", "0x2A37": "heart_rate value=85 /min", "2A3": "refused: characteristic_bad",
		"heart": "refused: characteristic_bad", "2A37/x": "refused: characteristic_bad"} {
		if got := showAll(payload.Decode("gatt/"+sub, payload.Input{Payload: []byte{0, 0x55}, ReceivedAt: received}, nil)); got != want {
			t.Errorf("%s: got %s, want %s", sub, got, want)
		}
	}
}

// Every prefix of every vector is refused or is itself whole: no field is made up.
func TestGATT_truncatedAtEveryByte(t *testing.T) {
	for _, v := range vectors {
		whole := unhex(t, v.hex)
		for n := range whole {
			items, err := payload.Decode("gatt/"+v.characteristic, payload.Input{Payload: slices.Clip(whole[:n]), ReceivedAt: received, DeviceTZ: shanghai}, nil)
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			last := items[len(items)-1]
			if last.Problem == nil && (v.characteristic != "2AA7" || n%6 != 0) && v.name != "a later revision's field" &&
				!strings.Contains(v.name, "interval") && v.name != "with contact" {
				t.Errorf("%s cut to %d of %d bytes: got %s", v.name, n, len(whole), show(last))
			}
		}
	}
}

// An SFLOAT's value is the decimal that it spells, rounded once.
func TestGATT_numbersEqualTheirDecimals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, e := rapid.IntRange(-2045, 2045).Draw(t, "mantissa"), rapid.IntRange(-8, 7).Draw(t, "exponent")
		if m < 0 && e == 0 || e == 0 && m > 2045 {
			return
		}
		raw := uint16(m)&0xFFF | uint16(e)<<12
		b := []byte{0, byte(raw), byte(raw >> 8), 90, 0}
		items, err := payload.Decode("gatt/2A5F", payload.Input{Payload: b, ReceivedAt: received}, nil)
		if err != nil || items[0].Problem != nil {
			t.Fatalf("%04x: %v, %v", raw, items, err)
		}
		want, _ := strconv.ParseFloat(fmt.Sprintf("%de%d", m, e), 64)
		if got := items[0].Reading.V[0]; got != want {
			t.Fatalf("%04x: got %v, want %v", raw, got, want)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		m, e := rapid.IntRange(1, 1<<23-4).Draw(t, "mantissa"), rapid.IntRange(-22, 22).Draw(t, "exponent")
		b := []byte{0, byte(m), byte(m >> 8), byte(m >> 16), byte(e)}
		items, _ := payload.Decode("gatt/2A1C", payload.Input{Payload: b, ReceivedAt: received}, nil)
		want, _ := strconv.ParseFloat(fmt.Sprintf("%de%d", m, e), 64)
		if got := items[0].Reading.V[0]; got != want {
			t.Fatalf("%de%d: got %v, want %v", m, e, got, want)
		}
	})
}

// Numbers of IEEE 11073 that other projects test with, and all special values: looked at before the exponent.
func TestGATT_numbers(t *testing.T) {
	for in, want := range map[string]string{
		"7200": "114", "6CF1": "36.4", "FF0F": "-1", "0520": "500", "8C00": "140", "E702": "743", "F030": "240000",
		"6C0100FF": "36.4", "FFFFFF00": "-1", "970D00FE": "34.79", "E7020203": "131815000", "E30000FF": "22.7",
		"FF07": "", "0008": "", "0108": "", "FFFF7F00": "", "00008000": "", "01008000": "",
		"FE07": "100 above_range", "0208": "70 below_range", "FEFF7F00": "42 above_range", "02008000": "34 below_range",
	} {
		code, bytes := "2A5F", "00"+in+"5A00" // a FLOAT is a temperature, an SFLOAT an oximeter's
		if len(in) == 8 {
			code, bytes = "2A1C", "00"+in
		}
		items, err := payload.Decode("gatt/"+code, payload.Input{Payload: unhex(t, bytes), ReceivedAt: received}, nil)
		if err != nil || len(items) != 1 {
			t.Fatal(items, err)
		}
		got := ""
		if it := items[0]; it.Problem == nil {
			got = strings.Join(append([]string{strconv.FormatFloat(it.Reading.V[0], 'f', -1, 64)}, it.Reading.Flags.Names()...), " ")
		} else if it.Problem.Code != payload.ValueInvalid {
			got = it.Problem.Code
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

// checkItems holds the properties that all formats have.
func checkItems(t testing.TB, format string, in payload.Input, items []payload.Item, err error) {
	if err != nil {
		if _, typed := err.(*payload.Problem); !typed {
			t.Fatalf("%s: error is a %T", format, err)
		}
		if len(items) != 0 {
			t.Fatalf("%s: a refused message left %d items", format, len(items))
		}
		return
	}
	if len(items) > payload.MaxReadings {
		t.Fatalf("%s: %d items", format, len(items))
	}
	for i, it := range items {
		r := &it.Reading
		if p := it.Problem; p != nil {
			if p.Code == "" || p.Detail == "" || p.Index != i && !strings.Contains(format, "/") {
				t.Fatalf("%s: problem %d is %+v", format, i, p)
			}
			continue
		}
		req := r.Indicator.Required()
		switch {
		case req == 0 || r.Has&req != req || r.Has>>len(r.Indicator.Components()) != 0:
			t.Fatalf("%s: reading %d of %v has components %b", format, i, r.Indicator, r.Has)
		case !r.Indicator.Accepts(r.Unit):
			t.Fatalf("%s: reading %d of %v in %v", format, i, r.Indicator, r.Unit)
		case r.TakenAt == 0:
			t.Fatalf("%s: reading %d has no time", format, i)
		}
		for k := range r.Indicator.Components() {
			if r.Has&(1<<k) != 0 && (math.IsNaN(r.V[k]) || math.IsInf(r.V[k], 0)) {
				t.Fatalf("%s: reading %d has %v", format, i, r.V[k])
			}
		}
		if r.Extra != nil {
			for _, s := range []string{r.Extra.Context, r.Extra.Aside} {
				if s != "" && (!json.Valid([]byte(s)) || s[0] != '{') {
					t.Fatalf("%s: reading %d has context or aside %q", format, i, s)
				}
			}
		}
	}
	again, err := payload.Decode(format, in, nil)
	if err != nil || len(again) != len(items) {
		t.Fatalf("%s: decoded again: %d items and %v, first %d", format, len(again), err, len(items))
	}
}

func FuzzGATT(f *testing.F) {
	for _, v := range vectors {
		b := unhex(f, v.hex)
		code, _ := strconv.ParseUint(v.characteristic, 16, 16)
		f.Add(uint16(code), b)
		f.Add(uint16(0), []byte(`{"characteristic":"`+v.characteristic+`","hex":"`+v.hex+`"}`))
	}
	f.Fuzz(func(t *testing.T, code uint16, b []byte) {
		format := "gatt"
		if code != 0 {
			format = fmt.Sprintf("gatt/%04X", code)
		}
		in := payload.Input{Payload: b, ReceivedAt: received, DeviceTZ: shanghai}
		items, err := payload.Decode(format, in, nil)
		checkItems(t, format, in, items, err)
	})
}

func TestGATT_noAllocation(t *testing.T) {
	dst := make([]payload.Item, 0, 8)
	for _, v := range vectors {
		if strings.Contains(v.want, "{") && !strings.Contains(v.want, "sample_") && !strings.Contains(v.want, "site") || strings.Contains(v.want, "_") && !strings.Contains(v.want, "=") {
			continue // a context or a problem is allocated
		}
		in, format := payload.Input{Payload: unhex(t, v.hex), ReceivedAt: received, DeviceTZ: shanghai}, "gatt/"+v.characteristic
		items, err := payload.Decode(format, in, dst[:0])
		if err != nil || slices.ContainsFunc(items, func(it payload.Item) bool { return it.Problem != nil }) {
			continue
		}
		if n := testing.AllocsPerRun(100, func() { payload.Decode(format, in, dst[:0]) }); n != 0 {
			t.Errorf("%s: %v allocations", v.name, n)
		}
	}
}

// go test -run '^$' -bench GATT -benchmem ./devices/payload
func BenchmarkGATT(b *testing.B) {
	cases := []struct{ name, format, payload string }{}
	for _, n := range []string{"cuff with a clock", "Accu-Chek Guide", "two intervals", "heart rate", "oximeter", "weight with time", "thermometer", "two records"} {
		for _, v := range vectors {
			if v.name == n {
				cases = append(cases, struct{ name, format, payload string }{v.characteristic + "/" + strings.ReplaceAll(n, " ", "_"), "gatt/" + v.characteristic, string(unhex(b, v.hex))})
			}
		}
	}
	cases = append(cases, struct{ name, format, payload string }{"json", "gatt", `{"characteristic":"2A18","hex":"1B0F00E807011E053A1B53016FB0F80000"}`})
	for _, c := range cases {
		b.Run("payload="+c.name, func(b *testing.B) { benchmarkFormat(b, c.format, []byte(c.payload)) })
	}
}

func benchmarkFormat(b *testing.B, format string, message []byte) {
	in := payload.Input{Payload: message, ReceivedAt: received, DeviceTZ: shanghai}
	dst := make([]payload.Item, 0, payload.MaxReadings)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		items, err := payload.Decode(format, in, dst[:0])
		if err != nil || items[0].Problem != nil {
			b.Fatal(items, err)
		}
		n += len(items)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "readings/s")
}
