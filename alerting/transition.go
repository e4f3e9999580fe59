package alerting

import (
	"encoding/json"

	"vitalwatch/vitals"
)

// Transition is one decided change of one alert. The engine returns them, the ledger makes them durable together
// with the monitor's cursor and gives each its Seq, the feed and the hooks tell them.
type Transition struct {
	// AlertID is derived from patient, rule and the evidence that opened the episode, so that a replay gives
	// the same id and cannot open the episode twice.
	AlertID   string
	Patient   vitals.PatientID
	Rule      RuleID
	Condition string // the pack the rule in force came from: "general", "hypertension", …
	Kind      Kind
	Severity  Severity // after the transition
	// At is when it was decided, on the server's clock; for a reading the reading's ReceivedAt.
	At    vitals.Micros
	Title Text // of the rule; set by Opened, Worsened and Eased
	// Trigger is set by Opened and Worsened, and by Eased and Resolved where a reading caused them.
	Trigger *Trigger
	// Explanation is set by Opened, Worsened, Eased and Resolved; kept when nil.
	Explanation json.RawMessage
	// Actor, Note and Outcome belong to human acts; Actor of a resolution by readings is "values".
	Actor, Note, Outcome string
	Until                vitals.Micros // Snoozed: until when
	// ReceivedAt is the reading's receive time, 0 for acts and ticks: for the latency metric.
	ReceivedAt vitals.Micros
}

// Finding is a retrospective finding: what a rule says about late data. It never becomes a live alert. Its
// identity is (patient, rule, day); later readings of the same day widen it.
type Finding struct {
	Patient     vitals.PatientID
	Rule        RuleID
	Condition   string
	Day         string // UTC date of the readings, YYYY-MM-DD
	Severity    Severity
	Title       Text
	First, Last vitals.Micros // taken_at of the first and last reading beyond the line
	Readings    int           // how many this call adds
	WorstID     string        // id of the worst reading added
}
