package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"vitalwatch/internal/loadgen"
)

// publish measures readings/s of one kind of connection against a fresh server: acknowledged, durable, stored and
// evaluated. Each connection has window messages under way; 0 means five.
func (b *bench) publish(ctx context.Context, name string, conns, window, qos int, secure bool) (perSecond float64, st *loadgen.Stats, err error) {
	err = b.withTLS(ctx, name, secure, func(ctx context.Context, s *child, conf *tls.Config) error {
		addr := s.MQTT
		if secure {
			addr = s.MQTTS
		}
		base := time.Now().UTC().Add(-time.Minute) // message n is taken n ms later, and nothing in the future
		begin := time.Now()
		var err error
		st, err = loadgen.Run(ctx, loadgen.Config{Addr: addr, TLS: conf, Conns: conns, Window: window, QoS: qos, Messages: max(1, int(1_000_000*b.cmd.Scale)/conns),
			Device: deviceName(name), Latencies: true, Payload: func(dst []byte, i, n int) []byte { return heartRate(dst, base, i, n) }})
		if err != nil {
			return err
		}
		n, err := s.Level(ctx)
		if err != nil {
			return err
		}
		if n != st.Acked {
			m, err := s.Metrics(ctx)
			return errors.Join(err, fmt.Errorf("acknowledged %d, accepted %d, duplicates %.0f, quarantined %.0f", st.Acked, n,
				m["vitalwatch_readings_duplicate_total"], m["vitalwatch_readings_quarantined_total"]))
		}
		perSecond = float64(n) / time.Since(begin).Seconds()
		return nil
	})
	return perSecond, st, err
}

func rate(perSecond float64, st *loadgen.Stats) string {
	return fmt.Sprintf("%.0f/s (acknowledged p50 %.1f ms, p99 %.1f ms)", perSecond, ms(st.Quantile(.5)), ms(st.Quantile(.99)))
}

func (b *bench) connections(ctx context.Context) error {
	for _, run := range []struct {
		conns, window int
		floor, reach  string
	}{{50, 20, "100,000/s", "150,000/s"}, {50, 5, "", ""}, {500, 5, "90,000/s", "110,000/s"}, {1000, 5, "80,000/s", "100,000/s"}} {
		r, st, err := b.publish(ctx, fmt.Sprintf("plain%dx%d", run.conns, run.window), run.conns, run.window, 1, false)
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("single readings, QoS 1, %d connections, %d under way in each", run.conns, run.window), rate(r, st), run.floor, run.reach)
	}
	return nil
}

func (b *bench) qos2(ctx context.Context) error {
	one, _, err := b.publish(ctx, "qos1", 500, 0, 1, false)
	if err != nil {
		return err
	}
	two, st, err := b.publish(ctx, "qos2", 500, 0, 2, false)
	if err != nil {
		return err
	}
	b.row("single readings, QoS 2, 500 connections", fmt.Sprintf("%s, %.0f %% of QoS 1", rate(two, st), 100*two/one), "45,000/s", "50 % of QoS 1")
	return nil
}

func (b *bench) tls(ctx context.Context) error {
	plain, _, err := b.publish(ctx, "beside-tls", 500, 0, 1, false)
	if err != nil {
		return err
	}
	secure, st, err := b.publish(ctx, "tls", 500, 0, 1, true)
	if err != nil {
		return err
	}
	b.row("single readings over TLS, QoS 1, 500 connections", fmt.Sprintf("%s, %.0f %% of plain", rate(secure, st), 100*secure/plain), "70 % of plain", "")
	return nil
}

// liveEach is what one idle device keeps, heap and stack, in bytes: mqttd.BenchmarkServer_idle.
const liveEach = 4300

