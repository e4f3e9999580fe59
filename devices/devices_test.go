package devices_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/internal/leaktest"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// house is both registries on one file, with a clock that tests set.
type house struct {
	*devices.Registry
	people *care.Registry
	now    vitals.Micros
}

const start = vitals.Micros(1_795_000_000_000_000)

func open(t testing.TB, path string) *house {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{now: start}
	if h.people, err = care.Open(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if h.Registry, err = devices.Open(t.Context(), db, h.people); err != nil {
		t.Fatal(err)
	}
	h.Now = func() time.Time { return h.now.Time() }
	return h
}

func fresh(t testing.TB, patients ...vitals.PatientID) *house {
	t.Helper()
	h := open(t, filepath.Join(t.TempDir(), "state.db"))
	h.addPatients(t, patients...)
	return h
}

func (h *house) addPatients(t testing.TB, patients ...vitals.PatientID) {
	t.Helper()
	for _, id := range patients {
		if _, err := h.people.Add(t.Context(), care.Patient{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *house) add(t testing.TB, n devices.New) (*devices.Handle, string) {
	t.Helper()
	d, secret, err := h.Add(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return d, secret
}

func TestHandle_ResolveByPeriodAndSlot(t *testing.T) {
	h := fresh(t, "A", "B", "C")
	d, _ := h.add(t, devices.New{ID: "cuff", Patient: "A"})
	at := func(day int) vitals.Micros { return start + vitals.Micros(day)*vitals.Day }

	h.now = at(10)
	must(t, h.Bind(t.Context(), "cuff", 0, "B", 0)) // handed on: from now, because A used it before
	must(t, h.Bind(t.Context(), "cuff", 2, "C", at(12)))
	h.now = at(20)
	must(t, h.Unbind(t.Context(), "cuff", 0, 0))
	h.now = at(30)
	must(t, h.Bind(t.Context(), "cuff", 0, "A", 0))

	for _, c := range []struct {
		name string
		slot uint8
		at   vitals.Micros
		want vitals.PatientID // "": nobody's
	}{
		{"years before the device was added: its memory", 0, at(-4000), "A"},
		{"first owner", 0, at(5), "A"},
		{"last instant of the first owner", 0, at(10) - 1, "A"},
		{"first instant of the second", 0, at(10), "B"},
		{"a slot without binding of its own", 1, at(11), "B"},
		{"the device does not know the user", 255, at(11), "B"},
		{"slot 2 before its own binding", 2, at(12) - 1, "B"},
		{"slot 2 from then on", 2, at(12), "C"},
		{"slot 2 while the others are unbound", 2, at(25), "C"},
		{"the gap after unbinding", 0, at(20), ""},
		{"the end of the gap", 0, at(30) - 1, ""},
		{"bound again", 0, at(30), "A"},
		{"old readings that come now stay with their owner", 0, at(15), "B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, ok := d.Resolve(c.slot, c.at); got != c.want || ok != (c.want != "") {
				t.Errorf("Resolve(%d, day %v) = %q, %v, want %q", c.slot, float64(c.at-start)/float64(vitals.Day), got, ok, c.want)
			}
		})
	}
}

func TestRegistry_BindRefusesToChangeThePast(t *testing.T) {
	h := fresh(t, "A", "B")
	d, _ := h.add(t, devices.New{ID: "cuff", Patient: "A", From: start})
	if err := h.Bind(t.Context(), "cuff", 0, "B", start-1); !errors.Is(err, devices.ErrConflict) {
		t.Errorf("binding before the present one: %v", err)
	}
	if err := h.Bind(t.Context(), "cuff", 0, "B", start); !errors.Is(err, devices.ErrConflict) {
		t.Errorf("binding in place of the present one: %v", err)
	}
	if err := h.Unbind(t.Context(), "cuff", 0, start); !errors.Is(err, devices.ErrConflict) {
		t.Errorf("unbinding from the start: %v", err)
	}
	if err := h.Unbind(t.Context(), "cuff", 3, 0); !errors.Is(err, devices.ErrConflict) {
		t.Errorf("unbinding an unbound slot: %v", err)
	}
	if err := h.Bind(t.Context(), "cuff", 0, "nobody", 0); !errors.Is(err, care.ErrNotFound) {
		t.Errorf("unknown patient: %v", err)
	}
	if err := h.Bind(t.Context(), "none", 0, "A", 0); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown device: %v", err)
	}
	if _, ok := d.Resolve(0, start-1); ok {
		t.Error("--from is ignored: a reading before it was attributed")
	}
	if bs := d.Bindings(); len(bs) != 1 || bs[0].Patient != "A" || bs[0].To != 0 {
		t.Errorf("refusals changed the bindings: %+v", bs)
	}
}

// The second slot of a shared cuff is its person's as far back as the cuff remembers, when nobody else can have used it.
func TestRegistry_BindSecondSlotTakesItsMemory(t *testing.T) {
	h := fresh(t, "A", "B")
	d, _ := h.add(t, devices.New{ID: "cuff", Patient: "A", Slot: 1})
	must(t, h.Bind(t.Context(), "cuff", 2, "B", 0))
	if p, _ := d.Resolve(2, 1); p != "B" {
		t.Errorf("slot 2 long ago = %q, want B", p)
	}
	if p, ok := d.Resolve(0, start); ok {
		t.Errorf("a reading without slot went to %q; it may be of either", p)
	}
	h.now++
	must(t, h.Bind(t.Context(), "cuff", 0, "B", 0))
	if p, ok := d.Resolve(0, start); ok {
		t.Errorf("binding any slot reached back: an old reading without slot went to %q", p)
	}
}

// Resolve against a list that is searched as the words say, over random histories.
func TestHandle_ResolveEqualsModel(t *testing.T) {
	h := fresh(t, "A", "B", "C")
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		h.now = start
		cuff := vitals.DeviceID(fmt.Sprintf("cuff-%d", round))
		d, _ := h.add(t, devices.New{ID: cuff, NoSecret: true})
		type period struct {
			slot     uint8
			patient  vitals.PatientID
			from, to vitals.Micros
		}
		var log []period
		slot := rapid.Uint8Range(0, 2)
		for range rapid.IntRange(1, 10).Draw(rt, "steps") {
			h.now += vitals.Micros(rapid.IntRange(1, 100).Draw(rt, "wait"))
			s := slot.Draw(rt, "slot")
			if rapid.IntRange(0, 3).Draw(rt, "op") == 0 {
				err := h.Unbind(t.Context(), cuff, s, 0)
				i := slices.IndexFunc(log, func(p period) bool { return p.slot == s && p.to == 0 })
				if (err == nil) != (i >= 0) {
					rt.Fatalf("unbind slot %d: %v with %+v", s, err, log)
				}
				if i >= 0 {
					log[i].to = h.now
				}
				continue
			}
			who := rapid.SampledFrom([]vitals.PatientID{"A", "B", "C"}).Draw(rt, "who")
			must(rt, h.Bind(t.Context(), cuff, s, who, h.now))
			for i := range log {
				if log[i].slot == s && log[i].to == 0 {
					log[i].to = h.now
				}
			}
			log = append(log, period{slot: s, patient: who, from: h.now})
		}
		for range 30 {
			s := rapid.SampledFrom([]uint8{0, 1, 2, 3, 255}).Draw(rt, "slot of reading")
			at := start + vitals.Micros(rapid.IntRange(-10, 1100).Draw(rt, "taken"))
			var want vitals.PatientID
			for _, wanted := range []uint8{0, s} { // the later wins: the own slot
				for _, p := range log {
					if p.slot == wanted && p.from <= at && (p.to == 0 || at < p.to) {
						want = p.patient
					}
				}
			}
			if got, ok := d.Resolve(s, at); got != want || ok != (want != "") {
				rt.Fatalf("Resolve(%d, %d) = %q, want %q with %+v", s, at-start, got, want, log)
			}
		}
	})
}

