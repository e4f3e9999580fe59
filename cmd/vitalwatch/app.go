package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/alerting/conditions"
	"vitalwatch/alerting/escalation"
	"vitalwatch/alerting/hooks"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/configs"
	"vitalwatch/devices"
	"vitalwatch/devices/catalogue"
	"vitalwatch/devices/routes"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/ingest/subscriber"
	"vitalwatch/storage"
	"vitalwatch/storage/embedded"
	"vitalwatch/storage/influx"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
	"vitalwatch/web"
	"vitalwatch/web/console"
)

// App is the running server: every part, in the order in which they start.
type App struct {
	cfg *Config
	log zerolog.Logger
	reg *prometheus.Registry

	db       *sqlite.DB
	people   *care.Registry
	follow   *follower // of what the command line writes
	devices  *devices.Registry
	models   *catalogue.Catalogue
	weights  *ingest.Weights
	packs    *conditions.Packs
	journal  *journal.Journal
	store    *embedded.Store // what rules look back on; with InfluxDB the recent past only
	influx   *influx.Store   // nil unless storage.readings is influxdb
	writer   *influx.Writer  // the same
	answer   atomic.Pointer[influxAnswer]
	readings storage.Readings // what the API reads
	behind   behind           // what the local store does not have yet
	ledger   *ledger.Ledger
	courier  *escalation.Courier
	monitor  *alerting.Monitor
	pipeline *ingest.Pipeline
	topics   *routes.Topics
	auth     *web.Auth
	cover    *coverer
	web      *web.Server
	http     *http.Server
	httpAddr net.Addr
	sessions *sessions.Store
	door     *mqttd.Server
	sockets  *sockets
	reloads  []func() error // what SIGHUP does
	broker   *subscriber.Subscriber

	metrics   *ingest.Metrics
	consumers []*ingest.Consumer
	stops     []stop
	failed    chan error // a part that ended although nobody asked it to

	doorOpen   atomic.Bool // devices may connect
	restarting atomic.Bool // Stop keeps the sockets for the next process
}

// stop is one step of the shutdown, in the reverse order of the start.
type stop struct {
	name string
	f    func(context.Context) error
}

// shutdownAfter bounds the whole shutdown; a step that hangs is left behind and named.
const shutdownAfter = 20 * time.Second

// startApp starts everything. When it fails, what had started is stopped again.
func startApp(ctx context.Context, cfg *Config, log zerolog.Logger) (*App, error) {
	return startParts(ctx, cfg, log, "")
}

// startParts starts what comes up to a step: commands work with a server that has no doors.
func startParts(ctx context.Context, cfg *Config, log zerolog.Logger, last string) (a *App, err error) {
	if err := checkNotRestoring(cfg); err != nil {
		return nil, err
	}
	a = &App{cfg: cfg, log: log, sockets: takeSockets(log), reg: prometheus.NewRegistry(), failed: make(chan error, 8)}
	a.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Stop())
		}
	}()
	for _, step := range []struct {
		name string
		f    func(context.Context) error
	}{
		{"condition packs", a.openPacks},
		{"formats and routes", a.openRoutes},
		{"state database", a.openState},
		{"journal", a.openJournal},
		{"readings store", a.openStore},
		{"InfluxDB", a.openInflux},
		{"ledger and hooks", a.openLedger},
		{"alert monitor", a.openMonitor},
		{"intake", a.openIntake},
		{"web", a.openWeb},
		{"consumers", a.startConsumers},
		{"operations", a.startOperations},
		{"HTTP", a.startHTTP},
		{"MQTT front door", a.startDoor},
		{"external broker", a.startBroker},
	} {
		if err := step.f(ctx); err != nil {
			return a, fmt.Errorf("start %s: %w", step.name, err)
		}
		if step.name == last {
			return a, nil
		}
	}
	a.sockets.started()
	return a, nil
}

// onStop adds a shutdown step, run before those added earlier.
func (a *App) onStop(name string, f func(context.Context) error) {
	a.stops = append(a.stops, stop{name, f})
}

