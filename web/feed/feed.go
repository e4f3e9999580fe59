package feed

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// Subprotocol is the only one spoken (contract section 5).
const Subprotocol = "vitalwatch.v1.json"

// Close codes of contract section 5; 1001 is RFC 6455's "going away".
const (
	CloseAuth      = 4401
	CloseForbidden = 4403
	CloseSlow      = 4408
	CloseRate      = 4429
	CloseShutdown  = 1001
)

// Event is one committed transition of one alert. It must not be changed after it was published.
type Event struct {
	// Seq is the transition's place in the ledger, rising by commit order; holes are allowed.
	Seq     uint64
	Patient string
	Kind    string // "opened", "worsened", …
	At      time.Time
	Actor   string // who did it, "" for the engine
	Alert   any    // the alert after the transition; the dispatcher makes JSON of it, so that publishing stays cheap
}

// Open is one alert that is not resolved.
type Open struct {
	Patient string
	Alert   json.RawMessage
}

// Snapshot is every open alert as of transition Seq, read in one transaction.
type Snapshot struct {
	Seq    uint64
	Alerts []Open
}

// ErrGone says that the transitions asked for are no longer kept.
var ErrGone = errors.New("the transitions since then are no longer kept")

// History is the truth about alerts; the hub only tells it on. All methods may be called concurrently.
type History interface {
	// Epoch names the ledger's line of sequences; it changes only when sequences stop being comparable, such
	// as after a restore. It survives a restart.
	Epoch() string
	// Seq is the last committed transition, 0 before the first. It must not block.
	Seq() uint64
	// Since returns up to limit events after seq, oldest first, with no committed one left out; none when seq
	// is the last. It returns ErrGone when events after seq were trimmed.
	Since(ctx context.Context, seq uint64, limit int) ([]Event, error)
	// Snapshot returns the open alerts in the order to show them.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// Viewer is who is connected, with the rights of the moment; Renew brings a new one when they change.
type Viewer struct {
	// Name is written into the record of acts.
	Name string
	// Credential is equal for all connections of one session or key, so that renewing asks once for all.
	Credential string
	// May says whether the viewer may see a patient; it must be cheap, not block, and deny what it does not
	// know. nil: every patient.
	May func(patient string) bool
	// Scope changes whenever May could answer differently; a viewer whose scope changed gets a new snapshot.
	Scope uint64
	// Principal is the caller's own, handed back to Ack.
	Principal any
}

func (v *Viewer) may(patient string) bool { return v.May == nil || v.May(patient) }

// Errors of Auth.
var (
	// ErrNoCredential: nothing was shown; the client may still send a ticket.
	ErrNoCredential = errors.New("no credential: send an Authorization header or a ticket in the first frame")
	// ErrUnauthorised: what was shown is not valid, or not any more.
	ErrUnauthorised = errors.New("the credential is not valid: sign in again")
	// ErrForbidden: known, but not allowed to do that.
	ErrForbidden = errors.New("not allowed")
)

// Auth says who a client is.
type Auth interface {
	// FromRequest judges bearer header and session cookie of the upgrade request.
	FromRequest(r *http.Request) (Viewer, error)
	// FromTicket redeems a one-time ticket.
	FromTicket(ctx context.Context, ticket string) (Viewer, error)
	// Renew asks again; ErrUnauthorised ends the connection with 4401, other errors are retried.
	Renew(ctx context.Context, v Viewer) (Viewer, error)
}

// Options are constant for the life of a hub. Zero durations and bounds mean the default in brackets.
type Options struct {
	History History
	Auth    Auth
	// Ack acknowledges an alert with the same rules as the API.
	Ack func(ctx context.Context, v Viewer, alert, note string) error
	// Subscribed is told who looks at whom, "" for all permitted patients; nil: nobody is told.
	Subscribed func(ctx context.Context, v Viewer, patient string) error
	// Problem turns an error into a problem+json object; nil: only the errors of this package are explained.
	Problem func(err error) json.RawMessage
	// Origins are allowed besides the server's own host, as "https://desk.example".
	Origins []string
	Metrics prometheus.Registerer // nil: not registered
	Log     zerolog.Logger

	Heartbeat   time.Duration // [15 s] every second one comes with a ping
	AuthTimeout time.Duration // [5 s] from upgrade to a valid ticket
	StallAfter  time.Duration // [7 s] a write that makes no progress for so long closes the client
	Farewell    time.Duration // [1 s] for the goodbye and the close handshake
	RenewEvery  time.Duration // [2 min]
	MaxQueue    int           // [256 KiB] queued bytes per client
	MaxClients  int           // [10,000]
	MaxReplay   uint64        // [10,000] transitions that a resume replays; beyond: gap and snapshot
	RatePerSec  float64       // [10] client frames, with a burst of three seconds
	SendBuffer  int           // [64 KiB] of the socket, so that the kernel does not hide a stalled reader
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Heartbeat, 15*time.Second)
	def(&o.AuthTimeout, 5*time.Second)
	def(&o.StallAfter, 7*time.Second)
	def(&o.Farewell, time.Second)
	def(&o.RenewEvery, 2*time.Minute)
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	num(&o.MaxQueue, 256<<10)
	num(&o.MaxClients, 10_000)
	num(&o.SendBuffer, 64<<10)
	if o.MaxReplay == 0 {
		o.MaxReplay = 10_000
	}
	if o.RatePerSec == 0 {
		o.RatePerSec = 10
	}
	if o.Problem == nil {
		o.Problem = plainProblem
	}
}

// HandshakeError is an upgrade request that is none, or one from a foreign origin.
type HandshakeError struct {
	Status int
	Reason string
}

func (e *HandshakeError) Error() string { return e.Reason }

// plainProblem explains the errors of this package and hides all others.
func plainProblem(err error) json.RawMessage {
	p := struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{"about:blank", "internal error", http.StatusInternalServerError, ""}
	var bad *BadFrameError
	var shake *HandshakeError
	switch {
	case errors.As(err, &shake):
		p.Title, p.Status, p.Detail = "not a feed client", shake.Status, shake.Reason
	case errors.Is(err, errBusy):
		p.Title, p.Status = "busy", http.StatusServiceUnavailable
	case errors.As(err, &bad):
		p.Title, p.Status, p.Detail = "bad frame", http.StatusBadRequest, bad.Error()
	case errors.Is(err, ErrForbidden):
		p.Title, p.Status = "forbidden", http.StatusForbidden
	case errors.Is(err, ErrUnauthorised), errors.Is(err, ErrNoCredential):
		p.Title, p.Status = "unauthorised", http.StatusUnauthorized
	}
	b, _ := json.Marshal(p) // a struct of strings and an int cannot fail
	return b
}
