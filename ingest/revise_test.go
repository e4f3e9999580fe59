package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"vitalwatch/devices"
	"vitalwatch/ingest"
	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/storage/storagetest"
	"vitalwatch/vitals"
)

func observation(id, status, at string, bpm int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"resourceType":"Observation","status":%q`, status)
	if id != "" {
		fmt.Fprintf(&b, `,"id":%q`, id)
	}
	if at != "" {
		fmt.Fprintf(&b, `,"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"effectiveDateTime":%q`, at)
	}
	if bpm != 0 {
		fmt.Fprintf(&b, `,"valueQuantity":{"value":%d,"system":"http://unitsofmeasure.org","code":"/min"}`, bpm)
	}
	return b.String() + "}"
}

// post sends one message and says what became of its items: A, D or Q for each, in order.
func (h *house) post(t testing.TB, format, body string) string {
	t.Helper()
	b := h.NewBatch()
	b.WantItems = true
	b.Add(ingest.Message{Device: "D-1", Format: format, Source: "http", Payload: []byte(body), ReceivedAt: vitals.At(h.now)})
	res, err := b.Commit(context.Background())
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	out := ""
	count := map[string]int{}
	for _, it := range res[0].Items {
		out += strings.ToUpper(it.Status[:1])
		count[it.Status]++
	}
	if r := res[0]; r.Accepted != count["accepted"] || r.Duplicate != count["duplicate"] || r.Quarantined != count["quarantined"] || len(r.Problems) != r.Quarantined {
		t.Fatalf("the items %v are not the counts %+v", count, r)
	}
	return out
}

// stored is what a readings store shows of P-1's heart rates after all of the journal: values in order, with ~ before a
// superseded one and - before a voided one.
func (h *house) stored(t testing.TB, m *storagetest.Memory) string {
	t.Helper()
	h.level(t, m)
	var out []string
	for r, err := range m.Range(context.Background(), storage.Query{Patient: "P-1", Indicator: vitals.HeartRate}) {
		if err != nil {
			t.Fatal(err)
		}
		mark := ""
		if r.Flags&vitals.Voided != 0 {
			mark += "-"
		}
		if r.Flags&vitals.Superseded != 0 {
			mark += "~"
		}
		if (mark != "") != r.Revised() || r.Revised() != (r.Quality == vitals.Invalid) {
			t.Fatalf("reading %s: flags %v, quality %s, extra %+v", r.ID(), r.Flags.Names(), r.Quality, r.Extra)
		}
		out = append(out, fmt.Sprintf("%s%g", mark, r.V[0]))
	}
	return strings.Join(out, " ")
}

