package hooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitalwatch/alerting"
)

// DefaultTimeout bounds one attempt, from the look-up of the name to the end of the answer (Standard Webhooks 1.0
// recommends 15 to 30 s).
const DefaultTimeout = 15 * time.Second

const (
	maxResponse   = 64 << 10           // bytes of an answer that are read
	maxRetryAfter = time.Hour          // a receiver may not silence alerts for longer
	maxBody       = 20_000             // bytes of a body: Standard Webhooks 1.0, "Payload structure": < 20 kB
	connections   = 32                 // per hook; the courier sends fewer at a time
	userAgent     = "vitalwatch-hooks" // no version: who is sent to need not know it
)

// Options for New. The zero value is what a server uses.
type Options struct {
	Timeout  time.Duration    // of an attempt; 0: DefaultTimeout
	Now      func() time.Time // for webhook-timestamp; nil: time.Now
	Resolver *net.Resolver    // nil: the system's
	RootCAs  *x509.CertPool   // nil: the system's
}

// Webhook is one hook: a receiver of signed HTTP requests (Standard Webhooks 1.0).
type Webhook struct {
	name   string
	url    string
	keys   [][]byte
	events []string
	min    alerting.Severity
	detail Detail
	now    func() time.Time
	client *http.Client
}

// New makes a hook of a configuration that Validate accepts.
func New(c Config, o Options) (*Webhook, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("hook %q: %w", c.Name, err)
	}
	keys, err := c.keys()
	if err != nil {
		return nil, fmt.Errorf("hook %q: secret: %w", c.Name, err)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	w := &Webhook{name: c.Name, url: c.URL, keys: keys, events: c.Events, min: c.MinSeverity, detail: c.Detail, now: o.Now}
	if len(w.events) == 0 {
		w.events = DefaultEvents
	}
	if w.min == alerting.None {
		w.min = alerting.Critical
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Resolver: o.Resolver, Control: guard(c.AllowPrivate)}
	w.client = &http.Client{
		Timeout: o.Timeout,
		// A redirect would send health data to an address that nobody configured; the answer itself is the failure.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		// A transport of its own, so that a receiver that hangs holds up no connections of another.
		Transport: &http.Transport{
			Proxy:                  nil, // a proxy from the environment would resolve the name, past the guard
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConnsPerHost:    connections,
			MaxConnsPerHost:        connections,
			IdleConnTimeout:        90 * time.Second, // a warm connection saves a handshake in an emergency
			MaxResponseHeaderBytes: maxResponse,
			DisableCompression:     true, // so that the bound on the answer is one on what it unpacks to
			ForceAttemptHTTP2:      true,
		},
	}
	return w, nil
}

// Name is the hook's name in the configuration.
func (w *Webhook) Name() string { return w.name }

// Close gives up idle connections.
func (w *Webhook) Close() { w.client.CloseIdleConnections() }

// Wants reports whether the hook hears of an event. Openings and worsenings must reach the hook's severity; whatever
// follows is told when the alert has ever reached it, so that who heard of the worst hears of the end.
func (w *Webhook) Wants(e *alerting.Event) bool {
	s := e.Highest
	if e.Transition.Kind == alerting.Opened || e.Transition.Kind == alerting.Worsened {
		s = e.Alert.Severity
	}
	return s >= w.min && slices.Contains(w.events, eventType(e.Transition.Kind))
}

// Deliver returns the delivery of an event that the hook wants.
func (w *Webhook) Deliver(e *alerting.Event) alerting.Delivery {
	return alerting.Delivery{Hook: w.name, Type: eventType(e.Transition.Kind), Body: body(e, w.detail)}
}

// message is the body; docs/hooks.md describes it.
type message struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"` // of the event, RFC 3339 UTC
	Data      data   `json:"data"`
}

type data struct {
	AlertID        string            `json:"alert_id"`
	PatientID      string            `json:"patient_id"`
	Kind           alerting.Nature   `json:"kind"` // clinical or technical
	Rule           alerting.RuleID   `json:"rule"`
	Condition      string            `json:"condition"`
	Severity       alerting.Severity `json:"severity"`
	Highest        alerting.Severity `json:"highest_severity"`
	State          alerting.State    `json:"state"`
	Signal         string            `json:"signal"`
	Transition     alerting.Kind     `json:"transition"`
	Title          alerting.Text     `json:"title"`
	OpenedAt       string            `json:"opened_at"`
	Actor          string            `json:"actor,omitempty"` // who acknowledged, snoozed, resolved
	AcknowledgedBy string            `json:"acknowledged_by,omitempty"`
	AcceptedBy     string            `json:"accepted_by,omitempty"`
	SnoozedUntil   string            `json:"snoozed_until,omitempty"`
	ResolvedAt     string            `json:"resolved_at,omitempty"`
	Seq            uint64            `json:"seq"`

	// Only in full bodies.
	Note        string            `json:"note,omitempty"`
	Outcome     string            `json:"outcome,omitempty"`
	Trigger     *alerting.Trigger `json:"trigger,omitempty"`
	Explanation json.RawMessage   `json:"explanation,omitempty"`
	// Truncated says that something was left out because the body would have been too large.
	Truncated bool `json:"truncated,omitempty"`
}

