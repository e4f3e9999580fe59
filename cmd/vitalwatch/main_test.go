package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun_MistakesSayWhatToDo(t *testing.T) {
	t.Chdir(t.TempDir()) // no data folder here
	for _, x := range []struct {
		line   string
		status int
		want   string
	}{
		{"nonsense", 2, "Try: vitalwatch --help"},
		{"report P-1 --format json", 2, "/trends"},
		{"rules replay --from x", 2, "vitalwatch rules test"},
		{"patient add", 2, "Try: vitalwatch patient add --help"},
		{"patient export P-1 --from yesterday", 2, `--from: "yesterday" is not a time with date and offset, such as`},
		{"rules", 2, "Try: vitalwatch rules --help"},
		{"apikey create --name x", 2, "Try: vitalwatch apikey create --help"},
		{"simulate --broker tcp://127.0.0.1:1 --patients 0", 2, "--patients"},
		{"simulate --broker 127.0.0.1 --patients 1", 2, "tcp://host:1883"},
		{"simulate --broker tcp://127.0.0.1:1 --patients 1 --speed 0.0.1", 2, "Try: vitalwatch simulate --help"},
		{"publish --broker 127.0.0.1 --device d --indicator glucose --unit mg/dL --csv x", 2, "tcp://host:1883"},
		{"publish --broker tcp://127.0.0.1:1 --device d --indicator glucose --unit mmHg --csv x", 2, "try mg/dL"},
		{"publish --broker tcp://127.0.0.1:1 --device d --indicator sugar --unit mmHg --csv x", 2, "there is no such indicator"},
		{"publish --broker tcp://127.0.0.1:1 --device d/e --indicator glucose --unit mg/dL --csv x", 2, "--device"},
		{"publish --broker tcp://127.0.0.1:1 --device d --indicator glucose --unit mg/dL --csv x --batch 501", 2, "from 1 to 500"},
		{"publish --broker tcp://127.0.0.1:1 --device d --indicator glucose --unit mg/dL --csv x --tz Mars/Base", 2, "Asia/Shanghai"},
		{"publish --broker tcp://127.0.0.1:1 --device d --indicator glucose --unit mg/dL --csv x", 1, "--csv"},
		{"decode --format readings --device-tz Mars/Base", 2, "Asia/Shanghai"},
		{"bench --only nothing", 2, "use connections, qos2"},
		{"bench --scale 0", 2, "--scale"},
		{"journal verify", 1, "there is no journal"},
		{"device list", 1, "there is no data at ./data; name the server's configuration with -c"},
		{"user list", 1, "there is no data at ./data"},
		{"apikey revoke none", 1, "there is no data at ./data"},
		{"device send d-1 remeasure", 1, "there is no data at ./data"},
		{"backup b", 1, "there is no data at ./data"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(strings.Fields(x.line), &stdout, &stderr)
		if status != x.status || !strings.Contains(stderr.String(), x.want) || stdout.Len() > 0 {
			t.Errorf("%s: status %d, want %d with %q on stderr, which says:\n%s\nstdout:\n%s", x.line, status, x.status, x.want, &stderr, &stdout)
		}
	}
	if _, err := os.Stat("data"); err == nil {
		t.Error("a look made a data folder")
	}
}

func TestNewLogger_NoColoursInFiles(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Log.Format = "console"
	var b bytes.Buffer
	log := newLogger(cfg, &b)
	log.Warn().Str("part", "x").Msg("said")
	if got := b.String(); !strings.Contains(got, "WRN said part=x") || strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
}

func TestAutoFree(t *testing.T) {
	for _, x := range []struct{ disk, want uint64 }{{60 << 20, 16 << 20}, {1 << 30, 1 << 30 / 10}, {10 << 30, 1 << 30}, {4 << 40, 1 << 30}} {
		if got := autoFree(x.disk); got != x.want {
			t.Errorf("a disk of %d keeps %d free, want %d", x.disk, got, x.want)
		}
	}
	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(t.TempDir(), "not", "there", "yet")
	if n := cfg.minFree(); n < minAutoFree || n > maxAutoFree {
		t.Errorf("%d bytes", n)
	}
	cfg.Journal.MinFree = "5GiB"
	if n := cfg.minFree(); n != 5<<30 {
		t.Errorf("%d bytes of 5GiB", n)
	}
}

func TestCheck_PacksAndDefaultsBesideOtherMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	packs := filepath.Join(dir, "packs")
	if err := os.Mkdir(packs, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "conditions: {guideline: mars}\ndefault_conditions: [copd, gout, general]\nregistration: ajar\nmqtt: {external: {url: 'http://u:hidden@x'}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func() string {
		err := checkAll(file, none)
		if err == nil {
			t.Fatal("nothing is wrong")
		}
		return strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "")
	}
	got := check()
	for i, want := range []string{`c.yaml:1:25: conditions.guideline: "mars"`, `c.yaml:2:28: default_conditions.1: condition "gout"`, `c.yaml:2:34: default_conditions.2: "general" holds for everybody`, "c.yaml:3:15: registration", "c.yaml:4:24: mqtt.external.url"} {
		if lines := strings.Split(got, "\n"); i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d of\n%s\ndoes not start with %s", i, got, want)
		}
	}
	if strings.Contains(got, "hidden") {
		t.Errorf("a secret stands in\n%s", got)
	}
	if err := os.WriteFile(filepath.Join(packs, "bad.yaml"), []byte("pack: bad\nrulez: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("registration: ajar\nconditions: {dirs: ["+packs+"]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := check(); !strings.Contains(got, "c.yaml:1:15: registration") || !strings.Contains(got, "unknown key rulez") {
		t.Errorf("want the mistake of the file and that of the pack, got\n%s", got)
	}
}
