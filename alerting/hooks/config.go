// Package hooks sends alerts out of the house: signed webhooks now, other channels later. It owns what an event looks
// like to a receiver, which events a hook hears, the signature, and the guard over the addresses that may be
// connected to. It keeps no state about deliveries: when to send what again is the courier's, in alerting/escalation.
//
// Concurrency: a Webhook and a Set are safe for concurrent use; nothing in them changes after construction.
package hooks

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

// Secret is a webhook secret, "whsec_" and 24 to 64 bytes in base64 (Standard Webhooks 1.0, "Signature scheme"). It
// prints as <secret>.
type Secret string

const shown = "<secret>"

func (Secret) String() string   { return shown }
func (Secret) GoString() string { return shown }

// Format hides the secret whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, shown) }

// MarshalText keeps the secret out of every encoding of a configuration.
func (Secret) MarshalText() ([]byte, error) { return []byte(shown), nil }

func (s Secret) key() ([]byte, error) {
	rest, ok := strings.CutPrefix(string(s), "whsec_")
	if !ok {
		return nil, errors.New("a secret must begin with whsec_")
	}
	key, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		return nil, errors.New("a secret must be whsec_ and standard base64")
	}
	if len(key) < 24 || len(key) > 64 {
		return nil, fmt.Errorf("a secret must hold 24 to 64 bytes, this one has %d; make one with: echo whsec_$(head -c 32 /dev/urandom | base64 -w0)", len(key))
	}
	return key, nil
}

// Detail says how much a body tells.
type Detail string

// Thin bodies carry ids, severity and title, so that whoever wants values reads them through the API, authorised and
// recorded. Full ones add the trigger with its values, the explanation, notes and outcomes.
const (
	Thin Detail = "thin"
	Full Detail = "full"
)

// DefaultEvents are what a hook hears that names none.
var DefaultEvents = []string{"alert.opened", "alert.worsened", "alert.escalated", "alert.acknowledged", "alert.resolved"}

// known are all event types: "alert." and a kind of transition.
var known = func() (out []string) {
	for _, k := range []alerting.Kind{alerting.Opened, alerting.Worsened, alerting.Eased, alerting.AcknowledgedBy, alerting.Snoozed,
		alerting.SignalLost, alerting.SignalBack, alerting.ResolvedBy, alerting.Escalated, alerting.Noted} {
		out = append(out, eventType(k))
	}
	return out
}()

func eventType(k alerting.Kind) string { return "alert." + string(k) }

// Config is one hook, as in the server's configuration.
type Config struct {
	Name       string   `yaml:"name"` // [A-Za-z0-9_-]{1,64}
	URL        string   `yaml:"url"`
	SecretFile string   `yaml:"secret_file"` // one secret a line; every one of them signs, for rotation
	Events     []string `yaml:"events"`      // none: DefaultEvents
	// MinSeverity is the least severity that is told; none: critical.
	MinSeverity alerting.Severity `yaml:"min_severity"`
	Detail      Detail            `yaml:"detail"` // "": thin
	// AllowPrivate permits addresses inside the operator's own network and this machine, and plain http.
	AllowPrivate bool `yaml:"allow_private"`
	// Secrets stand in for SecretFile where the hook is made by a program.
	Secrets []Secret `yaml:"-"`
}

// FieldError is one mistake in a Config.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// Validate returns all mistakes, each a *FieldError, joined. It reads the secret file.
func (c *Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{field, fmt.Sprintf(format, args...)})
	}
	if !vitals.ValidID(c.Name) {
		bad("name", "must match [A-Za-z0-9_-]{1,64}")
	}
	switch u, err := url.Parse(c.URL); {
	case c.URL == "":
		bad("url", "is missing")
	case err != nil || u.Host == "" || u.Hostname() == "":
		bad("url", "must be an address such as https://desk.example/hook") // not shown: a path may be a secret
	default:
		if u.Scheme != "https" && u.Scheme != "http" {
			bad("url", "must begin with https://")
		} else if u.Scheme == "http" && !c.AllowPrivate {
			bad("url", "must begin with https://; plain http needs allow_private: true")
		}
		if u.User != nil {
			bad("url", "must not carry a user or password; the signature says who sent it")
		}
		if u.Fragment != "" {
			bad("url", "must not have a fragment")
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
			if reason := forbidden(ip, c.AllowPrivate); reason != "" {
				bad("url", "points at %s address%s", reason, allowHint(ip, c.AllowPrivate))
			}
		} else if h := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")); !c.AllowPrivate && (h == "localhost" || strings.HasSuffix(h, ".localhost")) {
			bad("url", "points at this machine; allow_private: true permits that")
		}
	}
	if _, err := c.keys(); err != nil {
		bad("secret_file", "%v", err)
	}
	for i, e := range c.Events {
		if !slices.Contains(known, e) {
			bad("events", "%v", &alerting.UnknownNameError{Kind: "event", Name: e, Known: known})
		}
		if slices.Contains(c.Events[:i], e) {
			bad("events", "%q stands twice", e)
		}
	}
	if c.MinSeverity > alerting.Emergency {
		bad("min_severity", "must be info, warning, critical or emergency")
	}
	if c.Detail != "" && c.Detail != Thin && c.Detail != Full {
		bad("detail", "must be thin or full")
	}
	return errors.Join(errs...)
}

func allowHint(ip netip.Addr, allowed bool) string {
	if !allowed && forbidden(ip, true) == "" {
		return "; allow_private: true permits that"
	}
	return ", which no hook may be"
}

// maxSecretFile bounds, in bytes, what is read as secrets.
const maxSecretFile = 4096

// keys are the signing keys, at least one.
func (c *Config) keys() ([][]byte, error) {
	secrets := c.Secrets
	if len(secrets) == 0 {
		if c.SecretFile == "" {
			return nil, errors.New("is missing; put a secret (whsec_…) into a file and name it here")
		}
		f, err := os.Open(c.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("cannot be read: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
		if err != nil {
			return nil, fmt.Errorf("cannot be read: %w", err)
		}
		if len(b) > maxSecretFile {
			return nil, fmt.Errorf("is larger than %d bytes", maxSecretFile)
		}
		for _, s := range strings.Fields(string(b)) {
			secrets = append(secrets, Secret(s))
		}
		if len(secrets) == 0 {
			return nil, errors.New("is empty")
		}
	}
	keys := make([][]byte, len(secrets))
	for i, s := range secrets {
		var err error
		if keys[i], err = s.key(); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