func (h *house) level(t testing.TB, m *storagetest.Memory) {
	t.Helper()
	for m.Cursor() < h.journal.Last() {
		b, err := h.journal.Next(context.Background(), m.Cursor())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Write(context.Background(), b.Readings, b.First+uint64(len(b.Readings))-1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRevise(t *testing.T) {
	const at = "2026-11-21T07:59:00Z"
	type step struct{ body, want string }
	obs := observation
	for _, c := range []struct {
		name  string
		steps []step
		want  string // as stored in the end
	}{
		{"a correction replaces by id", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"}}, "~190 90"},
		{"a correction may move the time", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "amended", "2026-11-21T07:58:00Z", 90), "A"}}, "90 ~190"},
		{"a correction without id replaces by indicator and time", []step{{obs("", "final", at, 190), "A"}, {obs("", "corrected", at, 90), "A"}}, "~190 90"},
		{"a correction of nothing known is a reading", []step{{obs("a", "corrected", at, 90), "A"}}, "90"},
		{"resends change nothing", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"},
			{obs("a", "final", at, 190), "D"}, {obs("a", "corrected", at, 90), "D"}}, "~190 90"},
		{"a correction of a correction, and the first one again", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"},
			{obs("a", "corrected", at, 91), "A"}, {obs("a", "corrected", at, 90), "D"}}, "~190 ~90 91"},
		{"a correction back to what was said at first", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"},
			{obs("a", "corrected", at, 190), "A"}, {obs("a", "corrected", at, 190), "D"}, {obs("a", "final", at, 190), "D"}, {obs("a", "corrected", at, 90), "D"}}, "~90 190"},
		{"back over two corrections", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"}, {obs("a", "corrected", at, 91), "A"},
			{obs("a", "corrected", at, 190), "A"}, {obs("a", "corrected", at, 91), "D"}, {obs("a", "corrected", at, 92), "A"}, {obs("a", "corrected", at, 190), "D"}}, "~90 ~91 ~190 92"},
		{"back to the time of what was said at first", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", "2026-11-21T07:58:00Z", 90), "A"}, {obs("a", "corrected", at, 190), "A"}}, "~90 190"},
		{"back without id", []step{{obs("", "final", at, 190), "A"}, {obs("", "corrected", at, 90), "A"}, {obs("", "corrected", at, 190), "A"}}, "~90 190"},
		{"no way back from a void", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"}, {obs("a", "entered-in-error", "", 0), "A"},
			{obs("a", "corrected", at, 190), "D"}}, "~190 -90"},
		{"an impossible correction leaves what is", []step{{obs("a", "final", at, 90), "A"}, {obs("a", "corrected", at, 9000), "Q"}}, "90"},
		{"the final result replaces the preliminary one", []step{{obs("a", "preliminary", at, 190), "A"}, {obs("a", "final", at, 90), "A"},
			{obs("a", "final", at, 90), "D"}, {obs("a", "preliminary", at, 190), "D"}}, "~190 90"},
		{"a final result does not replace a final one", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "final", at, 90), "Q"}}, "190"},
		{"a void by id alone", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "entered-in-error", "", 0), "A"}, {obs("a", "entered-in-error", "", 0), "D"}}, "-190"},
		{"a void with everything", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "entered-in-error", at, 190), "A"}}, "-190"},
		{"a void without id", []step{{obs("", "final", at, 190), "A"}, {obs("", "entered-in-error", at, 0), "A"}}, "-190"},
		{"a void of a correction", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "corrected", at, 90), "A"}, {obs("a", "entered-in-error", "", 0), "A"}}, "~190 -90"},
		{"a voided reading that is sent again stays voided", []step{{obs("a", "final", at, 190), "A"}, {obs("a", "entered-in-error", "", 0), "A"}, {obs("a", "final", at, 190), "D"}}, "-190"},
		{"a void of nothing known waits", []step{{obs("a", "entered-in-error", at, 190), "Q"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, withStore := range []bool{false, true} {
				h, m := newHouse(t, false), storagetest.NewMemory()
				if withStore {
					h.use(m)
				}
				for i, s := range c.steps {
					if got := h.post(t, "fhir", s.body); got != s.want {
						t.Fatalf("store %v, step %d: got %s, want %s", withStore, i, got, s.want)
					}
					if withStore && i%2 == 0 {
						h.level(t, m) // the store is behind half of the time
					}
				}
				if got := h.stored(t, m); got != c.want {
					t.Errorf("store %v: stored %q, want %q", withStore, got, c.want)
				}
			}
		})
	}
}

// panel is one observation of two readings.
const panel = `{"resourceType":"Observation","id":"p","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"85353-1"}]},"effectiveDateTime":"2026-11-21T07:59:00Z","component":[
		{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"valueQuantity":{"value":72,"system":"http://unitsofmeasure.org","code":"/min"}},
		{"code":{"coding":[{"system":"http://loinc.org","code":"9279-1"}]},"valueQuantity":{"value":15,"system":"http://unitsofmeasure.org","code":"/min"}}]}`

func TestRevise_severalReadingsOfOneObservation(t *testing.T) {
	h, m := newHouse(t, false), storagetest.NewMemory()
	if got := h.post(t, "fhir", panel); got != "AA" {
		t.Fatalf("panel: %s", got)
	}
	if got := h.post(t, "fhir", observation("p", "entered-in-error", "", 0)); got != "A" {
		t.Fatalf("void: %s", got)
	}
	h.level(t, m)
	for _, i := range []vitals.Indicator{vitals.HeartRate, vitals.Respiration} {
		for r := range m.Range(t.Context(), storage.Query{Patient: "P-1", Indicator: i}) {
			if r.Flags&vitals.Voided == 0 {
				t.Errorf("%s still counts", i)
			}
		}
	}
}

// A void that came before its reading does its work when it is replayed.
func TestRevise_replay(t *testing.T) {
	h, m := newHouse(t, false), storagetest.NewMemory()
	h.post(t, "fhir", observation("a", "entered-in-error", "", 0))
	h.post(t, "fhir", observation("a", "final", "2026-11-21T07:59:00Z", 190))
	items, _, err := h.journal.Quarantine(t.Context(), 10, 0)
	if err != nil || len(items) != 1 {
		t.Fatal(items, err)
	}
	if r, err := h.Replay(t.Context(), items[0].ID); err != nil || r.Accepted != 1 {
		t.Fatalf("replay: %+v, %v", r, err)
	}
	if got := h.stored(t, m); got != "-190" {
		t.Errorf("stored %q, want it voided", got)
	}
}

