// Package clienttest drives real MQTT clients for tests: mosquitto_pub and mosquitto_sub, Eclipse Paho for Go in both
// protocol versions, Paho for Python and MQTT.js. It owns the scripts that the last two run; it knows no server. What
// is not installed is skipped by name.
//
// Concurrency: a Client may run any number of jobs at once.
package clienttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Job is a device at a server.
type Job struct {
	Addr     string // host:port
	Version  int    // 4 for 3.1.1, or 5
	QoS      int
	Device   string // the client id, and the user name where there is a password
	Password string
}

func (j Job) up() string   { return "vw/v1/" + j.Device + "/up/readings" }
func (j Job) down() string { return "vw/v1/" + j.Device + "/down/#" }

// Closed is the answer of Refused when the connection ended without a code.
const Closed = -1

// Client is one client library or tool, used as its own documentation says.
type Client interface {
	Name() string
	Versions() []int
	// Publish sends payloads to the device's up/readings in a session that lasts, comes back when the connection is
	// lost, and returns when all are acknowledged, with QoS 0 sent. acked is called for each, from any goroutine.
	Publish(ctx context.Context, j Job, payloads []string, acked func()) error
	// Subscribe begins a session that lasts, subscribes below down/ and leaves.
	Subscribe(ctx context.Context, j Job) error
	// Await comes back for the session, does not subscribe again where that can be helped, and returns the payload of
	// the first message.
	Await(ctx context.Context, j Job) (string, error)
	// Refused returns the code that the client is told of a login (topic "") or of a QoS 1 message.
	Refused(ctx context.Context, j Job, topic, payload string) (int, error)
}

// All returns the clients that are there; it logs by name those that are not.
func All(t testing.TB) []Client {
	t.Helper()
	out := []Client{goPaho3{}, goPaho5{}}
	missing := func(what, how string) { t.Logf("skipped by name: %s is not installed (%s)", what, how) }
	if _, err := exec.LookPath("mosquitto_pub"); err == nil {
		out = append(out, mosquitto{})
	} else {
		missing("mosquitto_pub", "Debian package mosquitto-clients")
	}
	python := "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import paho.mqtt.client").Run(); err == nil {
		out = append(out, script{name: "paho for Python", command: []string{python, here("testdata/paho_client.py")}})
	} else {
		missing("paho for Python", "Debian package python3-paho-mqtt")
	}
	js := here("testdata/mqttjs")
	_, errModule := os.Stat(filepath.Join(js, "node_modules/mqtt/package.json"))
	if node, err := exec.LookPath("node"); err == nil && errModule == nil {
		out = append(out, script{name: "MQTT.js", command: []string{node, filepath.Join(js, "client.mjs")}})
	} else {
		missing("MQTT.js", "node, and: npm ci --prefix internal/clienttest/testdata/mqttjs")
	}
	return out
}

func here(name string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(name))
}

// script is a client in another language. Its arguments are verb, host, port, version, QoS, device, password, topic;
// payloads come by lines on its standard input; it says "acked", "subscribed", "got PAYLOAD" and "code N" by lines.
type script struct {
	name    string
	command []string
}

func (s script) Name() string    { return s.name }
func (s script) Versions() []int { return []int{4, 5} }

func (s script) run(ctx context.Context, j Job, verb, topic string, payloads []string, line func(word, rest string)) error {
	host, port, _ := strings.Cut(j.Addr, ":")
	args := append(s.command[1:len(s.command):len(s.command)], verb, host, port, strconv.Itoa(j.Version), strconv.Itoa(j.QoS), j.Device, j.Password, topic)
	cmd := exec.CommandContext(ctx, s.command[0], args...)
	cmd.Stdin = strings.NewReader(strings.Join(payloads, "\n"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for sc := bufio.NewScanner(out); sc.Scan(); {
		word, rest, _ := strings.Cut(sc.Text(), " ")
		line(word, rest)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", s.name, verb, errors.Join(err, ctx.Err()), stderr.String())
	}
	return nil
}

func (s script) Publish(ctx context.Context, j Job, payloads []string, acked func()) error {
	return s.run(ctx, j, "publish", j.up(), payloads, func(word, _ string) {
		if word == "acked" {
			acked()
		}
	})
}

func (s script) Subscribe(ctx context.Context, j Job) error {
	ok := false
	err := s.run(ctx, j, "subscribe", j.down(), nil, func(word, _ string) { ok = ok || word == "subscribed" })
	if err == nil && !ok {
		err = errors.New("not subscribed")
	}
	return err
}

func (s script) Await(ctx context.Context, j Job) (payload string, err error) {
	err = s.run(ctx, j, "await", j.down(), nil, func(word, rest string) {
		if word == "got" {
			payload = rest
		}
	})
	return payload, err
}

func (s script) Refused(ctx context.Context, j Job, topic, payload string) (code int, err error) {
	code = -2
	err = s.run(ctx, j, "refused", topic, []string{payload}, func(word, rest string) {
		if word == "code" && code == -2 {
			code, _ = strconv.Atoi(rest)
		}
	})
	return code, err
}
