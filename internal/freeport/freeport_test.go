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

// only leaves some ports to be given, until the test ends.
func only(t *testing.T, ports ...int) {
	t.Helper()
	mu.Lock()
	was := given
	given = map[int]net.Listener{}
	for p := first; p < last; p++ {
		given[p] = nil
	}
	for _, p := range ports {
		delete(given, p)
	}
	mu.Unlock()
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range given {
			if l != nil {
				l.Close()
			}
		}
		given = was
	})
}

// What is in use is not given, and neither is what another process has given: its counterpart is in use.
func TestLoopback_in_use(t *testing.T) {
	only(t, first, first+1)
	for _, port := range []int{first, first + 1 + claim} {
		if l, err := listen(port); err == nil { // else somebody else has it, which is as good
			defer l.Close()
		}
	}
	if addr, err := Loopback(); err == nil {
		t.Errorf("got %s", addr)
	}
}

// What is given is claimed until the process ends.
func TestLoopback_claims(t *testing.T) {
	addr, err := Loopback()
	if err != nil {
		t.Fatal(err)
	}
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := listen(a.Port + claim); err == nil {
		l.Close()
		t.Errorf("another process may give %s as well", addr)
	}
}
