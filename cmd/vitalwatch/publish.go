package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	_ "time/tzdata" // zones by name also where the system has none

	"vitalwatch/internal/mqttdevice"
	"vitalwatch/internal/trace"
	"vitalwatch/vitals"
)

// PublishCmd sends a recorded trace as a device would.
type PublishCmd struct {
	Broker       string        `required:"" placeholder:"URL" help:"Address of the broker, such as tcp://127.0.0.1:1883."`
	Device       string        `required:"" placeholder:"ID" help:"Device id: client id and topic."`
	Indicator    string        `required:"" placeholder:"I" help:"What the values are: glucose, blood_pressure, heart_rate, …"`
	Unit         string        `required:"" placeholder:"U" help:"Unit of the values, a UCUM code or an alias: mg/dL, mmHg, /min, …"`
	CSV          string        `required:"" name:"csv" placeholder:"FILE" help:"The trace, first line with the names of the columns: time and value or components. - is stdin."`
	TZ           string        `name:"tz" placeholder:"ZONE" help:"Time zone of times without offset, such as America/New_York."`
	Live         bool          `help:"Send one reading every --interval, stamped now, instead of history with its own times."`
	Interval     time.Duration `default:"5s" placeholder:"D" help:"Pause between two live readings (default 5s)."`
	Username     string        `help:"User name; the device id when only a password is given."`
	PasswordFile string        `placeholder:"FILE" help:"File with the device's secret."`
	Batch        int           `default:"100" placeholder:"N" help:"Readings per message, 1 to 500 (default 100)."`
}

// giveUp is how long a broker may be out of reach.
const giveUp = 30 * time.Second

func fits(ind vitals.Indicator, unit string) bool {
	u, ok := vitals.ParseUnit(unit)
	return ok && ind.Accepts(u)
}

// once is f for the first call only.
func once(f func(error)) func(error) {
	var o sync.Once
	return func(err error) { o.Do(func() { f(err) }) }
}

// Run publishes and prints one summary line.
func (c *PublishCmd) Run() error {
	ind, ok := vitals.ParseIndicator(c.Indicator)
	switch {
	case !ok:
		return misused("--indicator: there is no such indicator; try glucose, blood_pressure, heart_rate, spo2, temperature or weight")
	case !fits(ind, c.Unit):
		return misused("--unit: %s is not measured in it; try %s", ind, ind.Canonical())
	case !vitals.ValidID(c.Device):
		return misused("--device: a device id has 1 to 64 of A-Z a-z 0-9 _ -")
	case c.Batch < 1 || c.Batch > 500:
		return misused("--batch: write a number from 1 to 500")
	case c.Live && c.Interval <= 0:
		return misused("--interval: write a duration above zero, such as 5s")
	}
	if err := mqttdevice.CheckBroker(c.Broker); err != nil {
		return misused("--broker: %w", err)
	}
	cfg := trace.Config{Indicator: ind, Unit: c.Unit, Batch: c.Batch, Live: c.Live, Interval: c.Interval, Linger: 500 * time.Millisecond,
		Device: mqttdevice.Config{Broker: c.Broker, ID: c.Device, Username: c.Username, GiveUp: giveUp,
			OnRetry: once(func(err error) {
				fmt.Fprintf(os.Stderr, "vitalwatch: no connection yet (%v); trying for %v\n", err, giveUp)
			})}}
	var zone *time.Location
	var err error
	if c.TZ != "" {
		if zone, err = time.LoadLocation(c.TZ); err != nil {
			return misused("--tz: %w; write an IANA name such as Asia/Shanghai", err)
		}
	}
	if c.PasswordFile != "" {
		secret, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return fmt.Errorf("--password-file: %w", err)
		}
		cfg.Device.Password = strings.TrimRight(string(secret), "\r\n")
	}
	f := os.Stdin
	if c.CSV != "-" {
		if f, err = os.Open(c.CSV); err != nil {
			return fmt.Errorf("--csv: %w", err)
		}
		defer f.Close()
	}
	rows, skipped, err := trace.Read(f, ind, zone)
	if err != nil {
		return fmt.Errorf("%s: %w", c.CSV, err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s: no row has a value", c.CSV)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := trace.Publish(ctx, cfg, rows)
	line := s.String()
	if skipped > 0 {
		line += fmt.Sprintf(", rows without value skipped %d", skipped)
	}
	fmt.Println(line)
	switch {
	case s.Refused > 0:
		return errors.New("the server refused readings (it names some of a large number only); its quarantine has them with the reasons")
	case s.Sent > 0 && s.Acknowledged == s.Sent && (err == nil || ctx.Err() != nil):
		return nil
	case err != nil && s.Sent == 0:
		return fmt.Errorf("nothing was sent: %w", err)
	case err != nil:
		return fmt.Errorf("not everything was acknowledged: %w", err)
	}
	return errors.New("not everything was acknowledged; run it again, the server knows duplicates")
}
