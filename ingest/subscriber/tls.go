package subscriber

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
)

// TLSFiles say whom to trust and who we are, for mqtts and wss. They are read at each connection, so that certificates
// can be renewed without a restart.
type TLSFiles struct {
	CAFile            string // PEM; "": the system's authorities
	CertFile, KeyFile string // PEM, our client certificate; both or neither
}

// Check says what is wrong with the files for a broker's URL.
func (f TLSFiles) Check(brokerURL string) error {
	if f == (TLSFiles{}) {
		return nil
	}
	if u, err := url.Parse(brokerURL); err == nil && (u.Scheme == "tcp" || u.Scheme == "mqtt" || u.Scheme == "ws") {
		return errors.New("is set, but the URL is without TLS; write mqtts:// or wss://")
	}
	_, err := f.load()
	return err
}

// load returns nil without any file: the library then uses the system's authorities.
func (f TLSFiles) load() (*tls.Config, error) {
	if f == (TLSFiles{}) {
		return nil, nil
	}
	if (f.CertFile == "") != (f.KeyFile == "") {
		return nil, errors.New("cert_file and key_file belong together: set both or neither")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", f.CAFile)
		}
	}
	if f.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}
