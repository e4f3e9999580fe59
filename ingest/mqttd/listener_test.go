package mqttd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/mqttd"
	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/vitals"
)

// authority signs test certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// sign returns certificate and key in PEM.
func (a *authority) sign(change func(*x509.Certificate)) (cert, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func server(serial int64) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.SerialNumber, c.IPAddresses, c.DNSNames = big.NewInt(serial), []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"door"}
	}
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// secured is a door with all three listeners.
type secured struct {
	*door
	ca    *authority
	certs *mqttd.Certificates
	files mqttd.TLSFiles
}

func openSecured(t testing.TB, change func(*mqttd.Config, *mqttd.TLSFiles, *mqttd.Deps)) *secured {
	t.Helper()
	dir := t.TempDir()
	s := &secured{ca: newAuthority(t)}
	cert, key := s.ca.sign(server(7))
	s.files = mqttd.TLSFiles{CertFile: write(t, filepath.Join(dir, "cert.pem"), cert), KeyFile: write(t, filepath.Join(dir, "key.pem"), key)}
	write(t, filepath.Join(dir, "ca.pem"), s.ca.pem)
	s.door = &door{in: &intake{}, st: &statuses{got: make(chan string, 100)}, m: mqttd.NewMetrics(), log: &lockedBuffer{}}
	cfg := patient()
	cfg.Listen, cfg.TLSListen, cfg.WebSocketListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	deps := mqttd.Deps{Intake: s.in, Auth: doors{}, Status: s.st, Acks: s.st, Metrics: s.m, Log: zerolog.New(s.log)}
	if change != nil {
		change(&cfg, &s.files, &deps)
	}
	var err error
	if s.certs, err = mqttd.LoadCertificates(s.files); err != nil {
		t.Fatal(err)
	}
	deps.TLS = s.certs.Config()
	s.Server = mqttd.New(cfg, deps)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return s
}

func (s *secured) tls(change func(*tls.Config)) *tls.Config {
	c := &tls.Config{RootCAs: s.ca.pool(), ServerName: "door"}
	if change != nil {
		change(c)
	}
	return c
}

// client speaks MQTT over nc.
func clientOn(t testing.TB, nc net.Conn, v packet.Version) *client {
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &client{t: t, v: v, nc: nc, r: bufio.NewReader(nc)}
}

func (s *secured) dialTLS(t testing.TB, conf *tls.Config) *client {
	t.Helper()
	nc, err := tls.Dial("tcp", s.ListenerAddr(mqttd.ListenerTLS).String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	return clientOn(t, nc, packet.V5)
}

// frames makes a net.Conn of a WebSocket; every Write is one message.
type frames struct {
	*websocket.Conn
	r io.Reader
}

func (f *frames) Read(p []byte) (int, error) {
	for {
		if f.r == nil {
			kind, r, err := f.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, fmt.Errorf("message of kind %d", kind)
			}
			f.r = r
		}
		n, err := f.r.Read(p)
		if err == io.EOF {
			f.r = nil
			if n == 0 {
				continue
			}
			err = nil
		}
		return n, err
	}
}

func (f *frames) Write(p []byte) (int, error) {
	return len(p), f.WriteMessage(websocket.BinaryMessage, p)
}

func (f *frames) SetDeadline(t time.Time) error {
	return errors.Join(f.SetReadDeadline(t), f.SetWriteDeadline(t))
}

func (s *secured) wsURL(plain bool) string {
	scheme := "wss"
	if plain {
		scheme = "ws"
	}
	return scheme + "://" + s.ListenerAddr(mqttd.ListenerWebSocket).String() + "/mqtt"
}

func (s *secured) dialWS(t testing.TB) *client {
	t.Helper()
	d := websocket.Dialer{TLSClientConfig: s.tls(nil), Subprotocols: []string{"mqtt"}, HandshakeTimeout: patience}
	ws, _, err := d.Dial(s.wsURL(false), nil)
	if err != nil {
		t.Fatal(err)
	}
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	return clientOn(t, &frames{Conn: ws}, packet.V5)
}

func (c *client) login(id string) *client {
	c.t.Helper()
	c.send(connectPacket(c.v, id))
	if ack := c.recv().(*packet.Connack); ack.Code != 0 {
		c.t.Fatalf("refused: %v %s", ack.Code, ack.Props.Data(packet.ReasonString))
	}
	return c
}

