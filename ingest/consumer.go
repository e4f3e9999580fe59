package ingest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

// Source is the journal as a consumer sees it.
type Source interface {
	Next(ctx context.Context, after uint64) (journal.Block, error)
	Last() uint64
	Release(consumer string, seq uint64)
}

// Sink takes blocks of readings in journal order, exactly once each when nothing fails, again after a failure:
// it must be idempotent. last is the sequence of the block's last reading.
type Sink interface {
	Handle(ctx context.Context, rs []vitals.Reading, last uint64) error
	// Cursor is the sequence up to which (inclusive) everything was handled: where to go on.
	Cursor() uint64
	// Durable is the sequence up to which the sink will never ask again.
	Durable() uint64
}

// Failures is a Sink that also takes what is no reading: that a device says a measurement failed. It takes only those
// that vitals.Reading.Failed reports, among the readings and in their order; other sinks never see them.
type Failures interface {
	Sink
	TakesFailures()
}

// Consumer carries the journal to one sink. Run owns it.
type Consumer struct {
	name    string
	source  Source
	sink    Sink
	done    prometheus.Counter
	oldest  atomic.Int64 // receipt, in Micros, of the first reading of the block in hand; 0: none
	log     zerolog.Logger
	stalled atomic.Int64 // Unix ms since when the sink fails, 0 while it works
}

// NewConsumer returns a consumer; done counts the accepted readings that it has carried.
func NewConsumer(name string, source Source, sink Sink, m *Metrics, done prometheus.Counter, log zerolog.Logger) *Consumer {
	c := &Consumer{name: name, source: source, sink: sink, done: done, log: log.With().Str("consumer", name).Logger()}
	m.waiting.add(c)
	return c
}

// Stalled returns since when the sink has refused the next block, zero while it works.
func (c *Consumer) Stalled() time.Time {
	if ms := c.stalled.Load(); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

// Name is the consumer's name, as in its metrics.
func (c *Consumer) Name() string { return c.name }

// lag is how many readings are journaled and not handled by the sink.
func (c *Consumer) lag() uint64 {
	last := c.source.Last()
	return last - min(last, c.sink.Cursor())
}

// Level reports whether the sink has handled everything journaled so far.
func (c *Consumer) Level() bool { return c.sink.Cursor() >= c.source.Last() }

// Durable is the sequence up to which the sink will never ask again.
func (c *Consumer) Durable() uint64 { return c.sink.Durable() }

// Run carries blocks until ctx ends. It never skips: a block that fails is tried again, with growing pauses, for
// ever; the journal keeps what waits. It returns an error when the journal does not have what comes next.
func (c *Consumer) Run(ctx context.Context) error {
	after := c.sink.Cursor()
	c.source.Release(c.name, c.sink.Durable())
	for {
		var block journal.Block
		err := c.insist(ctx, func() (err error) {
			block, err = c.source.Next(ctx, after)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err // needs the operator
		}
		last := block.Last()
		readings := vitals.Measured(block.Readings)
		given := readings
		if _, all := c.sink.(Failures); all {
			given = block.Readings
		}
		c.oldest.Store(int64(block.Readings[0].ReceivedAt))
		if err := c.insist(ctx, func() error { return c.sink.Handle(ctx, given, last) }); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		after = last
		c.oldest.Store(0)
		c.done.Add(float64(counted(readings)))
		c.source.Release(c.name, c.sink.Durable())
	}
}

// counted is how many readings were accepted: what a correction supersedes goes along with it and was no reading of its
// own, whereas a void is the reading that it takes back.
func counted(rs []vitals.Reading) int {
	n := len(rs)
	for i := range rs {
		if rs[i].Flags&vitals.Superseded != 0 {
			n--
		}
	}
	return n
}

// Release tells the journal again what the sink holds durably; the housekeeping calls it, because a sink becomes durable
// some time after its last block.
func (c *Consumer) Release() { c.source.Release(c.name, c.sink.Durable()) }

// Age is how long the oldest reading that the sink has not dealt with has waited since its receipt, 0 when none waits.
func (c *Consumer) Age(now time.Time) time.Duration {
	oldest := vitals.Micros(c.oldest.Load())
	// A sink that takes blocks before it is done with them knows better.
	if s, ok := c.sink.(interface{ Oldest() vitals.Micros }); ok {
		if o := s.Oldest(); o != 0 {
			oldest = o
		}
	}
	if oldest == 0 {
		return 0
	}
	return max(0, vitals.At(now).Sub(oldest))
}

// insist calls f until it succeeds, ctx ends, or the error is one that no trying again mends.
func (c *Consumer) insist(ctx context.Context, f func() error) error {
	pause := 50 * time.Millisecond
	for {
		err := f()
		if err == nil {
			if c.stalled.Load() != 0 && c.stalled.Swap(0) != 0 {
				c.log.Info().Msg("consumer goes on")
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if final(err) {
			return err
		}
		if c.stalled.CompareAndSwap(0, time.Now().UnixMilli()) {
			c.log.Error().Err(err).Msg("consumer is stopped by an error and tries again; readings wait in the journal")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// final reports whether the journal has not got what the consumer needs, or is closed. Other errors of reading it, such
// as too many open files while very many devices connect, pass.
func final(err error) bool {
	var c *journal.CorruptionError
	return errors.Is(err, journal.ErrTrimmed) || errors.Is(err, journal.ErrAhead) || errors.Is(err, journal.ErrClosed) || errors.As(err, &c)
}
