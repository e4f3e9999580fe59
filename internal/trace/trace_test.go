package trace_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata"

	"vitalwatch/devices/payload"
	"vitalwatch/internal/fakebroker"
	"vitalwatch/internal/mqttdevice"
	"vitalwatch/internal/trace"
	"vitalwatch/vitals"
)

func zone(t testing.TB, name string) *time.Location {
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// lines shows what rows become on the wire.
func lines(rows []trace.Row, ind vitals.Indicator, unit string) string {
	var b strings.Builder
	for _, r := range rows {
		b.Write(trace.AppendReading(nil, r, ind, unit))
		b.WriteByte('\n')
	}
	return b.String()
}

func TestRead(t *testing.T) {
	ny := zone(t, "America/New_York")
	for _, tt := range []struct {
		name, in string
		ind      vitals.Indicator
		unit     string
		zone     *time.Location
		want     string
		skipped  int
	}{
		{"iglu", "\"\",\"id\",\"time\",\"gl\"\n\"1\",\"Subject 1\",2015-06-06 16:50:27,153\n\"2\",\"Subject 1\",2015-06-06 17:05:27,NA\n", vitals.Glucose, "mg/dL", ny,
			`{"indicator":"glucose","taken_at":"2015-06-06T16:50:27-04:00","value":153,"unit":"mg/dL"}` + "\n", 1},
		{"digits stay", "Time,Value\n2026-11-21T08:00:00+08:00,7.80\n2026-11-21T08:05:00.25Z,78e-1\n", vitals.Glucose, "mmol/L", nil,
			`{"indicator":"glucose","taken_at":"2026-11-21T08:00:00+08:00","value":7.80,"unit":"mmol/L"}
{"indicator":"glucose","taken_at":"2026-11-21T08:05:00.25Z","value":78e-1,"unit":"mmol/L"}
`, 0},
		{"blood pressure", "\ufeffTAKEN_AT,note,Pulse,Diastolic,SYSTOLIC\n2026-11-21 08:00,\"a, b\",,91,142\n2026-11-21T20:00:00,,70, 90 ,141\n", vitals.BloodPressure, "mmHg", zone(t, "Asia/Shanghai"),
			`{"indicator":"blood_pressure","taken_at":"2026-11-21T08:00:00+08:00","values":{"diastolic":91,"systolic":142},"unit":"mmHg"}
{"indicator":"blood_pressure","taken_at":"2026-11-21T20:00:00+08:00","values":{"pulse":70,"diastolic":90,"systolic":141},"unit":"mmHg"}
`, 0},
		{"named as the indicator", "timestamp,heart_rate\n2026-11-21T08:00:00Z,72\n", vitals.HeartRate, "bpm\"", nil,
			`{"indicator":"heart_rate","taken_at":"2026-11-21T08:00:00Z","value":72,"unit":"bpm\""}` + "\n", 0},
		{"sleep", "time,value\n2026-11-21T08:00:00Z,7.5\n", vitals.Sleep, "h", nil,
			`{"indicator":"sleep","taken_at":"2026-11-21T08:00:00Z","values":{"total":7.5},"unit":"h"}` + "\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rows, skipped, err := trace.Read(strings.NewReader(tt.in), tt.ind, tt.zone)
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(rows, tt.ind, tt.unit); got != tt.want || skipped != tt.skipped {
				t.Errorf("skipped %d, got\n%swant\n%s", skipped, got, tt.want)
			}
		})
	}
}