// All three listeners carry the same conversation: small and large packets, many in one write, pieces, and the end.
func TestListeners_the_same_conversation(t *testing.T) {
	s := openSecured(t, nil)
	large := strings.Repeat("x", 60<<10)
	for name, dial := range map[string]func() *client{
		"tcp":       func() *client { return s.dial(t, packet.V5) },
		"tls 1.2":   func() *client { return s.dialTLS(t, s.tls(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })) },
		"tls 1.3":   func() *client { return s.dialTLS(t, s.tls(nil)) },
		"websocket": func() *client { return s.dialWS(t) },
	} {
		t.Run(name, func(t *testing.T) {
			id := "D-" + strings.NewReplacer(" ", "", ".", "").Replace(name)
			c := dial()
			c.t = t
			c.login(id)
			c.alive()
			var all []byte
			for i := range uint16(50) {
				all = append(all, c.bytes(readingOf(id, i+1, fmt.Sprint("m", i)))...)
			}
			c.write(all) // many in one frame or record
			for i := range uint16(50) {
				c.puback(i + 1)
			}
			b := c.bytes(readingOf(id, 51, large)) // more than one record
			c.write(b)
			c.puback(51)
			b = c.bytes(readingOf(id, 52, "piece by piece"))
			for i := range b { // a frame or record per byte
				c.write(b[i : i+1])
			}
			c.puback(52)
			c.send(&packet.Disconnect{})
			c.gone()
			n := 0
			for _, m := range s.in.payloads() {
				if strings.HasPrefix(m, "readings:m") || strings.HasSuffix(m, "piece by piece") || strings.HasSuffix(m, large) {
					n++
				}
			}
			if n < 52 {
				t.Errorf("%d of 52 stored", n)
			}
			s.in.mu.Lock()
			s.in.stored = nil
			s.in.mu.Unlock()
		})
	}
}

func TestTLS_old_versions_are_refused(t *testing.T) {
	s := openSecured(t, nil)
	_, err := tls.Dial("tcp", s.ListenerAddr(mqttd.ListenerTLS).String(), s.tls(func(c *tls.Config) {
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	}))
	if err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	s.dialTLS(t, s.tls(nil)).login("D-1").alive()
}

// A new pair is used for new connections; a broken one changes nothing.
func TestCertificates_reload(t *testing.T) {
	s := openSecured(t, nil)
	serial := func() int64 {
		t.Helper()
		c := s.dialTLS(t, s.tls(nil))
		return c.nc.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	old := s.dialTLS(t, s.tls(nil)).login("D-1")
	if changed, err := s.certs.Reload(); changed || err != nil {
		t.Errorf("unchanged files: %v, %v", changed, err)
	}
	cert, key := s.ca.sign(server(8))
	write(t, s.files.CertFile, cert)
	if _, err := s.certs.Reload(); err == nil {
		t.Error("a certificate without its key was taken")
	}
	if n := serial(); n != 7 {
		t.Errorf("serial %d after a broken pair", n)
	}
	write(t, s.files.KeyFile, key)
	if changed, err := s.certs.Reload(); !changed || err != nil {
		t.Errorf("new pair: %v, %v", changed, err)
	}
	if n := serial(); n != 8 || s.certs.Leaf().SerialNumber.Int64() != 8 {
		t.Errorf("serial %d after the reload", n)
	}
	if err := os.Remove(s.files.KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := s.certs.Reload(); err == nil {
		t.Error("no error for a missing file")
	}
	if n := serial(); n != 8 {
		t.Errorf("serial %d after the file went", n)
	}
	old.alive()
}

// A session begun before a reload resumes after it: a reload must not make everybody pay for a full handshake.
// A panic in a handshake gives its place back: there is one, and the next client needs it.
func TestTLS_panic_in_the_handshake(t *testing.T) {
	s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, _ *mqttd.Deps) { c.MaxHandshakes = 1 })
	conf := s.certs.Config()
	whole := conf.GetConfigForClient
	conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == "boom" {
			panic("certificate")
		}
		return whole(h)
	}
	addr := s.ListenerAddr(mqttd.ListenerTLS).String()
	if _, err := tls.Dial("tcp", addr, s.tls(func(c *tls.Config) { c.ServerName = "boom" })); err == nil {
		t.Fatal("no panic")
	}
	d := &net.Dialer{Timeout: patience}
	nc, err := tls.DialWithDialer(d, "tcp", addr, s.tls(nil))
	if err != nil {
		t.Fatal(err)
	}
	clientOn(t, nc, packet.V5).login("D-1").alive()
}

