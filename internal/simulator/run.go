package simulator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"vitalwatch/internal/mqttdevice"
	"vitalwatch/vitals"
)

// Config says what to simulate. Broker must be set for Run; the rest has defaults.
type Config struct {
	Broker   string
	Patients int     // 0 means 14, one of each kind in the neighbourhood
	Seed     uint64  // same seed, same readings
	Speed    float64 // simulated seconds per second; 0 means 1, with Scripted 60
	// For ends the run after so much of our time; 0 means when the context ends. All readings that fall due until
	// then are sent, however slow the broker is.
	For          time.Duration
	DevicePrefix string // "" means sim
	// Credentials are the devices' secrets by device id; a device without one shows none.
	Credentials map[string]string
	// Start is the simulated wall clock at the start, whose time of day counts; zero is 06:30, so that runs of one
	// seed are the same at any hour.
	Start time.Time
	// History is how much of each patient's past to publish first, with its own times up to now, at normal speed.
	History time.Duration
	// GiveUp ends the run with ErrUnreachable when, after For, so long nothing is acknowledged; 0 waits for ever.
	GiveUp time.Duration
	// Scripted makes alerts of each severity from warning to emergency open within the first minute: for the demo.
	Scripted bool
	Now      func() time.Time // nil: time.Now
	Log      zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.Patients == 0 {
		c.Patients = len(kinds)
	}
	if c.Speed == 0 {
		c.Speed = 1
		if c.Scripted {
			c.Speed = 60
		}
	}
	if c.DevicePrefix == "" {
		c.DevicePrefix = "sim"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 1, 1, 6, 30, 0, 0, time.UTC)
	}
	return c
}

// Validate reports what Run would refuse.
func (c Config) Validate() error {
	d := c.withDefaults()
	switch {
	case d.Patients < 0 || d.Patients > maxPatients:
		return fmt.Errorf("patients: write a number from 1 to %d", maxPatients)
	case !(d.Speed > 0 && d.Speed <= maxSpeed):
		return fmt.Errorf("speed: write a number above 0 and up to %d", maxSpeed)
	case d.For < 0 || d.History < 0 || d.History > maxHistory:
		return errors.New("durations: write one that is not negative, a history of at most 31 days")
	case !vitals.ValidID("P-" + d.DevicePrefix + "-000000"):
		return errors.New("device prefix: use a few of A-Z a-z 0-9 _ -")
	}
	return nil
}

const (
	maxPatients = 100_000
	maxSpeed    = 100_000
	maxHistory  = 31 * 24 * time.Hour
	// queueLen is what a device remembers while it is offline; then its sensors wait.
	queueLen = 1024
	// batchLen is how many readings one message carries when several wait.
	batchLen = 100
)

// Stats counts readings.
type Stats struct {
	Measured, Acknowledged, Refused int64
}

// ErrUnreachable says that readings could not be sent in time.
var ErrUnreachable = errors.New("readings were left that the broker has not acknowledged; check that it runs and the address is right")

// Run simulates until the context ends or Config.For is over, and until then reconnects as devices do. It returns an
// error when a device is not wanted by the broker; the end of the context is none.
func Run(ctx context.Context, cfg Config) (Stats, error) {
	if err := cfg.Validate(); err != nil {
		return Stats{}, err
	}
	cfg = cfg.withDefaults()
	run := &run{cfg: cfg, start: cfg.Now()}
	sending, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	g, gctx := errgroup.WithContext(sending)
	if cfg.For > 0 && cfg.GiveUp > 0 {
		go run.watch(gctx, giveUp)
	}
	for _, p := range Roster(cfg) {
		queue := make(chan []byte, queueLen)
		d := &device{run: run, patient: p, body: newBody(cfg.Seed, p.index, p.Conditions, cfg.firstMinute()), queue: queue}
		g.Go(func() error { defer close(queue); return d.measure(gctx) })
		g.Go(func() error { return d.send(gctx) })
	}
	err := g.Wait()
	switch cause := context.Cause(sending); {
	case errors.Is(cause, ErrUnreachable):
		err = cause
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		err = nil
	}
	return Stats{run.measured.Load(), run.acked.Load(), run.refused.Load()}, err
}

// firstMinute is the minute of the day at which patients begin to live: the history comes before the start.
func (c Config) firstMinute() int {
	t := c.Start.Add(-c.History)
	return t.Hour()*60 + t.Minute()
}

type run struct {
	cfg   Config
	start time.Time

	measured, acked, refused atomic.Int64

	unreachable sync.Once // to say so
}

// watch gives up when nothing is acknowledged any more after the end.
func (r *run) watch(ctx context.Context, giveUp func(error)) {
	t := time.NewTimer(r.cfg.For + r.cfg.GiveUp)
	defer t.Stop()
	for acked := int64(-1); ; t.Reset(r.cfg.GiveUp) {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := r.acked.Load()
		if now == acked || now == 0 {
			giveUp(ErrUnreachable)
			return
		}
		acked = now
	}
}

type device struct {
	run     *run
	patient Patient
	body    *body
	queue   chan []byte
	battery atomic.Int32 // percent, as last measured
}

