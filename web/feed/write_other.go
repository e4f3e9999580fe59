//go:build !unix

package feed

func writeFD(uintptr, []byte) (int, error) { return 0, nil }

// canTryWrite is false where a socket has no write that never waits: every write gets a goroutine there.
const canTryWrite = false
