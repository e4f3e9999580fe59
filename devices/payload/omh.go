package payload

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// Open mHealth (openmhealth.org schemas, namespace omh) and IEEE 1752.1 (namespace ieee): a data point of header and
// body, a data series whose body is an array, a bare body, or an array of them. The schema is what the header says,
// else what follows the format in the topic (up/omh/blood-pressure), else the one whose measure the body has. Latest
// versions are meant where nothing says a version: blood-pressure 4.0, blood-glucose 4.0, heart-rate 2.0,
// oxygen-saturation 2.0, body-temperature 4.0, body-weight 3.0, step-count 3.0, sleep-duration 2.0, respiratory-rate 2.0.

func init() { register("omh", decodeOMH) }

// omhSchema is what a schema of a measure says.
type omhSchema struct {
	field    string // the measure in the body
	ind      vitals.Indicator
	comp     vitals.Component
	units    []omhUnit
	latest   int  // major version
	interval bool // a count or a duration has a time interval and no instant
	count    bool // before version 2 a bare integer
	rr       bool // the time between two beats, see omhBody.beats
}

type omhUnit struct {
	word string
	unit vitals.Unit // NoUnit: in the schema and not one of ours
}

var (
	omhPressure    = []omhUnit{{"mmHg", vitals.MmHg}}
	omhDuration    = []omhUnit{{"h", vitals.Hours}, {"min", vitals.Minutes}, {"sec", vitals.Seconds}, {"d", 0}, {"wk", 0}, {"ms", 0}, {"us", 0}, {"ns", 0}, {"ps", 0}, {"Mo", 0}, {"yr", 0}}
	omhMass        = []omhUnit{{"kg", vitals.Kg}, {"lb", vitals.Lb}, {"g", vitals.Gram}, {"oz", vitals.Ounce}, {"fg", 0}, {"pg", 0}, {"ng", 0}, {"ug", 0}, {"mg", 0}, {"Metric Ton", 0}, {"gr", 0}, {"Ton", 0}}
	omhLength      = []omhUnit{{"cm", vitals.Cm}, {"m", vitals.Metre}, {"in", vitals.Inch}, {"ft", 0}, {"fm", 0}, {"pm", 0}, {"nm", 0}, {"um", 0}, {"mm", 0}, {"km", 0}, {"yd", 0}, {"mi", 0}}
	omhTemperature = []omhUnit{{"C", vitals.Cel}, {"F", vitals.DegF}, {"K", vitals.Kelvin}}
	omhPercent     = []omhUnit{{"%", vitals.Percent}}
	omhFlow        = []omhUnit{{"L/min", 0}}
)

// omhSchemas by name, as header.schema_id.name has it.
var omhSchemas = map[string]*omhSchema{
	"blood-pressure":      {field: "systolic_blood_pressure", ind: vitals.BloodPressure, comp: vitals.Systolic, units: omhPressure, latest: 4},
	"blood-glucose":       {field: "blood_glucose", ind: vitals.Glucose, units: []omhUnit{{"mg/dL", vitals.MgDL}, {"mmol/L", vitals.MmolL}}, latest: 4},
	"heart-rate":          {field: "heart_rate", ind: vitals.HeartRate, units: []omhUnit{{"beats/min", vitals.PerMin}}, latest: 2},
	"oxygen-saturation":   {field: "oxygen_saturation", ind: vitals.SpO2, units: omhPercent, latest: 2},
	"body-temperature":    {field: "body_temperature", ind: vitals.Temperature, units: omhTemperature, latest: 4},
	"body-weight":         {field: "body_weight", ind: vitals.Weight, units: omhMass, latest: 3},
	"body-height":         {field: "body_height", ind: vitals.Height, units: omhLength, latest: 1},
	"body-fat-percentage": {field: "body_fat_percentage", ind: vitals.BodyFat, units: omhPercent, latest: 1},
	"respiratory-rate":    {field: "respiratory_rate", ind: vitals.Respiration, units: []omhUnit{{"breaths/min", vitals.PerMin}}, latest: 2},
	"step-count":          {field: "step_count", ind: vitals.Steps, units: []omhUnit{{"steps", vitals.StepCount}}, latest: 3, interval: true, count: true},
	"sleep-duration":      {field: "sleep_duration", ind: vitals.Sleep, comp: vitals.Total, units: omhDuration, latest: 2, interval: true},
	"total-sleep-time":    {field: "total_sleep_time", ind: vitals.Sleep, comp: vitals.Total, units: omhDuration, latest: 1, interval: true},
	"sleep-episode":       {field: "total_sleep_time", ind: vitals.Sleep, comp: vitals.Total, units: omhDuration, latest: 1, interval: true},
	"rr-interval":         {field: "rr_interval", ind: vitals.HeartRate, units: []omhUnit{{"ms", vitals.Milli}}, latest: 1, rr: true},
}

