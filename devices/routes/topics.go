package routes

import (
	"errors"
	"strings"

	"vitalwatch/devices/payload"
	"vitalwatch/vitals"
)

// What Topics answers.
var (
	ErrForeign = errors.New("topic of another device, for which this client may not speak")
	ErrUnknown = errors.New("no route knows this topic")
)

// Topics says for whom a client publishes: by our own layout, by the routes, and by the rights of gateways.
type Topics struct {
	Table *Table // nil: no routes
	// MaySpeakFor says whether a gateway publishes for a device. It is called for each message and must not block.
	MaySpeakFor func(gateway, device vitals.DeviceID) bool
}

// Filters lists what to subscribe to at a broker.
func (t *Topics) Filters() []string {
	if t.Table == nil {
		return nil
	}
	return t.Table.Filters()
}

// Resolve returns for whom and in which format an authenticated client publishes on a topic other than its own; ""
// stands for a device that the payload names (see Messages). The errors are ErrForeign and ErrUnknown.
func (t *Topics) Resolve(client vitals.DeviceID, topic []byte) (vitals.DeviceID, string, error) {
	if len(topic) >= len(ownRoot) && string(topic[:len(ownRoot)]) == ownRoot {
		id, format, ok := own(string(topic))
		switch {
		case !ok:
			return "", "", ErrUnknown
		case id != client && !t.MaySpeakFor(client, id):
			return "", "", ErrForeign
		}
		return id, format, nil
	}
	if t.Table == nil {
		return "", "", ErrUnknown
	}
	m, ok := t.Table.Match(topic)
	switch {
	case !ok:
		return "", "", ErrUnknown
	case m.Gateway != "" && m.Gateway != client:
		return "", "", ErrForeign
	case m.Device != "" && m.Device != client && !t.MaySpeakFor(client, m.Device):
		return "", "", ErrForeign
	}
	return m.Device, m.Format, nil
}

// own takes vw/v1/{device}/up/{format} apart.
func own(topic string) (id vitals.DeviceID, format string, ok bool) {
	dev, rest, _ := strings.Cut(topic[len(ownRoot):], "/")
	format, ok = strings.CutPrefix(rest, "up/")
	return vitals.DeviceID(dev), format, ok && format != "" && vitals.ValidID(dev)
}

// Messages calls f for each part of a message, in order, with whose it is that a client (or, from a broker, nobody we
// know: "") sent on a foreign topic, by its payload where the topic does not tell. It is one part, unless the route says
// that each item names its device. The rights are those of the client; a broker answers for its own clients, and for a
// gateway that the topic names those of the gateway. With an error the part is nobody's.
func (t *Topics) Messages(client vitals.DeviceID, topic, message []byte, f func(id, gateway vitals.DeviceID, format string, part []byte, err error)) {
	m, ok := Match{}, false
	if t.Table != nil {
		m, ok = t.Table.Match(topic)
	}
	gateway := m.Gateway
	switch {
	case !ok:
		f("", "", "", message, ErrUnknown)
		return
	case client == "":
	case gateway != "" && gateway != client:
		f("", gateway, "", message, ErrForeign)
		return
	default:
		gateway = client
	}
	of := func(id vitals.DeviceID, part []byte, err error) {
		switch {
		case err != nil:
			f("", gateway, "", part, err)
		case id == gateway:
			f(id, "", m.Format, part, nil)
		case gateway != "" && !t.MaySpeakFor(gateway, id):
			f("", gateway, "", part, ErrForeign)
		default:
			f(id, gateway, m.Format, part, nil)
		}
	}
	if m.Device != "" || !m.route.split {
		id, err := m.DeviceOf(message)
		of(id, message, err)
		return
	}
	parts, p := payload.Parts(m.Format, message, m.route.items, m.route.path, nil)
	if p != nil {
		of("", message, p)
		return
	}
	for i := range parts {
		id, ok := m.route.id(parts[i].Device)
		err := errNoDevice
		if ok && parts[i].Device != "" {
			err = nil
		}
		of(id, parts[i].Message, err)
	}
}
