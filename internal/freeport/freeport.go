// Package freeport finds ports for servers that are told theirs in advance, such as a child process that is killed and
// started again. It holds no port: between the answer and the server's start another process may take it.
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
const (
	first = 20_000
	last  = 32_000
)

var (
	mu    sync.Mutex
	given = map[int]bool{} // by this process
)

// Loopback returns "127.0.0.1:port" with a port on which nobody listens.
func Loopback() (string, error) {
	mu.Lock()
	defer mu.Unlock()
	err := errors.New("all were given already")
	start := rand.IntN(last - first)
	for i := range last - first {
		port := first + (start+i)%(last-first)
		if given[port] {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			given[port] = true
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("no free port from %d to %d: %w", first, last, err)
}
