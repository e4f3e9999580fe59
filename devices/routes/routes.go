// Package routes owns the table that says what foreign MQTT topics mean: which format, and where device and gateway
// stand in the topic or the payload. Our own layout, vw/v1/{device}/up/{format}, needs no route. It owns no connection
// and no rights: who may speak for whom is asked of the caller.
//
// Concurrency: a Table does not change after New and may be used by any number of goroutines. Match of a topic that was
// seen before takes no lock and allocates nothing.
package routes

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// Config is one entry of routes: in the configuration.
type Config struct {
	// Topic is an MQTT filter in which {device}, {gateway} and {format} may stand for a level.
	Topic string `yaml:"topic"`
	// Format is what is published there: "theengs", "homeassistant/heart_rate", a mapping's name. Not with {format}.
	Format string `yaml:"format"`
	// DevicePath is where the payload, JSON, has the device when the topic has no {device}: names with dots between.
	DevicePath string `yaml:"device_path"`
	// ItemsPath is where the payload has a list of items of which each names its device: DevicePath starts from the item.
	// "." stands for the payload itself.
	ItemsPath string `yaml:"items_path"`
	// DevicePrefix goes in front of what topic or payload call the device, and makes it one of ours.
	DevicePrefix string `yaml:"device_prefix"`
}

// ownRoot is the root of our own layout.
const ownRoot = "vw/v1/"

// level of a filter.
type level struct {
	kind kind
	text string // of a literal
}

type kind uint8

const (
	isLiteral kind = iota
	isAny          // "+"
	isRest         // "#"
	isDevice
	isGateway
	isFormat
)

type route struct {
	levels []level
	filter string // as brokers know it
	format string // "" with {format}
	path   []string
	prefix string
	split  bool     // each item of the payload names its device
	items  []string // where they are, with split
}

// Table is a checked list of routes; the first that matches a topic counts.
type Table struct {
	routes []route
	cache  cache
}

// Error is a mistake in one route.
type Error struct {
	Route   int    // place in the list
	Key     string // of Config as in YAML, "" for the route as a whole
	Message string
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("routes.%d: %s", e.Route, e.Message)
	}
	return fmt.Sprintf("routes.%d.%s: %s", e.Route, e.Key, e.Message)
}

