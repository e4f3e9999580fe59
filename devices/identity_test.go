package devices_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/devices"
	"vitalwatch/devices/authority"
	"vitalwatch/vitals"
)

// withAuthority gives a house an authority, and the present time: the authority's life begins now.
func withAuthority(t testing.TB, h *house) *house {
	t.Helper()
	a, err := authority.Open(t.TempDir())
	must(t, err)
	h.Authority, h.now = a, vitals.At(time.Now())
	return h
}

type deviceKey struct{ *ecdsa.PrivateKey }

func newKey(t testing.TB) deviceKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return deviceKey{k}
}

func (k deviceKey) request(t testing.TB) *authority.Request {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k.PrivateKey)
	must(t, err)
	r, err := authority.ParseRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	must(t, err)
	return r
}

func leafOf(t testing.TB, c *authority.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := authority.ParseCertificate([]byte(c.PEM))
	must(t, err)
	return leaf
}

// claimed adds a device and gives it a certificate by a claim code.
func (h *house) claimed(t testing.TB, id vitals.DeviceID, k deviceKey) *x509.Certificate {
	t.Helper()
	if h.Find(id) == nil {
		h.add(t, devices.New{ID: id, NoSecret: true})
	}
	code, _, err := h.NewClaim(t.Context(), id, time.Hour, "test")
	must(t, err)
	p, err := h.Provision(t.Context(), code, k.request(t))
	must(t, err)
	return leafOf(t, p.Certificate)
}

func TestProvision_CodeWorksOnceAndEndsWhatWasBefore(t *testing.T) {
	h := withAuthority(t, fresh(t))
	_, old := h.add(t, devices.New{ID: "cuff"})
	login := func(secret string) bool {
		_, err := h.Authenticate("cuff", "cuff", []byte(secret), true, false)
		return err == nil
	}
	first, _, err := h.NewClaim(t.Context(), "cuff", time.Hour, "test")
	must(t, err)
	if !login(old) {
		t.Error("making a code ended the secret")
	}
	second, expires, err := h.NewClaim(t.Context(), "cuff", time.Hour, "test")
	must(t, err)
	if expires != h.now+vitals.Hour {
		t.Errorf("it ends at %v", expires.Time())
	}
	h.now++
	if _, err := h.Provision(t.Context(), first, nil); err != devices.ErrBadCode {
		t.Errorf("a code that another replaced: %v", err)
	}
	p, err := h.Provision(t.Context(), devices.FormatCode(second), nil)
	must(t, err)
	if p.Device != "cuff" || !login(p.Secret) || login(old) {
		t.Errorf("device %q, new secret %v, old secret %v", p.Device, login(p.Secret), login(old))
	}
	if _, err := h.Provision(t.Context(), second, nil); err != devices.ErrBadCode {
		t.Errorf("used twice: %v", err)
	}
	late, _, err := h.NewClaim(t.Context(), "cuff", time.Hour, "test")
	must(t, err)
	h.now += vitals.Hour
	if _, err := h.Provision(t.Context(), late, nil); err != devices.ErrBadCode {
		t.Errorf("expired: %v", err)
	}
	off, _, err := h.NewClaim(t.Context(), "cuff", time.Hour, "test")
	must(t, err)
	must(t, h.SetDisabled(t.Context(), "cuff", true))
	if _, err := h.Provision(t.Context(), off, nil); err != devices.ErrNotAuthorized {
		t.Errorf("disabled: %v", err)
	}
	for _, bad := range []string{"", "0000000000", "AAAAA-AAAAU", second + "0", string(make([]byte, 1000))} {
		if _, err := h.Provision(t.Context(), bad, nil); err != devices.ErrBadCode {
			t.Errorf("code %q: %v", bad, err)
		}
	}
	for _, valid := range []time.Duration{0, -time.Hour, devices.MaxClaimValid + 1} {
		if _, _, err := h.NewClaim(t.Context(), "cuff", valid, ""); !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("valid for %v: %v", valid, err)
		}
	}
}

