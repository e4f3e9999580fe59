package console_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitalwatch/internal/consolebuild/bundle"
)

func root(t *testing.T) string {
	t.Helper()
	r, err := bundle.Root()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBundle_IsFresh(t *testing.T) {
	r := root(t)
	files, err := bundle.Build(r)
	if err != nil {
		t.Fatal(err)
	}
	diff, err := bundle.Stale(r, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(diff) > 0 {
		t.Errorf("run go run ./internal/consolebuild and commit web/console/dist:\n%s", strings.Join(diff, "\n"))
	}
}

// The check would be worth nothing if it could not fail.
func TestBundle_StaleIsNoticed(t *testing.T) {
	r := root(t)
	files, err := bundle.Build(r)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]bundle.File{}, files[1:]...)
	changed[0].Data = append([]byte("//"), changed[0].Data...)
	changed = append(changed, bundle.File{Name: "assets/new.js"})
	diff, err := bundle.Stale(r, changed)
	if err != nil {
		t.Fatal(err)
	}
	if len(diff) != 3 {
		t.Errorf("want one file too many, one changed and one missing, got %q", diff)
	}
}

// TestTypeScript runs src/test/*.test.ts in Node's own test runner.
func TestTypeScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node in PATH: the TypeScript unit tests are skipped; install Node 20 or later")
	}
	r := root(t)
	tests, err := filepath.Glob(filepath.Join(r, "web/console/src/test/*.test.ts"))
	if err != nil || len(tests) == 0 {
		t.Fatalf("no TypeScript tests found: %v", err)
	}
	dir := t.TempDir()
	for _, entry := range tests {
		name := strings.TrimSuffix(filepath.Base(entry), ".test.ts")
		t.Run(name, func(t *testing.T) {
			out, err := bundle.BuildTest(r, entry)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, name+".test.mjs")
			if err := os.WriteFile(file, out, 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, node, "--enable-source-maps", "--test", "--test-reporter=tap", file)
			cmd.Dir = filepath.Join(r, "web/console")
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, text)
			} else if !strings.Contains(string(text), "# pass ") || strings.Contains(string(text), "# pass 0") {
				t.Errorf("no test ran:\n%s", text)
			}
		})
	}
}
