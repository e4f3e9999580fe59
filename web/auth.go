package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"embed"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"

	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Role is what a principal may do at all; whom it may do it to is decided per patient.
type Role string

// The roles.
const (
	Admin   Role = "admin"   // everything
	Coach   Role = "coach"   // reads and acts, for the patients of the own teams, or all when none are set
	Service Role = "service" // sends readings, reads
	Viewer  Role = "viewer"  // reads
)

// Roles lists all roles.
func Roles() []Role { return []Role{Admin, Coach, Service, Viewer} }

// ability is a bit per kind of request.
type ability uint8

const (
	canRead    ability = 1 << iota // patients, readings, alerts, feed
	canAct                         // acknowledge, snooze, resolve, note
	canIngest                      // POST /readings
	canOperate                     // see the quarantine (replaying is an act): messages whose patient may be unknown
	canAdmin                       // outbox, audit
)

var abilities = map[Role]ability{
	Admin:   canRead | canAct | canIngest | canOperate | canAdmin,
	Coach:   canRead | canAct | canOperate,
	Service: canRead | canIngest | canOperate,
	Viewer:  canRead | canOperate,
}

// Session limits (ASVS 5.0 section 7.3: inactivity and absolute).
const (
	sessionIdle = 12 * time.Hour
	sessionLife = 7 * 24 * time.Hour
	ticketLife  = 30 * time.Second
	maxTickets  = 20_000
)

// argon2id parameters: ASVS 5.0 appendix C, m ≥ 46 MiB, t = 1, p = 1.
const (
	argonTime   = 1
	argonMemory = 47 << 10 // KiB
	argonLanes  = 1
	argonKey    = 32
	minPassword = 8
	maxPassword = 1000 // bytes
)

// Errors of accounts.
var (
	ErrUnauthenticated = errors.New("sign in, or send a valid API key as Authorization: Bearer KEY")
	ErrWrongPassword   = errors.New("name or password is wrong")
	ErrNoAccount       = errors.New("no such account")
	ErrAccountExists   = errors.New("an account of this name exists already")
	ErrAccountInvalid  = errors.New("invalid account")
)

// Principal is who asks. It is read only once made.
type Principal struct {
	Kind  string // "user", "key" or "anonymous"
	ID    string // user name, key id
	Name  string // for the record of acts
	Role  Role
	Teams []string // not empty: only patients of these teams
	// credential identifies session or key for renewal; it is a hash, not the secret.
	credential string
	expires    vitals.Micros // of the session
}

// can reports whether the principal has all the abilities in a. Those that concern whatever patient a message names
// are not for people who see only some.
func (p *Principal) can(a ability) bool {
	if a&(canOperate|canIngest) != 0 && len(p.Teams) > 0 {
		return false
	}
	return abilities[p.Role]&a == a
}

// User is an account of a person.
type User struct {
	Name     string
	Role     Role
	Teams    []string
	Created  time.Time
	Disabled bool
}

// Key is an API key without its secret.
type Key struct {
	ID, Name         string
	Role             Role
	Created, Expires time.Time // zero Expires: never
	LastUsed         time.Time // zero: never; at most a minute old
	Revoked          bool
}

// Auth owns accounts, keys, sessions and tickets.
type Auth struct {
	db  *sqlite.DB
	now func() time.Time
	// hashing bounds the memory of password hashes: 47 MiB each.
	hashing *semaphore.Weighted

	mu      sync.Mutex
	tickets map[string]ticket // by hash
	used    map[string]vitals.Micros
	changed func() // tells the feed that rights have changed; nil before a server runs
}

type ticket struct {
	p       *Principal
	expires time.Time
}

// OpenAuth migrates the account tables.
func OpenAuth(ctx context.Context, db *sqlite.DB) (*Auth, error) {
	fsys, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, "web", fsys); err != nil {
		return nil, err
	}
	return &Auth{db: db, now: time.Now, hashing: semaphore.NewWeighted(2), tickets: map[string]ticket{}, used: map[string]vitals.Micros{}}, nil
}

