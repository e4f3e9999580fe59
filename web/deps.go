package web

import (
	"context"
	"iter"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
	"vitalwatch/care"
	"vitalwatch/ingest"
	"vitalwatch/ingest/journal"
	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// Patients are the people in memory; *care.Registry is the real one.
type Patients interface {
	Find(id vitals.PatientID) (*care.Patient, bool)
	All() iter.Seq[*care.Patient]
	Subscribe(f func(vitals.PatientID)) (cancel func())
}

// Ledger is the truth about alerts; *ledger.Ledger is the real one.
type Ledger interface {
	Epoch() string
	Seq() uint64
	Since(ctx context.Context, seq uint64, limit int) (events []ledger.Event, oldest uint64, err error)
	Subscribe(f func([]ledger.Event))
	AllOpen(ctx context.Context) ([]alerting.Alert, error)
	Alert(ctx context.Context, id string) (alerting.Alert, []ledger.HistoryEntry, error)
	Alerts(ctx context.Context, f ledger.Filter) (items []alerting.Alert, next string, err error)
	Findings(ctx context.Context, patient vitals.PatientID, fromDay, toDay string, limit int) ([]alerting.Finding, error)
	Replayed(ctx context.Context, k ledger.Idempotency) ([]ledger.Event, bool, error)
	Commit(ctx context.Context, b ledger.Batch) ([]ledger.Event, error)
	Deliveries(ctx context.Context, f ledger.DeliveryFilter) (items []alerting.Delivery, next string, err error)
	// Retry makes a delivery due and sends it: the courier's, which wakes itself.
	Retry(ctx context.Context, id string) (alerting.Delivery, error)
}

// Monitor carries out human acts in the patient's own lane; *alerting.Monitor is the real one.
type Monitor interface {
	Act(ctx context.Context, id vitals.PatientID, a alerting.Action, commit func(context.Context, alerting.Batch) error) error
}

// Readings is the part of storage.Readings that is only read.
type Readings interface {
	Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error]
	PositionOf(r *vitals.Reading) storage.Position
	Latest(ctx context.Context, p vitals.PatientID) ([]vitals.Reading, error)
}

// Quarantine lists refused messages, newest first; *journal.Journal is the real one.
type Quarantine interface {
	Quarantine(ctx context.Context, limit int, cursor uint64) (items []journal.Quarantined, next uint64, err error)
	QuarantineGet(id uint64) (journal.Quarantined, error)
}

// Pipeline takes readings in; NewPipeline makes one of an *ingest.Pipeline.
type Pipeline interface {
	// Accept returns when everything is durable, with one Items entry per item.
	Accept(ctx context.Context, m ingest.Message) (ingest.Result, error)
	Replay(ctx context.Context, id uint64) (ingest.Result, error)
}

// Coverage is whether an indicator of a patient is watched.
type Coverage struct {
	Indicator string `json:"indicator"`
	Watched   bool   `json:"watched"`
	Since     string `json:"since,omitempty" doc:"RFC 3339 UTC: the last reading while watched, else since when it is not"`
	Why       string `json:"why,omitempty" doc:"why it is not watched: device, gateway, clock, binding, us, no_recent_reading"`
}

// Threshold is one line in force for a patient, in every unit it is defined in: exact pairs, not conversions.
type Threshold struct {
	Rule       string             `json:"rule"`
	Condition  string             `json:"condition"`
	Indicator  string             `json:"indicator"`
	Component  string             `json:"component"`
	Severity   string             `json:"severity"`
	Op         string             `json:"op" doc:"<, <=, >, >="`
	Thresholds map[string]float64 `json:"thresholds" doc:"UCUM unit to value"`
	For        string             `json:"for,omitempty" doc:"how long it must hold; with none of these one reading is enough"`
	Repeat     int                `json:"repeat,omitempty" doc:"how many readings beyond it are asked for"`
	Of         int                `json:"of,omitempty" doc:"of so many last ones"`
	Within     string             `json:"within,omitempty" doc:"within so long"`
	Source     string             `json:"source,omitempty" doc:"guideline and year, or who set it and why"`
	Title      alerting.Text      `json:"title,omitempty"`
}

// Check is one question of /readyz.
type Check struct {
	Name string
	// Run returns nil when all is well; the error's text is shown to operators and must hold no personal data.
	Run func(ctx context.Context) error
}

// Deps are what the server needs. Fields marked optional may be nil.
type Deps struct {
	Auth       *Auth
	Patients   Patients
	Readings   Readings
	Ledger     Ledger
	Monitor    Monitor
	Quarantine Quarantine
	// Evidence finds messages as they came. Optional.
	Evidence   Evidence
	Pipeline   Pipeline
	DeviceDeps // optional: without them there are no devices to see
	// Commands go down to devices. Optional: nil without a front door of our own.
	Commands Commands
	// Thresholds lists the lines in force for a patient. Optional.
	Thresholds func(ctx context.Context, p *care.Patient) ([]Threshold, error)
	// Coverage says what is watched; latest is what Readings.Latest gave. Optional: then it follows from the readings' age alone.
	Coverage func(ctx context.Context, p *care.Patient, latest []vitals.Reading) ([]Coverage, error)
	// Fresh returns when what other processes changed about people and devices is known; after an error what is known
	// serves. Optional.
	Fresh   func(ctx context.Context) error
	Checks  []Check
	Console http.Handler // optional
	// Registry takes the server's metrics, and is what /metrics shows when it is also a Gatherer.
	Registry *prometheus.Registry
	Now      func() time.Time // optional
	Log      zerolog.Logger
}

// Config says how the server works; the zero value plus DefaultConfig is complete.
type Config struct {
	// Listen is the address as configured: anonymous reading is refused unless it is a loopback address.
	Listen string
	// Anonymous lets people on this machine read without signing in.
	Anonymous bool
	// SecureCookies is for a TLS proxy in front; with our own TLS cookies are secure in any case.
	SecureCookies bool
	// Origins are allowed for the feed and for writing requests besides the server's own host.
	Origins []string
	Version string
}
