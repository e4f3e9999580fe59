package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vitalwatch/devices/payload"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage/influx"
	"vitalwatch/storage/tiered"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

const consumerInflux = "influxdb"

// InfluxConfig is the part of the configuration about InfluxDB.
type InfluxConfig struct {
	URL       string `yaml:"url"`
	TokenFile string `yaml:"token_file"`
	Org       string `yaml:"org"`
	Bucket    string `yaml:"bucket"`
	KeepLocal string `yaml:"keep_local"` // 35d: how much of the recent past also stays on this machine
}

func (c *InfluxConfig) check(at func(path, format string, args ...any)) {
	const path = "storage.influxdb."
	if err := influx.CheckURL(c.URL); err != nil {
		at(path+"url", "%v", err)
	}
	if c.Bucket == "" {
		at(path+"bucket", "is empty; name the bucket that the readings go to")
	}
	if c.TokenFile != "" {
		if _, err := os.Stat(c.TokenFile); err != nil {
			at(path+"token_file", "cannot read %s", c.TokenFile)
		}
	}
	if d, err := parseSpan(c.KeepLocal); err != nil || d < 24*time.Hour {
		at(path+"keep_local", "%q is not a time of at least a day, such as 35d", c.KeepLocal)
	}
}

func (c *InfluxConfig) token() (string, error) {
	if c.TokenFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read storage.influxdb.token_file: %w", err)
	}
	return string(b), nil
}

// usesInflux reports whether the history is in InfluxDB.
func (c *Config) usesInflux() bool { return c.Storage.Readings == "influxdb" }

// checkRetention: indicators and times, or "forever".
func (c *Config) checkRetention(at func(path, format string, args ...any)) {
	for name, span := range c.Retention {
		if _, ok := vitals.ParseIndicator(name); !ok && name != "default" {
			at("retention."+name, "is neither an indicator nor default; indicators are %s", strings.Join(indicatorNames(), ", "))
		}
		if d, err := parseSpan(span); span != "forever" && (err != nil || d < 24*time.Hour) {
			at("retention."+name, "%q is neither forever nor a time of at least a day, such as 400d", span)
		}
	}
}

func indicatorNames() (out []string) {
	for _, i := range vitals.Indicators() {
		out = append(out, i.String())
	}
	return out
}

// retention is how long readings of an indicator are kept; false: for ever.
func (c *Config) retention(i vitals.Indicator) (time.Duration, bool) {
	span, ok := c.Retention[i.String()]
	if !ok {
		span, ok = c.Retention["default"]
	}
	if !ok || span == "forever" {
		return 0, false
	}
	d, _ := parseSpan(span) // checked when the configuration was read
	return d, true
}

// openInflux makes the history that the API reads: the local store alone, or before it the one in InfluxDB. The rules
// look back in the local store in either case, so that no alert ever waits for another machine.
func (a *App) openInflux(ctx context.Context) error {
	a.readings = a.store
	if !a.cfg.usesInflux() {
		return nil
	}
	c := &a.cfg.Storage.InfluxDB
	if back, keep := a.lookBack(), a.keepLocal(); keep < back {
		return fmt.Errorf("storage.influxdb.keep_local: rules look back %d days: set at least %dd", int(back/(24*time.Hour)), int((back+24*time.Hour-1)/(24*time.Hour)))
	}
	cursor, err := influx.OpenCursor(ctx, a.db, c.URL, c.Org, c.Bucket)
	if err != nil {
		return err
	}
	if a.influx, err = influx.Open(ctx, influx.Options{URL: c.URL, Org: c.Org, Bucket: c.Bucket, Token: c.token, Cursor: cursor, Refused: a.refusedByInflux,
		Logger: a.log.With().Str("component", "influxdb").Logger()}); err != nil {
		return err
	}
	a.onStop("InfluxDB", func(context.Context) error { return a.influx.Close() })
	a.reg.MustRegister(a.influx.Collectors()...)
	if a.store.Empty() { // InfluxDB may have a past that this folder does not know of
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if empty, err := a.influx.Empty(ask); err != nil || !empty {
			if err := a.store.SetCompleteFrom(vitals.At(time.Now())); err != nil {
				return err
			}
		}
	}
	a.readings = tiered.New(a.store, a.influx)
	return nil
}

