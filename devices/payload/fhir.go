package payload

import (
	"bytes"

	"vitalwatch/vitals"
)

// FHIR R4 (hl7.org/fhir/R4: Observation, Bundle, vital signs profile), as JSON: one Observation, an array of them, or a
// Bundle. HL7 guides Personal Health Device 1.x and CGM 1.0.0 add MDC codes and summaries. FHIR names no patient and no
// device of ours: subject and device are kept aside.

func init() { register("fhir", decodeFHIR) }

// fhirMessage is one message while it is read.
type fhirMessage struct {
	message
	bundled bool            // what is read now stands in a Bundle
	top     fhirObservation // the Observation that is read now: one allocation for all of a message
}

func decodeFHIR(in Input, dst []Item) ([]Item, error) {
	t, root, p := parseTree(in.Payload)
	if p != nil {
		return dst, p
	}
	defer t.free()
	m := fhirMessage{message: message{in: in, dst: dst, base: len(dst)}}
	switch root.kind() {
	case jObject:
		if root.get("resourceType").is("Bundle") {
			p = m.bundle(root)
		} else {
			m.resource(root, nil)
		}
	case jArray:
		for r := range root.children() {
			m.resource(r, nil)
		}
	default:
		p = &Problem{Code: TypeWrong, Detail: "the message must be a FHIR resource: an Observation or a Bundle of them", Offset: 0}
	}
	return m.end(p)
}

func (m *fhirMessage) refuse(code, detail string, at jval) {
	m.fail(m.item(), code, detail, at.offset())
}

// bundle reads the entries. A transaction is not all or nothing here: every entry is judged by itself, and the answer
// names those that were refused.
func (m *fhirMessage) bundle(b jval) *Problem {
	if b.t.ownDup(b) {
		return &Problem{Code: JSONInvalid, Detail: "the Bundle has the same key twice; which one counts is not guessed", Offset: b.offset()}
	}
	if typ := b.get("type"); typ.there() {
		word, _ := typ.text()
		switch string(word) {
		case "transaction", "batch", "searchset", "collection", "history", "message", "document", "transaction-response", "batch-response":
		default:
			return &Problem{Code: EnumUnknown, Detail: "there is no such type of Bundle; send a transaction, batch, collection or searchset", Offset: typ.offset()}
		}
	}
	m.bundled = true
	entries := b.get("entry")
	if entries.there() && entries.kind() != jArray {
		return &Problem{Code: TypeWrong, Detail: "entry of a Bundle must be an array", Offset: entries.offset()}
	}
	for e := range entries.children() {
		m.entry(e)
	}
	return nil
}

func (m *fhirMessage) entry(e jval) {
	if e.kind() != jObject {
		m.refuse(TypeWrong, "every entry of a Bundle must be an object", e)
		return
	}
	var request, r, response jval
	for c := range e.children() {
		switch string(c.name()) {
		case "request":
			request = c
		case "resource":
			r = c
		case "response":
			response = c
		}
	}
	method, _ := request.get("method").text()
	switch string(method) {
	case "DELETE":
		url, _ := request.get("url").text()
		id, found := bytes.CutPrefix(url, []byte("Observation/"))
		if !found {
			return // of something that never was a reading
		}
		if len(id) == 0 || len(id) > MaxIDBytes {
			m.refuse(FieldMissing, "a DELETE must name the Observation", e)
			return
		}
		it := m.item()
		it.Reading.Extra = &vitals.Extra{DeviceReadingID: string(id)}
		m.void(it, e)
		return
	case "GET", "HEAD":
		return
	}
	switch {
	case e.dup():
		m.refuse(JSONInvalid, "the same key stands twice in one object; which one counts is not guessed", e)
		return
	case !r.there():
		if response.there() {
			return
		}
		m.refuse(FieldMissing, "the entry has no resource", e)
		return
	}
	switch kind, _ := r.get("resourceType").text(); string(kind) {
	case "Patient", "RelatedPerson", "Practitioner", "PractitionerRole", "Organization", "Location", "CareTeam", "Group",
		"Device", "DeviceMetric", "DeviceDefinition", "DeviceAssociation", "Endpoint",
		"Encounter", "Provenance", "OperationOutcome", "MessageHeader", "Composition":
		return // stands beside the readings and never was one
	case "Bundle":
		if p := m.bundle(r); p != nil {
			m.refuse(p.Code, p.Detail, r)
		}
		return
	}
	m.resource(r, nil)
}

