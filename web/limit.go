package web

import (
	"sync"
	"time"
)

// limiter is a token bucket per key, bounded in keys. It guards the login: unlike a lock-out it slows an attacker
// without shutting the owner of the account out for good.
type limiter struct {
	every time.Duration // one token
	burst float64
	max   int // keys

	mu   sync.Mutex
	keys map[string]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(every time.Duration, burst, max int) *limiter {
	return &limiter{every: every, burst: float64(burst), max: max, keys: map[string]*bucket{}}
}

// take takes a token of key; wait is how long until there is one when ok is false.
func (l *limiter) take(key string, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.keys[key]
	if b == nil {
		if len(l.keys) >= l.max {
			l.sweep(now)
		}
		if len(l.keys) >= l.max {
			return l.every, false // so many keys at once are an attack: nobody new until some are full again
		}
		b = &bucket{l.burst, now}
		l.keys[key] = b
	}
	b.tokens = min(l.burst, b.tokens+now.Sub(b.at).Seconds()/l.every.Seconds())
	b.at = now
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) * float64(l.every)), false
	}
	b.tokens--
	return 0, true
}

// forgive gives key its tokens back, after a success.
func (l *limiter) forgive(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}

// sweep forgets buckets that are full again; mu is held.
func (l *limiter) sweep(now time.Time) {
	for k, b := range l.keys {
		if b.tokens+now.Sub(b.at).Seconds()/l.every.Seconds() >= l.burst {
			delete(l.keys, k)
		}
	}
}