// omhByField finds the schema of a bare body.
var omhByField = func() map[string]*omhSchema {
	m := map[string]*omhSchema{"diastolic_blood_pressure": omhSchemas["blood-pressure"]}
	for _, s := range omhSchemas {
		if m[s.field] == nil {
			m[s.field] = s
		}
	}
	for _, field := range []string{"total_sleep_time", "light_sleep_duration", "deep_sleep_duration", "rem_sleep_duration", "is_main_sleep", "number_of_awakenings"} {
		m[field] = omhSchemas["sleep-episode"]
	}
	return m
}()

// omhEnum is a field whose words the schemas list; what each says goes into the context under key.
type omhEnum struct {
	words string // with | around each
	key   string
}

func (e omhEnum) has(word []byte) bool {
	if len(word) == 0 || len(word) > 40 || bytes.IndexByte(word, '|') >= 0 {
		return false
	}
	var b [42]byte
	b[0] = '|'
	n := copy(b[1:], word)
	b[n+1] = '|'
	return strings.Contains(e.words, string(b[:n+2]))
}

// The words of all versions together. Where a version renamed a field both names stand here.
var omhEnums = map[string]omhEnum{
	"temporal_relationship_to_meal":              {"|fasting|not fasting|before meal|after meal|before breakfast|after breakfast|before lunch|after lunch|before dinner|after dinner|before snack|after snack|2 hours postprandial|with meal|with food|bedtime|", "meal_relation"},
	"temporal_relationship_to_sleep":             {"|before sleeping|during sleep|on waking|", "sleep_relation"},
	"temporal_relationship_to_physical_activity": {"|at rest|active|before exercise|after exercise|during exercise|", "activity_relation"},
	"body_posture":                          {"|sitting|lying down|standing|semi-recumbent|", "posture"},
	"position_during_measurement":           {"|sitting|lying down|standing|semi-recumbent|", "posture"},
	"specimen_source":                       {"|arterial blood|capillary blood|cerebrospinal fluid|interstitial fluid|plasma|serum|tears|urine|venous blood|whole blood|", "specimen"},
	"blood_specimen_type":                   {"|whole blood|plasma|serum|", "specimen"},
	"descriptive_statistic":                 {"|average|count|lower quartile|maximum|median|minimum|quartile deviation|standard deviation|sum|upper quartile|variance|20th percentile|80th percentile|nadir|", ""},
	"descriptive_statistic_denominator":     {"|ps|ns|us|ms|sec|min|h|d|wk|Mo|yr|session|episode|", ""},
	"system":                                {"|peripheral capillary|", "system"},
	"measurement_system":                    {"|peripheral capillary|", "system"},
	"measurement_method":                    {"|pulse oximetry|", "method"},
	"oxygen_therapy_mode_of_administration": {"|nasal cannula|", "oxygen_mode"},
}

var (
	omhSites     = omhEnum{"|axillary|core|ear|esophageal|finger|forehead|groin|oral|rectal|temporal artery|toe|tympanic|vaginal|wrist|left wrist|right wrist|", "site"}
	omhLocations = omhEnum{"|ankle|arm|calf|chest|ear|earlobe|elbow|finger|foot|forearm|forehead|hand|hip|knee|leg|lower leg|neck|shoulder|thigh|toe|upper arm|waist|wrist|", "location"}
	omhParts     = omhEnum{"|morning|afternoon|evening|night|", ""}
)

// partStarts: no schema says when a part of the day begins; six hours each, as we read them.
var partStarts = map[string]vitals.Micros{"night": 0, "morning": 6 * vitals.Hour, "afternoon": 12 * vitals.Hour, "evening": 18 * vitals.Hour}

var omhSiteNames = map[string]string{"axillary": "armpit", "oral": "mouth", "rectal": "rectum", "tympanic": "tympanum", "temporal artery": "temporal_artery"}

type omhMessage struct{ message }