// resource reads what stands where an Observation is expected; parent is the Observation that contains it, nil for none.
func (m *fhirMessage) resource(r jval, parent *fhirObservation) {
	if r.kind() != jObject {
		m.refuse(TypeWrong, "every item must be a FHIR resource", r)
		return
	}
	if r.dup() {
		m.refuse(JSONInvalid, "the same key stands twice in one object; which one counts is not guessed", r)
		return
	}
	typ := r.get("resourceType")
	switch word, isText := typ.text(); {
	case !typ.there():
		m.refuse(FieldMissing, "resourceType is missing", r)
	case !isText:
		m.refuse(TypeWrong, "resourceType must be a string", typ)
	case string(word) != "Observation":
		m.refuse(NotAReading, "only an Observation is a reading", r)
	default:
		m.observation(r, parent)
	}
}

// fhirObservation holds the members of an Observation that count.
type fhirObservation struct {
	id, status, code, quantity, otherValue, absent, effective, component, contained, members jval
	identifier, subject, device, site, meta, interpretation                                  jval
	modifier                                                                                 bool
	effectiveKey                                                                             string

	mean     fhirMeaning
	taken    vitals.Micros
	offset   int16
	flags    vitals.Flags
	meal     vitals.Meal
	words    string // statuses that have no flag
	failed   string // the word by which the device says that the measurement failed
	change   Change
	parent   *fhirObservation
	aside    []byte
	readings int
}

func (m *fhirMessage) observation(r jval, parent *fhirObservation) {
	o := &m.top
	if parent != nil {
		o = new(fhirObservation)
	}
	*o = fhirObservation{parent: parent, aside: o.aside[:0]}
	for c := range r.children() {
		if !c.there() {
			continue
		}
		switch string(c.name()) {
		case "id":
			o.id = c
		case "status":
			o.status = c
		case "code":
			o.code = c
		case "valueQuantity":
			o.quantity = c
		case "valueInteger", "valueString", "valueCodeableConcept", "valueBoolean", "valueRange", "valueRatio",
			"valueSampledData", "valueTime", "valueDateTime", "valuePeriod":
			o.otherValue = c
		case "dataAbsentReason":
			o.absent = c
		case "effectiveDateTime":
			o.effective, o.effectiveKey = c, "effectiveDateTime"
		case "effectivePeriod":
			o.effective, o.effectiveKey = c, "effectivePeriod"
		case "effectiveInstant":
			o.effective, o.effectiveKey = c, "effectiveInstant"
		case "effectiveTiming":
			o.effective, o.effectiveKey = c, "effectiveTiming"
		case "component":
			o.component = c
		case "contained":
			o.contained = c
		case "hasMember":
			o.members = c
		case "identifier":
			o.identifier = c
		case "subject":
			o.subject = c
		case "device":
			o.device = c
		case "bodySite":
			o.site = c
		case "meta":
			o.meta = c
		case "interpretation":
			o.interpretation = c
		case "modifierExtension":
			o.modifier = true
		}
	}
	if o.mean = fhirMean(o.code); o.mean.not == notStatus && m.bundled && parent == nil {
		return // the time stamp that the PHD guide sends with every upload
	}
	taken, offset, period, timeCode, timeDetail := m.effective(o)
	o.taken, o.offset = taken, offset
	code, detail, at := o.judge(r)
	if code == EnteredInError {
		m.voided(o, r)
		return
	}
	if code != "" {
		m.refuse(code, detail, at)
		if timeCode == "" {
			m.failed(o, o.failed)
		}
		return
	}
	before := len(m.dst)
	for c := range o.contained.children() {
		if c.get("resourceType").is("Observation") {
			m.resource(c, o)
		}
	}
	panel := len(m.dst) > before || o.members.there()
	hasValue := o.quantity.there() || o.otherValue.there() || o.absent.there() || o.component.there()
	switch {
	case panel && !hasValue && o.mean.not != "":
		if len(m.dst) == before {
			m.refuse(NotAReading, notPanel, r)
		}
		return
	case panel && !hasValue && len(m.dst) > before:
		return
	case timeCode != "":
		if o.effective.there() {
			r = o.effective
		}
		m.refuse(timeCode, timeDetail, r)
		return
	case period:
		o.keep("effectivePeriod", o.effective)
	}
	m.values(o, r)
}

