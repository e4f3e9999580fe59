package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitalwatch/internal/freeport"
	"vitalwatch/internal/loadgen"
)

// A restart in place under load: every device sees its connection end once and its next attempt succeed, and nothing
// that was acknowledged, before or after, is missing. SIGHUP ends no connection at all.
func TestRestartInPlace(t *testing.T) {
	s := startServer(t, "registration: open\n")
	const conns = 50
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	base := time.Now().UTC().Add(-time.Hour).Truncate(time.Millisecond)
	var mu sync.Mutex
	acked := map[[2]int]bool{}
	total := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	type result struct {
		st  *loadgen.Stats
		err error
	}
	done := make(chan result, 1)
	go func() {
		st, err := loadgen.Run(ctx, loadgen.Config{Addr: s.MQTT, Conns: conns, Rate: 2000, Device: deviceName("restart"), Reconnect: true,
			Payload: func(dst []byte, i, n int) []byte { return heartRate(dst, base, i, n) },
			OnAck: func(i, n int, _ time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				acked[[2]int{i, n}] = true
			}})
		done <- result{st, err}
	}()
	await := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("waited in vain for ", what)
			}
		}
	}
	all := func() bool { // every device has something acknowledged since
		mu.Lock()
		defer mu.Unlock()
		seen := map[int]bool{}
		for k := range acked {
			seen[k[0]] = true
		}
		return len(seen) == conns
	}
	await("load", all)
	pid := s.cmd.Process.Pid
	send := func(sig syscall.Signal) {
		if err := s.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	send(syscall.SIGHUP)
	n := total()
	await("acknowledgements after SIGHUP", func() bool { return total() > n+500 })

	begin := time.Now()
	send(syscall.SIGUSR2)
	await("the new process", func() bool {
		log, err := os.ReadFile(s.logPath())
		return err == nil && bytes.Count(log, []byte(`"message":"ready"`)) == 2
	})
	each := func() []int {
		mu.Lock()
		defer mu.Unlock()
		n := make([]int, conns)
		for k := range acked {
			n[k[0]]++
		}
		return n
	}
	was, before := total(), each()
	await("acknowledgements after the restart", func() bool { return total() > was+2000 })
	await("every device to be back", func() bool { // more than a window, which may have come from the old process
		for i, n := range each() {
			if n <= before[i]+5 {
				return false
			}
		}
		return true
	})
	t.Logf("acknowledging again %v after the signal at the latest", time.Since(begin))
	cancel()
	res := <-done
	if res.err != nil {
		t.Error(res.err)
	}
	if res.st.Reconnects != conns {
		t.Errorf("%d reconnects of %d devices, want one each", res.st.Reconnects, conns)
	}
	if p, err := os.FindProcess(pid); err != nil || p.Signal(syscall.Signal(0)) != nil {
		t.Error("the process id changed")
	}

	// What was acknowledged is there, once.
	if _, err := s.Level(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range conns {
		name := deviceName("restart")(i)
		items := list[struct {
			TakenAt time.Time `json:"taken_at"`
		}](t, s, "/api/v1/patients/P-"+name+"/readings?limit=1000&indicator=heart_rate&from="+base.Add(-time.Minute).Format(time.RFC3339)+"&to="+time.Now().UTC().Add(time.Hour).Format(time.RFC3339))
		seen := map[int64]int{}
		for _, it := range items {
			seen[it.TakenAt.UnixMilli()]++
		}
		for k := range acked {
			if k[0] != i {
				continue
			}
			if c := seen[base.Add(time.Duration(k[1])*time.Millisecond).UnixMilli()]; c != 1 {
				t.Fatalf("device %d: acknowledged message %d is stored %d times", i, k[1], c)
			}
		}
	}
}

// A supervisor's socket is used in place of the configured address, and what is handed over without use is closed.
func TestSocketActivation(t *testing.T) {
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newChild(exe, t.TempDir(), "registration: open\n")
	if err != nil {
		t.Fatal(err)
	}
	files := make([]*os.File, 2)
	addrs := make([]string, 2)
	for i := range files {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if files[i], err = l.(*net.TCPListener).File(); err != nil {
			t.Fatal(err)
		}
		addrs[i] = l.Addr().String()
		l.Close() // the file keeps the socket
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=mqtt-tcp:nonsense exec "$0" serve -c "$1"`, exe, filepath.Join(s.Dir, "vitalwatch.yaml"))
	cmd.ExtraFiles = files
	var log lockedBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGTERM)
	// The socket is open from the beginning: the device waits for the server, and is not refused.
	nc, err := loadgen.Connect(t.Context(), addrs[0], "D-1")
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	nc.Close()
	if nc, err := net.Dial("tcp", s.MQTT); err == nil {
		nc.Close()
		t.Error("it also listens at the configured address")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", addrs[1])
		if err != nil {
			break
		}
		nc.Close()
		if time.Now().After(deadline) {
			t.Fatalf("the socket nobody uses is still open\n%s", log.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A configuration that the program on disk refuses leaves the running server alone.
func TestRestartInPlace_RefusesABrokenConfiguration(t *testing.T) {
	s := startServer(t, "registration: open\n")
	nc, err := loadgen.Connect(t.Context(), s.MQTT, "D-1")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	path := filepath.Join(s.Dir, "vitalwatch.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(good, "nonsense: 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !strings.Contains(s.tail(), "unknown key nonsense"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing said:\n%s", s.tail())
		}
	}
	nc.SetDeadline(time.Now().Add(patience))
	if _, err := nc.Write([]byte{0xc0, 0}); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 2)); err != nil {
		t.Error("the connection ended: ", err)
	}
}

// Devices may log in with certificates; a disabled one is sent away and stays out.
func TestClientCertificates(t *testing.T) {
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{base: t.TempDir()}
	if err := b.certificate(); err != nil { // an authority too
		t.Fatal(err)
	}
	s, err := newChild(exe, t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if s.MQTTS, err = freeport.Loopback(); err != nil {
		t.Fatal(err)
	}
	s.Env = []string{"VITALWATCH_MQTT_EMBEDDED_TLS_LISTEN=" + s.MQTTS, "VITALWATCH_MQTT_EMBEDDED_TLS_CERT_FILE=" + b.certFile(),
		"VITALWATCH_MQTT_EMBEDDED_TLS_KEY_FILE=" + b.keyFile(), "VITALWATCH_MQTT_EMBEDDED_TLS_CLIENT_CA_FILE=" + b.certFile(),
		"VITALWATCH_MQTT_EMBEDDED_TLS_CLIENT_AUTH=optional"}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	verb := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(exe, append(args, "-c", filepath.Join(s.Dir, "vitalwatch.yaml"))...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	for _, id := range []string{"D-1", "D-2"} {
		verb("device", "add", id)
	}
	pair, err := tls.LoadX509KeyPair(b.certFile(), b.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "D-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, &key.PublicKey, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := trusting(b.certFile())
	if err != nil {
		t.Fatal(err)
	}
	conf.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	login := func(id string) (net.Conn, error) { return loadgen.ConnectTLS(t.Context(), s.MQTTS, conf, id) }
	var nc net.Conn
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // the server sees new devices within a second
		if nc, err = login("D-1"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer nc.Close()
	if nc, err := login("D-2"); err == nil {
		nc.Close()
		t.Error("another device's name was let in")
	}
	verb("device", "disable", "D-1")
	nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a disabled device stays connected")
	}
	if nc, err := login("D-1"); err == nil {
		nc.Close()
		t.Error("a disabled device was let in")
	}
}
