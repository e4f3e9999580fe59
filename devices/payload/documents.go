package payload

import "vitalwatch/vitals"

// documents reads a JSON message that is one object or an array of objects, for formats of which one object gives one
// reading or several: f appends the items of one object. Each object that cannot be read is an item with a problem;
// more than MaxReadings items refuse the message.
func documents(in *Input, dst []Item, f func(v jval, dst []Item) []Item) ([]Item, error) {
	t, root, p := parseTree(in.Payload)
	if p != nil {
		return dst, p
	}
	defer t.free()
	base := len(dst)
	switch root.kind() {
	case jObject:
		dst = document(root, dst, f)
	case jArray:
		for v := range root.children() {
			if dst = document(v, dst, f); len(dst)-base > MaxReadings {
				break
			}
		}
	default:
		return dst, &Problem{Code: TypeWrong, Detail: "the message must be an object or an array of objects", Offset: root.offset()}
	}
	return finish(dst, base)
}

func document(v jval, dst []Item, f func(v jval, dst []Item) []Item) []Item {
	switch {
	case v.kind() != jObject:
		return refuse(dst, v, TypeWrong, "every item of the array must be an object")
	case v.dup():
		return refuse(dst, v, JSONInvalid, "the same key stands twice in one object; which one counts is not guessed")
	}
	return f(v, dst)
}

// refuse appends an item that is none.
func refuse(dst []Item, v jval, code, detail string) []Item {
	return append(dst, Item{Problem: &Problem{Code: code, Detail: detail, Offset: v.offset()}})
}

// message collects the items of one message while it is read.
type message struct {
	in   Input
	dst  []Item
	base int  // where this message's items begin
	many bool // more than MaxReadings
}

// item appends an empty item. Beyond the limit of a message it gives a spare one, and the message is refused.
func (m *message) item() *Item {
	if len(m.dst)-m.base >= MaxReadings {
		m.many = true
		return new(Item)
	}
	m.dst = append(m.dst, Item{Reading: vitals.Reading{DeviceSeq: -1, OffsetMin: vitals.NoOffset}})
	return &m.dst[len(m.dst)-1]
}

// fail makes the newest item one that is none.
func (m *message) fail(it *Item, code, detail string, offset int) {
	*it = Item{Problem: &Problem{Code: code, Detail: detail, Index: max(len(m.dst)-m.base-1, 0), Offset: offset}}
}

// end returns what was collected, or nothing with the problem of the whole message.
func (m *message) end(p *Problem) ([]Item, error) {
	if m.many {
		p = tooMany()
	}
	if p != nil {
		clear(m.dst[m.base:])
		return m.dst[:m.base], p
	}
	return m.dst, nil
}

func tooMany() *Problem {
	return &Problem{Code: TooManyReadings, Detail: "more than 500 readings in one message; nothing of it was taken, send it in parts", Offset: -1}
}

// finish numbers the problems, and refuses a message with too many items.
func finish(dst []Item, base int) ([]Item, error) {
	if len(dst)-base > MaxReadings {
		clear(dst[base:])
		return dst[:base], tooMany()
	}
	for i := range dst[base:] {
		if p := dst[base+i].Problem; p != nil {
			p.Index = i
		}
	}
	return dst, nil
}

// shortText returns a text of the message that may be kept: not longer than an id.
func (v jval) shortText() string {
	s, ok := v.text()
	if !ok || len(s) > MaxIDBytes {
		return ""
	}
	return string(s)
}
