// Package payload turns bytes of foreign formats into readings: one file per format, each with the source of its
// layout, table tests on real examples and a fuzz target. It owns no registry and no clock: whose device it is,
// freshness, plausibility and duplicates are for ingest. Decoders keep no state and are safe for concurrent use.
package payload

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// Limits of one message (contract section 3).
const (
	MaxBytes    = 64 << 10
	MaxReadings = 500
)

// Input is one message.
type Input struct {
	// Sub is what follows the format in the topic, such as "2A18" of up/gatt/2A18; usually "".
	Sub        string
	Payload    []byte
	ReceivedAt vitals.Micros
	// DeviceTZ resolves device local times without zone; nil: such times are refused.
	DeviceTZ *time.Location
}

// Item is one reading or why it is none. Reading's Patient, ReceivedAt, Seq, Freshness and Quality are not set. Where the
// device itself says that a measurement failed there is a Problem, and Reading has the fault, and of what and when.
type Item struct {
	Reading vitals.Reading
	Problem *Problem // nil when the reading is fine
	Clock   Clock    // whose clock TakenAt is of
	Change  Change   // what the item does to an earlier one
}

// Failed reports whether the item is the device's word that a measurement failed: no reading, and no bad input either.
func (it *Item) Failed() bool { return it.Problem != nil && it.Change == Added && it.Reading.Failed() }

// failure makes of what could be read of a measurement the record that it failed.
func failure(r *vitals.Reading, f vitals.DeviceFault) vitals.Reading {
	if !slices.Contains(vitals.FaultClasses, f.Class) {
		f.Class = vitals.UnknownFault
	}
	if !vitals.ValidFaultCode(f.Code) {
		f.Code = "" // a text, and not a code
	}
	return vitals.Reading{Indicator: r.Indicator, TakenAt: r.TakenAt, OffsetMin: r.OffsetMin, DeviceSeq: r.DeviceSeq, UserSlot: r.UserSlot,
		Extra: &vitals.Extra{Fault: f}}
}

// faultClass is what the flags of a failed measurement say of why.
func faultClass(f vitals.Flags) string {
	switch {
	case f&vitals.CuffLoose != 0:
		return "cuff"
	case f&(vitals.Movement|vitals.WrongPosition) != 0:
		return "motion"
	case f&vitals.LowBattery != 0:
		return "battery"
	case f&vitals.PulseOutOfRange != 0:
		return "range"
	}
	return vitals.UnknownFault
}

// Change says what an item does to an earlier reading of the same device: the one of the same Extra.DeviceReadingID
// or, where the item has no id, of the same indicator and TakenAt. The earlier one is kept in any case.
type Change uint8

// The changes. A void has a Problem of code EnteredInError besides, so that whoever knows nothing of changes does not
// take it for a reading; its Reading holds what names the earlier one and possibly no values.
const (
	Added     Change = iota // a reading of its own
	Corrected               // this reading stands in the place of the earlier one
	Voided                  // the earlier one must not count: it was entered in error
)

// Clock says whose clock gave a reading's TakenAt.
type Clock uint8

// The clocks.
const (
	ClockDevice  Clock = iota // the device's own, or what the message says
	ClockGateway              // of the gateway: the device has no clock or an unset one
	ClockReceipt              // ours, when the message came: nobody said a time
	ClockFault                // the device's own, which it says is wrong
)

// Problem is why an item was refused. Neither Detail nor anything else carries a health value or other payload
// content: it is sent to the device, stored and shown.
type Problem struct {
	Code   string `json:"problem"` // stable, snake_case: "unit_unknown"
	Detail string `json:"detail"`  // English, says what to do
	Index  int    `json:"index"`   // the item's place in its message, 0 for a single one
	Offset int    `json:"-"`       // byte position in the payload, -1 when not known
}

func (p *Problem) Error() string { return fmt.Sprintf("item %d: %s: %s", p.Index, p.Code, p.Detail) }

