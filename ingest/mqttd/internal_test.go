package mqttd

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/ingest/mqttd/packet"
)

func TestConfig_Validate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{}.Validate()
	if err == nil || strings.Count(err.Error(), "\n") < 10 {
		t.Errorf("not all at once: %v", err)
	}
	c := DefaultConfig()
	c.MinKeepAlive, c.MaxKeepAlive = time.Hour, time.Minute
	if err := c.Validate(); err == nil {
		t.Error("min above max")
	}
}

// matches against the obvious model of section 4.7.
func TestMatches(t *testing.T) {
	var model func(f, n []string) bool
	model = func(f, n []string) bool {
		switch {
		case len(f) == 0:
			return len(n) == 0
		case f[0] == "#":
			return true
		case len(n) == 0:
			return false
		}
		return (f[0] == "+" || f[0] == n[0]) && model(f[1:], n[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "+", "#"}), 1, 5).Draw(t, "filter")
		n := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", ""}), 1, 5).Draw(t, "name")
		filter, name := strings.Join(f, "/"), strings.Join(n, "/")
		if !packet.ValidFilter([]byte(filter)) {
			t.Skip("not a filter")
		}
		if got, want := matches(filter, name), model(f, n); got != want {
			t.Errorf("matches(%q, %q) = %v", filter, name, got)
		}
	})
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::", "2001:db8:0:0:1::1%eth0": "2001:db8::"} {
		if got := addressKey(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// The documentation names every metric label that tells why.
func TestDocs_name_every_reason(t *testing.T) {
	b, err := os.ReadFile("../../docs/mqtt.md")
	if err != nil {
		t.Fatal(err)
	}
	names := append([]string{}, reasons...)
	for _, r := range []*refusal{refuseClientID, refuseMismatch, refuseMethod, refuseNameless, refuseKept, refuseTurn, refuseWill, refuseRate, refuseLogin, refuseRights, refuseLater} {
		names = append(names, r.result)
		if code := fmt.Sprintf("0x%02x", byte(r.code)); !strings.Contains(string(b), code) {
			t.Errorf("docs/mqtt.md does not name %s", code)
		}
	}
	for _, n := range names {
		if !strings.Contains(string(b), "`"+n+"`") {
			t.Errorf("docs/mqtt.md does not name %s", n)
		}
	}
	for _, e := range []*ending{endClient, endWithWill, endGone, endWrite, endKeepAlive, endTakenOver, endShutdown, endTooLarge,
		endTopic, endAlias, endAliasBytes, endAliasUnset, endReceive, endBusy, endQuota, endSink, endPanic, endProtocol} {
		if !strings.Contains(strings.Join(reasons, " "), e.reason) {
			t.Errorf("reason %s is not listed", e.reason)
		}
		if code := e.code.String(); e.tell && !strings.Contains(string(b), code) {
			t.Errorf("docs/mqtt.md does not name %s", code)
		}
	}
}

// What one hostile packet made large does not stay in the pool.
func TestGroup_gives_large_memory_back(t *testing.T) {
	s := &Server{}
	g := &group{out: make([]byte, 0, maxKeep+1)}
	g.pub.Props.User = make([]packet.UserProperty, maxKeepUser+1)
	g.pub.Props.SubscriptionIDs = make([]uint32, maxKeepUser+1)
	s.putGroup(g)
	if g.out != nil || g.pub.Props.User != nil || g.pub.Props.SubscriptionIDs != nil {
		t.Errorf("kept %d, %d, %d", cap(g.out), cap(g.pub.Props.User), cap(g.pub.Props.SubscriptionIDs))
	}
}