// sockets holds as many idle connections as the machine lets one server have.
func (b *bench) sockets(ctx context.Context) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	want := int(50_000 * min(1, b.cmd.Scale))
	n := min(want, int(files.Max)-1500) // the server keeps 1024 for itself
	for _, secure := range []bool{false, true} {
		name := "sockets"
		if secure {
			name = "sockets-tls"
		}
		extrapolate := n < want && !secure && os.Getenv("GOGC") == ""
		if extrapolate { // with the collector's share that all of them would have, see memory.go
			os.Setenv("GOGC", strconv.Itoa(gcPercent(uint64(want)*liveEach)))
		}
		err := b.withTLS(ctx, name, secure, func(ctx context.Context, s *child, _ *tls.Config) error {
			before, err := s.RSS()
			if err != nil {
				return err
			}
			addr, ca := s.MQTT, ""
			if secure {
				addr, ca = s.MQTTS, b.certFile()
			}
			const each = 10_000
			for first := 0; first < n; first += each {
				h, err := b.helper(ctx, helperSpec{Addr: addr, CA: ca, Name: "hold", Count: min(each, n-first), First: first})
				if err != nil {
					return err
				}
				defer h.stop()
			}
			time.Sleep(5 * time.Second) // lets the collector run
			after, err := s.RSS()
			if err != nil {
				return err
			}
			per := float64(after-before) / float64(n)
			what := fmt.Sprintf("%d connected idle devices", n)
			if secure {
				what += ", TLS"
			}
			figure := fmt.Sprintf("%d MB: %.1f KB each over %d MB", after>>20, per/1024, before>>20)
			if extrapolate {
				figure += fmt.Sprintf("; %d would be %.0f MB (a process may open %d files here)", want, (float64(before)+per*float64(want))/(1<<20), files.Max)
			}
			b.row(what, figure, map[bool]string{false: "50,000 in 500 MB"}[secure], "")
			return nil
		})
		if extrapolate {
			os.Unsetenv("GOGC")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// helper is a process of our own that stands for many devices, because one process may open only so many files, and
// so that the scheduler of the one that measures is not busy with their handshakes.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func (b *bench) helper(ctx context.Context, spec helperSpec) (*helper, error) {
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	h := &helper{cmd: exec.CommandContext(ctx, b.exe, "bench", "--helper", string(arg))}
	h.cmd.Stderr = os.Stderr
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewScanner(out)
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	var ready string
	if err := h.hear(&ready); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

// hear waits for the helper's next word.
func (h *helper) hear(v any) error {
	if !h.out.Scan() {
		return errors.New("a process that stands for devices ended; its reason is above")
	}
	return json.Unmarshal(h.out.Bytes(), v)
}

func (h *helper) stop() {
	h.in.Close()
	h.cmd.Wait()
}

// helperSpec says what a helper does: it connects Count devices and says so. With Storm it then drops them, waits for
// a line, lets all come back at once, and tells a stormResult. It holds them until its input ends.
type helperSpec struct {
	Addr, CA     string
	Name         string
	Count, First int
	Storm        bool
	Resume       bool // TLS sessions
}

type stormResult struct {
	All, Half time.Duration
	Failed    int64
}

func runHelper(arg string, in io.Reader, out io.Writer) error {
	var spec helperSpec
	if err := json.Unmarshal([]byte(arg), &spec); err != nil {
		return misused("--helper: is for the bench command's own processes")
	}
	trusted, err := trusting(spec.CA)
	if err != nil {
		return err
	}
	confs := make([]*tls.Config, spec.Count)
	if trusted != nil {
		for i := range confs {
			if confs[i] = trusted; spec.Resume {
				confs[i] = trusted.Clone()
				confs[i].ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
		}
	}
	conf := func(i int) *tls.Config { return confs[i] }
	name := func(i int) string { return deviceName(spec.Name)(spec.First + i) }
	say := json.NewEncoder(out)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	closed, err := loadgen.Idle(ctx, spec.Addr, conf, spec.Count, name)
	if err != nil {
		return err
	}
	defer closed.Wait()
	defer cancel()
	say.Encode("connected")
	if spec.Storm {
		cancel()
		closed.Wait()
		if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
			return nil // not wanted any more
		}
		limit, stop := context.WithTimeout(context.Background(), 3*time.Minute)
		defer stop()
		_, took, failed, err := loadgen.Storm(limit, spec.Addr, conf, spec.Count, name)
		if err != nil {
			return fmt.Errorf("not all devices came back: %w", err)
		}
		say.Encode(stormResult{All: took[len(took)-1], Half: took[len(took)/2], Failed: failed})
	}
	io.Copy(io.Discard, in)
	return nil
}

// storm lets 10,000 devices come back over TLS at once while 1,000 others publish.
func (b *bench) storm(ctx context.Context) error {
	devices, others := max(1, int(10_000*b.cmd.Scale)), max(1, int(1_000*min(1, b.cmd.Scale)))
	for _, resume := range []bool{false, true} {
		name := "storm"
		if resume {
			name = "storm-resumed"
		}
		err := b.withTLS(ctx, name, true, func(ctx context.Context, s *child, conf *tls.Config) error {
			h, err := b.helper(ctx, helperSpec{Addr: s.MQTTS, CA: b.certFile(), Name: "storm", Count: devices, Storm: true, Resume: resume})
			if err != nil {
				return err
			}
			defer h.stop()
			bg, cancel := context.WithCancel(ctx)
			defer cancel()
			var mu sync.Mutex
			var quiet, during []time.Duration
			storming := false
			base := time.Now().UTC()
			done := make(chan error, 1)
			go func() {
				_, err := loadgen.Run(bg, loadgen.Config{Addr: s.MQTTS, TLS: conf, Conns: others, Rate: float64(2 * others), Device: deviceName("steady"),
					Payload: func(dst []byte, i, n int) []byte {
						return heartRate(dst, base.Add(time.Duration(n)*500*time.Millisecond), i, n)
					},
					OnAck: func(_, _ int, latency time.Duration) {
						mu.Lock()
						defer mu.Unlock()
						if storming {
							during = append(during, latency)
						} else {
							quiet = append(quiet, latency)
						}
					}})
				done <- err
			}()
			time.Sleep(5 * time.Second) // all connected, and some quiet to compare with
			mu.Lock()
			quiet, storming = quiet[len(quiet)/2:], true
			mu.Unlock()
			if _, err := io.WriteString(h.in, "go\n"); err != nil {
				return err
			}
			var res stormResult
			err = h.hear(&res)
			mu.Lock()
			storming = false
			mu.Unlock()
			cancel()
			if err := errors.Join(err, <-done); err != nil {
				return err
			}
			if len(during) == 0 || len(quiet) == 0 {
				return errors.New("nobody published during the storm")
			}
			slices.Sort(during)
			slices.Sort(quiet)
			q := func(d []time.Duration, p float64) float64 { return ms(d[int(p*float64(len(d)-1))]) }
			kind := "full handshakes"
			if resume {
				kind = "sessions resumed"
			}
			b.row(fmt.Sprintf("%d devices back at once over TLS, %s, %d publish", devices, kind, others),
				fmt.Sprintf("all back in %.1f s (half in %.1f s, %d attempts failed); PUBACK p99 of the others %.0f ms (before %.0f ms)",
					res.All.Seconds(), res.Half.Seconds(), res.Failed, q(during, .99), q(quiet, .99)),
				"60 s, p99 1 s", "")
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// withTLS is with, for a server that also listens with TLS when secure is set; conf is for its clients.
func (b *bench) withTLS(ctx context.Context, name string, secure bool, f func(ctx context.Context, s *child, conf *tls.Config) error) error {
	if !secure {
		return b.with(ctx, name, "", func(ctx context.Context, s *child) error { return f(ctx, s, nil) })
	}
	if err := b.certificate(); err != nil {
		return err
	}
	conf, err := trusting(b.certFile())
	if err != nil {
		return err
	}
	b.env = []string{"VITALWATCH_MQTT_EMBEDDED_TLS_CERT_FILE=" + b.certFile(), "VITALWATCH_MQTT_EMBEDDED_TLS_KEY_FILE=" + b.keyFile()}
	defer func() { b.env = nil }()
	return b.with(ctx, name, "", func(ctx context.Context, s *child) error { return f(ctx, s, conf) })
}

func (b *bench) certFile() string { return filepath.Join(b.base, "cert.pem") }
func (b *bench) keyFile() string  { return filepath.Join(b.base, "key.pem") }

// certificate makes a self-signed ECDSA P-256 certificate for loopback.
func (b *bench) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vitalwatch bench"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(240 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(b.certFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(b.keyFile(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), 0o600))
}

// trusting is TLS for clients that trust one certificate file, nil for none.
func trusting(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}, nil
}