func TestRegistry_Authenticate(t *testing.T) {
	h := fresh(t, "A")
	_, secret := h.add(t, devices.New{ID: "cuff", Patient: "A"})
	_, other := h.add(t, devices.New{ID: "other"})
	h.add(t, devices.New{ID: "bare", NoSecret: true})
	_, gone := h.add(t, devices.New{ID: "gone"})
	must(t, h.SetDisabled(t.Context(), "gone", true))
	h.add(t, devices.New{ID: "bare-gone", NoSecret: true})
	must(t, h.SetDisabled(t.Context(), "bare-gone", true))
	if len(secret) != 64 || secret == other {
		t.Fatalf("secrets of %d characters, equal: %v", len(secret), secret == other)
	}

	const none = "\x00none"
	type want struct{ closed, open error }
	bad, no := devices.ErrBadCredentials, devices.ErrNotAuthorized
	for _, c := range []struct {
		name, client, user, password string
		want                         want
	}{
		{"the right secret", "cuff", "cuff", secret, want{nil, nil}},
		{"a wrong secret", "cuff", "cuff", other, want{bad, bad}},
		{"a secret cut short", "cuff", "cuff", secret[:63], want{bad, bad}},
		{"the secret in capitals", "cuff", "cuff", strings.ToUpper(secret), want{bad, bad}},
		{"no password but one is set", "cuff", "", none, want{bad, bad}},
		{"user name and no password but one is set", "cuff", "cuff", none, want{bad, bad}},
		{"an empty password but one is set", "cuff", "cuff", "", want{bad, bad}},
		{"another's client id", "other", "cuff", secret, want{no, no}},
		{"no client id", "", "cuff", secret, want{no, no}},
		{"no user name", "cuff", "", secret, want{bad, bad}},
		{"unknown device with password", "new", "new", secret, want{bad, bad}},
		{"unknown device", "new", "", none, want{bad, nil}},
		{"unknown device naming itself", "new", "new", none, want{bad, nil}},
		{"unknown device under another name", "new", "cuff", none, want{bad, bad}},
		{"unknown device, id not allowed", "new/+", "", none, want{bad, bad}},
		{"nothing at all", "", "", none, want{bad, bad}},
		{"known without secret", "bare", "", none, want{bad, nil}},
		{"known without secret, empty password", "bare", "bare", "", want{bad, nil}},
		{"known without secret, with a password", "bare", "bare", "x", want{bad, bad}},
		{"disabled with the right secret", "gone", "gone", gone, want{no, no}},
		{"disabled with a wrong secret", "gone", "gone", secret, want{bad, bad}},
		{"disabled without secret", "bare-gone", "", none, want{bad, no}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, open := range []bool{false, true} {
				wantErr := c.want.closed
				if open {
					wantErr = c.want.open
				}
				password := []byte(c.password)
				if c.password == none {
					password = nil
				}
				id, err := h.Authenticate(c.client, c.user, password, c.password != none, open)
				if err != wantErr || (err == nil) != (string(id) == c.client && id != "") {
					t.Errorf("open %v: %q, %v, want %v", open, id, err, wantErr)
				}
			}
		})
	}
}

