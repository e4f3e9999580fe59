//go:build unix

package mqttd

import "syscall"

// reservedFiles are left to the journal, the stores, HTTP and the feed.
const reservedFiles = 1024

// fitFiles keeps MaxConnections within the file descriptors that the process may open. Go has raised the soft limit
// to the hard one at its start. Past it accept would fail, and so would the stores.
func (s *Server) fitFiles() {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return
	}
	files := int64(min(uint64(l.Cur), 1<<40))
	fit := int(max(files-reservedFiles, files/2))
	if fit >= s.cfg.MaxConnections {
		return
	}
	s.maxConns = fit
	ev := s.log.Warn()
	if s.cfg.MaxConnections == defaultMaxConnections { // nobody asked for so many
		ev = s.log.Info()
	}
	ev.Int("max_connections", s.cfg.MaxConnections).Int("connections_taken", fit).Int64("open_files_limit", files).
		Msg("mqtt takes fewer connections than configured, because the process may not open more files; raise its limit (LimitNOFILE, ulimit -n) or lower max_connections")
}
