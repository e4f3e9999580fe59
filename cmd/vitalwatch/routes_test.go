package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/devices/routes"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/vitals"
)

var noEnvironment = func(string) (string, bool) { return "", false }

// routesPage returns the examples of the page on routes and mappings.
func routesPage(t *testing.T) (config, mapping, format, message string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		switch {
		case strings.HasPrefix(m[1], "routes:"):
			config = m[1]
		case strings.HasPrefix(m[1], "format:"):
			mapping = m[1]
		}
	}
	m := regexp.MustCompile("(?s)decode --format (\\S+) -c vitalwatch.yaml <<'EOF'\n(.*?)\nEOF\n").FindStringSubmatch(string(page))
	if config == "" || mapping == "" || m == nil {
		t.Fatal("the page has lost its examples")
	}
	return config, mapping, m[1], m[2]
}

// The page's example of a mapping as a file of the operator's: decode takes its message. The routes are taken too.
func TestDocs_routesAndMappings(t *testing.T) {
	config, mapping, format, message := routesPage(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "c")
	for name, s := range map[string]string{filepath.Join(dir, "scale.yaml"): mapping, file: "mappings: {dirs: [" + dir + "]}\n" + config} {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkAll(file, noEnvironment); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(file, noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := loadMappings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := payload.UseMappings(ms); err != nil {
		t.Fatal(err)
	}
	defer payload.UseMappings(nil)
	var out bytes.Buffer
	if err := (&DecodeCmd{Format: format}).run(strings.NewReader(message), &out, time.Date(2026, 11, 21, 0, 5, 0, 0, time.UTC)); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var r struct {
			Accepted  bool   `json:"accepted"`
			Indicator string `json:"indicator"`
			TakenAt   string `json:"taken_at"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || !r.Accepted || r.TakenAt != "2026-11-21T00:00:00.000Z" {
			t.Errorf("%s: %v", line, err)
		}
		got = append(got, r.Indicator)
	}
	if strings.Join(got, " ") != "weight body_fat" {
		t.Errorf("got %v", got)
	}
}

func TestCheck_routesAndMappingsHaveTheirPlaces(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	own := filepath.Join(dir, "own")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, s string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "mappings: {dirs: ["+own+"]}\nroutes:\n  - {topic: 'a/{device}', format: nothing}\n  - {topic: 'b/x{device}', format: theengs, colour: red}\n")
	err := checkAll(file, noEnvironment)
	if err == nil {
		t.Fatal("no mistake was found")
	}
	for _, want := range []string{file + ":3:35: routes.0.format: \"nothing\" is no format", file + ":4:13: routes.1.topic: \"x{device}\"", file + ":4:45: unknown key colour"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in\n%v", want, err)
		}
	}
	write(filepath.Join(own, "m.yaml"), "format: gatt\n")
	if err := checkAll(file, noEnvironment); err == nil || !strings.Contains(err.Error(), filepath.Join(own, "m.yaml")+":1:9: format: gatt is a built-in format") {
		t.Errorf("a bad mapping: got\n%v", err)
	}
}

func TestDoorTopics_SpeakTheDoorsLanguage(t *testing.T) {
	table, err := routes.New([]routes.Config{{Topic: "home/{gateway}/BTtoMQTT/{device}", Format: "theengs"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var x mqttd.Topics = doorTopics{&routes.Topics{Table: table, MaySpeakFor: func(g, d vitals.DeviceID) bool { return g == "gw" && d == "A4C1" }}}
	for topic, want := range map[string]error{"home/gw/BTtoMQTT/A4C1": nil, "home/gw/BTtoMQTT/A4C2": mqttd.ErrForeignTopic, "vw/v1/B/up/readings": mqttd.ErrForeignTopic, "x": mqttd.ErrUnknownTopic} {
		if _, _, err := x.Resolve("gw", []byte(topic)); err != want {
			t.Errorf("%s: got %v, want %v", topic, err, want)
		}
	}
}