func TestTLS_resumes_across_reload(t *testing.T) {
	s := openSecured(t, nil)
	cache := tls.NewLRUClientSessionCache(10)
	conf := s.tls(func(c *tls.Config) { c.ClientSessionCache = cache })
	s.dialTLS(t, conf).login("D-1").alive()
	cert, key := s.ca.sign(server(8))
	write(t, s.files.CertFile, cert)
	write(t, s.files.KeyFile, key)
	if _, err := s.certs.Reload(); err != nil {
		t.Fatal(err)
	}
	if c := s.dialTLS(t, conf).login("D-1"); !c.nc.(*tls.Conn).ConnectionState().DidResume {
		t.Error("a full handshake")
	}
}

// byCertificate lets in whom the certificate names, and nobody else.
type byCertificate struct{ seen chan string }

func (b byCertificate) Authenticate(_ context.Context, l mqttd.Login) (vitals.DeviceID, error) {
	id := ""
	if leaf := l.Certificate(); leaf != nil {
		id = leaf.Subject.CommonName
	}
	b.seen <- id
	if id == "" || id != l.ClientID {
		return "", mqttd.ErrBadCredentials
	}
	return vitals.DeviceID(id), nil
}

func TestTLS_client_certificates(t *testing.T) {
	name := func(id string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject.CommonName = id }
	}
	other := newAuthority(t)
	for _, tc := range []struct {
		name   string
		auth   string
		change func(*x509.Certificate) // nil: no certificate
		signer *authority              // nil: the configured one
		in     bool
		spoken bool // a CONNACK comes, also when it says no
	}{
		{"of the device", "required", name("D-1"), nil, true, true},
		{"of another device", "required", name("D-2"), nil, false, true},
		{"expired", "required", func(c *x509.Certificate) { name("D-1")(c); c.NotAfter = time.Now().Add(-time.Minute) }, nil, false, false},
		{"for servers only", "required", func(c *x509.Certificate) {
			name("D-1")(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, nil, false, false},
		{"of another authority", "required", name("D-1"), other, false, false},
		{"of another authority, optional", "optional", name("D-1"), other, false, false},
		{"none, required", "required", nil, nil, false, false},
		{"none, optional", "optional", nil, nil, false, true},
		{"not asked for", "none", name("D-1"), nil, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			auth := byCertificate{make(chan string, 1)}
			s := openSecured(t, func(c *mqttd.Config, f *mqttd.TLSFiles, d *mqttd.Deps) {
				d.Auth = auth
				f.ClientAuth, f.ClientCAFile = tc.auth, filepath.Join(filepath.Dir(f.CertFile), "ca.pem")
			})
			conf := s.tls(nil)
			if tc.change != nil {
				signer := tc.signer
				if signer == nil {
					signer = s.ca
				}
				pair, err := tls.X509KeyPair(signer.sign(tc.change))
				if err != nil {
					t.Fatal(err)
				}
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
			c := s.dialTLS(t, conf) // 1.3: the client hears of a refused certificate only later
			c.nc.Write(c.bytes(connectPacket(packet.V5, "D-1")))
			p, err := c.read()
			ack, spoken := p.(*packet.Connack)
			if spoken != tc.spoken || (spoken && ack.Code == 0) != tc.in {
				t.Errorf("%+v, %v; want spoken %v, in %v", p, err, tc.spoken, tc.in)
			}
			if !tc.spoken {
				select {
				case id := <-auth.seen:
					t.Errorf("the authenticator was asked with %q", id)
				default:
				}
			}
		})
	}
}

// Broken certificates and authorities are found when they are loaded.
func TestLoadCertificates_errors(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.sign(server(1))
	good := mqttd.TLSFiles{CertFile: write(t, filepath.Join(dir, "c"), cert), KeyFile: write(t, filepath.Join(dir, "k"), key)}
	for name, f := range map[string]mqttd.TLSFiles{
		"no file":      {CertFile: filepath.Join(dir, "none"), KeyFile: good.KeyFile},
		"no key":       {CertFile: good.CertFile, KeyFile: good.CertFile},
		"no authority": {CertFile: good.CertFile, KeyFile: good.KeyFile, ClientAuth: "required"},
		"bad mode":     {CertFile: good.CertFile, KeyFile: good.KeyFile, ClientAuth: "perhaps"},
	} {
		if _, err := mqttd.LoadCertificates(f); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWebSocket_refused(t *testing.T) {
	s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, _ *mqttd.Deps) {
		c.WebSocket.Plain = true
		c.WebSocket.Origins = []string{"https://console.example"}
	})
	for _, tc := range []struct {
		name, path, origin string
		protocols          []string
		code               int // 0: let in
	}{
		{"a device", "/mqtt", "", []string{"mqtt"}, 0},
		{"one of several subprotocols", "/mqtt", "", []string{"mqttv3.1", "mqtt"}, 0},
		{"an allowed page", "/mqtt", "https://console.example", []string{"mqtt"}, 0},
		{"a page of the same host", "/mqtt", "http://" + s.ListenerAddr(mqttd.ListenerWebSocket).String(), []string{"mqtt"}, 0},
		{"another page", "/mqtt", "https://evil.example", []string{"mqtt"}, 403},
		{"null origin", "/mqtt", "null", []string{"mqtt"}, 403},
		{"no subprotocol", "/mqtt", "", nil, 400},
		{"another subprotocol", "/mqtt", "", []string{"mqttv3.1"}, 400},
		{"another path", "/", "", []string{"mqtt"}, 404},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := websocket.Dialer{Subprotocols: tc.protocols, HandshakeTimeout: patience, EnableCompression: true}
			h := http.Header{}
			if tc.origin != "" {
				h.Set("Origin", tc.origin)
			}
			ws, resp, err := d.Dial(strings.TrimSuffix(s.wsURL(true), "/mqtt")+tc.path, h)
			if tc.code == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if ext := resp.Header.Get("Sec-Websocket-Extensions"); ext != "" {
					t.Errorf("compression was negotiated: %s", ext)
				}
				clientOn(t, &frames{Conn: ws}, packet.V5).login("D-1").alive()
				return
			}
			if err == nil || resp == nil || resp.StatusCode != tc.code {
				t.Errorf("%v, %v; want %d", resp, err, tc.code)
			}
		})
	}
	t.Run("not WebSocket at all", func(t *testing.T) {
		for _, req := range []string{"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", "BREW /mqtt HTTP/1.1\r\nHost: x\r\n\r\n"} {
			nc, err := net.Dial("tcp", s.ListenerAddr(mqttd.ListenerWebSocket).String())
			if err != nil {
				t.Fatal(err)
			}
			c := clientOn(t, nc, packet.V5)
			c.write([]byte(req))
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil || resp.StatusCode/100 != 4 {
				t.Errorf("%q: %v, %v", req, resp, err)
			}
		}
	})
	t.Run("bytes", func(t *testing.T) {
		nc, err := net.Dial("tcp", s.ListenerAddr(mqttd.ListenerWebSocket).String())
		if err != nil {
			t.Fatal(err)
		}
		c := clientOn(t, nc, packet.V5)
		nc.Write([]byte("GET /mqtt HTTP/1.1\r\nX: " + strings.Repeat("x", 20<<10)))
		c.gone()
	})
}

