package payload

import (
	"strconv"

	"vitalwatch/vitals"
)

// contextObject writes a reading's context, member by member; the zero one is empty.
type contextObject struct{ b []byte }

func (c *contextObject) key(k string) {
	if c.b == nil {
		c.b = append(make([]byte, 0, 96), '{')
	} else {
		c.b = append(c.b, ',')
	}
	c.b = append(c.b, '"')
	c.b = append(c.b, k...)
	c.b = append(c.b, '"', ':')
}

// word adds a text of ours that needs no escapes; "" adds nothing.
func (c *contextObject) word(k, v string) {
	if v != "" {
		c.key(k)
		c.b = append(c.b, '"')
		c.b = append(c.b, v...)
		c.b = append(c.b, '"')
	}
}

func (c *contextObject) number(k string, v float64) {
	c.key(k)
	c.b = vitals.AppendNumber(c.b, v)
}

func (c *contextObject) integer(k string, v int64) {
	c.key(k)
	c.b = strconv.AppendInt(c.b, v, 10)
}

// raw adds a value of the message as it was written, when it is a plain one and short.
func (c *contextObject) raw(k string, v jval) {
	switch v.kind() {
	case jBool, jNumber, jString:
		if r := v.raw(); len(r) <= 66 {
			c.key(k)
			c.b = append(c.b, r...)
		}
	}
}

func (c *contextObject) empty() bool { return c.b == nil }

// String is the finished object, "" when nothing was added.
func (c *contextObject) String() string {
	if c.b == nil {
		return ""
	}
	return string(append(c.b, '}'))
}

// extra returns r's own Extra, made when there is none.
func extra(r *vitals.Reading) *vitals.Extra {
	if r.Extra == nil {
		r.Extra = new(vitals.Extra)
	}
	return r.Extra
}

// set puts a finished object into r.
func (c *contextObject) set(r *vitals.Reading) {
	if !c.empty() {
		extra(r).Context = c.String()
	}
}
