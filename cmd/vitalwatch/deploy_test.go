package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v4"

	"vitalwatch/internal/mosquittotest"
)

type composeFile struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Build       string            `yaml:"build"`
		Command     []string          `yaml:"command"`
		Environment map[string]string `yaml:"environment"`
		Ports       []string          `yaml:"ports"`
		Volumes     []string          `yaml:"volumes"`
		DependsOn   map[string]struct {
			Condition string `yaml:"condition"`
		} `yaml:"depends_on"`
		Healthcheck struct {
			Test    []string `yaml:"test"`
			Disable bool     `yaml:"disable"`
		} `yaml:"healthcheck"`
		ReadOnly bool   `yaml:"read_only"`
		User     string `yaml:"user"`
		Restart  string `yaml:"restart"`
		Logging  struct {
			Options map[string]string `yaml:"options"`
		} `yaml:"logging"`
	} `yaml:"services"`
	Volumes map[string]any `yaml:"volumes"`
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	b, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var c composeFile
	if err := yaml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// There is no container engine where this runs, so every name that one would resolve is looked up here: files,
// volumes, services, verbs of the binary, variables, the paths inside that configurations name.
func TestCompose(t *testing.T) {
	c := readCompose(t)
	if got := len(c.Services); got != 5 {
		t.Errorf("%d services", got)
	}
	mounted := map[string][]string{} // service: paths inside
	for name, s := range c.Services {
		if s.Image == "" || !strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest") {
			t.Errorf("%s: image %q has no fixed version", name, s.Image)
		}
		if s.Restart != "" && (s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "") {
			t.Errorf("%s: its log has no bound", name)
		}
		if s.Build != "" {
			if _, err := os.Stat(filepath.Join("../..", s.Build, "Dockerfile")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, v := range s.Volumes {
			from, rest, _ := strings.Cut(v, ":")
			inside, _, _ := strings.Cut(rest, ":")
			mounted[name] = append(mounted[name], inside)
			if strings.HasPrefix(from, "./") {
				if _, err := os.Stat(filepath.Join("../..", from)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s: volume %s is not declared", name, from)
			}
		}
		for on, d := range s.DependsOn {
			other, ok := c.Services[on]
			if !ok {
				t.Errorf("%s depends on %s, which is not there", name, on)
			}
			if d.Condition == "service_healthy" && len(other.Healthcheck.Test) == 0 {
				t.Errorf("%s waits for the health of %s, which has no check", name, on)
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s beyond this machine", name, p)
			}
		}
		for k, v := range s.Environment {
			if (strings.HasSuffix(k, "_FILE")) && !isSecretFile(v) {
				t.Errorf("%s: %s names %s, which the verb secrets does not make", name, k, v)
			}
			if regexp.MustCompile(`(?i)(token|password|secret)$`).MatchString(k) {
				t.Errorf("%s: %s holds a secret; name a file", name, k)
			}
		}
	}
	for name := range c.Volumes {
		used := false
		for _, s := range c.Services {
			used = used || slices.ContainsFunc(s.Volumes, func(v string) bool { return strings.HasPrefix(v, name+":") })
		}
		if !used {
			t.Errorf("volume %s is used by nobody", name)
		}
	}

	// Every path that a configuration names inside its container is mounted there.
	for _, f := range []struct{ service, file string }{
		{"mosquitto", "configs/mosquitto/mosquitto.conf"}, {"vitalwatch", "configs/compose/vitalwatch.yaml"},
		{"grafana", "configs/grafana/provisioning/datasources/influxdb.yaml"}, {"grafana", "configs/grafana/provisioning/dashboards/vitalwatch.yaml"},
	} {
		b, err := os.ReadFile(filepath.Join("../..", f.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range regexp.MustCompile(`(?m)(?:^|[ {])(/(?:secrets|mosquitto|data|var|etc)[a-z_/.]*)`).FindAllStringSubmatch(stripComments(string(b)), -1) {
			inside := strings.TrimSuffix(p[1], "/")
			if !slices.ContainsFunc(mounted[f.service], func(m string) bool { return inside == m || strings.HasPrefix(inside, m+"/") }) {
				t.Errorf("%s names %s, which is not mounted in %s", f.file, inside, f.service)
			}
			if strings.HasPrefix(inside, "/secrets/") && !isSecretFile(inside) {
				t.Errorf("%s names %s, which the verb secrets does not make", f.file, inside)
			}
		}
	}

	// The binary knows its verbs, and the stack's configuration is one.
	vw := c.Services["vitalwatch"]
	if vw.Environment["VITALWATCH_CONFIG"] != "/etc/vitalwatch.yaml" || !slices.Contains(vw.Volumes, "./configs/compose/vitalwatch.yaml:/etc/vitalwatch.yaml:ro") {
		t.Error("the server is not given its configuration")
	}
	for _, args := range [][]string{vw.Command, vw.Healthcheck.Test[2:], c.Services["secrets"].Command} {
		if status := run([]string{args[0], "--help"}, &bytes.Buffer{}, &bytes.Buffer{}); status != 0 {
			t.Errorf("the binary does not know %v", args)
		}
	}
	docker, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{vw.Healthcheck.Test[1], "USER 65532", "VOLUME /data", "CGO_ENABLED=0", "distroless", "HEALTHCHECK"} {
		if !strings.Contains(string(docker), want) {
			t.Errorf("the Dockerfile has no %s", want)
		}
	}
	if !vw.ReadOnly {
		t.Error("the server's root is writable")
	}
	goMod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if v := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(goMod)); v == nil || !strings.Contains(string(docker), "golang:"+v[1]+"-") {
		t.Errorf("the Dockerfile builds with another Go than go.mod asks for: %v", v)
	}
}

func isSecretFile(p string) bool {
	return slices.ContainsFunc(secretFiles, func(f secretFile) bool { return path.Join("/secrets", f.path) == p })
}

func stripComments(s string) string { return regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(s, "") }

// The stack's own configuration is a valid one once its files are where the containers have them.
func TestCompose_config(t *testing.T) {
	dir := t.TempDir()
	if _, err := makeSecrets(dir, false); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../configs/compose/vitalwatch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "vitalwatch.yaml")
	if err := os.WriteFile(file, bytes.ReplaceAll(b, []byte("/secrets/"), []byte(dir+"/")), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(file, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	c := readCompose(t)
	in := c.Services["influxdb"].Environment
	db := cfg.Storage.InfluxDB
	if db.Org != in["DOCKER_INFLUXDB_INIT_ORG"] || db.Bucket != in["DOCKER_INFLUXDB_INIT_BUCKET"] || db.URL != "http://influxdb:8086" {
		t.Errorf("%+v is not what InfluxDB is set up with", db)
	}
	if url, err := cfg.ownURL(); err != nil || url != "http://127.0.0.1:8080" {
		t.Errorf("asked for its health at %s (%v)", url, err)
	}
	var grafana struct {
		Datasources []struct {
			UID      string `yaml:"uid"`
			URL      string `yaml:"url"`
			JSONData struct {
				Organization  string `yaml:"organization"`
				DefaultBucket string `yaml:"defaultBucket"`
			} `yaml:"jsonData"`
		} `yaml:"datasources"`
	}
	b, err = os.ReadFile("../../configs/grafana/provisioning/datasources/influxdb.yaml")
	if err == nil {
		err = yaml.Unmarshal(b, &grafana)
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := grafana.Datasources[0]; d.JSONData.Organization != db.Org || d.JSONData.DefaultBucket != db.Bucket || d.URL != db.URL {
		t.Errorf("Grafana asks %+v, readings are in %+v", d, db)
	}
	files, err := filepath.Glob("../../configs/grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			UID    string `json:"uid"`
			Panels []struct {
				Datasource struct{ UID string } `json:"datasource"`
				Targets    []struct{ Query string }
			} `json:"panels"`
		}
		if err := json.Unmarshal(b, &dashboard); err != nil || dashboard.UID == "" || len(dashboard.Panels) == 0 {
			t.Errorf("%s: %v", f, err)
		}
		for _, p := range dashboard.Panels {
			if p.Datasource.UID != grafana.Datasources[0].UID || len(p.Targets) == 0 || !strings.Contains(p.Targets[0].Query, `"`+db.Bucket+`"`) {
				t.Errorf("%s: a panel asks another source or bucket: %+v", f, p)
			}
		}
	}
}

// The broker of the stack, started for real with the stack's files: a device reaches its own topics and no others.
func TestCompose_mosquitto(t *testing.T) {
	dir := t.TempDir()
	if _, err := makeSecrets(filepath.Join(dir, "secrets"), false); err != nil {
		t.Fatal(err)
	}
	passwd := filepath.Join(dir, "secrets/mosquitto/passwd")
	hashes, err := os.ReadFile(passwd)
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range []string{"cuff-1", "cuff-2"} {
		hash, err := mosquittoPassword("pw-" + device)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, device+":"+hash+"\n"...)
	}
	if err := os.WriteFile(passwd, hashes, 0o600); err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(filepath.Join(dir, "secrets/vitalwatch/mqtt_password"))
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile("../../configs/mosquitto/mosquitto.conf")
	if err != nil {
		t.Fatal(err)
	}
	acl, err := filepath.Abs("../../configs/mosquitto/acl")
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	broker := mosquittotest.Start(t, mosquittotest.Options{File: strings.NewReplacer("/secrets/", dir+"/secrets/",
		"/mosquitto/config/acl", acl, "/mosquitto/data/", data+"/").Replace(string(conf))})

	var lost atomic.Int64 // connections of the server
	connectAs := func(client, user, password string) (mqtt.Client, error) {
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(broker.URL()).SetClientID(client).SetUsername(user).SetPassword(password).
			SetAutoReconnect(false). // or cuff-1, whose session the thief takes over, takes it back while the thief publishes
			SetConnectionLostHandler(func(mqtt.Client, error) {
				if user == "vitalwatch" {
					lost.Add(1)
				}
			}))
		token := c.Connect()
		token.Wait()
		return c, token.Error()
	}
	connect := func(user, password string) (mqtt.Client, error) { return connectAs(user, user, password) }
	server, err := connect("vitalwatch", string(ours))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Disconnect(0)
	got := make(chan string, 8)
	if token := server.Subscribe("vw/v1/+/up/#", 1, func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() + " " + string(m.Payload()) }); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	one, err := connect("cuff-1", "pw-cuff-1")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Disconnect(0)
	two, err := connect("cuff-2", "pw-cuff-2")
	if err != nil {
		t.Fatal(err)
	}
	defer two.Disconnect(0)
	for _, p := range []struct {
		from  mqtt.Client
		topic string
	}{{one, "vw/v1/cuff-1/up/readings"}, {two, "vw/v1/cuff-1/up/status" /* not its own: must not arrive */}, {two, "vw/v1/cuff-2/up/readings"}} {
		if token := p.from.Publish(p.topic, 1, false, "x"); token.Wait() && token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	for _, want := range []string{"vw/v1/cuff-1/up/readings x", "vw/v1/cuff-2/up/readings x"} {
		if g := <-got; g != want {
			t.Errorf("arrived: %s, want %s", g, want)
		}
	}
	// A device that calls itself as the server does gets its own session, not the server's.
	thief, err := connectAs("vitalwatch", "cuff-1", "pw-cuff-1")
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Disconnect(0)
	if token := thief.Publish("vw/v1/cuff-1/up/readings", 1, false, "y"); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	if g := <-got; g != "vw/v1/cuff-1/up/readings y" || lost.Load() != 0 {
		t.Errorf("arrived: %s; the server's connection was lost %d times", g, lost.Load())
	}
	if _, err := connect("cuff-1", "wrong"); err == nil {
		t.Error("a wrong password is let in")
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	if status := run([]string{"secrets", dir}, &out, &out); status != 0 {
		t.Fatal(out.String())
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, f := range secretFiles {
		st, err := os.Stat(filepath.Join(dir, f.path))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f.path, st.Mode(), err)
		}
		if f.make == nil && strings.Contains(out.String(), read(f.path)) {
			t.Error("a secret is printed")
		}
	}
	token, passwd := read("vitalwatch/influxdb_token"), read("mosquitto/passwd")
	if token != read("influxdb/admin_token") || token != read("grafana/influxdb_token") || len(token) != base64.RawURLEncoding.EncodedLen(32) {
		t.Error("the readers of the token have different ones")
	}
	// A second run changes nothing, a lost file comes back with the same secret, a lost hash is made anew.
	for _, lost := range []string{"", "grafana/influxdb_token"} {
		if lost != "" {
			os.Remove(filepath.Join(dir, lost))
		}
		if _, err := makeSecrets(dir, false); err != nil {
			t.Fatal(err)
		}
		if read("grafana/influxdb_token") != token || read("mosquitto/passwd") != passwd {
			t.Errorf("after losing %q: changed", lost)
		}
	}
	os.Remove(filepath.Join(dir, "vitalwatch/mqtt_password"))
	if err := os.WriteFile(filepath.Join(dir, "mosquitto/passwd"), []byte(passwd+"cuff-1:$7$x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := makeSecrets(dir, false); err != nil || strings.HasPrefix(read("mosquitto/passwd"), passwd) {
		t.Errorf("the broker's hash is of a password that nobody has: %v", err)
	}
	if !strings.HasSuffix(read("mosquitto/passwd"), "\ncuff-1:$7$x\n") {
		t.Error("the devices' passwords are lost")
	}
}

func TestNotifier(t *testing.T) {
	told := make(chan string, 10)
	turning := make(chan error)
	n := &notifier{every: time.Millisecond, log: zerolog.Nop(), send: func(s string) (bool, error) { told <- s; return true, nil }}
	ended := make(chan error, 1)
	go func() { ended <- n.watch(t.Context(), func() error { return <-turning }) }()
	turning <- nil
	if got := <-told; got != daemon.SdNotifyWatchdog {
		t.Errorf("told %q", got)
	}
	turning <- errors.New("the clock stands")
	turning <- errors.New("the clock stands")
	if len(told) != 0 {
		t.Error("the watchdog is fed although nothing is judged")
	}
	turning <- nil
	<-told
}

// The unit holds what docs/deploy.md says, and every verb and option in it exists.
func TestSystemdUnit(t *testing.T) {
	b, err := os.ReadFile("../../configs/systemd/vitalwatch.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Type=notify", "WatchdogSec=30", "Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict",
		"StateDirectory=vitalwatch", "LimitNOFILE=", "LoadCredential=", "User=vitalwatch"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s", want)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^Exec\w+=/usr/bin/vitalwatch (\w+)`).FindAllStringSubmatch(string(b), -1) {
		if status := run([]string{m[1], "--help"}, &bytes.Buffer{}, &bytes.Buffer{}); status != 0 {
			t.Errorf("the binary has no verb %s", m[1])
		}
	}
}
