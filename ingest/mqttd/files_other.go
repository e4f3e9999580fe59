//go:build !unix

package mqttd

func (s *Server) fitFiles() {}