// judge looks at all but time and values.
func (o *fhirObservation) judge(r jval) (code, detail string, at jval) {
	for _, list := range [...]jval{o.meta.get("security"), o.meta.get("tag")} {
		for c := range list.children() {
			if c.get("code").is("HTEST") { // ActReason: test health data
				return NotAReading, "the resource is marked as test data", c
			}
		}
	}
	word, isText := o.status.text()
	switch {
	case !o.status.there():
		return FieldMissing, "status is missing", r
	case !isText:
		return TypeWrong, "status must be a string", o.status
	}
	switch string(word) { // ObservationStatus
	case "final":
	case "preliminary":
		o.words = "preliminary"
	case "amended", "corrected":
		o.change, o.words = Corrected, string(word)
	case "entered-in-error":
		return EnteredInError, "", r
	case "registered":
		return StatusInvalid, "the observation is registered and has no result yet", o.status
	case "cancelled":
		return NotAReading, "the observation was cancelled", o.status
	case "unknown":
		return StatusInvalid, "the sender does not know the status of the observation", o.status
	default:
		return EnumUnknown, "there is no such status of an Observation", o.status
	}
	if o.modifier {
		return TypeWrong, "a modifierExtension changes what the Observation means, and this one is not known here", r
	}
	if o.id.there() && o.id.kind() != jString {
		return TypeWrong, "id must be a string", o.id
	}
	if !o.code.there() {
		return FieldMissing, "code is missing", r
	}
	switch o.mean.not {
	case "", notPanel:
	case notOne:
		return IndicatorUnknown, notOne, o.code
	default:
		return NotAReading, o.mean.not, o.code
	}
	for i := range o.interpretation.children() {
		for c := range i.get("coding").children() {
			word, _ := c.get("code").text()
			switch string(word) { // v3-ObservationInterpretation, and the measurement status of PHD
			case "<":
				o.flags |= vitals.BelowRange // off scale low: the value is the scale's end
			case ">":
				o.flags |= vitals.AboveRange
			case "questionable", "early-indication", "early-estimate":
				o.flags |= vitals.Questionable
			case "invalid":
				o.failed = "invalid"
				return StatusInvalid, "the device says that the measurement is not valid", c
			case "not-available", "msmt-ongoing":
				return StatusInvalid, "the device says that the measurement is not valid", c
			case "test-data", "demo-data", "calibration-ongoing":
				return NotAReading, "the device says that this is test, demonstration or calibration", c
			}
		}
	}
	return "", "", r
}

// fhirMean looks up a CodeableConcept. Codings of one concept that mean different things give a meaning that is none.
func fhirMean(concept jval) (m fhirMeaning) {
	for c := range concept.get("coding").children() {
		system, _ := c.get("system").text()
		table := fhirSystem(system)
		if table == nil {
			continue
		}
		code, _ := c.get("code").text()
		x, known := table[string(code)]
		switch {
		case !known:
		case m == fhirMeaning{}:
			m = x
		case m.not != "":
		case x.not != "":
			m.not = x.not
		case x.ind != m.ind || x.comp != m.comp && x.comp != vitals.Value && m.comp != vitals.Value:
			return fhirMeaning{not: notOne}
		default:
			m = m.with(x)
		}
	}
	return m
}

// with adds what a second coding of the same concept says more.
func (m fhirMeaning) with(x fhirMeaning) fhirMeaning {
	if m.comp == vitals.Value {
		m.comp = x.comp
	}
	if m.site == "" {
		m.site = x.site
	}
	if m.posture == "" {
		m.posture = x.posture
	}
	if m.meal == vitals.MealUnknown {
		m.meal = x.meal
	}
	m.resting, m.told = m.resting || x.resting, m.told || x.told
	return m
}