// hostileFrame is a client frame as RFC 6455 5.2 has it, masked with zeros.
func hostileFrame(first byte, payload []byte) []byte {
	b := []byte{first, 0x80 | byte(min(len(payload), 126))}
	if len(payload) >= 126 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

// What frames may do to a connection: fragments and control frames between them are fine; text, compression bits and
// too much are the end of it.
func TestWebSocket_frames(t *testing.T) {
	s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, _ *mqttd.Deps) {
		c.WebSocket.Plain = true
		c.WebSocket.MaxMessageBytes = 4096
	})
	raw := func(t *testing.T) (net.Conn, *client) {
		d := websocket.Dialer{Subprotocols: []string{"mqtt"}, HandshakeTimeout: patience}
		ws, _, err := d.Dial(s.wsURL(true), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := clientOn(t, &frames{Conn: ws}, packet.V5)
		return ws.NetConn(), c
	}
	connect := (&client{t: t, v: packet.V5}).bytes(connectPacket(packet.V5, "D-1"))
	pub := (&client{t: t, v: packet.V5}).bytes(readingOf("D-1", 9, "in fragments"))
	t.Run("fragments, pings between them, empty ones", func(t *testing.T) {
		nc, c := raw(t)
		var b []byte
		whole := append(bytes.Clone(connect), pub...)
		b = append(b, hostileFrame(0x02, nil)...) // binary, to be continued
		for _, x := range whole {
			b = append(b, hostileFrame(0x00, []byte{x})...)
			b = append(b, hostileFrame(0x89, []byte("ping"))...)
		}
		b = append(b, hostileFrame(0x80, nil)...) // the last of it
		b = append(b, hostileFrame(0x82, nil)...) // an empty message
		if _, err := nc.Write(b); err != nil {
			t.Fatal(err)
		}
		if ack := c.recv().(*packet.Connack); ack.Code != 0 {
			t.Errorf("%+v", ack)
		}
		c.puback(9)
		c.alive()
	})
	for name, frame := range map[string][]byte{
		"text":                    hostileFrame(0x81, []byte("text")),
		"compressed":              hostileFrame(0xc2, []byte{0, 0}),
		"not masked":              {0x82, 1, 0},
		"continuation of nothing": hostileFrame(0x80, []byte{0}),
		"reserved opcode":         hostileFrame(0x83, []byte{0}),
		"too much":                hostileFrame(0x82, make([]byte, 5000)),
		"huge":                    {0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"close":                   hostileFrame(0x88, nil),
	} {
		t.Run(name, func(t *testing.T) {
			nc, c := raw(t)
			c.login("D-1")
			if _, err := nc.Write(frame); err != nil {
				t.Fatal(err)
			}
			c.gone()
		})
	}
	if n := count(t, s.m.Panics); n != 0 {
		t.Errorf("%v panics", n)
	}
}

// Behind a load balancer, on every listener, limits count the client's address.
func TestProxyProtocol(t *testing.T) {
	var mu sync.Mutex
	var seen []netip.Addr
	s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, d *mqttd.Deps) {
		c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.MaxConnectionsPerAddress = 3
		d.Auth = authFunc(func(l mqttd.Login) (vitals.DeviceID, error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, l.Addr)
			return vitals.DeviceID(l.ClientID), nil
		})
	})
	header := func(addr string) []byte {
		b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11, 0, 12+7)
		b = append(b, netip.MustParseAddr(addr).AsSlice()...)
		return append(b, 127, 0, 0, 1, 0x10, 0, 0x10, 1, 0x04, 0, 4, 0, 0, 0, 0)
	}
	dial := func(listener string, head []byte) net.Conn {
		t.Helper()
		nc, err := net.Dial("tcp", s.ListenerAddr(listener).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(patience))
		nc.Write(head)
		return nc
	}
	clientOn(t, dial(mqttd.ListenerTCP, header("192.0.2.1")), packet.V5).login("D-1").alive()
	clientOn(t, tls.Client(dial(mqttd.ListenerTLS, header("192.0.2.2")), s.tls(nil)), packet.V5).login("D-2").alive()
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, HandshakeTimeout: patience, TLSClientConfig: s.tls(nil),
		NetDial: func(string, string) (net.Conn, error) { return dial(mqttd.ListenerWebSocket, header("192.0.2.3")), nil }}
	ws, _, err := d.Dial("wss://door/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	clientOn(t, &frames{Conn: ws}, packet.V5).login("D-3").alive()
	mu.Lock()
	if got := fmt.Sprint(seen); got != "[192.0.2.1 192.0.2.2 192.0.2.3]" {
		t.Errorf("logins from %s", got)
	}
	mu.Unlock()

	t.Run("counted by the client's address", func(t *testing.T) {
		for i := range 2 {
			clientOn(t, dial(mqttd.ListenerTCP, header("192.0.2.1")), packet.V5).login(fmt.Sprint("E-", i)).alive()
		}
		clientOn(t, dial(mqttd.ListenerTCP, header("192.0.2.1")), packet.V5).gone()
		clientOn(t, dial(mqttd.ListenerTCP, header("192.0.2.9")), packet.V5).login("E-9").alive()
	})
	t.Run("the balancer's own checks", func(t *testing.T) {
		local := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20, 0, 0, 0)
		for i := range 5 {
			clientOn(t, dial(mqttd.ListenerTCP, local), packet.V5).login(fmt.Sprint("L-", i)).alive()
		}
	})
	t.Run("none", func(t *testing.T) {
		c := clientOn(t, dial(mqttd.ListenerTCP, nil), packet.V5)
		c.nc.Write(c.bytes(connectPacket(packet.V5, "D-9")))
		c.gone()
	})
	t.Run("silent", func(t *testing.T) {
		d := open(t, func(c *mqttd.Config) {
			c.ProxyProtocol, c.ConnectTimeout = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 300*time.Millisecond
		}, nil)
		c := d.dial(t, packet.V5)
		c.nc.Write(header("192.0.2.1")[:10])
		c.gone()
	})
	t.Run("from elsewhere it is not understood", func(t *testing.T) {
		d := open(t, func(c *mqttd.Config) { c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, nil)
		c := d.dial(t, packet.V5)
		c.nc.Write(header("192.0.2.1"))
		c.gone()
		d.connect(t, packet.V5, "D-1").alive()
	})
}