func TestProvision_ALostAnswerIsRepeatedForTheSameKeyOnly(t *testing.T) {
	h := withAuthority(t, fresh(t))
	h.add(t, devices.New{ID: "cuff", NoSecret: true})
	mine, other := newKey(t), newKey(t)
	code, _, err := h.NewClaim(t.Context(), "cuff", time.Hour, "test")
	must(t, err)
	first, err := h.Provision(t.Context(), code, mine.request(t))
	must(t, err)
	h.now += vitals.Minute
	again, err := h.Provision(t.Context(), code, mine.request(t))
	must(t, err)
	if again.Certificate.PEM != first.Certificate.PEM {
		t.Error("a repeated request got another certificate")
	}
	if _, err := h.Provision(t.Context(), code, other.request(t)); err != devices.ErrBadCode {
		t.Errorf("another key with the used code: %v", err)
	}
	if _, err := h.Provision(t.Context(), code, nil); err != devices.ErrBadCode {
		t.Errorf("a secret with the used code: %v", err)
	}
	h.now += 10 * vitals.Minute
	if _, err := h.Provision(t.Context(), code, mine.request(t)); err != devices.ErrBadCode {
		t.Errorf("repeated much later: %v", err)
	}
}

// Of many who redeem one code at once, one gets something.
func TestProvision_OneOfManyWins(t *testing.T) {
	h := withAuthority(t, fresh(t))
	h.add(t, devices.New{ID: "cuff", NoSecret: true})
	code, _, err := h.NewClaim(t.Context(), "cuff", time.Hour, "test")
	must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []string
	for range 16 {
		wg.Go(func() {
			p, err := h.Provision(t.Context(), code, nil)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, p.Secret)
			} else if err != devices.ErrBadCode {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d redeemed it", len(won))
	}
	if _, err := h.Authenticate("cuff", "cuff", []byte(won[0]), true, false); err != nil {
		t.Errorf("the winner cannot log in: %v", err)
	}
}

func TestParseCode(t *testing.T) {
	for in, want := range map[string]string{"0A1B2-C3D4E": "0A1B2C3D4E", "oa1b2 c3d4e": "0A1B2C3D4E", "0ai l2-c3d4e": "0A112C3D4E", "0A1B2C3D4": "", "0A1B2C3D4EF": "", "0A1B2-C3D4U": "", "血糖": ""} {
		got, ok := devices.ParseCode(in)
		if ok != (want != "") || ok && got != want {
			t.Errorf("ParseCode(%q) = %q, %v", in, got, ok)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("0123456789ABCDEFGHJKMNPQRSTVWXYZ")), 10, 10, -1).Draw(rt, "code")
		if got, ok := devices.ParseCode(devices.FormatCode(text)); !ok || got != text {
			rt.Fatalf("ParseCode(FormatCode(%q)) = %q, %v", text, got, ok)
		}
	})
}