// Problem codes. Decoders and the pipeline use these; operators filter by them.
const (
	JSONInvalid       = "json_invalid"       // not JSON, nested too deep, invalid UTF-8, truncated
	TypeWrong         = "type_wrong"         // a field of the wrong type
	FieldMissing      = "field_missing"      // a required field is not there
	IndicatorUnknown  = "indicator_unknown"  // no such indicator
	ComponentUnknown  = "component_unknown"  // the indicator has no such component
	UnitMissing       = "unit_missing"       // no unit, no reading
	UnitUnknown       = "unit_unknown"       // no such unit, or not one of this indicator
	ValueInvalid      = "value_invalid"      // NaN, infinite, not a number
	ValueImpossible   = "value_impossible"   // beyond what a living person and device can give
	TimeInvalid       = "taken_at_invalid"   // no time zone, not a date, year 0
	ClockAhead        = "clock_ahead"        // more than five minutes in the future
	TooLarge          = "too_large"          // more than 64 KiB
	TooManyReadings   = "too_many_readings"  // more than 500
	FormatUnknown     = "format_unknown"     // no such format
	TopicUnknown      = "topic_unknown"      // published where no route leads to a format
	AnswerInvalid     = "answer_invalid"     // an answer to a command that is none
	CommandUnknown    = "command_unknown"    // an answer to no command of ours
	DeviceUnknown     = "device_unknown"     // closed registration and not registered
	DeviceDisabled    = "device_disabled"    // an operator has cut the device off
	PatientUnknown    = "patient_unknown"    // device or user slot not bound to anybody at that time
	OwnerDoubtful     = "owner_doubtful"     // far from what the person it would be of measured lately
	IDConflict        = "id_conflict"        // the same id with other content
	NotAReading       = "not_a_reading"      // calibration, control solution, goal, test
	CharacteristicBad = "characteristic_bad" // GATT bytes that do not parse
	StatusInvalid     = "status_invalid"     // the device itself says the measurement failed
	DataAbsent        = "data_absent"        // the sender says that there is no value, and why
	EnteredInError    = "entered_in_error"   // the sender takes an earlier reading back
	EnumUnknown       = "enum_unknown"       // a word that the format's standard does not have
	CBORInvalid       = "cbor_invalid"       // not CBOR, nested too deep, invalid UTF-8, truncated
)

// Decoder decodes one format: it appends one Item per item of the message to dst. An error concerns the whole
// message (it is a *Problem); nothing is appended then. A decoder never panics and allocates no more than a small
// multiple of the payload.
type Decoder func(in Input, dst []Item) ([]Item, error)

// decoders is filled by each format's file; registering twice is a programming error.
var decoders = map[string]Decoder{}

func register(format string, d Decoder) {
	if _, dup := decoders[format]; dup {
		panic("payload: format " + format + " registered twice")
	}
	decoders[format] = d
}

// Find returns the decoder of a format name, a built-in one or the operator's (see UseMappings; "map:NAME" asks for
// those only).
func Find(format string) (Decoder, bool) {
	if d, ok := decoders[format]; ok {
		return d, true
	}
	return mapped(format)
}

// Decode decodes a message of a format as the topic names it: "readings", "fhir", "gatt/2A18". What follows the
// first slash goes to the decoder as in.Sub. It appends to dst like a Decoder.
func Decode(format string, in Input, dst []Item) ([]Item, error) {
	name, sub, found := strings.Cut(format, "/")
	if found {
		in.Sub = sub
	}
	d, ok := Find(name)
	switch {
	case name == "": // how the front door says that the topic told it nothing
		return dst, &Problem{Code: TopicUnknown, Detail: "no route knows the topic; publish below the device's own up/, or ask the operator for a route", Offset: -1}
	case !ok:
		return dst, &Problem{Code: FormatUnknown, Detail: "there is no such format; publish native JSON below up/readings", Offset: -1}
	case len(in.Payload) > MaxBytes:
		return dst, &Problem{Code: TooLarge, Detail: "the message is larger than 64 KiB; send fewer readings per message", Offset: -1}
	}
	return d(in, dst)
}
