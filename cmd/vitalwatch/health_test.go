package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// TestHealth_SaysWhatFails: a failing server's answer is a line that a person can read.
func TestHealth_SaysWhatFails(t *testing.T) {
	for _, tc := range []struct {
		name, body, want string
		status           int
	}{
		{"ready", "[+] mqtt ok\nok\n", "", 200},
		{"not ready", `{"title":"not ready","status":503,"errors":[{"location":"journal","message":"is shut"},{"location":"broker","message":"cannot connect"}]}`,
			"the server says not ready: journal: is shut; broker: cannot connect", 503},
		{"a proxy in between", "<h1>Bad Gateway</h1>\n", "the server says 502 Bad Gateway: <h1>Bad Gateway</h1>", 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			}))
			defer srv.Close()
			var out bytes.Buffer
			err := askHealth(t.Context(), srv.URL, &out)
			if tc.want == "" {
				if err != nil || out.String() != tc.body {
					t.Errorf("printed %q, %v", out.String(), err)
				}
			} else if err == nil || err.Error() != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// TestDeviceSend_NeedsAFrontDoor: what is sent down goes through our own front door only, so a command that could never
// arrive is refused, as the API does.
func TestDeviceSend_NeedsAFrontDoor(t *testing.T) {
	c := newRegistryCLI(t)
	c.ok("device add cuff --no-secret")
	c.ok("device send cuff remeasure")
	f, err := os.OpenFile(c.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("mqtt:\n  embedded: {enabled: false}\n  external: {url: \"tcp://127.0.0.1:1883\"}\n"); err != nil {
		t.Fatal(err)
	}
	status, out, errOut := c.run("device send cuff remeasure")
	if status == 0 || out != "" || !strings.Contains(errOut, "mqtt.embedded") {
		t.Errorf("status %d, %q, %q", status, out, errOut)
	}
}
