package web

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"unicode/utf8"

	"vitalwatch/alerting"
	"vitalwatch/ingest/journal"
)

// QuarantineItem is a refused message without its content.
type QuarantineItem struct {
	ID       string       `json:"id"`
	At       string       `json:"at"`
	LastAt   string       `json:"last_at"`
	Times    int          `json:"times" doc:"how often the same bytes came"`
	DeviceID string       `json:"device_id"`
	Format   string       `json:"format"`
	Source   string       `json:"source"`
	Bytes    int          `json:"payload_bytes"`
	Problem  string       `json:"problem" doc:"of the first refused item"`
	Detail   string       `json:"detail"`
	Problems []IngestItem `json:"problems" doc:"of the first 20 refused items"`
	Refused  int          `json:"refused" doc:"how many items were refused"`
}

func quarantineItem(q *journal.Quarantined) QuarantineItem {
	it := QuarantineItem{ID: strconv.FormatUint(q.ID, 10), At: stamp(q.At), LastAt: stamp(q.LastAt), Times: q.Times, DeviceID: string(q.Device),
		Format: q.Format, Source: q.Source, Bytes: q.Size, Problems: []IngestItem{}, Refused: max(q.Refused, len(q.Problems))}
	for _, p := range q.Problems {
		it.Problems = append(it.Problems, IngestItem{Index: p.Index, Status: "quarantined", Problem: p.Code, Detail: p.Detail})
	}
	if len(q.Problems) > 0 {
		it.Problem, it.Detail = q.Problems[0].Code, q.Problems[0].Detail
	}
	return it
}

// quarantineFilter selects refused messages; its zero value all.
type quarantineFilter struct{ device, problem string }

func (f quarantineFilter) takes(q *journal.Quarantined) bool {
	if f.device != "" && string(q.Device) != f.device {
		return false
	}
	if f.problem == "" {
		return true
	}
	for _, p := range q.Problems {
		if p.Code == f.problem {
			return true
		}
	}
	return false
}

// maxQuarantineScan bounds how many messages one request looks at; a filter that finds few gives short pages.
const maxQuarantineScan = 5000

// quarantined returns up to limit messages that the filter takes, newest first, below cursor (0: from the newest).
func (s *Server) quarantined(ctx context.Context, f quarantineFilter, limit int, cursor uint64) (out []journal.Quarantined, next uint64, err error) {
	for seen := 0; ; {
		size := limit - len(out)
		if f != (quarantineFilter{}) {
			size = 500
		}
		qs, n, err := s.d.Quarantine.Quarantine(ctx, size, cursor)
		if err != nil {
			return nil, 0, err
		}
		for i := range qs {
			if f.takes(&qs[i]) {
				if out = append(out, qs[i]); len(out) == limit {
					if i+1 < len(qs) {
						n = qs[i].ID // the page ends in the middle of what was read
					}
					return out, n, nil
				}
			}
		}
		if seen += len(qs); n == 0 || seen >= maxQuarantineScan {
			return out, n, nil
		}
		cursor = n
	}
}

func listQuarantine(s *Server, ctx context.Context, in *struct {
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor  string `query:"cursor" maxLength:"40"`
	Device  string `query:"device" maxLength:"64" doc:"of this device only"`
	Problem string `query:"problem" maxLength:"64" doc:"with this problem only, such as unit_unknown"`
}) (*page[QuarantineItem], error) {
	var cursor uint64
	if in.Cursor != "" {
		var err error
		if cursor, err = strconv.ParseUint(in.Cursor, 10, 64); err != nil || cursor == 0 {
			return nil, errBadCursor
		}
	}
	if err := viewOf(ctx).record(ctx, "quarantine.list", "", ""); err != nil {
		return nil, err
	}
	qs, n, err := s.quarantined(ctx, quarantineFilter{in.Device, in.Problem}, in.Limit, cursor)
	if err != nil {
		return nil, err
	}
	var items []QuarantineItem
	for i := range qs {
		items = append(items, quarantineItem(&qs[i]))
	}
	next := ""
	if n != 0 {
		next = strconv.FormatUint(n, 10)
	}
	return paged(items, next), nil
}