// New checks the routes; ms are the mappings whose formats they may name beside the built-in ones. The error joins an
// *Error for every mistake.
func New(cs []Config, ms []*payload.Mapping) (*Table, error) {
	t := new(Table)
	var errs []error
	seen := map[string]int{}
	for i, c := range cs {
		bad := func(key, format string, args ...any) {
			errs = append(errs, &Error{i, key, fmt.Sprintf(format, args...)})
		}
		r := c.compile(ms, bad)
		if other, dup := seen[r.filter]; dup {
			bad("topic", "is never reached: route %d matches the same topics", other)
		}
		seen[r.filter] = i
		t.routes = append(t.routes, r)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

func (c *Config) compile(ms []*payload.Mapping, bad func(key, format string, args ...any)) (r route) {
	r.format, r.prefix = c.Format, c.DevicePrefix
	count := map[kind]int{}
	parts := strings.Split(c.Topic, "/")
	plain := make([]string, len(parts))
	for i, p := range parts {
		l := level{text: p}
		switch {
		case p == "+":
			l.kind = isAny
		case p == "#":
			l.kind = isRest
			if i < len(parts)-1 {
				bad("topic", "# stands at the end only")
			}
		case p == "{device}":
			l.kind = isDevice
		case p == "{gateway}":
			l.kind = isGateway
		case p == "{format}":
			l.kind = isFormat
		case strings.ContainsAny(p, "+#{}"):
			bad("topic", "%q: +, #, {device}, {gateway} and {format} stand for whole levels", p)
		case strings.ContainsRune(p, 0):
			bad("topic", "has a NUL character")
		}
		count[l.kind]++
		plain[i] = p
		if l.kind > isRest {
			plain[i] = "+"
		}
		r.levels = append(r.levels, l)
	}
	r.filter = strings.Join(plain, "/")
	switch {
	case c.Topic == "":
		bad("topic", "is missing; write a filter such as home/{gateway}/BTtoMQTT/{device}")
	case len(c.Topic) > 1024:
		bad("topic", "is longer than 1024 bytes")
	case strings.HasPrefix(c.Topic, ownRoot) || strings.HasPrefix(c.Topic, "$share/"):
		bad("topic", "our own layout needs no route, and shares are set in mqtt.external.topics")
	}
	for _, name := range []string{"{device}", "{gateway}", "{format}"} {
		if strings.Count(c.Topic, name) > 1 {
			bad("topic", "has %s more than once", name)
		}
	}
	if c.DevicePath != "" {
		r.path = strings.Split(c.DevicePath, ".")
		for _, p := range r.path {
			if p == "" {
				bad("device_path", "%q is not a path; write names and list indexes with dots between them, such as data.mac", c.DevicePath)
				break
			}
		}
	}
	if c.ItemsPath != "" {
		r.split = true
		if c.ItemsPath != "." {
			r.items = strings.Split(c.ItemsPath, ".")
		}
		if slices.Contains(r.items, "") {
			bad("items_path", "%q is not a path; write names and list indexes with dots between them, such as data.list, or . for the payload itself", c.ItemsPath)
		}
		if strings.HasPrefix(c.Format, "senml") || c.Format == "cbor" {
			bad("items_path", "%s cannot be taken apart", c.Format)
		}
		if c.DevicePath == "" {
			bad("items_path", "needs device_path: where each item has its device")
		}
	}
	if (count[isDevice] > 0) == (c.DevicePath != "") {
		bad("", "say where the device stands: {device} in topic, or device_path in the payload, one of them")
	}
	if c.DevicePrefix != "" && (!vitals.ValidID(c.DevicePrefix) || len(c.DevicePrefix) > 32) {
		bad("device_prefix", "is up to 32 of A-Z a-z 0-9 _ -")
	}
	if (count[isFormat] > 0) == (c.Format != "") {
		bad("", "say which format it is: format, or {format} in topic, one of them")
	} else if c.Format != "" {
		if err := payload.CheckFormat(c.Format, ms...); err != nil {
			bad("format", "%v", err)
		}
	}
	return r
}

// Filters lists what to subscribe to at a broker.
func (t *Table) Filters() []string {
	var out []string
	for i := range t.routes {
		out = append(out, t.routes[i].filter)
	}
	return out
}

// Match is what a topic means.
type Match struct {
	Device  vitals.DeviceID // "": the payload tells, see DeviceOf
	Gateway vitals.DeviceID // "": the topic does not tell
	Format  string

	route *route
}

// Match returns what a foreign topic means, and whether a route knows it. The topic's bytes are not kept.
func (t *Table) Match(topic []byte) (Match, bool) {
	if m, ok := t.cache.get(topic); ok {
		return m, true
	}
	for i := range t.routes {
		if m, ok := t.routes[i].match(string(topic)); ok {
			t.cache.put(string(topic), m)
			return m, true
		}
	}
	return Match{}, false
}

func (r *route) match(topic string) (Match, bool) {
	m := Match{Format: r.format, route: r}
	for i := range r.levels {
		l := &r.levels[i]
		if l.kind == isRest {
			return m, true
		}
		part, after, more := strings.Cut(topic, "/")
		var ok bool
		switch l.kind {
		case isLiteral:
			ok = part == l.text
		case isAny:
			ok = true
		case isDevice:
			m.Device, ok = r.id(part)
		case isGateway:
			m.Gateway, ok = clean("", part)
		case isFormat:
			m.Format, ok = part, payload.CheckFormat(part) == nil
		}
		last := i == len(r.levels)-1
		switch {
		case !ok:
			return Match{}, false
		case more == last:
			// "a/#" also matches "a" (MQTT 4.7.1.2).
			if !more && i == len(r.levels)-2 && r.levels[i+1].kind == isRest {
				return m, true
			}
			return Match{}, false
		}
		topic = after
	}
	return m, true
}

func (r *route) id(s string) (vitals.DeviceID, bool) { return clean(r.prefix, s) }

// clean makes an id of a name. The colons of a MAC address are left out; anything else that is not of an id is no id.
func clean(prefix, s string) (vitals.DeviceID, bool) {
	id := prefix + strings.ReplaceAll(s, ":", "")
	return vitals.DeviceID(id), vitals.ValidID(id)
}

// DeviceOf returns whose message it is, by its payload when the topic does not tell and the payload is of one device.
func (m *Match) DeviceOf(message []byte) (vitals.DeviceID, error) {
	if m.Device != "" {
		return m.Device, nil
	}
	s, p := payload.TextAt(message, m.route.path)
	if p != nil {
		return "", p
	}
	id, ok := m.route.id(s)
	if s == "" || !ok {
		return "", errNoDevice
	}
	return id, nil
}

var errNoDevice = errors.New("the payload has no device id at the route's device_path")

// cache remembers topics: a base that nobody changes once it is published, and recent ones under a lock, until it is
// worth making both a new base. internal/readmostly is not used because a key of bytes would be allocated per look-up.
type cache struct {
	base atomic.Pointer[map[string]Match]

	mu     sync.Mutex
	recent map[string]Match
	misses int // put calls since the last base
}

// maxCached bounds the cache: who makes up topics does not fill the memory.
const maxCached = 1 << 16

func (c *cache) get(topic []byte) (Match, bool) {
	b := c.base.Load()
	if b == nil {
		return Match{}, false
	}
	m, ok := (*b)[string(topic)]
	return m, ok
}

func (c *cache) put(topic string, m Match) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var base map[string]Match
	if b := c.base.Load(); b != nil {
		base = *b
	}
	if len(base) >= maxCached {
		return
	}
	if c.recent == nil {
		c.recent = map[string]Match{}
	}
	c.recent[topic] = m
	if c.misses++; c.misses < max(16, len(base)/4) {
		return
	}
	next := make(map[string]Match, len(base)+len(c.recent))
	for k, v := range base {
		next[k] = v
	}
	for k, v := range c.recent {
		next[k] = v
	}
	c.base.Store(&next)
	c.recent, c.misses = nil, 0
}