// SetNow replaces the clock, before use.
func (a *Auth) SetNow(now func() time.Time) { a.now = now }

func (a *Auth) tell() {
	a.mu.Lock()
	f := a.changed
	a.mu.Unlock()
	if f != nil {
		f()
	}
}

func validName(name string) error {
	if name == "" || len(name) > 64 || !utf8.ValidString(name) || name != strings.TrimSpace(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: a name has 1 to 64 bytes, no control characters and no spaces around it", ErrAccountInvalid)
	}
	return nil
}

func validRole(r Role) error {
	if _, ok := abilities[r]; !ok {
		return fmt.Errorf("%w: role %q is unknown; known are admin, coach, service, viewer", ErrAccountInvalid, r)
	}
	return nil
}

func validPassword(name, password string) error {
	switch {
	case utf8.RuneCountInString(password) < minPassword:
		return fmt.Errorf("%w: a password has at least %d characters; 15 or more are better", ErrAccountInvalid, minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("%w: a password has at most %d bytes", ErrAccountInvalid, maxPassword)
	case strings.EqualFold(password, name):
		return fmt.Errorf("%w: the password must not be the name", ErrAccountInvalid)
	case !utf8.ValidString(password):
		return fmt.Errorf("%w: the password is not UTF-8", ErrAccountInvalid)
	}
	return nil
}

// CreateUser adds an account; teams limit a coach to their patients, none means all.
func (a *Auth) CreateUser(ctx context.Context, name, password string, role Role, teams []string) error {
	if err := errors.Join(validName(name), validRole(role), validPassword(name, password)); err != nil {
		return err
	}
	for _, t := range teams {
		if !vitals.ValidID(t) {
			return fmt.Errorf("%w: a team id is 1 to 64 of A-Z a-z 0-9 _ -", ErrAccountInvalid)
		}
	}
	if len(teams) > 0 && role == Admin {
		return fmt.Errorf("%w: an admin sees every patient; leave the teams out or choose another role", ErrAccountInvalid)
	}
	teams = slices.Compact(slices.Sorted(slices.Values(teams)))
	if teams == nil {
		teams = []string{}
	}
	list, err := json.Marshal(teams)
	if err != nil {
		return err
	}
	hash, err := a.hash(ctx, password)
	if err != nil {
		return err
	}
	return a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO web_users (name, hash, role, teams, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING`,
			name, hash, string(role), string(list), int64(vitals.At(a.now())))
		return one(res, err, ErrAccountExists)
	})
}

// one turns "no row was changed" into none.
func one(res sql.Result, err, none error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return none
	}
	return nil
}

// ListUsers returns all accounts by name.
func (a *Auth) ListUsers(ctx context.Context) ([]User, error) {
	rows, err := a.db.Reader().QueryContext(ctx, `SELECT name, role, teams, created_at, disabled_at FROM web_users ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	defer rows.Close()
	var out []User
	for rows.Next() {
		var u User
		var role, teams string
		var created, disabled int64
		if err := rows.Scan(&u.Name, &role, &teams, &created, &disabled); err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		if err := json.Unmarshal([]byte(teams), &u.Teams); err != nil {
			return nil, fmt.Errorf("list users: the teams of an account are damaged: %w", err)
		}
		u.Role, u.Created, u.Disabled = Role(role), vitals.Micros(created).Time(), disabled != 0
		out = append(out, u)
	}
	return out, rows.Err()
}

// DisableUser ends all sessions of an account and lets it sign in no more.
func (a *Auth) DisableUser(ctx context.Context, name string) error {
	err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE web_users SET disabled_at = ? WHERE name = ? AND disabled_at = 0`, int64(vitals.At(a.now())), name)
		if err := one(res, err, ErrNoAccount); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM web_sessions WHERE user_name = ?`, name)
		return err
	})
	if err == nil {
		a.tell()
	}
	return err
}

