package subscriber_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"vitalwatch/ingest/subscriber"
	"vitalwatch/internal/mosquittotest"
)

// authority signs certificates into files of a folder.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.key, a.cert = a.sign("ca", nil, nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// sign writes name.crt and name.key; without parent it is an authority of its own.
func (a *authority) sign(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if parent == nil {
		parent, parentKey = c, key
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return key, c
}

// A broker that asks for client certificates: ours is shown, a broker of another authority is not trusted, and a
// renewed certificate is used without a restart.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	a.sign("broker", a.cert, a.key)
	other := newAuthority(t)
	other.sign("vitalwatch", other.cert, other.key)
	broker := mosquittotest.Start(t, mosquittotest.Options{Extra: strings.Join([]string{"cafile " + a.path("ca.crt"),
		"certfile " + a.path("broker.crt"), "keyfile " + a.path("broker.key"), "require_certificate true", "use_identity_as_username true"}, "\n")})
	url := "mqtts://" + broker.Addr
	ours := subscriber.TLSFiles{CAFile: a.path("ca.crt"), CertFile: a.path("vitalwatch.crt"), KeyFile: a.path("vitalwatch.key")}
	for from, to := range map[string]string{"vitalwatch.crt": ours.CertFile, "vitalwatch.key": ours.KeyFile} {
		b, err := os.ReadFile(other.path(from)) // not yet the right one
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := ours.Check(url); err != nil {
		t.Fatal(err)
	}
	in := newIntake()
	r := start(t, subscriber.Config{URL: url, TLS: ours}, subscriber.Deps{Intake: in})
	r.until("cannot connect") // the broker does not know that authority
	a.sign("vitalwatch", a.cert, a.key)
	r.until("")
	start(t, subscriber.Config{URL: url, ClientID: "other", TLS: subscriber.TLSFiles{CAFile: other.path("ca.crt")}}, subscriber.Deps{Intake: newIntake()}).
		until("certificate signed by unknown authority")

	a.sign("cuff", a.cert, a.key)
	cert, err := tls.LoadX509KeyPair(a.path("cuff.crt"), a.path("cuff.key"))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, device(t, broker, func(o *mqtt.ClientOptions) {
		o.Servers = nil
		o.AddBroker(url).SetTLSConfig(&tls.Config{RootCAs: pool(a), Certificates: []tls.Certificate{cert}})
	}), "over TLS")
	if m := in.next(t); string(m.Payload) != "over TLS" {
		t.Errorf("%+v", m)
	}
}

func pool(a *authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func TestTLSFiles_Check(t *testing.T) {
	a := newAuthority(t)
	for _, tc := range []struct {
		files     subscriber.TLSFiles
		url, want string
	}{
		{subscriber.TLSFiles{}, "tcp://h:1", ""},
		{subscriber.TLSFiles{CAFile: a.path("ca.crt")}, "mqtts://h:1", ""},
		{subscriber.TLSFiles{CAFile: a.path("ca.crt")}, "tcp://h:1", "without TLS"},
		{subscriber.TLSFiles{CAFile: a.path("ca.key")}, "mqtts://h:1", "no certificate"},
		{subscriber.TLSFiles{CAFile: a.path("none")}, "mqtts://h:1", "ca_file"},
		{subscriber.TLSFiles{CertFile: a.path("ca.crt")}, "mqtts://h:1", "belong together"},
		{subscriber.TLSFiles{CertFile: a.path("ca.crt"), KeyFile: a.path("ca.crt")}, "wss://h:1", "cert_file"},
	} {
		if err := tc.files.Check(tc.url); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v for %s: %v, want %q", tc.files, tc.url, err, tc.want)
		}
	}
}
