package payload

import (
	"iter"
	"math"
	"sync"
	"unicode/utf8"
)

// jtree is a JSON text taken apart, for formats that look for fields by name. Its values point into the text; nothing
// is copied. It takes what the native decoder takes: the same depth, the same strictness.
type jtree struct {
	b     []byte
	nodes []jnode
}

type jkind uint8

const (
	jAbsent jkind = iota // not there, or null
	jBool
	jNumber
	jString
	jArray
	jObject
)

type jnode struct {
	at, end     int32 // the value's text; of a string what stands between the quotes
	key, keyEnd int32 // a member's name, between the quotes
	next, child int32 // the next sibling and the first child, 0 for none: node 0 is the outermost value
	kind        jkind
	esc, keyEsc bool
	dup         bool // a key stands twice somewhere within
}

// jval is one value of a tree; the zero jval is not there.
type jval struct {
	t *jtree
	i int32
}

var jtrees = sync.Pool{New: func() any { return new(jtree) }}

// maxPooledNodes keeps a hostile message's tree from staying in the pool.
const maxPooledNodes = 1 << 13

// parseTree takes a whole message apart. The caller frees the tree when it no longer needs any value of it.
func parseTree(b []byte) (*jtree, jval, *Problem) {
	if len(b) > MaxBytes {
		return nil, jval{}, &Problem{Code: TooLarge, Detail: "the message is larger than 64 KiB; send fewer readings per message", Offset: -1}
	}
	return takeApart(b)
}

// takeApart is parseTree for a text of any length: what was 64 KiB of CBOR may be longer.
func takeApart(b []byte) (*jtree, jval, *Problem) {
	if !utf8.Valid(b) {
		return nil, jval{}, &Problem{Code: JSONInvalid, Detail: "the message is not valid UTF-8", Offset: -1}
	}
	t := jtrees.Get().(*jtree)
	t.b, t.nodes = b, t.nodes[:0]
	s := scanner{b: b}
	s.space()
	ok := t.value(&s, 1)
	if ok {
		s.space()
		ok = s.i == len(b)
	}
	if !ok {
		t.free()
		why := s.why
		if why == "" {
			why = "the message is not valid JSON; nothing of it was taken"
		}
		return nil, jval{}, &Problem{Code: JSONInvalid, Detail: why, Offset: min(s.i, len(b))}
	}
	return t, jval{t, 0}, nil
}

func (t *jtree) free() {
	t.b = nil
	if cap(t.nodes) <= maxPooledNodes {
		jtrees.Put(t)
	}
}

// value appends the value at s and all that is in it.
func (t *jtree) value(s *scanner, depth int) bool {
	self := len(t.nodes)
	t.nodes = append(t.nodes, jnode{at: int32(s.i)})
	var kind jkind
	ok := true
	switch c := s.peek(); c {
	case '"':
		_, esc, good := s.text()
		n := &t.nodes[self]
		n.kind, n.esc, n.at, n.end = jString, esc, n.at+1, int32(s.i-1)
		return good
	case 't':
		kind, ok = jBool, s.word("true")
	case 'f':
		kind, ok = jBool, s.word("false")
	case 'n':
		kind, ok = jAbsent, s.word("null")
	case '{', '[':
		kind = jArray
		if c == '{' {
			kind = jObject
		}
		if depth > maxDepth {
			return s.tooDeep()
		}
		ok = t.children(s, self, c, depth)
	default:
		kind = jNumber
		_, ok = s.number()
	}
	t.nodes[self].kind, t.nodes[self].end = kind, int32(s.i)
	return ok
}

func (t *jtree) children(s *scanner, self int, open byte, depth int) bool {
	s.i++
	s.space()
	if s.peek() == open+2 {
		s.i++
		return true
	}
	var seen uint64 // a bit per key's length, first and last byte: most objects need no comparison at all
	var many map[string]struct{}
	last := 0
	for count := 0; ; count++ {
		var key, keyEnd int32
		var keyEsc bool
		s.space()
		if open == '{' {
			raw, esc, ok := s.text()
			if !ok {
				return false
			}
			keyEnd = int32(s.i - 1)
			key, keyEsc = keyEnd-int32(len(raw)), esc
			if !s.colon() {
				return false
			}
			if esc {
				raw = unescape(nil, raw)
			}
			bit := keyBit(raw)
			switch {
			case many != nil:
			case count > maxSiblings:
				many = t.keys(self)
			case seen&bit != 0 && t.hasKey(self, raw):
				t.nodes[self].dup = true
			}
			if many != nil {
				if _, dup := many[string(raw)]; dup {
					t.nodes[self].dup = true
				}
				many[string(raw)] = struct{}{}
			}
			seen |= bit
		}
		child := len(t.nodes)
		if !t.value(s, depth+1) {
			return false
		}
		n := &t.nodes[child]
		n.key, n.keyEnd, n.keyEsc = key, keyEnd, keyEsc
		if n.dup {
			t.nodes[self].dup = true
		}
		if last == 0 {
			t.nodes[self].child = int32(child)
		} else {
			t.nodes[last].next = int32(child)
		}
		last = child
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case open + 2: // '}' and ']' stand two after '{' and '['
			s.i++
			return true
		default:
			return false
		}
	}
}

