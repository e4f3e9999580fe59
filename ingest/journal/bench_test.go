package journal_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/evidence"
	"vitalwatch/ingest/journal"
	"vitalwatch/vitals"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend appends from many goroutines on the real disk, with one consumer that is level and releases, as in
// the server. Time is per reading.
//
//	go test -run '^$' -bench Append -benchtime 2000000x ./ingest/journal
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		writers, group int
		evidence       bool // a message for each reading
	}{{1, 1, false}, {500, 1, false}, {500, 5, false}, {500, 5, true}, {50, 100, false}, {50, 100, true}} {
		b.Run(fmt.Sprintf("writers=%d/group=%d/evidence=%v", c.writers, c.group, c.evidence), func(b *testing.B) {
			o := journal.Options{Logger: zerolog.Nop(), HeadRoom: 1, Consumers: []string{"c"}}
			if c.evidence {
				o.Evidence.Keep = time.Hour
			}
			j, err := journal.Open(b.TempDir(), o)
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			ctx, cancel := context.WithCancel(context.Background())
			consumed := make(chan struct{})
			go func() {
				defer close(consumed)
				for after := uint64(0); ; {
					blk, err := j.Next(ctx, after)
					if err != nil {
						return
					}
					after = blk.Last()
					j.Release("c", after)
				}
			}()
			b.ReportAllocs()
			if c.writers == 1 {
				b.N = min(b.N, 20000) //lint:ignore SA3001 one writer is bound by the disk's sync: a second of them is enough
			}
			before := cpu()
			b.ResetTimer()
			var next atomic.Int64
			var wg sync.WaitGroup
			for w := range c.writers {
				wg.Go(func() {
					var g journal.Group
					dev := fmt.Sprintf("dev-%05d", w)
					tmpl := reading(dev, 0, 70)
					var raw, payload []byte
					for at := 0; next.Add(int64(c.group)) <= int64(b.N); {
						g.Reset()
						raw = raw[:0]
						for range c.group {
							at++
							tmpl.TakenAt = base + vitals.Micros(at)*vitals.Second
							tmpl.V[0] = float64(60 + at%60)
							g.Readings = append(g.Readings, tmpl)
							if c.evidence {
								payload = fmt.Appendf(payload[:0], `{"indicator":"heart_rate","taken_at":"%s","value":%d,"unit":"/min","seq":%d}`,
									tmpl.TakenAt.Time().Format(time.RFC3339), 60+(at*7919+w*104729)%60, at+w)
								n, start := len(g.Readings), len(raw)
								raw = evidence.AppendMessage(raw, &evidence.Message{ReceivedAt: tmpl.ReceivedAt,
									JudgedAt: tmpl.ReceivedAt, Device: tmpl.Device, Format: "readings", Source: "mqtt",
									Patients: []evidence.Run{{N: 1, Patient: tmpl.Patient}}, Payload: payload})
								g.Messages = append(g.Messages, journal.Message{First: n - 1, Last: n, At: tmpl.ReceivedAt, Bytes: raw[start:]})
							}
						}
						if err := j.Append(ctx, &g); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(j.Last())/b.Elapsed().Seconds(), "readings/s")
			b.ReportMetric(float64(cpu()-before)/float64(j.Last()), "cpu-ns/reading")
			b.ReportMetric(groupMean(j), "readings/sync")
			b.ReportMetric(written(j)/float64(j.Last()), "logB/reading")
			cancel()
			<-consumed
		})
		runtime.GC()
	}
}

func written(j *journal.Journal) float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(j.Collectors()...)
	ms, _ := reg.Gather()
	for _, m := range ms {
		if m.GetName() == "vitalwatch_journal_written_bytes_total" {
			return m.Metric[0].Counter.GetValue()
		}
	}
	return 0
}

func groupMean(j *journal.Journal) float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(j.Collectors()...)
	ms, _ := reg.Gather()
	for _, m := range ms {
		if m.GetName() == "vitalwatch_journal_group_readings" {
			h := m.Metric[0].Histogram
			return h.GetSampleSum() / float64(h.GetSampleCount())
		}
	}
	return 0
}
