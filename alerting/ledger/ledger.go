// Package ledger owns the truth about alerts: alerts, their transitions, retrospective findings, the outbox of what
// must leave the house because of them, and the cursor of the alert monitor. All that one decision changes is
// committed in one transaction, so a crash at any instant leaves either all of it or nothing. It decides nothing
// about readings, and it sends nothing: the courier of alerting/escalation empties the outbox.
//
// Concurrency: a Ledger is safe for concurrent use. Commits are serialised; subscribers are called after the commit,
// in the order of the sequence. Reads run beside the writer and see what is committed.
package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

//go:embed migrations/*.sql
var migrations embed.FS

// What callers branch on.
var (
	ErrNotFound            = errors.New("no such alert or delivery")
	ErrResolved            = errors.New("the alert is resolved already")
	ErrIdempotencyMismatch = errors.New("this idempotency key was used for another request; use a new key")
)

// idempotencyFor is how long a repeated key returns the stored outcome.
const idempotencyFor = 24 * vitals.Hour

// DefaultKeep is how many of the newest events can be resumed from, see Prune.
const DefaultKeep = 100_000

// Event is a committed transition with the alert as it was then.
type Event = alerting.Event

// Router says which hooks an event goes to and with what bytes: it sets Hook, Type and Body, the ledger the rest. It
// is called inside the transaction, so it must be fast and must not call the ledger.
type Router interface {
	Route(e *alerting.Event) []alerting.Delivery
}

// Options for Open. The zero value works: no hooks, the system's clock, no log.
type Options struct {
	Router   Router
	Now      func() time.Time
	NewEpoch func() string // [A-Za-z0-9_-]{1,32}; only asked when the database is new
	Log      zerolog.Logger
	// Keep is how many of the newest events Prune leaves resumable; 0: DefaultKeep.
	Keep int
}

// Ledger is the truth about alerts.
type Ledger struct {
	db       *sqlite.DB
	router   Router
	now      func() time.Time
	log      zerolog.Logger
	epoch    string
	keep     uint64
	seqNow   atomic.Uint64
	cursor   atomic.Uint64
	oldest   atomic.Uint64
	ignored  atomic.Uint64
	complain sync.Map // what was logged already, see ignore

	mu          sync.Mutex // commit and tell
	told        uint64     // last event subscribers were told
	subscribers []func([]Event)
}

// Open migrates the database and reads where the ledger stands.
func Open(ctx context.Context, db *sqlite.DB, o Options) (*Ledger, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewEpoch == nil {
		o.NewEpoch = randomEpoch
	}
	if o.Keep <= 0 {
		o.Keep = DefaultKeep
	}
	fsys, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	if err := db.Migrate(ctx, "ledger", fsys); err != nil {
		return nil, err
	}
	l := &Ledger{db: db, router: o.Router, now: o.Now, keep: uint64(o.Keep), log: o.Log.With().Str("component", "ledger").Logger()}
	err = db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT epoch FROM ledger_epoch`).Scan(&l.epoch)
		if errors.Is(err, sql.ErrNoRows) {
			l.epoch = o.NewEpoch()
			if len(l.epoch) > 32 || !vitals.ValidID(l.epoch) {
				return fmt.Errorf("epoch %q must match [A-Za-z0-9_-]{1,32}", l.epoch)
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO ledger_epoch (epoch) VALUES (?)`, l.epoch)
		}
		if err != nil {
			return err
		}
		return l.readCounters(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l.told = l.seqNow.Load()
	return l, nil
}

