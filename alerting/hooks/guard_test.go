package hooks

import (
	"net/netip"
	"testing"
)

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		addr                 string
		without, withPrivate bool // refused
	}{
		{"127.0.0.1", true, false}, {"127.255.255.255", true, false}, {"::1", true, false},
		{"::ffff:127.0.0.1", true, false}, {"::ffff:10.1.2.3", true, false}, {"::ffff:169.254.169.254", true, true},
		{"10.0.0.1", true, false}, {"172.16.0.1", true, false}, {"172.31.255.255", true, false}, {"192.168.0.1", true, false},
		{"172.32.0.1", false, false}, {"fc00::1", true, false}, {"fdff::1", true, false},
		{"100.64.0.1", true, false}, {"100.127.255.255", true, false}, {"100.128.0.1", false, false},
		{"169.254.1.1", true, true}, {"169.254.169.254", true, true}, {"fe80::1", true, true}, {"fe80::1%eth0", true, true}, {"fec0::1", true, true},
		{"100.100.100.200", true, true}, {"168.63.129.16", true, true}, {"fd00:ec2::254", true, true},
		{"0.0.0.0", true, true}, {"0.1.2.3", true, true}, {"::", true, true},
		{"224.0.0.1", true, true}, {"239.255.255.255", true, true}, {"ff02::1", true, true}, {"255.255.255.255", true, true}, {"240.0.0.1", true, true},
		{"192.0.0.8", true, true}, {"198.18.0.1", true, true}, {"203.0.113.7", true, true}, {"192.88.99.1", true, true},
		{"64:ff9b::7f00:1", true, true}, {"64:ff9b:1::1", true, true}, {"2002:7f00:1::", true, true}, {"2001:0:1::1", true, true},
		{"::7f00:1", true, true}, {"100::1", true, true}, {"2001:db8::1", true, true}, {"4000::1", true, true},
		{"1.1.1.1", false, false}, {"223.5.5.5", false, false}, {"2606:4700:4700::1111", false, false}, {"2400:3200::1", false, false},
	} {
		ip := netip.MustParseAddr(c.addr)
		if got := forbidden(ip, false) != ""; got != c.without {
			t.Errorf("%s refused = %v, want %v", c.addr, got, c.without)
		}
		if got := forbidden(ip, true) != ""; got != c.withPrivate {
			t.Errorf("%s with allow_private refused = %v, want %v", c.addr, got, c.withPrivate)
		}
		if !ip.Is4() {
			continue
		}
		// The same address dressed up as IPv6 must not be treated better.
		if mapped := netip.AddrFrom16(ip.As16()); (forbidden(mapped, false) != "") != c.without {
			t.Errorf("%s mapped into IPv6 refused = %v, want %v", c.addr, !c.without, c.without)
		}
	}
}

// FuzzGuard holds that nothing is permitted that the standard library calls anything but a global unicast address.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "[::ffff:7f00:1]:443", "1.1.1.1:443", "[fe80::1%1]:443", "x", "[2400:3200::1]:443"} {
		f.Add(s)
	}
	g := guard(false)
	f.Fuzz(func(t *testing.T, addr string) {
		for _, network := range []string{"tcp4", "tcp6", "tcp", "udp4", "unix"} {
			if g(network, addr, nil) != nil {
				continue
			}
			ap, err := netip.ParseAddrPort(addr)
			if err != nil {
				t.Fatalf("permitted %q, which is no address", addr)
			}
			ip := ap.Addr().Unmap()
			if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || network != "tcp4" && network != "tcp6" {
				t.Fatalf("permitted %s %s", network, addr)
			}
		}
	})
}
