//go:build unix

package feed

import "syscall"

// writeFD writes what the socket takes at once. Taking nothing is not an error.
func writeFD(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), b)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return 0, nil
		default:
			return 0, err
		}
	}
}

const canTryWrite = true
