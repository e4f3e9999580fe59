package main

import (
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/internal/influxtest"
	"vitalwatch/vitals"
)

// A CGM's 90 days, one value every five minutes, through the whole server: store, API, audit, HTTP.
//
//	go test -run xxx -bench CGM -benchtime 40x ./cmd/vitalwatch
//
// cpu-ms/op is what server, client and, with embedded, store spent together; influxd is a process of its own.
func BenchmarkCGM_90_days(b *testing.B) {
	for _, store := range []string{"embedded", "influxdb"} {
		b.Run(store, func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.DataDir, cfg.HTTP.Listen, cfg.MQTT.Embedded.Listen, cfg.Auth.Anonymous = b.TempDir(), "127.0.0.1:0", "127.0.0.1:0", true
			if store == "influxdb" {
				srv := influxtest.Local(b)
				cfg.Storage.Readings = "influxdb"
				cfg.Storage.InfluxDB = InfluxConfig{URL: srv.URL, Org: srv.Org, Bucket: srv.Bucket, KeepLocal: "35d"}
			}
			a, err := startApp(b.Context(), cfg, zerolog.Nop())
			if err != nil {
				b.Fatal(err)
			}
			defer a.Stop()
			if _, err := a.devices.Register(b.Context(), "cgm", nil); err != nil {
				b.Fatal(err)
			}
			const points, every = 25_920, 5 * vitals.Minute
			begin := vitals.At(time.Now().Truncate(time.Second)) - points*every
			rs := make([]vitals.Reading, points)
			for i := range rs {
				at := begin + vitals.Micros(i)*every
				rs[i] = vitals.Reading{Seq: uint64(i + 1), Patient: "P-cgm", Device: "cgm", Indicator: vitals.Glucose, Unit: vitals.MmolL, TakenAt: at, ReceivedAt: at + 1234,
					DeviceSeq: int64(i), OffsetMin: 480}
				rs[i].Set(vitals.Value, float64(40+i*7%80)/10)
			}
			if a.influx == nil {
				err = a.store.Write(b.Context(), rs, 0)
			} else if err = a.store.SetCompleteFrom(begin + points*every); err == nil {
				err = a.influx.Write(b.Context(), rs, 0)
			}
			if err == nil {
				err = a.store.Flush(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
			query := "indicator=glucose&limit=30000&from=" + begin.Time().UTC().Format(time.RFC3339)
			for _, name := range []string{"readings", "trends"} {
				b.Run(name, func(b *testing.B) {
					url := fmt.Sprintf("%s/api/v1/patients/P-cgm/readings?%s", a.HTTPAddr(), query)
					if name == "trends" {
						url = fmt.Sprintf("%s/api/v1/patients/P-cgm/trends?indicator=glucose&from=%s", a.HTTPAddr(), begin.Time().UTC().Format(time.RFC3339))
					}
					b.ReportAllocs()
					before := cpu(b)
					for b.Loop() {
						resp, err := http.Get(url)
						if err != nil {
							b.Fatal(err)
						}
						n, err := io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if err != nil || resp.StatusCode != 200 {
							b.Fatalf("%s: %v", resp.Status, err)
						}
						b.SetBytes(n)
					}
					b.ReportMetric((cpu(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
				})
			}
		})
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
