package payload

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"vitalwatch/vitals"
)

// scanner reads JSON (RFC 8259) in place. Its methods leave i behind what they read and report false where the
// text is not JSON; the caller then gives up the message.
type scanner struct {
	b   []byte
	i   int
	why string // what is wrong when it is more than bad syntax
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end (0 is never valid JSON outside of a string).
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) colon() bool {
	s.space()
	if s.peek() != ':' {
		return false
	}
	s.i++
	s.space()
	return true
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

func (s *scanner) tooDeep() bool {
	s.why = "the message is nested deeper than 16 levels; nothing of it was taken"
	return false
}

// text reads a string and returns what stands between the quotes; esc tells that it has escapes. The payload is
// known to be valid UTF-8.
func (s *scanner) text() (raw []byte, esc, ok bool) {
	if s.peek() != '"' {
		return nil, false, false
	}
	s.i++
	start := s.i
	for s.i < len(s.b) {
		s.plain()
		if s.i >= len(s.b) {
			break
		}
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start : s.i-1], esc, true
		case c == '\\':
			esc = true
			if !s.escape() {
				return nil, false, false
			}
		case c < ' ':
			return nil, false, false
		default:
			s.i++
		}
	}
	return nil, false, false
}

// plain steps over bytes that are neither quote, backslash nor control, eight at a time: most of a message is text. The
// first flagged byte of a word is exact, as borrows only go upwards.
func (s *scanner) plain() {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	b, i := s.b, s.i
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^ones*'"', w^ones*'\\'
		if m := ((quote-ones)&^quote | (slash-ones)&^slash | (w-ones*' ')&^w) & tops; m != 0 {
			s.i = i + bits.TrailingZeros64(m)>>3
			return
		}
	}
	s.i = i
}

// escape steps over one escape, a surrogate pair being one: half a pair is no character and could not be stored
// as UTF-8 without making different strings the same.
func (s *scanner) escape() bool {
	if s.i+1 >= len(s.b) {
		s.i = len(s.b)
		return false
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case 'u':
		r, ok := hex4(s.b[s.i+2:])
		if !ok {
			return false
		}
		s.i += 6
		if !utf16.IsSurrogate(r) {
			return true
		}
		if s.i+1 < len(s.b) && s.b[s.i] == '\\' && s.b[s.i+1] == 'u' {
			if r2, ok := hex4(s.b[s.i+2:]); ok && utf16.DecodeRune(r, r2) != utf8.RuneError {
				s.i += 6
				return true
			}
		}
		s.why = "a string has half of a surrogate pair; nothing of the message was taken"
	}
	return false
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// unescape appends the text that raw stands for; raw came from text.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := hex4(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				r2, _ := hex4(raw[i+3:])
				r = utf16.DecodeRune(r, r2)
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, raw[i])
		}
	}
	return dst
}

// appendCompact appends JSON without the white space between its tokens.
func appendCompact(dst, src []byte) []byte {
	in := false
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case in && c == '\\':
			dst = append(dst, c)
			i++
			c = src[i]
		case c == '"':
			in = !in
		case !in && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// skip steps over one value that stands at the given depth; dup tells that one of its objects has a key twice.
func (s *scanner) skip(depth int) (dup, ok bool) {
	switch c := s.peek(); c {
	case '"':
		_, _, ok = s.text()
		return false, ok
	case 't':
		return false, s.word("true")
	case 'f':
		return false, s.word("false")
	case 'n':
		return false, s.word("null")
	case '{', '[':
		if depth > maxDepth {
			return false, s.tooDeep()
		}
		s.i++
		s.space()
		if s.peek() == c+2 { // '}' and ']' stand two after '{' and '[' in ASCII
			s.i++
			return false, true
		}
		var keys keySet
		for {
			s.space()
			if c == '{' {
				raw, esc, ok := s.text()
				if !ok || !s.colon() {
					return false, false
				}
				if esc {
					raw = unescape(nil, raw)
				}
				dup = keys.add(raw) || dup
			}
			d, ok := s.skip(depth + 1)
			if !ok {
				return false, false
			}
			dup = dup || d
			s.space()
			switch s.peek() {
			case ',':
				s.i++
			case c + 2:
				s.i++
				return dup, true
			default:
				return false, false
			}
		}
	}
	_, ok = s.number()
	return false, ok
}

// keySet finds a key that stands twice. A handful is compared one by one; beyond that a map keeps a hostile object
// with thousands of keys from costing their square.
type keySet struct {
	few  [8][]byte
	n    int
	many map[string]struct{}
}

// add reports whether key was there before.
func (k *keySet) add(key []byte) bool {
	if k.many == nil {
		for _, x := range k.few[:k.n] {
			if string(x) == string(key) {
				return true
			}
		}
		if k.n < len(k.few) {
			k.few[k.n] = key
			k.n++
			return false
		}
		k.many = make(map[string]struct{}, 4*len(k.few))
		for _, x := range k.few {
			k.many[string(x)] = struct{}{}
		}
	}
	if _, there := k.many[string(key)]; there {
		return true
	}
	k.many[string(key)] = struct{}{}
	return false
}

// number is a JSON number as it was read: ±m·10^exp exactly when exact.
type number struct {
	raw   []byte
	m     uint64
	exp   int
	neg   bool
	whole bool // no fraction and no exponent
	exact bool // m holds all digits
}

func isNumberStart(c byte) bool { return c == '-' || c >= '0' && c <= '9' }

func (s *scanner) number() (n number, ok bool) {
	start := s.i
	i, b := s.i, s.b
	if i < len(b) && b[i] == '-' {
		n.neg = true
		i++
	}
	n.exact, n.whole = true, true
	digits := i
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		n.m = n.m*10 + uint64(b[i]-'0')
	}
	if i == digits || b[digits] == '0' && i > digits+1 {
		s.i = i
		return n, false
	}
	count := i - digits
	if i < len(b) && b[i] == '.' {
		n.whole = false
		i++
		frac := i
		for ; i < len(b) && b[i]-'0' <= 9; i++ {
			n.m = n.m*10 + uint64(b[i]-'0')
		}
		if i == frac {
			s.i = i
			return n, false
		}
		count += i - frac
		n.exp = frac - i
	}
	if count > 18 { // 10^18 fits, 10^20 would wrap
		n.exact = false
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		n.whole, n.exact = false, false
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		e := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		if i == e {
			s.i = i
			return n, false
		}
	}
	n.raw = b[start:i]
	s.i = i
	return n, true
}

