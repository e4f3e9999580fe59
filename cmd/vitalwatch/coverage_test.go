package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/devices"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

func TestCoverage(t *testing.T) {
	const now = 100 * vitals.Day
	ago := func(d vitals.Micros) vitals.Micros { return now - d }
	reading := func(i vitals.Indicator, device vitals.DeviceID, at vitals.Micros) vitals.Reading {
		return vitals.Reading{Indicator: i, Device: device, TakenAt: at, ReceivedAt: at + vitals.Second}
	}
	bp := []vitals.Indicator{vitals.BloodPressure}
	// cuff is a bound cuff of a known model that was heard of an hour ago, changed by f.
	cuff := func(f func(*coverDevice)) coverDevice {
		d := coverDevice{id: "cuff", indicators: bp, bound: true, from: ago(50 * vitals.Day), created: ago(60 * vitals.Day), lastSeen: ago(vitals.Hour),
			clock: devices.Clock{Trust: devices.ClockOK}}
		if f != nil {
			f(&d)
		}
		return d
	}
	lost := func(at vitals.Micros) func(*coverDevice) {
		return func(d *coverDevice) { d.status, d.lastSeen = devices.Status{State: "lost", At: at}, at-vitals.Minute }
	}
	fresh := []vitals.Reading{reading(vitals.BloodPressure, "cuff", ago(vitals.Hour))}
	at := func(m vitals.Micros) string { return m.Time().Format(time.RFC3339) }
	is := func(why string, since vitals.Micros) []web.Coverage {
		c := web.Coverage{Indicator: "blood_pressure", Watched: why == "", Why: why}
		if since != 0 {
			c.Since = at(since)
		}
		return []web.Coverage{c}
	}
	for _, x := range []struct {
		name   string
		us     vitals.Micros
		latest []vitals.Reading
		ds     []coverDevice
		want   []web.Coverage
	}{
		{"nobody and nothing", 0, nil, nil, []web.Coverage{}},
		{"watched", 0, fresh, []coverDevice{cuff(nil)}, is("", ago(vitals.Hour))},
		{"just 48 hours", 0, []vitals.Reading{reading(vitals.BloodPressure, "cuff", ago(48*vitals.Hour))}, []coverDevice{cuff(nil)}, is("", ago(48*vitals.Hour))},
		{"older", 0, []vitals.Reading{reading(vitals.BloodPressure, "cuff", ago(49*vitals.Hour))}, []coverDevice{cuff(nil)}, is(whyNoReading, ago(49*vitals.Hour))},
		{"seen 31 days ago, by a model that is not known", 0, []vitals.Reading{reading(vitals.BloodPressure, "cuff", ago(31*vitals.Day))},
			[]coverDevice{cuff(func(d *coverDevice) { d.indicators = nil })}, []web.Coverage{}},
		{"seen 31 days ago, the model measures it", 0, []vitals.Reading{reading(vitals.BloodPressure, "cuff", ago(31*vitals.Day))}, []coverDevice{cuff(nil)}, is(whyNoReading, ago(31*vitals.Day))},
		{"a new device that sent nothing yet", 0, nil, []coverDevice{cuff(nil)}, is(whyNoReading, ago(50*vitals.Day))},
		{"bound from the beginning, sent nothing yet", 0, nil, []coverDevice{cuff(func(d *coverDevice) { d.from = 0 })}, is(whyNoReading, ago(60*vitals.Day))},
		{"what the model can and the device does not send", 0, fresh,
			[]coverDevice{cuff(func(d *coverDevice) { d.indicators = []vitals.Indicator{vitals.BloodPressure, vitals.HeartRate} })}, is("", ago(vitals.Hour))},
		{"no binding", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.bound, d.to = false, ago(vitals.Minute) })}, is(whyBinding, ago(vitals.Minute))},
		{"no trace of a binding", 0, fresh, nil, is(whyBinding, ago(vitals.Hour))},
		{"no binding, another device measures it", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.bound, d.to = false, ago(vitals.Minute) }),
			cuff(func(d *coverDevice) { d.id = "cuff-2" })}, is("", ago(vitals.Hour))},
		{"no binding, another device measures other things", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.bound, d.to = false, ago(vitals.Minute) }),
			cuff(func(d *coverDevice) { d.id, d.indicators = "none", []vitals.Indicator{} })}, is(whyBinding, ago(vitals.Minute))},
		{"no binding, another device may measure it", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.bound, d.to = false, ago(vitals.Minute) }),
			cuff(func(d *coverDevice) { d.id, d.indicators = "what", nil })}, is("", ago(vitals.Hour))},
		{"lost", 0, fresh, []coverDevice{cuff(lost(ago(vitals.Minute)))}, is(whyDevice, ago(vitals.Minute))},
		{"lost, and heard of since", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.status = devices.Status{State: "lost", At: ago(2 * vitals.Hour)} })}, is("", ago(vitals.Hour))},
		{"sleeping", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.status = devices.Status{State: "sleeping", At: ago(vitals.Minute)} })}, is("", ago(vitals.Hour))},
		{"disabled", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.disabled = true })}, is(whyDevice, ago(vitals.Hour))},
		{"lost, a second one is well", 0, fresh, []coverDevice{cuff(lost(ago(vitals.Minute))), cuff(func(d *coverDevice) { d.id = "cuff-2" })}, is("", ago(vitals.Hour))},
		{"both lost: the one that measured says since when", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { lost(ago(vitals.Second))(d); d.id = "cuff-2" }), cuff(lost(ago(vitals.Minute)))},
			is(whyDevice, ago(vitals.Minute))},
		{"gateway lost", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.gateways = []coverGateway{{ago(vitals.Minute)}} })}, is(whyGateway, ago(vitals.Minute))},
		{"gateway lost, the device lost with it", 0, fresh, []coverDevice{cuff(func(d *coverDevice) {
			lost(ago(vitals.Minute))(d)
			d.gateways = []coverGateway{{ago(vitals.Minute)}}
		})}, is(whyGateway, ago(vitals.Minute))},
		{"gateway lost, the device speaks for itself", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.gateways = []coverGateway{{ago(2 * vitals.Hour)}} })}, is("", ago(vitals.Hour))},
		{"one of two gateways lost", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.gateways = []coverGateway{{ago(vitals.Minute)}, {}} })}, is("", ago(vitals.Hour))},
		{"both gateways lost", 0, fresh, []coverDevice{cuff(func(d *coverDevice) { d.gateways = []coverGateway{{ago(vitals.Minute)}, {ago(vitals.Second)}} })}, is(whyGateway, ago(vitals.Second))},
		{"clock in doubt", 0, fresh, []coverDevice{cuff(func(d *coverDevice) {
			d.clock = devices.Clock{Trust: devices.ClockDoubtful, Since: ago(vitals.Day)}
		})}, is(whyClock, ago(vitals.Day))},
		{"clock corrected", 0, fresh, []coverDevice{cuff(func(d *coverDevice) {
			d.clock = devices.Clock{Trust: devices.ClockCorrected, Since: ago(vitals.Day)}
		})}, is("", ago(vitals.Hour))},
		{"the last time was doubtful", 0, func() []vitals.Reading {
			r := fresh[0]
			r.Freshness = vitals.Doubtful
			return []vitals.Reading{r}
		}(), []coverDevice{cuff(nil)}, is(whyClock, ago(vitals.Hour)+vitals.Second)},
		{"we ourselves, whatever else", ago(vitals.Minute), fresh, []coverDevice{cuff(lost(ago(vitals.Hour)))}, is(whyUs, ago(vitals.Minute))},
		{"a reading that counts no more", 0, func() []vitals.Reading {
			r := fresh[0]
			r.Extra = &vitals.Extra{Revision: `{"voided_at":"2026-01-01T00:00:00Z"}`}
			return []vitals.Reading{r}
		}(), nil, []web.Coverage{}},
	} {
		t.Run(x.name, func(t *testing.T) {
			if got := coverage(now, x.us, x.latest, x.ds); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", x.want) {
				t.Errorf("got  %+v\nwant %+v", got, x.want)
			}
		})
	}
}

