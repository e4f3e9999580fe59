package subscriber

import "time"

// A silent broker is never given up here: what ends a handshake with it is something else.
func init() { connectTimeout = time.Hour }

// SetRetry replaces the pauses between attempts.
func (s *Subscriber) SetRetry(f func(attempt int) time.Duration) { s.retry = f }

// OnState is told each change of readiness.
func (s *Subscriber) OnState(f func(error)) { s.onState = f }

var (
	ParseTopic  = parseTopic
	ValidFilter = validFilter
	Backoff     = backoff
)
