package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"vitalwatch/alerting"
	"vitalwatch/alerting/hooks"
	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/internal/simulator"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// DemoCmd shows everything at once: a server in a temporary folder, simulated patients whose devices publish over
// real MQTT, and a receiver that verifies the webhooks it gets.
type DemoCmd struct {
	HTTP     string        `name:"http" default:"127.0.0.1:8080" help:"Address of the console; a free port is taken when it is in use."`
	MQTT     string        `name:"mqtt" default:"127.0.0.1:1883" help:"Address of the front door; a free port is taken when it is in use."`
	Patients int           `default:"14" help:"How many simulated patients."`
	Seed     uint64        `default:"1" help:"Same seed, same readings."`
	For      time.Duration `help:"End after so long; without it, at Ctrl-C." placeholder:"D"`
	Log      string        `default:"warn" enum:"debug,info,warn,error" help:"Level of the server's log, on stderr."`
}

// Run runs the demo until Ctrl-C.
func (c *DemoCmd) Run(k *kong.Context) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	dir, err := os.MkdirTemp("", "vitalwatch-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	receiver, secret, err := startReceiver(k.Stdout)
	if err != nil {
		return err
	}
	defer receiver.Close()

	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.Log.Level, cfg.Log.Format = c.Log, "console"
	cfg.Auth.Anonymous = true
	for _, l := range []struct {
		want string
		to   *string
	}{{c.HTTP, &cfg.HTTP.Listen}, {c.MQTT, &cfg.MQTT.Embedded.Listen}} {
		if *l.to, err = freeOr(l.want); err != nil {
			return err
		}
		if !loopback(*l.to) {
			return fmt.Errorf("%s is not a loopback address: the demo shows everything without a login", *l.to)
		}
	}
	cfg.Hooks = []hooks.Config{{Name: "demo-desk", URL: "http://" + receiver.Addr().String() + "/hook", Secrets: []hooks.Secret{hooks.Secret(secret)},
		MinSeverity: alerting.Warning, AllowPrivate: true}}

	log := newLogger(cfg, k.Stderr)
	mem := newCollector(os.Getenv("GOGC") == "")
	app, err := startApp(ctx, cfg, log)
	if err != nil {
		return err
	}
	app.every("memory", time.Second, mem.tune)
	password, sim, err := c.people(ctx, app)
	if err != nil {
		return fmt.Errorf("%w (stopping: %v)", err, app.Stop())
	}
	sim.Log = log.With().Str("component", "simulator").Logger()
	fmt.Fprintf(k.Stdout, `
vitalwatch demo: %d simulated people, their devices publish to %s

  console   %s
  login     coach
  password  %s

Looking needs no login here; acknowledging and resolving does. Alerts open within two minutes.
Webhooks that arrive are listed below, with their signature checked. Ctrl-C ends the demo and removes %s.

`, c.Patients, app.door.Addr(), app.HTTPAddr(), password, dir)

	simDone := make(chan error, 1)
	go func() {
		_, err := simulator.Run(ctx, sim)
		simDone <- err
	}()
	err = waitAndStop(ctx, stop, app, log)
	if simErr := <-simDone; err == nil {
		err = simErr
	}
	return err
}

// people makes the coach, the patients and their devices, as an operator would.
func (c *DemoCmd) people(ctx context.Context, app *App) (password string, sim simulator.Config, err error) {
	var b [9]byte
	rand.Read(b[:])
	password = base64.RawURLEncoding.EncodeToString(b[:])
	if err := app.auth.CreateUser(ctx, "coach", password, web.Coach, nil); err != nil {
		return "", sim, err
	}
	sim = simulator.Config{Broker: "tcp://" + app.door.Addr().String(), Patients: c.Patients, Seed: c.Seed, DevicePrefix: "demo",
		Scripted: true, History: 72 * time.Hour, Start: time.Now(), Credentials: map[string]string{}}
	for _, p := range simulator.Roster(sim) {
		if _, err := app.people.Add(ctx, care.Patient{ID: vitals.PatientID(p.ID), Name: p.Name["zh-CN"] + " " + p.Name["en"], Conditions: p.Conditions}); err != nil {
			return "", sim, err
		}
		_, secret, err := app.devices.Add(ctx, devices.New{ID: vitals.DeviceID(p.Device), Patient: vitals.PatientID(p.ID)})
		if err != nil {
			return "", sim, err
		}
		sim.Credentials[p.Device] = secret
	}
	return password, sim, nil
}

// freeOr returns addr when nobody listens there, else the same host with a free port.
func freeOr(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(addr)
		if splitErr != nil {
			return "", fmt.Errorf("%q is not host:port", addr)
		}
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return "", err
		}
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startReceiver runs the webhook receiver and prints what it gets. It verifies with the public library and not with
// our own code, so that it would notice if we signed wrongly.
func startReceiver(out io.Writer) (net.Listener, string, error) {
	var b [32]byte
	rand.Read(b[:])
	secret := "whsec_" + base64.StdEncoding.EncodeToString(b[:])
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, "", err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hook", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
		if err != nil {
			http.Error(w, "unreadable", http.StatusBadRequest)
			return
		}
		if err := verifier.Verify(body, r.Header); err != nil {
			fmt.Fprintln(out, "webhook refused: the signature does not verify")
			http.Error(w, "signature", http.StatusUnauthorized)
			return
		}
		var m struct {
			Type string `json:"type"`
			Data struct {
				PatientID string            `json:"patient_id"`
				Severity  string            `json:"severity"`
				Title     map[string]string `json:"title"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &m); err != nil {
			http.Error(w, "not JSON", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(out, "%s webhook %-18s %-9s %-14s %s / %s  (signature verified, id %s)\n", time.Now().Format("15:04:05"),
			m.Type, m.Data.Severity, m.Data.PatientID, m.Data.Title["zh-CN"], m.Data.Title["en"], r.Header.Get("webhook-id"))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: nil}
	go srv.Serve(ln) // ends with the listener
	return ln, secret, nil
}
