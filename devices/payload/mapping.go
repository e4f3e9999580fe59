package payload

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"vitalwatch/internal/strictyaml"
	"vitalwatch/vitals"
)

// Mapping is a format that an operator describes in YAML instead of code: where in a vendor's JSON the numbers stand,
// in which unit, and how it tells the time. docs/routes.md documents every key. It is checked when it is loaded and does
// not change afterwards.
type Mapping struct {
	Format string `yaml:"format"`
	Source string `yaml:"source"`
	Items  string `yaml:"items"`

	Time     mappedTime      `yaml:"time"`
	ID       string          `yaml:"id"`
	Seq      string          `yaml:"seq"`
	UserSlot string          `yaml:"user_slot"`
	Skip     []mappedSkip    `yaml:"skip"`
	Readings []mappedReading `yaml:"readings"`

	items, id, seq, slot jpath
}

type mappedTime struct {
	Path     string `yaml:"path"`
	Format   string `yaml:"format"`
	Layout   string `yaml:"layout"`
	Zone     string `yaml:"zone"`
	ZonePath string `yaml:"zone_path"`
	Received bool   `yaml:"received"`

	path, zonePath jpath
	layout         []byte
	location       *time.Location // nil: the device's
}

type mappedSkip struct {
	When   conditions `yaml:"when"`
	Reason string     `yaml:"reason"`

	when []condition
}

type mappedReading struct {
	When          conditions            `yaml:"when"`
	Optional      bool                  `yaml:"optional"`
	Indicator     string                `yaml:"indicator"`
	IndicatorFrom lookup                `yaml:"indicator_from"`
	Unit          string                `yaml:"unit"`
	UnitFrom      lookup                `yaml:"unit_from"`
	Values        map[string]string     `yaml:"values"`
	Flags         map[string]conditions `yaml:"flags"`
	Meal          lookup                `yaml:"meal"`
	Activity      lookup                `yaml:"activity"`
	Context       map[string]string     `yaml:"context"`

	when      []condition
	indicator vitals.Indicator // 0: from the lookup
	unit      vitals.Unit      // 0: from the lookup
	values    []mappedValue
	flags     []mappedFlag
	context   []mappedMember
}

// conditions are the values that a path may have: all paths must have one of theirs.
type conditions map[string][]string

type condition struct {
	path jpath
	in   []string
}

// lookup reads a text and translates it; without a map it is taken as it is.
type lookup struct {
	Path string            `yaml:"path"`
	Map  map[string]string `yaml:"map"`

	path jpath
}

type mappedValue struct {
	c     vitals.Component
	path  jpath
	shift int     // power of ten of the scale, exact
	scale float64 // 1 when shift says it all
	add   float64
}

type mappedFlag struct {
	flag vitals.Flags
	when []condition
}

type mappedMember struct {
	name string
	path jpath
}

// jpath is a path into JSON: member names and array indexes.
type jpath []string

func (p jpath) of(v jval) jval {
	for _, step := range p {
		if v.kind() == jArray {
			k, err := strconv.Atoi(step)
			if err != nil || k < 0 {
				return jval{}
			}
			v = v.at(k)
		} else {
			v = v.get(step)
		}
	}
	return v
}

// word is a value as a mapping compares it: a string's text, a number as it was written, true, false, "" when it is
// not there.
func (v jval) word() string {
	switch v.kind() {
	case jString:
		s, _ := v.text()
		return string(s)
	case jNumber, jBool:
		return string(v.raw())
	}
	return ""
}

// configured are the formats of the operator's mappings, replaced as a whole.
var configured atomic.Pointer[map[string]*Mapping]

// UseMappings makes these mappings the configured formats of the process, in place of those before. It fails, and
// changes nothing, when a name is taken.
func UseMappings(ms []*Mapping) error {
	next := make(map[string]*Mapping, len(ms))
	for _, m := range ms {
		if _, taken := decoders[m.Format]; taken || next[m.Format] != nil {
			return fmt.Errorf("mapping %s: the name is taken by another format", m.Format)
		}
		next[m.Format] = m
	}
	configured.Store(&next)
	return nil
}

// mapped returns the decoder of a configured format.
func mapped(format string) (Decoder, bool) {
	m := mappingOf(format)
	if m == nil {
		return nil, false
	}
	return m.Decode, true
}

