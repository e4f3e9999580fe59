//go:build !unix

package main

import (
	"errors"
	"syscall"
)

// There are no such signals here: they never come.
const (
	reloadSignal  = syscall.Signal(-1)
	restartSignal = syscall.Signal(-2)
)

func (s *sockets) ready(string) error { return errors.ErrUnsupported }

func (s *sockets) restart() error { return errors.ErrUnsupported }
