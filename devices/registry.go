package devices

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/care"
	"vitalwatch/devices/authority"
	"vitalwatch/internal/readmostly"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Registry is all devices in memory over their tables.
type Registry struct {
	db     *sqlite.DB
	people *care.Registry
	// Now stamps records and judges the end of credentials; tests set it before use.
	Now func() time.Time
	// Authority issues certificates and keys claim codes; set it before use. nil: there are neither.
	Authority *authority.Authority
	// OpenRegistration lets gateways speak for devices without credential, as anybody may; set it before use.
	OpenRegistration bool

	handles readmostly.Map[vitals.DeviceID, *Handle]
	ordered atomic.Pointer[[]*Handle] // by id; a published slice never changes

	applied atomic.Int64 // rev, for who must not wait for wmu

	wmu   sync.Mutex // serialises writers and Refresh; guards what follows
	rev   int64      // all changes up to this one are in memory
	zones map[string]*time.Location

	flushMu sync.Mutex
	joins   joins
	given   given
	strange strangers

	submu sync.Mutex
	subs  map[int]subscriber
	subID int

	revoked revoked
}

// subscriber is called with changes of any kind, or with the end of credentials only.
type subscriber struct {
	f       func(vitals.DeviceID)
	revoked bool
}

// Open migrates the tables and reads all devices; people must be open on the same database.
func Open(ctx context.Context, db *sqlite.DB, people *care.Registry) (*Registry, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, "devices", files); err != nil {
		return nil, err
	}
	r := &Registry{db: db, people: people, Now: time.Now, zones: map[string]*time.Location{}, subs: map[int]subscriber{}}
	r.ordered.Store(new([]*Handle))
	r.joins.calls = map[vitals.DeviceID]*join{}
	if _, err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	if err := r.readStatus(ctx); err != nil {
		return nil, fmt.Errorf("read device status: %w", err)
	}
	if err := r.readClocks(ctx); err != nil {
		return nil, fmt.Errorf("read device clocks: %w", err)
	}
	if err := r.readFailures(ctx); err != nil {
		return nil, fmt.Errorf("read what devices said had failed: %w", err)
	}
	if err := r.readGiven(ctx); err != nil {
		return nil, fmt.Errorf("read the owners of single readings: %w", err)
	}
	return r, nil
}

// Find returns a device, nil when it is unknown. The hot path: no lock, no allocation.
func (r *Registry) Find(id vitals.DeviceID) *Handle {
	h, _ := r.handles.Get(id)
	return h
}

// Len returns how many devices there are.
func (r *Registry) Len() int { return len(*r.ordered.Load()) }

// All yields the devices in order of id.
func (r *Registry) All() iter.Seq[*Handle] { return slices.Values(*r.ordered.Load()) }

// Page returns up to limit devices after an id ("" for the first page), and the id to ask with for the next page, ""
// when this was the last.
func (r *Registry) Page(after vitals.DeviceID, limit int) (page []*Handle, next vitals.DeviceID) {
	all := *r.ordered.Load()
	i, found := slices.BinarySearchFunc(all, after, byID)
	if found {
		i++
	}
	page = slices.Clone(all[i:min(i+max(limit, 0), len(all))])
	if i+len(page) < len(all) && len(page) > 0 {
		next = page[len(page)-1].id
	}
	return page, next
}

func byID(h *Handle, id vitals.DeviceID) int { return cmp.Compare(h.id, id) }

// Subscribe calls f with the id of each device that was added or changed in any way (record, bindings, credentials,
// gateways), after the change is durable and visible through Find. f may be called from several goroutines at once and
// more than once for one change; it must not block and must not write to the registry.
func (r *Registry) Subscribe(f func(vitals.DeviceID)) (cancel func()) {
	return r.subscribe(subscriber{f: f})
}

// SubscribeRevoked calls f, in the same way, with the id of each device of which a credential has ended, by an act or by
// time, or that was disabled: its live session must end. It may have a newer credential; then it comes back with that.
func (r *Registry) SubscribeRevoked(f func(vitals.DeviceID)) (cancel func()) {
	return r.subscribe(subscriber{f: f, revoked: true})
}

func (r *Registry) subscribe(s subscriber) (cancel func()) {
	r.submu.Lock()
	defer r.submu.Unlock()
	id := r.subID
	r.subID++
	r.subs[id] = s
	return func() {
		r.submu.Lock()
		defer r.submu.Unlock()
		delete(r.subs, id)
	}
}