// effective gives the time of the measurement: of a period its end, when the measure was complete.
func (m *fhirMessage) effective(o *fhirObservation) (t vitals.Micros, off int16, period bool, code, detail string) {
	v := o.effective
	switch o.effectiveKey {
	case "":
		return 0, vitals.NoOffset, false, FieldMissing, "effectiveDateTime is missing; without the time of the measurement there is no reading"
	case "effectivePeriod":
		period = true
		if v.kind() != jObject {
			return 0, vitals.NoOffset, false, TypeWrong, "effectivePeriod must be an object"
		}
		start, end := v.get("start"), v.get("end")
		v = end
		if !end.there() {
			v = start
		}
		if !v.there() {
			return 0, vitals.NoOffset, false, FieldMissing, "effectivePeriod has neither start nor end"
		}
		if start.there() && end.there() {
			from, _, c, d := foreignTime(start, m.in)
			if c != "" {
				return 0, vitals.NoOffset, false, c, d
			}
			if to, _, c, _ := foreignTime(end, m.in); c == "" && to < from {
				return 0, vitals.NoOffset, false, TimeInvalid, "the period ends before it starts"
			}
		}
	case "effectiveTiming":
		event := v.get("event")
		if v = event.at(0); !v.there() || event.at(1).there() {
			return 0, vitals.NoOffset, false, TimeInvalid, "a schedule is not the time of a measurement; send effectiveDateTime"
		}
	}
	t, off, code, detail = foreignTime(v, m.in)
	return t, off, period, code, detail
}

// foreignTime reads an RFC 3339 time as FHIR and Open mHealth write it. A local time is resolved by the device's zone;
// a date alone is no instant.
func foreignTime(v jval, in Input) (t vitals.Micros, off int16, code, detail string) {
	raw, isText := v.text()
	if !isText {
		return 0, vitals.NoOffset, TypeWrong, "a time must be a string"
	}
	t, off, verdict := parseTime(raw)
	if verdict == timeNoOffset && in.DeviceTZ != nil {
		t, off = fromWall(t, in.DeviceTZ)
		verdict = timeGood
	}
	switch {
	case verdict == timeNoOffset:
		return 0, vitals.NoOffset, TimeInvalid, "the time has no offset from UTC, and the device has no time zone; write Z or +08:00 after the time"
	case verdict == timeBad && len(raw) <= len("2006-01-02"):
		return 0, vitals.NoOffset, TimeInvalid, "a date is not the time of a measurement; write date, time and offset"
	case verdict != timeGood || !taken(t):
		return 0, vitals.NoOffset, TimeInvalid, "this is not the time of a measurement: RFC 3339 with offset, not before 1990"
	}
	return t, off, "", ""
}

// void marks an item as one that takes an earlier reading back.
func (m *fhirMessage) void(it *Item, at jval) {
	it.Change = Voided
	it.Problem = &Problem{Code: EnteredInError, Index: max(len(m.dst)-m.base-1, 0), Offset: at.offset(),
		Detail: "the sender takes this reading back; it was not taken as a new one"}
}

// voided appends the void of an Observation, for which id, or indicator and time, are enough.
func (m *fhirMessage) voided(o *fhirObservation, r jval) {
	id, _ := o.name()
	if id == "" && (o.mean.ind == 0 || o.taken == 0) {
		m.refuse(FieldMissing, "what is entered in error must have an id, or a code and a time, to be found by", r)
		return
	}
	first := len(m.dst)
	if o.taken != 0 {
		m.values(o, r)
	}
	good := 0
	for i := first; i < len(m.dst); i++ {
		if m.dst[i].Problem == nil {
			m.dst[first+good] = m.dst[i]
			good++
		}
	}
	m.dst = m.dst[:first+good]
	if good == 0 {
		it := m.item()
		it.Reading.Indicator, it.Reading.TakenAt, it.Reading.OffsetMin = o.mean.ind, o.taken, o.offset
		if id != "" {
			it.Reading.Extra = &vitals.Extra{DeviceReadingID: id}
		}
		m.void(it, r)
		return
	}
	for i := first; i < len(m.dst); i++ {
		m.void(&m.dst[i], r)
		m.dst[i].Problem.Index = i - m.base
	}
}

