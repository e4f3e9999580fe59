//go:build unix

package mqttd

import (
	"io"
	"syscall"
)

// await waits until bytes are there, and only then takes a buffer: c.in[:c.inLen] are the bytes, with those of
// c.partial in front.
func (c *conn) await() error {
	switch {
	case c.src != nil:
		return c.awaitStream()
	case c.raw == nil:
		return c.awaitByte()
	}
	c.inErr = nil
	if err := c.raw.Read(c.try); err != nil {
		return err
	}
	return c.inErr
}

// tryRead is called by the runtime's poller with a descriptor that does not block; false means: call again when
// there is something to read.
func (c *conn) tryRead(fd uintptr) bool {
	b := c.s.buffers.Get().(*buffer)
	n := len(c.partial)
	m, err := readNow(fd, b.data[n:c.readEnd(n, len(b.data))])
	if m > 0 {
		copy(b.data, c.partial)
		c.partial, c.in, c.inLen = nil, b, n+m
		return true
	}
	c.s.buffers.Put(b)
	c.inErr = err
	return err != nil
}

// tryRead is the same for a socket.
func (s *socket) tryRead(fd uintptr) bool {
	b := s.from.Get().(*buffer)
	n, err := readNow(fd, b.data)
	if n > 0 {
		s.have(b, n)
		return true
	}
	s.from.Put(b)
	s.err = err
	return err != nil
}

// readNow reads without waiting; nothing and no error: there is nothing.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}