// QuarantineContent is a refused message with its bytes as they came.
type QuarantineContent struct {
	QuarantineItem
	Payload string `json:"payload_base64" doc:"cut after 64 KiB and a byte"`
	Text    string `json:"payload_text,omitempty" doc:"the same, where it is UTF-8"`
}

type quarantineOutput struct{ Body QuarantineContent }

// getQuarantine shows what a device sent: personal data of somebody who may be unknown, so it is for those who may
// decide about it, and on record.
func getQuarantine(s *Server, ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"20"`
}) (*quarantineOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	if err := viewOf(ctx).record(ctx, "quarantine.view", "", in.ID); err != nil {
		return nil, err
	}
	q, err := s.d.Quarantine.QuarantineGet(id)
	if err != nil {
		return nil, err
	}
	q.Size = max(q.Size, len(q.Payload))
	out := &quarantineOutput{QuarantineContent{QuarantineItem: quarantineItem(&q), Payload: base64.StdEncoding.EncodeToString(q.Payload)}}
	if utf8.Valid(q.Payload) {
		out.Body.Text = string(q.Payload)
	}
	return out, nil
}

func replayQuarantine(s *Server, ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"20"`
	Body *struct{}
}) (*outcomeOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	if err := viewOf(ctx).record(ctx, "quarantine.replay", "", in.ID); err != nil {
		return nil, err
	}
	res, err := s.d.Pipeline.Replay(ctx, id)
	if err != nil {
		return nil, err
	}
	return &outcomeOutput{*outcome(&res)}, nil
}

// maxReplay is how many messages one request replays.
const maxReplay = 500

// ReplayOutcome says what became of many messages that were tried again; what is refused again stays in quarantine.
type ReplayOutcome struct {
	Messages    int `json:"messages" doc:"tried"`
	Accepted    int `json:"accepted" doc:"readings"`
	Duplicate   int `json:"duplicate"`
	Quarantined int `json:"quarantined" doc:"refused again"`
	// Next goes on behind the last message of this request.
	Next alerting.OrNull `json:"next_cursor" nullable:"true" doc:"there is more: send the same again with this cursor"`
}

type replayOutput struct{ Body ReplayOutcome }

func replayMany(s *Server, ctx context.Context, in *struct {
	Body struct {
		IDs     []string `json:"ids,omitempty" maxItems:"500"`
		Device  string   `json:"device_id,omitempty" maxLength:"64"`
		Problem string   `json:"problem,omitempty" maxLength:"64"`
		Cursor  string   `json:"cursor,omitempty" maxLength:"20"`
	}
}) (*replayOutput, error) {
	b := &in.Body
	f := quarantineFilter{b.Device, b.Problem}
	if (len(b.IDs) > 0) == (f != (quarantineFilter{})) {
		return nil, badRequest("say which messages: ids, or device_id and problem or one of them")
	}
	var ids []uint64
	for _, text := range b.IDs {
		id, err := parseID(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	out := &replayOutput{}
	if f != (quarantineFilter{}) {
		var cursor uint64
		if b.Cursor != "" {
			var err error
			if cursor, err = parseID(b.Cursor); err != nil {
				return nil, errBadCursor
			}
		}
		qs, next, err := s.quarantined(ctx, f, maxReplay, cursor)
		if err != nil {
			return nil, err
		}
		for i := range qs {
			ids = append(ids, qs[i].ID)
		}
		if next != 0 {
			out.Body.Next = alerting.OrNull(strconv.FormatUint(next, 10))
		}
	}
	if err := viewOf(ctx).record(ctx, "quarantine.replay_many", "", b.Device); err != nil {
		return nil, err
	}
	for i := len(ids) - 1; i >= 0; i-- { // the oldest first, as they came
		res, err := s.d.Pipeline.Replay(ctx, ids[i])
		if errors.Is(err, journal.ErrNotQuarantined) { // somebody else was faster
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Body.Messages++
		out.Body.Accepted += res.Accepted
		out.Body.Duplicate += res.Duplicate
		out.Body.Quarantined += res.Quarantined
	}
	return out, nil
}
