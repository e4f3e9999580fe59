package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"image/png"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vitalwatch/internal/freeport"
	"vitalwatch/internal/loadgen"
)

func TestIdentityVerbs(t *testing.T) {
	c := newRegistryCLI(t)
	c.ok("patient add P-1")
	c.ok("device add cuff --patient P-1 --model HEM-7322T")
	c.ok("device add gate")
	if out := c.ok("device set cuff --serial 42 --tz Asia/Shanghai"); out != "" {
		t.Errorf("device set printed %q on stdout", out)
	}
	picture := filepath.Join(t.TempDir(), "code.png")
	code := c.ok("device claim-code cuff --valid 1h --server https://desk.example --qr " + picture)
	if !regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]{5}\n$`).MatchString(code) {
		t.Errorf("claim-code printed %q, want the code alone", code)
	}
	b, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(b)); err != nil {
		t.Errorf("the picture: %v", err)
	}
	ca := c.ok("device ca")
	if block, rest := pem.Decode([]byte(ca)); block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" || ca != c.ok("device ca") {
		t.Errorf("device ca printed %q", ca)
	}
	c.ok("device assign gate cuff")
	show := c.ok("device show cuff")
	for _, want := range []string{"HEM-7322T", "42", "Asia/Shanghai", "measures for  P-1", "gateway       gate", "credential    secret"} {
		if !strings.Contains(show, want) {
			t.Errorf("device show lacks %q:\n%s", want, show)
		}
	}
	c.ok("device unassign gate cuff")
	c.ok("device revoke cuff")
	if show := c.ok("device show cuff"); strings.Contains(show, "credential") || !strings.Contains(show, "gate, from") || strings.Contains(show, "gate, from "+" to now") {
		t.Errorf("after revoke and unassign:\n%s", show)
	}
	if out := c.ok("device status cuff --output json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("status of a device that never said any: %s", out)
	}
	if out := c.ok("device models"); !strings.Contains(out, "omron-hem7") {
		t.Errorf("models:\n%s", out)
	}
	for _, x := range []struct {
		line   string
		status int
		want   string
	}{
		{"device set cuff", 2, "--model"},
		{"device set none --model x", 1, "no such device"},
		{"device set cuff --tz Mars/Base", 1, "Asia/Shanghai"},
		{"device claim-code none", 1, "no such device"},
		{"device claim-code cuff --valid 1000h", 1, "30 days"},
		{"device revoke cuff --serial xyz", 1, "hex"},
		{"device assign none cuff", 1, "no such device"},
		{"device assign cuff cuff", 1, "for itself"},
		{"device unassign gate cuff", 1, "does not speak"},
		{"device status none", 1, "no such device"},
		{"device show none", 1, "vitalwatch device list"},
	} {
		if status, _, stderr := c.run(x.line); status != x.status || !strings.Contains(stderr, x.want) {
			t.Errorf("%s: status %d, want %d with %q:\n%s", x.line, status, x.status, x.want, stderr)
		}
	}
}

func TestCheck_FindsMistakesInDeviceModels(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine.yaml"), []byte("id: mine\nkind: toaster\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "vitalwatch.yaml")
	if err := os.WriteFile(config, []byte("devices: {dirs: ["+dir+", "+dir+"/none]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := checkAll(config, none)
	for _, want := range []string{"mine.yaml:2:7: kind:", "devices.dirs.1: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check does not say %q: %v", want, err)
		}
	}
}

// A device makes its key, gets a certificate for the code on its label, speaks, for itself and as a gateway, and is cut
// off while connected.
func TestProvisionedDevice_FromClaimCodeToRevocation(t *testing.T) {
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{base: t.TempDir()}
	if err := b.certificate(); err != nil {
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
		"VITALWATCH_MQTT_EMBEDDED_TLS_KEY_FILE=" + b.keyFile(), "VITALWATCH_MQTT_EMBEDDED_TLS_CLIENT_AUTH=optional"}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	cli(t, s, "patient", "add", "P-1")
	cli(t, s, "device", "add", "gate", "--no-secret")
	cli(t, s, "device", "add", "cuff", "--no-secret", "--patient", "P-1")
	cli(t, s, "device", "assign", "gate", "cuff")
	code := strings.TrimSpace(cli(t, s, "device", "claim-code", "gate"))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"code": code, "csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.HTTP+"/api/v1/provision", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p struct {
		Device      string `json:"device_id"`
		Certificate string `json:"certificate"`
		Serial      string `json:"serial"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != http.StatusOK || p.Device != "gate" {
		t.Fatalf("provision: %s, %v, %+v", resp.Status, err, p)
	}
	conf, err := trusting(b.certFile())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(p.Certificate))
	conf.Certificates = []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}
	login := func(id string) (net.Conn, error) { return loadgen.ConnectTLS(t.Context(), s.MQTTS, conf, id) }
	nc, err := login("gate")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	// Refused at the login, before the code cuff has said anything.
	if other, err := login("cuff"); err == nil {
		other.Close()
		t.Error("it came in under another device's id")
	}
	// PUBLISH, QoS 1, packet id 1 (MQTT 3.1.1, 3.3), for the cuff behind it.
	topic, reading := "vw/v1/cuff/up/readings", `{"indicator":"heart_rate","taken_at":"2020-01-01T00:00:00Z","value":60,"unit":"/min"}`
	packet := []byte{0x32, byte(2 + len(topic) + 2 + len(reading)), 0, byte(len(topic))}
	packet = append(append(append(packet, topic...), 0, 1), reading...)
	if len(packet)-2 > 127 {
		t.Fatal("the length needs a second byte")
	}
	if _, err := nc.Write(packet); err != nil {
		t.Fatal(err)
	}
	if ack := make([]byte, 4); true {
		if _, err := io.ReadFull(nc, ack); err != nil || ack[0] != 0x40 || ack[3] != 1 {
			t.Fatalf("no PUBACK for a device behind the gateway: %x, %v", ack, err)
		}
	}
	waitFor(t, "the server sees the patient", func() bool { // within a second of the command
		resp, err := http.Get(s.HTTP + "/api/v1/patients/P-1")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	level(t, s)
	if got := list[struct {
		Device string `json:"device_id"`
	}](t, s, "/api/v1/patients/P-1/readings"); len(got) != 1 || got[0].Device != "cuff" {
		t.Errorf("readings of the patient: %+v", got)
	}
	cli(t, s, "device", "revoke", "gate", "--serial", p.Serial)
	nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the session goes on after its certificate was revoked")
	}
	if nc, err := login("gate"); err == nil {
		nc.Close()
		t.Error("a revoked certificate was let in")
	}
}
