package main

import (
	"bytes"
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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"
	"github.com/gorilla/websocket"

	"vitalwatch/internal/freeport"
	"vitalwatch/internal/loadgen"
)

// BenchCmd measures this machine. Every figure comes from a server process of its own that is driven from
// outside, over loopback, with everything on: decoding, sync, store, rules.
type BenchCmd struct {
	Only   []string `help:"Only these: connections, qos2, tls, sockets, storm, single, batch, hook, idle, feed, patient, restart." placeholder:"NAME"`
	Dir    string   `type:"path" help:"Where to put the servers' folders (default: the system's temporary folder)."`
	Scale  float64  `default:"1" help:"Multiplies the amount of work; 0.1 is a quick look."`
	Keep   bool     `help:"Leave the folders, with the servers' logs."`
	Single int      `default:"500" help:"Connections of the single-reading run."`
	Helper string   `hidden:""` // what a process of our own is to do
}

// measurement is one row of the table.
type measurement struct{ name, figure, floor, reach string }

var benchParts = []string{"connections", "qos2", "tls", "sockets", "storm", "single", "batch", "hook", "idle", "feed", "patient", "restart"}

type bench struct {
	cmd  *BenchCmd
	exe  string
	base string
	env  []string // of the servers
	rows []measurement
}

// Run measures and prints one table.
func (c *BenchCmd) Run(k *kong.Context) error {
	if c.Helper != "" {
		return runHelper(c.Helper, os.Stdin, k.Stdout)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case !(c.Scale > 0 && c.Scale <= 100):
		return misused("--scale: write a number above 0, at most 100")
	case c.Single < 1 || c.Single > 10_000:
		return misused("--single: write a number from 1 to 10000")
	}
	for _, name := range c.Only {
		if !slices.Contains(benchParts, name) {
			return misused("--only: there is no part %q; use %s", name, strings.Join(benchParts, ", "))
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	base, err := os.MkdirTemp(c.Dir, "vitalwatch-bench-")
	if err != nil {
		return err
	}
	if c.Keep {
		fmt.Fprintln(k.Stderr, "folders:", base)
	} else {
		defer os.RemoveAll(base)
	}
	b := &bench{cmd: c, exe: exe, base: base}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"connections", b.connections}, {"qos2", b.qos2}, {"tls", b.tls}, {"sockets", b.sockets}, {"storm", b.storm},
		{"single", b.single}, {"batch", b.batch}, {"hook", b.hook}, {"idle", b.idle}, {"feed", b.feed}, {"patient", b.patient}, {"restart", b.restart},
	} {
		if len(c.Only) > 0 && !slices.Contains(c.Only, part.name) {
			continue
		}
		fmt.Fprintln(k.Stderr, "measuring", part.name, "…")
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Fprintf(k.Stdout, "%d cores, %s, generator beside the server\n", runtime.NumCPU(), runtime.Version())
	w := tabwriter.NewWriter(k.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tmeasured\tat least\treach for")
	for _, r := range b.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.name, r.figure, r.floor, r.reach)
	}
	return w.Flush()
}

func (b *bench) row(name, figure, floor, reach string) {
	b.rows = append(b.rows, measurement{name, figure, floor, reach})
}