func TestAuthenticateCertificate(t *testing.T) {
	h := withAuthority(t, fresh(t))
	k := newKey(t)
	leaf := h.claimed(t, "cuff", k)
	h.add(t, devices.New{ID: "other"})
	bad, no := devices.ErrBadCredentials, devices.ErrNotAuthorized

	// What the operator's own authority issues, trusted by the TLS listener.
	company := foreign(t, "cuff", 77)
	elsewhere := foreign(t, "nobody", 78)
	unnamed := foreign(t, "a name with blanks", 79)
	// Another server's authority, or a forger, that puts our key id into what it issues: it is not in our list.
	forged := *foreign(t, "cuff", 80)
	forged.AuthorityKeyId = leaf.AuthorityKeyId

	for _, c := range []struct {
		name, client, user string
		leaf               *x509.Certificate
		closed, open       error
	}{
		{"ours", "cuff", "", leaf, nil, nil},
		{"ours, naming itself", "cuff", "cuff", leaf, nil, nil},
		{"another's client id", "other", "", leaf, no, no},
		{"another's user name", "cuff", "other", leaf, no, no},
		{"no client id", "", "cuff", leaf, no, no},
		{"the company's", "cuff", "", company, nil, nil},
		{"the company's, unknown device", "nobody", "", elsewhere, bad, nil},
		{"names no device", "a name with blanks", "", unnamed, bad, bad},
		{"forged key id", "cuff", "", &forged, bad, bad},
	} {
		for _, open := range []bool{false, true} {
			want := c.closed
			if open {
				want = c.open
			}
			id, err := h.AuthenticateCertificate(c.client, c.user, c.leaf, open)
			if err != want || err == nil && string(id) != c.client {
				t.Errorf("%s, open %v: %q, %v, want %v", c.name, open, id, err, want)
			}
		}
	}
	if _, err := h.Authenticate("cuff", "", nil, false, true); err != bad {
		t.Errorf("open registration without password, though it has a certificate: %v", err)
	}
	h.now += vitals.Micros(authority.CertificateLife / time.Microsecond)
	if _, err := h.AuthenticateCertificate("cuff", "", leaf, false); err != bad {
		t.Errorf("after its end: %v", err)
	}
	h.now = vitals.At(time.Now())
	must(t, h.SetDisabled(t.Context(), "cuff", true))
	for _, l := range []*x509.Certificate{leaf, company} {
		if _, err := h.AuthenticateCertificate("cuff", "", l, false); err != no {
			t.Errorf("disabled: %v", err)
		}
	}
	must(t, h.SetDisabled(t.Context(), "cuff", false))
	must(t, h.RevokeCertificate(t.Context(), "cuff", "0x"+authority.Serial(company)))
	if _, err := h.AuthenticateCertificate("cuff", "", company, false); err != bad {
		t.Errorf("the company's, revoked: %v", err)
	}
	if _, err := h.AuthenticateCertificate("cuff", "", leaf, false); err != nil {
		t.Errorf("ours after the other's revocation: %v", err)
	}
	must(t, h.RevokeCertificate(t.Context(), "cuff", authority.Serial(leaf)))
	if _, err := h.AuthenticateCertificate("cuff", "", leaf, false); err != bad {
		t.Errorf("ours, revoked: %v", err)
	}
}

func foreign(t testing.TB, name string, serial int64) *x509.Certificate {
	t.Helper()
	k := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k.PrivateKey)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func TestRenewCertificate(t *testing.T) {
	h := withAuthority(t, fresh(t))
	k := newKey(t)
	c0 := h.claimed(t, "cuff", k)
	good := func(c *x509.Certificate) bool {
		_, err := h.AuthenticateCertificate("cuff", "", c, false)
		return err == nil
	}
	h.now += 60 * vitals.Day
	_, lost, err := h.RenewCertificate(t.Context(), c0, k.request(t), nil)
	must(t, err)
	h.now++
	id, again, err := h.RenewCertificate(t.Context(), c0, k.request(t), nil)
	must(t, err)
	c1, c2 := leafOf(t, lost), leafOf(t, again)
	if id != "cuff" || !good(c0) || good(c1) || !good(c2) {
		t.Errorf("shown %v, lost %v, new %v; want all but the lost", good(c0), good(c1), good(c2))
	}

	// A new key needs the old one's word for it.
	next := newKey(t)
	req := next.request(t)
	if _, _, err := h.RenewCertificate(t.Context(), c2, req, nil); err != devices.ErrBadCredentials {
		t.Errorf("another key without proof: %v", err)
	}
	sum := sha256.Sum256(req.Raw())
	for _, x := range []struct {
		by   deviceKey
		want error
	}{{next, devices.ErrBadCredentials}, {k, nil}} {
		proof, err := x.by.Sign(rand.Reader, sum[:], crypto.SHA256)
		must(t, err)
		if _, _, err := h.RenewCertificate(t.Context(), c2, req, proof); err != x.want {
			t.Errorf("with a proof: %v, want %v", err, x.want)
		}
	}
	if good(c0) {
		t.Error("the one before the one before is still valid")
	}
	must(t, h.RevokeCertificate(t.Context(), "cuff", authority.Serial(c2)))
	if _, _, err := h.RenewCertificate(t.Context(), c2, k.request(t), nil); err != devices.ErrBadCredentials {
		t.Errorf("renewed though revoked: %v", err)
	}
	// The device's own key under our authority's name: the signature tells.
	fake := *foreign(t, "cuff", 5)
	fake.AuthorityKeyId = c2.AuthorityKeyId
	if _, _, err := h.RenewCertificate(t.Context(), &fake, k.request(t), nil); err != devices.ErrBadCredentials {
		t.Errorf("self-signed: %v", err)
	}
}

