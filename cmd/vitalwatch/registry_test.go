package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// registryCLI runs the verbs on a data folder of their own.
type registryCLI struct {
	t      *testing.T
	config string
}

func newRegistryCLI(t *testing.T) *registryCLI {
	dir := t.TempDir()
	c := &registryCLI{t, filepath.Join(dir, "vitalwatch.yaml")}
	if err := os.WriteFile(c.config, []byte(fmt.Sprintf("data_dir: %s\n", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *registryCLI) run(line string) (status int, stdout, stderr string) {
	var o, e bytes.Buffer
	status = run(append(strings.Fields(line), "-c", c.config), &o, &e)
	return status, o.String(), e.String()
}

func (c *registryCLI) ok(line string) (stdout string) {
	c.t.Helper()
	status, stdout, stderr := c.run(line)
	if status != 0 {
		c.t.Fatalf("%s: status %d\n%s%s", line, status, stdout, stderr)
	}
	return stdout
}

func TestRegistry_SecretsStandAloneOnStdout(t *testing.T) {
	c := newRegistryCLI(t)
	secret := regexp.MustCompile(`^[0-9a-f]{64}\n$`)
	if out := c.ok("patient add P-1 --condition hypertension --team north"); out != "" {
		t.Errorf("patient add printed %q on stdout", out)
	}
	first := c.ok("device add cuff --patient P-1 --tz Asia/Shanghai")
	if !secret.MatchString(first) {
		t.Errorf("device add printed %q, want the secret alone", first)
	}
	second := c.ok("device rotate cuff --overlap 1h")
	if !secret.MatchString(second) || second == first {
		t.Errorf("device rotate printed %q", second)
	}
	for _, line := range []string{"device add scale --no-secret", "device bind scale --patient P-1", "device unbind scale", "device disable cuff", "device enable cuff", "patient set P-1 --tz UTC"} {
		if out := c.ok(line); out != "" {
			t.Errorf("%s printed %q on stdout", line, out)
		}
	}
	for _, line := range []string{"device list", "device list --output json", "patient list", "patient show P-1"} {
		if out := c.ok(line); strings.Contains(out, strings.TrimSpace(first)) || strings.Contains(out, strings.TrimSpace(second)) {
			t.Errorf("%s shows a secret again", line)
		}
	}
}

func TestRegistry_ListsAsJSON(t *testing.T) {
	c := newRegistryCLI(t)
	c.ok("apikey create --name desk --role viewer") // the first verb that adds something makes the folder
	for _, line := range []string{"patient list --output json", "device list --output json"} {
		if out := c.ok(line); strings.TrimSpace(out) != "[]" {
			t.Errorf("%s of nothing = %q", line, out)
		}
	}
	c.ok("patient add P-2 --name Wang --condition hypertension --condition copd --language zh-CN")
	c.ok("patient add P-1")
	c.ok("device add cuff --patient P-1 --slot 1 --model X1 --from 2026-01-02T03:04:05+08:00")
	c.ok("device bind cuff --patient P-2 --slot 2")
	var people []patientView
	if err := json.Unmarshal([]byte(c.ok("patient list --output json")), &people); err != nil {
		t.Fatal(err)
	}
	if len(people) != 2 || people[0].ID != "P-1" || people[1].Name != "Wang" || fmt.Sprint(people[1].Conditions) != "[copd hypertension]" {
		t.Errorf("patients = %+v", people)
	}
	var things []deviceView
	if err := json.Unmarshal([]byte(c.ok("device list --output json")), &things); err != nil {
		t.Fatal(err)
	}
	if len(things) != 1 || !things[0].HasSecret || things[0].Model != "X1" || len(things[0].Bindings) != 2 {
		t.Fatalf("devices = %+v", things)
	}
	if b := things[0].Bindings[1]; b.Patient != "P-1" || b.UserSlot != 1 || b.From != "2026-01-01T19:04:05Z" || b.To != "" {
		t.Errorf("binding = %+v", b)
	}
	if b := things[0].Bindings[0]; b.Patient != "P-2" || b.UserSlot != 2 || b.From != "" {
		t.Errorf("binding = %+v", b)
	}
	if out := c.ok("patient show P-2"); !strings.Contains(out, "cuff slot 2, from the beginning to now") {
		t.Errorf("patient show:\n%s", out)
	}
}

func TestRegistry_RefusalsSayWhatToDo(t *testing.T) {
	c := newRegistryCLI(t)
	c.ok("patient add P-1 --condition hypertension")
	c.ok("device add cuff")
	for _, x := range []struct {
		line   string
		status int
		want   string
	}{
		{"patient add P-1", 1, "vitalwatch patient set P-1"},
		{"patient add P/1", 1, "the id must be"},
		{"patient add P-3 --condition gout", 1, `condition "gout" is unknown; known are`},
		{"patient add P-3 --tz Mars/Base", 1, "Asia/Shanghai"},
		{"patient set P-9 --tz UTC", 1, "no such patient"},
		{"patient show P-9", 1, "vitalwatch patient list"},
		{"apikey revoke none", 1, "vitalwatch apikey list"},
		{"user disable nobody", 1, "vitalwatch user list"},
		{"patient set P-1 --condition copd --no-conditions", 2, "can't be used together"},
		{"device add cuff", 1, "exists already"},
		{"device add new --patient P-9", 1, "vitalwatch patient add"},
		{"device add new --slot 2", 1, "--patient"},
		{"device add new --slot 256", 2, "slot"},
		{"device add new --patient P-1 --from yesterday", 2, "from"},
		{"device bind cuff", 2, "--patient"},
		{"device unbind cuff", 1, "not bound"},
		{"device rotate none", 1, "no such device"},
		{"device disable none", 1, "no such device"},
		{"device list --output xml", 2, "output"},
	} {
		status, out, stderr := c.run(x.line)
		if status != x.status || !strings.Contains(stderr, x.want) {
			t.Errorf("%s: status %d, want %d with %q on stderr, which says:\n%s", x.line, status, x.status, x.want, stderr)
		}
		if x.status == 1 && out != "" {
			t.Errorf("%s printed %q on stdout", x.line, out)
		}
	}
	if out := c.ok("device list --output json"); strings.Contains(out, "new") {
		t.Errorf("a refused device is there: %s", out)
	}
}

func TestRegistry_SetReplacesOnlyWhatIsNamed(t *testing.T) {
	c := newRegistryCLI(t)
	c.ok("patient add P-1 --name Wang --condition hypertension --team north --tz UTC")
	c.ok("patient set P-1 --condition copd")
	c.ok("patient set P-1 --no-teams --name=")
	var got []patientView
	if err := json.Unmarshal([]byte(c.ok("patient list --output json")), &got); err != nil {
		t.Fatal(err)
	}
	if p := got[0]; fmt.Sprint(p.Conditions) != "[copd]" || len(p.Teams) != 0 || p.Name != "" || p.TZ != "UTC" {
		t.Errorf("patient = %+v", p)
	}
}