// with runs f against a fresh server.
func (b *bench) with(ctx context.Context, name, extra string, f func(context.Context, *child) error) error {
	dir := filepath.Join(b.base, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s, err := newChild(b.exe, dir, "registration: open\nlog: {level: warn}\n"+extra)
	if err != nil {
		return err
	}
	if s.Env = b.env; len(b.env) > 0 {
		if s.MQTTS, err = freeport.Loopback(); err != nil {
			return err
		}
		s.Env = append(s.Env, "VITALWATCH_MQTT_EMBEDDED_TLS_LISTEN="+s.MQTTS)
	}
	start, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := s.Start(start); err != nil {
		return err
	}
	err = f(ctx, s)
	if stopErr := s.Stop(); err == nil && stopErr != nil {
		err = fmt.Errorf("the server ended badly: %w; its log ends with:\n%s", stopErr, s.tail())
	}
	return err
}

func deviceName(prefix string) func(int) string {
	return func(i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }
}

// heartRate appends one normal reading; message n of a device is taken n ms after base.
func heartRate(dst []byte, base time.Time, i, n int) []byte {
	dst = append(dst, `{"indicator":"heart_rate","taken_at":"`...)
	dst = base.Add(time.Duration(n)*time.Millisecond).AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	dst = append(dst, `","value":`...)
	dst = strconv.AppendInt(dst, int64(60+(n*7919+i*104729)%40), 10)
	dst = append(dst, `,"unit":"/min","seq":`...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, '}')
}

func (b *bench) single(ctx context.Context) error {
	return b.with(ctx, "single", "", func(ctx context.Context, s *child) error {
		conns := b.cmd.Single
		per := int(1_000_000*b.cmd.Scale) / conns
		base := time.Now().UTC()
		begin := time.Now()
		st, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: conns, Messages: per, Device: deviceName("single"), Latencies: true,
			Payload: func(dst []byte, i, n int) []byte { return heartRate(dst, base, i, n) }})
		if err != nil {
			return err
		}
		n, err := s.Level(ctx)
		if err != nil {
			return err
		}
		if n != st.Acked {
			return fmt.Errorf("acknowledged %d, accepted %d", st.Acked, n)
		}
		b.row(fmt.Sprintf("single readings, QoS 1, %d connections", conns),
			fmt.Sprintf("%.0f/s (PUBACK p50 %.1f ms, p99 %.1f ms)", float64(n)/time.Since(begin).Seconds(), ms(st.Quantile(.5)), ms(st.Quantile(.99))),
			"80,000/s", "120,000/s")
		return nil
	})
}

const batchSize = 100

func batchOf(dst []byte, base time.Time, i, n, size int) []byte {
	dst = append(dst, '[')
	for k := range size {
		if k > 0 {
			dst = append(dst, ',')
		}
		dst = heartRate(dst, base, i, n*size+k)
	}
	return append(dst, ']')
}

func (b *bench) batch(ctx context.Context) error {
	return b.with(ctx, "batch", "", func(ctx context.Context, s *child) error {
		const conns = 50
		per := int(5_000_000*b.cmd.Scale) / conns / batchSize
		base := time.Now().UTC().Add(-10 * time.Minute) // keeps 100 s worth of milliseconds out of the future
		// The generator must not cost more than what it measures: one body per connection and message, made of
		// the same template, is cheap enough (about 0.1 µs per reading).
		begin := time.Now()
		st, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: conns, Messages: per, Window: 4, Device: deviceName("batch"),
			Payload: func(dst []byte, i, n int) []byte { return batchOf(dst, base, i, n, batchSize) }})
		if err != nil {
			return err
		}
		n, err := s.Level(ctx)
		if err != nil {
			return err
		}
		if n != st.Acked*batchSize {
			return fmt.Errorf("acknowledged %d, accepted %d", st.Acked*batchSize, n)
		}
		b.row("batches of 100 readings", fmt.Sprintf("%.0f readings/s", float64(n)/time.Since(begin).Seconds()), "300,000/s", "600,000/s")
		return nil
	})
}

// low is a glucose reading that is critical at once.
func low(dst []byte, at time.Time) []byte {
	dst = append(dst, `{"indicator":"glucose","taken_at":`...)
	dst = strconv.AppendInt(dst, at.UnixMilli(), 10)
	return append(dst, `,"value":2.8,"unit":"mmol/L"}`...)
}

// hookReceiver is an HTTP endpoint that tells when a body with a patient id arrived.
type hookReceiver struct {
	ln net.Listener
	mu sync.Mutex
	at map[string]time.Time
}

func newHookReceiver() (*hookReceiver, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &hookReceiver{ln: ln, at: map[string]time.Time{}}
	go http.Serve(ln, r)
	return r, nil
}

