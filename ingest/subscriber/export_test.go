package subscriber

import "time"

// SetRetry replaces the pauses between attempts.
func (s *Subscriber) SetRetry(f func(attempt int) time.Duration) { s.retry = f }

// OnState is told each change of readiness.
func (s *Subscriber) OnState(f func(error)) { s.onState = f }

var (
	ParseTopic  = parseTopic
	ValidFilter = validFilter
	Backoff     = backoff
)