type authFunc func(mqttd.Login) (vitals.DeviceID, error)

func (f authFunc) Authenticate(_ context.Context, l mqttd.Login) (vitals.DeviceID, error) {
	return f(l)
}

// Before CONNECT every layer has the same clock: handshakes and upgrades that dawdle are cut off.
func TestListeners_too_slow_before_CONNECT(t *testing.T) {
	s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, _ *mqttd.Deps) { c.ConnectTimeout = 300 * time.Millisecond })
	for _, tc := range []struct{ listener, first string }{
		{mqttd.ListenerTLS, ""}, {mqttd.ListenerTLS, "\x16\x03\x01\x01\x00"}, {mqttd.ListenerWebSocket, ""}, {mqttd.ListenerWebSocket, "\x16"},
	} {
		nc, err := net.Dial("tcp", s.ListenerAddr(tc.listener).String())
		if err != nil {
			t.Fatal(err)
		}
		c := clientOn(t, nc, packet.V5)
		nc.Write([]byte(tc.first))
		c.gone()
	}
	if n := count(t, s.m.Connects.WithLabelValues("timeout")); n != 4 {
		t.Errorf("%v timeouts", n)
	}
	// Shakes hands, for which a busy machine may need its time, and says nothing then.
	for within := 500 * time.Millisecond; ; within *= 2 {
		s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, _ *mqttd.Deps) { c.ConnectTimeout = within })
		nc, err := tls.Dial("tcp", s.ListenerAddr(mqttd.ListenerTLS).String(), s.tls(nil))
		if err != nil && within < patience/2 {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		clientOn(t, nc, packet.V5).gone()
		if n := count(t, s.m.Connects.WithLabelValues("timeout")); n != 1 {
			t.Errorf("%v timeouts", n)
		}
		return
	}
}