func TestRegistry_RotateOverlaps(t *testing.T) {
	h := fresh(t)
	_, first := h.add(t, devices.New{ID: "cuff"})
	login := func(secret string) bool {
		_, err := h.Authenticate("cuff", "cuff", []byte(secret), true, false)
		return err == nil
	}
	second, err := h.Rotate(t.Context(), "cuff", time.Hour)
	must(t, err)
	if !login(first) || !login(second) {
		t.Errorf("in the overlap: first %v, second %v, want both", login(first), login(second))
	}
	h.now += vitals.Hour - 1
	if !login(first) {
		t.Error("the first ended before the overlap did")
	}
	h.now++
	if login(first) || !login(second) {
		t.Errorf("after the overlap: first %v, second %v", login(first), login(second))
	}
	third, err := h.Rotate(t.Context(), "cuff", time.Hour)
	must(t, err)
	fourth, err := h.Rotate(t.Context(), "cuff", time.Hour)
	must(t, err)
	if login(second) || !login(third) || !login(fourth) {
		t.Errorf("two rotations in a row: second %v, third %v, fourth %v; want the last two", login(second), login(third), login(fourth))
	}
	fifth, err := h.Rotate(t.Context(), "cuff", 0)
	must(t, err)
	if login(third) || login(fourth) || !login(fifth) {
		t.Error("a rotation without overlap left an old secret valid")
	}
	if _, err := h.Rotate(t.Context(), "none", 0); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown device: %v", err)
	}
}

