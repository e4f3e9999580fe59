package influxtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// version is that of the server in server/go.mod.
const version = "1.8.10"

// buildTimeout bounds downloading and compiling: a minute on two idle cores.
const buildTimeout = 12 * time.Minute

// binary builds influxd once for all runs, and returns where it is.
var binary = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "vitalwatch").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	server := filepath.Join(strings.TrimSpace(string(root)), "internal", "influxtest", "server")
	sum := sha256.New()
	io.WriteString(sum, runtime.Version())
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(server, name))
		if err != nil {
			return "", err
		}
		sum.Write(b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "vitalwatch-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "influxd-"+version+"-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if runtime.GOOS == "windows" {
		out += ".exe"
	}
	lock, err := waitFor(ctx, out+".lock") // the tests of several packages run at once
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", out+".new", "github.com/influxdata/influxdb/cmd/influxd")
	cmd.Dir = server
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOARCH="+runtime.GOARCH, "GOOS="+runtime.GOOS)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, tail(string(said), 300))
	}
	return out, os.Rename(out+".new", out)
})

func waitFor(ctx context.Context, name string) (io.Closer, error) {
	for {
		l, err := vfs.Default.Lock(name)
		if err == nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", name, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-n):]
}
