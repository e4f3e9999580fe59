// Package freeport finds ports for servers that are told theirs in advance, such as a child process that is killed and
// started again. It does not hold the port itself: between the answer and the server's start, and while the server is
// down, only those who ask here leave it alone.
//
// Concurrency: Loopback may be called from any goroutine.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// The range below those from which systems give ports to whoever asks for any: a port of theirs may be given away again
// while its server is down, to a listener or to a client of that very server, which then talks to itself.
//
// The upper half tells other processes, such as the tests of another package, which ports of the lower half are given: who
// gives one listens on its counterpart as long as the process lives.
const (
	first = 20_000
	last  = 26_000
	claim = last - first // from a port to its counterpart
)

var (
	mu    sync.Mutex
	given = map[int]net.Listener{} // by this process, with what claims it
)

// Loopback returns "127.0.0.1:port" with a port on which nobody listens, and which no other call returns as long as this
// process lives.
func Loopback() (string, error) {
	mu.Lock()
	defer mu.Unlock()
	err := errors.New("all were given already")
	start := rand.IntN(last - first)
	for i := range last - first {
		port := first + (start+i)%(last-first)
		if _, ok := given[port]; ok {
			continue
		}
		var c, l net.Listener
		if c, err = listen(port + claim); err != nil {
			continue
		}
		if l, err = listen(port); err != nil {
			c.Close()
			continue
		}
		given[port] = c
		return l.Addr().String(), l.Close()
	}
	return "", fmt.Errorf("no free port from %d to %d: %w", first, last, err)
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}