// Stop ends everything in the reverse order of the start: first nothing new comes in, then what is in is carried
// through, then the stores close. It takes at most shutdownAfter.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownAfter)
	defer cancel()
	var errs []error
	for i := len(a.stops) - 1; i >= 0; i-- {
		s := a.stops[i]
		done := make(chan error, 1)
		go func() { done <- s.f(ctx) }()
		select {
		case err := <-done:
			if err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
			}
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("stop %s: still running after %v", s.name, shutdownAfter))
		}
	}
	a.stops = nil
	if !a.restarting.Load() {
		a.sockets.close()
	}
	return errors.Join(errs...)
}

// run starts a part's goroutine; it ends with the part's stop step, and must not end by itself.
func (a *App) run(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := f(ctx)
		if ctx.Err() == nil {
			select {
			case a.failed <- fmt.Errorf("%s ended by itself: %w", name, errors.Join(err, errEnded)):
			default:
			}
		} else if err != nil {
			a.log.Error().Err(err).Str("part", name).Msg("part ended badly")
		}
	}()
	a.onStop(name, func(wait context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-wait.Done():
			return wait.Err()
		}
	})
}

var errEnded = errors.New("nobody asked it to")

// every runs f now and then until the shutdown; its errors are logged once until it works again.
func (a *App) every(name string, d time.Duration, f func(context.Context) error) {
	a.run(name, func(ctx context.Context) error {
		t := time.NewTicker(d)
		defer t.Stop()
		failing := false
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
			err := f(ctx)
			if err != nil && ctx.Err() == nil && !failing {
				a.log.Warn().Err(err).Str("part", name).Msg("failed, trying again")
			}
			failing = err != nil
		}
	})
}

func (a *App) openPacks(context.Context) (err error) {
	if a.packs, err = loadPacks(a.cfg); err != nil {
		return err
	}
	return checkDefaults(a.cfg, a.packs)
}

func (a *App) openState(ctx context.Context) (err error) {
	if a.db, err = sqlite.Open(a.cfg.statePath()); err != nil {
		return err
	}
	a.onStop("state database", func(context.Context) error { return a.db.Close() })
	a.every("checkpoint", 2*time.Second, a.db.Checkpoint)
	if err := migrateOperations(ctx, a.db); err != nil {
		return err
	}
	seen, err := a.db.ChangedByOthers(ctx) // before anything is read: what changes meanwhile is read again
	if err != nil {
		return err
	}
	if a.people, err = care.Open(ctx, a.db); err != nil {
		return err
	}
	a.people.CheckConditions(a.packs.Conditions)
	if a.devices, err = devices.Open(ctx, a.db, a.people); err != nil {
		return err
	}
	if err := a.openIdentity(); err != nil {
		return err
	}
	a.run("device status", func(ctx context.Context) error {
		return a.devices.Run(ctx, func(err error) { a.log.Warn().Err(err).Msg("device status cannot be written, trying again") })
	})
	if a.sessions, err = sessions.Open(ctx, a.db, sessions.Options{Warn: func(err error) {
		a.log.Warn().Err(err).Msg("sessions and messages of devices cannot be written, trying again")
	}}); err != nil {
		return err
	}
	a.onStop("sessions", func(context.Context) error { return a.sessions.Close() })
	a.every("messages to devices", time.Minute, a.sessions.Sweep)
	// The command line works beside the server on the same database.
	a.follow = &follower{db: a.db, people: a.people, things: a.devices}
	a.every("refresh", followEvery, func(ctx context.Context) error {
		now, err := a.db.ChangedByOthers(ctx)
		if err != nil || now == seen {
			return err
		}
		if _, err := a.people.Refresh(ctx); err != nil {
			return err
		}
		if _, err := a.devices.Refresh(ctx); err != nil {
			return err
		}
		if _, err := a.sessions.Refresh(ctx); err != nil {
			return err
		}
		seen = now
		return nil
	})
	return nil
}

const (
	consumerStore  = "store"
	consumerAlerts = "alerts"
)

func (a *App) openJournal(context.Context) (err error) {
	o := a.cfg.journalOptions()
	o.Logger = a.log.With().Str("component", "journal").Logger()
	if a.journal, err = journal.Open(a.cfg.journalPath(), o); err != nil {
		return err
	}
	a.reg.MustRegister(a.journal.Collectors()...)
	a.onStop("journal", func(context.Context) error { return a.journal.Close() })
	return nil
}

