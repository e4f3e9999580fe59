package main

import (
	"net"
	"net/http"
	"sync/atomic"
)

// maxHTTPConnections bounds the connections that speak plain HTTP; the feed bounds those it took over. Without it one
// stranger's silent sockets could use up the process's file descriptors, which the stores need as well.
const maxHTTPConnections = 4096

// atMost returns an http.Server.ConnState that closes what comes when n connections are open.
func atMost(n int64) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			if open.Add(1) > n {
				c.Close() // the server notices and counts it off
			}
		case http.StateHijacked, http.StateClosed:
			open.Add(-1)
		}
	}
}
