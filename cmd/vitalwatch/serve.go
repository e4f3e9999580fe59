package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/journal"
)

// ServeCmd runs the server.
type ServeCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file (YAML); see configs/vitalwatch.yaml."`
}

// Run serves until SIGINT or SIGTERM, then stops within 20 s. A second signal ends at once.
func (c *ServeCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	log := newLogger(cfg, k.Stderr)
	mem := newCollector(os.Getenv("GOGC") == "")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, reloadSignal, restartSignal)
	defer signal.Stop(signals)
	app, err := startApp(ctx, cfg, log)
	if err != nil {
		return err
	}
	ev, said := log.Info(), "ready"
	if err := app.journal.Err(); err != nil {
		ev, said = log.Warn().Err(err), "started, but readings cannot be taken yet; see /readyz or: vitalwatch health"
	}
	ev.Str("version", versionString()).Str("http", app.HTTPAddr()).Str("data_dir", cfg.DataDir)
	if app.door != nil {
		ev.Str("mqtt", app.door.Addr().String())
	}
	ev.Msg(said)
	systemd := newNotifier(log)
	app.run("watchdog", func(ctx context.Context) error { return systemd.watch(ctx, app.turning) })
	systemd.tell(daemon.SdNotifyReady)
	defer context.AfterFunc(ctx, func() {
		if !app.restarting.Load() {
			systemd.tell(daemon.SdNotifyStopping)
		}
	})()
	app.every("memory", time.Second, mem.tune)
	app.run("signals", func(ctx context.Context) error { return c.obey(ctx, signals, app, cancel, log) })
	err = waitAndStop(ctx, stop, app, log)
	if app.restarting.Load() {
		log.Info().Err(err).Msg("restarting in place")
		return errors.Join(err, app.sockets.restart())
	}
	return err
}

// obey does what signals ask for while the server runs: SIGHUP reloads certificates, SIGUSR2 restarts in place.
func (c *ServeCmd) obey(ctx context.Context, signals <-chan os.Signal, app *App, stop func(), log zerolog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case sig := <-signals:
			if sig == reloadSignal {
				if err := app.Reload(); err != nil {
					log.Error().Err(err).Msg("reload")
				}
				continue
			}
			if err := app.sockets.ready(c.Config); err != nil {
				log.Error().Err(err).Msg("restart in place")
				continue
			}
			app.restarting.Store(true)
			stop()
		}
	}
}

// waitAndStop waits for a signal, or for a part that ended, and shuts down.
func waitAndStop(ctx context.Context, stop func(), app *App, log zerolog.Logger) error {
	var failed error
	select {
	case <-ctx.Done():
		stop() // from here on a second signal ends the process at once
		log.Info().Msg("stopping; press Ctrl-C again to end at once")
	case failed = <-app.failed:
		log.Error().Err(failed).Msg("stopping because a part of the server ended")
	}
	begin := time.Now()
	err := errors.Join(failed, app.Stop())
	log.Info().Int64("duration_ms", time.Since(begin).Milliseconds()).Bool("clean", err == nil).Msg("stopped")
	return err
}

// isTerminal says whether somebody reads along; a file or a pipe gets no colours.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	i, err := f.Stat()
	return err == nil && i.Mode()&os.ModeCharDevice != 0
}

func newLogger(cfg *Config, w io.Writer) zerolog.Logger {
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	if cfg.Log.Format == "console" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !isTerminal(w)}
	}
	level, err := zerolog.ParseLevel(cfg.Log.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// JournalCmd looks after the journal.
type JournalCmd struct {
	Verify JournalVerifyCmd `cmd:"" help:"Read the whole journal and report damage. The server must not be running on it."`
}

// JournalVerifyCmd reads everything.
type JournalVerifyCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file that names the data folder."`
}

// Run prints what was found and fails when something is damaged.
func (c *JournalVerifyCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	rep, err := journal.Verify(cfg.journalPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no journal at %s; name the server's configuration with -c, or start it once", cfg.journalPath())
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: a server is running on this data folder; stop it first", err)
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(k.Stdout, "journal %s is sound: %d readings kept in %d records (sequence %d to %d), %d readings in the index of what was seen, %d messages in quarantine\n",
		cfg.journalPath(), rep.Readings, rep.Records, rep.First, rep.Last, rep.Seen, rep.Quarantined)
	return err
}