// name is what the sender calls the Observation: its id or else its first business identifier. An identifier that is
// longer than ids may be is kept aside.
func (o *fhirObservation) name() (id string, tooLong bool) {
	raw, _ := o.id.text()
	if len(raw) == 0 {
		raw, _ = o.identifier.at(0).get("value").text()
	}
	if len(raw) == 0 {
		return "", false
	}
	id = string(raw)
	if o.parent != nil { // the id of a contained resource is one within its container only
		outer, long := o.parent.name()
		if outer == "" {
			return "", long
		}
		id = outer + "#" + id
	}
	if len(id) > MaxIDBytes {
		return "", true
	}
	return id, false
}

// keep puts a member aside as it was written.
func (o *fhirObservation) keep(key string, v jval) {
	if !v.there() {
		return
	}
	sep := byte(',')
	if len(o.aside) == 0 {
		sep = '{'
	}
	o.aside = append(append(append(o.aside, sep, '"'), key...), '"', ':') // our own words: no escapes
	o.aside = appendCompact(o.aside, v.raw())
}

// fhirValue is one number with what its Quantity says.
type fhirValue struct {
	mean  fhirMeaning
	v     float64
	unit  vitals.Unit
	flags vitals.Flags
	from  jval
}

// values turns the Observation's own value and its components into items.
func (m *fhirMessage) values(o *fhirObservation, r jval) {
	var list [8]fhirValue
	n := 0
	ind := o.mean.ind
	o.meal = o.mean.meal
	if o.quantity.there() {
		if ind == 0 {
			m.refuse(IndicatorUnknown, unknownConcept(o.mean), o.code)
			return
		}
		v, code, detail, at := o.value(o.quantity, o.mean)
		if code != "" {
			m.refuse(code, detail, at)
			return
		}
		list[0], n = v, 1
	}
	if o.component.there() && o.component.kind() != jArray {
		m.refuse(TypeWrong, "component must be an array", o.component)
		return
	}
	var lost jval // the first component that should have had a value
	var lostCode, lostDetail string
	kept := false
	for c := range o.component.children() {
		x := fhirMean(c.get("code"))
		if x.not == notSummary || x.not == notControl {
			m.refuse(NotAReading, x.not, c)
			return
		}
		if x.ind == 0 || x.not != "" {
			if !o.contextOf(c) {
				kept = true
			}
			continue
		}
		if x.ind == vitals.HeartRate && (ind == vitals.BloodPressure || ind == vitals.SpO2) {
			x = fhirMeaning{ind: ind, comp: vitals.Pulse}
		}
		q := c.get("valueQuantity")
		if !q.there() {
			code, detail := noValue(c)
			if lostCode == "" || lost.there() && x.optional() {
				lost, lostCode, lostDetail = c, code, detail
			}
			if x.optional() || code == DataAbsent {
				continue
			}
			m.refuse(code, detail, c)
			return
		}
		v, code, detail, at := o.value(q, x)
		if code != "" {
			m.refuse(code, detail, at)
			return
		}
		for i := range n {
			if list[i].mean.ind == x.ind && list[i].mean.comp == x.comp {
				m.refuse(TypeWrong, "two components of one Observation are the same measure; which one counts is not guessed", c)
				return
			}
		}
		if n == len(list) {
			m.refuse(TooManyReadings, "an Observation with more than eight values; send one Observation per measure", c)
			return
		}
		list[n] = v
		n++
	}
	if n == 0 {
		switch {
		case o.absent.there():
			code, detail := whyAbsent(o.absent)
			m.refuse(code, detail, o.absent)
			m.failed(o, faultOfAbsent(o.absent))
		case lostCode != "":
			m.refuse(lostCode, lostDetail, lost)
			m.failed(o, faultOfAbsent(lost.get("dataAbsentReason")))
		case o.mean.not != "":
			m.refuse(NotAReading, o.mean.not, o.code)
		case ind == 0:
			m.refuse(IndicatorUnknown, unknownConcept(o.mean), o.code)
		case o.otherValue.there():
			switch string(o.otherValue.name()) {
			case "valueInteger":
				m.refuse(UnitMissing, "an integer has no unit; send valueQuantity", o.otherValue)
			default:
				m.refuse(TypeWrong, "the value must be a valueQuantity", o.otherValue)
			}
		default:
			code, detail := noValue(r)
			m.refuse(code, detail, r)
		}
		return
	}
	if kept {
		o.keep("component", o.component)
	}
	o.readings = 0
	var used [len(list)]bool
	for i := range n {
		if used[i] {
			continue
		}
		it := m.item()
		rd := &it.Reading
		rd.Indicator = list[i].mean.ind
		code, detail := "", ""
		var at jval
		mean := o.mean
		for k := i; k < n; k++ {
			v := &list[k]
			same := v.mean.ind == rd.Indicator || rd.Indicator == vitals.SpO2 && v.mean.ind == vitals.HeartRate
			if used[k] || !same {
				continue
			}
			used[k] = true
			if code == "" {
				if code, detail = put(rd, v); code != "" {
					at = v.from
				}
			}
			mean = mean.with(v.mean)
		}
		req := rd.Indicator.Required()
		if code == "" && rd.Has&req != req {
			code, detail, at = FieldMissing, "a required component is missing: a blood pressure needs systolic and diastolic, sleep its total", r
			if lostCode != "" {
				code, detail, at = lostCode, lostDetail, lost
			}
		}
		if code != "" {
			m.fail(it, code, detail, at.offset())
			continue
		}
		m.finish(it, o, mean)
	}
}

