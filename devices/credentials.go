package devices

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vitalwatch/devices/authority"
	"vitalwatch/vitals"
)

// credentials is what a device may show; a published one never changes.
type credentials struct {
	at      vitals.Micros // when it was read: what had ended by then was told of by the change that ended it
	secrets []secret      // the current one first, then the one in its overlap
	certs   []certificate // oldest first
}

// noCredentials is shared by all devices that have none: with open registration that is all of them.
var noCredentials credentials

// own returns one that may be changed.
func (c *credentials) own() *credentials {
	if c == &noCredentials {
		return new(credentials)
	}
	return c
}

// secret is one credential. Both stay valid during a rotation's overlap.
type secret struct {
	hash      [sha256.Size]byte
	expiresAt vitals.Micros // 0: never
}

func (s *secret) valid(at vitals.Micros) bool { return s.expiresAt == 0 || at < s.expiresAt }

// certificate is one that our authority issued, or one of another that was revoked.
type certificate struct {
	serial            string
	fingerprint       [sha256.Size]byte
	own               bool
	notAfter, endedAt vitals.Micros // 0: not known; not ended
}

func (c *certificate) valid(at vitals.Micros) bool {
	return (c.endedAt == 0 || at < c.endedAt) && (c.notAfter == 0 || at < c.notAfter)
}

// any reports whether the device has a credential to show.
func (c *credentials) any(at vitals.Micros) bool {
	return slices.ContainsFunc(c.secrets, func(s secret) bool { return s.valid(at) }) ||
		slices.ContainsFunc(c.certs, func(x certificate) bool { return x.own && x.valid(at) })
}

// end is when it is no longer taken, 0 for never.
func (c *certificate) end() vitals.Micros {
	if c.endedAt != 0 && (c.notAfter == 0 || c.endedAt < c.notAfter) {
		return c.endedAt
	}
	return c.notAfter
}

// ended reports whether a session that began under old may have lost its ground with now, read at an instant: whichever
// credential it showed, since nobody keeps that. What ended by time up to last has been told of.
func (old *record) ended(now *record, last, at vitals.Micros) bool {
	if now.disabled && !old.disabled || !old.any(at) && now.any(at) {
		return true
	}
	live := func(end, at vitals.Micros) bool { return end == 0 || end > at }
	was := func(end vitals.Micros) bool { return live(end, old.at) && live(end, last) }
	for _, s := range old.secrets {
		if was(s.expiresAt) && !slices.ContainsFunc(now.secrets, func(n secret) bool { return n.hash == s.hash && live(n.expiresAt, at) }) {
			return true
		}
	}
	for _, c := range old.certs {
		if was(c.end()) && !slices.ContainsFunc(now.certs, func(n certificate) bool { return n.serial == c.serial && live(n.end(), at) }) {
			return true
		}
	}
	return slices.ContainsFunc(now.certs, func(c certificate) bool {
		return !c.own && !slices.ContainsFunc(old.certs, func(o certificate) bool { return o.serial == c.serial })
	})
}

// endedWithin reports whether a credential ended by time in (from, to].
func (c *credentials) endedWithin(from, to vitals.Micros) bool {
	in := func(end vitals.Micros) bool { return end > max(from, c.at) && end <= to }
	return slices.ContainsFunc(c.secrets, func(s secret) bool { return in(s.expiresAt) }) ||
		slices.ContainsFunc(c.certs, func(x certificate) bool { return in(x.end()) })
}

// login is a good one: when it was, and when the certificate shown ends, 0 for a secret.
type login struct{ at, until vitals.Micros }

func (h *Handle) loggedIn(at, until vitals.Micros) {
	if h != nil {
		h.needRare().login.Store(&login{at, until})
	}
}

// lastLogin is zero when there was none.
func (h *Handle) lastLogin() login {
	if x := h.rare.Load(); x != nil {
		if l := x.login.Load(); l != nil {
			return *l
		}
	}
	return login{}
}

// newSecret returns 256 random bits as text and the hash that is stored. Hex, so that it never starts with a dash and
// survives every shell.
func newSecret() (text, hash string) {
	var b [32]byte
	rand.Read(b[:]) // crypto/rand never returns an error
	text = hex.EncodeToString(b[:])
	return text, hashSecret([]byte(text))
}

