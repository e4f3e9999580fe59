package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// reopenMax bounds how often a full disk may be recovered from in one process: an abandoned Pebble instance can keep
// its memory.
const reopenMax = 8

// onFault is called once per generation, with its first write error, before Pebble hears of it. It may be called with
// Pebble's locks held.
func (j *Journal) onFault(e *engine, f fault) {
	s := &status{recoverable: noSpace(f.err)}
	where := f.op
	if f.file != "" {
		where += " " + f.file
	}
	if s.recoverable {
		s.err = fmt.Errorf("%w: %s: %v: free disk space; the journal is reopened by itself then", ErrFenced, where, f.err)
	} else {
		s.err = fmt.Errorf("%w: %s: %v: check the disk, then restart the server, which reads back what the disk really holds", ErrFenced, where, f.err)
	}
	j.setStatus(s)
	close(e.dead)
	j.failAll(s.err)
	j.o.Logger.Error().Err(s.err).Bool("recoverable", s.recoverable).Msg("journal stops accepting")
}

// onFull is called when a table could not be written: Pebble tries again, the log is still fine.
func (j *Journal) onFull() {
	j.noSpace.Store(true)
	j.setFull(true)
}

// setStatus changes the status, unless a worse one stands.
func (j *Journal) setStatus(s *status) {
	j.statusMu.Lock()
	defer j.statusMu.Unlock()
	now := j.status.Load()
	if now != nil && (errors.Is(now.err, ErrClosed) || errors.Is(now.err, ErrFenced) && !now.recoverable) {
		return
	}
	j.status.Store(s)
}

// setFull refuses or admits appends, unless the journal is fenced.
func (j *Journal) setFull(full bool) {
	j.statusMu.Lock()
	defer j.statusMu.Unlock()
	switch now := j.status.Load(); {
	case now == nil && full:
		j.status.Store(&status{err: ErrFull})
		j.o.Logger.Error().Err(ErrFull).Uint64("free_bytes", j.free.Load()).Uint64("head_room_bytes", j.o.HeadRoom).Msg("journal stops accepting")
	case now != nil && now.err == ErrFull && !full:
		j.status.Store(nil)
		j.o.Logger.Info().Uint64("free_bytes", j.free.Load()).Msg("journal accepts again")
	}
}

// checkSpace looks at the free space and sets the status.
func (j *Journal) checkSpace() {
	free := ^uint64(0)
	if u, err := j.o.FS.GetDiskUsage(j.dir); err == nil {
		free = u.AvailBytes
	}
	j.free.Store(free)
	// A failed table write holds the gate for one look more: the numbers may say that there is space (a quota).
	j.setFull(j.noSpace.Swap(false) || free < j.o.HeadRoom)
}

// tickEvery is the time between two rounds of housekeeping.
var tickEvery = time.Second

// housekeep looks after space, trimming and the quarantine until the journal is closed.
func (j *Journal) housekeep() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			j.tick()
		case <-j.closing:
			return
		}
	}
}

// tick is one round of housekeeping.
func (j *Journal) tick() {
	j.checkSpace()
	if s := j.status.Load(); s != nil && s.recoverable {
		j.reopen()
	}
	e := j.engine.Load()
	if e.fs.fenced.Load() {
		return
	}
	j.used.Store(e.db.Metrics().DiskSpaceUsage())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, op := range []func(*engine, *pebble.Batch) error{j.trim(e), j.quarantine.expire(j.o.Now())} {
		if op == nil {
			continue
		}
		if err := j.append(ctx, &Group{}, op); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
			j.o.Logger.Warn().Err(err).Msg("journal: housekeeping is tried again")
		}
	}
	if err := j.tendEvidence(ctx, e, j.o.Now()); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
		j.o.Logger.Warn().Err(err).Msg("journal: housekeeping of the evidence is tried again")
	}
}

