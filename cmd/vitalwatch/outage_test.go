package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"vitalwatch/internal/influxtest"
	"vitalwatch/internal/loadgen"
)

// TestEndToEnd_InfluxDB_away_for_an_hour: what 10 readings a second are in an hour, or VITALWATCH_OUTAGE a second, come as
// fast as they are taken while InfluxDB is away. The backlog is seen with its age; when InfluxDB is back it drains while
// others go on sending; nothing is lost or doubled; and there are as many alerts as without the outage.
func TestEndToEnd_InfluxDB_away_for_an_hour(t *testing.T) {
	perSecond := 10
	if v := os.Getenv("VITALWATCH_OUTAGE"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("VITALWATCH_OUTAGE=%q is not a number of readings a second such as 1000", v)
		}
		perSecond = n
	}
	srv := influxtest.Local(t)
	s := startServer(t, influxServer(t, srv)+"default_conditions: [type2_diabetes]\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	const inMessage, people = 60, 8
	hour := func(name string, devices, each int) *loadgen.Stats {
		t.Helper()
		base := time.Now().UTC().Truncate(time.Millisecond).Add(-time.Duration(each) * time.Millisecond)
		st, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: devices, Messages: each / inMessage, Reconnect: true, Device: deviceName(name),
			Payload: func(dst []byte, _, n int) []byte {
				dst = append(dst, '[')
				for k := n * inMessage; k < (n+1)*inMessage; k++ {
					if k > n*inMessage {
						dst = append(dst, ',')
					}
					// No value twice within a second: that may be one measurement that came twice.
					dst = fmt.Appendf(dst, `{"indicator":"heart_rate","taken_at":%d,"value":%d.%d,"unit":"/min","seq":%d}`, base.Add(time.Duration(k)*time.Millisecond).UnixMilli(), 60+k%1000/10, k%10, k)
				}
				return append(dst, ']')
			}})
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(devices * each / inMessage); st.Acked != want {
			t.Fatalf("%d messages acknowledged, want %d", st.Acked, want)
		}
		return st
	}
	// alarm gives some people low readings; each must have exactly one alert. It returns the server's own mean latency.
	alarm := func(name string) time.Duration {
		t.Helper()
		before, base := metrics(t, s), time.Now().Add(-3*time.Second)
		if _, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: people, Messages: 3, Reconnect: true, Device: deviceName(name),
			Payload: func(dst []byte, _, n int) []byte {
				return fmt.Appendf(dst, `{"indicator":"glucose","taken_at":%d,"value":2.%d,"unit":"mmol/L"}`, base.Add(time.Duration(n)*time.Second).UnixMilli(), 5-n)
			}}); err != nil {
			t.Fatal(err)
		}
		for i := range people {
			patient := "P-" + deviceName(name)(i)
			waitFor(t, "the alert of "+patient, func() bool { return len(list[alertJSON](t, s, "/api/v1/alerts?patient="+patient)) > 0 })
		}
		waitFor(t, "everything to be judged", func() bool {
			m := metrics(t, s)
			return m["vitalwatch_readings_evaluated_total"] >= m["vitalwatch_readings_accepted_total"]
		})
		for i := range people {
			if n := len(list[alertJSON](t, s, "/api/v1/alerts?state=all&patient=P-"+deviceName(name)(i))); n != 1 {
				t.Errorf("%s %d has %d alerts, want 1", name, i, n)
			}
		}
		now := metrics(t, s)
		n := now["vitalwatch_alert_latency_seconds_count"] - before["vitalwatch_alert_latency_seconds_count"]
		if n < people {
			t.Errorf("%s: the latency of %v alerts was measured, want at least %d", name, n, people)
		}
		return time.Duration((now["vitalwatch_alert_latency_seconds_sum"] - before["vitalwatch_alert_latency_seconds_sum"]) / n * float64(time.Second)).Round(100 * time.Microsecond)
	}
	count := func(name string) int {
		t.Helper()
		rows := strings.Split(strings.TrimSpace(srv.InfluxQL(`SELECT count(r) FROM heart_rate WHERE device =~ /^`+name+`-/`)), "\n")
		if len(rows) < 2 {
			return 0
		}
		n, err := strconv.Atoi(rows[1][strings.LastIndexByte(rows[1], ',')+1:])
		if err != nil {
			t.Fatalf("InfluxDB counts %q", rows)
		}
		return n
	}

	devices := max(20, min(perSecond, 1000))
	each := perSecond * 3600 / devices / inMessage * inMessage
	total := devices * each
	hour("before", 20, inMessage)
	with := alarm("lowa")
	level(t, s)
	influxIs(t, s, "[+] influxdb ok")

	srv.Kill()
	sent := hour("away", devices, each)
	without := alarm("lowb")
	waitFor(t, "the backlog to be seen", func() bool {
		m := metrics(t, s)
		return m["vitalwatch_consumer_lag"] >= float64(total) && m["vitalwatch_consumer_oldest_seconds"] > 0
	})
	influxIs(t, s, "[~] influxdb", "readings wait in the journal, the oldest for")
	waited := metrics(t, s)

	srv.Start()
	begin := time.Now()
	live := make(chan int, 1) // devices that went on
	drained := make(chan struct{})
	go func() {
		n := 0
		defer func() { live <- n }()
		for {
			select {
			case <-drained:
				if n > 0 {
					return
				}
			default:
			}
			// One device after the other: each with a minute of its own.
			if _, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: 1, Messages: inMessage, Rate: 100, Reconnect: true, Device: func(int) string { return deviceName("live")(n) },
				Payload: func(dst []byte, _, k int) []byte {
					return fmt.Appendf(dst, `{"indicator":"heart_rate","taken_at":%d,"value":%d,"unit":"/min","seq":%d}`, begin.Add(time.Duration(k)*time.Millisecond).UnixMilli(), 60+k, k)
				}}); err != nil {
				t.Error(err)
				return
			}
			n++
		}
	}()
	draining := alarm("lowc")
	for lag := metrics(t, s)["vitalwatch_consumer_lag"]; lag >= float64(total)/100; { // others go on sending
		waitFor(t, "the backlog to shrink", func() bool {
			now := metrics(t, s)["vitalwatch_consumer_lag"]
			less := now < lag
			lag = min(lag, now)
			return less
		})
	}
	took := time.Since(begin)
	close(drained)
	n := <-live
	waitFor(t, "all to be level", func() bool {
		m := metrics(t, s)
		return m["vitalwatch_consumer_lag"] == 0 && m["vitalwatch_consumer_oldest_seconds"] == 0
	})
	influxIs(t, s, "[+] influxdb ok")
	for name, want := range map[string]int{"before": 20 * inMessage, "away": total, "live": n * inMessage} {
		if got := count(name); got != want {
			t.Errorf("InfluxDB has %d readings of %q, want %d", got, name, want)
		}
	}
	m := metrics(t, s)
	// Not compared with accepted: what a stalled disk made durable after the device had been sent away counts as a duplicate.
	if want := float64(20*inMessage + total + n*inMessage + 3*3*people); m["vitalwatch_readings_evaluated_total"] != want || m["vitalwatch_readings_quarantined_total"] != 0 || m["vitalwatch_influxdb_refused_total"] != 0 {
		t.Errorf("evaluated %v, want %v; quarantined %v, refused %v", m["vitalwatch_readings_evaluated_total"], want, m["vitalwatch_readings_quarantined_total"], m["vitalwatch_influxdb_refused_total"])
	}
	rss, _ := s.RSS()
	t.Logf("%d readings while InfluxDB was away, taken at %.0f/s; backlog %.0f, the oldest for %.1f s; drained in %v (%.0f/s) beside %d live readings; alert latency %v with, %v without, %v while it drains; server %d MB",
		total, sent.Rate()*inMessage, waited["vitalwatch_consumer_lag"], waited["vitalwatch_consumer_oldest_seconds"], took.Round(time.Millisecond), float64(total)/took.Seconds(), n*inMessage, with, without, draining, rss>>20)
}
