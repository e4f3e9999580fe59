package mqttd

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"

	"vitalwatch/ingest"
	"vitalwatch/vitals"
)

// Intake takes messages in; ingest.Pipeline is one.
type Intake interface{ NewBatch() Batch }

// IntakeFunc makes an Intake of what makes batches.
type IntakeFunc func() Batch

// NewBatch calls f.
func (f IntakeFunc) NewBatch() Batch { return f() }

// Batch is one group of messages of one device. Batches are pooled here and may be dropped at any time between a
// Commit and the next Add.
type Batch interface {
	// Add reads the payload before it returns; the bytes are overwritten afterwards.
	Add(m ingest.Message)
	// Commit returns one Result per Add, in order, when all of them are durable, and makes the batch ready for the
	// next group; the results are read before the next Add. An error says that nothing of the group may be
	// acknowledged and that the same messages may go well later; the batch is not used again. It gives up when ctx
	// ends.
	Commit(ctx context.Context) ([]ingest.Result, error)
}

// ErrQuota in a Commit error says that there is no room (disk full): 5.0 clients get 0x97 instead of 0x89.
var ErrQuota = errors.New("no room for more readings")

// Authenticator decides who a client is.
type Authenticator interface {
	// Authenticate returns the device whose credential this is, or one of the errors below. It must not keep the
	// password.
	Authenticate(ctx context.Context, l Login) (vitals.DeviceID, error)
}

// Login is what a client shows in CONNECT.
type Login struct {
	ClientID, Username string
	// Assigned: CONNECT had no client id. ClientID is then the user name, or without one a random id that may be let in
	// or refused with ErrNotAuthorized; the device that is returned need not be it.
	Assigned                 bool
	Password                 []byte
	HasUsername, HasPassword bool
	Addr                     netip.Addr           // zero when not known
	TLS                      *tls.ConnectionState // nil without TLS
}

// What an Authenticator may answer; any other error counts as ErrUnavailable.
var (
	ErrBadCredentials = errors.New("user name or password is wrong")      // 0x86, 3.1.1: 4
	ErrNotAuthorized  = errors.New("device may not connect")              // 0x87, 3.1.1: 5
	ErrUnavailable    = errors.New("logins cannot be checked, come back") // 0x88, 3.1.1: 3
)

// StatusSink takes what devices publish on up/status, and their wills. The message is acknowledged after it returns.
// An error that is a *payload.Problem is for good: the device is told and must not send it again. Any other is
// transient: the message is not acknowledged and the device sent away to come back. The payload is read before it
// returns.
type StatusSink interface {
	Status(ctx context.Context, device vitals.DeviceID, payload []byte, at vitals.Micros) error
}

// AckSink takes what devices publish on up/ack, their answers to down/cmd, under the same terms.
type AckSink interface {
	Ack(ctx context.Context, device vitals.DeviceID, payload []byte, at vitals.Micros) error
}

// Topics says what a PUBLISH is that is not on the client's own vw/v1/{client}/up/: a gateway's for one of its
// devices, or a foreign layout that a route knows. It must not block; nil: only own topics.
type Topics interface {
	// Resolve returns for whom and in which format the payload is ("" device: the payload tells, see ingest.Message).
	// The topic's bytes are overwritten afterwards. The errors are ErrForeignTopic and ErrUnknownTopic.
	Resolve(client vitals.DeviceID, topic []byte) (device vitals.DeviceID, format string, err error)
}

// What Topics may answer.
var (
	ErrForeignTopic = errors.New("topic of another device, for which this client may not speak")
	ErrUnknownTopic = errors.New("no route knows this topic")
)
