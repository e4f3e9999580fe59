package web

import (
	"context"
	"math"

	"vitalwatch/trends"
	"vitalwatch/vitals"
)

// SessionItem is one sitting with the cuff.
type SessionItem struct {
	From      string   `json:"from"`
	To        string   `json:"to" doc:"of the last reading"`
	DeviceID  string   `json:"device_id"`
	Systolic  float64  `json:"systolic" doc:"mmHg, mean of the readings that count"`
	Diastolic float64  `json:"diastolic" doc:"mmHg"`
	Pulse     *float64 `json:"pulse,omitempty" doc:"/min"`
	Counted   int      `json:"counted" doc:"readings in the means"`
	// ThirdWanted: two readings more than 10 mmHg apart, and no third.
	ThirdWanted bool          `json:"third_wanted"`
	Readings    []readingJSON `json:"readings" doc:"all, as they were sent"`
}

func listSessions(_ *Server, ctx context.Context, in *struct {
	PatientPath
	PeriodQuery
	DropFirst bool `query:"drop_first" doc:"leave the first reading of a session with several out of its means"`
}) (*page[SessionItem], error) {
	v := viewOf(ctx)
	per, err := in.parse()
	if err != nil {
		return nil, err
	}
	id := vitals.PatientID(in.ID)
	if _, err := v.patient(id); err != nil {
		return nil, err
	}
	if err := v.record(ctx, "sessions.view", id, ""); err != nil {
		return nil, err
	}
	sessions, err := v.sessions(ctx, id, per, in.DropFirst)
	if err != nil {
		return nil, err
	}
	var items []SessionItem
	for i := range sessions {
		items = append(items, sessionItem(&sessions[i]))
	}
	return paged(items, ""), nil
}

func sessionItem(s *trends.Session) SessionItem {
	first, last := s.Readings[0], s.Readings[len(s.Readings)-1]
	it := SessionItem{From: stamp(first.TakenAt), To: stamp(last.TakenAt), DeviceID: string(first.Device),
		Systolic: s.Systolic, Diastolic: s.Diastolic, Counted: s.Counted, ThirdWanted: s.Differ}
	if !math.IsNaN(s.Pulse) {
		it.Pulse = &s.Pulse
	}
	for _, r := range s.Readings {
		it.Readings = append(it.Readings, readingJSON{*r})
	}
	return it
}