// A listener that is full of strangers takes nobody in until one is gone; those connected notice nothing.
func TestListeners_pending_is_bounded(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.TCPLimits.MaxPending, c.ConnectTimeout = 4, time.Minute }, nil)
	in := d.connect(t, packet.V5, "D-1")
	in.alive() // its CONNACK is written before it counts as through
	var silent []*client
	for range 4 {
		silent = append(silent, d.dial(t, packet.V5))
	}
	waitFor(t, "the strangers", func() bool { return count(t, d.m.Connections) == 5 })
	late := d.dial(t, packet.V5)
	late.nc.Write(late.bytes(connectPacket(packet.V5, "D-2")))
	waitFor(t, "the wait", func() bool { return count(t, d.m.AcceptWaits.WithLabelValues("tcp", "pending")) == 1 })
	in.alive()
	if n := count(t, d.m.Connections); n != 5 {
		t.Errorf("%v connections", n)
	}
	silent[0].nc.Close()
	if ack := late.recv().(*packet.Connack); ack.Code != 0 {
		t.Errorf("%+v", ack)
	}
}

func TestListeners_own_limits(t *testing.T) {
	s := openSecured(t, func(c *mqttd.Config, _ *mqttd.TLSFiles, _ *mqttd.Deps) { c.TLSLimits.MaxConnections = 1 })
	a := s.dialTLS(t, s.tls(nil)).login("D-1")
	nc, err := net.Dial("tcp", s.ListenerAddr(mqttd.ListenerTLS).String())
	if err != nil {
		t.Fatal(err)
	}
	clientOn(t, nc, packet.V5).gone()
	s.connect(t, packet.V5, "D-2").alive()
	s.dialWS(t).login("D-3").alive()
	a.alive()
	if n := count(t, s.m.Connects.WithLabelValues("too_many_on_listener")); n != 1 {
		t.Errorf("%v refused", n)
	}
}