func decodeOMH(in Input, dst []Item) ([]Item, error) {
	t, root, p := parseTree(in.Payload)
	if p != nil {
		return dst, p
	}
	defer t.free()
	m := omhMessage{message{in: in, dst: dst, base: len(dst)}}
	var h omhHeader
	if in.Sub != "" {
		name, version, _ := strings.Cut(in.Sub, "/")
		if h.schema = omhSchemas[name]; h.schema == nil {
			return dst, &Problem{Code: IndicatorUnknown, Detail: "the topic names a schema that is not known here; publish to up/omh and let the header say it", Offset: -1}
		}
		h.version = majorVersion([]byte(version))
	}
	switch root.kind() {
	case jObject:
		m.point(root, h)
	case jArray:
		for v := range root.children() {
			m.point(v, h)
		}
	default:
		p = &Problem{Code: TypeWrong, Detail: "the message must be an Open mHealth data point, a body, or an array of them", Offset: 0}
	}
	return m.end(p)
}

func (m *omhMessage) refuse(code, detail string, at jval) {
	m.fail(m.item(), code, detail, at.offset())
}

// omhHeader is what counts of a header.
type omhHeader struct {
	schema       *omhSchema
	version      int // major, 0 for not said
	ieee         bool
	id           string
	selfReported bool
	source       jval
}

// point reads a data point, a data series, an array wrapped in an object as Shimmer answers, or a bare body.
func (m *omhMessage) point(v jval, h omhHeader) {
	if v.kind() != jObject {
		m.refuse(TypeWrong, "every item must be a data point or a body", v)
		return
	}
	if v.dup() {
		m.refuse(JSONInvalid, "the same key stands twice in one object; which one counts is not guessed", v)
		return
	}
	header, body := v.get("header"), v.get("body")
	switch {
	case !header.there() && !body.there():
		m.body(v, h, 0)
		return
	case !header.there() && body.kind() == jArray:
		for b := range body.children() {
			if b.get("body").kind() == jArray {
				m.refuse(TypeWrong, "a data series within another", b)
				continue
			}
			m.point(b, h)
		}
		return
	case !header.there():
		m.refuse(FieldMissing, "header is missing", v)
		return
	case !body.there():
		m.refuse(FieldMissing, "body is missing", v)
		return
	}
	if code, detail, at := h.read(header); code != "" {
		m.refuse(code, detail, at)
		return
	}
	switch body.kind() {
	case jObject:
		m.body(body, h, 0)
	case jArray: // IEEE 1752.1 data series
		n := 0
		for b := range body.children() {
			n++
			m.body(b, h, n)
		}
	default:
		m.refuse(TypeWrong, "body must be an object, or an array of them", body)
	}
}

// read checks a header: omh header 1.x and 2.x, and that of IEEE 1752.1.
func (h *omhHeader) read(v jval) (code, detail string, at jval) {
	if v.kind() != jObject {
		return TypeWrong, "header must be an object", v
	}
	id := v.first("id", "uuid")
	raw, isText := id.text()
	switch {
	case !id.there():
		return FieldMissing, "the header has no id", v
	case !isText || len(raw) == 0 || len(raw) > MaxIDBytes:
		return TypeWrong, "the header's id must be a string of at most 128 bytes", id
	}
	h.id = string(raw)
	created := v.first("creation_date_time", "source_creation_date_time")
	if !created.there() {
		return FieldMissing, "the header has no creation_date_time", v
	}
	if raw, isText = created.text(); !isText {
		return TypeWrong, "creation_date_time must be a string", created
	} else if _, _, verdict := parseTime(raw); verdict == timeBad {
		return TimeInvalid, "creation_date_time is not an RFC 3339 time", created
	}
	schema := v.get("schema_id")
	name, version, namespace := schema.get("name"), schema.get("version"), schema.get("namespace")
	switch {
	case !schema.there() || !name.there() || !version.there() || !namespace.there():
		return FieldMissing, "the header's schema_id must have namespace, name and version", v
	case name.kind() != jString || version.kind() != jString || namespace.kind() != jString:
		return TypeWrong, "namespace, name and version of schema_id must be strings", schema
	}
	raw, _ = version.text()
	major := majorVersion(raw)
	if major < 0 {
		return TypeWrong, "version of schema_id must be like 4.0", version
	}
	word, _ := name.text()
	s := omhSchemas[string(word)]
	switch {
	case s == nil:
		return IndicatorUnknown, "the schema is of nothing that is watched here", name
	case h.schema != nil && h.schema != s:
		return TypeWrong, "topic and header name different schemas", name
	}
	h.schema, h.version = s, major
	raw, _ = namespace.text()
	h.ieee = bytes.HasPrefix(raw, []byte("ieee"))
	provenance := v.get("acquisition_provenance")
	modality := provenance.get("modality")
	if provenance.there() {
		if src := provenance.get("source_name"); !src.there() {
			return FieldMissing, "acquisition_provenance has no source_name", provenance
		} else if src.kind() != jString {
			return TypeWrong, "source_name must be a string", src
		}
		if made := provenance.get("source_creation_date_time"); made.there() {
			if raw, isText := made.text(); !isText {
				return TypeWrong, "source_creation_date_time must be a string", made
			} else if _, _, verdict := parseTime(raw); verdict == timeBad {
				return TimeInvalid, "source_creation_date_time is not an RFC 3339 time", made
			}
		}
		h.source = provenance.get("source_name")
	}
	if !modality.there() {
		modality = v.get("modality")
	}
	if modality.there() {
		raw, isText := modality.text()
		switch string(raw) {
		case "sensed":
		case "self-reported":
			h.selfReported = true
		default:
			if !isText {
				return TypeWrong, "modality must be a string", modality
			}
			return EnumUnknown, "modality must be sensed or self-reported", modality
		}
	}
	if user := v.get("user_id"); user.there() && user.kind() != jString { // who it is, the registry knows: not kept
		return TypeWrong, "user_id must be a string", user
	}
	return "", "", v
}

