// Package sessions keeps in the state database what outlives a device's connection to the front door: sessions with
// their subscriptions, messages down to a device with what became of them, and the retained down/config. It owns these
// tables, not the protocol: ingest/mqttd says when a session begins and ends and what was acknowledged.
//
// Concurrency: a Store is safe for concurrent use. Whoever writes joins a group, and one goroutine at a time commits
// the groups, so that thousands of devices that come at once share transactions. Several processes may have the same
// database open, see Refresh; only one of them calls Recover.
package sessions

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options for Open; the zero value works.
type Options struct {
	Now func() time.Time
	// Warn is told of writes that failed and are tried again; nil: nobody.
	Warn func(err error)
}

// Store is the tables and the groups that wait to be written to them.
type Store struct {
	db   *sqlite.DB
	now  func() time.Time
	warn func(error)

	mu        sync.Mutex
	next      *group // collects; nil: empty
	running   bool
	closed    bool
	recovered bool
	idle      chan struct{} // closed when the writer has nothing left; nil: nobody waits
	owed      map[vitals.DeviceID]struct{}
	// configured devices have a row in mqtt_retained.
	configured map[vitals.DeviceID]configured
	subs       []func(vitals.DeviceID)
}

// group is what one round of transactions writes: sessions by device, of which only the last state counts, then
// operations in their order.
type group struct {
	sessions map[vitals.DeviceID]*Session // nil value: ended
	ops      []*op
	done     chan struct{}
}

type op struct {
	do    func(ctx context.Context, tx *sql.Tx) error
	keep  bool   // nobody waits for it, so it is tried again until it works
	after func() // called when it is durable; nil: nothing
	err   error
	done  chan struct{} // closed after err is set
}

// roundSize bounds one transaction: alerts wait for the same writer.
const roundSize = 500

// retryAfter is the pause after a failed write that nobody waits for.
const retryAfter = time.Second

// Open migrates the tables.
func Open(ctx context.Context, db *sqlite.DB, o Options) (*Store, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, "mqtt", files); err != nil {
		return nil, err
	}
	s := &Store{db: db, now: o.Now, warn: o.Warn, owed: map[vitals.DeviceID]struct{}{}, configured: map[vitals.DeviceID]configured{}}
	if s.now == nil {
		s.now = time.Now
	}
	if s.warn == nil {
		s.warn = func(error) {}
	}
	if _, err := s.Refresh(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// errClosed is what writers get after Close.
var errClosed = errors.New("the store of sessions is closed")

func (s *Store) group() *group {
	if s.next == nil {
		s.next = &group{sessions: map[vitals.DeviceID]*Session{}, done: make(chan struct{})}
	}
	if !s.running {
		s.running = true
		go s.writeAll() // lives as long as there is something to write; Close waits for it
	}
	return s.next
}

// write runs do in a shared transaction and waits until that is durable. do may run again when another's part fails, so
// it must set its results anew each time.
func (s *Store) write(ctx context.Context, do func(ctx context.Context, tx *sql.Tx) error) error {
	o := &op{do: do, done: make(chan struct{})}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	g := s.group()
	g.ops = append(g.ops, o)
	s.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done(): // it may still be written
		return ctx.Err()
	}
}

// later runs do in a shared transaction some time, and after, if not nil, when that is durable; a crash before forgets it.
func (s *Store) later(do func(ctx context.Context, tx *sql.Tx) error, after func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		g := s.group()
		g.ops = append(g.ops, &op{do: do, keep: true, after: after, done: make(chan struct{})})
	}
}

