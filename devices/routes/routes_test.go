package routes_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/devices/payload"
	"vitalwatch/devices/routes"
	"vitalwatch/vitals"
)

func table(t testing.TB, cs ...routes.Config) *routes.Table {
	t.Helper()
	x, err := routes.New(cs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

var example = []routes.Config{
	{Topic: "home/{gateway}/BTtoMQTT/{device}", Format: "theengs"},
	{Topic: "$oc/devices/{device}/sys/properties/report", Format: "readings", DevicePrefix: "hw-"},
	{Topic: "zigbee/+/state", Format: "homeassistant/heart_rate", DevicePath: "device.ids.0", DevicePrefix: "z-"},
	{Topic: "any/{device}/{format}", DevicePrefix: "x"},
	{Topic: "tree/{device}/#", Format: "gatt/2A37"},
}

func TestMatch(t *testing.T) {
	tab := table(t, example...)
	for _, tt := range []struct{ topic, want string }{
		{"home/gw-1/BTtoMQTT/A4C138112233", "A4C138112233 gw-1 theengs"},
		{"home/gw-1/BTtoMQTT/A4:C1:38:11:22:33", "A4C138112233 gw-1 theengs"},
		{"home/gw-1/BTtoMQTT", ""},
		{"home/gw-1/BTtoMQTT/", ""},
		{"home/gw-1/BTtoMQTT/A4C1/x", ""},
		{"home/gw 1/BTtoMQTT/A4C1", ""},
		{"home/gw-1/BTtoMQTT/a.b", ""},
		{"Home/gw-1/BTtoMQTT/A4C1", ""},
		{"$oc/devices/cuff7/sys/properties/report", "hw-cuff7  readings"},
		{"zigbee/whatever it is/state", "  homeassistant/heart_rate"},
		{"zigbee//state", "  homeassistant/heart_rate"},
		{"zigbee/state", ""},
		{"any/d/nightscout", "xd  nightscout"},
		{"any/d/nonsense", ""},
		{"tree/d", "d  gatt/2A37"},
		{"tree/d/", "d  gatt/2A37"},
		{"tree/d/a/b", "d  gatt/2A37"},
		{"tree", ""},
		{"", ""},
		{"/", ""},
		{"home/gw/BTtoMQTT/" + strings.Repeat("a", 65), ""},
	} {
		for range 40 { // cold and cached
			m, ok := tab.Match([]byte(tt.topic))
			got := ""
			if ok {
				got = fmt.Sprintf("%s %s %s", m.Device, m.Gateway, m.Format)
			}
			if got != tt.want {
				t.Fatalf("%q: got %q, want %q", tt.topic, got, tt.want)
			}
		}
	}
	want := "home/+/BTtoMQTT/+ $oc/devices/+/sys/properties/report zigbee/+/state any/+/+ tree/+/#"
	if got := strings.Join(tab.Filters(), " "); got != want {
		t.Errorf("filters %s, want %s", got, want)
	}
}

func TestMatch_theFirstRouteCounts(t *testing.T) {
	tab := table(t, routes.Config{Topic: "a/{device}", Format: "theengs"}, routes.Config{Topic: "+/{device}/#", Format: "readings"})
	for topic, want := range map[string]string{"a/d": "theengs", "b/d": "readings", "a/d/x": "readings"} {
		if m, ok := tab.Match([]byte(topic)); !ok || m.Format != want {
			t.Errorf("%s: got %v %v, want %s", topic, m.Format, ok, want)
		}
	}
}

func TestDeviceOf(t *testing.T) {
	tab := table(t, example...)
	m, _ := tab.Match([]byte("zigbee/a/state"))
	for in, want := range map[string]vitals.DeviceID{
		`{"device":{"ids":["AA:BB"]},"state":"60"}`: "z-AABB",
		`{"device":{"ids":[17]}}`:                   "z-17",
		`{"device":{"ids":[]}}`:                     "",
		`{"device":{"ids":[""]}}`:                   "",
		`{"device":{"ids":["a b"]}}`:                "",
		`{"device":{"ids":[{}]}}`:                   "",
		`[]`:                                        "",
		`{"device"`:                                 "",
	} {
		got, err := m.DeviceOf([]byte(in))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
	if m, _ = tab.Match([]byte("tree/d")); true {
		if got, err := m.DeviceOf([]byte("no JSON")); got != "d" || err != nil {
			t.Errorf("device of the topic: got %q, %v", got, err)
		}
	}
}

func rights(pairs ...string) func(vitals.DeviceID, vitals.DeviceID) bool {
	return func(g, d vitals.DeviceID) bool {
		for _, p := range pairs {
			if p == string(g)+">"+string(d) {
				return true
			}
		}
		return false
	}
}

func TestTopics_Resolve(t *testing.T) {
	x := &routes.Topics{Table: table(t, example...), MaySpeakFor: rights("gw-1>d1", "gw-1>A4C1", "d2>hw-d1")}
	for _, tt := range []struct {
		client, topic string
		want          string
	}{
		{"gw-1", "vw/v1/d1/up/readings", "d1 readings"},
		{"gw-1", "vw/v1/d1/up/gatt/2A18", "d1 gatt/2A18"},
		{"gw-1", "vw/v1/d2/up/readings", "foreign"},
		{"d2", "vw/v1/d1/up/readings", "foreign"},
		{"d1", "vw/v1/d1/up/readings", "d1 readings"},
		{"gw-1", "vw/v1/d1/down/cmd", "unknown"},
		{"gw-1", "vw/v1/d1/up/", "unknown"},
		{"gw-1", "vw/v1/d 1/up/readings", "unknown"},
		{"gw-1", "vw/v1/", "unknown"},
		{"gw-1", "home/gw-1/BTtoMQTT/A4C1", "A4C1 theengs"},
		{"gw-1", "home/gw-1/BTtoMQTT/A4C2", "foreign"},
		{"gw-2", "home/gw-1/BTtoMQTT/A4C1", "foreign"},
		{"gw-1", "home/gw-2/BTtoMQTT/A4C1", "foreign"},
		{"hw-d1", "$oc/devices/d1/sys/properties/report", "hw-d1 readings"},
		{"d1", "$oc/devices/d1/sys/properties/report", "foreign"},
		{"d2", "$oc/devices/d1/sys/properties/report", "hw-d1 readings"},
		{"gw-1", "zigbee/a/state", " homeassistant/heart_rate"},
		{"gw-1", "nobody/knows", "unknown"},
	} {
		id, format, err := x.Resolve(vitals.DeviceID(tt.client), []byte(tt.topic))
		got := string(id) + " " + format
		switch {
		case errors.Is(err, routes.ErrForeign):
			got = "foreign"
		case errors.Is(err, routes.ErrUnknown):
			got = "unknown"
		}
		if got != tt.want {
			t.Errorf("%s on %s: got %q, want %q", tt.client, tt.topic, got, tt.want)
		}
	}
	x.Table = nil
	if _, _, err := x.Resolve("gw-1", []byte("home/gw-1/BTtoMQTT/A4C1")); !errors.Is(err, routes.ErrUnknown) {
		t.Errorf("without routes: got %v", err)
	}
}

// whole asks for a message of one part.
func whole(t testing.TB, x *routes.Topics, client, topic, message string) (id, gateway vitals.DeviceID, format string, err error) {
	n := 0
	x.Messages(vitals.DeviceID(client), []byte(topic), []byte(message), func(i, g vitals.DeviceID, f string, part []byte, e error) {
		if id, gateway, format, err = i, g, f, e; string(part) != message {
			t.Errorf("%s: part %s of %s", topic, part, message)
		}
		n++
	})
	if n != 1 {
		t.Errorf("%s: %d parts", topic, n)
	}
	return id, gateway, format, err
}

func TestTopics_Message(t *testing.T) {
	x := &routes.Topics{Table: table(t, example...), MaySpeakFor: rights("gw-1>A4C1", "gw-1>z-a")}
	const a, b = `{"device":{"ids":["a"]}}`, `{"device":{"ids":["b"]}}`
	for _, tt := range []struct{ client, topic, message, want string }{
		{"", "home/gw-1/BTtoMQTT/A4C1", "{}", "A4C1 gw-1 theengs"},
		{"", "home/gw-1/BTtoMQTT/A4C2", "{}", "foreign"}, // the gateway's rights hold at a broker too
		{"", "$oc/devices/d1/sys/properties/report", "{}", "hw-d1  readings"},
		{"", "zigbee/a/state", a, "z-a  homeassistant/heart_rate"},
		{"", "zigbee/a/state", "{}", "error"},
		{"gw-1", "zigbee/a/state", a, "z-a gw-1 homeassistant/heart_rate"},
		{"gw-1", "zigbee/a/state", b, "foreign"},
		{"z-b", "zigbee/a/state", b, "z-b  homeassistant/heart_rate"},
		{"gw-2", "home/gw-1/BTtoMQTT/A4C1", "{}", "foreign"},
		{"", "nobody/knows", "{}", "unknown"},
	} {
		id, gw, format, err := whole(t, x, tt.client, tt.topic, tt.message)
		got := fmt.Sprintf("%s %s %s", id, gw, format)
		switch {
		case errors.Is(err, routes.ErrForeign):
			got = "foreign"
		case errors.Is(err, routes.ErrUnknown):
			got = "unknown"
		case err != nil:
			got = "error"
		}
		if got != tt.want {
			t.Errorf("%s on %s: got %q, want %q", tt.client, tt.topic, got, tt.want)
		}
	}
}

// Each item of a message names its device: the parts are judged one by one.
func TestTopics_Messages(t *testing.T) {
	x := &routes.Topics{MaySpeakFor: rights("gw-1>b-1", "gw-1>b-2", "gw-2>b-1"), Table: table(t,
		routes.Config{Topic: "ble/{gateway}", Format: "theengs", ItemsPath: ".", DevicePath: "mac", DevicePrefix: "b-"},
		routes.Config{Topic: "cloud/+", Format: "theengs", ItemsPath: "data.list", DevicePath: "mac", DevicePrefix: "b-"})}
	const message = `[{"mac":"1","hr":1},{"mac":"2","hr":2},{"mac":"3"},{},{"mac":""},{"mac":"a b"},{"mac":"1","hr":3}]`
	for _, tt := range []struct{ client, topic, message, want string }{
		{"gw-1", "ble/gw-1", message, `b-1 gw-1 theengs [{"mac":"1","hr":1}]; b-2 gw-1 theengs [{"mac":"2","hr":2}]; foreign gw-1 [{"mac":"3"}]; ` +
			`error gw-1 [{},{"mac":""}]; error gw-1 [{"mac":"a b"}]; b-1 gw-1 theengs [{"mac":"1","hr":3}]`},
		{"gw-2", "ble/gw-1", message, "foreign gw-1 " + message},
		{"", "ble/gw-2", `[{"mac":"1"},{"mac":"2"}]`, `b-1 gw-2 theengs [{"mac":"1"}]; foreign gw-2 [{"mac":"2"}]`},
		{"", "cloud/x", `{"data":{"list":[{"mac":"9"},{"mac":"8"}]}}`, `b-9  theengs [{"mac":"9"}]; b-8  theengs [{"mac":"8"}]`},
		{"", "cloud/x", `{"data":{}}`, `error  {"data":{}}`},
		{"b-1", "cloud/x", `{"data":{"list":[{"mac":"1"}]}}`, `b-1  theengs [{"mac":"1"}]`},
		{"gw-1", "nowhere", "[]", "unknown  []"},
	} {
		var got []string
		x.Messages(vitals.DeviceID(tt.client), []byte(tt.topic), []byte(tt.message), func(id, gw vitals.DeviceID, format string, part []byte, err error) {
			who := fmt.Sprintf("%s %s %s", id, gw, format)
			switch {
			case errors.Is(err, routes.ErrForeign):
				who = "foreign " + string(gw)
			case errors.Is(err, routes.ErrUnknown):
				who = "unknown " + string(gw)
			case err != nil:
				who = "error " + string(gw)
			}
			got = append(got, who+" "+string(part))
		})
		if s := strings.Join(got, "; "); s != tt.want {
			t.Errorf("%s on %s\ngot  %s\nwant %s", tt.client, tt.topic, s, tt.want)
		}
	}
}

func TestNew_tellsEveryMistake(t *testing.T) {
	m, err := payload.ParseMapping("m", []byte("format: mine\nsource: x\ntime: {received: true}\nreadings: [{indicator: weight, unit: kg, values: {value: v}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = routes.New([]routes.Config{
		{},
		{Topic: "a/{device}", Format: "mine"},
		{Topic: "a/+", Format: "map:mine", DevicePath: "id"},
		{Topic: "b/#/{device}", Format: "nothing"},
		{Topic: "b/x{device}/{gateway}/{gateway}", Format: "gatt/heart", DevicePath: "a..b"},
		{Topic: "vw/v1/{device}/up/{format}", Format: "readings", DevicePrefix: "a b"},
		{Topic: "c/{device}", Format: "homeassistant/mood"},
		{Topic: "d/{device}", Format: "theengs/x"},
		{Topic: "e/{device}", Format: "theengs", ItemsPath: "data..list"},
		{Topic: "f/+", Format: "senml", ItemsPath: ".", DevicePath: "n"},
	}, []*payload.Mapping{m})
	if err == nil {
		t.Fatal("got no error")
	}
	want := `routes.0.topic: is missing; write a filter such as home/{gateway}/BTtoMQTT/{device}
routes.0: say where the device stands: {device} in topic, or device_path in the payload, one of them
routes.0: say which format it is: format, or {format} in topic, one of them
routes.2.topic: is never reached: route 1 matches the same topics
routes.3.topic: # stands at the end only
routes.3.format: "nothing" is no format; there are ` + strings.Join(payload.Formats(), ", ") + `
routes.4.topic: "x{device}": +, #, {device}, {gateway} and {format} stand for whole levels
routes.4.topic: has {gateway} more than once
routes.4.device_path: "a..b" is not a path; write names and list indexes with dots between them, such as data.mac
routes.4.format: "heart" is not the 16-bit number of a characteristic, such as gatt/2A18
routes.5.topic: our own layout needs no route, and shares are set in mqtt.external.topics
routes.5.device_prefix: is up to 32 of A-Z a-z 0-9 _ -
routes.5: say which format it is: format, or {format} in topic, one of them
routes.6.format: "mood" is no indicator; write one behind the slash, such as homeassistant/heart_rate
routes.7.format: the format theengs takes nothing behind a slash
routes.8.items_path: "data..list" is not a path; write names and list indexes with dots between them, such as data.list, or . for the payload itself
routes.8.items_path: needs device_path: where each item has its device
routes.9.items_path: senml cannot be taken apart`
	if err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// The table agrees with a slow reading of MQTT 4.7 for the filters, and the device is the level under {device}.
func TestMatch_equalsTheFilterRules(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", "", "+", "{device}"})
	rapid.Check(t, func(t *rapid.T) {
		levels := rapid.SliceOfN(word, 1, 4).Draw(t, "filter")
		if strings.Count(strings.Join(levels, "/"), "{device}") != 1 {
			return
		}
		if rapid.Bool().Draw(t, "rest") {
			levels = append(levels, "#")
		}
		tab, err := routes.New([]routes.Config{{Topic: strings.Join(levels, "/"), Format: "theengs"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		topic := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "c"}), 1, 5).Draw(t, "topic")
		device, want := model(levels, topic)
		m, ok := tab.Match([]byte(strings.Join(topic, "/")))
		if ok != want || ok && string(m.Device) != device {
			t.Fatalf("%v on %v: got %q %v, want %q %v", levels, topic, m.Device, ok, device, want)
		}
	})
}

func model(filter, topic []string) (device string, ok bool) {
	for i, f := range filter {
		if f == "#" {
			return device, device != ""
		}
		if i >= len(topic) || f != "+" && f != "{device}" && f != topic[i] {
			return "", false
		}
		if f == "{device}" {
			device = topic[i]
		}
	}
	return device, len(topic) == len(filter) && device != ""
}

func FuzzMatch(f *testing.F) {
	f.Add("home/{gateway}/BTtoMQTT/{device}", "home/g/BTtoMQTT/AA:BB", "id", "{}")
	f.Add("a/+", "a/b", "id.0", `{"id":["x"]}`)
	f.Fuzz(func(t *testing.T, filter, topic, path, message string) {
		c := routes.Config{Topic: filter, Format: "readings", DevicePath: path}
		if strings.Contains(filter, "{device}") {
			c.DevicePath = ""
		}
		tab, err := routes.New([]routes.Config{c}, nil)
		if err != nil {
			return
		}
		x := &routes.Topics{Table: tab, MaySpeakFor: func(_, _ vitals.DeviceID) bool { return true }}
		id, gw, format, err := whole(t, x, "", topic, message)
		if err == nil && (!vitals.ValidID(string(id)) || gw != "" && !vitals.ValidID(string(gw)) || format == "") {
			t.Fatalf("%q on %q: got %q %q %q", topic, filter, id, gw, format)
		}
	})
}

func TestMatch_noAllocationOnceKnown(t *testing.T) {
	tab := table(t, example...)
	topic := []byte("home/OpenMQTTGateway_ESP32/BTtoMQTT/A4C138112233")
	for range 100 {
		tab.Match(topic)
	}
	if n := testing.AllocsPerRun(100, func() { tab.Match(topic) }); n != 0 {
		t.Errorf("got %v allocations", n)
	}
}

// go test -run '^$' -bench Match -benchmem ./devices/routes
func BenchmarkMatch(b *testing.B) {
	tab := table(b, example...)
	var topics [][]byte
	for i := range 1000 {
		topics = append(topics, fmt.Appendf(nil, "home/OpenMQTTGateway_ESP32/BTtoMQTT/A4C138%06X", i))
	}
	for range 3 {
		for _, x := range topics {
			tab.Match(x)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := tab.Match(topics[i%len(topics)]); !ok {
			b.Fatal("no match")
		}
		i++
	}
}