func TestRegistry_SurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	h := open(t, path)
	h.addPatients(t, "A", "B")
	_, secret := h.add(t, devices.New{ID: "cuff", Model: "X-1", Serial: "0042", TZ: "Asia/Shanghai", Patient: "A"})
	h.now += vitals.Day
	must(t, h.Bind(t.Context(), "cuff", 0, "B", 0))
	must(t, h.Status(t.Context(), "cuff", []byte(`{"state":"online","battery":87,"firmware":"1.2"}`), h.now))
	must(t, h.Flush(t.Context()))
	before := h.Find("cuff").Device()

	again := open(t, path)
	d := again.Find("cuff")
	if d == nil {
		t.Fatal("lost")
	}
	if after := d.Device(); after != before || after.Status.Battery != 87 || after.LastSeen != h.now || after.Serial != "0042" {
		t.Errorf("after %+v\nbefore %+v", after, before)
	}
	if p, _ := d.Resolve(0, start); p != "A" {
		t.Errorf("old reading = %q, want A", p)
	}
	if p, _ := d.Resolve(0, h.now); p != "B" {
		t.Errorf("new reading = %q, want B", p)
	}
	if _, err := again.Authenticate("cuff", "cuff", []byte(secret), true, false); err != nil {
		t.Errorf("login: %v", err)
	}
	if d.Location().String() != "Asia/Shanghai" {
		t.Errorf("zone = %v", d.Location())
	}
}

func TestHandle_LocationFallsBackToThePatient(t *testing.T) {
	h := fresh(t, "A")
	d, _ := h.add(t, devices.New{ID: "cuff", Patient: "A"})
	if d.Location() != nil {
		t.Errorf("zone = %v, nobody said one", d.Location())
	}
	_, err := h.people.Update(t.Context(), "A", func(p *care.Patient) error { p.TZ = "Asia/Urumqi"; return nil })
	must(t, err)
	if got := d.Location(); got == nil || got.String() != "Asia/Urumqi" {
		t.Errorf("zone = %v, want the patient's", got)
	}
}

// A command beside a running server: the server's handles change in place.
func TestRegistry_RefreshTakesInOthersChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	server, cli := open(t, path), open(t, path)
	cli.addPatients(t, "A", "B")
	_, secret := cli.add(t, devices.New{ID: "cuff", Patient: "A"})
	if server.Find("cuff") != nil {
		t.Fatal("visible without a refresh: the test shows nothing")
	}
	refresh := func() {
		t.Helper()
		_, err := server.people.Refresh(t.Context())
		must(t, err)
		_, err = server.Refresh(t.Context())
		must(t, err)
	}
	refresh()
	d := server.Find("cuff")
	if p, ok := d.Resolve(0, start); p != "A" || !ok {
		t.Fatalf("Resolve = %q, %v", p, ok)
	}
	var told []vitals.DeviceID
	defer server.Subscribe(func(id vitals.DeviceID) { told = append(told, id) })()
	cli.now++
	must(t, cli.Bind(t.Context(), "cuff", 0, "B", 0))
	must(t, cli.SetDisabled(t.Context(), "cuff", true))
	refresh()
	if p, _ := d.Resolve(0, cli.now); p != "B" || !d.Disabled() {
		t.Errorf("the handle kept says %q, disabled %v", p, d.Disabled())
	}
	if _, err := server.Authenticate("cuff", "cuff", []byte(secret), true, false); err != devices.ErrNotAuthorized {
		t.Errorf("login of a disabled device: %v", err)
	}
	if !slices.Equal(told, []vitals.DeviceID{"cuff"}) {
		t.Errorf("told of %v", told)
	}
}

