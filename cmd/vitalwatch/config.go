package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/alerting/conditions"
	"vitalwatch/alerting/hooks"
	"vitalwatch/devices/routes"
	"vitalwatch/ingest/subscriber"
	"vitalwatch/internal/strictyaml"
)

// Config is the server's configuration, as in configs/vitalwatch.yaml, which documents every option.
type Config struct {
	DataDir string `yaml:"data_dir"`
	Log     struct {
		Level  string `yaml:"level"`
		Format string `yaml:"format"`
	} `yaml:"log"`
	HTTP struct {
		Listen string    `yaml:"listen"`
		TLS    TLSConfig `yaml:"tls"`
	} `yaml:"http"`
	MQTT struct {
		Embedded DoorConfig `yaml:"embedded"`
		External struct {
			URL          string   `yaml:"url"`
			ClientID     string   `yaml:"client_id"`
			Username     string   `yaml:"username"`
			PasswordFile string   `yaml:"password_file"`
			Topics       []string `yaml:"topics"`
			TLS          struct {
				CAFile   string `yaml:"ca_file"`
				CertFile string `yaml:"cert_file"`
				KeyFile  string `yaml:"key_file"`
			} `yaml:"tls"`
		} `yaml:"external"`
	} `yaml:"mqtt"`
	Registration      string   `yaml:"registration"`
	DefaultConditions []string `yaml:"default_conditions"`
	Journal           struct {
		Sync    string `yaml:"sync"`
		MinFree string `yaml:"min_free"` // below so much free disk space new readings are refused
	} `yaml:"journal"`
	Evidence   KeepConfig `yaml:"evidence"`
	Quarantine KeepConfig `yaml:"quarantine"`
	Storage    struct {
		Readings string       `yaml:"readings"`
		InfluxDB InfluxConfig `yaml:"influxdb"`
	} `yaml:"storage"`
	Retention  map[string]string `yaml:"retention"` // indicator or default: 400d, forever
	Conditions struct {
		Guideline string   `yaml:"guideline"`
		Dirs      []string `yaml:"dirs"`
	} `yaml:"conditions"`
	Mappings struct {
		Dirs []string `yaml:"dirs"`
	} `yaml:"mappings"`
	Devices DevicesConfig   `yaml:"devices"`
	Routes  []routes.Config `yaml:"routes"`
	Hooks   []hooks.Config  `yaml:"hooks"`
	Auth    struct {
		Anonymous bool `yaml:"anonymous"`
	} `yaml:"auth"`
}

// TLSConfig names a certificate and its key, both or neither.
type TLSConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

func (t TLSConfig) enabled() bool { return t.CertFile != "" }

// DefaultConfig is complete: a server started with it works and binds to loopback only.
func DefaultConfig() *Config {
	c := &Config{DataDir: "./data", Registration: "closed"}
	c.Log.Level, c.Log.Format = "info", "json"
	c.HTTP.Listen = "127.0.0.1:8080"
	c.MQTT.Embedded = defaultDoor()
	c.MQTT.External.ClientID = "vitalwatch"
	c.Journal.Sync, c.Journal.MinFree = "always", minFreeAuto
	c.Evidence = KeepConfig{Keep: "400d", MaxSize: "20GiB"}
	c.Quarantine = KeepConfig{Keep: "30d", MaxSize: "256MiB"}
	c.Storage.Readings, c.Storage.InfluxDB.KeepLocal = "embedded", "35d"
	c.Conditions.Guideline = "cn"
	return c
}

// environment sets every option of v that has a variable: the option's path in capitals, VITALWATCH_HTTP_LISTEN for
// http.listen; lists are separated by commas. Lists of other things and maps come from the file only. What is
// set so, and what does not fit, is noted in doc.
func environment(v reflect.Value, name string, path []string, lookup func(string) (string, bool), doc *strictyaml.Document) {
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		field, name, path := v.Field(i), name+"_"+strings.ToUpper(key), append(path[:len(path):len(path)], key)
		if field.Kind() == reflect.Struct {
			environment(field, name, path, lookup, doc)
			continue
		}
		list := field.Type() == reflect.TypeFor[[]string]()
		text, ok := lookup(name)
		if !ok || !list && (field.Kind() == reflect.Slice || field.Kind() == reflect.Map) { // hooks, routes, retention
			continue
		}
		doc.SetBy(name, path)
		bad := func(want string) { doc.Errorf(path, "must be %s", want) }
		switch {
		case field.Kind() == reflect.String:
			field.SetString(text)
		case field.Kind() == reflect.Bool:
			on, err := strconv.ParseBool(text)
			if err != nil {
				bad("true or false")
			}
			field.SetBool(on)
		case field.Type() == reflect.TypeFor[time.Duration]():
			d, err := time.ParseDuration(text)
			if err != nil {
				bad("a duration such as 10s")
			}
			field.SetInt(int64(d))
		case field.CanInt():
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				bad("a number")
			}
			field.SetInt(n)
		case list:
			field.Set(reflect.ValueOf(strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })))
		}
	}
}