func TestRenewSecret_KeepsTheOneShown(t *testing.T) {
	h := withAuthority(t, fresh(t))
	_, a := h.add(t, devices.New{ID: "cuff"})
	good := func(s string) bool {
		_, err := h.Authenticate("cuff", "cuff", []byte(s), true, false)
		return err == nil
	}
	b, err := h.RenewSecret(t.Context(), "cuff", []byte(a))
	must(t, err)
	h.now++
	c, err := h.RenewSecret(t.Context(), "cuff", []byte(a)) // b was lost on the way
	must(t, err)
	if !good(a) || good(b) || !good(c) {
		t.Errorf("shown %v, lost %v, new %v", good(a), good(b), good(c))
	}
	h.now += 7 * vitals.Day
	if good(a) || !good(c) {
		t.Errorf("after a week: shown %v, new %v", good(a), good(c))
	}
	if _, err := h.RenewSecret(t.Context(), "cuff", []byte(a)); err != devices.ErrBadCredentials {
		t.Errorf("renewed by an ended one: %v", err)
	}
	k := newKey(t)
	x, err := h.IssueCertificate(t.Context(), "cuff", []byte(c), k.request(t))
	must(t, err)
	if _, err := h.AuthenticateCertificate("cuff", "", leafOf(t, x), false); err != nil || !good(c) {
		t.Errorf("certificate beside the secret: %v, secret %v", err, good(c))
	}
}

// Every change by which a live session may have lost its ground is told, and no other.
func TestSubscribeRevoked(t *testing.T) {
	h := withAuthority(t, fresh(t, "A"))
	k := newKey(t)
	_, secret := h.add(t, devices.New{ID: "cuff"})
	h.add(t, devices.New{ID: "gate"})
	var told []vitals.DeviceID
	defer h.SubscribeRevoked(func(id vitals.DeviceID) { told = append(told, id) })()
	h.EndSessions()
	step := func(name string, want bool, f func() error) {
		t.Helper()
		told = nil
		h.now += vitals.Second
		must(t, f())
		if got := slices.Equal(told, []vitals.DeviceID{"cuff"}); got != want || !got && len(told) > 0 {
			t.Errorf("%s: told of %v, want %v", name, told, want)
		}
	}
	ctx := t.Context()
	var second string
	model := "X"
	step("bind", false, func() error { return h.Bind(ctx, "cuff", 0, "A", 0) })
	step("set", false, func() error { return h.Set(ctx, "cuff", devices.Change{Model: &model}) })
	step("assign", false, func() error { return h.Assign(ctx, "gate", "cuff") })
	step("claim code made", false, func() error { _, _, err := h.NewClaim(ctx, "cuff", time.Hour, ""); return err })
	step("rotate with overlap", false, func() (err error) { second, err = h.Rotate(ctx, "cuff", time.Hour); return err })
	step("rotate again: the first ends", true, func() (err error) { _, err = h.Rotate(ctx, "cuff", time.Hour); return err })
	_ = second
	step("rotate at once", true, func() (err error) { secret, err = h.Rotate(ctx, "cuff", 0); return err })
	step("disable", true, func() error { return h.SetDisabled(ctx, "cuff", true) })
	step("enable", false, func() error { return h.SetDisabled(ctx, "cuff", false) })
	step("certificate beside it", false, func() error { _, err := h.IssueCertificate(ctx, "cuff", []byte(secret), k.request(t)); return err })
	step("revoke all", true, func() error { return h.Revoke(ctx, "cuff") })
	step("revoke nothing more", false, func() error { return h.Revoke(ctx, "cuff") })
	step("first credential: whoever came in without any must go", true, func() (err error) { secret, err = h.Rotate(ctx, "cuff", 0); return err })
	step("a foreign certificate", true, func() error { return h.RevokeCertificate(ctx, "cuff", "4f") })
	step("provision", true, func() error {
		code, _, err := h.NewClaim(ctx, "cuff", time.Hour, "")
		must(t, err)
		_, err = h.Provision(ctx, code, k.request(t))
		return err
	})
	step("time passes", false, func() error { h.EndSessions(); return nil })
	// Its login was checked before the revocation, its session began after: told again, unless it came back.
	step("a login's time later", true, func() error { h.now += 15 * vitals.Second; h.EndSessions(); return nil })
	step("only once", false, func() error { h.now += 15 * vitals.Second; h.EndSessions(); return nil })
	step("the certificate ends by time", true, func() error {
		h.now += vitals.Micros(authority.CertificateLife / time.Microsecond)
		h.EndSessions()
		return nil
	})
	step("rotate with overlap", false, func() (err error) {
		_, err = h.Rotate(ctx, "cuff", time.Hour)
		must(t, err)
		told = nil // the first credential
		_, err = h.Rotate(ctx, "cuff", time.Hour)
		return err
	})
	step("the overlap ends", true, func() error { h.now += vitals.Hour; h.EndSessions(); return nil })
}