// put adds one value to the reading; all but the pulse are in one unit.
func put(r *vitals.Reading, v *fhirValue) (code, detail string) {
	comp := v.mean.comp
	if v.mean.ind != r.Indicator {
		comp = vitals.Pulse
	}
	if r.Indicator == vitals.Sleep && comp == vitals.Value {
		comp = vitals.Total
	}
	if comp == vitals.Value && r.Indicator == vitals.BloodPressure {
		return ComponentUnknown, "a blood pressure has a systolic and a diastolic component; one value does not say which it is"
	}
	if !r.Set(comp, v.v) {
		return ComponentUnknown, "the indicator has no such component"
	}
	if comp.InReadingUnit() {
		if r.Unit != vitals.NoUnit && r.Unit != v.unit {
			return UnitUnknown, "the components have different units; send them in one"
		}
		r.Unit = v.unit
	}
	r.Flags |= v.flags
	return "", ""
}

// finish fills in what all readings of the Observation share.
func (m *fhirMessage) finish(it *Item, o *fhirObservation, mean fhirMeaning) {
	r := &it.Reading
	r.TakenAt, r.OffsetMin = o.taken, o.offset
	r.Flags |= o.flags
	it.Change = o.change
	var c contextObject
	mean.meal = o.meal
	mean.describe(r, &c)
	x := vitals.Extra{Context: c.String(), OtherFlags: o.words}
	id, tooLong := o.name()
	if x.DeviceReadingID = id; o.readings > 0 && id != "" { // the second reading of one Observation
		x.DeviceReadingID += "/" + r.Indicator.String()
	}
	if o.readings == 0 {
		if tooLong {
			o.keep("identifier", o.identifier)
		}
		o.keep("subject", o.subject.get("reference"))
		o.keep("device", o.device.get("reference"))
		o.keep("bodySite", o.site)
		if len(o.aside) > 0 {
			o.aside = append(o.aside, '}')
		}
	}
	o.readings++
	x.Aside = string(o.aside)
	if x != (vitals.Extra{}) {
		r.Extra = &x
	}
}

// describe gives the reading what its code says of the circumstances.
func (m *fhirMeaning) describe(r *vitals.Reading, c *contextObject) {
	if r.Indicator == vitals.Glucose {
		r.Meal = m.meal
		c.word("meal", r.Meal.String())
	}
	if m.resting {
		r.Activity = vitals.Resting
		c.word("activity", "resting")
	}
	if m.told {
		r.Flags |= vitals.SelfReported
	}
	c.word("site", m.site)
	c.word("posture", m.posture)
}

func (m fhirMeaning) optional() bool {
	i := m.ind.Index(m.comp)
	return i >= 0 && m.ind.Required()&(1<<i) == 0
}