// reopen opens a new generation after a full disk, once there is space and the old one no longer touches the disk.
// Everything that was acknowledged was synced by the old one; what was not may or may not be there, as after a crash.
func (j *Journal) reopen() {
	old := j.engine.Load()
	if j.free.Load() < j.o.HeadRoom || !old.fs.drained() {
		return
	}
	if j.metrics.reopened.Add(1) > reopenMax {
		j.setStatus(&status{err: fmt.Errorf("%w: the disk was full too often: free disk space and restart the server", ErrFenced)})
		return
	}
	e, err := j.openEngine()
	if err != nil {
		j.o.Logger.Warn().Err(err).Msg("journal could not be reopened and tries again")
		return
	}
	if e.last < j.Last() {
		j.setStatus(&status{err: fmt.Errorf("%w: %w", ErrFenced, &CorruptionError{e.last + 1, "acknowledged readings are missing after a full disk"})})
		e.fs.fenced.Store(true)
		return
	}
	j.engine.Store(e) // before the new end is told: only this generation surely has all of it
	j.tailMu.Lock()
	j.tail.reset()
	j.last = e.base
	j.lastA.Store(j.last)
	if j.notify != nil {
		close(j.notify)
		j.notify = nil
	}
	j.tailMu.Unlock()
	j.start(e)
	j.statusMu.Lock()
	if s := j.status.Load(); s != nil && s.recoverable {
		j.status.Store(nil)
	}
	j.statusMu.Unlock()
	old.abandon()
	j.o.Logger.Info().Uint64("last", e.base).Msg("journal was reopened and accepts again")
}

// pebbleLogger keeps Pebble's chatter out of the log and turns its "fatal" into a fault instead of an exit.
type pebbleLogger struct {
	log     zerolog.Logger
	onFault func(fault)
}

func (l *pebbleLogger) Infof(string, ...any) {}

func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.log.Warn().Str("pebble", fmt.Sprintf(format, args...)).Msg("journal storage engine")
}

// Fatalf returns, unlike Pebble's own: every caller that a disk error can reach returns the error after it
// (version_set.go), and the generation is fenced by then.
func (l *pebbleLogger) Fatalf(format string, args ...any) {
	l.onFault(fault{"write", "", fmt.Errorf(format, args...)})
}

type metrics struct {
	fsync    prometheus.Histogram
	groups   prometheus.Histogram
	bytes    prometheus.Counter
	reopened counter
}

func newMetrics() *metrics {
	return &metrics{
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_journal_fsync_seconds",
			Help: "Time of one sync of the journal's log.", Buckets: prometheus.ExponentialBuckets(0.00005, 2, 18)}),
		groups: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_journal_group_readings",
			Help: "Readings made durable by one commit.", Buckets: prometheus.ExponentialBuckets(1, 4, 8)}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_journal_written_bytes_total",
			Help: "Bytes committed to the journal's log."}),
	}
}

func (m *metrics) observeSync(d time.Duration) { m.fsync.Observe(d.Seconds()) }

// Collectors are the journal's metrics; the caller registers them.
func (j *Journal) Collectors() []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	return []prometheus.Collector{
		j.metrics.fsync, j.metrics.groups, j.metrics.bytes,
		gauge("vitalwatch_journal_disk_bytes", "Bytes of the journal on disk.", func() float64 { return float64(j.used.Load()) }),
		gauge("vitalwatch_journal_free_bytes", "Free bytes on the journal's disk, -1 when not known.", func() float64 {
			if f := j.free.Load(); f != ^uint64(0) {
				return float64(f)
			}
			return -1
		}),
		gauge("vitalwatch_journal_writable", "1 while the journal accepts readings.", func() float64 {
			if j.Err() != nil {
				return 0
			}
			return 1
		}),
		gauge("vitalwatch_journal_last_seq", "Sequence of the newest durable reading.", func() float64 { return float64(j.Last()) }),
		gauge("vitalwatch_evidence_bytes", "Bytes on disk of the messages that are kept as they came.", func() float64 { return float64(j.EvidenceStats().Bytes) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "vitalwatch_evidence_dropped_total",
			Help: "Messages that were kept as they came and removed before their time because they took too much room."}, func() float64 { return float64(j.EvidenceStats().Dropped) }),
		gauge("vitalwatch_quarantine_items", "Messages in quarantine.", func() float64 { return float64(j.QuarantineStats().Items) }),
		gauge("vitalwatch_quarantine_bytes", "Bytes of the payloads in quarantine.", func() float64 { return float64(j.QuarantineStats().Bytes) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "vitalwatch_quarantine_dropped_total",
			Help: "Quarantined messages dropped because the quarantine was full."}, func() float64 { return float64(j.QuarantineStats().Dropped) }),
	}
}