// LoadConfig reads the file (none when path is ""), the environment over it, and checks everything. The error
// lists all mistakes.
func LoadConfig(path string, environ func(string) (string, bool)) (*Config, error) {
	c, doc, err := readConfig(path, environ)
	if err == nil {
		err = doc.Err()
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// readConfig is LoadConfig with the mistakes left in the document; err says that there is none.
func readConfig(path string, environ func(string) (string, bool)) (*Config, *strictyaml.Document, error) {
	c := DefaultConfig()
	doc := strictyaml.Read("", nil, c)
	if path != "" {
		var err error
		if doc, err = strictyaml.ReadFile(path, c); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil, fmt.Errorf("configuration file %s does not exist; leave -c away to run with the defaults", path)
			}
			return nil, nil, fmt.Errorf("read configuration: %w", err)
		}
	}
	environment(reflect.ValueOf(c).Elem(), "VITALWATCH", nil, environ, doc)
	c.check(doc)
	return c, doc, nil
}

// check finds what the types cannot: it records every mistake with its place.
func (c *Config) check(doc *strictyaml.Document) {
	at := func(path, format string, args ...any) { doc.Errorf(strings.Split(path, "."), format, args...) }
	oneOf := func(path, v string, allowed ...string) {
		for _, a := range allowed {
			if v == a {
				return
			}
		}
		at(path, "%q is none of %s", v, strings.Join(allowed, ", "))
	}
	listen := func(path, v, example string) {
		if _, port, err := net.SplitHostPort(v); err != nil {
			at(path, "%q is not host:port, such as %s", v, example)
		} else if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			at(path, "port %q is not a number from 0 to 65535", port)
		}
	}
	tls := func(path string, t TLSConfig) {
		if (t.CertFile == "") != (t.KeyFile == "") {
			at(path, "cert_file and key_file belong together: set both or neither")
			return
		}
		for _, f := range []struct{ key, file string }{{"cert_file", t.CertFile}, {"key_file", t.KeyFile}} {
			if f.file != "" {
				if _, err := os.Stat(f.file); err != nil {
					at(path+"."+f.key, "cannot read %s", f.file)
				}
			}
		}
	}
	if c.DataDir == "" {
		at("data_dir", "is empty; name a folder")
	}
	if _, err := zerolog.ParseLevel(c.Log.Level); err != nil || c.Log.Level == "" {
		at("log.level", "%q is none of debug, info, warn, error", c.Log.Level)
	}
	oneOf("log.format", c.Log.Format, "json", "console")
	listen("http.listen", c.HTTP.Listen, "127.0.0.1:8080")
	tls("http.tls", c.HTTP.TLS)
	if c.MQTT.Embedded.Enabled {
		c.MQTT.Embedded.check(at, listen)
	}
	if c.MQTT.External.URL != "" {
		if err := subscriber.CheckURL(c.MQTT.External.URL); err != nil {
			at("mqtt.external.url", "%v", err)
		}
		if c.MQTT.External.ClientID == "" {
			at("mqtt.external.client_id", "is empty; the broker keeps our session under this name")
		}
		if f := c.MQTT.External.PasswordFile; f != "" {
			if _, err := os.Stat(f); err != nil {
				at("mqtt.external.password_file", "cannot read %s", f)
			}
		}
		if err := subscriber.TLSFiles(c.MQTT.External.TLS).Check(c.MQTT.External.URL); err != nil {
			at("mqtt.external.tls", "%v", err)
		}
	} else if !c.MQTT.Embedded.Enabled {
		at("mqtt.embedded.enabled", "is false and mqtt.external.url is empty: no reading could arrive over MQTT; set one of them")
	}
	oneOf("registration", c.Registration, "closed", "open")
	oneOf("journal.sync", c.Journal.Sync, "always")
	c.Evidence.check(at, "evidence", true)
	c.Quarantine.check(at, "quarantine", false)
	oneOf("conditions.guideline", c.Conditions.Guideline, conditions.Guidelines...)
	if n, err := parseSize(c.Journal.MinFree); c.Journal.MinFree != minFreeAuto && (err != nil || n == 0) {
		at("journal.min_free", "%q is not a size such as 1GiB or 500MiB, nor auto", c.Journal.MinFree)
	}
	oneOf("storage.readings", c.Storage.Readings, "embedded", "influxdb")
	if c.usesInflux() {
		c.Storage.InfluxDB.check(at)
	}
	c.checkRetention(at)
	for i, dir := range c.Conditions.Dirs {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			at("conditions.dirs."+strconv.Itoa(i), "%s is not a folder that can be read", dir)
		}
	}
	c.checkRoutes(at)
	c.checkDevices(at)
	if c.Auth.Anonymous && !loopback(c.HTTP.Listen) {
		at("auth.anonymous", "is only allowed while http.listen is a loopback address")
	}
	seen := map[string]bool{}
	for i := range c.Hooks {
		h := &c.Hooks[i]
		path := "hooks." + strconv.Itoa(i)
		if err := h.Validate(); err != nil {
			for _, e := range flatten(err) {
				key, what, named := strings.Cut(e.Error(), ": ")
				if !named || strings.ContainsAny(key, " .\"") {
					at(path, "%v", e)
					continue
				}
				at(path+"."+key, "%s", what)
			}
		}
		if h.Name != "" && seen[h.Name] {
			at(path+".name", "%q is taken by another hook", h.Name)
		}
		seen[h.Name] = true
	}
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (c *Config) statePath() string    { return filepath.Join(c.DataDir, "state.db") }
func (c *Config) journalPath() string  { return filepath.Join(c.DataDir, "journal") }
func (c *Config) readingsPath() string { return filepath.Join(c.DataDir, "readings") }