func unknownConcept(m fhirMeaning) string {
	if m.not != "" {
		return m.not
	}
	return "code names nothing that is watched here; send a LOINC or MDC code of the vital signs profile, with its system"
}

// value reads a Quantity.
func (o *fhirObservation) value(q jval, mean fhirMeaning) (v fhirValue, code, detail string, at jval) {
	v.mean, v.from = mean, q
	if q.kind() != jObject {
		return v, TypeWrong, "valueQuantity must be an object", q
	}
	var value, comparator, unit, system, ucum, shadow jval
	for c := range q.children() {
		if !c.there() {
			continue
		}
		switch string(c.name()) {
		case "value":
			value = c
		case "comparator":
			comparator = c
		case "unit":
			unit = c
		case "system":
			system = c
		case "code":
			ucum = c
		case "_value":
			shadow = c
		}
	}
	if !value.there() {
		for e := range shadow.get("extension").children() {
			if e.get("url").is("http://hl7.org/fhir/StructureDefinition/data-absent-reason") {
				word, _ := e.get("valueCode").text()
				return v, DataAbsent, absentDetail(word), q
			}
		}
		return v, FieldMissing, "valueQuantity has no value", q
	}
	n, isNumber := value.number()
	if !isNumber {
		return v, TypeWrong, "value of a Quantity must be a number", value
	}
	var finite bool
	if v.v, finite = n.float(); !finite {
		return v, ValueInvalid, "value is not a finite number", value
	}
	if comparator.there() {
		word, _ := comparator.text()
		switch string(word) {
		case "<", "<=":
			v.flags = vitals.BelowRange
		case ">", ">=":
			v.flags = vitals.AboveRange
		default:
			return v, EnumUnknown, "there is no such comparator", comparator
		}
	}
	if v.unit, code, detail = fhirUnit(system, ucum, unit, mean); code != "" {
		return v, code, detail, q
	}
	if !shortest(n, v.v) {
		o.keep(decimalKey(mean), value)
	}
	return v, "", "", q
}

// decimalKey names what is kept of a decimal whose written form says more than its value: FHIR counts its digits.
func decimalKey(m fhirMeaning) string {
	if m.comp == vitals.Value {
		return "decimal"
	}
	return "decimal_" + m.comp.String()
}

// shortest reports whether the number is written as we write it.
func shortest(n number, v float64) bool {
	if n.exact && (n.exp == 0 || n.m%10 != 0) && n.m < 1<<53 {
		return true
	}
	var b [32]byte
	return string(vitals.AppendNumber(b[:0], v)) == string(n.raw)
}

// fhirUnit gives the unit of a Quantity: its UCUM or MDC code, or the text where there is no code. Where both are known
// and differ nobody can say which one counts.
func fhirUnit(system, code, unit jval, mean fhirMeaning) (u vitals.Unit, problem, detail string) {
	const unknown = "there is no such unit, or it is not one of this indicator; send a UCUM code such as mm[Hg], mmol/L, /min"
	ind := mean.ind
	sys, _ := system.text()
	coded, _ := code.text()
	text, _ := unit.text()
	if len(coded) == 0 && len(text) == 0 {
		return 0, UnitMissing, "the Quantity has no unit; it is never guessed"
	}
	accepts := func(u vitals.Unit) bool {
		if mean.comp == vitals.Pulse {
			return u == vitals.PerMin
		}
		return ind.Accepts(u)
	}
	var ok bool
	if len(coded) > 0 {
		switch string(sys) {
		case "http://unitsofmeasure.org", "urn:oid:2.16.840.1.113883.6.8", "":
			u, ok = ucumUnit(coded, ind)
		case "urn:iso:std:iso:11073:10101", "urn:oid:2.16.840.1.113883.6.24":
			u, ok = mdcUnits[string(coded)]
		}
		if !ok || !accepts(u) {
			return 0, UnitUnknown, unknown
		}
		if bytes.Equal(text, coded) {
			return u, "", ""
		}
		if said, known := ucumUnit(text, ind); known && said != u && accepts(said) {
			return 0, UnitUnknown, "unit and code of the Quantity say different things; which one counts is not guessed"
		}
		return u, "", ""
	}
	if u, ok = ucumUnit(text, ind); !ok || !accepts(u) {
		return 0, UnitUnknown, unknown
	}
	return u, "", ""
}

