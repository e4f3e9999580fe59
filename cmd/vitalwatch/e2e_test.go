package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"vitalwatch/internal/loadgen"
)

// cli runs a verb of the real binary on the child's configuration and returns its stdout.
func cli(t *testing.T, s *child, args ...string) string {
	t.Helper()
	out, errOut, err := cliErr(s, args...)
	if err != nil {
		t.Fatalf("vitalwatch %s: %v\n%s", strings.Join(args, " "), err, errOut)
	}
	return out
}

func cliErr(s *child, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(s.exe, append(args, "-c", filepath.Join(s.Dir, "vitalwatch.yaml"))...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// plain runs a verb that takes no configuration.
func plain(t *testing.T, s *child, args ...string) string {
	t.Helper()
	cmd := exec.Command(s.exe, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("vitalwatch %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

func metrics(t *testing.T, s *child) map[string]float64 {
	t.Helper()
	m, err := s.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

type alertJSON struct {
	ID          string            `json:"id"`
	PatientID   string            `json:"patient_id"`
	Rule        string            `json:"rule"`
	Severity    string            `json:"severity"`
	State       string            `json:"state"`
	Signal      string            `json:"signal"`
	Seq         uint64            `json:"seq"`
	Title       map[string]string `json:"title"`
	Explanation json.RawMessage   `json:"explanation"`
	Trigger     struct {
		ReadingID string             `json:"reading_id"`
		Indicator string             `json:"indicator"`
		Values    map[string]float64 `json:"values"`
		Unit      string             `json:"unit"`
	} `json:"trigger"`
}

func level(t *testing.T, s *child) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Level(ctx); err != nil {
		t.Fatal(err)
	}
}

// trace writes a CSV with a column time and one value column, as a recorded CGM trace has it.
func writeTrace(t *testing.T, values []float64) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("time,gl\n")
	at := time.Date(2015, 6, 6, 16, 50, 27, 0, time.UTC)
	for _, v := range values {
		fmt.Fprintf(&b, "%s,%g\n", at.Format(time.DateTime), v)
		at = at.Add(5 * time.Minute)
	}
	path := filepath.Join(t.TempDir(), "trace.csv")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEndToEnd_RecordedTrace sends a CGM trace through the front door as history, twice, and asks for its metrics.
func TestEndToEnd_RecordedTrace(t *testing.T) {
	csv, n, want := writeTrace(t, wave()), 300, map[string]float64(nil)
	shared := filepath.Join("..", "..", "..", "shared", "data", "cgm", "subject1.csv")
	if dir := os.Getenv("VITALWATCH_SHARED"); dir != "" {
		shared = filepath.Join(dir, "data", "cgm", "subject1.csv")
	}
	if _, err := os.Stat(shared); err == nil {
		csv, n = shared, 2915
		want = map[string]float64{"mean": 123.665523, "sd": 33.268076, "cv": 26.901658, "gmi": 6.268079,
			"time_in_range": 91.663808, "below_70": 0.137221, "above_180": 8.198971, "above_250": 0.377358}
	} else {
		t.Logf("%s is not there: the published metrics are not compared", shared)
	}
	s := startServer(t, "")
	cli(t, s, "patient", "add", "P-1", "--condition", "type2_diabetes")
	secret := filepath.Join(s.Dir, "cgm.secret")
	if err := os.WriteFile(secret, []byte(cli(t, s, "device", "add", "cgm-1", "--patient", "P-1")), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the server to see the new device", func() bool {
		var p struct{ Items []struct{ ID string } }
		get(t, s, "/api/v1/patients", &p)
		return len(p.Items) == 1
	})
	publish := func() {
		out := plain(t, s, "publish", "--broker", "tcp://"+s.MQTT, "--device", "cgm-1", "--username", "cgm-1", "--password-file", secret,
			"--indicator", "glucose", "--unit", "mg/dL", "--csv", csv, "--tz", "America/New_York")
		t.Log(strings.TrimSpace(out))
	}
	publish()
	level(t, s)
	m := metrics(t, s)
	wantMetrics(t, m, n, n, 0, 0)
	publish()
	wantMetrics(t, metrics(t, s), 2*n, n, n, 0)

	var trends struct {
		N       int                `json:"n"`
		Metrics map[string]float64 `json:"metrics"`
	}
	get(t, s, "/api/v1/patients/P-1/trends?indicator=glucose", &trends)
	if trends.N != n {
		t.Errorf("trends over %d readings, want %d", trends.N, n)
	}
	for k, v := range want {
		if got := trends.Metrics[k]; math.Abs(got-v) > 5e-7 {
			t.Errorf("%s = %.6f, want %.6f", k, got, v)
		}
	}
	if open := list[alertJSON](t, s, "/api/v1/alerts?state=all"); len(open) != 0 {
		t.Errorf("history opened live alerts: %+v", open)
	}
	if f := list[json.RawMessage](t, s, "/api/v1/patients/P-1/findings?limit=100"); len(f) == 0 {
		t.Error("history beyond the lines gave no retrospective finding")
	}
}

// wave is a day of glucose with a low and a high.
func wave() []float64 {
	var out []float64
	for i := range 300 {
		out = append(out, math.Round(140+120*math.Sin(float64(i)/20)))
	}
	return out
}

func wantMetrics(t *testing.T, m map[string]float64, received, accepted, duplicate, quarantined int) {
	t.Helper()
	for name, want := range map[string]int{"received": received, "accepted": accepted, "duplicate": duplicate, "quarantined": quarantined, "stored": accepted, "evaluated": accepted} {
		if got := m["vitalwatch_readings_"+name+"_total"]; got != float64(want) {
			t.Errorf("vitalwatch_readings_%s_total = %v, want %d", name, got, want)
		}
	}
}

func TestEndToEnd_LiveTraceOpensAndClears(t *testing.T) {
	s := startServer(t, "registration: open\n")
	plain(t, s, "publish", "--broker", "tcp://"+s.MQTT, "--device", "cgm-1", "--indicator", "glucose", "--unit", "mg/dL",
		"--csv", writeTrace(t, wave()), "--tz", "UTC", "--live", "--interval", "3ms")
	level(t, s)
	waitFor(t, "a low and a high alert to be resolved by readings", func() bool {
		seen := map[string]bool{}
		for _, a := range list[alertJSON](t, s, "/api/v1/alerts?state=resolved&patient=P-cgm-1") {
			seen[a.Rule] = true
		}
		return seen["glucose_low"] && seen["glucose_high"]
	})
	m := metrics(t, s)
	for _, name := range []string{"readings_received_total", "readings_accepted_total", "readings_duplicate_total", "readings_stored_total",
		"readings_evaluated_total", "alert_transitions_total", "journal_fsync_seconds_count", "consumer_lag", "alert_latency_seconds_count",
		"feed_clients", "feed_dropped_total"} { // those of the contract that need neither hook nor bad input
		if _, ok := m["vitalwatch_"+name]; !ok {
			t.Errorf("no metric vitalwatch_%s", name)
		}
	}
	if n := m["vitalwatch_alert_transitions_total"]; n < 4 { // two opened, two resolved
		t.Errorf("vitalwatch_alert_transitions_total is %v, want at least 4", n)
	}
}

// TestEndToEnd_AddedBesideTheServer: what the command line has added counts for who connects right after it.
func TestEndToEnd_AddedBesideTheServer(t *testing.T) {
	s := startServer(t, "")
	s.Key = strings.TrimSpace(cli(t, s, "apikey", "add", "--name", "test", "--role", "admin"))
	for i := range 4 {
		id := fmt.Sprintf("new-%d", i)
		cli(t, s, "patient", "add", "P-"+id)
		secret := strings.TrimSpace(cli(t, s, "device", "add", id, "--patient", "P-"+id))
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID(id).SetUsername(id).SetPassword(secret).SetProtocolVersion(4))
		wait := func(tok mqtt.Token) {
			t.Helper()
			if !tok.WaitTimeout(patience) || tok.Error() != nil {
				t.Fatalf("%s: %v", id, tok.Error())
			}
		}
		wait(c.Connect())
		wait(c.Publish("vw/v1/"+id+"/up/readings", 1, false, glucose("5.5")))
		c.Disconnect(100)
	}
	level(t, s)
	wantMetrics(t, metrics(t, s), 4, 4, 0, 0)
}

// TestEndToEnd_Thresholds: a line says what must come to one reading beyond it.
func TestEndToEnd_Thresholds(t *testing.T) {
	s := startServer(t, "")
	cli(t, s, "patient", "add", "P-1")
	s.Key = strings.TrimSpace(cli(t, s, "apikey", "create", "--name", "test", "--role", "viewer"))
	asks := map[string]bool{}
	for _, x := range list[struct {
		Rule, Severity, For, Within string
		Repeat                      int
	}](t, s, "/api/v1/patients/P-1/thresholds?") {
		asks[fmt.Sprintf("%s %s %q %d %q", x.Rule, x.Severity, x.For, x.Repeat, x.Within)] = true
	}
	for _, want := range []string{`glucose_low critical "" 0 ""`, `glucose_low emergency "15m" 0 ""`, `bp_high critical "" 2 "5m"`} {
		if !asks[want] {
			t.Errorf("no threshold %s; there are %v", want, asks)
		}
	}
}

// TestEndToEnd_BadInput: whatever comes, the server stays up, others are served, and the sender can learn why.
func TestEndToEnd_BadInput(t *testing.T) {
	s := startServer(t, "registration: open\n")
	s.Key = strings.TrimSpace(cli(t, s, "apikey", "create", "--name", "test", "--role", "admin"))
	now := time.Now().UTC().Format(time.RFC3339)
	good := func(v string) string {
		return fmt.Sprintf(`{"indicator":"glucose","taken_at":"%s","value":%s,"unit":"mmol/L"}`, now, v)
	}
	heard := make(chan map[string]any, 64)
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID("bad-1").SetProtocolVersion(4))
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("MQTT: %v", tok.Error())
		}
	}
	wait(c.Connect())
	wait(c.Subscribe("vw/v1/bad-1/down/errors", 0, func(_ mqtt.Client, m mqtt.Message) {
		var p map[string]any
		if json.Unmarshal(m.Payload(), &p) == nil {
			heard <- p
		}
	}))
	cases := []struct{ name, body, problem string }{
		{"malformed", `{"indicator":`, "json_invalid"},
		{"nested", strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), "json_invalid"},
		{"NaN", good("NaN"), "value_invalid"},
		{"too big a number", good("1e400"), "value_invalid"},
		{"wrong unit", strings.Replace(good("7.8"), "mmol/L", "mm[Hg]", 1), "unit_unknown"},
		{"no unit", strings.Replace(good("7.8"), `,"unit":"mmol/L"`, "", 1), "unit_missing"},
		{"unknown indicator", strings.Replace(good("7.8"), "glucose", "mood", 1), "indicator_unknown"},
		{"impossible", good("7800"), "value_impossible"},
		{"clock in the future", strings.Replace(good("7.8"), now, time.Now().UTC().Add(time.Hour).Format(time.RFC3339), 1), "clock_ahead"},
		{"501 readings", "[" + strings.Repeat(good("7.8")+",", 500) + good("7.8") + "]", "too_many_readings"},
		{"duplicate ids", "[" + strings.Replace(good("7.8"), "{", `{"id":"x",`, 1) + "," + strings.Replace(good("7.9"), "{", `{"id":"x",`, 1) + "]", "id_conflict"},
	}
	for _, k := range cases {
		wait(c.Publish("vw/v1/bad-1/up/readings", 1, false, k.body))
		select {
		case p := <-heard:
			if p["problem"] != k.problem {
				t.Errorf("%s: told %v, want %s", k.name, p, k.problem)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the device was not told", k.name)
		}
	}
	items := list[struct {
		ID       json.RawMessage `json:"id"`
		DeviceID string          `json:"device_id"`
	}](t, s, "/api/v1/quarantine?limit=100")
	if len(items) != len(cases) {
		t.Errorf("%d items in quarantine, want %d", len(items), len(cases))
	}
	c.Disconnect(100) // or it would come back and take its place from the next connection
	// Another device is unaffected, and the same one too.
	for _, id := range []string{"bad-1", "good-1"} {
		st, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: 1, Messages: 3, Device: func(int) string { return id },
			Payload: func(dst []byte, _, n int) []byte { return append(dst, good(fmt.Sprintf("6.%d", n))...) }})
		if err != nil || st.Acked != 3 {
			t.Errorf("%s: %d acknowledged, %v", id, st.Acked, err)
		}
	}
	level(t, s)
	m := metrics(t, s)
	if r, sum := m["vitalwatch_readings_received_total"], m["vitalwatch_readings_accepted_total"]+m["vitalwatch_readings_duplicate_total"]+m["vitalwatch_readings_quarantined_total"]; r != sum {
		t.Errorf("received %v, accounted for %v", r, sum)
	}
}