func hashSecret(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Authenticate decides who connects, by contract section 2. A device that has a secret shows it: user name and client id
// are its id, the password is the secret. With open registration one without any credential, known or not, connects with
// its id as client id (and user name, if it sends any) and no password. All else is ErrBadCredentials, in the same time
// whether or not the device exists; ErrNotAuthorized is for those who showed the right secret and still may not.
func (r *Registry) Authenticate(clientID, username string, password []byte, hasPassword bool, open bool) (vitals.DeviceID, error) {
	hasPassword = hasPassword && len(password) > 0
	name := username
	if !hasPassword {
		name = clientID
	}
	rec := &record{credentials: &noCredentials}
	h := r.Find(vitals.DeviceID(name))
	if h != nil {
		rec = h.record.Load()
	}
	now := vitals.At(r.Now())
	sum := sha256.Sum256(password)
	// Always two comparisons, against zeros where there is no secret, so that time tells nothing. A SHA-256 of all
	// zeros is nobody's, and valid only counts for real ones.
	match := 0
	for i := range 2 {
		var s secret
		valid := 0
		if i < len(rec.secrets) && rec.secrets[i].valid(now) {
			s, valid = rec.secrets[i], 1
		}
		match |= valid & subtle.ConstantTimeCompare(sum[:], s.hash[:])
	}
	switch {
	case !vitals.ValidID(name):
		return "", ErrBadCredentials
	case hasPassword && match == 0, !hasPassword && (!open || rec.any(now) || username != "" && username != clientID):
		return "", ErrBadCredentials
	case rec.disabled, clientID != name:
		return "", ErrNotAuthorized
	}
	h.loggedIn(now, 0)
	return vitals.DeviceID(name), nil
}

// AuthenticateCertificate decides for a client that showed a certificate which the TLS listener has verified: the device
// it names is client id and user name, if there is one. A certificate of our own authority must be one that it issued to
// this device and that has not ended; one of another authority that the operator trusts must not be revoked.
func (r *Registry) AuthenticateCertificate(clientID, username string, leaf *x509.Certificate, open bool) (vitals.DeviceID, error) {
	id, ok := authority.DeviceID(leaf)
	if !ok {
		return "", ErrBadCredentials
	}
	now := r.Now()
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return "", ErrBadCredentials
	}
	own := r.Authority != nil && r.Authority.Names(leaf)
	h := r.Find(id)
	switch {
	case h == nil && (own || !open):
		return "", ErrBadCredentials
	case h != nil && !h.record.Load().accepts(leaf, own, vitals.At(now)):
		return "", ErrBadCredentials
	case h != nil && h.Disabled(), clientID != string(id), username != "" && username != string(id):
		return "", ErrNotAuthorized
	}
	h.loggedIn(vitals.At(now), vitals.At(leaf.NotAfter))
	return id, nil
}

func (c *credentials) accepts(leaf *x509.Certificate, own bool, at vitals.Micros) bool {
	if own {
		sum := sha256.Sum256(leaf.Raw)
		return slices.ContainsFunc(c.certs, func(x certificate) bool { return x.own && x.fingerprint == sum && x.valid(at) })
	}
	serial := authority.Serial(leaf)
	return !slices.ContainsFunc(c.certs, func(x certificate) bool { return x.serial == serial && !x.valid(at) })
}

