package payload_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vitalwatch/devices/payload"
)

// The project's own test data: what must pass is a reading, what must fail is refused with a reason.
func TestOMH_projectsTestData(t *testing.T) {
	dir := filepath.Join(sharedDir(), "data", "omh")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("skipped: no test data of openmhealth/schemas in ", dir)
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		files++
		items, derr := payload.Decode("omh", payload.Input{Payload: fixture(t, path), ReceivedAt: received}, nil)
		passes := derr == nil && len(items) == 1 && items[0].Problem == nil
		fails := derr == nil && len(items) == 1 && items[0].Problem != nil && items[0].Problem.Detail != ""
		switch filepath.Base(filepath.Dir(path)) {
		case "shouldPass":
			if !passes {
				t.Errorf("%s: %s", path, showAll(items, derr))
			}
		case "shouldFail":
			if !fails {
				t.Errorf("%s: %s", path, showAll(items, derr))
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestOMH_schemaOfTheTopic(t *testing.T) {
	hr := `{"heart_rate":{"value":64,"unit":"beats/min"},"effective_time_frame":{"date_time":"2026-11-22T07:25:00+08:00"}}`
	part := `{"heart_rate":{"value":64,"unit":"beats/min"},"effective_time_frame":{"time_interval":{"date":"2026-11-21","part_of_day":"%s"}}}`
	for _, c := range []struct{ format, in, want string }{
		{"omh/heart-rate", hr, "heart_rate value=64 /min 2026-11-22T07:25:00+08:00"},
		{"omh/heart-rate/2.0", hr, "heart_rate value=64 /min 2026-11-22T07:25:00+08:00"},
		{"omh/body-weight", hr, payload.FieldMissing},
		{"omh/mood", hr, "refused: " + payload.IndicatorUnknown},
		{"omh/heart-rate/1.0", fmt.Sprintf(part, "evening"), `heart_rate value=64 /min 2026-11-21T18:00:00+08:00 [display_only] +time_approximate {"part_of_day":"evening"}`},
		{"omh/heart-rate/1.0", fmt.Sprintf(part, "night"), `heart_rate value=64 /min 2026-11-21T00:00:00+08:00 [display_only] +time_approximate {"part_of_day":"night"}`},
		{"omh/heart-rate/1.0", fmt.Sprintf(part, "noon"), payload.EnumUnknown},
		{"omh/heart-rate/2.0", fmt.Sprintf(part, "evening"), payload.TimeInvalid},
		{"omh", fmt.Sprintf(part, "evening"), payload.TimeInvalid},
	} {
		got := showAll(payload.Decode(c.format, payload.Input{Payload: []byte(c.in), ReceivedAt: received, DeviceTZ: shanghai}, nil))
		if got != c.want {
			t.Errorf("%s %s\ngot  %s\nwant %s", c.format, c.in, got, c.want)
		}
	}
}

func FuzzOMH(f *testing.F) { fuzzFixtures(f, "omh") }

// go test -run '^$' -bench OMH -benchmem ./devices/payload
func BenchmarkOMH(b *testing.B) {
	for kind, body := range map[string]string{
		"heart_rate":     `{"heart_rate":{"value":64,"unit":"beats/min"},"effective_time_frame":{"date_time":"2026-11-22T07:25:00+08:00"}}`,
		"blood_pressure": `{"systolic_blood_pressure":{"value":142,"unit":"mmHg"},"diastolic_blood_pressure":{"value":91,"unit":"mmHg"},"effective_time_frame":{"date_time":"2026-11-22T07:25:00+08:00"},"body_posture":"sitting","measurement_location":"left upper arm"}`,
	} {
		for _, n := range []int{1, 100} {
			var points []string
			for i := range n {
				points = append(points, fmt.Sprintf(`{"header":{"id":"%d","creation_date_time":"2026-11-22T07:30:00+08:00","schema_id":{"namespace":"omh","name":"%s","version":"2.0"},"acquisition_provenance":{"source_name":"app","modality":"sensed"},"user_id":"u"},"body":%s}`, i, strings.ReplaceAll(kind, "_", "-"), body))
			}
			msg := "[" + strings.Join(points, ",") + "]"
			b.Run(fmt.Sprintf("kind=%s/n=%d", kind, n), func(b *testing.B) {
				b.SetBytes(int64(len(msg)))
				benchmarkFormat(b, "omh", []byte(msg))
			})
		}
	}
}
