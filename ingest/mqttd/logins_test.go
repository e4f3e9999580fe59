package mqttd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func testLogins(tries int) *logins {
	cfg := DefaultConfig()
	cfg.LoginFailures, cfg.LoginRefill, cfg.LoginBackoff = tries, 10*time.Second, 3*time.Minute
	return newLogins(&cfg)
}

// The waits double up to the longest, and are forgotten with time.
func TestLogins_back_off_grows_and_ends(t *testing.T) {
	now := time.Unix(1_795_000_000, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	l := testLogins(3)
	for i := range 3 {
		if v := l.allowed(a, fmt.Sprint(i), now); v != mayTry {
			t.Fatalf("try %d: %v", i, v)
		}
		l.failed(a, fmt.Sprint(i), now)
	}
	for _, wait := range []time.Duration{10, 20, 40, 80, 160, 180, 180} {
		wait *= time.Second
		if l.allowed(a, "x", now) != addressWaits || l.allowed(a, "x", now.Add(wait-1)) != addressWaits || l.allowed(b, "x", now) != mayTry {
			t.Errorf("does not wait %v, or the wrong one does", wait)
		}
		now = now.Add(wait)
		if l.allowed(a, "x", now) != mayTry {
			t.Errorf("waits more than %v", wait)
		}
		l.failed(a, fmt.Sprint("n", wait, now), now)
	}
	now = now.Add(time.Hour)
	for i := range 2 {
		l.failed(a, fmt.Sprint("later", i), now)
	}
	if l.allowed(a, "x", now) != mayTry {
		t.Error("never forgiven")
	}
}

// Guesses at a device's name slow the guesser down, from however many addresses, and not the device at home.
func TestLogins_name_under_attack(t *testing.T) {
	now := time.Unix(1_795_000_000, 0)
	home, abroad := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.77")
	l := testLogins(10)
	l.succeeded(home, "D-1")
	guesses := 0
	for i := range 1000 {
		from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if l.allowed(from, "D-1", now) == mayTry {
			guesses++
			l.failed(from, "D-1", now)
		}
	}
	if guesses != 10 {
		t.Errorf("%d guesses in one instant", guesses)
	}
	if v := l.allowed(home, "D-1", now); v != mayTry {
		t.Errorf("the device is locked out at home: %v", v)
	}
	if v := l.allowed(abroad, "D-1", now); v != nameWaits {
		t.Errorf("at a new address: %v", v)
	}
	if v := l.allowed(abroad, "D-2", now); v != mayTry {
		t.Errorf("another device: %v", v)
	}
	// At home a wrong secret counts for the address alone.
	for range 10 {
		l.failed(home, "D-3", now)
		l.failed(home, "D-1", now)
	}
	if v := l.allowed(home, "D-1", now); v != addressWaits {
		t.Errorf("guessing at home: %v", v)
	}
	// Where addresses are not counted (loopback) the name still is.
	l = testLogins(10)
	for range 10 {
		l.failed(netip.Addr{}, "D-1", now)
	}
	if v := l.allowed(netip.Addr{}, "D-1", now); v != nameWaits {
		t.Errorf("behind a proxy: %v", v)
	}
}

func TestLogins_bounded(t *testing.T) {
	now := time.Unix(1_795_000_000, 0)
	l := testLogins(3)
	for i := range 3 * maxLogins {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		l.failed(a, fmt.Sprint(i), now)
	}
	for i := range maxUsual + 1000 {
		l.succeeded(netip.Addr{}, fmt.Sprint(i))
	}
	if len(l.addresses) > maxLogins || len(l.names) > maxLogins || len(l.usual) > maxUsual {
		t.Errorf("%d addresses, %d names, %d homes kept", len(l.addresses), len(l.names), len(l.usual))
	}
}

// What no device can be called is not kept: a user name may have 8 KiB, and a stranger has many.
func TestLogins_keep_no_impossible_names(t *testing.T) {
	l := testLogins(1)
	now := time.Unix(1_795_000_000, 0)
	for _, tc := range []struct{ client, user, want string }{
		{"D-1", "", "D-1"}, {"D-1", "D-2", "D-2"}, {"", "D-2", "D-2"}, {"D-1", strings.Repeat("x", 8000), ""},
		{strings.Repeat("x", 8000), "", ""}, {"D-1", "a b", ""},
	} {
		name := loginName(&Login{ClientID: tc.client, Username: tc.user})
		if name != tc.want {
			t.Errorf("%.20q %.20q: %.20q, want %q", tc.client, tc.user, name, tc.want)
		}
		l.failed(netip.Addr{}, name, now)
	}
	l.succeeded(netip.Addr{}, "")
	if len(l.names) != 2 || len(l.usual) != 0 {
		t.Errorf("%d names, %d usual addresses kept", len(l.names), len(l.usual))
	}
}
