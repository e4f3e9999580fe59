package mqttd_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/mqtt-conformance.md holds: every clause that the code cites stands in its table of that version, every test that
// it names exists, and no clause is there twice.
func TestConformance_table(t *testing.T) {
	b, err := os.ReadFile("../../docs/mqtt-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	v5, v3, ok := strings.Cut(string(b), "\n## MQTT 3.1.1\n")
	if !ok {
		t.Fatal("the page has no part on 3.1.1")
	}
	row := regexp.MustCompile(`^\| (MQTT-[0-9.]+-[0-9]+)°? \| .* \| (.*) \| (.*) \|$`)
	tables := map[string]map[string]bool{"": {}, "3.1.1 ": {}}
	var tests []string
	for version, part := range map[string]string{"": v5, "3.1.1 ": v3} {
		for line := range strings.Lines(part) {
			m := row.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m == nil {
				continue
			}
			if tables[version][m[1]] {
				t.Errorf("%s%s stands there twice", version, m[1])
			}
			tables[version][m[1]] = true
			for name := range strings.SplitSeq(m[3], ", ") {
				if name != "–" {
					tests = append(tests, strings.Trim(name, "`"))
				}
			}
			if done := strings.HasPrefix(m[2], "done"); done && m[3] == "–" && !strings.Contains(m[2], ":") {
				t.Errorf("%s%s is done, but neither a test nor a word says how", version, m[1])
			}
		}
	}
	if len(tables[""]) < 240 || len(tables["3.1.1 "]) < 130 {
		t.Fatalf("%d and %d clauses found: the table has another form", len(tables[""]), len(tables["3.1.1 "]))
	}
	cited := regexp.MustCompile(`(3\.1\.1,? (?:its )?)?["\[]?(3\.1\.1 )?(MQTT-[0-9]+\.[0-9]+\.[0-9]+-[0-9]+)`)
	defined := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w*)\(`)
	exists := map[string]bool{}
	clauses := 0
	for _, dir := range []string{".", "packet", "sessions", "../../cmd/vitalwatch"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range defined.FindAllStringSubmatch(string(src), -1) {
				exists[m[1]] = true
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for n, line := range strings.Split(string(src), "\n") {
				if !strings.Contains(line, "MQTT-") { // or most of the time goes into lines without
					continue
				}
				for _, m := range cited.FindAllStringSubmatch(line, -1) {
					clauses++
					version := ""
					if m[1] != "" || m[2] != "" {
						version = "3.1.1 "
					}
					if !tables[version][m[3]] {
						t.Errorf("%s:%d cites %s%s, which docs/mqtt-conformance.md does not have", file, n+1, version, m[3])
					}
				}
			}
		}
	}
	if clauses < 100 {
		t.Errorf("%d citations found: the code cites in another form", clauses)
	}
	missing := map[string]bool{}
	for _, name := range tests {
		if !exists[name] && !missing[name] {
			missing[name] = true
			t.Errorf("docs/mqtt-conformance.md names %s, which does not exist", name)
		}
	}
}
