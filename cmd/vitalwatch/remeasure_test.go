package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	dto "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/vitals"
)

// thirdBench is the sink on a clock and a store of the test's.
type thirdBench struct {
	*remeasure
	at     time.Time
	stored []vitals.Reading
	sent   map[string]sessions.Command // by id, as sessions.Store keeps them
	to     []vitals.DeviceID
}

func newThirdBench() *thirdBench {
	b := &thirdBench{at: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC), sent: map[string]sessions.Command{}}
	b.restart()
	return b
}

// restart forgets what only memory holds.
func (b *thirdBench) restart() {
	b.remeasure = newRemeasure(func() time.Time { return b.at }, zerolog.Nop())
	b.near = func(_ context.Context, p vitals.PatientID, i vitals.Indicator, from vitals.Micros, seq uint64, dst []vitals.Reading) ([]vitals.Reading, error) {
		for _, r := range b.stored {
			if r.Patient == p && r.Indicator == i && r.TakenAt >= from && r.Seq <= seq {
				dst = append(dst, r)
			}
		}
		return dst, nil
	}
	b.send = func(_ context.Context, d vitals.DeviceID, c sessions.Command) (string, error) {
		if old, ok := b.sent[c.ID]; ok {
			if old.ExpiresAt != c.ExpiresAt {
				return "", sessions.ErrExists
			}
			return c.ID, nil
		}
		b.sent[c.ID] = c
		b.to = append(b.to, d)
		return c.ID, nil
	}
}

// take journals, stores and observes readings of one block, and lets the worker catch up.
func (b *thirdBench) take(t *testing.T, rs ...vitals.Reading) {
	t.Helper()
	for i := range rs {
		rs[i].Seq = uint64(len(b.stored) + 1)
		b.stored = append(b.stored, rs[i])
	}
	b.Observe(rs, uint64(len(b.stored)))
	for len(b.queue) > 0 {
		s := <-b.queue
		if err := b.ask(t.Context(), &s); err != nil {
			t.Fatal(err)
		}
	}
}

// pressure is a reading taken and received a number of minutes after the bench began.
func (b *thirdBench) pressure(minute float64, systolic, diastolic float64) vitals.Reading {
	at := vitals.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)) + vitals.Micros(minute*float64(vitals.Minute))
	r := vitals.Reading{Patient: "P-1", Device: "cuff", Indicator: vitals.BloodPressure, Unit: vitals.MmHg, TakenAt: at, ReceivedAt: at}
	r.Set(vitals.Systolic, systolic)
	r.Set(vitals.Diastolic, diastolic)
	return r
}