// A secret that ended by time is told of whether the sweep sees it or a change of the record takes it away first.
func TestSubscribeRevoked_ByTimeBesideAChange(t *testing.T) {
	for _, change := range []bool{false, true} {
		h := fresh(t, "A")
		h.add(t, devices.New{ID: "cuff"})
		_, err := h.Rotate(t.Context(), "cuff", time.Minute)
		must(t, err)
		h.EndSessions()
		n := 0
		defer h.SubscribeRevoked(func(vitals.DeviceID) { n++ })()
		h.now += vitals.Minute
		if change {
			must(t, h.Bind(t.Context(), "cuff", 0, "A", 0))
		}
		h.EndSessions()
		if n != 1 {
			t.Errorf("change %v: told %d times", change, n)
		}
	}
}

func TestSubscribeRevoked_ALoginAfterwardsIsLeftAlone(t *testing.T) {
	h := fresh(t)
	h.add(t, devices.New{ID: "cuff"})
	h.EndSessions()
	n := 0
	defer h.SubscribeRevoked(func(vitals.DeviceID) { n++ })()
	secret, err := h.Rotate(t.Context(), "cuff", 0)
	must(t, err)
	h.now += vitals.Second
	_, err = h.Authenticate("cuff", "cuff", []byte(secret), true, false)
	must(t, err)
	h.now += 15 * vitals.Second
	h.EndSessions()
	if n != 1 {
		t.Errorf("told %d times, want 1: it came back with the new secret", n)
	}
}

