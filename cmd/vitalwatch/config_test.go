package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func none(string) (string, bool) { return "", false }

func load(t *testing.T, text string, env map[string]string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err != nil {
		return nil, &fileless{strings.ReplaceAll(err.Error(), path, "c.yaml")}
	}
	return c, nil
}

type fileless struct{ string }

func (e *fileless) Error() string { return e.string }

func TestLoadConfig_TheShippedFileIsTheDefault(t *testing.T) {
	got, err := LoadConfig(filepath.Join("..", "..", "configs", "vitalwatch.yaml"), none)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.MQTT.Embedded.ProxyProtocol, want.MQTT.Embedded.Websocket.Origins = []string{}, []string{}
	want.MQTT.External.Topics, want.DefaultConditions, want.Conditions.Dirs = got.MQTT.External.Topics, got.DefaultConditions, got.Conditions.Dirs
	if got.DataDir != want.DataDir || got.HTTP != want.HTTP || got.Log != want.Log || !reflect.DeepEqual(got.MQTT.Embedded, want.MQTT.Embedded) || got.Registration != want.Registration ||
		got.Journal != want.Journal || got.Storage != want.Storage || got.Auth != want.Auth || len(got.Hooks) != 0 || got.MQTT.External.ClientID != want.MQTT.External.ClientID {
		t.Errorf("the shipped file gives\n%+v\nthe defaults are\n%+v", got, want)
	}
}

func TestLoadConfig_AllMistakesAtOnceWithLineAndColumn(t *testing.T) {
	_, err := load(t, `data_dir: ./data
unknown: 1
http:
  listen: nowhere
registration: maybe
auth: {anonymous: yes please}
hooks:
  - name: a
    url: http://desk.example/
    secret_file: /does/not/exist
`, nil)
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{"c.yaml:2:1: unknown key unknown", "c.yaml:4:11: http.listen: ", `c.yaml:5:15: registration: "maybe" is none of closed, open`, "c.yaml:6:19: "} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d of\n%v\ndoes not start with %q", i, err, want)
		}
	}
	if n := strings.Count(err.Error(), "hooks.0"); n < 2 {
		t.Errorf("%d mistakes of the hook in\n%v\nwant its URL and its secret", n, err)
	}
}

func TestLoadConfig_EnvironmentOverFileOverDefault(t *testing.T) {
	c, err := load(t, "http: {listen: 127.0.0.1:9001}\nregistration: open\n", map[string]string{
		"VITALWATCH_HTTP_LISTEN": "127.0.0.1:9002", "VITALWATCH_MQTT_EMBEDDED_LISTEN": "127.0.0.1:9003",
		"VITALWATCH_DEFAULT_CONDITIONS": "hypertension, copd", "VITALWATCH_AUTH_ANONYMOUS": "true", "VITALWATCH_MQTT_EXTERNAL_TOPICS": "a/#"})
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP.Listen != "127.0.0.1:9002" || c.MQTT.Embedded.Listen != "127.0.0.1:9003" || c.Registration != "open" || !c.Auth.Anonymous ||
		strings.Join(c.DefaultConditions, "+") != "hypertension+copd" || c.Log.Level != "info" || len(c.MQTT.External.Topics) != 1 {
		t.Errorf("got %+v", c)
	}
	_, err = load(t, "registration: open\n", map[string]string{"VITALWATCH_AUTH_ANONYMOUS": "perhaps", "VITALWATCH_REGISTRATION": "maybe"})
	if err == nil || !strings.Contains(err.Error(), "VITALWATCH_AUTH_ANONYMOUS: auth.anonymous: must be true or false") ||
		!strings.Contains(err.Error(), `VITALWATCH_REGISTRATION: registration: "maybe" is none of`) || strings.Contains(err.Error(), "c.yaml") {
		t.Errorf("bad variables give %v, want their names and not the file's", err)
	}
}

func TestLoadConfig_AnonymousOnlyOnLoopback(t *testing.T) {
	if _, err := load(t, "http: {listen: \"0.0.0.0:8080\"}\nauth: {anonymous: true}\n", nil); err == nil || !strings.Contains(err.Error(), "c.yaml:2:19: auth.anonymous") {
		t.Errorf("got %v", err)
	}
}