func TestRemeasure(t *testing.T) {
	for _, x := range []struct {
		name  string
		takes func(t *testing.T, b *thirdBench)
		want  int
	}{
		{"two that differ", func(t *testing.T, b *thirdBench) {
			b.take(t, b.pressure(0, 160, 95))
			b.take(t, b.pressure(2, 140, 90))
		}, 1},
		{"both in one block", func(t *testing.T, b *thirdBench) { b.take(t, b.pressure(0, 160, 95), b.pressure(2, 140, 90)) }, 1},
		{"diastolic alone", func(t *testing.T, b *thirdBench) { b.take(t, b.pressure(0, 140, 79), b.pressure(2, 140, 90)) }, 1},
		{"ten is not more than ten", func(t *testing.T, b *thirdBench) { b.take(t, b.pressure(0, 150, 90), b.pressure(2, 140, 80)) }, 0},
		{"in kilopascal", func(t *testing.T, b *thirdBench) {
			r := b.pressure(0, 20, 12) // 150/90
			r.Unit = vitals.KPa
			b.take(t, r, b.pressure(2, 138, 90))
		}, 1},
		{"ten minutes apart", func(t *testing.T, b *thirdBench) { b.take(t, b.pressure(0, 160, 95), b.pressure(10, 140, 90)) }, 0},
		{"the third came already", func(t *testing.T, b *thirdBench) {
			b.take(t, b.pressure(0, 160, 95), b.pressure(2, 140, 90), b.pressure(4, 141, 90))
		}, 0},
		{"the third differs as well", func(t *testing.T, b *thirdBench) {
			b.take(t, b.pressure(0, 160, 95))
			b.take(t, b.pressure(2, 140, 90))
			b.take(t, b.pressure(4, 120, 80))
			b.take(t, b.pressure(6, 150, 80))
		}, 1},
		{"the next session asks again", func(t *testing.T, b *thirdBench) {
			b.take(t, b.pressure(0, 160, 95), b.pressure(2, 140, 90))
			b.at = b.at.Add(30 * time.Minute)
			b.take(t, b.pressure(30, 160, 95))
			b.take(t, b.pressure(31, 140, 90))
		}, 2},
		{"another person's", func(t *testing.T, b *thirdBench) {
			r := b.pressure(2, 140, 90)
			r.Patient = "P-2"
			b.take(t, b.pressure(0, 160, 95), r)
		}, 0},
		{"another device's", func(t *testing.T, b *thirdBench) {
			r := b.pressure(2, 140, 90)
			r.Device = "cuff-2"
			b.take(t, b.pressure(0, 160, 95), r)
		}, 0},
		{"a late one", func(t *testing.T, b *thirdBench) {
			r := b.pressure(0, 160, 95)
			r.Freshness = vitals.Late
			b.take(t, r, b.pressure(2, 140, 90))
		}, 0},
		{"a doubtful clock", func(t *testing.T, b *thirdBench) {
			r := b.pressure(2, 140, 90)
			r.Freshness = vitals.Doubtful
			b.take(t, b.pressure(0, 160, 95), r)
		}, 0},
		{"an invalid one", func(t *testing.T, b *thirdBench) {
			r := b.pressure(2, 140, 90)
			r.Quality = vitals.Invalid
			b.take(t, b.pressure(0, 160, 95), r)
		}, 0},
		{"a suspect one", func(t *testing.T, b *thirdBench) {
			r := b.pressure(2, 140, 90)
			r.Quality = vitals.Suspect
			b.take(t, b.pressure(0, 160, 95), r)
		}, 1},
		{"a restart between the two", func(t *testing.T, b *thirdBench) {
			b.take(t, b.pressure(0, 160, 95))
			b.at = b.at.Add(time.Minute)
			b.restart()
			b.take(t, b.pressure(2, 140, 90))
		}, 1},
		{"a restart after the request", func(t *testing.T, b *thirdBench) {
			b.take(t, b.pressure(0, 160, 95), b.pressure(2, 140, 90))
			again := append([]vitals.Reading(nil), b.stored...)
			b.restart()
			b.stored = nil
			b.take(t, again...) // the consumer begins before what it had done
			b.take(t, b.pressure(4, 160, 90))
		}, 1},
		{"a server that is behind", func(t *testing.T, b *thirdBench) {
			b.at = b.at.Add(20 * time.Minute)
			b.take(t, b.pressure(0, 160, 95), b.pressure(2, 140, 90))
		}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			b := newThirdBench()
			x.takes(t, b)
			if len(b.to) != x.want {
				t.Fatalf("asked %d times, want %d: %+v", len(b.to), x.want, b.sent)
			}
			for id, c := range b.sent {
				if !vitals.ValidID(id) || c.Cmd != sessions.Remeasure || c.Text["zh-CN"] == "" || c.Text["en"] == "" {
					t.Errorf("command %+v", c)
				}
			}
		})
	}
}

func TestRemeasure_ValidTenMinutesFromTheSecondReading(t *testing.T) {
	b := newThirdBench()
	b.take(t, b.pressure(0, 160, 95), b.pressure(2, 140, 90))
	for _, c := range b.sent {
		if got := c.ExpiresAt.Time(); !got.Equal(b.at.Add(12 * time.Minute)) {
			t.Errorf("valid until %v", got)
		}
	}
	if len(b.sent) != 1 || b.to[0] != "cuff" {
		t.Errorf("asked %v, %+v", b.to, b.sent)
	}
}