func (r *Registry) publish(c changes) {
	r.tell(c.changed, false)
	r.tell(c.revoked, true)
}

func (r *Registry) tell(ids []vitals.DeviceID, revoked bool) {
	if len(ids) == 0 {
		return
	}
	r.submu.Lock()
	subs := make([]subscriber, 0, len(r.subs))
	for _, s := range r.subs {
		subs = append(subs, s)
	}
	r.submu.Unlock()
	for _, s := range subs {
		if s.revoked != revoked {
			continue
		}
		for _, id := range ids {
			s.f(id)
		}
	}
}

// New says what device to add.
type New struct {
	ID                vitals.DeviceID
	Model, Serial, TZ string
	// Patient is bound at once when not ""; Slot and From are as in Bind.
	Patient vitals.PatientID
	Slot    uint8
	From    vitals.Micros
	// NoSecret adds a device that cannot log in at the front door with closed registration: it uploads through an
	// external broker, which knows it, or gets its secret by Rotate.
	NoSecret bool
}

// Add makes a device and returns its secret, which is shown once and kept only as a hash; "" with NoSecret.
func (r *Registry) Add(ctx context.Context, n New) (h *Handle, text string, err error) {
	d := Device{ID: n.ID, Model: n.Model, Serial: n.Serial, TZ: n.TZ}
	if err := d.validate(); err != nil {
		return nil, "", err
	}
	if n.Patient != "" {
		if err := r.needPatient(ctx, n.Patient); err != nil {
			return nil, "", err
		}
	}
	var hash string
	if !n.NoSecret {
		text, hash = newSecret()
	}
	err = r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		made, err := insertDevice(ctx, tx, &d, now, rev)
		if err != nil {
			return fmt.Errorf("add device %s: %w", n.ID, err)
		}
		if !made {
			return fmt.Errorf("%w: %s", ErrExists, n.ID)
		}
		if hash != "" {
			if err := insertSecret(ctx, tx, n.ID, hash, now); err != nil {
				return fmt.Errorf("add device %s: %w", n.ID, err)
			}
		}
		if n.Patient == "" {
			return nil
		}
		return bind(ctx, tx, n.ID, Binding{Patient: n.Patient, UserSlot: n.Slot, From: n.From}, now)
	})
	if err != nil {
		return nil, "", err
	}
	return r.Find(n.ID), text, nil
}

// Bind makes slot (0: any) of a device measure for a patient from an instant on, and ends what the slot was bound to
// before. From 0 means: as far back as the device remembers when nobody else can have used the slot before, else now.
// A From before the start of an existing binding of the slot is an ErrConflict: who owned readings in the past is not
// changed.
func (r *Registry) Bind(ctx context.Context, id vitals.DeviceID, slot uint8, patient vitals.PatientID, from vitals.Micros) error {
	if err := r.needPatient(ctx, patient); err != nil {
		return err
	}
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		return bind(ctx, tx, id, Binding{Patient: patient, UserSlot: slot, From: from}, now)
	})
}

// Unbind ends the open binding of a slot at an instant, 0 for now: readings taken later belong to nobody and are
// quarantined.
func (r *Registry) Unbind(ctx context.Context, id vitals.DeviceID, slot uint8, at vitals.Micros) error {
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		return unbind(ctx, tx, id, slot, cmp.Or(at, now))
	})
}

// SetDisabled cuts a device off or lets it in again.
func (r *Registry) SetDisabled(ctx context.Context, id vitals.DeviceID, disabled bool) error {
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		var at vitals.Micros
		if disabled {
			at = now
		}
		_, err := tx.ExecContext(ctx, `UPDATE devices SET disabled_at = $2 WHERE id = $1`, id, at)
		return err
	})
}

// Change says what of a device's record changes; nil leaves it as it is.
type Change struct{ Model, Serial, TZ *string }