func (s *Store) writeAll() {
	ctx := context.Background()
	for {
		s.mu.Lock()
		g := s.next
		s.next = nil
		if g == nil {
			s.running = false
			if s.idle != nil {
				close(s.idle)
				s.idle = nil
			}
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if err := s.writeSessions(ctx, g); err != nil {
			s.again(g, err)
			continue
		}
		close(g.done)
		s.writeOps(ctx, g.ops)
	}
}

func (s *Store) writeSessions(ctx context.Context, g *group) error {
	for len(g.sessions) > 0 {
		var did []vitals.DeviceID
		err := s.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			did = did[:0]
			for id, se := range g.sessions {
				var err error
				if se == nil {
					_, err = tx.ExecContext(ctx, `DELETE FROM mqtt_sessions WHERE device_id = ?`, string(id))
				} else {
					err = putSession(ctx, tx, id, se)
				}
				if err != nil {
					return err
				}
				if did = append(did, id); len(did) == roundSize {
					break
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range did {
			delete(g.sessions, id)
		}
	}
	return nil
}

// again puts what could not be written in front of what came meanwhile. Those who wait go on waiting, or give up.
func (s *Store) again(g *group, err error) {
	s.warn(err)
	s.mu.Lock()
	closed := s.closed
	if n := s.next; n != nil {
		for id, se := range n.sessions {
			g.sessions[id] = se
		}
		g.ops = append(g.ops, n.ops...)
		done, also := g.done, n.done
		go func() { <-done; close(also) }()
	}
	s.next = g
	if closed { // the last try was this one
		s.next = nil
		close(g.done)
	}
	s.mu.Unlock()
	if closed {
		for _, o := range g.ops {
			o.err = err
			close(o.done)
		}
		return
	}
	time.Sleep(retryAfter)
}

// writeOps runs operations in shared transactions. When one of them fails its group is taken apart, so that it fails
// alone.
func (s *Store) writeOps(ctx context.Context, ops []*op) {
	for len(ops) > 0 {
		n := min(len(ops), roundSize)
		round := ops[:n]
		ops = ops[n:]
		err := s.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			for _, o := range round {
				if err := o.do(ctx, tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && len(round) > 1 {
			for _, o := range round {
				s.writeOps(ctx, []*op{o})
			}
			continue
		}
		for _, o := range round {
			if err != nil && o.keep {
				s.warn(err)
				if time.Sleep(retryAfter); s.retry(o) {
					continue
				}
			}
			if o.err = err; err == nil && o.after != nil {
				o.after()
			}
			close(o.done)
		}
	}
}

func (s *Store) retry(o *op) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	g := s.group()
	g.ops = append(g.ops, o)
	return true
}

// Close waits until what was given is written. Nothing is written afterwards.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var idle chan struct{}
	if s.running {
		idle = make(chan struct{})
		s.idle = idle
	}
	s.mu.Unlock()
	if idle != nil {
		<-idle
	}
	if !s.recovered {
		return nil
	}
	return s.setClean(context.Background(), true)
}

func (s *Store) setClean(ctx context.Context, clean bool) error {
	v := 0
	if clean {
		v = 1
	}
	return s.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE mqtt_server SET clean = ?`, v)
		return err
	})
}

// Subscribe calls f with the device of each message or retained topic that is new, after it is durable. f must not
// block.
func (s *Store) Subscribe(f func(vitals.DeviceID)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(s.subs, f)
}

func (s *Store) tell(device vitals.DeviceID) {
	s.mu.Lock()
	s.owed[device] = struct{}{}
	subs := s.subs
	s.mu.Unlock()
	for _, f := range subs {
		f(device)
	}
}

// Owed reports whether something may wait for the device, and forgets it: the caller looks, and says Owe when
// something is left. Between the two, what is new is not missed.
func (s *Store) Owed(device vitals.DeviceID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.owed[device]
	delete(s.owed, device)
	return ok
}

// IsOwed is Owed without forgetting.
func (s *Store) IsOwed(device vitals.DeviceID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.owed[device]
	return ok
}

// Owe notes that something is left for a device.
func (s *Store) Owe(device vitals.DeviceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed[device] = struct{}{}
}

// Refresh takes in what other processes have committed, as the command line does beside a server, and tells
// subscribers. It returns how many devices something waits for.
func (s *Store) Refresh(ctx context.Context) (int, error) {
	if err := s.readConfigured(ctx); err != nil {
		return 0, fmt.Errorf("read configurations: %w", err)
	}
	ids, err := s.devices(ctx, `SELECT DISTINCT device_id FROM mqtt_messages WHERE state = 'waiting'
		UNION SELECT device_id FROM mqtt_retained WHERE delivered < rev`)
	if err != nil {
		return 0, fmt.Errorf("read messages that wait: %w", err)
	}
	for _, id := range ids {
		s.tell(id)
	}
	return len(ids), nil
}

func (s *Store) devices(ctx context.Context, query string) (ids []vitals.DeviceID, err error) {
	rows, err := s.db.Reader().QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Err(), rows.Close()) }()
	for rows.Next() {
		var id vitals.DeviceID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