func TestRegistry_AddRefuses(t *testing.T) {
	h := fresh(t, "A")
	h.add(t, devices.New{ID: "taken"})
	for _, c := range []struct {
		name string
		n    devices.New
		want error
	}{
		{"no id", devices.New{}, devices.ErrInvalid},
		{"wildcard id", devices.New{ID: "+"}, devices.ErrInvalid},
		{"taken", devices.New{ID: "taken"}, devices.ErrExists},
		{"unknown patient", devices.New{ID: "n", Patient: "nobody"}, care.ErrNotFound},
		{"bad zone", devices.New{ID: "n", TZ: "Local"}, devices.ErrInvalid},
		{"control characters", devices.New{ID: "n", Model: "a\nb"}, devices.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, secret, err := h.Add(t.Context(), c.n)
			if !errors.Is(err, c.want) || secret != "" {
				t.Errorf("error = %v, secret of %d characters; want %v and none", err, len(secret), c.want)
			}
		})
	}
	if h.Find("n") != nil {
		t.Error("a refused device is there")
	}
}

func TestRegistry_RegisterManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	h := open(t, path)
	const racers = 4
	newcomers := 2000
	if raceEnabled {
		newcomers = 200
	}
	var wg sync.WaitGroup
	handles := make([][racers]*devices.Handle, newcomers)
	for i := range newcomers {
		for k := range racers {
			wg.Go(func() {
				d, err := h.Register(t.Context(), vitals.DeviceID(fmt.Sprintf("dev-%04d", i)), []string{"hypertension"})
				if err != nil {
					t.Errorf("register: %v", err)
				}
				handles[i][k] = d
			})
		}
	}
	begin := time.Now()
	wg.Wait()
	t.Logf("%d devices, each by %d callers, in %v", newcomers, racers, time.Since(begin).Round(time.Millisecond))
	for i := range handles {
		id := vitals.DeviceID(fmt.Sprintf("dev-%04d", i))
		for _, d := range handles[i] {
			if d == nil || d != h.Find(id) {
				t.Fatalf("callers for %s hold different handles", id)
			}
		}
		if p, ok := handles[i][0].Resolve(0, 1); !ok || p != "P-"+vitals.PatientID(id) {
			t.Fatalf("%s resolves to %q", id, p)
		}
	}
	// What was returned is durable: another process sees all of it.
	again := open(t, path)
	if again.Len() != newcomers || again.people.Len() != newcomers {
		t.Errorf("on disk: %d devices and %d patients", again.Len(), again.people.Len())
	}
	if p, _ := again.people.Find("P-dev-0000"); p == nil || !slices.Equal(p.Conditions, []string{"hypertension"}) {
		t.Errorf("patient = %+v", p)
	}
}

// Two servers' registries on one file race for the same ids.
func TestRegistry_RegisterRacesAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	regs := []*house{open(t, path), open(t, path)}
	var wg sync.WaitGroup
	for i := range 100 {
		for _, h := range regs {
			wg.Go(func() {
				id := vitals.DeviceID(fmt.Sprintf("dev-%02d", i))
				d, err := h.Register(t.Context(), id, nil)
				if err != nil || d == nil {
					t.Errorf("register %s: %v, %v", id, d, err)
				} else if p, _ := d.Resolve(0, start); p != "P-"+vitals.PatientID(id) {
					t.Errorf("%s resolves to %q", id, p)
				}
			})
		}
	}
	wg.Wait()
}