func TestEndToEnd_Coverage(t *testing.T) {
	s := startServer(t, "registration: open\n")
	cli(t, s, "patient", "add", "P-1")
	cli(t, s, "device", "add", "cuff", "--no-secret", "--patient", "P-1", "--model", "HEM-7322T")
	covered := func() string {
		var p struct{ Coverage []web.Coverage }
		get(t, s, "/api/v1/patients/P-1", &p)
		if len(p.Coverage) != 1 || p.Coverage[0].Since == "" {
			return fmt.Sprintf("%+v", p.Coverage)
		}
		return fmt.Sprint(p.Coverage[0].Indicator, " ", p.Coverage[0].Watched, " ", p.Coverage[0].Why)
	}
	until := func(want string) {
		t.Helper()
		waitFor(t, want, func() bool { return covered() == want })
	}
	waitFor(t, "the server sees the patient", func() bool { // within a second of the command
		var l struct{ Items []struct{ ID string } }
		get(t, s, "/api/v1/patients", &l)
		return len(l.Items) == 1
	})
	until("blood_pressure false no_recent_reading")
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID("cuff").SetProtocolVersion(4))
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("MQTT: %v", tok.Error())
		}
	}
	wait(c.Connect())
	defer c.Disconnect(100)
	wait(c.Publish("vw/v1/cuff/up/readings", 1, false, fmt.Sprintf(`{"indicator":"blood_pressure","taken_at":%d,"values":{"systolic":122,"diastolic":80},"unit":"mm[Hg]"}`, time.Now().UnixMilli())))
	until("blood_pressure true ")
	wait(c.Publish("vw/v1/cuff/up/status", 1, true, `{"state":"lost"}`))
	until("blood_pressure false device")
	wait(c.Publish("vw/v1/cuff/up/status", 1, true, `{"state":"online"}`))
	until("blood_pressure true ")
	cli(t, s, "device", "unbind", "cuff")
	until("blood_pressure false binding")
}