// majorVersion reads "4.0", "1.0.3", "2.x"; -1 for anything else, 0 for "".
func majorVersion(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	n, i := 0, 0
	for ; i < len(b) && b[i]-'0' <= 9 && n < 1000; i++ {
		n = n*10 + int(b[i]-'0')
	}
	if i == 0 || i == len(b) || b[i] != '.' || n == 0 {
		return -1
	}
	for _, c := range b[i:] {
		if c-'0' > 9 && c != '.' && c != 'x' {
			return -1
		}
	}
	return n
}

// omhBody is one body while it is read.
type omhBody struct {
	schema   *omhSchema
	frame    jval
	measure  jval
	second   jval // diastolic
	stages   [4]jval
	stat     []byte
	perWhat  bool // descriptive_statistic_denominator is there
	context  contextObject
	aside    []byte
	vague    bool // the time is a part of a day
	interval bool
}

var omhStages = [4]struct {
	field string
	comp  vitals.Component
}{{"deep_sleep_duration", vitals.Deep}, {"light_sleep_duration", vitals.Light}, {"rem_sleep_duration", vitals.REM}, {"awake_duration", vitals.Awake}}

func (m *omhMessage) body(v jval, h omhHeader, nth int) {
	if v.kind() != jObject {
		m.refuse(TypeWrong, "body must be an object", v)
		return
	}
	b := omhBody{schema: h.schema}
	if b.schema == nil {
		for c := range v.children() {
			s := omhByField[string(c.name())]
			switch {
			case s == nil || s == b.schema:
			case b.schema == nil || b.schema == omhSchemas["sleep-episode"] && s.ind == vitals.Sleep:
				b.schema = s
			case s == omhSchemas["sleep-episode"] && b.schema.ind == vitals.Sleep: // its stages
			default:
				m.refuse(TypeWrong, "the body has measures of two schemas; send one data point per measure", c)
				return
			}
		}
	}
	switch {
	case b.schema == nil:
		m.refuse(FieldMissing, "the body has no measure of a schema that is known here, such as systolic_blood_pressure or blood_glucose", v)
		return
	}
	it := m.item()
	code, detail, at := m.read(it, &b, v, h, nth)
	if code != "" {
		m.fail(it, code, detail, at.offset())
	}
}

func (m *omhMessage) read(it *Item, b *omhBody, v jval, h omhHeader, nth int) (code, detail string, at jval) {
	r := &it.Reading
	r.Indicator = b.schema.ind
	for c := range v.children() {
		if code, detail = b.member(r, c); code != "" {
			return code, detail, c
		}
	}
	if code, detail, at = b.values(r, v, h); code != "" {
		return code, detail, at
	}
	if !b.frame.there() {
		return FieldMissing, "effective_time_frame is missing; without the time of the measurement there is no reading", v
	}
	old := h.version > 0 && h.version < b.schema.latest && !h.ieee // 1752.1 begins at 1.0 without what omh dropped
	if code, detail = b.time(m.in, r, old); code != "" {
		return code, detail, b.frame
	}
	first := h.version == 1 && old || b.schema.count && b.measure.kind() == jNumber // the first versions took any time
	if b.schema.interval && !b.interval && !first {
		return TimeInvalid, "a count or a duration needs a time_interval; at an instant it has no meaning", b.frame
	}
	if code, detail = b.statistic(r); code != "" {
		return code, detail, v
	}
	if h.selfReported {
		r.Flags |= vitals.SelfReported
	}
	b.finish(r, h, nth)
	return "", "", v
}

