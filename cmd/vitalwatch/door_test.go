package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"vitalwatch/ingest/mqttd"
)

// Every option about which mqttd complains is one of ours, so that check points at it.
func TestDoorConfig_EveryLimitHasItsOption(t *testing.T) {
	options := map[string]bool{}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		for i := range typ.NumField() {
			key := path + typ.Field(i).Tag.Get("yaml")
			options[key] = true
			if typ.Field(i).Type.Kind() == reflect.Struct {
				walk(typ.Field(i).Type, key+".")
			}
		}
	}
	walk(reflect.TypeFor[DoorConfig](), "")
	bad := mqttd.Config{ServerReference: "\x00", WebSocket: mqttd.WebSocketOptions{Origins: []string{"x"}}, MaxHandshakes: -1,
		TCPLimits:       mqttd.ListenerLimits{MaxConnections: -1, AcceptPerSecond: -1, ConnectTimeout: -1},
		TLSLimits:       mqttd.ListenerLimits{MaxConnections: -1, AcceptPerSecond: -1, ConnectTimeout: -1},
		WebSocketLimits: mqttd.ListenerLimits{MaxConnections: -1, AcceptPerSecond: -1, ConnectTimeout: -1}}
	errs := leaves(bad.Validate())
	if len(errs) < 25 {
		t.Errorf("only %d mistakes", len(errs))
	}
	for _, err := range errs {
		if key := limitKey(err.Error()); !options[key] {
			t.Errorf("%q is said to be about %s, which is no option", err, key)
		}
	}
}

// What the file says arrives, and what is wrong in it is shown where it stands.
func TestDoorConfig_FromFileAndEnvironment(t *testing.T) {
	c, err := load(t, `mqtt:
  embedded:
    listen: ""
    websocket_listen: 127.0.0.1:8083
    websocket: {origins: ["https://console.example"], plain: true}
    proxy_protocol: [10.0.0.0/8, 192.0.2.1]
    limits: {messages_per_minute: 600, commit_timeout: 2s, tls: {accept_per_second: 7}}
`, map[string]string{"VITALWATCH_MQTT_EMBEDDED_LIMITS_LOGIN_BACKOFF": "90s", "VITALWATCH_MQTT_EMBEDDED_LIMITS_TLS_MAX_PENDING": "77"})
	if err != nil {
		t.Fatal(err)
	}
	got := c.MQTT.Embedded.config()
	want := mqttd.DefaultConfig()
	want.Listen, want.WebSocketListen = "", "127.0.0.1:8083"
	want.WebSocket.Origins, want.WebSocket.Plain = []string{"https://console.example"}, true
	want.ProxyProtocol = got.ProxyProtocol
	want.MessagesPerMinute, want.CommitTimeout, want.LoginBackoff = 600, 2*time.Second, 90*time.Second
	want.TLSLimits.AcceptPerSecond, want.TLSLimits.MaxPending = 7, 77
	if !reflect.DeepEqual(got, want) || len(got.ProxyProtocol) != 2 || got.ProxyProtocol[1].String() != "192.0.2.1/32" {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}

	_, err = load(t, `mqtt:
  embedded:
    tls_listen: 0.0.0.0:8883
    tls: {client_auth: sometimes}
    websocket: {path: mqtt}
    proxy_protocol: [nowhere]
    limits:
      max_packet_bytes: 3
      commit_timeout: 5
      tcp: {max_pending: 0}
`, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"c.yaml:3:17: mqtt.embedded.tls_listen: ", "c.yaml:4:24: mqtt.embedded.tls.client_auth: ", "c.yaml:5:23: mqtt.embedded.websocket.path: ",
		"c.yaml:6:22: mqtt.embedded.proxy_protocol.0: ", "c.yaml:8:25: mqtt.embedded.limits.max_packet_bytes: ", "c.yaml:9:23: ", "c.yaml:10:26: mqtt.embedded.limits.tcp.max_pending: "} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
	if _, err := load(t, "", map[string]string{"VITALWATCH_MQTT_EMBEDDED_LIMITS_COMMIT_TIMEOUT": "5"}); err == nil || !strings.Contains(err.Error(), "a duration such as 10s") {
		t.Errorf("a bare number as a duration: %v", err)
	}
}

// The certificate makes `listen` TLS, as it did before there was tls_listen; with tls_listen both are there.
func TestDoorConfig_WhereTLSIsSpoken(t *testing.T) {
	for _, tc := range []struct{ listen, tlsListen, cert, plain, tls string }{
		{"a:1", "", "", "a:1", ""},
		{"a:1", "", "c", "", "a:1"},
		{"a:1", "b:2", "c", "a:1", "b:2"},
		{"", "b:2", "c", "", "b:2"},
	} {
		d := defaultDoor()
		d.Listen, d.TLSListen, d.TLS.CertFile = tc.listen, tc.tlsListen, tc.cert
		if c := d.config(); c.Listen != tc.plain || c.TLSListen != tc.tls {
			t.Errorf("%+v: plain %q, TLS %q", tc, c.Listen, c.TLSListen)
		}
	}
}
