package mqttd_test

import (
	"context"
	"fmt"
	"testing"

	"vitalwatch/ingest/mqttd/packet"
	"vitalwatch/internal/clienttest"
)

// clients runs a test with each client that is installed, in each version that it speaks.
func clients(t *testing.T, f func(t *testing.T, ctx context.Context, c clienttest.Client, j clienttest.Job)) {
	for _, c := range clienttest.All(t) {
		for _, v := range c.Versions() {
			t.Run(fmt.Sprintf("%s/version=%d", c.Name(), v), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 5*patience) // they run beside each other
				defer cancel()
				f(t, ctx, c, clienttest.Job{Version: v, QoS: 1, Device: "S-1", Password: "secret-S-1"})
			})
		}
	}
}

// A command for a device that is away, also over a restart of the server, reaches it when it comes back.
func TestClients_command_after_being_away(t *testing.T) {
	clients(t, func(t *testing.T, ctx context.Context, c clienttest.Client, j clienttest.Job) {
		h := openLasting(t)
		j.Addr = h.Addr().String()
		if err := c.Subscribe(ctx, j); err != nil {
			t.Fatal(err)
		}
		h.send(j.Device, "cmd", "remeasure")
		h.stop()
		h.start()
		j.Addr = h.Addr().String()
		if got, err := c.Await(ctx, j); err != nil || got != "remeasure" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// Each client is told why it is refused, as far as its version has words.
func TestClients_told_why_refused(t *testing.T) {
	clients(t, func(t *testing.T, ctx context.Context, c clienttest.Client, j clienttest.Job) {
		d := open(t, nil, nil)
		j.Addr = d.Addr().String()
		for _, tc := range []struct {
			name, password, topic, payload string
			code5, code311                 int
		}{
			{"wrong password", "wrong", "", "", int(packet.BadUserNameOrPassword), int(packet.Refused311Credentials)},
			{"foreign topic", j.Password, "vw/v1/S-2/up/readings", "x", int(packet.NotAuthorized), clienttest.Closed},
			{"bad payload", j.Password, "vw/v1/S-1/up/readings", "bad", int(packet.PayloadFormatInvalid), 0},
		} {
			j.Password = tc.password
			want := tc.code5
			if j.Version == 4 {
				want = tc.code311
			}
			if got, err := c.Refused(ctx, j, tc.topic, tc.payload); err != nil || got != want {
				t.Errorf("%s: told %d (%v), want %d", tc.name, got, err, want)
			}
		}
	})
}
