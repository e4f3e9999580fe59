package devices

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"vitalwatch/vitals"
)

// Assignment says that a gateway may speak for a device, for a period.
type Assignment struct {
	Gateway  vitals.DeviceID
	From, To vitals.Micros // inclusive, exclusive; To 0: open
}

// Bounds of gateways: how many may speak for one device at once, and how many devices that nobody knows yet one may
// bring before somebody has registered or refused them.
const (
	maxGateways  = 16
	maxStrangers = 64
)

// Assign lets a gateway speak for a device from now on.
func (r *Registry) Assign(ctx context.Context, gateway, device vitals.DeviceID) error {
	if gateway == device {
		return fmt.Errorf("%w: a device speaks for itself without being assigned", ErrInvalid)
	}
	return r.change(ctx, device, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		var known, already, others int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM devices WHERE id = $1`, gateway).Scan(&known); err != nil {
			return fmt.Errorf("assign device %s: %w", device, err)
		}
		if known == 0 {
			return fmt.Errorf("%w: %s", ErrNotFound, gateway)
		}
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE gateway_id = $2), count(*) FROM device_gateways
			WHERE device_id = $1 AND valid_to = 0`, device, gateway).Scan(&already, &others); err != nil {
			return fmt.Errorf("assign device %s: %w", device, err)
		}
		switch {
		case already > 0:
			return nil
		case others >= maxGateways:
			return fmt.Errorf("%w: %d gateways speak for device %s already; take one away first", ErrConflict, maxGateways, device)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO device_gateways (device_id, gateway_id, valid_from) VALUES ($1, $2, $3)
			ON CONFLICT (device_id, gateway_id, valid_from) DO UPDATE SET valid_to = 0`, device, gateway, now); err != nil {
			return fmt.Errorf("assign device %s: %w", device, err)
		}
		return nil
	})
}

// Unassign ends that a gateway speaks for a device.
func (r *Registry) Unassign(ctx context.Context, gateway, device vitals.DeviceID) error {
	return r.change(ctx, device, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		res, err := tx.ExecContext(ctx, `UPDATE device_gateways SET valid_to = $3 WHERE device_id = $1 AND gateway_id = $2 AND valid_to = 0`, device, gateway, now)
		if err != nil {
			return fmt.Errorf("unassign device %s: %w", device, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return fmt.Errorf("%w: gateway %s does not speak for device %s", ErrConflict, gateway, device)
		}
		return nil
	})
}

// Gateways returns the assignments of the device, past ones too, newest first; read only.
func (h *Handle) Gateways() []Assignment {
	if x := h.rare.Load(); x != nil {
		if p := x.gateways.Load(); p != nil {
			return *p
		}
	}
	return nil
}

// SpeaksFor is how many devices it, as a gateway, is assigned now.
func (h *Handle) SpeaksFor() int {
	if x := h.rare.Load(); x != nil {
		return int(x.speaksFor.Load())
	}
	return 0
}

// MaySpeakFor reports whether what a gateway publishes for a device is taken as the device's. The hot path: no lock, no
// allocation for devices that are known. One that nobody knows may be brought by a gateway that has at least one device
// assigned: its readings wait in quarantine until somebody says whose they are.
func (r *Registry) MaySpeakFor(gateway, device vitals.DeviceID) bool {
	if gateway == device {
		return true
	}
	h := r.Find(device)
	if h == nil {
		return r.OpenRegistration || vitals.ValidID(string(device)) && r.mayBring(gateway, device)
	}
	all := h.Gateways()
	for i := range all {
		if a := &all[i]; a.Gateway == gateway && a.To == 0 {
			return true
		}
	}
	return r.OpenRegistration && !h.record.Load().any(vitals.At(r.Now()))
}

// strangers are devices that gateways brought and nobody knows. A gateway that makes ids up must not push the messages
// of others out of quarantine, so each may bring a few.
type strangers struct {
	mu sync.Mutex
	by map[vitals.DeviceID]map[vitals.DeviceID]struct{}
}

func (r *Registry) mayBring(gateway, device vitals.DeviceID) bool {
	s := &r.strange
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.by[gateway][device]; ok {
		return true
	}
	if g := r.Find(gateway); g == nil || g.rare.Load() == nil || g.rare.Load().speaksFor.Load() == 0 {
		return false
	}
	known := s.by[gateway]
	if len(known) >= maxStrangers {
		for id := range known { // those that were registered since make room
			if r.Find(id) != nil {
				delete(known, id)
			}
		}
		if len(known) >= maxStrangers {
			return false
		}
	}
	if known == nil {
		known = map[vitals.DeviceID]struct{}{}
		if s.by == nil {
			s.by = map[vitals.DeviceID]map[vitals.DeviceID]struct{}{}
		}
		s.by[gateway] = known
	}
	known[device] = struct{}{}
	return true
}

// count keeps, at each gateway, how many devices it speaks for. wmu is held.
func (r *Registry) count(assignments []Assignment, by int32) {
	for _, a := range assignments {
		if g := r.Find(a.Gateway); g != nil && a.To == 0 {
			g.needRare().speaksFor.Add(by)
		}
	}
}
