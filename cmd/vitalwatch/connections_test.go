package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

func TestAtMost(t *testing.T) {
	gone := make(chan struct{}, 16)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	bound := atMost(2)
	s.Config.ConnState = func(c net.Conn, st http.ConnState) {
		bound(c, st)
		if st == http.StateClosed {
			gone <- struct{}{}
		}
	}
	s.Start()
	defer s.Close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	answers := func(c net.Conn) bool {
		t.Helper()
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err := c.Read(make([]byte, 1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("neither an answer nor an end")
		}
		return err == nil
	}
	a, b := dial(), dial()
	if !answers(a) || !answers(b) {
		t.Fatal("a connection within the bound was closed")
	}
	if answers(dial()) {
		t.Error("a connection beyond the bound was served")
	}
	<-gone
	a.Close()
	<-gone
	if !answers(dial()) || !answers(b) {
		t.Error("room that became free was not given")
	}
}
