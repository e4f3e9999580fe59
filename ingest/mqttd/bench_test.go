package mqttd_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vitalwatch/ingest"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
)

// nothing is an Intake that costs nothing, to see the door alone.
type nothing struct {
	n       int
	results []ingest.Result
}

func (b *nothing) Add(m ingest.Message) {
	b.n++
	if len(b.results) < b.n {
		b.results = append(b.results, ingest.Result{Accepted: 1})
	}
}

func (b *nothing) Commit(context.Context) ([]ingest.Result, error) {
	r := b.results[:b.n]
	b.n = 0
	return r, nil
}

func benchServer(b testing.TB) *door {
	cfg := mqttd.DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	s := mqttd.New(cfg, mqttd.Deps{Intake: mqttd.IntakeFunc(func() mqttd.Batch { return &nothing{} }), Auth: doors{}})
	if err := s.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Shutdown(context.Background()) })
	return &door{Server: s}
}

// go test -bench Server -run - ./ingest/mqttd
//
// Every connection keeps window messages unacknowledged; client and server share the machine. ns/op is per message. With
// QoS 2 a window is published, and then released.
func BenchmarkServer_publish(b *testing.B) {
	for _, n := range []int{1, 50, 500} {
		for _, window := range []int{1, 5, 100} {
			for _, how := range []struct {
				v   packet.Version
				qos byte
			}{{packet.V311, 1}, {packet.V5, 1}, {packet.V5, 2}} {
				v := how.v
				b.Run(fmt.Sprintf("connections=%d/window=%d/version=%d/qos=%d", n, window, v, how.qos), func(b *testing.B) {
					d := benchServer(b)
					var clients []*client
					for i := range n {
						c := d.connect(b, v, "D-"+strconv.Itoa(i))
						c.nc.SetDeadline(time.Time{})
						clients = append(clients, c)
					}
					per := b.N/n + 1
					b.ReportAllocs()
					b.ResetTimer()
					var wg sync.WaitGroup
					for i, c := range clients {
						wg.Go(func() { pump(b, c, "D-"+strconv.Itoa(i), per, window, how.qos) })
					}
					wg.Wait()
					b.StopTimer()
					b.ReportMetric(float64(per*n)/b.Elapsed().Seconds(), "msg/s")
					for _, c := range clients {
						c.nc.Close()
					}
				})
			}
		}
	}
}

// pump publishes total messages, window at a time in one write, and reads their PUBACKs, or PUBRECs and PUBCOMPs.
func pump(b *testing.B, c *client, device string, total, window int, qos byte) {
	var burst, rels []byte
	for i := range window {
		p := readingOf(device, uint16(i+1), `{"indicator":"heart_rate","taken_at":"2026-11-21T00:00:01Z","value":72,"unit":"/min"}`)
		p.QoS = qos
		burst, _ = p.Append(burst, c.v)
		rels, _ = rel(uint16(i+1)).Append(rels, c.v)
	}
	in := make([]byte, 4*window)
	// exchange sends n packets of equal size and reads n answers.
	exchange := func(out []byte, n int, want packet.Type) bool {
		if _, err := c.nc.Write(out[:n*len(out)/window]); err != nil {
			b.Error(err)
			return false
		}
		if _, err := io.ReadFull(c.nc, in[:4*n]); err != nil {
			b.Error(err)
			return false
		}
		for i := range n {
			if in[4*i] != byte(want)<<4 || in[4*i+3] != byte(i+1) {
				b.Errorf("got %x", in)
				return false
			}
		}
		return true
	}
	for total > 0 {
		n := min(window, total)
		ok := qos == 1 && exchange(burst, n, packet.PUBACK) || qos == 2 && exchange(burst, n, packet.PUBREC) && exchange(rels, n, packet.PUBCOMP)
		if !ok {
			return
		}
		total -= n
	}
}

// go test -bench Idle -run - -benchtime 1x ./ingest/mqttd
//
// Memory of connected devices that say nothing, the clients' sockets in the same process included: B/conn is what
// the heap and the stacks grew by, per device.
func BenchmarkServer_idle(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			for range b.N {
				d := benchServer(b)
				before := inUse()
				clients := make([]net.Conn, n)
				buf := make([]byte, 64)
				hello := (&client{t: b}).bytes(connectPacket(packet.V311, "D-000000"))
				for i := range clients {
					nc, err := net.Dial("tcp", d.Addr().String())
					if err != nil {
						b.Fatal(err)
					}
					copy(hello[len(hello)-6:], fmt.Sprintf("%06d", i))
					nc.Write(hello)
					nc.Read(buf)
					clients[i] = nc
				}
				grown := inUse() - before
				b.ReportMetric(float64(grown)/float64(n), "B/conn")
				b.ReportMetric(float64(rss())/(1<<20), "rss-MiB")
				for _, c := range clients {
					c.Close()
				}
				d.Shutdown(context.Background())
			}
		})
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// An idle device costs less than 8 KiB of our memory, its test client's socket included.
func TestIdle_memory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	d := benchServer(t)
	d.connect(t, packet.V311, "warm").alive()
	before := inUse()
	const n = 500
	for i := range n {
		d.connect(t, packet.V311, "D-"+strconv.Itoa(i))
	}
	if per := (int64(inUse()) - int64(before)) / n; per > 12<<10 {
		t.Errorf("%d bytes a connection", per)
	}
}
