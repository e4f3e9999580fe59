package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme_CommandsWork runs the commands of both READMEs as a newcomer would, on free ports.
func TestReadme_CommandsWork(t *testing.T) {
	if _, err := exec.LookPath("mosquitto_pub"); err != nil {
		t.Skip("mosquitto_pub is not installed: the README's commands are not run (Debian: apt install mosquitto-clients)")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed: the README's commands are not run")
	}
	exe, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"README.md", "README.zh-CN.md"} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "..", file))
			if err != nil {
				t.Fatal(err)
			}
			var blocks []string
			for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
				blocks = append(blocks, m[1])
			}
			if len(blocks) != 5 {
				t.Fatalf("%d blocks of commands, want demo, test, set-up, publish and API key", len(blocks))
			}
			if blocks[0] != "go run ./cmd/vitalwatch demo\n" || blocks[1] != "make test\n" {
				t.Errorf("the two commands are %q and %q", blocks[0], blocks[1])
			}
			s, err := newChild(exe, t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			httpAddr := strings.TrimPrefix(s.HTTP, "http://")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			sh := func(script, stdin string) (string, *exec.Cmd) {
				host, port, err := net.SplitHostPort(s.MQTT)
				if err != nil {
					t.Fatal(err)
				}
				script = strings.NewReplacer("make build\n", "", "bin/vitalwatch", exe, "-h 127.0.0.1 -p 1883", "-h "+host+" -p "+port, "127.0.0.1:8080", httpAddr).Replace(script)
				c := exec.CommandContext(ctx, "sh", "-ec", script)
				c.Dir = s.Dir
				c.Env = append(os.Environ(), "VITALWATCH_HTTP_LISTEN="+httpAddr, "VITALWATCH_MQTT_EMBEDDED_LISTEN="+s.MQTT)
				c.Stdin = strings.NewReader(stdin)
				return script, c
			}
			setup, serve, ok := strings.Cut(blocks[2], "bin/vitalwatch serve")
			if !ok || strings.TrimSpace(serve) != "" {
				t.Fatalf("the set-up does not end with serve: %q", blocks[2])
			}
			if script, c := sh(setup, "correct horse battery staple\n"); true {
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("%s\n%v\n%s", script, err, out)
				}
			}
			// serve with the defaults, in the same folder, as the README says; only the ports differ.
			server := exec.Command(exe, "serve")
			server.Dir = s.Dir
			server.Env = append(os.Environ(), "VITALWATCH_HTTP_LISTEN="+httpAddr, "VITALWATCH_MQTT_EMBEDDED_LISTEN="+s.MQTT)
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				server.Process.Signal(os.Interrupt)
				if err := server.Wait(); err != nil {
					t.Errorf("the server ended badly: %v", err)
				}
			}()
			waitFor(t, "the server to listen", func() bool {
				c, err := net.Dial("tcp", s.MQTT)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			if script, c := sh(blocks[3], ""); true {
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("%s\n%v\n%s", script, err, out)
				}
			}
			waitFor(t, "the API to show the alert", func() bool {
				_, c := sh(blocks[4], "")
				out, err := c.Output()
				return err == nil && strings.Contains(string(out), `"rule":"glucose_low"`) && strings.Contains(string(out), `"severity":"critical"`)
			})
		})
	}
}
