package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

// sockets are the server's listening sockets. They may come from a supervisor (systemd socket activation), and outlive
// a restart in place, so that a device that connects meanwhile waits in the kernel instead of being refused.
type sockets struct {
	log zerolog.Logger

	mu        sync.Mutex
	inherited []inherited
	kept      []kept
}

// inherited is a socket that was open when the process started.
type inherited struct {
	name string // "" when its giver named none of ours
	addr string // as configured, when it is handed over by ourselves
	l    net.Listener
}

// kept is a socket to hand over.
type kept struct {
	name, addr string
	file       *os.File
}

// Environment of a process that gets sockets. Ours says name=address=descriptor, separated by spaces.
const (
	envSockets = "VITALWATCH_HANDOVER"
	firstFD    = 3 // sd_listen_fds(3)
)

// takeSockets finds the sockets that the process was given, and forgets the variables, which are not for its children.
func takeSockets(log zerolog.Logger) *sockets {
	s := &sockets{log: log}
	for _, entry := range strings.Fields(os.Getenv(envSockets)) {
		parts := strings.Split(entry, "=")
		if len(parts) != 3 {
			continue
		}
		if fd, err := strconv.Atoi(parts[2]); err == nil {
			s.inherit(fd, parts[0], parts[1])
		}
	}
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err == nil && pid == os.Getpid() {
		n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
		names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
		for i := range n {
			name := ""
			if i < len(names) {
				name = names[i]
			}
			s.inherit(firstFD+i, name, "")
		}
	}
	for _, v := range []string{envSockets, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(v)
	}
	return s
}

func (s *sockets) inherit(fd int, name, addr string) {
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		s.log.Warn().Err(err).Int("fd", fd).Str("name", name).Msg("what was handed over is not a listening socket and is not used")
		return
	}
	s.inherited = append(s.inherited, inherited{name, addr, l})
}

// listen returns the socket that was handed over under this name, or for this address, or a new one. A supervisor's
// socket decides the address; one of our own counts only while the configured address is the same.
func (s *sockets) listen(name, addr string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.find(name, addr)
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", addr); err != nil {
			return nil, err
		}
	} else if l.Addr().String() != addr {
		s.log.Info().Str("listener", name).Str("address", l.Addr().String()).Msg("listening where the socket that was handed over does")
	}
	if fl, ok := l.(*net.TCPListener); ok {
		f, err := fl.File()
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("keep a socket for a restart: %w", err)
		}
		s.kept = append(s.kept, kept{name, addr, f})
	}
	return l, nil
}

func (s *sockets) find(name, addr string) net.Listener {
	_, port, _ := net.SplitHostPort(addr)
	for _, match := range []func(inherited) bool{
		func(i inherited) bool { return i.name == name && (i.addr == "" || i.addr == addr) },
		func(i inherited) bool { // named by nobody: the same port
			_, p, err := net.SplitHostPort(i.l.Addr().String())
			return err == nil && i.addr == "" && p == port && !strings.HasPrefix(i.name, "mqtt-") && i.name != "http"
		},
	} {
		for k, i := range s.inherited {
			if match(i) {
				s.inherited = append(s.inherited[:k:k], s.inherited[k+1:]...)
				return i.l
			}
		}
	}
	return nil
}

// started closes what was handed over and is not used: a listening socket that nobody accepts from would only make
// clients wait.
func (s *sockets) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.inherited {
		s.log.Warn().Str("name", i.name).Str("address", i.l.Addr().String()).Msg("a socket that was handed over is not used and closed")
		i.l.Close()
	}
	s.inherited = nil
}

// close closes the descriptors kept for a restart; the sockets are closed for good with them.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		k.file.Close()
	}
	s.kept = nil
}