// Rotate gives a device a new secret; the one before stays valid for overlap, earlier ones end now. A device without
// secret gets its first.
func (r *Registry) Rotate(ctx context.Context, id vitals.DeviceID, overlap time.Duration) (text string, err error) {
	text, hash := newSecret()
	err = r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		if err := expireSecrets(ctx, tx, id, now, now.Add(max(overlap, 0))); err != nil {
			return fmt.Errorf("rotate the secret of %s: %w", id, err)
		}
		return insertSecret(ctx, tx, id, hash, now)
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// renewOverlap is how long a secret stays valid after the device has asked for the next.
const renewOverlap = 7 * 24 * time.Hour

// RenewSecret gives a device that shows its secret the next one. The one shown stays valid for a week: the answer may be
// lost, and the device then asks again with it. Any other ends now.
func (r *Registry) RenewSecret(ctx context.Context, id vitals.DeviceID, password []byte) (text string, err error) {
	if _, err := r.Authenticate(string(id), string(id), password, true, false); err != nil {
		return "", err
	}
	text, hash := newSecret()
	err = r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		if _, err := tx.ExecContext(ctx, `UPDATE device_secrets SET expires_at = CASE WHEN hash = $4 THEN $3 ELSE $2 END
			WHERE device_id = $1 AND (expires_at = 0 OR expires_at > CASE WHEN hash = $4 THEN $3 ELSE $2 END)`,
			id, now, now.Add(renewOverlap), hashSecret(password)); err != nil {
			return fmt.Errorf("renew the secret of %s: %w", id, err)
		}
		return insertSecret(ctx, tx, id, hash, now)
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// RenewCertificate gives a device that shows its certificate the next one. The request is for the same key, or proof is
// the old key's signature over it (SHA-256, or plain Ed25519): who repeats an overheard request gains nothing. The one
// shown stays valid to its own end: the answer may be lost. Any other ends now.
func (r *Registry) RenewCertificate(ctx context.Context, leaf *x509.Certificate, req *authority.Request, proof []byte) (vitals.DeviceID, *authority.Certificate, error) {
	if r.Authority == nil {
		return "", nil, ErrBadCredentials
	}
	id, _ := authority.DeviceID(leaf)
	// Names compares two ids that anybody may write; Verify looks at the signature.
	if !r.Authority.Names(leaf) || r.Authority.Verify(leaf, r.Now()) != nil || !req.SameKey(leaf) && !signed(leaf, req.Raw(), proof) {
		return "", nil, ErrBadCredentials
	}
	if _, err := r.AuthenticateCertificate(string(id), "", leaf, false); err != nil {
		return "", nil, err
	}
	c, err := r.issue(ctx, id, req, authority.Serial(leaf))
	return id, c, err
}

func signed(leaf *x509.Certificate, message, proof []byte) bool {
	for _, a := range []x509.SignatureAlgorithm{x509.ECDSAWithSHA256, x509.SHA256WithRSA, x509.PureEd25519} {
		if leaf.CheckSignature(a, message, proof) == nil {
			return true
		}
	}
	return false
}

// IssueCertificate gives a device that shows its secret a certificate beside it. The newest one before stays valid.
func (r *Registry) IssueCertificate(ctx context.Context, id vitals.DeviceID, password []byte, req *authority.Request) (*authority.Certificate, error) {
	if r.Authority == nil {
		return nil, ErrBadCredentials
	}
	if _, err := r.Authenticate(string(id), string(id), password, true, false); err != nil {
		return nil, err
	}
	keep, now := "", vitals.At(r.Now())
	for _, c := range r.Find(id).record.Load().certs {
		if c.own && c.valid(now) {
			keep = c.serial
		}
	}
	return r.issue(ctx, id, req, keep)
}

// issue makes a certificate and ends all others of the device but one.
func (r *Registry) issue(ctx context.Context, id vitals.DeviceID, req *authority.Request, keep string) (c *authority.Certificate, err error) {
	err = r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		if err := endCertificates(ctx, tx, id, now, keep); err != nil {
			return fmt.Errorf("end the certificates of %s: %w", id, err)
		}
		c, err = r.insertCertificate(ctx, tx, id, req, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (r *Registry) insertCertificate(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, req *authority.Request, now vitals.Micros) (*authority.Certificate, error) {
	c, err := r.Authority.Issue(req, id, now.Time())
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO device_certificates (device_id, serial, own, fingerprint, public_key, pem, created_at, not_after)
		VALUES ($1, $2, 1, $3, $4, $5, $6, $7)`, id, c.Serial, hex.EncodeToString(c.Fingerprint[:]), c.PublicKey, c.PEM, now, c.NotAfter)
	if err != nil {
		return nil, fmt.Errorf("keep the certificate of %s: %w", id, err)
	}
	return c, nil
}

func endCertificates(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, now vitals.Micros, keep string) error {
	_, err := tx.ExecContext(ctx, `UPDATE device_certificates SET ended_at = $2
		WHERE device_id = $1 AND own = 1 AND serial <> $3 AND (ended_at = 0 OR ended_at > $2)`, id, now, keep)
	return err
}

// endAll ends every secret and certificate.
func endAll(ctx context.Context, tx *sql.Tx, id vitals.DeviceID, now vitals.Micros) error {
	if err := expireSecrets(ctx, tx, id, now, now); err != nil {
		return fmt.Errorf("end the secrets of %s: %w", id, err)
	}
	if err := endCertificates(ctx, tx, id, now, ""); err != nil {
		return fmt.Errorf("end the certificates of %s: %w", id, err)
	}
	return nil
}

// Revoke ends every credential of a device now, and with them its live session.
func (r *Registry) Revoke(ctx context.Context, id vitals.DeviceID) error {
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error { return endAll(ctx, tx, id, now) })
}

// ParseSerial reads a certificate's serial number as tools print it: hex, perhaps with colons or 0x.
func ParseSerial(text string) (string, error) {
	s := strings.TrimPrefix(strings.NewReplacer(":", "", " ", "").Replace(strings.ToLower(text)), "0x")
	s = strings.TrimLeft(s, "0")
	if s == "" || len(s) > 40 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: a serial number is 1 to 40 hex digits, such as 4f:2a:…", ErrInvalid)
	}
	return s, nil
}

// RevokeCertificate ends one certificate of a device now: one that our authority issued, or one of another authority
// that the operator trusts.
func (r *Registry) RevokeCertificate(ctx context.Context, id vitals.DeviceID, serial string) error {
	serial, err := ParseSerial(serial)
	if err != nil {
		return err
	}
	return r.change(ctx, id, func(ctx context.Context, tx *sql.Tx, now vitals.Micros) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO device_certificates (device_id, serial, own, fingerprint, public_key, pem, created_at, not_after, ended_at)
			VALUES ($1, $2, 0, '', '', '', $3, 0, $3) ON CONFLICT (device_id, serial) DO UPDATE SET ended_at = $3
			WHERE device_certificates.ended_at = 0 OR device_certificates.ended_at > $3`, id, serial, now)
		if err != nil {
			return fmt.Errorf("revoke a certificate of %s: %w", id, err)
		}
		return nil
	})
}

// Credential is one secret or certificate as administration sees it.
type Credential struct {
	Kind    string // "secret" or "certificate"
	Serial  string // of a certificate
	EndsAt  vitals.Micros
	Foreign bool // revoked certificate of another authority
	Ended   bool
}

// Credentials lists what the device may show, and what was revoked and is not over yet.
func (h *Handle) Credentials(at vitals.Micros) []Credential {
	rec := h.record.Load()
	var out []Credential
	for _, s := range rec.secrets {
		out = append(out, Credential{Kind: "secret", EndsAt: s.expiresAt, Ended: !s.valid(at)})
	}
	for _, c := range rec.certs {
		out = append(out, Credential{Kind: "certificate", Serial: c.serial, EndsAt: cmp.Or(c.endedAt, c.notAfter), Foreign: !c.own, Ended: !c.valid(at)})
	}
	return out
}

// revoked remembers for whom a session may have slipped in: one whose login was checked just before the credential ended
// becomes a session just after. Registry.wmu guards it.
type revoked struct {
	again []revocation
	last  vitals.Micros // EndSessions has looked at all ends up to here; 0: never
}

type revocation struct {
	id vitals.DeviceID
	at vitals.Micros
}

// revokedWait is longer than a login may take (mqttd.Config.ConnectTimeout).
const revokedWait = 12 * time.Second

// EndSessions tells the subscribers of SubscribeRevoked whose credentials have ended by time since the last call, and
// once more of those that were revoked a login's time ago and have not logged in since. Run calls it.
func (r *Registry) EndSessions() {
	r.wmu.Lock() // a record that is replaced meanwhile would be looked at by nobody
	now := vitals.At(r.Now())
	x := &r.revoked
	from := cmp.Or(x.last, now)
	x.last = max(now, from)
	var ids []vitals.DeviceID
	x.again = slices.DeleteFunc(x.again, func(v revocation) bool {
		if now < v.at.Add(revokedWait) {
			return false
		}
		if h := r.Find(v.id); h != nil {
			if h.lastLogin().at <= v.at {
				ids = append(ids, v.id)
			}
		}
		return true
	})
	for h := range r.All() {
		if until := h.lastLogin().until; h.record.Load().endedWithin(from, now) || until > from && until <= now {
			ids = append(ids, h.id)
		}
	}
	r.wmu.Unlock()
	slices.Sort(ids)
	r.tell(slices.Compact(ids), true)
}

var errNoAuthority = errors.New("this server has no certificate authority")
