//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Signals besides those that stop: one reloads what changed on disk, one restarts in place.
const (
	reloadSignal  = syscall.SIGHUP
	restartSignal = syscall.SIGUSR2
)

// ready checks that the program on disk, which may be a new one, understands the configuration: a server that would
// not come up again is not stopped.
func (s *sockets) ready(config string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"check"}
	if config != "" {
		args = append(args, "-c", config)
	}
	if out, err := exec.Command(exe, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("not restarted, because the check before it fails: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// restart puts the program on disk in the place of this one: same process id, same sockets. It returns only when it
// fails.
func (s *sockets) restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	var entries []string
	for _, k := range s.kept {
		fd, err := syscall.Dup(int(k.file.Fd())) // without close-on-exec
		if err != nil {
			return fmt.Errorf("hand over a socket: %w", err)
		}
		entries = append(entries, fmt.Sprintf("%s=%s=%d", k.name, k.addr, fd))
	}
	env := append(os.Environ(), envSockets+"="+strings.Join(entries, " "))
	return errors.Join(errors.New("restart in place"), syscall.Exec(exe, os.Args, env))
}
