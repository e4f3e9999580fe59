package devices

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"vitalwatch/devices/authority"
	"vitalwatch/vitals"
)

// A claim code is ten characters of Crockford's base 32, 50 random bits: short enough to be typed from a letter. It is
// safe because it ends soon, works once, is stored under a key outside the database, and attempts are limited (web).
const (
	codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	codeLen      = 10
)

// Bounds of a claim code's life.
const (
	ClaimValid    = 24 * time.Hour // when nobody says otherwise
	MaxClaimValid = 30 * 24 * time.Hour
	// claimRepeat is how long the same signing request with the same code is answered again: on a bad network the
	// answer may be lost.
	claimRepeat = 10 * time.Minute
	// claimKeep is how long used and expired codes stay in the table.
	claimKeep = 90 * 24 * time.Hour
)

func newCode() string {
	var b [codeLen]byte
	rand.Read(b[:])
	for i := range b {
		b[i] = codeAlphabet[b[i]%32]
	}
	return string(b[:])
}

// FormatCode shows a code as it is printed: XXXXX-XXXXX.
func FormatCode(code string) string { return code[:codeLen/2] + "-" + code[codeLen/2:] }

// ParseCode reads a code as people type it: any case, with or without hyphens and spaces, O for 0, I and L for 1.
func ParseCode(text string) (string, bool) {
	if len(text) > 4*codeLen {
		return "", false
	}
	code := strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(text))
	return code, len(code) == codeLen && strings.Trim(code, codeAlphabet) == ""
}

// NewClaim makes a one-time code with which a device gives itself credentials; an earlier one of the device that was not
// used ends. by says who made it.
func (r *Registry) NewClaim(ctx context.Context, id vitals.DeviceID, valid time.Duration, by string) (code string, expires vitals.Micros, err error) {
	if r.Authority == nil {
		return "", 0, errNoAuthority
	}
	if valid < time.Minute || valid > MaxClaimValid {
		return "", 0, fmt.Errorf("%w: a claim code is valid for 1 minute to %d days", ErrInvalid, MaxClaimValid/(24*time.Hour))
	}
	code = newCode()
	err = r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		expires = now.Add(valid)
		for _, s := range []struct {
			query string
			args  []any
		}{
			{`UPDATE device_claims SET expires_at = $2 WHERE device_id = $1 AND used_at = 0 AND expires_at > $2`, []any{id, now}},
			{`DELETE FROM device_claims WHERE expires_at < $1`, []any{now.Add(-claimKeep)}},
			{`INSERT INTO device_claims (code_mac, device_id, made_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)`,
				[]any{r.Authority.CodeMAC(code), id, by, now, expires}},
		} {
			if _, err := tx.ExecContext(ctx, s.query, s.args...); err != nil {
				return fmt.Errorf("keep a claim code for %s: %w", id, err)
			}
		}
		return nil
	})
	if err != nil {
		return "", 0, err
	}
	return code, expires, nil
}

// Provisioned is what a device gets for a claim code: a secret, or a certificate.
type Provisioned struct {
	Device      vitals.DeviceID
	Secret      string
	Certificate *authority.Certificate
}

// Provision redeems a claim code: with a signing request for a certificate, without (nil) for a secret. Every credential
// that the device had ends: who holds the code is the device from now on. Errors are ErrBadCode and ErrNotAuthorized.
func (r *Registry) Provision(ctx context.Context, text string, req *authority.Request) (Provisioned, error) {
	code, ok := ParseCode(text)
	if !ok || r.Authority == nil {
		return Provisioned{}, ErrBadCode
	}
	mac := r.Authority.CodeMAC(code)
	// Guesses do not get as far as the writer, which alerts wait for.
	var known int
	err := r.db.Reader().QueryRowContext(ctx, `SELECT 1 FROM device_claims WHERE code_mac = $1`, mac).Scan(&known)
	if errors.Is(err, sql.ErrNoRows) {
		return Provisioned{}, ErrBadCode
	}
	if err != nil {
		return Provisioned{}, fmt.Errorf("look a claim code up: %w", err)
	}
	var p Provisioned
	err = r.write(ctx, func(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros) error {
		p = Provisioned{}
		var expires, used, disabled vitals.Micros
		var usedKey string
		if err := tx.QueryRowContext(ctx, `SELECT c.device_id, c.expires_at, c.used_at, c.used_key, d.disabled_at
			FROM device_claims c JOIN devices d ON d.id = c.device_id WHERE c.code_mac = $1`, mac).Scan(&p.Device, &expires, &used, &usedKey, &disabled); err != nil {
			return fmt.Errorf("read a claim code: %w", err)
		}
		switch {
		case used != 0 && req != nil && usedKey == req.PublicKey && now < used.Add(claimRepeat) && disabled == 0:
			var err error
			p.Certificate, err = certificateFor(ctx, tx, p.Device, req.PublicKey, now)
			return err
		case used != 0, expires <= now:
			return ErrBadCode
		case disabled != 0:
			return ErrNotAuthorized
		}
		return r.provision(ctx, tx, rev, now, mac, req, &p)
	})
	if err != nil {
		return Provisioned{}, err
	}
	return p, nil
}

func (r *Registry) provision(ctx context.Context, tx *sql.Tx, rev int64, now vitals.Micros, mac string, req *authority.Request, p *Provisioned) (err error) {
	if err := endAll(ctx, tx, p.Device, now); err != nil {
		return err
	}
	usedKey := ""
	if req != nil {
		usedKey = req.PublicKey
		if p.Certificate, err = r.insertCertificate(ctx, tx, p.Device, req, now); err != nil {
			return err
		}
	} else {
		var hash string
		p.Secret, hash = newSecret()
		if err := insertSecret(ctx, tx, p.Device, hash, now); err != nil {
			return fmt.Errorf("keep the secret of %s: %w", p.Device, err)
		}
	}
	if _, err := tx.ExecContext(ctx, `UPDATE device_claims SET used_at = $2, used_key = $3 WHERE code_mac = $1`, mac, now, usedKey); err != nil {
		return fmt.Errorf("mark a claim code as used: %w", err)
	}
	_, err = tx.ExecContext(ctx, `UPDATE devices SET rev = $2 WHERE id = $1`, p.Device, rev)
	return err
}

// certificateFor is the one that was issued for a key and has not ended.
func certificateFor(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, key string, now vitals.Micros) (*authority.Certificate, error) {
	c := &authority.Certificate{PublicKey: key}
	err := tx.QueryRowContext(ctx, `SELECT serial, pem, not_after FROM device_certificates
		WHERE device_id = $1 AND public_key = $2 AND own = 1 AND ended_at = 0 AND not_after > $3 ORDER BY created_at DESC LIMIT 1`,
		id, key, now).Scan(&c.Serial, &c.PEM, &c.NotAfter)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrBadCode
	}
	if err != nil {
		return nil, fmt.Errorf("read a certificate of %s: %w", id, err)
	}
	return c, nil
}
