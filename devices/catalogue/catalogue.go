// Package catalogue owns what is known of device models: what they measure, in which format, within which limits, with
// which known faults, and how a person uses them, in zh-CN and en. The files are the operator's and ours (configs/devices);
// which device is of which model is said in devices.
//
// Concurrency: a Catalogue never changes after Load; what it returns is read-only.
package catalogue

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"vitalwatch/internal/strictyaml"
	"vitalwatch/vitals"
)

// Languages are those in which every text is there.
var Languages = []string{"zh-CN", "en"}

// Topics of a guide, in the order in which they are shown.
var Topics = []string{"preparation", "positioning", "rest", "measuring", "repeats", "reading", "cleaning", "battery", "storage", "upload"}

// Classes of what an error code means (facts on error codes: they differ by model, so the text is kept and the class told).
var Classes = vitals.FaultClasses

// Text is one text in every language.
type Text map[string]string

// Section is one topic of a guide: steps in order.
type Section struct {
	Topic string              `yaml:"topic" json:"topic"`
	Steps map[string][]string `yaml:"steps" json:"steps"` // by language
}

// Limit is what a model can measure, one component at a time.
type Limit struct {
	Indicator string  `yaml:"indicator" json:"indicator"`
	Component string  `yaml:"component" json:"component"`
	From      float64 `yaml:"from" json:"from"`
	To        float64 `yaml:"to" json:"to"`
	Unit      string  `yaml:"unit" json:"unit"`
	Source    `yaml:",inline"`
}

// Source says where a statement comes from. Verified: it was compared with that source; otherwise it is general
// knowledge and is shown so.
type Source struct {
	Source   string `yaml:"source" json:"source"`
	Verified bool   `yaml:"verified" json:"verified"`
}

// Fault is something known to go wrong with a model, of which the server or a coach must know.
type Fault struct {
	Text   Text `yaml:"text" json:"text"`
	Source `yaml:",inline"`
}

// ErrorCode is what the model shows when a measurement fails.
type ErrorCode struct {
	Code   string   `yaml:"code" json:"code"`
	Sent   []string `yaml:"sent" json:"sent,omitempty"` // how it comes in messages, where that is not what the device shows
	Class  string   `yaml:"class" json:"class"`
	Means  Text     `yaml:"means" json:"means"`
	Do     Text     `yaml:"do" json:"do"`
	Source `yaml:",inline"`
}

// Model is one device model, or a family whose members do not differ in what is said here.
type Model struct {
	ID         string      `yaml:"id" json:"id"`
	Maker      Text        `yaml:"maker" json:"maker"`
	Name       Text        `yaml:"name" json:"name"`
	Aliases    []string    `yaml:"aliases" json:"aliases"` // as they stand on the device; matched without case and punctuation
	Kind       string      `yaml:"kind" json:"kind"`
	Indicators []string    `yaml:"indicators" json:"indicators"`
	Formats    []string    `yaml:"formats" json:"formats"` // of ours, such as gatt/2A35; empty: by the maker's app or cloud only
	Users      int         `yaml:"users" json:"users"`     // user slots, 0: not known
	Memory     int         `yaml:"memory" json:"memory"`   // readings per user, 0: not known
	Limits     []Limit     `yaml:"limits" json:"limits"`
	Faults     []Fault     `yaml:"faults" json:"faults"`
	Errors     []ErrorCode `yaml:"errors" json:"errors"`
	// Guide has the sections that differ from the generic guide of the indicators; the others come from there.
	Guide []Section `yaml:"guide" json:"guide"`
	About Source    `yaml:"about" json:"about"` // of the record as a whole
}

// Guide is how an indicator is measured with whatever device.
type Guide struct {
	Indicator string      `yaml:"indicator" json:"indicator"`
	Title     Text        `yaml:"title" json:"title"`
	Sections  []Section   `yaml:"sections" json:"sections"`
	Errors    []ErrorCode `yaml:"errors" json:"errors"` // of kinds that all devices have, such as a low battery
	Sources   []Source    `yaml:"sources" json:"sources"`
}

// FS is a folder with a name for messages. A model or guide of a later one replaces that of an earlier one.
type FS struct {
	Name string
	fs.FS
}

// Catalogue is what was loaded.
type Catalogue struct {
	models map[string]*Model
	alias  map[string]*Model
	guides map[string]*Guide
	order  []string
}