// measure puts the patient's readings into the queue when they fall due.
func (d *device) measure(ctx context.Context) error {
	cfg := &d.run.cfg
	past := int(cfg.History / time.Minute)
	for m := range past {
		at := d.run.start.Add(-time.Duration(past-m) * time.Minute)
		for i, r := range d.body.minute(m) {
			r.Flags = append(r.Flags, "from_memory")
			if err := d.put(ctx, r, at.Add(time.Duration(i)*time.Millisecond)); err != nil {
				return err
			}
		}
	}
	var cues []cue
	var silent map[vitals.Indicator]time.Duration
	if cfg.Scripted {
		cues, silent = script(d.patient)
	}
	for m := past; ; m++ {
		due := time.Duration(float64(time.Duration(m-past)*time.Minute) / cfg.Speed)
		// Cues that come before this minute.
		for len(cues) > 0 && cues[0].at <= due {
			c := cues[0]
			cues = cues[1:]
			if cfg.For > 0 && c.at > cfg.For {
				return nil
			}
			if c.r.Indicator == vitals.Weight && c.r.Values[0].Text == "" {
				c.r.Values = []Value{{vitals.Value, fixed(d.body.weight+d.body.fluid+scriptedGain, 1)}}
			}
			if err := d.at(ctx, c.at, c.r, 0); err != nil {
				return err
			}
		}
		if cfg.For > 0 && due > cfg.For {
			return nil
		}
		for i, r := range d.body.minute(m) {
			if due < silent[r.Indicator] {
				continue
			}
			if err := d.at(ctx, due, r, time.Duration(i)*time.Millisecond); err != nil {
				return err
			}
		}
	}
}

// at waits until due and puts r with that time.
func (d *device) at(ctx context.Context, due time.Duration, r Reading, shift time.Duration) error {
	if left := due - d.run.cfg.Now().Sub(d.run.start); left > 0 {
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	return d.put(ctx, r, d.run.start.Add(due+shift))
}

func (d *device) put(ctx context.Context, r Reading, at time.Time) error {
	d.battery.Store(int32(d.body.battery))
	select {
	case d.queue <- appendReading(nil, r, at):
		d.run.measured.Add(1)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send publishes what is in the queue until it is closed.
func (d *device) send(ctx context.Context) error {
	cfg := &d.run.cfg
	client := mqttdevice.New(mqttdevice.Config{Broker: cfg.Broker, ID: d.patient.Device, Password: cfg.Credentials[d.patient.Device],
		Status: func() []byte {
			return fmt.Appendf(nil, `{"state":"online","battery":%d,"firmware":"sim-1"}`, d.battery.Load())
		},
		OnRetry: func(err error) {
			d.run.unreachable.Do(func() {
				cfg.Log.Warn().Err(err).Str("device_id", d.patient.Device).Msg("cannot connect to the broker; devices keep trying: check that it runs and the address is right")
			})
		},
		OnError: func(r mqttdevice.Refusal) {
			d.run.refused.Add(1)
			cfg.Log.Warn().Str("device_id", d.patient.Device).Str("problem", r.Problem).Msg("a reading was refused")
		}})
	defer client.Close()
	for {
		var batch [][]byte
		select {
		case r, more := <-d.queue:
			if !more {
				return nil
			}
			batch = append(batch, r)
		case <-ctx.Done():
			return ctx.Err()
		}
	drain:
		for len(batch) < batchLen {
			select {
			case r, more := <-d.queue:
				if !more {
					break drain
				}
				batch = append(batch, r)
			default:
				break drain
			}
		}
		err := client.Send(ctx, [][]byte{message(batch)}, func(int) { d.run.acked.Add(int64(len(batch))) })
		if err != nil {
			return fmt.Errorf("device %s: %w", d.patient.Device, err)
		}
	}
}

// message is one reading alone or several as an array.
func message(batch [][]byte) []byte {
	if len(batch) == 1 {
		return batch[0]
	}
	out := []byte{'['}
	for i, r := range batch {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, r...)
	}
	return append(out, ']')
}

// appendReading appends the payload of contract section 3.
func appendReading(dst []byte, r Reading, at time.Time) []byte {
	dst = append(dst, `{"indicator":"`...)
	dst = append(dst, r.Indicator.String()...)
	dst = append(dst, `","taken_at":"`...)
	dst = at.AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00")
	if len(r.Values) == 1 && r.Values[0].Component == vitals.Value {
		dst = append(dst, `","value":`...)
		dst = append(dst, r.Values[0].Text...)
	} else {
		dst = append(dst, `","values":{`...)
		for i, v := range r.Values {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, '"')
			dst = append(dst, v.Component.String()...)
			dst = append(dst, `":`...)
			dst = append(dst, v.Text...)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `,"unit":`...)
	dst = strconv.AppendQuote(dst, r.Unit)
	if r.Context != "" {
		dst = append(dst, `,"context":`...)
		dst = append(dst, r.Context...)
	}
	for i, f := range r.Flags {
		if i == 0 {
			dst = append(dst, `,"flags":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = strconv.AppendQuote(dst, f)
		if i == len(r.Flags)-1 {
			dst = append(dst, ']')
		}
	}
	return append(dst, '}')
}

// ReadCredentials reads lines of a device id, a space and its secret; empty lines and those that begin with # do not
// count.
func ReadCredentials(r io.Reader) (map[string]string, error) {
	out := map[string]string{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		device, secret, _ := strings.Cut(line, " ")
		if secret = strings.TrimSpace(secret); secret == "" {
			return nil, fmt.Errorf("line %d: write a device id, a space and its secret", n)
		}
		out[device] = secret
	}
	return out, lines.Err()
}
