package care

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/internal/readmostly"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Registry is all patients in memory over their tables.
type Registry struct {
	db *sqlite.DB
	// Now stamps records; tests set it before use.
	Now   func() time.Time
	known func() []string // nil: any condition name of the right form

	patients readmostly.Map[vitals.PatientID, *Patient]
	ordered  atomic.Pointer[[]vitals.PatientID] // by id; a published slice never changes

	applied atomic.Int64 // rev, for who must not wait for wmu

	wmu sync.Mutex // serialises writers and Refresh; guards what follows
	rev int64      // all changes up to this one are in memory
	// interned texts and lists: nearly all patients share a handful.
	texts map[string]string
	lists map[string][]string
	zones map[string]*time.Location
	teams atomic.Pointer[[]Team] // by id; a published slice never changes

	submu sync.Mutex
	subs  map[int]func(vitals.PatientID)
	subID int
}

// Open migrates care's tables and reads all patients.
func Open(ctx context.Context, db *sqlite.DB) (*Registry, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, "care", files); err != nil {
		return nil, err
	}
	r := &Registry{db: db, Now: time.Now, texts: map[string]string{}, lists: map[string][]string{}, zones: map[string]*time.Location{}, subs: map[int]func(vitals.PatientID){}}
	r.ordered.Store(new([]vitals.PatientID))
	r.teams.Store(new([]Team))
	if _, err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// CheckConditions makes every later write refuse conditions that known does not list. Call it before use; care does
// not import the packs.
func (r *Registry) CheckConditions(known func() []string) { r.known = known }

// Find returns a patient. The hot path: no lock, no allocation.
func (r *Registry) Find(id vitals.PatientID) (*Patient, bool) { return r.patients.Get(id) }

// Len returns how many patients there are.
func (r *Registry) Len() int { return len(*r.ordered.Load()) }

// All yields the patients of one instant in order of id.
func (r *Registry) All() iter.Seq[*Patient] { return r.After("") }

// After yields the patients whose id is greater than the given one, in order of id: the next page of a list.
func (r *Registry) After(id vitals.PatientID) iter.Seq[*Patient] {
	ids := *r.ordered.Load()
	i, found := slices.BinarySearch(ids, id)
	if found {
		i++
	}
	return func(yield func(*Patient) bool) {
		for _, id := range ids[i:] {
			if p, ok := r.patients.Get(id); ok && !yield(p) {
				return
			}
		}
	}
}

// Page returns up to limit patients after an id ("" for the first page), and the id to ask with for the next page,
// "" when this was the last.
func (r *Registry) Page(after vitals.PatientID, limit int) (page []*Patient, next vitals.PatientID) {
	for p := range r.After(after) {
		if len(page) == limit {
			if limit > 0 {
				next = page[limit-1].ID
			}
			return page, next
		}
		page = append(page, p)
	}
	return page, ""
}

// Teams returns all teams by id; read only.
func (r *Registry) Teams() []Team { return *r.teams.Load() }

// Subscribe calls f with the id of each patient that was added or changed, after the change is durable and visible
// through Find. f may be called from several goroutines at once, and more than once for one change, so it must take
// the patient from Find and not trust the order of calls. It must not block and must not write to the registry.
func (r *Registry) Subscribe(f func(vitals.PatientID)) (cancel func()) {
	r.submu.Lock()
	defer r.submu.Unlock()
	id := r.subID
	r.subID++
	r.subs[id] = f
	return func() {
		r.submu.Lock()
		defer r.submu.Unlock()
		delete(r.subs, id)
	}
}

func (r *Registry) publish(ids []vitals.PatientID) {
	if len(ids) == 0 {
		return
	}
	r.submu.Lock()
	subs := make([]func(vitals.PatientID), 0, len(r.subs))
	for _, f := range r.subs {
		subs = append(subs, f)
	}
	r.submu.Unlock()
	for _, f := range subs {
		for _, id := range ids {
			f(id)
		}
	}
}

