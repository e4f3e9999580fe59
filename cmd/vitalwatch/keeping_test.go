package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"vitalwatch/ingest/journal"
	"vitalwatch/internal/loadgen"
	"vitalwatch/storage/embedded"
	"vitalwatch/vitals"
)

// conf is the configuration file of a server.
func (c *child) conf() string { return filepath.Join(c.Dir, "vitalwatch.yaml") }

func (c *child) data(name string) string { return filepath.Join(c.Dir, "data", name) }

// verb runs a command of the binary in this process.
func verb(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	var o, e bytes.Buffer
	if status := run(args, &o, &e); status != 0 {
		t.Fatalf("vitalwatch %s: status %d\n%s%s", strings.Join(args, " "), status, o.String(), e.String())
	}
	return o.String()
}

// sender is one device at the front door.
type sender struct {
	t *testing.T
	c mqtt.Client
	d string
}

func connect(t *testing.T, s *child, device string) *sender {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID(device).SetAutoReconnect(false))
	waitFor(t, "the front door to let "+device+" in", func() bool { // it opens after HTTP
		tok := c.Connect()
		return tok.WaitTimeout(patience) && tok.Error() == nil
	})
	t.Cleanup(func() { c.Disconnect(100) })
	return &sender{t, c, device}
}

func (s *sender) send(format, payload string) {
	s.t.Helper()
	if tok := s.c.Publish("vw/v1/"+s.d+"/up/"+format, 1, false, payload); !tok.WaitTimeout(patience) || tok.Error() != nil {
		s.t.Fatalf("publish: %v", tok.Error())
	}
}

// stored reads all readings and the cursor of a store that no server has open.
func stored(t *testing.T, dir string) ([]vitals.Reading, uint64) {
	t.Helper()
	s, err := embedded.Open(dir, embedded.Options{FlushEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out []vitals.Reading
	for r, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out, s.Cursor()
}

func sameReadings(t *testing.T, what string, got, want []vitals.Reading) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d readings, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("%s: reading %d:\n got %+v\nwant %+v", what, i, got[i], want[i])
		}
	}
}

// variety sends messages of many kinds from one device, with readings of the last day or so.
func variety(t *testing.T, s *child, device string) {
	now := time.Now().UTC()
	at := func(ago time.Duration) string { return now.Add(-ago).Format(time.RFC3339Nano) }
	d := connect(t, s, device)
	d.send("readings", fmt.Sprintf(`{"id":"%s-a","seq":1,"indicator":"blood_pressure","taken_at":%q,"values":{"systolic":121,"diastolic":81,"pulse":60},"unit":"mm[Hg]","context":{"arm":"left"},"flags":["irregular_pulse","odd_one"],"more":{"x":1}}`, device, at(time.Minute)))
	d.send("readings", fmt.Sprintf(`[{"indicator":"glucose","taken_at":%q,"value":7.85,"unit":"mmol/L","context":{"meal":"fasting"}},
		{"indicator":"glucose","taken_at":%q,"value":7.9,"unit":"furlong"},
		{"indicator":"glucose","taken_at":%q,"value":141,"unit":"mg/dL"}]`, at(2*time.Minute), at(3*time.Minute), at(26*time.Hour)))
	// One of two is known by now.
	d.send("readings", fmt.Sprintf(`[{"indicator":"glucose","taken_at":%q,"value":7.85,"unit":"mmol/L","context":{"meal":"fasting"}},{"indicator":"glucose","taken_at":%q,"value":8,"unit":"mmol/L"}]`, at(2*time.Minute), at(time.Hour)))
	// All of it is known.
	d.send("readings", fmt.Sprintf(`{"indicator":"glucose","taken_at":%q,"value":8,"unit":"mmol/L"}`, at(time.Hour)))
	d.send("gatt", fmt.Sprintf(`{"characteristic":"2A18","hex":"12 07 00 EA 07 05 18 08 1E 00 7C B0 11","taken_at":%q}`, at(30*time.Minute)))
	d.send("senml", fmt.Sprintf(`[{"bn":"urn:dev:x:","n":"heart_rate","u":"beat/min","t":%d,"v":71}]`, now.Add(-5*time.Minute).Unix()))
	for i := range 40 {
		d.send("readings", fmt.Sprintf(`{"indicator":"heart_rate","taken_at":%q,"value":%d,"unit":"/min"}`, at(time.Duration(40-i)*time.Second), 60+i))
	}
	d.send("readings", `{"not":"a reading"`)
}

