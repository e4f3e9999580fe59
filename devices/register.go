package devices

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"sync"

	"vitalwatch/care"
	"vitalwatch/vitals"
)

// registerGroup bounds one transaction of open registration: large enough that the sync of the disk does not count,
// small enough that alerts do not wait long for the writer.
const registerGroup = 500

// joins groups the registrations that wait for one transaction.
type joins struct {
	mu      sync.Mutex
	calls   map[vitals.DeviceID]*join // waiting and in work
	waiting []*join
	running bool
}

type join struct {
	id         vitals.DeviceID
	conditions []string
	done       chan struct{} // closed after err is set
	err        error
}

// OpenPatient is the patient of a device that came by open registration: P-D for device D. Where that would be too long,
// for ids of 63 and 64, it is P_, the first 45 characters, a dash and 16 hex digits of the id's SHA-256; the underscore
// keeps it apart from the patient of any shorter device id.
func OpenPatient(d vitals.DeviceID) vitals.PatientID {
	if p := "P-" + string(d); len(p) <= vitals.MaxIDLen {
		return vitals.PatientID(p)
	}
	sum := sha256.Sum256([]byte(d))
	return vitals.PatientID("P_" + string(d[:45]) + "-" + hex.EncodeToString(sum[:8]))
}

// Register makes, with open registration, an unknown device and its patient, bound for as far back as the device
// remembers; they are durable when it returns. A known device is returned as it is. Any number of callers may register
// at once, also the same id: they share transactions. When ctx ends the caller stops waiting; the registration may
// still be made.
func (r *Registry) Register(ctx context.Context, id vitals.DeviceID, conditions []string) (*Handle, error) {
	if h := r.Find(id); h != nil {
		return h, nil
	}
	if !vitals.ValidID(string(id)) {
		return nil, fmt.Errorf("%w: the id must be 1 to %d of A-Z a-z 0-9 _ -", ErrInvalid, vitals.MaxIDLen)
	}
	j := r.enqueue(id, conditions)
	select {
	case <-j.done:
		if j.err != nil {
			return nil, fmt.Errorf("register device %s: %w", id, j.err)
		}
		return r.Find(id), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("register device %s: %w", id, ctx.Err())
	}
}

func (r *Registry) enqueue(id vitals.DeviceID, conditions []string) *join {
	js := &r.joins
	js.mu.Lock()
	defer js.mu.Unlock()
	if j := js.calls[id]; j != nil {
		return j
	}
	j := &join{id: id, conditions: conditions, done: make(chan struct{})}
	if r.Find(id) != nil { // It was made between the caller's look and the lock.
		close(j.done)
		return j
	}
	js.calls[id] = j
	js.waiting = append(js.waiting, j)
	if !js.running {
		js.running = true
		// It lives as long as somebody waits; its errors go to those who wait.
		go r.registerAll()
	}
	return j
}

func (r *Registry) registerAll() {
	js := &r.joins
	for {
		js.mu.Lock()
		if len(js.waiting) == 0 {
			js.running = false
			// A burst of newcomers must not be paid for ever.
			js.waiting, js.calls = nil, map[vitals.DeviceID]*join{}
			js.mu.Unlock()
			return
		}
		n := min(len(js.waiting), registerGroup)
		group := js.waiting[:n:n]
		js.waiting = js.waiting[n:]
		js.mu.Unlock()

		err := r.registerGroup(group)

		js.mu.Lock()
		for _, j := range group {
			j.err = err
			delete(js.calls, j.id)
			close(j.done)
		}
		js.mu.Unlock()
	}
}

// registerGroup makes patients, then devices and bindings. Two transactions: a crash between them leaves patients
// without device, which the next connection of the device completes.
func (r *Registry) registerGroup(group []*join) error {
	// Not a caller's context: those who wait are many.
	ctx := context.Background()
	patients := make([]care.Patient, len(group))
	for i, j := range group {
		patients[i] = care.Patient{ID: OpenPatient(j.id), Conditions: j.conditions}
	}
	if _, err := r.people.AddMany(ctx, patients); err != nil {
		return err
	}
	return r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		for i, j := range group {
			made, err := insertDevice(ctx, tx, &Device{ID: j.id}, now, rev)
			if err != nil {
				return err
			}
			if !made {
				continue // Another process was first; its device comes into memory with this transaction.
			}
			if err := insertBinding(ctx, tx, j.id, Binding{Patient: patients[i].ID}, now); err != nil {
				return err
			}
		}
		return nil
	})
}
