package care_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"vitalwatch/care"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

func openDB(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t testing.TB, db *sqlite.DB) *care.Registry {
	t.Helper()
	r, err := care.Open(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMicro(1_795_000_000_000_000)
	r.Now = func() time.Time { at = at.Add(time.Millisecond); return at }
	return r
}

func ids(r *care.Registry) (out []string) {
	for p := range r.All() {
		out = append(out, string(p.ID))
	}
	return out
}

func TestRegistry_SurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	r := open(t, db)
	for _, p := range []care.Patient{
		{ID: "P-2", Name: "王芳", Conditions: []string{"type2_diabetes", "hypertension", "hypertension"}, Teams: []string{"north"}, TZ: "Asia/Shanghai", Language: "zh-CN"},
		{ID: "P-1"},
		{ID: "P-10", Conditions: []string{"hypertension", "type2_diabetes"}},
	} {
		if _, err := r.Add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.SetConditions(t.Context(), "P-10", []string{"copd"}); err != nil {
		t.Fatal(err)
	}
	want := slices.Collect(r.All())
	db.Close()

	again := open(t, openDB(t, path))
	got := slices.Collect(again.All())
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(care.Patient{})); diff != "" {
		t.Errorf("after reopening (-before +after):\n%s", diff)
	}
	if !slices.Equal(ids(again), []string{"P-1", "P-10", "P-2"}) {
		t.Errorf("order = %v", ids(again))
	}
	p, _ := again.Find("P-2")
	if !slices.Equal(p.Conditions, []string{"hypertension", "type2_diabetes"}) || p.Location().String() != "Asia/Shanghai" || p.Name != "王芳" {
		t.Errorf("P-2 = %+v in %v", p, p.Location())
	}
	if p, _ := again.Find("P-10"); !slices.Equal(p.Conditions, []string{"copd"}) {
		t.Errorf("P-10 has %v, want copd only", p.Conditions)
	}
	if ts := again.Teams(); len(ts) != 1 || ts[0].ID != "north" {
		t.Errorf("teams = %+v", ts)
	}
}

func TestRegistry_RefusesInvalid(t *testing.T) {
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	r.CheckConditions(func() []string { return []string{"copd", "hypertension"} })
	const marked = "Zhang\x00San"
	for _, c := range []struct {
		name string
		p    care.Patient
		want string
	}{
		{"no id", care.Patient{}, "the id must be"},
		{"topic separator in the id", care.Patient{ID: "a/b"}, "the id must be"},
		{"too long an id", care.Patient{ID: vitals.PatientID(strings.Repeat("x", 65))}, "the id must be"},
		{"unknown condition", care.Patient{ID: "a", Conditions: []string{"gout"}}, `"gout" is unknown; known are copd, hypertension`},
		{"no such zone", care.Patient{ID: "a", TZ: "Mars/Base"}, "IANA"},
		{"local zone", care.Patient{ID: "a", TZ: "Local"}, "IANA"},
		{"zone that walks the file system", care.Patient{ID: "a", TZ: "../../etc/passwd"}, "IANA"},
		{"name with control characters", care.Patient{ID: "a", Name: marked}, "name of a"},
		{"bad team", care.Patient{ID: "a", Teams: []string{"a b"}}, "team id"},
		{"bad language", care.Patient{ID: "a", Language: "zh_CN"}, "tag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Add(t.Context(), c.p)
			if !errors.Is(err, care.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want ErrInvalid with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "Zhang") {
				t.Errorf("the name is in the error: %v", err)
			}
		})
	}
	if r.Len() != 0 {
		t.Errorf("%d patients after refusals only", r.Len())
	}
}