func TestStorageRebuild_gives_what_was_there(t *testing.T) {
	s := startServer(t, "registration: open\nlog: {level: warn}\n")
	devices := []string{"reb-1", "reb-2", "reb-3"}
	for _, d := range devices {
		variety(t, s, d)
	}
	verb(t, "device", "bind", "reb-2", "--patient", "P-reb-3", "-c", s.conf()) // what came before stays the other's
	connect(t, s, "reb-2x").send("readings", fmt.Sprintf(`{"indicator":"weight","taken_at":%q,"value":70,"unit":"kg"}`, time.Now().UTC().Format(time.RFC3339)))
	level(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	want, cursor := stored(t, s.data("readings"))
	if len(want) < 3*44 {
		t.Fatalf("only %d readings are stored", len(want))
	}
	// Nothing of the readings is left in the journal but what is kept as messages.
	if err := os.RemoveAll(s.data("readings")); err != nil {
		t.Fatal(err)
	}
	out := verb(t, "storage", "rebuild", "-c", s.conf())
	got, at := stored(t, s.data("readings"))
	sameReadings(t, "rebuilt", got, want)
	if at != cursor {
		t.Errorf("cursor %d, want %d", at, cursor)
	}
	if strings.Contains(out, "no message is kept") {
		t.Errorf("it says that something is missing:\n%s", out)
	}
	// A damaged store: with the option it is moved aside.
	tables, err := filepath.Glob(filepath.Join(s.data("readings"), "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	for _, name := range tables {
		if err := os.WriteFile(name, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verb(t, "storage", "rebuild", "--fresh", "-c", s.conf())
	got, _ = stored(t, s.data("readings"))
	sameReadings(t, "rebuilt afresh", got, want)
	verb(t, "journal", "verify", "-c", s.conf())
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(list[map[string]any](t, s, "/api/v1/patients/P-reb-1/readings?limit=5000")); n < 44 {
		t.Errorf("the server shows %d readings", n)
	}
}

func TestBackup_of_a_server_under_load(t *testing.T) {
	s := startServer(t, "registration: open\ndefault_conditions: [type2_diabetes]\nlog: {level: warn}\n")
	const conns = 40
	var acked atomic.Int64
	name := deviceName("bak")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	base := time.Now().UTC().Truncate(time.Millisecond)
	done := make(chan error, 1)
	go func() {
		_, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: conns, Rate: 3000, Reconnect: true, Device: name,
			Payload: func(dst []byte, i, n int) []byte {
				v := 60 + (n*7+i)%40
				if n%50 == 20 {
					v = 28 // opens and closes alerts
				}
				return fmt.Appendf(dst, `{"indicator":"glucose","taken_at":%d,"value":%d.%d,"unit":"mmol/L","seq":%d}`,
					base.Add(time.Duration(n)*time.Millisecond).UnixMilli(), v/10, v%10, n)
			},
			OnAck: func(int, int, time.Duration) { acked.Add(1) }})
		done <- err
	}()
	waitFor(t, "readings", func() bool { return acked.Load() > 2000 })
	before := acked.Load()
	dir := filepath.Join(t.TempDir(), "backup")
	out := verb(t, "backup", dir, "-c", s.conf())
	if !strings.Contains(out, "is sound") {
		t.Errorf("it says %q", out)
	}
	now := acked.Load()
	waitFor(t, "more readings", func() bool { return acked.Load() > now+1000 })
	cancel()
	<-done
	level(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}

	// A data folder that is in use is left alone.
	if status := run([]string{"restore", dir, "-c", s.conf()}, new(bytes.Buffer), new(bytes.Buffer)); status == 0 {
		t.Error("restored over a data folder that is not empty")
	}
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	copied, err := newChild(exe, t.TempDir(), "registration: open\nlog: {level: warn}\n")
	if err != nil {
		t.Fatal(err)
	}
	verb(t, "restore", dir, "-c", copied.conf())
	verb(t, "journal", "verify", "-c", copied.conf())
	if _, err := copied.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	level(t, copied)
	alerts := list[struct {
		ID string `json:"id"`
	}](t, copied, "/api/v1/alerts?state=all&limit=1000")
	if len(alerts) == 0 {
		t.Error("no alert was restored")
	}
	if err := copied.Stop(); err != nil {
		t.Fatal(err)
	}
	all, _ := stored(t, s.data("readings"))
	want := slices.DeleteFunc(all, func(r vitals.Reading) bool { return r.Seq > m.Journal })
	got, cursor := stored(t, copied.data("readings"))
	sameReadings(t, "restored", got, want)
	if int64(len(want)) < before {
		t.Errorf("%d readings in the backup, %d were acknowledged before it began", len(want), before)
	}
	if cursor != m.Journal {
		t.Errorf("the restored store ends at %d, the journal of the backup at %d", cursor, m.Journal)
	}
	if epochOf(t, s) == epochOf(t, copied) {
		t.Error("the restored alerts count on in the same epoch")
	}

	// A backup that is not what was written is refused.
	for _, f := range m.Files {
		if !strings.HasSuffix(f.Path, ".sst") {
			continue
		}
		path := filepath.Join(dir, f.Path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil { // it may be linked
			t.Fatal(err)
		}
		break
	}
	other, err := newChild(exe, t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	var e bytes.Buffer
	if status := run([]string{"restore", dir, "-c", other.conf()}, new(bytes.Buffer), &e); status == 0 || !strings.Contains(e.String(), "SHA-256") {
		t.Errorf("a damaged backup: status %d, %s", status, e.String())
	}
	if _, err := os.Stat(other.data("")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left something behind: %v", err)
	}
}

func epochOf(t *testing.T, s *child) string {
	t.Helper()
	db, err := openState(s.conf(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var epoch string
	if err := db.Reader().QueryRow(`SELECT epoch FROM ledger_epoch`).Scan(&epoch); err != nil {
		t.Fatal(err)
	}
	return epoch
}

// TestBackup_without_a_server makes the same.
func TestBackup_without_a_server(t *testing.T) {
	s := startServer(t, "registration: open\nlog: {level: warn}\n")
	variety(t, s, "off-1")
	level(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	verb(t, "backup", dir, "-c", s.conf())
	if status := run([]string{"backup", dir, "-c", s.conf()}, new(bytes.Buffer), new(bytes.Buffer)); status == 0 {
		t.Error("a second backup went into the same folder")
	}
	if status := run([]string{"backup", s.data("inside"), "-c", s.conf()}, new(bytes.Buffer), new(bytes.Buffer)); status == 0 {
		t.Error("a backup went into the data folder")
	}
	if err := os.RemoveAll(s.data("")); err != nil {
		t.Fatal(err)
	}
	verb(t, "restore", dir, "-c", s.conf())
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(list[map[string]any](t, s, "/api/v1/patients/P-off-1/readings?limit=5000")); n < 44 {
		t.Errorf("the server shows %d readings", n)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	// Half a restore is no data folder.
	if err := os.Mkdir(s.data(restoring), 0o700); err != nil {
		t.Fatal(err)
	}
	var e bytes.Buffer
	if status := run([]string{"serve", "-c", s.conf()}, new(bytes.Buffer), &e); status == 0 || !strings.Contains(e.String(), "not finished") {
		t.Errorf("a server started on half a restore: %d, %s", status, e.String())
	}
	if err := os.Remove(s.data(restoring)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPatientErase(t *testing.T) {
	for _, beside := range []bool{true, false} {
		t.Run(map[bool]string{true: "beside_a_server", false: "without_one"}[beside], func(t *testing.T) { testErase(t, beside) })
	}
}

func testErase(t *testing.T, beside bool) {
	s := startServer(t, "registration: open\ndefault_conditions: [type2_diabetes]\nlog: {level: warn}\n")
	const marker = "XMARKERX"
	variety(t, s, "gone-"+marker)
	variety(t, s, "stays")
	// A device that two people use, and a message with readings of both.
	verb(t, "patient", "set", "P-gone-"+marker, "--name", "name of "+marker, "-c", s.conf())
	verb(t, "device", "add", "both", "--patient", "P-gone-"+marker, "--slot", "1", "--no-secret", "-c", s.conf())
	verb(t, "device", "bind", "both", "--patient", "P-stays", "--slot", "2", "-c", s.conf())
	now := time.Now().UTC()
	mixed := fmt.Sprintf(`[{"id":"%s1","indicator":"weight","taken_at":%q,"value":71.5,"unit":"kg","user_slot":1},{"indicator":"weight","taken_at":%q,"value":82.5,"unit":"kg","user_slot":2}]`,
		marker, now.Add(-time.Minute).Format(time.RFC3339), now.Add(-2*time.Minute).Format(time.RFC3339))
	both := connect(t, s, "both")
	sent := 0
	waitFor(t, "the server to know the binding", func() bool { // it reads the state once a second
		sent++
		both.send("readings", mixed)
		level(t, s)
		return len(list[map[string]any](t, s, "/api/v1/patients/P-stays/readings?indicator=weight&limit=10")) == 1
	})
	low := func(d *sender, note string) {
		d.send("readings", fmt.Sprintf(`{"indicator":"glucose","taken_at":%q,"value":2.25,"unit":"mmol/L","context":{"note":%q}}`, time.Now().UTC().Add(-time.Second).Format(time.RFC3339Nano), note))
	}
	low(connect(t, s, "gone-"+marker), marker)
	low(connect(t, s, "stays"), "theirs")
	level(t, s)
	type alert struct {
		ID          string          `json:"id"`
		State       string          `json:"state"`
		Trigger     json.RawMessage `json:"trigger"`
		Explanation json.RawMessage `json:"explanation"`
	}
	alertsOf := func(p string) (out []alert) {
		return list[alert](t, s, "/api/v1/alerts?state=all&limit=100&patient="+p)
	}
	if len(alertsOf("P-gone-"+marker)) == 0 || len(alertsOf("P-stays")) == 0 {
		t.Fatal("no alert was opened")
	}
	staying := fmt.Sprint(list[map[string]any](t, s, "/api/v1/patients/P-stays/readings?limit=5000"))
	// Stores that rebuildings moved aside: a sound one is emptied of the person, a damaged one must go first.
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	verb(t, "storage", "rebuild", "--fresh", "-c", s.conf())
	old, err := filepath.Glob(s.data("readings" + aside + "*"))
	if err != nil || len(old) != 1 {
		t.Fatalf("moved aside: %v, %v", old, err)
	}
	damaged := s.data("readings" + aside + "damaged")
	if err := os.CopyFS(damaged, os.DirFS(old[0])); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(damaged, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	for _, name := range tables {
		if err := os.WriteFile(name, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if beside {
		if _, err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var e bytes.Buffer
	if status := run([]string{"patient", "erase", "P-gone-" + marker, "--reason", "too early", "--yes", "-c", s.conf()}, new(bytes.Buffer), &e); status != 1 || !strings.Contains(e.String(), damaged) {
		t.Errorf("erasing beside a damaged old store: status %d, %s", status, e.String())
	}
	if err := os.RemoveAll(damaged); err != nil {
		t.Fatal(err)
	}
	out := verb(t, "patient", "erase", "P-gone-"+marker, "--reason", "asked for it", "--by", "dpo", "--yes", "-c", s.conf())
	// What was sent before the server knew the binding was refused as a whole: messages beside the two of variety.
	m := regexp.MustCompile(`is erased: \d\d+ readings, \d\d+ messages, (\d+) refused messages, \d+ alerts`).FindStringSubmatch(out)
	if m == nil {
		t.Errorf("it says %q", out)
	} else if n, _ := strconv.Atoi(m[1]); n < 2 || n > 2+sent-1 {
		t.Errorf("%d refused messages are erased, want 2 and those of %d that came too early", n, sent-1)
	}
	if !beside {
		if _, err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if rs := list[map[string]any](t, s, "/api/v1/patients/P-gone-"+marker+"/readings?limit=10"); len(rs) != 0 {
		t.Errorf("%d readings are left", len(rs))
	}
	if now := fmt.Sprint(list[map[string]any](t, s, "/api/v1/patients/P-stays/readings?limit=5000")); now != staying {
		t.Error("somebody else's readings have changed")
	}
	for _, a := range alertsOf("P-gone-" + marker) {
		if a.State != "resolved" || string(a.Explanation) != `{"erased":true}` || strings.Contains(string(a.Trigger), "2.25") {
			t.Errorf("alert %+v still says something", a)
		}
	}
	for _, a := range alertsOf("P-stays") {
		if strings.Contains(string(a.Explanation), "erased") {
			t.Error("somebody else's alert was erased")
		}
	}
	level(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	verb(t, "journal", "verify", "-c", s.conf())
	// Nothing of theirs is in any file, packed or not; ids remain in the state database.
	left, cursor := stored(t, s.data("readings"))
	for _, r := range left {
		if strings.Contains(string(r.Patient), marker) {
			t.Fatalf("a reading of theirs is stored")
		}
	}
	noMarker(t, s.data("journal"), marker)
	noMarker(t, s.data("readings"), marker+"1")
	noMarker(t, old[0], marker+"1")
	if rest, _ := stored(t, old[0]); len(rest) < 44 || slices.ContainsFunc(rest, func(r vitals.Reading) bool { return strings.Contains(string(r.Patient), marker) }) {
		t.Errorf("the store that was moved aside has %d readings, want those of the others", len(rest))
	}
	noMarker(t, s.data(""), "name of "+marker)
	noMarker(t, s.data(""), `note\":\"`+marker)
	j, err := journal.Open(s.data("journal"), journal.Options{HeadRoom: 1})
	if err != nil {
		t.Fatal(err)
	}
	rebuilt, err := embedded.Open(filepath.Join(t.TempDir(), "rebuilt"), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := rebuild(t.Context(), j, rebuilt)
	if err != nil || rep.Erased < 44 || rep.Unlike > 0 {
		t.Errorf("rebuilding after the erasure: %+v, %v", rep, err)
	}
	var again []vitals.Reading
	for r, err := range rebuilt.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, r)
	}
	sameReadings(t, "rebuilt", again, left)
	if rebuilt.Cursor() != cursor || j.Last() != cursor {
		t.Errorf("the sequences end at %d and %d, want %d", rebuilt.Cursor(), j.Last(), cursor)
	}
	if err := errors.Join(j.Close(), rebuilt.Close()); err != nil {
		t.Fatal(err)
	}
	// Who, when, why and how many: that stays.
	db, err := openState(s.conf(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	o, err := readOperation(t.Context(), db, ` WHERE kind = 'erase' AND state = 'done'`)
	if err != nil || o == nil || o.State != opDone || o.Reason != "asked for it" || !strings.Contains(string(o.Args), `"by":"dpo"`) || !strings.Contains(o.Result, `"readings":`) || o.By == "" {
		t.Errorf("the record is %+v, %v", o, err)
	}
	var audited int
	if err := db.Reader().QueryRow(`SELECT count(*) FROM web_audit WHERE action = 'patient.erase'`).Scan(&audited); err != nil || audited != 2 {
		t.Errorf("%d entries in the record of access, %v", audited, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// Their device is cut off; the one that others use goes on, for them.
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID("gone-" + marker).SetAutoReconnect(false).SetConnectRetry(false))
	if tok := c.Connect(); tok.WaitTimeout(patience) && tok.Error() == nil {
		t.Error("the person's own device may still connect")
		c.Disconnect(0)
	}
	connect(t, s, "both").send("readings", fmt.Sprintf(`{"indicator":"weight","taken_at":%q,"value":83,"unit":"kg","user_slot":2}`, now.Format(time.RFC3339)))
	level(t, s)
	if n := len(list[map[string]any](t, s, "/api/v1/patients/P-stays/readings?indicator=weight&limit=10")); n != 2 {
		t.Errorf("the shared device has %d readings of the other, want 2", n)
	}
}

// noMarker: no file in the folder holds the text.
func noMarker(t *testing.T, dir, marker string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(marker)) {
			i := bytes.Index(b, []byte(marker))
			t.Errorf("%s holds %q: %q", path, marker, b[max(0, i-60):min(len(b), i+60)])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPatientExport(t *testing.T) {
	s := startServer(t, "registration: open\nlog: {level: warn}\n")
	begin := time.Now()
	variety(t, s, "-exp")
	level(t, s)
	var want []string
	for _, r := range list[json.RawMessage](t, s, "/api/v1/patients/P--exp/readings?limit=5000") {
		want = append(want, string(r))
	}
	slices.Sort(want)
	lines := strings.Split(strings.TrimSpace(verb(t, "patient", "export", "P--exp", "-c", s.conf())), "\n")
	slices.Sort(lines)
	if !slices.Equal(lines, want) {
		t.Errorf("jsonl has %d lines that are not the %d of the API", len(lines), len(want))
	}
	rows, err := csv.NewReader(strings.NewReader(verb(t, "patient", "export", "P--exp", "--format", "csv", "-c", s.conf()))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if rows[0][0] != "id" || len(rows) != 1+len(want)+2 { // blood pressure has three components
		t.Errorf("csv has %d rows for %d readings, header %q", len(rows), len(want), rows[0])
	}
	for _, row := range rows[1:] {
		if row[1] != "'-exp" {
			t.Fatalf("device id is written as %q", row[1])
		}
	}
	from := begin.Add(-90 * time.Second).UTC().Format(time.RFC3339)
	if n := strings.Count(verb(t, "patient", "export", "P--exp", "--from", from, "-c", s.conf()), "\n"); n < 41 || n >= len(want) {
		t.Errorf("%d readings of the last 90 seconds before they were sent", n)
	}
	left, err := filepath.Glob(s.data("export-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(verb(t, "patient", "export", "P--exp", "-c", s.conf()), "\n"); n != len(want) {
		t.Errorf("without a server: %d readings, want %d", n, len(want))
	}
	if status := run([]string{"patient", "export", "nobody", "-c", s.conf()}, new(bytes.Buffer), new(bytes.Buffer)); status != 1 {
		t.Errorf("nobody's export: status %d", status)
	}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestPatientErase_goes_on_after_a_crash wherever it was.
func TestPatientErase_goes_on_after_a_crash(t *testing.T) {
	s := startServer(t, "registration: open\nlog: {level: warn}\n")
	for _, d := range []string{"crash-a", "crash-b"} {
		variety(t, s, d)
	}
	level(t, s)
	others := len(list[map[string]any](t, s, "/api/v1/patients/P-crash-b/readings?limit=5000"))
	db, err := openState(s.conf(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	o, err := newOperation(opErase, eraseArgs{Patient: "P-crash-a"}, "test")
	if err == nil {
		err = insertOperation(t.Context(), db, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	state := func() *operation {
		now, err := readOperation(t.Context(), db, ` WHERE id = ?`, o.ID)
		if err != nil || now == nil {
			t.Fatalf("the operation: %v", err)
		}
		return now
	}
	waitFor(t, "the erasure to begin", func() bool { return state().State != opWaiting })
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the erasure to end", func() bool { now := state().State; return now == opDone || now == opFailed })
	if now := state(); now.State != opDone {
		t.Fatalf("it failed: %s", now.Error)
	}
	if n := len(list[map[string]any](t, s, "/api/v1/patients/P-crash-a/readings?limit=10")); n != 0 {
		t.Errorf("%d readings are left", n)
	}
	if n := len(list[map[string]any](t, s, "/api/v1/patients/P-crash-b/readings?limit=5000")); n != others {
		t.Errorf("somebody else has %d readings, had %d", n, others)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	verb(t, "journal", "verify", "-c", s.conf())
}