// member checks one member of the body.
func (b *omhBody) member(r *vitals.Reading, c jval) (code, detail string) {
	key := c.name()
	switch string(key) {
	case b.schema.field:
		b.measure = c
		return "", ""
	case "effective_time_frame":
		b.frame = c
		return "", ""
	case "diastolic_blood_pressure":
		if r.Indicator == vitals.BloodPressure {
			b.second = c
			return "", ""
		}
	case "user_notes":
		if c.kind() != jString {
			return TypeWrong, "user_notes must be a string"
		}
		b.keep(c)
		return "", ""
	case "measurement_location":
		return b.location(r, c)
	case "descriptive_statistic_denominator":
		if b.perWhat = true; c.kind() == jObject { // a duration instead of a word
			return omhOther(c, omhDuration)
		}
	case "supplemental_oxygen_flow_rate":
		if code, detail = omhOther(c, omhFlow); code == "" {
			b.keep(c)
		}
		return code, detail
	}
	if r.Indicator == vitals.Sleep {
		if code, detail = b.night(c); code != "" {
			return code, detail
		}
		for i := range omhStages {
			if string(key) == omhStages[i].field {
				b.stages[i] = c
				return "", ""
			}
		}
	}
	e, known := omhEnums[string(key)]
	if !known {
		b.keep(c)
		return "", ""
	}
	word, isText := c.text()
	switch {
	case !isText:
		return TypeWrong, string(key) + " must be a string"
	case !e.has(word):
		return EnumUnknown, "the word of " + string(key) + " is none that the schema has"
	}
	switch string(key) {
	case "temporal_relationship_to_meal":
		r.Meal = omhMeal(string(word))
	case "temporal_relationship_to_sleep":
		if r.Indicator == vitals.Glucose && r.Meal == vitals.MealUnknown && string(word) == "before sleeping" {
			r.Meal = vitals.Bedtime
		}
		if string(word) == "during sleep" && r.Activity == vitals.ActivityUnknown {
			r.Activity = vitals.Resting
		}
	case "temporal_relationship_to_physical_activity":
		switch string(word) {
		case "at rest":
			r.Activity = vitals.Resting
		case "active", "during exercise":
			r.Activity = vitals.Active
		}
	case "descriptive_statistic":
		b.stat = word
	case "specimen_source":
		if s := string(word); s == "urine" || s == "tears" || s == "cerebrospinal fluid" {
			return NotAReading, "glucose of this specimen is not blood glucose"
		}
	}
	if e.key == "posture" && string(word) == "lying down" {
		word = word[:len("lying")]
	}
	if e.key != "" {
		b.context.word(e.key, string(word))
	}
	return "", ""
}

func omhMeal(word string) vitals.Meal {
	switch {
	case word == "fasting":
		return vitals.Fasting
	case word == "bedtime":
		return vitals.Bedtime
	case strings.HasPrefix(word, "before "):
		return vitals.BeforeMeal
	case strings.HasPrefix(word, "after "), word == "2 hours postprandial":
		return vitals.AfterMeal
	}
	return vitals.MealUnknown
}

func (b *omhBody) location(r *vitals.Reading, c jval) (code, detail string) {
	word, isText := c.text()
	if !isText {
		return TypeWrong, "measurement_location must be a string"
	}
	if r.Indicator == vitals.Temperature {
		if !omhSites.has(word) {
			return EnumUnknown, "measurement_location is none that the schema has"
		}
		site := string(word)
		if n := omhSiteNames[site]; n != "" {
			site = n
		}
		b.context.word("site", site)
		return "", ""
	}
	part := bytes.TrimPrefix(bytes.TrimPrefix(word, []byte("left ")), []byte("right "))
	if !omhLocations.has(part) {
		return EnumUnknown, "measurement_location is none that the schema has"
	}
	b.context.word("location", string(word))
	return "", ""
}

// keep puts a member aside as it was written.
func (b *omhBody) keep(c jval) {
	b.asideKey(string(c.name()))
	b.aside = appendCompact(b.aside, rawOf(c))
}

func rawOf(c jval) []byte {
	if !c.there() {
		return []byte("null")
	}
	return c.raw()
}

