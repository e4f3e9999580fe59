package payload_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

func TestWriteLines(t *testing.T) {
	now := vitals.At(time.Date(2026, 11, 21, 0, 1, 0, 0, time.UTC))
	ahead := object(m{"taken_at": `"2027-01-01T00:00:00Z"`})
	for _, tt := range []struct {
		name, format, in string
		accepted         int
		refused          bool
		want             string
	}{
		{"one", "readings", object(m{"id": `"a"`, "seq": "3"}), 1, false,
			`{"indicator":"heart_rate","taken_at":"2026-11-21T00:00:00.000Z","received_at":"2026-11-21T00:01:00.000Z","values":{"value":72},"unit":"/min","context":{},"flags":[],"freshness":"live","quality":"good","device_reading_id":"a","seq":3,"accepted":true}`},
		{"some", "readings", "[" + object(m{"unit": ""}) + "," + object(m{"value": "999"}) + "," + object(m{"value": "29"}) + "," + ahead + "]", 2, false,
			`{"accepted":false,"problem":"unit_missing","detail":"unit is missing; it is never guessed","index":0,"offset":1}
{"accepted":false,"problem":"value_impossible","detail":"component value is beyond what can be measured; check value and unit","index":1}
{"indicator":"heart_rate","taken_at":"2026-11-21T00:00:00.000Z","received_at":"2026-11-21T00:01:00.000Z","values":{"value":29},"unit":"/min","context":{},"flags":[],"freshness":"live","quality":"suspect","accepted":true}
{"indicator":"heart_rate","taken_at":"2027-01-01T00:00:00.000Z","received_at":"2026-11-21T00:01:00.000Z","values":{"value":72},"unit":"/min","context":{},"flags":[],"freshness":"doubtful","quality":"good","accepted":true}`},
		{"none", "readings", "[]", 0, false, ""},
		{"broken", "readings", "{", 0, true, `{"accepted":false,"problem":"json_invalid","detail":"the message is not valid JSON; nothing of it was taken","index":0,"offset":1}`},
		{"no such format", "x", "{}", 0, true, `{"accepted":false,"problem":"format_unknown","detail":"there is no such format; publish native JSON below up/readings","index":0}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			n, refused, err := payload.WriteLines(&out, tt.format, payload.Input{Payload: []byte(tt.in), ReceivedAt: now})
			if err != nil || n != tt.accepted || refused != tt.refused || strings.TrimSuffix(out.String(), "\n") != tt.want {
				t.Errorf("got %d, %v, %v and\n%swant %d, %v and\n%s", n, refused, err, out.String(), tt.accepted, tt.refused, tt.want)
			}
			for line := range strings.Lines(out.String()) {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
		})
	}
}

// The limits of plausibility, on both sides of each: what decode and the server say of a value that came without any flag.
func TestWriteLines_plausibility(t *testing.T) {
	now := vitals.At(time.Date(2026, 11, 21, 0, 1, 0, 0, time.UTC))
	bp := func(values string) string {
		return `"indicator":"blood_pressure","values":{` + values + `},"unit":"mmHg"`
	}
	one := func(indicator, unit, value string) string {
		return `"indicator":"` + indicator + `","value":` + value + `,"unit":"` + unit + `"`
	}
	for body, want := range map[string]string{
		bp(`"systolic":120,"diastolic":80`): "good", bp(`"systolic":240,"diastolic":130`): "good", bp(`"systolic":241,"diastolic":130`): "suspect",
		bp(`"systolic":50,"diastolic":40`): "good", bp(`"systolic":49,"diastolic":39`): "suspect", bp(`"systolic":29,"diastolic":15`): "",
		bp(`"systolic":300,"diastolic":200`): "suspect", bp(`"systolic":301,"diastolic":200`): "", bp(`"systolic":250,"diastolic":201`): "",
		bp(`"systolic":120,"diastolic":14`): "", bp(`"systolic":120,"diastolic":141`): "", bp(`"systolic":160,"diastolic":141`): "suspect",
		bp(`"systolic":120,"diastolic":120`): "", bp(`"systolic":120,"diastolic":111`): "", bp(`"systolic":120,"diastolic":110`): "good",
		bp(`"systolic":200,"diastolic":80`): "good", bp(`"systolic":201,"diastolic":80`): "suspect",
		bp(`"systolic":18.9,"diastolic":11,"mean":15.9`): "", // kPa behind a wrong flag
		bp(`"systolic":120,"diastolic":80,"pulse":29`):   "suspect", bp(`"systolic":120,"diastolic":80,"pulse":19`): "",
		one("heart_rate", "/min", "20"): "suspect", one("heart_rate", "/min", "19"): "", one("heart_rate", "/min", "30"): "good", one("heart_rate", "/min", "220"): "good",
		one("heart_rate", "/min", "221"): "suspect", one("heart_rate", "/min", "300"): "suspect", one("heart_rate", "/min", "301"): "",
		one("glucose", "mmol/L", "0.3"): "suspect", one("glucose", "mmol/L", "0.29"): "", one("glucose", "mmol/L", "1.1"): "good", one("glucose", "mmol/L", "33.3"): "good",
		one("glucose", "mmol/L", "33.4"): "suspect", one("glucose", "mmol/L", "55"): "suspect", one("glucose", "mmol/L", "55.1"): "",
		one("glucose", "mg/dL", "3000000"): "", one("glucose", "mg/dL", "599"): "good",
		one("spo2", "%", "100"): "good", one("spo2", "%", "101"): "", one("spo2", "%", "69"): "suspect", one("spo2", "%", "29"): "", one("spo2", "%", "0.97"): "",
		one("temperature", "Cel", "24.9"): "", one("temperature", "Cel", "25"): "suspect", one("temperature", "Cel", "34"): "good", one("temperature", "Cel", "42"): "good",
		one("temperature", "Cel", "42.1"): "suspect", one("temperature", "Cel", "45.1"): "", one("temperature", "Cel", "98.6"): "", one("temperature", "[degF]", "98.6"): "good",
		one("weight", "kg", "0.9"): "", one("weight", "kg", "501"): "", one("weight", "kg", "70"): "good",
		one("respiration", "/min", "0"): "", one("respiration", "/min", "4"): "suspect", one("respiration", "/min", "61"): "suspect", one("respiration", "/min", "101"): "",
		one("hrv", "ms", "0"): "", one("hrv", "ms", "301"): "suspect", one("hrv", "ms", "501"): "",
		one("steps", "steps", "-1"): "", one("steps", "steps", "100001"): "suspect", one("steps", "steps", "0"): "good",
		one("sleep", "h", "24.1"): "", one("sleep", "min", "480"): "good",
	} {
		var out strings.Builder
		in := payload.Input{Payload: []byte(`{"taken_at":"2026-11-21T08:00:00+08:00",` + body + `}`), ReceivedAt: now}
		if _, _, err := payload.WriteLines(&out, "readings", in); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Accepted         bool
			Quality, Problem string
		}
		if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
			t.Fatal(err)
		}
		if got.Quality != want || got.Accepted != (want != "") || want == "" && got.Problem != payload.ValueImpossible {
			t.Errorf("%s: %+v, want %q", body, got, want)
		}
	}
}