// maxSiblings is how many keys of one object are compared one by one: a hostile object must not cost their square.
const maxSiblings = 64

func keyBit(k []byte) uint64 {
	if len(k) == 0 {
		return 1
	}
	return 1 << ((uint(len(k))*5 + uint(k[0]) + uint(k[len(k)-1])*3) & 63)
}

// hasKey reports whether the object that is being read has a member of this name already.
func (t *jtree) hasKey(self int, key []byte) bool {
	for i := t.nodes[self].child; i != 0; i = t.nodes[i].next {
		if string((jval{t, i}).name()) == string(key) {
			return true
		}
	}
	return false
}

func (t *jtree) keys(self int) map[string]struct{} {
	m := make(map[string]struct{}, 4*maxSiblings)
	for i := t.nodes[self].child; i != 0; i = t.nodes[i].next {
		m[string((jval{t, i}).name())] = struct{}{}
	}
	return m
}

func (v jval) kind() jkind {
	if v.t == nil {
		return jAbsent
	}
	return v.t.nodes[v.i].kind
}

func (v jval) there() bool { return v.kind() != jAbsent }

// dup reports that some object in v has a key twice.
func (v jval) dup() bool { return v.t != nil && v.t.nodes[v.i].dup }

// offset is where the value stands in the message, -1 when it is not there.
func (v jval) offset() int {
	if v.t == nil {
		return -1
	}
	return int(v.t.nodes[v.i].at)
}

// children runs through the items of an array or the members of an object.
func (v jval) children() iter.Seq[jval] {
	return func(yield func(jval) bool) {
		if v.t == nil {
			return
		}
		for i := v.t.nodes[v.i].child; i != 0; i = v.t.nodes[i].next {
			if !yield(jval{v.t, i}) {
				return
			}
		}
	}
}

// get returns an object's member, or a value that is not there.
func (v jval) get(key string) jval {
	if v.kind() != jObject {
		return jval{}
	}
	for i := v.t.nodes[v.i].child; i != 0; i = v.t.nodes[i].next {
		n := &v.t.nodes[i]
		if n.keyEsc {
			if string(unescape(nil, v.t.b[n.key:n.keyEnd])) == key {
				return jval{v.t, i}
			}
		} else if string(v.t.b[n.key:n.keyEnd]) == key {
			return jval{v.t, i}
		}
	}
	return jval{}
}

// first returns the first of the named members that is there.
func (v jval) first(keys ...string) jval {
	for _, k := range keys {
		if m := v.get(k); m.there() {
			return m
		}
	}
	return jval{}
}

// at returns an array's item.
func (v jval) at(k int) jval {
	if v.kind() != jArray {
		return jval{}
	}
	i := v.t.nodes[v.i].child
	for ; i != 0 && k > 0; k-- {
		i = v.t.nodes[i].next
	}
	if i == 0 {
		return jval{}
	}
	return jval{v.t, i}
}

// key is the name of a member.
func (v jval) key() string { return string(v.name()) }

// name is key without a copy: it may point into the message.
func (v jval) name() []byte {
	n := &v.t.nodes[v.i]
	if n.keyEsc {
		return unescape(nil, v.t.b[n.key:n.keyEnd])
	}
	return v.t.b[n.key:n.keyEnd]
}

// text returns a string's text; it may point into the message.
func (v jval) text() ([]byte, bool) {
	if v.kind() != jString {
		return nil, false
	}
	n := &v.t.nodes[v.i]
	raw := v.t.b[n.at:n.end]
	if n.esc {
		raw = unescape(nil, raw)
	}
	return raw, true
}

// raw is the value's JSON.
func (v jval) raw() []byte {
	n := &v.t.nodes[v.i]
	if n.kind == jString {
		return v.t.b[n.at-1 : n.end+1]
	}
	return v.t.b[n.at:n.end]
}

func (v jval) number() (number, bool) {
	if v.kind() != jNumber {
		return number{}, false
	}
	s := scanner{b: v.t.b, i: int(v.t.nodes[v.i].at)}
	return s.number()
}

// float returns a finite number.
func (v jval) float() (float64, bool) {
	n, ok := v.number()
	if !ok {
		return 0, false
	}
	return n.float()
}

// numeric returns a finite number, also one that was written as a string, and it as it was read.
func (v jval) numeric() (f float64, n number, ok bool) {
	if n, ok = v.number(); !ok {
		raw, isText := v.text()
		if !isText {
			return 0, n, false
		}
		s := scanner{b: raw}
		if n, ok = s.number(); !ok || s.i != len(raw) {
			return 0, n, false
		}
	}
	f, ok = n.float()
	return f, n, ok
}

// integer returns a number without fraction, also 3.0 and 1e3.
func (v jval) integer() (int64, bool) {
	n, ok := v.number()
	if !ok {
		return 0, false
	}
	return n.integral()
}

// integral is integer that also takes 3.0 and 1e3.
func (n *number) integral() (int64, bool) {
	if i, ok := n.integer(); ok {
		return i, true
	}
	f, ok := n.float()
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// isTrue reports a JSON true.
func (v jval) isTrue() bool {
	return v.kind() == jBool && v.t.b[v.t.nodes[v.i].at] == 't'
}

// is reports that the value is this string.
func (v jval) is(want string) bool {
	s, ok := v.text()
	return ok && string(s) == want
}