func TestRegistry_RegisterRefusesAndStopsWaiting(t *testing.T) {
	h := fresh(t)
	if _, err := h.Register(t.Context(), "a/b", nil); !errors.Is(err, devices.ErrInvalid) {
		t.Errorf("bad id: %v", err)
	}
	if _, err := h.Register(t.Context(), "dev", []string{"not a condition"}); !errors.Is(err, care.ErrInvalid) || h.Find("dev") != nil {
		t.Errorf("bad condition: %v", err)
	}
	if d, err := h.Register(t.Context(), "dev", nil); err != nil || d == nil {
		t.Errorf("after a failure the same id: %v, %v", d, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Register(ctx, "other", nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// The registration that nobody waits for ends before the database is closed.
	if _, err := h.Register(t.Context(), "other", nil); err != nil {
		t.Error(err)
	}
}

func TestOpenPatient(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`)
		a, b := vitals.DeviceID(id.Draw(t, "a")), vitals.DeviceID(id.Draw(t, "b"))
		p := devices.OpenPatient(a)
		if !vitals.ValidID(string(p)) {
			t.Fatalf("%q of %q is no patient id", p, a)
		}
		if len(a) <= 62 && p != "P-"+vitals.PatientID(a) {
			t.Fatalf("%q of %q", p, a)
		}
		if (p == devices.OpenPatient(b)) != (a == b) {
			t.Fatalf("%q and %q share %q", a, b, p)
		}
	})
	long := vitals.DeviceID(strings.Repeat("x", 63))
	if p, q := devices.OpenPatient(long+"a"), devices.OpenPatient(long+"b"); p == q || len(p) != 64 {
		t.Errorf("%q and %q", p, q)
	}
}

func must(t interface {
	Helper()
	Fatal(...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMemoryPerDevice(t *testing.T) {
	if raceEnabled {
		t.Skip("skipped TestMemoryPerDevice: the race detector needs memory of its own")
	}
	const n = 20_000
	h := fresh(t)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	var wg sync.WaitGroup
	const callers = 200 // a few, because the runtime keeps the memory of ended goroutines
	for c := range callers {
		wg.Go(func() {
			for i := c; i < n; i += callers {
				if _, err := h.Register(t.Context(), vitals.DeviceID(fmt.Sprintf("dev-%06d", i)), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	begin := time.Now()
	wg.Wait()
	took := time.Since(begin)
	per := (heap() - before) / n
	t.Logf("%d B per device with its patient; %d registered in %v", per, n, took.Round(time.Millisecond))
	if per > 650 {
		t.Errorf("%d B per device with its patient, at most 650 are allowed", per)
	}
	runtime.KeepAlive(h)
}

// go test -bench Resolve ./devices
func BenchmarkHandle_Resolve(b *testing.B) {
	h := fresh(b, "A", "B")
	d, _ := h.add(b, devices.New{ID: "cuff", Patient: "A"})
	run := func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := d.Resolve(0, start); !ok {
				b.Fatal("not resolved")
			}
		}
	}
	b.Run("bindings=1", run)
	h.now++
	must(b, h.Bind(b.Context(), "cuff", 1, "B", 0))
	h.now++
	must(b, h.Bind(b.Context(), "cuff", 2, "B", 0))
	b.Run("bindings=3", run)
}

// go test -bench Authenticate ./devices
func BenchmarkRegistry_Authenticate(b *testing.B) {
	h := fresh(b)
	_, secret := h.add(b, devices.New{ID: "cuff"})
	p := []byte(secret)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Authenticate("cuff", "cuff", p, true, false); err != nil {
			b.Fatal(err)
		}
	}
}

// What failed last says when somebody measured: it goes with the person, from memory and from the table.
func TestRegistry_ForgetsWhatFailed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	h := open(t, path)
	h.addPatients(t, "A", "B")
	for id, p := range map[vitals.DeviceID]vitals.PatientID{"cuff": "A", "other": "B"} {
		d, _ := h.add(t, devices.New{ID: id, Patient: p})
		d.NoteFailure(devices.Failure{At: start, Indicator: vitals.BloodPressure, DeviceFault: vitals.DeviceFault{Class: "cuff", Code: "E2"}})
	}
	if err := h.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Forget(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	if err := h.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*house{"running": h, "started again": open(t, path)} {
		if f := r.Find("cuff").LastFailure(); f != (devices.Failure{}) {
			t.Errorf("%s: %+v of a person who was forgotten", name, f)
		}
		if r.Find("other").LastFailure().At != start {
			t.Errorf("%s: another's is gone", name)
		}
	}
}
