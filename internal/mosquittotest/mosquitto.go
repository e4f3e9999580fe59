// Package mosquittotest starts a real Mosquitto for a test, on loopback and with its files in the test's folder, and
// skips the test by name where there is none. It owns the process it started and ends it with the test.
//
// Concurrency: a Broker belongs to its test's goroutine; Logged may be called from any.
package mosquittotest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitalwatch/internal/freeport"
)

// Options says how the broker is set up; zero is anonymous and without persistence, Mosquitto's own default.
type Options struct {
	// Persistent keeps sessions and queued messages over Stop and Start: persistence true.
	Persistent bool
	// Users maps names to passwords; nil lets anybody in.
	Users map[string]string
	// ACL is the text of an acl_file; "" allows everything.
	ACL string
	// DynamicSecurity is the JSON of Mosquitto's dynamic security plugin, the only part of it that refuses a
	// subscription in SUBACK: an acl_file lets everybody subscribe and then delivers nothing.
	DynamicSecurity string
	// Extra is more lines of mosquitto.conf.
	Extra string
	// File is a whole mosquitto.conf, of which only the listener and the log are replaced; the options above are idle.
	File string
}

// Broker is a running, or stopped, Mosquitto.
type Broker struct {
	// Addr is host:port; it stays the same over restarts.
	Addr string

	t      testing.TB
	dir    string
	binary string
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced with each line
}

// startTimeout bounds starting and stopping.
const startTimeout = time.Minute

// Start runs a broker until the test ends.
func Start(t testing.TB, o Options) *Broker {
	t.Helper()
	b := &Broker{t: t, dir: t.TempDir(), binary: find(t, "mosquitto"), more: make(chan struct{})}
	t.Cleanup(b.Kill)
	// Another process may take a free port before Mosquitto does: then with another.
	for try := 1; ; try++ {
		var err error
		if b.Addr, err = freeport.Loopback(); err != nil {
			t.Fatal(err)
		}
		b.configure(o)
		err = b.start()
		if err == nil {
			return b
		}
		if try == 5 {
			t.Fatalf("mosquitto: %v", err)
		}
	}
}

// find looks where Debian puts daemons too, which is not in everybody's PATH.
func find(t testing.TB, name string) string {
	t.Helper()
	for _, n := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name, "/opt/homebrew/sbin/" + name} {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	t.Skipf("skipped %s: needs %s (Debian package mosquitto)", t.Name(), name)
	return ""
}

func (b *Broker) path(name string) string { return filepath.Join(b.dir, name) }

func (b *Broker) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *Broker) configure(o Options) {
	b.t.Helper()
	host, port, err := net.SplitHostPort(b.Addr)
	if err != nil {
		b.t.Fatal(err)
	}
	var c strings.Builder
	fmt.Fprintf(&c, "listener %s %s\nlog_dest stderr\nlog_type all\n", port, host)
	if os.Getuid() == 0 {
		c.WriteString("user root\n") // else it becomes "mosquitto", which may not read our folder
	}
	if o.File != "" {
		for l := range strings.Lines(o.File) {
			if !strings.HasPrefix(l, "listener ") && !strings.HasPrefix(l, "log_") {
				c.WriteString(l)
			}
		}
		b.write("mosquitto.conf", c.String())
		return
	}
	fmt.Fprintf(&c, "allow_anonymous %v\n", o.Users == nil)
	if o.Persistent {
		fmt.Fprintf(&c, "persistence true\npersistence_location %s/\n", b.dir)
	}
	if o.Users != nil {
		var list []string
		for name, password := range o.Users {
			list = append(list, name+":"+password)
		}
		slices.Sort(list)
		b.write("passwords", strings.Join(list, "\n")+"\n")
		if out, err := exec.Command(find(b.t, "mosquitto_passwd"), "-U", b.path("passwords")).CombinedOutput(); err != nil {
			b.t.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
		fmt.Fprintf(&c, "password_file %s\n", b.path("passwords"))
	}
	if o.ACL != "" {
		b.write("acl", o.ACL)
		fmt.Fprintf(&c, "acl_file %s\n", b.path("acl"))
	}
	if o.DynamicSecurity != "" {
		plugins, _ := filepath.Glob("/usr/lib/*/mosquitto_dynamic_security.so")
		if len(plugins) == 0 {
			b.t.Skipf("skipped %s: needs Mosquitto's dynamic security plugin", b.t.Name())
		}
		b.SetDynamicSecurity(o.DynamicSecurity)
		fmt.Fprintf(&c, "plugin %s\nplugin_opt_config_file %s\n", plugins[0], b.path("security.json"))
	}
	b.write("mosquitto.conf", c.String()+o.Extra+"\n")
}

// Start runs a stopped broker again on the same address.
func (b *Broker) Start() {
	b.t.Helper()
	if err := b.start(); err != nil {
		b.t.Fatalf("mosquitto: %v", err)
	}
}

func (b *Broker) start() error {
	cmd := exec.Command(b.binary, "-c", b.path("mosquitto.conf"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.lines = nil
	b.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	b.cmd, b.exited = cmd, exited
	go func() {
		defer close(exited)
		b.read(stderr)
		cmd.Wait()
	}()
	if !b.Logged(" running", startTimeout) {
		b.Kill()
		return fmt.Errorf("it did not start; it said:\n%s", b.log())
	}
	return nil
}

func (b *Broker) read(r io.Reader) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		b.mu.Lock()
		b.lines = append(b.lines, s.Text())
		close(b.more)
		b.more = make(chan struct{})
		b.mu.Unlock()
	}
}

func (b *Broker) log() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

// Logged waits until the broker has logged a line with a text since it was started; false when it has not in time or
// has ended. Its log has a line for every packet ("Received PUBACK from vitalwatch").
func (b *Broker) Logged(text string, within time.Duration) bool {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		b.mu.Lock()
		found := slices.ContainsFunc(b.lines, func(l string) bool { return strings.Contains(l, text) })
		more := b.more
		b.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-more:
		case <-b.exited:
			return strings.Contains(b.log(), text)
		case <-deadline.C:
			return false
		}
	}
}

// URL is the broker's address for clients.
func (b *Broker) URL() string { return "tcp://" + b.Addr }

// Stop ends the broker in order: with Persistent it saves its state.
func (b *Broker) Stop() {
	b.t.Helper()
	if !b.end(syscall.SIGTERM) {
		b.t.Errorf("mosquitto did not stop within %v", startTimeout)
		b.Kill()
	}
}

// Kill ends the broker at once, as a power loss does: what it had only in memory is gone.
func (b *Broker) Kill() { b.end(syscall.SIGKILL) }

func (b *Broker) end(sig os.Signal) bool {
	if b.cmd == nil {
		return true
	}
	b.cmd.Process.Signal(sig)
	select {
	case <-b.exited:
		b.cmd = nil
		return true
	case <-time.After(startTimeout):
		return false
	}
}

// SetDynamicSecurity replaces the plugin's file; the broker must be stopped.
func (b *Broker) SetDynamicSecurity(text string) { b.t.Helper(); b.write("security.json", text) }
