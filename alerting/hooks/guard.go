package hooks

import (
	"net/netip"
	"syscall"
)

// A hook's address comes from a configuration, but what its name resolves to does not: a name may point, today or
// from the second look-up on, at this machine, the operator's network or a cloud's metadata service. So the address
// that is about to be connected to is checked, in the dialer's Control, after the last resolution.

type block struct {
	prefix netip.Prefix
	what   string
	// own marks addresses of the operator's own network, which allow_private permits.
	own bool
}

func blocks(what string, own bool, prefixes ...string) []block {
	out := make([]block, len(prefixes))
	for i, p := range prefixes {
		out[i] = block{netip.MustParsePrefix(p), what, own}
	}
	return out
}

// notGlobal are the address blocks that are not the public internet, from the IANA IPv4 and IPv6 Special-Purpose
// Address Registries. IPv6 outside 2000::/3 is refused as a whole, except what allow_private permits.
var notGlobal = concat(
	// The metadata addresses of clouds stay refused with allow_private: they give credentials to whoever asks.
	// 169.254.169.254 is link-local; 100.100.100.200 is Alibaba Cloud's, 168.63.129.16 Azure's, fd00:ec2::254 AWS's.
	blocks("a cloud metadata", false, "100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::254/128", "fd20:ce::254/128"),
	blocks("a loopback", true, "127.0.0.0/8", "::1/128"),
	blocks("a private", true, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"), // RFC 1918, RFC 4193
	blocks("a carrier-grade NAT", true, "100.64.0.0/10"),                                   // RFC 6598
	blocks("a link-local", false, "169.254.0.0/16", "fe80::/10", "fec0::/10"),
	blocks("an unspecified", false, "0.0.0.0/8", "::/128"),
	blocks("a multicast", false, "224.0.0.0/4", "ff00::/8"),
	blocks("a reserved", false, "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "100::/64", "2001:db8::/32", "3fff::/20", "2001:10::/28", "2001:20::/28", "5f00::/16"),
	// These carry an IPv4 address that a translator or tunnel would connect to: NAT64, 6to4, Teredo.
	blocks("a translated", false, "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"),
)

func concat(lists ...[]block) (out []block) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

var globalIPv6 = netip.MustParsePrefix("2000::/3")

// forbidden says what kind of address it is that must not be connected to, "" when it may be.
func forbidden(ip netip.Addr, allowPrivate bool) string {
	ip = ip.Unmap().WithZone("") // ::ffff:127.0.0.1 is 127.0.0.1
	for _, b := range notGlobal {
		if b.prefix.Contains(ip) {
			if b.own && allowPrivate {
				return ""
			}
			return b.what
		}
	}
	if ip.Is6() && !globalIPv6.Contains(ip) {
		return "a reserved"
	}
	return ""
}

// errForbidden is a connection that the guard refused.
type errForbidden struct{}

func (errForbidden) Error() string { return "the address is not allowed" }

// guard is a net.Dialer.Control: it sees each address that is about to be connected to.
func guard(allowPrivate bool) func(network, address string, _ syscall.RawConn) error {
	return func(network, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || (network != "tcp4" && network != "tcp6") || forbidden(ap.Addr(), allowPrivate) != "" {
			return errForbidden{}
		}
		return nil
	}
}
