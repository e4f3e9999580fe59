package authority_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vitalwatch/devices/authority"
)

var now = time.Now() // the authority itself begins now

func open(t testing.TB, dir string) *authority.Authority {
	t.Helper()
	a, err := authority.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func csr(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "somebody-else"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOpen_OneAuthorityForAllAndForEver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range 8 {
		wg.Go(func() {
			a, err := authority.Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[string(a.CertificatePEM())]++
		})
	}
	wg.Wait()
	again := open(t, dir)
	if len(seen) != 1 || seen[string(again.CertificatePEM())] != 8 {
		t.Errorf("%d different authorities of one folder", len(seen))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("%d files, want the authority alone", len(entries))
	}
	if st, err := entries[0].Info(); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if a, b := again.CodeMAC("AAAAAAAAAA"), open(t, t.TempDir()).CodeMAC("AAAAAAAAAA"); a == b || len(a) != 64 {
		t.Error("two authorities key claim codes in the same way")
	}
}

func TestOpen_RefusesDamage(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	path := filepath.Join(dir, "authority.pem")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	open(t, other)
	foreign, err := os.ReadFile(filepath.Join(other, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.Index(string(whole), "-----BEGIN CERTIFICATE")
	cutForeign := strings.Index(string(foreign), "-----BEGIN CERTIFICATE")
	for name, content := range map[string]string{"empty": "", "key only": string(whole[:cut]), "certificate only": string(whole[cut:]),
		"of two authorities": string(whole[:cut]) + string(foreign[cutForeign:])} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := authority.Open(dir); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssue_IsForTheDeviceAndForClientsOnly(t *testing.T) {
	a := open(t, t.TempDir())
	edPublic, ed, _ := ed25519.GenerateKey(rand.Reader)
	_ = edPublic
	r2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	serials := map[string]bool{}
	for name, key := range map[string]crypto.Signer{"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "Ed25519": ed, "RSA 2048": r2048} {
		t.Run(name, func(t *testing.T) {
			req, err := authority.ParseRequest(csr(t, key))
			if err != nil {
				t.Fatal(err)
			}
			c, err := a.Issue(req, "cuff-7", now)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := authority.ParseCertificate([]byte(c.PEM))
			if err != nil {
				t.Fatal(err)
			}
			if id, ok := authority.DeviceID(leaf); id != "cuff-7" || !ok || leaf.Subject.CommonName != "cuff-7" || leaf.URIs[0].String() != "urn:vitalwatch:device:cuff-7" {
				t.Errorf("it names %q, %v: what the request said of names counts for nothing", id, leaf.Subject)
			}
			if serials[c.Serial] || c.Serial != authority.Serial(leaf) || !req.SameKey(leaf) || !a.Names(leaf) {
				t.Errorf("serial %s, same key %v, named %v", c.Serial, req.SameKey(leaf), a.Names(leaf))
			}
			serials[c.Serial] = true
			if err := a.Verify(leaf, now); err != nil {
				t.Error(err)
			}
			for when, at := range map[string]time.Time{"before": now.Add(-time.Hour), "after 90 days": now.Add(authority.CertificateLife + time.Second)} {
				if err := a.Verify(leaf, at); !errors.Is(err, authority.ErrBadCertificate) {
					t.Errorf("%s: %v", when, err)
				}
			}
			if err := open(t, t.TempDir()).Verify(leaf, now); err == nil {
				t.Error("another authority takes it for its own")
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
				t.Error("a device could be a server with it")
			}
		})
	}
}

func TestParseRequest_Refuses(t *testing.T) {
	good := csr(t, ecKey(t, elliptic.P256()))
	block, _ := pem.Decode(good)
	broken := append([]byte(nil), block.Bytes...)
	broken[len(broken)-1] ^= 1
	r1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skipf("skipped TestParseRequest_Refuses: no weak key can be made to refuse: %v", err)
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "wrong kind of PEM": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		"truncated": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes[:40]}),
		"signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: broken}),
		"weak RSA":  csr(t, r1024), "P-521": csr(t, ecKey(t, elliptic.P521())), "P-224": csr(t, ecKey(t, elliptic.P224())),
		"too large": append(append([]byte(nil), good...), make([]byte, 9<<10)...),
	} {
		if _, err := authority.ParseRequest(in); !errors.Is(err, authority.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	k := ecKey(f, elliptic.P256())
	good := csr(f, k)
	f.Add(good)
	f.Add(good[:len(good)/2])
	a, err := authority.Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := authority.ParseRequest(in)
		if err != nil {
			if !errors.Is(err, authority.ErrBadRequest) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if _, err := a.Issue(r, "d", now); err != nil {
			t.Fatalf("a request that was taken cannot be used: %v", err)
		}
	})
}