func (b *omhBody) asideKey(k string) {
	sep := byte(',')
	if b.aside == nil {
		sep, b.aside = '{', make([]byte, 0, 96)
	}
	b.aside = append(b.aside, sep)
	b.aside = appendText(b.aside, k)
	b.aside = append(b.aside, ':')
}

// appendText appends s as a JSON string.
func appendText[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// omhQuantity reads a unit-value; units is the schema's list.
func omhQuantity(q jval, units []omhUnit) (v float64, u vitals.Unit, code, detail string) {
	v, x, code, detail := omhUnitValue(q, units)
	if code == "" && x.unit == vitals.NoUnit {
		code, detail = UnitUnknown, "the schema has this unit, but no device measures in it"
	}
	return v, x.unit, code, detail
}

// omhOther checks a unit-value that is kept as it was written.
func omhOther(q jval, units []omhUnit) (code, detail string) {
	_, _, code, detail = omhUnitValue(q, units)
	return code, detail
}

func omhUnitValue(q jval, units []omhUnit) (v float64, u omhUnit, code, detail string) {
	if q.kind() != jObject {
		return 0, u, TypeWrong, "a measure must be an object of value and unit"
	}
	value, unit := q.get("value"), q.get("unit")
	switch {
	case !value.there():
		return 0, u, FieldMissing, "a measure has no value"
	case value.kind() != jNumber:
		return 0, u, TypeWrong, "value of a measure must be a number"
	case !unit.there():
		return 0, u, UnitMissing, "a measure has no unit; it is never guessed"
	}
	v, finite := value.float()
	if !finite {
		return 0, u, ValueInvalid, "value is not a finite number"
	}
	word, isText := unit.text()
	if !isText {
		return 0, u, TypeWrong, "unit of a measure must be a string"
	}
	for _, x := range units {
		if string(word) == x.word {
			return v, x, "", ""
		}
	}
	return 0, u, UnitUnknown, "the schema has no such unit"
}

// night checks what a sleep episode says besides durations; all of it is kept.
func (b *omhBody) night(c jval) (code, detail string) {
	switch string(c.name()) {
	case "is_main_sleep":
		if c.there() && c.kind() != jBool {
			return TypeWrong, "is_main_sleep must be true or false"
		}
	case "number_of_awakenings":
		if n, whole := c.integer(); c.there() && (!whole || n < 0) {
			return TypeWrong, "number_of_awakenings must be a whole number"
		}
	case "latency_to_sleep_onset", "latency_to_arising":
		return omhOther(c, omhDuration)
	case "sleep_efficiency_percentage", "sleep_maintenance_efficiency_percentage":
		return omhOther(c, omhPercent)
	}
	return "", ""
}

// stagesTotal is the total of a sleep episode that says its stages only: of all three, else nobody knows what lacks.
func (b *omhBody) stagesTotal(r *vitals.Reading, v jval) (code, detail string, at jval) {
	var total float64
	for i, q := range b.stages[:3] {
		if !q.there() {
			return FieldMissing, "total_sleep_time is missing, and deep, light and REM sleep are not all there to add up", v
		}
		x, u, code, detail := omhQuantity(q, b.schema.units)
		if code != "" {
			return code, detail, q
		}
		if i == 0 {
			r.Unit = u
		}
		total += vitals.Convert(x, u, r.Unit)
	}
	if math.IsInf(total, 0) {
		return ValueInvalid, "value is not a finite number", v
	}
	r.Set(vitals.Total, total)
	b.context.word("total_of", "stages")
	return "", "", v
}

// beats reads the time between two beats as a heart rate. It is shown and never judged: one beat that comes early is no
// fast heart. How far such times spread over an interval (SDNN) is the heart rate's variability.
func (b *omhBody) beats(r *vitals.Reading, ms float64) (code, detail string) {
	if string(b.stat) == "standard deviation" {
		r.Indicator, r.Unit, b.stat = vitals.HRV, vitals.Milli, nil
		r.Set(vitals.Value, ms)
		return "", ""
	}
	rate := 60000 / ms
	if !(ms > 0) || math.IsInf(rate, 0) {
		return ValueInvalid, "an rr_interval must be more than nothing"
	}
	r.Unit = vitals.PerMin
	r.Set(vitals.Value, rate)
	r.Flags |= vitals.DisplayOnly
	b.context.key("rr_ms")
	b.context.b = append(vitals.AppendNumber(append(b.context.b, '['), ms), ']')
	return "", ""
}

func (b *omhBody) values(r *vitals.Reading, v jval, h omhHeader) (code, detail string, at jval) {
	s := b.schema
	episode := s == omhSchemas["sleep-episode"] && !b.measure.there()
	if !b.measure.there() && !episode || s.ind == vitals.BloodPressure && !b.second.there() {
		return FieldMissing, "the measure of the schema is missing", v
	}
	if s.count && b.measure.kind() == jNumber && h.version <= 1 { // version 1: an integer, whose unit the schema fixes
		n, whole := b.measure.integer()
		if !whole || n < 0 {
			return TypeWrong, "step_count must be a whole number", b.measure
		}
		r.Set(vitals.Value, float64(n))
		r.Unit = vitals.StepCount
		return "", "", v
	}
	if episode {
		if code, detail, at = b.stagesTotal(r, v); code != "" {
			return code, detail, at
		}
		return b.stageValues(r, v)
	}
	x, u, code, detail := omhQuantity(b.measure, s.units)
	if code != "" {
		return code, detail, b.measure
	}
	if s.rr {
		code, detail = b.beats(r, x)
		return code, detail, b.measure
	}
	if s.count && (x < 0 || x != math.Trunc(x)) && b.stat == nil {
		return ValueInvalid, "a count must be a whole number", b.measure
	}
	r.Set(s.comp, x)
	r.Unit = u
	if b.second.there() {
		if x, _, code, detail = omhQuantity(b.second, s.units); code != "" { // the schema has one unit only
			return code, detail, b.second
		}
		r.Set(vitals.Diastolic, x)
	}
	return b.stageValues(r, v)
}

func (b *omhBody) stageValues(r *vitals.Reading, v jval) (code, detail string, at jval) {
	for i, q := range b.stages {
		if !q.there() {
			continue
		}
		x, u, code, detail := omhQuantity(q, b.schema.units)
		if code != "" {
			return code, detail, q
		}
		if u != r.Unit {
			b.keep(q)
			if x = vitals.Convert(x, u, r.Unit); math.IsInf(x, 0) {
				return ValueInvalid, "value is not a finite number", q
			}
		}
		r.Set(omhStages[i].comp, x)
	}
	return "", "", v
}

// time reads effective_time_frame: an instant, or an interval in one of its four forms. The time of an interval is its
// end, when the measure was complete.
func (b *omhBody) time(in Input, r *vitals.Reading, old bool) (code, detail string) {
	if b.frame.kind() != jObject {
		return TypeWrong, "effective_time_frame must be an object"
	}
	at, interval := b.frame.get("date_time"), b.frame.get("time_interval")
	switch {
	case at.there() && interval.there():
		return TypeWrong, "effective_time_frame has both date_time and time_interval"
	case at.there():
		r.TakenAt, r.OffsetMin, code, detail = foreignTime(at, in)
		return code, detail
	case !interval.there():
		return FieldMissing, "effective_time_frame has neither date_time nor time_interval"
	case interval.kind() != jObject:
		return TypeWrong, "time_interval must be an object"
	}
	b.interval = true
	start, end, duration := interval.get("start_date_time"), interval.get("end_date_time"), interval.get("duration")
	date, part := interval.get("date"), interval.get("part_of_day")
	forms := 0
	for _, v := range [...]jval{start, end, duration} {
		if v.there() {
			forms++
		}
	}
	if date.there() || part.there() {
		if forms > 0 {
			return TypeWrong, "a time_interval has one form only"
		}
		return b.partOfDay(in, r, date, part, old)
	}
	if forms != 2 {
		return FieldMissing, "a time_interval needs two of start_date_time, end_date_time and duration"
	}
	var from vitals.Micros
	var off int16
	if start.there() {
		if from, off, code, detail = foreignTime(start, in); code != "" {
			return code, detail
		}
	}
	if end.there() {
		if r.TakenAt, r.OffsetMin, code, detail = foreignTime(end, in); code != "" {
			return code, detail
		}
		if start.there() && r.TakenAt < from {
			return TimeInvalid, "the time_interval ends before it starts"
		}
	}
	if duration.there() {
		span, code, detail := omhSpan(duration)
		if code != "" {
			return code, detail
		}
		if start.there() {
			r.TakenAt, r.OffsetMin = from.Add(span), off
			if !taken(r.TakenAt) {
				return TimeInvalid, "the time_interval ends in no year of a measurement"
			}
		}
	}
	b.asideKey("time_interval")
	b.aside = appendCompact(b.aside, interval.raw())
	return "", ""
}

// omhSpan reads a duration. Months and years have no fixed length.
func omhSpan(q jval) (d time.Duration, code, detail string) {
	value, isNumber := q.get("value").float()
	word, isText := q.get("unit").text()
	var unit float64
	switch string(word) {
	case "ps", "ns":
		unit = 0
	case "us":
		unit = 1e3
	case "ms":
		unit = 1e6
	case "sec":
		unit = 1e9
	case "min":
		unit = 60e9
	case "h":
		unit = 3600e9
	case "d":
		unit = 86400e9
	case "wk":
		unit = 7 * 86400e9
	case "Mo", "yr":
		return 0, TimeInvalid, "a month or a year is no fixed duration; send start_date_time and end_date_time"
	default:
		if !isText {
			return 0, TypeWrong, "duration must be an object of value and unit"
		}
		return 0, UnitUnknown, "a duration has no such unit"
	}
	switch {
	case !isNumber:
		return 0, TypeWrong, "duration must be an object of value and unit"
	case value < 0 || value*unit > 10*366*86400e9:
		return 0, TimeInvalid, "a duration is negative or longer than ten years"
	}
	return time.Duration(math.Round(value * unit)), "", ""
}

// partOfDay reads a date and a part of the day, which the first versions had. It is no instant: such a reading is shown
// and never judged, and only where the version is said and the device has a time zone.
func (b *omhBody) partOfDay(in Input, r *vitals.Reading, date, part jval, old bool) (code, detail string) {
	day, _ := date.text()
	word, _ := part.text()
	switch {
	case !date.there() || !part.there():
		return FieldMissing, "a time_interval needs both date and part_of_day, or start_date_time and end_date_time"
	case !omhParts.has(word):
		return EnumUnknown, "part_of_day must be morning, afternoon, evening or night"
	case !old:
		return TimeInvalid, "the schema has no date and part_of_day any more; send start_date_time and end_date_time"
	case in.DeviceTZ == nil:
		return TimeInvalid, "a date and a part of the day say no instant, and the device has no time zone; send start_date_time and end_date_time"
	case len(day) != len("2006-01-02"):
		return TimeInvalid, "date must be like 2026-11-21"
	}
	var buf [32]byte
	t, _, verdict := parseTime(append(append(buf[:0], day...), "T00:00:00Z"...))
	if verdict != timeGood || !taken(t) {
		return TimeInvalid, "date must be like 2026-11-21"
	}
	r.TakenAt, r.OffsetMin = fromWall(t+partStarts[string(word)], in.DeviceTZ)
	b.vague = true
	b.context.word("part_of_day", string(word))
	return "", ""
}

// statistic judges descriptive_statistic. An average, extreme or median of several measurements is shown and never
// judged; a spread or a number of measurements is no value of the indicator at all.
func (b *omhBody) statistic(r *vitals.Reading) (code, detail string) {
	switch string(b.stat) {
	case "":
		if b.perWhat && r.Indicator != vitals.HRV {
			return FieldMissing, "descriptive_statistic_denominator says what a statistic is per, and there is no descriptive_statistic"
		}
		return "", ""
	case "average", "maximum", "minimum", "median":
	case "sum":
		if b.schema.interval {
			return "", "" // steps and hours of an interval are a sum by nature
		}
		return NotAReading, "a sum of measurements is not a reading"
	default:
		return NotAReading, "a spread, quantile or number of measurements is not a reading"
	}
	r.Flags |= vitals.DisplayOnly
	return "", ""
}

func (b *omhBody) finish(r *vitals.Reading, h omhHeader, nth int) {
	b.context.word("meal", r.Meal.String())
	b.context.word("activity", r.Activity.String())
	x := vitals.Extra{Context: b.context.String(), DeviceReadingID: h.id}
	if nth > 1 && h.id != "" { // the first of a series is the series' own id, as of a single point
		x.DeviceReadingID = h.id + "/" + strconv.Itoa(nth)
	}
	if b.stat != nil && r.Flags&vitals.DisplayOnly != 0 {
		x.OtherFlags = "statistic_" + string(b.stat)
	}
	if b.vague {
		r.Flags |= vitals.DisplayOnly
		if x.OtherFlags != "" {
			x.OtherFlags += ","
		}
		x.OtherFlags += "time_approximate"
	}
	if h.source.there() {
		b.asideKey("source_name")
		b.aside = append(b.aside, h.source.raw()...)
	}
	if b.aside != nil {
		x.Aside = string(append(b.aside, '}'))
	}
	if x != (vitals.Extra{}) {
		r.Extra = &x
	}
}
