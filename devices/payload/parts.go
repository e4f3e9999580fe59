package payload

import "strings"

// A frame around the items is copied for each part; this many bytes of it in all are taken of one message.
const maxFrames = 1 << 20

// Parts takes a JSON message of several devices apart. items is the path to the list of its items, empty for the message
// itself; device is the path, from an item, to the name of its device. Items of one device that stand next to each other
// are one part: the list of these items, for formats that look for it there within the message that it stood in. The
// parts are appended to dst in order, so that their items, one part's after the other's, are those of the message.
func Parts(format string, message []byte, items, device []string, dst []Part) ([]Part, *Problem) {
	t, root, p := parseTree(message)
	if p != nil {
		return dst, p
	}
	defer t.free()
	list := jpath(items).of(root)
	switch list.kind() {
	case jArray:
	case jObject: // one item
		name := jpath(device).of(list).word()
		if !framed(format, items) {
			message = append([]byte(nil), list.raw()...)
		}
		return append(dst, Part{Device: name, Message: message}), nil
	case jAbsent:
		return dst, &Problem{Code: FieldMissing, Detail: "there is nothing at the route's items_path", Offset: root.offset()}
	default:
		return dst, &Problem{Code: TypeWrong, Detail: "what stands at the route's items_path is not a list", Offset: list.offset()}
	}
	base, n := len(dst), 0
	var before, after []byte
	if framed(format, items) {
		before, after = message[:list.offset()], message[list.offset()+len(list.raw()):]
	}
	frame := len(before) + len(after)
	for x := range list.children() {
		if n++; n > MaxReadings {
			return dst[:base], tooMany()
		}
		name := jpath(device).of(x).word()
		if k := len(dst) - 1; k >= base && dst[k].Device == name {
			dst[k].Message = append(append(dst[k].Message, ','), x.raw()...)
			continue
		}
		if (len(dst)-base+1)*frame > maxFrames {
			return dst[:base], &Problem{Code: TooLarge, Detail: "too much stands around the items of too many devices; send the items of each device together", Offset: list.offset()}
		}
		dst = append(dst, Part{Device: name, Message: append(append(append(make([]byte, 0, frame+2*len(x.raw())), before...), '['), x.raw()...)})
	}
	for k := base; k < len(dst); k++ {
		dst[k].Message = append(append(dst[k].Message, ']'), after...)
	}
	if len(dst) == base { // an empty list is nobody's
		return dst, &Problem{Code: FieldMissing, Detail: "the list at the route's items_path is empty", Offset: list.offset()}
	}
	return dst, nil
}

// framed reports whether the format itself looks for its items at this path.
func framed(format string, items []string) bool {
	name, _, _ := strings.Cut(format, "/")
	path := strings.Join(items, ".")
	switch name {
	case "fhir":
		return path == "entry"
	case "ihealth":
		return strings.HasSuffix(path, "DataList")
	case "withings":
		return strings.HasPrefix(path, "body.") || path == "measuregrps" || path == "activities" || path == "series"
	}
	m := mappingOf(name)
	return m != nil && m.items != nil && path == strings.Join(m.items, ".")
}

// Part is what a message has of one device.
type Part struct {
	Device  string // as the message calls it, "" where it does not
	Message []byte
}
