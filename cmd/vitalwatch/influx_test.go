package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"vitalwatch/internal/influxtest"
	"vitalwatch/internal/loadgen"
	"vitalwatch/storage"
	"vitalwatch/storage/embedded"
	"vitalwatch/storage/influx"
	"vitalwatch/vitals"
)

// influxServer is configuration for a server whose history is in srv.
func influxServer(t *testing.T, srv *influxtest.Server) string {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(srv.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("registration: open\nstorage:\n  readings: influxdb\n  influxdb: {url: %q, token_file: %q, org: %q, bucket: %q}\n", srv.URL, token, srv.Org, srv.Bucket)
}

// flood sends n readings of each of conns devices as fast as they are taken.
func flood(t *testing.T, s *child, name string, conns, n int, base time.Time) {
	t.Helper()
	st, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: conns, Messages: n, Reconnect: true, Device: deviceName(name),
		Payload: func(dst []byte, _, n int) []byte {
			// No value twice within a second: that may be one measurement that came twice.
			return fmt.Appendf(dst, `{"indicator":"heart_rate","taken_at":%d,"value":%d.%d,"unit":"/min","seq":%d}`, base.Add(time.Duration(n)*time.Millisecond).UnixMilli(), 60+n%1000/10, n%10, n)
		}})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(conns * n); st.Acked != want {
		t.Fatalf("%d acknowledged, want %d", st.Acked, want)
	}
}

// inInflux counts the readings of devices of a flood, and fails when one is there twice.
func inInflux(t *testing.T, s *influx.Store, name string, conns int) (n int) {
	t.Helper()
	for i := range conns {
		id := vitals.PatientID("P-" + deviceName(name)(i))
		seen := map[int64]bool{}
		for r, err := range s.Range(t.Context(), storage.Query{Patient: id, Indicator: vitals.HeartRate}) {
			if err != nil {
				t.Fatal(err)
			}
			if seen[r.DeviceSeq] {
				t.Errorf("reading %d of %s is there twice", r.DeviceSeq, id)
			}
			seen[r.DeviceSeq] = true
			n++
		}
	}
	return n
}

func readyz(t *testing.T, s *child) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.HTTP+"/readyz?verbose", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// influxIs waits until the server says so of InfluxDB; it is ready in either case. A check that was not
// answered in its two seconds, or an alert clock that stood for five, is a busy machine's fault and passes.
func influxIs(t *testing.T, s *child, want ...string) {
	t.Helper()
	var code int
	var said string
	defer func() {
		if t.Failed() {
			t.Logf("readyz: %d %s", code, said)
		}
	}()
	waitFor(t, "readyz to say "+strings.Join(want, " … "), func() bool {
		if code, said = readyz(t, s); code != 200 {
			return false
		}
		for _, w := range want {
			if !strings.Contains(said, w) {
				return false
			}
		}
		return true
	})
}

