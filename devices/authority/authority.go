// Package authority is the small certificate authority of one installation: it owns the key and certificate in the data
// folder, issues client certificates to devices from their signing requests, and keys the hashes of claim codes. It does
// not know which devices there are nor what was revoked; devices.Registry does.
//
// Concurrency: an Authority never changes after Open and is safe for concurrent use.
package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// Lifetimes. A device renews when two thirds of its certificate's life are over; the authority outlives the devices.
const (
	CertificateLife = 90 * 24 * time.Hour
	authorityLife   = 20 * 365 * 24 * time.Hour
	// backdate is for devices whose clock is behind ours.
	backdate = 10 * time.Minute
)

// uriPrefix stands before the device id in the certificate's URI name.
const uriPrefix = "urn:vitalwatch:device:"

// maxRequest bounds a signing request: one with an RSA key of 4096 bits has about 1,700 in PEM.
const maxRequest = 8 << 10

// What callers branch on.
var (
	// ErrBadRequest is a signing request that cannot be used.
	ErrBadRequest = errors.New("invalid certificate request")
	// ErrBadCertificate is one that is not of this authority, or not valid now.
	ErrBadCertificate = errors.New("invalid certificate")
)

// Authority issues certificates.
type Authority struct {
	key      *ecdsa.PrivateKey
	cert     *x509.Certificate
	certPEM  []byte
	claimKey []byte
}

// Open reads the authority from dir, and makes it when there is none. Key and certificate are one file that only its
// owner may read, so that they cannot be torn apart; processes that open at once agree on one.
func Open(dir string) (*Authority, error) {
	path := filepath.Join(dir, "authority.pem")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, path); err != nil {
			return nil, fmt.Errorf("make the certificate authority: %w", err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	a, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority %s: %w; restore it from a backup, or remove it and give all devices new certificates", path, err)
	}
	return a, nil
}

func create(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "vitalwatch devices " + now.UTC().Format(time.DateOnly)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	f, err := os.CreateTemp(dir, "new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, leaves what another process has just made.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func parse(b []byte) (*Authority, error) {
	a := &Authority{}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			key, ok := k.(*ecdsa.PrivateKey)
			if err != nil || !ok {
				return nil, errors.New("its key is not an ECDSA key in PKCS #8")
			}
			a.key = key
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil || !c.IsCA || len(c.SubjectKeyId) == 0 {
				return nil, errors.New("its certificate is not one of an authority")
			}
			a.cert, a.certPEM = c, pem.EncodeToMemory(block)
		}
	}
	if a.key == nil || a.cert == nil || !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return nil, errors.New("key and certificate are not there, or do not belong together")
	}
	secret, err := a.key.Bytes()
	if err != nil {
		return nil, err
	}
	a.claimKey, err = hkdf.Key(sha256.New, secret, nil, "vitalwatch claim codes v1", sha256.Size)
	return a, err
}

func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive, RFC 5280 4.1.2.2
	b[0] |= 0x40 // always 16 bytes
	return new(big.Int).SetBytes(b[:])
}

// CertificatePEM is what a TLS listener must trust to let our devices in. Read only.
func (a *Authority) CertificatePEM() []byte { return a.certPEM }

// NotAfter is when the authority itself ends.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// AddTo makes a pool trust the authority.
func (a *Authority) AddTo(p *x509.CertPool) { p.AddCert(a.cert) }

// Pool is a pool that trusts only the authority.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	a.AddTo(p)
	return p
}

// Names reports whether a certificate, verified by somebody else, says that this authority has issued it.
func (a *Authority) Names(leaf *x509.Certificate) bool {
	return bytes.Equal(leaf.AuthorityKeyId, a.cert.SubjectKeyId)
}

// Verify checks that a certificate is of this authority, for clients, and valid at an instant.
func (a *Authority) Verify(leaf *x509.Certificate, at time.Time) error {
	_, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("%w: it is not of this server's authority, or not valid now", ErrBadCertificate)
	}
	return nil
}

// CodeMAC is how a claim code is stored.
func (a *Authority) CodeMAC(code string) string {
	m := hmac.New(sha256.New, a.claimKey)
	m.Write([]byte(code))
	return hex.EncodeToString(m.Sum(nil))
}

// Request is a signing request whose sender has shown to hold the key. What it says of names is not used: the
// certificate is for the device that asks.
type Request struct {
	csr *x509.CertificateRequest
	// PublicKey is the SHA-256 of the public key in lower-case hex.
	PublicKey string
}

// Raw is the request in DER, what a holder of another key may countersign.
func (r *Request) Raw() []byte { return r.csr.Raw }

// SameKey reports whether the certificate is for the key that signed the request.
func (r *Request) SameKey(c *x509.Certificate) bool {
	return keyHash(c.RawSubjectPublicKeyInfo) == r.PublicKey
}

func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// ParseRequest reads a PKCS #10 request in PEM. Errors wrap ErrBadRequest and quote nothing of it.
func ParseRequest(text []byte) (*Request, error) {
	bad := func(why string) (*Request, error) { return nil, fmt.Errorf("%w: %s", ErrBadRequest, why) }
	if len(text) > maxRequest {
		return bad("it is larger than 8 KiB")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return bad("send a PKCS #10 request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return bad("it is not a PKCS #10 request")
	}
	switch k := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return bad("use the curve P-256 or P-384")
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return bad("an RSA key must have 2048 to 4096 bits")
		}
	default:
		return bad("use an ECDSA, Ed25519 or RSA key")
	}
	if csr.CheckSignature() != nil {
		return bad("its signature is wrong")
	}
	return &Request{csr, keyHash(csr.RawSubjectPublicKeyInfo)}, nil
}

// ParseCertificate reads one certificate in PEM.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	if len(text) <= maxRequest {
		if block, _ := pem.Decode(text); block != nil && block.Type == "CERTIFICATE" {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				return c, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: send it in PEM", ErrBadCertificate)
}

// Certificate is what was issued.
type Certificate struct {
	Serial      string // lower-case hex
	Fingerprint [sha256.Size]byte
	PublicKey   string // as in Request
	PEM         string
	NotAfter    vitals.Micros
}

// Issue makes a certificate for a device.
func (a *Authority) Issue(r *Request, device vitals.DeviceID, at time.Time) (*Certificate, error) {
	t := &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: string(device)},
		URIs:      []*url.URL{{Scheme: "urn", Opaque: strings.TrimPrefix(uriPrefix, "urn:") + string(device)}},
		NotBefore: at.Add(-backdate), NotAfter: at.Add(CertificateLife).Truncate(time.Second), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, r.csr.PublicKey.(crypto.PublicKey), a.key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return &Certificate{Serial: Serial(t), Fingerprint: sha256.Sum256(der), PublicKey: r.PublicKey,
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), NotAfter: vitals.At(t.NotAfter)}, nil
}

// Serial is a certificate's serial number as it is stored and shown.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// DeviceID is the device that a certificate names: in a URI urn:vitalwatch:device:ID, or else, as other authorities do
// it, in the common name.
func DeviceID(c *x509.Certificate) (vitals.DeviceID, bool) {
	id := c.Subject.CommonName
	for _, u := range c.URIs {
		if rest, ok := strings.CutPrefix(u.String(), uriPrefix); ok {
			id = rest
			break
		}
	}
	return vitals.DeviceID(id), vitals.ValidID(id)
}
