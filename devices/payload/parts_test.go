package payload_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/devices/payload"
)

func path(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ".")
}

func TestParts(t *testing.T) {
	for _, tt := range []struct{ name, in, items, device, want string }{
		{"neighbours stay together", `[{"id":"a","v":1},{"id":"a","v":2},{"id":"b"},{"id":"a","v":3}]`, "", "id",
			`a [{"id":"a","v":1},{"id":"a","v":2}]` + "\n" + `b [{"id":"b"}]` + "\n" + `a [{"id":"a","v":3}]`},
		{"the list alone", `{"t":1, "data": {"list": [ {"id": 7} , {"id":"b"} ], "n":2}}`, "data.list", "id", `7 [{"id": 7}]` + "\n" + `b [{"id":"b"}]`},
		{"what a format needs around it stays", `{"t":1, "body": {"series": [ {"id": 7} , {"id":"b"} ], "n":2}}`, "body.series", "id",
			`7 {"t":1, "body": {"series": [{"id": 7}], "n":2}}` + "\n" + `b {"t":1, "body": {"series": [{"id":"b"}], "n":2}}`},
		{"one item", `{"id":"a"}`, "", "id", `a {"id":"a"}`},
		{"one item further in", `{"data":{"id":"a"}}`, "data", "id", `a {"id":"a"}`},
		{"nobody's among them", `[{"id":"a"},{},7,{"id":[1]},{"id":"a"}]`, "", "id", `a [{"id":"a"}]` + "\n" + ` [{},7,{"id":[1]}]` + "\n" + `a [{"id":"a"}]`},
		{"deep", `[{"d":{"ids":["x","y"]}}]`, "", "d.ids.1", `y [{"d":{"ids":["x","y"]}}]`},
		{"no list", `{"data":{}}`, "list", "id", payload.FieldMissing},
		{"no list but a number", `{"list":7}`, "list", "id", payload.TypeWrong},
		{"an empty list", `[]`, "", "id", payload.FieldMissing},
		{"no JSON", `[{"id":"a"}`, "", "id", payload.JSONInvalid},
		{"too many", "[" + strings.Repeat("{},", 500) + "{}]", "", "id", payload.TooManyReadings},
		{"too much around too many", `{"x":"` + strings.Repeat("x", 50000) + `","measuregrps":[` + strings.Repeat(`{"id":"a"},{"id":"b"},`, 20) + `{}]}`, "measuregrps", "id", payload.TooLarge},
		{"too large", strings.Repeat(" ", payload.MaxBytes) + "[]", "", "id", payload.TooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := []payload.Part{{Device: "before"}}
			parts, p := payload.Parts("withings", []byte(tt.in), path(tt.items), path(tt.device), before)
			if p != nil {
				if p.Code != tt.want || p.Detail == "" || !reflect.DeepEqual(parts, before) {
					t.Errorf("got %v and %d parts, want %s", p, len(parts), tt.want)
				}
				return
			}
			var got []string
			for _, x := range parts[1:] {
				got = append(got, x.Device+" "+string(x.Message))
			}
			if s := strings.Join(got, "\n"); s != tt.want {
				t.Errorf("got\n%s\nwant\n%s", s, tt.want)
			}
		})
	}
}

// The items of the parts, one part's after the other's, are the items of the message.
func TestParts_losesAndChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var items []string
		for i := range rapid.IntRange(1, 12).Draw(t, "n") {
			mac := rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "mac")
			items = append(items, rapid.SampledFrom([]string{
				fmt.Sprintf(`{"mac":%q,"indicator":"heart_rate","taken_at":"2026-11-21T08:00:00Z","value":%d,"unit":"/min"}`, mac, 60+i),
				fmt.Sprintf(`{"mac":%q,"indicator":"heart_rate"}`, mac), "7", "{}",
			}).Draw(t, "item"))
		}
		message := []byte("[" + strings.Join(items, " , ") + "]")
		want := showAll(payload.Decode("readings", payload.Input{Payload: message, ReceivedAt: received}, nil))
		parts, p := payload.Parts("readings", message, nil, []string{"mac"}, nil)
		if p != nil {
			t.Fatal(p)
		}
		var got []string
		for i, x := range parts {
			if i > 0 && parts[i-1].Device == x.Device {
				t.Fatalf("two parts in a row are of %q", x.Device)
			}
			got = append(got, showAll(payload.Decode("readings", payload.Input{Payload: x.Message, ReceivedAt: received}, nil)))
		}
		if s := strings.Join(got, "\n"); s != want {
			t.Fatalf("%s\ngot\n%s\nwant\n%s", message, s, want)
		}
	})
}

func FuzzParts(f *testing.F) {
	f.Add([]byte(`[{"id":"a"},{"id":"b"}]`), "", "id", false)
	f.Add([]byte(`{"body":{"list":[{"id":1}]}}`), "body.list", "id", true)
	f.Fuzz(func(t *testing.T, message []byte, items, device string, withings bool) {
		format := "theengs"
		if withings {
			format = "withings"
		}
		if withings != strings.HasPrefix(items, "body.") {
			return
		}
		parts, p := payload.Parts(format, message, path(items), path(device), nil)
		if (p == nil) != (len(parts) > 0) {
			t.Fatalf("%d parts and %v", len(parts), p)
		}
		inner := path(items)
		if format != "withings" || !strings.HasPrefix(items, "body.") {
			inner = nil // the list alone
		}
		for _, x := range parts {
			if again, p := payload.Parts(format, x.Message, inner, path(device), nil); p != nil || len(again) != 1 || again[0].Device != x.Device {
				t.Fatalf("part %q: %v, %v", x.Message, again, p)
			}
		}
	})
}

// A mapping whose items stand where the route finds them reads the message that they stood in.
func TestParts_ofAMapping(t *testing.T) {
	m := mapping(t, "format: shop\nsource: https://example.com\nitems: data.list\ntime: {received: true}\nreadings:\n  - {indicator: weight, unit: kg, values: {value: kg}}\n")
	if err := payload.UseMappings([]*payload.Mapping{m}); err != nil {
		t.Fatal(err)
	}
	defer payload.UseMappings(nil)
	parts, p := payload.Parts("shop", []byte(`{"data":{"list":[{"mac":"a","kg":70},{"mac":"b","kg":80}]}}`), path("data.list"), path("mac"), nil)
	if p != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), p)
	}
	for i, want := range []string{"weight value=70 kg", "weight value=80 kg"} {
		if got := showAll(payload.Decode("shop", payload.Input{Payload: parts[i].Message, ReceivedAt: received}, nil)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
