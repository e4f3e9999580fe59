package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binary builds the real command once for all tests of the package.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "vitalwatch-test-")
	if err != nil {
		return "", err
	}
	exe := filepath.Join(dir, "vitalwatch")
	cmd := exec.Command("go", "build", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return exe, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if exe, err := binary(); err == nil && code == 0 {
		os.RemoveAll(filepath.Dir(exe))
	}
	os.Exit(code)
}

// startServer runs the real binary with extra configuration, ready, and stops it when the test ends.
func startServer(t *testing.T, extra string) *child {
	t.Helper()
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	secret, err := writeSecret(filepath.Join(dir, "hook.secret"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newChild(exe, dir, strings.ReplaceAll(extra, "%SECRET%", secret))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		begin := time.Now()
		if err := s.Stop(); err != nil {
			t.Errorf("the server ended badly: %v; its log ends with:\n%s", err, s.tail())
		}
		if d := time.Since(begin); d > time.Minute { // nothing in it waits for longer than some seconds
			t.Errorf("shutdown took %v", d)
		}
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", s.tail())
		}
	})
	return s
}

// get reads JSON from the server's API into v.
func get(t *testing.T, s *child, path string, v any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.HTTP+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Key != "" {
		req.Header.Set("Authorization", "Bearer "+s.Key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s\n%s", path, resp.Status, b)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("GET %s: %v\n%s", path, err, b)
	}
}

// knows tells whether the server has heard of a patient; before, all that belongs to one is not found.
func knows(t *testing.T, s *child, patient string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.HTTP+"/api/v1/patients/"+patient, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		t.Fatalf("patient %s: %s", patient, resp.Status)
	}
	return resp.StatusCode == http.StatusOK
}

// list reads all pages of a list.
func list[T any](t *testing.T, s *child, path string) []T {
	t.Helper()
	var out []T
	cursor := ""
	for {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next_cursor"`
		}
		get(t, s, path+cursor, &page)
		out = append(out, page.Items...)
		if page.Next == "" {
			return out
		}
		cursor = "&cursor=" + page.Next
	}
}
