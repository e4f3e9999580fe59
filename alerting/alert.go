package alerting

import (
	"encoding/json"

	"vitalwatch/vitals"
)

// Severity orders alerts; the names are contract.md section 2: info 提示, warning 预警, critical 严重, emergency 紧急.
type Severity uint8

// The severities. None is not an alert.
const (
	None Severity = iota
	Info
	Warning
	Critical
	Emergency
)

var severityNames = [...]string{"none", "info", "warning", "critical", "emergency"}

func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return "unknown"
}

// ParseSeverity returns the severity of a name; None and false when there is no such one.
func ParseSeverity(name string) (Severity, bool) {
	for i, n := range severityNames {
		if i > 0 && n == name {
			return Severity(i), true
		}
	}
	return None, false
}

// MarshalText writes the name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *Severity) UnmarshalText(b []byte) error {
	v, ok := ParseSeverity(string(b))
	if !ok {
		return &UnknownNameError{Kind: "severity", Name: string(b), Known: severityNames[1:]}
	}
	*s = v
	return nil
}

// State is where an alert is in its life.
type State string

// The states of an alert.
const (
	Open         State = "open"
	Acknowledged State = "acknowledged"
	Resolved     State = "resolved"
)

// Kind is the kind of a transition; the names are those of the feed (contract section 5) and, after "alert.",
// those of hook events (section 6).
type Kind string

// The transitions.
const (
	Opened         Kind = "opened"
	Worsened       Kind = "worsened"
	Eased          Kind = "eased"
	AcknowledgedBy Kind = "acknowledged"
	Snoozed        Kind = "snoozed"
	SignalLost     Kind = "signal_lost"
	SignalBack     Kind = "signal_back"
	ResolvedBy     Kind = "resolved"
	Escalated      Kind = "escalated"
	Noted          Kind = "noted"
)

// Text is a text in the two languages of the house, by tag: "zh-CN" and "en".
type Text map[string]string

// RuleID names a rule within the packs, such as "glucose_low". The alert's identity is (patient, rule).
type RuleID string

// Trigger is the reading that opened or last worsened an alert, as it was sent.
type Trigger struct {
	ReadingID  string             `json:"reading_id"`
	Indicator  string             `json:"indicator"`
	Values     map[string]float64 `json:"values"`
	Unit       string             `json:"unit"`
	TakenAt    string             `json:"taken_at"`    // RFC 3339 UTC
	ReceivedAt string             `json:"received_at"` // RFC 3339 UTC
	DeviceID   string             `json:"device_id"`
	// Error is what the device said, of a technical alert: the measurement failed and has no values.
	Error *vitals.DeviceFault `json:"error,omitempty"`
}

// OrNull is a text that is null in JSON while there is none: a program that reads the field always finds it.
type OrNull string

// MarshalJSON writes null for nothing.
func (s OrNull) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(s))
}

// Alert is one episode of one rule for one patient, as the API shows it (contract section 4). Times are RFC 3339
// UTC with milliseconds, "" for not yet; the ledger owns the truth, everybody else holds copies.
type Alert struct {
	ID             string           `json:"id"`
	PatientID      vitals.PatientID `json:"patient_id"`
	Kind           Nature           `json:"kind" enum:"clinical,technical"` // what it is about; follows from the rule
	Rule           RuleID           `json:"rule"`
	Condition      string           `json:"condition"`
	Severity       Severity         `json:"severity"`
	Highest        Severity         `json:"highest_severity,omitzero"` // that it ever had: an emergency that has eased was one
	State          State            `json:"state"`
	Signal         string           `json:"signal"` // "live" or "lost"
	OpenedAt       string           `json:"opened_at"`
	UpdatedAt      string           `json:"updated_at"`
	AcknowledgedBy OrNull           `json:"acknowledged_by" nullable:"true"`
	AcknowledgedAt string           `json:"acknowledged_at,omitempty"`
	ResolvedAt     OrNull           `json:"resolved_at" nullable:"true"`
	ResolvedBy     string           `json:"resolved_by,omitempty"` // a name, or "values" when readings cleared it
	Outcome        string           `json:"outcome,omitempty"`
	SnoozedUntil   OrNull           `json:"snoozed_until" nullable:"true"`
	SignalLostAt   string           `json:"signal_lost_since,omitempty"`
	AcceptedBy     string           `json:"accepted_by,omitempty"` // the receipt of a hook's receiver
	Title          Text             `json:"title"`
	Trigger        Trigger          `json:"trigger"`
	// Explanation is guarantee 13: the readings, quality flags, the threshold in force and where it came from,
	// rule and pack version, what confirmed or suppressed it.
	Explanation json.RawMessage `json:"explanation"`
	Seq         uint64          `json:"seq"` // of its last transition, the feed's sequence
}

// UnknownNameError is a name that is not in a fixed list.
type UnknownNameError struct {
	Kind, Name string
	Known      []string
}

func (e *UnknownNameError) Error() string {
	s := e.Kind + " " + `"` + e.Name + `" is unknown; known are `
	for i, k := range e.Known {
		if i > 0 {
			s += ", "
		}
		s += k
	}
	return s
}