// SetPassword replaces a password and ends all sessions of the account; a disabled account is enabled again.
func (a *Auth) SetPassword(ctx context.Context, name, password string) error {
	if err := validPassword(name, password); err != nil {
		return err
	}
	hash, err := a.hash(ctx, password)
	if err != nil {
		return err
	}
	err = a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE web_users SET hash = ?, disabled_at = 0 WHERE name = ?`, hash, name)
		if err := one(res, err, ErrNoAccount); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM web_sessions WHERE user_name = ?`, name)
		return err
	})
	if err == nil {
		a.tell()
	}
	return err
}

func (a *Auth) hash(ctx context.Context, password string) (string, error) {
	var salt [16]byte
	rand.Read(salt[:]) // never fails, see crypto/rand
	key, err := a.argon(ctx, password, salt[:], argonTime, argonMemory, argonLanes, argonKey)
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonLanes, b64(salt[:]), b64(key)), nil
}

func (a *Auth) argon(ctx context.Context, password string, salt []byte, t, m uint32, p uint8, n uint32) ([]byte, error) {
	if err := a.hashing.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer a.hashing.Release(1)
	return argon2.IDKey([]byte(password), salt, t, m, p, n), nil
}

// decoy is hashed against when there is no such account, so that both answers take the same time.
const decoy = "$argon2id$v=19$m=48128,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// verify compares a password with a PHC string.
func (a *Auth) verify(ctx context.Context, phc, password string) (bool, error) {
	parts := strings.Split(phc, "$")
	var v int
	var m, t uint32
	var p uint8
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("the stored password hash is damaged: set the password again")
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &v, &m, &t, &p); err != nil || v != argon2.Version || m > 1<<20 || t > 16 || t == 0 || p == 0 {
		return false, errors.New("the stored password hash is damaged: set the password again")
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2); err != nil || len(want) < 16 {
		return false, errors.New("the stored password hash is damaged: set the password again")
	}
	got, err := a.argon(ctx, password, salt, t, m, p, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// Login checks a password and begins a session; token is for the cookie.
func (a *Auth) Login(ctx context.Context, name, password string) (p *Principal, token string, err error) {
	phc, role, teams := decoy, "", "[]"
	var disabled int64
	if len(password) > maxPassword || len(name) > 64 {
		return nil, "", ErrWrongPassword
	}
	err = a.db.Reader().QueryRowContext(ctx, `SELECT hash, role, teams, disabled_at FROM web_users WHERE name = ?`, name).Scan(&phc, &role, &teams, &disabled)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, "", fmt.Errorf("read account: %w", err)
	}
	ok, err := a.verify(ctx, phc, password)
	if err != nil {
		return nil, "", err
	}
	if !ok || !known || disabled != 0 {
		return nil, "", ErrWrongPassword
	}
	var raw [32]byte
	rand.Read(raw[:])
	token = base64.RawURLEncoding.EncodeToString(raw[:])
	now := vitals.At(a.now())
	p = &Principal{Kind: "user", ID: name, Name: name, Role: Role(role), credential: "s:" + digest(token), expires: now.Add(sessionLife)}
	if err := json.Unmarshal([]byte(teams), &p.Teams); err != nil {
		return nil, "", fmt.Errorf("the teams of an account are damaged: %w", err)
	}
	err = a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM web_sessions WHERE expires_at <= ? OR seen_at <= ?`, int64(now), int64(now.Add(-sessionIdle))); err != nil {
			return err
		}
		// The account again: it may have been disabled since.
		res, err := tx.ExecContext(ctx, `INSERT INTO web_sessions (hash, user_name, created_at, seen_at, expires_at)
			SELECT ?, name, ?, ?, ? FROM web_users WHERE name = ? AND disabled_at = 0`, digest(token), int64(now), int64(now), int64(p.expires), name)
		return one(res, err, ErrWrongPassword)
	})
	if err != nil {
		return nil, "", err
	}
	return p, token, nil
}

// Logout ends the session of a token; one that is not there is ended already.
func (a *Auth) Logout(ctx context.Context, token string) error {
	err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM web_sessions WHERE hash = ?`, digest(token))
		return err
	})
	if err == nil {
		a.tell()
	}
	return err
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// session returns who a session belongs to, by the hash of its token.
func (a *Auth) session(ctx context.Context, hash string) (*Principal, error) {
	p := &Principal{Kind: "user", credential: "s:" + hash}
	var role, teams string
	var seen, expires int64
	err := a.db.Reader().QueryRowContext(ctx, `SELECT u.name, u.role, u.teams, s.seen_at, s.expires_at FROM web_sessions s
		JOIN web_users u ON u.name = s.user_name WHERE s.hash = ? AND u.disabled_at = 0`, hash).Scan(&p.ID, &role, &teams, &seen, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrUnauthenticated
	}
	if err != nil {
		return nil, fmt.Errorf("read session: %w", err)
	}
	now := vitals.At(a.now())
	p.Name, p.Role, p.expires = p.ID, Role(role), vitals.Micros(expires)
	if now >= p.expires || now >= a.lastUse(p.credential, vitals.Micros(seen)).Add(sessionIdle) {
		return nil, ErrUnauthenticated
	}
	if err := json.Unmarshal([]byte(teams), &p.Teams); err != nil {
		return nil, fmt.Errorf("the teams of an account are damaged: %w", err)
	}
	return p, nil
}