func (a *App) openStore(ctx context.Context) (err error) {
	a.store, err = embedded.Open(a.cfg.readingsPath(), embedded.Options{Logger: a.log.With().Str("component", "store").Logger()})
	if err != nil {
		return err
	}
	a.reg.MustRegister(a.store.Collectors()...)
	a.onStop("readings store", func(ctx context.Context) error {
		return errors.Join(a.store.Flush(ctx), a.store.Close())
	})
	return nil
}

func (a *App) openLedger(ctx context.Context) (err error) {
	set, err := hooks.Open(a.cfg.Hooks, hooks.Options{})
	if err != nil {
		return err
	}
	if a.ledger, err = ledger.Open(ctx, a.db, ledger.Options{Router: set, Log: a.log}); err != nil {
		return err
	}
	var channels []escalation.Channel
	for _, w := range set {
		channels = append(channels, w)
	}
	if a.courier, err = escalation.New(a.ledger, channels, escalation.Options{Log: a.log, Metrics: escalation.NewMetrics(a.reg)}); err != nil {
		return err
	}
	a.ledger.Subscribe(a.courier.Notify)
	a.ledger.Subscribe(countTransitions(a.reg))
	a.run("courier", a.courier.Run)
	a.every("history", 10*time.Minute, a.ledger.Prune)
	return nil
}

// countTransitions counts what the ledger committed.
func countTransitions(reg prometheus.Registerer) func([]ledger.Event) {
	n := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_alert_transitions_total",
		Help: "Committed transitions of alerts, by kind and the alert's severity after it."}, []string{"transition", "severity"})
	reg.MustRegister(n)
	for _, s := range []alerting.Severity{alerting.Info, alerting.Warning, alerting.Critical, alerting.Emergency} {
		n.WithLabelValues(string(alerting.Opened), s.String()) // so that the first one is an increase
	}
	return func(events []ledger.Event) {
		for i := range events {
			t := &events[i].Transition
			n.WithLabelValues(string(t.Kind), t.Severity.String()).Inc()
		}
	}
}

func (a *App) openMonitor(ctx context.Context) error {
	a.monitor = alerting.NewMonitor(alerting.MonitorConfig{
		Cursor:                 a.ledger.Cursor(),
		Rules:                  a.rulesOf,
		OpenAlerts:             a.openAlerts,
		PatientsWithOpenAlerts: a.patientsWithOpenAlerts,
		History:                a.history,
		Commit:                 a.commit,
		Last:                   a.journal.Last,
		Now:                    time.Now,
		Metrics:                alerting.NewMonitorMetrics(a.reg),
		Log:                    a.log.With().Str("component", "monitor").Logger(),
	})
	a.people.Subscribe(a.monitor.RulesChanged)
	return nil
}

func (a *App) openIntake(context.Context) error {
	a.metrics = ingest.NewMetrics(a.reg)
	a.weights = ingest.NewWeights(a.weighed, time.Now)
	a.pipeline = ingest.New(ingest.Config{Owners: ingest.Owners{Given: a.devices.Given, Weight: a.weights.Before},
		Devices: a.devices, Journal: a.journal, Store: a.readings, Register: a.register(), Now: time.Now, Metrics: a.metrics,
		Evidence: a.cfg.journalOptions().Evidence.Keep > 0, Routes: a.topics, Explain: a.explainError})
	return nil
}