func (r *hookReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	now := time.Now()
	var body struct {
		Data struct {
			PatientID string `json:"patient_id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(req.Body, 64<<10)).Decode(&body); err != nil {
		http.Error(w, "not JSON", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	if _, seen := r.at[body.Data.PatientID]; !seen {
		r.at[body.Data.PatientID] = now
	}
	r.mu.Unlock()
}

func (b *bench) hook(ctx context.Context) error {
	rcv, err := newHookReceiver()
	if err != nil {
		return err
	}
	defer rcv.ln.Close()
	secret, err := writeSecret(filepath.Join(b.base, "hook.secret"))
	if err != nil {
		return err
	}
	extra := fmt.Sprintf("hooks: [{name: bench, url: \"http://%s/\", secret_file: %q, events: [alert.opened], min_severity: critical, detail: thin, allow_private: true}]\n",
		rcv.ln.Addr(), secret)
	return b.with(ctx, "hook", extra, func(ctx context.Context, s *child) error {
		idle, err := b.probe(ctx, s, rcv, "idle", int(200*b.cmd.Scale)+20)
		if err != nil {
			return err
		}
		bg, cancel := context.WithCancel(ctx)
		defer cancel()
		var wg sync.WaitGroup
		base := time.Now().UTC()
		wg.Go(func() {
			loadgen.Run(bg, loadgen.Config{Addr: s.MQTT, Conns: 100, Rate: 5000, Device: deviceName("noise"),
				Payload: func(dst []byte, i, n int) []byte {
					return heartRate(dst, base.Add(time.Duration(n)*20*time.Millisecond), i, n)
				}})
		})
		busy, err := b.probe(ctx, s, rcv, "busy", int(400*b.cmd.Scale)+20)
		cancel()
		wg.Wait()
		if err != nil {
			return err
		}
		b.row("publish ▸ webhook received, idle", quantiles(idle), "p99 15 ms", "5 ms")
		b.row("publish ▸ webhook received, at 5,000 readings/s", quantiles(busy), "p99 30 ms", "10 ms")
		return nil
	})
}

func (b *bench) probe(ctx context.Context, s *child, rcv *hookReceiver, tag string, n int) ([]time.Duration, error) {
	sent := make([]time.Time, n)
	const step = 25 * time.Millisecond
	name := deviceName("probe-" + tag)
	// One connection per probe device, opened before the clock starts, as devices that stay connected.
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := loadgen.Connect(ctx, s.MQTT, name(i))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conns[i] = c
	}
	for i, c := range conns {
		sent[i] = time.Now()
		if _, err := c.Write(loadgen.Publish(nil, name(i), low(nil, sent[i]))); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(step):
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		var out []time.Duration
		rcv.mu.Lock()
		for i := range sent {
			if at, ok := rcv.at["P-"+name(i)]; ok {
				out = append(out, at.Sub(sent[i]))
			}
		}
		rcv.mu.Unlock()
		if len(out) == n {
			slices.Sort(out)
			return out, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d of %d alerts arrived", len(out), n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bench) idle(ctx context.Context) error {
	return b.with(ctx, "idle", "", func(ctx context.Context, s *child) error {
		before, err := s.RSS()
		if err != nil {
			return err
		}
		n := int(9_900*b.cmd.Scale) + 100
		hold, release := context.WithCancel(ctx)
		defer release()
		closed, err := loadgen.Idle(hold, s.MQTT, nil, n, deviceName("idle"))
		if err != nil {
			return err
		}
		time.Sleep(2 * time.Second) // lets the collector run
		after, err := s.RSS()
		release()
		closed.Wait()
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("%d connected idle devices", n), fmt.Sprintf("%d MB (the server alone %d MB)", after>>20, before>>20), "200 MB", "100 MB")
		return nil
	})
}

func (b *bench) feed(ctx context.Context) error {
	return b.with(ctx, "feed", "", func(ctx context.Context, s *child) error {
		clients := int(4_950*b.cmd.Scale) + 50
		const rate, seconds = 10, 15
		d := websocket.Dialer{ReadBufferSize: 2048, WriteBufferSize: 512, HandshakeTimeout: 30 * time.Second, Subprotocols: []string{"vitalwatch.v1.json"}}
		feedCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		var mu sync.Mutex
		var lats []time.Duration
		var dropped atomic.Int64
		var wg sync.WaitGroup
		gate := make(chan struct{}, 64)
		var dialErr error
		for range clients {
			gate <- struct{}{}
			ws, _, err := d.DialContext(ctx, "ws"+strings.TrimPrefix(s.HTTP, "http")+"/api/v1/feed", nil)
			<-gate
			if err != nil {
				dialErr = err
				break
			}
			if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"op":"subscribe","id":1,"channels":["alerts"]}`)); err != nil {
				dialErr = err
				break
			}
			stop := context.AfterFunc(feedCtx, func() { ws.Close() })
			wg.Go(func() {
				defer stop()
				var mine []time.Duration
				var buf bytes.Buffer // ReadMessage would allocate several times per frame
				for {
					_, r, err := ws.NextReader()
					if err == nil {
						buf.Reset()
						_, err = buf.ReadFrom(r)
					}
					if err != nil {
						if feedCtx.Err() == nil {
							dropped.Add(1)
						}
						break
					}
					if at, ok := sentAt(buf.Bytes()); ok {
						mine = append(mine, time.Since(at))
					}
				}
				mu.Lock()
				lats = append(lats, mine...)
				mu.Unlock()
			})
		}
		if dialErr != nil {
			cancel()
			wg.Wait()
			return dialErr
		}
		name := deviceName("feed")
		var rss int64
		for i := range rate * seconds {
			c, err := loadgen.Connect(ctx, s.MQTT, name(i))
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write(loadgen.Publish(nil, name(i), low(nil, time.Now()))); err != nil {
				return err
			}
			time.Sleep(time.Second / rate)
			if i == rate*seconds/2 {
				if rss, err = s.RSS(); err != nil {
					return err
				}
			}
		}
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		want := clients * rate * seconds
		if len(lats) < want*999/1000 {
			return fmt.Errorf("%d of %d frames arrived, %d clients were dropped", len(lats), want, dropped.Load())
		}
		slices.Sort(lats)
		b.row(fmt.Sprintf("%d feed clients at 10 alerts/s", clients), fmt.Sprintf("%s, server %d MB", quantiles(lats), rss>>20), "p99 75 ms, 200 MB", "40 ms, 100 MB")
		return nil
	})
}