// Add makes one patient; it gives ErrExists when the id is taken.
func (r *Registry) Add(ctx context.Context, p Patient) (*Patient, error) {
	added, err := r.AddMany(ctx, []Patient{p})
	if err != nil {
		return nil, err
	}
	if len(added) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrExists, p.ID)
	}
	return added[0], nil
}

// AddMany makes patients in one transaction and returns those it made, in the order given. Ids that exist already are
// left as they are and left out. Teams that do not exist are made, named by their id. Overrides are not taken.
func (r *Registry) AddMany(ctx context.Context, ps []Patient) ([]*Patient, error) {
	known := once(r.known)
	ps = slices.Clone(ps)
	for i := range ps {
		if err := ps[i].validate(known); err != nil {
			return nil, err
		}
	}
	made := make([]vitals.PatientID, 0, len(ps))
	err := r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		for i := range ps {
			p := &ps[i]
			if p.CreatedAt == 0 {
				p.CreatedAt = now
			}
			ok, err := insertPatient(ctx, tx, p, rev)
			if err != nil {
				return fmt.Errorf("add patient %s: %w", p.ID, err)
			}
			if !ok {
				continue
			}
			made = append(made, p.ID)
			if err := writeConditions(ctx, tx, p.ID, nil, p.Conditions, p.CreatedAt); err != nil {
				return fmt.Errorf("add patient %s: %w", p.ID, err)
			}
			if err := writeTeams(ctx, tx, p.ID, nil, p.Teams, rev, now); err != nil {
				return fmt.Errorf("add patient %s: %w", p.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]*Patient, 0, len(made))
	for _, id := range made {
		if p, ok := r.Find(id); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// Update changes one patient: change gets a copy of the committed record, also when another process wrote it, and
// edits name, conditions, teams, zone or language. Id, creation and overrides stay. An error of change changes nothing.
func (r *Registry) Update(ctx context.Context, id vitals.PatientID, change func(*Patient) error) (*Patient, error) {
	err := r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		old, err := r.readOne(ctx, tx, id)
		if err != nil {
			return err
		}
		p := old.clone()
		if err := change(p); err != nil {
			return err
		}
		p.ID, p.CreatedAt = old.ID, old.CreatedAt
		// What was there before stays valid, even when its pack is gone: only a changed list is checked.
		known := r.known
		if slices.Equal(tidy(p.Conditions), old.Conditions) {
			known = nil
		}
		if err := p.validate(known); err != nil {
			return err
		}
		if err := updatePatient(ctx, tx, p, rev); err != nil {
			return fmt.Errorf("update patient %s: %w", id, err)
		}
		if err := writeConditions(ctx, tx, id, old.Conditions, p.Conditions, now); err != nil {
			return fmt.Errorf("update patient %s: %w", id, err)
		}
		if err := writeTeams(ctx, tx, id, old.Teams, p.Teams, rev, now); err != nil {
			return fmt.Errorf("update patient %s: %w", id, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p, _ := r.Find(id)
	return p, nil
}

// SetConditions replaces a patient's conditions.
func (r *Registry) SetConditions(ctx context.Context, id vitals.PatientID, conditions []string) (*Patient, error) {
	return r.Update(ctx, id, func(p *Patient) error { p.Conditions = conditions; return nil })
}

// AddTeam makes a team or renames it.
func (r *Registry) AddTeam(ctx context.Context, t Team) error {
	if !vitals.ValidID(t.ID) || len(t.Name) > maxName {
		return fmt.Errorf("%w: a team id must be 1 to %d of A-Z a-z 0-9 _ -, its name at most %d bytes", ErrInvalid, vitals.MaxIDLen, maxName)
	}
	return r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		if t.CreatedAt == 0 {
			t.CreatedAt = now
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO care_teams (id, name, created_at, rev) VALUES ($1, $2, $3, $4)
			ON CONFLICT (id) DO UPDATE SET name = excluded.name, rev = excluded.rev`, t.ID, cmp.Or(t.Name, t.ID), t.CreatedAt, rev)
		return err
	})
}

// Applied is the revision up to which all changes are in memory. It does not wait for a writer, as Refresh does.
func (r *Registry) Applied() int64 { return r.applied.Load() }

// Refresh takes in what other processes committed; it returns how many patients changed. Call it when
// sqlite.DB.ChangedByOthers differs.
func (r *Registry) Refresh(ctx context.Context) (int, error) {
	r.wmu.Lock()
	var d delta
	err := r.db.Snapshot(ctx, func(tx *sql.Tx) (err error) {
		d, err = r.readSince(ctx, tx)
		return err
	})
	if err != nil {
		r.wmu.Unlock()
		return 0, fmt.Errorf("read patients: %w", err)
	}
	changed := r.apply(d)
	r.wmu.Unlock()
	r.publish(changed)
	return len(changed), nil
}

// write runs f in a transaction with a new revision number, and takes over what it, and anybody before it, changed.
// Reading back what was written keeps one way from the tables to memory.
func (r *Registry) write(ctx context.Context, f func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error) error {
	r.wmu.Lock()
	var d delta
	err := r.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var rev int64
		// Taking the number first also serialises writers on a database that has more than one.
		if err := tx.QueryRowContext(ctx, `UPDATE care_revision SET rev = rev + 1 RETURNING rev`).Scan(&rev); err != nil {
			return fmt.Errorf("care revision: %w", err)
		}
		if err := f(ctx, tx, rev, vitals.At(r.Now())); err != nil {
			return err
		}
		var err error
		d, err = r.readSince(ctx, tx)
		return err
	})
	if err != nil {
		r.wmu.Unlock()
		return err
	}
	changed := r.apply(d)
	r.wmu.Unlock()
	r.publish(changed)
	return nil
}

// delta is what changed after a revision.
type delta struct {
	rev      int64
	patients []*Patient // by id
	teams    []Team     // by id
}

// apply makes a delta visible and returns the patients that differ from before. wmu is held.
func (r *Registry) apply(d delta) []vitals.PatientID {
	var changed, added []vitals.PatientID
	for _, p := range d.patients {
		old, ok := r.patients.Get(p.ID)
		if ok && old.equal(p) {
			continue
		}
		if !ok {
			added = append(added, p.ID)
		}
		r.patients.Put(p.ID, p)
		changed = append(changed, p.ID)
	}
	if len(added) > 0 {
		ids := merge(*r.ordered.Load(), added)
		r.ordered.Store(&ids)
	}
	if len(d.teams) > 0 {
		teams := slices.Clone(*r.teams.Load())
		for _, t := range d.teams {
			i, found := slices.BinarySearchFunc(teams, t, func(a, b Team) int { return strings.Compare(a.ID, b.ID) })
			if found {
				teams[i] = t
			} else {
				teams = slices.Insert(teams, i, t)
			}
		}
		r.teams.Store(&teams)
	}
	r.rev = d.rev
	r.applied.Store(d.rev)
	return changed
}

// merge returns the union of two sorted lists without common members.
func merge(a, b []vitals.PatientID) []vitals.PatientID {
	out := make([]vitals.PatientID, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// text and list give one shared copy of equal values; wmu is held.
func (r *Registry) text(s string) string {
	if s == "" {
		return ""
	}
	if t, ok := r.texts[s]; ok {
		return t
	}
	r.texts[s] = s
	return s
}

func (r *Registry) list(l []string) []string {
	if len(l) == 0 {
		return nil
	}
	key := strings.Join(l, "\x00")
	if t, ok := r.lists[key]; ok {
		return t
	}
	t := make([]string, len(l))
	for i, s := range l {
		t[i] = r.text(s)
	}
	r.lists[key] = t
	return t
}

// once asks known at most once per write.
func once(known func() []string) func() []string {
	if known == nil {
		return nil
	}
	return sync.OnceValue(known)
}
