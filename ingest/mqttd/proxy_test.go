package mqttd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
)

// proxyHeader makes a header as section 2.2 has it.
func proxyHeader(command, family byte, rest []byte) []byte {
	b := append([]byte(proxySignature), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rest)))
	return append(b, rest...)
}

func TestReadProxy(t *testing.T) {
	v4 := []byte{192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x07, 0x5b}
	v6 := append(append(netip.MustParseAddr("2001:db8::7").AsSlice(), netip.MustParseAddr("2001:db8::1").AsSlice()...), 0xc3, 0x50, 0x07, 0x5b)
	mapped := append(append(netip.MustParseAddr("::ffff:192.0.2.7").AsSlice(), netip.MustParseAddr("::ffff:192.0.2.8").AsSlice()...), 0, 1, 0, 2)
	tlv := append([]byte{0x03, 0, 4, 1, 2, 3, 4}, append([]byte{0x20, 0, 200}, make([]byte, 200)...)...)
	for _, tc := range []struct {
		name string
		in   []byte
		want string // "": no address; "-": refused
	}{
		{"IPv4", proxyHeader(0x21, 0x11, v4), "192.0.2.7:50000"},
		{"IPv4 with TLVs", proxyHeader(0x21, 0x11, append(bytes.Clone(v4), tlv...)), "192.0.2.7:50000"},
		{"IPv6", proxyHeader(0x21, 0x21, v6), "[2001:db8::7]:50000"},
		{"IPv4 in IPv6", proxyHeader(0x21, 0x21, mapped), "192.0.2.7:1"},
		{"LOCAL", proxyHeader(0x20, 0x00, nil), ""},
		{"LOCAL with addresses", proxyHeader(0x20, 0x11, v4), ""},
		{"unspecified", proxyHeader(0x21, 0x00, nil), ""},
		{"unix", proxyHeader(0x21, 0x31, make([]byte, 216)), ""},
		{"UDP", proxyHeader(0x21, 0x12, v4), "-"},
		{"unknown family", proxyHeader(0x21, 0x41, v4), "-"},
		{"unknown command", proxyHeader(0x22, 0x11, v4), "-"},
		{"version 1 in binary", proxyHeader(0x11, 0x11, v4), "-"},
		{"short IPv4", proxyHeader(0x21, 0x11, v4[:11]), "-"},
		{"short IPv6", proxyHeader(0x21, 0x21, v6[:35]), "-"},
		{"too long", proxyHeader(0x21, 0x11, make([]byte, maxProxyBytes+1)), "-"},
		{"text version", []byte("PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883\r\n"), "-"},
		{"MQTT", []byte{0x10, 0x0c, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}, "-"},
		{"broken signature", append([]byte("\r\n\r\n\x00\r\nQUIT\r"), 0x21, 0x11, 0, 12), "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := bytes.NewReader(append(bytes.Clone(tc.in), "rest"...))
			got, err := readProxy(r)
			if tc.want == "-" {
				if !errors.Is(err, errProxy) {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			text := ""
			if got.IsValid() {
				text = got.String()
			}
			if rest, _ := io.ReadAll(r); err != nil || text != tc.want || string(rest) != "rest" {
				t.Errorf("%v, %v, and %q is left; want %s", got, err, rest, tc.want)
			}
			for cut := range tc.in { // a header that ends early is an error, wherever
				if _, err := readProxy(bytes.NewReader(tc.in[:cut])); err == nil {
					t.Errorf("cut at %d was taken", cut)
				}
			}
		})
	}
}

// Whatever comes: an error, or no more read than the header says, and an address that is one.
func FuzzReadProxy(f *testing.F) {
	f.Add(proxyHeader(0x21, 0x11, make([]byte, 12)))
	f.Add(proxyHeader(0x21, 0x21, make([]byte, 40)))
	f.Add(proxyHeader(0x20, 0x00, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		addr, err := readProxy(r)
		if err != nil {
			return
		}
		if read := len(b) - r.Len(); read != proxyFixed+int(binary.BigEndian.Uint16(b[14:16])) {
			t.Errorf("read %d bytes of %x", read, b[:16])
		}
		if addr.IsValid() && addr.Addr().Is4In6() {
			t.Errorf("%v is not unmapped", addr)
		}
	})
}