// sentAt is the trigger's time in an "opened" frame, in ms: when the device published it. It searches instead of
// decoding, because 50,000 frames a second must not cost the machine more than the server does.
func sentAt(frame []byte) (time.Time, bool) {
	if !bytes.Contains(frame[:min(len(frame), 200)], []byte(`"transition":"opened"`)) {
		return time.Time{}, false
	}
	const key = `"trigger":{`
	i := bytes.Index(frame, []byte(key))
	if i < 0 {
		return time.Time{}, false
	}
	frame = frame[i:]
	const at = `"taken_at":"`
	if i = bytes.Index(frame, []byte(at)); i < 0 {
		return time.Time{}, false
	}
	frame = frame[i+len(at):]
	if i = bytes.IndexByte(frame, '"'); i < 0 {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(frame[:i]))
	return t, err == nil
}

func (b *bench) restart(ctx context.Context) error {
	return b.with(ctx, "restart", "", func(ctx context.Context, s *child) error {
		const conns = 50
		total := int(10_000_000 * b.cmd.Scale)
		per := total / conns / batchSize
		base := time.Now().UTC().Add(-time.Duration(total/conns)*time.Millisecond - time.Minute)
		if _, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: conns, Messages: per, Window: 4, Device: deviceName("restart"),
			Payload: func(dst []byte, i, n int) []byte { return batchOf(dst, base, i, n, batchSize) }}); err != nil {
			return err
		}
		n, err := s.Level(ctx)
		if err != nil {
			return err
		}
		var times []time.Duration
		for range 3 {
			if err := s.Kill(); err != nil {
				return err
			}
			start, cancel := context.WithTimeout(ctx, time.Minute)
			took, err := s.Start(start)
			cancel()
			if err != nil {
				return err
			}
			times = append(times, took)
		}
		slices.Sort(times)
		b.row(fmt.Sprintf("kill -9 ▸ ready, %d readings stored", n), fmt.Sprintf("%.2f s (worst of three %.2f s)", times[1].Seconds(), times[2].Seconds()), "3 s", "1 s")
		return nil
	})
}

func quantiles(sorted []time.Duration) string {
	q := func(p float64) float64 { return ms(sorted[int(p*float64(len(sorted)-1))]) }
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, max %.1f ms", q(.5), q(.99), q(1))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// writeSecret makes a webhook secret file and returns its path.
func writeSecret(path string) (string, error) {
	var b [32]byte
	rand.Read(b[:])
	return path, os.WriteFile(path, []byte("whsec_"+base64.StdEncoding.EncodeToString(b[:])+"\n"), 0o600)
}
