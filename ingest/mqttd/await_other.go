//go:build !unix

package mqttd

// await waits until bytes are there, and only then takes a buffer.
func (c *conn) await() error {
	if c.src != nil {
		return c.awaitStream()
	}
	return c.awaitByte()
}

func (c *conn) tryRead(uintptr) bool { return true }

func (s *socket) tryRead(uintptr) bool { return true }
