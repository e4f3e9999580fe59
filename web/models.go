package web

import (
	"context"
	"slices"

	"vitalwatch/alerting"
	"vitalwatch/devices/catalogue"
	"vitalwatch/vitals"
)

// ModelItem is a model in short.
type ModelItem struct {
	ID         string         `json:"id"`
	Maker      catalogue.Text `json:"maker"`
	Name       catalogue.Text `json:"name"`
	Kind       string         `json:"kind"`
	Indicators []string       `json:"indicators"`
	Formats    []string       `json:"formats"`
	Verified   bool           `json:"verified" doc:"the record was compared with its source"`
}

func listModels(s *Server, ctx context.Context, in *struct {
	Indicator string `query:"indicator" maxLength:"40" doc:"only those that measure it"`
}) (*page[ModelItem], error) {
	if _, err := indicator(in.Indicator); err != nil {
		return nil, err
	}
	var items []ModelItem
	if s.d.Models != nil {
		for _, m := range s.d.Models.Models() {
			if in.Indicator == "" || slices.Contains(m.Indicators, in.Indicator) {
				items = append(items, ModelItem{m.ID, m.Maker, m.Name, m.Kind, list(m.Indicators), list(m.Formats), m.About.Verified})
			}
		}
	}
	return paged(items, ""), nil
}

// errorGuide finds what the catalogue says of an error on a device model: of its code or, where that is not known, of its
// class.
func (s *Server) errorGuide(model, indicator string, f vitals.DeviceFault) (catalogue.ErrorCode, bool) {
	if s.d.Models == nil {
		return catalogue.ErrorCode{}, false
	}
	if e, ok := s.d.Models.Explain(model, indicator, f.Code); ok {
		return e, true
	}
	return s.d.Models.Explain(model, indicator, f.Class)
}

// alertErrorGuide is errorGuide of what a technical alert is about.
func (s *Server) alertErrorGuide(a *alerting.Alert) (catalogue.ErrorCode, bool) {
	if a.Trigger.Error == nil {
		return catalogue.ErrorCode{}, false
	}
	model := ""
	if s.d.Devices != nil {
		if h := s.d.Devices.Find(vitals.DeviceID(a.Trigger.DeviceID)); h != nil {
			model = h.Model()
		}
	}
	return s.errorGuide(model, a.Trigger.Indicator, *a.Trigger.Error)
}

type modelOutput struct{ Body *catalogue.Model }

func getModel(s *Server, ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64" doc:"model id, or a name that stands on the device"`
}) (*modelOutput, error) {
	m, ok := s.model(in.ID)
	if !ok {
		return nil, errNotFound
	}
	full := *m
	full.Errors = s.d.Models.ErrorCodes(m.Errors, m.Indicators)
	return &modelOutput{&full}, nil
}

// DeviceGuide is how one device is used.
type DeviceGuide struct {
	DeviceID   string                `json:"device_id"`
	ModelID    string                `json:"model_id,omitempty" doc:"absent: the guide is the generic one of what the device measures"`
	Indicators []string              `json:"indicators"`
	Sections   []catalogue.Section   `json:"sections"`
	Errors     []catalogue.ErrorCode `json:"errors"`
	Faults     []catalogue.Fault     `json:"faults"`
}

func getDeviceGuide(s *Server, ctx context.Context, in *struct {
	DevicePath
	Indicator string `query:"indicator" maxLength:"40" doc:"for a device of unknown model: what it measures; absent: what it has sent"`
}) (*struct{ Body DeviceGuide }, error) {
	v := viewOf(ctx)
	h, err := v.device(in.ID)
	if err != nil {
		return nil, err
	}
	if _, err := indicator(in.Indicator); err != nil {
		return nil, err
	}
	out := &struct{ Body DeviceGuide }{DeviceGuide{DeviceID: in.ID, Indicators: []string{}, Sections: []catalogue.Section{}, Errors: []catalogue.ErrorCode{}, Faults: []catalogue.Fault{}}}
	g := &out.Body
	if s.d.Models == nil {
		return out, nil
	}
	if m, ok := s.model(h.Device().Model); ok {
		g.ModelID, g.Indicators, g.Sections, g.Faults = m.ID, list(m.Indicators), m.Guide, append(g.Faults, m.Faults...)
		g.Errors = append(g.Errors, s.d.Models.ErrorCodes(m.Errors, m.Indicators)...)
		return out, nil
	}
	if in.Indicator != "" {
		g.Indicators = []string{in.Indicator}
	} else if g.Indicators, err = v.sentBy(ctx, h.ID()); err != nil {
		return nil, err
	}
	for _, i := range g.Indicators {
		if guide, ok := s.d.Models.Guide(i); ok {
			g.Sections = append(g.Sections, guide.Sections...)
		}
	}
	g.Errors = append(g.Errors, s.d.Models.ErrorCodes(nil, g.Indicators)...)
	return out, nil
}

// sentBy lists the indicators of which the device has sent the newest reading of one of its people.
func (v *view) sentBy(ctx context.Context, id vitals.DeviceID) ([]string, error) {
	out := []string{}
	seen := map[vitals.PatientID]bool{}
	for _, b := range v.s.d.Devices.Find(id).Bindings() {
		if seen[b.Patient] || !v.may(b.Patient) {
			continue
		}
		seen[b.Patient] = true
		latest, err := v.s.d.Readings.Latest(ctx, b.Patient)
		if err != nil {
			return nil, err
		}
		for i := range latest {
			if name := latest[i].Indicator.String(); latest[i].Device == id && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}