func TestRead_refuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", "empty"},
		{"no time", "when,value\n", "no column is named time"},
		{"no value", "time,reading\n", "no column is named as a value"},
		{"two values", "time,gl,value\n", "two columns are named as value"},
		{"two times", "time,taken_at,value\n", "two columns are named as the time"},
		{"local time without zone", "time,value\n2026-11-21 08:00:00,5\n", "line 2: the time has no offset; say with --tz"},
		{"not a time", "time,value\n2026-11-21T08:00:00Z,5\nyesterday,5\n", "line 3: the time is neither"},
		{"no number", "time,value\n2026-11-21T08:00:00Z,HIGH\n", "line 2: value is not a number"},
		{"plus", "time,value\n2026-11-21T08:00:00Z,+5\n", "line 2: value is not a number"},
		{"true", "time,value\n2026-11-21T08:00:00Z,true\n", "line 2: value is not a number"},
	} {
		_, _, err := trace.Read(strings.NewReader(tt.in), vitals.Glucose, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "HIGH") {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestRead_whenClocksChange(t *testing.T) {
	ny := zone(t, "America/New_York")
	for _, tt := range []struct {
		name, times string
		want        string // UTC
	}{
		{"spring, as if not moved", "2026-03-08 01:59:00,2026-03-08 02:30:00,2026-03-08 03:31:00", "06:59 07:30 07:31"},
		{"autumn, rows tell", "2026-11-01 00:59:00,2026-11-01 01:30:00,2026-11-01 01:59:00,2026-11-01 01:00:00,2026-11-01 01:30:00,2026-11-01 02:00:00", "04:59 05:30 05:59 06:00 06:30 07:00"},
		{"autumn, newest first", "2026-11-01 02:00:00,2026-11-01 01:30:00,2026-11-01 01:00:00,2026-11-01 01:59:00,2026-11-01 01:30:00,2026-11-01 00:59:00", "07:00 06:30 06:00 05:59 05:30 04:59"},
		{"autumn, one alone is the first", "2026-11-01 01:30:00", "05:30"},
	} {
		in := "time,value\n" + strings.ReplaceAll(tt.times, ",", ",5\n") + ",5\n"
		rows, _, err := trace.Read(strings.NewReader(in), vitals.Glucose, ny)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range rows {
			got = append(got, r.At.UTC().Format("15:04"))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, s, tt.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("time,value\n2026-11-21 08:00:00,5\n")
	f.Add("\"\",\"id\",\"time\",\"gl\"\n\"1\",\"S\",2015-06-06 16:50:27,153\n")
	f.Add("time,systolic,diastolic\n2026-03-08 02:30,1,2\n\"")
	ny := zone(f, "America/New_York")
	f.Fuzz(func(t *testing.T, in string) {
		for _, ind := range []vitals.Indicator{vitals.Glucose, vitals.BloodPressure} {
			rows, _, err := trace.Read(strings.NewReader(in), ind, ny)
			if err != nil {
				continue
			}
			// What was read is a message that the server's decoder can read.
			msgs, _ := trace.Messages(rows, ind, "x", 500)
			for _, m := range msgs {
				if !json.Valid(m) || len(m) > payload.MaxBytes {
					t.Fatalf("%q became a bad message of %d bytes: %.200q", in, len(m), m)
				}
			}
		}
	})
}

func TestMessages(t *testing.T) {
	var rows []trace.Row
	for i := range 1001 {
		rows = append(rows, trace.Row{At: time.Unix(1795300000+int64(i), 0).UTC(), Values: []trace.Value{{Component: vitals.Value, Text: "5.5"}}})
	}
	msgs, counts := trace.Messages(rows, vitals.Glucose, "mmol/L", 500)
	n := 0
	for i, m := range msgs {
		items, err := payload.Decode("readings", payload.Input{Payload: m}, nil)
		if err != nil || len(items) != counts[i] {
			t.Fatalf("message %d: %d items, want %d, %v", i, len(items), counts[i], err)
		}
		for _, it := range items {
			if it.Problem != nil || it.Reading.TakenAt != vitals.At(rows[n].At) || it.Reading.V[0] != 5.5 {
				t.Fatalf("row %d became %+v", n, it)
			}
			n++
		}
	}
	if n != 1001 {
		t.Errorf("%d readings in the messages", n)
	}
}

func TestPublish(t *testing.T) {
	var mu sync.Mutex
	seen := 0
	got := map[vitals.Micros]bool{}
	b := fakebroker.Start(t, fakebroker.Config{OnPublish: func(m fakebroker.Message, reply func(string, []byte)) fakebroker.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if m.Topic != "vw/v1/cgm-1/up/readings" || m.QoS != 1 || m.ClientID != "cgm-1" {
			t.Errorf("got %s, QoS %d, from %s", m.Topic, m.QoS, m.ClientID)
		}
		if seen++; seen == 2 {
			return fakebroker.Drop
		}
		items, err := payload.Decode("readings", payload.Input{Payload: m.Payload}, nil)
		if err != nil {
			t.Error(err)
		}
		for _, it := range items {
			got[it.Reading.TakenAt] = true
		}
		reply("vw/v1/cgm-1/down/errors", []byte(`{"problem":"clock_ahead","index":1}`))
		return fakebroker.Ack
	}})
	rows, _, err := trace.Read(strings.NewReader(series(25)), vitals.Glucose, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := trace.Publish(t.Context(), trace.Config{Indicator: vitals.Glucose, Unit: "mg/dL", Batch: 10, Device: mqttdevice.Config{Broker: b.URL(), ID: "cgm-1", Window: 1}}, rows)
	if err != nil || s.Sent != 25 || s.Acknowledged != 25 || s.Refused != 3 || s.Refusals["clock_ahead"] != 3 {
		t.Errorf("got %+v, %v", s, err)
	}
	if want := `sent 25, acknowledged 25, errors heard 3 {"clock_ahead":3}`; s.String() != want {
		t.Errorf("got %s\nwant %s", s.String(), want)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 25 {
		t.Errorf("%d different readings arrived, want 25", len(got))
	}
}

func TestPublish_notAcknowledged(t *testing.T) {
	rows, _, _ := trace.Read(strings.NewReader(series(3)), vitals.Glucose, nil)
	ctx, cancel := context.WithCancel(t.Context())
	b := fakebroker.Start(t, fakebroker.Config{OnPublish: func(fakebroker.Message, func(string, []byte)) fakebroker.Verdict {
		cancel()
		return fakebroker.Drop
	}})
	s, err := trace.Publish(ctx, trace.Config{Indicator: vitals.Glucose, Unit: "mg/dL", Device: mqttdevice.Config{Broker: b.URL(), ID: "cgm-1"}}, rows)
	if err == nil || s.Sent != 3 || s.Acknowledged != 0 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestPublish_live(t *testing.T) {
	b := fakebroker.Start(t, fakebroker.Config{})
	rows, _, _ := trace.Read(strings.NewReader(series(3)), vitals.Glucose, nil)
	at := time.Date(2026, 11, 21, 8, 0, 0, 0, time.FixedZone("", 8*3600))
	calls := 0
	s, err := trace.Publish(t.Context(), trace.Config{Indicator: vitals.Glucose, Unit: "mg/dL", Live: true, Interval: time.Millisecond,
		Now:    func() time.Time { calls++; return at.Add(time.Duration(calls) * time.Second) },
		Device: mqttdevice.Config{Broker: b.URL(), ID: "cgm-1"}}, rows)
	if err != nil || s.Sent != 3 || s.Acknowledged != 3 {
		t.Fatalf("got %+v, %v", s, err)
	}
	msgs, _ := b.Messages()
	var got []string
	for _, m := range msgs {
		got = append(got, string(m.Payload))
	}
	want := `{"indicator":"glucose","taken_at":"2026-11-21T08:00:01+08:00","value":100,"unit":"mg/dL"}
{"indicator":"glucose","taken_at":"2026-11-21T08:00:02+08:00","value":101,"unit":"mg/dL"}
{"indicator":"glucose","taken_at":"2026-11-21T08:00:03+08:00","value":102,"unit":"mg/dL"}`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}

func series(n int) string {
	var b strings.Builder
	b.WriteString("time,value\n")
	for i := range n {
		at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 5 * time.Minute)
		b.WriteString(at.Format(time.RFC3339) + "," + string('1') + string(rune('0'+i/10%10)) + string(rune('0'+i%10)) + "\n")
	}
	return b.String()
}

// TestRead_subject1 reads the real trace of the shared data folder.
func TestRead_subject1(t *testing.T) {
	dir := os.Getenv("VITALWATCH_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	f, err := os.Open(filepath.Join(dir, "data", "cgm", "subject1.csv"))
	if err != nil {
		t.Skip("data/cgm/subject1.csv is not there; set VITALWATCH_SHARED to run this test")
	}
	defer f.Close()
	rows, skipped, err := trace.Read(f, vitals.Glucose, zone(t, "America/New_York"))
	if err != nil || len(rows) != 2915 || skipped != 0 {
		t.Fatalf("got %d rows, %d skipped, %v; want 2915", len(rows), skipped, err)
	}
	if got, want := lines(rows[:1], vitals.Glucose, "mg/dL"), `{"indicator":"glucose","taken_at":"2015-06-06T16:50:27-04:00","value":153,"unit":"mg/dL"}`+"\n"; got != want {
		t.Errorf("got %swant %s", got, want)
	}
}