func randomEpoch() string {
	var b [8]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

func (l *Ledger) readCounters(ctx context.Context, tx *sql.Tx) error {
	for name, to := range map[string]*atomic.Uint64{"seq": &l.seqNow, "cursor": &l.cursor, "oldest": &l.oldest} {
		var v int64
		if err := tx.QueryRowContext(ctx, `SELECT value FROM ledger_counters WHERE name = ?`, name).Scan(&v); err != nil {
			return fmt.Errorf("read counter %s: %w", name, err)
		}
		to.Store(uint64(v))
	}
	return nil
}

// Epoch is random and made with the database; sequences are only comparable within it.
func (l *Ledger) Epoch() string { return l.epoch }

// Cursor is the committed cursor of the alert monitor.
func (l *Ledger) Cursor() uint64 { return l.cursor.Load() }

// Seq is the sequence of the last committed event, 0 when there is none.
func (l *Ledger) Seq() uint64 { return l.seqNow.Load() }

// Ignored counts transitions that were left out: for an unknown or resolved alert, or malformed.
func (l *Ledger) Ignored() uint64 { return l.ignored.Load() }

// Subscribe has f called with the events of every commit, after the commit and in the order of Seq. The call holds
// up the next commit: f must only queue, and must not call Commit. The events are shared; f must not change them.
func (l *Ledger) Subscribe(f func([]Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subscribers = append(l.subscribers, f)
}

// Batch is what one step decided.
type Batch struct {
	// Cursor is the monitor's: every reading up to it is evaluated. 0 leaves the committed one; it never goes back.
	Cursor      uint64
	Transitions []alerting.Transition
	Findings    []alerting.Finding
	// Idempotency makes an act of the API happen once; nil for none.
	Idempotency *Idempotency
	// Act says that people asked for this: an unknown alert is ErrNotFound, a resolved one ErrResolved, and nothing
	// is committed. Without it such transitions are skipped, because readings must go on.
	Act bool
}

// Idempotency is the identity of a request.
type Idempotency struct {
	Key, Principal string
	BodyHash       string // of method, path and body
}

// Commit makes a batch durable in one transaction and returns its events, in the order of the transitions that
// changed something. Committing the same batch again changes nothing and returns none. A batch with an idempotency
// key that was used within 24 hours returns the events of that time.
func (l *Ledger) Commit(ctx context.Context, b Batch) ([]Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var w *writing
	err := l.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		if w, err = l.begin(ctx, tx); err != nil {
			return err
		}
		return w.batch(ctx, &b)
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l.tell(ctx, w)
	if w.earlier != nil {
		return w.earlier, nil
	}
	return w.events, nil
}

// tell publishes what w committed. l.mu is held: only so does everybody see the events in order.
func (l *Ledger) tell(ctx context.Context, w *writing) {
	l.seqNow.Store(w.seq)
	l.cursor.Store(w.cursor)
	for _, n := range w.notes {
		l.complainOnce(n)
	}
	if first := w.seq - uint64(len(w.events)); l.told < first {
		// A commit before this one was durable although it was reported as failed: its events must not be missing.
		missed, err := l.missed(ctx, first)
		if err != nil {
			l.log.Error().Err(err).Msg("events of a commit of unknown outcome could not be read back; feed clients will see a gap, hooks hear of them after a restart")
		}
		l.publish(missed)
	}
	l.told = w.seq
	l.publish(w.events)
}

// missed reads back the events after the last one told, up to seq, with what of theirs is still to be sent.
func (l *Ledger) missed(ctx context.Context, seq uint64) ([]Event, error) {
	ctx = context.WithoutCancel(ctx) // it would not come again
	out, _, err := l.Since(ctx, l.told, int(seq-l.told))
	if err != nil {
		return nil, err
	}
	ds, err := deliveries(ctx, l.db.Reader(), deliveryColumns+` WHERE state = 'pending' AND seq > ? AND seq <= ? ORDER BY seq, hook`,
		int64(l.told), int64(seq))
	for i := range out {
		for len(ds) > 0 && ds[0].Seq <= out[i].Seq {
			if ds[0].Seq == out[i].Seq {
				out[i].Deliveries = append(out[i].Deliveries, ds[0])
			}
			ds = ds[1:]
		}
	}
	return out, err
}

func (l *Ledger) publish(events []Event) {
	if len(events) == 0 {
		return
	}
	for _, f := range l.subscribers {
		f(events)
	}
}

// note is a transition that was not applied; fault says that it is one of ours.
type note struct {
	reason, alert, rule, kind string
	fault                     bool
}

// complainOnce logs a note once per alert and kind, for at most a thousand of them: the counter goes on.
func (l *Ledger) complainOnce(n note) {
	if l.ignored.Add(1) > 1000 {
		return
	}
	if _, again := l.complain.LoadOrStore(n, true); !again {
		level := zerolog.WarnLevel
		if n.fault {
			level = zerolog.ErrorLevel
		}
		l.log.WithLevel(level).Str("alert_id", n.alert).Str("rule_id", n.rule).Str("transition", n.kind).Msg("transition ignored: " + n.reason)
	}
}

// writing is one transaction of the ledger.
type writing struct {
	l       *Ledger
	tx      *sql.Tx
	stmts   map[string]*sql.Stmt // of this transaction; prepared when first used, closed with it
	now     vitals.Micros
	seq     uint64
	cursor  uint64
	last    int64 // digest of the last batch
	events  []Event
	earlier []Event // of the same idempotency key, not nil when it was used
	notes   []note
}

func (l *Ledger) begin(ctx context.Context, tx *sql.Tx) (*writing, error) {
	w := &writing{l: l, tx: tx, stmts: map[string]*sql.Stmt{}, now: vitals.At(l.now())}
	rows, err := tx.QueryContext(ctx, `SELECT name, value FROM ledger_counters WHERE name IN ('seq', 'cursor', 'batch')`)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var v int64
		if err := rows.Scan(&name, &v); err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		switch name {
		case "seq":
			w.seq = uint64(v)
		case "cursor":
			w.cursor = uint64(v)
		case "batch":
			w.last = v
		}
	}
	return w, rows.Err()
}

func (w *writing) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := w.stmts[query]; s != nil {
		return s, nil
	}
	s, err := w.tx.PrepareContext(ctx, query)
	if err == nil {
		w.stmts[query] = s
	}
	return s, err
}

