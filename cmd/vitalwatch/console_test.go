package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitalwatch/internal/loadgen"
	"vitalwatch/web/console/consoletest"
)

// send publishes readings of one device and returns when they are acknowledged.
func send(t *testing.T, s *child, device string, bodies ...string) {
	t.Helper()
	st, err := loadgen.Run(t.Context(), loadgen.Config{Addr: s.MQTT, Conns: 1, Messages: len(bodies), Device: func(int) string { return device },
		Payload: func(dst []byte, _, n int) []byte { return append(dst, bodies[n]...) }})
	if err != nil || st.Acked != int64(len(bodies)) {
		t.Fatalf("%d of %d acknowledged: %v", st.Acked, len(bodies), err)
	}
}

func glucose(v string) string {
	return fmt.Sprintf(`{"indicator":"glucose","taken_at":%d,"value":%s,"unit":"mmol/L"}`, time.Now().UnixMilli(), v)
}

// TestConsole_RealServer is the coach's journey in a real Chromium on the real server: signing in, acknowledging and
// resolving by mouse and keyboard, changing the language, living through a cut line.
func TestConsole_RealServer(t *testing.T) {
	s := startServer(t, "registration: open\n")
	secret := filepath.Join(s.Dir, "password")
	if err := os.WriteFile(secret, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(s.exe, "user", "add", "coach", "--role", "coach", "--password-file", secret, "-c", filepath.Join(s.Dir, "vitalwatch.yaml"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	for _, d := range []string{"one", "two", "three"} {
		send(t, s, d, glucose("6.1"), glucose("2.8"))
	}
	level(t, s)
	line, err := consoletest.NewLine(strings.TrimPrefix(s.HTTP, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	consoletest.Journey(t, consoletest.Target{URL: "http://" + line.Addr() + "/", Name: "coach", Password: "correct horse battery", Line: line,
		Raise: func() string {
			send(t, s, "four", glucose("2.9"))
			return "P-four"
		}})
}