// lookBack is the longest time that a rule of any condition looks back, with a day to spare.
func (a *App) lookBack() time.Duration {
	longest := time.Duration(0)
	for _, name := range append([]string{""}, a.packs.Conditions()...) {
		rs, err := a.packs.Compile(slices.DeleteFunc([]string{name}, func(s string) bool { return s == "" }))
		if err == nil {
			longest = max(longest, rs.Window())
		}
	}
	return longest + 24*time.Hour
}

func (a *App) keepLocal() time.Duration {
	d, _ := parseSpan(a.cfg.Storage.InfluxDB.KeepLocal)
	return d
}

// refusedByInflux keeps what InfluxDB will never take where operators look: it stays judged, and in the local store
// for a while.
func (a *App) refusedByInflux(ctx context.Context, r *vitals.Reading, reason string) error {
	return a.journal.Append(ctx, &journal.Group{Quarantine: []journal.Quarantined{{At: r.ReceivedAt, Device: r.Device, Format: "readings", Source: consumerInflux,
		Problems: []payload.Problem{{Code: "store_refused", Detail: "the reading was taken in and judged, but is not in the history: " + reason, Offset: -1}},
		Payload:  vitals.AppendJSON(nil, r)}}})
}

// startInflux carries the journal to InfluxDB.
func (a *App) startInflux(m *ingest.Metrics, c func(ingest.Sink, prometheus.Counter) *ingest.Consumer) {
	stored := m.Stored(consumerInflux)
	w := influx.NewWriter(a.influx, influx.WriterOptions{Stored: func(n int) { stored.Add(float64(n)) }})
	a.writer = w
	a.run("InfluxDB watch", a.watchInflux)
	a.run("InfluxDB writer", w.Run)
	handed := prometheus.NewCounter(prometheus.CounterOpts{Name: "handed_over"}) // not shown: Stored counts what is confirmed
	consumer := c(w, handed)
	a.run("consumer "+consumerInflux, func(ctx context.Context) error {
		if a.influx.Fresh() {
			if err := a.copyToInflux(ctx); err != nil || ctx.Err() != nil {
				return err
			}
		}
		return consumer.Run(ctx)
	})
}

// copyBatch is how many readings are copied at once.
const copyBatch = 8192

// copyToInflux brings a bucket that has nothing of ours what the local store has: after storage.readings was changed,
// or the bucket. It starts over when it is interrupted; writing a reading again changes nothing.
func (a *App) copyToInflux(ctx context.Context) error {
	upTo := a.store.Cursor()
	n := 0
	var batch []vitals.Reading
	write := func(cursor uint64) bool {
		for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
			err := a.influx.Write(ctx, batch, cursor)
			if err == nil {
				n += len(batch)
				batch = batch[:0]
				return true
			}
			if ctx.Err() != nil {
				return false
			}
			a.log.Warn().Err(err).Msg("copying readings to influxdb is tried again")
			select {
			case <-ctx.Done():
				return false
			case <-time.After(pause):
			}
		}
	}
	for r, err := range a.store.All(ctx) {
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if batch = append(batch, r); len(batch) == copyBatch && !write(0) {
			return nil
		}
	}
	if !write(upTo) {
		return nil
	}
	if err := a.influx.Flush(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	if n > 0 {
		a.log.Info().Int("readings", n).Msg("influxdb has what was on this machine")
	}
	return nil
}

// How often InfluxDB is asked whether it would take readings and give them back: the writer notices only when there is
// something to write.
const (
	askEvery      = 15 * time.Second
	askEverySoon  = time.Second // while the answer is no
	askEveryLater = 5 * time.Second
)

// influxAnswer is what it said last; err nil: all is well.
type influxAnswer struct {
	since time.Time
	err   error
}