// exec returns how many rows changed.
func (w *writing) exec(ctx context.Context, query string, args ...any) (int64, error) {
	s, err := w.stmt(ctx, query)
	if err != nil {
		return 0, err
	}
	res, err := s.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (w *writing) batch(ctx context.Context, b *Batch) error {
	if b.Idempotency != nil {
		earlier, err := w.earlierEvents(ctx, b.Idempotency)
		if err != nil || earlier != nil {
			w.earlier = earlier
			return err
		}
	}
	if len(b.Transitions)+len(b.Findings) > 0 {
		// Whoever got an error from a commit that was durable all the same tells the batch again. Its transitions
		// are known one by one too, but what they meant depended on the state they met.
		sum := b.digest()
		if sum == w.last {
			return nil
		}
		if _, err := w.exec(ctx, setCounter, sum, "batch"); err != nil {
			return fmt.Errorf("remember the batch: %w", err)
		}
	}
	firstSeq := w.seq + 1
	for i := range b.Transitions {
		if err := w.transition(ctx, b.Transitions[i], b.Act, ""); err != nil {
			return err
		}
	}
	// Findings count readings: those of readings that are evaluated already must not be added again.
	if b.Cursor == 0 || b.Cursor > w.cursor {
		for i := range b.Findings {
			if err := w.finding(ctx, &b.Findings[i]); err != nil {
				return err
			}
		}
	}
	if b.Idempotency != nil {
		if err := w.remember(ctx, b.Idempotency, firstSeq); err != nil {
			return err
		}
	}
	if b.Cursor > w.cursor {
		w.cursor = b.Cursor
		if _, err := w.exec(ctx, setCounter, int64(w.cursor), "cursor"); err != nil {
			return fmt.Errorf("move the monitor's cursor: %w", err)
		}
	}
	return w.end(ctx)
}

const setCounter = `UPDATE ledger_counters SET value = ? WHERE name = ?`

func (w *writing) end(ctx context.Context) error {
	if len(w.events) == 0 {
		return nil
	}
	if _, err := w.exec(ctx, setCounter, int64(w.seq), "seq"); err != nil {
		return fmt.Errorf("move the sequence: %w", err)
	}
	return nil
}

// row is an alert with what its row says beside the body.
type row struct {
	alert     alerting.Alert
	highest   alerting.Severity
	openedSeq uint64
}

func (w *writing) find(ctx context.Context, query string, args ...any) (*row, error) {
	s, err := w.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	var r row
	var body string
	var opened int64
	err = s.QueryRowContext(ctx, args...).Scan(&body, &r.highest, &opened)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.openedSeq = uint64(opened)
	if err := decodeAlert(body, &r.alert); err != nil {
		return nil, fmt.Errorf("the stored alert is damaged: %w", err)
	}
	return &r, nil
}

// decodeAlert reads an alert as it is stored.
func decodeAlert(body string, a *alerting.Alert) error {
	if err := json.Unmarshal([]byte(body), a); err != nil {
		return err
	}
	a.Kind = a.Rule.Nature() // earlier releases did not write it
	return nil
}

const (
	alertByID   = `SELECT body, highest, opened_seq FROM ledger_alerts WHERE id = ?`
	alertByRule = `SELECT body, highest, opened_seq FROM ledger_alerts WHERE patient = ? AND rule = ? AND state <> 'resolved'`
)

// transition applies one transition, writes it with the alert after it and what it puts in the outbox.
func (w *writing) transition(ctx context.Context, t alerting.Transition, act bool, acceptedBy string) error {
	if t.AlertID == "" {
		return w.malformed("it has no alert id", t, act)
	}
	r, err := w.find(ctx, alertByID, t.AlertID)
	if err != nil {
		return fmt.Errorf("read alert %s: %w", t.AlertID, err)
	}
	if r != nil && t.Kind == alerting.Opened {
		return nil // replayed
	}
	if r == nil && t.Patient != "" {
		// The alert's identity is (patient, rule): if that is open under another id, the decision is about it.
		if r, err = w.find(ctx, alertByRule, string(t.Patient), string(t.Rule)); err != nil {
			return fmt.Errorf("read open alert of rule %q: %w", t.Rule, err)
		}
		if r != nil {
			w.ignore("the rule is open under another id, which it was applied to", t)
			t.AlertID = r.alert.ID
			if t.Kind == alerting.Opened {
				if t.Severity <= r.alert.Severity {
					return nil
				}
				t.Kind = alerting.Worsened
			}
		}
	}
	opening := r == nil && t.Kind == alerting.Opened
	if opening {
		if t.Patient == "" || t.Rule == "" || t.Severity == alerting.None {
			return w.malformed("it lacks patient, rule or severity", t, act)
		}
		r = &row{openedSeq: w.seq + 1}
	}
	if r == nil {
		if act {
			return ErrNotFound
		}
		w.ignore("no such alert", t)
		return nil
	}
	once := digest(&t)
	if r.alert.State == alerting.Resolved && t.Kind != alerting.Noted {
		if act {
			return ErrResolved
		}
		return w.ignoreUnlessReplayed(ctx, t, once)
	}
	if !change(&r.alert, &t) && acceptedBy == "" {
		return nil
	}
	if acceptedBy != "" {
		r.alert.AcceptedBy = acceptedBy
	}
	r.highest = max(r.highest, r.alert.Severity)
	r.alert.Highest = r.highest
	r.alert.Seq = w.seq + 1
	t.Patient, t.Rule, t.Condition = r.alert.PatientID, r.alert.Rule, r.alert.Condition
	t.Severity, t.Title, t.Explanation = r.alert.Severity, nil, nil
	body, err := json.Marshal(&r.alert)
	if err != nil {
		return w.malformed("its alert cannot be written as JSON", t, act) // the error itself may hold values
	}
	return w.write(ctx, r, t, string(body), once, opening)
}

func (w *writing) ignore(reason string, t alerting.Transition) {
	w.notes = append(w.notes, note{reason: reason, alert: t.AlertID, rule: string(t.Rule), kind: string(t.Kind)})
}

// malformed deals with a decision that cannot stand. What people ask for is refused; of the monitor's it is left out
// and told as an error, because the batch would come again for ever and hold up everybody's alerts.
func (w *writing) malformed(reason string, t alerting.Transition, act bool) error {
	if act {
		return fmt.Errorf("transition %q of alert %q: %s", t.Kind, t.AlertID, reason)
	}
	w.notes = append(w.notes, note{reason: reason, alert: t.AlertID, rule: string(t.Rule), kind: string(t.Kind), fault: true})
	return nil
}

// ignoreUnlessReplayed notes a transition for a resolved alert, unless it stands in its history: then it is only
// told a second time.
func (w *writing) ignoreUnlessReplayed(ctx context.Context, t alerting.Transition, digest string) error {
	s, err := w.stmt(ctx, `SELECT count(*) FROM ledger_transitions WHERE alert_id = ? AND digest = ?`)
	if err != nil {
		return err
	}
	var n int
	if err := s.QueryRowContext(ctx, t.AlertID, digest).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		w.ignore("the alert is resolved", t)
	}
	return nil
}

