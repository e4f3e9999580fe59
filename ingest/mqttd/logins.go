package mqttd

import (
	"net/netip"
	"sync"
	"time"
)

// logins holds failed logins per address and per name, see loginName. After tries failures the address or name must
// wait: refill, then twice that, up to longest. A failure is forgotten every refill.
//
// A name that is being guessed does not shut out its device: from an address at which the name has logged in before,
// only the address counts. So a stranger elsewhere can delay a device only at an address that is new to it.
//
// All in memory and bounded: an attacker with more addresses or names than maxLogins makes us forget some of them.
type logins struct {
	tries   float64
	refill  time.Duration
	longest time.Duration

	mu        sync.Mutex
	addresses map[netip.Addr]failures
	names     map[string]failures
	usual     map[string]netip.Addr // where a name was last let in
}

// failures of one address or name.
type failures struct {
	level  float64   // at the time at
	at     time.Time // may be ahead: nothing is forgotten while one waits
	until  time.Time // no attempt before
	strike int       // waits in a row
}

const maxLogins = 10_000

// maxUsual bounds what is known of addresses that names come from; about 100 B each.
const maxUsual = 200_000

func newLogins(cfg *Config) *logins {
	return &logins{tries: float64(cfg.LoginFailures), refill: cfg.LoginRefill, longest: cfg.LoginBackoff,
		addresses: map[netip.Addr]failures{}, names: map[string]failures{}, usual: map[string]netip.Addr{}}
}

// verdict says what an attempt must wait for.
type verdict int

const (
	mayTry verdict = iota
	addressWaits
	nameWaits
)

// allowed judges an attempt. The zero address is exempt: see Config.LimitLoopback.
func (l *logins) allowed(a netip.Addr, name string, now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.IsValid() && now.Before(l.addresses[a].until) {
		return addressWaits
	}
	if now.Before(l.names[name].until) && !l.knows(name, a) {
		return nameWaits
	}
	return mayTry
}

func (l *logins) knows(name string, a netip.Addr) bool {
	usual, ok := l.usual[name]
	return ok && usual == a
}

// failed counts an attempt that was refused. One at the name's usual address is not held against the name.
func (l *logins) failed(a netip.Addr, name string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.IsValid() {
		fail(l, l.addresses, a, now)
	}
	if name != "" && !l.knows(name, a) {
		fail(l, l.names, name, now)
	}
}

// succeeded remembers where the name is at home.
func (l *logins) succeeded(a netip.Addr, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" {
		return
	}
	if _, ok := l.usual[name]; !ok && len(l.usual) >= maxUsual {
		for k := range l.usual { // any: the order of maps is random
			delete(l.usual, k)
			break
		}
	}
	l.usual[name] = a
}

func (l *logins) decayed(f failures, now time.Time) failures {
	if gone := now.Sub(f.at); gone > 0 {
		f.level, f.at = max(0, f.level-float64(gone)/float64(l.refill)), now
	}
	if f.level == 0 {
		f.strike = 0
	}
	return f
}

func fail[K comparable](l *logins, m map[K]failures, k K, now time.Time) {
	f, ok := m[k]
	if !ok && len(m) >= maxLogins {
		// Look at a few, in the map's random order: forget those that are whole again, and one in any case. Not at
		// all of them: that would be the attacker's lever.
		n := 0
		for old, g := range m {
			if n == 0 || l.decayed(g, now).level == 0 {
				delete(m, old)
			}
			if n++; n == 16 {
				break
			}
		}
	}
	if !ok {
		f.at = now
	}
	f = l.decayed(f, now)
	f.level = min(l.tries, f.level+1)
	if f.level > l.tries-1 {
		wait := l.longest
		if f.strike < 30 {
			wait = min(wait, l.refill<<f.strike)
		}
		f.strike++
		f.until = now.Add(wait)
		f.at = f.until
	}
	m[k] = f
}

// addressKey is what limits per address count: an IPv4 address or an IPv6 /64, which one customer has whole.
func addressKey(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}
