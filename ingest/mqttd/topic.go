package mqttd

import "vitalwatch/ingest/mqttd/packet"

// Topics of a device, contract section 3: vw/v1/{device}/up/… in, vw/v1/{device}/down/… out.
const (
	topicRoot = "vw/v1/"
	upPart    = "/up/"
	downPart  = "/down/"
)

// maxFormatLevel bounds each level of {format}[/{sub}].
const maxFormatLevel = 64

// validFormat reports whether s, the topic behind up/, is {format} or {format}/{sub} in letters, digits, '_', '-'
// and '.': it becomes part of quarantine records and metrics.
func validFormat(s []byte) bool {
	levels, n := 1, 0
	for _, c := range s {
		switch {
		case c == '/':
			if n == 0 || levels == 2 {
				return false
			}
			levels, n = levels+1, 0
			continue
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.':
		default:
			return false
		}
		if n++; n > maxFormatLevel {
			return false
		}
	}
	return n > 0
}

// maxTopic bounds a topic that is not the device's own, as it is kept with a message; maxAliasBytes all topic aliases
// of a connection together.
const (
	maxTopic      = 512
	maxAliasBytes = 4 << 10
)

// alias sets or uses a topic alias, section 3.3.2.3.4: p.Topic is the whole topic afterwards. Aliases end with their
// connection [MQTT-3.3.2-7]. What the topic may be is judged later, each time.
func (c *conn) alias(p *packet.Publish) *ending {
	n := int(p.Props.Num(packet.TopicAlias, 0)) // 0 was refused by the decoder [MQTT-3.3.2-8]
	if n > c.s.cfg.TopicAliasMaximum {          // [MQTT-3.3.2-9]
		return endAlias
	}
	if len(p.Topic) == 0 {
		if n > len(c.aliases) || c.aliases[n-1] == "" {
			return endAliasUnset
		}
		c.topic = append(c.topic[:0], c.aliases[n-1]...)
		p.Topic = c.topic
		return nil
	}
	for len(c.aliases) < n {
		c.aliases = append(c.aliases, "")
	}
	if string(p.Topic) == c.aliases[n-1] {
		return nil
	}
	all := len(p.Topic) - len(c.aliases[n-1])
	for _, t := range c.aliases {
		all += len(t)
	}
	if all > maxAliasBytes {
		return endAliasBytes
	}
	c.aliases[n-1] = string(p.Topic) // [MQTT-3.3.2-12]
	return nil
}

// downFilter returns what a topic filter asks for below prefix, and whether it stays there: the prefix must be
// spelled out, wildcards come behind it.
func downFilter(filter []byte, prefix string) (string, bool) {
	if len(filter) <= len(prefix) || string(filter[:len(prefix)]) != prefix || !packet.ValidFilter(filter) {
		return "", false
	}
	return string(filter[len(prefix):]), true
}

// matches reports whether a valid filter matches a topic name, section 4.7.
func matches(filter, topic string) bool {
	for {
		f, fRest, fMore := cutLevel(filter)
		if f == "#" {
			return true
		}
		t, tRest, tMore := cutLevel(topic)
		if f != "+" && f != t {
			return false
		}
		switch {
		case fMore && !tMore:
			return fRest == "#" // "a/#" also matches "a", 4.7.1.2
		case fMore != tMore:
			return false
		case !fMore:
			return true
		}
		filter, topic = fRest, tRest
	}
}

func cutLevel(s string) (level, rest string, more bool) {
	for i := range len(s) {
		if s[i] == '/' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
