package influx

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"vitalwatch/vitals"
)

// Defaults of WriterOptions.
const (
	DefaultLines  = 8192
	DefaultLinger = 250 * time.Millisecond
	retryFirst    = 200 * time.Millisecond
	retryMost     = 10 * time.Second
	holdFor       = 15 * time.Second
	askedMost     = 5 * time.Minute // of Retry-After
	saveEvery     = time.Second
	roomWait      = 2 * time.Second
)

// WriterOptions say how a Writer works; the zero value of each field means its default.
type WriterOptions struct {
	Lines  int           // readings of one batch
	Linger time.Duration // how long a reading may wait for others
	// Stored is told how many readings InfluxDB has confirmed.
	Stored func(n int)
	Now    func() time.Time
	// Pause waits between two attempts; tests replace it.
	Pause func(context.Context, time.Duration)
}

// Writer carries the journal to the store: while one batch is being confirmed the next one fills, so at most two are in
// memory, and the cursor moves in their order. It is an ingest sink. Run does the sending.
type Writer struct {
	s *Store
	o WriterOptions

	mu      sync.Mutex
	filling *batch
	sending *batch
	taken   uint64        // the cursor after filling
	room    chan struct{} // closed when filling was taken for sending
	kick    chan struct{} // cap 1: filling is full, or has lingered

	state atomic.Pointer[State]
	saved time.Time
}

// State is why nothing can be written at the moment.
type State struct {
	Since time.Time
	Err   error
	Held  bool // waiting does not mend it: an operator must act
}

// NewWriter returns a writer that goes on from the store's cursor.
func NewWriter(s *Store, o WriterOptions) *Writer {
	if o.Lines == 0 {
		o.Lines = DefaultLines
	}
	if o.Linger == 0 {
		o.Linger = DefaultLinger
	}
	if o.Stored == nil {
		o.Stored = func(int) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pause == nil {
		o.Pause = pause
	}
	return &Writer{s: s, o: o, filling: &batch{}, taken: s.Cursor(), room: make(chan struct{}), kick: make(chan struct{}, 1)}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Cursor is the sequence up to which InfluxDB has confirmed everything.
func (w *Writer) Cursor() uint64 { return w.s.Cursor() }

// Durable is the sequence that the saved cursor has reached.
func (w *Writer) Durable() uint64 { return w.s.Durable() }

// State returns why nothing can be written, nil while it works. It does not block.
func (w *Writer) State() *State { return w.state.Load() }

// Oldest is the receipt of the oldest reading that was handed over and is not confirmed, 0 when there is none.
func (w *Writer) Oldest() vitals.Micros {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.sending != nil:
		return w.sending.since
	case w.filling.count > 0:
		return w.filling.since
	}
	return 0
}

// errBusy: the block is to be handed over again.
var errBusy = errors.New("influxdb: it is slower than readings come in; they wait in the journal")

// Handle takes readings, in journal order, to be written soon: Cursor says when they are. They must not change any
// more. While there is no room it waits a moment, then says why; the block is then to be handed over again.
func (w *Writer) Handle(ctx context.Context, rs []vitals.Reading, last uint64) error {
	deadline := time.NewTimer(roomWait)
	defer deadline.Stop()
	for {
		w.mu.Lock()
		if last <= w.taken {
			w.mu.Unlock()
			return nil
		}
		if w.filling.count < w.o.Lines {
			if w.filling.last == 0 {
				time.AfterFunc(w.o.Linger, w.wake)
			}
			for len(rs) > 0 && rs[0].Seq <= w.taken {
				rs = rs[1:]
			}
			w.filling.add(rs, last)
			w.taken = last
			full := w.filling.count >= w.o.Lines
			w.mu.Unlock()
			if full {
				w.wake()
			}
			return nil
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			if st := w.State(); st != nil {
				return st.Err
			}
			return errBusy
		}
	}
}

func (w *Writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends; then it saves the cursor.
func (w *Writer) Run(ctx context.Context) error {
	spare := &batch{}
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		select {
		case <-w.kick:
		case <-save.C: // what was confirmed last is saved even if nothing follows
			w.save(ctx)
			continue
		case <-ctx.Done():
			return w.end()
		}
		w.mu.Lock()
		b := w.filling
		if b.last == 0 {
			w.mu.Unlock()
			continue
		}
		spare.reset()
		w.filling, w.sending = spare, b
		close(w.room)
		w.room = make(chan struct{})
		w.mu.Unlock()
		begin := w.o.Now()
		if !w.insist(ctx, b) {
			return w.end()
		}
		w.s.metrics.seconds.Observe(w.o.Now().Sub(begin).Seconds())
		w.o.Stored(b.count)
		w.s.advance(b.last)
		w.mu.Lock()
		w.sending, spare = nil, b
		w.mu.Unlock()
		if w.o.Now().Sub(w.saved) >= saveEvery {
			w.save(ctx)
		}
	}
}

// insist sends b until all of it is dealt with; false when ctx ended first.
func (w *Writer) insist(ctx context.Context, b *batch) bool {
	wait := retryFirst
	for {
		err := w.s.send(ctx, b)
		if err == nil {
			if st := w.state.Swap(nil); st != nil {
				w.s.o.Logger.Info().Float64("after_s", w.o.Now().Sub(st.Since).Seconds()).Msg("influxdb takes readings again")
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		st := &State{Since: w.o.Now(), Err: err}
		var answer *Error
		asked := time.Duration(0)
		if errors.As(err, &answer) {
			st.Held, asked = answer.Held, min(answer.RetryAfter, askedMost)
		}
		before := w.state.Load()
		if before != nil {
			st.Since = before.Since
		}
		if before == nil || before.Held != st.Held {
			w.s.o.Logger.Error().Err(err).Bool("held", st.Held).Msg("influxdb does not take readings; they wait in the journal, alerts go on")
		}
		w.state.Store(st)
		d := wait/2 + rand.N(wait/2)
		if st.Held {
			d = holdFor/2 + rand.N(holdFor/2)
		}
		w.o.Pause(ctx, max(d, asked))
		wait = min(2*wait, retryMost)
	}
}

func (w *Writer) save(ctx context.Context) {
	w.saved = w.o.Now()
	if err := w.s.Flush(ctx); err != nil && ctx.Err() == nil {
		w.s.o.Logger.Warn().Err(err).Msg("tried again within a second")
	}
}

func (w *Writer) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return w.s.Flush(ctx)
}
