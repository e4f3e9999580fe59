package web

// Degraded is what a Check returns when something waits that does not keep the server from its work: /readyz?verbose
// shows it, and the server is ready.
type Degraded string

func (d Degraded) Error() string { return string(d) }
