package subscriber_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"vitalwatch/ingest/subscriber"
	"vitalwatch/vitals"
)

func TestNew_RefusesWithWhatToDo(t *testing.T) {
	good := subscriber.Config{URL: "tcp://localhost:1883", ClientID: "c"}
	for _, c := range []struct {
		name string
		set  func(*subscriber.Config)
		want string
	}{
		{"no URL", func(c *subscriber.Config) { c.URL = "" }, "tcp://host:1883"},
		{"no scheme", func(c *subscriber.Config) { c.URL = "localhost:1883" }, "tcp://host:1883"},
		{"http", func(c *subscriber.Config) { c.URL = "http://localhost" }, "tcp://host:1883"},
		{"no URL at all", func(c *subscriber.Config) { c.URL = "tcp://u:marked@h:bad port" }, "not a URL"},
		{"credentials in the URL", func(c *subscriber.Config) { c.URL = "tcp://u:marked@localhost:1883" }, "password_file"},
		{"no client id", func(c *subscriber.Config) { c.ClientID = "" }, "client_id"},
		{"password without user", func(c *subscriber.Config) { c.PasswordFile = "f" }, "username"},
		{"bad filter", func(c *subscriber.Config) { c.Topics = []string{"vw/v1/+/up/#", "vw/#/up"} }, `"vw/#/up"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.set(&cfg)
			_, err := subscriber.New(cfg, subscriber.Deps{})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "marked") {
				t.Errorf("error = %v, want %q and no password", err, c.want)
			}
		})
	}
	if _, err := subscriber.New(good, subscriber.Deps{}); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
}

func TestValidFilter(t *testing.T) {
	for f, want := range map[string]bool{
		"#": true, "+": true, "a/+/b": true, "a/#": true, "$share/g/vw/v1/+/up/#": true, "/": true,
		"": false, "a#": false, "#/a": false, "a/b+": false, "+a/b": false, strings.Repeat("x", 65536): false,
	} {
		if got := subscriber.ValidFilter(f); got != want {
			t.Errorf("ValidFilter(%.20q) = %v", f, got)
		}
	}
}

func TestParseTopic(t *testing.T) {
	for _, c := range []struct {
		topic, device, format string
		ok                    bool
	}{
		{"vw/v1/cuff/up/readings", "cuff", "readings", true},
		{"vw/v1/cuff/up/gatt/2A18", "cuff", "gatt/2A18", true},
		{"vw/v1/cuff/up/status", "cuff", "status", true},
		{"vw/v1/cuff/up/", "", "", false},
		{"vw/v1/cuff/up", "", "", false},
		{"vw/v1/cuff/down/errors", "", "", false},
		{"vw/v1//up/readings", "", "", false},
		{"vw/v1/a b/up/readings", "", "", false},
		{"vw/v2/cuff/up/readings", "", "", false},
		{"x/vw/v1/cuff/up/readings", "", "", false},
		{"", "", "", false},
	} {
		id, format, ok := subscriber.ParseTopic(c.topic)
		if ok != c.ok || ok && (string(id) != c.device || format != c.format) {
			t.Errorf("ParseTopic(%q) = %q, %q, %v", c.topic, id, format, ok)
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	for _, s := range []string{"vw/v1/cuff/up/readings", "vw/v1/cuff/up/gatt/2A18", "vw/v1//up/x", "vw/v1/a/b/up/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		id, format, ok := subscriber.ParseTopic(topic)
		if !ok {
			return
		}
		if !vitals.ValidID(string(id)) || format == "" || "vw/v1/"+string(id)+"/up/"+format != topic {
			t.Fatalf("%q is taken for device %q, format %q", topic, id, format)
		}
	})
}

func TestBackoff(t *testing.T) {
	for attempt := range 100 {
		limit := 30 * time.Second
		if attempt < 5 {
			limit = time.Second << attempt
		}
		first, differs := subscriber.Backoff(attempt), false
		for range 100 {
			d := subscriber.Backoff(attempt)
			if d < limit/2 || d >= limit {
				t.Fatalf("pause %d = %v, want from %v to %v", attempt, d, limit/2, limit)
			}
			differs = differs || d != first
		}
		if !differs {
			t.Fatalf("pause %d is always %v", attempt, first)
		}
	}
}

// silentListener accepts connections and never says a word.
func silentListener(t *testing.T) (addr string, accepted <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, done := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(done)
		var open []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, conn)
			c <- struct{}{}
		}
		for _, conn := range open {
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), c
}
