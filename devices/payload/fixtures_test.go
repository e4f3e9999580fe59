package payload_test

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vitalwatch/devices/payload"
)

var update = flag.Bool("update", false, "rewrite the expectations beside the fixtures")

// fixture reads a message of testdata; what ends in .hex are bytes, with # comments.
func fixture(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(path) != ".hex" {
		return b
	}
	var text strings.Builder
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		text.WriteString(strings.Join(strings.Fields(line), ""))
	}
	raw, err := hex.DecodeString(text.String())
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return raw
}

// fixtures lists the messages of a format.
func fixtures(t testing.TB, format string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", format, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		if ext := filepath.Ext(f); ext == ".json" || ext == ".hex" {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no fixtures of %s", format)
	}
	return out
}

// showChanges is showAll with what an item does to an earlier one, and whose clock its time is of.
func showChanges(items []payload.Item, err error) string {
	if err != nil {
		p := err.(*payload.Problem)
		return "refused: " + p.Code + ": " + p.Detail + "\n"
	}
	var b strings.Builder
	for _, it := range items {
		if it.Problem != nil {
			b.WriteString(it.Problem.Code + ": " + it.Problem.Detail)
		} else {
			b.WriteString(show(it))
		}
		switch it.Change {
		case payload.Corrected:
			b.WriteString(" CORRECTS")
		case payload.Voided:
			voided := it
			voided.Problem = nil
			b.WriteString(" VOIDS " + show(voided))
		}
		if it.Clock != payload.ClockDevice {
			b.WriteString(" clock=server")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestFixtures decodes the messages of testdata, each beside what becomes of it, without a device time zone and, where
// a local.want stands there, with one.
func TestFixtures(t *testing.T) {
	for _, format := range []string{"fhir", "omh", "senml", "senml-cbor", "cbor"} {
		for _, f := range fixtures(t, format) {
			t.Run(strings.TrimPrefix(f, "testdata/"), func(t *testing.T) {
				in := payload.Input{Payload: fixture(t, f), ReceivedAt: received}
				items, err := payload.Decode(format, in, nil)
				checkItems(t, format, in, items, err)
				want := strings.TrimSuffix(f, filepath.Ext(f)) + ".want"
				got := showChanges(items, err)
				if *update {
					if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				b, err := os.ReadFile(want)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(b) {
					t.Errorf("got\n%s\nwant\n%s", got, b)
				}
			})
		}
	}
}