// The accept rate holds back what comes at once.
func TestListeners_accept_rate(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.TCPLimits.AcceptPerSecond = 4 }, nil) // a burst of 1, and one is awaited
	begin := time.Now()
	var cs []*client
	for range 6 {
		cs = append(cs, d.dial(t, packet.V5))
	}
	for i, c := range cs {
		c.login(fmt.Sprint("D-", i))
	}
	if took := time.Since(begin); took < 900*time.Millisecond {
		t.Errorf("6 connections at 4/s in %v", took)
	}
	if n := count(t, d.m.AcceptWaits.WithLabelValues("tcp", "rate")); n == 0 {
		t.Error("not counted")
	}
}

// What a device may send in a minute is the device's, not the connection's.
func TestLimits_message_rate_survives_reconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no token comes back meanwhile, however busy the machine is
		m, connect := limited(t, 60)
		for i := range 3 {
			c, got := connect("D-1")
			var all []byte
			for id := range uint16(25) {
				all = append(all, c.bytes(reading(id+1, "x"))...)
			}
			c.write(all)
			for id := range uint16(25) {
				if a, ok := (<-got).(*packet.Ack); !ok || a.ID != id+1 {
					t.Fatalf("got %+v, want PUBACK %d", a, id+1)
				}
			}
			synctest.Wait()
			if n, want := count(t, m.Throttled), []float64{0, 0, 1}[i]; n != want {
				t.Errorf("after %d connections throttled %v times", i+1, n)
			}
			c.nc.Close()
			for range got {
			}
		}
		c, got := connect("D-2")
		c.send(reading2("D-2", 1))
		if a, ok := (<-got).(*packet.Ack); !ok || a.ID != 1 {
			t.Errorf("another device got %+v", a)
		}
		c.nc.Close()
	})
}

// limited serves in a bubble with a rate per device, until the bubble's test ends.
func limited(t *testing.T, perMinute int) (*mqttd.Metrics, func(id string) (*client, chan packet.Packet)) {
	cfg, m := patient(), mqttd.NewMetrics()
	cfg.MessagesPerMinute = perMinute
	s := mqttd.New(cfg, mqttd.Deps{Intake: &intake{}, Auth: doors{}, Metrics: m})
	l := &pipes{make(chan net.Conn), make(chan struct{})}
	go s.Serve(l)
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, func(id string) (*client, chan packet.Packet) {
		c, got := l.connect(t, packet.V311, func(p *packet.Connect) { p.ClientID = []byte(id) })
		if ack := (<-got).(*packet.Connack); ack.Code != 0 {
			t.Fatalf("%+v", ack)
		}
		return c, got
	}
}

func reading2(device string, id uint16) *packet.Publish { return readingOf(device, id, "x") }

func TestShutdown_names_another_server(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.ServerReference = "mqtt2.clinic.example:8883" }, nil)
	c := d.connect(t, packet.V5, "D-1")
	old := d.connect(t, packet.V311, "D-2")
	go d.Shutdown(t.Context())
	bye := c.recv().(*packet.Disconnect)
	if bye.Code != packet.ServerShuttingDown || string(bye.Props.Data(packet.ServerReference)) != "mqtt2.clinic.example:8883" {
		t.Errorf("%+v", bye)
	}
	old.gone()
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// More connections than the process may open files are not promised, and the log says so.
func TestListeners_fit_the_open_files(t *testing.T) {
	d := open(t, func(c *mqttd.Config) { c.MaxConnections = 10_000_000 }, nil)
	if !strings.Contains(d.log.String(), "may not open more files") {
		t.Skip("this process may open ten million files")
	}
	d.connect(t, packet.V5, "D-1").alive()
}
