package freeport

import (
	"net"
	"testing"
)

func TestLoopback(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		addr, err := Loopback()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil || a.Port < first || a.Port >= last || !a.IP.IsLoopback() {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// What is in use is not given.
func TestLoopback_in_use(t *testing.T) {
	mu.Lock()
	was := given
	given = map[int]bool{}
	for p := first + 2; p < last; p++ { // two are left
		given[p] = true
	}
	mu.Unlock()
	defer func() { mu.Lock(); given = was; mu.Unlock() }()
	var taken []net.Listener
	for _, a := range []string{"127.0.0.1:20000", "127.0.0.1:20001"} {
		if l, err := net.Listen("tcp", a); err == nil {
			taken = append(taken, l)
		}
	}
	if addr, err := Loopback(); err == nil {
		t.Errorf("got %s", addr)
	}
	for _, l := range taken {
		l.Close()
	}
}