// TestHealth_tells_the_truth_of_InfluxDB before anything was written: the server is ready, because it judges without
// InfluxDB, and says what is wrong with it and what to do.
func TestHealth_tells_the_truth_of_InfluxDB(t *testing.T) {
	srv := influxtest.LocalWithToken(t)
	bucket := srv.Bucket
	srv.InfluxQL(`DROP DATABASE "` + bucket + `"`)
	conf := influxServer(t, srv)
	token := regexp.MustCompile(`token_file: "([^"]+)"`).FindStringSubmatch(conf)[1]
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("vitalwatch:wrong")
	s := startServer(t, conf)
	influxIs(t, s, "[~] influxdb: influxdb: 401", "token_file")
	if out := verb(t, "health", "--within", patience.String(), "-c", s.conf()); !strings.Contains(out, "[~] influxdb: influxdb: 401") || !strings.Contains(out, "[+] alerts ok") {
		t.Errorf("vitalwatch health says\n%s", out)
	}
	if m := metrics(t, s); m["vitalwatch_influxdb_up"] != 0 {
		t.Error("vitalwatch_influxdb_up is not 0")
	}
	write(srv.Token)
	influxIs(t, s, "[~] influxdb: influxdb: 404", "make the bucket")
	if out := verb(t, "health", "--within", patience.String(), "-c", s.conf()); !strings.Contains(out, "[~] influxdb: influxdb: 404") {
		t.Errorf("vitalwatch health says\n%s", out)
	}
	srv.InfluxQL(`CREATE DATABASE "` + bucket + `"`)
	influxIs(t, s, "[+] influxdb ok")
	if m := metrics(t, s); m["vitalwatch_influxdb_up"] != 1 {
		t.Error("vitalwatch_influxdb_up is not 1")
	}
	srv.Kill()
	influxIs(t, s, "[~] influxdb: influxdb: no answer")
	if err := s.Kill(); err != nil { // and from the start
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	influxIs(t, s, "[~] influxdb: influxdb: no answer")
}

// TestEndToEnd_InfluxDB_outage: InfluxDB goes away under load, the server is killed meanwhile, and both come back. No
// reading is lost or doubled, alerts never wait, and what waits is seen with its age.
func TestEndToEnd_InfluxDB_outage(t *testing.T) {
	srv := influxtest.Local(t)
	s := startServer(t, influxServer(t, srv)+"default_conditions: [type2_diabetes]\n")
	far, err := influx.Open(t.Context(), influx.Options{URL: srv.URL, Org: srv.Org, Bucket: srv.Bucket})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	base := time.Now().UTC().Truncate(time.Millisecond)
	const conns, per = 20, 250
	flood(t, s, "before", conns, per, base)
	level(t, s)
	if n := inInflux(t, far, "before", conns); n != conns*per {
		t.Fatalf("InfluxDB has %d readings, want %d", n, conns*per)
	}
	influxIs(t, s, "[+] influxdb ok")

	srv.Kill()
	flood(t, s, "away", conns, 5*per, base) // more than two batches: it has to wait in the journal
	low := func(device string) {
		t.Helper()
		if _, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: 1, Messages: 3, Device: func(int) string { return device },
			Payload: func(dst []byte, _, n int) []byte {
				return fmt.Appendf(dst, `{"indicator":"glucose","taken_at":%d,"value":2.5,"unit":"mmol/L"}`, time.Now().Add(time.Duration(n-3)*time.Second).UnixMilli())
			}}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "an alert of "+device, func() bool {
			return len(list[alertJSON](t, s, "/api/v1/alerts?patient=P-"+device)) > 0
		})
	}
	low("low-1")
	waitFor(t, "the backlog to be seen", func() bool {
		m := metrics(t, s)
		_, said := readyz(t, s)
		return m["vitalwatch_consumer_lag"] >= conns*per && m["vitalwatch_consumer_oldest_seconds"] > 0.5 && strings.Contains(said, "[~] influxdb")
	})
	influxIs(t, s, "[~] influxdb", "readings wait in the journal, the oldest for") // once the writer has failed, not only the watch
	// The store on this machine may have been behind. It is asked for nothing of before its beginning: of that InfluxDB, when
	// it was too busy at the start to say that it is empty, is thought to know more.
	waitFor(t, "the API to show all recent readings while InfluxDB is away", func() bool {
		n := len(list[struct{}](t, s, "/api/v1/patients/P-"+deviceName("away")(3)+"/readings?indicator=heart_rate&limit=1000&from="+base.Format(time.RFC3339Nano)))
		return n == 5*per
	})

	// Killed and started again, still without InfluxDB: people who are not in memory are judged all the same.
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	low("low-2")
	low("before-000") // somebody with a history

	srv.Start()
	flood(t, s, "after", conns, per, base) // live data goes on while the backlog drains
	waitFor(t, "the backlog to drain", func() bool {
		m := metrics(t, s)
		_, said := readyz(t, s)
		return m["vitalwatch_consumer_lag"] == 0 && m["vitalwatch_consumer_oldest_seconds"] == 0 && strings.Contains(said, "[+] influxdb ok")
	})
	for name, want := range map[string]int{"before": conns * per, "away": conns * 5 * per, "after": conns * per} {
		if n := inInflux(t, far, name, conns); n != want {
			t.Errorf("InfluxDB has %d readings of the flood %q, want %d", n, name, want)
		}
	}
}

