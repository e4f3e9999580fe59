package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// DecodeCmd shows what a payload means, without a server.
type DecodeCmd struct {
	Format   string `required:"" help:"Format as in the topic below up/, such as readings or gatt/2A18, or the name of a mapping."`
	Config   string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file whose mappings count; without it the shipped ones."`
	DeviceTZ string `name:"device-tz" placeholder:"ZONE" help:"Time zone of device local times that carry none, such as Asia/Shanghai."`
}

// Run reads the payload from stdin and writes one JSON line per item.
func (c *DecodeCmd) Run() error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	ms, err := loadMappings(cfg)
	if err != nil {
		return err
	}
	if err := payload.UseMappings(ms); err != nil {
		return err
	}
	return c.run(os.Stdin, os.Stdout, time.Now())
}

func (c *DecodeCmd) run(stdin io.Reader, stdout io.Writer, now time.Time) error {
	in := payload.Input{ReceivedAt: vitals.At(now)}
	var err error
	if c.DeviceTZ != "" {
		if in.DeviceTZ, err = time.LoadLocation(c.DeviceTZ); err != nil {
			return misused("--device-tz: %w; write an IANA name such as Asia/Shanghai", err)
		}
	}
	if in.Payload, err = io.ReadAll(io.LimitReader(stdin, payload.MaxBytes+1)); err != nil {
		return fmt.Errorf("read the payload: %w", err)
	}
	accepted, _, err := payload.WriteLines(stdout, c.Format, in)
	if err != nil {
		return fmt.Errorf("write the lines: %w", err)
	}
	if accepted == 0 {
		return errors.New("nothing was accepted; the lines on stdout say why")
	}
	return nil
}
