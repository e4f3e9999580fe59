package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"vitalwatch/devices"
	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/vitals"
)

// Commands is what goes down to devices; *sessions.Store is the real one.
type Commands interface {
	Command(ctx context.Context, device vitals.DeviceID, c sessions.Command) (id string, err error)
	List(ctx context.Context, device vitals.DeviceID, before int64, limit int) ([]sessions.Info, error)
	SetConfig(ctx context.Context, device vitals.DeviceID, payload []byte) error
	Config(ctx context.Context, device vitals.DeviceID) (sessions.Retained, bool, error)
}

func commandRoutes() []route {
	const device = base + "/devices/{id}"
	return []route{
		{method: "POST", path: device + "/commands", id: "sendCommand", summary: "Send a command to a device; it waits until the device is there, or expires", need: canAct, status: http.StatusAccepted, register: typed(sendCommand)},
		{method: "GET", path: device + "/commands", id: "listCommands", summary: "What was sent to a device and what has become of it, newest first", need: canRead, register: typed(listCommands)},
		{method: "GET", path: device + "/config", id: "getDeviceConfig", summary: "The configuration that the device gets on down/config", need: canRead, register: typed(getDeviceConfig)},
		{method: "POST", path: device + "/config", id: "setDeviceConfig", summary: "Set it; null takes it away", need: canAdmin, body: sessions.MaxPayload + 1<<10, register: typed(setDeviceConfig)},
	}
}

// errNoCommands: the server takes no devices at a front door of its own.
var errNoCommands = problem(http.StatusConflict, "no-front-door", "nothing can be sent to devices", "devices come through an external broker here; enable mqtt.embedded")

func commandProblem(err error) error {
	switch {
	case errors.Is(err, sessions.ErrInvalid):
		return problem(http.StatusUnprocessableEntity, "command-invalid", "that cannot be sent", err.Error())
	case errors.Is(err, sessions.ErrFull):
		return problem(http.StatusConflict, "command-queue-full", "too much waits for this device already", sessions.ErrFull.Error())
	case errors.Is(err, sessions.ErrExists):
		return problem(http.StatusConflict, "command-exists", "the id is taken", sessions.ErrExists.Error())
	}
	return err
}

// commandDevice returns the device when commands go anywhere and the caller may see for whom it measures now: what is
// sent to it is shown to that person.
func commandDevice(s *Server, ctx context.Context, id string) (vitals.DeviceID, error) {
	v := viewOf(ctx)
	h, err := v.device(id)
	if err != nil {
		return "", err
	}
	if now := vitals.At(s.now()); len(v.p.Teams) > 0 && !slices.ContainsFunc(h.Bindings(), func(b devices.Binding) bool {
		return b.From <= now && (b.To == 0 || b.To > now) && v.may(b.Patient)
	}) {
		return "", errNotFound
	}
	if s.d.Commands == nil {
		return "", errNoCommands
	}
	return h.ID(), nil
}

// CommandItem is a message to a device as the API shows it.
type CommandItem struct {
	ID          string          `json:"id"`
	Topic       string          `json:"topic" doc:"behind down/: cmd"`
	State       string          `json:"state" enum:"waiting,sent,delivered,answered,expired,failed" doc:"sent is all that is known of a device that subscribes with QoS 0"`
	Body        json.RawMessage `json:"body,omitempty"`
	CreatedAt   string          `json:"created_at"`
	ExpiresAt   string          `json:"expires_at,omitempty"`
	SentAt      string          `json:"sent_at,omitempty"`
	DeliveredAt string          `json:"delivered_at,omitempty"`
	AnsweredAt  string          `json:"answered_at,omitempty"`
	Result      string          `json:"result,omitempty" doc:"of the device's answer: done, declined, failed or its own word"`
	Detail      string          `json:"detail,omitempty"`
}

type commandOutput struct {
	Body struct {
		ID string `json:"id" doc:"the device answers with it on up/ack"`
	}
}