// integer returns the number when it was written as one and fits.
func (n *number) integer() (int64, bool) {
	switch {
	case !n.whole || n.raw == nil:
		return 0, false
	case n.exact:
		if n.neg {
			return -int64(n.m), true
		}
		return int64(n.m), true
	}
	v, err := strconv.ParseInt(string(n.raw), 10, 64)
	return v, err == nil
}

var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
	1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// float returns the nearest float64, the same bits as strconv.ParseFloat; finite is false beyond its range. Where
// mantissa and power of ten are both exact in float64, one division rounds once and so correctly (Clinger 1990).
func (n *number) float() (v float64, finite bool) {
	if n.exact && n.m <= 1<<53 && -n.exp < len(pow10) {
		v = float64(n.m) / pow10[-n.exp]
		if n.neg {
			v = -v
		}
		return v, true
	}
	v, err := strconv.ParseFloat(string(n.raw), 64)
	return v, err == nil && !math.IsInf(v, 0)
}

type timeVerdict uint8

const (
	timeBad timeVerdict = iota
	timeNoOffset
	timeGood
)

// parseTime reads RFC 3339 (section 5.6), fractions below a microsecond cut off. Its "-00:00" says that the local
// offset is not known (section 4.3); without any offset t is the time on the wall, as if it were UTC. Leap seconds are
// refused: no device that sends one is known.
func parseTime(b []byte) (t vitals.Micros, offset int16, verdict timeVerdict) {
	if len(b) < len("2006-01-02T15:04:05") || b[4] != '-' || b[7] != '-' || b[10]|0x20 != 't' || b[13] != ':' || b[16] != ':' {
		return 0, 0, timeBad
	}
	y1, ok1 := two(b[0:])
	y2, ok2 := two(b[2:])
	mo, ok3 := two(b[5:])
	d, ok4 := two(b[8:])
	h, ok5 := two(b[11:])
	mi, ok6 := two(b[14:])
	sec, ok7 := two(b[17:])
	y := y1*100 + y2
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) || mo < 1 || mo > 12 || d < 1 || d > daysIn(y, mo) ||
		h > 23 || mi > 59 || sec > 59 {
		return 0, 0, timeBad
	}
	us := (int64(daysFromEpoch(y, mo, d))*24+int64(h))*3600 + int64(mi)*60 + int64(sec)
	us *= 1e6
	b = b[19:]
	if len(b) > 0 && b[0] == '.' {
		i, scale := 1, int64(100000)
		for ; i < len(b) && b[i]-'0' <= 9; i++ {
			us += int64(b[i]-'0') * scale
			scale /= 10
		}
		if i == 1 {
			return 0, 0, timeBad
		}
		b = b[i:]
	}
	switch {
	case len(b) == 0:
		return vitals.Micros(us), 0, timeNoOffset
	case len(b) == 1 && b[0]|0x20 == 'z':
		return vitals.Micros(us), 0, timeGood
	case len(b) == 6 && (b[0] == '+' || b[0] == '-') && b[3] == ':':
		oh, ok1 := two(b[1:])
		om, ok2 := two(b[4:])
		if !ok1 || !ok2 || oh > 23 || om > 59 {
			return 0, 0, timeBad
		}
		off := int16(oh*60 + om)
		if b[0] == '-' {
			if off == 0 {
				return vitals.Micros(us), vitals.NoOffset, timeGood
			}
			off = -off
		}
		return vitals.Micros(us - int64(off)*60e6), off, timeGood
	}
	return 0, 0, timeBad
}

func two(b []byte) (int, bool) {
	x, y := b[0]-'0', b[1]-'0'
	return int(x)*10 + int(y), x <= 9 && y <= 9
}

var monthDays = [...]uint8{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

func daysIn(y, m int) int {
	if m == 2 && y%4 == 0 && (y%100 != 0 || y%400 == 0) {
		return 29
	}
	return int(monthDays[m-1])
}

// daysFromEpoch counts the days since 1970-01-01 in the Gregorian calendar, with years that begin in March so that
// the leap day comes last.
func daysFromEpoch(y, m, d int) int {
	if m <= 2 {
		y--
		m += 12
	}
	return 365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + d - 719469
}