// Set changes a device's record.
func (r *Registry) Set(ctx context.Context, id vitals.DeviceID, c Change) error {
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, _ vitals.Micros) error {
		d := Device{ID: id}
		if err := tx.QueryRowContext(ctx, `SELECT model, serial, tz FROM devices WHERE id = $1`, id).Scan(&d.Model, &d.Serial, &d.TZ); err != nil {
			return fmt.Errorf("read device %s: %w", id, err)
		}
		for _, f := range []struct{ to, from *string }{{&d.Model, c.Model}, {&d.Serial, c.Serial}, {&d.TZ, c.TZ}} {
			if f.from != nil {
				*f.to = *f.from
			}
		}
		if err := d.validate(); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE devices SET model = $2, serial = $3, tz = $4 WHERE id = $1`, id, d.Model, d.Serial, d.TZ)
		return err
	})
}

func (r *Registry) needPatient(ctx context.Context, id vitals.PatientID) error {
	if _, ok := r.people.Find(id); ok {
		return nil
	}
	// Perhaps another process has just added the person.
	if _, err := r.people.Refresh(ctx); err != nil {
		return err
	}
	if _, ok := r.people.Find(id); ok {
		return nil
	}
	return fmt.Errorf("%w: %s; add it with: vitalwatch patient add ID", care.ErrNotFound, id)
}

// Applied is the revision up to which all changes are in memory. It does not wait for a writer, as Refresh does.
func (r *Registry) Applied() int64 { return r.applied.Load() }

// Refresh takes in what other processes committed; it returns how many devices changed. Call care's Refresh first, and
// both when sqlite.DB.ChangedByOthers differs.
func (r *Registry) Refresh(ctx context.Context) (int, error) {
	r.wmu.Lock()
	var d delta
	err := r.db.Snapshot(ctx, func(tx *sql.Tx) (err error) {
		d, err = r.readSince(ctx, tx)
		return err
	})
	if err != nil {
		r.wmu.Unlock()
		return 0, fmt.Errorf("read devices: %w", err)
	}
	c := r.apply(d)
	r.wmu.Unlock()
	r.publish(c)
	return len(c.changed), nil
}

// change writes about one known device and marks it changed.
func (r *Registry) change(ctx context.Context, id vitals.DeviceID, f func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error) error {
	return r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		res, err := tx.ExecContext(ctx, `UPDATE devices SET rev = $2 WHERE id = $1`, id, rev)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fmt.Errorf("%w: %s", ErrNotFound, id)
		}
		return f(ctx, tx, now)
	})
}

// write runs f in a transaction with a new revision number, and takes over what it, and anybody before it, changed.
// Reading back what was written keeps one way from the tables to memory.
func (r *Registry) write(ctx context.Context, f func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error) error {
	r.wmu.Lock()
	var d delta
	err := r.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var rev int64
		// Taking the number first also serialises writers on a database that has more than one.
		if err := tx.QueryRowContext(ctx, `UPDATE devices_revision SET rev = rev + 1 RETURNING rev`).Scan(&rev); err != nil {
			return fmt.Errorf("devices revision: %w", err)
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
	c := r.apply(d)
	r.wmu.Unlock()
	r.publish(c)
	return nil
}

// delta is what changed after a revision.
type delta struct {
	rev  int64
	rows []row // by id
}

type row struct {
	id       vitals.DeviceID
	record   *record
	bindings []Binding
	gateways []Assignment
}

// changes are what subscribers hear of.
type changes struct{ changed, revoked []vitals.DeviceID }

// apply makes a delta visible. wmu is held.
func (r *Registry) apply(d delta) (c changes) {
	var added []*Handle
	now := vitals.At(r.Now())
	for i := range d.rows {
		row := &d.rows[i]
		// The same text as the person's record, to hold it once.
		for k := range row.bindings {
			if p, ok := r.people.Find(row.bindings[k].Patient); ok {
				row.bindings[k].Patient = p.ID
			}
		}
		h := r.Find(row.id)
		if h == nil {
			h = &Handle{id: row.id, people: r.people}
			added = append(added, h)
		}
		h.bindings.Store(&row.bindings)
		r.count(h.Gateways(), -1)
		if row.gateways != nil || h.Gateways() != nil {
			h.needRare().gateways.Store(&row.gateways)
		}
		if c := row.record.credentials; c != &noCredentials {
			c.at = now
		}
		if old := h.record.Swap(row.record); old != nil && old.ended(row.record, r.revoked.last, now) {
			c.revoked = append(c.revoked, row.id)
			r.revoked.again = append(r.revoked.again, revocation{row.id, now})
		}
		c.changed = append(c.changed, row.id)
	}
	for _, h := range added {
		r.handles.Put(h.id, h)
	}
	for i := range d.rows { // when all gateways are there
		r.count(d.rows[i].gateways, 1)
	}
	if len(added) > 0 {
		r.ordered.Store(merge(*r.ordered.Load(), added))
	}
	r.rev = d.rev
	r.applied.Store(d.rev)
	return c
}

// merge returns the union of two lists by id without common members.
func merge(a, b []*Handle) *[]*Handle {
	out := make([]*Handle, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].id < b[0].id {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	out = append(append(out, a...), b...)
	return &out
}