// watchInflux asks from the start on.
func (a *App) watchInflux(ctx context.Context) error {
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "vitalwatch_influxdb_up",
		Help: "Whether InfluxDB would take readings and give them back: 1 when it said so last."})
	a.reg.MustRegister(up)
	for again := askEverySoon; ; {
		err := a.influx.Check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		before := a.answer.Load()
		now := &influxAnswer{time.Now(), err}
		switch {
		case err == nil:
			up.Set(1)
			again = askEvery
			if before != nil && before.err != nil {
				a.log.Info().Msg("influxdb answers again")
			}
		case before == nil || before.err == nil:
			again = askEverySoon
			if a.writer.State() == nil { // otherwise it was said
				a.log.Error().Err(err).Msg("influxdb is not as it should be; readings wait in the journal, alerts go on")
			}
		default:
			now.since = before.since
			again = askEveryLater
		}
		if err != nil {
			up.Set(0)
		}
		a.answer.Store(now)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}

// checkInflux shows whether InfluxDB works and how far it is behind. It leaves the server ready: readings are safe and
// judged without it.
func (a *App) checkInflux(context.Context) error {
	if a.writer == nil {
		return nil
	}
	said := a.answer.Load()
	if said == nil {
		return web.Degraded("it has not answered yet")
	}
	if said.err != nil && a.writer.State() == nil {
		return web.Degraded(fmt.Sprintf("%v; for %v", said.err, time.Since(said.since).Truncate(time.Second)))
	}
	if a.influx.Fresh() {
		return web.Degraded("it does not have what is on this machine yet; that is copied first")
	}
	lag := a.journal.Last() - min(a.journal.Last(), a.writer.Cursor())
	if st := a.writer.State(); st != nil {
		since := time.Since(st.Since).Truncate(time.Second)
		return web.Degraded(fmt.Sprintf("%v; for %v; %d readings wait in the journal, the oldest for %v", st.Err, since, lag, a.influxAge().Truncate(time.Second)))
	}
	if age := a.influxAge(); age > stallAfter {
		return web.Degraded(fmt.Sprintf("%d readings wait in the journal, the oldest for %v; they are on their way", lag, age.Truncate(time.Second)))
	}
	return nil
}

// influxAge is how long the oldest reading that InfluxDB does not have has waited.
func (a *App) influxAge() time.Duration {
	oldest := a.writer.Oldest()
	if oldest == 0 {
		return 0
	}
	return max(0, time.Since(oldest.Time()))
}

// trimEvery is how often old readings are looked for.
const trimEvery = 6 * time.Hour

// startTrimming removes what is past its retention, and from the local store what InfluxDB has as well.
func (a *App) startTrimming() {
	if !a.cfg.usesInflux() && len(a.cfg.Retention) == 0 {
		return
	}
	next := time.Now().Add(time.Minute) // after the rush of the start
	a.every("retention", time.Minute, func(ctx context.Context) error {
		now := time.Now()
		if now.Before(next) {
			return nil
		}
		if err := a.trimOnce(ctx, now); err != nil {
			return err
		}
		next = now.Add(trimEvery)
		return nil
	})
}

func (a *App) trimOnce(ctx context.Context, now time.Time) error {
	before := func(i vitals.Indicator) (vitals.Micros, bool) {
		d, ends := a.cfg.retention(i)
		return vitals.At(now.Add(-d)), ends
	}
	if len(a.cfg.Retention) > 0 {
		if _, err := a.store.Expire(ctx, before); err != nil {
			return err
		}
	}
	if a.influx == nil {
		return nil
	}
	var errs []error
	// Late readings that InfluxDB does not have yet stay: what is trimmed is to be found there.
	if lag := a.influxAge(); lag < time.Minute && !a.influx.Fresh() {
		_, err := a.store.TrimLocal(ctx, vitals.At(now.Add(-a.keepLocal())))
		errs = append(errs, err)
	}
	for _, i := range vitals.Indicators() {
		if t, ends := before(i); ends {
			errs = append(errs, a.influx.DeleteBefore(ctx, i, t))
		}
	}
	return errors.Join(errs...)
}