// lastUse is the later of what is stored and what is still to be stored.
func (a *Auth) lastUse(credential string, stored vitals.Micros) vitals.Micros {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(stored, a.used[credential])
}

// touch notes that a credential was used now; flushUse stores it.
func (a *Auth) touch(p *Principal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.used[p.credential]; ok || len(a.used) < 1<<16 {
		a.used[p.credential] = vitals.At(a.now())
	}
}

// flushUse stores when sessions and keys were last used.
func (a *Auth) flushUse(ctx context.Context) error {
	a.mu.Lock()
	used := a.used
	a.used = map[string]vitals.Micros{}
	a.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for c, at := range used {
			kind, id, _ := strings.Cut(c, ":")
			query := `UPDATE web_sessions SET seen_at = ? WHERE hash = ? AND seen_at < ?`
			if kind == "k" {
				query = `UPDATE web_api_keys SET last_used_at = ? WHERE id = ? AND last_used_at < ?`
			}
			if _, err := tx.ExecContext(ctx, query, int64(at), id, int64(at)); err != nil {
				return fmt.Errorf("store last use: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		a.mu.Lock()
		for c, at := range used {
			a.used[c] = max(a.used[c], at)
		}
		a.mu.Unlock()
	}
	return err
}

// base32 without padding and in lower case: safe in headers, easy to read aloud, no "_" that would end the id.
var keyText = base32.StdEncoding.WithPadding(base32.NoPadding)

// CreateKey makes an API key "vw_<id>_<secret>"; it is returned here and never again. expiry 0: it does not expire.
func (a *Auth) CreateKey(ctx context.Context, name string, role Role, expiry time.Duration) (string, error) {
	if err := errors.Join(validName(name), validRole(role)); err != nil {
		return "", err
	}
	if expiry < 0 {
		return "", fmt.Errorf("%w: the key would have expired already", ErrAccountInvalid)
	}
	var raw [5 + 32]byte
	rand.Read(raw[:])
	id := strings.ToLower(keyText.EncodeToString(raw[:5]))
	secret := strings.ToLower(keyText.EncodeToString(raw[5:]))
	now := vitals.At(a.now())
	var expires vitals.Micros
	if expiry > 0 {
		expires = now.Add(expiry)
	}
	err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO web_api_keys (id, name, hash, role, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)`,
			id, name, digest(secret), string(role), int64(now), int64(expires))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("create key: %w", err)
	}
	return "vw_" + id + "_" + secret, nil
}

// ListKeys returns all keys, oldest first.
func (a *Auth) ListKeys(ctx context.Context) ([]Key, error) {
	rows, err := a.db.Reader().QueryContext(ctx, `SELECT id, name, role, created_at, expires_at, last_used_at, revoked_at FROM web_api_keys ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer rows.Close()
	var out []Key
	for rows.Next() {
		var k Key
		var role string
		var created, expires, used, revoked int64
		if err := rows.Scan(&k.ID, &k.Name, &role, &created, &expires, &used, &revoked); err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		k.Role, k.Created, k.Expires, k.LastUsed, k.Revoked = Role(role), instant(created), instant(expires), instant(used), revoked != 0
		out = append(out, k)
	}
	return out, rows.Err()
}

func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return vitals.Micros(us).Time()
}

// RevokeKey ends a key, by its id.
func (a *Auth) RevokeKey(ctx context.Context, id string) error {
	err := a.db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE web_api_keys SET revoked_at = ? WHERE id = ? AND revoked_at = 0`, int64(vitals.At(a.now())), id)
		return one(res, err, ErrNoAccount)
	})
	if err == nil {
		a.tell()
	}
	return err
}

// key returns who an API key belongs to.
func (a *Auth) key(ctx context.Context, key string) (*Principal, error) {
	rest, ok := strings.CutPrefix(key, "vw_")
	id, secret, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(key) > 200 {
		return nil, ErrUnauthenticated
	}
	p, hash, err := a.keyByID(ctx, id)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(digest(secret)), []byte(hash)) != 1 {
		return nil, ErrUnauthenticated
	}
	return p, nil
}

func (a *Auth) keyByID(ctx context.Context, id string) (p *Principal, hash string, err error) {
	p = &Principal{Kind: "key", ID: id, credential: "k:" + id}
	var role string
	var expires int64
	err = a.db.Reader().QueryRowContext(ctx, `SELECT name, hash, role, expires_at FROM web_api_keys WHERE id = ? AND revoked_at = 0`, id).Scan(&p.Name, &hash, &role, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", ErrUnauthenticated
	}
	if err != nil {
		return nil, "", fmt.Errorf("read key: %w", err)
	}
	p.Role, p.expires = Role(role), vitals.Micros(expires)
	if expires != 0 && vitals.At(a.now()) >= p.expires {
		return nil, "", ErrUnauthenticated
	}
	return p, hash, nil
}

// renew asks again about a principal; ErrUnauthenticated when its credential is of no use any more.
func (a *Auth) renew(ctx context.Context, p *Principal) (*Principal, error) {
	switch kind, id, _ := strings.Cut(p.credential, ":"); kind {
	case "s":
		return a.session(ctx, id)
	case "k":
		q, _, err := a.keyByID(ctx, id)
		return q, err
	case "anonymous":
		return p, nil
	}
	return nil, ErrUnauthenticated
}

// newTicket makes a one-time ticket for the feed, bound to the principal.
func (a *Auth) newTicket(p *Principal) (string, time.Time, error) {
	var raw [32]byte
	rand.Read(raw[:])
	text := base64.RawURLEncoding.EncodeToString(raw[:])
	now := a.now()
	t := ticket{p, now.Add(ticketLife)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tickets) >= maxTickets {
		for h, t := range a.tickets {
			if !now.Before(t.expires) {
				delete(a.tickets, h)
			}
		}
	}
	if len(a.tickets) >= maxTickets {
		return "", time.Time{}, errTooMany
	}
	a.tickets[digest(text)] = t
	return text, t.expires, nil
}

// redeem takes a ticket out of the world and returns whose it was, with the rights of now.
func (a *Auth) redeem(ctx context.Context, text string) (*Principal, error) {
	h := digest(text)
	a.mu.Lock()
	t, ok := a.tickets[h]
	delete(a.tickets, h)
	a.mu.Unlock()
	if !ok || !a.now().Before(t.expires) {
		return nil, ErrUnauthenticated
	}
	return a.renew(ctx, t.p)
}