func body(e *alerting.Event, detail Detail) []byte {
	a, t := &e.Alert, &e.Transition
	m := message{Type: eventType(t.Kind), Timestamp: t.At.Time().Format("2006-01-02T15:04:05.000Z07:00"), Data: data{
		AlertID: a.ID, PatientID: string(a.PatientID), Kind: a.Rule.Nature(), Rule: a.Rule, Condition: a.Condition, Severity: a.Severity, Highest: e.Highest,
		State: a.State, Signal: a.Signal, Transition: t.Kind, Title: a.Title, OpenedAt: a.OpenedAt, Actor: t.Actor,
		AcknowledgedBy: string(a.AcknowledgedBy), AcceptedBy: a.AcceptedBy, SnoozedUntil: string(a.SnoozedUntil), ResolvedAt: string(a.ResolvedAt), Seq: e.Seq}}
	d := &m.Data
	if detail == Full {
		d.Note, d.Outcome, d.Explanation = t.Note, t.Outcome, a.Explanation
		if d.Trigger = t.Trigger; d.Trigger == nil && a.Trigger.ReadingID != "" {
			d.Trigger = &a.Trigger
		}
	}
	// What is longest and least needed goes first; what remains after the last step has no part without a bound
	// except the title, which a rule's author wrote.
	for _, drop := range []func(){
		func() {},
		func() { d.Explanation = nil },
		func() { d.Note, d.Outcome = "", "" },
		func() { d.Trigger = nil },
		func() { d.Title, d.Actor, d.AcknowledgedBy = nil, "", "" },
	} {
		drop()
		b, err := json.Marshal(&m)
		if err == nil && len(b) < maxBody {
			return b
		}
		d.Truncated = true // an explanation that is not JSON is left out like one that is too long
	}
	// Ids alone always fit.
	b, _ := json.Marshal(message{Type: m.Type, Timestamp: m.Timestamp, Data: data{AlertID: a.ID, PatientID: string(a.PatientID), Kind: a.Rule.Nature(),
		Severity: a.Severity, State: a.State, Transition: t.Kind, Seq: e.Seq, Truncated: true}})
	return b
}

// sign returns the webhook-signature header: one signature per key, so that a receiver that knows any of them
// verifies (Standard Webhooks 1.0, "Signature scheme" and "Secret rotation").
func (w *Webhook) sign(id, timestamp string, body []byte) string {
	var out strings.Builder
	for i, key := range w.keys {
		if i > 0 {
			out.WriteByte(' ')
		}
		mac := hmac.New(sha256.New, key)
		io.WriteString(mac, id+"."+timestamp+".")
		mac.Write(body)
		out.WriteString("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return out.String()
}

// Send makes one attempt. An error is always a *alerting.SendError.
func (w *Webhook) Send(ctx context.Context, d *alerting.Delivery) (alerting.Receipt, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(d.Body))
	if err != nil {
		return alerting.Receipt{}, &alerting.SendError{Class: "url_invalid"}
	}
	timestamp := strconv.FormatInt(w.now().Unix(), 10) // of this attempt
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("webhook-id", d.ID)
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", w.sign(d.ID, timestamp, d.Body))
	// An empty value sends no header, but lets the transport repeat the request at once on a fresh connection when
	// the idle one it took had been closed (net/http, Transport).
	req.Header["X-Idempotency-Key"] = []string{}
	resp, err := w.client.Do(req)
	if err != nil {
		return alerting.Receipt{}, &alerting.SendError{Class: class(err)} // the error itself has the address in it
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		io.CopyN(io.Discard, resp.Body, 4096) // a short answer is read to its end so that the connection can stay
		e := &alerting.SendError{Class: "http_" + strconv.Itoa(resp.StatusCode), Gone: resp.StatusCode == http.StatusGone}
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
			e.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), w.now())
		}
		return alerting.Receipt{}, e
	}
	// It has arrived. What the answer says comes on top: an answer that drips, breaks off, is too long or is no
	// JSON is no failure, or the receiver would get it twice.
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil || len(b) > maxResponse {
		return alerting.Receipt{}, nil
	}
	return receipt(b), nil
}

// receipt reads {"receipt":{"accepted_by":"…"}}; anything else is none.
func receipt(b []byte) alerting.Receipt {
	var answer struct {
		Receipt struct {
			AcceptedBy string `json:"accepted_by"`
		} `json:"receipt"`
	}
	if json.Unmarshal(b, &answer) != nil {
		return alerting.Receipt{}
	}
	return alerting.Receipt{AcceptedBy: answer.Receipt.AcceptedBy}
}

// retryAfter reads RFC 9110 section 10.2.3: seconds or a date; 0 when there is neither.
func retryAfter(v string, now time.Time) time.Duration {
	var d time.Duration
	if s, err := strconv.ParseInt(v, 10, 64); err == nil {
		d = time.Duration(min(max(s, 0), int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// class names what went wrong in a fixed word.
func class(err error) string {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, new(errForbidden)):
		return "address_forbidden"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &dns) && !dns.IsTimeout:
		return "dns"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert):
		return "tls"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE):
		return "closed"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "unreachable"
	}
	return "network"
}

// Set is all hooks of a server. It routes an event to the hooks that want it.
type Set []*Webhook

// Open makes the hooks of a configuration; the error joins all mistakes.
func Open(cs []Config, o Options) (Set, error) {
	var set Set
	var errs []error
	names := map[string]bool{}
	for _, c := range cs {
		w, err := New(c, o)
		if err == nil && names[c.Name] {
			err = fmt.Errorf("hook %q: another hook has this name", c.Name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		names[c.Name] = true
		set = append(set, w)
	}
	return set, errors.Join(errs...)
}

// Route returns the deliveries of an event; it is what the ledger asks when it commits one.
func (s Set) Route(e *alerting.Event) []alerting.Delivery {
	var out []alerting.Delivery
	for _, w := range s {
		if w.Wants(e) {
			out = append(out, w.Deliver(e))
		}
	}
	return out
}

// Close gives up idle connections.
func (s Set) Close() {
	for _, w := range s {
		w.Close()
	}
}