func (a *App) startConsumers(context.Context) error {
	m := a.metrics
	log := a.log.With().Str("component", "ingest").Logger()
	add := func(name string, s ingest.Sink, done prometheus.Counter) {
		c := ingest.NewConsumer(name, a.journal, s, m, done, log)
		a.consumers = append(a.consumers, c)
		a.run("consumer "+name, c.Run)
	}
	add(consumerStore, &storeSink{a.store}, m.Stored("embedded"))
	if a.influx != nil {
		a.startInflux(m, func(s ingest.Sink, done prometheus.Counter) *ingest.Consumer {
			c := ingest.NewConsumer(consumerInflux, a.journal, s, m, done, log)
			a.consumers = append(a.consumers, c)
			return c
		})
	}
	a.startTrimming()
	a.run("alert clock", a.monitor.Run)
	add(consumerAlerts, &alertSink{a.monitor, a.web, a.startRemeasure()}, m.Evaluated())
	a.cover.watchUs()
	a.every("release", time.Second, func(context.Context) error {
		for _, c := range a.consumers {
			c.Release()
		}
		return nil
	})
	// Before the consumers are stopped, what is journaled gets a moment to be carried through.
	a.onStop("drain", func(ctx context.Context) error {
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		for {
			level := true
			for _, c := range a.consumers {
				// An InfluxDB that is away is not waited for.
				level = level && (c.Level() || c.Name() == consumerInflux && a.writer.State() != nil)
			}
			if level {
				return nil
			}
			select {
			case <-wait.Done():
				a.log.Info().Msg("stopping with readings not yet evaluated; they are first after the restart")
				return nil
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return nil
}

// register makes records for unknown devices, or is nil with closed registration.
func (a *App) register() func(context.Context, vitals.DeviceID) (*devices.Handle, error) {
	if a.cfg.Registration != "open" {
		return nil
	}
	return func(ctx context.Context, id vitals.DeviceID) (*devices.Handle, error) {
		return a.devices.Register(ctx, id, a.cfg.DefaultConditions)
	}
}

func (a *App) openWeb(ctx context.Context) (err error) {
	if a.auth, err = web.OpenAuth(ctx, a.db); err != nil {
		return err
	}
	a.cover = a.newCoverer()
	var down web.Commands
	if a.cfg.MQTT.Embedded.Enabled { // a broker of the operator's takes nothing from us but answers
		down = a.sessions
	}
	a.web, err = web.New(web.Deps{
		Commands: down,
		Fresh:    a.follow.now,
		Auth:     a.auth, Patients: a.people, Readings: a.readings, Ledger: webLedger{a.ledger, a.courier}, Monitor: a.monitor, Quarantine: a.journal, Evidence: a.journal,
		Pipeline: web.NewPipeline(a.pipeline), Thresholds: a.thresholds, Checks: a.checks(), Console: console.Handler(),
		Registry: a.reg, Log: a.log.With().Str("component", "web").Logger(), DeviceDeps: a.deviceDeps(), Coverage: a.cover.Coverage,
	}, web.Config{Listen: a.cfg.HTTP.Listen, Anonymous: a.cfg.Auth.Anonymous, Version: versionString()})
	if err != nil {
		return err
	}
	a.onStop("web", a.web.Shutdown)
	return nil
}

func (a *App) startHTTP(context.Context) error {
	ln, err := a.sockets.listen("http", a.cfg.HTTP.Listen)
	if err != nil {
		return fmt.Errorf("http.listen: %w; is another server running?", err)
	}
	a.httpAddr = ln.Addr()
	a.http = web.HTTPServer(a.web.Handler())
	if t := a.cfg.HTTP.TLS; t.enabled() {
		certs, err := mqttd.LoadCertificates(mqttd.TLSFiles{CertFile: t.CertFile, KeyFile: t.KeyFile})
		if err != nil {
			return fmt.Errorf("http.tls: %w", err)
		}
		a.http.TLSConfig = certs.Config()
		a.watchCertificates("http.tls", certs)
	} else if !loopback(a.cfg.HTTP.Listen) {
		a.log.Warn().Str("address", ln.Addr().String()).Msg("console and API speak plain HTTP where others can reach them: set http.tls, or let only a proxy with TLS come here")
	}
	a.http.ConnState, a.http.ErrorLog = atMost(maxHTTPConnections), stdlog.New(io.Discard, "", 0)
	a.run("HTTP", func(ctx context.Context) error {
		stopped := make(chan error, 1)
		stop := context.AfterFunc(ctx, func() {
			wait, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			stopped <- a.http.Shutdown(wait)
		})
		defer stop()
		var err error
		if t := a.cfg.HTTP.TLS; t.enabled() {
			err = a.http.ServeTLS(ln, "", "")
		} else {
			err = a.http.Serve(ln)
		}
		if errors.Is(err, http.ErrServerClosed) {
			err = <-stopped
		}
		return err
	})
	return nil
}

// HTTPAddr is the address of console and API.
func (a *App) HTTPAddr() string {
	scheme := "http"
	if a.cfg.HTTP.TLS.enabled() {
		scheme = "https"
	}
	return scheme + "://" + a.httpAddr.String()
}

// cycleWithin is how old the last turn of the alert clock may be, stallAfter how long a consumer may be refused by
// its store, before the server says that it is not ready.
const (
	cycleWithin = 5 * time.Second
	stallAfter  = 10 * time.Second
)

// checks are the questions of /readyz: the journal can write, and a full evaluation cycle has just turned.
func (a *App) checks() []web.Check {
	return []web.Check{
		{Name: "journal", Run: func(context.Context) error { return a.journal.Err() }},
		{Name: "store", Run: func(context.Context) error { return a.store.Err() }},
		{Name: "alerts", Run: func(context.Context) error { return a.turning() }},
		{Name: "consumers", Run: func(context.Context) error {
			for _, c := range a.consumers {
				if c.Name() == consumerInflux {
					continue // a check of its own, which leaves the server ready
				}
				if since := c.Stalled(); !since.IsZero() && time.Since(since) > stallAfter {
					return fmt.Errorf("consumer %s has been stopped by an error since %s; see the log", c.Name(), since.UTC().Format(time.RFC3339))
				}
			}
			return nil
		}},
		{Name: consumerInflux, Run: a.checkInflux},
		{Name: "mqtt", Run: func(context.Context) error {
			if a.cfg.MQTT.Embedded.Enabled && !a.doorOpen.Load() {
				return errors.New("the MQTT front door does not listen yet")
			}
			return nil
		}},
		{Name: "broker", Run: func(context.Context) error {
			if a.broker == nil {
				return nil
			}
			return a.broker.Ready()
		}},
	}
}

func (a *App) startBroker(ctx context.Context) (err error) {
	e := &a.cfg.MQTT.External
	if e.URL == "" {
		return nil
	}
	a.broker, err = subscriber.New(subscriber.Config{URL: e.URL, ClientID: e.ClientID, Username: e.Username, PasswordFile: e.PasswordFile, Topics: e.Topics,
		TLS: subscriber.TLSFiles(e.TLS)},
		subscriber.Deps{Intake: brokerIntake{a.pipeline}, Status: statusSink{a}, Routes: a.topics, Meet: a.meet(), Log: a.log.With().Str("component", "broker").Logger()})
	if err != nil {
		return err
	}
	a.reg.MustRegister(a.broker.Collectors()...)
	a.run("external broker", a.broker.Run)
	return nil
}

// meet registers new devices together, where registration is open. An error is the message's, which tries again.
func (a *App) meet() func(context.Context, []vitals.DeviceID) {
	register := a.register()
	if register == nil {
		return nil
	}
	return func(ctx context.Context, ids []vitals.DeviceID) {
		var wg sync.WaitGroup
		for _, id := range ids {
			if a.devices.Find(id) == nil {
				wg.Go(func() { _, _ = register(ctx, id) })
			}
		}
		wg.Wait()
	}
}

// loadPacks reads the embedded packs and the operator's own over them.
func loadPacks(cfg *Config) (*conditions.Packs, error) {
	return conditions.Load(cfg.Conditions.Guideline, append([]conditions.Source{{Name: "embedded", FS: configs.Conditions()}}, dirSources(cfg.Conditions.Dirs)...)...)
}

func dirSources(dirs []string) (out []conditions.Source) {
	for _, d := range dirs {
		out = append(out, conditions.Source{Name: filepath.Clean(d), FS: os.DirFS(d)})
	}
	return out
}

// checkDefaults: the conditions of open registration must be known.
func checkDefaults(cfg *Config, packs *conditions.Packs) error {
	for _, name := range cfg.DefaultConditions {
		if err := checkCondition(packs, name); err != nil {
			return fmt.Errorf("default_conditions: %w", err)
		}
	}
	return nil
}

// checkCondition says why a person cannot have a condition.
func checkCondition(packs *conditions.Packs, name string) error {
	if name == conditions.General {
		return fmt.Errorf("%q holds for everybody: leave it out", name)
	}
	_, err := packs.Compile([]string{name})
	return err
}