// Load reads *.yaml (models) and guides/*.yaml of every folder. The error lists all mistakes with file, line and column.
func Load(folders ...FS) (*Catalogue, error) {
	c := &Catalogue{models: map[string]*Model{}, alias: map[string]*Model{}, guides: map[string]*Guide{}}
	var errs []error
	for _, f := range folders {
		errs = append(errs, c.folder(f)...)
	}
	for id, m := range c.models {
		c.order = append(c.order, id)
		for _, name := range append([]string{id}, m.Aliases...) {
			key := plain(name)
			if other := c.alias[key]; other != nil && other != m {
				errs = append(errs, fmt.Errorf("device models %s and %s both go by the name %q; one of them must lose it", min(id, other.ID), max(id, other.ID), name))
			}
			c.alias[key] = m
		}
		for _, i := range m.Indicators {
			m.Guide = merge(m.Guide, c.guides[i])
		}
		slices.SortStableFunc(m.Guide, byTopic)
	}
	slices.Sort(c.order)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

func byTopic(a, b Section) int { return slices.Index(Topics, a.Topic) - slices.Index(Topics, b.Topic) }

// merge adds the sections of a generic guide whose topics are not there yet.
func merge(own []Section, g *Guide) []Section {
	if g == nil {
		return own
	}
	for _, s := range g.Sections {
		if !slices.ContainsFunc(own, func(o Section) bool { return o.Topic == s.Topic }) {
			own = append(own, s)
		}
	}
	return own
}

func (c *Catalogue) folder(f FS) (errs []error) {
	own := map[string]string{} // id or indicator to file, within this folder
	for _, pattern := range []string{"guides/*.yaml", "*.yaml"} {
		names, err := fs.Glob(f.FS, pattern)
		if err != nil {
			return append(errs, fmt.Errorf("read device catalogue %s: %w", f.Name, err))
		}
		for _, name := range names {
			b, err := fs.ReadFile(f.FS, name)
			if err != nil {
				errs = append(errs, fmt.Errorf("read device catalogue %s: %w", f.Name, err))
				continue
			}
			file := path.Join(f.Name, name)
			key := ""
			var d *check
			if pattern == "*.yaml" {
				m := &Model{}
				d = &check{Document: strictyaml.Read(file, b, m)}
				d.model(m)
				key = "model " + m.ID
				c.models[m.ID] = m
			} else {
				g := &Guide{}
				d = &check{Document: strictyaml.Read(file, b, g)}
				d.guide(g)
				key = "guide " + g.Indicator
				c.guides[g.Indicator] = g
			}
			if first, twice := own[key]; twice {
				d.Errorf([]string{"id"}, "%s is also in %s", key, first)
			}
			own[key] = file
			if err := d.Err(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// check records what the types cannot.
type check struct{ *strictyaml.Document }

func (d *check) at(path string, format string, args ...any) {
	d.Errorf(strings.Split(path, "."), format, args...)
}

func (d *check) oneOf(path, v string, allowed []string) {
	if !slices.Contains(allowed, v) {
		d.at(path, "%q is none of %s", v, strings.Join(allowed, ", "))
	}
}

func (d *check) text(path string, t Text) {
	for _, l := range Languages {
		if strings.TrimSpace(t[l]) == "" {
			d.at(path, "there is no text in %s", l)
		}
	}
	if len(t) > len(Languages) {
		d.at(path, "only %s are languages here", strings.Join(Languages, " and "))
	}
}

func (d *check) source(path string, s Source) {
	if s.Source == "" {
		d.at(path, "has no source; write where it is from, or general knowledge")
	}
}

func (d *check) indicator(path, name string) vitals.Indicator {
	i, ok := vitals.ParseIndicator(name)
	if !ok {
		d.at(path, "%q is no indicator; use one such as blood_pressure, glucose, spo2", name)
	}
	return i
}

func (d *check) sections(path string, all []Section) {
	seen := map[string]bool{}
	for i, s := range all {
		p := path + "." + strconv.Itoa(i)
		d.oneOf(p+".topic", s.Topic, Topics)
		if seen[s.Topic] {
			d.at(p+".topic", "%s is there twice", s.Topic)
		}
		seen[s.Topic] = true
		for _, l := range Languages {
			if len(s.Steps[l]) == 0 || len(s.Steps[l]) != len(s.Steps[Languages[0]]) {
				d.at(p+".steps", "%s must have as many steps as %s, and at least one", l, Languages[0])
			}
			for k, step := range s.Steps[l] {
				if strings.TrimSpace(step) == "" {
					d.at(p+".steps."+l+"."+strconv.Itoa(k), "is empty")
				}
			}
		}
	}
}

func (d *check) errors(path string, all []ErrorCode) {
	for i, e := range all {
		p := path + "." + strconv.Itoa(i)
		if e.Code == "" {
			d.at(p, "has no code")
		}
		d.oneOf(p+".class", e.Class, Classes)
		d.text(p+".means", e.Means)
		d.text(p+".do", e.Do)
		d.source(p, e.Source)
	}
}

func (d *check) model(m *Model) {
	if !vitals.ValidID(m.ID) {
		d.at("id", "must be 1 to 64 of A-Z a-z 0-9 _ -")
	}
	d.text("maker", m.Maker)
	d.text("name", m.Name)
	d.source("about", m.About)
	d.oneOf("kind", m.Kind, []string{"cuff", "glucose_meter", "cgm", "oximeter", "scale", "thermometer", "watch", "chest_strap", "gateway"})
	if len(m.Indicators) == 0 && m.Kind != "gateway" {
		d.at("indicators", "is empty")
	}
	for i, name := range m.Indicators {
		d.indicator("indicators."+strconv.Itoa(i), name)
	}
	for i, l := range m.Limits {
		p := "limits." + strconv.Itoa(i)
		ind := d.indicator(p+".indicator", l.Indicator)
		if comp, ok := vitals.ParseComponent(l.Component); !ok || ind != 0 && ind.Index(comp) < 0 {
			d.at(p+".component", "%q is no component of %s", l.Component, l.Indicator)
		}
		if _, ok := vitals.ParseUnit(l.Unit); !ok {
			d.at(p+".unit", "%q is no unit", l.Unit)
		}
		if l.To <= l.From {
			d.at(p+".to", "must be more than from")
		}
		d.source(p, l.Source)
	}
	for i, f := range m.Faults {
		p := "faults." + strconv.Itoa(i)
		d.text(p+".text", f.Text)
		d.source(p, f.Source)
	}
	d.errors("errors", m.Errors)
	d.sections("guide", m.Guide)
}

func (d *check) guide(g *Guide) {
	d.indicator("indicator", g.Indicator)
	d.text("title", g.Title)
	if len(g.Sections) == 0 {
		d.at("sections", "is empty")
	}
	d.sections("sections", g.Sections)
	d.errors("errors", g.Errors)
	if len(g.Sources) == 0 {
		d.at("sources", "is empty")
	}
	for i, s := range g.Sources {
		d.source("sources."+strconv.Itoa(i), s)
	}
}

// Models lists all models by id, with the complete guide of each.
func (c *Catalogue) Models() []*Model {
	out := make([]*Model, 0, len(c.order))
	for _, id := range c.order {
		out = append(out, c.models[id])
	}
	return out
}

// Find looks a model up by its id, or by a name that stands on the device.
func (c *Catalogue) Find(name string) (*Model, bool) {
	m, ok := c.alias[plain(name)]
	return m, ok && name != ""
}

// Guide is the generic guide of an indicator.
func (c *Catalogue) Guide(indicator string) (*Guide, bool) {
	g, ok := c.guides[indicator]
	return g, ok
}

// ErrorCodes are a model's own, and those that every device for its indicators has.
func (c *Catalogue) ErrorCodes(own []ErrorCode, indicators []string) []ErrorCode {
	out := slices.Clone(own)
	for _, i := range indicators {
		g := c.guides[i]
		if g == nil {
			continue
		}
		for _, e := range g.Errors {
			if !slices.ContainsFunc(out, func(o ErrorCode) bool { return o.Code == e.Code }) {
				out = append(out, e)
			}
		}
	}
	return out
}

// Explain finds what an error code means on a model (by its name; "" or an unknown one: on any device of the indicator).
// Codes are matched as they are shown or sent, without case.
func (c *Catalogue) Explain(model, indicator, code string) (ErrorCode, bool) {
	var own []ErrorCode
	if m, ok := c.Find(model); ok {
		own = m.Errors
	}
	same := func(s string) bool { return strings.EqualFold(s, code) }
	for _, e := range c.ErrorCodes(own, []string{indicator}) {
		if code != "" && (same(e.Code) || slices.ContainsFunc(e.Sent, same)) {
			return e, true
		}
	}
	return ErrorCode{}, false
}

// plain drops what people write differently.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}