// One weighing by four formats and through gateways is one reading.
func TestPipeline_oneMeasurementByManyFormats(t *testing.T) {
	type message struct{ name, format, body string }
	all := []message{
		{"native", "readings", `{"indicator":"weight","taken_at":"2026-11-21T07:59:00Z","value":70.5,"unit":"kg","id":"n-1"}`},
		{"GATT", "gatt/2A9D", "\x02\x14\x37\xea\x07\x0b\x15\x0f\x3b\x00"},
		{"FHIR", "fhir", `{"resourceType":"Observation","id":"f-1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"29463-7"}]},"effectiveDateTime":"2026-11-21T15:59:00+08:00","valueQuantity":{"value":70.50,"system":"http://unitsofmeasure.org","code":"kg"}}`},
		{"Theengs", "theengs", `{"id":"AA:BB","weighing_mode":"person","unit":"kg","weight":70.5,"UTCtime":"2026-11-21T07:59:00Z"}`},
	}
	for first := range all {
		h := newHouse(t, false)
		tz := "Asia/Shanghai"
		if err := h.devices.Set(t.Context(), "D-1", devices.Change{TZ: &tz}); err != nil {
			t.Fatal(err)
		}
		for i := range all {
			m := all[(first+i)%len(all)]
			want := "D"
			if i == 0 {
				want = "A"
			}
			if got := h.post(t, m.format, m.body); got != want {
				t.Errorf("%s after %s: got %s, want %s", m.name, all[first].name, got, want)
			}
		}
		if got := h.post(t, "readings", `{"indicator":"weight","taken_at":"2026-11-21T07:59:01Z","value":70.5,"unit":"kg"}`); got != "A" {
			t.Errorf("the same weight a second later: got %s, want it accepted", got)
		}
	}
	h := newHouse(t, false)
	bp := `{"indicator":"blood_pressure","taken_at":"2026-11-21T07:59:00Z","values":{"systolic":142,"diastolic":91%s},"unit":"mmHg"}`
	if got := h.post(t, "readings", "["+fmt.Sprintf(bp, `,"pulse":72`)+","+fmt.Sprintf(bp, "")+"]"); got != "AD" {
		t.Errorf("with and without pulse: got %s, want AD", got)
	}
}

// slowDiary is the obvious model: a list of what was sent under which id, and its state.
type slowDiary struct{ entries []diaryEntry }

type diaryEntry struct {
	id          string
	minute, bpm int
	preliminary bool
	correction  bool   // came as one
	state       string // "", "~", "-"
}

func (d *slowDiary) find(minute, bpm int) *diaryEntry {
	for i := range d.entries {
		if e := &d.entries[i]; e.minute == minute && e.bpm == bpm {
			return e
		}
	}
	return nil
}

// last is the entry that an id names now.
func (d *slowDiary) last(id string) *diaryEntry {
	for i := len(d.entries) - 1; i >= 0; i-- {
		if d.entries[i].id == id {
			return &d.entries[i]
		}
	}
	return nil
}

func (d *slowDiary) send(id, status string, minute, bpm int) string {
	if status == "entered-in-error" {
		e := d.last(id)
		switch {
		case e == nil:
			return "Q"
		case e.state == "-":
			return "D"
		}
		e.state = "-"
		return "A"
	}
	e := d.last(id)
	if old := d.find(minute, bpm); old != nil {
		if status != "corrected" || old.state != "~" || old.correction || old.id != id || e.state != "" {
			return "D"
		}
		e.state = "~"
		back := diaryEntry{id: id, minute: minute, bpm: bpm, correction: true}
		d.entries = slices.DeleteFunc(d.entries, func(x diaryEntry) bool { return x.minute == minute && x.bpm == bpm })
		d.entries = append(d.entries, back)
		return "A"
	}
	if e != nil {
		if status != "corrected" && !e.preliminary {
			return "Q"
		}
		if e.state == "" {
			e.state = "~"
		}
	}
	d.entries = append(d.entries, diaryEntry{id: id, minute: minute, bpm: bpm, preliminary: status == "preliminary", correction: status == "corrected"})
	return "A"
}