// TestEndToEnd_LogsAndMetricsHoldNoHealthData sends marked values through good and failing paths and searches what
// the server wrote for them.
func TestEndToEnd_LogsAndMetricsHoldNoHealthData(t *testing.T) {
	s := startServer(t, "registration: open\nlog: {level: debug}\nhooks: [{name: dead, url: \"http://127.0.0.1:9/\", secret_file: %SECRET%, min_severity: warning, detail: full, allow_private: true}]\n")
	s.Key = strings.TrimSpace(cli(t, s, "apikey", "create", "--name", "test", "--role", "admin"))
	cli(t, s, "patient", "add", "P-named", "--name", "MarkedName")
	now := time.Now().UTC().Format(time.RFC3339)
	bodies := []string{
		fmt.Sprintf(`{"indicator":"glucose","taken_at":"%s","value":2.718281,"unit":"mmol/L","context":{"note":"MarkedContext"}}`, now),
		fmt.Sprintf(`{"indicator":"glucose","taken_at":"%s","value":271828182.84,"unit":"mmol/L"}`, now),
		fmt.Sprintf(`{"indicator":"glucose","taken_at":"%s","value":2.718282,"unit":"MarkedUnit"}`, now),
		`{"MarkedKey":2.718283`,
	}
	if _, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: 1, Messages: len(bodies), Device: deviceName("log"),
		Payload: func(dst []byte, _, n int) []byte { return append(dst, bodies[n]...) }}); err != nil {
		t.Fatal(err)
	}
	level(t, s)
	for _, path := range []string{"/api/v1/patients/P-log-00000", "/api/v1/alerts?state=open", "/api/v1/quarantine"} {
		var v any
		get(t, s, path, &v)
	}
	resp, err := http.Post(s.HTTP+"/api/v1/session", "application/json", strings.NewReader(`{"name":"MarkedUser","password":"MarkedPassword"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	log, err := os.ReadFile(s.logPath())
	if err != nil {
		t.Fatal(err)
	}
	mresp, err := http.Get(s.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer mresp.Body.Close()
	var mtext bytes.Buffer
	if _, err := mtext.ReadFrom(mresp.Body); err != nil {
		t.Fatal(err)
	}
	// Long enough that no duration, size or count of the hundreds in there holds it by chance.
	for _, mark := range []string{"2.71828", "271828182", "Marked"} {
		if bytes.Contains(log, []byte(mark)) {
			t.Errorf("the log contains %q", mark)
		}
		if bytes.Contains(mtext.Bytes(), []byte(mark)) {
			t.Errorf("the metrics contain %q", mark)
		}
	}
	if len(log) == 0 {
		t.Error("the log is empty: nothing was tested")
	}
}
