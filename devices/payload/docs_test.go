package payload_test

import (
	"encoding/hex"
	"os"
	"regexp"
	"testing"

	"vitalwatch/devices/payload"
)

var (
	heredoc = regexp.MustCompile("(?s)vitalwatch decode --format (\\S+)[^\n]* <<'EOF'\n(.*?)\nEOF\n")
	piped   = regexp.MustCompile(`echo ([0-9a-fA-F]+) \| xxd -r -p \| vitalwatch decode --format (\S+)`)
)

// TestDocs_examples runs the examples of the page on formats: every item of each is a reading.
func TestDocs_examples(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	type example struct {
		format string
		in     []byte
	}
	var examples []example
	for _, m := range heredoc.FindAllSubmatch(page, -1) {
		examples = append(examples, example{string(m[1]), m[2]})
	}
	for _, m := range piped.FindAllSubmatch(page, -1) {
		b, err := hex.DecodeString(string(m[1]))
		if err != nil {
			t.Errorf("%s: %v", m[2], err)
		}
		examples = append(examples, example{string(m[2]), b})
	}
	seen := map[string]bool{}
	for _, x := range examples {
		seen[x.format] = true
		if _, ok := payload.Find(x.format); !ok {
			continue // a mapping of the configuration, which the page explains
		}
		items, err := payload.Decode(x.format, payload.Input{Payload: x.in, ReceivedAt: received, DeviceTZ: shanghai}, nil)
		if err != nil || len(items) == 0 {
			t.Errorf("%s: %s", x.format, showAll(items, err))
		}
		for _, it := range items {
			if it.Problem != nil {
				t.Errorf("%s: %v", x.format, it.Problem)
			}
		}
	}
	for _, format := range []string{"readings", "cbor", "fhir", "omh", "senml", "senml-cbor", "gatt", "nightscout", "ihealth", "withings", "theengs", "homeassistant"} {
		if !seen[format] {
			t.Errorf("no example of %s on the page", format)
		}
	}
}
