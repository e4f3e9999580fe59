// Package devices owns who sends: Device, its credentials and status, which gateway speaks for it, the binding of a
// device (and user slot) to a patient for a period, and their tables. It owns no payload format (devices/payload), no
// connection (ingest/mqttd) and no key that signs certificates (devices/authority).
//
// Concurrency: a Registry is a snapshot in memory of what is committed. Find, Resolve, Location, Seen, MaySpeakFor and
// Authenticate may be called by any number of goroutines and wait for nobody. Writers are serialised; what they change is durable
// when they return, and only then visible. A *Handle stays the same for the life of the process: keep it with the
// connection.
package devices

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"vitalwatch/care"
	"vitalwatch/vitals"
)

// Device is a copy of what is known of one device.
type Device struct {
	ID        vitals.DeviceID
	Model     string
	Serial    string
	TZ        string // IANA zone of its local clock, "" when not said
	CreatedAt vitals.Micros
	Disabled  bool
	HasSecret bool // at least one secret is not ended
	// HasCertificate: at least one certificate of our own authority is not ended.
	HasCertificate bool
	Status         Status
	LastSeen       vitals.Micros // 0: never
	Failure        Failure
}

// Status is what a device said of itself last (contract section 3, up/status).
type Status struct {
	State    string // "online", "sleeping", "lost"; "" when it never said
	At       vitals.Micros
	Battery  int8 // percent, -1 when not said
	Firmware string
}

// Binding says for whom a device's user slot measures, for a period.
type Binding struct {
	Patient  vitals.PatientID
	UserSlot uint8         // 0: any slot that has no binding of its own
	From     vitals.Micros // inclusive; 0: as far back as the device remembers
	To       vitals.Micros // exclusive; 0: open
}

// Covers reports whether a reading taken at an instant falls into the period.
func (b *Binding) Covers(at vitals.Micros) bool {
	return (b.From == 0 || b.From <= at) && (b.To == 0 || at < b.To)
}

// What callers branch on.
var (
	ErrNotFound = errors.New("no such device")
	ErrExists   = errors.New("device exists already")
	ErrInvalid  = errors.New("invalid device")
	// ErrBadCredentials: unknown device, no or wrong secret; nobody learns which.
	ErrBadCredentials = errors.New("bad credentials")
	// ErrNotAuthorized: the secret is right, but the device is disabled or connects under another id.
	ErrNotAuthorized = errors.New("not authorized")
	// ErrStatusInvalid: a payload on up/status that is none.
	ErrStatusInvalid = errors.New("invalid status")
	// ErrConflict: a binding that would change whose readings are whose in the past.
	ErrConflict = errors.New("binding conflict")
	// ErrBadCode: a claim code that is unknown, used or over; nobody learns which.
	ErrBadCode = errors.New("the claim code is not valid: ask for a new one")
)

// Handle is one device on the hot path.
type Handle struct {
	id       vitals.DeviceID
	people   *care.Registry
	record   atomic.Pointer[record]
	bindings atomic.Pointer[[]Binding] // by slot descending, then From descending; a published slice never changes
	status   atomic.Pointer[Status]    // nil: never said
	lastSeen atomic.Int64
	rare     atomic.Pointer[rare] // nil: all of it is zero

	// Guarded by Registry.flushMu: what of status and lastSeen is in the tables.
	savedStatus *Status
	savedSeen   vitals.Micros
}

// record is the part of a device that administration changes; a published one never changes.
type record struct {
	model, serial, tz string
	createdAt         vitals.Micros
	disabled          bool
	loc               *time.Location
	*credentials
}

// rare is what only devices have that connect, say how they are, or have to do with gateways: with open registration most
// do not.
type rare struct {
	gateways  atomic.Pointer[[]Assignment]
	login     atomic.Pointer[login] // the last good one
	speaksFor atomic.Int32          // how many devices it, as a gateway, is assigned
	history   history
	clock     clock
	failure   atomic.Pointer[Failure]

	savedFailure *Failure // what of failure is in the table; guarded by Registry.flushMu
}

func (h *Handle) needRare() *rare {
	if x := h.rare.Load(); x != nil {
		return x
	}
	h.rare.CompareAndSwap(nil, new(rare))
	return h.rare.Load()
}

// ID returns the device id.
func (h *Handle) ID() vitals.DeviceID { return h.id }

// Disabled reports whether an administrator has cut the device off.
func (h *Handle) Disabled() bool { return h.record.Load().disabled }

// Resolve returns whose reading it is that a device took at an instant in a user slot (0: the device said none, 255: it
// said unknown). The slot's own binding wins over one for any slot. The hot path: no lock, no allocation.
func (h *Handle) Resolve(slot uint8, takenAt vitals.Micros) (vitals.PatientID, bool) {
	bs := *h.bindings.Load()
	// Slots with a binding of their own come first, "any" last, so the first match is the right one.
	for i := range bs {
		b := &bs[i]
		if (b.UserSlot == 0 || b.UserSlot == slot) && b.Covers(takenAt) {
			return b.Patient, true
		}
	}
	return "", false
}

// Location is the zone of the device's local clock: its own, else that of the person it measures for in any slot now;
// nil when neither is known, and then a local time without zone cannot be used.
func (h *Handle) Location() *time.Location {
	if loc := h.record.Load().loc; loc != nil {
		return loc
	}
	bs := *h.bindings.Load()
	for i := range bs {
		if bs[i].UserSlot == 0 && bs[i].To == 0 {
			if p, ok := h.people.Find(bs[i].Patient); ok {
				return p.Location()
			}
		}
	}
	return nil
}

// Bindings returns all bindings, past ones too; read only.
func (h *Handle) Bindings() []Binding { return *h.bindings.Load() }

// Seen notes that the device was heard of. It is cheap, and is written to the tables now and then.
func (h *Handle) Seen(at vitals.Micros) {
	// A second is exact enough, and saves writing a shared cache line for every message of a burst.
	if old := h.lastSeen.Load(); int64(at) >= old+int64(vitals.Second) {
		h.lastSeen.CompareAndSwap(old, int64(at))
	}
}

// Status returns what the device said of itself last.
func (h *Handle) Status() Status {
	if s := h.status.Load(); s != nil {
		return *s
	}
	return Status{Battery: -1}
}

// Device returns a copy of all that is known of it.
func (h *Handle) Device() Device {
	r := h.record.Load()
	return Device{ID: h.id, Model: r.model, Serial: r.serial, TZ: r.tz, CreatedAt: r.createdAt, Disabled: r.disabled,
		HasSecret: len(r.secrets) > 0, HasCertificate: slices.ContainsFunc(r.certs, func(c certificate) bool { return c.own && c.endedAt == 0 }),
		Status: h.Status(), LastSeen: vitals.Micros(h.lastSeen.Load()), Failure: h.LastFailure()}
}

// Bounds of what a device's record may hold, in bytes.
const maxText = 100

func (d *Device) validate() error {
	if !vitals.ValidID(string(d.ID)) {
		return fmt.Errorf("%w: the id must be 1 to %d of A-Z a-z 0-9 _ -", ErrInvalid, vitals.MaxIDLen)
	}
	if !plain(d.Model, maxText) || !plain(d.Serial, maxText) {
		return fmt.Errorf("%w: model and serial of %s must be at most %d bytes without control characters", ErrInvalid, d.ID, maxText)
	}
	if d.TZ != "" && !care.ValidZone(d.TZ) {
		return fmt.Errorf("%w: the zone of %s must be an IANA name such as Asia/Shanghai", ErrInvalid, d.ID)
	}
	return nil
}

func plain(s string, limit int) bool {
	return len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