// ucumUnit reads a unit that may have UCUM annotations: "{beats}/min" is "/min".
func ucumUnit(b []byte, ind vitals.Indicator) (vitals.Unit, bool) {
	if u, ok := vitals.ParseUnit(string(b)); ok && (u != vitals.One || ind != vitals.Steps) {
		return u, true
	}
	switch string(b) {
	case "beats/minute", "breaths/minute", "beats per minute", "breaths per minute":
		return vitals.PerMin, true
	case "":
		return 0, false
	}
	open := bytes.IndexByte(b, '{')
	if open < 0 && ind != vitals.Steps {
		return 0, false
	}
	var buf [32]byte
	plain := buf[:0]
	depth := 0
	for _, c := range b[:min(len(b), 256)] {
		switch {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case depth == 0:
			plain = append(plain, c)
		}
	}
	if ind == vitals.Steps {
		switch string(plain) { // a number of things, or of things a day
		case "", "1", "/d", "1/d":
			return vitals.StepCount, depth == 0
		}
	}
	u, ok := vitals.ParseUnit(string(plain))
	return u, ok && depth == 0
}

// noValue says why an Observation or a component has no Quantity.
func noValue(r jval) (code, detail string) {
	if a := r.get("dataAbsentReason"); a.there() {
		return whyAbsent(a)
	}
	return FieldMissing, "valueQuantity is missing"
}

func whyAbsent(reason jval) (code, detail string) {
	word, _ := reason.get("coding").at(0).get("code").text()
	return DataAbsent, absentDetail(word)
}

// faultOfAbsent is the reason where it says that the device could not measure, "" for any other: PHD sends not-a-number
// for the NaN of a device, error is that of the standard itself.
func faultOfAbsent(reason jval) string {
	switch code := reason.get("coding").at(0).get("code"); {
	case code.is("not-a-number"):
		return "not-a-number"
	case code.is("error"):
		return "error"
	}
	return ""
}

// failed makes the item that was just refused the device's word that the measurement failed; code "" changes nothing.
func (m *fhirMessage) failed(o *fhirObservation, code string) {
	if code == "" || o.mean.ind == 0 || o.taken == 0 {
		return
	}
	r := vitals.Reading{Indicator: o.mean.ind, TakenAt: o.taken, OffsetMin: o.offset, DeviceSeq: -1}
	m.dst[len(m.dst)-1].Reading = failure(&r, vitals.DeviceFault{Class: faultClass(o.flags), Code: code})
}

func absentDetail(word []byte) string {
	if d, ok := absentReasons[string(word)]; ok {
		return d
	}
	return "the sender says that there is no value, and not in a word that is known why"
}

// contextOf takes what a component says about the measurement: the meal, the bits of a cuff's status.
func (o *fhirObservation) contextOf(c jval) bool {
	for k := range c.get("code").get("coding").children() {
		code, _ := k.get("code").text()
		if string(code) == mdcMeal {
			for v := range c.get("valueCodeableConcept").get("coding").children() {
				word, _ := v.get("code").text()
				if meal, ok := mdcMeals[string(word)]; ok {
					o.meal = meal
					return true
				}
			}
			return false
		}
		bit, found := bytes.CutPrefix(code, []byte(mdcCuffStatus+"."))
		if !found || len(bit) != 1 || int(bit[0]-'0') >= len(cuffBits) {
			continue
		}
		if c.get("valueBoolean").isTrue() || c.get("valueCodeableConcept").get("coding").at(0).get("code").is("Y") {
			o.flags |= cuffBits[bit[0]-'0']
		}
		return true
	}
	return false
}

// ownDup reports whether v itself, and not only something in it, has a key twice.
func (t *jtree) ownDup(v jval) bool {
	if !v.dup() {
		return false
	}
	seen := map[string]bool{}
	for c := range v.children() {
		if seen[c.key()] {
			return true
		}
		seen[c.key()] = true
	}
	return false
}