func sendCommand(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		ID        string            `json:"id,omitempty" doc:"the same id with the same content is the same command"`
		Cmd       string            `json:"cmd" enum:"remeasure,remind,message"`
		Text      map[string]string `json:"text,omitempty" doc:"language tag to text; a message needs one"`
		ExpiresAt string            `json:"expires_at,omitempty" doc:"RFC 3339; absent: in 24 hours"`
	}
}) (*commandOutput, error) {
	id, err := commandDevice(s, ctx, in.ID)
	if err != nil {
		return nil, err
	}
	expires, err := moment("expires_at", in.Body.ExpiresAt)
	if err != nil {
		return nil, err
	}
	if err := viewOf(ctx).record(ctx, "device.command", "", in.ID); err != nil {
		return nil, err
	}
	out := &commandOutput{}
	out.Body.ID, err = s.d.Commands.Command(ctx, id, sessions.Command{ID: in.Body.ID, Cmd: in.Body.Cmd, Text: in.Body.Text, ExpiresAt: expires})
	if err != nil {
		return nil, commandProblem(err)
	}
	return out, nil
}

func listCommands(s *Server, ctx context.Context, in *struct {
	DevicePath
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
	Cursor string `query:"cursor" maxLength:"20"`
}) (*page[CommandItem], error) {
	id, err := commandDevice(s, ctx, in.ID)
	if err != nil {
		return nil, err
	}
	var before int64
	if in.Cursor != "" {
		if before, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || before <= 0 {
			return nil, badRequest("cursor is not one that a page has given")
		}
	}
	if err := viewOf(ctx).record(ctx, "device.commands", "", in.ID); err != nil {
		return nil, err
	}
	list, err := s.d.Commands.List(ctx, id, before, in.Limit)
	if err != nil {
		return nil, err
	}
	var items []CommandItem
	for i := range list {
		items = append(items, commandItem(&list[i]))
	}
	next := ""
	if len(list) == in.Limit {
		next = strconv.FormatInt(list[len(list)-1].Seq, 10)
	}
	return paged(items, next), nil
}

func commandItem(m *sessions.Info) CommandItem {
	at := func(t vitals.Micros) string {
		if t == 0 {
			return ""
		}
		return stamp(t)
	}
	it := CommandItem{ID: m.ID, Topic: m.Topic, State: string(m.State), CreatedAt: at(m.CreatedAt), ExpiresAt: at(m.ExpiresAt),
		SentAt: at(m.SentAt), DeliveredAt: at(m.DeliveredAt), AnsweredAt: at(m.AnsweredAt), Result: m.Result, Detail: m.Detail}
	if json.Valid(m.Payload) {
		it.Body = m.Payload
	}
	return it
}

// DeviceConfig is the retained down/config.
type DeviceConfig struct {
	Config       json.RawMessage `json:"config" doc:"null: none"`
	UpdatedAt    string          `json:"updated_at,omitempty"`
	Acknowledged bool            `json:"acknowledged" doc:"the device has it"`
}

type deviceConfigOutput struct{ Body DeviceConfig }

func getDeviceConfig(s *Server, ctx context.Context, in *DevicePath) (*deviceConfigOutput, error) {
	id, err := commandDevice(s, ctx, in.ID)
	if err != nil {
		return nil, err
	}
	r, ok, err := s.d.Commands.Config(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &deviceConfigOutput{Body: DeviceConfig{Config: json.RawMessage("null")}}
	if ok {
		out.Body.UpdatedAt, out.Body.Acknowledged = r.UpdatedAt.Time().Format(time.RFC3339), r.Delivered >= r.Rev
		if json.Valid(r.Payload) {
			out.Body.Config = r.Payload
		}
	}
	return out, nil
}

func setDeviceConfig(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		Config any `json:"config" doc:"any JSON; null takes it away"`
	}
	RawBody []byte
}) (*deviceConfigOutput, error) {
	id, err := commandDevice(s, ctx, in.ID)
	if err != nil {
		return nil, err
	}
	var raw struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(in.RawBody, &raw); err != nil {
		return nil, badRequest(`the body is {"config": …}`)
	}
	if bytes.Equal(bytes.TrimSpace(raw.Config), []byte("null")) {
		raw.Config = nil
	}
	if err := viewOf(ctx).record(ctx, "device.config", "", in.ID); err != nil {
		return nil, err
	}
	if err := s.d.Commands.SetConfig(ctx, id, raw.Config); err != nil {
		return nil, commandProblem(err)
	}
	return getDeviceConfig(s, ctx, &in.DevicePath)
}
