package alerting

import (
	"time"

	"vitalwatch/vitals"
)

// Event is a transition that has been committed: what the feed and the hooks tell.
type Event struct {
	// Seq is the feed's sequence: dense, 1 for the first, comparable within one epoch of the ledger.
	Seq uint64
	// Transition is what changed. Its Title and Explanation are nil: they are in Alert.
	Transition Transition
	// Alert is the alert as it was right after the transition.
	Alert Alert
	// Highest is the highest severity the alert had reached by then, so that who heard of the worst hears of the end.
	Highest Severity
	// Deliveries are the outbox rows committed with the event; empty when the event was read back.
	Deliveries []Delivery `json:"-"`
}

// Delivery is an outbox row: one event on its way to one hook.
type Delivery struct {
	// ID is the webhook-id: unique per event and hook, the same for every attempt, without ".".
	ID      string `json:"id"`
	Hook    string `json:"hook"`
	Seq     uint64 `json:"seq"` // of the event; the order of one alert's deliveries
	AlertID string `json:"alert_id"`
	Type    string `json:"type"` // "alert.opened", …
	// Severity is the alert's at the event; a busy hook gets the most severe first.
	Severity Severity `json:"severity"`
	// Body is fixed when the event commits, so that every attempt sends the same bytes. It may hold health values.
	Body []byte `json:"-"`
	// Since starts the time after which the delivery is given up: the commit, or the last request to try again.
	Since    vitals.Micros `json:"since"`
	Attempts int           `json:"attempts"`
	NextAt   vitals.Micros `json:"next_at"` // not before
	State    DeliveryState `json:"state"`
	Error    string        `json:"error,omitempty"` // class of the last failure, see SendError.Class
	DoneAt   vitals.Micros `json:"done_at,omitempty"`
}

// DeliveryState is where a delivery is in its life.
type DeliveryState string

// The states of a delivery. Dead is loud: it means nobody was reached by this way.
const (
	Pending   DeliveryState = "pending"
	Delivered DeliveryState = "delivered"
	Dead      DeliveryState = "dead"
)

// Settlement is what became of one or more attempts of a delivery.
type Settlement struct {
	Hook       string
	Seq        uint64
	State      DeliveryState // Pending: will be tried again at NextAt
	Attempts   int
	NextAt     vitals.Micros
	Error      string
	AcceptedBy string // the receiver's receipt, "" for none
	At         vitals.Micros
}

// Receipt is what a receiver answered to a delivery that arrived.
type Receipt struct {
	AcceptedBy string // who took the case over, as the receiver says; "" when it did not say
}

// SendError is a failed attempt as its channel classifies it. It never carries addresses, bodies or values.
type SendError struct {
	// Class is a fixed word such as "timeout" or "http_503"; it becomes a log field and is shown to operators.
	Class string
	// RetryAfter is how long the receiver asked to be left alone; 0 when it did not.
	RetryAfter time.Duration
	// Gone says that the receiver will never again take anything (HTTP 410): the hook is to be disabled.
	Gone bool
}

func (e *SendError) Error() string { return "send failed: " + e.Class }
