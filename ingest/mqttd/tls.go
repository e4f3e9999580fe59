package mqttd

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// TLSFiles name what a TLS listener needs.
type TLSFiles struct {
	CertFile, KeyFile string
	// ClientCAFile holds the authorities, in PEM, that sign devices' certificates, and nothing else: whatever they
	// sign can log in as the device that it names. "": none.
	ClientCAFile string
	// AddClientCAs adds authorities that are not in a file; nil: none.
	AddClientCAs func(*x509.CertPool)
	// ClientAuth is "none" (or ""), "optional" (a certificate is verified if there is one) or "required".
	ClientAuth string
}

// Certificates is TLS that follows its files: Reload takes what they say now, and keeps what was when that is broken.
// Connections that are up stay as they are. Its methods are safe for concurrent use.
type Certificates struct {
	files TLSFiles
	base  *tls.Config // its session ticket keys outlive a reload
	now   atomic.Pointer[tls.Config]

	mu   sync.Mutex
	seen [3][]byte // contents of the files in force
}

// LoadCertificates reads the files.
func LoadCertificates(files TLSFiles) (*Certificates, error) {
	c := &Certificates{files: files}
	if _, err := c.Reload(); err != nil {
		return nil, err
	}
	c.base = c.now.Load().Clone()
	c.base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.now.Load(), nil }
	return c, nil
}

// Config is for Deps.TLS.
func (c *Certificates) Config() *tls.Config { return c.base }

// Leaf is the server certificate in force.
func (c *Certificates) Leaf() *x509.Certificate { return c.now.Load().Certificates[0].Leaf }

// Reload reads the files again and reports whether they had changed. After an error what was in force stays, and the
// next Reload tries again.
func (c *Certificates) Reload() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var seen [3][]byte
	for i, path := range []string{c.files.CertFile, c.files.KeyFile, c.files.ClientCAFile} {
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		seen[i] = b
	}
	if c.now.Load() != nil && slices.EqualFunc(seen[:], c.seen[:], bytes.Equal) {
		return false, nil
	}
	cert, err := tls.X509KeyPair(seen[0], seen[1])
	if err != nil {
		return false, fmt.Errorf("%s and %s: %w", c.files.CertFile, c.files.KeyFile, err)
	}
	// 1.2 and 1.3 only (ASVS 12.1.1). One group of acknowledgements is one record, however short the connection.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, DynamicRecordSizingDisabled: true}
	switch c.files.ClientAuth {
	case "", "none":
	case "optional":
		conf.ClientAuth = tls.VerifyClientCertIfGiven
	case "required":
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		return false, fmt.Errorf("client authentication %q is none of none, optional, required", c.files.ClientAuth)
	}
	if conf.ClientAuth != tls.NoClientCert {
		conf.ClientCAs = x509.NewCertPool()
		switch {
		case c.files.ClientCAFile != "" && !conf.ClientCAs.AppendCertsFromPEM(seen[2]):
			return false, fmt.Errorf("%s: no certificate in PEM", c.files.ClientCAFile)
		case c.files.ClientCAFile == "" && c.files.AddClientCAs == nil:
			return false, errors.New("client certificates are asked for, but no authority is known that signs them; name its file")
		case c.files.AddClientCAs != nil:
			c.files.AddClientCAs(conf.ClientCAs)
		}
	}
	c.now.Store(conf)
	c.seen = seen
	return true, nil
}

// Certificate is the client's, when it showed one and its chain was verified; else nil.
func (l *Login) Certificate() *x509.Certificate {
	if l.TLS == nil || len(l.TLS.VerifiedChains) == 0 || len(l.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	return l.TLS.VerifiedChains[0][0]
}