// stalledSink refuses every block.
type stalledSink struct{}

func (stalledSink) Handle(context.Context, []vitals.Reading, uint64) error { return errors.New("no") }
func (stalledSink) Cursor() uint64                                         { return 0 }
func (stalledSink) Durable() uint64                                        { return 0 }

// A consumer that makes no headway is our fault, from when its store began to refuse, and until it goes on.
func TestCoverage_UsWhileAConsumerStands(t *testing.T) {
	j, err := journal.Open("j", journal.Options{FS: vfs.NewMem(), Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	r := vitals.Reading{Patient: "P-1", Device: "D-1", Indicator: vitals.HeartRate, Unit: vitals.PerMin, TakenAt: vitals.At(time.Now()), ReceivedAt: vitals.At(time.Now())}
	r.Set(vitals.Value, 60)
	if err := j.Append(t.Context(), &journal.Group{Readings: []vitals.Reading{r}}); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	m := ingest.NewMetrics(reg)
	x := ingest.NewConsumer(consumerAlerts, j, stalledSink{}, m, m.Evaluated(), zerolog.Nop())
	a := &App{journal: j, consumers: []*ingest.Consumer{x}}
	begin := time.Now()
	a.monitor = alerting.NewMonitor(alerting.MonitorConfig{Now: func() time.Time { return begin.Add(time.Hour) }, Metrics: alerting.NewMonitorMetrics(reg),
		PatientsWithOpenAlerts: func(context.Context) ([]vitals.PatientID, error) { return nil, nil },
		Commit:                 func(context.Context, alerting.Batch) error { return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { x.Run(ctx) })
	wg.Go(func() { a.monitor.Run(ctx) })
	waitFor(t, "the consumer stands and the alert clock turns", func() bool {
		return !x.Stalled().IsZero() && a.monitor.LastCycle().After(begin)
	})
	c := &coverer{a: a, started: begin.Add(-time.Hour)}
	c.look(x.Stalled())
	if us := c.us.Load(); us != 0 {
		t.Errorf("at once: since %v", vitals.Micros(us).Time())
	}
	c.look(x.Stalled().Add(stallAfter + time.Second))
	if us := vitals.Micros(c.us.Load()); us != vitals.At(x.Stalled()) {
		t.Errorf("since %v, want %v", us.Time(), x.Stalled())
	}
	since := c.us.Load()
	c.look(x.Stalled().Add(2 * time.Hour)) // the alert clock stands too by then, since later
	if us := c.us.Load(); us == 0 || us > since {
		t.Errorf("moved from %v to %v", vitals.Micros(since).Time(), vitals.Micros(us).Time())
	}
	c.look(x.Stalled())
	if us := c.us.Load(); us != 0 {
		t.Errorf("well again, still since %v", vitals.Micros(us).Time())
	}
	cancel()
	wg.Wait()
}