func TestRevise_likeTheModel(t *testing.T) {
	outer, h := t, newHouse(t, false)
	rapid.Check(t, func(t *rapid.T) {
		m := storagetest.NewMemory()
		j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: today})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		h.journal, h.config.Journal = j, j
		h.use(m)
		var d slowDiary
		for range rapid.IntRange(1, 12).Draw(t, "messages") {
			id := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id")
			status := rapid.SampledFrom([]string{"final", "preliminary", "corrected", "entered-in-error"}).Draw(t, "status")
			minute, bpm := rapid.IntRange(10, 11).Draw(t, "minute"), rapid.IntRange(70, 73).Draw(t, "bpm")
			want := d.send(id, status, minute, bpm)
			if got := h.post(outer, "fhir", observation(id, status, fmt.Sprintf("2026-11-21T07:%d:00Z", minute), bpm)); got != want {
				t.Fatalf("%s %s %d at %d: got %s, want %s", id, status, bpm, minute, got, want)
			}
			if rapid.Bool().Draw(t, "store is level") {
				h.level(outer, m)
			}
		}
		h.level(outer, m)
		stands := map[string]bool{}
		for r := range m.Range(context.Background(), storage.Query{Patient: "P-1"}) {
			state := ""
			switch {
			case r.Flags&vitals.Voided != 0:
				state = "-"
			case r.Flags&vitals.Superseded != 0:
				state = "~"
			}
			stands[fmt.Sprintf("%s %d %g", state, r.TakenAt.Time().Minute(), r.V[0])] = true
		}
		if len(stands) != len(d.entries) {
			t.Fatalf("stored %v, the model has %+v", stands, d.entries)
		}
		for _, e := range d.entries {
			if !stands[fmt.Sprintf("%s %d %d", e.state, e.minute, e.bpm)] {
				t.Fatalf("stored %v, the model has %+v", stands, d.entries)
			}
		}
	})
}

// What is rebuilt from the messages that were kept is what was journaled, with what counts no more.
func TestRevise_isKeptAsEvidence(t *testing.T) {
	h := newHouse(t, false)
	j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop(), Now: today, Evidence: journal.EvidenceOptions{Keep: 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	h.journal, h.config.Journal, h.config.Evidence = j, j, true
	h.Pipeline = ingest.New(h.config)
	const at, later = "2026-11-21T07:58:00Z", "2026-11-21T07:59:00Z"
	for _, body := range []string{
		observation("d", "final", at, 60), observation("d", "corrected", at, 61), observation("d", "corrected", at, 60),
		observation("a", "preliminary", at, 190), observation("a", "final", at, 90), observation("a", "corrected", later, 91),
		observation("a", "entered-in-error", "", 0),
		`{"resourceType":"Bundle","type":"collection","entry":[{"resource":` + observation("b", "corrected", later, 80) + `},{"resource":` +
			observation("c", "final", later, 81) + `},{"resource":` + observation("c", "entered-in-error", "", 0) + `}]}`,
	} {
		if got := h.post(t, "fhir", body); strings.Trim(got, "A") != "" {
			t.Fatalf("%s: %s", body, got)
		}
	}
	want, err := j.Next(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []vitals.Reading
	if err := j.Evidence(t.Context(), 0, func(e *evidence.Entry) (err error) {
		got, err = ingest.Reread(e, got)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want.Readings) || len(got) < 8 {
		t.Fatalf("%d readings rebuilt, %d journaled", len(got), len(want.Readings))
	}
	for i := range got {
		a, b := vitals.AppendReading(nil, &got[i]), vitals.AppendReading(nil, &want.Readings[i])
		if !bytes.Equal(a, b) {
			t.Errorf("reading %d: rebuilt %+v, journaled %+v", i, got[i], want.Readings[i])
		}
	}
}

// A store that cannot be asked for what a correction names refuses the message for now. What of it is durable already is
// counted as accepted: it is stored and evaluated, and comes again as duplicates.
func TestRevise_CountsWhatWasDurableBefore(t *testing.T) {
	h := newHouse(t, false)
	store := &awayStore{Memory: storagetest.NewMemory()}
	h.config.Store = store
	h.Pipeline = ingest.New(h.config)
	const first, second = "2026-11-21T07:59:00Z", "2026-11-21T07:58:00Z"
	body := "[" + observation("a", "final", first, 90) + "," + observation("b", "final", second, 91) + "," + observation("a", "corrected", first, 80) + "]"
	store.err = errors.New("the store is away")
	b := h.NewBatch()
	b.Add(ingest.Message{Device: "D-1", Format: "fhir", Source: "http", Payload: []byte(body), ReceivedAt: vitals.At(h.now)})
	if _, err := b.Commit(t.Context()); !errors.Is(err, store.err) {
		t.Fatalf("got %v, want that the store is away", err)
	}
	h.wantCounted(t, 2, 0, 0)
	store.err = nil
	if got := h.post(t, "fhir", body); got != "DDA" {
		t.Errorf("the resend: %s", got)
	}
	h.wantCounted(t, 3, 2, 0)
	if got := h.stored(t, store.Memory); got != "91 ~90 80" && got != "91 80 ~90" {
		t.Errorf("stored: %s", got)
	}
}

// awayStore fails while err is set.
type awayStore struct {
	*storagetest.Memory
	err error
}

func (s *awayStore) Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error] {
	if s.err != nil {
		return func(yield func(vitals.Reading, error) bool) { yield(vitals.Reading{}, s.err) }
	}
	return s.Memory.Range(ctx, q)
}