func TestMaySpeakFor(t *testing.T) {
	h := fresh(t)
	for _, id := range []vitals.DeviceID{"gate", "gate-2", "cuff", "scale"} {
		h.add(t, devices.New{ID: id})
	}
	check := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, g := range []vitals.DeviceID{"gate", "gate-2", "cuff"} {
			for _, d := range []vitals.DeviceID{"cuff", "scale", "gate"} {
				if g != d && h.MaySpeakFor(g, d) {
					got = append(got, string(g+">"+d))
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	ctx := t.Context()
	check("at first")
	if !h.MaySpeakFor("cuff", "cuff") {
		t.Error("not for itself")
	}
	must(t, h.Assign(ctx, "gate", "cuff"))
	must(t, h.Assign(ctx, "gate", "cuff"))
	check("assigned", "gate>cuff")
	h.now++
	must(t, h.Assign(ctx, "gate-2", "cuff"))
	must(t, h.Assign(ctx, "gate-2", "scale"))
	check("two gateways", "gate>cuff", "gate-2>cuff", "gate-2>scale")
	h.now++
	must(t, h.Unassign(ctx, "gate", "cuff"))
	check("unassigned", "gate-2>cuff", "gate-2>scale")
	if as := h.Find("cuff").Gateways(); len(as) != 2 || as[1].Gateway != "gate" || as[1].To != h.now {
		t.Errorf("what was is kept: %+v", as)
	}
	for _, err := range []error{h.Unassign(ctx, "gate", "cuff"), h.Assign(ctx, "cuff", "cuff"), h.Assign(ctx, "none", "cuff"), h.Assign(ctx, "gate", "none")} {
		if !errors.Is(err, devices.ErrConflict) && !errors.Is(err, devices.ErrInvalid) && !errors.Is(err, devices.ErrNotFound) {
			t.Errorf("refusal = %v", err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { h.MaySpeakFor("gate-2", "scale"); h.MaySpeakFor("gate", "scale") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A gateway that has devices may bring new ones, a few; others may not.
func TestMaySpeakFor_Strangers(t *testing.T) {
	h := fresh(t)
	for _, id := range []vitals.DeviceID{"gate", "lone", "cuff"} {
		h.add(t, devices.New{ID: id})
	}
	must(t, h.Assign(t.Context(), "gate", "cuff"))
	if h.MaySpeakFor("lone", "new") || h.MaySpeakFor("gate", "new/x") || h.MaySpeakFor("ghost", "new") {
		t.Error("one that is no gateway, or for what is no id")
	}
	n := 0
	for i := range 100 {
		if h.MaySpeakFor("gate", vitals.DeviceID(fmt.Sprintf("new-%d", i))) {
			n++
		}
	}
	if n != 64 || !h.MaySpeakFor("gate", "new-0") || h.MaySpeakFor("gate", "new-99") {
		t.Errorf("%d strangers", n)
	}
	h.add(t, devices.New{ID: "new-0"})
	if h.MaySpeakFor("gate", "new-0") || !h.MaySpeakFor("gate", "new-99") {
		t.Error("one that was registered must be assigned, and makes room for another")
	}
	must(t, h.Unassign(t.Context(), "gate", "cuff"))
	if h.MaySpeakFor("gate", "brand-new") {
		t.Error("a gateway without devices brings none")
	}
	h.OpenRegistration = true
	h.add(t, devices.New{ID: "bare", NoSecret: true})
	if !h.MaySpeakFor("lone", "bare") || !h.MaySpeakFor("lone", "any") || h.MaySpeakFor("lone", "cuff") {
		t.Error("open registration: for devices without credential, as anybody may, and for no others")
	}
}

func TestMaySpeakFor_SurvivesReopeningAndRefresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	server, cli := open(t, path), open(t, path)
	cli.add(t, devices.New{ID: "a-cuff"})
	cli.add(t, devices.New{ID: "gate"})
	must(t, cli.Assign(t.Context(), "gate", "a-cuff"))
	_, err := server.Refresh(t.Context())
	must(t, err)
	for name, h := range map[string]*house{"refreshed": server, "reopened": open(t, path)} {
		if !h.MaySpeakFor("gate", "a-cuff") || !h.MaySpeakFor("gate", "stranger") || h.MaySpeakFor("a-cuff", "gate") {
			t.Errorf("%s: for its device %v, for a stranger %v", name, h.MaySpeakFor("gate", "a-cuff"), h.MaySpeakFor("gate", "stranger"))
		}
	}
}

func TestSet_ReplacesOnlyWhatIsNamed(t *testing.T) {
	h := fresh(t)
	d, secret := h.add(t, devices.New{ID: "cuff", Model: "A", Serial: "1", TZ: "UTC"})
	text := func(s string) *string { return &s }
	must(t, h.Set(t.Context(), "cuff", devices.Change{Serial: text("2"), TZ: text("Asia/Shanghai")}))
	if x := d.Device(); x.Model != "A" || x.Serial != "2" || x.TZ != "Asia/Shanghai" || d.Location().String() != "Asia/Shanghai" {
		t.Errorf("%+v", x)
	}
	if err := h.Set(t.Context(), "cuff", devices.Change{TZ: text("Mars/Base"), Model: text("B")}); !errors.Is(err, devices.ErrInvalid) {
		t.Errorf("bad zone: %v", err)
	}
	if err := h.Set(t.Context(), "none", devices.Change{}); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if x := d.Device(); x.Model != "A" {
		t.Errorf("a refused change changed %+v", x)
	}
	if _, err := h.Authenticate("cuff", "cuff", []byte(secret), true, false); err != nil {
		t.Errorf("the secret is gone: %v", err)
	}
}

func TestStatusHistory(t *testing.T) {
	h := fresh(t)
	h.add(t, devices.New{ID: "cuff"})
	say := func(body string) {
		t.Helper()
		h.now += vitals.Minute
		must(t, h.Status(t.Context(), "cuff", []byte(body), h.now))
	}
	list := func(from, to vitals.Micros, before int64, limit int) (out []string, last int64) {
		t.Helper()
		cs, err := h.StatusHistory(t.Context(), "cuff", from, to, before, limit)
		must(t, err)
		for _, c := range cs {
			out = append(out, fmt.Sprintf("%d %s %d %s", (c.At-start)/vitals.Minute, c.State, c.Battery, c.Firmware))
			last = c.ID
		}
		return out, last
	}
	say(`{"state":"online","battery":90,"firmware":"1.0"}`) // 1
	say(`{"state":"online","battery":85}`)                  // 2: no change worth a line
	say(`{"state":"lost"}`)                                 // 3
	must(t, h.Flush(t.Context()))
	say(`{"state":"online"}`)                  // 4
	say(`{"state":"online","firmware":"1.1"}`) // 5
	say(`{"state":"online","battery":70}`)     // 6
	must(t, h.Flush(t.Context()))
	must(t, h.Flush(t.Context()))
	want := []string{"6 online 70 1.1", "5 online 85 1.1", "4 online 85 1.0", "3 lost 85 1.0", "1 online 90 1.0"}
	got, _ := list(0, 0, 0, 100)
	if !slices.Equal(got, want) {
		t.Errorf("history %q, want %q", got, want)
	}
	page, last := list(0, 0, 0, 2)
	rest, _ := list(0, 0, last, 100)
	if !slices.Equal(append(page, rest...), want) {
		t.Errorf("pages %q + %q", page, rest)
	}
	if got, _ := list(start+3*vitals.Minute, start+5*vitals.Minute, 0, 100); !slices.Equal(got, want[2:4]) {
		t.Errorf("from 3 to 5: %q", got)
	}
	// A flapping device keeps its bound, and in memory too.
	for range 700 {
		say(`{"state":"lost"}`)
		say(`{"state":"online"}`)
		if h.now%(20*vitals.Minute) == start%(20*vitals.Minute) {
			must(t, h.Flush(t.Context()))
		}
	}
	must(t, h.Flush(t.Context()))
	if got, _ := list(0, 0, 0, 10_000); len(got) != 1000 || got[0][len(got[0])-13:] != "online 70 1.1" {
		t.Errorf("%d entries, newest %q", len(got), got[0])
	}
	h.now += 90*vitals.Day - 100*vitals.Minute
	must(t, h.PruneHistory(t.Context()))
	if got, _ := list(0, 0, 0, 10_000); len(got) == 0 || len(got) > 101 {
		t.Errorf("%d entries are younger than 90 days", len(got))
	}
	if _, err := h.StatusHistory(t.Context(), "none", 0, 0, 0, 1); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
}

func TestGive_SurvivesReopeningAndStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	h := open(t, path)
	h.addPatients(t, "A", "B")
	r := vitals.Reading{Device: "cuff", TakenAt: start, Indicator: vitals.Weight, Unit: vitals.Kg}
	r.Set(vitals.Weight.Components()[0], 61.5)
	must(t, h.Give(t.Context(), "A", "coach", []vitals.Reading{r}))
	must(t, h.Give(t.Context(), "B", "coach", []vitals.Reading{r}))
	for name, x := range map[string]*house{"now": h, "reopened": open(t, path)} {
		if p, ok := x.Given("cuff", start, r.ContentHash()); p != "A" || !ok {
			t.Errorf("%s: given to %q, %v; what was said first stays", name, p, ok)
		}
		if p, ok := x.Given("cuff", start+1, r.ContentHash()); ok {
			t.Errorf("%s: another reading given to %q", name, p)
		}
	}
	if err := h.Give(t.Context(), "nobody", "coach", []vitals.Reading{r}); err == nil {
		t.Error("given to nobody")
	}
}

// Filling a gap never changes whose a reading is that had an owner.
func TestBindGap_ChangesNoOwner(t *testing.T) {
	h := fresh(t, "A", "B", "C")
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		id := vitals.DeviceID(fmt.Sprintf("cuff-%d", round))
		h.now = start
		d, _ := h.add(t, devices.New{ID: id, NoSecret: true})
		for range rapid.IntRange(0, 5).Draw(rt, "steps") {
			h.now += vitals.Micros(rapid.IntRange(1, 50).Draw(rt, "wait"))
			slot := rapid.Uint8Range(0, 2).Draw(rt, "slot")
			if rapid.Bool().Draw(rt, "unbind") {
				_ = h.Unbind(t.Context(), id, slot, 0)
			} else {
				must(rt, h.Bind(t.Context(), id, slot, rapid.SampledFrom([]vitals.PatientID{"A", "B"}).Draw(rt, "who"), h.now))
			}
		}
		type place struct {
			slot uint8
			at   vitals.Micros
		}
		before := map[place]vitals.PatientID{}
		for _, slot := range []uint8{0, 1, 2, 255} {
			for at := start - 5; at < start+260; at++ {
				if p, ok := d.Resolve(slot, at); ok {
					before[place{slot, at}] = p
				}
			}
		}
		slot := rapid.SampledFrom([]uint8{0, 1, 2, 255}).Draw(rt, "gap slot")
		at := start + vitals.Micros(rapid.IntRange(-5, 255).Draw(rt, "gap at"))
		_, owned := before[place{slot, at}]
		err := h.BindGap(t.Context(), id, slot, "C", at)
		if (err == nil) == owned {
			rt.Fatalf("BindGap(%d, %d) = %v, owned %v with %+v", slot, at-start, err, owned, d.Bindings())
		}
		if p, _ := d.Resolve(slot, at); err == nil && p != "C" {
			rt.Fatalf("after BindGap the reading is %q's with %+v", p, d.Bindings())
		}
		for x, p := range before {
			if got, _ := d.Resolve(x.slot, x.at); got != p {
				rt.Fatalf("slot %d at %d was %q's and is %q's with %+v", x.slot, x.at-start, p, got, d.Bindings())
			}
		}
	})
}

// go test -bench AuthenticateCertificate ./devices
func BenchmarkRegistry_AuthenticateCertificate(b *testing.B) {
	h := withAuthority(b, fresh(b))
	leaf := h.claimed(b, "cuff", newKey(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.AuthenticateCertificate("cuff", "cuff", leaf, false); err != nil {
			b.Fatal(err)
		}
	}
}

// go test -bench MaySpeakFor ./devices
func BenchmarkRegistry_MaySpeakFor(b *testing.B) {
	h := fresh(b)
	h.add(b, devices.New{ID: "gate"})
	h.add(b, devices.New{ID: "cuff"})
	must(b, h.Assign(b.Context(), "gate", "cuff"))
	b.ReportAllocs()
	for b.Loop() {
		if !h.MaySpeakFor("gate", "cuff") {
			b.Fatal("may not")
		}
	}
}

// A device that comes back: TLS handshake with a client certificate that our authority signed, and the login.
// 10,000 of these must take less than 30 s on two cores; divide by the cores. go test -bench Reconnect ./devices
func BenchmarkReconnect_TLS(b *testing.B) {
	h := withAuthority(b, fresh(b))
	k := newKey(b)
	leaf := h.claimed(b, "cuff", k)
	server := newKey(b)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"door"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, server.Public(), server.PrivateKey)
	must(b, err)
	serverCert, err := x509.ParseCertificate(der)
	must(b, err)
	roots := x509.NewCertPool()
	roots.AddCert(serverCert)
	door := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: server.PrivateKey}}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: h.Authority.Pool()}
	device := &tls.Config{ServerName: "door", RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: k.PrivateKey}}}
	b.ReportAllocs()
	for b.Loop() {
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- tls.Client(far, device).Handshake() }()
		s := tls.Server(near, door)
		must(b, s.Handshake())
		must(b, <-done)
		if _, err := h.AuthenticateCertificate("cuff", "cuff", s.ConnectionState().VerifiedChains[0][0], false); err != nil {
			b.Fatal(err)
		}
		near.Close()
		far.Close()
	}
}