// mappingOf returns a mapping that is in use, nil for none.
func mappingOf(format string) *Mapping {
	p := configured.Load()
	if p == nil {
		return nil
	}
	return (*p)[strings.TrimPrefix(format, "map:")]
}

// Formats lists the names of all formats, built in and configured, in order.
func Formats() []string {
	names := slices.Collect(maps.Keys(decoders))
	if p := configured.Load(); p != nil {
		names = slices.AppendSeq(names, maps.Keys(*p))
	}
	slices.Sort(names)
	return names
}

// LoadMappings reads all *.yaml of the folders, a later one over an earlier one of the same name. The error lists every
// mistake with its place.
func LoadMappings(folders ...MappingFolder) ([]*Mapping, error) {
	var errs []error
	byName := map[string]*Mapping{}
	for _, f := range folders {
		files, err := fs.Glob(f.FS, "*.yaml")
		if err != nil {
			return nil, fmt.Errorf("mappings %s: %w", f.Name, err)
		}
		here := map[string]string{}
		for _, file := range files {
			name := path.Join(f.Name, file)
			b, err := fs.ReadFile(f.FS, file)
			if err != nil {
				errs = append(errs, fmt.Errorf("mapping %s: %w", name, err))
				continue
			}
			m, doc := readMapping(name, b)
			if other, twice := here[m.Format]; twice && m.Format != "" {
				doc.Errorf([]string{"format"}, "%s is taken by %s", m.Format, other)
			}
			here[m.Format] = name
			if err := doc.Err(); err != nil {
				errs = append(errs, err)
				continue
			}
			byName[m.Format] = m
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var out []*Mapping
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out, nil
}

// MappingFolder is a folder of mappings; Name stands in messages.
type MappingFolder struct {
	Name string
	FS   fs.FS
}

// ParseMapping reads one mapping, called file in messages.
func ParseMapping(file string, data []byte) (*Mapping, error) {
	m, doc := readMapping(file, data)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return m, nil
}

func readMapping(file string, data []byte) (*Mapping, *strictyaml.Document) {
	m := new(Mapping)
	doc := strictyaml.Read(file, data, m)
	m.compile(&checker{doc})
	return m, doc
}

var (
	formatName   = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	valueFormula = regexp.MustCompile(`^(\S+)(?:\s+([*/])\s+([0-9.eE+-]+))?(?:\s+([+-])\s+([0-9.eE]+))?$`)
)

type checker struct{ doc *strictyaml.Document }

func (c *checker) errorf(at []string, format string, args ...any) { c.doc.Errorf(at, format, args...) }

func (c *checker) path(at []string, s string) jpath {
	if s == "" {
		return nil
	}
	p := jpath(strings.Split(s, "."))
	if slices.Contains(p, "") || len(p) > maxDepth {
		c.errorf(at, "%q is not a path; write names and list indexes with dots between them, such as data.0.value", s)
	}
	return p
}

func (c *checker) conditions(at []string, cs conditions) (out []condition) {
	for _, key := range slices.Sorted(maps.Keys(cs)) {
		here := append(slices.Clone(at), key)
		if len(cs[key]) == 0 {
			c.errorf(here, "name at least one value, such as [1]")
		}
		out = append(out, condition{c.path(here, key), cs[key]})
	}
	return out
}

func (c *checker) lookup(at []string, l *lookup, known func(string) bool, what string) {
	if l.Path == "" {
		if l.Map != nil {
			c.errorf(at, "path is missing")
		}
		return
	}
	l.path = c.path(append(slices.Clone(at), "path"), l.Path)
	for _, key := range slices.Sorted(maps.Keys(l.Map)) {
		if !known(l.Map[key]) {
			c.errorf(append(slices.Clone(at), "map", key), "%q is not %s", l.Map[key], what)
		}
	}
}

func (m *Mapping) compile(c *checker) {
	switch {
	case !formatName.MatchString(m.Format):
		c.errorf([]string{"format"}, "%q is not a name of a format: up to 32 of a-z 0-9 _ -, a letter first", m.Format)
	case decoders[m.Format] != nil:
		c.errorf([]string{"format"}, "%s is a built-in format; choose another name", m.Format)
	}
	if m.Source == "" {
		c.errorf([]string{"source"}, "is missing; say where the layout is described")
	}
	m.items = c.path([]string{"items"}, m.Items)
	m.id = c.path([]string{"id"}, m.ID)
	m.seq = c.path([]string{"seq"}, m.Seq)
	m.slot = c.path([]string{"user_slot"}, m.UserSlot)
	m.Time.compile(c)
	for i := range m.Skip {
		s, at := &m.Skip[i], []string{"skip", strconv.Itoa(i)}
		if len(s.When) == 0 {
			c.errorf(at, "when is missing")
		}
		s.when = c.conditions(append(at, "when"), s.When)
		if s.Reason == "" {
			c.errorf(at, "reason is missing; say what such items are")
		}
	}
	if len(m.Readings) == 0 {
		c.errorf([]string{"readings"}, "is missing; describe at least one reading")
	}
	for i := range m.Readings {
		m.Readings[i].compile(c, []string{"readings", strconv.Itoa(i)})
	}
}

func (t *mappedTime) compile(c *checker) {
	at := func(key string) []string { return []string{"time", key} }
	t.path, t.zonePath = c.path(at("path"), t.Path), c.path(at("zone_path"), t.ZonePath)
	if t.Received == (t.Path != "") {
		c.errorf([]string{"time"}, "name the path of the time, or received: true when the message has none")
		return
	}
	if t.Received {
		if t.Format != "" || t.Zone != "" || t.ZonePath != "" || t.Layout != "" {
			c.errorf([]string{"time"}, "received stands alone")
		}
		return
	}
	local := strings.HasPrefix(t.Format, "local")
	switch t.Format {
	case "rfc3339", "unix_s", "unix_ms", "local_s", "local_ms":
		if t.Layout != "" {
			c.errorf(at("layout"), "goes with format: local only")
		}
	case "local":
		if t.Layout == "" {
			t.Layout = "YYYY-MM-DD hh:mm:ss"
		}
		for _, token := range []string{"YYYY", "MM", "DD", "hh", "mm"} {
			if strings.Count(t.Layout, token) != 1 {
				c.errorf(at("layout"), "must have %s once, as in YYYY-MM-DD hh:mm:ss", token)
			}
		}
		t.layout = []byte(t.Layout)
	default:
		c.errorf(at("format"), "%q is none of rfc3339, unix_s, unix_ms, local, local_s, local_ms", t.Format)
		return
	}
	switch {
	case !local && (t.Zone != "" || t.ZonePath != ""):
		c.errorf([]string{"time"}, "a zone goes with local times only")
	case local && (t.Zone != "") == (t.ZonePath != ""):
		c.errorf([]string{"time"}, "a local time needs zone: device, an offset such as +08:00 or a name such as Asia/Shanghai; or zone_path")
	case t.Zone == "" || t.Zone == "device":
	default:
		if off, ok := parseOffset([]byte(t.Zone)); ok {
			t.location = time.FixedZone(t.Zone, int(off)*60)
		} else if loc, err := time.LoadLocation(t.Zone); err == nil && t.Zone != "Local" {
			t.location = loc
		} else {
			c.errorf(at("zone"), "%q is no zone; write device, an offset such as +08:00 or a name such as Asia/Shanghai", t.Zone)
		}
	}
}

func (r *mappedReading) compile(c *checker, at []string) {
	key := func(k ...string) []string { return append(slices.Clone(at), k...) }
	r.when = c.conditions(key("when"), r.When)
	var known bool
	switch r.indicator, known = vitals.ParseIndicator(r.Indicator); {
	case (r.Indicator != "") == (r.IndicatorFrom.Path != ""):
		c.errorf(at, "name indicator or indicator_from, one of them")
	case r.Indicator != "" && !known:
		c.errorf(key("indicator"), "%q is no indicator", r.Indicator)
	}
	c.lookup(key("indicator_from"), &r.IndicatorFrom, func(s string) bool { _, ok := vitals.ParseIndicator(s); return ok }, "an indicator")
	switch r.unit, known = vitals.ParseUnit(r.Unit); {
	case (r.Unit != "") == (r.UnitFrom.Path != ""):
		c.errorf(at, "name unit or unit_from, one of them: a unit is never guessed")
	case r.Unit != "" && !known:
		c.errorf(key("unit"), "%q is no unit; write a UCUM code such as mm[Hg], mmol/L, /min", r.Unit)
	case r.Unit != "" && r.indicator != 0 && !r.indicator.Accepts(r.unit):
		c.errorf(key("unit"), "%s is not a unit of %s", r.Unit, r.Indicator)
	}
	c.lookup(key("unit_from"), &r.UnitFrom, func(s string) bool { _, ok := vitals.ParseUnit(s); return ok }, "a unit")
	c.lookup(key("meal"), &r.Meal, func(s string) bool { return vitals.ParseMeal(s) != 0 || s == "" }, "a relation to a meal: fasting, before_meal, after_meal, casual, bedtime")
	c.lookup(key("activity"), &r.Activity, func(s string) bool { return vitals.ParseActivity(s) != 0 || s == "" }, "an activity: resting, active")
	var have uint8
	for _, name := range slices.Sorted(maps.Keys(r.Values)) {
		comp, ok := vitals.ParseComponent(name)
		i := r.indicator.Index(comp)
		if !ok || r.indicator != 0 && i < 0 {
			c.errorf(key("values", name), "is not a component of %s", cmp.Or(r.Indicator, "an indicator"))
			continue
		}
		if i >= 0 {
			have |= 1 << i
		}
		f := valueFormula.FindStringSubmatch(r.Values[name])
		if f == nil {
			c.errorf(key("values", name), "%q is not a path, with a scale behind it or without: sys, temp * 0.1, temp / 10 + 30", r.Values[name])
			continue
		}
		v := mappedValue{c: comp, path: c.path(key("values", name), f[1]), scale: 1}
		if !v.formula(f[2], f[3], f[4], f[5]) {
			c.errorf(key("values", name), "the scale is not a number other than 0")
		}
		r.values = append(r.values, v)
	}
	if req := r.indicator.Required(); have&req != req || len(r.Values) == 0 {
		c.errorf(at, "values lacks a required component of %s", cmp.Or(r.Indicator, "the indicator"))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Flags)) {
		f := vitals.ParseFlag(name)
		if f == 0 {
			c.errorf(key("flags", name), "there is no such flag")
		}
		if len(r.Flags[name]) == 0 {
			c.errorf(key("flags", name), "say when: {path: [values]}")
		}
		r.flags = append(r.flags, mappedFlag{f, c.conditions(key("flags", name), r.Flags[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Context)) {
		if !formatName.MatchString(name) || name == "meal" || name == "activity" {
			c.errorf(key("context", name), "is not a name that is free: a-z 0-9 _ -, not meal, not activity")
		}
		r.context = append(r.context, mappedMember{name, c.path(key("context", name), r.Context[name])})
	}
}

// formula reads the scale and what is added.
func (v *mappedValue) formula(op, scale, sign, add string) bool {
	if op != "" {
		s := scanner{b: []byte(scale)}
		n, ok := s.number()
		f, finite := n.float()
		if !ok || s.i != len(scale) || !finite || f == 0 {
			return false
		}
		// Powers of ten move the decimal point and so round once: 366 * 0.1 is 36.6.
		power, m := n.exp, n.m
		for ; n.exact && m > 1 && m%10 == 0; m /= 10 {
			power++
		}
		switch {
		case n.exact && m == 1 && !n.neg && op == "*":
			v.shift = power
		case n.exact && m == 1 && !n.neg:
			v.shift = -power
		case op == "*":
			v.scale = f
		default:
			v.scale = 1 / f
		}
	}
	if sign != "" {
		f, ok := decimal(add)
		if !ok {
			return false
		}
		if sign == "-" {
			f = -f
		}
		v.add = f
	}
	return true
}

// of returns the value of a number of the message.
func (v *mappedValue) of(n number, f float64) float64 {
	if v.shift != 0 {
		n.exp += v.shift
		if n.exact && n.m <= 1<<53 && n.exp > -len(pow10) && n.exp < len(pow10) {
			if f = float64(n.m); n.exp < 0 {
				f /= pow10[-n.exp]
			} else {
				f *= pow10[n.exp]
			}
			if n.neg {
				f = -f
			}
		} else {
			f = medfloat{m: 1, exp: int8(max(min(v.shift, 100), -100))}.value() * f
		}
	}
	return f*v.scale + v.add
}
