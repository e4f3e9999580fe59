package mqttd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The PROXY protocol, version 2: haproxy.org, doc/proxy-protocol.txt, section 2.2.

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyFixed     = 16
	// maxProxyBytes bounds what follows the fixed part: addresses and TLVs. Unix addresses need 216 bytes, the TLVs
	// of the large load balancers less than 500.
	maxProxyBytes = 2048
)

var errProxy = errors.New("PROXY protocol v2 header")

// readProxy reads the header that a trusted load balancer sends first, and not a byte more. It returns the client's
// address, zero when the balancer speaks for itself (LOCAL, health checks) or for a family that has none.
func readProxy(r io.Reader) (netip.AddrPort, error) {
	var head [proxyFixed]byte
	// The signature's beginning is compared first, so that a client without a header is found out by its first bytes
	// and not by the timeout: MQTT's CONNECT may be shorter than 16 bytes.
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return netip.AddrPort{}, err
	}
	if string(head[:2]) != proxySignature[:2] {
		return netip.AddrPort{}, fmt.Errorf("%w is missing", errProxy)
	}
	if _, err := io.ReadFull(r, head[2:]); err != nil {
		return netip.AddrPort{}, err
	}
	if !bytes.Equal(head[:12], []byte(proxySignature)) {
		return netip.AddrPort{}, fmt.Errorf("%w is missing", errProxy)
	}
	n := int(binary.BigEndian.Uint16(head[14:]))
	if n > maxProxyBytes {
		return netip.AddrPort{}, fmt.Errorf("%w has %d bytes; at most %d are read", errProxy, n, maxProxyBytes)
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, err
	}
	return parseProxy(head[12], head[13], rest)
}

// parseProxy reads version and command, family and transport, and what follows; TLVs behind the addresses are skipped.
func parseProxy(command, family byte, rest []byte) (netip.AddrPort, error) {
	switch {
	case command>>4 != 2:
		return netip.AddrPort{}, fmt.Errorf("%w has version %d", errProxy, command>>4)
	case command&0xf == 0: // LOCAL: addresses, if any, are to be skipped
		return netip.AddrPort{}, nil
	case command&0xf != 1:
		return netip.AddrPort{}, fmt.Errorf("%w has command %d", errProxy, command&0xf)
	}
	size := 0
	switch family {
	case 0x11: // TCP over IPv4
		size = 4
	case 0x21: // TCP over IPv6
		size = 16
	case 0x00, 0x31: // unspecified, Unix stream: no address of a client; the real one counts
		return netip.AddrPort{}, nil
	default: // datagrams and what is not defined
		return netip.AddrPort{}, fmt.Errorf("%w has family and transport %#02x", errProxy, family)
	}
	if len(rest) < 2*size+4 {
		return netip.AddrPort{}, fmt.Errorf("%w is too short for its family", errProxy)
	}
	addr, _ := netip.AddrFromSlice(rest[:size])
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(rest[2*size:])), nil
}
