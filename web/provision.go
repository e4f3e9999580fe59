package web

import (
	"context"
	"encoding/base64"
	"errors"
	"net/netip"
	"time"

	"vitalwatch/devices"
	"vitalwatch/devices/authority"
	"vitalwatch/vitals"
)

// guesses slows down who tries claim codes and credentials: failures per address, and of all together. A code has 50
// bits; with ten failures a second and ten thousand codes out at once, one is hit in about 400 years.
type guesses struct{ byAddress, all *limiter }

func newGuesses() guesses {
	return guesses{newLimiter(30*time.Second, 10, 1<<16), newLimiter(100*time.Millisecond, 200, 1)}
}

// address is what counts as one guesser: an IPv4 address, or the /64 that one IPv6 customer has.
func address(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil {
		return remote
	}
	if a = a.Unmap(); a.Is6() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}

// try runs f when the address may, and counts it when f finds that the credential is none.
func (g *guesses) try(remote string, now time.Time, f func() error) error {
	key := address(remote)
	for _, l := range []struct {
		*limiter
		key string
	}{{g.byAddress, key}, {g.all, ""}} {
		if !l.has(l.key, now) {
			return errTooMany
		}
	}
	err := f()
	if errors.Is(err, devices.ErrBadCode) || errors.Is(err, devices.ErrBadCredentials) {
		g.byAddress.take(key, now)
		g.all.take("", now)
	}
	return err
}

// has reports whether take would succeed, and takes nothing.
func (l *limiter) has(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.keys[key]
	return b == nil || b.tokens+now.Sub(b.at).Seconds()/l.every.Seconds() >= 1
}

// ProvisionOutput is what a device gets; every part of it is shown this once.
type ProvisionOutput struct {
	DeviceID    string `json:"device_id" doc:"client id and user name of MQTT"`
	Secret      string `json:"secret,omitempty" doc:"the password of MQTT"`
	Certificate string `json:"certificate,omitempty" doc:"PEM, for the key of the signing request"`
	Serial      string `json:"serial,omitempty"`
	NotAfter    string `json:"not_after,omitempty" doc:"the certificate's end"`
	RenewAt     string `json:"renew_at,omitempty" doc:"renew from then on, with POST /provision/renew"`
	Topic       string `json:"topic" doc:"publish readings there" example:"vw/v1/cuff-7/up/readings"`
}

func provisioned(id vitals.DeviceID, secret string, c *authority.Certificate) *struct{ Body ProvisionOutput } {
	out := &struct{ Body ProvisionOutput }{ProvisionOutput{DeviceID: string(id), Secret: secret, Topic: "vw/v1/" + string(id) + "/up/readings"}}
	if c != nil {
		out.Body.Certificate, out.Body.Serial, out.Body.NotAfter = c.PEM, c.Serial, stamp(c.NotAfter)
		out.Body.RenewAt = stamp(c.NotAfter.Add(-authority.CertificateLife / 3))
	}
	return out
}

func request(csr string) (*authority.Request, error) {
	if csr == "" {
		return nil, nil
	}
	return authority.ParseRequest([]byte(csr))
}

// recordDevice notes what a device did about its own credentials. By then it is done, and an answer that is withheld
// would be a credential lost; the tables of the registry tell it as well.
func (s *Server) recordDevice(ctx context.Context, act string, id vitals.DeviceID) {
	if err := s.audit.record(ctx, entry{Actor: "device " + string(id), Action: act, Subject: string(id), Remote: remoteIP(requestOf(ctx))}); err != nil {
		s.log.Error().Err(err).Str("device_id", string(id)).Msg("a device's new credential could not be put on the record of access")
	}
}

func provision(s *Server, ctx context.Context, in *struct {
	Body struct {
		Code string `json:"code" maxLength:"40" doc:"the claim code, as it is printed or typed"`
		CSR  string `json:"csr,omitempty" maxLength:"8192" doc:"PKCS #10 in PEM: the device gets a certificate for this key; absent: a secret"`
	}
}) (*struct{ Body ProvisionOutput }, error) {
	if s.d.Devices == nil {
		return nil, errNotFound
	}
	req, err := request(in.Body.CSR)
	if err != nil {
		return nil, deviceProblem(err)
	}
	var p devices.Provisioned
	err = s.guesses.try(remoteIP(requestOf(ctx)), s.now(), func() (err error) {
		p, err = s.d.Devices.Provision(ctx, in.Body.Code, req)
		return err
	})
	if err != nil {
		return nil, deviceProblem(err)
	}
	s.recordDevice(ctx, "device.provision", p.Device)
	return provisioned(p.Device, p.Secret, p.Certificate), nil
}

func renew(s *Server, ctx context.Context, in *struct {
	Body struct {
		CSR         string `json:"csr,omitempty" maxLength:"8192" doc:"PKCS #10 in PEM; absent, with Basic authentication: a new secret"`
		Certificate string `json:"certificate,omitempty" maxLength:"8192" doc:"the one in force, PEM; absent: Basic authentication with device id and secret"`
		Proof       string `json:"proof,omitempty" maxLength:"1400" doc:"for a new key: the present key's signature (SHA-256; Ed25519 plain) over the request in DER, base64; not needed when the request is for the present key"`
	}
}) (*struct{ Body ProvisionOutput }, error) {
	if s.d.Devices == nil {
		return nil, errNotFound
	}
	req, err := request(in.Body.CSR)
	if err != nil {
		return nil, deviceProblem(err)
	}
	var id vitals.DeviceID
	var secret string
	var c *authority.Certificate
	do := func() (err error) {
		name, password, ok := requestOf(ctx).BasicAuth()
		if !ok {
			return devices.ErrBadCredentials
		}
		id = vitals.DeviceID(name)
		if req != nil {
			c, err = s.d.Devices.IssueCertificate(ctx, id, []byte(password), req)
		} else {
			secret, err = s.d.Devices.RenewSecret(ctx, id, []byte(password))
		}
		return err
	}
	if in.Body.Certificate != "" {
		leaf, err := authority.ParseCertificate([]byte(in.Body.Certificate))
		if err != nil {
			return nil, deviceProblem(err)
		}
		proof, err := base64.StdEncoding.DecodeString(in.Body.Proof)
		if err != nil || req == nil {
			return nil, badRequest("a certificate is renewed with a csr; proof is base64")
		}
		do = func() (err error) {
			id, c, err = s.d.Devices.RenewCertificate(ctx, leaf, req, proof)
			return err
		}
	}
	if err := s.guesses.try(remoteIP(requestOf(ctx)), s.now(), do); err != nil {
		return nil, deviceProblem(err)
	}
	s.recordDevice(ctx, "device.renew", id)
	return provisioned(id, secret, c), nil
}
