package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/vitals"
)

// commandFlags open what goes down to devices, beside a running server too, which sends it within about a second.
type commandFlags struct {
	registryFlags
	ID string `arg:"" help:"Device id."`
}

// open gives the store and checks that the device is there, and a front door to send it through.
func (f *commandFlags) open(ctx context.Context) (*sessions.Store, func(), error) {
	cfg, err := LoadConfig(f.Config, os.LookupEnv)
	if err != nil {
		return nil, nil, err
	}
	if !cfg.MQTT.Embedded.Enabled {
		return nil, nil, errors.New("nothing can be sent to devices: they come through an external broker here; enable mqtt.embedded")
	}
	_, things, closeRegistry, err := f.registryFlags.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	closeRegistry()
	if things.Find(vitals.DeviceID(f.ID)) == nil {
		return nil, nil, fmt.Errorf("there is no device %s; list them with: vitalwatch device list", f.ID)
	}
	db, err := openState(f.Config, false)
	if err != nil {
		return nil, nil, err
	}
	store, err := sessions.Open(ctx, db, sessions.Options{})
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return store, func() { store.Close(); db.Close() }, nil
}

// DeviceSendCmd sends a command to a device.
type DeviceSendCmd struct {
	commandFlags
	Cmd    string        `arg:"" enum:"remeasure,remind,message" help:"remeasure, remind or message."`
	TextZH string        `name:"text-zh" placeholder:"TEXT" help:"Text in Chinese."`
	TextEN string        `name:"text-en" placeholder:"TEXT" help:"Text in English."`
	Valid  time.Duration `default:"24h" help:"How long it may wait for the device."`
}

// Run prints the command's id.
func (c *DeviceSendCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	store, closeStore, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	text := map[string]string{}
	for lang, t := range map[string]string{"zh-CN": c.TextZH, "en": c.TextEN} {
		if t != "" {
			text[lang] = t
		}
	}
	id, err := store.Command(ctx, vitals.DeviceID(c.ID), sessions.Command{Cmd: c.Cmd, Text: text, ExpiresAt: vitals.At(time.Now().Add(c.Valid))})
	if err != nil {
		return err
	}
	fmt.Fprintln(k.Stdout, id)
	fmt.Fprintf(k.Stderr, "it goes to %s when it is connected and subscribed to its down/cmd; see: vitalwatch device commands %s\n", c.ID, c.ID)
	return nil
}

// DeviceCommandsCmd lists what was sent to a device.
type DeviceCommandsCmd struct {
	commandFlags
	Limit int `default:"20" help:"How many, newest first."`
}

// Run prints a table.
func (c *DeviceCommandsCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	store, closeStore, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	list, err := store.List(ctx, vitals.DeviceID(c.ID), 0, min(max(c.Limit, 1), 10_000))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(k.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTOPIC\tSTATE\tCREATED\tEXPIRES\tSENT\tDELIVERED\tANSWERED\tRESULT\tDETAIL")
	at := func(m vitals.Micros) string {
		if m == 0 {
			return "-"
		}
		return m.Time().Format(time.RFC3339)
	}
	for _, m := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, m.Topic, m.State, at(m.CreatedAt), at(m.ExpiresAt), at(m.SentAt), at(m.DeliveredAt), at(m.AnsweredAt), m.Result, m.Detail)
	}
	return w.Flush()
}

// DeviceConfigCmd shows or sets the retained down/config of a device.
type DeviceConfigCmd struct {
	commandFlags
	Set   string `type:"path" placeholder:"FILE" xor:"what" help:"Make this JSON file the device's configuration; - is stdin."`
	Clear bool   `xor:"what" help:"Take the configuration away."`
}

// Run prints the configuration in force unless it changes it.
func (c *DeviceConfigCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	store, closeStore, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	device := vitals.DeviceID(c.ID)
	switch {
	case c.Clear:
		return store.SetConfig(ctx, device, nil)
	case c.Set != "":
		var b []byte
		if c.Set == "-" {
			b, err = io.ReadAll(io.LimitReader(os.Stdin, sessions.MaxPayload+1))
		} else {
			b, err = os.ReadFile(c.Set)
		}
		if err != nil {
			return err
		}
		if !json.Valid(b) {
			return errors.New("the configuration is not JSON; devices get it as it is")
		}
		return store.SetConfig(ctx, device, b)
	}
	r, ok, err := store.Config(ctx, device)
	if err != nil {
		return err
	}
	if !ok || len(r.Payload) == 0 {
		fmt.Fprintf(k.Stderr, "device %s has no configuration; set one with --set FILE\n", c.ID)
		return nil
	}
	fmt.Fprintf(k.Stdout, "%s\n", r.Payload)
	known := "the device has not acknowledged it yet"
	if r.Delivered >= r.Rev {
		known = "the device has acknowledged it"
	}
	fmt.Fprintf(k.Stderr, "set %s; %s\n", r.UpdatedAt.Time().Format(time.RFC3339), known)
	return nil
}
