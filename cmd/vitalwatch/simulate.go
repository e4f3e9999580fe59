package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/internal/mqttdevice"
	"vitalwatch/internal/simulator"
)

// SimulateCmd publishes for virtual patients.
type SimulateCmd struct {
	Broker       string        `required:"" placeholder:"URL" help:"Address of the broker, such as tcp://127.0.0.1:1883."`
	Patients     int           `required:"" placeholder:"N" help:"How many virtual patients, one device each."`
	Speed        float64       `default:"1" placeholder:"X" help:"How many times faster than ours their time runs; readings are stamped with our time all the same."`
	Seed         uint64        `default:"1" placeholder:"S" help:"Same seed, same readings."`
	For          time.Duration `placeholder:"D" help:"End after so long; without it, at Ctrl-C."`
	DevicePrefix string        `default:"sim" placeholder:"PREFIX" help:"Device ids are PREFIX-001, PREFIX-002, …"`
	Credentials  string        `placeholder:"FILE" help:"Secrets of the devices, one \"device secret\" a line; without it the server must be open."`
	History      time.Duration `placeholder:"D" help:"First publish so much of each patient's past, with its own times."`
}

// Run simulates and prints one summary line.
func (c *SimulateCmd) Run() error {
	if c.Patients < 1 {
		return misused("--patients: write a number above 0")
	}
	cfg := simulator.Config{Broker: c.Broker, Patients: c.Patients, Speed: c.Speed, Seed: c.Seed, For: c.For, DevicePrefix: c.DevicePrefix,
		History: c.History, GiveUp: 30 * time.Second, Log: zerolog.New(os.Stderr).With().Timestamp().Str("component", "simulator").Logger()}
	if err := mqttdevice.CheckBroker(c.Broker); err != nil {
		return misused("--broker: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return misused("simulate: %w", err)
	}
	if c.Credentials != "" {
		f, err := os.Open(c.Credentials)
		if err != nil {
			return fmt.Errorf("--credentials: %w", err)
		}
		cfg.Credentials, err = simulator.ReadCredentials(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("--credentials: %w", err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := simulator.Run(ctx, cfg)
	fmt.Printf("patients %d, readings %d, acknowledged %d, errors heard %d\n", c.Patients, s.Measured, s.Acknowledged, s.Refused)
	if err != nil {
		if errors.Is(err, mqttdevice.ErrRefused) && c.Credentials == "" {
			return fmt.Errorf("simulate: %w; give the devices' secrets with --credentials, or let the server run with registration: open", err)
		}
		return fmt.Errorf("simulate: %w", err)
	}
	return nil
}