// TestEndToEnd_InfluxDB_later: a server with a history of its own is told to use InfluxDB. What it had is copied.
func TestEndToEnd_InfluxDB_later(t *testing.T) {
	srv := influxtest.Local(t)
	s := startServer(t, "registration: open\n")
	base := time.Now().UTC().Truncate(time.Millisecond)
	flood(t, s, "before", 10, 300, base)
	level(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(s.Dir, "vitalwatch.yaml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(strings.Replace(string(text), "registration: open\n", influxServer(t, srv), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	flood(t, s, "after", 10, 100, base)
	far, err := influx.Open(t.Context(), influx.Options{URL: srv.URL, Org: srv.Org, Bucket: srv.Bucket})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	waitFor(t, "InfluxDB to have everything", func() bool {
		return inInflux(t, far, "before", 10) == 3000 && inInflux(t, far, "after", 10) == 1000
	})
	influxIs(t, s, "[+] influxdb ok")

	// Another server, whose folder knows nothing of the past: it reads 90 days of a CGM from InfluxDB, in one answer.
	const points, a = 25_920, 5 * time.Minute
	begin := time.Now().UTC().Truncate(time.Second).Add(-points * a)
	if _, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: 1, Window: 2, Messages: (points + 499) / 500, Device: func(int) string { return "cgm" },
		Payload: func(dst []byte, _, n int) []byte {
			dst = append(dst, '[')
			for k := n * 500; k < min(n*500+500, points); k++ {
				if k > n*500 {
					dst = append(dst, ',')
				}
				dst = fmt.Appendf(dst, `{"indicator":"glucose","taken_at":%d,"value":%d.%d,"unit":"mmol/L"}`, begin.Add(time.Duration(k)*a).UnixMilli(), 4+k%6, k%10)
			}
			return append(dst, ']')
		}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "InfluxDB to have the CGM's readings", func() bool {
		n := 0
		for _, err := range far.Range(t.Context(), storage.Query{Patient: "P-cgm"}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n == points
	})
	other := startServer(t, influxServer(t, srv))
	cli(t, other, "patient", "add", "P-cgm")
	waitFor(t, "the server to see the new patient", func() bool {
		return len(list[struct{}](t, other, "/api/v1/patients?limit=10")) == 1
	})
	level(t, s)
	query := "/api/v1/patients/P-cgm/readings?indicator=glucose&limit=30000&from=" + begin.Format(time.RFC3339)
	best := time.Hour
	for range 5 {
		start := time.Now()
		var page struct {
			Items []struct {
				TakenAt time.Time          `json:"taken_at"`
				Values  map[string]float64 `json:"values"`
			} `json:"items"`
			Next string `json:"next_cursor"`
		}
		body := raw(t, other, query)
		best = min(best, time.Since(start))
		if err := json.Unmarshal(body, &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Items) != points || page.Next != "" {
			t.Fatalf("%d readings and the cursor %q, want %d in one answer", len(page.Items), page.Next, points)
		}
		for k, r := range page.Items {
			if want := float64(4+k%6) + float64(k%10)/10; !r.TakenAt.Equal(begin.Add(time.Duration(k)*a)) || math.Abs(r.Values["value"]-want) > 1e-9 {
				t.Fatalf("reading %d is %v at %v", k, r.Values, r.TakenAt)
			}
		}
	}
	near := time.Hour
	for range 5 {
		start := time.Now()
		raw(t, s, query) // whose folder has everything
		near = min(near, time.Since(start))
	}
	start := time.Now()
	var trend struct {
		Metrics map[string]any `json:"metrics"`
	}
	get(t, other, "/api/v1/patients/P-cgm/trends?indicator=glucose&from="+begin.Format(time.RFC3339), &trend)
	t.Run("retention", func(t *testing.T) { expires(t, far, "before", "P-cgm") })
	t.Logf("90 days of a CGM from InfluxDB: readings %v, from the store on this machine %v (best of 5), trend %v", best, near, time.Since(start))
}

// expires trims a store and far, which has heart rates of a flood and the glucose of a patient, as it is in 40 days.
func expires(t *testing.T, far *influx.Store, name string, cgm vitals.PatientID) {
	store, err := embedded.Open("readings", embedded.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &App{cfg: DefaultConfig(), store: store, influx: far, writer: influx.NewWriter(far, influx.WriterOptions{})}
	a.cfg.Retention = map[string]string{"default": "forever", "heart_rate": "30d"}
	now := time.Now()
	var rs []vitals.Reading
	for seq, ago := range []int{50, 35, 20} { // days before 40 days from now
		for _, i := range []vitals.Indicator{vitals.HeartRate, vitals.Glucose} {
			at := vitals.At(now.Add(time.Duration(40-ago) * 24 * time.Hour))
			r := vitals.Reading{Seq: uint64(2*seq + int(i)), Patient: "P", Device: "d", Indicator: i, Unit: i.Units()[0], TakenAt: at, ReceivedAt: at, DeviceSeq: -1, OffsetMin: vitals.NoOffset}
			r.Set(vitals.Value, 70)
			rs = append(rs, r)
		}
	}
	if err := store.Write(t.Context(), rs, 10); err != nil {
		t.Fatal(err)
	}
	if err := far.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	count := func(s storage.Readings, p vitals.PatientID, i vitals.Indicator) (n int) {
		for _, err := range s.Range(t.Context(), storage.Query{Patient: p, Indicator: i}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	if err := a.trimOnce(t.Context(), now.Add(40*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	// Here: of the heart rates what is younger than 30 days, of the rest what is younger than keep_local.
	if hr, g := count(store, "P", vitals.HeartRate), count(store, "P", vitals.Glucose); hr != 1 || g != 2 {
		t.Errorf("%d heart rates and %d glucoses are left here, want 1 and 2", hr, g)
	}
	if want := vitals.At(now.Add((40 - 35) * 24 * time.Hour)); store.CompleteFrom() != want {
		t.Errorf("complete from %v, want %v", store.CompleteFrom().Time(), want.Time())
	}
	if hr, g := inInflux(t, far, name, 10), count(far, cgm, vitals.Glucose); hr != 0 || g == 0 {
		t.Errorf("InfluxDB has %d heart rates and %d glucoses, want none and all", hr, g)
	}
}

func TestConfig_influx(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vitalwatch.yaml")
	text := `journal: {min_free: 5}
storage:
  readings: influxdb
  influxdb: {url: "http://user:secret@127.0.0.1:8086", token_file: /nowhere/token, keep_local: 3h}
retention: {heart_rate: 400, pulse: 30d, default: forever}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig(file, func(string) (string, bool) { return "", false })
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"journal.min_free", "storage.influxdb.url", "storage.influxdb.bucket", "storage.influxdb.token_file", "storage.influxdb.keep_local", "retention.heart_rate", "retention.pulse"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %s in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is shown: %v", err)
	}
}

// raw reads the bytes of an answer of the API.
func raw(t *testing.T, s *child, path string) []byte {
	t.Helper()
	resp, err := http.Get(s.HTTP + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("GET %s: %s: %v: %s", path, resp.Status, err, b[:min(len(b), 300)])
	}
	return b
}

// TestEndToEnd_diskRunsOut: a server that has less free space than it wants refuses readings over MQTT and HTTP and says
// so; what it has is still there.
func TestEndToEnd_diskRunsOut(t *testing.T) {
	s := startServer(t, "registration: open\n")
	base := time.Now().UTC().Truncate(time.Millisecond)
	flood(t, s, "had", 1, 10, base)
	level(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VITALWATCH_JOURNAL_MIN_FREE", "8000TiB")
	// It starts, to be read and to judge, but is not ready.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s.Start(ctx) // waits for readiness, which does not come
	waitFor(t, "the server to say that it is not ready", func() bool {
		resp, err := http.Get(s.HTTP + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode == 503 && strings.Contains(string(b), "journal") && strings.Contains(string(b), "free disk space")
	})
	if got := metrics(t, s); got["vitalwatch_journal_writable"] != 0 || got["vitalwatch_journal_free_bytes"] <= 0 {
		t.Errorf("writable %v, free %v bytes", got["vitalwatch_journal_writable"], got["vitalwatch_journal_free_bytes"])
	}
	if n := len(list[struct{}](t, s, "/api/v1/patients/P-"+deviceName("had")(0)+"/readings?indicator=heart_rate")); n != 10 {
		t.Errorf("%d readings can be read, want 10", n)
	}
}