// Nobody reads the queue: the consumer goes on all the same, and memory stays bounded.
func TestRemeasure_NeverWaits(t *testing.T) {
	b := newThirdBench()
	const cuffs = 3 * remeasureCuffs
	for i := range cuffs {
		r, s := b.pressure(0, 160, 95), b.pressure(1, 140, 90)
		r.Device = vitals.DeviceID(fmt.Sprintf("cuff-%d", i))
		s.Device = r.Device
		b.Observe([]vitals.Reading{r, s}, 0)
	}
	if len(b.queue) != remeasureQueue {
		t.Errorf("%d wait, want %d", len(b.queue), remeasureQueue)
	}
	var m dto.Metric
	if err := b.dropped.Write(&m); err != nil {
		t.Fatal(err)
	}
	if n := m.Counter.GetValue(); n != 2*cuffs-remeasureQueue {
		t.Errorf("%v dropped, want %v", n, 2*cuffs-remeasureQueue)
	}
	if n := len(b.last) + len(b.before); n > 2*remeasureCuffs {
		t.Errorf("%d cuffs in memory", n)
	}
}

func TestEndToEnd_ThirdCuffReading(t *testing.T) {
	s := startServer(t, "registration: open\n")
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.MQTT).SetClientID("cuff-1").SetProtocolVersion(4))
	wait := func(tok mqtt.Token) {
		t.Helper()
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("MQTT: %v", tok.Error())
		}
	}
	wait(c.Connect())
	defer c.Disconnect(100)
	heard := make(chan []byte, 8)
	wait(c.Subscribe("vw/v1/cuff-1/down/cmd", 1, func(_ mqtt.Client, m mqtt.Message) { heard <- m.Payload() }))
	now := time.Now()
	for i, values := range []string{`"systolic":160,"diastolic":95`, `"systolic":140,"diastolic":90`} {
		wait(c.Publish("vw/v1/cuff-1/up/readings", 1, false, fmt.Sprintf(`{"indicator":"blood_pressure","taken_at":%d,"values":{%s},"unit":"mm[Hg]"}`,
			now.Add(time.Duration(i-3)*time.Minute).UnixMilli(), values)))
	}
	var cmd struct {
		ID      string            `json:"id"`
		Cmd     string            `json:"cmd"`
		Expires time.Time         `json:"expires_at"`
		Text    map[string]string `json:"text"`
	}
	select {
	case b := <-heard:
		if err := json.Unmarshal(b, &cmd); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("no command")
	}
	if left := cmd.Expires.Sub(now); cmd.Cmd != "remeasure" || cmd.Text["zh-CN"] == "" || left < 9*time.Minute || left > 11*time.Minute {
		t.Errorf("command %+v, valid for %v", cmd, left)
	}
	wait(c.Publish("vw/v1/cuff-1/up/ack", 1, false, fmt.Sprintf(`{"id":%q,"result":"done"}`, cmd.ID)))
	wait(c.Publish("vw/v1/cuff-1/up/readings", 1, false, fmt.Sprintf(`{"indicator":"blood_pressure","taken_at":%d,"values":{"systolic":120,"diastolic":80},"unit":"mm[Hg]"}`, now.UnixMilli())))
	level(t, s)
	out := cli(t, s, "device", "commands", "cuff-1")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.Contains(lines[1], cmd.ID) || !strings.Contains(lines[1], "answered") {
		t.Errorf("commands, want one that is answered:\n%s", out)
	}
	if n := metrics(t, s)[`vitalwatch_remeasure_total`]; n != 1 {
		t.Errorf("vitalwatch_remeasure_total is %v, want 1 asked", n)
	}
}