// digest tells one batch from another.
func (b *Batch) digest() int64 {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", b.Cursor)
	for i := range b.Transitions {
		t := &b.Transitions[i]
		fmt.Fprintf(h, "%q %q %q %s\n", t.AlertID, t.Patient, t.Rule, digest(t))
	}
	for i := range b.Findings {
		f := &b.Findings[i]
		fmt.Fprintf(h, "%q %q %q %d %d %d %d %q\n", f.Patient, f.Rule, f.Day, f.Severity, f.First, f.Last, f.Readings, f.WorstID)
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

// digest tells one decision about an alert from another: two with the same digest are the same, told twice.
func digest(t *alerting.Transition) string {
	b := make([]byte, 0, 256)
	for _, n := range []int64{int64(t.Severity), int64(t.At), int64(t.Until)} {
		b = binary.AppendVarint(b, n)
	}
	reading := ""
	if t.Trigger != nil {
		reading = t.Trigger.ReadingID
	}
	for _, s := range []string{string(t.Kind), t.Actor, t.Note, t.Outcome, reading} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// write stores the alert after t (body is it as JSON), t itself and its deliveries. A transition that is there already
// changes nothing.
func (w *writing) write(ctx context.Context, r *row, t alerting.Transition, body, digest string, opening bool) error {
	a := &r.alert
	if opening {
		if _, err := w.exec(ctx, `INSERT INTO ledger_alerts (id, patient, rule, state, severity, highest, opened_seq, body)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, a.ID, string(a.PatientID), string(a.Rule), string(a.State), int64(a.Severity),
			int64(r.highest), int64(r.openedSeq), body); err != nil {
			return fmt.Errorf("open alert %s: %w", a.ID, err)
		}
	}
	reading := ""
	if t.Trigger != nil && t.Kind != alerting.Opened && t.Kind != alerting.Worsened { // theirs is the alert's own
		b, err := json.Marshal(t.Trigger)
		if err != nil {
			return fmt.Errorf("alert %s: %w", a.ID, err)
		}
		reading = string(b)
	}
	n, err := w.exec(ctx, `INSERT INTO ledger_transitions
		(seq, alert_id, kind, severity, highest, at, actor, note, outcome, until, received_at, reading, snapshot, digest)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (alert_id, digest) DO NOTHING`,
		int64(a.Seq), a.ID, string(t.Kind), int64(t.Severity), int64(r.highest), int64(t.At), t.Actor, t.Note, t.Outcome,
		int64(t.Until), int64(t.ReceivedAt), reading, body, digest)
	if err != nil {
		return fmt.Errorf("record %s of alert %s: %w", t.Kind, a.ID, err)
	}
	if n == 0 {
		return nil // replayed
	}
	if !opening {
		if _, err := w.exec(ctx, `UPDATE ledger_alerts SET state = ?, severity = ?, highest = ?, body = ? WHERE id = ?`,
			string(a.State), int64(a.Severity), int64(r.highest), body, a.ID); err != nil {
			return fmt.Errorf("change alert %s: %w", a.ID, err)
		}
	}
	w.seq++
	e := Event{Seq: w.seq, Transition: t, Alert: *a, Highest: r.highest}
	if w.l.router != nil {
		e.Deliveries = w.l.router.Route(&e)
		for i := range e.Deliveries {
			if err := w.outbox(ctx, &e, &e.Deliveries[i]); err != nil {
				return err
			}
		}
	}
	w.events = append(w.events, e)
	return nil
}

func (w *writing) outbox(ctx context.Context, e *Event, d *alerting.Delivery) error {
	// The hook stands in the id, because a receiver that serves two hooks must not take the second for a repeat.
	d.ID = "vw_" + w.l.epoch + "_" + strconv.FormatUint(e.Seq, 10) + "_" + strings.ReplaceAll(d.Hook, ".", "_")
	d.Seq, d.AlertID, d.Severity, d.State = e.Seq, e.Alert.ID, e.Alert.Severity, alerting.Pending
	d.Since, d.NextAt = w.now, w.now
	if _, err := w.exec(ctx, `INSERT INTO ledger_outbox
		(hook, seq, id, alert_id, type, severity, body, since, attempts, next_at, state, error, done_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, 'pending', '', 0)`, d.Hook, int64(d.Seq), d.ID, d.AlertID, d.Type,
		int64(d.Severity), string(d.Body), int64(d.Since), int64(d.NextAt)); err != nil {
		return fmt.Errorf("put event %d in the outbox of hook %q: %w", e.Seq, d.Hook, err)
	}
	return nil
}

// finding adds readings to the finding of its (patient, rule, day).
func (w *writing) finding(ctx context.Context, f *alerting.Finding) error {
	title, err := json.Marshal(f.Title)
	if err != nil {
		return fmt.Errorf("finding of rule %q: %w", f.Rule, err)
	}
	if _, err := w.exec(ctx, `INSERT INTO ledger_findings
		(patient, rule, day, condition, severity, title, first_at, last_at, readings, worst_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (patient, rule, day) DO UPDATE SET
			condition = excluded.condition, title = excluded.title,
			worst_id = CASE WHEN excluded.severity > ledger_findings.severity THEN excluded.worst_id ELSE ledger_findings.worst_id END,
			severity = CASE WHEN excluded.severity > ledger_findings.severity THEN excluded.severity ELSE ledger_findings.severity END,
			first_at = CASE WHEN excluded.first_at < ledger_findings.first_at THEN excluded.first_at ELSE ledger_findings.first_at END,
			last_at = CASE WHEN excluded.last_at > ledger_findings.last_at THEN excluded.last_at ELSE ledger_findings.last_at END,
			readings = ledger_findings.readings + excluded.readings`,
		string(f.Patient), string(f.Rule), f.Day, f.Condition, int64(f.Severity), string(title), int64(f.First), int64(f.Last),
		int64(f.Readings), f.WorstID); err != nil {
		return fmt.Errorf("record finding of rule %q: %w", f.Rule, err)
	}
	return nil
}

// earlierEvents returns what the same request did before, nil when it did not come before.
func (w *writing) earlierEvents(ctx context.Context, k *Idempotency) ([]Event, error) {
	events, found, err := replayed(ctx, w.tx, k, w.now)
	if err != nil || !found {
		return nil, err
	}
	if events == nil {
		events = []Event{} // the request came before and changed nothing
	}
	return events, nil
}

func (w *writing) remember(ctx context.Context, k *Idempotency, firstSeq uint64) error {
	if _, err := w.exec(ctx, `INSERT INTO ledger_idempotency (principal, key, body_hash, at, first_seq, last_seq) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (principal, key) DO UPDATE SET body_hash = excluded.body_hash, at = excluded.at,
			first_seq = excluded.first_seq, last_seq = excluded.last_seq`,
		k.Principal, k.Key, k.BodyHash, int64(w.now), int64(firstSeq), int64(w.seq)); err != nil {
		return fmt.Errorf("remember the idempotency key: %w", err)
	}
	return nil
}

// change applies t to a and reports whether it changed or told anything. The alert is not resolved, except for notes.
func change(a *alerting.Alert, t *alerting.Transition) bool {
	at := stamp(t.At)
	switch t.Kind {
	case alerting.Opened:
		*a = alerting.Alert{ID: t.AlertID, PatientID: t.Patient, Kind: t.Rule.Nature(), Rule: t.Rule, Condition: t.Condition, Severity: t.Severity,
			State: alerting.Open, Signal: "live", OpenedAt: at, Title: t.Title, Explanation: json.RawMessage(`{}`)}
		explain(a, t)
		trigger(a, t)
	case alerting.Worsened:
		severity(a, t)
		explain(a, t)
		trigger(a, t)
		// Whoever took over did so for less than this: somebody must look again. Who it was stays in the history.
		a.State, a.AcknowledgedBy, a.AcknowledgedAt, a.SnoozedUntil = alerting.Open, "", "", ""
	case alerting.Eased:
		// The reading that it eased by: the worst one beside the present severity would contradict it. That one stays in
		// the history, and Highest says how bad it was.
		severity(a, t)
		explain(a, t)
		trigger(a, t)
	case alerting.AcknowledgedBy:
		if a.State == alerting.Acknowledged && string(a.AcknowledgedBy) == t.Actor && t.Note == "" {
			return false // pressed twice
		}
		a.State, a.AcknowledgedBy, a.AcknowledgedAt = alerting.Acknowledged, alerting.OrNull(t.Actor), at
	case alerting.Snoozed:
		a.SnoozedUntil = alerting.OrNull(stamp(t.Until))
	case alerting.SignalLost:
		if a.Signal == "lost" {
			return false
		}
		// Silence breaks a snooze: it was granted to an alert that was being measured.
		a.Signal, a.SignalLostAt, a.SnoozedUntil = "lost", at, ""
	case alerting.SignalBack:
		if a.Signal == "live" {
			return false
		}
		a.Signal, a.SignalLostAt = "live", ""
	case alerting.ResolvedBy:
		explain(a, t)
		if t.Actor == "" {
			t.Actor = "values"
		}
		a.State, a.ResolvedAt, a.ResolvedBy, a.Outcome, a.SnoozedUntil = alerting.Resolved, alerting.OrNull(at), t.Actor, t.Outcome, ""
	}
	// Escalated and Noted tell something and leave the alert as it is.
	a.UpdatedAt = at
	return true
}

func severity(a *alerting.Alert, t *alerting.Transition) {
	if t.Severity != alerting.None {
		a.Severity = t.Severity
	}
	if len(t.Title) > 0 {
		a.Title = t.Title
	}
}

func explain(a *alerting.Alert, t *alerting.Transition) {
	if len(t.Explanation) > 0 {
		a.Explanation = t.Explanation
	}
}

func trigger(a *alerting.Alert, t *alerting.Transition) {
	if t.Trigger != nil {
		a.Trigger = *t.Trigger
	}
}

// stamp is a time as alerts carry it, "" for 0.
func stamp(m vitals.Micros) string {
	if m == 0 {
		return ""
	}
	return m.Time().Format("2006-01-02T15:04:05.000Z07:00")
}

// maxReceipt bounds, in bytes, what a receiver may call itself.
const maxReceipt = 200

// cleanReceipt makes a receiver's text fit to be shown: printable, at most maxReceipt bytes.
func cleanReceipt(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) > maxReceipt {
		s = s[:maxReceipt]
		for len(s) > 0 && !utf8.ValidString(s) { // cut within a character
			s = s[:len(s)-1]
		}
	}
	return s
}
