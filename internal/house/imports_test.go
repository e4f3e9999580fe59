// Package house holds the rules of the house that a compiler does not: who may import whom, and that every
// package says what it owns.
package house

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Imports    []string
	Doc        string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,GoFiles", "vitalwatch/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if len(ps) < 15 {
		t.Fatalf("go list found %d packages", len(ps))
	}
	return ps
}

// mayImport: nouns at the bottom, technology at the edge, wiring at the top. A room that is missing here may import
// none of the others; cmd may import all.
var mayImport = map[string][]string{
	"vitals":                       {},
	"care":                         {"vitals", "storage/sqlite", "internal/readmostly"},
	"devices":                      {"vitals", "care", "devices/authority", "storage/sqlite", "internal/readmostly"},
	"devices/authority":            {"vitals"},
	"devices/catalogue":            {"vitals", "internal/strictyaml"},
	"devices/claimqr":              {"vitals"},
	"devices/payload":              {"vitals", "internal/strictyaml"},
	"devices/routes":               {"vitals", "devices/payload"},
	"ingest":                       {"vitals", "devices", "devices/payload", "ingest/journal", "ingest/evidence", "storage"}, // storage: where a correction finds what it corrects
	"ingest/evidence":              {"vitals"},
	"ingest/mqttd":                 {"vitals", "devices/payload", "ingest", "ingest/mqttd/packet", "ingest/mqttd/sessions"},
	"ingest/mqttd/sessions":        {"vitals", "storage/sqlite"},
	"ingest/mqttd/packet":          {},
	"ingest/subscriber":            {"vitals", "devices/payload", "ingest"},
	"ingest/journal":               {"vitals", "devices/payload", "ingest/evidence"}, // payload.Problem is part of a quarantined item
	"storage":                      {"vitals"},
	"storage/embedded":             {"storage", "vitals"},
	"storage/influx":               {"storage", "storage/sqlite", "vitals"},
	"storage/tiered":               {"storage", "vitals"},
	"storage/storagetest":          {"storage", "vitals"},
	"storage/sqlite":               {},
	"alerting":                     {"vitals", "care"},
	"alerting/conditions":          {"alerting", "vitals", "internal/strictyaml", "configs"},
	"alerting/ledger":              {"alerting", "vitals", "storage/sqlite"},
	"alerting/escalation":          {"alerting", "vitals"},
	"alerting/hooks":               {"alerting", "vitals"},
	"trends":                       {"vitals", "storage"},
	"web":                          {"vitals", "care", "devices", "devices/authority", "devices/catalogue", "devices/claimqr", "devices/payload", "ingest", "ingest/evidence", "ingest/journal", "storage", "storage/sqlite", "alerting", "alerting/ledger", "trends", "web/feed", "web/console", "ingest/mqttd/sessions"},
	"web/feed":                     {},
	"web/console":                  {},
	"configs":                      {},
	"internal/simulator":           {"vitals", "internal/mqttdevice"},
	"internal/trace":               {"vitals", "internal/mqttdevice"},
	"internal/mqttdevice":          {},
	"internal/loadgen":             {},
	"internal/faultproxy":          {},
	"internal/freeport":            {},
	"internal/readmostly":          {},
	"internal/strictyaml":          {},
	"internal/consolebuild":        {"internal/consolebuild/bundle"},
	"internal/consolebuild/bundle": {},
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, "vitalwatch/")
		// Test helpers may use what they stand beside; only tests import them.
		helper := strings.HasSuffix(room, "test") && room != "storage/storagetest" || room == "internal/fakebroker"
		if strings.HasPrefix(room, "cmd/") || helper || len(p.GoFiles) == 0 {
			continue
		}
		allowed, known := mayImport[room]
		for _, i := range p.Imports {
			other, ours := strings.CutPrefix(i, "vitalwatch/")
			if ours && (!known || !slices.Contains(allowed, other)) {
				t.Errorf("%s imports %s; allowed are %v (known room: %v)", room, other, allowed, known)
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && len(p.Doc) < 40 {
			t.Errorf("%s: the package comment is %q; say what it owns, what not, and its concurrency rule", p.ImportPath, p.Doc)
		}
	}
}