func TestRegistry_AddTwiceAndUpdateMissing(t *testing.T) {
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	if _, err := r.Add(t.Context(), care.Patient{ID: "P-1", Name: "first"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(t.Context(), care.Patient{ID: "P-1", Name: "second"}); !errors.Is(err, care.ErrExists) {
		t.Errorf("second add: %v, want ErrExists", err)
	}
	if p, _ := r.Find("P-1"); p.Name != "first" {
		t.Errorf("name = %q, the second add overwrote it", p.Name)
	}
	if _, err := r.SetConditions(t.Context(), "P-9", nil); !errors.Is(err, care.ErrNotFound) {
		t.Errorf("update of a missing one: %v, want ErrNotFound", err)
	}
}

// A handed-out patient is a value: changes never reach it.
func TestRegistry_UpdateMakesANewRecord(t *testing.T) {
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	before, err := r.Add(t.Context(), care.Patient{ID: "P-1", Conditions: []string{"copd"}})
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if _, err := r.Update(t.Context(), "P-1", func(p *care.Patient) error { p.Conditions[0] = "x"; return boom }); !errors.Is(err, boom) {
		t.Fatalf("error = %v", err)
	}
	if now, _ := r.Find("P-1"); now != before || now.Conditions[0] != "copd" {
		t.Errorf("a change that failed shows: %+v", now)
	}
	after, err := r.Update(t.Context(), "P-1", func(p *care.Patient) error {
		p.ID, p.TZ, p.Conditions[0] = "P-2", "Europe/Berlin", "hypertension"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if after.ID != "P-1" || after.TZ != "Europe/Berlin" || after.Conditions[0] != "hypertension" || after.CreatedAt != before.CreatedAt {
		t.Errorf("after = %+v", after)
	}
	if before.TZ != "" || before.Conditions[0] != "copd" {
		t.Errorf("the old record changed: %+v", before)
	}
}

// What a pack is gone for stays on the record and does not block other changes.
func TestRegistry_UpdateKeepsConditionsOfAMissingPack(t *testing.T) {
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	if _, err := r.Add(t.Context(), care.Patient{ID: "P-1", Conditions: []string{"old_pack"}}); err != nil {
		t.Fatal(err)
	}
	r.CheckConditions(func() []string { return []string{"copd"} })
	if _, err := r.Update(t.Context(), "P-1", func(p *care.Patient) error { p.TZ = "UTC"; return nil }); err != nil {
		t.Errorf("change of zone: %v", err)
	}
	if _, err := r.SetConditions(t.Context(), "P-1", []string{"old_pack", "copd"}); !errors.Is(err, care.ErrInvalid) {
		t.Errorf("change of conditions: %v, want ErrInvalid", err)
	}
}

// Two processes on one file, as a command beside a running server.
func TestRegistry_RefreshTakesInOthersChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	server, cli := open(t, openDB(t, path)), open(t, openDB(t, path))
	var mu sync.Mutex
	var told []vitals.PatientID
	cancel := server.Subscribe(func(id vitals.PatientID) {
		if _, ok := server.Find(id); !ok {
			t.Errorf("told of %s before it can be found", id)
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, id)
	})
	if _, err := cli.Add(t.Context(), care.Patient{ID: "P-1"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := server.Find("P-1"); ok {
		t.Fatal("visible without a refresh: the test shows nothing")
	}
	// The server's own write must not skip the other's change.
	if _, err := server.Add(t.Context(), care.Patient{ID: "P-2"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ids(server), []string{"P-1", "P-2"}) {
		t.Errorf("server knows %v", ids(server))
	}
	if _, err := cli.SetConditions(t.Context(), "P-2", []string{"copd"}); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Refresh(t.Context()); n != 1 || err != nil {
		t.Errorf("refresh = %d, %v", n, err)
	}
	if n, err := server.Refresh(t.Context()); n != 0 || err != nil {
		t.Errorf("second refresh = %d, %v, want nothing new", n, err)
	}
	cancel()
	if _, err := server.SetConditions(t.Context(), "P-1", []string{"copd"}); err != nil {
		t.Fatal(err)
	}
	if want := []vitals.PatientID{"P-1", "P-2", "P-2"}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

func TestRegistry_Pages(t *testing.T) {
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	var ps []care.Patient
	for i := range 25 {
		ps = append(ps, care.Patient{ID: vitals.PatientID(fmt.Sprintf("P-%02d", i*7%25))})
	}
	if _, err := r.AddMany(t.Context(), ps); err != nil {
		t.Fatal(err)
	}
	var got []string
	var sizes []int
	for after := vitals.PatientID(""); ; {
		page, next := r.Page(after, 10)
		sizes = append(sizes, len(page))
		for _, p := range page {
			got = append(got, string(p.ID))
		}
		if next == "" {
			break
		}
		after = next
	}
	if !slices.Equal(got, ids(r)) || len(got) != 25 || !slices.IsSorted(got) || !slices.Equal(sizes, []int{10, 10, 5}) {
		t.Errorf("pages of %v gave %v", sizes, got)
	}
	if page, next := r.Page("P-24", 10); len(page) != 0 || next != "" {
		t.Errorf("after the last: %v, %q", page, next)
	}
}

func TestRegistry_AddManyIsOneTransactionAndSkipsKnown(t *testing.T) {
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	if _, err := r.AddMany(t.Context(), []care.Patient{{ID: "ok"}, {ID: "not ok"}}); !errors.Is(err, care.ErrInvalid) || r.Len() != 0 {
		t.Errorf("error = %v with %d patients, want ErrInvalid and none", err, r.Len())
	}
	if _, err := r.Add(t.Context(), care.Patient{ID: "b", Name: "kept"}); err != nil {
		t.Fatal(err)
	}
	made, err := r.AddMany(t.Context(), []care.Patient{{ID: "c"}, {ID: "b"}, {ID: "a"}, {ID: "c"}})
	if err != nil || len(made) != 2 || made[0].ID != "c" || made[1].ID != "a" {
		t.Errorf("made = %v, %v", made, err)
	}
	if p, _ := r.Find("b"); p.Name != "kept" {
		t.Error("an existing patient was overwritten")
	}
}

// Two registries on one file against a plain map: any sequence of writes by either, seen after a refresh, is the map.
func TestRegistry_EqualsModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	regs := []*care.Registry{open(t, openDB(t, path)), open(t, openDB(t, path))}
	type model struct{ conditions, teams []string }
	want := map[vitals.PatientID]model{} // of all rounds
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		id := rapid.Custom(func(t *rapid.T) vitals.PatientID {
			return vitals.PatientID(fmt.Sprintf("P-%d-%d", round, rapid.IntRange(0, 3).Draw(t, "n")))
		})
		list := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3)
		touched := map[vitals.PatientID]bool{}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			r := regs[rapid.IntRange(0, 1).Draw(rt, "who")]
			id, m := id.Draw(rt, "id"), model{list.Draw(rt, "conditions"), list.Draw(rt, "teams")}
			slices.Sort(m.conditions)
			slices.Sort(m.teams)
			m = model{slices.Compact(m.conditions), slices.Compact(m.teams)}
			touched[id] = true
			_, known := want[id]
			if rapid.Bool().Draw(rt, "add") {
				_, err := r.Add(t.Context(), care.Patient{ID: id, Conditions: m.conditions, Teams: m.teams})
				if (err == nil) == known {
					rt.Fatalf("add %s: %v, known %v", id, err, known)
				}
				if !known {
					want[id] = m
				}
				continue
			}
			_, err := r.Update(t.Context(), id, func(p *care.Patient) error { p.Conditions, p.Teams = m.conditions, m.teams; return nil })
			if (err == nil) != known {
				rt.Fatalf("update %s: %v, known %v", id, err, known)
			}
			if known {
				want[id] = m
			}
		}
		for i, r := range regs {
			if _, err := r.Refresh(t.Context()); err != nil {
				rt.Fatal(err)
			}
			if r.Len() != len(want) {
				rt.Fatalf("registry %d has %d patients, want %d", i, r.Len(), len(want))
			}
			for id := range touched {
				p, ok := r.Find(id)
				m, wantOK := want[id]
				if ok != wantOK || ok && (!slices.Equal(p.Conditions, m.conditions) || !slices.Equal(p.Teams, m.teams)) {
					rt.Fatalf("registry %d: %s = %+v, want %+v", i, id, p, m)
				}
			}
		}
	})
}

// Personal thresholds are read with the patient; editing them comes later, so the test writes the table.
func TestRegistry_ReadsOverrides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	r := open(t, db)
	for _, id := range []vitals.PatientID{"P-0", "P-1", "P-2"} {
		if _, err := r.Add(t.Context(), care.Patient{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	now := vitals.At(r.Now())
	insert := func(patient, unit string, value float64, from, until vitals.Micros) {
		t.Helper()
		if err := db.Write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO care_overrides VALUES ($1, 'glucose_low', 'critical', $2, $3, 'dr.li', 'pregnancy', $4, $5)`, patient, unit, value, from, until)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	insert("P-1", "mg/dL", 63, now, 0)
	insert("P-1", "mmol/L", 3.5, now, 0)
	insert("P-1", "mmol/L", 3.3, now-2*vitals.Day, now-vitals.Day) // ended
	insert("P-2", "mmol/L", 3.6, now, now+vitals.Day)

	r = open(t, db)
	want := []care.Override{
		{Rule: "glucose_low", Severity: "critical", Unit: unit(t, "mg/dL"), Value: 63, By: "dr.li", Why: "pregnancy", From: now},
		{Rule: "glucose_low", Severity: "critical", Unit: unit(t, "mmol/L"), Value: 3.5, By: "dr.li", Why: "pregnancy", From: now},
	}
	// care.Open reads with the real clock, for which all of these may be long past; a change reads them again.
	if _, err := r.Update(t.Context(), "P-1", func(p *care.Patient) error { p.Overrides = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	p, _ := r.Find("P-1")
	if diff := cmp.Diff(want, p.Overrides); diff != "" {
		t.Errorf("overrides (-want +got):\n%s", diff)
	}
	if p, _ := r.Find("P-0"); len(p.Overrides) != 0 {
		t.Errorf("P-0 has %+v", p.Overrides)
	}
	if _, err := r.Update(t.Context(), "P-2", func(*care.Patient) error { return nil }); err != nil {
		t.Fatal(err)
	}
	p, _ = r.Find("P-2")
	if len(p.Overrides) != 1 {
		t.Fatalf("P-2 has %+v", p.Overrides)
	}
	o := p.Overrides[0]
	for _, c := range []struct {
		at   vitals.Micros
		want bool
	}{{now - 1, false}, {now, true}, {now + vitals.Day - 1, true}, {now + vitals.Day, false}} {
		if o.InForce(c.at) != c.want {
			t.Errorf("in force at %+d: %v", c.at-now, !c.want)
		}
	}
	insert("P-2", "furlong", 1, now, 0)
	if _, err := r.Update(t.Context(), "P-2", func(*care.Patient) error { return nil }); err == nil || !strings.Contains(err.Error(), "furlong") {
		t.Errorf("a unit nobody knows: %v", err)
	}
}

func unit(t *testing.T, s string) vitals.Unit {
	t.Helper()
	u, ok := vitals.ParseUnit(s)
	if !ok {
		t.Fatalf("no unit %s", s)
	}
	return u
}

func TestRegistry_MemoryPerPatient(t *testing.T) {
	if raceEnabled {
		t.Skip("skipped TestRegistry_MemoryPerPatient: the race detector needs memory of its own")
	}
	const n = 20_000
	r := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")))
	var ps []care.Patient
	for i := range n {
		ps = append(ps, care.Patient{ID: vitals.PatientID(fmt.Sprintf("P-dev-%06d", i)), Conditions: []string{"hypertension", "copd"}})
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	if _, err := r.AddMany(t.Context(), ps); err != nil {
		t.Fatal(err)
	}
	per := (heap() - before) / n
	t.Logf("%d B per patient", per)
	if per > 300 {
		t.Errorf("%d B per patient, at most 300 are allowed", per)
	}
	runtime.KeepAlive(r)
	runtime.KeepAlive(ps)
}

// go test -bench Find ./care
func BenchmarkRegistry_Find(b *testing.B) {
	r := open(b, openDB(b, filepath.Join(b.TempDir(), "s.db")))
	var ps []care.Patient
	for i := range 10_000 {
		ps = append(ps, care.Patient{ID: vitals.PatientID(fmt.Sprintf("P-%06d", i))})
	}
	if _, err := r.AddMany(b.Context(), ps); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := r.Find(ps[i%len(ps)].ID); !ok {
			b.Fatal("missing")
		}
		i++
	}
}
