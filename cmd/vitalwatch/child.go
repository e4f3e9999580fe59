package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitalwatch/internal/freeport"
)

// child is a server process of this binary, for bench and for the tests that must kill it.
type child struct {
	exe   string
	Dir   string   // configuration, data and log
	HTTP  string   // http://host:port
	MQTT  string   // host:port
	MQTTS string   // the same with TLS, for who set Env so
	Env   []string // over ours
	Key   string   // API key for requests, "" for none
	cmd   *exec.Cmd
	done  chan error
}

// newChild prepares a folder and two free ports. extra is YAML added to the configuration.
func newChild(exe, dir, extra string) (*child, error) {
	httpAddr, err := freeport.Loopback()
	if err != nil {
		return nil, err
	}
	mqttAddr, err := freeport.Loopback()
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("data_dir: %s\nhttp: {listen: %q}\nmqtt: {embedded: {listen: %q}}\nauth: {anonymous: true}\n%s",
		filepath.Join(dir, "data"), httpAddr, mqttAddr, extra)
	if err := os.WriteFile(filepath.Join(dir, "vitalwatch.yaml"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return &child{exe: exe, Dir: dir, HTTP: "http://" + httpAddr, MQTT: mqttAddr}, nil
}

func (c *child) logPath() string { return filepath.Join(c.Dir, "server.log") }

// Start runs the server and returns once it is ready, with how long that took.
func (c *child) Start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	c.cmd = exec.Command(c.exe, "serve", "-c", filepath.Join(c.Dir, "vitalwatch.yaml"))
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.Env = append(os.Environ(), c.Env...)
	begin := time.Now()
	if err := c.cmd.Start(); err != nil {
		return 0, err
	}
	c.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(c.cmd, c.done)
	for {
		if resp, err := http.Get(c.HTTP + "/readyz"); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(begin), nil
			}
		}
		select {
		case err := <-c.done:
			c.done <- err
			return 0, fmt.Errorf("the server ended before it was ready (%v); its log ends with:\n%s", err, c.tail())
		case <-ctx.Done():
			return 0, fmt.Errorf("the server is not ready: %w; its log ends with:\n%s", ctx.Err(), c.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *child) tail() string {
	b, _ := os.ReadFile(c.logPath())
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return string(b)
}

// Kill ends the server as a power cut would.
func (c *child) Kill() error {
	if err := c.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return nil
}

// Stop ends the server as an operator would and returns its exit error.
func (c *child) Stop() error {
	if c.cmd == nil {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	c.cmd = nil // a second Stop has nothing to do
	return <-c.done
}

// RSS is the resident memory of the server in bytes.
func (c *child) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of the server (only on Linux): %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// Metrics reads the sums of all series per metric name.
func (c *child) Metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", c.HTTP+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(line[:i], "{")
		out[name] += v
	}
	return out, nil
}

// Level waits until everything accepted is stored and evaluated, and returns the number of readings accepted.
func (c *child) Level(ctx context.Context) (int64, error) {
	for {
		m, err := c.Metrics(ctx)
		if err != nil {
			return 0, err
		}
		if m["vitalwatch_consumer_lag"] == 0 && m["vitalwatch_readings_stored_total"] >= m["vitalwatch_readings_accepted_total"] &&
			m["vitalwatch_readings_evaluated_total"] >= m["vitalwatch_readings_accepted_total"] {
			return int64(m["vitalwatch_readings_accepted_total"]), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the consumers do not come level: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
